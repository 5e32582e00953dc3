//! Answers: how one gets to guardd, and how one that was given is told to the others.

use std::{
    sync::Mutex,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{super::link::Told, Context, Held, Part};
use crate::{
    approval,
    event::{Event, Kind},
    wire::{HeraldRequest, Reply, Via},
};

/// Refusals that are recorded in a minute, each channel; more are only counted.
const RECORDED: usize = 20;

/// What a channel does with answers.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    context: Context,
    part: Part,
    recorded: Arc<Mutex<(Option<Instant>, usize)>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}

impl Answers {
    pub(super) fn new(context: Context, part: Part) -> Self {
        Self {
            context,
            part,
            recorded: Arc::default(),
        }
    }

    /// Brings an answer to guardd, which looks at it again. What guardd said to it; an error is a refusal.
    pub(super) async fn give(
        &self,
        held: &Held,
        token: &str,
        approve: bool,
        via: Via,
    ) -> Result<String, String> {
        let request = HeraldRequest::Answer {
            id: held.id().into(),
            token: token.into(),
            approve,
            reason: (!approve).then(|| format!("by {} of {}", via.who, via.channel)),
            via,
        };
        match self.context.link.herald(request).await {
            Ok(Told::Reply(Reply::Done { message })) => Ok(message),
            Ok(Told::Reply(other)) => Err(super::super::unexpected(&other).to_string()),
            Ok(Told::Refused(why)) => {
                self.part.refused();
                Err(why)
            }
            Err(error) => Err(format!("guardd: {error}")),
        }
    }

    /// The channel has told of a hold; where its message is.
    pub(super) async fn told(&self, held: &Held, place: String) {
        super::told(&self.context, &self.part, held, place).await;
    }

    /// An answer that is not even brought there is counted, and recorded unless there are too many.
    pub(super) async fn refuse(&self, id: Option<&str>, why: &str, via: Via) {
        self.part.refused();
        tracing::warn!("{}: an answer was refused: {why}", via.channel);
        if !self.may_record() {
            return;
        }
        let request = HeraldRequest::Refused {
            id: id.map(Into::into),
            why: why.into(),
            via,
        };
        // guardd has gone if this fails.
        let _ = self.context.link.herald(request).await;
    }

    fn may_record(&self) -> bool {
        let mut recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = recorded
            .0
            .filter(|at| at.elapsed() < Duration::from_secs(60));
        match begun {
            Some(_) => recorded.1 += 1,
            None => *recorded = (Some(Instant::now()), 1),
        }
        recorded.1 <= RECORDED
    }
}

/// What became of a hold, in words: `approved by alice (slack)`.
pub(super) fn how(event: &Event) -> String {
    let member = |name: &str| event.object.as_ref()?.get(name);
    let text = |name: &str| member(name).and_then(|value| value.as_str());
    let word = text("answer").or(text("what")).unwrap_or("answered");
    let done = event.verdict.as_deref().unwrap_or_default();
    if let Some(via) = member("via") {
        let text = |name: &str| {
            via.get(name)
                .and_then(|value| value.as_str())
                .unwrap_or("?")
        };
        return format!("{word} by {} ({})", text("who"), text("channel"));
    }
    let by = member("by_uid").and_then(serde_json::Value::as_u64);
    match by.and_then(|uid| u32::try_from(uid).ok()) {
        Some(uid) => {
            let name = approval::user_name(uid).unwrap_or_else(|| format!("uid {uid}"));
            format!("{word} by {name} (guardctl)")
        }
        None if event.kind == Kind::Grant => {
            format!("{word}: {}", text("why").unwrap_or("nobody answered"))
        }
        None => format!("{word}: {}", outcome(done)),
    }
}

fn outcome(verdict: &str) -> &'static str {
    match verdict {
        "kill" => "it was killed",
        "deny" => "it was denied",
        _ => "it goes on",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_told_with_who_gave_it() {
        let mut event = Event::new(Kind::Answer);
        event.verdict = Some("allow".into());
        event.object = Some(json!({"id": "h-1", "answer": "approved", "by_uid": 0}));
        assert_eq!(how(&event), "approved by root (guardctl)");
        event.object = Some(json!({"id": "h-1", "answer": "denied",
            "via": {"channel": "slack", "who": "sam (U012)"}}));
        assert_eq!(how(&event), "denied by sam (U012) (slack)");
        event.verdict = Some("kill".into());
        event.object = Some(json!({"id": "h-1", "answer": "timed out", "by_uid": null}));
        assert_eq!(how(&event), "timed out: it was killed");
        let mut event = Event::new(Kind::Grant);
        event.object = Some(json!({"id": "g-1", "what": "granted", "by_uid": 0}));
        assert_eq!(how(&event), "granted by root (guardctl)");
        event.object = Some(
            json!({"id": "g-1", "what": "refused", "by_uid": null, "why": "its session has ended"}),
        );
        assert_eq!(how(&event), "refused: its session has ended");
    }
}
