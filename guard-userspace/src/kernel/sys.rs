//! bpf(2), where aya 0.14 has no call for it. Layouts are those of
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/bpf.h>.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const BPF_BTF_LOAD: libc::c_long = 18;

/// Size of the verifier's log that is asked for when a program is refused.
const LOG: usize = 1 << 20;

/// The kernel's numbers of program types, and of what such a program is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `BPF_PROG_TYPE_LSM`, `BPF_LSM_MAC`.
    Lsm,
    /// `BPF_PROG_TYPE_TRACING`, `BPF_MODIFY_RETURN`.
    ModifyReturn,
    /// `BPF_PROG_TYPE_TRACING`, `BPF_TRACE_FENTRY`.
    Fentry,
    /// `BPF_PROG_TYPE_TRACING`, `BPF_TRACE_RAW_TP`.
    TpBtf,
}

impl Kind {
    const fn numbers(self) -> (u32, u32) {
        match self {
            Self::Lsm => (29, 27),
            Self::ModifyReturn => (26, 26),
            Self::Fentry => (26, 24),
            Self::TpBtf => (26, 23),
        }
    }
}

#[repr(C)]
#[derive(Default)]
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
    attach_prog_fd: u32,
    pad: u32,
}

/// Why the kernel did not take a program.
#[derive(Debug, thiserror::Error)]
#[error("{error}{}", super::hooks::last_word(.log))]
pub(super) struct Refused {
    /// What the call returned.
    pub error: io::Error,
    /// What the verifier said.
    pub log: String,
}

/// A program to be loaded.
pub(super) struct Load<'a> {
    pub name: &'a str,
    pub kind: Kind,
    /// Instructions, eight bytes each.
    pub instructions: &'a [u8],
    /// Type information of the program: the descriptor, and its functions with the size of a record.
    pub types: Option<(BorrowedFd<'a>, &'a [u8], usize)>,
    /// The kernel function or hook that it is for, by its number in the kernel's type information.
    pub target: u32,
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is laid out as the command expects and outlives the call, and so does what it points
    // to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// The id of the kernel's table with the lowest id above `id`.
pub(super) fn next_map(id: u32) -> Option<u32> {
    const BPF_MAP_GET_NEXT_ID: libc::c_long = 12;
    #[repr(C)]
    struct NextId {
        start_id: u32,
        next_id: u32,
        open_flags: u32,
    }
    let mut attr = NextId {
        start_id: id,
        next_id: 0,
        open_flags: 0,
    };
    bpf(BPF_MAP_GET_NEXT_ID, &mut attr).ok()?;
    Some(attr.next_id)
}

/// Returns when no program runs any more that was running at the call, on any processor: each has ended, also one
/// that was preempted in its middle. That is what the kernel promises to whoever changes a map of maps
/// (`maybe_wait_bpf_programs`), and to nobody else who cannot load a module.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/bpf/syscall.c>
///
/// # Errors
/// What the kernel says; then nothing has been waited for.
pub(super) fn wait_for_programs() -> io::Result<()> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
    const ARRAY: u32 = 2;
    const ARRAY_OF_MAPS: u32 = 12;
    #[repr(C)]
    struct Create {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
        inner_map_fd: u32,
    }
    #[repr(C)]
    struct Update {
        map_fd: u32,
        pad: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let create = |map_type: u32, inner_map_fd: u32| {
        let mut attr = Create {
            map_type,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            map_flags: 0,
            inner_map_fd,
        };
        bpf(BPF_MAP_CREATE, &mut attr).map(owned)
    };
    let inner = create(ARRAY, 0)?;
    let outer = create(ARRAY_OF_MAPS, inner.as_raw_fd() as u32)?;
    let (key, value) = (0u32, inner.as_raw_fd() as u32);
    let mut attr = Update {
        map_fd: outer.as_raw_fd() as u32,
        pad: 0,
        key: (&raw const key) as u64,
        value: (&raw const value) as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Loads a program.
///
/// # Errors
/// What the kernel says, with its verifier's log.
pub(super) fn prog_load(load: &Load<'_>) -> Result<OwnedFd, Refused> {
    let (prog_type, expected_attach_type) = load.kind.numbers();
    let mut attr = ProgLoad {
        prog_type,
        expected_attach_type,
        insn_cnt: (load.instructions.len() / 8) as u32,
        insns: load.instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        attach_btf_id: load.target,
        ..ProgLoad::default()
    };
    let name = load.name.as_bytes();
    let length = name.len().min(attr.prog_name.len() - 1);
    attr.prog_name[..length].copy_from_slice(&name[..length]);
    if let Some((fd, functions, size)) = load.types
        && size > 0
    {
        attr.prog_btf_fd = fd.as_raw_fd() as u32;
        attr.func_info_rec_size = size as u32;
        attr.func_info = functions.as_ptr() as u64;
        attr.func_info_cnt = (functions.len() / size) as u32;
    }
    let error = match bpf(BPF_PROG_LOAD, &mut attr) {
        Ok(fd) => return Ok(owned(fd)),
        Err(error) => error,
    };
    /// `BPF_LOG_STATS`: why, and not every step on the way there, for which the buffer is too short.
    /// <https://github.com/torvalds/linux/blob/v6.12/include/linux/bpf_verifier.h#L619>
    const STATS: u32 = 4;
    // Once more for its reasons.
    let mut log = vec![0u8; LOG];
    attr.log_level = STATS;
    attr.log_size = LOG as u32;
    attr.log_buf = log.as_mut_ptr() as u64;
    match bpf(BPF_PROG_LOAD, &mut attr) {
        Ok(fd) => Ok(owned(fd)),
        Err(_) => {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            Err(Refused {
                error,
                log: String::from_utf8_lossy(&log[..end]).into_owned(),
            })
        }
    }
}

/// Attaches a program to what it was loaded for. The attachment lives as long as the descriptor, or as its
/// pin.
///
/// # Errors
/// What the kernel says.
pub(super) fn attach(program: impl AsFd) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        name: u64,
        prog_fd: u32,
        pad: u32,
    }
    let mut attr = Attr {
        name: 0,
        prog_fd: program.as_fd().as_raw_fd() as u32,
        pad: 0,
    };
    bpf(BPF_RAW_TRACEPOINT_OPEN, &mut attr).map(owned)
}

/// Loads type information.
///
/// # Errors
/// What the kernel says.
pub(super) fn btf_load(bytes: &[u8]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        btf: u64,
        btf_log_buf: u64,
        btf_size: u32,
        btf_log_size: u32,
        btf_log_level: u32,
        pad: u32,
    }
    let mut attr = Attr {
        btf: bytes.as_ptr() as u64,
        btf_log_buf: 0,
        btf_size: bytes.len() as u32,
        btf_log_size: 0,
        btf_log_level: 0,
        pad: 0,
    };
    bpf(BPF_BTF_LOAD, &mut attr).map(owned)
}

#[repr(C)]
struct Object {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

fn path_of(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Gives a program, table or attachment a name in a BPF file system, where it outlives this process.
///
/// # Errors
/// What the kernel says.
pub(super) fn pin(fd: impl AsFd, path: &Path) -> io::Result<()> {
    let path = path_of(path)?;
    let mut attr = Object {
        pathname: path.as_ptr() as u64,
        bpf_fd: fd.as_fd().as_raw_fd() as u32,
        file_flags: 0,
    };
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Opens what has such a name.
///
/// # Errors
/// What the kernel says.
pub(super) fn get(path: &Path) -> io::Result<OwnedFd> {
    let path = path_of(path)?;
    let mut attr = Object {
        pathname: path.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    bpf(BPF_OBJ_GET, &mut attr).map(owned)
}

/// How often the kernel did not run a program because it was running on the same CPU already.
///
/// # Errors
/// What the kernel says.
pub(super) fn misses(program: impl AsFd) -> io::Result<u64> {
    /// `struct bpf_prog_info` as far as `recursion_misses`, which came with Linux 5.12; before, the
    /// kernel leaves the last words as they are.
    const WORDS: usize = 28;
    /// Offset of `recursion_misses` in words of 8 bytes.
    const AT: usize = 26;
    #[repr(C)]
    struct Attr {
        bpf_fd: u32,
        info_len: u32,
        info: u64,
    }
    let mut info = [0u64; WORDS];
    let mut attr = Attr {
        bpf_fd: program.as_fd().as_raw_fd() as u32,
        info_len: size_of_val(&info) as u32,
        info: info.as_mut_ptr() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info[AT])
}
