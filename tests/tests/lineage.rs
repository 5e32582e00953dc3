//! Who belongs to a session, whatever a process does to be forgotten.

use std::{collections::HashSet, path::PathBuf};

use guard_tests::{Events, Guard, Place, Policy, Tool, eventually, proc};

/// A guard with a file whose opens tell who is in a session.
struct Scene {
    tool: Tool,
    events: Events,
    guard: Guard,
    secret: PathBuf,
    place: Place,
}

impl Scene {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(args: &[&str]) -> Self {
        let place = Place::new();
        let secret = place.file("secret", "hunter2");
        let policy = Policy::new().files("secret", &[secret.display()]);
        let guard = Guard::of(&place).with(args).start(&policy);
        let (events, tool) = (guard.events(), guard.tool());
        Self {
            tool,
            events,
            guard,
            secret,
            place,
        }
    }

    /// Has the tool do `command` with the file, and asserts that the process that answers with its
    /// pid was seen as one of the session.
    #[track_caller]
    fn is_seen(&mut self, command: &str) {
        let answer = self
            .tool
            .must(&format!("{command} {}", self.secret.display()));
        let pid = answer["pid"]
            .as_u64()
            .unwrap_or_else(|| panic!("{command}: {answer}")) as u32;
        let session = self.events.wait(command, |e| e.is("open") && e.of(pid));
        assert_eq!(session.session(), "s-1");
    }
}

#[test]
fn every_way_of_making_a_child_keeps_it_in_the_session() {
    let mut s = Scene::new();
    for how in [
        "fork",
        "clone3",
        "vfork",
        "clone-parent",
        "setsid",
        "double",
    ] {
        s.is_seen(&format!("fork {how}"));
    }
    // posix_spawn, which shares memory with its child until that has become another program.
    s.tool.must(&format!("run cat {}", s.secret.display()));
    s.events
        .wait("cat", |e| e.is("open") && e.text("comm") == "cat");
}

#[test]
fn a_daemon_that_has_left_its_terminal_and_its_parents_is_still_in_the_session() {
    let mut s = Scene::new();
    let script = format!(
        "#!/bin/sh\nsetsid sh -c 'sh -c \"exec cat {}\" &' &\n",
        s.secret.display()
    );
    let script = s.place.script("daemonize", &script);
    s.tool.must(&format!("run {}", script.display()));
    s.events.wait("the daemon's open", |e| {
        e.is("open") && e.text("comm") == "cat"
    });
}

#[test]
fn none_of_5000_children_in_a_storm_is_lost() {
    let mut s = Scene::new();
    let before = s.guard.json(&["status"]);
    let answer = s.tool.must(&format!("storm 5000 4 {}", s.secret.display()));
    assert_eq!(answer["opened"], 5000, "{answer}");
    assert_eq!(s.guard.lost("lineage"), 0);
    // The ring has room for all of them, and then some, even if guardd read none meanwhile.
    assert_eq!(s.guard.lost("activity"), 0);
    let events = s.guard.events_now();
    let opens: Vec<_> = events.iter().filter(|e| e.is("open")).collect();
    assert_eq!(opens.len(), 5000);
    assert!(opens.iter().all(|e| e.session() == "s-1"));
    let status = s.guard.json(&["status"]);
    assert_eq!(
        status["lineage_used"], before["lineage_used"],
        "entries are left behind: {status}"
    );
    assert_eq!(status["processes"], 1, "{status}");
    assert_eq!(status["state"], "ok", "{status}");
}

#[test]
fn a_process_whose_leading_thread_has_ended_is_still_in_the_session() {
    let mut s = Scene::new();
    let pid = s.tool.pid();
    s.tool.must("leader-exit");
    s.tool.must(&format!("open openat {}", s.secret.display()));
    let event = s.events.wait("the open", |e| e.is("open") && e.of(pid));
    assert_ne!(event["pid"], event["tgid"], "{event:?}");
    s.is_seen("fork fork");
    assert_eq!(s.guard.sessions()[0]["processes"], 1);
}

#[test]
fn a_pid_that_is_used_again_is_another_process() {
    let mut s = Scene::new();
    let mut stranger = s.guard.stranger();
    let secret = s.secret.display().to_string();
    for _ in 0..3 {
        let pid = s.tool.must(&format!("fork fork {secret}"))["pid"]
            .as_u64()
            .unwrap() as u32;
        s.events
            .wait("the child's open", |e| e.is("open") && e.of(pid));
        let opens = s.events.seen(|e| e.is("open") && e.of(pid)).len();
        let answer = stranger.ask(&format!("fork-as {pid} {secret}"));
        if answer.get("error").is_some() {
            continue; // Somebody else was quicker to get that pid.
        }
        assert_eq!(answer["pid"], pid);
        s.is_seen("fork fork");
        assert_eq!(
            s.events.seen(|e| e.is("open") && e.of(pid)).len(),
            opens,
            "pid {pid}"
        );
        return;
    }
    panic!("no pid could be used again");
}

#[test]
fn the_pid_of_a_killed_session_is_free_for_others() {
    let mut s = Scene::new();
    let pid = s.tool.must("idle")["pid"].as_u64().unwrap() as u32;
    s.guard.must(&["kill", "s-1"]);
    s.tool.was_killed();
    proc::wait_ended(pid);
    eventually("the session is over", || {
        s.guard.sessions().is_empty().then_some(())
    });
    eventually("its entries are gone", || {
        (s.guard.json(&["status"])["lineage_used"] == 0).then_some(())
    });
    let mut stranger = s.guard.stranger();
    eventually("the pid is free", || {
        let answer = stranger.ask(&format!("fork-as {pid} {}", s.secret.display()));
        (answer["pid"] == pid).then_some(())
    });
    assert!(s.guard.events_now().iter().all(|e| !e.is("open")));
}

#[test]
fn a_full_lineage_table_is_loud() {
    let mut s = Scene::with(&["--lineage-size", "64"]);
    let status = s.guard.json(&["status"]);
    assert_eq!(status["lineage_size"], 64, "{status}");
    assert_eq!(status["state"], "ok", "{status}");
    let mut children = HashSet::new();
    for _ in 0..80 {
        children.insert(s.tool.must("idle")["pid"].as_u64().unwrap());
    }
    let lost = s.events.wait("the loss", |e| {
        e.is("lost") && e["object"]["class"] == "lineage"
    });
    assert!(
        lost["object"]["count"]
            .as_u64()
            .is_some_and(|count| count > 0),
        "{lost:?}"
    );
    let status = eventually("status is degraded", || {
        let status = s.guard.json(&["status"]);
        (status["state"] == "degraded").then_some(status)
    });
    assert!(
        status["degraded"].to_string().contains("lineage"),
        "{status}"
    );
    assert!(s.guard.lost("lineage") > 0);
    let said = s.guard.must(&["status"]).out;
    assert!(said.contains("degraded"), "{said}");
}

#[test]
fn a_session_ends_with_its_last_process() {
    let mut s = Scene::new();
    let idle = s.tool.must("idle")["pid"].as_u64().unwrap() as u32;
    let (events, guard) = (&mut s.events, &s.guard);
    // Its first process ends, another lives on.
    assert_eq!(s.tool.finish().code(), Some(0));
    assert_eq!(guard.sessions()[0]["state"], "running");
    assert_eq!(guard.sessions()[0]["processes"], 1);
    proc::signal(idle, rustix::process::Signal::KILL);
    events.wait("its end", |e| {
        e.is("session") && e.to_string().contains("ended")
    });
    eventually("no session is left", || {
        guard.sessions().is_empty().then_some(())
    });
}
