//! `[metrics]`, `[otlp]` and `[journald]`: what other programs are told of guardd. All off unless the policy says.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{address, bad, inner, path, secret};
use crate::policy::{error::PolicyError, read::Table};

pub(super) const METRICS: &[&str] = &["listen"];
pub(super) const OTLP: &[&str] = &["endpoint", "headers_file", "ca_file", "events"];
pub(super) const JOURNALD: &[&str] = &["events"];

/// Which events are sent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// Those that a rule had something to say about, and those about guardd itself.
    #[default]
    Verdicts,
    /// All.
    All,
}

/// `[metrics]`: figures in Prometheus's text format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// Where they are to be had.
    pub listen: Listen,
}

/// A listener that only this machine reaches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listen {
    /// `unix:PATH`, for root and group guard.
    Unix(PathBuf),
    /// `127.0.0.1:PORT` or `[::1]:PORT`, for every user of the machine.
    Loopback(SocketAddr),
}

/// `[otlp]`: events and holds for a collector of OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Otlp {
    /// Base address of OTLP over HTTP, without the `v1/…`.
    pub endpoint: String,
    /// A file with more headers, `name: value` a line: where a collector wants a key.
    pub headers_file: Option<PathBuf>,
    /// Authorities to trust instead of the machine's.
    pub ca_file: Option<PathBuf>,
    /// Which events.
    pub events: Which,
}

/// `[journald]`: events as entries with fields of their own in systemd's journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journald {
    /// Which events.
    pub events: Which,
}

pub(super) fn metrics(top: &Table<'_>) -> Result<Option<Metrics>, PolicyError> {
    let Some(table) = inner(top, "metrics", "[metrics]")? else {
        return Ok(None);
    };
    table.only(METRICS)?;
    let expected = "listen = \"unix:/run/guard/metrics.sock\" or \"127.0.0.1:9464\"";
    let entry = table.required("listen", expected)?;
    let listen = match entry.text.strip_prefix("unix:").map(Path::new) {
        Some(path) if path.is_absolute() => Ok(Listen::Unix(path.into())),
        Some(_) => Err("expected a whole path behind unix:"),
        None => match entry.text.parse::<SocketAddr>() {
            Ok(addr) if addr.ip().is_loopback() && addr.port() != 0 => Ok(Listen::Loopback(addr)),
            Ok(_) => Err(
                "other machines could reach it: expected unix:PATH, 127.0.0.1:PORT or [::1]:PORT; to collect from \
                 elsewhere, put a server with TLS and a password before it",
            ),
            Err(_) => Err("expected unix:PATH, 127.0.0.1:PORT or [::1]:PORT"),
        },
    };
    let listen = listen.map_err(|reason| bad(&table, "listen", &entry, reason))?;
    Ok(Some(Metrics { listen }))
}

pub(super) fn otlp(top: &Table<'_>) -> Result<Option<Otlp>, PolicyError> {
    let Some(table) = inner(top, "otlp", "[otlp]")? else {
        return Ok(None);
    };
    table.only(OTLP)?;
    let expected = "endpoint = \"https://collector.example.com:4318\"";
    let endpoint =
        address(&table, "endpoint")?.ok_or_else(|| table.missing("endpoint", expected))?;
    Ok(Some(Otlp {
        endpoint: endpoint.trim_end_matches('/').into(),
        headers_file: secret(&table, "headers_file")?,
        ca_file: path(&table, "ca_file")?,
        events: which(&table)?,
    }))
}

pub(super) fn journald(top: &Table<'_>) -> Result<Option<Journald>, PolicyError> {
    let Some(table) = inner(top, "journald", "[journald]")? else {
        return Ok(None);
    };
    table.only(JOURNALD)?;
    Ok(Some(Journald {
        events: which(&table)?,
    }))
}

fn which(table: &Table<'_>) -> Result<Which, PolicyError> {
    let words = [("verdicts", Which::Verdicts), ("all", Which::All)];
    Ok(table.word("events", &words)?.unwrap_or_default())
}

impl Which {
    /// Whether an event is one of them.
    pub fn has(self, event: &crate::event::Event) -> bool {
        use crate::event::Kind;
        let told = |verdict: &Option<String>| verdict.as_deref().is_some_and(|v| v != "allow");
        match self {
            Self::All => true,
            Self::Verdicts => {
                told(&event.verdict)
                    || told(&event.would)
                    || !matches!(
                        event.kind,
                        Kind::Exec
                            | Kind::Open
                            | Kind::Connect
                            | Kind::Request
                            | Kind::Signal
                            | Kind::Call
                    )
            }
        }
    }
}
