//! The terminals of the session's user, as `wall` writes to them. Written and never read, and never waited for; and
//! none that an agent reads, since to it the text would be what a command of its own has printed.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{ErrorKind, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{super::link::Told, Context, Held, Notice, Part, users};
use crate::{
    policy::Terminal,
    wire::{HeraldReply, HeraldRequest, Reply},
};

/// How long a terminal that takes nothing may make the next ones wait.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long looking for terminals and writing to them may take in all.
const IN_ALL: Duration = Duration::from_secs(5);
/// Where consoles and serial lines are if not here: a service may have a `/dev` of its own, with pseudo-terminals alone.
const OF_THE_MACHINE: &str = "/proc/1/root";
/// Major numbers of terminals: consoles and serial lines, and pseudo-terminals.
/// <https://github.com/torvalds/linux/blob/v6.12/Documentation/admin-guide/devices.txt>
const CONSOLES: u32 = 4;
/// See [`CONSOLES`].
const PSEUDO: std::ops::RangeInclusive<u32> = 136..=143;

pub(super) async fn run(
    settings: Terminal,
    context: Context,
    part: Part,
    mut notices: mpsc::Receiver<Notice>,
) {
    let settings = Arc::new(settings);
    part.ok();
    while let Some(notice) = notices.recv().await {
        // What stands on a terminal stays there.
        let Notice::Held(held, None) = notice else {
            continue;
        };
        let members = match members(&context).await {
            Ok(members) => members,
            Err(why) => {
                part.dropped(why);
                continue;
            }
        };
        let settings = settings.clone();
        let telling = held.clone();
        let writing = tokio::task::spawn_blocking(move || tell(&settings, &telling, &members));
        match tokio::time::timeout(IN_ALL, writing).await {
            Ok(Ok(Ok(()))) => {
                super::told(&context, &part, &held, String::new()).await;
                part.sent();
            }
            Ok(Ok(Err(why))) => part.dropped(why),
            Ok(Err(error)) => part.dropped(error.to_string()),
            Err(_) => part.dropped(format!(
                "finding and writing to the terminals took more than {} s",
                IN_ALL.as_secs()
            )),
        }
    }
}

async fn members(context: &Context) -> Result<HashSet<u32>, String> {
    match context.link.herald(HeraldRequest::Members).await {
        Ok(Told::Reply(Reply::Herald(HeraldReply::Members { pids }))) => {
            Ok(pids.into_iter().collect())
        }
        Ok(Told::Reply(other)) => Err(super::super::unexpected(&other).to_string()),
        Ok(Told::Refused(why)) => Err(why),
        Err(error) => Err(format!("guardd: {error}")),
    }
}

/// Writes to all of the users' terminals. It is done when one of them has taken it.
fn tell(settings: &Terminal, held: &Held, members: &HashSet<u32>) -> Result<(), String> {
    let users = users::of(&held.info, &settings.users)?;
    let theirs: HashSet<u32> = users.iter().copied().collect();
    let agents = kept_by(members);
    let message = message(&held.text, settings.bell);
    let (mut taken, mut problem) = (0, None);
    for path in everywhere() {
        if agents.contains(&path) {
            continue;
        }
        match write(&path, &theirs, &message) {
            Ok(Some(())) => taken += 1,
            Ok(None) => {}
            Err(error) => {
                let shown = path.strip_prefix(OF_THE_MACHINE).unwrap_or(&path);
                let shown = Path::new("/").join(shown);
                let why = if error.kind() == ErrorKind::PermissionDenied {
                    "it takes no messages: 'mesg y' there lets guard write".to_owned()
                } else {
                    error.to_string()
                };
                problem = Some(format!("{}: {why}", shown.display()));
            }
        }
    }
    match (taken, problem) {
        (0, Some(problem)) => Err(format!("no terminal took it: {problem}")),
        (0, None) => Err(format!(
            "{}: no terminal of theirs is open: nobody was told of {}",
            users::names(&users),
            held.id()
        )),
        _ => Ok(()),
    }
}

/// The text between two empty lines. Of the text every character is one that a terminal only shows; terminals in raw
/// mode do not return by themselves.
fn message(text: &str, bell: bool) -> Vec<u8> {
    let mut out = String::from(if bell { "\x07\r\n" } else { "\r\n" });
    for line in text.lines() {
        out.extend(line.chars().filter(|c| !c.is_control()));
        out.push_str("\r\n");
    }
    out.push_str("\r\n");
    out.into_bytes()
}

/// Every terminal of this machine.
fn everywhere() -> Vec<PathBuf> {
    let own = Path::new("/dev");
    let mut found = all(own);
    let machine = Path::new(OF_THE_MACHINE).join("dev");
    let id = |dir: &Path| {
        let meta = fs::metadata(dir).ok()?;
        Some((meta.dev(), meta.ino()))
    };
    if id(&machine).is_some_and(|theirs| Some(theirs) != id(own)) {
        found.extend(consoles(&machine));
    }
    found
}

/// Every terminal's path.
fn all(dev: &Path) -> Vec<PathBuf> {
    let numbered = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    let mut all: Vec<PathBuf> = named(dev.join("pts"), numbered).collect();
    all.extend(consoles(dev));
    all
}

fn named(dir: PathBuf, good: fn(&str) -> bool) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter(move |entry| entry.file_name().to_str().is_some_and(good));
    names.map(|entry| entry.path())
}

/// Consoles and serial lines.
fn consoles(dev: &Path) -> impl Iterator<Item = PathBuf> {
    let console = |name: &str| {
        name.strip_prefix("tty").is_some_and(|rest| {
            !rest.is_empty()
                && rest
                    .trim_start_matches('S')
                    .bytes()
                    .all(|b| b.is_ascii_digit())
        })
    };
    named(dev.to_owned(), console)
}

/// Pseudo-terminals whose other end some of these processes hold: what is written there they read.
fn kept_by(members: &HashSet<u32>) -> HashSet<PathBuf> {
    let mut kept = HashSet::new();
    for pid in members {
        let entries = fs::read_dir(format!("/proc/{pid}/fd"));
        for entry in entries.into_iter().flatten().flatten() {
            let is_master = fs::read_link(entry.path()).is_ok_and(|to| to.ends_with("ptmx"));
            if !is_master {
                continue;
            }
            let info = format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_string_lossy());
            let info = fs::read_to_string(info).unwrap_or_default();
            // <https://github.com/torvalds/linux/blob/v6.12/drivers/tty/pty.c#L721>
            let index = info
                .lines()
                .find_map(|line| line.strip_prefix("tty-index:")?.trim().parse::<u32>().ok());
            kept.extend(index.map(|index| PathBuf::from(format!("/dev/pts/{index}"))));
        }
    }
    kept
}

/// Whether a process of somebody who has logged in has this terminal. One that waits for a login has nobody's.
fn is_sat_at(rdev: u64) -> bool {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    // As /proc/PID/stat has it.
    // <https://github.com/torvalds/linux/blob/v6.12/include/linux/kdev_t.h#L37>
    let number = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
    let processes = procfs::process::all_processes();
    processes.into_iter().flatten().flatten().any(|process| {
        process.stat().is_ok_and(|stat| stat.tty_nr as u32 == number)
            // Of a kernel that does not say it is assumed.
            && process.loginuid().map_or(true, |uid| uid != u32::MAX)
    })
}

/// Writes to one terminal if it is one of theirs.
fn write(path: &Path, users: &HashSet<u32>, message: &[u8]) -> std::io::Result<Option<()>> {
    // Others' need not be opened, and cannot be by a service that has no more rights than it needs.
    match fs::symlink_metadata(path) {
        Ok(meta) if !users.contains(&meta.uid()) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    // Without blocking: a line without a carrier would be waited for. And it does not become our own terminal.
    let opened = File::options()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NOFOLLOW)
        .open(path);
    let mut file = match opened {
        Ok(file) => file,
        // Its other end is closed just now.
        Err(error)
            if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::EIO) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    let major = rustix::fs::major(meta.rdev());
    let is_terminal =
        meta.file_type().is_char_device() && (major == CONSOLES || PSEUDO.contains(&major));
    if !is_terminal || !users.contains(&meta.uid()) {
        return Ok(None);
    }
    // Those where nobody is logged in are root's, and take everything.
    if major == CONSOLES && !is_sat_at(meta.rdev()) {
        return Ok(None);
    }
    let deadline = Instant::now() + PATIENCE;
    let mut rest = message;
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => rest = &rest[n..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if Instant::now() >= deadline {
                    let why = "it is stopped, or its reader does not read";
                    return Err(std::io::Error::new(ErrorKind::TimedOut, why));
                }
                // Nothing wakes who waits for room in a stopped terminal.
                std::thread::sleep(Duration::from_millis(5));
            }
            // Hung up.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbered_terminals_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pts")).unwrap();
        for name in [
            "pts/0",
            "pts/12",
            "pts/ptmx",
            "tty",
            "tty1",
            "ttyS0",
            "ttyprintk",
            "null",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let mut names: Vec<String> = all(dir.path())
            .iter()
            .map(|path| path.strip_prefix(dir.path()).unwrap().display().to_string())
            .collect();
        names.sort();
        assert_eq!(names, ["pts/0", "pts/12", "tty1", "ttyS0"]);
    }

    #[test]
    fn a_message_has_no_control_characters_but_its_bell_and_line_ends() {
        let out = String::from_utf8(message("one\x1b[2J\u{9b}\ntwo\n", true)).unwrap();
        assert_eq!(out, "\x07\r\none[2J\r\ntwo\r\n\r\n");
        assert!(!message("a\n", false).contains(&7));
    }

    #[test]
    fn what_is_no_terminal_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0");
        fs::write(&path, "").unwrap();
        let owner = fs::metadata(&path).unwrap().uid();
        let users = HashSet::from([owner]);
        assert_eq!(write(&path, &users, b"text").unwrap(), None);
        assert_eq!(fs::read(&path).unwrap(), b"");
    }
}
