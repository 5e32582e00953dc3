//! What the herald and guardd say to each other. The herald is guardd's own child; nobody else may say any of
//! this, whoever the kernel says they are.

use serde::{Deserialize, Serialize};

use crate::policy::Settings;

/// What only the herald, and who looks after it inside guardd, may ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum HeraldRequest {
    /// Reply: [`HeraldReply::Settings`].
    Settings,
    /// With `id` one hold and what an answer to it must carry, or none if it waits no more; without it all that wait,
    /// in short. Reply: [`Reply::Pending`](super::Reply::Pending).
    Holds {
        /// `h-N`.
        #[serde(default)]
        id: Option<String>,
    },
    /// Who is in a session. Reply: [`HeraldReply::Members`].
    Members,
    /// It was started, as this process. Reply: [`Reply::Done`](super::Reply::Done).
    Started {
        /// Its pid.
        pid: u32,
    },
    /// It has ended, or could not be started. Reply: [`Reply::Done`](super::Reply::Done).
    Gone {
        /// Why, for people; `None` where nothing asks for it any more.
        why: Option<String>,
    },
    /// How its parts are. Said whenever something has changed, and every few seconds. Reply:
    /// [`Reply::Done`](super::Reply::Done).
    Report {
        /// Every part.
        parts: Vec<PartInfo>,
        /// Number of the last event that it heard of.
        heard: u64,
    },
    /// An answer that came by a channel. Reply: [`Reply::Done`](super::Reply::Done).
    Answer {
        /// `h-N`.
        id: String,
        /// What was given out with the hold.
        token: String,
        /// Whether it may go on.
        approve: bool,
        /// Recorded with a refusal.
        #[serde(default)]
        reason: Option<String>,
        /// How it came.
        via: Via,
    },
    /// A channel has told of a hold, and whoever it told has acknowledged that: another herald need not tell it again.
    /// Reply: [`Reply::Done`](super::Reply::Done).
    Told {
        /// `h-N`.
        id: String,
        /// The channel, as in [`PartInfo::name`].
        channel: String,
        /// Where the message is, in the channel's own words: for what is to be changed or asked about later.
        place: String,
    },
    /// An answer that the herald itself has not let through, to be recorded. Reply: [`Reply::Done`](super::Reply::Done).
    Refused {
        /// As it was in the answer.
        #[serde(default)]
        id: Option<String>,
        /// Why.
        why: String,
        /// How it came.
        via: Via,
    },
}

/// What guardd answers to the herald alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "told", rename_all = "kebab-case")]
pub enum HeraldReply {
    /// The settings in force.
    Settings {
        /// Of the policy.
        settings: Box<Settings>,
        /// Number of the last event that a herald has heard of; that with which guardd started, at first.
        heard: u64,
    },
    /// Processes in sessions, in no order.
    Members {
        /// Their pids.
        pids: Vec<u32>,
    },
}

/// How an answer came: recorded with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Via {
    /// `desktop`, `slack`, or `webhook NAME`.
    pub channel: String,
    /// Who answered, as the channel knows them.
    pub who: String,
    /// Where from: an address, a bus, a place in Slack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Processes of this machine that it came through: first the one that answered. None of them may belong to a
    /// session, and the first may answer only where it could have done so on the control socket.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<Through>,
}

/// A process by pid and start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Through {
    /// Process id.
    pub pid: u32,
    /// Start time, clock ticks since boot.
    pub start: u64,
}

/// The herald at a glance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HeraldInfo {
    /// Its pid; `None` while it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How often it was started since guardd was.
    pub starts: u64,
    /// Why it does not run, or does not do its work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What it does.
    pub parts: Vec<PartInfo>,
}

/// One part of the herald: a channel, or something else that talks to the world outside.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PartInfo {
    /// `terminal`, `desktop`, `slack`, `webhook NAME` …
    pub name: String,
    /// `starting`, `ok` or `failing`.
    pub state: String,
    /// RFC 3339: since when it is so.
    pub since: String,
    /// What went wrong last, also when it is well again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Messages that have left.
    pub sent: u64,
    /// Messages that were given up.
    pub dropped: u64,
    /// Answers that were not taken.
    pub refused: u64,
    /// Events that it has taken and has neither sent nor given up yet; of parts that have events for a while only.
    #[serde(default)]
    pub waiting: u64,
    /// Events that waited in heralds before this one, which have died: at most so many are lost.
    #[serde(default)]
    pub lost: u64,
}
