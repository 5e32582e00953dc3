//! The PocketOS incident, played four times against guard: see [`act::ACTS`].
//!
//! `cargo xtask demo` builds everything and starts this as root. Each act has its own scratch
//! project, policy, socket, state directory, guardd and API server; nothing outside a temporary
//! directory is written, and nothing is left running, whichever way the demo ends.

mod act;
mod api;
mod event;
mod guard;
mod interrupt;
mod process;
mod project;
mod report;

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use serde_json::json;

use crate::{
    act::{ACTS, Report},
    report::Narrator,
};

/// Names the directory of the programs that the demo runs.
const BIN_DIR_VAR: &str = "GUARD_BIN_DIR";

/// Replay the incident guard was written for, against a local server.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Print one JSON document and nothing else.
    #[arg(long)]
    json: bool,
    /// Play only this act.
    #[arg(long, value_name = "NAME", value_parser = ACTS.map(|plan| plan.name))]
    act: Option<String>,
    /// Leave the scratch directory, with the policies, journals and logs, and say where it is.
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    interrupt::watch();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            if args.json {
                let message = format!("{error:#}");
                println!(
                    "{}",
                    json!({ "error": { "code": "failed", "message": message } })
                );
            } else {
                eprintln!("guard-demo: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether every act ended as it should.
fn run(args: &Args) -> Result<bool> {
    if !rustix::process::geteuid().is_root() {
        bail!("not root: guardd loads kernel programs: use `cargo xtask demo`, or sudo");
    }
    let programs = Programs::find()?;
    for program in ["curl", "grep", "cat", "sh"] {
        if !is_in_path(program) {
            bail!("{program}: not installed: the agent runs the real one: install it");
        }
    }
    process::adopt_orphans()?;
    let mut scratch = tempfile::Builder::new()
        .prefix("guard-demo-")
        .tempdir()
        .context("scratch directory")?;
    if args.keep {
        scratch.disable_cleanup(true);
        eprintln!(
            "guard-demo: everything stays in {}",
            scratch.path().display()
        );
    }
    // Events name files by their real paths.
    let root = scratch.path().canonicalize().context("scratch directory")?;

    let started = Instant::now();
    let mut narrator = Narrator::new(args.json);
    narrator.opening();
    let mut reports = Vec::new();
    let acts = ACTS
        .iter()
        .filter(|plan| args.act.as_ref().is_none_or(|act| act == plan.name));
    let acts: Vec<_> = acts.collect();
    for (number, plan) in acts.iter().enumerate() {
        narrator.act(number + 1, acts.len(), plan);
        let dir = root.join(plan.name);
        std::fs::create_dir(&dir).with_context(|| format!("{}", dir.display()))?;
        let played = act::play(plan, &programs, &dir, &mut narrator);
        // Whatever happened, it is over.
        let strays = process::kill_strays(&[])?;
        let mut report = played.with_context(|| format!("act {}", plan.name))?;
        if !strays.is_empty() {
            report.ok = false;
            report
                .problems
                .push(format!("left behind: {}", strays.join(", ")));
        }
        reports.push(report);
    }
    narrator.summary(&reports, started.elapsed().as_secs_f64());
    let ok = reports.iter().all(|report| report.ok);
    if args.json {
        println!("{}", document(&reports, ok, started)?);
    }
    Ok(ok)
}

/// What `--json` prints.
fn document(reports: &[Report], ok: bool, started: Instant) -> Result<String> {
    let kernel = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let document = json!({
        "v": 1,
        "ok": ok,
        "kernel": kernel,
        "duration_ms": duration_ms,
        "volumes": api::VOLUMES,
        "backups": api::BACKUPS,
        "acts": reports,
    });
    Ok(serde_json::to_string_pretty(&document)?)
}

/// What the demo runs of this workspace.
struct Programs {
    guardd: PathBuf,
    guardctl: PathBuf,
    api: PathBuf,
    agent: PathBuf,
}

impl Programs {
    /// guardd and guardctl are in `$GUARD_BIN_DIR`, else where this program is; the others are beside it.
    fn find() -> Result<Self> {
        let program = env::current_exe().context("/proc/self/exe")?;
        let own = program.parent().unwrap_or(Path::new("/"));
        let given = match env::var_os(BIN_DIR_VAR).filter(|dir| !dir.is_empty()) {
            Some(dir) => std::path::absolute(&dir).context(BIN_DIR_VAR)?,
            None => own.to_owned(),
        };
        let find = |dir: &Path, name: &str| {
            let path = dir.join(name);
            if !path.is_file() {
                bail!("{}: not there: run `cargo xtask demo`", path.display());
            }
            Ok(path)
        };
        Ok(Self {
            guardd: find(&given, "guardd")?,
            guardctl: find(&given, "guardctl")?,
            api: find(own, "guard-fixture-api")?,
            agent: find(own, guard::AGENT)?,
        })
    }
}

fn is_in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
