//! What is left of sessions, holds and events when guardd ends, well or badly.

use guard_tests::{Guard, Place, Policy, Tool, eventually, proc, server::Tcp};

/// A guard that holds connections to a server, and a tool that is held.
struct Scene {
    tool: Tool,
    guard: Guard,
    server: Tcp,
    _place: Place,
}

impl Scene {
    fn held(more: &str) -> Self {
        let (place, server) = (Place::new(), Tcp::v4());
        let secret = place.file("secret", "hunter2");
        let policy = Policy::new()
            .files("secret", &[secret.display()])
            .addresses("infra", &[server.addr()])
            .rule("r", &["secret", "infra"], "hold", more);
        let guard = Guard::new(&place, &policy);
        let mut tool = guard.tool();
        tool.must(&format!("open openat {}", secret.display()));
        tool.tell(&format!("tcp {} hello", server.addr()));
        guard.hold();
        proc::wait_stopped(tool.pid());
        Self {
            tool,
            guard,
            server,
            _place: place,
        }
    }

    /// guardd may be down: `exact` is what it has said before.
    #[track_caller]
    fn refused(&mut self, exact: bool) {
        if exact {
            assert_eq!(self.tool.answer()["errno"], libc::EPERM);
        } else {
            self.tool.was_killed();
        }
    }

    #[track_caller]
    fn untouched(&self, exact: bool) {
        if exact {
            self.server.untouched();
        } else {
            assert_eq!(self.server.reached().bytes, 0);
        }
    }
}

#[test]
fn a_hold_outlives_a_killed_guardd_and_can_be_denied_after_its_restart() {
    let mut s = Scene::held("");
    let exact = s.guard.holds_exactly();
    let before = s.guard.hold();
    s.guard.kill();
    assert_eq!(proc::state(s.tool.pid()), Some('T'));
    s.guard.start();
    let after = s.guard.hold();
    for field in ["session", "pid", "rule", "target"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_eq!(proc::state(s.tool.pid()), Some('T'));
    s.guard.deny(&[]);
    s.refused(exact);
    s.untouched(exact);
}

#[test]
fn a_hold_outlives_a_killed_guardd_and_can_be_approved_after_its_restart() {
    let mut s = Scene::held("");
    s.guard.kill();
    s.guard.start();
    s.guard.approve(&[]);
    assert_eq!(s.tool.answer()["echo"], "hello");
    // The session goes on as the same one.
    let session = s.guard.session_of(s.tool.pid()).expect("a session");
    assert_eq!(session, "s-1");
}

#[test]
fn facts_and_progress_outlive_a_restart() {
    for badly in [true, false] {
        let (place, server) = (Place::new(), Tcp::v4());
        let secret = place.file("secret", "hunter2");
        let policy = Policy::new()
            .files("secret", &[secret.display()])
            .addresses("infra", &[server.addr()])
            .rule("r", &["secret", "infra"], "deny", "");
        let mut guard = Guard::new(&place, &policy);
        let mut tool = guard.tool();
        tool.must(&format!("open openat {}", secret.display()));
        eventually("the fact is known", || {
            let shown = guard.json(&["show", "s-1"]);
            (shown["facts"][0]["label"] == "secret").then_some(())
        });
        if badly {
            guard.kill();
        } else {
            assert!(guard.stop().success());
        }
        guard.start();
        assert_eq!(
            guard.session_of(tool.pid()).as_deref(),
            Some("s-1"),
            "killed: {badly}"
        );
        let answer = tool.ask(&format!("tcp {} hello", server.addr()));
        assert_eq!(answer["errno"], libc::EPERM, "killed: {badly}: {answer}");
    }
}

#[test]
fn children_made_while_guardd_was_away_are_in_the_session() {
    let place = Place::new();
    let secret = place.file("secret", "hunter2");
    let policy = Policy::new().files("secret", &[secret.display()]);
    let mut guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    guard.kill();
    let child = tool.must("idle")["pid"].as_u64().unwrap() as u32;
    guard.start();
    assert_eq!(guard.session_of(child).as_deref(), Some("s-1"));
}

#[test]
fn without_guardd_silence_still_decides_at_the_deadline() {
    for on_timeout in ["deny", "kill", "resume"] {
        let rule = format!("timeout = \"4s\"\non_timeout = \"{on_timeout}\"");
        let mut s = Scene::held(&rule);
        let exact = s.guard.holds_exactly();
        s.guard.kill();
        match on_timeout {
            "kill" => {
                s.tool.was_killed();
                s.untouched(exact);
            }
            // guardd's programs are in force without it.
            "deny" => {
                s.refused(exact);
                s.untouched(exact);
            }
            _ => assert_eq!(s.tool.answer()["echo"], "hello"),
        }
    }
}

#[test]
fn sigterm_with_a_hold_leaves_nothing_stopped_and_lets_nothing_through() {
    for on_timeout in ["deny", "kill"] {
        let mut s = Scene::held(&format!("timeout = \"4s\"\non_timeout = \"{on_timeout}\""));
        let exact = s.guard.holds_exactly();
        let status = s.guard.stop();
        assert!(status.success(), "{status}");
        if on_timeout == "kill" {
            s.tool.was_killed();
        } else {
            s.refused(exact);
        }
        s.untouched(exact);
    }
}

#[test]
fn sigterm_lets_a_paused_session_go_on() {
    let place = Place::new();
    let mut guard = Guard::new(&place, &Policy::new().agent("x", &place.name("nobody"), ""));
    let mut tool = guard.tool();
    guard.must(&["pause", "s-1"]);
    proc::wait_stopped(tool.pid());
    assert!(guard.stop().success());
    proc::wait_running(tool.pid());
    tool.must("who");
}

#[test]
fn guardd_killed_leaves_no_paused_session_stopped_for_ever() {
    let place = Place::new();
    let mut guard = Guard::new(&place, &Policy::new().agent("x", &place.name("nobody"), ""));
    let mut tool = guard.tool();
    guard.must(&["pause", "s-1"]);
    proc::wait_stopped(tool.pid());
    guard.kill();
    guard.start();
    // Either it goes on by itself, or it is still known as paused and can be resumed.
    if guard.sessions()[0]["state"] == "paused" {
        guard.must(&["resume", "s-1"]);
    }
    tool.must("who");
}

#[test]
fn acknowledged_events_survive_sigkill_without_a_gap() {
    let place = Place::new();
    let secret = place.file("secret", "hunter2");
    let policy = Policy::new().files("secret", &[secret.display()]);
    let mut guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    let mut before = Vec::new();
    for n in 0..3 {
        for _ in 0..100 {
            tool.must(&format!("open openat {}", secret.display()));
        }
        let mut events = guard.events();
        events.wait("a hundred opens", |e| e.seq() > n * 100 && e.is("open"));
        // What has been told is acknowledged.
        before = guard.events_now();
        guard.kill();
        guard.start();
    }
    let after = guard.events_now();
    assert!(after.len() >= before.len());
    for (n, event) in after.iter().enumerate() {
        assert_eq!(event.seq(), n as u64 + 1);
    }
    for (old, new) in before.iter().zip(&after) {
        assert_eq!(old.to_string(), new.to_string());
    }
    assert!(guard.stop().success());
    let said = guard.must(&["verify", "--state-dir", guard.state_dir().to_str().unwrap()]);
    assert!(!said.out.is_empty(), "{said:?}");
    guard.start();
}

#[test]
fn a_changed_journal_does_not_verify() {
    let place = Place::new();
    let mut guard = Guard::new(&place, &Policy::new().agent("x", &place.name("nobody"), ""));
    guard.tool().finish();
    assert!(guard.stop().success());
    let state = guard.state_dir();
    let dir = state.to_str().unwrap().to_owned();
    guard.must(&["verify", "--state-dir", &dir]);
    let script = format!(
        "find {dir} -type f -exec sed -i 's/\"agent\":\"guard-/\"agent\":\"gxard-/' {{}} +"
    );
    assert!(
        place
            .command("sh")
            .args(["-c", &script])
            .status()
            .unwrap()
            .success()
    );
    let said = guard.ctl(&["verify", "--state-dir", &dir]);
    assert_eq!(said.status, 1, "{said:?}");
}

#[test]
fn leases_outlive_a_restart() {
    let (place, server) = (Place::new(), Tcp::v4());
    let policy =
        Policy::new()
            .addresses("infra", &[server.addr()])
            .rule("r", &["infra"], "deny", "");
    let mut guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    guard.must(&["grant", "s-1", "--label", "infra", "--for", "1h"]);
    let connect = format!("tcp {} hello", server.addr());
    assert_eq!(tool.must(&connect)["echo"], "hello");
    guard.kill();
    guard.start();
    assert_eq!(guard.json(&["grants"])["grants"][0]["state"], "active");
    assert_eq!(tool.must(&connect)["echo"], "hello");
}

#[test]
fn guardd_leaves_no_program_attached() {
    let place = Place::new();
    let policy = Policy::new().agent("x", &place.name("nobody"), "");
    for badly in [true, false] {
        let mut guard = Guard::of(&place)
            .named(&format!("guard-{badly}"))
            .start(&policy);
        let pid = guard.pid();
        let tool = guard.tool();
        let has_programs = |pid: u32| {
            std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| {
                fds.flatten().any(|fd| {
                    std::fs::read_link(fd.path())
                        .is_ok_and(|to| to.to_string_lossy().contains("bpf-prog"))
                })
            })
        };
        assert!(has_programs(pid), "the check itself works");
        drop(tool);
        if badly {
            guard.kill();
        } else {
            assert!(guard.stop().success());
        }
        // Programs live as long as somebody has a descriptor of them: its sentinel must not.
        eventually("nobody of its kind has a program", || {
            place
                .processes()
                .into_iter()
                .all(|pid| !has_programs(pid))
                .then_some(())
        });
    }
}

#[test]
fn a_restarted_guardd_does_not_touch_what_is_held_by_another() {
    let held = Scene::held("");
    let place = Place::new();
    let policy = Policy::new().agent("x", &place.name("nobody"), "");
    let mut other = Guard::new(&place, &policy);
    // Both have a session s-1.
    let mut tool = other.tool();
    other.kill();
    other.start();
    assert_eq!(other.session_of(tool.pid()).as_deref(), Some("s-1"));
    assert_eq!(
        other.session_of(held.tool.pid()),
        None,
        "it took a process of another guardd's"
    );
    tool.must("who");
    assert_eq!(other.sessions()[0]["processes"], 1);
    assert_eq!(proc::state(held.tool.pid()), Some('T'));
    held.tool.is_silent();
    held.server.untouched_while_held(&held.guard);
}

#[test]
fn an_agent_that_waits_for_a_guardd_that_is_killed_goes_on() {
    let place = Place::new();
    let agent = place.tool("agent");
    let policy = Policy::new().agent("fixture", &place.name("agent"), "");
    let mut guard = Guard::new(&place, &policy);
    // A guardd that does not get to it.
    proc::signal(guard.pid(), rustix::process::Signal::STOP);
    let mut tool = Tool::launch(place.command(&agent));
    proc::wait_stopped(tool.pid());
    guard.kill();
    tool.must("who");
}
