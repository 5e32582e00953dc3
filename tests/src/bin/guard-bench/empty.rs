//! Programs that do nothing, on the hooks that guard attaches while a session lives.
//!
//! What they cost is what the kernel charges for the hooks themselves; the rest is guard's. They are
//! two instructions each, so they are handed to bpf(2) as they are, without an object file.

use std::{
    ffi::c_void,
    fs::{self, File},
    io,
    mem::size_of,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::UnshareFlags,
};

use crate::btf;

/// guard's table of hooks (guard-userspace/src/kernel/watched.rs) once more. A difference between the
/// two shows as a different number of links, which [`links`] counts and the bench compares.
const SCHEDULER: [&str; 3] = [
    "sched_process_fork",
    "sched_process_exec",
    "sched_process_exit",
];
const SYSCALLS: [&str; 18] = [
    "sys_exit_openat",
    "sys_exit_open",
    "sys_exit_openat2",
    "sys_exit_creat",
    "sys_exit_open_by_handle_at",
    "sys_exit_connect",
    "sys_enter_connect",
    "sys_enter_kill",
    "sys_enter_tkill",
    "sys_enter_rt_sigqueueinfo",
    "sys_enter_tgkill",
    "sys_enter_rt_tgsigqueueinfo",
    "sys_enter_ptrace",
    "sys_enter_process_vm_readv",
    "sys_enter_process_vm_writev",
    "sys_enter_bpf",
    "sys_enter_io_uring_setup",
    "sys_enter_socket",
];
/// Attach types of connect4, connect6, sendmsg4, sendmsg6.
const SOCKET_ADDRESS: [u32; 4] = [10, 11, 14, 15];
/// Attach types of packets that arrive, and that leave.
const PACKETS: [u32; 2] = [0, 1];

// Numbers of bpf(2) and perf_event_open(2):
// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/bpf.h>
// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/perf_event.h>
const BPF_PROG_LOAD: u32 = 5;
const BPF_RAW_TRACEPOINT_OPEN: u32 = 17;
const BPF_LINK_CREATE: u32 = 28;
const BPF_LINK_GET_NEXT_ID: u32 = 31;
const BPF_PROG_TYPE_TRACEPOINT: u32 = 5;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_PROG_TYPE_TRACING: u32 = 26;
const BPF_TRACE_RAW_TP: u32 = 23;
const BPF_PERF_EVENT: u32 = 41;
const PERF_TYPE_TRACEPOINT: u32 = 2;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const PERF_EVENT_IOC_ENABLE: libc::Ioctl = 0x2400;
const PERF_EVENT_IOC_SET_BPF: libc::Ioctl = 0x4004_2408;

/// The attached programs; dropped, they are detached.
pub(crate) struct Empty {
    _links: Vec<OwnedFd>,
    _programs: Vec<OwnedFd>,
}

/// What loads them, found once.
pub(crate) struct Loader {
    tracefs: PathBuf,
    cgroup: PathBuf,
    /// BTF type ids, in the order of [`SCHEDULER`].
    scheduler: Vec<u32>,
}

impl Loader {
    /// To be called before the process has a second thread: where tracefs is not mounted, it is
    /// mounted in a namespace of our own.
    pub(crate) fn new() -> Result<Self> {
        let btf = fs::read("/sys/kernel/btf/vmlinux").context("/sys/kernel/btf/vmlinux")?;
        let scheduler = SCHEDULER
            .iter()
            .map(|name| btf::typedef(&btf, &format!("btf_trace_{name}")))
            .collect::<Result<_>>()?;
        Ok(Self {
            tracefs: tracefs()?,
            cgroup: cgroup2()?,
            scheduler,
        })
    }

    /// Loads and attaches one for each hook.
    pub(crate) fn attach(&self) -> Result<Empty> {
        let mut links = Vec::new();
        let mut programs = Vec::new();
        for (name, id) in SCHEDULER.iter().zip(&self.scheduler) {
            let program = load(BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP, *id, 0)
                .with_context(|| format!("loading an empty program for {name}"))?;
            links.push(open_raw_tracepoint(&program).with_context(|| (*name).to_owned())?);
            programs.push(program);
        }
        let program = load(BPF_PROG_TYPE_TRACEPOINT, 0, 0, 0)
            .context("loading an empty program for tracepoints")?;
        for name in SYSCALLS {
            let file = self.tracefs.join("events/syscalls").join(name).join("id");
            // Not every architecture has all of these calls; guard does without them too.
            let Ok(id) = fs::read_to_string(&file) else {
                continue;
            };
            let id = id
                .trim()
                .parse()
                .with_context(|| format!("{}", file.display()))?;
            attach_tracepoint(&program, id, &mut links).with_context(|| name.to_owned())?;
        }
        programs.push(program);
        let cgroup =
            File::open(&self.cgroup).with_context(|| format!("{}", self.cgroup.display()))?;
        let addresses = SOCKET_ADDRESS.map(|kind| (BPF_PROG_TYPE_CGROUP_SOCK_ADDR, kind));
        let packets = PACKETS.map(|kind| (BPF_PROG_TYPE_CGROUP_SKB, kind));
        for (program_type, kind) in addresses.into_iter().chain(packets) {
            // 1: the call, or the packet, goes on.
            let program = load(program_type, kind, 0, 1)
                .context("loading an empty program for the root cgroup")?;
            let link = create_link(&program, cgroup.as_raw_fd(), kind)
                .context("attaching to the root cgroup")?;
            links.push(link);
            programs.push(program);
        }
        Ok(Empty {
            _links: links,
            _programs: programs,
        })
    }
}

/// How many BPF links there are on the machine.
pub(crate) fn links() -> io::Result<usize> {
    #[repr(C)]
    struct GetNextId {
        start: u32,
        next: u32,
        flags: u32,
    }
    let mut attr = GetNextId {
        start: 0,
        next: 0,
        flags: 0,
    };
    let mut count = 0;
    loop {
        match bpf(BPF_LINK_GET_NEXT_ID, &mut attr) {
            Ok(_) => count += 1,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(count),
            Err(error) => return Err(error),
        }
        attr.start = attr.next;
    }
}

/// `r0 = value; exit`.
fn load(program_type: u32, attach_type: u32, btf_id: u32, value: i32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Instruction {
        code: u8,
        registers: u8,
        offset: i16,
        immediate: i32,
    }
    const MOV64_R0: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    // The beginning of `union bpf_attr` for BPF_PROG_LOAD, up to the last field that is set.
    #[repr(C)]
    struct ProgLoad {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
        prog_name: [u8; 16],
        prog_ifindex: u32,
        expected_attach_type: u32,
        prog_btf_fd: u32,
        func_info_rec_size: u32,
        func_info: u64,
        func_info_cnt: u32,
        line_info_rec_size: u32,
        line_info: u64,
        line_info_cnt: u32,
        attach_btf_id: u32,
    }
    let instruction = |code, immediate| Instruction {
        code,
        registers: 0,
        offset: 0,
        immediate,
    };
    let instructions = [instruction(MOV64_R0, value), instruction(EXIT, 0)];
    let mut attr = ProgLoad {
        prog_type: program_type,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: *b"bench_empty\0\0\0\0\0",
        prog_ifindex: 0,
        expected_attach_type: attach_type,
        prog_btf_fd: 0,
        func_info_rec_size: 0,
        func_info: 0,
        func_info_cnt: 0,
        line_info_rec_size: 0,
        line_info: 0,
        line_info_cnt: 0,
        attach_btf_id: btf_id,
    };
    bpf(BPF_PROG_LOAD, &mut attr).map(owned)
}

fn open_raw_tracepoint(program: &OwnedFd) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Open {
        name: u64,
        prog_fd: u32,
        pad: u32,
    }
    let mut attr = Open {
        name: 0,
        prog_fd: program.as_raw_fd() as u32,
        pad: 0,
    };
    bpf(BPF_RAW_TRACEPOINT_OPEN, &mut attr).map(owned)
}

fn create_link(program: &OwnedFd, target: RawFd, attach_type: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct LinkCreate {
        prog_fd: u32,
        target_fd: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: target as u32,
        attach_type,
        flags: 0,
    };
    bpf(BPF_LINK_CREATE, &mut attr).map(owned)
}

/// As aya attaches them: one perf event, on one CPU, whose program runs on all.
fn attach_tracepoint(program: &OwnedFd, id: u64, links: &mut Vec<OwnedFd>) -> io::Result<()> {
    // The first version of `struct perf_event_attr`, of 64 bytes.
    #[repr(C)]
    struct PerfEvent {
        kind: u32,
        size: u32,
        config: u64,
        rest: [u64; 6],
    }
    let attr = PerfEvent {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<PerfEvent>() as u32,
        config: id,
        rest: [0; 6],
    };
    let (every_process, cpu, group) = (-1, 0, -1);
    // SAFETY: `attr` is as long as it says and outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            every_process,
            cpu,
            group,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    let event = owned(check(fd)?);
    match create_link(program, event.as_raw_fd(), BPF_PERF_EVENT) {
        Ok(link) => links.push(link),
        // Before 5.15 there are no links on perf events.
        Err(_) => {
            // SAFETY: the request takes a descriptor by value.
            let set = unsafe {
                libc::ioctl(
                    event.as_raw_fd(),
                    PERF_EVENT_IOC_SET_BPF,
                    program.as_raw_fd(),
                )
            };
            check(set.into())?;
            // SAFETY: the request takes flags by value.
            let enabled = unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_ENABLE, 0) };
            check(enabled.into())?;
        }
    }
    links.push(event);
    Ok(())
}

fn bpf<T>(command: u32, attr: &mut T) -> io::Result<RawFd> {
    // SAFETY: `attr` is a repr(C) struct of the size given, laid out for `command`; the pointers in
    // it outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr).cast::<c_void>(),
            size_of::<T>(),
        )
    };
    check(result)
}

fn check(result: libc::c_long) -> io::Result<RawFd> {
    match RawFd::try_from(result) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel just gave it to us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn tracefs() -> Result<PathBuf> {
    const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    let find = || {
        PLACES
            .into_iter()
            .find(|place| Path::new(place).join("events/syscalls").is_dir())
    };
    if let Some(place) = find() {
        return Ok(place.into());
    }
    // SAFETY: the caller has one thread, so none is left in another namespace.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.context("unshare")?;
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .context("making our mounts private")?;
    mount(
        "tracefs",
        PLACES[0],
        "tracefs",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        None,
    )
    .context("mounting tracefs")?;
    match find() {
        Some(place) => Ok(place.into()),
        None => bail!("this kernel has no syscall tracepoints (CONFIG_FTRACE_SYSCALLS)"),
    }
}

/// Where the unified hierarchy is mounted; on a hybrid system not at /sys/fs/cgroup itself.
fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
    mounts
        .lines()
        .map(|line| line.split(' '))
        .find_map(|mut fields| {
            let place = fields.nth(1)?;
            (fields.next()? == "cgroup2").then(|| place.into())
        })
        .context("no cgroup2 is mounted")
}
