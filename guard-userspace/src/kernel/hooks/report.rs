//! What the hooks' states mean to a person: `status` and `doctor`.

use guard_common::ENV_SEARCHED;

use super::{Hooks, Tier};
use crate::{
    kernel::watched::{Attach, FEATURES, Feature},
    wire::HookInfo,
};

impl Hooks {
    /// The table for `status`.
    pub fn info(&self) -> Vec<HookInfo> {
        FEATURES
            .into_iter()
            .map(|feature| self.info_of(feature))
            .collect()
    }

    fn info_of(&self, feature: Feature) -> HookInfo {
        let of = || self.of(feature);
        let lacking = of().find(|(hook, state)| {
            hook.essential
                && !(state.loaded && (state.problem.is_none() || !state.links.is_empty()))
        });
        // The cgroup programs are what a connection is judged by; the tracepoint only sends the signal.
        let tier = self.tier(feature).filter(|_| lacking.is_none());
        let mut notes: Vec<String> = self
            .notes
            .iter()
            .filter(|(of, _)| *of == feature)
            .map(|(_, note)| note.clone())
            .collect();
        notes.extend(of().filter_map(|(hook, state)| {
            Some(format!("{}: {}", hook.name(), state.problem.as_ref()?))
        }));
        if !self.attaches_again
            && let Some((hook, _)) =
                of().find(|(hook, _)| matches!(hook.attach, Attach::Security(..)))
        {
            notes.push(format!(
                "once attached to {} it stays there without a session too: this kernel attaches a program only once \
                 (5.13 does again)",
                hook.name()
            ));
        }
        notes.dedup();
        let attached = of().any(|(hook, state)| match hook.attach {
            Attach::With(other, _) => self
                .of(other)
                .any(|(other, state)| other.program == hook.program && !state.links.is_empty()),
            _ => !state.links.is_empty(),
        });
        HookInfo {
            watched: feature.name().into(),
            tier: tier.map_or("none", Tier::name).into(),
            can: tier
                .map(|tier| tier.can(feature))
                .unwrap_or_default()
                .iter()
                .map(|word| (*word).to_owned())
                .collect(),
            attached,
            note: if notes.is_empty() {
                None
            } else {
                Some(notes.join("; "))
            },
        }
    }

    /// What is degraded, one line each.
    pub fn degraded(&self) -> Vec<String> {
        self.info()
            .into_iter()
            .filter(|info| info.tier == "none" && info.watched != Feature::OwnFiles.name())
            .map(|info| {
                format!(
                    "{} is not watched: {}",
                    info.watched,
                    info.note.unwrap_or_default()
                )
            })
            .collect()
    }

    /// Whether a refused connect can be repeated.
    pub fn repeats_connects(&self) -> bool {
        self.helpers.set_retval
    }

    /// What this kernel cannot do that a policy may ask for.
    pub fn not_enforced(&self) -> Vec<String> {
        let denies = |feature: Feature| {
            self.tier(feature)
                .is_some_and(|tier| tier.can(feature).contains(&"deny"))
        };
        let mut not_denied: Vec<&str> = [
            Feature::Open,
            Feature::Program,
            Feature::Signal,
            Feature::Ptrace,
            Feature::Bpf,
            Feature::UnixConnect,
        ]
        .into_iter()
        .filter(|feature| !denies(*feature))
        .map(Feature::name)
        .collect();
        not_denied.push("exec by command line");
        let mut lines = vec![format!(
            "deny on {}: it cannot be made to fail here; the rule's fallback (kill by default) is used",
            not_denied.join(", ")
        )];
        if self.tier(Feature::Open) == Some(Tier::Tracepoint) {
            lines.push(
                "opens by 32-bit programs and by io_uring: seen by no syscall tracepoint (label the call io-uring)"
                    .into(),
            );
        }
        if !denies(Feature::Signal) {
            lines.push(
                "signals, ptrace and bpf before they happen: a tracepoint sees them, and the caller is stopped or \
                 killed when it returns"
                    .into(),
            );
        }
        if self.tier(Feature::OwnFiles).is_none() {
            lines.push(
                "writing, replacing or removing guard's own files, unmounting or covering their places: nothing \
                 here could refuse it (label the call guard-files where something can)"
                    .into(),
            );
        }
        if !denies(Feature::UnixConnect) {
            lines.push(
                "unix connects by io_uring and by 32-bit programs, and unix datagrams without a connect: seen by no \
                 syscall tracepoint"
                    .into(),
            );
        }
        lines.extend([
            "abstract unix sockets".to_owned(),
            format!(
                "agents' markers behind the first {} KiB of an environment",
                ENV_SEARCHED >> 10
            ),
            "an agent that is started from an interactive shell is not stopped until its session's hooks are \
             in place (the shell would take the stop for Ctrl-Z): what it does in its first milliseconds, when it \
             is the first session, is not seen"
                .to_owned(),
            "a held datagram, fast-open connect or io_uring open is refused, not repeated: the program sees EPERM when it \
             goes on"
                .to_owned(),
        ]);
        lines.extend(self.also_not.iter().cloned());
        if let Some(why) = &self.not_pinned {
            lines.push(format!("anything while guardd is down: {why}"));
        }
        if !self.helpers.task_regs {
            lines.push(
                "repeating a held open or unix connect: this kernel does not tell which call it is in (no \
                 bpf_task_pt_regs; 5.15 has it), so a held open has happened when it is answered (deny kills), and a \
                 held unix connect has failed"
                    .to_owned(),
            );
        }
        if !self.helpers.set_retval {
            lines.push(
                "hold before the handshake, and deny of a held connect (it is killed): this kernel has no \
                 bpf_set_retval for connect (6.1 has it)"
                    .to_owned(),
            );
        }
        lines
    }
}
