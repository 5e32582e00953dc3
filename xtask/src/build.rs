//! `cargo xtask build`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{dist, setup, shell, workspace};

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
    let mut cargo = cargo("build")?;
    cargo.args(WORKSPACE).args(["--exclude", "xtask"]);
    match profile {
        Profile::Dev => {
            setup::ensure()?;
            shell::run(&mut cargo).context("build")?;
            Ok(workspace::target_dir().join("debug"))
        }
        Profile::Release => {
            let dir = given()?;
            cargo.args(["--release", "--exclude", PACKAGE]);
            shell::run(&mut cargo).context("build")?;
            Ok(dir)
        }
    }
}

/// Builds guardd and guardctl, optimised, setting up first when something is
/// missing; the directory that holds them.
///
/// They are those that the package has, which are static: what is shown, tested
/// and measured is what others get. Where this machine cannot make them they
/// are its own.
pub(crate) fn given() -> Result<PathBuf> {
    setup::ensure()?;
    let dir = workspace::target_dir().join("release");
    if let Err(error) = dist::have_compiler() {
        shell::say("build", format!("not the package's binaries: {error:#}"));
        let mut cargo = cargo("build")?;
        cargo.args(["--release", "--package", PACKAGE]);
        shell::run(&mut cargo).context("build")?;
        return Ok(dir);
    }
    let static_ones = dist::binaries()?;
    fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
    for name in dist::BINARIES {
        put(&static_ones.join(name), &dir, name)?;
    }
    Ok(dir)
}

/// Builds the programs of the tests' package as the tests use them; the directory that holds them.
pub(crate) fn fixtures() -> Result<PathBuf> {
    let mut cargo = cargo("build")?;
    // As `cargo xtask test` compiles them, and what they depend on: crates get the features that all chosen packages ask
    // for, and those that tests ask for too once there is one among the targets. The smallest stands for all.
    cargo
        .args(WORKSPACE)
        .args(["--bin", "guard-demo", "--bin", "guard-fixture-*"])
        .args(["--test", "recordings"]);
    shell::run(&mut cargo).context("build")?;
    Ok(workspace::target_dir().join("debug"))
}

/// The package of guardd and guardctl.
const PACKAGE: &str = "guard-userspace";

/// Puts a file into a directory, in the place of one that may be running.
fn put(file: &Path, dir: &Path, name: &str) -> Result<()> {
    let new = dir.join(format!("{name}.new"));
    let _ = fs::remove_file(&new);
    fs::hard_link(file, &new)
        .or_else(|_| fs::copy(file, &new).map(drop))
        .and_then(|()| fs::rename(&new, dir.join(name)))
        .with_context(|| format!("build: {}", new.display()))?;
    // Where both were the same file already, renaming does nothing.
    let _ = fs::remove_file(&new);
    Ok(())
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
