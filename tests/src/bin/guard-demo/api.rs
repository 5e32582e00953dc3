//! The API server, `guard-fixture-api`, and what it counted.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{interrupt, process::Process, process::send_lines, project};

/// The name its certificate is for.
pub(crate) const HOST: &str = "backboard.guard-demo.test";

/// The volume that the agent deletes.
pub(crate) const PRODUCTION: &str = "vol-production";

/// Volumes and backups before anything has happened.
pub(crate) const VOLUMES: u64 = 2;
pub(crate) const BACKUPS: u64 = 4;

const READY: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(2);

/// A running server.
pub(crate) struct Api {
    process: Process,
    control: PathBuf,
    pub(crate) port: u16,
    pub(crate) ca: PathBuf,
}

/// What reached the server, and what is left of what it kept.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Facts {
    pub(crate) connections: u64,
    pub(crate) open: u64,
    pub(crate) handshakes: u64,
    /// Received from TCP.
    pub(crate) wire_bytes: u64,
    /// Received after decryption.
    pub(crate) application_bytes: u64,
    pub(crate) requests: u64,
    pub(crate) malformed: u64,
    pub(crate) refused: u64,
    pub(crate) mutations: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_request: Option<LastRequest>,
    /// Ids of the volumes alive.
    pub(crate) volumes: Vec<String>,
    pub(crate) volumes_alive: u64,
    pub(crate) backups_alive: u64,
}

/// The last complete request.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct LastRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) operation: Option<String>,
    pub(crate) bytes: u64,
    pub(crate) status: u16,
}

impl Facts {
    pub(crate) fn is_untouched(&self) -> bool {
        self.wire_bytes == 0
            && self.application_bytes == 0
            && self.requests == 0
            && self.malformed == 0
            && self.volumes_alive == VOLUMES
            && self.backups_alive == BACKUPS
    }

    pub(crate) fn production_is_alive(&self) -> bool {
        self.volumes.iter().any(|id| id == PRODUCTION)
    }
}

#[derive(Deserialize)]
struct Ready {
    port: u16,
    ca: PathBuf,
}

impl Api {
    pub(crate) fn start(program: &Path, dir: &Path) -> Result<Self> {
        let control = dir.join("api.sock");
        let mut process = Process::spawn(
            "guard-fixture-api",
            Command::new(program)
                .arg("--control")
                .arg(&control)
                .arg("--ca")
                .arg(dir.join("ca.pem"))
                .args(["--token", project::TOKEN])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
            true,
        )?;
        let stdout = process.child().stdout.take().context("no pipe")?;
        let (lines, received) = mpsc::channel();
        send_lines(stdout, lines, |line| line);
        let line = received
            .recv_timeout(READY)
            .context("guard-fixture-api: did not become ready")?;
        let Ready { port, ca } = serde_json::from_str(&line)
            .with_context(|| format!("guard-fixture-api: printed {line:?}"))?;
        Ok(Self {
            process,
            control,
            port,
            ca,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it has counted up to now.
    pub(crate) fn facts(&self) -> Result<Facts> {
        let asked = UnixStream::connect(&self.control).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER))?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            Ok(line)
        });
        let line = asked.context("guard-fixture-api: cannot be asked")?;
        serde_json::from_str(&line).with_context(|| format!("guard-fixture-api: said {line:?}"))
    }

    /// What it has counted once no connection is open any more: nothing can be added then.
    pub(crate) fn final_facts(&self) -> Result<Facts> {
        let deadline = Instant::now() + ANSWER;
        loop {
            let facts = self.facts()?;
            if facts.open == 0 {
                return Ok(facts);
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} connections are still open, though the agent has ended",
                    facts.open
                );
            }
            interrupt::check()?;
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it by closing its standard input.
    pub(crate) fn stop(mut self) -> Result<()> {
        drop(self.process.child().stdin.take());
        let status = self.process.wait_for(ANSWER)?;
        if !status.success() {
            bail!("guard-fixture-api: {status}");
        }
        Ok(())
    }
}
