//! Old segments go, by the policy's limits on age and size: whole ones, the oldest first, never the one being
//! written. That they went is an event of the chain, signed, and the head file says where the journal begins now;
//! only then are the files removed.

use std::{
    fs,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::json;

use super::{
    Journal, JournalError, SEGMENT_BYTES,
    head::Begin,
    line::{Lines, Next, Sealed},
    recover,
    segment::Segment,
};
use crate::event::{Event, Kind};

/// How much of a journal is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Events at least as young as this stay; `None` for no limit.
    pub keep: Option<Duration>,
    /// The directory's segments take about this many bytes at most; `None` for no limit.
    pub bytes: Option<u64>,
}

/// How often age is looked at where nothing else asks for it.
const LOOK: Duration = Duration::from_secs(3600);
/// A segment is ended after a day at most, so that age can be told by whole segments.
const DAY: Duration = Duration::from_secs(86_400);
/// A segment is not ended by a small limit before it has this many bytes.
const SMALLEST: u64 = 64 << 10;
/// A limit is kept to within this part of itself.
const PART: u32 = 8;

impl Limits {
    /// When a segment is full, in bytes.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.bytes.map_or(SEGMENT_BYTES, |bytes| {
            (bytes / u64::from(PART)).clamp(SMALLEST, SEGMENT_BYTES)
        })
    }

    /// When it is old.
    pub(super) fn segment_age(&self) -> Duration {
        self.keep
            .map_or(Duration::MAX, |keep| (keep / PART).min(DAY))
    }
}

impl Segment {
    /// When its first event was, by its line; `None` where it has none.
    pub(super) fn began(&self) -> Option<Timestamp> {
        let mut lines = Lines::new(self.open().ok()?);
        match lines.next().ok()? {
            Next::Line(line) => Sealed::parse(line)?.event()?.time.parse().ok(),
            _ => None,
        }
    }

    fn bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |meta| meta.len())
    }
}

/// Whether a time lies at least `age` back. One to come is young.
pub(super) fn is_older(than: Timestamp, age: Duration) -> bool {
    let passed = Timestamp::now().duration_since(than);
    Duration::try_from(passed).is_ok_and(|passed| passed > age)
}

/// Whether age has not been looked at for long.
pub(super) fn is_due(journal: &Journal) -> bool {
    let Some(seal) = &journal.seal else {
        return false;
    };
    let Some(keep) = seal.limits.keep else {
        return seal.retained.is_none();
    };
    let every = (keep / PART).clamp(Duration::from_secs(1), LOOK);
    seal.retained.is_none_or(|at| at.elapsed() >= every)
}

impl Journal {
    /// Other limits, from the next change of segment on.
    pub fn limit(&mut self, limits: Limits) {
        if let Some(seal) = &mut self.seal
            && seal.limits != limits
        {
            seal.limits = limits;
            seal.retained = None;
            self.segment_bytes = limits.segment_bytes();
        }
    }

    /// Removes what is beyond the limits.
    pub(super) fn retain(&mut self) -> Result<(), JournalError> {
        let Some(seal) = &mut self.seal else {
            return Ok(());
        };
        seal.retained = Some(Instant::now());
        let limits = seal.limits;
        let segments = Segment::list(&self.dir)?;
        let current = segments
            .iter()
            .position(|segment| segment.first >= self.segment.first)
            .unwrap_or(0);
        let sizes: Vec<u64> = segments.iter().map(Segment::bytes).collect();
        let (mut total, mut gone) = (sizes.iter().sum::<u64>(), 0);
        let (mut by_size, mut by_age) = (false, false);
        while gone < current {
            let large = limits.bytes.is_some_and(|most| total > most);
            // All of a segment is older than the first event of the next one.
            let old = || {
                let end = segments.get(gone + 1).and_then(Segment::began);
                end.zip(limits.keep)
                    .is_some_and(|(end, keep)| is_older(end, keep))
            };
            if large {
                by_size = true;
            } else if old() {
                by_age = true;
            } else {
                break;
            }
            total -= sizes[gone];
            gone += 1;
        }
        let (Some(first), Some(last)) = (
            segments.first().filter(|_| gone > 0),
            segments[..gone].last(),
        ) else {
            return Ok(());
        };
        let Some((last_seq, head)) = recover::last_of(last)? else {
            // Nothing that could be said of it: `verify` tells, and it stays.
            return Ok(());
        };
        let bytes: u64 = sizes[..gone].iter().sum();
        let mut event = Event::new(Kind::Guard);
        let time = event.time.clone();
        event.object = Some(json!({
            "what": "retention",
            "first": first.first,
            "last": last_seq,
            "head": head.hex(),
            "segments": gone,
            "bytes": bytes,
            "from": first.began().map(|at| at.to_string()),
            "why": match (by_age, by_size) { (true, true) => "age and size", (true, _) => "age", _ => "size" },
        }));
        self.append_own(event)?;
        self.checkpoint("retention")?;
        self.begin_at(Begin {
            seq: last_seq + 1,
            head: head.hex(),
            removed: Some(time),
        })?;
        for segment in &segments[..gone] {
            fs::remove_file(&segment.path)
                .map_err(|cause| JournalError::write(&segment.path, cause))?;
        }
        self.entries = true;
        Ok(())
    }
}

/// What a retention's event says it removed: the last number, and its link.
pub(super) fn removed_in(event: &Event) -> Option<(u64, String)> {
    let object = event.object.as_ref()?;
    if event.kind != Kind::Guard || object.get("what")?.as_str() != Some("retention") {
        return None;
    }
    Some((
        object.get("last")?.as_u64()?,
        object.get("head")?.as_str()?.to_owned(),
    ))
}
