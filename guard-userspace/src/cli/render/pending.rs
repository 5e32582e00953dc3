//! `guardctl pending`: for a person with ten seconds.

use crate::{
    approval::{self, Frame, Paint},
    cli::{escape, groups, screen::Screen},
    wire::{GrantInfo, HoldInfo},
};

/// Others of a group that are shown, and so may be answered with the first.
const OTHERS: usize = 20;

impl Paint for Screen {
    fn bold(&self, text: &str) -> String {
        Self::bold(self, text)
    }

    fn dim(&self, text: &str) -> String {
        Self::dim(self, text)
    }

    fn yellow(&self, text: &str) -> String {
        Self::yellow(self, text)
    }
}

/// Each hold: who, what, why, what silence means, how to answer; those that are alike as one. `left_out` more wait that
/// guardd's reply had no room for. Then the leases that sessions ask for. `guardctl` is how the reader called this program, with what it takes to reach the
/// same daemon.
pub fn pending(
    screen: &Screen,
    holds: &[HoldInfo],
    left_out: u64,
    asked: &[GrantInfo],
    guardctl: &str,
) -> String {
    if holds.is_empty() && asked.is_empty() {
        return "nothing is held\n".into();
    }
    let mut blocks: Vec<String> = groups::fold(holds)
        .iter()
        .map(|group| group_text(screen, group, guardctl))
        .collect();
    if left_out > 0 {
        let what = super::count(left_out, "more hold waits", "more holds wait");
        let text =
            format!("  {what}: no room for them here; they are shown when these are answered.");
        blocks.push(format!("{}\n", screen.yellow(&text)));
    }
    for grant in asked {
        blocks.push(asked_text(screen, grant, guardctl));
    }
    blocks.push(format!(
        "{}\n",
        screen.dim(&format!(
            "  '{guardctl} top' shows them as they come and takes answers by a key."
        ))
    ));
    blocks.join("\n")
}

/// A lease that a session asks for, and how to answer.
fn asked_text(screen: &Screen, grant: &GrantInfo, guardctl: &str) -> String {
    let id = escape::text(&grant.id);
    let mut out = format!("{}\n", screen.bold(&super::grant(grant)));
    if let Some(reason) = &grant.reason {
        out.push_str(&format!("  It says: {}\n", escape::text(reason)));
    }
    out.push_str(&format!(
        "  {guardctl} approve {id} [--for DURATION]\n  {guardctl} deny {id}\n"
    ));
    out
}

fn frame<'a>(screen: &'a Screen, guardctl: &'a str) -> Frame<'a> {
    Frame {
        paint: screen,
        width: screen.width,
        text_width: screen.text_width(),
        guardctl,
    }
}

/// Who, what, why, and what silence means.
pub fn facts(screen: &Screen, hold: &HoldInfo) -> String {
    approval::facts(hold, &frame(screen, "guardctl"))
}

/// A hold, those like it, and how to answer.
fn group_text(screen: &Screen, group: &[&HoldInfo], guardctl: &str) -> String {
    let (first, others) = (group[0], &group[1..]);
    if others.is_empty() {
        return approval::text(first, &frame(screen, guardctl));
    }
    let id = escape::text(&first.id);
    let mut out = facts(screen, first);
    let heading = format!(
        "{} like it, but for:",
        super::count(others.len() as u64, "more", "more")
    );
    out.push_str(&format!("\n  {}\n", screen.bold(&heading)));
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::approval::a_hold;

    #[test]
    fn a_hold_says_who_what_why_and_how_to_answer() {
        let text = pending(&Screen::default(), &[a_hold()], 0, &[], "guardctl");
        let expected = "\
h-7  claude-code (s-3, user root) is held, 12s ago
  wants to  connect 127.0.0.1:18443
  by        curl https://backboard.railway.com  (pid 431)
  in        /home/a/project
  with      AWS_PROFILE=production
  it says   \"fix the staging login\"
  because   credential-then-infra: credential → infra
      20:39:00  1m12s ago    open /home/a/other project/.env  [credential]
                             by cat 'other project/.env'
    → 20:40:00  12s ago      connect 127.0.0.1:18443  [infra]
                             by curl https://backboard.railway.com

  Without an answer it is killed in 1m48s, at 20:42:00 UTC.
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
        let text = pending(&Screen::default(), &holds, 0, &[], "guardctl");
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
    fn holds_that_a_reply_had_no_room_for_are_told() {
        let text = pending(&Screen::default(), &[a_hold()], 2, &[], "guardctl");
        assert!(text.contains("\n  2 more holds wait: "), "{text}");
        let text = pending(&Screen::default(), &[a_hold()], 1, &[], "guardctl");
        assert!(text.contains("\n  1 more hold waits: "), "{text}");
    }

    #[test]
    fn no_holds_is_said() {
        assert_eq!(
            pending(&Screen::default(), &[], 0, &[], "guardctl"),
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
        hold.cwd = Some(evil.into());
        hold.user = Some(evil.into());
        hold.environment = vec![evil.into()];
        hold.rule = evil.into();
        hold.evidence[0].argv = Some(vec![evil.into()]);
        hold.evidence[0].object = Some(json!({"path": evil}));
        let text = pending(&Screen::default(), &[hold], 0, &[], "guardctl");
        assert!(
            !text
                .chars()
                .any(|c| (c.is_control() && c != '\n') || c == '\u{202e}'),
            "{text:?}"
        );
        assert_eq!(
            text.lines().count(),
            17,
            "no line of its own making: {text}"
        );
    }
}
