//! A user's session bus, spoken to as that user: the bus lets nobody else in, root neither.

use std::{
    collections::HashMap,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _},
            net::UnixStream as StdStream,
        },
    },
    pin::Pin,
};

use futures_util::{Stream, StreamExt as _};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::net::{
    UnixStream,
    unix::{OwnedReadHalf, OwnedWriteHalf},
};
use zbus::{
    Connection, MatchRule, MessageStream,
    connection::{
        Builder,
        socket::{ReadHalf, Socket, Split},
    },
    fdo::DBusProxy,
    message::Type,
    names::BusName,
    zvariant::Value,
};

use super::soon;
use crate::{process, wire::Through};

const NAME: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";
/// Signals that wait to be looked at.
const SIGNALS: usize = 64;
/// The longest message that is read, in bytes.
const LONGEST: u64 = 1 << 20;
/// `getsockopt`: a pidfd of who listens, from Linux 6.5 on.
/// <https://github.com/torvalds/linux/blob/v6.5/include/uapi/asm-generic/socket.h#L137>
const SO_PEERPIDFD: libc::c_int = 77;

/// What is to be shown.
pub(super) struct Call<'a> {
    /// The notification in whose place it comes; 0 for none.
    pub(super) replaces: u32,
    pub(super) summary: &'a str,
    pub(super) body: &'a str,
    pub(super) actions: Vec<&'a str>,
    pub(super) hints: HashMap<&'static str, Value<'a>>,
}

/// What a notification service says of a notification.
#[derive(Clone, Debug)]
pub(super) struct Signal {
    pub(super) sender: String,
    pub(super) id: u32,
    /// What was clicked; `None` when it was closed.
    pub(super) action: Option<String>,
}

/// A connection.
pub(super) struct Bus {
    connection: Connection,
    path: String,
    listener: Result<Through, String>,
}

impl Bus {
    /// Connects as this user. With it come the signals of notifications, from before the first is shown.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn connect(path: &str, uid: u32) -> Result<(Self, MessageStream), String> {
        let at = path.to_owned();
        // A thread of its own, since it becomes the user and stays so.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || sender.send(connect_as(&at, uid)));
        let stream = receiver.await.map_err(|error| error.to_string())?;
        let stream = stream.map_err(|error| format!("{path}: {error}"))?;
        let listener = listener(&stream);
        let stream = UnixStream::from_std(stream).map_err(|error| error.to_string())?;
        let building = Builder::socket(Bounded::new(stream))
            .user_id(uid)
            .max_queued(SIGNALS)
            .method_timeout(super::PATIENCE)
            .build();
        let connection = soon(path, building).await?;
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .interface(NAME)
            .and_then(|rule| rule.path(PATH))
            .map_err(|error| error.to_string())?
            .build();
        let signals = MessageStream::for_match_rule(rule, &connection, Some(SIGNALS));
        let signals = soon("its signals", signals).await?;
        let bus = Self {
            connection,
            path: path.into(),
            listener,
        };
        Ok((bus, signals))
    }

    /// Its socket.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The process that listens there, which passes on what it likes.
    ///
    /// # Errors
    /// In words, when that cannot be known.
    pub(super) fn listener(&self) -> Result<Through, String> {
        self.listener.clone()
    }

    /// What the notification service can do.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn capabilities(&self) -> Result<Vec<String>, String> {
        let call =
            self.connection
                .call_method(Some(NAME), PATH, Some(NAME), "GetCapabilities", &());
        let reply = soon("no notification service", call).await?;
        reply
            .body()
            .deserialize()
            .map_err(|error| format!("its notification service: {error}"))
    }

    /// Shows it; gives its number and the unique name of who shows it.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn notify(&self, call: Call<'_>) -> Result<(u32, String), String> {
        // Until it is closed: a hold waits.
        const NEVER: i32 = 0;
        let arguments = (
            "guard",
            call.replaces,
            "dialog-warning",
            call.summary,
            call.body,
            call.actions,
            call.hints,
            NEVER,
        );
        let call = self
            .connection
            .call_method(Some(NAME), PATH, Some(NAME), "Notify", &arguments);
        let reply = soon("its notification service", call).await?;
        let id = reply
            .body()
            .deserialize()
            .map_err(|error| format!("its notification service: {error}"))?;
        let sender = reply.header().sender().map(ToString::to_string);
        Ok((id, sender.ok_or("its bus does not say who has shown it")?))
    }

    /// The unique name of who shows notifications now.
    ///
    /// # Errors
    /// In words, when there is nobody.
    pub(super) async fn owner(&self) -> Result<String, String> {
        let bus = soon("the bus", DBusProxy::new(&self.connection)).await?;
        let name = BusName::try_from(NAME).map_err(|error| error.to_string())?;
        let owner = soon("no notification service", bus.get_name_owner(name)).await?;
        Ok(owner.to_string())
    }

    /// Takes it away; it may have gone already.
    pub(super) async fn close(&self, id: u32) {
        let number = (id,);
        let call =
            self.connection
                .call_method(Some(NAME), PATH, Some(NAME), "CloseNotification", &number);
        let _ = soon("closing", call).await;
    }

    /// The process behind a name on the bus.
    ///
    /// # Errors
    /// In words, when it has gone.
    pub(super) async fn process(&self, name: &str) -> Result<Through, String> {
        let name = BusName::try_from(name).map_err(|error| error.to_string())?;
        let bus = soon("the bus", DBusProxy::new(&self.connection)).await?;
        let credentials = soon("the bus", bus.get_connection_credentials(name)).await?;
        // Only a pidfd cannot mean a later process of that number.
        let pid = match credentials.process_fd() {
            Some(fd) => pid_of(fd.as_fd().as_raw_fd()),
            None => credentials.process_id(),
        };
        through(pid.ok_or("a process that has gone")?)
    }
}

/// What is said of notifications, by whomever; `None` for what is neither a click nor an end.
pub(super) fn signals(stream: MessageStream) -> impl Stream<Item = Option<Signal>> + Send {
    stream.map(|message| {
        let message = message.ok()?;
        let header = message.header();
        let sender = header.sender()?.to_string();
        let (id, action) = match header.member()?.as_str() {
            "ActionInvoked" => {
                let (id, action): (u32, String) = message.body().deserialize().ok()?;
                (id, Some(action))
            }
            "NotificationClosed" => {
                let (id, _): (u32, u32) = message.body().deserialize().ok()?;
                (id, None)
            }
            _ => return None,
        };
        Some(Signal { sender, id, action })
    })
}

fn through(pid: u32) -> Result<Through, String> {
    process::stat(pid)
        .filter(process::Stat::is_alive)
        .map(|stat| Through {
            pid,
            start: stat.id.start,
        })
        .ok_or_else(|| format!("pid {pid}, which has gone"))
}

/// The process of a pidfd, while it lives.
fn pid_of(fd: RawFd) -> Option<u32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    // -1 when it has gone.
    info.lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
}

/// Who listens at the other end of a connection.
fn listener(stream: &StdStream) -> Result<Through, String> {
    let (mut fd, mut length) = (-1, size_of::<RawFd>() as libc::socklen_t);
    // SAFETY: room for a descriptor and its size.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut fd).cast(),
            &mut length,
        )
    };
    let pid = if done == 0 {
        // SAFETY: the kernel has just made it for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        pid_of(fd.as_raw_fd())
    } else if io::Error::last_os_error().raw_os_error() == Some(libc::ENOPROTOOPT) {
        let credentials = sockopt::socket_peercred(stream).map_err(|error| error.to_string())?;
        Some(credentials.pid.as_raw_nonzero().get() as u32)
    } else {
        None
    };
    pid.map_or_else(|| Err("a bus whose process has gone".into()), through)
}

/// Connects as a user, on a thread that is that user from then on. Real and saved ids stay root's, so that nobody of
/// the user's may signal or trace the thread.
fn connect_as(path: &str, uid: u32) -> io::Result<StdStream> {
    let none = || {
        io::Error::new(
            io::ErrorKind::NotFound,
            "no session bus: nobody is at that desktop",
        )
    };
    // SAFETY: the call itself, not the C library's, which would change all threads.
    if unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(none()),
        meta => meta?,
    };
    if !meta.file_type().is_socket() || meta.uid() != uid {
        let why = "it is not a socket of that user's";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let address = SocketAddrUnix::new(path)?;
    // Without blocking: a socket whose queue somebody keeps full would be waited for.
    let stream = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::connect(&stream, &address)?;
    Ok(stream.into())
}

/// A connection that ends where a message of more than [`LONGEST`] bytes begins: anybody on the bus may send one, and
/// zbus would make room for 128 MiB.
#[derive(Debug)]
struct Bounded {
    stream: UnixStream,
}

impl Bounded {
    fn new(stream: UnixStream) -> Self {
        Self { stream }
    }
}

impl Socket for Bounded {
    type ReadHalf = BoundedRead;
    type WriteHalf = OwnedWriteHalf;

    fn split(self) -> Split<BoundedRead, OwnedWriteHalf> {
        let (read, write) = self.stream.into_split();
        let read = BoundedRead {
            read,
            lengths: Lengths::default(),
        };
        Split::new(read, write)
    }
}

#[derive(Debug)]
struct BoundedRead {
    read: OwnedReadHalf,
    lengths: Lengths,
}

type Received<'a> = Pin<Box<dyn Future<Output = io::Result<(usize, Vec<OwnedFd>)>> + Send + 'a>>;

impl ReadHalf for BoundedRead {
    fn recvmsg<'s, 'b, 'a>(&'s mut self, buf: &'b mut [u8]) -> Received<'a>
    where
        's: 'a,
        'b: 'a,
        Self: 'a,
    {
        Box::pin(async move {
            let (n, fds) = self.read.recvmsg(buf).await?;
            self.lengths.pass(&buf[..n])?;
            Ok((n, fds))
        })
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }
}

/// Follows what comes from a bus: two lines of the handshake (`OK …`, `AGREE_UNIX_FD`), then messages, of whose heads
/// the lengths are read. <https://dbus.freedesktop.org/doc/dbus-specification.html#message-protocol-messages>
#[derive(Debug, Default)]
struct Lengths {
    lines: u8,
    head: Vec<u8>,
    left: u64,
}

impl Lengths {
    /// # Errors
    /// When a message is too long.
    fn pass(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        const LINES: u8 = 2;
        const HEAD: usize = 16;
        while let Some(first) = bytes.first() {
            if self.lines < LINES {
                self.lines += u8::from(*first == b'\n');
                bytes = &bytes[1..];
            } else if self.left > 0 {
                let n = bytes
                    .len()
                    .min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= n as u64;
                bytes = &bytes[n..];
            } else {
                let n = bytes.len().min(HEAD - self.head.len());
                self.head.extend_from_slice(&bytes[..n]);
                bytes = &bytes[n..];
                if self.head.len() == HEAD {
                    self.left = Self::after(&self.head);
                    self.head.clear();
                    if self.left > LONGEST {
                        let why = format!("a message of {} bytes: more than {LONGEST}", self.left);
                        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                    }
                }
            }
        }
        Ok(())
    }

    /// Bytes that follow the first sixteen: the rest of the header's fields, padded to eight, and the body.
    fn after(head: &[u8]) -> u64 {
        let number = |at: usize| {
            let bytes: [u8; 4] = head[at..at + 4].try_into().unwrap_or_default();
            u64::from(if head[0] == b'B' {
                u32::from_be_bytes(bytes)
            } else {
                u32::from_le_bytes(bytes)
            })
        };
        number(12).next_multiple_of(8) + number(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: u32, body: u32, big: bool) -> Vec<u8> {
        let number = |n: u32| {
            if big {
                n.to_be_bytes()
            } else {
                n.to_le_bytes()
            }
        };
        let mut head = vec![if big { b'B' } else { b'l' }, 4, 0, 1];
        head.extend(number(body));
        head.extend(number(7));
        head.extend(number(fields));
        head
    }

    #[test]
    fn messages_pass_in_whatever_pieces_and_a_long_one_does_not() {
        let mut all = b"OK 0123456789abcdef\r\nAGREE_UNIX_FD\r\n".to_vec();
        for (fields, body, big) in [(13, 5, false), (0, 0, true), (24, 1000, true)] {
            all.extend(head(fields, body, big));
            all.extend(vec![
                b'x';
                fields.next_multiple_of(8) as usize + body as usize
            ]);
        }
        for size in [1, 7, 16, all.len()] {
            let mut lengths = Lengths::default();
            for piece in all.chunks(size) {
                lengths.pass(piece).unwrap();
            }
            assert_eq!((lengths.left, lengths.head.len()), (0, 0));
            let long = head(8, 100 << 20, false);
            assert!(lengths.pass(&long[..15]).is_ok());
            assert!(lengths.pass(&long[15..]).is_err());
        }
    }

    #[test]
    fn a_pidfd_is_its_process() {
        let pid = rustix::process::getpid();
        let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        assert_eq!(pid_of(fd.as_raw_fd()), Some(std::process::id()));
    }

    #[test]
    fn who_listens_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus");
        let listening = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let stream = StdStream::connect(&path).unwrap();
        assert_eq!(listener(&stream).unwrap().pid, std::process::id());
        drop(listening);
    }
}
