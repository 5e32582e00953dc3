//! What guard costs: four kinds of call under six conditions, in one run, as ratios.
//!
//! `cargo xtask bench` builds everything and starts this as root. Every round goes through all
//! conditions, each next one in the opposite order, and a ratio is that of two samples of the same
//! round: so what changes over minutes (other programs, the host of a virtual machine) is in both or
//! in neither. Figures never make it fail; it fails when a condition could not be measured.

mod btf;
mod empty;
mod guard;
mod interrupt;
mod report;
mod rounds;
mod worker;

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use serde_json::json;

/// Names the directory of the programs that are measured.
const BIN_DIR_VAR: &str = "GUARD_BIN_DIR";

/// The base name of the program whose command line the policy labels.
const LABELLED_NAME: &str = "guard-bench-labelled";

/// Measure what guard costs, as ratios.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    json: bool,
    /// How often each condition is measured [default: 15, with --quick 4].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Fewer rounds: to see that it works, not to compare figures.
    #[arg(long)]
    quick: bool,
    /// Measure this call alone; may be given several times. For working on one of them.
    #[arg(long, value_name = "CALL", value_parser = Call::parse)]
    only: Vec<Call>,
    /// Put the table into this Markdown file, between its markers.
    #[arg(long, value_name = "FILE", conflicts_with = "only")]
    write: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// The measured process.
    #[command(hide = true)]
    Worker(worker::Args),
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Getppid,
    Open,
    Connect,
    Exec,
}

const CALLS: [Call; 4] = [Call::Getppid, Call::Open, Call::Connect, Call::Exec];

impl Call {
    fn parse(word: &str) -> Result<Self, String> {
        let known = CALLS.into_iter().find(|call| call.word() == word);
        known.ok_or_else(|| format!("one of {}", CALLS.map(Self::word).join(", ")))
    }

    /// The word in JSON and between bench and worker.
    const fn word(self) -> &'static str {
        match self {
            Self::Getppid => "getppid",
            Self::Open => "open",
            Self::Connect => "connect",
            Self::Exec => "exec",
        }
    }

    /// As people read it.
    const fn title(self) -> &'static str {
        match self {
            Self::Getppid => "getppid",
            Self::Open => "open+close",
            Self::Connect => "connect+close",
            Self::Exec => "fork+exec+wait",
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Command::Worker(args)) = &args.command {
        return match worker::run(args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("guard-bench worker: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
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
                eprintln!("guard-bench: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether every condition was measured.
fn run(args: &Args) -> Result<bool> {
    if !rustix::process::geteuid().is_root() {
        bail!("not root: guardd loads kernel programs: use `cargo xtask bench`, or sudo");
    }
    let bin_dir = bin_dir()?;
    for program in ["guardd", "guardctl"] {
        if !bin_dir.join(program).is_file() {
            bail!(
                "{program}: not in {}: run `cargo xtask build --release`",
                bin_dir.display()
            );
        }
    }
    let rounds = args.rounds.unwrap_or(if args.quick { 4 } else { 15 });
    let results = rounds::measure(&bin_dir, rounds.into(), args.quick, &args.only)?;
    let report = report::Report::new(results);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report.json())?);
    } else {
        print!("{}", report.text());
    }
    if let Some(file) = &args.write {
        report
            .write(file)
            .with_context(|| format!("{}", file.display()))?;
    }
    Ok(report.is_complete())
}

/// `$GUARD_BIN_DIR`, else where this program is: they are built together.
fn bin_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os(BIN_DIR_VAR).filter(|dir| !dir.is_empty()) {
        return std::path::absolute(&dir).context(BIN_DIR_VAR);
    }
    let program = env::current_exe().context("/proc/self/exe")?;
    Ok(program.parent().unwrap_or(Path::new("/")).to_owned())
}
