//! From events, one after another, to what a job did: which step ran which programs, whom they talked to, what was
//! stopped. Bounded, whatever the job does: what finds no room is counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::{
    compose::{ELSEWHERE, SOURCE_CHANGE},
    report::{Finding, Peer, Program, SourceChange, Step},
    sources::{Sources, Stamps},
};
use crate::{
    event::{Event, Kind},
    process,
};

/// Processes whose step is known.
const MAX_PROCESSES: usize = 65_536;
/// Distinct programs, peers, and findings.
const MAX_PROGRAMS: usize = 1024;
/// See [`MAX_PROGRAMS`].
const MAX_PEERS: usize = 2048;
/// See [`MAX_PROGRAMS`].
const MAX_FINDINGS: usize = 500;
/// Steps of a job.
const MAX_STEPS: usize = 512;
/// Programs named with one peer or file.
const MAX_NAMED: usize = 8;
/// Letters of a command line that are shown.
const MAX_COMMAND: usize = 300;

/// See the module's text.
#[derive(Debug)]
pub struct Tally {
    worker: u32,
    sources: Option<(Sources, Stamps)>,
    /// Number of the last event that was counted.
    pub last_seq: u64,
    /// Events counted.
    pub events: u64,
    steps: Vec<Step>,
    /// The step of each process that was seen, by its place.
    of_process: HashMap<u32, usize>,
    programs: BTreeMap<String, Program>,
    peers: BTreeMap<(String, u16, String), Peer>,
    stopped: Vec<Finding>,
    flagged: Vec<Finding>,
    /// Findings by kind that found no room.
    more: BTreeMap<&'static str, u64>,
    /// Who wrote to which tracked file, and who wrote beside it.
    writers: BTreeMap<String, BTreeSet<String>>,
    beside: BTreeMap<String, BTreeSet<String>>,
    sudo: BTreeMap<String, u64>,
    brokers: BTreeMap<String, BTreeSet<String>>,
    lost: BTreeMap<String, u64>,
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Counted {
    /// As in the report.
    pub steps: Vec<Step>,
    /// As in the report.
    pub programs: Vec<Program>,
    /// As in the report.
    pub peers: Vec<Peer>,
    /// As in the report.
    pub stopped: Vec<Finding>,
    /// As in the report.
    pub flagged: Vec<Finding>,
    /// As in the report.
    pub more: BTreeMap<String, u64>,
    /// As in the report.
    pub sources: Vec<SourceChange>,
    /// As in the report.
    pub sudo: BTreeMap<String, u64>,
    /// As in the report.
    pub brokers: BTreeMap<String, Vec<String>>,
    /// As in the report.
    pub lost: BTreeMap<String, u64>,
}

impl Tally {
    /// Nothing was seen yet of what `worker` runs.
    pub fn new(worker: u32, sources: Option<Sources>) -> Self {
        let sources = sources.map(|sources| {
            let stamps = sources.stamps();
            (sources, stamps)
        });
        Self {
            worker,
            sources,
            last_seq: 0,
            events: 0,
            steps: Vec::new(),
            of_process: HashMap::new(),
            programs: BTreeMap::new(),
            peers: BTreeMap::new(),
            stopped: Vec::new(),
            flagged: Vec::new(),
            more: BTreeMap::new(),
            writers: BTreeMap::new(),
            beside: BTreeMap::new(),
            sudo: BTreeMap::new(),
            brokers: BTreeMap::new(),
            lost: BTreeMap::new(),
        }
    }

    /// Counts an event, once.
    pub fn add(&mut self, event: &Event) {
        if event.seq <= self.last_seq {
            return;
        }
        self.last_seq = event.seq;
        self.events += 1;
        let step = self.step_of(event);
        match event.kind {
            Kind::Exec => self.executed(event, step),
            Kind::Connect => self.connected(event, step),
            Kind::Open => self.opened(event),
            Kind::Lost => {
                let text = |key| event.object.as_ref()?.get(key)?.as_str();
                let count = event.object.as_ref().and_then(|o| o.get("count")?.as_u64());
                let class = text("why").or(text("class")).unwrap_or("events");
                *self.lost.entry(class.to_owned()).or_default() += count.unwrap_or(1);
            }
            _ => {}
        }
        self.judge(event, step);
    }

    /// The child of the worker that this process is or comes from.
    fn step_of(&mut self, event: &Event) -> Option<usize> {
        let pid = event.tgid?;
        if pid == self.worker {
            return None;
        }
        // An exec may be the first of a new process with an old one's pid.
        if event.kind != Kind::Exec
            && let Some(step) = self.of_process.get(&pid)
        {
            return Some(*step);
        }
        let mut below = pid;
        let mut next = event.ppid?;
        let mut found = None;
        for _ in 0..64 {
            if next == self.worker {
                found = Some(self.begin_step(below, event));
                break;
            }
            if let Some(step) = self.of_process.get(&next) {
                found = Some(*step);
                break;
            }
            below = next;
            match process::stat(next).map(|stat| stat.parent) {
                Some(parent) if parent > 1 => next = parent,
                _ => break,
            }
        }
        let step = found.or_else(|| self.of_process.get(&pid).copied())?;
        if self.of_process.len() >= MAX_PROCESSES {
            self.of_process
                .retain(|pid, _| process::stat(*pid).is_some());
        }
        if self.of_process.len() < MAX_PROCESSES {
            self.of_process.insert(pid, step);
        }
        Some(step)
    }

    fn begin_step(&mut self, pid: u32, event: &Event) -> usize {
        let start = process::stat(pid).map(|stat| stat.id.start);
        if let Some(step) = self
            .steps
            .iter()
            .rposition(|step| step.pid == pid && (start.is_none() || Some(step.start) == start))
        {
            return step;
        }
        if self.steps.len() >= MAX_STEPS {
            *self.more.entry("steps").or_default() += 1;
            return MAX_STEPS - 1;
        }
        let command = if event.tgid == Some(pid) {
            event.argv.clone().unwrap_or_default()
        } else {
            let argv = process::argv(pid);
            crate::mask::mask_argv(&argv)
        };
        self.steps.push(Step {
            number: self.steps.len() + 1,
            pid,
            start: start.or(event.start).unwrap_or_default(),
            name: step_name(pid),
            command: short(&command.join(" ")),
        });
        self.steps.len() - 1
    }

    fn executed(&mut self, event: &Event, step: Option<usize>) {
        let Some(exe) = &event.exe else { return };
        if !self.programs.contains_key(exe) && self.programs.len() >= MAX_PROGRAMS {
            *self.more.entry("programs").or_default() += 1;
        } else {
            let program = self.programs.entry(exe.clone()).or_insert_with(|| Program {
                exe: exe.clone(),
                ..Program::default()
            });
            program.count += 1;
            if let Some(step) = step {
                program.steps.insert(step + 1);
            }
            program.as_root |= event.uid == Some(0);
        }
        if let Some("sudo" | "su" | "doas" | "pkexec" | "run0") = exe.rsplit('/').next() {
            let argv = event.argv.as_deref().unwrap_or_default().join(" ");
            if self.sudo.len() < MAX_FINDINGS || self.sudo.contains_key(&argv) {
                *self.sudo.entry(short(&argv)).or_default() += 1;
            }
        }
    }

    fn connected(&mut self, event: &Event, step: Option<usize>) {
        let Some(object) = &event.object else { return };
        let text = |key: &str| object.get(key).and_then(Value::as_str);
        let who = named(event);
        if let Some(path) = text("path") {
            // A unix socket: only labelled ones are told, and those are services outside.
            let programs = self.brokers.entry(path.to_owned()).or_default();
            if programs.len() < MAX_NAMED {
                programs.insert(who);
            }
            return;
        }
        let Some(addr) = text("addr") else { return };
        let port = object.get("port").and_then(Value::as_u64).unwrap_or(0) as u16;
        let host = text("host").map(str::to_owned);
        let transport = match (text("protocol"), text("type")) {
            (Some(protocol), _) => protocol,
            (None, Some("datagram")) => "udp",
            (None, _) => "tcp",
        };
        let key = (
            host.clone().unwrap_or_else(|| addr.to_owned()),
            port,
            transport.to_owned(),
        );
        if !self.peers.contains_key(&key) && self.peers.len() >= MAX_PEERS {
            *self.more.entry("peers").or_default() += 1;
            return;
        }
        let peer = self.peers.entry(key).or_insert_with(|| Peer {
            host,
            port,
            transport: transport.to_owned(),
            ..Peer::default()
        });
        if peer.addrs.len() < MAX_NAMED {
            peer.addrs.insert(addr.to_owned());
        }
        if peer.programs.len() < MAX_NAMED {
            peer.programs.insert(who);
        }
        if let Some(step) = step {
            peer.steps.insert(step + 1);
        }
        peer.elsewhere |= event.labels.iter().any(|label| label == ELSEWHERE);
        // A connection that says its name is the one that was told at its connect.
        let again = text("host_from") == Some("sni") && text("protocol").is_none();
        if is_stopped(event) {
            peer.stopped += 1;
        } else if !again {
            peer.passed += 1;
        }
        // What a refused name was let begin is no connection that passed.
        if again && is_stopped(event) {
            peer.by_name = true;
        }
    }

    fn opened(&mut self, event: &Event) {
        if !event.labels.iter().any(|label| label == SOURCE_CHANGE) {
            return;
        }
        let Some((sources, stamps)) = &self.sources else {
            return;
        };
        let path = event.object.as_ref().and_then(|o| o.get("path")?.as_str());
        let Some(file) = path.and_then(|path| sources.file(path)) else {
            return;
        };
        let add = |of: &mut BTreeMap<String, BTreeSet<String>>, key: &str, who: String| {
            if of.len() < MAX_PEERS || of.contains_key(key) {
                let programs = of.entry(key.to_owned()).or_default();
                if programs.len() < MAX_NAMED {
                    programs.insert(who);
                }
            }
        };
        if stamps.has(file) {
            add(&mut self.writers, file, named(event));
        } else {
            let directory = file.rsplit_once('/').map_or("", |(directory, _)| directory);
            add(&mut self.beside, directory, named(event));
        }
    }

    /// What was stopped or told, if that is what the event is about. What a hold becomes is told by another.
    fn judge(&mut self, event: &Event, step: Option<usize>) {
        if matches!(event.kind, Kind::Session | Kind::Hold | Kind::Answer) {
            return;
        }
        let finding = |event: &Event| Finding {
            time: event.time.clone(),
            verdict: event.verdict.clone().unwrap_or_default(),
            would: event.would.clone(),
            rule: event.rule.clone().unwrap_or_default(),
            labels: event.labels.clone(),
            kind: event.kind.name().to_owned(),
            target: target(event),
            exe: event.exe.clone(),
            command: event.argv.as_ref().map(|argv| short(&argv.join(" "))),
            pid: event.tgid,
            step: step.map(|step| step + 1),
            count: 1,
        };
        let (list, kind) = if is_stopped(event) {
            (&mut self.stopped, "stopped")
        } else if event.verdict.as_deref() == Some("flag") {
            (&mut self.flagged, "flagged")
        } else {
            return;
        };
        let new = finding(event);
        if let Some(same) = list.iter_mut().rev().take(64).find(|old| old.is_like(&new)) {
            same.count += 1;
        } else if list.len() < MAX_FINDINGS {
            list.push(new);
        } else {
            *self.more.entry(kind).or_default() += 1;
        }
    }

    /// All that was counted so far.
    pub fn counted(&self) -> Counted {
        let mut programs: Vec<Program> = self.programs.values().cloned().collect();
        programs.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.exe.cmp(&b.exe)));
        Counted {
            steps: self.steps.clone(),
            programs,
            peers: self.peers.values().cloned().collect(),
            stopped: self.stopped.clone(),
            flagged: self.flagged.clone(),
            more: self
                .more
                .iter()
                .map(|(what, count)| ((*what).to_owned(), *count))
                .collect(),
            sources: self.changed(),
            sudo: self.sudo.clone(),
            brokers: self
                .brokers
                .iter()
                .map(|(path, programs)| (path.clone(), programs.iter().cloned().collect()))
                .collect(),
            lost: self.lost.clone(),
        }
    }

    fn changed(&self) -> Vec<SourceChange> {
        let Some((sources, stamps)) = &self.sources else {
            return Vec::new();
        };
        stamps
            .changes(sources)
            .into_iter()
            .map(|(file, how)| {
                let directory = file.rsplit_once('/').map_or("", |(directory, _)| directory);
                // Editors write another file and give it the name.
                let by = self
                    .writers
                    .get(&file)
                    .or_else(|| self.beside.get(directory));
                SourceChange {
                    by: by
                        .map(|by| by.iter().cloned().collect())
                        .unwrap_or_default(),
                    file,
                    how,
                }
            })
            .collect()
    }
}

/// Refused, killed or held; or it would have been.
fn is_stopped(event: &Event) -> bool {
    let grave =
        |verdict: &Option<String>| matches!(verdict.as_deref(), Some("deny" | "kill" | "hold"));
    grave(&event.verdict) || grave(&event.would)
}

/// The program of an event.
fn named(event: &Event) -> String {
    event
        .exe
        .clone()
        .or_else(|| event.comm.clone())
        .unwrap_or_else(|| "?".into())
}

/// What an event was about, in one line.
fn target(event: &Event) -> String {
    let Some(object) = &event.object else {
        return String::new();
    };
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    let port = object.get("port").and_then(Value::as_u64);
    if let (Some(addr), Some(port)) = (text("addr"), port) {
        return match text("host") {
            Some(host) => format!("{host}:{port} ({addr})"),
            None if addr.contains(':') => format!("[{addr}]:{port}"),
            None => format!("{addr}:{port}"),
        };
    }
    if let Some(method) = text("method") {
        let (host, path) = (
            text("host").unwrap_or_default(),
            text("path").unwrap_or_default(),
        );
        return short(&format!("{method} {host}{path}"));
    }
    if let Some(text) = text("path").or(text("call")) {
        return short(text);
    }
    let argv = object.get("argv").and_then(Value::as_array);
    let words = argv.into_iter().flatten().filter_map(Value::as_str);
    short(&words.collect::<Vec<_>>().join(" "))
}

/// What the runner calls a step: GitHub and its like say it in the step's environment.
fn step_name(pid: u32) -> Option<String> {
    let environ = process::environ(pid);
    let mut found = environ.split(|byte| *byte == 0).filter_map(|entry| {
        let entry = std::str::from_utf8(entry).ok()?;
        entry.strip_prefix("GITHUB_ACTION=")
    });
    found.find(|name| !name.is_empty()).map(short)
}

fn short(text: &str) -> String {
    crate::cli::escape::clip(text, MAX_COMMAND)
}
