//! Other guards on the machine. Each stops processes by its own tables, but SIGCONT undoes every stop
//! there is: whoever lets a process go on must first see that no other guard keeps it.
//!
//! The tables are found by their names among all of the kernel's, so that nothing has to be shared or
//! agreed on, and a guard that was killed leaves nothing behind that would have to be cleaned up.

use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData, MapInfo};
use guard_common::{
    NS_PER_TICK,
    state::{Held, Waiting},
};

use crate::process::{self, Id};

/// Names of the tables of stopped processes, as the kernel shows them.
pub(super) const HELD: &str = "GUARD_HELD";
/// See [`HELD`].
pub(super) const WAITING: &str = "GUARD_WAITING";
/// How long a process that other guards may just be stopping is given to stop: the programs of all of
/// them run in the same call, one after another.
pub const STOPPING: Duration = Duration::from_millis(100);

/// Which of the kernel's tables are other guards', by their ids. Ids rise, so only those that are new since the last look
/// have to be asked for their names.
#[derive(Debug, Default)]
pub(super) struct Known {
    others: Vec<(u32, &'static str)>,
    /// The highest id that was looked at.
    upto: u32,
}

impl Known {
    /// Looks at what is new.
    pub(super) fn look(&mut self, own: &[u32]) {
        while let Some(id) = super::sys::next_map(self.upto) {
            self.upto = id;
            // It may have gone since.
            let Ok(info) = MapInfo::from_id(id) else {
                continue;
            };
            let name = info.name_as_str();
            let stopped = [HELD, WAITING]
                .into_iter()
                .find(|known| name == Some(known));
            if let Some(stopped) = stopped.filter(|_| !own.contains(&id)) {
                self.others.push((id, stopped));
            }
        }
    }

    /// These are no others.
    pub(super) fn forget(&mut self, own: &[u32]) {
        self.others.retain(|(id, _)| !own.contains(id));
    }

    /// Those that are still there. Not kept open: a guard that was killed takes its tables with it.
    pub(super) fn open(&mut self) -> Neighbours {
        let mut found = Neighbours::default();
        self.others.retain(|(id, name)| {
            let Ok(data) = MapData::from_id(*id) else {
                return false;
            };
            // Another version's layout does not convert, and is not guessed at.
            if *name == HELD {
                found.held.extend(HashMap::try_from(Map::HashMap(data)));
            } else {
                found.waiting.extend(HashMap::try_from(Map::HashMap(data)));
            }
            true
        });
        found
    }
}

/// The tables of other guards.
#[derive(Debug, Default)]
pub struct Neighbours {
    held: Vec<HashMap<MapData, u32, Held>>,
    waiting: Vec<HashMap<MapData, u32, Waiting>>,
}

impl Neighbours {
    /// Those that are there now. `own` are the ids of this guard's tables.
    pub fn look(own: &[u32]) -> Self {
        let mut known = Known::default();
        known.look(own);
        known.open()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.waiting.is_empty()
    }

    /// Whether one of them holds this process for a person.
    pub fn hold(&self, id: Id) -> bool {
        let same = |held: Held| held.start_ns / NS_PER_TICK == id.start;
        self.held
            .iter()
            .any(|table| table.get(&id.pid, 0).is_ok_and(same))
    }

    /// Whether one of them keeps this process stopped. For a process that has just been stopped this
    /// waits until it stands still: then every guard has entered what it will enter.
    pub fn keep(&self, id: Id) -> bool {
        if self.is_empty() {
            return false;
        }
        let deadline = Instant::now() + STOPPING;
        while process::stat(id.pid)
            .is_some_and(|stat| stat.id == id && stat.is_alive() && !stat.is_stopped())
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_micros(200));
        }
        let same = |waiting: Waiting| waiting.start_ns / NS_PER_TICK == id.start;
        self.hold(id)
            || self
                .waiting
                .iter()
                .any(|table| table.get(&id.pid, 0).is_ok_and(same))
    }
}
