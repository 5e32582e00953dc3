//! Which processes of sessions have their TLS library tapped, and which have none that could be.

use std::collections::{BTreeMap, BTreeSet};

use guard_common::event::Header;

use super::Engine;
use crate::{
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

/// A process whose TLS library was looked for.
#[derive(Debug, Default)]
pub(super) struct Tapped {
    /// Start time, ticks.
    pub(super) start: u64,
    /// As the kernel has it, ns.
    pub(super) start_ns: u64,
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
        if self
            .kernel
            .tables
            .tapped(id.pid)
            .is_none_or(|tapped| tapped.start_ns != fields.start_ns)
        {
            self.tap(id, fields, host.as_deref());
        }
        if let Some(tapped) = self.taps.get_mut(&id.pid) {
            tapped.meets(said.cookie, host.unwrap_or_else(|| to.addr.to_string()));
        }
        self.push_socket(id, fields.session, said.cookie);
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
            let why = problem.unwrap_or_else(|| "it has no TLS library that can be tapped".into());
            self.not_tapped(id, fields, host, &why);
        }
        self.forget_connections(id.pid);
        self.taps.insert(
            id.pid,
            Tapped {
                start: id.start,
                start_ns: fields.start_ns,
                ..Tapped::default()
            },
        );
        if let Err(error) = self.kernel.tables.put_tapped(id.pid, fields.start_ns) {
            self.problems.insert("taps", error.to_string());
        }
    }

    /// Says that the requests of a process are not seen.
    fn not_tapped(&mut self, id: Id, fields: &Header, host: Option<&str>, why: &str) {
        let exe = process::exe(id.pid).map(|path| path.display().to_string());
        let line = format!(
            "pid {} ({}) to {}: {why}",
            id.pid,
            exe.as_deref().unwrap_or("?"),
            host.unwrap_or("a host without a name"),
        );
        tracing::info!(session = fields.session, "requests are not seen of {line}");
        if let Some(session) = self.sessions.get_mut(&fields.session) {
            if session.untapped.len() >= MAX_UNTAPPED {
                session.untapped.pop_front();
            }
            session.untapped.push_back(line);
            self.dirty = true;
        }
    }

    /// A process has become another program, or has gone.
    pub(super) fn untap(&mut self, pid: u32) {
        if self.taps.remove(&pid).is_some() {
            self.kernel.untap(pid);
            self.kernel.tables.drop_tapped(pid);
            self.forget_connections(pid);
        }
    }

    /// Takes the probes off processes that have gone.
    pub(super) fn sweep_taps(&mut self) {
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
