//! `cargo xtask vm`: the laboratory. Boots kernels of several versions under QEMU, each with an initramfs
//! that holds the real binaries and the end-to-end tests, and reports how these ended.
//!
//! QEMU emulates the processor (TCG), so no privilege and no `/dev/kvm` is needed, and every kind of BPF
//! program can be loaded, whatever the machine's own kernel allows. Times in a guest mean nothing.

mod archive;
mod initramfs;
mod qemu;

use std::{
    fs::File,
    path::PathBuf,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Profile},
    shell::say,
    test, workspace,
};

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
    /// A shell in the guest instead of the tests.
    #[arg(long)]
    shell: bool,
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
    /// The tiers that the evasion suite tries; all where it is empty.
    tiers: &'static str,
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
        limits
    }
}

/// What `cargo xtask test` boots: every kernel with `bpf` among the security modules, and the oldest and the newest
/// without. `kernels` and the evasion suite by the best tier run on all of them, the rest where it may differ: by all
/// tiers, with restarts and with requests, on the oldest; by all tiers, and under stress, on the newest, which preempts; servers
/// on one in between. (`cargo xtask vm` runs the whole suite on one. An emulated processor is slow: on all of them
/// it would take hours.)
pub(crate) fn sample() -> Vec<Guest> {
    const SOME: &[&str] = &["kernels", "evasions"];
    let guest = |release: &'static archive::Release, lsm: Lsm| Guest {
        release,
        lsm,
        processors: "1",
        memory: SMALL,
        programs: SOME,
        tiers: lsm.best_tier(),
    };
    let [oldest, between @ .., newest] = archive::RELEASES else {
        return Vec::new();
    };
    let mut guests = vec![
        Guest {
            processors: "2",
            memory: LARGE,
            programs: &["kernels", "evasions", "stress"],
            tiers: "",
            ..guest(newest, Lsm::On)
        },
        Guest {
            programs: &["kernels", "evasions", "restarts", "requests"],
            tiers: "",
            ..guest(oldest, Lsm::On)
        },
    ];
    guests.extend(between.iter().map(|release| guest(release, Lsm::On)));
    if let Some(last) = guests.last_mut() {
        last.programs = &["kernels", "evasions", "brokers"];
    }
    guests.extend([newest, oldest].map(|release| guest(release, Lsm::Off)));
    guests
}

/// Enough for every test.
const LARGE: &str = "1024";
/// Enough for all but the storms.
const SMALL: &str = "768";

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
    let chosen = archive::RELEASES
        .iter()
        .filter(|release| args.kernel == release.name || args.kernel == "all")
        .map(|release| Guest {
            release,
            lsm: args.lsm,
            processors: "2",
            memory: LARGE,
            programs: &[],
            tiers: "",
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
    let lab = Laboratory::prepare(&args.rest)?;
    if args.shell {
        return lab.shell(first.release, first.lsm);
    }
    let mut tally = test::Tally::default();
    let room = Room::default();
    room.make();
    let failures = lab.run_all(&guests, &mut tally, &room)?;
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
    initramfs: PathBuf,
    busybox: PathBuf,
}

impl Laboratory {
    /// Builds the binaries and the tests, finds or fetches QEMU, and makes the initramfs.
    pub(crate) fn prepare(test_args: &[String]) -> Result<Self> {
        let bin_dir = build::build(Profile::Release)?;
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
        let programs: Vec<PathBuf> = test::test_programs()?
            .into_iter()
            .map(|program| program.executable)
            .collect();
        let initramfs = cache.join("initramfs.cpio");
        initramfs::build(&initramfs, &busybox, &bin_dir, &programs, test_args)?;
        Ok(Self {
            _lock: lock,
            cache,
            archive,
            qemu,
            initramfs,
            busybox,
        })
    }

    /// Boots each; why those that failed did, a line each.
    pub(crate) fn run_all(
        &self,
        wanted: &[Guest],
        tally: &mut test::Tally,
        room: &Room,
    ) -> Result<Vec<String>> {
        // What needs the network or apt, one after another.
        let mut guests = Vec::new();
        for guest in wanted {
            let kernel = self.archive.kernel(guest.release)?;
            let name = format!("{} lsm {}", kernel.version, guest.lsm.word());
            let dir = self
                .cache
                .join(format!("run-{}-{}", guest.release.name, guest.lsm.word()));
            std::fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
            let initrd = dir.join("initrd");
            let modules = archive::modules_of(&kernel);
            initramfs::with_modules(&initrd, &self.initramfs, &self.busybox, &modules)?;
            guests.push((name, kernel, guest, dir, initrd));
        }
        let next = AtomicUsize::new(0);
        let shared = Mutex::new((tally, Vec::new()));
        thread::scope(|scope| {
            let (guests, next, shared) = (&guests, &next, &shared);
            for second in [false, true] {
                scope.spawn(move || {
                    if second {
                        room.wait();
                    }
                    while let Some((name, kernel, guest, dir, initrd)) =
                        guests.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        say("vm", format!("{name}: begins"));
                        let mut all = test::Tally::default();
                        let machine = qemu::Machine {
                            kernel: &kernel.image,
                            initramfs: initrd,
                            processors: guest.processors,
                            memory: guest.memory,
                            lsm: guest.lsm.list(),
                        };
                        let result = self.qemu.run(&machine, &guest.limits(), dir, |line| {
                            all.add(line);
                            println!("{name}: {line}");
                        });
                        let failure = match result {
                            Ok(()) if all.passed == 0 => {
                                Some(format!("{name}: everything was skipped"))
                            }
                            Ok(()) => None,
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

    fn shell(&self, release: &archive::Release, lsm: Lsm) -> Result<()> {
        let kernel = self.archive.kernel(release)?;
        self.qemu.shell(&qemu::Machine {
            kernel: &kernel.image,
            initramfs: &self.initramfs,
            processors: "2",
            memory: LARGE,
            lsm: lsm.list(),
        })
    }
}
