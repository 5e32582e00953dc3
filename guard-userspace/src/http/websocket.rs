//! WebSocket messages of a client (RFC 6455): GraphQL subscriptions and JSON-RPC are spoken over it, and both can change things.

use flate2::{Decompress, FlushDecompress, Status};

use super::{KnownQueries, MAX_BODY, Request, Unread, graphql, head::Head, json::Json, rpc};

/// Opcodes (5.2).
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;

/// The messages of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    head: Head,
    bytes: Vec<u8>,
    message: Vec<u8>,
    /// The message that has begun: whether it is compressed.
    compressed: Option<bool>,
    inflate: Decompress,
}

impl Frames {
    pub(super) fn new(head: Head) -> Self {
        Self {
            head,
            bytes: Vec::new(),
            message: Vec::new(),
            compressed: None,
            inflate: Decompress::new(false),
        }
    }

    pub(super) fn held(&self) -> usize {
        self.bytes.capacity() + self.message.capacity()
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
        self.bytes.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.bytes);
        let mut rest = &bytes[..];
        while let Some((first, payload, behind)) = frame(rest)? {
            self.frame(first, payload, found, known)?;
            rest = behind;
        }
        self.bytes = rest.to_vec();
        Ok(())
    }

    fn frame(
        &mut self,
        first: u8,
        payload: Vec<u8>,
        found: &mut Vec<Request>,
        known: &mut KnownQueries,
    ) -> Result<(), &'static str> {
        match first & 15 {
            TEXT | BINARY => {
                // RSV1: compressed (RFC 7692, 6).
                self.compressed = Some(first & 0x40 != 0);
                self.message = payload;
            }
            CONTINUATION => self.message.extend(payload),
            _ => return Ok(()),
        }
        if self.message.len() > MAX_BODY {
            return Err("a message is too long");
        }
        if first & 0x80 == 0 {
            return Ok(());
        }
        let mut message = std::mem::take(&mut self.message);
        if self.compressed.take() == Some(true) {
            message = self.inflated(&message)?;
        }
        let mut request = self.head.request();
        request.complete = true;
        if let Some(json) = Json::read(&message) {
            // graphql-transport-ws and the older graphql-ws wrap a request in `payload`.
            let wrapped = json.all("payload");
            let read = rpc::read(&json, &mut request)
                .and_then(|()| graphql::read(&json, &mut request, known))
                .and_then(|()| {
                    wrapped
                        .into_iter()
                        .try_for_each(|inner| graphql::read(inner, &mut request, known))
                });
            if let Err(why) = read {
                request.unread = Some(Unread::Body(why));
            }
        }
        if !request.graphql.is_empty() || !request.calls.is_empty() || request.unread.is_some() {
            found.push(request);
        }
        Ok(())
    }

    /// RFC 7692, 7.2.2. What was said before may be referred to.
    fn inflated(&mut self, message: &[u8]) -> Result<Vec<u8>, &'static str> {
        const WHY: &str = "a message cannot be decompressed";
        let mut input = message.to_vec();
        input.extend_from_slice(&[0, 0, 0xff, 0xff]);
        let mut output = Vec::with_capacity(input.len() * 4 + 1024);
        let mut at = 0;
        loop {
            let before = (self.inflate.total_in(), output.len());
            let status = self
                .inflate
                .decompress_vec(&input[at..], &mut output, FlushDecompress::Sync)
                .map_err(|_| WHY)?;
            at += (self.inflate.total_in() - before.0) as usize;
            if output.len() > MAX_BODY {
                return Err("a message is too long");
            }
            if at >= input.len() && output.len() < output.capacity() || status == Status::StreamEnd
            {
                return Ok(output);
            }
            if (self.inflate.total_in(), output.len()) == before && output.len() < output.capacity()
            {
                return Err(WHY);
            }
            output.reserve(output.len().max(4096));
        }
    }
}

/// A frame: its first byte, its payload without the mask, and what follows.
type Parts<'a> = (u8, Vec<u8>, &'a [u8]);

/// The first frame, if it is all there.
fn frame(bytes: &[u8]) -> Result<Option<Parts<'_>>, &'static str> {
    let Some((&[first, second], rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let (len, rest) = match second & 0x7f {
        126 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from(u16::from_be_bytes(*len)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk() {
            Some((len, rest)) => (u64::from_be_bytes(*len), rest),
            None => return Ok(None),
        },
        short => (u64::from(short), rest),
    };
    if len > MAX_BODY as u64 {
        return Err("a message is too long");
    }
    let (mask, rest) = if second & 0x80 == 0 {
        ([0; 4], rest)
    } else {
        match rest.split_first_chunk() {
            Some((mask, rest)) => (*mask, rest),
            None => return Ok(None),
        }
    };
    let Some((payload, behind)) = rest.split_at_checked(len as usize) else {
        return Ok(None);
    };
    let payload = payload
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    Ok(Some((first, payload, behind)))
}
