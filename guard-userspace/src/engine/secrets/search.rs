//! Which trees are searched, and for how long.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::mpsc;

use super::{FileId, Secrets, Tree, Values, Work};
use crate::{
    clock,
    engine::Engine,
    secrets::{Beginner, Keyed, REPORTS, Watch, WatchLimits},
};

/// How long a tree is watched after the last session in it has ended: the next one finds it as it is.
const LINGER_NS: u64 = 600_000_000_000;
/// How long opens are told at a time while a tree is gone through; guardd looks after it several times in that.
const TELL_NS: u64 = 3_000_000_000;

impl Engine {
    /// Begins to search files, or ends it, as the policy in force says.
    pub(in crate::engine) fn search_as_the_policy_says(&mut self) {
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

    pub(super) fn search_tree(&mut self, top: PathBuf) -> &mut Tree {
        if let Some((watch, _)) = &self.secrets.watch {
            // Told again of one that is known it does nothing.
            watch.add_tree(&top);
        }
        self.secrets.trees.entry(top).or_default()
    }

    /// A session has begun, or is taken up again.
    pub(in crate::engine) fn search_files_of(&mut self, id: u32) {
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
    pub(in crate::engine) fn search_no_more_for(&mut self, id: u32) {
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
    pub(in crate::engine) fn look_after_secrets(&mut self) {
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
        self.kernel.tables.tell_no_opens_after(now);
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
}
