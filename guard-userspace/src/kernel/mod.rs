//! The kernel side from userspace: loading, attaching, tables, and the records that come back.
//!
//! Nothing here knows what a session means or what a policy says; that is the engine's.

pub mod btf;
mod hooks;
mod inject;
mod link;
#[cfg(feature = "kernel-log")]
mod log;
mod lookout;
mod mapped;
mod neighbours;
pub mod pins;
mod preempt;
mod records;
mod sys;
mod tables;
mod taps;
mod trampoline;
mod watched;

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{MapData, MapError, RingBuf},
    programs::ProgramError,
};
pub use btf::Offsets;
pub use hooks::Hooks;
pub use inject::Judged;
pub use neighbours::{Neighbours, STOPPING};
pub use records::{Connection, Fields, NameServerBytes, Record, Said, Write};
pub use tables::{Counters, LabelledFile, Lineage, Tables, kernel_dev};
pub use watched::{FEATURES, Feature, Tier};

use crate::{clock, tls::Library};

/// What can go wrong between userspace and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No BTF, or not what is needed of it.
    #[error(
        "kernel type information: {path}: {reason}: guard needs a kernel with CONFIG_DEBUG_INFO_BTF=y (5.10 or later)"
    )]
    NoBtf {
        /// Where it was looked for.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No tracefs, and none could be mounted.
    #[error("tracefs: {reason}: mount it with 'mount -t tracefs tracefs /sys/kernel/tracing'")]
    NoTracefs {
        /// Why not.
        reason: String,
    },
    /// A tier was asked for that this kernel does not offer.
    #[error("tier {tier}: {why}: leave --tier out to have the best that this kernel offers")]
    Tier {
        /// Its name.
        tier: &'static str,
        /// Why not.
        why: String,
    },
    /// No cgroup2 hierarchy.
    #[error(
        "cgroup2: no unified hierarchy is mounted: mount it with 'mount -t cgroup2 none /sys/fs/cgroup'"
    )]
    NoCgroup2,
    /// The object did not load.
    #[error("loading the kernel programs: {0}")]
    Load(#[from] EbpfError),
    /// One program did not load or attach.
    #[error("kernel program {program}: {}", hooks::brief(.source))]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        #[source]
        source: ProgramError,
    },
    /// The kernel does not take a program without which guard cannot work.
    #[error("kernel program {program}: {why}")]
    Refused {
        /// Its name.
        program: &'static str,
        /// What the kernel says.
        why: String,
    },
    /// A map operation failed.
    #[error("kernel table {table}: {source}")]
    Table {
        /// Its name.
        table: &'static str,
        /// Why.
        #[source]
        source: MapError,
    },
    /// It cannot be told whether a program still uses the policy before.
    #[error("kernel programs: they cannot be waited for: {0}")]
    Wait(#[source] io::Error),
    /// The object lacks something that this binary expects.
    #[error(
        "the kernel object has no {0}: guardd and its kernel programs are from different builds"
    )]
    Absent(&'static str),
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The compiled kernel programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/guard-ebpf"));

/// Settings of the kernel side.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the kernel's type information is.
    pub btf: PathBuf,
    /// Entries in the lineage table.
    pub lineage_size: u32,
    /// No better tier than this one; the best there is when it is left out.
    pub tier: Option<Tier>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            btf: btf::VMLINUX.into(),
            lineage_size: 65_536,
            tier: None,
        }
    }
}

/// The loaded kernel side.
pub struct Kernel {
    /// What is watched, by what, and whether it is attached.
    pub hooks: Hooks,
    /// Every table.
    pub tables: Tables,
    /// What outlives guardd, unless nothing can.
    pins: Option<pins::Pins>,
    inject: inject::Injector,
    #[cfg(feature = "kernel-log")]
    log: log::Lines,
    /// Probes in processes.
    spins: Option<RingBuf<MapData>>,
    taps: taps::Attached,
    /// Keeps programs and links alive.
    ebpf: Ebpf,
}

/// The two ring buffers, for whoever reads them.
pub struct Rings {
    /// Sessions, agents, verdicts.
    pub critical: RingBuf<MapData>,
    /// Everything else.
    pub activity: RingBuf<MapData>,
    /// What name servers say.
    pub domains: RingBuf<MapData>,
    /// What processes are about to say.
    pub said: RingBuf<MapData>,
}

impl Kernel {
    /// Loads the programs and creates the tables. Nothing is attached yet.
    ///
    /// # Errors
    /// One that says what the kernel or its configuration lacks.
    pub fn load(
        settings: &Settings,
        pins: Option<pins::Pins>,
    ) -> Result<(Self, Rings), KernelError> {
        let offsets = Offsets::from_file(&settings.btf)?;
        hooks::ensure_tracefs()?;
        let kernel_btf = Btf::from_sys_fs().map_err(EbpfError::BtfError)?;
        let helpers = hooks::probe_helpers();
        let mut ebpf = load_object(&offsets, settings.lineage_size, helpers, pins.as_ref())?;
        let mut hooks = Hooks::load(
            &mut ebpf,
            OBJECT,
            &offsets,
            &kernel_btf,
            helpers,
            settings.tier,
        )?;
        drop(kernel_btf);
        let inject = inject::Injector::load(&mut ebpf)?;
        let rings = Rings {
            critical: ring(&mut ebpf, "CRITICAL")?,
            activity: ring(&mut ebpf, "ACTIVITY")?,
            domains: ring(&mut ebpf, "DOMAINS")?,
            said: ring(&mut ebpf, "REQUESTS")?,
        };
        let spins = Some(ring(&mut ebpf, "SPINS")?);
        let tables = Tables::take(&mut ebpf, settings.lineage_size, hooks.numbers())?;
        if let Some(own) = &pins {
            match own.pin_tables(tables.stopped_tables(), tables.leases_table()) {
                Ok(()) => hooks.pin_in(own.own().to_owned()),
                // It is kept all the same: what an earlier guardd left is to be taken away.
                Err(error) => hooks.cannot_pin(error.to_string()),
            }
        }
        forget_object();
        // The type information of a whole kernel has just been read and dropped. musl gives such pieces back by itself.
        // SAFETY: malloc_trim has no precondition.
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::malloc_trim(0);
        }
        let kernel = Self {
            hooks,
            tables,
            pins,
            inject,
            #[cfg(feature = "kernel-log")]
            log: log::Lines::new(&mut ebpf),
            taps: taps::Attached::new(),
            spins,
            ebpf,
        };
        Ok((kernel, rings))
    }

    /// Sees to it that the calling thread runs while a job of a shell waits for it on its processor: starts threads.
    pub fn look_out(&mut self) {
        if let Some(Err(error)) = self.spins.take().map(lookout::start) {
            self.hooks.also_not(format!(
                "commands and requests of an interactive shell's job without its being stopped for a moment: guardd may not \
                 choose its processor ({error})"
            ));
        }
    }

    /// Attaches the lineage hooks, which stay for guardd's life.
    ///
    /// # Errors
    /// When one does not attach: without all three there is no lineage.
    pub fn attach_lineage(&mut self) -> Result<(), KernelError> {
        self.hooks.attach_lineage()
    }

    /// Attaches the hooks on calls, before a session's first process runs. Idempotent.
    ///
    /// # Errors
    /// When none of a needed kind attaches; a single missing one is noted in the hooks.
    pub fn attach_calls(&mut self) -> Result<(), KernelError> {
        let wanted = hooks::Wanted {
            acts: self.tables.acts_in_force(),
            names: self.tables.names_in_force(),
        };
        self.hooks.attach_calls(&mut self.ebpf, wanted)
    }

    /// Puts probes into the TLS libraries of a process; says how many.
    ///
    /// # Errors
    /// Why some could not be put.
    pub fn tap(&mut self, pid: u32, libraries: &[Library]) -> Result<usize, String> {
        self.taps.tap(&mut self.ebpf, pid, libraries)
    }

    /// Takes them off.
    pub fn untap(&mut self, pid: u32) {
        self.taps.untap(pid);
    }

    /// Takes off what no process has needed for a while.
    pub fn sweep_taps(&mut self) {
        self.taps.sweep();
    }

    /// Processes that have some.
    pub fn tapped(&self) -> usize {
        self.taps.count()
    }

    /// What earlier guardds have left in the kernel.
    pub fn left(&self) -> pins::Left {
        self.pins.as_ref().map(pins::Pins::left).unwrap_or_default()
    }

    /// Ends what earlier guardds have left in force, now that everything of this one is in place.
    pub fn drop_predecessors(&mut self) {
        if let Some(pins) = &mut self.pins {
            pins.drop_predecessors();
        }
    }

    /// Takes every name in the BPF file system away, when every hook is off.
    pub fn unpin(&mut self) {
        self.pins = None;
    }

    /// Leaves what is attached in force for the next guardd.
    pub fn keep_in_force(&mut self) {
        if let Some(pins) = &mut self.pins {
            pins.keep();
        }
    }

    /// Passes the kernel programs' log lines on, in a build that has them.
    pub fn flush_log(&mut self) {
        #[cfg(feature = "kernel-log")]
        self.log.flush();
    }

    /// Takes the lineage hooks off, at the end: nothing is stopped by them any more.
    pub fn detach_lineage(&mut self) {
        self.hooks.detach_lineage();
    }

    /// Takes them off again, when the last session has ended. Idempotent.
    pub fn detach_calls(&mut self) {
        self.hooks.detach_calls(hooks::Leaving::Free);
    }

    /// The same, but that segments of TCP which were kept from leaving still are: the kernel goes on trying them when their
    /// process has gone.
    pub fn detach_calls_but_leaving(&mut self) {
        self.hooks.detach_calls(hooks::Leaving::Looked);
    }

    /// Whether a segment that was kept from leaving may still be tried again.
    pub fn may_leave_later(&self) -> bool {
        match self.tables.dropped_ns() {
            Ok(dropped) => tried_again(dropped),
            // Nothing is known against it.
            Err(error) => {
                tracing::warn!(%error, "when a segment was last kept from leaving");
                true
            }
        }
    }

    /// Lets the kernel judge a fact that only userspace could see, of a kind of [`guard_common::event::kind`].
    ///
    /// # Errors
    /// When the kernel does not run the program.
    pub fn inject(
        &self,
        session: u32,
        labels: u64,
        tgid: u32,
        can_deny: bool,
        kind: u8,
    ) -> Result<Judged, KernelError> {
        self.inject.inject(session, labels, tgid, can_deny, kind)
    }

    /// Sets a session's posture (`guard_common::state::POSTURE_*`). Says whether there is such a session.
    ///
    /// # Errors
    /// When the kernel does not run the program.
    pub fn set_posture(&self, session: u32, posture: u32) -> Result<bool, KernelError> {
        self.inject.set_posture(session, posture)
    }

    /// Puts a session inside another. Says whether there is such a session.
    ///
    /// # Errors
    /// When the kernel does not run the program.
    pub fn set_parent(&self, session: u32, parent: u32) -> Result<bool, KernelError> {
        self.inject.set_parent(session, parent)
    }

    /// Puts a process into a session; session 0 takes it out. `excepted`: the groups that its program is
    /// excepted from. Says whether the table changed.
    ///
    /// # Errors
    /// When the table is full, or the kernel does not run the program.
    pub fn tag(
        &self,
        tgid: u32,
        session: u32,
        start_ticks: u64,
        parent: u32,
        excepted: u64,
    ) -> Result<bool, KernelError> {
        self.inject
            .tag(tgid, session, start_ticks, parent, excepted)
    }
}

/// Whether the kernel may still try to send what was last kept from leaving then, ns of `CLOCK_MONOTONIC`; 0 where nothing ever was.
fn tried_again(dropped_ns: u64) -> bool {
    /// `TCP_RTO_MAX`, the longest time between two attempts: what is not tried again within it never is.
    /// <https://github.com/torvalds/linux/blob/v6.12/include/net/tcp.h#L143>
    const RTO_MAX_NS: u64 = 120_000_000_000;
    /// For the timer, and for the attempt that is being made.
    const MARGIN_NS: u64 = 5_000_000_000;
    dropped_ns != 0 && clock::monotonic_ns().saturating_sub(dropped_ns) < RTO_MAX_NS + MARGIN_NS
}

/// Helpers that not every supported kernel has. Each is proved by loading a program that calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Helpers {
    /// `bpf_set_retval` in connect's cgroup programs (6.1).
    set_retval: bool,
    /// `bpf_task_pt_regs` (5.15).
    task_regs: bool,
}

fn load_object(
    offsets: &Offsets,
    lineage_size: u32,
    helpers: Helpers,
    pins: Option<&pins::Pins>,
) -> Result<Ebpf, KernelError> {
    let retval = u32::from(helpers.set_retval);
    let mut loader = EbpfLoader::new();
    // Why, and not every step on the way there: on kernels before 6.4 a log that is longer than its buffer
    // ends before the reason does, and aya tries again and again with a larger one.
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for (name, value) in offsets.globals() {
        loader.override_global(name, value, true);
    }
    loader.override_global("CAN_SET_RETVAL", &retval, true);
    let regs = u32::from(helpers.task_regs);
    loader.override_global("CAN_READ_REGS", &regs, true);
    // What they hold is kept with sockets. A connection of which nothing has left yet is looked at by the next guardd too.
    if let Some(pins) = pins {
        for table in ["SOCKETS", "KEPT", "CLEARED", "ORPHANS", pins::DROPPED] {
            loader.map_pin_path(table, pins.shared(table));
        }
    }
    loader.map_max_entries("TASKS", lineage_size);
    loader.map_max_entries(neighbours::HELD, lineage_size);
    Ok(loader.load(OBJECT)?)
}

/// The programs have been read from guardd's own file, six megabytes with their types, and are seldom read again (when the first
/// session begins): the kernel need not keep them in memory for guardd.
fn forget_object() {
    // SAFETY: constant data of this program.
    unsafe { forget_file(OBJECT.as_ptr(), OBJECT.as_ptr().wrapping_add(OBJECT.len())) };
}

/// Most of the code that a start takes (reading policies and the kernel's types, adopting what runs) is not needed again: the
/// pages that are come back by themselves.
pub fn forget_start() {
    // Of every linker: the first byte of the program in memory, and the first behind its code.
    // <https://sourceware.org/binutils/docs/ld/Source-Code-Reference.html>, end(3)
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    // SAFETY: their addresses alone are taken; between them are headers, constants and code, which nothing writes.
    unsafe { forget_file(&raw const __executable_start, &raw const etext) };
}

/// Has the kernel forget the pages between two addresses.
///
/// # Safety
/// They must be a file's, and never written: what is read there again is what the file has.
unsafe fn forget_file(from: *const u8, to: *const u8) {
    let page = rustix::param::page_size();
    let first = from.addr().next_multiple_of(page);
    let behind = to.addr() / page * page;
    if let Some(len) = behind.checked_sub(first).filter(|len| *len > 0) {
        let start = from.wrapping_add(first - from.addr());
        // SAFETY: whole pages, by the caller's word a file's.
        unsafe { libc::madvise(start.cast_mut().cast(), len, libc::MADV_DONTNEED) };
    }
}

fn ring(ebpf: &mut Ebpf, name: &'static str) -> Result<RingBuf<MapData>, KernelError> {
    let map = ebpf.take_map(name).ok_or(KernelError::Absent(name))?;
    RingBuf::try_from(map).map_err(|source| KernelError::Table {
        table: name,
        source,
    })
}

/// The mount point of a file system type, from `/proc/mounts`.
pub fn mount_point(kind: &str) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (at, fs) = (fields.nth(1)?, fields.next()?);
        (fs == kind).then(|| Path::new(at).to_owned())
    })
}
