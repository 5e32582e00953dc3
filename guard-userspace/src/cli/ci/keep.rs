//! The keeper: a root process outside of the job's session that has guardd as its child, counts what happens, and answers
//! `ci report` and `ci stop`. It ends the watch when it is told to, with the token that `start` has given away, or when
//! the worker has ended.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::{
    args::Mode,
    ask::{self, Answer, Job, MAX_QUESTION, Question},
    compose, guardd,
    report::{Report, Suggestion},
    sources::Sources,
    start::hash,
    tally::Tally,
    worker::{How, Worker, lies_below},
};
use crate::{
    cli::{client::Conversation, failure::Failure},
    clock, process,
    wire::{self, Code, Reply, Request},
};

/// How often a guardd that has ended by itself is started again: it takes over what the one before has left in force.
const MAX_RESTARTS: u32 = 3;
/// Connections at once.
const MAX_CONNECTIONS: usize = 16;
/// How long who asks may take to say what.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the keeper is started with, on stdin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// The job's directory.
    pub dir: PathBuf,
    /// The daemon's program.
    pub guardd: PathBuf,
    /// Audit or block.
    pub mode: Mode,
    /// The job's root.
    pub worker: Worker,
    /// Who may ask for a report, beside root.
    pub worker_uid: u32,
    /// SHA-256 of what `stop` must say.
    pub token_hash: String,
    /// What git tracks.
    pub sources: Option<Sources>,
    /// Or why that is not known.
    pub sources_unwatched: Option<String>,
    /// Entries of `--allow`.
    pub allow: Vec<String>,
    /// Names among them, to be looked up.
    pub names: Vec<String>,
    /// Where the policy is from.
    pub policy: String,
    /// Name of the session's agent.
    pub agent: String,
}

/// The keeper's first word, on stdout.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum First {
    /// The job is watched.
    Ready(Ready),
    /// It is not.
    Error(String),
}

/// A job that is watched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// `s-N`.
    pub session: String,
    /// Processes that it has.
    pub processes: u64,
    /// As in `status`.
    pub degraded: Vec<String>,
    /// As in `status`.
    pub not_enforced: Vec<String>,
}

/// What the keeper waits for.
enum Note {
    Asked(Question, UnixStream),
    WorkerEnded,
    GuarddEnded(String),
    Told,
}

/// `guardctl ci keep`: reads its [`Config`], leaves the processes below the worker, and stays.
pub fn keep() -> Result<u8, Failure> {
    let mut text = Vec::new();
    io::stdin()
        .read_to_end(&mut text)
        .map_err(|error| Failure::No(format!("stdin: {error}: it is started by 'ci start'")))?;
    let config: Config = serde_json::from_slice(&text).map_err(|error| {
        Failure::Invalid(format!("stdin: {error}: it is started by 'ci start'"))
    })?;
    // SAFETY: this process has one thread, and the parent ends at once.
    match unsafe { libc::fork() } {
        0 => {}
        -1 => {
            return Err(Failure::System {
                what: "cannot fork",
                source: io::Error::last_os_error(),
            });
        }
        // SAFETY: ends this process and nothing else; no buffer of it has anything in it.
        _ => unsafe { libc::_exit(0) },
    }
    let _ = rustix::process::setsid();
    // SAFETY: a mask has no precondition.
    unsafe { libc::umask(0o022) };
    let signals = block_signals();
    match begin(config) {
        Ok((keeper, child, listener, ready)) => {
            say(&First::Ready(ready));
            keeper.stay(child, listener, signals);
        }
        Err(why) => say(&First::Error(why)),
    }
    Ok(0)
}

/// The first word; whoever reads it waits for the end of the line or of the pipe.
fn say(first: &First) {
    let line = serde_json::to_string(first).unwrap_or_default();
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    drop(out);
    if let Ok(null) = fs::File::options().write(true).open("/dev/null") {
        use std::os::fd::AsRawFd as _;
        // SAFETY: both are open descriptors of this process.
        unsafe { libc::dup2(null.as_raw_fd(), libc::STDOUT_FILENO) };
    }
}

/// SIGTERM and its like are waited for by a thread.
fn block_signals() -> libc::sigset_t {
    // SAFETY: a set of the kernel's own shape, filled before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    }
}

struct Keeper {
    config: Config,
    session: String,
    began: String,
    tally: Arc<Mutex<Tally>>,
    /// No more events are waited for.
    over: Arc<AtomicBool>,
    guardd: (u32, u64),
    restarts: u32,
    problems: Vec<String>,
}

fn identity(pid: u32) -> (u32, u64) {
    (pid, process::stat(pid).map_or(0, |stat| stat.id.start))
}

fn locked(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    // A thread that has panicked has left numbers behind, and no promise.
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

fn begin(config: Config) -> Result<(Keeper, Child, UnixListener, Ready), String> {
    // Its parent may not have ended yet; then it is below the worker still.
    let own = std::process::id();
    for _ in 0..500 {
        if !lies_below(own, config.worker.pid) {
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    if lies_below(own, config.worker.pid) {
        return Err(format!(
            "{} (pid {}) takes orphans in (it is a child subreaper, or the first process), so guard itself would be part of \
             the job: give another process with --pid",
            config.worker.name, config.worker.pid
        ));
    }
    let mut child = guardd::spawn(&config.guardd, &config.dir, config.mode)?;
    let done = adopt(&config).and_then(|ready| {
        let job = Job {
            worker: (config.worker.pid, config.worker.start),
            keeper: identity(own),
            guardd: identity(child.id()),
        };
        write_job(&config.dir, &job)?;
        // Before anybody hears that the job is watched: the next step may ask at once.
        let listener = listen(&config.dir)?;
        Ok((ready, job, listener))
    });
    let (ready, job, listener) = match done {
        Ok(done) => done,
        Err(why) => {
            let _ = child.try_wait();
            let guardd = identity(child.id());
            let reaper = thread::spawn(move || child.wait());
            let _ = guardd::end(guardd, &config.dir);
            let _ = reaper.join();
            return Err(why);
        }
    };
    let tally = Tally::new(config.worker.pid, config.sources.clone());
    let keeper = Keeper {
        session: ready.session.clone(),
        began: clock::rfc3339_now(),
        tally: Arc::new(Mutex::new(tally)),
        over: Arc::new(AtomicBool::new(false)),
        guardd: job.guardd,
        restarts: 0,
        problems: Vec::new(),
        config,
    };
    Ok((keeper, child, listener, ready))
}

fn listen(dir: &Path) -> Result<UnixListener, String> {
    let path = dir.join(ask::SOCKET);
    UnixListener::bind(&path)
        .and_then(|listener| {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
            Ok(listener)
        })
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn write_job(dir: &Path, job: &Job) -> Result<(), String> {
    let text = serde_json::to_vec(job).map_err(|error| error.to_string())?;
    let (path, new) = (dir.join(ask::JOB), dir.join("job.new"));
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, &path))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// One question to guardd.
fn ask_guardd(dir: &Path, request: &Request) -> Result<Reply, String> {
    Conversation::open(&dir.join(guardd::SOCKET), request)
        .and_then(|mut conversation| conversation.next())
        .map_err(|failure| failure.to_string())
}

/// Whether what is not allowed can be refused before a packet leaves, and names be known.
fn can_block(status: &wire::Status, names: bool) -> Result<(), String> {
    let hook = |watched: &str| status.hooks.iter().find(|hook| hook.watched == watched);
    let denies = hook("connect").is_some_and(|hook| hook.can.iter().any(|word| word == "deny"));
    let knows = hook("dns").is_some_and(|hook| hook.tier != "none");
    let why = |watched: &str| hook(watched).and_then(|hook| hook.note.clone());
    match (denies, knows || !names) {
        (true, true) => Ok(()),
        (false, _) => Err(format!(
            "block mode: this kernel does not let guard refuse a connection ({}): use --mode audit",
            why("connect").unwrap_or_else(|| "no reason is known".into())
        )),
        (true, false) => Err(format!(
            "block mode: guard cannot see here what name servers say ({}): allow addresses instead of names",
            why("dns").unwrap_or_else(|| "no reason is known".into())
        )),
    }
}

/// Makes the worker and all below it a session.
fn adopt(config: &Config) -> Result<Ready, String> {
    if !ask::lives((config.worker.pid, config.worker.start)) {
        return Err(format!(
            "{} (pid {}) has ended",
            config.worker.name, config.worker.pid
        ));
    }
    let request = Request::Adopt {
        pid: config.worker.pid,
        agent: Some(config.agent.clone()),
        intent: None,
        persona: None,
        run: false,
    };
    let (session, processes) = match ask_guardd(&config.dir, &request)? {
        Reply::Adopted {
            session, processes, ..
        } => (session, processes),
        _ => return Err("guardd answered with something else than a session".into()),
    };
    let status = match ask_guardd(&config.dir, &Request::Status)? {
        Reply::Status(status) => status,
        _ => return Err("guardd answered with something else than its status".into()),
    };
    if config.mode == Mode::Block {
        can_block(&status, !config.names.is_empty())?;
    }
    let (degraded, not_enforced) = (status.degraded, status.not_enforced);
    Ok(Ready {
        session,
        processes,
        degraded,
        not_enforced,
    })
}

impl Keeper {
    fn stay(mut self, child: Child, listener: UnixListener, signals: libc::sigset_t) {
        let (notes, inbox) = mpsc::channel();
        let (tell, uid) = (notes.clone(), self.config.worker_uid);
        thread::spawn(move || serve(&listener, uid, &tell));
        let (tell, worker) = (notes.clone(), self.config.worker.pid);
        thread::spawn(move || {
            wait_for_end(worker);
            let _ = tell.send(Note::WorkerEnded);
        });
        let tell = notes.clone();
        thread::spawn(move || {
            let mut signal = 0;
            // SAFETY: the set is blocked in every thread, and there is room for the number.
            unsafe { libc::sigwait(&raw const signals, &raw mut signal) };
            let _ = tell.send(Note::Told);
        });
        watch_child(child, notes.clone());
        let (dir, tally, over) = (
            self.config.dir.clone(),
            self.tally.clone(),
            self.over.clone(),
        );
        thread::spawn(move || follow(&dir, &tally, &over));
        // By now the session's hooks see what name servers answer.
        let names = self.config.names.clone();
        thread::spawn(move || compose::look_up(&names));
        while let Ok(note) = inbox.recv() {
            match note {
                Note::Asked(Question::Report, stream) => {
                    let report = Answer::Report(Box::new(self.report()));
                    answer(stream, &report);
                }
                Note::Asked(Question::Stop { token }, stream) => {
                    // Both are hashes: how much of them is the same tells nothing.
                    if hash(&token) == self.config.token_hash {
                        self.end(Some(stream));
                        return;
                    }
                    answer(stream, &refused("the token is not the one of this job"));
                }
                Note::WorkerEnded | Note::Told => {
                    self.end(None);
                    return;
                }
                Note::GuarddEnded(status) => self.start_again(&status, &notes),
            }
        }
    }

    /// What it had attached is still in force: the next one takes it over.
    fn start_again(&mut self, status: &str, notes: &Sender<Note>) {
        self.restarts += 1;
        let what = format!("guardd ended before the job did ({status})");
        if self.restarts > MAX_RESTARTS {
            self.problems.push(format!(
                "{what}: it is not started again; what it had attached stays in force, and nothing more is told"
            ));
            return;
        }
        match guardd::spawn(&self.config.guardd, &self.config.dir, self.config.mode) {
            Ok(child) => {
                self.guardd = identity(child.id());
                let job = Job {
                    worker: (self.config.worker.pid, self.config.worker.start),
                    keeper: identity(std::process::id()),
                    guardd: self.guardd,
                };
                if let Err(why) = write_job(&self.config.dir, &job) {
                    self.problems.push(why);
                }
                watch_child(child, notes.clone());
                self.problems.push(format!(
                    "{what}: it was started again; what happened meanwhile was judged and is not told"
                ));
                let names = self.config.names.clone();
                thread::spawn(move || compose::look_up(&names));
            }
            Err(why) => self.problems.push(format!("{what}, and again: {why}")),
        }
    }

    /// Everything that was seen up to now.
    fn report(&mut self) -> Report {
        let mut tally = locked(&self.tally);
        let mut problems = self.problems.clone();
        if let Err(why) = catch_up(&self.config.dir, &mut tally) {
            problems.push(format!("guardd does not tell the last events: {why}"));
        }
        let counted = tally.counted();
        let events = tally.events;
        drop(tally);
        let mut not_enforced = Vec::new();
        if let Ok(Reply::Status(status)) = ask_guardd(&self.config.dir, &Request::Status) {
            problems.extend(status.degraded);
            not_enforced = status.not_enforced;
        }
        let how = match self.config.worker.how {
            How::Given => "given",
            How::Known => "known",
            How::Guessed => "guessed",
        };
        let mut report = Report {
            mode: self.config.mode.name().into(),
            session: self.session.clone(),
            worker: self.config.worker.name.clone(),
            worker_pid: self.config.worker.pid,
            worker_how: how.into(),
            policy: self.config.policy.clone(),
            began: self.began.clone(),
            until: clock::rfc3339_now(),
            events,
            steps: counted.steps,
            programs: counted.programs,
            peers: counted.peers,
            stopped: counted.stopped,
            flagged: counted.flagged,
            more: counted.more,
            sources: counted.sources,
            sources_unwatched: self.config.sources_unwatched.clone(),
            sudo: counted.sudo,
            brokers: counted.brokers,
            lost: counted.lost,
            not_enforced,
            problems,
            suggestion: Suggestion::default(),
            left: Vec::new(),
        };
        report.suggestion = Suggestion::of(&report, &self.config.allow);
        report
    }

    /// Takes the watch off, clears everything away, and only then tells who has asked for it.
    fn end(mut self, stream: Option<UnixStream>) {
        let report = stream.is_some().then(|| self.report());
        self.over.store(true, Ordering::SeqCst);
        // A guardd that was killed has left its programs in force: only another one takes them off.
        if !ask::lives(self.guardd)
            && let Ok(mut child) =
                guardd::spawn(&self.config.guardd, &self.config.dir, self.config.mode)
        {
            self.guardd = identity(child.id());
            thread::spawn(move || child.wait());
        }
        let left = guardd::end(self.guardd, &self.config.dir);
        if let (Some(stream), Some(mut report)) = (stream, report) {
            report.left = left;
            answer(stream, &Answer::Report(Box::new(report)));
        }
    }
}

/// Tells when guardd ends, however.
fn watch_child(mut child: Child, notes: Sender<Note>) {
    thread::spawn(move || {
        let status = match child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let _ = notes.send(Note::GuarddEnded(status));
    });
}

/// Counts events as they come. A new guardd goes on where the one before has ended.
fn follow(dir: &Path, tally: &Mutex<Tally>, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        let after = locked(tally).last_seq;
        let request = Request::Events {
            follow: true,
            session: None,
            kinds: Vec::new(),
            after,
        };
        if let Ok(mut conversation) = Conversation::open(&dir.join(guardd::SOCKET), &request)
            && conversation.wait_for_ever().is_ok()
        {
            while let Ok(Reply::Event(event)) = conversation.next() {
                locked(tally).add(&event);
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Counts what has happened and was not told yet.
fn catch_up(dir: &Path, tally: &mut Tally) -> Result<(), String> {
    let request = Request::Events {
        follow: false,
        session: None,
        kinds: Vec::new(),
        after: tally.last_seq,
    };
    let mut conversation = Conversation::open(&dir.join(guardd::SOCKET), &request)
        .map_err(|failure| failure.to_string())?;
    loop {
        match conversation.next().map_err(|failure| failure.to_string())? {
            Reply::Event(event) => tally.add(&event),
            _ => return Ok(()),
        }
    }
}

/// Waits for a process's end.
fn wait_for_end(pid: u32) {
    let Some(pid) = Pid::from_raw(pid as i32) else {
        return;
    };
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    use std::os::fd::AsRawFd as _;
    let mut wanted = libc::pollfd {
        fd: pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry, which lives through the call.
    while unsafe { libc::poll(&raw mut wanted, 1, -1) } < 1 {}
}

fn serve(listener: &UnixListener, worker_uid: u32, notes: &Sender<Note>) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // No descriptors are left: some will be.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if open.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (notes, open) = (notes.clone(), open.clone());
        thread::spawn(move || {
            match question(&stream, worker_uid) {
                Ok(question) => {
                    let _ = notes.send(Note::Asked(question, stream));
                }
                Err(refused) => answer(stream, &refused),
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

fn refused(why: &str) -> Answer {
    Answer::Error(wire::Failure {
        code: Code::Forbidden,
        message: format!(
            "{why}: the watch ends with the job, or by who has the token that 'guardctl ci start' gave: call this as root, or \
             from the action's own post step"
        ),
    })
}

fn question(stream: &UnixStream, worker_uid: u32) -> Result<Question, Answer> {
    let invalid = |message: String| {
        Answer::Error(wire::Failure {
            code: Code::Invalid,
            message,
        })
    };
    let peer = rustix::net::sockopt::socket_peercred(stream)
        .map_err(|error| invalid(error.to_string()))?;
    if !peer.uid.is_root() && peer.uid.as_raw() != worker_uid {
        return Err(refused(&format!(
            "uid {} is neither root nor the runner's user",
            peer.uid.as_raw()
        )));
    }
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let mut line = String::new();
    BufReader::new(stream)
        .take(MAX_QUESTION)
        .read_line(&mut line)
        .map_err(|error| invalid(error.to_string()))?;
    serde_json::from_str(&line)
        .map_err(|error| invalid(format!("{error}: guardctl must be of one version")))
}

fn answer(mut stream: UnixStream, answer: &Answer) {
    let Ok(mut line) = serde_json::to_vec(answer) else {
        return;
    };
    line.push(b'\n');
    // Who does not wait for the answer does not get it.
    let _ = stream.write_all(&line);
}
