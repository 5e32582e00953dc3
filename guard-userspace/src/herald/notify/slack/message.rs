//! A hold as Block Kit, within Slack's limits. The text is `rich_text`, which Slack shows as it is: nothing that an
//! agent has chosen becomes a link, a mention or a button. <https://api.slack.com/reference/block-kit/blocks>

use serde_json::{Value, json};

use super::Held;
use crate::{approval::middle, policy::SlackAnswers};

/// Action of the button that lets it go on.
pub(super) const APPROVE: &str = "guard_approve";
/// Action of the button that refuses it.
pub(super) const DENY: &str = "guard_deny";

/// Characters of a header. <https://api.slack.com/reference/block-kit/blocks#header>
const HEADER: usize = 150;
/// Characters of one piece of text.
const PIECE: usize = 2900;
/// Pieces of text; more is cut in the middle.
const PIECES: usize = 3;

/// A hold that waits. With buttons where somebody may answer.
pub(super) fn held(held: &Held, answers: Option<&SlackAnswers>) -> Value {
    let mut blocks = vec![header(&held.headline)];
    blocks.extend(text(&held.text));
    if let Some(answers) = answers {
        let value = format!("{} {}", held.id(), held.token());
        let mut buttons = vec![button("Deny", DENY, &value, "danger")];
        if answers.approve {
            buttons.push(button("Approve", APPROVE, &value, "primary"));
        }
        blocks.push(json!({
            "type": "actions", "block_id": format!("guard {}", held.id()), "elements": buttons,
        }));
    }
    json!({ "text": escaped(&held.headline, 3000), "blocks": blocks, "unfurl_links": false, "unfurl_media": false })
}

/// The same when it waits no more: without buttons.
pub(super) fn ended(held: &Held, how: &str) -> Value {
    let headline = format!("{}: {how}", held.id());
    let mut blocks = vec![header(&headline)];
    blocks.extend(text(&held.text));
    json!({ "text": escaped(&headline, 3000), "blocks": blocks })
}

/// In the place of a message that nobody can answer any more.
pub(super) fn stale(id: &str) -> Value {
    let headline = format!("{id} waits no more");
    json!({ "text": escaped(&headline, 3000), "blocks": [header(&headline)] })
}

fn header(text: &str) -> Value {
    json!({ "type": "header", "text": { "type": "plain_text", "text": middle(text, HEADER), "emoji": false } })
}

fn button(text: &str, action: &str, value: &str, style: &str) -> Value {
    json!({
        "type": "button", "action_id": action, "value": value, "style": style,
        "text": { "type": "plain_text", "text": text, "emoji": false },
    })
}

/// The text in pieces that each end with a line.
fn text(text: &str) -> Vec<Value> {
    let text = middle(text, PIECE * PIECES);
    let mut pieces = vec![String::new()];
    for line in text.lines() {
        let line = middle(line, PIECE - 1);
        let last = pieces.len() - 1;
        let fits = pieces[last].chars().count() + line.chars().count() < PIECE;
        if fits {
            pieces[last].push_str(&line);
            pieces[last].push('\n');
        } else {
            pieces.push(format!("{line}\n"));
        }
    }
    let block = |piece: String| {
        json!({ "type": "rich_text", "elements": [
            { "type": "rich_text_preformatted", "elements": [{ "type": "text", "text": piece }] }
        ] })
    };
    pieces
        .into_iter()
        .filter(|piece| !piece.is_empty())
        .map(block)
        .collect()
}

/// Text where Slack looks for its own marks. <https://api.slack.com/reference/surfaces/formatting#escaping>
pub(super) fn escaped(text: &str, most: usize) -> String {
    // Each character may become five.
    middle(text, most / 5)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answers(approve: bool) -> SlackAnswers {
        SlackAnswers {
            token_file: "/none".into(),
            users: vec!["U1".into()],
            approve,
        }
    }

    #[test]
    fn buttons_are_there_only_for_what_may_be_answered() {
        let one = Held::of_test("h-7", "connect db.example:5432");
        let actions = |value: &Value| {
            let blocks = value["blocks"].as_array().unwrap().clone();
            let last = blocks.last().unwrap().clone();
            if last["type"] != "actions" {
                return Vec::new();
            }
            let elements = last["elements"].as_array().unwrap().clone();
            elements
                .iter()
                .map(|b| b["action_id"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(actions(&held(&one, None)), Vec::<String>::new());
        assert_eq!(actions(&held(&one, Some(&answers(false)))), [DENY]);
        assert_eq!(actions(&held(&one, Some(&answers(true)))), [DENY, APPROVE]);
        assert_eq!(actions(&ended(&one, "denied by sam")), Vec::<String>::new());
    }

    #[test]
    fn an_agent_cannot_mention_or_link() {
        let one = Held::of_test("h-7", "open /tmp/<!channel>&<https://a.example|b>");
        let text = held(&one, None)["text"].as_str().unwrap().to_owned();
        assert!(
            !text.contains('<') && text.contains("&lt;!channel&gt;&amp;"),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn every_text_keeps_to_the_limits(target in ".{0,20000}") {
            let message = held(&Held::of_test("h-1", &target), Some(&answers(true)));
            let blocks = message["blocks"].as_array().unwrap();
            prop_assert!(blocks.len() <= 50);
            prop_assert!(message["text"].as_str().unwrap().chars().count() <= 3000);
            for block in blocks {
                match block["type"].as_str().unwrap() {
                    "header" => {
                        let length = block["text"]["text"].as_str().unwrap().chars().count();
                        prop_assert!((1..=150).contains(&length));
                    }
                    "rich_text" => {
                        let piece = &block["elements"][0]["elements"][0]["text"];
                        let length = piece.as_str().unwrap().chars().count();
                        prop_assert!((1..=3000).contains(&length));
                    }
                    _ => {}
                }
            }
        }
    }
}
