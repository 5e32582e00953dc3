//! Sessions that behave unlike their kind: the score, the fact, and what is learned.

use std::{
    io::Write as _,
    process::{Child, ChildStdin, Stdio},
};

use guard_tests::{Guard, Place, Policy, eventually};
use serde_json::Value;

fn policy(then: &str) -> Policy {
    Policy::new()
        .files("credential", &["**/*.secret"])
        .rule("unlike", &["divergent"], then, "timeout = \"5m\"")
        .and("[divergence]\nthreshold = 60")
}

/// A shell as a session, which does what it is told line by line.
struct Shell {
    child: Child,
    says: ChildStdin,
    lines: u32,
    place: Place,
}

impl Shell {
    fn new(place: &Place, guard: &Guard, agent: &str) -> Self {
        let mut command = guard.run(&["--agent", agent], "/bin/sh");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            says: child.stdin.take().unwrap(),
            child,
            lines: 0,
            place: place.clone(),
        }
    }

    /// Says it and does not wait.
    fn say(&mut self, line: &str) {
        writeln!(self.says, "{line}").unwrap();
    }

    /// Says it and waits until it is done.
    #[track_caller]
    fn does(&mut self, line: &str) {
        self.lines += 1;
        let done = self
            .place
            .path(format!("done-{}-{}", self.child.id(), self.lines));
        self.say(line);
        self.say(&format!(": > {}", done.display()));
        eventually(line, || done.exists().then_some(()));
    }

    /// Ordinary acts, of several kinds.
    fn works(&mut self) {
        self.does("for n in 1 2 3 4 5 6 7 8; do cat work.txt; sed -i s/a/b/ work.txt; gcc --version; git --version; done");
    }

    fn ends(mut self) {
        drop(self.says);
        self.child.wait().unwrap();
    }
}

fn secrets(place: &Place, count: u32) {
    place.file("work.txt", "a\n");
    for n in 0..count {
        place.file(&format!("{n}.secret"), "made up");
    }
}

const READS: &str =
    "for n in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do cat $n.secret; done";

fn session(guard: &Guard) -> Value {
    guard.json(&["sessions", "--all"])["sessions"][0].clone()
}

#[test]
fn a_session_that_turns_to_credentials_is_told_once_and_shown_with_the_reason() {
    let place = Place::new();
    secrets(&place, 20);
    let mut guard = Guard::new(&place, &policy("flag"));
    let mut events = guard.events();
    let mut shell = Shell::new(&place, &guard, "x");
    assert_eq!(session(&guard)["score"], Value::Null);
    shell.works();
    let working = session(&guard)["score"].as_u64().unwrap();
    assert!(working >= 80, "{working}");
    shell.does(READS);
    shell.does(READS);
    let event = events.wait("divergence", |event| {
        event["object"]["what"] == "divergence"
    });
    assert!(event.is("session") && event.has("divergent"), "{event:?}");
    assert_eq!((event.verdict(), event.text("rule")), ("flag", "unlike"));
    let score = event["object"]["score"].as_u64().unwrap();
    assert!(score <= 60, "{event:?}");
    assert_eq!(event["object"]["categories"][0]["category"], "credential");
    let shown = guard.json(&["show", "s-1"]);
    let conduct = &shown["conduct"];
    assert!(
        conduct["divergent"] == true && conduct["score"].as_u64().unwrap() < 60,
        "{conduct}"
    );
    assert_eq!(shown["info"]["score"], conduct["score"]);
    assert_eq!(
        conduct["categories"][0]["category"], "credential",
        "{conduct}"
    );
    let text = guard.must(&["show", "s-1"]).out;
    assert!(
        text.contains("consistency") && text.contains("credential"),
        "{text}"
    );
    let facts = shown["facts"].to_string();
    assert!(facts.contains("divergent"), "{facts}");
    // A new guardd goes on from there.
    guard.make_way();
    guard.start();
    let again = guard.json(&["show", "s-1"])["conduct"].clone();
    let (before, after) = (
        conduct["score"].as_i64().unwrap(),
        again["score"].as_i64().unwrap(),
    );
    assert!(
        (before - after).abs() <= 1 && again["divergent"] == true,
        "{conduct} {again}"
    );
    shell.does(READS);
    shell.ends();
    let told = guard.events_now();
    let told = told
        .iter()
        .filter(|event| event["object"]["what"] == "divergence");
    assert_eq!(told.count(), 1);
}

#[test]
fn a_rule_can_hold_what_diverges_and_an_approval_lets_it_go_on() {
    let place = Place::new();
    secrets(&place, 20);
    let guard = Guard::new(&place, &policy("hold"));
    let mut shell = Shell::new(&place, &guard, "x");
    shell.works();
    let done = place.path("done");
    shell.say(READS);
    shell.say(&format!(": > {}", done.display()));
    let hold = guard.hold();
    assert_eq!(hold["rule"], "unlike", "{hold}");
    assert!(
        hold["target"].as_str().unwrap().contains("diverge"),
        "{hold}"
    );
    guard.approve(&[]);
    eventually("it goes on", || done.exists().then_some(()));
    shell.ends();
}

#[test]
fn a_rule_can_kill_what_diverges() {
    let place = Place::new();
    secrets(&place, 20);
    let guard = Guard::new(&place, &policy("kill"));
    let mut events = guard.events();
    let mut shell = Shell::new(&place, &guard, "x");
    shell.works();
    for _ in 0..20 {
        shell.say(READS);
    }
    let event = events.wait("divergence", |event| {
        event["object"]["what"] == "divergence"
    });
    assert_eq!(event.verdict(), "kill", "{event:?}");
    shell.ends();
}

#[test]
fn with_a_threshold_of_0_and_without_a_rule_nothing_is_told_and_the_score_is_shown() {
    let place = Place::new();
    secrets(&place, 20);
    let never = Policy::new()
        .files("credential", &["**/*.secret"])
        .and("[divergence]\nthreshold = 0");
    let guard = Guard::new(&place, &never);
    let mut shell = Shell::new(&place, &guard, "x");
    shell.works();
    shell.does(READS);
    assert!(session(&guard)["score"].as_u64().unwrap() < 60);
    shell.ends();
    let told = guard.events_now();
    assert!(
        told.iter()
            .all(|event| event["object"]["what"] != "divergence")
    );
}

#[test]
fn what_a_person_accepts_is_usual_from_then_on_and_can_be_carried_elsewhere() {
    let place = Place::new();
    secrets(&place, 20);
    let mut guard = Guard::new(&place, &policy("flag"));
    let mut shell = Shell::new(&place, &guard, "keeper");
    shell.works();
    shell.does(READS);
    let before = session(&guard)["score"].as_u64().unwrap();
    // Not by the session itself.
    let refused = place.path("refused");
    let inside = format!(
        "{} --socket {} baseline learn s-1 2> {}",
        guard.guardctl().get_program().display(),
        guard.socket().display(),
        refused.display()
    );
    shell.does(&inside);
    let said = std::fs::read_to_string(&refused).unwrap();
    assert!(said.contains("runs inside session s-1"), "{said}");
    let said = guard.ctl(&["baseline", "show", "keeper"]);
    assert!(said.status == 1 && said.err.contains("general"), "{said:?}");
    let said = guard.must(&["baseline", "learn", "s-1"]);
    assert!(said.out.contains("baseline keeper: 1 sessions"), "{said:?}");
    let after = session(&guard)["score"].as_u64().unwrap();
    assert!(after > before, "{before} {after}");
    // Kept over a restart, and named in the journal.
    guard.stop();
    guard.start();
    let shown = guard.json(&["baseline", "show", "keeper"]);
    assert_eq!(shown["baselines"][0]["learned"], true, "{shown}");
    assert!(
        shown["baselines"][0]["baseline"]["weights"]["credential"]
            .as_f64()
            .unwrap()
            > 5.0
    );
    let told = guard.events_now();
    let told = told
        .iter()
        .find(|event| event["object"]["what"] == "baseline learned");
    assert_eq!(told.unwrap()["object"]["sessions"][0], "s-1");
    // Out, away, and in again.
    let file = place.file(
        "keeper.toml",
        &guard.must(&["baseline", "export", "keeper"]).out,
    );
    let file = file.to_str().unwrap();
    let same = guard.must(&["--json", "baseline", "diff", file]).json();
    guard.must(&["baseline", "forget", "keeper"]);
    let far = guard.must(&["--json", "baseline", "diff", file]).json();
    assert!(
        far["divergence"].as_f64() > same["divergence"].as_f64(),
        "{far} {same}"
    );
    assert_eq!(guard.ctl(&["baseline", "forget", "keeper"]).status, 1);
    guard.must(&["baseline", "import", file]);
    let again = guard.must(&["--json", "baseline", "diff", file]).json();
    assert_eq!(again["divergence"], same["divergence"]);
    place.file("broken.toml", "version = 1\n[[baseline]]\nagent = 1\n");
    let broken = place.path("broken.toml");
    let said = guard.ctl(&["baseline", "import", broken.to_str().unwrap()]);
    assert!(said.status == 2 && said.err.contains("line 3"), "{said:?}");
}

#[test]
fn a_session_that_was_refused_something_is_no_example_unless_a_person_insists() {
    let place = Place::new();
    secrets(&place, 1);
    let deny = Policy::new().addresses("elsewhere", &["127.0.0.9:9"]).rule(
        "no",
        &["elsewhere"],
        "deny",
        "",
    );
    let guard = Guard::new(&place, &deny);
    let mut shell = Shell::new(&place, &guard, "x");
    shell.works();
    shell.does("curl -s --max-time 5 http://127.0.0.9:9/ || true");
    shell.ends();
    let said = guard.ctl(&["baseline", "learn", "s-1"]);
    assert!(said.status == 1 && said.err.contains("--force"), "{said:?}");
    guard.must(&["baseline", "learn", "s-1", "--force", "--agent", "y"]);
    assert_eq!(
        guard.json(&["baseline", "show", "y"])["baselines"][0]["baseline"]["sessions"],
        1
    );
    assert_eq!(guard.ctl(&["baseline", "learn", "s-77"]).status, 1);
}
