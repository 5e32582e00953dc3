//! The scanner at work beside the engine: it goes through trees once, then looks at what changes in them, and tells in which
//! files there are secrets.
//!
//! Four threads, all of them ordinary ones whatever guardd's own scheduling is, or where that is not allowed seldom at work: one
//! takes orders, one reads what inotify tells, and two look at files, one of them only at what has changed or been opened, so
//! that a tree of any size keeps nobody waiting.
//! The engine gives orders and gets reports by bounded channels and takes no lock that one of them holds: it runs before
//! ordinary threads, and would wait for one that does not get to run.

mod look;
mod notices;
mod queue;
mod seen;
#[cfg(test)]
mod tests;
mod tree;
mod work;

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, mpsc as orders},
    thread,
};

use guard_common::event::Header;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use self::{
    notices::Notices,
    queue::{Job, Queue},
    work::Shared,
};
use super::{Hash, Keyed, Limits};

/// Orders that wait; more opens are not looked at, and counted.
const ORDERS: usize = 8192;
/// Reports that wait; then the scanner does.
pub const REPORTS: usize = 1024;

/// What the scanner may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchLimits {
    /// Bytes from a file's beginning that are read.
    pub bytes: usize,
    /// Files of one tree that are looked at when it is gone through.
    pub files: u64,
    /// Directories of one tree.
    pub directories: u64,
}

impl Default for WatchLimits {
    /// 4 MiB, 200,000, 50,000.
    fn default() -> Self {
        Self {
            bytes: Limits::default().bytes,
            files: 200_000,
            directories: 50_000,
        }
    }
}

/// An open that the kernel has told because nobody knew what was in the file.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Who, when.
    pub fields: Header,
    /// Its path.
    pub path: PathBuf,
    /// Device, as the kernel has it.
    pub dev: u32,
    /// Inode.
    pub ino: u64,
    /// `O_*`.
    pub flags: u32,
}

/// A secret in a file, as much as is kept of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brief {
    /// Whose.
    pub provider: Arc<str>,
    /// Which of theirs.
    pub kind: Arc<str>,
    /// From 1.
    pub line: u32,
    /// Keyed hash of the value.
    pub hash: Hash,
}

/// A file that was read.
#[derive(Debug)]
pub struct ScannedFile {
    /// Its path.
    pub path: PathBuf,
    /// Device, as stat(2) has it.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// `i_generation`, where the file system tells it.
    pub generation: Option<u32>,
    /// Names that it has.
    pub links: u64,
    /// When it was changed last, seconds and nanoseconds.
    pub changed: (i64, i64),
    /// What counts as a secret in it.
    pub secrets: Vec<Brief>,
    /// Who had opened it before.
    pub opened: Option<Box<Opened>>,
}

/// A variable of an environment that holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its secret; the line means nothing.
    pub secret: Brief,
}

/// A tree that has been gone through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Its top.
    pub top: Arc<Path>,
    /// Files that were looked at.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Directories beyond the limit.
    pub beyond: u64,
    /// Files beyond the limit.
    pub files_beyond: u64,
    /// Directories whose changes are not told, since inotify has no room.
    pub unwatched: u64,
}

/// What the scanner has to tell.
#[derive(Debug)]
pub enum Report {
    /// A file with secrets, one that has had some, or one that somebody has opened.
    File(Box<ScannedFile>),
    /// A file that is as it was when it was told last.
    Same {
        /// Its path now.
        path: PathBuf,
        /// Device, as stat(2) has it.
        dev: u64,
        /// Inode.
        ino: u64,
        /// Who had opened it.
        opened: Option<Box<Opened>>,
    },
    /// Nothing has this path any more; with `true` the file has another one now.
    Gone(PathBuf, bool),
    /// A tree has been gone through.
    Walked(Walked),
    /// The tree that a session works in, or why it has none.
    Session(u32, Result<PathBuf, String>),
    /// The environment of a session's first process.
    Environment(u32, Vec<Variable>),
    /// It does not work, and why.
    Broken(String),
}

/// An order.
#[derive(Debug)]
enum Order {
    AddTree(PathBuf),
    DropTree(PathBuf),
    Opened(Box<Opened>),
    Session(Box<Beginner>),
}

/// A session whose files are to be searched.
#[derive(Clone, Debug)]
pub struct Beginner {
    /// Its number.
    pub session: u32,
    /// Its first process.
    pub pid: u32,
    /// When that began, in ticks.
    pub start: u64,
    /// The tree that it works in, where that is known from before.
    pub tree: Option<PathBuf>,
}

/// The scanner; it ends with this.
#[derive(Debug)]
pub struct Watch {
    orders: orders::SyncSender<Order>,
    /// Its other end ends the reading of notices when this one is closed.
    _stop: OwnedFd,
}

impl Watch {
    /// Starts the threads, which never look at what is at or below `except`: guardd writes there.
    ///
    /// # Errors
    /// When there is no inotify, or no thread.
    pub fn start(
        keyed: Keyed,
        limits: WatchLimits,
        except: PathBuf,
        reports: mpsc::Sender<Report>,
    ) -> io::Result<Self> {
        let (ends, stop) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (sender, receiver) = orders::sync_channel(ORDERS);
        let shared = Arc::new(Shared::new(Notices::new()?, keyed, limits, except, reports));
        let spawn = |name: &str, work: Box<dyn FnOnce(&Shared) + Send>| {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || work(&shared))
        };
        spawn(
            "guard-orders",
            Box::new(move |shared| shared.take_orders(&receiver)),
        )?;
        spawn(
            "guard-notices",
            Box::new(move |shared| shared.take_notices(&ends)),
        )?;
        spawn("guard-changes", Box::new(|shared| shared.scan(false)))?;
        spawn("guard-trees", Box::new(|shared| shared.scan(true)))?;
        Ok(Self {
            orders: sender,
            _stop: stop,
        })
    }

    /// Goes through a tree and looks at what changes in it from then on. Says whether the order was taken, as do the others.
    pub fn add_tree(&self, top: &Path) -> bool {
        self.order(Order::AddTree(top.to_owned()))
    }

    /// And no longer.
    pub fn drop_tree(&self, top: &Path) -> bool {
        self.order(Order::DropTree(top.to_owned()))
    }

    /// Looks at a file that was opened, at once; at one that was opened to be written, when it has been.
    pub fn opened(&self, opened: Opened) -> bool {
        self.order(Order::Opened(Box::new(opened)))
    }

    /// Watches the tree that the first process of a session stands in, and looks through the environment that it was started
    /// with.
    pub fn session(&self, beginner: Beginner) -> bool {
        self.order(Order::Session(Box::new(beginner)))
    }

    fn order(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }
}
