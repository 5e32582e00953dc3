//! Reading a journal from disk, one event at a time.

use std::{io, iter::Peekable, path::Path, vec};

use super::{
    JournalError,
    error::Break,
    line::{Lines, Next, Sealed, peek_seq},
    segment::Segment,
};
use crate::event::Event;

/// The events of a journal as it is on disk, oldest first. A line that cannot be read is an error
/// between the others; after an error of the file system nothing more comes.
///
/// Segments begun after the reader was made are not read.
pub struct Reader {
    after: u64,
    segments: Peekable<vec::IntoIter<Segment>>,
    current: Option<(Segment, Lines)>,
}

impl Reader {
    pub(super) fn new(dir: &Path, after: u64) -> Result<Self, JournalError> {
        let mut segments = Segment::list(dir)?;
        // What comes before the last segment that begins at or below after + 1 holds nothing wanted.
        let wanted = segments.partition_point(|segment| segment.first <= after.saturating_add(1));
        segments.drain(..wanted.saturating_sub(1));
        Ok(Self {
            after,
            segments: segments.into_iter().peekable(),
            current: None,
        })
    }

    fn step(&mut self) -> Result<Option<Event>, JournalError> {
        loop {
            let (segment, lines) = match &mut self.current {
                Some(current) => current,
                None => {
                    let Some(segment) = self.segments.next() else {
                        return Ok(None);
                    };
                    let lines = match segment.open() {
                        // Retention has removed it since the directory was listed.
                        Err(JournalError::Read { cause, .. })
                            if cause.kind() == io::ErrorKind::NotFound =>
                        {
                            continue;
                        }
                        file => Lines::new(file?),
                    };
                    self.current.insert((segment, lines))
                }
            };
            let next = lines
                .next()
                .map_err(|cause| JournalError::read(&segment.path, cause))?;
            let what = match next {
                Next::Line(line) if peek_seq(line).is_some_and(|seq| seq <= self.after) => continue,
                Next::Line(line) => match Sealed::parse(line).and_then(|sealed| sealed.event()) {
                    Some(event) if event.seq <= self.after => continue,
                    Some(event) => return Ok(Some(event)),
                    None => Break::Unreadable,
                },
                Next::TooLong => Break::Unreadable,
                Next::Partial(_) if self.segments.peek().is_some() => Break::Cut,
                Next::Partial(_) | Next::End => {
                    self.current = None;
                    continue;
                }
            };
            return Err(JournalError::Broken {
                segment: segment.path.clone(),
                line: lines.number,
                seq: None,
                what,
            });
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Event, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if let Err(JournalError::Read { .. }) = step {
            self.current = None;
            self.segments = Vec::new().into_iter().peekable();
        }
        step.transpose()
    }
}
