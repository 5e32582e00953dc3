//! Containers that a session asks a daemon for. What runs them is no descendant of the session, nor a child of the daemon
//! that was asked: dockerd asks containerd, that starts a shim, this a runtime, and this the container's first process.
//!
//! The kernel keeps the pids of these programs (`CONDUITS`, beside `FOLLOWING`) and stops, at its exec, whatever one of them
//! starts. What is a part of the machinery itself becomes a conduit too, and is nobody's; the rest is what somebody wants
//! to have run, and belongs to the session that asks, if one does.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use guard_common::state::FOLLOW_NS;

use super::Engine;
use crate::{
    clock,
    containers::{self, Container, Daemon, Whereabouts},
    process::{self, Id, Stat},
    units,
};

/// How often conduits that have ended are forgotten, and the sockets of daemons looked at again.
const SWEEP_NS: u64 = 2_000_000_000;
/// How long one that has ended is still known: on a busy machine what it has started is seen seconds later.
const GONE_NS: u64 = 10_000_000_000;
/// How long an answer to "who asks?" serves: the start of one container is several execs.
const FRESH_NS: u64 = 100_000_000;

/// What is known of the programs that run containers, while there are sessions.
#[derive(Debug, Default)]
pub(super) struct Containers {
    conduits: HashMap<u32, Conduit>,
    /// Containers that sessions have started: what daemons start in them later is the session's too.
    owned: HashMap<Container, u32>,
    /// When a session was last seen to hold a connection to a daemon (its pid), ns of `CLOCK_MONOTONIC`.
    seen: BTreeMap<(u32, u32), u64>,
    /// When processes were last looked through for daemons, and conduits for those that have ended.
    looked_ns: u64,
    swept_ns: u64,
    /// Some label of the policy follows, as it was then.
    follows: bool,
}

/// A program that runs containers for others.
#[derive(Debug)]
struct Conduit {
    id: Id,
    place: Whereabouts,
    role: Role,
    /// Socket files that it listens on.
    sockets: BTreeSet<PathBuf>,
    /// Those among them that a label follows.
    followed: BTreeSet<PathBuf>,
    /// When it was first seen to have ended.
    gone_ns: Option<u64>,
}

#[derive(Clone, Debug)]
enum Role {
    Daemon {
        what: Daemon,
        parent: u32,
        /// systemd listens for it.
        activated: bool,
    },
    Shim {
        container: Container,
        /// The session that the container belongs to.
        owner: Option<u32>,
        /// The container's first process has been started.
        begun: bool,
    },
    /// Something that a daemon or a shim (by its pid) has started for its work.
    Tool { of: u32 },
}

impl Engine {
    /// Looks for container daemons and shims that run already. A session's first process waits meanwhile, so that
    /// whatever it asks finds them known.
    pub(super) fn find_containers(&mut self) {
        let now = clock::monotonic_ns();
        self.containers.follows = self.tables.followed != 0;
        if !self.containers.follows {
            self.forget_containers();
            return;
        }
        self.containers.looked_ns = now;
        let Ok(entries) = fs::read_dir("/proc") else {
            return;
        };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut shims = Vec::new();
        for pid in pids {
            let known = self.containers.conduits.get(&pid);
            if known.is_some_and(|known| process::stat(pid).is_some_and(|stat| stat.id == known.id))
            {
                continue;
            }
            if let Some(what) = Daemon::of(pid) {
                self.enter_daemon(pid, what);
            } else if containers::is_shim(pid) {
                shims.push(pid);
            }
        }
        if shims.is_empty() {
            return;
        }
        let processes = process::all();
        for pid in shims {
            let (Some(stat), Some(container)) =
                (processes.get(&pid), Container::of(&process::argv(pid)))
            else {
                continue;
            };
            // guardd was not here when it was started: its oldest child is the container's first process.
            let first = processes
                .values()
                .filter(|child| child.parent == pid && child.is_alive())
                .min_by_key(|child| (child.id.start, child.id.pid));
            let owner = first.and_then(|first| self.session_around(first.id));
            if let Some(owner) = owner {
                self.containers.owned.insert(container.clone(), owner);
            }
            let role = Role::Shim {
                container,
                owner,
                begun: true,
            };
            self.enter_conduit(stat.id, role);
        }
    }

    /// The same when a session begins, or has reached something that may be new.
    pub(super) fn find_new_containers(&mut self) {
        if clock::monotonic_ns() - self.containers.looked_ns > FRESH_NS {
            self.find_containers();
        }
    }

    /// The session that a process is in.
    fn session_around(&self, id: Id) -> Option<u32> {
        let task = self.kernel.tables.task(id.pid)?;
        (Id::new(id.pid, task.start_ns) == id && self.sessions.contains_key(&task.session))
            .then_some(task.session)
    }

    fn enter_daemon(&mut self, pid: u32, what: Daemon) {
        let Some(stat) = process::stat(pid).filter(Stat::is_alive) else {
            return;
        };
        let role = Role::Daemon {
            what,
            parent: stat.parent,
            activated: containers::is_activated(pid),
        };
        self.enter_conduit(stat.id, role);
    }

    /// From here on guardd is told what this process starts. One inside a session hands its membership down instead.
    fn enter_conduit(&mut self, id: Id, role: Role) {
        if self.session_around(id).is_some() {
            return;
        }
        let Ok(place) = Whereabouts::of(id.pid) else {
            return;
        };
        let sockets = match role {
            Role::Tool { .. } => BTreeSet::new(),
            _ => containers::listens_on(id.pid),
        };
        if let Err(error) = self.kernel.tables.put_conduit(id.pid) {
            self.problems.insert("containers", error.to_string());
            return;
        }
        let conduit = Conduit {
            id,
            place,
            followed: self.followed_of(&role, &sockets),
            role,
            sockets,
            gone_ns: None,
        };
        self.containers.conduits.insert(id.pid, conduit);
    }

    /// Those of a conduit's socket files that a label follows. A shim's, which have no names to know them by, are a way past
    /// its daemon.
    fn followed_of(&self, role: &Role, sockets: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
        if matches!(role, Role::Shim { .. }) {
            return sockets.clone();
        }
        let is_followed = |path: &Path| {
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            self.tables.classify_path(&path).labels & self.tables.followed != 0
        };
        let followed = sockets.iter().filter(|path| is_followed(path));
        followed.cloned().collect()
    }

    /// A program that was stopped at its exec since its parent is a conduit, or a followed server. `true` when it has been
    /// dealt with: it is a part of what runs containers, or what that has started.
    pub(super) fn follow_container(&mut self, stat: &Stat, running: bool) -> bool {
        let id = stat.id;
        let Some(parent) = self.conduit(stat.parent) else {
            // What a manager starts when its socket is reached may be the daemon behind it.
            if self.containers.follows
                && units::is_manager(stat.parent)
                && let Some(what) = Daemon::of(id.pid)
            {
                self.enter_daemon(id.pid, what);
                return true;
            }
            return false;
        };
        let place = parent.place;
        let of_daemon = matches!(parent.role, Role::Daemon { .. });
        let root = match parent.role {
            Role::Tool { of } => of,
            _ => stat.parent,
        };
        let mut container = match self.containers.conduits.get(&root).map(|root| &root.role) {
            Some(Role::Shim { container, .. }) => Some(container.clone()),
            _ => None,
        };
        // The first shim of a container is not yet known.
        let shim = containers::is_shim(id.pid)
            .then(|| Container::of(&process::argv(id.pid)))
            .flatten();
        if container.is_none() {
            container.clone_from(&shim);
        }
        let asks = self.who_asks(root, container.as_ref());
        let owner = container
            .as_ref()
            .and_then(|container| self.containers.owned.get(container).copied())
            .filter(|&owner| self.lives(owner));
        let began = [asks, owner]
            .into_iter()
            .flatten()
            .filter_map(|session| Some(self.sessions.get(&session)?.began_s))
            .min();
        if containers::is_machinery(id.pid, stat.parent, of_daemon, place, began) {
            let role = self.role_of(id.pid, stat.parent, root, shim, owner.or(asks));
            self.enter_conduit(id, role);
            return true;
        }
        // What was a conduit until this exec is none any more.
        self.forget_conduit(id.pid);
        let outside = !Whereabouts::of(id.pid).is_ok_and(|its| its == place);
        let session = self.whose(root, id, outside, owner, asks);
        if let Some(session) = session {
            let name =
                container.map(|container| String::from_utf8_lossy(&container.id).into_owned());
            self.adopt_followed(stat, session, running, name);
        }
        true
    }

    /// What a program becomes that is a part of the machinery.
    fn role_of(
        &mut self,
        pid: u32,
        parent: u32,
        root: u32,
        shim: Option<Container>,
        owner: Option<u32>,
    ) -> Role {
        if let Some(container) = shim {
            // Its clean-up (`delete`) starts nothing of anybody's.
            let ends = process::argv(pid)
                .last()
                .is_some_and(|word| word == b"delete");
            if let Some(owner) = owner.filter(|_| !ends) {
                self.containers.owned.insert(container.clone(), owner);
            }
            return Role::Shim {
                container,
                owner,
                begun: false,
            };
        }
        let docker = |conduit: &Conduit| {
            matches!(
                conduit.role,
                Role::Daemon {
                    what: Daemon::Docker(_),
                    ..
                }
            )
        };
        if Daemon::of(pid) == Some(Daemon::Containerd)
            && self.containers.conduits.get(&parent).is_some_and(docker)
        {
            return Role::Daemon {
                what: Daemon::Containerd,
                parent,
                activated: false,
            };
        }
        Role::Tool { of: root }
    }

    /// The session to which something belongs that a daemon or a shim (`root`) has had started. `outside`: where the
    /// container is, and not where its runtime is (a hook).
    fn whose(
        &mut self,
        root: u32,
        id: Id,
        outside: bool,
        owner: Option<u32>,
        asks: Option<u32>,
    ) -> Option<u32> {
        let Some(Conduit {
            role: Role::Shim {
                owner: own, begun, ..
            },
            ..
        }) = self.containers.conduits.get_mut(&root)
        else {
            return asks;
        };
        let owner = owner.filter(|owner| *own == Some(*owner));
        let first = !*begun;
        *begun |= outside;
        if first && owner.is_some() {
            return owner;
        }
        // Nobody asks: a check of its health, or somebody else. Whoever sits at a terminal is somebody else.
        asks.or_else(|| owner.filter(|_| !process::has_terminal(id.pid)))
    }

    /// The session that asks, or has just asked, the daemons behind `root`: the one that connected last, if several do.
    fn who_asks(&mut self, root: u32, container: Option<&Container>) -> Option<u32> {
        let chain = self.chain(root, container);
        let now = clock::monotonic_ns();
        let mut asking: BTreeMap<u32, u64> = BTreeMap::new();
        for (server, following) in self.kernel.tables.following() {
            if following.until_ns > now
                && self.lives(following.session)
                && (chain.contains(&server) || self.listens_for(server, &chain))
            {
                let at = asking.entry(following.session).or_default();
                *at = (*at).max(following.until_ns);
            }
        }
        let mut seen = self.containers.seen.iter();
        let fresh = seen.any(|((_, daemon), at)| chain.contains(daemon) && now - at < FRESH_NS);
        if asking.is_empty() && !fresh {
            let sessions = self.sessions.keys().copied().collect();
            self.see_connections(&sessions);
        }
        let seen = self
            .containers
            .seen
            .iter()
            .filter(|((session, daemon), at)| {
                chain.contains(daemon)
                    && now.saturating_sub(**at) < FOLLOW_NS
                    && self.lives(*session)
            });
        for ((session, _), _) in seen {
            asking.entry(*session).or_default();
        }
        asking
            .into_iter()
            .max_by_key(|&(session, at)| (at, session))
            .map(|(session, _)| session)
    }

    fn lives(&self, session: u32) -> bool {
        self.sessions
            .get(&session)
            .is_some_and(|session| session.ended_ns.is_none())
    }

    /// The daemons whose clients `root` may work for: itself, the containerd of a shim, the dockerd of either.
    fn chain(&mut self, root: u32, container: Option<&Container>) -> BTreeSet<u32> {
        let mut chain = BTreeSet::from([root]);
        let address = container.map(|it| Path::new(OsStr::from_bytes(&it.address)));
        let listens =
            |conduit: &Conduit| address.is_some_and(|address| conduit.sockets.contains(address));
        if address.is_some() && !self.containers.conduits.values().any(listens) {
            self.look_at_sockets();
        }
        let conduits = &self.containers.conduits;
        let containerds: Vec<(u32, u32)> = conduits
            .iter()
            .filter(|(pid, conduit)| **pid == root || listens(conduit))
            .filter_map(|(&pid, conduit)| match conduit.role {
                Role::Daemon {
                    what: Daemon::Containerd,
                    parent,
                    ..
                } => Some((pid, parent)),
                _ => None,
            })
            .collect();
        let dockers = |(&pid, conduit): (&u32, &Conduit)| match &conduit.role {
            Role::Daemon {
                what: Daemon::Docker(namespace),
                ..
            } => Some((pid, namespace.clone())),
            _ => None,
        };
        let dockers: Vec<(u32, Vec<u8>)> = conduits.iter().filter_map(dockers).collect();
        for (containerd, parent) in containerds {
            chain.insert(containerd);
            // One that a dockerd has started itself is its alone.
            let own = dockers.iter().any(|(docker, _)| *docker == parent);
            chain.extend(
                dockers
                    .iter()
                    .filter(|(docker, _)| !own || *docker == parent)
                    .filter(|(_, namespace)| container.is_none_or(|it| it.is_in(namespace)))
                    .map(|(docker, _)| *docker),
            );
        }
        chain
    }

    /// Whether a manager listens for one of these daemons: then the kernel knows the manager as the server.
    fn listens_for(&self, server: u32, chain: &BTreeSet<u32>) -> bool {
        let mut daemons = chain
            .iter()
            .filter_map(|pid| self.containers.conduits.get(pid));
        daemons.any(|conduit| {
            matches!(conduit.role, Role::Daemon { activated: true, parent, .. } if parent == server)
        })
    }

    /// Notes which of these sessions hold connections to which daemons.
    fn see_connections(&mut self, sessions: &BTreeSet<u32>) {
        let daemons: Vec<(u32, &BTreeSet<PathBuf>)> = self
            .containers
            .conduits
            .iter()
            .filter(|(_, conduit)| !conduit.followed.is_empty())
            .map(|(&pid, conduit)| (pid, &conduit.followed))
            .collect();
        if daemons.is_empty() || sessions.is_empty() {
            return;
        }
        let now = clock::monotonic_ns();
        let all: BTreeSet<PathBuf> = daemons
            .iter()
            .flat_map(|(_, paths)| *paths)
            .cloned()
            .collect();
        let mut seen = Vec::new();
        for (pid, task) in self.kernel.tables.tasks() {
            if !sessions.contains(&task.session) {
                continue;
            }
            for path in containers::connections(pid, &all) {
                let of = daemons.iter().filter(|(_, paths)| paths.contains(&path));
                seen.extend(of.map(|(daemon, _)| (task.session, *daemon)));
            }
        }
        self.containers
            .seen
            .extend(seen.into_iter().map(|pair| (pair, now)));
    }

    /// Keeps what is known true: who is connected, which programs have ended.
    pub(super) fn look_after_containers(&mut self) {
        let alive = self
            .sessions
            .values()
            .any(|session| session.ended_ns.is_none());
        if !alive {
            self.forget_containers();
            return;
        }
        if self.containers.follows != (self.tables.followed != 0) {
            self.find_containers();
        }
        if self.containers.conduits.is_empty() {
            return;
        }
        let now = clock::monotonic_ns();
        self.containers.seen.retain(|(session, _), at| {
            now - *at < FOLLOW_NS && self.sessions.contains_key(session)
        });
        // Whoever is connected was seen so, or has connected within the last two seconds.
        let mut connected: BTreeSet<u32> = self
            .containers
            .seen
            .keys()
            .map(|(session, _)| *session)
            .collect();
        connected.extend(
            self.kernel
                .tables
                .following()
                .into_iter()
                .filter(|(_, following)| following.until_ns > now)
                .map(|(_, following)| following.session),
        );
        self.see_connections(&connected);
        if now - self.containers.swept_ns < SWEEP_NS {
            return;
        }
        self.containers.swept_ns = now;
        let ended: Vec<u32> = self
            .containers
            .conduits
            .values_mut()
            .filter_map(|conduit| {
                let alive = process::stat(conduit.id.pid)
                    .is_some_and(|stat| stat.id == conduit.id && stat.is_alive());
                if alive {
                    return None;
                }
                let gone_ns = *conduit.gone_ns.get_or_insert(now);
                (now - gone_ns >= GONE_NS).then_some(conduit.id.pid)
            })
            .collect();
        for pid in ended {
            self.forget_conduit(pid);
        }
        let sessions = &self.sessions;
        self.containers
            .owned
            .retain(|_, owner| sessions.contains_key(owner));
        self.look_at_sockets();
    }

    /// Daemons listen some time after their exec, and elsewhere after a reload.
    fn look_at_sockets(&mut self) {
        let listening: Vec<_> = self
            .containers
            .conduits
            .iter()
            .filter(|(_, conduit)| !matches!(conduit.role, Role::Tool { .. }))
            .map(|(&pid, conduit)| {
                let sockets = containers::listens_on(pid);
                (pid, self.followed_of(&conduit.role, &sockets), sockets)
            })
            .collect();
        for (pid, followed, sockets) in listening {
            if let Some(conduit) = self.containers.conduits.get_mut(&pid) {
                conduit.followed = followed;
                conduit.sockets = sockets;
            }
        }
    }

    /// A conduit that is still the same process.
    fn conduit(&mut self, pid: u32) -> Option<&Conduit> {
        let id = self.containers.conduits.get(&pid)?.id;
        // One that has just ended was there when it started what is asked about.
        if process::stat(pid).is_some_and(|stat| stat.id != id) {
            self.forget_conduit(pid);
            return None;
        }
        self.containers.conduits.get(&pid)
    }

    fn forget_conduit(&mut self, pid: u32) {
        if self.containers.conduits.remove(&pid).is_some() {
            self.kernel.tables.drop_conduit(pid);
        }
    }

    fn forget_containers(&mut self) {
        let pids: Vec<u32> = self.containers.conduits.keys().copied().collect();
        for pid in pids {
            self.forget_conduit(pid);
        }
        self.containers.owned.clear();
        self.containers.seen.clear();
        // Whoever comes next looks again.
        self.containers.looked_ns = 0;
    }
}
