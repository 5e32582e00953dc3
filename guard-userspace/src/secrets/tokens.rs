//! What in a request may be a secret that is known: pieces whose keyed hash is worth a comparison.

use std::{borrow::Cow, fmt, ops::Range};

use zeroize::Zeroizing;

use super::{Scanner, check::decode};

/// Shortest piece, but for a password in `Authorization: Basic`.
const SHORTEST: usize = 16;
/// Longest piece.
const LONGEST: usize = 16 << 10;

/// A piece of a request.
pub struct Token<'t> {
    /// Where in the text it stands.
    pub range: Range<usize>,
    value: Value<'t>,
}

enum Value<'t> {
    Plain(&'t [u8]),
    Decoded(Zeroizing<Vec<u8>>),
}

impl Token<'_> {
    /// What to hash.
    pub fn value(&self) -> &[u8] {
        match &self.value {
            Value::Plain(value) => value,
            Value::Decoded(value) => value,
        }
    }
}

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({:?})", self.range)
    }
}

impl Scanner {
    /// The pieces of a request's text (its head, its body or both) that may be secrets: what stands after `Bearer` and in
    /// `Basic` (the pair and the password), values of query and form parameters and of JSON strings of at least 16
    /// characters, undone of percent and JSON escapes, and what is left of them after a colon or an equals sign. In no
    /// case is more read than the text itself, some pieces twice.
    pub fn tokens_in<'t>(&self, text: &'t [u8]) -> impl Iterator<Item = Token<'t>> + use<'t> {
        tokens_of(text)
    }
}

/// The same without a scanner, which it does not need.
pub fn tokens_of(text: &[u8]) -> impl Iterator<Item = Token<'_>> {
    Pieces { text, at: 0 }.flat_map(move |piece| variants(text, piece))
}

/// Runs of what is neither blank nor a delimiter.
struct Pieces<'t> {
    text: &'t [u8],
    at: usize,
}

fn delimits(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f || b"\"'`<>(){}[],;&?#|^".contains(&byte)
}

impl Iterator for Pieces<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        loop {
            let start = self.at
                + self.text[self.at..]
                    .iter()
                    .position(|byte| !delimits(*byte))?;
            let length = self.text[start..]
                .iter()
                .position(|byte| delimits(*byte))
                .unwrap_or(self.text.len() - start);
            self.at = start + length;
            if length <= LONGEST {
                return Some(start..self.at);
            }
        }
    }
}

fn variants(text: &[u8], piece: Range<usize>) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let whole = &text[piece.clone()];
    let before = text[..piece.start].trim_ascii_end();
    let basic = before.len() >= 5 && before[before.len() - 5..].eq_ignore_ascii_case(b"basic");
    if basic && let Some(pair) = decode(whole) {
        if let Some(colon) = memchr::memchr(b':', &pair) {
            let (user, password) = (&pair[..colon], &pair[colon + 1..]);
            for part in [user, password] {
                if part.len() >= 6 {
                    tokens.push(decoded(piece.clone(), part));
                }
            }
        }
        tokens.push(decoded(piece.clone(), &pair));
    }
    if whole.len() < SHORTEST {
        return tokens;
    }
    // The whole, and what is behind a name: `token=…`, `key:…`; padding is no name.
    let mut starts = vec![0];
    for (at, byte) in whole.iter().enumerate() {
        if matches!(byte, b'=' | b':') && whole.len() - at > SHORTEST && starts.len() < 4 {
            starts.push(at + 1);
        }
    }
    for start in starts {
        let part = &whole[start..];
        let range = piece.start + start..piece.end;
        match unescaped(part) {
            Cow::Borrowed(_) => {}
            Cow::Owned(plain) => tokens.push(Token {
                range: range.clone(),
                value: Value::Decoded(Zeroizing::new(plain)),
            }),
        }
        tokens.push(Token {
            range,
            value: Value::Plain(part),
        });
    }
    tokens
}

fn decoded(range: Range<usize>, value: &[u8]) -> Token<'static> {
    Token {
        range,
        value: Value::Decoded(Zeroizing::new(value.to_vec())),
    }
}

/// Without `%2B` and `\/`.
fn unescaped(part: &[u8]) -> Cow<'_, [u8]> {
    if !part.iter().any(|byte| matches!(byte, b'%' | b'\\')) {
        return Cow::Borrowed(part);
    }
    let mut plain = Vec::with_capacity(part.len());
    let mut at = 0;
    while at < part.len() {
        let digit = |offset: usize| char::from(*part.get(at + offset)?).to_digit(16);
        let digits = (part[at] == b'%')
            .then(|| Some((digit(1)?, digit(2)?)))
            .flatten();
        if let Some((high, low)) = digits {
            plain.push((high << 4 | low) as u8);
            at += 3;
        } else if part[at] == b'\\' && part.get(at + 1) == Some(&b'/') {
            plain.push(b'/');
            at += 2;
        } else {
            plain.push(part[at]);
            at += 1;
        }
    }
    Cow::Owned(plain)
}
