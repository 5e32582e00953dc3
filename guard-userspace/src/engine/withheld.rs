//! What has begun to be said and cannot be judged before its rest comes: it stays in the socket meanwhile, so that of a
//! request that is refused not even the head has left.
//!
//! Many programs write a request's head and its body apart. At the head nothing can be decided, and the library's call must
//! return for the body to come. So the process goes on, and the kernel keeps what the library has sent in the socket until guardd
//! has judged the body, which mostly is microseconds later. A program that makes a pause there is not kept waiting for longer than
//! [`LIMIT_NS`]: a head alone does nothing.

use std::collections::HashMap;

use super::{
    Engine,
    content::{Talk, TalkId},
};
use crate::{
    clock,
    http::Unfinished,
    kernel::Write,
    names::Taken,
    process::{self, Id},
};

/// After this time a head leaves without its body.
const LIMIT_NS: u64 = 2_000_000_000;
/// By so much later the kernel lets it go by itself.
const GRACE_NS: u64 = 1_000_000_000;
/// Connections that may wait at once: each costs descriptors.
const MAX_WITHHELD: usize = 256;
/// Sockets of a process that one of its connections may be on, the newest ones: which of them it is, nobody says.
const MAX_SOCKETS: usize = 8;

/// Connections whose last bytes wait for more.
pub(super) type Withheld = HashMap<TalkId, Waits>;

/// One of them.
#[derive(Debug)]
pub(super) struct Waits {
    /// Whose it is.
    id: Id,
    since_ns: u64,
    /// A person is asked about it.
    asked: bool,
    how: How,
}

#[derive(Debug)]
enum How {
    /// Of TLS, in these sockets, by their cookies. They are kept open, so that they need not be looked for again.
    Sockets(Vec<(u64, Taken)>),
    /// Without TLS the kernel waits for guardd's word anyway. The last write, without its bytes.
    Plain(Box<Write>),
}

impl Engine {
    /// Whether what a connection has said so far is to wait for what it says next.
    pub(super) fn waits_for_rest(&self, talk: &Talk, others: &[String]) -> bool {
        if talk.pauses {
            return false;
        }
        match talk.stream.unfinished() {
            Unfinished::Nothing => false,
            Unfinished::Head => {
                let mut hosts = talk.hosts.iter().chain(others).peekable();
                hosts.peek().is_none()
                    || self.policy.asks_about_any()
                    || hosts.any(|host| self.policy.asks_about(host))
            }
            Unfinished::Bodies(heads) => heads
                .iter()
                .any(|head| self.policy.waits_for_body(head, others)),
        }
    }

    /// Has what a process is about to send over TLS wait.
    pub(super) fn withhold(&mut self, talk_id: TalkId, id: Id, hosts: &[String]) {
        if self.withheld.contains_key(&talk_id) || !self.may_withhold() {
            return;
        }
        let Some(tapped) = self.taps.get(&id.pid) else {
            return;
        };
        let is_for = |host: &String| {
            if hosts.is_empty() {
                self.policy.asks_about(host)
            } else {
                hosts.contains(host)
            }
        };
        // Cookies rise: the last are the newest.
        let of_it = tapped.sockets.iter().rev();
        let cookies: Vec<u64> = of_it
            .filter(|(_, host)| is_for(host))
            .map(|(cookie, _)| *cookie)
            .take(MAX_SOCKETS)
            .collect();
        let mut sockets = Vec::new();
        // Of a process that has gone nothing is said any more.
        let _ = Taken::each(id, |socket, cookie| {
            let new = sockets.iter().all(|(other, _)| *other != cookie);
            if new && cookies.contains(&cookie) {
                sockets.push((cookie, socket));
            }
            sockets.len() < cookies.len()
        });
        let now = clock::monotonic_ns();
        let until = now + LIMIT_NS + GRACE_NS;
        let mut waiting = Vec::new();
        for (cookie, socket) in sockets {
            match self.kernel.tables.withhold_socket(&socket, until, false) {
                Ok(()) => waiting.push((cookie, socket)),
                // For another connection that may be on it.
                Err(_) if self.is_withheld(cookie) => waiting.push((cookie, socket)),
                Err(error) => {
                    tracing::debug!(%error, "a connection does not wait for the rest of a request");
                }
            }
        }
        if waiting.is_empty() {
            return;
        }
        let waits = Waits {
            id,
            since_ns: now,
            asked: false,
            how: How::Sockets(waiting),
        };
        self.withheld.insert(talk_id, waits);
    }

    /// The same of what a process sends without TLS: the kernel is not told that it may leave.
    pub(super) fn withhold_plain(&mut self, talk_id: TalkId, id: Id, write: &Write) -> bool {
        let known = self.withheld.get(&talk_id);
        let since_ns = known.map_or_else(clock::monotonic_ns, |waits| waits.since_ns);
        if known.is_none() && !self.may_withhold() {
            return false;
        }
        let write = Write {
            bytes: Vec::new(),
            ..write.clone()
        };
        let waits = Waits {
            id,
            since_ns,
            asked: false,
            how: How::Plain(Box::new(write)),
        };
        self.withheld.insert(talk_id, waits);
        true
    }

    fn may_withhold(&mut self) -> bool {
        let may = self.withheld.len() < MAX_WITHHELD;
        if !may {
            let problem = format!(
                "more than {MAX_WITHHELD} requests waited for their bodies at once: heads of others left alone"
            );
            self.problems.insert("withheld", problem);
        }
        may
    }

    fn is_withheld(&self, cookie: u64) -> bool {
        self.withheld.values().any(|waits| match &waits.how {
            How::Sockets(sockets) => sockets.iter().any(|(other, _)| *other == cookie),
            How::Plain(_) => false,
        })
    }

    /// Lets a connection send what has waited: its rest has come and has been judged.
    pub(super) fn release(&mut self, talk_id: TalkId) {
        let Some(waits) = self.withheld.remove(&talk_id) else {
            return;
        };
        match waits.how {
            How::Sockets(sockets) => {
                for (cookie, socket) in sockets {
                    // Another connection of the same process may be on it.
                    if !self.is_withheld(cookie) {
                        self.let_send(&socket);
                    }
                }
            }
            How::Plain(write) => self.clear_plain(&write, talk_id, waits.id),
        }
    }

    /// The word for it is somebody else's now: what waited without TLS is cleared, or not, by an answer.
    pub(super) fn forget_withheld(&mut self, talk_id: TalkId) {
        self.withheld.remove(&talk_id);
    }

    fn let_send(&mut self, socket: &Taken) {
        self.kernel.tables.release_socket(socket);
        if let Err(error) = socket.push() {
            tracing::debug!(%error, "a connection that may go on could not be pushed");
        }
    }

    /// A person is asked about a request, however long that takes. What other threads of the process have begun to say waits
    /// for as long, since they stand still too.
    pub(super) fn withhold_on(&mut self, talk_id: TalkId, id: Id) {
        if let Some(waits) = self.withheld.get_mut(&talk_id) {
            waits.asked = true;
        }
        self.withhold_until(id, u64::MAX);
    }

    /// Has the sockets that wait of a process wait until then.
    fn withhold_until(&mut self, id: Id, until: u64) {
        for waits in self.withheld.values().filter(|waits| waits.id == id) {
            let How::Sockets(sockets) = &waits.how else {
                continue;
            };
            for (_, socket) in sockets {
                if let Err(error) = self.kernel.tables.withhold_socket(socket, until, true) {
                    self.problems.insert("requests", error.to_string());
                }
            }
        }
    }

    /// A process that was held goes on: what was asked about may leave, and what other threads have begun to say waits for its
    /// rest anew. Its sockets are looked at as well, since an earlier guardd may have had them wait.
    pub(super) fn release_asked(&mut self, id: Id) {
        let of_it = self.withheld.iter_mut().filter(|(_, of)| of.id == id);
        let mut asked = Vec::new();
        let now = clock::monotonic_ns();
        for (talk_id, waits) in of_it {
            if waits.asked {
                asked.push(*talk_id);
            } else {
                waits.since_ns = now;
            }
        }
        for talk_id in asked {
            self.release(talk_id);
        }
        self.withhold_until(id, now + LIMIT_NS + GRACE_NS);
        let mut sockets = Vec::new();
        let _ = Taken::each(id, |socket, cookie| {
            sockets.push((socket, cookie));
            true
        });
        for (socket, cookie) in sockets {
            if self.kernel.tables.is_withheld(&socket) && !self.is_withheld(cookie) {
                self.let_send(&socket);
            }
        }
    }

    /// A process is to be killed: what waited in its sockets would leave when they are closed. They end here, as long as there
    /// is somebody to take them from.
    pub(super) fn refuse_all_of(&mut self, id: Id) {
        self.withheld.retain(|_, waits| waits.id != id);
        let tables = &mut self.kernel.tables;
        let mut problem = None;
        let _ = Taken::each(id, |socket, _| {
            if tables.is_withheld(&socket) {
                if let Err(error) = tables.refuse_socket(&socket) {
                    problem = Some(error.to_string());
                }
                if let Err(error) = socket.end() {
                    tracing::debug!(%error, "a refused connection is closed with its process");
                }
            }
            true
        });
        if let Some(problem) = problem {
            self.problems.insert("requests", problem);
        }
    }

    /// Lets go what has waited for long enough, and what nobody waits for any more.
    pub(super) fn sweep_withheld(&mut self) {
        if self.withheld.len() < MAX_WITHHELD / 2 {
            self.problems.remove("withheld");
        }
        let now = clock::monotonic_ns();
        let mut late = Vec::new();
        for (talk_id, waits) in &self.withheld {
            if waits.asked || self.is_held(waits.id) {
                continue;
            }
            if now.saturating_sub(waits.since_ns) >= LIMIT_NS || !self.talks.has(*talk_id) {
                late.push(*talk_id);
            }
        }
        for talk_id in late {
            self.talks.pauses(talk_id);
            self.release(talk_id);
        }
        // Nobody has their sockets any more: what waits in them never leaves.
        self.withheld.retain(|_, waits| {
            !waits.asked || process::stat(waits.id.pid).is_some_and(|stat| stat.id == waits.id)
        });
    }
}
