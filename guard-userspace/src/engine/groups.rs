//! Holds that are alike ([`super::likeness`]): put into groups as they come, answered together on request,
//! counted for `status`.

use super::{
    By, Engine, Hold, Outcome, Refusal, likeness,
    tally::{Count, Tally},
};
use crate::clock;

impl Engine {
    /// Puts a new hold into the group of those that wait and are like it.
    pub(super) fn put_in_group(&self, hold: &mut Hold) {
        hold.likeness = likeness::of(hold.judged_in, &self.hold_info(hold));
        hold.group = self
            .holds
            .values()
            .find(|other| other.likeness.is_some() && other.likeness == hold.likeness)
            .map_or(hold.id, |other| other.group);
    }

    /// How many of a hold's group wait, with itself.
    pub(super) fn like(&self, hold: &Hold) -> u64 {
        let others = self
            .holds
            .values()
            .filter(|other| other.id != hold.id && other.group == hold.group && other.group != 0);
        others.count() as u64 + 1
    }

    /// Answers a hold and those of its group up to `upto`, the newest that whoever answers has seen. Each is answered
    /// and recorded by itself; the lease of an approval is given once.
    ///
    /// # Errors
    /// When the hold does not wait any more (then nothing is answered), when `upto` is none that there could have been
    /// to see, or when one of them could not be answered.
    pub(super) fn settle_all_like(
        &mut self,
        id: u32,
        upto: u32,
        outcome: &Outcome,
        by: By,
    ) -> Result<String, Refusal> {
        let Some(hold) = self.holds.get(&id) else {
            return self.settle(id, outcome, by); // which says why not
        };
        if upto < id || upto > self.next_hold {
            return Err(Refusal::invalid(format!(
                "--all-like h-{upto}: it must be the newest hold like h-{id} that you have seen: see 'guardctl pending'"
            )));
        }
        let (group, name) = (hold.group, hold.group_name());
        let covered: Vec<u32> = self
            .holds
            .values()
            .filter(|other| {
                other.id == id || (other.group == group && group != 0 && other.id <= upto)
            })
            .map(|other| other.id)
            .collect();
        let by = By {
            all_like: Some(id),
            ..by
        };
        let (mut answered, mut failed) = (Vec::new(), Vec::new());
        for one in covered {
            let outcome = match outcome {
                Outcome::Approve(Some(_)) if !answered.is_empty() => &Outcome::Approve(None),
                outcome => outcome,
            };
            match self.settle(one, outcome, by) {
                Ok(_) => answered.push(format!("h-{one}")),
                Err(refusal) => failed.push(refusal.to_string()),
            }
        }
        let word = match outcome {
            Outcome::Approve(_) => "approved",
            _ => "denied",
        };
        let said = format!("{name}: {} {word}: {}", answered.len(), answered.join(", "));
        match failed.as_slice() {
            [] => Ok(said),
            [first, ..] => Err(Refusal::failed(format!(
                "{said}; {} not: {first}",
                failed.len()
            ))),
        }
    }

    /// Reads what was counted before.
    pub(super) fn load_tally(&mut self) {
        let (tally, problem) = Tally::load(&self.options.state_dir);
        self.tally = tally;
        if let Some(problem) = problem {
            self.problems.insert("tally", problem);
        }
    }

    /// Counts a hold or its end.
    pub(super) fn count_hold(&mut self, rule: &str, what: Count) {
        self.tally.count(clock::realtime_s(), rule, what);
        match self.tally.save(&self.options.state_dir) {
            Ok(()) => {
                self.problems.remove("tally");
            }
            Err(error) => {
                self.problems
                    .insert("tally", format!("holds a day are not kept: {error}"));
            }
        }
    }
}
