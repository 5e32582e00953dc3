//! The journal as its users see it. The slow and violent parts run in child processes.

mod crash;
mod retention;
mod signed;
mod tampering;

use std::{fs, path::PathBuf, time::Instant};

use tempfile::TempDir;

use super::{segment::Segment, *};
use crate::event::Kind;

/// An event with something in it, `n` in its object.
fn event(n: u64) -> Event {
    let mut event = Event::new(Kind::Exec);
    event.session = Some("s-1".into());
    event.argv = Some(vec!["cat".into(), "a \"quoted\" näme\n".into()]);
    event.object = Some(serde_json::json!({ "argv": [n], "cwd": "/tmp" }));
    event
}

fn number(event: &Event) -> u64 {
    event.object.as_ref().unwrap()["argv"][0].as_u64().unwrap()
}

fn append(journal: &mut Journal, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        let mut event = event(n);
        journal.append(&mut event).unwrap();
        assert_eq!(event.seq, n);
    }
}

/// A journal of `events` events in segments of about `bytes`, closed again.
fn written(events: u64, bytes: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    append(
        &mut Journal::open_with(dir.path(), bytes).unwrap().journal,
        1..=events,
    );
    dir
}

fn seqs(dir: &Path, after: u64) -> Vec<u64> {
    Journal::read(dir, after)
        .unwrap()
        .map(|event| event.unwrap().seq)
        .collect()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    Segment::list(dir)
        .unwrap()
        .into_iter()
        .map(|segment| segment.path)
        .collect()
}

#[test]
fn what_is_appended_is_read_back_and_numbered_without_gaps_over_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("a/b");
    for round in 0..5 {
        let Opened { mut journal, torn } = Journal::open_with(&state, 1000).unwrap();
        assert_eq!((torn, journal.last_seq()), (None, round * 20));
        assert_eq!(journal.tail().len() as u64, round * 20);
        append(&mut journal, round * 20 + 1..=round * 20 + 20);
        journal.sync().unwrap();
        // Readers need no lock.
        assert_eq!(seqs(&state, 0), (1..=round * 20 + 20).collect::<Vec<_>>());
        Journal::verify(&state, &Against::default()).unwrap();
    }
    for after in [0, 1, 37, 99, 100, 1000, u64::MAX] {
        assert_eq!(
            seqs(&state, after),
            (after.saturating_add(1)..=100).collect::<Vec<_>>()
        );
    }
    let events: Vec<_> = Journal::read(&state, 0)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(
        events
            .iter()
            .all(|event| number(event) == event.seq && event.argv == tests::event(0).argv)
    );
    let verified = Journal::verify(&state, &Against::default()).unwrap();
    assert_eq!(
        (verified.events, verified.last_seq, verified.partial_bytes),
        (100, 100, 0)
    );
    assert!(verified.segments > 10);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert!(segments(&state).iter().all(|path| mode(path) == 0o600));
}

#[test]
fn every_line_is_json_that_ends_in_the_chain() {
    let dir = written(3, u64::MAX);
    let text = fs::read_to_string(dir.path().join("journal-00000000000000000001.jsonl")).unwrap();
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let chain = value["chain"].as_str().unwrap();
        assert_eq!(chain.len(), 64);
        assert!(line.ends_with(&format!(",\"chain\":\"{chain}\"}}")));
    }
}

#[test]
fn the_first_link_is_the_hash_of_32_zero_bytes_and_the_event() {
    let mut line = br#"{"v":1}"#.to_vec();
    let chain = line::seal(&mut line, &Chain::START);
    assert_eq!(chain.hex(), FIRST_LINK);
    assert_eq!(
        line,
        format!("{{\"v\":1,\"chain\":\"{FIRST_LINK}\"}}\n").as_bytes()
    );
}

/// `(head -c32 /dev/zero; printf '{"v":1}') | sha256sum`
const FIRST_LINK: &str = "c65d49300dc2d863463d373af0788206b580c324371d2699e3f2d5cbb2b0b50f";

#[test]
fn a_directory_in_use_is_refused_with_the_pid_that_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = Journal::open(dir.path()).unwrap();
    let refused = Journal::open(dir.path()).err().unwrap();
    assert!(
        matches!(refused, JournalError::Locked { pid: Some(pid), .. } if pid == std::process::id())
    );
    assert!(
        refused
            .to_string()
            .contains(&format!("in use by pid {}", std::process::id())),
        "{refused}"
    );
    drop(first);
    Journal::open(dir.path()).unwrap();
}

#[test]
fn a_closed_journal_is_free_though_a_child_has_its_lock_file_open() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap().journal;
    let inherited = journal.lock.0.try_clone().unwrap();
    drop(journal);
    Journal::open(dir.path()).unwrap();
    drop(inherited);
}

#[test]
fn a_place_where_nothing_can_be_made_is_one_clear_error() {
    // Not even root makes a directory below a file.
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Journal::open(&file.path().join("state")).err().unwrap();
    assert!(matches!(error, JournalError::Unwritable { .. }), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("state directory unwritable: "),
        "{error}"
    );
    assert!(matches!(
        Journal::read(file.path(), 0).err().unwrap(),
        JournalError::Read { .. }
    ));
}

#[test]
fn a_link_in_place_of_a_segment_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "").unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::symlink(&victim, Segment::new(&state, 1).path).unwrap();
    assert!(matches!(
        Journal::open(&state).err().unwrap(),
        JournalError::Unwritable { .. }
    ));
}

#[test]
fn a_last_line_torn_at_any_byte_is_cut_off_kept_aside_and_told() {
    for (events, bytes) in [(1, u64::MAX), (3, u64::MAX), (3, 1)] {
        let dir = written(events, bytes);
        let last = segments(dir.path()).pop().unwrap();
        let whole = fs::read(&last).unwrap();
        let start = whole[..whole.len() - 1]
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        for at in start..whole.len() {
            fs::write(&last, &whole[..at]).unwrap();
            // Readers stop before it.
            assert_eq!(seqs(dir.path(), 0), (1..events).collect::<Vec<_>>());
            assert_eq!(
                Journal::verify(dir.path(), &Against::default())
                    .unwrap()
                    .partial_bytes,
                (at - start) as u64
            );

            let Opened { mut journal, torn } = Journal::open_with(dir.path(), bytes).unwrap();
            assert_eq!(torn.is_some(), at > start);
            if let Some(torn) = torn {
                assert!(torn.contains(&format!("{} bytes", at - start)), "{torn}");
                let aside = last.with_file_name(format!(
                    "{}-at-{start}.torn",
                    last.file_stem().unwrap().to_str().unwrap()
                ));
                assert!(torn.contains(aside.to_str().unwrap()), "{torn}");
                assert_eq!(fs::read(aside).unwrap(), &whole[start..at]);
            }
            assert_eq!(
                (journal.last_seq(), journal.tail().len() as u64),
                (events - 1, events - 1)
            );
            append(&mut journal, events..=events + 1);
            assert_eq!(
                Journal::verify(dir.path(), &Against::default())
                    .unwrap()
                    .events,
                events + 1
            );
            // As it was before, for the next round.
            drop(journal);
            for path in segments(dir.path()).into_iter().filter(|path| *path > last) {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn zeros_that_a_power_cut_left_are_cut_off_with_whole_lines_behind_them() {
    let dir = written(3, u64::MAX);
    let path = segments(dir.path()).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend([0; 70_000]);
    bytes.extend(b"\"}\n\0\0\0");
    fs::write(&path, &bytes).unwrap();
    let Opened { mut journal, torn } = Journal::open(dir.path()).unwrap();
    assert!(torn.unwrap().contains("70006 bytes"));
    append(&mut journal, 4..=5);
    assert_eq!(
        Journal::verify(dir.path(), &Against::default())
            .unwrap()
            .events,
        5
    );
}

#[test]
fn a_segment_without_any_line_is_an_error_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let segment = Segment::new(dir.path(), 1);
    for junk in [vec![b'x'; 20 << 20], b"x\n".repeat(6 << 20)] {
        let mut junk = junk;
        *junk.last_mut().unwrap() = b'\n';
        fs::write(&segment.path, &junk).unwrap();
        let error = Journal::open(dir.path()).err().unwrap();
        assert!(matches!(error, JournalError::Damaged { .. }), "{error}");
        assert_eq!(
            fs::metadata(&segment.path).unwrap().len(),
            junk.len() as u64
        );
    }
}

#[test]
fn the_tail_is_bounded_in_number_and_bytes_and_the_same_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open_with(dir.path(), 100_000).unwrap().journal;
    append(&mut journal, 1..=5000);
    let numbers = |journal: &Journal| journal.tail().map(|event| event.seq).collect::<Vec<_>>();
    assert_eq!(numbers(&journal), (905..=5000).collect::<Vec<_>>());
    drop(journal);
    let mut journal = Journal::open_with(dir.path(), 100_000).unwrap().journal;
    assert_eq!(numbers(&journal), (905..=5000).collect::<Vec<_>>());
    for _ in 0..100 {
        let mut large = Event::new(Kind::Policy);
        large.object = Some(serde_json::json!({ "text": "x".repeat(200_000) }));
        journal.append(&mut large).unwrap();
    }
    let large = journal.tail().len();
    assert!(
        (15..25).contains(&large),
        "{large} events of 200 kB are kept"
    );
    drop(journal);
    let reopened = Journal::open_with(dir.path(), 100_000)
        .unwrap()
        .journal
        .tail()
        .len();
    assert!(
        reopened.abs_diff(large) <= 1,
        "{reopened} after reopening, {large} before"
    );
}

#[test]
fn an_event_that_no_reader_would_take_is_refused_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap().journal;
    let mut large = Event::new(Kind::Policy);
    large.object = Some(serde_json::json!({ "text": "x".repeat(1 << 20) }));
    assert!(matches!(
        journal.append(&mut large),
        Err(JournalError::TooLong { .. })
    ));
    assert_eq!(
        (large.seq, journal.unwritten(), journal.tail().len()),
        (0, 1, 1)
    );
    append(&mut journal, 1..=1);
    assert_eq!(
        Journal::verify(dir.path(), &Against::default())
            .unwrap()
            .events,
        1
    );
}

#[test]
fn a_segment_that_somebody_removes_is_told_once_and_another_is_begun() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap().journal;
    append(&mut journal, 1..=3);
    journal.sync().unwrap();
    fs::remove_file(&segments(dir.path())[0]).unwrap();
    assert!(matches!(
        journal.sync(),
        Err(JournalError::Altered {
            what: Alteration::Removed,
            ..
        })
    ));
    append(&mut journal, 4..=6);
    journal.sync().unwrap();
    assert_eq!(seqs(dir.path(), 0), [4, 5, 6]);
    let broken = Journal::verify(dir.path(), &Against::default()).unwrap_err();
    let what = Break::Segment {
        expected: 1,
        found: 4,
    };
    assert!(
        matches!(broken, JournalError::Broken { what: is, .. } if is == what),
        "{broken}"
    );
}

#[test]
fn a_segment_that_somebody_shortens_or_adds_to_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap().journal;
    append(&mut journal, 1..=3);
    let file = fs::OpenOptions::new()
        .append(true)
        .open(&segments(dir.path())[0])
        .unwrap();
    file.set_len(10).unwrap();
    let told = journal.sync().unwrap_err().to_string();
    assert!(told.contains("to 10 bytes"), "{told}");
    journal.sync().unwrap();
}

#[test]
fn opening_does_not_read_the_whole_journal() {
    // Older segments of a terabyte of holes each: whoever reads them is at it for minutes.
    let dir = written(5000, u64::MAX);
    let newest = segments(dir.path()).remove(0);
    fs::rename(newest, Segment::new(dir.path(), 40).path).unwrap();
    for first in 1..40 {
        File::create(Segment::new(dir.path(), first).path)
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
    }
    let begun = Instant::now();
    assert_eq!(Journal::open(dir.path()).unwrap().journal.last_seq(), 5000);
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

#[test]
fn how_fast_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap().journal;
    let begun = Instant::now();
    append(&mut journal, 1..=100_000);
    let appended = begun.elapsed();
    drop(journal);
    let timed = |what: &mut dyn FnMut()| {
        let begun = Instant::now();
        what();
        begun.elapsed()
    };
    let opened = timed(&mut || drop(Journal::open(dir.path()).unwrap()));
    let read = timed(&mut || assert_eq!(seqs(dir.path(), 0).len(), 100_000));
    let verified = timed(&mut || drop(Journal::verify(dir.path(), &Against::default()).unwrap()));
    let mut bytes = 0;
    for path in segments(dir.path()) {
        bytes += fs::metadata(path).unwrap().len();
    }
    println!(
        "100000 events, {} MiB: append {appended:?}, open {opened:?}, read {read:?}, verify {verified:?}",
        bytes >> 20
    );
}
