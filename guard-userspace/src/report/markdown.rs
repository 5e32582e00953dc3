//! The report as Markdown (CommonMark). Whatever a process chose stands in code spans, in which Markdown and HTML mean
//! nothing, links are not made and nobody is mentioned; lists and no tables, since a bar would end a cell even there.

use std::{fmt::Write as _, time::Duration};

use super::{
    Entry, Report, Verdict,
    walk::{self, List, Piece},
};
use crate::{cli::escape, clock};

/// The report, with what `who` says of its user.
pub fn markdown(report: &Report, who: &dyn Fn(u32) -> String) -> String {
    let mut out = format!(
        "# Session {}: {}\n\n",
        word(&report.session),
        code(&report.agent)
    );
    for (name, pieces) in walk::head(report, who) {
        // Writing to a String does not fail.
        let _ = writeln!(out, "- **{name}:** {}", marked(&pieces));
    }
    section(&mut out, "Verdicts");
    if report.verdicts.is_empty() {
        out.push_str("No rule fired.\n");
    }
    for (n, verdict) in report.verdicts.iter().enumerate() {
        push_verdict(&mut out, n + 1, verdict);
    }
    for list in walk::outcomes(report) {
        push_lines(&mut out, &list);
    }
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
    push_lines(&mut out, &walk::losses(report));
    out
}

fn marked(pieces: &[Piece]) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Words(of) | Piece::Strong(of) => word(of),
        Piece::Name(of) | Piece::Data(of) => code(of),
        Piece::When(of) => format!(" ({})", code(of)),
    };
    pieces.iter().map(piece).collect()
}

fn section(out: &mut String, title: &str) {
    let _ = write!(out, "\n## {title}\n\n");
}

fn push_verdict(out: &mut String, n: usize, verdict: &Verdict) {
    let _ = write!(
        out,
        "### {n}. {} by {}: {}\n\n",
        word(&verdict.in_words()),
        code(verdict.by()),
        word(&verdict.outcome)
    );
    for fact in &verdict.evidence {
        let age = clock::human(Duration::from_millis(fact.age_ms));
        let _ = writeln!(out, "1. {age} before: {}", entry_line(&fact.event));
    }
    let _ = writeln!(out, "1. then: {}", entry_line(&verdict.call));
    if let Some(reason) = verdict.reason() {
        let _ = write!(out, "\nReason given: {}\n", code(reason));
    }
    out.push('\n');
}

fn push_lines(out: &mut String, list: &List<'_>) {
    let List { title, none, lines } = list;
    section(out, title);
    if lines.is_empty() {
        let _ = writeln!(out, "{none}");
    }
    for line in *lines {
        let _ = write!(out, "- {} {}", code(&line.time), word(&line.what));
        if let Some(target) = line.named_target() {
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
    if let Some(done) = entry.done() {
        let _ = write!(line, " **{}**", word(&done));
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
