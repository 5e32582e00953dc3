//! guardctl against a listener that speaks the protocol.

use std::{
    ffi::OsString,
    io::{self, BufRead as _, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use serde_json::{Value, json};

use super::{
    DoctorCheck, DoctorReport, Lacking, Offline, ScanReport, TestCase, TestEvent, TestReport,
    VerifyReport, run_line, screen::Screen,
};
use crate::{
    event::{Event, Kind},
    replay::{Difference, Replayed, Said},
    secrets::TreeSummary,
    wire::{Code, Failure, GrantInfo, Operation, Reply, Request, Terms},
};

/// A listener that answers one request with what it is given.
pub struct StandIn {
    dir: tempfile::TempDir,
    requests: mpsc::Receiver<Request>,
}

impl StandIn {
    /// Sends the lines to whoever asks, and hangs up.
    pub fn saying(lines: Vec<String>) -> Self {
        Self::behaving(move |mut stream, _| {
            for line in &lines {
                if writeln!(stream, "{line}").is_err() {
                    return;
                }
            }
        })
    }

    /// Sends the replies to whoever asks, and hangs up.
    pub fn replying(replies: &[Reply]) -> Self {
        Self::saying(
            replies
                .iter()
                .map(|reply| serde_json::to_string(reply).unwrap())
                .collect(),
        )
    }

    /// Does as it likes with one connection and its request.
    pub fn behaving(behave: impl FnOnce(UnixStream, &Request) + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("guard.sock")).unwrap();
        let (sender, requests) = mpsc::channel();
        thread::spawn(move || {
            let Ok((stream, _)) = listener.accept() else {
                return;
            };
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let request: Request = serde_json::from_str(&line).unwrap();
            behave(stream, &request);
            let _ = sender.send(request);
        });
        Self { dir, requests }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("guard.sock")
    }

    /// What it was asked.
    pub fn request(self) -> Request {
        self.requests.recv().unwrap()
    }
}

const OFFLINE: Offline = Offline {
    policy_check: |path| match path.to_str() {
        Some("good.toml") => Ok("good.toml: 3 rules".into()),
        _ => Err("bad.toml:2:1: unknown key\n  2 | mod = 1\n    | ^^^ expected `mode`".into()),
    },
    policy_test: |path, policy| match path.to_str() {
        Some("bad.toml") => Err("bad.toml:1:1: unknown key".into()),
        _ => Ok(tested(policy.is_some())),
    },
    schema: || "{}\n".into(),
    scan: |args| match args.all {
        true => Err("scan: no random numbers".into()),
        false => Ok(ScanReport {
            findings: Vec::new(),
            in_fixtures: 2,
            unreadable: Vec::new(),
            summary: TreeSummary {
                files: 3,
                ..TreeSummary::default()
            },
            key: "run",
            max_size: args.max_size as u64,
        }),
    },
    init: |args| match args.yes {
        true => Ok("written".into()),
        false => Err("init: no terminal to ask on".into()),
    },
    doctor: || DoctorReport {
        checks: vec![DoctorCheck {
            name: "btf".into(),
            ok: false,
            required: true,
            detail: "none".into(),
            mend: None,
        }],
        summary: "guard cannot run here".into(),
    },
    verify: |dir, against| {
        if dir == Path::new("/var/lib/guard") && against.expect.is_empty() {
            Ok(VerifyReport {
                message: "5 events, unbroken".into(),
                events: 5,
                segments: 1,
                first_seq: 1,
                removed: None,
                last_seq: 5,
                head: "00".repeat(32),
                checkpoints: 1,
                signed_seq: 5,
                key: None,
                key_unknown: true,
                partial_bytes: 0,
            })
        } else {
            Err("record 3 was changed".into())
        }
    },
    suggest: |events, _| {
        let policy = crate::policy::Policy::built_in();
        let mut suggest = crate::suggest::Suggest::new(&policy);
        events.flatten().for_each(|event| suggest.add(&event));
        Ok(suggest.finish())
    },
    replay: |events, policy, session| {
        if policy == Path::new("bad.toml") {
            return Err("bad.toml:1:1: unknown key".into());
        }
        let mut found = Replayed {
            judged: events.count() as u64,
            sessions: 1,
            unreadable: 1,
            ..Replayed::default()
        };
        if session.is_none() {
            let said = |verdict: &str, rule: Option<&str>| Said {
                verdict: verdict.into(),
                rule: rule.map(str::to_owned),
            };
            found.differences.push(Difference {
                seq: 7,
                time: "2026-11-26T10:11:12.000000Z".into(),
                session: "s-1".into(),
                what: "open /x/\u{1b}[2J.env".into(),
                was: said("flag", Some("told")),
                becomes: said("allow", None),
            });
        }
        Ok(found)
    },
    journal: |dir| {
        if dir != Path::new("/var/lib/guard") {
            return Err("journal not readable".into());
        }
        let mut event = Event::new(Kind::Session);
        event.session = Some("s-1".into());
        event.agent = Some("<b>".into());
        event.object = Some(json!({ "what": "began", "origin": "run" }));
        Ok(Box::new([Ok(event), Err("line 2".into())].into_iter()))
    },
};

#[test]
fn a_journal_is_replayed_without_a_daemon() {
    let (status, out, err) = guardctl(&["replay", "--policy", "new.toml"]);
    assert_eq!((status, err.as_str()), (1, ""));
    assert_eq!(
        out,
        "s-1  2026-11-26 10:11:12  open /x/\\x1b[2J.env\n     flag by told -> allow\n\
         2 events of 1 session judged by new.toml: 1 differs\n\
         1 line of the journal could not be read\n"
    );
    let (status, out, _) = guardctl(&["replay", "--policy", "new.toml", "--session", "s-1"]);
    assert_eq!(status, 0);
    assert!(
        out.starts_with("2 events of 1 session judged by new.toml: none differs\n"),
        "{out}"
    );
    let (status, out, _) = guardctl(&["--json", "replay", "--policy", "new.toml"]);
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status, 1);
    assert_eq!(
        found["differences"][0]["becomes"]["verdict"], "allow",
        "{found}"
    );
    let (status, _, err) = guardctl(&["replay", "--policy", "bad.toml"]);
    assert_eq!(status, 2, "{err}");
    let (status, _, err) = guardctl(&["replay", "/nowhere", "--policy", "new.toml"]);
    assert_eq!(
        (status, err.contains("journal not readable")),
        (1, true),
        "{err}"
    );
}

/// One case that passes, and unless another policy is asked for, one that fails.
fn tested(other: bool) -> TestReport {
    let event = |wrong: &[&str]| TestEvent {
        line: 4,
        what: "connect \u{1b}[2Japi:443".into(),
        labels: vec!["infra".into()],
        verdict: "allow".into(),
        would: None,
        rule: None,
        lacking: vec![Lacking {
            rule: "then-infra".into(),
            label: "credential".into(),
        }],
        wrong: wrong.iter().map(|wrong| (*wrong).to_owned()).collect(),
    };
    let case = |name: &str, wrong: &[&str]| TestCase {
        name: name.into(),
        passed: wrong.is_empty(),
        events: vec![event(wrong)],
    };
    let mut cases = vec![case("good", &[])];
    if !other {
        cases.push(case("worse", &["verdict: expected hold, got allow"]));
    }
    TestReport {
        passed: 1,
        failed: cases.len() - 1,
        cases,
    }
}

#[test]
fn a_policy_is_tested_without_a_daemon() {
    let (status, out, err) = guardctl(&["policy", "test", "cases.toml"]);
    assert_eq!((status, err.as_str()), (1, ""));
    assert_eq!(
        out,
        "ok    good\nFAIL  worse\n      cases.toml:4: connect \\x1b[2Japi:443\n        \
         verdict: expected hold, got allow\n        it carries infra\n        \
         rule \"then-infra\" does not fire: before it, credential was not touched in time\n\
         2 cases: 1 passed, 1 failed\n"
    );
    let (status, out, _) = guardctl(&["policy", "test", "--policy", "p.toml", "cases.toml"]);
    assert_eq!(
        (status, out.as_str()),
        (0, "ok    good\n1 case: 1 passed, 0 failed\n")
    );
    let (status, out, _) = guardctl(&["--json", "policy", "test", "cases.toml"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(status, 1);
    assert_eq!(report["failed"], 1, "{report}");
    assert_eq!(
        report["cases"][1]["events"][0]["lacking"][0]["label"],
        "credential"
    );
    let (status, out, err) = guardctl(&["policy", "test", "bad.toml"]);
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(err.contains("bad.toml:1:1: unknown key"), "{err}");
}

/// Status, stdout and stderr of a call.
fn guardctl(args: &[&str]) -> (u8, String, String) {
    let argv: Vec<OsString> = std::iter::once("guardctl")
        .chain(args.iter().copied())
        .map(OsString::from)
        .collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = run_line(&argv, &OFFLINE, Screen::default(), &mut out, &mut err);
    (
        status,
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

fn guardctl_at(daemon: &StandIn, args: &[&str]) -> (u8, String, String) {
    let socket = daemon.socket();
    guardctl(&[&["--socket", socket.to_str().unwrap()], args].concat())
}

fn done() -> Reply {
    Reply::Done {
        message: "done so".into(),
    }
}

fn an_event(seq: u64) -> Reply {
    let mut event = Event::new(Kind::Exec);
    event.seq = seq;
    event.time = "2026-11-21T20:40:22.123456Z".into();
    event.session = Some("s-3".into());
    event.argv = Some(vec!["\u{9b}2J".into()]);
    Reply::Event(Box::new(event))
}

#[test]
fn commands_become_the_requests_of_the_protocol() {
    let s = || "s-1".to_owned();
    let cases: [(&[&str], Request); 17] = [
        (
            &["approve", "h-1", "--for", "90s"],
            Request::Approve {
                id: "h-1".into(),
                for_ms: Some(90_000),
            },
        ),
        (
            &["deny", "h-1", "--reason", "no"],
            Request::Deny {
                id: "h-1".into(),
                reason: Some("no".into()),
            },
        ),
        (
            &["approve", "h-1", "--all-like", "h-4", "--for", "1m"],
            Request::AnswerAll {
                id: "h-1".into(),
                upto: "h-4".into(),
                approve: true,
                for_ms: Some(60_000),
                reason: None,
            },
        ),
        (
            &["deny", "h-1", "--all-like", "h-4", "--reason", "no"],
            Request::AnswerAll {
                id: "h-1".into(),
                upto: "h-4".into(),
                approve: false,
                for_ms: None,
                reason: Some("no".into()),
            },
        ),
        (&["pause", "s-1"], Request::Pause { session: s() }),
        (&["resume", "s-1"], Request::Resume { session: s() }),
        (&["kill", "s-1"], Request::Kill { session: s() }),
        (
            &["adopt", "77", "--agent", "a"],
            Request::Adopt {
                pid: 77,
                agent: Some("a".into()),
                intent: None,
                persona: None,
                run: false,
            },
        ),
        (
            &[
                "grant", "s-1", "--label", "infra", "--for", "1h", "--reason", "r",
            ],
            Request::Grant {
                session: s(),
                terms: Terms {
                    label: "infra".into(),
                    for_ms: Some(3_600_000),
                    reason: Some("r".into()),
                    ..Terms::default()
                },
            },
        ),
        (
            &[
                "request",
                "--label",
                "credential",
                "--path",
                "/x",
                "--operation",
                "open,exec",
                "--uses",
                "3",
            ],
            Request::Ask {
                terms: Terms {
                    label: "credential".into(),
                    path: Some("/x".into()),
                    operations: vec![Operation::Open, Operation::Exec],
                    uses: Some(3),
                    ..Terms::default()
                },
            },
        ),
        (
            &["revoke", "g-1"],
            Request::Revoke {
                grant: "g-1".into(),
            },
        ),
        (
            &["intent", "s-1", "a text"],
            Request::Intent {
                session: s(),
                text: Some("a text".into()),
            },
        ),
        (
            &["intent", "s-1", "--clear"],
            Request::Intent {
                session: s(),
                text: None,
            },
        ),
        (&["sessions", "--all"], Request::Sessions { all: true }),
        (&["policy", "reload"], Request::PolicyReload),
        (
            &["policy", "explain", "s-1"],
            Request::PolicyExplain { session: s() },
        ),
        (
            &["events", "--session", "s-1", "--kind", "open,exec"],
            Request::Events {
                follow: false,
                session: Some(s()),
                kinds: vec![Kind::Open, Kind::Exec],
                after: 0,
            },
        ),
    ];
    for (args, expected) in cases {
        let daemon = StandIn::replying(&[done()]);
        let (status, _, err) = guardctl_at(&daemon, args);
        assert_eq!((status, err.as_str()), (0, ""), "{args:?}");
        assert_eq!(daemon.request(), expected, "{args:?}");
    }
}

#[test]
fn nobody_on_the_socket_is_3_and_says_what_to_do() {
    let (status, out, err) = guardctl(&["--socket", "/nonexistent/guard.sock", "status"]);
    assert_eq!((status, out.as_str()), (3, ""));
    assert_eq!(
        err,
        "guardctl: cannot reach guardd at /nonexistent/guard.sock: No such file or directory: \
         start it with 'systemctl start guard' or pass --socket\n"
    );
}

#[test]
fn each_kind_of_refusal_has_its_status_and_its_json() {
    let codes = [
        (Code::NotFound, 1, "not-found"),
        (Code::Failed, 1, "failed"),
        (Code::Invalid, 2, "invalid"),
        (Code::Unreachable, 3, "unreachable"),
        (Code::Forbidden, 4, "forbidden"),
    ];
    for (code, expected, name) in codes {
        let refusal = Reply::Error(Failure {
            code,
            message: "s-9: no such\x1b session: see 'guardctl sessions'".into(),
        });
        let (status, out, err) = guardctl_at(
            &StandIn::replying(std::slice::from_ref(&refusal)),
            &["show", "s-9"],
        );
        assert_eq!((status, out.as_str()), (expected, ""));
        assert_eq!(
            err,
            "guardctl: s-9: no such\\x1b session: see 'guardctl sessions'\n"
        );

        let (status, out, err) =
            guardctl_at(&StandIn::replying(&[refusal]), &["--json", "show", "s-9"]);
        assert_eq!((status, err.as_str()), (expected, ""));
        let error: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(error["error"]["code"], name);
        assert_eq!(
            error["error"]["message"],
            "s-9: no such\x1b session: see 'guardctl sessions'"
        );
    }
}

#[test]
fn a_usage_error_is_2_and_json_where_json_was_asked_for() {
    let (status, out, err) = guardctl(&["show"]);
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(
        err.starts_with("guardctl: ") && err.ends_with('\n') && err.lines().count() == 1,
        "{err}"
    );

    let (status, out, err) = guardctl(&["show", "--json"]);
    assert_eq!((status, err.as_str()), (2, ""));
    let error: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(error["error"]["code"], "invalid");
}

#[test]
fn help_and_version_are_no_errors() {
    for args in [["--help"], ["--version"]] {
        let (status, out, err) = guardctl(&args);
        assert_eq!((status, err.as_str()), (0, ""));
        assert!(out.contains("guardctl"), "{out}");
    }
}

#[test]
fn json_is_the_reply_without_its_tag_in_its_own_order() {
    let grant = GrantInfo {
        id: "g-1".into(),
        session: "s-1".into(),
        label: "infra".into(),
        object: None,
        operations: Vec::new(),
        uses: None,
        since: "2026-11-21T20:40:22.123456Z".into(),
        expires_in_s: 60,
        state: "active".into(),
        reason: None,
        by_uid: 0,
    };
    let (_, out, _) = guardctl_at(
        &StandIn::replying(&[Reply::Granted { grant }]),
        &["--json", "grant", "s-1", "--label", "infra"],
    );
    assert!(
        out.starts_with(r#"{"grant":{"id":"g-1","session":"s-1","label":"infra","#),
        "{out}"
    );
    let (_, out, _) = guardctl_at(
        &StandIn::replying(&[Reply::Pending {
            holds: vec![],
            left_out: 0,
            asked: vec![],
        }]),
        &["--json", "pending"],
    );
    assert_eq!(out, "{\"holds\":[]}\n");
    let (_, out, _) = guardctl_at(
        &StandIn::replying(&[Reply::Pending {
            holds: vec![],
            left_out: 3,
            asked: vec![],
        }]),
        &["--json", "pending"],
    );
    assert_eq!(out, "{\"holds\":[],\"left_out\":3}\n");
    let (_, out, _) = guardctl_at(&StandIn::replying(&[done()]), &["--json", "kill", "s-1"]);
    assert_eq!(out, "{\"message\":\"done so\"}\n");
}

#[test]
fn events_are_one_line_each_until_done() {
    let replies = [an_event(1), an_event(2), done()];
    let (status, out, err) = guardctl_at(&StandIn::replying(&replies), &["events", "--json"]);
    assert_eq!((status, err.as_str()), (0, ""));
    let seqs: Vec<Value> = out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].clone())
        .collect();
    assert_eq!(seqs, [json!(1), json!(2)]);
    assert!(out.starts_with(r#"{"v":1,"seq":1,"time":"#), "{out}");
    assert!(
        !out.contains('\u{9b}') && out.contains(r"\u009b2J"),
        "{out}"
    );

    let (_, out, _) = guardctl_at(&StandIn::replying(&replies), &["events"]);
    assert_eq!(out.lines().count(), 2);
    assert!(!out.contains('\u{9b}'), "{out:?}");
}

#[test]
fn a_stream_that_breaks_off_is_3_after_what_came() {
    let (status, out, err) =
        guardctl_at(&StandIn::replying(&[an_event(1)]), &["events", "--follow"]);
    assert_eq!((status, out.lines().count()), (3, 1));
    assert!(err.contains("it closed the connection"), "{err}");
}

#[test]
fn what_is_not_the_protocol_is_an_error_and_no_panic() {
    let long = format!(
        "{{\"reply\":\"done\",\"message\":\"{}\"}}",
        "x".repeat(crate::wire::MAX_LINE)
    );
    for line in ["", "{", "[]", "\0", r#"{"reply":"novel"}"#, &long] {
        let (status, _, err) = guardctl_at(&StandIn::saying(vec![line.into()]), &["status"]);
        assert_eq!(status, 1, "{err}");
        assert!(err.starts_with("guardctl: guardd at "), "{err}");
        assert!(err.len() < 1000, "{} bytes", err.len());
    }
    let (status, _, err) = guardctl_at(&StandIn::saying(vec![]), &["status"]);
    assert_eq!(status, 3, "{err}");
}

#[test]
fn offline_commands_have_their_statuses() {
    assert_eq!(
        guardctl(&["policy", "check", "good.toml"]),
        (0, "good.toml: 3 rules\n".into(), String::new())
    );
    let (status, out, err) = guardctl(&["policy", "check", "bad.toml"]);
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(
        err.starts_with("guardctl: bad.toml:2:1: unknown key\n  2 | mod = 1\n"),
        "{err}"
    );
    let (status, out, _) = guardctl(&["--json", "policy", "check", "bad.toml"]);
    let error: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &error["error"]["code"]), (2, &json!("invalid")));

    assert_eq!(guardctl(&["policy", "schema"]).1, "{}\n");
    assert_eq!(guardctl(&["init", "--yes", "--mode", "observe"]).0, 0);
    assert_eq!(guardctl(&["init"]).0, 1);
    assert_eq!(guardctl(&["init", "--mode", "off"]).0, 2);
    assert_eq!(guardctl(&["verify"]).0, 0);
    assert_eq!(guardctl(&["verify", "--state-dir", "/elsewhere"]).0, 1);
    let hash = "0f".repeat(32);
    assert_eq!(guardctl(&["verify", "--expect", &format!("3:{hash}")]).0, 1);
    for wrong in [["--expect", "3"], ["--expect", "3:0f"], ["--key", "0f"]] {
        let (status, _, err) = guardctl(&["verify", wrong[0], wrong[1]]);
        assert_eq!((status, err.lines().count()), (2, 1), "{err}");
    }
    let (_, out, _) = guardctl(&["verify", "--json"]);
    let report: VerifyReport = serde_json::from_str(&out).unwrap();
    assert_eq!((report.events, report.signed_seq), (5, 5));
    let (status, out, _) = guardctl(&["doctor", "--json"]);
    let report: DoctorReport = serde_json::from_str(&out).unwrap();
    assert_eq!((status, report.checks.len()), (1, 1));
}

#[test]
fn a_report_is_of_a_state_directory_or_of_what_guardd_tells() {
    let of = |more: &[&str]| {
        guardctl(&[&["report", "s-1", "--state-dir", "/var/lib/guard"], more].concat())
    };
    let (status, out, _) = of(&[]);
    assert_eq!(status, 0);
    assert!(out.starts_with("# Session s-1: `<b>`\n"), "{out}");
    assert!(
        out.contains("1 line of the journal could not be read"),
        "{out}"
    );
    let (_, out, _) = of(&["--format", "html"]);
    assert!(
        out.contains("<code>&lt;b&gt;</code>") && out.starts_with("<!DOCTYPE html>"),
        "{out}"
    );
    for more in [&["--json"][..], &["--format", "json"]] {
        let (_, out, _) = of(more);
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (&report["session"], &report["v"]),
            (&json!("s-1"), &json!(1))
        );
    }
    let (status, _, err) = guardctl(&["report", "s-2", "--state-dir", "/var/lib/guard"]);
    assert_eq!((status, err.lines().count()), (1, 1), "{err}");
    assert_eq!(
        guardctl(&["report", "s-1", "--state-dir", "/elsewhere"]).0,
        1
    );
    assert_eq!(
        guardctl(&["report", "s-1", "--format", "pdf", "--state-dir", "/x"]).0,
        2
    );

    let mut event = Event::new(Kind::Session);
    event.session = Some("s-7".into());
    let stand_in = StandIn::replying(&[
        Reply::Event(Box::new(event)),
        Reply::Done {
            message: String::new(),
        },
    ]);
    let (status, out, _) = guardctl_at(&stand_in, &["report", "s-7"]);
    assert_eq!(status, 0);
    assert!(out.contains("the beginning is not in the journal"), "{out}");
}

#[test]
fn events_come_in_the_shape_that_is_asked_for() {
    let mut event = Event::new(Kind::Open);
    event.seq = 3;
    event.object = Some(json!({ "path": "/a\u{202e}" }));
    event.verdict = Some("deny".into());
    event.rule = Some("r".into());
    let replies = [
        Reply::Event(Box::new(event)),
        Reply::Done {
            message: String::new(),
        },
    ];
    for (format, lines, pointer, expected) in [
        ("jsonl", 1, "/kind", json!("open")),
        ("ocsf", 2, "/class_uid", json!(1001)),
        ("ecs", 1, "/event/category/0", json!("file")),
    ] {
        let (status, out, _) = guardctl_at(
            &StandIn::replying(&replies),
            &["events", "--format", format],
        );
        assert_eq!((status, out.lines().count()), (0, lines), "{out}");
        assert!(!out.contains('\u{202e}'));
        let first: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
        assert_eq!(first.pointer(pointer), Some(&expected), "{out}");
    }
}

#[test]
fn pending_names_the_daemon_that_it_asked() {
    let hold: Value = json!({
        "id": "h-1", "session": "s-1", "agent": "a", "rule": "r", "when": ["x"], "pid": 5, "uid": 0,
        "target": "connect 127.0.0.1:1", "since": "2026-11-21T20:40:00Z", "age_s": 1, "expires_in_s": 5,
        "on_timeout": "deny", "evidence": []
    });
    let daemon = StandIn::saying(vec![
        json!({"reply": "pending", "holds": [hold]}).to_string(),
    ]);
    let (_, out, _) = guardctl_at(&daemon, &["pending"]);
    let approve = format!(
        "guardctl --socket {} approve h-1",
        daemon.socket().display()
    );
    assert!(out.contains(&approve), "{out}");
}

/// A stdout whose reader is gone, or whose disk is full.
struct Closed(io::ErrorKind);

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error_but_a_full_disk_is() {
    for (kind, expected, complains) in [
        (io::ErrorKind::BrokenPipe, 0, false),
        (io::ErrorKind::StorageFull, 1, true),
    ] {
        let daemon = StandIn::replying(&[an_event(1), done()]);
        let argv = [
            "guardctl",
            "--socket",
            daemon.socket().to_str().unwrap(),
            "events",
        ]
        .map(OsString::from);
        let mut err = Vec::new();
        let status = run_line(
            &argv,
            &OFFLINE,
            Screen::default(),
            &mut Closed(kind),
            &mut err,
        );
        assert_eq!(
            (status, !err.is_empty()),
            (expected, complains),
            "{}",
            String::from_utf8_lossy(&err)
        );
    }
}

/// What the tests of `run` execute in a process of their own, for it forks: see `run::tests`.
pub fn as_a_program(args: &[&str]) -> u8 {
    let argv: Vec<OsString> = std::iter::once("guardctl")
        .chain(args.iter().copied())
        .map(OsString::from)
        .collect();
    run_line(
        &argv,
        &OFFLINE,
        Screen::default(),
        &mut io::stdout(),
        &mut io::stderr(),
    )
}
