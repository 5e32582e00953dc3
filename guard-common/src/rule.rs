//! Rules as the kernel judges them: an ordered sequence of labels within a window.
//!
//! A rule's progress in a session is one array of times. `start[k]` is the *latest* time at which a
//! chain that has completed steps `0..=k` may have begun; 0 means there is none. Keeping the latest
//! is enough: a chain with a later start fits every window that one with an earlier start fits.

use crate::{MAX_LABELS, MAX_STEPS, MAX_UNLESS};

/// One rule, as it lies in the kernel's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    /// Every label that is a step of this rule.
    pub labels: u64,
    /// The whole sequence must fit in this many nanoseconds; [`NO_LIMIT`] for any time.
    pub within_ns: u64,
    /// How long a hold waits for a person, in nanoseconds.
    pub timeout_ns: u64,
    /// Label numbers in order; the first `len` count.
    pub steps: [u8; MAX_STEPS],
    /// Number of steps, 1 to [`MAX_STEPS`].
    pub len: u8,
    /// A [`crate::Verdict`].
    pub action: u8,
    /// What silence means for a hold, a [`crate::Verdict`]: deny, kill, or allow for "resume".
    pub on_timeout: u8,
    /// What is done where a kernel cannot deny, a [`crate::Verdict`].
    pub fallback: u8,
    /// Set of `RULE_*`.
    pub flags: u32,
    /// Whose sessions it is for: those of this uid, or with [`ANY_USER`] everybody's.
    pub uid: u32,
    /// How many of `unless` count.
    pub exceptions: u32,
    /// What keeps it from firing.
    pub unless: [Unless; MAX_UNLESS],
}

/// A label whose touch keeps a rule from firing, though its steps are complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Unless {
    /// A touch in so many nanoseconds before counts; 0: one since the sequence has begun.
    pub within_ns: u64,
    /// Its number.
    pub label: u64,
}

/// [`Rule::uid`] of a rule for every session. A session whose user is not known carries it too, and is met by no
/// other rule.
pub const ANY_USER: u32 = u32::MAX;

/// [`Rule::within_ns`] of a rule without a window.
pub const NO_LIMIT: u64 = i64::MAX as u64;

/// The hold stops every process of the session, not only the one that triggered it.
pub const RULE_SCOPE_SESSION: u32 = 1;
/// The rule only records what it would have done.
pub const RULE_OBSERVE: u32 = 2;

/// How far one session has come with one rule. See the module's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Progress {
    /// Nanoseconds of `CLOCK_MONOTONIC`; 0 means that this step has not been reached.
    pub start: [u64; MAX_STEPS],
}

impl Progress {
    /// Adds what another account of the same touches knows: a later start is as true as an earlier one.
    pub fn merge(&mut self, other: &Self) {
        for (start, other) in self.start.iter_mut().zip(other.start) {
            *start = other.max(*start);
        }
    }
}

/// Which session and which rule a [`Progress`] belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ProgressKey {
    /// The session.
    pub session: u32,
    /// Index in the rule table.
    pub rule: u16,
    /// Which half of the double-buffered policy the index belongs to.
    pub generation: u16,
}

impl Rule {
    /// Whether a touch of any label in `touched` can move this rule.
    #[inline(always)]
    pub fn concerns(&self, touched: u64) -> bool {
        self.labels & touched != 0
    }

    /// Whether it is for the sessions of this user.
    #[inline(always)]
    pub fn is_for(&self, uid: u32) -> bool {
        self.uid == ANY_USER || self.uid == uid
    }
}

/// Moves `progress` by one touch of the labels in `touched` at time `now_ns` and says whether the
/// rule fires, that is, whether this very touch completes the sequence within the window.
///
/// One touch moves a chain by at most one step, so a file that carries two labels is not a sequence
/// by itself. `now_ns` must not be 0.
#[inline(always)]
pub fn advance(rule: &Rule, progress: &mut Progress, touched: u64, now_ns: u64) -> bool {
    // Downwards, so that a step reads its predecessor as it was before this touch. Written out: of a loop
    // the compiler makes arithmetic on the index that verifiers before Linux 6.18 cannot follow.
    let mut fires = false;
    macro_rules! steps {
        ($($k:literal)*) => {
            const { assert!(MAX_STEPS == [$($k),*].len()) };
            $(fires |= advance_step::<$k>(rule, progress, touched, now_ns);)*
        };
    }
    steps!(15 14 13 12 11 10 9 8 7 6 5 4 3 2 1 0);
    fires
}

/// Step `K` of [`advance`].
#[inline(always)]
fn advance_step<const K: usize>(
    rule: &Rule,
    progress: &mut Progress,
    touched: u64,
    now_ns: u64,
) -> bool {
    // Read anew each time: a length in a register, once compared, makes the verifier follow every length
    // there can be through all steps that are left.
    // SAFETY: a reference is valid for reads.
    let len = unsafe { core::ptr::read_volatile(&rule.len) } as usize;
    if K >= len || touched >> (rule.steps[K] & 63) & 1 == 0 {
        return false;
    }
    let begun = match K {
        0 => now_ns,
        _ => progress.start[K.saturating_sub(1)],
    };
    // Saturating: another CPU may have moved the step before at a time that is later than ours. Two
    // touches at once count as in order, or racing threads could slip between them.
    if begun == 0 || now_ns.saturating_sub(begun) > rule.within_ns {
        return false;
    }
    // Never back: another CPU may have written a later start.
    if begun > progress.start[K] {
        progress.start[K] = begun;
    }
    K + 1 == len
}

/// Whether a rule whose steps are complete is kept from firing: `begun_ns` is when the sequence began, and `last_ns` when each
/// label was touched last, 0 for never.
#[inline(always)]
pub fn is_excepted(rule: &Rule, begun_ns: u64, now_ns: u64, last_ns: &[u64; MAX_LABELS]) -> bool {
    let mut excepted = false;
    // Written out, for the reason given at `advance`.
    macro_rules! all {
        ($($k:literal)*) => {
            const { assert!(MAX_UNLESS == [$($k),*].len()) };
            $(
                let unless = &rule.unless[$k];
                let last = last_ns[(unless.label & (MAX_LABELS as u64 - 1)) as usize];
                let recent = match unless.within_ns {
                    0 => last >= begun_ns,
                    within => now_ns.saturating_sub(last) <= within,
                };
                excepted |= ($k as u32) < rule.exceptions && last != 0 && recent;
            )*
        };
    }
    all!(0 1 2 3);
    excepted
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn rule(steps: &[u8], within_ns: u64) -> Rule {
        let mut fixed = [0u8; MAX_STEPS];
        fixed[..steps.len()].copy_from_slice(steps);
        Rule {
            labels: steps.iter().fold(0, |mask, step| mask | 1 << step),
            within_ns,
            timeout_ns: 0,
            steps: fixed,
            len: steps.len() as u8,
            action: 0,
            on_timeout: 0,
            fallback: 0,
            flags: 0,
            uid: ANY_USER,
            exceptions: 0,
            unless: [Unless::default(); MAX_UNLESS],
        }
    }

    /// The definition, spelled out: is there an increasing choice of earlier touches, one for each
    /// step, that ends with the last touch and fits the window?
    fn by_definition(rule: &Rule, touches: &[(u64, u64)]) -> bool {
        fn search(
            rule: &Rule,
            touches: &[(u64, u64)],
            step: usize,
            before: usize,
            end: u64,
        ) -> bool {
            let bit = 1u64 << rule.steps[step];
            (0..before).rev().any(|i| {
                let (mask, time) = touches[i];
                mask & bit != 0
                    && end - time <= rule.within_ns
                    && (step == 0 || search(rule, touches, step - 1, i, end))
            })
        }
        let Some(&(mask, end)) = touches.last() else {
            return false;
        };
        let last = rule.len as usize - 1;
        if mask & (1 << rule.steps[last]) == 0 {
            return false;
        }
        last == 0 || search(rule, touches, last - 1, touches.len() - 1, end)
    }

    proptest! {
        #[test]
        fn progress_agrees_with_the_definition_of_a_sequence(
            steps in prop::collection::vec(0u8..4, 1..=5),
            within in prop_oneof![Just(NO_LIMIT), 1u64..40],
            touches in prop::collection::vec((1u64..16, 1u64..8), 0..24),
        ) {
            let rule = rule(&steps, within);
            let mut progress = Progress::default();
            let mut now = 1;
            let mut seen = Vec::new();
            for (mask, gap) in touches {
                now += gap;
                seen.push((mask, now));
                prop_assert_eq!(
                    advance(&rule, &mut progress, mask, now),
                    by_definition(&rule, &seen),
                    "steps {:?} within {} touches {:?}", steps, within, seen
                );
            }
        }
    }

    #[test]
    fn a_users_rule_is_for_that_users_sessions_and_for_none_whose_user_is_not_known() {
        let everybody = rule(&[1], NO_LIMIT);
        let of_one = Rule {
            uid: 1000,
            ..everybody
        };
        assert!([0, 1000, 1001, ANY_USER].map(|uid| everybody.is_for(uid)) == [true; 4]);
        assert!(of_one.is_for(1000));
        assert!(
            ![0, 1001, ANY_USER]
                .into_iter()
                .any(|uid| of_one.is_for(uid))
        );
    }

    #[test]
    fn a_repeated_step_needs_two_touches() {
        let rule = rule(&[1, 1], NO_LIMIT);
        let mut progress = Progress::default();
        assert!(!advance(&rule, &mut progress, 1 << 1, 5));
        assert!(advance(&rule, &mut progress, 1 << 1, 6));
    }

    #[test]
    fn a_touch_that_a_rule_wants_not_to_be_keeps_it_from_firing() {
        let mut rule = rule(&[1, 2], NO_LIMIT);
        rule.exceptions = 1;
        rule.unless[0].label = 5;
        // What is behind those that count is nothing.
        rule.unless[1].label = 1;
        let mut last = [0; MAX_LABELS];
        last[1] = 50;
        assert!(!is_excepted(&rule, 50, 100, &last), "never");
        last[5] = 49;
        assert!(!is_excepted(&rule, 50, 100, &last), "before it began");
        last[5] = 50;
        assert!(is_excepted(&rule, 50, 100, &last), "since");
        rule.unless[0].within_ns = 30;
        assert!(!is_excepted(&rule, 50, 100, &last), "long ago");
        last[5] = 70;
        assert!(is_excepted(&rule, 90, 100, &last), "not long ago");
    }

    #[test]
    fn one_file_with_two_labels_is_not_a_sequence() {
        let rule = rule(&[1, 2], NO_LIMIT);
        let mut progress = Progress::default();
        assert!(!advance(&rule, &mut progress, 0b110, 5));
        assert!(advance(&rule, &mut progress, 0b110, 6));
    }
}
