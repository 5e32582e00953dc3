//! The policy in force: its rules by the kernel's numbers, and how another one takes its place.

use std::collections::HashMap;

use guard_common::rule::{Progress, ProgressKey, Rule, advance};
use serde_json::json;

use super::{Engine, Refusal, Session, load_policy, users};
use crate::{
    event::{Event, Kind},
    kernel::{Kernel, KernelError},
    policy::{
        AgentMatcher, Clusters, CommandMatcher, Homes, LabelBits, Mode, Part, Policy, Tables,
    },
};

/// A rule of the kernel's table with the name that people know it by.
#[derive(Clone, Debug)]
pub(super) struct NamedRule {
    pub(super) name: String,
    pub(super) rule: Rule,
}

impl std::ops::Deref for NamedRule {
    type Target = Rule;

    fn deref(&self) -> &Rule {
        &self.rule
    }
}

impl Engine {
    pub(super) fn rule_of(&self, index: u16, generation: u16) -> Option<&NamedRule> {
        self.rules[usize::from(generation & 1)].get(usize::from(index))
    }

    /// A rule's place in the kernel's table now.
    pub(super) fn rule_index(&self, name: &str) -> Option<u16> {
        let rules = &self.rules[self.kernel.tables.generation() as usize];
        rules
            .iter()
            .position(|rule| rule.name == name)
            .and_then(|index| index.try_into().ok())
    }

    pub(super) fn trigger_of(&self, rule: &str) -> Option<String> {
        self.policy
            .rules
            .iter()
            .find(|r| r.name == rule)?
            .when
            .last()
            .cloned()
    }

    /// Loads the policy again. The old one stays in force until the new one is complete in the
    /// kernel, and whatever is wrong with the new one changes nothing.
    pub(super) fn reload(&mut self) -> Result<String, Refusal> {
        self.service.reloading();
        let loaded = load_policy(&self.options)
            .map_err(|error| Refusal::invalid(error.to_string()))
            .and_then(|policy| self.put_in_force(policy));
        match &loaded {
            Ok(_) => {
                self.problems.remove("policy");
            }
            // Who asked may not read the answer, as with SIGHUP.
            Err(error) => {
                let error = error.to_string();
                let why = error.lines().next().unwrap_or_default();
                let problem = format!("the policy as it is on disk is not in force: {why}");
                self.problems.insert("policy", problem);
            }
        }
        self.service.ready();
        loaded
    }

    /// The same for users' files alone: the machine's stay as they were last loaded.
    pub(super) fn reload_users(&mut self) -> Result<String, Refusal> {
        let parts = self.policy.parts.iter();
        let machine: Vec<Part> = parts
            .filter(|part| !self.users.is_of_user(part))
            .cloned()
            .collect();
        let policy = Policy::of(&machine).map_err(|error| Refusal::invalid(error.to_string()))?;
        self.put_in_force(policy)
    }

    fn put_in_force(&mut self, policy: Policy) -> Result<String, Refusal> {
        // Records are read meanwhile, and with one a session may begin whose user's file has changed: that waits, or two
        // policies would be written into one half.
        self.reloading = true;
        let done = self.replace_policy(policy);
        self.reloading = false;
        done
    }

    fn replace_policy(&mut self, mut policy: Policy) -> Result<String, Refusal> {
        let users = users::add(&mut policy, &self.options, &self.present_users());
        let bits = LabelBits::assign(Some(&self.bits), &policy)
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        let homes = Homes::from_system();
        policy.clusters = Clusters::of(&homes);
        let generation = self.kernel.tables.next_generation();
        let tables = policy
            .compile(generation as u8, &bits, &homes)
            .map_err(|error| Refusal::invalid(error.to_string()))?;
        let failed = |error: KernelError| {
            Refusal::failed(format!(
                "policy reload: {error}: the old policy stays in force"
            ))
        };
        self.kernel.tables.stage(&tables).map_err(failed)?;
        self.drain_all();
        let touched = self.last_touches();
        let observe = self.options.mode.unwrap_or(policy.mode) == Mode::Observe;
        let rules = named_rules(&policy, &tables);
        // Progress first: the moment the new half is in force its rules must know what has been
        // touched.
        for session in self.sessions.values() {
            rebuild(&mut self.kernel, session, &rules, &bits, generation as u16);
        }
        let before = (
            std::mem::replace(&mut self.policy, policy),
            std::mem::replace(&mut self.bits, bits),
            std::mem::replace(&mut self.tables, tables.clone()),
        );
        self.tell_all_names(generation);
        self.label_files_in(generation);
        if let Err(error) = self.kernel.tables.commit(&tables, observe) {
            (self.policy, self.bits, self.tables) = before;
            return Err(failed(error));
        }
        if before.0.settings.notify != self.policy.settings.notify {
            // A channel of the same name may lead elsewhere now.
            for hold in self.holds.values_mut() {
                hold.told.clear();
            }
        }
        let policy = &self.policy;
        self.rules[generation as usize] = rules;
        self.agents = AgentMatcher::new(policy, &homes);
        self.commands = CommandMatcher::new(policy);
        self.users = users;
        self.catch_up(touched);
        self.mark_own_files();
        self.search_as_the_policy_says();
        self.journal.limit(self.journal_limits());
        self.kernel.tables.look_at_all_streams();
        // It may name system calls that the one before did not.
        if self.kernel.hooks.calls_attached()
            && let Err(error) = self.kernel.attach_calls()
        {
            self.problems.insert("hooks", error.to_string());
        }
        // The next guardd reads labels and rules by what is written there.
        self.save();
        let mut event = Event::new(Kind::Policy);
        event.object = Some(
            json!({ "what": "loaded", "policy": self.policy.source().to_string(), "rules": self.policy.rules.len() }),
        );
        self.tell(event);
        self.tell_of_users();
        let files = match self
            .policy
            .parts
            .iter()
            .filter(|part| !self.users.is_of_user(part))
            .count()
        {
            0 | 1 => String::new(),
            more => format!(", with {} more files,", more - 1),
        };
        Ok(format!(
            "policy {}{files} is in force",
            self.policy.source()
        ))
    }
}

type Touches = HashMap<u32, Option<u64>>;

impl Engine {
    /// When each session was last seen to touch something, ns of `CLOCK_MONOTONIC`.
    fn last_touches(&self) -> Touches {
        let last = |session: &Session| session.trail.back().map(|(mono_ns, _)| *mono_ns);
        self.sessions
            .values()
            .map(|session| (session.id, last(session)))
            .collect()
    }

    /// Moves the rules in force by what sessions have touched since `touched` was read, while these rules were being
    /// written: the kernel has moved those of the other half by it. At once, and once more when nothing runs that may
    /// still judge by the other half.
    fn catch_up(&mut self, mut touched: Touches) {
        let generation = self.kernel.tables.generation();
        for is_last in [false, true] {
            if is_last {
                match self.kernel.tables.wait_for_programs() {
                    Ok(()) => {
                        self.problems.remove("catching up");
                    }
                    Err(error) => {
                        let problem = format!(
                            "what sessions touched during the last reload may not count: {error}"
                        );
                        self.problems.insert("catching up", problem);
                    }
                }
            }
            self.drain_all();
            let now = self.last_touches();
            for session in self.sessions.values() {
                if now.get(&session.id) != touched.get(&session.id) {
                    let rules = &self.rules[generation as usize];
                    rebuild(
                        &mut self.kernel,
                        session,
                        rules,
                        &self.bits,
                        generation as u16,
                    );
                }
            }
            touched = now;
        }
    }
}

/// The rules in the kernel's order with their names.
pub(super) fn named_rules(policy: &Policy, tables: &Tables) -> Vec<NamedRule> {
    let rules = tables.rules.rules.iter();
    policy
        .rule_order()
        .into_iter()
        .zip(rules)
        .map(|(index, rule)| NamedRule {
            name: policy.rules[index].name.clone(),
            rule: *rule,
        })
        .collect()
}

/// Puts a session's touches through the rules again, for a policy half or a guardd that has not seen
/// them.
pub(super) fn rebuild(
    kernel: &mut Kernel,
    session: &Session,
    rules: &[NamedRule],
    bits: &LabelBits,
    generation: u16,
) {
    for (index, rule) in rules.iter().enumerate() {
        let mut progress = Progress::default();
        for (mono_ns, labels) in &session.trail {
            let touched = labels.iter().fold(0, |mask, label| mask | bits.mask(label));
            if rule.concerns(touched) && rule.is_for(session.uid) {
                advance(rule, &mut progress, touched, *mono_ns);
            }
        }
        if progress != Progress::default() {
            let key = ProgressKey {
                session: session.id,
                rule: index as u16,
                generation,
            };
            if let Err(error) = kernel.tables.move_progress(key, progress) {
                tracing::error!("{error}");
            }
        }
    }
}
