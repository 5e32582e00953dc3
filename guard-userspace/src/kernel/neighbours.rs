//! Other guards on the machine. Each stops processes by its own tables, but SIGCONT undoes every stop
//! there is: whoever lets a process go on must first see that no other guard keeps it.
//!
//! The tables are found by their names among all of the kernel's, so that nothing has to be shared or
//! agreed on, and a guard that was killed leaves nothing behind that would have to be cleaned up.

use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData, loaded_maps};
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
const STOPPING: Duration = Duration::from_millis(100);

/// The tables of other guards.
#[derive(Debug, Default)]
pub struct Neighbours {
    held: Vec<HashMap<MapData, u32, Held>>,
    waiting: Vec<HashMap<MapData, u32, Waiting>>,
}

impl Neighbours {
    /// Those that are there now. `own` are the ids of this guard's tables.
    pub fn look(own: &[u32]) -> Self {
        let mut found = Self::default();
        for info in loaded_maps().filter_map(Result::ok) {
            let name = info.name_as_str();
            if !matches!(name, Some(HELD | WAITING)) || own.contains(&info.id()) {
                continue;
            }
            // It may have gone since.
            let Ok(data) = MapData::from_id(info.id()) else {
                continue;
            };
            // Another version's layout does not convert, and is not guessed at.
            if name == Some(HELD) {
                found.held.extend(HashMap::try_from(Map::HashMap(data)));
            } else {
                found.waiting.extend(HashMap::try_from(Map::HashMap(data)));
            }
        }
        found
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
