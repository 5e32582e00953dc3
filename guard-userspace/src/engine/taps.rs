//! Which processes of sessions have their TLS library tapped, and which have none that could be.

use std::collections::{BTreeMap, BTreeSet};

use guard_common::event::Header;

use super::Engine;
use crate::{
    clock,
    kernel::{Connection, Said},
    names,
    process::{self, Id},
};

/// Names that one process is remembered to speak to.
const MAX_HOSTS: usize = 256;
/// Sockets of one process whose names are remembered.
const MAX_SOCKETS: usize = 1024;
/// Processes that could not be tapped which one session remembers.
const MAX_UNTAPPED: usize = 32;
/// Connections of one process of which nothing has been understood yet.
const MAX_UNHEARD: usize = 256;
/// After this time of one that nothing was understood of, people are told.
const UNHEARD_NS: u64 = 10_000_000_000;
/// Why the requests of most are not seen.
const NO_LIBRARY: &str = "it has no TLS library that can be tapped";
/// Children of a process that are tapped with it.
const MAX_HEIRS: usize = 64;
/// Forks between a process and the one that was tapped.
const MAX_FORKS: usize = 16;

/// A process whose TLS library was looked for.
#[derive(Debug, Default)]
pub(super) struct Tapped {
    /// Start time, ticks.
    pub(super) start: u64,
    /// As the kernel has it, ns.
    pub(super) start_ns: u64,
    /// Its session.
    session: u32,
    /// Its program.
    exe: Option<String>,
    /// The files with functions that have probes.
    files: BTreeSet<(u64, u64)>,
    /// Connections to hosts that are asked about, by the sockets' cookies: whom they are for and since when, until something
    /// that was said over one of them has been understood.
    unheard: BTreeMap<u64, (String, u64)>,
    /// Whom its connections have said that they are for.
    pub(super) hosts: BTreeSet<String>,
    /// The same by the sockets' cookies.
    pub(super) sockets: BTreeMap<u64, String>,
    /// Writes that were looked at; see [`guard_common::requests::Tapped::writes`].
    pub(super) seen: u64,
}

impl Engine {
    /// A process is about to speak over TLS to a host that some label asks about: the segment waits.
    pub(super) fn on_tap(&mut self, fields: &Header, to: &Connection, said: &Said) {
        let id = Id::new(fields.tgid, fields.start_ns);
        let host = said.host.as_deref().map(names::normal);
        let host = host.or_else(|| self.names.latest(to.addr).map(str::to_owned));
        self.take_up_child(id, fields.start_ns, fields.session);
        if self
            .kernel
            .tables
            .tapped(id.pid)
            .is_none_or(|tapped| tapped.start_ns != fields.start_ns)
        {
            self.tap(id, fields, host.as_deref());
        } else {
            self.tap_what_is_new(id);
        }
        if let Some(tapped) = self.taps.get_mut(&id.pid) {
            let host = host.unwrap_or_else(|| to.addr.to_string());
            let silent = tapped.files.is_empty();
            if !silent && tapped.unheard.len() < MAX_UNHEARD {
                let since = clock::monotonic_ns();
                let unheard = tapped.unheard.entry(said.cookie);
                unheard.or_insert_with(|| (host.clone(), since));
            }
            tapped.meets(said.cookie, host.clone());
            if silent {
                let exe = tapped.exe.clone();
                self.not_tapped(
                    id.pid,
                    fields.session,
                    exe.as_deref(),
                    Some(&host),
                    NO_LIBRARY,
                );
            }
        }
        self.tap_heirs(id, fields.session);
        self.push_socket(id, fields.session, said.cookie);
    }

    /// Taps the children of a process that is about to speak: who of them has inherited the connection may be the one that
    /// speaks.
    fn tap_heirs(&mut self, id: Id, session: u32) {
        let children: Vec<(u32, u64)> = self
            .members(session)
            .into_iter()
            .filter(|member| !self.taps.contains_key(&member.pid))
            .filter_map(|member| {
                let task = self.kernel.tables.task(member.pid)?;
                (task.parent == id.pid).then_some((member.pid, task.start_ns))
            })
            .take(MAX_HEIRS)
            .collect();
        for (pid, start_ns) in children {
            let child = Id::new(pid, start_ns);
            let libraries = self.libraries.of(pid).unwrap_or_default();
            if libraries.is_empty() || process::stat(pid).is_none_or(|stat| stat.id != child) {
                continue;
            }
            let Some(parent) = self.taps.get(&id.pid) else {
                return;
            };
            let (hosts, sockets) = (parent.hosts.clone(), parent.sockets.clone());
            if let Err(error) = self.kernel.tap(pid, &libraries) {
                let exe = process::exe(pid).map(|path| path.display().to_string());
                self.not_tapped(pid, session, exe.as_deref(), None, &error);
                continue;
            }
            let tapped = Tapped {
                start: child.start,
                start_ns,
                session,
                exe: process::exe(pid).map(|path| path.display().to_string()),
                files: libraries.iter().map(|library| library.file).collect(),
                hosts,
                sockets,
                ..Tapped::default()
            };
            self.taps.insert(pid, tapped);
            // One that was forked since its parent was tapped has an entry, in which its writes have been counted.
            let entry = self.kernel.tables.tapped(pid);
            if entry.is_some_and(|entry| entry.start_ns == start_ns) {
                continue;
            }
            if let Err(error) = self.kernel.tables.put_tapped(pid, start_ns) {
                self.problems.insert("taps", error.to_string());
            }
        }
    }

    /// Taps what a tapped process has loaded since.
    fn tap_what_is_new(&mut self, id: Id) {
        let Some(tapped) = self.taps.get(&id.pid) else {
            return;
        };
        let Ok(libraries) = self.libraries.of(id.pid) else {
            return;
        };
        if libraries
            .iter()
            .all(|library| tapped.files.contains(&library.file))
        {
            return;
        }
        // Its children have their probes from those that are put anew.
        self.take_up_children();
        let problem = self.kernel.tap(id.pid, &libraries).err();
        let Some(tapped) = self.taps.get_mut(&id.pid) else {
            return;
        };
        tapped
            .files
            .extend(libraries.iter().map(|library| library.file));
        if let Some(why) = problem {
            let (session, exe) = (tapped.session, tapped.exe.clone());
            self.not_tapped(id.pid, session, exe.as_deref(), None, &why);
        }
    }

    /// A process that a tapped one has forked has its connections: what it says over them is read as well.
    pub(super) fn take_up_child(&mut self, id: Id, start_ns: u64, session: u32) {
        if self
            .taps
            .get(&id.pid)
            .is_some_and(|tapped| tapped.start == id.start)
        {
            return;
        }
        let Some(entry) = self.kernel.tables.tapped(id.pid) else {
            return;
        };
        if entry.start_ns != start_ns || entry.parent == 0 {
            return;
        }
        let mut parent = entry.parent;
        for _ in 0..MAX_FORKS {
            if self.taps.contains_key(&parent) {
                break;
            }
            match self.kernel.tables.tapped(parent) {
                Some(entry) if entry.parent != 0 => parent = entry.parent,
                _ => break,
            }
        }
        let (hosts, sockets) = self.taps.get(&parent).map_or_else(Default::default, |of| {
            (of.hosts.clone(), of.sockets.clone())
        });
        let libraries = self.libraries.of(id.pid).unwrap_or_default();
        let problem = self.kernel.tap(id.pid, &libraries).err();
        let exe = process::exe(id.pid).map(|path| path.display().to_string());
        if let Some(why) = problem {
            self.not_tapped(id.pid, session, exe.as_deref(), None, &why);
        }
        self.taps.insert(
            id.pid,
            Tapped {
                start: id.start,
                start_ns,
                session,
                exe,
                files: libraries.iter().map(|library| library.file).collect(),
                hosts,
                sockets,
                ..Tapped::default()
            },
        );
    }

    /// The same of all that are not known yet, before the probes of those that they were forked from go: they have these from
    /// them.
    fn take_up_children(&mut self) {
        for (pid, entry) in self.kernel.tables.all_tapped() {
            let task = self.kernel.tables.task(pid);
            if let Some(task) = task.filter(|task| task.start_ns == entry.start_ns) {
                self.take_up_child(Id::new(pid, entry.start_ns), entry.start_ns, task.session);
            }
        }
    }

    /// Looks for the TLS libraries of a process, and taps them.
    fn tap(&mut self, id: Id, fields: &Header, host: Option<&str>) {
        let libraries = match self.libraries.of(id.pid) {
            Ok(libraries) => libraries,
            // It has gone.
            Err(error) => {
                tracing::debug!(pid = id.pid, %error, "a process's libraries cannot be looked at");
                return;
            }
        };
        if process::stat(id.pid).is_none_or(|stat| stat.id != id) {
            return;
        }
        let (count, problem) = match self.kernel.tap(id.pid, &libraries) {
            Ok(count) => (count, None),
            Err(problem) => (0, Some(problem)),
        };
        if count == 0 {
            let why = problem.unwrap_or_else(|| NO_LIBRARY.into());
            let exe = process::exe(id.pid).map(|path| path.display().to_string());
            let host = Some(host.unwrap_or("a host without a name"));
            self.not_tapped(id.pid, fields.session, exe.as_deref(), host, &why);
        }
        self.forget_connections(id.pid);
        let files = match count {
            0 => BTreeSet::new(),
            _ => libraries.iter().map(|library| library.file).collect(),
        };
        self.taps.insert(
            id.pid,
            Tapped {
                start: id.start,
                start_ns: fields.start_ns,
                session: fields.session,
                exe: process::exe(id.pid).map(|path| path.display().to_string()),
                files,
                ..Tapped::default()
            },
        );
        if let Err(error) = self.kernel.tables.put_tapped(id.pid, fields.start_ns) {
            self.problems.insert("taps", error.to_string());
        }
    }

    /// Says that the requests of a process are not seen.
    fn not_tapped(
        &mut self,
        pid: u32,
        session: u32,
        exe: Option<&str>,
        host: Option<&str>,
        why: &str,
    ) {
        let to = host.map(|host| format!(" to {host}"));
        let line = format!(
            "pid {pid} ({}){}: {why}",
            exe.unwrap_or("?"),
            to.unwrap_or_default()
        );
        let known = self
            .sessions
            .get(&session)
            .is_some_and(|session| session.untapped.contains(&line));
        if known {
            return;
        }
        tracing::info!(session, "requests are not seen of {line}");
        if let Some(session) = self.sessions.get_mut(&session) {
            if session.untapped.len() >= MAX_UNTAPPED {
                session.untapped.pop_front();
            }
            session.untapped.push_back(line);
            self.dirty = true;
        }
        self.note_opaque(session);
    }

    /// A process has become another program, or has gone.
    pub(super) fn untap(&mut self, pid: u32) {
        if self.taps.contains_key(&pid) {
            self.take_up_children();
        }
        if let Some(tapped) = self.taps.remove(&pid) {
            for (host, _) in tapped.unheard.values() {
                self.not_heard(pid, tapped.session, tapped.exe.as_deref(), host);
            }
            self.kernel.untap(pid);
            self.kernel.tables.drop_tapped(pid);
            self.forget_connections(pid);
        }
    }

    /// Something that a process says has been understood; of whom its requests are for.
    pub(super) fn heard(&mut self, id: Id, hosts: &[String]) {
        let Some(tapped) = self.taps.get_mut(&id.pid) else {
            return;
        };
        // Which socket it is on, nobody says: the oldest to that host.
        let oldest = |wanted: &dyn Fn(&str) -> bool| {
            let mut unheard = tapped.unheard.iter();
            unheard
                .find(|(_, (host, _))| wanted(host))
                .map(|(cookie, _)| *cookie)
        };
        let asked = hosts.is_empty() || hosts.iter().any(|host| self.policy.asks_about(host));
        let cookie = oldest(&|host| hosts.iter().any(|of| of == host))
            .or_else(|| asked.then(|| oldest(&|_| true)).flatten());
        if let Some(cookie) = cookie {
            tapped.unheard.remove(&cookie);
        }
    }

    /// Says of connections that nothing was understood of for a while.
    fn tell_unheard(&mut self) {
        let now = clock::monotonic_ns();
        let mut silent = Vec::new();
        for (pid, tapped) in &mut self.taps {
            let (session, exe) = (tapped.session, &tapped.exe);
            tapped.unheard.retain(|_, (host, since)| {
                let keep = now.saturating_sub(*since) < UNHEARD_NS;
                if !keep {
                    silent.push((*pid, session, exe.clone(), std::mem::take(host)));
                }
                keep
            });
        }
        for (pid, session, exe, host) in silent {
            self.not_heard(pid, session, exe.as_deref(), &host);
        }
    }

    /// The same of a session that ends, however short the while.
    pub(super) fn tell_unheard_of(&mut self, session: u32) {
        let mut silent = Vec::new();
        for (pid, tapped) in &mut self.taps {
            if tapped.session == session {
                let hosts = std::mem::take(&mut tapped.unheard);
                let exe = &tapped.exe;
                silent.extend(
                    hosts
                        .into_values()
                        .map(|(host, _)| (*pid, exe.clone(), host)),
                );
            }
        }
        for (pid, exe, host) in silent {
            self.not_heard(pid, session, exe.as_deref(), &host);
        }
    }

    fn not_heard(&mut self, pid: u32, session: u32, exe: Option<&str>, host: &str) {
        const WHY: &str = "nothing was seen of what it said over a connection: it has said nothing, or by a library that \
                           cannot be tapped";
        self.not_tapped(pid, session, exe, Some(host), WHY);
    }

    /// Takes the probes off processes that have gone.
    pub(super) fn sweep_taps(&mut self) {
        self.tell_unheard();
        let gone: Vec<u32> = self
            .taps
            .iter()
            .filter(|(pid, tapped)| {
                self.kernel
                    .tables
                    .task(**pid)
                    .is_none_or(|task| task.start_ns != tapped.start_ns)
            })
            .map(|(pid, _)| *pid)
            .collect();
        for pid in gone {
            self.untap(pid);
        }
        self.kernel.sweep_taps();
    }

    /// For `status`: whose requests are not seen, a line each for some of them.
    pub(super) fn untapped(&self) -> Vec<String> {
        const LINES: usize = 8;
        let mut lines: Vec<String> = Vec::new();
        let mut more = 0;
        for session in self
            .sessions
            .values()
            .filter(|session| session.ended_ns.is_none())
        {
            for line in &session.untapped {
                if lines.len() < LINES {
                    lines.push(format!("requests: s-{}: {line}", session.id));
                } else {
                    more += 1;
                }
            }
        }
        if more > 0 {
            lines.push(format!(
                "requests: of {more} more processes (see show SESSION)"
            ));
        }
        lines
    }
}

impl Tapped {
    /// One of its connections has said whom it is for.
    pub(super) fn meets(&mut self, cookie: u64, host: String) {
        if self.hosts.len() < MAX_HOSTS {
            self.hosts.insert(host.clone());
        }
        if self.sockets.len() >= MAX_SOCKETS {
            // Cookies rise: the first is the oldest.
            self.sockets.pop_first();
        }
        self.sockets.insert(cookie, host);
    }
}
