//! What a policy says about guardd's dealings with the world outside, beside what it watches: one table and one
//! module each.

mod notify;

use serde::{Deserialize, Serialize};

pub use self::notify::{Desktop, Notify, Slack, SlackAnswers, SlackTo, Terminal, Webhook};
use super::{error::PolicyError, read::Table};

/// Keys of the policy's top that are read here.
pub(super) const KEYS: &[&str] = &["notify"];

/// Settings, all off by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// `[notify]`: who is told of holds, and how.
    #[serde(default)]
    pub notify: Notify,
}

impl Settings {
    /// Whether anything in it is the herald's work.
    pub fn wants_herald(&self) -> bool {
        !self.notify.is_empty()
    }
}

/// Reads the tables of [`KEYS`].
pub(super) fn read(top: &Table<'_>) -> Result<Settings, PolicyError> {
    Ok(Settings {
        notify: notify::read(top)?,
    })
}
