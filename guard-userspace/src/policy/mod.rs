//! The policy: read from TOML, compiled into the kernel's tables, and the judges for what the kernel
//! leaves to userspace (which agent a program is, what a command line means).
//!
//! A policy passes through here in one direction: text → [`Policy`] → [`Tables`]. Every mistake a
//! policy can hold is found by [`Policy::parse`], tables that overflow included, so what has been
//! parsed compiles.

mod address;
mod agent;
pub mod cases;
mod classify;
mod clusters;
mod command;
mod document;
mod error;
pub mod files;
mod glob;
mod homes;
mod host;
mod interpreter;
pub mod judge;
mod labels;
mod persona;
mod read;
mod request;
mod root;
pub mod schema;
mod script;
pub mod settings;
mod spared;
mod statement;
mod tables;
#[cfg(test)]
mod tests;
pub mod users;
mod wrapper;

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use guard_common::Verdict;
use serde::{Deserialize, Serialize};

use crate::{
    http::Request,
    secrets::{self, Meaning},
};

pub use self::{
    address::Address,
    agent::{AgentMatcher, EnvMarker, ExePattern, Found, Program},
    classify::Classified,
    clusters::Clusters,
    command::{CommandMatcher, CommandPattern},
    error::{Mistake, Place, PolicyError},
    homes::Homes,
    host::HostPattern,
    labels::{BY_GUARD, DIVERGENT, HUNT, LabelBits, OUTSIDE_INTENT, OUTSIDE_PERSONA},
    persona::Persona,
    request::{Fits, RequestPattern},
    settings::{
        Desktop, Hunting, Journald, Listen, Metrics, Notify, Otlp, Settings, Slack, SlackAnswers,
        SlackTo, Terminal, Webhook, Which,
    },
    spared::{Allowed, SparedHost},
    tables::Tables,
};

/// The policy that is used where there is no file.
const BUILT_IN: &str = include_str!("../../../policy/default.toml");

/// Where a policy came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The program itself.
    BuiltIn,
    /// This file.
    File(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built-in"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// One file of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it came from.
    pub source: Source,
    /// As written.
    pub text: String,
}

/// Whether verdicts are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They are recorded, and nothing is touched.
    Observe,
    /// They are carried out.
    Enforce,
}

impl Mode {
    /// The word in the policy.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }
}

/// What a hold stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The process that made the call.
    Process,
    /// Every process of the session.
    Session,
}

/// A policy without mistakes.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The files that it was read from, the main one first.
    pub parts: Vec<Part>,
    /// Whether verdicts are carried out.
    pub mode: Mode,
    /// The agents, in order.
    pub agents: Vec<Agent>,
    /// What kinds of work may touch at all, in order.
    pub personas: Vec<Persona>,
    /// The label tables, in order; several may share a name.
    pub groups: Vec<LabelGroup>,
    /// Distinct label names, in order of first mention.
    pub labels: Vec<String>,
    /// The rules, in order: the index is the one in the kernel's table.
    pub rules: Vec<Rule>,
    /// API servers of Kubernetes that users' kubeconfigs name.
    pub clusters: Clusters,
    /// What it says about guardd itself, and its dealings with the world outside.
    pub settings: Settings,
}

/// `[[agent]]`: a program whose processes make a session.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// Programs or scripts it is recognised by.
    pub exe: Vec<ExePattern>,
    /// Environment variables it is recognised by.
    pub env: Vec<EnvMarker>,
}

/// One `[[label]]` table.
#[derive(Clone, Debug)]
pub struct LabelGroup {
    /// Name of the label; others may share it.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Files that carry it.
    pub files: Vec<Glob>,
    /// They carry it only for opens that write. The same for every group of a label.
    pub written: bool,
    /// Addresses that carry it.
    pub addresses: Vec<Address>,
    /// AF_UNIX sockets that carry it (`unix:PATH` among the addresses): the kernel knows them as files.
    pub sockets: Vec<Glob>,
    /// What the server behind such a socket starts for a session belongs to the session.
    pub follow: bool,
    /// Host names that carry it.
    pub hosts: Vec<HostPattern>,
    /// Command lines that carry it.
    pub argv: Vec<CommandPattern>,
    /// System calls that carry it, of [`guard_common::state::act`].
    pub calls: Vec<u32>,
    /// Requests that carry it.
    pub requests: Vec<RequestPattern>,
    /// Programs for which nothing of this group is a fact.
    pub except_exe: Vec<Glob>,
    /// Files that do not carry the label, whichever group would give it.
    pub except_files: Vec<Glob>,
    /// Whose own label it is; `None` for the machine's.
    pub user: Option<u32>,
    /// Nobody touches it without a lease: there is a rule `sealed:NAME` for it.
    pub sealed: bool,
    /// Addresses that do not carry the label, whatever is said to them.
    pub except_addresses: Vec<Address>,
    /// Names whose addresses do not carry the label, as long as connections say no other name.
    pub except_hosts: Vec<SparedHost>,
    /// Name servers that are believed when they say which addresses these are.
    pub resolvers: Vec<std::net::IpAddr>,
    /// Number of its bit in [`guard_common::matching::Pattern::groups`]; only groups with
    /// `except_exe` have one.
    pub group: Option<u8>,
}

impl LabelGroup {
    /// Its bit as a mask; 0 for a group without excepted programs.
    pub fn mask(&self) -> u64 {
        self.group.map_or(0, |bit| 1 << bit)
    }
}

/// A file or program pattern.
#[derive(Clone, Debug)]
pub struct Glob {
    /// As written.
    pub text: String,
    span: Range<usize>,
    /// The file of the policy that it stands in, from 0.
    file: usize,
    paths: Vec<glob::PathGlob>,
}

/// `[[rule]]`: a sequence of labels and what is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Labels in order, one that is to be touched several times as often; the last is the trigger. One to
    /// [`guard_common::MAX_STEPS`].
    pub when: Vec<String>,
    /// Labels whose touch keeps it from firing. Up to [`guard_common::MAX_UNLESS`].
    pub unless: Vec<Unless>,
    /// How bad it is, for people and their tools.
    pub severity: Option<Severity>,
    /// The sequence must fit in this.
    pub within: Option<Duration>,
    /// Flag, hold, deny or kill.
    pub then: Verdict,
    /// How long a hold waits.
    pub timeout: Duration,
    /// What silence means for a hold: deny, kill, or allow for "resume".
    pub on_timeout: Verdict,
    /// What a hold stops.
    pub scope: Scope,
    /// What is done where the kernel cannot deny: kill, hold or flag.
    pub fallback: Verdict,
    /// The rule only records what it would have done.
    pub observe: bool,
    /// Whose sessions it is for; `None` for everybody's.
    pub user: Option<u32>,
}

impl Rule {
    /// Whether it asks whether a label was touched.
    pub fn names(&self, label: &str) -> bool {
        self.when.iter().any(|step| step == label)
            || self.unless.iter().any(|unless| unless.label == label)
    }
}

/// A label whose touch keeps a rule from firing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unless {
    /// Its name.
    pub label: String,
    /// A touch in so long a time before counts; without it, one since the rule's sequence has begun.
    pub within: Option<Duration>,
}

/// How bad it is that a rule fires. The words are those of OCSF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Informational,
    /// Worth a look.
    Low,
    /// Worth a look today.
    Medium,
    /// Worth a look now.
    High,
    /// Harm is near.
    Critical,
}

impl Severity {
    /// The words in a policy, mildest first.
    pub const WORDS: &[(&str, Self)] = &[
        ("informational", Self::Informational),
        ("low", Self::Low),
        ("medium", Self::Medium),
        ("high", Self::High),
        ("critical", Self::Critical),
    ];

    /// The word in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// The script that a program runs, as its command line names it, if the program is an interpreter.
pub fn script<'a>(program: &Path, argv: &'a [Vec<u8>]) -> Option<&'a [u8]> {
    use std::os::unix::ffi::OsStrExt as _;
    let name = interpreter::base(program.as_os_str().as_bytes());
    if !interpreter::is_interpreter(name) {
        return None;
    }
    let index = interpreter::script(name, argv)?;
    argv.get(index).map(Vec::as_slice)
}

impl Policy {
    /// Reads a policy of one file. `source` is only told in errors and events; nothing is read from there.
    pub fn parse(text: &str, source: Source) -> Result<Self, PolicyError> {
        let text = text.to_owned();
        Self::of(&[Part { source, text }])
    }

    /// Reads a policy of several files, the main one first.
    pub fn of(parts: &[Part]) -> Result<Self, PolicyError> {
        let policy = document::read(parts)?;
        policy.fits()?;
        Ok(policy)
    }

    /// Whether the kernel's tables have room for it.
    fn fits(&self) -> Result<(), PolicyError> {
        // What only shows when tables are laid out (too many patterns with one name) is a mistake of
        // the policy as well, and is better known now than at the next reload.
        let bits = LabelBits::assign(None, self)?;
        self.lay_out(0, &bits, &Homes::of(Vec::<PathBuf>::new()))?;
        Ok(())
    }

    /// Its main file.
    fn main(&self) -> &Part {
        self.part(0)
    }

    fn part(&self, index: usize) -> &Part {
        // Each glob's file is one of these.
        &self.parts[index]
    }

    /// Where its main file came from.
    pub fn source(&self) -> &Source {
        &self.main().source
    }

    /// Its files as one text, each after a line that says which it is; a single one as it is. For people: rules that
    /// a later file replaces stand in it too.
    pub fn text(&self, sees: impl Fn(&Part) -> bool) -> String {
        let mut parts = self.parts.iter().filter(|part| sees(part)).peekable();
        let (Some(first), second) = (parts.next(), parts.peek()) else {
            return String::new();
        };
        if second.is_none() {
            return first.text.clone();
        }
        std::iter::once(first)
            .chain(parts)
            .map(|part| format!("# from {}\n{}\n", part.source, part.text.trim_end()))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// The policy that is compiled in.
    ///
    /// # Panics
    /// Never in a program that passed its tests: the text is part of the program, and a test parses it.
    pub fn built_in() -> Self {
        match Self::parse(BUILT_IN, Source::BuiltIn) {
            Ok(policy) => policy,
            Err(error) => panic!("the built-in policy has a mistake: {error}"),
        }
    }

    /// Whether some label asks about requests to this host: in small letters, without a last dot.
    pub fn asks_about(&self, name: &str) -> bool {
        let mut patterns = self.groups.iter().flat_map(|group| &group.requests);
        patterns.any(|pattern| {
            pattern.hosts().any(|host| host.matches(name))
                || (pattern.is_for_clusters() && self.clusters.has(name))
                || (pattern.is_for_local() && is_local(name))
        })
    }

    /// Whether some label asks about requests to an address, which has no name.
    pub fn asks_about_address(&self, addr: std::net::IpAddr) -> bool {
        let mut patterns = self.groups.iter().flat_map(|group| &group.requests);
        patterns.any(|pattern| pattern.is_for_clusters() && self.clusters.is_at(addr))
    }

    /// Whether some label asks about requests to any host.
    pub fn asks_about_any(&self) -> bool {
        let mut patterns = self.groups.iter().flat_map(|group| &group.requests);
        patterns.any(RequestPattern::is_for_any) || self.asks_about_secrets()
    }

    /// Whether some label asks which secrets requests carry.
    pub fn asks_about_secrets(&self) -> bool {
        let about = |label: &String| {
            matches!(
                secrets::meaning(label),
                Some(Meaning::Uses(_) | Meaning::Foreign)
            )
        };
        self.looks_for_secrets() && self.labels.iter().any(about)
    }

    /// Whether files are searched for secrets: as the policy says, else when a rule names a label that only this gives.
    pub fn looks_for_secrets(&self) -> bool {
        let only_by_content = |label: &String| {
            secrets::meaning(label).is_some()
                && !self.groups.iter().any(|group| group.name == *label)
        };
        let settings = &self.settings.secrets;
        settings
            .enabled
            .unwrap_or_else(|| self.labels.iter().any(only_by_content))
    }

    /// Whether some label asks about requests at all.
    pub fn asks_about_requests(&self) -> bool {
        self.groups.iter().any(|group| !group.requests.is_empty()) || self.asks_about_secrets()
    }

    /// The label tables (indices into [`Policy::groups`], rising) that a request carries, each with what keeps that from
    /// being certain. For `others` see [`RequestPattern::fits`].
    pub fn of_request(
        &self,
        request: &Request,
        others: &[String],
    ) -> Vec<(usize, Option<&'static str>)> {
        let fits = |group: &LabelGroup| {
            group
                .requests
                .iter()
                .fold(Fits::No, |so_far, pattern| match so_far {
                    Fits::Yes => so_far,
                    _ => match pattern.fits(request, others) {
                        Fits::No => so_far,
                        better => better,
                    },
                })
        };
        let groups = self.groups.iter().enumerate();
        groups
            .filter_map(|(index, group)| match fits(group) {
                Fits::No => None,
                Fits::Perhaps(why) => Some((index, Some(why))),
                Fits::Yes => Some((index, None)),
            })
            .collect()
    }

    /// Whether the body of a request, of which the head has been judged, could make it one that some label is about.
    pub fn waits_for_body(&self, head: &Request, others: &[String]) -> bool {
        let mut patterns = self.groups.iter().flat_map(|group| &group.requests);
        patterns.any(|pattern| pattern.waits_for_body(head, others))
    }
}

/// Whether a name, or an address as text, is this machine's own.
fn is_local(name: &str) -> bool {
    name == "localhost"
        || name.ends_with(".localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|addr| addr.is_loopback() || addr.is_unspecified())
}
