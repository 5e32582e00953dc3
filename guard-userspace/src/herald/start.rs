//! guardd's side: starts the herald where the policy asks for one, and again when it has ended.

use std::{
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{net::UnixStream as StdStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{
    io::unix::AsyncFd,
    net::UnixStream,
    sync::{broadcast, broadcast::error::RecvError, oneshot},
    task::JoinSet,
    time::Instant,
};

use super::{ARGUMENT, ASK_FD, HEAR_FD, LAST_WORDS};
use crate::{
    engine::{Command as Asked, Handle, Peer},
    event::{Event, Kind},
    server,
    wire::{HeraldReply, HeraldRequest, Reply, Request},
};

/// How long after a first end it is started again; twice as long each time.
const SOON: Duration = Duration::from_millis(250);
/// The longest of these times.
const LATE: Duration = Duration::from_secs(30);
/// See `nice(2)`.
const NICE: i32 = -10;
/// One that has lived so long has not failed at its start.
const LIVED: Duration = Duration::from_secs(60);

/// Looks after the herald for as long as it is polled.
pub async fn supervise(handle: Handle, socket: PathBuf) {
    let mut events = handle.events.subscribe();
    let mut wait = SOON;
    loop {
        let wants = wanted(&handle).await;
        if !wants.herald {
            policy_changes(&mut events).await;
            continue;
        }
        let began = Instant::now();
        let why = match Running::start(&socket, &handle) {
            Ok(mut running) => {
                tell(
                    &handle,
                    HeraldRequest::Started {
                        pid: running.child.id(),
                    },
                )
                .await;
                tokio::select! {
                    ended = running.ended() => ended,
                    () = other_is_wanted(&handle, &mut events, wants) => {
                        running.dismiss().await;
                        tell(&handle, HeraldRequest::Gone { why: None }).await;
                        continue;
                    }
                }
            }
            Err(error) => format!("it could not be started: {error}"),
        };
        if began.elapsed() > LIVED {
            wait = SOON;
        }
        tracing::error!("the herald: {why}: it is started again in {wait:?}");
        tell(&handle, HeraldRequest::Gone { why: Some(why) }).await;
        // A new policy may be what helps.
        let _ = tokio::time::timeout(wait, policy_changes(&mut events)).await;
        wait = (wait * 2).min(LATE);
    }
}

/// Waits until followers of events, the herald among them, have been sent the last ones; not for long.
pub async fn farewell(handle: &Handle) {
    let deadline = Instant::now() + Duration::from_millis(500);
    while !handle.events.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What the policy wants of a herald.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Wants {
    /// That there is one.
    herald: bool,
    /// That it is told of every event, which it asks for when it starts.
    all: bool,
}

/// Comes when the policy asks for none any more, or for one that hears of other things.
async fn other_is_wanted(
    handle: &Handle,
    events: &mut broadcast::Receiver<std::sync::Arc<Event>>,
    wants: Wants,
) {
    loop {
        policy_changes(events).await;
        if wanted(handle).await != wants {
            return;
        }
    }
}

async fn policy_changes(events: &mut broadcast::Receiver<std::sync::Arc<Event>>) {
    loop {
        match events.recv().await {
            Ok(event) if event.kind == Kind::Policy => return,
            Ok(_) => {}
            // It may have been among those.
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn peer(pid: u32) -> Peer {
    Peer {
        pid,
        start: crate::process::stat(pid).map(|stat| stat.id.start),
        uid: 0,
        privileged: true,
        herald: true,
    }
}

async fn ask(handle: &Handle, request: HeraldRequest) -> Option<Reply> {
    let (reply, answer) = oneshot::channel();
    let asked = Asked {
        peer: peer(std::process::id()),
        request: Request::Herald(request),
        reply,
    };
    handle.requests.send(asked).await.ok()?;
    answer.await.ok()
}

async fn tell(handle: &Handle, request: HeraldRequest) {
    if let Some(Reply::Error(failure)) = ask(handle, request).await {
        tracing::error!("the herald: {}", failure.message);
    }
}

async fn wanted(handle: &Handle) -> Wants {
    match ask(handle, HeraldRequest::Settings).await {
        Some(Reply::Herald(HeraldReply::Settings { settings, .. })) => Wants {
            herald: settings.wants_herald(),
            all: settings.hears_all(),
        },
        // The engine has ended, and this ends with it.
        _ => std::future::pending().await,
    }
}

/// One herald and what serves its connections.
struct Running {
    child: Child,
    pidfd: AsyncFd<OwnedFd>,
    serving: JoinSet<()>,
}

impl Running {
    fn start(socket: &Path, handle: &Handle) -> io::Result<Self> {
        let (ask, its_ask) = StdStream::pair()?;
        let (hear, its_hear) = StdStream::pair()?;
        let mut command = command(socket, [its_ask.as_raw_fd(), its_hear.as_raw_fd()]);
        let child = command.spawn()?;
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        let mut serving = JoinSet::new();
        for stream in [ask, hear] {
            stream.set_nonblocking(true)?;
            let (stream, handle) = (UnixStream::from_std(stream)?, handle.clone());
            let peer = peer(child.id());
            serving.spawn(async move {
                if let Err(error) = server::connection(stream, peer, &handle, false).await {
                    tracing::debug!(%error, "the herald's connection ended");
                }
            });
        }
        // SAFETY: an owned descriptor is open for as long as the AsyncFd owns it.
        let pidfd =
            unsafe { AsyncFd::register_with_interest(pidfd, tokio::io::Interest::READABLE) };
        Ok(Self {
            child,
            pidfd: pidfd.map_err(io::Error::from)?,
            serving,
        })
    }

    /// Waits for its end; how it ended.
    async fn ended(&mut self) -> String {
        // A pidfd is readable when its process has ended.
        let _ = self.pidfd.readable().await.map(drop);
        match self.child.wait() {
            Ok(status) => format!("it ended ({status})"),
            Err(error) => format!("it ended ({error})"),
        }
    }

    /// Hangs up, which ends it.
    async fn dismiss(mut self) {
        self.serving.shutdown().await;
        if tokio::time::timeout(LAST_WORDS * 3, self.ended())
            .await
            .is_err()
        {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn command(socket: &Path, fds: [i32; 2]) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("guardd-herald")
        .arg(ARGUMENT)
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            // Away from the numbers that they are to get, first.
            let mut moved = [0; 2];
            for (slot, fd) in moved.iter_mut().zip(fds) {
                *slot = libc::fcntl(fd, libc::F_DUPFD, 16);
                if *slot < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            for (from, to) in moved.into_iter().zip([ASK_FD, HEAR_FD]) {
                if libc::dup2(from, to) < 0 {
                    return Err(io::Error::last_os_error());
                }
                libc::close(from);
            }
            // guardd runs before every ordinary process; this one is an ordinary process.
            // By the call itself, whose parameter is the priority alone: musl's function does nothing.
            let ordinary: libc::c_int = 0;
            libc::syscall(
                libc::SYS_sched_setscheduler,
                0,
                libc::SCHED_OTHER,
                &raw const ordinary,
            );
            // But agents that keep the machine busy must not keep people from being told.
            libc::setpriority(libc::PRIO_PROCESS, 0, NICE);
            // Ctrl-C at the terminal is for guardd, with which the herald ends.
            libc::setsid();
            Ok(())
        });
    }
    command
}
