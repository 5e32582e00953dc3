//! Kernel fields, by BTF offset. Each offset is a [`Setting`] that userspace sets before loading; a field
//! that this kernel does not have reads as `None`, and never at a guessed offset.
//!
//! # Exported functions
//! The verifier follows a call of a function of ours as if its code stood there, each time anew. An exported one
//! (`no_mangle`, which makes it global in the type information) it looks at once, on its own, for whatever its
//! arguments may be: loops over calls cost next to nothing, and kernels before 5.17, which have no `bpf_loop`, take
//! the same programs. Such a function gets words and no pointers (kernels before 5.13 allow nothing else), so
//! they pass the number of their work memory and look it up again. What it returns is any word to its caller.
//! <https://docs.kernel.org/bpf/verifier.html>

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::{
    bpf_probe_read_kernel,
    generated::{
        bpf_get_current_task_btf, bpf_probe_read_kernel as bpf_probe_read_kernel_into,
        bpf_task_pt_regs,
    },
};
use guard_common::offsets::MISSING;

/// A word that userspace sets before loading. Unlike `aya_ebpf::Global` it lies in read-only memory,
/// which is frozen then: its value is a constant to the verifier, and what it rules out is not in the
/// program that runs.
#[repr(transparent)]
pub struct Setting(u32);

impl Setting {
    /// Its value.
    #[inline(always)]
    pub fn load(&self) -> u32 {
        // SAFETY: a reference is valid for reads. Volatile, since userspace changes it after the
        // compiler has seen it.
        unsafe { core::ptr::read_volatile(&self.0) }
    }
}

macro_rules! offsets {
    ($($name:ident),* $(,)?) => {
        $(
            #[unsafe(no_mangle)]
            pub static $name: Setting = Setting(MISSING);
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
    INODE_MODE,
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
    SOCK_PEER_PID,
    PID_NUMBERS,
    UNIX_PEER,
    UNIX_DENTRY,
    UNIX_MNT,
    DENTRY_INODE,
    SIGNAL_TTY,
    SIGNAL_PIDS,
    FILE_MODE,
    REGS_NR,
    BPRM_FILE,
    INODE_CTIME,
    PATH_DENTRY,
    SOCK_NET,
    NET_INUM,
);

/// `bpf_set_retval` may be called from cgroup socket-address programs (kernel 6.1 and later; userspace
/// proves it by loading).
#[unsafe(no_mangle)]
pub static CAN_SET_RETVAL: Setting = Setting(0);

/// There is `bpf_task_pt_regs` (Linux 5.15), which tells what system call a thread is in, and so `bpf_get_current_task_btf`
/// (5.11).
#[unsafe(no_mangle)]
pub static CAN_READ_REGS: Setting = Setting(0);

/// An address in kernel memory. Only read through [`read`].
pub type Address = u64;

/// Reads the field at `offset` of the object at `base`.
#[inline(always)]
pub fn read<T: Copy>(base: Address, offset: &Setting) -> Option<T> {
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
pub fn pointer(base: Address, offset: &Setting) -> Option<Address> {
    match read::<u64>(base, offset) {
        Some(0) | None => None,
        some => some,
    }
}

/// Room for a [`Window`] on the stack; not initialised.
pub struct Words<const WORDS: usize>(MaybeUninit<[u64; WORDS]>);

/// Fields of one object, read in one go: each helper call costs more than the bytes do. The window runs
/// from the first to the last of them; where they lie further apart than there is room, each is read by
/// itself. Which of the two it is, the verifier knows, since offsets are constants to it: the other is
/// not in the program that runs.
#[derive(Clone, Copy)]
pub struct Window<'a, const WORDS: usize> {
    base: Address,
    words: &'a Words<WORDS>,
    /// Offset of the first word in the object, or [`APART`]. A whole word, and never in memory: from
    /// less the verifier would not learn that it is constant.
    first: u64,
}

/// The fields lie too far apart.
const APART: u64 = u64::MAX;

impl<const WORDS: usize> Words<WORDS> {
    /// Room that [`read`](Self::read) fills.
    #[inline(always)]
    pub const fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    /// Reads the window over `fields`.
    #[inline(always)]
    pub fn read<const FIELDS: usize>(
        &mut self,
        base: Address,
        fields: [&Setting; FIELDS],
    ) -> Option<Window<'_, WORDS>> {
        let (mut first, mut last) = (MISSING as u64, 0);
        for field in fields {
            let offset = field.load() as u64;
            if offset < first {
                first = offset;
            }
            if offset > last {
                last = offset;
            }
        }
        if last == MISSING as u64 {
            return None;
        }
        first &= !7;
        // Up to the end of the last field's word and no further: the object may end there, and the page.
        let len = (last & !7) - first + 8;
        if len > WORDS as u64 * 8 {
            return Some(Window {
                base,
                words: self,
                first: APART,
            });
        }
        // SAFETY: there is room for `len` bytes; the helper checks the source.
        let failed = unsafe {
            bpf_probe_read_kernel_into(
                self.0.as_mut_ptr().cast(),
                len as u32,
                base.wrapping_add(first) as *const c_void,
            )
        };
        if failed != 0 {
            return None;
        }
        Some(Window {
            base,
            words: self,
            first,
        })
    }
}

impl<const WORDS: usize> Window<'_, WORDS> {
    /// One of the window's fields, of at most 8 bytes and aligned to its size.
    #[inline(always)]
    pub fn get<T: Copy>(&self, field: &Setting) -> Option<T> {
        if self.first == APART {
            return read(self.base, field);
        }
        let at = (field.load() as u64).wrapping_sub(self.first);
        if at > (WORDS * 8 - size_of::<T>()) as u64 {
            return None;
        }
        // SAFETY: one of the fields that were read, so inside the words that are initialised, and every
        // bit pattern is a `T` (an integer). Aligned as the kernel's own field is, since the window
        // begins at a multiple of 8.
        Some(unsafe {
            core::ptr::read_volatile(
                self.words
                    .0
                    .as_ptr()
                    .cast::<u8>()
                    .add(at as usize)
                    .cast::<T>(),
            )
        })
    }

    /// A pointer; null counts as absent.
    #[inline(always)]
    pub fn pointer(&self, field: &Setting) -> Option<Address> {
        match self.get::<u64>(field) {
            Some(0) | None => None,
            some => some,
        }
    }
}

/// The same value, of which the compiler knows nothing: a bound that it has seen elsewhere is checked
/// again where the verifier must see it.
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    let mut value = value;
    // SAFETY: moves a register to itself.
    unsafe {
        core::arch::asm!("{value} = {value}", value = inout(reg) value, options(pure, nomem, nostack));
    }
    value
}

/// Reads the name of a thread to where it is wanted; where it cannot be read, zeros.
#[inline(always)]
pub fn read_comm(task: Address, to: &mut [u8; 16]) {
    let offset = TASK_COMM.load();
    if offset == MISSING {
        return zero_words(to);
    }
    // SAFETY: there is room for so many bytes; the helper checks the source, and leaves zeros where it cannot be read.
    unsafe {
        bpf_probe_read_kernel_into(
            to.as_mut_ptr().cast(),
            size_of_val(to) as u32,
            task.wrapping_add(offset as u64) as *const c_void,
        );
    }
}

/// Sets sixteen bytes that begin at a multiple of four to 0, for the reason given at [`copy_words`].
#[inline(always)]
pub fn zero_words(to: &mut [u8; 16]) {
    let to = to.as_mut_ptr().cast::<u32>();
    for word in 0..4 {
        // SAFETY: within it, and aligned, which the callers say.
        unsafe { to.add(word).write_volatile(0) };
    }
}

/// Copies sixteen bytes that begin at a multiple of four, both here and there, by words. The compiler makes a loop of
/// bytes of it where it cannot see that, and the verifier follows each of its rounds, from each place anew.
#[inline(always)]
pub fn copy_words(to: &mut [u8; 16], from: &[u8; 16]) {
    let (to, from) = (to.as_mut_ptr().cast::<u32>(), from.as_ptr().cast::<u32>());
    for word in 0..4 {
        // SAFETY: within both, and aligned, which the callers say.
        unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
    }
}

/// The same for what is longer than the 128 bytes that the compiler copies without a call; of whole words of eight bytes.
#[inline(always)]
pub fn copy<T: Copy>(to: &mut T, from: &T) {
    const { assert!(align_of::<T>() == 8 && size_of::<T>() % 8 == 0) };
    let (to, from) = (
        (&raw mut *to).cast::<u64>(),
        (&raw const *from).cast::<u64>(),
    );
    for word in 0..size_of::<T>() / 8 {
        // SAFETY: within both; aligned as `T` is; any bytes of a `T` are words.
        unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
    }
}

/// An object of which the kernel itself knows what it is: the verifier lets its fields be read like any memory, which costs a
/// tenth of what a helper costs. Where one cannot be read (a null pointer, say) it reads as 0.
#[derive(Clone, Copy)]
pub struct Known(*const u8);

impl Known {
    /// The current thread, in a program that traces or is a security module's; `None` where the kernel is older.
    #[inline(always)]
    pub fn thread() -> Option<Self> {
        if CAN_READ_REGS.load() == 0 {
            return None;
        }
        // SAFETY: the helper has no precondition.
        Some(Self(unsafe { bpf_get_current_task_btf() }.cast()))
    }

    /// A field of it.
    #[inline(always)]
    pub fn get<T: Copy>(self, field: &Setting) -> Option<T> {
        let offset = field.load();
        if offset == MISSING {
            return None;
        }
        // SAFETY: where the kernel's types say that there is such a field, and the verifier holds that against them; a read that
        // faults gives 0, and any bytes are a `T` (an integer). Aligned as the kernel's own field is.
        Some(unsafe { self.0.add(offset as usize).cast::<T>().read_volatile() })
    }

    /// What a field of it points to.
    #[inline(always)]
    pub fn behind(self, field: &Setting) -> Option<Self> {
        self.get::<*const u8>(field).map(Self)
    }
}

/// Start time of the process (thread group) that `task` belongs to, boot-time ns.
#[inline(always)]
pub fn start_of(task: Address) -> Option<u64> {
    read(pointer(task, &TASK_GROUP_LEADER)?, &TASK_START)
}

/// Number of the system call that the current thread is in, where that can be told. A kernel thread, or a
/// worker of io_uring, is in none.
#[inline(always)]
pub fn system_call() -> Option<u32> {
    if CAN_READ_REGS.load() == 0 {
        return None;
    }
    // SAFETY: the helper takes a task that the first helper gives out.
    let regs = unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) };
    read(regs as Address, &REGS_NR)
}

/// tgid of a task's parent.
#[inline(always)]
pub fn parent_of(task: Address) -> Option<u32> {
    read(pointer(task, &TASK_REAL_PARENT)?, &TASK_TGID)
}

/// The plain atomic add, which every kernel has; the compiler offers this target no read-modify-write
/// of its own.
#[inline(always)]
pub fn atomic_add(target: *mut i64, by: i64) {
    // SAFETY: `target` points to an aligned word of a map value.
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({target} + 0) += {by}",
            target = in(reg) target,
            by = in(reg) by,
        );
    }
}
