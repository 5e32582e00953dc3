//! `cargo xtask bench`.
//!
//! As with the demo, the bench itself is a program of the tests' package, `guard-bench`, of which
//! only the finished one has to run as root.

use std::{env, fs::OpenOptions, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{
    build::{self, Profile},
    shell, sudo, workspace,
};

/// Where `--write` puts the table.
const TABLE: &str = "docs/performance.md";

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// How often each condition is measured.
    #[arg(long, value_name = "N")]
    rounds: Option<u16>,
    /// Fewer rounds: to see that it works, not to compare figures.
    #[arg(long)]
    quick: bool,
    /// Measure this call alone (getppid, open, connect, exec); may be given several times.
    #[arg(long, value_name = "CALL")]
    only: Vec<String>,
    /// Put the table into docs/performance.md.
    #[arg(long)]
    write: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let bin_dir = match env::var_os(workspace::BIN_DIR_VAR).filter(|dir| !dir.is_empty()) {
        Some(dir) => std::path::absolute(dir).context(workspace::BIN_DIR_VAR)?,
        None => build::build(Profile::Release)?,
    };
    let mut command = sudo::command(
        "the bench",
        &bin_dir.join("guard-bench"),
        [(workspace::BIN_DIR_VAR, bin_dir.as_os_str())],
    )?;
    if args.json {
        command.arg("--json");
    }
    if args.quick {
        command.arg("--quick");
    }
    if let Some(rounds) = args.rounds {
        command.args(["--rounds", &rounds.to_string()]);
    }
    for call in &args.only {
        command.args(["--only", call]);
    }
    if args.write {
        let table = workspace::root().join(TABLE);
        // Made here, so that it does not come to belong to root.
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&table)
            .with_context(|| format!("{}", table.display()))?;
        command.arg("--write").arg(table);
    }
    // In our place, so that Ctrl-C waits for the bench to clean up and its exit status is ours.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run `{}`", shell::shown(&command)))
}
