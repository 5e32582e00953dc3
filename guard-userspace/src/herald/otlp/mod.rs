//! Events and holds for a collector of OpenTelemetry, by OTLP over HTTP with protobuf.
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp>

mod encode;

pub(super) use self::encode::line;

use std::{path::Path, time::Duration};

use hyper::StatusCode;
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceResponse, trace::v1::ExportTraceServiceResponse,
};
use prost::Message as _;
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use self::encode::{Encoder, Signal};
use super::{
    Context,
    http::{Answer, Client, Target},
    part::Part,
    secret,
};
use crate::{event::Event, policy::Otlp as Settings};

/// Events that wait to be sent; more are dropped, which `status` counts.
const ROOM: usize = 8192;
/// Events in one message.
const BATCH: usize = 512;
/// How long the first of a batch waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// How long after a first failure it is tried again; twice as long each time.
const SOON: Duration = Duration::from_secs(1);
/// The longest of these times, also where the collector asks for more.
const LATE: Duration = Duration::from_secs(60);
/// How often one batch is tried. A collector that is away for longer loses it.
const TRIES: u32 = 10;

/// The exporter.
pub(super) struct Otlp {
    settings: Settings,
    queue: mpsc::Sender<Event>,
    part: Part,
    sending: JoinHandle<()>,
}

impl Otlp {
    pub(super) fn new(settings: Settings, context: &Context) -> Self {
        let part = context.board.part("otlp");
        let (queue, events) = mpsc::channel(ROOM);
        let sending = tokio::spawn(send_all(settings.clone(), events, part.clone()));
        Self {
            settings,
            queue,
            part,
            sending,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn hear(&self, event: &Event) {
        if !self.settings.events.has(event) {
            return;
        }
        self.part.takes();
        if self.queue.try_send(event.clone()).is_err() {
            self.part
                .dropped(format!("{ROOM} events wait for the collector already"));
            self.part.settled(1);
        }
    }

    /// Sends what waits, as far as the collector takes it within this time.
    pub(super) async fn finish(self, patience: Duration) {
        drop(self.queue);
        if tokio::time::timeout(patience, self.sending).await.is_err() {
            // guardd has gone, and cannot count them any more.
            let waiting = self.part.waiting();
            tracing::error!(
                "otlp: at the end {waiting} events had not left, and are lost to the collector"
            );
        }
    }
}

/// The collector and what it is sent with.
struct Collector {
    client: Client,
    logs: Target,
    traces: Target,
    headers: Vec<(String, String)>,
}

impl Collector {
    fn new(settings: &Settings) -> Result<Self, String> {
        let target = |signal: &str| Target::parse(&format!("{}/v1/{signal}", settings.endpoint));
        let mut headers = vec![("content-type".into(), "application/x-protobuf".into())];
        if let Some(file) = &settings.headers_file {
            headers.extend(more_headers(file)?);
        }
        Ok(Self {
            client: Client::new(settings.ca_file.clone()),
            logs: target("logs")?,
            traces: target("traces")?,
            headers,
        })
    }

    /// Sends one message until the collector takes it; how many records of it the collector refused, and why.
    async fn send(
        &self,
        signal: Signal,
        body: &[u8],
        part: &Part,
    ) -> Result<(i64, String), String> {
        let target = match signal {
            Signal::Logs => &self.logs,
            Signal::Traces => &self.traces,
        };
        let headers: Vec<(&str, String)> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        let mut wait = SOON;
        for attempt in 1.. {
            let why = match self.client.post(target, &headers, body.to_vec()).await {
                Ok(answer) if answer.status.is_success() => return Ok(refused(signal, &answer)),
                Ok(answer) if is_worth_another(answer.status) => {
                    if let Some(seconds) = answer.header("retry-after").and_then(|v| v.parse().ok())
                    {
                        wait = Duration::from_secs(seconds).min(LATE);
                    }
                    format!("{}: it answered {}", target.authority(), answer.status)
                }
                Ok(answer) => {
                    return Err(format!(
                        "{}: it answered {}",
                        target.authority(),
                        answer.status
                    ));
                }
                Err(why) => why,
            };
            if attempt == TRIES {
                return Err(why);
            }
            part.failing(why);
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LATE);
        }
        unreachable!("the loop has no other end")
    }
}

/// <https://opentelemetry.io/docs/specs/otlp/#retryable-response-codes>
fn is_worth_another(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// What a collector says that it left out of a message that it took.
fn refused(signal: Signal, answer: &Answer) -> (i64, String) {
    let body = answer.body.clone();
    match signal {
        Signal::Logs => ExportLogsServiceResponse::decode(body)
            .ok()
            .and_then(|response| response.partial_success)
            .map(|partial| (partial.rejected_log_records, partial.error_message)),
        Signal::Traces => ExportTraceServiceResponse::decode(body)
            .ok()
            .and_then(|response| response.partial_success)
            .map(|partial| (partial.rejected_spans, partial.error_message)),
    }
    .unwrap_or_default()
}

/// `name: value` a line; empty lines and those that begin with `#` are left out.
fn more_headers(file: &Path) -> Result<Vec<(String, String)>, String> {
    let secret = secret::read(file)?;
    let text = secret
        .text()
        .ok_or_else(|| format!("{}: it is no text", file.display()))?;
    let mut headers = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        // The line itself is a secret.
        let wrong = || {
            let shown = file.display();
            format!(
                "{shown}: line {}: expected a header like 'name: value'",
                index + 1
            )
        };
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name = name.trim().to_ascii_lowercase();
        hyper::header::HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        hyper::header::HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
        headers.push((name, value.trim().to_owned()));
    }
    Ok(headers)
}

async fn send_all(settings: Settings, mut events: mpsc::Receiver<Event>, part: Part) {
    let encoder = Encoder::here();
    let mut collector = None;
    while let Some(first) = events.recv().await {
        let mut batch = vec![first];
        let until = Instant::now() + GATHER;
        while batch.len() < BATCH {
            match tokio::time::timeout_at(until, events.recv()).await {
                Ok(Some(event)) => batch.push(event),
                // Time is up, or guardd has gone.
                Ok(None) | Err(_) => break,
            }
        }
        if collector.is_none() {
            match Collector::new(&settings) {
                Ok(new) => collector = Some(new),
                Err(why) => {
                    drop_all(&part, batch.len(), &why);
                    part.settled(batch.len());
                    continue;
                }
            }
        }
        let Some(collector) = &collector else {
            continue;
        };
        for (signal, count, body) in encoder.messages(&batch) {
            match collector.send(signal, &body, &part).await {
                Ok((0, _)) => (0..count).for_each(|_| part.sent()),
                Ok((refused, why)) => {
                    let refused = usize::try_from(refused).unwrap_or(0).min(count);
                    (refused..count).for_each(|_| part.sent());
                    drop_all(
                        &part,
                        refused,
                        &format!("the collector refused some: {why}"),
                    );
                }
                Err(why) => drop_all(&part, count, &why),
            }
        }
        part.settled(batch.len());
    }
}

fn drop_all(part: &Part, count: usize, why: &str) {
    (0..count).for_each(|_| part.dropped(why));
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn headers_come_from_a_file_and_a_mistake_does_not_show_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("headers");
        let write = |text: &str| {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        write("# of the collector\nX-Api-Key: made-up\n\nauthorization: Basic bWFkZS11cA==\n");
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let headers = more_headers(&file).unwrap();
        assert_eq!(headers[0], ("x-api-key".into(), "made-up".into()));
        assert_eq!(headers[1].0, "authorization");
        write("x-api-key made-up\n");
        let said = more_headers(&file).unwrap_err();
        assert!(
            said.contains("line 1") && !said.contains("made-up"),
            "{said}"
        );
    }
}
