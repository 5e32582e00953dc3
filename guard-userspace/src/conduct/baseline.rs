//! What is usual for a kind of agent: shipped with guard, and learned from sessions that a person names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    category::{COUNT, Shares},
    divergence::divergence,
};

/// Version of the form that baselines are written in.
pub const VERSION: u32 = 1;
/// The shipped baseline for agents that have none of their own.
pub const GENERAL: &str = "general";
/// Agents with a learned baseline.
pub const MAX_LEARNED: usize = 64;

/// What the shipped baseline weighs beside a learned one: as much as a few sessions, so that one learned session does
/// not make everything else unusual.
const SHIPPED_WEIGHT: f64 = 64.0;
/// Added to each category, so that what has never been seen is rare and not impossible (Jeffreys' prior is 1/2; half of it
/// since the categories are many).
const UNSEEN: f64 = 0.25;
/// More is no count of acts.
const MOST: f64 = 1e12;

const SHIPPED: &str = include_str!("../../../policy/baselines.toml");

/// What is wrong with a baseline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BaselineError {
    /// It is no TOML of this form.
    #[error("{0}")]
    Form(String),
    /// Its version.
    #[error(
        "version {0}: this guard reads version {VERSION}: export it anew with the guard that is to read it"
    )]
    Version(u32),
    /// It names no agent, or not as agents are named.
    #[error("agent {0:?}: expected a name of 1 to 64 characters")]
    Name(String),
    /// It holds nothing.
    #[error("baseline {0}: no weights: expected at least one category with a number above 0")]
    Empty(String),
    /// There are too many.
    #[error("{MAX_LEARNED} agents have a learned baseline already: forget one of them first")]
    Full,
}

/// How sessions of one kind were distributed over the categories.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// The agent whose sessions it is about, or [`GENERAL`].
    pub agent: String,
    /// How it was made, for people.
    #[serde(default)]
    pub made: String,
    /// Sessions in it.
    pub sessions: u64,
    /// Acts in it.
    pub acts: u64,
    /// Weight of each category: of acts in a run of the same work the nth counts 1/n.
    pub weights: Shares,
}

/// The form of a file of them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    #[serde(default)]
    baseline: Vec<Baseline>,
}

impl Baseline {
    /// One that knows nothing yet.
    pub fn new(agent: &str) -> Self {
        Self {
            agent: agent.to_owned(),
            made: String::new(),
            sessions: 0,
            acts: 0,
            weights: Shares::default(),
        }
    }

    /// Takes one session in.
    pub fn learn(&mut self, weights: &Shares, acts: u64) {
        self.weights.join(weights);
        self.acts += acts;
        self.sessions += 1;
    }

    /// Takes all of another's sessions in; in whichever order, the same comes of it.
    pub fn merge(&mut self, other: &Self) {
        self.weights.join(&other.weights);
        self.acts += other.acts;
        self.sessions += other.sessions;
    }

    /// Its distribution, without zeros.
    pub fn usual(&self) -> Shares {
        let mut shares = self.weights;
        for share in &mut shares.0 {
            *share += UNSEEN;
        }
        shares.normalised()
    }

    /// How far two of them are apart, in bits, 0..=1.
    pub fn distance(&self, other: &Self) -> f64 {
        divergence(&self.usual(), &other.usual())
    }

    /// Refuses what is no baseline.
    ///
    /// # Errors
    /// See [`BaselineError`].
    pub fn check(&self) -> Result<(), BaselineError> {
        let length = self.agent.chars().count();
        if !(1..=64).contains(&length) || self.agent.chars().any(char::is_control) {
            return Err(BaselineError::Name(self.agent.clone()));
        }
        let total = self.weights.total();
        if !(total > 0.0 && total < MOST) {
            return Err(BaselineError::Empty(self.agent.clone()));
        }
        Ok(())
    }

    /// Several as TOML.
    ///
    /// # Errors
    /// Never, as far as is known; the writer may refuse.
    pub fn to_toml(baselines: &[Self]) -> Result<String, BaselineError> {
        let file = File {
            version: VERSION,
            baseline: baselines.to_vec(),
        };
        toml::to_string(&file).map_err(|error| BaselineError::Form(error.to_string()))
    }

    /// Several from TOML.
    ///
    /// # Errors
    /// See [`BaselineError`].
    pub fn from_toml(text: &str) -> Result<Vec<Self>, BaselineError> {
        let one_line = |error: toml::de::Error| {
            let line = error.span().map(|span| {
                1 + text
                    .as_bytes()
                    .iter()
                    .take(span.start)
                    .filter(|b| **b == b'\n')
                    .count()
            });
            let at = line.map_or_else(String::new, |line| format!("line {line}: "));
            BaselineError::Form(format!("{at}{}", error.message().replace('\n', " ")))
        };
        let file: File = toml::from_str(text).map_err(one_line)?;
        if file.version != VERSION {
            return Err(BaselineError::Version(file.version));
        }
        for baseline in &file.baseline {
            baseline.check()?;
        }
        Ok(file.baseline)
    }

    /// Those that are compiled in.
    ///
    /// # Panics
    /// Never in a program that passed its tests: the text is part of the program, and a test reads it.
    pub fn shipped() -> Vec<Self> {
        match Self::from_toml(SHIPPED) {
            Ok(shipped) => shipped,
            Err(error) => panic!("the shipped baselines have a mistake: {error}"),
        }
    }
}

/// The shipped ones and the learned ones, with what follows from them for each agent.
#[derive(Clone, Debug)]
pub struct Baselines {
    shipped: Vec<Baseline>,
    learned: BTreeMap<String, Baseline>,
    /// Of agents with a baseline of their own.
    usual: BTreeMap<String, Shares>,
    general: Shares,
}

impl Default for Baselines {
    fn default() -> Self {
        Self::of(Baseline::shipped(), Vec::new())
    }
}

impl Baselines {
    /// Those that are shipped, and these that were learned.
    pub fn with_learned(learned: Vec<Baseline>) -> Self {
        Self::of(Baseline::shipped(), learned)
    }

    /// From both.
    pub(super) fn of(shipped: Vec<Baseline>, learned: Vec<Baseline>) -> Self {
        let mut all = Self {
            general: shipped
                .iter()
                .find(|one| one.agent == GENERAL)
                .map_or(Shares([1.0 / COUNT as f64; COUNT]), Baseline::usual),
            shipped,
            learned: BTreeMap::new(),
            usual: BTreeMap::new(),
        };
        for baseline in learned.into_iter().take(MAX_LEARNED) {
            all.learned.insert(baseline.agent.clone(), baseline);
        }
        let names: Vec<String> = all
            .shipped
            .iter()
            .chain(all.learned.values())
            .map(|one| one.agent.clone())
            .collect();
        for name in names {
            all.note(&name);
        }
        all
    }

    /// What is usual for this agent: a distribution without zeros.
    pub fn usual(&self, agent: &str) -> &Shares {
        self.usual.get(agent).unwrap_or(&self.general)
    }

    /// Which baseline that is, for people.
    pub fn source(&self, agent: &str) -> String {
        match self.learned.get(agent) {
            Some(learned) => format!("{} learned", sessions(learned.sessions)),
            None if self.is_shipped(agent) => "shipped".into(),
            None => format!("shipped, {GENERAL}"),
        }
    }

    fn is_shipped(&self, agent: &str) -> bool {
        self.shipped.iter().any(|one| one.agent == agent)
    }

    /// Those that are shipped.
    pub fn shipped(&self) -> &[Baseline] {
        &self.shipped
    }

    /// Those that were learned, by name.
    pub fn learned(&self) -> Vec<Baseline> {
        self.learned.values().cloned().collect()
    }

    /// The learned one of an agent.
    pub fn learned_of(&self, agent: &str) -> Option<&Baseline> {
        self.learned.get(agent)
    }

    /// Takes sessions into an agent's learned baseline.
    ///
    /// # Errors
    /// When there is no room for one more, or nothing in them.
    pub fn learn(&mut self, more: &Baseline) -> Result<&Baseline, BaselineError> {
        let mut joined = self
            .learned
            .get(&more.agent)
            .cloned()
            .unwrap_or_else(|| Baseline::new(&more.agent));
        joined.merge(more);
        joined.made.clone_from(&more.made);
        self.put(joined)
    }

    /// Puts a learned baseline in the place of the agent's.
    ///
    /// # Errors
    /// When there is no room for one more, or it is none.
    pub fn put(&mut self, baseline: Baseline) -> Result<&Baseline, BaselineError> {
        baseline.check()?;
        let agent = baseline.agent.clone();
        if !self.learned.contains_key(&agent) && self.learned.len() >= MAX_LEARNED {
            return Err(BaselineError::Full);
        }
        let _ = self.learned.insert(agent.clone(), baseline);
        self.note(&agent);
        self.learned.get(&agent).ok_or(BaselineError::Full)
    }

    /// Forgets what was learned of an agent; whether there was anything.
    pub fn forget(&mut self, agent: &str) -> bool {
        let known = self.learned.remove(agent).is_some();
        self.note(agent);
        known
    }

    /// Works out what is usual for one agent.
    fn note(&mut self, agent: &str) {
        let shipped = self.shipped.iter().find(|one| one.agent == agent);
        let mut usual = shipped.map_or(self.general, Baseline::usual);
        match self.learned.get(agent) {
            None if shipped.is_none() => {
                self.usual.remove(agent);
                return;
            }
            None => {}
            Some(learned) => {
                usual = usual.scaled(SHIPPED_WEIGHT);
                usual.join(&learned.weights);
            }
        }
        self.usual.insert(agent.to_owned(), usual.normalised());
    }
}

fn sessions(count: u64) -> String {
    if count == 1 {
        "1 session".into()
    } else {
        format!("{count} sessions")
    }
}
