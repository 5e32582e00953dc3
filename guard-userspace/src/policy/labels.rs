//! Which bit stands for which label, over reloads.

use guard_common::MAX_LABELS;

use super::{Mistake, Policy, PolicyError};

/// A session whose score has fallen below the policy's threshold.
pub const DIVERGENT: &str = "divergent";
/// A session that searches for credentials, or opens many of them.
pub const HUNT: &str = "credential-hunt";
/// What is outside of what a session says it is for.
pub const OUTSIDE_INTENT: &str = "outside-intent";
/// What is outside of what a session's kind of work may touch.
pub const OUTSIDE_PERSONA: &str = "outside-persona";
/// Labels that guardd finds by itself: a rule may name them though no `[[label]]` does. Only those that some rule names
/// take one of the label's places.
pub const BY_GUARD: &[&str] = &[DIVERGENT, HUNT, OUTSIDE_INTENT, OUTSIDE_PERSONA];

/// Label names and their bits. A name keeps its bit over reloads, so that a session's facts keep
/// their meaning; a name that the policy no longer has keeps its bit until the room is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelBits(Vec<Option<String>>);

impl LabelBits {
    /// Gives each label of `policy` a bit: the one it had, else a free one, else one of a name that is
    /// no longer in the policy.
    ///
    /// # Errors
    /// More than [`MAX_LABELS`] labels, which [`Policy::parse`] has refused already.
    pub fn assign(previous: Option<&Self>, policy: &Policy) -> Result<Self, PolicyError> {
        let mut names = previous.map_or_else(|| vec![None; MAX_LABELS], |bits| bits.0.clone());
        for label in &policy.labels {
            if names.iter().flatten().any(|name| name == label) {
                continue;
            }
            let free = names.iter().position(Option::is_none).or_else(|| {
                names.iter().position(|name| {
                    name.as_ref()
                        .is_some_and(|name| !policy.labels.contains(name))
                })
            });
            let Some(bit) = free else {
                let mistake = Mistake::TooMany {
                    what: "labels".into(),
                    count: policy.labels.len(),
                    most: MAX_LABELS,
                    hint: "",
                };
                let part = policy.main();
                return Err(PolicyError::at(&part.source, &part.text, 0..0, mistake));
            };
            names[bit] = Some(label.clone());
        }
        Ok(Self(names))
    }

    /// The bit of a label, 0 to 63.
    pub fn bit(&self, name: &str) -> Option<u8> {
        self.0
            .iter()
            .position(|known| known.as_deref() == Some(name))
            .map(|bit| bit as u8)
    }

    /// The label of a bit.
    pub fn name(&self, bit: u8) -> Option<&str> {
        self.0.get(usize::from(bit))?.as_deref()
    }

    /// The labels in a set, in order of their bits.
    pub fn names(&self, mask: u64) -> Vec<String> {
        (0..MAX_LABELS as u8)
            .filter(|bit| mask & (1 << bit) != 0)
            .filter_map(|bit| self.name(bit).map(str::to_owned))
            .collect()
    }

    /// The bit of a label as a set; empty for a name that is not known.
    pub fn mask(&self, name: &str) -> u64 {
        self.bit(name).map_or(0, |bit| 1 << bit)
    }
}
