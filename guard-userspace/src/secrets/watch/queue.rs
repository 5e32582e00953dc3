//! What is to be looked at, in order and within bounds: what somebody waits for, what has changed, what is new.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Opened, WatchLimits, tree::Tree};

/// Files that wait; more are found again by going through their trees.
const MAX_FILES: usize = 65_536;
/// How long a file that is being written is left in peace, so that one that grows line by line is not read for each.
pub(super) const PAUSE: Duration = Duration::from_millis(250);

/// One piece of work.
#[derive(Debug)]
pub(super) enum Job {
    /// A file that somebody has opened before it was looked at.
    Opened(Box<Opened>),
    /// A file that has changed.
    File(PathBuf),
    /// A file that was opened to be written: looked at until it does not change any more.
    Follow(PathBuf),
    /// What the environment of a session's first process holds.
    Environment { session: u32, pid: u32, start: u64 },
    /// One directory of a tree; `fresh`: one that has come since the tree was gone through.
    Directory {
        tree: u32,
        path: PathBuf,
        fresh: bool,
    },
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub(super) stopped: bool,
    limits: WatchLimits,
    pub(super) trees: BTreeMap<u32, Tree>,
    next_tree: u32,
    now: VecDeque<Job>,
    later: BTreeMap<(Instant, u64), Job>,
    /// Paths in `later`.
    waiting: HashSet<PathBuf>,
    next_later: u64,
    /// Tree, path, and whether it is fresh.
    directories: VecDeque<(u32, PathBuf, bool)>,
    /// Something did not fit: every tree is gone through again.
    again: bool,
}

impl Queue {
    pub(super) fn within(limits: WatchLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Something that is to be done at once.
    pub(super) fn at_once(&mut self, job: Job) {
        if self.now.len() < MAX_FILES {
            self.now.push_back(job);
        } else {
            self.again = true;
        }
    }

    /// A file that is to be looked at in a moment, unless it is waiting already.
    pub(super) fn in_a_moment(&mut self, path: PathBuf, follow: bool) {
        if self.waiting.contains(&path) {
            return;
        }
        if self.later.len() >= MAX_FILES {
            self.again = true;
            return;
        }
        self.waiting.insert(path.clone());
        self.next_later += 1;
        let job = if follow {
            Job::Follow(path)
        } else {
            Job::File(path)
        };
        self.later
            .insert((Instant::now() + PAUSE, self.next_later), job);
    }

    /// Something was not told: every tree is gone through again, once all that is known is done.
    pub(super) fn all_again(&mut self) {
        self.again = true;
    }

    fn begin_again(&mut self) {
        self.again = false;
        for (number, tree) in &mut self.trees {
            tree.begin();
            self.directories
                .push_back((*number, tree.top.to_path_buf(), false));
        }
    }

    /// A new tree; `None` where it is there already.
    pub(super) fn add_tree(&mut self, top: Arc<Path>, device: u64) -> Option<u32> {
        if self.trees.values().any(|tree| tree.top == top) {
            return None;
        }
        self.next_tree += 1;
        let number = self.next_tree;
        self.directories
            .push_back((number, top.to_path_buf(), false));
        self.trees
            .insert(number, Tree::new(top, device, self.limits));
        Some(number)
    }

    pub(super) fn drop_tree(&mut self, top: &Path) -> bool {
        let before = self.trees.len();
        self.trees.retain(|_, tree| *tree.top != *top);
        self.directories
            .retain(|(number, ..)| self.trees.contains_key(number));
        self.trees.len() != before
    }

    /// The innermost tree that a path lies in.
    pub(super) fn tree_of(&self, path: &Path) -> Option<(u32, &Tree)> {
        self.trees
            .iter()
            .filter(|(_, tree)| path.starts_with(&tree.top))
            .max_by_key(|(_, tree)| tree.top.as_os_str().len())
            .map(|(number, tree)| (*number, tree))
    }

    /// Directories of a tree that are to be gone through; those that its bounds allow.
    pub(super) fn add_directories(&mut self, number: u32, found: Vec<PathBuf>, fresh: bool) {
        let Some(tree) = self.trees.get_mut(&number) else {
            return;
        };
        for path in found {
            if tree.takes_directory(fresh) {
                self.directories.push_back((number, path, fresh));
            }
        }
    }

    /// What comes next: for `trees` also directories. Or how long until then.
    pub(super) fn next(&mut self, now: Instant, trees: bool) -> Result<Job, Option<Duration>> {
        if let Some(job) = self.now.pop_front() {
            return Ok(job);
        }
        let due = self.later.first_key_value().map(|(key, _)| *key);
        if let Some(key) = due.filter(|(at, _)| *at <= now)
            && let Some(job) = self.later.remove(&key)
        {
            if let Job::File(path) | Job::Follow(path) = &job {
                self.waiting.remove(path);
            }
            return Ok(job);
        }
        if self.again && self.directories.is_empty() {
            self.begin_again();
        }
        if trees && let Some((tree, path, fresh)) = self.directories.pop_front() {
            return Ok(Job::Directory { tree, path, fresh });
        }
        Err(due.map(|(at, _)| at.saturating_duration_since(now)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(job: Result<Job, Option<Duration>>) -> String {
        match job {
            Ok(Job::File(path) | Job::Follow(path) | Job::Directory { path, .. }) => {
                path.display().to_string()
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn what_somebody_waits_for_comes_before_what_has_changed_and_that_before_what_is_new() {
        let mut queue = Queue::default();
        let now = Instant::now();
        assert_eq!(queue.add_tree(Path::new("/a").into(), 1), Some(1));
        assert_eq!(queue.add_tree(Path::new("/a").into(), 1), None);
        queue.in_a_moment("/a/log".into(), false);
        queue.in_a_moment("/a/log".into(), false);
        queue.at_once(Job::File("/a/new".into()));
        let later = now + PAUSE * 2;
        assert_eq!(path(queue.next(now, false)), "/a/new");
        assert!(queue.next(now, false).unwrap_err().is_some());
        assert_eq!(path(queue.next(later, true)), "/a/log");
        assert_eq!(path(queue.next(later, true)), "/a");
        assert_eq!(queue.next(later, true).unwrap_err(), None);
    }

    #[test]
    fn what_does_not_fit_is_found_again_by_going_through_the_trees() {
        let mut queue = Queue::default();
        queue.add_tree(Path::new("/a").into(), 1);
        let now = Instant::now();
        assert_eq!(path(queue.next(now, true)), "/a");
        for _ in 0..=MAX_FILES {
            queue.at_once(Job::File("/a/x".into()));
        }
        for _ in 0..MAX_FILES {
            assert_eq!(path(queue.next(now, true)), "/a/x");
        }
        assert_eq!(path(queue.next(now, true)), "/a");
        assert!(queue.next(now, true).is_err());
    }

    #[test]
    fn what_was_lost_while_a_tree_is_gone_through_has_it_gone_through_once_more() {
        let mut queue = Queue::within(WatchLimits::default());
        queue.add_tree(Path::new("/a").into(), 1);
        let now = Instant::now();
        for _ in 0..100 {
            queue.all_again();
        }
        assert_eq!(path(queue.next(now, true)), "/a");
        queue.add_directories(1, vec!["/a/b".into()], false);
        queue.all_again();
        assert_eq!(path(queue.next(now, true)), "/a/b");
        assert_eq!(path(queue.next(now, true)), "/a");
        assert!(queue.next(now, true).is_err());
    }

    #[test]
    fn a_path_belongs_to_the_innermost_tree() {
        let mut queue = Queue::default();
        queue.add_tree(Path::new("/a").into(), 1);
        queue.add_tree(Path::new("/a/b").into(), 1);
        let top = |path| queue.tree_of(Path::new(path)).map(|(number, _)| number);
        assert_eq!(top("/a/b/c"), Some(2));
        assert_eq!(top("/a/bc"), Some(1));
        assert_eq!(top("/b"), None);
    }
}
