//! A session together with the sessions inside it: who is in them, when they end, how they are killed.

use std::collections::BTreeMap;

use guard_common::state::POSTURE_KILLED;
use rustix::process::Signal;
use serde_json::json;

use super::{ENDED, Engine, LOOKS};
use crate::{
    clock,
    event::Kind,
    policy::Mode,
    process::{self, Id},
};

/// Entries of the lineage table that are compared with /proc at each tick.
const SWEPT: usize = 256;

impl Engine {
    pub(super) fn mode(&self) -> Mode {
        self.options.mode.unwrap_or(self.policy.mode)
    }

    /// Processes alive in a session itself.
    pub(super) fn live(&self, session: u32) -> i64 {
        self.kernel
            .tables
            .session(session)
            .map_or(0, |session| session.live.max(0))
    }

    /// A session and all sessions inside it that have not ended.
    pub(super) fn family(&self, session: u32) -> Vec<u32> {
        let mut family = vec![session];
        let mut next = 0;
        while next < family.len() {
            let parent = family[next];
            family.extend(
                self.sessions
                    .values()
                    .filter(|s| s.parent == Some(parent) && s.ended_ns.is_none())
                    .map(|s| s.id),
            );
            next += 1;
        }
        family
    }

    /// Every process of a session and of those inside it, as the kernel has them.
    pub(super) fn members(&self, session: u32) -> Vec<Id> {
        let family = self.family(session);
        let tasks = self.kernel.tables.tasks();
        tasks
            .into_iter()
            .filter(|(_, t)| family.contains(&t.session))
            .map(|(pid, t)| Id::new(pid, t.start_ns))
            .collect()
    }

    /// A session was seen without a process. What its last one did may lie in the rings still, so its end is told when they have
    /// been looked at from now on.
    pub(super) fn see_empty(&mut self, id: u32) {
        self.ending.entry(id).or_default();
    }

    /// The rings have been looked at since these were seen without a process. Where there is more in them it is waited for, but
    /// not for ever: others may fill them all the time.
    pub(super) fn end_seen_empty(&mut self, seen: BTreeMap<u32, usize>) {
        for (id, looks) in seen {
            if self.more && looks < LOOKS {
                self.ending.insert(id, looks + 1);
            } else {
                self.end_if_empty(id);
            }
        }
    }

    /// Finds sessions that are without a process though no record says so: it was lost, or the program around the session has
    /// ended.
    pub(super) fn look_for_empty(&mut self) {
        let unended = self.sessions.values().filter(|s| s.ended_ns.is_none());
        let empty = unended.map(|s| s.id).filter(|&id| self.live(id) == 0);
        let empty: Vec<u32> = empty.collect();
        if empty.is_empty() {
            return;
        }
        for id in empty {
            self.see_empty(id);
        }
        self.drain_all();
    }

    /// Ends a session that has no process and of which all that was done has been told.
    pub(super) fn end_if_empty(&mut self, id: u32) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        if session.ended_ns.is_some() || self.family(id).iter().any(|&id| self.live(id) > 0) {
            return;
        }
        // The editor that runs an agent's commands one by one may run the next one.
        if let Some((pid, start)) = session.anchor
            && process::stat(pid).is_some_and(|stat| stat.id.start == start && stat.is_alive())
        {
            return;
        }
        let parent = session.parent;
        self.tell_unheard_of(id);
        let mut event = self.event_for(Kind::Session, Some(id));
        event.object = Some(json!({ "what": "ended" }));
        self.tell(event);
        self.kernel.tables.drop_session(id);
        self.search_no_more_for(id);
        self.end_grants_of(id);
        if let Some(mut session) = self.sessions.remove(&id) {
            session.ended_ns = Some(clock::monotonic_ns());
            if self.ended.len() == ENDED {
                self.ended.pop_front();
            }
            self.ended.push_back(session);
        }
        self.save();
        if let Some(parent) = parent {
            self.see_empty(parent);
        }
    }

    /// Kills every process of a session; says how many are left after the kernel has had its time.
    pub(super) fn kill_session(&mut self, session: u32) -> usize {
        for id in self.family(session) {
            let _ = self.kernel.set_posture(id, POSTURE_KILLED);
        }
        let deadline = clock::monotonic_ns() + 5_000_000_000;
        loop {
            let members = self.members(session);
            let mut left = 0;
            for id in members {
                if process::signal(id, Signal::KILL).is_ok() {
                    left += 1;
                }
            }
            if left == 0 || clock::monotonic_ns() > deadline {
                return left;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Takes out of the lineage table what has exited and could not be taken out then, a part of the table at
    /// a time.
    pub(super) fn sweep(&mut self) {
        if self.to_sweep.is_empty() {
            let tasks = self.kernel.tables.tasks();
            self.to_sweep
                .extend(tasks.iter().map(|(pid, task)| Id::new(*pid, task.start_ns)));
        }
        let rest = self.to_sweep.len().saturating_sub(SWEPT);
        for id in self.to_sweep.split_off(rest) {
            let gone = process::stat(id.pid).is_none_or(|stat| stat.id != id || !stat.is_alive());
            let entered = |task: &guard_common::state::Task| Id::new(id.pid, task.start_ns) == id;
            if gone
                && self
                    .kernel
                    .tables
                    .task(id.pid)
                    .as_ref()
                    .is_some_and(entered)
            {
                let _ = self.kernel.tag(id.pid, 0, id.start, 0, 0);
            }
        }
    }
}
