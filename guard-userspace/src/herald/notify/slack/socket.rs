//! Socket Mode: Slack says by a websocket which button was pressed and by whom. The connection is guard's own, made
//! outwards; nothing listens.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use super::{Live, Posted, Workspace, message};
use crate::{approval::middle, herald::http::Stream, policy::SlackAnswers, wire::Via};

/// The longest message that is read, in bytes. One that says which button was pressed holds the message that it is in.
const LONGEST: usize = 1 << 20;
/// Slack says something more often than this, if only that it is there.
const SILENCE: Duration = Duration::from_secs(90);
/// How often we ask whether it is.
const PING: Duration = Duration::from_secs(30);
/// How long one message to Slack may take.
const SENDING: Duration = Duration::from_secs(10);
/// How long after an end it is connected again; twice as long each time.
const SOON: Duration = Duration::from_millis(500);
/// The longest of these times.
const LATE: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<Box<dyn Stream>>;

/// Keeps the connection for as long as it is polled.
pub(super) async fn run(workspace: Arc<Workspace>) {
    let Some(answers) = workspace.settings.answers.clone() else {
        return;
    };
    let mut wait = SOON;
    loop {
        let began = Instant::now();
        let ended = match connect(&workspace, &answers).await {
            Ok(socket) => listen(&workspace, &answers, socket).await,
            Err(why) => Err(why),
        };
        match ended {
            // Slack asks for it every few hours.
            Ok(()) => wait = SOON,
            Err(why) => {
                if began.elapsed() > LATE {
                    wait = SOON;
                }
                workspace
                    .part
                    .failing(format!("no button can be pressed: {why}"));
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LATE);
            }
        }
    }
}

async fn connect(workspace: &Workspace, answers: &SlackAnswers) -> Result<Socket, String> {
    let reply = workspace
        .api
        .call("apps.connections.open", &answers.token_file, &json!({}))
        .await?;
    let address = reply["url"].as_str().unwrap_or_default();
    let stream = workspace.api.connect(address).await?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(LONGEST))
        .max_frame_size(Some(LONGEST))
        .max_write_buffer_size(LONGEST);
    let opening = tokio_tungstenite::client_async_with_config(address, stream, Some(config));
    // The address holds a ticket, and what fails here may name it.
    let opened = tokio::time::timeout(SENDING, opening).await;
    let (socket, _) = opened
        .map_err(|_| "Slack's socket does not open within 10 s")?
        .map_err(|_| "Slack's socket does not open")?;
    Ok(socket)
}

/// Until Slack asks for another connection, or an error.
async fn listen(
    workspace: &Arc<Workspace>,
    answers: &SlackAnswers,
    mut socket: Socket,
) -> Result<(), String> {
    let mut heard = Instant::now();
    let mut ping = tokio::time::interval(PING);
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(heard + SILENCE) => {
                return Err(format!("Slack has said nothing for {} s", SILENCE.as_secs()));
            }
            _ = ping.tick() => say(&mut socket, Message::Ping(Vec::new().into())).await?,
            received = socket.next() => {
                let message = match received {
                    Some(Ok(message)) => message,
                    Some(Err(error)) => return Err(format!("Slack's socket: {error}")),
                    None => return Err("Slack has closed its socket".into()),
                };
                heard = Instant::now();
                let Message::Text(text) = message else { continue };
                let Ok(envelope) = serde_json::from_str::<Value>(&text) else {
                    return Err("what Slack says by its socket is not JSON".into());
                };
                // First, and whatever it is: Slack wants to know within three seconds that it has come.
                if let Some(id) = envelope["envelope_id"].as_str() {
                    let ack = json!({ "envelope_id": id }).to_string();
                    say(&mut socket, Message::text(ack)).await?;
                }
                match envelope["type"].as_str() {
                    Some("hello") => workspace.part.ok(),
                    Some("disconnect") => {
                        return match envelope["reason"].as_str() {
                            Some("link_disabled") => Err("Socket Mode is off: turn it on for the app".into()),
                            _ => Ok(()),
                        };
                    }
                    Some("interactive") => {
                        let (workspace, answers) = (workspace.clone(), answers.clone());
                        tokio::spawn(async move {
                            pressed(&workspace, &answers, &envelope["payload"]).await;
                        });
                    }
                    _ => {}
                }
            }
        }
    }
}

async fn say(socket: &mut Socket, message: Message) -> Result<(), String> {
    tokio::time::timeout(SENDING, socket.send(message))
        .await
        .map_err(|_| "Slack does not read from its socket".to_owned())?
        .map_err(|error| format!("Slack's socket: {error}"))
}

/// A button. <https://api.slack.com/reference/interaction-payloads/block-actions>
async fn pressed(workspace: &Workspace, answers: &SlackAnswers, payload: &Value) {
    let action = &payload["actions"][0];
    let approve = match action["action_id"].as_str() {
        Some(message::APPROVE) => true,
        Some(message::DENY) => false,
        // Another app's, or a link.
        _ => return,
    };
    let text = |value: &Value| {
        value
            .as_str()
            .map(|text| middle(text, 100))
            .unwrap_or_default()
    };
    let user = text(&payload["user"]["id"]);
    let name = match text(&payload["user"]["username"]) {
        name if name.is_empty() => text(&payload["user"]["name"]),
        name => name,
    };
    let place = Posted {
        channel: text(&payload["container"]["channel_id"]),
        ts: text(&payload["container"]["message_ts"]),
    };
    let via = Via {
        channel: "slack".into(),
        who: if name.is_empty() {
            user.clone()
        } else {
            format!("{name} ({user})")
        },
        from: Some(format!(
            "{} {}",
            text(&payload["team"]["id"]),
            place.channel
        )),
        processes: Vec::new(),
    };
    let value = text(&action["value"]);
    let (id, token) = value.split_once(' ').unwrap_or((&value, ""));
    if !answers.users.contains(&user) {
        let why = "this user may not answer: they are not among answer_users";
        workspace.answers.refuse(Some(id), why, via).await;
        workspace
            .whisper(
                &place.channel,
                &user,
                "You may not answer for guard: its policy does not name you.",
            )
            .await;
        return;
    }
    let live: Option<Live> = workspace.live().get(id).cloned();
    let Some(live) = live else {
        let why = format!(
            "{id}: no such hold waits: it was answered, timed out or its process has exited"
        );
        workspace.answers.refuse(Some(id), &why, via).await;
        workspace.update(&place, &message::stale(id)).await;
        return;
    };
    match workspace
        .answers
        .give(&live.held, token, approve, via)
        .await
    {
        Ok(_) if live.posted.is_some_and(|posted| posted != place) => {
            // The message of a herald before this one: what ends the hold only changes the newest.
            let word = if approve { "approved" } else { "denied" };
            let how = format!("{word} by {name} (slack)");
            workspace
                .update(&place, &message::ended(&live.held, &how))
                .await;
        }
        Ok(_) => {}
        Err(why) => {
            let said = format!("guard has not taken it: {why}");
            workspace.whisper(&place.channel, &user, &said).await;
        }
    }
}
