//! One pass over a journal: what belongs to a session's story, within bounds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Process, Report, story, words};
use crate::event::{Event, Kind};

/// Events kept besides those that nothing is to be said of,
pub(super) const NOTABLE: usize = 50_000;
/// and of these: unlabelled, allowed calls.
pub(super) const PLAIN: usize = 5_000;
/// Processes kept.
const PROCESSES: usize = 20_000;
/// How long after a session's end what was lost may still be told, milliseconds.
const AFTER_MS: u64 = 2_000;

/// Takes the events of a journal in order and keeps what is about one session and those inside it.
pub struct Collector {
    session: String,
    pub(super) family: BTreeSet<String>,
    pub(super) report: Report,
    pub(super) events: Vec<Event>,
    plain: usize,
    /// Each process by pid: the newest of that number.
    by_pid: HashMap<u32, usize>,
    processes: Vec<Found>,
    pub(super) lost: Vec<Event>,
    unreadable: u64,
    /// Labelled events of the family by number, for the evidence that a verdict names.
    pub(super) facts: BTreeMap<u64, Event>,
}

struct Found {
    process: Process,
    parent: Option<usize>,
}

impl Collector {
    /// Of session `s-N`.
    pub fn new(session: &str) -> Self {
        Self {
            session: session.to_owned(),
            family: BTreeSet::from([session.to_owned()]),
            report: Report {
                v: super::VERSION,
                session: session.to_owned(),
                ..Report::default()
            },
            events: Vec::new(),
            plain: 0,
            by_pid: HashMap::new(),
            processes: Vec::new(),
            lost: Vec::new(),
            unreadable: 0,
            facts: BTreeMap::new(),
        }
    }

    /// A line of the journal that cannot be read.
    pub fn unreadable(&mut self) {
        self.unreadable += 1;
    }

    /// The next event.
    pub fn add(&mut self, event: &Event) {
        let Some(session) = &event.session else {
            self.add_of_guard(event);
            return;
        };
        let what = words::text(event, "what");
        let began = event.kind == Kind::Session && what.as_deref() == Some("began");
        if began && words::text(event, "parent").is_some_and(|parent| self.family.contains(&parent))
        {
            self.family.insert(session.clone());
            self.report.inner.push(session.clone());
        }
        if !self.family.contains(session) {
            return;
        }
        let own = *session == self.session;
        let report = &mut self.report;
        if report.began.is_empty() {
            report.began.clone_from(&event.time);
        }
        if own {
            if let Some(agent) = &event.agent {
                report.agent.clone_from(agent);
            }
            report.uid = report.uid.or(event.uid);
            if began {
                report.began.clone_from(&event.time);
                report.from_the_beginning = true;
                report.origin = words::text(event, "origin");
                report.parent = words::text(event, "parent");
            }
            if event.kind == Kind::Session && what.as_deref() == Some("ended") {
                report.ended = Some(event.time.clone());
            }
            if event.kind == Kind::Intent {
                report.intents.push(super::Intent {
                    time: event.time.clone(),
                    text: words::text(event, "text"),
                });
            }
        }
        self.count(event);
        self.add_process(event);
        if !event.labels.is_empty() && self.facts.len() < NOTABLE {
            self.facts.insert(event.seq, event.clone());
        }
        self.keep(event);
    }

    fn count(&mut self, event: &Event) {
        let counts = &mut self.report.counts;
        counts.events += 1;
        match event.kind {
            Kind::Exec => counts.exec += 1,
            Kind::Open => counts.open += 1,
            Kind::Connect => counts.connect += 1,
            Kind::Request => counts.request += 1,
            Kind::Call | Kind::Signal => counts.call += 1,
            // What comes of a call is counted with the call.
            _ => return,
        }
        if event.would.is_some() {
            counts.would += 1;
            return;
        }
        match event.verdict.as_deref() {
            Some("flag") => counts.flag += 1,
            Some("hold") => counts.hold += 1,
            Some("deny") => counts.deny += 1,
            Some("kill") => counts.kill += 1,
            _ => {}
        }
    }

    fn keep(&mut self, event: &Event) {
        let call = matches!(
            event.kind,
            Kind::Exec | Kind::Open | Kind::Connect | Kind::Request
        );
        let plain = call && event.labels.is_empty() && event.rule.is_none();
        let room = if plain {
            self.plain += 1;
            self.plain <= PLAIN
        } else {
            self.events.len() < NOTABLE + PLAIN
        };
        if room {
            self.events.push(event.clone());
        } else {
            self.report.omitted += 1;
        }
    }

    /// What is about no session matters while this one runs.
    fn add_of_guard(&mut self, event: &Event) {
        let running = !self.report.began.is_empty()
            && self.report.ended.as_ref().is_none_or(|ended| {
                words::between_ms(ended, &event.time) <= AFTER_MS && *ended <= event.time
            });
        if !running || self.lost.len() >= NOTABLE {
            return;
        }
        let what = words::text(event, "what").unwrap_or_default();
        let ended = self.report.ended.is_some();
        match event.kind {
            Kind::Lost => self.lost.push(event.clone()),
            _ if ended => {}
            Kind::Guard if !matches!(what.as_str(), "checkpoint" | "retention") => {
                self.lost.push(event.clone());
                self.events.push(event.clone());
            }
            Kind::Policy => self.events.push(event.clone()),
            _ => {}
        }
    }

    fn add_process(&mut self, event: &Event) {
        // An answer is the deed of somebody outside, and names the process it is about.
        let call = matches!(
            event.kind,
            Kind::Exec | Kind::Open | Kind::Connect | Kind::Request | Kind::Call | Kind::Signal
        );
        let (Some(pid), Some(session), true) = (event.tgid, &event.session, call) else {
            return;
        };
        let known = self.by_pid.get(&pid).copied().filter(|at| {
            let start = self.processes[*at].process.start;
            start.is_none() || event.start.is_none() || start == event.start
        });
        let at = match known {
            Some(at) => at,
            None if self.processes.len() >= PROCESSES => return,
            None => {
                let parent = event.ppid.and_then(|ppid| self.by_pid.get(&ppid).copied());
                self.processes.push(Found {
                    process: Process {
                        pid,
                        start: event.start,
                        ppid: event.ppid,
                        session: session.clone(),
                        depth: 0,
                        commands: Vec::new(),
                        labels: Vec::new(),
                        verdicts: Vec::new(),
                    },
                    parent,
                });
                let at = self.processes.len() - 1;
                self.by_pid.insert(pid, at);
                at
            }
        };
        let process = &mut self.processes[at].process;
        process.start = process.start.or(event.start);
        if let Some(command) = words::command(event)
            && process.commands.last() != Some(&command)
            && process.commands.len() < 64
        {
            process.commands.push(command);
        }
        for label in &event.labels {
            if !process.labels.contains(label) {
                process.labels.push(label.clone());
            }
        }
        let would = event.would.as_ref().map(|would| format!("would {would}"));
        let verdict = event.verdict.clone().filter(|verdict| verdict != "allow");
        if let Some(verdict) = would.or(verdict).filter(|_| process.verdicts.len() < 64) {
            process.verdicts.push(verdict);
        }
    }

    /// Parents before their children, each at its depth.
    fn tree(&mut self) -> Vec<Process> {
        let mut children: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
        for (at, found) in self.processes.iter().enumerate() {
            // A parent is found before its child, so there is no circle.
            let parent = found.parent.filter(|parent| *parent < at);
            children.entry(parent).or_default().push(at);
        }
        let mut ordered = Vec::with_capacity(self.processes.len());
        let mut stack: Vec<(usize, usize)> = children
            .remove(&None)
            .unwrap_or_default()
            .into_iter()
            .rev()
            .map(|at| (at, 0))
            .collect();
        while let Some((at, depth)) = stack.pop() {
            let mut process = self.processes[at].process.clone();
            process.depth = depth;
            ordered.push(process);
            let below = children.remove(&Some(at)).unwrap_or_default();
            stack.extend(below.into_iter().rev().map(|at| (at, depth + 1)));
        }
        ordered
    }

    /// The report; `None` where the journal has nothing of that session.
    pub fn finish(mut self) -> Option<Report> {
        if self.report.began.is_empty() {
            return None;
        }
        self.report.processes = self.tree();
        self.events
            .sort_by(|a, b| (&a.time, a.seq).cmp(&(&b.time, b.seq)));
        let unreadable = self.unreadable;
        Some(story::tell(self, unreadable))
    }
}
