//! Three scores of 0..=1 and their sum of 0..=100, after AgentLair's published description.
//!
//! The three dimensions, their weights and that consistency rests on the Jensen–Shannon divergence of category
//! distributions are AgentLair's ("From 0 to 41: Building Behavioral Trust in Production",
//! <https://agentlair.dev/blog/from-0-to-41-building-behavioral-trust-in-production>, April 2026). What is measured in each
//! is guard's own, since guard sees system calls where AgentLair sees calls of its API: see docs/divergence.md.

use super::{category::Shares, divergence::divergence, window::Window};

/// 0.25 / 0.70
pub(super) const CONSISTENCY: f64 = 0.3571;
/// 0.30 / 0.70
pub(super) const RESTRAINT: f64 = 0.4286;
/// 0.15 / 0.70
pub(super) const TRANSPARENCY: f64 = 0.2143;
/// So much gravity of the mean act above what is usual halves restraint: one grave act among twelve of work.
const HALVES: f64 = 0.08;

/// What came of a comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Does it what its kind usually does: 1 − the Jensen–Shannon divergence.
    pub consistency: f64,
    /// Does it no more than its work: falls with the share of grave acts beyond what is usual.
    pub restraint: f64,
    /// Can guard see what it does: 1 − the share of acts that it cannot.
    pub transparency: f64,
}

impl Scores {
    /// Everything as usual.
    pub const USUAL: Self = Self {
        consistency: 1.0,
        restraint: 1.0,
        transparency: 1.0,
    };

    /// 0..=100.
    pub fn combined(&self) -> f64 {
        combine(self.consistency, self.restraint, self.transparency)
    }

    /// The same in whole numbers, as it is shown.
    pub fn score(&self) -> u8 {
        // In 0..=100, so that nothing is cut.
        self.combined().round() as u8
    }
}

/// The three as one number, 0..=100.
pub fn combine(consistency: f64, restraint: f64, transparency: f64) -> f64 {
    let sum = CONSISTENCY * consistency + RESTRAINT * restraint + TRANSPARENCY * transparency;
    (100.0 * sum).clamp(0.0, 100.0)
}

/// Compares a window with what is usual, a distribution without zeros. `None` while there is too little in it.
pub fn assess(window: &Window, usual: &Shares) -> Option<Scores> {
    window.is_warm().then(|| {
        let now = window.smoothed(usual);
        let excess = (now.gravity() - usual.gravity()).max(0.0);
        Scores {
            consistency: 1.0 - divergence(&now, usual),
            restraint: (-excess / HALVES).exp2(),
            transparency: 1.0 - window.opaque_share(),
        }
    })
}
