//! Requests from the control socket: who may ask for what, and what is done.

use std::time::Duration;

use serde_json::json;
use tokio::sync::oneshot;

use super::{By, Engine, Origin, Outcome, Session, adopt::Beginning, session::number};
use crate::{
    event::Kind,
    intent::Intent,
    process::{self},
    wire::{Code, Failure, Reply, Request},
};

/// Who is on the other end of the socket, as the kernel says.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Process id when it connected.
    pub pid: u32,
    /// Its start time, in ticks, read then; `None` when it had gone already.
    pub start: Option<u64>,
    /// Effective uid when it connected.
    pub uid: u32,
    /// Root, or in group `guard`.
    pub privileged: bool,
    /// guardd's own child, on the connection that it was born with.
    pub herald: bool,
}

/// A request on its way to the engine.
#[derive(Debug)]
pub struct Command {
    /// Who asks.
    pub peer: Peer,
    /// For what.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

/// Why a request was not carried out.
#[derive(Clone, Debug)]
pub struct Refusal(Failure);

impl Refusal {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Failure {
            code,
            message: message.into(),
        })
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(Code::Failed, message)
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::Invalid, message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Code::Forbidden, message)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

fn done(message: impl Into<String>) -> Reply {
    Reply::Done {
        message: message.into(),
    }
}

impl Engine {
    pub(super) fn answer(&mut self, command: Command) {
        let Command {
            peer,
            request,
            reply,
        } = command;
        let answer = self
            .carry_out(&peer, request)
            .unwrap_or_else(|Refusal(failure)| Reply::Error(failure));
        // Nobody waits any more: the request was carried out all the same.
        let _ = reply.send(answer);
    }

    /// The innermost session that the peer's process is in.
    fn session_of(&self, peer: &Peer) -> Option<u32> {
        let task = self.kernel.tables.task(peer.pid)?;
        process::same(peer.pid, task.start_ns).map(|_| task.session)
    }

    /// Who may change what happens to a session: root or group guard, and never from inside one.
    pub(super) fn may_decide(&self, peer: &Peer, what: &str) -> Result<By, Refusal> {
        if let Some(session) = self.session_of(peer) {
            return Err(Refusal::forbidden(format!(
                "{what}: pid {} runs inside session s-{session}: a person has to do it from a terminal outside",
                peer.pid
            )));
        }
        if !peer.privileged {
            return Err(Refusal::forbidden(format!(
                "{what}: uid {} may not: become root or join group guard",
                peer.uid
            )));
        }
        // A process that has ended cannot show that it was outside, nor can one that has its pid by now: who
        // writes to the socket is then somebody it has left it to.
        let same = process::stat(peer.pid)
            .is_some_and(|stat| Some(stat.id.start) == peer.start && stat.is_alive());
        if !same {
            return Err(Refusal::forbidden(format!(
                "{what}: pid {} has exited: stay until the answer comes",
                peer.pid
            )));
        }
        Ok(By {
            uid: Some(peer.uid),
            pid: Some(peer.pid),
            ..By::default()
        })
    }

    fn may_see(peer: &Peer, session: &Session) -> bool {
        peer.privileged || peer.uid == session.uid
    }

    fn session(&self, peer: &Peer, name: &str) -> Result<&Session, Refusal> {
        let unknown =
            || Refusal::not_found(format!("{name}: no such session: see 'guardctl sessions'"));
        let id = number("s", name).ok_or_else(unknown)?;
        let session = self
            .sessions
            .get(&id)
            .or_else(|| self.ended.iter().find(|s| s.id == id))
            .ok_or_else(unknown)?;
        if Self::may_see(peer, session) {
            Ok(session)
        } else {
            Err(unknown())
        }
    }

    fn live_session(&self, peer: &Peer, name: &str) -> Result<u32, Refusal> {
        let session = self.session(peer, name)?;
        if session.ended_ns.is_some() {
            return Err(Refusal::not_found(format!("{name}: the session has ended")));
        }
        Ok(session.id)
    }

    fn carry_out(&mut self, peer: &Peer, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::Status => {
                let mut status = self.status();
                let may = self.may_decide(peer, "answer");
                status.may_not_answer = may.err().map(|refusal| refusal.to_string());
                Ok(Reply::Status(Box::new(status)))
            }
            Request::Sessions { all } => {
                let ended = self.ended.iter().filter(|_| all);
                let mut sessions: Vec<&Session> = ended.chain(self.sessions.values()).collect();
                sessions.sort_by_key(|session| session.id);
                let sessions = sessions
                    .into_iter()
                    .filter(|s| Self::may_see(peer, s))
                    .map(|s| self.session_info(s))
                    .collect();
                Ok(Reply::Sessions { sessions })
            }
            Request::Show { session } => {
                let session = self.session(peer, &session)?;
                Ok(Reply::Show(Box::new(self.detail(session))))
            }
            // The server reads them from the journal, which now has all that the kernel has told.
            Request::Events { session, .. } => {
                self.drain_all();
                if let Some(name) = session {
                    let began = number("s", &name).is_some_and(|id| id <= self.next_session);
                    if !(peer.privileged && began) {
                        self.session(peer, &name)?;
                    }
                }
                Ok(done(String::new()))
            }
            Request::Pending => {
                let holds = self.holds.values().filter(|hold| {
                    self.sessions
                        .get(&hold.session)
                        .is_some_and(|session| Self::may_see(peer, session))
                });
                let holds = holds.map(|hold| self.hold_info(hold)).collect();
                let (privileged, uid) = (peer.privileged, peer.uid);
                let mut asked = self.grants_for(|engine, session| {
                    let session = engine.sessions.get(&session);
                    session.is_some_and(|session| privileged || session.uid == uid)
                });
                asked.retain(|grant| grant.state == "asked");
                Ok(Reply::Pending {
                    holds,
                    left_out: 0,
                    asked,
                })
            }
            Request::Approve { id, for_ms } => {
                let by = self.may_decide(peer, "approve")?;
                if number("g", &id).is_some() {
                    return self.answer_ask(&id, true, for_ms, None, by, None);
                }
                let number = hold_number(&id)?;
                self.settle(
                    number,
                    &Outcome::Approve(for_ms.map(Duration::from_millis)),
                    by,
                )
                .map(done)
            }
            Request::Deny { id, reason } => {
                let by = self.may_decide(peer, "deny")?;
                if number("g", &id).is_some() {
                    return self.answer_ask(&id, false, None, reason, by, None);
                }
                let number = hold_number(&id)?;
                self.settle(number, &Outcome::Deny(reason), by).map(done)
            }
            Request::AnswerAll {
                id,
                upto,
                approve,
                for_ms,
                reason,
            } => {
                let what = if approve { "approve" } else { "deny" };
                let by = self.may_decide(peer, what)?;
                let outcome = match approve {
                    true => Outcome::Approve(for_ms.map(Duration::from_millis)),
                    false => Outcome::Deny(reason),
                };
                self.settle_all_like(hold_number(&id)?, hold_number(&upto)?, &outcome, by)
                    .map(done)
            }
            Request::Pause { session } => {
                let by = self.may_decide(peer, "pause")?;
                let id = self.live_session(peer, &session)?;
                self.stop_session(id, None);
                self.set_paused(id, true);
                self.tell_of_session(id, "paused", by);
                Ok(done(format!(
                    "{session} is paused: {} processes are stopped",
                    self.members(id).len()
                )))
            }
            Request::Resume { session } => {
                let by = self.may_decide(peer, "resume")?;
                let id = self.live_session(peer, &session)?;
                self.set_paused(id, false);
                self.resume_session(id);
                self.tell_of_session(id, "resumed", by);
                Ok(done(format!("{session} goes on")))
            }
            Request::Kill { session } => {
                let by = self.may_decide(peer, "kill")?;
                let id = self.live_session(peer, &session)?;
                let before = self.members(id).len();
                self.tell_of_session(id, "killed", by);
                let left = self.kill_session(id);
                self.see_empty(id);
                self.drain_all();
                if left > 0 {
                    return Err(Refusal::failed(format!(
                        "{session}: {left} of {before} processes have been sent SIGKILL and have not gone yet"
                    )));
                }
                Ok(done(format!("{session}: {before} processes were killed")))
            }
            Request::Adopt {
                pid,
                agent,
                intent,
                persona,
                run,
            } => self.adopt(peer, pid, (agent, intent, persona), run),
            Request::Grant { session, terms } => {
                let by = self.may_decide(peer, "grant")?;
                let id = self.live_session(peer, &session)?;
                let grant = self.grant(id, &terms, by)?;
                Ok(Reply::Granted { grant })
            }
            Request::Ask { terms } => {
                let session = self.session_of(peer).ok_or_else(|| {
                    Refusal::invalid(format!(
                        "request: pid {} is in no session: a person outside gives leases, with 'guardctl grant'",
                        peer.pid
                    ))
                })?;
                let grant = self.ask_for_lease(session, &terms, peer)?;
                Ok(Reply::Granted { grant })
            }
            Request::Revoke { grant } => {
                let by = self.may_decide(peer, "revoke")?;
                self.revoke(&grant, by)
            }
            Request::Grants => {
                let (privileged, uid) = (peer.privileged, peer.uid);
                // Of a session that has ended nobody but root is told.
                let grants = self.grants_for(|engine, session| {
                    let session = engine.sessions.get(&session);
                    privileged || session.is_some_and(|session| session.uid == uid)
                });
                Ok(Reply::Grants { grants })
            }
            Request::Intent { session, text } => {
                self.may_decide(peer, "intent")?;
                let id = self.live_session(peer, &session)?;
                let intent = text.as_deref().map(Intent::understand);
                let understood = intent.as_ref().map(Intent::says);
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.intent.clone_from(&text);
                    session.purpose.intent = intent;
                    session.purpose.problem = None;
                }
                let mut event = self.event_for(Kind::Intent, Some(id));
                event.object =
                    Some(json!({ "text": text, "understood": understood, "by_uid": peer.uid }));
                self.tell(event);
                self.save();
                Ok(done(match understood {
                    Some(understood) => format!("{session}: the intent is set: {understood}"),
                    None => format!("{session}: the intent is cleared"),
                }))
            }
            Request::PolicyShow => Ok(Reply::Policy {
                source: self.policy.source().to_string(),
                text: self.policy.text(|part| self.may_see_part(peer, part)),
                not_enforced: Vec::new(),
            }),
            Request::PolicyReload => {
                self.may_decide(peer, "policy reload")?;
                self.reload().map(done)
            }
            Request::Mode { mode } => {
                let by = self.may_decide(peer, mode.name())?;
                self.set_mode(mode, by).map(done)
            }
            Request::PolicyExplain { session } => {
                let session = self.session(peer, &session)?;
                Ok(Reply::Explain {
                    rules: self.explain(session),
                })
            }
            Request::Baselines { agent } => self.baselines(agent.as_deref()),
            Request::BaselineLearn {
                sessions,
                agent,
                force,
            } => {
                let by = self.may_decide(peer, "baseline learn")?;
                let ids = sessions
                    .iter()
                    .map(|name| self.session(peer, name).map(|session| session.id))
                    .collect::<Result<Vec<u32>, Refusal>>()?;
                self.learn_baseline(&ids, agent, force, by).map(done)
            }
            Request::BaselineImport { baselines } => {
                let by = self.may_decide(peer, "baseline import")?;
                self.import_baselines(baselines, by).map(done)
            }
            Request::BaselineForget { agent } => {
                let by = self.may_decide(peer, "baseline forget")?;
                self.forget_baseline(&agent, by).map(done)
            }
            Request::Herald(ask) => self.herald(peer, ask),
        }
    }

    fn set_paused(&mut self, id: u32, paused: bool) {
        for id in self.family(id) {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.paused = paused;
            }
        }
        self.save();
    }

    fn tell_of_session(&mut self, id: u32, what: &str, by: By) {
        let mut event = self.event_for(Kind::Session, Some(id));
        event.object = Some(json!({ "what": what, "by_uid": by.uid, "by_pid": by.pid }));
        self.tell(event);
    }

    fn adopt(
        &mut self,
        peer: &Peer,
        pid: u32,
        (agent, intent, persona): (Option<String>, Option<String>, Option<String>),
        run: bool,
    ) -> Result<Reply, Refusal> {
        let what = if run { "run" } else { "adopt" };
        let stat = process::stat(pid)
            .filter(process::Stat::is_alive)
            .ok_or_else(|| Refusal::not_found(format!("{what}: pid {pid}: no such process")))?;
        let inside = self.session_of(peer);
        let own = process::uid(pid) == Some(peer.uid) || peer.privileged;
        if run {
            // `run` names the child it has just forked, and nothing else.
            if stat.parent != peer.pid || !own {
                return Err(Refusal::forbidden(format!(
                    "run: pid {pid} is not a child of pid {}",
                    peer.pid
                )));
            }
        } else {
            if let Some(session) = inside {
                return Err(Refusal::forbidden(format!(
                    "adopt: pid {} runs inside session s-{session}",
                    peer.pid
                )));
            }
            if !own {
                return Err(Refusal::forbidden(format!(
                    "adopt: pid {pid} belongs to another user: become root"
                )));
            }
        }
        if pid == 1 || pid == std::process::id() || process::exe(pid).is_none() {
            return Err(Refusal::invalid(format!(
                "{what}: pid {pid}: init, guardd and kernel threads cannot be sessions"
            )));
        }
        if let Some(name) = &persona
            && !self.policy.personas.iter().any(|known| known.name == *name)
        {
            let known: Vec<&str> = self
                .policy
                .personas
                .iter()
                .map(|it| it.name.as_str())
                .collect();
            return Err(Refusal::invalid(format!(
                "{what}: no persona {name:?}: the policy has {}",
                if known.is_empty() {
                    "none".into()
                } else {
                    known.join(", ")
                }
            )));
        }
        let current = self
            .kernel
            .tables
            .task(pid)
            .filter(|task| process::same(pid, task.start_ns).is_some());
        if let Some(task) = current
            && !run
        {
            return Err(Refusal::failed(format!(
                "adopt: pid {pid} is in session s-{} already",
                task.session
            )));
        }
        let agent = agent.unwrap_or_else(|| {
            process::exe(pid)
                .and_then(|path| {
                    path.file_name()
                        .map(|name| name.to_string_lossy().into_owned())
                })
                .unwrap_or_else(|| "unknown".into())
        });
        let id = self.begin(Beginning {
            agent,
            origin: if run { Origin::Run } else { Origin::Adopt },
            root: stat.id,
            parent: current.map(|task| task.session),
            anchor: None,
            intent,
            persona,
            running: !run,
        })?;
        if let Some(problem) = self.problems.get("hooks") {
            return Err(Refusal::failed(format!(
                "{what}: the session's hooks could not be attached: {problem}"
            )));
        }
        let processes = self.members(id).len() as u64;
        if processes == 0 {
            self.end_if_empty(id);
            return Err(Refusal::failed(format!(
                "{what}: pid {pid} could not be tagged: it has exited, or the lineage table is full"
            )));
        }
        Ok(Reply::Adopted {
            session: format!("s-{id}"),
            processes,
            note: self.tell_of_users_file(id),
        })
    }
}

pub(super) fn hold_number(id: &str) -> Result<u32, Refusal> {
    number("h", id).ok_or_else(|| {
        Refusal::not_found(format!(
            "{id}: no such hold: they are named h-1, h-2 …; see 'guardctl pending'"
        ))
    })
}
