//! Names of hosts: what name servers say goes to the kernel's tables, and what connections say into events.

use std::{net::IpAddr, time::Duration};

use guard_common::{
    Verdict,
    event::Header,
    names::{self as kernel_names, KnownHost, Resolved, seen},
    requests::clears,
};
use rustix::process::Signal;
use serde_json::{Map, Value};

use super::{BATCH, Engine};
use crate::{
    clock,
    event::Kind,
    kernel::{Connection, NameServerBytes, Said},
    names::{self, Changed, Taken},
    process::{self, Id},
};

/// Processes of a session that are asked for a socket which the one that has connected it has no longer.
const HEIRS: usize = 64;

/// How often names that nobody uses any more are forgotten: each counts for an hour at least.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

impl Engine {
    /// Reads what name servers have said since, and tells the kernel.
    pub(super) fn read_answers(&mut self) {
        let mut messages: Vec<(bool, Vec<u8>)> = Vec::new();
        let ring = self.domains.get_mut();
        let mut read = 0;
        for _ in 0..BATCH {
            let Some(item) = ring.next() else { break };
            read += 1;
            let Some(part) = NameServerBytes::decode(&item) else {
                continue;
            };
            let cut = (part.bytes.len() as u32) < part.whole;
            let believed = self.policy.believes(part.from) && self.spared.is_here(part.netns);
            if i32::from(part.protocol) == libc::IPPROTO_TCP {
                let streams = if believed {
                    &mut self.streams
                } else {
                    &mut self.foreign_streams
                };
                let whole = streams.segment(part.from, part.port, part.seq, part.bytes, cut);
                messages.extend(whole.into_iter().map(|message| (believed, message)));
            } else {
                messages.push((believed, part.bytes.to_vec()));
            }
        }
        if read == 0 {
            return;
        }
        self.more |= read == BATCH as u64;
        let now = clock::monotonic_ns();
        for (believed, message) in messages {
            let asked = believed.then(|| names::question(&message)).flatten();
            for answer in names::parse(&message) {
                let (policy, bits) = (&self.policy, &self.bits);
                let labelled = |name: &str| {
                    let known = policy.of_host(name, bits);
                    known.labels != 0 || known.asked != 0
                };
                let mut changed = self.names.learn(&answer, now, labelled);
                let generation = self.kernel.tables.generation();
                if let Some(asked) = &asked
                    && self.spare(generation, asked, &answer, now)
                {
                    changed.push(Changed {
                        addr: answer.addr,
                        gone: Vec::new(),
                    });
                }
                self.tell_names(generation, &changed);
            }
        }
        if self.names.forgotten > 0 {
            let text = format!(
                "{} addresses with a labelled name were forgotten before their time: more than the table holds",
                self.names.forgotten
            );
            self.problems.insert("names", text);
        }
        // After the tables: a connection that waits for this is judged by them.
        self.answers_read += read;
        if let Err(error) = self.kernel.tables.answers_read(self.answers_read) {
            self.problems.insert("names", error.to_string());
        }
    }

    /// Brings the kernel's tables of a half of the policy up to date with what is known of addresses.
    pub(super) fn tell_names(&mut self, generation: u32, changed: &[Changed]) {
        for Changed { addr, gone } in changed {
            let bytes = mapped(*addr);
            for name in gone {
                let hash = kernel_names::hash(name.as_bytes());
                self.kernel.tables.drop_resolved(generation, bytes, hash);
            }
            let mut names: Vec<(u64, KnownHost)> = Vec::new();
            let mut resolved: Option<Resolved> = None;
            for (name, via) in self.names.of(*addr) {
                let mut known = self.policy.of_host(name, &self.bits);
                for of in via {
                    let also = self.policy.of_host(of, &self.bits);
                    known.join(also.labels, also.groups);
                    known.asked |= also.asked;
                    names.push((kernel_names::hash(of.as_bytes()), also));
                }
                names.push((kernel_names::hash(name.as_bytes()), known));
                match &mut resolved {
                    None => {
                        resolved = Some(Resolved {
                            labels: known.labels,
                            sure: known.labels,
                            groups: known.groups,
                            asked: known.asked,
                        });
                    }
                    Some(resolved) => {
                        let mut all = KnownHost {
                            labels: resolved.labels,
                            groups: resolved.groups,
                            asked: 0,
                        };
                        all.join(known.labels, known.groups);
                        resolved.labels = all.labels;
                        resolved.groups = all.groups;
                        resolved.sure &= known.labels;
                        resolved.asked |= known.asked;
                    }
                }
            }
            let Some(mut resolved) = resolved else {
                self.kernel.tables.drop_resolved(generation, bytes, 0);
                continue;
            };
            // Whoever talks there talks to the spared name, unless the connection says another.
            let spared = self.spared_at(*addr);
            resolved.labels &= !spared;
            resolved.sure &= !spared;
            let put = self
                .kernel
                .tables
                .put_resolved(generation, bytes, &names, resolved);
            if let Err(error) = put {
                self.problems.insert("names", error.to_string());
            }
        }
    }

    /// Everything that is known, for another half of the policy: `self.policy` and `self.bits` are its.
    pub(super) fn tell_all_names(&mut self, generation: u32) {
        let (policy, bits) = (&self.policy, &self.bits);
        self.names.relabel(|name| {
            let known = policy.of_host(name, bits);
            known.labels != 0 || known.asked != 0
        });
        let all: Vec<Changed> = self
            .names
            .addresses()
            .into_iter()
            .map(|addr| Changed {
                addr,
                gone: Vec::new(),
            })
            .collect();
        self.tell_all_spared(generation);
        self.tell_names(generation, &all);
    }

    /// Forgets what nobody uses any more, from time to time.
    pub(super) fn sweep_names(&mut self) {
        let now = clock::monotonic_ns();
        if now - self.names_swept_ns < SWEEP_EVERY.as_nanos() as u64 {
            return;
        }
        self.names_swept_ns = now;
        if self.policy.clusters.are_old()
            && let Err(error) = self.reload()
        {
            tracing::warn!("{error}");
        }
        let mut changed = self.names.sweep(now);
        let generation = self.kernel.tables.generation();
        changed.extend(self.sweep_spared(generation, now));
        self.tell_names(generation, &changed);
    }

    /// A connection has said whom it is for.
    pub(super) fn on_name(&mut self, fields: &Header, to: &Connection, said: &Said) {
        let host = said.host.as_deref().map(names::normal);
        if let Some(tapped) = self.taps.get_mut(&fields.tgid) {
            // Who is called by an address says no name.
            let host = host.clone().unwrap_or_else(|| to.addr.to_string());
            tapped.meets(said.cookie, host);
        }
        let known = self.names.latest(to.addr).map(str::to_owned);
        let nothing_new = host.is_some() && host == known;
        let mut event = self.event_of(Kind::Connect, fields);
        if event.labels.is_empty()
            && fields.verdict == 0
            && (nothing_new || !self.may_tell_connect())
        {
            return;
        }
        let mut object = self.place_of(to);
        if let Some(host) = host {
            object.insert("host".into(), host.into());
            object.insert("host_from".into(), "sni".into());
        }
        let has = |flag| said.seen & flag != 0;
        if has(seen::HELLO) {
            let word = match () {
                () if !has(seen::SNI) => "none",
                () if has(seen::AGREES) => "agrees with dns",
                () if has(seen::CONTRADICTS) => "contradicts dns",
                () => "not known from dns",
            };
            object.insert("sni".into(), word.into());
        }
        if has(seen::ECH) {
            object.insert("ech".into(), true.into());
        }
        if has(seen::CUT) {
            object.insert("cut".into(), true.into());
        }
        event.object = Some(object.into());
        let event = self.tell(event);
        self.touch(fields, &event);
        let id = Id::new(fields.tgid, fields.start_ns);
        match Verdict::from_u8(fields.verdict) {
            Verdict::Kill => {
                let _ = process::signal(id, Signal::KILL);
                self.end_socket(id, fields.session, said.cookie);
            }
            Verdict::Deny => {
                self.end_socket(id, fields.session, said.cookie);
            }
            Verdict::Hold => self.hold_from(fields, event, Some(said.cookie)),
            Verdict::Allow | Verdict::Flag => {}
        }
    }

    /// Where a connection goes, with the name that its address was last given for.
    pub(super) fn place_of(&self, to: &Connection) -> Map<String, Value> {
        let family = if i32::from(to.family) == libc::AF_INET {
            "inet"
        } else {
            "inet6"
        };
        let protocol = match to.socket_type as i32 {
            libc::SOCK_STREAM => "stream",
            libc::SOCK_DGRAM => "datagram",
            _ => "other",
        };
        let mut object = Map::new();
        object.insert("family".into(), family.into());
        object.insert("addr".into(), to.addr.to_string().into());
        object.insert("port".into(), to.port.into());
        object.insert("type".into(), protocol.into());
        if let Some(host) = self.names.latest(to.addr) {
            object.insert("host".into(), host.into());
            object.insert("host_from".into(), "dns".into());
        }
        object
    }

    /// What the kernel holds back of a connection is to be tried again now.
    pub(super) fn push_socket(&mut self, id: Id, session: u32, cookie: u64) {
        // It is tried again within half a second all the same.
        if let Some(socket) = self.find_socket(id, session, cookie)
            && let Err(error) = socket.push()
        {
            tracing::debug!(%error, "a held connection could not be pushed");
        }
    }

    /// Ends a connection, so that its program does not wait for an answer to what never leaves.
    pub(super) fn end_socket(&mut self, id: Id, session: u32, cookie: u64) -> bool {
        let Some(socket) = self.find_socket(id, session, cookie) else {
            // Nobody waits; the kernel would still try to send.
            if let Err(error) = self.kernel.tables.clear_orphan(cookie, 0, clears::NOTHING) {
                self.problems.insert("requests", error.to_string());
            }
            return false;
        };
        if let Err(error) = socket.end() {
            tracing::warn!(%error, "a refused connection could not be ended");
            return false;
        }
        true
    }

    pub(super) fn find_socket(&self, id: Id, session: u32, cookie: u64) -> Option<Taken> {
        let mut found = None;
        self.each_socket(id, session, |socket, its| {
            if its == cookie {
                found = Some(socket);
            }
            found.is_none()
        });
        found
    }

    /// Hands out each socket of a process, and of those of its session that may have inherited it, until the caller says `false`.
    pub(super) fn each_socket(
        &self,
        id: Id,
        session: u32,
        mut take: impl FnMut(Taken, u64) -> bool,
    ) {
        let mut more = true;
        let heirs = self.members(session).into_iter().filter(|heir| *heir != id);
        for of in std::iter::once(id).chain(heirs.take(HEIRS)) {
            // Of one that has gone nobody has anything.
            let _ = Taken::each(of, |socket, cookie| {
                more = take(socket, cookie);
                more
            });
            if !more {
                break;
            }
        }
    }
}

fn mapped(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
