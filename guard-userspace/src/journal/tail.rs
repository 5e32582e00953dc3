//! The newest events, kept in memory for `events`, `show` and new followers.

use std::collections::VecDeque;

use crate::event::Event;

/// Events kept at most.
pub(super) const EVENTS: usize = 4096;
/// Memory they may take at most, in bytes, as far as [`cost`] can tell.
pub(super) const BYTES: usize = 8 << 20;

/// An event in memory: itself, and its strings and JSON values, which take up to about twice their
/// line (a `serde_json` map node alone is over 600 bytes).
fn cost(line: usize) -> usize {
    size_of::<Event>() + 2 * line
}

/// A ring bounded in number and in bytes.
#[derive(Default)]
pub(super) struct Tail {
    events: VecDeque<(usize, Event)>,
    bytes: usize,
}

impl Tail {
    /// `line`: length of the event's line.
    pub(super) fn push(&mut self, event: Event, line: usize) {
        let cost = cost(line);
        self.bytes += cost;
        self.events.push_back((cost, event));
        while self.events.len() > EVENTS || self.bytes > BYTES {
            let Some((cost, _)) = self.events.pop_front() else {
                break;
            };
            self.bytes -= cost;
        }
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Event> + ExactSizeIterator {
        self.events.iter().map(|(_, event)| event)
    }
}
