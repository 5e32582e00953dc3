//! What the kernel keeps: the lineage table, sessions, leases and answers, and the two halves of the
//! double-buffered policy. A reload fills the half that is not in use and then flips
//! [`Config::generation`], so no call is ever judged by a mixture of two policies.

use crate::{
    MAX_LABELS, MAX_RULES,
    matching::{FNV_OFFSET, fold},
    rule::Rule,
};

/// Version of the tables' layout and meaning. A guardd takes the tables of an earlier one over only where it is
/// the same: change it with any of the structures below.
pub const LAYOUT: u32 = 7;

/// A process (thread group) that belongs to a session. Key: its tgid in the initial pid namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Task {
    /// `group_leader->start_boottime`, nanoseconds. With [`TASK_COARSE`] only the tick is known.
    pub start_ns: u64,
    /// Groups whose exception this program falls under, decided at its exec.
    pub excepted: u64,
    /// The innermost session.
    pub session: u32,
    /// Set of `TASK_*`.
    pub flags: u32,
    /// tgid of the process that forked it.
    pub parent: u32,
    /// Unused.
    pub pad: u32,
}

/// `start_ns` was read from /proc and is a multiple of [`crate::NS_PER_TICK`].
pub const TASK_COARSE: u32 = 1;

impl Task {
    /// Whether a live process with this start time is the one that was recorded, and not a later
    /// one with the same pid.
    #[inline(always)]
    pub fn is(&self, start_ns: u64) -> bool {
        self.start_ns == start_ns
            || (self.flags & TASK_COARSE != 0
                && self.start_ns / crate::NS_PER_TICK == start_ns / crate::NS_PER_TICK)
    }
}

/// A session, as the kernel knows it. Key: session number, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Session {
    /// Processes alive (of this session itself, not of those inside it).
    pub live: i64,
    /// `CLOCK_REALTIME` seconds at its beginning: a program changed after that is trusted with no
    /// exception.
    pub began_s: u64,
    /// The session that this one runs inside, or 0.
    pub parent: u32,
    /// One of `POSTURE_*`.
    pub posture: u32,
    /// Real uid of its first process, or [`crate::rule::ANY_USER`] where that is not known.
    pub uid: u32,
    /// Unused.
    pub pad: u32,
    /// Last touch of each label, nanoseconds of `CLOCK_MONOTONIC`; 0 for never.
    pub last_ns: [u64; MAX_LABELS],
}

/// Calls are judged by the rules.
pub const POSTURE_NORMAL: u32 = 0;
/// Every process is stopped, and is stopped again wherever it is seen running.
pub const POSTURE_PAUSED: u32 = 1;
/// Every process is killed wherever it is seen.
pub const POSTURE_KILLED: u32 = 2;

/// A permission for a while. Key of the table of leases, with a [`Lease`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LeaseKey {
    /// Session that holds the lease (and all sessions inside it).
    pub session: u32,
    /// Label number.
    pub label: u32,
    /// What it is for, [`file_object`] or [`address_object`]; 0 for everything that carries the label.
    pub object: u64,
}

/// See [`LeaseKey`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Lease {
    /// Its end, ns of `CLOCK_MONOTONIC`.
    pub until_ns: u64,
    /// Calls that it still allows, counted down by the kernel; below 0 when two have raced for the last. [`UNCOUNTED`] for any
    /// number.
    pub uses: i64,
    /// Kinds of calls that it allows, bit by [`crate::event::kind`]; 0 for all.
    pub kinds: u32,
    /// Unused.
    pub pad: u32,
}

/// [`Lease::uses`] of one that is not counted.
pub const UNCOUNTED: i64 = i64::MAX;

/// What a call on a file is about, as [`Held::object`] has it: the inode and the device as the kernel numbers it. Never 0, which
/// stands for calls that cannot be repeated.
#[inline(always)]
pub const fn file_object(ino: u64, dev: u32) -> u64 {
    fold(fold(FNV_OFFSET, ino), dev as u64) | 1
}

/// The same of a connection: the words of the peer's IPv6 or v4-mapped address as they lie in memory, and its port in network order.
#[inline(always)]
pub const fn address_object(words: &[u32; 4], port_be: u16) -> u64 {
    let high = words[0] as u64 | (words[1] as u64) << 32;
    let low = words[2] as u64 | (words[3] as u64) << 32;
    fold(fold(fold(FNV_OFFSET, high), low), port_be as u64) | 1
}

/// A person's answer to one hold, waiting for the restarted call. Key: [`AnswerKey`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Answer {
    /// End of its validity, ns of `CLOCK_MONOTONIC`.
    pub expires_ns: u64,
    /// What the held call was about ([`Held::object`]): an answer is for that and nothing else.
    pub object: u64,
    /// [`crate::Verdict::Allow`] or [`crate::Verdict::Deny`]. An approval is used up by the call.
    pub verdict: u32,
    /// The rule that held the call, for the record of a refusal.
    pub rule: u16,
    /// The half of the policy that `rule` belongs to.
    pub generation: u16,
}

/// Which process and rule an [`Answer`] is for. A refusal is for whatever rule there is when the call
/// is repeated, be it none: its key is [`AnswerKey::refusal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct AnswerKey {
    /// The held process.
    pub tgid: u32,
    /// Index in the rule table.
    pub rule: u16,
    /// Half of the policy that the index belongs to.
    pub generation: u16,
}

impl AnswerKey {
    /// The key of a refusal.
    #[inline(always)]
    pub const fn refusal(tgid: u32) -> Self {
        Self {
            tgid,
            rule: crate::event::NO_RULE,
            generation: 0,
        }
    }
}

/// A process that the kernel has stopped and that waits for a person. Key: tgid. The map is the
/// truth; the event is only its doorbell, so a lost event loses no hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Held {
    /// Start time of the process, as in [`Task::start_ns`].
    pub start_ns: u64,
    /// When, ns of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// When silence decides, ns of `CLOCK_MONOTONIC`.
    pub deadline_ns: u64,
    /// Labels that the call touched.
    pub labels: u64,
    /// What the call is about: a hash of address and port, or 0.
    pub object: u64,
    /// Innermost session of the process.
    pub session: u32,
    /// Rule index.
    pub rule: u16,
    /// Half of the policy that the index belongs to.
    pub generation: u16,
    /// The kind of call, one of [`crate::event::kind`].
    pub kind: u8,
    /// What silence means, a [`crate::Verdict`] (allow: go on).
    pub on_timeout: u8,
    /// What has become of the call, one of [`fate`].
    pub fate: u8,
    /// Unused.
    pub pad: [u8; 5],
}

/// A process that the kernel has stopped only so that guardd can look at it (a possible agent, a
/// gated command). Key: tgid. Whoever finds guardd gone lets it go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Waiting {
    /// Start time of the process, as in [`Task::start_ns`].
    pub start_ns: u64,
    /// When, ns of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
}

/// A server outside sessions that a session has reached, and whose label says that what it starts then is the
/// session's. Key: its tgid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Following {
    /// Until then, whether the client lives or not, ns of `CLOCK_MONOTONIC`.
    pub until_ns: u64,
    /// The session.
    pub session: u32,
    /// The process that has reached it: what the server starts while it lives may be for it.
    pub client: u32,
}

/// Who has forked a process of no session, where that may be for a session. A program's parent is somebody else when its own has
/// ended by the time it is executed: the one that a containerd shim has started is, since that does not wait. Key: its tgid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Started {
    /// Start time of the process, ns.
    pub start_ns: u64,
    /// A server that a session has reached, or a program that runs containers.
    pub by: u32,
    /// 0.
    pub pad: u32,
}

/// How long after a connect a server's children count as the client's, though that has ended by then. Servers start
/// in milliseconds what a client has left for them.
pub const FOLLOW_NS: u64 = 2_000_000_000;

/// The session in the record of a program that was started by one of those that run containers (`CONDUITS`): guardd
/// knows whose it is, if it is anybody's.
pub const SOMEBODYS: u32 = u32::MAX;

/// What one hook of a connect(2) leaves for the next of the same thread: the descriptor, which the exit
/// does not show, and what the cgroup program decided, since cgroup programs cannot send signals. Key:
/// pid_tgid. Kept from one call of the thread to the next: entering it anew costs more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Connecting {
    /// The socket's descriptor.
    pub fd: u64,
    /// 1 while the thread is inside the call.
    pub inside: u32,
    /// A [`crate::Verdict`] whose signal is to be sent when the call ends, or [`AWAITS`]; 0 for none.
    pub verdict: u32,
}

/// [`Connecting::verdict`]: the call is to be repeated when guardd has read what name servers have said.
pub const AWAITS: u32 = 0xff;

/// The one rule table of a generation.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct RuleTable {
    /// Rules in use.
    pub count: u32,
    /// Unused.
    pub pad: u32,
    /// The first `count` are in use.
    pub rules: [Rule; MAX_RULES],
}

/// Words of [`Names::bloom`].
pub const BLOOM_WORDS: usize = 128;

/// Per generation: what the kernel must know to look a name up with few map look-ups.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Names {
    /// Bit `n` is set when some pattern fixes the first `n` bytes of a final component (1 to 31).
    pub prefix_lens: u32,
    /// Bit `n` is set when some pattern fixes the last `n` bytes of a final component (1 to 31).
    pub suffix_lens: u32,
    /// Parent levels to look up by name: 0 when no pattern ends in `*` or `**`.
    pub dir_levels: u32,
    /// The longest beginning or ending, in bytes, that some pattern compares; 0 when none does.
    pub longest_end: u32,
    /// One bit per known hash (see [`crate::matching::bloom_bit`]): spares most look-ups.
    pub bloom: [u64; BLOOM_WORDS],
}

/// The kernel side's only switchboard; one entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// 0 or 1: the half of every policy table that is in force.
    pub generation: u32,
    /// Report every fork on the machine, while guardd reads /proc.
    pub trace_forks: u32,
    /// Until then guardd looks at the activity ring by itself, ns of `CLOCK_MONOTONIC`: records need
    /// not wake it.
    pub attentive_until_ns: u64,
    /// Last sign of life of guardd, ns of `CLOCK_MONOTONIC`. Nothing is stopped *for guardd to look
    /// at* when it is older than [`HEARTBEAT_LIMIT_NS`]; rules go on without it.
    pub heartbeat_ns: u64,
    /// Always 0, which the verifier cannot know: what is XORed with it, it no longer follows value by
    /// value.
    pub zero: u64,
    /// Per generation: what belongs to the policy.
    pub halves: [Half; 2],
    /// Not 0: some session is in the table of those whose opens of files without a label are told for a while, because
    /// what is in their files is being looked at for secrets.
    pub unscanned: u64,
    /// Which of [`crate::event::tier`] serves each of [`watched`].
    pub tiers: [u8; watched::COUNT],
}

/// What the switchboard holds of one half of the policy. Whoever judges reads [`Config::generation`] once and takes everything
/// from that half: another may be put in force at any moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Half {
    /// One bit per known environment marker (see [`crate::matching::env_bit`]).
    pub env_bloom: u64,
    /// Labels that a file has only for opens that write.
    pub written: u64,
    /// Labels of servers whose children are followed.
    pub followed: u64,
    /// Set of [`crate::names::asked`]. Not 0: some label has names of hosts, so connections are looked at until they have
    /// said whom they are for.
    pub names: u32,
    /// 0: verdicts are carried out. 1: they are only recorded.
    pub observe: u32,
}

impl Config {
    /// The half that is in force, 0 or 1. Read anew at each call, and not by the compiler once more later.
    #[inline(always)]
    pub fn generation(&self) -> u32 {
        // SAFETY: a reference is valid for reads.
        unsafe { core::ptr::read_volatile(&raw const self.generation) & 1 }
    }

    /// The given half.
    #[inline(always)]
    pub const fn half(&self, generation: u32) -> &Half {
        &self.halves[generation as usize & 1]
    }

    /// The half in force at this moment, for whoever looks at nothing else of the policy.
    #[inline(always)]
    pub fn in_force(&self) -> &Half {
        self.half(self.generation())
    }
}

/// How long after an open that may write, opens of the session's processes are told: what was written is scanned by then.
pub const UNSCANNED_NS: u64 = 1_500_000_000;

/// What has become of a call whose process is held.
pub mod fate {
    /// It has happened; the process has not seen its result.
    pub const HAPPENED: u8 = 0;
    /// It has not happened, and is repeated when the process goes on.
    pub const REPEATS: u8 = 1;
    /// It has failed.
    pub const FAILED: u8 = 2;
    /// The process stands before it, and does it when it goes on.
    pub const BEFORE: u8 = 3;
}

/// Places in [`Config::tiers`].
pub mod watched {
    /// Files.
    pub const OPEN: usize = 0;
    /// Programs that carry a label.
    pub const PROGRAM: usize = 1;
    /// Signals.
    pub const SIGNAL: usize = 2;
    /// ptrace and what needs the same right.
    pub const PTRACE: usize = 3;
    /// bpf(2).
    pub const BPF: usize = 4;
    /// Every exec; the scheduler's tracepoint alone tells it.
    pub const EXEC: usize = 5;
    /// guard's own files.
    pub const OWN_FILES: usize = 6;
    /// Sockets by their kind.
    pub const SOCKET: usize = 7;
    /// Connects and datagrams to AF_UNIX sockets.
    pub const UNIX: usize = 8;
    /// Unused ones keep the words aligned.
    pub const COUNT: usize = 16;
}

/// System calls that a label may name, by their place in the table of labels.
pub mod act {
    /// A signal to guardd or to its sentinel.
    pub const SIGNAL_GUARD: u32 = 0;
    /// SIGCONT to a process that guard has stopped.
    pub const RESUME_HELD: u32 = 1;
    /// Control over guardd or its sentinel: ptrace, writing its memory, taking its descriptors.
    pub const PTRACE_GUARD: u32 = 2;
    /// The same over any process outside the session.
    pub const PTRACE_OUTSIDE: u32 = 3;
    /// bpf(2).
    pub const BPF: u32 = 4;
    /// io_uring_setup(2).
    pub const IO_URING: u32 = 5;
    /// A signal to a process outside the session.
    pub const SIGNAL_OUTSIDE: u32 = 6;
    /// guard's own files written, replaced, removed or covered; see [`super::own`].
    pub const GUARD_FILES: u32 = 7;
    /// A socket whose connections guard does not judge: neither AF_UNIX nor netlink, and not TCP, UDP or ping.
    pub const OTHER_SOCKET: u32 = 8;
    /// How many there may be; a power of two.
    pub const COUNT: usize = 16;
    /// Their names in policies and events, by number.
    pub const NAMES: [&str; 9] = [
        "signal-guard",
        "resume-held",
        "ptrace-guard",
        "ptrace-outside",
        "bpf",
        "io-uring",
        "signal-outside",
        "guard-files",
        "other-socket",
    ];
}

/// What is done to a file of guard's: the lowest bits of the number of a call `guard-files`. Above them is the inode
/// number that is known as guard's.
pub mod own {
    /// Opened for writing, or truncated.
    pub const WRITE: u64 = 0;
    /// Removed.
    pub const REMOVE: u64 = 1;
    /// Renamed, or another one renamed over it.
    pub const RENAME: u64 = 2;
    /// A new one beside it, in a directory of guard's.
    pub const CREATE: u64 = 3;
    /// Unmounted.
    pub const UNMOUNT: u64 = 4;
    /// Something mounted over it.
    pub const MOUNT: u64 = 5;
    /// Bits of these.
    pub const SHIFT: u32 = 4;
    /// A file, or a directory in which others have files too.
    pub const ITSELF: u32 = 1;
    /// A directory, and what lies directly in it.
    pub const WITH_CONTENT: u32 = 2;
    /// Their names in events.
    pub const NAMES: [&str; 6] = ["write", "remove", "rename", "create", "unmount", "mount"];
}

/// A file or directory of guard's own. The value in its table is [`own::ITSELF`] or [`own::WITH_CONTENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct OwnFile {
    /// Inode number.
    pub ino: u64,
    /// `super_block->s_dev`.
    pub dev: u32,
    /// Zero.
    pub pad: u32,
}

/// Per generation: what each of [`act`] carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Acts {
    /// Labels.
    pub labels: [u64; act::COUNT],
    /// Groups whose exception spares a program these labels.
    pub groups: [u64; act::COUNT],
}

/// See [`Config::heartbeat_ns`]. guardd writes it several times a second.
pub const HEARTBEAT_LIMIT_NS: u64 = 5_000_000_000;

/// Classes of records whose loss is counted apart.
pub mod class {
    /// Lineage: sessions beginning and ending, entries of the lineage table.
    pub const LINEAGE: u32 = 0;
    /// Verdicts above allow.
    pub const VERDICT: u32 = 1;
    /// Everything else that is told: labelled opens, execs, connects.
    pub const ACTIVITY: u32 = 2;
    /// Rule progress that found no room in its table.
    pub const FACT: u32 = 3;
    /// What name servers have said.
    pub const NAME: u32 = 4;
    /// What processes are about to say over TLS or HTTP.
    pub const REQUEST: u32 = 5;
    /// How many there are.
    pub const COUNT: u32 = 6;
    /// Their names in `lost` events, by number.
    pub const NAMES: [&str; COUNT as usize] =
        ["lineage", "verdict", "activity", "fact", "name", "request"];
}

/// Per class and per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counter {
    /// Handed to a ring buffer.
    pub emitted: u64,
    /// Not recorded because a buffer or table was full.
    pub lost: u64,
}
