//! Opens, at the best place that the kernel offers: the security hook, which can refuse; the entry of its
//! function; or the exit tracepoints of every system call that opens a file, where the descriptor leads to
//! the file. From there the file leads to its inode and dentry; what the program passed as a path is never
//! read.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_RB_AVAIL_DATA,
    helpers::{bpf_get_current_task, bpf_ktime_get_ns},
    macros::tracepoint,
    programs::{FEntryContext, LsmContext, TracePointContext},
};
use guard_common::{
    Verdict,
    event::{FLAG_REFUSED, FLAG_STOPPED, FLAG_TRUNCATED, FLAG_UNSCANNED, kind, tier},
    matching::{FileKey, KnownFile, domain, inode_slot},
    state::{Task, UNSCANNED_NS, class, file_object, watched},
};

use crate::{
    copies, emit,
    judge::{self, Done, Judgement},
    kernel::{
        self, Address, BPRM_FILE, FDT_FD, FDT_MAX, FILE_DENTRY, FILE_FLAGS, FILE_INODE, FILE_MNT,
        FILE_MODE, FILES_FDT, INODE_GENERATION, INODE_INO, INODE_MODE, INODE_SB, Known, SB_DEV,
        TASK_FILES, Words,
    },
    lineage,
    maps::{
        self, ACTIVITY, ACTIVITY_BYTES, FILES, INODES, Scratch, UNSCANNED, UNSCANNED_UNTIL,
        with_memory,
    },
    path::{self, Place},
};

/// `O_PATH`: nothing can be read through such a descriptor.
const O_PATH: u32 = 0o10000000;
/// `O_WRONLY | O_RDWR | O_TRUNC`.
pub const WRITES: u32 = 0o1003;
/// The kind of a file in its mode, and that of a regular one; see inode(7).
const S_IFMT: u16 = 0o170_000;
const S_IFREG: u16 = 0o100_000;
/// `__FMODE_EXEC` among the flags of a file: it is opened to be executed.
/// <https://github.com/torvalds/linux/blob/v6.12/include/linux/fs.h#L126>
const FMODE_EXEC: u32 = 0x20;
/// `FMODE_CREATED` in the mode of a file.
/// <https://github.com/torvalds/linux/blob/v6.12/include/linux/fs.h#L171>
const FMODE_CREATED: u32 = 0x10_0000;
/// Offset of `ret` in every `sys_exit_*` format: 8 bytes common, 4 syscall number, 4 padding.
/// <https://github.com/torvalds/linux/blob/v6.12/kernel/trace/trace.h#L130>
pub const SYS_EXIT_RET: usize = 16;

/// Attached to `sys_exit_open`, `openat`, `openat2`, `creat` and `open_by_handle_at`: all of them return
/// a descriptor and have the same format.
#[tracepoint]
pub fn guard_open(ctx: TracePointContext) -> u32 {
    opened(&ctx)
}

#[inline(always)]
fn opened(ctx: &TracePointContext) -> u32 {
    // SAFETY: the helper has no precondition.
    let thread = unsafe { bpf_get_current_task() };
    let Some((tgid, task)) = lineage::tracing(thread) else {
        return 0;
    };
    // SAFETY: the context of a syscall tracepoint is readable at the offsets of its format, and the
    // verifier checks that.
    let ret = unsafe { *ctx.as_ptr().cast::<u8>().add(SYS_EXIT_RET).cast::<i64>() };
    if ret < 0 {
        return 0;
    }
    if let Some(file) = own_file(thread, ret as u64) {
        judge_file(file, tgid, task, tier::TRACEPOINT, false);
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!(ctx, "open by {}", tgid);
    }
    0
}

/// The `struct file` behind a descriptor of the current thread, which is `thread`.
#[inline(always)]
fn own_file(thread: Address, fd: u64) -> Option<Address> {
    let Some(known) = Known::thread() else {
        return file_of(thread, fd);
    };
    let fdt = known.behind(&TASK_FILES)?.behind(&FILES_FDT)?;
    if fd >= fdt.get::<u32>(&FDT_MAX)? as u64 {
        return None;
    }
    // What its places point to, the kernel's types do not tell.
    let array: u64 = fdt.get(&FDT_FD)?;
    match kernel::read_at::<u64>(array.wrapping_add(fd * 8)) {
        Some(0) | None => None,
        some => some,
    }
}

/// The `struct file` behind a descriptor of `thread`.
#[inline(always)]
pub fn file_of(thread: Address, fd: u64) -> Option<Address> {
    let files = kernel::pointer(thread, &TASK_FILES)?;
    let fdt = kernel::pointer(files, &FILES_FDT)?;
    let mut words = Words::<2>::new();
    let fdt = words.read(fdt, [&FDT_MAX, &FDT_FD])?;
    if fd >= fdt.get::<u32>(&FDT_MAX)? as u64 {
        return None;
    }
    let array = fdt.pointer(&FDT_FD)?;
    match kernel::read_at::<u64>(array.wrapping_add(fd * 8)) {
        Some(0) | None => None,
        some => some,
    }
}

/// `security_file_open(struct file *file)`, called for every open, whatever way it came (a system call of
/// any ABI, io_uring, a file system above another), before the file system's own open. The same code serves
/// as a security module's hook and as a modify-return program on that function.
/// <https://github.com/torvalds/linux/blob/v6.12/security/security.c#L2848>
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/file_open")]
pub fn guard_file_open(ctx: *mut c_void) -> i32 {
    let file: *const c_void = LsmContext::new(ctx).arg(0);
    opening(file as Address, watched::OPEN, true)
}

/// The same at the function's entry, where only signals can be sent.
#[unsafe(no_mangle)]
#[unsafe(link_section = "fentry/security_file_open")]
pub fn guard_file_entry(ctx: *mut c_void) -> i32 {
    let file: *const c_void = FEntryContext::new(ctx).arg(0);
    opening(file as Address, watched::OPEN, false);
    0
}

/// `security_bprm_check(struct linux_binprm *bprm)`, called for a program, and again for the interpreter
/// that it names, before anything of the old program is given up.
/// <https://github.com/torvalds/linux/blob/v6.12/security/security.c#L1183>
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/bprm_check_security")]
pub fn guard_bprm_check(ctx: *mut c_void) -> i32 {
    let bprm: *const c_void = LsmContext::new(ctx).arg(0);
    match kernel::pointer(bprm as Address, &BPRM_FILE) {
        Some(file) => opening(file, watched::PROGRAM, true),
        None => 0,
    }
}

#[inline(always)]
fn opening(file: Address, place: usize, can_deny: bool) -> i32 {
    // SAFETY: the helper has no precondition.
    let thread = unsafe { bpf_get_current_task() };
    let Some((tgid, task)) = lineage::tracing(thread) else {
        return 0;
    };
    let is_program = place == watched::PROGRAM;
    // The kernel opens a program in order to run it: that is the other hook's.
    if !is_program && kernel::read::<u32>(file, &FILE_FLAGS).unwrap_or(0) & FMODE_EXEC != 0 {
        return 0;
    }
    let Some(config) = judge::config() else {
        return 0;
    };
    let tier = config.tiers[place];
    if copies::is_judged(place, file) {
        return 0;
    }
    let answer = judge_file(file, tgid, task, tier, can_deny).answer();
    if answer != 0 {
        copies::is_over();
    }
    answer
}

/// Judges one opened file and acts.
#[inline(always)]
fn judge_file(file: Address, tgid: u32, task: &mut Task, tier: u8, can_deny: bool) -> Done {
    // So many are from one to the other of them on every kernel since 5.10.
    let mut words = Words::<7>::new();
    let fields = [&FILE_INODE, &FILE_DENTRY, &FILE_MNT, &FILE_FLAGS];
    let Some(opened) = words.read(file, fields) else {
        return Done::Goes;
    };
    let flags = opened.get(&FILE_FLAGS).unwrap_or(0);
    let (Some(inode), Some(dentry), Some(mnt)) = (
        opened.pointer(&FILE_INODE),
        opened.pointer(&FILE_DENTRY),
        opened.pointer(&FILE_MNT),
    ) else {
        return Done::Goes;
    };
    judge_inode(
        inode,
        Place { dentry, mnt },
        Some(file),
        flags,
        0,
        kind::OPEN,
        tgid,
        task,
        tier,
        can_deny,
    )
}

/// Judges a touch of a file system object: an open with `flags`, the start of a program, or a connect to a socket file, behind
/// which is the process `server`, if known, or 0.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "inlined: these are registers, not a design"
)]
pub fn judge_inode(
    inode: Address,
    place: Place,
    file: Option<Address>,
    flags: u32,
    server: u32,
    record_kind: u8,
    tgid: u32,
    task: &mut Task,
    tier: u8,
    can_deny: bool,
) -> Done {
    let Some(config) = judge::config() else {
        return Done::Goes;
    };
    with_memory!(config, scratch => {
        judge_with(
            scratch,
            inode,
            place,
            file,
            flags,
            server,
            record_kind,
            tgid,
            task,
            tier,
            can_deny,
        )
    })
}

#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "inlined: these are registers, not a design"
)]
fn judge_with(
    scratch: &mut Scratch,
    inode: Address,
    place: Place,
    file: Option<Address>,
    flags: u32,
    server: u32,
    record_kind: u8,
    tgid: u32,
    task: &mut Task,
    tier: u8,
    can_deny: bool,
) -> Option<Done> {
    let config = judge::config()?;
    let generation = config.generation();
    let ino: u64 = kernel::read(inode, &INODE_INO)?;
    scratch.excepted = task.excepted;
    let by_name =
        path::matched(scratch, place, domain::FILE, generation as u8) ^ config.zero as u32;
    // Nothing is asked of a file that no name gave a label, or the patterns would have been verified.
    let mut labels = if by_name != 0 { scratch.labels } else { 0 };
    let all = if by_name != 0 { scratch.all } else { 0 };
    let (mut known_labels, mut known_groups, mut known_plain) = (0, 0, 0);
    let mut dev = 0;
    // Most inodes are known to nobody, and then neither the device nor the table is looked at.
    let slot = INODES.get_ptr_mut(generation)?;
    // SAFETY: the pointer was checked, and `inode_slot` is below the number of slots.
    let slot = unsafe { slot.cast::<u8>().add(inode_slot(ino)) };
    // SAFETY: as above. Volatile, since other CPUs write it.
    if by_name != 0 || unsafe { slot.read_volatile() } != 0 {
        dev = kernel::read(kernel::pointer(inode, &INODE_SB)?, &SB_DEV)?;
        let key = FileKey {
            ino,
            dev,
            generation,
        };
        // SAFETY: written by this side only as whole values; a stale one was true.
        if let Some(known) = unsafe { FILES.get(key) }
            && (known.has_generation == 0
                || kernel::read(inode, &INODE_GENERATION) == Some(known.inode_generation))
        {
            (known_labels, known_groups, known_plain) = (known.labels, known.groups, known.plain);
            // What its present name explains, the name has decided, with its exceptions. The rest it
            // carries from another name: an exception must cover all of that.
            if known.labels & !all != 0 {
                let spared = known.groups != 0 && known.groups & !task.excepted == 0;
                labels |= if spared { known.plain } else { known.labels };
            }
        }
        if all & !known_labels != 0 {
            // From now on it is known whatever it is renamed or linked to.
            scratch.known = KnownFile {
                labels: all | known_labels,
                groups: scratch.groups | known_groups,
                plain: scratch.plain | known_plain,
                inode_generation: kernel::read(inode, &INODE_GENERATION).unwrap_or(0),
                has_generation: 1,
            };
            // The slot first: whoever finds it set looks further.
            // SAFETY: as above.
            unsafe { slot.write_volatile(1) };
            if FILES.insert(key, &scratch.known, 0).is_err() {
                emit::count(class::FACT, false);
            }
        }
    }
    // Whatever way they came about, from here on they are just a word to the verifier.
    labels ^= config.zero;
    // A socket is not opened for anything.
    if labels != 0 && file.is_some() && flags & WRITES == 0 {
        labels &= !config.half(generation).written;
    }
    if labels == 0 {
        unlabelled(
            scratch,
            file,
            flags,
            record_kind,
            task,
            tier,
            config.unscanned,
        );
        return None;
    }
    if flags & O_PATH != 0 {
        return None;
    }
    // In the record from here on: the stack is short.
    scratch.head.open_flags = flags;
    scratch.head.ino = ino;
    scratch.head.dev = dev;
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let object = if can_deny { file_object(ino, dev) } else { 0 };
    scratch.judgement = Judgement::new(can_deny, object, record_kind, generation);
    scratch.place = object;
    judge::guard_judge(scratch.slot, task.session, labels, now_ns, tgid);
    let mut done = Done::Goes;
    if can_deny {
        judge::refused(tgid, now_ns, &mut scratch.judgement);
        if scratch.judgement.verdict == Verdict::Hold as u8 {
            done = how_held(file);
            if done != Done::Repeats {
                scratch.judgement.object = 0;
            }
        } else if scratch.judgement.verdict >= Verdict::Deny as u8 {
            done = Done::Fails;
        }
    }
    // Before whatever is reached can start anything.
    if server != 0 && done == Done::Goes && labels & config.half(generation).followed != 0 {
        lineage::follow(server, task.session, tgid, now_ns);
    }
    if scratch.judgement.verdict == Verdict::Hold as u8 {
        judge::enter_hold(
            &mut scratch.held,
            tgid,
            task.start_ns,
            now_ns,
            labels,
            task.session,
            record_kind,
            done.fate(),
            &scratch.judgement,
        );
    }
    // The signal before the record, so that whoever reads the record knows it has been sent.
    judge::signal(scratch.judgement.verdict);
    // Not on the stack, which is short.
    scratch.latency_ns = emit::since(now_ns);
    let complete = if by_name & 1 != 0 {
        by_name >> 1
    } else {
        path::guard_walk(scratch.slot, place.dentry, place.mnt)
    };
    if done == Done::Fails && scratch.judgement.verdict == Verdict::Hold as u8 {
        scratch.judgement.flags |= FLAG_REFUSED;
    }
    tell(
        scratch,
        task,
        record_kind,
        tier,
        now_ns,
        labels,
        complete != 0,
    );
    Some(done)
}

/// What is opened and carries no label: told where nobody knows yet what is in the session's files.
#[inline(always)]
fn unlabelled(
    scratch: &mut Scratch,
    file: Option<Address>,
    flags: u32,
    record_kind: u8,
    task: &Task,
    tier: u8,
    unscanned: u64,
) {
    if unscanned != 0
        && record_kind == kind::OPEN
        && let Some(file) = file
        && (flags & WRITES != 0 || may_be_told())
    {
        // By the work memory: of a pointer that the kernel vouches for, no exported function takes the number.
        scratch.walk.dentry = file;
        guard_unscanned(scratch.slot, task.session, task.start_ns, tier as u32);
    }
}

/// Whether opens of some session are told at all by now.
#[inline(always)]
fn may_be_told() -> bool {
    let Some(until) = UNSCANNED_UNTIL.get_ptr(0) else {
        return false;
    };
    // SAFETY: the pointer was checked. Volatile, since others write it.
    let until = unsafe { until.read_volatile() };
    // SAFETY: the helper has no precondition.
    until != 0 && unsafe { bpf_ktime_get_ns() } <= until
}

/// Tells the open of a regular file by a session some of whose files have not been looked at for secrets, in the work
/// memory `slot`. An open that may write makes it one for a while. Exported for the reason given at [`crate::kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_unscanned(slot: u32, session: u32, start_ns: u64, tier: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let file = scratch.walk.dentry;
    let Some(until) = UNSCANNED.get_ptr_mut(session) else {
        return 0;
    };
    let flags: u32 = kernel::read(file, &FILE_FLAGS).unwrap_or(0);
    let writes = flags & WRITES != 0;
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the pointer was checked. Volatile, since guardd and other CPUs write it: whichever end is kept is one.
    if flags & O_PATH != 0 || (!writes && now_ns > unsafe { until.read_volatile() }) {
        return 0;
    }
    // One by one, since the stack is short.
    let Some(inode) = kernel::pointer(file, &FILE_INODE) else {
        return 0;
    };
    let mode: u16 = kernel::read(inode, &INODE_MODE).unwrap_or(0);
    if mode & S_IFMT != S_IFREG {
        return 0;
    }
    if writes {
        // SAFETY: as above.
        unsafe { until.write_volatile(now_ns + UNSCANNED_NS) };
        if let Some(latest) = UNSCANNED_UNTIL.get_ptr_mut(0) {
            // SAFETY: as above. Who writes at the same time writes what is as late but for microseconds. Of guardd's, which
            // may be later, nothing is lost that it does not write again in a second.
            unsafe {
                if latest.read_volatile() < now_ns + UNSCANNED_NS {
                    latest.write_volatile(now_ns + UNSCANNED_NS);
                }
            }
        }
    }
    // Labelled calls come first: for them half of the ring is kept free.
    if ACTIVITY.query(BPF_RB_AVAIL_DATA as u64) > ACTIVITY_BYTES as u64 / 2 {
        emit::count(class::ACTIVITY, false);
        return 0;
    }
    scratch.head.open_flags = flags;
    scratch.head.ino = kernel::read(inode, &INODE_INO).unwrap_or(0);
    scratch.head.dev = match kernel::pointer(inode, &INODE_SB) {
        Some(sb) => kernel::read(sb, &SB_DEV).unwrap_or(0),
        None => 0,
    };
    let (Some(dentry), Some(mnt)) = (
        kernel::pointer(file, &FILE_DENTRY),
        kernel::pointer(file, &FILE_MNT),
    ) else {
        return 0;
    };
    let complete = path::guard_walk(slot, dentry, mnt);
    emit::fill(
        &mut scratch.head.header,
        kind::OPEN,
        tier as u8,
        session,
        start_ns,
        now_ns,
    );
    scratch.head.header.flags = FLAG_UNSCANNED;
    if complete == 0 {
        scratch.head.header.flags |= FLAG_TRUNCATED;
    }
    scratch.head.arg_len = 0;
    emit::send(scratch, false, class::ACTIVITY);
    1
}

/// How a held touch waits. Most are repeated. What an io_uring asks for is no system call that could be: it
/// fails, and the process stops. A file that this very call has made would be found when it is repeated
/// (`O_EXCL`), and holds nothing yet: the process stops before it sees the descriptor.
#[inline(always)]
fn how_held(file: Option<Address>) -> Done {
    let Some(file) = file else {
        // A connect, or a datagram: once it is through there is nothing to hold.
        return Done::of_held().unwrap_or(Done::Fails);
    };
    match kernel::read::<u32>(file, &FILE_MODE) {
        Some(mode) if mode & FMODE_CREATED == 0 => {}
        _ => return Done::Goes,
    }
    Done::of_held().unwrap_or(Done::Goes)
}

#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "inlined: these are registers, not a design"
)]
fn tell(
    scratch: &mut Scratch,
    task: &Task,
    record_kind: u8,
    tier: u8,
    now_ns: u64,
    labels: u64,
    complete: bool,
) {
    emit::fill(
        &mut scratch.head.header,
        record_kind,
        tier,
        task.session,
        task.start_ns,
        now_ns,
    );
    emit::fill_judgement(&mut scratch.head.header, labels, &scratch.judgement);
    scratch.head.header.latency_ns = scratch.latency_ns;
    if scratch.judgement.verdict == Verdict::Hold as u8 {
        scratch.head.header.flags |= FLAG_STOPPED;
    }
    if !complete {
        scratch.head.header.flags |= FLAG_TRUNCATED;
    }
    scratch.head.arg_len = 0;
    let (critical, class) = (
        emit::is_critical(&scratch.judgement),
        emit::class_of(&scratch.judgement),
    );
    emit::send(scratch, critical, class);
}
