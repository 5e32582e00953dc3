//! `guardctl ci start`.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    args::{Mode, StartArgs},
    ask::{self, Job},
    compose::{self, Parts},
    guardd, keep,
    runner::{self, Annotation, Gravity},
    sources,
    worker::{self, How, Worker},
};
use crate::{
    cli::{escape, failure::Failure},
    process,
};

/// Variables that are not for what outlives the step: the runner looks for them at the job's end, or they are secrets of
/// its.
const LEFT_OUT: [&str; 12] = [
    "RUNNER_",
    "GITHUB_",
    "ACTIONS_",
    "INPUT_",
    "STATE_",
    "CI_",
    "GITLAB_",
    "FORGEJO_",
    "GITEA_",
    "BUILDKITE_",
    "JENKINS_",
    "LD_",
];

/// What `start` has to say, in words and in JSON, and the exit status.
type Said = (String, Value, u8);

/// Starts the watch, as root: by sudo where this is another user.
///
/// # Errors
/// In block mode, whatever keeps the job from being watched. In audit mode that is a warning, unless it must be.
pub fn start(args: &StartArgs, json: bool) -> Result<Said, Failure> {
    let done = if rustix::process::geteuid().is_root() {
        watch(args)
    } else {
        by_sudo()
    };
    match done {
        // A wrong call is wrong in either mode.
        Err(failure @ Failure::Invalid(_)) => Err(failure),
        Err(failure) if args.mode == Mode::Audit && !args.require => {
            let why = failure.for_people();
            let why = why.trim_end().trim_start_matches("guardctl: ").to_owned();
            if runner::annotates() && !json {
                let annotation = Annotation {
                    gravity: Gravity::Warning,
                    file: None,
                    title: "guard does not watch this job".into(),
                    message: why.clone(),
                };
                println!("{}", annotation.command());
            }
            eprintln!("guardctl: this job is not watched: {why}");
            let _ = runner::hand_over("GITHUB_OUTPUT", &[("watched", "false")]);
            Ok((String::new(), json!({ "watched": false, "why": why }), 0))
        }
        done => done,
    }
}

/// The same call as root. What is below sudo is below the worker, so it is found from there as well.
fn by_sudo() -> Result<Said, Failure> {
    let own = std::env::current_exe().map_err(|source| Failure::System {
        what: "cannot tell where this program is",
        source,
    })?;
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "--", "env"]);
    for name in runner::PASSED {
        if let Some(value) = runner::variable(name) {
            sudo.arg(format!("{name}={value}"));
        }
    }
    sudo.arg(own).args(std::env::args_os().skip(1));
    let status = sudo.status().map_err(|error| {
        Failure::Forbidden(format!(
            "sudo: {error}: guardd needs root: run this as root, or let the runner's user use sudo without a password"
        ))
    })?;
    match status.code() {
        Some(0) => Ok((String::new(), json!({ "watched": true }), 0)),
        // What it had to say it has said itself.
        _ => Err(Failure::No(format!(
            "as root by sudo: {status}: see above; the runner's user must be able to use sudo without a password"
        ))),
    }
}

fn failed(what: &str, error: &std::io::Error) -> Failure {
    Failure::No(format!("{what}: {error}: nothing is watched"))
}

fn watch(args: &StartArgs) -> Result<Said, Failure> {
    let worker = worker::find(std::process::id(), args.pid)?;
    if let Some(dir) = runner::variable("GUARD_CI_DIR")
        && let Some(job) = Job::of(Path::new(&dir))
        && ask::lives(job.keeper)
        && job.worker == (worker.pid, worker.start)
    {
        return Err(Failure::Invalid(format!(
            "this job is watched already, from {dir}: one 'guardctl ci start' is enough"
        )));
    }
    let guardd = guardd::program(args.guardd.as_deref())?;
    let allow = compose::entries(&args.allow);
    let workspace = runner::workspace(args.workspace.as_deref());
    let (sources, sources_unwatched) = match sources::tracked(&workspace) {
        Ok(sources) => (Some(sources), None),
        Err(why) => (None, Some(why)),
    };
    let resolvers = if args.resolvers.is_empty() {
        compose::resolvers()
    } else {
        args.resolvers.clone()
    };
    let patterns = sources.as_ref().map(|sources| sources.patterns.as_slice());
    let composed = compose::compose(&Parts {
        given: args.policy.as_deref(),
        workspace: &workspace,
        allow: &allow,
        resolvers: &resolvers,
        sources: patterns.unwrap_or_default(),
        no_sudo: args.no_sudo,
        no_docker: args.no_docker,
        worker: &worker,
    })?;
    make_base(&args.base)?;
    clear_stale(&args.base);
    let token = random()?;
    let dir = args.base.join(format!("job-{}", &random()?[..16]));
    fs::create_dir(&dir).map_err(|error| failed(&dir.display().to_string(), &error))?;
    let config = keep::Config {
        dir: dir.clone(),
        guardd,
        mode: args.mode,
        worker_uid: process::uid(worker.pid).unwrap_or(0),
        token_hash: hash(&token),
        sources_unwatched,
        sources,
        allow,
        names: composed.names,
        policy: composed.source.clone(),
        agent: runner::job().map_or_else(|| "ci".into(), |job| format!("ci {job}")),
        worker: worker.clone(),
    };
    let ready = prepare(args, &dir, &composed.text, &token).and_then(|()| begin(&config));
    let ready = match ready {
        Ok(ready) => ready,
        Err(failure) => {
            let _ = fs::remove_dir_all(&dir);
            return Err(failure);
        }
    };
    hand_over(args, &dir, &token, &ready, sudo_user())?;
    Ok(said(args, &dir, &worker, &composed.source, &ready, &config))
}

/// Where directories of jobs are made: nobody but root may rename what is in there.
fn make_base(base: &Path) -> Result<(), Failure> {
    fs::create_dir_all(base).map_err(|error| failed(&base.display().to_string(), &error))?;
    let meta = fs::metadata(base).map_err(|error| failed(&base.display().to_string(), &error))?;
    if meta.uid() != 0 || meta.permissions().mode() & 0o022 != 0 {
        return Err(Failure::Invalid(format!(
            "--base {}: others than root can write there, and could take the journal away: give a directory of root's",
            base.display()
        )));
    }
    Ok(())
}

/// Ends and removes what a keeper has left that was killed.
fn clear_stale(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let dir = entry.path();
        let Some(job) = Job::of(&dir) else { continue };
        if !ask::lives(job.keeper) {
            let _ = guardd::end(job.guardd, &dir);
        }
    }
}

fn prepare(args: &StartArgs, dir: &Path, policy: &str, token: &str) -> Result<(), Failure> {
    let write = |path: &Path, text: &str, mode: u32| {
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| failed(&path.display().to_string(), &error))
    };
    write(&dir.join(guardd::POLICY), policy, 0o644)?;
    if args.token_file.is_none() && runner::variable("GITHUB_STATE").is_none() {
        write(&dir.join(ask::TOKEN), token, 0o600)?;
    }
    Ok(())
}

/// Starts the keeper and waits until it has made the job a session.
fn begin(config: &keep::Config) -> Result<keep::Ready, Failure> {
    let own = std::env::current_exe().map_err(|error| failed("this program's path", &error))?;
    let log = File::create(config.dir.join("keeper.log"))
        .map_err(|error| failed("the keeper's log", &error))?;
    let mut keeper = Command::new(own);
    keeper
        .args(["ci", "keep"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .current_dir("/");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if LEFT_OUT.iter().any(|prefix| text.starts_with(prefix)) {
            keeper.env_remove(&name);
        }
    }
    let mut keeper = keeper
        .spawn()
        .map_err(|error| failed("starting the keeper", &error))?;
    let text = serde_json::to_vec(config).map_err(|error| Failure::No(error.to_string()))?;
    let written = keeper.stdin.take().map(|mut stdin| stdin.write_all(&text));
    if let Some(Err(error)) = written {
        let _ = keeper.wait();
        return Err(failed("starting the keeper", &error));
    }
    let mut line = String::new();
    if let Some(stdout) = keeper.stdout.take() {
        // It ends by itself when guardd does not get ready.
        let _ = BufReader::new(stdout).take(1 << 20).read_line(&mut line);
    }
    // What was started only starts the one that stays.
    let _ = keeper.wait();
    match serde_json::from_str(&line) {
        Ok(keep::First::Ready(ready)) => Ok(ready),
        Ok(keep::First::Error(why)) => Err(Failure::No(why)),
        Err(_) => Err(Failure::No(
            "the keeper ended before it was ready: nothing is watched".into(),
        )),
    }
}

/// Who has called sudo.
fn sudo_user() -> Option<(u32, u32)> {
    let number = |name| runner::variable(name)?.parse().ok();
    Some((number("SUDO_UID")?, number("SUDO_GID")?))
}

/// Tells the runner's later steps, and the action's own post step alone, what they need.
fn hand_over(
    args: &StartArgs,
    dir: &Path,
    token: &str,
    ready: &keep::Ready,
    user: Option<(u32, u32)>,
) -> Result<(), Failure> {
    let dir = dir.to_string_lossy();
    let tell = |name, pairs: &[(&str, &str)]| {
        runner::hand_over(name, pairs).map_err(|error| {
            Failure::No(format!(
                "{name}: {error}: the job is watched, and later steps do not know where from"
            ))
        })
    };
    tell("GITHUB_ENV", &[("GUARD_CI_DIR", &*dir)])?;
    let outputs = [
        ("watched", "true"),
        ("session", &*ready.session),
        ("dir", &*dir),
    ];
    tell("GITHUB_OUTPUT", &outputs)?;
    let Some(path) = &args.token_file else {
        tell(
            "GITHUB_STATE",
            &[("guard_dir", &*dir), ("guard_token", token)],
        )?;
        return Ok(());
    };
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| {
            file.write_all(token.as_bytes())?;
            match user {
                Some((uid, gid)) => std::os::unix::fs::fchown(&file, Some(uid), Some(gid)),
                None => Ok(()),
            }
        });
    written.map_err(|error| {
        Failure::No(format!(
            "--token-file {}: {error}: the job is watched until its worker ends",
            path.display()
        ))
    })
}

fn said(
    args: &StartArgs,
    dir: &Path,
    worker: &Worker,
    policy: &str,
    ready: &keep::Ready,
    config: &keep::Config,
) -> Said {
    let mut notes = Vec::new();
    match worker.how {
        How::Guessed => notes.push(format!(
            "the worker was guessed to be {} (pid {}): what it does not start is not watched: say it with --pid",
            worker.name, worker.pid
        )),
        How::Given | How::Known => {}
    }
    if let Some(why) = &config.sources_unwatched {
        notes.push(format!("sources are not watched: {why}"));
    }
    if let Some(sources) = config
        .sources
        .as_ref()
        .filter(|sources| sources.unnamed > 0)
    {
        notes.push(format!(
            "of {} directories only what became of the files is told, not who wrote: their names mean something in a pattern",
            sources.unnamed
        ));
    }
    notes.extend(ready.degraded.iter().cloned());
    if args.mode == Mode::Audit && (args.no_sudo || args.no_docker) {
        notes.push("audit mode refuses nothing: sudo and container services are only told".into());
    }
    let mut text = format!(
        "guard watches this job: {} mode, session {}, worker {} (pid {}), policy: {policy}\n",
        args.mode.name(),
        escape::text(&ready.session),
        escape::text(&worker.name),
        worker.pid
    );
    if !ready.not_enforced.is_empty() {
        notes.push(format!(
            "this kernel leaves {} things open: the summary says which",
            ready.not_enforced.len()
        ));
    }
    for note in &notes {
        text.push_str(&format!(
            "  note: {}\n",
            runner::log_line(&escape::text(note))
        ));
    }
    let json = json!({
        "watched": true,
        "mode": args.mode.name(),
        "session": ready.session,
        "processes": ready.processes,
        "dir": dir,
        "socket": dir.join(guardd::SOCKET),
        "worker": worker,
        "policy": policy,
        "notes": notes,
        "not_enforced": ready.not_enforced,
    });
    (text, json, 0)
}

/// SHA-256, in hexadecimal digits.
pub fn hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// 32 bytes that nobody can guess, in hexadecimal digits.
fn random() -> Result<String, Failure> {
    let mut bytes = [0; 32];
    File::open(PathBuf::from("/dev/urandom"))
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| failed("/dev/urandom", &error))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
