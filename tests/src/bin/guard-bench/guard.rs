//! guardd, the sessions in it, and the measured process outside and inside of one.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, getpid, kill_process, set_parent_process_death_signal},
};
use serde_json::Value;

use crate::{
    LABELLED_NAME, interrupt,
    worker::{self, Answer, LABELLED_FILE, Order},
};

/// guardd loads its kernel programs before the socket accepts.
const READY: Duration = Duration::from_secs(15);
/// How long an answer of guardctl, an end after SIGTERM, a change of the hooks may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long one sample may take.
const SAMPLE: Duration = Duration::from_secs(60);
/// How long guardd may go on working on what a sample told it.
const CATCH_UP: Duration = Duration::from_secs(20);
/// How long a session's first opens are told at least, whatever they are of (`engine/secrets/search.rs`, `TELL_NS`), and till guardd has seen that it is over: what is
/// measured is what comes after that.
const BEGINNING: Duration = Duration::from_millis(4_500);
/// How often something is looked at that nobody announces.
const LOOK: Duration = Duration::from_millis(10);

const DEFAULT_POLICY: &str = include_str!("../../../../policy/default.toml");

/// The default policy, whose tables make lookups as dear as they are in real use, and a label of the
/// bench's own whose only rule never completes.
///
/// The letters of the agents' names and markers change case: lookups cost the same, and no real agent
/// on this machine begins a session while "no session" is measured.
pub(crate) fn policy(labelled_port: u16) -> Result<String> {
    let mut policy: toml::Table = DEFAULT_POLICY.parse().context("policy/default.toml")?;
    let agents = policy
        .get_mut("agent")
        .and_then(toml::Value::as_array_mut)
        .context("policy/default.toml: no agents in it")?;
    for agent in agents {
        for key in ["exe", "env"] {
            let names = agent.get_mut(key).and_then(toml::Value::as_array_mut);
            for name in names.into_iter().flatten() {
                if let toml::Value::String(name) = name {
                    *name = name.chars().map(swap_case).collect();
                }
            }
        }
    }
    let own: toml::Table = format!(
        "[[label]]\n\
         name = \"guard-bench\"\n\
         files = [\"**/{LABELLED_FILE}\"]\n\
         addresses = [\"127.0.0.1:{labelled_port}\"]\n\
         argv = [\"{LABELLED_NAME} **\"]\n\
         [[label]]\n\
         name = \"guard-bench-never\"\n\
         files = [\"**/bench.guard-never\"]\n\
         [[rule]]\n\
         name = \"guard-bench\"\n\
         when = [\"guard-bench\", \"guard-bench-never\"]\n\
         within = \"10m\"\n\
         then = \"hold\"\n\
         timeout = \"1m\"\n\
         on_timeout = \"deny\"\n"
    )
    .parse()?;
    for (key, tables) in own {
        let own = tables.as_array().into_iter().flatten().cloned();
        policy
            .get_mut(&key)
            .and_then(toml::Value::as_array_mut)
            .with_context(|| format!("policy/default.toml: no {key} in it"))?
            .extend(own);
    }
    Ok(toml::to_string(&policy)?)
}

fn swap_case(letter: char) -> char {
    if letter.is_ascii_lowercase() {
        letter.to_ascii_uppercase()
    } else {
        letter.to_ascii_lowercase()
    }
}

/// Records that found no room, of any class.
pub(crate) type Lost = u64;

/// A running guardd; dropped, it is ended.
pub(crate) struct Guard {
    daemon: Child,
    guardctl: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

impl Guard {
    /// Starts one in `dir`, on `cpu` if there is a choice, and waits until it accepts.
    pub(crate) fn start(
        bin_dir: &Path,
        dir: &Path,
        policy: &str,
        cpu: Option<usize>,
    ) -> Result<Self> {
        fs::create_dir(dir).with_context(|| format!("{}", dir.display()))?;
        let (policy_file, log) = (dir.join("policy.toml"), dir.join("guardd.log"));
        fs::write(&policy_file, policy).with_context(|| format!("{}", policy_file.display()))?;
        let socket = dir.join("guard.sock");
        let log_file = File::create(&log).with_context(|| format!("{}", log.display()))?;
        let mut command = Command::new(bin_dir.join("guardd"));
        command
            .arg("--policy")
            .arg(&policy_file)
            .arg("--socket")
            .arg(&socket)
            .arg("--state-dir")
            .arg(dir.join("state"))
            .stdin(Stdio::null())
            .stdout(log_file.try_clone()?)
            .stderr(log_file);
        let daemon = spawn(&mut command, Signal::TERM)?;
        let mut guard = Self {
            daemon,
            guardctl: bin_dir.join("guardctl"),
            socket,
            log,
        };
        if let Some(cpu) = cpu {
            worker::pin(Some(Pid::from_child(&guard.daemon)), cpu).context("pinning guardd")?;
        }
        guard
            .wait_until_ready()
            .map_err(|error| guard.explain(&error))?;
        Ok(guard)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY;
        while UnixStream::connect(&self.socket).is_err() {
            if let Some(status) = self.daemon.try_wait()? {
                bail!("guardd ended before it was ready: {status}");
            }
            interrupt::check()?;
            if Instant::now() >= deadline {
                bail!("guardd was not ready after {} s", READY.as_secs());
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// `error`, and the last lines that guardd wrote.
    fn explain(&self, error: &anyhow::Error) -> anyhow::Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(5)..].join(" | ");
        anyhow!("{error:#}; guardd wrote: {tail}")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.id()
    }

    fn ctl(&self) -> Command {
        let mut command = Command::new(&self.guardctl);
        command
            .arg("--socket")
            .arg(&self.socket)
            .env_remove("GUARD_SOCKET")
            .env_remove("GUARD_INTENT");
        command
    }

    fn status(&self) -> Result<Value> {
        let output = self
            .ctl()
            .args(["--json", "status"])
            .stdin(Stdio::null())
            .output()
            .context("guardctl")?;
        if !output.status.success() {
            let stdout = String::from_utf8_lossy(&output.stdout);
            bail!("guardctl status: {}: {}", output.status, stdout.trim());
        }
        serde_json::from_slice(&output.stdout).context("guardctl --json status")
    }

    /// Waits until there are `sessions` live sessions, and the hooks on calls are as they are to be
    /// with that many.
    pub(crate) fn wait_for_sessions(&self, sessions: u64) -> Result<()> {
        let deadline = Instant::now() + ANSWER;
        loop {
            let status = self.status()?;
            let attached = ["open", "connect"].iter().all(|watched| {
                let hooks = status["hooks"].as_array();
                let hook = hooks.and_then(|hooks| hooks.iter().find(|h| h["watched"] == *watched));
                hook.is_some_and(|hook| hook["attached"] == (sessions > 0))
            });
            if status["sessions"] == sessions && attached {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "guardd does not come to {sessions} sessions with their hooks: it has {}, hooks {}",
                    status["sessions"],
                    status["hooks"],
                );
            }
            interrupt::check()?;
            thread::sleep(LOOK);
        }
    }

    /// Records lost since it started.
    pub(crate) fn lost(&self) -> Result<Lost> {
        let status = self.status()?;
        let counters = status["counters"].as_array().context("no counters")?;
        Ok(counters.iter().filter_map(|c| c["lost"].as_u64()).sum())
    }

    /// Waits until guardd has worked off what it was told, so that it does not compete with the next
    /// sample.
    pub(crate) fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + CATCH_UP;
        let mut before = cpu_ns(self.pid())?;
        loop {
            thread::sleep(2 * LOOK);
            let now = cpu_ns(self.pid())?;
            // Less than 5 % of a CPU.
            if now - before < LOOK / 10 {
                return Ok(());
            }
            before = now;
            interrupt::check()?;
            if Instant::now() >= deadline {
                bail!("guardd still works after {} s", CATCH_UP.as_secs());
            }
        }
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        let _ = kill_process(Pid::from_child(&self.daemon), Signal::TERM);
        let deadline = Instant::now() + ANSWER;
        while self.daemon.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                bail!("guardd: no end after SIGTERM: killed");
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// CPU time of all threads of a process; schedstat counts it to the nanosecond.
pub(crate) fn cpu_ns(pid: u32) -> Result<Duration> {
    let mut ns = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        ns += text
            .split(' ')
            .next()
            .and_then(|ns| ns.parse().ok())
            .unwrap_or(0);
    }
    Ok(Duration::from_nanos(ns))
}

/// Resident memory in bytes.
pub(crate) fn rss(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.trim().strip_suffix(" kB"))
        .context("no VmRSS")?;
    Ok(kib.trim().parse::<u64>()? << 10)
}

/// The measured process; dropped, it is ended.
pub(crate) struct Worker {
    /// It, or the guardctl that runs it.
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// What a worker is told when it is started.
pub(crate) struct Setting {
    pub(crate) program: PathBuf,
    pub(crate) cpu: Option<usize>,
    pub(crate) dir: PathBuf,
    pub(crate) plain_port: u16,
    pub(crate) labelled_port: u16,
}

impl Setting {
    fn args(&self, command: &mut Command) {
        command.arg(&self.program).arg("worker");
        if let Some(cpu) = self.cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        command
            .arg("--dir")
            .arg(&self.dir)
            .args(["--plain-port", &self.plain_port.to_string()])
            .args(["--labelled-port", &self.labelled_port.to_string()]);
    }
}

impl Worker {
    /// Outside every session.
    pub(crate) fn outside(setting: &Setting) -> Result<Self> {
        let mut command = Command::new("/usr/bin/env");
        setting.args(&mut command);
        Self::start(&mut command)
    }

    /// As the root of a new session.
    pub(crate) fn inside(setting: &Setting, guard: &Guard) -> Result<Self> {
        let mut command = guard.ctl();
        command.args(["run", "--agent", "guard-bench", "--"]);
        setting.args(&mut command);
        // A tree of few files, which guard goes through at once.
        command.current_dir(&setting.dir);
        let worker = Self::start(&mut command).map_err(|error| guard.explain(&error))?;
        guard.wait_for_sessions(1)?;
        thread::sleep(BEGINNING);
        Ok(worker)
    }

    fn start(command: &mut Command) -> Result<Self> {
        command
            .env_clear()
            .envs(environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = spawn(command, Signal::KILL)?;
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut worker = Self {
            child,
            orders,
            answers,
        };
        let greeting = worker.answer()?;
        if !greeting.starts_with("ready ") {
            bail!("the measured process says {greeting:?}");
        }
        Ok(worker)
    }

    /// One sample.
    pub(crate) fn measure(&mut self, order: Order) -> Result<Answer> {
        let orders = self.orders.as_mut().context("no pipe")?;
        orders.write_all(order.line().as_bytes())?;
        let answer = self.answer()?;
        Answer::parse(&answer).with_context(|| answer)
    }

    fn answer(&mut self) -> Result<String> {
        let deadline = Instant::now() + SAMPLE;
        loop {
            let mut fds = [PollFd::new(self.answers.get_ref(), PollFlags::IN)];
            let timeout = Timespec::try_from(Duration::from_millis(200))?;
            if matches!(poll(&mut fds, Some(&timeout)), Ok(ready) if ready > 0) {
                break;
            }
            interrupt::check()?;
            if Instant::now() >= deadline {
                bail!("the measured process does not answer");
            }
        }
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the measured process ended: {}", self.child.wait()?);
        }
        Ok(line.trim_end().to_owned())
    }

    /// Ends it.
    pub(crate) fn stop(mut self) -> Result<()> {
        drop(self.orders.take());
        let deadline = Instant::now() + ANSWER;
        loop {
            if let Some(status) = self.child.try_wait()? {
                if !status.success() {
                    bail!("the measured process ended with {status}");
                }
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("the measured process does not end");
            }
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An environment as long as a developer's, since guard goes through it at every exec: 40 variables,
/// about 2 KiB. A fixed one, so that figures of two machines can be compared.
fn environment() -> impl Iterator<Item = (String, String)> {
    let filler = |n: usize| {
        let letter = char::from(b'A' + (n % 26) as u8);
        let name = format!("{letter}{}_SETTING_{n}", char::from(b'Z' - (n % 26) as u8));
        (name, "/usr/local/share/some/where:value".to_owned())
    };
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    [("PATH", path), ("HOME", "/root")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .chain((0..38).map(filler))
}

/// Starts a child that Ctrl-C on the terminal does not reach, and that the kernel signals should the
/// bench die without having ended it.
fn spawn(command: &mut Command, on_death: Signal) -> Result<Child> {
    let parent = getpid();
    // SAFETY: between fork and exec this makes system calls only, allocates nothing and takes no lock.
    unsafe {
        command.process_group(0).pre_exec(move || {
            set_parent_process_death_signal(Some(on_death))?;
            // The bench may have died before that took effect.
            if rustix::process::getppid() != Some(parent) {
                return Err(rustix::io::Errno::SRCH.into());
            }
            Ok(())
        });
    }
    command
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_keeps_every_table_of_the_default_and_names_no_real_agent() {
        let policy: toml::Table = policy(1).expect("made").parse().expect("parsed");
        let default: toml::Table = DEFAULT_POLICY.parse().expect("parsed");
        let count = |table: &toml::Table, key: &str| table[key].as_array().expect("array").len();
        assert_eq!(count(&policy, "agent"), count(&default, "agent"));
        assert_eq!(count(&policy, "label"), count(&default, "label") + 2);
        assert_eq!(count(&policy, "rule"), count(&default, "rule") + 1);
        assert!(!policy["agent"].to_string().contains("\"claude\""));
    }
}
