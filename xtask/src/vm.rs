//! `cargo xtask vm`: the laboratory. Boots kernels of several versions under QEMU, each with an initramfs
//! that holds the real binaries and the end-to-end tests, and reports how these ended.
//!
//! QEMU emulates the processor (TCG), so no privilege and no `/dev/kvm` is needed, and every kind of BPF
//! program can be loaded, whatever the machine's own kernel allows. Times in a guest mean nothing.

mod archive;
mod initramfs;
mod qemu;

use std::{
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
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
    /// A shell in the guest instead of the tests.
    #[arg(long)]
    shell: bool,
    /// Arguments for the end-to-end test programs; the tests of `kernels`, `evasions` and `restarts` when there are none.
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

/// The test programs that say whether guard works on a kernel: few guardds, since loading one takes long
/// where the processor is emulated.
const PROGRAMS: [&str; 4] = ["kernels", "evasions", "restarts", "stress"];

/// Loading takes long where the processor is emulated: what loads often, a whole run tries on the oldest kernel alone.
const ON_OLDEST: &str = "restarts";

/// What takes long for other reasons, on the newest alone.
const ON_NEWEST: &str = "stress";

/// Guests that run at once. Each has two processors: two of them on two processors take more than twice as
/// long as one after another.
const AT_ONCE: usize = 1;

pub(crate) fn run(args: &Args) -> Result<()> {
    let wanted: Vec<&archive::Release> = archive::RELEASES
        .iter()
        .filter(|release| {
            args.kernel == release.name || (args.kernel == "all" && release.supported)
        })
        .collect();
    if wanted.is_empty() {
        let known: Vec<_> = archive::RELEASES.iter().map(|r| r.name).collect();
        bail!(
            "vm: --kernel {}: not known: one of all, {}",
            args.kernel,
            known.join(", ")
        );
    }
    let runs: Vec<(&archive::Release, Lsm)> = wanted.into_iter().map(|r| (r, args.lsm)).collect();
    if args.shell {
        let lab = Laboratory::prepare(&[])?;
        let (release, lsm) = runs[0];
        return lab.shell(release, lsm);
    }
    let lab = Laboratory::prepare(&args.rest)?;
    let mut tally = test::Tally::default();
    let failures = lab.run_all(&runs, args.rest.is_empty(), &mut tally)?;
    println!("{}", tally.line());
    if !failures.is_empty() {
        bail!("vm: failed: {}", failures.join("; "));
    }
    Ok(())
}

/// What is needed to boot.
pub(crate) struct Laboratory {
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
        let archive = archive::Archive::open(&cache)?;
        let qemu = qemu::Qemu::find(&cache)?;
        let busybox = archive.busybox()?;
        let programs: Vec<PathBuf> = test::test_programs()?
            .into_iter()
            .filter(|program| !test_args.is_empty() || PROGRAMS.contains(&&*program.name))
            .map(|program| program.executable)
            .collect();
        let initramfs = cache.join("initramfs.cpio");
        initramfs::build(&initramfs, &busybox, &bin_dir, &programs, test_args)?;
        Ok(Self {
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
        runs: &[(&archive::Release, Lsm)],
        whole: bool,
        tally: &mut test::Tally,
    ) -> Result<Vec<String>> {
        // What needs the network or apt, one after another.
        let mut guests = Vec::new();
        for (place, (release, lsm)) in runs.iter().enumerate() {
            let kernel = self.archive.kernel(release)?;
            let name = format!("{} lsm {}", kernel.version, lsm.word());
            let dir = self
                .cache
                .join(format!("run-{}-{}", release.name, lsm.word()));
            let first = runs.iter().position(|(_, lsm)| *lsm == Lsm::On) == Some(place);
            let newest = runs.iter().rposition(|(_, lsm)| *lsm == Lsm::On) == Some(place);
            let mut limits = String::new();
            if whole {
                let skipped: Vec<&str> = [(first, ON_OLDEST), (newest, ON_NEWEST)]
                    .into_iter()
                    .filter(|(tried, _)| !tried)
                    .map(|(_, program)| program)
                    .collect();
                limits.push_str(&format!(" guard.skip={}", skipped.join(",")));
            }
            // The worse tiers are the same with and without a security module: on the oldest and the newest kernel.
            if whole && !first && !newest {
                limits.push_str(&format!(" guard.tiers={}", lsm.best_tier()));
            }
            std::fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
            let initrd = dir.join("initrd");
            let modules = archive::modules_of(&kernel);
            initramfs::with_modules(&initrd, &self.initramfs, &self.busybox, &modules)?;
            guests.push((name, kernel, *lsm, dir, initrd, limits));
        }
        let next = AtomicUsize::new(0);
        let shared = Mutex::new((tally, Vec::new()));
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some((name, kernel, lsm, dir, initrd, limits)) =
                        guests.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        say("vm", format!("{name}: begins"));
                        let mut all = test::Tally::default();
                        let result =
                            self.qemu
                                .run(&kernel.image, initrd, lsm.list(), limits, dir, |line| {
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
        self.qemu.shell(&kernel.image, &self.initramfs, lsm.list())
    }
}

/// What `cargo xtask test` boots: every kernel that guard loads on with `bpf` among the security modules, and
/// the oldest and the newest of them without.
pub(crate) fn matrix() -> Vec<(&'static archive::Release, Lsm)> {
    let all: Vec<_> = archive::RELEASES
        .iter()
        .filter(|release| release.supported)
        .collect();
    let with = all.iter().map(|release| (*release, Lsm::On));
    let without = [all.first(), all.last()]
        .into_iter()
        .flatten()
        .map(|release| (*release, Lsm::Off));
    with.chain(without).collect()
}
