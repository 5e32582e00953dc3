//! `cargo xtask lint`: everything a change must pass before it is reviewed,
//! apart from the tests.

use anyhow::{Result, bail};

use crate::{
    build::{self, WORKSPACE},
    setup,
    shell::{self, say},
    toolchain::{BPF_TARGET, Toolchain, Way},
};

/// Arguments of `cargo xtask lint`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Format the code instead of complaining about it.
    #[arg(long)]
    fix: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    // Clippy compiles build scripts too, and one of them builds for BPF.
    let toolchain = setup::ensure()?;

    let mut format = shell::cargo();
    format.args(["fmt", "--all"]);
    if !args.fix {
        format.arg("--check");
    }
    let mut clippy = build::cargo("clippy")?;
    clippy
        .args(WORKSPACE)
        .args(["--all-targets", "--", "-D", "warnings"]);
    let mut doc = build::cargo("doc")?;
    doc.args(WORKSPACE)
        .args(["--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "-D warnings");

    // All of them run, so that one round shows all there is to mend.
    let mut failed = Vec::new();
    for (name, mut command) in [("fmt", format), ("clippy", clippy), ("doc", doc)] {
        say("lint", name);
        if let Err(error) = shell::run(&mut command) {
            say("lint", format!("{error:#}"));
            failed.push(name);
        }
    }
    if let Err(error) = clippy_ebpf(&toolchain) {
        say("lint", format!("{error:#}"));
        failed.push("clippy of guard-ebpf");
    }
    if let Err(error) = deny() {
        say("lint", format!("{error:#}"));
        failed.push("deny");
    }
    if !failed.is_empty() {
        bail!("lint: failed: {}", failed.join(", "));
    }
    say("lint", "clean");
    Ok(())
}

/// Clippy with the compiler that guard-ebpf is built with: only it has a `core`
/// for the target.
fn clippy_ebpf(toolchain: &Toolchain) -> Result<()> {
    let clippy = toolchain.command("cargo-clippy").arg("--version").output();
    if !clippy.is_ok_and(|output| output.status.success()) {
        let remedy = match toolchain.way {
            Way::Packages => "apt-get install rust-web-clippy".to_owned(),
            Way::Rustup => format!("rustup component add clippy --toolchain {}", toolchain.name),
        };
        say(
            "lint",
            format!(
                "clippy of guard-ebpf: skipped: `{}` has none: {remedy}",
                toolchain.name
            ),
        );
        return Ok(());
    }
    say("lint", "clippy of guard-ebpf");
    let mut clippy = toolchain.command("cargo");
    clippy
        .args(["clippy", "--package", "guard-ebpf", "--release"])
        .args(["--target", BPF_TARGET])
        .args((toolchain.way == Way::Rustup).then_some("-Zbuild-std=core"))
        // Beside the target directory of the other compiler, not in it.
        .arg("--target-dir")
        .arg(crate::workspace::target_dir().join("clippy-ebpf"))
        .args(["--", "-D", "warnings"])
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        );
    toolchain.apply(&mut clippy)?;
    shell::run(&mut clippy)
}

fn deny() -> Result<()> {
    if shell::which("cargo-deny").is_none() {
        say(
            "lint",
            "deny: skipped: not installed: cargo install --locked cargo-deny",
        );
        return Ok(());
    }
    say("lint", "deny");
    let mut deny = shell::cargo();
    deny.args(["deny", "check"]);
    shell::run(&mut deny)
}
