//! How often a program has to be there. The kernel does not run a tracing program for two threads at once on one
//! CPU: where a thread can be preempted in the middle of it, other threads pass by on that CPU meanwhile. guard
//! attaches such programs more than once (see `copies.rs` of the kernel side).

use std::fs;

use super::watched::{Attach, Feature, Hook, Tier};

/// Copies of a program that many threads are in at a time. Each is busy only with what those before it could not
/// take: seen in a storm of 300 processes on an emulated 7.3, where a program runs much longer than on
/// real hardware, one copy missed ten opens, two 6, three 2.
const OFTEN: usize = 3;
/// Copies of the others, which take long to load or run seldom.
const SELDOM: usize = 2;

/// Which programs can be preempted on this kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Preemption {
    tracing: bool,
    scheduler: bool,
}

impl Preemption {
    /// What this kernel says of itself. Where it does not say, it preempts.
    pub(super) fn of_this_kernel() -> Self {
        let uname = rustix::system::uname();
        let mode = fs::read_to_string("/sys/kernel/debug/sched/preempt").ok();
        Self::of(
            &uname.version().to_string_lossy(),
            &uname.release().to_string_lossy(),
            mode.as_deref(),
        )
    }

    /// `version` is like `#1 SMP PREEMPT_DYNAMIC Debian 6.1.1-1`, `release` like `6.1.0-13-amd64`, `mode` like
    /// `none (voluntary) full`.
    fn of(version: &str, release: &str, mode: Option<&str>) -> Self {
        let built_in = version.split(' ').any(|word| word.starts_with("PREEMPT"));
        let chosen = match mode {
            Some(mode) => !mode.contains("(none)") && !mode.contains("(voluntary)"),
            None => true,
        };
        let mut numbers = release
            .split(|c: char| !c.is_ascii_digit())
            .map(|word| word.parse().unwrap_or(0u32));
        let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let tracing = built_in && chosen;
        Self {
            tracing,
            // Before, the scheduler's tracepoints ran with preemption turned off. Seen on 7.3, not on 6.18.
            scheduler: tracing && number >= (6, 19),
        }
    }

    /// How many copies of a hook's program there are to be.
    pub(super) const fn copies(self, hook: &Hook) -> usize {
        match (&hook.attach, hook.feature) {
            (Attach::Security(Tier::ModifyReturn | Tier::Fentry, _), _) if self.tracing => {}
            (Attach::Scheduler(_), _) if self.scheduler => {}
            _ => return 1,
        }
        match hook.feature {
            Feature::Open | Feature::Lineage => OFTEN,
            _ => SELDOM,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Preemption;

    fn of(version: &str, release: &str, mode: Option<&str>) -> (bool, bool) {
        let Preemption { tracing, scheduler } = Preemption::of(version, release, mode);
        (tracing, scheduler)
    }

    #[test]
    fn a_kernel_preempts_when_it_was_built_to_and_is_not_told_otherwise() {
        let dynamic = "#1 SMP PREEMPT_DYNAMIC Debian 7.3.4-1 (2026-11-01)";
        assert_eq!(of(dynamic, "7.3.4+deb13-amd64", None), (true, true));
        assert_eq!(
            of(dynamic, "6.18.0", Some("none voluntary (full)\n")),
            (true, false)
        );
        assert_eq!(of(dynamic, "6.19.0", Some("full (lazy)\n")), (true, true));
        assert_eq!(
            of(dynamic, "6.1.0-13-amd64", Some("none (voluntary) full\n")),
            (false, false)
        );
        assert_eq!(of("#1 SMP Debian 5.10.1-1", "5.10.0", None), (false, false));
    }
}
