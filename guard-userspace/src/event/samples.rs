//! An event of every kind, as guardd writes them, for the tests of the mappings.

use serde_json::{Value, json};

use super::{Event, Kind};

pub(super) fn event(kind: Kind, object: Value) -> Event {
    let mut event = Event::new(kind);
    event.seq = 17;
    event.time = "2026-11-21T20:40:22.123456Z".into();
    event.session = Some("s-3".into());
    event.agent = Some("claude-code".into());
    event.object = Some(object);
    event
}

/// One that a process did.
pub(super) fn act(kind: Kind, object: Value, verdict: &str) -> Event {
    let mut event = event(kind, object);
    (event.pid, event.tgid, event.ppid) = (Some(413), Some(412), Some(400));
    event.uid = Some(1000);
    event.exe = Some("/usr/bin/curl".into());
    event.comm = Some("curl".into());
    event.argv = Some(vec!["curl".into(), "-d".into(), "a b".into()]);
    event.start = Some(12345);
    event.verdict = Some(verdict.into());
    event.latency_ns = Some(5200);
    if verdict != "allow" {
        event.labels = vec!["credential".into(), "infra".into()];
        event.rule = Some("credential-then-infra".into());
    }
    event
}

pub(super) fn all() -> Vec<Event> {
    let mut all = vec![
        act(
            Kind::Exec,
            json!({ "argv": ["ls", "-l"], "cwd": "/w" }),
            "allow",
        ),
        act(
            Kind::Exec,
            json!({ "argv": ["terraform", "destroy"] }),
            "kill",
        ),
        act(
            Kind::Open,
            json!({ "path": "/home/a/.env", "dev": "8:1", "ino": 7, "flags": "O_RDONLY" }),
            "flag",
        ),
        act(
            Kind::Open,
            json!({ "dev": "8:1", "ino": 7, "flags": "O_RDONLY" }),
            "allow",
        ),
        act(
            Kind::Connect,
            json!({ "family": "inet", "addr": "203.0.113.9", "port": 443, "host": "api.example", "host_from": "sni" }),
            "hold",
        ),
        act(
            Kind::Connect,
            json!({ "family": "inet6", "addr": "2001:db8::9", "port": 443 }),
            "allow",
        ),
        act(
            Kind::Connect,
            json!({ "family": "unix", "path": "/run/docker.sock", "dev": "0:5", "ino": 9 }),
            "deny",
        ),
        act(Kind::Connect, json!({}), "deny"),
        act(
            Kind::Request,
            json!({ "method": "POST", "host": "api.example", "path": "/graphql", "graphql": { "type": "mutation", "field": "volumeDelete" }, "via": "openssl" }),
            "deny",
        ),
        act(
            Kind::Request,
            json!({ "method": "PROPFIND", "host": "api.example" }),
            "allow",
        ),
        act(Kind::Request, json!({}), "allow"),
        act(
            Kind::Signal,
            json!({ "call": "signal-guard", "target": 99, "signal": 9 }),
            "deny",
        ),
        act(
            Kind::Signal,
            json!({ "call": "signal-outside", "signal": 15 }),
            "flag",
        ),
        event(
            Kind::Hold,
            json!({ "id": "h-1", "what": "held", "target": "connect api.example:443", "until": "2026-11-21T20:42:22Z", "on_timeout": "kill" }),
        ),
        event(
            Kind::Hold,
            json!({ "id": "h-1", "what": "ended", "why": "the process has exited" }),
        ),
        event(Kind::Hold, json!({})),
        event(
            Kind::Session,
            json!({ "what": "began", "origin": "run", "root_pid": 400 }),
        ),
        event(
            Kind::Session,
            json!({ "what": "paused", "by_uid": 0, "by_pid": 1 }),
        ),
        event(Kind::Session, json!({ "what": "ended" })),
        event(Kind::Intent, json!({ "text": "tidy up", "by_uid": 1000 })),
        event(
            Kind::Policy,
            json!({ "what": "loaded", "policy": "/etc/guard/policy.toml", "rules": 3 }),
        ),
        event(
            Kind::Lost,
            json!({ "count": 3, "class": "journal", "why": "disk full" }),
        ),
    ];
    for call in [
        "ptrace-outside",
        "bpf",
        "io-uring",
        "other-socket",
        "never heard of",
    ] {
        all.push(act(
            Kind::Call,
            json!({ "call": call, "target": 4 }),
            "deny",
        ));
    }
    for what in [
        "write", "remove", "rename", "create", "unmount", "mount", "other",
    ] {
        let object = json!({ "call": "guard-files", "what": what, "path": "/var/lib/guard/head" });
        all.push(act(Kind::Call, object, "deny"));
    }
    for (answer, verdict) in [
        ("approved", "allow"),
        ("denied", "deny"),
        ("timed out", "kill"),
    ] {
        let object = json!({ "id": "h-1", "answer": answer, "target": "connect x", "by_uid": 0, "by_pid": 1, "waited_ms": 10 });
        let mut answer = event(Kind::Answer, object);
        answer.verdict = Some(verdict.into());
        answer.rule = Some("credential-then-infra".into());
        all.push(answer);
    }
    for what in ["granted", "revoked"] {
        let mut grant = event(
            Kind::Grant,
            json!({ "id": "g-1", "what": what, "by_uid": 0 }),
        );
        grant.labels = vec!["infra".into()];
        all.push(grant);
    }
    let guards = [
        "started",
        "stopped",
        "makes way",
        "recovered",
        "checkpoint",
        "retention",
        "journal altered",
    ];
    for what in guards {
        let mut guard = event(Kind::Guard, json!({ "what": what }));
        (guard.session, guard.agent) = (None, None);
        all.push(guard);
    }
    let mut would = act(Kind::Open, json!({ "path": "/home/a/.env" }), "allow");
    would.would = Some("kill".into());
    would.rule = Some("r".into());
    all.push(would);
    // As little as there can be of each.
    all.extend(Kind::ALL.map(Event::new));
    all
}

#[test]
fn there_is_a_sample_of_every_kind() {
    let all = all();
    for kind in Kind::ALL {
        assert!(all.iter().any(|event| event.kind == kind), "{kind:?}");
    }
}
