//! Secrets by content, on a live kernel: files are known by what they hold, and requests by what they carry.

use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use guard_tests::{
    Event, Guard, Place, Policy, Tool,
    api::ApiServer,
    eventually, fixture, has_program,
    proc::monotonic,
    resolving::Resolving,
    secrets::{chance::Chance, kinds::RECIPES, made::value},
};

const API: &str = "api.guard-secrets.test";

/// A made-up token of Railway's, another for each seed.
fn token(seed: u64) -> String {
    let railway = RECIPES
        .iter()
        .find(|one| one.provider == "railway" && one.kind == "api-token")
        .unwrap();
    value(railway.recipe, &mut Chance::new(seed))
}

fn line(token: &str) -> String {
    format!("# how to deploy\nRAILWAY_TOKEN={token}\n")
}

/// Makes a directory and begins a session in it.
fn tool_in(guard: &Guard, dir: &Path) -> Tool {
    fs::create_dir_all(dir).unwrap();
    let mut command = guard.run(&["--agent", "x"], fixture("guard-fixture-tool"));
    command.current_dir(dir);
    Tool::start(command)
}

fn policy() -> Policy {
    Policy::new().rule("known", &["secret:railway"], "flag", "")
}

fn open(tool: &mut Tool, path: &Path) {
    tool.must(&format!("open openat {}", path.display()));
}

/// An open of this file that carries the labels; late, or by the kernel.
fn is_fact(event: &Event, path: &Path, late: bool) -> bool {
    event.is("open")
        && event.has("secret:railway")
        && event.path() == path.to_str().unwrap()
        && event["object"]["late"].as_bool().unwrap_or(false) == late
}

/// Every byte that guardd has written or told must be without the values.
#[track_caller]
fn nothing_is_kept(guard: &Guard, values: &[&str]) {
    let told = guard.must(&["--json", "events"]).out + &guard.must(&["--json", "status"]).out;
    let mut looked = 0;
    let mut left = vec![guard.state_dir(), guard.state_dir().join("../log")];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if let Ok(bytes) = fs::read(&path) {
            looked += 1;
            for value in values {
                let found = bytes
                    .windows(value.len())
                    .any(|window| window == value.as_bytes());
                assert!(!found, "{} is in {}", value, path.display());
            }
        }
    }
    assert!(
        looked > 3,
        "the journal, the state and the log were not there"
    );
    for value in values {
        assert!(!told.contains(value), "{value} is told");
    }
}

/// Opens the file until the kernel knows it.
#[track_caller]
fn until_known(guard: &Guard, tool: &mut Tool, path: &Path) {
    eventually("the kernel knows the file", || {
        open(tool, path);
        let events = guard.events_now();
        events
            .iter()
            .any(|event| is_fact(event, path, false))
            .then_some(())
    });
}

/// How long after `since` the kernel first judged an open of the file as one with the label, or as one without.
#[track_caller]
fn first_open(
    guard: &Guard,
    tool: &mut Tool,
    path: &Path,
    since: Duration,
    known: bool,
) -> Duration {
    let fence = path.parent().unwrap().join("fence");
    eventually("the kernel judges it so", || {
        let begun = monotonic();
        open(tool, path);
        // What is told of a session arrives in order.
        open(tool, &fence);
        let events = eventually("the fence", || {
            let mut events = guard.events_now();
            events.retain(|event| {
                event["mono_ns"]
                    .as_u64()
                    .is_some_and(|at| at > begun.as_nanos() as u64)
            });
            let has = |event: &Event| event.is("open") && event.path() == fence.to_str().unwrap();
            events.iter().any(has).then_some(events)
        });
        let judged = events.iter().any(|event| is_fact(event, path, false));
        (judged == known).then(|| begun - since)
    })
}

#[test]
fn a_file_is_known_by_what_it_holds_within_a_second_and_no_longer_when_it_holds_it_no_more() {
    let place = Place::new();
    let shop = place.path("shop");
    let guard = Guard::new(&place, &policy().files("fence", &["**/fence"]));
    let mut tool = tool_in(&guard, &shop);
    place.file("shop/deep/fence", "");
    let notes = place.file("shop/deep/notes.txt", "nothing yet\n");
    // The scanner is ready once it has found a first one.
    let first = place.file("shop/deep/first.txt", &line(&token(1)));
    until_known(&guard, &mut tool, &first);
    open(&mut tool, &notes);
    // Written by somebody else, and by the session itself.
    for by in ["another", "the session"] {
        let since = monotonic();
        if by == "another" {
            fs::write(&notes, line(&token(2))).unwrap();
        } else {
            tool.must(&format!(
                "write {} RAILWAY_TOKEN={}",
                notes.display(),
                token(3)
            ));
        }
        let took = first_open(&guard, &mut tool, &notes, since, true);
        println!("written by {by}: known after {took:?}");
        assert!(took < Duration::from_secs(1), "{by}: {took:?}");
        // A link to it has its label, wherever it is.
        let link = place.path("elsewhere.txt");
        let _ = fs::remove_file(&link);
        fs::hard_link(&notes, &link).unwrap();
        until_known(&guard, &mut tool, &link);
        let since = monotonic();
        fs::write(&notes, "nothing any more\n").unwrap();
        let took = first_open(&guard, &mut tool, &notes, since, false);
        println!("without it: not known after {took:?}");
    }
    nothing_is_kept(&guard, &[&token(1), &token(2), &token(3)]);
}

#[test]
fn a_known_file_is_known_where_it_is_moved_and_what_takes_its_place_is_not() {
    let place = Place::new();
    let shop = place.path("shop");
    let guard = Guard::new(&place, &policy().files("fence", &["**/fence"]));
    place.file("shop/fence", "");
    let notes = place.file("shop/notes.txt", &line(&token(12)));
    let mut tool = tool_in(&guard, &shop);
    until_known(&guard, &mut tool, &notes);
    let moved = shop.join("moved.txt");
    fs::rename(&notes, &moved).unwrap();
    fs::write(&notes, "nothing\n").unwrap();
    let since = monotonic();
    first_open(&guard, &mut tool, &moved, since, true);
    first_open(&guard, &mut tool, &notes, since, false);
    // What gets its inode's number is another file.
    fs::remove_file(&moved).unwrap();
    for copy in 0..50 {
        let path = place.file(&format!("shop/copy-{copy}.txt"), "nothing\n");
        open(&mut tool, &path);
    }
    first_open(&guard, &mut tool, &notes, since, false);
    let wrong: Vec<Event> = guard
        .events_now()
        .into_iter()
        .filter(|event| event.path().contains("/copy-"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    nothing_is_kept(&guard, &[&token(12)]);
}

#[test]
fn an_open_of_a_known_file_says_what_is_in_it() {
    let place = Place::new();
    let guard = Guard::new(&place, &policy());
    let notes = place.file("shop/notes.txt", &line(&token(4)));
    let mut tool = tool_in(&guard, &place.path("shop"));
    until_known(&guard, &mut tool, &notes);
    let event = guard
        .events_now()
        .into_iter()
        .find(|event| is_fact(event, &notes, false))
        .unwrap();
    let secret = &event["object"]["secrets"][0];
    assert_eq!(secret["provider"], "railway", "{event:?}");
    assert_eq!(secret["kind"], "api-token");
    assert_eq!(secret["line"], 2);
    assert_eq!(event["rule"], "known");
    // A policy that asks for it by another name, and one that does not ask at all.
    let other = Policy::new().rule("any", &["secret"], "flag", "");
    fs::write(guard.policy(), &*other).unwrap();
    guard.must(&["policy", "reload"]);
    open(&mut tool, &notes);
    let mut events = guard.events();
    let event = events.wait("the other label", |event| {
        event.is("open") && event["rule"] == "any" && event["object"].get("late").is_none()
    });
    assert!(
        event.has("secret") && !event.has("secret:railway"),
        "{event:?}"
    );
    fs::write(guard.policy(), &*Policy::new()).unwrap();
    guard.must(&["policy", "reload"]);
    let before = guard.events_now().len();
    open(&mut tool, &notes);
    let after = guard.events_now();
    assert!(
        !after[before..].iter().any(|event| event.is("open")),
        "{after:?}"
    );
    nothing_is_kept(&guard, &[&token(4)]);
}

#[test]
fn a_file_that_was_opened_before_it_was_searched_becomes_a_late_fact() {
    let place = Place::new();
    // Of the tree nothing is gone through but its top: what is below is searched when it is opened.
    let policy = Policy::new()
        .and("[secrets]\ndirectories = 1")
        .rule("known", &["secret:railway"], "flag", "")
        .rule("held", &["secret:railway"], "hold", "timeout = \"5m\"");
    let guard = Guard::new(&place, &policy);
    let notes = place.file("shop/deep/notes.txt", &line(&token(5)));
    let mut tool = tool_in(&guard, &place.path("shop"));
    // What is written is a reason to look at what is opened next.
    tool.must(&format!("write {} x", place.path("shop/new.txt").display()));
    open(&mut tool, &notes);
    let mut events = guard.events();
    let event = events.wait("the late fact", |event| is_fact(event, &notes, true));
    assert_eq!(event["verdict"], "hold", "{event:?}");
    assert_eq!(event["rule"], "held");
    assert_eq!(event["object"]["secrets"][0]["provider"], "railway");
    assert!(event.of(tool.pid()));
    let hold = guard.hold();
    assert_eq!(hold["pid"], tool.pid());
    guard.approve(&[]);
    tool.must("who");
    let session = guard.session_of(tool.pid()).unwrap();
    let shown = guard.json(&["show", &session]);
    let facts = shown["facts"].to_string();
    assert!(facts.contains("secret:railway"), "{facts}");
    nothing_is_kept(&guard, &[&token(5)]);
}

#[test]
fn what_was_known_is_known_again_after_a_restart() {
    let place = Place::new();
    let mut guard = Guard::new(&place, &policy());
    let notes = place.file("shop/notes.txt", &line(&token(11)));
    let mut tool = tool_in(&guard, &place.path("shop"));
    until_known(&guard, &mut tool, &notes);
    // Where it works is where it began.
    tool.must("cd /");
    guard.make_way();
    guard.start();
    let before = guard.events_now().last().unwrap().seq();
    let again = eventually("the kernel knows the file again", || {
        open(&mut tool, &notes);
        let mut facts = guard
            .events_now()
            .into_iter()
            .filter(|event| event.seq() > before);
        facts.find(|event| is_fact(event, &notes, false))
    });
    assert_eq!(again["object"]["secrets"][0]["line"], 2, "{again:?}");
    nothing_is_kept(&guard, &[&token(11)]);
}

#[test]
fn secrets_in_the_environment_are_listed_by_name() {
    let place = Place::new();
    let guard = Guard::new(&place, &policy());
    fs::create_dir_all(place.path("shop")).unwrap();
    let mut command = guard.run(&["--agent", "x"], fixture("guard-fixture-tool"));
    command
        .current_dir(place.path("shop"))
        .env("RAILWAY_TOKEN", token(6))
        .env("EDITOR", "vi");
    let tool = Tool::start(command);
    let session = guard.session_of(tool.pid()).unwrap();
    let listed = eventually("it is listed", || {
        let shown = guard.json(&["show", &session]);
        shown.get("environment").cloned()
    });
    assert_eq!(
        listed,
        serde_json::json!([{ "name": "RAILWAY_TOKEN", "provider": "railway", "kind": "api-token" }])
    );
    let text = guard.must(&["show", &session]).out;
    assert!(text.contains("RAILWAY_TOKEN  railway api-token"), "{text}");
    assert!(!text.contains(&token(6)));
    nothing_is_kept(&guard, &[&token(6)]);
}

fn secrets_used() -> Policy {
    policy()
        .rule("foreign", &["foreign-secret"], "flag", "")
        .rule(
            "used",
            &["secret:railway", "uses:secret:railway"],
            "hold",
            "timeout = \"5m\"",
        )
}

#[test]
fn the_use_of_a_known_secret_is_seen_in_a_request_and_named_by_its_file() {
    if !["unshare", "curl"].into_iter().all(has_program) {
        return;
    }
    let place = Place::new();
    let ca = place.path("ca.pem");
    let (plain, tls) = (ApiServer::plain(), ApiServer::tls(&[API], &ca));
    let resolving = Resolving::here(&place, &[API]);
    let guard = Guard::new(&place, &secrets_used());
    let (shop, blog) = (place.path("shop"), place.path("blog"));
    let notes = place.file("shop/notes.txt", &line(&token(7)));
    let mut tool = tool_in(&guard, &shop);
    until_known(&guard, &mut tool, &notes);
    fs::create_dir_all(&blog).unwrap();
    for (scheme, port, via) in [
        ("http", plain.port(), "plain"),
        ("https", tls.port(), "openssl"),
    ] {
        let url = format!("{scheme}://{API}:{port}/graphql");
        // In another session, whose tree is another: it has not opened the file, so nothing is held.
        let run = |token: &str| {
            let header = format!("Authorization: Bearer {token}");
            let ca = ca.to_str().unwrap();
            let words = [
                "curl", "-sS", "-m", "60", "--cacert", ca, "-H", &header, &url,
            ];
            let mut command = resolving.run(&guard, &words);
            command
                .current_dir(&blog)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            let output = command.output().unwrap();
            assert!(output.status.success(), "{scheme}: {output:?}");
        };
        let is_use = |event: &Event| {
            event.is("request")
                && event["object"].get("uses").is_some()
                && event["object"]["via"] == via
        };
        run(&token(7));
        let mut events = guard.events();
        let event = events.wait("its use elsewhere", is_use);
        for label in ["uses:secret:railway", "foreign-secret"] {
            assert!(event.has(label), "{label}: {event:?}");
        }
        assert_eq!(
            event["object"]["uses"],
            serde_json::json!([{ "provider": "railway", "path": notes.to_str().unwrap() }]),
            "{event:?}"
        );
        // A value that nobody knows.
        run(&token(8));
        let uses = guard.events_now().into_iter().filter(is_use).count();
        assert_eq!(uses, 1, "{scheme}");
    }
    // In the session that has opened the file it is held, and it is not foreign there.
    let before = plain.bytes();
    let url = format!("http://127.0.0.1:{}/graphql", plain.port());
    tool.must(&format!("spawn curl -sS -m 60 {url}?token={}", token(7)));
    let hold = guard.hold();
    assert_eq!(hold["rule"], "used", "{hold}");
    assert_eq!(plain.bytes(), before);
    guard.deny(&[]);
    let mut events = guard.events();
    let event = events.wait("its use here", |event| {
        event.is("request") && event["rule"] == "used"
    });
    assert!(!event.has("foreign-secret"), "{event:?}");
    nothing_is_kept(&guard, &[&token(7), &token(8)]);
}

#[test]
fn a_tree_of_fifty_thousand_files_keeps_nobody_waiting() {
    const DIRECTORIES: usize = 500;
    const FILES: usize = 100;
    let place = Place::new();
    let shop = place.path("shop");
    let text = "fn main() { println!(\"a line of a program\"); }\n".repeat(20);
    for directory in 0..DIRECTORIES {
        let path = shop.join(format!("part-{directory}"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..FILES {
            fs::write(path.join(format!("f-{file}.rs")), &text).unwrap();
        }
    }
    let guard = Guard::new(&place, &policy());
    let memory = |what: &str| -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", guard.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let mut tool = tool_in(&guard, &shop);
    // In a directory that comes last, while all others wait.
    let notes = shop.join("part-7/zz-notes.txt");
    fs::write(&notes, line(&token(9))).unwrap();
    let begun = Instant::now();
    open(&mut tool, &notes);
    let mut events = guard.events();
    events.wait("the fact", |event| {
        is_fact(event, &notes, true) || is_fact(event, &notes, false)
    });
    let found = begun.elapsed();
    // guardd answers meanwhile, and what changes is seen meanwhile.
    let asked = Instant::now();
    guard.json(&["status"]);
    let answered = asked.elapsed();
    let other = shop.join("part-9/zz-other.txt");
    fs::write(&other, line(&token(10))).unwrap();
    until_known(&guard, &mut tool, &other);
    let peak = memory("VmHWM");
    println!("found after {found:?}, status after {answered:?}, peak {peak} KiB");
    assert!(found < Duration::from_secs(5), "{found:?}");
    assert!(answered < Duration::from_secs(2), "{answered:?}");
    assert!(peak < 400 << 10, "{peak} KiB");
    nothing_is_kept(&guard, &[&token(9), &token(10)]);
}
