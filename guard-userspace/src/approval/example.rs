//! A hold for tests.

use std::collections::BTreeMap;

use serde_json::json;

use crate::{
    event::{Event, Kind},
    wire::HoldInfo,
};

/// A connect after a credential.
pub(crate) fn a_hold() -> HoldInfo {
    let mut open = Event::new(Kind::Open);
    open.time = "2026-11-21T20:39:00.000000Z".into();
    open.argv = Some(vec!["cat".into(), "other project/.env".into()]);
    open.object = Some(json!({"path": "/home/a/other project/.env"}));
    open.labels = vec!["credential".into()];
    let mut connect = Event::new(Kind::Connect);
    connect.time = "2026-11-21T20:40:00.000000Z".into();
    connect.argv = Some(vec!["curl".into(), "https://backboard.railway.com".into()]);
    connect.object = Some(json!({"family": "inet", "addr": "127.0.0.1", "port": 18443}));
    connect.labels = vec!["infra".into()];
    HoldInfo {
        id: "h-7".into(),
        session: "s-3".into(),
        agent: "claude-code".into(),
        rule: "credential-then-infra".into(),
        when: vec!["credential".into(), "infra".into()],
        pid: 431,
        uid: 0,
        exe: Some("/usr/bin/curl".into()),
        argv: Some(vec!["curl".into(), "https://backboard.railway.com".into()]),
        cwd: Some("/home/a/project".into()),
        user: Some("root".into()),
        login_uid: None,
        environment: vec!["AWS_PROFILE=production".into()],
        target: "connect 127.0.0.1:18443".into(),
        since: "2026-11-21T20:40:00.000000Z".into(),
        age_s: 12,
        expires_in_s: 108,
        on_timeout: "kill".into(),
        intent: Some("fix the staging login".into()),
        evidence: vec![open, connect],
        group: "hg-7".into(),
        like: 1,
        token: None,
        told: BTreeMap::new(),
    }
}
