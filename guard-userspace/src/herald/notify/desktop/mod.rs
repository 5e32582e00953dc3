//! Notifications on the user's desktop. <https://specifications.freedesktop.org/notification-spec/latest/>
//!
//! A click can answer where the settings allow it. Everything of the user's can speak on the user's bus, an agent too, so
//! a click counts only if it comes from whoever showed the notification, and guardd takes it only if that process, and
//! the bus itself, belong to no session, and if that process could have answered on the control socket as well.

mod bus;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all};
use tokio::{sync::mpsc, sync::watch, time::Instant};
use zbus::{MessageStream, zvariant::Value};

use self::bus::{Bus, Call};
use super::{Context, End, Held, Notice, Part, answer::Answers, each, users};
use crate::{
    approval,
    policy::Desktop,
    wire::{Through, Via},
};

/// Urgency "critical": it stays until somebody looks.
const CRITICAL: u8 = 2;
/// Clicks on one notification that are looked at.
const CLICKS: u32 = 8;
/// Actions, before the hold's token.
const APPROVE: &str = "approve:";
/// See [`APPROVE`].
const DENY: &str = "deny:";

struct Service {
    settings: Desktop,
    part: Part,
    answers: Answers,
}

pub(super) async fn run(
    settings: Desktop,
    context: Context,
    part: Part,
    notices: mpsc::Receiver<Notice>,
) {
    let service = Arc::new(Service {
        answers: Answers::new(context, part.clone()),
        part: part.clone(),
        settings,
    });
    part.ok();
    each(part, notices, |held, end| service.clone().talk(held, end)).await;
}

impl Service {
    /// One hold on every desktop that it concerns.
    async fn talk(self: Arc<Self>, held: Arc<Held>, end: End) {
        let (ended, over) = watch::channel(false);
        let showing = async {
            let named = held.clone();
            let wanted = self.settings.users.clone();
            // Names are looked up by whatever the machine asks, which may take its time.
            let users = tokio::task::spawn_blocking(move || users::of(&named.info, &wanted)).await;
            let users = match users.map_err(|error| error.to_string()).flatten() {
                Ok(users) => users,
                Err(why) => return self.part.dropped(format!("{}: {why}", held.id())),
            };
            let each = users.iter().map(|uid| self.show(*uid, &held, over.clone()));
            let shown = join_all(each).await;
            if shown.iter().any(Result::is_ok) {
                return;
            }
            let whys: Vec<String> = shown.into_iter().filter_map(Result::err).collect();
            self.part
                .dropped(format!("{}: {}", held.id(), whys.join("; ")));
        };
        tokio::pin!(showing);
        tokio::select! {
            () = &mut showing => {}
            _ = end => {
                let _ = ended.send(true);
                showing.await;
            }
        }
    }

    /// Shows it to one user and waits for a click. An error only when it could not be shown.
    async fn show(
        &self,
        uid: u32,
        held: &Held,
        mut over: watch::Receiver<bool>,
    ) -> Result<(), String> {
        let name = approval::user_name(uid).unwrap_or_else(|| format!("uid {uid}"));
        let path = self.settings.bus.replace("{uid}", &uid.to_string());
        let (bus, signals) = Bus::connect(&path, uid)
            .await
            .map_err(|why| format!("the desktop of {name}: {why}"))?;
        let shown = self
            .notify(&bus, held)
            .await
            .map_err(|why| format!("the desktop of {name}: {why}"))?;
        self.part.sent();
        let clicks = async {
            self.clicks(&bus, signals, &shown, held, &name).await;
            // It was closed, or clicked too often; what is left is to wait.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => {}
            () = tokio::time::sleep_until(held.deadline) => {}
            () = clicks => {}
        }
        bus.close(shown.id).await;
        Ok(())
    }

    async fn notify(&self, bus: &Bus, held: &Held) -> Result<Shown, String> {
        let can = bus.capabilities().await?;
        let can = |what: &str| can.iter().any(|capability| capability == what);
        let body = if can("body-markup") {
            let escaped = held.text.replace('&', "&amp;");
            escaped.replace('<', "&lt;").replace('>', "&gt;")
        } else {
            held.text.clone()
        };
        let (deny, approve) = (
            format!("{DENY}{}", held.token()),
            format!("{APPROVE}{}", held.token()),
        );
        let mut actions: Vec<&str> = Vec::new();
        if self.settings.answer && can("actions") {
            actions.extend([deny.as_str(), "Deny"]);
            if self.settings.approve {
                actions.extend([approve.as_str(), "Approve"]);
            }
        }
        let hints = HashMap::from([
            ("urgency", Value::U8(CRITICAL)),
            ("category", Value::from("device.error")),
        ]);
        let summary = format!("guard: {}", held.headline);
        let call = Call {
            summary: &summary,
            body: &body,
            actions,
            hints,
        };
        let (id, owner) = bus.notify(call).await?;
        // Known from the start, so that no other process can be in its place when the click comes.
        let process = bus.process(&owner).await.ok();
        Ok(Shown { id, owner, process })
    }

    /// Takes clicks until it is closed.
    async fn clicks(
        &self,
        bus: &Bus,
        signals: MessageStream,
        shown: &Shown,
        held: &Held,
        user: &str,
    ) {
        let (mut signals, mut clicks) = (std::pin::pin!(bus::signals(signals)), 0);
        while let Some(signal) = signals.next().await {
            let Some(signal) = signal else { continue };
            if signal.id != shown.id {
                continue;
            }
            let from_it = signal.sender == shown.owner;
            let Some(action) = signal.action else {
                if from_it {
                    return;
                }
                continue;
            };
            let (approve, token) = match (action.strip_prefix(APPROVE), action.strip_prefix(DENY)) {
                (Some(token), _) => (true, token),
                (_, Some(token)) => (false, token),
                // A click on the notification itself.
                _ => continue,
            };
            clicks += 1;
            if clicks > CLICKS {
                return;
            }
            let mut via = Via {
                channel: "desktop".into(),
                who: user.to_owned(),
                from: Some(bus.path().to_owned()),
                processes: Vec::new(),
            };
            match self.came_from(bus, shown, &signal.sender).await {
                Ok(processes) => {
                    via.processes = processes;
                    // A refusal is recorded by guardd.
                    let _ = self.answers.give(held, token, approve, via).await;
                }
                Err(why) => self.answers.refuse(Some(held.id()), &why, via).await,
            }
        }
    }

    /// Who clicked, as the bus and the kernel know them.
    async fn came_from(
        &self,
        bus: &Bus,
        shown: &Shown,
        sender: &str,
    ) -> Result<Vec<Through>, String> {
        if !self.settings.answer {
            return Err("it was not asked for an answer".into());
        }
        let process = bus.process(sender).await;
        if sender != shown.owner {
            let who = process.map_or_else(|why| why, |it| format!("pid {}", it.pid));
            return Err(format!(
                "the click comes from {who}, which has not shown the notification"
            ));
        }
        let process = process?;
        if shown.process != Some(process) {
            return Err(
                "another process is in the place of the one that has shown the notification".into(),
            );
        }
        Ok(vec![process, bus.listener()?])
    }
}

/// A notification that is shown.
#[derive(Clone, Debug)]
struct Shown {
    id: u32,
    /// Unique name on the bus of who shows it.
    owner: String,
    process: Option<Through>,
}

/// How long a call on a bus may take, which belongs to the user and need not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits for an answer of the bus, but not for ever.
async fn soon<T, E: std::fmt::Display>(
    what: &str,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout_at(Instant::now() + PATIENCE, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let error: String = error
                .to_string()
                .chars()
                .filter(|c| !c.is_control())
                .take(200)
                .collect();
            Err(format!("{what}: {error}"))
        }
        Err(_) => Err(format!("{what}: no answer within {} s", PATIENCE.as_secs())),
    }
}
