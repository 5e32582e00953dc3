//! What each verdict does to an open and to a connect.

use std::{cell::RefCell, collections::HashSet};

use guard_tests::{Event, Guard, Place, Policy, Tool, server::Tcp};

/// A guard, a server that is labelled `infra`, and a file that is labelled `secret`.
struct Scene {
    tool: Tool,
    events: guard_tests::Events,
    guard: Guard,
    server: Tcp,
    secret: String,
}

impl Scene {
    /// `rules` are added to a policy that has the two labels.
    fn new(rules: impl Fn(Policy) -> Policy) -> Self {
        Self::with(&[], Policy::new(), rules)
    }

    fn with(args: &[&str], head: Policy, rules: impl Fn(Policy) -> Policy) -> Self {
        let place = Place::new();
        let server = Tcp::v4();
        let secret = place.file("secret", "hunter2").display().to_string();
        let policy = head
            .files("secret", &[&secret])
            .addresses("infra", &[server.addr()]);
        let guard = Guard::of(&place).with(args).start(&rules(policy));
        let (events, tool) = (guard.events(), guard.tool());
        Self {
            tool,
            events,
            guard,
            server,
            secret,
        }
    }

    fn open(&self) -> String {
        format!("open openat {}", self.secret)
    }

    fn connect(&self) -> String {
        format!("tcp {} hello", self.server.addr())
    }
}

#[test]
fn a_label_without_a_rule_is_a_fact_and_nothing_more() {
    let mut s = Scene::new(|policy| policy);
    assert_eq!(s.tool.must(&s.open())["text"], "hunter2");
    assert_eq!(s.tool.must(&s.connect())["echo"], "hello");
    let pid = s.tool.pid();
    let open = s
        .events
        .wait("the open", |e| e.is("open") && e.has("secret"));
    assert!(matches!(open.verdict(), "" | "allow"), "{open:?}");
    assert!(open.of(pid) && open.path() == s.secret, "{open:?}");
    let tier = s.guard.hook("open")["tier"].as_str().unwrap().to_owned();
    assert_eq!(open.text("tier"), tier);
    assert_eq!(open["v"], 1);
    assert!(
        open.get("rule").is_none() && open.get("would").is_none(),
        "{open:?}"
    );
    let connect = s
        .events
        .wait("the connect", |e| e.is("connect") && e.has("infra"));
    assert_eq!(connect["object"]["addr"], "127.0.0.1");
    assert_eq!(connect["object"]["port"], s.server.port());
    let shown = s.guard.json(&["show", open.session()]);
    let facts: Vec<_> = shown["facts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| &f["label"])
        .collect();
    assert_eq!(facts, ["secret", "infra"], "{shown}");
    assert_eq!(shown["facts"][0]["object"], s.secret);
}

#[test]
fn an_open_that_is_flagged_goes_on_and_is_told() {
    let mut s = Scene::new(|policy| policy.rule("r", &["secret"], "flag", ""));
    assert_eq!(s.tool.must(&s.open())["text"], "hunter2");
    let event = s.events.wait("the flag", |e| e.is_open("secret", "flag"));
    assert_eq!(event.text("rule"), "r");
    assert!(
        event["latency_ns"].as_u64().is_some_and(|ns| ns > 0),
        "{event:?}"
    );
}

#[test]
fn an_open_that_is_held_gives_nothing_until_it_is_approved() {
    let mut s = Scene::new(|policy| policy.rule("r", &["secret"], "hold", ""));
    s.tool.tell(&s.open());
    let event = s.events.wait("the hold", |e| e.is_open("secret", "hold"));
    let hold = s.guard.hold();
    guard_tests::proc::wait_stopped(s.tool.pid());
    s.tool.is_silent();
    assert_eq!(hold["rule"], "r");
    assert_eq!(hold["pid"], s.tool.pid());
    assert_eq!(hold["session"], event.session());
    assert!(
        hold["target"].as_str().unwrap().contains(&s.secret),
        "{hold}"
    );
    s.guard.approve(&[]);
    assert_eq!(s.tool.answer()["text"], "hunter2");
    assert_eq!(s.guard.holds().len(), 0);
}

#[test]
fn a_denied_open_falls_back_to_kill_and_status_says_so() {
    let mut s = Scene::with(&["--tier", "tracepoint"], Policy::new(), |policy| {
        policy.rule("r", &["secret"], "deny", "")
    });
    s.tool.tell(&s.open());
    s.tool.was_killed();
    s.events.wait("the kill", |e| {
        e.is_open("secret", "kill") && e.text("rule") == "r"
    });
    let open = s.guard.hook("open");
    assert!(
        !open["can"].as_array().unwrap().contains(&"deny".into()),
        "{open}"
    );
    let status = s.guard.json(&["status"]);
    let told = status["not_enforced"].to_string();
    assert!(told.contains("deny on open"), "{told}");
}

#[test]
fn a_denied_open_falls_back_to_what_the_rule_says() {
    let mut s = Scene::with(&["--tier", "tracepoint"], Policy::new(), |policy| {
        policy.rule("r", &["secret"], "deny", "fallback = \"flag\"")
    });
    assert_eq!(s.tool.must(&s.open())["text"], "hunter2");
    s.events.wait("the flag", |e| e.is_open("secret", "flag"));
}

#[test]
fn an_open_that_kills_gives_nothing() {
    let mut s = Scene::new(|policy| policy.rule("r", &["secret"], "kill", ""));
    s.tool.tell(&s.open());
    s.tool.was_killed();
    s.tool.said_nothing();
    s.events.wait("the kill", |e| e.is_open("secret", "kill"));
    s.events.wait("the session's end", |e| {
        e.is("session") && e.to_string().contains("end")
    });
}

#[test]
fn what_a_session_does_last_is_told_before_its_end() {
    const AT_ONCE: usize = 8;
    const EACH: usize = 60;
    let mut s = Scene::new(|policy| policy.rule("r", &["secret"], "kill", ""));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                for _ in 0..EACH {
                    let mut cat = s.guard.run(&["--agent", "last"], "cat");
                    let output = cat.arg(&s.secret).output().unwrap();
                    assert_eq!(output.stdout, b"", "{output:?}");
                }
            });
        }
    });
    let ended = RefCell::new(HashSet::new());
    s.events.wait("all ends", |e| {
        if is_end(e) {
            ended.borrow_mut().insert(e.text("session").to_owned());
        }
        ended.borrow().len() == AT_ONCE * EACH
    });
    let (mut killed, mut before) = (HashSet::new(), Vec::new());
    for event in s.events.seen(|e| e["agent"] == "last") {
        let session = event.text("session").to_owned();
        if event.is_open("secret", "kill") {
            killed.insert(session);
        } else if is_end(&event) && !killed.contains(&session) {
            before.push(session);
        }
    }
    assert!(before.is_empty(), "told after the end: {before:?}");
}

fn is_end(event: &Event) -> bool {
    event["agent"] == "last" && event.is("session") && event["object"]["what"] == "ended"
}

#[test]
fn a_connect_that_is_flagged_goes_on_and_is_told() {
    let mut s = Scene::new(|policy| policy.rule("r", &["infra"], "flag", ""));
    assert_eq!(s.tool.must(&s.connect())["echo"], "hello");
    s.events.wait("the flag", |e| e.is_connect("infra", "flag"));
    assert_eq!(s.server.reached().bytes, 5);
}

#[test]
fn a_connect_that_is_denied_fails_with_eperm_and_reaches_nobody() {
    let mut s = Scene::new(|policy| policy.rule("r", &["infra"], "deny", ""));
    for command in [s.connect(), s.connect().replace("tcp", "tcp-nonblocking")] {
        assert_eq!(s.tool.ask(&command)["errno"], libc::EPERM, "{command}");
    }
    s.server.untouched();
    let event = s
        .events
        .wait("the denial", |e| e.is_connect("infra", "deny"));
    assert_eq!(event.text("tier"), "cgroup");
    assert_eq!(event.text("rule"), "r");
}

#[test]
fn a_connect_that_kills_reaches_nobody() {
    let mut s = Scene::new(|policy| policy.rule("r", &["infra"], "kill", ""));
    s.tool.tell(&s.connect());
    s.tool.was_killed();
    s.server.untouched();
    s.events.wait("the kill", |e| e.is_connect("infra", "kill"));
}

#[test]
fn a_policy_that_observes_records_what_would_have_been_and_touches_nothing() {
    let mut s = Scene::with(&[], Policy::new().observing(), |policy| {
        policy
            .rule("k", &["secret"], "kill", "")
            .rule("d", &["infra"], "deny", "")
    });
    assert_eq!(s.tool.must(&s.open())["text"], "hunter2");
    assert_eq!(s.tool.must(&s.connect())["echo"], "hello");
    let open = s.events.wait("the open", |e| e.is_open("secret", "allow"));
    assert_eq!((open.text("would"), open.text("rule")), ("kill", "k"));
    let connect = s
        .events
        .wait("the connect", |e| e.is_connect("infra", "allow"));
    assert_eq!((connect.text("would"), connect.text("rule")), ("deny", "d"));
    assert_eq!(s.guard.json(&["status"])["mode"], "observe");
}

#[test]
fn the_mode_on_the_command_line_goes_before_the_policys() {
    let mut s = Scene::with(&["--mode", "observe"], Policy::new(), |policy| {
        policy.rule("r", &["infra"], "hold", "")
    });
    assert_eq!(s.tool.must(&s.connect())["echo"], "hello");
    let event = s
        .events
        .wait("the connect", |e| e.is_connect("infra", "allow"));
    assert_eq!(event.text("would"), "hold");
    assert_eq!(s.guard.holds().len(), 0);
}

#[test]
fn one_rule_may_observe_while_others_act() {
    let mut s = Scene::new(|policy| {
        let policy = policy.rule("watch", &["secret"], "kill", "mode = \"observe\"");
        policy.rule("act", &["infra"], "deny", "")
    });
    assert_eq!(s.tool.must(&s.open())["text"], "hunter2");
    let event = s.events.wait("the open", |e| e.is_open("secret", "allow"));
    assert_eq!(event.text("would"), "kill");
    assert_eq!(s.tool.ask(&s.connect())["errno"], libc::EPERM);
}

#[test]
fn the_strictest_rule_that_fires_decides() {
    let mut s = Scene::new(|policy| {
        let policy = policy
            .rule("f", &["infra"], "flag", "")
            .rule("d", &["infra"], "deny", "");
        policy.rule("h", &["infra"], "hold", "")
    });
    assert_eq!(s.tool.ask(&s.connect())["errno"], libc::EPERM);
    let event = s
        .events
        .wait("the denial", |e| e.is_connect("infra", "deny"));
    assert_eq!(event.text("rule"), "d");
}

#[test]
fn signals_to_ones_own_children_are_nobodys_business_even_when_they_have_ended() {
    let place = Place::new();
    let policy = Policy::new()
        .and("[[label]]\nname = \"outside\"\ncalls = [\"signal-outside\"]")
        .rule("r", &["outside"], "deny", "");
    let guard = Guard::new(&place, &policy);
    let stranger = guard.stranger();
    let (mut tool, mut events) = (guard.tool(), guard.events());
    tool.must("signal-children");
    let denies = guard.hook("signal")["can"].to_string().contains("deny");
    tool.tell(&format!("signal {}", stranger.pid()));
    if denies {
        assert_eq!(tool.answer()["errno"], libc::EPERM);
    } else {
        tool.was_killed();
    }
    let told = events.wait("the signal", |e| e.is("signal"));
    assert_eq!(told["object"]["target"], stranger.pid(), "{told:?}");
    assert_eq!(told["object"]["call"], "signal-outside", "{told:?}");
}
