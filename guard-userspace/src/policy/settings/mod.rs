//! What a policy says about guardd itself and its dealings with the world outside, beside what it watches: one table
//! and one module each.

mod divergence;
mod hunting;
mod journal;
mod notify;
pub(super) mod schema;
mod secrets;
mod telemetry;

use serde::{Deserialize, Serialize};

use self::notify::{address, bad, inner, path, secret};
pub use self::{
    divergence::Divergence,
    hunting::Hunting,
    journal::Journal,
    notify::{Desktop, Notify, Slack, SlackAnswers, SlackTo, Terminal, Webhook},
    secrets::Secrets,
    telemetry::{Journald, Listen, Metrics, Otlp, Which},
};
use super::{error::PolicyError, read::Table};

/// Keys of the policy's top that are read here.
pub(super) const KEYS: &[&str] = &[
    "divergence",
    "hunting",
    "journal",
    "notify",
    "metrics",
    "otlp",
    "journald",
    "secrets",
];

/// The tables, all of which may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// `[divergence]`: when a session's score is told.
    #[serde(default)]
    pub divergence: Divergence,
    /// `[hunting]`: what is called a hunt for credentials.
    #[serde(default)]
    pub hunting: Hunting,
    /// `[journal]`: how much of it is kept.
    #[serde(default)]
    pub journal: Journal,
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
    /// `[secrets]`: which files are searched for secrets.
    #[serde(default)]
    pub secrets: Secrets,
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

/// Reads them from every file of a policy. Of a table that several have, the last file's counts, as a whole.
pub(super) fn read(tops: &[Table<'_>]) -> Result<Settings, PolicyError> {
    Ok(Settings {
        divergence: last(tops, "divergence", divergence::read)?,
        hunting: last(tops, "hunting", hunting::read)?,
        journal: last(tops, "journal", journal::read)?,
        notify: last(tops, "notify", notify::read)?,
        metrics: last(tops, "metrics", telemetry::metrics)?,
        otlp: last(tops, "otlp", telemetry::otlp)?,
        journald: last(tops, "journald", telemetry::journald)?,
        secrets: last(tops, "secrets", secrets::read)?,
    })
}

/// Reads a table wherever it is, so that no file has a mistake in it, and gives the last.
fn last<T: Default>(
    tops: &[Table<'_>],
    key: &str,
    read: impl Fn(&Table<'_>) -> Result<T, PolicyError>,
) -> Result<T, PolicyError> {
    let mut last = T::default();
    for top in tops.iter().filter(|top| top.value(key).is_some()) {
        last = read(top)?;
    }
    Ok(last)
}
