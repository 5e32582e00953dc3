//! What other threads of a held process are about to say. A person is asked about one thing at a time, and the answer is for
//! that alone: the rest is looked at when it has come, before the process goes on.

use super::{Engine, content::TalkId};
use crate::{kernel::Write, process::Id};

/// Bytes that are kept of all that wait. Beyond, what may not pass is refused at once.
const MAX_BYTES: usize = 16 << 20;

/// Writes in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct PutOff {
    writes: Vec<(Id, Write)>,
    /// Bytes that they have.
    held: usize,
    /// What it was about to say is refused with what was just answered: its connection has been ended for that.
    refusing: Option<Id>,
}

impl PutOff {
    fn take(&mut self, of: Id) -> Vec<Write> {
        let (taken, left) = std::mem::take(&mut self.writes)
            .into_iter()
            .partition::<Vec<_>, _>(|(id, _)| *id == of);
        self.writes = left;
        let taken: Vec<Write> = taken.into_iter().map(|(_, write)| write).collect();
        self.held -= taken.iter().map(|write| write.bytes.len()).sum::<usize>();
        taken
    }
}

impl Engine {
    /// Whether there is room for it.
    pub(super) fn may_put_off(&self, write: &Write) -> bool {
        self.put_off.held + write.bytes.len() <= MAX_BYTES
    }

    /// Keeps what a thread of a held process is about to say.
    pub(super) fn put_off(&mut self, id: Id, write: Write) {
        self.put_off.held += write.bytes.len();
        self.put_off.writes.push((id, write));
        let hold = self.holds.values_mut();
        let hold = hold
            .filter(|hold| !hold.others_wait)
            .find(|hold| hold.process == (id.pid, id.start));
        if let Some(hold) = hold {
            hold.others_wait = true;
            self.save();
        }
    }

    pub(super) fn has_put_off(&self, of: Id) -> bool {
        self.put_off.writes.iter().any(|(id, _)| *id == of)
    }

    /// Looks at it after an answer. The first that is held puts those behind it off again.
    pub(super) fn take_up_put_off(&mut self, id: Id, refused: bool) {
        self.put_off.refusing = refused.then_some(id);
        for write in self.put_off.take(id) {
            self.on_write(write);
        }
        self.put_off.refusing = None;
    }

    /// Whether its connections have just been ended by a refusal.
    pub(super) fn is_refusing(&self, id: Id) -> bool {
        self.put_off.refusing == Some(id)
    }

    /// The process has gone, or is to be killed.
    pub(super) fn drop_put_off(&mut self, id: Id) {
        for write in self.put_off.take(id) {
            self.talks.remove(TalkId::Library(id.pid, write.conn));
        }
    }
}
