//! What the journal writes about itself: checkpoints, what was lost, what somebody has done to it while no guardd
//! had it open. All of it are events of the chain; who has the journal takes them with [`Journal::take_own`] and
//! tells whoever listens.

use std::{
    io,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    Journal, JournalError, Limits,
    checkpoint::Checkpoint,
    head::{Begin, Head, Mark},
    key::{Key, PublicKey},
    line::Chain,
    recover, retention,
    segment::Segment,
};
use crate::event::{Event, JOURNAL_ALTERED, Kind};

/// Another checkpoint is due after so many events,
pub(super) const EVERY_EVENTS: u64 = 256;
/// and after so long where there is any event since.
const EVERY: Duration = Duration::from_secs(60);
/// Bytes that are free on a disk that is full no more.
const ROOM: u64 = 64 << 10;

/// What a journal that is signed has besides.
pub(super) struct Seal {
    pub(super) key: Key,
    /// The newest checkpoint.
    mark: Mark,
    marked: Instant,
    pub(super) begin: Begin,
    /// As the file has it: number and whether it is closed.
    head: Option<(u64, bool)>,
    /// Events of the journal's own that nobody has been told yet.
    own: Vec<Event>,
    pub(super) limits: Limits,
    /// When old segments were last looked for.
    pub(super) retained: Option<Instant>,
}

/// Events that found no room, until that is told.
#[derive(Clone, Debug, Default)]
pub(super) struct Missed {
    count: u64,
    from: String,
    to: String,
    why: String,
}

impl Missed {
    /// One more, and why.
    pub(super) fn note(&mut self, event: &Event, error: &JournalError) {
        if self.count == 0 {
            self.from.clone_from(&event.time);
        }
        self.count += 1;
        self.to.clone_from(&event.time);
        self.why = match error {
            JournalError::Full { .. } => "disk full".into(),
            other => other.cause(),
        };
    }
}

/// How far a journal is signed, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The key's public half.
    pub key: PublicKey,
    /// Number of the newest event that the head file covers.
    pub upto: u64,
    /// Number of the newest checkpoint.
    pub checkpoint: u64,
    /// Number of the first event that retention has left.
    pub begins: u64,
}

impl Journal {
    /// Begins to sign. Makes the key where there is none; compares what is on disk with what was signed last; says
    /// in the chain what does not fit. From here on the head file follows each [`Self::sync`].
    ///
    /// # Errors
    /// [`JournalError::Key`] where the key cannot be read or made, [`JournalError::Full`], [`JournalError::Read`],
    /// [`JournalError::Write`].
    pub fn sign(&mut self, limits: Limits) -> Result<(), JournalError> {
        let no_key = |cause| JournalError::key(&self.dir, cause);
        let (loaded, found) = (Key::load(&self.dir)?, Head::read(&self.dir)?);
        let mut notices = Vec::new();
        let known = loaded.is_some();
        let (key, was_open) = match loaded {
            Some(loaded) => loaded,
            None => (Key::new().map_err(no_key)?, false),
        };
        if was_open {
            notices.push(json!({ "what": "journal key exposed", "why": "others than root could read journal.key; it is closed to them now" }));
        }
        let (mut begin, mut mark) = (Begin::default(), Mark::default());
        let mut unsigned = 0;
        match &found {
            None if known => {
                notices.push(altered("the head file is missing", 1, self.last_seq));
            }
            None => {}
            Some(Err(())) => notices.push(altered("the head file is none", 1, self.last_seq)),
            // It is written before the key is, so after a crash between the two there is one that nobody can have signed
            // a checkpoint with.
            Some(Ok(found)) if !known && found.head.checkpoint.seq == 0 => {}
            Some(Ok(found)) if !found.is_signed_by(&key.public()) => {
                let why = if known {
                    "the head file is not signed with this journal's key"
                } else {
                    "the key is missing; there is another one from here on"
                };
                notices.push(altered(why, 1, self.last_seq));
            }
            Some(Ok(found)) => {
                let head = &found.head;
                begin = head.begin.clone();
                mark = head.checkpoint.clone();
                unsigned = self.last_seq.saturating_sub(head.seq);
                notices.extend(self.compare(head)?);
                if let Some(newest) = self.newest_checkpoint(mark.seq) {
                    mark = newest;
                }
            }
        }
        // It may have been cut off with the rest.
        mark.seq = mark.seq.min(self.last_seq);
        self.remove_leftovers(&begin);
        let seal = Seal {
            key,
            mark,
            marked: Instant::now(),
            begin,
            head: None,
            own: Vec::new(),
            limits,
            retained: None,
        };
        if !known {
            // The head first: a key without one is a sign of somebody's hand.
            let first = Head::new(
                self.last_seq,
                &self.chain,
                &seal.mark,
                &seal.begin,
                &seal.key,
            );
            first.write(&self.dir, &seal.key)?;
            seal.key.keep(&self.dir).map_err(no_key)?;
        }
        self.segment_bytes = self.segment_bytes.min(limits.segment_bytes());
        self.seal = Some(seal);
        self.began = self.segment.began();
        for object in notices {
            let mut event = Event::new(Kind::Guard);
            event.object = Some(object);
            self.append_own(event)?;
        }
        if unsigned > 0 {
            let mut event = Event::new(Kind::Guard);
            event.object = Some(json!({
                "what": "unsigned events", "count": unsigned, "why": "guardd ended without signing them",
            }));
            self.append_own(event)?;
        }
        self.sync()
    }

    /// A checkpoint now, and the head with it.
    ///
    /// # Errors
    /// As of [`Self::append`] and [`Self::sync`].
    pub fn seal(&mut self, why: &str) -> Result<(), JournalError> {
        self.checkpoint(why)?;
        self.sync()
    }

    /// What of the signed head is not so on disk.
    fn compare(&self, head: &Head) -> Result<Vec<serde_json::Value>, JournalError> {
        if head.seq > self.last_seq {
            let why = "events were cut off its end";
            return Ok(vec![altered(why, self.last_seq + 1, head.seq)]);
        }
        if head.seq >= head.begin.seq {
            let there = recover::chain_at(&self.dir, head.seq, self.last_seq)?;
            if there.map(|chain| chain.hex()).as_ref() != Some(&head.head) {
                let why = "events were written anew";
                return Ok(vec![altered(
                    why,
                    head.checkpoint.seq.max(head.begin.seq).min(head.seq),
                    head.seq,
                )]);
            }
        }
        if head.closed && head.seq < self.last_seq {
            let why = "events were added after guardd had ended";
            return Ok(vec![altered(why, head.seq + 1, self.last_seq)]);
        }
        Ok(Vec::new())
    }

    /// One that was written after the head last was.
    fn newest_checkpoint(&self, after: u64) -> Option<Mark> {
        let events = Self::read(&self.dir, after).ok()?;
        events
            .filter_map(Result::ok)
            .filter_map(|event| {
                let checkpoint = Checkpoint::of(&event)?.ok()?;
                Some(Mark {
                    seq: event.seq,
                    hash: checkpoint.hash(),
                })
            })
            .last()
    }

    /// What a crash kept retention from removing.
    fn remove_leftovers(&self, begin: &Begin) {
        for segment in Segment::list(&self.dir).into_iter().flatten() {
            if segment.first < begin.seq && segment.first != self.segment.first {
                let _ = std::fs::remove_file(&segment.path);
            }
        }
    }

    /// An event of the journal's own.
    pub(super) fn append_own(&mut self, mut event: Event) -> Result<(), JournalError> {
        self.append_raw(&mut event)?;
        if let Some(seal) = &mut self.seal {
            seal.own.push(event);
        }
        Ok(())
    }

    /// Signs what stands, in the chain.
    pub(super) fn checkpoint(&mut self, why: &str) -> Result<(), JournalError> {
        let Some(seal) = &self.seal else {
            return Ok(());
        };
        let event = Checkpoint::event(&seal.key, why, self.last_seq, &self.chain, &seal.mark.hash);
        let hash = match Checkpoint::of(&event) {
            Some(Ok(checkpoint)) => checkpoint.hash(),
            _ => return Ok(()),
        };
        self.append_own(event)?;
        let seq = self.last_seq;
        if let Some(seal) = &mut self.seal {
            seal.mark = Mark { seq, hash };
            seal.marked = Instant::now();
        }
        Ok(())
    }

    /// After an event: a checkpoint where one is due by number, and after a change of segment, with which old segments
    /// may go. A checkpoint that finds no room is no lost event; the next one signs as much.
    pub(super) fn seal_if_due(&mut self) {
        let Some(seal) = &self.seal else { return };
        if std::mem::take(&mut self.rotated) {
            let _ = self.checkpoint("segment");
            let _ = self.retain();
        } else if self.last_seq.saturating_sub(seal.mark.seq) >= EVERY_EVENTS {
            let _ = self.checkpoint("events");
        }
    }

    /// To be called about once a second. Says what was lost, when there is room again; signs what has stood unsigned
    /// for a minute; removes what is too old. Does nothing while nothing is new.
    ///
    /// # Errors
    /// As of [`Self::append`] and [`Self::sync`].
    pub fn tend(&mut self) -> Result<(), JournalError> {
        if self.owes() && self.has_room() {
            self.tell_missed()?;
        }
        let Some(seal) = &self.seal else {
            return Ok(());
        };
        if self.last_seq > seal.mark.seq && seal.marked.elapsed() >= EVERY {
            self.checkpoint("time")?;
        }
        if retention::is_due(self) {
            self.retain()?;
        }
        Ok(())
    }

    /// Whether there is room again, and not only for a short line among longer ones that find none. Where the system does
    /// not say, the attempt will.
    pub(super) fn has_room(&self) -> bool {
        rustix::fs::fstatvfs(&self.file)
            .map_or(true, |of| of.f_bfree.saturating_mul(of.f_frsize) >= ROOM)
    }

    /// Records how many events found no room, before anything else is recorded.
    pub(super) fn tell_missed(&mut self) -> Result<(), JournalError> {
        let missed = self.missed.clone();
        let mut event = Event::new(Kind::Lost);
        event.object = Some(json!({
            "count": missed.count, "class": "journal", "why": missed.why, "from": missed.from, "to": missed.to,
        }));
        self.append_own(event)?;
        self.missed = Missed::default();
        Ok(())
    }

    /// Whether events were lost and that is not recorded yet.
    pub fn owes(&self) -> bool {
        self.missed.count > 0
    }

    /// The events of its own that were stored since this was last asked, oldest first.
    pub fn take_own(&mut self) -> Vec<Event> {
        self.seal
            .as_mut()
            .map(|seal| std::mem::take(&mut seal.own))
            .unwrap_or_default()
    }

    /// The last checkpoint, and a head that says that nothing follows. To be called when nothing more is appended.
    ///
    /// # Errors
    /// As of [`Self::append`] and [`Self::sync`].
    pub fn close(&mut self) -> Result<(), JournalError> {
        self.checkpoint("stop")?;
        self.sync()?;
        self.write_head(true)
    }

    /// Says how far the journal goes. Only after its lines are on the disk itself: a head that is ahead of them after a
    /// power cut would be taken for a cut.
    pub(super) fn write_head(&mut self, closed: bool) -> Result<(), JournalError> {
        let (seq, chain) = (self.last_seq, self.chain);
        let Some(seal) = &mut self.seal else {
            return Ok(());
        };
        if seal.head == Some((seq, closed)) {
            return Ok(());
        }
        let mut head = Head::new(seq, &chain, &seal.mark, &seal.begin, &seal.key);
        head.closed = closed;
        head.write(&self.dir, &seal.key)?;
        seal.head = Some((seq, closed));
        Ok(())
    }

    /// After the beginning has moved, the head is written though nothing was appended.
    pub(super) fn begin_at(&mut self, begin: Begin) -> Result<(), JournalError> {
        if let Some(seal) = &mut self.seal {
            seal.begin = begin;
            seal.head = None;
        }
        self.sync()
    }

    /// How far it is signed; `None` where it is not.
    pub fn signed(&self) -> Option<Signed> {
        let seal = self.seal.as_ref()?;
        Some(Signed {
            key: seal.key.public(),
            upto: seal.head.map_or(0, |(seq, _)| seq),
            checkpoint: seal.mark.seq,
            begins: seal.begin.seq,
        })
    }

    /// Link of the newest event, 64 hexadecimal digits.
    pub fn head(&self) -> String {
        self.chain.hex()
    }
}

impl JournalError {
    fn key(dir: &std::path::Path, cause: io::Error) -> Self {
        Self::unwritable(&dir.join("journal.key"), cause)
    }
}

fn altered(why: &str, from: u64, to: u64) -> serde_json::Value {
    json!({ "what": JOURNAL_ALTERED, "why": why, "from": from, "to": to })
}

/// The events that such a notice speaks of.
pub(super) fn altered_in(event: &Event) -> Option<(u64, u64)> {
    let object = event.object.as_ref()?;
    let number = |name| object.get(name).and_then(serde_json::Value::as_u64);
    event.is_journal_altered().then(|| {
        (
            number("from").unwrap_or(1),
            number("to").unwrap_or_default(),
        )
    })
}

/// A link as text, or the one before the first.
pub(super) fn chain_of(text: &str) -> Option<Chain> {
    Chain::from_hex(text.as_bytes())
}
