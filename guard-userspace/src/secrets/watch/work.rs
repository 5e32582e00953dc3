//! What the threads do.

use std::{
    fs::{self, Metadata},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    Beginner, Job, Notices, Opened, Order, Queue, Report, WatchLimits, notices::Notice,
    seen::SeenFiles,
};
use crate::{
    process,
    secrets::{Keyed, Scanner, tree::is_left_out},
};

/// Niceness of who looks at what has changed, and of who goes through trees; see setpriority(2).
const NICE_CHANGES: libc::c_int = 10;
const NICE_TREES: libc::c_int = 19;

/// Of the time of one processor a thread that may not become an ordinary one takes this share.
const SHARE: u32 = 10;
/// So much work may be done at one go before the rest that it costs.
const SPELL: Duration = Duration::from_millis(1);

/// How a thread stands to everybody else's.
#[derive(Debug)]
enum Pace {
    /// It gives way to them.
    Ordinary,
    /// It goes before them, as guardd does, and nothing lets it out of that (the packaged unit forbids the call): it works a
    /// little, and then rests for long.
    Sparing {
        /// When it began to work.
        since: Instant,
    },
}

impl Pace {
    /// Work begins, after a wait.
    fn begin(&mut self) {
        if let Self::Sparing { since } = self {
            *since = Instant::now();
        }
    }

    /// Rests for what was worked, if that was long enough. Never with a lock: the engine might wait for it.
    fn rest(&mut self) {
        if let Self::Sparing { since } = self {
            let worked = since.elapsed();
            if worked >= SPELL {
                std::thread::sleep(worked * (SHARE - 1));
                *since = Instant::now();
            }
        }
    }
}

/// What the threads have together.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queue: Mutex<Queue>,
    wake: Condvar,
    notices: Notices,
    pub(super) seen: Mutex<SeenFiles>,
    /// Made by who needs it first: that takes a while.
    scanner: OnceLock<Option<Arc<Scanner>>>,
    /// A thread of these works sparingly; see [`Pace`].
    spares: AtomicBool,
    keyed: Keyed,
    pub(super) limits: WatchLimits,
    /// What is never looked at, with all below it.
    except: PathBuf,
    reports: mpsc::Sender<Report>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(
        notices: Notices,
        keyed: Keyed,
        limits: WatchLimits,
        except: PathBuf,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        Self {
            queue: Mutex::new(Queue::within(limits)),
            wake: Condvar::new(),
            notices,
            seen: Mutex::default(),
            scanner: OnceLock::new(),
            spares: AtomicBool::new(false),
            keyed,
            limits,
            except,
            reports,
        }
    }

    /// Whether anybody wants to know.
    pub(super) fn tell(&self, report: Report) -> bool {
        self.reports.blocking_send(report).is_ok()
    }

    fn stop(&self) {
        lock(&self.queue).stopped = true;
        self.wake.notify_all();
    }

    /// Makes the thread an ordinary one of this niceness, or one that seldom works.
    fn pace(&self, nice: libc::c_int) -> Pace {
        match make_ordinary(nice) {
            Ok(()) => Pace::Ordinary,
            Err(error) => {
                // Once for all of them.
                if !self.spares.swap(true, Ordering::Relaxed) {
                    tracing::info!(
                        %error,
                        "files are searched for secrets in a {SHARE}th of one processor's time: these threads may not become ordinary ones",
                    );
                }
                Pace::Sparing {
                    since: Instant::now(),
                }
            }
        }
    }

    pub(super) fn take_orders(&self, orders: &Receiver<Order>) {
        let mut pace = self.pace(0);
        loop {
            let order = match orders.recv_timeout(Duration::from_secs(3600)) {
                Ok(order) => order,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return self.stop(),
            };
            pace.begin();
            match order {
                Order::AddTree(top) => self.add_tree(top),
                Order::DropTree(top) => self.drop_tree(&top),
                Order::Opened(opened) => self.take_opened(opened),
                Order::Session(beginner) => self.begin(*beginner),
            }
            self.wake.notify_all();
            pace.rest();
        }
    }

    fn begin(&self, beginner: Beginner) {
        let Beginner {
            session,
            pid,
            start,
            tree,
        } = beginner;
        lock(&self.queue).at_once(Job::Environment {
            session,
            pid,
            start,
        });
        let tree = tree.map_or_else(|| working_tree(pid, start), Ok);
        if let Ok(top) = &tree {
            self.add_tree(top.clone());
        }
        self.tell(Report::Session(session, tree));
    }

    fn add_tree(&self, top: PathBuf) {
        match fs::symlink_metadata(&top) {
            Ok(found) if found.is_dir() => {
                lock(&self.queue).add_tree(top.into(), found.dev());
            }
            Ok(_) => {
                self.tell(Report::Broken(format!("{}: no directory", top.display())));
            }
            Err(error) => {
                self.tell(Report::Broken(format!("{}: {error}", top.display())));
            }
        }
    }

    fn drop_tree(&self, top: &Path) {
        let others: Vec<Arc<Path>> = {
            let mut queue = lock(&self.queue);
            if !queue.drop_tree(top) {
                return;
            }
            queue.trees.values().map(|tree| tree.top.clone()).collect()
        };
        // What was told of it is forgotten; when somebody comes back to it, it is told again.
        lock(&self.seen).doubt_all();
        if others.iter().any(|other| top.starts_with(other)) {
            return;
        }
        self.notices.leave(top);
        let mut queue = lock(&self.queue);
        let inside: Vec<(u32, PathBuf)> = queue
            .trees
            .iter()
            .filter(|(_, tree)| tree.top.starts_with(top))
            .map(|(number, tree)| (*number, tree.top.to_path_buf()))
            .collect();
        // They have lost their watches with it.
        for (number, path) in inside {
            queue.add_directories(number, vec![path], true);
        }
    }

    fn take_opened(&self, opened: Box<Opened>) {
        let mut queue = lock(&self.queue);
        let Some((_, tree)) = queue.tree_of(&opened.path) else {
            return;
        };
        if opened.path.starts_with(&self.except) || is_left_out_below(&tree.top, &opened.path) {
            return;
        }
        if writes_anew(opened.flags) {
            queue.in_a_moment(opened.path, true);
        } else {
            queue.at_once(Job::Opened(opened));
        }
    }

    pub(super) fn take_notices(&self, stop: &OwnedFd) {
        let mut pace = self.pace(0);
        while let Some(notices) = self.notices.wait(stop) {
            pace.begin();
            let mut gone = Vec::new();
            let has_room = (self.notices.count() as u64) < self.limits.directories;
            let mut queue = lock(&self.queue);
            for notice in notices {
                match notice {
                    Notice::Complete(path) => queue.at_once(Job::File(path)),
                    Notice::Written(path) => queue.in_a_moment(path, false),
                    Notice::Gone(path, lives) => gone.push((path, lives)),
                    Notice::Directory(path) => {
                        if let Some((number, tree)) = queue.tree_of(&path)
                            && has_room
                            && !path.starts_with(&self.except)
                            && !is_left_out_below(&tree.top, &path.join("any"))
                        {
                            queue.add_directories(number, vec![path], true);
                        }
                    }
                    Notice::Lost => queue.all_again(),
                }
            }
            drop(queue);
            self.wake.notify_all();
            for (path, lives) in gone {
                self.tell(Report::Gone(path, lives));
            }
            pace.rest();
        }
    }

    /// Looks at files until it is over; `trees`: also at those that nobody waits for.
    pub(super) fn scan(&self, trees: bool) {
        let mut pace = self.pace(if trees { NICE_TREES } else { NICE_CHANGES });
        if trees {
            be_idle_for_disks();
        }
        while let Some(job) = self.next(trees) {
            pace.begin();
            match job {
                Job::Opened(opened) => {
                    self.look(&opened.path.clone(), Some(opened));
                }
                Job::File(path) => {
                    self.look(&path, None);
                }
                Job::Follow(path) => {
                    if self.look(&path, None) {
                        lock(&self.queue).in_a_moment(path, true);
                    }
                }
                Job::Environment {
                    session,
                    pid,
                    start,
                } => self.look_at_environment(session, pid, start),
                Job::Directory { tree, path, fresh } => {
                    self.look_at_directory(tree, &path, fresh, &mut pace);
                }
            }
            pace.rest();
        }
    }

    fn next(&self, trees: bool) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.stopped || self.reports.is_closed() {
                return None;
            }
            match queue.next(Instant::now(), trees) {
                Ok(job) => return Some(job),
                Err(until) => {
                    // Nothing of a stop can be missed: it is told under the lock.
                    let until = until.unwrap_or(Duration::from_secs(3600));
                    queue = self
                        .wake
                        .wait_timeout(queue, until)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
            }
        }
    }

    pub(super) fn scanner(&self) -> Option<&Scanner> {
        let made = self
            .scanner
            .get_or_init(|| match Scanner::built_in(self.keyed.clone()) {
                Ok(scanner) => Some(Arc::new(scanner)),
                Err(error) => {
                    self.tell(Report::Broken(error.to_string()));
                    None
                }
            });
        made.as_deref()
    }

    fn look_at_directory(&self, number: u32, directory: &Path, fresh: bool, pace: &mut Pace) {
        let device = {
            let queue = lock(&self.queue);
            let Some(tree) = queue.trees.get(&number) else {
                return;
            };
            tree.device
        };
        // Watched first: what changes while it is read is told.
        let watched = self.notices.watch(directory).is_ok();
        let mut inside = Vec::new();
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            let path = entry.path();
            if kind.is_dir() {
                if path != self.except
                    && entry.metadata().is_ok_and(|found| found.dev() == device)
                    && !is_left_out(&path)
                {
                    inside.push(path);
                }
            } else if kind.is_file() {
                let takes = lock(&self.queue)
                    .trees
                    .get_mut(&number)
                    .is_some_and(|tree| tree.takes_file(fresh));
                if takes {
                    self.look(&path, None);
                    pace.rest();
                }
            }
        }
        let walked = {
            let mut queue = lock(&self.queue);
            queue.add_directories(number, inside, fresh);
            let Some(tree) = queue.trees.get_mut(&number) else {
                return;
            };
            if !watched {
                tree.not_watched();
            }
            tree.done()
        };
        if let Some(walked) = walked {
            self.tell(Report::Walked(walked));
        }
    }
}

/// The tree that a process works in: its working directory, or the nearest above that is a repository's top.
fn working_tree(pid: u32, start: u64) -> Result<PathBuf, String> {
    let here = process::cwd(pid)
        .filter(|_| process::stat(pid).is_some_and(|stat| stat.id.start == start))
        .ok_or("its first process has ended")?;
    let same =
        |one: &Metadata, other: &Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
    match (
        fs::metadata(format!("/proc/{pid}/cwd")),
        fs::metadata(&here),
    ) {
        (Ok(there), Ok(found)) if same(&there, &found) => {}
        _ => {
            return Err(format!(
                "{} is another directory for guardd than for it",
                here.display()
            ));
        }
    }
    let top = here
        .ancestors()
        .find(|above| above.parent().is_some() && above.join(".git").symlink_metadata().is_ok())
        .unwrap_or(&here);
    if top.parent().is_none() {
        return Err("it works in /, and all of a file system is no tree of work".into());
    }
    Ok(top.to_owned())
}

/// Whether what is read by such an open is what the opener has written.
fn writes_anew(flags: u32) -> bool {
    let flags = flags.cast_signed();
    flags & libc::O_ACCMODE == libc::O_WRONLY || flags & (libc::O_TRUNC | libc::O_CREAT) != 0
}

/// Whether one of the directories between a tree's top and a file in it is left out.
fn is_left_out_below(top: &Path, path: &Path) -> bool {
    path.ancestors()
        .skip(1)
        .take_while(|above| above.starts_with(top) && *above != top)
        .any(is_left_out)
}

/// Lets everybody else's reading of disks go first, where the disk's scheduler heeds that; see ioprio_set(2). Where that is not
/// allowed the niceness says much the same.
fn be_idle_for_disks() {
    /// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/ioprio.h#L11>
    const IOPRIO_CLASS_SHIFT: libc::c_int = 13;
    const IOPRIO_CLASS_IDLE: libc::c_int = 3;
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: it has no precondition; 0 is this thread.
    unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT,
        )
    };
}

/// Takes this thread out of the realtime class that guardd may be in.
fn make_ordinary(nice: libc::c_int) -> io::Result<()> {
    // By the call itself: musl's function of this name only says that it is not there.
    // The kernel's `struct sched_param` is the priority alone.
    let none: libc::c_int = 0;
    // SAFETY: a parameter of the kernel's own shape, for this thread.
    let done = unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_OTHER,
            &raw const none,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    if nice == 0 {
        return Ok(());
    }
    // SAFETY: it has no precondition; 0 is this thread.
    let done = unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, nice) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
