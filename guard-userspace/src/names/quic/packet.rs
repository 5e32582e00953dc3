//! Packets in a datagram, and the protection of Initial packets.

use std::fmt;

use aes_gcm::{
    AeadInPlace as _, Aes128Gcm, KeyInit as _,
    aes::{Aes128, cipher::BlockEncrypt as _},
};
use hkdf::Hkdf;
use sha2::Sha256;

use super::bytes::Bytes;

/// Long header: RFC 9000, 17.2.
const LONG: u8 = 0x80;
/// The longest identifier of a connection: RFC 9000, 17.2. A server drops what has a longer one.
const MAX_ID: usize = 20;
/// What a packet is authenticated by comes last: RFC 9001, 5.3.
const TAG: usize = 16;
/// Bytes of a packet number; those of the sample begin as if it were the longest: RFC 9001, 5.4.2.
const MAX_NUMBER: usize = 4;
/// See [`MAX_NUMBER`].
const SAMPLE: usize = 16;

/// A version of QUIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// RFC 9000, 15.
    V1,
    /// RFC 9369, 3.1.
    V2,
}

impl Version {
    fn of(number: u32) -> Option<Self> {
        match number {
            0x0000_0001 => Some(Self::V1),
            0x6b33_43cf => Some(Self::V2),
            _ => None,
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::V1 => Self::V2,
            Self::V2 => Self::V1,
        }
    }

    /// RFC 9001, 5.2; RFC 9369, 3.3.1.
    const fn salt(self) -> [u8; 20] {
        match self {
            Self::V1 => [
                0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8,
                0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a,
            ],
            Self::V2 => [
                0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26,
                0x9d, 0xcb, 0xf9, 0xbd, 0x2e, 0xd9,
            ],
        }
    }

    /// Labels of key, initialization vector and header protection key: RFC 9001, 5.1; RFC 9369, 3.3.2.
    const fn labels(self) -> [&'static [u8]; 3] {
        match self {
            Self::V1 => [b"quic key", b"quic iv", b"quic hp"],
            Self::V2 => [b"quicv2 key", b"quicv2 iv", b"quicv2 hp"],
        }
    }
}

/// Kinds of packets with a long header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first ones, in either direction.
    Initial,
    /// 0-RTT and Handshake: nobody can read these.
    Other,
}

/// How a packet begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) version: Version,
    pub(super) kind: Kind,
}

impl Head {
    /// `None` for what is no packet with a long header of these versions, and for a Retry packet, which only servers
    /// send and behind which there is nothing. The bit that is always set is not looked at: a client may clear it
    /// (RFC 9287, 3.1).
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let (&first, rest) = bytes.split_first()?;
        if first & LONG == 0 {
            return None;
        }
        let version = Version::of(u32::from_be_bytes(*rest.first_chunk()?))?;
        // RFC 9000, 17.2, table 5; RFC 9369, 3.2.
        let kind = match (version, first >> 4 & 3) {
            (Version::V1, 0) | (Version::V2, 1) => Kind::Initial,
            (Version::V1, 3) | (Version::V2, 0) => return None,
            _ => Kind::Other,
        };
        Some(Self { version, kind })
    }
}

/// A packet with a long header: RFC 9000, 17.2.2 to 17.2.4.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) head: Head,
    /// Destination Connection ID.
    pub(super) destination: &'a [u8],
    /// All of it.
    bytes: &'a [u8],
    /// Where the packet number is.
    number_at: usize,
}

/// What was in an Initial packet.
#[derive(Debug)]
pub(super) struct Opened {
    /// The packet's number.
    pub(super) number: u64,
    /// Frames.
    pub(super) payload: Vec<u8>,
}

impl<'a> Packet<'a> {
    /// Takes a packet that begins with `head` from the beginning of a datagram's rest; `None` where it is not whole.
    pub(super) fn split(head: Head, rest: &mut &'a [u8]) -> Option<Self> {
        let mut bytes = Bytes(rest);
        // First byte and version.
        bytes.take(5)?;
        let destination = bytes.short()?;
        let source = bytes.short()?;
        if destination.len() > MAX_ID || source.len() > MAX_ID {
            return None;
        }
        if head.kind == Kind::Initial {
            // The token of a Retry packet or of an earlier connection.
            bytes.piece()?;
        }
        let len = usize::try_from(bytes.number()?).ok()?;
        let number_at = rest.len() - bytes.0.len();
        bytes.take(len)?;
        let (packet, behind) = rest.split_at(number_at + len);
        *rest = behind;
        Some(Self {
            head,
            destination,
            bytes: packet,
            number_at,
        })
    }

    /// Takes the protection away (RFC 9001, 5.3 and 5.4). `largest`: of the numbers of the connection's packets. `None`
    /// where these are not the keys.
    pub(super) fn open(&self, keys: &Keys, largest: Option<u64>) -> Option<Opened> {
        let mut behind = Bytes(self.bytes.get(self.number_at + MAX_NUMBER..)?);
        let mask = keys.mask(behind.take(SAMPLE)?.try_into().ok()?);
        let first = self.bytes.first()? ^ mask[0] & 0x0f;
        let len = usize::from(first & 3) + 1;
        let mut header = self.bytes.get(..self.number_at + len)?.to_vec();
        *header.first_mut()? = first;
        let mut short = 0;
        for (byte, mask) in header.iter_mut().skip(self.number_at).zip(&mask[1..]) {
            *byte ^= mask;
            short = short << 8 | u64::from(*byte);
        }
        let number = whole_number(short, len, largest);
        let sealed = self.bytes.get(self.number_at + len..)?;
        let (payload, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG)?)?;
        let mut payload = payload.to_vec();
        keys.aead
            .decrypt_in_place_detached(&keys.nonce(number), &header, &mut payload, tag.into())
            .ok()?;
        Some(Opened { number, payload })
    }
}

/// The packet number of which the last `len` bytes were sent: RFC 9000, A.3.
pub(super) fn whole_number(short: u64, len: usize, largest: Option<u64>) -> u64 {
    let window = 1u64 << (len * 8);
    let expected = largest.map_or(0, |largest| largest + 1);
    let number = expected & !(window - 1) | short;
    if number + window / 2 <= expected && number < (1 << 62) - window {
        number + window
    } else if number > expected + window / 2 && number >= window {
        number - window
    } else {
        number
    }
}

/// What protects a client's Initial packets.
pub(super) struct Keys {
    pub(super) aead: Aes128Gcm,
    iv: [u8; 12],
    header: Aes128,
}

impl Keys {
    /// RFC 9001, 5.2.
    pub(super) fn derive(version: Version, destination: &[u8]) -> Self {
        let initial = Hkdf::<Sha256>::new(Some(&version.salt()), destination);
        let client: [u8; 32] = expand(&initial, b"client in");
        let client = Hkdf::<Sha256>::from_prk(&client).expect("as long as a hash");
        let [key, iv, header] = version.labels();
        Self {
            aead: Aes128Gcm::new(&expand::<16>(&client, key).into()),
            iv: expand(&client, iv),
            header: Aes128::new(&expand::<16>(&client, header).into()),
        }
    }

    /// RFC 9001, 5.4.3: the first byte is for the header's first, the others for the packet number.
    pub(super) fn mask(&self, sample: [u8; SAMPLE]) -> [u8; SAMPLE] {
        let mut block = sample.into();
        self.header.encrypt_block(&mut block);
        block.into()
    }

    /// RFC 9001, 5.3.
    pub(super) fn nonce(&self, number: u64) -> aes_gcm::Nonce<aes_gcm::aead::consts::U12> {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        nonce.into()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

/// HKDF-Expand-Label without context: RFC 8446, 7.1.
fn expand<const LEN: usize>(secret: &Hkdf<Sha256>, label: &[u8]) -> [u8; LEN] {
    const PREFIX: &[u8] = b"tls13 ";
    let [.., high, low] = LEN.to_be_bytes();
    let label_len = [(PREFIX.len() + label.len()) as u8];
    let mut key = [0; LEN];
    secret
        .expand_multi_info(&[&[high, low], &label_len, PREFIX, label, &[0]], &mut key)
        .expect("shorter than HKDF's longest");
    key
}
