//! What the engine does with the journal besides telling: signing it, looking after it once a second, and passing on
//! the events that it writes itself.

use std::{collections::BTreeSet, sync::Arc};

use super::{Engine, EngineError};
use crate::{
    clock,
    event::{Event, Kind},
    journal::{JournalError, Limits},
    wire::JournalInfo,
};

impl Engine {
    /// Limits of the policy in force.
    pub(super) fn journal_limits(&self) -> Limits {
        let settings = &self.policy.settings.journal;
        Limits {
            keep: settings.keep,
            bytes: settings.size,
        }
    }

    /// Compares the journal with what was signed, and signs from here on.
    pub(super) fn begin_signing(&mut self) -> Result<(), EngineError> {
        let signed = self.journal.sign(self.journal_limits());
        for event in self.journal.take_own() {
            let said = event.object.as_ref().and_then(|object| object.get("why"));
            if event.is_journal_altered() {
                let why = said.and_then(|why| why.as_str()).unwrap_or_default();
                tracing::error!("the journal is not as it was left: {why}");
                self.problems.insert(
                    "journal-altered",
                    format!("the journal is not as it was left: {why}: run 'guardctl verify'"),
                );
            }
            let _ = self.events.send(Arc::new(event));
        }
        signed.map_err(|error| match error {
            // Nothing can be recorded, so nothing is begun.
            JournalError::Full { .. } | JournalError::Write { .. } => EngineError::NoRoom {
                dir: self.options.state_dir.clone(),
                why: error.cause(),
            },
            other => other.into(),
        })
    }

    /// Tells whoever listens what the journal has written by itself.
    pub(super) fn tell_own(&mut self) {
        for event in self.journal.take_own() {
            let _ = self.events.send(Arc::new(event));
        }
    }

    /// Signs what stands, at a turn of guardd's life.
    pub(super) fn seal_journal(&mut self, why: &str) {
        if let Err(error) = self.journal.seal(why) {
            self.problems.insert("journal", error.to_string());
        }
        self.tell_own();
        self.flushed = (self.journal.last_seq(), clock::monotonic_ns());
    }

    /// The last that this guardd does with it.
    pub(super) fn close_journal(&mut self) {
        if let Err(error) = self.journal.close() {
            tracing::error!("{error}");
        }
        self.tell_own();
        tracing::info!(
            seq = self.journal.last_seq(),
            head = self.journal.head(),
            "journal closed"
        );
    }

    /// To the disk itself, against a power cut; what is written survives guardd without it. Not when
    /// there is nothing new: an idle machine's disk stays asleep.
    pub(super) fn flush_journal(&mut self) {
        let now = clock::monotonic_ns();
        if now - self.flushed.1 < 1_000_000_000 {
            return;
        }
        let owed = self.journal.owes();
        match self.journal.tend() {
            Ok(()) if owed && !self.journal.owes() => {
                self.problems.remove("journal");
            }
            Ok(()) => {}
            Err(error) => {
                self.problems
                    .entry("journal")
                    .or_insert_with(|| error.to_string());
            }
        }
        self.tell_own();
        let seq = self.journal.last_seq();
        if seq == self.flushed.0 {
            return;
        }
        self.flushed = (seq, now);
        if let Err(error) = self.journal.sync() {
            // How many events are lost says more than that the head is not written.
            let full = matches!(error, JournalError::Full { .. });
            let text = error.to_string();
            if full {
                self.problems.entry("journal").or_insert(text);
            } else {
                self.problems.insert("journal", text);
            }
        }
    }

    /// Names the events that a rule's verdict rests on: of each step before the last the newest touch, in the innermost
    /// session around that has them all. So the journal by itself tells why.
    pub(super) fn add_evidence(&self, event: &mut Event) {
        let judged = !matches!(event.kind, Kind::Answer) && event.evidence.is_empty();
        let rule = event.rule.as_ref().filter(|_| judged);
        let Some(rule) = rule.and_then(|name| self.policy.rules.iter().find(|r| r.name == *name))
        else {
            return;
        };
        let steps = &rule.when[..rule.when.len().saturating_sub(1)];
        let mut next = event
            .session
            .as_deref()
            .and_then(|name| super::session::number("s", name));
        while let Some(session) = next.and_then(|id| self.sessions.get(&id)) {
            let touched = |label: &String| {
                let before = |fact: &&Event| {
                    fact.seq > 0 && fact.labels.contains(label) && fact.mono_ns <= event.mono_ns
                };
                session
                    .evidence
                    .iter()
                    .rev()
                    .find(before)
                    .map(|fact| fact.seq)
            };
            let found: Option<BTreeSet<u64>> = steps.iter().map(touched).collect();
            if let Some(found) = found {
                event.evidence = found.into_iter().collect();
                return;
            }
            next = session.parent;
        }
    }

    /// How far it goes and is signed.
    pub(super) fn journal_info(&self) -> Option<JournalInfo> {
        let signed = self.journal.signed()?;
        Some(JournalInfo {
            key: signed.key.to_string(),
            seq: self.journal.last_seq(),
            head: self.journal.head(),
            signed: signed.upto,
            checkpoint: signed.checkpoint,
            begins: signed.begins,
            unwritten: self.journal.unwritten(),
        })
    }
}
