//! How a session behaves, held against how sessions of its kind usually do. No input, no output and no clock of its
//! own: events go in, scores come out.
//!
//! [`classify`] gives an act its [`Category`]; a [`Window`] keeps how the last ones were distributed, in constant
//! memory; a [`Baseline`] is what is usual; [`assess`] compares the two. docs/divergence.md has the formulas, and where
//! they come from.

mod baseline;
mod category;
mod classify;
mod divergence;
mod programs;
mod score;
mod track;
mod window;

#[cfg(test)]
mod tests;

pub use self::{
    baseline::{Baseline, BaselineError, Baselines, GENERAL, MAX_LEARNED, VERSION},
    category::{COUNT, Category, Shares},
    classify::classify,
    divergence::{Contribution, compare, contributions, divergence},
    score::{Scores, assess, combine},
    track::{Conduct, REARM, Turn},
    window::{COLD, HALF_LIFE_ACTS, HALF_LIFE_S, Window},
};
