//! HTTP/2: RFC 9113.

use std::collections::HashMap;

use loona_hpack::Decoder;

use super::{
    KnownQueries, MAX_AWAITED, MAX_BODY, MAX_HEAD, Request, Unfinished, Unread, body, head::Head,
};

/// Bytes before a frame's payload (4.1).
const FRAME_HEAD: usize = 9;
/// The longest frame that is put together. 16 KiB unless the server has allowed more, and none is known that does for
/// requests.
const MAX_FRAME: usize = 1 << 20;
/// Requests under way at once.
const MAX_STREAMS: usize = 1024;
/// The largest table that a server may have allowed its client to use; what it said is not seen here.
const MAX_TABLE: usize = 1 << 20;

/// Frame types (6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
/// Flags.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 32;

/// What a client sends over one connection, behind the preface.
pub(super) struct Connection {
    /// A frame that has begun.
    frame: Vec<u8>,
    decoder: Decoder<'static>,
    streams: HashMap<u32, Sending>,
    /// A header block that goes on: its stream, whether that ends with it, and what there is of it.
    block: Option<(u32, bool, Vec<u8>)>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("streams", &self.streams.len())
            .finish_non_exhaustive()
    }
}

impl Default for Connection {
    fn default() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(MAX_TABLE);
        Self {
            frame: Vec::new(),
            decoder,
            streams: HashMap::new(),
            block: None,
        }
    }
}

/// One request under way.
struct Sending {
    head: Head,
    body: Vec<u8>,
    cut: Option<&'static str>,
}

impl Sending {
    /// Whether its length is said, and more than is worth waiting for.
    fn is_longer(&self) -> bool {
        let mut lengths = self.head.lengths.iter();
        lengths.any(|length| {
            length
                .parse::<u64>()
                .is_ok_and(|it| it > MAX_AWAITED as u64)
        })
    }
}

impl Connection {
    /// As [`super::Stream::unfinished`].
    pub(super) fn unfinished(&self) -> Unfinished {
        let kind = self.frame.get(3).copied().unwrap_or(HEADERS);
        let begun = !self.frame.is_empty() && matches!(kind, HEADERS | CONTINUATION);
        if (begun || self.block.is_some()) && self.held() <= MAX_AWAITED {
            return Unfinished::Head;
        }
        let awaited = self.streams.values().filter(|sending| {
            sending.cut.is_none()
                && sending.body.len() <= MAX_AWAITED
                && !sending.is_longer()
                && body::is_awaited(&sending.head)
        });
        let heads: Vec<Request> = awaited.map(|sending| sending.head.request()).collect();
        if heads.is_empty() {
            Unfinished::Nothing
        } else {
            Unfinished::Bodies(heads)
        }
    }

    pub(super) fn held(&self) -> usize {
        let block = self
            .block
            .as_ref()
            .map_or(0, |(_, _, block)| block.capacity());
        let bodies: usize = self
            .streams
            .values()
            .map(|sending| sending.body.capacity())
            .sum();
        self.frame.capacity() + block + bodies
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// Why what follows cannot be read any more.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        found: &mut Vec<Request>,
        known: &mut KnownQueries,
    ) -> Result<(), &'static str> {
        self.frame.extend_from_slice(bytes);
        let frames = std::mem::take(&mut self.frame);
        let mut rest = &frames[..];
        while let Some((head, payload, behind)) = split(rest)? {
            self.frame(head, payload, found, known)?;
            rest = behind;
        }
        self.frame = rest.to_vec();
        Ok(())
    }

    /// Passes over bytes that nobody has seen: only the rest of a frame with a body can be missed.
    pub(super) fn skip(&mut self, missing: u64) -> Result<(), &'static str> {
        const WHY: &str = "more was sent than was looked at";
        let begun = std::mem::take(&mut self.frame);
        let (Some(len), Some(&kind), Some(&flags), Some(id)) =
            (length(&begun), begun.get(3), begun.get(4), stream(&begun))
        else {
            return Err(WHY);
        };
        let left = (FRAME_HEAD + len - begun.len()) as u64;
        if kind != DATA || left != missing || flags & END_STREAM != 0 {
            return Err(WHY);
        }
        if let Some(sending) = self.streams.get_mut(&id) {
            sending.cut = Some(WHY);
            sending.body = Vec::new();
        }
        Ok(())
    }

    fn frame(
        &mut self,
        head: [u8; FRAME_HEAD],
        payload: &[u8],
        found: &mut Vec<Request>,
        known: &mut KnownQueries,
    ) -> Result<(), &'static str> {
        let (kind, flags) = (head[3], head[4]);
        let id = stream(&head).unwrap_or_default();
        if self.block.is_some() && kind != CONTINUATION {
            return Err("a header block is interrupted");
        }
        match kind {
            HEADERS => {
                let mut block = unpadded(payload, flags)?;
                if flags & PRIORITY != 0 {
                    block = block.get(5..).ok_or("a frame is too short")?;
                }
                let ends = flags & END_STREAM != 0;
                self.block = Some((id, ends, block.to_vec()));
                if flags & END_HEADERS != 0 {
                    self.headers(found, known)?;
                }
            }
            CONTINUATION => {
                let Some((of, _, block)) = &mut self.block else {
                    return Err("a header block continues that has not begun");
                };
                if *of != id || block.len() + payload.len() > MAX_HEAD {
                    return Err("a header block is too long, or another's");
                }
                block.extend_from_slice(payload);
                if flags & END_HEADERS != 0 {
                    self.headers(found, known)?;
                }
            }
            DATA => {
                let data = unpadded(payload, flags)?;
                self.data(id, data, flags & END_STREAM != 0, found, known);
            }
            RST_STREAM => {
                self.streams.remove(&id);
            }
            PUSH_PROMISE => return Err("a client does not push"),
            _ => {}
        }
        Ok(())
    }

    fn headers(
        &mut self,
        found: &mut Vec<Request>,
        known: &mut KnownQueries,
    ) -> Result<(), &'static str> {
        let Some((id, ends, block)) = self.block.take() else {
            return Ok(());
        };
        let mut fields: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut size = 0;
        self.decoder
            .decode_with_cb(&block, |name, value| {
                size += name.len() + value.len();
                // A small block may stand for long fields, again and again.
                if size <= MAX_HEAD {
                    fields.push((name.into_owned(), value.into_owned()));
                }
            })
            .map_err(|_| "a header block cannot be read")?;
        if size > MAX_HEAD {
            return Err("a header block is too long");
        }
        if self.streams.contains_key(&id) {
            // Trailers.
            if ends {
                self.ended(id, found, known);
            }
            return Ok(());
        }
        if self.streams.len() >= MAX_STREAMS {
            return Err("more requests are under way than are kept");
        }
        let mut head = head_of(u64::from(id), &fields).ok_or("a request has no method or path")?;
        for (name, value) in &fields {
            if !name.starts_with(b":") || name == b":path" {
                head.look(value, known);
            }
        }
        found.push(head.request());
        self.streams.insert(
            id,
            Sending {
                head,
                body: Vec::new(),
                cut: None,
            },
        );
        if ends {
            self.ended(id, found, known);
        }
        Ok(())
    }

    fn data(
        &mut self,
        id: u32,
        data: &[u8],
        ends: bool,
        found: &mut Vec<Request>,
        known: &mut KnownQueries,
    ) {
        if let Some(sending) = self.streams.get_mut(&id) {
            if sending.cut.is_none() && sending.body.len() + data.len() > MAX_BODY {
                sending.cut = Some("it is too long");
                sending.body = Vec::new();
                let mut request = sending.head.request();
                if body::may_mean_something(&sending.head) {
                    request.unread = Some(Unread::Body("it is too long"));
                }
                found.push(request);
            } else if sending.cut.is_none() {
                sending.body.extend_from_slice(data);
            }
        }
        if ends {
            self.ended(id, found, known);
        }
    }

    fn ended(&mut self, id: u32, found: &mut Vec<Request>, known: &mut KnownQueries) {
        let Some(sending) = self.streams.remove(&id) else {
            return;
        };
        let mut request = sending.head.request();
        request.complete = true;
        match sending.cut {
            Some(why) if body::may_mean_something(&sending.head) => {
                request.unread = Some(Unread::Body(why));
            }
            Some(_) => {}
            None => body::read(&sending.head, sending.body, &mut request, known),
        }
        found.retain(|other| other.number != request.number);
        found.push(request);
    }
}

/// Bytes of a frame's payload, if its head has begun.
fn length(frame: &[u8]) -> Option<usize> {
    match frame {
        [a, b, c, ..] => Some(usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c)),
        _ => None,
    }
}

fn stream(frame: &[u8]) -> Option<u32> {
    let id: [u8; 4] = frame.get(5..9)?.try_into().ok()?;
    Some(u32::from_be_bytes(id) & 0x7fff_ffff)
}

/// A frame: its head, its payload and what follows.
type Parts<'a> = ([u8; FRAME_HEAD], &'a [u8], &'a [u8]);

/// The first frame, if it is all there.
fn split(bytes: &[u8]) -> Result<Option<Parts<'_>>, &'static str> {
    let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEAD>() else {
        return Ok(None);
    };
    let len = length(head).unwrap_or_default();
    if len > MAX_FRAME {
        return Err("a frame is too long");
    }
    Ok(rest
        .split_at_checked(len)
        .map(|(payload, behind)| (*head, payload, behind)))
}

/// Without padding (6.1).
fn unpadded(payload: &[u8], flags: u8) -> Result<&[u8], &'static str> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let (&pad, rest) = payload.split_first().ok_or("a frame is too short")?;
    let len = rest
        .len()
        .checked_sub(usize::from(pad))
        .ok_or("a frame's padding is longer than the frame")?;
    Ok(&rest[..len])
}

fn head_of(number: u64, fields: &[(Vec<u8>, Vec<u8>)]) -> Option<Head> {
    let pseudo = |wanted: &[u8]| {
        fields
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    };
    let method = pseudo(b":method")?;
    let target = pseudo(b":path").or_else(|| (method == "CONNECT").then(String::new))?;
    let mut head = Head::new(number, &method, &target);
    for (name, value) in fields {
        if name == b":authority" {
            head.add_host(&String::from_utf8_lossy(value));
        } else if !name.starts_with(b":") {
            head.header(name, value);
        }
    }
    Some(head)
}
