//! An incident retold from the journal's events: who, when, what it did, why it was stopped, what was not stopped,
//! and what is not known. Built from events alone, so it works on a journal whose guardd is gone.

mod collect;
mod html;
mod markdown;
mod story;
#[cfg(test)]
mod tests;
mod walk;
mod words;

use serde::Serialize;

pub use self::{collect::Collector, html::html, markdown::markdown};

/// Version of the report's JSON.
pub const VERSION: u32 = 1;

/// One session, retold.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// [`VERSION`].
    pub v: u32,
    /// `s-N`.
    pub session: String,
    /// Sessions inside it that are part of the story.
    pub inner: Vec<String>,
    /// The session that it ran inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Name of its agent.
    pub agent: String,
    /// Real user id of its processes, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// How it was found: `exec`, `run`, `adopt` …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// First event of it, RFC 3339.
    pub began: String,
    /// The beginning itself is in the journal.
    pub from_the_beginning: bool,
    /// RFC 3339; `None` while it runs, or where its end is not in the journal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// How it came out, in one line.
    pub outcome: String,
    /// What it said it was for, oldest first.
    pub intents: Vec<Intent>,
    /// How many of what.
    pub counts: Counts,
    /// What a rule has judged, oldest first.
    pub verdicts: Vec<Verdict>,
    /// What was stopped, a line each.
    pub stopped: Vec<Line>,
    /// What was not, though a rule or a person had to do with it.
    pub not_stopped: Vec<Line>,
    /// Every process that was seen; parents before their children.
    pub processes: Vec<Process>,
    /// What happened, oldest first.
    pub timeline: Vec<Entry>,
    /// Entries left out of the timeline for want of room: unlabelled and allowed.
    pub omitted: u64,
    /// What is not known: records lost, guardd not running, a journal that was changed.
    pub losses: Vec<Line>,
}

/// How many of what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(
    missing_docs,
    reason = "the names are the kinds of events and of verdicts"
)]
pub struct Counts {
    pub events: u64,
    pub exec: u64,
    pub open: u64,
    pub connect: u64,
    pub request: u64,
    pub call: u64,
    pub flag: u64,
    pub hold: u64,
    pub deny: u64,
    pub kill: u64,
    /// Verdicts that were only observed.
    pub would: u64,
}

/// What a session said it was for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Intent {
    /// RFC 3339.
    pub time: String,
    /// `None` where it was cleared.
    pub text: Option<String>,
}

/// One line with its time and the event that it is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Number of the event.
    pub seq: u64,
    /// RFC 3339.
    pub time: String,
    /// The line, in guard's own words.
    pub what: String,
    /// What it was about, as the process gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// One event of the timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its number.
    pub seq: u64,
    /// RFC 3339.
    pub time: String,
    /// Its session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Its kind.
    pub kind: &'static str,
    /// The process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The command line that did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// What was acted on, or what happened.
    pub what: String,
    /// Labels touched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// What was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// What would have been done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would: Option<String>,
    /// The rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

/// What a rule has judged, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The call that was judged.
    pub call: Entry,
    /// What the rule said, carried out or not.
    pub verdict: String,
    /// It was carried out; else only observed.
    pub enforced: bool,
    /// The facts that led there, oldest first.
    pub evidence: Vec<Fact>,
    /// Of a hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Times the process tried it after the hold was denied, and failed.
    #[serde(skip_serializing_if = "is_none")]
    pub refused: u64,
    /// What came of it, in one line.
    pub outcome: String,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

/// A fact that a verdict rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// The event that made it one.
    pub event: Entry,
    /// How long before the verdict, milliseconds.
    pub age_ms: u64,
}

/// A hold and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// `h-N`.
    pub id: String,
    /// `approved`, `denied`, `timed out`, `guardd stopped`, `ended`; `None` where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// When it was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered: Option<String>,
    /// Who did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_uid: Option<u64>,
    /// By which process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_pid: Option<u64>,
    /// How long it waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<u64>,
    /// The reason given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The lease that came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Start time in clock ticks since boot: with the pid it names one process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// Its parent's pid, as first seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppid: Option<u32>,
    /// Its session.
    pub session: String,
    /// Processes of the story between it and the root.
    pub depth: usize,
    /// What it ran, in order.
    pub commands: Vec<String>,
    /// Labels it touched.
    pub labels: Vec<String>,
    /// Verdicts it was given, strictest of each call.
    pub verdicts: Vec<String>,
}
