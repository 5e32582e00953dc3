//! The way by packages: Debian's `rustc-web`, built for its browsers, comes
//! with a prebuilt `core` for BPF in `libstd-rust-web-dev-bpf`.
//!
//! It lives in `/usr`, where it shadows nothing: rustup's programs come first
//! in `PATH`, and reach it under the name [`TOOLCHAIN`].

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::Rustc;
use crate::{
    shell::{self, say},
    sudo,
    toolchain::{self, Way},
};

pub(super) const RUSTC: &str = "rustc-web";
pub(super) const CORE: &str = "libstd-rust-web-dev-bpf";

/// The name under which rustup knows it.
const TOOLCHAIN: &str = "guard-bpf";

/// Where the package puts its toolchain.
const PREFIX: &str = "/usr";

/// The oldest cargo that reads this workspace (edition 2024, resolver 3).
const OLDEST_CARGO: (u32, u32) = (1, 85);

/// Lets a stable rustc use unstable features, in this one crate. `1` would
/// serve as well but makes aya-build ask for `-Z build-std`, which the prebuilt
/// `core` makes needless and the package cannot do.
const RUSTC_BOOTSTRAP: &str = "aya_ebpf";

/// The packages' rustc, if all of it is installed.
pub(super) fn find() -> Result<Rustc> {
    let rustc = Path::new(PREFIX).join("bin/rustc");
    if !rustc.is_file() {
        bail!("{}: not there", rustc.display());
    }
    link()?;
    if !toolchain::has_core(TOOLCHAIN, Way::Packages)? {
        bail!("{}: no prebuilt `core` for BPF", rustc.display());
    }
    Ok(Rustc {
        way: Way::Packages,
        toolchain: TOOLCHAIN.to_owned(),
        rustc_bootstrap: RUSTC_BOOTSTRAP,
        llvm_prefix: llvm_prefix(toolchain::version_of(TOOLCHAIN)?.llvm_major)?,
    })
}

/// Installs it with apt.
pub(super) fn install() -> Result<()> {
    apt_install(&[RUSTC, CORE])?;
    link()?;
    // Which LLVM it is, is known only now: the package keeps its name when it
    // moves to another.
    let major = toolchain::version_of(TOOLCHAIN)?.llvm_major;
    if llvm_prefix(major).is_err() {
        apt_install(&[&format!("llvm-{major}-dev")])?;
    }
    Ok(())
}

/// Debian's prefix of one LLVM, if what bpf-linker links with is in it.
fn llvm_prefix(major: u32) -> Result<PathBuf> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    let library = prefix.join("lib/libLLVM.so");
    if !library.exists() {
        bail!(
            "{}: not there: package llvm-{major}-dev has it",
            library.display()
        );
    }
    Ok(prefix)
}

/// Makes the packages' rustc known to rustup. Without rustup, the rustc in
/// `PATH` must be that rustc.
fn link() -> Result<()> {
    if shell::which("rustup").is_none() {
        let rustc = shell::which("rustc").and_then(|rustc| fs::canonicalize(rustc).ok());
        if rustc.is_none_or(|rustc| !rustc.starts_with(PREFIX)) {
            bail!(
                "there is no rustup to choose a toolchain with, and the rustc in PATH is not the \
                 one in {PREFIX}/bin: put {PREFIX}/bin first in PATH"
            );
        }
        return check_cargo(Path::new("cargo"));
    }
    // rustup takes a linked toolchain's own cargo when there is one.
    let cargo = Path::new(PREFIX).join("bin/cargo");
    if cargo.is_file() {
        check_cargo(&cargo)?;
    }
    let home = shell::output(Command::new("rustup").args(["show", "home"]))?;
    let linked = Path::new(&home).join("toolchains").join(TOOLCHAIN);
    match fs::read_link(&linked) {
        Ok(target) if target == Path::new(PREFIX) => Ok(()),
        Ok(target) => bail!(
            "rustup toolchain {TOOLCHAIN}: is a link to {}: not ours: `rustup toolchain uninstall \
             {TOOLCHAIN}` makes room",
            target.display()
        ),
        Err(_) => {
            shell::output(Command::new("rustup").args(["toolchain", "link", TOOLCHAIN, PREFIX]))?;
            say(
                "setup",
                format!("linked {PREFIX} as rustup toolchain {TOOLCHAIN}"),
            );
            Ok(())
        }
    }
}

fn check_cargo(cargo: &Path) -> Result<()> {
    let version = shell::output(Command::new(cargo).arg("--version"))
        .context("no cargo for the distribution's rustc: install cargo-web")?;
    let (major, minor) = OLDEST_CARGO;
    if cargo_version(&version).is_none_or(|found| found < OLDEST_CARGO) {
        bail!(
            "{}: is `{version}`, {major}.{minor} is the oldest that serves: install cargo-web, or \
             rustup and remove that cargo",
            cargo.display()
        );
    }
    Ok(())
}

fn cargo_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.strip_prefix("cargo ")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Installs `packages`, updating apt's lists first when they do not know them.
/// Never removes a package to make room.
pub(super) fn apt_install(packages: &[&str]) -> Result<()> {
    if shell::which("apt-get").is_none() {
        bail!("no apt-get: this is not Debian or Ubuntu");
    }
    let mut updated = false;
    if let Some(unknown) = unknown_package(packages)? {
        say(
            "setup",
            format!("apt does not know {unknown}: updating its lists"),
        );
        sudo::available("apt-get update")?;
        apt(&["update"])?;
        updated = true;
        if let Some(unknown) = unknown_package(packages)? {
            bail!("no package {unknown} in this distribution");
        }
    }
    sudo::available(&format!("apt-get install {}", packages.join(" ")))?;
    let mut args = vec!["install", "-y", "--no-install-recommends", "--no-remove"];
    args.extend(packages);
    say("setup", format!("installing {}", packages.join(", ")));
    let Err(error) = apt(&args) else {
        return Ok(());
    };
    if updated {
        return Err(error);
    }
    // An old list names files that have left the archive since.
    say("setup", format!("{error:#}: once more after an update"));
    apt(&["update"])?;
    apt(&args)
}

/// The first of `packages` that apt has no version of.
fn unknown_package<'a>(packages: &[&'a str]) -> Result<Option<&'a str>> {
    for package in packages {
        let policy = shell::output(
            Command::new("apt-cache")
                .args(["policy", package])
                .env("LC_ALL", "C"),
        )?;
        if policy.is_empty() || policy.contains("Candidate: (none)") {
            return Ok(Some(package));
        }
    }
    Ok(None)
}

/// One apt-get, as root. Waits for another one to finish rather than fail, and
/// prints only what goes wrong.
fn apt(args: &[&str]) -> Result<()> {
    let mut command = sudo::command(
        &format!("apt-get {}", args[0]),
        Path::new("apt-get"),
        [("DEBIAN_FRONTEND", OsStr::new("noninteractive"))],
    )?;
    command
        .args([
            "-qq",
            "-o",
            "DPkg::Lock::Timeout=300",
            "-o",
            "Dpkg::Use-Pty=0",
        ])
        .args(args);
    if args[0] == "update" {
        // Without it a mirror that cannot be reached is only a warning.
        command.args(["--error-on=any"]);
    }
    command.stdout(std::process::Stdio::null());
    shell::run(&mut command).context("apt-get")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_versions_compare_by_number() {
        assert_eq!(cargo_version("cargo 1.96.0"), Some((1, 96)));
        assert!(cargo_version("cargo 1.65.0 (abc)").expect("version") < OLDEST_CARGO);
        assert_eq!(cargo_version("nonsense"), None);
    }
}
