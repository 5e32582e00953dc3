//! Who is told of a hold, and by what; that no channel keeps another, or guardd, from its work; and that what asks for
//! an answer there can be answered by nobody else.

use std::fmt::Write as _;

use guard_tests::{
    eventually, proc,
    pty::Pty,
    told::{Scene, herald, policy},
};
use rustix::process::Signal;
use serde_json::Value;

/// A user that every Linux has and that never logs in: tests must not write to anybody's terminal.
const NOBODY_SITS: (&str, u32) = ("daemon", 1);

fn terminal() -> String {
    format!("[notify.terminal]\nusers = [\"{}\"]", NOBODY_SITS.0)
}

#[test]
fn a_terminal_shows_what_pending_shows() {
    let mut pty = Pty::of(NOBODY_SITS.1);
    let mut s = Scene::new(&terminal());
    s.be_held();
    let target = format!("connect {}", s.server.addr());
    // Other tests tell that user of theirs at the same time.
    let last = format!(
        "{} approve h-1    to let it go on",
        s.guard.socket().display()
    );
    let all = pty.wait(&last);
    let seen = all.rsplit('\x07').find(|told| told.contains(&last));
    let seen = seen.expect("a bell before it").to_owned();
    assert!(all.contains('\x07'), "a bell: {all:?}");
    assert!(seen.contains(&target), "{seen}");
    let pending = s.guard.must(&["pending"]).out;
    let fixed = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.trim().to_owned());
        // Ages differ, and what is cut to a terminal's width.
        lines
            .filter(|line| {
                line.starts_with("wants to")
                    || line.starts_with("in  ")
                    || line.starts_with("guardctl")
            })
            .collect()
    };
    assert_eq!(fixed(&seen).len(), 4, "{seen}");
    assert_eq!(fixed(&seen), fixed(&pending));
    assert!(!pty.has_input(), "it was written to be read, not typed");
    s.wait_part("terminal", "one is sent", |part| {
        part["sent"] == 1 && part["state"] == "ok"
    });
    s.guard.approve(&[]);
    s.goes_on();
}

#[test]
fn a_stopped_terminal_keeps_nothing_from_another() {
    let stopped = Pty::of(NOBODY_SITS.1);
    stopped.stop();
    let mut open = Pty::of(NOBODY_SITS.1);
    let mut s = Scene::new(&terminal());
    s.be_held();
    open.wait(&s.server.addr().to_string());
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
}

#[test]
fn a_terminal_that_an_agent_reads_is_told_nothing() {
    let mut pty = Pty::of(NOBODY_SITS.1);
    let mut s = Scene::new(&terminal());
    // script(1) in the session holds the other end of a terminal, and writes what comes from there to its output.
    let mut agent = s.guard.run(&[], "script");
    let output = tempfile::NamedTempFile::new().expect("a file");
    agent
        .args(["-qfc", "sleep 300", "/dev/null"])
        .stdin(std::process::Stdio::null())
        .stdout(output.reopen().expect("the file"));
    let mut agent = agent.spawn().expect("script");
    let kept = eventually("its terminal", || {
        s.guard.sessions();
        master_of(agent.id())
    });
    std::os::unix::fs::chown(&kept, Some(NOBODY_SITS.1), None).expect("chown");
    s.be_held();
    pty.wait(&s.server.addr().to_string());
    s.wait_part("terminal", "it is sent", |part| part["sent"] == 1);
    let read = std::fs::read_to_string(output.path()).expect("its output");
    assert_eq!(read, "", "the agent read of its hold");
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
    proc::signal(agent.id(), Signal::TERM);
    agent.wait().expect("its end");
}

/// The terminal whose other end this process, or one below it, holds.
fn master_of(pid: u32) -> Option<String> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    let below = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    let fds = std::fs::read_dir(format!("/proc/{pid}/fdinfo"));
    let own = fds.into_iter().flatten().flatten().find_map(|entry| {
        let info = std::fs::read_to_string(entry.path()).ok()?;
        let index = info
            .lines()
            .find_map(|line| line.strip_prefix("tty-index:"))?;
        Some(format!("/dev/pts/{}", index.trim()))
    });
    own.or_else(|| below.into_iter().find_map(master_of))
}

#[test]
fn where_no_terminal_is_open_status_says_that_nobody_was_told() {
    let mut s = Scene::new("[notify.terminal]\nusers = [\"bin\"]");
    s.be_held();
    let part = s.wait_part("terminal", "it was given up", |part| part["dropped"] == 1);
    assert_eq!(part["state"], "failing");
    let status = s.guard.json(&["status"]);
    assert_eq!(status["state"], "degraded");
    let text = s.guard.must(&["status"]).out;
    assert!(text.contains("no terminal of theirs is open"), "{text}");
    s.guard.approve(&[]);
    s.goes_on();
}

#[test]
fn a_herald_that_dies_is_started_again_and_tells_of_what_waits() {
    let mut pty = Pty::of(NOBODY_SITS.1);
    let mut s = Scene::new(&terminal());
    let first = eventually("a herald", || herald(&s.guard));
    s.wait_part("terminal", "it runs", |part| part["state"] == "ok");
    proc::signal(first, Signal::KILL);
    s.be_held();
    pty.wait(&s.server.addr().to_string());
    let second = eventually("another", || herald(&s.guard).filter(|pid| *pid != first));
    assert!(s.guard.json(&["status"])["herald"]["starts"].as_u64() >= Some(2));
    let policy = std::fs::read_to_string(format!("/proc/{second}/sched")).unwrap_or_default();
    let policy = policy
        .lines()
        .find(|line| line.starts_with("policy"))
        .map(str::to_owned);
    assert!(
        policy.is_none_or(|line| line.trim_end().ends_with('0')),
        "an ordinary process"
    );
    s.guard.approve(&[]);
    s.goes_on();
}

#[test]
fn a_reload_begins_and_ends_telling() {
    let mut pty = Pty::of(NOBODY_SITS.1);
    let mut s = Scene::new("");
    assert_eq!(herald(&s.guard), None);
    assert!(s.guard.json(&["status"]).get("herald").is_none());
    s.be_held();
    std::fs::write(s.guard.policy(), &*policy(&s.server, &terminal())).expect("a policy");
    s.guard.must(&["policy", "reload"]);
    // What waits already is told as well.
    pty.wait(&s.server.addr().to_string());
    let pid = eventually("a herald", || herald(&s.guard));
    std::fs::write(s.guard.policy(), &*policy(&s.server, "")).expect("a policy");
    s.guard.must(&["policy", "reload"]);
    eventually("no herald", || proc::has_ended(pid).then_some(()));
    assert_eq!(s.guard.json(&["status"])["state"], "ok");
    s.guard.approve(&[]);
    s.goes_on();
}

#[test]
fn the_herald_ends_with_guardd_however_that_ends() {
    for kill in [false, true] {
        let mut s = Scene::new(&terminal());
        let pid = eventually("a herald", || herald(&s.guard));
        let tool = s.tool;
        drop(tool);
        if kill {
            s.guard.kill();
        } else {
            s.guard.stop();
        }
        eventually("no herald", || proc::has_ended(pid).then_some(()));
    }
}

#[test]
fn nobody_but_the_herald_may_speak_as_it() {
    use std::io::{BufRead as _, Write as _};
    let mut s = Scene::new(&terminal());
    let hold = s.be_held();
    assert!(
        hold.get("token").is_none(),
        "the token is for the herald: {hold}"
    );
    let stream = std::os::unix::net::UnixStream::connect(s.guard.socket()).expect("guardd");
    let mut lines = std::io::BufReader::new(stream.try_clone().expect("a descriptor")).lines();
    let mut line = String::new();
    let id = hold["id"].as_str().expect("an id");
    for ask in [
        r#"{"ask":"holds"}"#.to_owned(),
        r#"{"ask":"settings"}"#.into(),
        r#"{"ask":"members"}"#.into(),
        format!(
            r#"{{"ask":"answer","id":"{id}","token":"","approve":true,"via":{{"channel":"slack","who":"x"}}}}"#
        ),
    ] {
        line.clear();
        let ask: Value = serde_json::from_str(&ask).expect("JSON");
        let mut request = serde_json::json!({ "cmd": "herald" });
        for (key, value) in ask.as_object().expect("members") {
            request[key] = value.clone();
        }
        writeln!(line, "{request}").expect("a line");
        (&stream).write_all(line.as_bytes()).expect("guardd reads");
        let reply: Value =
            serde_json::from_str(&lines.next().expect("a reply").expect("a line")).expect("JSON");
        assert_eq!(reply["code"], "forbidden", "{request}: {reply}");
    }
    s.server.untouched_while_held(&s.guard);
    s.guard.deny(&[]);
    s.tool.was_refused(&s.guard);
}
