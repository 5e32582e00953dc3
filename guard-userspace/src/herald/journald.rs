//! Events as entries of systemd's journal, each member a field of its own (`GUARD_RULE=…`), for `journalctl` and what
//! reads its export.

use std::{path::Path, sync::mpsc, thread};

use tracing::{Dispatch, dispatcher::with_default};
use tracing_subscriber::{Registry, layer::SubscriberExt as _};

use super::{Context, otlp, part::Part};
use crate::{event::Event, policy::Journald as Settings};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Events that wait for journald; more are dropped, which `status` counts.
const ROOM: usize = 4096;

/// The way there.
pub(super) struct Journald {
    settings: Settings,
    queue: mpsc::SyncSender<Event>,
    part: Part,
}

impl Journald {
    pub(super) fn new(settings: Settings, context: &Context) -> Self {
        let part = context.board.part("journald");
        let (queue, events) = mpsc::sync_channel(ROOM);
        let telling = part.clone();
        // Its socket blocks when journald is stuck; ends when the queue's other end has gone.
        thread::spawn(move || tell_all(&events, &telling));
        Self {
            settings,
            queue,
            part,
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn hear(&self, event: &Event) {
        if self.settings.events.has(event) && self.queue.try_send(event.clone()).is_err() {
            self.part
                .dropped(format!("{ROOM} events wait for journald already"));
        }
    }
}

fn tell_all(events: &mpsc::Receiver<Event>, part: &Part) {
    let mut journal = None;
    for event in events {
        if journal.is_none() {
            journal = connect().map_err(|error| part.dropped(error)).ok();
        }
        let Some(dispatch) = &journal else { continue };
        // The crate is silent about what it could not send.
        if !Path::new(SOCKET).exists() {
            part.dropped(format!(
                "{SOCKET}: it has gone: is systemd's journal running here?"
            ));
            continue;
        }
        with_default(dispatch, || tell(&event));
        part.sent();
    }
}

fn connect() -> Result<Dispatch, String> {
    let layer = tracing_journald::layer()
        .map_err(|error| format!("journald: {error}: is systemd's journal running here?"))?
        .with_field_prefix(Some("GUARD".into()))
        .with_syslog_identifier("guardd".into());
    Ok(Dispatch::new(Registry::default().with(layer)))
}

fn tell(event: &Event) {
    let verdict = event
        .verdict
        .as_deref()
        .filter(|verdict| *verdict != "allow");
    let argv = event.argv.as_ref().map(|argv| argv.join(" "));
    let object = event.object.as_ref().map(ToString::to_string);
    let labels = (!event.labels.is_empty()).then(|| event.labels.join(","));
    let line = otlp::line(event);
    /// A level is a constant of the call.
    macro_rules! entry {
        ($level:ident) => {
            tracing::event!(
                target: "guard",
                tracing::Level::$level,
                seq = event.seq,
                kind = event.kind.name(),
                session = event.session.as_deref(),
                agent = event.agent.as_deref(),
                verdict = event.verdict.as_deref(),
                would = event.would.as_deref(),
                rule = event.rule.as_deref(),
                labels = labels.as_deref(),
                pid = event.tgid,
                uid = event.uid,
                exe = event.exe.as_deref(),
                argv = argv.as_deref(),
                object = object.as_deref(),
                "{line}"
            )
        };
    }
    match verdict {
        Some("kill" | "deny") => entry!(ERROR),
        Some("hold" | "flag") => entry!(WARN),
        _ => entry!(INFO),
    }
}
