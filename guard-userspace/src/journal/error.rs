//! What can go wrong with a journal. Every message says what, why, and what to do.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

/// A failure of the journal. `cause` is part of the message, so it is not given again as `source()`.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The directory, its lock or a segment cannot be created or opened for writing.
    #[error(
        "state directory unwritable: {}: {cause}: run guardd as root, or name another directory with --state-dir",
        path.display()
    )]
    Unwritable {
        /// What could not be made or opened.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// Another process holds the directory's lock.
    #[error(
        "state directory locked: {} is in use by {}: stop that guardd, or name another directory with --state-dir",
        path.display(), Holder(*pid)
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, where it has said so.
        pid: Option<u32>,
    },
    /// No room: the file system, a quota or the file size limit is exhausted.
    #[error(
        "disk full: {}: {cause}: make room; events go on being judged and are stored again as soon as there is some",
        path.display()
    )]
    Full {
        /// The segment or directory that could not grow.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// A write or flush failed for another reason than room.
    #[error("journal not written: {}: {cause}: look for disk errors in the kernel log", path.display())]
    Write {
        /// The segment.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// The journal cannot be read.
    #[error("journal not readable: {}: {cause}: read it as root, and name the right --state-dir", path.display())]
    Read {
        /// The directory or segment.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// The key is there and cannot be used.
    #[error(
        "journal key unusable: {}: {cause}: put the key back, or move the whole state directory away",
        path.display()
    )]
    Key {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        cause: io::Error,
    },
    /// The segment being written was removed or changed in length by somebody else.
    #[error(
        "journal tampered with: {} {what} while guardd was writing it: run `guardctl verify` and find out who has access",
        path.display()
    )]
    Altered {
        /// The segment.
        path: PathBuf,
        /// What was seen.
        what: Alteration,
    },
    /// The end of the last segment holds nothing that can be read, so the journal cannot be gone on with.
    #[error(
        "journal damaged: {} holds no readable line in its last {bytes} bytes: keep a copy, then move the file away",
        path.display()
    )]
    Damaged {
        /// The segment.
        path: PathBuf,
        /// How far back was looked.
        bytes: u64,
    },
    /// The event's line would be longer than readers accept.
    #[error(
        "event not stored: its line would take {bytes} bytes, {limit} are allowed: shorten what it carries"
    )]
    TooLong {
        /// Length of the line.
        bytes: usize,
        /// The most there may be.
        limit: usize,
    },
    /// The event cannot be put into JSON.
    #[error("event not stored: {cause}: this is a bug in guard, please report it")]
    Encode {
        /// The encoder's answer.
        cause: serde_json::Error,
    },
    /// A line cannot be right where it stands.
    #[error(
        "chain broken: {} line {line}{}: {what}: what comes before is sound; compare with a copy of the journal",
        segment.display(), AtSeq(*seq)
    )]
    Broken {
        /// The segment.
        segment: PathBuf,
        /// Line in it, from 1.
        line: u64,
        /// Sequence number that belongs there or stands there, where known.
        seq: Option<u64>,
        /// What is wrong.
        what: Break,
    },
}

/// How a segment changed under the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alteration {
    /// Its last name was removed.
    Removed,
    /// Its length is not what was written.
    Resized {
        /// Bytes written.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
}

impl fmt::Display for Alteration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removed => f.write_str("was removed"),
            Self::Resized { expected, found } => write!(f, "went from {expected} to {found} bytes"),
        }
    }
}

/// Why a line cannot be right where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// The hash does not follow from the line and the one before.
    Chain,
    /// Another number was due: lines are missing, doubled or in another order.
    Sequence {
        /// What was due.
        expected: u64,
        /// What stands there.
        found: u64,
    },
    /// The segment's name does not follow from the segment before: one is missing, or the beginning is.
    Segment {
        /// The first number that was due.
        expected: u64,
        /// The first number by the file's name.
        found: u64,
    },
    /// Not a journal line: not JSON, no event, no chain, or too long.
    Unreadable,
    /// A line without an end, where more segments follow.
    Cut,
    /// A checkpoint whose signature is none of the journal's key.
    Signature,
    /// A checkpoint of another key.
    Key,
    /// A checkpoint that does not say what stands before it: from event `from` on lines were written anew.
    Checkpoint {
        /// The first event that nothing vouches for.
        from: u64,
    },
    /// The journal ends before the event up to which it was signed.
    Truncated {
        /// That event.
        signed: u64,
    },
    /// Lines up to this one were written anew, since the head file has another hash of it.
    Rewritten {
        /// The first event that nothing vouches for.
        from: u64,
    },
    /// Lines that follow the end of a journal that was closed.
    Added,
    /// The head file is missing, though the journal is signed.
    NoHead,
    /// The head file is none.
    BadHead,
    /// The head file is not signed with the journal's key.
    HeadSignature,
    /// What retention removed, by the head file, is not in the chain.
    Unrecorded,
    /// A key was given, and nothing is signed.
    Unsigned,
    /// guardd found at a start that these events were not as it had left them.
    Told {
        /// First of them.
        from: u64,
        /// Last of them.
        to: u64,
    },
    /// The event is not the one that was expected.
    Unexpected,
    /// The event that was expected is not there.
    Absent,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain => f.write_str("this line was changed, or the hash of the one before"),
            Self::Sequence { expected, found } => {
                write!(
                    f,
                    "event {found} stands where event {expected} was due: lines were removed, added or moved"
                )
            }
            Self::Segment { expected, found } => {
                write!(
                    f,
                    "the segment begins with event {found}, due was event {expected}: a segment is missing"
                )
            }
            Self::Unreadable => f.write_str("not a journal line"),
            Self::Cut => {
                f.write_str("the line has no end, though the journal goes on in the next segment")
            }
            Self::Signature => f.write_str(
                "the checkpoint's signature is not of the journal's key: it was changed, or the journal written anew",
            ),
            Self::Key => f.write_str(
                "the checkpoint is signed with another key: the journal was written anew, or the key was exchanged",
            ),
            Self::Checkpoint { from } => write!(
                f,
                "the checkpoint does not fit what stands before it: events from {from} on were written anew"
            ),
            Self::Truncated { signed } => write!(
                f,
                "the journal ends here, but was signed up to event {signed}: events were cut off"
            ),
            Self::Rewritten { from } => write!(
                f,
                "another event was signed under this number: events from {from} on were written anew"
            ),
            Self::Added => f.write_str("the journal was closed before this event: it was added"),
            Self::NoHead => f.write_str("the journal is signed, but has no head file: that was removed"),
            Self::BadHead => f.write_str("not a head file: it was changed"),
            Self::HeadSignature => f.write_str(
                "the head file is not signed with the journal's key: it was changed, or the journal written anew",
            ),
            Self::Unrecorded => f.write_str(
                "events before this one are missing, and the journal does not say that retention removed them",
            ),
            Self::Unsigned => f.write_str("nothing is signed with the key that was given"),
            Self::Told { from, to } => write!(
                f,
                "guardd tells here that it found events {from} to {to} cut off, added or changed when it started"
            ),
            Self::Unexpected => f.write_str("another event than the one expected: the journal was written anew"),
            Self::Absent => f.write_str(
                "the event that is expected is not there: the journal was cut, or put back to an earlier state",
            ),
        }
    }
}

struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "pid {pid}"),
            None => f.write_str("another process"),
        }
    }
}

struct AtSeq(Option<u64>);

impl fmt::Display for AtSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(seq) => write!(f, " (event {seq})"),
            None => Ok(()),
        }
    }
}

impl JournalError {
    /// What the system said, without what follows from it for a guardd that runs.
    pub fn cause(&self) -> String {
        match self {
            Self::Unwritable { cause, .. }
            | Self::Full { cause, .. }
            | Self::Write { cause, .. } => cause.to_string(),
            other => other.to_string(),
        }
    }

    pub(super) fn unwritable(path: &Path, cause: io::Error) -> Self {
        let path = path.to_owned();
        if no_room(&cause) {
            Self::Full { path, cause }
        } else {
            Self::Unwritable { path, cause }
        }
    }

    pub(super) fn write(path: &Path, cause: io::Error) -> Self {
        let path = path.to_owned();
        if no_room(&cause) {
            Self::Full { path, cause }
        } else {
            Self::Write { path, cause }
        }
    }

    pub(super) fn read(path: &Path, cause: io::Error) -> Self {
        Self::Read {
            path: path.to_owned(),
            cause,
        }
    }
}

/// EFBIG is `RLIMIT_FSIZE` or the file system's limit for one file.
fn no_room(cause: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(cause),
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG)
    )
}
