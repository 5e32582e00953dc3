//! Programs. After the exec has happened and before the new program's first instruction: agents are
//! recognised, exceptions are settled for the program's life, and command lines are told.
//!
//! The kernel only finds *candidates* for an agent or a labelled command (by the final components of
//! names, by environment markers) and stops the process; guardd looks closer and lets it go on. With
//! no sign of life from guardd nobody is stopped for it.

use aya_ebpf::{
    bindings::BPF_RB_FORCE_WAKEUP,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::{bpf_probe_read_kernel_str, bpf_probe_read_user},
    },
    macros::btf_tracepoint,
    programs::BtfTracePointContext,
};
use guard_common::{
    MAX_ARGV, MAX_PATH,
    event::{
        FLAG_BY_ENV, FLAG_FOLLOWED, FLAG_GATED, FLAG_JOB, FLAG_SPINS, FLAG_STOPPED, FLAG_TRUNCATED,
        Header, kind, tier,
    },
    matching::{FNV_OFFSET, domain, fold},
    state::{Config, HEARTBEAT_LIMIT_NS, Task, Waiting, class, watched},
};

use crate::{
    copies, emit, environ, judge,
    kernel::{
        self, Address, BPRM_FILENAME, BPRM_INTERP, FILE_DENTRY, FILE_FLAGS, FILE_INODE, FILE_MNT,
        INODE_CTIME, MM_ARG_END, MM_ARG_START, MM_EXE_FILE, SIGNAL_PIDS, SIGNAL_TTY, TASK_MM,
        TASK_REAL_PARENT, TASK_SIGNAL,
    },
    lineage,
    maps::{self, CRITICAL, RESUMING, SESSIONS, SPINS, Scratch, TAPPED, WAITING, with_memory},
    open,
    path::{self, Place},
};

/// Bytes of the command line that are searched for an interpreter's script.
const SCRIPT_WINDOW: usize = 512;
/// Bytes of a path or a command line that one step of a loop goes through. Few, since the verifier follows
/// every one of them.
const BLOCK: usize = 8;
/// Arguments of an interpreter that are looked at.
const SCRIPT_ARGS: u32 = 6;

/// `TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)`, since 3.4.
/// <https://github.com/torvalds/linux/blob/v6.12/include/trace/events/sched.h#L399>
#[btf_tracepoint(function = "sched_process_exec")]
pub fn guard_exec(ctx: BtfTracePointContext) -> i32 {
    let task: *const u8 = ctx.arg(0);
    let bprm: *const u8 = ctx.arg(2);
    let _ = exec(task as Address, bprm as Address);
    0
}

#[inline(always)]
fn exec(task: Address, bprm: Address) -> Option<()> {
    if copies::is_judged(watched::EXEC, bprm) {
        return None;
    }
    let config = judge::config()?;
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let generation = config.generation() as u8;
    let mm = kernel::pointer(task, &TASK_MM)?;
    let exe = kernel::pointer(mm, &MM_EXE_FILE)?;
    let place = Place {
        dentry: kernel::pointer(exe, &FILE_DENTRY)?,
        mnt: kernel::pointer(exe, &FILE_MNT)?,
    };

    with_memory!(config, scratch => {
        look_at(
            scratch, config, task, bprm, mm, exe, place, tgid, generation, now_ns,
        );
        None::<judge::Done>
    });
    Some(())
}

#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "inlined: these are registers, not a design"
)]
fn look_at(
    scratch: &mut Scratch,
    config: &Config,
    task: Address,
    bprm: Address,
    mm: Address,
    exe: Address,
    place: Place,
    tgid: u32,
    generation: u8,
    now_ns: u64,
) {
    let tagged = lineage::lookup(tgid, task);
    // Whatever way it came about, from here on it is just a word to the verifier.
    let names = names_of(scratch, bprm, mm, place, generation) ^ config.zero as u32;
    match tagged {
        Some((tgid, entry)) => {
            // A better tier has judged it before it was executed.
            if config.tiers[watched::PROGRAM] == tier::TP_BTF
                && let Some(inode) = kernel::pointer(exe, &FILE_INODE)
            {
                open::judge_inode(
                    inode,
                    place,
                    Some(exe),
                    kernel::read(exe, &FILE_FLAGS).unwrap_or(0),
                    0,
                    kind::OPEN,
                    tgid,
                    entry,
                    tier::TP_BTF,
                    false,
                );
            }
            in_session(
                scratch, config, tgid, entry, exe, mm, place, names, generation, now_ns,
            );
        }
        None => {
            let by_env = names & AGENT == 0 && environ::marked(scratch, mm, config, generation);
            let (followed, by) = lineage::followed(task, tgid, now_ns).unwrap_or((0, 0));
            if (names & AGENT != 0 || by_env || followed != 0)
                && let Some(start_ns) = kernel::start_of(task)
            {
                let mut flags = if by_env { FLAG_BY_ENV } else { 0 };
                if followed != 0 {
                    flags |= FLAG_FOLLOWED;
                }
                report_agent(config, task, followed, by, tgid, start_ns, flags, now_ns);
            }
        }
    }
}

/// The program may be an agent.
const AGENT: u32 = path::bit(domain::AGENT);
/// A label names command lines of this program.
const COMMAND: u32 = path::bit(domain::COMMAND);
/// The program is an interpreter, or a script was executed.
const INTERPRETER: u32 = path::bit(domain::INTERPRETER);
/// A script was executed by its own path, so its name is known for sure.
const SHEBANG: u32 = 1 << 16;
/// Executed or called by an interpreter's name, whatever file that is: busybox is `sh` by a link. Its script may be an agent; an
/// exception is given to none by such a name, which anybody can choose.
const CALLED_INTERPRETER: u32 = 1 << 17;

/// Looks up every name the program goes by: the file that runs, the path as executed, argv[0], and for
/// an interpreter the script. Leaves in `scratch.groups` the exceptions that its script's name gives.
#[inline(always)]
fn names_of(
    scratch: &mut Scratch,
    bprm: Address,
    mm: Address,
    place: Place,
    generation: u8,
) -> u32 {
    let found = Found::of(scratch);
    scratch.groups = 0;
    path::look_up(
        scratch,
        place,
        AGENT | COMMAND | INTERPRETER | path::bit(domain::PROGRAM),
        generation,
    );
    executed_as(scratch, bprm, generation);
    if let (Some(start), Some(end)) = (
        kernel::read::<u64>(mm, &MM_ARG_START),
        kernel::read::<u64>(mm, &MM_ARG_END),
    ) {
        let len = end.saturating_sub(start).min(SCRIPT_WINDOW as u64);
        if read_user(scratch, 0, len, start) == 0 {
            scratch.count = len as u32;
            arguments(scratch, generation);
        }
    }
    found.get()
}

/// Copies `len` bytes of user memory to `tail[at..]`. A function of its own, so that the bounds are checked
/// on the registers that the helper gets: on their way through the stack older verifiers forget them.
/// Returns 0 when they could be read.
#[inline(never)]
fn read_user(scratch: &mut Scratch, at: u64, len: u64, from: u64) -> i64 {
    let (at, len) = (kernel::opaque(at), kernel::opaque(len));
    if at > MAX_PATH as u64 || len > MAX_ARGV as u64 {
        return -1;
    }
    // SAFETY: `tail` is as long as MAX_PATH and MAX_ARGV together; the helper checks the source.
    unsafe {
        bpf_probe_read_user(
            scratch.tail.as_mut_ptr().add(at as usize).cast(),
            len as u32,
            from as *const _,
        )
    }
}

/// Looks up the base name of the path as executed; for a script that is the script's.
#[inline(never)]
fn executed_as(scratch: &mut Scratch, bprm: Address, generation: u8) -> u32 {
    let Some(filename) = kernel::pointer(bprm, &BPRM_FILENAME) else {
        return 0;
    };
    let script = kernel::pointer(bprm, &BPRM_INTERP).unwrap_or(filename) != filename;
    // SAFETY: the target is as long as the size says; the helper checks the source.
    let len = unsafe {
        bpf_probe_read_kernel_str(scratch.name.as_mut_ptr().cast(), 256, filename as *const _)
    };
    if len < 2 {
        return 0;
    }
    scratch.count = len as u32 - 1;
    base_name(scratch);
    let (hash, count) = (scratch.hash, scratch.count);
    let found = Found::of(scratch);
    found.add(guard_program_names(hash, count, generation as u32));
    found.add(guard_interpreter_name(hash, count, generation as u32));
    if script {
        found.add(INTERPRETER | SHEBANG);
        if scratch.sticky & DOTDOT == 0 && is_system(scratch.name.as_ptr().cast(), 0) {
            scratch.groups |= guard_script_exceptions(hash, count, generation as u32);
        }
    }
    0
}

/// The names found so far. In memory for the reason given at [`State`].
#[derive(Clone, Copy)]
struct Found(*mut u32);

impl Found {
    #[inline(always)]
    fn of(scratch: &mut Scratch) -> Self {
        Self(&raw mut scratch.found)
    }

    #[inline(always)]
    fn get(self) -> u32 {
        // SAFETY: points into this CPU's scratch for the program's run.
        unsafe { core::ptr::read_volatile(self.0) }
    }

    #[inline(always)]
    fn add(self, bits: u32) {
        // SAFETY: as for `get`.
        unsafe { core::ptr::write_volatile(self.0, self.get() | bits) }
    }
}

/// Leaves hash and length of the last component of the path in `scratch.name` (`scratch.count` bytes) in
/// `scratch.hash` and `scratch.count`.
#[inline(always)]
fn base_name(scratch: &mut Scratch) {
    let state = State::of(scratch);
    state.reset();
    state.begin();
    let len = path::forget(&scratch.count).min(255);
    let slot = scratch.slot;
    for block in 0..(256 / BLOCK) as u32 {
        if guard_name_block(slot, block, len) != 0 {
            break;
        }
    }
    state.finish();
    scratch.count = state.count() as u32 & 0xffff;
}

/// One block of a path of `len` bytes in `name` of the work memory `slot`. Returns 1 at its end. Exported for the
/// reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_name_block(slot: u32, block: u32, len: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 1;
    };
    let state = State::of(scratch);
    let base = block as usize * BLOCK;
    if base > 256 - BLOCK {
        return 1;
    }
    for i in 0..BLOCK {
        if base + i >= path::forget(&len) as usize {
            return 1;
        }
        // SAFETY: base + i < 256, inside the array; every byte of it is initialised.
        let byte = unsafe { *scratch.name.as_ptr().cast::<u8>().add(base + i) };
        if byte == b'/' {
            state.note_dotdot();
            state.reset();
        } else {
            state.take(byte);
        }
    }
    0
}

/// The domains that have this name, as bits. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_program_names(hash: u64, len: u32, generation: u32) -> u32 {
    let generation = generation as u8;
    let mut found = 0;
    if path::exact(hash, len, domain::AGENT, generation).is_some() {
        found |= AGENT;
    }
    if path::exact(hash, len, domain::COMMAND, generation).is_some() {
        found |= COMMAND;
    }
    found
}

/// [`CALLED_INTERPRETER`] for the base name of one. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_interpreter_name(hash: u64, len: u32, generation: u32) -> u32 {
    match path::exact(hash, len, domain::INTERPRETER, generation as u8) {
        Some(_) => CALLED_INTERPRETER,
        None => 0,
    }
}

/// Groups whose exception names a script by its base name alone. The script's own file is not at hand
/// here, so only patterns without directories count. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_script_exceptions(hash: u64, len: u32, generation: u32) -> u64 {
    let generation = generation as u8;
    let Some(candidates) = path::exact(hash, len, domain::PROGRAM, generation) else {
        return 0;
    };
    let mut groups = 0;
    for slot in 0..guard_common::MAX_CANDIDATES {
        if slot >= candidates.count as usize {
            break;
        }
        if let Some(pattern) = path::pattern(candidates.index[slot], generation)
            && pattern.above_len == 0
            && pattern.flags == 0
        {
            groups |= pattern.groups;
        }
    }
    groups
}

/// Goes through the command line in `scratch.tail` (`scratch.count` bytes): the base names of argv[0] and, for an interpreter
/// of its script. Leaves the exceptions that the script's name gives in
/// `scratch.groups`.
#[inline(never)]
fn arguments(scratch: &mut Scratch, generation: u8) -> u32 {
    let found = Found::of(scratch);
    let mut names = found.get();
    // First the base name of each argument: `components` takes the hash, `prefix` the length, with
    // OPTION where it begins with a dash.
    let state = State::of(scratch);
    state.reset();
    state.begin();
    state.set_index(0);
    scratch.suffix[0] = 0;
    let (slot, len) = (scratch.slot, path::forget(&scratch.count));
    for block in 0..(SCRIPT_WINDOW / BLOCK) as u32 {
        if guard_argument_block(slot, block, len) != 0 {
            break;
        }
    }
    let given = state.index();
    for slot in 0..SCRIPT_ARGS as usize {
        if slot >= given as usize {
            break;
        }
        let flags = scratch.prefix[slot];
        let hash = scratch.components[slot];
        if slot == 0 {
            found.add(guard_program_names(
                hash,
                flags as u32 & 0xffff,
                generation as u32,
            ));
            names |= guard_interpreter_name(hash, flags as u32 & 0xffff, generation as u32);
            continue;
        }
        if names & (INTERPRETER | CALLED_INTERPRETER) == 0 {
            break;
        }
        if flags & OPTION != 0 {
            // `-c TEXT`: what follows is a program, not the name of one.
            if hash == DASH_C {
                break;
            }
            continue;
        }
        // Which of them is the script, options with values make hard to tell: guardd looks closer. An
        // exception cannot wait for that, so it is given only where there is no option before.
        found.add(guard_program_names(
            hash,
            flags as u32 & 0xffff,
            generation as u32,
        ));
        if slot == 1 && names & (INTERPRETER | SHEBANG) == INTERPRETER {
            let start = scratch.suffix[slot] as usize & (SCRIPT_WINDOW - 1);
            if flags & DOTDOT == 0 && is_system(scratch.tail.as_ptr(), start) {
                scratch.groups |=
                    guard_script_exceptions(hash, flags as u32 & 0xffff, generation as u32);
            }
        }
    }
    0
}

/// Whether a path begins with a directory that only root writes. A script is trusted with an exception
/// by its path alone, since its file is not at hand here: anywhere else, the agent could have put it
/// there.
#[inline(always)]
fn is_system(bytes: *const u8, at: usize) -> bool {
    // SAFETY: both callers pass a buffer with at least `at` + 8 bytes.
    let byte = |n: usize| unsafe { *bytes.add(at + n) };
    byte(0) == b'/'
        && byte(4) == b'/'
        && ((byte(1) == b'u' && byte(2) == b's' && byte(3) == b'r')
            || (byte(1) == b'o' && byte(2) == b'p' && byte(3) == b't'))
}

/// `component(b"-c")`, which a test compares.
const DASH_C: u64 = guard_common::matching::DASH_C;

/// One block of a command line of `len` bytes in `tail` of the work memory `slot`. Returns 1 at its end. Exported
/// for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_argument_block(slot: u32, block: u32, len: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 1;
    };
    let state = State::of(scratch);
    let base = block as usize * BLOCK;
    if base > SCRIPT_WINDOW - BLOCK {
        return 1;
    }
    for i in 0..BLOCK {
        if base + i >= path::forget(&len) as usize {
            return 1;
        }
        let byte = scratch.tail[base + i];
        if byte == 0 {
            // The first few are all that is looked at; there is room for no more.
            if state.index() >= SCRIPT_ARGS {
                return 1;
            }
            let slot = (state.index() & 7) as usize;
            state.finish();
            scratch.components[slot] = state.hash();
            scratch.prefix[slot] = state.count() | state.sticky();
            state.set_index(state.index() + 1);
            scratch.suffix[(state.index() & 7) as usize] = (base + i + 1) as u64;
            state.reset();
            state.begin();
        } else if byte == b'/' {
            state.note_dotdot();
            state.reset();
        } else {
            state.take(byte);
        }
    }
    0
}

/// An argument that begins with a dash, in [`arguments`].
const OPTION: u64 = 1 << 32;
/// A path with a `..` component, in [`arguments`].
const DOTDOT: u64 = 1 << 33;

/// The state of a loop over bytes, kept in memory so that the verifier does not follow its values:
/// with them in registers it would explore every string there can be.
#[derive(Clone, Copy)]
struct State(*mut Scratch);

impl State {
    #[inline(always)]
    fn of(scratch: &mut Scratch) -> Self {
        Self(scratch)
    }

    #[inline(always)]
    fn hash(self) -> u64 {
        // SAFETY: points to this CPU's scratch for the program's run; the same below.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).hash) }
    }

    #[inline(always)]
    fn count(self) -> u64 {
        // SAFETY: as for `hash`.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).word) }
    }

    #[inline(always)]
    fn index(self) -> u32 {
        // SAFETY: as for `hash`.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).index) }
    }

    #[inline(always)]
    fn set_index(self, index: u32) {
        // SAFETY: as for `hash`.
        unsafe { core::ptr::write_volatile(&raw mut (*self.0).index, index) }
    }

    #[inline(always)]
    fn reset(self) {
        // SAFETY: as for `hash`.
        unsafe {
            core::ptr::write_volatile(&raw mut (*self.0).hash, FNV_OFFSET);
            core::ptr::write_volatile(&raw mut (*self.0).word, 0);
            core::ptr::write_volatile(&raw mut (*self.0).part, 0);
        }
    }

    /// Begins another argument.
    #[inline(always)]
    fn begin(self) {
        // SAFETY: as for `hash`.
        unsafe { core::ptr::write_volatile(&raw mut (*self.0).sticky, 0) };
    }

    #[inline(always)]
    fn sticky(self) -> u64 {
        // SAFETY: as for `hash`.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).sticky) }
    }

    /// At the end of a component: remembers whether it was `..`.
    #[inline(always)]
    fn note_dotdot(self) {
        if self.count() & 0xffff == 2 && self.part() == 0x2e2e {
            // SAFETY: as for `hash`.
            unsafe { core::ptr::write_volatile(&raw mut (*self.0).sticky, DOTDOT) };
        }
    }

    #[inline(always)]
    fn part(self) -> u64 {
        // SAFETY: as for `hash`.
        unsafe { core::ptr::read_volatile(&raw const (*self.0).part) }
    }

    /// One more byte of a name, for [`guard_common::matching::component`] in steps.
    #[inline(always)]
    fn take(self, byte: u8) {
        let count = self.count();
        let dash = (byte == b'-' && count == 0) as u64 * OPTION;
        let part = self.part() | (byte as u64) << ((count & 7) * 8);
        let full = count & 7 == 7;
        // SAFETY: as for `hash`.
        unsafe {
            if full {
                core::ptr::write_volatile(&raw mut (*self.0).hash, fold(self.hash(), part));
            }
            core::ptr::write_volatile(&raw mut (*self.0).part, if full { 0 } else { part });
            core::ptr::write_volatile(&raw mut (*self.0).word, (count + 1) | dash);
        }
    }

    /// The last, incomplete word.
    #[inline(always)]
    fn finish(self) {
        if self.count() & 7 != 0 {
            // SAFETY: as for `hash`.
            unsafe {
                core::ptr::write_volatile(&raw mut (*self.0).hash, fold(self.hash(), self.part()))
            };
        }
    }
}

/// Hands a possible agent to guardd and stops it meanwhile, where that is safe. `by`: the process that has started it for the
/// session, or 0.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the caller has them all at hand")]
fn report_agent(
    config: &Config,
    task: Address,
    session: u32,
    by: u32,
    tgid: u32,
    start_ns: u64,
    flags: u32,
    now_ns: u64,
) {
    let Some(mut entry) = CRITICAL.reserve::<Header>(0) else {
        // Not stopped: nobody would let it go on.
        emit::count(class::LINEAGE, false);
        return;
    };
    // SAFETY: every field is written before the record is submitted.
    let header = unsafe { &mut *entry.as_mut_ptr() };
    emit::fill(header, kind::AGENT, tier::TP_BTF, session, start_ns, now_ns);
    header.flags = flags;
    if by != 0 {
        header.ppid = by;
    }
    if is_job(task) {
        header.flags |= FLAG_JOB;
    } else if stop_for_guardd(config, tgid, start_ns, now_ns) {
        header.flags |= FLAG_STOPPED;
    }
    header.latency_ns = emit::since(now_ns);
    entry.submit(0);
    emit::count(class::LINEAGE, true);
}

/// Has the current process wait until guardd has looked at it, if guardd is there to look: stops it, or gives
/// [`FLAG_SPINS`], and then [`guard_spin`] is to be called when guardd has been told.
#[inline(always)]
pub fn wait_for_guardd(
    config: &Config,
    task: Address,
    tgid: u32,
    start_ns: u64,
    now_ns: u64,
) -> u32 {
    if is_job(task) {
        if enter_waiting(config, tgid, start_ns, now_ns) {
            FLAG_SPINS
        } else {
            0
        }
    } else if stop_for_guardd(config, tgid, start_ns, now_ns) {
        FLAG_STOPPED
    } else {
        0
    }
}

/// How long a job of an interactive shell waits on its processor at most. guardd, on another, takes a tenth of that when it is
/// awake, and half of it for what a program does first.
const SPIN_NS: u64 = 4_000_000;
/// Looks in one call of [`guard_look_out`], calls of it in one of [`guard_watch`], and calls of that at most: the verifier
/// follows each loop once. Together they took 1.1 ms where it was measured, so that mostly they end before [`SPIN_NS`].
const LOOKS: u32 = 40;
/// See [`LOOKS`].
const LOOKOUTS: u32 = 40;
/// See [`LOOKS`].
const WATCHES: u32 = 40;
/// What [`guard_watch`] gives when the time is over.
const TOO_LATE: u32 = 2;

/// Waits on the processor until guardd has looked; when it takes too long, by being stopped after all. Exported for the
/// reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_spin(tgid: u32, start_ns: u64) -> u32 {
    // SAFETY: the helper has no precondition.
    let began = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the helper has no precondition.
    let here = u64::from(unsafe { bpf_get_smp_processor_id() });
    // Without room those who read it have been woken already.
    let _ = SPINS.output::<u64>(here, BPF_RB_FORCE_WAKEUP as u64);
    for _ in 0..WATCHES {
        match guard_watch(tgid, began, 0) {
            0 => {}
            TOO_LATE => break,
            _ => return 0,
        }
    }
    judge::stop();
    // guardd may have let it go between the last look and the stop. It then finds it again here, after a second.
    let waiting = Waiting {
        start_ns,
        time_ns: began,
    };
    let _ = WAITING.insert(tgid, waiting, 0);
    1
}

/// Waits for a part of the time: gives 1 when guardd has looked at a process (or, with `resumed`, is not letting it go on any
/// more), [`TOO_LATE`] when the time since `began` is over. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_watch(tgid: u32, began: u64, resumed: u32) -> u32 {
    for _ in 0..LOOKOUTS {
        let done = match resumed {
            0 => guard_look_out(tgid),
            _ => guard_is_resumed(tgid),
        };
        if done != 0 {
            return 1;
        }
        // SAFETY: the helper has no precondition.
        if unsafe { bpf_ktime_get_ns() }.wrapping_sub(began) > SPIN_NS {
            return TOO_LATE;
        }
    }
    0
}

/// Whether guardd has looked. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_look_out(tgid: u32) -> u32 {
    for _ in 0..LOOKS {
        if WAITING.get_ptr(tgid).is_none() {
            return 1;
        }
    }
    0
}

/// guardd may be letting the current process go on for something else, and would undo the stop that is to come: waits on the
/// processor until it has done so. It takes it two system calls. Says whether that has ended in time. Exported for the reason
/// given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_wait_out(tgid: u32) -> u32 {
    // SAFETY: the helper has no precondition.
    let began = unsafe { bpf_ktime_get_ns() };
    for _ in 0..WATCHES {
        match guard_watch(tgid, began, 1) {
            0 => {}
            TOO_LATE => break,
            _ => return 1,
        }
    }
    0
}

/// Whether guardd is not, or no longer, letting a process go on. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_is_resumed(tgid: u32) -> u32 {
    for _ in 0..LOOKS {
        if !is_resuming(tgid) {
            return 1;
        }
    }
    0
}

/// Whether guardd is letting a process go on at this moment.
#[inline(always)]
pub fn is_resuming(tgid: u32) -> bool {
    match RESUMING.get_ptr(0) {
        // SAFETY: the pointer was checked; guardd writes there meanwhile.
        Some(of) => unsafe { of.read_volatile() == u64::from(tgid) },
        None => false,
    }
}

/// Stops the current process until guardd has looked at it, if guardd is there to look.
#[inline(always)]
fn stop_for_guardd(config: &Config, tgid: u32, start_ns: u64, now_ns: u64) -> bool {
    let waits = enter_waiting(config, tgid, start_ns, now_ns);
    if waits {
        judge::stop();
    }
    waits
}

/// Enters the current process among those that wait for guardd, if guardd is there to look.
#[inline(always)]
pub fn enter_waiting(config: &Config, tgid: u32, start_ns: u64, now_ns: u64) -> bool {
    if now_ns.saturating_sub(config.heartbeat_ns) > HEARTBEAT_LIMIT_NS {
        return false;
    }
    let waiting = Waiting {
        start_ns,
        time_ns: now_ns,
    };
    WAITING.insert(tgid, waiting, 0).is_ok()
}

/// Stops the current process, which was entered in [`WAITING`], and asks guardd to let it go on when it has read what
/// name servers have said.
#[inline(always)]
pub fn stop_and_tell(tgid: u32, session: u32, start_ns: u64) {
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    judge::stop();
    // guardd may have found it forgotten just before the stop. It then finds it again here, after a second.
    let waiting = Waiting {
        start_ns,
        time_ns: now_ns,
    };
    let _ = WAITING.insert(tgid, waiting, 0);
    // guardd goes through WAITING too, so a lost record only delays the process.
    let Some(mut entry) = CRITICAL.reserve::<Header>(0) else {
        emit::count(class::VERDICT, false);
        return;
    };
    // SAFETY: every field is written before the record is submitted.
    let header = unsafe { &mut *entry.as_mut_ptr() };
    emit::fill(
        header,
        kind::AWAIT,
        tier::TRACEPOINT,
        session,
        start_ns,
        now_ns,
    );
    header.flags = FLAG_STOPPED;
    header.latency_ns = emit::since(now_ns);
    entry.submit(0);
    emit::count(class::VERDICT, true);
}

/// Whether the process is a job of an interactive shell: it has a terminal and a process group of its
/// own, other than its parent's, in the parent's terminal session. Such a shell waits for stops
/// (`WUNTRACED`) and would take ours for the user's Ctrl-Z: it would put the agent in the background
/// and take the terminal from it. It is adopted while it runs instead.
#[inline(always)]
fn is_job(task: Address) -> bool {
    job(task).unwrap_or(false)
}

#[inline(always)]
fn job(task: Address) -> Option<bool> {
    /// Indices in `enum pid_type`.
    /// <https://github.com/torvalds/linux/blob/v6.12/include/linux/pid_types.h>
    const PGID: u64 = 2;
    const SID: u64 = 3;
    let signal = kernel::pointer(task, &TASK_SIGNAL)?;
    kernel::pointer(signal, &SIGNAL_TTY)?;
    let pids = SIGNAL_PIDS.load();
    let above = kernel::pointer(kernel::pointer(task, &TASK_REAL_PARENT)?, &TASK_SIGNAL)?;
    if pids == guard_common::offsets::MISSING {
        return None;
    }
    let of = |signal: Address, which: u64| {
        kernel::read_at::<u64>(signal.wrapping_add(pids as u64 + which * 8))
    };
    Some(of(signal, PGID)? != of(above, PGID)? && of(signal, SID)? == of(above, SID)?)
}

#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "inlined: these are registers, not a design"
)]
fn in_session(
    scratch: &mut Scratch,
    config: &Config,
    tgid: u32,
    entry: &mut Task,
    exe: Address,
    mm: Address,
    place: Place,
    names: u32,
    generation: u8,
    now_ns: u64,
) {
    let by_script = scratch.groups;
    let walked =
        path::judge_names(scratch, place, domain::PROGRAM, generation) ^ config.zero as u32;
    let groups = by_script | scratch.groups;
    entry.excepted = if groups != 0 && is_older(exe, entry.session) {
        groups
    } else {
        0
    };
    // The record: path of the program and command line.
    let complete = (if walked & 1 != 0 {
        walked >> 1
    } else {
        path::guard_walk(scratch.slot, place.dentry, place.mnt)
    }) ^ config.zero as u32;
    emit::fill(
        &mut scratch.head.header,
        kind::EXEC,
        tier::TP_BTF,
        entry.session,
        entry.start_ns,
        now_ns,
    );
    if complete == 0 {
        scratch.head.header.flags |= FLAG_TRUNCATED;
    }
    scratch.head.ino = 0;
    scratch.head.dev = 0;
    scratch.head.open_flags = 0;
    scratch.head.arg_len = 0;
    if let (Some(start), Some(end)) = (
        kernel::read::<u64>(mm, &MM_ARG_START),
        kernel::read::<u64>(mm, &MM_ARG_END),
    ) {
        let whole = end.saturating_sub(start);
        let len = whole.min(MAX_ARGV as u64);
        if read_user(scratch, scratch.head.path_len as u64, len, start) == 0 {
            scratch.head.arg_len = len as u32;
            if whole > MAX_ARGV as u64 {
                scratch.head.header.flags |= FLAG_TRUNCATED;
            }
        }
    }
    // Another program has another library.
    let _ = TAPPED.remove(&tgid);
    lineage::enforce_posture(entry.session);
    if names & COMMAND != 0 {
        // SAFETY: the helper has no precondition.
        let task = unsafe { aya_ebpf::helpers::bpf_get_current_task() };
        let waits = wait_for_guardd(config, task, tgid, entry.start_ns, now_ns);
        scratch.head.header.flags |= FLAG_GATED | waits;
        scratch.head.header.latency_ns = emit::since(now_ns);
        // guardd goes through WAITING too, so a lost record only delays the process.
        emit::send(scratch, true, class::VERDICT);
        if waits & FLAG_SPINS != 0 {
            guard_spin(tgid, entry.start_ns);
        }
    } else {
        emit::send(scratch, false, class::ACTIVITY);
    }
    if names & AGENT != 0 {
        let (session, start_ns) = (entry.session, entry.start_ns);
        // SAFETY: the helper has no precondition.
        let task = unsafe { aya_ebpf::helpers::bpf_get_current_task() };
        report_agent(config, task, session, 0, tgid, start_ns, 0, now_ns);
    }
}

/// Whether the program was there, as it is, before the session began: an agent that writes itself a
/// program called `ssh` gains no exception by it. Unknown counts as not.
#[inline(always)]
fn is_older(exe: Address, session: u32) -> bool {
    let Some(inode) = kernel::pointer(exe, &FILE_INODE) else {
        return false;
    };
    let Some(changed_s) = kernel::read::<i64>(inode, &INODE_CTIME) else {
        return false;
    };
    let Some(state) = SESSIONS.get_ptr(session) else {
        return false;
    };
    // SAFETY: the pointer was checked.
    (changed_s as u64) < unsafe { (*state).began_s }
}
