//! `guardctl policy test`: cases with events and what a policy must say of each, in TOML.

mod document;
#[cfg(test)]
mod tests;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use guard_common::Verdict;

use crate::DEFAULT_POLICY;

use super::{
    Homes, Part, Policy, PolicyError, Source, files,
    judge::{Act, Judge, Ruling},
};

/// Where a name is that a case gives no address: one that is nobody's (RFC 7600, the dummy address).
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8));
/// What `~` is in a case that does not say.
const HOME: &str = "/home/user";

/// Cases of one file.
#[derive(Clone, Debug)]
pub struct Cases {
    /// The policy that they are for, where the file says one.
    pub policy: Option<PathBuf>,
    /// In order; at least one.
    pub cases: Vec<Case>,
}

/// One session.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// Its user.
    pub uid: u32,
    /// What `~` is.
    pub home: PathBuf,
    /// What happens in it, in order.
    pub events: Vec<Step>,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub struct Step {
    /// The line that it begins in.
    pub line: usize,
    /// The bytes that it stands in.
    span: Range<usize>,
    /// As it is written, for people: `connect api.example.com:443`.
    pub what: String,
    /// What it is.
    pub act: Act,
    /// The program that does it.
    pub exe: Option<PathBuf>,
    /// How long after the one before.
    pub after: Duration,
    /// What must be said of it.
    pub expected: Expected,
}

/// What must be said of an event; what is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The verdict.
    pub verdict: Option<Verdict>,
    /// What it would be, if no rule only observed.
    pub would: Option<Verdict>,
    /// The rule that decides; an empty name for none.
    pub rule: Option<String>,
    /// All labels, in any order.
    pub labels: Option<Vec<String>>,
}

/// How a case ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Each event, with what was said of it and in what that differs from what was expected.
    pub events: Vec<(Step, Ruling, Vec<String>)>,
}

impl Outcome {
    /// Everything was as expected.
    pub fn passed(&self) -> bool {
        self.events.iter().all(|(_, _, wrong)| wrong.is_empty())
    }
}

/// Reads a file of cases, and runs them against `policy`; without one, against that which the file names; without either,
/// against guardd's own default.
///
/// # Errors
/// A file that cannot be read, or a mistake in one.
pub fn test(file: &Path, policy: Option<&Path>) -> Result<Vec<Outcome>, PolicyError> {
    let text = fs::read_to_string(file).map_err(|error| PolicyError::Read {
        path: file.into(),
        error,
    })?;
    let part = Part {
        source: Source::File(file.into()),
        text,
    };
    let cases = document::read(&part)?;
    let beside = |path: &PathBuf| file.parent().unwrap_or(Path::new("")).join(path);
    let named = cases.policy.as_ref().map(beside);
    let policy = match policy.map(Path::to_owned).or(named) {
        Some(path) => files::check(&path)?,
        None if Path::new(DEFAULT_POLICY).exists() => files::check(Path::new(DEFAULT_POLICY))?,
        None => Policy::built_in(),
    };
    cases.check(&part, &policy)?;
    cases.cases.iter().map(|case| run(case, &policy)).collect()
}

/// Runs one case.
///
/// # Errors
/// Tables that overflow; [`Policy::parse`] has refused these already.
pub fn run(case: &Case, policy: &Policy) -> Result<Outcome, PolicyError> {
    let judge = Judge::new(policy, &Homes::of([case.home.clone()]))?;
    let mut session = judge.session(case.uid);
    // Not 0, which stands for never.
    let mut now = Duration::from_secs(1);
    let mut events = Vec::new();
    for step in &case.events {
        now = now.saturating_add(step.after);
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let ruling = judge.judge(&mut session, step.exe.as_deref(), &step.act, now_ns);
        let wrong = step.expected.differs(&ruling);
        events.push((step.clone(), ruling, wrong));
    }
    Ok(Outcome {
        name: case.name.clone(),
        events,
    })
}

impl Expected {
    /// In what a ruling is not as expected, for people.
    fn differs(&self, ruling: &Ruling) -> Vec<String> {
        let mut wrong = Vec::new();
        for (what, expected, is) in [
            ("verdict", self.verdict, ruling.verdict),
            ("would", self.would, ruling.would),
        ] {
            if let Some(expected) = expected
                && expected != is
            {
                wrong.push(format!(
                    "{what}: expected {}, got {}",
                    expected.name(),
                    is.name()
                ));
            }
        }
        let rule = ruling.rule.as_deref().unwrap_or_default();
        if let Some(expected) = &self.rule
            && expected != rule
        {
            let shown = |rule: &str| match rule {
                "" => "none".to_owned(),
                rule => format!("\"{rule}\""),
            };
            wrong.push(format!(
                "rule: expected {}, got {}",
                shown(expected),
                shown(rule)
            ));
        }
        if let Some(expected) = &self.labels {
            let sorted = |labels: &[String]| {
                let mut labels = labels.to_vec();
                labels.sort();
                labels.dedup();
                labels
            };
            let (expected, is) = (sorted(expected), sorted(&ruling.labels));
            if expected != is {
                wrong.push(format!(
                    "labels: expected [{}], got [{}]",
                    expected.join(", "),
                    is.join(", ")
                ));
            }
        }
        wrong
    }
}
