//! guardd, and guardctl as a person or a script calls it.

use std::{
    fs::{self, File},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    Events, Place, Tool, eventually,
    place::{fixture, tested},
    proc,
};

/// How a guardd is to be started.
pub struct Guards {
    place: Place,
    name: String,
    args: Vec<String>,
    wrapper: Vec<String>,
}

impl Guards {
    /// With another name than the first has: for a second one in the same place.
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// With more arguments.
    pub fn with(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// By way of another program, such as `setpriv`.
    pub fn through(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Where its files are.
    pub fn dir(&self) -> PathBuf {
        self.place.path(&self.name)
    }

    /// guardctl, for what it does without a guardd.
    pub fn guardctl_alone(&self) -> PathBuf {
        tested("guardctl")
    }

    /// The command that would start it. `policy` is its policy's text.
    pub fn command(&self, policy: &str) -> Command {
        let dir = self.dir();
        fs::create_dir_all(&dir).expect("a directory");
        fs::write(dir.join("policy.toml"), policy).expect("a policy");
        let mut words = self.wrapper.clone();
        words.push(tested("guardd").to_string_lossy().into_owned());
        let mut command = self.place.command(&words[0]);
        command
            .args(&words[1..])
            .arg("--policy")
            .arg(dir.join("policy.toml"))
            .arg("--socket")
            .arg(dir.join("guard.sock"))
            .arg("--state-dir")
            .arg(dir.join("state"))
            .args(&self.args)
            .stdin(Stdio::null());
        command
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(self, policy: &str) -> Guard {
        self.try_start(policy)
            .unwrap_or_else(|said| panic!("{said}"))
    }

    /// The same; what it said when it has ended before it was ready.
    ///
    /// # Errors
    /// Its log.
    #[track_caller]
    pub fn try_start(self, policy: &str) -> Result<Guard, String> {
        let command = self.command(policy);
        let dir = self.dir();
        let mut guard = Guard {
            place: self.place,
            dir,
            command,
            child: None,
        };
        guard.try_again()?;
        Ok(guard)
    }

    /// Starts what must not start; what it said on stderr, which must be one line, and its status.
    #[track_caller]
    pub fn refused(self, policy: &str) -> String {
        let command = self.command(policy);
        let output = run_to_end(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success(),
            "it started and ended well: {said}"
        );
        assert!(
            output.status.code().is_some(),
            "it crashed: {}: {said}",
            output.status
        );
        assert!(
            !self.dir().join("guard.sock").exists(),
            "a socket is left behind: {said}"
        );
        let place = &self.place;
        eventually("nothing of it runs", || {
            let left = place.processes().into_iter().filter(|pid| {
                let line = proc::describe(*pid);
                line.contains("guardd")
            });
            (left.count() == 0).then_some(())
        });
        said
    }
}

/// What guardctl said.
#[derive(Debug)]
pub struct Said {
    /// Exit status.
    pub status: i32,
    /// stdout.
    pub out: String,
    /// stderr.
    pub err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            status: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A running guardd. Dropped, it is ended by SIGTERM, and must leave nothing stopped.
pub struct Guard {
    place: Place,
    dir: PathBuf,
    command: Command,
    child: Option<Child>,
}

impl Guard {
    /// How to start one in `place`.
    pub fn of(place: &Place) -> Guards {
        Guards {
            place: place.clone(),
            name: "guard".into(),
            args: Vec::new(),
            wrapper: Vec::new(),
        }
    }

    /// Starts one in `place`.
    #[track_caller]
    pub fn new(place: &Place, policy: &str) -> Self {
        Self::of(place).start(policy)
    }

    /// Starts it, again after an end, and waits until it accepts.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start(&mut self) {
        self.try_again().unwrap_or_else(|said| panic!("{said}"));
    }

    #[track_caller]
    fn try_again(&mut self) -> Result<(), String> {
        assert!(self.child.is_none(), "it runs");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .expect("a log");
        self.command
            .stdout(log.try_clone().expect("a log"))
            .stderr(log);
        let parent = std::process::id();
        // SAFETY: two system calls between fork and exec.
        unsafe {
            self.command.pre_exec(move || {
                // A test program that is killed leaves no guardd behind.
                set_parent_process_death_signal(Some(Signal::TERM))?;
                if std::os::unix::process::parent_id() == parent {
                    Ok(())
                } else {
                    Err(rustix::io::Errno::SRCH.into())
                }
            });
        }
        let mut child = self.command.spawn().expect("guardd starts");
        let socket = self.socket();
        let deadline = Instant::now() + crate::patience();
        while UnixStream::connect(&socket).is_err() {
            if let Some(status) = child.try_wait().expect("a child") {
                return Err(format!(
                    "guardd ended before it was ready: {status}\n{}",
                    self.log()
                ));
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                panic!("guardd was not ready in time\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.child = Some(child);
        Ok(())
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("guard.sock")
    }

    /// Its state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Where its attachments are pinned; see `kernel/pins.rs` of guardd.
    pub fn pins(&self) -> Option<PathBuf> {
        let state = self.state_dir();
        let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
        let hash: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
        [
            state.join("bpf"),
            format!("/sys/fs/bpf/guard-{hash}").into(),
        ]
        .iter()
        .filter_map(|root| fs::read_dir(root).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with('v') && path.is_dir()
        })
    }

    /// Whether a held connect has not happened: before Linux 6.1 its handshake begins.
    pub fn holds_exactly(&self) -> bool {
        let status = self.json(&["status"]);
        !status["not_enforced"]
            .to_string()
            .contains("hold before the handshake")
    }

    /// Whether held opens and unix connects are repeated when they are approved: before Linux 5.15 they are not.
    pub fn repeats(&self) -> bool {
        let status = self.json(&["status"]);
        !status["not_enforced"]
            .to_string()
            .contains("bpf_task_pt_regs")
    }

    /// Its policy file.
    pub fn policy(&self) -> PathBuf {
        self.dir.join("policy.toml")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!(
            "--- guardd's log\n{}\n---",
            lines[lines.len().saturating_sub(60)..].join("\n")
        )
    }

    /// Ends it by SIGTERM; how it ended.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        proc::signal(child.id(), Signal::TERM);
        let log = self.log();
        eventually(&format!("guardd ends after SIGTERM\n{log}"), || {
            child.try_wait().expect("a child")
        })
    }

    /// Has it make way for the next one.
    #[track_caller]
    pub fn make_way(&mut self) {
        let mut child = self.child.take().expect("it runs");
        proc::signal(child.id(), Signal::USR2);
        let status = eventually("guardd makes way", || child.try_wait().expect("a child"));
        assert!(status.success(), "{status}");
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("SIGKILL");
        child.wait().expect("its end");
    }

    /// guardctl, to be called with further arguments.
    pub fn guardctl(&self) -> Command {
        let mut command = self.place.command(tested("guardctl"));
        command.arg("--socket").arg(self.socket());
        command
    }

    /// Calls guardctl.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> Said {
        let mut command = self.guardctl();
        command.args(args).stdin(Stdio::null());
        Said::of(&run_to_end(command))
    }

    /// Calls guardctl, which must succeed.
    #[track_caller]
    pub fn must(&self, args: &[&str]) -> Said {
        let said = self.ctl(args);
        assert_eq!(said.status, 0, "guardctl {args:?}: {said:?}");
        said
    }

    /// What guardctl gives to programs; it must succeed.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        self.must(&[&["--json"], args].concat()).json()
    }

    /// Every event from the first on.
    pub fn events(&self) -> Events {
        let mut command = self.guardctl();
        command.args(["--json", "events", "--follow"]);
        Events::follow(command)
    }

    /// Every event that there is now.
    #[track_caller]
    pub fn events_now(&self) -> Vec<crate::Event> {
        let said = self.must(&["--json", "events"]);
        said.out
            .lines()
            .map(|line| {
                let event: Value =
                    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                event.into()
            })
            .collect()
    }

    /// `guardctl run … -- program`, to be started.
    pub fn run(&self, options: &[&str], program: impl AsRef<Path>) -> Command {
        let mut command = self.guardctl();
        command
            .arg("run")
            .args(options)
            .arg("--")
            .arg(program.as_ref());
        command
    }

    /// The fixture tool in a session of its own.
    #[track_caller]
    pub fn tool(&self) -> Tool {
        Tool::start(self.run(&[], fixture("guard-fixture-tool")))
    }

    /// The fixture tool in no session.
    #[track_caller]
    pub fn stranger(&self) -> Tool {
        Tool::start(self.place.command(fixture("guard-fixture-tool")))
    }

    /// The only hold that waits, once there is one.
    #[track_caller]
    pub fn hold(&self) -> Value {
        eventually("a hold waits", || {
            let holds = self.holds();
            assert!(holds.len() < 2, "more than one hold: {holds:#?}");
            holds.into_iter().next()
        })
    }

    /// The holds that wait.
    #[track_caller]
    pub fn holds(&self) -> Vec<Value> {
        self.json(&["pending"])["holds"]
            .as_array()
            .expect("holds")
            .clone()
    }

    /// Approves the only hold, once there is one.
    #[track_caller]
    pub fn approve(&self, more: &[&str]) -> Value {
        let hold = self.hold();
        self.must(&[&["approve", hold["id"].as_str().expect("an id")], more].concat());
        hold
    }

    /// Denies the only hold, once there is one.
    #[track_caller]
    pub fn deny(&self, more: &[&str]) -> Value {
        let hold = self.hold();
        self.must(&[&["deny", hold["id"].as_str().expect("an id")], more].concat());
        hold
    }

    /// Live sessions.
    #[track_caller]
    pub fn sessions(&self) -> Vec<Value> {
        self.json(&["sessions"])["sessions"]
            .as_array()
            .expect("sessions")
            .clone()
    }

    /// The live session that this process is in, by `show`.
    #[track_caller]
    pub fn session_of(&self, pid: u32) -> Option<String> {
        self.sessions().into_iter().find_map(|session| {
            let id = session["id"].as_str()?.to_owned();
            let shown = self.ctl(&["--json", "show", &id]);
            if shown.status != 0 {
                return None; // It has just ended.
            }
            let tree = shown.json()["tree"].as_array()?.clone();
            tree.iter()
                .any(|process| process["pid"] == pid)
                .then_some(id)
        })
    }

    /// What `status` says of one thing watched.
    #[track_caller]
    pub fn hook(&self, watched: &str) -> Value {
        let status = self.json(&["status"]);
        let hooks = status["hooks"].as_array().expect("hooks");
        hooks
            .iter()
            .find(|hook| hook["watched"] == watched)
            .unwrap_or_else(|| panic!("{watched} is not in {status}"))
            .clone()
    }

    /// Records of a class that were lost.
    #[track_caller]
    pub fn lost(&self, class: &str) -> u64 {
        let status = self.json(&["status"]);
        let counters = status["counters"].as_array().expect("counters");
        counters
            .iter()
            .find(|counter| counter["class"] == class)
            .and_then(|counter| counter["lost"].as_u64())
            .unwrap_or_else(|| panic!("{class} is not in {status}"))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            proc::signal(child.id(), Signal::TERM);
            let deadline = Instant::now() + crate::patience();
            let mut status = None;
            while status.is_none() && Instant::now() < deadline {
                status = child.try_wait().ok().flatten();
                // It has much to take off; a thread that spins would take half of a guest's only processor from it.
                std::thread::sleep(Duration::from_millis(2));
            }
            if status.is_none() {
                let _ = child.kill();
                let _ = child.wait();
            }
            if std::thread::panicking() {
                eprintln!("{}", self.log());
                return;
            }
            assert!(
                status.is_some(),
                "guardd did not end after SIGTERM\n{}",
                self.log()
            );
            let stopped: Vec<_> = self
                .place
                .stopped()
                .into_iter()
                .map(proc::describe)
                .collect();
            assert!(
                stopped.is_empty(),
                "left stopped: {stopped:#?}\n{}",
                self.log()
            );
        } else if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Runs a command that ends by itself; it is killed at the deadline.
#[track_caller]
fn run_to_end(mut command: Command) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let pid = child.id();
    let (done, ended) = std::sync::mpsc::channel::<()>();
    // It is only waited for below, so until `done` goes the pid is its own.
    let watch = std::thread::spawn(move || {
        let late = ended.recv_timeout(crate::patience())
            == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            proc::signal(pid, Signal::KILL);
        }
        late
    });
    let output = child.wait_with_output().expect("its end");
    drop(done);
    assert!(
        !watch.join().unwrap_or(false),
        "{command:?}: no end in time: {output:?}"
    );
    output
}
