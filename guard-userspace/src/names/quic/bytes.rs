//! Reads numbers and pieces from the beginning of some bytes; `None` where there are too few.

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        self.0.split_off(..len)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.0.split_off_first().copied()
    }

    /// Two bytes, the higher first.
    pub(super) fn word(&mut self) -> Option<u16> {
        let (high, low) = (self.byte()?, self.byte()?);
        Some(u16::from_be_bytes([high, low]))
    }

    /// A number with its length in its first two bits: RFC 9000, 16.
    pub(super) fn number(&mut self) -> Option<u64> {
        let first = self.byte()?;
        let more = (1usize << (first >> 6)) - 1;
        let rest = self.take(more)?;
        let number = rest.iter().fold(u64::from(first & 0x3f), |number, &byte| {
            number << 8 | u64::from(byte)
        });
        Some(number)
    }

    /// A piece behind its length, which is such a number.
    pub(super) fn piece(&mut self) -> Option<&'a [u8]> {
        let len = self.number()?;
        self.take(usize::try_from(len).ok()?)
    }

    /// A piece behind its length of one byte.
    pub(super) fn short(&mut self) -> Option<&'a [u8]> {
        let len = self.byte()?;
        self.take(len.into())
    }

    /// A piece behind its length of two bytes.
    pub(super) fn long(&mut self) -> Option<&'a [u8]> {
        let len = self.word()?;
        self.take(len.into())
    }
}
