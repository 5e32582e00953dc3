//! Commands that need no daemon. What they do lives in other modules of this library and is handed
//! in by the binary, so that the command line depends on none of them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    args::InitArgs,
    scan::{ScanArgs, ScanReport},
};
use crate::{event::Event, journal::Against, replay::Replayed, suggest::Suggested};

/// What the binary hands in.
#[derive(Clone, Copy)]
pub struct Offline {
    /// `policy check FILE`: a text for people when the policy is right, else where it is wrong (may
    /// be several lines).
    pub policy_check: fn(&Path) -> Result<String, String>,
    /// `policy test FILE`: each case with what came of it, or where the file or the policy (the second) is wrong.
    pub policy_test: fn(&Path, Option<&Path>) -> Result<TestReport, String>,
    /// `policy schema`: the schema as text.
    pub schema: fn() -> String,
    /// `init`: what to tell the person, or what is wrong, in one line.
    pub init: fn(&InitArgs) -> Result<String, String>,
    /// `doctor`: tries each thing guard needs on this machine.
    pub doctor: fn() -> DoctorReport,
    /// `verify`: checks the journal in a state directory.
    pub verify: fn(state_dir: &Path, against: &Against) -> Result<VerifyReport, String>,
    /// `replay`: what the policy would have said of a journal, of one session where that is asked for; or that the policy
    /// is wrong, and where.
    pub replay:
        fn(events: Events, policy: &Path, session: Option<&str>) -> Result<Replayed, String>,
    /// `scan`: secrets in files, or why nothing was searched.
    pub scan: fn(&ScanArgs) -> Result<ScanReport, String>,
    /// `policy suggest`: what the policy (of a path, else the built-in one) could say better, by these events; or that the policy is
    /// wrong, and where.
    pub suggest: fn(events: Events, policy: Option<&Path>) -> Result<Suggested, String>,
    /// `report`, `replay` and `policy suggest`: the journal's events in a state directory, oldest first; a line that cannot be read is an error among
    /// them.
    pub journal: fn(state_dir: &Path) -> Result<Events, String>,
}

/// What `policy test` found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestReport {
    /// In the order of the file.
    pub cases: Vec<TestCase>,
    /// Cases in which everything was as expected.
    pub passed: usize,
    /// The others.
    pub failed: usize,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestCase {
    /// Its name.
    pub name: String,
    /// Everything was as expected.
    pub passed: bool,
    /// What happens in it, in order.
    pub events: Vec<TestEvent>,
}

/// One event of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestEvent {
    /// Its line in the file, from 1.
    pub line: usize,
    /// What happens.
    pub what: String,
    /// Labels that it carries.
    pub labels: Vec<String>,
    /// What the policy says.
    pub verdict: String,
    /// What it would say if no rule only observed; left out where that is the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would: Option<String>,
    /// The rule that decides, where one fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Rules that it could have completed, and which label they lack.
    pub lacking: Vec<Lacking>,
    /// In what this differs from what was expected.
    pub wrong: Vec<String>,
}

/// A rule that did not fire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lacking {
    /// The rule.
    pub rule: String,
    /// The first label that has not been touched before it, or not within its window.
    pub label: String,
}

/// Events of a journal.
pub type Events = Box<dyn Iterator<Item = Result<Event, String>>>;

/// What `verify` found in a journal that is whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// For people; may be several lines.
    pub message: String,
    /// Events in it.
    pub events: u64,
    /// Files in it.
    pub segments: u64,
    /// Number of the first event.
    pub first_seq: u64,
    /// When retention last removed what was before, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<String>,
    /// Number of the last event.
    pub last_seq: u64,
    /// Its link.
    pub head: String,
    /// Checkpoints in it.
    pub checkpoints: u64,
    /// Number of the last event that is signed, 0 where none is.
    pub signed_seq: u64,
    /// Public half of the key that signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Nobody vouches for that key but the journal itself.
    pub key_unknown: bool,
    /// Bytes behind the last whole line.
    pub partial_bytes: u64,
}

/// What `doctor` found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DoctorReport {
    /// Each thing that was tried, in the order it was tried.
    pub checks: Vec<DoctorCheck>,
    /// What will and what will not work here, for people.
    pub summary: String,
}

impl DoctorReport {
    /// Everything that guard cannot do without is there.
    pub fn ok(&self) -> bool {
        self.checks.iter().all(|check| check.ok || !check.required)
    }
}

/// One thing that `doctor` tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DoctorCheck {
    /// What was tried: `lsm`, `tp_btf`, `tracefs` …
    pub name: String,
    /// It works.
    pub ok: bool,
    /// guard cannot do without it.
    pub required: bool,
    /// What was found, in one line.
    pub detail: String,
    /// How to mend it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}
