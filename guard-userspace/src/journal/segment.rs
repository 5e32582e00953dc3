//! The files of a journal and how they are named.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use super::JournalError;

/// One file of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Sequence number of its first event, by its name.
    pub(super) first: u64,
    pub(super) path: PathBuf,
}

impl Segment {
    pub(super) fn new(dir: &Path, first: u64) -> Self {
        Self {
            first,
            path: dir.join(format!("journal-{first:020}.jsonl")),
        }
    }

    /// Every segment in `dir`, oldest first. Other files are none of the journal's.
    pub(super) fn list(dir: &Path) -> Result<Vec<Self>, JournalError> {
        let failed = |cause| JournalError::read(dir, cause);
        let mut segments = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if let Some(first) = name.to_str().and_then(first_of) {
                segments.push(Self::new(dir, first));
            }
        }
        segments.sort_by_key(|segment| segment.first);
        Ok(segments)
    }

    /// For reading alone.
    pub(super) fn open(&self) -> Result<File, JournalError> {
        File::open(&self.path).map_err(|cause| JournalError::read(&self.path, cause))
    }

    /// For appending; made where there is none.
    pub(super) fn open_to_append(&self) -> io::Result<File> {
        private().read(true).append(true).open(&self.path)
    }
}

/// Creates what it opens, for root's eyes only, and follows no link that somebody may have planted.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .create(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

fn first_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("journal-")?.strip_suffix(".jsonl")?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

/// Goes back from `end` over at most `lines` lines and about `bytes` bytes, reading 64 KiB at a time.
/// Returns where the oldest line found begins, and how many there are. `end` must follow a newline.
pub(super) fn back(file: &File, end: u64, lines: usize, bytes: u64) -> io::Result<(u64, usize)> {
    let mut buffer = vec![0; (64 << 10).min(usize::try_from(end).unwrap_or(usize::MAX))];
    let (mut begin, mut found, mut at) = (end, 0, end);
    if end == 0 {
        return Ok((0, 0));
    }
    // The newline at end - 1 closes the last line; each one before it begins a line.
    while at > 0 {
        let size = usize::try_from(at).unwrap_or(usize::MAX).min(buffer.len());
        let from = at - size as u64;
        let chunk = &mut buffer[..size];
        file.read_exact_at(chunk, from)?;
        for index in (0..size).rev().filter(|index| chunk[*index] == b'\n') {
            let start = from + index as u64 + 1;
            if start == end {
                continue;
            }
            (begin, found) = (start, found + 1);
            if found == lines || end - begin > bytes {
                return Ok((begin, found));
            }
        }
        at = from;
        if end - at > bytes + (1 << 20) {
            return Ok((begin, found));
        }
    }
    Ok((0, found + 1))
}

/// The offset after the last newline.
pub(super) fn end_of_lines(file: &File, len: u64) -> io::Result<u64> {
    let mut buffer = vec![0; 64 << 10];
    let mut at = len;
    while at > 0 {
        let size = usize::try_from(at).unwrap_or(usize::MAX).min(buffer.len());
        let from = at - size as u64;
        file.read_exact_at(&mut buffer[..size], from)?;
        if let Some(index) = buffer[..size].iter().rposition(|byte| *byte == b'\n') {
            return Ok(from + index as u64 + 1);
        }
        at = from;
    }
    Ok(0)
}
