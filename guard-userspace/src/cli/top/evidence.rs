//! What is to be read of the chosen line: a hold with all that led to it, a session, an event.

use super::{
    cells::{safe, wrap},
    state::span,
};
use crate::{
    cli::{escape, groups, render, screen::Screen},
    event::Event,
    wire::{HoldInfo, SessionDetail},
};

/// A hold and those like it: the text that `guardctl pending` has, without its commands.
///
/// This is the one place where the screen turns a hold into text.
pub fn lines(group: &[&HoldInfo], columns: usize) -> Vec<String> {
    let Some((first, others)) = group.split_first() else {
        return Vec::new();
    };
    let mut text = render::facts(&Screen::default(), first);
    if !others.is_empty() {
        text.push_str(&format!("\n  {} more like it, but for:\n", others.len()));
    }
    for other in others {
        text.push_str(&format!(
            "    {:<6} {}  (pid {}, {})\n",
            escape::text(&other.id),
            groups::differing(first, other),
            other.pid,
            span(other.age_s)
        ));
    }
    filled(&text, columns)
}

/// A session: who and what for, its facts, its processes where asked.
pub fn session(detail: &SessionDetail, tree: bool, columns: usize) -> Vec<String> {
    let info = &detail.info;
    let mut text = format!(
        "{} {}: root pid {}, uid {}, found by {}{}\n",
        escape::text(&info.id),
        escape::text(&info.agent),
        info.root_pid,
        info.uid,
        escape::text(&info.origin),
        info.parent
            .as_deref()
            .map(|parent| format!(", inside {}", escape::text(parent)))
            .unwrap_or_default()
    );
    if let Some(intent) = &info.intent {
        text.push_str(&format!("it says: \"{}\"\n", escape::text(intent)));
    }
    for why in &detail.untapped {
        text.push_str(&format!("not read: {}\n", escape::text(why)));
    }
    if detail.facts.is_empty() {
        text.push_str("no facts\n");
    }
    for fact in &detail.facts {
        text.push_str(&format!(
            "fact {}  {} ago  {}\n",
            escape::text(&fact.label),
            span(fact.age_s),
            escape::text(fact.object.as_deref().unwrap_or_default())
        ));
    }
    if tree {
        text.push_str("processes\n");
        let mut depths: Vec<(u32, usize)> = Vec::new();
        for process in &detail.tree {
            // Parents come before their children.
            let depth = depths
                .iter()
                .find(|(pid, _)| *pid == process.ppid)
                .map_or(0, |(_, depth)| depth + 1);
            depths.push((process.pid, depth));
            let command = match (&process.argv, &process.exe) {
                (Some(argv), _) if !argv.is_empty() => escape::command(argv),
                (_, exe) => escape::text(exe.as_deref().unwrap_or("?")),
            };
            text.push_str(&format!(
                "{:indent$}{} {:<7} {command}\n",
                "",
                process.pid,
                escape::text(&process.state),
                // Deeper than this the command would find no room.
                indent = 2 + 2 * depth.min(10)
            ));
        }
    } else {
        text.push_str(&format!(
            "{} (Enter shows them)\n",
            match detail.tree.len() {
                1 => "1 process".into(),
                n => format!("{n} processes"),
            }
        ));
    }
    filled(&text, columns)
}

/// An event with every member.
pub fn event(event: &Event, columns: usize) -> Vec<String> {
    let text = serde_json::to_string(event).unwrap_or_default();
    filled(&escape::json(&text), columns)
}

fn filled(text: &str, columns: usize) -> Vec<String> {
    text.lines()
        .flat_map(|line| {
            let line = safe(line);
            let indent = line.len() - line.trim_start().len() + 2;
            wrap(&line, columns, indent)
        })
        .collect()
}
