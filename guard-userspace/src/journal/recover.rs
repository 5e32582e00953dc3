//! Where a journal found on disk is to be gone on with.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Take},
    os::unix::fs::FileExt as _,
    path::Path,
};

use super::{
    JournalError,
    line::{Chain, Lines, MAX_LINE, Next, Sealed},
    segment::{Segment, back, end_of_lines, private},
    tail::{self, Tail},
};

/// How far back from its end a segment is searched for a line that can be read: what a crash spoils
/// is the last write or the last pages.
const SEARCH_BYTES: u64 = 8 << 20;
const SEARCH_LINES: usize = 64;

/// The end of the journal as found.
pub(super) struct End {
    pub(super) segment: Segment,
    /// Bytes of whole lines in it.
    pub(super) len: u64,
    pub(super) last_seq: u64,
    pub(super) chain: Chain,
    pub(super) torn: Option<String>,
}

/// Finds the last whole line. What follows it in the last segment is a write that a crash cut short
/// (or that the disk lost): it is moved to a `.torn` file and the segment is cut.
pub(super) fn end(dir: &Path) -> Result<End, JournalError> {
    let mut segments = Segment::list(dir)?;
    let Some(segment) = segments.pop() else {
        let segment = Segment::new(dir, 1);
        return Ok(End {
            segment,
            len: 0,
            last_seq: 0,
            chain: Chain::START,
            torn: None,
        });
    };
    let file = segment
        .open_to_append()
        .map_err(|cause| JournalError::unwritable(&segment.path, cause))?;
    let (len, last) = last_line(&segment, &file)?;
    let torn = cut(dir, &segment, &file, len)?;
    let (last_seq, chain) = match last {
        Some(last) => last,
        // Just begun: the number is in its name, the link in the segment before.
        None => {
            let before = match segments.last() {
                Some(before) => last_line(before, &before.open()?)?.1,
                None => None,
            };
            (
                segment.first.saturating_sub(1),
                before.map_or(Chain::START, |(_, chain)| chain),
            )
        }
    };
    Ok(End {
        segment,
        len,
        last_seq,
        chain,
        torn,
    })
}

/// The end of the last line that is an event with a chain, its number and its link.
fn last_line(segment: &Segment, file: &File) -> Result<(u64, Option<(u64, Chain)>), JournalError> {
    let failed = |cause| JournalError::read(&segment.path, cause);
    let whole = file.metadata().map_err(failed)?.len();
    let mut end = end_of_lines(file, whole).map_err(failed)?;
    let newest = end;
    let mut passed = 0;
    while end > 0 {
        let (start, found) = back(file, end, 1, MAX_LINE as u64).map_err(failed)?;
        if found == 0 || newest - start > SEARCH_BYTES || passed == SEARCH_LINES {
            return Err(JournalError::Damaged {
                path: segment.path.clone(),
                bytes: newest - start.min(end),
            });
        }
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        if length <= MAX_LINE {
            let mut line = vec![0; length - 1];
            file.read_exact_at(&mut line, start).map_err(failed)?;
            if let Some(sealed) = Sealed::parse(&line)
                && let Some(event) = sealed.event()
            {
                return Ok((end, Some((event.seq, sealed.chain))));
            }
        }
        end = start;
        passed += 1;
    }
    Ok((0, None))
}

/// The number and link of a segment's last event.
pub(super) fn last_of(segment: &Segment) -> Result<Option<(u64, Chain)>, JournalError> {
    Ok(last_line(segment, &segment.open()?)?.1)
}

/// The link of event `seq` of a journal that ends at `last_seq`, found from the end of its segment.
pub(super) fn chain_at(dir: &Path, seq: u64, last_seq: u64) -> Result<Option<Chain>, JournalError> {
    let mut segments = Segment::list(dir)?;
    let after = segments.partition_point(|segment| segment.first <= seq);
    let last = segments.get(after).map_or(last_seq, |next| next.first - 1);
    let Some(segment) = after.checked_sub(1).map(|at| segments.swap_remove(at)) else {
        return Ok(None);
    };
    let failed = |cause| JournalError::read(&segment.path, cause);
    let mut file = segment.open()?;
    let end = end_of_lines(&file, file.metadata().map_err(failed)?.len()).map_err(failed)?;
    let lines = usize::try_from(last.saturating_sub(seq) + 1).unwrap_or(usize::MAX);
    let (start, _) = back(&file, end, lines, u64::MAX >> 1).map_err(failed)?;
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    Ok(match Lines::new(file).next().map_err(failed)? {
        Next::Line(line) => Sealed::parse(line)
            .filter(|sealed| sealed.seq() == Some(seq))
            .map(|sealed| sealed.chain),
        _ => None,
    })
}

/// Moves everything from `at` on out of the segment and says so.
fn cut(
    dir: &Path,
    segment: &Segment,
    file: &File,
    at: u64,
) -> Result<Option<String>, JournalError> {
    let len = file
        .metadata()
        .map_err(|cause| JournalError::read(&segment.path, cause))?
        .len();
    if len == at {
        return Ok(None);
    }
    let aside = dir.join(format!("journal-{:020}-at-{at}.torn", segment.first));
    // On a full disk there is no room for the copy. The cut makes room, and without it guardd could
    // not start just when it matters, so it goes on and says what became of the bytes.
    let kept = match keep(segment, at, len, &aside) {
        Ok(()) => format!("kept in {}", aside.display()),
        Err(cause) => {
            let _ = fs::remove_file(&aside);
            format!("not kept: {}: {cause}", aside.display())
        }
    };
    file.set_len(at)
        .and_then(|()| file.sync_data())
        .map_err(|cause| JournalError::unwritable(&segment.path, cause))?;
    Ok(Some(format!(
        "{} ended in {} bytes that are no whole line (a write cut short by a crash): cut off at {at}, {kept}",
        segment.path.display(),
        len - at,
    )))
}

fn keep(segment: &Segment, at: u64, len: u64, aside: &Path) -> io::Result<()> {
    let mut from: Take<File> = File::open(&segment.path)?.take(len - at);
    from.get_mut().seek(SeekFrom::Start(at))?;
    let mut to = private().write(true).truncate(true).open(aside)?;
    io::copy(&mut from, &mut to)?;
    to.sync_data()
}

/// The newest events, as many as are kept in memory: from the last segment's end, and from the
/// segments before while there is room.
pub(super) fn tail(dir: &Path) -> Result<Tail, JournalError> {
    let mut pieces = Vec::new();
    let (mut events, mut bytes) = (0, 0);
    for segment in Segment::list(dir)?.into_iter().rev() {
        if events >= tail::EVENTS || bytes >= tail::BYTES as u64 / 2 {
            break;
        }
        let failed = |cause| JournalError::read(&segment.path, cause);
        let file = segment.open()?;
        let end = end_of_lines(&file, file.metadata().map_err(failed)?.len()).map_err(failed)?;
        let room = tail::BYTES as u64 / 2 - bytes;
        let (start, found) = back(&file, end, tail::EVENTS - events, room).map_err(failed)?;
        (events, bytes) = (events + found, bytes + (end - start));
        pieces.push((segment, file, start));
    }
    let mut tail = Tail::default();
    for (segment, mut file, start) in pieces.into_iter().rev() {
        let failed = |cause| JournalError::read(&segment.path, cause);
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        let mut lines = Lines::new(file);
        loop {
            match lines.next().map_err(failed)? {
                // A line that is none is for `verify` to tell, not a reason not to start.
                Next::Line(line) => {
                    if let Some(event) = Sealed::parse(line).and_then(|sealed| sealed.event()) {
                        tail.push(event, line.len());
                    }
                }
                Next::TooLong => {}
                Next::Partial(_) | Next::End => break,
            }
        }
    }
    Ok(tail)
}
