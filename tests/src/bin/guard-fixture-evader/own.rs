//! Attempts on guard itself.

use std::{
    ffi::OsStr,
    fs, io,
    io::Write as _,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Failed, Gives, c, check, numbers, output};

/// Files of guard's, in `MORE`: `policy=…;file=…;state=…;pins=…`.
fn named(more: &str, name: &str) -> Result<PathBuf, Failed> {
    more.split(';')
        .find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
        .ok_or_else(|| Failed::Cannot(format!("guard has no {name} here")))
}

fn done(what: &str) -> Gives {
    Ok(what.as_bytes().to_vec())
}

pub(super) fn attempt(technique: &str, more: &OsStr) -> Option<Gives> {
    let text = more.to_string_lossy();
    let signal = |signal| {
        let (pid, _) = numbers(more)?;
        // SAFETY: takes numbers.
        check(unsafe { libc::kill(pid as i32, signal) }.into())?;
        done("a signal")
    };
    Some(match technique {
        // SIGWINCH, which guardd ignores: what is tried is whether it may be sent.
        "signal-guardd" | "signal-outside" => signal(libc::SIGWINCH),
        "kill-guardd" => signal(libc::SIGKILL),
        "stop-guardd" => signal(libc::SIGSTOP),
        "resume-held" => signal(libc::SIGCONT),
        "ptrace-guardd" => (|| {
            let (pid, _) = numbers(more)?;
            // SAFETY: takes numbers; ends with this process.
            check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid as i32, 0, 0) })?;
            done("control of guardd")
        })(),
        "bpf" => bpf_next_id(),
        "bpf-open-pin" => named(&text, "pins").and_then(|pins| bpf_open(&pins)),
        "write-policy" => named(&text, "policy").and_then(|path| write(&path)),
        "write-state" => named(&text, "file").and_then(|path| write(&path)),
        "truncate-state" => named(&text, "file").and_then(|path| truncate(&path)),
        "remove-state" => named(&text, "file").and_then(|path| {
            fs::remove_file(path)?;
            done("a file less")
        }),
        "create-state" => named(&text, "state").and_then(|dir| {
            fs::write(dir.join("planted"), "")?;
            done("a file more")
        }),
        "replace-policy" => named(&text, "policy").and_then(|path| {
            let other = path.with_extension("other");
            fs::copy(&path, &other)?;
            fs::rename(other, path)?;
            done("another policy")
        }),
        "cover-state" => named(&text, "state").and_then(|path| {
            super::private_mounts()?;
            super::bind(Path::new("/proc"), &path)?;
            done("something else in its place")
        }),
        "remove-pins" => named(&text, "pins").and_then(|pins| remove_pin(&pins)),
        "unmount-pins" => named(&text, "pins").and_then(|pins| unmount(&pins)),
        "answer-hold" => answer(&text),
        "flood-socket" => flood_socket(&text),
        "set-clock" => set_clock(),
        _ => return None,
    })
}

fn bpf(command: libc::c_long, attr: &mut [u64; 4]) -> io::Result<libc::c_long> {
    // SAFETY: the structure is that long, and what it points to lives.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) })
}

fn bpf_next_id() -> Gives {
    /// `BPF_MAP_GET_NEXT_ID`: harmless, and the first step to any table.
    const BPF_MAP_GET_NEXT_ID: libc::c_long = 12;
    let mut attr = [0u32; 4];
    // SAFETY: the structure is that long.
    check(unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_GET_NEXT_ID, attr.as_mut_ptr(), 16) })?;
    done("a table's number")
}

/// The first step to taking an attachment off, or to writing a table.
fn bpf_open(pins: &Path) -> Gives {
    const BPF_OBJ_GET: libc::c_long = 7;
    let pin = first_in(pins)?;
    let path = c(&pin);
    bpf(BPF_OBJ_GET, &mut [path.as_ptr() as u64, 0, 0, 0])?;
    done("a descriptor of what is pinned")
}

fn first_in(pins: &Path) -> Result<PathBuf, Failed> {
    let entry = fs::read_dir(pins)?.filter_map(Result::ok).next();
    entry
        .map(|entry| entry.path())
        .ok_or_else(|| Failed::Cannot("nothing is pinned".into()))
}

fn remove_pin(pins: &Path) -> Gives {
    fs::remove_file(first_in(pins)?)?;
    done("a pin less")
}

fn unmount(pins: &Path) -> Gives {
    // The file system above them.
    let at = pins
        .ancestors()
        .find(|path| path.ends_with("bpf"))
        .ok_or_else(|| Failed::Cannot("no BPF file system".into()))?;
    // SAFETY: a string that ends.
    check(unsafe { libc::umount2(c(at).as_ptr(), libc::MNT_DETACH) }.into())?;
    done("no pins any more")
}

fn write(path: &Path) -> Gives {
    fs::File::options().append(true).open(path)?;
    done("it, open for writing")
}

fn truncate(path: &Path) -> Gives {
    // SAFETY: a string that ends.
    check(unsafe { libc::truncate(c(path).as_ptr(), 1) }.into())?;
    done("most of it gone")
}

/// `MORE` is `GUARDCTL;SOCKET;HOLD`.
fn answer(more: &str) -> Gives {
    let mut words = more.split(';');
    let mut word = || words.next().unwrap_or_default();
    let (guardctl, socket, hold) = (word(), word(), word());
    output(Command::new(guardctl).args(["--socket", socket, "approve", hold]))
}

/// A day ahead; the test sets it back.
fn set_clock() -> Gives {
    const DAY: libc::time_t = 86_400;
    // SAFETY: structures of the kernel's own shape.
    unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        check(libc::clock_gettime(libc::CLOCK_REALTIME, &mut now).into())?;
        now.tv_sec += DAY;
        check(libc::clock_settime(libc::CLOCK_REALTIME, &now).into())?;
    }
    done("another time")
}

/// As many connections as it gets, each with something on it that is no request.
fn flood_socket(text: &str) -> Gives {
    let socket = text.split(';').nth(1).unwrap_or_default();
    let mut connections = Vec::new();
    for _ in 0..300 {
        let Ok(mut connection) = UnixStream::connect(socket) else {
            break;
        };
        let _ = connection.write_all(b"{\"never\": \"a request\"\n\0\xff");
        connections.push(connection);
    }
    let secret = std::env::args_os().nth(2).unwrap_or_default();
    Ok(fs::read(secret)?)
}
