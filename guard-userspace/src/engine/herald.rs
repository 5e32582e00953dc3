//! What the engine does for the herald: tells it of holds, shows how it is, and takes the answers that it brings, each
//! looked at as if nobody had looked before.

use std::collections::BTreeMap;

use guard_common::Verdict;
use serde_json::json;
use subtle::ConstantTimeEq as _;

use super::{By, Engine, Outcome, Peer, Refusal, requests::hold_number, session::number};
use crate::{
    clock,
    event::{Event, Kind},
    process, server,
    wire::{HeraldInfo, HeraldReply, HeraldRequest, HoldInfo, Reply, Via},
};

/// A herald that has said nothing for so long does not do its work.
const SILENT_NS: u64 = 20_000_000_000;

/// What is known of the herald.
#[derive(Debug, Default)]
pub(super) struct Herald {
    info: HeraldInfo,
    /// When it last said how it is, or was started, ns of `CLOCK_MONOTONIC`.
    heard_ns: u64,
    /// Number of the last event that it heard of.
    heard: u64,
    /// Events that waited in heralds that have died, at most, by part.
    lost: BTreeMap<String, u64>,
}

impl Herald {
    /// For one that is to hear of what comes after the event with this number.
    pub(super) fn after(heard: u64) -> Self {
        Self {
            heard,
            ..Self::default()
        }
    }

    /// It has died. What it had heard of and not sent went with it; what it had not told of hearing, the next one hears of.
    /// How much that was, by part.
    fn lose(&mut self) -> BTreeMap<String, u64> {
        let mut lost = BTreeMap::new();
        for part in &mut self.info.parts {
            let waiting = std::mem::take(&mut part.waiting);
            if waiting > 0 {
                lost.insert(part.name.clone(), waiting);
                *self.lost.entry(part.name.clone()).or_default() += waiting;
                part.state = "failing".into();
                part.since = clock::rfc3339_now();
                part.error = Some(format!("the herald died with {waiting} events that waited"));
            }
        }
        // Until the next one tells of its parts, these say what has gone.
        self.info
            .parts
            .retain(|part| self.lost.contains_key(&part.name));
        lost
    }
}

impl Engine {
    pub(super) fn herald(&mut self, peer: &Peer, ask: HeraldRequest) -> Result<Reply, Refusal> {
        if !peer.herald {
            return Err(Refusal::forbidden(
                "herald: only guardd's own child may: see 'guardctl --help' for what others may",
            ));
        }
        let done = |message: String| Ok(Reply::Done { message });
        match ask {
            HeraldRequest::Settings => {
                let settings = Box::new(self.policy.settings.clone());
                let heard = self.herald.heard;
                return Ok(Reply::Herald(HeraldReply::Settings { settings, heard }));
            }
            HeraldRequest::Holds { id } => {
                if let Some(ask) = id.as_deref().and_then(|id| number("g", id)) {
                    return Ok(Reply::Pending {
                        holds: self.asks(Some(ask)),
                        left_out: 0,
                        asked: Vec::new(),
                    });
                }
                let wanted = id.as_deref().map(hold_number).transpose()?;
                let holds = self.holds.values();
                let holds = holds.filter(|hold| wanted.is_none_or(|id| hold.id == id));
                let info = |hold: &super::Hold| match wanted {
                    Some(_) => HoldInfo {
                        token: Some(hold.token.clone()),
                        told: hold.told.clone(),
                        ..self.hold_info(hold)
                    },
                    // A reply is one line: with what led to each, a hundred would not fit.
                    None => HoldInfo {
                        evidence: Vec::new(),
                        argv: None,
                        ..self.hold_info(hold)
                    },
                };
                let mut holds: Vec<HoldInfo> = holds.map(info).collect();
                if wanted.is_none() {
                    holds.extend(self.asks(None));
                }
                return Ok(Reply::Pending {
                    holds,
                    left_out: 0,
                    asked: Vec::new(),
                });
            }
            HeraldRequest::Members => {
                let tasks = self.kernel.tables.tasks();
                let pids = tasks.into_iter().map(|(pid, _)| pid).collect();
                return Ok(Reply::Herald(HeraldReply::Members { pids }));
            }
            HeraldRequest::Started { pid } => {
                self.herald.info.pid = Some(pid);
                self.herald.info.starts += 1;
                self.herald.heard_ns = clock::monotonic_ns();
                let start = process::stat(pid).map_or(0, |stat| stat.id.start);
                if let Err(error) = self.kernel.tables.guard_process(pid, start) {
                    self.problems.insert("herald", error.to_string());
                }
            }
            HeraldRequest::Gone { why } => {
                if let Some(pid) = self.herald.info.pid.take() {
                    self.kernel.tables.unguard_process(pid);
                }
                match &why {
                    Some(why) => {
                        let lost = self.herald.lose();
                        if !lost.is_empty() {
                            let mut event = Event::new(Kind::Guard);
                            event.object =
                                Some(json!({ "what": "herald died", "why": why, "lost": lost }));
                            self.tell(event);
                        }
                    }
                    // It had the time to send what waited, and says itself what has not left.
                    None => self.herald = Herald::after(self.journal.last_seq()),
                }
                self.herald.info.problem = why;
            }
            HeraldRequest::Report { parts, heard } => {
                self.herald.heard = self.herald.heard.max(heard);
                self.herald.info.parts = parts;
                self.herald.info.problem = None;
                self.herald.heard_ns = clock::monotonic_ns();
            }
            HeraldRequest::Answer {
                id,
                token,
                approve,
                reason,
                via,
            } => {
                let answered = self.answer_by_channel(&id, &token, approve, reason, &via);
                return match answered {
                    Ok(message) => done(message),
                    Err(refusal) => {
                        self.tell_of_refusal(Some(&id), &refusal.to_string(), &via);
                        Err(refusal)
                    }
                };
            }
            HeraldRequest::Told { id, channel, place } => {
                if let Some(ask) = number("g", &id) {
                    self.told_of_ask(ask, channel, place);
                // It may have ended meanwhile.
                } else if let Some(hold) = self.holds.get_mut(&hold_number(&id)?) {
                    hold.told.insert(channel, place);
                    self.dirty = true;
                }
            }
            HeraldRequest::Refused { id, why, via } => {
                self.tell_of_refusal(id.as_deref(), &why, &via);
            }
        }
        done(String::new())
    }

    /// How it is, with what makes guard degraded.
    pub(super) fn herald_info(&self) -> (Option<HeraldInfo>, Vec<String>) {
        if !self.policy.settings.wants_herald() {
            return (None, Vec::new());
        }
        let mut info = self.herald.info.clone();
        for part in &mut info.parts {
            part.lost = self.herald.lost.get(&part.name).copied().unwrap_or(0);
        }
        let silent = clock::monotonic_ns().saturating_sub(self.herald.heard_ns);
        if info.pid.is_some() && silent > SILENT_NS {
            info.problem = Some(format!(
                "it has said nothing for {} s",
                silent / 1_000_000_000
            ));
        }
        let mut degraded = Vec::new();
        if let Some(problem) = &info.problem {
            degraded.push(format!(
                "the herald, which tells people of holds, does not work: {problem}"
            ));
        }
        for part in info.parts.iter().filter(|part| part.state == "failing") {
            degraded.push(format!(
                "{}: {}",
                part.name,
                part.error
                    .as_deref()
                    .unwrap_or("it fails and does not say why")
            ));
        }
        (Some(info), degraded)
    }

    fn answer_by_channel(
        &mut self,
        id: &str,
        token: &str,
        approve: bool,
        reason: Option<String>,
        via: &Via,
    ) -> Result<String, Refusal> {
        let ask = number("g", id);
        let own = match ask {
            Some(ask) => self.token_of_ask(ask).ok_or_else(|| {
                Refusal::not_found(format!(
                    "{id}: nobody asks for it any more: it was answered or its session has ended"
                ))
            })?,
            None => match self.holds.get(&hold_number(id)?) {
                Some(hold) => &hold.token,
                None => {
                    return Err(Refusal::not_found(format!(
                        "{id}: no such hold waits: it was answered, timed out or its process has exited"
                    )));
                }
            },
        };
        // One that has no token, from before an update, is answered by nobody but guardctl.
        let same: bool = own.as_bytes().ct_eq(token.as_bytes()).into();
        if own.is_empty() || !same {
            return Err(Refusal::forbidden(format!(
                "{id}: the answer is not to this hold: its token is another one"
            )));
        }
        let (may, may_approve) = self.policy.settings.notify.may_answer(&via.channel);
        if !may || (approve && !may_approve) {
            return Err(Refusal::forbidden(format!(
                "{id}: {} may not {}: the policy does not say so",
                via.channel,
                if approve { "approve" } else { "answer" }
            )));
        }
        let by = self.came_through(via)?;
        if ask.is_some() {
            return self.answer_ask_via(id, approve, reason, by, via);
        }
        let outcome = if approve {
            Outcome::Approve(None)
        } else {
            Outcome::Deny(reason)
        };
        self.settle_via(hold_number(id)?, &outcome, by, Some(via))
    }

    /// None of the processes that an answer came through may be an agent's, and who answered must be somebody who
    /// could have done so here.
    fn came_through(&self, via: &Via) -> Result<By, Refusal> {
        let what = format!("answer by {}", via.channel);
        let mut by = By::default();
        for (n, through) in via.processes.iter().enumerate() {
            let uid = process::uid(through.pid).unwrap_or(u32::MAX);
            let peer = Peer {
                pid: through.pid,
                start: Some(through.start),
                uid,
                privileged: server::is_privileged(through.pid, uid, None),
                herald: false,
            };
            // What only hands on need not be allowed to answer, but must not be an agent's either.
            let peer = Peer {
                privileged: peer.privileged || n > 0,
                ..peer
            };
            let who = self.may_decide(&peer, &what)?;
            if n == 0 {
                by = who;
            }
        }
        Ok(by)
    }

    fn tell_of_refusal(&mut self, id: Option<&str>, why: &str, via: &Via) {
        let session = id
            .and_then(|id| hold_number(id).ok())
            .and_then(|id| self.holds.get(&id))
            .map(|hold| hold.session);
        let mut event = self.event_for(Kind::Guard, session);
        event.verdict = Some(Verdict::Deny.name().into());
        event.object = Some(json!({ "what": "answer refused", "id": id, "why": why, "via": via }));
        self.tell(event);
    }
}
