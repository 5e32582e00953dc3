//! Events as guardctl prints them for programs.

use std::{
    ops::Deref,
    process::{Child, Command, Stdio},
    time::Instant,
};

use serde_json::Value;

use crate::lines::Lines;

/// One event.
#[derive(Clone, Debug)]
pub struct Event(Value);

impl Deref for Event {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0
    }
}

impl From<Value> for Event {
    fn from(value: Value) -> Self {
        Self(value)
    }
}

impl Event {
    /// A text field; empty where it is left out.
    pub fn text(&self, field: &str) -> &str {
        self.0[field].as_str().unwrap_or_default()
    }

    /// Whether it is of this kind.
    pub fn is(&self, kind: &str) -> bool {
        self.text("kind") == kind
    }

    /// Its verdict.
    pub fn verdict(&self) -> &str {
        self.text("verdict")
    }

    /// Its session.
    pub fn session(&self) -> &str {
        self.text("session")
    }

    /// Whether it touched this label.
    pub fn has(&self, label: &str) -> bool {
        self.0["labels"]
            .as_array()
            .is_some_and(|labels| labels.iter().any(|l| l == label))
    }

    /// Whether it is an open of this label, with this verdict.
    pub fn is_open(&self, label: &str, verdict: &str) -> bool {
        self.is("open") && self.has(label) && self.verdict() == verdict
    }

    /// Whether it is a connect of this label, with this verdict.
    pub fn is_connect(&self, label: &str, verdict: &str) -> bool {
        self.is("connect") && self.has(label) && self.verdict() == verdict
    }

    /// Whether it is about this process.
    pub fn of(&self, pid: u32) -> bool {
        self.0["tgid"] == pid
    }

    /// Path of its object.
    pub fn path(&self) -> &str {
        self.0["object"]["path"].as_str().unwrap_or_default()
    }

    /// Its position in the journal.
    pub fn seq(&self) -> u64 {
        self.0["seq"].as_u64().unwrap_or_default()
    }
}

/// `guardctl --json events --follow`: every event from the first on.
pub struct Events {
    child: Child,
    lines: Lines,
    seen: Vec<Event>,
}

impl Events {
    pub(crate) fn follow(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("guardctl starts");
        let lines = Lines::of(child.stdout.take().expect("a pipe"));
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// The first event that is what is looked for, if it comes before the session of this agent has ended.
    #[track_caller]
    pub fn before_end(&mut self, agent: &str, wanted: impl Fn(&Event) -> bool) -> Option<Event> {
        let ends = |event: &Event| {
            event.is("session") && event["agent"] == agent && event["object"]["what"] == "ended"
        };
        let event = self.wait(agent, |event| wanted(event) || ends(event));
        (!ends(&event)).then_some(event)
    }

    /// The first event, come or coming, that is what is looked for.
    ///
    /// # Panics
    /// When none has come by the deadline.
    #[track_caller]
    pub fn wait(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let mut at = 0;
        let deadline = Instant::now() + crate::patience();
        loop {
            if let Some(event) = self.seen[at..].iter().find(|event| wanted(event)) {
                return event.clone();
            }
            at = self.seen.len();
            match self.lines.next(deadline) {
                Ok(Some(line)) => match serde_json::from_str(&line) {
                    Ok(event) => self.seen.push(Event(event)),
                    Err(error) => panic!("no event: {error}: {line}"),
                },
                Ok(None) => panic!("events ended before: {what}; seen:\n{}", self.shown()),
                Err(()) => panic!("no such event: {what}; seen:\n{}", self.shown()),
            }
        }
    }

    /// Looks from now on only for events that have not been read yet: after tens of thousands, looking through all takes long.
    pub fn forget(&mut self) {
        self.seen.clear();
    }

    /// All events that have been read by the last [`wait`](Self::wait).
    pub fn seen(&self, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        self.seen
            .iter()
            .filter(|event| wanted(event))
            .cloned()
            .collect()
    }

    /// Asserts that no event read so far is what is looked for.
    #[track_caller]
    pub fn none(&self, what: &str, wanted: impl Fn(&Event) -> bool) {
        let found = self.seen(wanted);
        assert!(found.is_empty(), "{what}: {found:#?}");
    }

    fn shown(&self) -> String {
        let lines: Vec<String> = self.seen.iter().map(|event| event.to_string()).collect();
        lines.join("\n")
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
