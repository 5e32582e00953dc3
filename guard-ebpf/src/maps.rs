//! Every map. The layouts are in guard-common; sizes that a setting overrides are set by userspace
//! before loading.

use core::marker::PhantomPinned;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
};
use guard_common::{
    MAX_PATTERNS,
    event::{PathHeader, TAIL},
    matching::{
        AddressKey, Candidates, EnvKey, FileKey, INODE_SLOTS, KnownAddress, KnownFile, NAME_WORDS,
        NameKey, Pattern,
    },
    names::{HostKey, KnownHost, MAX_HELLO, Resolved, ResolvedKey, Socket, answers},
    requests::{StreamKey, StreamState, Tapped, Writing},
    rule::{Progress, ProgressKey},
    state::{
        Acts, Answer, AnswerKey, Config, Connecting, Counter, Following, Held, Lease, LeaseKey,
        Names, OwnFile, RuleTable, Session, Started, Task, Waiting, class,
    },
};

use crate::{judge::Judgement, kernel};

/// The lineage: tgid → [`Task`]. Preallocated, since it is filled from the fork path.
#[map]
pub static TASKS: HashMap<u32, Task> = HashMap::with_max_entries(65_536, 0);
/// Session number → [`Session`].
#[map]
pub static SESSIONS: HashMap<u32, Session> = HashMap::with_max_entries(4_096, 0);
/// How far each session is with each rule.
#[map]
pub static PROGRESS: HashMap<ProgressKey, Progress> = HashMap::with_max_entries(65_536, 0);
/// Leases.
#[map]
pub static LEASES: HashMap<LeaseKey, Lease> = HashMap::with_max_entries(4_096, 0);
/// Answers that wait for the restarted call.
#[map]
pub static ANSWERS: HashMap<AnswerKey, Answer> = HashMap::with_max_entries(4_096, 0);
/// Held processes. Other guards on the machine look for this name, and for that of WAITING, before they
/// let a process go on. As large as TASKS, so that it cannot be full before that is.
#[map(name = "GUARD_HELD")]
pub static HELD: HashMap<u32, Held> = HashMap::with_max_entries(65_536, 0);
/// Processes stopped for guardd to look at.
#[map(name = "GUARD_WAITING")]
pub static WAITING: HashMap<u32, Waiting> = HashMap::with_max_entries(16_384, 0);
/// pid_tgid → the connect(2) that the thread is in. The least recently used entry makes room, since
/// nobody tells when a thread ends.
#[map]
pub static CONNECTING: LruHashMap<u64, Connecting> = LruHashMap::with_max_entries(8_192, 0);
/// Servers whose children are followed: tgid → [`Following`].
#[map]
pub static FOLLOWING: LruHashMap<u32, Following> = LruHashMap::with_max_entries(1_024, 0);
/// What these and those of [`CONDUITS`] have forked, until it executes something: tgid → [`Started`].
#[map]
pub static STARTED: LruHashMap<u32, Started> = LruHashMap::with_max_entries(4_096, 0);
/// Programs that run containers for others, by tgid, while there are sessions: what they start is shown to guardd. The
/// value says nothing. As many as there may be containers, for each has a shim.
#[map]
pub static CONDUITS: HashMap<u32, u32> = HashMap::with_max_entries(16_384, 0);
/// The session whose rule fired when userspace injected a fact; one entry.
#[map]
pub static JUDGED_IN: Array<u32> = Array::with_max_entries(1, 0);
/// The switchboard.
#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
/// Per generation: which names are worth looking up.
#[map]
pub static NAMES: Array<Names> = Array::with_max_entries(2, 0);
/// Final components of patterns.
#[map]
pub static KEYS: HashMap<NameKey, Candidates> = HashMap::with_max_entries(16_384, 0);
/// Patterns: generation × [`MAX_PATTERNS`] + index.
#[map]
pub static PATTERNS: Array<Pattern> = Array::with_max_entries(2 * MAX_PATTERNS, 0);
/// Home directories: [`guard_common::matching::join`] of their components (generation in the lowest
/// bit) → number of components.
#[map]
pub static HOMES: HashMap<u64, u32> = HashMap::with_max_entries(8_192, 0);
/// Known inodes.
#[map]
pub static FILES: HashMap<FileKey, KnownFile> = HashMap::with_max_entries(65_536, 0);
/// Per generation: which inode numbers FILES may have. guardd has it in its memory, since both sides set single bytes.
#[map]
pub static INODES: Array<[u8; INODE_SLOTS]> = Array::with_max_entries(2, BPF_F_MMAPABLE);
/// Sessions whose opens of files without a label are told, and until when, ns of `CLOCK_MONOTONIC`.
#[map]
pub static UNSCANNED: HashMap<u32, u64> = HashMap::with_max_entries(4_096, 0);
/// The latest of these times, or later: behind it no open that only reads has to look up its session. 0 when guardd has seen
/// that it is over, and then nobody has to look at the clock. guardd has it in its memory, since both sides set it.
#[map]
pub static UNSCANNED_UNTIL: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// Addresses, longest prefix first.
#[map]
pub static ADDRESSES: LpmTrie<AddressKey, KnownAddress> = LpmTrie::with_max_entries(16_384, 0);
/// Environment markers.
#[map]
pub static MARKERS: HashMap<EnvKey, u32> = HashMap::with_max_entries(1_024, 0);
/// Per generation: the rules.
#[map]
pub static RULES: Array<RuleTable> = Array::with_max_entries(2, 0);
/// What must not be lost: sessions, agents, verdicts.
#[map]
pub static CRITICAL: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
/// Size of [`ACTIVITY`].
pub const ACTIVITY_BYTES: u32 = 2 << 20;
/// Everything else that is told.
#[map]
pub static ACTIVITY: RingBuf = RingBuf::with_byte_size(ACTIVITY_BYTES, 0);
/// Emitted and lost records, by class.
#[map]
pub static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(class::COUNT, 0);
/// Per generation: labels of system calls.
#[map]
pub static ACTS: Array<Acts> = Array::with_max_entries(2, 0);
/// Processes of guard itself: tgid → start time, to the tick.
#[map]
pub static GUARDED: HashMap<u32, u64> = HashMap::with_max_entries(16, 0);
/// Processes of sessions that have ended: tgid → session. Their parents may still send them signals.
#[map]
pub static GONE: LruHashMap<u32, u32> = LruHashMap::with_max_entries(8_192, 0);
/// Files and directories of guard's own.
#[map]
pub static OWN_FILES: HashMap<OwnFile, u32> = HashMap::with_max_entries(1_024, 0);
/// Names of hosts that carry labels.
#[map]
pub static HOSTS: HashMap<HostKey, KnownHost> = HashMap::with_max_entries(16_384, NO_PREALLOC);
/// Addresses that name servers have given for names, with all labels of these.
#[map]
pub static RESOLVED: HashMap<ResolvedKey, Resolved> =
    HashMap::with_max_entries(32_768, NO_PREALLOC);
/// Which names an address was given for.
#[map]
pub static NAMED: HashMap<ResolvedKey, KnownHost> = HashMap::with_max_entries(131_072, NO_PREALLOC);
/// With each TCP socket of a session, until it is known whom it is for.
#[btf_map]
pub static SOCKETS: SkStorage<Socket> = SkStorage::new();
/// With such a socket, bytes that may be the beginning of a ClientHello.
#[btf_map]
pub static KEPT: SkStorage<[u8; MAX_HELLO]> = SkStorage::new();
/// With a socket whose plain HTTP guardd reads: the sequence number up to which it may leave, and whether all may.
#[btf_map]
pub static CLEARED: SkStorage<[u32; 2]> = SkStorage::new();
/// The same by the socket's cookie, where no process has it any more: what a program says last is sent without it. The least
/// recently used makes room: that one stays where it is.
#[map]
pub static ORPHANS: LruHashMap<u64, [u32; 2]> = LruHashMap::with_max_entries(4_096, 0);
/// When a segment of TCP was last kept from leaving, ns of `CLOCK_MONOTONIC`. The kernel tries it again, with or without its
/// process, and whether or not guardd still looks.
#[map]
pub static DROPPED: Array<u64> = Array::with_max_entries(1, 0);
/// Processes whose TLS library guardd has looked for: tgid → [`Tapped`].
#[map]
pub static TAPPED: HashMap<u32, Tapped> = HashMap::with_max_entries(16_384, NO_PREALLOC);
/// The process that guardd is letting go on at this moment, by its tgid, or 0. A SIGCONT undoes every stop of it that came before.
#[map]
pub static RESUMING: Array<u64> = Array::with_max_entries(1, 0);
/// Their TLS connections. The least recently used makes room: it is looked at again.
#[map]
pub static STREAMS: LruHashMap<StreamKey, StreamState> = LruHashMap::with_max_entries(16_384, 0);
/// pid_tgid → the write that the thread is in.
#[map]
pub static WRITING: LruHashMap<u64, Writing> = LruHashMap::with_max_entries(8_192, 0);
/// What they are about to say. Small, since what finds no room guardd reads in the process's own memory.
#[map]
pub static REQUESTS: RingBuf = RingBuf::with_byte_size(256 << 10, 0);
/// Processors on which a job waits for guardd, each a number of four bytes with four of nothing: whoever reads it sees to it
/// that guardd can run.
#[map]
pub static SPINS: RingBuf = RingBuf::with_byte_size(4 << 10, 0);
/// What name servers say.
#[map]
pub static DOMAINS: RingBuf = RingBuf::with_byte_size(256 << 10, 0);
/// How much of it guardd has read; see [`answers`].
#[map]
pub static ANSWERED: Array<u64> = Array::with_max_entries(answers::COUNT, 0);
/// Work memory: of each CPU a few, since programs of security hooks can be preempted (see [`borrow`]).
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(SLOTS, 0);
/// Who has which of this CPU's [`SCRATCH`]: not 0 for a slot in use.
#[map]
static BORROWED: PerCpuArray<u64> = PerCpuArray::with_max_entries(SLOTS, 0);

/// Slots of work memory for each CPU. A program runs for microseconds, so that even two at once on one CPU
/// are rare, though every judgement takes one; the verdict that finds none is counted as lost.
pub const SLOTS: u32 = 8;

/// Entries are allocated when they are made.
const NO_PREALLOC: u32 = aya_ebpf::bindings::BPF_F_NO_PREALLOC;

/// Work memory in use.
pub struct Borrowed(u32);

impl Borrowed {
    /// Takes a free slot of this CPU. To be given back on every way out.
    #[inline(always)]
    pub fn take(config: &Config) -> Option<Self> {
        // Which slot it is, the verifier need not follow.
        free_slot().map(|slot| Self(slot ^ config.zero as u32))
    }

    /// The memory.
    #[inline(always)]
    pub fn memory(&self) -> Option<&'static mut Scratch> {
        let scratch = memory(self.0)?;
        scratch.slot = self.0;
        Some(scratch)
    }

    /// Gives it back.
    #[inline(always)]
    pub fn give_back(self) {
        if let Some(users) = BORROWED.get_ptr_mut(self.0) {
            kernel::atomic_add(users.cast(), -1);
        }
    }
}

/// The work memory in a slot that the caller has taken; for functions that get the number and not the pointer.
#[inline(always)]
pub fn memory(slot: u32) -> Option<&'static mut Scratch> {
    // SAFETY: the slot is this CPU's and was taken: nobody else uses it.
    SCRATCH.get_ptr_mut(slot).map(|it| unsafe { &mut *it })
}

/// Slack behind the tail so that a bounded copy at a bounded offset stays inside for the verifier.
pub const SLACK: usize = 512;

/// Work memory: what does not fit the 512 bytes of a BPF stack.
#[repr(C)]
pub struct Scratch {
    /// The record being built.
    pub head: PathHeader,
    /// Path and argv of the record.
    pub tail: [u8; TAIL + SLACK],
    /// One name, padded with zeros to whole words, with one word to spare.
    pub name: [u64; NAME_WORDS + 1],
    /// FNV hash of the first `n` bytes of `name`.
    pub prefix: [u64; 32],
    /// FNV hash of its last `n` bytes, from the back.
    pub suffix: [u64; 32],
    /// Hashes of path components, leaf first.
    pub components: [u64; 64],
    /// Keys that hit, to be verified.
    pub hits: [Hit; MAX_HITS],
    /// State of the loops over bytes, kept here so that the verifier does not follow its values.
    pub hash: u64,
    /// See `hash`.
    pub word: u64,
    /// See `hash`.
    pub part: u64,
    /// See `hash`.
    pub sticky: u64,
    /// See `hash`.
    pub count: u32,
    /// See `hash`.
    pub index: u32,
    /// Length of the final component.
    pub name_len: u32,
    /// Domains (as bits) that something was found in; see `hash`.
    pub found: u32,
    /// Number of `hits`.
    pub hit_count: u32,
    /// Components that make up the home directory the path lies in; 0 for none.
    pub home: u32,
    /// Whether the walk reached the root.
    pub complete: u32,
    /// Number of `components`.
    pub depth: u32,
    /// Where a walk has come to.
    pub walk: Walk,
    /// What the rules say of the call.
    pub judgement: Judgement,
    /// The session whose call is judged.
    pub session: u32,
    /// The process whose call is judged.
    pub tgid: u32,
    /// Labels, as bits, that a lease allows this call.
    pub leased: u64,
    /// What the call is about, for leases.
    pub place: u64,
    /// The lease that is looked up.
    pub lease: LeaseKey,
    /// A hold on its way into its table.
    pub held: Held,
    /// What is known of a file, on its way into its table.
    pub known: KnownFile,
    /// The socket that is looked at.
    pub socket: Socket,
    /// Its cookie.
    pub cookie: u64,
    /// The name that was sent over it.
    pub host: [u8; 256],
    /// Bytes of it.
    pub host_len: u32,
    /// What was seen, a set of [`guard_common::names::seen`].
    pub seen: u32,
    /// Not 0: some label asks what is said to this host.
    pub asked: u64,
    /// How long the verdict took.
    pub latency_ns: u32,
    /// Which slot this is.
    pub slot: u32,
    /// An exported function that gets the slot's number changes what its caller has a reference to. Of a type that
    /// may not be moved the compiler does not assume that nobody else writes through it: without this it
    /// takes a verdict for what it was before the rules were asked.
    pub pinned: PhantomPinned,
    /// Groups that the program is excepted in, for matching.
    pub excepted: u64,
    /// Result of matching: labels whether excepted or not.
    pub all: u64,
    /// Result of matching: labels that no group spares.
    pub plain: u64,
    /// Result of matching: labels that count for this program.
    pub labels: u64,
    /// Result of matching.
    pub groups: u64,
    /// Result of matching.
    pub excluded: u64,
}

/// Keys that are looked at for one file.
pub const MAX_HITS: usize = 8;

/// Where a walk towards the root of the file system has come to.
#[repr(C)]
pub struct Walk {
    /// `struct dentry *`
    pub dentry: kernel::Address,
    /// `struct vfsmount *`
    pub mnt: kernel::Address,
    /// It is at the root.
    pub complete: u32,
    /// Unused.
    pub pad: u32,
}

/// One key that hit.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Hit {
    /// Its hash, for the [`NameKey`] to be looked up again: cheaper than a copy of the candidates.
    pub hash: u64,
    /// Its length.
    pub len: u32,
    /// Its kind.
    pub kind: u32,
    /// Ancestor level of the component that hit: 0 for the final one.
    pub level: u32,
    /// What it was looked up for.
    pub domain: u32,
}

/// Judges a call with work memory: `with_memory!(config, scratch => …)`, where the expression is an
/// `Option<Done>`. A call for which there is no memory goes on, and is counted. A macro, since a closure becomes a
/// function, and of the 512 bytes of stack that all frames share there is none to spare.
macro_rules! with_memory {
    ($config:expr, $scratch:ident => $judged:expr) => {
        match $crate::maps::Borrowed::take($config) {
            None => {
                $crate::emit::count(guard_common::state::class::VERDICT, false);
                $crate::judge::Done::Goes
            }
            Some(slot) => {
                let mut done = $crate::judge::Done::Goes;
                if let Some($scratch) = slot.memory() {
                    done = $judged.unwrap_or($crate::judge::Done::Goes);
                }
                slot.give_back();
                done
            }
        }
    };
}
pub(crate) use with_memory;

#[inline(always)]
fn free_slot() -> Option<u32> {
    for slot in 0..SLOTS {
        let users = BORROWED.get_ptr_mut(slot)?;
        // Two that add at once on one CPU both read 2 and go on to the next slot.
        kernel::atomic_add(users.cast(), 1);
        // SAFETY: the pointer was checked.
        if unsafe { users.read_volatile() } == 1 {
            return Some(slot);
        }
        kernel::atomic_add(users.cast(), -1);
    }
    None
}
