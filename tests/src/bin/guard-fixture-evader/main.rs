//! Tries one technique of the evasion suite: `guard-fixture-evader TECHNIQUE SECRET [MORE]`. What it gets
//! hold of it prints behind `got `; it exits with 77, and says why, when the technique cannot be tried here.
//!
//! Everything ends by itself: no loop is without a bound, and what is forked is waited for.

use std::{
    env,
    ffi::{CString, OsStr},
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{OpenOptionsExt as _, symlink},
        },
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    ptr,
};

mod files;
mod library;
mod network;
mod own;
mod processes;
mod says;
mod uring;

use files::{
    Copy, at_page_end, bind, by_handle, chroot, fill_disk, flood, left_for_others, openat2,
    overlay, private_mounts, race, received, through_pipe,
};
use processes::{
    again_and_again, exhaust_memory, exhaust_pids, lineage, memfd_exec, pid_wrap, setuid_program,
    short_lives,
};
use uring::{uring_open, uring_openat2};

/// "Cannot be tried here", as automake's tests say it.
const CANNOT: u8 = 77;

/// Why a technique gave nothing.
enum Failed {
    /// It cannot be tried here.
    Cannot(String),
    /// The kernel refused.
    Refused(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Refused(error)
    }
}

type Gives = Result<Vec<u8>, Failed>;

fn main() -> ExitCode {
    let args: Vec<_> = env::args_os().collect();
    let (Some(technique), Some(secret)) = (args.get(1).and_then(|arg| arg.to_str()), args.get(2))
    else {
        eprintln!("guard-fixture-evader TECHNIQUE SECRET [MORE]");
        return ExitCode::FAILURE;
    };
    let secret = Path::new(secret);
    let more = args.get(3).map(OsStr::new).unwrap_or_default();
    let given = attempt(technique, secret, more);
    let mut out = io::stdout();
    match given {
        Ok(bytes) => {
            let _ = out.write_all(b"got ");
            let _ = out.write_all(&bytes);
            ExitCode::SUCCESS
        }
        Err(Failed::Cannot(why)) => {
            let _ = writeln!(out, "cannot {why}");
            ExitCode::from(CANNOT)
        }
        Err(Failed::Refused(error)) => {
            let _ = writeln!(out, "refused {error}");
            ExitCode::SUCCESS
        }
    }
}

fn attempt(technique: &str, secret: &Path, more: &OsStr) -> Gives {
    let dir = secret.parent().unwrap_or(Path::new("/"));
    let name = secret.file_name().unwrap_or_default();
    let own = |suffix: &str| dir.join(format!("{technique}-{suffix}"));
    match technique {
        // --- paths ---
        "plain" => read(secret),
        "relative" => {
            env::set_current_dir(dir)?;
            read(Path::new(name))
        }
        "dot-dot" => {
            fs::create_dir_all(own("dir"))?;
            read(&own("dir").join("..").join(".").join(name))
        }
        "symlink" => {
            symlink(secret, own("link"))?;
            read(&own("link"))
        }
        "symlink-race" => race(secret, dir),
        "hard-link" => {
            fs::hard_link(secret, own("link"))?;
            read(&own("link"))
        }
        "rename-before-open" => {
            fs::rename(secret, own("moved"))?;
            let got = read(&own("moved"));
            fs::rename(own("moved"), secret)?;
            got
        }
        "bind-mount" => {
            private_mounts()?;
            fs::write(own("at"), "")?;
            bind(secret, &own("at"))?;
            read(&own("at"))
        }
        "mount-namespace" => {
            private_mounts()?;
            fs::create_dir_all(own("dir"))?;
            bind(dir, &own("dir"))?;
            chroot(&own("dir"))?;
            read(&Path::new("/").join(name))
        }
        "proc-self-root" => {
            let mut path = PathBuf::from("/proc/self/root");
            path.push(secret.strip_prefix("/").unwrap_or(secret));
            read(&path)
        }
        "o-path-then-proc-fd" | "o-path-then-dev-fd" => {
            let opened = File::options()
                .read(true)
                .custom_flags(libc::O_PATH)
                .open(secret)?;
            let at = if technique == "o-path-then-dev-fd" {
                if !Path::new("/dev/fd").exists() {
                    symlink("/proc/self/fd", "/dev/fd")?;
                }
                "/dev/fd"
            } else {
                "/proc/self/fd"
            };
            read(&Path::new(at).join(opened.as_raw_fd().to_string()))
        }
        "openat2-resolve" => {
            let at = File::open(dir)?;
            openat2(&at, name)
        }
        "open-by-handle" => by_handle(secret),
        "overlay-lower" => overlay(dir, name, false),
        "overlay-upper" => overlay(dir, name, true),
        "path-of-255-bytes" => read(&dir.join(format!("{}.pem", "n".repeat(251)))),
        "path-over-4096-bytes" => {
            // One level at a time: no call takes such a path.
            env::set_current_dir(dir)?;
            let level = "d".repeat(200);
            for _ in 0..25 {
                let _ = fs::create_dir(&level);
                env::set_current_dir(&level)?;
            }
            let got = fs::write("deep.pem", more.as_bytes());
            got?;
            read(Path::new("deep.pem"))
        }
        "name-not-utf8" => {
            let name = [b"\xff\xfe", b".pem".as_slice()].concat();
            let path = dir.join(OsStr::from_bytes(&name));
            read(&path)
        }
        "file-made-after-the-policy" => read(&dir.join("late.pem")),
        "name-at-the-end-of-a-page" => at_page_end(secret),
        // --- other ways to the bytes ---
        "sendfile" => through_pipe(secret, Copy::Sendfile),
        "splice" => through_pipe(secret, Copy::Splice),
        "copy-file-range" => {
            let (from, to) = (File::open(secret)?, File::create(own("copy"))?);
            // SAFETY: two descriptors that are open.
            let copied = unsafe {
                libc::copy_file_range(
                    from.as_raw_fd(),
                    ptr::null_mut(),
                    to.as_raw_fd(),
                    ptr::null_mut(),
                    4096,
                    0,
                )
            };
            check(copied as libc::c_long)?;
            read(&own("copy"))
        }
        "mmap" => {
            let file = File::open(secret)?;
            let length = file.metadata()?.len() as usize;
            // SAFETY: a new private mapping of an open file.
            let at = unsafe {
                libc::mmap(
                    ptr::null_mut(),
                    length,
                    libc::PROT_READ,
                    libc::MAP_PRIVATE,
                    file.as_raw_fd(),
                    0,
                )
            };
            if at == libc::MAP_FAILED {
                return Err(io::Error::last_os_error().into());
            }
            // SAFETY: it is that long.
            Ok(unsafe { std::slice::from_raw_parts(at.cast::<u8>(), length) }.to_vec())
        }
        "io-uring-open" => uring_open(secret),
        "io-uring-openat2" => uring_openat2(secret),
        "inherited-descriptor" => {
            let mut got = Vec::new();
            io::stdin().read_to_end(&mut got)?;
            Ok(got)
        }
        "pidfd-getfd" => {
            let (pid, fd) = numbers(more)?;
            // SAFETY: takes numbers.
            let pidfd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
            // SAFETY: as above.
            let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, fd, 0) })?;
            let mut got = vec![0; 4096];
            // SAFETY: as long as the buffer.
            let length =
                check(unsafe { libc::pread(fd as RawFd, got.as_mut_ptr().cast(), 4096, 0) } as _)?;
            got.truncate(length as usize);
            Ok(got)
        }
        "process-vm-readv" => {
            let (pid, at) = numbers(more)?;
            let mut got = vec![0u8; 64];
            let local = libc::iovec {
                iov_base: got.as_mut_ptr().cast(),
                iov_len: got.len(),
            };
            let remote = libc::iovec {
                iov_base: at as *mut _,
                iov_len: got.len(),
            };
            // SAFETY: the local buffer is that long; the kernel checks the other.
            check(unsafe { libc::process_vm_readv(pid as i32, &local, 1, &remote, 1, 0) } as _)?;
            Ok(got)
        }
        "proc-mem" => {
            use std::os::unix::fs::FileExt as _;
            let (pid, at) = numbers(more)?;
            let mut got = vec![0u8; 64];
            File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut got, at as u64)?;
            Ok(got)
        }
        "proc-environ" => {
            let (pid, _) = numbers(more)?;
            read(Path::new(&format!("/proc/{pid}/environ")))
        }
        "ptrace-attach" => {
            let (pid, at) = numbers(more)?;
            // SAFETY: numbers; what is attached to goes on when this process ends.
            check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid as i32, 0, 0) })?;
            let _ = at;
            Ok(b"control of the process".to_vec())
        }
        // --- lineage ---
        "double-fork" | "setsid" | "vfork" | "clone-parent" | "clone3" | "subreaper"
        | "pid-namespace" | "user-namespace" | "thread-exec" | "prctl-rename" => {
            lineage(technique, secret)
        }
        "nohup" => output(Command::new("/bin/sh").args([
            "-c",
            "trap '' HUP; exec cat \"$0\"",
            &secret.to_string_lossy(),
        ])),
        "memfd-exec" => memfd_exec(secret),
        "ld-so" => {
            let loader = Path::new("/lib64/ld-linux-x86-64.so.2");
            if !loader.exists() {
                return Err(Failed::Cannot("no dynamic loader".into()));
            }
            let me = env::current_exe()?;
            output(Command::new(loader).arg(me).arg("plain").arg(secret)).map(stripped)
        }
        "script" => {
            fs::write(own("sh"), format!("cat '{}'\n", secret.display()))?;
            output(Command::new("/bin/sh").arg(own("sh")))
        }
        "copied-binary" => {
            fs::copy(env::current_exe()?, own("innocent"))?;
            output(Command::new(own("innocent")).arg("plain").arg(secret)).map(stripped)
        }
        "many-processes" => {
            short_lives(numbers(more)?.0)?;
            read(secret)
        }
        "thread" => {
            let path = secret.to_owned();
            let thread = std::thread::spawn(move || fs::read(path));
            let read = thread.join().map_err(|_| io::Error::other("it panicked"))?;
            Ok(read?)
        }
        "setuid-program" => setuid_program(&own("setuid"), secret),
        "pid-wrap" => pid_wrap(secret, numbers(more)?.0 as u32),
        "exhaust-pids" => exhaust_pids(secret),
        "exhaust-memory" => exhaust_memory(secret),
        // --- not of the table ---
        "loop" => again_and_again(secret, Path::new(more)),
        // --- programs ---
        "execute-labelled" => {
            let copy = dir.join("labelled-program");
            output(Command::new(copy).args(["plain", "/proc/self/comm"]))
        }
        "proc-fd-outside" => {
            let (pid, fd) = numbers(more)?;
            read(Path::new(&format!("/proc/{pid}/fd/{fd}")))
        }
        "descriptor-by-socket" => received(),
        "flood" => flood(secret, &dir.join("noted")),
        "fill-disk" => fill_disk(secret, &dir.join("filler")),
        "startup-file" => left_for_others(&dir.join(".bashrc")),
        "git-hook" => left_for_others(&dir.join(".git/hooks/pre-commit")),
        "crontab" => left_for_others(&dir.join("crontab")),
        "spool" => left_for_others(&dir.join("spool/a0001")),
        _ => network::attempt(technique, &more.to_string_lossy())
            .or_else(|| own::attempt(technique, more))
            .or_else(|| says::attempt(technique, dir, &more.to_string_lossy()))
            .unwrap_or_else(|| Err(Failed::Cannot(format!("{technique}: not known")))),
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn numbers(text: &OsStr) -> io::Result<(i64, i64)> {
    let text = text.to_string_lossy();
    let mut words = text.split(':').map(|word| word.parse().unwrap_or(0));
    Ok((words.next().unwrap_or(0), words.next().unwrap_or(0)))
}

fn read(path: &Path) -> Gives {
    Ok(fs::read(path)?)
}

/// What another evader has printed, without its `got `.
fn stripped(text: Vec<u8>) -> Vec<u8> {
    text.strip_prefix(b"got ")
        .map(<[u8]>::to_vec)
        .unwrap_or_default()
}

fn output(command: &mut Command) -> Gives {
    let output = command.output()?;
    if output.stdout.is_empty() && !output.status.success() {
        return Err(Failed::Refused(io::Error::other(format!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        ))));
    }
    Ok(output.stdout)
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

fn read_all(fd: libc::c_long) -> Gives {
    // SAFETY: the kernel has just made it.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
    let mut got = Vec::new();
    file.read_to_end(&mut got)?;
    Ok(got)
}
