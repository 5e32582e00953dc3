//! What only another process can show: death by SIGKILL, and want of room. Each test runs this very
//! test binary again with one of the `child_…` functions below.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};

use super::*;

/// Where the child's journal is; without it the child functions do nothing.
const DIR: &str = "GUARD_TEST_JOURNAL";

/// This test binary, to run the one function `name`.
fn child(wrapper: &[&str], name: &str, dir: &Path) -> Command {
    let exe = std::env::current_exe().unwrap();
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut words = wrapper
        .iter()
        .map(std::ffi::OsString::from)
        .collect::<Vec<_>>();
    words.push(exe.into());
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args([
            &format!("{module}::{name}"),
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(DIR, dir);
    command
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for _ in 0..5 {
        let mut writer = child(&[], "child_appends_for_ever", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(writer.stdout.take().unwrap());
        let until = acknowledged + 1500;
        for line in output.lines() {
            let line = line.unwrap();
            let Some(seq) = line.strip_prefix("ack ") else {
                continue;
            };
            acknowledged = seq.parse().unwrap();
            if acknowledged == until {
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        assert!(acknowledged >= until);
        let on_disk = Journal::verify(dir.path(), &Against::default())
            .unwrap()
            .last_seq;
        assert!(
            on_disk >= acknowledged,
            "{acknowledged} was acknowledged, {on_disk} is on disk"
        );
        let stored = seqs(dir.path(), 0);
        assert_eq!(stored, (1..=on_disk).collect::<Vec<_>>());
        // The dead process's lock is gone.
        acknowledged = Journal::open(dir.path()).unwrap().journal.last_seq();
    }
}

#[test]
#[ignore = "run as a child process by another test"]
fn child_appends_for_ever() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let mut journal = Journal::open_with(Path::new(&dir), 100_000)
        .unwrap()
        .journal;
    println!();
    loop {
        let mut event = event(0);
        journal.append(&mut event).unwrap();
        println!("ack {}", event.seq);
    }
}

#[test]
fn without_room_events_are_counted_and_the_file_stays_whole() {
    let dir = tempfile::tempdir().unwrap();
    let ran = child(&[], "child_hits_the_file_size_limit", dir.path())
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert_eq!(
        Journal::verify(dir.path(), &Against::default())
            .unwrap()
            .events,
        130,
        "the child ran"
    );
}

#[test]
#[ignore = "run as a child process by another test"]
fn child_hits_the_file_size_limit() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    // SAFETY: ignoring a signal installs no handler, so there is none that could be unsound.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let was = getrlimit(Resource::Fsize);
    setrlimit(
        Resource::Fsize,
        Rlimit {
            current: Some(20_001),
            ..was
        },
    )
    .unwrap();
    run_out_of_room(Path::new(&dir), || setrlimit(Resource::Fsize, was).unwrap());
}

/// The real thing: a file system of 64 KiB in a mount namespace that ends with the child.
#[test]
fn on_a_full_file_system_events_are_counted_and_the_file_stays_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mount = r#"mount -t tmpfs -o size=64k none "$GUARD_TEST_JOURNAL" && exec "$0" "$@""#;
    let mut probe = Command::new("unshare");
    probe
        .args(["--mount", "sh", "-c", mount, "true"])
        .env(DIR, dir.path());
    if !geteuid().is_root() || !probe.status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: takes root, unshare(1) and tmpfs");
        return;
    }
    let wrapper = ["unshare", "--mount", "sh", "-c", mount];
    let ran = child(&wrapper, "child_fills_its_file_system", dir.path())
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(
        String::from_utf8_lossy(&ran.stdout).contains("filled"),
        "the child ran"
    );
}

#[test]
#[ignore = "run as a child process by another test"]
fn child_fills_its_file_system() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let dir = Path::new(&dir);
    let ballast = dir.join("ballast");
    fs::write(&ballast, [0; 40 << 10]).unwrap();
    run_out_of_room(dir, || fs::remove_file(ballast).unwrap());
    println!("filled");
}

/// Appends until there is no room, some more, and again when there is. 130 events are stored.
fn run_out_of_room(dir: &Path, make_room: impl FnOnce()) {
    let mut journal = Journal::open(dir).unwrap().journal;
    let mut stored = 0;
    let error = loop {
        let mut event = event(stored + 1);
        match journal.append(&mut event) {
            Ok(()) => stored = event.seq,
            Err(error) => {
                assert_eq!(event.seq, 0);
                break error;
            }
        }
    };
    assert!(matches!(error, JournalError::Full { .. }), "{error}");
    assert!(error.to_string().starts_with("disk full: "), "{error}");
    assert!((20..120).contains(&stored), "{stored}");
    for n in 2..=10 {
        assert!(matches!(
            journal.append(&mut event(0)),
            Err(JournalError::Full { .. })
        ));
        assert_eq!((journal.unwritten(), journal.last_seq()), (n, stored));
        let whole = fs::read(&segments(dir)[0]).unwrap();
        assert_eq!(whole.last(), Some(&b'\n'), "no part of a line is left");
        assert_eq!(
            Journal::verify(dir, &Against::default()).unwrap().last_seq,
            stored
        );
    }
    journal.sync().unwrap();
    make_room();
    append(&mut journal, stored + 1..=130);
    journal.sync().unwrap();
    assert_eq!(
        Journal::verify(dir, &Against::default()).unwrap().events,
        130
    );
    let seqs: Vec<_> = journal.tail().map(|event| event.seq).collect();
    assert_eq!(
        seqs.iter().filter(|seq| **seq == 0).count(),
        10,
        "memory has them all"
    );
    assert_eq!(seqs.len(), 140);
    assert_eq!(journal.unwritten(), 10);
}
