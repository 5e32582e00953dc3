//! What people see: the daemon at a glance, sessions, trees, and rules against a session.

use guard_common::rule::NO_LIMIT;

use super::{Engine, Session};
use crate::{
    clock,
    kernel::Feature,
    mask,
    process::{self, Id},
    wire::{
        CounterInfo, FactInfo, HookInfo, ProcessInfo, RuleExplanation, SessionDetail, SessionInfo,
        Status, StepExplanation,
    },
};

/// Processes and events that one reply carries at most: a reply is one line of bounded length.
const MAX_TREE: usize = 1000;
const MAX_TIMELINE: usize = 100;

impl Engine {
    /// One line: `enforce: 2 sessions, 1 hold waits for a person; degraded: …`.
    pub(super) fn status_line(&self) -> String {
        let mut line = format!("{}: ", self.mode().name());
        line.push_str(&match self.sessions.len() {
            1 => "1 session".to_owned(),
            many => format!("{many} sessions"),
        });
        match self.holds.len() {
            0 => {}
            1 => line.push_str(", 1 hold waits for a person"),
            many => line.push_str(&format!(", {many} holds wait for a person")),
        }
        let degraded = self.degraded();
        if let Some(first) = degraded.first() {
            line.push_str(&format!("; degraded: {first}"));
            if let more @ 1.. = degraded.len() - 1 {
                line.push_str(&format!(" (and {more} more)"));
            }
        }
        line
    }

    /// What does not work as it should, one line each.
    fn degraded(&self) -> Vec<String> {
        let mut degraded = self.kernel.hooks.degraded();
        degraded.extend(self.problems.values().cloned());
        if self.journal.unwritten() > 0 && !self.problems.contains_key("journal") {
            degraded.push(format!(
                "{} events could not be written to the journal",
                self.journal.unwritten()
            ));
        }
        degraded.extend(self.herald_info().1);
        degraded
    }

    pub(super) fn status(&self) -> Status {
        let counters = self.kernel.tables.counters().unwrap_or_default();
        let tasks = self.kernel.tables.tasks().len() as u64;
        let degraded = self.degraded();
        let herald = self.herald_info().0;
        let mut not_enforced = self.kernel.hooks.not_enforced();
        not_enforced.extend(self.untapped());
        not_enforced.extend(self.spared_notes());
        not_enforced.extend(self.secrets.notes());
        Status {
            state: if degraded.is_empty() {
                "ok".into()
            } else {
                "degraded".into()
            },
            degraded,
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: clock::monotonic_ns().saturating_sub(self.started_ns) / 1_000_000_000,
            mode: self.mode().name().into(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            policy: self.policy.source().to_string(),
            policy_files: self.policy_files(),
            user_policies: self.user_policies(),
            hooks: self.hooks_info(),
            not_enforced,
            sessions: self.sessions.len() as u64,
            processes: tasks,
            holds: self.holds.len() as u64,
            hold_counts: self.tally.told(clock::realtime_s()),
            may_not_answer: None,
            lineage_used: tasks,
            lineage_size: self.kernel.tables.lineage_size.into(),
            counters: counters
                .iter()
                .zip(guard_common::state::class::NAMES)
                .map(|(counter, class)| CounterInfo {
                    class: class.into(),
                    emitted: counter.emitted,
                    lost: counter.lost,
                })
                .collect(),
            events: self.journal.last_seq(),
            journal: self.journal_info(),
            state_dir: self.options.state_dir.display().to_string(),
            herald,
        }
    }

    /// The table of hooks; probes in processes are on as long as there are some.
    fn hooks_info(&self) -> Vec<HookInfo> {
        let mut hooks = self.kernel.hooks.info();
        for hook in &mut hooks {
            if hook.watched == Feature::Requests.name() {
                hook.attached = self.kernel.tapped() > 0;
            }
        }
        hooks
    }

    pub(super) fn session_info(&self, session: &Session) -> SessionInfo {
        let held = self
            .holds
            .values()
            .any(|hold| hold.session == session.id || hold.judged_in == session.id);
        let state = match (session.ended_ns, session.paused, held) {
            (Some(_), _, _) => "ended",
            (_, true, _) => "paused",
            (_, _, true) => "held",
            _ => "running",
        };
        let until = session.ended_ns.unwrap_or_else(clock::monotonic_ns);
        SessionInfo {
            id: session.name(),
            agent: session.agent.clone(),
            root_pid: session.root_id().pid,
            uid: session.uid,
            age_s: until.saturating_sub(session.began_ns) / 1_000_000_000,
            processes: self.live(session.id) as u64,
            facts: session.facts.keys().cloned().collect(),
            state: state.into(),
            parent: session.parent.map(|id| format!("s-{id}")),
            origin: session.origin.name().into(),
            intent: session.intent.clone(),
            score: self.score_of(session),
        }
    }

    pub(super) fn detail(&self, session: &Session) -> SessionDetail {
        let now = clock::monotonic_ns();
        let mut facts: Vec<_> = session.facts.iter().collect();
        facts.sort_by_key(|(_, fact)| fact.mono_ns);
        let family: Vec<String> = self
            .family(session.id)
            .iter()
            .map(|id| format!("s-{id}"))
            .collect();
        let mut timeline: Vec<_> = self
            .journal
            .tail()
            .rev()
            .filter(|event| {
                event
                    .session
                    .as_ref()
                    .is_some_and(|name| family.contains(name))
            })
            .take(MAX_TIMELINE)
            .cloned()
            .collect();
        timeline.reverse();
        SessionDetail {
            info: self.session_info(session),
            tree: self.tree(session),
            facts: facts
                .into_iter()
                .map(|(label, fact)| FactInfo {
                    label: label.clone(),
                    last: clock::rfc3339_at(fact.mono_ns),
                    age_s: now.saturating_sub(fact.mono_ns) / 1_000_000_000,
                    object: fact.object.clone(),
                })
                .collect(),
            timeline,
            untapped: session.untapped.iter().cloned().collect(),
            environment: session.environment.clone(),
            understood: session
                .purpose
                .intent
                .as_ref()
                .map(crate::intent::Intent::says),
            intent_problem: session.purpose.problem.clone(),
            persona: session.purpose.persona.clone(),
            conduct: Some(self.conduct_info(session)),
        }
    }

    /// Live processes, parents before their children.
    pub(super) fn tree(&self, session: &Session) -> Vec<ProcessInfo> {
        if session.ended_ns.is_some() {
            return Vec::new();
        }
        let mut members = self.members(session.id);
        // Of more than are shown the oldest are: whose child one is, is shown too.
        members.sort_by_key(|id| id.start);
        let mut processes: Vec<(u32, ProcessInfo)> = members
            .into_iter()
            .take(MAX_TREE)
            .filter_map(|id| Some((id.pid, self.process_info(id)?)))
            .collect();
        processes.sort_by_key(|(pid, _)| *pid);
        let mut ordered: Vec<ProcessInfo> = Vec::with_capacity(processes.len());
        let inside =
            |pid: u32, all: &[(u32, ProcessInfo)]| all.iter().any(|(other, _)| *other == pid);
        let mut stack: Vec<u32> = processes
            .iter()
            .filter(|(_, info)| !inside(info.ppid, &processes))
            .map(|(pid, _)| *pid)
            .rev()
            .collect();
        while let Some(pid) = stack.pop() {
            stack.extend(
                processes
                    .iter()
                    .filter(|(other, info)| info.ppid == pid && *other != pid)
                    .map(|(pid, _)| *pid)
                    .rev(),
            );
            if let Some(at) = processes.iter().position(|(other, _)| *other == pid) {
                ordered.push(processes[at].1.clone());
            }
            if ordered.len() > processes.len() {
                break;
            }
        }
        ordered
    }

    pub(super) fn process_info(&self, id: Id) -> Option<ProcessInfo> {
        let stat = process::stat(id.pid).filter(|stat| stat.id == id && stat.is_alive())?;
        let known = self
            .known
            .get(&id.pid)
            .filter(|known| known.start == id.start);
        let state = if self.is_held(id) {
            "held"
        } else if stat.is_stopped() {
            "stopped"
        } else {
            "running"
        };
        Some(ProcessInfo {
            pid: id.pid,
            ppid: stat.parent,
            exe: known
                .and_then(|known| known.exe.clone())
                .or_else(|| process::exe(id.pid).map(|path| path.to_string_lossy().into_owned())),
            argv: known
                .map(|known| known.argv.clone())
                .or_else(|| Some(mask::mask_argv(&process::argv(id.pid)))),
            state: state.into(),
        })
    }

    pub(super) fn explain(&self, session: &Session) -> Vec<RuleExplanation> {
        let now = clock::monotonic_ns();
        self.policy
            .rules
            .iter()
            .filter(|rule| rule.user.is_none_or(|uid| uid == session.uid))
            .map(|rule| {
                let index = self.rule_index(&rule.name);
                let progress = index
                    .and_then(|index| self.kernel.tables.progress(session.id, index))
                    .unwrap_or_default();
                let within = index
                    .and_then(|index| self.rule_of(index, self.kernel.tables.generation() as u16))
                    .map_or(NO_LIMIT, |rule| rule.within_ns);
                let mut steps: Vec<StepExplanation> = rule
                    .when
                    .iter()
                    .enumerate()
                    .map(|(step, label)| {
                        let begun = progress.start.get(step).copied().unwrap_or(0);
                        let age = now.saturating_sub(begun);
                        StepExplanation {
                            label: label.clone(),
                            fulfilled: begun != 0 && age <= within,
                            age_s: (begun != 0).then_some(age / 1_000_000_000),
                        }
                    })
                    .collect();
                let ready = steps
                    .iter()
                    .take(steps.len().saturating_sub(1))
                    .all(|step| step.fulfilled);
                // What it wants not to have been: since the sequence began as far as it has come.
                let begun = steps.len().checked_sub(2);
                let begun = begun.and_then(|at| progress.start.get(at)).copied();
                let last_ns = self.kernel.tables.session(session.id).map(|it| it.last_ns);
                let mut kept = false;
                for unless in &rule.unless {
                    let last = self
                        .bits
                        .bit(&unless.label)
                        .and_then(|bit| last_ns.as_ref()?.get(usize::from(bit)).copied())
                        .filter(|last| *last != 0);
                    let recent = last.is_some_and(|last| match unless.within {
                        Some(within) => u128::from(now.saturating_sub(last)) <= within.as_nanos(),
                        None => last >= begun.unwrap_or(now),
                    });
                    kept |= recent;
                    steps.push(StepExplanation {
                        label: format!("not {}", unless.label),
                        fulfilled: !recent,
                        age_s: last.map(|last| now.saturating_sub(last) / 1_000_000_000),
                    });
                }
                RuleExplanation {
                    rule: rule.name.clone(),
                    then: rule.then.name().into(),
                    within_s: rule.within.map(|within| within.as_secs()),
                    fires_on: if ready && !kept {
                        rule.when.last().cloned()
                    } else {
                        None
                    },
                    steps,
                }
            })
            .collect()
    }
}
