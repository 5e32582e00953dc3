//! Bytes of a file as text: UTF-16 is made UTF-8, and places in it are told as those of the file.

use zeroize::Zeroizing;

/// What is searched.
pub(super) enum Text<'b> {
    /// As it stands in the file.
    Plain(&'b [u8]),
    /// Was UTF-16.
    Wide(Zeroizing<Vec<u8>>),
}

impl<'b> Text<'b> {
    pub fn of(bytes: &'b [u8]) -> Self {
        let read: fn([u8; 2]) -> u16 = match bytes {
            [0xff, 0xfe, ..] => u16::from_le_bytes,
            [0xfe, 0xff, ..] => u16::from_be_bytes,
            _ => return Self::Plain(bytes),
        };
        let units = bytes[2..]
            .chunks_exact(2)
            .map(|pair| read([pair[0], pair[1]]));
        // Room for all that may come, so that no half-filled buffer with values is given back without being wiped.
        let mut text = Zeroizing::new(Vec::with_capacity(bytes.len() / 2 * 3));
        let mut utf8 = [0; 4];
        for decoded in char::decode_utf16(units) {
            let c = decoded.unwrap_or(char::REPLACEMENT_CHARACTER);
            text.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
        }
        Self::Wide(text)
    }

    /// UTF-8, or whatever stands there.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Wide(text) => text,
        }
    }

    /// For offsets that are asked in ascending order.
    pub fn places(&self) -> Places<'_> {
        Places {
            text: self.bytes(),
            wide: matches!(self, Self::Wide(_)),
            at: 0,
            line: 1,
            column: 1,
            in_file: if matches!(self, Self::Wide(_)) { 2 } else { 0 },
        }
    }
}

/// Lines and columns.
pub(super) struct Places<'t> {
    text: &'t [u8],
    wide: bool,
    at: usize,
    line: u32,
    column: u32,
    in_file: u64,
}

impl Places<'_> {
    /// Line and column, from 1, and the offset in the file.
    pub fn of(&mut self, offset: usize) -> (u32, u32, u64) {
        for byte in &self.text[self.at..offset.max(self.at)] {
            if *byte == b'\n' {
                self.line = self.line.saturating_add(1);
                self.column = 1;
            } else if byte & 0xc0 != 0x80 {
                self.column = self.column.saturating_add(1);
            }
            // A character of four bytes is two units, any other one.
            self.in_file += match (self.wide, byte) {
                (false, _) => 1,
                (true, 0x80..=0xbf) => 0,
                (true, 0xf0..) => 4,
                (true, _) => 2,
            };
        }
        self.at = offset.max(self.at);
        (self.line, self.column, self.in_file)
    }
}
