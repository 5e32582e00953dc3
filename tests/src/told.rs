//! A guard that tells people of what it holds.

use serde_json::Value;

use crate::{Guard, Place, Policy, Tool, eventually, server::Tcp};

/// A guard that holds connections to a server, and tells of it.
pub struct Scene {
    /// See the type.
    pub tool: Tool,
    /// See the type.
    pub guard: Guard,
    /// See the type.
    pub server: Tcp,
    /// Cleared when the scene ends.
    pub place: Place,
}

impl Scene {
    /// With these tables in its policy.
    pub fn new(notify: &str) -> Self {
        Self::in_place(Place::new(), notify)
    }

    /// The same in a place that is there.
    pub fn in_place(place: Place, notify: &str) -> Self {
        let server = Tcp::v4();
        let guard = Guard::new(&place, &policy(&server, notify));
        let tool = guard.tool();
        Self {
            tool,
            guard,
            server,
            place,
        }
    }

    /// Connects, and waits until that is held.
    #[track_caller]
    pub fn be_held(&mut self) -> Value {
        self.tool.tell(&format!("tcp {} hello", self.server.addr()));
        self.guard.hold()
    }

    /// Connects where somebody answers at once.
    #[track_caller]
    pub fn be_held_and_answered(&mut self) {
        self.tool.tell(&format!("tcp {} hello", self.server.addr()));
    }

    /// The held connection was made after all.
    #[track_caller]
    pub fn goes_on(&mut self) {
        assert_eq!(self.tool.answer()["echo"], "hello");
    }

    /// What `status` says of one part of the herald.
    pub fn part(&self, name: &str) -> Option<Value> {
        part(&self.guard, name)
    }

    /// Waits until `status` says so of a part.
    #[track_caller]
    pub fn wait_part(&self, name: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        eventually(&format!("{name}: {what}"), || {
            last = self.part(name);
            last.clone().filter(&good)
        })
    }
}

/// Its policy.
pub fn policy(server: &Tcp, notify: &str) -> Policy {
    Policy::new()
        .addresses("infra", &[server.addr()])
        .rule("r", &["infra"], "hold", "timeout = \"60s\"")
        .and(notify)
}

/// What `status` says of one part of the herald.
pub fn part(guard: &Guard, name: &str) -> Option<Value> {
    let status = guard.json(&["status"]);
    let parts = status["herald"]["parts"].as_array()?;
    parts.iter().find(|part| part["name"] == name).cloned()
}

/// The herald's pid, while it runs.
pub fn herald(guard: &Guard) -> Option<u32> {
    let pid = guard.json(&["status"])["herald"]["pid"].as_u64()?;
    u32::try_from(pid).ok()
}

/// Megabytes of memory that a process has had at most.
#[track_caller]
pub fn most_memory(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

/// Megabytes of memory by one of the lines of `/proc/PID/status`.
#[track_caller]
pub fn memory(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.expect("a figure").split_whitespace().next();
    figure
        .and_then(|figure| figure.parse::<u64>().ok())
        .expect("a number")
        / 1024
}
