//! What is said about how sessions behave.

use serde::{Deserialize, Serialize};

use crate::conduct::Baseline;

/// How a session behaves, held against what is usual for its agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConductInfo {
    /// 0 to 100; `None` while too little is known. So are the three that it is made of, each 0..=1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<u8>,
    /// 1 − the Jensen–Shannon divergence from the baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<f64>,
    /// Falls with grave acts beyond what is usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restraint: Option<f64>,
    /// The share of acts that guard can see into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transparency: Option<f64>,
    /// Weight of the acts that count now; a score needs 6.
    pub weight: f64,
    /// Acts since the session began.
    pub acts: u64,
    /// The policy's threshold, 0 for none.
    pub threshold: u8,
    /// The score has fallen below it, and has not been well above it since.
    pub divergent: bool,
    /// Which baseline it is held against.
    pub baseline: String,
    /// What contributes to the divergence, the greatest first.
    pub categories: Vec<CategoryInfo>,
}

/// One category of behaviour.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CategoryInfo {
    /// Its name.
    pub category: String,
    /// Its share of what the session does, 0..=1.
    pub share: f64,
    /// Its share of what is usual, 0..=1.
    pub usual: f64,
    /// What it adds to the divergence, in bits.
    pub bits: f64,
}

/// One baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaselineInfo {
    /// Learned on this machine; else shipped.
    pub learned: bool,
    /// The baseline.
    pub baseline: Baseline,
}
