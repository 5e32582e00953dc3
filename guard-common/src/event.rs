//! Records that the kernel hands to userspace through the two ring buffers.

use crate::{MAX_ARGV, MAX_PATH};

/// Record kinds.
pub mod kind {
    /// A program was executed in a session. Path (of the program) and argv follow.
    pub const EXEC: u8 = 1;
    /// A labelled file was opened. Path follows.
    pub const OPEN: u8 = 2;
    /// A connection or datagram. [`super::ConnectRecord`].
    pub const CONNECT: u8 = 3;
    /// A program that may be an agent. With [`super::FLAG_STOPPED`] it waits for guardd.
    pub const AGENT: u8 = 4;
    /// The last process of a session has gone.
    pub const EMPTY: u8 = 5;
    /// A fork, only while [`crate::state::Config::trace_forks`] is set. `tgid` is the child, `ppid`
    /// the parent, `start_ns` the child's.
    pub const FORK: u8 = 6;
    /// A signal to a process that is guarded. [`super::CallRecord`].
    pub const SIGNAL: u8 = 7;
    /// Another guarded system call. [`super::CallRecord`].
    pub const CALL: u8 = 8;
    /// Whom a connection is for. [`crate::names::NameRecord`].
    pub const NAME: u8 = 9;
    /// A process is about to speak over TLS to a host that some label asks about, and its library is not tapped.
    /// [`crate::names::NameRecord`]; the segment waits.
    pub const TAP: u8 = 10;
    /// What a process is about to say. [`crate::requests::WriteHeader`], in a ring of its own.
    pub const REQUEST: u8 = 11;
    /// A process is stopped in a connect until guardd has read what name servers have said. Only the header.
    pub const AWAIT: u8 = 12;
}

/// Which mechanism saw the call.
pub mod tier {
    /// `sys_exit_*` tracepoints.
    pub const TRACEPOINT: u8 = 1;
    /// `tp_btf` scheduler tracepoints.
    pub const TP_BTF: u8 = 2;
    /// Root cgroup socket-address programs.
    pub const CGROUP: u8 = 3;
    /// guardd itself judged.
    pub const USERSPACE: u8 = 4;
    /// BPF programs as a security module.
    pub const LSM: u8 = 5;
    /// Modify-return programs on the security modules' entry functions.
    pub const MODIFY_RETURN: u8 = 6;
    /// Programs at the entry of these functions, which see and cannot refuse.
    pub const FENTRY: u8 = 7;
    /// Probes in a process's TLS library.
    pub const UPROBE: u8 = 8;
    /// Their names in events, by number.
    pub const NAMES: [&str; 9] = [
        "",
        "tracepoint",
        "tp_btf",
        "cgroup",
        "userspace",
        "lsm",
        "modify-return",
        "fentry",
        "uprobe",
    ];
}

/// The kernel has sent SIGSTOP.
pub const FLAG_STOPPED: u32 = 1;
/// guardd must send the signal, since the kernel could not from where it judged.
pub const FLAG_SIGNAL_NEEDED: u32 = 2;
/// The path or argv was longer than what is carried.
pub const FLAG_TRUNCATED: u32 = 4;
/// For [`kind::EXEC`]: a label names this program's command lines; it waits for guardd's judgement.
pub const FLAG_GATED: u32 = 8;
/// For [`kind::AGENT`]: recognised by an environment marker.
pub const FLAG_BY_ENV: u32 = 16;
/// For [`kind::AGENT`]: not stopped, because it is the foreground job of an interactive shell, which
/// would take the stop for the user's own Ctrl-Z.
pub const FLAG_JOB: u32 = 32;
/// An exception or a lease turned the verdict into allow.
pub const FLAG_LEASED: u32 = 64;
/// The rule wanted a denial that this tier cannot give; its fallback was used.
pub const FLAG_FALLBACK: u32 = 128;
/// The file is a socket that was connected to (AF_UNIX), or a datagram that was sent.
pub const FLAG_DATAGRAM: u32 = 256;

/// The call was made to fail, and the process is stopped nevertheless: it cannot be repeated.
pub const FLAG_REFUSED: u32 = 512;
/// Started by a server that a session has reached (see [`crate::state::Following`]).
pub const FLAG_FOLLOWED: u32 = 1024;

/// It waits for guardd on its processor and is not stopped: it is a job of an interactive shell, which would take a stop
/// for the user's own Ctrl-Z.
pub const FLAG_SPINS: u32 = 2048;
/// For [`kind::OPEN`]: it carries no label, and is told because what the file holds may not have been looked at yet (see
/// [`crate::state::Config::unscanned`]).
pub const FLAG_UNSCANNED: u32 = 4096;

/// No rule.
pub const NO_RULE: u16 = u16::MAX;

/// The beginning of every record.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Header {
    /// `CLOCK_MONOTONIC`, ns, when the hook was entered.
    pub time_ns: u64,
    /// Start time of the process, as in [`crate::state::Task::start_ns`].
    pub start_ns: u64,
    /// Labels touched.
    pub labels: u64,
    /// Innermost session, or 0.
    pub session: u32,
    /// Session whose rule gave the verdict (an outer one, perhaps), or 0.
    pub judged_in: u32,
    /// Thread id.
    pub pid: u32,
    /// Process id.
    pub tgid: u32,
    /// Process id of the parent.
    pub ppid: u32,
    /// Real uid in the initial user namespace.
    pub uid: u32,
    /// Nanoseconds from entry of the hook to the act (signal sent, denial decided).
    pub latency_ns: u32,
    /// Set of `FLAG_*`.
    pub flags: u32,
    /// Index of the rule that gave the verdict, or [`NO_RULE`].
    pub rule: u16,
    /// Half of the policy that judged.
    pub generation: u16,
    /// One of [`kind`].
    pub kind: u8,
    /// What was done, a [`crate::Verdict`].
    pub verdict: u8,
    /// What would have been done but for observe mode, a [`crate::Verdict`].
    pub would: u8,
    /// One of [`tier`].
    pub tier: u8,
    /// `task->comm`.
    pub comm: [u8; 16],
}

/// Header of a record with a path, followed by `path_len` bytes of path (components leaf first, each
/// with a NUL) and `arg_len` bytes of argv (each with a NUL).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct PathHeader {
    /// What every record has.
    pub header: Header,
    /// Inode number.
    pub ino: u64,
    /// Device, the kernel's form (major << 20 | minor).
    pub dev: u32,
    /// Open flags (`O_*`) where known.
    pub open_flags: u32,
    /// Bytes of path.
    pub path_len: u32,
    /// Bytes of argv.
    pub arg_len: u32,
}

/// The room for what follows a [`PathHeader`].
pub const TAIL: usize = MAX_PATH + MAX_ARGV;

/// A whole connect record.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ConnectRecord {
    /// What every record has.
    pub header: Header,
    /// IPv6 or v4-mapped address.
    pub addr: [u8; 16],
    /// `AF_INET` or `AF_INET6`, as the program asked.
    pub family: u16,
    /// Destination port, host order.
    pub port: u16,
    /// `SOCK_STREAM`, `SOCK_DGRAM` …
    pub socket_type: u32,
}

/// A guarded system call ([`crate::state::act`]).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CallRecord {
    /// What every record has.
    pub header: Header,
    /// One of [`crate::state::act`].
    pub act: u32,
    /// Process that it is about (tgid), or 0.
    pub target: u32,
    /// Signal number, ptrace mode or request, or bpf command.
    pub number: u64,
}
