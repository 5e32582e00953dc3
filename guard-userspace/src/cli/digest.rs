//! `guardctl digest`: what would have been stopped, from the journal.

use std::time::Duration;

use super::{Guardctl, client::Conversation, escape, failure::Failure, render, screen::Screen};
use crate::{
    clock,
    digest::{Digest, Entry},
    event::Kind,
    wire::{Reply, Request},
};

impl Guardctl<'_> {
    pub(super) fn digest(&mut self, since: Duration) -> Result<u8, Failure> {
        let begin = clock::rfc3339_ago(since);
        let mut digest = Digest::since(clock::realtime_s().saturating_sub(since.as_secs()));
        let request = Request::Events {
            follow: false,
            session: None,
            kinds: vec![
                Kind::Exec,
                Kind::Open,
                Kind::Connect,
                Kind::Request,
                Kind::Signal,
                Kind::Call,
            ],
            after: 0,
        };
        let mut conversation = Conversation::open(&self.cli.socket, &request)?;
        loop {
            match conversation.next()? {
                // Times of one form compare as text.
                Reply::Event(event) if event.time >= begin => digest.add(&event),
                Reply::Event(_) => {}
                Reply::Done { .. } => break,
                _ => return Err(conversation.unexpected("with something else than events".into())),
            }
        }
        let text = if self.cli.json {
            let json =
                serde_json::to_string(&digest).map_err(|error| Failure::No(error.to_string()))?;
            format!("{}\n", escape::json(&json))
        } else {
            for_people(&self.screen, &digest, since, &self.guardctl())
        };
        self.out.write_all(text.as_bytes())?;
        Ok(0)
    }
}

fn for_people(screen: &Screen, digest: &Digest, since: Duration, guardctl: &str) -> String {
    let span = clock::human(since);
    if digest.total == 0 {
        return format!("in the last {span} nothing would have been stopped\n");
    }
    let mut out = format!(
        "in the last {span}, while only observed, {} would have been stopped\n",
        render::count(digest.total, "call", "calls")
    );
    for entry in digest.sorted() {
        out.push_str(&entry_for_people(screen, entry));
    }
    if digest.others > 0 {
        out.push_str(&format!(
            "\nand {} by other rules or of other agents\n",
            digest.others
        ));
    }
    out.push_str(&format!(
        "\nwhat to do: if these should be stopped, '{guardctl} enforce'. What an agent has to do is left alone by an \
         'except' in the\nlabel, or by a rule of that name with replace = true and then = \"flag\"; see \
         '{guardctl} policy show'.\n"
    ));
    out
}

fn entry_for_people(screen: &Screen, entry: &Entry) -> String {
    let did = match entry.would.as_str() {
        "hold" => "would have waited for an answer",
        "deny" => "would have failed",
        _ => "would have been killed",
    };
    let head = format!(
        "{} of {}: {} {did}",
        screen.bold(&escape::text(&entry.rule)),
        escape::text(&entry.agent),
        entry.count
    );
    let mut out = format!("\n{}\n", screen.by_meaning(&entry.would, &head));
    for example in &entry.examples {
        let time = example
            .time
            .get(..19)
            .unwrap_or(&example.time)
            .replace('T', " ");
        let line = format!(
            "  {}  {}  {}",
            escape::text(&time),
            escape::text(&example.session),
            escape::text(&example.object)
        );
        out.push_str(&format!("{}\n", screen.clip(&line)));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::Event;

    #[test]
    fn it_says_what_would_have_happened_by_which_rule_and_what_to_do() {
        let mut digest = Digest::since(0);
        for path in ["/home/ann/.env", "/home/ann/\u{1b}[2J.env"] {
            let mut event = Event::new(Kind::Open);
            event.time = "2026-11-26T10:20:30.123456Z".into();
            event.session = Some("s-4".into());
            event.agent = Some("codex".into());
            event.rule = Some("r".into());
            event.would = Some("hold".into());
            event.object = Some(json!({ "path": path }));
            digest.add(&event);
        }
        let day = Duration::from_secs(86_400);
        let text = for_people(&Screen::default(), &digest, day, "guardctl");
        assert!(
            text.starts_with(
                "in the last 1d00h, while only observed, 2 calls would have been stopped\n\n\
                 r of codex: 2 would have waited for an answer\n  2026-11-26 10:20:30  s-4  /home/ann/.env\n"
            ),
            "{text}"
        );
        assert!(text.contains("'guardctl enforce'"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
        let none = for_people(&Screen::default(), &Digest::since(0), day, "guardctl");
        assert_eq!(none, "in the last 1d00h nothing would have been stopped\n");
    }
}
