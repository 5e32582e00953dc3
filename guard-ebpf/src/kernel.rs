//! Kernel fields, by BTF offset. Each offset is a global that userspace sets before loading; a field
//! that this kernel does not have reads as `None`, and never at a guessed offset.

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    helpers::{bpf_probe_read_kernel, generated::bpf_loop},
};
use guard_common::offsets::MISSING;

macro_rules! offsets {
    ($($name:ident),* $(,)?) => {
        $(
            #[unsafe(no_mangle)]
            pub static $name: Global<u32> = Global::new(MISSING);
        )*
    };
}

// The same names as in guard_common::offsets::FIELDS; a test in guard-userspace compares the two.
offsets!(
    TASK_TGID,
    TASK_PID,
    TASK_GROUP_LEADER,
    TASK_START,
    TASK_REAL_PARENT,
    TASK_COMM,
    TASK_SIGNAL,
    SIGNAL_LIVE,
    TASK_FILES,
    FILES_FDT,
    FDT_FD,
    FDT_MAX,
    FILE_INODE,
    FILE_DENTRY,
    FILE_MNT,
    FILE_FLAGS,
    INODE_INO,
    INODE_SB,
    INODE_GENERATION,
    SB_DEV,
    DENTRY_NAME,
    DENTRY_HASH_LEN,
    DENTRY_PARENT,
    MOUNT_MNT,
    MOUNT_PARENT,
    MOUNT_POINT,
    VFSMOUNT_ROOT,
    TASK_MM,
    MM_ARG_START,
    MM_ARG_END,
    MM_ENV_START,
    MM_ENV_END,
    MM_EXE_FILE,
    BPRM_FILENAME,
    BPRM_INTERP,
    FILE_PRIVATE,
    SOCKET_SK,
    SOCK_FAMILY,
    UNIX_PEER,
    UNIX_DENTRY,
    UNIX_MNT,
    DENTRY_INODE,
    SIGNAL_TTY,
    SIGNAL_PIDS,
    INODE_CTIME,
);

/// `bpf_set_retval` may be called from cgroup socket-address programs (kernel 6.1 and later; userspace
/// proves it by loading).
#[unsafe(no_mangle)]
pub static CAN_SET_RETVAL: Global<u32> = Global::new(0);

/// There is a `bpf_loop` helper (kernel 5.17 and later; again proved by loading).
#[unsafe(no_mangle)]
pub static HAS_LOOP: Global<u32> = Global::new(0);

/// An address in kernel memory. Only read through [`read`].
pub type Address = u64;

/// Reads the field at `offset` of the object at `base`.
#[inline(always)]
pub fn read<T: Copy>(base: Address, offset: &Global<u32>) -> Option<T> {
    let offset = offset.load();
    if offset == MISSING {
        return None;
    }
    read_at(base.wrapping_add(offset as u64))
}

/// Reads at an address.
#[inline(always)]
pub fn read_at<T: Copy>(at: Address) -> Option<T> {
    // SAFETY: bpf_probe_read_kernel checks the address itself and fails on one that cannot be read.
    unsafe { bpf_probe_read_kernel(at as *const T).ok() }
}

/// Reads a pointer field; a null pointer counts as absent.
#[inline(always)]
pub fn pointer(base: Address, offset: &Global<u32>) -> Option<Address> {
    match read::<u64>(base, offset) {
        Some(0) | None => None,
        some => some,
    }
}

/// Start time of the process (thread group) that `task` belongs to, boot-time ns.
#[inline(always)]
pub fn start_of(task: Address) -> Option<u64> {
    read(pointer(task, &TASK_GROUP_LEADER)?, &TASK_START)
}

/// tgid of a task's parent.
#[inline(always)]
pub fn parent_of(task: Address) -> Option<u32> {
    read(pointer(task, &TASK_REAL_PARENT)?, &TASK_TGID)
}

/// Calls `step(0..times)` until it returns something else than 0. `context` must lie on the stack.
///
/// With `bpf_loop` the verifier looks at one step; a plain loop it follows step by step, so that where
/// there is none (before 5.17) only `PLAIN` steps are taken. Callers' limits on such a kernel are told
/// by userspace ([`guard_common::plain`]).
#[inline(always)]
pub fn repeat<const PLAIN: u32, C>(
    times: u32,
    step: extern "C" fn(u32, &mut C) -> i64,
    context: &mut C,
) {
    if HAS_LOOP.load() != 0 {
        // SAFETY: `step` has the signature that the helper calls, and `context` outlives the call.
        unsafe {
            bpf_loop(
                times,
                step as *mut c_void,
                core::ptr::from_mut(context).cast(),
                0,
            )
        };
    } else {
        for i in 0..PLAIN {
            if i >= times || step(i, context) != 0 {
                break;
            }
        }
    }
}
