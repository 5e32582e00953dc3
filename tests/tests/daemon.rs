//! guardd as a neighbour: what it attaches and when, and others beside it.

use guard_tests::{Guard, Place, Policy, Tool, eventually, proc, server::Tcp};

#[test]
fn without_a_session_no_hook_is_on_any_call() {
    let place = Place::new();
    let secret = place.file("secret", "x");
    let guard = Guard::new(&place, &Policy::new().files("secret", &[secret.display()]));
    let calls = ["open", "connect", "unix-connect"];
    for watched in calls {
        assert_eq!(guard.hook(watched)["attached"], false, "{watched}");
    }
    assert_eq!(guard.hook("lineage")["attached"], true);
    assert_eq!(guard.hook("exec")["attached"], true);
    for _ in 0..2 {
        let tool = guard.tool();
        let second = guard.tool();
        for watched in calls {
            let hook = guard.hook(watched);
            assert_eq!(hook["attached"], true, "{hook}");
        }
        tool.finish();
        assert_eq!(guard.hook("open")["attached"], true, "one session is left");
        second.finish();
        // Before Linux 5.13 what is attached to a function stays there.
        let stays = |watched: &str| guard.hook(watched).to_string().contains("it stays there");
        for watched in calls.into_iter().filter(|watched| !stays(watched)) {
            eventually(&format!("{watched} is detached"), || {
                (guard.hook(watched)["attached"] == false).then_some(())
            });
        }
    }
}

#[test]
fn an_agent_is_watched_from_its_first_instruction() {
    // The hooks on calls come with the session. Whatever the program does first is seen.
    let place = Place::new();
    let (agent, secret) = (place.tool("agent"), place.file("secret", "x"));
    let policy = Policy::new()
        .agent("fixture", &place.name("agent"), "")
        .files("secret", &[secret.display()]);
    let guard = Guard::new(&place, &policy);
    for n in 1..=5 {
        let mut command = place.command(&agent);
        let output = command
            .args(["open", "openat"])
            .arg(&secret)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        eventually("the open is told", || {
            let opens = guard.events_now().iter().filter(|e| e.is("open")).count();
            (opens == n).then_some(())
        });
        eventually("its session is over", || {
            guard.sessions().is_empty().then_some(())
        });
    }
}

#[test]
fn two_daemons_with_different_policies_do_not_disturb_each_other() {
    let place = Place::new();
    let (one_server, other_server) = (Tcp::v4(), Tcp::v4());
    let policy = |agent: &str, server: &Tcp| {
        Policy::new()
            .agent(agent, &place.name(agent), "")
            .addresses("infra", &[server.addr()])
            .rule("r", &["infra"], "deny", "")
    };
    let (one_tool, other_tool) = (place.tool("one"), place.tool("other"));
    let one = Guard::of(&place)
        .named("guard-1")
        .start(&policy("one", &one_server));
    let other = Guard::of(&place)
        .named("guard-2")
        .start(&policy("other", &other_server));
    let mut first = Tool::start(place.command(&one_tool));
    let mut second = Tool::start(place.command(&other_tool));
    assert_eq!(one.sessions().len(), 1);
    assert_eq!(other.sessions().len(), 1);
    let to = |server: &Tcp| format!("tcp {} x", server.addr());
    assert_eq!(first.ask(&to(&one_server))["errno"], libc::EPERM);
    assert_eq!(first.must(&to(&other_server))["echo"], "x");
    assert_eq!(second.ask(&to(&other_server))["errno"], libc::EPERM);
    assert_eq!(second.must(&to(&one_server))["echo"], "x");
    // The end of one changes nothing for the other.
    drop(one);
    assert_eq!(second.ask(&to(&other_server))["errno"], libc::EPERM);
    assert_eq!(first.must(&to(&one_server))["echo"], "x");
    assert_eq!(other.hook("connect")["attached"], true);
}

#[test]
fn a_program_may_be_in_a_session_of_each_of_two_daemons() {
    let place = Place::new();
    let server = Tcp::v4();
    let (early, agent) = (place.tool("early"), place.tool("agent"));
    let policy = |then: &str| {
        Policy::new()
            .agent("fixture", &place.name("agent"), "")
            .addresses("infra", &[server.addr()])
            .rule("r", &["infra"], then, "")
    };
    let one = Guard::of(&place)
        .named("guard-1")
        .start(&policy("flag").agent("early", &place.name("early"), ""));
    let other = Guard::of(&place).named("guard-2").start(&policy("deny"));
    // The hooks of the first are in place and it lets the agent go on at once, while the other still
    // attaches its own.
    let _early = Tool::start(place.command(&early));
    let mut tool = Tool::start(place.command(&agent));
    assert_eq!(
        tool.ask(&format!("tcp {} x", server.addr()))["errno"],
        libc::EPERM
    );
    one.events()
        .wait("the flag", |e| e.is_connect("infra", "flag"));
    other
        .events()
        .wait("the denial", |e| e.is_connect("infra", "deny"));
}

#[test]
fn what_two_daemons_hold_goes_on_when_both_have_let_it_go() {
    let place = Place::new();
    let secret = place.file("secret", "x");
    let agent = place.tool("agent");
    let policy = Policy::new()
        .agent("fixture", &place.name("agent"), "")
        .files("secret", &[secret.display()])
        .rule(
            "r",
            &["secret"],
            "hold",
            "timeout = \"1m\"\non_timeout = \"kill\"",
        );
    let one = Guard::of(&place).named("guard-1").start(&policy);
    let other = Guard::of(&place).named("guard-2").start(&policy);
    let mut tool = Tool::start(place.command(&agent));
    tool.tell(&format!("open openat {}", secret.display()));
    // Where a program may refuse the call, the first refusal keeps the second guard from being asked until the call is
    // repeated, which then comes to the first one again: they are asked in turn. Elsewhere both hold it at once.
    let guards = [&one, &other];
    let mut let_go = [0; 2];
    let answer = loop {
        enum Next {
            Asked(usize),
            Answered(serde_json::Value),
        }
        let next = eventually("a hold, or the tool's answer", || {
            let asks = guards.iter().position(|guard| !guard.holds().is_empty());
            let answered = || tool.answered().map(Next::Answered);
            asks.map(Next::Asked).or_else(answered)
        });
        match next {
            Next::Answered(answer) => break answer,
            Next::Asked(at) => {
                proc::wait_stopped(tool.pid());
                tool.is_silent();
                guards[at].approve(&[]);
                let_go[at] += 1;
            }
        }
        assert!(let_go.iter().sum::<u32>() < 8, "there is no end to it");
    };
    assert!(answer.get("error").is_none(), "{answer}");
    assert!(let_go[0] > 0 && let_go[1] > 0, "{let_go:?}");
}

#[test]
fn status_tells_what_there_is_to_know() {
    let place = Place::new();
    let secret = place.file("secret", "x");
    let policy = Policy::new()
        .files("secret", &[secret.display()])
        .and("[[label]]\nname = \"named\"\nrequests = [{ host = \"api.example.com\", method = \"DELETE\" }]");
    let guard = Guard::new(&place, &policy);
    let _tool = guard.tool();
    let status = guard.json(&["status"]);
    assert_eq!(status["state"], "ok", "{status}");
    assert_eq!(status["mode"], "enforce");
    assert_eq!(status["pid"], guard.pid());
    assert_eq!(status["policy"], guard.policy().to_str().unwrap());
    assert_eq!(status["state_dir"], guard.state_dir().to_str().unwrap());
    assert_eq!(status["sessions"], 1);
    assert_eq!(status["processes"], 1);
    assert_eq!(status["lineage_used"], 1);
    assert!(
        status["not_enforced"]
            .to_string()
            .contains("abstract unix sockets"),
        "{status}"
    );
    assert!(
        status["counters"]
            .as_array()
            .unwrap()
            .iter()
            .all(|c| c["lost"] == 0),
        "{status}"
    );
    let said = guard.must(&["status"]).out;
    for word in [
        "enforce",
        "lineage",
        "open",
        "connect",
        "tracepoint",
        "cgroup",
    ] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
}

#[test]
fn idle_guardd_is_small() {
    let place = Place::new();
    let guard = Guard::new(&place, &Policy::new().agent("x", &place.name("nobody"), ""));
    guard.must(&["status"]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", guard.pid())).unwrap();
    let rss = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kib: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib <= 25 * 1024, "{kib} KiB");
}

#[test]
fn doctor_says_what_works_here_without_a_daemon() {
    let place = Place::new();
    let guard = Guard::new(&place, &Policy::new().agent("x", &place.name("nobody"), ""));
    let said = guard.ctl(&["--json", "doctor"]);
    assert_eq!(said.status, 0, "{said:?}");
    let report = said.json();
    let checks = report["checks"].as_array().unwrap();
    assert!(!checks.is_empty(), "{report}");
    assert!(
        checks
            .iter()
            .all(|check| check["ok"] == true || check["required"] == false)
    );
    // A tier that serves is never told as one that does not: what only a policy turns on is loaded all the same.
    for hook in guard.json(&["status"])["hooks"].as_array().unwrap() {
        let check = checks.iter().find(|check| check["name"] == hook["watched"]);
        let check = check.unwrap_or_else(|| panic!("{hook} is not in {report}"));
        assert_eq!(check["ok"], hook["tier"] != "none", "{check} {hook}");
        assert_eq!(check["mend"].is_string(), check["ok"] == false, "{check}");
    }
    let summary = report["summary"].as_str().unwrap();
    assert!(
        summary.starts_with("On ") && summary.contains("guard can run."),
        "{summary}"
    );
    let denies = guard.hook("open")["can"]
        .as_array()
        .unwrap()
        .contains(&"deny".into());
    assert_eq!(
        summary.contains("A denied file is not opened"),
        denies,
        "{summary}"
    );
    let people = guard.ctl(&["doctor"]);
    assert!(people.out.lines().count() >= checks.len(), "{people:?}");
}
