//! Whatever is done to a journal's lines is found, where it was done.

use proptest::prelude::*;

use super::*;

/// Lines of a fresh journal of `events` events in one segment, each with its newline.
fn lines(dir: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(&segments(dir)[0]).unwrap();
    bytes
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

/// Writes the lines and says at which line, and why, they are refused.
fn broken(dir: &Path, lines: &[Vec<u8>]) -> (u64, Break) {
    fs::write(&segments(dir)[0], lines.concat()).unwrap();
    match Journal::verify(dir, &Against::default()) {
        Err(JournalError::Broken {
            segment,
            line,
            what,
            seq,
        }) => {
            assert_eq!((segment, seq), (segments(dir)[0].clone(), Some(line)));
            (line, what)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_line_removed_doubled_or_moved_is_found() {
    let dir = written(10, u64::MAX);
    let sound = lines(dir.path());
    let mut removed = sound.clone();
    removed.remove(4);
    assert_eq!(
        broken(dir.path(), &removed),
        (
            5,
            Break::Sequence {
                expected: 5,
                found: 6
            }
        )
    );
    let mut doubled = sound.clone();
    doubled.insert(4, sound[4].clone());
    assert_eq!(
        broken(dir.path(), &doubled),
        (
            6,
            Break::Sequence {
                expected: 6,
                found: 5
            }
        )
    );
    let mut moved = sound.clone();
    moved.swap(2, 7);
    assert_eq!(
        broken(dir.path(), &moved),
        (
            3,
            Break::Sequence {
                expected: 3,
                found: 8
            }
        )
    );
    assert_eq!(
        broken(dir.path(), &sound[3..]),
        (
            1,
            Break::Sequence {
                expected: 1,
                found: 4
            }
        )
    );
}

#[test]
fn a_line_written_anew_with_a_fitting_hash_breaks_at_the_next() {
    let dir = written(10, u64::MAX);
    let mut lines = lines(dir.path());
    let before = line::Sealed::parse(lines[3].trim_ascii_end())
        .unwrap()
        .chain;
    let mut event = event(99);
    event.seq = 5;
    let mut forged = serde_json::to_vec(&event).unwrap();
    line::seal(&mut forged, &before);
    lines[4] = forged;
    assert_eq!(broken(dir.path(), &lines), (6, Break::Chain));
}

#[test]
fn a_line_of_another_journal_does_not_fit() {
    let (dir, other) = (written(10, u64::MAX), written(10, u64::MAX));
    let mut lines = lines(dir.path());
    lines[4] = tampering::lines(other.path())[4].clone();
    assert_eq!(broken(dir.path(), &lines), (5, Break::Chain));
}

#[test]
fn a_segment_removed_or_cut_is_found() {
    let dir = written(10, 1);
    let paths = segments(dir.path());
    assert_eq!(paths.len(), 10);
    let bytes = fs::read(&paths[3]).unwrap();
    let found = || match Journal::verify(dir.path(), &Against::default()) {
        Err(JournalError::Broken { segment, what, .. }) => (
            paths.iter().position(|path| *path == segment).unwrap(),
            what,
        ),
        other => panic!("{other:?}"),
    };
    fs::remove_file(&paths[3]).unwrap();
    assert_eq!(
        found(),
        (
            4,
            Break::Segment {
                expected: 4,
                found: 5
            }
        )
    );
    fs::write(&paths[3], "").unwrap();
    assert_eq!(
        found(),
        (
            4,
            Break::Segment {
                expected: 4,
                found: 5
            }
        )
    );
    fs::write(&paths[3], &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(found(), (3, Break::Cut));
    fs::write(&paths[3], vec![b'x'; 3 << 20]).unwrap();
    assert_eq!(found().0, 3);
    fs::write(&paths[3], &bytes).unwrap();
    Journal::verify(dir.path(), &Against::default()).unwrap();
    fs::remove_file(&paths[0]).unwrap();
    assert_eq!(
        found(),
        (
            1,
            Break::Segment {
                expected: 1,
                found: 2
            }
        )
    );
}

#[test]
fn a_reader_tells_a_bad_line_and_goes_on() {
    let dir = written(10, u64::MAX);
    let mut lines = lines(dir.path());
    lines[4] = b"not json\n".to_vec();
    lines[6] = vec![b'x'; 3 << 20];
    lines[6].push(b'\n');
    fs::write(&segments(dir.path())[0], lines.concat()).unwrap();
    let read: Vec<_> = Journal::read(dir.path(), 0).unwrap().collect();
    assert_eq!(read.len(), 10);
    for (index, event) in read.iter().enumerate() {
        match event {
            Ok(event) => assert_eq!(event.seq as usize, index + 1),
            Err(JournalError::Broken {
                line,
                what: Break::Unreadable,
                ..
            }) => {
                assert!([4, 6].contains(&index) && *line as usize == index + 1);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// The very last newline is left out: without it the line is one that is still being written.
    #[test]
    fn any_byte_changed_is_found_in_its_line(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let dir = written(6, u64::MAX);
        let mut bytes = lines(dir.path()).concat();
        let at = at.index(bytes.len() - 1);
        prop_assume!(bytes[at] != to);
        let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        bytes[at] = to;
        prop_assert_eq!(broken(dir.path(), &[bytes]).0, line);
    }

    #[test]
    fn whatever_the_files_hold_nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        let dir = written(6, 1000);
        fs::write(&segments(dir.path())[1], &bytes).unwrap();
        let _ = Journal::verify(dir.path(), &Against::default());
        let _ = Journal::read(dir.path(), 0).unwrap().count();
        if let Ok(Opened { mut journal, .. }) = Journal::open(dir.path()) {
            journal.append(&mut event(0)).unwrap();
        }
    }
}
