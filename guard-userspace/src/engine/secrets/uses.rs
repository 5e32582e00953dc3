//! Requests that carry what is known from a file or an environment.

use std::{path::PathBuf, sync::Arc};

use serde_json::{Map, Value, json};

use super::{MAX_SHOWN, Secrets, values::Holder};
use crate::{
    engine::Engine,
    http::Request,
    secrets::{FOREIGN, labels_of},
};

impl Secrets {
    /// Adds whose secrets a request carries, and where they are known from.
    pub(in crate::engine) fn describe_uses(
        &self,
        request: &Request,
        object: &mut Map<String, Value>,
    ) {
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
}

impl Engine {
    /// Labels, as bits, of a request that carries known secrets.
    pub(in crate::engine) fn uses_of(&self, session: u32, request: &Request) -> u64 {
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
