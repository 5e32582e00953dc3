//! The fixture tool from the test's side.

use std::{
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::Instant,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{Guard, eventually, lines::Lines, proc};

/// A running tool that answers commands. Dropped, it is killed.
pub struct Tool {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines,
    pid: u32,
}

impl Tool {
    /// Starts it through `command`, which may run something else first that becomes the tool or starts
    /// it, and waits until it answers.
    #[track_caller]
    pub fn start(command: Command) -> Self {
        let mut tool = Self::launch(command);
        tool.pid = tool.ask("who")["pid"].as_u64().expect("a pid") as u32;
        tool
    }

    /// Starts it and does not wait.
    pub fn launch(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdin = child.stdin.take();
        let lines = Lines::of(child.stdout.take().expect("a pipe"));
        let pid = child.id();
        Self {
            child,
            stdin,
            lines,
            pid,
        }
    }

    /// The tool's own pid; before it has answered, that of what was started.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Gives a command and does not wait for the answer.
    #[track_caller]
    pub fn tell(&mut self, command: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open");
        if let Err(error) = writeln!(stdin, "{command}").and_then(|()| stdin.flush()) {
            panic!("{command}: the tool does not listen: {error}");
        }
    }

    /// The answer to the oldest command without one.
    #[track_caller]
    pub fn answer(&mut self) -> Value {
        match self.lines.next(Instant::now() + crate::patience()) {
            Ok(Some(line)) => {
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
            }
            Ok(None) => panic!("no answer: the tool has ended: {:?}", self.child.try_wait()),
            Err(()) => panic!("no answer from {}", proc::describe(self.pid)),
        }
    }

    /// The answer to the oldest command without one, if it has come.
    #[track_caller]
    pub fn answered(&mut self) -> Option<Value> {
        match self.lines.next(Instant::now()) {
            Ok(Some(line)) => {
                Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")))
            }
            Ok(None) => panic!("no answer: the tool has ended: {:?}", self.child.try_wait()),
            Err(()) => None,
        }
    }

    /// Whether one more answer has come, whatever it says.
    pub fn has_answered(&self) -> bool {
        matches!(self.lines.next(Instant::now()), Ok(Some(_)))
    }

    /// Whether what was started has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// Gives a command and waits for its answer.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> Value {
        self.tell(command);
        self.answer()
    }

    /// As [`ask`](Self::ask), for a command that must succeed.
    #[track_caller]
    pub fn must(&mut self, command: &str) -> Value {
        let answer = self.ask(command);
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer
    }

    /// Asserts that no answer has come: the call is held.
    #[track_caller]
    pub fn is_silent(&self) {
        if let Ok(Some(line)) = self.lines.next(Instant::now()) {
            panic!("the call was not held: {line}");
        }
    }

    /// Asserts that a held connect was refused: it has failed, or the tool was killed where the kernel cannot make a held
    /// one fail.
    #[track_caller]
    pub fn was_refused(&mut self, guard: &Guard) {
        if guard.holds_exactly() {
            assert_eq!(self.answer()["errno"], libc::EPERM);
        } else {
            self.was_killed();
        }
    }

    /// Asserts that the tool has said nothing more before its end.
    #[track_caller]
    pub fn said_nothing(&self) {
        if let Ok(Some(line)) = self.lines.next(Instant::now() + crate::patience()) {
            panic!("it still said: {line}");
        }
    }

    /// Ends stdin, upon which the tool exits; how what was started ended.
    #[track_caller]
    pub fn finish(mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.ended()
    }

    /// Waits for the end; how what was started ended (for `guardctl run`: how that reported it).
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the tool has ended", || child.try_wait().expect("a child"))
    }

    /// Waits for the end by SIGKILL, direct or as `guardctl run` tells it.
    #[track_caller]
    pub fn was_killed(&mut self) {
        let status = self.ended();
        assert!(
            status.code() == Some(137) || status.signal() == Some(libc::SIGKILL),
            "not killed: {status}"
        );
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            // guardctl cannot hand SIGKILL on: the tool first, so that it does not run on alone.
            if self.pid != self.child.id() {
                proc::signal(self.pid, Signal::KILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
