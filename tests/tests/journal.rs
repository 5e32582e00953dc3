//! The journal: signed, kept within limits, told when the disk is full, in other schemas, and as a report.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::Stdio,
};

use guard_tests::{Guard, Place, Policy, eventually, server::Tcp};
use serde_json::Value;

fn verify(guard: &Guard, dir: &Path, more: &[&str]) -> guard_tests::Said {
    guard.ctl(&[&["verify", "--state-dir", dir.to_str().unwrap()], more].concat())
}

fn last_segment(dir: &Path) -> PathBuf {
    let mut segments: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "jsonl"))
        .collect();
    segments.sort();
    segments.pop().unwrap()
}

/// The journal's files without the key, as somebody keeps them elsewhere.
fn copy(place: &Place, name: &str, of: &Path) -> PathBuf {
    let dir = place.path(name);
    fs::create_dir_all(&dir).unwrap();
    for entry in fs::read_dir(of).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_owned();
        if path.is_file() && name != "journal.key" {
            fs::copy(&path, dir.join(name)).unwrap();
        }
    }
    dir
}

fn nothing(place: &Place) -> Policy {
    Policy::new().agent("x", &place.name("nobody"), "")
}

#[test]
fn a_journal_is_signed_and_whoever_kept_the_key_needs_no_other() {
    let place = Place::new();
    let mut guard = Guard::new(&place, &nothing(&place));
    guard.tool().must("run true");
    let status = guard.json(&["status"]);
    let key = status["journal"]["key"].as_str().unwrap().to_owned();
    assert_eq!(key.len(), 64, "{status}");
    let state = guard.state_dir();
    // While it runs guardd itself is the witness.
    let said = verify(&guard, &state, &[]);
    assert_eq!(said.status, 0, "{said:?}");
    assert!(
        said.out.contains(&key) && said.out.contains("guardd, which is writing it"),
        "{said:?}"
    );
    assert!(guard.stop().success());
    let report = verify(&guard, &state, &["--json"]).json();
    assert_eq!(
        (&report["key"], &report["key_unknown"]),
        (&key.clone().into(), &false.into())
    );
    assert_eq!(report["signed_seq"], report["last_seq"]);
    assert!(report["checkpoints"].as_u64().unwrap() >= 2, "{report}");
    let elsewhere = copy(&place, "elsewhere", &state);
    let said = verify(&guard, &elsewhere, &[]);
    assert!(
        said.status == 0 && said.out.contains("nobody here vouches"),
        "{said:?}"
    );
    let said = verify(&guard, &elsewhere, &["--key", &key]);
    assert!(
        said.status == 0 && !said.out.contains("nobody here"),
        "{said:?}"
    );
    let other = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    assert_eq!(verify(&guard, &elsewhere, &["--key", other]).status, 1);
    assert_eq!(verify(&guard, &elsewhere, &["--key", "nonsense"]).status, 2);
    // Put back to what it was before: only who kept the newest hash can tell.
    guard.start();
    guard.tool().must("run true");
    assert!(guard.stop().success());
    let newer = verify(&guard, &state, &["--json"]).json();
    let expect = format!("{}:{}", newer["last_seq"], newer["head"].as_str().unwrap());
    assert_eq!(verify(&guard, &state, &["--expect", &expect]).status, 0);
    assert_eq!(verify(&guard, &elsewhere, &["--key", &key]).status, 0);
    let said = verify(&guard, &elsewhere, &["--key", &key, "--expect", &expect]);
    assert!(
        said.status == 1 && said.err.contains("earlier state"),
        "{said:?}"
    );
    guard.start();
}

#[test]
fn an_end_cut_off_cleanly_is_found_and_the_next_guardd_says_so_too() {
    let place = Place::new();
    let mut guard = Guard::new(&place, &nothing(&place));
    guard.tool().must("run true");
    assert!(guard.stop().success());
    let state = guard.state_dir();
    let last = last_segment(&state);
    let text = fs::read_to_string(&last).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    fs::write(&last, lines[..lines.len() - 3].concat()).unwrap();
    let said = verify(&guard, &state, &[]);
    assert_eq!(said.status, 1, "{said:?}");
    let line = lines.len() - 2;
    for part in [
        last.to_str().unwrap(),
        &format!("line {line} (event {line})"),
        "events were cut off",
    ] {
        assert!(said.err.contains(part), "{part}: {said:?}");
    }
    guard.start();
    let status = guard.json(&["status"]);
    assert_eq!(status["state"], "degraded", "{status}");
    assert!(
        status["degraded"].to_string().contains("cut off"),
        "{status}"
    );
    let told = guard.events_now();
    assert!(
        told.iter()
            .any(|event| event.is("guard") && event["object"]["what"] == "journal altered")
    );
    let said = verify(&guard, &state, &[]);
    assert!(
        said.status == 1 && said.err.contains("guardd tells here"),
        "{said:?}"
    );
}

#[test]
fn a_full_disk_is_counted_and_told_when_there_is_room_again() {
    let place = Place::new();
    fs::create_dir_all(place.path("guard/state")).unwrap();
    // A small file system that this guardd alone sees, and that goes with it.
    let script = format!(
        "mount -t tmpfs -o size=1m none {} && exec \"$@\"",
        place.path("guard/state").display()
    );
    let wrapper = [
        "unshare",
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        &script,
        "sh",
    ];
    let guard = Guard::of(&place).through(&wrapper).start(&nothing(&place));
    let mut tool = guard.tool();
    tool.must("run true");
    let inside = PathBuf::from(format!("/proc/{}/root", guard.pid()))
        .join(guard.state_dir().strip_prefix("/").unwrap());
    let filler = inside.join("filler");
    // No room for another page; what room the last one has is used up by the first events.
    let full = fs::write(&filler, vec![0; 2 << 20]).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    let long = "x".repeat(3000);
    let status = eventually("events are lost", || {
        tool.must(&format!("run echo {long}"));
        let status = guard.json(&["status"]);
        (status["journal"]["unwritten"].as_u64()? >= 5).then_some(status)
    });
    assert_eq!(status["state"], "degraded");
    assert!(
        status["degraded"].to_string().contains("not on disk"),
        "{status}"
    );
    fs::remove_file(&filler).unwrap();
    let told = eventually("the loss is told", || {
        let events = guard.events_now();
        events
            .into_iter()
            .find(|event| event.is("lost") && event["object"]["class"] == "journal")
    });
    let lost = guard.json(&["status"])["journal"]["unwritten"].clone();
    assert_eq!(told["object"]["count"], lost, "{told:?}");
    assert_eq!(told["object"]["why"], "disk full");
    assert!(told["object"]["from"].as_str() <= told["object"]["to"].as_str());
    tool.must("run true");
    eventually("what is judged is stored again", || {
        let events = guard.events_now();
        events
            .iter()
            .any(|event| event.is("exec") && event.seq() > told.seq())
            .then_some(())
    });
    let said = verify(&guard, &inside, &[]);
    assert_eq!(said.status, 0, "{said:?}");
}

#[test]
fn what_is_too_old_goes_and_what_remains_is_whole() {
    let place = Place::new();
    let policy = nothing(&place).and("[journal]\nkeep = \"2s\"\nsize = \"1MiB\"");
    let mut guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    eventually("old events go", || {
        tool.must("run true");
        (guard.json(&["status"])["journal"]["begins"].as_u64()? > 1).then_some(())
    });
    let state = guard.state_dir();
    let said = verify(&guard, &state, &[]);
    assert!(
        said.status == 0 && said.out.contains("removed by retention on 20"),
        "{said:?}"
    );
    assert!(guard.stop().success());
    let report = verify(&guard, &state, &["--json"]).json();
    assert!(
        report["first_seq"].as_u64().unwrap() > 1 && report["removed"].is_string(),
        "{report}"
    );
    let mut events = events_in_last_segment(&state);
    assert!(events.any(|event| event["object"]["what"] == "retention"));
    guard.start();
}

fn events_in_last_segment(state: &Path) -> impl Iterator<Item = Value> {
    let text = fs::read_to_string(last_segment(state)).unwrap();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines
        .into_iter()
        .map(|line| serde_json::from_str(&line).unwrap())
}

/// Lines of `events --follow` in a format, until one is as wanted.
fn follow(guard: &Guard, format: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut child = guard
        .guardctl()
        .args(["events", "--follow", "--format", format])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let found = lines
        .map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap())
        .find(wanted);
    child.kill().unwrap();
    child.wait().unwrap();
    found.expect("a line as wanted")
}

#[test]
fn events_come_in_the_words_of_other_schemas() {
    let (place, server) = (Place::new(), Tcp::v4());
    let policy =
        Policy::new()
            .addresses("infra", &[server.addr()])
            .rule("r", &["infra"], "deny", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    tool.ask(&format!("tcp {} x", server.addr()));
    let port = u64::from(server.addr().port());
    let ocsf = follow(&guard, "ocsf", |line| {
        line["class_uid"] == 4001 && line["action_id"] == 2
    });
    assert_eq!(ocsf["dst_endpoint"]["port"], port);
    assert_eq!(
        (&ocsf["type_uid"], &ocsf["metadata"]["version"]),
        (&400_101.into(), &"1.8.0".into())
    );
    let finding = follow(&guard, "ocsf", |line| line["class_uid"] == 2004);
    assert_eq!(
        finding["finding_info"]["related_events"][0]["uid"],
        ocsf["metadata"]["uid"]
    );
    let ecs = follow(&guard, "ecs", |line| line["rule"]["name"] == "r");
    assert_eq!(
        (&ecs["destination"]["port"], &ecs["event"]["outcome"]),
        (&port.into(), &"failure".into())
    );
    let jsonl = follow(&guard, "jsonl", |line| line["rule"] == "r");
    assert_eq!(jsonl["kind"], "connect");
}

/// A key is read, then a server is called; somebody says no. The report tells it, with guardd and without.
#[test]
fn a_denied_hold_is_retold_in_the_right_order() {
    let (place, server) = (Place::new(), Tcp::v4());
    let secret = place.file("<script>`x`.env", "hunter2");
    let policy = Policy::new()
        .files("credential", &[secret.display()])
        .addresses("infra", &[server.addr()])
        .rule(
            "credential-then-infra",
            &["credential", "infra"],
            "hold",
            "timeout = \"60s\"",
        );
    let mut guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    let session = guard.session_of(tool.pid()).expect("a session");
    guard.must(&["intent", &session, "tidy *up* <b>"]);
    tool.must(&format!("open openat {}", secret.display()));
    tool.tell(&format!("tcp {} hello", server.addr()));
    let hold = guard.hold();
    let id = hold["id"].as_str().unwrap();
    guard.must(&["deny", id, "--reason", "not today"]);
    tool.was_refused(&guard);
    tool.finish();
    eventually("the session ends", || {
        guard.sessions().is_empty().then_some(())
    });

    let report = guard.json(&["report", &session]);
    let verdicts = report["verdicts"].as_array().unwrap();
    let held = verdicts.iter().find(|v| v["verdict"] == "hold").unwrap();
    let fact = &held["evidence"][0];
    assert_eq!(
        fact["event"]["what"],
        secret.to_str().unwrap(),
        "{report:#}"
    );
    assert!(fact["event"]["seq"].as_u64() < held["call"]["seq"].as_u64());
    assert!(
        held["outcome"]
            .as_str()
            .unwrap()
            .contains("denied by uid 0"),
        "{held:#}"
    );
    assert_eq!(held["hold"]["reason"], "not today");
    assert_eq!(held["call"]["what"], server.addr().to_string());
    assert!(
        report["not_stopped"].as_array().unwrap().is_empty(),
        "{report:#}"
    );
    assert!(
        report["ended"].is_string() && report["from_the_beginning"] == true,
        "{report:#}"
    );

    let markdown = guard.must(&["report", &session]).out;
    let place_of = |text: &str| {
        markdown
            .find(text)
            .unwrap_or_else(|| panic!("{text}:\n{markdown}"))
    };
    let story = [
        &format!("# Session {session}: "),
        "- **Outcome:** 1 call stopped",
        "`tidy *up* <b>`",
        "## Verdicts",
        "by `credential-then-infra`",
        "before: ",
        "then: ",
        "Reason given: `not today`",
        "## What was stopped",
        "## What was not stopped",
        "## Processes",
        "## Timeline",
        "**open**",
        "**hold**",
        "**answer**",
        "## What is not known",
    ];
    for two in story.windows(2) {
        let after = markdown[place_of(two[0])..].contains(two[1]);
        assert!(after, "{} before {}:\n{markdown}", two[0], two[1]);
    }
    let html = guard.must(&["report", &session, "--format", "html"]).out;
    assert!(
        !html.contains("<script") && html.contains("&lt;script&gt;`x`.env"),
        "{html}"
    );

    // Without guardd, from what it left.
    assert!(guard.stop().success());
    let state = guard.state_dir();
    let dir = state.to_str().unwrap();
    let offline = guard.must(&["report", &session, "--state-dir", dir]).out;
    // The end of guardd itself comes after the end of the session.
    assert_eq!(
        offline.split("## What is not known").next(),
        markdown.split("## What is not known").next()
    );
    assert_eq!(guard.ctl(&["report", &session]).status, 3);
    assert_eq!(guard.ctl(&["report", "s-99", "--state-dir", dir]).status, 1);
    guard.start();
}
