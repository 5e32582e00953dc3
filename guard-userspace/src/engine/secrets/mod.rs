//! Secrets that files hold: labels on these files in the kernel, facts for those who opened one before it was known, and the
//! use of a known one in a request. Of values there are keyed hashes here, and nothing else.

mod found;
mod late;
mod search;
mod uses;
mod values;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use self::values::{Holder, Values};
use crate::{
    http::KnownSecrets,
    secrets::{Brief, Report, Walked, Watch, WatchLimits},
};

/// Files with secrets that are known at once: a quarter of the kernel's table.
const MAX_FILES: usize = 16_384;
/// Secrets of one file, and uses of one request, that an event names.
const MAX_SHOWN: usize = 8;
/// A file's key in the kernel's table: device and inode.
type FileId = (u32, u64);

/// A file that holds secrets.
#[derive(Debug)]
struct HoldingFile {
    path: PathBuf,
    generation: Option<u32>,
    links: u64,
    changed: (i64, i64),
    secrets: Vec<Brief>,
}

/// A tree that is searched.
#[derive(Debug, Default)]
struct Tree {
    walked: Option<Walked>,
    /// The policy names it.
    is_root: bool,
    /// Since when no session works in it, ns of `CLOCK_MONOTONIC`.
    unused_ns: Option<u64>,
}

/// Where a session works.
#[derive(Debug)]
enum Work {
    /// Nobody has said yet.
    Unknown,
    /// In this tree.
    In(PathBuf),
    /// In none that could be searched.
    Nowhere(String),
}

impl Work {
    fn tree(&self) -> Option<&PathBuf> {
        match self {
            Self::In(top) => Some(top),
            Self::Unknown | Self::Nowhere(_) => None,
        }
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(in crate::engine) struct Secrets {
    watch: Option<(Watch, WatchLimits)>,
    reports: Option<mpsc::Receiver<Report>>,
    values: Option<Arc<Values>>,
    trees: BTreeMap<PathBuf, Tree>,
    /// Where sessions work.
    of_session: BTreeMap<u32, Work>,
    files: HashMap<FileId, HoldingFile>,
    paths: HashMap<PathBuf, FileId>,
    /// The open that was looked into last: process, file, time.
    last: Option<(u32, FileId, u64)>,
    /// Files and opens for which there was no room.
    beyond: u64,
    missed: u64,
    broken: Option<String>,
}

impl Secrets {
    /// What the scanner tells next; never, where there is none.
    pub(in crate::engine) async fn next(&mut self) -> Option<Report> {
        match &mut self.reports {
            Some(reports) => reports.recv().await,
            None => std::future::pending().await,
        }
    }

    /// What requests are searched for, if anything is known.
    pub(in crate::engine) fn known(&self) -> Option<Arc<dyn KnownSecrets>> {
        let values = self.values.as_ref().filter(|values| !values.is_empty())?;
        Some(values.clone())
    }

    /// Adds which secrets an opened file holds.
    pub(in crate::engine) fn describe(&self, dev: u32, ino: u64, object: &mut Map<String, Value>) {
        if let Some(file) = self.files.get(&(dev, ino)) {
            object.insert("secrets".into(), told(&file.secrets));
        }
    }

    /// What is not searched, a line each.
    pub(in crate::engine) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(why) = &self.broken {
            notes.push(format!("secrets in files: {why}"));
        }
        for walked in self.trees.values().filter_map(|tree| tree.walked.as_ref()) {
            let top = walked.top.display();
            if walked.beyond + walked.files_beyond > 0 {
                notes.push(format!(
                    "secrets in {top}: {} directories and {} files are beyond what the policy lets be searched; a file \
                     is when a session opens it",
                    walked.beyond, walked.files_beyond
                ));
            }
            if walked.unwatched > 0 {
                notes.push(format!(
                    "secrets in {top}: in {} of {} directories only what sessions write is searched again: inotify has no \
                     room for them: raise fs.inotify.max_user_watches",
                    walked.unwatched, walked.directories
                ));
            }
        }
        for (id, work) in &self.of_session {
            if let Work::Nowhere(why) = work {
                notes.push(format!("secrets in the files of s-{id}: {why}"));
            }
        }
        if self.beyond > 0 {
            notes.push(format!(
                "{} files with secrets carry no label: {MAX_FILES} are known at once",
                self.beyond
            ));
        }
        if self.missed > 0 {
            notes.push(format!(
                "{} opens of files that had not been searched were not looked into: there were too many at once",
                self.missed
            ));
        }
        notes
    }

    fn covers(&self, path: &Path) -> bool {
        self.trees.keys().any(|top| path.starts_with(top))
    }

    /// Forgets a file. Says whether it was known.
    fn forget(&mut self, id: FileId) -> bool {
        let Some(file) = self.files.remove(&id) else {
            return false;
        };
        if self.paths.get(&file.path) == Some(&id) {
            self.paths.remove(&file.path);
        }
        if let Some(values) = &self.values {
            values.forget(&Holder::File(id), file.secrets.iter().map(|one| &one.hash));
        }
        true
    }
}

/// Secrets as events show them.
fn told(secrets: &[Brief]) -> Value {
    let shown = secrets
        .iter()
        .take(MAX_SHOWN)
        .map(|one| json!({ "provider": &*one.provider, "kind": &*one.kind, "line": one.line }));
    shown.collect::<Vec<_>>().into()
}
