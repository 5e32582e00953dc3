//! `guardctl pending`: for a person with ten seconds.

use super::{event, span, wrap};
use crate::{
    cli::{account, escape, groups, screen::Screen},
    event::Event,
    wire::HoldInfo,
};

/// Others of a group that are shown, and so may be answered with the first.
const OTHERS: usize = 20;

/// Each hold: who, what, why, what silence means, how to answer; those that are alike as one. `guardctl` is how the
/// reader called this program, with what it takes to reach the same daemon.
pub fn pending(screen: &Screen, holds: &[HoldInfo], guardctl: &str) -> String {
    if holds.is_empty() {
        return "nothing is held\n".into();
    }
    let mut blocks: Vec<String> = groups::fold(holds)
        .iter()
        .map(|group| group_text(screen, group, guardctl))
        .collect();
    blocks.push(format!(
        "{}\n",
        screen.dim(&format!(
            "  '{guardctl} top' shows them as they come and takes answers by a key."
        ))
    ));
    blocks.join("\n")
}

/// A hold, those like it, and how to answer.
fn group_text(screen: &Screen, group: &[&HoldInfo], guardctl: &str) -> String {
    let (first, others) = (group[0], &group[1..]);
    let id = escape::text(&first.id);
    let mut out = facts(screen, first);
    if !others.is_empty() {
        let heading = format!(
            "{} like it, but for:",
            super::count(others.len() as u64, "more", "more")
        );
        out.push_str(&format!("\n  {}\n", screen.bold(&heading)));
    }
    let shown = &others[..others.len().min(OTHERS)];
    for other in shown {
        let differs = groups::differing(first, other);
        out.push_str(&format!(
            "    {:<6} {differs}  {}\n",
            escape::text(&other.id),
            screen.dim(&format!("(pid {}, {})", other.pid, super::ago(other.age_s)))
        ));
    }
    if others.len() > shown.len() {
        out.push_str(&format!(
            "    and {} after these\n",
            others.len() - shown.len()
        ));
    }
    out.push('\n');
    out.push_str(&format!("    {guardctl} deny {id}       to refuse it\n"));
    out.push_str(&format!("    {guardctl} approve {id}    to let it go on\n"));
    if let Some(last) = shown.last() {
        let (last, all) = (escape::text(&last.id), shown.len() + 1);
        for answer in ["deny", "approve"] {
            out.push_str(&format!(
                "    {guardctl} {answer} {id} --all-like {last}    for these {all} at once\n"
            ));
        }
    }
    out
}

/// Who, what, why, and what silence means.
pub fn facts(screen: &Screen, hold: &HoldInfo) -> String {
    let id = escape::text(&hold.id);
    let mut out = format!(
        "{}  {} ({}, user {}) is held, {}\n",
        screen.bold(&id),
        screen.bold(&escape::text(&hold.agent)),
        escape::text(&hold.session),
        account::user_name(hold.uid),
        screen.yellow(&super::ago(hold.age_s)),
    );
    let command = match (&hold.argv, &hold.exe) {
        (Some(argv), _) if !argv.is_empty() => escape::command(argv),
        (_, Some(exe)) => escape::text(exe),
        _ => "a program that is not known".into(),
    };
    // A command of pages would push what follows off the screen, and a process chooses its own.
    let short = |text: &str| {
        screen
            .width
            .map_or(text.to_owned(), |width| escape::clip(text, width * 3))
    };
    // Neither is wrapped: spaces may be inside a path or a quoted argument.
    out.push_str(&format!(
        "  {:9} {}\n",
        "wants to",
        screen.bold(&short(&escape::text(&hold.target)))
    ));
    out.push_str(&format!(
        "  {:9} {}  {}\n",
        "by",
        short(&command),
        screen.dim(&format!("(pid {})", hold.pid))
    ));
    if let Some(intent) = &hold.intent {
        out.push_str(&format!(
            "  {:9} {}\n",
            "it says",
            wrap(
                &format!("\"{}\"", short(&escape::text(intent))),
                screen.text_width(),
                12
            )
        ));
    }
    let steps: Vec<String> = hold.when.iter().map(|label| escape::text(label)).collect();
    out.push_str(&format!(
        "  {:9} {}: {}\n",
        "because",
        escape::text(&hold.rule),
        steps.join(" → ")
    ));
    for (n, event) in hold.evidence.iter().enumerate() {
        out.push_str(&evidence(screen, hold, event, n));
    }
    let left = if hold.expires_in_s == 0 {
        "any moment now".into()
    } else {
        format!("in {}", span(hold.expires_in_s))
    };
    let silence = match hold.on_timeout.as_str() {
        "kill" => format!("Without an answer it is killed {left}."),
        "deny" => format!("Without an answer it is denied {left}."),
        "resume" => format!("Without an answer it goes on {left}."),
        other => format!("Without an answer: {} {left}.", escape::text(other)),
    };
    out.push_str(&format!("\n  {}\n", screen.yellow(&silence)));
    out
}

/// One step of the chain: when, what was touched, which label that is, who did it.
fn evidence(screen: &Screen, hold: &HoldInfo, event: &Event, n: usize) -> String {
    let arrow = if n == 0 { " " } else { "→" };
    let object = event::object(event).unwrap_or_else(|| "something not known".into());
    let labels = if event.labels.is_empty() {
        String::new()
    } else {
        format!("  [{}]", escape::text(&event.labels.join(" ")))
    };
    let mut out = format!(
        "    {arrow} {}  {:<12} {} {}{}\n",
        event::time_of_day(&event.time),
        age(hold, event),
        event.kind.name(),
        screen.bold(&object),
        screen.yellow(&labels),
    );
    if let Some(actor) = event::actor(event) {
        let by = format!("by {actor}");
        // 28 columns stand before it: the arrow, the time and the age.
        let by = screen.width.map_or(by.clone(), |width| {
            escape::clip(&by, width.saturating_sub(29))
        });
        out.push_str(&format!("{:29}{}\n", "", screen.dim(&by)));
    }
    out
}

/// How long ago the event was. guardd measured the hold's age; the difference of two of its own
/// times adds to that, so that a clock of another machine does not come in.
fn age(hold: &HoldInfo, event: &Event) -> String {
    let parse = |time: &str| time.parse::<jiff::Timestamp>().ok();
    match (parse(&hold.since), parse(&event.time)) {
        (Some(since), Some(time)) => {
            let before = since.as_second().saturating_sub(time.as_second()).max(0);
            super::ago(hold.age_s + before as u64)
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::Kind;

    fn a_hold() -> HoldInfo {
        let mut open = Event::new(Kind::Open);
        open.time = "2026-11-21T20:39:00.000000Z".into();
        open.argv = Some(vec!["cat".into(), "other project/.env".into()]);
        open.object = Some(json!({"path": "/home/a/other project/.env"}));
        open.labels = vec!["credential".into()];
        let mut connect = Event::new(Kind::Connect);
        connect.time = "2026-11-21T20:40:00.000000Z".into();
        connect.argv = Some(vec!["curl".into(), "https://backboard.railway.com".into()]);
        connect.object = Some(json!({"family": "inet", "addr": "127.0.0.1", "port": 18443}));
        connect.labels = vec!["infra".into()];
        HoldInfo {
            id: "h-7".into(),
            session: "s-3".into(),
            agent: "claude-code".into(),
            rule: "credential-then-infra".into(),
            when: vec!["credential".into(), "infra".into()],
            pid: 431,
            uid: 0,
            exe: Some("/usr/bin/curl".into()),
            argv: Some(vec!["curl".into(), "https://backboard.railway.com".into()]),
            target: "connect 127.0.0.1:18443".into(),
            since: "2026-11-21T20:40:00.000000Z".into(),
            age_s: 12,
            expires_in_s: 108,
            on_timeout: "kill".into(),
            intent: Some("fix the staging login".into()),
            evidence: vec![open, connect],
            group: "hg-7".into(),
            like: 1,
        }
    }

    #[test]
    fn a_hold_says_who_what_why_and_how_to_answer() {
        let text = pending(&Screen::default(), &[a_hold()], "guardctl");
        let expected = "\
h-7  claude-code (s-3, user root) is held, 12s ago
  wants to  connect 127.0.0.1:18443
  by        curl https://backboard.railway.com  (pid 431)
  it says   \"fix the staging login\"
  because   credential-then-infra: credential → infra
      20:39:00  1m12s ago    open /home/a/other project/.env  [credential]
                             by cat 'other project/.env'
    → 20:40:00  12s ago      connect 127.0.0.1:18443  [infra]
                             by curl https://backboard.railway.com

  Without an answer it is killed in 1m48s.

    guardctl deny h-7       to refuse it
    guardctl approve h-7    to let it go on

  'guardctl top' shows them as they come and takes answers by a key.
";
        assert_eq!(text, expected);
    }

    #[test]
    fn holds_that_are_alike_are_one_with_what_differs_and_one_answer_for_those_shown() {
        let holds: Vec<HoldInfo> = (7..30)
            .map(|n| HoldInfo {
                id: format!("h-{n}"),
                target: format!("open /w/keys/{n}.pem"),
                ..a_hold()
            })
            .collect();
        let text = pending(&Screen::default(), &holds, "guardctl");
        assert_eq!(text.matches("claude-code").count(), 1, "{text}");
        assert!(
            text.contains("\n  22 more like it, but for:\n    h-8    8.pem  (pid 431, 12s ago)\n"),
            "{text}"
        );
        // What is not shown is not covered.
        assert!(
            text.contains("h-27   27.pem") && !text.contains("h-28"),
            "{text}"
        );
        assert!(text.contains("    and 2 after these\n"), "{text}");
        assert!(
            text.contains("guardctl approve h-7 --all-like h-27    for these 21 at once\n"),
            "{text}"
        );
    }

    #[test]
    fn no_holds_is_said() {
        assert_eq!(
            pending(&Screen::default(), &[], "guardctl"),
            "nothing is held\n"
        );
    }

    #[test]
    fn an_agent_cannot_paint_over_its_own_hold() {
        let mut hold = a_hold();
        let evil = "\x1b[1A\x1b[2K\r\u{202e}approve me\u{9b}0m\n";
        hold.target = evil.into();
        hold.intent = Some(evil.into());
        hold.argv = Some(vec![evil.into()]);
        hold.agent = evil.into();
        hold.rule = evil.into();
        hold.evidence[0].argv = Some(vec![evil.into()]);
        hold.evidence[0].object = Some(json!({"path": evil}));
        let text = pending(&Screen::default(), &[hold], "guardctl");
        assert!(
            !text
                .chars()
                .any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'),
            "{text:?}"
        );
        assert_eq!(
            text.lines().count(),
            16,
            "no line of its own making: {text}"
        );
    }
}
