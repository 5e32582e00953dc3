//! What a ClientHello says: RFC 8446, 4.1.2. Read as the kernel programs read one over TCP, so that the same bytes
//! mean the same on either way: the first name counts, whatever else there is and whatever it is made of; and what
//! ends where it should not is read up to there.

use super::bytes::Bytes;
use crate::names::normal;

/// Handshake type (RFC 8446, B.3).
pub(super) const CLIENT_HELLO: u8 = 1;
/// Extensions: RFC 6066, 3; RFC 7301, 3.1; RFC 9849, 5.
const SERVER_NAME: u16 = 0;
/// See [`SERVER_NAME`].
const APPLICATION_PROTOCOLS: u16 = 16;
/// See [`SERVER_NAME`].
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// The one type of name that there is: RFC 6066, 3.
const HOST_NAME: u8 = 0;
/// Longer ones are none; as for the kernel programs.
const MAX_NAME: usize = 255;
/// Protocols that are told.
const MAX_PROTOCOLS: usize = 16;

/// What a ClientHello says of whom it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The server's name, in small letters and without its last dot; what is not ASCII is escaped.
    pub name: Option<String>,
    /// It has an extension for an encrypted ClientHello, so that the name may be that of a front only.
    pub ech: bool,
    /// Protocols that are offered (`h3`), the first ones; what is not ASCII is escaped.
    pub alpn: Vec<String>,
}

/// Reads a whole handshake message; `None` where it ends before its extensions may begin.
pub(super) fn read(message: &[u8]) -> Option<Hello> {
    let mut rest = Bytes(message);
    // Header, version and random; session, cipher suites, compression.
    rest.take(4 + 2 + 32)?;
    rest.short()?;
    rest.long()?;
    rest.short()?;
    let mut hello = Hello::default();
    // How long all extensions are together says nothing new; there may be none at all.
    rest.word();
    while let (Some(extension), Some(size)) = (rest.word(), rest.word()) {
        match extension {
            SERVER_NAME if hello.name.is_none() => hello.name = server_name(rest),
            APPLICATION_PROTOCOLS if hello.alpn.is_empty() => hello.alpn = protocols(rest),
            ENCRYPTED_CLIENT_HELLO => hello.ech = true,
            _ => {}
        }
        if rest.take(size.into()).is_none() {
            break;
        }
    }
    Some(hello)
}

/// The name in an extension that `rest` begins with.
fn server_name(mut rest: Bytes<'_>) -> Option<String> {
    // Length of the list.
    rest.word()?;
    if rest.byte()? != HOST_NAME {
        return None;
    }
    let name = rest.long()?;
    (1..=MAX_NAME).contains(&name.len()).then(|| normal(name))
}

/// The protocols in an extension that `rest` begins with.
fn protocols(mut rest: Bytes<'_>) -> Vec<String> {
    let mut list = Bytes(rest.long().unwrap_or_default());
    let mut protocols = Vec::new();
    while let Some(protocol) = list.short()
        && protocols.len() < MAX_PROTOCOLS
    {
        protocols.push(protocol.escape_ascii().to_string());
    }
    protocols
}
