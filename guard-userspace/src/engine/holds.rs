//! Holds: processes that wait for a person, from the kernel's stop to the answer that lets them go on,
//! fail, or die.

use std::{collections::BTreeMap, time::Duration};

use guard_common::{
    Verdict,
    event::{self as record, FLAG_SIGNAL_NEEDED, Header, tier},
    requests::clears,
    rule::RULE_SCOPE_SESSION,
    state::{Answer, AnswerKey, Held, POSTURE_NORMAL, POSTURE_PAUSED, fate},
};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Engine, Refusal, reload::NamedRule, tally::Count};
use crate::{
    approval, clock,
    event::{Event, Kind},
    kernel::Judged,
    process::{self, Id},
    wire::{HoldInfo, Terms, Via},
};

/// How long an answer waits for the call it is for. The call is repeated at once when the process
/// resumes, so this only has to cover a busy machine. An approval is used up by the call; a refusal
/// stands for repeated attempts at the same thing until this is over.
const ANSWER_LIFE: Duration = Duration::from_secs(10);

/// One process that waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hold {
    /// Its number.
    pub id: u32,
    /// Innermost session of the process.
    pub session: u32,
    /// The session whose rule it was.
    pub judged_in: u32,
    /// The process.
    pub process: (u32, u64),
    /// The rule.
    pub rule: String,
    /// Kind of call, of [`guard_common::event::kind`].
    pub kind: u8,
    /// The call, in one line.
    pub target: String,
    /// ns of `CLOCK_MONOTONIC`.
    pub since_ns: u64,
    /// When silence decides, ns of `CLOCK_MONOTONIC`.
    pub deadline_ns: u64,
    /// What silence means, a [`Verdict`].
    pub on_timeout: u8,
    /// What the call is about, as the kernel compares it; 0 for a call that is not repeated.
    pub object: u64,
    /// Half of the policy that held it.
    pub generation: u16,
    /// The rule's index there.
    #[serde(default = "no_rule")]
    pub rule_index: u16,
    /// What has become of the call, one of [`guard_common::state::fate`].
    #[serde(default)]
    pub fate: u8,
    /// The whole session was stopped for it.
    pub whole_session: bool,
    /// The socket whose first bytes wait, by its cookie.
    #[serde(default)]
    pub cookie: Option<u64>,
    /// Of such a socket's requests, the sequence number up to which they may leave then.
    #[serde(default)]
    pub clears: Option<u32>,
    /// Everything may: QUIC's.
    #[serde(default)]
    pub clears_all: bool,
    /// Another thread of the process waits behind it with something to say.
    #[serde(default)]
    pub others_wait: bool,
    /// What an answer by a channel must carry.
    #[serde(default)]
    pub token: String,
    /// The channels that have told people of it, each with where its message is.
    #[serde(default)]
    pub told: BTreeMap<String, String>,
    /// The event of the call.
    pub event: Event,
    /// See `engine/likeness.rs`; `None` is alike to nothing.
    #[serde(default)]
    pub likeness: Option<String>,
    /// Number of its group: that of the first hold in it. 0 in what an older guardd left: a group of its own.
    #[serde(default)]
    pub group: u32,
}

const fn no_rule() -> u16 {
    record::NO_RULE
}

impl Hold {
    fn process_id(&self) -> Id {
        Id {
            pid: self.process.0,
            start: self.process.1,
        }
    }

    /// `hg-N`.
    pub(super) fn group_name(&self) -> String {
        let group = if self.group == 0 { self.id } else { self.group };
        format!("hg-{group}")
    }
}

/// A call that guardd has judged; the members are those of [`Held`].
pub(super) struct Call {
    pub(super) labels: u64,
    pub(super) object: u64,
    pub(super) kind: u8,
    pub(super) fate: u8,
}

/// What becomes of a hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Go on; with a duration, as a lease of the session.
    Approve(Option<Duration>),
    /// Fail the call.
    Deny(Option<String>),
    /// Nobody answered.
    TimedOut,
    /// guardd is stopping.
    Stopping,
}

/// Who answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct By {
    /// Peer's uid.
    pub uid: Option<u32>,
    /// Peer's pid.
    pub pid: Option<u32>,
    /// The hold that the answer was given to, where it covers others that are like it.
    pub all_like: Option<u32>,
}

impl Engine {
    /// Lets the kernel judge a fact that only guardd could see. Where it cannot, nothing is stopped, and `status` is degraded.
    pub(super) fn feed(
        &mut self,
        session: u32,
        labels: u64,
        tgid: u32,
        can_deny: bool,
        kind: u8,
    ) -> Judged {
        let judged = self.kernel.inject(session, labels, tgid, can_deny, kind);
        judged.unwrap_or_else(|error| {
            self.problems.insert("inject", error.to_string());
            Judged {
                verdict: Verdict::Allow,
                would: Verdict::Allow,
                rule: None,
                judged_in: 0,
            }
        })
    }

    /// Tells of what a process has done, which guardd alone could see, and carries out what the rules say of it: behind the act, or
    /// before the first instruction of a program that waits for that. `verdict` may be milder than what was judged. Says whether the
    /// process goes on.
    pub(super) fn carry_out_on(
        &mut self,
        fields: &Header,
        judged: &Judged,
        verdict: Verdict,
        event: Event,
    ) -> bool {
        let id = Id::new(fields.tgid, fields.start_ns);
        let generation = self.kernel.tables.generation() as u16;
        let rule = judged
            .rule
            .and_then(|index| Some((index, self.rule_of(index, generation)?.clone())));
        match (verdict, rule) {
            (Verdict::Kill, _) => {
                let _ = process::signal(id, Signal::KILL);
                let event = self.tell(event);
                self.touch(fields, &event);
                false
            }
            (Verdict::Hold, Some((index, rule))) => {
                let _ = process::signal(id, Signal::STOP);
                let call = Call {
                    labels: event
                        .labels
                        .iter()
                        .fold(0, |all, label| all | self.bits.mask(label)),
                    object: 0,
                    kind: fields.kind,
                    fate: fate::HAPPENED,
                };
                let held = self.enter_hold(fields, index, &rule, &call);
                let event = self.tell(event);
                self.touch(fields, &event);
                self.take_up_hold(id.pid, &held, 0, judged.judged_in, event, None);
                false
            }
            _ => {
                let event = self.tell(event);
                self.touch(fields, &event);
                true
            }
        }
    }

    /// What the rules say of what an event tells, written into it.
    pub(super) fn note_judged(
        &self,
        event: &mut Event,
        judged: &Judged,
        verdict: Verdict,
        labels: u64,
    ) {
        let generation = self.kernel.tables.generation() as u16;
        let would = judged.would.max(judged.verdict);
        event.labels = self.bits.names(labels);
        event.verdict = Some(verdict.name().into());
        event.would = (would > verdict).then(|| would.name().into());
        event.rule = judged
            .rule
            .and_then(|index| self.rule_of(index, generation))
            .map(|rule| rule.name.clone());
        event.tier = Some(tier::NAMES[usize::from(tier::USERSPACE)].into());
    }

    /// Enters a hold that guardd decided on in the kernel's table, by a rule of the policy in force.
    pub(super) fn enter_hold(
        &mut self,
        fields: &Header,
        index: u16,
        rule: &NamedRule,
        call: &Call,
    ) -> Held {
        let now = clock::monotonic_ns();
        let held = Held {
            start_ns: fields.start_ns,
            time_ns: now,
            deadline_ns: now + rule.timeout_ns,
            labels: call.labels,
            object: call.object,
            session: fields.session,
            rule: index,
            generation: self.kernel.tables.generation() as u16,
            kind: call.kind,
            on_timeout: rule.on_timeout,
            fate: call.fate,
            pad: [0; 5],
        };
        if let Err(error) = self.kernel.tables.put_held(fields.tgid, held) {
            self.problems.insert("held", error.to_string());
        }
        held
    }

    /// Takes up a hold that the kernel has entered in its table, or that guardd decided on.
    pub(super) fn take_up_hold(
        &mut self,
        tgid: u32,
        held: &Held,
        flags: u32,
        judged_in: u32,
        event: Event,
        cookie: Option<u64>,
    ) {
        let id = Id::new(tgid, held.start_ns);
        if flags & FLAG_SIGNAL_NEEDED != 0 {
            let _ = process::signal(id, Signal::STOP);
        }
        // The same process again: somebody resumed it, the call was repeated and held again.
        if self.holds.values().any(|hold| hold.process_id() == id) {
            return;
        }
        let Some(rule) = self.rule_of(held.rule, held.generation) else {
            return;
        };
        let (name, scope_session) = (rule.name.clone(), rule.flags & RULE_SCOPE_SESSION != 0);
        self.next_hold += 1;
        let mut hold = Hold {
            id: self.next_hold,
            session: held.session,
            judged_in: if judged_in == 0 {
                held.session
            } else {
                judged_in
            },
            process: (tgid, id.start),
            rule: name,
            kind: held.kind,
            target: target_of(&event),
            since_ns: held.time_ns,
            deadline_ns: held.deadline_ns,
            on_timeout: held.on_timeout,
            object: held.object,
            generation: held.generation,
            rule_index: held.rule,
            fate: held.fate,
            whole_session: scope_session,
            cookie,
            clears: None,
            clears_all: false,
            others_wait: false,
            token: approval::token(),
            told: BTreeMap::new(),
            event,
            likeness: None,
            group: self.next_hold,
        };
        self.put_in_group(&mut hold);
        let mut told = self.event_for(Kind::Hold, Some(hold.session));
        told.tgid = Some(tgid);
        told.rule = Some(hold.rule.clone());
        told.verdict = Some("hold".into());
        told.object = Some(json!({
            "id": format!("h-{}", hold.id),
            "what": "held",
            "target": hold.target,
            "until": clock::rfc3339_at(hold.deadline_ns),
            "on_timeout": timeout_word(hold.on_timeout),
            "group": hold.group_name(),
        }));
        self.count_hold(&hold.rule, Count::Held);
        if hold.whole_session {
            self.stop_session(hold.judged_in, Some(id));
        }
        self.holds.insert(hold.id, hold);
        self.tell(told);
        self.save();
    }

    /// Holds that the kernel has entered `for_ns` ago or before and whose record was lost. Of a younger one the record, which says
    /// what is held, is still on its way: the kernel sends it after it has entered the hold.
    pub(super) fn find_lost_holds(&mut self, for_ns: u64) {
        let now = clock::monotonic_ns();
        for (tgid, held) in self.kernel.tables.held() {
            let id = Id::new(tgid, held.start_ns);
            if now.saturating_sub(held.time_ns) < for_ns
                || self.holds.values().any(|hold| hold.process_id() == id)
                || process::same(tgid, held.start_ns).is_none()
            {
                continue;
            }
            let mut event = self.event_for(Kind::Hold, Some(held.session));
            event.labels = self.bits.names(held.labels);
            event.mono_ns = Some(held.time_ns);
            event.time = clock::rfc3339_at(held.time_ns);
            event.tgid = Some(tgid);
            self.describe_process(&mut event, tgid, held.start_ns);
            self.take_up_hold(tgid, &held, 0, 0, event, None);
        }
    }

    /// Settles what is due, drops what is gone, stops again what somebody else let go on.
    pub(super) fn look_after_holds(&mut self) {
        let now = clock::monotonic_ns();
        let ids: Vec<u32> = self.holds.keys().copied().collect();
        for id in ids {
            let Some(hold) = self.holds.get(&id) else {
                continue;
            };
            let process = hold.process_id();
            let stat =
                process::stat(process.pid).filter(|stat| stat.id == process && stat.is_alive());
            match stat {
                None => self.hold_is_gone(id),
                Some(_) if now >= hold.deadline_ns => {
                    let _ = self.settle(id, &Outcome::TimedOut, By::default());
                }
                Some(stat) if !stat.is_stopped() => {
                    let _ = process::signal(process, Signal::STOP);
                }
                Some(_) => {}
            }
        }
        self.stop_again();
        self.kernel.tables.drop_stale_answers(now);
    }

    /// What a person or a hold of the whole session has stopped, somebody else may have let go on.
    fn stop_again(&mut self) {
        let paused = self
            .sessions
            .values()
            .filter(|session| session.paused)
            .map(|session| session.id);
        let scoped = self
            .holds
            .values()
            .filter(|hold| hold.whole_session)
            .map(|hold| hold.judged_in);
        let stopped: std::collections::BTreeSet<u32> = paused.chain(scoped).collect();
        for session in stopped {
            self.stop_session(session, None);
        }
    }

    fn hold_is_gone(&mut self, id: u32) {
        let Some(hold) = self.holds.remove(&id) else {
            return;
        };
        self.kernel.tables.drop_held(hold.process.0);
        self.drop_put_off(hold.process_id());
        // Nobody has approved the request that waits in it.
        if let (Some(cookie), Some(_)) = (hold.cookie, hold.clears) {
            self.end_socket(hold.process_id(), hold.session, cookie);
        }
        let mut event = self.event_for(Kind::Hold, Some(hold.session));
        event.tgid = Some(hold.process.0);
        event.rule = Some(hold.rule.clone());
        event.object = Some(
            json!({ "id": format!("h-{id}"), "what": "ended", "why": "the process has exited" }),
        );
        self.tell(event);
        self.let_rest_go_on(&hold);
        self.save();
    }

    /// Carries an answer out.
    ///
    /// # Errors
    /// When there is no such hold, or the kernel's table does not take the answer; the process then
    /// stays held.
    pub(super) fn settle(&mut self, id: u32, outcome: &Outcome, by: By) -> Result<String, Refusal> {
        self.settle_via(id, outcome, by, None)
    }

    /// The same for an answer that came by a channel.
    pub(super) fn settle_via(
        &mut self,
        id: u32,
        outcome: &Outcome,
        by: By,
        via: Option<&Via>,
    ) -> Result<String, Refusal> {
        let Some(hold) = self.holds.get(&id).cloned() else {
            return Err(Refusal::not_found(format!(
                "h-{id}: no such hold waits: it was answered, timed out or its process has exited; see 'guardctl pending'"
            )));
        };
        let process = hold.process_id();
        // What its other threads were about to say was put off by a guardd that is gone, and would leave with it.
        let unknown = hold.others_wait && !self.has_put_off(process);
        let wanted = match outcome {
            Outcome::Approve(_) if unknown => Verdict::Kill,
            Outcome::Approve(_) => Verdict::Allow,
            Outcome::Deny(_) => Verdict::Deny,
            Outcome::TimedOut | Outcome::Stopping => Verdict::from_u8(hold.on_timeout),
        };
        let done = match wanted {
            Verdict::Deny if hold.fate == fate::BEFORE && !self.refuse_request(&hold) => {
                Verdict::Kill
            }
            Verdict::Deny if hold.fate != fate::HAPPENED => Verdict::Deny,
            // What has not happened then is the program's next instruction.
            Verdict::Deny => Verdict::Kill,
            other => other,
        };
        self.place_answer(&hold, done)?;
        let mut lease = None;
        if let Outcome::Approve(Some(duration)) = outcome
            && let Some(label) = self.trigger_of(&hold.rule)
        {
            let terms = Terms {
                label,
                for_ms: Some(duration.as_millis() as u64),
                reason: Some(format!("approval of h-{id}")),
                ..Terms::default()
            };
            let grant = self.grant(hold.judged_in, &terms, by)?;
            lease = Some(grant.id);
        }
        self.kernel.tables.drop_held(process.pid);
        self.holds.remove(&id);
        let mut lost = false;
        if let (Verdict::Allow, Some(cookie), Some(upto)) = (done, hold.cookie, hold.clears) {
            let what = if hold.clears_all {
                clears::ALL
            } else {
                clears::SOME
            };
            lost = !self.clear_socket(process, hold.session, cookie, upto, what);
        }
        // What waits in the sockets of a request over TLS.
        if hold.fate == fate::BEFORE && hold.cookie.is_none() {
            match done {
                Verdict::Kill => self.refuse_all_of(process),
                _ => self.release_asked(process),
            }
        }
        let signalled = if done == Verdict::Kill {
            self.kernel.tables.drop_waiting(process.pid);
            self.drop_put_off(process);
            process::signal(process, Signal::KILL)
        } else {
            self.take_up_put_off(process, done == Verdict::Deny);
            self.go_on([process])
        };
        match hold.cookie {
            Some(cookie) if done == Verdict::Kill => {
                self.end_socket(process, hold.session, cookie);
            }
            Some(cookie) => self.push_socket(process, hold.session, cookie),
            None => {}
        }
        self.let_rest_go_on(&hold);
        let word = match outcome {
            Outcome::Approve(_) => "approved",
            Outcome::Deny(_) => "denied",
            Outcome::TimedOut => "timed out",
            Outcome::Stopping => "guardd stopped",
        };
        match outcome {
            Outcome::Approve(_) => self.count_hold(&hold.rule, Count::Approved),
            Outcome::Deny(_) => self.count_hold(&hold.rule, Count::Denied),
            Outcome::TimedOut => self.count_hold(&hold.rule, Count::TimedOut),
            Outcome::Stopping => {}
        }
        let mut event = self.event_for(Kind::Answer, Some(hold.session));
        event.tgid = Some(process.pid);
        event.rule = Some(hold.rule.clone());
        event.verdict = Some(done.name().into());
        event.object = Some(json!({
            "id": format!("h-{id}"),
            "answer": word,
            "target": hold.target,
            "by_uid": by.uid,
            "by_pid": by.pid,
            "group": hold.group_name(),
            "all_like": by.all_like.map(|id| format!("h-{id}")),
            "reason": if let Outcome::Deny(reason) = outcome { reason.clone() } else { None },
            "grant": lease,
            "waited_ms": (clock::monotonic_ns().saturating_sub(hold.since_ns)) / 1_000_000,
        }));
        if let (Some(via), Some(object)) = (via, &mut event.object) {
            object["via"] = json!(via);
        }
        self.tell(event);
        self.save();
        if let Err(error) = signalled {
            return Err(Refusal::failed(format!(
                "h-{id}: {word}, but its process could not be signalled: {error}"
            )));
        }
        Ok(match done {
            Verdict::Kill if unknown => format!(
                "h-{id} {word}, but guardd was started anew meanwhile and cannot know what else pid {} was about to say: \
                 it was killed",
                process.pid
            ),
            Verdict::Kill => format!("h-{id} {word}: pid {} was killed", process.pid),
            Verdict::Deny if hold.cookie.is_some() || hold.fate == fate::BEFORE => format!(
                "h-{id} {word}: the connection of pid {} is ended",
                process.pid
            ),
            Verdict::Deny => format!(
                "h-{id} {word}: the call of pid {} fails with EPERM",
                process.pid
            ),
            _ if lost => format!(
                "h-{id} {word}: pid {} goes on, but its connection was not found: what waited in it may not leave",
                process.pid
            ),
            _ => format!("h-{id} {word}: pid {} goes on", process.pid),
        })
    }

    /// Ends the connection that a held request was for, before its process goes on into it.
    fn refuse_request(&mut self, hold: &Hold) -> bool {
        if let (Some(cookie), true) = (hold.cookie, hold.clears_all) {
            let id = hold.process_id();
            self.clear_socket(id, hold.session, cookie, 0, clears::NOTHING);
            return true;
        }
        if let Some(cookie) = hold.cookie {
            return self.end_socket(hold.process_id(), hold.session, cookie);
        }
        let host = hold
            .event
            .object
            .as_ref()
            .and_then(|object| object.get("host"))
            .and_then(|host| host.as_str())
            .map(str::to_owned);
        let hosts: Vec<String> = host.into_iter().collect();
        self.end_connections(hold.process_id(), hold.session, &hosts) > 0
    }

    /// Leaves the answer for a call that will be repeated: it must be there before the process runs, or
    /// the call is held again. Any other call has been judged once and for all, and an answer to it would
    /// be one to the next call.
    fn place_answer(&mut self, hold: &Hold, done: Verdict) -> Result<(), Refusal> {
        let key = match done {
            _ if hold.fate == fate::BEFORE => return Ok(()),
            Verdict::Deny => AnswerKey::refusal(hold.process.0),
            Verdict::Allow if hold.fate == fate::REPEATS => match self.rule_index(&hold.rule) {
                Some(rule) => AnswerKey {
                    tgid: hold.process.0,
                    rule,
                    generation: self.kernel.tables.generation() as u16,
                },
                // The policy in force has no such rule, so none that would hold it again.
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        let answer = Answer {
            expires_ns: clock::monotonic_ns() + ANSWER_LIFE.as_nanos() as u64,
            object: hold.object,
            verdict: done as u32,
            rule: hold.rule_index,
            generation: hold.generation,
        };
        self.kernel.tables.put_answer(key, answer).map_err(|error| {
            Refusal::failed(format!(
                "h-{}: the answer could not be placed: {error}",
                hold.id
            ))
        })
    }

    fn let_rest_go_on(&mut self, hold: &Hold) {
        let another = self
            .holds
            .values()
            .any(|other| other.whole_session && other.judged_in == hold.judged_in);
        let paused = self
            .sessions
            .get(&hold.judged_in)
            .is_some_and(|session| session.paused);
        if hold.whole_session && !another && !paused {
            self.resume_session(hold.judged_in);
        }
    }

    /// Stops every process of a session and of those inside it, but `except`, which is stopped already.
    /// The kernel stops those that are born meanwhile.
    pub(super) fn stop_session(&mut self, session: u32, except: Option<Id>) {
        for id in self.family(session) {
            let _ = self.kernel.set_posture(id, POSTURE_PAUSED);
        }
        // Each pass finds what was born during the one before; a stopped process forks no more.
        for _ in 0..64 {
            let mut found = false;
            for id in self.members(session) {
                if Some(id) == except {
                    continue;
                }
                if process::stat(id.pid)
                    .is_some_and(|stat| stat.id == id && stat.is_alive() && !stat.is_stopped())
                {
                    found |= process::signal(id, Signal::STOP).is_ok();
                }
            }
            if !found {
                break;
            }
        }
    }

    /// Lets every process of a session go on, but those that something else keeps.
    pub(super) fn resume_session(&mut self, session: u32) {
        for id in self.family(session) {
            let _ = self.kernel.set_posture(id, POSTURE_NORMAL);
        }
        let mut members = self.members(session);
        // Those that guardd has yet to look at go on when it has.
        members.retain(|id| !self.kernel.tables.is_waiting(id.pid));
        let _ = self.go_on(members);
    }

    /// Everything a person needs to answer.
    pub(super) fn hold_info(&self, hold: &Hold) -> HoldInfo {
        let now = clock::monotonic_ns();
        let session = self
            .sessions
            .get(&hold.judged_in)
            .or_else(|| self.sessions.get(&hold.session));
        let when = self
            .policy
            .rules
            .iter()
            .find(|rule| rule.name == hold.rule)
            .map(|rule| rule.when.clone());
        let when = when.unwrap_or_default();
        let mut evidence: Vec<Event> = Vec::new();
        if let Some(session) = session {
            for label in when.iter().take(when.len().saturating_sub(1)) {
                let found = session.evidence.iter().rev().find(|event| {
                    event.labels.contains(label)
                        && event.mono_ns.is_some_and(|at| at < hold.since_ns)
                });
                if let Some(event) = found
                    && !evidence.iter().any(|other| other.seq == event.seq)
                {
                    evidence.push(event.clone());
                }
            }
        }
        evidence.sort_by_key(|event| event.mono_ns);
        evidence.push(hold.event.clone());
        let uid = hold.event.uid.or_else(|| process::uid(hold.process.0));
        HoldInfo {
            id: format!("h-{}", hold.id),
            session: format!("s-{}", hold.session),
            agent: self
                .sessions
                .get(&hold.session)
                .map(|session| session.agent.clone())
                .unwrap_or_default(),
            rule: hold.rule.clone(),
            when,
            pid: hold.process.0,
            uid: uid.unwrap_or(u32::MAX),
            exe: hold.event.exe.clone(),
            argv: hold.event.argv.clone(),
            cwd: approval::cwd(hold.process_id()),
            user: uid.and_then(approval::user_name),
            login_uid: approval::login_uid(hold.process.0).filter(|login| Some(*login) != uid),
            environment: approval::environment(hold.process_id()),
            target: hold.target.clone(),
            since: clock::rfc3339_at(hold.since_ns),
            age_s: now.saturating_sub(hold.since_ns) / 1_000_000_000,
            expires_in_s: hold.deadline_ns.saturating_sub(now).div_ceil(1_000_000_000),
            on_timeout: timeout_word(hold.on_timeout).into(),
            intent: session.and_then(|session| session.intent.clone()),
            evidence,
            group: hold.group_name(),
            like: self.like(hold),
            token: None,
            told: BTreeMap::new(),
        }
    }
}

/// The word for what silence means.
pub(super) fn timeout_word(verdict: u8) -> &'static str {
    match Verdict::from_u8(verdict) {
        Verdict::Kill => "kill",
        Verdict::Deny => "deny",
        _ => "resume",
    }
}

/// What a call was about to do, in one line.
pub(crate) fn target_of(event: &Event) -> String {
    let object = event.object.as_ref();
    let text = |key: &str| {
        object
            .and_then(|object| object.get(key))
            .and_then(|value| value.as_str())
            .map(str::to_owned)
    };
    let port = object
        .and_then(|object| object.get("port"))
        .and_then(serde_json::Value::as_u64);
    match event.kind {
        Kind::Connect => match (text("addr"), port, text("path")) {
            (Some(addr), Some(port), _) if text("host").is_some() => {
                let host = text("host").unwrap_or_default();
                format!("connect {host}:{port} ({addr})")
            }
            (Some(addr), Some(port), _) if addr.contains(':') => format!("connect [{addr}]:{port}"),
            (Some(addr), Some(port), _) => format!("connect {addr}:{port}"),
            (_, _, Some(path)) => format!("connect {path}"),
            _ => "connect".into(),
        },
        Kind::Request => {
            let words = ["method", "host", "path"].map(|key| text(key).unwrap_or_default());
            let [method, host, path] = words;
            let field = object
                .and_then(|object| object.get("graphql"))
                .and_then(|graphql| Some((graphql.get("type")?, graphql.get("field")?)))
                .and_then(|(kind, field)| Some((kind.as_str()?, field.as_str()?)));
            let mut line = format!("request {method} {host}{path}");
            if let Some((kind, field)) = field {
                line.push_str(&format!(" {kind} {field}"));
            }
            for key in ["mcp", "aws", "kube", "target"] {
                if let Some(value) = text(key) {
                    line.push_str(&format!(" {value}"));
                }
            }
            line
        }
        Kind::Open => text("path").map_or_else(|| "open".into(), |path| format!("open {path}")),
        Kind::Signal | Kind::Call => {
            let call = text("call").unwrap_or_default();
            let target = object
                .and_then(|object| object.get("target"))
                .and_then(serde_json::Value::as_u64);
            match target {
                Some(pid) => format!("{call} of pid {pid}"),
                None => call,
            }
        }
        Kind::Exec => event
            .argv
            .as_ref()
            .map_or_else(|| "run".into(), |argv| format!("run {}", argv.join(" "))),
        Kind::Session if event.is_divergence() => {
            let score = object
                .and_then(|object| object.get("score"))
                .and_then(serde_json::Value::as_u64);
            format!("diverge to score {}", score.unwrap_or_default())
        }
        _ => "a call whose record was lost".into(),
    }
}

/// The same without the verb.
pub(super) fn object_of(event: &Event) -> String {
    let target = target_of(event);
    match target.split_once(' ') {
        Some((_, object)) => object.to_owned(),
        None => target,
    }
}
