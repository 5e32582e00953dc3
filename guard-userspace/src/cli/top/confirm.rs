//! The question before something is done: what exactly, to what exactly. The answer to it is bound to what stands in
//! it, and to nothing that has come since.

use super::cells::{safe, wrap};
use crate::{
    cli::{escape, groups},
    wire::{HoldInfo, Request},
};

/// Columns of its text: it fits the smallest screen, so what is shown does not depend on the screen.
pub const COLUMNS: usize = 54;
/// Lines for what the first hold is about, its command, and the others.
const TARGET: usize = 3;
/// See [`TARGET`].
const COMMAND: usize = 2;
/// See [`TARGET`].
const OTHERS: usize = 4;

/// See the module's text.
#[derive(Clone, Debug, PartialEq)]
pub struct Confirm {
    /// What it is, in its frame.
    pub title: String,
    /// What it is done to.
    pub lines: Vec<String>,
    /// What guardd is asked for.
    pub request: Request,
    /// The hold that must still wait.
    pub hold: Option<String>,
}

impl Confirm {
    /// Answer one hold.
    pub fn one(hold: &HoldInfo, approve: bool) -> Self {
        let id = hold.id.clone();
        let (word, request) = if approve {
            let id = id.clone();
            ("Approve", Request::Approve { id, for_ms: None })
        } else {
            let id = id.clone();
            ("Deny", Request::Deny { id, reason: None })
        };
        Self {
            title: format!("{word} {}?", safe(&hold.id)),
            lines: about(hold),
            request,
            hold: Some(id),
        }
    }

    /// Answer a group: those of it that can be shown whole, and no others.
    pub fn all(group: &[&HoldInfo], approve: bool) -> Option<Self> {
        let (first, others) = group.split_first()?;
        if others.is_empty() {
            return Some(Self::one(first, approve));
        }
        let mut lines = about(first);
        let mut last = *first;
        let (mut room, mut covered) = (OTHERS, 1);
        for other in others {
            let text = format!(
                "{}  {}",
                escape::text(&other.id),
                groups::differing(first, other)
            );
            let mut shown = wrap(&safe(&text), COLUMNS, 4);
            if shown.len() > room {
                break;
            }
            room -= shown.len();
            covered += 1;
            last = other;
            lines.append(&mut shown);
        }
        let left = group.len() - covered;
        if left > 0 {
            lines.push(format!(
                "not the {left} after these, which find no room here"
            ));
        }
        Some(Self {
            title: format!(
                "{} these {covered}?",
                if approve { "Approve" } else { "Deny" }
            ),
            lines,
            request: Request::AnswerAll {
                id: first.id.clone(),
                upto: last.id.clone(),
                approve,
                for_ms: None,
                reason: None,
            },
            hold: Some(first.id.clone()),
        })
    }

    /// Do something to a session; `what` in the infinitive.
    pub fn session(title: &str, what: &str, request: Request) -> Self {
        Self {
            title: safe(title),
            lines: wrap(&safe(what), COLUMNS, 0),
            request,
            hold: None,
        }
    }

    /// The hold that it is about, when that does not wait any more.
    pub fn gone(&self, holds: &[HoldInfo]) -> Option<String> {
        let id = self.hold.clone()?;
        (!holds.iter().any(|hold| hold.id == id)).then_some(id)
    }
}

/// Who wants what, by which command.
fn about(hold: &HoldInfo) -> Vec<String> {
    let who = format!(
        "{} {} wants to",
        escape::text(&hold.session),
        escape::text(&hold.agent)
    );
    let command = match (&hold.argv, &hold.exe) {
        (Some(argv), _) if !argv.is_empty() => escape::command(argv),
        (_, exe) => escape::text(exe.as_deref().unwrap_or("a program that is not known")),
    };
    let mut lines = bounded(&who, 1);
    lines.extend(bounded(&hold.target, TARGET));
    lines.extend(bounded(
        &format!("by {command} (pid {})", hold.pid),
        COMMAND,
    ));
    lines
}

/// Wrapped, and cut visibly where it would be more lines than may be.
fn bounded(text: &str, most: usize) -> Vec<String> {
    let mut lines = wrap(&safe(text), COLUMNS, 2);
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            *last = super::cells::clip(last, COLUMNS - 13);
            last.push_str("… (cut: PgDn)");
        }
    }
    lines
}
