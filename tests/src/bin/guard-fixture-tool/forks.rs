//! Children by every way there is of making one. Each opens a file, so that its lineage shows.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr, thread,
};

use serde_json::{Value, json};

use crate::calls::open_only;

/// Children of one thread of a storm that live at once.
const BATCH: usize = 40;

/// struct clone_args of <linux/sched.h>, first version with `set_tid`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
}

/// `fork` by clone3 with flags that share nothing. 0 in the child.
fn clone3(flags: libc::c_int, pid: Option<libc::pid_t>) -> io::Result<libc::pid_t> {
    let wanted = pid.unwrap_or(0);
    let mut args = CloneArgs {
        flags: flags as u64,
        // The kernel wants none with CLONE_PARENT: the parent's is used.
        exit_signal: if flags & libc::CLONE_PARENT != 0 {
            0
        } else {
            libc::SIGCHLD as u64
        },
        ..CloneArgs::default()
    };
    if pid.is_some() {
        args.set_tid = (&raw const wanted) as u64;
        args.set_tid_size = 1;
    }
    // SAFETY: as fork: no memory is shared, and the child makes system calls only until it ends.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match libc::pid_t::try_from(result) {
        Ok(pid) if pid >= 0 => Ok(pid),
        _ => Err(io::Error::last_os_error()),
    }
}

fn fork() -> io::Result<libc::pid_t> {
    // SAFETY: the child makes system calls only until it ends.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

fn end(status: libc::c_int) -> ! {
    // SAFETY: never returns.
    unsafe { libc::_exit(status) }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us both.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// In a child: tells its pid.
fn tell_pid(to: &OwnedFd) {
    // SAFETY: takes nothing.
    let pid = unsafe { libc::getpid() };
    // SAFETY: `pid` is four readable bytes.
    unsafe { libc::write(to.as_raw_fd(), (&raw const pid).cast(), size_of_val(&pid)) };
}

/// In a child: opens the file, tells its pid, ends.
fn open_and_end(path: &CString, to: &OwnedFd) -> ! {
    let opened = open_only(path);
    tell_pid(to);
    end(libc::c_int::from(!opened))
}

/// The pids that children tell, until the last end of the pipe is closed.
fn pids(from: OwnedFd) -> io::Result<Vec<u32>> {
    let mut bytes = Vec::new();
    File::from(from).read_to_end(&mut bytes)?;
    Ok(bytes
        .chunks_exact(4)
        .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
        .collect())
}

/// One child, made as `how` says, that opens `path`.
pub(crate) fn one(how: &str, path: &str) -> io::Result<Value> {
    let path = CString::new(path)?;
    let (from, to) = pipe()?;
    let pid = match how {
        "fork" | "setsid" | "double" => fork()?,
        "clone3" => clone3(0, None)?,
        // The parent waits as after vfork, but no memory is shared, which Rust could not bear. What
        // `run` does (posix_spawn) shares it.
        "vfork" => clone3(libc::CLONE_VFORK, None)?,
        "clone-parent" => clone3(libc::CLONE_PARENT, None)?,
        _ => return Err(io::Error::other(format!("no such fork: {how}"))),
    };
    if pid == 0 {
        match how {
            // SAFETY: takes nothing.
            "setsid" => drop(unsafe { libc::setsid() }),
            "double" => {
                // SAFETY: takes nothing.
                unsafe { libc::setsid() };
                if fork().unwrap_or(1) != 0 {
                    end(0);
                }
            }
            _ => {}
        }
        open_and_end(&path, &to);
    }
    drop(to);
    let pids = pids(from)?;
    if how != "clone-parent" {
        wait_for(pid)?;
    }
    Ok(json!({ "pid": pids.first() }))
}

fn wait_for(pid: libc::pid_t) -> io::Result<libc::c_int> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is valid for writing.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// A child with this very pid, which must be free, that opens `path`.
pub(crate) fn with_pid(pid: &str, path: &str) -> io::Result<Value> {
    let wanted = pid.parse().map_err(|_| io::Error::other("no pid"))?;
    let path = CString::new(path)?;
    let (from, to) = pipe()?;
    let pid = clone3(0, Some(wanted))?;
    if pid == 0 {
        open_and_end(&path, &to);
    }
    drop(to);
    let pids = pids(from)?;
    wait_for(pid)?;
    Ok(json!({ "pid": pids.first() }))
}

/// `count` short children from several threads at once, by changing ways.
pub(crate) fn storm(count: &str, threads: &str, path: &str) -> io::Result<Value> {
    let number = |text: &str| {
        text.parse::<usize>()
            .map_err(|_| io::Error::other("no number"))
    };
    let (count, threads) = (number(count)?, number(threads)?);
    let path = CString::new(path)?;
    let opened = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|n| {
                let share = count / threads + usize::from(n < count % threads);
                let path = &path;
                scope.spawn(move || gust(share, path))
            })
            .collect();
        let mut opened = 0;
        for worker in workers {
            let joined = worker.join();
            opened += joined.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))?;
        }
        Ok::<_, io::Error>(opened)
    })?;
    Ok(json!({ "forked": count, "opened": opened }))
}

fn gust(count: usize, path: &CString) -> io::Result<usize> {
    let mut opened = 0;
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        left -= batch;
        let mut children = Vec::with_capacity(batch);
        for n in 0..batch {
            let pid = match n % 4 {
                0 => clone3(0, None)?,
                1 => clone3(libc::CLONE_VFORK, None)?,
                _ => fork()?,
            };
            if pid == 0 {
                if n % 4 == 3 {
                    // SAFETY: takes nothing.
                    unsafe { libc::setsid() };
                }
                end(libc::c_int::from(!open_only(path)));
            }
            children.push(pid);
        }
        for pid in children {
            opened += usize::from(wait_for(pid)? == 0);
        }
    }
    Ok(opened)
}

fn pause_for_ever() -> ! {
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::poll(ptr::null_mut(), 0, -1) };
    }
}

/// A child that does nothing until it is killed.
pub(crate) fn idle() -> io::Result<Value> {
    let pid = fork()?;
    if pid == 0 {
        pause_for_ever();
    }
    Ok(json!({ "pid": pid }))
}

/// A child and a grandchild that do nothing.
pub(crate) fn idle_tree() -> io::Result<Value> {
    let (from, to) = pipe()?;
    let pid = fork()?;
    if pid == 0 {
        tell_pid(&to);
        if fork().unwrap_or(-1) == 0 {
            tell_pid(&to);
        }
        drop(to);
        pause_for_ever();
    }
    drop(to);
    Ok(json!({ "pids": pids(from)? }))
}

/// Sends a signal to a child that lives, and to one that has ended and that nobody has waited for.
pub(crate) fn signal_children() -> io::Result<Value> {
    let check = |result: libc::c_int| match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    };
    let child = fork()?;
    if child == 0 {
        loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    }
    // SAFETY: a child of this process, and room for what is told of it.
    unsafe {
        check(libc::kill(child, libc::SIGTERM))?;
        let mut info = std::mem::zeroed();
        let how = libc::WEXITED | libc::WNOWAIT;
        check(libc::waitid(libc::P_PID, child as u32, &mut info, how))?;
        check(libc::kill(child, libc::SIGTERM))?;
        check(libc::waitpid(child, ptr::null_mut(), 0))?;
    }
    Ok(json!({}))
}
