//! One direction of one connection: which protocol it speaks, and its requests one after the other.

use super::{
    KnownQueries, MAX_AWAITED, Request,
    h1::{self, Begins, Message},
    h2,
    websocket::Frames,
};

/// What a program sends over one connection.
#[derive(Debug)]
pub struct Stream {
    state: State,
    /// Requests so far.
    number: u64,
}

/// What has begun and not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// Nothing, or nothing whose end is worth waiting for.
    Nothing,
    /// A head.
    Head,
    /// The bodies of these requests, as their heads tell them; servers might act on what is in them.
    Bodies(Vec<Request>),
}

#[derive(Debug)]
enum State {
    /// Between requests, with what there is of the next head.
    Head(h1::Lines),
    /// In the body of one.
    Body(Box<Message>),
    /// HTTP/2.
    Two(Box<h2::Connection>),
    /// WebSocket.
    Frames(Box<Frames>),
    /// No HTTP, or none any more: a tunnel. Whatever is in it is somebody else's to read.
    Other,
    /// Where the next request begins is not known any more, and why.
    Lost(&'static str),
}

impl Default for Stream {
    fn default() -> Self {
        Self::new()
    }
}

impl Stream {
    /// A connection that begins.
    pub fn new() -> Self {
        Self {
            state: State::Head(h1::Lines::default()),
            number: 0,
        }
    }

    /// A connection of which the beginning is not known: every request of it is one that cannot be read.
    pub const fn lost(why: &'static str) -> Self {
        Self {
            state: State::Lost(why),
            number: 0,
        }
    }

    /// Bytes that are kept of what has not ended yet.
    pub fn held(&self) -> usize {
        match &self.state {
            State::Head(lines) => lines.held(),
            State::Body(message) => message.held(),
            State::Two(connection) => connection.held(),
            State::Frames(frames) => frames.held(),
            State::Other | State::Lost(_) => 0,
        }
    }

    /// Takes the next bytes, which `missing` more follow that nobody has seen. Gives the requests that can be judged by
    /// now: one may come twice, by its head and when it is complete.
    pub fn take(&mut self, bytes: &[u8], missing: u64, known: &mut KnownQueries) -> Vec<Request> {
        let mut found = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.step(rest, &mut found, known);
        }
        if missing > 0 {
            self.skip(missing, &mut found);
        }
        found
    }

    /// Takes notice of bytes that have left and that nobody has seen. Between requests nothing is lost by that: either a request
    /// follows, or what does makes no sense.
    pub fn miss(&mut self, bytes: u64) -> Vec<Request> {
        let mut found = Vec::new();
        let between = matches!(&self.state, State::Head(lines) if lines.is_empty());
        if bytes > 0 && !between {
            self.skip(bytes, &mut found);
        }
        found
    }

    /// Whether it speaks no HTTP, so that nothing is to be read in it.
    pub fn is_other(&self) -> bool {
        matches!(self.state, State::Other)
    }

    /// What has begun and not ended, as long as that is worth waiting for.
    pub fn unfinished(&self) -> Unfinished {
        match &self.state {
            State::Head(lines) if lines.is_empty() || lines.held() > MAX_AWAITED => {
                Unfinished::Nothing
            }
            State::Head(_) => Unfinished::Head,
            State::Body(message) => message
                .awaited()
                .map_or(Unfinished::Nothing, |head| Unfinished::Bodies(vec![head])),
            State::Two(connection) => connection.unfinished(),
            // Of a message in parts the first means nothing.
            State::Frames(_) | State::Other | State::Lost(_) => Unfinished::Nothing,
        }
    }

    fn step<'a>(
        &mut self,
        bytes: &'a [u8],
        found: &mut Vec<Request>,
        known: &mut KnownQueries,
    ) -> &'a [u8] {
        match &mut self.state {
            State::Head(lines) => {
                let (begins, rest) = lines.take(bytes, self.number, known);
                match begins {
                    Begins::NotYet => {}
                    Begins::Two => self.state = State::Two(Box::default()),
                    Begins::Other if self.number == 0 => self.state = State::Other,
                    Begins::Other => self.lose("what follows a request is no other", found),
                    Begins::Unreadable(why) => self.lose(why, found),
                    Begins::Request(message) => {
                        self.number += 1;
                        self.begun(*message, found, known);
                    }
                }
                rest
            }
            State::Body(message) => {
                let rest = message.take(bytes);
                self.went_on(found, known);
                rest
            }
            State::Two(connection) => {
                let lost = connection.take(bytes, found, known);
                if let Err(why) = lost {
                    self.lose(why, found);
                }
                &[]
            }
            State::Frames(frames) => {
                if let Err(why) = frames.take(bytes, found, known) {
                    self.lose(why, found);
                }
                &[]
            }
            State::Other => &[],
            State::Lost(why) => {
                found.push(Request::unreadable(self.number, why));
                &[]
            }
        }
    }

    /// A head has been read.
    fn begun(&mut self, message: Message, found: &mut Vec<Request>, known: &mut KnownQueries) {
        if message.is_complete() {
            self.ended(message, found, known);
        } else {
            found.push(message.head.request());
            self.state = State::Body(Box::new(message));
        }
    }

    fn went_on(&mut self, found: &mut Vec<Request>, known: &mut KnownQueries) {
        let State::Body(message) = &mut self.state else {
            return;
        };
        if let Some(why) = message.lost() {
            self.lose(why, found);
        } else if message.is_complete() {
            let State::Body(message) =
                std::mem::replace(&mut self.state, State::Head(h1::Lines::default()))
            else {
                return;
            };
            self.ended(*message, found, known);
        } else if let Some(request) = message.overflows() {
            found.push(request);
        }
    }

    fn ended(&mut self, message: Message, found: &mut Vec<Request>, known: &mut KnownQueries) {
        let head = message.head.clone();
        let request = message.request(known);
        // A head that has told itself in this very piece is told whole instead.
        found.retain(|other| other.number != request.number);
        found.push(request);
        self.state = if head.methods[0] == "CONNECT" {
            State::Other
        } else if head.upgrade.as_deref() == Some("websocket") {
            State::Frames(Box::new(Frames::new(head)))
        } else {
            State::Head(h1::Lines::default())
        };
    }

    fn skip(&mut self, missing: u64, found: &mut Vec<Request>) {
        let done = match &mut self.state {
            State::Other | State::Lost(_) => Ok(()),
            State::Body(message) => message.skip(missing),
            State::Two(connection) => connection.skip(missing),
            State::Head(_) | State::Frames(_) => Err("more was sent than was looked at"),
        };
        if let Err(why) = done {
            self.lose(why, found);
        } else if let State::Body(message) = &mut self.state
            && let Some(request) = message.overflows()
        {
            found.push(request);
        }
        // A body whose last part was skipped has ended.
        if let State::Body(message) = &self.state
            && message.is_complete()
        {
            self.state = State::Head(h1::Lines::default());
        }
    }

    fn lose(&mut self, why: &'static str, found: &mut Vec<Request>) {
        // With what is known of a request whose body it was.
        let mut request = Request::unreadable(self.number, why);
        if let State::Body(message) = &self.state {
            request = Request {
                unread: request.unread,
                complete: true,
                ..message.head.request()
            };
        }
        found.push(request);
        self.state = State::Lost(why);
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, sync::Arc};

    use super::*;
    use crate::{
        http::{KnownSecrets, Unread},
        secrets::Hash,
    };

    const VALUE: &str = "c0ffee-c0ffee-c0ffee";

    /// Knows one value.
    #[derive(Debug)]
    struct One;

    impl KnownSecrets for One {
        fn look(&self, text: &[u8], found: &mut Vec<Hash>) {
            if text
                .windows(VALUE.len())
                .any(|window| window == VALUE.as_bytes())
            {
                found.push(Hash([7; 16]));
            }
        }
    }

    /// Secrets of the last request that these bytes make, in pieces of `step`.
    fn secrets(bytes: &[u8], step: usize) -> usize {
        let mut known = KnownQueries::default();
        known.secrets = Some(Arc::new(One));
        let mut stream = Stream::new();
        let pieces = bytes.chunks(step);
        let told: Vec<Request> = pieces
            .flat_map(|piece| stream.take(piece, 0, &mut known))
            .collect();
        let last = told.last().expect("a request");
        assert!(last.complete, "{last:?}");
        last.secrets.len()
    }

    #[test]
    fn what_nobody_has_seen_is_a_loss_where_the_rest_depends_on_it() {
        let mut known = KnownQueries::default();
        let get = b"GET / HTTP/1.1\r\nHost: h.test\r\n\r\n";
        let mut one = Stream::new();
        one.take(get, 0, &mut known);
        assert_eq!(one.miss(get.len() as u64), []);
        assert_eq!(one.take(get, 0, &mut known)[0].unread, None);
        one.take(&get[..9], 0, &mut known);
        assert!(one.miss(7)[0].unread.is_some());

        // A body may miss some of its bytes.
        let mut bodied = Stream::new();
        let post = with_body("", &[b'x'; 100]);
        bodied.take(&post[..post.len() - 60], 0, &mut known);
        assert!(matches!(bodied.miss(60)[0].unread, Some(Unread::Body(_))));
        assert_eq!(bodied.take(get, 0, &mut known)[0].unread, None);

        // What headers of HTTP/2 mean depends on all that came before.
        let mut two = Stream::new();
        two.take(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, &mut known);
        assert!(two.miss(30)[0].unread.is_some());
    }

    fn with_body(head: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "POST /x HTTP/1.1\r\nHost: h.test\r\n{head}Content-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    #[test]
    fn a_known_secret_is_found_wherever_a_request_carries_it() {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(VALUE.as_bytes()).unwrap();
        let field = |name: &str, value: &str| {
            let (name_len, value_len) = (name.len() as u8, value.len() as u8);
            [
                &[0, name_len],
                name.as_bytes(),
                &[value_len],
                value.as_bytes(),
            ]
            .concat()
        };
        let two = |path: &str, token: &str| {
            let block = [
                field(":method", "GET"),
                field(":scheme", "https"),
                field(":authority", "h.test"),
                field(":path", path),
                field("x-api-key", token),
            ]
            .concat();
            let head = [0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1];
            [
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(),
                &head,
                &block,
            ]
            .concat()
        };
        for (what, bytes, secrets_in_it) in [
            (
                "a header",
                format!("GET / HTTP/1.1\r\nHost: h.test\r\nAuthorization: Bearer {VALUE}\r\n\r\n")
                    .into_bytes(),
                1,
            ),
            (
                "the target",
                format!("GET /x?token={VALUE} HTTP/1.1\r\nHost: h.test\r\n\r\n").into_bytes(),
                1,
            ),
            ("the body", with_body("", VALUE.as_bytes()), 1),
            (
                "head and body",
                with_body(&format!("X-Key: {VALUE}\r\n"), VALUE.as_bytes()),
                2,
            ),
            (
                "a packed body",
                with_body("Content-Encoding: gzip\r\n", &packed.finish().unwrap()),
                1,
            ),
            (
                "gRPC",
                with_body("Content-Type: application/grpc\r\n", VALUE.as_bytes()),
                1,
            ),
            ("HTTP/2's path", two(&format!("/x?t={VALUE}"), "none"), 1),
            ("HTTP/2's field", two("/x", VALUE), 1),
            ("nothing", two("/x", "none"), 0),
            ("another", with_body("", b"c0ffee-c0ffee-c0ffef"), 0),
        ] {
            for step in [bytes.len(), 7, 1] {
                assert_eq!(secrets(&bytes, step), secrets_in_it, "{what}, by {step}");
            }
        }
    }
}
