//! Members of events, for the mappings to other schemas.

use serde_json::Value;

use super::{Event, Kind};

/// A member of the object.
pub(super) fn member<'a>(event: &'a Event, name: &str) -> Option<&'a Value> {
    event.object.as_ref()?.get(name)
}

/// A member as text, without the quotes of strings.
pub(super) fn text(event: &Event, name: &str) -> Option<String> {
    match member(event, name)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        value => Some(value.to_string()),
    }
}

/// A member that is a number.
pub(super) fn number(event: &Event, name: &str) -> Option<u64> {
    member(event, name)?.as_u64()
}

/// The last part of a path, or the whole where that is nothing.
pub(super) fn base_name(path: &str) -> &str {
    match path.rsplit('/').next() {
        Some(name) if !name.is_empty() => name,
        _ => path,
    }
}

/// What the process runs: of an exec what was started.
pub(super) fn arguments(event: &Event) -> Option<Vec<String>> {
    let started = match event.kind {
        Kind::Exec => member(event, "argv").and_then(Value::as_array).map(|argv| {
            argv.iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        }),
        _ => None,
    };
    started
        .or_else(|| event.argv.clone())
        .filter(|argv| !argv.is_empty())
}

/// The same in one line, as a shell would take it.
pub(super) fn command_line(event: &Event) -> Option<String> {
    arguments(event).map(shell_words::join)
}

/// The event in one line.
pub(super) fn summary(event: &Event) -> String {
    let mut line = event.kind.name().to_owned();
    if let Some(what) = text(event, "what").or_else(|| text(event, "answer")) {
        line = format!("{line} {what}");
    }
    let target = match event.kind {
        Kind::Exec => command_line(event),
        Kind::Open => text(event, "path"),
        Kind::Connect => text(event, "host")
            .or_else(|| text(event, "addr"))
            .or_else(|| text(event, "path"))
            .map(|to| match number(event, "port") {
                Some(port) if to.contains(':') => format!("[{to}]:{port}"),
                Some(port) => format!("{to}:{port}"),
                None => to,
            }),
        Kind::Request => {
            let parts =
                ["method", "host", "path"].map(|name| text(event, name).unwrap_or_default());
            let [method, host, path] = parts;
            Some(format!("{method} {host}{path}"))
        }
        Kind::Signal | Kind::Call => text(event, "call"),
        Kind::Hold | Kind::Answer => text(event, "target"),
        Kind::Grant => Some(event.labels.join(" ")),
        Kind::Intent => text(event, "text"),
        Kind::Policy => text(event, "policy"),
        Kind::Lost => {
            let class = text(event, "class").unwrap_or_default();
            number(event, "count").map(|count| format!("{count} of {class}"))
        }
        Kind::Session | Kind::Guard => text(event, "why"),
    };
    if let Some(target) = target.filter(|target| !target.is_empty()) {
        line = format!("{line}: {target}");
    }
    match (&event.would, &event.verdict) {
        (Some(would), _) => line.push_str(&format!(" (would {would})")),
        (None, Some(verdict)) if verdict != "allow" => line.push_str(&format!(" ({verdict})")),
        _ => {}
    }
    line
}
