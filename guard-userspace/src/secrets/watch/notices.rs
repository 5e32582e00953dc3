//! What changes in directories, by inotify.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};

/// What has been told of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// A file is complete: closed after writing, moved here, linked here, or its attributes have changed.
    Complete(PathBuf),
    /// A file is being written.
    Written(PathBuf),
    /// A file has gone from here; with `true` it lives on elsewhere.
    Gone(PathBuf, bool),
    /// A directory has come.
    Directory(PathBuf),
    /// Changes were lost: the kernel's queue was full.
    Lost,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Notices {
    inotify: OwnedFd,
    watched: Mutex<Watched>,
}

#[derive(Debug, Default)]
struct Watched {
    paths: HashMap<i32, PathBuf>,
}

impl Notices {
    pub(super) fn new() -> io::Result<Self> {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        Ok(Self {
            inotify: inotify::init(flags)?,
            watched: Mutex::default(),
        })
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches one directory, not those in it.
    ///
    /// # Errors
    /// ENOSPC at the limit of `fs.inotify.max_user_watches`.
    pub(super) fn watch(&self, directory: &Path) -> Result<(), Errno> {
        let wanted = WatchFlags::CLOSE_WRITE
            | WatchFlags::MODIFY
            | WatchFlags::ATTRIB
            | WatchFlags::CREATE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW
            | WatchFlags::EXCL_UNLINK;
        // Held meanwhile, so that nothing of a watch is read that has no path yet.
        let mut watched = self.watched();
        let number = inotify::add_watch(&self.inotify, directory, wanted)?;
        watched.paths.insert(number, directory.to_owned());
        Ok(())
    }

    /// Watches nothing at and below this path any more.
    pub(super) fn leave(&self, top: &Path) {
        let mut watched = self.watched();
        let numbers: Vec<i32> = watched
            .paths
            .iter()
            .filter(|(_, path)| path.starts_with(top))
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            watched.paths.remove(&number);
            // Gone already is as good.
            let _ = inotify::remove_watch(&self.inotify, number);
        }
    }

    /// Directories that are watched.
    pub(super) fn count(&self) -> usize {
        self.watched().paths.len()
    }

    /// Waits for changes, or until `stop` can be read: then `None`.
    pub(super) fn wait(&self, stop: &OwnedFd) -> Option<Vec<Notice>> {
        loop {
            let mut ready = [
                PollFd::new(&self.inotify, PollFlags::IN),
                PollFd::new(stop, PollFlags::IN),
            ];
            match poll(&mut ready, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => return None,
            }
            if !ready[1].revents().is_empty() {
                return None;
            }
            let notices = self.read();
            if !notices.is_empty() {
                return Some(notices);
            }
        }
    }

    /// One buffer of them.
    fn read(&self) -> Vec<Notice> {
        let mut room = [MaybeUninit::uninit(); 32 << 10];
        let mut reader = inotify::Reader::new(self.inotify.as_fd(), &mut room);
        let mut notices = Vec::new();
        // More than one read is left for the next time: who sends many must not keep others waiting for their first.
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes().to_vec());
                    self.take(event.wd(), event.events(), name.as_deref(), &mut notices);
                }
                Err(Errno::INTR) => continue,
                Err(_) => break,
            }
            if reader.is_buffer_empty() {
                break;
            }
        }
        notices.dedup();
        notices
    }

    fn take(&self, number: i32, events: ReadFlags, name: Option<&[u8]>, notices: &mut Vec<Notice>) {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            notices.push(Notice::Lost);
            return;
        }
        let mut watched = self.watched();
        if events.contains(ReadFlags::IGNORED) {
            watched.paths.remove(&number);
            return;
        }
        let (Some(directory), Some(name)) = (watched.paths.get(&number), name) else {
            return;
        };
        let path = directory.join(OsStr::from_bytes(name));
        drop(watched);
        if events.contains(ReadFlags::ISDIR) {
            if events.intersects(ReadFlags::MOVED_FROM | ReadFlags::DELETE) {
                // Watches follow a directory that is moved, and would tell its old path.
                self.leave(&path);
            } else if events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                notices.push(Notice::Directory(path));
            }
        } else if events
            .intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO | ReadFlags::ATTRIB)
        {
            notices.push(Notice::Complete(path));
        } else if events.intersects(ReadFlags::MOVED_FROM | ReadFlags::DELETE) {
            notices.push(Notice::Gone(path, events.contains(ReadFlags::MOVED_FROM)));
        } else if events.intersects(ReadFlags::CREATE | ReadFlags::MODIFY) {
            notices.push(Notice::Written(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    #[test]
    fn what_happens_to_files_and_directories_is_told_with_their_paths() {
        let dir = tempfile::tempdir().unwrap();
        let (stop, ends) = rustix::pipe::pipe().unwrap();
        let notices = Notices::new().unwrap();
        notices.watch(dir.path()).unwrap();
        assert_eq!(notices.count(), 1);
        let file = dir.path().join("a.txt");
        let other = dir.path().join("b.txt");
        fs::write(&file, "x").unwrap();
        fs::rename(&file, &other).unwrap();
        fs::remove_file(&other).unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        let wanted = [
            Notice::Complete(file.clone()),
            Notice::Gone(file, true),
            Notice::Complete(other.clone()),
            Notice::Gone(other, false),
            Notice::Directory(dir.path().join("in")),
        ];
        let mut got = Vec::new();
        while !wanted.iter().all(|one| got.contains(one)) {
            got.extend(notices.wait(&stop).unwrap());
        }
        notices.leave(dir.path());
        assert_eq!(notices.count(), 0);
        // The end of the pipe ends the wait.
        let waiter = std::thread::spawn(move || while notices.wait(&stop).is_some() {});
        drop(ends);
        let ended = std::time::Instant::now();
        waiter.join().unwrap();
        assert!(ended.elapsed() < Duration::from_secs(60));
    }
}
