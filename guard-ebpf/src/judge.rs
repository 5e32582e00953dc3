//! The verdict: facts of the session and of the sessions around it, rules, leases and answers. The
//! only place that decides; what userspace finds out comes in through [`guard_inject`].

use core::ffi::c_void;

use aya_ebpf::{
    Global,
    helpers::{bpf_ktime_get_ns, bpf_send_signal, generated::bpf_send_signal_thread},
    programs::RawTracePointContext,
};
use guard_common::{
    MAX_LABELS, MAX_NESTING, MAX_RULES, MAX_STEPS, MAX_USER_RULES, Verdict,
    event::{FLAG_FALLBACK, FLAG_LEASED, NO_RULE},
    rule::{Progress, ProgressKey, RULE_OBSERVE, advance, is_excepted},
    state::{AnswerKey, Config, Held, LeaseKey, UNCOUNTED, class, fate},
};

use crate::{
    emit, kernel, lineage,
    maps::{
        self, ANSWERS, CONFIG, HELD, JUDGED_IN, LEASES, PROGRESS, RULES, SESSIONS, Scratch,
        with_memory,
    },
    path,
};

/// `-ERESTARTNOINTR`: repeat the call when the thread runs again, handler or no handler.
/// <https://github.com/torvalds/linux/blob/v6.12/include/linux/errno.h#L15>
pub const ERESTARTNOINTR: i32 = -513;
const SIGKILL: u32 = 9;
const SIGSTOP: u32 = 19;

/// What becomes of a call that was judged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// It goes on, though a signal may be on its way.
    Goes,
    /// It fails.
    Fails,
    /// It is to be repeated when the process goes on.
    Repeats,
}

impl Done {
    /// What a security hook returns. Nothing but these three may be, and the verifier wants to see that.
    #[inline(always)]
    pub const fn answer(self) -> i32 {
        const EPERM: i32 = -1;
        match self {
            Self::Goes => 0,
            Self::Fails => EPERM,
            Self::Repeats => ERESTARTNOINTR,
        }
    }

    /// How a held call waits: a system call is repeated, and what an io_uring asks for fails, since it is none
    /// that could be. `None` where the kernel does not tell which of them it is.
    #[inline(always)]
    pub fn of_held() -> Option<Self> {
        /// Above every system call's number, on every architecture.
        const SYSTEM_CALLS: u32 = 4096;
        /// `io_uring_enter`, which has this number on every architecture.
        const IO_URING_ENTER: u32 = 426;
        let number = kernel::system_call()?;
        Some(if number < SYSTEM_CALLS && number != IO_URING_ENTER {
            Self::Repeats
        } else {
            Self::Fails
        })
    }

    /// The same for the table of holds.
    #[inline(always)]
    pub const fn fate(self) -> u8 {
        match self {
            Self::Goes => fate::HAPPENED,
            Self::Fails => fate::FAILED,
            Self::Repeats => fate::REPEATS,
        }
    }
}

/// What the rules say of one call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Judgement {
    /// End of the hold, if it is one, ns of `CLOCK_MONOTONIC`.
    pub deadline_ns: u64,
    /// What the call is about, for answers: a hash, or 0 where it cannot be repeated.
    pub object: u64,
    /// When the rules were asked, ns of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Session whose rule it was.
    pub judged_in: u32,
    /// Set of `FLAG_*`.
    pub flags: u32,
    /// Rule index.
    pub rule: u16,
    /// Half of the policy: that in which the labels were found, so that no rule is asked about those of another one.
    pub generation: u16,
    /// What to do, a [`Verdict`].
    pub verdict: u8,
    /// What would be done outside observe mode.
    pub would: u8,
    /// What silence means.
    pub on_timeout: u8,
    /// What kind of call it is, of [`guard_common::event::kind`], and [`CAN_DENY`]: callers have this on their stack, on which every
    /// byte counts.
    pub kind: u8,
}

/// Bit of [`Judgement::kind`]: the caller can make the call fail.
pub const CAN_DENY: u8 = 0x80;

impl Judgement {
    /// Nothing yet, of a call whose labels were found in the half `generation` of the policy.
    #[inline(always)]
    pub const fn new(can_deny: bool, object: u64, kind: u8, generation: u32) -> Self {
        Self {
            deadline_ns: 0,
            object,
            time_ns: 0,
            judged_in: 0,
            flags: 0,
            rule: NO_RULE,
            generation: generation as u16,
            verdict: 0,
            would: 0,
            on_timeout: 0,
            kind: kind | if can_deny { CAN_DENY } else { 0 },
        }
    }
}

/// The switchboard.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// Records that `session` touched `labels` at `now_ns` and says what the rules make of it, in `judgement` of the
/// work memory `slot`: there, the caller has left what the call is about. The facts and rules of the session come
/// first, then those of the sessions around it. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_judge(slot: u32, session: u32, labels: u64, now_ns: u64, tgid: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let generation = scratch.judgement.generation as u32 & 1;
    scratch.judgement.time_ns = now_ns;
    scratch.session = session;
    scratch.tgid = tgid;
    scratch.leased = 0;
    let mut id = session;
    for _ in 0..MAX_NESTING {
        let touched = guard_touch(id, labels, now_ns);
        if touched == ABSENT {
            break;
        }
        // First every rule moves on, then those that fire are looked at, the strictest first (the table is in
        // that order).
        let uid = (touched >> 32) as u32;
        let mut firing = guard_advance_all(id, generation, labels, now_ns, uid);
        for _ in 0..MAX_TRIES / TRIES {
            if firing == 0 {
                break;
            }
            firing = guard_fire(slot, id, firing);
        }
        id = touched as u32;
    }
    scratch.judgement.verdict as u32
}

/// What the first [`TRIES`] of the rules that fire, as bits, mean for the call in the work memory `slot`. Gives the others. A
/// function of its own, since the verifier would follow these rounds once for each session around it; with so few arguments,
/// since its frame is among those that have 512 bytes together. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_fire(slot: u32, judged_in: u32, firing: u64) -> u64 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let mut firing = firing;
    for _ in 0..TRIES {
        if firing == 0 {
            break;
        }
        let lowest = firing & firing.wrapping_neg();
        firing ^= lowest;
        let rule = lowest_bit(lowest) | (scratch.judgement.generation as u32 & 1) << 16;
        if guard_excepted(judged_in, rule, scratch.judgement.time_ns) == 0 {
            guard_fired(scratch.slot, rule, judged_in, scratch.session, scratch.tgid);
        }
    }
    firing
}

/// The same for a caller that has no work memory.
#[inline(always)]
pub fn judge(session: u32, labels: u64, now_ns: u64, tgid: u32, judgement: &mut Judgement) {
    let Some(config) = config() else { return };
    with_memory!(config, scratch => {
        scratch.judgement = *judgement;
        scratch.place = judgement.object;
        guard_judge(scratch.slot, session, labels, now_ns, tgid);
        *judgement = scratch.judgement;
        None::<Done>
    });
}

/// There is no such session.
const ABSENT: u64 = u64::MAX;

/// Notes that `session` touched `labels`. Gives the session around it, 0 for none, with the session's user in the
/// upper half; or [`ABSENT`], which is neither's number.
///
/// Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_touch(session: u32, labels: u64, now_ns: u64) -> u64 {
    let Some(state) = SESSIONS.get_ptr_mut(session) else {
        return ABSENT;
    };
    for part in 0..MAX_LABELS as u32 / PART {
        let some = (labels >> (part * PART)) as u32 & ((1 << PART) - 1);
        if some != 0 {
            guard_touch_some(session, part * PART, some, now_ns);
        }
    }
    // SAFETY: the pointer was checked.
    unsafe { (*state).parent as u64 | ((*state).uid as u64) << 32 }
}

/// Labels, or rules, that one call of a function goes through: the verifier follows a loop over calls of it, and it once, and
/// not all there are in each program.
const PART: u32 = 8;
const _: () = assert!(MAX_LABELS as u32 % PART == 0 && MAX_RULES as u32 % PART == 0);

/// Notes that `session` touched those of the labels from `first` on that are in `some`. Exported for the reason given at
/// [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_touch_some(session: u32, first: u32, some: u32, now_ns: u64) -> u32 {
    let Some(state) = SESSIONS.get_ptr_mut(session) else {
        return 0;
    };
    // Read back, so that the compiler keeps the mask, which the verifier needs to see.
    let first = path::forget(&first) & (MAX_LABELS as u32 - PART);
    for label in 0..PART {
        if some >> label & 1 != 0 {
            // SAFETY: the pointer was checked; a torn time between two CPUs is impossible for an
            // aligned word, and either time is a true one.
            unsafe { (*state).last_ns[(first + label) as usize] = now_ns };
        }
    }
    1
}

/// Moves every rule of a half of the policy that these labels concern and that is for this user. Gives those that
/// fire, as bits. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_advance_all(
    session: u32,
    generation: u32,
    labels: u64,
    now_ns: u64,
    uid: u32,
) -> u64 {
    let Some(table) = RULES.get(generation & 1) else {
        return 0;
    };
    let mut firing = 0;
    for part in 0..MAX_RULES as u32 / PART {
        if part * PART >= path::forget(&table.count) {
            break;
        }
        let which = part * PART | generation << 16;
        let fires = guard_advance_some(session, which, labels, now_ns, uid);
        firing |= (fires & ((1 << PART) - 1)) << (part * PART);
    }
    firing
}

/// The same for some rules from one on: `which` is its index, and the half of the policy in the upper 16 bits. The first that
/// fires is the lowest bit. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_advance_some(
    session: u32,
    which: u32,
    labels: u64,
    now_ns: u64,
    uid: u32,
) -> u64 {
    let Some(table) = RULES.get(which >> 16 & 1) else {
        return 0;
    };
    let mut firing = 0;
    for rule in 0..PART {
        let which = path::forget(&which) + rule;
        // Behind the last one there may be what an older policy left.
        if which & 0xffff >= path::forget(&table.count) {
            break;
        }
        let entry = &table.rules[which as usize & (MAX_RULES - 1)];
        if entry.concerns(labels) && entry.is_for(uid) {
            let fires = guard_advance(session, which, labels, now_ns);
            firing |= (fires as u64 & 1) << rule;
        }
    }
    firing
}

/// Moves one rule for one session: `rule` is its index, and the half of the policy in the upper 16 bits. Returns
/// whether it fires, as 0 or 1.
///
/// Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_advance(session: u32, rule: u32, labels: u64, now_ns: u64) -> u32 {
    let key = ProgressKey {
        session,
        rule: rule as u16,
        generation: (rule >> 16) as u16,
    };
    let Some(table) = RULES.get(rule >> 16 & 1) else {
        return 0;
    };
    // Read back, so that the compiler keeps the mask, which the verifier needs to see.
    let rule = &table.rules[path::forget(&rule) as usize & (MAX_RULES - 1)];
    let progress = match PROGRESS.get_ptr_mut(key) {
        Some(progress) => progress,
        None => {
            // NOEXIST: another CPU may just have made it.
            let _ = PROGRESS.insert(key, &NOT_BEGUN, 1);
            match PROGRESS.get_ptr_mut(key) {
                Some(progress) => progress,
                None => {
                    emit::count(class::FACT, false);
                    return 0;
                }
            }
        }
    };
    // SAFETY: the pointer was checked. Two CPUs may advance the same progress at once: each word is
    // written whole and every value written is a true start of a chain.
    advance(rule, unsafe { &mut *progress }, labels, now_ns) as u32
}

/// Whether a rule whose steps are complete is kept from firing by what the session has touched, as 0 or 1. Exported for the
/// reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_excepted(session: u32, rule: u32, now_ns: u64) -> u32 {
    let key = ProgressKey {
        session,
        rule: rule as u16,
        generation: (rule >> 16) as u16,
    };
    let (Some(table), Some(progress), Some(state)) = (
        RULES.get(rule >> 16 & 1),
        PROGRESS.get_ptr(key),
        SESSIONS.get_ptr(session),
    ) else {
        return 0;
    };
    // Read back, so that the compiler keeps the mask, which the verifier needs to see.
    let rule = &table.rules[path::forget(&rule) as usize & (MAX_RULES - 1)];
    if rule.exceptions == 0 {
        return 0;
    }
    let last = (rule.len as usize).wrapping_sub(1) & (MAX_STEPS - 1);
    // SAFETY: the pointers were checked; words that another CPU writes meanwhile are true before and after.
    unsafe { is_excepted(rule, (*progress).start[last], now_ns, &(*state).last_ns) as u32 }
}

/// In read-only memory instead of on the stack.
static NOT_BEGUN: Progress = Progress {
    start: [0; MAX_STEPS],
};

/// Rules that fire on one call and are looked at: those beyond it would be milder than all of these. Sixteen, and as
/// many as a user may add, so that these push none of the others out.
const MAX_TRIES: u32 = 16 + MAX_USER_RULES as u32;
/// Of these, by one call of [`guard_fire`]: with less it takes the verifier longer, in the loop around it.
const TRIES: u32 = 4;
const _: () = assert!(MAX_TRIES % TRIES == 0);

/// Position of the only set bit. A table, since BPF cannot count zeros and every branch would double
/// the verifier's work: <https://www.chessprogramming.org/De_Bruijn_Sequence_Generator>
#[inline(always)]
fn lowest_bit(bit: u64) -> u32 {
    const SEQUENCE: u64 = 0x03f7_9d71_b4cb_0a89;
    static POSITION: Global<[u8; 64]> = Global::new({
        let mut table = [0u8; 64];
        let mut n = 0;
        while n < 64 {
            table[((SEQUENCE << n) >> 58) as usize] = n as u8;
            n += 1;
        }
        table
    });
    let at = (bit.wrapping_mul(SEQUENCE) >> 58) as usize & 63;
    // SAFETY: `at` is below 64.
    unsafe { core::ptr::read_volatile((&raw const POSITION).cast::<u8>().add(at)) as u32 }
}

/// What one rule that fired means for this call, after leases, answers and observe mode. `rule` is its index, and
/// the half of the policy in the upper 16 bits. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_fired(
    slot: u32,
    rule: u32,
    judged_in: u32,
    session: u32,
    tgid: u32,
) -> u32 {
    let (Some(config), Some(table), Some(scratch)) =
        (config(), RULES.get(rule >> 16 & 1), maps::memory(slot))
    else {
        return 0;
    };
    let out = &mut scratch.judgement;
    let now_ns = out.time_ns;
    let key = rule;
    // Read back, so that the compiler keeps the mask, which the verifier needs to see.
    let rule = &table.rules[path::forget(&rule) as usize & (MAX_RULES - 1)];
    let mut action = rule.action;
    let trigger = rule.steps[(rule.len as usize).wrapping_sub(1) & (MAX_STEPS - 1)] as u32;
    if action > Verdict::Flag as u8 && guard_leased(slot, judged_in, session, trigger) != 0 {
        out.flags |= FLAG_LEASED;
        action = Verdict::Allow as u8;
    }
    if action == Verdict::Hold as u8 {
        if guard_answered(tgid, key, out.object, now_ns) != 0 {
            action = Verdict::Allow as u8;
            out.flags |= FLAG_LEASED;
        }
    }
    if action == Verdict::Deny as u8 && out.kind & CAN_DENY == 0 {
        action = rule.fallback;
        out.flags |= FLAG_FALLBACK;
    }
    let mut done = action;
    // A flag touches nothing, so it is given in observe mode too.
    if (config.half(key >> 16).observe != 0 || rule.flags & RULE_OBSERVE != 0)
        && action > Verdict::Flag as u8
    {
        done = Verdict::Allow as u8;
    }
    // The rule that is named is that of the strictest verdict; at the same verdict, of the strictest
    // one that observe mode held back.
    let stricter =
        done > out.verdict || (done == out.verdict && action > out.would) || out.rule == NO_RULE;
    if action > out.would {
        out.would = action;
    }
    if stricter {
        out.verdict = done;
        out.rule = key as u16;
        out.judged_in = judged_in;
        out.on_timeout = rule.on_timeout;
        out.deadline_ns = now_ns.wrapping_add(rule.timeout_ns);
    }
    0
}

/// Whether a person has refused this very call, whatever the rules say of it by now.
#[inline(always)]
pub fn refused(tgid: u32, now_ns: u64, judgement: &mut Judgement) {
    // SAFETY: answers are written by userspace only, before the process is resumed.
    if let Some(answer) = unsafe { ANSWERS.get(AnswerKey::refusal(tgid)) }
        && answer.expires_ns > now_ns
        && answer.object == judgement.object
    {
        judgement.verdict = Verdict::Deny as u8;
        judgement.would = Verdict::Deny as u8;
        judgement.rule = answer.rule;
        judgement.generation = answer.generation;
    }
}

/// Whether one of two sessions has a lease for `label` that allows the call in the work memory `slot`, as 0 or 1; a counted one is
/// used by it. One call is one use, however many rules it would meet. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_leased(slot: u32, judged_in: u32, session: u32, label: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let bit = 1u64 << (label & 63);
    if scratch.leased & bit != 0 {
        return 1;
    }
    // In the work memory, since the stack is short here.
    scratch.lease.label = label;
    scratch.lease.session = judged_in;
    if !holds_lease(scratch) {
        if judged_in == session {
            return 0;
        }
        scratch.lease.session = session;
        if !holds_lease(scratch) {
            return 0;
        }
    }
    scratch.leased |= bit;
    1
}

#[inline(always)]
fn holds_lease(scratch: &mut Scratch) -> bool {
    scratch.lease.object = 0;
    if allows(&scratch.lease, &scratch.judgement) {
        return true;
    }
    scratch.lease.object = scratch.place;
    scratch.place != 0 && allows(&scratch.lease, &scratch.judgement)
}

#[inline(always)]
fn allows(key: &LeaseKey, call: &Judgement) -> bool {
    let Some(lease) = LEASES.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: the pointer was checked. Userspace writes leases whole; a stale value is one that was true.
    unsafe {
        let kinds = (*lease).kinds;
        if (*lease).until_ns <= call.time_ns
            || (kinds != 0 && kinds >> (call.kind & !CAN_DENY & 31) & 1 == 0)
        {
            return false;
        }
        if (*lease).uses == UNCOUNTED {
            return true;
        }
        if (*lease).uses <= 0 {
            return false;
        }
        // Two that race for the last use both find less than nothing, and neither has it.
        kernel::atomic_add((&raw mut (*lease).uses).cast(), -1);
        core::ptr::read_volatile(&raw const (*lease).uses) >= 0
    }
}

/// Whether a person has approved this very call, as 0 or 1; the approval is used up by it. `rule` is its index,
/// and the half of the policy in the upper 16 bits. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_answered(tgid: u32, rule: u32, object: u64, now_ns: u64) -> u32 {
    let key = AnswerKey {
        tgid,
        rule: rule as u16,
        generation: (rule >> 16) as u16,
    };
    // SAFETY: answers are written by userspace only, before the process is resumed.
    match unsafe { ANSWERS.get(key) } {
        Some(answer) if answer.expires_ns > now_ns && answer.object == object => {}
        _ => return 0,
    }
    // Used up: the next call asks again.
    let _ = ANSWERS.remove(key);
    1
}

/// Enters a hold into the table that guardd (or, without it, the next start) settles. `held` is room for
/// the entry: of the 512 bytes of stack that all calls share there is not enough everywhere.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "inlined: these are registers, not a design"
)]
pub fn enter_hold(
    held: &mut Held,
    tgid: u32,
    start_ns: u64,
    time_ns: u64,
    labels: u64,
    session: u32,
    kind: u8,
    fate: u8,
    judgement: &Judgement,
) {
    // Somebody let it go on and it came back: the deadline stays what the person was shown.
    if let Some(old) = HELD.get_ptr(tgid) {
        // SAFETY: the pointer was checked.
        let same = unsafe {
            (*old).start_ns == start_ns
                && (*old).object == judgement.object
                && (*old).rule == judgement.rule
        };
        if same {
            return;
        }
    }
    *held = Held {
        start_ns,
        time_ns,
        deadline_ns: judgement.deadline_ns,
        labels,
        object: judgement.object,
        session,
        rule: judgement.rule,
        generation: judgement.generation,
        kind,
        on_timeout: judgement.on_timeout,
        fate,
        pad: [0; 5],
    };
    // For the reason given at `lineage::ATTEMPTS`. A process that is stopped and not entered would be
    // nobody's to let go, so at least it is told.
    for _ in 0..lineage::ATTEMPTS {
        if HELD.insert(tgid, &*held, 0).is_ok() {
            return;
        }
    }
    emit::count(class::VERDICT, false);
}

/// Sends the signal that carries a verdict out, from a program type that may.
#[inline(always)]
pub fn signal(verdict: u8) {
    // SAFETY: the helper has no precondition; it fails where no signal can be sent.
    unsafe {
        if verdict == Verdict::Kill as u8 {
            bpf_send_signal(SIGKILL);
        } else if verdict == Verdict::Hold as u8 {
            // To this thread: a second SIGSTOP to the process is dropped while another thread has yet to take the first, and
            // wakes nobody. This one would run on until then.
            bpf_send_signal_thread(SIGSTOP);
        }
    }
}

/// Stops the current process so that guardd can look at it.
#[inline(always)]
pub fn stop() {
    signal(Verdict::Hold as u8);
}

/// Not attached to anything (and without aya's macro, which would make the result 0): userspace runs it
/// (`BPF_PROG_TEST_RUN`) to feed back a fact that only it
/// can see, so that every fact is judged by the same code on the same tables.
///
/// Arguments: session, labels, tgid, 1 if the call can still be made to fail, its kind.
/// Result: verdict | would << 8 | rule << 16, and the session whose rule it was in [`JUDGED_IN`].
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn guard_inject(ctx: *mut c_void) -> i32 {
    let ctx = RawTracePointContext::new(ctx);
    let session: u64 = ctx.arg(0);
    let labels: u64 = ctx.arg(1);
    let tgid: u64 = ctx.arg(2);
    let can_deny: u64 = ctx.arg(3);
    let kind: u64 = ctx.arg(4);
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some(config) = config() else {
        return 0;
    };
    let mut judgement = Judgement::new(can_deny != 0, 0, kind as u8, config.generation());
    judge(session as u32, labels, now_ns, tgid as u32, &mut judgement);
    if let Some(judged_in) = JUDGED_IN.get_ptr_mut(0) {
        // SAFETY: the pointer was checked; guardd runs this from one thread.
        unsafe { *judged_in = judgement.judged_in };
    }
    (judgement.verdict as u32 | (judgement.would as u32) << 8 | (judgement.rule as u32) << 16)
        as i32
}

/// Not attached to anything either: userspace runs it to put a process it found (in /proc, or through
/// `guardctl run`) into a session, or to move it to one inside, so that the counts stay exact.
///
/// Arguments: tgid, session (0 takes the process out), start time in ns (to the tick), parent's tgid,
/// groups that the program is excepted from.
/// Result: 1 if the table changed, 0 if not, 2 if the table is full.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn guard_tag(ctx: *mut c_void) -> i32 {
    let ctx = RawTracePointContext::new(ctx);
    let tgid: u64 = ctx.arg(0);
    let session: u64 = ctx.arg(1);
    let start_ns: u64 = ctx.arg(2);
    let parent: u64 = ctx.arg(3);
    let excepted: u64 = ctx.arg(4);
    lineage::tag(
        tgid as u32,
        session as u32,
        start_ns,
        parent as u32,
        excepted,
    )
}

/// Not attached to anything either: sets a session's posture, or the session around it, without touching
/// the counts beside them.
///
/// Arguments: session, value, 1 for the session around it instead of the posture. Result: 1 if there is
/// such a session.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn guard_posture(ctx: *mut c_void) -> i32 {
    let ctx = RawTracePointContext::new(ctx);
    let session: u64 = ctx.arg(0);
    let value: u64 = ctx.arg(1);
    let is_parent: u64 = ctx.arg(2);
    let Some(state) = SESSIONS.get_ptr_mut(session as u32) else {
        return 0;
    };
    // SAFETY: the pointer was checked; the words are aligned.
    unsafe {
        if is_parent != 0 {
            (*state).parent = value as u32;
        } else {
            (*state).posture = value as u32;
        }
    }
    1
}
