//! From a session's events to what is told of it: verdicts with their evidence and what came of them, what was
//! stopped and what was not, what is not known.

use std::{collections::HashMap, time::Duration};

use super::{Collector, Counts, Fact, Hold, Line, Report, Verdict, words};
use crate::{
    clock,
    event::{Event, Kind},
};

pub(super) fn tell(collected: Collector, unreadable: u64) -> Report {
    let holds = holds(&collected.events);
    let verdicts: Vec<Verdict> = collected
        .events
        .iter()
        .filter_map(|event| verdict(event, &collected, &holds))
        .collect();
    let verdicts = carried_out(verdicts);
    let mut report = collected.report;
    for verdict in &verdicts {
        let line = line_of(verdict);
        if is_stopped(verdict) {
            report.stopped.push(line);
        } else {
            report.not_stopped.push(line);
        }
    }
    for event in &collected.events {
        if let Some((stopped, line)) = by_a_person(event) {
            let lines = if stopped {
                &mut report.stopped
            } else {
                &mut report.not_stopped
            };
            lines.push(line);
        }
    }
    for lines in [&mut report.stopped, &mut report.not_stopped] {
        lines.sort_by(|a, b| (&a.time, a.seq).cmp(&(&b.time, b.seq)));
    }
    report.losses = collected.lost.iter().filter_map(loss).collect();
    if unreadable > 0 {
        let lines = words::count(unreadable, "line of the journal", "lines of the journal");
        report.losses.push(Line {
            seq: 0,
            time: report.began.clone(),
            what: format!("{lines} could not be read: see 'guardctl verify'"),
            target: None,
        });
    }
    report.timeline = collected.events.iter().map(words::entry).collect();
    report.outcome = outcome(&report, &verdicts);
    report.verdicts = verdicts;
    report
}

/// Each hold, by the process it is of, in order; with its answer.
fn holds(events: &[Event]) -> HashMap<String, (Event, Hold)> {
    let mut holds: HashMap<String, (Event, Hold)> = HashMap::new();
    for event in events {
        let Some(id) = words::text(event, "id") else {
            continue;
        };
        match event.kind {
            Kind::Hold if words::text(event, "what").as_deref() == Some("held") => {
                let hold = Hold {
                    id: id.clone(),
                    answer: None,
                    answered: None,
                    by_uid: None,
                    by_pid: None,
                    waited_ms: None,
                    reason: None,
                    grant: None,
                };
                holds.insert(id, (event.clone(), hold));
            }
            Kind::Hold | Kind::Answer => {
                if let Some((_, hold)) = holds.get_mut(&id) {
                    hold.answer =
                        words::text(event, "answer").or_else(|| words::text(event, "what"));
                    hold.answered = Some(event.time.clone());
                    hold.by_uid = words::number(event, "by_uid");
                    hold.by_pid = words::number(event, "by_pid");
                    hold.waited_ms = words::number(event, "waited_ms");
                    hold.reason =
                        words::text(event, "reason").or_else(|| words::text(event, "why"));
                    hold.grant = words::text(event, "grant");
                    // What was done, beside what was said.
                    hold.answer = match (&hold.answer, event.verdict.as_deref()) {
                        (Some(answer), Some("kill")) if event.kind == Kind::Answer => {
                            Some(format!("{answer}, killed"))
                        }
                        (answer, _) => answer.clone(),
                    };
                    if event.kind == Kind::Answer && event.verdict.as_deref() == Some("allow") {
                        // Of a timeout that lets it go on, what matters is that it went on.
                        hold.answer = hold.answer.take().map(|answer| {
                            if answer == "approved" {
                                answer
                            } else {
                                format!("{answer}, resumed")
                            }
                        });
                    }
                }
            }
            _ => {}
        }
    }
    holds
}

fn verdict(
    event: &Event,
    collected: &Collector,
    holds: &HashMap<String, (Event, Hold)>,
) -> Option<Verdict> {
    let call = matches!(
        event.kind,
        Kind::Exec | Kind::Open | Kind::Connect | Kind::Request | Kind::Call | Kind::Signal
    );
    let said = event.would.as_ref().or(event.verdict.as_ref())?;
    if !call || !matches!(said.as_str(), "flag" | "hold" | "deny" | "kill") {
        return None;
    }
    let enforced = event.would.is_none();
    let hold = if said == "hold" && enforced {
        hold_of(event, holds)
    } else {
        None
    };
    let outcome = match (enforced, said.as_str(), &hold) {
        (false, word, _) => format!("observed only: {} would have followed", noun(word)),
        (true, "flag", _) => "recorded; it went on".into(),
        (true, "deny", _) => "the call failed".into(),
        (true, "kill", _) => "the process was killed".into(),
        (true, _, Some(hold)) => of_hold(hold),
        (true, _, None) => "the process was stopped".into(),
    };
    Some(Verdict {
        call: words::entry(event),
        verdict: said.clone(),
        enforced,
        evidence: evidence(event, collected),
        hold,
        refused: 0,
        outcome,
    })
}

/// How long a refusal stands for repeated attempts of the process, and a little, milliseconds.
const REFUSAL_MS: u64 = 11_000;

/// A call whose hold was denied is repeated by the kernel and fails then: that is what came of the hold, and no verdict of
/// its own.
fn carried_out(all: Vec<Verdict>) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = Vec::with_capacity(all.len());
    for verdict in all {
        let same = |held: &&mut Verdict| {
            let answered = held.hold.as_ref().and_then(|hold| hold.answered.as_ref());
            verdict.verdict == "deny"
                && verdict.enforced
                // The process runs before its answer is told, so the attempt may be told first.
                && held.call.time <= verdict.call.time
                && answered
                    .is_some_and(|at| words::between_ms(at, &verdict.call.time) <= REFUSAL_MS)
                && (held.call.pid, &held.call.rule, &held.call.what)
                    == (verdict.call.pid, &verdict.call.rule, &verdict.call.what)
        };
        match verdicts.iter_mut().rev().find(same) {
            Some(held) => held.refused += 1,
            None => verdicts.push(verdict),
        }
    }
    for verdict in verdicts.iter_mut().filter(|verdict| verdict.refused > 0) {
        let times = words::count(verdict.refused, "attempt", "attempts");
        verdict.outcome.push_str(&format!("; {times} failed"));
    }
    verdicts
}

/// The hold that a call began: the next one of its process by its rule.
fn hold_of(event: &Event, holds: &HashMap<String, (Event, Hold)>) -> Option<Hold> {
    holds
        .values()
        .filter(|(told, _)| {
            told.seq > event.seq && told.tgid == event.tgid && told.rule == event.rule
        })
        .min_by_key(|(told, _)| told.seq)
        .map(|(_, hold)| hold.clone())
}

fn of_hold(hold: &Hold) -> String {
    let id = &hold.id;
    let Some(answer) = &hold.answer else {
        return format!("{id} held it; no answer is in the journal");
    };
    let mut line = format!("{id} {answer}");
    if let Some(uid) = hold.by_uid {
        line.push_str(&format!(" by uid {uid}"));
    }
    if let Some(pid) = hold.by_pid {
        line.push_str(&format!(" (pid {pid})"));
    }
    if let Some(waited) = hold.waited_ms {
        line.push_str(&format!(
            " after {}",
            clock::human(Duration::from_millis(waited))
        ));
    }
    line
}

/// What the event names; of a journal from before events named it, the newest touch of each other label.
fn evidence(event: &Event, collected: &Collector) -> Vec<Fact> {
    let fact = |of: &Event| Fact {
        event: words::entry(of),
        age_ms: words::between_ms(&of.time, &event.time),
    };
    if !event.evidence.is_empty() {
        let named = event
            .evidence
            .iter()
            .filter_map(|seq| collected.facts.get(seq));
        return named.map(fact).collect();
    }
    let mut newest: Vec<&Event> = Vec::new();
    for before in collected
        .facts
        .range(..event.seq)
        .rev()
        .map(|(_, fact)| fact)
    {
        let new = before.labels.iter().any(|label| {
            !event.labels.contains(label) && !newest.iter().any(|fact| fact.labels.contains(label))
        });
        if new {
            newest.push(before);
        }
    }
    newest.into_iter().rev().map(fact).collect()
}

fn noun(verdict: &str) -> &'static str {
    match verdict {
        "flag" => "a flag",
        "hold" => "a hold",
        "deny" => "a refusal",
        _ => "a kill",
    }
}

fn is_stopped(verdict: &Verdict) -> bool {
    if !verdict.enforced {
        return false;
    }
    match (verdict.verdict.as_str(), &verdict.hold) {
        ("flag", _) => false,
        ("hold", Some(hold)) => !hold
            .answer
            .as_deref()
            .is_some_and(|answer| answer == "approved" || answer.ends_with("resumed")),
        _ => true,
    }
}

fn line_of(verdict: &Verdict) -> Line {
    let rule = verdict.call.rule.as_deref().unwrap_or("no rule");
    let labels = verdict.call.labels.join(" ");
    let mut what = format!(
        "{} [{labels}] by rule {rule}: {}",
        verdict.call.kind, verdict.outcome
    );
    if let Some(grant) = verdict.hold.as_ref().and_then(|hold| hold.grant.as_ref()) {
        what.push_str(&format!("; lease {grant}"));
    }
    Line {
        seq: verdict.call.seq,
        time: verdict.call.time.clone(),
        what,
        target: Some(if verdict.call.kind == Kind::Exec.name() {
            verdict.call.who.clone().unwrap_or_default()
        } else {
            verdict.call.what.clone()
        }),
    }
}

/// What a person did about the session besides answering holds.
fn by_a_person(event: &Event) -> Option<(bool, Line)> {
    let what = words::text(event, "what")?;
    let by =
        words::number(event, "by_uid").map_or_else(String::new, |uid| format!(" by uid {uid}"));
    let (stopped, what) = match (event.kind, what.as_str()) {
        (Kind::Session, "killed") => (true, format!("the session was killed{by}")),
        (Kind::Session, "paused") => (true, format!("the session was paused{by}")),
        (Kind::Session, "resumed") => (false, format!("the session was resumed{by}")),
        (Kind::Grant, "granted") => {
            let labels = event.labels.join(" ");
            let long = words::number(event, "for_s").map_or_else(String::new, |s| {
                format!(" for {}", clock::human(Duration::from_secs(s)))
            });
            let id = words::text(event, "id").unwrap_or_default();
            (false, format!("lease {id}: [{labels}] allowed{long}{by}"))
        }
        _ => return None,
    };
    let line = Line {
        seq: event.seq,
        time: event.time.clone(),
        what,
        target: words::text(event, "reason"),
    };
    Some((stopped, line))
}

fn loss(event: &Event) -> Option<Line> {
    let why = words::text(event, "why").map_or_else(String::new, |why| format!(" ({why})"));
    let what = match (event.kind, words::text(event, "what").as_deref()) {
        (Kind::Lost, _) => {
            let count = words::number(event, "count").unwrap_or_default();
            let class = words::text(event, "class").unwrap_or_default();
            format!(
                "{} lost{why}",
                words::count(
                    count,
                    &format!("record of class {class}"),
                    &format!("records of class {class}")
                )
            )
        }
        (_, Some("started")) => {
            "guardd started: what came before it in this session was not recorded".into()
        }
        (_, Some("stopped")) => "guardd stopped: nothing is recorded until it starts".into(),
        (_, Some("makes way")) => "guardd made way for another one".into(),
        (_, Some("journal altered")) => format!("guardd found its journal changed{why}"),
        (_, Some("unsigned events")) => {
            format!("guardd ended without signing its last events{why}")
        }
        _ => return None,
    };
    Some(Line {
        seq: event.seq,
        time: event.time.clone(),
        what,
        target: None,
    })
}

fn outcome(report: &Report, verdicts: &[Verdict]) -> String {
    let Counts { flag, would, .. } = report.counts;
    let stopped = verdicts
        .iter()
        .filter(|verdict| is_stopped(verdict))
        .count() as u64;
    let held = verdicts
        .iter()
        .filter(|verdict| verdict.hold.is_some())
        .count() as u64;
    let open = verdicts
        .iter()
        .filter(|v| v.hold.as_ref().is_some_and(|hold| hold.answer.is_none()))
        .count() as u64;
    let approved = held
        - verdicts
            .iter()
            .filter(|v| v.hold.is_some() && is_stopped(v))
            .count() as u64;
    let mut parts = Vec::new();
    if stopped - open.min(stopped) > 0 {
        parts.push(format!(
            "{} stopped",
            words::count(stopped - open, "call", "calls")
        ));
    }
    if open > 0 {
        parts.push(format!(
            "{} unanswered",
            words::count(open, "hold", "holds")
        ));
    }
    if approved > 0 {
        parts.push(format!(
            "{} let go on",
            words::count(approved, "hold", "holds")
        ));
    }
    if flag > 0 {
        parts.push(format!("{} flagged", words::count(flag, "call", "calls")));
    }
    if would > 0 {
        parts.push(format!(
            "{} would have been stopped or flagged",
            words::count(would, "call", "calls")
        ));
    }
    if parts.is_empty() {
        parts.push("no rule fired".into());
    }
    parts.push(
        if report.ended.is_some() {
            "the session has ended"
        } else {
            "no end is recorded"
        }
        .into(),
    );
    parts.join("; ")
}
