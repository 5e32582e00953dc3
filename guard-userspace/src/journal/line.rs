//! One line: an event's JSON with its link of the chain as the last member.
//!
//! The link is taken over the bytes as written, never over a re-encoding, so that a reader needs no
//! canonical form of JSON to check it.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::hex;
use crate::event::Event;

/// The longest line that is written or read, its newline included. Bounds a reader's memory.
pub(super) const MAX_LINE: usize = 1 << 20;

const OPEN: &[u8] = b",\"chain\":\"";
const CLOSE: &[u8] = b"\"}";
const HEX: usize = 64;

/// SHA-256 over the link before and an event's JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain([u8; 32]);

impl Chain {
    /// What the very first line follows.
    pub(super) const START: Self = Self([0; 32]);

    /// The link of an event whose JSON is `head` and a closing brace.
    fn next(&self, head: &[u8]) -> Self {
        let hash = Sha256::new()
            .chain_update(self.0)
            .chain_update(head)
            .chain_update(b"}");
        Self(hash.finalize().into())
    }

    /// 64 lower-case hexadecimal digits.
    pub(super) fn hex(&self) -> String {
        hex::encode(&self.0)
    }

    pub(super) fn from_hex(digits: &[u8]) -> Option<Self> {
        hex::decode(digits).map(Self)
    }
}

/// Turns an event's JSON into its line, newline included, and returns its link.
pub(super) fn seal(json: &mut Vec<u8>, before: &Chain) -> Chain {
    debug_assert_eq!(json.last(), Some(&b'}'), "an event is a JSON object");
    json.pop();
    let chain = before.next(json);
    json.extend_from_slice(OPEN);
    json.extend_from_slice(chain.hex().as_bytes());
    json.extend_from_slice(CLOSE);
    json.push(b'\n');
    chain
}

/// A line (without its newline) taken apart.
pub(super) struct Sealed<'a> {
    line: &'a [u8],
    head: &'a [u8],
    pub(super) chain: Chain,
}

impl<'a> Sealed<'a> {
    /// `None` where the line does not end in a chain member.
    pub(super) fn parse(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_suffix(CLOSE)?;
        let (rest, hex) = rest.split_at_checked(rest.len().checked_sub(HEX)?)?;
        Some(Self {
            line,
            head: rest.strip_suffix(OPEN)?,
            chain: Chain::from_hex(hex)?,
        })
    }

    pub(super) fn follows(&self, before: &Chain) -> bool {
        before.next(self.head) == self.chain
    }

    pub(super) fn event(&self) -> Option<Event> {
        serde_json::from_slice(self.line).ok()
    }

    /// Whether it may be of kind `guard`: cheaper than to read it as an event.
    pub(super) fn mentions_guard(&self) -> bool {
        const GUARD: &[u8] = b"\"guard\"";
        self.head.windows(GUARD.len()).any(|window| window == GUARD)
    }

    /// The sequence number, where the line is JSON and has one.
    pub(super) fn seq(&self) -> Option<u64> {
        #[derive(Deserialize)]
        struct Numbered {
            seq: u64,
        }
        serde_json::from_slice::<Numbered>(self.line)
            .ok()
            .map(|numbered| numbered.seq)
    }
}

/// The sequence number as it stands at the front of the lines that guard writes; for skipping
/// without parsing, so `None` only means "look closer".
pub(super) fn peek_seq(line: &[u8]) -> Option<u64> {
    let (_, rest) = number(line.strip_prefix(b"{\"v\":")?)?;
    let (seq, rest) = number(rest.strip_prefix(b",\"seq\":")?)?;
    rest.starts_with(b",").then_some(seq)
}

fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(digits);
    Some((str::from_utf8(digits).ok()?.parse().ok()?, rest))
}

/// The lines of one segment, one at a time, in a buffer of at most [`MAX_LINE`] bytes.
pub(super) struct Lines {
    reader: BufReader<File>,
    buffer: Vec<u8>,
    /// Of the line last given, from 1.
    pub(super) number: u64,
}

/// What comes next in a segment.
pub(super) enum Next<'a> {
    /// A whole line, without its newline.
    Line(&'a [u8]),
    /// A line longer than [`MAX_LINE`]; passed over.
    TooLong,
    /// Bytes without a newline at the end of the file: being written now, or torn.
    Partial(u64),
    /// Nothing more.
    End,
}

impl Lines {
    pub(super) fn new(file: File) -> Self {
        Self {
            reader: BufReader::with_capacity(64 << 10, file),
            buffer: Vec::new(),
            number: 0,
        }
    }

    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        self.buffer.clear();
        self.buffer.shrink_to(64 << 10);
        let taken = (&mut self.reader)
            .take(MAX_LINE as u64)
            .read_until(b'\n', &mut self.buffer)?;
        if taken == 0 {
            return Ok(Next::End);
        }
        self.number += 1;
        if self.buffer.last() == Some(&b'\n') {
            return Ok(Next::Line(&self.buffer[..taken - 1]));
        }
        if taken < MAX_LINE {
            return Ok(Next::Partial(taken as u64));
        }
        let more = self.reader.skip_until(b'\n')?;
        // A file that ends inside an over-long line is not told from one whose over-long line has an
        // end; neither is a journal.
        Ok(if more == 0 {
            Next::Partial(taken as u64)
        } else {
            Next::TooLong
        })
    }
}
