//! The sentinel: a second, tiny process that only waits for guardd to be gone, so that a guardd that is
//! killed leaves no process stopped for ever. It holds the tables that say who is stopped, lets those
//! go on that only waited for guardd, does at each hold's deadline what the rule says of silence, and
//! then resumes what a person or a hold had paused, unless a new guardd has taken over by then.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use aya::maps::{HashMap, Map, MapData};
use guard_common::{
    Verdict,
    state::{
        Answer, AnswerKey, Held, POSTURE_NORMAL, POSTURE_PAUSED, Session, Task, Waiting, fate,
    },
};
use rustix::process::Signal;

use crate::{
    clock,
    kernel::Neighbours,
    process::{self, Id},
};

/// First argument of a guardd that is a sentinel.
pub const ARGUMENT: &str = "--sentinel";
/// Where the child finds the tables.
const FIRST_FD: i32 = 3;
/// How many there are.
const TABLES: usize = 5;
/// How long a session that a person paused stays so without a guardd that could resume it.
const GRACE: Duration = Duration::from_secs(30);

/// What guardd says when there is nothing left to do.
const DISMISSED: &[u8] = b"dismissed";
/// How long the programs of a guardd that was killed may go on stopping processes.
const HOOKS_GONE: Duration = Duration::from_secs(2);
/// How long an answer waits for the repeated call, as guardd's do.
const ANSWER_LIFE: Duration = Duration::from_secs(10);
/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// guardd's end: as long as it lives, so does the pipe.
#[derive(Debug)]
pub struct Sentinel {
    child: Child,
}

impl Sentinel {
    /// Starts it. `pins` is where guardd's attachments outlive it. `tables` are HELD, WAITING, TASKS, SESSIONS and ANSWERS.
    ///
    /// # Errors
    /// When no process can be started.
    pub fn start(
        state_dir: &Path,
        pins: Option<&Path>,
        tables: &[OwnedFd; TABLES],
    ) -> io::Result<Self> {
        let fds: [RawFd; TABLES] = std::array::from_fn(|index| tables[index].as_raw_fd());
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("guardd-sentinel")
            .arg(ARGUMENT)
            .arg(state_dir)
            .arg(pins.unwrap_or(Path::new("")))
            .arg(std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        // SAFETY: only async-signal-safe calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // Away from the numbers that they are to get, first.
                let mut moved = [0; TABLES];
                for (slot, fd) in moved.iter_mut().zip(fds) {
                    *slot = libc::fcntl(fd, libc::F_DUPFD, 16);
                    if *slot < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                for (index, fd) in moved.into_iter().enumerate() {
                    if libc::dup2(fd, FIRST_FD + index as i32) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                    libc::close(fd);
                }
                // Ctrl-C at the terminal is for guardd, which ends the sentinel by ending.
                libc::setsid();
                Ok(())
            });
        }
        Ok(Self {
            child: command.spawn()?,
        })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Leaves it to itself, when guardd makes way for another one.
    pub fn leave(self) {
        // Its end of the pipe is closed, as after guardd's death.
        drop(self.child);
    }

    /// Ends it, when guardd has let everything go itself.
    pub fn dismiss(mut self) {
        if let Some(mut pipe) = self.child.stdin.take() {
            let _ = pipe.write_all(DISMISSED);
        }
        let _ = self.child.wait();
    }
}

/// The sentinel's whole life.
pub fn run(state_dir: &Path, pins: &Path, guardd: u32) -> anyhow::Result<()> {
    let (held, waiting) = (table(0)?, table(1)?);
    let own = [held.info()?.id(), waiting.info()?.id()];
    let mut held: HashMap<MapData, u32, Held> = Map::HashMap(held).try_into()?;
    let mut waiting: HashMap<MapData, u32, Waiting> = Map::HashMap(waiting).try_into()?;
    let tasks: HashMap<MapData, u32, Task> = Map::HashMap(table(2)?).try_into()?;
    let mut sessions: HashMap<MapData, u32, Session> = Map::HashMap(table(3)?).try_into()?;
    let mut answers: HashMap<MapData, AnswerKey, Answer> = Map::HashMap(table(4)?).try_into()?;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: ignoring a signal has no precondition.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // Ends when the last copy of the other end is closed, however guardd ends.
    let mut word = Vec::new();
    io::stdin().lock().read_to_end(&mut word)?;
    if word == DISMISSED {
        return Ok(());
    }
    let gone_ns = clock::monotonic_ns();
    loop {
        let now = clock::monotonic_ns();
        let neighbours = Neighbours::look(&own);
        // What another guard keeps, that one lets go.
        let go_on = |id: Id| {
            if !neighbours.keep(id) {
                let _ = process::signal(id, Signal::CONT);
            }
        };
        for (pid, entry) in waiting.iter().filter_map(Result::ok).collect::<Vec<_>>() {
            let _ = waiting.remove(&pid);
            go_on(Id::new(pid, entry.start_ns));
        }
        let mut next: Option<u64> = None;
        for (pid, entry) in held.iter().filter_map(Result::ok).collect::<Vec<_>>() {
            let id = Id::new(pid, entry.start_ns);
            if process::same(pid, entry.start_ns).is_none_or(|stat| !stat.is_stopped()) {
                continue;
            }
            if neighbours.hold(id) {
                // A new guardd has taken it up.
                let _ = held.remove(&pid);
                continue;
            }
            if entry.deadline_ns > now {
                next = Some(next.map_or(entry.deadline_ns, |other| other.min(entry.deadline_ns)));
                continue;
            }
            let _ = held.remove(&pid);
            // With guardd's programs in force the call is repeated and finds the answer. Where nothing of
            // them is left, nothing could refuse the call: refusing means killing.
            let refuse = Verdict::from_u8(entry.on_timeout) > Verdict::Flag;
            let fails = Verdict::from_u8(entry.on_timeout) == Verdict::Deny
                && matches!(entry.fate, fate::REPEATS | fate::FAILED)
                && pins.exists();
            let key = if refuse {
                AnswerKey::refusal(pid)
            } else {
                AnswerKey {
                    tgid: pid,
                    rule: entry.rule,
                    generation: entry.generation,
                }
            };
            let verdict = if refuse {
                Verdict::Deny
            } else {
                Verdict::Allow
            };
            let answer = Answer {
                expires_ns: now + ANSWER_LIFE.as_nanos() as u64,
                object: entry.object,
                verdict: verdict as u32,
                rule: entry.rule,
                generation: entry.generation,
            };
            // An answer to a call that is not repeated would be one to the next call.
            let placed = (if refuse {
                fails
            } else {
                entry.fate == fate::REPEATS
            }) && answers.insert(key, answer, 0).is_ok();
            if refuse && !(fails && placed) {
                let _ = process::signal(id, Signal::KILL);
            } else {
                go_on(id);
            }
        }
        let paused = |sessions: &HashMap<MapData, u32, Session>| -> Vec<Id> {
            let is_paused = |task: &Task| {
                sessions
                    .get(&task.session, 0)
                    .is_ok_and(|s| s.posture == POSTURE_PAUSED)
            };
            tasks
                .iter()
                .filter_map(Result::ok)
                .filter(|(_, task)| is_paused(task))
                .map(|(pid, task)| Id::new(pid, task.start_ns))
                .collect()
        };
        // The kernel takes the programs of a process that was killed off a moment after its pipe: until
        // then they go on stopping.
        let settled = next.is_none() && now >= gone_ns + HOOKS_GONE.as_nanos() as u64;
        if settled && has_successor(state_dir, guardd) {
            return Ok(());
        }
        if settled && now >= gone_ns + GRACE.as_nanos() as u64 {
            let stopped = paused(&sessions);
            // Every process of such a session is stopped, so nobody changes what lies beside the posture.
            for (id, mut session) in sessions.iter().filter_map(Result::ok).collect::<Vec<_>>() {
                if session.posture == POSTURE_PAUSED {
                    session.posture = POSTURE_NORMAL;
                    let _ = sessions.insert(id, session, 0);
                }
            }
            stopped.into_iter().for_each(go_on);
        }
        let anybody = |tasks: &HashMap<MapData, u32, Task>| {
            tasks.iter().filter_map(Result::ok).any(|(pid, task)| {
                process::same(pid, task.start_ns).is_some_and(|stat| stat.is_alive())
            })
        };
        // What guardd has attached is in force as long as there is anybody whom it concerns, or anything that somebody has left
        // in a socket.
        let in_force =
            pins.exists() && (anybody(&tasks) || crate::kernel::pins::may_leave_later(pins));
        if settled && !in_force && paused(&sessions).is_empty() {
            if pins.exists() {
                crate::kernel::pins::remove(pins);
            }
            return Ok(());
        }
        let next = next.unwrap_or(now + GRACE.as_nanos() as u64);
        let wait = Duration::from_nanos(next.saturating_sub(clock::monotonic_ns()));
        // A new guardd, and what the last hooks have stopped, is looked for this often; deadlines are met
        // exactly.
        std::thread::sleep(wait.min(LOOK_EVERY));
    }
}

fn table(index: i32) -> anyhow::Result<MapData> {
    // SAFETY: guardd placed the tables there for this process alone.
    let fd = unsafe { OwnedFd::from_raw_fd(FIRST_FD + index) };
    Ok(MapData::from_fd(fd)?)
}

/// A guardd that has taken the state directory over looks after its holds. Its pid is in the lock
/// file; taking the lock to find out could make a guardd that starts just then give up.
fn has_successor(state_dir: &Path, guardd: u32) -> bool {
    let Ok(text) = fs::read_to_string(state_dir.join("lock")) else {
        return false;
    };
    let pid = text
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok());
    pid.is_some_and(|pid| pid != guardd && process::stat(pid).is_some_and(|stat| stat.is_alive()))
}
