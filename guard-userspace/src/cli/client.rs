//! The conversation with guardd: one request, then its replies, over the control socket.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType,
        sockopt::{self, Timeout},
    },
};

use crate::{
    cli::failure::Failure,
    wire::{MAX_LINE, Reply, Request},
};

/// How long guardd may think about one request before it counts as gone. Adopting a large process
/// tree is the slowest and takes well under a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects to `socket`. Where its queue is full, the kernel waits for a place in it for as long as writing may take:
/// so the limit is set before.
fn connect(socket: &Path, patience: Duration) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(socket)?;
    let stream = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    sockopt::set_socket_timeout(&stream, Timeout::Send, Some(patience))?;
    rustix::net::connect(&stream, &address).map_err(|errno| match errno {
        Errno::AGAIN => io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "no free place in its queue of connections within {}",
                crate::clock::human(patience)
            ),
        ),
        errno => errno.into(),
    })?;
    Ok(stream.into())
}

/// A connection to guardd that a request has been sent over.
pub struct Conversation {
    socket: PathBuf,
    replies: BufReader<UnixStream>,
}

impl Conversation {
    /// Connects and sends the request.
    pub fn open(socket: &Path, request: &Request) -> Result<Self, Failure> {
        let stream = connect(socket, PATIENCE).map_err(|source| {
            let socket = socket.to_owned();
            match source.kind() {
                io::ErrorKind::PermissionDenied => Failure::SocketForbidden { socket, source },
                _ => Failure::Unreachable { socket, source },
            }
        })?;
        let conversation = Self {
            socket: socket.to_owned(),
            replies: BufReader::new(stream),
        };
        conversation.send(request)?;
        Ok(conversation)
    }

    /// Sends one more request and takes its reply; a refusal is an error, and the conversation goes on after it.
    pub fn ask(&mut self, request: &Request) -> Result<Reply, Failure> {
        self.send(request)?;
        self.next()
    }

    fn send(&self, request: &Request) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(request)
            .map_err(|error| Failure::Invalid(format!("the request: {error}")))?;
        line.push(b'\n');
        if line.len() > MAX_LINE {
            return Err(Failure::Invalid(format!(
                "the request is longer than {MAX_LINE} bytes: shorten its texts"
            )));
        }
        let mut stream = self.replies.get_ref();
        stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .and_then(|()| stream.write_all(&line))
            .map_err(|source| self.lost(source))
    }

    /// From here on silence is no fault: events come when they come.
    pub fn wait_for_ever(&self) -> Result<(), Failure> {
        self.replies
            .get_ref()
            .set_read_timeout(None)
            .map_err(|source| self.lost(source))
    }

    /// The next reply; a refusal is an error.
    pub fn next(&mut self) -> Result<Reply, Failure> {
        let mut line = Vec::new();
        let read = self
            .replies
            .by_ref()
            .take(MAX_LINE as u64 + 1)
            .read_until(b'\n', &mut line);
        match read {
            Ok(0) => Err(self.lost(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it closed the connection",
            ))),
            Ok(_) if line.last() != Some(&b'\n') && line.len() > MAX_LINE => {
                Err(self.unexpected(format!("a line longer than {MAX_LINE} bytes")))
            }
            Ok(_) if line.last() != Some(&b'\n') => Err(self.lost(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it broke off in the middle of a reply",
            ))),
            Ok(_) => {
                match serde_json::from_slice(&line) {
                    Ok(Reply::Error(failure)) => Err(Failure::Refused(failure)),
                    Ok(reply) => Ok(reply),
                    Err(error) => Err(self
                        .unexpected(format!("what this guardctl does not understand ({error})"))),
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                let silence = format!("no answer within {}", crate::clock::human(PATIENCE));
                Err(self.lost(io::Error::new(io::ErrorKind::TimedOut, silence)))
            }
            Err(error) => Err(self.lost(error)),
        }
    }

    /// A reply that is none to what was asked.
    pub fn unexpected(&self, what: String) -> Failure {
        Failure::Protocol {
            socket: self.socket.clone(),
            what,
        }
    }

    fn lost(&self, source: io::Error) -> Failure {
        Failure::Lost {
            socket: self.socket.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_full_queue_is_not_waited_for_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guard.sock");
        let listener = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let short = Duration::from_millis(50);
        let mut waiting = Vec::new();
        let error = loop {
            match connect(&path, short) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
            assert!(waiting.len() < 100, "a queue without an end");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(error.to_string().contains("50"), "{error}");
        drop(listener);
    }
}
