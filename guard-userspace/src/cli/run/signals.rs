//! Signals sent to guardctl while a command runs under it.
//!
//! What a *process* sends (a supervisor's SIGTERM, a `kill` by hand) is meant for the command and
//! handed on. What the *kernel* sends (Ctrl-C, Ctrl-\, a hangup) goes to the whole foreground
//! process group, so the command has it already; handing it on would make one Ctrl-C two, which
//! means "quit" to some agents. SIGTSTP is left alone: Ctrl-Z stops both, and the shell's `fg`
//! continues both. SIGCONT is not handed on, on purpose: it would let a process go on that guard
//! holds.

use std::{
    mem, ptr,
    sync::atomic::{AtomicI32, Ordering},
};

use rustix::process::Pid;

/// Signals that would otherwise end guardctl before its command.
const FORWARDED: [libc::c_int; 6] = [
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
];

/// The command, or 0 while there is none.
static CHILD: AtomicI32 = AtomicI32::new(0);

/// From now on signals go to this process.
pub fn forward_to(child: Pid) {
    CHILD.store(child.as_raw_pid(), Ordering::SeqCst);
    for signal in FORWARDED {
        // SAFETY: sigaction is plain data for which zero is a value.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: `action` is valid for writing; a null new action only asks.
        unsafe { libc::sigaction(signal, ptr::null(), &mut action) };
        // A caller that ignores a signal (nohup, a script's background job) has the command ignore
        // it too.
        if action.sa_sigaction == libc::SIG_IGN {
            continue;
        }
        action.sa_sigaction = hand_on as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        // SAFETY: `hand_on` has the signature that SA_SIGINFO asks for and does only what a signal
        // handler may; `action` is valid.
        unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
    }
}

/// From now on signals that were forwarded are dropped.
pub fn forward_no_more() {
    CHILD.store(0, Ordering::SeqCst);
}

/// Async-signal-safe: an atomic, `kill`, and `errno` put back as it was.
extern "C" fn hand_on(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo_t.
    let from_kernel = unsafe { (*info).si_code } > 0;
    let child = CHILD.load(Ordering::SeqCst);
    if from_kernel || child == 0 {
        return;
    }
    // SAFETY: errno's location is valid for this thread, and `child` is not reaped before CHILD is
    // cleared, so it still is our child.
    unsafe {
        let errno = libc::__errno_location();
        let saved = *errno;
        libc::kill(child, signal);
        *errno = saved;
    }
}
