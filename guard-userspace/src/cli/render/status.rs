//! `guardctl status`

use super::{count, span, wrap};
use crate::{
    cli::{escape, screen::Screen},
    wire::{HeraldInfo, HoldCounts, HookInfo, PartInfo, Status},
};

/// Column where the values of the first block begin.
const INDENT: usize = 10;

/// The daemon at a glance, in 80 columns.
pub fn status(screen: &Screen, status: &Status) -> String {
    let mut out = headline(screen, status);
    let mut row = |name: &str, value: String| {
        out.push_str(&format!(
            "{name:INDENT$}{}\n",
            wrap(&value, screen.text_width(), INDENT)
        ));
    };
    let up = span(status.uptime_s);
    row(
        "guard",
        format!(
            "{}, pid {}, up {up}, kernel {}",
            escape::text(&status.version),
            status.pid,
            escape::text(&status.kernel)
        ),
    );
    row("mode", escape::text(&status.mode));
    row("policy", escape::text(&status.policy));
    for file in status.policy_files.iter().skip(1) {
        row("", format!("with {}", escape::text(file)));
    }
    for user in &status.user_policies {
        let (name, path) = (escape::text(&user.user), escape::text(&user.path));
        let line = match &user.left_out {
            None => format!(
                "{name}'s own {path}: {}",
                count(user.rules, "rule more", "rules more")
            ),
            Some(why) => screen.yellow(&format!(
                "{name}'s own file is left out: {}",
                escape::text(why)
            )),
        };
        row("", line);
    }
    row(
        "sessions",
        format!(
            "{} with {}",
            status.sessions,
            count(status.processes, "process", "processes")
        ),
    );
    row(
        "holds",
        match status.holds {
            0 => "none".into(),
            n => screen.yellow(&format!("{n}, see 'guardctl pending' or 'guardctl top'")),
        },
    );
    let counts = &status.hold_counts;
    if *counts != HoldCounts::default() {
        row("asked", asked(counts));
    }
    for advice in &counts.advice {
        row("", screen.yellow(&escape::text(advice)));
    }
    row(
        "lineage",
        format!("{} of {} entries", status.lineage_used, status.lineage_size),
    );
    row(
        "events",
        format!("{} in {}", status.events, escape::text(&status.state_dir)),
    );
    if let Some(journal) = &status.journal {
        let mut text = format!(
            "from event {}, signed up to {}, key {}",
            journal.begins,
            journal.signed,
            escape::text(journal.key.get(..16).unwrap_or(&journal.key)),
        );
        if journal.unwritten > 0 {
            text = screen.red(&format!("{text}, {} events NOT ON DISK", journal.unwritten));
        }
        row("journal", text);
    }
    let emitted: u64 = status.counters.iter().map(|counter| counter.emitted).sum();
    let lost: Vec<String> = status
        .counters
        .iter()
        .filter(|counter| counter.lost > 0)
        .map(|counter| format!("{} {}", counter.lost, escape::text(&counter.class)))
        .collect();
    row(
        "records",
        if lost.is_empty() {
            format!("{emitted} from the kernel, none lost")
        } else {
            format!("{emitted} from the kernel")
        },
    );
    if !lost.is_empty() {
        row("LOST", screen.red(&lost.join(", ")));
    }

    if let Some(herald) = &status.herald {
        out.push_str(&channels(screen, herald));
    }
    out.push_str(&hooks(screen, &status.hooks));
    if !status.not_enforced.is_empty() {
        out.push_str(&format!("\n{}\n", screen.bold("Not enforced here")));
        for line in &status.not_enforced {
            out.push_str(&format!(
                "  - {}\n",
                wrap(&escape::text(line), screen.text_width(), 4)
            ));
        }
    }
    out
}

/// How often a person is asked, and what they said.
fn asked(counts: &HoldCounts) -> String {
    let mut text = format!(
        "{} in 24 h, {} a day over 7 days",
        count(counts.last_24h, "hold", "holds"),
        counts.mean_7d
    );
    let all = counts.approved + counts.denied + counts.timed_out;
    if all > 0 {
        // To the nearest whole, so that they need not make a hundred.
        let of = |n: u64| (n * 200 + all) / (all * 2);
        text.push_str(&format!(
            ": {}% approved, {}% denied, {}% timed out",
            of(counts.approved),
            of(counts.denied),
            of(counts.timed_out)
        ));
    }
    text
}

/// `guard is ok (enforce)` or `guard is degraded: …`, and what else is degraded below it.
fn headline(screen: &Screen, status: &Status) -> String {
    let degraded = status.state != "ok" || !status.degraded.is_empty();
    if !degraded {
        return format!(
            "{}\n",
            screen.green(&format!("guard is ok ({})", escape::text(&status.mode)))
        );
    }
    let mut reasons = status.degraded.iter().map(|reason| escape::text(reason));
    // One line whatever its length: scripts and eyes look at the first.
    let first = reasons
        .next()
        .unwrap_or_else(|| "it does not say why".into());
    let mut out = format!("{}\n", screen.red(&format!("guard is degraded: {first}")));
    for reason in reasons {
        out.push_str(&format!(
            "{}\n",
            screen.red(&format!(
                "         and also: {}",
                wrap(&reason, screen.text_width(), 19)
            ))
        ));
    }
    out
}

/// Who is told of holds, and whether that works.
fn channels(screen: &Screen, herald: &HeraldInfo) -> String {
    let mut out = format!("\n{}\n", screen.dim("TOLD BY"));
    if herald.parts.is_empty() {
        let word = if herald.problem.is_some() {
            "nobody"
        } else {
            "starting"
        };
        out.push_str(&format!("{}\n", screen.yellow(word)));
    }
    let name = |part: &PartInfo| escape::text(&part.name);
    let width = herald.parts.iter().map(|part| name(part).chars().count());
    let width = width.max().unwrap_or(0);
    for part in &herald.parts {
        let mut line = escape::text(&part.state);
        for (count, what) in [
            (part.sent, "sent"),
            (part.dropped, "given up"),
            (part.refused, "answers refused"),
            (part.lost, "lost with a herald that died"),
        ] {
            if count > 0 {
                line.push_str(&format!(", {count} {what}"));
            }
        }
        let failing = part.state == "failing";
        if let Some(error) = part.error.as_ref().filter(|_| failing) {
            let since = super::event::time_of_day(&part.since);
            line.push_str(&format!(" since {since}: {}", escape::text(error)));
        }
        let line = wrap(&line, screen.text_width(), width + 2);
        let line = format!("{:width$}  {line}", name(part));
        out.push_str(&if failing { screen.red(&line) } else { line });
        out.push('\n');
    }
    out
}

fn hooks(screen: &Screen, hooks: &[HookInfo]) -> String {
    let column = |heading: &str, cell: &dyn Fn(&HookInfo) -> String| {
        hooks
            .iter()
            .map(|hook| cell(hook).chars().count())
            .max()
            .unwrap_or(0)
            .max(heading.len())
    };
    let can = |hook: &HookInfo| {
        if hook.can.is_empty() {
            "-".into()
        } else {
            escape::text(&hook.can.join(" "))
        }
    };
    let watched_width = column("WATCHED", &|hook| escape::text(&hook.watched));
    let tier_width = column("SERVED BY", &|hook| escape::text(&hook.tier));
    let can_width = column("CAN", &can);
    let heading = format!(
        "{:watched_width$}  {:tier_width$}  {:can_width$}  NOW",
        "WATCHED", "SERVED BY", "CAN"
    );
    let mut out = format!("\n{}\n", screen.dim(&heading));
    for hook in hooks {
        let served = hook.tier != "none";
        let now = match (served, hook.attached) {
            (false, _) => "not watched",
            (true, true) => "attached",
            (true, false) => "when a session lives",
        };
        let (watched, tier, can) = (
            escape::text(&hook.watched),
            escape::text(&hook.tier),
            can(hook),
        );
        let line = format!("{watched:watched_width$}  {tier:tier_width$}  {can:can_width$}  {now}");
        out.push_str(&if served { line } else { screen.yellow(&line) });
        out.push('\n');
        if let Some(note) = &hook.note {
            let note = wrap(&escape::text(note), screen.text_width(), watched_width + 2);
            out.push_str(&format!(
                "{:1$}{2}\n",
                "",
                watched_width + 2,
                screen.dim(&note)
            ));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{CounterInfo, JournalInfo};

    fn a_status() -> Status {
        let hook = |watched: &str, tier: &str, can: &[&str], attached: bool, note: Option<&str>| {
            HookInfo {
                watched: watched.into(),
                tier: tier.into(),
                can: can.iter().map(|&word| word.into()).collect(),
                attached,
                note: note.map(Into::into),
            }
        };
        Status {
            state: "ok".into(),
            degraded: vec![],
            version: "0.1.0".into(),
            pid: 412,
            uptime_s: 7500,
            mode: "enforce".into(),
            kernel: "6.18.0-cloud-amd64".into(),
            policy: "/etc/guard/policy.toml".into(),
            policy_files: Vec::new(),
            user_policies: Vec::new(),
            hooks: vec![
                hook("lineage", "tp_btf", &[], true, None),
                hook("open", "tracepoint", &["flag", "hold", "kill"], false, Some("lsm: this kernel answers EPERM when a program of this kind is loaded, so an open cannot be denied")),
                hook("unix-connect", "none", &[], false, None),
            ],
            not_enforced: vec!["deny on open: the tracepoint tier cannot refuse a call: rule 'x' falls back to kill".into()],
            sessions: 2,
            processes: 17,
            holds: 0,
            hold_counts: HoldCounts::default(),
            may_not_answer: None,
            lineage_used: 17,
            lineage_size: 65_536,
            counters: vec![CounterInfo { class: "verdict".into(), emitted: 5, lost: 0 }],
            events: 1234,
            state_dir: "/var/lib/guard".into(),
            journal: Some(JournalInfo {
                key: "ab".repeat(32),
                seq: 1,
                head: "cd".repeat(32),
                signed: 1,
                checkpoint: 1,
                begins: 1,
                unwritten: 2,
            }),
            herald: None,
        }
    }

    #[test]
    fn a_healthy_status_fits_80_columns_and_says_so_first() {
        let text = status(&Screen::default(), &a_status());
        assert!(text.starts_with("guard is ok (enforce)\n"), "{text}");
        assert!(
            text.contains("none lost")
                && text.contains("when a session lives")
                && text.contains("not watched"),
            "{text}"
        );
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line:?}");
        }
    }

    #[test]
    fn how_often_a_person_is_asked_and_of_which_rule_too_often_is_said() {
        let mut asked = a_status();
        asked.hold_counts = HoldCounts {
            last_24h: 12,
            mean_7d: 8.3,
            approved: 57,
            denied: 1,
            timed_out: 0,
            advice: vec!["rule 'noisy': 57 of 58 holds".into()],
        };
        let text = status(&Screen::default(), &asked);
        assert!(
            text.contains(
                "\nasked     12 holds in 24 h, 8.3 a day over 7 days: 98% approved, 2% denied, 0%\n          timed out\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("\n          rule 'noisy': 57 of 58 holds\n"),
            "{text}"
        );
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line:?}");
        }
    }

    #[test]
    fn what_is_degraded_and_what_was_lost_is_always_shown() {
        let mut degraded = a_status();
        degraded.state = "degraded".into();
        degraded.degraded = vec!["the lineage table is full".into(), "3 records lost".into()];
        degraded.counters.push(CounterInfo {
            class: "activity".into(),
            emitted: 9,
            lost: 3,
        });
        let text = status(&Screen::default(), &degraded);
        assert!(
            text.starts_with(
                "guard is degraded: the lineage table is full\n         and also: 3 records lost\n"
            ),
            "{text}"
        );
        assert!(text.contains("\nLOST      3 activity\n"), "{text}");
    }
}
