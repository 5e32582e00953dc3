//! Events as `guardctl --json events` prints them, read as a program outside the project would: by
//! the names that the contract fixes, and with nothing taken for granted.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// One event.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Event(Value);

impl Event {
    /// `None` when `line` is no event.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let event = Self(serde_json::from_str(line).ok()?);
        (!event.kind().is_empty()).then_some(event)
    }

    fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    pub(crate) fn kind(&self) -> &str {
        self.text("kind")
    }

    pub(crate) fn verdict(&self) -> &str {
        self.text("verdict")
    }

    pub(crate) fn would(&self) -> &str {
        self.text("would")
    }

    pub(crate) fn rule(&self) -> &str {
        self.text("rule")
    }

    pub(crate) fn tier(&self) -> &str {
        self.text("tier")
    }

    /// The thread's name, or the program's.
    pub(crate) fn program(&self) -> &str {
        match self.text("comm") {
            "" => self.text("exe").rsplit('/').next().unwrap_or_default(),
            comm => comm,
        }
    }

    pub(crate) fn labels(&self) -> Vec<&str> {
        let labels = self.0["labels"].as_array();
        labels
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    pub(crate) fn has_label(&self, label: &str) -> bool {
        self.labels().contains(&label)
    }

    pub(crate) fn latency_ns(&self) -> Option<u64> {
        self.0["latency_ns"].as_u64()
    }

    /// What was acted on, in a few words.
    pub(crate) fn object(&self) -> String {
        let object = &self.0["object"];
        match (&object["path"], &object["addr"], &object["port"]) {
            (Value::String(path), ..) => path.clone(),
            (_, Value::String(addr), port) => match addr.contains(':') {
                true => format!("[{addr}]:{port}"),
                false => format!("{addr}:{port}"),
            },
            // Of a hold or an answer: what it says.
            _ => {
                let members = object
                    .as_object()
                    .into_iter()
                    .flat_map(|object| object.values());
                members
                    .filter_map(Value::as_str)
                    .collect::<Vec<_>>()
                    .join(" ")
            }
        }
    }

    /// Whether the rule of that name acted, or would have, on a call.
    pub(crate) fn is_trigger_of(&self, rule: &str) -> bool {
        let acts = |verdict| matches!(verdict, "hold" | "deny" | "kill");
        self.kind() == "connect"
            && self.rule() == rule
            && (acts(self.verdict()) || acts(self.would()))
    }

    /// Whether it records an answer that begins with `word`, such as `den` for deny and denied.
    pub(crate) fn is_answer(&self, word: &str) -> bool {
        fn says(value: &Value, word: &str) -> bool {
            match value {
                Value::String(text) => text.to_ascii_lowercase().starts_with(word),
                Value::Object(members) => members.values().any(|value| says(value, word)),
                _ => false,
            }
        }
        self.kind() == "answer"
            && (self.verdict().starts_with(word) || says(&self.0["object"], word))
    }

    /// Nanoseconds from `earlier` to this: by the monotonic clock where both say it, else by the time
    /// of day.
    pub(crate) fn ns_since(&self, earlier: &Self) -> Option<u64> {
        let clock = |event: &Self| event.0["mono_ns"].as_u64();
        if let (Some(earlier), Some(now)) = (clock(earlier), clock(self)) {
            return now.checked_sub(earlier);
        }
        let time = |event: &Self| event.text("time").parse::<Timestamp>().ok();
        let elapsed = time(self)?.duration_since(time(earlier)?);
        u64::try_from(elapsed.as_nanos()).ok()
    }

    /// Whether `text` stands anywhere in it.
    pub(crate) fn contains(&self, text: &str) -> bool {
        self.0.to_string().contains(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECT: &str = r#"{"v":1,"seq":9,"time":"2026-11-21T20:40:22.500000Z","session":"s-1",
        "kind":"connect","comm":"curl","object":{"family":"inet","addr":"127.0.0.1","port":443},
        "labels":["infra"],"verdict":"allow","would":"hold","rule":"r","latency_ns":900}"#;

    #[test]
    fn what_would_have_been_is_a_trigger_too() {
        let event = Event::parse(CONNECT).expect("event");
        assert!(event.is_trigger_of("r"));
        assert!(!event.is_trigger_of("other"));
        assert_eq!(event.object(), "127.0.0.1:443");
    }

    #[test]
    fn time_is_measured_by_the_monotonic_clock_where_both_events_have_it() {
        let later = Event::parse(CONNECT).expect("event");
        let open = r#"{"kind":"open","time":"2026-11-21T20:40:22.123456Z","mono_ns":5}"#;
        let open = Event::parse(open).expect("event");
        assert_eq!(later.ns_since(&open), Some(376_544_000));
        let exact = Event::parse(r#"{"kind":"connect","mono_ns":47}"#).expect("event");
        assert_eq!(exact.ns_since(&open), Some(42));
        assert_eq!(open.ns_since(&exact), None);
    }

    #[test]
    fn an_answer_is_recognised_by_verdict_or_object() {
        for (event, word) in [
            (r#"{"kind":"answer","verdict":"deny"}"#, "den"),
            (
                r#"{"kind":"answer","object":{"hold":"h-1","answer":"denied"}}"#,
                "den",
            ),
            (
                r#"{"kind":"answer","object":{"answer":{"kind":"approve"}}}"#,
                "approv",
            ),
        ] {
            assert!(
                Event::parse(event).expect("event").is_answer(word),
                "{event}"
            );
        }
        let hold = Event::parse(r#"{"kind":"hold","verdict":"deny"}"#).expect("event");
        assert!(!hold.is_answer("den"));
        assert!(Event::parse(r#"{"reply":"done","message":"x"}"#).is_none());
    }
}
