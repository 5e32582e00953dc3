//! What the scanner tells: files get and lose their labels.

use super::{FileId, HoldingFile, MAX_FILES, Work, values::Holder};
use crate::{
    engine::Engine,
    kernel::{LabelledFile, kernel_dev},
    secrets::{Brief, Meaning, Report, ScannedFile, Variable, labels_of, meaning},
    wire::EnvironmentInfo,
};

impl Engine {
    /// What the scanner tells.
    pub(in crate::engine) fn on_report(&mut self, report: Report) {
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
    pub(super) fn labels_of_secrets(&self, secrets: &[Brief]) -> u64 {
        labels_of(secrets.iter().map(|one| &*one.provider), false)
            .iter()
            .fold(0, |mask, label| mask | self.bit_of(label))
    }

    /// A label of the policy in force as a bit; names that an earlier one had have bits as well.
    pub(super) fn bit_of(&self, label: &str) -> u64 {
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

    pub(super) fn forget_file(&mut self, id: FileId) {
        let generation = self.secrets.files.get(&id).and_then(|file| file.generation);
        if self.secrets.forget(id) {
            self.label_file(id, generation, 0);
        }
    }

    /// The same for every file in a half of the policy that is about to be put in force, with its labels.
    pub(in crate::engine) fn label_files_in(&mut self, generation: u32) {
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
}
