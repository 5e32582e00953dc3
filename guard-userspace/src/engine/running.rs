//! Which stopped processes may run, and letting them: every SIGCONT that the engine sends is sent here.

use rustix::process::Signal;

use super::Engine;
use crate::{
    clock,
    kernel::STOPPING,
    process::{self, Id},
};

impl Engine {
    /// A process that waits for guardd longer than guardd takes has been forgotten: its record was
    /// lost.
    pub(super) fn let_forgotten_go_on(&mut self) {
        let now = clock::monotonic_ns();
        for (tgid, waiting) in self.kernel.tables.waiting() {
            let id = Id::new(tgid, waiting.start_ns);
            if now.saturating_sub(waiting.time_ns) > 1_000_000_000
                && !self.is_held(id)
                && !(self.more && self.has_unread(id))
            {
                tracing::warn!(pid = tgid, "a process waited without a record");
                self.look_at_candidate(id, 0, false);
                self.forget_unread(id);
                self.let_go_on(id);
            }
        }
    }

    pub(super) fn is_held(&self, id: Id) -> bool {
        self.holds
            .values()
            .any(|hold| hold.process == (id.pid, id.start))
    }

    /// Ends the wait of a process that the kernel stopped for guardd, unless something else holds it.
    pub(super) fn let_go_on(&mut self, id: Id) {
        if self.kernel.tables.is_waiting(id.pid) {
            self.end_wait(id);
        }
    }

    /// The same where the kernel's entry may have been taken out for another of its threads. What a thread is about to say that
    /// nobody has looked at keeps the whole process, until that has been looked at.
    pub(super) fn end_wait(&mut self, id: Id) {
        if self.has_unread(id) {
            return;
        }
        if self.may_run(id) {
            let _ = self.go_on([id]);
        } else {
            self.kernel.tables.drop_waiting(id.pid);
        }
    }

    /// Whether a thread of a process is about to say something that has not been looked at.
    fn has_unread(&self, id: Id) -> bool {
        let Some(counted) = self.kernel.tables.tapped(id.pid) else {
            return false;
        };
        let tapped = self.taps.get(&id.pid);
        let seen = tapped.map_or(0, |tapped| tapped.seen);
        Id::new(id.pid, counted.start_ns) == id && counted.writes > seen
    }

    /// What it was about to say will never be known: its record was lost.
    fn forget_unread(&mut self, id: Id) {
        if let (Some(counted), Some(tapped)) = (
            self.kernel.tables.tapped(id.pid),
            self.taps.get_mut(&id.pid),
        ) {
            tapped.seen = tapped.seen.max(counted.writes);
        }
    }

    /// Whether nothing of ours keeps the process stopped: no hold of its own, none of its whole session,
    /// and nobody has paused that.
    pub(super) fn may_run(&self, id: Id) -> bool {
        if self.is_held(id) {
            return false;
        }
        let Some(task) = self.kernel.tables.task(id.pid) else {
            return true;
        };
        let paused = self.sessions.get(&task.session).is_some_and(|s| s.paused);
        let scoped = || {
            self.holds.values().any(|hold| {
                hold.whole_session && self.family(hold.judged_in).contains(&task.session)
            })
        };
        !paused && !scoped()
    }

    /// Lets stopped processes go on, but those that something else keeps, or another guard: they do when
    /// it has let them go too. Gives the last refusal.
    pub(super) fn go_on(&mut self, ids: impl IntoIterator<Item = Id>) -> std::io::Result<()> {
        let neighbours = self.kernel.tables.neighbours();
        let mut result = Ok(());
        for id in ids {
            if !self.may_run(id) {
                continue;
            }
            // A job that waits on its processor for guardd, which no signal ends, would only be waited for in vain.
            let spins = !neighbours.is_empty()
                && self.kernel.tables.is_waiting(id.pid)
                && process::stat(id.pid)
                    .is_some_and(|stat| stat.id == id && !stat.is_stopped() && stat.is_job());
            let kept = !spins && neighbours.keep(id);
            // From here on a thread that is about to be stopped waits with that until this is over: SIGCONT would undo it.
            self.kernel.tables.put_resuming(id.pid);
            if !self.has_unread(id) {
                self.kernel.tables.drop_waiting(id.pid);
                if kept || spins {
                    // One that spins goes on by that; a signal could undo the stop that the other guard is about to ask for. But
                    // it may have given up just now, and stop: that is seen at the next ticks.
                    self.kept_by_others.push((id, clock::monotonic_ns()));
                } else if let Err(error) = process::signal(id, Signal::CONT)
                    // Whoever let it go on a moment ago may have let it end by now.
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    result = Err(error);
                }
            }
            self.kernel.tables.put_resuming(0);
        }
        result
    }

    /// Those that other guards kept: whoever was the last to let one go has continued it, unless that
    /// one died over it.
    pub(super) fn look_after_kept(&mut self) {
        let now = clock::monotonic_ns();
        let mut free = Vec::new();
        for (id, since) in std::mem::take(&mut self.kept_by_others) {
            match process::stat(id.pid) {
                Some(stat) if stat.id == id && stat.is_stopped() => free.push(id),
                // It may be about to stop.
                Some(stat) if stat.id == id && now - since < STOPPING.as_nanos() as u64 => {
                    self.kept_by_others.push((id, since));
                }
                _ => {}
            }
        }
        if !free.is_empty() {
            let _ = self.go_on(free);
        }
    }
}
