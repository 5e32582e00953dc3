//! Labels that what files hold gives, and none of the policy's patterns.

use std::{collections::BTreeSet, sync::OnceLock};

use super::table;

/// A file that holds a secret.
pub const SECRET: &str = "secret";
/// Something is said that holds a known secret.
pub const USES: &str = "uses:secret";
/// The same with a secret of another tree.
pub const FOREIGN: &str = "foreign-secret";

/// Providers that there are; those of [`SECRET`]`:provider`.
pub fn providers() -> &'static BTreeSet<String> {
    static PROVIDERS: OnceLock<BTreeSet<String>> = OnceLock::new();
    PROVIDERS.get_or_init(table::providers)
}

/// All of these labels.
pub fn all_labels() -> impl Iterator<Item = String> {
    let general = [SECRET, USES, FOREIGN].into_iter().map(str::to_owned);
    let of_providers = providers()
        .iter()
        .flat_map(|provider| [SECRET, USES].map(|general| format!("{general}:{provider}")));
    general.chain(of_providers)
}

/// What a label's name means among these, and of which provider it is; `None` where it is none of them.
pub fn meaning(label: &str) -> Option<Meaning<'_>> {
    if label == FOREIGN {
        return Some(Meaning::Foreign);
    }
    let (rest, uses) = match label.strip_prefix("uses:") {
        Some(rest) => (rest, true),
        None => (label, false),
    };
    let provider = match rest.strip_prefix(SECRET)? {
        "" => None,
        rest => Some(
            rest.strip_prefix(':')
                .filter(|provider| providers().contains(*provider))?,
        ),
    };
    Some(if uses {
        Meaning::Uses(provider)
    } else {
        Meaning::Holds(provider)
    })
}

/// See [`meaning`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// The file holds a secret, of this provider or of any.
    Holds(Option<&'a str>),
    /// A request carries one.
    Uses(Option<&'a str>),
    /// A request carries one of another tree.
    Foreign,
}

/// Every such label of these providers: in a file, or with `uses` in a request.
pub fn labels_of<'p>(providers: impl IntoIterator<Item = &'p str>, uses: bool) -> BTreeSet<String> {
    let general = if uses { USES } else { SECRET };
    let mut labels = BTreeSet::new();
    for provider in providers {
        labels.insert(general.to_owned());
        labels.insert(format!("{general}:{provider}"));
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_labels_say_what_they_mean() {
        for (label, means) in [
            ("secret", Some(Meaning::Holds(None))),
            ("secret:railway", Some(Meaning::Holds(Some("railway")))),
            (
                "secret:private-key",
                Some(Meaning::Holds(Some("private-key"))),
            ),
            ("uses:secret", Some(Meaning::Uses(None))),
            ("uses:secret:railway", Some(Meaning::Uses(Some("railway")))),
            ("foreign-secret", Some(Meaning::Foreign)),
            ("secret:railwai", None),
            ("secrets", None),
            ("uses:railway", None),
            ("secret:", None),
        ] {
            assert_eq!(meaning(label), means, "{label}");
        }
        assert!(providers().len() > 100);
        assert!(all_labels().all(|label| meaning(&label).is_some()));
        let labels = labels_of(["railway", "aws"], true);
        assert!(labels.into_iter().eq([
            "uses:secret".to_owned(),
            "uses:secret:aws".to_owned(),
            "uses:secret:railway".to_owned()
        ]));
        assert!(labels_of([], false).is_empty());
    }
}
