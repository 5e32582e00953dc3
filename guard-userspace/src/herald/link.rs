//! The herald's connections to guardd, in the words of the control socket.

use std::{io, os::unix::net::UnixStream as StdStream, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, mpsc},
};

use crate::{
    event::{Event, Kind},
    wire::{HeraldRequest, MAX_LINE, Reply, Request},
};

/// Events that wait for the herald. When it falls behind further guardd keeps them for it, and serves it from the
/// journal.
const ROOM: usize = 256;

/// The connection for questions, one at a time.
#[derive(Clone, Debug)]
pub(crate) struct Link(Arc<Mutex<Lines>>);

#[derive(Debug)]
struct Lines {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

/// What guardd said.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Told {
    /// It was done.
    Reply(Reply),
    /// It was not, for this reason.
    Refused(String),
}

impl Link {
    pub(crate) fn new(stream: StdStream) -> io::Result<Self> {
        Ok(Self(Arc::new(Mutex::new(Lines::new(stream)?))))
    }

    /// Asks. A refusal is an error.
    ///
    /// # Errors
    /// When guardd has gone or refuses.
    pub(crate) async fn ask(&self, request: &Request) -> io::Result<Reply> {
        let mut lines = self.0.lock().await;
        lines.send(request).await?;
        match lines.next().await? {
            Some(Reply::Error(failure)) => Err(io::Error::other(failure.message)),
            Some(reply) => Ok(reply),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Asks what only the herald may.
    ///
    /// # Errors
    /// When guardd has gone.
    pub(crate) async fn herald(&self, request: HeraldRequest) -> io::Result<Told> {
        let mut lines = self.0.lock().await;
        lines.send(&Request::Herald(request)).await?;
        match lines.next().await? {
            Some(Reply::Error(failure)) => Ok(Told::Refused(failure.message)),
            Some(reply) => Ok(Told::Reply(reply)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Lines {
    fn new(stream: StdStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (reader, writer) = UnixStream::from_std(stream)?.into_split();
        Ok(Self {
            reader: BufReader::new(reader),
            writer,
        })
    }

    async fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.writer.write_all(&line).await
    }

    /// `None` when guardd has gone.
    async fn next(&mut self) -> io::Result<Option<Reply>> {
        let mut line = Vec::new();
        let read = (&mut self.reader)
            .take(MAX_LINE as u64 + 1)
            .read_until(b'\n', &mut line)
            .await?;
        if read == 0 {
            return Ok(None);
        }
        Ok(Some(serde_json::from_slice(&line)?))
    }
}

/// Events of these kinds from the one after `after` on. The channel ends when guardd does.
pub(super) async fn follow(
    stream: StdStream,
    kinds: Vec<Kind>,
    after: u64,
) -> io::Result<mpsc::Receiver<Event>> {
    let mut lines = Lines::new(stream)?;
    let request = Request::Events {
        follow: true,
        session: None,
        kinds,
        after,
    };
    lines.send(&request).await?;
    let (sender, receiver) = mpsc::channel(ROOM);
    tokio::spawn(async move {
        while let Ok(Some(reply)) = lines.next().await {
            match reply {
                Reply::Event(event) => {
                    if sender.send(*event).await.is_err() {
                        return;
                    }
                }
                other => {
                    tracing::error!("{}", super::unexpected(&other));
                    return;
                }
            }
        }
    });
    Ok(receiver)
}
