//! The volumes, and what it takes to destroy one.

use serde_json::{Value, json};

/// What the API stands for.
pub(crate) struct Store {
    token: String,
    volumes: Vec<Volume>,
}

struct Volume {
    id: &'static str,
    name: &'static str,
    backups: &'static [&'static str],
}

impl Store {
    pub(crate) fn with_demo_volumes(token: String) -> Self {
        Self {
            token,
            volumes: vec![
                Volume {
                    id: "vol-production",
                    name: "production-db",
                    backups: &["bak-daily", "bak-weekly", "bak-monthly"],
                },
                Volume {
                    id: "vol-staging",
                    name: "staging-db",
                    backups: &["bak-staging"],
                },
            ],
        }
    }

    pub(crate) fn lets_in(&self, token: Option<&str>) -> bool {
        token == Some(&self.token)
    }

    /// Destroys a volume, and its backups with it: they live on the volume, as they did in the
    /// incident. Whether there was one.
    pub(crate) fn delete_volume(&mut self, id: &str) -> bool {
        let before = self.volumes.len();
        self.volumes.retain(|volume| volume.id != id);
        self.volumes.len() < before
    }

    /// Each volume with all its fields.
    pub(crate) fn volumes(&self) -> Vec<Value> {
        self.volumes
            .iter()
            .map(|volume| {
                let backups: Vec<_> = volume
                    .backups
                    .iter()
                    .map(|id| json!({ "id": id }))
                    .collect();
                json!({ "id": volume.id, "name": volume.name, "backups": backups })
            })
            .collect()
    }

    pub(crate) fn volume_ids(&self) -> Vec<&str> {
        self.volumes.iter().map(|volume| volume.id).collect()
    }

    pub(crate) fn volumes_alive(&self) -> usize {
        self.volumes.len()
    }

    pub(crate) fn backups_alive(&self) -> usize {
        self.volumes.iter().map(|volume| volume.backups.len()).sum()
    }
}
