//! A journal's events under other policies.

use serde_json::json;

use super::*;
use crate::policy::Source;

const POLICY: &str = r#"
version = 1
[[label]]
name = "credential"
files = ["**/.env"]
[[label]]
name = "infra"
hosts = ["api.guard-replay.test"]
addresses = ["203.0.113.0/24"]
[[label]]
name = "delete"
requests = [{ host = "api.guard-replay.test", graphql = "mutation *Delete" }]
[[rule]]
name = "credential-then-infra"
when = ["credential", "infra"]
within = "1m"
then = "hold"
[[rule]]
name = "told"
when = ["infra"]
then = "flag"
[[rule]]
name = "no-deletes"
when = ["delete"]
then = "deny"
"#;

const SECOND: u64 = 1_000_000_000;

fn event(kind: Kind, session: &str, second: u64, object: serde_json::Value) -> Event {
    let mut event = Event::new(kind);
    event.seq = second;
    event.session = Some(session.into());
    event.mono_ns = Some(second * SECOND);
    event.tgid = Some(7);
    event.object = Some(object);
    event
}

fn said(mut event: Event, verdict: &str, rule: &str) -> Event {
    event.verdict = Some(verdict.into());
    event.rule = (!rule.is_empty()).then(|| rule.to_owned());
    event
}

/// What a session did, and what this policy said of it.
fn history() -> Vec<Event> {
    let api = json!({ "addr": "203.0.113.9", "port": 443, "family": "inet" });
    let open = json!({ "path": "/srv/shop/.env", "flags": "O_RDONLY" });
    vec![
        event(Kind::Session, "s-1", 1, json!({ "what": "began" })),
        said(event(Kind::Connect, "s-1", 2, api.clone()), "flag", "told"),
        said(event(Kind::Open, "s-1", 3, open.clone()), "allow", ""),
        said(
            event(Kind::Connect, "s-1", 4, api.clone()),
            "hold",
            "credential-then-infra",
        ),
        said(
            event(Kind::Answer, "s-1", 5, json!({ "answer": "approved" })),
            "allow",
            "credential-then-infra",
        ),
        // The call that was approved, repeated.
        said(
            event(Kind::Connect, "s-1", 6, api.clone()),
            "allow",
            "credential-then-infra",
        ),
        said(
            event(
                Kind::Request,
                "s-1",
                7,
                json!({ "host": "api.guard-replay.test", "method": "POST", "path": "/g",
            "graphql": { "type": "mutation", "field": "volumeDelete" } }),
            ),
            "deny",
            "no-deletes",
        ),
        // One inside it: what it touches counts for both.
        event(
            Kind::Session,
            "s-2",
            8,
            json!({ "what": "began", "parent": "s-1" }),
        ),
        said(event(Kind::Open, "s-2", 70, open), "allow", ""),
        said(
            event(Kind::Connect, "s-1", 80, api.clone()),
            "hold",
            "credential-then-infra",
        ),
        {
            let mut grant = event(
                Kind::Grant,
                "s-1",
                81,
                json!({ "what": "granted", "id": "g-1", "for_s": 600 }),
            );
            grant.labels = vec!["infra".into()];
            grant
        },
        said(event(Kind::Connect, "s-1", 82, api.clone()), "flag", "told"),
        event(
            Kind::Grant,
            "s-1",
            83,
            json!({ "what": "revoked", "id": "g-1" }),
        ),
        said(
            event(Kind::Connect, "s-1", 84, api),
            "hold",
            "credential-then-infra",
        ),
    ]
}

fn replayed(policy: &str, only: Option<&str>) -> Replayed {
    let policy = Policy::parse(policy, Source::BuiltIn).expect("a policy");
    let mut replay = Replay::new(&policy, &Homes::of(["/home/ada"]), only).expect("tables");
    for event in history() {
        replay.add(&event);
    }
    replay.finish()
}

#[test]
fn the_same_policy_says_the_same() {
    let found = replayed(POLICY, None);
    assert_eq!(found.differences, []);
    assert_eq!((found.judged, found.sessions, found.in_part), (9, 2, 1));
    assert_eq!(found, replayed(POLICY, None));
}

#[test]
fn another_says_where_it_differs() {
    let stricter = POLICY.replace(
        "name = \"told\"\nwhen = [\"infra\"]\nthen = \"flag\"",
        "name = \"never\"\nwhen = [\"infra\"]\nthen = \"kill\"",
    );
    let found = replayed(&stricter, None);
    let seqs: Vec<u64> = found
        .differences
        .iter()
        .map(|difference| difference.seq)
        .collect();
    // At 82 the lease, which was for the label, takes the kill away; before, there was only a flag.
    assert_eq!(seqs, [2, 4, 6, 80, 82, 84]);
    let first = &found.differences[0];
    assert_eq!(first.what, "connect 203.0.113.9:443");
    assert_eq!(
        (first.was.verdict.as_str(), first.becomes.verdict.as_str()),
        ("flag", "kill")
    );
    assert_eq!(first.becomes.rule.as_deref(), Some("never"));
    let milder = POLICY
        .replace("within = \"1m\"", "within = \"1s\"")
        .replace("*Delete", "*Create");
    let found = replayed(&milder, None);
    let seqs: Vec<u64> = found
        .differences
        .iter()
        .map(|difference| difference.seq)
        .collect();
    // The open that the one at 4 rests on is a second before it. At 6, which was approved, nothing asks any more.
    assert_eq!(seqs, [6, 7, 80, 84]);
    assert_eq!(replayed(&stricter, Some("s-2")).differences, []);
    assert_eq!(replayed(&stricter, Some("s-2")).judged, 1);
}
