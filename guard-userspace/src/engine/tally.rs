//! How many holds there are, and what becomes of them: for whoever sets the policy, since a person who is asked too
//! often stops reading the question.
//!
//! Counted by the hour and by rule, for seven days, in a file of its own in the state directory, which outlives guardd
//! and the machine's boots. Bounded: so many hours, and so many rules an hour.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::wire::HoldCounts;

/// Its name in the state directory.
pub(super) const FILE: &str = "holds.json";
/// Hours that are kept.
const HOURS: u64 = 7 * 24;
/// Rules that are counted apart in one hour.
const RULES: usize = 64;
/// Where those of further rules are counted.
const OTHERS: &str = "other rules";
/// Answers of a rule in seven days from which on it is said that nearly all were approvals.
const MANY: u64 = 20;
/// Of a hundred, more than so many are nearly all.
const NEARLY_ALL: u64 = 90;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    /// A process was stopped.
    Held,
    /// A person let it go on.
    Approved,
    /// A person refused.
    Denied,
    /// Nobody answered.
    TimedOut,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Counts {
    held: u64,
    approved: u64,
    denied: u64,
    timed_out: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.held = self.held.saturating_add(other.held);
        self.approved = self.approved.saturating_add(other.approved);
        self.denied = self.denied.saturating_add(other.denied);
        self.timed_out = self.timed_out.saturating_add(other.timed_out);
    }

    fn settled(&self) -> u64 {
        self.approved + self.denied + self.timed_out
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Hour {
    /// Hours since 1970.
    hour: u64,
    rules: BTreeMap<String, Counts>,
}

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// The hour in which counting began.
    since: u64,
    hours: VecDeque<Hour>,
}

impl Tally {
    /// What was counted before; with an error when that cannot be read, and counting begins anew.
    pub(super) fn load(dir: &Path) -> (Self, Option<String>) {
        let path = dir.join(FILE);
        let lost = |why: String| {
            let why = format!("{}: {why}: holds a day are counted anew", path.display());
            (Self::default(), Some(why))
        };
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(tally) => (tally, None),
                Err(error) => lost(error.to_string()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Self::default(), None),
            Err(error) => lost(error.to_string()),
        }
    }

    /// Writes it down, whole and by rename.
    pub(super) fn save(&self, dir: &Path) -> io::Result<()> {
        let (file, new) = (dir.join(FILE), dir.join("holds.json.new"));
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&new)?.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(new, file)
    }

    /// Counts one. `now_s`: seconds since 1970.
    pub(super) fn count(&mut self, now_s: u64, rule: &str, what: Count) {
        let now = now_s / 3600;
        // One hour ahead is a clock that was set back a little, further ahead one that was wrong.
        self.hours
            .retain(|hour| hour.hour + HOURS > now && hour.hour <= now + 1);
        if self.since == 0 || self.since > now {
            self.since = now;
        }
        if self.hours.back().is_none_or(|last| last.hour < now) {
            self.hours.push_back(Hour {
                hour: now,
                rules: BTreeMap::new(),
            });
        }
        let Some(hour) = self.hours.back_mut() else {
            return;
        };
        let known = hour.rules.contains_key(rule) || hour.rules.len() < RULES;
        let rule = if known { rule } else { OTHERS };
        let counts = hour.rules.entry(rule.to_owned()).or_default();
        match what {
            Count::Held => counts.held += 1,
            Count::Approved => counts.approved += 1,
            Count::Denied => counts.denied += 1,
            Count::TimedOut => counts.timed_out += 1,
        }
    }

    /// What `status` says.
    pub(super) fn told(&self, now_s: u64) -> HoldCounts {
        let now = now_s / 3600;
        let (mut day, mut week) = (Counts::default(), Counts::default());
        let mut rules: BTreeMap<&str, Counts> = BTreeMap::new();
        for hour in self.hours.iter().filter(|hour| hour.hour + HOURS > now) {
            for (rule, counts) in &hour.rules {
                week.add(counts);
                rules.entry(rule).or_default().add(counts);
                if hour.hour + 24 > now {
                    day.add(counts);
                }
            }
        }
        let counted = (now + 1).saturating_sub(self.since).clamp(1, HOURS);
        let days = if self.since == 0 {
            1.0
        } else {
            (counted as f64 / 24.0).max(1.0)
        };
        let advice = rules
            .iter()
            .filter(|(_, counts)| {
                counts.settled() >= MANY && counts.approved * 100 > counts.settled() * NEARLY_ALL
            })
            .map(|(rule, counts)| {
                format!(
                    "rule '{rule}': {} of {} holds in 7 days were approved: who always says yes stops reading: \
                     approve with --for, give a lease ('guardctl grant'), or change the rule",
                    counts.approved,
                    counts.settled()
                )
            })
            .collect();
        HoldCounts {
            last_24h: day.held,
            mean_7d: (week.held as f64 / days * 10.0).round() / 10.0,
            approved: week.approved,
            denied: week.denied,
            timed_out: week.timed_out,
            advice,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn counted(rule: &str, approved: u64, denied: u64) -> Tally {
        let mut tally = Tally::default();
        for n in 0..approved + denied {
            tally.count(NOW, rule, Count::Held);
            let answer = if n < approved {
                Count::Approved
            } else {
                Count::Denied
            };
            tally.count(NOW, rule, answer);
        }
        tally
    }

    #[test]
    fn a_day_is_24_hours_and_the_mean_is_over_what_was_counted() {
        let mut tally = Tally::default();
        for day in 0..4u64 {
            for _ in 0..10 {
                tally.count(NOW + day * 86_400, "r", Count::Held);
            }
        }
        let told = tally.told(NOW + 3 * 86_400);
        assert_eq!(told.last_24h, 10);
        // Three days and one hour.
        assert!((told.mean_7d - 13.2).abs() < 0.05, "{told:?}");
        let later = tally.told(NOW + 7 * 86_400);
        assert_eq!(later.last_24h, 0);
        assert!((later.mean_7d - 30.0 / 7.0).abs() < 0.06, "{later:?}");
        assert_eq!(tally.told(NOW + 30 * 86_400).mean_7d, 0.0);
    }

    #[test]
    fn many_holds_that_are_nearly_all_approved_are_a_reason_for_advice() {
        let told = counted("noisy", 30, 2).told(NOW);
        assert_eq!((told.approved, told.denied), (30, 2));
        assert_eq!(told.advice.len(), 1);
        assert!(
            told.advice[0].starts_with("rule 'noisy': 30 of 32 "),
            "{told:?}"
        );
        assert!(counted("few", 19, 0).told(NOW).advice.is_empty());
        assert!(counted("mixed", 18, 2).told(NOW).advice.is_empty());
    }

    #[test]
    fn it_is_bounded() {
        let mut tally = Tally::default();
        for hour in 0..1000u64 {
            for rule in 0..100 {
                tally.count(NOW + hour * 3600, &format!("rule-{rule}"), Count::Held);
            }
        }
        assert_eq!(tally.hours.len() as u64, HOURS);
        assert!(tally.hours.iter().all(|hour| hour.rules.len() <= RULES + 1));
        assert_eq!(tally.told(NOW + 999 * 3600).last_24h, 2400);
    }

    #[test]
    fn it_survives_and_a_damaged_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let tally = counted("r", 3, 1);
        tally.save(dir.path()).unwrap();
        assert_eq!(Tally::load(dir.path()), (tally, None));
        fs::write(dir.path().join(FILE), "{").unwrap();
        let (anew, why) = Tally::load(dir.path());
        assert_eq!(anew, Tally::default());
        assert!(why.unwrap().contains("counted anew"));
    }

    #[test]
    fn a_clock_that_was_wrong_does_not_stay_in_the_count() {
        let mut tally = counted("r", 5, 0);
        tally.count(NOW + 400 * 86_400, "r", Count::Held);
        tally.count(NOW, "r", Count::Held);
        assert_eq!(tally.told(NOW).last_24h, 1);
        assert_eq!(tally.hours.len(), 1);
    }
}
