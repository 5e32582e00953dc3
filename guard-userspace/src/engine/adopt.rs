//! How sessions begin: an agent recognised at its exec, a process tree adopted, the agents that ran
//! before guardd did.

use std::collections::{HashMap, HashSet};

use guard_common::{
    MAX_NESTING, Verdict,
    event::{FLAG_FOLLOWED, FLAG_JOB, FLAG_STOPPED, Header},
    state::Session as KernelSession,
};
use serde_json::json;

use super::{Engine, Known, Origin, Refusal, Session, rebuild};
use crate::{
    clock,
    event::{Event, Kind},
    kernel::KernelError,
    policy::{Found, Program},
    process::{self, Id, Stat},
    units,
};

/// What a session is begun with.
pub(super) struct Beginning {
    pub agent: String,
    pub origin: Origin,
    pub root: Id,
    pub parent: Option<u32>,
    pub anchor: Option<Id>,
    pub intent: Option<String>,
    /// Its kind of work, where that was said.
    pub persona: Option<String>,
    /// The root runs (it is not stopped and not waiting), so its children must be looked for.
    pub running: bool,
}

impl Engine {
    /// The kernel thinks that a program may be an agent.
    pub(super) fn on_candidate(&mut self, fields: &Header) {
        let id = Id::new(fields.tgid, fields.start_ns);
        let stopped = fields.flags & FLAG_STOPPED != 0;
        let running = !stopped || fields.flags & FLAG_JOB != 0;
        if fields.flags & FLAG_FOLLOWED != 0 {
            self.follow(id, fields.ppid, fields.session, running);
            self.look_at_candidate(id, 0, running);
        } else {
            self.look_at_candidate(id, fields.session, running);
        }
        if stopped {
            self.let_go_on(id);
        }
    }

    /// A server that a session has reached has started this program, most likely for it: it belongs to the session
    /// from here on.
    fn follow(&mut self, id: Id, parent: u32, session: u32, running: bool) {
        let Some(mut stat) = process::stat(id.pid).filter(|stat| stat.id == id && stat.is_alive())
        else {
            return;
        };
        // As it was at the exec: a shim's first process does not wait for the second.
        if parent != 0 {
            stat.parent = parent;
        }
        let lives = |s: &Session| s.ended_ns.is_none();
        if self.kernel.tables.task(id.pid).is_some_and(|task| Id::new(id.pid, task.start_ns) == id)
            || self.follow_container(&stat, running)
            || !self.sessions.get(&session).is_some_and(lives)
            // What else it starts meanwhile, by timers and sockets, is nobody's.
            || (units::is_manager(stat.parent) && !units::is_transient(id.pid, stat.parent))
        {
            return;
        }
        self.adopt_followed(&stat, session, running, None);
    }

    /// Something that another has started for a session; in this container, if it is in one.
    pub(super) fn adopt_followed(
        &mut self,
        stat: &Stat,
        session: u32,
        running: bool,
        container: Option<String>,
    ) {
        let id = stat.id;
        self.attach();
        if !self.tag(id, session, stat.parent) {
            return;
        }
        if running {
            self.adopt_below(id, session);
        }
        let mut event = self.event_for(Kind::Session, Some(session));
        describe(&mut event, id);
        event.ppid = Some(stat.parent);
        let server = process::exe(stat.parent).map(|path| path.to_string_lossy().into_owned());
        let mut object = json!({ "what": "followed", "server": server, "server_pid": stat.parent });
        if let (Some(container), Some(object)) = (container, object.as_object_mut()) {
            object.insert("container".into(), container.into());
        }
        event.object = Some(object);
        self.tell(event);
        self.save();
    }

    /// Looks closer, and begins a session if it is one. `session` is the one it runs in already, or 0.
    pub(super) fn look_at_candidate(&mut self, id: Id, session: u32, running: bool) {
        // The record may be older than what has been done about the process since.
        let session = self
            .kernel
            .tables
            .task(id.pid)
            .filter(|task| Id::new(id.pid, task.start_ns) == id)
            .map_or(session, |task| task.session);
        let Some(stat) = process::stat(id.pid).filter(|stat| stat.id == id && stat.is_alive())
        else {
            return;
        };
        let Some((agent, found)) = self.recognise(id.pid) else {
            return;
        };
        // An agent's own launcher, helper or re-exec is not another agent; one of another kind is.
        let mut around = (session != 0).then_some(session);
        while let Some(outer) = around.and_then(|id| self.sessions.get(&id)) {
            if outer.agent == agent || found == Found::Env {
                return;
            }
            around = outer.parent;
        }
        let parent = (session != 0 && self.sessions.contains_key(&session)).then_some(session);
        let anchor = match found {
            Found::Env => process::stat(stat.parent).map(|stat| stat.id),
            Found::Exe | Found::Script => None,
        };
        // The next command of an agent whose earlier commands were started by the same process.
        if let Some(anchor) = anchor
            && let Some(same) = self.sessions.values().find(|s| {
                s.agent == agent
                    && s.anchor == Some((anchor.pid, anchor.start))
                    && s.ended_ns.is_none()
            })
        {
            let same = same.id;
            self.attach();
            self.tag(id, same, stat.parent);
            if running {
                self.adopt_below(id, same);
            }
            return;
        }
        let origin = match found {
            Found::Exe => Origin::Exec,
            Found::Script => Origin::Script,
            Found::Env => Origin::Env,
        };
        // A refusal is told and shown there, and changes nothing.
        let _ = self.begin(Beginning {
            agent,
            origin,
            root: id,
            parent,
            anchor,
            intent: None,
            persona: None,
            running,
        });
    }

    fn recognise(&self, pid: u32) -> Option<(String, Found)> {
        let argv = process::argv(pid);
        let environ = process::environ(pid);
        let executed = process::executed_path(pid).unwrap_or_default();
        let exe = process::exe(pid);
        let program = Program {
            executed: &executed,
            resolved: exe.as_deref(),
            argv: &argv,
            env: &environ,
        };
        let (agent, found) = self.agents.recognise(&program)?;
        Some((agent.to_owned(), found))
    }

    fn attach(&mut self) {
        if let Err(error) = self.kernel.attach_calls() {
            self.problems.insert("hooks", error.to_string());
            tracing::error!("{error}");
        } else {
            self.problems.remove("hooks");
        }
        self.idle_since_ns = None;
    }

    /// Begins a session: hooks first, then the kernel's entry, then the process; only then may it run.
    ///
    /// # Errors
    /// When it would lie in more sessions than the kernel judges, or the kernel's table is full. The
    /// process then stays in the session it is in, and is judged there.
    pub(super) fn begin(&mut self, beginning: Beginning) -> Result<u32, Refusal> {
        let Beginning {
            agent,
            origin,
            root,
            parent,
            anchor,
            intent,
            persona,
            running,
        } = beginning;
        let depth = 1 + parent.map_or(0, |parent| self.depth_of(parent));
        if depth > MAX_NESTING {
            return Err(self.not_begun(
                &agent,
                &format!("it would be the {depth}th session inside the other, and {MAX_NESTING} are judged"),
            ));
        }
        self.find_new_containers();
        // Nobody, where it cannot be told: then only root sees it.
        let uid = process::uid(root.pid).unwrap_or(u32::MAX);
        self.look_at_users_file(uid);
        self.attach();
        let purpose = self.purpose_of(root, &agent, intent, persona);
        self.next_session += 1;
        let id = self.next_session;
        let session = Session {
            id,
            agent,
            origin,
            root: (root.pid, root.start),
            uid,
            parent,
            anchor: anchor.map(|id| (id.pid, id.start)),
            intent: purpose.intent.as_ref().map(|intent| intent.text.clone()),
            began_ns: clock::monotonic_ns(),
            began_s: clock::realtime_s(),
            paused: false,
            ended_ns: None,
            facts: std::collections::BTreeMap::new(),
            trail: std::collections::VecDeque::new(),
            evidence: std::collections::VecDeque::new(),
            untapped: std::collections::VecDeque::new(),
            tree: None,
            environment: Vec::new(),
            conduct: crate::conduct::Conduct::default(),
            purpose,
        };
        if let Err(error) = self.enter(&session) {
            return Err(self.not_begun(&session.agent, &error.to_string()));
        }
        self.sessions.insert(id, session);
        self.search_files_of(id);
        let above = process::stat(root.pid).map_or(0, |stat| stat.parent);
        self.tag(root, id, above);
        if running {
            self.adopt_below(root, id);
        }
        let mut event = self.event_for(Kind::Session, Some(id));
        describe(&mut event, root);
        let mut object = json!({ "what": "began", "origin": origin.name(), "root_pid": root.pid });
        if let (Some(parent), Some(object)) = (parent, object.as_object_mut()) {
            object.insert("parent".into(), format!("s-{parent}").into());
        }
        let session = self.sessions.get(&id);
        if let (Some(purpose), Some(object)) = (
            session.map(|session| &session.purpose),
            object.as_object_mut(),
        ) {
            if let Some(intent) = &purpose.intent {
                object.insert("intent".into(), intent.text.clone().into());
                object.insert("understood".into(), intent.says().into());
            }
            if let Some(persona) = &purpose.persona {
                object.insert("persona".into(), persona.clone().into());
            }
            if let Some(problem) = &purpose.problem {
                object.insert("intent_problem".into(), problem.clone().into());
            }
        }
        event.object = Some(object);
        self.tell(event);
        if matches!(origin, Origin::Exec | Origin::Script | Origin::Env) {
            self.tell_first_exec(root, id);
            // `run` and `adopt` tell it themselves, and whoever called them.
            self.tell_of_users_file(id);
        }
        self.save();
        Ok(id)
    }

    /// How many sessions a process of this one is in.
    fn depth_of(&self, session: u32) -> usize {
        let parent = self.sessions.get(&session).and_then(|s| s.parent);
        1 + parent.map_or(0, |parent| self.depth_of(parent))
    }

    /// How many sessions lie inside one another from this one down.
    fn height_of(&self, session: u32) -> usize {
        let inside = self
            .sessions
            .values()
            .filter(|s| s.parent == Some(session) && s.ended_ns.is_none());
        1 + inside.map(|s| self.height_of(s.id)).max().unwrap_or(0)
    }

    /// An agent that is not given a session of its own is told, once for each, and shown in `status`.
    fn not_begun(&mut self, agent: &str, why: &str) -> Refusal {
        let line = format!("no session of its own for {agent}: {why}");
        tracing::warn!("{line}");
        self.problems.insert("sessions", line.clone());
        Refusal::failed(line)
    }

    /// The exec that a session begins with: the kernel tells only of those inside one.
    fn tell_first_exec(&mut self, root: Id, session: u32) {
        let masked = crate::mask::mask_argv(&process::argv(root.pid));
        let exe = process::exe(root.pid).map(|path| path.to_string_lossy().into_owned());
        let mut event = self.event_for(Kind::Exec, Some(session));
        event.pid = Some(root.pid);
        event.tgid = Some(root.pid);
        event.ppid = process::stat(root.pid).map(|stat| stat.parent);
        event.start = Some(root.start);
        event.uid = process::uid(root.pid);
        event.exe.clone_from(&exe);
        event.argv = Some(masked.clone());
        event.verdict = Some(Verdict::Allow.name().into());
        let mut object = serde_json::Map::new();
        object.insert("argv".into(), masked.clone().into());
        if let Some(cwd) = process::cwd(root.pid) {
            object.insert("cwd".into(), cwd.to_string_lossy().into());
        }
        event.object = Some(object.into());
        self.forget_some();
        self.known.insert(
            root.pid,
            Known {
                start: root.start,
                exe,
                argv: masked,
            },
        );
        self.tell(event);
    }

    /// The kernel's side of a session, with the progress that it has made so far.
    ///
    /// # Errors
    /// When the kernel's table is full.
    pub(super) fn enter(&mut self, session: &Session) -> Result<(), KernelError> {
        let mut entry = KernelSession {
            live: 0,
            began_s: session.began_s,
            parent: session.parent.unwrap_or(0),
            posture: if session.paused {
                guard_common::state::POSTURE_PAUSED
            } else {
                0
            },
            uid: session.uid,
            pad: 0,
            last_ns: [0; guard_common::MAX_LABELS],
        };
        for (label, fact) in &session.facts {
            if let Some(bit) = self.bits.bit(label) {
                entry.last_ns[usize::from(bit)] = fact.mono_ns;
            }
        }
        self.kernel.tables.put_session(session.id, entry)?;
        let generation = self.kernel.tables.generation();
        let rules = self.rules[generation as usize].clone();
        rebuild(
            &mut self.kernel,
            session,
            &rules,
            &self.bits,
            generation as u16,
        );
        Ok(())
    }

    /// Puts a process into a session and makes sure that it was still there when it was: the exit hook
    /// cannot take out again what came in behind it.
    pub(super) fn tag(&mut self, id: Id, session: u32, parent: u32) -> bool {
        let excepted = self.exceptions_of(id, session);
        let changed = match self.kernel.tag(id.pid, session, id.start, parent, excepted) {
            Ok(changed) => changed,
            Err(error) => {
                tracing::error!("{error}");
                false
            }
        };
        if changed && process::stat(id.pid).is_none_or(|stat| stat.id != id || !stat.is_alive()) {
            let _ = self.kernel.tag(id.pid, 0, id.start, 0, 0);
            return false;
        }
        changed
    }

    /// Tags everything below a process that is tagged itself. Until a pass over /proc finds nothing
    /// new: what a process forks after it was tagged the kernel tags, and what it forked before is
    /// found by its parent here, or, if that has gone, by the fork the kernel reported meanwhile.
    pub(super) fn adopt_below(&mut self, root: Id, session: u32) -> u64 {
        let traced_already = self.tracing_forks;
        self.trace_forks(true);
        let mut members: HashSet<u32> = HashSet::from([root.pid]);
        let mut adopted = 0;
        loop {
            let processes = process::all();
            self.drain_all();
            let mut found = 0;
            loop {
                let new: Vec<Stat> = processes
                    .values()
                    .filter(|stat| !members.contains(&stat.id.pid) && stat.is_alive())
                    .filter(|stat| {
                        members.contains(&stat.parent) || self.was_forked_by(stat.id, &members)
                    })
                    .copied()
                    .collect();
                if new.is_empty() {
                    break;
                }
                for stat in new {
                    members.insert(stat.id.pid);
                    if self.lies_inside(stat.id, session) {
                        continue;
                    }
                    if self.tag(stat.id, session, stat.parent) {
                        found += 1;
                    }
                }
            }
            adopted += found;
            if found == 0 {
                break;
            }
        }
        if !traced_already {
            self.trace_forks(false);
        }
        adopted
    }

    /// Whether a process below one that is adopted into `outer` has a session already. That session keeps
    /// its facts and comes to lie inside.
    fn lies_inside(&mut self, id: Id, outer: u32) -> bool {
        let task = self.kernel.tables.task(id.pid);
        let Some(task) = task.filter(|task| Id::new(id.pid, task.start_ns) == id) else {
            return false;
        };
        if task.session == outer {
            return true;
        }
        let mut top = task.session;
        while let Some(parent) = self.sessions.get(&top).and_then(|s| s.parent) {
            if parent == outer {
                return true;
            }
            top = parent;
        }
        // What `outer` itself lies in does not come to lie inside it: those processes are moved.
        if !self.sessions.contains_key(&top) || self.family(top).contains(&outer) {
            return false;
        }
        let deepest = self.depth_of(outer) + self.height_of(top);
        if deepest > MAX_NESTING {
            let agent = self.sessions.get(&top).map(|s| s.agent.clone());
            self.not_begun(
                &format!("{} around s-{top}", agent.unwrap_or_default()),
                &format!("sessions would be {deepest} deep"),
            );
            return true;
        }
        if let Err(error) = self.kernel.set_parent(top, outer) {
            self.problems.insert("sessions", error.to_string());
            return true;
        }
        if let Some(session) = self.sessions.get_mut(&top) {
            session.parent = Some(outer);
        }
        true
    }

    /// Has every fork on the machine reported, or no longer.
    pub(super) fn trace_forks(&mut self, on: bool) {
        if let Err(error) = self.kernel.tables.trace_forks(on) {
            self.problems.insert("forks", error.to_string());
        }
        self.tracing_forks = on;
        if !on {
            self.forks.clear();
        }
    }

    fn was_forked_by(&self, id: Id, members: &HashSet<u32>) -> bool {
        self.forks.get(&id.pid).is_some_and(|(parent, start_ns)| {
            members.contains(parent) && Id::new(id.pid, *start_ns) == id
        })
    }

    /// Agents that ran before guardd did. Outermost first, so that an agent inside another becomes a
    /// session inside its session.
    pub(super) fn adopt_running_agents(&mut self) {
        let processes = process::all();
        let own = std::process::id();
        let mut order: Vec<&Stat> = processes
            .values()
            .filter(|stat| stat.id.pid != own && stat.is_alive())
            .collect();
        order.sort_by_key(|stat| depth(stat, &processes));
        for stat in order {
            // Kernel threads have no program.
            if process::exe(stat.id.pid).is_none() {
                continue;
            }
            let session = self
                .kernel
                .tables
                .task(stat.id.pid)
                .map_or(0, |task| task.session);
            let Some((agent, found)) = self.recognise(stat.id.pid) else {
                continue;
            };
            // In a tree of marked processes only the topmost begins a session.
            if session != 0
                && (found == Found::Env
                    || self
                        .sessions
                        .get(&session)
                        .is_some_and(|s| s.agent == agent))
            {
                continue;
            }
            let parent = (session != 0).then_some(session);
            let anchor = if found == Found::Env {
                process::stat(stat.parent).map(|stat| stat.id)
            } else {
                None
            };
            let same = anchor.and_then(|anchor| {
                self.sessions
                    .values()
                    .find(|s| s.agent == agent && s.anchor == Some((anchor.pid, anchor.start)))
                    .map(|s| s.id)
            });
            if let Some(same) = same {
                self.attach();
                self.tag(stat.id, same, stat.parent);
                self.adopt_below(stat.id, same);
            } else {
                let _ = self.begin(Beginning {
                    agent,
                    origin: Origin::Proc,
                    root: stat.id,
                    parent,
                    anchor,
                    intent: None,
                    persona: None,
                    running: true,
                });
            }
        }
    }
}

fn depth(stat: &Stat, all: &HashMap<u32, Stat>) -> usize {
    let mut depth = 0;
    let mut next = stat.parent;
    while let Some(stat) = all.get(&next) {
        depth += 1;
        next = stat.parent;
        if depth > 4096 {
            break;
        }
    }
    depth
}

/// Whose event it is, as /proc tells it.
fn describe(event: &mut Event, id: Id) {
    event.tgid = Some(id.pid);
    event.pid = Some(id.pid);
    event.start = Some(id.start);
    event.uid = process::uid(id.pid);
    event.exe = process::exe(id.pid).map(|path| path.to_string_lossy().into_owned());
    let argv = process::argv(id.pid);
    event.argv = (!argv.is_empty()).then(|| crate::mask::mask_argv(&argv));
}
