//! Sessions held against how their kind usually behaves: every event that is told is taken in, and a score that falls
//! below the policy's threshold is a fact that rules can use.

use guard_common::{
    Verdict,
    event::{self as record, Header, kind, tier},
};
use serde_json::{Value, json};

use super::{By, Engine, Refusal, Session, mode::write_whole, session::number};
use crate::{
    clock,
    conduct::{Baseline, Baselines, Contribution, Scores, Turn, contributions},
    event::{DIVERGENCE, Event, Kind},
    policy::DIVERGENT,
    process::{self, Id},
    wire::{BaselineInfo, CategoryInfo, ConductInfo, Reply},
};

/// The learned baselines, in the state directory.
const FILE: &str = "baselines.toml";
/// Categories that an event names.
const NAMED: usize = 5;

/// A score that has crossed the threshold, and has not been told yet.
pub(super) struct Turned {
    session: u32,
    /// What the session did last.
    cause: Event,
    turn: Turn,
    categories: Vec<Contribution>,
}

impl Engine {
    /// Reads what was learned earlier.
    pub(super) fn load_baselines(&mut self) {
        let path = self.options.state_dir.join(FILE);
        let learned = match std::fs::read_to_string(&path) {
            Ok(text) => Baseline::from_toml(&text).map_err(|error| error.to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        };
        match learned {
            Ok(learned) => self.baselines = Baselines::with_learned(learned),
            Err(why) => {
                let line = format!(
                    "{}: {why}: sessions are compared with the shipped baselines alone",
                    path.display()
                );
                self.problems.insert("baselines", line);
            }
        }
    }

    fn save_baselines(&mut self) -> Result<(), Refusal> {
        let path = self.options.state_dir.join(FILE);
        let text = Baseline::to_toml(&self.baselines.learned())
            .map_err(|error| Refusal::failed(format!("baseline: {error}")))?;
        write_whole(&path, &text).map_err(|error| {
            let why = format!("baseline: {}: {error}: make room there", path.display());
            Refusal::failed(why)
        })?;
        self.problems.remove("baselines");
        Ok(())
    }

    /// Takes an event into the window of its session and of those around it.
    pub(super) fn note_conduct(&mut self, event: &Event) {
        let at_ns = event.mono_ns.unwrap_or_else(clock::monotonic_ns);
        let threshold = self.policy.settings.divergence.threshold;
        let of_session = event.session.as_deref().and_then(|name| number("s", name));
        let mut next: Vec<u32> = match (of_session, event.kind) {
            (Some(id), _) => vec![id],
            // Whose it was nobody knows.
            (None, Kind::Lost) => self.sessions.keys().copied().collect(),
            (None, _) => return,
        };
        while let Some(id) = next.pop() {
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            if of_session.is_some() {
                next.extend(session.parent);
            }
            if !session.conduct.note(event, at_ns) {
                continue;
            }
            let usual = self.baselines.usual(&session.agent);
            let turn = session.conduct.turn(usual, f64::from(threshold));
            if turn != Turn::Same {
                self.turned.push(Turned {
                    session: id,
                    cause: event.clone(),
                    turn,
                    categories: contributions(&session.conduct.window, usual),
                });
            }
        }
    }

    /// Something in a session that guard cannot see into, and that no event tells.
    pub(super) fn note_opaque(&mut self, session: u32) {
        let mut next = Some(session);
        while let Some(session) = next.and_then(|id| self.sessions.get_mut(&id)) {
            session.conduct.note_opaque(clock::monotonic_ns());
            next = session.parent;
        }
    }

    /// Tells of scores that have crossed the threshold, once nothing else is being judged: a rule may stop a process
    /// that has just been dealt with.
    pub(super) fn tell_turned(&mut self) {
        for turned in std::mem::take(&mut self.turned) {
            if self.sessions.contains_key(&turned.session) {
                self.tell_of_turn(turned);
            }
        }
    }

    fn tell_of_turn(&mut self, turned: Turned) {
        let Turned {
            session,
            cause,
            turn,
            categories,
        } = turned;
        let mut event = self.event_for(Kind::Session, Some(session));
        (event.pid, event.tgid, event.ppid) = (cause.pid, cause.tgid, cause.ppid);
        (event.uid, event.start) = (cause.uid, cause.start);
        (event.exe, event.comm, event.argv) = (cause.exe, cause.comm, cause.argv);
        let (scores, what) = match turn {
            Turn::Same => return,
            Turn::Diverged(scores) => (scores, DIVERGENCE),
            Turn::Returned(scores) => (scores, "divergence ended"),
        };
        event.object = Some(object(what, &scores, &categories));
        let known = self.policy.labels.iter().any(|label| label == DIVERGENT);
        if what != DIVERGENCE || !known {
            self.tell(event);
            self.dirty = true;
            return;
        }
        self.judge_found(session, DIVERGENT, event);
    }

    /// A label that guardd has found by itself as a fact of the session. What a rule says is done to the process that went too
    /// far, and where it has gone, to the session's first.
    pub(super) fn judge_found(&mut self, session: u32, label: &str, mut event: Event) {
        let began_ns = clock::monotonic_ns();
        let target = self.target_of_found(session, &event);
        let tgid = target.map_or(0, |(tgid, _)| tgid);
        let labels = self.bits.mask(label);
        let judged = self.feed(session, labels, tgid, false, kind::EXEC);
        self.note_judged(&mut event, &judged, judged.verdict, labels);
        event.latency_ns = Some(clock::monotonic_ns().saturating_sub(began_ns));
        let Some((tgid, start_ns)) = target else {
            self.tell_fact(session, event);
            return;
        };
        let fields = Header {
            time_ns: began_ns,
            start_ns,
            labels,
            session,
            judged_in: judged.judged_in,
            pid: tgid,
            tgid,
            ppid: 0,
            uid: 0,
            latency_ns: 0,
            flags: 0,
            rule: judged.rule.unwrap_or(record::NO_RULE),
            generation: self.kernel.tables.generation() as u16,
            kind: kind::EXEC,
            verdict: judged.verdict as u8,
            would: judged.would as u8,
            tier: tier::USERSPACE,
            comm: [0; 16],
        };
        // Held for something else already: that hold's answer decides.
        let id = Id::new(tgid, start_ns);
        let is_held = judged.verdict == Verdict::Hold
            && (self.is_held(id)
                || self
                    .kernel
                    .tables
                    .held()
                    .iter()
                    .any(|(pid, _)| *pid == tgid));
        if is_held {
            self.tell_fact(session, event);
        } else {
            self.carry_out_on(&fields, &judged, judged.verdict, event);
        }
    }

    fn tell_fact(&mut self, session: u32, event: Event) -> Event {
        let event = self.tell(event);
        let at_ns = event.mono_ns.unwrap_or_default();
        let object = super::target_of(&event);
        let mut next = Some(session);
        while let Some(session) = next.and_then(|id| self.sessions.get_mut(&id)) {
            session.touch(at_ns, &event.labels, Some(&object), &event);
            next = session.parent;
        }
        self.dirty = true;
        event
    }

    /// A process of the session that still runs: the one whose act it was, else the first.
    fn target_of_found(&self, session: u32, event: &Event) -> Option<(u32, u64)> {
        let root = self.sessions.get(&session).map(|session| session.root.0);
        [event.tgid, root].into_iter().flatten().find_map(|tgid| {
            let task = self.kernel.tables.task(tgid)?;
            let same = process::same(tgid, task.start_ns)?;
            let caused = event.tgid == Some(tgid);
            let fits = !caused || event.start.is_none_or(|start| start == same.id.start);
            (fits && same.is_alive()).then_some((tgid, task.start_ns))
        })
    }

    /// What `show` says of a session's conduct.
    pub(super) fn conduct_info(&self, session: &Session) -> ConductInfo {
        let usual = self.baselines.usual(&session.agent);
        let window = &session.conduct.window;
        let scores = session.conduct.scores(usual);
        ConductInfo {
            score: scores.map(|scores| scores.score()),
            consistency: scores.map(|scores| rounded(scores.consistency)),
            restraint: scores.map(|scores| rounded(scores.restraint)),
            transparency: scores.map(|scores| rounded(scores.transparency)),
            weight: rounded(window.weight()),
            acts: session.conduct.acts,
            threshold: self.policy.settings.divergence.threshold,
            divergent: session.conduct.divergent,
            baseline: self.baselines.source(&session.agent),
            categories: contributions(window, usual)
                .into_iter()
                .filter(|one| window.weight() > 0.0 && one.bits >= 0.0005)
                .map(category)
                .collect(),
        }
    }

    /// A session's score, where there is one.
    pub(super) fn score_of(&self, session: &Session) -> Option<u8> {
        let usual = self.baselines.usual(&session.agent);
        session.conduct.scores(usual).map(|scores| scores.score())
    }

    /// Learned and shipped baselines, of one agent where that is asked for.
    pub(super) fn baselines(&self, agent: Option<&str>) -> Result<Reply, Refusal> {
        let wanted = |one: &Baseline| agent.is_none_or(|agent| agent == one.agent);
        let learned = self.baselines.learned();
        let infos: Vec<BaselineInfo> = learned
            .iter()
            .map(|one| (one, true))
            .chain(self.baselines.shipped().iter().map(|one| (one, false)))
            .filter(|(one, _)| wanted(one))
            .map(|(one, learned)| BaselineInfo {
                learned,
                baseline: one.clone(),
            })
            .collect();
        match agent {
            Some(agent) if infos.is_empty() => Err(Refusal::not_found(format!(
                "baseline {agent}: there is none, sessions of {agent} are compared with the general one: see 'guardctl baseline show'"
            ))),
            _ => Ok(Reply::Baselines { baselines: infos }),
        }
    }

    /// Learns what these sessions did as usual. A person has named them, which is the acceptance.
    pub(super) fn learn_baseline(
        &mut self,
        sessions: &[u32],
        agent: Option<String>,
        force: bool,
        by: By,
    ) -> Result<String, Refusal> {
        let mut more: Option<Baseline> = None;
        for id in sessions {
            let ended = self.ended.iter().find(|session| session.id == *id);
            let Some(session) = self.sessions.get(id).or(ended) else {
                return Err(Refusal::not_found(format!("s-{id}: no such session")));
            };
            let conduct = &session.conduct;
            if conduct.refused > 0 && !force {
                return Err(Refusal::failed(format!(
                    "baseline learn s-{id}: {} of its calls were denied or killed: that is not how it should behave; --force learns it all the same",
                    conduct.refused
                )));
            }
            let name = agent.clone().unwrap_or_else(|| session.agent.clone());
            let more = more.get_or_insert_with(|| Baseline::new(&name));
            if more.agent != name {
                return Err(Refusal::invalid(format!(
                    "baseline learn: s-{id} is of {name} and another of {}: learn them one by one, or say --agent",
                    more.agent
                )));
            }
            more.learn(&conduct.whole, conduct.acts);
        }
        let Some(mut more) = more else {
            return Err(Refusal::invalid("baseline learn: no session is named"));
        };
        more.made = format!(
            "learned on this machine, last on {} by uid {}",
            clock::rfc3339_now().get(..10).unwrap_or_default(),
            by.uid.unwrap_or_default()
        );
        let before = self.baselines.clone();
        let agent = more.agent.clone();
        let acts = match self.baselines.learn(&more) {
            Ok(joined) => joined.acts,
            Err(error) => return Err(Refusal::failed(format!("baseline learn: {error}"))),
        };
        let source = self.baselines.source(&agent);
        let said = format!("baseline {agent}: {source}, {acts} acts in all");
        self.keep_baselines(before)?;
        let names: Vec<String> = sessions.iter().map(|id| format!("s-{id}")).collect();
        self.tell_of_baseline("baseline learned", &agent, &names, by);
        Ok(said)
    }

    /// Puts baselines in the place of learned ones.
    pub(super) fn import_baselines(
        &mut self,
        baselines: Vec<Baseline>,
        by: By,
    ) -> Result<String, Refusal> {
        let before = self.baselines.clone();
        let mut names = Vec::new();
        for baseline in baselines {
            names.push(baseline.agent.clone());
            if let Err(error) = self.baselines.put(baseline) {
                self.baselines = before;
                return Err(Refusal::invalid(format!("baseline import: {error}")));
            }
        }
        if names.is_empty() {
            return Err(Refusal::invalid("baseline import: there is none in it"));
        }
        self.keep_baselines(before)?;
        for name in &names {
            self.tell_of_baseline("baseline imported", name, &[], by);
        }
        Ok(format!("imported: {}", names.join(", ")))
    }

    /// Forgets what was learned of an agent.
    pub(super) fn forget_baseline(&mut self, agent: &str, by: By) -> Result<String, Refusal> {
        let before = self.baselines.clone();
        if !self.baselines.forget(agent) {
            return Err(Refusal::not_found(format!(
                "baseline {agent}: nothing was learned of it: see 'guardctl baseline show'"
            )));
        }
        self.keep_baselines(before)?;
        self.tell_of_baseline("baseline forgotten", agent, &[], by);
        Ok(format!("baseline {agent}: what was learned is forgotten"))
    }

    /// What is not on disk is not in force either.
    fn keep_baselines(&mut self, before: Baselines) -> Result<(), Refusal> {
        self.save_baselines()
            .inspect_err(|_| self.baselines = before)
    }

    fn tell_of_baseline(&mut self, what: &str, agent: &str, sessions: &[String], by: By) {
        let mut event = self.event_for(Kind::Guard, None);
        event.object = Some(json!({
            "what": what, "baseline": agent, "sessions": sessions, "by_uid": by.uid, "by_pid": by.pid,
        }));
        self.tell(event);
    }
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn category(one: Contribution) -> CategoryInfo {
    CategoryInfo {
        category: one.category.name().into(),
        share: rounded(one.share),
        usual: rounded(one.usual),
        bits: rounded(one.bits),
    }
}

fn object(what: &str, scores: &Scores, categories: &[Contribution]) -> Value {
    let categories: Vec<CategoryInfo> = categories
        .iter()
        .take(NAMED)
        .copied()
        .map(category)
        .collect();
    json!({
        "what": what,
        "score": scores.score(),
        "consistency": rounded(scores.consistency),
        "restraint": rounded(scores.restraint),
        "transparency": rounded(scores.transparency),
        "categories": categories,
    })
}
