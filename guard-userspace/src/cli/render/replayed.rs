//! `replay`.

use std::{fmt::Write as _, path::Path};

use crate::{
    cli::escape,
    replay::{Replayed, Said},
};

/// Each event of which the other policy says something else, and how many there were.
pub fn replayed(policy: &Path, found: &Replayed) -> String {
    let mut out = String::new();
    for difference in &found.differences {
        let time = difference
            .time
            .get(..19)
            .unwrap_or(&difference.time)
            .replace('T', " ");
        let [session, what] =
            [&difference.session, &difference.what].map(|text| escape::text(text));
        let indent = " ".repeat(session.chars().count());
        let _ = writeln!(out, "{session}  {}  {what}", escape::text(&time));
        let (was, becomes) = (said(&difference.was), said(&difference.becomes));
        let _ = writeln!(out, "{indent}  {was} -> {becomes}");
    }
    let s = |count: u64| if count == 1 { "" } else { "s" };
    let differ = match found.differences.len() {
        0 => "none differs".to_owned(),
        1 => "1 differs".to_owned(),
        many => format!("{many} differ"),
    };
    let (judged, sessions) = (found.judged, found.sessions);
    let _ = writeln!(
        out,
        "{judged} event{} of {sessions} session{} judged by {}: {differ}",
        s(judged),
        s(sessions),
        escape::text(&policy.display().to_string()),
    );
    if found.in_part > 0 {
        let (count, s) = (found.in_part, s(found.in_part));
        let _ = writeln!(
            out,
            "{count} request{s} judged by what the journal keeps: no body, no header"
        );
    }
    if found.unreadable > 0 {
        let (count, s) = (found.unreadable, s(found.unreadable));
        let _ = writeln!(out, "{count} line{s} of the journal could not be read");
    }
    out
}

fn said(said: &Said) -> String {
    let verdict = escape::text(&said.verdict);
    match &said.rule {
        Some(rule) => format!("{verdict} by {}", escape::text(rule)),
        None => verdict,
    }
}
