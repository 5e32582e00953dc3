//! Much at once, for long, and guardd killed at any moment.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use guard_tests::{
    Guard, PATIENCE_VAR, Place, Policy, Tool, eventually, fixture, let_pass,
    server::{Tcp, Udp},
    skipped_in_part,
};
use serde_json::Value;

/// How much is tried. Less where the processor is emulated; `GUARD_STRESS_KILLS` asks for another number of kills.
struct Scale {
    processes: u64,
    sessions: usize,
    seconds: u64,
    kills: usize,
}

impl Scale {
    fn of_this_machine() -> Self {
        let kills = std::env::var("GUARD_STRESS_KILLS").ok();
        let kills = kills.and_then(|text| text.parse().ok());
        if std::env::var_os(PATIENCE_VAR).is_some() {
            Self {
                processes: 1_000,
                sessions: 20,
                seconds: 10,
                kills: kills.unwrap_or(3),
            }
        } else {
            Self {
                processes: 10_000,
                sessions: 200,
                seconds: 60,
                kills: kills.unwrap_or(20),
            }
        }
    }
}

/// The last events that guardd keeps (`journal/tail.rs`).
const EVENTS_KEPT: u64 = 4096;

/// KiB of memory of its own that a process has. Not `VmRSS`: that also counts the ring buffers, which the kernel has
/// made at the start, as far as they have been read once.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .expect("RssAnon")
}

fn counter(status: &Value, class: &str, what: &str) -> u64 {
    let counters = status["counters"].as_array().unwrap();
    counters
        .iter()
        .find(|counter| counter["class"] == class)
        .and_then(|counter| counter[what].as_u64())
        .unwrap()
}

/// One child of a storm in so many tries what is forbidden, as the fixture has it.
const SAMPLE: u64 = 64;

#[test]
fn a_storm_in_a_crowd_is_judged_whole_and_leaves_nothing() {
    let scale = Scale::of_this_machine();
    let place = Place::new();
    let (noted, secret) = (place.file("noted", "x"), place.file("secret", "hunter2"));
    let (allowed, denied) = (Udp::v4(), Udp::v4());
    let policy = Policy::new()
        .files("noted", &[noted.display()])
        .files("secret", &[secret.display()])
        .addresses("allowed", &[allowed.addr()])
        .addresses("denied", &[denied.addr()])
        .rule("r-secret", &["secret"], "deny", "")
        .rule("r-denied", &["denied"], "deny", "");
    let guard = Guard::new(&place, &policy);

    // Sessions by the hundred, one of them a crowd.
    let sessions: Vec<Tool> = (0..scale.sessions).map(|_| guard.tool()).collect();
    let mut crowd = guard.tool();
    let session = guard.session_of(crowd.pid()).unwrap();
    crowd.tell(&format!("crowd {}", scale.processes));
    let made = eventually("the crowd", || crowd.answered());
    let made = match made["limit"].as_str() {
        Some(limit) => {
            skipped_in_part(&format!("no more than {} processes: {limit}", made["made"]));
            made["made"].as_u64().unwrap()
        }
        None => scale.processes,
    };
    assert_eq!(guard.sessions().len(), scale.sessions + 1);
    let live = guard
        .sessions()
        .into_iter()
        .find(|one| one["id"] == session.as_str())
        .unwrap();
    assert_eq!(live["processes"], made + 1, "{live}");

    // The storm, first to warm up: until guardd keeps as many events in its memory as it ever does.
    let mut storm = guard.tool();
    let mut blow = |seconds: u64| {
        storm.tell(&format!(
            "gale {seconds} {} {} {} {}",
            noted.display(),
            secret.display(),
            allowed.addr(),
            denied.addr()
        ));
        let_pass(Duration::from_secs(seconds));
        storm.answer()
    };
    eventually("the warm-up", || {
        blow(1);
        let events = guard.json(&["status"])["events"].as_u64()?;
        (events > EVENTS_KEPT + EVENTS_KEPT / 4).then_some(())
    });
    let before = guard.json(&["status"]);
    let memory = resident(guard.pid());
    let did = blow(scale.seconds);
    let count = |what: &str| did[what].as_u64().unwrap();
    println!("{did}");
    assert_eq!(count("missed"), 0, "{did}");
    // Each that was tried, however few a slow processor has come to: files and addresses by turns.
    assert_eq!(count("refused"), count("forks").div_ceil(SAMPLE), "{did}");
    assert!(count("refused") > 1, "{did}");
    assert_eq!(
        count("opened") + count("refused"),
        count("forks"),
        "a child that could not do what it may: {did}"
    );
    assert_eq!(denied.reached().bytes, 0);

    // Whatever was done was told or counted as lost, and no process was lost.
    let after = eventually("what was done is told", || {
        let after = guard.json(&["status"]);
        let new = |class, what| counter(&after, class, what) - counter(&before, class, what);
        let told = after["events"].as_u64()? - before["events"].as_u64()?;
        (told >= new("activity", "emitted") + new("verdict", "emitted")).then_some(after)
    });
    let new = |class, what| counter(&after, class, what) - counter(&before, class, what);
    assert_eq!(
        new("activity", "emitted") + new("activity", "lost"),
        count("opened") + count("connected"),
        "{did} {after}"
    );
    assert_eq!(new("verdict", "emitted"), count("refused"), "{did} {after}");
    for class in ["lineage", "verdict", "fact"] {
        assert_eq!(counter(&after, class, "lost"), 0, "{class}: {after}");
    }
    println!(
        "lost of activity: {} of {}",
        new("activity", "lost"),
        count("opened") + count("connected")
    );
    let grown = resident(guard.pid()).saturating_sub(memory);
    assert!(
        grown < 8 << 10,
        "guardd has grown by {grown} KiB, from {memory}"
    );

    // And over it is.
    drop((crowd, storm, sessions));
    eventually("every session is over", || {
        guard.sessions().is_empty().then_some(())
    });
}

/// The incident: a credential is read, then the control plane is called, over and over.
struct Incident {
    credential: PathBuf,
    plane: Tcp,
    policy: Policy,
}

impl Incident {
    fn new(place: &Place) -> Self {
        let credential = place.file("credentials", "hunter2");
        let plane = Tcp::v4();
        let policy = Policy::new()
            .files("credential", &[credential.display()])
            .addresses("infra", &[plane.addr()])
            .rule(
                "r",
                &["credential", "infra"],
                "hold",
                "timeout = \"1s\"\non_timeout = \"deny\"",
            );
        Self {
            credential,
            plane,
            policy,
        }
    }
}

#[test]
fn guardd_killed_at_any_moment_lets_nothing_through_and_leaves_nobody_stopped() {
    let kills = Scale::of_this_machine().kills;
    let place = Place::new();
    let incident = Incident::new(&place);
    let mut guard = Guard::new(&place, &incident.policy);
    // Spread over the second in which a session begins, reads, connects, is held, and times out.
    let mut seed = u64::from(std::process::id()) << 16 | 1;
    for round in 0..kills {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let moment = Duration::from_micros(seed % 1_400_000);
        let mut command = guard.run(&["--agent", "incident"], fixture("guard-fixture-tool"));
        command.stdin(std::process::Stdio::piped());
        let begun = Instant::now();
        let mut agent = Tool::launch(command);
        agent.tell(&format!("open openat {}", incident.credential.display()));
        agent.tell(&format!("tcp {} hello", incident.plane.addr()));
        let_pass(moment.saturating_sub(begun.elapsed()));
        guard.kill();
        if round % 2 == 0 {
            // The deadline passes while nobody is there but the sentinel.
            let_pass(Duration::from_millis(1_200));
        }
        guard.start();
        // Held or begun anew, it ends by itself: refused, or killed.
        let mut answers = 0;
        eventually("the agent's call has an end", || {
            answers += usize::from(agent.has_answered());
            (answers == 2 || agent.is_over()).then_some(())
        });
        drop(agent);
        assert_eq!(
            incident.plane.reached().bytes,
            0,
            "round {round}: the call went through, killed after {moment:?}"
        );
        eventually("nobody is stopped", || {
            place.stopped().is_empty().then_some(())
        });
        eventually("the session is over", || {
            guard.sessions().is_empty().then_some(())
        });
    }
    // Every record that was written is there, and can be read.
    let events = guard.events_now();
    assert!(events.len() > kills, "{}", events.len());
    for (event, next) in events.iter().zip(&events[1..]) {
        assert_eq!(event.seq() + 1, next.seq(), "{event:?} {next:?}");
    }
}

/// Not a test: it decides nothing. `cargo xtask vm --kernel 6.12 --count-instructions -- --ignored --nocapture cost` prints
/// what an open costs on each tier there, as a ratio to the same open with nothing attached, a moment before.
#[test]
#[ignore = "a measurement"]
fn the_cost_of_an_open_by_tier() {
    for tier in ["lsm", "modify-return", "fentry", "tracepoint"] {
        let place = Place::new();
        let (plain, noted) = (place.file("plain", "x"), place.file("noted", "x"));
        let mut outside = Tool::start(place.command(fixture("guard-fixture-tool")));
        let time = |tool: &mut Tool, path: &PathBuf| {
            let answer = tool.must(&format!("time-opens {}", path.display()));
            answer["ns"].as_f64().unwrap()
        };
        time(&mut outside, &plain);
        let nothing = time(&mut outside, &plain);
        // With the calls that the default policy names.
        let calls = "[[label]]\nname = \"calls\"\ncalls = [\"guard-files\", \"signal-guard\", \"ptrace-outside\", \"bpf\"]";
        let policy = Policy::new().files("noted", &[noted.display()]).and(calls);
        let guards = Guard::of(&place).with(&["--tier", tier]);
        let guard = match guards.try_start(&policy) {
            Ok(guard) => guard,
            Err(said) => {
                skipped_in_part(&format!("{tier}: {said}"));
                continue;
            }
        };
        let alone = time(&mut outside, &plain);
        let mut inside = guard.tool();
        let elsewhere = time(&mut outside, &plain);
        time(&mut inside, &plain);
        let within = time(&mut inside, &plain);
        let told = time(&mut inside, &noted);
        println!(
            "{tier}: nothing attached {nothing:.0} ns; no session {:.3}, session elsewhere {:.3}, in a session {:.3}, \
             labelled {:.3}",
            alone / nothing,
            elsewhere / nothing,
            within / nothing,
            told / nothing
        );
    }
}
