//! Datagrams as clients send them, published and made here, and what can be done to them on purpose.

mod properties;

use aes_gcm::AeadInPlace as _;

use super::{packet::whole_number, *};

/// RFC 9001, A.2, and RFC 9369, A.2: the same ClientHello, in a packet of each version.
const PUBLISHED: [(Version, &str); 2] = [
    (Version::V1, include_str!("tests/rfc9001-a2.hex")),
    (Version::V2, include_str!("tests/rfc9369-a2.hex")),
];
const VERSIONS: [Version; 2] = [Version::V1, Version::V2];
/// The identifier that a client makes up, and the one that the server names in its answer.
const FIRST: &[u8] = b"made up!";
const SERVERS: &[u8] = b"server";

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|digit| digit.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect()
}

fn number(number: usize) -> Vec<u8> {
    match number {
        0..0x40 => vec![number as u8],
        0x40..0x4000 => (number as u16 | 0x4000).to_be_bytes().to_vec(),
        _ => (number as u32 | 0x8000_0000).to_be_bytes().to_vec(),
    }
}

/// A packet that is to be made.
#[derive(Clone, Debug)]
struct Initial<'a> {
    version: Version,
    /// Where it has the keys of another version.
    sealed_as: Option<Version>,
    /// What its keys derive from.
    keys: &'a [u8],
    destination: &'a [u8],
    source: &'a [u8],
    token: &'a [u8],
    number: u64,
    /// Bytes of the number that are sent.
    number_len: usize,
}

impl Default for Initial<'_> {
    fn default() -> Self {
        Self {
            version: Version::V1,
            sealed_as: None,
            keys: FIRST,
            destination: FIRST,
            source: b"client",
            token: b"",
            number: 0,
            number_len: 1,
        }
    }
}

impl Initial<'_> {
    /// The protection of RFC 9001, 5, as a client applies it.
    fn seal(&self, frames: &[u8]) -> Vec<u8> {
        let (version, kind) = match self.version {
            Version::V1 => (1u32, 0),
            Version::V2 => (0x6b33_43cf, 1),
        };
        let mut payload = frames.to_vec();
        // Enough for a sample.
        payload.resize(payload.len().max(4), 0);
        let mut packet = vec![0xc0 | kind << 4 | (self.number_len - 1) as u8];
        packet.extend(version.to_be_bytes());
        packet.push(self.destination.len() as u8);
        packet.extend(self.destination);
        packet.push(self.source.len() as u8);
        packet.extend(self.source);
        packet.extend(number(self.token.len()));
        packet.extend(self.token);
        packet.extend(number(self.number_len + payload.len() + 16));
        let number_at = packet.len();
        packet.extend(&self.number.to_be_bytes()[8 - self.number_len..]);
        let keys = Keys::derive(self.sealed_as.unwrap_or(self.version), self.keys);
        let tag = keys
            .aead
            .encrypt_in_place_detached(&keys.nonce(self.number), &packet, &mut payload)
            .unwrap();
        packet.extend(payload);
        packet.extend(tag);
        let sample = packet[number_at + 4..number_at + 20].try_into().unwrap();
        let mask = keys.mask(sample);
        packet[0] ^= mask[0] & 0x0f;
        for (byte, mask) in packet[number_at..number_at + self.number_len]
            .iter_mut()
            .zip(&mask[1..])
        {
            *byte ^= mask;
        }
        packet
    }
}

/// A packet of the first connection.
fn initial(packet_number: u64, frames: &[u8]) -> Vec<u8> {
    let made = Initial {
        number: packet_number,
        ..Initial::default()
    };
    made.seal(frames)
}

fn crypto(offset: usize, data: &[u8]) -> Vec<u8> {
    [&[6], &*number(offset), &*number(data.len()), data].concat()
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

fn server_name(name: &[u8]) -> (u16, Vec<u8>) {
    (0, with_length(&[&[0], &*with_length(name)].concat()))
}

fn client_hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, data)| [&kind.to_be_bytes(), &*with_length(data)].concat())
        .collect();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(with_length(&extensions));
    let len = (body.len() as u32).to_be_bytes();
    [&[1], &len[1..], &*body].concat()
}

/// As long as with a post-quantum key share.
fn long_hello(name: &str) -> Vec<u8> {
    client_hello(&[(51, vec![9; 1200]), server_name(name.as_bytes())])
}

fn named(name: &str) -> Result<Progress, Unreadable> {
    Ok(Progress::Hello(Hello {
        name: Some(name.to_owned()),
        ..Hello::default()
    }))
}

const MORE: Result<Progress, Unreadable> = Ok(Progress::NeedMore);

fn read(message: &[u8]) -> Result<Progress, Unreadable> {
    Flight::default().add(&initial(0, &crypto(0, message)))
}

#[test]
fn published_packets_are_read() {
    for (version, hex) in PUBLISHED {
        let mut datagram = bytes_of(hex);
        assert_eq!(datagram.len(), 1200);
        assert!(is_initial(&datagram));
        let hello = Hello {
            name: Some("example.com".to_owned()),
            ech: false,
            alpn: vec!["alpn".to_owned()],
        };
        let mut flight = Flight::default();
        assert_eq!(flight.add(&datagram), Ok(Progress::Hello(hello)));
        // Whoever made them made them as these tests do.
        let head = Head::of(&datagram).unwrap();
        let packet = Packet::split(head, &mut &*datagram).unwrap();
        let keys = Keys::derive(version, packet.destination);
        let opened = packet.open(&keys, None).unwrap();
        assert_eq!(opened.number, 2);
        let made = Initial {
            version,
            keys: packet.destination,
            destination: packet.destination,
            source: b"",
            number: 2,
            number_len: 4,
            ..Initial::default()
        };
        assert_eq!(made.seal(&opened.payload), datagram);
        datagram[700] ^= 1;
        assert_eq!(Flight::default().add(&datagram), Err(Unreadable::Sealed));
    }
}

#[test]
fn initial_packets_are_told_from_others() {
    assert!(!is_initial(b""));
    assert!(!is_initial(b"\xc0\0\0\0"));
    // Short header; another version; version negotiation; 0-RTT, Handshake and Retry of both versions.
    for other in [
        b"\x40\0\0\0\x01",
        b"\xc0\xff\0\0\x1d",
        b"\xc0\0\0\0\0",
        b"\xd0\0\0\0\x01",
        b"\xe0\0\0\0\x01",
        b"\xf0\0\0\0\x01",
        b"\xe0\x6b\x33\x43\xcf",
        b"\xf0\x6b\x33\x43\xcf",
        b"\xc0\x6b\x33\x43\xcf",
    ] {
        assert!(!is_initial(other), "{other:?}");
    }
    assert!(is_initial(b"\xc0\0\0\0\x01"));
    assert!(is_initial(b"\xd0\x6b\x33\x43\xcf"));
    // The bit that is always set may not be (RFC 9287).
    assert!(is_initial(b"\x80\0\0\0\x01"));
    // Behind a 0-RTT packet of three bytes.
    assert!(is_initial(b"\xd0\0\0\0\x01\0\0\x03abc\xc0\0\0\0\x01"));
    assert!(!is_initial(b"\xd0\0\0\0\x01\0\0\x04abc"));
}

#[test]
fn a_hello_may_come_in_several_datagrams_in_any_order() {
    let message = long_hello("Api.Example.Com.");
    let (one, two) = message.split_at(1000);
    let pieces = [initial(0, &crypto(0, one)), initial(1, &crypto(1000, two))];
    for order in [[0, 1], [1, 0]] {
        let mut flight = Flight::default();
        assert_eq!(flight.add(&pieces[order[0]]), MORE);
        // Sent again.
        assert_eq!(flight.add(&pieces[order[0]]), MORE);
        assert_eq!(flight.add(&pieces[order[1]]), named("api.example.com"));
        assert_eq!(flight.add(&pieces[order[0]]), named("api.example.com"));
    }
}

#[test]
fn frames_may_be_scrambled_and_have_others_between() {
    let message = long_hello("a.test");
    let mut frames = vec![0, 0, 1];
    let pieces: Vec<usize> = (0..message.len()).step_by(100).collect();
    for at in pieces.iter().rev() {
        let end = (at + 130).min(message.len());
        frames.extend(crypto(*at, &message[*at..end]));
        frames.push(1);
        frames.extend([0; 7]);
    }
    // ACK with one range more, with and without counts of congestion marks; CONNECTION_CLOSE.
    frames.extend([2, 5, 0, 1, 0, 1, 1]);
    frames.extend([3, 0, 0, 0, 0, 1, 2, 3]);
    frames.extend([0x1c, 1, 6, 3, b'b', b'y', b'e']);
    assert_eq!(Flight::default().add(&initial(0, &frames)), named("a.test"));
}

#[test]
fn packets_may_share_a_datagram() {
    let message = long_hello("a.test");
    let (one, two) = message.split_at(700);
    // Of either version, when the server has asked for the other one; a 0-RTT packet between.
    let second = Initial {
        version: Version::V2,
        number: 1,
        number_len: 3,
        ..Initial::default()
    };
    let datagram = [
        &*initial(0, &crypto(0, one)),
        b"\xd0\0\0\0\x01\x08made up!\0\x03abc",
        &second.seal(&crypto(700, two)),
        // What is behind is a packet with a short header, or nothing.
        &[0; 100],
    ]
    .concat();
    assert_eq!(Flight::default().add(&datagram), named("a.test"));
    let stranger = Initial {
        keys: b"another",
        destination: b"another",
        ..Initial::default()
    };
    let mixed = [
        initial(0, &crypto(0, &message)),
        stranger.seal(&crypto(0, &long_hello("b.test"))),
    ]
    .concat();
    assert_eq!(Flight::default().add(&mixed), Err(Unreadable::Mixed));
    // To the same place, and with keys of two connections.
    let [first, other] = [FIRST, SERVERS].map(|keys| Initial {
        keys,
        destination: SERVERS,
        ..Initial::default()
    });
    let mixed = [first.seal(&[1]), other.seal(&crypto(0, &message))].concat();
    let mut flight = Flight::default();
    assert_eq!(flight.add(&initial(0, &[1])), MORE);
    assert_eq!(flight.add(&mixed), Err(Unreadable::Mixed));
    assert_eq!(flight.connections.len(), 1);
}

#[test]
fn the_servers_identifier_changes_no_keys_and_a_retry_does() {
    let message = long_hello("a.test");
    let (one, two) = message.split_at(700);
    let mut flight = Flight::default();
    assert_eq!(flight.add(&initial(0, &crypto(0, one))), MORE);
    let after = Initial {
        destination: SERVERS,
        number: 1,
        ..Initial::default()
    };
    assert_eq!(flight.add(&after.seal(&crypto(700, two))), named("a.test"));
    // In the version that the server likes better, with the keys of the one before.
    let changed = Initial {
        version: Version::V2,
        sealed_as: Some(Version::V1),
        number: 2,
        ..after
    };
    assert_eq!(flight.add(&changed.seal(&[1])), named("a.test"));
    assert_eq!(
        Flight::default().add(&changed.seal(&[1])),
        Err(Unreadable::Sealed)
    );
    // All of it again, as another connection's: the server remembers nothing.
    let retried = Initial {
        keys: SERVERS,
        token: &[5; 100],
        number: 2,
        ..after
    };
    assert_eq!(flight.add(&retried.seal(&crypto(700, two))), MORE);
    assert_eq!(flight.add(&retried.seal(&crypto(0, one))), named("a.test"));
    // One whose beginning was not seen.
    let unknown = Initial {
        destination: b"what",
        keys: b"who knows",
        ..Initial::default()
    };
    assert_eq!(
        flight.add(&unknown.seal(&crypto(0, &message))),
        Err(Unreadable::Sealed)
    );
    assert_eq!(flight.add(&initial(3, &[1])), named("a.test"));
}

#[test]
fn every_connection_of_a_socket_has_its_own_name() {
    let mut flight = Flight::default();
    for (n, id) in [b"one", b"two", b"six", b"ten", b"xyz"].iter().enumerate() {
        let name = format!("{n}.test");
        let made = Initial {
            keys: *id,
            destination: *id,
            ..Initial::default()
        };
        assert_eq!(
            flight.add(&made.seal(&crypto(0, &long_hello(&name)))),
            named(&name)
        );
    }
    assert_eq!(flight.connections.len(), MAX_CONNECTIONS);
    // But those that have said none stay until there is no room.
    let mut flight = Flight::default();
    let last = [b"one", b"two", b"six", b"ten", b"xyz"].map(|id| {
        let made = Initial {
            keys: id,
            destination: id,
            ..Initial::default()
        };
        flight.add(&made.seal(&crypto(0, &long_hello("a.test")[..500])))
    });
    assert_eq!(last, [MORE, MORE, MORE, MORE, Err(Unreadable::TooMuch)]);
    // What was said of any of them is forgotten, so the rest of it means nothing.
    let whole = initial(0, &crypto(0, &long_hello("a.test")));
    assert_eq!(flight.add(&whole), Err(Unreadable::TooMuch));
}

#[test]
fn two_things_at_one_place_are_unreadable_ever_after() {
    let (one, other) = (long_hello("good.test"), long_hello("evil.test"));
    let at_once = [crypto(0, &one), crypto(0, &other)].concat();
    let mut flight = Flight::default();
    assert_eq!(flight.add(&initial(0, &at_once)), Err(Unreadable::Conflict));
    assert_eq!(flight.add(&initial(1, &[1])), Err(Unreadable::Conflict));
    // In another packet, also when the name was told, and where only one byte of them overlaps.
    let mut flight = Flight::default();
    assert_eq!(
        flight.add(&initial(0, &crypto(0, &one))),
        named("good.test")
    );
    let end = other.len() - 9;
    let late = crypto(end, &other[end..]);
    assert_eq!(flight.add(&initial(1, &late)), Err(Unreadable::Conflict));
    assert_eq!(
        flight.add(&initial(2, &crypto(0, &one))),
        Err(Unreadable::Conflict)
    );
}

#[test]
fn a_second_hello_says_the_same_name() {
    let first = client_hello(&[server_name(b"a.test")]);
    let second = client_hello(&[server_name(b"a.test"), (44, vec![0; 40])]);
    let other = client_hello(&[server_name(b"b.test")]);
    let mut flight = Flight::default();
    assert_eq!(flight.add(&initial(0, &crypto(0, &first))), named("a.test"));
    let again = crypto(first.len(), &second);
    assert_eq!(flight.add(&initial(1, &again)), named("a.test"));
    let third = crypto(first.len() + second.len(), &other);
    assert_eq!(flight.add(&initial(2, &third)), Err(Unreadable::Conflict));
}

#[test]
fn a_packet_that_two_keys_open_is_unreadable() {
    // As if the one had been made so that both do: a connection that is known by two identifiers.
    let mut flight = Flight::default();
    let frames = crypto(0, &long_hello("a.test"));
    flight.add(&initial(0, &frames)).unwrap();
    flight.connections.push(Connection {
        id: SERVERS.to_vec(),
        v1: OnceLock::from(Keys::derive(Version::V1, FIRST)),
        ..Connection::new(FIRST)
    });
    assert_eq!(flight.add(&initial(0, &frames)), Err(Unreadable::TwoKeys));
}

#[test]
fn names_are_told_as_those_over_tcp() {
    let ech = (0xfe0d, vec![0; 200]);
    let told = |extensions: &[(u16, Vec<u8>)]| match read(&client_hello(extensions)) {
        Ok(Progress::Hello(hello)) => (hello.name, hello.ech),
        other => panic!("{other:?}"),
    };
    let name = |name: &str| Some(name.to_owned());
    assert_eq!(told(&[]), (None, false));
    assert_eq!(told(std::slice::from_ref(&ech)), (None, true));
    assert_eq!(
        told(&[server_name(b"front.test"), ech]),
        (name("front.test"), true)
    );
    // The first one counts, also when there are two in one extension.
    let two = [server_name(b"a.test"), server_name(b"b.test")];
    assert_eq!(told(&two), (name("a.test"), false));
    let list = [
        &[0][..],
        &with_length(b"a.test"),
        &[0],
        &with_length(b"b.test"),
    ]
    .concat();
    assert_eq!(told(&[(0, with_length(&list))]), (name("a.test"), false));
    // No name, or one of another type, is none; the next extension may have one.
    let other = (0, with_length(&[&[1], &*with_length(b"a.test")].concat()));
    for none in [
        server_name(b""),
        server_name(&[b'a'; 256]),
        other,
        (0, vec![]),
    ] {
        assert_eq!(told(std::slice::from_ref(&none)), (None, false));
        assert_eq!(
            told(&[none, server_name(b"b.test")]),
            (name("b.test"), false)
        );
    }
    // What is no host's name is one all the same, and no name server has given it.
    assert_eq!(
        told(&[server_name(b"a\0\xe9.Test")]),
        (name("a\\x00\\xe9.test"), false)
    );
    assert_eq!(told(&[server_name(&[b'a'; 255])]).0.unwrap().len(), 255);
    // A name that is longer than its extension says, and an extension longer than all of them.
    let mut cut = client_hello(&[server_name(b"a.test")]);
    let size = cut.len() - 12;
    cut[size] = 3;
    assert_eq!(read(&cut), named("a.test"));
    cut[size - 1] = 3;
    assert_eq!(read(&cut), named("a.test"));
}

#[test]
fn protocols_are_told() {
    let list = with_length(b"\x02h3\x05h3-29\x01\xff");
    let Ok(Progress::Hello(hello)) = read(&client_hello(&[(16, list)])) else {
        panic!("it is whole");
    };
    assert_eq!(hello.alpn, ["h3", "h3-29", "\\xff"]);
    let many = with_length(&b"\x01a".repeat(1000));
    let Ok(Progress::Hello(hello)) = read(&client_hello(&[(16, many)])) else {
        panic!("it is whole");
    };
    assert_eq!(hello.alpn.len(), 16);
}

#[test]
fn what_makes_no_sense_is_unreadable() {
    let message = client_hello(&[server_name(b"a.test")]);
    // Frames that servers or later packets have, and some that are cut.
    for frames in [
        &[0x08, 0, 0, 0][..],
        &[0x1d, 0, 0, 0],
        &[0x1e, 0, 0, 0],
        &[6, 0, 40, 1],
        &[0, 0, 0, 6],
        &[2, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0],
    ] {
        let mut flight = Flight::default();
        assert_eq!(
            flight.add(&initial(0, frames)),
            Err(Unreadable::Frame),
            "{frames:?}"
        );
    }
    // Another message, at once; one that ends before its extensions; one that is longer than what is kept.
    assert_eq!(read(&[2]), Err(Unreadable::Hello));
    assert_eq!(read(&[1, 0, 0, 3, 3, 3, 0]), Err(Unreadable::Hello));
    assert_eq!(read(&[1, 0, 0x40, 0]), Err(Unreadable::TooMuch));
    assert_eq!(read(&[1, 0, 0x3f, 0xfc]), MORE);
    for offset in [MAX_CRYPTO, 0x3fff_fff0] {
        let far = crypto(offset, b"far");
        let mut flight = Flight::default();
        assert_eq!(flight.add(&initial(0, &far)), Err(Unreadable::TooMuch));
    }
    // A packet that is cut is not read, wherever that is.
    let whole = initial(0, &crypto(0, &message));
    for len in 5..whole.len() {
        let mut flight = Flight::default();
        assert_eq!(flight.add(&whole[..len]), Err(Unreadable::Packet), "{len}");
    }
    // One that is too short to have a sample, and one that says it is shorter than it is.
    assert_eq!(
        Flight::default().add(b"\xc0\0\0\0\x01\0\0\0\x05abcde"),
        Err(Unreadable::Sealed)
    );
    // An identifier that is too long.
    let long = Initial {
        destination: &[1; 21],
        ..Initial::default()
    };
    assert_eq!(
        Flight::default().add(&long.seal(&[1])),
        Err(Unreadable::Packet)
    );
    // What has nothing to do with it.
    for other in [&b""[..], b"GET / HTTP/1.1", &[0x40; 50], &[0xff; 50]] {
        assert_eq!(Flight::default().add(other), MORE);
    }
}

#[test]
fn datagrams_of_one_hello_are_counted() {
    let message = long_hello("a.test");
    let mut flight = Flight::default();
    for n in 0..MAX_DATAGRAMS {
        let piece = crypto(n, &message[n..=n]);
        assert_eq!(flight.add(&initial(n as u64, &piece)), MORE);
    }
    let rest = initial(16, &crypto(0, &message));
    assert_eq!(flight.add(&rest), Err(Unreadable::TooMuch));
    // Once it is whole, what else the client sends is not.
    let mut flight = Flight::default();
    for n in 0..100 {
        assert_eq!(
            flight.add(&initial(n, &crypto(0, &message))),
            named("a.test")
        );
    }
}

#[test]
fn packet_numbers_are_made_whole() {
    // RFC 9000, A.3.
    assert_eq!(whole_number(0x9b32, 2, Some(0xa82f_30ea)), 0xa82f_9b32);
    assert_eq!(whole_number(0, 1, None), 0);
    assert_eq!(whole_number(0xff, 1, None), 0xff);
    assert_eq!(whole_number(1, 1, Some(0xff)), 0x101);
    assert_eq!(whole_number(0xff, 1, Some(0x101)), 0xff);
    for number_len in 1..=4 {
        let message = long_hello("a.test");
        let mut flight = Flight::default();
        for n in [0, 100, 200, 300] {
            let made = Initial {
                number: n,
                number_len,
                ..Initial::default()
            };
            assert_eq!(
                flight.add(&made.seal(&crypto(0, &message))),
                named("a.test")
            );
        }
    }
}
