//! What a policy could say better, from what sessions were seen to do: which programs to except from a label, since people
//! always let them; and which labels to seal, since no session ever needed them. Only ever a suggestion, for a person to read.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, Kind},
    policy::{BY_GUARD, Policy},
};

/// Holds of one program for one label that people have approved, and none refused, before an exception is suggested.
const APPROVALS: u64 = 3;
/// Sessions that must have touched none of a label's files or hosts before a seal is suggested.
const SESSIONS: u64 = 5;
/// Programs that are counted for one label; others are counted together.
const MAX_PROGRAMS: usize = 256;
/// Holds that wait for their answers.
const MAX_OPEN: usize = 4096;

/// What is suggested.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suggested {
    /// Sessions that were looked at.
    pub sessions: u64,
    /// Programs to except.
    pub except: Vec<Except>,
    /// Labels to seal.
    pub seal: Vec<Seal>,
}

/// A program that people let touch a label whenever they were asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Except {
    /// The label.
    pub label: String,
    /// The program's path.
    pub exe: String,
    /// Holds that were approved.
    pub approved: u64,
    /// Sessions that it was in.
    pub sessions: u64,
}

/// A label that nobody has needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The label.
    pub label: String,
    /// Sessions that have not touched it.
    pub sessions: u64,
}

/// How a program's holds for a label were answered.
#[derive(Default)]
struct Answers {
    approved: u64,
    other: u64,
    sessions: BTreeSet<String>,
}

/// Looks at events one by one.
pub struct Suggest<'a> {
    policy: &'a Policy,
    sessions: BTreeSet<String>,
    touched: BTreeSet<String>,
    /// By process and rule: what the hold was for.
    open: BTreeMap<(u32, String), (String, String)>,
    answers: BTreeMap<(String, String), Answers>,
}

impl<'a> Suggest<'a> {
    /// For this policy.
    pub fn new(policy: &'a Policy) -> Self {
        Self {
            policy,
            sessions: BTreeSet::new(),
            touched: BTreeSet::new(),
            open: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    /// The next event.
    pub fn add(&mut self, event: &Event) {
        let Some(session) = &event.session else {
            return;
        };
        self.sessions.insert(session.clone());
        let (Some(tgid), Some(rule)) = (event.tgid, &event.rule) else {
            self.touched.extend(event.labels.iter().cloned());
            return;
        };
        let key = (tgid, rule.clone());
        if event.kind == Kind::Answer {
            let word = event
                .object
                .as_ref()
                .and_then(|object| object.get("answer"));
            if let Some((label, exe)) = self.open.remove(&key) {
                let answers = self.answers.entry((label, exe)).or_default();
                answers.sessions.insert(session.clone());
                match word.and_then(|word| word.as_str()) {
                    Some("approved") => answers.approved += 1,
                    _ => answers.other += 1,
                }
            }
            return;
        }
        self.touched.extend(event.labels.iter().cloned());
        let held = event.verdict.as_deref() == Some("hold") && event.kind != Kind::Hold;
        let Some(exe) = event.exe.as_ref().filter(|_| held) else {
            return;
        };
        // What a rule is about is its trigger.
        let known = self.policy.rules.iter().find(|known| known.name == *rule);
        let trigger = known.and_then(|known| known.when.last());
        let Some(label) = trigger.filter(|label| event.labels.contains(label)) else {
            return;
        };
        let crowded = self.answers.keys().filter(|(of, _)| of == label).count() >= MAX_PROGRAMS;
        if self.open.len() < MAX_OPEN && !crowded {
            self.open.insert(key, (label.clone(), exe.clone()));
        }
    }

    /// What has come of it.
    pub fn finish(self) -> Suggested {
        let sessions = self.sessions.len() as u64;
        let except = self
            .answers
            .into_iter()
            .filter_map(|((label, exe), answers)| {
                (answers.approved >= APPROVALS && answers.other == 0).then_some(Except {
                    label,
                    exe,
                    approved: answers.approved,
                    sessions: answers.sessions.len() as u64,
                })
            });
        // Files and hosts are there or not; of a command line there is nothing to seal.
        let sealable = |label: &&String| {
            let mut groups = self
                .policy
                .groups
                .iter()
                .filter(|group| group.name == **label);
            let standing = |group: &crate::policy::LabelGroup| {
                !group.files.is_empty() || !group.hosts.is_empty() || !group.addresses.is_empty()
            };
            groups.clone().any(standing)
                && !groups.any(|group| group.sealed || group.user.is_some())
        };
        let labels = self.policy.labels.iter().filter(|_| sessions >= SESSIONS);
        let seal = labels
            .filter(|label| !self.touched.contains(*label) && !BY_GUARD.contains(&label.as_str()))
            .filter(sealable)
            .map(|label| Seal {
                label: label.clone(),
                sessions,
            });
        Suggested {
            sessions,
            except: except.collect(),
            seal: seal.collect(),
        }
    }
}
