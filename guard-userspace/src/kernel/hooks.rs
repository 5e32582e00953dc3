//! The state of every hook in the table ([`super::watched`]): what was loaded, what is attached, and why not.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Btf, Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSockAddr, ProgramError, ProgramType, TracePoint, UProbe,
        links::FdLink,
    },
    sys::{BpfHelper, is_helper_supported},
};
use guard_common::{offsets::Need, state::watched};

use super::{
    Helpers, KernelError, Offsets,
    link::{Link, attach_tracepoint, pinned},
    mount_point,
    preempt::Preemption,
    sys::{self, Refused},
    trampoline::{Loader, Order, attaches_again, prove},
    watched::{Attach, FEATURES, Feature, HOOKS, Hook, Tier},
};

mod report;

/// One line of the table, if its tier serves.
#[derive(Debug, Default)]
struct State {
    /// Its tier serves its feature.
    chosen: bool,
    loaded: bool,
    /// Why it is not loaded or attached.
    problem: Option<String>,
    /// Its attachments: none, or one of each of the copies below.
    links: Vec<Link>,
    /// Of those that aya does not keep, every copy in the order in which they are to run; of tracepoints' programs
    /// another descriptor.
    programs: Vec<OwnedFd>,
}

impl State {
    /// Attaches every copy of a program that guardd loads itself, so that the kernel runs them in their order:
    /// all of them or none. Where one cannot be pinned, the problem is told, and it stays without.
    fn attach_copies(&mut self, hook: &Hook, order: Order, pins: Option<&Path>) -> io::Result<()> {
        let mut copies: Vec<(usize, &OwnedFd)> = (1..).zip(&self.programs).collect();
        if order == Order::NewestFirst {
            copies.reverse();
        }
        let mut problem = None;
        let mut links = Vec::new();
        for (copy, program) in copies {
            let attach = || sys::attach(program).map(|fd| Link::Raw(fd, None));
            let attached =
                attach().and_then(|link| match pinned(link, pins, hook, copy, &mut problem) {
                    Some(link) => Ok(link),
                    None => attach(),
                });
            match attached {
                Ok(link) => links.push(link),
                Err(error) => {
                    // What is pinned would stay by itself.
                    links.into_iter().for_each(Link::end);
                    return Err(error);
                }
            }
        }
        self.problem = problem;
        self.links = links;
        Ok(())
    }
}

/// What a policy asks for beyond what is always watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// System calls that it names, a bit for each of [`guard_common::state::act`].
    pub(super) acts: u64,
    /// It has names of hosts.
    pub(super) names: bool,
}

/// What becomes of the program that keeps segments from leaving, when the hooks on calls are taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It is taken off as well.
    Free,
    /// It goes on.
    Looked,
}

/// Every hook's state, in the order of the table.
#[derive(Debug)]
pub struct Hooks {
    states: Vec<State>,
    helpers: Helpers,
    notes: Vec<(Feature, String)>,
    /// In which order the kernel runs what is attached to one function.
    order: Order,
    /// What was taken off a function can be attached again; otherwise it stays where it is.
    attaches_again: bool,
    /// Where attachments are pinned.
    pins: Option<PathBuf>,
    /// Why they are not.
    not_pinned: Option<String>,
    /// What else is not enforced.
    also_not: Vec<String>,
}

impl Hooks {
    /// Loads for each feature the best tier that the kernel takes, none above `best`. What a kernel refuses
    /// turns off what it serves, and says so; only lineage and exec are indispensable.
    pub(super) fn load(
        ebpf: &mut Ebpf,
        object: &[u8],
        offsets: &Offsets,
        btf: &Btf,
        helpers: Helpers,
        best: Option<Tier>,
    ) -> Result<Self, KernelError> {
        let mut notes = Vec::new();
        let mut states: Vec<State> = HOOKS.iter().map(|_| State::default()).collect();
        let mut proofs: BTreeMap<Tier, Result<Order, String>> = BTreeMap::new();
        let loader = Loader::new(object, ebpf)?;
        let preemption = Preemption::of_this_kernel();
        for feature in FEATURES {
            // Programs that cannot find what they judge would see nothing, and say that they serve.
            if feature
                .needs()
                .iter()
                .any(|need| !offsets.missing(*need).is_empty())
            {
                continue;
            }
            let mut tried: Vec<Tier> = Vec::new();
            let mut not_by: Vec<(String, String)> = Vec::new();
            let mut not = |tier: Tier, why: String| match not_by.last_mut() {
                Some((tiers, same)) if *same == why => {
                    tiers.push_str(", ");
                    tiers.push_str(tier.name());
                }
                _ => not_by.push((tier.name().to_owned(), why)),
            };
            for hook in HOOKS.iter().filter(|hook| hook.feature == feature) {
                let tier = hook.tier();
                // Connect is served by several at once.
                if tried.contains(&tier) {
                    continue;
                }
                tried.push(tier);
                if let Some(kind) = tier.kind() {
                    if best.is_some_and(|best| tier < best) {
                        continue;
                    }
                    let proof = proofs
                        .entry(tier)
                        .or_insert_with(|| prove(kind, btf))
                        .clone();
                    if let Err(why) = proof {
                        if Some(tier) == best {
                            return Err(KernelError::Tier {
                                tier: tier.name(),
                                why,
                            });
                        }
                        not(tier, why);
                        continue;
                    }
                }
                let every = |other: &Hook| {
                    other.feature == feature
                        && (other.tier() == tier || feature == Feature::Connect)
                };
                let failed = load_tier(ebpf, &loader, btf, preemption, &mut states, every)?;
                match failed {
                    None => break,
                    Some(why) if tier.kind().is_some() => not(tier, why),
                    Some(_) => break,
                }
            }
            let told = |(tiers, why)| (feature, format!("not by {tiers}: {why}"));
            notes.extend(not_by.into_iter().map(told));
        }
        for (need, feature) in [
            (Need::Open, Feature::Open),
            (Need::Open, Feature::Program),
            (Need::Open, Feature::UnixConnect),
            (Need::Program, Feature::Program),
            (Need::Paths, Feature::Open),
            (Need::Exec, Feature::Exec),
            (Need::Jobs, Feature::Exec),
            (Need::ProgramAge, Feature::Exec),
            (Need::Unix, Feature::UnixConnect),
            (Need::Follow, Feature::UnixConnect),
            (Need::Repeat, Feature::Open),
            (Need::Spares, Feature::Dns),
        ] {
            let missing = offsets.missing(need);
            if !missing.is_empty() {
                notes.push((
                    feature,
                    format!("this kernel's BTF does not describe {}", missing.join(", ")),
                ));
            }
        }
        if !helpers.set_retval {
            notes.push((
                Feature::Connect,
                "a held connection begins its handshake (no bpf_set_retval here; kernel 6.1 has it)".into(),
            ));
        }
        if tracing().is_none() {
            for (hook, state) in HOOKS.iter().zip(&mut states) {
                if matches!(hook.attach, Attach::Library) {
                    state.loaded = false;
                    state.problem = Some("tracefs has no uprobe_events".into());
                }
            }
        }
        let attaches_again = proofs
            .iter()
            .find(|(_, proof)| proof.is_ok())
            .and_then(|(tier, _)| tier.kind())
            .is_none_or(|kind| attaches_again(kind, btf));
        let order = match proofs.get(&Tier::ModifyReturn) {
            Some(Ok(order)) => *order,
            _ => Order::NewestFirst,
        };
        Ok(Self {
            states,
            helpers,
            notes,
            order,
            attaches_again,
            pins: None,
            not_pinned: None,
            also_not: Vec::new(),
        })
    }

    /// Where attachments are pinned from now on.
    pub(super) fn pin_in(&mut self, directory: PathBuf) {
        self.pins = Some(directory);
    }

    /// Why nothing outlives guardd here.
    pub fn cannot_pin(&mut self, why: String) {
        self.not_pinned = Some(why);
    }

    /// Something else that is not enforced here, for `status`.
    pub fn also_not(&mut self, what: String) {
        self.also_not.push(what);
    }

    /// Which tier serves a feature.
    pub fn tier(&self, feature: Feature) -> Option<Tier> {
        self.of(feature).map(|(hook, _)| hook.tier()).next()
    }

    /// The hooks that serve a feature.
    fn of(&self, feature: Feature) -> impl Iterator<Item = (&Hook, &State)> {
        HOOKS
            .iter()
            .zip(&self.states)
            .filter(move |(hook, state)| hook.feature == feature && state.chosen)
    }

    /// For [`guard_common::state::Config::tiers`].
    pub(super) fn numbers(&self) -> [u8; watched::COUNT] {
        let mut numbers = [0; watched::COUNT];
        for feature in FEATURES {
            if let (Some(place), Some(tier)) = (feature.place(), self.tier(feature)) {
                numbers[place] = tier.number();
            }
        }
        numbers
    }

    pub(super) fn attach_lineage(&mut self) -> Result<(), KernelError> {
        for (hook, state) in HOOKS.iter().zip(&mut self.states) {
            if matches!(hook.attach, Attach::Scheduler(_)) && state.links.is_empty() {
                state
                    .attach_copies(hook, Order::OldestFirst, self.pins.as_deref())
                    .map_err(|source| KernelError::System {
                        what: hook.program,
                        source,
                    })?;
            }
        }
        Ok(())
    }

    /// Attaches what watches calls, as far as the policy asks for it.
    pub(super) fn attach_calls(
        &mut self,
        ebpf: &mut Ebpf,
        wanted: Wanted,
    ) -> Result<(), KernelError> {
        let cgroup = mount_point("cgroup2").ok_or(KernelError::NoCgroup2)?;
        let cgroup = File::open(cgroup).map_err(|source| KernelError::System {
            what: "opening the root cgroup",
            source,
        })?;
        // A connect that the cgroup program holds must find the tracepoint that sends the signal, or the
        // program sees an error number that is not for it. So the tracepoints come first and go last;
        // and since the kernel closes a killed process's descriptors from the lowest up, the cgroup
        // links get the lower ones, which are kept free for them meanwhile.
        let mut kept: Vec<File> = Vec::new();
        for hook in HOOKS {
            if hook.is_on_cgroup() {
                kept.extend(File::open("/dev/null"));
            }
        }
        self.attach_some(ebpf, &cgroup, false, wanted)?;
        drop(kept);
        self.attach_some(ebpf, &cgroup, true, wanted)
    }

    fn attach_some(
        &mut self,
        ebpf: &mut Ebpf,
        cgroup: &File,
        cgroups: bool,
        wanted: Wanted,
    ) -> Result<(), KernelError> {
        let by_tracepoint = self.tier(Feature::Open) == Some(Tier::Tracepoint);
        for (hook, state) in HOOKS.iter().zip(&mut self.states) {
            if !state.loaded || !state.links.is_empty() || hook.is_on_cgroup() != cgroups {
                continue;
            }
            if matches!(hook.attach, Attach::Packets(_)) && !wanted.names {
                continue;
            }
            let for_acts = hook.feature.acts();
            if !for_acts.is_empty() && !for_acts.iter().any(|act| wanted.acts >> act & 1 != 0) {
                continue;
            }
            // Every other tier sees the opens themselves.
            if hook.feature == Feature::IoUring && !by_tracepoint {
                continue;
            }
            if matches!(
                hook.attach,
                Attach::Scheduler(_) | Attach::With(..) | Attach::Library
            ) {
                continue;
            }
            if matches!(hook.attach, Attach::Security(..)) {
                if let Err(error) = state.attach_copies(hook, self.order, self.pins.as_deref()) {
                    state.problem = Some(error.to_string());
                }
                continue;
            }
            let mut attach = || match hook.attach {
                Attach::Syscall(name) => typed(ebpf, hook.program)
                    .map_err(|error| error.to_string())
                    .and_then(|program| attach_tracepoint(program, name)),
                Attach::Cgroup => {
                    let program: &mut CgroupSockAddr =
                        typed(ebpf, hook.program).map_err(|error| error.to_string())?;
                    // A link on a cgroup always allows others beside it.
                    let link = program
                        .attach(cgroup, CgroupAttachMode::Single)
                        .and_then(|id| program.take_link(id))
                        .map_err(|error| brief(&error))?;
                    FdLink::try_from(link)
                        .map(Link::Aya)
                        .map_err(|error| error.to_string())
                }
                Attach::Packets(direction) => {
                    let program: &mut CgroupSkb =
                        typed(ebpf, hook.program).map_err(|error| error.to_string())?;
                    let link = program
                        .attach(cgroup, direction, CgroupAttachMode::Single)
                        .and_then(|id| program.take_link(id))
                        .map_err(|error| brief(&error))?;
                    FdLink::try_from(link)
                        .map(Link::Aya)
                        .map_err(|error| error.to_string())
                }
                _ => Err("it is attached elsewhere".into()),
            };
            let mut problem = None;
            let attached = attach().and_then(|link| {
                match pinned(link, self.pins.as_deref(), hook, 1, &mut problem) {
                    Some(link) => Ok(link),
                    None => attach(),
                }
            });
            match attached {
                Ok(link) => {
                    state.problem = problem;
                    state.links.push(link);
                }
                Err(problem) => state.problem = Some(problem),
            }
        }
        Ok(())
    }

    pub(super) fn detach_calls(&mut self, leaving: Leaving) {
        let cgroups_first = |(hook, _): &(&Hook, &mut State)| !hook.is_on_cgroup();
        let mut order: Vec<(&Hook, &mut State)> = HOOKS
            .iter()
            .zip(&mut self.states)
            .filter(|(hook, _)| !matches!(hook.attach, Attach::Scheduler(_)))
            .collect();
        order.sort_by_key(cgroups_first);
        let again = self.attaches_again;
        for (_, state) in order
            .into_iter()
            .filter(|(hook, _)| again || !matches!(hook.attach, Attach::Security(..)))
            .filter(|(hook, _)| leaving == Leaving::Free || !hook.keeps_from_leaving())
        {
            state.links.drain(..).for_each(Link::end);
        }
    }

    /// Takes the lineage hooks off, at the end. When this returns none of them runs any more.
    pub(super) fn detach_lineage(&mut self) {
        for state in &mut self.states {
            state.links.drain(..).for_each(Link::end);
        }
        settle();
    }

    /// How many calls the kernel may have shown to no program of a feature, because each was running on the
    /// same CPU already: of several copies, what the luckiest has missed is the most that all can have.
    pub fn misses(&self, feature: Feature) -> u64 {
        // One program may be at several places, and is missed at each by itself.
        let mut least: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for (hook, state) in self.of(feature) {
            for program in &state.programs {
                if let Ok(misses) = sys::misses(program) {
                    let least = least.entry((hook.program, hook.name())).or_insert(misses);
                    *least = misses.min(*least);
                }
            }
        }
        least.into_values().sum()
    }

    /// Whether the hooks on calls are attached.
    pub fn calls_attached(&self) -> bool {
        HOOKS.iter().zip(&self.states).any(|(hook, state)| {
            let stays = matches!(hook.attach, Attach::Scheduler(_))
                || !self.attaches_again && matches!(hook.attach, Attach::Security(..));
            !state.links.is_empty() && !stays
        })
    }
}

/// Loads the hooks of one tier. Says why when one that it needs does not load.
fn load_tier(
    ebpf: &mut Ebpf,
    loader: &Loader,
    btf: &Btf,
    preemption: Preemption,
    states: &mut [State],
    every: impl Fn(&Hook) -> bool,
) -> Result<Option<String>, KernelError> {
    let chosen: Vec<usize> = (0..HOOKS.len()).filter(|&at| every(&HOOKS[at])).collect();
    let mut lacking = None;
    for &at in &chosen {
        let hook = &HOOKS[at];
        // One program may serve several tracepoints.
        let same = (0..at).find(|&other| {
            states[other].chosen
                && HOOKS[other].program == hook.program
                && HOOKS[other].tier().kind().is_none()
        });
        let problem = match (same, hook.kind()) {
            (Some(other), None) => states[other].problem.clone(),
            (_, Some(kind)) => {
                let copies = preemption.copies(hook);
                let load = |copy| loader.load(hook.program, kind, hook.name(), copy, btf);
                let loaded: Result<Vec<OwnedFd>, Refused> = if copies == 1 {
                    load(0).map(|only| vec![only])
                } else {
                    (1..=copies).map(load).collect()
                };
                match loaded {
                    Ok(programs) => {
                        states[at].programs = programs;
                        None
                    }
                    Err(refused) => {
                        tracing::debug!("the verifier's log: {}", refused.log);
                        if matches!(hook.attach, Attach::Scheduler(_)) {
                            return Err(KernelError::Refused {
                                program: hook.program,
                                why: refused.to_string(),
                            });
                        }
                        Some(refused.to_string())
                    }
                }
            }
            (None, None) => match load_program(ebpf, hook) {
                Ok(program) => {
                    states[at].programs.extend(program);
                    None
                }
                Err(error) => Some(brief(&error)),
            },
        };
        let state = &mut states[at];
        state.chosen = true;
        state.loaded = problem.is_none();
        if hook.essential && lacking.is_none() {
            lacking.clone_from(&problem);
        }
        state.problem = problem;
    }
    if lacking.is_some() && chosen.iter().any(|&at| HOOKS[at].tier().kind().is_some()) {
        for at in chosen {
            states[at] = State::default();
        }
    }
    Ok(lacking)
}

/// Of a tracepoint's program another descriptor, to ask after it.
fn load_program(ebpf: &mut Ebpf, hook: &Hook) -> Result<Option<OwnedFd>, ProgramError> {
    let program = ebpf
        .program_mut(hook.program)
        .ok_or(ProgramError::NotLoaded)?;
    match hook.attach {
        Attach::Syscall(_) => {
            let program = <&mut TracePoint>::try_from(program)?;
            program.load()?;
            return Ok(program.fd()?.as_fd().try_clone_to_owned().ok());
        }
        Attach::Cgroup => <&mut CgroupSockAddr>::try_from(program)?.load()?,
        Attach::Packets(_) => <&mut CgroupSkb>::try_from(program)?.load()?,
        Attach::Library => <&mut UProbe>::try_from(program)?.load()?,
        // Loaded by others.
        Attach::Scheduler(_) | Attach::Security(..) | Attach::With(..) => {}
    }
    Ok(None)
}

/// Waits until programs that had begun to run before have ended: the kernel waits for an RCU grace period.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/sched/membarrier.c#L633>
fn settle() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: takes numbers.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        // Not with CPUs that are kept free of ticks. A program runs for microseconds.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

fn typed<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, KernelError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or(KernelError::Absent(name))?
        .try_into()
        .map_err(|source| KernelError::Program {
            program: name,
            source,
        })
}

/// What the kernel said of a program, in one line: of the verifier's log its last word.
pub(super) fn brief(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            // All of it, for whoever is to mend the program.
            tracing::debug!("the verifier's log: {log}");
            format!("{io_error}{}", last_word(&log))
        }
        ProgramError::SyscallError(error) => format!("{}: {}", error.call, error.io_error),
        other => other.to_string(),
    }
}

/// The last line of a verifier's log that says something, in brackets.
pub(super) fn last_word(log: &str) -> String {
    let last = log.lines().rev().map(str::trim).find(|line| {
        !line.is_empty()
            && !["processed", "stack depth", "verification time", "|"]
                .iter()
                .any(|statistics| line.starts_with(statistics))
    });
    last.map(|line| format!(" ({line})")).unwrap_or_default()
}

/// Which helpers this kernel has: asked of its verifier, with a two-instruction program each.
pub(super) fn probe_helpers() -> Helpers {
    let has = |kind, helper| is_helper_supported(kind, helper).unwrap_or(false);
    Helpers {
        set_retval: has(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval),
        // For tracing programs it cannot be asked; every type has had it since the same version.
        task_regs: has(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_task_pt_regs),
    }
}

/// Where trace events can be made.
pub(super) fn tracing() -> Option<PathBuf> {
    ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]
        .iter()
        .map(PathBuf::from)
        .find(|place| place.join("uprobe_events").exists())
}

/// Makes sure that tracefs is where aya looks for it. Where it is not mounted, it is mounted in a mount
/// namespace of guardd's own, so that nothing of the machine changes and nothing is left behind.
pub(super) fn ensure_tracefs() -> Result<(), KernelError> {
    const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    let there = || {
        PLACES
            .iter()
            .any(|place| Path::new(place).join("events/syscalls").is_dir())
    };
    if there() {
        return Ok(());
    }
    mount_privately().map_err(|error| KernelError::NoTracefs {
        reason: format!(
            "it is not mounted at {} and mounting it failed: {error}",
            PLACES[0]
        ),
    })?;
    if there() {
        Ok(())
    } else {
        Err(KernelError::NoTracefs {
            reason: "this kernel has no syscall tracepoints (CONFIG_FTRACE_SYSCALLS)".into(),
        })
    }
}

fn mount_privately() -> Result<(), rustix::io::Errno> {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    // SAFETY: called before any other thread exists, so no thread is left in another namespace.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)? };
    // Mounts made later elsewhere still reach us; ours reach nobody.
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    mount(
        "tracefs",
        "/sys/kernel/tracing",
        "tracefs",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        None,
    )
}
