//! Events as they are stored, shown and sent: one JSON object a line. The field names are fixed for
//! the programs outside that read them.

pub mod ecs;
pub mod ocsf;
mod parts;
#[cfg(test)]
mod samples;

use serde::{Deserialize, Serialize};

/// Version of the event format.
pub const VERSION: u32 = 1;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A session began, changed or ended.
    Session,
    /// A program was executed in a session.
    Exec,
    /// A labelled file was opened.
    Open,
    /// A connection was attempted, or a datagram sent.
    Connect,
    /// A request was recognised.
    Request,
    /// A signal was sent to something that guard protects.
    Signal,
    /// A guarded system call was made: control over a process, bpf, io_uring.
    Call,
    /// A process was stopped and waits for a person, or its hold ended.
    Hold,
    /// A person answered a hold.
    Answer,
    /// A lease was given, used up or revoked.
    Grant,
    /// A session said what it is for.
    Intent,
    /// The policy was loaded.
    Policy,
    /// Records were lost.
    Lost,
    /// guardd itself: started, stopped, degraded.
    Guard,
}

impl Kind {
    /// The word in JSON and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Exec => "exec",
            Self::Open => "open",
            Self::Connect => "connect",
            Self::Request => "request",
            Self::Signal => "signal",
            Self::Call => "call",
            Self::Hold => "hold",
            Self::Answer => "answer",
            Self::Grant => "grant",
            Self::Intent => "intent",
            Self::Policy => "policy",
            Self::Lost => "lost",
            Self::Guard => "guard",
        }
    }

    /// Every kind, for help texts.
    pub const ALL: [Self; 14] = [
        Self::Session,
        Self::Exec,
        Self::Open,
        Self::Connect,
        Self::Request,
        Self::Signal,
        Self::Call,
        Self::Hold,
        Self::Answer,
        Self::Grant,
        Self::Intent,
        Self::Policy,
        Self::Lost,
        Self::Guard,
    ];
}

/// One event. A field that is not known is left out, never guessed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`VERSION`].
    pub v: u32,
    /// Position in the journal, from 1, without gaps. 0 until the journal has taken it.
    pub seq: u64,
    /// RFC 3339 in UTC with microseconds.
    pub time: String,
    /// `s-N`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Name of the session's agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What it is about.
    pub kind: Kind,
    /// Thread id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tgid: Option<u32>,
    /// Parent's process id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppid: Option<u32>,
    /// Real user id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Path of the program that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// The thread's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comm: Option<String>,
    /// Its command line, secrets masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// What was acted on; its members depend on the kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<serde_json::Value>,
    /// Labels touched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// What was done: allow, flag, hold, deny, kill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// In observe mode: what would have been done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would: Option<String>,
    /// The rule that gave the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// How bad its rule says that it is: `informational` to `critical`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// Numbers of the events that the verdict rests on besides this one, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<u64>,
    /// Which mechanism saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Nanoseconds from the hook's entry to the act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ns: Option<u64>,
    /// Start time of the process, clock ticks since boot, as in `/proc/PID/stat` field 22: with the
    /// pid it names one process for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// `CLOCK_MONOTONIC` in nanoseconds, for windows that must survive a restart of guardd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mono_ns: Option<u64>,
}

/// What a notice says that guardd found its journal changed.
pub const JOURNAL_ALTERED: &str = "journal altered";
/// What an event of a session says whose score has fallen below the policy's threshold.
pub const DIVERGENCE: &str = "divergence";

impl Event {
    /// Whether it is such a notice.
    pub fn is_journal_altered(&self) -> bool {
        let what = self.object.as_ref().and_then(|object| object.get("what"));
        self.kind == Kind::Guard && what.and_then(|what| what.as_str()) == Some(JOURNAL_ALTERED)
    }

    /// Whether it says that a session's score has fallen below the threshold.
    pub fn is_divergence(&self) -> bool {
        let what = self.object.as_ref().and_then(|object| object.get("what"));
        self.kind == Kind::Session && what.and_then(|what| what.as_str()) == Some(DIVERGENCE)
    }

    /// An event of this kind, now, with nothing else known.
    pub fn new(kind: Kind) -> Self {
        Self {
            v: VERSION,
            seq: 0,
            time: crate::clock::rfc3339_now(),
            session: None,
            agent: None,
            kind,
            pid: None,
            tgid: None,
            ppid: None,
            uid: None,
            exe: None,
            comm: None,
            argv: None,
            object: None,
            labels: Vec::new(),
            verdict: None,
            would: None,
            rule: None,
            severity: None,
            evidence: Vec::new(),
            tier: None,
            latency_ns: None,
            start: None,
            mono_ns: None,
        }
    }
}
