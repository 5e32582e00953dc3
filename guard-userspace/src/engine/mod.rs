//! The engine: the one task that owns the session table. Records come in from the kernel, requests
//! from the control socket; events go out to the journal and to whoever listens. Everything it does
//! to a process goes through the kernel's tables first and a signal second, in that order.

mod adopt;
mod asks;
mod conduct;
mod containers;
mod content;
mod digest;
mod exceptions;
mod families;
mod groups;
mod herald;
mod holds;
mod journal;
mod leases;
mod likeness;
mod mode;
mod names;
mod own;
mod purpose;
mod put_off;
mod quic;
mod records;
mod recover;
mod reload;
mod requests;
mod running;
mod secrets;
mod session;
mod spared;
mod tally;
mod taps;
mod users;
mod views;
mod withheld;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use guard_common::{event::kind, state::class};
pub(crate) use holds::target_of;
pub use holds::{By, Hold, Outcome};
use leases::Grant;
pub(crate) use mode::{make_directory, write_whole};
use reload::{NamedRule, named_rules, rebuild};
pub use requests::{Command, Peer, Refusal};
use serde_json::json;
pub use session::{Origin, Session};
use tokio::{
    io::unix::AsyncFd,
    sync::{broadcast, mpsc},
};

use crate::{
    clock,
    conduct::Baselines,
    digest::Digest,
    event::{Event, Kind},
    journal::{Journal, JournalError},
    kernel::{Counters, FEATURES, Feature, Kernel, KernelError, Record, Rings},
    names::{Names, Streams},
    policy::{
        AgentMatcher, Clusters, CommandMatcher, Homes, LabelBits, Mode, Policy, PolicyError,
        Tables,
        files::{self, Trust},
    },
    process::{self, Id},
    service::Service,
    tls::Libraries,
};

/// Events that a slow listener may fall behind before it has to read them from the journal.
const LISTENER_ROOM: usize = 4096;
/// Requests that wait for the engine; more make their senders wait.
const REQUEST_ROOM: usize = 64;
/// Ended sessions that are remembered.
const ENDED: usize = 64;
/// How often guardd looks after things while there is no session. Well below the age at which the
/// kernel takes it for gone ([`guard_common::state::HEARTBEAT_LIMIT_NS`]).
const IDLE_TICK: Duration = Duration::from_secs(1);
/// How long after a hold its record may come: it waits for no more than the programs before it in the kernel.
const RECORD_COMES_NS: u64 = 1_000_000_000;
/// How often it then looks through tables for what was lost there: to find out that a large one is empty takes the kernel 0.2 ms.
const IDLE_LOOK: Duration = Duration::from_secs(5);
/// How often facts alone are a reason to write the state file.
const SAVE_EVERY: Duration = Duration::from_secs(2);
/// Records taken from each ring before requests and the clock are looked at again: a flood on one must
/// starve nothing else.
const BATCH: usize = 1024;
/// How often the rings are looked at for those who must have seen what is in them.
const LOOKS: usize = 64;
/// Sessions one around the other whose ends are told with that of the innermost.
const ENDINGS: usize = 4;
/// How long after the last record of activity guardd goes on looking for more by itself, which spares
/// whoever makes the next ones the cost of waking it (in a virtual machine that is more than the whole
/// connect), and how often it looks.
const ATTENTION: Duration = Duration::from_millis(40);
/// See [`ATTENTION`].
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Unlabelled connects of all sessions that are told one by one in a second; more are counted.
const CONNECTS_A_SECOND: u32 = 1000;

/// What stops the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The kernel side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Nothing can be recorded, so nothing is begun.
    #[error("state directory {dir}: {why}: make room there and start guardd again")]
    NoRoom {
        /// The state directory.
        dir: PathBuf,
        /// What the kernel said.
        why: String,
    },
    /// A system call.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// How guardd ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing is watched any more.
    Stops,
    /// What is attached stays in force until the next guardd has taken over.
    MakesWay,
}

/// How guardd was started.
#[derive(Clone, Debug)]
pub struct Options {
    /// `None` for [`crate::DEFAULT_POLICY`], and where that is not there for the built-in policy.
    pub policy: Option<PathBuf>,
    /// Overrides the policy's mode.
    pub mode: Option<Mode>,
    /// Directory of the journal and of the state that survives a restart.
    pub state_dir: PathBuf,
    /// More files and directories that are guard's own: its socket, its pins.
    pub own: Vec<PathBuf>,
    /// Where the users are whose own files may tighten the policy.
    pub passwd: PathBuf,
    /// How often what would have been stopped is told.
    pub digest_every: Duration,
}

/// A process that was seen at its exec.
#[derive(Clone, Debug)]
struct Known {
    start: u64,
    exe: Option<String>,
    argv: Vec<String>,
}

/// See the module's text.
pub struct Engine {
    options: Options,
    kernel: Kernel,
    critical: AsyncFd<RingBuf<MapData>>,
    activity: AsyncFd<RingBuf<MapData>>,
    domains: AsyncFd<RingBuf<MapData>>,
    said: AsyncFd<RingBuf<MapData>>,
    /// Sessions that were seen without a process, and how often the rings have been looked at since.
    ending: BTreeMap<u32, usize>,
    /// Connections whose requests are read.
    talks: content::Talks,
    /// Of these, those whose last bytes wait for more.
    withheld: withheld::Withheld,
    /// What other threads of held processes are about to say.
    put_off: put_off::PutOff,
    /// Processes whose TLS library was looked for.
    taps: HashMap<u32, taps::Tapped>,
    libraries: Libraries,
    /// Handshakes of QUIC, by their sockets' cookies.
    flights: quic::Flights,
    /// What name servers have said.
    names: Names,
    streams: Streams,
    /// Answers of theirs that were read.
    answers_read: u64,
    /// The same where nobody is believed, kept apart so that they cannot mix.
    foreign_streams: Streams,
    /// Addresses that the policy spares for their names.
    spared: spared::Spared,
    /// When names that nobody uses any more were last forgotten.
    names_swept_ns: u64,
    journal: Journal,
    policy: Policy,
    /// As the kernel has them now.
    tables: Tables,
    bits: LabelBits,
    agents: AgentMatcher,
    commands: CommandMatcher,
    users: users::Users,
    /// What would have been stopped since it was last told.
    digest: Digest,
    /// The rules of both policy halves in the kernel's order, with their names: a record or a hold may
    /// still be from the policy before the last reload.
    rules: [Vec<NamedRule>; 2],
    sessions: BTreeMap<u32, Session>,
    ended: VecDeque<Session>,
    holds: BTreeMap<u32, Hold>,
    grants: BTreeMap<u32, Grant>,
    /// Holds a day, and their answers.
    tally: tally::Tally,
    /// What is usual for each agent.
    baselines: Baselines,
    /// Facts that guardd has found and that are not judged yet.
    found: Vec<purpose::Found>,
    /// Scores that have crossed the threshold since that was last told.
    turned: Vec<conduct::Turned>,
    known: HashMap<u32, Known>,
    next_session: u32,
    next_hold: u32,
    next_grant: u32,
    counters: Counters,
    /// See [`Self::count_misses`].
    misses: [u64; FEATURES.len()],
    /// guard's own files by inode number, which is one in each file system.
    own_files: BTreeMap<u64, Vec<PathBuf>>,
    /// Forks reported while /proc is read: child → parent.
    forks: HashMap<u32, (u32, u64)>,
    problems: BTreeMap<&'static str, String>,
    idle_since_ns: Option<u64>,
    started_ns: u64,
    events: broadcast::Sender<Arc<Event>>,
    requests: mpsc::Receiver<Command>,
    /// The rings have more than one batch.
    more: bool,
    /// Until when the kernel need not wake guardd for activity, ns of `CLOCK_MONOTONIC`, and when
    /// guardd looks next.
    attentive_until_ns: u64,
    look_at: Option<tokio::time::Instant>,
    /// Unlabelled connects told in this second, and those only counted.
    connects: (u32, u64),
    second_ns: u64,
    dirty: bool,
    /// Another policy is being put in force.
    reloading: bool,
    ticked_ns: u64,
    /// When the tables were last looked through.
    swept_ns: u64,
    saved_ns: u64,
    /// Last event that was flushed to the disk, and when.
    flushed: (u64, u64),
    /// Entries of the lineage table that are still to be compared with /proc.
    to_sweep: Vec<Id>,
    /// Every fork on the machine is being reported.
    tracing_forks: bool,
    /// Processes that could go on but for another guard on the machine, and since when (ns of `CLOCK_MONOTONIC`).
    kept_by_others: Vec<(Id, u64)>,
    /// Programs that run containers, and whose these are.
    containers: containers::Containers,
    herald: herald::Herald,
    /// What is known of secrets in files.
    secrets: secrets::Secrets,
    service: Service,
}

/// What others need to talk to the engine.
#[derive(Clone)]
pub struct Handle {
    /// For requests.
    pub requests: mpsc::Sender<Command>,
    /// For events as they happen.
    pub events: broadcast::Sender<Arc<Event>>,
    /// For events that have happened.
    pub state_dir: PathBuf,
}

async fn look(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Loads the policy that the options name.
///
/// # Errors
/// The policy's mistake.
pub fn load_policy(options: &Options) -> Result<Policy, PolicyError> {
    // Looked for each time: a reload finds the files that were written since.
    files::load(options.policy.as_deref(), Trust::of_this_process())
}

impl Engine {
    /// Puts the policy in force, attaches the lineage, takes up what ran before, and adopts the agents
    /// that run already. When it returns nothing is missed any more.
    ///
    /// # Errors
    /// Whatever keeps guard from working; nothing stays attached then.
    pub fn start(
        options: Options,
        mut policy: Policy,
        journal: Journal,
        mut kernel: Kernel,
        rings: Rings,
        service: Service,
    ) -> Result<(Self, Handle), EngineError> {
        let users = users::add(&mut policy, &options, &[]);
        let bits = LabelBits::assign(None, &policy)?;
        let homes = Homes::from_system();
        policy.clusters = Clusters::of(&homes);
        let tables = policy.compile(kernel.tables.next_generation() as u8, &bits, &homes)?;
        let observe = options.mode.unwrap_or(policy.mode) == Mode::Observe;
        kernel.tables.stage(&tables)?;
        kernel.tables.commit(&tables, observe)?;
        kernel.tables.heartbeat()?;
        let watch = |ring: RingBuf<MapData>| {
            // SAFETY: a ring buffer's descriptor lives as long as the ring, which the AsyncFd owns.
            let watched = unsafe { AsyncFd::register(ring) };
            watched.map_err(|error| EngineError::System {
                what: "watching a ring buffer",
                source: error.into(),
            })
        };
        let (sender, requests) = mpsc::channel(REQUEST_ROOM);
        let (events, _) = broadcast::channel(LISTENER_ROOM);
        let handle = Handle {
            requests: sender,
            events: events.clone(),
            state_dir: options.state_dir.clone(),
        };
        let begun_at = journal.last_seq();
        let mut rules = [Vec::new(), Vec::new()];
        rules[kernel.tables.generation() as usize] = named_rules(&policy, &tables);
        let mut engine = Self {
            agents: AgentMatcher::new(&policy, &homes),
            commands: CommandMatcher::new(&policy),
            users,
            digest: Digest::since(clock::realtime_s()),
            options,
            kernel,
            critical: watch(rings.critical)?,
            activity: watch(rings.activity)?,
            domains: watch(rings.domains)?,
            said: watch(rings.said)?,
            talks: content::Talks::default(),
            withheld: withheld::Withheld::default(),
            ending: BTreeMap::new(),
            put_off: put_off::PutOff::default(),
            taps: HashMap::new(),
            libraries: Libraries::default(),
            flights: quic::Flights::default(),
            names: Names::default(),
            streams: Streams::default(),
            foreign_streams: Streams::default(),
            spared: spared::Spared::here(),
            answers_read: 0,
            names_swept_ns: 0,
            journal,
            policy,
            tables,
            bits,
            rules,
            sessions: BTreeMap::new(),
            ended: VecDeque::new(),
            holds: BTreeMap::new(),
            grants: BTreeMap::new(),
            tally: tally::Tally::default(),
            baselines: Baselines::default(),
            found: Vec::new(),
            turned: Vec::new(),
            known: HashMap::new(),
            next_session: 0,
            next_hold: 0,
            next_grant: 0,
            counters: Counters::default(),
            misses: [0; FEATURES.len()],
            own_files: BTreeMap::new(),
            forks: HashMap::new(),
            problems: BTreeMap::new(),
            idle_since_ns: None,
            started_ns: clock::monotonic_ns(),
            events,
            requests,
            more: false,
            attentive_until_ns: 0,
            look_at: None,
            connects: (0, 0),
            second_ns: 0,
            dirty: false,
            reloading: false,
            ticked_ns: 0,
            swept_ns: 0,
            saved_ns: 0,
            flushed: (0, 0),
            to_sweep: Vec::new(),
            tracing_forks: false,
            kept_by_others: Vec::new(),
            containers: containers::Containers::default(),
            herald: herald::Herald::after(begun_at),
            secrets: secrets::Secrets::default(),
            service,
        };
        engine.mark_own_files();
        engine.trace_forks(true);
        engine.kernel.attach_lineage()?;
        engine.begin_signing()?;
        let mut event = Event::new(Kind::Guard);
        event.object = Some(json!({
            "what": "started",
            "version": env!("CARGO_PKG_VERSION"),
            "mode": engine.mode().name(),
            "policy": engine.policy.source().to_string(),
        }));
        engine.tell(event);
        engine.tell_of_users();
        if engine.journal.unwritten() > 0 {
            let why = engine.problems.remove("journal").unwrap_or_default();
            return Err(EngineError::NoRoom {
                dir: engine.options.state_dir.clone(),
                why,
            });
        }
        engine.load_tally();
        engine.search_as_the_policy_says();
        engine.load_baselines();
        engine.recover();
        engine.adopt_running_agents();
        if !engine.sessions.is_empty() {
            engine.find_containers();
        }
        // What an earlier guardd has refused, of a session that is over.
        if engine.kernel.may_leave_later()
            && let Err(error) = engine.kernel.attach_calls()
        {
            engine.problems.insert("hooks", error.to_string());
        }
        engine.kernel.drop_predecessors();
        engine.trace_forks(false);
        engine.save();
        engine.seal_journal("start");
        Ok((engine, handle))
    }

    /// Runs until `stop` resolves; then lets every process go and takes every hook off.
    pub async fn run(
        mut self,
        stop: impl Future<Output = End>,
        mut reload: impl AsyncFnMut(),
    ) -> End {
        self.service.ready();
        let mut stop = std::pin::pin!(stop);
        let ended;
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // In this order when several are ready; each is bounded, so that none keeps the others out.
            tokio::select! {
                biased;
                end = &mut stop => {
                    ended = end;
                    break;
                }
                _ = tick.tick() => self.tick(),
                () = std::future::ready(()), if self.more => self.drain(),
                guard = self.domains.readable_mut() => {
                    if let Ok(mut guard) = guard { guard.clear_ready(); }
                    self.read_answers();
                }
                guard = self.said.readable_mut() => {
                    if let Ok(mut guard) = guard { guard.clear_ready(); }
                    self.drain();
                }
                guard = self.critical.readable_mut() => {
                    if let Ok(mut guard) = guard { guard.clear_ready(); }
                    self.drain();
                }
                Some(command) = self.requests.recv() => {
                    // What the kernel has already told comes first, so that an answer shows it.
                    self.drain();
                    self.answer(command);
                }
                Some(report) = self.secrets.next() => {
                    // What was opened before it was found comes first.
                    self.drain();
                    self.on_report(report);
                }
                guard = self.activity.readable_mut() => {
                    if let Ok(mut guard) = guard { guard.clear_ready(); }
                    self.drain();
                }
                () = look(self.look_at), if self.look_at.is_some() => self.drain(),
                () = reload() => {
                    if let Err(error) = self.reload() {
                        tracing::error!("{error}");
                    }
                }
            }
            if self.more {
                // Connections are served by other tasks of this thread.
                tokio::task::yield_now().await;
            }
        }
        self.service.stopping();
        if ended == End::MakesWay {
            self.make_way();
        } else {
            self.shut_down().await;
        }
        ended
    }

    /// Leaves everything as it is, for the next guardd.
    fn make_way(&mut self) {
        self.drain_all();
        let mut event = Event::new(Kind::Guard);
        event.object = Some(json!({ "what": "makes way", "version": env!("CARGO_PKG_VERSION") }));
        self.tell(event);
        self.save();
        self.close_journal();
        self.kernel.keep_in_force();
    }

    /// Takes a batch out of each ring, and tells the end of the sessions whose last process is in it. Leaves word in `more`
    /// when there is more.
    fn drain(&mut self) {
        for _ in 0..ENDINGS {
            self.take_batch();
            if self.more || self.ending.is_empty() {
                break;
            }
        }
        self.more |= !self.ending.is_empty();
    }

    /// Activity first, so that a verdict finds its process known.
    fn take_batch(&mut self) {
        let mut records = Vec::new();
        self.more = false;
        let ending = std::mem::take(&mut self.ending);
        let mut active = false;
        self.read_answers();
        for (activity, ring) in [(true, &mut self.activity), (false, &mut self.critical)] {
            let ring = ring.get_mut();
            for taken in 0..=BATCH {
                if taken == BATCH {
                    self.more = true;
                    break;
                }
                let Some(item) = ring.next() else { break };
                active |= activity;
                match Record::decode(&item) {
                    Some(record) => records.push(record),
                    None => tracing::warn!(bytes = item.len(), "a record that cannot be read"),
                }
            }
        }
        self.stay_attentive(active);
        for record in records {
            self.handle(record);
        }
        self.read_requests();
        self.tell_found();
        self.tell_turned();
        self.end_seen_empty(ending);
    }

    /// Promises the kernel to look at the activity ring again, as long as something comes. The last
    /// look is after the promise has expired, so that nothing lies there unseen.
    fn stay_attentive(&mut self, active: bool) {
        let now = clock::monotonic_ns();
        if active && now + (ATTENTION - LOOK_EVERY).as_nanos() as u64 > self.attentive_until_ns {
            let until = now + ATTENTION.as_nanos() as u64;
            if self.kernel.tables.attentive(until).is_ok() {
                self.attentive_until_ns = until;
            }
        }
        if active || now < self.attentive_until_ns {
            self.look_at = Some(tokio::time::Instant::now() + LOOK_EVERY);
        } else {
            self.look_at = None;
        }
    }

    /// Drains what is there now, for those who must have seen it, within bounds.
    fn drain_all(&mut self) {
        for _ in 0..LOOKS {
            self.drain();
            if !self.more {
                break;
            }
        }
    }

    fn handle(&mut self, record: Record) {
        match record {
            Record::Exec { fields, exe, argv } => self.on_exec(&fields, exe.as_deref(), &argv),
            Record::Path {
                fields,
                path,
                ino,
                dev,
                flags,
            } => self.on_path(&fields, path.as_deref(), ino, dev, flags),
            Record::Connect { fields, to } => self.on_connect(&fields, &to),
            Record::Name { fields, to, said } => self.on_name(&fields, &to, &said),
            Record::Tap { fields, to, said } => self.on_tap(&fields, &to, &said),
            Record::Write(write) => self.on_write(*write),
            Record::Call {
                fields,
                act,
                target,
                number,
            } => self.on_call(&fields, act, target, number),
            Record::Bare(fields) => match fields.kind {
                kind::AGENT => self.on_candidate(&fields),
                kind::EMPTY => self.see_empty(fields.session),
                // What name servers had said was read before the records.
                kind::AWAIT => self.let_go_on(Id::new(fields.tgid, fields.start_ns)),
                kind::FORK => {
                    self.forks
                        .insert(fields.tgid, (fields.ppid, fields.start_ns));
                }
                _ => {}
            },
        }
    }

    fn tick(&mut self) {
        // Looking through the kernel's tables for what was lost costs something even when they are
        // empty, and without a session nothing in them is urgent.
        let now = clock::monotonic_ns();
        let idle =
            self.sessions.is_empty() && self.holds.is_empty() && self.kept_by_others.is_empty();
        if idle && now - self.ticked_ns < IDLE_TICK.as_nanos() as u64 {
            return;
        }
        self.ticked_ns = now;
        self.service.beat();
        self.drain();
        self.kernel.flush_log();
        if let Err(error) = self.kernel.tables.heartbeat() {
            self.problems.insert("heartbeat", error.to_string());
        }
        self.look_after_holds();
        self.end_old_asks();
        self.let_forgotten_go_on();
        self.look_after_kept();
        if !idle || now - self.swept_ns >= IDLE_LOOK.as_nanos() as u64 {
            self.swept_ns = now;
            self.find_lost_holds(RECORD_COMES_NS);
            self.sweep();
        }
        self.count_losses();
        self.look_for_empty();
        self.detach_when_idle();
        self.sweep_names();
        self.sweep_taps();
        self.sweep_withheld();
        self.look_after_containers();
        self.look_after_secrets();
        self.take_up_changed_users();
        self.tell_digest();
        // Facts are in the journal already; this keeps what a restart has to replay short, and the list
        // of processes young.
        if self.dirty && clock::monotonic_ns() - self.saved_ns > SAVE_EVERY.as_nanos() as u64 {
            self.save();
        }
        self.flush_journal();
        self.tell_status();
    }

    /// For `systemctl status`: how many sessions there are, and what is wrong.
    fn tell_status(&mut self) {
        // Taken out, since the line is made of what else the engine knows.
        let mut service = std::mem::take(&mut self.service);
        service.status(|| self.status_line());
        self.service = service;
    }

    /// Whether one more unlabelled connect is told by itself. Nothing depends on it but a reader's
    /// patience and the disk: a program that connects in a loop would fill both.
    fn may_tell_connect(&mut self) -> bool {
        let now = clock::monotonic_ns();
        if now - self.second_ns >= 1_000_000_000 {
            self.tell_of_uncounted();
            self.second_ns = now;
            self.connects.0 = 0;
        }
        self.connects.0 += 1;
        if self.connects.0 > CONNECTS_A_SECOND {
            self.connects.1 += 1;
            return false;
        }
        true
    }

    fn tell_of_uncounted(&mut self) {
        let count = std::mem::take(&mut self.connects.1);
        if count > 0 {
            let mut event = Event::new(Kind::Lost);
            event.object = Some(
                json!({ "count": count, "class": "activity", "why": "unlabelled connects, summarised" }),
            );
            self.tell(event);
        }
    }

    /// Losses are told once each time they grow, and stay in `status`.
    fn count_losses(&mut self) {
        if clock::monotonic_ns() - self.second_ns >= 1_000_000_000 {
            self.tell_of_uncounted();
        }
        let Ok(now) = self.kernel.tables.counters() else {
            return;
        };
        for (index, (new, old)) in now.iter().zip(self.counters).enumerate() {
            if new.lost > old.lost {
                let mut event = Event::new(Kind::Lost);
                event.object =
                    Some(json!({ "count": new.lost - old.lost, "class": class::NAMES[index] }));
                self.tell(event);
            }
        }
        self.dirty |=
            now[class::LINEAGE as usize].emitted != self.counters[class::LINEAGE as usize].emitted;
        self.counters = now;
        self.count_misses();
        for (class, key, what) in [
            (
                class::LINEAGE,
                "lineage",
                "processes that could not be entered in the lineage table are not watched",
            ),
            (
                class::FACT,
                "fact",
                "touches that could not be entered in the rules' table are not judged",
            ),
            (
                class::NAME,
                "name-server",
                "answers of name servers found no room: their names are known only from the connections",
            ),
            (
                class::REQUEST,
                "request",
                "writes or connections that some label asks about could not be looked at",
            ),
            (
                class::VERDICT,
                "verdict",
                "verdicts were carried out but not recorded",
            ),
        ] {
            let lost = now[class as usize].lost;
            if lost > 0 {
                self.problems.insert(key, format!("{lost} lost: {what}"));
            }
        }
    }

    /// What no program has been shown, since the kernel does not run one twice at once on a CPU.
    fn count_misses(&mut self) {
        let mut new = [0; 2];
        for (feature, known) in FEATURES.into_iter().zip(&mut self.misses) {
            let misses = self.kernel.hooks.misses(feature);
            let of_lineage = feature == Feature::Lineage;
            new[usize::from(of_lineage)] += misses.saturating_sub(*known);
            *known = misses;
        }
        let [calls, lineage] = new;
        for (count, class) in [(calls, "call"), (lineage, "lineage")] {
            if count > 0 {
                let mut event = self.event_for(Kind::Lost, None);
                event.object = Some(json!({ "count": count, "class": class }));
                self.tell(event);
            }
        }
        let missed: Vec<String> = FEATURES
            .into_iter()
            .zip(self.misses)
            .filter(|(_, misses)| *misses > 0)
            .map(|(feature, misses)| format!("{} {misses}", feature.name()))
            .collect();
        if !missed.is_empty() {
            self.problems.insert(
                "misses",
                format!(
                    "not judged, of any process, at most: {}: a kernel that preempts does not run a program twice \
                     at once on a CPU",
                    missed.join(", ")
                ),
            );
        }
    }

    /// With no session alive only the lineage hooks stay attached, and for two minutes what keeps refused bytes from leaving, if
    /// there were any. Taking hooks off waits for every
    /// CPU, so a session that comes within the second finds them in place.
    fn detach_when_idle(&mut self) {
        let alive = self
            .sessions
            .values()
            .any(|s| s.ended_ns.is_none() && self.live(s.id) > 0);
        if alive || !self.kernel.hooks.calls_attached() {
            self.idle_since_ns = None;
            return;
        }
        let now = clock::monotonic_ns();
        let since = *self.idle_since_ns.get_or_insert(now);
        if now - since < 1_000_000_000 {
            return;
        }
        // What was refused would leave as soon as nobody looks any more.
        if self.kernel.may_leave_later() {
            self.kernel.detach_calls_but_leaving();
        } else {
            self.kernel.detach_calls();
            self.idle_since_ns = None;
        }
    }

    /// An event of a session, now.
    fn event_for(&self, kind: Kind, session: Option<u32>) -> Event {
        let mut event = Event::new(kind);
        event.mono_ns = Some(clock::monotonic_ns());
        if let Some(id) = session {
            event.session = Some(format!("s-{id}"));
            event.agent = self.sessions.get(&id).map(|session| session.agent.clone());
        }
        event
    }

    /// How bad its rule says that it is.
    fn add_severity(&self, event: &mut Event) {
        let Some(name) = &event.rule else { return };
        let rule = self.policy.rules.iter().find(|rule| rule.name == *name);
        event.severity = rule
            .and_then(|rule| rule.severity)
            .map(|severity| severity.name().into());
    }

    /// Writes an event to the journal and tells whoever listens.
    fn tell(&mut self, mut event: Event) -> Event {
        self.add_evidence(&mut event);
        self.add_severity(&mut event);
        match self.journal.append(&mut event) {
            Ok(()) if self.journal.owes() => {}
            Ok(()) => {
                self.problems.remove("journal");
            }
            // Before guardd is ready there is nothing to be told apart from its failure to start.
            Err(error) if self.saved_ns == 0 => {
                self.problems.insert("journal", error.cause());
            }
            Err(error) => {
                self.problems.insert(
                    "journal",
                    format!(
                        "{error} ({} events are not on disk)",
                        self.journal.unwritten()
                    ),
                );
                tracing::error!("{error}");
            }
        }
        self.digest.add(&event);
        // What was lost before it comes before it.
        let (before, after): (Vec<_>, Vec<_>) = self
            .journal
            .take_own()
            .into_iter()
            .partition(|own| own.seq < event.seq);
        for own in before {
            let _ = self.events.send(Arc::new(own));
        }
        // No listener is no error.
        let _ = self.events.send(Arc::new(event.clone()));
        for own in after {
            let _ = self.events.send(Arc::new(own));
        }
        self.note_purpose(&event);
        self.note_conduct(&event);
        event
    }

    async fn shut_down(&mut self) {
        self.drain_all();
        let ids: Vec<u32> = self.holds.keys().copied().collect();
        let mut refused = Vec::new();
        for id in ids {
            if let Some(hold) = self.holds.get(&id) {
                refused.push(hold.process);
            }
            let _ = self.settle(id, &Outcome::Stopping, By::default());
        }
        // A denied call fails only when its thread runs again: the hooks stay until it has, or has
        // plainly not come back within the second.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
        while !refused.is_empty() && tokio::time::Instant::now() < deadline {
            // Those that went on by approval are told in the other ring, which need not wake us.
            let next = deadline.min(tokio::time::Instant::now() + LOOK_EVERY);
            let _ = tokio::time::timeout_at(next, self.critical.readable_mut())
                .await
                .map(|guard| guard.map(|mut guard| guard.clear_ready()));
            let before = self.journal.last_seq();
            self.drain();
            let seen: Vec<u32> = self
                .journal
                .tail()
                .filter(|e| {
                    e.seq > before
                        && matches!(
                            e.kind,
                            Kind::Connect | Kind::Open | Kind::Signal | Kind::Call
                        )
                })
                .filter_map(|e| e.tgid)
                .collect();
            refused.retain(|(pid, start)| {
                !seen.contains(pid)
                    && process::stat(*pid)
                        .is_some_and(|stat| stat.id.start == *start && stat.is_alive())
            });
        }
        let paused: Vec<u32> = self
            .sessions
            .values()
            .filter(|s| s.paused)
            .map(|s| s.id)
            .collect();
        for id in paused {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.paused = false;
            }
            self.resume_session(id);
        }
        self.kernel.detach_calls();
        // Who waits goes on when nothing can make another one wait.
        self.kernel.detach_lineage();
        self.kernel.unpin();
        // Nothing that is said is looked at any more.
        for (pid, _) in self.kernel.tables.all_tapped() {
            self.untap(pid);
            self.kernel.tables.drop_tapped(pid);
        }
        for (pid, waiting) in self.kernel.tables.waiting() {
            self.let_go_on(Id::new(pid, waiting.start_ns));
        }
        let mut event = Event::new(Kind::Guard);
        event.object = Some(json!({ "what": "stopped" }));
        self.tell(event);
        self.save();
        self.close_journal();
    }
}
