//! What a session says it is for, and what of what it does is outside that.
//!
//! An intent is a text for people. A small matcher turns it into labels that it allows and environments that it names; a person sees
//! what was understood, and can say it in so many words in `.guard/intent.toml` instead. It gives a session nothing that the policy
//! does not: what a label's rules say holds as ever. What is outside it is a fact (`outside-intent`) that rules can use.

mod file;
mod words;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::file::{FILE, MAX_FILE};

/// Bytes of a text that are looked at.
const MAX_TEXT: usize = 4096;

/// A text, and what was made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// As it was said.
    pub text: String,
    /// Environments that it is about; empty for any.
    #[serde(default)]
    pub environments: BTreeSet<String>,
    /// Labels that it allows.
    #[serde(default)]
    pub allows: BTreeSet<String>,
    /// Labels that it says not to touch, whatever else it allows.
    #[serde(default)]
    pub refuses: BTreeSet<String>,
}

/// Why something is outside an intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outside {
    /// It carries labels that are not allowed.
    Labels(Vec<String>),
    /// It is in another environment, which this word says.
    Environment(String),
}

impl Intent {
    /// What a text means.
    pub fn understand(text: &str) -> Self {
        let mut intent = Self {
            text: text.to_owned(),
            ..Self::default()
        };
        let end = (0..=text.len().min(MAX_TEXT))
            .rev()
            .find(|at| text.is_char_boundary(*at));
        for clause in text[..end.unwrap_or(0)].split(['.', ',', ';', ':', '!', '?', '\n', '(', ')'])
        {
            let mut negated = false;
            let mut refused = BTreeSet::new();
            for word in words_of(clause) {
                // "but" ends what "not" began.
                match &*word {
                    "but" | "and" | "then" => negated = false,
                    word if words::NEGATIONS.contains(&word) => negated = true,
                    _ => {}
                }
                if negated {
                    refused.extend(labels_of(&word));
                } else {
                    intent.allows.extend(labels_of(&word).map(str::to_owned));
                    intent
                        .environments
                        .extend(environment_of(&word).map(str::to_owned));
                }
            }
            // "Do not delete volumes" says nothing against volumes.
            if refused.iter().any(|label| label.starts_with("destructive")) {
                refused.retain(|label| label.starts_with("destructive"));
            }
            intent
                .refuses
                .extend(refused.into_iter().map(str::to_owned));
        }
        let refused = intent.refuses.clone();
        intent.allows.retain(|label| !refused.contains(label));
        intent
    }

    /// What keeps something that carries `labels` and is about `target` (a path, a host, a command line) from being part of it.
    /// Without labels, nothing is.
    pub fn excludes(&self, labels: &[String], target: &str) -> Option<Outside> {
        let outside: Vec<String> = labels
            .iter()
            .filter(|label| !self.allows.contains(*label))
            .cloned()
            .collect();
        if !outside.is_empty() {
            return Some(Outside::Labels(outside));
        }
        if labels.is_empty() || self.environments.is_empty() {
            return None;
        }
        let other = words_of(target).find(|word| {
            environment_of(word).is_some_and(|other| !self.environments.contains(other))
        });
        other.map(Outside::Environment)
    }

    /// One line for people: what was understood.
    pub fn says(&self) -> String {
        let list = |set: &BTreeSet<String>| {
            set.iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let mut parts = Vec::new();
        parts.push(match self.environments.is_empty() {
            true => "any environment".to_owned(),
            false => format!("environment {}", list(&self.environments)),
        });
        parts.push(match self.allows.is_empty() {
            true => "may touch nothing that carries a label".to_owned(),
            false => format!("may touch {}", list(&self.allows)),
        });
        if !self.refuses.is_empty() {
            parts.push(format!("not {}", list(&self.refuses)));
        }
        parts.join("; ")
    }
}

impl Outside {
    /// For people.
    pub fn says(&self) -> String {
        match self {
            Self::Labels(labels) => format!("it is about {}", labels.join(", ")),
            Self::Environment(word) => format!("it is about another environment ({word})"),
        }
    }
}

/// The labels that a word means.
fn labels_of(word: &str) -> impl Iterator<Item = &'static str> + '_ {
    words::LABELS
        .iter()
        .filter(move |(known, _)| known.iter().any(|known| is(known, word)))
        .flat_map(|(_, labels)| labels.iter().copied())
}

/// The environment that a word means.
fn environment_of(word: &str) -> Option<&'static str> {
    let mut all = words::ENVIRONMENTS.iter();
    all.find(|(known, _)| known.contains(&word))
        .map(|(_, environment)| *environment)
}

fn is(known: &str, word: &str) -> bool {
    match known.strip_suffix('*') {
        Some(beginning) => word.starts_with(beginning),
        None => word == known,
    }
}

/// Words in small letters: letters, digits and apostrophes together.
fn words_of(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '’'))
        .filter(|word| !word.is_empty())
        .map(|word| word.to_lowercase().replace('’', "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_text_is_understood_by_its_words() {
        let intent = Intent::understand("Fix the staging credential mismatch");
        assert_eq!(intent.environments, set(&["staging"]));
        assert_eq!(
            intent.allows,
            set(&["credential", "secret", "secret-store"])
        );
        let intent = Intent::understand("tidy the docs");
        assert_eq!(
            intent,
            Intent {
                text: "tidy the docs".into(),
                ..Intent::default()
            }
        );
        assert_eq!(
            intent.says(),
            "any environment; may touch nothing that carries a label"
        );
        let intent = Intent::understand(
            "Deploy v2 to prod and QA, but don’t delete volumes; update npm packages",
        );
        assert_eq!(intent.environments, set(&["production", "test"]));
        assert_eq!(
            intent.refuses,
            set(&["destructive-command", "destructive-request"])
        );
        assert_eq!(intent.allows, set(&["infra", "registry"]));
        // A word inside another is another word.
        assert!(
            Intent::understand("the monkey and the keyboard")
                .allows
                .is_empty()
        );
    }

    #[test]
    fn what_is_outside_says_why() {
        let intent = Intent::understand("fix the staging credential mismatch");
        let labels =
            |words: &[&str]| -> Vec<String> { words.iter().map(|w| (*w).to_owned()).collect() };
        assert_eq!(
            intent.excludes(&labels(&["credential"]), "/home/ada/shop/.env.staging"),
            None
        );
        assert_eq!(
            intent.excludes(&labels(&["credential"]), "/home/ada/shop/.env.production"),
            Some(Outside::Environment("production".into()))
        );
        assert_eq!(
            intent.excludes(
                &labels(&["destructive-request", "credential"]),
                "api.example.com"
            ),
            Some(Outside::Labels(labels(&["destructive-request"])))
        );
        assert_eq!(intent.excludes(&[], "/srv/production"), None);
        // Any environment will do where none is named.
        let intent = Intent::understand("rotate the tokens");
        assert_eq!(
            intent.excludes(&labels(&["credential"]), "/srv/production/.env"),
            None
        );
    }

    #[test]
    fn no_text_is_too_much() {
        let long = "credential é".repeat(100_000);
        assert_eq!(
            Intent::understand(&long).allows,
            set(&["credential", "secret", "secret-store"])
        );
    }
}
