//! Telling userspace: headers, the two ring buffers, and the counting of what found no room.

use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_NO_WAKEUP},
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_uid_gid, bpf_ktime_get_ns,
    },
};
use guard_common::{
    MAX_ARGV, MAX_PATH, Verdict,
    event::{Header, NO_RULE, PathHeader},
    state::{Task, class},
};

use crate::{
    judge::{self, Judgement},
    kernel,
    maps::{ACTIVITY, ACTIVITY_BYTES, COUNTERS, CRITICAL, Scratch},
};

/// Counts one record of `class`.
#[inline(always)]
pub fn count(class: u32, ok: bool) {
    if let Some(counter) = COUNTERS.get_ptr_mut(class) {
        // SAFETY: the slot is this CPU's own; a map value pointer that was checked for null is valid.
        unsafe {
            if ok {
                (*counter).emitted += 1;
            } else {
                (*counter).lost += 1;
            }
        }
    }
}

/// Fills in what is known of the current process.
#[inline(always)]
pub fn fill(header: &mut Header, kind: u8, tier: u8, session: u32, start_ns: u64, time_ns: u64) {
    let pid_tgid = bpf_get_current_pid_tgid();
    fill_ids(
        header,
        kind,
        tier,
        session,
        start_ns,
        time_ns,
        (pid_tgid >> 32) as u32,
        pid_tgid as u32,
    );
}

/// The same from a program type that has no bpf_get_current_pid_tgid on older kernels.
#[inline(always)]
pub fn fill_for(
    header: &mut Header,
    kind: u8,
    tier: u8,
    task: &Task,
    tgid: u32,
    pid: u32,
    time_ns: u64,
) {
    fill_ids(
        header,
        kind,
        tier,
        task.session,
        task.start_ns,
        time_ns,
        tgid,
        pid,
    );
}

#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "inlined: these are registers, not a design"
)]
fn fill_ids(
    header: &mut Header,
    kind: u8,
    tier: u8,
    session: u32,
    start_ns: u64,
    time_ns: u64,
    tgid: u32,
    pid: u32,
) {
    // SAFETY: the helper has no precondition.
    let task = unsafe { bpf_get_current_task() };
    header.time_ns = time_ns;
    header.start_ns = start_ns;
    header.labels = 0;
    header.session = session;
    header.judged_in = 0;
    header.pid = pid;
    header.tgid = tgid;
    header.ppid = kernel::parent_of(task).unwrap_or(0);
    header.uid = bpf_get_current_uid_gid() as u32;
    header.latency_ns = 0;
    header.flags = 0;
    header.rule = NO_RULE;
    header.generation = 0;
    header.kind = kind;
    header.verdict = 0;
    header.would = 0;
    header.tier = tier;
    kernel::read_comm(task, &mut header.comm);
}

/// Fills in what the rules said.
#[inline(always)]
pub fn fill_judgement(header: &mut Header, labels: u64, judgement: &Judgement) {
    header.labels = labels;
    header.judged_in = judgement.judged_in;
    header.rule = judgement.rule;
    header.generation = judgement.generation;
    header.verdict = judgement.verdict;
    header.would = judgement.would;
    header.flags |= judgement.flags;
}

/// Nanoseconds since `time_ns`, for [`Header::latency_ns`].
#[inline(always)]
pub fn since(time_ns: u64) -> u32 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_ktime_get_ns() }.wrapping_sub(time_ns) as u32
}

/// Whether a record with this judgement must not be lost.
#[inline(always)]
pub fn is_critical(judgement: &Judgement) -> bool {
    judgement.verdict > Verdict::Allow as u8 || judgement.would > Verdict::Allow as u8
}

/// How full the activity ring may get before guardd is woken although it looks at it by itself: a
/// quarter.
const WAKE_AT: u64 = ACTIVITY_BYTES as u64 / 4;

/// Flags of a record for the activity ring. A wake-up costs the caller more than all the rest of the
/// record, and a guardd that has just been here comes again by itself in a moment
/// ([`guard_common::state::Config::attentive_until_ns`]).
#[inline(always)]
pub fn wakeup(now_ns: u64) -> u64 {
    match judge::config() {
        Some(config)
            if now_ns < config.attentive_until_ns
                && ACTIVITY.query(BPF_RB_AVAIL_DATA as u64) < WAKE_AT =>
        {
            BPF_RB_NO_WAKEUP as u64
        }
        _ => 0,
    }
}

/// The class that a record with this judgement is counted in.
#[inline(always)]
pub fn class_of(judgement: &Judgement) -> u32 {
    if is_critical(judgement) {
        class::VERDICT
    } else {
        class::ACTIVITY
    }
}

/// Room for a record in the ring that its judgement asks for; a loss is counted. Every field is to be written
/// before [`submit`].
#[inline(always)]
pub fn reserve<T: 'static>(judgement: &Judgement) -> Option<RingBufEntry<T>> {
    let entry = if is_critical(judgement) {
        CRITICAL.reserve::<T>(0)
    } else {
        ACTIVITY.reserve::<T>(0)
    };
    if entry.is_none() {
        count(class_of(judgement), false);
    }
    entry
}

/// Hands such a record over, and counts it.
#[inline(always)]
pub fn submit<T>(entry: RingBufEntry<T>, judgement: &Judgement, now_ns: u64) {
    entry.submit(if is_critical(judgement) {
        0
    } else {
        wakeup(now_ns)
    });
    count(class_of(judgement), true);
}

/// Sends the record in `scratch`, with as much tail as its head says, and counts it.
#[inline(always)]
pub fn send(scratch: &mut Scratch, critical: bool, class: u32) -> bool {
    let tail = (scratch.head.path_len as usize).min(MAX_PATH)
        + (scratch.head.arg_len as usize).min(MAX_ARGV);
    let len = size_of::<PathHeader>() + tail;
    // The verifier wants the bound spelled out on the very register it checks.
    if len > size_of::<PathHeader>() + MAX_PATH + MAX_ARGV {
        return false;
    }
    let ok = output(critical, core::ptr::from_ref(scratch).cast(), len);
    count(class, ok);
    ok
}

#[inline(always)]
fn output(critical: bool, data: *const u8, len: usize) -> bool {
    // SAFETY: `data` is the scratch record, which is longer than the largest `len`; head and tail lie
    // one behind the other (repr(C)).
    let bytes = unsafe { core::slice::from_raw_parts(data, len) };
    let result = if critical {
        CRITICAL.output::<[u8]>(bytes, 0)
    } else {
        // SAFETY: the helper has no precondition.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        ACTIVITY.output::<[u8]>(bytes, wakeup(now_ns))
    };
    result.is_ok()
}
