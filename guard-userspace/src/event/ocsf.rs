//! Events in the words of the Open Cybersecurity Schema Framework, version 1.8.0
//! (<https://github.com/ocsf/ocsf-schema/tree/v1.8.0>). A pure mapping, one class for each kind; a call that a rule
//! has judged gives a Detection Finding besides its activity. What the schema has no place for is in `unmapped`.

use serde_json::{Map, Value, json};

use super::{
    Event, Kind,
    parts::{base_name, command_line, number, summary, text},
};

/// The schema's version.
pub const VERSION: &str = "1.8.0";

/// `category_uid`, `class_uid`, and their captions.
type Class = (u32, u32, &'static str, &'static str);
const FILE: Class = (1, 1001, "System Activity", "File System Activity");
const KERNEL: Class = (1, 1003, "System Activity", "Kernel Activity");
const PROCESS: Class = (1, 1007, "System Activity", "Process Activity");
const FINDING: Class = (2, 2004, "Findings", "Detection Finding");
const AUTHORIZE: Class = (3, 3003, "Identity & Access Management", "Authorize Session");
const ENTITY: Class = (3, 3004, "Identity & Access Management", "Entity Management");
const NETWORK: Class = (4, 4001, "Network Activity", "Network Activity");
const HTTP: Class = (4, 4002, "Network Activity", "HTTP Activity");
const LIFECYCLE: Class = (6, 6002, "Application Activity", "Application Lifecycle");
const ERROR: Class = (6, 6008, "Application Activity", "Application Error");

/// What is the same in every event of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Version of guard.
    pub version: String,
}

/// One event, in one object or two: the activity, and the finding where a rule has judged it.
pub fn of(event: &Event, host: &Host) -> Vec<Value> {
    let mut objects = vec![activity(event, host)];
    if judged(event) && !matches!(event.kind, Kind::Hold | Kind::Answer) {
        objects.push(finding_of_call(event, host));
    }
    objects
}

/// A rule gave it a verdict, or would have.
fn judged(event: &Event) -> bool {
    let above = |word: &Option<String>| {
        word.as_deref()
            .is_some_and(|word| matches!(word, "flag" | "hold" | "deny" | "kill"))
    };
    above(&event.verdict) || above(&event.would)
}

/// A class with its activity, by number and caption.
fn activity(event: &Event, host: &Host) -> Value {
    let what = text(event, "what").unwrap_or_default();
    let mut more = Map::new();
    let (class, id, name) = match event.kind {
        Kind::Exec => {
            more.insert("process".into(), process(event));
            more.insert("launch_type_id".into(), 3.into());
            (PROCESS, 1, "Launch")
        }
        Kind::Open => {
            more.insert("file".into(), file(event));
            (FILE, 14, "Open")
        }
        Kind::Connect => {
            more.insert("dst_endpoint".into(), endpoint(event));
            more.insert("connection_info".into(), connection(event));
            (NETWORK, 1, "Open")
        }
        Kind::Request => {
            let method = text(event, "method").unwrap_or_default();
            more.insert("http_request".into(), request(event, &method));
            if let Some(host) = text(event, "host") {
                more.insert("dst_endpoint".into(), json!({ "hostname": host }));
            }
            let (id, name) = http_activity(&method);
            (HTTP, id, name)
        }
        Kind::Signal | Kind::Call => call(event, &mut more),
        Kind::Hold | Kind::Answer => {
            let (id, name) = if event.kind == Kind::Hold && what == "held" {
                (1, "Create")
            } else {
                (3, "Close")
            };
            finding(event, &hold_id(event), &mut more);
            more.insert("status_id".into(), json!(if id == 1 { 1 } else { 4 }));
            (FINDING, id, name)
        }
        Kind::Grant => {
            let who = event.agent.clone().or_else(|| event.session.clone());
            more.insert(
                "user".into(),
                json!({ "name": who.unwrap_or_else(|| "session".into()), "type_id": 99, "type": "Agent" }),
            );
            let labels: Vec<Value> = event.labels.iter().map(|l| l.as_str().into()).collect();
            let none = vec!["none".into()];
            more.insert(
                "privileges".into(),
                if labels.is_empty() { none } else { labels }.into(),
            );
            more.insert("session".into(), session(event));
            if what == "granted" {
                (AUTHORIZE, 1, "Assign Privileges")
            } else {
                (AUTHORIZE, 99, "Revoke Privileges")
            }
        }
        Kind::Session => {
            let app = json!({ "name": event.agent.as_deref().unwrap_or("agent"), "uid": event.session.as_deref().unwrap_or("-") });
            more.insert("app".into(), app);
            match what.as_str() {
                "began" => (LIFECYCLE, 3, "Start"),
                "ended" => (LIFECYCLE, 4, "Stop"),
                _ => (LIFECYCLE, 99, "Session Change"),
            }
        }
        Kind::Intent => {
            let name = event.session.as_deref().unwrap_or("session");
            more.insert(
                "entity".into(),
                json!({ "name": name, "uid": name, "type": "Session" }),
            );
            (ENTITY, 3, "Update")
        }
        Kind::Policy => {
            let name = text(event, "policy").unwrap_or_else(|| "policy".into());
            more.insert("entity".into(), json!({ "name": name, "type": "Policy" }));
            (ENTITY, 3, "Update")
        }
        Kind::Lost => (ERROR, 1, "General Error"),
        Kind::Guard if event.is_journal_altered() => (ERROR, 1, "General Error"),
        Kind::Guard => {
            more.insert("app".into(), product(host));
            match what.as_str() {
                "started" => (LIFECYCLE, 3, "Start"),
                "stopped" => (LIFECYCLE, 4, "Stop"),
                "makes way" => (LIFECYCLE, 5, "Restart"),
                _ => (LIFECYCLE, 99, "Report"),
            }
        }
    };
    let mut object = base(event, host, class, id, name, false);
    if matches!(class, PROCESS | FILE | KERNEL | NETWORK | HTTP) {
        object.insert("actor".into(), actor(event));
        security_control(event, &mut object);
    }
    object.extend(more);
    object.into()
}

/// What every class requires (`events/base_event.json`), and the profile `host`.
fn base(
    event: &Event,
    host: &Host,
    (category, class, category_name, class_name): Class,
    activity: u32,
    name: &str,
    finding: bool,
) -> Map<String, Value> {
    let uid = if finding {
        format!("{}-finding", event.seq)
    } else {
        event.seq.to_string()
    };
    let time = event
        .time
        .parse::<jiff::Timestamp>()
        .map_or(0, jiff::Timestamp::as_millisecond);
    let profiles: &[&str] = if matches!(class, 1001 | 1003 | 1007 | 4001 | 4002) || finding {
        &["host", "security_control"]
    } else {
        &["host"]
    };
    let mut metadata = json!({
        "version": VERSION,
        "product": product(host),
        "uid": uid,
        "sequence": event.seq,
        "log_name": "guard journal",
        "original_time": event.time,
        "event_code": event.kind.name(),
        "profiles": profiles,
    });
    if let (Some(session), Some(members)) = (&event.session, metadata.as_object_mut()) {
        members.insert("correlation_uid".into(), session.as_str().into());
    }
    if let (false, Some(members)) = (event.labels.is_empty(), metadata.as_object_mut()) {
        members.insert("labels".into(), json!(event.labels));
    }
    let (severity, severity_name) = severity(event);
    let mut object = Map::new();
    let members = [
        ("category_uid", json!(category)),
        ("category_name", json!(category_name)),
        ("class_uid", json!(class)),
        ("class_name", json!(class_name)),
        ("activity_id", json!(activity)),
        ("activity_name", json!(name)),
        ("type_uid", json!(class * 100 + activity)),
        ("type_name", json!(format!("{class_name}: {name}"))),
        ("time", json!(time)),
        ("severity_id", json!(severity)),
        ("severity", json!(severity_name)),
        ("message", json!(summary(event))),
        ("metadata", metadata),
        ("device", json!({ "hostname": host.name, "type_id": 0 })),
    ];
    object.extend(members.map(|(key, value)| (key.to_owned(), value)));
    let mut unmapped = Map::new();
    if let Some(value) = &event.object {
        unmapped.insert("object".into(), value.clone());
    }
    let own = [
        ("rule", &event.rule),
        ("verdict", &event.verdict),
        ("would", &event.would),
        ("tier", &event.tier),
        ("agent", &event.agent),
    ];
    for (key, value) in own {
        if let Some(value) = value {
            unmapped.insert(key.into(), value.as_str().into());
        }
    }
    if let Some(latency) = event.latency_ns {
        unmapped.insert("latency_ns".into(), latency.into());
    }
    if !unmapped.is_empty() {
        object.insert("unmapped".into(), unmapped.into());
    }
    object
}

fn severity(event: &Event) -> (u32, &'static str) {
    // As the rule says, where it does.
    match event.severity.as_deref() {
        Some("informational") => return (1, "Informational"),
        Some("low") => return (2, "Low"),
        Some("medium") => return (3, "Medium"),
        Some("high") => return (4, "High"),
        Some("critical") => return (5, "Critical"),
        _ => {}
    }
    let word = event.would.as_deref().or(event.verdict.as_deref());
    let altered = event.is_journal_altered();
    match (event.kind, word) {
        (Kind::Guard, _) if altered => (5, "Critical"),
        (Kind::Lost, _) => (3, "Medium"),
        // What would have been done was not: one step less.
        (_, Some("kill")) if event.would.is_none() => (5, "Critical"),
        (_, Some("kill")) => (4, "High"),
        (_, Some("deny" | "hold")) if event.would.is_none() => (4, "High"),
        (_, Some("deny" | "hold")) => (3, "Medium"),
        (_, Some("flag")) => (2, "Low"),
        _ => (1, "Informational"),
    }
}

/// `profiles/security_control.json`: what was done about it.
fn security_control(event: &Event, object: &mut Map<String, Value>) {
    let (action, disposition, failed) = match (&event.would, event.verdict.as_deref()) {
        // Observed; detected.
        (Some(_), _) | (None, Some("flag")) => (3, 15, false),
        // Modified; delayed.
        (None, Some("hold")) => (4, 14, false),
        // Denied; blocked.
        (None, Some("deny" | "kill")) => (2, 2, true),
        (None, Some(_)) => (1, 1, false),
        (None, None) => return,
    };
    object.insert("action_id".into(), action.into());
    object.insert("disposition_id".into(), disposition.into());
    object.insert("is_alert".into(), judged(event).into());
    object.insert("status_id".into(), json!(if failed { 2 } else { 1 }));
    if let Some(rule) = &event.rule {
        object.insert("policy".into(), json!({ "name": rule }));
    }
}

fn product(host: &Host) -> Value {
    json!({ "name": "guard", "vendor_name": "guard", "version": host.version })
}

fn user(event: &Event) -> Option<Value> {
    event
        .uid
        .map(|uid| json!({ "uid": uid.to_string(), "type_id": if uid == 0 { 2 } else { 1 } }))
}

fn session(event: &Event) -> Value {
    json!({ "uid": event.session.as_deref().unwrap_or("-") })
}

/// `objects/process.json`; of a process that is only known by its record, what the record has.
fn process(event: &Event) -> Value {
    let mut process = Map::new();
    match event.tgid.or(event.pid) {
        Some(pid) => process.insert("pid".into(), pid.into()),
        // It takes one of pid and uid.
        None => process.insert("uid".into(), session(event)["uid"].clone()),
    };
    if let Some(thread) = event.pid {
        process.insert("tid".into(), thread.into());
    }
    let name = event.exe.as_deref().map(base_name);
    if let Some(name) = name.or(event.comm.as_deref()) {
        process.insert("name".into(), name.into());
    }
    if let Some(exe) = &event.exe {
        process.insert("path".into(), exe.as_str().into());
        process.insert(
            "file".into(),
            json!({ "name": base_name(exe), "path": exe, "type_id": 1 }),
        );
    }
    if let Some(line) = command_line(event) {
        process.insert("cmd_line".into(), line.into());
    }
    if let Some(cwd) = text(event, "cwd") {
        process.insert("working_directory".into(), cwd.into());
    }
    if let Some(parent) = event.ppid {
        process.insert("parent_process".into(), json!({ "pid": parent }));
    }
    if let Some(user) = user(event) {
        process.insert("user".into(), user);
    }
    process.into()
}

/// Who did it: the process, its user, the session.
fn actor(event: &Event) -> Value {
    let mut actor = Map::new();
    actor.insert("process".into(), process(event));
    actor.insert("session".into(), session(event));
    if let Some(user) = user(event) {
        actor.insert("user".into(), user);
    }
    if let Some(agent) = &event.agent {
        actor.insert("app_name".into(), agent.as_str().into());
    }
    actor.into()
}

/// `objects/file.json`: a name and a type are required.
fn file(event: &Event) -> Value {
    let inode = text(event, "ino").map(|ino| {
        let dev = text(event, "dev").unwrap_or_default();
        format!("{dev}:{ino}")
    });
    let mut file = Map::new();
    file.insert("type_id".into(), 0.into());
    match text(event, "path") {
        Some(path) => {
            file.insert("name".into(), base_name(&path).into());
            file.insert("path".into(), path.into());
        }
        None => {
            let name = inode.as_deref().unwrap_or("unknown");
            file.insert("name".into(), name.into());
        }
    }
    if let Some(inode) = inode {
        file.insert("uid".into(), inode.into());
    }
    file.into()
}

/// `objects/network_endpoint.json`: one of its names is required.
fn endpoint(event: &Event) -> Value {
    let mut endpoint = Map::new();
    for (ours, theirs) in [("addr", "ip"), ("host", "hostname"), ("path", "name")] {
        if let Some(value) = text(event, ours).filter(|value| !value.is_empty()) {
            endpoint.insert(theirs.into(), value.into());
        }
    }
    if endpoint.is_empty() {
        endpoint.insert("name".into(), "unknown".into());
    }
    if let Some(port) = number(event, "port") {
        endpoint.insert("port".into(), port.into());
    }
    endpoint.into()
}

fn connection(event: &Event) -> Value {
    match text(event, "family").as_deref() {
        Some("inet") => json!({ "direction_id": 2, "protocol_ver_id": 4 }),
        Some("inet6") => json!({ "direction_id": 2, "protocol_ver_id": 6 }),
        Some("unix") => json!({ "direction_id": 4 }),
        _ => json!({ "direction_id": 0 }),
    }
}

/// `objects/http_request.json`, with a URL that has a path.
fn request(event: &Event, method: &str) -> Value {
    let mut url = Map::new();
    if let Some(host) = text(event, "host") {
        url.insert("hostname".into(), host.into());
    }
    let path = text(event, "path").unwrap_or_else(|| "/".into());
    url.insert("path".into(), path.into());
    let mut request = Map::new();
    request.insert("url".into(), url.into());
    // The schema has a closed list of methods.
    if METHODS.contains(&method) {
        request.insert("http_method".into(), method.into());
    }
    request.into()
}

/// `objects/http_request.json`, in the order of `activity_id` of `events/network/http_activity.json`.
const METHODS: [&str; 9] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT", "TRACE", "PATCH",
];

fn http_activity(method: &str) -> (u32, &'static str) {
    const NAMES: [&str; 9] = [
        "Connect", "Delete", "Get", "Head", "Options", "Post", "Put", "Trace", "Patch",
    ];
    match METHODS.iter().position(|known| *known == method) {
        Some(at) => (at as u32 + 1, NAMES[at]),
        None => (99, "Other"),
    }
}

/// Guarded calls: those about processes, about guard's files, and about the kernel.
fn call(event: &Event, more: &mut Map<String, Value>) -> (Class, u32, &'static str) {
    let call = text(event, "call").unwrap_or_default();
    match call.as_str() {
        "guard-files" => {
            more.insert("file".into(), file(event));
            match text(event, "what").as_deref() {
                Some("write") => (FILE, 3, "Update"),
                Some("remove") => (FILE, 4, "Delete"),
                Some("rename") => (FILE, 5, "Rename"),
                Some("create") => (FILE, 1, "Create"),
                Some("mount") => (FILE, 12, "Mount"),
                Some("unmount") => (FILE, 13, "Unmount"),
                _ => (FILE, 99, "Other"),
            }
        }
        "bpf" | "io-uring" | "other-socket" => {
            // `objects/kernel.json`: a name, and 2 for a system call.
            more.insert("kernel".into(), json!({ "name": call, "type_id": 2 }));
            (KERNEL, 4, "Invoke")
        }
        _ => {
            let target = match number(event, "target") {
                Some(pid) => json!({ "pid": pid }),
                None => json!({ "uid": "every process" }),
            };
            more.insert("process".into(), target);
            if call.starts_with("ptrace") {
                (PROCESS, 3, "Open")
            } else {
                (PROCESS, 99, "Signal")
            }
        }
    }
}

fn hold_id(event: &Event) -> String {
    text(event, "id").unwrap_or_else(|| format!("event-{}", event.seq))
}

/// `finding_info` and the rest of a Detection Finding.
fn finding(event: &Event, uid: &str, more: &mut Map<String, Value>) {
    let rule = event.rule.as_deref().unwrap_or("no rule");
    more.insert(
        "finding_info".into(),
        json!({
            "uid": uid,
            "title": rule,
            "desc": summary(event),
            "types": event.labels,
            "analytic": { "name": rule, "type_id": 1, "type": "Rule" },
        }),
    );
    // `objects/evidences.json`: one artifact at least.
    more.insert(
        "evidences".into(),
        json!([{ "actor": actor(event), "data": event.object }]),
    );
}

/// The finding of a call that a rule has judged.
fn finding_of_call(event: &Event, host: &Host) -> Value {
    let mut object = base(event, host, FINDING, 1, "Create", true);
    security_control(event, &mut object);
    finding(event, &format!("event-{}", event.seq), &mut object);
    if let Some(info) = object
        .get_mut("finding_info")
        .and_then(Value::as_object_mut)
    {
        info.insert(
            "related_events".into(),
            [event.seq]
                .iter()
                .chain(&event.evidence)
                .map(|seq| json!({ "uid": seq.to_string() }))
                .collect(),
        );
    }
    // Of a finding it is how far people have come with it.
    object.insert("status_id".into(), 1.into());
    object.into()
}

#[cfg(test)]
#[path = "ocsf_tests.rs"]
mod tests;
