//! A CI job on this machine: a network of the test's own, servers that count who reaches them, and a runner's worker that
//! runs steps.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

use crate::{Place, dns::NameServer, eventually, fixture, proc, tested};

/// Puts this thread, and what it starts, into a network of its own, in which every address of 10.77.0.0/16 and fd77::/64
/// is this host's, and none of these is the loopback.
///
/// # Panics
/// When there is none to be had.
pub fn own_network() {
    // SAFETY: a flag that concerns this thread alone.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .expect("a network namespace");
    for words in [
        "link set lo up",
        "addr add 10.77.0.1/32 dev lo",
        "route add local 10.77.0.0/16 dev lo",
        "-6 addr add fd77::1/128 dev lo",
    ] {
        let status = Command::new("ip").args(words.split(' ')).status();
        assert!(status.expect("ip").success(), "ip {words}");
    }
}

/// A web server that says "ok" to everybody, and counts who has connected.
pub struct Web {
    addr: SocketAddr,
    count: Arc<AtomicU64>,
}

impl Web {
    /// On this address.
    ///
    /// # Panics
    /// When it cannot listen there.
    pub fn at(addr: &str) -> Self {
        let listener = TcpListener::bind(addr).unwrap_or_else(|error| panic!("{addr}: {error}"));
        let addr = listener.local_addr().expect("an address");
        let count = Arc::new(AtomicU64::new(0));
        let shared = count.clone();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                shared.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    let mut bytes = [0; 4096];
                    let _ = stream.read(&mut bytes);
                    let _ = stream.write_all(
                        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
                    );
                });
            }
        });
        Self { addr, count }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// How many connections have reached it. They are accepted in order, so that once one of our own was, so was every
    /// earlier one.
    ///
    /// # Panics
    /// When it does not accept.
    pub fn reached(&self) -> u64 {
        let mut fence = TcpStream::connect(self.addr).expect("the server accepts");
        fence.write_all(b"\n").expect("the server reads");
        let mut answer = Vec::new();
        let _ = fence.read_to_end(&mut answer);
        self.count.fetch_sub(1, Ordering::SeqCst);
        self.count.load(Ordering::SeqCst)
    }
}

/// This repository's action.
pub fn action() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/action")
}

/// A step of a job.
pub struct Step(Value);

impl Step {
    /// A script for bash.
    pub fn run(id: &str, script: &str) -> Self {
        Self(json!({ "id": id, "run": script }))
    }

    /// This repository's action, with its inputs.
    pub fn action(with: Value) -> Self {
        Self::action_at(&action(), with)
    }

    /// A copy of it.
    pub fn action_at(at: &Path, with: Value) -> Self {
        Self(
            json!({ "id": "guard", "main": at.join("main.js"), "post": at.join("post.js"), "with": with }),
        )
    }

    /// It runs after a failure too.
    pub fn always(mut self) -> Self {
        self.0["always"] = true.into();
        self
    }
}

/// What came of a job.
#[derive(Debug)]
pub struct Done(pub Value);

impl Done {
    /// `success`, `failure` or `cancelled`.
    pub fn conclusion(&self) -> &str {
        self.0["conclusion"].as_str().unwrap_or_default()
    }

    /// One step's result.
    ///
    /// # Panics
    /// When it did not run.
    #[track_caller]
    pub fn step(&self, id: &str) -> &Value {
        let steps = self.0["steps"].as_array().expect("steps");
        steps
            .iter()
            .find(|step| step["id"] == id)
            .unwrap_or_else(|| panic!("{id} did not run: {self:#?}"))
    }

    /// What one printed.
    #[track_caller]
    pub fn out(&self, id: &str) -> &str {
        self.step(id)["out"].as_str().unwrap_or_default()
    }

    /// What one printed, as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[track_caller]
    pub fn json(&self, id: &str) -> Value {
        serde_json::from_str(self.out(id))
            .unwrap_or_else(|error| panic!("{id}: {error}: {:#?}", self.step(id)))
    }

    /// The job's summary.
    pub fn summary(&self) -> &str {
        self.0["summary"].as_str().unwrap_or_default()
    }
}

/// A machine on which jobs run.
pub struct Machine {
    place: Place,
    name: String,
    runner: PathBuf,
    /// Has the words behind it run where this machine's name server is the test's.
    resolving: Option<PathBuf>,
}

impl Machine {
    /// One in `place` whose names `server` knows; `name` tells several apart.
    ///
    /// # Panics
    /// When its files cannot be made.
    pub fn new(place: &Place, name: &str, server: Option<&NameServer>) -> Self {
        for dir in ["temp", "workspace"] {
            fs::create_dir_all(place.path(name).join(dir)).expect("directories");
        }
        // The name by which the worker is known.
        let runner = place.program(
            &fixture("guard-fixture-runner"),
            &format!("{name}/Runner.Worker"),
        );
        let resolving = server.map(|server| {
            let resolv = place.file(
                &format!("{name}/resolv.conf"),
                &format!("nameserver {}\noptions timeout:5\n", server.addr()),
            );
            let nsswitch = place.file(&format!("{name}/nsswitch.conf"), "hosts: dns\n");
            place.script(
                &format!("{name}/resolving"),
                &format!(
                    "#!/bin/sh\nmount --bind {} /etc/resolv.conf && mount --bind {} /etc/nsswitch.conf && exec \"$@\"\n",
                    resolv.display(),
                    nsswitch.display()
                ),
            )
        });
        Self {
            place: place.clone(),
            name: name.into(),
            runner,
            resolving,
        }
    }

    /// The same where the runner's user is `uid`, who may use sudo without a password.
    ///
    /// # Panics
    /// When its files cannot be made.
    pub fn of_user(place: &Place, name: &str, uid: u32) -> Self {
        let mut machine = Self::new(place, name, None);
        let sudoers = place.file(
            &format!("{name}/sudoers"),
            &format!("#{uid} ALL=(ALL) NOPASSWD: ALL\n"),
        );
        fs::set_permissions(&sudoers, fs::Permissions::from_mode(0o440)).expect("permissions");
        machine.resolving = Some(place.script(
            &format!("{name}/as-user"),
            &format!(
                "#!/bin/sh\nmount --bind {} /etc/sudoers && exec setpriv --reuid {uid} --regid {uid} --clear-groups \"$@\"\n",
                sudoers.display()
            ),
        ));
        for dir in ["temp", "workspace"] {
            place.give(&place.path(name).join(dir), uid);
        }
        machine
    }

    /// The checkout.
    pub fn workspace(&self) -> PathBuf {
        self.place.path(&self.name).join("workspace")
    }

    /// Where jobs' directories are made.
    pub fn base(&self) -> PathBuf {
        self.place.path(&self.name).join("jobs")
    }

    /// The worker's program.
    pub fn runner(&self) -> &Path {
        &self.runner
    }

    /// The same under another name: what is called as the worker is may connect as it likes.
    pub fn helper(&self) -> PathBuf {
        let path = self.place.path(&self.name).join("helper");
        if !path.exists() {
            self.place
                .program(&self.runner, &format!("{}/helper", self.name));
        }
        path
    }

    /// `guardctl ci start` with this machine's directory, for a step's script.
    pub fn start(&self, options: &str) -> String {
        format!(
            "{} ci start --base {} {options}",
            ctl(),
            self.base().display()
        )
    }

    /// A program on this machine: its names are resolved by the test's server.
    pub fn command(&self, program: &Path) -> Command {
        match &self.resolving {
            Some(script) => {
                let mut command = self.place.command("unshare");
                command.arg("-m").arg(script).arg(program);
                command
            }
            None => self.place.command(program),
        }
    }

    /// Begins a job.
    ///
    /// # Panics
    /// When the worker does not start.
    pub fn begin(&self, steps: Vec<Step>) -> Running {
        let dir = self.place.path(&self.name);
        let steps: Vec<Value> = steps.into_iter().map(|Step(step)| step).collect();
        let job =
            json!({ "temp": dir.join("temp"), "workspace": self.workspace(), "steps": steps });
        let file = self
            .place
            .file(&format!("{}/job.json", self.name), &job.to_string());
        let child = self
            .command(&self.runner)
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a worker");
        Running { child: Some(child) }
    }

    /// Runs a job to its end.
    #[track_caller]
    pub fn job(&self, steps: Vec<Step>) -> Done {
        self.begin(steps).end()
    }

    /// Nothing of any job is left: no process, no directory, no file system, nothing that is pinned.
    ///
    /// # Panics
    /// When something is.
    #[track_caller]
    pub fn is_clean(&self) {
        let base = self.base();
        eventually("nothing of a job is left", || {
            let left: Vec<String> = self
                .place
                .processes()
                .into_iter()
                .map(proc::describe)
                .filter(|what| what.contains(&*base.to_string_lossy()) || what.contains(" ci keep"))
                .collect();
            left.is_empty().then_some(())
        });
        let dirs: Vec<_> = fs::read_dir(&base)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        assert!(dirs.is_empty(), "left: {dirs:?}");
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        assert!(!mounts.contains(&*base.to_string_lossy()), "{mounts}");
    }
}

/// How a step's script calls guardctl.
pub fn ctl() -> String {
    tested("guardctl").display().to_string()
}

/// A job that runs.
pub struct Running {
    child: Option<Child>,
}

impl Running {
    /// The worker's pid. (`unshare` and the script become it.)
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Cancels it.
    pub fn cancel(&self) {
        proc::signal(self.pid(), rustix::process::Signal::INT);
    }

    /// Kills the worker.
    ///
    /// # Panics
    /// When it cannot be.
    pub fn kill(mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("SIGKILL");
        child.wait().expect("its end");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it says nothing.
    #[track_caller]
    pub fn end(mut self) -> Done {
        let child = self.child.take().expect("it runs");
        let output = child.wait_with_output().expect("its end");
        let text = String::from_utf8_lossy(&output.stdout);
        Done(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
