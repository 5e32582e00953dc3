//! Whatever comes, in whatever pieces.

use proptest::prelude::*;

use super::*;

fn version() -> impl Strategy<Value = Version> {
    prop::sample::select(VERSIONS.to_vec())
}

proptest! {
    #[test]
    fn however_it_is_cut_and_mixed_the_name_is_the_same(
        version in version(),
        cuts in prop::collection::vec(0usize..1250, 0..30),
        overlap in 0usize..50,
        order in any::<prop::sample::Index>(),
        number_len in 1usize..=4,
        datagrams in 1usize..8,
    ) {
        let message = long_hello("a.test");
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(message.len())).collect();
        cuts.extend([0, message.len()]);
        cuts.sort_unstable();
        let mut frames: Vec<Vec<u8>> = cuts
            .windows(2)
            .map(|ends| {
                let end = (ends[1] + overlap).min(message.len());
                crypto(ends[0], &message[ends[0]..end])
            })
            .collect();
        let middle = order.index(frames.len());
        frames.rotate_left(middle);
        let mut flight = Flight::default();
        let mut last = MORE;
        for (n, some) in frames.chunks(frames.len().div_ceil(datagrams)).enumerate() {
            let made = Initial { version, number: n as u64, number_len, ..Initial::default() };
            last = flight.add(&made.seal(&some.concat()));
            prop_assert!(last.is_ok());
        }
        prop_assert_eq!(last, named("a.test"));
    }

    #[test]
    fn arbitrary_datagrams_do_not_panic(
        datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
        version in version(),
    ) {
        let head: &[u8] = match version {
            Version::V1 => b"\xc0\0\0\0\x01",
            Version::V2 => b"\xd0\x6b\x33\x43\xcf",
        };
        let mut flight = Flight::default();
        for datagram in datagrams {
            is_initial(&datagram);
            let _ = flight.add(&datagram);
            let datagram = [head, &datagram].concat();
            prop_assert!(is_initial(&datagram));
            let _ = flight.add(&datagram);
        }
    }

    #[test]
    fn arbitrary_frames_and_messages_do_not_panic_and_are_bounded(
        packets in prop::collection::vec(
            (0usize..6, 0usize..20_000, prop::collection::vec(any::<u8>(), 0..300), 0u8..3),
            0..30,
        ),
    ) {
        let ids: [&[u8]; 6] = [b"one", b"two", b"six", b"ten", b"xyz", b""];
        let mut flight = Flight::default();
        for (n, (id, offset, bytes, how)) in packets.into_iter().enumerate() {
            let made = Initial {
                keys: ids[id],
                destination: ids[id],
                number: n as u64,
                ..Initial::default()
            };
            let frames = match how {
                0 => bytes,
                1 => crypto(offset, &bytes),
                _ => {
                    let mut message = client_hello(&[(0, bytes.clone()), (16, bytes)]);
                    let at = offset % message.len();
                    message[at] = n as u8;
                    crypto(0, &message)
                }
            };
            let _ = flight.add(&made.seal(&frames));
            prop_assert!(flight.connections.len() <= MAX_CONNECTIONS);
            let kept: usize = flight.connections.iter().map(|it| it.handshake.kept()).sum();
            prop_assert!(kept <= MAX_CRYPTO);
        }
    }
}
