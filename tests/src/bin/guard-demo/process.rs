//! Children that never outlive the demo.
//!
//! Each gets a session of its own, so that Ctrl-C on the terminal reaches the demo alone, which then
//! ends them in the right order; and each is signalled by the kernel should the demo die without
//! having been able to. What they leave behind is adopted by the demo (it is a subreaper) and killed.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader, Read},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::{Child, Command, ExitStatus},
    sync::mpsc::Sender,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, pidfd_send_signal,
        set_child_subreaper, set_parent_process_death_signal, setsid, waitpid,
    },
};

use crate::interrupt;

/// How long a child may take to end after SIGTERM.
const TERM_GRACE: Duration = Duration::from_secs(5);

/// How long one may take to end after SIGKILL: only the kernel can be slow then.
const KILL_GRACE: Duration = Duration::from_secs(5);

/// How long a wait goes on before it looks whether the demo is to end.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// A running child; dropped, it is ended.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    exit: OwnedFd,
    status: Option<ExitStatus>,
    polite: bool,
}

impl Process {
    /// Starts `command`. `polite`: it is ended by SIGTERM and given time, else by SIGKILL.
    ///
    /// To be called on the main thread: the kernel takes the end of the thread that forked for the
    /// end of the parent.
    pub(crate) fn spawn(name: &'static str, command: &mut Command, polite: bool) -> Result<Self> {
        let on_death = if polite { Signal::TERM } else { Signal::KILL };
        let parent = getpid();
        // SAFETY: between fork and exec this makes system calls only, allocates nothing and takes no
        // lock; the errors are made from plain error numbers.
        unsafe {
            command.pre_exec(move || {
                setsid()?;
                set_parent_process_death_signal(Some(on_death))?;
                // The demo may have died before that took effect.
                if rustix::process::getppid() != Some(parent) {
                    return Err(rustix::io::Errno::SRCH.into());
                }
                Ok(())
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let pid = Pid::from_child(&child);
        // Not reaped yet, so the pid is still this child's.
        let exit = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
        Ok(Self {
            name,
            child,
            exit,
            status: None,
            polite,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended; `None` when it still runs after `timeout`.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        if self.status.is_none() && ends_within(&self.exit, timeout)? {
            self.status = Some(self.child.wait()?);
        }
        Ok(self.status)
    }

    /// How it ended, which it must within `timeout`.
    pub(crate) fn wait_for(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Some(status) = self.wait(left.min(LOOK))? {
                return Ok(status);
            }
            interrupt::check()?;
            if left.is_zero() {
                bail!("{}: still runs after {} s", self.name, timeout.as_secs());
            }
        }
    }

    /// Ends it and says how it ended; an error when it had to be killed although it is polite.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.wait(Duration::ZERO)? {
            return Ok(status);
        }
        if self.polite {
            signal(&self.exit, Signal::TERM)?;
            if let Some(status) = self.wait(TERM_GRACE)? {
                return Ok(status);
            }
        }
        signal(&self.exit, Signal::KILL)?;
        let status = self.wait(KILL_GRACE)?;
        if self.polite {
            bail!("{}: no end after SIGTERM: killed", self.name);
        }
        status.with_context(|| format!("{}: no end after SIGKILL", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("guard-demo: clean-up: {error:#}");
        }
    }
}

fn ends_within(exit: &OwnedFd, timeout: Duration) -> Result<bool> {
    let timeout = Timespec::try_from(timeout).context("timeout")?;
    let mut fds = [PollFd::new(exit, PollFlags::IN)];
    match poll(&mut fds, Some(&timeout)) {
        Ok(ended) => Ok(ended > 0),
        // A signal: the caller looks at it, and waits on.
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error).context("poll"),
    }
}

fn signal(process: &OwnedFd, signal: Signal) -> Result<()> {
    match pidfd_send_signal(process, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("pidfd_send_signal"),
    }
}

/// Sends each line of `from`, as `message` makes it one, until it ends.
pub(crate) fn send_lines<M: Send + 'static>(
    from: impl Read + Send + 'static,
    to: Sender<M>,
    message: impl Fn(String) -> M + Send + 'static,
) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line);
            if to
                .send(message(text.trim_end_matches('\n').to_owned()))
                .is_err()
            {
                break;
            }
            line.clear();
        }
    });
}

/// Makes the demo the parent of whatever its children leave behind.
pub(crate) fn adopt_orphans() -> Result<()> {
    set_child_subreaper(Some(getpid())).context("PR_SET_CHILD_SUBREAPER")
}

/// Kills everything below the demo but `keep` and what is below those; what it was.
pub(crate) fn kill_strays(keep: &[u32]) -> Result<Vec<String>> {
    let mut killed = Vec::new();
    // A stray may fork while the list is being worked on.
    for _ in 0..10 {
        let strays = descendants(keep)?;
        if strays.is_empty() {
            break;
        }
        for stray in strays {
            let Some(pid) = i32::try_from(stray.pid).ok().and_then(Pid::from_raw) else {
                continue;
            };
            if !stray.zombie {
                let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
                    continue;
                };
                killed.push(format!("{} (pid {})", stray.name, stray.pid));
                signal(&process, Signal::KILL)?;
                if !ends_within(&process, KILL_GRACE)? {
                    bail!("{} (pid {}): no end after SIGKILL", stray.name, stray.pid);
                }
            }
            // Ours to reap if its parent is gone; if not, its parent's.
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
    Ok(killed)
}

struct Descendant {
    pid: u32,
    name: String,
    zombie: bool,
}

/// Everything below the demo but `keep` and what is below those, parents first.
fn descendants(keep: &[u32]) -> Result<Vec<Descendant>> {
    let mut children: HashMap<u32, Vec<Descendant>> = HashMap::new();
    for entry in fs::read_dir("/proc").context("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Some((name, state, ppid)) = stat(pid) else {
            continue;
        };
        children.entry(ppid).or_default().push(Descendant {
            pid,
            name,
            zombie: state == 'Z',
        });
    }
    let mut found = Vec::new();
    let mut parents = vec![std::process::id()];
    while let Some(parent) = parents.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            if !keep.contains(&child.pid) {
                parents.push(child.pid);
                found.push(child);
            }
        }
    }
    Ok(found)
}

/// Name, state and parent of a process, `None` when there is none; proc_pid_stat(5).
fn stat(pid: u32) -> Option<(String, char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and parentheses.
    let (head, tail) = stat.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let mut fields = tail.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let ppid = fields.next()?.parse().ok()?;
    Some((name.to_owned(), state, ppid))
}

/// Whether a process is stopped (`T`) by the time `timeout` has passed.
pub(crate) fn is_stopped_within(pid: u32, timeout: Duration) -> Result<bool> {
    let deadline = Instant::now() + timeout;
    loop {
        match stat(pid) {
            Some((_, 'T', _)) => return Ok(true),
            Some(_) if Instant::now() < deadline => {
                interrupt::check()?;
                // Nothing tells a process that is not the parent; a stop takes microseconds.
                thread::sleep(Duration::from_millis(1));
            }
            _ => return Ok(false),
        }
    }
}
