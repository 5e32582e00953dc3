//! Old segments go, and the journal says so.

use std::time::Duration;

use super::*;

fn bytes(dir: &Path) -> u64 {
    segments(dir)
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum()
}

fn limited(dir: &Path, limits: Limits) -> Journal {
    let mut journal = Journal::open_with(dir, 20_000).unwrap().journal;
    journal.sign(limits).unwrap();
    journal
}

fn tell(journal: &mut Journal, events: u64) {
    for n in 0..events {
        journal.append(&mut event(n)).unwrap();
    }
}

fn verified(dir: &Path) -> Result<Verified, JournalError> {
    Journal::verify(dir, &Against::default())
}

const SIZE: u64 = 100_000;

fn by_size() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        keep: None,
        bytes: Some(SIZE),
    };
    let mut journal = limited(dir.path(), limits);
    tell(&mut journal, 1000);
    journal.close().unwrap();
    dir
}

#[test]
fn the_oldest_go_by_size_and_what_remains_is_whole() {
    let dir = by_size();
    let left = bytes(dir.path());
    assert!(left < SIZE + 25_000 && left > SIZE / 2, "{left}");
    let verified = verified(dir.path()).unwrap();
    assert!(verified.first_seq > 100, "{verified:?}");
    assert!(verified.removed.is_some());
    assert_eq!(verified.events, verified.last_seq - verified.first_seq + 1);
    let told: Vec<_> = Journal::read(dir.path(), 0)
        .unwrap()
        .map(Result::unwrap)
        .filter(|event| crate::journal::retention::removed_in(event).is_some())
        .collect();
    let last = told.last().unwrap().object.as_ref().unwrap();
    assert_eq!(last["last"], verified.first_seq - 1);
    assert_eq!(last["why"], "size");
    // What is told is whole: each begins where the one before has ended.
    for two in told.windows(2) {
        let number = |event: &Event, name: &str| event.object.as_ref().unwrap()[name].as_u64();
        assert_eq!(
            number(&two[0], "last").map(|last| last + 1),
            number(&two[1], "first")
        );
    }
    // It goes on from there.
    let mut journal = limited(dir.path(), Limits::default());
    tell(&mut journal, 10);
    journal.close().unwrap();
    self::verified(dir.path()).unwrap();
}

#[test]
fn what_is_removed_without_retention_is_missing() {
    let dir = by_size();
    let first = segments(dir.path()).remove(0);
    fs::remove_file(first).unwrap();
    let said = verified(dir.path()).unwrap_err();
    assert!(
        matches!(
            said,
            JournalError::Broken {
                what: Break::Segment { .. },
                ..
            }
        ),
        "{said}"
    );
}

#[test]
fn what_a_crash_keeps_from_being_removed_is_no_part_and_goes_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = limited(dir.path(), Limits::default());
    tell(&mut journal, 400);
    journal.sync().unwrap();
    let first = segments(dir.path()).remove(0);
    let kept = fs::read(&first).unwrap();
    journal.limit(Limits {
        keep: None,
        bytes: Some(SIZE / 2),
    });
    journal.tend().unwrap();
    assert!(!first.exists());
    drop(journal);
    fs::write(&first, kept).unwrap();
    verified(dir.path()).unwrap();
    drop(limited(dir.path(), Limits::default()));
    assert!(!first.exists());
    verified(dir.path()).unwrap();
}

#[test]
fn the_old_go_by_age_but_never_the_one_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        keep: Some(Duration::from_millis(400)),
        bytes: None,
    };
    let mut journal = limited(dir.path(), limits);
    tell(&mut journal, 10);
    let begun = Instant::now();
    // Segments end by age as well, so there is something to remove though none is full.
    let mut seen = 1;
    while segments(dir.path())[0] == Segment::new(dir.path(), 1).path {
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing goes");
        journal.append(&mut event(0)).unwrap();
        seen = seen.max(segments(dir.path()).len());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(begun.elapsed() >= Duration::from_millis(400));
    assert!(seen > 2, "{seen}");
    // Nothing is written for as long as it is kept: the last segment stays.
    std::thread::sleep(Duration::from_millis(500));
    tell(&mut journal, 1);
    journal.close().unwrap();
    let verified = verified(dir.path()).unwrap();
    assert!(verified.segments >= 1 && verified.first_seq > 1);
}

#[test]
fn without_limits_nothing_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = limited(dir.path(), Limits::default());
    tell(&mut journal, 300);
    journal.tend().unwrap();
    journal.close().unwrap();
    assert_eq!(verified(dir.path()).unwrap().first_seq, 1);
}

#[test]
fn who_reads_or_verifies_while_old_files_go_is_not_led_astray() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        keep: None,
        bytes: Some(SIZE),
    };
    let mut journal = limited(dir.path(), limits);
    tell(&mut journal, 300);
    journal.sync().unwrap();
    let mut reader = Journal::read(dir.path(), 0).unwrap();
    reader.next().unwrap().unwrap();
    tell(&mut journal, 1000);
    // What is gone is passed over; what is there comes.
    assert!(reader.all(|event| event.is_ok()));
    let path = dir.path().to_owned();
    let verifier = std::thread::spawn(move || {
        for _ in 0..20 {
            Journal::verify(&path, &Against::default()).unwrap();
        }
    });
    while !verifier.is_finished() {
        tell(&mut journal, 50);
        std::thread::sleep(Duration::from_millis(1));
    }
    verifier.join().unwrap();
}
