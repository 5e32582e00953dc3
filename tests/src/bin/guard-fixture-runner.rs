//! A CI runner's worker, as far as a step can tell: it runs a job's steps one after another as its children, with
//! files for environment, outputs, state and summary, goes on with post steps after a failure and after a cancellation,
//! and ends what is left of the job by the mark that it has given to everything.
//! <https://github.com/actions/runner/tree/main/src/Runner.Worker>
//!
//! `guard-fixture-runner JOB.json` reads what to do and prints what came of it, in JSON. Two further words are programs for
//! steps: `burst` resolves names and connects at once, `forge` is a name server that lies.

use std::{
    collections::BTreeMap,
    env, fs,
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use domain::{
    base::{Message, MessageBuilder, Name, iana::Rcode},
    rdata::A,
};
use guard_tests::proc;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

/// What a runner gives a step to end by itself after SIGINT, and then after SIGTERM: 7.5 s and 2.5 s, here shorter.
const AFTER_INT: Duration = Duration::from_millis(750);
const AFTER_TERM: Duration = Duration::from_millis(250);

static CANCELLED: AtomicBool = AtomicBool::new(false);

#[derive(Deserialize)]
struct Job {
    /// Directory for the runner's own files.
    temp: PathBuf,
    /// The checkout.
    workspace: PathBuf,
    /// Variables of every step.
    #[serde(default)]
    env: BTreeMap<String, String>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    id: String,
    /// A script for bash.
    run: Option<String>,
    /// A JavaScript action: its main and post programs, and what they are given.
    main: Option<PathBuf>,
    post: Option<PathBuf>,
    #[serde(default)]
    with: BTreeMap<String, String>,
    /// It runs after a failure too.
    #[serde(default)]
    always: bool,
}

struct Runner {
    job: Job,
    mark: String,
    env: BTreeMap<String, String>,
    summary: String,
    done: Vec<Value>,
    scripts: u32,
}

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["burst", port, names @ ..] => burst(port.parse().expect("a port"), names),
        ["forge", server, name, to] => forge(server, name, to),
        [job] => work(Path::new(job)),
        _ => panic!("usage: guard-fixture-runner JOB | burst PORT NAME… | forge SERVER NAME ADDR"),
    }
}

extern "C" fn cancel(_: i32) {
    CANCELLED.store(true, Ordering::SeqCst);
}

fn work(path: &Path) {
    let handler = cancel as extern "C" fn(i32);
    // SAFETY: the handler only stores a word.
    unsafe { libc::signal(libc::SIGINT, handler as libc::sighandler_t) };
    let job: Job = serde_json::from_slice(&fs::read(path).expect("a job")).expect("a job");
    let mut runner = Runner {
        mark: format!("guard-fixture-{}", std::process::id()),
        env: job.env.clone(),
        job,
        summary: String::new(),
        done: Vec::new(),
        scripts: 0,
    };
    println!("{}", runner.all());
}

impl Runner {
    fn all(&mut self) -> Value {
        let mut failed = false;
        let mut posts = Vec::new();
        for step in std::mem::take(&mut self.job.steps) {
            let skip = (failed || CANCELLED.load(Ordering::SeqCst)) && !step.always;
            if skip {
                continue;
            }
            let (code, state) = match (&step.run, &step.main) {
                (Some(script), _) => self.run(&step.id, script),
                (None, Some(main)) => self.node(&step.id, main, &step.with, &BTreeMap::new()),
                (None, None) => panic!("a step without anything to do"),
            };
            failed |= code != 0;
            if let Some(post) = step.post {
                posts.push((step.id, post, step.with, state));
            }
        }
        let cancelled = CANCELLED.load(Ordering::SeqCst);
        for (id, post, with, state) in posts.into_iter().rev() {
            let (code, _) = self.node(&format!("post {id}"), &post, &with, &state);
            failed |= code != 0;
        }
        let orphans: Vec<String> = proc::marked(&format!("RUNNER_TRACKING_ID={}", self.mark))
            .into_iter()
            .filter(|pid| *pid != std::process::id())
            .map(|pid| {
                let what = proc::describe(pid);
                proc::signal(pid, Signal::KILL);
                what
            })
            .collect();
        let conclusion = match (cancelled, failed) {
            (true, _) => "cancelled",
            (_, true) => "failure",
            _ => "success",
        };
        json!({ "conclusion": conclusion, "steps": self.done, "summary": self.summary, "orphans": orphans })
    }

    fn run(&mut self, id: &str, script: &str) -> (i32, BTreeMap<String, String>) {
        self.scripts += 1;
        let path = self.job.temp.join(format!("{}.sh", self.scripts));
        fs::write(&path, script).expect("a script");
        let mut command = Command::new("bash");
        command
            .args(["--noprofile", "--norc", "-e", "-o", "pipefail"])
            .arg(path);
        self.step(id, command)
    }

    fn node(
        &mut self,
        id: &str,
        program: &Path,
        with: &BTreeMap<String, String>,
        state: &BTreeMap<String, String>,
    ) -> (i32, BTreeMap<String, String>) {
        let mut command = Command::new("node");
        command.arg(program);
        for (key, value) in with {
            command.env(
                format!("INPUT_{}", key.to_uppercase().replace(' ', "_")),
                value,
            );
        }
        for (key, value) in state {
            command.env(format!("STATE_{key}"), value);
        }
        self.step(id, command)
    }

    /// One child: its status, and the state that it has left for its post step.
    fn step(&mut self, id: &str, mut command: Command) -> (i32, BTreeMap<String, String>) {
        let files = ["ENV", "OUTPUT", "STATE", "STEP_SUMMARY"].map(|what| {
            let path = self.job.temp.join(format!("{what}-{}", self.done.len()));
            fs::write(&path, "").expect("a file for commands");
            (what, path)
        });
        for (what, path) in &files {
            command.env(format!("GITHUB_{what}"), path);
        }
        let child = command
            .envs(&self.env)
            .env("GITHUB_ACTIONS", "true")
            .env("GITHUB_ACTION", id)
            .env("GITHUB_JOB", "build")
            .env(
                "GITHUB_WORKFLOW_REF",
                "o/r/.github/workflows/ci.yml@refs/heads/main",
            )
            .env("GITHUB_WORKSPACE", &self.job.workspace)
            .env("RUNNER_TEMP", &self.job.temp)
            .env("RUNNER_TRACKING_ID", &self.mark)
            .current_dir(&self.job.workspace)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a step");
        // A post step runs after a cancellation.
        let (code, out, err) = wait(child, !id.starts_with("post "));
        let read = |at: usize| fs::read_to_string(&files[at].1).unwrap_or_default();
        self.env.extend(pairs(&read(0)));
        let (outputs, state) = (pairs(&read(1)), pairs(&read(2)));
        self.summary.push_str(&read(3));
        self.done
            .push(json!({ "id": id, "code": code, "out": out, "err": err, "outputs": outputs }));
        (code, state)
    }
}

/// Commands of a file: `KEY=VALUE`, or `KEY<<END`, lines, `END`.
fn pairs(text: &str) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some((key, end)) = line.split_once("<<") {
            let value: Vec<&str> = lines.by_ref().take_while(|line| *line != end).collect();
            pairs.insert(key.to_owned(), value.join("\n"));
        } else if let Some((key, value)) = line.split_once('=') {
            pairs.insert(key.to_owned(), value.to_owned());
        } else {
            panic!("a command that no runner takes: {line}");
        }
    }
    pairs
}

fn wait(mut child: Child, may_cancel: bool) -> (i32, String, String) {
    let reader = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = reader(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let err = reader(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let mut since: Option<Instant> = None;
    let mut sent = 0;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if may_cancel && CANCELLED.load(Ordering::SeqCst) {
            let passed = since.get_or_insert_with(Instant::now).elapsed();
            if sent == 0 {
                proc::signal(child.id(), Signal::INT);
                sent = 1;
            } else if sent == 1 && passed > AFTER_INT {
                proc::signal(child.id(), Signal::TERM);
                sent = 2;
            } else if sent == 2 && passed > AFTER_INT + AFTER_TERM {
                for pid in tree(child.id()) {
                    proc::signal(pid, Signal::KILL);
                }
                sent = 3;
            }
        }
        thread::sleep(Duration::from_millis(2));
    };
    if sent > 0 {
        // What a cancelled step has left would hold its output open.
        for pid in proc::marked(&format!(
            "RUNNER_TRACKING_ID=guard-fixture-{}",
            std::process::id()
        )) {
            if pid != std::process::id() {
                proc::signal(pid, Signal::KILL);
            }
        }
    }
    let text = |thread: thread::JoinHandle<String>| thread.join().unwrap_or_default();
    (status.code().unwrap_or(-1), text(out), text(err))
}

/// A process and all below it.
fn tree(root: u32) -> Vec<u32> {
    let mut all = vec![root];
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
            Some((pid, parent.parse().ok()?))
        })
        .collect();
    let mut at = 0;
    while at < all.len() {
        let of = all[at];
        all.extend(
            parents
                .iter()
                .filter(|(_, parent)| *parent == of)
                .map(|(pid, _)| *pid),
        );
        at += 1;
    }
    all
}

/// Asks for each name and connects to the first address of it at once, as nobody is quicker.
fn burst(port: u16, names: &[&str]) {
    let mut refused = Vec::new();
    for name in names {
        let addrs: Vec<SocketAddr> = (*name, port)
            .to_socket_addrs()
            .expect("an address")
            .collect();
        if let Err(error) = TcpStream::connect(addrs[0]) {
            refused.push(format!("{name}: {error}"));
        }
    }
    println!("{} of {} refused: {refused:?}", refused.len(), names.len());
    assert!(refused.is_empty());
}

/// In a network namespace of its own anybody is any name server: this one says that a name is where it likes, to itself.
fn forge(server: &str, name: &str, to: &str) {
    let server: IpAddr = server.parse().expect("an address");
    let to: std::net::Ipv4Addr = to.parse().expect("an address");
    for words in [
        vec!["link", "set", "lo", "up"],
        vec!["addr", "add", &format!("{server}/32"), "dev", "lo"],
    ] {
        // The loopback has its own addresses already.
        let _ = Command::new("ip")
            .args(words)
            .stderr(Stdio::null())
            .status();
    }
    let name_server = UdpSocket::bind((server, 53)).expect("its port");
    let client = UdpSocket::bind((server, 0)).expect("a socket");
    let mut question = MessageBuilder::new_vec().question();
    let name: Name<Vec<u8>> = name.parse().expect("a name");
    question
        .push((&name, domain::base::iana::Rtype::A))
        .expect("a question");
    let question = question.finish();
    client.send_to(&question, (server, 53)).expect("it is sent");
    let mut buffer = [0; 512];
    let (len, from) = name_server.recv_from(&mut buffer).expect("a question");
    let asked = Message::from_octets(&buffer[..len]).expect("a question");
    let mut answer = MessageBuilder::new_vec()
        .start_answer(&asked, Rcode::NOERROR)
        .expect("an answer");
    answer.push((&name, 3600, A::new(to))).expect("a record");
    name_server
        .send_to(&answer.finish(), from)
        .expect("it is sent");
    client.recv(&mut buffer).expect("an answer");
    println!("forged");
}
