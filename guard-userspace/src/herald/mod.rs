//! The herald: guardd's child that talks to the world outside, so that nothing of that runs where holds are
//! judged. It tells people of holds by the channels that the policy names (`notify`) and brings their answers.
//!
//! It is an ordinary process: it may be slow, stuck or dead without anybody's call waiting for it. guardd starts it
//! where the policy asks for something of it ([`Settings::wants_herald`](crate::policy::Settings::wants_herald)), starts
//! it again when it dies, and shows in `status` how each of its parts is. It has two connections to guardd, which no
//! other process can have: by one it asks, by the other it hears of events. It decides nothing: what an answer may do,
//! guardd looks at again.

pub mod http;
mod journald;
mod link;
mod metrics;
mod notify;
mod otlp;
mod part;
mod proxy;
mod secret;
mod start;
mod tls;

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use self::start::{farewell, supervise};
use self::{
    journald::Journald,
    link::{Link, Told},
    metrics::Metrics,
    notify::Notifier,
    otlp::Otlp,
    part::Board,
};
use crate::{
    event::{Event, Kind},
    policy::Settings,
    wire::{HeraldReply, HeraldRequest, Reply},
};

/// First argument of a guardd that is a herald. The second is the control socket's path, for the commands in texts.
pub const ARGUMENT: &str = "--herald";
/// Where the child finds its two connections: for questions, and for events.
const ASK_FD: i32 = 3;
/// See [`ASK_FD`].
const HEAR_FD: i32 = 4;
/// How often guardd is told how the parts are when nothing has changed. It takes a longer silence for a fault.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// How soon it is told of a change: many come together.
const REPORT_SOON: Duration = Duration::from_millis(50);
/// What the channels have, once guardd has gone, to say what became of the holds.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// The kinds of event that are followed.
const KINDS: [Kind; 4] = [Kind::Hold, Kind::Answer, Kind::Grant, Kind::Policy];

/// The herald's whole life: until guardd hangs up.
///
/// # Errors
/// When guardd cannot be spoken to.
pub fn run(socket: &str) -> anyhow::Result<()> {
    // SAFETY: guardd placed the connections there for this process alone.
    let (ask, hear) = unsafe {
        (
            UnixStream::from(OwnedFd::from_raw_fd(ASK_FD)),
            UnixStream::from(OwnedFd::from_raw_fd(HEAR_FD)),
        )
    };
    for signal in [libc::SIGINT, libc::SIGHUP] {
        // SAFETY: ignoring a signal has no precondition.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    end_with_guardd(ask.try_clone()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .build()?;
    runtime.block_on(serve(ask, hear, socket))?;
    // Not the runtime's own end, which waits for threads that may hang in a name service.
    std::process::exit(0);
}

/// Ends this process when guardd has gone, whatever hangs here.
fn end_with_guardd(ask: UnixStream) {
    std::thread::spawn(move || {
        let mut polled = libc::pollfd {
            fd: std::os::fd::AsRawFd::as_raw_fd(&ask),
            events: 0,
            revents: 0,
        };
        // SAFETY: one descriptor, which `ask` keeps open.
        while unsafe { libc::poll(&mut polled, 1, -1) } < 0 {}
        std::thread::sleep(LAST_WORDS * 2);
        std::process::exit(0);
    });
}

/// What the parts are made from.
#[derive(Clone)]
pub(crate) struct Context {
    /// To guardd.
    pub(crate) link: Link,
    /// Where each part says how it is.
    pub(crate) board: Board,
    /// Number of the last event that was heard of.
    pub(crate) heard: Arc<AtomicU64>,
    /// How guardctl is called here, for people to copy.
    pub(crate) guardctl: String,
}

async fn serve(ask: UnixStream, hear: UnixStream, socket: &str) -> anyhow::Result<()> {
    let context = Context {
        link: Link::new(ask)?,
        board: Board::default(),
        heard: Arc::default(),
        guardctl: crate::approval::guardctl(std::path::Path::new(socket)),
    };
    let last = match context.link.ask(&crate::wire::Request::Status).await? {
        Reply::Status(status) => status.events,
        other => return Err(unexpected(&other).into()),
    };
    let (now, heard) = settings(&context.link).await?;
    // All of them where no kind is named. Another herald is started when a new policy wants other kinds.
    let (kinds, last) = if now.hears_all() {
        (Vec::new(), heard.min(last))
    } else {
        (KINDS.to_vec(), last)
    };
    context.heard.store(last, Ordering::Relaxed);
    // Events first, holds after: what comes in between is heard of twice, and known by its number.
    let mut events = link::follow(hear, kinds, last).await?;
    let mut parts = Parts::new(now, &context);
    parts.notifier.catch_up(&context).await?;
    let mut beat = tokio::time::interval(REPORT_EVERY);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reporting = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            biased;
            event = events.recv() => match event {
                Some(event) if event.kind == Kind::Policy => {
                    parts.tell(&event, &context);
                    parts.change(settings(&context.link).await?.0, &context).await?;
                }
                Some(event) => {
                    parts.tell(&event, &context);
                    parts.notifier.hear(&event, &context).await?;
                }
                // guardd has gone.
                None => break,
            },
            _ = beat.tick(), if reporting.is_empty() => {
                reporting.spawn(report(context.clone(), Duration::ZERO));
            }
            () = context.board.changed(), if reporting.is_empty() => {
                reporting.spawn(report(context.clone(), REPORT_SOON));
            }
            Some(_) = reporting.join_next(), if !reporting.is_empty() => {}
        }
    }
    let _ = tokio::time::timeout(LAST_WORDS, parts.finish()).await;
    Ok(())
}

async fn report(context: Context, after: Duration) {
    tokio::time::sleep(after).await;
    // Both of one moment: an event that was heard of is among those that wait, sent or given up, or will be heard of again.
    let parts = context.board.parts();
    let heard = context.heard.load(Ordering::Relaxed);
    // guardd has gone when it fails, which the other connection says too.
    let _ = context
        .link
        .herald(HeraldRequest::Report { parts, heard })
        .await;
}

/// The settings in force, and the number of the last event that a herald before this one has heard of.
async fn settings(link: &Link) -> io::Result<(Settings, u64)> {
    match link.herald(HeraldRequest::Settings).await? {
        Told::Reply(Reply::Herald(HeraldReply::Settings { settings, heard })) => {
            Ok((*settings, heard))
        }
        Told::Reply(other) => Err(unexpected(&other)),
        Told::Refused(why) => Err(io::Error::other(why)),
    }
}

fn unexpected(reply: &Reply) -> io::Error {
    let text = serde_json::to_string(reply).unwrap_or_default();
    let text: String = text.chars().take(80).collect();
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("guardd answered with something else than was asked: {text}"),
    )
}

/// Everything that the settings ask for. Another part gets a member here, is made in `new`, and looks in `change`
/// whether its own settings are other ones.
struct Parts {
    notifier: Notifier,
    metrics: Option<Metrics>,
    otlp: Option<Otlp>,
    journald: Option<Journald>,
}

impl Parts {
    fn new(settings: Settings, context: &Context) -> Self {
        Self {
            metrics: settings.metrics.map(|it| Metrics::new(it, context)),
            otlp: settings.otlp.map(|it| Otlp::new(it, context)),
            journald: settings.journald.map(|it| Journald::new(it, context)),
            notifier: Notifier::new(settings.notify, context),
        }
    }

    async fn change(&mut self, settings: Settings, context: &Context) -> io::Result<()> {
        // The old one goes first: the new one may want its address.
        if self.metrics.as_ref().map(Metrics::settings) != settings.metrics.as_ref() {
            self.metrics = None;
            self.metrics = settings.metrics.map(|it| Metrics::new(it, context));
        }
        if self.otlp.as_ref().map(Otlp::settings) != settings.otlp.as_ref() {
            self.otlp = settings.otlp.map(|it| Otlp::new(it, context));
        }
        if self.journald.as_ref().map(Journald::settings) != settings.journald.as_ref() {
            self.journald = settings.journald.map(|it| Journald::new(it, context));
        }
        self.notifier.change(settings.notify, context).await
    }

    /// Tells an event to those that hear of all.
    fn tell(&self, event: &Event, context: &Context) {
        context.heard.fetch_max(event.seq, Ordering::Relaxed);
        if let Some(metrics) = &self.metrics {
            metrics.hear(event);
        }
        if let Some(otlp) = &self.otlp {
            otlp.hear(event);
        }
        if let Some(journald) = &self.journald {
            journald.hear(event);
        }
    }

    async fn finish(mut self) {
        // Its socket's name goes with it.
        drop(self.metrics);
        let otlp = async {
            if let Some(otlp) = self.otlp {
                // What it says of what has not left comes within the last words too.
                otlp.finish(LAST_WORDS * 3 / 4).await;
            }
        };
        tokio::join!(self.notifier.finish(), otlp);
    }
}
