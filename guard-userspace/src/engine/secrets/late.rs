//! Opens of files that nobody had looked into: the fact comes later.

use std::path::Path;

use guard_common::{
    Verdict,
    event::{Header, kind},
};
use serde_json::json;

use super::{FileId, Work, told};
use crate::{
    clock,
    engine::{Engine, records::open_flags},
    event::Kind,
    process::{self, Id},
    secrets::Opened,
};

/// How soon after an open the same one is none to look into again.
const AGAIN_NS: u64 = 20_000_000;

impl Engine {
    /// An open without a label, told because what is in the session's files is not known yet.
    pub(in crate::engine) fn look_into(
        &mut self,
        fields: &Header,
        path: Option<&Path>,
        ino: u64,
        dev: u32,
        flags: u32,
    ) {
        let Some((watch, _)) = &self.secrets.watch else {
            return;
        };
        let of_session = self.secrets.of_session.get(&fields.session);
        let knows_where = !matches!(of_session, Some(Work::Unknown));
        let Some(path) = path.filter(|path| !knows_where || self.secrets.covers(path)) else {
            return;
        };
        // A process that opens one file over and over is told of once in a moment, unless somebody writes meanwhile.
        let (this, at) = ((fields.tgid, (dev, ino)), fields.time_ns);
        let reads = flags.cast_signed() & (libc::O_ACCMODE | libc::O_TRUNC) == libc::O_RDONLY;
        if let Some((tgid, file, last)) = self.secrets.last
            && reads
            && (tgid, file) == this
            && at.saturating_sub(last) < AGAIN_NS
        {
            return;
        }
        self.secrets.last = reads.then_some((this.0, this.1, at));
        let opened = Opened {
            fields: *fields,
            path: path.to_owned(),
            dev,
            ino,
            flags,
        };
        if !watch.opened(opened) {
            self.secrets.missed += 1;
        }
    }

    /// A file turns out to hold secrets that a session has opened before: the fact is added, and what it completes done.
    pub(super) fn add_late(&mut self, opened: &Opened, id: FileId) {
        let fields = &opened.fields;
        let Some(secrets) = self.secrets.files.get(&id).map(|file| file.secrets.clone()) else {
            return;
        };
        let labels = self.labels_of_secrets(&secrets);
        if labels == 0 || !self.sessions.contains_key(&fields.session) {
            return;
        }
        let lives = process::same(fields.tgid, fields.start_ns).is_some();
        let judged = self.feed(fields.session, labels, fields.tgid, false, kind::OPEN);
        let mut event = self.event_of(Kind::Open, fields);
        // Of a process that has ended nothing can be stopped any more, and one that is held is asked about already.
        let process = Id::new(fields.tgid, fields.start_ns);
        let is_held = judged.verdict == Verdict::Hold && self.is_held(process);
        let verdict = if lives && !is_held {
            judged.verdict
        } else {
            judged.verdict.min(Verdict::Flag)
        };
        self.note_judged(&mut event, &judged, verdict, labels);
        event.latency_ns = Some(clock::monotonic_ns().saturating_sub(fields.time_ns));
        event.object = Some(json!({
            "path": opened.path.to_string_lossy(),
            "dev": format!("{}:{}", opened.dev >> 20, opened.dev & 0xf_ffff),
            "ino": opened.ino,
            "flags": open_flags(opened.flags),
            "late": true,
            "secrets": told(&secrets),
        }));
        self.carry_out_on(fields, &judged, verdict, event);
    }
}
