//! `cargo xtask setup`: a BPF-capable Rust toolchain, bpf-linker, and the
//! programs that tests and demo run.
//!
//! Two ways lead to a rustc that compiles for BPF: the distribution's packages
//! ([`packages`]) and a rustup nightly ([`rustup`]). What is already there
//! comes first, whichever it is, since it costs nothing; then packages where
//! the distribution has them, because they are one small, signed, dated
//! version; then rustup.

mod packages;
mod probe;
mod rustup;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    shell::{self, say},
    toolchain::{self, BPF_LINKER_VERSION, LLVM_MAJORS, Toolchain, Way},
    workspace,
};

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say whether everything is there; change nothing.
    #[arg(long)]
    check: bool,
    /// Use this way and no other.
    #[arg(long, value_name = "WAY")]
    way: Option<Way>,
}

/// A rustc that can compile for BPF, before there is a linker for it.
struct Rustc {
    way: Way,
    toolchain: String,
    rustc_bootstrap: &'static str,
    /// A directory whose `lib` holds the `libLLVM.so` that this rustc uses.
    llvm_prefix: PathBuf,
}

/// A program that tests and demo run, and what has it on Debian and Ubuntu.
const PROGRAMS: &[(&str, &str)] = &[
    ("cc", "gcc"),
    ("curl", "curl"),
    ("go", "golang-go"),
    ("grep", "grep"),
    ("cat", "coreutils"),
    ("python3", "python3"),
    ("tmux", "tmux"),
    ("dbus-daemon", "dbus"),
    // Brings runc.
    ("containerd", "containerd"),
    ("ip", "iproute2"),
    ("git", "git"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
];

/// What curl checks certificates against; it complains without it even when
/// told which certificate to trust.
const CA_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let tools = workspace::tools_dir()?;
    if args.check {
        let toolchain = recorded(&tools, args.way).context("setup")?;
        let missing = missing_programs();
        if !missing.is_empty() {
            bail!(
                "setup: {} missing: run `cargo xtask setup`",
                missing.join(", ")
            );
        }
        say("setup", describe(&toolchain));
        return Ok(());
    }
    let started = Instant::now();
    let (_, changed) = set_up(&tools, args.way)?;
    let outcome = if changed { "done" } else { "nothing to do" };
    say(
        "setup",
        format!("{outcome} ({:.1} s)", started.elapsed().as_secs_f32()),
    );
    Ok(())
}

/// The toolchain, set up first when something is missing. Silent when nothing
/// is.
pub(crate) fn ensure() -> Result<Toolchain> {
    let tools = workspace::tools_dir()?;
    if missing_programs().is_empty()
        && let Ok(toolchain) = recorded(&tools, None)
    {
        return Ok(toolchain);
    }
    say("setup", "something is missing: setting up first");
    set_up(&tools, None).map(|(toolchain, _)| toolchain)
}

/// The recorded toolchain if it still works.
fn recorded(tools: &Path, way: Option<Way>) -> Result<Toolchain> {
    let toolchain = Toolchain::load(tools)?.with_context(|| {
        format!(
            "no BPF toolchain is recorded in {}: run `cargo xtask setup`",
            tools.display()
        )
    })?;
    if let Some(way) = way
        && way != toolchain.way
    {
        bail!(
            "the recorded toolchain came by {}, not by {}",
            toolchain.way.as_str(),
            way.as_str()
        );
    }
    toolchain
        .check()
        .context("the recorded toolchain does not serve")?;
    Ok(toolchain)
}

fn set_up(tools: &Path, way: Option<Way>) -> Result<(Toolchain, bool)> {
    if !cfg!(target_os = "linux") {
        bail!(
            "setup: this is {}, and guard's programs run in the Linux kernel: use a Linux machine",
            std::env::consts::OS
        );
    }
    fs::create_dir_all(tools).with_context(|| format!("setup: {}", tools.display()))?;
    // Two setups at once would build the linker twice and race for the record.
    let _lock = lock(tools)?;

    let mut changed = install_programs()?;
    let toolchain = match recorded(tools, way) {
        Ok(toolchain) => toolchain,
        Err(error) => {
            // Nothing recorded is what a first run finds: not worth a word.
            if !matches!(Toolchain::load(tools), Ok(None)) {
                say("setup", format!("setting up anew: {error:#}"));
            }
            changed = true;
            let rustc = rustc(tools, way)?;
            let toolchain = with_linker(tools, rustc)?;
            probe::run(tools, &toolchain)?;
            toolchain.save(tools)?;
            toolchain
        }
    };
    say("setup", describe(&toolchain));
    Ok((toolchain, changed))
}

fn describe(toolchain: &Toolchain) -> String {
    format!(
        "BPF toolchain by {}: {} as `{}`, LLVM {}, bpf-linker {BPF_LINKER_VERSION} in {}",
        toolchain.way.as_str(),
        toolchain.rustc,
        toolchain.name,
        toolchain.llvm_major,
        toolchain.linker_dir.display()
    )
}

fn lock(tools: &Path) -> Result<File> {
    let path = tools.join("lock");
    let what = || format!("setup: {}", path.display());
    let file = File::create(&path).with_context(what)?;
    if file.try_lock().is_err() {
        say("setup", "another setup is running: waiting for it");
        file.lock().with_context(what)?;
    }
    Ok(file)
}

/// A BPF-capable rustc, found or installed.
fn rustc(tools: &Path, way: Option<Way>) -> Result<Rustc> {
    let wanted = |candidate| way.is_none_or(|way| way == candidate);

    if wanted(Way::Packages) {
        match packages::find() {
            Ok(rustc) => {
                say(
                    "setup",
                    "using the distribution's rustc: it is already installed",
                );
                return Ok(rustc);
            }
            Err(error) => say("setup", format!("packages, as it stands: {error:#}")),
        }
    }
    if wanted(Way::Rustup) {
        match rustup::find(tools) {
            Ok(rustc) => {
                say(
                    "setup",
                    format!(
                        "using rustup's `{}`: it is already installed",
                        rustc.toolchain
                    ),
                );
                return Ok(rustc);
            }
            Err(error) => say("setup", format!("rustup, as it stands: {error:#}")),
        }
    }
    if wanted(Way::Packages) {
        match packages::install().and_then(|()| packages::find()) {
            Ok(rustc) => {
                say("setup", "using the distribution's rustc: installed now");
                return Ok(rustc);
            }
            Err(error) => say("setup", format!("packages will not do: {error:#}")),
        }
    }
    if wanted(Way::Rustup) {
        match rustup::install().and_then(|()| rustup::find(tools)) {
            Ok(rustc) => {
                say(
                    "setup",
                    format!("using rustup's `{}`: installed now", rustc.toolchain),
                );
                return Ok(rustc);
            }
            Err(error) => say("setup", format!("rustup will not do: {error:#}")),
        }
    }
    bail!(
        "setup: no BPF-capable rustc, for the reasons above: needed is either the packages {} and \
         {} (Debian), or rustup with `{}` and its component rust-src",
        packages::RUSTC,
        packages::CORE,
        rustup::PINNED
    );
}

/// Adds bpf-linker, built from source against the LLVM of that rustc: bitcode
/// is read by the very version that wrote it.
fn with_linker(tools: &Path, rustc: Rustc) -> Result<Toolchain> {
    let version = toolchain::version_of(&rustc.toolchain)?;
    let llvm_major = version.llvm_major;
    if !LLVM_MAJORS.contains(&llvm_major) {
        bail!(
            "setup: {} has LLVM {llvm_major}: bpf-linker {BPF_LINKER_VERSION} knows LLVM {} to {}: \
             use another rustc (`cargo xtask setup --way rustup`)",
            version.line,
            LLVM_MAJORS.start(),
            LLVM_MAJORS.end()
        );
    }

    // One root for each toolchain and LLVM, so that going from one way to the
    // other and back builds nothing twice.
    let root = tools.join(format!("{}-llvm-{llvm_major}", rustc.toolchain));
    let linker_dir = root.join("bin");
    let toolchain = Toolchain {
        way: rustc.way,
        name: rustc.toolchain,
        rustc_bootstrap: rustc.rustc_bootstrap.to_owned(),
        linker_dir,
        rustc: version.line,
        llvm_major,
    };
    if toolchain::check_linker(&toolchain.linker_dir).is_ok() {
        return Ok(toolchain);
    }

    say(
        "setup",
        format!(
            "building bpf-linker {BPF_LINKER_VERSION} against LLVM {llvm_major} of {} (about a minute)",
            rustc.llvm_prefix.display()
        ),
    );
    let started = Instant::now();
    let mut install = shell::cargo();
    install
        .args(["install", "bpf-linker", "--version", BPF_LINKER_VERSION])
        .args(["--locked", "--force", "--quiet", "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm_major}")])
        .arg("--root")
        .arg(&root)
        .env("LLVM_PREFIX", &rustc.llvm_prefix)
        // Its build is its own: flags meant for guard are not meant for it.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    shell::run(&mut install).context("setup: building bpf-linker")?;
    toolchain::check_linker(&toolchain.linker_dir).context("setup: the bpf-linker just built")?;
    say(
        "setup",
        format!(
            "bpf-linker built in {:.0} s",
            started.elapsed().as_secs_f32()
        ),
    );
    Ok(toolchain)
}

/// A program that only some commands need, installed with apt when it is not there.
pub(crate) fn have_program(program: &str, package: &str) -> Result<()> {
    if shell::which(program).is_some() {
        return Ok(());
    }
    packages::apt_install(&[package])
        .with_context(|| format!("{program} missing: install by the means of this system"))
}

/// The programs that are not there, by name.
fn missing_programs() -> Vec<&'static str> {
    let mut missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| shell::which(program).is_none())
        .map(|&(program, _)| program)
        .collect();
    if !CA_BUNDLES.iter().any(|bundle| Path::new(bundle).exists()) {
        missing.push("ca-certificates");
    }
    missing
}

/// Installs what is missing of them; whether anything was.
fn install_programs() -> Result<bool> {
    let missing = missing_programs();
    if missing.is_empty() {
        return Ok(false);
    }
    let names: Vec<_> = missing
        .iter()
        .map(|&missing| {
            PROGRAMS
                .iter()
                .find(|(program, _)| *program == missing)
                .map_or(missing, |&(_, package)| package)
        })
        .collect();
    packages::apt_install(&names).with_context(|| {
        format!(
            "setup: {} missing: install by the means of this system",
            missing.join(", ")
        )
    })?;
    say("setup", format!("installed {}", names.join(", ")));
    Ok(true)
}
