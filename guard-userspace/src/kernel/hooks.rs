//! What is watched, by which mechanism, and what that mechanism can do. One table drives loading,
//! attaching, `status` and `doctor`, so that none of them can claim what another does not do.

use std::{fs::File, path::Path};

use aya::{
    Btf, Ebpf,
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSockAddr, ProgramError, ProgramType, TracePoint,
        cgroup_sock_addr::CgroupSockAddrLinkId, tp_btf::BtfTracePointLinkId,
        trace_point::TracePointLinkId,
    },
    sys::{BpfHelper, is_helper_supported},
};
use guard_common::{ENV_SEARCHED, offsets::Need, plain};

use super::{Helpers, KernelError, Offsets, mount_point};
use crate::wire::HookInfo;

/// One thing that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// fork, exec, exit: who belongs to which session.
    Lineage,
    /// Program, command line, agents.
    Exec,
    /// Files.
    Open,
    /// TCP and UDP.
    Connect,
    /// Unix sockets.
    UnixConnect,
}

impl Feature {
    /// The word in `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lineage => "lineage",
            Self::Exec => "exec",
            Self::Open => "open",
            Self::Connect => "connect",
            Self::UnixConnect => "unix-connect",
        }
    }
}

enum Attach {
    /// `tp_btf`, for guardd's whole life.
    Scheduler(&'static str),
    /// A `syscalls` tracepoint, while a session lives.
    Syscall(&'static str),
    /// A program on the root cgroup, while a session lives.
    Cgroup,
}

struct Hook {
    program: &'static str,
    feature: Feature,
    attach: Attach,
    /// Without it the feature does not serve at all; otherwise only this call is not seen.
    essential: bool,
}

impl Hook {
    /// What a person would look for: the tracepoint, or the program where there is none.
    const fn name(&self) -> &'static str {
        match self.attach {
            Attach::Scheduler(name) | Attach::Syscall(name) => name,
            Attach::Cgroup => self.program,
        }
    }
}

const HOOKS: &[Hook] = &[
    Hook {
        program: "guard_fork",
        feature: Feature::Lineage,
        attach: Attach::Scheduler("sched_process_fork"),
        essential: true,
    },
    Hook {
        program: "guard_exit",
        feature: Feature::Lineage,
        attach: Attach::Scheduler("sched_process_exit"),
        essential: true,
    },
    Hook {
        program: "guard_exec",
        feature: Feature::Exec,
        attach: Attach::Scheduler("sched_process_exec"),
        essential: true,
    },
    Hook {
        program: "guard_open",
        feature: Feature::Open,
        attach: Attach::Syscall("sys_exit_openat"),
        essential: true,
    },
    Hook {
        program: "guard_open",
        feature: Feature::Open,
        attach: Attach::Syscall("sys_exit_open"),
        essential: false,
    },
    Hook {
        program: "guard_open",
        feature: Feature::Open,
        attach: Attach::Syscall("sys_exit_openat2"),
        essential: false,
    },
    Hook {
        program: "guard_open",
        feature: Feature::Open,
        attach: Attach::Syscall("sys_exit_creat"),
        essential: false,
    },
    Hook {
        program: "guard_open",
        feature: Feature::Open,
        attach: Attach::Syscall("sys_exit_open_by_handle_at"),
        essential: false,
    },
    Hook {
        program: "guard_connect4",
        feature: Feature::Connect,
        attach: Attach::Cgroup,
        essential: true,
    },
    Hook {
        program: "guard_connect6",
        feature: Feature::Connect,
        attach: Attach::Cgroup,
        essential: true,
    },
    Hook {
        program: "guard_sendmsg4",
        feature: Feature::Connect,
        attach: Attach::Cgroup,
        essential: true,
    },
    Hook {
        program: "guard_sendmsg6",
        feature: Feature::Connect,
        attach: Attach::Cgroup,
        essential: true,
    },
    Hook {
        program: "guard_connect_exit",
        feature: Feature::Connect,
        attach: Attach::Syscall("sys_exit_connect"),
        essential: true,
    },
    Hook {
        program: "guard_connect_enter",
        feature: Feature::UnixConnect,
        attach: Attach::Syscall("sys_enter_connect"),
        essential: true,
    },
];

#[derive(Debug)]
enum Link {
    Syscall(TracePointLinkId),
    Cgroup(CgroupSockAddrLinkId),
}

#[derive(Debug)]
struct State {
    loaded: bool,
    /// Why it is not loaded or attached.
    problem: Option<String>,
    link: Option<Link>,
    scheduler: Option<BtfTracePointLinkId>,
}

/// Every hook's state, in the order of the table.
#[derive(Debug)]
pub struct Hooks {
    states: Vec<State>,
    helpers: Helpers,
    notes: Vec<(Feature, String)>,
}

impl Hooks {
    /// Loads every program. One that a kernel refuses turns off what it serves, and says so; only the
    /// lineage is indispensable.
    pub(super) fn load(
        ebpf: &mut Ebpf,
        offsets: &Offsets,
        btf: &Btf,
        helpers: Helpers,
    ) -> Result<Self, KernelError> {
        let mut states: Vec<State> = Vec::with_capacity(HOOKS.len());
        for (index, hook) in HOOKS.iter().enumerate() {
            // One program may serve several tracepoints.
            if let Some(same) = HOOKS[..index]
                .iter()
                .position(|other| other.program == hook.program)
            {
                let (loaded, problem) = (states[same].loaded, states[same].problem.clone());
                states.push(State {
                    loaded,
                    problem,
                    link: None,
                    scheduler: None,
                });
                continue;
            }
            if let Some(source) = load_program(ebpf, hook, btf).err() {
                if matches!(hook.attach, Attach::Scheduler(_)) {
                    return Err(KernelError::Program {
                        program: hook.program,
                        source,
                    });
                }
                states.push(State {
                    loaded: false,
                    problem: Some(brief(&source)),
                    link: None,
                    scheduler: None,
                });
            } else {
                states.push(State {
                    loaded: true,
                    problem: None,
                    link: None,
                    scheduler: None,
                });
            }
        }
        let mut notes = Vec::new();
        for (need, feature) in [
            (Need::Open, Feature::Open),
            (Need::Paths, Feature::Open),
            (Need::Exec, Feature::Exec),
            (Need::Jobs, Feature::Exec),
            (Need::ProgramAge, Feature::Exec),
            (Need::Unix, Feature::UnixConnect),
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
        Ok(Self {
            states,
            helpers,
            notes,
        })
    }

    pub(super) fn attach_lineage(&mut self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
        for (hook, state) in HOOKS.iter().zip(&mut self.states) {
            if matches!(hook.attach, Attach::Scheduler(_)) && state.scheduler.is_none() {
                let program: &mut BtfTracePoint = typed(ebpf, hook.program)?;
                let link = program.attach().map_err(|source| KernelError::Program {
                    program: hook.program,
                    source,
                })?;
                state.scheduler = Some(link);
            }
        }
        Ok(())
    }

    pub(super) fn attach_calls(&mut self, ebpf: &mut Ebpf) -> Result<(), KernelError> {
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
            if matches!(hook.attach, Attach::Cgroup) {
                kept.extend(File::open("/dev/null"));
            }
        }
        self.attach_some(ebpf, &cgroup, false)?;
        drop(kept);
        self.attach_some(ebpf, &cgroup, true)
    }

    fn attach_some(
        &mut self,
        ebpf: &mut Ebpf,
        cgroup: &File,
        cgroups: bool,
    ) -> Result<(), KernelError> {
        for (hook, state) in HOOKS.iter().zip(&mut self.states) {
            if !state.loaded
                || state.link.is_some()
                || matches!(hook.attach, Attach::Cgroup) != cgroups
            {
                continue;
            }
            let attached = match hook.attach {
                Attach::Scheduler(_) => continue,
                Attach::Syscall(name) => {
                    let program: &mut TracePoint = typed(ebpf, hook.program)?;
                    program.attach("syscalls", name).map(Link::Syscall)
                }
                Attach::Cgroup => {
                    let program: &mut CgroupSockAddr = typed(ebpf, hook.program)?;
                    // A link on a cgroup always allows others beside it.
                    program
                        .attach(cgroup, CgroupAttachMode::Single)
                        .map(Link::Cgroup)
                }
            };
            match attached {
                Ok(link) => {
                    state.link = Some(link);
                    state.problem = None;
                }
                Err(source) => state.problem = Some(brief(&source)),
            }
        }
        Ok(())
    }

    pub(super) fn detach_calls(&mut self, ebpf: &mut Ebpf) {
        let cgroups_first =
            |(hook, _): &(&Hook, &mut State)| !matches!(hook.attach, Attach::Cgroup);
        let mut order: Vec<(&Hook, &mut State)> = HOOKS.iter().zip(&mut self.states).collect();
        order.sort_by_key(cgroups_first);
        for (hook, state) in order {
            let result = match state.link.take() {
                None => continue,
                Some(Link::Syscall(id)) => {
                    typed::<TracePoint>(ebpf, hook.program).map(|program| program.detach(id))
                }
                Some(Link::Cgroup(id)) => {
                    typed::<CgroupSockAddr>(ebpf, hook.program).map(|program| program.detach(id))
                }
            };
            if let Ok(Err(error)) = result {
                tracing::warn!(hook = hook.program, %error, "a hook did not detach");
            }
        }
    }

    /// Takes the lineage hooks off, at the end. When this returns none of them runs any more.
    pub(super) fn detach_lineage(&mut self, ebpf: &mut Ebpf) {
        for (hook, state) in HOOKS.iter().zip(&mut self.states) {
            let Some(link) = state.scheduler.take() else {
                continue;
            };
            let program = typed::<BtfTracePoint>(ebpf, hook.program);
            if let Ok(Err(error)) = program.map(|program| program.detach(link)) {
                tracing::warn!(hook = hook.program, %error, "a hook did not detach");
            }
        }
        // Those that had begun before: the kernel waits for an RCU grace period.
        // <https://github.com/torvalds/linux/blob/v6.12/kernel/sched/membarrier.c#L633>
        const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
        // SAFETY: takes numbers.
        if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
            // Not with CPUs that are kept free of ticks. A program runs for microseconds.
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Whether the hooks on calls are attached.
    pub fn calls_attached(&self) -> bool {
        self.states.iter().any(|state| state.link.is_some())
    }

    /// The table for `status`.
    pub fn info(&self) -> Vec<HookInfo> {
        [
            Feature::Lineage,
            Feature::Exec,
            Feature::Open,
            Feature::Connect,
            Feature::UnixConnect,
        ]
        .into_iter()
        .map(|feature| self.info_of(feature))
        .collect()
    }

    fn info_of(&self, feature: Feature) -> HookInfo {
        let of = || {
            HOOKS
                .iter()
                .zip(&self.states)
                .filter(move |(hook, _)| hook.feature == feature)
        };
        let serves =
            of().all(|(hook, state)| !hook.essential || (state.loaded && state.problem.is_none()));
        let (tier, can): (&str, &[&str]) = match feature {
            Feature::Lineage => ("tp_btf", &[]),
            Feature::Exec => ("tp_btf", &["flag", "hold", "kill"]),
            Feature::Open | Feature::UnixConnect => ("tracepoint", &["flag", "hold", "kill"]),
            Feature::Connect => ("cgroup", &["flag", "hold", "deny", "kill"]),
        };
        let mut notes: Vec<String> = self
            .notes
            .iter()
            .filter(|(of, _)| *of == feature)
            .map(|(_, note)| note.clone())
            .collect();
        notes.extend(of().filter_map(|(hook, state)| {
            Some(format!("{}: {}", hook.name(), state.problem.as_ref()?))
        }));
        notes.dedup();
        HookInfo {
            watched: feature.name().into(),
            tier: if serves { tier.into() } else { "none".into() },
            can: if serves {
                can.iter().map(|word| (*word).into()).collect()
            } else {
                Vec::new()
            },
            attached: of().any(|(_, state)| state.link.is_some() || state.scheduler.is_some()),
            note: if notes.is_empty() {
                None
            } else {
                Some(notes.join("; "))
            },
        }
    }

    /// A held connect has not happened and is repeated when its process goes on. Otherwise (before
    /// Linux 6.1) it has begun, and cannot be made to fail any more.
    pub fn repeats_held_connects(&self) -> bool {
        self.helpers.set_retval
    }

    /// Sessions inside sessions that are judged.
    pub fn nesting(&self) -> usize {
        if self.helpers.bpf_loop {
            guard_common::MAX_NESTING
        } else {
            plain::NESTING as usize
        }
    }

    /// What is degraded, one line each.
    pub fn degraded(&self) -> Vec<String> {
        self.info()
            .into_iter()
            .filter(|info| info.tier == "none")
            .map(|info| {
                format!(
                    "{} is not watched: {}",
                    info.watched,
                    info.note.unwrap_or_default()
                )
            })
            .collect()
    }

    /// What this kernel cannot do that a policy may ask for.
    pub fn not_enforced(&self) -> Vec<String> {
        let mut lines = vec![
            "deny on open, exec and unix-connect: the tracepoint tier cannot make these fail; the rule's fallback \
             (kill by default) is used"
                .to_owned(),
            "32-bit programs' opens: the kernel shows their system calls to no syscall tracepoint".to_owned(),
            "io_uring opens and unix connects: seen by no syscall tracepoint (its internet connects are)".to_owned(),
            "abstract unix sockets, and unix datagrams without a connect".to_owned(),
            format!(
                "agents' markers behind the first {} KiB of an environment",
                if self.helpers.bpf_loop { ENV_SEARCHED >> 10 } else { 1 }
            ),
            "an agent that is started from an interactive shell is not stopped until its session's hooks are \
             in place (the shell would take the stop for Ctrl-Z): what it does in its first milliseconds, when it \
             is the first session, is not seen"
                .to_owned(),
            "a held datagram or fast-open connect is refused, not repeated: the program sees EPERM when it goes on"
                .to_owned(),
        ];
        if !self.helpers.set_retval {
            lines.push(
                "hold before the handshake, and deny of a held connect (it is killed): this kernel has no \
                 bpf_set_retval for connect (6.1 has it)"
                    .to_owned(),
            );
        }
        if !self.helpers.bpf_loop {
            lines.push(format!(
                "more than {} rules, {} nested sessions, patterns deeper than {} directories: this kernel has no \
                 bpf_loop (5.17 has it)",
                plain::RULES,
                plain::NESTING,
                plain::DEPTH
            ));
        }
        lines
    }
}

fn load_program(ebpf: &mut Ebpf, hook: &Hook, btf: &Btf) -> Result<(), ProgramError> {
    let program = ebpf
        .program_mut(hook.program)
        .ok_or(ProgramError::NotLoaded)?;
    match hook.attach {
        Attach::Scheduler(name) => <&mut BtfTracePoint>::try_from(program)?.load(name, btf),
        Attach::Syscall(_) => <&mut TracePoint>::try_from(program)?.load(),
        Attach::Cgroup => <&mut CgroupSockAddr>::try_from(program)?.load(),
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

/// One line of an error whose full form may hold a verifier log.
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
            let last = log.lines().rev().map(str::trim).find(|line| {
                !line.is_empty()
                    && !["processed", "stack depth", "verification time", "|"]
                        .iter()
                        .any(|statistics| line.starts_with(statistics))
            });
            format!(
                "{io_error}{}",
                last.map(|line| format!(" ({})", line.trim()))
                    .unwrap_or_default()
            )
        }
        ProgramError::SyscallError(error) => format!("{}: {}", error.call, error.io_error),
        other => other.to_string(),
    }
}

/// Which helpers this kernel has: asked of its verifier, with a two-instruction program each.
pub(super) fn probe_helpers() -> Helpers {
    let has = |kind, helper| is_helper_supported(kind, helper).unwrap_or(false);
    Helpers {
        set_retval: has(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval),
        // For tracing programs it cannot be asked; every type has had it since the same version.
        bpf_loop: has(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_loop),
    }
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
