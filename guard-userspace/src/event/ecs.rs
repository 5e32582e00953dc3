//! Events in the field names of the Elastic Common Schema, version 8.17.0
//! (<https://github.com/elastic/ecs/tree/v8.17.0>). A pure mapping. What the schema has no place for is below
//! `guard`, which it leaves to its users.

use serde_json::{Map, Value, json};

use super::{
    Event, Kind,
    ocsf::Host,
    parts::{arguments, base_name, command_line, number, summary, text},
};

/// The schema's version.
pub const VERSION: &str = "8.17.0";

/// One event.
pub fn of(event: &Event, host: &Host) -> Value {
    let mut out = Map::new();
    let mut put = |path: &str, value: Value| put(&mut out, path, value);
    put("@timestamp", json!(event.time));
    put("ecs.version", json!(VERSION));
    put("message", json!(summary(event)));
    put("host.name", json!(host.name));
    put("observer.product", json!("guard"));
    put("observer.vendor", json!("guard"));
    put("observer.type", json!("endpoint"));
    put("observer.version", json!(host.version));
    put("event.module", json!("guard"));
    put("event.dataset", json!("guard.journal"));
    put("event.provider", json!("guard"));
    put("event.id", json!(event.seq.to_string()));
    put("event.sequence", json!(event.seq));
    put("event.code", json!(event.kind.name()));
    put("event.action", json!(action(event)));
    put(
        "event.kind",
        json!(if is_alert(event) { "alert" } else { "event" }),
    );
    let (categories, types) = categories(event);
    put("event.category", json!(categories));
    put("event.type", json!(types));
    put("event.severity", json!(severity(event)));
    if let Some(outcome) = outcome(event) {
        put("event.outcome", json!(outcome));
    }
    if let Some(reason) = text(event, "reason").or_else(|| text(event, "why")) {
        put("event.reason", json!(reason));
    }
    if let Some(rule) = &event.rule {
        put("rule.name", json!(rule));
        put("rule.ruleset", json!("guard"));
    }
    if !event.labels.is_empty() {
        put("tags", json!(event.labels));
    }
    if let Some(uid) = event.uid {
        put("user.id", json!(uid.to_string()));
    }
    process(event, &mut put);
    target(event, &mut put);
    let own = [
        ("session", &event.session),
        ("agent", &event.agent),
        ("verdict", &event.verdict),
        ("would", &event.would),
        ("tier", &event.tier),
    ];
    for (name, value) in own {
        if let Some(value) = value {
            put(&format!("guard.{name}"), json!(value));
        }
    }
    if let Some(object) = &event.object {
        put("guard.object", object.clone());
    }
    if !event.evidence.is_empty() {
        put("guard.evidence", json!(event.evidence));
    }
    if let Some(latency) = event.latency_ns {
        put("guard.latency_ns", json!(latency));
    }
    out.into()
}

/// Sets `a.b.c` in nested objects.
fn put(out: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            out.insert(path.into(), value);
        }
        Some((first, rest)) => {
            let inner = out
                .entry(first)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Some(inner) = inner.as_object_mut() {
                put(inner, rest, value);
            }
        }
    }
}

fn word(event: &Event) -> Option<&str> {
    event.would.as_deref().or(event.verdict.as_deref())
}

fn is_alert(event: &Event) -> bool {
    let altered = event.is_journal_altered();
    altered
        || (event.kind != Kind::Answer
            && matches!(word(event), Some("flag" | "hold" | "deny" | "kill")))
}

fn action(event: &Event) -> String {
    let what = text(event, "what")
        .or_else(|| text(event, "answer"))
        .or_else(|| text(event, "call"));
    match what {
        Some(what) => format!("{}-{}", event.kind.name(), what.replace(' ', "-")),
        None => event.kind.name().into(),
    }
}

/// 0 to 100, as Elastic's own products count.
fn severity(event: &Event) -> u32 {
    match event.severity.as_deref() {
        Some("informational") => return 0,
        Some("low") => return 21,
        Some("medium") => return 47,
        Some("high") => return 73,
        Some("critical") => return 99,
        _ => {}
    }
    let less = if event.would.is_some() { 26 } else { 0 };
    match (event.kind, word(event)) {
        (Kind::Lost, _) => 47,
        (_, Some("kill")) => 99 - less,
        (_, Some("hold" | "deny")) => 73 - less,
        (_, Some("flag")) => 21,
        _ => 0,
    }
}

fn outcome(event: &Event) -> Option<&'static str> {
    match event.kind {
        Kind::Exec | Kind::Open | Kind::Connect | Kind::Request | Kind::Signal | Kind::Call => {
            match event.verdict.as_deref()? {
                "deny" | "kill" => Some("failure"),
                "hold" => Some("unknown"),
                _ => Some("success"),
            }
        }
        _ => None,
    }
}

/// `event.category` and `event.type`, of the values that go together.
fn categories(event: &Event) -> (Vec<&'static str>, Vec<&'static str>) {
    let what = text(event, "what").unwrap_or_default();
    let (mut categories, mut types) = match event.kind {
        Kind::Exec => (vec!["process"], vec!["start"]),
        Kind::Open => (vec!["file"], vec!["access"]),
        Kind::Connect => (vec!["network"], vec!["start", "connection"]),
        Kind::Request => (vec!["network", "web"], vec!["access", "protocol"]),
        Kind::Signal => (vec!["process"], vec!["change"]),
        Kind::Call => match text(event, "call").as_deref() {
            Some("guard-files") => (vec!["file"], vec!["change"]),
            _ => (vec!["process"], vec!["access"]),
        },
        Kind::Session => match what.as_str() {
            "began" => (vec!["session"], vec!["start"]),
            "ended" => (vec!["session"], vec!["end"]),
            _ => (vec!["session"], vec!["info"]),
        },
        Kind::Hold => (vec!["intrusion_detection"], vec!["info"]),
        Kind::Answer => match event.verdict.as_deref() {
            Some("allow") => (vec!["intrusion_detection"], vec!["allowed"]),
            _ => (vec!["intrusion_detection"], vec!["denied"]),
        },
        Kind::Grant => (vec!["iam"], vec!["change"]),
        Kind::Intent | Kind::Policy => (vec!["configuration"], vec!["change"]),
        Kind::Lost => (vec!["host"], vec!["info"]),
        Kind::Guard => match what.as_str() {
            "started" => (vec!["process"], vec!["start"]),
            "stopped" => (vec!["process"], vec!["end"]),
            _ => (vec!["host"], vec!["info"]),
        },
    };
    if is_alert(event) && event.rule.is_some() && event.kind != Kind::Hold {
        if categories != ["intrusion_detection"] {
            categories.push("intrusion_detection");
        }
        match event.verdict.as_deref() {
            Some("deny" | "kill") => types.push("denied"),
            Some("allow" | "flag") => types.push("allowed"),
            _ => types.push("info"),
        }
    }
    (categories, types)
}

fn process(event: &Event, put: &mut impl FnMut(&str, Value)) {
    if let Some(pid) = event.tgid.or(event.pid) {
        put("process.pid", json!(pid));
    }
    if let Some(thread) = event.pid {
        put("process.thread.id", json!(thread));
    }
    if let Some(parent) = event.ppid {
        put("process.parent.pid", json!(parent));
    }
    if let Some(name) = event
        .exe
        .as_deref()
        .map(base_name)
        .or(event.comm.as_deref())
    {
        put("process.name", json!(name));
    }
    if let Some(comm) = &event.comm {
        put("process.thread.name", json!(comm));
    }
    if let Some(exe) = &event.exe {
        put("process.executable", json!(exe));
    }
    if let Some(argv) = arguments(event) {
        put("process.args_count", json!(argv.len()));
        put("process.args", json!(argv));
    }
    if let Some(line) = command_line(event) {
        put("process.command_line", json!(line));
    }
    if let Some(cwd) = text(event, "cwd") {
        put("process.working_directory", json!(cwd));
    }
    if let (Some(pid), Some(start)) = (event.tgid, event.start) {
        put("process.entity_id", json!(format!("{pid}-{start}")));
    }
}

fn target(event: &Event, put: &mut impl FnMut(&str, Value)) {
    match event.kind {
        Kind::Open | Kind::Call => {
            if let Some(path) = text(event, "path") {
                put("file.name", json!(base_name(&path)));
                if let Some((directory, _)) = path.rsplit_once('/') {
                    let root = if directory.is_empty() { "/" } else { directory };
                    put("file.directory", json!(root));
                }
                put("file.path", json!(path));
            }
            if let Some(ino) = text(event, "ino") {
                put("file.inode", json!(ino));
            }
            if let Some(dev) = text(event, "dev") {
                put("file.device", json!(dev));
            }
        }
        Kind::Connect => {
            put("network.direction", json!("egress"));
            match text(event, "family").as_deref() {
                Some("inet") => put("network.type", json!("ipv4")),
                Some("inet6") => put("network.type", json!("ipv6")),
                _ => {}
            }
            let addr = text(event, "addr").filter(|addr| !addr.is_empty());
            let to = text(event, "host").or(addr.clone()).or(text(event, "path"));
            if let Some(to) = to {
                put("destination.address", json!(to));
            }
            if let Some(addr) = addr.filter(|addr| addr.parse::<std::net::IpAddr>().is_ok()) {
                put("destination.ip", json!(addr));
            }
            if let Some(host) = text(event, "host") {
                put("destination.domain", json!(host));
                if text(event, "host_from").as_deref() == Some("sni") {
                    put("tls.client.server_name", json!(host));
                }
            }
            if let Some(port) = number(event, "port") {
                put("destination.port", json!(port));
            }
        }
        Kind::Request => {
            if let Some(method) = text(event, "method") {
                put("http.request.method", json!(method));
            }
            let host = text(event, "host");
            if let Some(host) = &host {
                put("url.domain", json!(host));
                put("destination.domain", json!(host));
                put("destination.address", json!(host));
            }
            if let Some(path) = text(event, "path") {
                put("url.path", json!(path));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
#[path = "ecs_tests.rs"]
mod tests;
