//! What a job did: for the job's log, its summary, code scanning and programs.

mod markdown;
mod sarif;
mod suggestion;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::{markdown::summary, sarif::sarif, suggestion::Suggestion, text::for_people};
use super::{
    args::FailOn,
    runner::{Annotation, Gravity},
    sources::Change,
};

/// Everything that is told of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `audit` or `block`.
    pub mode: String,
    /// `s-N`.
    pub session: String,
    /// Base name of the worker's program, and its pid.
    pub worker: String,
    /// See above.
    pub worker_pid: u32,
    /// `given`, `known` or `guessed`.
    pub worker_how: String,
    /// Where the policy is from.
    pub policy: String,
    /// RFC 3339.
    pub began: String,
    /// RFC 3339.
    pub until: String,
    /// Events that were seen.
    pub events: u64,
    /// Children of the worker, in order.
    pub steps: Vec<Step>,
    /// What was run, most often first.
    pub programs: Vec<Program>,
    /// Whom it talked to or wanted to.
    pub peers: Vec<Peer>,
    /// What was stopped, or in audit mode would have been.
    pub stopped: Vec<Finding>,
    /// What was told.
    pub flagged: Vec<Finding>,
    /// What found no room above, by its kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub more: BTreeMap<String, u64>,
    /// Files that git tracks and that are not what they were.
    pub sources: Vec<SourceChange>,
    /// Why sources were not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources_unwatched: Option<String>,
    /// Commands by which somebody else was become, with how often.
    pub sudo: BTreeMap<String, u64>,
    /// Services outside the job that were reached by their sockets, with who did.
    pub brokers: BTreeMap<String, Vec<String>>,
    /// What was lost, by class.
    pub lost: BTreeMap<String, u64>,
    /// What guard cannot enforce on this machine.
    pub not_enforced: Vec<String>,
    /// What went wrong meanwhile.
    pub problems: Vec<String>,
    /// A list of allowed hosts from what was seen.
    pub suggestion: Suggestion,
    /// After `stop`: what could not be cleared away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<String>,
}

/// A child of the worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// From 1.
    pub number: usize,
    /// Its pid.
    pub pid: u32,
    /// Start time, ticks since boot.
    pub start: u64,
    /// As the runner calls it, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Command line, secrets masked.
    pub command: String,
}

/// A program that was run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Its path.
    pub exe: String,
    /// How often.
    pub count: u64,
    /// By root.
    pub as_root: bool,
    /// Steps that ran it.
    pub steps: BTreeSet<usize>,
}

/// Somebody that was talked to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Name, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Addresses.
    pub addrs: BTreeSet<String>,
    /// Port.
    pub port: u16,
    /// `tcp`, `udp` or `quic`.
    pub transport: String,
    /// Connections and datagrams that went through.
    pub passed: u64,
    /// That were refused, or in audit mode would have been.
    pub stopped: u64,
    /// It is none of the allowed.
    pub elsewhere: bool,
    /// It was refused by the name that the connection said, at an address that was allowed.
    #[serde(default)]
    pub by_name: bool,
    /// Programs.
    pub programs: BTreeSet<String>,
    /// Steps.
    pub steps: BTreeSet<usize>,
}

impl Peer {
    /// `host:port`, or the first address with it.
    pub fn place(&self) -> String {
        let first = self.addrs.first().cloned().unwrap_or_default();
        match &self.host {
            Some(host) => format!("{host}:{}", self.port),
            None if first.contains(':') => format!("[{first}]:{}", self.port),
            None => format!("{first}:{}", self.port),
        }
    }
}

/// Something that was stopped or told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// RFC 3339, of the first time.
    pub time: String,
    /// What was done.
    pub verdict: String,
    /// In audit mode: what would have been done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would: Option<String>,
    /// The rule.
    pub rule: String,
    /// Labels.
    pub labels: Vec<String>,
    /// Kind of event.
    pub kind: String,
    /// What it was about.
    pub target: String,
    /// Program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Command line, secrets masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// Process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<usize>,
    /// How often.
    pub count: u64,
}

impl Finding {
    /// Whether it is the same thing again.
    pub fn is_like(&self, other: &Self) -> bool {
        self.rule == other.rule
            && self.target == other.target
            && self.exe == other.exe
            && self.step == other.step
            && self.verdict == other.verdict
            && self.would == other.would
    }

    /// What was done, in a word: `deny`, `would deny`.
    pub fn done(&self) -> String {
        match &self.would {
            Some(would) => format!("would {would}"),
            None => self.verdict.clone(),
        }
    }

    /// The program, or its command line.
    pub fn who(&self) -> &str {
        self.command
            .as_deref()
            .or(self.exe.as_deref())
            .unwrap_or("?")
    }
}

/// A tracked file that is not what it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceChange {
    /// From the checkout's root.
    pub file: String,
    /// What became of it.
    pub how: Change,
    /// Programs that wrote to it or, where none did, beside it.
    pub by: Vec<String>,
}

impl Report {
    /// Whether something was done, rather than only told.
    pub fn blocks(&self) -> bool {
        self.mode == "block"
    }

    /// How often something was stopped, or would have been.
    pub fn stops(&self) -> u64 {
        let counted: u64 = self.stopped.iter().map(|finding| finding.count).sum();
        counted + self.more.get("stopped").copied().unwrap_or(0)
    }

    /// How often something was told, changed sources included.
    pub fn flags(&self) -> u64 {
        let counted: u64 = self.flagged.iter().map(|finding| finding.count).sum();
        counted + self.more.get("flagged").copied().unwrap_or(0) + self.sources.len() as u64
    }

    /// Whether the job is to fail for it.
    pub fn fails(&self, on: Option<FailOn>) -> bool {
        match on {
            None => false,
            Some(FailOn::Stopped) => self.stops() > 0,
            Some(FailOn::Flagged) => self.stops() > 0 || self.flags() > 0,
        }
    }

    /// A step's name, for people.
    pub fn step(&self, number: usize) -> String {
        let step = number.checked_sub(1).and_then(|at| self.steps.get(at));
        match step {
            Some(Step {
                name: Some(name), ..
            }) => format!("step {number} ({name})"),
            _ => format!("step {number}"),
        }
    }

    /// What the runner shows beside the job.
    pub fn annotations(&self) -> Vec<Annotation> {
        let mut all = Vec::new();
        for finding in &self.stopped {
            let gravity = if finding.would.is_some() {
                Gravity::Warning
            } else {
                Gravity::Error
            };
            let step = finding.step.map(|step| format!(" in {}", self.step(step)));
            all.push(Annotation {
                gravity,
                file: None,
                title: format!("guard: {} {}", finding.done(), finding.target),
                message: format!(
                    "{}: {}{} (rule {})",
                    finding.target,
                    finding.who(),
                    step.unwrap_or_default(),
                    finding.rule
                ),
            });
        }
        for change in &self.sources {
            all.push(Annotation {
                gravity: Gravity::Warning,
                file: Some(change.file.clone()),
                title: "guard: source changed during the job".into(),
                message: format!("{}: {}{}", change.file, change.word(), by(&change.by)),
            });
        }
        all
    }
}

impl SourceChange {
    /// What became of it, in a word.
    pub const fn word(&self) -> &'static str {
        match self.how {
            Change::Written => "written to",
            Change::Replaced => "replaced",
            Change::Removed => "removed",
        }
    }
}

fn by(programs: &[String]) -> String {
    if programs.is_empty() {
        String::new()
    } else {
        format!(" by {}", programs.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report with something of everything, in which names are an attacker's.
    pub(super) fn hostile() -> Report {
        let evil =
            "</td><script>|`x`|\n::error::y [z](http://w) @all www.v.u \u{202e}\u{1b}[2J <!--";
        Report {
            mode: "block".into(),
            session: "s-1".into(),
            worker: "Runner.Worker".into(),
            policy: "built-in".into(),
            steps: vec![Step {
                number: 1,
                name: Some(evil.into()),
                command: evil.into(),
                ..Step::default()
            }],
            programs: vec![Program {
                exe: format!("/usr/bin/{evil}"),
                count: 3,
                as_root: true,
                steps: [1].into(),
            }],
            peers: vec![Peer {
                host: Some(evil.into()),
                addrs: ["203.0.113.7".to_owned()].into(),
                port: 443,
                transport: "tcp".into(),
                stopped: 2,
                elsewhere: true,
                programs: [evil.to_owned()].into(),
                ..Peer::default()
            }],
            stopped: vec![Finding {
                verdict: "deny".into(),
                rule: "elsewhere-reached".into(),
                target: evil.into(),
                command: Some(evil.into()),
                step: Some(1),
                count: 2,
                ..Finding::default()
            }],
            flagged: vec![Finding {
                verdict: "flag".into(),
                rule: "credential-touched".into(),
                target: evil.into(),
                count: 1,
                ..Finding::default()
            }],
            sources: vec![SourceChange {
                file: format!("src/{evil}"),
                how: Change::Replaced,
                by: vec![evil.into()],
            }],
            sudo: [(evil.to_owned(), 1)].into(),
            brokers: [("/run/docker.sock".to_owned(), vec![evil.to_owned()])].into(),
            not_enforced: vec!["deny on open".into()],
            problems: vec![evil.into()],
            ..Report::default()
        }
    }

    #[test]
    fn a_job_fails_for_what_it_was_asked_to() {
        let mut report = hostile();
        assert!(report.fails(Some(FailOn::Stopped)) && !report.fails(None));
        report.stopped.clear();
        assert!(!report.fails(Some(FailOn::Stopped)) && report.fails(Some(FailOn::Flagged)));
        report.flagged.clear();
        report.sources.clear();
        assert!(!report.fails(Some(FailOn::Flagged)));
    }

    #[test]
    fn an_annotation_is_one_line_whatever_is_in_it() {
        for annotation in hostile().annotations() {
            let command = annotation.command();
            assert_eq!(command.lines().count(), 1, "{command}");
            assert!(command.starts_with("::error ") || command.starts_with("::warning file=src/"));
            assert!(!command.contains('\u{1b}') && !command.contains('\u{202e}'));
        }
    }
}
