//! System calls that a label may name: signals to guard itself or to what it has stopped, control over
//! processes, bpf(2), io_uring_setup(2). At the security hooks they can be refused; at the entry tracepoints
//! they are seen, and the caller can be stopped or killed when they return.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_current_task, bpf_ktime_get_ns},
    macros::tracepoint,
    programs::{LsmContext, TracePointContext},
};
use guard_common::{
    Verdict,
    event::{CallRecord, FLAG_REFUSED, FLAG_STOPPED, kind, tier},
    matching::{FNV_OFFSET, fold},
    state::{POSTURE_PAUSED, Task, act, watched},
};

use crate::{
    copies, emit,
    judge::{self, Done, Judgement},
    kernel::{self, Address, TASK_TGID},
    lineage,
    maps::{ACTS, GONE, GUARDED, HELD, SESSIONS, Scratch, TASKS, WAITING, with_memory},
};

const SIGCONT: u64 = 18;
/// `PTRACE_MODE_ATTACH`: more than looking.
/// <https://github.com/torvalds/linux/blob/v6.12/include/linux/ptrace.h#L60>
const PTRACE_MODE_ATTACH: u64 = 2;

/// `security_task_kill(struct task_struct *p, struct kernel_siginfo *info, int sig, const struct cred *cred)`.
/// <https://github.com/torvalds/linux/blob/v6.12/security/security.c#L3640>
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/task_kill")]
pub fn guard_task_kill(ctx: *mut c_void) -> i32 {
    let ctx = LsmContext::new(ctx);
    let target: *const c_void = ctx.arg(0);
    let signal: u64 = ctx.arg(2);
    at_hook(watched::SIGNAL, |caller, task| {
        let tgid: u32 = kernel::read(target as Address, &TASK_TGID)?;
        Some((on_signal(caller, task, tgid, signal)?, tgid, signal))
    })
}

/// `security_ptrace_access_check(struct task_struct *child, unsigned int mode)`: ptrace, the other process's
/// memory, its descriptors, its environment.
/// <https://github.com/torvalds/linux/blob/v6.12/security/security.c#L929>
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/ptrace_access_check")]
pub fn guard_ptrace_check(ctx: *mut c_void) -> i32 {
    let ctx = LsmContext::new(ctx);
    let target: *const c_void = ctx.arg(0);
    let mode: u64 = ctx.arg(1);
    if mode & PTRACE_MODE_ATTACH == 0 {
        return 0;
    }
    at_hook(watched::PTRACE, |caller, task| {
        let tgid: u32 = kernel::read(target as Address, &TASK_TGID)?;
        Some((on_control(caller, task, tgid)?, tgid, mode))
    })
}

/// `security_bpf(int cmd, …)`.
/// <https://github.com/torvalds/linux/blob/v6.12/security/security.c#L5656>
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/bpf")]
pub fn guard_bpf_check(ctx: *mut c_void) -> i32 {
    let command: u64 = LsmContext::new(ctx).arg(0);
    at_hook(watched::BPF, |_, _| Some((act::BPF, 0, command)))
}

/// Judges a call at a security hook: `what` says which one of [`act`] it is, to whom and with what number, if any.
#[inline(always)]
pub fn at_hook(place: usize, what: impl FnOnce(u32, &Task) -> Option<(u32, u32, u64)>) -> i32 {
    // SAFETY: the helper has no precondition.
    let Some((tgid, task)) = lineage::current(unsafe { bpf_get_current_task() }) else {
        return 0;
    };
    let Some((act, target, number)) = what(tgid, task) else {
        return 0;
    };
    let Some(config) = judge::config() else {
        return 0;
    };
    let tier = config.tiers[place];
    if copies::is_judged(place, (target as u64) << 32 ^ number) {
        return 0;
    }
    let answer = judge_act(tgid, task, act, target, number, tier, true).answer();
    if answer != 0 {
        copies::is_over();
    }
    answer
}

/// Which act a signal is, if any.
#[inline(always)]
fn on_signal(caller: u32, task: &Task, target: u32, signal: u64) -> Option<u32> {
    if signal as u32 == 0 {
        return None;
    }
    if is_guarded(target) {
        return Some(act::SIGNAL_GUARD);
    }
    if signal as u32 as u64 == SIGCONT && is_stopped(target) {
        return Some(act::RESUME_HELD);
    }
    is_outside(caller, task, target).then_some(act::SIGNAL_OUTSIDE)
}

/// Whether guard has stopped this process.
#[inline(always)]
fn is_stopped(target: u32) -> bool {
    if HELD.get_ptr(target).is_some() || WAITING.get_ptr(target).is_some() {
        return true;
    }
    let Some(task) = TASKS.get_ptr(target) else {
        return false;
    };
    // SAFETY: the pointer was checked.
    match SESSIONS.get_ptr(unsafe { (*task).session }) {
        // SAFETY: as above.
        Some(session) => unsafe { (*session).posture == POSTURE_PAUSED },
        None => false,
    }
}

/// Which act control over another process is, if any.
#[inline(always)]
fn on_control(caller: u32, task: &Task, target: u32) -> Option<u32> {
    if is_guarded(target) {
        return Some(act::PTRACE_GUARD);
    }
    is_outside(caller, task, target).then_some(act::PTRACE_OUTSIDE)
}

/// Whether a process is neither of the caller's session nor of one inside that.
#[inline(always)]
fn is_outside(caller: u32, task: &Task, target: u32) -> bool {
    if caller == target {
        return false;
    }
    let mut session = match TASKS.get_ptr(target) {
        // SAFETY: the pointer was checked.
        Some(other) => unsafe { (*other).session },
        // One that has ended, and that its parent has not waited for yet, is what it was. (Its number may be
        // another's by now; a tracepoint knows no more than the number.)
        // SAFETY: written whole.
        None => match unsafe { GONE.get(target) } {
            Some(session) => *session,
            None => return true,
        },
    };
    for _ in 0..guard_common::MAX_NESTING {
        if session == task.session {
            return false;
        }
        let Some(state) = SESSIONS.get_ptr(session) else {
            break;
        };
        // SAFETY: the pointer was checked.
        session = unsafe { (*state).parent };
    }
    true
}

#[inline(always)]
fn is_guarded(target: u32) -> bool {
    // By pid alone, since a tracepoint knows no more. The table goes with its guardd's programs, so a later
    // process of that pid is guarded only while these have outlived it.
    GUARDED.get_ptr(target).is_some()
}

/// Argument `n` of a `sys_enter_*` tracepoint: the first lies at offset 16 of every format.
#[inline(always)]
fn argument(ctx: &TracePointContext, n: usize) -> u64 {
    // SAFETY: the verifier checks the offset against the format.
    unsafe { *ctx.as_ptr().cast::<u8>().add(16 + n * 8).cast::<u64>() }
}

/// `kill`, `tkill`, `rt_sigqueueinfo`: pid and signal.
#[tracepoint]
pub fn guard_kill_enter(ctx: TracePointContext) -> u32 {
    let (target, signal) = (argument(&ctx, 0) as i32, argument(&ctx, 1));
    at_entry(|caller, task| {
        // Everybody, and so guardd; a process group only the kernel can look up.
        let act = match target {
            -1 if signal as u32 != 0 => act::SIGNAL_GUARD,
            ..=0 => return None,
            _ => on_signal(caller, task, target as u32, signal)?,
        };
        Some((act, target as u32, signal))
    })
}

/// `security_socket_create(int family, int type, int protocol, int kern)`.
/// <https://github.com/torvalds/linux/blob/v6.12/security/security.c#L4563>
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/socket_create")]
pub fn guard_socket_create(ctx: *mut c_void) -> i32 {
    let ctx = LsmContext::new(ctx);
    let (family, kind, protocol): (u64, u64, u64) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    let kernels: u64 = ctx.arg(3);
    if kernels as u32 != 0 || is_judged(family as u32, kind as u32, protocol as u32) {
        return 0;
    }
    at_hook(watched::SOCKET, |_, _| Some((act::OTHER_SOCKET, 0, family)))
}

/// `socket`: family, type, protocol.
#[tracepoint]
pub fn guard_socket_enter(ctx: TracePointContext) -> u32 {
    let family = argument(&ctx, 0);
    if is_judged(
        family as u32,
        argument(&ctx, 1) as u32,
        argument(&ctx, 2) as u32,
    ) {
        return 0;
    }
    at_entry(|_, _| Some((act::OTHER_SOCKET, 0, family)))
}

/// Whether what such a socket connects to is judged elsewhere, or is nothing beyond this machine.
#[inline(always)]
fn is_judged(family: u32, kind: u32, protocol: u32) -> bool {
    const AF_UNIX: u32 = 1;
    const AF_INET: u32 = 2;
    const AF_INET6: u32 = 10;
    const AF_NETLINK: u32 = 16;
    /// The kernel's cryptography.
    const AF_ALG: u32 = 38;
    const SOCK_STREAM: u32 = 1;
    const SOCK_DGRAM: u32 = 2;
    /// Above them are flags (`SOCK_CLOEXEC`).
    const SOCK_TYPE: u32 = 0xf;
    const TCP: u32 = 6;
    const UDP: u32 = 17;
    /// Ping, by either family: no data but an echo's.
    const ICMP: u32 = 1;
    const ICMP6: u32 = 58;
    match family {
        AF_UNIX | AF_NETLINK | AF_ALG => true,
        AF_INET | AF_INET6 => match kind & SOCK_TYPE {
            SOCK_STREAM => protocol == 0 || protocol == TCP,
            SOCK_DGRAM => matches!(protocol, 0 | UDP | ICMP | ICMP6),
            _ => false,
        },
        _ => false,
    }
}

/// `tgkill`, `rt_tgsigqueueinfo`: pid, thread, signal.
#[tracepoint]
pub fn guard_tgkill_enter(ctx: TracePointContext) -> u32 {
    let (target, signal) = (argument(&ctx, 0) as u32, argument(&ctx, 2));
    at_entry(|caller, task| Some((on_signal(caller, task, target, signal)?, target, signal)))
}

/// `ptrace`: request and pid.
#[tracepoint]
pub fn guard_ptrace_enter(ctx: TracePointContext) -> u32 {
    const PTRACE_ATTACH: u64 = 16;
    const PTRACE_SEIZE: u64 = 0x4206;
    let (request, target) = (argument(&ctx, 0), argument(&ctx, 1) as u32);
    if request != PTRACE_ATTACH && request != PTRACE_SEIZE {
        return 0;
    }
    at_entry(|caller, task| Some((on_control(caller, task, target)?, target, request)))
}

/// `process_vm_readv`, `process_vm_writev`: pid.
#[tracepoint]
pub fn guard_vm_enter(ctx: TracePointContext) -> u32 {
    let target = argument(&ctx, 0) as u32;
    at_entry(|caller, task| Some((on_control(caller, task, target)?, target, 0)))
}

/// `bpf`: the command.
#[tracepoint]
pub fn guard_bpf_enter(ctx: TracePointContext) -> u32 {
    let command = argument(&ctx, 0);
    at_entry(|_, _| Some((act::BPF, 0, command)))
}

/// `io_uring_setup`: what is asked of the ring is no system call that a tracepoint would show.
#[tracepoint]
pub fn guard_io_uring_enter(ctx: TracePointContext) -> u32 {
    let entries = argument(&ctx, 0);
    at_entry(|_, _| Some((act::IO_URING, 0, entries)))
}

#[inline(always)]
fn at_entry(what: impl FnOnce(u32, &Task) -> Option<(u32, u32, u64)>) -> u32 {
    // SAFETY: the helper has no precondition.
    let Some((tgid, task)) = lineage::current(unsafe { bpf_get_current_task() }) else {
        return 0;
    };
    if let Some((act, target, number)) = what(tgid, task) {
        judge_act(tgid, task, act, target, number, tier::TRACEPOINT, false);
    }
    0
}

#[inline(always)]
fn judge_act(
    tgid: u32,
    task: &Task,
    act: u32,
    target: u32,
    number: u64,
    tier: u8,
    can_deny: bool,
) -> Done {
    let Some(config) = judge::config() else {
        return Done::Goes;
    };
    with_memory!(config, scratch => {
        let call = Call {
            act,
            target,
            number,
        };
        judge_with(scratch, tgid, task, &call, tier, can_deny)
    })
}

/// One call.
struct Call {
    act: u32,
    target: u32,
    number: u64,
}

#[inline(always)]
fn judge_with(
    scratch: &mut Scratch,
    tgid: u32,
    task: &Task,
    call: &Call,
    tier: u8,
    can_deny: bool,
) -> Option<Done> {
    let config = judge::config()?;
    let generation = config.generation();
    let acts = ACTS.get(generation)?;
    let at = call.act as usize & (act::COUNT - 1);
    if acts.groups[at] & task.excepted != 0 {
        return None;
    }
    let labels = acts.labels[at] ^ config.zero;
    if labels == 0 {
        return None;
    }
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let object = if can_deny {
        fold(
            fold(FNV_OFFSET, (call.act as u64) << 32 | call.target as u64),
            call.number,
        ) | 1
    } else {
        0
    };
    scratch.judgement = Judgement::new(can_deny, object, kind_of(call.act), generation);
    scratch.place = 0;
    judge::guard_judge(scratch.slot, task.session, labels, now_ns, tgid);
    let judgement = &mut scratch.judgement;
    let mut done = Done::Goes;
    if can_deny {
        judge::refused(tgid, now_ns, judgement);
        if judgement.verdict == Verdict::Hold as u8 {
            // Not known: it fails, for after the call there is nothing to hold.
            done = Done::of_held().unwrap_or(Done::Fails);
            if done != Done::Repeats {
                judgement.object = 0;
                judgement.flags |= FLAG_REFUSED;
            }
        } else if judgement.verdict >= Verdict::Deny as u8 {
            done = Done::Fails;
        }
    }
    if judgement.verdict == Verdict::Hold as u8 {
        judge::enter_hold(
            &mut scratch.held,
            tgid,
            task.start_ns,
            now_ns,
            labels,
            task.session,
            kind_of(call.act),
            done.fate(),
            judgement,
        );
        judgement.flags |= FLAG_STOPPED;
    }
    judge::signal(judgement.verdict);
    tell(task, call, tier, now_ns, labels, judgement);
    Some(done)
}

#[inline(always)]
fn kind_of(act: u32) -> u8 {
    if act <= act::RESUME_HELD || act == act::SIGNAL_OUTSIDE {
        kind::SIGNAL
    } else {
        kind::CALL
    }
}

#[inline(always)]
fn tell(task: &Task, call: &Call, tier: u8, now_ns: u64, labels: u64, judgement: &Judgement) {
    let Some(mut entry) = emit::reserve::<CallRecord>(judgement) else {
        return;
    };
    // SAFETY: every field is written before the record is submitted.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    emit::fill(
        &mut record.header,
        kind_of(call.act),
        tier,
        task.session,
        task.start_ns,
        now_ns,
    );
    emit::fill_judgement(&mut record.header, labels, judgement);
    record.header.latency_ns = emit::since(now_ns);
    record.act = call.act;
    record.target = call.target;
    record.number = call.number;
    emit::submit(entry, judgement, now_ns);
}
