//! One file, whatever it is and whatever is done to it meanwhile.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;
use zeroize::Zeroize as _;

use super::{Found, Scanner};

/// Where a NUL says that a file is no text: the first bytes that git looks at, too.
const HEAD: usize = 8000;

/// What a file may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes from its beginning that are read; the rest is not looked at.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 4 << 20 }
    }
}

/// Which file it was that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// When it was changed last, seconds and nanoseconds, before it was read: what is written later shows.
    pub changed: (i64, i64),
    /// Bytes that were read.
    pub read: u64,
}

/// What came of a file.
#[derive(Debug)]
pub enum FileOutcome {
    /// Searched.
    Searched {
        /// Which it was.
        seen: Seen,
        /// It is longer than the limit.
        cut: bool,
        /// Secrets beyond [`super::MAX_FOUND`].
        more: usize,
    },
    /// No text.
    Binary(Seen),
    /// No regular file: a device, a FIFO, a socket, a directory.
    Special,
    /// Gone before it could be opened, or not to be opened because it is a link.
    Gone,
    /// It cannot be read.
    Failed(io::Error),
}

impl Scanner {
    /// The file at `path`. Neither waits (for who writes into a FIFO) nor follows a link.
    pub fn scan_file(
        &self,
        path: &Path,
        limits: Limits,
        sink: &mut impl FnMut(Found),
    ) -> FileOutcome {
        match open_to_scan(path) {
            Ok(file) => self.scan_open_file(&file, path, limits, sink),
            Err(outcome) => outcome,
        }
    }

    /// A file that is open for reading, from where it stands; `path` says what it is called.
    pub fn scan_open_file(
        &self,
        file: &File,
        path: &Path,
        limits: Limits,
        sink: &mut impl FnMut(Found),
    ) -> FileOutcome {
        let found = match file.metadata() {
            Ok(found) if !found.is_file() => return FileOutcome::Special,
            Ok(found) => found,
            Err(error) => return FileOutcome::Failed(error),
        };
        let mut buffer = Buffer::for_length(found.len(), limits);
        let outcome = match buffer.fill(file, limits) {
            Err(error) => FileOutcome::Failed(error),
            Ok(cut) => {
                let seen = Seen {
                    dev: found.dev(),
                    ino: found.ino(),
                    changed: (found.ctime(), found.ctime_nsec()),
                    read: buffer.0.len() as u64,
                };
                if is_binary(&buffer.0) {
                    FileOutcome::Binary(seen)
                } else {
                    let more = self.scan_bytes(path, &buffer.0, sink);
                    FileOutcome::Searched { seen, cut, more }
                }
            }
        };
        drop(buffer);
        outcome
    }
}

/// Opens the file at `path`, or says what comes of it. Neither waits nor follows a link.
pub(super) fn open_to_scan(path: &Path) -> Result<File, FileOutcome> {
    // A device must not even be opened: a tape would be wound back.
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_symlink() => return Err(FileOutcome::Gone),
        Ok(found) if special(&found) => return Err(FileOutcome::Special),
        Ok(_) => {}
        Err(error) => return Err(failed(error)),
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    file.map_err(|error| {
        if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            FileOutcome::Gone
        } else {
            failed(error)
        }
    })
}

fn special(found: &std::fs::Metadata) -> bool {
    let kind = found.file_type();
    kind.is_fifo()
        || kind.is_socket()
        || kind.is_char_device()
        || kind.is_block_device()
        || kind.is_dir()
}

fn failed(error: io::Error) -> FileOutcome {
    if error.kind() == io::ErrorKind::NotFound {
        FileOutcome::Gone
    } else {
        FileOutcome::Failed(error)
    }
}

fn is_binary(bytes: &[u8]) -> bool {
    let wide = matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]);
    // UTF-32 begins as UTF-16 does.
    let widest = matches!(bytes, [0xff, 0xfe, 0, 0, ..]);
    !wide && bytes[..bytes.len().min(HEAD)].contains(&0) || widest
}

/// What was read of a file; wiped when it is done with. It never grows, so no part of it is left behind elsewhere.
struct Buffer(Vec<u8>);

impl Buffer {
    fn for_length(length: u64, limits: Limits) -> Self {
        // One more than is wanted tells whether there is more; some for a file that grows.
        let wanted = usize::try_from(length)
            .unwrap_or(usize::MAX)
            .saturating_add(4096);
        Self(Vec::with_capacity(
            wanted.min(limits.bytes.saturating_add(1)),
        ))
    }

    /// Whether there is more than was read.
    fn fill(&mut self, mut file: &File, limits: Limits) -> io::Result<bool> {
        let room = self.0.capacity();
        let mut piece = [0; 64 << 10];
        loop {
            let most = piece.len().min(room - self.0.len());
            if most == 0 {
                break;
            }
            // Binary files are known by their beginning: no need to read the rest.
            let read = match file.read(&mut piece[..most]) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    piece.zeroize();
                    return Err(error);
                }
            };
            self.0.extend_from_slice(&piece[..read]);
            if read == 0 || self.0.len() >= HEAD && is_binary(&self.0) {
                break;
            }
        }
        piece.zeroize();
        let cut = self.0.len() > limits.bytes || self.0.len() == room;
        self.0.truncate(limits.bytes);
        Ok(cut)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.0.as_mut_slice().zeroize();
    }
}
