//! Which files were read as they are now, so that none is read twice.

use std::{
    collections::HashMap,
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Files that are remembered, of some 80 bytes each.
const ROOM: usize = 262_144;
/// A file that was changed so shortly before it was read may be changed again within the same tick of the file system's
/// clock, and nothing would show: such a one is read again when anything is told of it. Ticks are 10 ms at most; see
/// <https://github.com/torvalds/linux/blob/v6.12/Documentation/filesystems/multigrain-ts.rst>.
const TICK: Duration = Duration::from_millis(50);

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl State {
    pub(super) fn of(found: &Metadata) -> Self {
        Self {
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Whether a change after `now` is certain to show.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::new(
            self.changed.0.try_into().unwrap_or(0),
            self.changed.1.try_into().unwrap_or(0),
        );
        now.checked_sub(changed).is_some_and(|age| age > TICK)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    settled: bool,
    /// Something was found in it.
    has: bool,
    /// When, for the order in which entries are forgotten.
    turn: u64,
}

/// What is known of a file before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing, or it has changed; and whether something was found in it before.
    Not {
        /// It was.
        had: bool,
    },
    /// It is as it was.
    Same,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct SeenFiles {
    files: HashMap<(u64, u64), Entry>,
    turn: u64,
}

impl SeenFiles {
    pub(super) fn known(&self, dev: u64, ino: u64, state: State) -> Known {
        match self.files.get(&(dev, ino)) {
            Some(entry) if entry.settled && entry.state == state => Known::Same,
            Some(entry) => Known::Not { had: entry.has },
            None => Known::Not { had: false },
        }
    }

    /// It was read while it was in this state, beginning at `read_at`.
    pub(super) fn note(
        &mut self,
        dev: u64,
        ino: u64,
        state: State,
        read_at: SystemTime,
        has: bool,
    ) {
        self.turn += 1;
        if self.files.len() >= ROOM && !self.files.contains_key(&(dev, ino)) {
            // Half of them at once, so that it is seldom. Those in which something was found stay: it must be noticed
            // when it goes.
            let middle = self.turn.saturating_sub(ROOM as u64 / 2);
            self.files
                .retain(|_, entry| entry.has || entry.turn > middle);
        }
        let settled = state.is_settled(read_at);
        let entry = Entry {
            state,
            settled,
            has,
            turn: self.turn,
        };
        if self.files.len() < ROOM {
            self.files.insert((dev, ino), entry);
        }
    }

    /// Whether something was found in it.
    pub(super) fn has(&self, dev: u64, ino: u64) -> bool {
        self.files.get(&(dev, ino)).is_some_and(|entry| entry.has)
    }

    /// Everything is read again, and what was found stays known.
    pub(super) fn doubt_all(&mut self) {
        for entry in self.files.values_mut() {
            entry.settled = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(changed_s: i64) -> State {
        State {
            size: 1,
            modified: (1, 0),
            changed: (changed_s, 0),
        }
    }

    fn at(seconds: u64, milliseconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_file_is_the_same_only_when_nothing_can_have_changed_unseen() {
        let mut seen = SeenFiles::default();
        assert_eq!(seen.known(1, 2, state(5)), Known::Not { had: false });
        seen.note(1, 2, state(5), at(5, 10), true);
        assert_eq!(seen.known(1, 2, state(5)), Known::Not { had: true });
        seen.note(1, 2, state(5), at(5, 100), true);
        assert_eq!(seen.known(1, 2, state(5)), Known::Same);
        assert_eq!(seen.known(1, 2, state(6)), Known::Not { had: true });
        assert_eq!(seen.known(1, 3, state(5)), Known::Not { had: false });
        seen.doubt_all();
        assert_eq!(seen.known(1, 2, state(5)), Known::Not { had: true });
    }

    #[test]
    fn what_is_remembered_is_bounded_and_finds_are_kept() {
        let mut seen = SeenFiles::default();
        seen.note(1, 0, state(1), at(9, 0), true);
        for ino in 1..=(ROOM as u64 + ROOM as u64 / 2) {
            seen.note(1, ino, state(1), at(9, 0), false);
        }
        assert!(seen.files.len() <= ROOM);
        assert_eq!(seen.known(1, 0, state(1)), Known::Same);
        assert_eq!(
            seen.known(1, ROOM as u64 + ROOM as u64 / 2, state(1)),
            Known::Same
        );
    }
}
