//! What survives guardd: the sessions with their facts and processes, the holds and the leases. Written
//! to one file, whole and by rename, whenever something that must not be forgotten changes; what comes
//! between two writes is taken from the journal, which is written first.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Engine, Grant, Hold, Session};
use crate::{
    clock,
    event::{Event, Kind},
    kernel::pins::Left,
    process::{self, Id},
};

const FILE: &str = "state.json";

#[derive(Serialize, Deserialize)]
struct State {
    /// Start times and monotonic clocks only mean something within one boot.
    boot: String,
    /// Last event that is in here.
    seq: u64,
    next_session: u32,
    next_hold: u32,
    next_grant: u32,
    sessions: Vec<Session>,
    /// (pid, start in ticks, session)
    members: Vec<(u32, u64, u32)>,
    holds: Vec<Hold>,
    grants: BTreeMap<u32, Grant>,
    /// The kernel's ids of the tables of stopped processes, this guardd's and those of the ones before:
    /// a sentinel may still have them, and they are no other guard's.
    #[serde(default)]
    tables: Vec<u32>,
    /// Labels with their bits in the kernel's tables.
    #[serde(default)]
    labels: Vec<(String, u8)>,
    /// Rules in the kernel's order.
    #[serde(default)]
    rules: Vec<String>,
    /// What would have been stopped since that was last told.
    #[serde(default)]
    digest: Option<crate::digest::Digest>,
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

impl Engine {
    fn file(&self) -> PathBuf {
        self.options.state_dir.join(FILE)
    }

    /// Writes the state down.
    pub(super) fn save(&mut self) {
        self.refresh_uses();
        let members = self.kernel.tables.tasks();
        let state = State {
            boot: boot(),
            seq: self.journal.last_seq(),
            next_session: self.next_session,
            next_hold: self.next_hold,
            next_grant: self.next_grant,
            sessions: self.sessions.values().cloned().collect(),
            members: members
                .iter()
                .map(|(pid, t)| (*pid, Id::new(*pid, t.start_ns).start, t.session))
                .collect(),
            holds: self.holds.values().cloned().collect(),
            grants: self.grants.clone(),
            tables: self.kernel.tables.stopped_ids().to_vec(),
            labels: self
                .policy
                .labels
                .iter()
                .filter_map(|label| Some((label.clone(), self.bits.bit(label)?)))
                .collect(),
            rules: self.rules[self.kernel.tables.generation() as usize]
                .iter()
                .map(|rule| rule.name.clone())
                .collect(),
            digest: Some(self.digest.clone()),
        };
        match self.write(&state) {
            Ok(()) => {
                self.dirty = false;
                self.saved_ns = clock::monotonic_ns();
                self.problems.remove("state");
            }
            Err(error) => {
                self.problems.insert(
                    "state",
                    format!(
                        "{}: {error}: a restart would forget sessions",
                        self.file().display()
                    ),
                );
            }
        }
    }

    fn write(&self, state: &State) -> io::Result<()> {
        let file = self.file();
        let new = file.with_extension("json.new");
        // Commands and paths of users: for root alone.
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&new)?.write_all(&serde_json::to_vec(state)?)?;
        fs::rename(new, file)
    }

    /// Takes up what an earlier guardd of this boot left: its sessions' processes that still run, the
    /// processes they have started since, the holds that nobody has answered.
    pub(super) fn recover(&mut self) {
        let state: State = match fs::read(self.file()).map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(state)) => state,
            Ok(Err(error)) => {
                self.problems.insert(
                    "state",
                    format!(
                        "{}: {error}: earlier sessions are not taken up",
                        self.file().display()
                    ),
                );
                return;
            }
            Err(_) => return,
        };
        // Names are never given twice, not even after a reboot: the journal goes on.
        self.next_session = state.next_session;
        self.next_hold = state.next_hold;
        self.next_grant = state.next_grant;
        if let Some(digest) = &state.digest {
            self.digest = digest.clone();
            // What came after it was written.
            for event in self.journal.tail().filter(|event| event.seq > state.seq) {
                self.digest.add(event);
            }
        }
        if state.boot != boot() {
            return;
        }
        self.kernel.tables.succeed(&state.tables);
        let left = self.kernel.left();
        self.take_up_sessions(&state, &left);
        let mut state = state;
        let (holds, grants) = (
            std::mem::take(&mut state.holds),
            std::mem::take(&mut state.grants),
        );
        for mut hold in holds {
            let id = Id {
                pid: hold.process.0,
                start: hold.process.1,
            };
            if !self.sessions.contains_key(&hold.session)
                || process::stat(id.pid).is_none_or(|stat| stat.id != id)
            {
                continue;
            }
            let held = guard_common::state::Held {
                start_ns: self
                    .kernel
                    .tables
                    .task(id.pid)
                    .map_or(0, |task| task.start_ns),
                time_ns: hold.since_ns,
                deadline_ns: hold.deadline_ns,
                labels: hold
                    .event
                    .labels
                    .iter()
                    .fold(0, |mask, label| mask | self.bits.mask(label)),
                object: hold.object,
                session: hold.session,
                rule: self
                    .rule_index(&hold.rule)
                    .unwrap_or(guard_common::event::NO_RULE),
                generation: self.kernel.tables.generation() as u16,
                kind: hold.kind,
                on_timeout: hold.on_timeout,
                fate: hold.fate,
                pad: [0; 5],
            };
            let _ = self.kernel.tables.put_held(id.pid, held);
            (hold.rule_index, hold.generation) = (held.rule, held.generation);
            self.holds.insert(hold.id, hold);
        }
        self.take_up_held(&state, &left);
        let now = clock::monotonic_ns();
        for (id, mut grant) in grants {
            // The kernel has gone on counting.
            let was = state.labels.iter().find(|(label, _)| *label == grant.label);
            if grant.uses.is_some()
                && let Some((_, bit)) = was
            {
                let key = grant.key(*bit);
                let known = left.leases.iter().filter(|(of, _)| *of == key);
                let least = known
                    .map(|(_, lease)| u32::try_from(lease.uses).unwrap_or(0))
                    .min();
                grant.uses = least.or(grant.uses);
            }
            if grant.is_active(now)
                && self.sessions.contains_key(&grant.session)
                && let Some(bit) = self.bits.bit(&grant.label)
                && let Err(error) = self.kernel.tables.put_lease(&grant.key(bit), grant.lease())
            {
                self.problems
                    .insert("leases", format!("g-{id} is not in force: {error}"));
            }
            self.grants.insert(id, grant);
        }
        self.release_left_stopped();
        let sessions: Vec<String> = self.sessions.values().map(Session::name).collect();
        if !sessions.is_empty() {
            let mut event = self.event_for(Kind::Guard, None);
            event.object = Some(
                json!({ "what": "recovered", "sessions": sessions, "holds": self.holds.len() }),
            );
            self.tell(event);
        }
    }

    fn take_up_sessions(&mut self, state: &State, left: &Left) {
        let processes = process::all();
        let alive = |pid: u32, start: u64| {
            processes
                .get(&pid)
                .is_some_and(|s| s.id.start == start && s.is_alive())
        };
        let mut sessions = state.sessions.clone();
        self.replay(state.seq, &mut sessions);
        self.note_facts(left, state, &mut sessions);
        // The kernel has gone on entering what was forked since the file was written.
        let told = state.members.iter().copied();
        let entered = left
            .tasks
            .iter()
            .map(|(pid, task)| (*pid, Id::new(*pid, task.start_ns).start, task.session));
        let known: std::collections::BTreeSet<(u32, u64, u32)> = told.chain(entered).collect();
        for session in sessions {
            let members: Vec<Id> = known
                .iter()
                .filter(|(pid, start, id)| *id == session.id && alive(*pid, *start))
                .map(|(pid, start, _)| Id {
                    pid: *pid,
                    start: *start,
                })
                .collect();
            let anchored = session.anchor.is_some_and(|(pid, start)| alive(pid, start));
            if members.is_empty() && !anchored {
                continue;
            }
            if let Err(error) = self.kernel.attach_calls() {
                self.problems.insert("hooks", error.to_string());
            }
            let id = session.id;
            if let Err(error) = self.enter(&session) {
                self.problems.insert("sessions", error.to_string());
                continue;
            }
            self.sessions.insert(id, session);
            for member in members {
                if self.kernel.tables.task(member.pid).is_none() {
                    let parent = processes.get(&member.pid).map_or(0, |stat| stat.parent);
                    self.tag(member, id, parent);
                }
            }
        }
        // What they have started while nobody watched.
        let roots: Vec<(Id, u32)> = self
            .kernel
            .tables
            .tasks()
            .into_iter()
            .map(|(pid, t)| (Id::new(pid, t.start_ns), t.session))
            .collect();
        for (id, session) in roots {
            self.adopt_untagged_below(id, session);
        }
    }

    /// Facts that came about while no guardd ran: the programs that an earlier one has left go on judging.
    /// Of each label the last touch is known, and neither by what nor which file it was.
    fn note_facts(&self, left: &Left, state: &State, sessions: &mut [Session]) {
        for (id, kernel) in &left.sessions {
            let Some(session) = sessions.iter_mut().find(|session| session.id == *id) else {
                continue;
            };
            let mut news: Vec<(u64, &String)> = Vec::new();
            for (label, bit) in &state.labels {
                let at = kernel.last_ns.get(usize::from(*bit)).copied().unwrap_or(0);
                let known = session.facts.get(label).map_or(0, |fact| fact.mono_ns);
                if at > known {
                    news.push((at, label));
                }
            }
            news.sort_unstable();
            for (at, label) in news {
                let mut event = Event::new(Kind::Session);
                event.session = Some(session.name());
                event.agent = Some(session.agent.clone());
                event.time = clock::rfc3339_at(at);
                event.mono_ns = Some(at);
                event.labels = vec![label.clone()];
                event.object = Some(json!({ "what": "touched while guardd was down" }));
                session.touch(at, std::slice::from_ref(label), None, &event);
            }
        }
    }

    /// Holds that were entered while no guardd ran.
    fn take_up_held(&mut self, state: &State, left: &Left) {
        for &(pid, mut held) in &left.held {
            let name = state.rules.get(usize::from(held.rule));
            let Some(rule) = name.and_then(|name| self.rule_index(name)) else {
                continue;
            };
            held.rule = rule;
            held.generation = self.kernel.tables.generation() as u16;
            let known = self.holds.values().any(|hold| hold.process.0 == pid);
            if !known && process::same(pid, held.start_ns).is_some() {
                let _ = self.kernel.tables.put_held(pid, held);
            }
        }
        self.find_lost_holds(0);
    }

    /// Like `adopt_below`, but leaves processes of sessions inside this one where they are.
    fn adopt_untagged_below(&mut self, root: Id, session: u32) {
        let processes = process::all();
        let mut members = vec![root.pid];
        while let Some(parent) = members.pop() {
            for stat in processes
                .values()
                .filter(|stat| stat.parent == parent && stat.is_alive())
            {
                if self.kernel.tables.task(stat.id.pid).is_none() {
                    self.tag(stat.id, session, stat.parent);
                    members.push(stat.id.pid);
                }
            }
        }
    }

    /// Touches that the journal has and the state file has not.
    fn replay(&mut self, after: u64, sessions: &mut [Session]) {
        let events: Vec<_> = self
            .journal
            .tail()
            .filter(|event| event.seq > after)
            .cloned()
            .collect();
        for event in events {
            let (Some(session), Some(mono_ns)) = (event.session.as_deref(), event.mono_ns) else {
                continue;
            };
            let mut next = super::session::number("s", session);
            while let Some(id) = next {
                let Some(session) = sessions.iter_mut().find(|session| session.id == id) else {
                    break;
                };
                session.conduct.note(&event, mono_ns);
                if !event.labels.is_empty() {
                    session.touch(
                        mono_ns,
                        &event.labels,
                        Some(&super::holds::object_of(&event)),
                        &event,
                    );
                }
                next = session.parent;
            }
        }
    }

    /// A process of a session that is stopped for no reason that is known was stopped for the guardd
    /// that is gone.
    fn release_left_stopped(&mut self) {
        for (pid, task) in self.kernel.tables.tasks() {
            let id = Id::new(pid, task.start_ns);
            if process::stat(pid).is_some_and(|stat| stat.is_stopped()) {
                let _ = self.go_on([id]);
            }
        }
    }
}
