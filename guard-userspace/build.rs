//! Builds the kernel programs with the BPF-capable toolchain that `cargo xtask setup` recorded.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain};

fn main() -> Result<()> {
    let manifest =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("cargo sets CARGO_MANIFEST_DIR")?);
    let workspace = manifest
        .parent()
        .context("the package lies in the workspace")?
        .to_owned();
    println!("cargo:rerun-if-env-changed=GUARD_TOOLS");
    println!(
        "cargo:rerun-if-changed={}",
        workspace.join("guard-common/src").display()
    );
    println!("cargo:rerun-if-changed=build.rs");
    let tools = env::var_os("GUARD_TOOLS").map_or_else(|| workspace.join(".tools"), PathBuf::from);
    let stamp = tools.join("bpf-toolchain");
    println!("cargo:rerun-if-changed={}", stamp.display());
    let text = match fs::read_to_string(&stamp) {
        Ok(text) => text,
        Err(error) => bail!(
            "{}: {error}: run `cargo xtask setup` first",
            stamp.display()
        ),
    };
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(str::trim)
            .unwrap_or("")
            .to_owned()
    };
    let toolchain = value("toolchain");
    if toolchain.is_empty() {
        bail!(
            "{}: no toolchain is recorded: run `cargo xtask setup` again",
            stamp.display()
        );
    }
    prefer_linker(Path::new(&value("linker_dir")))?;
    let bootstrap = value("rustc_bootstrap");
    if !bootstrap.is_empty() {
        // SAFETY: this build script has one thread. The names are those of the crates that use BPF
        // assembler, which a stable compiler only gives them on request.
        unsafe { env::set_var("RUSTC_BOOTSTRAP", format!("{bootstrap},guard_ebpf")) };
    }
    let root = workspace.join("guard-ebpf");
    let root = root.to_str().context("the workspace path is UTF-8")?;
    let features: &[&str] = if env::var_os("CARGO_FEATURE_KERNEL_LOG").is_some() {
        &["log"]
    } else {
        &[]
    };
    aya_build::build_ebpf(
        [Package {
            name: "guard-ebpf",
            root_dir: root,
            features,
            ..Package::default()
        }],
        Toolchain::Custom(&toolchain),
    )
}

fn prefer_linker(dir: &Path) -> Result<()> {
    if dir.as_os_str().is_empty() {
        return Ok(());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let joined = env::join_paths(std::iter::once(dir.to_owned()).chain(env::split_paths(&path)))?;
    // SAFETY: this build script has one thread.
    unsafe { env::set_var("PATH", joined) };
    Ok(())
}
