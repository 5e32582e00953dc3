//! The kernel's tables by their meaning. Every write here is one map operation; what must be atomic
//! over several (a new policy) is made so by writing the generation that is not in force and then
//! flipping the switchboard.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use aya::{
    Ebpf,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, SkStorage, lpm_trie::Key,
    },
};
use guard_common::{
    MAX_PATTERNS,
    matching::{
        ADDRESS_FIXED_BITS, AddressKey, Candidates, EnvKey, FileKey, INODE_SLOTS, KnownAddress,
        KnownFile, NameKey, Pattern, env_bit, inode_slot,
    },
    names::{HostKey, KnownHost, Resolved, ResolvedKey, Socket, answers, connection},
    requests::{StreamKey, StreamState, Tapped, clears},
    rule::{Progress, ProgressKey},
    state::{
        Acts, Answer, AnswerKey, Config, Counter, Following, Half, Held, Lease, LeaseKey, Names,
        OwnFile, RuleTable, Session, Task, Waiting, class, watched,
    },
};

use super::{
    KernelError, Neighbours,
    mapped::{Inodes, Unscanned},
    neighbours, sys,
};
use crate::{names::Taken, policy, process};

/// Handed over and lost, by class.
pub type Counters = [Counter; class::COUNT as usize];

/// Where the lineage stands among [`Tables::stopped_tables`].
const LINEAGE: usize = 2;

/// The lineage, to be looked at beside the engine.
#[derive(Debug)]
pub struct Lineage(HashMap<MapData, u32, Task>);

impl Lineage {
    /// Whether a process is inside a session.
    pub fn has(&self, pid: u32) -> bool {
        found(self.0.get(&pid, 0)).is_some_and(|task| process::same(pid, task.start_ns).is_some())
    }
}

/// Every table that userspace reads or writes.
pub struct Tables {
    /// Entries that the lineage table can hold.
    pub lineage_size: u32,
    tasks: HashMap<MapData, u32, Task>,
    sessions: HashMap<MapData, u32, Session>,
    progress: HashMap<MapData, ProgressKey, Progress>,
    leases: HashMap<MapData, LeaseKey, Lease>,
    answers: HashMap<MapData, AnswerKey, Answer>,
    held: HashMap<MapData, u32, Held>,
    waiting: HashMap<MapData, u32, Waiting>,
    following: HashMap<MapData, u32, Following>,
    conduits: HashMap<MapData, u32, u32>,
    config: Array<MapData, Config>,
    names: Array<MapData, Names>,
    keys: HashMap<MapData, NameKey, Candidates>,
    patterns: Array<MapData, Pattern>,
    homes: HashMap<MapData, u64, u32>,
    files: HashMap<MapData, FileKey, KnownFile>,
    inodes: Array<MapData, [u8; INODE_SLOTS]>,
    /// The same, for single bytes.
    slots: Inodes,
    unscanned: HashMap<MapData, u32, u64>,
    unscanned_until: Unscanned,
    addresses: LpmTrie<MapData, AddressKey, KnownAddress>,
    hosts: HashMap<MapData, HostKey, KnownHost>,
    resolved: HashMap<MapData, ResolvedKey, Resolved>,
    named: HashMap<MapData, ResolvedKey, KnownHost>,
    answered: Array<MapData, u64>,
    tapped: HashMap<MapData, u32, Tapped>,
    resuming: Array<MapData, u64>,
    streams: HashMap<MapData, StreamKey, StreamState>,
    sockets: SkStorage<MapData, Socket>,
    cleared: SkStorage<MapData, [u32; 2]>,
    orphans: HashMap<MapData, u64, [u32; 2]>,
    dropped: Array<MapData, u64>,
    markers: HashMap<MapData, EnvKey, u32>,
    rules: Array<MapData, RuleTable>,
    acts: Array<MapData, Acts>,
    guarded: HashMap<MapData, u32, u64>,
    own_files: HashMap<MapData, OwnFile, u32>,
    counters: PerCpuArray<MapData, Counter>,
    switches: Config,
    stopped: [OwnedFd; 5],
    lent: OwnedFd,
    /// The kernel's ids of the first two of them, and of those of earlier guardds.
    stopped_ids: Vec<u32>,
    neighbours: neighbours::Known,
}

macro_rules! take {
    ($ebpf:ident, $name:expr) => {
        $ebpf
            .take_map($name)
            .ok_or(KernelError::Absent($name))?
            .try_into()
            .map_err(|source| KernelError::Table {
                table: $name,
                source,
            })?
    };
}

fn descriptor(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, KernelError> {
    match ebpf.map(name) {
        Some(Map::HashMap(data)) => {
            data.fd()
                .as_fd()
                .try_clone_to_owned()
                .map_err(|source| KernelError::System {
                    what: "duplicating a table",
                    source,
                })
        }
        _ => Err(KernelError::Absent(name)),
    }
}

fn at<T>(table: &'static str, result: Result<T, MapError>) -> Result<T, KernelError> {
    result.map_err(|source| KernelError::Table { table, source })
}

/// A lookup that may find nothing.
fn found<T>(result: Result<T, MapError>) -> Option<T> {
    result.ok()
}

impl Tables {
    pub(super) fn take(
        ebpf: &mut Ebpf,
        lineage_size: u32,
        tiers: [u8; watched::COUNT],
    ) -> Result<Self, KernelError> {
        let stopped = [
            descriptor(ebpf, neighbours::HELD)?,
            descriptor(ebpf, neighbours::WAITING)?,
            descriptor(ebpf, "TASKS")?,
            descriptor(ebpf, "SESSIONS")?,
            descriptor(ebpf, "ANSWERS")?,
        ];
        let stopped_ids = [neighbours::HELD, neighbours::WAITING]
            .into_iter()
            .filter_map(|name| match ebpf.map(name) {
                Some(Map::HashMap(data)) => Some(data.info().ok()?.id()),
                _ => None,
            })
            .collect();
        let slots = Inodes::of(ebpf)?;
        let unscanned_until = Unscanned::of(ebpf)?;
        Ok(Self {
            stopped,
            lent: descriptor(ebpf, "LEASES")?,
            stopped_ids,
            neighbours: neighbours::Known::default(),
            lineage_size,
            tasks: take!(ebpf, "TASKS"),
            sessions: take!(ebpf, "SESSIONS"),
            progress: take!(ebpf, "PROGRESS"),
            leases: take!(ebpf, "LEASES"),
            answers: take!(ebpf, "ANSWERS"),
            held: take!(ebpf, neighbours::HELD),
            waiting: take!(ebpf, neighbours::WAITING),
            following: take!(ebpf, "FOLLOWING"),
            conduits: take!(ebpf, "CONDUITS"),
            config: take!(ebpf, "CONFIG"),
            names: take!(ebpf, "NAMES"),
            keys: take!(ebpf, "KEYS"),
            patterns: take!(ebpf, "PATTERNS"),
            homes: take!(ebpf, "HOMES"),
            files: take!(ebpf, "FILES"),
            inodes: take!(ebpf, "INODES"),
            slots,
            unscanned: take!(ebpf, "UNSCANNED"),
            unscanned_until,
            addresses: take!(ebpf, "ADDRESSES"),
            hosts: take!(ebpf, "HOSTS"),
            resolved: take!(ebpf, "RESOLVED"),
            named: take!(ebpf, "NAMED"),
            answered: take!(ebpf, "ANSWERED"),
            tapped: take!(ebpf, "TAPPED"),
            resuming: take!(ebpf, "RESUMING"),
            streams: take!(ebpf, "STREAMS"),
            sockets: take!(ebpf, "SOCKETS"),
            cleared: take!(ebpf, "CLEARED"),
            orphans: take!(ebpf, "ORPHANS"),
            dropped: take!(ebpf, "DROPPED"),
            markers: take!(ebpf, "MARKERS"),
            rules: take!(ebpf, "RULES"),
            acts: take!(ebpf, "ACTS"),
            guarded: take!(ebpf, "GUARDED"),
            own_files: take!(ebpf, "OWN_FILES"),
            counters: take!(ebpf, "COUNTERS"),
            switches: Config {
                tiers,
                ..Config::default()
            },
        })
    }

    // --- lineage ---

    /// The lineage entry of a process.
    pub fn task(&self, tgid: u32) -> Option<Task> {
        found(self.tasks.get(&tgid, 0))
    }

    /// The lineage for somebody else to look at.
    ///
    /// # Errors
    /// When the kernel does not give it out again.
    pub fn lineage(&self) -> Result<Lineage, KernelError> {
        let again = self.stopped[LINEAGE].try_clone();
        let again = again.map_err(|source| KernelError::System {
            what: "another descriptor of the lineage table",
            source,
        })?;
        let data = MapData::from_fd(again);
        let table = data.and_then(|data| HashMap::try_from(Map::HashMap(data)));
        at("TASKS", table.map(Lineage))
    }

    /// Every process in any session.
    pub fn tasks(&self) -> Vec<(u32, Task)> {
        self.tasks.iter().filter_map(Result::ok).collect()
    }

    /// Enters a new session, or gives an old one back after a restart.
    ///
    /// # Errors
    /// When the table is full.
    pub fn put_session(&mut self, id: u32, session: Session) -> Result<(), KernelError> {
        at("SESSIONS", self.sessions.insert(id, session, 0))
    }

    /// What the kernel knows of a session.
    pub fn session(&self, id: u32) -> Option<Session> {
        found(self.sessions.get(&id, 0))
    }

    /// Forgets a session that has ended, with its progress and leases.
    pub fn drop_session(&mut self, id: u32) {
        let _ = self.sessions.remove(&id);
        let stale: Vec<ProgressKey> = self
            .progress
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.session == id)
            .collect();
        for key in stale {
            let _ = self.progress.remove(&key);
        }
        let stale: Vec<LeaseKey> = self
            .leases
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.session == id)
            .collect();
        for key in stale {
            let _ = self.leases.remove(&key);
        }
    }

    // --- rules' progress ---

    /// How far a session is with a rule of the generation in force.
    pub fn progress(&self, session: u32, rule: u16) -> Option<Progress> {
        let generation = self.generation() as u16;
        found(self.progress.get(
            &ProgressKey {
                session,
                rule,
                generation,
            },
            0,
        ))
    }

    /// Moves it on, when it is rebuilt after a restart or a reload: no step goes back.
    ///
    /// # Errors
    /// When the table is full.
    pub fn move_progress(
        &mut self,
        key: ProgressKey,
        progress: Progress,
    ) -> Result<(), KernelError> {
        let mut moved = found(self.progress.get(&key, 0)).unwrap_or_default();
        moved.merge(&progress);
        at("PROGRESS", self.progress.insert(key, moved, 0))
    }

    /// Waits until every program has ended that may still judge by the half that was in force before.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wait_for_programs(&self) -> Result<(), KernelError> {
        sys::wait_for_programs().map_err(KernelError::Wait)
    }

    // --- leases, answers, holds ---

    /// Gives a lease.
    ///
    /// # Errors
    /// When the table is full.
    pub fn put_lease(&mut self, key: &LeaseKey, lease: Lease) -> Result<(), KernelError> {
        at("LEASES", self.leases.insert(key, lease, 0))
    }

    /// What is left of a lease.
    pub fn lease(&self, key: &LeaseKey) -> Option<Lease> {
        found(self.leases.get(key, 0))
    }

    /// Ends a lease.
    pub fn drop_lease(&mut self, key: &LeaseKey) {
        let _ = self.leases.remove(key);
    }

    /// Leaves an answer for the repeated call.
    ///
    /// # Errors
    /// When the table is full.
    pub fn put_answer(&mut self, key: AnswerKey, answer: Answer) -> Result<(), KernelError> {
        at("ANSWERS", self.answers.insert(key, answer, 0))
    }

    /// Removes answers that have expired.
    pub fn drop_stale_answers(&mut self, now_ns: u64) {
        let stale: Vec<AnswerKey> = self
            .answers
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, a)| a.expires_ns < now_ns)
            .map(|(k, _)| k)
            .collect();
        for key in stale {
            let _ = self.answers.remove(&key);
        }
    }

    /// Every process that the kernel holds.
    pub fn held(&self) -> Vec<(u32, Held)> {
        self.held.iter().filter_map(Result::ok).collect()
    }

    /// Enters a hold that userspace decided on.
    ///
    /// # Errors
    /// When the table is full.
    pub fn put_held(&mut self, tgid: u32, held: Held) -> Result<(), KernelError> {
        at("HELD", self.held.insert(tgid, held, 0))
    }

    /// Takes a hold out, before its process goes on.
    pub fn drop_held(&mut self, tgid: u32) {
        let _ = self.held.remove(&tgid);
    }

    /// Processes that wait for guardd to look at them.
    pub fn waiting(&self) -> Vec<(u32, Waiting)> {
        self.waiting.iter().filter_map(Result::ok).collect()
    }

    /// Whether a process is one of them.
    pub fn is_waiting(&self, tgid: u32) -> bool {
        self.waiting.get(&tgid, 0).is_ok()
    }

    /// Takes one out, before it goes on.
    pub fn drop_waiting(&mut self, tgid: u32) {
        // Gone already is as good.
        let _ = self.waiting.remove(&tgid);
    }

    /// Servers that sessions have reached, by tgid, as the kernel has noted them last.
    pub fn following(&self) -> Vec<(u32, Following)> {
        self.following.iter().filter_map(Result::ok).collect()
    }

    /// What this process starts is shown to guardd from here on.
    ///
    /// # Errors
    /// When the table is full.
    pub fn put_conduit(&mut self, tgid: u32) -> Result<(), KernelError> {
        at("CONDUITS", self.conduits.insert(tgid, 0, 0))
    }

    /// And no longer.
    pub fn drop_conduit(&mut self, tgid: u32) {
        // Gone already is as good.
        let _ = self.conduits.remove(&tgid);
    }

    /// Descriptors of the tables that tell who is stopped (held, waiting, lineage, sessions) and of that for answers, for the
    /// sentinel.
    pub fn stopped_tables(&self) -> &[OwnedFd; 5] {
        &self.stopped
    }

    /// Descriptor of the table of leases, for the next guardd.
    pub fn leases_table(&self) -> &OwnedFd {
        &self.lent
    }

    /// The kernel's ids of this guard's tables of stopped processes.
    pub fn stopped_ids(&self) -> &[u32] {
        &self.stopped_ids
    }

    /// Takes the tables of guardds that this one succeeds for its own.
    pub fn succeed(&mut self, ids: &[u32]) {
        /// A restart within the life of a sentinel adds two; the newest matter.
        const ROOM: usize = 16;
        self.stopped_ids.extend_from_slice(ids);
        self.stopped_ids.truncate(ROOM);
        self.neighbours.forget(ids);
    }

    /// Other guards' tables of stopped processes.
    pub fn neighbours(&mut self) -> Neighbours {
        self.neighbours.look(&self.stopped_ids);
        self.neighbours.open()
    }

    /// Marks a process as one of guard's own.
    ///
    /// # Errors
    /// When the table is full.
    pub fn guard_process(&mut self, tgid: u32, start_ticks: u64) -> Result<(), KernelError> {
        at("GUARDED", self.guarded.insert(tgid, start_ticks, 0))
    }

    /// A process that has ended is guard's no more.
    pub fn unguard_process(&mut self, tgid: u32) {
        // It may not have been entered.
        let _ = self.guarded.remove(&tgid);
    }

    /// Marks a file or directory as guard's own, a directory as [`guard_common::state::own::ITSELF`] or
    /// [`guard_common::state::own::WITH_CONTENT`]. Returns what it is known by.
    ///
    /// # Errors
    /// When it cannot be looked at, or the table is full.
    pub fn own_file(&mut self, path: &Path, how: u32) -> io::Result<OwnFile> {
        let meta = fs::metadata(path)?;
        self.own(meta.dev(), meta.ino(), how)
    }

    /// Marks a single file by its inode, as stat(2) tells it.
    ///
    /// # Errors
    /// When the table is full.
    pub fn own_inode(&mut self, dev: u64, ino: u64) -> io::Result<OwnFile> {
        self.own(dev, ino, guard_common::state::own::ITSELF)
    }

    fn own(&mut self, dev: u64, ino: u64, how: u32) -> io::Result<OwnFile> {
        let file = OwnFile {
            ino,
            dev: kernel_dev(dev),
            pad: 0,
        };
        self.own_files
            .insert(file, how, 0)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(file)
    }

    /// Takes the mark from all files but these.
    pub fn keep_own_files(&mut self, keep: &[OwnFile]) {
        let marked: Vec<OwnFile> = self.own_files.keys().filter_map(Result::ok).collect();
        for file in marked.iter().filter(|file| !keep.contains(file)) {
            // Gone already is as good.
            let _ = self.own_files.remove(file);
        }
    }

    /// System calls that the policy in force gives a label, a bit for each of [`guard_common::state::act`].
    pub fn acts_in_force(&self) -> u64 {
        let acts = self.acts.get(&self.generation(), 0).unwrap_or_default();
        (0..acts.labels.len())
            .filter(|&act| acts.labels[act] != 0)
            .fold(0, |mask, act| mask | 1 << act)
    }

    /// What the kernel knows of a process whose TLS library was looked for.
    pub fn tapped(&self, tgid: u32) -> Option<Tapped> {
        found(self.tapped.get(&tgid, 0))
    }

    /// The TLS library of a process has been looked for: its connections need not wait any more.
    ///
    /// # Errors
    /// When the table is full.
    pub fn put_tapped(&mut self, tgid: u32, start_ns: u64) -> Result<(), KernelError> {
        let tapped = Tapped {
            start_ns,
            ..Tapped::default()
        };
        at("TAPPED", self.tapped.insert(tgid, tapped, 0))
    }

    /// Says that a process is about to be let go on (0: none any more). Whichever of its threads is about to be stopped waits with
    /// that until it is over; what was counted before is seen by whoever reads the count now.
    pub fn put_resuming(&mut self, tgid: u32) {
        // A table of one entry takes everything.
        let _ = self.resuming.set(0, u64::from(tgid), 0);
        // The kernel's program counts first and looks here then; guardd the other way round.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    /// Every process that is tapped, or was forked from one.
    pub fn all_tapped(&self) -> Vec<(u32, Tapped)> {
        self.tapped.iter().filter_map(Result::ok).collect()
    }

    /// Forgets that.
    pub fn drop_tapped(&mut self, tgid: u32) {
        // Gone already is as good.
        let _ = self.tapped.remove(&tgid);
    }

    /// Nobody asks any more what is said over a connection of a TLS library.
    pub fn pass_stream(&mut self, tgid: u32, conn: u64) {
        let key = StreamKey { conn, tgid, pad: 0 };
        let state = StreamState {
            taken: 0,
            passes: 1,
        };
        // Without it the next write is looked at as well.
        let _ = self.streams.insert(key, state, 0);
    }

    /// Connections that nobody asked about may be asked about by a new policy.
    pub fn look_at_all_streams(&mut self) {
        let passing: Vec<StreamKey> = self
            .streams
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, state)| state.passes != 0)
            .map(|(key, _)| key)
            .collect();
        for key in passing {
            // Gone already is as good.
            let _ = self.streams.remove(&key);
        }
    }

    /// What a socket whose segments wait may send, of [`guard_common::requests::clears`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn clear_socket(
        &mut self,
        socket: &Taken,
        upto: u32,
        what: u32,
    ) -> Result<(), KernelError> {
        let value = [upto, what];
        at("CLEARED", self.cleared.insert(socket.fd(), value, 0))
    }

    /// The same of a TCP socket that no process has any more. What is refused stays so.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn clear_orphan(&mut self, cookie: u64, upto: u32, what: u32) -> Result<(), KernelError> {
        if self.is_refused(cookie) {
            return Ok(());
        }
        at("ORPHANS", self.orphans.insert(cookie, [upto, what], 0))
    }

    /// Whether something was refused that waits in a socket which nobody seemed to have.
    pub fn is_refused(&self, cookie: u64) -> bool {
        self.orphans
            .get(&cookie, 0)
            .is_ok_and(|[_, what]| what == clears::NOTHING)
    }

    /// When a segment of TCP was last kept from leaving (ns of `CLOCK_MONOTONIC`); 0 when none ever was.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn dropped_ns(&self) -> Result<u64, KernelError> {
        at("DROPPED", self.dropped.get(&0, 0))
    }

    /// Keeps what a socket has not sent yet from leaving, until a time (ns of `CLOCK_MONOTONIC`) at the latest. `anew` where
    /// it is kept already: of any other that the kernel still looks at nothing is changed.
    ///
    /// # Errors
    /// When the kernel refuses, also for a socket that it looks at.
    pub fn withhold_socket(
        &mut self,
        socket: &Taken,
        until_ns: u64,
        anew: bool,
    ) -> Result<(), KernelError> {
        /// `BPF_NOEXIST`
        const ONLY_NEW: u64 = 1;
        let value = Socket {
            state: connection::WITHHELD,
            held: until_ns,
            ..Socket::default()
        };
        let flags = if anew { 0 } else { ONLY_NEW };
        at("SOCKETS", self.sockets.insert(socket.fd(), value, flags))
    }

    /// Whether a socket is kept from sending so.
    pub fn is_withheld(&self, socket: &Taken) -> bool {
        self.sockets
            .get(socket.fd(), 0)
            .is_ok_and(|value| value.state == connection::WITHHELD)
    }

    /// The end of that.
    pub fn release_socket(&mut self, socket: &Taken) {
        if self.is_withheld(socket) {
            // Where it has gone meanwhile, that was its end.
            let _ = self.sockets.remove(socket.fd());
        }
    }

    /// Nothing leaves a socket any more, whoever else has it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn refuse_socket(&mut self, socket: &Taken) -> Result<(), KernelError> {
        let value = Socket {
            state: connection::REFUSED,
            ..Socket::default()
        };
        at("SOCKETS", self.sockets.insert(socket.fd(), value, 0))
    }

    /// The tier that judges calls of a kind, one of [`watched`]: a [`guard_common::event::tier`].
    pub fn tier_of(&self, watched: usize) -> u8 {
        self.switches
            .tiers
            .get(watched)
            .copied()
            .unwrap_or_default()
    }

    /// Whether the policy in force has names of hosts.
    pub fn names_in_force(&self) -> bool {
        self.switches.in_force().names != 0
    }

    // --- the switchboard ---

    /// The policy half that is in force.
    pub fn generation(&self) -> u32 {
        self.switches.generation
    }

    /// The half that a new policy goes to.
    pub fn next_generation(&self) -> u32 {
        self.switches.generation ^ 1
    }

    fn switch(&mut self, change: impl FnOnce(&mut Config)) -> Result<(), KernelError> {
        change(&mut self.switches);
        at("CONFIG", self.config.set(0, self.switches, 0))
    }

    /// guardd's sign of life.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn heartbeat(&mut self) -> Result<(), KernelError> {
        let now = crate::clock::monotonic_ns();
        self.switch(|config| config.heartbeat_ns = now)
    }

    /// Until `until_ns` of the monotonic clock guardd looks at the activity ring by itself.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attentive(&mut self, until_ns: u64) -> Result<(), KernelError> {
        self.switch(|config| config.attentive_until_ns = until_ns)
    }

    /// Whether every fork on the machine is reported.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn trace_forks(&mut self, on: bool) -> Result<(), KernelError> {
        self.switch(|config| config.trace_forks = on.into())
    }

    // --- policy ---

    /// Writes a compiled policy to the half that is not in force. Nothing is judged by it yet.
    ///
    /// # Errors
    /// When a table is full, or the kernel refuses; the policy in force is untouched.
    pub fn stage(&mut self, tables: &policy::Tables) -> Result<(), KernelError> {
        let generation = self.next_generation();
        // A program that began while this half was still in force may be in its middle, preempted, and would find
        // nothing in it.
        sys::wait_for_programs().map_err(KernelError::Wait)?;
        self.clear(generation);
        at("NAMES", self.names.set(generation, tables.names, 0))?;
        for (index, pattern) in tables.patterns.iter().enumerate() {
            at(
                "PATTERNS",
                self.patterns
                    .set(generation * MAX_PATTERNS + index as u32, pattern, 0),
            )?;
        }
        for (key, candidates) in &tables.keys {
            let key = NameKey {
                generation: generation as u8,
                ..*key
            };
            at("KEYS", self.keys.insert(key, candidates, 0))?;
        }
        for (joined, components) in &tables.homes {
            at(
                "HOMES",
                self.homes
                    .insert(home_key(*joined, generation), components, 0),
            )?;
        }
        for (prefix, key, known) in &tables.addresses {
            let key = Key::new(
                *prefix,
                AddressKey {
                    generation: generation as u16,
                    ..*key
                },
            );
            at("ADDRESSES", self.addresses.insert(&key, known, 0))?;
        }
        for (key, known) in &tables.hosts {
            let key = HostKey {
                generation: generation as u16,
                ..*key
            };
            at("HOSTS", self.hosts.insert(key, known, 0))?;
        }
        for key in &tables.env {
            let key = EnvKey {
                word: key.word,
                generation: generation.into(),
            };
            at("MARKERS", self.markers.insert(key, 1, 0))?;
        }
        at("RULES", self.rules.set(generation, tables.rules, 0))?;
        at("ACTS", self.acts.set(generation, tables.acts, 0))?;
        // 64 KiB: not on the stack.
        let mut filter: Box<[u8; INODE_SLOTS]> = vec![0; INODE_SLOTS]
            .into_boxed_slice()
            .try_into()
            .unwrap_or_else(|_| unreachable!("it has that length"));
        for (path, labels, groups) in &tables.known_files {
            let Ok(meta) = fs::metadata(path) else {
                continue;
            };
            let key = FileKey {
                ino: meta.ino(),
                dev: kernel_dev(meta.dev()),
                generation,
            };
            let mut known = found(self.files.get(&key, 0)).unwrap_or_default();
            known.labels |= labels;
            known.groups |= groups;
            if *groups == 0 {
                known.plain |= labels;
            }
            if let Some(generation) = inode_generation(path, &meta) {
                known.inode_generation = generation;
                known.has_generation = 1;
            }
            filter[inode_slot(key.ino)] = 1;
            at("FILES", self.files.insert(key, known, 0))?;
        }
        at("INODES", self.inodes.set(generation, filter.as_ref(), 0))
    }

    /// Puts the staged policy in force, in one write.
    ///
    /// # Errors
    /// When the kernel refuses; then the old policy stays in force.
    pub fn commit(&mut self, tables: &policy::Tables, observe: bool) -> Result<(), KernelError> {
        let generation = self.next_generation();
        let bloom = tables
            .env
            .iter()
            .fold(0u64, |bits, key| bits | 1 << env_bit(key.word));
        // Two steps, since a program may see one without the other while they are written.
        self.switch(|config| {
            config.halves[generation as usize] = Half {
                env_bloom: bloom,
                written: tables.written,
                followed: tables.followed,
                names: tables.asked,
                observe: observe.into(),
            };
        })?;
        self.switch(|config| config.generation = generation)
    }

    /// Removes what a generation that is not in force has left.
    pub fn clear(&mut self, generation: u32) {
        let keys: Vec<NameKey> = self
            .keys
            .keys()
            .filter_map(Result::ok)
            .filter(|key| u32::from(key.generation) == generation)
            .collect();
        for key in keys {
            let _ = self.keys.remove(&key);
        }
        let homes: Vec<u64> = self
            .homes
            .keys()
            .filter_map(Result::ok)
            .filter(|key| (*key & 1) as u32 == generation)
            .collect();
        for key in homes {
            let _ = self.homes.remove(&key);
        }
        let files: Vec<FileKey> = self
            .files
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.generation == generation)
            .collect();
        for key in files {
            let _ = self.files.remove(&key);
        }
        let addresses: Vec<Key<AddressKey>> = self
            .addresses
            .keys()
            .filter_map(Result::ok)
            .filter(|key| u32::from({ key.data() }.generation) == generation)
            .collect();
        for key in addresses {
            let _ = self.addresses.remove(&key);
        }
        let hosts: Vec<HostKey> = self
            .hosts
            .keys()
            .filter_map(Result::ok)
            .filter(|key| u32::from(key.generation) == generation)
            .collect();
        for key in hosts {
            let _ = self.hosts.remove(&key);
        }
        let of_half = |key: &ResolvedKey| key.generation == generation;
        let resolved: Vec<ResolvedKey> = self
            .resolved
            .keys()
            .filter_map(Result::ok)
            .filter(of_half)
            .collect();
        for key in resolved {
            let _ = self.resolved.remove(&key);
        }
        let named: Vec<ResolvedKey> = self
            .named
            .keys()
            .filter_map(Result::ok)
            .filter(of_half)
            .collect();
        for key in named {
            let _ = self.named.remove(&key);
        }
        let markers: Vec<EnvKey> = self
            .markers
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.generation as u32 == generation)
            .collect();
        for key in markers {
            let _ = self.markers.remove(&key);
        }
        let progress: Vec<ProgressKey> = self
            .progress
            .keys()
            .filter_map(Result::ok)
            .filter(|key| u32::from(key.generation) == generation)
            .collect();
        for key in progress {
            let _ = self.progress.remove(&key);
        }
    }

    // --- what files hold ---

    /// Gives a file the labels `labels` of `all`, those of them that it has and `labels` has not being taken away; in one
    /// half of the policy. `file` is known by its device, as stat(2) or the kernel has it, its inode, and its
    /// `i_generation` where that is known.
    ///
    /// # Errors
    /// When the table is full.
    pub fn label_file(
        &mut self,
        generation: u32,
        file: LabelledFile,
        labels: u64,
        all: u64,
    ) -> Result<(), KernelError> {
        /// The kernel enters files at the same time; it does so once for each.
        const TRIES: usize = 4;
        let key = FileKey {
            ino: file.ino,
            dev: file.dev,
            generation,
        };
        // The slot first: whoever finds it set looks further.
        self.slots.set(generation, file.ino);
        for _ in 0..TRIES {
            let before = found(self.files.get(&key, 0));
            let mut known = before.unwrap_or_default();
            if let (Some(generation), 1) = (file.inode_generation, known.has_generation)
                && known.inode_generation != generation
            {
                // What was known is of a file that has gone.
                known = KnownFile::default();
            }
            known.labels = known.labels & !all | labels;
            known.plain = known.plain & !all | labels;
            if let Some(generation) = file.inode_generation {
                known.inode_generation = generation;
                known.has_generation = 1;
            }
            if before.unwrap_or_default() == known || (before.is_none() && known.labels == 0) {
                break;
            }
            if known.labels == 0 {
                // Gone already is as good.
                let _ = self.files.remove(&key);
            } else {
                at("FILES", self.files.insert(key, known, 0))?;
            }
        }
        Ok(())
    }

    /// Has opens of files without a label told for a session until `until_ns` of the monotonic clock, and for a while after
    /// each of its opens that may write.
    ///
    /// # Errors
    /// When the table is full.
    pub fn tell_opens(&mut self, session: u32, until_ns: u64) -> Result<(), KernelError> {
        at("UNSCANNED", self.unscanned.insert(session, until_ns, 0))?;
        self.unscanned_until.extend(until_ns);
        if self.switches.unscanned == 0 {
            self.switch(|config| config.unscanned = 1)?;
        }
        Ok(())
    }

    /// Where no session's are told any more, the kernel looks at nothing for it.
    pub fn tell_no_opens_after(&self, now_ns: u64) {
        self.unscanned_until.end(now_ns);
    }

    /// And no longer; `last` is that no other session's are.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn tell_no_opens(&mut self, session: u32, last: bool) -> Result<(), KernelError> {
        // Gone already is as good.
        let _ = self.unscanned.remove(&session);
        if last && self.switches.unscanned != 0 {
            self.switch(|config| config.unscanned = 0)?;
        }
        Ok(())
    }

    // --- names ---

    /// Enters what an address was given for by name servers: the hashes of the names with what each
    /// carries, and what they carry together.
    ///
    /// # Errors
    /// When a table is full.
    pub fn put_resolved(
        &mut self,
        generation: u32,
        addr: [u8; 16],
        names: &[(u64, KnownHost)],
        resolved: Resolved,
    ) -> Result<(), KernelError> {
        let key = |hash| ResolvedKey {
            addr,
            hash,
            generation,
            pad: 0,
        };
        for (hash, known) in names {
            at("NAMED", self.named.insert(key(*hash), known, 0))?;
        }
        at("RESOLVED", self.resolved.insert(key(0), resolved, 0))
    }

    /// Takes a name from an address; with hash 0, all that is known of it but the names.
    pub fn drop_resolved(&mut self, generation: u32, addr: [u8; 16], hash: u64) {
        let key = ResolvedKey {
            addr,
            hash,
            generation,
            pad: 0,
        };
        // Gone already is as good.
        let _ = if hash == 0 {
            self.resolved.remove(&key)
        } else {
            self.named.remove(&key)
        };
    }

    /// Enters what one address carries at one port, or with port 0 at all others.
    ///
    /// # Errors
    /// When the table is full.
    pub fn put_address(
        &mut self,
        generation: u32,
        addr: [u8; 16],
        port: u16,
        known: KnownAddress,
    ) -> Result<(), KernelError> {
        let key = address_key(generation, addr, port);
        at("ADDRESSES", self.addresses.insert(&key, known, 0))
    }

    /// Removes such an entry.
    pub fn drop_address(&mut self, generation: u32, addr: [u8; 16], port: u16) {
        // Gone already is as good.
        let _ = self.addresses.remove(&address_key(generation, addr, port));
    }

    /// guardd has read so many answers of name servers since its start.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn answers_read(&mut self, read: u64) -> Result<(), KernelError> {
        at("ANSWERED", self.answered.set(answers::READ, read, 0))
    }

    // --- counters ---

    /// Records by class, summed over the CPUs.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn counters(&self) -> Result<Counters, KernelError> {
        let mut sums = Counters::default();
        for (class, sum) in sums.iter_mut().enumerate() {
            let values = at("COUNTERS", self.counters.get(&(class as u32), 0))?;
            for value in values.iter() {
                sum.emitted += value.emitted;
                sum.lost += value.lost;
            }
        }
        Ok(sums)
    }
}

fn address_key(generation: u32, addr: [u8; 16], port: u16) -> Key<AddressKey> {
    Key::new(
        ADDRESS_FIXED_BITS + 128,
        AddressKey {
            generation: generation as u16,
            port: port.to_be(),
            addr,
        },
    )
}

/// A file that userspace knows something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelledFile {
    /// Device, as the kernel has it.
    pub dev: u32,
    /// Inode.
    pub ino: u64,
    /// `i_generation`, where the file system tells it.
    pub inode_generation: Option<u32>,
}

/// `st_dev` as the kernel itself encodes it.
/// <https://github.com/torvalds/linux/blob/v6.12/include/linux/kdev_t.h#L7>
pub fn kernel_dev(dev: u64) -> u32 {
    rustix::fs::major(dev) << 20 | rustix::fs::minor(dev)
}

/// `i_generation`, from file systems that tell it (ext4, xfs, btrfs and others).
fn inode_generation(path: &Path, meta: &fs::Metadata) -> Option<u32> {
    /// `FS_IOC_GETVERSION`: <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/fs.h#L261>
    const FS_IOC_GETVERSION: libc::c_ulong = 0x8008_7601;
    if !meta.is_file() {
        return None;
    }
    let file = fs::File::open(path).ok()?;
    let mut version: libc::c_long = 0;
    // SAFETY: the call writes an int, for which there is room.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETVERSION as _, &raw mut version) };
    (result == 0).then_some(version as u32)
}

const fn home_key(joined: u64, generation: u32) -> u64 {
    joined & !1 | (generation as u64 & 1)
}
