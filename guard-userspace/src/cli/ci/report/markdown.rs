//! The job's summary. Names in it are an attacker's to choose: what Markdown or HTML would act on is written as a
//! character reference, which means the character and nothing else.

use std::fmt::Write as _;

use super::{Finding, Report, by};
use crate::cli::escape;

/// Rows of a table.
const MAX_ROWS: usize = 100;
/// Bytes of a summary: GitHub takes 1 MiB for a step, and this may not be the step's only one.
const MAX_BYTES: usize = 512 << 10;

/// Text that is shown as it is, in one line.
fn plain(text: &str) -> String {
    let text = escape::text(text);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '<' | '>' | '`' | '*' | '_' | '[' | ']' | '(' | ')' | '|' | '\\' | '~' | '@'
            | '#' | '!' | ':' | '$' | '{' | '}' | '"' | '\'' => {
                // Writing to a String does not fail.
                let _ = write!(out, "&#{};", c as u32);
            }
            c => out.push(c),
        }
    }
    // An address on the web is made a link of without any sign.
    out.replace("www.", "www&#46;").replace("WWW.", "WWW&#46;")
}

/// The report in Markdown.
pub fn summary(report: &Report) -> String {
    let mut out = String::from("## guard\n\n");
    let stopped = if report.blocks() {
        "stopped"
    } else {
        "would have been stopped in block mode"
    };
    let _ = writeln!(
        out,
        "**{} {stopped}, {} flagged, {} sources changed.** Mode {}, worker {} (pid {}, {}), policy {}, {} events.\n",
        report.stops(),
        report.flags(),
        report.sources.len(),
        plain(&report.mode),
        plain(&report.worker),
        report.worker_pid,
        plain(&report.worker_how),
        plain(&report.policy),
        report.events
    );
    for problem in &report.problems {
        let _ = writeln!(out, "> Trouble: {}\n", plain(problem));
    }
    let findings = |all: &[Finding]| -> Vec<Vec<String>> {
        all.iter()
            .map(|f| {
                vec![
                    plain(&f.done()),
                    plain(&f.target),
                    plain(f.who()),
                    f.step
                        .map(|step| plain(&report.step(step)))
                        .unwrap_or_default(),
                    plain(&f.rule),
                    f.count.to_string(),
                ]
            })
            .collect()
    };
    let of_finding = ["what was done", "about", "by", "in", "rule", "times"];
    table(
        &mut out,
        if report.blocks() {
            "What was stopped, and why"
        } else {
            "What would have been stopped, and why"
        },
        &of_finding,
        findings(&report.stopped),
    );
    table(
        &mut out,
        "What was flagged",
        &of_finding,
        findings(&report.flagged),
    );
    let peers = report.peers.iter().map(|peer| {
        let addrs: Vec<String> = peer.addrs.iter().cloned().collect();
        let programs: Vec<String> = peer.programs.iter().cloned().collect();
        let steps: Vec<String> = peer.steps.iter().map(|step| report.step(*step)).collect();
        vec![
            plain(&peer.place()),
            plain(&addrs.join(", ")),
            plain(&peer.transport),
            peer.passed.to_string(),
            peer.stopped.to_string(),
            plain(&programs.join(", ")),
            plain(&steps.join(", ")),
        ]
    });
    table(
        &mut out,
        "What it talked to",
        &["host", "addresses", "over", "passed", "stopped", "by", "in"],
        peers.collect(),
    );
    let steps = report.steps.iter().map(|step| {
        vec![
            step.number.to_string(),
            plain(step.name.as_deref().unwrap_or_default()),
            plain(&step.command),
        ]
    });
    table(
        &mut out,
        "Steps",
        &["step", "name", "command"],
        steps.collect(),
    );
    let programs = report.programs.iter().map(|program| {
        let steps: Vec<String> = program.steps.iter().map(usize::to_string).collect();
        vec![
            plain(&program.exe),
            program.count.to_string(),
            if program.as_root { "root" } else { "" }.to_owned(),
            steps.join(", "),
        ]
    });
    table(
        &mut out,
        "What ran",
        &["program", "times", "as", "in steps"],
        programs.collect(),
    );
    let sources = report.sources.iter().map(|change| {
        vec![
            plain(&change.file),
            change.word().to_owned(),
            plain(by(&change.by).trim_start_matches(" by ")),
        ]
    });
    table(
        &mut out,
        "Sources that were changed",
        &["file", "what became of it", "by"],
        sources.collect(),
    );
    let others = report
        .brokers
        .iter()
        .map(|(path, who)| vec![plain(path), plain(&who.join(", "))]);
    table(
        &mut out,
        "Services that were reached: what they do for the job is not watched",
        &["socket", "by"],
        others.collect(),
    );
    let sudo = report
        .sudo
        .iter()
        .map(|(command, count)| vec![plain(command), count.to_string()]);
    table(
        &mut out,
        "Run as somebody else",
        &["command", "times"],
        sudo.collect(),
    );
    suggested(&mut out, report);
    let mut notes: Vec<String> = report.not_enforced.clone();
    if let Some(why) = &report.sources_unwatched {
        notes.push(format!("sources were not watched: {why}"));
    }
    notes.extend(
        report
            .lost
            .iter()
            .map(|(class, n)| format!("{n} not told one by one: {class}")),
    );
    notes.extend(
        report
            .more
            .iter()
            .map(|(what, n)| format!("{n} {what} found no room here")),
    );
    if !notes.is_empty() {
        let _ = writeln!(
            out,
            "<details><summary>What guard could not see or do here</summary>\n"
        );
        for note in notes {
            let _ = writeln!(out, "- {}", plain(&note));
        }
        out.push_str("\n</details>\n\n");
    }
    if out.len() > MAX_BYTES {
        let mut end = MAX_BYTES;
        while !out.is_char_boundary(end) {
            end -= 1;
        }
        out.truncate(end);
        // Not inside of a row.
        let line = out.rfind('\n').unwrap_or(0);
        out.truncate(line);
        out.push_str("\n\nThe rest is cut: see `guardctl ci report --json`.\n");
    }
    out
}

fn suggested(out: &mut String, report: &Report) {
    if report.suggestion.allow.is_empty() {
        return;
    }
    out.push_str("### Allowed hosts that fit what was seen\n\n<pre>\nallow: &#124;\n");
    for line in report.suggestion.lines() {
        let _ = writeln!(out, "  {}", plain(&line));
    }
    out.push_str("</pre>\n\n");
    if !report.suggestion.unused.is_empty() {
        let unused: Vec<String> = report.suggestion.unused.iter().map(|e| plain(e)).collect();
        let _ = writeln!(out, "Allowed and not used: {}\n", unused.join(", "));
    }
}

fn table(out: &mut String, title: &str, head: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "### {title}\n\n| {} |", head.join(" | "));
    let _ = writeln!(out, "|{}", " --- |".repeat(head.len()));
    let more = rows.len().saturating_sub(MAX_ROWS);
    for row in rows.into_iter().take(MAX_ROWS) {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    if more > 0 {
        let _ = writeln!(out, "\nAnd {more} more.");
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::ci::report::tests::hostile;

    #[test]
    fn a_name_is_text_and_neither_html_nor_markdown_nor_a_row() {
        let text = summary(&hostile());
        for said in [
            "<script", "</td>", "[z](", "http://", "www.v", "@all", "`x`", "<!--",
        ] {
            assert!(!text.contains(said), "{said}: {text}");
        }
        for line in text.lines().filter(|line| line.starts_with("| ")) {
            let title = text[..text.find(line).unwrap()].lines().rev();
            let rule = title.filter(|line| line.starts_with("| ")).count();
            assert!(line.ends_with(" |"), "{rule}: {line}");
        }
        assert!(!text.lines().any(|line| line.trim_start().starts_with("::")));
        assert!(!text.contains('\u{202e}') && !text.contains('\u{1b}'));
        assert!(text.contains("What was stopped, and why"));
    }

    #[test]
    fn a_long_summary_is_cut_and_says_so() {
        let mut report = hostile();
        report.not_enforced = vec!["x".repeat(1000); 1000];
        let text = summary(&report);
        assert!(text.len() < MAX_BYTES + 200);
        assert!(text.ends_with("see `guardctl ci report --json`.\n"));
    }

    proptest! {
        #[test]
        fn nothing_of_a_text_is_markup(text in any::<String>()) {
            let plain = plain(&text);
            let markup = |c| matches!(c, '<' | '>' | '`' | '*' | '_' | '[' | ']' | '|' | '\\' | '\n' | '\r' | '@' | ':' | '!');
            prop_assert!(!plain.contains(markup), "{}", plain);
        }
    }
}
