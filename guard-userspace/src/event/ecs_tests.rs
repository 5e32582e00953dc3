//! Every kind of event against the schema. The tables are taken from `generated/ecs/ecs_flat.yml` of
//! <https://github.com/elastic/ecs/tree/v8.17.0>.

use serde_json::Value;

use super::{super::samples, *};

/// Fields that guard uses, with their types there; `[]` after a type is `normalize: array`.
const FIELDS: [(&str, &str); 49] = [
    ("@timestamp", "date"),
    ("destination.address", "keyword"),
    ("destination.domain", "keyword"),
    ("destination.ip", "ip"),
    ("destination.port", "long"),
    ("ecs.version", "keyword"),
    ("event.action", "keyword"),
    ("event.category", "keyword[]"),
    ("event.code", "keyword"),
    ("event.dataset", "keyword"),
    ("event.id", "keyword"),
    ("event.kind", "keyword"),
    ("event.module", "keyword"),
    ("event.outcome", "keyword"),
    ("event.provider", "keyword"),
    ("event.reason", "keyword"),
    ("event.sequence", "long"),
    ("event.severity", "long"),
    ("event.type", "keyword[]"),
    ("file.device", "keyword"),
    ("file.directory", "keyword"),
    ("file.inode", "keyword"),
    ("file.name", "keyword"),
    ("file.path", "keyword"),
    ("host.name", "keyword"),
    ("http.request.method", "keyword"),
    ("message", "match_only_text"),
    ("network.direction", "keyword"),
    ("network.type", "keyword"),
    ("observer.product", "keyword"),
    ("observer.type", "keyword"),
    ("observer.vendor", "keyword"),
    ("observer.version", "keyword"),
    ("process.args", "keyword[]"),
    ("process.args_count", "long"),
    ("process.command_line", "wildcard"),
    ("process.entity_id", "keyword"),
    ("process.executable", "keyword"),
    ("process.name", "keyword"),
    ("process.parent.pid", "long"),
    ("process.pid", "long"),
    ("process.thread.id", "long"),
    ("process.thread.name", "keyword"),
    ("process.working_directory", "keyword"),
    ("rule.name", "keyword"),
    ("rule.ruleset", "keyword"),
    ("tags", "keyword[]"),
    ("tls.client.server_name", "keyword"),
    ("user.id", "keyword"),
];
const URL: [(&str, &str); 2] = [("url.domain", "keyword"), ("url.path", "wildcard")];

/// Values of `event.category` that guard uses, with their `expected_event_types`.
const CATEGORIES: [(&str, &[&str]); 9] = [
    (
        "configuration",
        &["access", "change", "creation", "deletion", "info"],
    ),
    (
        "file",
        &["access", "change", "creation", "deletion", "info"],
    ),
    ("host", &["access", "change", "end", "info", "start"]),
    (
        "iam",
        &[
            "admin", "change", "creation", "deletion", "group", "info", "user",
        ],
    ),
    ("intrusion_detection", &["allowed", "denied", "info"]),
    (
        "network",
        &[
            "access",
            "allowed",
            "connection",
            "denied",
            "end",
            "info",
            "protocol",
            "start",
        ],
    ),
    ("process", &["access", "change", "end", "info", "start"]),
    ("session", &["start", "end", "info"]),
    ("web", &["access", "error", "info"]),
];

fn host() -> Host {
    Host {
        name: "build-1".into(),
        version: "0.1.0".into(),
    }
}

fn fields(prefix: &str, value: &Value, out: &mut Vec<(String, Value)>) {
    match value.as_object() {
        Some(members) => {
            for (key, value) in members {
                let name = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                if name == "guard" {
                    continue;
                }
                fields(&name, value, out);
            }
        }
        None => out.push((prefix.to_owned(), value.clone())),
    }
}

fn fits(kind: &str, value: &Value) -> bool {
    match kind {
        "long" => value.is_u64(),
        "date" => value
            .as_str()
            .is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok()),
        "ip" => value
            .as_str()
            .is_some_and(|text| text.parse::<std::net::IpAddr>().is_ok()),
        "keyword[]" => value
            .as_array()
            .is_some_and(|items| items.iter().all(Value::is_string)),
        _ => value.is_string(),
    }
}

#[test]
fn every_field_is_one_of_the_schema_and_of_its_type() {
    for event in samples::all() {
        let object = of(&event, &host());
        let mut found = Vec::new();
        fields("", &object, &mut found);
        for (name, value) in &found {
            let kind = FIELDS.iter().chain(&URL).find(|(known, _)| known == name);
            let Some((_, kind)) = kind else {
                panic!("{name} is no field of the schema: {object:#}");
            };
            assert!(fits(kind, value), "{name} is {value}");
        }
        // `level: core` of what every event must have.
        for name in [
            "@timestamp",
            "ecs.version",
            "event.kind",
            "event.category",
            "event.type",
            "message",
        ] {
            assert!(found.iter().any(|(found, _)| found == name), "{name}");
        }
    }
}

#[test]
fn categories_types_and_outcomes_go_together() {
    let words = |value: &Value| -> Vec<String> {
        let items = value.as_array().unwrap().iter();
        items
            .map(|item| item.as_str().unwrap().to_owned())
            .collect()
    };
    for event in samples::all() {
        let object = of(&event, &host());
        let mut allowed: Vec<&str> = Vec::new();
        for category in words(&object["event"]["category"]) {
            let known = CATEGORIES.iter().find(|(name, _)| *name == category);
            allowed.extend(known.unwrap_or_else(|| panic!("{category}")).1);
        }
        for kind in words(&object["event"]["type"]) {
            assert!(allowed.contains(&kind.as_str()), "{kind}: {object:#}");
        }
        let kind = object["event"]["kind"].as_str().unwrap();
        assert!(["alert", "event"].contains(&kind));
        if let Some(outcome) = object["event"].get("outcome") {
            assert!(["failure", "success", "unknown"].contains(&outcome.as_str().unwrap()));
        }
        if let Some(direction) = object.pointer("/network/direction") {
            assert_eq!(direction, "egress");
        }
    }
}

#[test]
fn a_held_connect_reads_as_one() {
    let connect = samples::all()
        .into_iter()
        .find(|e| e.kind == Kind::Connect)
        .unwrap();
    let object = of(&connect, &host());
    assert_eq!(object["event"]["kind"], "alert");
    assert_eq!(object["event"]["outcome"], "unknown");
    assert_eq!(
        object["destination"],
        json!({ "address": "api.example", "domain": "api.example", "ip": "203.0.113.9", "port": 443 })
    );
    assert_eq!(object["tls"]["client"]["server_name"], "api.example");
    assert_eq!(object["rule"]["name"], "credential-then-infra");
    assert_eq!(object["process"]["args"], json!(["curl", "-d", "a b"]));
    assert_eq!(object["guard"]["session"], "s-3");
}
