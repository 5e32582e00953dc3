//! Values that are known by their keyed hashes, and where each is known from.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use super::FileId;
use crate::{
    http::KnownSecrets,
    secrets::{Hash, Keyed, tokens_of},
};

/// Values that are known at once.
const MAX_VALUES: usize = 65_536;
/// Places of one value that are known.
const MAX_HOLDERS: usize = 16;
/// Pieces of one text that are compared: a megabyte of nothing but words has fewer.
const MAX_PIECES: usize = 65_536;

/// Where a value is known from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A file.
    File(FileId),
    /// A variable that a session's first process was started with.
    Variable(u32, String),
}

#[derive(Debug)]
struct Known {
    provider: Arc<str>,
    holders: Vec<Holder>,
}

/// See the module's text.
pub(super) struct Values {
    keyed: Keyed,
    known: RwLock<HashMap<Hash, Known>>,
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Values({})", self.read().len())
    }
}

impl Values {
    pub(super) fn new(keyed: Keyed) -> Self {
        Self {
            keyed,
            known: RwLock::default(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Hash, Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Hash, Known>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    pub(super) fn add(&self, hash: Hash, provider: &Arc<str>, holder: Holder) {
        let mut known = self.write();
        if known.len() >= MAX_VALUES && !known.contains_key(&hash) {
            return;
        }
        let value = known.entry(hash).or_insert_with(|| Known {
            provider: provider.clone(),
            holders: Vec::new(),
        });
        if value.holders.len() < MAX_HOLDERS && !value.holders.contains(&holder) {
            value.holders.push(holder);
        }
    }

    pub(super) fn forget<'h>(&self, holder: &Holder, hashes: impl Iterator<Item = &'h Hash>) {
        let mut known = self.write();
        for hash in hashes {
            if let Some(value) = known.get_mut(hash) {
                value.holders.retain(|other| other != holder);
                if value.holders.is_empty() {
                    known.remove(hash);
                }
            }
        }
    }

    pub(super) fn forget_session(&self, id: u32) {
        self.write().retain(|_, value| {
            value
                .holders
                .retain(|holder| !matches!(holder, Holder::Variable(of, _) if *of == id));
            !value.holders.is_empty()
        });
    }

    /// Whose a value is, for each place that it is known from.
    pub(super) fn holders(&self, hash: &Hash) -> Vec<(Arc<str>, Holder)> {
        let known = self.read();
        let value = known.get(hash);
        value
            .into_iter()
            .flat_map(|value| {
                let with_provider = |holder: &Holder| (value.provider.clone(), holder.clone());
                value.holders.iter().map(with_provider)
            })
            .collect()
    }
}

impl KnownSecrets for Values {
    fn look(&self, text: &[u8], found: &mut Vec<Hash>) {
        let known = self.read();
        for token in tokens_of(text).take(MAX_PIECES) {
            let hash = self.keyed.hash(token.value());
            if known.contains_key(&hash) && !found.contains(&hash) {
                found.push(hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody's.
    const VALUE: &[u8] = b"c0ffee-c0ffee-c0ffee-c0ffee";

    fn found(values: &Values, text: &str) -> usize {
        let mut found = Vec::new();
        values.look(text.as_bytes(), &mut found);
        found.len()
    }

    #[test]
    fn a_known_value_is_found_in_what_is_said_and_another_is_not() {
        let values = Values::new(Keyed::random().unwrap());
        let hash = values.keyed.hash(VALUE);
        values.add(hash, &"railway".into(), Holder::File((1, 2)));
        values.add(hash, &"railway".into(), Holder::Variable(3, "TOKEN".into()));
        let value = std::str::from_utf8(VALUE).unwrap();
        for text in [
            format!("Bearer {value}"),
            format!("/v1?token={value}&x=1"),
            format!("{{\"a\":\"{value}\",\"again\":\"{value}\"}}"),
            value.to_owned(),
        ] {
            assert_eq!(found(&values, &text), 1, "{text}");
        }
        assert_eq!(found(&values, "Bearer c0ffee-c0ffee-c0ffee-c0ffef"), 0);
        assert_eq!(values.holders(&hash).len(), 2);
        // It is forgotten with the last place that it is known from.
        values.forget(&Holder::File((1, 2)), [hash].iter());
        assert_eq!(values.holders(&hash).len(), 1);
        values.forget_session(4);
        assert!(!values.is_empty());
        values.forget_session(3);
        assert!(values.is_empty());
        assert_eq!(found(&values, value), 0);
    }
}
