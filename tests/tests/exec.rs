//! Programs and command lines.

use std::path::PathBuf;

use guard_tests::{Events, Guard, Place, Policy, Tool, eventually, proc};

/// A guard whose policy names the command lines `COMMAND destroy …`.
struct Scene {
    tool: Tool,
    events: Events,
    guard: Guard,
    command: PathBuf,
    proof: PathBuf,
    name: String,
    place: Place,
}

impl Scene {
    fn new(then: &str, more: &str) -> Self {
        let place = Place::new();
        let (command, name) = (place.tool("cmd"), place.name("cmd"));
        let policy = Policy::new()
            .argv("destructive", &[format!("{name} destroy **")])
            .rule("r", &["destructive"], then, more);
        let guard = Guard::new(&place, &policy);
        let (events, tool) = (guard.events(), guard.tool());
        let proof = place.path("proof");
        Self {
            tool,
            events,
            guard,
            command,
            proof,
            name,
            place,
        }
    }

    /// A command of the tool that runs the command line; `destroy` leaves a proof.
    fn destroy(&self, how: &str) -> String {
        format!(
            "{how} {} destroy {}",
            self.command.display(),
            self.proof.display()
        )
    }
}

#[test]
fn a_flagged_command_line_runs_and_is_told() {
    let mut s = Scene::new("flag", "");
    assert_eq!(s.tool.must(&s.destroy("run"))["status"], 0);
    let event = s
        .events
        .wait("the flag", |e| e.is("exec") && e.verdict() == "flag");
    assert!(event.has("destructive"), "{event:?}");
    assert_eq!(event.text("rule"), "r");
    assert_eq!(event["argv"][1], "destroy");
    assert_eq!(event.text("exe"), s.command.to_str().unwrap());
    assert!(s.proof.exists());
}

#[test]
fn a_held_command_line_has_not_run_its_first_instruction() {
    let mut s = Scene::new("hold", "");
    s.tool.tell(&s.destroy("run"));
    let hold = s.guard.hold();
    proc::wait_stopped(hold["pid"].as_u64().unwrap() as u32);
    assert!(!s.proof.exists());
    assert_eq!(hold["argv"][1], "destroy", "{hold}");
    s.guard.approve(&[]);
    assert_eq!(s.tool.answer()["status"], 0);
    assert!(s.proof.exists());
}

#[test]
fn a_held_command_line_that_is_denied_never_runs() {
    let mut s = Scene::new("hold", "");
    s.tool.tell(&s.destroy("run"));
    s.guard.deny(&[]);
    // An exec that has happened cannot fail any more.
    assert_eq!(s.tool.answer()["signal"], libc::SIGKILL);
    assert!(!s.proof.exists());
}

#[test]
fn a_command_line_that_kills_or_is_denied_never_runs() {
    for then in ["kill", "deny"] {
        let mut s = Scene::new(then, "");
        assert_eq!(
            s.tool.must(&s.destroy("run"))["signal"],
            libc::SIGKILL,
            "{then}"
        );
        assert!(!s.proof.exists(), "{then}");
        s.events
            .wait("the kill", |e| e.is("exec") && e.verdict() == "kill");
    }
}

#[test]
fn another_command_line_of_the_same_program_goes_on() {
    let mut s = Scene::new("kill", "");
    let plan = s.destroy("run").replace(" destroy ", " plan ");
    assert_eq!(s.tool.must(&plan)["status"], 0);
    assert!(s.proof.exists());
    let event = s
        .events
        .wait("the exec", |e| e.is("exec") && e["argv"][1] == "plan");
    assert!(
        event.get("labels").is_none() && event.get("rule").is_none(),
        "{event:?}"
    );
}

#[test]
fn a_command_line_is_seen_through_a_shell_a_script_and_a_link() {
    let mut s = Scene::new("kill", "");
    let line = format!("{} destroy {}", s.command.display(), s.proof.display());
    let script = s
        .place
        .script("work", &format!("#!/bin/sh\n{line}\nexit $?\n"));
    assert_eq!(
        s.tool.must(&format!("run {}", script.display()))["status"],
        137
    );
    // A script of the program's name, run by a shell.
    let dir = s.place.path("scripts");
    std::fs::create_dir(&dir).unwrap();
    let named = format!("scripts/{}", s.name);
    let script = s.place.script(&named, "#!/bin/sh\necho done > \"$2\"\n");
    let run = format!("run {} destroy {}", script.display(), s.proof.display());
    assert_eq!(s.tool.must(&run)["signal"], libc::SIGKILL);
    assert!(!s.proof.exists());
}

#[test]
fn a_wrapper_that_runs_its_command_elsewhere_is_judged_by_it() {
    let mut s = Scene::new("kill", "");
    std::fs::create_dir(s.place.path("scripts")).unwrap();
    // Runs nothing here, as ssh does not: only its own command line tells.
    let ssh = s.place.script(
        "scripts/ssh",
        &format!("#!/bin/sh\necho done > {}\n", s.proof.display()),
    );
    let plan = format!("run {} -p 22 host {} plan", ssh.display(), s.name);
    assert_eq!(s.tool.must(&plan)["status"], 0);
    assert!(s.proof.exists());
    std::fs::remove_file(&s.proof).unwrap();
    let destroy = format!("run {} -p 22 host {} destroy x", ssh.display(), s.name);
    assert_eq!(s.tool.must(&destroy)["signal"], libc::SIGKILL);
    assert!(!s.proof.exists());
}

#[test]
fn a_command_line_may_be_the_last_step_of_a_sequence() {
    let place = Place::new();
    let (command, name) = (place.tool("cmd"), place.name("cmd"));
    let secret = place.file("secret", "hunter2");
    let policy = Policy::new()
        .files("secret", &[secret.display()])
        .argv("destructive", &[format!("{name} destroy **")])
        .rule("r", &["secret", "destructive"], "kill", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    let run = format!(
        "run {} destroy {}",
        command.display(),
        place.path("proof").display()
    );
    assert_eq!(tool.must(&run)["status"], 0);
    tool.must(&format!("open openat {}", secret.display()));
    assert_eq!(tool.must(&run)["signal"], libc::SIGKILL);
}

#[test]
fn a_program_outside_sessions_may_run_what_it_likes() {
    let s = Scene::new("kill", "");
    let mut stranger = s.guard.stranger();
    assert_eq!(stranger.must(&s.destroy("run"))["status"], 0);
    assert!(s.proof.exists());
}

#[test]
fn every_exec_of_a_session_is_told_with_its_whole_command_line() {
    let mut s = Scene::new("flag", "");
    s.tool.must("run echo one  two three");
    let event = s
        .events
        .wait("the exec", |e| e.is("exec") && e["argv"][0] == "echo");
    assert_eq!(
        event["argv"],
        serde_json::json!(["echo", "one", "two", "three"])
    );
    assert!(event.text("exe").ends_with("/echo"), "{event:?}");
    assert_eq!(event["ppid"], s.tool.pid());
    assert_eq!(event["uid"], 0);
    assert!(
        event["start"].as_u64().is_some_and(|ticks| ticks > 0),
        "{event:?}"
    );
    // Longer than what the kernel carries: told as far as it goes.
    let long = "x".repeat(6000);
    s.tool.must(&format!("run echo {long}"));
    let event = s.events.wait("the long one", |e| {
        e.is("exec")
            && e["argv"][1]
                .as_str()
                .is_some_and(|word| word.starts_with("xxx"))
    });
    assert!(event["argv"][1].as_str().unwrap().len() > 3000, "{event:?}");
}

#[test]
fn secrets_on_a_command_line_are_masked_wherever_it_is_shown() {
    let place = Place::new();
    let (command, name) = (place.tool("cmd"), place.name("cmd"));
    let policy = Policy::new()
        .argv("destructive", &[format!("{name} destroy **")])
        .rule("r", &["destructive"], "hold", "");
    let guard = Guard::new(&place, &policy);
    let mut events = guard.events();
    let mut tool = guard.tool();
    // Made up, and put together here so that no scanner takes it for a real one.
    let token = format!("ghp_{}", "aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY1zA2");
    let proof = place.path("proof");
    tool.tell(&format!(
        "run {} destroy {} --token {token} --password=hunter2hunter2",
        command.display(),
        proof.display()
    ));
    let hold = guard.hold();
    let session = hold["session"].as_str().unwrap();
    let shown = [
        hold.to_string(),
        guard.must(&["pending"]).out,
        guard.must(&["show", session]).out,
        guard.must(&["events"]).out,
        guard.must(&["--json", "events"]).out,
    ];
    guard.deny(&[]);
    tool.answer();
    events.wait("the exec", |e| e.is("exec") && e["argv"][1] == "destroy");
    for text in shown {
        assert!(
            !text.contains(&token) && !text.contains("hunter2hunter2"),
            "{text}"
        );
        assert!(text.contains("destroy"), "{text}");
    }
    let state = guard.state_dir();
    let said = place
        .command("grep")
        .args(["-rqF", "--exclude-dir=bpf", &token])
        .arg(&state)
        .status()
        .unwrap();
    assert_eq!(said.code(), Some(1), "the token is in {}", state.display());
}

#[test]
fn a_thread_that_is_not_the_leader_may_exec() {
    let mut s = Scene::new("kill", "");
    let pid = s.tool.pid();
    let tool = s.command.display().to_string();
    s.tool.tell(&format!("thread-exec {tool}"));
    let answer = s.tool.ask("who");
    assert_eq!(answer["pid"], pid, "{answer}");
    assert_eq!(s.tool.must(&s.destroy("run"))["signal"], libc::SIGKILL);
}

#[test]
fn a_command_line_that_the_tool_becomes_itself_is_held_too() {
    let mut s = Scene::new("hold", "");
    s.tool.tell(&s.destroy("exec"));
    let hold = s.guard.hold();
    assert_eq!(hold["pid"], s.tool.pid());
    eventually("it is stopped", || {
        (proc::state(s.tool.pid()) == Some('T')).then_some(())
    });
    assert!(!s.proof.exists());
    s.guard.approve(&[]);
    s.tool.answer();
    assert!(s.proof.exists());
}
