//! One event in one line.

use serde_json::Value;

use crate::{
    cli::{escape, screen::Screen},
    event::{Event, Kind},
};

/// Columns for the command that did it, in an event's line.
const ACTOR_WIDTH: usize = 36;

/// Time (UTC), session, kind, verdict, who, what, labels, rule. In a `timeline` of one session the
/// date and the session are left out.
pub fn event_line(screen: &Screen, event: &Event, timeline: bool) -> String {
    let mut line = if timeline {
        time_of_day(&event.time)
    } else {
        let session = event
            .session
            .as_deref()
            .map_or_else(|| "-".into(), escape::text);
        format!("{}  {session:<5}", full_time(&event.time))
    };
    line.push_str(&format!(" {:<8}{:<10} ", event.kind.name(), verdict(event)));
    if let Some(actor) = actor(event) {
        line.push_str(&escape::clip(
            &actor,
            if event.kind == Kind::Exec {
                usize::MAX
            } else {
                ACTOR_WIDTH
            },
        ));
    }
    if let Some(object) = object(event) {
        line.push_str(" → ");
        line.push_str(&object);
    }
    if !event.labels.is_empty() {
        line.push_str(&format!("  [{}]", escape::text(&event.labels.join(" "))));
    }
    if let Some(rule) = &event.rule {
        line.push_str(&format!("  rule {}", escape::text(rule)));
    }
    let word = if event.kind == Kind::Lost {
        "kill"
    } else {
        event.verdict.as_deref().unwrap_or_default()
    };
    screen.by_meaning(word, &screen.clip(line.trim_end()))
}

/// `hold`, or in observe mode `would kill`.
fn verdict(event: &Event) -> String {
    match (&event.would, &event.verdict) {
        (Some(would), _) => format!("would {}", escape::text(would)),
        (None, Some(verdict)) => escape::text(verdict),
        (None, None) => String::new(),
    }
}

/// Who did it: its command line, or as much as is known.
pub(crate) fn actor(event: &Event) -> Option<String> {
    let base = |path: &str| escape::text(path.rsplit('/').next().unwrap_or(path));
    // What an exec started is in its object; the event's own argv may be that or what ran before.
    let started: Option<Vec<&str>> = match event.kind {
        Kind::Exec => member(event, "argv")
            .and_then(Value::as_array)
            .map(|argv| argv.iter().filter_map(Value::as_str).collect()),
        _ => None,
    };
    if let Some(argv) = started.filter(|argv| !argv.is_empty()) {
        return Some(escape::command(&argv));
    }
    match (&event.argv, &event.exe, &event.comm) {
        (Some(argv), _, _) if !argv.is_empty() => Some(escape::command(argv)),
        (_, Some(exe), _) => Some(base(exe)),
        (_, _, Some(comm)) => Some(escape::text(comm)),
        _ => None,
    }
}

fn member<'a>(event: &'a Event, name: &str) -> Option<&'a Value> {
    event.object.as_ref()?.get(name)
}

/// What was acted on, by kind; the members are those of the contract.
pub(crate) fn object(event: &Event) -> Option<String> {
    let text = |name: &str| member(event, name).map(plain);
    match event.kind {
        Kind::Exec => text("cwd").map(|cwd| format!("in {cwd}")),
        Kind::Open => {
            text("path").or_else(|| Some(format!("dev {} ino {}", text("dev")?, text("ino")?)))
        }
        Kind::Connect => {
            let addr = text("addr");
            let port = text("port").filter(|port| port != "0");
            let at = match (addr, port) {
                (Some(addr), Some(port)) if addr.contains(':') => Some(format!("[{addr}]:{port}")),
                (Some(addr), Some(port)) => Some(format!("{addr}:{port}")),
                (addr, _) => addr.or_else(|| text("path")),
            };
            match (text("host"), at) {
                (Some(host), Some(at)) => Some(format!("{host} ({at})")),
                (host, at) => host.or(at),
            }
        }
        Kind::Request => {
            let mut parts = vec![
                text("method").unwrap_or_default(),
                text("host").unwrap_or_default(),
            ];
            if let Some(path) = text("path") {
                parts[1].push_str(&path);
            }
            if let Some(graphql) = member(event, "graphql") {
                parts.extend(
                    ["type", "field"]
                        .iter()
                        .filter_map(|name| graphql.get(name).map(plain)),
                );
            }
            let means = ["mcp", "aws", "kube", "grpc", "target"];
            parts.extend(means.iter().filter_map(|name| text(name)));
            parts.retain(|part| !part.is_empty());
            Some(parts.join(" "))
        }
        Kind::Lost => Some(format!(
            "{} {}",
            text("count")?,
            text("class").unwrap_or_default()
        )),
        Kind::Session if event.is_divergence() => {
            let categories = member(event, "categories").and_then(Value::as_array);
            let names: Vec<String> = categories
                .into_iter()
                .flatten()
                .filter_map(|one| one.get("category").map(plain))
                .collect();
            Some(format!(
                "divergence, score {}: {}",
                text("score")?,
                names.join(", ")
            ))
        }
        _ => other(event.object.as_ref()?),
    }
    .filter(|object| !object.is_empty())
}

/// Of the kinds whose members the contract leaves open: `name=value`, in the order of the names.
fn other(object: &Value) -> Option<String> {
    match object {
        Value::Object(members) => {
            let shown: Vec<String> = members
                .iter()
                .map(|(name, value)| format!("{}={}", escape::text(name), plain(value)))
                .collect();
            Some(shown.join(" "))
        }
        value => Some(plain(value)),
    }
}

/// A JSON value without the quotes of strings.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => escape::text(text),
        value => escape::text(&value.to_string()),
    }
}

/// `2026-11-21 20:40:22.123`: microseconds are for machines.
fn full_time(time: &str) -> String {
    match (time.get(..10), time.get(11..23)) {
        (Some(date), Some(clock)) => escape::text(&format!("{date} {clock}")),
        _ => escape::text(time),
    }
}

/// `20:40:22`
pub(crate) fn time_of_day(time: &str) -> String {
    escape::text(time.get(11..19).unwrap_or(time))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: Kind, object: Value) -> Event {
        let mut event = Event::new(kind);
        event.time = "2026-11-21T20:40:22.123456Z".into();
        event.session = Some("s-3".into());
        event.object = Some(object);
        event
    }

    #[test]
    fn a_line_says_when_who_what_and_what_was_done() {
        let mut open = event(Kind::Open, json!({"path": "/home/a/.env", "flags": 0}));
        open.argv = Some(vec!["cat".into(), ".env".into()]);
        open.labels = vec!["credential".into()];
        open.verdict = Some("hold".into());
        open.rule = Some("r".into());
        assert_eq!(
            event_line(&Screen::default(), &open, false),
            "2026-11-21 20:40:22.123  s-3   open    hold       cat .env → /home/a/.env  [credential]  rule r"
        );
        open.would = Some("kill".into());
        open.verdict = Some("allow".into());
        assert!(
            event_line(&Screen::default(), &open, true)
                .starts_with("20:40:22 open    would kill cat")
        );
    }

    #[test]
    fn each_kind_of_object_has_its_short_form() {
        let short = |kind, value| object(&event(kind, value)).unwrap_or_default();
        assert_eq!(
            short(
                Kind::Connect,
                json!({"family": "inet", "addr": "10.0.0.1", "port": 443})
            ),
            "10.0.0.1:443"
        );
        assert_eq!(
            short(
                Kind::Connect,
                json!({"family": "inet6", "addr": "2001:db8::1", "port": 443, "host": "h.example"})
            ),
            "h.example ([2001:db8::1]:443)"
        );
        assert_eq!(
            short(
                Kind::Connect,
                json!({"family": "unix", "addr": "/run/docker.sock"})
            ),
            "/run/docker.sock"
        );
        assert_eq!(
            short(Kind::Open, json!({"dev": 5, "ino": 7})),
            "dev 5 ino 7"
        );
        assert_eq!(
            short(Kind::Exec, json!({"argv": ["ls"], "cwd": "/w"})),
            "in /w"
        );
        assert_eq!(
            short(Kind::Lost, json!({"count": 3, "class": "activity"})),
            "3 activity"
        );
        assert_eq!(
            short(
                Kind::Request,
                json!({"host": "h", "method": "POST", "path": "/g", "graphql": {"type": "mutation", "field": "volumeDelete"}, "target": "volumeId=v-1"})
            ),
            "POST h/g mutation volumeDelete volumeId=v-1"
        );
        assert_eq!(
            short(Kind::Answer, json!({"id": "h-1", "answer": "deny"})),
            "answer=deny id=h-1"
        );
    }

    #[test]
    fn what_a_process_chose_cannot_act_on_the_terminal() {
        let mut evil = event(Kind::Open, json!({"path": "/tmp/\x1b[2J\u{202e}"}));
        evil.argv = Some(vec!["\x1b]0;owned\x07".into()]);
        evil.comm = Some("\n".into());
        evil.labels = vec!["\x1b".into()];
        let line = event_line(&Screen::default(), &evil, false);
        assert!(
            !line.chars().any(|c| c.is_control() || c == '\u{202e}'),
            "{line:?}"
        );
    }

    #[test]
    fn a_terminal_gets_lines_of_its_width() {
        let screen = Screen {
            color: true,
            width: Some(40),
        };
        let mut long = event(Kind::Open, json!({"path": "/x".repeat(200)}));
        long.verdict = Some("kill".into());
        let line = event_line(&screen, &long, false);
        let bare = line
            .strip_prefix("\x1b[31m")
            .and_then(|line| line.strip_suffix("\x1b[0m"))
            .unwrap();
        assert_eq!(bare.chars().count(), 40);
    }
}
