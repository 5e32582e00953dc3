//! HTTP/1.0 and 1.1: RFC 9112.

use super::{KnownQueries, MAX_AWAITED, MAX_BODY, MAX_HEAD, Request, Unread, body, head::Head};

/// RFC 9113, 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Header fields of one head; servers take 100 or so.
const MAX_FIELDS: usize = 512;
/// Bytes of a line with a chunk's size, its extensions included.
const MAX_LINE: usize = 4096;

/// What is known of the next head so far.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// How many of them have been looked through for the end.
    seen: usize,
}

/// How a connection goes on.
pub(super) enum Begins {
    /// More is needed to tell.
    NotYet,
    /// With a request.
    Request(Box<Message>),
    /// In HTTP/2; the preface is what was taken.
    Two,
    /// With something that is no request.
    Other,
    /// With one that no server should take, and some might.
    Unreadable(&'static str),
}

impl Lines {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn held(&self) -> usize {
        self.bytes.capacity()
    }

    /// Takes what belongs to the head and gives the rest.
    pub(super) fn take<'a>(
        &mut self,
        bytes: &'a [u8],
        number: u64,
        known: &KnownQueries,
    ) -> (Begins, &'a [u8]) {
        let before = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        // Empty lines before a request are skipped (2.2).
        let blank = self
            .bytes
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'))
            .count();
        let text = &self.bytes[blank..];
        if text.is_empty() {
            return (Begins::NotYet, &[]);
        }
        if PREFACE.starts_with(&text[..text.len().min(PREFACE.len())]) {
            if text.len() < PREFACE.len() {
                return (Begins::NotYet, &[]);
            }
            let used = (blank + PREFACE.len()).saturating_sub(before);
            self.bytes.clear();
            return (Begins::Two, &bytes[used.min(bytes.len())..]);
        }
        let method = text.iter().take_while(|byte| is_token(**byte)).count();
        // Servers may take other blanks than the one that HTTP wants (RFC 9112, 3).
        let blank_follows = |byte: &u8| matches!(byte, b' ' | b'\t' | 0x0b | 0x0c);
        if text.get(method).is_some_and(|byte| !blank_follows(byte)) || method > 64 || method == 0 {
            return (Begins::Other, &[]);
        }
        // Nor is a line a request's that does not say so (SMTP, SSH).
        if let Some(end) = text.iter().position(|byte| *byte == b'\n')
            && !text[..end]
                .windows(5)
                .any(|five| five.eq_ignore_ascii_case(b"HTTP/"))
        {
            return (Begins::Other, &[]);
        }
        let Some(end) = self.end(blank) else {
            self.seen = self.bytes.len();
            if self.bytes.len() > MAX_HEAD {
                return (Begins::Unreadable("its head is too long"), &[]);
            }
            return (Begins::NotYet, &[]);
        };
        let used = end.saturating_sub(before).min(bytes.len());
        let begins = read(&self.bytes[blank..end], number, known);
        self.bytes.clear();
        self.seen = 0;
        (begins, &bytes[used..])
    }

    /// Where the head ends: behind an empty line. Each byte is looked at once, however they come.
    fn end(&self, blank: usize) -> Option<usize> {
        let from = self.seen.saturating_sub(2).max(blank);
        (from..self.bytes.len()).find_map(|at| match &self.bytes[at..] {
            [b'\n', b'\n', ..] => Some(at + 2),
            [b'\n', b'\r', b'\n', ..] => Some(at + 3),
            _ => None,
        })
    }
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn read(bytes: &[u8], number: u64, known: &KnownQueries) -> Begins {
    let mut fields = vec![httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let mut lenient = httparse::ParserConfig::default();
    lenient.allow_multiple_spaces_in_request_line_delimiters(true);
    match lenient.parse_request(&mut request, bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) | Err(_) => {
            return Begins::Unreadable("its head is not as HTTP wants it");
        }
    }
    let mut head = Head::new(
        number,
        request.method.unwrap_or_default(),
        request.path.unwrap_or_default(),
    );
    for field in request.headers.iter() {
        head.header(field.name.as_bytes(), field.value);
        head.look(field.value, known);
    }
    head.look(request.path.unwrap_or_default().as_bytes(), known);
    let framing = match framing(&head) {
        Ok(framing) => framing,
        Err(why) => return Begins::Unreadable(why),
    };
    Begins::Request(Box::new(Message {
        head,
        framing,
        body: Vec::new(),
        cut: None,
        told: false,
        lost: None,
    }))
}

/// Where the body ends (6.3). What two servers could understand in two ways is refused.
fn framing(head: &Head) -> Result<Framing, &'static str> {
    if !head.codings.is_empty() {
        if !head.lengths.is_empty() {
            return Err("it has both a length and a transfer encoding");
        }
        return match head.codings.as_slice() {
            [only] if only == "chunked" => Ok(Framing::Chunks(Chunk::Size(Vec::new()))),
            _ => Err("its transfer encoding is not known"),
        };
    }
    let Some(first) = head.lengths.first() else {
        return Ok(Framing::Length(0));
    };
    if head.lengths.iter().any(|other| other != first) {
        return Err("it has two lengths");
    }
    match first.parse() {
        Ok(length) if first.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(Framing::Length(length))
        }
        _ => Err("its length is no number"),
    }
}

/// What is left of a body.
#[derive(Debug)]
enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks (7.1).
    Chunks(Chunk),
}

/// Where in the chunks.
#[derive(Debug)]
enum Chunk {
    /// In the line with the size.
    Size(Vec<u8>),
    /// In the chunk, with so many bytes to come.
    Data(u64),
    /// Behind one.
    Behind,
    /// In the trailers.
    Trailer(Vec<u8>),
    /// All were there.
    End,
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) head: Head,
    framing: Framing,
    body: Vec<u8>,
    /// Why the body is not all there.
    cut: Option<&'static str>,
    /// That has been told.
    told: bool,
    lost: Option<&'static str>,
}

impl Message {
    pub(super) fn is_complete(&self) -> bool {
        matches!(
            self.framing,
            Framing::Length(0) | Framing::Chunks(Chunk::End)
        )
    }

    pub(super) fn held(&self) -> usize {
        self.body.capacity()
    }

    /// Its head, if its body may mean something and is worth waiting for.
    pub(super) fn awaited(&self) -> Option<Request> {
        let left = match &self.framing {
            Framing::Length(left) | Framing::Chunks(Chunk::Data(left)) => *left,
            Framing::Chunks(_) => 0,
        };
        let whole = left.saturating_add(self.body.len() as u64);
        let waits = self.cut.is_none() && whole <= MAX_AWAITED as u64;
        (waits && body::is_awaited(&self.head)).then(|| self.head.request())
    }

    /// Why nobody knows where it ends.
    pub(super) fn lost(&self) -> Option<&'static str> {
        self.lost
    }

    /// Takes what belongs to the body and gives the rest.
    pub(super) fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let mut rest = bytes;
        while !rest.is_empty() && !self.is_complete() && self.lost.is_none() {
            rest = self.step(rest);
        }
        rest
    }

    fn step<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (first, behind) = (bytes[0], &bytes[1..]);
        let next = match &mut self.framing {
            Framing::Length(left) | Framing::Chunks(Chunk::Data(left)) => {
                let here = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                *left -= here as u64;
                let done = *left == 0;
                self.keep(&bytes[..here]);
                if done && let Framing::Chunks(chunk) = &mut self.framing {
                    *chunk = Chunk::Behind;
                }
                return &bytes[here..];
            }
            Framing::Chunks(Chunk::Size(line)) => {
                if first != b'\n' {
                    line.push(first);
                    if line.len() > MAX_LINE {
                        self.lost = Some("a chunk's size is too long");
                    }
                    return behind;
                }
                let size = std::str::from_utf8(line)
                    .ok()
                    .and_then(|line| line.split(';').next())
                    .map(|size| size.trim_end_matches('\r').trim())
                    .filter(|size| size.bytes().all(|byte| byte.is_ascii_hexdigit()))
                    .and_then(|size| u64::from_str_radix(size, 16).ok());
                match size {
                    None => {
                        self.lost = Some("a chunk's size is no number");
                        return behind;
                    }
                    Some(0) => Chunk::Trailer(Vec::new()),
                    Some(size) => Chunk::Data(size),
                }
            }
            Framing::Chunks(Chunk::Behind) => match first {
                b'\r' => return behind,
                b'\n' => Chunk::Size(Vec::new()),
                _ => {
                    self.lost = Some("a chunk is longer than it says");
                    return behind;
                }
            },
            Framing::Chunks(Chunk::Trailer(line)) => {
                if first != b'\n' {
                    line.push(first);
                    if line.len() > MAX_LINE {
                        self.lost = Some("a trailer is too long");
                    }
                    return behind;
                }
                if line.is_empty() || line == b"\r" {
                    Chunk::End
                } else {
                    Chunk::Trailer(Vec::new())
                }
            }
            Framing::Chunks(Chunk::End) => return bytes,
        };
        self.framing = Framing::Chunks(next);
        behind
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.cut.is_some() {
            return;
        }
        if self.body.len() + bytes.len() > MAX_BODY {
            self.cut = Some("it is too long");
            self.body = Vec::new();
            return;
        }
        self.body.extend_from_slice(bytes);
    }

    /// Passes over bytes that nobody has seen.
    pub(super) fn skip(&mut self, missing: u64) -> Result<(), &'static str> {
        const WHY: &str = "more was sent than was looked at";
        match &mut self.framing {
            Framing::Length(left) | Framing::Chunks(Chunk::Data(left)) if *left >= missing => {
                *left -= missing;
                let done = *left == 0;
                if done && let Framing::Chunks(chunk) = &mut self.framing {
                    *chunk = Chunk::Behind;
                }
                self.cut = self.cut.or(Some(WHY));
                self.body = Vec::new();
                Ok(())
            }
            _ => Err(WHY),
        }
    }

    /// The request, once, when its body turns out not to be readable.
    pub(super) fn overflows(&mut self) -> Option<Request> {
        let why = self.cut.filter(|_| !self.told)?;
        self.told = true;
        let mut request = self.head.request();
        if body::may_mean_something(&self.head) {
            request.unread = Some(Unread::Body(why));
        }
        Some(request)
    }

    /// The whole request.
    pub(super) fn request(self, known: &mut KnownQueries) -> Request {
        let mut request = self.head.request();
        request.complete = true;
        match self.cut {
            Some(why) if body::may_mean_something(&self.head) => {
                request.unread = Some(Unread::Body(why));
            }
            Some(_) => {}
            None => body::read(&self.head, self.body, &mut request, known),
        }
        request
    }
}
