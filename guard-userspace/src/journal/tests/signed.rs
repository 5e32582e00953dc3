//! A signed journal: whatever is done to it at whatever line is found, and where.

use super::*;
use crate::journal::{
    checkpoint::Checkpoint,
    head::Head,
    key::{Key, PublicKey},
};

/// Some hundred events in a few segments, signed and closed, with two starts.
const EVENTS: u64 = 200;

fn signed(events: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), events / 2);
    write(dir.path(), events - events / 2);
    dir
}

/// What a guardd does: signs, tells, ends.
fn write(dir: &Path, events: u64) {
    let mut journal = open(dir);
    tell(&mut journal, events);
    journal.close().unwrap();
}

fn open(dir: &Path) -> Journal {
    let mut journal = Journal::open_with(dir, 15_000).unwrap().journal;
    journal.sign(Limits::default()).unwrap();
    // `started`, as guardd says before it seals.
    journal.append(&mut Event::new(Kind::Guard)).unwrap();
    journal.seal("start").unwrap();
    journal
}

fn tell(journal: &mut Journal, events: u64) {
    for n in 0..events {
        journal.append(&mut event(n)).unwrap();
    }
}

/// A copy to spoil.
fn copy(of: &Path) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(of).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

fn verified(dir: &Path) -> Result<Verified, JournalError> {
    Journal::verify(dir, &Against::default())
}

/// File, line, number and what is wrong.
#[track_caller]
fn found(dir: &Path) -> (PathBuf, u64, Option<u64>, Break) {
    match verified(dir) {
        Err(JournalError::Broken {
            segment,
            line,
            seq,
            what,
        }) => (segment, line, seq, what),
        other => panic!("not found: {other:?}"),
    }
}

fn lines(path: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    bytes
        .split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

/// Spoils each segment in turn, puts it back after each change, and says at which line each was found.
/// `spoil(lines, n)`: the changed lines, and the lines (from 1) at which that may be found; `None` for no change.
fn at_every_line(spoil: impl Fn(&[Vec<u8>], usize) -> Option<(Vec<Vec<u8>>, Vec<u64>)>) -> usize {
    let dir = signed(EVENTS);
    verified(dir.path()).unwrap();
    let mut changes = 0;
    for path in segments(dir.path()) {
        let sound = lines(&path);
        for n in 0..sound.len() {
            let Some((spoiled, at)) = spoil(&sound, n) else {
                continue;
            };
            fs::write(&path, spoiled.concat()).unwrap();
            let (segment, line, seq, what) = found(dir.path());
            // Of a missing end the next segment is where it shows.
            let next = segment != path;
            assert!(
                next && line == 1 && n + 1 >= sound.len() - 1 || !next && at.contains(&line),
                "line {} of {path:?}: found at {segment:?} {line} {seq:?}: {what}",
                n + 1
            );
            assert!(seq.is_some(), "{what}");
            changes += 1;
        }
        fs::write(&path, sound.concat()).unwrap();
    }
    verified(dir.path()).unwrap();
    changes
}

#[test]
fn a_byte_changed_in_any_line_is_found_there() {
    let changes = at_every_line(|sound, n| {
        let mut lines = sound.to_vec();
        // Another place in each line, its newline left out.
        let at = (n * 97) % (lines[n].len() - 1);
        lines[n][at] ^= 1;
        Some((lines, vec![n as u64 + 1]))
    });
    assert!(changes as u64 > EVENTS);
}

#[test]
fn any_line_removed_is_found_there() {
    at_every_line(|sound, n| {
        let mut lines = sound.to_vec();
        lines.remove(n);
        Some((lines, vec![n as u64 + 1]))
    });
}

#[test]
fn any_two_lines_exchanged_are_found_at_the_first() {
    at_every_line(|sound, n| {
        let mut lines = sound.to_vec();
        (n + 1 < lines.len()).then(|| {
            lines.swap(n, n + 1);
            (lines, vec![n as u64 + 1])
        })
    });
}

#[test]
fn any_line_doubled_is_found_after_it() {
    at_every_line(|sound, n| {
        let mut lines = sound.to_vec();
        lines.insert(n, sound[n].clone());
        Some((lines, vec![n as u64 + 2]))
    });
}

/// With fresh hashes up to the end of the segment. The next segment, the next checkpoint or the head says no.
#[test]
fn lines_written_anew_with_fresh_hashes_from_any_line_on_are_found() {
    let dir = signed(EVENTS);
    let paths = segments(dir.path());
    let sound: Vec<Vec<Vec<u8>>> = paths.iter().map(|path| lines(path)).collect();
    let all: Vec<&Vec<u8>> = sound.iter().flatten().collect();
    for n in 0..all.len() {
        let mut chain = match n {
            0 => Chain::START,
            n => chain_of_line(all[n - 1]),
        };
        let mut index = 0;
        for (path, lines) in paths.iter().zip(&sound) {
            let mut text = Vec::new();
            for line in lines {
                if index < n {
                    text.extend_from_slice(line);
                } else {
                    let mut value: Event =
                        serde_json::from_slice(line).expect("a line of the journal");
                    if index == n {
                        value.comm = Some("forged".into());
                    }
                    let mut json = serde_json::to_vec(&value).unwrap();
                    chain = line::seal(&mut json, &chain);
                    text.extend_from_slice(&json);
                }
                index += 1;
            }
            fs::write(path, text).unwrap();
        }
        let (_, _, seq, what) = found(dir.path());
        let seq = seq.unwrap();
        assert!(
            seq > n as u64 && seq <= n as u64 + 1 + sealing::EVERY_EVENTS,
            "changed at {}: {seq}: {what}",
            n + 1
        );
        match what {
            Break::Checkpoint { from } | Break::Rewritten { from } => {
                assert!(from <= n as u64 + 1, "{from} {n}");
            }
            other => panic!("{other}"),
        }
    }
}

fn chain_of_line(line: &[u8]) -> Chain {
    line::Sealed::parse(line.trim_ascii_end()).unwrap().chain
}

/// The whole of it, as somebody would who has another key.
#[test]
fn a_journal_written_anew_under_another_key_is_found_by_the_key() {
    let (dir, forged) = (signed(40), signed(40));
    let key = PublicKey::of(dir.path()).unwrap();
    let whole = verified(forged.path()).unwrap();
    assert_eq!(
        (whole.key_unknown, whole.signed_seq),
        (false, whole.last_seq)
    );
    // The forger leaves the key where it is, or exchanges that as well.
    let name = "journal.key";
    fs::copy(dir.path().join(name), forged.path().join(name)).unwrap();
    assert_eq!(found(forged.path()).3, Break::HeadSignature);
    fs::remove_file(forged.path().join("head")).unwrap();
    assert_eq!(found(forged.path()).3, Break::Key);
    let elsewhere = Against {
        keys: vec![key],
        ..Against::default()
    };
    let other = signed(40);
    assert!(matches!(
        Journal::verify(other.path(), &elsewhere),
        Err(JournalError::Broken {
            what: Break::HeadSignature,
            ..
        })
    ));
    let verified = Journal::verify(dir.path(), &elsewhere).unwrap();
    assert_eq!((verified.key, verified.key_unknown), (Some(key), false));
}

#[test]
fn a_copy_without_the_key_says_that_nobody_vouches_for_it() {
    let dir = signed(40);
    let key = PublicKey::of(dir.path());
    fs::remove_file(dir.path().join("journal.key")).unwrap();
    let verified = verified(dir.path()).unwrap();
    assert_eq!((verified.key, verified.key_unknown), (key, true));
}

#[test]
fn a_journal_stripped_of_its_signatures_is_found() {
    let dir = signed(40);
    let key = PublicKey::of(dir.path()).unwrap();
    let events: Vec<Event> = Journal::read(dir.path(), 0)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for path in segments(dir.path()) {
        fs::remove_file(path).unwrap();
    }
    fs::remove_file(dir.path().join("head")).unwrap();
    let mut journal = Journal::open(dir.path()).unwrap().journal;
    for mut event in events {
        if Checkpoint::of(&event).is_none() {
            journal.append(&mut event).unwrap();
        }
    }
    drop(journal);
    assert_eq!(found(dir.path()).3, Break::NoHead);
    fs::remove_file(dir.path().join("journal.key")).unwrap();
    // Now it is one of a guardd that never signed: only who has kept the key can tell.
    assert_eq!(verified(dir.path()).unwrap().signed_seq, 0);
    let against = Against {
        keys: vec![key],
        ..Against::default()
    };
    assert!(matches!(
        Journal::verify(dir.path(), &against),
        Err(JournalError::Broken {
            what: Break::Unsigned,
            ..
        })
    ));
}

#[test]
fn an_end_cut_off_at_any_byte_of_the_last_lines_is_found() {
    let dir = signed(EVENTS);
    let last = segments(dir.path()).pop().unwrap();
    let sound = fs::read(&last).unwrap();
    let signed = verified(dir.path()).unwrap().last_seq;
    let ends: Vec<usize> = (0..sound.len()).filter(|at| sound[*at] == b'\n').collect();
    let begin = ends[ends.len() - 4] + 1;
    for at in begin..sound.len() {
        fs::write(&last, &sound[..at]).unwrap();
        let lines = sound[..at].iter().filter(|byte| **byte == b'\n').count() as u64;
        let missing = ends.len() as u64 - lines;
        assert_eq!(
            found(dir.path()),
            (
                last.clone(),
                lines + 1,
                Some(signed + 1 - missing),
                Break::Truncated { signed }
            )
        );
    }
}

#[test]
fn an_end_cut_off_cleanly_after_any_line_is_found() {
    let dir = signed(EVENTS);
    let mut paths = segments(dir.path());
    let signed = verified(dir.path()).unwrap().last_seq;
    while let Some(path) = paths.pop() {
        let sound = lines(&path);
        for n in (0..sound.len()).rev() {
            fs::write(&path, sound[..n].concat()).unwrap();
            let (segment, line, _, what) = found(dir.path());
            assert_eq!((segment, line), (path.clone(), n as u64 + 1));
            assert_eq!(what, Break::Truncated { signed });
        }
        fs::remove_file(path).unwrap();
    }
    assert_eq!(found(dir.path()).3, Break::Truncated { signed });
}

#[test]
fn any_segment_that_is_missing_is_found() {
    let dir = signed(EVENTS);
    let paths = segments(dir.path());
    assert!(paths.len() > 3);
    for (n, path) in paths.iter().enumerate() {
        let bytes = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        let (segment, _, _, what) = found(dir.path());
        match paths.get(n + 1) {
            Some(next) => assert_eq!(
                (segment, matches!(what, Break::Segment { .. })),
                (next.clone(), true)
            ),
            None => assert!(matches!(what, Break::Truncated { .. }), "{what}"),
        }
        fs::write(path, bytes).unwrap();
    }
    verified(dir.path()).unwrap();
}

#[test]
fn an_older_copy_is_found_by_the_head_or_by_what_was_kept_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 100);
    let old = copy(dir.path());
    write(dir.path(), 100);
    let now = verified(dir.path()).unwrap();
    // The lines alone.
    let new = copy(dir.path());
    for path in segments(new.path()) {
        fs::remove_file(path).unwrap();
    }
    for path in segments(old.path()) {
        fs::copy(&path, new.path().join(path.file_name().unwrap())).unwrap();
    }
    assert!(matches!(found(new.path()).3, Break::Truncated { .. }));
    // The head alone: what follows it was closed.
    let new = copy(dir.path());
    fs::copy(old.path().join("head"), new.path().join("head")).unwrap();
    assert_eq!(found(new.path()).3, Break::Added);
    // The whole directory is what it was once, and nothing in it says that there was more.
    verified(old.path()).unwrap();
    let expect = |seq, head: &str| Against {
        keys: Vec::new(),
        expect: vec![(seq, head.to_owned())],
    };
    let said = Journal::verify(old.path(), &expect(now.last_seq, &now.head)).unwrap_err();
    assert!(
        matches!(said, JournalError::Broken { what: Break::Absent, seq, .. } if seq == Some(now.last_seq))
    );
    Journal::verify(dir.path(), &expect(now.last_seq, &now.head)).unwrap();
    let said = Journal::verify(dir.path(), &expect(now.last_seq - 3, &now.head)).unwrap_err();
    assert!(matches!(
        said,
        JournalError::Broken {
            what: Break::Unexpected,
            ..
        }
    ));
}

#[test]
fn any_byte_of_the_head_changed_is_found_and_so_is_its_absence() {
    let dir = signed(20);
    let path = dir.path().join("head");
    let sound = fs::read(&path).unwrap();
    for at in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).unwrap();
        let (file, line, _, what) = found(dir.path());
        assert_eq!((file, line), (path.clone(), 1));
        assert!(
            matches!(what, Break::BadHead | Break::HeadSignature),
            "{what}"
        );
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(found(dir.path()).3, Break::NoHead);
}

#[test]
fn a_guardd_that_finds_its_journal_changed_says_so_for_good() {
    type Spoil = fn(&Path);
    let spoils: [(&str, Spoil); 5] = [
        ("events were cut off its end", |dir| {
            let last = segments(dir).pop().unwrap();
            let mut lines = lines(&last);
            lines.truncate(lines.len() - 2);
            fs::write(&last, lines.concat()).unwrap();
        }),
        ("events were written anew", |dir| {
            let last = segments(dir).pop().unwrap();
            let mut lines = lines(&last);
            let before = chain_of_line(&lines[lines.len() - 2]);
            let mut value: Event = serde_json::from_slice(lines.last().unwrap()).unwrap();
            value.comm = Some("forged".into());
            let mut json = serde_json::to_vec(&value).unwrap();
            line::seal(&mut json, &before);
            *lines.last_mut().unwrap() = json;
            fs::write(&last, lines.concat()).unwrap();
        }),
        ("events were added after guardd had ended", |dir| {
            // Without the key, as somebody else would.
            let mut journal = Journal::open_with(dir, u64::MAX).unwrap().journal;
            journal.append(&mut event(1)).unwrap();
        }),
        ("the head file is missing", |dir| {
            fs::remove_file(dir.join("head")).unwrap();
        }),
        ("the key is missing", |dir| {
            fs::remove_file(dir.join("journal.key")).unwrap();
        }),
    ];
    for (why, spoil) in spoils {
        let dir = signed(40);
        spoil(dir.path());
        write(dir.path(), 10);
        let notice = Journal::read(dir.path(), 0)
            .unwrap()
            .filter_map(Result::ok)
            .find(|event| sealing::altered_in(event).is_some())
            .unwrap_or_else(|| panic!("{why}: not told"));
        let said = notice.object.as_ref().unwrap()["why"].as_str().unwrap();
        assert!(said.starts_with(why), "{said}");
        found(dir.path());
    }
}

#[test]
fn what_a_crash_leaves_unsigned_is_counted_and_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    tell(&mut journal, 10);
    journal.sync().unwrap();
    tell(&mut journal, 5);
    drop(journal);
    let crashed = verified(dir.path()).unwrap();
    assert_eq!(crashed.last_seq - crashed.signed_seq, 5);
    write(dir.path(), 1);
    let events: Vec<Event> = Journal::read(dir.path(), 0)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let told = events.iter().find_map(|event| {
        let object = event.object.as_ref()?;
        (object.get("what")? == "unsigned events").then(|| object["count"].clone())
    });
    assert_eq!(told, Some(5.into()));
    let after = verified(dir.path()).unwrap();
    assert_eq!(after.signed_seq, after.last_seq);
}

#[test]
fn checkpoints_come_by_number_and_each_names_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), 3 * sealing::EVERY_EVENTS);
    let checkpoints: Vec<Checkpoint> = Journal::read(dir.path(), 0)
        .unwrap()
        .filter_map(|event| Checkpoint::of(&event.unwrap())?.ok())
        .collect();
    let of = |why: &str| checkpoints.iter().filter(|c| c.why == why).count();
    assert_eq!((of("start"), of("stop")), (1, 1));
    assert!(of("segment") > 2, "{checkpoints:#?}");
    assert!(
        checkpoints
            .windows(2)
            .all(|two| two[1].previous == two[0].hash()
                && two[1].seq - two[0].seq <= sealing::EVERY_EVENTS + 1)
    );
    assert_eq!(
        verified(dir.path()).unwrap().checkpoints,
        checkpoints.len() as u64
    );
}

/// So that others can check a checkpoint with `openssl pkeyutl -verify`: the message is what is documented.
#[test]
fn a_signature_is_of_the_documented_message() {
    let dir = signed(4);
    let (key, _) = Key::load(dir.path()).unwrap().unwrap();
    let event = Journal::read(dir.path(), 0)
        .unwrap()
        .map(Result::unwrap)
        .find(|event| Checkpoint::of(event).is_some())
        .unwrap();
    let object = event.object.as_ref().unwrap();
    let message = format!(
        "guard journal checkpoint 1\n{}\n{}\n{}\n{}\n",
        object["seq"],
        object["head"].as_str().unwrap(),
        event.time,
        object["previous"].as_str().unwrap()
    );
    assert_eq!(
        key.sign(message.as_bytes()),
        object["signature"].as_str().unwrap()
    );
}

#[test]
fn the_key_is_for_root_alone_and_that_it_was_not_is_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = signed(4);
    let key = dir.path().join("journal.key");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&key), mode(&dir.path().join("head"))), (0o600, 0o600));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let mut journal = open(dir.path());
    assert_eq!(mode(&key), 0o600);
    assert!(
        journal
            .take_own()
            .iter()
            .any(|event| { event.object.as_ref().unwrap()["what"] == "journal key exposed" })
    );
    fs::write(&key, "no key\n").unwrap();
    drop(journal);
    let mut journal = Journal::open(dir.path()).unwrap().journal;
    let said = journal.sign(Limits::default()).unwrap_err();
    assert!(matches!(said, JournalError::Key { .. }), "{said}");
}

#[test]
fn a_journal_from_before_there_were_signatures_is_signed_from_there_on() {
    let dir = written(20, 1000);
    assert_eq!(verified(dir.path()).unwrap().signed_seq, 0);
    write(dir.path(), 5);
    let verified = verified(dir.path()).unwrap();
    assert_eq!(
        (verified.first_seq, verified.signed_seq),
        (1, verified.last_seq)
    );
}

#[test]
fn a_head_without_a_key_is_what_a_crash_at_the_very_first_start_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap().journal;
    journal.sign(Limits::default()).unwrap();
    drop(journal);
    fs::remove_file(dir.path().join("journal.key")).unwrap();
    write(dir.path(), 5);
    verified(dir.path()).unwrap();
    assert!(Head::read(dir.path()).unwrap().unwrap().is_ok());
}

#[test]
fn a_disk_with_nothing_new_stays_asleep() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    tell(&mut journal, 3);
    journal.sync().unwrap();
    journal.tend().unwrap();
    let state = || -> Vec<_> {
        let entries = fs::read_dir(dir.path()).unwrap();
        let mut all: Vec<_> = entries
            .map(|entry| {
                let meta = entry.unwrap().metadata().unwrap();
                (meta.ino(), meta.len(), meta.mtime_nsec())
            })
            .collect();
        all.sort_unstable();
        all
    };
    let before = state();
    for _ in 0..50 {
        journal.tend().unwrap();
        journal.sync().unwrap();
    }
    assert_eq!(state(), before);
}
