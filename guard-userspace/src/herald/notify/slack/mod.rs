//! Slack: a message to a channel, or to an incoming webhook. With a bot and Socket Mode it has buttons, which only the
//! users whom the policy names may press. <https://api.slack.com/apis/socket-mode>

mod api;
mod message;
mod socket;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tokio::sync::mpsc;

use self::api::Api;
use super::{Context, End, Held, Notice, Part, answer::Answers, each};
use crate::{
    herald::{http::Target, secret},
    policy::{Slack, SlackTo},
};

/// Where a hold's message is, which an update has to name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Posted {
    channel: String,
    ts: String,
}

impl Posted {
    /// `CHANNEL TS`; nothing for a message by an incoming webhook, which cannot be named.
    fn place(posted: Option<&Self>) -> String {
        posted.map_or_else(String::new, |it| format!("{} {}", it.channel, it.ts))
    }

    fn at(place: &str) -> Option<Self> {
        let (channel, ts) = place.split_once(' ')?;
        Some(Self {
            channel: channel.into(),
            ts: ts.into(),
        })
    }
}

/// A hold that Slack was told of.
#[derive(Clone, Debug)]
struct Live {
    held: Arc<Held>,
    posted: Option<Posted>,
}

/// The workspace.
struct Workspace {
    settings: Slack,
    api: Api,
    part: Part,
    answers: Answers,
    live: Mutex<HashMap<String, Live>>,
}

pub(super) async fn run(
    settings: Slack,
    context: Context,
    part: Part,
    notices: mpsc::Receiver<Notice>,
) {
    let workspace = Arc::new(Workspace {
        api: Api::new(&settings),
        answers: Answers::new(context, part.clone()),
        part: part.clone(),
        live: Mutex::default(),
        settings,
    });
    match workspace.ready().await {
        Ok(()) => part.ok(),
        Err(why) => part.failing(why),
    }
    let buttons = workspace
        .settings
        .answers
        .is_some()
        .then(|| tokio::spawn(socket::run(workspace.clone())));
    each(part, notices, |held, told, end| {
        workspace.clone().talk(held, told, end)
    })
    .await;
    if let Some(buttons) = buttons {
        buttons.abort();
    }
}

impl Workspace {
    fn live(&self) -> MutexGuard<'_, HashMap<String, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it could send, as far as that can be known before.
    async fn ready(&self) -> Result<(), String> {
        let file = match &self.settings.to {
            SlackTo::Webhook { file } => file,
            SlackTo::Channel { token_file, .. } => token_file,
        };
        secret::read(file)?;
        if let Some(answers) = &self.settings.answers {
            secret::read(&answers.token_file)?;
        }
        self.api.prepare().await
    }

    /// One hold: the message, or the one that is there already, and what became of it.
    async fn talk(self: Arc<Self>, held: Arc<Held>, told: Option<String>, end: End) {
        let live = Live {
            held: held.clone(),
            posted: told.as_deref().and_then(Posted::at),
        };
        // Before the message: a button may be pressed before the answer to the post has come.
        self.live().insert(held.id().to_owned(), live);
        let posting = async {
            match told {
                Some(place) => Ok(Posted::at(&place)),
                None => {
                    let posted = self.post(&held).await?;
                    let place = Posted::place(posted.as_ref());
                    self.answers.told(&held, place).await;
                    self.part.sent();
                    Ok::<_, String>(posted)
                }
            }
        };
        match posting.await {
            Ok(posted) => {
                if let Some(live) = self.live().get_mut(held.id()) {
                    live.posted.clone_from(&posted);
                }
                if let (Ok(ended), Some(posted)) = (end.await, posted) {
                    self.update(&posted, &message::ended(&held, &ended.how))
                        .await;
                }
            }
            Err(why) => {
                self.part.dropped(format!("{}: {why}", held.id()));
                let _ = end.await;
            }
        }
        self.live().remove(held.id());
    }

    async fn post(&self, held: &Held) -> Result<Option<Posted>, String> {
        let answers = self.settings.answers.as_ref();
        let mut body = message::held(held, answers);
        match &self.settings.to {
            SlackTo::Webhook { file } => {
                let address = secret::read(file)?;
                let address = address.text().unwrap_or_default();
                let target = Target::parse(address).map_err(|why| {
                    // Not with the address: it is the secret.
                    format!(
                        "the address in {}: {}",
                        file.display(),
                        why.replace(address, "***")
                    )
                })?;
                self.api.incoming_webhook(&target, &body).await?;
                Ok(None)
            }
            SlackTo::Channel {
                token_file,
                channel,
            } => {
                body["channel"] = channel.clone().into();
                let reply = self.api.call("chat.postMessage", token_file, &body).await?;
                let text = |name: &str| reply[name].as_str().map(str::to_owned);
                Ok(text("channel")
                    .zip(text("ts"))
                    .map(|(channel, ts)| Posted { channel, ts }))
            }
        }
    }

    /// Puts another message in the place of one.
    async fn update(&self, posted: &Posted, message: &Value) {
        let SlackTo::Channel { token_file, .. } = &self.settings.to else {
            return;
        };
        let mut body = message.clone();
        body["channel"] = posted.channel.clone().into();
        body["ts"] = posted.ts.clone().into();
        if let Err(why) = self.api.call("chat.update", token_file, &body).await {
            self.part.failing(why);
        }
    }

    /// A line that only one user sees.
    async fn whisper(&self, channel: &str, user: &str, text: &str) {
        let SlackTo::Channel { token_file, .. } = &self.settings.to else {
            return;
        };
        let body = serde_json::json!({
            "channel": channel, "user": user, "text": message::escaped(text, 1000),
        });
        if let Err(why) = self.api.call("chat.postEphemeral", token_file, &body).await {
            self.part.failing(why);
        }
    }
}
