//! What would have been stopped: verdicts that observe mode held back, by rule and agent. guardd tells them once a
//! day, and `guardctl digest` reads them from the journal.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::Event;

/// Pairs of a rule and an agent that are kept apart; more are only counted.
const MAX_ENTRIES: usize = 256;
/// Examples that are kept of each: the first ones, each object once.
const EXAMPLES: usize = 3;
/// Characters of an object that are kept.
const MAX_OBJECT: usize = 200;

/// Verdicts that were held back, since some time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Digest {
    /// `CLOCK_REALTIME` seconds.
    pub since_s: u64,
    /// All of them.
    pub total: u64,
    /// By rule and agent, in order of their first.
    pub entries: Vec<Entry>,
    /// Of `total`, those of rules and agents that found no room in `entries`.
    #[serde(default)]
    pub others: u64,
}

/// What one rule would have stopped of one agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The rule.
    pub rule: String,
    /// The agent.
    pub agent: String,
    /// What would have been done: hold, deny or kill.
    pub would: String,
    /// How often.
    pub count: u64,
    /// RFC 3339 of the last.
    pub last: String,
    /// Some of them.
    pub examples: Vec<Example>,
}

/// One call that would have been stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// RFC 3339.
    pub time: String,
    /// `s-N`.
    pub session: String,
    /// What it was about: a file, a host, a command line.
    pub object: String,
}

impl Digest {
    /// Nothing yet.
    pub fn since(since_s: u64) -> Self {
        Self {
            since_s,
            total: 0,
            entries: Vec::new(),
            others: 0,
        }
    }

    /// Counts an event, if it is a call that would have been stopped.
    pub fn add(&mut self, event: &Event) {
        let would = event.would.as_deref().unwrap_or_default();
        if !matches!(would, "hold" | "deny" | "kill") {
            return;
        }
        self.total += 1;
        let rule = event.rule.as_deref().unwrap_or("?");
        let agent = event.agent.as_deref().unwrap_or("?");
        let same =
            |entry: &Entry| entry.rule == rule && entry.agent == agent && entry.would == would;
        let at = match self.entries.iter().position(same) {
            Some(at) => at,
            None if self.entries.len() == MAX_ENTRIES => {
                self.others += 1;
                return;
            }
            None => {
                self.entries.push(Entry {
                    rule: rule.into(),
                    agent: agent.into(),
                    would: would.into(),
                    count: 0,
                    last: String::new(),
                    examples: Vec::new(),
                });
                self.entries.len() - 1
            }
        };
        let entry = &mut self.entries[at];
        entry.count += 1;
        entry.last.clone_from(&event.time);
        let object = object(event);
        if entry.examples.len() < EXAMPLES
            && !entry.examples.iter().any(|known| known.object == object)
        {
            entry.examples.push(Example {
                time: event.time.clone(),
                session: event.session.clone().unwrap_or_default(),
                object,
            });
        }
    }

    /// The most frequent first.
    pub fn sorted(&self) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.entries.iter().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.count));
        entries
    }

    /// In one line, for a log. `span` is how long it covers, for people.
    pub fn line(&self, span: &str) -> String {
        if self.total == 0 {
            return format!("in the last {span} nothing would have been stopped");
        }
        let most: Vec<String> = self
            .sorted()
            .into_iter()
            .take(3)
            .map(|entry| {
                format!(
                    "{} by {} ({}) of {}",
                    entry.count, entry.rule, entry.would, entry.agent
                )
            })
            .collect();
        let more = if self.entries.len() > 3 || self.others > 0 {
            " and others"
        } else {
            ""
        };
        format!(
            "in the last {span} {} call{} would have been stopped: {}{more}: see 'guardctl digest'",
            self.total,
            if self.total == 1 { "" } else { "s" },
            most.join(", ")
        )
    }
}

/// What an event is about, in a few words.
fn object(event: &Event) -> String {
    let object = event.object.as_ref();
    let text = |name: &str| match object.and_then(|object| object.get(name))? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let request = text("method").map(|method| {
        let (host, path) = (text("host"), text("path"));
        format!(
            "{method} {}{}",
            host.unwrap_or_default(),
            path.unwrap_or_default()
        )
    });
    let place = || {
        let addr = text("addr")?;
        let port = text("port").unwrap_or_default();
        Some(match text("host") {
            Some(host) => format!("{host}:{port}"),
            None if addr.contains(':') => format!("[{addr}]:{port}"),
            None => format!("{addr}:{port}"),
        })
    };
    let command = || {
        let argv = object?.get("argv")?.as_array()?;
        let words: Vec<&str> = argv.iter().filter_map(Value::as_str).collect();
        Some(words.join(" "))
    };
    let found = request
        .or_else(place)
        .or_else(|| text("path"))
        .or_else(command)
        .or_else(|| text("call"))
        .or_else(|| text("host"))
        .unwrap_or_else(|| event.kind.name().into());
    found.chars().take(MAX_OBJECT).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::Kind;

    fn event(kind: Kind, rule: &str, would: Option<&str>, object: Value) -> Event {
        let mut event = Event::new(kind);
        event.session = Some("s-1".into());
        event.agent = Some("agent".into());
        event.rule = Some(rule.into());
        event.would = would.map(str::to_owned);
        event.object = Some(object);
        event
    }

    #[test]
    fn what_observe_mode_held_back_is_counted_by_rule_with_examples() {
        let mut digest = Digest::since(5);
        for path in ["/a", "/a", "/b", "/c", "/d"] {
            digest.add(&event(
                Kind::Open,
                "r",
                Some("hold"),
                json!({ "path": path }),
            ));
        }
        let connect = json!({ "addr": "192.0.2.1", "port": 443, "host": "api.example" });
        digest.add(&event(Kind::Connect, "s", Some("kill"), connect));
        // Told, and nothing more; and one that was carried out.
        digest.add(&event(
            Kind::Open,
            "f",
            Some("flag"),
            json!({ "path": "/a" }),
        ));
        digest.add(&event(Kind::Open, "r", None, json!({ "path": "/a" })));
        assert_eq!(digest.total, 6);
        let [r, s] = digest.entries.as_slice() else {
            panic!("{digest:?}");
        };
        assert_eq!((r.count, r.would.as_str()), (5, "hold"));
        let objects: Vec<_> = r.examples.iter().map(|e| e.object.as_str()).collect();
        assert_eq!(objects, ["/a", "/b", "/c"]);
        assert_eq!(s.examples[0].object, "api.example:443");
        assert_eq!(
            digest.line("24h00m"),
            "in the last 24h00m 6 calls would have been stopped: 5 by r (hold) of agent, 1 by s (kill) of agent: \
             see 'guardctl digest'"
        );
        let text = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), digest);
    }

    #[test]
    fn objects_are_named_as_people_would() {
        for (kind, object, expected) in [
            (
                Kind::Request,
                json!({ "method": "POST", "host": "h", "path": "/p" }),
                "POST h/p",
            ),
            (
                Kind::Connect,
                json!({ "addr": "::1", "port": 1 }),
                "[::1]:1",
            ),
            (
                Kind::Connect,
                json!({ "path": "/run/x.sock" }),
                "/run/x.sock",
            ),
            (
                Kind::Exec,
                json!({ "argv": ["rm", "-rf", "x"] }),
                "rm -rf x",
            ),
            (Kind::Call, json!({ "call": "bpf" }), "bpf"),
            (Kind::Signal, json!({}), "signal"),
        ] {
            assert_eq!(super::object(&event(kind, "r", None, object)), expected);
        }
    }

    #[test]
    fn it_stays_within_bounds_whatever_happens() {
        let mut digest = Digest::since(0);
        for n in 0..1000 {
            let rule = format!("r{n}");
            let object = json!({ "path": "x".repeat(5000) });
            digest.add(&event(Kind::Open, &rule, Some("deny"), object));
        }
        assert_eq!((digest.total, digest.entries.len()), (1000, MAX_ENTRIES));
        assert_eq!(digest.others, 1000 - MAX_ENTRIES as u64);
        assert!(serde_json::to_string(&digest).unwrap().len() < 200_000);
    }
}
