//! Secrets that files hold: labels on these files in the kernel, facts for those who opened one before it was known, and the
//! use of a known one in a request. Of values there are keyed hashes here, and nothing else.

mod values;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
};

use guard_common::{
    Verdict,
    event::{Header, kind, tier},
    state::fate,
};
use rustix::process::Signal;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use self::values::{Holder, Values};
use super::{Engine, holds::Call, records::open_flags};
use crate::{
    clock,
    event::Kind,
    http::{KnownSecrets, Request},
    kernel::{LabelledFile, kernel_dev},
    process::{self, Id},
    secrets::{
        Beginner, Brief, FOREIGN, Keyed, Meaning, Opened, REPORTS, Report, ScannedFile, Variable,
        Walked, Watch, WatchLimits, labels_of, meaning,
    },
    wire::EnvironmentInfo,
};

/// Files with secrets that are known at once: a quarter of the kernel's table.
const MAX_FILES: usize = 16_384;
/// Secrets of one file, and uses of one request, that an event names.
const MAX_SHOWN: usize = 8;
/// How long a tree is watched after the last session in it has ended: the next one finds it as it is.
const LINGER_NS: u64 = 600_000_000_000;
/// How long opens are told at a time while a tree is gone through; guardd looks after it several times in that.
const TELL_NS: u64 = 3_000_000_000;

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
pub(super) struct Secrets {
    watch: Option<(Watch, WatchLimits)>,
    reports: Option<mpsc::Receiver<Report>>,
    values: Option<Arc<Values>>,
    trees: BTreeMap<PathBuf, Tree>,
    /// Where sessions work.
    of_session: BTreeMap<u32, Work>,
    files: HashMap<FileId, HoldingFile>,
    paths: HashMap<PathBuf, FileId>,
    /// Files and opens for which there was no room.
    beyond: u64,
    missed: u64,
    broken: Option<String>,
}

impl Secrets {
    /// What the scanner tells next; never, where there is none.
    pub(super) async fn next(&mut self) -> Option<Report> {
        match &mut self.reports {
            Some(reports) => reports.recv().await,
            None => std::future::pending().await,
        }
    }

    /// What requests are searched for, if anything is known.
    pub(super) fn known(&self) -> Option<Arc<dyn KnownSecrets>> {
        let values = self.values.as_ref().filter(|values| !values.is_empty())?;
        Some(values.clone())
    }

    /// Adds which secrets an opened file holds.
    pub(super) fn describe(&self, dev: u32, ino: u64, object: &mut Map<String, Value>) {
        if let Some(file) = self.files.get(&(dev, ino)) {
            object.insert("secrets".into(), told(&file.secrets));
        }
    }

    /// Adds whose secrets a request carries, and where they are known from.
    pub(super) fn describe_uses(&self, request: &Request, object: &mut Map<String, Value>) {
        let Some(values) = self.values.as_ref().filter(|_| !request.secrets.is_empty()) else {
            return;
        };
        let mut uses: Vec<Value> = Vec::new();
        for hash in &request.secrets {
            for (provider, holder) in values.holders(hash) {
                let one = match holder {
                    Holder::File(id) => self.files.get(&id).map(
                        |file| json!({ "provider": &*provider, "path": file.path.to_string_lossy() }),
                    ),
                    Holder::Variable(_, name) => {
                        Some(json!({ "provider": &*provider, "variable": name }))
                    }
                };
                uses.extend(one.filter(|one| !uses.contains(one)));
            }
        }
        uses.truncate(MAX_SHOWN);
        if !uses.is_empty() {
            object.insert("uses".into(), uses.into());
        }
    }

    /// What is not searched, a line each.
    pub(super) fn notes(&self) -> Vec<String> {
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

impl Engine {
    /// Begins to search files, or ends it, as the policy in force says.
    pub(super) fn search_as_the_policy_says(&mut self) {
        let limits = self.policy.settings.secrets.limits;
        if !self.policy.looks_for_secrets() {
            return self.search_no_more();
        }
        if self
            .secrets
            .watch
            .as_ref()
            .is_some_and(|(_, begun_with)| *begun_with != limits)
        {
            self.search_no_more();
        }
        if self.secrets.watch.is_none() {
            if let Err(why) = self.begin_to_search(limits) {
                self.secrets.broken = Some(why);
                return;
            }
            let sessions: Vec<u32> = self.sessions.keys().copied().collect();
            for id in sessions {
                self.search_files_of(id);
            }
        }
        let roots = self.policy.settings.secrets.roots.clone();
        for tree in self.secrets.trees.values_mut() {
            tree.is_root = false;
        }
        for root in roots {
            self.search_tree(root).is_root = true;
        }
    }

    fn begin_to_search(&mut self, limits: WatchLimits) -> Result<(), String> {
        let keyed =
            Keyed::load_or_make(&self.options.state_dir).map_err(|error| error.to_string())?;
        let (sender, reports) = mpsc::channel(REPORTS);
        let watch = Watch::start(
            keyed.clone(),
            limits,
            self.options.state_dir.clone(),
            sender,
        )
        .map_err(|error| error.to_string())?;
        self.secrets.watch = Some((watch, limits));
        self.secrets.reports = Some(reports);
        self.secrets.values = Some(Arc::new(Values::new(keyed)));
        self.secrets.broken = None;
        Ok(())
    }

    fn search_no_more(&mut self) {
        if self.secrets.watch.is_none() {
            return;
        }
        let ids: Vec<FileId> = self.secrets.files.keys().copied().collect();
        for id in ids {
            self.forget_file(id);
        }
        for session in self.secrets.of_session.keys() {
            let _ = self.kernel.tables.tell_no_opens(*session, true);
        }
        self.secrets = Secrets::default();
    }

    fn search_tree(&mut self, top: PathBuf) -> &mut Tree {
        if let Some((watch, _)) = &self.secrets.watch {
            // Told again of one that is known it does nothing.
            watch.add_tree(&top);
        }
        self.secrets.trees.entry(top).or_default()
    }

    /// A session has begun, or is taken up again.
    pub(super) fn search_files_of(&mut self, id: u32) {
        let Some((watch, _)) = &self.secrets.watch else {
            return;
        };
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        if self.secrets.of_session.contains_key(&id) {
            return;
        }
        let root = session.root_id();
        let beginner = Beginner {
            session: id,
            pid: root.pid,
            start: root.start,
            tree: session.tree.clone(),
        };
        if !watch.session(beginner) {
            // There is room at the next look.
            return;
        }
        self.secrets.of_session.insert(id, Work::Unknown);
        self.tell_opens_of(id);
    }

    fn tell_opens_of(&mut self, id: u32) {
        let until = clock::monotonic_ns() + TELL_NS;
        if let Err(error) = self.kernel.tables.tell_opens(id, until) {
            self.problems.insert("secrets", error.to_string());
        }
    }

    /// A session has ended.
    pub(super) fn search_no_more_for(&mut self, id: u32) {
        if self.secrets.of_session.remove(&id).is_none() {
            return;
        }
        let last = self.secrets.of_session.is_empty();
        if let Err(error) = self.kernel.tables.tell_no_opens(id, last) {
            self.problems.insert("secrets", error.to_string());
        }
        if let Some(values) = &self.secrets.values {
            values.forget_session(id);
        }
    }

    /// Looks after trees: opens are told as long as one is gone through, and those that nobody works in are left.
    pub(super) fn look_after_secrets(&mut self) {
        if self.secrets.watch.is_none() {
            return;
        }
        let sessions: Vec<u32> = self.sessions.keys().copied().collect();
        for id in sessions {
            self.search_files_of(id);
        }
        let is_walked = |top: &PathBuf| {
            self.secrets
                .trees
                .get(top)
                .is_some_and(|tree| tree.walked.is_some())
        };
        let under_way: Vec<u32> = self
            .secrets
            .of_session
            .iter()
            .filter(|(_, work)| match work {
                Work::Unknown => true,
                Work::In(top) => !is_walked(top),
                Work::Nowhere(_) => false,
            })
            .map(|(id, _)| *id)
            .collect();
        for id in under_way {
            self.tell_opens_of(id);
        }
        let now = clock::monotonic_ns();
        let works = self.secrets.of_session.values();
        let used: BTreeSet<PathBuf> = works.filter_map(Work::tree).cloned().collect();
        let mut left = Vec::new();
        for (top, tree) in &mut self.secrets.trees {
            if tree.is_root || used.contains(top) {
                tree.unused_ns = None;
            } else if now - *tree.unused_ns.get_or_insert(now) > LINGER_NS {
                left.push(top.clone());
            }
        }
        for top in left {
            self.leave_tree(&top);
        }
    }

    fn leave_tree(&mut self, top: &Path) {
        if let Some((watch, _)) = &self.secrets.watch
            && !watch.drop_tree(top)
        {
            return;
        }
        self.secrets.trees.remove(top);
        let outside: Vec<FileId> = self
            .secrets
            .files
            .iter()
            .filter(|(_, file)| !self.secrets.covers(&file.path))
            .map(|(id, _)| *id)
            .collect();
        for id in outside {
            self.forget_file(id);
        }
    }

    /// What the scanner tells.
    pub(super) fn on_report(&mut self, report: Report) {
        match report {
            Report::File(file) => self.on_scanned(*file),
            Report::Same {
                path,
                dev,
                ino,
                opened,
            } => {
                let id = (kernel_dev(dev), ino);
                if let Some(file) = self.secrets.files.get_mut(&id) {
                    let before = std::mem::replace(&mut file.path, path.clone());
                    if self.secrets.paths.get(&before) == Some(&id) {
                        self.secrets.paths.remove(&before);
                    }
                    self.secrets.paths.insert(path, id);
                }
                if let Some(opened) = opened {
                    self.add_late(&opened, id);
                }
            }
            Report::Gone(path, lives) => {
                let id = self.secrets.paths.get(&path).copied();
                let file = id.and_then(|id| self.secrets.files.get(&id));
                // Under another name it still holds what it held.
                if let (Some(id), Some(file)) = (id, file)
                    && !lives
                    && file.links <= 1
                {
                    self.forget_file(id);
                }
            }
            Report::Walked(walked) => {
                if let Some(tree) = self.secrets.trees.get_mut(&*walked.top) {
                    tree.walked = Some(walked);
                }
            }
            Report::Session(id, Ok(top)) => {
                if let Some(work) = self.secrets.of_session.get_mut(&id) {
                    *work = Work::In(top.clone());
                    if let Some(session) = self.sessions.get_mut(&id) {
                        session.tree = Some(top.clone());
                        self.dirty = true;
                    }
                    self.search_tree(top);
                }
            }
            Report::Session(id, Err(why)) => {
                if let Some(work) = self.secrets.of_session.get_mut(&id) {
                    *work = Work::Nowhere(why);
                }
            }
            Report::Environment(id, variables) => self.on_environment(id, variables),
            Report::Broken(why) => {
                tracing::warn!("secrets in files: {why}");
                self.secrets.broken = Some(why);
            }
        }
    }

    fn on_scanned(&mut self, file: ScannedFile) {
        let id = (kernel_dev(file.dev), file.ino);
        let known = self.secrets.files.get(&id);
        // Two threads may have read it, and the older reading may be told last.
        if known.is_none_or(|known| known.changed <= file.changed) {
            self.secrets.forget(id);
            // Another file had this name.
            if let Some(before) = self.secrets.paths.get(&file.path).copied()
                && self
                    .secrets
                    .files
                    .get(&before)
                    .is_some_and(|file| file.links <= 1)
            {
                self.forget_file(before);
            }
            let room = self.secrets.files.len() < MAX_FILES;
            if !file.secrets.is_empty() && !room {
                self.secrets.beyond += 1;
            }
            let secrets = if room { file.secrets } else { Vec::new() };
            let labels = self.labels_of_secrets(&secrets);
            self.label_file(id, file.generation, labels);
            if !secrets.is_empty() {
                if let Some(values) = &self.secrets.values {
                    for one in &secrets {
                        values.add(one.hash, &one.provider, Holder::File(id));
                    }
                }
                self.secrets.paths.insert(file.path.clone(), id);
                let file = HoldingFile {
                    path: file.path,
                    generation: file.generation,
                    links: file.links,
                    changed: file.changed,
                    secrets,
                };
                self.secrets.files.insert(id, file);
            }
        }
        if let Some(opened) = file.opened {
            self.add_late(&opened, id);
        }
    }

    fn on_environment(&mut self, id: u32, variables: Vec<Variable>) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.environment = variables
            .iter()
            .map(|one| EnvironmentInfo {
                name: one.name.clone(),
                provider: one.secret.provider.to_string(),
                kind: one.secret.kind.to_string(),
            })
            .collect();
        if let Some(values) = &self.secrets.values {
            for one in variables {
                let holder = Holder::Variable(id, one.name);
                values.add(one.secret.hash, &one.secret.provider, holder);
            }
        }
        self.dirty = true;
    }

    /// Labels, as bits, of a file that holds these.
    fn labels_of_secrets(&self, secrets: &[Brief]) -> u64 {
        labels_of(secrets.iter().map(|one| &*one.provider), false)
            .iter()
            .fold(0, |mask, label| mask | self.bit_of(label))
    }

    /// A label of the policy in force as a bit; names that an earlier one had have bits as well.
    fn bit_of(&self, label: &str) -> u64 {
        if self.policy.labels.iter().any(|name| name == label) {
            self.bits.mask(label)
        } else {
            0
        }
    }

    /// Gives a file its labels in the policy in force.
    fn label_file(&mut self, id: FileId, inode_generation: Option<u32>, labels: u64) {
        let generation = self.kernel.tables.generation();
        self.label_file_in(generation, id, inode_generation, labels);
    }

    fn label_file_in(
        &mut self,
        generation: u32,
        (dev, ino): FileId,
        inode_generation: Option<u32>,
        labels: u64,
    ) {
        let all = self.policy.labels.iter().fold(0, |mask, label| {
            let holds = matches!(meaning(label), Some(Meaning::Holds(_)));
            mask | if holds { self.bits.mask(label) } else { 0 }
        });
        let file = LabelledFile {
            dev,
            ino,
            inode_generation,
        };
        if let Err(error) = self.kernel.tables.label_file(generation, file, labels, all) {
            self.problems.insert("secrets", error.to_string());
        }
    }

    fn forget_file(&mut self, id: FileId) {
        let generation = self.secrets.files.get(&id).and_then(|file| file.generation);
        if self.secrets.forget(id) {
            self.label_file(id, generation, 0);
        }
    }

    /// The same for every file in a half of the policy that is about to be put in force, with its labels.
    pub(super) fn label_files_in(&mut self, generation: u32) {
        let files: Vec<(FileId, Option<u32>, u64)> = self
            .secrets
            .files
            .iter()
            .map(|(id, file)| (*id, file.generation, self.labels_of_secrets(&file.secrets)))
            .filter(|(.., labels)| *labels != 0)
            .collect();
        for (id, inode_generation, labels) in files {
            self.label_file_in(generation, id, inode_generation, labels);
        }
    }

    /// An open without a label, told because what is in the session's files is not known yet.
    pub(super) fn look_into(
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
    fn add_late(&mut self, opened: &Opened, id: FileId) {
        let fields = &opened.fields;
        let Some(secrets) = self.secrets.files.get(&id).map(|file| file.secrets.clone()) else {
            return;
        };
        let labels = self.labels_of_secrets(&secrets);
        if labels == 0 || !self.sessions.contains_key(&fields.session) {
            return;
        }
        let lives = process::same(fields.tgid, fields.start_ns).is_some();
        let judged = self.feed(fields.session, labels, fields.tgid, false);
        let generation = self.kernel.tables.generation() as u16;
        let rule = judged
            .rule
            .and_then(|index| self.rule_of(index, generation))
            .cloned();
        let mut event = self.event_of(Kind::Open, fields);
        event.labels = self.bits.names(labels);
        // Of a process that has ended nothing can be stopped any more.
        let verdict = if lives {
            judged.verdict
        } else {
            judged.verdict.min(Verdict::Flag)
        };
        let would = judged.would.max(judged.verdict);
        event.verdict = Some(verdict.name().into());
        event.would = (would > verdict).then(|| would.name().into());
        event.rule = rule.as_ref().map(|rule| rule.name.clone());
        event.tier = Some(tier::NAMES[usize::from(tier::USERSPACE)].into());
        event.latency_ns = Some(clock::monotonic_ns().saturating_sub(fields.time_ns));
        event.object = Some(json!({
            "path": opened.path.to_string_lossy(),
            "dev": format!("{}:{}", opened.dev >> 20, opened.dev & 0xf_ffff),
            "ino": opened.ino,
            "flags": open_flags(opened.flags),
            "late": true,
            "secrets": told(&secrets),
        }));
        let process = Id::new(fields.tgid, fields.start_ns);
        match (verdict, rule) {
            (Verdict::Kill, _) => {
                let _ = process::signal(process, Signal::KILL);
                let event = self.tell(event);
                self.touch(fields, &event);
            }
            (Verdict::Hold, Some(rule)) => {
                let _ = process::signal(process, Signal::STOP);
                let index = judged.rule.unwrap_or(guard_common::event::NO_RULE);
                let call = Call {
                    labels,
                    object: 0,
                    kind: kind::OPEN,
                    fate: fate::HAPPENED,
                };
                let held = self.enter_hold(fields, index, &rule, &call);
                let event = self.tell(event);
                self.touch(fields, &event);
                self.take_up_hold(fields.tgid, &held, 0, judged.judged_in, event, None);
            }
            _ => {
                let event = self.tell(event);
                self.touch(fields, &event);
            }
        }
    }

    /// Labels, as bits, of a request that carries known secrets.
    pub(super) fn uses_of(&self, session: u32, request: &Request) -> u64 {
        let Some(values) = self
            .secrets
            .values
            .as_ref()
            .filter(|_| !request.secrets.is_empty())
        else {
            return 0;
        };
        let mut labels = 0;
        for hash in &request.secrets {
            let holders = values.holders(hash);
            let providers = holders.iter().map(|(provider, _)| &**provider);
            for label in labels_of(providers, true) {
                labels |= self.bit_of(&label);
            }
            if self.is_foreign(session, &holders) {
                labels |= self.bit_of(FOREIGN);
            }
        }
        labels
    }

    /// Whether a secret is known from other trees, and neither from those that a session and the sessions around it work in
    /// nor from their environments.
    fn is_foreign(&self, session: u32, holders: &[(Arc<str>, Holder)]) -> bool {
        let mut around = Vec::new();
        let mut next = Some(session);
        while let Some(id) = next.filter(|id| !around.contains(id)) {
            around.push(id);
            next = self.sessions.get(&id).and_then(|session| session.parent);
        }
        let trees: Vec<&PathBuf> = around
            .iter()
            .filter_map(|id| self.secrets.of_session.get(id)?.tree())
            .collect();
        let is_own = |holder: &Holder| match holder {
            Holder::Variable(of, _) => around.contains(of),
            Holder::File(id) => self
                .secrets
                .files
                .get(id)
                .is_some_and(|file| trees.iter().any(|top| file.path.starts_with(top))),
        };
        !trees.is_empty()
            && !holders.is_empty()
            && !holders.iter().any(|(_, holder)| is_own(holder))
    }
}
