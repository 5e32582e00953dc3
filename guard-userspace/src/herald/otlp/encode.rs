//! Events as log records and answered holds as spans, in OpenTelemetry's protobuf, with its semantic conventions' names
//! where they have one. <https://opentelemetry.io/docs/specs/semconv/registry/attributes/>

use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value as Any},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::event::{Event, Kind};

/// What a message is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Logs,
    Traces,
}

/// Knows which machine this is.
pub(super) struct Encoder {
    host: String,
    /// So that sessions of two machines are two traces.
    machine: Vec<u8>,
}

impl Encoder {
    /// For this machine.
    pub(super) fn here() -> Self {
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        Self {
            machine: std::fs::read("/etc/machine-id").unwrap_or_else(|_| host.clone().into_bytes()),
            host,
        }
    }

    /// The messages for these events: of what, of how many records, and the bytes.
    pub(super) fn messages(&self, events: &[Event]) -> Vec<(Signal, usize, Vec<u8>)> {
        let logs: Vec<LogRecord> = events.iter().map(|event| self.record(event)).collect();
        let spans: Vec<Span> = events.iter().filter_map(|event| self.span(event)).collect();
        let mut messages = vec![(
            Signal::Logs,
            logs.len(),
            ExportLogsServiceRequest {
                resource_logs: vec![ResourceLogs {
                    resource: Some(self.resource()),
                    scope_logs: vec![ScopeLogs {
                        scope: Some(scope()),
                        log_records: logs,
                        schema_url: String::new(),
                    }],
                    schema_url: String::new(),
                }],
            }
            .encode_to_vec(),
        )];
        if !spans.is_empty() {
            let count = spans.len();
            let request = ExportTraceServiceRequest {
                resource_spans: vec![ResourceSpans {
                    resource: Some(self.resource()),
                    scope_spans: vec![ScopeSpans {
                        scope: Some(scope()),
                        spans,
                        schema_url: String::new(),
                    }],
                    schema_url: String::new(),
                }],
            };
            messages.push((Signal::Traces, count, request.encode_to_vec()));
        }
        messages
    }

    fn resource(&self) -> Resource {
        Resource {
            attributes: vec![
                text("service.name", "guard"),
                text("service.version", env!("CARGO_PKG_VERSION")),
                text("host.name", &self.host),
                text("os.type", "linux"),
            ],
            ..Resource::default()
        }
    }

    /// One trace a session.
    fn trace_id(&self, session: &str) -> Vec<u8> {
        let hash = Sha256::new()
            .chain_update(&self.machine)
            .chain_update(b"/session/")
            .chain_update(session);
        hash.finalize()[..16].to_vec()
    }

    fn record(&self, event: &Event) -> LogRecord {
        let (number, word) = severity(event);
        let time = nanoseconds(&event.time);
        LogRecord {
            time_unix_nano: time,
            observed_time_unix_nano: time,
            severity_number: number as i32,
            severity_text: word.into(),
            body: Some(AnyValue {
                value: Some(Any::StringValue(line(event))),
            }),
            attributes: attributes(event),
            trace_id: event
                .session
                .as_deref()
                .map_or_else(Vec::new, |session| self.trace_id(session)),
            event_name: format!("guard.{}", event.kind.name()),
            ..LogRecord::default()
        }
    }

    /// A hold that has been answered, from the stop to the answer.
    fn span(&self, event: &Event) -> Option<Span> {
        if event.kind != Kind::Answer {
            return None;
        }
        let object = event.object.as_ref()?;
        let word = |key: &str| object.get(key).and_then(Value::as_str);
        let (id, session) = (word("id")?, event.session.as_deref()?);
        let end = nanoseconds(&event.time);
        let waited = object.get("waited_ms").and_then(Value::as_u64)?;
        let hash = Sha256::new()
            .chain_update(&self.machine)
            .chain_update(b"/hold/")
            .chain_update(id)
            .chain_update(&event.time)
            .finalize();
        let passed = event.verdict.as_deref() == Some("allow");
        Some(Span {
            trace_id: self.trace_id(session),
            span_id: hash[..8].to_vec(),
            name: format!("hold {}", event.rule.as_deref().unwrap_or_default()),
            kind: SpanKind::Internal as i32,
            start_time_unix_nano: end.saturating_sub(waited * 1_000_000),
            end_time_unix_nano: end,
            attributes: attributes(event),
            status: Some(Status {
                message: word("answer").unwrap_or_default().into(),
                code: if passed {
                    StatusCode::Ok
                } else {
                    StatusCode::Error
                } as i32,
            }),
            ..Span::default()
        })
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "guardd".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    }
}

/// Nanoseconds since 1970; 0, which means unknown, for what is no time.
fn nanoseconds(time: &str) -> u64 {
    time.parse::<jiff::Timestamp>()
        .ok()
        .and_then(|time| u64::try_from(time.as_nanosecond()).ok())
        .unwrap_or(0)
}

fn severity(event: &Event) -> (SeverityNumber, &'static str) {
    let verdict = event
        .verdict
        .as_deref()
        .filter(|verdict| *verdict != "allow");
    match verdict.or(event.would.as_deref()) {
        Some("kill" | "deny") => (SeverityNumber::Error, "ERROR"),
        Some("hold" | "flag") => (SeverityNumber::Warn, "WARN"),
        _ if event.kind == Kind::Lost => (SeverityNumber::Warn, "WARN"),
        _ => (SeverityNumber::Info, "INFO"),
    }
}

/// The event in one line, for people.
pub(in crate::herald) fn line(event: &Event) -> String {
    let mut line = match (event.verdict.as_deref(), event.would.as_deref()) {
        (_, Some(would)) => format!("would {would} "),
        (Some(verdict), None) if verdict != "allow" => format!("{verdict} "),
        _ => String::new(),
    };
    match event.kind {
        Kind::Exec | Kind::Open | Kind::Connect | Kind::Request | Kind::Signal | Kind::Call => {
            line.push_str(&crate::engine::target_of(event));
        }
        kind => {
            line.push_str(kind.name());
            if let Some(Value::Object(object)) = &event.object {
                for key in ["what", "id", "answer", "target", "why"] {
                    if let Some(value) = object.get(key).and_then(Value::as_str) {
                        line.push(' ');
                        line.push_str(value);
                    }
                }
            }
        }
    }
    for (what, value) in [
        ("by", &event.comm),
        ("of", &event.agent),
        ("in", &event.session),
        ("rule", &event.rule),
    ] {
        if let Some(value) = value {
            line.push_str(&format!(" {what} {value}"));
        }
    }
    // An agent chooses names and paths; a log is lines.
    line.chars()
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect()
            } else {
                vec![c]
            }
        })
        .collect()
}

fn attributes(event: &Event) -> Vec<KeyValue> {
    let mut all = vec![
        number("guard.event.seq", event.seq),
        text("guard.event.kind", event.kind.name()),
    ];
    let texts = [
        ("guard.session", &event.session),
        ("guard.agent", &event.agent),
        ("guard.verdict", &event.verdict),
        ("guard.would", &event.would),
        ("guard.rule", &event.rule),
        ("guard.tier", &event.tier),
        ("process.executable.path", &event.exe),
        ("process.executable.name", &event.comm),
    ];
    for (key, value) in texts {
        all.extend(value.as_deref().map(|value| text(key, value)));
    }
    let numbers = [
        ("process.pid", event.tgid.or(event.pid).map(u64::from)),
        ("thread.id", event.pid.map(u64::from)),
        ("process.parent_pid", event.ppid.map(u64::from)),
        ("guard.latency_ns", event.latency_ns),
    ];
    for (key, value) in numbers {
        all.extend(value.map(|value| number(key, value)));
    }
    // A string in the conventions.
    all.extend(event.uid.map(|uid| text("user.id", &uid.to_string())));
    if !event.labels.is_empty() {
        all.push(list("guard.labels", &event.labels));
    }
    if let Some(argv) = &event.argv {
        all.push(list("process.command_args", argv));
    }
    if let Some(Value::Object(object)) = &event.object {
        for (key, value) in object {
            all.push(KeyValue {
                key: named(event.kind, key)
                    .map_or_else(|| format!("guard.object.{key}"), str::to_owned),
                value: Some(any(value)),
                ..KeyValue::default()
            });
        }
    }
    all
}

/// What the conventions call a member of an event's object.
fn named(kind: Kind, key: &str) -> Option<&'static str> {
    match (kind, key) {
        (Kind::Open, "path") => Some("file.path"),
        (Kind::Open, "ino") => Some("file.inode"),
        (Kind::Connect | Kind::Request, "host") => Some("server.address"),
        (Kind::Connect, "addr") => Some("network.peer.address"),
        (Kind::Connect, "port") => Some("network.peer.port"),
        (Kind::Request, "port") => Some("server.port"),
        (Kind::Request, "method") => Some("http.request.method"),
        (Kind::Request, "path") => Some("url.path"),
        _ => None,
    }
}

fn any(value: &Value) -> AnyValue {
    let value = match value {
        Value::Null => None,
        Value::Bool(is) => Some(Any::BoolValue(*is)),
        Value::Number(number) => Some(match number.as_i64() {
            Some(whole) => Any::IntValue(whole),
            None => Any::DoubleValue(number.as_f64().unwrap_or(f64::NAN)),
        }),
        Value::String(text) => Some(Any::StringValue(text.clone())),
        Value::Array(items) => Some(Any::ArrayValue(ArrayValue {
            values: items.iter().map(any).collect(),
        })),
        Value::Object(_) => Some(Any::StringValue(value.to_string())),
    };
    AnyValue { value }
}

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Any::StringValue(value.into()))
}

fn number(key: &str, value: u64) -> KeyValue {
    pair(key, Any::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn list(key: &str, values: &[String]) -> KeyValue {
    let values = values.iter().map(|value| AnyValue {
        value: Some(Any::StringValue(value.clone())),
    });
    let array = ArrayValue {
        values: values.collect(),
    };
    pair(key, Any::ArrayValue(array))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answered_hold_is_a_span_of_its_sessions_trace() {
        let encoder = Encoder::here();
        let mut event = Event::new(Kind::Answer);
        event.time = "2026-11-21T20:40:22.500000Z".into();
        event.session = Some("s-3".into());
        event.verdict = Some("deny".into());
        event.rule = Some("r".into());
        event.object = Some(json!({ "id": "h-1", "answer": "denied", "waited_ms": 2500 }));
        let span = encoder.span(&event).unwrap();
        assert_eq!(
            span.end_time_unix_nano - span.start_time_unix_nano,
            2_500_000_000
        );
        assert_eq!(span.end_time_unix_nano % 1_000_000_000, 500_000_000);
        assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
        assert_eq!(span.status.unwrap().code, StatusCode::Error as i32);
        let record = encoder.record(&event);
        assert_eq!(record.trace_id, span.trace_id);
        event.session = Some("s-4".into());
        assert_ne!(encoder.record(&event).trace_id, span.trace_id);
    }

    #[test]
    fn what_an_agent_chooses_stays_on_its_line() {
        let mut event = Event::new(Kind::Open);
        event.verdict = Some("deny".into());
        event.object = Some(json!({ "path": "/tmp/a\nguard: all is well\u{1b}[2J" }));
        let line = line(&event);
        assert!(!line.contains(['\n', '\u{1b}']), "{line:?}");
        assert!(line.starts_with("deny open /tmp/a\\n"), "{line:?}");
    }
}
