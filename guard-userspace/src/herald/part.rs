//! How each part of the herald is: what `guardctl status` shows of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use crate::{clock, wire::PartInfo};

/// All parts, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {
    parts: Arc<Mutex<Vec<Weak<Mutex<PartInfo>>>>>,
    changed: Arc<Notify>,
}

/// One part's place on the board; it is off the board when the last copy goes.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    info: Arc<Mutex<PartInfo>>,
    changed: Arc<Notify>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// A new part, which is starting.
    pub(crate) fn part(&self, name: &str) -> Part {
        let info = Arc::new(Mutex::new(PartInfo {
            name: name.into(),
            state: "starting".into(),
            since: clock::rfc3339_now(),
            ..PartInfo::default()
        }));
        lock(&self.parts).push(Arc::downgrade(&info));
        self.changed.notify_one();
        Part {
            info,
            changed: self.changed.clone(),
        }
    }

    /// How they are now.
    pub(super) fn parts(&self) -> Vec<PartInfo> {
        let mut parts = lock(&self.parts);
        parts.retain(|part| part.strong_count() > 0);
        parts
            .iter()
            .filter_map(Weak::upgrade)
            .map(|part| lock(&part).clone())
            .collect()
    }

    /// Comes when something has changed since it came last.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Part {
    fn change(&self, change: impl FnOnce(&mut PartInfo)) {
        let mut info = lock(&self.info);
        let before = info.clone();
        change(&mut info);
        if *info != before {
            if info.state != before.state {
                info.since = clock::rfc3339_now();
            }
            self.changed.notify_one();
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        lock(&self.info).name.clone()
    }

    /// It could do its work.
    pub(crate) fn ok(&self) {
        self.change(|info| info.state = "ok".into());
    }

    /// A message has left.
    pub(crate) fn sent(&self) {
        self.change(|info| {
            info.sent += 1;
            info.state = "ok".into();
        });
    }

    /// It cannot do its work, for this reason.
    pub(crate) fn failing(&self, why: impl Into<String>) {
        self.change(|info| {
            info.state = "failing".into();
            info.error = Some(why.into());
        });
    }

    /// A message was given up, for this reason.
    pub(crate) fn dropped(&self, why: impl Into<String>) {
        self.change(|info| {
            info.dropped += 1;
            info.state = "failing".into();
            info.error = Some(why.into());
        });
    }

    /// It has taken an event that it is to send.
    pub(crate) fn takes(&self) {
        lock(&self.info).waiting += 1;
        self.changed.notify_one();
    }

    /// So many of those that it has taken wait no more: each was sent or given up, which is said besides.
    pub(crate) fn settled(&self, count: usize) {
        self.change(|info| info.waiting = info.waiting.saturating_sub(count as u64));
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> u64 {
        lock(&self.info).waiting
    }

    /// An answer was not taken.
    pub(crate) fn refused(&self) {
        self.change(|info| info.refused += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_how_it_is_and_leaves_the_board_when_it_goes() {
        let board = Board::default();
        let part = board.part("slack");
        let now = || board.parts().remove(0);
        assert_eq!(
            (now().name.as_str(), now().state.as_str()),
            ("slack", "starting")
        );
        part.failing("no route");
        part.dropped("no room");
        part.refused();
        let info = now();
        assert_eq!(
            (info.state.as_str(), info.dropped, info.refused),
            ("failing", 1, 1)
        );
        assert_eq!(info.error.as_deref(), Some("no room"));
        part.takes();
        part.takes();
        part.settled(1);
        part.sent();
        let info = now();
        assert_eq!((info.state.as_str(), info.sent), ("ok", 1));
        assert_eq!((info.waiting, part.waiting()), (1, 1));
        assert_eq!(
            info.error.as_deref(),
            Some("no room"),
            "what went wrong is kept"
        );
        drop(part);
        assert_eq!(board.parts(), []);
    }
}
