//! The measurement: conditions, rounds, and what each of them needs to be brought about.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    net::{
        AddressFamily, SocketAddrV4, SocketType, bind, getsockname, socket,
        sockopt::set_socket_reuseport,
    },
    thread::sched_getaffinity,
};

use crate::{
    CALLS, Call,
    empty::{self, Loader},
    guard::{self, Guard, Lost, Setting, Worker},
    interrupt,
    worker::{self, Answer, LABELLED_FILE, Order, PLAIN_FILE},
};

/// What is attached while a call is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Condition {
    Nothing,
    Empty,
    NoSession,
    Elsewhere,
    Inside,
    Labelled,
}

pub(crate) const CONDITIONS: [Condition; 6] = [
    Condition::Nothing,
    Condition::Empty,
    Condition::NoSession,
    Condition::Elsewhere,
    Condition::Inside,
    Condition::Labelled,
];

impl Condition {
    /// The word in JSON.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Empty => "empty",
            Self::NoSession => "no-session",
            Self::Elsewhere => "session-elsewhere",
            Self::Inside => "inside",
            Self::Labelled => "inside-labelled",
        }
    }

    /// As people read it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Nothing => "nothing attached",
            Self::Empty => "empty programs, same hooks",
            Self::NoSession => "guardd, no session",
            Self::Elsewhere => "guardd, session elsewhere",
            Self::Inside => "in a session, unlabelled",
            Self::Labelled => "in a session, labelled",
        }
    }

    /// Whether guardd is told of such a call: in a session of every connection, every program, and
    /// whatever has a label.
    const fn tells(self, call: Call) -> bool {
        match self {
            Self::Labelled => true,
            Self::Inside => matches!(call, Call::Connect | Call::Exec),
            _ => false,
        }
    }

    /// Whether there is such a case: nothing labels a getppid.
    pub(crate) const fn has(self, call: Call) -> bool {
        !matches!((self, call), (Self::Labelled, Call::Getppid))
    }
}

/// What was measured.
pub(crate) struct Results {
    pub(crate) rounds: usize,
    pub(crate) quick: bool,
    /// What is measured, in the order of [`CALLS`].
    pub(crate) calls: Vec<Call>,
    /// CPU of the measured process and of guardd, where there are two.
    pub(crate) cpus: Option<(usize, usize)>,
    /// By call (its place in [`CALLS`]) and condition, one a round; `None` where it failed.
    samples: BTreeMap<(usize, Condition), Vec<Option<Sample>>>,
    /// The shortest [`Sample::spin`] of all.
    spin: f64,
    pub(crate) idle: Option<Idle>,
    pub(crate) lost: Lost,
    /// Samples that were taken although something else used the core or the hooks.
    pub(crate) disturbed: usize,
    /// Why something was not measured, one line each.
    pub(crate) problems: Vec<String>,
    /// What a reader should know, one line each.
    pub(crate) notes: Vec<String>,
}

/// guardd with nothing to do.
pub(crate) struct Idle {
    pub(crate) rss: u64,
    pub(crate) cpu: Duration,
    pub(crate) during: Duration,
}

impl Results {
    /// Nanoseconds of one call under one condition, one value a round; all as on a core that is as
    /// fast as it was at its fastest. Disturbed samples are left out where enough others are left.
    pub(crate) fn of(&self, call: usize, condition: Condition) -> Vec<Option<f64>> {
        let samples = self.samples.get(&(call, condition));
        let samples = samples.map_or(&[][..], |samples| samples);
        let quiet = samples.iter().flatten().filter(|sample| sample.quiet);
        let all = quiet.count() < ENOUGH;
        samples
            .iter()
            .map(|sample| {
                let sample = sample.filter(|sample| sample.quiet || all)?;
                Some(sample.ns * self.spin / sample.spin)
            })
            .collect()
    }
}

/// How many undisturbed samples make a figure.
const ENOUGH: usize = 5;

/// One sample as it was measured.
#[derive(Clone, Copy)]
struct Sample {
    /// Nanoseconds per call.
    ns: f64,
    /// See [`Answer::spin`].
    spin: f64,
    /// Nothing else used the core.
    quiet: bool,
}

impl Sample {
    /// The undisturbed one, or the lower one.
    fn better(self, other: Self) -> Self {
        let relative = |sample: &Self| sample.ns / sample.spin;
        let take_other = if self.quiet == other.quiet {
            relative(&other) < relative(&self)
        } else {
            other.quiet
        };
        if take_other { other } else { self }
    }
}

/// How long guardd is watched doing nothing.
const IDLE: Duration = Duration::from_secs(5);
/// After something was attached or detached, for what the kernel does later.
const PAUSE: Duration = Duration::from_millis(50);
/// How often each call is measured each time a condition has been brought about; the lower one
/// counts. Some connects cost an eighth more for a while, whatever is attached.
const PASSES: usize = 2;
/// How long is waited when something disturbs, each time and in the whole run.
const RETRY: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(60);

struct Bench {
    bin_dir: PathBuf,
    dir: PathBuf,
    policy: String,
    loader: Result<Loader, String>,
    setting: Setting,
    guard_cpu: Option<usize>,
    guards: usize,
    results: Results,
    round: usize,
    /// How long may still be waited when something disturbs.
    patience: Duration,
    /// BPF links on the machine under the first three conditions and with a session.
    links: BTreeMap<Condition, usize>,
}

/// Measures `only` these calls; all of them when it is empty.
pub(crate) fn measure(
    bin_dir: &Path,
    rounds: usize,
    quick: bool,
    only: &[Call],
) -> Result<Results> {
    let scratch = tempfile::Builder::new()
        .prefix("guard-bench-")
        .tempdir()
        .context("scratch directory")?;
    let dir = scratch.path().canonicalize().context("scratch directory")?;
    // As deep as a file in a project, and with the same depth for both.
    let files = dir.join("home/project/src");
    fs::create_dir_all(&files).with_context(|| format!("{}", files.display()))?;
    for name in [PLAIN_FILE, LABELLED_FILE] {
        fs::write(files.join(name), "bench\n").with_context(|| name.to_owned())?;
    }
    let ports = [Port::reserve()?, Port::reserve()?];
    let cpus = cpus()?;
    if let Some((_, other)) = cpus {
        worker::pin(None, other).context("sched_setaffinity")?;
    }
    let mut bench = Bench {
        bin_dir: bin_dir.to_owned(),
        policy: guard::policy(ports[1].number)?,
        loader: Loader::new().map_err(|error| format!("{error:#}")),
        setting: Setting {
            program: std::env::current_exe().context("/proc/self/exe")?,
            cpu: cpus.map(|(measured, _)| measured),
            dir: files,
            plain_port: ports[0].number,
            labelled_port: ports[1].number,
        },
        guard_cpu: cpus.map(|(_, other)| other),
        guards: 0,
        results: Results {
            rounds,
            quick,
            calls: CALLS
                .into_iter()
                .filter(|call| only.is_empty() || only.contains(call))
                .collect(),
            cpus,
            samples: BTreeMap::new(),
            spin: f64::INFINITY,
            idle: None,
            lost: 0,
            disturbed: 0,
            problems: Vec::new(),
            notes: Vec::new(),
        },
        round: 0,
        patience: PATIENCE,
        links: BTreeMap::new(),
        dir,
    };
    if cpus.is_none() {
        let note = "one CPU: guardd's own work is in the figures of calls that are told";
        bench.results.notes.push(note.into());
    }
    let idle = bench.idle();
    bench.note_failure("guardd idle", idle)?;
    for round in 0..rounds {
        bench.round = round;
        bench.round()?;
    }
    bench.compare_links();
    if bench.results.disturbed > 0 {
        bench.results.notes.push(format!(
            "something else used the core or the hooks during {} samples: they are left out where at \
             least {ENOUGH} others are left",
            bench.results.disturbed,
        ));
    }
    Ok(bench.results)
}

/// The measured process's CPU and everyone else's.
fn cpus() -> Result<Option<(usize, usize)>> {
    let set = sched_getaffinity(None).context("sched_getaffinity")?;
    let mut cpus = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
    // The first one serves most interrupts.
    Ok(match (cpus.next(), cpus.next()) {
        (Some(first), Some(second)) => Some((second, first)),
        _ => None,
    })
}

/// A port on the loopback that stays ours: measured processes listen on it one after another.
struct Port {
    number: u16,
    _socket: OwnedFd,
}

impl Port {
    fn reserve() -> Result<Self> {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).context("socket")?;
        set_socket_reuseport(&socket, true).context("SO_REUSEPORT")?;
        bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).context("bind")?;
        let address = SocketAddrV4::try_from(getsockname(&socket)?).context("getsockname")?;
        Ok(Self {
            number: address.port(),
            _socket: socket,
        })
    }
}

impl Bench {
    fn idle(&mut self) -> Result<()> {
        let guard = self.start_guard()?;
        guard.wait_for_sessions(0)?;
        guard.settle()?;
        let before = guard::cpu_ns(guard.pid())?;
        thread::sleep(IDLE);
        let cpu = guard::cpu_ns(guard.pid())?.saturating_sub(before);
        self.results.idle = Some(Idle {
            rss: guard::rss(guard.pid())?,
            cpu,
            during: IDLE,
        });
        guard.stop()
    }

    fn start_guard(&mut self) -> Result<Guard> {
        self.guards += 1;
        let dir = self.dir.join(format!("guard-{}", self.guards));
        Guard::start(&self.bin_dir, &dir, &self.policy, self.guard_cpu)
    }

    /// Every condition once; forwards and backwards by turns.
    fn round(&mut self) -> Result<()> {
        let mut outside = Worker::outside(&self.setting)?;
        if self.round == 0 {
            // To find out how fast the core can be.
            for _ in 0..10 {
                self.one(Call::Getppid, Condition::Nothing, &mut outside, None)?;
            }
        }
        let forwards = self.round.is_multiple_of(2);
        if forwards {
            self.without_guard(&mut outside, forwards)?;
            self.with_guard(&mut outside, forwards)?;
        } else {
            self.with_guard(&mut outside, forwards)?;
            self.without_guard(&mut outside, forwards)?;
        }
        outside.stop()
    }

    fn without_guard(&mut self, outside: &mut Worker, forwards: bool) -> Result<()> {
        thread::sleep(PAUSE);
        if forwards {
            self.sample(Condition::Nothing, outside, None)?;
        }
        let attached = match &self.loader {
            Ok(loader) => loader.attach(),
            Err(error) => Err(anyhow::anyhow!("{error}")),
        };
        match attached {
            Ok(programs) => {
                thread::sleep(PAUSE);
                self.sample(Condition::Empty, outside, None)?;
                drop(programs);
                thread::sleep(PAUSE);
            }
            Err(error) => self.note_failure("the empty programs", Err(error))?,
        }
        if !forwards {
            self.sample(Condition::Nothing, outside, None)?;
        }
        Ok(())
    }

    fn with_guard(&mut self, outside: &mut Worker, forwards: bool) -> Result<()> {
        let guard = match self.start_guard() {
            Ok(guard) => guard,
            Err(error) => return self.note_failure("guardd", Err(error)),
        };
        let done = self.sampled_with(&guard, outside, forwards);
        self.note_failure("a condition with guardd", done)?;
        if let Ok(lost) = guard.lost() {
            self.results.lost += lost;
        }
        let stopped = guard.stop();
        self.note_failure("the end of guardd", stopped)
    }

    fn sampled_with(&mut self, guard: &Guard, outside: &mut Worker, forwards: bool) -> Result<()> {
        if forwards {
            self.no_session(guard, outside)?;
        }
        let mut inside = Worker::inside(&self.setting, guard)?;
        let mut conditions = [Condition::Elsewhere, Condition::Inside, Condition::Labelled];
        if !forwards {
            conditions.reverse();
        }
        for condition in conditions {
            let worker = match condition {
                Condition::Elsewhere => &mut *outside,
                _ => &mut inside,
            };
            self.sample(condition, worker, Some(guard))?;
        }
        inside.stop()?;
        if !forwards {
            self.no_session(guard, outside)?;
        }
        Ok(())
    }

    fn no_session(&mut self, guard: &Guard, outside: &mut Worker) -> Result<()> {
        guard.wait_for_sessions(0)?;
        thread::sleep(PAUSE);
        self.sample(Condition::NoSession, outside, Some(guard))
    }

    /// Measures every call under one condition, which has been brought about.
    fn sample(
        &mut self,
        condition: Condition,
        worker: &mut Worker,
        guard: Option<&Guard>,
    ) -> Result<()> {
        self.wait_for_strangers(condition)?;
        let mut best: [Option<Sample>; CALLS.len()] = [None; CALLS.len()];
        for _ in 0..PASSES {
            for (call, best) in CALLS.into_iter().zip(&mut best) {
                if !condition.has(call) || !self.results.calls.contains(&call) {
                    continue;
                }
                match self.measured(call, condition, worker, guard) {
                    Ok(sample) => *best = Some(best.map_or(sample, |best| best.better(sample))),
                    Err(error) => {
                        let what = format!("{}, {}", condition.title(), call.title());
                        self.note_failure(&what, Err(error))?;
                    }
                }
            }
        }
        for (index, best) in best.into_iter().enumerate() {
            let samples = self.results.samples.entry((index, condition)).or_default();
            // A round that broke off left a gap.
            samples.resize(self.round, None);
            samples.push(best);
            if best.is_some_and(|best| !best.quiet) {
                self.results.disturbed += 1;
            }
        }
        Ok(())
    }

    /// One sample; another one when the core was not quiet, as long as there is patience left.
    fn measured(
        &mut self,
        call: Call,
        condition: Condition,
        worker: &mut Worker,
        guard: Option<&Guard>,
    ) -> Result<Sample> {
        loop {
            let (quiet, answer) = if condition.tells(call) {
                // guardd itself works meanwhile, so the core can only be looked at before and after.
                let before = self.one(Call::Getppid, condition, worker, guard)?;
                let told = self.one(call, condition, worker, guard)?;
                let after = self.one(Call::Getppid, condition, worker, guard)?;
                (before.quiet && after.quiet, told)
            } else {
                let answer = self.one(call, condition, worker, guard)?;
                (answer.quiet, answer)
            };
            let sample = Sample {
                ns: answer.ns,
                spin: answer.spin,
                quiet,
            };
            if quiet || !self.wait_a_little() {
                return Ok(sample);
            }
        }
    }

    fn one(
        &mut self,
        call: Call,
        condition: Condition,
        worker: &mut Worker,
        guard: Option<&Guard>,
    ) -> Result<Answer> {
        interrupt::check()?;
        if let Some(guard) = guard {
            guard.settle()?;
        }
        let (runs, iterations) = size(call, self.results.quick);
        let answer = worker.measure(Order {
            call,
            labelled: condition == Condition::Labelled,
            runs,
            iterations,
            spin: self.results.spin,
        })?;
        self.results.spin = self.results.spin.min(answer.spin);
        Ok(answer)
    }

    /// Whether there was patience left to wait.
    fn wait_a_little(&mut self) -> bool {
        let wait = self.patience >= RETRY;
        if wait {
            self.patience -= RETRY;
            thread::sleep(RETRY);
        }
        wait
    }

    /// Waits until there are no more BPF links than there ever were under this condition: the other
    /// ones are somebody else's, on hooks that we measure.
    fn wait_for_strangers(&mut self, condition: Condition) -> Result<()> {
        loop {
            interrupt::check()?;
            let links = empty::links().context("counting BPF links")?;
            let fewest = self.links.entry(condition).or_insert(links);
            *fewest = links.min(*fewest);
            if links == *fewest {
                return Ok(());
            }
            if !self.wait_a_little() {
                self.results.disturbed += 1;
                return Ok(());
            }
        }
    }

    /// Remembers why something failed, once; gives up only when interrupted.
    fn note_failure(&mut self, what: &str, result: Result<()>) -> Result<()> {
        let Err(error) = result else { return Ok(()) };
        interrupt::check()?;
        let problem = format!("{what}: {error:#}");
        if !self.results.problems.contains(&problem) {
            self.results.problems.push(problem);
        }
        if self.results.problems.len() > 20 {
            bail!("too much fails: {}", self.results.problems.join("; "));
        }
        Ok(())
    }

    /// Other BPF programs on the machine, and drift between guard's hooks and the empty programs'.
    fn compare_links(&mut self) {
        let links = |condition| self.links.get(&condition).copied();
        let nothing = links(Condition::Nothing);
        if let Some(others) = nothing.filter(|others| *others > 0) {
            self.results.notes.push(format!(
                "{others} BPF links were there before: \"nothing attached\" is not quite nothing"
            ));
        }
        if let (Some(nothing), Some(empty), Some(guard)) = (
            nothing,
            links(Condition::Empty),
            links(Condition::Elsewhere),
        ) && empty != guard
        {
            self.results.notes.push(format!(
                "guard attached {} programs and the bench {} empty ones: \
                 compare tests/src/bin/guard-bench/empty.rs with guard-userspace/src/kernel/watched.rs",
                guard.saturating_sub(nothing),
                empty.saturating_sub(nothing),
            ));
        }
    }
}

/// Runs of one sample, and calls in each run: some 50 ms together. A whole sample of labelled opens
/// fits guard's ring buffer even if guardd does not read meanwhile, so that the figure is that of
/// telling and not of finding no room.
const fn size(call: Call, quick: bool) -> (usize, usize) {
    let (runs, iterations) = match call {
        Call::Getppid => (60, 6_000),
        Call::Open => (60, 250),
        Call::Connect => (60, 64),
        Call::Exec => (100, 1),
    };
    (if quick { runs / 3 } else { runs }, iterations)
}
