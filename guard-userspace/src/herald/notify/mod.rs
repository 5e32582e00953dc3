//! Who is told of holds, and of leases that sessions ask for, and how: each channel by itself, with a queue of its own that has an end, so that one that is
//! slow, stuck or gone keeps nothing from the others.

mod answer;
mod desktop;
mod sign;
mod slack;
mod terminal;
mod users;
mod webhook;

use std::{collections::BTreeMap, collections::HashMap, io, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use super::{Context, link::Told, part::Part};
use crate::{
    approval::{self, Frame},
    event::{Event, Kind},
    policy::{Notify, Webhook},
    wire::{HeraldRequest, HoldInfo, Reply},
};

/// Notices that wait for one channel. More are given up, and counted.
const ROOM: usize = 256;
/// Holds that one channel talks about at once. More are given up, and counted: nobody reads a hundred.
const AT_ONCE: usize = 128;

/// What a channel hears.
#[derive(Clone, Debug)]
enum Notice {
    /// A hold waits. Where the channel's message of it is, if a herald before this one has sent one.
    Held(Arc<Held>, Option<String>),
    /// It waits no more.
    Ended(Arc<Ended>),
}

/// A hold that people are told of, or a lease that is asked for.
#[derive(Debug)]
struct Held {
    info: HoldInfo,
    /// One line.
    headline: String,
    /// What `guardctl pending` shows.
    text: String,
    /// When silence decides.
    deadline: Instant,
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    id: String,
    /// `approved by alice by desktop`.
    how: String,
}

impl Held {
    fn new(info: HoldInfo, guardctl: &str) -> Self {
        Self {
            headline: approval::headline(&info),
            text: approval::text(&info, &Frame::message(guardctl)),
            deadline: Instant::now() + Duration::from_secs(info.expires_in_s),
            info,
        }
    }

    fn id(&self) -> &str {
        &self.info.id
    }

    /// The word for it in messages to programs.
    fn kind(&self) -> &'static str {
        if self.info.is_ask() { "ask" } else { "hold" }
    }

    fn token(&self) -> &str {
        self.info.token.as_deref().unwrap_or_default()
    }

    #[cfg(test)]
    fn of_test(id: &str, target: &str) -> Self {
        let mut hold = approval::a_hold();
        hold.id = id.into();
        hold.target = target.into();
        hold.token = Some("0123456789abcdef".into());
        Self::new(hold, "guardctl")
    }
}

/// One channel.
struct Channel {
    part: Part,
    notices: mpsc::Sender<Notice>,
    task: JoinHandle<()>,
}

impl Channel {
    fn start<F: Future<Output = ()> + Send + 'static>(
        name: &str,
        context: &Context,
        run: impl FnOnce(Part, mpsc::Receiver<Notice>) -> F,
    ) -> Self {
        let part = context.board.part(name);
        let (notices, receiver) = mpsc::channel(ROOM);
        let task = tokio::spawn(run(part.clone(), receiver));
        Self {
            part,
            notices,
            task,
        }
    }

    fn tell(&self, notice: Notice) {
        // Of what ended nobody must hear.
        let matters = matches!(notice, Notice::Held(..));
        if self.notices.try_send(notice).is_err() && matters {
            self.part.dropped(format!(
                "{ROOM} messages wait already: it does not keep up, and more are given up"
            ));
        }
    }
}

/// All channels, and the holds that wait.
pub(super) struct Notifier {
    settings: Notify,
    channels: Vec<Channel>,
    live: BTreeMap<String, Arc<Held>>,
}

impl Notifier {
    pub(super) fn new(settings: Notify, context: &Context) -> Self {
        let mut notifier = Self {
            settings: Notify::default(),
            channels: Vec::new(),
            live: BTreeMap::new(),
        };
        notifier.put(settings, context);
        notifier
    }

    /// Takes up other settings. A channel whose own have not changed goes on.
    pub(super) async fn change(&mut self, settings: Notify, context: &Context) -> io::Result<()> {
        self.put(settings, context);
        self.catch_up(context).await
    }

    fn put(&mut self, settings: Notify, context: &Context) {
        let old = std::mem::replace(&mut self.settings, settings);
        let new = self.settings.clone();
        if old.terminal != new.terminal {
            self.replace("terminal", new.terminal, context, terminal::run);
        }
        if old.desktop != new.desktop {
            self.replace("desktop", new.desktop, context, desktop::run);
        }
        if old.slack != new.slack {
            self.replace("slack", new.slack, context, slack::run);
        }
        let name = |webhook: &Webhook| format!("webhook {}", webhook.name);
        for gone in old.webhooks.iter().filter(|it| !new.webhooks.contains(it)) {
            self.replace(&name(gone), None, context, webhook::run);
        }
        for webhook in new.webhooks {
            if !old.webhooks.contains(&webhook) {
                self.replace(&name(&webhook), Some(webhook), context, webhook::run);
            }
        }
    }

    /// The old channel hears no more and ends; the new one is told of what waits.
    fn replace<S, F: Future<Output = ()> + Send + 'static>(
        &mut self,
        name: &str,
        settings: Option<S>,
        context: &Context,
        run: impl FnOnce(S, Context, Part, mpsc::Receiver<Notice>) -> F,
    ) {
        self.channels.retain(|channel| channel.part.name() != name);
        let Some(settings) = settings else { return };
        let channel = Channel::start(name, context, |part, notices| {
            run(settings, context.clone(), part, notices)
        });
        for held in self.live.values() {
            // Under other settings, it may be to other people.
            channel.tell(Notice::Held(held.clone(), None));
        }
        self.channels.push(channel);
    }

    /// Tells of the holds that wait and were not told of.
    pub(super) async fn catch_up(&mut self, context: &Context) -> io::Result<()> {
        let (holds, left_out) = self.ask(None, context).await?;
        if left_out > 0 {
            for channel in &self.channels {
                channel.part.dropped(format!(
                    "{left_out} holds more wait than can be told of at once: see 'guardctl pending'"
                ));
            }
        }
        for hold in holds {
            if !self.live.contains_key(&hold.id) {
                self.look(hold.id, context).await?;
            }
        }
        Ok(())
    }

    /// Takes an event up.
    pub(super) async fn hear(&mut self, event: &Event, context: &Context) -> io::Result<()> {
        let member = |name: &str| event.object.as_ref()?.get(name)?.as_str();
        let Some(id) = member("id") else {
            return Ok(());
        };
        match (event.kind, member("what")) {
            (Kind::Hold, Some("held")) if !self.live.contains_key(id) => {
                self.look(id.to_owned(), context).await?;
            }
            (Kind::Hold, Some("ended")) => self.end(id, "its process has exited".into()),
            (Kind::Grant, Some("asked")) if !self.live.contains_key(id) => {
                self.look(id.to_owned(), context).await?;
            }
            (Kind::Grant, Some("granted" | "refused")) => self.end(id, answer::how(event)),
            (Kind::Answer, _) => self.end(id, answer::how(event)),
            _ => {}
        }
        Ok(())
    }

    /// Holds as guardd has them; none, and every channel says so, where it will not tell.
    /// How many more there are for which a reply has no room.
    async fn ask(&self, id: Option<String>, context: &Context) -> io::Result<(Vec<HoldInfo>, u64)> {
        match context.link.herald(HeraldRequest::Holds { id }).await? {
            Told::Reply(Reply::Pending {
                holds, left_out, ..
            }) => Ok((holds, left_out)),
            Told::Reply(other) => Err(super::unexpected(&other)),
            Told::Refused(why) => {
                for channel in &self.channels {
                    channel.part.dropped(why.clone());
                }
                Ok((Vec::new(), 0))
            }
        }
    }

    /// Tells of one hold, if it still waits.
    async fn look(&mut self, id: String, context: &Context) -> io::Result<()> {
        for info in self.ask(Some(id), context).await?.0 {
            let held = Arc::new(Held::new(info, &context.guardctl));
            for channel in &self.channels {
                let told = held.info.told.get(&channel.part.name()).cloned();
                channel.tell(Notice::Held(held.clone(), told));
            }
            self.live.insert(held.id().to_owned(), held);
        }
        Ok(())
    }

    fn end(&mut self, id: &str, how: String) {
        if self.live.remove(id).is_none() {
            return;
        }
        let ended = Arc::new(Ended { id: id.into(), how });
        for channel in &self.channels {
            channel.tell(Notice::Ended(ended.clone()));
        }
    }

    /// Waits until each channel has said what it had to.
    pub(super) async fn finish(&mut self) {
        for Channel { notices, task, .. } in self.channels.drain(..) {
            drop(notices);
            let _ = task.await;
        }
    }
}

/// Says to guardd that a channel has told of a hold, and where its message is, for a herald after this one.
async fn told(context: &Context, part: &Part, held: &Held, place: String) {
    let request = HeraldRequest::Told {
        id: held.id().into(),
        channel: part.name(),
        place,
    };
    // guardd has gone if this fails.
    let _ = context.link.herald(request).await;
}

/// What a channel's talk about one hold waits for: what became of it, or an error when nobody will say any more.
type End = oneshot::Receiver<Arc<Ended>>;

/// Runs a channel that talks about each hold by itself; a talk is given where its message is, if there is one already.
async fn each<F: Future<Output = ()> + Send + 'static>(
    part: Part,
    mut notices: mpsc::Receiver<Notice>,
    talk: impl Fn(Arc<Held>, Option<String>, End) -> F,
) {
    let mut ends: HashMap<String, oneshot::Sender<Arc<Ended>>> = HashMap::new();
    let mut talks: JoinSet<String> = JoinSet::new();
    loop {
        tokio::select! {
            notice = notices.recv() => match notice {
                Some(Notice::Held(held, told)) if talks.len() < AT_ONCE => {
                    let (sender, end) = oneshot::channel();
                    let id = held.id().to_owned();
                    ends.insert(id.clone(), sender);
                    let talk = talk(held, told, end);
                    talks.spawn(async move {
                        talk.await;
                        id
                    });
                }
                Some(Notice::Held(held, _)) => part.dropped(format!(
                    "{}: {AT_ONCE} holds wait already: nobody is told of more", held.id()
                )),
                Some(Notice::Ended(ended)) => {
                    if let Some(end) = ends.remove(&ended.id) {
                        // Its talk may be over.
                        let _ = end.send(ended);
                    }
                }
                None => break,
            },
            Some(done) = talks.join_next(), if !talks.is_empty() => {
                if let Ok(id) = done {
                    ends.remove(&id);
                }
            }
        }
    }
    drop(ends);
    while talks.join_next().await.is_some() {}
}
