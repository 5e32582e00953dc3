//! Following the chain from the first line to the last.

use std::path::Path;

use super::{
    JournalError,
    error::Break,
    line::{Chain, Lines, Next, Sealed},
    segment::Segment,
};

/// A journal whose chain holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Events in it.
    pub events: u64,
    /// Files in it.
    pub segments: u64,
    /// Number of the newest event.
    pub last_seq: u64,
    /// Link of the newest event, 64 hexadecimal digits: kept elsewhere, it shows later that nothing
    /// up to here was cut off or written anew.
    pub head: String,
    /// Bytes behind the last whole line: being written now, or torn by a crash.
    pub partial_bytes: u64,
}

pub(super) fn verify(dir: &Path) -> Result<Verified, JournalError> {
    let segments = Segment::list(dir)?;
    let (mut last_seq, mut chain, mut events, mut partial_bytes) = (0, Chain::START, 0, 0);
    for (index, segment) in segments.iter().enumerate() {
        let broken = |line, seq, what| {
            Err(JournalError::Broken {
                segment: segment.path.clone(),
                line,
                seq,
                what,
            })
        };
        let expected = last_seq + 1;
        if segment.first != expected {
            let what = Break::Segment {
                expected,
                found: segment.first,
            };
            return broken(1, Some(expected), what);
        }
        let mut lines = Lines::new(segment.open()?);
        loop {
            let next = lines
                .next()
                .map_err(|cause| JournalError::read(&segment.path, cause))?;
            let expected = last_seq + 1;
            match next {
                Next::Line(line) => {
                    let sealed = Sealed::parse(line);
                    let seq = sealed.as_ref().and_then(Sealed::seq);
                    let Some((sealed, found)) = sealed.zip(seq) else {
                        return broken(lines.number, Some(expected), Break::Unreadable);
                    };
                    if found != expected {
                        let what = Break::Sequence { expected, found };
                        return broken(lines.number, Some(expected), what);
                    }
                    if !sealed.follows(&chain) {
                        return broken(lines.number, Some(expected), Break::Chain);
                    }
                    (last_seq, chain, events) = (found, sealed.chain, events + 1);
                }
                Next::TooLong => return broken(lines.number, Some(expected), Break::Unreadable),
                Next::Partial(_) if index + 1 < segments.len() => {
                    return broken(lines.number, Some(expected), Break::Cut);
                }
                Next::Partial(bytes) => {
                    partial_bytes = bytes;
                    break;
                }
                Next::End => break,
            }
        }
    }
    Ok(Verified {
        events,
        segments: segments.len() as u64,
        last_seq,
        head: chain.hex(),
        partial_bytes,
    })
}
