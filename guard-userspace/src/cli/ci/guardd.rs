//! A guardd of a job's own: started, waited for, and ended so that nothing of it is left.

use std::{
    fs::{self, File},
    io,
    os::unix::{net::UnixDatagram, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{args::Mode, ask};
use crate::{
    cli::failure::Failure,
    process::{self, Id},
};

/// Files of a job's directory.
pub const POLICY: &str = "policy.toml";
/// See [`POLICY`].
pub const SOCKET: &str = "guard.sock";
const STATE: &str = "state";
const LOG: &str = "guardd.log";
const NOTIFY: &str = "notify.sock";

/// How long it may take until it is ready: loading its programs is the longest of it.
const READY: Duration = Duration::from_secs(60);
/// And until it has taken everything off.
const END: Duration = Duration::from_secs(20);

/// The daemon's program.
///
/// # Errors
/// When there is none.
pub fn program(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join("guardd")));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = given
        .map(Path::to_owned)
        .into_iter()
        .chain(beside.filter(|_| given.is_none()))
        .chain(
            std::env::split_paths(&on_path)
                .map(|dir| dir.join("guardd"))
                .filter(|_| given.is_none()),
        );
    found.find(|path| path.is_file()).ok_or_else(|| {
        Failure::No(
            "guardd: there is no such program beside guardctl or on PATH: install guard, or give --guardd FILE"
                .into(),
        )
    })
}

/// Starts it in a job's directory, and waits until it is ready.
///
/// # Errors
/// Why it is not, in its own words.
pub fn spawn(guardd: &Path, dir: &Path, mode: Mode) -> Result<Child, String> {
    let say = |what: &str, error: io::Error| format!("{what}: {error}");
    let notify = dir.join(NOTIFY);
    let _ = fs::remove_file(&notify);
    let told = UnixDatagram::bind(&notify).map_err(|error| say("a socket to be told by", error))?;
    told.set_read_timeout(Some(Duration::from_millis(100)))
        .map_err(|error| say("a socket to be told by", error))?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join(LOG))
        .map_err(|error| say("guardd's log", error))?;
    let mut command = Command::new(guardd);
    command
        .arg("--policy")
        .arg(dir.join(POLICY))
        .arg("--socket")
        .arg(dir.join(SOCKET))
        .arg("--state-dir")
        .arg(dir.join(STATE))
        .args(["--mode", mode.of_guardd()])
        .env("NOTIFY_SOCKET", &notify)
        .env_remove("GUARD_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .current_dir("/");
    // SAFETY: one system call between fork and exec.
    unsafe { command.pre_exec(unblock_signals) };
    let mut child = command
        .spawn()
        .map_err(|error| say(&guardd.display().to_string(), error))?;
    let deadline = Instant::now() + READY;
    let mut bytes = [0; 256];
    loop {
        if let Ok(len) = told.recv(&mut bytes)
            && bytes[..len]
                .split(|byte| *byte == b'\n')
                .any(|line| line == b"READY=1")
        {
            return Ok(child);
        }
        if let Ok(Some(status)) = child.try_wait() {
            let log = fs::read_to_string(dir.join(LOG)).unwrap_or_default();
            let last = log.lines().rev().find(|line| line.starts_with("guardd: "));
            return Err(match last {
                Some(line) => line.to_owned(),
                None => format!("guardd ended before it was ready: {status}"),
            });
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("guardd was not ready within {} s", READY.as_secs()));
        }
    }
}

/// The keeper waits for its signals by a thread and has them blocked; a child would begin so too, and not end.
fn unblock_signals() -> io::Result<()> {
    // SAFETY: a set of the kernel's own shape, emptied before it is used.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Ends a guardd, and removes the job's directory. Gives what could not be cleared away.
pub fn end(guardd: (u32, u64), dir: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let id = Id {
        pid: guardd.0,
        start: guardd.1,
    };
    if ask::lives(guardd) {
        let _ = process::signal(id, Signal::TERM);
        let deadline = Instant::now() + END;
        // Another's child may have it to wait for.
        while ask::lives(guardd) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if ask::lives(guardd) {
            left.push(format!(
                "guardd (pid {}) did not end within {} s and was killed: what it has attached ends with the job's last process",
                id.pid,
                END.as_secs()
            ));
            let _ = process::signal(id, Signal::KILL);
        }
    }
    // One that was killed leaves its file system mounted.
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for at in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(at).starts_with(dir) {
            let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
        }
    }
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        left.push(format!("{}: {error}", dir.display()));
    }
    left
}
