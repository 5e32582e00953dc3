//! `cargo xtask demo`.
//!
//! The demo itself is a program of the tests' package, `guard-demo`: it needs more than xtask may
//! depend on, and only the finished program has to run as root.

use std::{env, os::unix::process::CommandExt as _};

use anyhow::{Context as _, Result};

use crate::{build, shell, sudo, workspace};

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Passed on to the demo.
    #[arg(last = true)]
    rest: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let bin_dir = match env::var_os(workspace::BIN_DIR_VAR).filter(|dir| !dir.is_empty()) {
        Some(dir) => std::path::absolute(dir).context(workspace::BIN_DIR_VAR)?,
        None => build::given()?,
    };
    let mut command = sudo::command(
        "the demo",
        &build::fixtures()?.join("guard-demo"),
        [(workspace::BIN_DIR_VAR, bin_dir.as_os_str())],
    )?;
    if args.json {
        command.arg("--json");
    }
    command.args(&args.rest);
    // In our place, so that Ctrl-C waits for the demo to clean up and its exit status is ours.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run `{}`", shell::shown(&command)))
}
