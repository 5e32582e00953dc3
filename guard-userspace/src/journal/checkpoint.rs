//! Signed checkpoints: lines of the chain that say, under the journal's key, what stands before them.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{hex, key::Key, key::PublicKey, line::Chain};
use crate::event::{Event, Kind};

/// [`Checkpoint::what`].
pub(super) const WHAT: &str = "checkpoint";
/// What the first checkpoint of all follows.
pub(super) const NONE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The object of a checkpoint's event, which is of kind `guard`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// [`WHAT`].
    pub(super) what: String,
    /// Why now: `start`, `events`, `time`, `segment`, `retention`, `stop`.
    pub(super) why: String,
    /// Number of the event before this line.
    pub(super) seq: u64,
    /// Link of that event.
    pub(super) head: String,
    /// When, as the event has it.
    pub(super) time: String,
    /// [`Self::hash`] of the checkpoint before, or [`NONE`].
    pub(super) previous: String,
    /// Public half of the key.
    pub(super) key: String,
    /// Under [`Self::message`].
    pub(super) signature: String,
}

impl Checkpoint {
    /// The event that says, signed, that `seq` events stand and the last has this link.
    pub(super) fn event(key: &Key, why: &str, seq: u64, head: &Chain, previous: &str) -> Event {
        let mut event = Event::new(Kind::Guard);
        let mut checkpoint = Self {
            what: WHAT.into(),
            why: why.into(),
            seq,
            head: head.hex(),
            time: event.time.clone(),
            previous: previous.into(),
            key: key.public().to_string(),
            signature: String::new(),
        };
        checkpoint.signature = key.sign(checkpoint.message().as_bytes());
        // A struct of strings and a number is always JSON.
        event.object = serde_json::to_value(checkpoint).ok();
        event
    }

    /// Of an event that is one, whatever it holds.
    pub(super) fn of(event: &Event) -> Option<Result<Self, ()>> {
        let object = event.object.as_ref()?;
        let is = event.kind == Kind::Guard && object.get("what")?.as_str() == Some(WHAT);
        is.then(|| Self::deserialize(object).map_err(drop))
    }

    /// What is signed.
    pub(super) fn message(&self) -> String {
        format!(
            "guard journal checkpoint 1\n{}\n{}\n{}\n{}\n",
            self.seq, self.head, self.time, self.previous
        )
    }

    /// By which the next one names it: SHA-256 of [`Self::message`].
    pub(super) fn hash(&self) -> String {
        hex::encode(&Sha256::digest(self.message()))
    }

    pub(super) fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.signed(self.message().as_bytes(), &self.signature)
    }
}
