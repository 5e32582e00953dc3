//! What another policy would have said of what the journal has.
//!
//! Events are judged again, in their order and with their times, by the judge that has no kernel
//! ([`crate::policy::judge`]); where it says something else than what happened, that is a [`Difference`]. Leases and
//! answers that were given then count as they did.

mod act;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use guard_common::Verdict;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, Kind},
    policy::{
        Homes, Policy, PolicyError,
        judge::{Act, Judge, Ruling, Touched},
    },
};

/// Events that wait for an earlier one.
const MAX_WAITING: usize = 4096;
/// So much earlier than the latest is another boot's.
const BACK_NS: u64 = 60_000_000_000;
/// Sessions around one whose rules are judged too, and itself.
const LEVELS: usize = 5;
/// How long an approval waits for the call that it is for, as in the kernel.
const ANSWER_NS: u64 = 10_000_000_000;

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// Events that were judged.
    pub judged: u64,
    /// Of requests, those that could be judged by their first line and operation alone.
    pub in_part: u64,
    /// Sessions that they were of.
    pub sessions: u64,
    /// Lines that could not be read.
    pub unreadable: u64,
    /// Of these the new policy would have said something else, oldest first.
    pub differences: Vec<Difference>,
}

/// One event of which the new policy says something else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Its number in the journal.
    pub seq: u64,
    /// When it was.
    pub time: String,
    /// Whose.
    pub session: String,
    /// What it was.
    pub what: String,
    /// What happened, or in observe mode would have.
    pub was: Said,
    /// What would.
    pub becomes: Said,
}

/// A verdict and the rule that gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The verdict.
    pub verdict: String,
    /// The rule, where one fired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// A session of the journal.
struct Session {
    touched: Touched,
    around: Option<String>,
}

/// Judges events one by one.
pub struct Replay<'a> {
    judge: Judge<'a>,
    only: Option<&'a str>,
    sessions: HashMap<String, Session>,
    /// Until when a process may repeat what rule held it for.
    answers: BTreeMap<(u32, String), u64>,
    /// Leases by their names: session, label, and until when.
    grants: HashMap<String, (String, String, u64)>,
    /// Sessions that have had a lease for some calls alone.
    bounded: BTreeSet<String>,
    found: Replayed,
    counted: BTreeSet<String>,
    last_ns: u64,
    /// Events that an earlier one may still come behind, by their times and numbers.
    waiting: BTreeMap<(u64, u64), Event>,
}

impl<'a> Replay<'a> {
    /// Against `policy`; of one session alone, where that is asked for.
    ///
    /// # Errors
    /// Tables that overflow; [`Policy::parse`] has refused these already.
    pub fn new(
        policy: &'a Policy,
        homes: &Homes,
        only: Option<&'a str>,
    ) -> Result<Self, PolicyError> {
        Ok(Self {
            judge: Judge::new(policy, homes)?,
            only,
            sessions: HashMap::new(),
            answers: BTreeMap::new(),
            grants: HashMap::new(),
            bounded: BTreeSet::new(),
            found: Replayed::default(),
            counted: BTreeSet::new(),
            last_ns: 1,
            waiting: BTreeMap::new(),
        })
    }

    /// A line that could not be read.
    pub fn unreadable(&mut self) {
        self.found.unreadable += 1;
    }

    /// The next event of the journal. guardd reads two rings in turns, so that of two acts close to each other the later may
    /// stand first: they are judged in the order of their times.
    pub fn add(&mut self, event: &Event) {
        let latest = self.waiting.last_key_value().map_or(0, |((at, _), _)| *at);
        let at = event.mono_ns.unwrap_or(latest);
        // The clock has begun anew.
        if at.saturating_add(BACK_NS) < latest {
            self.judge_all();
        }
        self.waiting.insert((at, event.seq), event.clone());
        if self.waiting.len() > MAX_WAITING
            && let Some((_, first)) = self.waiting.pop_first()
        {
            self.judge_one(&first);
        }
    }

    fn judge_all(&mut self) {
        for event in std::mem::take(&mut self.waiting).into_values() {
            self.judge_one(&event);
        }
    }

    fn judge_one(&mut self, event: &Event) {
        let Some(name) = event.session.as_deref() else {
            return;
        };
        // The clock begins anew with each boot, which no session outlives.
        let now_ns = event.mono_ns.unwrap_or(self.last_ns).max(1);
        self.last_ns = now_ns;
        let object = |key: &str| event.object.as_ref().and_then(|object| object.get(key));
        let text = |key: &str| object(key).and_then(|value| value.as_str());
        if !self.sessions.contains_key(name) {
            let uid = event.uid.unwrap_or(guard_common::rule::ANY_USER);
            let session = Session {
                touched: self.judge.session(uid),
                around: text("parent").map(str::to_owned),
            };
            self.sessions.insert(name.to_owned(), session);
        }
        match event.kind {
            Kind::Grant => {
                let until = object("for_s")
                    .and_then(|seconds| seconds.as_u64())
                    .map_or(0, |seconds| {
                        now_ns.saturating_add(seconds.saturating_mul(1_000_000_000))
                    });
                let id = text("id").unwrap_or_default().to_owned();
                let known = self.grants.get(&id).map(|(_, label, _)| label.clone());
                let Some(label) = event.labels.first().cloned().or(known) else {
                    return;
                };
                match text("what") {
                    // Of one that is bounded no event says which calls it has allowed: these are taken as they were.
                    Some("granted")
                        if ["for", "uses", "operations"]
                            .iter()
                            .any(|key| object(key).is_some()) =>
                    {
                        self.bounded.insert(name.to_owned());
                    }
                    Some("granted") => {
                        let grant = (name.to_owned(), label.clone(), until);
                        self.grants.insert(id, grant);
                    }
                    Some("revoked") => {
                        self.grants.remove(&id);
                    }
                    _ => return,
                }
                // Of several for one label the longest counts, and one that is taken back leaves the others.
                let of_it = self
                    .grants
                    .values()
                    .filter(|(of, of_label, _)| of == name && *of_label == label);
                let until = of_it.map(|(_, _, until)| *until).max().unwrap_or(0);
                if let Some(session) = self.sessions.get_mut(name) {
                    self.judge.lease(&mut session.touched, &label, until);
                }
                return;
            }
            Kind::Answer if text("answer") == Some("approved") => {
                if let (Some(tgid), Some(rule)) = (event.tgid, &event.rule) {
                    let until = now_ns.saturating_add(ANSWER_NS);
                    self.answers.insert((tgid, rule.clone()), until);
                }
                return;
            }
            _ => {}
        }
        let Some((what, act)) = act::of(event, self.judge.policy()) else {
            return;
        };
        let ruling = self.rule(name, event, &act, now_ns);
        if self.only.is_some_and(|only| only != name) {
            return;
        }
        self.found.judged += 1;
        self.found.in_part += u64::from(event.kind == Kind::Request);
        if self.counted.insert(name.to_owned()) {
            self.found.sessions += 1;
        }
        self.compare(name, event, &what, &ruling, now_ns);
    }

    /// Judges it for its session and for those around it: the strictest counts.
    fn rule(&mut self, name: &str, event: &Event, act: &Act, now_ns: u64) -> Ruling {
        let exe = event.exe.as_deref().map(Path::new);
        let mut level = Some(name.to_owned());
        let mut strictest: Option<Ruling> = None;
        for _ in 0..LEVELS {
            let Some(session) = level.take().and_then(|name| self.sessions.get_mut(&name)) else {
                break;
            };
            let ruling = self.judge.judge(&mut session.touched, exe, act, now_ns);
            level = session.around.clone();
            let stricter = strictest.as_ref().is_none_or(|so_far| {
                (ruling.verdict, ruling.would) > (so_far.verdict, so_far.would)
            });
            if stricter {
                strictest = Some(ruling);
            }
        }
        strictest.unwrap_or_else(Ruling::nothing)
    }

    fn compare(&mut self, name: &str, event: &Event, what: &str, ruling: &Ruling, now_ns: u64) {
        let happened = verdict(event.verdict.as_deref());
        // In observe mode what would have been is compared with what would be.
        let (was, becomes) = match event.would.as_deref() {
            Some(would) => (verdict(Some(would)), ruling.would),
            None => (happened, ruling.verdict),
        };
        if was == becomes {
            return;
        }
        let same_rule = ruling.rule.is_some() && ruling.rule == event.rule;
        // Where a kernel could not deny, the rule's fallback happened.
        if same_rule && becomes == Verdict::Deny && was != Verdict::Allow {
            return;
        }
        // Also where another rule is named, since that one was told and this one only observed.
        let rules = &self.judge.policy().rules;
        let fallback = ruling
            .rule
            .as_ref()
            .and_then(|name| rules.iter().find(|rule| rule.name == *name))
            .map(|rule| rule.fallback);
        if becomes == Verdict::Deny && fallback == Some(was) {
            return;
        }
        // A lease for some calls alone had allowed this one.
        if same_rule && was == Verdict::Allow && self.bounded.contains(name) {
            return;
        }
        // A person had approved this very call.
        if was <= Verdict::Flag
            && becomes == Verdict::Hold
            && let (Some(tgid), Some(rule)) = (event.tgid, &ruling.rule)
            && let Some(until) = self.answers.remove(&(tgid, rule.clone()))
            && until >= now_ns
        {
            return;
        }
        self.found.differences.push(Difference {
            seq: event.seq,
            time: event.time.clone(),
            session: name.to_owned(),
            what: what.to_owned(),
            was: Said {
                verdict: was.name().into(),
                rule: event.rule.clone(),
            },
            becomes: Said {
                verdict: becomes.name().into(),
                rule: ruling.rule.clone(),
            },
        });
    }

    /// What has come of it.
    pub fn finish(mut self) -> Replayed {
        self.judge_all();
        self.found
    }
}

fn verdict(word: Option<&str>) -> Verdict {
    [Verdict::Flag, Verdict::Hold, Verdict::Deny, Verdict::Kill]
        .into_iter()
        .find(|verdict| Some(verdict.name()) == word)
        .unwrap_or(Verdict::Allow)
}
