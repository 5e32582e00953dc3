//! The forked child: waits for guardctl's word, then becomes the command.

use std::{
    ffi::{CString, OsStr},
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    ptr,
};

use rustix::process::Pid;

use crate::cli::account::Account;

/// The status of a child that was never let go. Nobody sees it: guardctl reports its own failure.
const NEVER_RELEASED: i32 = 125;

/// What the child needs.
pub struct Waiting<'a> {
    /// Says the session and a line break when the child may go; its end without that means: give up.
    pub go: OwnedFd,
    /// Takes a [`Report`]; closes by itself when the child becomes the command.
    pub report: OwnedFd,
    /// The command.
    pub argv: &'a [CString],
    /// The user to become.
    pub account: Option<&'a Account>,
}

/// Why the child did not become the command, as `errno`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Report {
    /// It could not become the user.
    User(i32),
    /// `execvp` failed.
    Exec(i32),
}

impl Report {
    fn to_bytes(self) -> [u8; 5] {
        let (stage, Self::User(errno) | Self::Exec(errno)) = (matches!(self, Self::Exec(_)), self);
        let mut bytes = [u8::from(stage), 0, 0, 0, 0];
        bytes[1..].copy_from_slice(&errno.to_ne_bytes());
        bytes
    }

    /// What a child wrote; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&stage, errno) = bytes.split_first()?;
        let errno = i32::from_ne_bytes(errno.try_into().ok()?);
        Some(if stage == 0 {
            Self::User(errno)
        } else {
            Self::Exec(errno)
        })
    }
}

/// Forks a child that waits. `parents_ends` are closed in the child.
pub fn fork(waiting: Waiting<'_>, parents_ends: [&OwnedFd; 2]) -> io::Result<Pid> {
    let parent = rustix::process::getpid();
    // SAFETY: guardctl has one thread, so the child finds no lock held by a thread that it lacks,
    // and may allocate and call the C library as usual.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            for end in parents_ends {
                // SAFETY: the child never returns from here, so neither of the owners of these
                // descriptors will use or close them again in this process.
                unsafe { libc::close(end.as_raw_fd()) };
            }
            waiting.run(parent)
        }
        pid => Pid::from_raw(pid).ok_or_else(|| io::Error::other("fork gave no pid")),
    }
}

impl Waiting<'_> {
    /// Never returns: what lies above on the stack belongs to guardctl.
    fn run(self, parent: Pid) -> ! {
        // The end of the pipe says that guardctl is gone, but only a child that is running reads
        // it; a stopped one must go too.
        set_parent_death_signal(libc::SIGKILL);
        if rustix::process::getppid() != Some(parent) {
            exit(NEVER_RELEASED);
        }
        let mut word = Vec::new();
        let session = match File::from(self.go).read_to_end(&mut word) {
            Ok(_) => word.strip_suffix(b"\n"),
            Err(_) => None,
        };
        let Some(session) = session.filter(|session| !session.is_empty()) else {
            exit(NEVER_RELEASED)
        };
        set_env("GUARD_SESSION", session);

        let report = match self.account.map_or(Ok(()), become_account) {
            Err(error) => Report::User(error.raw_os_error().unwrap_or(libc::EPERM)),
            Ok(()) => Report::Exec(exec(self.argv).raw_os_error().unwrap_or(libc::EIO)),
        };
        // If guardctl is gone there is nobody to tell.
        let _ = File::from(self.report).write_all(&report.to_bytes());
        exit(NEVER_RELEASED)
    }
}

/// Gives up root for good and takes on the user's surroundings, as `runuser -u` does: all else in
/// the environment stays.
fn become_account(account: &Account) -> io::Result<()> {
    let check = |result: libc::c_int| {
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // Groups first: without root they could not be changed any more.
    // SAFETY: the name is a string that outlives the call.
    check(unsafe { libc::initgroups(account.name.as_ptr(), account.gid) })?;
    // SAFETY: takes a number.
    check(unsafe { libc::setgid(account.gid) })?;
    // SAFETY: takes a number.
    check(unsafe { libc::setuid(account.uid) })?;
    let own = [
        ("HOME", &account.home),
        ("SHELL", &account.shell),
        ("USER", &account.name),
        ("LOGNAME", &account.name),
    ];
    for (name, value) in own {
        set_env(name, value.as_bytes());
    }
    Ok(())
}

/// Becomes the command; what returns is the error.
fn exec(argv: &[CString]) -> io::Error {
    // From here on the command lives as any child of a shell would, whatever becomes of guardctl.
    set_parent_death_signal(0);
    // Rust's runtime ignores SIGPIPE and that would be inherited: a pipeline in the command would
    // not end as it does elsewhere. All other signals are as guardctl's caller set them, since
    // guardctl changes them only after the fork.
    // SAFETY: SIG_DFL is a valid disposition, and no handler is installed by it.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let mut pointers: Vec<*const libc::c_char> = argv.iter().map(|arg| arg.as_ptr()).collect();
    pointers.push(ptr::null());
    let program = argv.first().map_or(c"", |program| program.as_c_str());
    // SAFETY: `program` is a string, and `pointers` an array of strings that ends with a null; all
    // of them outlive the call.
    unsafe { libc::execvp(program.as_ptr(), pointers.as_ptr()) };
    let error = io::Error::last_os_error();
    // execvp says EACCES as well where it found nothing but could not look into some directory of
    // PATH; a shell then says that there is no such program.
    if error.raw_os_error() == Some(libc::EACCES) && !is_somewhere(program.to_bytes()) {
        return io::Error::from_raw_os_error(libc::ENOENT);
    }
    error
}

/// Whether there is a file, executable or not, that a program of this name could mean.
fn is_somewhere(program: &[u8]) -> bool {
    if program.contains(&b'/') {
        return true;
    }
    let name = OsStr::from_bytes(program);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).exists())
}

fn set_env(name: &str, value: &[u8]) {
    if value.contains(&0) {
        return;
    }
    // SAFETY: this process has one thread, so nobody reads the environment meanwhile.
    unsafe { std::env::set_var(name, OsStr::from_bytes(value)) };
}

fn set_parent_death_signal(signal: libc::c_int) {
    // SAFETY: takes a number; 0 clears it.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) };
}

/// Ends the process without running anything that guardctl set up to run at exit, and without
/// flushing buffers that guardctl flushes too.
fn exit(status: i32) -> ! {
    // SAFETY: ends the process; nothing of it is used afterwards.
    unsafe { libc::_exit(status) }
}
