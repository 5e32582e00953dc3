//! The words that both sides of guard share: the layout of every map and ring-buffer record, and the
//! pure functions (hashing, rule progress, verdict order) whose result must be the same in the kernel
//! and in userspace.
//!
//! Nothing here allocates, blocks or depends on another crate of ours.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod event;
pub mod matching;
pub mod names;
pub mod offsets;
pub mod requests;
pub mod rule;
pub mod state;

#[cfg(feature = "user")]
mod pod {
    macro_rules! pod {
        ($($ty:ty),* $(,)?) => {
            // SAFETY: repr(C), no padding bytes that matter (explicit `pad` fields), valid for any bits.
            $(unsafe impl aya::Pod for $ty {})*
        };
    }

    use crate::{matching as m, names as n, requests as q, rule as r, state as s};

    pod!(
        q::StreamKey,
        q::StreamState,
        q::Tapped,
        s::Task,
        s::Session,
        s::LeaseKey,
        s::Lease,
        s::Answer,
        s::AnswerKey,
        s::Held,
        s::Waiting,
        s::Following,
        s::Started,
        s::RuleTable,
        s::Names,
        s::Config,
        s::Acts,
        s::OwnFile,
        s::Counter,
        r::Progress,
        r::ProgressKey,
        m::NameKey,
        m::Candidates,
        m::Pattern,
        m::FileKey,
        m::KnownFile,
        m::AddressKey,
        m::KnownAddress,
        m::EnvKey,
        n::HostKey,
        n::KnownHost,
        n::ResolvedKey,
        n::Resolved,
        n::Socket,
    );
}

/// Labels a policy may name. A label is one bit of a `u64`, so that a set of labels is one word.
pub const MAX_LABELS: usize = 64;
/// Stands, in the instructions of a program that may be loaded more than once, where guardd writes which copy it
/// is. Any number that occurs nowhere else.
pub const COPY: i32 = 0x6d75_6c74;
/// Groups (label tables with exceptions of their own) a policy may have; again one bit each.
pub const MAX_GROUPS: usize = 64;
/// Rules a policy may have.
pub const MAX_RULES: usize = 64;
/// Rules that a user's own file may add for that user's sessions.
pub const MAX_USER_RULES: usize = 8;
/// Bytes of a program's environment that are searched for agents' markers.
pub const ENV_SEARCHED: usize = 64 << 10;
/// Ordered steps in one rule.
pub const MAX_STEPS: usize = 16;
/// Labels that one rule wants not to have been touched.
pub const MAX_UNLESS: usize = 4;
/// Sessions inside sessions that a fact is passed up through, the innermost included.
pub const MAX_NESTING: usize = 4;
/// Compiled path patterns per policy generation.
pub const MAX_PATTERNS: u32 = 4096;
/// Patterns that may share one final-component key.
pub const MAX_CANDIDATES: usize = 16;
/// Bytes of a command line that the kernel copies at exec.
pub const MAX_ARGV: usize = 4096;
/// Bytes of a resolved path that an event carries.
pub const MAX_PATH: usize = 4096;
/// Directory levels that are walked to verify a pattern or to name a file.
pub const MAX_DEPTH: usize = 32;

/// The verdict on one call, in rising order of severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verdict {
    /// The call goes on and nothing is told.
    Allow = 0,
    /// The call goes on; it is recorded and told.
    Flag = 1,
    /// The process is stopped before it sees the call's result, until a person answers.
    Hold = 2,
    /// The call fails with `EPERM`.
    Deny = 3,
    /// The process is killed before it sees the call's result.
    Kill = 4,
}

impl Verdict {
    /// The verdict with this number; anything unknown counts as the mildest.
    pub const fn from_u8(n: u8) -> Self {
        match n {
            1 => Self::Flag,
            2 => Self::Hold,
            3 => Self::Deny,
            4 => Self::Kill,
            _ => Self::Allow,
        }
    }

    /// The word in policies and events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Flag => "flag",
            Self::Hold => "hold",
            Self::Deny => "deny",
            Self::Kill => "kill",
        }
    }
}

/// USER_HZ on every architecture guard supports: `/proc/PID/stat` counts start times in these.
/// <https://github.com/torvalds/linux/blob/v6.12/include/asm-generic/param.h#L8>
pub const USER_HZ: u64 = 100;
/// Nanoseconds in one tick of `/proc/PID/stat`.
pub const NS_PER_TICK: u64 = 1_000_000_000 / USER_HZ;
