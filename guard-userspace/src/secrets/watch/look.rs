//! One file, and one environment.

use std::{
    fs::{self, File, Metadata},
    io,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::Path,
    time::SystemTime,
};

use zeroize::Zeroize as _;

use super::{
    Brief, Opened, Report, ScannedFile, Variable,
    seen::{Known, State},
    work::{Shared, lock},
};
use crate::{
    process,
    secrets::{FileOutcome, Found, Limits, Scanner, file::open_to_scan, is_fixture},
};

/// An environment that is longer is not looked at beyond this; see execve(2).
const MAX_ENVIRONMENT: u64 = 2 << 20;

impl Shared {
    /// Looks at a file, if it is not known as it is. Says whether it was read.
    pub(super) fn look(&self, path: &Path, opened: Option<Box<Opened>>) -> bool {
        let Some(top) = lock(&self.queue)
            .tree_of(path)
            .map(|(_, tree)| tree.top.clone())
        else {
            return false;
        };
        let Ok(found) = fs::symlink_metadata(path) else {
            return false;
        };
        // In another mount namespace the same path is another file.
        if !found.is_file() || opened.as_ref().is_some_and(|open| open.ino != found.ino()) {
            return false;
        }
        let known = lock(&self.seen).known(found.dev(), found.ino(), State::of(&found));
        let had = match known {
            Known::Same => {
                self.tell_same(path, &found, opened);
                return false;
            }
            Known::Not { had } => had,
        };
        let Some(scanner) = self.scanner() else {
            return false;
        };
        let read_at = SystemTime::now();
        let Ok(file) = open_to_scan(path) else {
            return false;
        };
        let Ok(before) = file.metadata() else {
            return false;
        };
        let mut secrets = Vec::new();
        let name = path.strip_prefix(&top).unwrap_or(path);
        // A tree that is itself a directory of tests is what its session works on.
        let counts = !is_fixture(name);
        let limits = Limits {
            bytes: self.limits.bytes,
        };
        let outcome = scanner.scan_open_file(&file, path, limits, &mut |one| {
            if counts {
                secrets.push(brief(one));
            }
        });
        if matches!(outcome, FileOutcome::Failed(_) | FileOutcome::Special) {
            return false;
        }
        let state = State::of(&before);
        lock(&self.seen).note(
            before.dev(),
            before.ino(),
            state,
            read_at,
            !secrets.is_empty(),
        );
        if file
            .metadata()
            .is_ok_and(|after| State::of(&after) != state)
        {
            lock(&self.queue).in_a_moment(path.to_owned(), false);
        }
        if had || !secrets.is_empty() || opened.is_some() {
            self.tell(Report::File(Box::new(ScannedFile {
                path: path.to_owned(),
                dev: before.dev(),
                ino: before.ino(),
                generation: inode_generation(&file),
                links: before.nlink(),
                changed: (before.ctime(), before.ctime_nsec()),
                secrets,
                opened,
            })));
        }
        true
    }

    fn tell_same(&self, path: &Path, found: &Metadata, opened: Option<Box<Opened>>) {
        let has = lock(&self.seen).has(found.dev(), found.ino());
        if has {
            self.tell(Report::Same {
                path: path.to_owned(),
                dev: found.dev(),
                ino: found.ino(),
                opened,
            });
        }
    }

    pub(super) fn look_at_environment(&self, session: u32, pid: u32, start: u64) {
        let Some(scanner) = self.scanner() else {
            return;
        };
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::with_capacity(64 << 10);
            let file = File::open(format!("/proc/{pid}/environ"))?;
            io::Read::read_to_end(&mut io::Read::take(file, MAX_ENVIRONMENT), &mut bytes)?;
            Ok(bytes)
        };
        let Ok(mut bytes) = read() else {
            return;
        };
        // Read before it is compared: the number may have gone to another process.
        let same = process::stat(pid).is_some_and(|stat| stat.id.start == start);
        let variables = if same {
            variables(scanner, &bytes)
        } else {
            Vec::new()
        };
        bytes.zeroize();
        if same {
            self.tell(Report::Environment(session, variables));
        }
    }
}

/// Variables of an environment that hold secrets, one secret each.
pub(super) fn variables(scanner: &Scanner, bytes: &[u8]) -> Vec<Variable> {
    let mut variables: Vec<Variable> = Vec::new();
    scanner.scan_bytes(Path::new("environ"), bytes, &mut |found| {
        let at = usize::try_from(found.start)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let begins = memchr::memrchr(0, &bytes[..at]).map_or(0, |nul| nul + 1);
        let Some(equals) = memchr::memchr(b'=', &bytes[begins..at]) else {
            return;
        };
        let name = String::from_utf8_lossy(&bytes[begins..begins + equals]).into_owned();
        if variables.iter().all(|known| known.name != name) {
            variables.push(Variable {
                name,
                secret: brief(found),
            });
        }
    });
    variables
}

fn brief(found: Found) -> Brief {
    Brief {
        provider: found.provider,
        kind: found.kind,
        line: found.line,
        hash: found.hash,
    }
}

/// `i_generation`, from file systems that tell it.
fn inode_generation(file: &File) -> Option<u32> {
    /// `FS_IOC_GETVERSION`: <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/fs.h#L261>
    const FS_IOC_GETVERSION: libc::c_ulong = 0x8008_7601;
    let mut version: libc::c_long = 0;
    // SAFETY: the call writes an int, for which there is room.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_GETVERSION as _, &raw mut version) };
    (result == 0).then_some(version as u32)
}
