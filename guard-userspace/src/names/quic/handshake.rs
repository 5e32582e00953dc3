//! The frames of Initial packets, and what a client says in them.

use super::{Hello, MAX_CRYPTO, Unreadable, bytes::Bytes, hello};

/// Types of frames that Initial packets may have: RFC 9000, 17.2.2 and 19.
mod frame {
    pub(super) const PADDING: u64 = 0x00;
    pub(super) const PING: u64 = 0x01;
    pub(super) const ACK: u64 = 0x02;
    /// With counts of congestion marks.
    pub(super) const ACK_ECN: u64 = 0x03;
    pub(super) const CRYPTO: u64 = 0x06;
    /// For an error of QUIC itself; one of an application has no place here.
    pub(super) const CONNECTION_CLOSE: u64 = 0x1c;
}

/// Header of a handshake message: type, and a length of three bytes (RFC 8446, 4).
const HEADER: usize = 4;

/// What a client says in its Initial packets, whatever the order in which it comes.
#[derive(Debug, Default)]
pub struct Handshake {
    /// As far as anything is there.
    bytes: Vec<Option<u8>>,
    /// All before this one are there.
    whole: usize,
    /// Those before this one were read.
    read: usize,
    hello: Option<Hello>,
    unreadable: Option<Unreadable>,
}

impl Handshake {
    /// The frames of one more packet; gives the ClientHello when it is whole.
    ///
    /// # Errors
    /// When they make no sense, then and whatever follows.
    pub fn add(&mut self, frames: &[u8]) -> Result<Option<&Hello>, Unreadable> {
        if let Some(why) = self.unreadable {
            return Err(why);
        }
        if let Err(why) = self.frames(frames).and_then(|()| self.messages()) {
            self.unreadable = Some(why);
            return Err(why);
        }
        Ok(self.hello.as_ref())
    }

    /// The ClientHello, when it is whole and nothing has contradicted it.
    pub(super) fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref().filter(|_| self.unreadable.is_none())
    }

    /// How many bytes are kept.
    pub(super) fn kept(&self) -> usize {
        self.bytes.len()
    }

    fn frames(&mut self, frames: &[u8]) -> Result<(), Unreadable> {
        let mut rest = Bytes(frames);
        while !rest.0.is_empty() {
            let (offset, data) = frame(&mut rest).ok_or(Unreadable::Frame)?;
            self.crypto(offset, data)?;
        }
        Ok(())
    }

    /// A piece of what is said.
    fn crypto(&mut self, offset: u64, data: &[u8]) -> Result<(), Unreadable> {
        let from = usize::try_from(offset).map_err(|_| Unreadable::TooMuch)?;
        let end = from
            .checked_add(data.len())
            .filter(|&end| end <= MAX_CRYPTO)
            .ok_or(Unreadable::TooMuch)?;
        if self.bytes.len() < end {
            self.bytes.resize(end, None);
        }
        for (slot, &byte) in self.bytes.iter_mut().skip(from).zip(data) {
            // Which of the two a server takes is up to the server.
            if slot.is_some_and(|before| before != byte) {
                return Err(Unreadable::Conflict);
            }
            *slot = Some(byte);
        }
        while let Some(Some(_)) = self.bytes.get(self.whole) {
            self.whole += 1;
        }
        Ok(())
    }

    /// Reads the messages that are whole. There are two when the server has asked for another key share; a client may
    /// not change its name then (RFC 8446, 4.1.2), and servers need not look again.
    fn messages(&mut self) -> Result<(), Unreadable> {
        while let Some(message) = self.message()? {
            let hello = hello::read(&message).ok_or(Unreadable::Hello)?;
            match &self.hello {
                None => self.hello = Some(hello),
                Some(first) if first.name == hello.name && first.ech == hello.ech => {}
                Some(_) => return Err(Unreadable::Conflict),
            }
        }
        Ok(())
    }

    /// The next message, when it is whole.
    fn message(&mut self) -> Result<Option<Vec<u8>>, Unreadable> {
        let there = self.whole - self.read;
        let mut bytes = self.bytes.iter().skip(self.read).take(there).flatten();
        let mut header = bytes.clone().take(HEADER);
        if header
            .next()
            .is_some_and(|&kind| kind != hello::CLIENT_HELLO)
        {
            return Err(Unreadable::Hello);
        }
        if there < HEADER {
            return Ok(None);
        }
        let len = HEADER + header.fold(0, |len, &byte| len << 8 | usize::from(byte));
        if self.read + len > MAX_CRYPTO {
            return Err(Unreadable::TooMuch);
        }
        if there < len {
            return Ok(None);
        }
        self.read += len;
        Ok(Some(bytes.by_ref().take(len).copied().collect()))
    }
}

/// Skips frames up to a CRYPTO frame, or to the end: RFC 9000, 19. Gives offset and data.
fn frame<'a>(rest: &mut Bytes<'a>) -> Option<(u64, &'a [u8])> {
    while let Some(&first) = rest.0.first() {
        // Most of a packet is padding.
        if u64::from(first) == frame::PADDING {
            rest.byte()?;
            continue;
        }
        match rest.number()? {
            frame::PADDING | frame::PING => {}
            kind @ (frame::ACK | frame::ACK_ECN) => {
                // Largest and delay.
                rest.number()?;
                rest.number()?;
                let ranges = rest.number()?;
                rest.number()?;
                // More than there is room for end at the end.
                for _ in 0..ranges {
                    rest.number()?;
                    rest.number()?;
                }
                if kind == frame::ACK_ECN {
                    for _ in 0..3 {
                        rest.number()?;
                    }
                }
            }
            frame::CRYPTO => return Some((rest.number()?, rest.piece()?)),
            frame::CONNECTION_CLOSE => {
                // Error and type of the frame that was one.
                rest.number()?;
                rest.number()?;
                rest.piece()?;
            }
            _ => return None,
        }
    }
    Some((0, &[]))
}
