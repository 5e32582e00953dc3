//! Processes and programs that are not what they seem.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::Command,
    ptr,
};

use super::{Failed, Gives, c, check, output};

/// A child that reads the secret and hands it back, made in some unusual way.
pub(super) fn lineage(how: &str, secret: &Path) -> Gives {
    let mut ends = [0; 2];
    // SAFETY: there is room for two.
    check(unsafe { libc::pipe(ends.as_mut_ptr()) }.into())?;
    // SAFETY: the kernel has just made them.
    let (mut output, input) =
        unsafe { (File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    let path = c(secret);
    let into = input.as_raw_fd();
    let mut stack = vec![0u8; 64 << 10];
    // SAFETY: the children only make system calls, on memory of their own or that nobody writes, and end by
    // _exit or exec.
    unsafe {
        let pass_on = || {
            let fd = libc::open(path.as_ptr(), libc::O_RDONLY);
            let mut buffer = [0u8; 256];
            let length = libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len());
            if length > 0 {
                libc::write(into, buffer.as_ptr().cast(), length as usize);
            }
        };
        if how == "prctl-rename" {
            libc::prctl(libc::PR_SET_NAME, c"kworker/0:1".as_ptr());
            pass_on();
        } else {
            if how == "subreaper" {
                libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
            }
            let child = child(how);
            if child < 0 && how == "user-namespace" {
                return Err(Failed::Cannot("no user namespaces".into()));
            }
            if check(child)? == 0 {
                match how {
                    "double-fork" | "setsid" | "subreaper" => {
                        libc::setsid();
                        if fork(0) == 0 {
                            libc::setsid();
                            pass_on();
                        }
                    }
                    "thread-exec" => exec_by_thread(&path, into, &mut stack),
                    _ => pass_on(),
                }
                libc::_exit(0);
            }
        }
    }
    drop(input);
    let mut got = Vec::new();
    output.read_to_end(&mut got)?;
    if got.is_empty() {
        return Err(Failed::Refused(io::Error::other("the child gave nothing")));
    }
    Ok(got)
}

/// A child by the system call and flags that a technique is about.
fn child(how: &str) -> libc::c_long {
    match how {
        "vfork" => fork(libc::CLONE_VFORK),
        "clone-parent" => fork(libc::CLONE_PARENT),
        "pid-namespace" => fork(libc::CLONE_NEWPID),
        "user-namespace" => fork(libc::CLONE_NEWUSER),
        "clone3" => {
            let mut args = [0u64; 8];
            args[4] = libc::SIGCHLD as u64;
            // SAFETY: the structure is that long.
            unsafe { libc::syscall(libc::SYS_clone3, args.as_mut_ptr(), size_of_val(&args)) }
        }
        _ => fork(0),
    }
}

fn fork(flags: libc::c_int) -> libc::c_long {
    // With CLONE_PARENT the signal is that of the caller itself.
    let signal = if flags & libc::CLONE_PARENT == 0 {
        libc::SIGCHLD
    } else {
        0
    };
    // SAFETY: takes numbers; the child has a copy of the memory.
    unsafe {
        libc::syscall(
            libc::SYS_clone,
            libc::c_long::from(flags | signal),
            0,
            0,
            0,
            0,
        )
    }
}

/// A second thread executes `cat` in the place of all of them.
unsafe fn exec_by_thread(path: &std::ffi::CStr, into: RawFd, stack: &mut [u8]) -> ! {
    extern "C" fn executes(given: *mut libc::c_void) -> libc::c_int {
        // SAFETY: points to the two words below, which outlive the thread.
        unsafe {
            let [path, into] = *given.cast::<[usize; 2]>();
            libc::dup2(into as i32, 1);
            let args = [c"cat".as_ptr(), path as *const libc::c_char, ptr::null()];
            libc::execv(c"/bin/cat".as_ptr(), args.as_ptr());
            libc::_exit(1)
        }
    }
    let mut given = [path.as_ptr() as usize, into as usize];
    // SAFETY: the stack is the thread's alone, and the caller waits for its end.
    unsafe {
        libc::clone(
            executes,
            stack.as_mut_ptr().add(stack.len()).cast(),
            libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_FS,
            given.as_mut_ptr().cast(),
        );
        loop {
            libc::pause();
        }
    }
}

/// Has child after child open the secret until a file appears; how many did, of how many.
pub(super) fn again_and_again(secret: &Path, until: &Path) -> Gives {
    const GOT: i32 = 10;
    /// Ends by itself, should nobody end it.
    const LONGEST: std::time::Duration = std::time::Duration::from_secs(1200);
    let path = c(secret);
    let begun = std::time::Instant::now();
    let (mut tried, mut got) = (0u64, 0u64);
    while !until.exists() && begun.elapsed() < LONGEST {
        // SAFETY: the child makes two system calls and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: a string that ends.
            unsafe {
                let fd = libc::open(path.as_ptr(), libc::O_RDONLY);
                libc::_exit(if fd >= 0 { GOT } else { 0 });
            }
        }
        check(child.into())?;
        let mut status = 0;
        // SAFETY: a child of this process.
        check(unsafe { libc::waitpid(child, &mut status, 0) }.into())?;
        tried += 1;
        got += u64::from(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == GOT);
    }
    Ok(format!("{got} of {tried}").into_bytes())
}

pub(super) fn memfd_exec(secret: &Path) -> Gives {
    let program = fs::read("/bin/cat")?;
    let mut file = memory_file()?;
    file.write_all(&program)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    output(Command::new(path).arg0("cat").arg(secret))
}

/// A file that lies in memory alone.
pub(super) fn memory_file() -> io::Result<File> {
    // SAFETY: a constant name.
    let fd = check(unsafe { libc::memfd_create(c"x".as_ptr(), 0) }.into())?;
    // SAFETY: the kernel has just made it.
    Ok(unsafe { File::from_raw_fd(fd as RawFd) })
}

/// Forks and waits, `count` times.
pub(super) fn short_lives(count: i64) -> Result<(), Failed> {
    for _ in 0..count {
        let child = child_that(|| 0)?;
        wait(child)?;
    }
    Ok(())
}

/// A child that does something without memory of its own, and ends with its result.
pub(super) fn child_that(does: impl FnOnce() -> i32) -> io::Result<libc::pid_t> {
    // SAFETY: the child ends by _exit; what it does makes system calls only.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let status = does();
        // SAFETY: ends the child.
        unsafe { libc::_exit(status) };
    }
    check(child.into())?;
    Ok(child)
}

pub(super) fn wait(child: libc::pid_t) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: a child of this process.
    check(unsafe { libc::waitpid(child, &mut status, 0) }.into())?;
    Ok(status)
}

/// A setuid program that an unprivileged user of the session starts.
pub(super) fn setuid_program(copy: &Path, secret: &Path) -> Gives {
    use std::os::unix::fs::PermissionsExt as _;
    /// `nobody`.
    const NOBODY: u32 = 65_534;
    fs::copy(std::env::current_exe()?, copy)?;
    fs::set_permissions(copy, fs::Permissions::from_mode(0o4755))?;
    let mut command = Command::new(copy);
    command.uid(NOBODY).arg("plain").arg(secret);
    output(&mut command).map(super::stripped)
}

/// Forks until the kernel begins with the lowest pids again, and has a child with a pid that was another's read
/// the secret. `limit` is the machine's largest pid.
pub(super) fn pid_wrap(secret: &Path, limit: u32) -> Gives {
    /// Beyond it, it takes too long.
    const MOST: u32 = 70_000;
    if limit > MOST {
        return Err(Failed::Cannot(format!(
            "pids go to {limit}: it takes too long until they come round"
        )));
    }
    let mut last = 0;
    for _ in 0..2 * limit {
        let child = child_that(|| 0)?;
        wait(child)?;
        if child < last {
            let path = secret.to_string_lossy().into_owned();
            return output(Command::new("cat").arg(path));
        }
        last = child;
    }
    Err(Failed::Cannot("pids did not come round".into()))
}

/// No process can be made any more, guard's neither; then the secret.
pub(super) fn exhaust_pids(secret: &Path) -> Gives {
    const MOST: usize = 40_000;
    let parent = std::process::id();
    let mut children = Vec::new();
    let mut refused = false;
    for _ in 0..MOST {
        let made = child_that(|| {
            // SAFETY: takes numbers; waits for its end, or for its parent's.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // It may have ended before.
                if libc::getppid() as u32 == parent {
                    libc::pause();
                }
            }
            0
        });
        match made {
            Ok(child) => children.push(child),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                refused = true;
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let got = super::read(secret);
    for child in children {
        // SAFETY: a child of this process.
        unsafe { libc::kill(child, libc::SIGKILL) };
        let _ = wait(child);
    }
    if refused {
        got
    } else {
        Err(Failed::Cannot("there are too many pids".into()))
    }
}

/// Memory goes to a child until the kernel kills for it; then the secret.
pub(super) fn exhaust_memory(secret: &Path) -> Gives {
    // The agent's own choice: whom the kernel kills for it, as for any program.
    let _ = fs::write("/proc/self/oom_score_adj", "0");
    let child = child_that(|| {
        const PIECE: usize = 16 << 20;
        loop {
            // SAFETY: a new mapping; every page of it is written.
            unsafe {
                let at = libc::mmap(
                    ptr::null_mut(),
                    PIECE,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                );
                if at == libc::MAP_FAILED {
                    return 1;
                }
                // Where it can be, by two megabytes at once: an emulated processor takes long over each page.
                libc::madvise(at, PIECE, libc::MADV_HUGEPAGE);
                for page in (0..PIECE).step_by(4096) {
                    at.cast::<u8>().add(page).write_volatile(1);
                }
            }
        }
    })?;
    let status = wait(child)?;
    if !libc::WIFSIGNALED(status) {
        return Err(Failed::Cannot("nobody was killed for it".into()));
    }
    super::read(secret)
}
