//! Processes as /proc shows them, and signals that cannot hit the wrong one.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::PathBuf,
};

use guard_common::NS_PER_TICK;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// One process: a pid together with its start time names it for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Start time, clock ticks since boot (`/proc/PID/stat`, field 22).
    pub start: u64,
}

impl Id {
    /// By the kernel's start time, nanoseconds.
    pub const fn new(pid: u32, start_ns: u64) -> Self {
        Self {
            pid,
            start: start_ns / NS_PER_TICK,
        }
    }
}

/// A line of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Who it is.
    pub id: Id,
    /// Its parent's pid.
    pub parent: u32,
    /// State letter: `R`, `S`, `T`, `Z` …
    pub state: char,
    /// Its process group.
    pub group: i32,
    /// Its terminal session.
    pub session: i32,
    /// Number of its controlling terminal, 0 for none.
    pub terminal: i32,
}

impl Stat {
    /// Whether it still runs. A zombie does not, unless only its first thread has ended.
    pub fn is_alive(&self) -> bool {
        !is_dead(self.state) || threads(self.id.pid).any(|state| !is_dead(state))
    }

    /// Whether it is a job of an interactive shell, as the kernel's side tells it (`exec::is_job`): it waits for guardd on its
    /// processor.
    pub fn is_job(&self) -> bool {
        self.terminal != 0
            && stat(self.parent)
                .is_some_and(|above| above.group != self.group && above.session == self.session)
    }

    /// Whether a signal has stopped it.
    pub fn is_stopped(&self) -> bool {
        self.state == 'T' || (is_dead(self.state) && threads(self.id.pid).any(|state| state == 'T'))
    }
}

fn is_dead(state: char) -> bool {
    matches!(state, 'Z' | 'X' | 'x')
}

/// State letters of a process's threads.
fn threads(pid: u32) -> impl Iterator<Item = char> {
    let process = i32::try_from(pid)
        .ok()
        .and_then(|pid| procfs::process::Process::new(pid).ok());
    let tasks = process.and_then(|process| process.tasks().ok());
    tasks
        .into_iter()
        .flatten()
        .filter_map(|task| Some(task.ok()?.stat().ok()?.state))
}

/// Reads it; `None` when there is no such process.
pub fn stat(pid: u32) -> Option<Stat> {
    let stat = procfs::process::Process::new(pid.try_into().ok()?)
        .ok()?
        .stat()
        .ok()?;
    Some(Stat {
        id: Id {
            pid,
            start: stat.starttime,
        },
        parent: stat.ppid.try_into().unwrap_or(0),
        state: stat.state,
        group: stat.pgrp,
        session: stat.session,
        terminal: stat.tty_nr,
    })
}

/// Every process on the machine, by pid.
pub fn all() -> HashMap<u32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .collect()
}

/// The process that had this start time in nanoseconds, if it is still there.
pub fn same(pid: u32, start_ns: u64) -> Option<Stat> {
    stat(pid).filter(|stat| stat.id.start == start_ns / NS_PER_TICK && stat.is_alive())
}

/// Whether it has a controlling terminal.
pub fn has_terminal(pid: u32) -> bool {
    let process = i32::try_from(pid)
        .ok()
        .and_then(|pid| procfs::process::Process::new(pid).ok());
    process
        .and_then(|process| process.stat().ok())
        .is_some_and(|stat| stat.tty_nr != 0)
}

/// Path of the program; as the process itself would write it.
pub fn exe(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Command line.
pub fn argv(pid: u32) -> Vec<Vec<u8>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if bytes.is_empty() {
        return Vec::new();
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    bytes.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect()
}

/// Environment as it was at exec, entries with a NUL each.
pub fn environ(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()
}

/// Working directory.
pub fn cwd(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// Real uid (the owner of its /proc entry is the effective one, which differs for setuid programs).
pub fn uid(pid: u32) -> Option<u32> {
    procfs::process::Process::new(pid.try_into().ok()?)
        .ok()?
        .status()
        .ok()
        .map(|status| status.ruid)
}

/// Supplementary and real groups.
pub fn groups(pid: u32) -> Vec<u32> {
    let Ok(pid) = i32::try_from(pid) else {
        return Vec::new();
    };
    let status = procfs::process::Process::new(pid).and_then(|process| process.status());
    status
        .map(|status| status.groups.iter().copied().chain([status.egid]).collect())
        .unwrap_or_default()
}

/// The path that was passed to exec, which a link's target or `argv[0]` need not show: the kernel
/// leaves it at `AT_EXECFN` of the auxiliary vector.
pub fn executed_path(pid: u32) -> Option<Vec<u8>> {
    const AT_EXECFN: u64 = 31;
    let auxv = fs::read(format!("/proc/{pid}/auxv")).ok()?;
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
    let at = auxv
        .chunks_exact(16)
        .find(|pair| word(&pair[..8]) == AT_EXECFN)
        .map(|pair| word(&pair[8..]))?;
    let memory = fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut bytes = vec![0; 4096];
    let read = memory.read_at(&mut bytes, at).ok()?;
    let end = bytes[..read].iter().position(|&byte| byte == 0)?;
    bytes.truncate(end);
    Some(bytes)
}

/// Sends a signal to this very process: its pidfd is opened first and its start time compared then, so
/// that a reused pid is never hit.
///
/// # Errors
/// `NotFound` when it is gone, or the kernel's refusal.
pub fn signal(id: Id, signal: Signal) -> io::Result<()> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let pid = i32::try_from(id.pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(gone)?;
    let fd = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| {
        if error == rustix::io::Errno::SRCH {
            gone()
        } else {
            error.into()
        }
    })?;
    if stat(id.pid).is_none_or(|stat| stat.id != id) {
        return Err(gone());
    }
    pidfd_send_signal(&fd, signal).map_err(|error| {
        if error == rustix::io::Errno::SRCH {
            gone()
        } else {
            error.into()
        }
    })
}

/// Whether guardd shares the machine's initial pid namespace, without which the kernel's pids would
/// mean other processes here.
pub fn in_initial_pid_namespace() -> bool {
    // The initial namespaces have fixed inode numbers.
    // <https://github.com/torvalds/linux/blob/v6.12/include/linux/proc_ns.h#L45>
    const PROC_PID_INIT_INO: u64 = 0xefff_fffc;
    fs::metadata("/proc/self/ns/pid").is_ok_and(|meta| meta.ino() == PROC_PID_INIT_INO)
}
