//! Leases that sessions ask for, as people outside are told of them: like a hold, with an answer that is bound to it.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{By, Engine, Refusal, leases::Grant, leases::Stage};
use crate::{
    approval,
    cli::render::span,
    clock, mask,
    process::{self, Id},
    wire::{HoldInfo, Reply, Via},
};

/// How long one waits for an answer. Nothing stands still meanwhile, so it is longer than a hold's.
const LASTS: Duration = Duration::from_secs(3600);

/// What is kept of one while it waits.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Ask {
    /// What an answer by a channel must carry.
    pub(super) token: String,
    /// The channels that have told of it, each with where its message is.
    #[serde(default)]
    pub(super) told: BTreeMap<String, String>,
    /// Who asks.
    pid: u32,
    exe: Option<String>,
    argv: Option<Vec<String>>,
    cwd: Option<String>,
}

impl Ask {
    pub(super) fn by(pid: u32, start: Option<u64>) -> Self {
        let argv = mask::mask_argv(&process::argv(pid));
        let exe = process::exe(pid);
        Self {
            token: approval::token(),
            told: BTreeMap::new(),
            pid,
            exe: exe.map(|exe| exe.to_string_lossy().into_owned()),
            argv: Some(argv).filter(|argv| !argv.is_empty()),
            cwd: start.and_then(|start| approval::cwd(Id { pid, start })),
        }
    }
}

impl Engine {
    /// The lease that is asked for by this number, or all that are, for the herald.
    pub(super) fn asks(&self, wanted: Option<u32>) -> Vec<HoldInfo> {
        let asked = self
            .grants
            .iter()
            .filter(|(id, _)| wanted.is_none_or(|wanted| wanted == **id));
        let info = asked.filter_map(|(id, grant)| self.ask_info(*id, grant, grant.ask.as_ref()?));
        match wanted {
            Some(_) => info.collect(),
            // As of holds: a list is one line.
            None => info
                .map(|ask| HoldInfo {
                    argv: None,
                    token: None,
                    told: BTreeMap::new(),
                    ..ask
                })
                .collect(),
        }
    }

    fn ask_info(&self, id: u32, grant: &Grant, ask: &Ask) -> Option<HoldInfo> {
        if grant.stage != Stage::Asked {
            return None;
        }
        let session = self.sessions.get(&grant.session)?;
        let now = clock::monotonic_ns();
        let end = grant.since_ns + LASTS.as_nanos() as u64;
        Some(HoldInfo {
            id: format!("g-{id}"),
            session: format!("s-{}", grant.session),
            agent: session.agent.clone(),
            rule: grant.reason.clone().unwrap_or_default(),
            when: Vec::new(),
            pid: ask.pid,
            uid: grant.by_uid,
            exe: ask.exe.clone(),
            argv: ask.argv.clone(),
            cwd: ask.cwd.clone(),
            user: approval::user_name(grant.by_uid),
            login_uid: approval::login_uid(ask.pid).filter(|login| *login != grant.by_uid),
            environment: Vec::new(),
            target: target(grant),
            since: clock::rfc3339_at(grant.since_ns),
            age_s: now.saturating_sub(grant.since_ns) / 1_000_000_000,
            expires_in_s: end.saturating_sub(now).div_ceil(1_000_000_000),
            on_timeout: "refuse".into(),
            intent: session.intent.clone(),
            evidence: Vec::new(),
            group: format!("g-{id}"),
            like: 1,
            token: Some(ask.token.clone()),
            told: ask.told.clone(),
        })
    }

    /// Notes where a channel's message of one is.
    pub(super) fn told_of_ask(&mut self, id: u32, channel: String, place: String) {
        // It may have been answered meanwhile.
        if let Some(ask) = self
            .grants
            .get_mut(&id)
            .and_then(|grant| grant.ask.as_mut())
        {
            ask.told.insert(channel, place);
            self.dirty = true;
        }
    }

    /// The token of one that waits.
    pub(super) fn token_of_ask(&self, id: u32) -> Option<&str> {
        let grant = self.grants.get(&id)?;
        let ask = grant.ask.as_ref().filter(|_| grant.stage == Stage::Asked)?;
        Some(&ask.token)
    }

    /// Answers one by a channel that may; in words what came of it.
    pub(super) fn answer_ask_via(
        &mut self,
        name: &str,
        approve: bool,
        reason: Option<String>,
        by: By,
        via: &Via,
    ) -> Result<String, Refusal> {
        match self.answer_ask(name, approve, None, reason, by, Some(via))? {
            Reply::Done { message } => Ok(message),
            _ => Ok(format!("{name} is given")),
        }
    }

    /// Refuses those that nobody has answered in time.
    pub(super) fn end_old_asks(&mut self) {
        let now = clock::monotonic_ns();
        let is_old = |grant: &Grant| {
            grant.stage == Stage::Asked
                && now.saturating_sub(grant.since_ns) >= LASTS.as_nanos() as u64
        };
        let grants = self.grants.iter().filter(|(_, grant)| is_old(grant));
        let old: Vec<u32> = grants.map(|(id, _)| *id).collect();
        for id in old {
            self.refuse_ask(id, Some("nobody answered".into()), By::default(), None);
        }
    }
}

/// What a person decides about, behind "wants to".
fn target(grant: &Grant) -> String {
    let mut text = format!("have a lease for {}", grant.label);
    if let Some((object, _)) = &grant.object {
        text.push_str(&format!(" at {object}"));
    }
    let operations: Vec<&str> = grant
        .operations
        .iter()
        .map(|operation| operation.name())
        .collect();
    if !operations.is_empty() {
        text.push_str(&format!(", to {}", operations.join(" and ")));
    }
    match grant.uses {
        Some(1) => text.push_str(", once"),
        Some(uses) => text.push_str(&format!(", {uses} times")),
        None => {}
    }
    // Of one that is asked for, `until_ns` is how long it is to be.
    let length = grant.until_ns.div_ceil(1_000_000_000);
    text.push_str(&format!(", for {}", span(length)));
    text
}
