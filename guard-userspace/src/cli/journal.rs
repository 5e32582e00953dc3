//! The commands that are about the journal: `events`, `verify`, `report`.

use std::path::Path;

use super::{
    Failure, Guardctl,
    args::{EventFormat, ReportFormat},
    client::Conversation,
    escape, payload,
};
use crate::{
    cli::account,
    event::{
        Kind, ecs,
        ocsf::{self, Host},
    },
    journal::Against,
    report::{self, Collector},
    wire::{Reply, Request},
};

/// What is to be shown of the events, and how.
pub(super) struct Wanted {
    pub(super) follow: bool,
    pub(super) session: Option<String>,
    pub(super) kinds: Vec<Kind>,
    pub(super) format: Option<EventFormat>,
}

impl Guardctl<'_> {
    pub(super) fn events(self, wanted: Wanted) -> Result<u8, Failure> {
        let request = Request::Events {
            follow: wanted.follow,
            session: wanted.session,
            kinds: wanted.kinds,
            after: 0,
        };
        let mut conversation = Conversation::open(&self.cli.socket, &request)?;
        if wanted.follow {
            conversation.wait_for_ever()?;
        }
        let host = this_host();
        loop {
            let reply = conversation.next()?;
            let line = match (&reply, wanted.format) {
                (Reply::Event(event), Some(EventFormat::Ocsf)) => lines(&ocsf::of(event, &host)),
                (Reply::Event(event), Some(EventFormat::Ecs)) => lines(&[ecs::of(event, &host)]),
                (Reply::Event(_), Some(EventFormat::Jsonl)) => format!("{}\n", payload(&reply)?),
                (Reply::Event(_), None) if self.cli.json => format!("{}\n", payload(&reply)?),
                (Reply::Event(_), None) => self.for_people(&reply),
                (Reply::Done { .. }, _) => return Ok(0),
                _ => return Err(conversation.unexpected("with something else than events".into())),
            };
            self.out.write_all(line.as_bytes())?;
            // Who follows wants to see each as it happens.
            if wanted.follow {
                self.out.flush()?;
            }
        }
    }

    /// Checks the journal; one that a guardd has open also against what that knows of it.
    pub(super) fn verify(&mut self, dir: &Path, against: &Against) -> Result<u8, Failure> {
        let mut against = against.clone();
        let witness = self.witness(dir);
        if let Some((key, seq, head)) = &witness {
            against.expect.push((*seq, head.clone()));
            if let (true, Ok(key)) = (against.keys.is_empty(), key.parse()) {
                against.keys.push(key);
            }
        }
        let mut report = (self.offline.verify)(dir, &against).map_err(Failure::No)?;
        if let Some((_, seq, _)) = witness {
            let line = format!(
                "\nguardd, which is writing it, knows event {seq} and the key as they are there"
            );
            report.message.push_str(&line);
        }
        let text = if self.cli.json {
            escape::json(&to_json(&report)?)
        } else {
            escape::lines(report.message.trim_end())
        };
        writeln!(self.out, "{text}")?;
        Ok(0)
    }

    /// Key, number and link of the newest event, by the guardd that has this journal open.
    fn witness(&self, dir: &Path) -> Option<(String, u64, String)> {
        let mut conversation = Conversation::open(&self.cli.socket, &Request::Status).ok()?;
        let Ok(Reply::Status(status)) = conversation.next() else {
            return None;
        };
        let same = |path: &Path| path.canonicalize().ok();
        let its = same(Path::new(&status.state_dir))?;
        let journal = status.journal.filter(|_| Some(its) == same(dir))?;
        Some((journal.key, journal.seq, journal.head))
    }

    pub(super) fn report(
        &mut self,
        session: &str,
        format: Option<ReportFormat>,
        state_dir: Option<&Path>,
    ) -> Result<u8, Failure> {
        let mut collector = Collector::new(session);
        match state_dir {
            Some(dir) => {
                for event in (self.offline.journal)(dir).map_err(Failure::No)? {
                    match event {
                        Ok(event) => collector.add(&event),
                        Err(_) => collector.unreadable(),
                    }
                }
            }
            None => self.collect(&mut collector)?,
        }
        let Some(report) = collector.finish() else {
            return Err(Failure::No(format!(
                "{session}: no such session in the journal: see 'guardctl sessions --all', or name another --state-dir"
            )));
        };
        let format = format.unwrap_or(if self.cli.json {
            ReportFormat::Json
        } else {
            ReportFormat::Md
        });
        let text = match format {
            ReportFormat::Md => report::markdown(&report, &account::user_name),
            ReportFormat::Html => report::html(&report, &account::user_name),
            ReportFormat::Json => escape::json(&to_json(&report)?) + "\n",
        };
        self.out.write_all(text.as_bytes())?;
        Ok(0)
    }

    /// Every event that guardd shows this user.
    fn collect(&self, collector: &mut Collector) -> Result<(), Failure> {
        let request = Request::Events {
            follow: false,
            session: None,
            kinds: Vec::new(),
            after: 0,
        };
        let mut conversation = Conversation::open(&self.cli.socket, &request)?;
        loop {
            match conversation.next()? {
                Reply::Event(event) => collector.add(&event),
                Reply::Done { .. } => return Ok(()),
                _ => return Err(conversation.unexpected("with something else than events".into())),
            }
        }
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::No(error.to_string()))
}

fn lines(objects: &[serde_json::Value]) -> String {
    let lines = objects
        .iter()
        .map(|object| escape::json(&object.to_string()) + "\n");
    lines.collect()
}

fn this_host() -> Host {
    let uname = rustix::system::uname();
    Host {
        name: uname.nodename().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").into(),
    }
}
