//! The report for the job's log.

use std::fmt::Write as _;

use super::{Report, by};
use crate::cli::{ci::runner::log_line, escape};

/// Lines of one kind that are shown.
const MAX_LINES: usize = 50;

/// What a person reads in the log; no line of it is a command to the runner.
pub fn for_people(report: &Report) -> String {
    let mut lines = vec![format!(
        "guard: {} mode, {} (pid {}), policy: {}",
        report.mode, report.worker, report.worker_pid, report.policy
    )];
    let stopped = if report.blocks() {
        "stopped"
    } else {
        "would have been stopped"
    };
    lines.push(format!(
        "{} {stopped}, {} flagged; {} steps, {} programs, {} peers, {} changed sources",
        report.stops(),
        report.flags(),
        report.steps.len(),
        report.programs.len(),
        report.peers.len(),
        report.sources.len()
    ));
    let finding = |finding: &super::Finding| {
        let step = finding
            .step
            .map(|step| format!(" in {}", report.step(step)));
        let times = if finding.count > 1 {
            format!(" ({} times)", finding.count)
        } else {
            String::new()
        };
        format!(
            "  {} {}{times}: {}{}; rule {}",
            finding.done(),
            finding.target,
            finding.who(),
            step.unwrap_or_default(),
            finding.rule
        )
    };
    let mut section = |title: &str, all: Vec<String>| {
        if all.is_empty() {
            return;
        }
        lines.push(format!("{title}:"));
        let more = all.len().saturating_sub(MAX_LINES);
        lines.extend(all.into_iter().take(MAX_LINES));
        if more > 0 {
            lines.push(format!("  and {more} more"));
        }
    };
    section(stopped, report.stopped.iter().map(finding).collect());
    section("flagged", report.flagged.iter().map(finding).collect());
    let sources = report.sources.iter();
    section(
        "sources that git tracks and that were changed",
        sources
            .map(|change| format!("  {} {}{}", change.word(), change.file, by(&change.by)))
            .collect(),
    );
    let brokers = report.brokers.iter();
    section(
        "services reached, whose own processes are not watched",
        brokers
            .map(|(path, who)| format!("  {path}{}", by(who)))
            .collect(),
    );
    let sudo = report.sudo.iter();
    section(
        "run as somebody else",
        sudo.map(|(command, count)| format!("  {command} ({count})"))
            .collect(),
    );
    let indent = |all: &[String]| all.iter().map(|line| format!("  {line}")).collect();
    section("trouble", indent(&report.problems));
    let lost = report.lost.iter();
    section(
        "not told one by one",
        lost.map(|(class, count)| format!("  {count} {class}"))
            .collect(),
    );
    section("left behind", indent(&report.left));
    if let Some(why) = &report.sources_unwatched {
        section("sources were not watched", vec![format!("  {why}")]);
    }
    section(
        "allowed hosts that fit what was seen",
        indent(&report.suggestion.lines()),
    );
    section("allowed and not used", indent(&report.suggestion.unused));
    let mut text = String::new();
    for line in lines {
        let _ = writeln!(text, "{}", log_line(&escape::text(&line)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ci::report::tests::hostile;

    #[test]
    fn no_line_of_the_log_is_a_command_to_the_runner() {
        let text = for_people(&hostile());
        assert!(text.contains("2 stopped"));
        for line in text.lines() {
            assert!(!line.trim_start().starts_with("::"), "{line}");
            assert!(!line.contains("##["), "{line}");
            assert!(
                !line.contains('\u{1b}') && !line.contains('\u{202e}'),
                "{line}"
            );
        }
    }
}
