//! The way by rustup: a nightly, which may use `-Z build-std`, and `rust-src`,
//! which it builds `core` for BPF from.
//!
//! bpf-linker is linked with the nightly's own libLLVM, so that no LLVM has to
//! be installed and the two cannot differ.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::Rustc;
use crate::{
    shell::{self, say},
    toolchain::{self, LLVM_MAJORS, Way},
};

/// The nightly that is installed when none serves; one day's, so that everyone
/// has the same. Its LLVM is 22.
pub(super) const PINNED: &str = "nightly-2026-05-20";

/// The user's own nightly, taken when it is there and serves.
const MOVING: &str = "nightly";

/// A nightly with `rust-src` that is already installed.
pub(super) fn find(tools: &Path) -> Result<Rustc> {
    let installed = installed()?;
    let mut reason = None;
    for name in [PINNED, MOVING] {
        if !installed.iter().any(|toolchain| is(toolchain, name)) {
            continue;
        }
        match serves(name) {
            Ok(major) => {
                return Ok(Rustc {
                    way: Way::Rustup,
                    toolchain: name.to_owned(),
                    rustc_bootstrap: "",
                    llvm_prefix: llvm_prefix(tools, name, major)?,
                });
            }
            Err(error) => reason = Some(error),
        }
    }
    Err(reason.unwrap_or_else(|| anyhow::anyhow!("no nightly is installed")))
}

/// Gets one. Small first: `rust-src` for a nightly that is there, then a whole
/// nightly.
pub(super) fn install() -> Result<()> {
    for name in [PINNED, MOVING] {
        if installed()?.iter().any(|toolchain| is(toolchain, name)) {
            say("setup", format!("adding rust-src to rustup's `{name}`"));
            let added = rustup(&["component", "add", "rust-src", "--toolchain", name])
                .and_then(|()| serves(name));
            match added {
                Ok(_) => return Ok(()),
                Err(error) => say("setup", format!("{error:#}")),
            }
        }
    }
    say(
        "setup",
        format!("installing rustup's `{PINNED}` with rust-src"),
    );
    rustup(&[
        "toolchain",
        "install",
        PINNED,
        "--profile",
        "minimal",
        "--component",
        "rust-src",
        "--no-self-update",
    ])
}

/// The LLVM major of the nightly `name` if it can compile for BPF.
fn serves(name: &str) -> Result<u32> {
    if !toolchain::has_core(name, Way::Rustup)? {
        bail!("`{name}` has no rust-src");
    }
    let version = toolchain::version_of(name)?;
    if !LLVM_MAJORS.contains(&version.llvm_major) {
        bail!("`{name}` has LLVM {}, too new", version.llvm_major);
    }
    Ok(version.llvm_major)
}

/// A prefix with `lib/libLLVM.so`, which is what a linker looks for; rustc ships
/// the library under its full name only.
fn llvm_prefix(tools: &Path, name: &str, major: u32) -> Result<PathBuf> {
    let sysroot = shell::output(toolchain::run_in(name, "rustc").args(["--print", "sysroot"]))?;
    let lib = Path::new(&sysroot).join("lib");
    let versioned = format!("libLLVM.so.{major}.");
    let library = fs::read_dir(&lib)
        .with_context(|| format!("{}", lib.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&versioned))
        })
        .with_context(|| format!("{}: no {versioned}* in it", lib.display()))?;

    let prefix = tools.join(format!("{name}-libllvm"));
    let links = prefix.join("lib");
    fs::create_dir_all(&links).with_context(|| format!("{}", links.display()))?;
    // The linker finds the first, the dynamic loader the second: bpf-linker's
    // rpath is this directory.
    let full_name = library.file_name().context("libLLVM has no name")?;
    for link in [OsStr::new("libLLVM.so"), full_name] {
        let link = links.join(link);
        // A link left by an older nightly of the same name.
        let _ = fs::remove_file(&link);
        symlink(&library, &link).with_context(|| format!("{}", link.display()))?;
    }
    Ok(prefix)
}

/// Names of the installed toolchains, with their host triple.
fn installed() -> Result<Vec<String>> {
    if shell::which("rustup").is_none() {
        bail!("there is no rustup: https://rustup.rs has it");
    }
    let list = shell::output(Command::new("rustup").args(["toolchain", "list", "--quiet"]))?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// Whether the installed `toolchain` is the one that `name` means: followed by
/// nothing or a host triple, which does not begin with a digit.
fn is(toolchain: &str, name: &str) -> bool {
    toolchain.strip_prefix(name).is_some_and(|rest| {
        rest.is_empty()
            || rest
                .strip_prefix('-')
                .is_some_and(|host| !host.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// One rustup, kept to a single try: it falls through to the other way, or to
/// a clear refusal, instead of waiting for a network that is not there.
fn rustup(args: &[&str]) -> Result<()> {
    shell::output(
        Command::new("rustup")
            .args(args)
            .env("RUSTUP_MAX_RETRIES", "1"),
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dated_nightly_is_not_the_moving_one() {
        assert!(is("nightly-x86_64-unknown-linux-gnu", MOVING));
        assert!(is("nightly", MOVING));
        assert!(!is("nightly-2026-05-20-x86_64-unknown-linux-gnu", MOVING));
        assert!(is("nightly-2026-05-20-x86_64-unknown-linux-gnu", PINNED));
    }
}
