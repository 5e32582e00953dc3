//! Events in words, for the report. What a process chose is in here as it was; whoever prints it escapes it.

use jiff::Timestamp;
use serde_json::Value;

use super::Entry;
use crate::event::{Event, Kind};

/// No text of the report is longer, in characters.
const LONGEST: usize = 500;

/// A member of the object as text.
pub(super) fn text(event: &Event, name: &str) -> Option<String> {
    match event.object.as_ref()?.get(name)? {
        Value::Null => None,
        Value::String(text) => Some(clip(text)),
        value => Some(clip(&value.to_string())),
    }
}

pub(super) fn number(event: &Event, name: &str) -> Option<u64> {
    event.object.as_ref()?.get(name)?.as_u64()
}

pub(super) fn clip(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The command line that did it; of an exec the one that was started.
pub(super) fn command(event: &Event) -> Option<String> {
    let started = (event.kind == Kind::Exec)
        .then(|| event.object.as_ref()?.get("argv")?.as_array().cloned())
        .flatten()
        .map(|argv| {
            argv.iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        });
    let argv = started.or_else(|| event.argv.clone());
    match argv {
        Some(argv) if !argv.is_empty() => Some(clip(&shell_words::join(argv))),
        _ => event
            .exe
            .clone()
            .or_else(|| event.comm.clone())
            .map(|text| clip(&text)),
    }
}

/// What was acted on, by kind.
pub(super) fn target(event: &Event) -> String {
    let text = |name: &str| text(event, name);
    let line = match event.kind {
        Kind::Exec => text("cwd").map(|cwd| format!("in {cwd}")),
        Kind::Open => {
            text("path").or_else(|| Some(format!("inode {} of {}", text("ino")?, text("dev")?)))
        }
        Kind::Connect => {
            let at = match (text("addr"), number(event, "port")) {
                (Some(addr), Some(port)) if addr.contains(':') => Some(format!("[{addr}]:{port}")),
                (Some(addr), Some(port)) => Some(format!("{addr}:{port}")),
                (addr, _) => addr.or_else(|| text("path")),
            };
            match (text("host"), at) {
                (Some(host), Some(at)) => Some(format!("{host} ({at})")),
                (host, at) => host.or(at),
            }
        }
        Kind::Request => {
            let host = text("host").unwrap_or_default() + &text("path").unwrap_or_default();
            let mut parts = vec![text("method").unwrap_or_default(), host];
            if let Some(graphql) = event
                .object
                .as_ref()
                .and_then(|object| object.get("graphql"))
            {
                let members = ["type", "field"]
                    .iter()
                    .filter_map(|name| graphql.get(name)?.as_str());
                parts.extend(members.map(clip));
            }
            let more = ["mcp", "aws", "kube", "grpc", "target"];
            parts.extend(more.iter().filter_map(|name| text(name)));
            parts.retain(|part| !part.is_empty());
            Some(parts.join(" "))
        }
        Kind::Signal | Kind::Call => {
            let mut line = text("call").unwrap_or_default();
            for (name, before) in [
                ("target", "of pid "),
                ("what", ""),
                ("path", ""),
                ("signal", "signal "),
            ] {
                if let Some(value) = text(name) {
                    line.push_str(&format!(" {before}{value}"));
                }
            }
            Some(line)
        }
        Kind::Lost => text("count")
            .map(|count| format!("{count} records of {}", text("class").unwrap_or_default())),
        Kind::Session if event.is_divergence() => {
            let categories = event
                .object
                .as_ref()
                .and_then(|object| object.get("categories"));
            let names: Vec<&str> = categories
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|one| one.get("category")?.as_str())
                .collect();
            let score = text("score").unwrap_or_default();
            Some(format!(
                "unlike its kind, score {score}: {}",
                clip(&names.join(", "))
            ))
        }
        Kind::Intent => text("text").or_else(|| Some("cleared".into())),
        _ => members(event),
    };
    line.unwrap_or_default()
}

/// Of the kinds whose members are open: what, and the rest as `name=value`.
fn members(event: &Event) -> Option<String> {
    let object = event.object.as_ref()?.as_object()?;
    let mut parts: Vec<String> = ["what", "answer"]
        .iter()
        .filter_map(|name| text(event, name))
        .collect();
    let rest = object
        .iter()
        .filter(|(name, value)| !matches!(name.as_str(), "what" | "answer") && !value.is_null());
    parts.extend(rest.map(|(name, _)| format!("{name}={}", text(event, name).unwrap_or_default())));
    Some(clip(&parts.join(" ")))
}

pub(super) fn entry(event: &Event) -> Entry {
    Entry {
        seq: event.seq,
        time: event.time.clone(),
        session: event.session.clone(),
        kind: event.kind.name(),
        pid: event.tgid,
        who: command(event),
        what: target(event),
        labels: event.labels.clone(),
        verdict: event.verdict.clone(),
        would: event.would.clone(),
        rule: event.rule.clone(),
    }
}

/// Milliseconds from one time to another; 0 where it is not later.
pub(super) fn between_ms(from: &str, to: &str) -> u64 {
    match (from.parse::<Timestamp>(), to.parse::<Timestamp>()) {
        (Ok(from), Ok(to)) => u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0),
        _ => 0,
    }
}

/// `1 call`, `2 calls`.
pub(super) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
