//! The report as Markdown (CommonMark). Whatever a process chose stands in code spans, in which Markdown and HTML mean
//! nothing, links are not made and nobody is mentioned; lists and no tables, since a bar would end a cell even there.

use std::{fmt::Write as _, time::Duration};

use super::{Entry, Line, Report, Verdict};
use crate::{cli::escape, clock};

/// The report, with what `who` says of its user.
pub fn markdown(report: &Report, who: &dyn Fn(u32) -> String) -> String {
    let mut out = format!(
        "# Session {}: {}\n\n",
        word(&report.session),
        code(&report.agent)
    );
    // Writing to a String does not fail.
    let mut item = |name: &str, value: String| {
        let _ = writeln!(out, "- **{name}:** {value}");
    };
    item("Outcome", report.outcome.clone());
    if let Some(uid) = report.uid {
        item("User", code(&format!("{} ({uid})", who(uid))));
    }
    item("Began", began(report));
    item(
        "Ended",
        report
            .ended
            .as_deref()
            .map_or_else(|| "not recorded".into(), code),
    );
    if let Some(origin) = &report.origin {
        item("Found by", code(origin));
    }
    if let Some(parent) = &report.parent {
        item("Inside session", code(parent));
    }
    if !report.inner.is_empty() {
        item(
            "With sessions",
            report
                .inner
                .iter()
                .map(|id| code(id))
                .collect::<Vec<_>>()
                .join(", "),
        );
    }
    for intent in &report.intents {
        let text = intent
            .text
            .as_deref()
            .map_or_else(|| "cleared".into(), code);
        item("Intent", format!("{text} ({})", code(&intent.time)));
    }
    let c = &report.counts;
    item(
        "Seen",
        format!(
            "{} events: {} programs, {} opens, {} connects, {} requests, {} guarded calls",
            c.events, c.exec, c.open, c.connect, c.request, c.call
        ),
    );
    section(&mut out, "Verdicts");
    if report.verdicts.is_empty() {
        out.push_str("No rule fired.\n");
    }
    for (n, verdict) in report.verdicts.iter().enumerate() {
        push_verdict(&mut out, n + 1, verdict);
    }
    push_lines(&mut out, "What was stopped", "Nothing.", &report.stopped);
    push_lines(
        &mut out,
        "What was not stopped",
        "Nothing that a rule or a person had to do with.",
        &report.not_stopped,
    );
    section(&mut out, "Processes");
    for process in &report.processes {
        let indent = "  ".repeat(process.depth.min(32));
        let commands: Vec<String> = process
            .commands
            .iter()
            .map(|command| code(command))
            .collect();
        let _ = write!(out, "{indent}- pid {} ", process.pid);
        out.push_str(&commands.join(" → "));
        if !process.labels.is_empty() {
            let _ = write!(out, " {}", code(&process.labels.join(" ")));
        }
        if !process.verdicts.is_empty() {
            let _ = write!(out, " **{}**", word(&process.verdicts.join(", ")));
        }
        out.push('\n');
    }
    section(&mut out, "Timeline");
    for entry in &report.timeline {
        let _ = writeln!(out, "- {}", entry_line(entry));
    }
    if report.omitted > 0 {
        let _ = writeln!(
            out,
            "- and {} more that no label or rule is about",
            report.omitted
        );
    }
    push_lines(
        &mut out,
        "What is not known",
        "Nothing was lost.",
        &report.losses,
    );
    out
}

fn began(report: &Report) -> String {
    let note = if report.from_the_beginning {
        ""
    } else {
        " (the beginning is not in the journal)"
    };
    format!("{}{note}", code(&report.began))
}

fn section(out: &mut String, title: &str) {
    let _ = write!(out, "\n## {title}\n\n");
}

fn push_verdict(out: &mut String, n: usize, verdict: &Verdict) {
    let rule = verdict.call.rule.as_deref().unwrap_or("no rule");
    let would = if verdict.enforced { "" } else { "would " };
    let _ = write!(
        out,
        "### {n}. {would}{} by {}: {}\n\n",
        word(&verdict.verdict),
        code(rule),
        word(&verdict.outcome)
    );
    for fact in &verdict.evidence {
        let age = clock::human(Duration::from_millis(fact.age_ms));
        let _ = writeln!(out, "1. {age} before: {}", entry_line(&fact.event));
    }
    let _ = writeln!(out, "1. then: {}", entry_line(&verdict.call));
    if let Some(reason) = verdict.hold.as_ref().and_then(|hold| hold.reason.as_ref()) {
        let _ = write!(out, "\nReason given: {}\n", code(reason));
    }
    out.push('\n');
}

fn push_lines(out: &mut String, title: &str, none: &str, lines: &[Line]) {
    section(out, title);
    if lines.is_empty() {
        let _ = writeln!(out, "{none}");
    }
    for line in lines {
        let _ = write!(out, "- {} {}", code(&line.time), word(&line.what));
        if let Some(target) = line.target.as_ref().filter(|target| !target.is_empty()) {
            let _ = write!(out, ": {}", code(target));
        }
        out.push('\n');
    }
}

fn entry_line(entry: &Entry) -> String {
    let mut line = format!("{} **{}**", code(&entry.time), entry.kind);
    if let Some(pid) = entry.pid {
        let _ = write!(line, " pid {pid}");
    }
    if let Some(who) = &entry.who {
        let _ = write!(line, " {}", code(who));
    }
    if !entry.what.is_empty() {
        let _ = write!(line, " → {}", code(&entry.what));
    }
    if !entry.labels.is_empty() {
        let _ = write!(line, " {}", code(&format!("[{}]", entry.labels.join(" "))));
    }
    match (&entry.would, &entry.verdict) {
        (Some(would), _) => {
            let _ = write!(line, " **would {}**", word(would));
        }
        (None, Some(verdict)) if verdict != "allow" => {
            let _ = write!(line, " **{}**", word(verdict));
        }
        _ => {}
    }
    line
}

/// A code span of one line, whatever the text is: a fence longer than any run of backticks in it.
fn code(text: &str) -> String {
    let text = escape::text(text);
    if text.trim().is_empty() {
        return "(empty)".into();
    }
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') {
        " "
    } else {
        ""
    };
    format!("{fence}{pad}{text}{pad}{fence}")
}

/// Words of guard's own, among which names of rules and labels may stand: every character that Markdown could take for
/// its own is escaped.
fn word(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in escape::text(text).chars() {
        if "\\`*_[]<>&~|#!@".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
