//! Which process runs the job. A step is a child of the runner's worker, as is the step that starts guard: so the worker
//! is looked for among the processes above this one, and what it starts later is in the session as well.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use crate::{
    cli::failure::Failure,
    process::{self, Stat},
};

/// Runners' processes that run one job's steps as their children.
const WORKERS: [&str; 4] = ["Runner.Worker", "act_runner", "forgejo-runner", "act"];
/// Runners that start a process of their own for each job or stage: that process is the worker.
const SERVERS: [&str; 3] = ["gitlab-runner", "buildkite-agent", "woodpecker-agent"];
/// What stands between a worker and a step's command.
const BETWEEN: [&str; 17] = [
    "sh", "bash", "dash", "zsh", "ksh", "fish", "busybox", "pwsh", "sudo", "su", "env", "node",
    "nodejs", "timeout", "setsid", "nohup", "guardctl",
];
/// What starts a worker and is none.
const ABOVE: [&str; 9] = [
    "systemd",
    "init",
    "sshd",
    "sshd-session",
    "login",
    "tini",
    "dumb-init",
    "docker-init",
    "tmux: server",
];
/// Processes above this one that are looked at.
const MAX_HEIGHT: usize = 128;

/// The process that runs a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its pid.
    pub pid: u32,
    /// Its start time, ticks since boot.
    pub start: u64,
    /// Base name of its program.
    pub name: String,
    /// Its program, where it can be read.
    pub exe: Option<String>,
    /// How it was found.
    pub how: How,
}

impl Worker {
    /// The path of its program, if that is a runner's, which reports the job's state and fetches actions: no shell, and
    /// nothing else that a job could have do something.
    pub fn own_program(&self) -> Option<&str> {
        self.exe
            .as_deref()
            .filter(|_| WORKERS.contains(&&*self.name))
    }
}

/// How a worker was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// `--pid` says so.
    Given,
    /// By the runner's name.
    Known,
    /// The first process above that is no shell.
    Guessed,
}

/// A process above this one.
#[derive(Clone, Debug)]
struct Above {
    stat: Stat,
    name: String,
}

/// Finds the worker of the process `from`.
///
/// # Errors
/// When there is none, or `given` is none.
pub fn find(from: u32, given: Option<u32>) -> Result<Worker, Failure> {
    if let Some(pid) = given {
        let stat = process::stat(pid).filter(Stat::is_alive).ok_or_else(|| {
            Failure::Invalid(format!(
                "--pid {pid}: no such process: give the runner's worker process"
            ))
        })?;
        return Ok(of(&above(stat), How::Given));
    }
    let mut chain = Vec::new();
    let mut next = process::stat(from).map(|stat| stat.parent);
    while let Some(stat) = next.filter(|pid| *pid > 1).and_then(process::stat) {
        next = Some(stat.parent);
        chain.push(above(stat));
        if chain.len() > MAX_HEIGHT {
            break;
        }
    }
    choose(&chain)
        .map(|(index, how)| of(&chain[index], how))
        .ok_or_else(|| {
            Failure::Invalid(
                "the runner's worker process: no process above this one could be it: say it with --pid"
                    .into(),
            )
        })
}

/// Whether `pid` lies below `worker`.
pub fn lies_below(pid: u32, worker: u32) -> bool {
    let mut next = process::stat(pid).map(|stat| stat.parent);
    for _ in 0..MAX_HEIGHT {
        match next {
            Some(pid) if pid == worker => return true,
            Some(pid) if pid > 1 => next = process::stat(pid).map(|stat| stat.parent),
            _ => return false,
        }
    }
    false
}

fn of(above: &Above, how: How) -> Worker {
    Worker {
        pid: above.stat.id.pid,
        start: above.stat.id.start,
        name: above.name.clone(),
        exe: process::exe(above.stat.id.pid).map(|path| path.to_string_lossy().into_owned()),
        how,
    }
}

/// The place of the worker in the processes above, nearest first.
fn choose(chain: &[Above]) -> Option<(usize, How)> {
    let named = |names: &[&str], above: &Above| names.contains(&above.name.as_str());
    if let Some(index) = chain.iter().position(|above| named(&WORKERS, above)) {
        return Some((index, How::Known));
    }
    if let Some(server) = chain.iter().rposition(|above| named(&SERVERS, above))
        && server > 0
    {
        return Some((server - 1, How::Known));
    }
    let first = chain.iter().position(|above| !named(&BETWEEN, above));
    match first {
        Some(index) if !named(&ABOVE, &chain[index]) => Some((index, How::Guessed)),
        Some(0) => None,
        Some(index) => Some((index - 1, How::Guessed)),
        None => Some((chain.len().checked_sub(1)?, How::Guessed)),
    }
}

fn above(stat: Stat) -> Above {
    let pid = stat.id.pid;
    let base = |path: &Path| Some(path.file_name()?.to_string_lossy().into_owned());
    // The program of another user's process cannot be read; its command line can.
    let name = process::exe(pid).and_then(|path| base(&path)).or_else(|| {
        let argv = process::argv(pid);
        base(Path::new(&*String::from_utf8_lossy(argv.first()?)))
    });
    let name = name.unwrap_or_else(|| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        comm.trim_end().to_owned()
    });
    Above {
        stat,
        name: name.trim_end_matches(" (deleted)").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Id;

    fn chain(names: &[&str]) -> Vec<Above> {
        let of = |(pid, name): (usize, &&str)| Above {
            stat: Stat {
                id: Id {
                    pid: 100 - pid as u32,
                    start: 1,
                },
                parent: 0,
                state: 'S',
                group: 0,
                session: 0,
                terminal: 0,
            },
            name: (*name).to_owned(),
        };
        names.iter().enumerate().map(of).collect()
    }

    #[test]
    fn the_worker_of_each_runner_is_known_and_another_is_guessed() {
        use How::{Guessed, Known};
        for (names, expected) in [
            (
                &["node", "Runner.Worker", "Runner.Listener", "systemd"][..],
                Some((1, Known)),
            ),
            (
                &["sudo", "bash", "forgejo-runner", "systemd"],
                Some((2, Known)),
            ),
            (
                &["bash", "bash", "su", "gitlab-runner", "systemd"],
                Some((2, Known)),
            ),
            (
                &["bash", "buildkite-agent", "buildkite-agent", "systemd"],
                Some((1, Known)),
            ),
            (&["bash", "my-runner", "systemd"], Some((1, Guessed))),
            (&["bash", "sudo", "bash", "sshd"], Some((2, Guessed))),
            (&["bash"], Some((0, Guessed))),
            (&["systemd"], None),
            (&[], None),
        ] {
            assert_eq!(choose(&chain(names)), expected, "{names:?}");
        }
    }
}
