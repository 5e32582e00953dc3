//! Following the chain from the first line to the last, and the signatures along it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    JournalError,
    checkpoint::{self, Checkpoint},
    error::Break,
    head::{self, Begin, Found, Head},
    key::PublicKey,
    line::{Chain, Lines, Next, Sealed},
    retention::removed_in,
    sealing::{altered_in, chain_of},
    segment::Segment,
};
use crate::event::Kind;

/// A journal whose chain holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Events in it.
    pub events: u64,
    /// Files in it.
    pub segments: u64,
    /// Number of its first event: above 1 where retention removed what was before.
    pub first_seq: u64,
    /// When retention last did.
    pub removed: Option<String>,
    /// Number of the newest event.
    pub last_seq: u64,
    /// Link of the newest event, 64 hexadecimal digits: kept elsewhere, it shows later that nothing
    /// up to here was cut off or written anew.
    pub head: String,
    /// Bytes behind the last whole line: being written now, or torn by a crash.
    pub partial_bytes: u64,
    /// Checkpoints in it.
    pub checkpoints: u64,
    /// The key that signed it.
    pub key: Option<PublicKey>,
    /// Nobody vouches for the key: it is the one that the journal names itself, and the state directory has none.
    pub key_unknown: bool,
    /// Newest event that is signed, 0 where none is.
    pub signed_seq: u64,
}

/// What a journal is to be compared with besides itself.
#[derive(Clone, Debug, Default)]
pub struct Against {
    /// Keys that may have signed it; none for the one in its directory.
    pub keys: Vec<PublicKey>,
    /// Numbers of events and their links, 64 hexadecimal digits, that somebody has kept elsewhere.
    pub expect: Vec<(u64, String)>,
}

/// What has been followed so far.
struct Walk<'a> {
    against: &'a Against,
    key: Option<PublicKey>,
    key_unknown: bool,
    head: Option<Found>,
    begin: Begin,
    chain: Chain,
    last_seq: u64,
    events: u64,
    checkpoints: u64,
    /// The newest checkpoint: its event, for which the next one vouches, and its hash.
    mark: Option<(u64, String)>,
    recorded: bool,
}

/// How often a journal is looked at again whose beginning or end has moved meanwhile.
const ATTEMPTS: usize = 5;

pub(super) fn verify(dir: &Path, against: &Against) -> Result<Verified, JournalError> {
    let mut attempts = 0;
    loop {
        let before = fs::read(head::path(dir)).ok();
        let result = once(dir, against);
        attempts += 1;
        // A guardd that starts, or removes old files, does so while this reads.
        let may_be_its_doing = match &result {
            Err(JournalError::Broken { what, .. }) => matches!(
                what,
                Break::Segment { .. } | Break::Added | Break::Unrecorded | Break::NoHead
            ),
            Err(JournalError::Read { cause, .. }) => cause.kind() == io::ErrorKind::NotFound,
            _ => false,
        };
        let moved = || fs::read(head::path(dir)).ok() != before;
        if !may_be_its_doing || attempts == ATTEMPTS || !moved() {
            return result;
        }
    }
}

fn once(dir: &Path, against: &Against) -> Result<Verified, JournalError> {
    let mut walk = Walk::new(dir, against)?;
    let mut segments = Segment::list(dir)?;
    // What a crash kept retention from removing is no part of it any more.
    segments.retain(|segment| segment.first >= walk.begin.seq);
    let mut partial_bytes = 0;
    let mut end = (head::path(dir), 0);
    for (index, segment) in segments.iter().enumerate() {
        let last = index + 1 == segments.len();
        let lines;
        (partial_bytes, lines) = walk.segment(segment, last)?;
        end = (segment.path.clone(), lines);
    }
    walk.finish(dir, end)?;
    let signed_seq = walk.head.as_ref().map_or(0, |found| found.head.seq);
    Ok(Verified {
        events: walk.events,
        segments: segments.len() as u64,
        first_seq: walk.begin.seq,
        removed: walk.begin.removed,
        last_seq: walk.last_seq,
        head: walk.chain.hex(),
        partial_bytes,
        checkpoints: walk.checkpoints,
        key: walk.key,
        key_unknown: walk.key_unknown,
        signed_seq,
    })
}

fn broken<T>(segment: &Path, line: u64, seq: Option<u64>, what: Break) -> Result<T, JournalError> {
    Err(JournalError::Broken {
        segment: segment.to_owned(),
        line,
        seq,
        what,
    })
}

impl<'a> Walk<'a> {
    /// The head first: it says where the journal begins.
    fn new(dir: &Path, against: &'a Against) -> Result<Self, JournalError> {
        let own = PublicKey::of(dir);
        let path = head::path(dir);
        let head = match Head::read(dir)? {
            Some(Err(())) => return broken(&path, 1, None, Break::BadHead),
            Some(Ok(found)) => Some(found),
            None => None,
        };
        let named = head.as_ref().and_then(|found| found.head.key.parse().ok());
        let key = against.keys.first().copied().or(own).or(named);
        let mut walk = Self {
            against,
            key,
            key_unknown: against.keys.is_empty() && own.is_none(),
            begin: Begin::default(),
            head: None,
            chain: Chain::START,
            last_seq: 0,
            events: 0,
            checkpoints: 0,
            mark: None,
            recorded: false,
        };
        if let Some(found) = head {
            if !walk.keys().any(|key| found.is_signed_by(&key)) {
                return broken(&path, 1, Some(found.head.seq), Break::HeadSignature);
            }
            walk.begin = found.head.begin.clone();
            let Some(chain) = chain_of(&walk.begin.head).filter(|_| walk.begin.seq > 0) else {
                return broken(&path, 1, None, Break::BadHead);
            };
            (walk.chain, walk.last_seq) = (chain, walk.begin.seq - 1);
            walk.head = Some(found);
        }
        Ok(walk)
    }

    /// Keys that a signature may be of.
    fn keys(&self) -> impl Iterator<Item = PublicKey> {
        let given = self.against.keys.iter().copied();
        given.chain(self.key.filter(|_| self.against.keys.is_empty()))
    }

    /// Bytes behind its last whole line, and how many lines it has.
    fn segment(&mut self, segment: &Segment, last: bool) -> Result<(u64, u64), JournalError> {
        let path = &segment.path;
        let expected = self.last_seq + 1;
        if segment.first != expected {
            let found = segment.first;
            return broken(path, 1, Some(expected), Break::Segment { expected, found });
        }
        let mut lines = Lines::new(segment.open()?);
        loop {
            let expected = self.last_seq + 1;
            let next = lines
                .next()
                .map_err(|cause| JournalError::read(path, cause))?;
            let what = match next {
                Next::Line(line) => match self.line(line, expected) {
                    Ok(()) => continue,
                    Err(what) => what,
                },
                Next::TooLong => Break::Unreadable,
                Next::Partial(_) if !last => Break::Cut,
                Next::Partial(bytes) => return Ok((bytes, lines.number - 1)),
                Next::End => return Ok((0, lines.number)),
            };
            return broken(path, lines.number, Some(expected), what);
        }
    }

    fn line(&mut self, line: &[u8], expected: u64) -> Result<(), Break> {
        let sealed = Sealed::parse(line).ok_or(Break::Unreadable)?;
        let found = sealed.seq().ok_or(Break::Unreadable)?;
        if found != expected {
            return Err(Break::Sequence { expected, found });
        }
        if !sealed.follows(&self.chain) {
            return Err(Break::Chain);
        }
        // Before anything is believed of what it says: the line as such may still be one of another journal.
        if sealed.mentions_guard() {
            self.own(&sealed, expected)?;
        }
        (self.last_seq, self.chain, self.events) = (found, sealed.chain, self.events + 1);
        self.compare(found)
    }

    /// An event of the journal's own, if it is one.
    fn own(&mut self, sealed: &Sealed<'_>, seq: u64) -> Result<(), Break> {
        let Some(event) = sealed.event().filter(|event| event.kind == Kind::Guard) else {
            return Ok(());
        };
        if let Some((from, to)) = altered_in(&event) {
            return Err(Break::Told { from, to });
        }
        if let Some((last, head)) = removed_in(&event)
            && last + 1 == self.begin.seq
            && head == self.begin.head
        {
            self.recorded = true;
        }
        let checkpoint = match Checkpoint::of(&event) {
            None => return Ok(()),
            Some(Err(())) => return Err(Break::Signature),
            Some(Ok(checkpoint)) => checkpoint,
        };
        if self.key.is_none() {
            self.key = checkpoint.key.parse().ok();
        }
        if !self.keys().any(|key| checkpoint.is_signed_by(&key)) {
            let other = !self.keys().any(|key| key.to_string() == checkpoint.key);
            return Err(if other { Break::Key } else { Break::Signature });
        }
        let from = self.mark.as_ref().map_or(self.begin.seq, |(seq, _)| *seq);
        let previous = match &self.mark {
            Some((_, hash)) => hash == &checkpoint.previous,
            // The one that a journal cut by retention begins after is gone.
            None => self.begin.seq > 1 || checkpoint.previous == checkpoint::NONE,
        };
        if checkpoint.seq + 1 != seq || checkpoint.head != self.chain.hex() || !previous {
            return Err(Break::Checkpoint { from });
        }
        self.mark = Some((seq, checkpoint.hash()));
        self.checkpoints += 1;
        Ok(())
    }

    /// What somebody, or the head file, has of this event.
    fn compare(&mut self, seq: u64) -> Result<(), Break> {
        let link = || self.chain.hex();
        let mut expected = self.against.expect.iter().filter(|(of, _)| *of == seq);
        if expected.any(|(_, head)| *head != link()) {
            return Err(Break::Unexpected);
        }
        let Some(found) = &self.head else {
            return Ok(());
        };
        let head = &found.head;
        if head.seq == seq && head.head != link() {
            let from = self
                .mark
                .as_ref()
                .map_or(self.begin.seq, |(seq, _)| *seq)
                .min(seq);
            return Err(Break::Rewritten { from });
        }
        if head.closed && head.seq < seq {
            return Err(Break::Added);
        }
        Ok(())
    }

    /// What only shows at the end. `end`: the last segment and its lines.
    fn finish(&self, dir: &Path, end: (PathBuf, u64)) -> Result<(), JournalError> {
        let (last, lines) = end;
        let next = Some(self.last_seq + 1);
        match &self.head {
            Some(found) if found.head.seq > self.last_seq => {
                let signed = found.head.seq;
                return broken(&last, lines + 1, next, Break::Truncated { signed });
            }
            Some(_) if self.begin.seq > 1 && !self.recorded => {
                let first = Segment::new(dir, self.begin.seq).path;
                return broken(&first, 1, Some(self.begin.seq), Break::Unrecorded);
            }
            // The key in the directory comes after the head.
            None if self.mark.is_some() || PublicKey::of(dir).is_some() => {
                return broken(&head::path(dir), 1, None, Break::NoHead);
            }
            None if !self.against.keys.is_empty() => {
                return broken(&last, lines, None, Break::Unsigned);
            }
            _ => {}
        }
        // What is expected may lie before the beginning that retention has left.
        let mut missing = self
            .against
            .expect
            .iter()
            .filter(|(seq, _)| *seq > self.last_seq);
        if let Some((seq, _)) = missing.next() {
            return broken(&last, lines + 1, Some(*seq), Break::Absent);
        }
        Ok(())
    }
}
