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
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

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
        "overlay-lower" => overlay(dir, name),
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
            for _ in 0..500 {
                let status = Command::new("/bin/true").status()?;
                if !status.success() {
                    return Err(Failed::Cannot("no /bin/true".into()));
                }
            }
            read(secret)
        }
        // --- not of the table ---
        "loop" => again_and_again(secret, Path::new(more)),
        // --- programs ---
        "execute-labelled" => {
            let copy = dir.join("labelled-program");
            output(Command::new(copy).args(["plain", "/proc/self/comm"]))
        }
        // --- guard itself ---
        "signal-guardd" => {
            let (pid, _) = numbers(more)?;
            // SIGWINCH, which guardd ignores: what is tried is whether it may be sent.
            // SAFETY: takes numbers.
            check(unsafe { libc::kill(pid as i32, libc::SIGWINCH) }.into())?;
            Ok(b"a signal to guardd".to_vec())
        }
        "resume-held" => {
            let (pid, _) = numbers(more)?;
            // SAFETY: takes numbers.
            check(unsafe { libc::kill(pid as i32, libc::SIGCONT) }.into())?;
            Ok(b"a held process went on".to_vec())
        }
        "ptrace-guardd" => {
            let (pid, _) = numbers(more)?;
            // SAFETY: takes numbers; ends with this process.
            check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid as i32, 0, 0) })?;
            Ok(b"control of guardd".to_vec())
        }
        "bpf" => {
            /// `BPF_MAP_GET_NEXT_ID`: harmless, and the first step to any table.
            const BPF_MAP_GET_NEXT_ID: libc::c_long = 12;
            let mut attr = [0u32; 4];
            // SAFETY: the structure is that long.
            check(unsafe {
                libc::syscall(libc::SYS_bpf, BPF_MAP_GET_NEXT_ID, attr.as_mut_ptr(), 16)
            })?;
            Ok(b"a table's number".to_vec())
        }
        _ => Err(Failed::Cannot(format!("{technique}: not known"))),
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

fn private_mounts() -> Result<(), Failed> {
    // SAFETY: this process has one thread.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) }.into())?;
    // SAFETY: constant strings.
    let made = unsafe {
        libc::mount(
            ptr::null(),
            c"/".as_ptr(),
            ptr::null(),
            libc::MS_PRIVATE | libc::MS_REC,
            ptr::null(),
        )
    };
    check(made.into())?;
    Ok(())
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    // SAFETY: strings that end.
    let made = unsafe {
        libc::mount(
            c(from).as_ptr(),
            c(to).as_ptr(),
            ptr::null(),
            libc::MS_BIND,
            ptr::null(),
        )
    };
    check(made.into()).map(drop)
}

fn chroot(to: &Path) -> io::Result<()> {
    // SAFETY: a string that ends.
    check(unsafe { libc::chroot(c(to).as_ptr()) }.into())?;
    env::set_current_dir("/")
}

/// A link that another thread swaps between a harmless file and the secret, 1,000 rounds.
fn race(secret: &Path, dir: &Path) -> Gives {
    let (link, next) = (dir.join("race-link"), dir.join("race-next"));
    let harmless = dir.join("race-harmless");
    fs::write(&harmless, "harmless")?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swap = || {
            while !done.load(Ordering::Relaxed) {
                for target in [harmless.as_path(), secret] {
                    let _ = fs::remove_file(&next);
                    let _ = symlink(target, &next);
                    let _ = fs::rename(&next, &link);
                }
            }
        };
        scope.spawn(swap);
        let mut got = Err(Failed::Refused(io::Error::other(
            "1,000 rounds gave nothing",
        )));
        for _ in 0..1000 {
            if let Ok(text) = fs::read(&link)
                && text != b"harmless"
            {
                got = Ok(text);
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
        got
    })
}

fn openat2(at: &File, name: &OsStr) -> Gives {
    #[repr(C)]
    struct How {
        flags: u64,
        mode: u64,
        resolve: u64,
    }
    /// `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`
    const RESOLVE: u64 = 0x08 | 0x04;
    let how = How {
        flags: 0,
        mode: 0,
        resolve: RESOLVE,
    };
    let name = c(Path::new(name));
    // SAFETY: a string that ends and a structure of the size that is given.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            at.as_raw_fd(),
            name.as_ptr(),
            &raw const how,
            size_of::<How>(),
        )
    })?;
    read_all(fd)
}

fn read_all(fd: libc::c_long) -> Gives {
    // SAFETY: the kernel has just made it.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
    let mut got = Vec::new();
    file.read_to_end(&mut got)?;
    Ok(got)
}

fn by_handle(secret: &Path) -> Gives {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let mut handle = Handle {
        bytes: 128,
        kind: 0,
        data: [0; 128],
    };
    let mut mount = 0i32;
    // SAFETY: the structure has room for as much as it says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            c(secret).as_ptr(),
            &raw mut handle,
            &raw mut mount,
            0,
        )
    };
    if result < 0 {
        let why = io::Error::last_os_error();
        return Err(Failed::Cannot(format!(
            "no handles on this file system: {why}"
        )));
    }
    let at = File::open(secret.parent().unwrap_or(Path::new("/")))?;
    // SAFETY: a handle that the kernel has filled in.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            at.as_raw_fd(),
            &raw mut handle,
            libc::O_RDONLY,
        )
    })?;
    read_all(fd)
}

fn overlay(dir: &Path, name: &OsStr) -> Gives {
    private_mounts()?;
    let at = dir.join("overlay");
    for part in ["upper", "work", "merged", "lower"] {
        fs::create_dir_all(at.join(part))?;
    }
    bind(dir, &at.join("lower"))?;
    let options = format!(
        "lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work",
        at.display()
    );
    let options = CString::new(options).unwrap_or_default();
    // SAFETY: strings that end.
    let made = unsafe {
        libc::mount(
            c"overlay".as_ptr(),
            c(&at.join("merged")).as_ptr(),
            c"overlay".as_ptr(),
            0,
            options.as_ptr().cast(),
        )
    };
    if made < 0 {
        let why = io::Error::last_os_error();
        return Err(Failed::Cannot(format!("no overlay here: {why}")));
    }
    read(&at.join("merged").join(name))
}

/// The name ends where the page ends, and the next page cannot be read.
fn at_page_end(secret: &Path) -> Gives {
    const PAGE: usize = 4096;
    let name = c(secret).into_bytes_with_nul();
    // SAFETY: two new pages, the second made unreadable; the name fits into the first.
    let fd = unsafe {
        let at = libc::mmap(
            ptr::null_mut(),
            2 * PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error().into());
        }
        let at = at.cast::<u8>();
        libc::mprotect(at.add(PAGE).cast(), PAGE, libc::PROT_NONE);
        let place = at.add(PAGE - name.len());
        ptr::copy_nonoverlapping(name.as_ptr(), place, name.len());
        libc::open(place.cast(), libc::O_RDONLY)
    };
    read_all(check(fd.into())?)
}

enum Copy {
    Sendfile,
    Splice,
}

fn through_pipe(secret: &Path, how: Copy) -> Gives {
    let from = File::open(secret)?;
    let mut ends = [0; 2];
    // SAFETY: there is room for two.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }.into())?;
    // SAFETY: the kernel has just made them.
    let (mut output, input) =
        unsafe { (File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // SAFETY: open descriptors.
    let copied = unsafe {
        match how {
            Copy::Sendfile => {
                libc::sendfile(input.as_raw_fd(), from.as_raw_fd(), ptr::null_mut(), 4096)
            }
            Copy::Splice => libc::splice(
                from.as_raw_fd(),
                ptr::null_mut(),
                input.as_raw_fd(),
                ptr::null_mut(),
                4096,
                0,
            ),
        }
    };
    check(copied as libc::c_long)?;
    drop(input);
    let mut got = Vec::new();
    output.read_to_end(&mut got)?;
    Ok(got)
}

/// Opens by a ring: no system call that opens is made.
fn uring_open(secret: &Path) -> Gives {
    #[repr(C)]
    #[derive(Default)]
    struct Params {
        sq_entries: u32,
        cq_entries: u32,
        flags: u32,
        sq_thread_cpu: u32,
        sq_thread_idle: u32,
        features: u32,
        wq_fd: u32,
        resv: [u32; 3],
        sq: [u32; 10],
        cq: [u32; 10],
    }
    const ENTER_GETEVENTS: u32 = 1;
    const OP_OPENAT: u8 = 18;
    const MAP: [libc::off_t; 3] = [0, 0x800_0000, 0x1000_0000];
    const SIZE: usize = 4096;
    let mut params = Params::default();
    // SAFETY: the structure is laid out as io_uring_setup(2) has it.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, &raw mut params) };
    if ring < 0 {
        let why = io::Error::last_os_error();
        // Refused by guard it would be EPERM; where the machine forbids it, likewise: the test tells them
        // apart by the event.
        return if why.raw_os_error() == Some(libc::ENOSYS) {
            Err(Failed::Cannot("no io_uring".into()))
        } else {
            Err(why.into())
        };
    }
    let map = |offset| {
        // SAFETY: new mappings of the ring.
        unsafe {
            libc::mmap(
                ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                ring as i32,
                offset,
            )
        }
        .cast::<u8>()
    };
    let [sq, cq, entries] = MAP.map(map);
    let path = c(secret);
    // Offsets in `sq`: head, tail, mask, entries, flags, dropped, array. In `cq`: head, tail, mask,
    // entries, overflow, cqes.
    // SAFETY: the kernel gives these offsets inside the mappings; one entry is written and one read.
    let result = unsafe {
        let entry = entries;
        ptr::write_bytes(entry, 0, 64);
        *entry = OP_OPENAT;
        *entry.add(4).cast::<i32>() = libc::AT_FDCWD;
        *entry.add(16).cast::<u64>() = path.as_ptr() as u64;
        *sq.add(params.sq[6] as usize).cast::<u32>() = 0;
        *sq.add(params.sq[1] as usize).cast::<u32>() = 1;
        check(libc::syscall(
            libc::SYS_io_uring_enter,
            ring,
            1,
            1,
            ENTER_GETEVENTS,
            ptr::null::<u8>(),
            0,
        ))?;
        *cq.add(params.cq[5] as usize + 8).cast::<i32>()
    };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result).into());
    }
    read_all(result.into())
}

/// A child that reads the secret and hands it back, made in some unusual way.
fn lineage(how: &str, secret: &Path) -> Gives {
    let mut ends = [0; 2];
    // SAFETY: there is room for two.
    check(unsafe { libc::pipe(ends.as_mut_ptr()) }.into())?;
    // SAFETY: the kernel has just made them.
    let (mut output, input) =
        unsafe { (File::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    let bytes = c(secret);
    let into = input.as_raw_fd();
    let mut stack = vec![0u8; 64 << 10];
    // SAFETY: the children below only make system calls, on memory of their own or that nobody writes,
    // and end by _exit or exec.
    unsafe {
        let pass_on = || {
            let fd = libc::open(bytes.as_ptr(), libc::O_RDONLY);
            let mut buffer = [0u8; 256];
            let length = libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len());
            if length > 0 {
                libc::write(into, buffer.as_ptr().cast(), length as usize);
            }
        };
        let fork = |flags: libc::c_int| {
            libc::syscall(
                libc::SYS_clone,
                libc::c_long::from(
                    flags
                        | if flags & libc::CLONE_PARENT == 0 {
                            libc::SIGCHLD
                        } else {
                            0
                        },
                ),
                0,
                0,
                0,
                0,
            )
        };
        match how {
            "double-fork" => {
                if check(fork(0))? == 0 {
                    if fork(0) == 0 {
                        pass_on();
                    }
                    libc::_exit(0);
                }
            }
            "setsid" => {
                if check(fork(0))? == 0 {
                    libc::setsid();
                    if fork(0) == 0 {
                        libc::setsid();
                        pass_on();
                    }
                    libc::_exit(0);
                }
            }
            "prctl-rename" => {
                libc::prctl(libc::PR_SET_NAME, c"kworker/0:1".as_ptr());
                pass_on();
            }
            "vfork" => {
                if check(fork(libc::CLONE_VFORK))? == 0 {
                    pass_on();
                    libc::_exit(0);
                }
            }
            "clone-parent" => {
                if check(fork(libc::CLONE_PARENT))? == 0 {
                    pass_on();
                    libc::_exit(0);
                }
            }
            "clone3" => {
                let mut args = [0u64; 8];
                args[4] = libc::SIGCHLD as u64;
                let pid = check(libc::syscall(libc::SYS_clone3, args.as_mut_ptr(), 64))?;
                if pid == 0 {
                    pass_on();
                    libc::_exit(0);
                }
            }
            "subreaper" => {
                libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
                if check(fork(0))? == 0 {
                    if fork(0) == 0 {
                        pass_on();
                    }
                    libc::_exit(0);
                }
            }
            "pid-namespace" => {
                if check(fork(libc::CLONE_NEWPID))? == 0 {
                    pass_on();
                    libc::_exit(0);
                }
            }
            "user-namespace" => {
                let pid = fork(libc::CLONE_NEWUSER);
                if pid < 0 {
                    return Err(Failed::Cannot("no user namespaces".into()));
                }
                if pid == 0 {
                    pass_on();
                    libc::_exit(0);
                }
            }
            "thread-exec" => {
                // In a child, whose second thread executes `cat` in the place of all of them.
                if check(fork(0))? == 0 {
                    extern "C" fn executes(given: *mut libc::c_void) -> libc::c_int {
                        // SAFETY: points to the three words below, which outlive the thread.
                        unsafe {
                            let [path, into, _] = *given.cast::<[usize; 3]>();
                            libc::dup2(into as i32, 1);
                            let args = [c"cat".as_ptr(), path as *const libc::c_char, ptr::null()];
                            libc::execv(c"/bin/cat".as_ptr(), args.as_ptr());
                            libc::_exit(1)
                        }
                    }
                    let mut given = [bytes.as_ptr() as usize, into as usize, 0];
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
            _ => {}
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

/// Has child after child open the secret until a file appears; how many did, of how many.
fn again_and_again(secret: &Path, until: &Path) -> Gives {
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

fn memfd_exec(secret: &Path) -> Gives {
    let program = fs::read("/bin/cat")?;
    // SAFETY: a constant name.
    let fd = check(unsafe { libc::memfd_create(c"x".as_ptr(), 0) }.into())?;
    // SAFETY: the kernel has just made it.
    let mut file = unsafe { File::from_raw_fd(fd as RawFd) };
    file.write_all(&program)?;
    let path = format!("/proc/self/fd/{fd}");
    output(Command::new(path).arg0("cat").arg(secret))
}
