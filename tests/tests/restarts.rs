//! What stays in force while guardd is down, and while one guardd takes over from another.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Stdio},
};

use guard_tests::{Guard, PATIENCE_VAR, Place, Policy, eventually, fixture, let_pass, proc};

/// Restarts of one test: fewer where the processor is emulated.
fn times() -> usize {
    if std::env::var_os(PATIENCE_VAR).is_some() {
        3
    } else {
        20
    }
}

/// A guard that denies a file.
fn denying(place: &Place) -> (PathBuf, Guard) {
    let secret = place.file("secret", "hunter2");
    let policy =
        Policy::new()
            .files("secret", &[secret.display()])
            .rule("r", &["secret"], "deny", "");
    let guard = Guard::new(place, &policy);
    (secret, guard)
}

/// An agent that has child after child open `path`.
fn opener(guard: &Guard, place: &Place, path: &std::path::Path) -> Child {
    guard
        .run(&["--agent", "opener"], fixture("guard-fixture-evader"))
        .arg("loop")
        .arg(path)
        .arg(place.path("enough"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_denied_file_is_opened_by_nobody_across_restarts() {
    let place = Place::new();
    let (secret, mut guard) = denying(&place);
    let agent = opener(&guard, &place, &secret);
    let session = eventually("the session", || {
        guard
            .sessions()
            .first()
            .map(|it| it["id"].as_str().unwrap().to_owned())
    });
    for round in 0..times() {
        // Killed, and asked to make way.
        if round % 2 == 0 {
            guard.kill();
        } else {
            guard.make_way();
        }
        guard.start();
        let sessions = guard.sessions();
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        assert_eq!(sessions[0]["id"], session.as_str());
    }
    fs::write(place.path("enough"), "").unwrap();
    let output = agent.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let tried: u64 = said
        .strip_prefix("got 0 of ")
        .unwrap_or_else(|| panic!("it was opened: {said} {}", output.status))
        .parse()
        .unwrap();
    assert!(tried > 10 * times() as u64, "{said}");
    assert_eq!(guard.lost("lineage"), 0);
}

#[test]
fn while_guardd_is_down_rules_are_enforced_and_facts_are_kept() {
    let place = Place::new();
    let file = |name: &str| place.file(name, "x");
    let (first, second, denied, held) = (file("a"), file("b"), file("denied"), file("held"));
    let policy = Policy::new()
        .files("first", &[first.display()])
        .files("second", &[second.display()])
        .files("denied", &[denied.display()])
        .files("held", &[held.display()])
        .rule("r-denied", &["denied"], "deny", "fallback = \"hold\"")
        .rule("r-held", &["held"], "hold", "timeout = \"1h\"")
        .rule("r", &["first", "second"], "kill", "");
    let mut guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    let mut holds = guard.tool();
    guard.kill();
    let open = |path: &std::path::Path| format!("open openat {}", path.display());
    // A fact that comes about now, and a hold.
    tool.must(&open(&first));
    holds.tell(&open(&held));
    proc::wait_stopped(holds.pid());
    // A child that is born now is of the session.
    let child = tool.must("spawn /bin/sleep 600")["pid"].as_u64().unwrap();
    guard.start();
    let hold = guard.hold();
    assert_eq!(hold["rule"], "r-held", "{hold}");
    assert_eq!(guard.session_of(child as u32), guard.session_of(tool.pid()));
    guard.approve(&[]);
    assert!(holds.answer().get("error").is_none());
    // The fact and what comes now complete the rule.
    tool.tell(&open(&second));
    let status = tool.ended();
    assert!(
        status.code() == Some(137) || status.signal() == Some(libc::SIGKILL),
        "{status}"
    );
}

#[test]
fn when_guardd_is_dead_and_every_session_over_nothing_stays_in_force() {
    let place = Place::new();
    let (_, mut guard) = denying(&place);
    let tool = guard.tool();
    let in_force = |guard: &Guard| guard.pins().is_some();
    assert!(in_force(&guard));
    guard.kill();
    // Longer than the sentinel waits for the dead guardd's last signals.
    let_pass(std::time::Duration::from_secs(3));
    assert!(in_force(&guard));
    drop(tool);
    eventually("nothing is in force", || (!in_force(&guard)).then_some(()));
}

#[test]
fn a_reload_that_names_a_call_attaches_what_watches_it() {
    let place = Place::new();
    let fence = place.file("fence", "x");
    let policy = Policy::new().files("fence", &[fence.display()]);
    let guard = Guard::new(&place, &policy);
    let _tool = guard.tool();
    assert_eq!(guard.hook("bpf")["attached"], false);
    let calls = policy
        .and("[[label]]\nname = \"bpf\"\ncalls = [\"bpf\"]")
        .rule("r", &["bpf"], "deny", "");
    fs::write(guard.policy(), &*calls).unwrap();
    guard.must(&["policy", "reload"]);
    assert_eq!(guard.hook("bpf")["attached"], true);
    let output = guard
        .run(&["--agent", "late"], fixture("guard-fixture-evader"))
        .args(["bpf", "/nowhere"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!said.starts_with("got"), "{said}");
}
