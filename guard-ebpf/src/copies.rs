//! Programs that are attached more than once. On a kernel that preempts, a thread can lose its CPU in the middle
//! of a tracing program, and until it goes on the kernel runs that program for nobody else on that CPU. So such
//! programs are loaded several times and all attached to the same place: of those that run for a call the first
//! judges it, and when the kernel leaves one out, the next does. (Fork and exit need nothing from here: for them
//! it makes no difference how often they are told.)

use core::arch::asm;

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::map, maps::Array};
use guard_common::{
    COPY,
    matching::{FNV_OFFSET, fold},
};

/// Slots of [`JUDGED`]; a power of two.
const SLOTS: u32 = 1 << 14;

/// By the lower bits of a thread's number: its last call that was judged. Two threads that share a slot cost no
/// more than a call that is judged twice.
#[map]
static JUDGED: Array<Slot> = Array::with_max_entries(SLOTS, 0);

#[repr(C)]
struct Slot {
    /// See [`Turn::value`].
    call: u64,
    /// The copy that has seen it last.
    copy: u64,
    /// The verifier lets nobody calculate with a pointer; what is read from here is a number.
    pointer: u64,
}

/// Which copy this program is, from 1 in the order in which they run; 0 when it is the only one. guardd writes it
/// into the instruction when it loads the program, so that the verifier knows it too.
#[inline(always)]
fn copy() -> u64 {
    let copy: u64;
    // SAFETY: sets a register.
    unsafe {
        asm!("{copy} = {mark}", copy = out(reg) copy, mark = const COPY, options(pure, nomem, nostack));
    }
    copy
}

/// A call, as another copy would know it again.
#[derive(Clone, Copy)]
pub struct Turn {
    slot: *mut Slot,
    value: u64,
    copy: u64,
}

impl Turn {
    /// The call of this thread that has `what` for its subject, at the hook `place`. `None` where there is one
    /// copy alone.
    #[inline(always)]
    pub fn of(place: usize, what: u64) -> Option<Self> {
        let copy = copy();
        if copy == 0 {
            return None;
        }
        let id = bpf_get_current_pid_tgid();
        let slot = JUDGED.get_ptr_mut(id as u32 & (SLOTS - 1))?;
        // SAFETY: the pointer was checked. Words are written whole; volatile, since other CPUs write them, and
        // since this one is to be read again.
        let what = unsafe {
            (&raw mut (*slot).pointer).write_volatile(what);
            (&raw const (*slot).pointer).read_volatile()
        };
        Some(Self {
            slot,
            value: fold(fold(FNV_OFFSET, id), what ^ place as u64),
            copy,
        })
    }

    /// Whether a copy before this one has judged it. If not, this one is about to.
    ///
    /// A call like it was judged before; whether that was this call shows in who has seen it last: a copy that
    /// runs before this one, or this one or a later one.
    #[inline(always)]
    pub fn is_judged(self) -> bool {
        // SAFETY: as above.
        let (call, seen) = unsafe {
            (
                (&raw const (*self.slot).call).read_volatile(),
                (&raw const (*self.slot).copy).read_volatile(),
            )
        };
        // SAFETY: as above.
        unsafe {
            (&raw mut (*self.slot).call).write_volatile(self.value);
            (&raw mut (*self.slot).copy).write_volatile(self.copy);
        }
        call == self.value && seen < self.copy
    }

    /// It has been refused: the kernel asks no other copy.
    #[inline(always)]
    pub fn is_over(self) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.slot).call).write_volatile(!self.value) };
    }
}
