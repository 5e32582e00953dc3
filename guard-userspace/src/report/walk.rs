//! What stands in a report, in which order, whatever form it is written in: a form only says how each piece is marked.

use super::{Entry, Line, Report, Verdict};

/// A piece of a line.
pub(super) enum Piece {
    /// guard's own words.
    Words(String),
    /// The words that matter most.
    Strong(String),
    /// A name that guard has given, or the machine.
    Name(String),
    /// What a process or a person has written.
    Data(String),
    /// When that was.
    When(String),
}

/// The items at the top, each with its name. `who` says of a user who that is.
pub(super) fn head(
    report: &Report,
    who: &dyn Fn(u32) -> String,
) -> Vec<(&'static str, Vec<Piece>)> {
    let name = |text: &str| vec![Piece::Name(text.to_owned())];
    let mut items = vec![("Outcome", vec![Piece::Strong(report.outcome.clone())])];
    if let Some(uid) = report.uid {
        items.push(("User", name(&format!("{} ({uid})", who(uid)))));
    }
    let mut began = name(&report.began);
    if !report.from_the_beginning {
        began.push(Piece::Words(
            " (the beginning is not in the journal)".into(),
        ));
    }
    items.push(("Began", began));
    let ended = report.ended.as_deref();
    items.push((
        "Ended",
        ended.map_or_else(|| vec![Piece::Words("not recorded".into())], name),
    ));
    if let Some(origin) = &report.origin {
        items.push(("Found by", name(origin)));
    }
    if let Some(parent) = &report.parent {
        items.push(("Inside session", name(parent)));
    }
    if !report.inner.is_empty() {
        let mut inner = Vec::new();
        for id in &report.inner {
            if !inner.is_empty() {
                inner.push(Piece::Words(", ".into()));
            }
            inner.extend(name(id));
        }
        items.push(("With sessions", inner));
    }
    for intent in &report.intents {
        let said = match &intent.text {
            Some(text) => Piece::Data(text.clone()),
            None => Piece::Words("cleared".into()),
        };
        items.push(("Intent", vec![said, Piece::When(intent.time.clone())]));
    }
    let c = &report.counts;
    let seen = format!(
        "{} events: {} programs, {} opens, {} connects, {} requests, {} guarded calls",
        c.events, c.exec, c.open, c.connect, c.request, c.call
    );
    items.push(("Seen", vec![Piece::Words(seen)]));
    items
}

/// A section that is a list.
pub(super) struct List<'a> {
    /// Its heading.
    pub(super) title: &'static str,
    /// What is said where it is empty.
    pub(super) none: &'static str,
    /// Its lines.
    pub(super) lines: &'a [Line],
}

/// What was stopped, and what was not.
pub(super) fn outcomes(report: &Report) -> [List<'_>; 2] {
    [
        List {
            title: "What was stopped",
            none: "Nothing.",
            lines: &report.stopped,
        },
        List {
            title: "What was not stopped",
            none: "Nothing that a rule or a person had to do with.",
            lines: &report.not_stopped,
        },
    ]
}

/// What is not known.
pub(super) fn losses(report: &Report) -> List<'_> {
    List {
        title: "What is not known",
        none: "Nothing was lost.",
        lines: &report.losses,
    }
}

impl Line {
    /// What it was done to, where there is something to name.
    pub(super) fn named_target(&self) -> Option<&str> {
        self.target.as_deref().filter(|target| !target.is_empty())
    }
}

impl Verdict {
    /// `kill`, or in observe mode `would kill`.
    pub(super) fn in_words(&self) -> String {
        let would = if self.enforced { "" } else { "would " };
        format!("{would}{}", self.verdict)
    }

    /// The rule that gave it.
    pub(super) fn by(&self) -> &str {
        self.call.rule.as_deref().unwrap_or("no rule")
    }

    /// What somebody has said to it.
    pub(super) fn reason(&self) -> Option<&str> {
        self.hold.as_ref()?.reason.as_deref()
    }
}

impl Entry {
    /// `kill`, or in observe mode `would kill`; nothing where it was only seen.
    pub(super) fn done(&self) -> Option<String> {
        match (&self.would, &self.verdict) {
            (Some(would), _) => Some(format!("would {would}")),
            (None, Some(verdict)) if verdict != "allow" => Some(verdict.clone()),
            _ => None,
        }
    }
}
