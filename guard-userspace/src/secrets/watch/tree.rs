//! One tree that is watched: how far it has been gone through, and what was left out of it.

use std::{path::Path, sync::Arc};

use super::{Walked, WatchLimits};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) top: Arc<Path>,
    /// Other file systems are not gone into.
    pub(super) device: u64,
    /// Directories that are waiting or being gone through.
    pending: u64,
    files: u64,
    directories: u64,
    /// Directories that did not fit.
    beyond: u64,
    /// Files that did not fit.
    files_beyond: u64,
    /// Directories whose changes are not told.
    unwatched: u64,
    limits: WatchLimits,
}

impl Tree {
    pub(super) fn new(top: Arc<Path>, device: u64, limits: WatchLimits) -> Self {
        Self {
            top,
            device,
            pending: 1,
            files: 0,
            directories: 1,
            beyond: 0,
            files_beyond: 0,
            unwatched: 0,
            limits,
        }
    }

    /// It is gone through again from its top.
    pub(super) fn begin(&mut self) {
        self.pending += 1;
        (self.files, self.directories) = (0, 1);
        (self.beyond, self.files_beyond, self.unwatched) = (0, 0, 0);
    }

    /// Whether one more directory is gone through. One that has come since is not numbered, since nobody numbers those that
    /// go; how many are watched bounds them.
    pub(super) fn takes_directory(&mut self, fresh: bool) -> bool {
        if !fresh {
            if self.directories >= self.limits.directories {
                self.beyond += 1;
                return false;
            }
            self.directories += 1;
        }
        self.pending += 1;
        true
    }

    /// Whether one more file is looked at.
    pub(super) fn takes_file(&mut self, fresh: bool) -> bool {
        if fresh {
            return true;
        }
        if self.files >= self.limits.files {
            self.files_beyond += 1;
            return false;
        }
        self.files += 1;
        true
    }

    pub(super) fn not_watched(&mut self) {
        self.unwatched += 1;
    }

    /// One directory is done. Something to tell where it was the last.
    pub(super) fn done(&mut self) -> Option<Walked> {
        self.pending = self.pending.saturating_sub(1);
        (self.pending == 0).then(|| Walked {
            top: self.top.clone(),
            files: self.files,
            directories: self.directories,
            beyond: self.beyond,
            files_beyond: self.files_beyond,
            unwatched: self.unwatched,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_done_with_its_last_directory_and_says_what_did_not_fit() {
        let limits = WatchLimits {
            directories: 2,
            files: 1,
            ..WatchLimits::default()
        };
        let mut tree = Tree::new(Path::new("/a").into(), 1, limits);
        assert!(tree.takes_directory(false));
        assert!(!tree.takes_directory(false));
        assert!(tree.takes_file(false));
        assert!(!tree.takes_file(false));
        // One that comes and goes again takes no room for good.
        assert!(tree.takes_directory(true) && tree.takes_file(true));
        assert_eq!(tree.done(), None);
        assert_eq!(tree.done(), None);
        let walked = tree.done().unwrap();
        assert_eq!(
            (
                walked.files,
                walked.directories,
                walked.beyond,
                walked.files_beyond
            ),
            (1, 2, 1, 1)
        );
    }
}
