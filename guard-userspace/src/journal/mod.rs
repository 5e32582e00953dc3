//! The journal: every event, on disk, in order, for good.
//!
//! A directory of segments, `journal-<number of the first event, 20 digits>.jsonl`. A line is an
//! event's JSON whose last member, `chain`, is the SHA-256 of the line before's link (32 bytes; zeros
//! before the very first) and of the event's JSON without that member. So any tool that reads JSON
//! lines reads a journal, and a line that was changed, removed, added or moved does not fit ([`Journal::verify`]).
//!
//! What the chain alone cannot show: that the newest lines were cut off cleanly, or that everything
//! from some line on was written anew with fresh hashes. For that there are checkpoints, lines that say under
//! the journal's key what stands before them, and a signed `head` file that says how far the journal goes
//! ([`Journal::sign`]). What these cannot show (a whole directory put back to an earlier state, or somebody who has
//! the key) takes a copy of [`Verified::head`] or of the public key kept elsewhere.
//!
//! An event is one `write(2)`, so once [`Journal::append`] returns the kernel has it and it survives
//! the death of guardd; [`Journal::sync`] makes it survive the death of the machine. Readers need no
//! lock: an end without a newline is being written, and they stop before it.

mod checkpoint;
mod error;
mod head;
mod hex;
mod key;
mod line;
mod read;
mod recover;
mod retention;
mod sealing;
mod segment;
mod tail;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

pub use self::{
    error::{Alteration, Break, JournalError},
    key::PublicKey,
    read::Reader,
    retention::Limits,
    sealing::Signed,
    verify::{Against, Verified},
};
use self::{
    line::{Chain, MAX_LINE},
    sealing::{Missed, Seal},
    segment::{Segment, private},
    tail::Tail,
};
use crate::event::Event;

/// A segment that has reached this many bytes is followed by another.
const SEGMENT_BYTES: u64 = 64 << 20;

/// The journal, open for appending. One process has it at a time.
pub struct Journal {
    dir: PathBuf,
    segment: Segment,
    file: File,
    /// Bytes of whole lines in the segment.
    len: u64,
    /// A line that failed half-way may stand behind `len` and must go before the next is written.
    dirty: bool,
    /// The segment was removed: the next event begins another.
    lost: bool,
    /// Segments that are full and not yet flushed.
    full: Vec<File>,
    /// Directory entries were made and not yet flushed.
    entries: bool,
    last_seq: u64,
    chain: Chain,
    tail: Tail,
    unwritten: u64,
    buffer: Vec<u8>,
    segment_bytes: u64,
    /// When the segment's first event was.
    began: Option<Timestamp>,
    /// A segment was begun since that was last looked at.
    rotated: bool,
    /// Present once it is signed.
    seal: Option<Seal>,
    missed: Missed,
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "held until the journal is dropped")
    )]
    lock: Lock,
}

/// A journal just opened.
pub struct Opened {
    /// The journal.
    pub journal: Journal,
    /// A torn last line was cut off: what, how many bytes, and where they are kept.
    pub torn: Option<String>,
}

impl Journal {
    /// Opens the journal in `dir`, which is made (0700) where there is none, and locks it.
    ///
    /// Reads the end of the newest segments only, so the time does not grow with the journal.
    ///
    /// # Errors
    /// [`JournalError::Locked`] where another process has it; [`JournalError::Unwritable`],
    /// [`JournalError::Full`], [`JournalError::Read`] by the file system;
    /// [`JournalError::Damaged`] where the last segment's end holds no line at all.
    pub fn open(dir: &Path) -> Result<Opened, JournalError> {
        Self::open_with(dir, SEGMENT_BYTES)
    }

    fn open_with(dir: &Path, segment_bytes: u64) -> Result<Opened, JournalError> {
        make_dir(dir).map_err(|cause| JournalError::unwritable(dir, cause))?;
        let lock = Lock::take(&dir.join("lock"))?;
        let end = recover::end(dir)?;
        let tail = recover::tail(dir)?;
        let file = end
            .segment
            .open_to_append()
            .map_err(|cause| JournalError::unwritable(&end.segment.path, cause))?;
        let journal = Self {
            dir: dir.to_owned(),
            segment: end.segment,
            file,
            len: end.len,
            dirty: false,
            lost: false,
            full: Vec::new(),
            entries: true,
            last_seq: end.last_seq,
            chain: end.chain,
            tail,
            unwritten: 0,
            buffer: Vec::new(),
            segment_bytes,
            began: None,
            rotated: false,
            seal: None,
            missed: Missed::default(),
            lock,
        };
        Ok(Opened {
            journal,
            torn: end.torn,
        })
    }

    /// Numbers the event and stores it. Once this is `Ok`, the event survives the death of this
    /// process; [`Self::sync`] is for the death of the machine.
    ///
    /// # Errors
    /// The event is then not on disk, keeps `seq` 0, is counted in [`Self::unwritten`] and still
    /// stands in [`Self::tail`]. Its number goes to the next one, so the file has no gap; later
    /// events are stored as soon as that works again. [`JournalError::Full`] for want of room,
    /// [`JournalError::Write`], [`JournalError::TooLong`], [`JournalError::Encode`].
    pub fn append(&mut self, event: &mut Event) -> Result<(), JournalError> {
        if self.seal.is_some() && self.owes() && self.has_room() {
            // Where that fails, this one will say why.
            let _ = self.tell_missed();
        }
        let stored = self.append_raw(event);
        if let Err(error) = &stored {
            self.unwritten += 1;
            self.missed.note(event, error);
            self.tail.push(event.clone(), self.buffer.len());
        } else {
            self.seal_if_due();
        }
        self.buffer.shrink_to(64 << 10);
        stored
    }

    /// Numbers and stores an event; one that is not stored is neither counted nor kept in memory.
    fn append_raw(&mut self, event: &mut Event) -> Result<(), JournalError> {
        event.seq = self.last_seq + 1;
        match self.write(event) {
            Ok(chain) => {
                self.chain = chain;
                self.last_seq = event.seq;
                self.len += self.buffer.len() as u64;
                self.tail.push(event.clone(), self.buffer.len());
                Ok(())
            }
            Err(error) => {
                event.seq = 0;
                Err(error)
            }
        }
    }

    fn write(&mut self, event: &Event) -> Result<Chain, JournalError> {
        self.buffer.clear();
        serde_json::to_writer(&mut self.buffer, event)
            .map_err(|cause| JournalError::Encode { cause })?;
        let chain = line::seal(&mut self.buffer, &self.chain);
        if self.buffer.len() > MAX_LINE {
            return Err(JournalError::TooLong {
                bytes: self.buffer.len(),
                limit: MAX_LINE,
            });
        }
        if self.dirty {
            self.repair()
                .map_err(|cause| JournalError::write(&self.segment.path, cause))?;
        }
        if self.lost {
            self.next_segment()
                .map_err(|cause| JournalError::unwritable(&self.dir, cause))?;
        } else if self.len >= self.segment_bytes || self.is_old() {
            // Where no file can be made there may still be room in this one, which may grow: a later
            // event tries again.
            let _ = self.next_segment();
        }
        if let Err(cause) = write_line(&mut self.file, &self.buffer) {
            self.dirty = true;
            let _ = self.repair();
            return Err(JournalError::write(&self.segment.path, cause));
        }
        Ok(chain)
    }

    /// Whether the segment has been written for so long that its age would say little.
    fn is_old(&self) -> bool {
        let age = self
            .seal
            .as_ref()
            .map_or(Duration::MAX, |seal| seal.limits.segment_age());
        self.len > 0
            && self
                .began
                .is_some_and(|began| retention::is_older(began, age))
    }

    /// Takes a line that failed half-way away again.
    fn repair(&mut self) -> io::Result<()> {
        // Never longer than it is: that would write zeros.
        if self.file.metadata()?.len() > self.len {
            self.file.set_len(self.len)?;
        }
        self.dirty = false;
        Ok(())
    }

    fn next_segment(&mut self) -> io::Result<()> {
        let segment = Segment::new(&self.dir, self.last_seq + 1);
        let file = segment.open_to_append()?;
        self.len = file.metadata()?.len();
        self.full.push(std::mem::replace(&mut self.file, file));
        self.segment = segment;
        self.lost = false;
        self.entries = true;
        self.rotated = true;
        self.began = Some(Timestamp::now());
        Ok(())
    }

    /// Makes everything appended so far survive the death of the machine (`fdatasync`; the directory
    /// too after a new segment), signs how far that is, and looks whether somebody else changed the segment. To be called
    /// after events that must not be lost, and on a timer.
    ///
    /// # Errors
    /// [`JournalError::Write`] or [`JournalError::Full`] by the file system;
    /// [`JournalError::Altered`], once, when the segment was removed (the next event begins another)
    /// or has another length than was written.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        let failed = |cause| JournalError::write(&self.segment.path, cause);
        for file in self.full.drain(..) {
            file.sync_data().map_err(failed)?;
        }
        self.file.sync_data().map_err(failed)?;
        if self.entries {
            File::open(&self.dir)
                .and_then(|dir| dir.sync_all())
                .map_err(failed)?;
            self.entries = false;
        }
        self.write_head(false)?;
        let failed = |cause| JournalError::write(&self.segment.path, cause);
        let now = self.file.metadata().map_err(failed)?;
        let altered = |what| {
            Err(JournalError::Altered {
                path: self.segment.path.clone(),
                what,
            })
        };
        if now.nlink() == 0 && !self.lost {
            self.lost = true;
            return altered(Alteration::Removed);
        }
        if now.len() != self.len && !self.dirty {
            let expected = std::mem::replace(&mut self.len, now.len());
            return altered(Alteration::Resized {
                expected,
                found: now.len(),
            });
        }
        Ok(())
    }

    /// How many events could not be stored since the journal was opened.
    pub fn unwritten(&self) -> u64 {
        self.unwritten
    }

    /// Number of the newest stored event, 0 where there is none.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The newest events from memory, oldest first: at most 4096, and at most about 8 MiB of them.
    /// Those that could not be stored are among them, with `seq` 0.
    pub fn tail(&self) -> impl DoubleEndedIterator<Item = &Event> + ExactSizeIterator {
        self.tail.iter()
    }

    /// The events with a number above `after`, oldest first, from disk, whether or not a guardd has
    /// the journal open. Takes memory for one line.
    ///
    /// # Errors
    /// [`JournalError::Read`] where the directory cannot be listed.
    pub fn read(dir: &Path, after: u64) -> Result<Reader, JournalError> {
        Reader::new(dir, after)
    }

    /// Follows the chain through every segment and checks each signature, whether or not a guardd has the journal
    /// open.
    ///
    /// # Errors
    /// [`JournalError::Broken`] at the first line that does not fit; [`JournalError::Read`] by the
    /// file system.
    pub fn verify(dir: &Path, against: &Against) -> Result<Verified, JournalError> {
        verify::verify(dir, against)
    }
}

/// One `write(2)`. Only where the kernel took a part of it (the disk filled up) is there a second,
/// which either finishes the line or says why not.
fn write_line(file: &mut File, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match file.write(line) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => line = &line[taken..],
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(())
}

fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().mode(0o700).recursive(true).create(dir)
}

/// The directory's lock. It goes with the process, however that ends, so the pid in the file is only
/// believed while the lock is held.
struct Lock(File);

impl Lock {
    fn take(path: &Path) -> Result<Self, JournalError> {
        let mut file = private()
            .read(true)
            .write(true)
            .truncate(false)
            .open(path)
            .map_err(|cause| JournalError::unwritable(path, cause))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let pid = fs::read_to_string(path)
                    .ok()
                    .and_then(|text| text.trim().parse().ok());
                return Err(JournalError::Locked {
                    path: path.to_owned(),
                    pid,
                });
            }
            Err(cause) => return Err(JournalError::unwritable(path, cause.into())),
        }
        // The lock is what counts: on a full disk there may be no room for the pid.
        let _ = file
            .set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self(file))
    }
}

impl Drop for Lock {
    /// Closing is not enough: a child between fork and exec still has the file open, and with it the
    /// lock.
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}
