//! The one table of what is watched, by which mechanism, and what that mechanism can do. Loading, attaching,
//! `status` and `doctor` all read it, so that none of them can claim what another does not do.

use aya::programs::CgroupSkbAttachType;
use guard_common::{
    event::tier,
    offsets::Need,
    state::{act, watched},
};

use super::sys::Kind;

/// One thing that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// fork, exec, exit: who belongs to which session.
    Lineage,
    /// Program, command line, agents.
    Exec,
    /// Programs that carry a file label.
    Program,
    /// Files.
    Open,
    /// TCP and UDP.
    Connect,
    /// Names that connections say.
    Names,
    /// What name servers say.
    Dns,
    /// What processes say over TLS.
    Requests,
    /// Unix sockets.
    UnixConnect,
    /// Signals to guard and to what it has stopped.
    Signal,
    /// Control over other processes.
    Ptrace,
    /// bpf(2).
    Bpf,
    /// io_uring_setup(2).
    IoUring,
    /// socket(2), by kind.
    Socket,
    /// guard's own files.
    OwnFiles,
}

/// All of them, in the order of `status`.
pub const FEATURES: [Feature; 15] = [
    Feature::Lineage,
    Feature::Exec,
    Feature::Program,
    Feature::Open,
    Feature::Connect,
    Feature::Names,
    Feature::Dns,
    Feature::Requests,
    Feature::UnixConnect,
    Feature::Signal,
    Feature::Ptrace,
    Feature::Bpf,
    Feature::IoUring,
    Feature::Socket,
    Feature::OwnFiles,
];

impl Feature {
    /// The word in `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lineage => "lineage",
            Self::Exec => "exec",
            Self::Program => "program",
            Self::Open => "open",
            Self::Connect => "connect",
            Self::Names => "names",
            Self::Dns => "dns",
            Self::Requests => "requests",
            Self::UnixConnect => "unix-connect",
            Self::Signal => "signal",
            Self::Ptrace => "ptrace",
            Self::Bpf => "bpf",
            Self::IoUring => "io-uring",
            Self::Socket => "socket",
            Self::OwnFiles => "guard-files",
        }
    }

    /// Where the kernel side finds which tier serves it.
    pub(super) const fn place(self) -> Option<usize> {
        match self {
            Self::Open => Some(watched::OPEN),
            Self::Program => Some(watched::PROGRAM),
            Self::Signal => Some(watched::SIGNAL),
            Self::Ptrace => Some(watched::PTRACE),
            Self::Bpf => Some(watched::BPF),
            Self::Socket => Some(watched::SOCKET),
            Self::OwnFiles => Some(watched::OWN_FILES),
            Self::UnixConnect => Some(watched::UNIX),
            _ => None,
        }
    }

    /// Kernel fields without which it sees nothing.
    pub(super) const fn needs(self) -> &'static [Need] {
        match self {
            Self::Open => &[Need::Open],
            Self::Program => &[Need::Open, Need::Program],
            Self::UnixConnect => &[Need::Open, Need::Unix],
            Self::OwnFiles => &[Need::Open, Need::Paths, Need::Unix, Need::Own],
            _ => &[],
        }
    }

    /// Which of [`act`] it is for; it is only attached while the policy gives one of them a label.
    pub(super) const fn acts(self) -> &'static [u32] {
        match self {
            Self::Signal => &[act::SIGNAL_GUARD, act::RESUME_HELD, act::SIGNAL_OUTSIDE],
            Self::Ptrace => &[act::PTRACE_GUARD, act::PTRACE_OUTSIDE],
            Self::Bpf => &[act::BPF],
            Self::IoUring => &[act::IO_URING],
            Self::Socket => &[act::OTHER_SOCKET],
            Self::OwnFiles => &[act::GUARD_FILES],
            _ => &[],
        }
    }
}

/// A mechanism, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// BPF as a security module.
    Lsm,
    /// Modify-return on the security modules' entry functions.
    ModifyReturn,
    /// Programs at the entry of these functions.
    Fentry,
    /// Programs on the root cgroup.
    Cgroup,
    /// Probes in the libraries that processes use.
    Uprobe,
    /// Scheduler tracepoints.
    TpBtf,
    /// System call tracepoints.
    Tracepoint,
}

impl Tier {
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Lsm => tier::LSM,
            Self::ModifyReturn => tier::MODIFY_RETURN,
            Self::Fentry => tier::FENTRY,
            Self::Cgroup => tier::CGROUP,
            Self::Uprobe => tier::UPROBE,
            Self::TpBtf => tier::TP_BTF,
            Self::Tracepoint => tier::TRACEPOINT,
        }
    }

    /// The word in `status` and in events.
    pub const fn name(self) -> &'static str {
        tier::NAMES[self.number() as usize]
    }

    pub(super) const fn kind(self) -> Option<Kind> {
        match self {
            Self::Lsm => Some(Kind::Lsm),
            Self::ModifyReturn => Some(Kind::ModifyReturn),
            Self::Fentry => Some(Kind::Fentry),
            _ => None,
        }
    }

    /// What can be done there.
    pub(super) const fn can(self, feature: Feature) -> &'static [&'static str] {
        match (feature, self) {
            (Feature::Lineage | Feature::Dns, _) => &[],
            (_, Self::Lsm | Self::ModifyReturn | Self::Cgroup | Self::Uprobe) => {
                &["flag", "hold", "deny", "kill"]
            }
            _ => &["flag", "hold", "kill"],
        }
    }
}

pub(super) enum Attach {
    /// `tp_btf`, for guardd's whole life.
    Scheduler(&'static str),
    /// A `syscalls` tracepoint, while a session lives.
    Syscall(&'static str),
    /// A program on the root cgroup, while a session lives.
    Cgroup,
    /// A program on the root cgroup for packets that leave or arrive, while a session lives and some label has names.
    Packets(CgroupSkbAttachType),
    /// A security hook or its entry function, while a session lives.
    Security(Tier, &'static str),
    /// A function of a TLS library, in the processes that are about to speak to a host that some label asks about.
    Library,
    /// Another feature's hook does it as well.
    With(Feature, Tier),
}

pub(super) struct Hook {
    pub(super) program: &'static str,
    pub(super) feature: Feature,
    pub(super) attach: Attach,
    /// Without it the tier does not serve at all; otherwise only this call is not seen.
    pub(super) essential: bool,
}

const fn needs(feature: Feature, program: &'static str, attach: Attach) -> Hook {
    Hook {
        program,
        feature,
        attach,
        essential: true,
    }
}

const fn also(feature: Feature, program: &'static str, attach: Attach) -> Hook {
    Hook {
        program,
        feature,
        attach,
        essential: false,
    }
}

impl Hook {
    pub(super) const fn tier(&self) -> Tier {
        match self.attach {
            Attach::Scheduler(_) => Tier::TpBtf,
            Attach::Syscall(_) => Tier::Tracepoint,
            Attach::Cgroup | Attach::Packets(_) => Tier::Cgroup,
            Attach::Library => Tier::Uprobe,
            Attach::Security(tier, _) | Attach::With(_, tier) => tier,
        }
    }

    /// Whether its program is attached to the root cgroup.
    pub(super) const fn is_on_cgroup(&self) -> bool {
        matches!(self.attach, Attach::Cgroup | Attach::Packets(_))
    }

    /// Whether it keeps segments from leaving, which the kernel tries again after their process has gone.
    pub(super) fn keeps_from_leaving(&self) -> bool {
        matches!(self.attach, Attach::Packets(CgroupSkbAttachType::Egress))
    }

    /// The kind of program it is, if guardd loads it itself.
    pub(super) const fn kind(&self) -> Option<Kind> {
        match self.attach {
            Attach::Scheduler(_) => Some(Kind::TpBtf),
            _ => self.tier().kind(),
        }
    }

    /// What a person would look for: the tracepoint, or the program where there is none.
    pub(super) const fn name(&self) -> &'static str {
        match self.attach {
            Attach::Scheduler(name) | Attach::Syscall(name) | Attach::Security(_, name) => name,
            Attach::Cgroup | Attach::Packets(_) | Attach::Library | Attach::With(..) => {
                self.program
            }
        }
    }
}

/// The best tier of each feature first.
pub(super) const HOOKS: &[Hook] = {
    use Attach::{Cgroup, Library, Packets, Scheduler, Security, Syscall, With};
    use Feature::{
        Bpf, Connect, Dns, Exec, IoUring, Lineage, Names, Open, OwnFiles, Program, Ptrace,
        Requests, Signal, Socket, UnixConnect,
    };
    use Tier::{Fentry, Lsm, ModifyReturn, TpBtf, Tracepoint};
    &[
        needs(Lineage, "guard_fork", Scheduler("sched_process_fork")),
        needs(Lineage, "guard_exit", Scheduler("sched_process_exit")),
        needs(Exec, "guard_exec", Scheduler("sched_process_exec")),
        needs(
            Program,
            "guard_bprm_check",
            Security(Lsm, "bprm_check_security"),
        ),
        needs(
            Program,
            "guard_bprm_check",
            Security(ModifyReturn, "security_bprm_check"),
        ),
        needs(Program, "guard_exec", With(Exec, TpBtf)),
        needs(Open, "guard_file_open", Security(Lsm, "file_open")),
        needs(
            Open,
            "guard_file_open",
            Security(ModifyReturn, "security_file_open"),
        ),
        needs(
            Open,
            "guard_file_entry",
            Security(Fentry, "security_file_open"),
        ),
        needs(Open, "guard_open", Syscall("sys_exit_openat")),
        also(Open, "guard_open", Syscall("sys_exit_open")),
        also(Open, "guard_open", Syscall("sys_exit_openat2")),
        also(Open, "guard_open", Syscall("sys_exit_creat")),
        also(Open, "guard_open", Syscall("sys_exit_open_by_handle_at")),
        needs(Connect, "guard_connect4", Cgroup),
        needs(Connect, "guard_connect6", Cgroup),
        needs(Connect, "guard_sendmsg4", Cgroup),
        needs(Connect, "guard_sendmsg6", Cgroup),
        needs(Connect, "guard_connect_exit", Syscall("sys_exit_connect")),
        needs(Connect, "guard_connect_enter", Syscall("sys_enter_connect")),
        needs(Names, "guard_egress", Packets(CgroupSkbAttachType::Egress)),
        needs(Dns, "guard_ingress", Packets(CgroupSkbAttachType::Ingress)),
        needs(Requests, "guard_openssl_write", Library),
        needs(Requests, "guard_openssl_write_ex", Library),
        needs(Requests, "guard_gnutls_write", Library),
        needs(Requests, "guard_nss_write", Library),
        needs(Requests, "guard_go_write", Library),
        needs(Requests, "guard_go_end", Library),
        needs(Requests, "guard_tls_end", Library),
        needs(Requests, "guard_tls_wrote", Library),
        needs(
            UnixConnect,
            "guard_unix_connect",
            Security(Lsm, "unix_stream_connect"),
        ),
        needs(
            UnixConnect,
            "guard_unix_send",
            Security(Lsm, "unix_may_send"),
        ),
        needs(
            UnixConnect,
            "guard_unix_connect",
            Security(ModifyReturn, "security_unix_stream_connect"),
        ),
        needs(
            UnixConnect,
            "guard_unix_send",
            Security(ModifyReturn, "security_unix_may_send"),
        ),
        needs(UnixConnect, "guard_connect_exit", With(Connect, Tracepoint)),
        needs(Signal, "guard_task_kill", Security(Lsm, "task_kill")),
        needs(
            Signal,
            "guard_task_kill",
            Security(ModifyReturn, "security_task_kill"),
        ),
        needs(Signal, "guard_kill_enter", Syscall("sys_enter_kill")),
        also(Signal, "guard_kill_enter", Syscall("sys_enter_tkill")),
        also(
            Signal,
            "guard_kill_enter",
            Syscall("sys_enter_rt_sigqueueinfo"),
        ),
        also(Signal, "guard_tgkill_enter", Syscall("sys_enter_tgkill")),
        also(
            Signal,
            "guard_tgkill_enter",
            Syscall("sys_enter_rt_tgsigqueueinfo"),
        ),
        needs(
            Ptrace,
            "guard_ptrace_check",
            Security(Lsm, "ptrace_access_check"),
        ),
        needs(
            Ptrace,
            "guard_ptrace_check",
            Security(ModifyReturn, "security_ptrace_access_check"),
        ),
        needs(Ptrace, "guard_ptrace_enter", Syscall("sys_enter_ptrace")),
        also(
            Ptrace,
            "guard_vm_enter",
            Syscall("sys_enter_process_vm_readv"),
        ),
        also(
            Ptrace,
            "guard_vm_enter",
            Syscall("sys_enter_process_vm_writev"),
        ),
        needs(Bpf, "guard_bpf_check", Security(Lsm, "bpf")),
        needs(
            Bpf,
            "guard_bpf_check",
            Security(ModifyReturn, "security_bpf"),
        ),
        needs(Bpf, "guard_bpf_enter", Syscall("sys_enter_bpf")),
        needs(
            IoUring,
            "guard_io_uring_enter",
            Syscall("sys_enter_io_uring_setup"),
        ),
        needs(
            Socket,
            "guard_socket_create",
            Security(Lsm, "socket_create"),
        ),
        needs(
            Socket,
            "guard_socket_create",
            Security(ModifyReturn, "security_socket_create"),
        ),
        needs(Socket, "guard_socket_enter", Syscall("sys_enter_socket")),
        needs(OwnFiles, "guard_file_write", Security(Lsm, "file_open")),
        needs(OwnFiles, "guard_unlink", Security(Lsm, "inode_unlink")),
        needs(OwnFiles, "guard_unlink", Security(Lsm, "inode_rmdir")),
        needs(OwnFiles, "guard_create", Security(Lsm, "inode_create")),
        needs(OwnFiles, "guard_rename", Security(Lsm, "inode_rename")),
        // Of these the kernel has but those that it was built with.
        also(OwnFiles, "guard_truncate", Security(Lsm, "path_truncate")),
        needs(OwnFiles, "guard_umount", Security(Lsm, "sb_umount")),
        needs(OwnFiles, "guard_mount", Security(Lsm, "sb_mount")),
        needs(OwnFiles, "guard_mount", Security(Lsm, "move_mount")),
        needs(
            OwnFiles,
            "guard_file_write",
            Security(ModifyReturn, "security_file_open"),
        ),
        needs(
            OwnFiles,
            "guard_unlink",
            Security(ModifyReturn, "security_inode_unlink"),
        ),
        needs(
            OwnFiles,
            "guard_unlink",
            Security(ModifyReturn, "security_inode_rmdir"),
        ),
        needs(
            OwnFiles,
            "guard_create",
            Security(ModifyReturn, "security_inode_create"),
        ),
        needs(
            OwnFiles,
            "guard_rename",
            Security(ModifyReturn, "security_inode_rename"),
        ),
        also(
            OwnFiles,
            "guard_truncate",
            Security(ModifyReturn, "security_path_truncate"),
        ),
        needs(
            OwnFiles,
            "guard_umount",
            Security(ModifyReturn, "security_sb_umount"),
        ),
        needs(
            OwnFiles,
            "guard_mount",
            Security(ModifyReturn, "security_sb_mount"),
        ),
        needs(
            OwnFiles,
            "guard_mount",
            Security(ModifyReturn, "security_move_mount"),
        ),
    ]
};
