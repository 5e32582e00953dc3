//! What a policy says about guardd's dealings with the world outside, beside what it watches: one table and one
//! module each.

mod notify;
mod telemetry;

use serde::{Deserialize, Serialize};

use self::notify::{address, bad, inner, path, secret};
pub use self::{
    notify::{Desktop, Notify, Slack, SlackAnswers, SlackTo, Terminal, Webhook},
    telemetry::{Journald, Listen, Metrics, Otlp, Which},
};
use super::{error::PolicyError, read::Table};

/// Keys of the policy's top that are read here.
pub(super) const KEYS: &[&str] = &["notify", "metrics", "otlp", "journald"];

/// Settings, all off by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// `[notify]`: who is told of holds, and how.
    #[serde(default)]
    pub notify: Notify,
    /// `[metrics]`: figures for Prometheus.
    #[serde(default)]
    pub metrics: Option<Metrics>,
    /// `[otlp]`: events for a collector of OpenTelemetry.
    #[serde(default)]
    pub otlp: Option<Otlp>,
    /// `[journald]`: events for systemd's journal.
    #[serde(default)]
    pub journald: Option<Journald>,
}

impl Settings {
    /// Whether anything in it is the herald's work.
    pub fn wants_herald(&self) -> bool {
        !self.notify.is_empty() || self.hears_all()
    }

    /// Whether it is told of every event, and not only of holds.
    pub fn hears_all(&self) -> bool {
        self.metrics.is_some() || self.otlp.is_some() || self.journald.is_some()
    }
}

/// Reads the tables of [`KEYS`].
pub(super) fn read(top: &Table<'_>) -> Result<Settings, PolicyError> {
    Ok(Settings {
        notify: notify::read(top)?,
        metrics: telemetry::metrics(top)?,
        otlp: telemetry::otlp(top)?,
        journald: telemetry::journald(top)?,
    })
}
