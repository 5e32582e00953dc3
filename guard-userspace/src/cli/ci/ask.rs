//! What `ci stop` and `ci report` ask the keeper of a job, over its socket: one line each way.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::FileTypeExt as _, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{report::Report, worker};
use crate::{
    cli::failure::Failure,
    process,
    wire::{self, Code},
};

/// The keeper's socket in a job's directory.
pub const SOCKET: &str = "ci.sock";
/// What `stop` needs, where the runner has no better place: only root can read it.
pub const TOKEN: &str = "token";
/// Which job a directory is for; everybody can read it.
pub const JOB: &str = "job.json";
/// A question's longest line.
pub const MAX_QUESTION: u64 = 4096;
/// An answer's: reports are bounded well below it.
const MAX_ANSWER: u64 = 64 << 20;
/// How long the keeper may take: it waits for guardd's end.
const PATIENCE: Duration = Duration::from_secs(90);

/// A question.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Question {
    /// What was seen so far.
    Report,
    /// That, and the end.
    Stop {
        /// What only who has started it knows.
        token: String,
    },
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// As asked.
    Report(Box<Report>),
    /// Why not.
    Error(wire::Failure),
}

/// The job that a directory is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The worker's pid and start time.
    pub worker: (u32, u64),
    /// The keeper's.
    pub keeper: (u32, u64),
    /// guardd's.
    pub guardd: (u32, u64),
}

impl Job {
    /// Reads a directory's.
    pub fn of(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(JOB)).ok()?).ok()
    }
}

/// Whether a process is still the one that it was.
pub fn lives((pid, start): (u32, u64)) -> bool {
    process::stat(pid).is_some_and(|stat| stat.id.start == start && stat.is_alive())
}

fn failure(code: Code, message: String) -> Failure {
    Failure::Refused(wire::Failure { code, message })
}

/// The directory of this process's job.
///
/// # Errors
/// When none is given and none is found.
pub fn directory(given: Option<&Path>, base: &Path) -> Result<PathBuf, Failure> {
    if let Some(dir) = given.filter(|dir| !dir.as_os_str().is_empty()) {
        return Ok(dir.to_owned());
    }
    let own = std::process::id();
    let of_this = |dir: &PathBuf| {
        Job::of(dir).is_some_and(|job| {
            lives(job.worker) && (job.worker.0 == own || worker::lies_below(own, job.worker.0))
        })
    };
    let mut dirs = fs::read_dir(base).into_iter().flatten().flatten();
    dirs.find_map(|entry| Some(entry.path()).filter(of_this))
        .ok_or_else(|| {
            failure(
                Code::Unreachable,
                "this job is not watched: nobody has called 'guardctl ci start' above this process: call it first, or say \
                 which with --dir"
                    .into(),
            )
        })
}

/// Asks the keeper.
///
/// # Errors
/// When it is not there, or is not root's, or refuses.
pub fn ask(dir: &Path, question: &Question) -> Result<Report, Failure> {
    let socket = dir.join(SOCKET);
    let lost = |error: std::io::Error| {
        failure(
            Code::Unreachable,
            format!(
                "the watch of this job at {}: {error}: it has ended, or was never started",
                socket.display()
            ),
        )
    };
    let is_socket = fs::metadata(&socket).is_ok_and(|meta| meta.file_type().is_socket());
    if !is_socket {
        return Err(lost(std::io::ErrorKind::NotFound.into()));
    }
    let mut stream = UnixStream::connect(&socket).map_err(lost)?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .map_err(lost)?;
    // A job can make a socket too, and name its directory in the environment of the steps after.
    let peer =
        rustix::net::sockopt::socket_peercred(&stream).map_err(|error| lost(error.into()))?;
    if !peer.uid.is_root() {
        return Err(failure(
            Code::Forbidden,
            format!(
                "{}: uid {} listens there and not root: what it says is not guard's: give the directory that 'guardctl ci \
                 start' has made",
                socket.display(),
                peer.uid.as_raw()
            ),
        ));
    }
    let mut line = serde_json::to_vec(question).map_err(|error| Failure::No(error.to_string()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(lost)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .take(MAX_ANSWER)
        .read_line(&mut answer)
        .map_err(lost)?;
    match serde_json::from_str(&answer) {
        Ok(Answer::Report(report)) => Ok(*report),
        Ok(Answer::Error(refused)) => Err(Failure::Refused(refused)),
        Err(_) if answer.is_empty() => Err(lost(std::io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(Failure::No(format!(
            "{}: an answer that makes no sense: {error}: guardctl must be of one version",
            socket.display()
        ))),
    }
}
