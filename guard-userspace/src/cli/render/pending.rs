//! `guardctl pending`: for a person with ten seconds.

use crate::{
    approval::{self, Frame, Paint},
    cli::screen::Screen,
    wire::HoldInfo,
};

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

/// Each hold: who, what, why, what silence means, how to answer. `guardctl` is how the reader called
/// this program, with what it takes to reach the same daemon.
pub fn pending(screen: &Screen, holds: &[HoldInfo], guardctl: &str) -> String {
    if holds.is_empty() {
        return "nothing is held\n".into();
    }
    let frame = Frame {
        paint: screen,
        width: screen.width,
        text_width: screen.text_width(),
        guardctl,
    };
    let blocks: Vec<String> = holds
        .iter()
        .map(|hold| approval::text(hold, &frame))
        .collect();
    blocks.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::approval::a_hold;

    #[test]
    fn a_hold_says_who_what_why_and_how_to_answer() {
        let text = pending(&Screen::default(), &[a_hold()], "guardctl");
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
";
        assert_eq!(text, expected);
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
        hold.cwd = Some(evil.into());
        hold.user = Some(evil.into());
        hold.environment = vec![evil.into()];
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
            15,
            "no line of its own making: {text}"
        );
    }
}
