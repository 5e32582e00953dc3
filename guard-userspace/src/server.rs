//! The control socket: finds out who is on the other end, passes requests to the engine, and streams
//! events. It decides nothing.

use std::{
    collections::HashMap,
    io,
    os::{
        fd::AsFd as _,
        unix::{fs::PermissionsExt as _, net::UnixStream as StdStream},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, broadcast::error::RecvError, mpsc, oneshot},
};

use crate::{
    engine::{Command, Handle, Peer},
    event::{Event, Kind},
    journal::Journal,
    kernel::Lineage,
    process,
    wire::{Code, Failure, MAX_LINE, Reply, Request},
};

/// Connections of root and group guard served at once; more wait to be accepted.
const CONNECTIONS: usize = 256;
/// Connections of one other user, and of all others together; more are refused, so that nobody keeps out
/// those who may answer. Processes inside sessions are others, whoever they run as.
const OF_ONE_USER: usize = 32;
/// See [`OF_ONE_USER`].
const OF_OTHERS: usize = 192;
/// Name of the group whose members may answer.
pub const GROUP: &str = "guard";

/// What keeps the socket from being served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Another daemon listens on it.
    #[error("socket {path}: another guardd{} listens there: stop it, or choose another with --socket", owner(*.pid))]
    InUse {
        /// The socket.
        path: PathBuf,
        /// Who listens, as far as the kernel tells.
        pid: Option<u32>,
    },
    /// Something that is not a socket is in its place.
    #[error(
        "socket {path}: something that is not a socket is there: move it away, or choose another with --socket"
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// It could not be made.
    #[error("socket {path}: {source}: choose a directory that root can write with --socket")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

/// Refuses a socket that somebody listens on, and removes one that nobody does.
///
/// # Errors
/// See [`ServerError`].
pub fn check(path: &Path) -> Result<(), ServerError> {
    use std::os::unix::fs::FileTypeExt as _;
    let bind = |source| ServerError::Bind {
        path: path.into(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(bind(error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(ServerError::NotASocket { path: path.into() });
        }
        Ok(_) => {}
    }
    match StdStream::connect(path) {
        Ok(stream) => {
            let pid = sockopt::socket_peercred(stream.as_fd())
                .ok()
                .map(|cred| cred.pid.as_raw_nonzero().get() as u32);
            Err(ServerError::InUse {
                path: path.into(),
                pid,
            })
        }
        // Left behind by a daemon that was killed.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(bind)
        }
        Err(error) => Err(bind(error)),
    }
}

/// A socket that has its name but does not listen yet: whoever connects is refused.
#[derive(Debug)]
pub struct Bound {
    socket: tokio::net::UnixSocket,
    path: PathBuf,
}

/// Takes the socket's name.
///
/// # Errors
/// See [`ServerError`].
pub fn bind(path: &Path) -> Result<Bound, ServerError> {
    let failed = |source| ServerError::Bind {
        path: path.into(),
        source,
    };
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let socket = tokio::net::UnixSocket::new_stream().map_err(failed)?;
    socket.bind(path).map_err(failed)?;
    // Everybody may ask; what is answered depends on who the kernel says they are.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(Bound {
        socket,
        path: path.into(),
    })
}

impl Bound {
    /// Begins to listen. From here on the daemon is ready.
    ///
    /// # Errors
    /// See [`ServerError`].
    pub fn listen(self) -> Result<UnixListener, ServerError> {
        let Self { socket, path } = self;
        socket
            .listen(128)
            .map_err(|source| ServerError::Bind { path, source })
    }
}

/// Serves connections for as long as it is polled.
pub async fn serve(listener: UnixListener, handle: Handle, lineage: Lineage) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let others = Others::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let peer = match peer_of(&stream) {
                    Ok(peer) => peer,
                    Err(error) => {
                        tracing::debug!(%error, "a connection without a peer");
                        continue;
                    }
                };
                // One that a session could take all seats of, by a process of root's, would keep out whoever answers.
                // Of one that has gone it is not known whose it was.
                let outside = peer.start.is_some() && !lineage.has(peer.pid);
                let seat = if peer.privileged && outside {
                    match Arc::clone(&room).acquire_owned().await {
                        Ok(permit) => Some(Seat::Privileged(permit)),
                        Err(_) => return,
                    }
                } else {
                    others.take(peer.uid).map(Seat::Other)
                };
                let handle = handle.clone();
                tokio::spawn(async move {
                    let refused = seat.is_none();
                    if let Err(error) = connection(stream, peer, &handle, refused).await {
                        tracing::debug!(%error, "a connection ended");
                    }
                    drop(seat);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                // Out of descriptors: nothing helps but others' going.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// What a connection occupies while it lasts.
#[expect(dead_code, reason = "held to be dropped")]
enum Seat {
    Privileged(tokio::sync::OwnedSemaphorePermit),
    Other(OthersSeat),
}

/// Connections of users who may not answer, by uid.
#[derive(Clone, Default)]
struct Others(Arc<Mutex<HashMap<u32, usize>>>);

impl Others {
    fn take(&self, uid: u32) -> Option<OthersSeat> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = counts.values().sum();
        let own = counts.entry(uid).or_default();
        if *own >= OF_ONE_USER || all >= OF_OTHERS {
            return None;
        }
        *own += 1;
        Some(OthersSeat(self.clone(), uid))
    }
}

struct OthersSeat(Others, u32);

impl Drop for OthersSeat {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.1);
            }
        }
    }
}

fn peer_of(stream: &UnixStream) -> io::Result<Peer> {
    let cred = sockopt::socket_peercred(stream.as_fd())?;
    let pid = cred.pid.as_raw_nonzero().get() as u32;
    let uid = cred.uid.as_raw();
    Ok(Peer {
        pid,
        start: process::stat(pid)
            .filter(process::Stat::is_alive)
            .map(|stat| stat.id.start),
        uid,
        privileged: is_privileged(pid, uid, Some(cred.gid.as_raw())),
        herald: false,
    })
}

/// Whether a process may answer: root's, or one in group `guard` by the group that the kernel told of it or by its
/// others.
pub(crate) fn is_privileged(pid: u32, uid: u32, gid: Option<u32>) -> bool {
    let in_group = || {
        let guard = group_id(GROUP)?;
        Some(gid == Some(guard) || process::groups(pid).contains(&guard))
    };
    uid == 0 || in_group().unwrap_or(false)
}

/// A group's number, from `/etc/group`.
pub(crate) fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

/// One connection's two halves.
struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Connection {
    async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        let mut text = serde_json::to_vec(reply)?;
        text.push(b'\n');
        self.writer.write_all(&text).await
    }

    /// The next line, without its end; `None` at the end of the stream, an error of kind
    /// `InvalidData` when it is too long.
    async fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        // One byte more than allowed, to tell "just fits" from "too long".
        let read = (&mut self.reader)
            .take(MAX_LINE as u64 + 1)
            .read_until(b'\n', &mut line)
            .await?;
        if read == 0 {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') && read > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        line.truncate(line.trim_ascii_end().len());
        Ok(Some(line))
    }
}

fn failure(code: Code, message: impl Into<String>) -> Reply {
    Reply::Error(Failure {
        code,
        message: message.into(),
    })
}

/// One connection, to its end.
pub(crate) async fn connection(
    stream: UnixStream,
    peer: Peer,
    handle: &Handle,
    refused: bool,
) -> io::Result<()> {
    let (reader, writer) = stream.into_split();
    let mut connection = Connection {
        reader: BufReader::new(reader),
        writer,
    };
    if refused {
        let why = format!(
            "uid {}: too many connections at once: close some of them",
            peer.uid
        );
        return connection.send(&failure(Code::Failed, why)).await;
    }
    loop {
        let line = match connection.line().await {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let reply = failure(
                    Code::Invalid,
                    format!("request: longer than {MAX_LINE} bytes"),
                );
                return connection.send(&reply).await;
            }
            Err(error) => return Err(error),
        };
        let request: Request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                connection
                    .send(&failure(Code::Invalid, format!("request: {error}")))
                    .await?;
                continue;
            }
        };
        if let Request::Events {
            follow,
            session,
            kinds,
            after,
        } = &request
        {
            let (follow, after) = (*follow, *after);
            // Through the engine first: it knows the sessions, and what the kernel has told by now comes
            // into the journal before it is read.
            let (session, kinds) = (session.clone(), kinds.clone());
            let answer = ask(handle, &peer, request).await;
            if matches!(answer, Reply::Error(_)) {
                connection.send(&answer).await?;
                continue;
            }
            let wanted = Wanted {
                session,
                kinds,
                uid: (!peer.privileged).then_some(peer.uid),
            };
            events(&mut connection, handle, follow, after, &wanted).await?;
            continue;
        }
        let answer = ask(handle, &peer, request).await;
        connection.send(&bounded(answer)).await?;
    }
}

/// The engine's answer.
async fn ask(handle: &Handle, peer: &Peer, request: Request) -> Reply {
    let (reply, answer) = oneshot::channel();
    let command = Command {
        peer: peer.clone(),
        request,
        reply,
    };
    let answer = match handle.requests.send(command).await {
        Ok(()) => answer.await.ok(),
        Err(_) => None,
    };
    answer.unwrap_or_else(|| failure(Code::Unreachable, "guardd is stopping"))
}

/// A reply that would not fit one line loses its oldest part, visibly, and not its end; of holds the newest, and says how
/// many.
fn bounded(mut reply: Reply) -> Reply {
    let fits = |reply: &Reply| serde_json::to_vec(reply).is_ok_and(|text| text.len() < MAX_LINE);
    while !fits(&reply) {
        match &mut reply {
            Reply::Show(detail) if !detail.timeline.is_empty() => {
                let half = detail.timeline.len().div_ceil(2);
                detail.timeline.drain(..half);
            }
            Reply::Show(detail) if !detail.tree.is_empty() => {
                let half = detail.tree.len() / 2;
                detail.tree.truncate(half);
            }
            Reply::Pending {
                holds, left_out, ..
            } if holds.len() > 1 => {
                let half = holds.len() / 2;
                *left_out += (holds.len() - half) as u64;
                holds.truncate(half);
            }
            _ => return failure(Code::Failed, "the answer is longer than one line may be"),
        }
    }
    reply
}

/// Sends what has happened, from the journal, and then what happens. A listener that falls behind is
/// served from the journal again: it is slow, but misses nothing.
async fn events(
    connection: &mut Connection,
    handle: &Handle,
    follow: bool,
    after: u64,
    wanted: &Wanted,
) -> io::Result<()> {
    // Before the journal is read, so that nothing falls between the two.
    let mut live = handle.events.subscribe();
    let mut last = replay(connection, handle, after, wanted).await?;
    if !follow {
        return connection
            .send(&Reply::Done {
                message: String::new(),
            })
            .await;
    }
    let mut byte = [0u8; 1];
    loop {
        let next = tokio::select! {
            next = live.recv() => next,
            // The listener says nothing; when it hangs up, this ends.
            read = connection.reader.read(&mut byte) => {
                if read? == 0 { return Ok(()); }
                continue;
            }
        };
        match next {
            // An event that the journal could not take has no number; it is told all the same.
            Ok(event) if event.seq == 0 || event.seq > last => {
                last = last.max(event.seq);
                if wanted.matches(&event) {
                    connection
                        .send(&Reply::Event(Box::new((*event).clone())))
                        .await?;
                }
            }
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => last = replay(connection, handle, last, wanted).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

/// Sends what the journal has after `after`; gives the last number seen.
async fn replay(
    connection: &mut Connection,
    handle: &Handle,
    after: u64,
    wanted: &Wanted,
) -> io::Result<u64> {
    let (sender, mut receiver) = mpsc::channel::<Event>(256);
    let dir = handle.state_dir.clone();
    let reader = tokio::task::spawn_blocking(move || match Journal::read(&dir, after) {
        Ok(events) => {
            for event in events {
                match event {
                    Ok(event) => {
                        if sender.blocking_send(event).is_err() {
                            return;
                        }
                    }
                    Err(error) => tracing::error!(%error, "the journal"),
                }
            }
        }
        Err(error) => tracing::error!(%error, "the journal"),
    });
    let mut last = after;
    while let Some(event) = receiver.recv().await {
        last = last.max(event.seq);
        if wanted.matches(&event) {
            connection.send(&Reply::Event(Box::new(event))).await?;
        }
    }
    let _ = reader.await;
    Ok(last)
}

struct Wanted {
    session: Option<String>,
    kinds: Vec<Kind>,
    uid: Option<u32>,
}

impl Wanted {
    fn matches(&self, event: &Event) -> bool {
        self.session.as_ref().is_none_or(|name| event.session.as_ref() == Some(name))
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            // An unprivileged listener sees what its own processes did.
            && self.uid.is_none_or(|uid| event.uid == Some(uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::approval::a_hold;

    #[test]
    fn holds_that_have_no_room_in_a_reply_are_counted() {
        let mut hold = a_hold();
        hold.target = "x".repeat(10_000);
        let holds = vec![hold; 3 * MAX_LINE / 10_000];
        let all = holds.len() as u64;
        let Reply::Pending {
            holds, left_out, ..
        } = bounded(Reply::Pending {
            holds,
            left_out: 0,
            asked: Vec::new(),
        })
        else {
            panic!("another reply");
        };
        assert!(!holds.is_empty() && left_out > 0);
        assert_eq!(holds.len() as u64 + left_out, all);
        let few = Reply::Pending {
            holds: vec![a_hold()],
            left_out: 0,
            asked: Vec::new(),
        };
        assert_eq!(bounded(few.clone()), few);
    }
}
