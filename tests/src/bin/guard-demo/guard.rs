//! guardd, and guardctl as a person or a script calls it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::Sender,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::{
    Programs,
    event::Event,
    interrupt,
    process::{Process, send_lines},
};

/// guardd loads its kernel programs before the socket accepts.
const READY: Duration = Duration::from_secs(10);

/// How long one call of guardctl may take.
const CALL: Duration = Duration::from_secs(5);

/// The name of the only rule.
pub(crate) const RULE: &str = "credential-then-infra";

/// The fixture's name, as the policy and the sessions have it.
pub(crate) const AGENT: &str = "guard-fixture-agent";

/// What the agent says it is for.
pub(crate) const INTENT: &str = "fix the staging credential mismatch";

/// The policy of one act.
pub(crate) fn policy(mode: &str, then: &str, port: u16) -> String {
    let hold = if then == "hold" {
        "timeout    = \"30s\"\non_timeout = \"kill\"\n"
    } else {
        ""
    };
    format!(
        "version = 1\n\
         mode    = \"{mode}\"\n\n\
         [[agent]]\n\
         name = \"{AGENT}\"\n\
         exe  = [\"{AGENT}\"]\n\n\
         [[label]]\n\
         name  = \"credential\"\n\
         files = [\"**/.railway/config.json\"]\n\n\
         [[label]]\n\
         name      = \"infra\"\n\
         addresses = [\"127.0.0.1:{port}\"]\n\n\
         [[rule]]\n\
         name   = \"{RULE}\"\n\
         when   = [\"credential\", \"infra\"]\n\
         within = \"10m\"\n\
         then   = \"{then}\"\n\
         {hold}"
    )
}

/// A running guardd with a policy, a socket and a state directory of its own.
pub(crate) struct Guard {
    daemon: Process,
    guardctl: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

impl Guard {
    /// Starts one with `policy` in `dir`, and waits until it accepts.
    pub(crate) fn start(programs: &Programs, dir: &Path, policy: &str) -> Result<Self> {
        let policy_file = dir.join("policy.toml");
        fs::write(&policy_file, policy)
            .with_context(|| format!("{}: cannot write", policy_file.display()))?;
        let state_dir = dir.join("state");
        fs::create_dir(&state_dir)
            .with_context(|| format!("{}: cannot create", state_dir.display()))?;
        let socket = dir.join("guard.sock");
        let log = dir.join("guardd.log");
        let log_file =
            File::create(&log).with_context(|| format!("{}: cannot create", log.display()))?;
        let daemon = Process::spawn(
            "guardd",
            Command::new(&programs.guardd)
                .arg("--policy")
                .arg(&policy_file)
                .arg("--socket")
                .arg(&socket)
                .arg("--state-dir")
                .arg(&state_dir)
                .stdin(Stdio::null())
                .stdout(log_file.try_clone()?)
                .stderr(log_file),
            true,
        )?;
        let mut guard = Self {
            daemon,
            guardctl: programs.guardctl.clone(),
            socket,
            log,
        };
        match guard.wait_until_ready() {
            Ok(()) => Ok(guard),
            Err(error) => Err(guard.explain(error)),
        }
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY;
        while UnixStream::connect(&self.socket).is_err() {
            if let Some(status) = self.daemon.wait(Duration::from_millis(10))? {
                bail!("guardd ended before it was ready: {status}");
            }
            interrupt::check()?;
            if Instant::now() >= deadline {
                bail!("guardd was not ready after {} s", READY.as_secs());
            }
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// The last lines that guardd wrote, for a person who looks for the reason.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(20)..];
        if tail.is_empty() {
            return "guardd wrote nothing".to_owned();
        }
        format!("guardd wrote:\n    {}", tail.join("\n    "))
    }

    /// `error`, and what guardd wrote.
    pub(crate) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        anyhow!("{error:#}\n  {}", self.log_tail())
    }

    fn ctl(&self) -> Command {
        let mut command = Command::new(&self.guardctl);
        command
            .arg("--socket")
            .arg(&self.socket)
            // The machine's own guard is no business of the demo's.
            .env_remove("GUARD_SOCKET")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Calls guardctl; what it printed.
    pub(crate) fn call<A: AsRef<OsStr>>(&self, args: &[A]) -> Result<String> {
        let shown: Vec<_> = args
            .iter()
            .map(|arg| arg.as_ref().to_string_lossy())
            .collect();
        let shown = format!("guardctl {}", shown.join(" "));
        let mut process = Process::spawn("guardctl", self.ctl().args(args), false)?;
        let mut stdout = process.child().stdout.take().context("no pipe")?;
        let mut stderr = process.child().stderr.take().context("no pipe")?;
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            text
        });
        let output = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stdout.read_to_end(&mut text);
            text
        });
        let status = process.wait_for(CALL).with_context(|| shown.clone())?;
        let output = String::from_utf8_lossy(&output.join().unwrap_or_default()).into_owned();
        if !status.success() {
            let errors = errors.join().unwrap_or_default();
            let errors = String::from_utf8_lossy(&errors);
            bail!("{shown}: {status}: {}", errors.trim());
        }
        Ok(output)
    }

    /// The holds that wait, as guardctl gives them to machines.
    pub(crate) fn pending(&self) -> Result<Vec<Value>> {
        let text = self.call(&["--json", "pending"])?;
        let reply: Value = serde_json::from_str(&text)
            .with_context(|| format!("guardctl --json pending: printed {text:?}"))?;
        let holds = reply.get("holds").unwrap_or(&reply);
        Ok(holds.as_array().cloned().unwrap_or_default())
    }

    /// Sends every event, from the first, as it happens.
    pub(crate) fn follow<M: Send + 'static>(
        &self,
        to: Sender<M>,
        message: impl Fn(Event) -> M + Send + 'static,
    ) -> Result<Process> {
        let mut command = self.ctl();
        command
            .args(["--json", "events", "--follow"])
            .stderr(Stdio::null());
        let mut process = Process::spawn("guardctl events", &mut command, false)?;
        let stdout = process.child().stdout.take().context("no pipe")?;
        let (lines, received) = std::sync::mpsc::channel();
        send_lines(stdout, lines, |line| line);
        thread::spawn(move || {
            for line in received {
                // What is no event (a closing reply, say) is nothing to the demo.
                if let Some(event) = Event::parse(&line)
                    && to.send(message(event)).is_err()
                {
                    break;
                }
            }
        });
        Ok(process)
    }

    /// Starts the agent in a session of its own.
    pub(crate) fn run_agent(&self, agent: &Path, args: &[&OsStr]) -> Result<Process> {
        let mut command = self.ctl();
        command
            .args(["run", "--agent", AGENT, "--intent", INTENT, "--"])
            .arg(agent)
            .args(args);
        Process::spawn("guardctl run", &mut command, false)
    }

    /// Ends it by SIGTERM; how it ended.
    pub(crate) fn stop(&mut self) -> Result<ExitStatus> {
        self.daemon.stop()
    }
}
