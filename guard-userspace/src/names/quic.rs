//! Whom a QUIC connection is for: the server name in the ClientHello that its first datagrams carry. RFC 9000 for the
//! packets, RFC 9001 for their protection, RFC 9369 for version 2.
//!
//! Initial packets are encrypted with keys that derive from what they say themselves, so whoever sees them can read
//! them. A server reads a client's handshake by the connection that it takes a packet for, which is the one whose keys
//! open it; so what is put together here is put together by keys, and never by what an address or an identifier says.
//! What a server could understand in two ways is [`Unreadable`]: a program may send such a thing on purpose, to be
//! taken for somebody else here.

mod bytes;
mod handshake;
mod hello;
mod packet;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use self::packet::{Head, Keys, Kind, Opened, Packet, Version};
pub use self::{handshake::Handshake, hello::Hello};

/// Bytes of handshakes that are kept. A ClientHello with post-quantum key shares is some 1,800 long.
pub const MAX_CRYPTO: usize = 16 << 10;
/// Datagrams that one ClientHello may be spread over, what is sent again among them.
pub const MAX_DATAGRAMS: usize = 16;
/// Connections that one socket may begin at a time with one peer. One that a server answers with a Retry packet
/// counts twice.
pub const MAX_CONNECTIONS: usize = 4;

/// Why it cannot be known whom a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A packet ends before its header says.
    #[error("a QUIC packet is cut or its header makes no sense")]
    Packet,
    /// An Initial packet of a connection whose beginning was not seen, or of none.
    #[error("no key that is known opens a QUIC Initial packet")]
    Sealed,
    /// AES-GCM lets a packet be made that two keys open, each to something else.
    #[error("two keys open a QUIC Initial packet")]
    TwoKeys,
    /// A datagram carries Initial packets of more than one connection, which RFC 9000, 12.2 forbids.
    #[error("one datagram has QUIC Initial packets of two connections")]
    Mixed,
    /// Something that has no place in an Initial packet (RFC 9000, 17.2.2), or that ends too early.
    #[error("a QUIC Initial packet has a frame that makes no sense there")]
    Frame,
    /// What was sent before was sent again, and differs.
    #[error("a QUIC client says two different things at one place of its handshake")]
    Conflict,
    /// The handshake does not begin with a ClientHello, or with one that cannot be read.
    #[error("a QUIC handshake begins with something else than a ClientHello")]
    Hello,
    /// More than is kept.
    #[error("a QUIC ClientHello is too long, or spread over too many datagrams or connections")]
    TooMuch,
}

/// What is known after a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not yet all of a ClientHello: no server can act on it.
    NeedMore,
    /// The datagram belongs to a connection with this ClientHello, which it has completed or which was complete before.
    Hello(Hello),
}

/// Whether a datagram carries an Initial packet of version 1 or 2: at its beginning, or behind others, since a server
/// looks there too (RFC 9000, 12.2).
pub fn is_initial(datagram: &[u8]) -> bool {
    let mut rest = datagram;
    while let Some(head) = Head::of(rest) {
        if head.kind == Kind::Initial {
            return true;
        }
        if Packet::split(head, &mut rest).is_none() {
            return false;
        }
    }
    false
}

/// The first datagrams that one socket sends to one peer.
///
/// Every datagram for which [`is_initial`] holds is to be added for as long as the socket lives: nothing but these can
/// begin a connection, and a socket may begin another one at any time. Connections that have said their name give way
/// to new ones.
#[derive(Debug, Default)]
pub struct Flight {
    /// The one heard last comes last.
    connections: Vec<Connection>,
    /// There was no room: what has been forgotten would make sense of what comes.
    full: bool,
}

impl Flight {
    /// One more datagram, in the order in which they are sent.
    ///
    /// # Errors
    /// When it cannot be known whom the datagram's connection is for. Once two things were said of one connection, or
    /// something that makes no sense, that stays so for this connection; once there was no room, for all of them.
    pub fn add(&mut self, datagram: &[u8]) -> Result<Progress, Unreadable> {
        if self.full {
            return Err(Unreadable::TooMuch);
        }
        let mut rest = datagram;
        let mut destination = None;
        while let Some(head) = Head::of(rest) {
            let packet = Packet::split(head, &mut rest).ok_or(Unreadable::Packet)?;
            if packet.head.kind != Kind::Initial {
                continue;
            }
            // Servers differ in whether they look at packets for another identifier than the first one's.
            if destination.is_some_and(|it| it != packet.destination) {
                return Err(Unreadable::Mixed);
            }
            let before = self.connections.len();
            let (at, opened) = self.open(&packet)?;
            if destination.replace(packet.destination).is_none() {
                let connection = self.connections.remove(at);
                self.connections.push(connection);
                self.make_room()?;
                self.current().ok_or(Unreadable::TooMuch)?.hear()?;
            } else if at + 1 != before {
                self.connections.truncate(before);
                return Err(Unreadable::Mixed);
            }
            let connection = self.current().ok_or(Unreadable::TooMuch)?;
            connection.largest = connection.largest.max(Some(opened.number));
            let read = connection.handshake.add(&opened.payload).map(drop);
            // Whatever was read before it made no sense takes room too.
            self.make_room()?;
            read?;
        }
        let hello = match destination {
            Some(_) => self.current().and_then(|it| it.handshake.hello()),
            None => None,
        };
        Ok(hello.map_or(Progress::NeedMore, |it| Progress::Hello(it.clone())))
    }

    fn current(&mut self) -> Option<&mut Connection> {
        self.connections.last_mut()
    }

    /// Opens a packet, and finds the place of the connection that it belongs to.
    ///
    /// Its destination is what the keys derive from in the client's first packets, and in those that follow a Retry
    /// packet (RFC 9001, 5.2). When the server has answered, it is an identifier that the server has chosen, and the
    /// keys stay as they were.
    fn open(&mut self, packet: &Packet<'_>) -> Result<(usize, Opened), Unreadable> {
        let known = self
            .connections
            .iter()
            .any(|connection| connection.id == packet.destination);
        let new = (!known).then(|| Connection::new(packet.destination));
        let version = packet.head.version;
        let found = match self.opened(packet, version, new.as_ref())? {
            // A client that changes its version with the server's changes its keys (RFC 9369, 4.1). aioquic 1.7 goes on
            // with those that it began with, and a server that does not mind could too.
            None => self.opened(packet, version.other(), None)?,
            found => found,
        };
        let (at, opened) = found.ok_or(Unreadable::Sealed)?;
        if at == self.connections.len() {
            self.connections.extend(new);
        }
        Ok((at, opened))
    }

    /// Opens a packet with the keys of each connection, and of a new one.
    fn opened(
        &self,
        packet: &Packet<'_>,
        version: Version,
        new: Option<&Connection>,
    ) -> Result<Option<(usize, Opened)>, Unreadable> {
        let mut found = None;
        for (at, connection) in self.connections.iter().chain(new).enumerate() {
            if let Some(opened) = packet.open(connection.keys(version), connection.largest)
                && found.replace((at, opened)).is_some()
            {
                return Err(Unreadable::TwoKeys);
            }
        }
        Ok(found)
    }

    /// Forgets connections that have said their name, as far as there is need. Of one that has not, the rest may come
    /// at any time and would not be understood.
    fn make_room(&mut self) -> Result<(), Unreadable> {
        let kept = |it: &Connection| it.handshake.kept();
        while self.connections.len() > MAX_CONNECTIONS
            || self.connections.iter().map(kept).sum::<usize>() > MAX_CRYPTO
        {
            let others = self.connections.len().saturating_sub(1);
            let told = self
                .connections
                .iter()
                .take(others)
                .position(|it| it.handshake.hello().is_some());
            let Some(told) = told else {
                self.full = true;
                self.connections.clear();
                return Err(Unreadable::TooMuch);
            };
            self.connections.remove(told);
        }
        Ok(())
    }
}

/// What one pair of keys opens.
#[derive(Debug)]
struct Connection {
    /// The Destination Connection ID that its keys derive from.
    id: Vec<u8>,
    /// A client may change from version 1 to 2 and keep the identifier: RFC 9369, 4.
    v1: OnceLock<Keys>,
    v2: OnceLock<Keys>,
    /// Largest packet number.
    largest: Option<u64>,
    /// Datagrams before the ClientHello was whole.
    datagrams: usize,
    handshake: Handshake,
}

impl Connection {
    fn new(id: &[u8]) -> Self {
        Self {
            id: id.to_vec(),
            v1: OnceLock::new(),
            v2: OnceLock::new(),
            largest: None,
            datagrams: 0,
            handshake: Handshake::default(),
        }
    }

    fn keys(&self, version: Version) -> &Keys {
        let keys = match version {
            Version::V1 => &self.v1,
            Version::V2 => &self.v2,
        };
        keys.get_or_init(|| Keys::derive(version, &self.id))
    }

    /// One more datagram.
    fn hear(&mut self) -> Result<(), Unreadable> {
        if self.handshake.hello().is_none() {
            if self.datagrams == MAX_DATAGRAMS {
                return Err(Unreadable::TooMuch);
            }
            self.datagrams += 1;
        }
        Ok(())
    }
}
