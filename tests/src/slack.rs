//! A stand-in for Slack: its Web API over HTTPS and Socket Mode over a real websocket, with the limits that Slack
//! documents for Block Kit held against every message.

use std::{
    collections::HashSet,
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::{
    eventually,
    hooks::{Hooks, Received, Reply},
    tls,
};

/// The bot's token.
pub const BOT: &str = "bot-token-of-a-test";
/// The app-level token.
pub const APP: &str = "app-token-of-a-test";
/// The channel that the bot is in.
pub const CHANNEL: &str = "C0TEST";

/// A workspace. It ends with the test's process.
pub struct Slack {
    hooks: Hooks,
    sockets: Arc<Sockets>,
}

#[derive(Default)]
struct Sockets {
    /// Of the newest connection.
    to: Mutex<Option<mpsc::Sender<Say>>>,
    opened: AtomicU64,
    acknowledged: Mutex<Vec<String>>,
}

enum Say {
    Text(String),
    Close,
}

impl Slack {
    /// A workspace whose authority's certificate goes to `ca`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(ca: &Path) -> Self {
        let config = Arc::new(tls::configuration(&["127.0.0.1"], ca));
        let sockets: Arc<Sockets> = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        let (shared, tls) = (sockets.clone(), config.clone());
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (shared, tls) = (shared.clone(), tls.clone());
                thread::spawn(move || socket(stream, tls, &shared));
            }
        });
        let posts = AtomicU64::new(0);
        let hooks = Hooks::with(config, move |request| api(request, port, &posts));
        Self { hooks, sockets }
    }

    /// The API's base address.
    pub fn api(&self) -> String {
        format!("https://127.0.0.1:{}/api/", self.hooks.port())
    }

    /// Address of an incoming webhook.
    pub fn webhook(&self) -> String {
        format!("https://127.0.0.1:{}/services/T0/B0/x", self.hooks.port())
    }

    /// Waits for a call of this method that is so; its body.
    #[track_caller]
    pub fn called(&self, method: &str, good: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/api/{method}");
        self.hooks
            .wait(method, |request| {
                request.path == path && good(&request.json())
            })
            .json()
    }

    /// Every call so far of this path.
    pub fn calls(&self, path: &str) -> Vec<Received> {
        let calls = self.hooks.received().into_iter();
        calls.filter(|request| request.path == path).collect()
    }

    /// Socket Mode's connections so far.
    pub fn opened(&self) -> u64 {
        self.sockets.opened.load(Ordering::SeqCst)
    }

    /// Waits until a connection is there that was not before.
    #[track_caller]
    pub fn connected(&self, before: u64) {
        eventually("Socket Mode is connected", || {
            (self.opened() > before).then_some(())
        });
    }

    /// Sends over the newest connection.
    #[track_caller]
    pub fn say(&self, value: &Value) {
        self.send(Say::Text(value.to_string()));
    }

    /// Sends any text over it.
    #[track_caller]
    pub fn say_text(&self, text: String) {
        self.send(Say::Text(text));
    }

    /// Closes it.
    #[track_caller]
    pub fn close(&self) {
        self.send(Say::Close);
    }

    #[track_caller]
    fn send(&self, what: Say) {
        let to = self.sockets.to.lock();
        let to = to.unwrap_or_else(PoisonError::into_inner);
        to.as_ref()
            .expect("a connection")
            .send(what)
            .expect("it is open");
    }

    /// Presses a button in a message that was posted, as this user; waits until guard has acknowledged it.
    #[track_caller]
    pub fn press(&self, user: &str, ts: &str, action: &str, value: &str) {
        let envelope = format!("e-{}", self.acknowledged().len() + 1);
        self.say(&json!({
            "envelope_id": envelope, "type": "interactive", "accepts_response_payload": false,
            "payload": {
                "type": "block_actions",
                "user": { "id": user, "username": "sam", "name": "sam", "team_id": "T0" },
                "team": { "id": "T0", "domain": "test" },
                "container": { "type": "message", "message_ts": ts, "channel_id": CHANNEL, "is_ephemeral": false },
                "channel": { "id": CHANNEL, "name": "approvals" },
                "actions": [{
                    "type": "button", "action_id": action, "block_id": "b", "value": value, "action_ts": "1.0",
                    "text": { "type": "plain_text", "text": "Approve" },
                }],
            },
        }));
        eventually("an acknowledgement", || {
            self.acknowledged().contains(&envelope).then_some(())
        });
    }

    fn acknowledged(&self) -> Vec<String> {
        let acknowledged = self.sockets.acknowledged.lock();
        acknowledged.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn api(request: &Received, port: u16, posts: &AtomicU64) -> Reply {
    let ok = |value: Value| Reply::new(200, value.to_string());
    let no = |error: &str| Reply::new(200, json!({ "ok": false, "error": error }).to_string());
    if request.path.starts_with("/services/") {
        return match wrong(&request.json()) {
            None => Reply::new(200, "ok"),
            Some(_) => Reply::new(400, "invalid_blocks"),
        };
    }
    let bearer = |token: &str| request.header("authorization") == Some(&format!("Bearer {token}"));
    let body = request.json();
    match request.path.as_str() {
        "/api/apps.connections.open" if bearer(APP) => ok(
            json!({ "ok": true, "url": format!("wss://127.0.0.1:{port}/link/?ticket=t&app_id=A0") }),
        ),
        "/api/chat.postMessage" | "/api/chat.update" | "/api/chat.postEphemeral" if bearer(BOT) => {
            if body["channel"] != CHANNEL {
                return no("channel_not_found");
            }
            if let Some(why) = wrong(&body) {
                return ok(json!({
                    "ok": false, "error": "invalid_blocks", "response_metadata": { "messages": [why] },
                }));
            }
            let n = posts.fetch_add(1, Ordering::SeqCst);
            ok(
                json!({ "ok": true, "channel": CHANNEL, "ts": format!("1764100000.{n:06}"), "message": body }),
            )
        }
        _ => no("invalid_auth"),
    }
}

/// What Slack would not take. <https://api.slack.com/reference/block-kit/blocks>
fn wrong(message: &Value) -> Option<String> {
    let length = |value: &Value| value.as_str().map(|text| text.chars().count());
    let within =
        |value: &Value, most: usize| length(value).is_some_and(|n| (1..=most).contains(&n));
    if !within(&message["text"], 4000) {
        return Some("text".into());
    }
    let no_blocks = Vec::new();
    let blocks = message["blocks"].as_array().unwrap_or(&no_blocks);
    if blocks.len() > 50 {
        return Some("more than 50 blocks".into());
    }
    let (mut block_ids, mut actions) = (HashSet::new(), HashSet::new());
    for block in blocks {
        if let Some(id) = block.get("block_id")
            && !(within(id, 255) && block_ids.insert(id.to_string()))
        {
            return Some(format!("block_id {id}"));
        }
        let good = match block["type"].as_str() {
            Some("header") => {
                block["text"]["type"] == "plain_text" && within(&block["text"]["text"], 150)
            }
            Some("rich_text") => block["elements"].as_array().is_some_and(|elements| {
                elements.iter().all(|element| {
                    element["type"] == "rich_text_preformatted"
                        && element["elements"].as_array().is_some_and(|texts| {
                            !texts.is_empty()
                                && texts.iter().all(|text| {
                                    text["type"] == "text" && within(&text["text"], 3000)
                                })
                        })
                })
            }),
            Some("actions") => block["elements"].as_array().is_some_and(|elements| {
                (1..=25).contains(&elements.len())
                    && elements.iter().all(|button| {
                        button["type"] == "button"
                            && button["text"]["type"] == "plain_text"
                            && within(&button["text"]["text"], 75)
                            && within(&button["value"], 2000)
                            && within(&button["action_id"], 255)
                            && actions.insert(button["action_id"].to_string())
                            && ["primary", "danger"]
                                .contains(&button["style"].as_str().unwrap_or("primary"))
                    })
            }),
            _ => false,
        };
        if !good {
            return Some(block.to_string());
        }
    }
    None
}

/// One connection of Socket Mode. <https://api.slack.com/apis/socket-mode>
fn socket(stream: TcpStream, config: Arc<ServerConfig>, sockets: &Sockets) {
    let _ = stream.set_nodelay(true);
    let Ok(connection) = ServerConnection::new(config) else {
        return;
    };
    let Ok(socket) = tungstenite::accept(StreamOwned::new(connection, stream)) else {
        return;
    };
    let mut socket: WebSocket<StreamOwned<ServerConnection, TcpStream>> = socket;
    let hello =
        json!({ "type": "hello", "num_connections": 1, "connection_info": { "app_id": "A0" } });
    if socket.send(Message::text(hello.to_string())).is_err() {
        return;
    }
    let (sender, lines) = mpsc::channel();
    *sockets.to.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    sockets.opened.fetch_add(1, Ordering::SeqCst);
    // Whoever reads and writes one socket by turns cannot wait for either.
    let _ = socket
        .get_ref()
        .sock
        .set_read_timeout(Some(Duration::from_millis(5)));
    loop {
        match lines.try_recv() {
            Ok(Say::Text(text)) => {
                if socket.send(Message::text(text)).is_err() {
                    return;
                }
            }
            Ok(Say::Close) => {
                let _ = socket.close(None);
                let _ = socket.flush();
                return;
            }
            Err(mpsc::TryRecvError::Empty) => {}
            Err(mpsc::TryRecvError::Disconnected) => return,
        }
        match socket.read() {
            Ok(Message::Text(text)) => {
                let ack: Value = serde_json::from_str(&text).unwrap_or_default();
                if let Some(id) = ack["envelope_id"].as_str() {
                    let acknowledged = sockets.acknowledged.lock();
                    acknowledged
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(id.into());
                }
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(error))
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(_) => return,
        }
    }
}
