//! `cargo xtask build`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{setup, shell, workspace};

/// Arguments of `cargo xtask build`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimized, as `demo`, `test` and `bench` use it.
    #[arg(long, short)]
    release: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let dir = build(if args.release {
        Profile::Release
    } else {
        Profile::Dev
    })?;
    shell::say("build", format!("binaries in {}", dir.display()));
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

/// Builds everything but xtask itself, setting up first when something is
/// missing; the directory that holds the binaries.
pub(crate) fn build(profile: Profile) -> Result<PathBuf> {
    setup::ensure()?;
    let mut cargo = cargo("build")?;
    cargo.args(WORKSPACE).args(["--exclude", "xtask"]);
    let dir = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            cargo.arg("--release");
            "release"
        }
    };
    shell::run(&mut cargo).context("build")?;
    Ok(workspace::target_dir().join(dir))
}

/// The packages that are compiled for this machine. guard-ebpf is not one: the
/// build script of guard-userspace compiles it for the kernel.
pub(crate) const WORKSPACE: [&str; 3] = ["--workspace", "--exclude", "guard-ebpf"];

/// A cargo whose build scripts find the toolchain that `setup` recorded.
pub(crate) fn cargo(subcommand: &str) -> Result<std::process::Command> {
    let mut cargo = shell::cargo();
    cargo
        .arg(subcommand)
        .env(workspace::TOOLS_VAR, workspace::tools_dir()?);
    Ok(cargo)
}
