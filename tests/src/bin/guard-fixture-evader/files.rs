//! Ways to a file by other paths, mounts and calls.

use std::{
    env,
    ffi::{CString, OsStr},
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::{PermissionsExt as _, symlink},
    },
    path::Path,
    ptr,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::{Failed, Gives, c, check, read, read_all};

pub(super) fn private_mounts() -> Result<(), Failed> {
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

pub(super) fn bind(from: &Path, to: &Path) -> io::Result<()> {
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

pub(super) fn chroot(to: &Path) -> io::Result<()> {
    // SAFETY: a string that ends.
    check(unsafe { libc::chroot(c(to).as_ptr()) }.into())?;
    env::set_current_dir("/")
}

/// A link that another thread swaps between a harmless file and the secret: at least 1,000 rounds, and on until
/// an open has come out otherwise than harmless, for a race that was never run proves nothing.
pub(super) fn race(secret: &Path, dir: &Path) -> Gives {
    const ROUNDS: u32 = 1000;
    const LONGEST: Duration = Duration::from_secs(20);
    let (link, next) = (dir.join("race-link"), dir.join("race-next"));
    let harmless = dir.join("race-harmless");
    fs::write(&harmless, "harmless")?;
    let _ = fs::remove_file(&link);
    symlink(&harmless, &link)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swap = || {
            while !done.load(Ordering::Relaxed) {
                for target in [secret, harmless.as_path()] {
                    let _ = fs::remove_file(&next);
                    let _ = symlink(target, &next);
                    let _ = fs::rename(&next, &link);
                }
            }
        };
        scope.spawn(swap);
        let begun = Instant::now();
        let mut refused = None;
        let mut got = None;
        let mut round = 0;
        while got.is_none() && (round < ROUNDS || refused.is_none()) && begun.elapsed() < LONGEST {
            round += 1;
            match fs::read(&link) {
                Ok(text) if text == b"harmless" => {}
                Ok(text) => got = Some(text),
                Err(error) => refused = Some(error),
            }
        }
        done.store(true, Ordering::Relaxed);
        match (got, refused) {
            (Some(text), _) => Ok(text),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(Failed::Refused(io::Error::other(format!(
                "the link never led to the secret in {round} rounds"
            )))),
        }
    })
}

pub(super) fn openat2(at: &File, name: &OsStr) -> Gives {
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

pub(super) fn by_handle(secret: &Path) -> Gives {
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

/// By an overlay that has the file in its lower layer; or, made to copy it up, in its upper one.
pub(super) fn overlay(dir: &Path, name: &OsStr, copied_up: bool) -> Gives {
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
    let merged = at.join("merged").join(name);
    if copied_up {
        // A change of its permissions copies it.
        fs::set_permissions(&merged, fs::Permissions::from_mode(0o600))?;
        return read(&at.join("upper").join(name));
    }
    read(&merged)
}

/// A descriptor that somebody outside sends over the socket that is standard input.
pub(super) fn received() -> Gives {
    let mut byte = [0u8; 1];
    let mut word = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = [0u64; 8];
    // SAFETY: all zeros are a message without anything; what is set points to what lives as long.
    let fd = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut word;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        check(libc::recvmsg(0, &mut message, 0) as libc::c_long)?;
        let header = libc::CMSG_FIRSTHDR(&message);
        if header.is_null() {
            return Err(Failed::Cannot("no descriptor came".into()));
        }
        libc::CMSG_DATA(header).cast::<i32>().read_unaligned()
    };
    let mut got = vec![0; 4096];
    // SAFETY: as long as the buffer.
    let length = check(unsafe { libc::pread(fd, got.as_mut_ptr().cast(), 4096, 0) } as _)?;
    got.truncate(length as usize);
    Ok(got)
}

/// Fills what guard tells with opens of a file that is only noted, from several threads, and goes on with it
/// while it opens the secret.
pub(super) fn flood(secret: &Path, noted: &Path) -> Gives {
    const OPENS: usize = 5_000;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..OPENS {
                    let _ = File::open(noted);
                }
            });
        }
        // In the middle of it, as long as a file is open to say so.
        for _ in 0..OPENS / 4 {
            let _ = File::open(noted);
        }
        read(secret)
    })
}

/// Until there is no room left; whoever tries this removes the file.
pub(super) fn fill_disk(secret: &Path, filler: &Path) -> Gives {
    let mut file = File::create(filler)?;
    let chunk = vec![1u8; 1 << 20];
    while file.write_all(&chunk).is_ok() {}
    // To the last byte.
    while file.write_all(b"x").is_ok() {}
    read(secret)
}

/// Something that somebody else will execute.
pub(super) fn left_for_others(path: &Path) -> Gives {
    const LINE: &[u8] = b"true\n";
    let mut file = File::options().append(true).create(true).open(path)?;
    file.write_all(LINE)?;
    Ok(LINE.to_vec())
}

/// The name ends where the page ends, and the next page cannot be read.
pub(super) fn at_page_end(secret: &Path) -> Gives {
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

pub(super) enum Copy {
    Sendfile,
    Splice,
}

pub(super) fn through_pipe(secret: &Path, how: Copy) -> Gives {
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
