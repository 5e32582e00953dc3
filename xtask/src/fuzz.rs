//! `cargo xtask fuzz`: inputs changed at random for every parser of what comes from outside, for a fixed time.

use anyhow::Result;

use crate::{build, shell};

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds for each target.
    #[arg(long, default_value_t = 10, value_name = "N")]
    seconds: u64,
    /// Only this one: record, dns, name-server, quic, http, request, reply, policy, command, btf, secrets or journal.
    target: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut cargo = build::cargo("run")?;
    // Without optimisation overflows are checked.
    cargo
        .args([
            "--quiet",
            "--package",
            "guard-userspace",
            "--example",
            "fuzz",
            "--",
        ])
        .arg(args.seconds.to_string())
        .args(&args.target);
    shell::run(&mut cargo)
}
