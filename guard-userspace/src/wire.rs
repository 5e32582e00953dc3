//! What guardctl and guardd say to each other over the control socket: one JSON object a line, a
//! request and then one reply, or for a followed stream any number of [`Reply::Event`] lines.
//!
//! The peer is identified by the kernel (`SO_PEERCRED`), never by anything in the request.

mod conduct;
mod herald;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::conduct::{BaselineInfo, CategoryInfo, ConductInfo};
pub use self::herald::{HeraldInfo, HeraldReply, HeraldRequest, PartInfo, Through, Via};
use crate::{conduct::Baseline, event::Event, policy::Mode};

/// The longest line either side accepts, in bytes. Policies travel by path, not by content.
pub const MAX_LINE: usize = 1 << 20;

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Reply: [`Reply::Status`].
    Status,
    /// Reply: [`Reply::Sessions`]. Ended sessions too with `all`.
    Sessions {
        /// Include ended sessions that are still remembered.
        #[serde(default)]
        all: bool,
    },
    /// Reply: [`Reply::Show`].
    Show {
        /// `s-N`.
        session: String,
    },
    /// Replies: [`Reply::Event`] lines, oldest first, then [`Reply::Done`] unless followed.
    Events {
        /// Keep sending events as they happen.
        #[serde(default)]
        follow: bool,
        /// Only of this session.
        #[serde(default)]
        session: Option<String>,
        /// Only of these kinds; empty for all.
        #[serde(default)]
        kinds: Vec<crate::event::Kind>,
        /// Only with a greater `seq`.
        #[serde(default)]
        after: u64,
    },
    /// Reply: [`Reply::Pending`].
    Pending,
    /// Answer a hold. Reply: [`Reply::Done`].
    Approve {
        /// `h-N`.
        id: String,
        /// With it the approval becomes a lease of the session, in milliseconds.
        #[serde(default)]
        for_ms: Option<u64>,
    },
    /// Answer a hold. Reply: [`Reply::Done`].
    Deny {
        /// `h-N`.
        id: String,
        /// Recorded with the answer.
        #[serde(default)]
        reason: Option<String>,
    },
    /// Answer a hold and those like it with one answer. Reply: [`Reply::Done`], or an error when one of them
    /// could not be answered.
    AnswerAll {
        /// `h-N`, of which the group is meant.
        id: String,
        /// `h-N`, the newest hold that whoever answers has seen. Holds have rising numbers: what has come since
        /// is not covered.
        upto: String,
        /// Go on, or fail.
        approve: bool,
        /// Of an approval, as in [`Request::Approve`].
        #[serde(default)]
        for_ms: Option<u64>,
        /// Of a refusal, as in [`Request::Deny`].
        #[serde(default)]
        reason: Option<String>,
    },
    /// Stop every process of a session. Reply: [`Reply::Done`].
    Pause {
        /// `s-N`.
        session: String,
    },
    /// Let a paused session go on. Reply: [`Reply::Done`].
    Resume {
        /// `s-N`.
        session: String,
    },
    /// Kill every process of a session. Reply: [`Reply::Done`].
    Kill {
        /// `s-N`.
        session: String,
    },
    /// Make a process, and all below it, a session. Reply: [`Reply::Adopted`] once every process is
    /// tagged and every hook in place.
    Adopt {
        /// Its pid.
        pid: u32,
        /// Agent name to give the session.
        #[serde(default)]
        agent: Option<String>,
        /// What it is for.
        #[serde(default)]
        intent: Option<String>,
        /// Its kind of work, one of the policy's personas.
        #[serde(default)]
        persona: Option<String>,
        /// `guardctl run` does not adopt something that runs already but begins something new.
        #[serde(default)]
        run: bool,
    },
    /// Give a lease. Reply: [`Reply::Granted`].
    Grant {
        /// `s-N`.
        session: String,
        /// What it allows.
        #[serde(flatten)]
        terms: Terms,
    },
    /// From inside a session: ask for a lease. Reply: [`Reply::Granted`], of one in state `asked`.
    Ask {
        /// What it is to allow.
        #[serde(flatten)]
        terms: Terms,
    },
    /// End a lease. Reply: [`Reply::Done`].
    Revoke {
        /// `g-N`.
        grant: String,
    },
    /// Reply: [`Reply::Grants`].
    Grants,
    /// Set or clear (`text: None`) what a session says it is for. Reply: [`Reply::Done`].
    Intent {
        /// `s-N`.
        session: String,
        /// The text.
        #[serde(default)]
        text: Option<String>,
    },
    /// Reply: [`Reply::Policy`].
    PolicyShow,
    /// Load the policy file again. Reply: [`Reply::Done`].
    PolicyReload,
    /// Write the mode into the policy and load it. Reply: [`Reply::Done`].
    Mode {
        /// Which.
        mode: Mode,
    },
    /// For one session: each rule, its steps and what is missing. Reply: [`Reply::Explain`].
    PolicyExplain {
        /// `s-N`.
        session: String,
    },
    /// What is usual for agents. Reply: [`Reply::Baselines`].
    Baselines {
        /// Of this one alone.
        #[serde(default)]
        agent: Option<String>,
    },
    /// Take what sessions did for usual. Reply: [`Reply::Done`].
    BaselineLearn {
        /// `s-N` each.
        sessions: Vec<String>,
        /// Whose baseline; that of the sessions' own agent where it is not said.
        #[serde(default)]
        agent: Option<String>,
        /// Though some of their calls were refused.
        #[serde(default)]
        force: bool,
    },
    /// Put baselines in the place of learned ones. Reply: [`Reply::Done`].
    BaselineImport {
        /// Each names its agent.
        baselines: Vec<Baseline>,
    },
    /// Forget what was learned of an agent. Reply: [`Reply::Done`].
    BaselineForget {
        /// Its name.
        agent: String,
    },
    /// For guardd's own herald alone.
    Herald(HeraldRequest),
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// It was done; `message` for people.
    Done {
        /// One line.
        message: String,
    },
    /// It was not done.
    Error(Failure),
    /// See [`Status`].
    Status(Box<Status>),
    /// See [`SessionInfo`].
    Sessions {
        /// Oldest first.
        sessions: Vec<SessionInfo>,
    },
    /// One session.
    Show(Box<SessionDetail>),
    /// One event.
    Event(Box<Event>),
    /// Holds that wait, oldest first.
    Pending {
        /// Each with its evidence.
        holds: Vec<HoldInfo>,
        /// How many more wait, the newest, that one reply has no room for.
        #[serde(default, skip_serializing_if = "is_none_at_all")]
        left_out: u64,
        /// Leases that sessions ask for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        asked: Vec<GrantInfo>,
    },
    /// A session began.
    Adopted {
        /// `s-N`.
        session: String,
        /// Processes that were tagged.
        processes: u64,
        /// What its user should know.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A lease was given.
    Granted {
        /// The lease.
        grant: GrantInfo,
    },
    /// Leases, oldest first.
    Grants {
        /// The leases.
        grants: Vec<GrantInfo>,
    },
    /// The policy in force.
    Policy {
        /// Where it came from: a path, or `built-in`.
        source: String,
        /// Its text.
        text: String,
        /// What it says that this version or kernel does not enforce, one line each.
        not_enforced: Vec<String>,
    },
    /// Rules against one session.
    Explain {
        /// In the policy's order.
        rules: Vec<RuleExplanation>,
    },
    /// Baselines, the learned ones first.
    Baselines {
        /// Each with where it is from.
        baselines: Vec<BaselineInfo>,
    },
    /// To the herald.
    Herald(HeraldReply),
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind, which decides guardctl's exit status.
    pub code: Code,
    /// `what: why: what to do`.
    pub message: String,
}

/// Kinds of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The thing does not exist, or the answer is no. Exit 1.
    NotFound,
    /// It ran and failed. Exit 1.
    Failed,
    /// The call or the policy is wrong. Exit 2.
    Invalid,
    /// The daemon cannot be reached. Exit 3.
    Unreachable,
    /// Not allowed for this peer. Exit 4.
    Forbidden,
}

impl Code {
    /// guardctl's exit status.
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::NotFound | Self::Failed => 1,
            Self::Invalid => 2,
            Self::Unreachable => 3,
            Self::Forbidden => 4,
        }
    }

    /// The word in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Failed => "failed",
            Self::Invalid => "invalid",
            Self::Unreachable => "unreachable",
            Self::Forbidden => "forbidden",
        }
    }
}

/// The daemon at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `ok` or `degraded`.
    pub state: String,
    /// Why it is degraded, one line each; empty when it is not.
    pub degraded: Vec<String>,
    /// Version of guardd.
    pub version: String,
    /// Its pid.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// `observe` or `enforce`.
    pub mode: String,
    /// Kernel release.
    pub kernel: String,
    /// Path of the policy, or `built-in`.
    pub policy: String,
    /// The files of the machine's policy, where they are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy_files: Vec<String>,
    /// Users' own files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub user_policies: Vec<UserPolicyInfo>,
    /// Each thing watched and what serves it.
    pub hooks: Vec<HookInfo>,
    /// What the policy or the contract says that cannot be enforced here, with the reason.
    pub not_enforced: Vec<String>,
    /// Live sessions.
    pub sessions: u64,
    /// Processes in sessions.
    pub processes: u64,
    /// Holds that wait for a person.
    pub holds: u64,
    /// Holds a day, and what became of them.
    #[serde(default)]
    pub hold_counts: HoldCounts,
    /// Why whoever asks may not answer holds; `None` when they may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_not_answer: Option<String>,
    /// Use of the lineage table.
    pub lineage_used: u64,
    /// Its size.
    pub lineage_size: u64,
    /// Records by class.
    pub counters: Vec<CounterInfo>,
    /// Events in the journal.
    pub events: u64,
    /// Directory of the journal.
    pub state_dir: String,
    /// How far the journal goes and is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal: Option<JournalInfo>,
    /// Who tells people outside, where the policy asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub herald: Option<HeraldInfo>,
}

/// The journal at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalInfo {
    /// Public half of its key, 64 hexadecimal digits.
    pub key: String,
    /// Number of the newest event.
    pub seq: u64,
    /// Link of that event, 64 hexadecimal digits.
    pub head: String,
    /// Number of the newest event that the head file covers.
    pub signed: u64,
    /// Number of the newest checkpoint.
    pub checkpoint: u64,
    /// Number of the first event that retention has left.
    pub begins: u64,
    /// Events that found no room since guardd started.
    pub unwritten: u64,
}

/// A user's own policy file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserPolicyInfo {
    /// The user's name.
    pub user: String,
    /// Whose.
    pub uid: u32,
    /// The file.
    pub path: String,
    /// Rules that it adds for that user's sessions.
    pub rules: u64,
    /// Why it is left out, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
}

/// How often a person is asked, and what they say. Counted by whole hours.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HoldCounts {
    /// Holds in the running hour and the 23 before.
    pub last_24h: u64,
    /// Holds a day, over the last 7 days or as long as has been counted, to one decimal.
    pub mean_7d: f64,
    /// Of the last 7 days: let go on by a person.
    pub approved: u64,
    /// Of the last 7 days: refused by a person.
    pub denied: u64,
    /// Of the last 7 days: nobody answered in time.
    pub timed_out: u64,
    /// Rules of whose many holds nearly all were approved, and what to do, a line each.
    pub advice: Vec<String>,
}

/// Records of one class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CounterInfo {
    /// `lineage`, `verdict`, `activity`, `fact`.
    pub class: String,
    /// Handed over by the kernel.
    pub emitted: u64,
    /// Lost because a buffer or table was full.
    pub lost: u64,
}

/// One thing that is watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HookInfo {
    /// `lineage`, `exec`, `open`, `connect`, `unix-connect` …
    pub watched: String,
    /// Which mechanism serves it (`tracepoint`, `tp_btf`, `cgroup`), or `none`.
    pub tier: String,
    /// What it can do: `flag`, `hold`, `deny`, `kill`.
    pub can: Vec<String>,
    /// Attached now (syscall hooks are only attached while a session lives).
    pub attached: bool,
    /// Anything a person should know, such as why a better tier does not serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One line of `guardctl sessions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// `s-N`.
    pub id: String,
    /// Agent name.
    pub agent: String,
    /// Pid of its first process.
    pub root_pid: u32,
    /// Real uid of its first process.
    pub uid: u32,
    /// Seconds since it began.
    pub age_s: u64,
    /// Processes alive.
    pub processes: u64,
    /// Labels touched.
    pub facts: Vec<String>,
    /// `running`, `held`, `paused`, `ended`.
    pub state: String,
    /// Session that it runs inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// How it was found: `exec`, `script`, `env`, `run`, `adopt`, `proc`.
    pub origin: String,
    /// What it says it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// 0 to 100 where a score is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<u8>,
}

/// One process of a session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: u32,
    /// Its parent.
    pub ppid: u32,
    /// Path of the program, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Command line, secrets masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// `running`, `held`, `stopped`.
    pub state: String,
}

/// A label that a session has touched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactInfo {
    /// The label.
    pub label: String,
    /// RFC 3339, of the last touch.
    pub last: String,
    /// Seconds since the last touch.
    pub age_s: u64,
    /// The object of the last touch: a path, an address, a command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
}

/// Everything about one session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionDetail {
    /// As in the list.
    pub info: SessionInfo,
    /// Live processes; parents before their children.
    pub tree: Vec<ProcessInfo>,
    /// Newest last.
    pub facts: Vec<FactInfo>,
    /// The last events, oldest first.
    pub timeline: Vec<Event>,
    /// Processes whose requests could not be read, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub untapped: Vec<String>,
    /// Variables with secrets that its first process was started with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<EnvironmentInfo>,
    /// What was made of its intent, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub understood: Option<String>,
    /// Why it has none, though its directory says something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_problem: Option<String>,
    /// Its kind of work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persona: Option<String>,
    /// How it behaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conduct: Option<ConductInfo>,
}

/// A variable of an environment that holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentInfo {
    /// Its name.
    pub name: String,
    /// Whose secret it is.
    pub provider: String,
    /// Which of theirs.
    pub kind: String,
}

/// Whether a number is left out of JSON.
fn is_none_at_all(count: &u64) -> bool {
    *count == 0
}

/// A hold that waits for a person; to the herald also a lease that a session asks for, which is told in the same way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HoldInfo {
    /// `h-N`, or `g-N` of a lease.
    pub id: String,
    /// `s-N`.
    pub session: String,
    /// Agent name.
    pub agent: String,
    /// The rule; of a lease, why it is asked for.
    pub rule: String,
    /// The rule's steps, in order.
    pub when: Vec<String>,
    /// The held process.
    pub pid: u32,
    /// Real uid.
    pub uid: u32,
    /// Its program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Its command line, secrets masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// Its working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Name of the user, where the machine's own list of users has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Who logged in, where that is another user: what `sudo` does not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_uid: Option<u32>,
    /// Variables of its environment that say what it acts on (`AWS_PROFILE=production`), secrets masked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<String>,
    /// What it is about to do, in one line: `connect 127.0.0.1:18443`.
    pub target: String,
    /// RFC 3339 of the stop.
    pub since: String,
    /// Seconds since.
    pub age_s: u64,
    /// Seconds until silence decides.
    pub expires_in_s: u64,
    /// What silence means: deny, kill, resume; of a lease: refuse.
    pub on_timeout: String,
    /// What the session says it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// The events that led here, oldest first, the held call last.
    pub evidence: Vec<Event>,
    /// `hg-N`: holds with the same one are alike, and one answer may cover them.
    #[serde(default)]
    pub group: String,
    /// How many of its group wait, with this one.
    #[serde(default)]
    pub like: u64,
    /// What an answer by a channel must carry; told to the herald alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The channels that have told of it, each with where its message is; told to the herald alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub told: BTreeMap<String, String>,
}

impl HoldInfo {
    /// Whether it is a lease that is asked for.
    pub fn is_ask(&self) -> bool {
        self.id.starts_with("g-")
    }
}

/// What a lease allows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// Label name.
    pub label: String,
    /// How long, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
    /// Recorded with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// This file alone, an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Connections to this address alone, with its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// These operations alone; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Operation>,
    /// So many calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
}

/// What a process does with what carries a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Opens a file.
    Open,
    /// Executes a program or a command.
    Exec,
    /// Connects or sends to an address or a host.
    Connect,
    /// Makes a request.
    Request,
    /// Sends a signal, or makes another system call that the label names.
    Call,
}

impl Operation {
    /// The kinds of calls that it stands for, of [`guard_common::event::kind`].
    pub const fn kinds(self) -> &'static [u8] {
        use guard_common::event::kind;
        match self {
            Self::Open => &[kind::OPEN],
            Self::Exec => &[kind::EXEC],
            Self::Connect => &[kind::CONNECT],
            Self::Request => &[kind::REQUEST],
            Self::Call => &[kind::SIGNAL, kind::CALL],
        }
    }

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Exec => "exec",
            Self::Connect => "connect",
            Self::Request => "request",
            Self::Call => "call",
        }
    }
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GrantInfo {
    /// `g-N`.
    pub id: String,
    /// `s-N`.
    pub session: String,
    /// Label name.
    pub label: String,
    /// The path or the address that alone it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Operations that alone it is for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Operation>,
    /// Calls that it still allows, where they are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// When it was given or asked for, RFC 3339.
    pub since: String,
    /// Seconds left, or asked for; 0 when it has ended.
    pub expires_in_s: u64,
    /// `active`, `expired`, `used up`, `revoked`; `asked` and `refused` of what a session has asked for.
    pub state: String,
    /// Why it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// uid of who gave, refused or asked for it.
    pub by_uid: u32,
}

/// One rule against one session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleExplanation {
    /// Rule name.
    pub rule: String,
    /// What it does.
    pub then: String,
    /// Window in seconds, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_s: Option<u64>,
    /// Steps with whether each is fulfilled now.
    pub steps: Vec<StepExplanation>,
    /// The label that would make it fire now, if all steps before are fulfilled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fires_on: Option<String>,
}

/// One step of a rule against one session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepExplanation {
    /// The label.
    pub label: String,
    /// A chain up to and with this step stands within the window now.
    pub fulfilled: bool,
    /// Seconds since that chain began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
}
