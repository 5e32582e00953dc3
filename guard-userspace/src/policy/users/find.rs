//! Finding and reading users' files. guardd runs as root and these files lie where the user, and so any agent of
//! theirs, decides what a name leads to.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, mpsc},
    time::Duration,
};

use rustix::fs::{CWD, Mode, OFlags};

use super::super::{Part, Source, files};

/// Where the file lies in a home.
pub const FILE: &str = ".config/guard/policy.toml";
/// The longest that is read.
pub const MAX_BYTES: u64 = 64 << 10;

/// A user with a home.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Name.
    pub name: String,
    /// User.
    pub uid: u32,
    /// Main group.
    pub gid: u32,
    /// Home directory, as /etc/passwd has it.
    pub home: PathBuf,
}

impl Account {
    /// Where their file is, if there is one.
    pub fn file(&self) -> PathBuf {
        self.home.join(FILE)
    }
}

/// What tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// As stat(2) tells it.
    pub dev: u64,
    /// As stat(2) tells it.
    pub ino: u64,
    size: u64,
    /// Seconds and nanoseconds: no user can set this one back.
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &fs::Metadata) -> Self {
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// What was found at the place of a user's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No file.
    Nothing,
    /// Its text.
    File(Part, Stamp),
    /// Something that is not read, and why, in one line.
    Refused(String, Option<Stamp>),
}

impl Found {
    /// How the file lay there.
    pub fn stamp(&self) -> Option<Stamp> {
        match self {
            Self::Nothing => None,
            Self::File(_, stamp) => Some(stamp.clone()),
            Self::Refused(_, stamp) => stamp.clone(),
        }
    }
}

/// The users of a passwd(5) file, each uid once, that have a home of their own.
pub fn accounts(passwd: &Path) -> Vec<Account> {
    let text = fs::read(passwd).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut accounts: Vec<Account> = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else {
            continue;
        };
        let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else {
            continue;
        };
        // -1 is nobody's uid, and stands for everybody in the kernel's tables.
        if uid == u32::MAX
            || !home.starts_with('/')
            || home.trim_matches('/').is_empty()
            || accounts.iter().any(|other| other.uid == uid)
        {
            continue;
        }
        accounts.push(Account {
            name: (*name).to_owned(),
            uid,
            gid,
            home: home.into(),
        });
    }
    accounts
}

/// Users whose home has not answered yet: they are not asked again until it has.
static WAITING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Looks for a user's file and reads it: with that user's rights, without following a link or crossing into another
/// file system below the home, and for no longer than `patience`, whatever the home may be: on another machine, or
/// behind a program of the user's.
pub fn look(account: &Account, patience: Duration) -> Found {
    let waiting = || WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    let silent = || {
        let why = format!("{}: the home does not answer", account.file().display());
        Found::Refused(why, None)
    };
    if waiting().contains(&account.uid) {
        return silent();
    }
    waiting().push(account.uid);
    let (sender, receiver) = mpsc::sync_channel(1);
    let asked = account.clone();
    // A thread of its own: the rights are the thread's, and it may have to be left behind.
    let started = std::thread::Builder::new()
        .name("user-policy".into())
        .spawn(move || {
            let found = look_as_user(&asked);
            let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.retain(|uid| *uid != asked.uid);
            drop(waiting);
            // Nobody waits any more: then nobody needs it.
            let _ = sender.send(found);
        });
    if let Err(error) = started {
        waiting().retain(|uid| *uid != account.uid);
        return Found::Refused(format!("{}: {error}", account.file().display()), None);
    }
    receiver.recv_timeout(patience).unwrap_or_else(|_| silent())
}

fn look_as_user(account: &Account) -> Found {
    // SAFETY: system calls that change this thread alone (the C library has no wrapper that changes all), which ends
    // after this.
    // A guardd without CAP_SETUID, as its unit has it, reads with its own rights: what is opened belongs to the user and
    // is no link out of the home, so that nothing of others is read by it.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, account.gid);
        libc::syscall(libc::SYS_setfsuid, account.uid);
    }
    let path = account.file();
    let refused = |why: String, stamp| Found::Refused(format!("{}: {why}", path.display()), stamp);
    match open(account) {
        Ok(None) => Found::Nothing,
        Err(error) => refused(format!("cannot be read: {error}"), None),
        Ok(Some(Err(why))) => refused(why, None),
        Ok(Some(Ok(file))) => {
            let meta = match file.metadata() {
                Ok(meta) => meta,
                Err(error) => return refused(error.to_string(), None),
            };
            let stamp = Stamp::of(&meta);
            let why = if !meta.is_file() {
                "not a regular file".to_owned()
            } else if meta.uid() != account.uid {
                format!("it belongs to uid {}, not to {}", meta.uid(), account.name)
            } else if meta.mode() & 0o022 != 0 {
                "others may write to it: chmod go-w it".to_owned()
            } else if meta.len() > MAX_BYTES {
                format!("longer than {} KiB", MAX_BYTES >> 10)
            } else {
                let mut bytes = Vec::new();
                match file.take(MAX_BYTES).read_to_end(&mut bytes) {
                    Err(error) => error.to_string(),
                    Ok(_) => match files::text(Source::File(path.clone()), bytes) {
                        Ok(part) => return Found::File(part, stamp),
                        Err(error) => return Found::Refused(error.one_line(), Some(stamp)),
                    },
                }
            };
            refused(why, Some(stamp))
        }
    }
}

/// Opens the file. `Ok(None)` where there is none.
fn open(account: &Account) -> io::Result<Option<Result<File, String>>> {
    let absent = |error: rustix::io::Errno| {
        use rustix::io::Errno;
        // A home that others may not enter, or that is not there, has no file for us.
        matches!(error, Errno::NOENT | Errno::NOTDIR)
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let home = match rustix::fs::openat(CWD, &account.home, flags, Mode::empty()) {
        Ok(home) => File::from(home),
        // Not even the user can enter it: nobody of theirs has put a file there.
        Err(error) if absent(error) || error == rustix::io::Errno::ACCESS => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // /usr/sbin and the like, the home of many a service: nothing of that user's lies there.
    if home.metadata()?.uid() != account.uid {
        return Ok(None);
    }
    let link = "a link leads there: links are not followed; put the file itself there";
    let elsewhere = "it lies on another file system than the home: put it into the home";
    // One part after the other, and not openat2, which is not there for a service that may make no setuid files
    // (RestrictSUIDSGID): systemd's filter cannot look into its arguments.
    let device = home.metadata()?.dev();
    let (directories, name) = FILE.rsplit_once('/').unwrap_or(("", FILE));
    let mut directory = home;
    for part in directories.split('/') {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        directory = match rustix::fs::openat(&directory, part, flags, Mode::empty()) {
            Ok(found) => found.into(),
            Err(error) if absent(error) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let meta = directory.metadata()?;
        if meta.is_symlink() {
            return Ok(Some(Err(link.into())));
        }
        if !meta.is_dir() {
            return Ok(None);
        }
        if meta.dev() != device {
            return Ok(Some(Err(elsewhere.into())));
        }
    }
    let flags =
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file: File = match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
        Ok(file) => file.into(),
        Err(error) if absent(error) => return Ok(None),
        Err(rustix::io::Errno::LOOP) => return Ok(Some(Err(link.into()))),
        Err(error) => return Err(error.into()),
    };
    if file.metadata()?.dev() != device {
        return Ok(Some(Err(elsewhere.into())));
    }
    Ok(Some(Ok(file)))
}
