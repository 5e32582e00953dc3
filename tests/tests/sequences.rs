//! Rules of several steps: order, window, exceptions.

use std::time::Duration;

use guard_tests::{Guard, Place, Policy, let_pass, server::Tcp};

/// A policy with the labels `secret` (a file) and `infra` (the server).
fn labels(place: &Place, server: &Tcp) -> Policy {
    let secret = place.file("secret", "hunter2");
    Policy::new()
        .files("secret", &[secret.display()])
        .addresses("infra", &[server.addr()])
}

#[test]
fn steps_in_the_wrong_order_are_no_sequence() {
    let (place, server) = (Place::new(), Tcp::v4());
    let policy = labels(&place, &server).rule("r", &["secret", "infra"], "deny", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    let connect = format!("tcp {} hello", server.addr());
    tool.must(&connect);
    tool.must(&format!("open openat {}", place.path("secret").display()));
    // Now the order is right.
    assert_eq!(tool.ask(&connect)["errno"], libc::EPERM);
    assert_eq!(server.reached().connections, 1);
}

#[test]
fn a_second_step_after_the_window_is_no_sequence() {
    let (place, server) = (Place::new(), Tcp::v4());
    let policy = labels(&place, &server).rule("r", &["secret", "infra"], "deny", "within = \"3s\"");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    let open = format!("open openat {}", place.path("secret").display());
    let connect = format!("tcp {} hello", server.addr());
    tool.must(&open);
    let_pass(Duration::from_millis(3100));
    assert_eq!(tool.must(&connect)["echo"], "hello");
    // Touched again, the window begins again.
    tool.must(&open);
    assert_eq!(tool.ask(&connect)["errno"], libc::EPERM);
}

#[test]
fn the_steps_may_be_done_by_different_processes_of_the_session() {
    let (place, server) = (Place::new(), Tcp::v4());
    let policy = labels(&place, &server).rule("r", &["secret", "infra"], "deny", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    tool.must(&format!("run cat {}", place.path("secret").display()));
    assert_eq!(
        tool.ask(&format!("tcp {} hello", server.addr()))["errno"],
        libc::EPERM
    );
    server.untouched();
}

#[test]
fn what_one_session_touches_is_nothing_to_another() {
    let (place, server) = (Place::new(), Tcp::v4());
    let policy = labels(&place, &server).rule("r", &["secret", "infra"], "deny", "");
    let guard = Guard::new(&place, &policy);
    let (mut one, mut other) = (guard.tool(), guard.tool());
    one.must(&format!("open openat {}", place.path("secret").display()));
    let connect = format!("tcp {} hello", server.addr());
    assert_eq!(other.must(&connect)["echo"], "hello");
    assert_eq!(one.ask(&connect)["errno"], libc::EPERM);
}

#[test]
fn three_steps_must_all_come_in_order() {
    let (place, server) = (Place::new(), Tcp::v4());
    let second = place.file("second", "more");
    let policy = labels(&place, &server).files("second", &[second.display()]);
    let policy = policy.rule("r", &["secret", "second", "infra"], "deny", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    let open = |name: &str| format!("open openat {}", place.path(name).display());
    let connect = format!("tcp {} hello", server.addr());
    for command in [&open("second"), &connect, &open("secret"), &connect] {
        tool.must(command);
    }
    let session = guard.session_of(tool.pid()).expect("a session");
    let explained = guard.json(&["policy", "explain", &session]);
    let rule = &explained["rules"][0];
    let fulfilled: Vec<_> = rule["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["fulfilled"] == true)
        .collect();
    assert_eq!(fulfilled[..2], [true, false], "{explained}");
    assert!(rule["fires_on"].is_null(), "{explained}");
    tool.must(&open("second"));
    let explained = guard.json(&["policy", "explain", &session]);
    assert_eq!(explained["rules"][0]["fires_on"], "infra", "{explained}");
    assert_eq!(tool.ask(&connect)["errno"], libc::EPERM);
    assert_eq!(server.reached().connections, 2);
}

#[test]
fn the_evidence_of_a_hold_is_the_chain_that_led_there() {
    let (place, server) = (Place::new(), Tcp::v4());
    let policy = labels(&place, &server).rule("r", &["secret", "infra"], "hold", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    let secret = place.path("secret");
    tool.must(&format!("run cat {}", secret.display()));
    tool.tell(&format!("tcp {} hello", server.addr()));
    let hold = guard.hold();
    assert_eq!(hold["when"], serde_json::json!(["secret", "infra"]));
    let evidence = hold["evidence"].as_array().unwrap();
    let touch = evidence
        .iter()
        .find(|e| e["labels"][0] == "secret")
        .expect("the first step");
    assert_eq!(touch["object"]["path"], secret.to_str().unwrap());
    assert_eq!(touch["comm"], "cat");
    let last = evidence.last().unwrap();
    assert_eq!(
        (&last["kind"], &last["verdict"]),
        (&"connect".into(), &"hold".into()),
        "{hold}"
    );
    let shown = guard.must(&["pending"]).out;
    assert!(shown.contains("secret") && shown.contains("cat"), "{shown}");
    guard.deny(&[]);
    tool.was_refused(&guard);
}

#[test]
fn a_file_read_by_an_excepted_program_is_no_fact() {
    let (place, server) = (Place::new(), Tcp::v4());
    let secret = place.file("secret", "hunter2");
    let reader = place.name("reader");
    let program = place.program("/usr/bin/cat".as_ref(), &reader);
    let policy = Policy::new()
        .files("secret", &[secret.display()])
        .and(&format!("except = {{ exe = [\"{reader}\"] }}"))
        .addresses("infra", &[server.addr()])
        .rule("r", &["secret", "infra"], "deny", "");
    let guard = Guard::new(&place, &policy);
    // A program counts as older only if it changed in an earlier second than the session began.
    let_pass(Duration::from_millis(1100));
    let mut events = guard.events();
    let mut tool = guard.tool();
    let connect = format!("tcp {} hello", server.addr());
    let read = tool.must(&format!("run {} {}", program.display(), secret.display()));
    assert_eq!(read["stdout"], "hunter2");
    assert_eq!(tool.must(&connect)["echo"], "hello");
    // A program of that name made by the session itself gains nothing by it.
    let bin = place.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let fake = bin.join(&reader);
    tool.must(&format!("copy {} {}", "/usr/bin/cat", fake.display()));
    tool.must(&format!("run {} {}", fake.display(), secret.display()));
    let open = events.wait("the open", |e| e.is("open") && e.has("secret"));
    assert_eq!(open.text("exe"), fake.to_str().unwrap());
    assert_eq!(tool.ask(&connect)["errno"], libc::EPERM);
    assert_eq!(server.reached().connections, 1);
}

#[test]
fn an_excepted_file_does_not_carry_the_label() {
    let place = Place::new();
    let policy = Policy::new()
        .files("secret", &[format!("{}/**/*.env", place.dir().display())])
        .and("except = { files = [\"**/*.example.env\"] }");
    let guard = Guard::new(&place, &policy);
    let mut events = guard.events();
    let mut tool = guard.tool();
    let example = place.file("a/b.example.env", "x");
    let real = place.file("a/b.env", "x");
    tool.must(&format!("open openat {}", example.display()));
    tool.must(&format!("open openat {}", real.display()));
    events.wait("the open", |e| {
        e.is("open") && e.path() == real.to_str().unwrap()
    });
    events.none("the example is no fact", |e| {
        e.path() == example.to_str().unwrap()
    });
}
