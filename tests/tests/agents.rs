//! How an agent is found, and what becomes a session by it.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
};

use guard_tests::{Guard, Place, Policy, Tool, eventually, has_program, proc, server::Tcp};

/// A policy with one agent and a labelled file.
fn policy(place: &Place, exe: &str, env: &str) -> Policy {
    let secret = place.file("secret", "hunter2");
    Policy::new()
        .agent("fixture", exe, env)
        .files("secret", &[secret.display()])
}

fn open(place: &Place) -> String {
    format!("open openat {}", place.path("secret").display())
}

/// Asserts that the tool is in a session that was found so.
#[track_caller]
fn is_session(place: &Place, guard: &Guard, tool: &mut Tool, origin: &str) -> String {
    let Some(session) = guard.sessions().pop() else {
        panic!("no session by {origin}: {:?}", guard.events_now());
    };
    assert_eq!(session["origin"], origin, "{session}");
    assert_eq!(session["agent"], "fixture", "{session}");
    let mut events = guard.events();
    tool.must(&open(place));
    let pid = tool.pid();
    let event = events.wait("its open", |e| e.is("open") && e.of(pid));
    assert_eq!(event.text("agent"), "fixture");
    assert_eq!(event.session(), session["id"].as_str().unwrap());
    event.session().to_owned()
}

#[test]
fn an_agent_is_found_at_its_exec_by_its_name() {
    let place = Place::new();
    let agent = place.tool("agent");
    let guard = Guard::new(&place, &policy(&place, &place.name("agent"), ""));
    let mut tool = Tool::start(place.command(&agent));
    is_session(&place, &guard, &mut tool, "exec");
    assert_eq!(guard.sessions()[0]["root_pid"], tool.pid());
}

#[test]
fn an_agent_is_found_by_a_link_and_by_argv0_and_by_its_path() {
    let place = Place::new();
    let version = place.tool("2.1.330");
    let name = place.name("agent");
    let link = place.path(&name);
    std::os::unix::fs::symlink(&version, &link).unwrap();
    let glob = format!(
        "**/{}/bin-*",
        place.dir().file_name().unwrap().to_str().unwrap()
    );
    let globbed = place.program(&version, "bin-x");
    let policy = policy(&place, &format!("{name}\", \"{glob}"), "");
    let guard = Guard::new(&place, &policy);
    let mut by_argv0 = place.command(&version);
    by_argv0.arg0(&name);
    for command in [place.command(&link), by_argv0, place.command(&globbed)] {
        let mut tool = Tool::start(command);
        is_session(&place, &guard, &mut tool, "exec");
    }
    // Neither its name nor where it lies.
    let before = guard.json(&["sessions", "--all"])["sessions"]
        .as_array()
        .unwrap()
        .len();
    let mut other = Tool::start(place.command(&version));
    other.must(&open(&place));
    let after = guard.json(&["sessions", "--all"])["sessions"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(before, after);
}

#[test]
fn an_agent_is_found_by_the_script_that_an_interpreter_runs() {
    if !has_program("python3") {
        return;
    }
    let place = Place::new();
    let tool = place.tool("body");
    let name = place.name("script");
    let text = format!("#!/bin/sh\nexec {}\n", tool.display());
    let shell: PathBuf = place.script(&name, &text);
    let python = place.file(
        &format!("{name}.py"),
        &format!("import os\nos.execv('{0}', ['{0}'])\n", tool.display()),
    );
    let policy = policy(&place, &format!("{name}\", \"{name}.py"), "");
    let guard = Guard::new(&place, &policy);
    let mut by_shell = place.command("/bin/sh");
    by_shell.arg("-e").arg(&shell);
    // As busybox is a shell: a file of another name, by a link.
    let link = place.path("sh");
    let file = place.program(&std::fs::canonicalize("/bin/sh").unwrap(), "box");
    std::os::unix::fs::symlink(file, &link).unwrap();
    let mut by_link = place.command(&link);
    by_link.arg("-e").arg(&shell);
    let mut by_python = place.command("python3");
    by_python.arg("-I").arg(&python);
    // Executed by its own path, a script is what was executed.
    for (command, origin) in [
        (place.command(&shell), "exec"),
        (by_shell, "script"),
        (by_link, "script"),
        (by_python, "script"),
    ] {
        let mut tool = Tool::start(command);
        is_session(&place, &guard, &mut tool, origin);
    }
}

#[test]
fn what_carries_an_agents_marker_is_a_session_and_its_parent_is_not() {
    let place = Place::new();
    let marker = format!("GUARD_FIXTURE_{}", place.name("m").replace('-', "_"));
    let guard = Guard::new(&place, &policy(&place, "", &format!("{marker}=1")));
    let mut events = guard.events();
    let command = |value: &str| {
        let mut command = place.command("/usr/bin/cat");
        command
            .arg(place.path("secret"))
            .env(&marker, value)
            .output()
            .unwrap();
    };
    // The wrong value is no marker.
    command("0");
    let mut one = place.command(place.tool("one"));
    one.env(&marker, "1");
    let mut tool = Tool::start(one);
    let session = is_session(&place, &guard, &mut tool, "env");
    // The same marker, from the same parent: the same session.
    command("1");
    let event = events.wait("the second's open", |e| {
        e.is("open") && e.text("comm") == "cat"
    });
    assert_eq!(event.session(), session);
    assert_eq!(
        guard.json(&["sessions", "--all"])["sessions"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    // The parent is this very test.
    assert_eq!(guard.session_of(std::process::id()), None);
    place
        .command("/usr/bin/cat")
        .arg(place.path("secret"))
        .output()
        .unwrap();
    tool.must(&open(&place));
    let opens = || guard.events_now().iter().filter(|e| e.is("open")).count();
    eventually("three opens are told", || (opens() == 3).then_some(()));
}

#[test]
fn a_marker_deep_in_a_large_environment_is_found() {
    let place = Place::new();
    let marker = format!("GUARD_FIXTURE_{}", place.name("m").replace('-', "_"));
    let guard = Guard::new(&place, &policy(&place, "", &marker));
    let mut command = place.command(place.tool("one"));
    command.env_clear().env(guard_tests::MARK, place.id());
    for n in 0..60 {
        command.env(format!("A_{n:02}"), "x".repeat(80));
    }
    // Sorted behind all others.
    command.env(&marker, "anything");
    let mut tool = Tool::start(command);
    is_session(&place, &guard, &mut tool, "env");
}

#[test]
fn run_makes_a_session_and_names_it() {
    let place = Place::new();
    let guard = Guard::new(&place, &policy(&place, "none-of-this-name", ""));
    let tool = place.tool("body");
    let options = ["--agent", "fixture", "--intent", "mend the staging server"];
    let mut tool = Tool::start(guard.run(&options, &tool));
    let session = is_session(&place, &guard, &mut tool, "run");
    assert_eq!(guard.sessions()[0]["intent"], "mend the staging server");
    assert_eq!(tool.must("env GUARD_SESSION")["value"], session);
    guard.must(&["intent", &session, "something else"]);
    assert_eq!(guard.sessions()[0]["intent"], "something else");
    guard.must(&["intent", &session, "--clear"]);
    assert!(guard.sessions()[0].get("intent").is_none());
}

#[test]
fn adopt_takes_a_running_process_and_all_below_it() {
    let place = Place::new();
    let guard = Guard::new(&place, &policy(&place, "none-of-this-name", ""));
    let mut tool = guard.stranger();
    let tree: Vec<u32> = serde_json::from_value(tool.must("idle-tree")["pids"].clone()).unwrap();
    let adopted = guard.json(&["adopt", &tool.pid().to_string(), "--agent", "fixture"]);
    assert_eq!(adopted["processes"], 3, "{adopted}");
    let session = is_session(&place, &guard, &mut tool, "adopt");
    assert_eq!(adopted["session"], session);
    for pid in tree {
        assert_eq!(guard.session_of(pid), Some(session.clone()));
    }
    // Children to come belong to it as well.
    let child = tool.must(&format!("fork double {}", place.path("secret").display()));
    let mut events = guard.events();
    events.wait("the child's open", |e| {
        e.is("open") && e["tgid"] == child["pid"]
    });
}

#[test]
fn adopting_what_does_not_exist_is_refused() {
    let place = Place::new();
    let guard = Guard::new(&place, &policy(&place, "none-of-this-name", ""));
    let mut ended = place.command("/bin/true").spawn().unwrap();
    let pid = ended.id().to_string();
    ended.wait().unwrap();
    assert_eq!(guard.ctl(&["adopt", &pid]).status, 1);
    let said = guard.ctl(&["adopt", "1"]);
    assert_ne!(said.status, 0, "the whole machine is no session: {said:?}");
    assert_ne!(
        guard.ctl(&["adopt", &guard.pid().to_string()]).status,
        0,
        "nor is guardd"
    );
    assert!(guard.sessions().is_empty());
}

#[test]
fn an_agent_that_runs_already_is_adopted_when_guardd_starts() {
    let place = Place::new();
    let agent = place.tool("agent");
    let mut tool = Tool::start(place.command(&agent));
    let tree: Vec<u32> = serde_json::from_value(tool.must("idle-tree")["pids"].clone()).unwrap();
    let guard = Guard::new(&place, &policy(&place, &place.name("agent"), ""));
    let session = is_session(&place, &guard, &mut tool, "proc");
    for pid in tree {
        assert_eq!(guard.session_of(pid), Some(session.clone()));
    }
}

#[test]
fn an_agent_that_an_agent_starts_is_a_session_inside_and_both_see_it() {
    let (place, server) = (Place::new(), Tcp::v4());
    let agent = place.tool("agent");
    let policy = policy(&place, &place.name("agent"), "")
        .addresses("infra", &[server.addr()])
        .rule("r", &["secret", "infra"], "deny", "");
    let guard = Guard::new(&place, &policy);
    let body = place.tool("body");
    let mut outer = Tool::start(guard.run(&["--agent", "outer"], &body));
    let connect = format!("tcp {} hello", server.addr());
    let inner = |command: &str| format!("run {} {command}", agent.display());
    // What the inner does first and alone fires nothing.
    let said = outer.must(&inner(&connect));
    assert_eq!(
        said["stdout"].as_str().unwrap().trim(),
        "{\"echo\":\"hello\"}",
        "{said}"
    );
    // First step outside, second inside: the outer session's rule.
    outer.must(&open(&place));
    let said = outer.must(&inner(&connect));
    assert!(
        said["stdout"].as_str().unwrap().contains("\"errno\":1"),
        "{said}"
    );
    assert_eq!(server.reached().connections, 1);
    let sessions = guard.json(&["sessions", "--all"])["sessions"].clone();
    let sessions = sessions.as_array().unwrap();
    let of = |agent: &str| {
        sessions
            .iter()
            .filter(|s| s["agent"] == agent)
            .collect::<Vec<_>>()
    };
    let inside = of("fixture");
    assert_eq!(inside.len(), 2, "{sessions:#?}");
    assert!(
        inside.iter().all(|s| s["parent"] == of("outer")[0]["id"]),
        "{sessions:#?}"
    );
}

#[test]
fn a_fact_of_the_inner_session_is_one_of_the_outer() {
    let (place, server) = (Place::new(), Tcp::v4());
    let agent = place.tool("agent");
    let policy = policy(&place, &place.name("agent"), "")
        .addresses("infra", &[server.addr()])
        .rule("r", &["secret", "infra"], "deny", "");
    let guard = Guard::new(&place, &policy);
    let mut outer = Tool::start(guard.run(&["--agent", "outer"], place.tool("body")));
    outer.must(&format!("run {} {}", agent.display(), open(&place)));
    assert_eq!(
        outer.ask(&format!("tcp {} x", server.addr()))["errno"],
        libc::EPERM
    );
    server.untouched();
}

#[test]
fn killing_the_outer_session_kills_the_inner() {
    let place = Place::new();
    let agent = place.tool("agent");
    let guard = Guard::new(&place, &policy(&place, &place.name("agent"), ""));
    let mut outer = Tool::start(guard.run(&["--agent", "outer"], place.tool("body")));
    let script = place.script(
        "waits",
        &format!("#!/bin/sh\nsleep 600 | {}\n", agent.display()),
    );
    outer.must(&format!("spawn {}", script.display()));
    let inner = eventually("the inner session", || {
        let sessions = guard.sessions();
        sessions.iter().find(|s| s["agent"] == "fixture").cloned()
    });
    let outer_id = inner["parent"].as_str().unwrap();
    guard.must(&["kill", outer_id]);
    outer.was_killed();
    proc::wait_ended(inner["root_pid"].as_u64().unwrap() as u32);
    eventually("no session is left", || {
        guard.sessions().is_empty().then_some(())
    });
}

#[test]
fn a_session_inside_more_sessions_than_are_judged_does_not_begin() {
    let place = Place::new();
    let secret = place.file("secret", "x");
    let policy = Policy::new()
        .files("secret", &[secret.display()])
        .argv("stop", &["true **", "true"])
        .rule("r", &["secret", "stop"], "kill", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    tool.must(&format!("open openat {}", secret.display()));
    let socket = guard.socket().display().to_string();
    let guardctl = guard.guardctl().get_program().to_owned();
    let run = format!("{} --socket {socket} run -- ", guardctl.display());
    // As deep as is judged the outermost session's facts still count.
    let answer = tool.must(&format!("run {}true", run.repeat(3)));
    assert_eq!(answer["status"], 137, "{answer}");
    let answer = tool.must(&format!("run {}true", run.repeat(4)));
    assert_eq!(answer["status"], 1, "{answer}");
    assert!(
        answer["stderr"]
            .as_str()
            .unwrap()
            .contains("no session of its own"),
        "{answer}"
    );
    let status = guard.json(&["status"]);
    assert!(status.to_string().contains("no session of its own"));
}

#[test]
fn the_program_that_a_session_begins_with_is_excepted_like_any_other() {
    let place = Place::new();
    let secret = place.file("secret", "x");
    let (agent, other) = (place.tool("agent"), place.tool("other"));
    let (excepted, named) = (place.name("agent"), place.name("other"));
    let policy = Policy::new()
        .agent("one", &excepted, "")
        .agent("two", &named, "")
        .files("secret", &[secret.display()])
        .and(&format!("except.exe = [\"{excepted}\"]"));
    let guard = Guard::new(&place, &policy);
    // A second that programs must be older than their session.
    guard_tests::let_pass(std::time::Duration::from_millis(1100));
    let open = format!("open openat {}", secret.display());
    let mut first = Tool::start(place.command(&agent));
    first.must(&open);
    // Also when it is a session inside another.
    let mut second = Tool::start(guard.run(&[], &agent));
    second.must(&open);
    let mut third = Tool::start(place.command(&other));
    third.must(&open);
    let opens = eventually("the other's open", || {
        let opens: Vec<_> = guard
            .events_now()
            .into_iter()
            .filter(|e| e.is("open"))
            .collect();
        (!opens.is_empty()).then_some(opens)
    });
    assert_eq!(opens.len(), 1, "{opens:#?}");
    assert!(opens[0].of(third.pid()), "{opens:#?}");
}

#[test]
fn a_script_is_found_whatever_arguments_it_has() {
    if !has_program("python3") {
        return;
    }
    let place = Place::new();
    let name = place.name("script");
    let secret = place.path("secret");
    let python = place.file(
        &format!("{name}.py"),
        "import sys\nopen(sys.argv[1]).read()\n",
    );
    let guard = Guard::new(&place, &policy(&place, &format!("{name}.py"), ""));
    for count in [0, 6, 7, 8, 9, 20] {
        let output = place
            .command("python3")
            .arg("-I")
            .arg(&python)
            .arg(&secret)
            .args((0..count).map(|n| n.to_string()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let open = eventually(&format!("an open with {count} more arguments"), || {
            guard
                .events_now()
                .into_iter()
                .filter(|e| e.is("open"))
                .nth(match count {
                    0 => 0,
                    6 => 1,
                    7 => 2,
                    8 => 3,
                    9 => 4,
                    _ => 5,
                })
        });
        assert_eq!(open.text("agent"), "fixture");
    }
}

#[test]
fn an_argument_that_names_an_excepted_script_excepts_nothing() {
    if !has_program("python3") {
        return;
    }
    let place = Place::new();
    let secret = place.file("secret", "x");
    let trusted = place.name("trusted");
    let steal = place.file("steal.py", "import sys\nopen(sys.argv[1]).read()\n");
    let policy = Policy::new()
        .files("secret", &[secret.display()])
        .and(&format!("except.exe = [\"{trusted}\"]"));
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    let claim = format!("/usr/bin/{trusted}");
    // No interpreter, though it is called like one.
    let fake = place.program(Path::new("/usr/bin/cat"), "python3");
    let (steal, secret) = (steal.display(), secret.display());
    for command in [
        format!("{} {claim} {secret}", fake.display()),
        format!("python3 {steal} {secret} 3 4 5 6 7 8 {claim}"),
        format!("python3 {steal} {secret} 3 4 5 6 7 8 9 {claim} 11"),
        format!("python3 -W {claim} {steal} {secret}"),
    ] {
        let before = guard.events_now().iter().filter(|e| e.is("open")).count();
        tool.must(&format!("run {command}"));
        eventually(&command, || {
            let now = guard.events_now().iter().filter(|e| e.is("open")).count();
            (now > before).then_some(())
        });
    }
}

#[test]
fn a_marker_is_found_behind_a_large_environment() {
    let place = Place::new();
    let marker = format!("GUARD_FIXTURE_{}", place.name("m").replace('-', "_"));
    let guard = Guard::new(&place, &policy(&place, "", &format!("{marker}=1")));
    // The environment is in the order in which it is given to `env`.
    for size in [100, 8_180, 8_185, 8_190, 30_000, 60_000] {
        let mut command = place.command("/usr/bin/env");
        command
            .env_clear()
            .arg("-i")
            .arg(format!("A={}", "x".repeat(size)))
            .arg(format!("{marker}=1"))
            .arg(format!("{}={}", guard_tests::MARK, place.id()))
            .arg(place.tool(&format!("t{size}")));
        let mut tool = Tool::start(command);
        is_session(&place, &guard, &mut tool, "env");
    }
}

#[test]
fn a_tree_that_is_adopted_keeps_the_sessions_inside_it() {
    let place = Place::new();
    let agent = place.program(Path::new("/usr/bin/sleep"), &place.name("agent"));
    let guard = Guard::new(&place, &policy(&place, &place.name("agent"), ""));
    // A stranger that starts an agent.
    let mut stranger = guard.stranger();
    let started = stranger.must(&format!("spawn {} 60", agent.display()));
    let inner_pid = started["pid"].as_u64().unwrap() as u32;
    let inner = eventually("the agent's session", || guard.session_of(inner_pid));
    let outer = guard.json(&["adopt", &stranger.pid().to_string()])["session"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(guard.session_of(inner_pid), Some(inner.clone()));
    let shown = guard.json(&["show", &inner]);
    assert!(shown.to_string().contains(&outer), "{shown}");
}
