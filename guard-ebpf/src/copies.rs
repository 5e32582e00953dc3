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
    /// Its thread, its subject and its hook in one number.
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

/// Whether a copy before this one has judged the call of this thread that has `what` for its subject, at the hook
/// `place`. If not, this one is about to. Always so where there is one copy alone.
///
/// A call like it was judged before; whether that was this call shows in who has seen it last: a copy that runs
/// before this one, or this one or a later one.
#[inline(always)]
pub fn is_judged(place: usize, what: u64) -> bool {
    let copy = copy();
    if copy == 0 {
        return false;
    }
    let id = bpf_get_current_pid_tgid();
    let Some(slot) = JUDGED.get_ptr_mut(id as u32 & (SLOTS - 1)) else {
        return false;
    };
    // SAFETY: the pointer was checked. Words are written whole; volatile, since other CPUs write them, and since
    // the pointer is to be read again.
    unsafe {
        (&raw mut (*slot).pointer).write_volatile(what);
        let what = (&raw const (*slot).pointer).read_volatile();
        // Never 0, which is no call.
        let this = fold(fold(FNV_OFFSET, id), what ^ place as u64) | 1;
        let call = (&raw const (*slot).call).read_volatile();
        let seen = (&raw const (*slot).copy).read_volatile();
        (&raw mut (*slot).call).write_volatile(this);
        (&raw mut (*slot).copy).write_volatile(copy);
        call == this && seen < copy
    }
}

/// This thread's call has been refused: the kernel asks no other copy. Looked for again, since what is kept over the
/// judgement lies on the stack, which is short.
#[inline(always)]
pub fn is_over() {
    if copy() == 0 {
        return;
    }
    if let Some(slot) = JUDGED.get_ptr_mut(bpf_get_current_pid_tgid() as u32 & (SLOTS - 1)) {
        // SAFETY: as above.
        unsafe { (&raw mut (*slot).call).write_volatile(0) };
    }
}
