//! Notifications on the user's desktop. <https://specifications.freedesktop.org/notification-spec/latest/>
//!
//! A click can answer where the settings allow it. Everything of the user's can speak on the user's bus, an agent too, so
//! a click counts only if it comes from whoever showed the notification, and guardd takes it only if that process, and
//! the bus itself, belong to no session, and if that process could have answered on the control socket as well.

mod bus;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

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
    each(part, notices, |held, told, end| {
        service.clone().talk(held, told.unwrap_or_default(), end)
    })
    .await;
}

impl Service {
    /// One hold on every desktop that it concerns. What a herald before this one has shown is shown again in its
    /// place: nobody takes the clicks on it any more.
    async fn talk(self: Arc<Self>, held: Arc<Held>, told: String, end: End) {
        let (ended, over) = watch::channel(false);
        let places = Places::of(&told);
        let showing = async {
            let named = held.clone();
            let wanted = self.settings.users.clone();
            // Names are looked up by whatever the machine asks, which may take its time.
            let users = tokio::task::spawn_blocking(move || users::of(&named.info, &wanted)).await;
            let users = match users.map_err(|error| error.to_string()).flatten() {
                Ok(users) => users,
                Err(why) => return self.part.dropped(format!("{}: {why}", held.id())),
            };
            let each = users
                .iter()
                .map(|uid| self.show(*uid, &held, &places, over.clone()));
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
        places: &Places,
        mut over: watch::Receiver<bool>,
    ) -> Result<(), String> {
        let name = approval::user_name(uid).unwrap_or_else(|| format!("uid {uid}"));
        let path = self.settings.bus.replace("{uid}", &uid.to_string());
        let (bus, signals) = Bus::connect(&path, uid)
            .await
            .map_err(|why| format!("the desktop of {name}: {why}"))?;
        let shown = self
            .notify(&bus, held, places.before(uid))
            .await
            .map_err(|why| format!("the desktop of {name}: {why}"))?;
        self.answers.told(held, places.put(uid, &shown)).await;
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

    /// In place of another one, if that is still shown by the same service.
    async fn notify(
        &self,
        bus: &Bus,
        held: &Held,
        before: Option<(u32, String)>,
    ) -> Result<Shown, String> {
        let can = bus.capabilities().await?;
        let replaces = match before {
            Some((id, owner)) if bus.owner().await.is_ok_and(|now| now == owner) => id,
            _ => 0,
        };
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
            replaces,
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

/// What is shown where, by user: a notification's number and the unique name of who shows it.
struct Places(Mutex<BTreeMap<u32, (u32, String)>>);

impl Places {
    /// From what [`Self::put`] has given: `UID ID OWNER` of each.
    fn of(text: &str) -> Self {
        let place = |place: &str| {
            let mut words = place.split(' ');
            let uid = words.next()?.parse().ok()?;
            let id = words.next()?.parse().ok()?;
            Some((uid, (id, words.next()?.to_owned())))
        };
        Self(Mutex::new(text.split(',').filter_map(place).collect()))
    }

    fn before(&self, uid: u32) -> Option<(u32, String)> {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.get(&uid).cloned()
    }

    /// All of them, as text, with this one.
    fn put(&self, uid: u32, shown: &Shown) -> String {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.insert(uid, (shown.id, shown.owner.clone()));
        let places = places.iter();
        let places: Vec<String> = places
            .map(|(uid, (id, owner))| format!("{uid} {id} {owner}"))
            .collect();
        places.join(",")
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_notifications_are_is_found_again() {
        let places = Places::of("");
        assert_eq!(places.before(1000), None);
        let shown = |id| Shown {
            id,
            owner: format!(":1.{id}"),
            process: None,
        };
        places.put(0, &shown(7));
        let text = places.put(1000, &shown(9));
        let again = Places::of(&text);
        assert_eq!(again.before(0), Some((7, ":1.7".into())));
        assert_eq!(again.before(1000), Some((9, ":1.9".into())));
        assert_eq!(again.before(1), None);
    }
}
