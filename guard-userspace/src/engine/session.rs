//! A session as userspace knows it: what the kernel's table does not hold, since only people need it.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::{conduct::Conduct, event::Event, process::Id, wire::EnvironmentInfo};

/// Touches that are kept to rebuild the rules' progress after a restart or a reload.
const TRAIL: usize = 256;
/// Events with labels that are kept as evidence.
const EVIDENCE: usize = 128;

/// How a session was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Its program was executed.
    Exec,
    /// Its script was executed by an interpreter.
    Script,
    /// A process carried the agent's marker in its environment.
    Env,
    /// `guardctl run`.
    Run,
    /// `guardctl adopt`.
    Adopt,
    /// It ran already when guardd started.
    Proc,
}

impl Origin {
    /// The word in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Script => "script",
            Self::Env => "env",
            Self::Run => "run",
            Self::Adopt => "adopt",
            Self::Proc => "proc",
        }
    }
}

/// Last touch of one label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// ns of `CLOCK_MONOTONIC`.
    pub mono_ns: u64,
    /// What was touched, for people.
    pub object: Option<String>,
}

/// One session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Its number.
    pub id: u32,
    /// Agent name.
    pub agent: String,
    /// How it was found.
    pub origin: Origin,
    /// Its first process.
    pub root: (u32, u64),
    /// Real uid of the first process.
    pub uid: u32,
    /// Session that it runs inside.
    pub parent: Option<u32>,
    /// For [`Origin::Env`]: the untagged process that starts the agent's commands one by one. While it
    /// lives the session waits for the next command, with all its facts.
    pub anchor: Option<(u32, u64)>,
    /// What it says it is for.
    pub intent: Option<String>,
    /// ns of `CLOCK_MONOTONIC`.
    pub began_ns: u64,
    /// `CLOCK_REALTIME` seconds.
    pub began_s: u64,
    /// A person has paused it.
    pub paused: bool,
    /// When it ended, ns of `CLOCK_MONOTONIC`.
    pub ended_ns: Option<u64>,
    /// By label.
    pub facts: BTreeMap<String, Fact>,
    /// Touches in order: time and labels.
    pub trail: VecDeque<(u64, Vec<String>)>,
    /// The last events with labels.
    pub evidence: VecDeque<Event>,
    /// Processes whose requests could not be read, a line each; the last ones.
    #[serde(default)]
    pub untapped: VecDeque<String>,
    /// The tree that it works in: where its first process stood at its beginning, or the repository around that.
    #[serde(default)]
    pub tree: Option<PathBuf>,
    /// Variables with secrets that its first process was started with.
    #[serde(default)]
    pub environment: Vec<EnvironmentInfo>,
    /// What it is for, and what it has been found to do besides.
    #[serde(default)]
    pub purpose: super::purpose::Purpose,
    /// How it behaves, and whether that is usual.
    #[serde(default)]
    pub conduct: Conduct,
}

impl Session {
    /// `s-N`.
    pub fn name(&self) -> String {
        format!("s-{}", self.id)
    }

    /// The first process.
    pub fn root_id(&self) -> Id {
        Id {
            pid: self.root.0,
            start: self.root.1,
        }
    }

    /// Records a touch.
    pub fn touch(&mut self, mono_ns: u64, labels: &[String], object: Option<&str>, event: &Event) {
        for label in labels {
            self.facts.insert(
                label.clone(),
                Fact {
                    mono_ns,
                    object: object.map(str::to_owned),
                },
            );
        }
        if self.trail.len() == TRAIL {
            self.trail.pop_front();
        }
        self.trail.push_back((mono_ns, labels.to_vec()));
        // The chain that led to a hold must not be pushed out by a thousand touches of one label: of
        // each label the first and the last few stay.
        if self.evidence.len() == EVIDENCE {
            let crowded = self
                .evidence
                .iter()
                .enumerate()
                .skip(1)
                .find(|(_, old)| {
                    self.evidence
                        .iter()
                        .filter(|other| other.labels == old.labels)
                        .count()
                        > 4
                })
                .map_or(0, |(index, _)| index);
            self.evidence.remove(crowded);
        }
        self.evidence.push_back(event.clone());
    }
}

/// The number in `s-3`, `h-3`, `g-3`.
pub fn number(prefix: &str, text: &str) -> Option<u32> {
    text.strip_prefix(prefix)?.strip_prefix('-')?.parse().ok()
}
