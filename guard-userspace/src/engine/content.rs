//! What processes are about to say: read before it leaves, judged by the same table as everything else, and let go.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
};

use guard_common::{
    Verdict,
    event::{FLAG_SPINS, FLAG_STOPPED, kind},
    matching::fold,
    requests::{clears, via},
    state::fate,
};
use rustix::process::Signal;
use serde_json::{Map, Value, json};

use super::{BATCH, Engine, holds::Call};
use crate::{
    clock,
    event::Kind,
    http::{KnownQueries, Request, Stream},
    kernel::{Judged, Write},
    mask,
    process::{self, Id},
};

/// Connections whose requests are read at once.
const MAX_TALKS: usize = 16_384;
/// Bytes that are kept of all of them.
const MAX_HELD: usize = 64 << 20;
/// Requests of one connection whose labels are remembered: HTTP/2 has several under way.
const MAX_JUDGED: usize = 1024;
/// Bytes of a path that an event shows.
pub(super) const MAX_SHOWN: usize = 512;
/// Operations of one request that are shown.
pub(super) const MAX_OPERATIONS: usize = 16;

/// A connection: of TLS the process and the library's object for it, otherwise the socket's cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TalkId {
    Library(u32, u64),
    Socket(u64),
}

/// What is known of one connection's requests.
#[derive(Debug, Default)]
pub(super) struct Talk {
    pub(super) stream: Stream,
    /// Where in the stream what was read ends; `None` before the first byte.
    at: Option<u64>,
    /// What was read last, to recognise it when it comes again: a library that took less than it was given is given the
    /// rest again.
    last: Vec<u8>,
    /// Where in the stream that began.
    last_at: u64,
    /// Something that it says has been understood.
    heard: bool,
    /// Whom its requests were for.
    pub(super) hosts: Vec<String>,
    /// It has been silent in the middle of a request: what it begins does not wait for its rest any more.
    pub(super) pauses: bool,
    /// Labels that requests under way were judged for.
    judged: BTreeMap<u64, u64>,
    /// When it was last written to, ns of `CLOCK_MONOTONIC`.
    used_ns: u64,
    /// Bytes that it keeps.
    held: usize,
}

/// Every connection that is read.
#[derive(Debug, Default)]
pub(super) struct Talks {
    talks: HashMap<TalkId, Talk>,
    known: KnownQueries,
    /// Bytes that all of them keep.
    held: usize,
}

impl Talks {
    pub(super) fn remove(&mut self, id: TalkId) {
        if let Some(talk) = self.talks.remove(&id) {
            self.held -= talk.held;
        }
    }

    pub(super) fn has(&self, id: TalkId) -> bool {
        self.talks.contains_key(&id)
    }

    pub(super) fn pauses(&mut self, id: TalkId) {
        if let Some(talk) = self.talks.get_mut(&id) {
            talk.pauses = true;
        }
    }

    /// Keeps what is held of connections within bounds: that which would go beyond is not read any more.
    fn weigh(&mut self, id: TalkId) {
        let Some(talk) = self.talks.get_mut(&id) else {
            return;
        };
        let mut now = talk.stream.held() + talk.last.capacity();
        if self.held - talk.held + now > MAX_HELD {
            talk.stream = Stream::lost("more is under way than is kept");
            talk.last = Vec::new();
            now = 0;
        }
        self.held = self.held - talk.held + now;
        talk.held = now;
    }

    fn get(&mut self, id: TalkId) -> &mut Talk {
        if self.talks.len() >= MAX_TALKS && !self.talks.contains_key(&id) {
            // Those that were silent longest: half of them at once, so that it is seldom.
            let mut times: Vec<u64> = self.talks.values().map(|talk| talk.used_ns).collect();
            times.sort_unstable();
            let middle = times.get(times.len() / 2).copied().unwrap_or_default();
            self.talks.retain(|_, talk| talk.used_ns > middle);
            self.held = self.talks.values().map(|talk| talk.held).sum();
        }
        self.talks.entry(id).or_default()
    }
}

/// What becomes of a write.
#[derive(Debug)]
enum Becomes {
    /// It leaves. Of requests that nothing is asked about people are told when their process goes on.
    Goes(Vec<Request>),
    Held,
    Ended,
}

/// What a write adds to what is known of a connection.
#[derive(Debug, PartialEq, Eq)]
struct Fresh {
    /// Bytes before it that have left without having been handed over, as while guardd was late.
    missed: u64,
    bytes: Vec<u8>,
    /// Bytes that follow and that nobody has seen.
    missing: u64,
}

impl Engine {
    /// Reads what processes are about to say.
    pub(super) fn read_requests(&mut self) {
        let mut writes: Vec<Write> = Vec::new();
        let ring = self.said.get_mut();
        for taken in 0..=BATCH {
            if taken == BATCH {
                self.more = true;
                break;
            }
            let Some(item) = ring.next() else { break };
            match Write::decode(&item) {
                Some(write) => writes.push(write),
                None => tracing::warn!(bytes = item.len(), "a write that cannot be read"),
            }
        }
        for write in writes {
            self.on_write(write);
        }
    }

    /// One write: nothing of it has left.
    pub(super) fn on_write(&mut self, mut write: Write) {
        if write.via == via::QUIC {
            return self.on_quic(&write);
        }
        let fields = write.fields;
        let id = Id::new(fields.tgid, fields.start_ns);
        let plain = write.via == via::PLAIN;
        let talk_id = if plain {
            TalkId::Socket(write.conn)
        } else {
            TalkId::Library(id.pid, write.conn)
        };
        if write.ends {
            self.talks.remove(talk_id);
            return;
        }
        if write.bytes.is_empty() && write.len > 0 && write.from != 0 {
            write.bytes = read_memory(id, write.from, write.len).unwrap_or_default();
        }
        if !plain {
            self.take_up_child(id, fields.start_ns, fields.session);
            if self.is_held(id) && self.may_put_off(&write) {
                return self.put_off(id, write);
            }
        }
        let (becomes, others) = self.look_at(&write, talk_id, id);
        if plain {
            match becomes {
                Becomes::Goes(requests) => {
                    if !(self.waits(talk_id, &others) && self.withhold_plain(talk_id, id, &write)) {
                        self.forget_withheld(talk_id);
                        self.clear_plain(&write, talk_id, id);
                    }
                    self.tell_all(&write, &requests, &others);
                }
                Becomes::Held | Becomes::Ended => self.forget_withheld(talk_id),
            }
            return;
        }
        let Some(tapped) = self
            .taps
            .get_mut(&id.pid)
            .filter(|tapped| tapped.start == id.start)
        else {
            // Nobody counts its writes any more.
            self.kernel.tables.drop_tapped(id.pid);
            let _ = self.go_on([id]);
            return;
        };
        tapped.seen += 1;
        match &becomes {
            Becomes::Goes(_) if self.waits(talk_id, &others) => {
                let mut hosts = others.clone();
                hosts.extend(self.talks.get(talk_id).hosts.iter().cloned());
                self.withhold(talk_id, id, &hosts);
            }
            Becomes::Goes(_) => self.release(talk_id),
            // Also where somebody else lets the process go on, nothing of it leaves.
            Becomes::Held => {
                let mut hosts = others.clone();
                hosts.extend(self.talks.get(talk_id).hosts.iter().cloned());
                self.withhold(talk_id, id, &hosts);
                self.withhold_on(talk_id, id);
            }
            Becomes::Ended => {}
        }
        if let Becomes::Goes(requests) = becomes {
            if fields.flags & (FLAG_STOPPED | FLAG_SPINS) != 0 {
                self.end_wait(id);
            }
            self.tell_all(&write, &requests, &others);
        }
    }

    fn waits(&self, talk_id: TalkId, others: &[String]) -> bool {
        let talk = self.talks.talks.get(&talk_id);
        talk.is_some_and(|talk| self.waits_for_rest(talk, others))
    }

    fn tell_all(&mut self, write: &Write, requests: &[Request], others: &[String]) {
        for request in requests {
            self.tell_request(write, request, others, 0, None, None);
        }
    }

    /// Takes the bytes into what is known of the connection, and judges the requests that end in them.
    fn look_at(&mut self, write: &Write, talk_id: TalkId, id: Id) -> (Becomes, Vec<String>) {
        let now = clock::monotonic_ns();
        let others = self.others(write, id);
        let talk = self.talks.get(talk_id);
        if talk.used_ns == 0 && write.via != via::PLAIN && write.at != 0 {
            // The library has taken something before: what that was has been forgotten.
            talk.stream = Stream::lost("its beginning was forgotten");
        }
        talk.used_ns = now;
        let Fresh {
            missed,
            bytes,
            missing,
        } = talk.fresh(write);
        let mut known = std::mem::take(&mut self.talks.known);
        known.secrets = self.secrets.known();
        let talk = self.talks.get(talk_id);
        let mut requests = talk.stream.miss(missed);
        requests.extend(talk.stream.take(&bytes, missing, &mut known));
        for request in &requests {
            for host in &request.hosts {
                if !talk.hosts.contains(host) && talk.hosts.len() < 64 {
                    talk.hosts.push(host.clone());
                }
            }
        }
        let is_other = talk.stream.is_other();
        let hosts = talk.hosts.clone();
        let first = !talk.heard && (is_other || !hosts.is_empty() || !requests.is_empty());
        talk.heard |= first;
        self.talks.known = known;
        self.talks.weigh(talk_id);
        if first && write.via != via::PLAIN {
            self.heard(id, &hosts);
        }
        let becomes = self.judge_requests(write, talk_id, id, &requests, &others);
        let nobody_asks = is_other
            || (!hosts.is_empty()
                && !self.policy.asks_about_any()
                && !hosts.iter().any(|host| self.policy.asks_about(host))
                && !others.iter().any(|host| self.policy.asks_about(host)));
        if nobody_asks && matches!(becomes, Becomes::Goes(_)) && write.via != via::PLAIN {
            // Of what is behind a proxy's CONNECT the library inside sees the rest.
            self.kernel.tables.pass_stream(id.pid, write.conn);
            self.talks.remove(talk_id);
        }
        (becomes, others)
    }

    /// Names that a connection is known to be for by itself.
    fn others(&self, write: &Write, id: Id) -> Vec<String> {
        if write.via == via::PLAIN {
            let name = self.names.latest(write.peer).map(str::to_owned);
            return vec![name.unwrap_or_else(|| write.peer.to_string())];
        }
        // Which of a process's sockets a library's connection is on, nobody says. With one name there is no doubt.
        match self.taps.get(&id.pid) {
            Some(tapped) if tapped.hosts.len() == 1 => tapped.hosts.iter().cloned().collect(),
            _ => Vec::new(),
        }
    }

    fn judge_requests(
        &mut self,
        write: &Write,
        talk_id: TalkId,
        id: Id,
        requests: &[Request],
        others: &[String],
    ) -> Becomes {
        let fields = &write.fields;
        let excepted = self
            .kernel
            .tables
            .task(id.pid)
            .map_or(0, |task| task.excepted);
        let mut all = 0;
        let mut found: Vec<(&Request, u64, Option<&'static str>)> = Vec::new();
        for request in requests {
            let (mut labels, mut why) = (self.uses_of(fields.session, request), None);
            for (index, unsure) in self.policy.of_request(request, others) {
                let Some(group) = self.policy.groups.get(index) else {
                    continue;
                };
                if group.mask() & excepted == 0 {
                    labels |= self.bits.mask(&group.name);
                    why = why.or(unsure);
                }
            }
            let talk = self.talks.get(talk_id);
            let before = talk.judged.get(&request.number).copied().unwrap_or(0);
            let fresh = labels & !before;
            all |= fresh;
            if request.complete {
                talk.judged.remove(&request.number);
            } else {
                if talk.judged.len() >= MAX_JUDGED {
                    talk.judged.pop_first();
                }
                talk.judged.insert(request.number, before | labels);
            }
            let asked = request
                .hosts
                .iter()
                .chain(others)
                .any(|host| self.policy.asks_about(host))
                || self.policy.asks_about_any();
            if fresh != 0 || (request.complete && asked && before == 0) {
                found.push((request, fresh, why));
            }
        }
        if all == 0 {
            let requests = found.into_iter().map(|(request, _, _)| request.clone());
            return Becomes::Goes(requests.collect());
        }
        let can_end = write.via == via::PLAIN || self.has_connection(id, requests, others);
        let mut judged = self.feed(fields.session, all, fields.tgid, can_end, kind::REQUEST);
        // A process is asked about one thing at a time: an answer to that must not let this through as well, and a refusal has
        // ended the connection that this was for.
        if judged.verdict == Verdict::Hold && (self.is_held(id) || self.is_refusing(id)) {
            judged.verdict = Verdict::Deny;
        }
        let mut event = None;
        for (request, labels, why) in found {
            let told = self.tell_request(write, request, others, labels, why, Some(&judged));
            if labels != 0 {
                self.touch(fields, &told);
                event = event.or(Some((told, request.clone())));
            }
        }
        let Some((event, request)) = event else {
            return Becomes::Goes(Vec::new());
        };
        match judged.verdict {
            Verdict::Kill => {
                self.refuse_all_of(id);
                let _ = process::signal(id, Signal::KILL);
                if write.via == via::PLAIN {
                    self.end_socket(id, fields.session, write.conn);
                }
                self.kernel.tables.drop_waiting(id.pid);
                Becomes::Ended
            }
            Verdict::Deny => {
                let ended = if write.via == via::PLAIN {
                    self.end_socket(id, fields.session, write.conn);
                    1
                } else {
                    self.end_connections(id, fields.session, &named(&request, others))
                };
                if ended == 0 {
                    self.refuse_all_of(id);
                    let _ = process::signal(id, Signal::KILL);
                    self.kernel.tables.drop_waiting(id.pid);
                    return Becomes::Ended;
                }
                if write.via == via::PLAIN {
                    Becomes::Ended
                } else {
                    // It goes on, into a connection that has ended.
                    Becomes::Goes(Vec::new())
                }
            }
            Verdict::Hold => {
                let generation = self.kernel.tables.generation() as u16;
                let Some((index, rule)) = judged
                    .rule
                    .and_then(|index| Some((index, self.rule_of(index, generation)?.clone())))
                else {
                    return Becomes::Goes(Vec::new());
                };
                let call = Call {
                    labels: all,
                    object: fold(write.conn, write.at) | 1,
                    kind: kind::REQUEST,
                    fate: fate::BEFORE,
                };
                let held = self.enter_hold(fields, index, &rule, &call);
                let _ = process::signal(id, Signal::STOP);
                self.kernel.tables.drop_waiting(id.pid);
                let cookie = (write.via == via::PLAIN).then_some(write.conn);
                self.take_up_hold(id.pid, &held, 0, judged.judged_in, event, cookie);
                let mut holds = self.holds.values_mut();
                if cookie.is_some()
                    && let Some(hold) = holds.find(|hold| hold.process == (id.pid, id.start))
                {
                    hold.clears = Some((write.at as u32).wrapping_add(write.len as u32));
                    self.save();
                }
                Becomes::Held
            }
            Verdict::Allow | Verdict::Flag => Becomes::Goes(Vec::new()),
        }
    }

    /// What a plain connection has said so far may leave; and everything, where nobody asks.
    pub(super) fn clear_plain(&mut self, write: &Write, talk_id: TalkId, id: Id) {
        let upto = (write.at as u32).wrapping_add(write.len as u32);
        let all = match self.talks.talks.get(&talk_id) {
            None => true,
            Some(talk) => {
                talk.stream.is_other()
                    || (!talk.hosts.is_empty()
                        && !self.policy.asks_about_any()
                        && !talk.hosts.iter().any(|host| self.policy.asks_about(host))
                        && self
                            .names
                            .latest(write.peer)
                            .is_none_or(|host| !self.policy.asks_about(host)))
            }
        };
        if all {
            self.talks.remove(talk_id);
        }
        let what = if all { clears::ALL } else { clears::SOME };
        self.clear_socket(id, write.fields.session, write.conn, upto, what);
    }

    /// Lets what a socket holds back leave, up to a sequence number, or nothing of it. Says whether somebody still has the
    /// socket.
    pub(super) fn clear_socket(
        &mut self,
        id: Id,
        session: u32,
        cookie: u64,
        upto: u32,
        what: u32,
    ) -> bool {
        let Some(socket) = self.find_socket(id, session, cookie) else {
            // Its program may have ended with that; the kernel sends it all the same.
            if let Err(error) = self.kernel.tables.clear_orphan(cookie, upto, what) {
                self.problems.insert("requests", error.to_string());
            }
            return false;
        };
        // Somebody has it after all, and says more behind what was refused.
        if self.kernel.tables.is_refused(cookie) {
            if let Err(error) = socket.end() {
                tracing::warn!(%error, "a refused connection could not be ended");
            }
            return false;
        }
        if let Err(error) = self.kernel.tables.clear_socket(&socket, upto, what) {
            self.problems.insert("requests", error.to_string());
        }
        if let Err(error) = socket.push() {
            tracing::debug!(%error, "a connection that may go on could not be pushed");
        }
        true
    }

    /// Whether a process has a connection that a denial could end.
    fn has_connection(&self, id: Id, requests: &[Request], others: &[String]) -> bool {
        let Some(tapped) = self.taps.get(&id.pid) else {
            return false;
        };
        let named: Vec<String> = requests
            .iter()
            .flat_map(|request| named(request, others))
            .collect();
        tapped.sockets.values().any(|host| named.contains(host))
    }

    /// Ends the connections of a process to one of these names; says how many.
    pub(super) fn end_connections(&mut self, id: Id, session: u32, hosts: &[String]) -> usize {
        let Some(tapped) = self.taps.get(&id.pid) else {
            return 0;
        };
        let sockets = tapped.sockets.iter();
        let mut wanted: BTreeSet<u64> = sockets
            .filter(|(_, host)| hosts.contains(host))
            .map(|(cookie, _)| *cookie)
            .collect();
        let mut ended = 0;
        self.each_socket(id, session, |socket, cookie| {
            if wanted.remove(&cookie) {
                match socket.end() {
                    Ok(()) => ended += 1,
                    Err(error) => {
                        tracing::warn!(%error, "a refused connection could not be ended");
                    }
                }
            }
            !wanted.is_empty()
        });
        // Nobody has the rest any more.
        if let Some(tapped) = self.taps.get_mut(&id.pid) {
            tapped.sockets.retain(|cookie, _| !wanted.contains(cookie));
        }
        ended
    }

    /// A library that is new to a process, or a process that is new to its number: nothing is known any more.
    pub(super) fn forget_connections(&mut self, pid: u32) {
        let of_it = |id: &&TalkId| matches!(id, TalkId::Library(of, _) if *of == pid);
        let gone: Vec<TalkId> = self.talks.talks.keys().filter(of_it).copied().collect();
        for id in gone {
            self.talks.remove(id);
        }
    }

    fn tell_request(
        &mut self,
        write: &Write,
        request: &Request,
        others: &[String],
        labels: u64,
        why: Option<&'static str>,
        judged: Option<&Judged>,
    ) -> crate::event::Event {
        let mut event = self.event_of(Kind::Request, &write.fields);
        event.labels = self.bits.names(labels);
        if let Some(judged) = judged.filter(|_| labels != 0) {
            let generation = self.kernel.tables.generation() as u16;
            event.verdict = Some(judged.verdict.name().into());
            event.would = (judged.would > judged.verdict).then(|| judged.would.name().into());
            event.rule = judged
                .rule
                .and_then(|index| self.rule_of(index, generation))
                .map(|rule| rule.name.clone());
        }
        event.latency_ns = Some(clock::monotonic_ns().saturating_sub(write.fields.time_ns));
        let mut object = object_of(write, request, others, why);
        self.secrets.describe_uses(request, &mut object);
        event.object = Some(object.into());
        // One that nothing is asked about is told for people's sake alone.
        if labels == 0 && !self.may_tell_connect() {
            return event;
        }
        self.tell(event)
    }
}

impl Talk {
    /// What of a write has not been read yet.
    fn fresh(&mut self, write: &Write) -> Fresh {
        let after = |later: u64, earlier: u64| {
            if write.via == via::PLAIN {
                // Sequence numbers have 32 bits.
                i64::from((later as u32).wrapping_sub(earlier as u32) as i32)
            } else {
                later.wrapping_sub(earlier) as i64
            }
        };
        let (mut bytes, mut missing) = (
            write.bytes.clone(),
            write.len.saturating_sub(write.bytes.len() as u64),
        );
        let missed = self
            .at
            .map_or(0, |at| u64::try_from(after(write.at, at)).unwrap_or(0));
        let end = write.at.wrapping_add(write.len);
        let mut next = end;
        if let Some(at) = self.at
            && let again @ 1.. = after(at, write.at)
            && let into @ 0.. = after(write.at, self.last_at)
        {
            let (again, into) = (again as u64, into as u64);
            let known = usize::try_from(into)
                .ok()
                .and_then(|into| self.last.get(into..));
            let seen = usize::try_from(again)
                .unwrap_or(usize::MAX)
                .min(bytes.len());
            // Other bytes in their place are read as they come: that makes no sense, and says so.
            if bytes[..seen]
                .iter()
                .zip(known.unwrap_or_default())
                .all(|(new, old)| new == old)
            {
                if again > bytes.len() as u64 {
                    missing = write.len.saturating_sub(again);
                }
                bytes.drain(..seen);
                if after(at, end) > 0 {
                    next = at;
                }
            }
        }
        self.at = Some(next);
        if !write.bytes.is_empty() {
            self.last.clone_from(&write.bytes);
            self.last_at = write.at;
        }
        Fresh {
            missed,
            bytes,
            missing,
        }
    }
}

/// Names that a request, or its connection, is for.
fn named(request: &Request, others: &[String]) -> Vec<String> {
    request.hosts.iter().chain(others).cloned().collect()
}

/// The event's object: the request line and what it means; of no header more than the name of the host, and no value
/// that looks like a secret.
fn object_of(
    write: &Write,
    request: &Request,
    others: &[String],
    why: Option<&'static str>,
) -> Map<String, Value> {
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| {
        object.insert(key.to_owned(), value);
    };
    if let Some(host) = request.hosts.first().or_else(|| others.first()) {
        put("host", host.clone().into());
    }
    if let Some(method) = request.methods.first() {
        put("method", method.clone().into());
    }
    if let Some(instead) = request.methods.get(1) {
        put("method_override", instead.clone().into());
    }
    if !request.path.is_empty() {
        let mut path = request.path.clone();
        let end = (0..=MAX_SHOWN.min(path.len()))
            .rev()
            .find(|at| path.is_char_boundary(*at));
        path.truncate(end.unwrap_or(0));
        put("path", mask::mask_text(&path).into());
    }
    let operations = request
        .graphql
        .iter()
        .map(|operation| match &operation.field {
            Some(field) => json!({ "type": operation.kind, "field": field }),
            None => json!({ "type": "unknown" }),
        });
    let operations: Vec<Value> = operations.take(MAX_OPERATIONS).collect();
    match operations.as_slice() {
        [] => {}
        [one] => put("graphql", one.clone()),
        _ => {
            put("graphql", operations[0].clone());
            put("operations", operations.clone().into());
        }
    }
    for (key, values) in [
        ("mcp", &request.tools),
        ("rpc", &request.calls),
        ("aws", &request.actions),
    ] {
        if let Some(first) = values.first() {
            put(key, first.clone().into());
        }
    }
    if request.graphql.is_empty()
        && let Some(grpc) = request.grpc.as_ref().filter(|_| write_is_grpc(request))
    {
        put("grpc", grpc.clone().into());
    }
    if let Some((verb, resource)) = request.kube.first() {
        put("kube", format!("{verb} {resource}").into());
    }
    if !request.objects.is_empty() {
        let objects = request.objects.iter().map(|object| mask::mask_text(object));
        put("target", objects.collect::<Vec<_>>().join(" ").into());
    }
    if let Some(unread) = &request.unread {
        put("unread", unread.why().into());
    }
    if let Some(why) = why {
        put("unsure", why.into());
    }
    put(
        "via",
        via::NAMES
            .get(write.via as usize)
            .copied()
            .unwrap_or_default()
            .into(),
    );
    object
}

/// Whether the path of a request looks like a method of gRPC's rather than a page.
fn write_is_grpc(request: &Request) -> bool {
    request
        .grpc
        .as_ref()
        .and_then(|grpc| grpc.split_once('/'))
        .is_some_and(|(service, _)| service.contains('.'))
}

/// Memory of a process that stands still.
fn read_memory(id: Id, from: u64, len: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(len)
        .unwrap_or(usize::MAX)
        .min(guard_common::requests::MAX_WRITE);
    if process::stat(id.pid).is_none_or(|stat| stat.id != id) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut bytes = vec![0; len];
    let memory = std::fs::File::open(format!("/proc/{}/mem", id.pid))?;
    let count = std::os::unix::fs::FileExt::read_at(&memory, &mut bytes, from)?;
    bytes.truncate(count);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use guard_common::{event::Header, requests::WriteHeader};

    use super::*;

    fn write(via: u32, at: u64, bytes: &[u8]) -> Write {
        let mut head = vec![0; size_of::<WriteHeader>()];
        head[offset_of!(WriteHeader, header) + offset_of!(Header, kind)] = kind::REQUEST;
        Write {
            via,
            at,
            len: bytes.len() as u64,
            bytes: bytes.to_vec(),
            ..Write::decode(&head).unwrap()
        }
    }

    #[test]
    fn what_was_not_handed_over_between_two_writes_is_counted() {
        for (via, start) in [(via::GO, 0), (via::PLAIN, u64::from(u32::MAX) - 4)] {
            // Of TCP a sequence number, which begins anew.
            let after = |bytes: u64| match via {
                via::PLAIN => u64::from((start + bytes) as u32),
                _ => start + bytes,
            };
            let mut talk = Talk::default();
            let mut next = |at, bytes: &[u8]| {
                let fresh = talk.fresh(&write(via, at, bytes));
                assert_eq!(fresh.missing, 0);
                (fresh.missed, fresh.bytes)
            };
            assert_eq!(next(start, b"0123456789"), (0, b"0123456789".to_vec()));
            assert_eq!(next(after(10), b"abc"), (0, b"abc".to_vec()));
            assert_eq!(next(after(20), b"def"), (7, b"def".to_vec()));
            // What was not taken comes again.
            assert_eq!(next(after(20), b"defg"), (0, b"g".to_vec()));
        }
    }
}
