//! Once a day: what would have been stopped.

use std::time::Duration;

use serde_json::json;

use super::Engine;
use crate::{
    clock,
    digest::Digest,
    event::{Event, Kind},
    policy::Mode,
};

/// Entries that the event carries; `guardctl digest` shows all.
const TOLD: usize = 16;

impl Engine {
    /// Tells what would have been stopped, when it is time. In enforce mode only where some rule was held back.
    pub(super) fn tell_digest(&mut self) {
        let now = clock::realtime_s();
        let age = now.saturating_sub(self.digest.since_s);
        if age < self.options.digest_every.as_secs().max(1) {
            return;
        }
        let digest = std::mem::replace(&mut self.digest, Digest::since(now));
        self.dirty = true;
        if digest.total == 0 && self.mode() == Mode::Enforce {
            return;
        }
        let line = digest.line(&clock::human(Duration::from_secs(age)));
        tracing::info!("digest: {line}");
        let rules: Vec<_> = digest.sorted().into_iter().take(TOLD).collect();
        let mut event = Event::new(Kind::Guard);
        event.object = Some(json!({
            "what": "digest", "for_s": age, "mode": self.mode().name(), "would_have_stopped": digest.total,
            "rules": rules, "text": line,
        }));
        self.tell(event);
    }
}
