//! What is kept of one session.

use serde::{Deserialize, Serialize};

use super::{
    category::Shares,
    classify::{classify, file_of, is_opaque},
    score::{Scores, assess},
    window::Window,
};
use crate::event::{Event, Kind};

/// A session that was told to diverge is told again only after its score has been so much above the threshold: one that
/// moves to and fro around it is told once.
pub const REARM: f64 = 10.0;

/// Whether something is to be told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Turn {
    /// Nothing.
    Same,
    /// The score has fallen below the threshold.
    Diverged(Scores),
    /// It is well above it again.
    Returned(Scores),
}

/// The window of a session, and what else is needed to judge it. Of constant size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conduct {
    /// The last acts.
    pub window: Window,
    /// All acts, without decay: what is learned of it.
    pub whole: Shares,
    /// How many acts that was.
    pub acts: u64,
    /// Calls that were denied or killed.
    pub refused: u64,
    /// It was below the threshold, and has not been well above it since.
    pub divergent: bool,
}

impl Conduct {
    /// Takes an event in; whether it was an act. `at_ns` is `CLOCK_MONOTONIC`.
    pub fn note(&mut self, event: &Event, at_ns: u64) -> bool {
        if matches!(event.verdict.as_deref(), Some("deny" | "kill")) {
            self.refused += 1;
        }
        if event.kind == Kind::Lost {
            let count = event.object.as_ref().and_then(|object| object.get("count"));
            let count = count.and_then(serde_json::Value::as_f64).unwrap_or(1.0);
            self.window.note_opaque(count, at_ns);
            return true;
        }
        let Some(category) = classify(event) else {
            return false;
        };
        // As the window counts it, so that what is learned and what is compared are alike.
        let weight = self.window.note_of(category, file_of(event), at_ns);
        self.whole.add(category, weight);
        self.acts += 1;
        if is_opaque(event, category) {
            self.window.note_opaque(1.0, at_ns);
        }
        true
    }

    /// Something was done that guard has no way to see into.
    pub fn note_opaque(&mut self, at_ns: u64) {
        self.window.note_opaque(1.0, at_ns);
    }

    /// The scores now.
    pub fn scores(&self, usual: &Shares) -> Option<Scores> {
        assess(&self.window, usual)
    }

    /// Whether the score has crossed the threshold (0..=100) since this was asked last.
    pub fn turn(&mut self, usual: &Shares, threshold: f64) -> Turn {
        let Some(scores) = self.scores(usual) else {
            return Turn::Same;
        };
        let score = scores.combined();
        if !self.divergent && score < threshold {
            self.divergent = true;
            return Turn::Diverged(scores);
        }
        if self.divergent && score >= (threshold + REARM).min(100.0) {
            self.divergent = false;
            return Turn::Returned(scores);
        }
        Turn::Same
    }
}
