//! Who belongs to which session: fork and exit. The table is the truth about lineage; userspace reads
//! it, so that no event needs to arrive for a process to be tagged.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_ktime_get_ns},
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use guard_common::{
    NS_PER_TICK, Verdict,
    event::{Header, kind, tier},
    state::{
        FOLLOW_NS, Following, POSTURE_KILLED, POSTURE_NORMAL, SOMEBODYS, Started, TASK_COARSE,
        Task, class,
    },
};

use crate::{
    emit, judge,
    kernel::{
        self, Address, Known, SIGNAL_LIVE, TASK_GROUP_LEADER, TASK_SIGNAL, TASK_START, TASK_TGID,
    },
    maps::{CONDUITS, CRITICAL, FOLLOWING, GONE, HELD, SESSIONS, STARTED, TASKS, WAITING},
    requests,
};

/// Negated errno of an insertion with `BPF_NOEXIST` that found something.
const EEXIST: i32 = -17;
/// Negated errno of an insertion into a full table.
const E2BIG: i32 = -7;
/// Negated errno of a removal that found nothing.
const ENOENT: i32 = -2;
/// How often a change of the table is tried. Since Linux 6.15 it can fail because another CPU keeps the
/// bucket for long (a virtual machine's, say, that is not running).
/// <https://github.com/torvalds/linux/blob/v6.15/kernel/bpf/hashtab.c#L144>
pub const ATTEMPTS: u32 = 8;

/// The current process's entry, if it belongs to a session. `task` is the current thread. A reused pid
/// has another start time.
#[inline(always)]
pub fn current(task: Address) -> Option<(u32, &'static mut Task)> {
    let pid_tgid = bpf_get_current_pid_tgid();
    find((pid_tgid >> 32) as u32, pid_tgid as u32, task)
}

/// The same in a program that traces or is a security module's, where it can cost less.
#[inline(always)]
pub fn tracing(task: Address) -> Option<(u32, &'static mut Task)> {
    let Some(thread) = Known::thread() else {
        return current(task);
    };
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    entered(tgid, || match tgid == pid_tgid as u32 {
        true => thread.get(&TASK_START),
        false => thread.behind(&TASK_GROUP_LEADER)?.get(&TASK_START),
    })
}

/// The entry of `tgid`, whose task (any thread) is `task`.
#[inline(always)]
pub fn lookup(tgid: u32, task: Address) -> Option<(u32, &'static mut Task)> {
    find(tgid, 0, task)
}

/// The same where the thread's own id is at hand: the leader of a thread group need not be looked for.
#[inline(always)]
pub fn find(tgid: u32, pid: u32, task: Address) -> Option<(u32, &'static mut Task)> {
    entered(tgid, || match pid == tgid {
        true => kernel::read(task, &TASK_START),
        false => kernel::start_of(task),
    })
}

/// The entry of `tgid`, if it is that of the process that began then.
#[inline(always)]
fn entered(tgid: u32, began: impl FnOnce() -> Option<u64>) -> Option<(u32, &'static mut Task)> {
    let entry = TASKS.get_ptr_mut(tgid)?;
    // SAFETY: a map value pointer that was checked for null is valid for the program's run.
    let entry = unsafe { &mut *entry };
    entry.is(began()?).then_some((tgid, entry))
}

/// A session's posture reaches every process of it that comes by here.
#[inline(always)]
pub fn enforce_posture(session: u32) {
    if let Some(state) = SESSIONS.get_ptr(session) {
        // SAFETY: the pointer was checked.
        let posture = unsafe { (*state).posture };
        if posture == POSTURE_NORMAL {
            return;
        }
        judge::signal(if posture == POSTURE_KILLED {
            Verdict::Kill as u8
        } else {
            Verdict::Hold as u8
        });
    }
}

/// Adds to a session's count of processes and gives the count afterwards. Of two processes that leave
/// at once, at least one reads 0.
#[inline(always)]
fn count_live(session: u32, by: i64) -> Option<i64> {
    let live = SESSIONS.get_ptr_mut(session).map(|state| {
        // SAFETY: the pointer was checked for null.
        unsafe { &raw mut (*state).live }
    })?;
    kernel::atomic_add(live, by);
    // SAFETY: as above.
    Some(unsafe { core::ptr::read_volatile(live) })
}

/// `TP_PROTO(struct task_struct *parent, struct task_struct *child)`, since 2.6.33; the child does
/// not run before it returns.
/// <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/sched.h#L368>
#[btf_tracepoint(function = "sched_process_fork")]
pub fn guard_fork(ctx: BtfTracePointContext) -> i32 {
    let child: *const u8 = ctx.arg(1);
    let _ = fork(child as Address);
    0
}

#[inline(always)]
fn fork(child: Address) -> Option<()> {
    let config = judge::config()?;
    if config.trace_forks != 0 {
        report_fork(child);
    }
    // current and not real_parent: with CLONE_PARENT the child's parent is somebody else.
    // SAFETY: the helper has no precondition.
    let task = unsafe { bpf_get_current_task() };
    let Some((parent, entry)) = current(task) else {
        if config.in_force().followed != 0 {
            note_started(task, child);
        }
        return None;
    };
    let tgid: u32 = kernel::read(child, &TASK_TGID)?;
    if tgid == parent {
        return None; // a thread
    }
    let start_ns = kernel::read(child, &TASK_START)?;
    if let Some(known) = TASKS.get_ptr(tgid)
        // SAFETY: the pointer was checked.
        && unsafe { (*known).start_ns == start_ns && (*known).session == entry.session }
    {
        return None; // another copy of this program was here
    }
    let task = Task {
        start_ns,
        excepted: entry.excepted,
        session: entry.session,
        flags: 0,
        parent,
        pad: 0,
    };
    let mut ok = false;
    for _ in 0..ATTEMPTS {
        match TASKS.insert(tgid, task, 0) {
            Ok(()) => {
                ok = true;
                break;
            }
            // The table is full.
            Err(E2BIG) => break,
            Err(_) => {}
        }
    }
    emit::count(class::LINEAGE, ok);
    if ok {
        count_live(task.session, 1);
        requests::inherit(parent, entry.start_ns, tgid, start_ns);
    }
    enforce_posture(task.session);
    Some(())
}

#[inline(always)]
fn report_fork(child: Address) {
    let (Some(tgid), Some(start_ns)) = (
        kernel::read::<u32>(child, &TASK_TGID),
        kernel::read(child, &TASK_START),
    ) else {
        return;
    };
    let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
    if tgid == parent {
        return;
    }
    let Some(mut entry) = CRITICAL.reserve::<Header>(0) else {
        emit::count(class::LINEAGE, false);
        return;
    };
    // SAFETY: every field is written before the record is submitted.
    let header = unsafe { &mut *entry.as_mut_ptr() };
    // SAFETY: the helper has no precondition.
    emit::fill(header, kind::FORK, tier::TP_BTF, 0, start_ns, unsafe {
        bpf_ktime_get_ns()
    });
    header.tgid = tgid;
    header.pid = tgid;
    header.ppid = parent;
    entry.submit(0);
    emit::count(class::LINEAGE, true);
}

/// See [`crate::judge::guard_tag`].
#[inline(always)]
pub fn tag(tgid: u32, session: u32, start_ns: u64, parent: u32, excepted: u64) -> i32 {
    if let Some(entry) = TASKS.get_ptr_mut(tgid) {
        // SAFETY: the pointer was checked for null.
        let entry = unsafe { &mut *entry };
        let old = entry.session;
        if session == 0 {
            // Another process by now.
            if entry.start_ns / NS_PER_TICK != start_ns / NS_PER_TICK {
                return 0;
            }
            if TASKS.remove(tgid).is_err() {
                return 0;
            }
        } else if old == session && entry.start_ns / NS_PER_TICK == start_ns / NS_PER_TICK {
            return 0;
        } else {
            entry.session = session;
            entry.start_ns = start_ns;
            entry.flags = TASK_COARSE;
            entry.excepted = excepted;
            count_live(session, 1);
        }
        count_live(old, -1);
        return 1;
    }
    if session == 0 {
        return 0;
    }
    let task = Task {
        start_ns,
        excepted,
        session,
        flags: TASK_COARSE,
        parent,
        pad: 0,
    };
    // NOEXIST: the fork hook may just have been quicker, and knows better.
    match TASKS.insert(tgid, task, 1) {
        Ok(()) => {
            count_live(session, 1);
            1
        }
        Err(EEXIST) => 0,
        Err(_) => {
            emit::count(class::LINEAGE, false);
            2
        }
    }
}

/// `TP_PROTO(struct task_struct *p)`, since 2.6.33 (with a second argument since 6.16).
/// <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/sched.h#L322>
#[btf_tracepoint(function = "sched_process_exit")]
pub fn guard_exit(ctx: BtfTracePointContext) -> i32 {
    let task: *const u8 = ctx.arg(0);
    let _ = exit(task as Address);
    0
}

#[inline(always)]
fn exit(task: Address) -> Option<()> {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // Before the lineage: a process can wait for guardd without being in a session yet.
    let (tgid, entry) = match lookup(tgid, task) {
        Some(found) => found,
        None => {
            if group_is_dead(task) {
                let _ = WAITING.remove(tgid);
            }
            return None;
        }
    };
    if !group_is_dead(task) {
        return None;
    }
    let session = entry.session;
    let start_ns = entry.start_ns;
    let _ = WAITING.remove(tgid);
    let _ = HELD.remove(tgid);
    requests::forget(tgid);
    // The last threads of a group may all come by with the count at 0; one of them removes it. What cannot be
    // removed here guardd finds when it goes through the table.
    let mut removed = false;
    for _ in 0..ATTEMPTS {
        match TASKS.remove(tgid) {
            Ok(()) => {
                removed = true;
                break;
            }
            Err(ENOENT) => break,
            Err(_) => {}
        }
    }
    if !removed {
        return None;
    }
    let _ = GONE.insert(tgid, session, 0);
    if count_live(session, -1)? == 0 {
        let Some(mut entry) = CRITICAL.reserve::<Header>(0) else {
            emit::count(class::LINEAGE, false);
            return None;
        };
        // SAFETY: every field is written before the record is submitted.
        let header = unsafe { &mut *entry.as_mut_ptr() };
        // SAFETY: the helper has no precondition.
        emit::fill(
            header,
            kind::EMPTY,
            tier::TP_BTF,
            session,
            start_ns,
            unsafe { bpf_ktime_get_ns() },
        );
        entry.submit(0);
        emit::count(class::LINEAGE, true);
    }
    Some(())
}

/// `signal->live` is lowered before the tracepoint.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/exit.c#L906>
#[inline(always)]
fn group_is_dead(task: Address) -> bool {
    match kernel::pointer(task, &TASK_SIGNAL) {
        Some(signal) => kernel::read::<i32>(signal, &SIGNAL_LIVE) == Some(0),
        None => false,
    }
}

/// What `server` starts from now on is the session's (see [`Following`]).
#[inline(always)]
pub fn follow(server: u32, session: u32, client: u32, now_ns: u64) {
    // One of the session's own processes hands its membership down anyway, and so does another session's.
    if TASKS.get_ptr(server).is_some() {
        return;
    }
    let following = Following {
        until_ns: now_ns.wrapping_add(FOLLOW_NS),
        session,
        client,
    };
    for _ in 0..ATTEMPTS {
        if FOLLOWING.insert(server, following, 0).is_ok() {
            return;
        }
    }
    emit::count(class::LINEAGE, false);
}

/// Notes that the current process, which is in no session, has forked this one, where it works for others.
#[inline(always)]
fn note_started(task: Address, child: Address) {
    let parent = (bpf_get_current_pid_tgid() >> 32) as u32;
    let by = if FOLLOWING.get_ptr(&parent).is_some() || CONDUITS.get_ptr(parent).is_some() {
        parent
    } else if let Some(by) = started_by(parent, task) {
        // One that such a program has forked and that is still the same program.
        by
    } else {
        return;
    };
    let (Some(tgid), Some(start_ns)) = (
        kernel::read::<u32>(child, &TASK_TGID),
        kernel::read(child, &TASK_START),
    ) else {
        return;
    };
    if tgid == parent {
        return; // a thread
    }
    let started = Started {
        start_ns,
        by,
        pad: 0,
    };
    for _ in 0..ATTEMPTS {
        if STARTED.insert(&tgid, &started, 0).is_ok() {
            return;
        }
    }
    // The parent at the exec counts then, which may be somebody who only took it over.
    emit::count(class::LINEAGE, false);
}

/// Who has forked this process, as [`note_started`] has noted.
#[inline(always)]
fn started_by(tgid: u32, task: Address) -> Option<u32> {
    // SAFETY: the pointer is checked by `get_ptr`.
    let started = unsafe { &*STARTED.get_ptr(&tgid)? };
    (kernel::start_of(task) == Some(started.start_ns)).then_some(started.by)
}

/// The session that the process which has started `task`, which is in none, may have started it for, and that process;
/// [`SOMEBODYS`] where guardd knows. `task` executes something: what it forks from here on is its own.
#[inline(always)]
pub fn followed(task: Address, tgid: u32, now_ns: u64) -> Option<(u32, u32)> {
    let started = started_by(tgid, task);
    if started.is_some() {
        let _ = STARTED.remove(&tgid);
    }
    let parent = kernel::parent_of(task)?;
    if let Some(session) = follows(parent, now_ns) {
        return Some((session, parent));
    }
    let by = started?;
    Some((follows(by, now_ns)?, by))
}

/// The session that what this process starts may be for.
#[inline(always)]
fn follows(parent: u32, now_ns: u64) -> Option<u32> {
    // SAFETY: written whole.
    if let Some(following) = unsafe { FOLLOWING.get(parent) } {
        let lives = TASKS.get_ptr(following.client).is_some();
        if lives || following.until_ns > now_ns {
            return Some(following.session);
        }
    }
    CONDUITS.get_ptr(parent).map(|_| SOMEBODYS)
}
