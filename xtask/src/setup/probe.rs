//! A kernel program of one instruction, compiled and linked before the
//! toolchain is recorded: a linker that starts is not yet one that reads what
//! this rustc writes.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    shell,
    toolchain::{BPF_TARGET, Toolchain, Way},
};

const MANIFEST: &str = r#"[package]
name = "probe"
edition = "2024"

[profile.release]
panic = "abort"

[workspace]
"#;

const PROGRAM: &str = r#"#![no_std]
#![no_main]

#[unsafe(no_mangle)]
#[unsafe(link_section = "socket")]
extern "C" fn probe() -> i32 {
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
"#;

pub(super) fn run(tools: &Path, toolchain: &Toolchain) -> Result<()> {
    let dir = tools.join("probe");
    build(&dir, toolchain).with_context(|| {
        format!(
            "setup: `{}` and the bpf-linker in {} do not work together",
            toolchain.name,
            toolchain.linker_dir.display()
        )
    })?;
    // Only a success is cleared away: what failed is there to be looked at.
    fs::remove_dir_all(&dir).with_context(|| format!("setup: {}", dir.display()))
}

fn build(dir: &Path, toolchain: &Toolchain) -> Result<()> {
    let source = dir.join("src");
    fs::create_dir_all(&source)
        .and_then(|()| fs::write(dir.join("Cargo.toml"), MANIFEST))
        .and_then(|()| fs::write(source.join("main.rs"), PROGRAM))
        .with_context(|| format!("{}", dir.display()))?;
    let mut cargo = toolchain.command("cargo");
    cargo
        .args(["build", "--release", "--target", BPF_TARGET])
        .args((toolchain.way == Way::Rustup).then_some("-Zbuild-std=core"))
        .arg("--target-dir")
        .arg(dir.join("target"))
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            "-Cdebuginfo=2\x1f-Clink-arg=--btf",
        )
        .current_dir(dir);
    toolchain.apply(&mut cargo)?;
    shell::output(&mut cargo).map(drop)
}
