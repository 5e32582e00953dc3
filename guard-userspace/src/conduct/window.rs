//! How a session's last acts were distributed, in constant memory.

use serde::{Deserialize, Serialize};

use super::category::{Category, Shares};

/// After so much weight of further acts an act counts half. A few dozen acts are what an agent does between two
/// prompts: a session that turns to something else shows within one of them, and one that goes back to its work is
/// itself again after as many.
pub const HALF_LIFE_ACTS: f64 = 64.0;
/// After so many seconds an act counts half, whatever happened since: half an hour, the length of a task. A session that
/// waits for its person overnight is not measured in the morning by what it did the evening before.
pub const HALF_LIFE_S: f64 = 1800.0;
/// With less weight than this there is no score: a distribution over twenty categories is not known from a handful of
/// acts.
pub const COLD: f64 = 6.0;
/// Weight of the usual distribution that is mixed in, so that few acts diverge little and no share is 0.
const PRIOR: f64 = 8.0;
/// A run of one kind of work: its nth act has the weight 1/n, and from here on no less.
const LONGEST_RUN: u32 = 4096;
/// What one record of loss can weigh: it may stand for a million acts, or for one.
const MOST_LOST: f64 = 16.0;

/// See the module's text. 21 weights and seven numbers, whatever has happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    /// Decayed weights.
    weights: Shares,
    /// Decayed number of acts, and of those that guard could not see into.
    seen: f64,
    opaque: f64,
    /// The last category, by name, and how often it came on end.
    run: Option<(String, u32)>,
    /// The last file that a grave act opened, as a hash, and how often since.
    file: Option<(u64, u32)>,
    /// ns of `CLOCK_MONOTONIC` of the last decay.
    at_ns: u64,
}

impl Window {
    /// Takes an act in; what it counted, 0..=1.
    pub fn note(&mut self, category: Category, at_ns: u64) -> f64 {
        self.note_of(category, None, at_ns)
    }

    /// The same of an act that opened a file, of which it is a hash.
    pub fn note_of(&mut self, category: Category, file: Option<u64>, at_ns: u64) -> f64 {
        let weight = self.weight_of(category, file);
        self.decay(weight, at_ns);
        self.weights.add(category, weight);
        self.seen += weight;
        weight
    }

    /// Some acts (1, or as many as were lost) could not be seen into, or were not seen. Nothing is known of their kind.
    pub fn note_opaque(&mut self, acts: f64, at_ns: u64) {
        let acts = if acts.is_finite() {
            acts.clamp(0.0, MOST_LOST)
        } else {
            MOST_LOST
        };
        self.decay(acts, at_ns);
        self.seen += acts;
        self.opaque += acts;
    }

    /// What the next act of this category counts, and takes it into the run.
    fn weight_of(&mut self, category: Category, file: Option<u64>) -> f64 {
        if !category.is_work() {
            self.run = None;
            // A program that reads its settings five times has read one credential, and not five.
            let Some(file) = file else { return 1.0 };
            let again = match self.file {
                Some((last, again)) if last == file => again.saturating_add(1).min(LONGEST_RUN),
                _ => 1,
            };
            self.file = Some((file, again));
            return 1.0 / f64::from(again);
        }
        let length = match &mut self.run {
            Some((name, length)) if name == category.name() => {
                *length = length.saturating_add(1).min(LONGEST_RUN);
                *length
            }
            run => {
                *run = Some((category.name().to_owned(), 1));
                1
            }
        };
        1.0 / f64::from(length)
    }

    /// Makes what was older by this much weight and by the time since. Time that runs backwards stands still.
    fn decay(&mut self, weight: f64, at_ns: u64) {
        let passed_s = at_ns.saturating_sub(self.at_ns) as f64 / 1e9;
        // The first act has nothing before it.
        let passed_s = if self.at_ns == 0 { 0.0 } else { passed_s };
        let factor = (-(weight / HALF_LIFE_ACTS + passed_s / HALF_LIFE_S)).exp2();
        self.weights = self.weights.scaled(factor);
        self.seen *= factor;
        self.opaque *= factor;
        self.at_ns = self.at_ns.max(at_ns);
    }

    /// Weight of the acts in it. At most about [`HALF_LIFE_ACTS`] / ln 2.
    pub fn weight(&self) -> f64 {
        self.weights.total()
    }

    /// Whether there is enough in it to say something.
    pub fn is_warm(&self) -> bool {
        self.weight() >= COLD
    }

    /// Its distribution, with the usual one mixed in.
    pub fn smoothed(&self, usual: &Shares) -> Shares {
        let mut shares = usual.scaled(PRIOR);
        shares.join(&self.weights);
        shares.normalised()
    }

    /// Weight of acts with more than work's gravity, each times it.
    pub fn overreach(&self) -> f64 {
        self.weights.gravity()
    }

    /// The share of acts that guard could not see into, 0..=1.
    pub fn opaque_share(&self) -> f64 {
        if self.seen > 0.0 {
            (self.opaque / self.seen).clamp(0.0, 1.0)
        } else {
            0.0
        }
    }
}
