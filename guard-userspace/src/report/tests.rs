//! Reports of made-up journals: what they tell, in which order, and that nothing a process chose acts on its reader.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::event::{Event, Kind};

struct Story {
    events: Vec<Event>,
}

impl Story {
    fn new() -> Self {
        let mut story = Self { events: Vec::new() };
        story.of(
            "s-1",
            Kind::Session,
            json!({ "what": "began", "origin": "run", "root_pid": 10 }),
        );
        story
    }

    fn of(&mut self, session: &str, kind: Kind, object: Value) -> &mut Event {
        let mut event = Event::new(kind);
        event.seq = self.events.len() as u64 + 1;
        event.time = format!("2026-11-21T20:40:{:02}.000000Z", event.seq);
        event.session = (!session.is_empty()).then(|| session.to_owned());
        event.agent = event.session.as_ref().map(|_| "claude-code".to_owned());
        event.object = Some(object);
        self.events.push(event);
        self.events.last_mut().unwrap()
    }

    fn call(&mut self, kind: Kind, pid: u32, argv: &[&str], object: Value) -> &mut Event {
        let event = self.of("s-1", kind, object);
        (event.pid, event.tgid, event.ppid) = (Some(pid), Some(pid), Some(pid - 1));
        event.start = Some(u64::from(pid) * 100);
        event.uid = Some(1000);
        event.argv = Some(argv.iter().map(|arg| (*arg).to_owned()).collect());
        event.verdict = Some("allow".into());
        event
    }

    fn report(&self, session: &str) -> Option<Report> {
        let mut collector = Collector::new(session);
        self.events.iter().for_each(|event| collector.add(event));
        collector.finish()
    }
}

/// A key is read, then a server is called; the hold is denied.
fn incident() -> Story {
    let mut story = Story::new();
    story.call(
        Kind::Exec,
        10,
        &["agent"],
        json!({ "argv": ["agent"], "cwd": "/w" }),
    );
    story.of(
        "s-1",
        Kind::Intent,
        json!({ "text": "tidy up", "by_uid": 1000 }),
    );
    let open = story.call(
        Kind::Open,
        11,
        &["cat", ".env"],
        json!({ "path": "/w/.env" }),
    );
    open.labels = vec!["credential".into()];
    let open = open.seq;
    let connect = story.call(
        Kind::Connect,
        12,
        &["curl", "x"],
        json!({ "family": "inet", "addr": "203.0.113.9", "port": 443, "host": "infra.example" }),
    );
    connect.labels = vec!["infra".into()];
    connect.verdict = Some("hold".into());
    connect.rule = Some("credential-then-infra".into());
    connect.evidence = vec![open];
    let held = story.of(
        "s-1",
        Kind::Hold,
        json!({ "id": "h-1", "what": "held", "target": "connect infra.example:443" }),
    );
    (held.tgid, held.rule) = (Some(12), Some("credential-then-infra".into()));
    let answer = story.of("s-1", Kind::Answer, json!({ "id": "h-1", "answer": "denied", "by_uid": 0, "by_pid": 77, "reason": "not today", "waited_ms": 1500 }));
    (answer.tgid, answer.verdict) = (Some(12), Some("deny".into()));
    story.of("", Kind::Lost, json!({ "count": 3, "class": "activity" }));
    story.of("s-1", Kind::Session, json!({ "what": "ended" }));
    story
        .of("", Kind::Lost, json!({ "count": 9, "class": "fact" }))
        .time = "2026-11-21T21:00:00.000000Z".into();
    story
}

fn name(uid: u32) -> String {
    format!("user{uid}")
}

#[test]
fn a_denied_hold_is_told_with_its_evidence() {
    let report = incident().report("s-1").unwrap();
    assert_eq!(
        (report.agent.as_str(), report.uid, report.origin.as_deref()),
        ("claude-code", Some(1000), Some("run"))
    );
    assert!(report.from_the_beginning && report.ended.is_some());
    assert_eq!(report.outcome, "1 call stopped; the session has ended");
    let [verdict] = report.verdicts.as_slice() else {
        panic!("{:#?}", report.verdicts);
    };
    let [fact] = verdict.evidence.as_slice() else {
        panic!("{verdict:#?}");
    };
    assert_eq!((fact.event.what.as_str(), fact.age_ms), ("/w/.env", 1000));
    assert_eq!(verdict.call.what, "infra.example (203.0.113.9:443)");
    assert_eq!(verdict.outcome, "h-1 denied by uid 0 (pid 77) after 1s");
    assert_eq!(
        verdict.hold.as_ref().unwrap().reason.as_deref(),
        Some("not today")
    );
    assert_eq!((report.stopped.len(), report.not_stopped.len()), (1, 0));
    // What was lost long after its end is none of it.
    let losses: Vec<&str> = report
        .losses
        .iter()
        .map(|line| line.what.as_str())
        .collect();
    assert_eq!(losses, ["3 records of class activity lost"]);
    let tree: Vec<(u32, usize)> = report.processes.iter().map(|p| (p.pid, p.depth)).collect();
    assert_eq!(tree, [(10, 0), (11, 1), (12, 2)]);
}

#[test]
fn the_markdown_has_this_shape() {
    let text = markdown(&incident().report("s-1").unwrap(), &name);
    assert_eq!(
        text,
        "\
# Session s-1: `claude-code`

- **Outcome:** 1 call stopped; the session has ended
- **User:** `user1000 (1000)`
- **Began:** `2026-11-21T20:40:01.000000Z`
- **Ended:** `2026-11-21T20:40:09.000000Z`
- **Found by:** `run`
- **Intent:** `tidy up` (`2026-11-21T20:40:03.000000Z`)
- **Seen:** 8 events: 1 programs, 1 opens, 1 connects, 0 requests, 0 guarded calls

## Verdicts

### 1. hold by `credential-then-infra`: h-1 denied by uid 0 (pid 77) after 1s

1. 1s before: `2026-11-21T20:40:04.000000Z` **open** pid 11 `cat .env` → `/w/.env` `[credential]`
1. then: `2026-11-21T20:40:05.000000Z` **connect** pid 12 `curl x` → `infra.example (203.0.113.9:443)` `[infra]` **hold**

Reason given: `not today`


## What was stopped

- `2026-11-21T20:40:05.000000Z` connect \\[infra\\] by rule credential-then-infra: h-1 denied by uid 0 (pid 77) after 1s: `infra.example (203.0.113.9:443)`

## What was not stopped

Nothing that a rule or a person had to do with.

## Processes

- pid 10 `agent`
  - pid 11 `cat .env` `credential`
    - pid 12 `curl x` `infra` **hold**

## Timeline

- `2026-11-21T20:40:01.000000Z` **session** → `began origin=run root_pid=10`
- `2026-11-21T20:40:02.000000Z` **exec** pid 10 `agent` → `in /w`
- `2026-11-21T20:40:03.000000Z` **intent** → `tidy up`
- `2026-11-21T20:40:04.000000Z` **open** pid 11 `cat .env` → `/w/.env` `[credential]`
- `2026-11-21T20:40:05.000000Z` **connect** pid 12 `curl x` → `infra.example (203.0.113.9:443)` `[infra]` **hold**
- `2026-11-21T20:40:06.000000Z` **hold** pid 12 → `held id=h-1 target=connect infra.example:443`
- `2026-11-21T20:40:07.000000Z` **answer** pid 12 → `denied by_pid=77 by_uid=0 id=h-1 reason=not today waited_ms=1500` **deny**
- `2026-11-21T20:40:09.000000Z` **session** → `ended`

## What is not known

- `2026-11-21T20:40:08.000000Z` 3 records of class activity lost
"
    );
}

#[test]
fn the_repeated_call_of_a_denied_hold_is_no_verdict_of_its_own() {
    let mut story = incident();
    for (seconds, object) in [
        (5, "infra.example"),
        (8, "infra.example"),
        (8, "other.example"),
        (40, "infra.example"),
    ] {
        let object =
            json!({ "family": "inet", "addr": "203.0.113.9", "port": 443, "host": object });
        let again = story.call(Kind::Connect, 12, &["curl", "x"], object);
        again.time = format!("2026-11-21T20:40:{seconds:02}.500000Z");
        again.labels = vec!["infra".into()];
        again.verdict = Some("deny".into());
        again.rule = Some("credential-then-infra".into());
    }
    let report = story.report("s-1").unwrap();
    let outcomes: Vec<&str> = report.verdicts.iter().map(|v| v.outcome.as_str()).collect();
    assert_eq!(
        outcomes,
        [
            "h-1 denied by uid 0 (pid 77) after 1s; 2 attempts failed",
            "the call failed",
            "the call failed"
        ]
    );
}

#[test]
fn what_was_let_go_on_is_told_with_who_let_it() {
    let mut story = incident();
    for event in &mut story.events {
        if event.kind == Kind::Answer {
            event.verdict = Some("allow".into());
            event.object = Some(
                json!({ "id": "h-1", "answer": "approved", "by_uid": 1001, "by_pid": 5, "grant": "g-2", "waited_ms": 61_000 }),
            );
        }
    }
    let flag = story.call(Kind::Open, 12, &["cat"], json!({ "path": "/w/b" }));
    (flag.verdict, flag.rule, flag.labels) =
        (Some("flag".into()), Some("watch".into()), vec!["b".into()]);
    let would = story.call(Kind::Open, 12, &["cat"], json!({ "path": "/w/c" }));
    (would.would, would.rule) = (Some("kill".into()), Some("watch".into()));
    let grant = story.of(
        "s-1",
        Kind::Grant,
        json!({ "id": "g-2", "what": "granted", "for_s": 60, "by_uid": 1001 }),
    );
    grant.labels = vec!["infra".into()];
    let report = story.report("s-1").unwrap();
    assert!(report.stopped.is_empty(), "{:#?}", report.stopped);
    let lines: Vec<&str> = report
        .not_stopped
        .iter()
        .map(|line| line.what.as_str())
        .collect();
    assert_eq!(
        lines,
        [
            "connect [infra] by rule credential-then-infra: h-1 approved by uid 1001 (pid 5) after 1m01s; lease g-2",
            "open [b] by rule watch: recorded; it went on",
            "open [] by rule watch: observed only: a kill would have followed",
            "lease g-2: [infra] allowed for 1m00s by uid 1001",
        ]
    );
    assert_eq!(
        report.outcome,
        "1 hold let go on; 1 call flagged; 1 call would have been stopped or flagged; the session has ended"
    );
}

#[test]
fn a_timeout_that_resumes_did_not_stop_and_one_that_kills_did() {
    for (verdict, stopped) in [("allow", false), ("kill", true), ("deny", true)] {
        let mut story = incident();
        for event in &mut story.events {
            if event.kind == Kind::Answer {
                event.verdict = Some(verdict.into());
                event.object = Some(json!({ "id": "h-1", "answer": "timed out", "waited_ms": 1 }));
            }
        }
        let report = story.report("s-1").unwrap();
        assert_eq!(
            report.stopped.len(),
            usize::from(stopped),
            "{verdict}: {report:#?}"
        );
    }
}

#[test]
fn without_an_answer_a_hold_is_open() {
    let mut story = incident();
    story.events.retain(|event| event.kind != Kind::Answer);
    let report = story.report("s-1").unwrap();
    assert!(
        report.outcome.starts_with("1 hold unanswered"),
        "{}",
        report.outcome
    );
}

#[test]
fn inner_sessions_are_part_of_it_and_others_are_not() {
    let mut story = Story::new();
    story.of(
        "s-2",
        Kind::Session,
        json!({ "what": "began", "origin": "exec", "parent": "s-1" }),
    );
    story.of(
        "s-3",
        Kind::Session,
        json!({ "what": "began", "origin": "exec" }),
    );
    for session in ["s-2", "s-3"] {
        story
            .of(
                session,
                Kind::Open,
                json!({ "path": format!("/{session}") }),
            )
            .labels = vec!["x".into()];
    }
    let outer = story.report("s-1").unwrap();
    assert_eq!(outer.inner, ["s-2"]);
    let what = |report: &Report| format!("{:?}", report.timeline);
    assert!(what(&outer).contains("/s-2") && !what(&outer).contains("/s-3"));
    let inner = story.report("s-2").unwrap();
    assert_eq!(inner.parent.as_deref(), Some("s-1"));
    assert!(!what(&inner).contains("s-3"));
    assert!(story.report("s-9").is_none());
}

#[test]
fn a_long_session_is_told_within_bounds_and_nothing_notable_is_left_out() {
    let mut story = Story::new();
    for n in 0..collect::PLAIN as u32 + 500 {
        story.call(
            Kind::Connect,
            20,
            &["loop"],
            json!({ "addr": "192.0.2.1", "port": n }),
        );
    }
    let label = story.call(Kind::Open, 20, &["cat"], json!({ "path": "/secret" }));
    label.labels = vec!["credential".into()];
    let report = story.report("s-1").unwrap();
    assert_eq!(report.omitted, 500);
    assert!(report.timeline.iter().any(|entry| entry.what == "/secret"));
}

const EVIL: [&str; 12] = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "'--><svg/onload=alert(1)>",
    "`code` **bold** _em_ [a](javascript:alert(1)) ![i](http://evil.example/i.png)",
    "``` ```` `",
    "\n# heading\n\n| a | b |\n|---|---|\n",
    "<!-- -->\u{0}\u{7f}",
    "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m",
    "abc\u{202e}cba\u{2066}\u{200b}\u{feff}",
    "https://evil.example/ @everyone &amp; &#60;",
    "\\",
    "",
];

/// A report in which every text that a process can choose is this.
fn evil(text: &str) -> Report {
    let mut story = Story::new();
    story.call(
        Kind::Exec,
        10,
        &[text, text],
        json!({ "argv": [text, text], "cwd": text }),
    );
    story.of("s-1", Kind::Intent, json!({ "text": text }));
    story
        .call(Kind::Open, 11, &[text], json!({ "path": text }))
        .labels = vec!["credential".into()];
    let connect = story.call(
        Kind::Connect,
        12,
        &[text],
        json!({ "path": text, "host": text, "addr": text }),
    );
    (connect.rule, connect.verdict) = (Some("r".into()), Some("hold".into()));
    connect.labels = vec!["infra".into()];
    connect.comm = Some(text.into());
    story.call(Kind::Request, 12, &[text], json!({ "method": text, "host": text, "path": text, "graphql": { "type": text, "field": text }, "target": text }));
    story.call(
        Kind::Call,
        12,
        &[text],
        json!({ "call": "guard-files", "path": text }),
    );
    let held = story.of(
        "s-1",
        Kind::Hold,
        json!({ "id": "h-1", "what": "held", "target": text }),
    );
    (held.tgid, held.rule) = (Some(12), Some("r".into()));
    story.of(
        "s-1",
        Kind::Answer,
        json!({ "id": "h-1", "answer": "denied", "reason": text, "by_uid": 0 }),
    );
    for event in &mut story.events {
        event.agent = Some(text.into());
    }
    story.report("s-1").unwrap()
}

/// Tags that guard writes; anything else with `<` is somebody else's.
fn check_html(page: &str) {
    const TAGS: [&str; 25] = [
        "!DOCTYPE",
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "h3",
        "dl",
        "dt",
        "dd",
        "section",
        "article",
        "table",
        "tr",
        "td",
        "th",
        "ul",
        "li",
        "p",
        "span",
        "code",
        "script-is-none",
    ];
    for tag in page.split('<').skip(1) {
        let name: String = tag
            .trim_start_matches('/')
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '!')
            .collect();
        assert!(TAGS.contains(&name.as_str()), "<{name}: {tag}");
        let inside = tag.split('>').next().unwrap();
        assert!(
            !inside.contains("on") || inside.contains("content=") || name == "section",
            "{inside}"
        );
    }
    assert!(
        page.chars().all(|c| c == '\n' || !c.is_control()),
        "{page:?}"
    );
    assert!(!page.contains('\u{202e}') && !page.contains('\u{2066}'));
}

/// Takes code spans out as CommonMark 6.1 says; what is left are guard's own words.
fn outside_code(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find('`') {
        // An escaped backtick begins no span.
        let escaped = rest[..at].chars().rev().take_while(|c| *c == '\\').count() % 2 == 1;
        if escaped {
            out.push_str(&rest[..=at]);
            rest = &rest[at + 1..];
            continue;
        }
        out.push_str(&rest[..at]);
        let fence = rest[at..].chars().take_while(|c| *c == '`').count();
        let mut from = at + fence;
        loop {
            let Some(next) = rest[from..].find('`').map(|next| next + from) else {
                panic!("a code span without an end: {line:?}");
            };
            let run = rest[next..].chars().take_while(|c| *c == '`').count();
            from = next + run;
            if run == fence {
                break;
            }
        }
        rest = &rest[from..];
    }
    out + rest
}

fn check_markdown(text: &str) {
    assert!(
        text.chars().all(|c| c == '\n' || !c.is_control()),
        "{text:?}"
    );
    assert!(!text.contains('\u{202e}') && !text.contains('\u{2066}'));
    for line in text.lines() {
        let own = outside_code(line);
        let mut chars = own.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => drop(chars.next()),
                '<' | '[' | '_' | '&' | '|' | '!' | '@' => panic!("{c} in {own:?} of {line:?}"),
                _ => {}
            }
        }
        assert!(!own.contains("http"), "{own}");
    }
    let headings = text.lines().filter(|line| line.starts_with('#')).count();
    assert!(
        text.matches("\n## ").count() == 6 && headings == 8,
        "{text}"
    );
}

#[test]
fn nothing_that_a_process_chose_acts_on_the_reader() {
    for text in EVIL {
        let report = evil(text);
        check_html(&html(&report, &name));
        check_markdown(&markdown(&report, &name));
    }
    let page = html(&evil(EVIL[0]), &name);
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(
        page.contains("default-src 'none'")
            && page.contains("prefers-color-scheme:dark")
            && page.contains("@media print")
    );
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("<script"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    #[test]
    fn nor_does_any_other_text(text in "[`\\\\<>&|*_#!@a \u{202e}\u{1b}\n\"'\\[\\]()-]{0,12}") {
        let report = evil(&text);
        check_html(&html(&report, &name));
        check_markdown(&markdown(&report, &name));
        serde_json::to_string(&report).unwrap();
    }
}
