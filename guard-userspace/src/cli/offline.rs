//! Commands that need no daemon. What they do lives in other modules of this library and is handed
//! in by the binary, so that the command line depends on none of them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::args::InitArgs;

/// What the binary hands in.
#[derive(Clone, Copy)]
pub struct Offline {
    /// `policy check FILE`: a text for people when the policy is right, else where it is wrong (may
    /// be several lines).
    pub policy_check: fn(&Path) -> Result<String, String>,
    /// `policy schema`: the schema as text.
    pub schema: fn() -> String,
    /// `init`: what to tell the person, or what is wrong, in one line.
    pub init: fn(&InitArgs) -> Result<String, String>,
    /// `doctor`: tries each thing guard needs on this machine.
    pub doctor: fn() -> DoctorReport,
    /// `verify`: checks the journal in a state directory.
    pub verify: fn(state_dir: &Path) -> Result<String, String>,
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
