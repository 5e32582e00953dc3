//! Events as entries of systemd's journal, each member a field of its own (`GUARD_RULE=…`), for `journalctl` and what
//! reads its export.

use std::{io, sync::mpsc, thread};

use log::{Level, Record};
use systemd_journal_logger::JournalLog;

use super::{Context, otlp, part::Part};
use crate::{event::Event, policy::Journald as Settings};

/// Where journald listens, for people.
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
        if !self.settings.events.has(event) {
            return;
        }
        self.part.takes();
        if self.queue.try_send(event.clone()).is_err() {
            self.part
                .dropped(format!("{ROOM} events wait for journald already"));
            self.part.settled(1);
        }
    }
}

fn tell_all(events: &mpsc::Receiver<Event>, part: &Part) {
    let mut journal = None;
    for event in events {
        let told = match &journal {
            Some(journal) => tell(journal, &event),
            // It says so at once if nobody listens there.
            None => JournalLog::empty().and_then(|new| {
                let new = new.with_syslog_identifier("guardd".into());
                tell(journal.insert(new), &event)
            }),
        };
        match told {
            Ok(()) => part.sent(),
            Err(error) => part.dropped(format!(
                "{SOCKET}: {error}: is systemd's journal running here?"
            )),
        }
        part.settled(1);
    }
}

fn tell(journal: &JournalLog, event: &Event) -> io::Result<()> {
    let verdict = event
        .verdict
        .as_deref()
        .filter(|verdict| *verdict != "allow");
    let level = match verdict {
        Some("kill" | "deny") => Level::Error,
        Some("hold" | "flag") => Level::Warn,
        _ => Level::Info,
    };
    let (fields, line) = (fields(event), otlp::line(event));
    let fields: Vec<(&str, &str)> = fields
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    journal.journal_send(
        &Record::builder()
            .level(level)
            .target("guard")
            .key_values(&fields.as_slice())
            .args(format_args!("{line}"))
            .build(),
    )
}

/// The members that an event has, by the names of their fields.
fn fields(event: &Event) -> Vec<(&'static str, String)> {
    let text = |text: &Option<String>| text.clone();
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    let fields = [
        ("GUARD_SEQ", Some(event.seq.to_string())),
        ("GUARD_KIND", Some(event.kind.name().to_owned())),
        ("GUARD_SESSION", text(&event.session)),
        ("GUARD_AGENT", text(&event.agent)),
        ("GUARD_VERDICT", text(&event.verdict)),
        ("GUARD_WOULD", text(&event.would)),
        ("GUARD_RULE", text(&event.rule)),
        (
            "GUARD_LABELS",
            (!event.labels.is_empty()).then(|| event.labels.join(",")),
        ),
        ("GUARD_PID", number(event.tgid)),
        ("GUARD_UID", number(event.uid)),
        ("GUARD_EXE", text(&event.exe)),
        ("GUARD_ARGV", event.argv.as_ref().map(|argv| argv.join(" "))),
        (
            "GUARD_OBJECT",
            event.object.as_ref().map(ToString::to_string),
        ),
    ];
    let there = |(name, value): (&'static str, Option<String>)| Some((name, value?));
    fields.into_iter().filter_map(there).collect()
}
