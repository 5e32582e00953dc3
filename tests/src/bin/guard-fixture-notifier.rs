//! A notification service, or somebody who only pretends to be one, driven by lines on stdin: `guard-fixture-notifier
//! BUS` owns `org.freedesktop.Notifications` on the session bus at that path; with `--bystander` it owns nothing.
//!
//! `who`, `shown` (waits for a notification), `closed` (waits for one to be taken away), `click ID KEY`, `send NAME BYTES`.
//! Each is answered by a line of JSON.

use std::{
    collections::HashMap,
    io::{BufRead as _, Write as _},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use zbus::{connection::Builder, message::Header, zvariant::OwnedValue};

const NAME: &str = "org.freedesktop.Notifications";
const PATH: &str = "/org/freedesktop/Notifications";

struct Service {
    next: u32,
    shown: mpsc::UnboundedSender<Value>,
    closed: mpsc::UnboundedSender<Value>,
}

#[zbus::interface(name = "org.freedesktop.Notifications")]
impl Service {
    fn get_capabilities(&self) -> Vec<String> {
        ["actions", "body", "body-markup", "persistence"]
            .map(Into::into)
            .into()
    }

    #[expect(clippy::too_many_arguments, reason = "the interface has so many")]
    fn notify(
        &mut self,
        #[zbus(header)] header: Header<'_>,
        app_name: String,
        replaces: u32,
        _icon: String,
        summary: String,
        body: String,
        actions: Vec<String>,
        hints: HashMap<String, OwnedValue>,
        expires: i32,
    ) -> u32 {
        let id = if replaces == 0 {
            self.next += 1;
            self.next
        } else {
            replaces
        };
        let urgency = hints.get("urgency").and_then(|it| u8::try_from(it).ok());
        let _ = self.shown.send(json!({
            "id": id, "replaces": replaces, "app": app_name, "summary": summary, "body": body, "actions": actions,
            "urgency": urgency, "expires": expires,
            "from": header.sender().map(ToString::to_string),
        }));
        id
    }

    fn close_notification(&mut self, id: u32) {
        let _ = self.closed.send(json!({ "closed": id }));
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let path = words.next().unwrap_or_default();
    let bystander = words.next().is_some_and(|word| word == "--bystander");
    let (shown, mut shown_there) = mpsc::unbounded_channel();
    let (closed, mut closed_there) = mpsc::unbounded_channel();
    let service = Service {
        next: 0,
        shown,
        closed,
    };
    let address = format!("unix:path={path}");
    let builder = Builder::address(address.as_str())?.serve_at(PATH, service)?;
    let connection = if bystander {
        builder.build().await?
    } else {
        builder.name(NAME)?.build().await?
    };
    let (line, mut lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for text in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = line.send(text);
        }
    });
    while let Some(text) = lines.recv().await {
        let words: Vec<&str> = text.split(' ').collect();
        let answer = match words.as_slice() {
            ["who"] => json!({ "pid": std::process::id() }),
            ["shown"] => next(&mut shown_there).await,
            ["closed"] => next(&mut closed_there).await,
            ["click", id, key] => {
                let signal = (id.parse::<u32>()?, *key);
                let to: Option<&str> = None;
                connection
                    .emit_signal(to, PATH, NAME, "ActionInvoked", &signal)
                    .await?;
                json!({ "done": true })
            }
            ["send", name, bytes] => {
                let body = "x".repeat(bytes.parse()?);
                let sent = connection.call_method(Some(*name), "/", Some("a.b"), "C", &body);
                let sent = tokio::time::timeout(Duration::from_secs(10), sent).await;
                json!({ "sent": matches!(sent, Ok(Ok(_))) })
            }
            _ => json!({ "error": text }),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

async fn next(from: &mut mpsc::UnboundedReceiver<Value>) -> Value {
    from.recv().await.unwrap_or_default()
}
