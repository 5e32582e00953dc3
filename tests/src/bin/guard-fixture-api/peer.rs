//! One client's connection: TCP, TLS and HTTP, without blocking.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags};
use rustls::{ServerConfig, ServerConnection};

use crate::{Counts, LastRequest, graphql, http, ready, store::Store};

/// A client.
pub(crate) struct Peer {
    tcp: TcpStream,
    tls: ServerConnection,
    /// Decrypted bytes that make no complete request yet.
    received: Vec<u8>,
    shaken: bool,
    /// Nothing more is read; what is still to be written is.
    ending: bool,
    closed: bool,
}

impl Peer {
    pub(crate) fn new(tcp: TcpStream, config: Arc<ServerConfig>) -> Result<Self> {
        tcp.set_nonblocking(true)?;
        Ok(Self {
            tcp,
            tls: ServerConnection::new(config)?,
            received: Vec::new(),
            shaken: false,
            ending: false,
            closed: false,
        })
    }

    pub(crate) const fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn poll_fd(&self) -> PollFd<'_> {
        let mut flags = PollFlags::IN;
        if self.tls.wants_write() {
            flags |= PollFlags::OUT;
        }
        PollFd::new(&self.tcp, flags)
    }

    /// Does all that can be done now; whether anything was.
    pub(crate) fn advance(&mut self, counts: &mut Counts, store: &mut Store) -> bool {
        if self.closed {
            return false;
        }
        let moved = self.try_advance(counts, store);
        if moved.is_err() || (self.ending && !self.tls.wants_write()) {
            self.closed = true;
        }
        moved.unwrap_or(true)
    }

    fn try_advance(&mut self, counts: &mut Counts, store: &mut Store) -> io::Result<bool> {
        let mut moved = false;
        while !self.ending {
            let Some(n) = ready(self.tls.read_tls(&mut &self.tcp))? else {
                break;
            };
            moved = true;
            counts.wire_bytes += n as u64;
            if n == 0 {
                self.ending = true;
            }
            match self.tls.process_new_packets() {
                Ok(_) => self.take_plaintext(counts, store)?,
                // The alert that says why still goes out.
                Err(_) => self.ending = true,
            }
        }
        while self.tls.wants_write() {
            match ready(self.tls.write_tls(&mut &self.tcp))? {
                Some(_) => moved = true,
                None => break,
            }
        }
        Ok(moved)
    }

    fn take_plaintext(&mut self, counts: &mut Counts, store: &mut Store) -> io::Result<()> {
        if !self.shaken && !self.tls.is_handshaking() {
            self.shaken = true;
            counts.handshakes += 1;
        }
        let before = self.received.len();
        match self.tls.reader().read_to_end(&mut self.received) {
            Ok(_) => {}
            // No more for now; an end without TLS's own goodbye is the client's way to go.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::UnexpectedEof
                ) => {}
            Err(error) => return Err(error),
        }
        counts.application_bytes += (self.received.len() - before) as u64;

        while !self.ending && !self.received.is_empty() {
            match http::parse(&self.received) {
                http::Parsed::Partial => break,
                http::Parsed::Malformed(why) => {
                    counts.malformed += 1;
                    self.respond(&graphql::Response::refusal(400, why), false)?;
                }
                http::Parsed::Request { request, length } => {
                    counts.requests += 1;
                    let outcome = graphql::serve(&request, store);
                    counts.mutations += outcome.mutations;
                    counts.refused += u64::from(outcome.refused);
                    counts.last_request = Some(LastRequest {
                        method: request.method,
                        path: request.path,
                        operation: outcome.operation,
                        bytes: length as u64,
                        status: outcome.response.status,
                    });
                    self.received.drain(..length);
                    self.respond(&outcome.response, request.keep_alive)?;
                }
            }
        }
        Ok(())
    }

    fn respond(&mut self, response: &graphql::Response, keep_alive: bool) -> io::Result<()> {
        let body = response.body.to_string();
        write!(
            self.tls.writer(),
            "HTTP/1.1 {} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: {}\r\n\r\n{body}",
            response.status,
            http::reason(response.status),
            body.len(),
            if keep_alive { "keep-alive" } else { "close" },
        )?;
        if !keep_alive {
            self.tls.send_close_notify();
            self.ending = true;
        }
        Ok(())
    }
}
