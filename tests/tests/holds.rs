//! Holds: what a person's answer, or silence, does to the held call.

use std::time::Duration;

use guard_tests::{
    Events, Guard, Place, Policy, Tool, eventually, let_pass, proc,
    server::{Tcp, Udp},
};
use rustix::process::Signal;

/// A guard that holds connections to a server.
struct Scene {
    tool: Tool,
    events: Events,
    guard: Guard,
    server: Tcp,
    connect: String,
    place: Place,
}

impl Scene {
    fn new(more: &str) -> Self {
        let (place, server) = (Place::new(), Tcp::v4());
        let policy =
            Policy::new()
                .addresses("infra", &[server.addr()])
                .rule("r", &["infra"], "hold", more);
        let guard = Guard::new(&place, &policy);
        let (events, tool) = (guard.events(), guard.tool());
        let connect = format!("tcp {} hello", server.addr());
        Self {
            tool,
            events,
            guard,
            server,
            connect,
            place,
        }
    }

    /// Connects, and waits until that is held.
    #[track_caller]
    fn be_held(&mut self) -> serde_json::Value {
        self.tool.tell(&self.connect);
        let hold = self.guard.hold();
        proc::wait_stopped(self.tool.pid());
        self.tool.is_silent();
        hold
    }

    fn session(&self) -> String {
        self.guard.session_of(self.tool.pid()).expect("a session")
    }
}

#[test]
fn an_approved_connection_is_made_whole_after_all() {
    let mut s = Scene::new("");
    let hold = s.be_held();
    s.server.untouched_while_held(&s.guard);
    assert_eq!(hold["target"], format!("connect {}", s.server.addr()));
    assert_eq!(s.guard.sessions()[0]["state"], "held");
    s.guard.approve(&[]);
    assert_eq!(s.tool.answer()["echo"], "hello");
    let reached = s.server.reached();
    assert_eq!((reached.connections, reached.bytes), (1, 5));
    s.events.wait("the hold", |e| e.is_connect("infra", "hold"));
    s.events.wait("the answer", |e| e.is("answer"));
    assert_eq!(s.guard.sessions()[0]["state"], "running");
}

#[test]
fn an_approval_is_for_one_call() {
    let mut s = Scene::new("");
    s.be_held();
    s.guard.approve(&[]);
    assert_eq!(s.tool.answer()["echo"], "hello");
    s.be_held();
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
    assert_eq!(s.server.reached().bytes, "hello".len() as u64);
}

#[test]
fn an_approval_does_not_open_the_way_to_elsewhere() {
    let (place, near, far) = (Place::new(), Tcp::v4(), Tcp::v4());
    let policy = Policy::new()
        .addresses("infra", &[near.addr(), far.addr()])
        .rule("r", &["infra"], "hold", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    tool.tell(&format!("tcp {} hello", near.addr()));
    guard.approve(&[]);
    assert_eq!(tool.answer()["echo"], "hello");
    // Another address under the same label and rule: nobody was asked about that.
    tool.tell(&format!("tcp {} hello", far.addr()));
    guard.hold();
    far.untouched_while_held(&guard);
    guard.deny(&[]);
    tool.was_refused(&guard);
}

#[test]
fn a_denied_connection_fails_with_eperm_and_reaches_nobody() {
    let mut s = Scene::new("");
    s.be_held();
    s.guard.deny(&["--reason", "not today"]);
    s.tool.was_refused(&s.guard);
    s.server.untouched_while_held(&s.guard);
    let answer = s.events.wait("the answer", |e| e.is("answer"));
    assert!(answer.to_string().contains("not today"), "{answer:?}");
    if s.guard.holds_exactly() {
        // The program goes on.
        s.tool.must("who");
    }
}

#[test]
fn a_nonblocking_connect_is_held_and_repeated_too() {
    let mut s = Scene::new("");
    s.connect = s.connect.replace("tcp", "tcp-nonblocking");
    s.be_held();
    s.server.untouched_while_held(&s.guard);
    s.guard.approve(&[]);
    assert_eq!(s.tool.answer()["echo"], "hello");
}

#[test]
fn silence_denies() {
    let mut s = Scene::new("timeout = \"4s\"\non_timeout = \"deny\"");
    let hold = s.be_held();
    assert_eq!(hold["on_timeout"], "deny");
    s.tool.was_refused(&s.guard);
    s.server.untouched_while_held(&s.guard);
    assert_eq!(s.guard.holds().len(), 0);
}

#[test]
fn silence_kills() {
    let mut s = Scene::new("timeout = \"4s\"\non_timeout = \"kill\"");
    s.be_held();
    s.tool.was_killed();
    s.server.untouched_while_held(&s.guard);
    eventually("no hold waits", || s.guard.holds().is_empty().then_some(()));
}

#[test]
fn silence_resumes() {
    let mut s = Scene::new("timeout = \"4s\"\non_timeout = \"resume\"");
    s.be_held();
    assert_eq!(s.tool.answer()["echo"], "hello");
}

#[test]
fn a_held_open_that_is_denied_never_sees_the_file() {
    let place = Place::new();
    let secret = place.file("secret", "hunter2");
    let policy =
        Policy::new()
            .files("secret", &[secret.display()])
            .rule("r", &["secret"], "hold", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    tool.tell(&format!("open openat {}", secret.display()));
    guard.deny(&[]);
    // Where the kernel can make the call fail it does, and where it cannot any more, the process goes.
    let by_hook = guard.hook("open")["can"].to_string().contains("deny");
    let answer = eventually("an answer, or the tool's end", || {
        if tool.is_over() {
            return Some(None);
        }
        tool.answered().map(Some)
    });
    match answer {
        Some(answer) => assert!(by_hook && answer["errno"] == libc::EPERM, "{answer}"),
        None => {
            tool.was_killed();
            tool.said_nothing();
        }
    }
}

#[test]
fn an_approval_for_a_while_is_a_lease() {
    let mut s = Scene::new("");
    s.be_held();
    s.guard.approve(&["--for", "1h"]);
    assert_eq!(s.tool.answer()["echo"], "hello");
    assert_eq!(s.tool.must(&s.connect)["echo"], "hello");
    let grants = s.guard.json(&["grants"]);
    assert_eq!(grants["grants"][0]["label"], "infra", "{grants}");
    assert_eq!(grants["grants"][0]["state"], "active");
    s.events.wait("the lease", |e| e.is("grant"));
}

#[test]
fn a_lease_lets_pass_and_ends_by_time_or_by_word() {
    let mut s = Scene::new("");
    let session = s.session();
    let grant = ["grant", &session, "--label", "infra", "--for"];
    let given = s.guard.json(&[&grant[..], &["3s"]].concat());
    assert_eq!(given["grant"]["label"], "infra", "{given}");
    assert_eq!(s.tool.must(&s.connect)["echo"], "hello");
    let_pass(Duration::from_millis(3100));
    s.be_held();
    s.guard.approve(&[]);
    assert_eq!(s.tool.answer()["echo"], "hello");

    let given = s
        .guard
        .json(&[&grant[..], &["1h", "--reason", "because"]].concat());
    assert_eq!(given["grant"]["reason"], "because");
    assert_eq!(s.tool.must(&s.connect)["echo"], "hello");
    s.guard
        .must(&["revoke", given["grant"]["id"].as_str().unwrap()]);
    s.be_held();
    s.guard.deny(&[]);
    let states: Vec<_> = s.guard.json(&["grants"])["grants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|grant| grant["state"].clone())
        .collect();
    assert_eq!(states, ["expired", "revoked"]);
}

#[test]
fn answers_to_what_does_not_exist_are_refused() {
    let s = Scene::new("");
    for args in [
        &["approve", "h-99"][..],
        &["deny", "h-99"],
        &["revoke", "g-99"],
        &["kill", "s-99"],
        &["show", "s-99"],
        &["grant", "s-99", "--label", "infra"],
    ] {
        let said = s.guard.ctl(args);
        assert_eq!(said.status, 1, "{args:?}: {said:?}");
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
    }
    let said = s.guard.ctl(&["grant", &s.session(), "--label", "nonsense"]);
    assert!(matches!(said.status, 1 | 2), "{said:?}");
}

#[test]
fn a_hold_of_the_whole_session_stops_every_process_of_it() {
    let mut s = Scene::new("scope = \"session\"");
    let idle = s.tool.must("idle")["pid"].as_u64().unwrap() as u32;
    s.be_held();
    proc::wait_stopped(idle);
    s.guard.approve(&[]);
    assert_eq!(s.tool.answer()["echo"], "hello");
    proc::wait_running(idle);
}

#[test]
fn a_hold_of_one_process_leaves_the_others_running() {
    let mut s = Scene::new("");
    let idle = s.tool.must("idle")["pid"].as_u64().unwrap() as u32;
    s.be_held();
    assert_ne!(proc::state(idle), Some('T'));
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
}

#[test]
fn a_held_process_that_is_killed_from_outside_waits_no_more() {
    let mut s = Scene::new("");
    s.be_held();
    proc::signal(s.tool.pid(), Signal::KILL);
    s.tool.was_killed();
    eventually("no hold waits", || s.guard.holds().is_empty().then_some(()));
    s.server.untouched_while_held(&s.guard);
}

#[test]
fn sigcont_from_outside_does_not_let_a_held_call_through() {
    let mut s = Scene::new("");
    if !s.guard.holds_exactly() {
        guard_tests::skipped("a held connect has happened on this kernel: nothing is repeated");
        return;
    }
    s.be_held();
    proc::signal(s.tool.pid(), Signal::CONT);
    // The call is repeated and held again.
    eventually("it is stopped again", || {
        (proc::state(s.tool.pid()) == Some('T')).then_some(())
    });
    s.tool.is_silent();
    s.server.untouched();
    assert_eq!(s.guard.holds().len(), 1);
    s.guard.deny(&[]);
    assert_eq!(s.tool.answer()["errno"], libc::EPERM);
}

#[test]
fn a_held_datagram_never_arrives() {
    let (place, server) = (Place::new(), Udp::v4());
    let policy =
        Policy::new()
            .addresses("infra", &[server.addr()])
            .rule("r", &["infra"], "hold", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    tool.tell(&format!("udp-sendto {} hello", server.addr()));
    guard.deny(&[]);
    // The call has failed before the stop, whatever the answer.
    assert_eq!(tool.answer()["errno"], libc::EPERM);
    server.untouched();
}

#[test]
fn a_paused_session_stands_still_whatever_it_was_doing() {
    let mut s = Scene::new("");
    let session = s.session();
    let idle = s.tool.must("idle-tree")["pids"].clone();
    let pids: Vec<u32> = serde_json::from_value(idle).unwrap();
    // Forks for as long as it runs.
    let forking = s.place.script("forks", "while :; do /bin/true; done");
    s.tool.must(&format!("spawn sh {}", forking.display()));
    s.guard.must(&["pause", &session]);
    for pid in pids.iter().chain([&s.tool.pid()]) {
        proc::wait_stopped(*pid);
    }
    eventually("every process is stopped", || {
        let shown = s.guard.json(&["show", &session]);
        let tree = shown["tree"].as_array().unwrap();
        let alive: Vec<u32> = tree
            .iter()
            .map(|p| p["pid"].as_u64().unwrap() as u32)
            .collect();
        alive
            .iter()
            // D: the parent of a vfork, which waits uninterruptibly for its child, and that is stopped.
            .all(|pid| matches!(proc::state(*pid), Some('T' | 'D' | 'Z') | None))
            .then_some(())
    });
    assert_eq!(s.guard.sessions()[0]["state"], "paused");
    s.tool.tell("who");
    s.tool.is_silent();
    s.guard.must(&["resume", &session]);
    s.tool.answer();
    for pid in &pids {
        proc::wait_running(*pid);
    }
    s.guard.must(&["kill", &session]);
    s.tool.was_killed();
    for pid in &pids {
        proc::wait_ended(*pid);
    }
    eventually("the session is over", || {
        s.guard.sessions().is_empty().then_some(())
    });
    let all = s.guard.json(&["sessions", "--all"]);
    assert_eq!(all["sessions"][0]["state"], "ended", "{all}");
}

#[test]
fn killing_a_session_kills_what_is_held_too() {
    let mut s = Scene::new("");
    let session = s.session();
    s.be_held();
    s.guard.must(&["kill", &session]);
    s.tool.was_killed();
    s.server.untouched_while_held(&s.guard);
    eventually("no hold waits", || s.guard.holds().is_empty().then_some(()));
}

#[test]
fn an_approval_of_one_open_is_not_one_of_the_next() {
    let place = Place::new();
    let (one, two) = (place.file("one", "1"), place.file("two", "2"));
    let policy = Policy::new()
        .files("secret", &[one.display(), two.display()])
        .rule("r", &["secret"], "hold", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    for file in [&one, &two, &one] {
        tool.tell(&format!("open openat {}", file.display()));
        guard.hold();
        proc::wait_stopped(tool.pid());
        tool.is_silent();
        guard.approve(&[]);
        assert!(tool.answer().get("error").is_none());
    }
}

#[test]
fn a_held_connection_can_be_denied_after_a_reload() {
    let mut s = Scene::new("on_timeout = \"kill\"");
    s.be_held();
    s.guard.must(&["policy", "reload"]);
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
    s.server.untouched_while_held(&s.guard);
}

#[test]
fn a_process_whose_first_thread_has_ended_is_held_like_any_other() {
    let place = Place::new();
    let secret = place.file("secret", "x");
    let policy =
        Policy::new()
            .files("secret", &[secret.display()])
            .rule("r", &["secret"], "hold", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    tool.must("leader-exit");
    tool.tell(&format!("open openat {}", secret.display()));
    let hold = guard.hold();
    // Several rounds of guardd's looking after holds leave it held.
    let_pass(Duration::from_secs(1));
    assert_eq!(guard.hold()["id"], hold["id"]);
    tool.is_silent();
    guard.approve(&[]);
    assert!(tool.answer().get("error").is_none());
    // And it can be paused.
    let session = guard.session_of(tool.pid()).unwrap();
    guard.must(&["pause", &session]);
    tool.tell("who");
    let_pass(Duration::from_millis(300));
    tool.is_silent();
    guard.must(&["resume", &session]);
    tool.answer();
}
