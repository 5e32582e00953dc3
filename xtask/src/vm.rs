//! `cargo xtask vm`: the laboratory. Boots kernels of several versions under QEMU, each with an initramfs
//! that holds the real binaries and the end-to-end tests, and reports how these ended.
//!
//! QEMU emulates the processor (TCG), so no privilege and no `/dev/kvm` is needed, and every kind of BPF
//! program can be loaded, whatever the machine's own kernel allows. Times in a guest mean nothing.

mod archive;
pub(crate) mod clients;
mod initramfs;
mod qemu;
mod systemd;

use std::{
    fs::File,
    path::PathBuf,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{build, shell::say, test, workspace};

/// Arguments of `cargo xtask vm`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which kernel: 5.10, 6.1, 6.12, `newest`, or `all`.
    #[arg(long, default_value = "all", value_name = "VERSION")]
    kernel: String,
    /// With or without `bpf` among the active security modules.
    #[arg(long, value_enum, default_value_t = Lsm::On)]
    lsm: Lsm,
    /// What `cargo xtask test` boots, and what that runs there.
    #[arg(long, conflicts_with_all = ["kernel", "lsm", "shell", "rest"])]
    sample: bool,
    /// A Debian with a real systemd instead, in which the package is installed, upgraded and removed.
    #[arg(long, conflicts_with_all = ["kernel", "lsm", "sample", "shell"])]
    systemd: bool,
    /// A shell in the guest instead of the tests.
    #[arg(long)]
    shell: bool,
    /// One processor, whose clock goes on by a nanosecond with each instruction: for measuring.
    #[arg(long, conflicts_with_all = ["sample", "systemd", "shell"])]
    count_instructions: bool,
    /// Arguments for the end-to-end test programs; the whole suite when there are none.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Whether BPF programs may be LSM hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Lsm {
    /// `bpf` is in the list.
    On,
    /// It is not, as on a stock Ubuntu.
    Off,
}

impl Lsm {
    const fn word(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }

    /// What guard chooses there.
    const fn best_tier(self) -> &'static str {
        match self {
            Self::On => "lsm",
            Self::Off => "modify-return",
        }
    }

    /// The list for the kernel's command line.
    const fn list(self) -> &'static str {
        match self {
            Self::On => "landlock,lockdown,yama,integrity,apparmor,bpf",
            Self::Off => "landlock,lockdown,yama,integrity,apparmor",
        }
    }
}

/// One virtual machine.
pub(crate) struct Guest {
    release: &'static archive::Release,
    lsm: Lsm,
    /// An emulated pair of processors waits for each other: where one does, all takes less time with one.
    processors: &'static str,
    /// MiB. One technique fills it, which takes long.
    memory: &'static str,
    /// The end-to-end test programs that run in it; all where it is empty.
    programs: &'static [&'static str],
    /// The programs that speak TLS are in it; see [`clients`].
    clients: bool,
    /// The tiers that the evasion suite tries; all where it is empty.
    tiers: &'static str,
    /// Those of them in which it also tries what floods, fills and exhausts, which takes an emulated processor longer than
    /// everything else; all where it is `None`.
    storms: Option<&'static str>,
    /// See [`qemu::Machine::counted`].
    counted: bool,
}

impl Guest {
    /// Words for the kernel's command line, which `/init` reads.
    fn limits(&self) -> String {
        let mut limits = String::new();
        if !self.programs.is_empty() {
            limits.push_str(&format!(" guard.only={}", self.programs.join(",")));
        }
        if !self.tiers.is_empty() {
            limits.push_str(&format!(" guard.tiers={}", self.tiers));
        }
        if let Some(storms) = self.storms {
            limits.push_str(&format!(" guard.storms={storms}"));
        }
        limits
    }
}

/// What `cargo xtask test` boots: every kernel with `bpf` among the security modules, and the oldest and the newest
/// without. `kernels` and the evasion suite by the best tier run on all of them, the rest where it may differ: by the least
/// tier too (which is this machine's as well), with restarts and with requests, on the oldest; by fentry, which is no guest's best, and
/// under stress, on the newest, which preempts; servers on one in between. (`cargo xtask vm` runs the whole suite on one. An emulated processor
/// is slow: on all of them it would take hours.)
pub(crate) fn sample() -> Vec<Guest> {
    const SOME: &[&str] = &["kernels", "evasions"];
    let guest = |release: &'static archive::Release, lsm: Lsm| Guest {
        release,
        lsm,
        processors: "1",
        memory: SMALL,
        programs: SOME,
        clients: false,
        tiers: lsm.best_tier(),
        storms: Some("none"),
        counted: false,
    };
    let [oldest, between @ .., newest] = archive::RELEASES else {
        return Vec::new();
    };
    let mut guests = vec![
        Guest {
            processors: "2",
            memory: LARGE,
            programs: &["kernels", "evasions", "stress"],
            tiers: "lsm,fentry",
            storms: Some("lsm,fentry"),
            ..guest(newest, Lsm::On)
        },
        Guest {
            programs: &["kernels", "evasions", "restarts", "requests"],
            tiers: "lsm,tracepoint",
            storms: Some("tracepoint"),
            ..guest(oldest, Lsm::On)
        },
    ];
    guests.extend(between.iter().map(|release| guest(release, Lsm::On)));
    if let Some(last) = guests.last_mut() {
        last.programs = &["kernels", "evasions", "brokers"];
    }
    guests.push(guest(newest, Lsm::Off));
    guests.push(Guest {
        storms: Some(Lsm::Off.best_tier()),
        ..guest(oldest, Lsm::Off)
    });
    guests
}

/// Enough for every test.
const LARGE: &str = "1024";
/// And for the clients' programs: half of what the archive leaves has to hold what is in it.
const LARGEST: &str = "2048";
/// Enough for all but the storms.
const SMALL: &str = "896";

/// A second guest at once has to wait until nothing else uses the processors: beside the tests of this machine, two took
/// more than twice as long as one after the other.
#[derive(Debug, Default)]
pub(crate) struct Room {
    free: Mutex<bool>,
    changed: Condvar,
}

impl Room {
    /// Nothing else runs any more.
    pub(crate) fn make(&self) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(free, |free| !*free));
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.systemd {
        let lab = Laboratory::open()?;
        let systemd = Systemd {
            only: &args.rest,
            must: true,
        };
        return report(|tally, room| lab.run_all(&[], Some(systemd), tally, room));
    }
    let chosen = archive::RELEASES
        .iter()
        .filter(|release| args.kernel == release.name || args.kernel == "all")
        .map(|release| Guest {
            release,
            lsm: args.lsm,
            processors: if args.count_instructions { "1" } else { "2" },
            memory: LARGEST,
            programs: &[],
            clients: true,
            tiers: "",
            storms: None,
            counted: args.count_instructions,
        });
    let guests: Vec<Guest> = if args.sample {
        sample()
    } else {
        chosen.collect()
    };
    let Some(first) = guests.first() else {
        let known: Vec<_> = archive::RELEASES.iter().map(|r| r.name).collect();
        bail!(
            "vm: --kernel {}: not known: one of all, {}",
            args.kernel,
            known.join(", ")
        );
    };
    let lab = Laboratory::prepare(&guests, &args.rest)?;
    if args.shell {
        return lab.shell(first.release, first.lsm);
    }
    let systemd = args.sample.then_some(Systemd {
        only: &[],
        must: true,
    });
    report(|tally, room| lab.run_all(&guests, systemd, tally, room))
}

/// Runs guests with nothing beside them, and says what came of it.
fn report(guests: impl FnOnce(&mut test::Tally, &Room) -> Result<Vec<String>>) -> Result<()> {
    let mut tally = test::Tally::default();
    let room = Room::default();
    room.make();
    let failures = guests(&mut tally, &room)?;
    println!("{}", tally.line());
    if !failures.is_empty() {
        bail!("vm: failed: {}", failures.join("; "));
    }
    Ok(())
}

/// What is needed to boot.
pub(crate) struct Laboratory {
    /// Of the directory, where every guest's image and results lie.
    _lock: File,
    cache: PathBuf,
    archive: archive::Archive,
    qemu: qemu::Qemu,
    busybox: PathBuf,
    /// With the tests in it; for guests that have no other root.
    initramfs: PathBuf,
}

/// A guest that is to be run.
enum Job<'a> {
    /// One kernel with the end-to-end tests.
    Kernel {
        kernel: archive::Kernel,
        guest: &'a Guest,
        dir: PathBuf,
        initrd: PathBuf,
    },
    /// The Debian with a systemd.
    Systemd(Systemd<'a>),
}

/// What to try in a Debian with a systemd, in which guard's package is installed.
#[derive(Clone, Copy)]
pub(crate) struct Systemd<'a> {
    /// Parts of the names of the tests to be run; all where there is none.
    pub(crate) only: &'a [String],
    /// Whether it is a failure that this machine lacks what it takes.
    pub(crate) must: bool,
}

impl Job<'_> {
    /// Whether it is a failure that this machine lacks what it takes.
    fn must(&self) -> bool {
        match self {
            Self::Kernel { .. } => true,
            Self::Systemd(systemd) => systemd.must,
        }
    }
}

impl Laboratory {
    /// Finds or fetches QEMU, and the archive's lists. Nothing else uses the directory while this lives.
    pub(crate) fn open() -> Result<Self> {
        let cache = workspace::tools_dir()?.join("vm");
        std::fs::create_dir_all(&cache).with_context(|| format!("{}", cache.display()))?;
        let lock = cache.join("lock");
        let lock = File::create(&lock).with_context(|| format!("{}", lock.display()))?;
        if lock.try_lock().is_err() {
            say("vm", "waiting for the virtual machines of another run");
            lock.lock().context("the laboratory's lock")?;
        }
        let archive = archive::Archive::open(&cache)?;
        let qemu = qemu::Qemu::find(&cache)?;
        let busybox = archive.busybox()?;
        Ok(Self {
            _lock: lock,
            initramfs: cache.join("initramfs.cpio"),
            cache,
            archive,
            qemu,
            busybox,
        })
    }

    /// The same, with the binaries built, and the tests that any of these guests runs, and all in the initramfs.
    pub(crate) fn prepare(guests: &[Guest], test_args: &[String]) -> Result<Self> {
        let bin_dir = build::given()?;
        let lab = Self::open()?;
        let runs = |name: &str| {
            guests
                .iter()
                .any(|guest| guest.programs.is_empty() || guest.programs.contains(&name))
        };
        let programs: Vec<PathBuf> = test::test_programs()?
            .into_iter()
            .filter(|program| runs(&program.name))
            .map(|program| program.executable)
            .collect();
        initramfs::build(&lab.initramfs, &lab.busybox, &bin_dir, &programs, test_args)?;
        Ok(lab)
    }

    /// Boots each; why those that failed did, a line each.
    pub(crate) fn run_all(
        &self,
        wanted: &[Guest],
        systemd: Option<Systemd<'_>>,
        tally: &mut test::Tally,
        room: &Room,
    ) -> Result<Vec<String>> {
        // What needs the network or apt, one after another.
        let mut jobs = Vec::new();
        for guest in wanted {
            let kernel = self.archive.kernel(guest.release)?;
            let name = format!("{} lsm {}", kernel.version, guest.lsm.word());
            let dir = self
                .cache
                .join(format!("run-{}-{}", guest.release.name, guest.lsm.word()));
            std::fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
            let initrd = dir.join("initrd");
            let modules = archive::modules_of(&kernel);
            initramfs::with_more(
                &initrd,
                &self.initramfs,
                &self.busybox,
                &modules,
                guest.clients,
            )?;
            jobs.push((
                name,
                Job::Kernel {
                    kernel,
                    guest,
                    dir,
                    initrd,
                },
            ));
        }
        // Neither the first, which take longest, nor what is waited for at the end.
        if let Some(systemd) = systemd {
            let at = jobs.len().min(2);
            jobs.insert(at, ("systemd".to_owned(), Job::Systemd(systemd)));
        }
        let next = AtomicUsize::new(0);
        let shared = Mutex::new((tally, Vec::new()));
        thread::scope(|scope| {
            let (jobs, next, shared) = (&jobs, &next, &shared);
            for second in [false, true] {
                scope.spawn(move || {
                    if second {
                        room.wait();
                    }
                    while let Some((name, job)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        say("vm", format!("{name}: begins"));
                        let started = Instant::now();
                        let mut all = test::Tally::default();
                        let result = self.run_one(job, |line| {
                            all.add(line);
                            println!("{name}: {line}");
                        });
                        say(
                            "vm",
                            format!("{name}: {:.0} s", started.elapsed().as_secs_f32()),
                        );
                        let failure = match result {
                            Ok(()) if all.passed == 0 => {
                                Some(format!("{name}: everything was skipped"))
                            }
                            Ok(()) => None,
                            Err(error) if error.is::<systemd::NotHere>() && !job.must() => {
                                say("vm", format!("{name}: skipped: {error:#}"));
                                all.ignored += 1;
                                None
                            }
                            Err(error) => Some(format!("{name}: {error:#}")),
                        };
                        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                        shared.0.join(&all);
                        shared.1.extend(failure);
                    }
                });
            }
        });
        let failures = shared
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .1;
        for failure in &failures {
            say("vm", format!("failed: {failure}"));
        }
        Ok(failures)
    }

    fn run_one(&self, job: &Job<'_>, on_line: impl FnMut(&str)) -> Result<()> {
        match job {
            // The package is built, and the Debian made, while other guests run.
            Job::Systemd(systemd) => {
                systemd::Ready::prepare(&self.cache, &self.archive, systemd.only)?
                    .run(&self.qemu, on_line)
            }
            Job::Kernel {
                kernel,
                guest,
                dir,
                initrd,
            } => {
                let machine = qemu::Machine {
                    kernel: &kernel.image,
                    root: qemu::Root::Initramfs(initrd),
                    processors: guest.processors,
                    memory: guest.memory,
                    lsm: guest.lsm.list(),
                    counted: guest.counted,
                };
                match self.qemu.run(&machine, &guest.limits(), dir, on_line)? {
                    qemu::Ended::Over => Ok(()),
                    qemu::Ended::Again => bail!("it wants to be booted again"),
                }
            }
        }
    }

    fn shell(&self, release: &archive::Release, lsm: Lsm) -> Result<()> {
        let kernel = self.archive.kernel(release)?;
        self.qemu.shell(&qemu::Machine {
            kernel: &kernel.image,
            root: qemu::Root::Initramfs(&self.initramfs),
            processors: "2",
            memory: LARGE,
            lsm: lsm.list(),
            counted: false,
        })
    }
}
