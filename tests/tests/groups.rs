//! Holds that are alike: which are, and what one answer covers.

use std::path::{Path, PathBuf};

use guard_tests::{Guard, Place, Policy, Tool, eventually, fixture, proc, server::Tcp};
use serde_json::Value;

/// A guard that holds opens of key files, and an agent under it that starts processes.
struct Scene {
    tool: Tool,
    guard: Guard,
    place: Place,
}

impl Scene {
    fn new() -> Self {
        let place = Place::new();
        for dir in ["keys", "other"] {
            std::fs::create_dir_all(place.path(format!("copy-of-{dir}"))).expect("a directory");
            for n in 0..6 {
                place.file(&format!("{dir}/{n}.pem"), "a key");
            }
        }
        let policy = Policy::new()
            .files("key", &["**/keys/*.pem", "**/other/*.pem"])
            .rule("keys", &["key"], "hold", "");
        let guard = Guard::new(&place, &policy);
        let tool = guard.tool();
        Self { tool, guard, place }
    }

    /// Has a process read a key that is held at that; its hold.
    #[track_caller]
    fn read(&mut self, file: &str) -> Value {
        let before: Vec<Value> = self.guard.holds();
        let program = fixture("guard-fixture-tool");
        let (program, path) = (program.display(), self.place.path(file));
        let started = self.tool.must(&format!(
            "spawn {program} copy {} {}",
            path.display(),
            self.copy(file).display()
        ));
        eventually("one more hold", || {
            self.guard.holds().into_iter().find(|hold| {
                hold["pid"] == started["pid"] && !before.iter().any(|old| old["id"] == hold["id"])
            })
        })
    }

    fn copy(&self, file: &str) -> PathBuf {
        self.place.path(format!("copy-of-{file}"))
    }
}

fn text<'a>(hold: &'a Value, name: &str) -> &'a str {
    hold[name].as_str().expect("a text")
}

fn copied(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text == "a key")
}

#[test]
fn one_approval_covers_those_that_were_seen_and_not_one_that_joins_later() {
    let mut s = Scene::new();
    let seen: Vec<Value> = (0..3).map(|n| s.read(&format!("keys/{n}.pem"))).collect();
    assert!(
        seen.iter().all(|hold| hold["group"] == seen[0]["group"]),
        "{seen:#?}"
    );
    assert_eq!(seen[2]["like"], 3);
    let elsewhere = s.read("other/0.pem");
    assert_ne!(elsewhere["group"], seen[0]["group"]);
    let (first, last) = (
        text(&seen[0], "id").to_owned(),
        text(&seen[2], "id").to_owned(),
    );
    let shown = s.guard.must(&["pending"]).out;
    assert!(
        shown.contains("2 more like it, but for:") && shown.contains("1.pem"),
        "{shown}"
    );
    assert!(
        shown.contains(&format!(
            "approve {first} --all-like {last}    for these 3 at once"
        )),
        "{shown}"
    );
    // It comes between the look and the answer.
    let late = s.read("keys/3.pem");
    assert_eq!(late["group"], seen[0]["group"]);
    let said = s.guard.must(&["approve", &first, "--all-like", &last]).out;
    assert!(said.contains("3 approved"), "{said}");
    for n in 0..3 {
        let copy = s.copy(&format!("keys/{n}.pem"));
        eventually("the key is read", || copied(&copy).then_some(()));
    }
    let left: Vec<Value> = s.guard.holds();
    let ids: Vec<&str> = left.iter().map(|hold| text(hold, "id")).collect();
    assert_eq!(ids, [text(&elsewhere, "id"), text(&late, "id")]);
    assert!(proc::is_stopped(late["pid"].as_u64().expect("a pid") as u32));

    // Each is in the journal by itself, with the group and the hold that was named.
    let answers: Vec<Value> = s
        .guard
        .events_now()
        .iter()
        .filter(|event| event.is("answer"))
        .map(|event| event["object"].clone())
        .collect();
    assert_eq!(answers.len(), 3, "{answers:#?}");
    for (answer, hold) in answers.iter().zip(&seen) {
        assert_eq!(answer["id"], hold["id"]);
        assert_eq!(answer["answer"], "approved");
        assert_eq!(answer["group"], hold["group"]);
        assert_eq!(answer["all_like"], first);
    }
    for hold in left {
        s.guard.must(&["deny", text(&hold, "id")]);
    }
    assert!(!s.copy("keys/3.pem").exists() || !copied(&s.copy("keys/3.pem")));
}

#[test]
fn one_denial_covers_a_group_and_its_reason_is_with_each() {
    let mut s = Scene::new();
    let holds: Vec<Value> = (0..3).map(|n| s.read(&format!("keys/{n}.pem"))).collect();
    let (first, last) = (text(&holds[0], "id"), text(&holds[2], "id"));
    s.guard
        .must(&["deny", first, "--all-like", last, "--reason", "not these"]);
    assert!(s.guard.holds().is_empty());
    let answers = s.guard.events_now();
    let reasons = answers
        .iter()
        .filter(|event| event.is("answer") && event["object"]["reason"] == "not these");
    assert_eq!(reasons.count(), 3);
    for n in 0..3 {
        assert!(!copied(&s.copy(&format!("keys/{n}.pem"))));
    }
}

#[test]
fn an_answer_to_a_group_must_name_what_can_have_been_seen() {
    let mut s = Scene::new();
    let hold = s.read("keys/0.pem");
    let id = text(&hold, "id");
    for upto in ["h-999", "h-0"] {
        let said = s.guard.ctl(&["approve", id, "--all-like", upto]);
        assert_eq!(said.status, 2, "{said:?}");
        assert!(said.err.contains("that you have seen"), "{said:?}");
    }
    assert_eq!(
        s.guard
            .ctl(&["approve", "h-77", "--all-like", "h-78"])
            .status,
        1
    );
    assert_eq!(s.guard.holds().len(), 1);
    s.guard.must(&["deny", id]);
}

#[test]
fn another_session_is_another_group() {
    let mut s = Scene::new();
    let one = s.read("keys/0.pem");
    let mut other = s.guard.tool();
    std::mem::swap(&mut s.tool, &mut other);
    let two = s.read("keys/1.pem");
    assert_ne!(one["session"], two["session"]);
    assert_ne!(one["group"], two["group"]);
    for hold in [one, two] {
        s.guard.must(&["deny", text(&hold, "id")]);
    }
}

#[test]
fn a_group_outlives_guardd() {
    let mut s = Scene::new();
    let holds: Vec<Value> = (0..2).map(|n| s.read(&format!("keys/{n}.pem"))).collect();
    s.guard.kill();
    s.guard.start();
    let after = eventually("both holds", || {
        let holds = s.guard.holds();
        (holds.len() == 2).then_some(holds)
    });
    assert!(
        after.iter().all(|hold| hold["group"] == holds[0]["group"]),
        "{after:#?}"
    );
    let third = s.read("keys/2.pem");
    assert_eq!(third["group"], holds[0]["group"]);
    s.guard.must(&[
        "deny",
        text(&holds[0], "id"),
        "--all-like",
        text(&third, "id"),
    ]);
    assert!(s.guard.holds().is_empty());
}

#[test]
fn status_says_how_often_a_person_is_asked_and_what_they_said_over_a_restart() {
    let (place, server) = (Place::new(), Tcp::v4());
    let policy =
        Policy::new()
            .addresses("infra", &[server.addr()])
            .rule("noisy", &["infra"], "hold", "");
    let mut guard = Guard::new(&place, &policy);
    assert!(!guard.must(&["status"]).out.contains("\nasked "));
    let mut tool = guard.tool();
    let connect = format!("tcp {} hello", server.addr());
    for _ in 0..21 {
        tool.tell(&connect);
        guard.approve(&[]);
        assert_eq!(tool.answer()["echo"], "hello");
    }
    tool.tell(&connect);
    guard.deny(&[]);
    tool.was_refused(&guard);
    guard.stop();
    guard.start();
    let counts = guard.json(&["status"])["hold_counts"].clone();
    assert_eq!(counts["last_24h"], 22, "{counts}");
    assert_eq!(
        (&counts["approved"], &counts["denied"]),
        (&21.into(), &1.into())
    );
    let said = guard.must(&["status"]).out;
    assert!(
        said.contains("22 holds in 24 h, 22 a day over 7 days: 95% approved, 5% denied"),
        "{said}"
    );
    assert!(
        said.contains("rule 'noisy': 21 of 22 holds in 7 days were approved"),
        "{said}"
    );
    // What cannot be read is told, and counted anew.
    guard.stop();
    std::fs::write(guard.state_dir().join("holds.json"), "{").expect("a file");
    guard.start();
    let status = guard.json(&["status"]);
    assert_eq!(status["state"], "degraded");
    assert!(
        status["degraded"].to_string().contains("counted anew"),
        "{status}"
    );
}
