//! The BPF toolchain that `setup` found, as recorded in `<tools>/bpf-toolchain`.
//!
//! The record is plain `key=value` lines so that the build script of
//! `guard-userspace` can read it without a parser: `#` begins a comment line,
//! unknown keys are to be ignored.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{shell, workspace};

/// The bpf-linker release that is built; it decides which LLVM majors serve.
pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";

/// LLVM majors that bpf-linker 0.13.0 has a feature for.
pub(crate) const LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;

/// The target of kernel programs, of the byte order of this machine.
pub(crate) const BPF_TARGET: &str = if cfg!(target_endian = "big") {
    "bpfeb-unknown-none"
} else {
    "bpfel-unknown-none"
};

const RECORD: &str = "bpf-toolchain";

/// How the BPF-capable rustc came to be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// The distribution's rustc with its prebuilt `core` for BPF.
    Packages,
    /// A rustup nightly with `rust-src`, which builds `core` itself.
    Rustup,
}

impl Way {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Packages => "packages",
            Self::Rustup => "rustup",
        }
    }
}

/// A BPF-capable Rust toolchain and the linker that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    pub(crate) way: Way,
    /// What `rustup run` is given. On a machine without rustup there is only
    /// the rustc in `PATH`, and the name is not used.
    pub(crate) name: String,
    /// `RUSTC_BOOTSTRAP` for the BPF build alone; empty for "not set".
    pub(crate) rustc_bootstrap: String,
    /// The directory that holds `bpf-linker`.
    pub(crate) linker_dir: PathBuf,
    /// First line of `rustc --version`.
    pub(crate) rustc: String,
    /// LLVM that rustc writes and bpf-linker reads; they must be the same.
    pub(crate) llvm_major: u32,
}

impl Toolchain {
    /// Reads the record in `tools`; `None` when there is none.
    pub(crate) fn load(tools: &Path) -> Result<Option<Self>> {
        let path = tools.join(RECORD);
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text)
                .map(Some)
                .with_context(|| format!("{}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{}", path.display())),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value.to_owned())
                .with_context(|| format!("no `{key}` in it: run `cargo xtask setup`"))
        };
        Ok(Self {
            way: match value("way")?.as_str() {
                "packages" => Way::Packages,
                "rustup" => Way::Rustup,
                other => bail!("way={other}: not known: run `cargo xtask setup`"),
            },
            name: value("toolchain")?,
            rustc_bootstrap: value("rustc_bootstrap")?,
            linker_dir: value("linker_dir")?.into(),
            rustc: value("rustc")?,
            llvm_major: value("llvm")?
                .parse()
                .context("llvm: not a number: run `cargo xtask setup`")?,
        })
    }

    /// Writes the record. Renamed into place: a build that reads it meanwhile
    /// sees the old one or the new one.
    pub(crate) fn save(&self, tools: &Path) -> Result<()> {
        let mut text = String::from("# Written by `cargo xtask setup`.\n");
        for (key, value) in [
            ("way", self.way.as_str()),
            ("toolchain", &self.name),
            ("rustc_bootstrap", &self.rustc_bootstrap),
            ("linker_dir", &self.linker_dir.to_string_lossy()),
            ("rustc", &self.rustc),
            ("llvm", &self.llvm_major.to_string()),
            ("bpf_linker", BPF_LINKER_VERSION),
        ] {
            let _ = writeln!(text, "{key}={value}");
        }
        let path = tools.join(RECORD);
        let new = tools.join(format!("{RECORD}.new"));
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("{}", path.display()))
    }

    /// `program` of this toolchain, chosen the way aya-build chooses it.
    pub(crate) fn command(&self, program: &str) -> Command {
        run_in(&self.name, program)
    }

    /// Sets what a `cargo` needs that builds kernel programs with it.
    pub(crate) fn apply(&self, command: &mut Command) -> Result<()> {
        command.env("PATH", self.path_with_linker()?);
        if self.rustc_bootstrap.is_empty() {
            command.env_remove("RUSTC_BOOTSTRAP");
        } else {
            command.env("RUSTC_BOOTSTRAP", &self.rustc_bootstrap);
        }
        Ok(())
    }

    /// `PATH` with the linker first.
    pub(crate) fn path_with_linker(&self) -> Result<OsString> {
        let path = env::var_os("PATH").unwrap_or_default();
        let dirs = std::iter::once(self.linker_dir.clone()).chain(env::split_paths(&path));
        env::join_paths(dirs).with_context(|| format!("PATH with {}", self.linker_dir.display()))
    }

    /// Whether it still is what the record says: rustc may have been upgraded,
    /// the toolchain removed, or LLVM gone from under the linker.
    pub(crate) fn check(&self) -> Result<()> {
        let rustc = version_of(&self.name)?;
        if rustc.line != self.rustc {
            bail!("rustc is now `{}`, was `{}`", rustc.line, self.rustc);
        }
        if !has_core(&self.name, self.way)? {
            bail!("toolchain {}: no `core` for {BPF_TARGET} in it", self.name);
        }
        check_linker(&self.linker_dir)
    }
}

/// Whether the bpf-linker in `dir` runs and is the wanted release.
pub(crate) fn check_linker(dir: &Path) -> Result<()> {
    let version = shell::output(Command::new(dir.join("bpf-linker")).arg("--version"))?;
    if version.split_whitespace().nth(1) != Some(BPF_LINKER_VERSION) {
        bail!(
            "{}: is `{version}`, not {BPF_LINKER_VERSION}",
            dir.display()
        );
    }
    Ok(())
}

/// `program` by `rustup run <toolchain>`, or from `PATH` where there is no rustup.
pub(crate) fn run_in(toolchain: &str, program: &str) -> Command {
    let mut command = if shell::which("rustup").is_some() {
        let mut command = Command::new("rustup");
        command.args(["run", toolchain, program]);
        command
    } else {
        Command::new(program)
    };
    // Set by the cargo that started us; a cargo of another toolchain would
    // take our compiler from them.
    for var in [
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "CARGO",
    ] {
        command.env_remove(var);
    }
    command.current_dir(workspace::root());
    command
}

/// What `rustc -vV` says.
pub(crate) struct RustcVersion {
    /// Its first line.
    pub(crate) line: String,
    pub(crate) llvm_major: u32,
}

pub(crate) fn version_of(toolchain: &str) -> Result<RustcVersion> {
    let text = shell::output(run_in(toolchain, "rustc").arg("-vV"))?;
    parse_version(&text).with_context(|| format!("toolchain {toolchain}: `rustc -vV`"))
}

fn parse_version(text: &str) -> Result<RustcVersion> {
    Ok(RustcVersion {
        line: text.lines().next().unwrap_or_default().to_owned(),
        llvm_major: text
            .lines()
            .find_map(|line| line.strip_prefix("LLVM version: "))
            .and_then(|version| version.split('.').next())
            .and_then(|major| major.parse().ok())
            .context("says no LLVM version")?,
    })
}

/// Whether `toolchain` has what it takes to compile for BPF: a prebuilt `core`,
/// or, for a nightly, the sources to build one from.
pub(crate) fn has_core(toolchain: &str, way: Way) -> Result<bool> {
    let sysroot = shell::output(run_in(toolchain, "rustc").args(["--print", "sysroot"]))?;
    let rustlib = Path::new(&sysroot).join("lib/rustlib");
    Ok(match way {
        Way::Packages => {
            let prebuilt = rustlib.join(BPF_TARGET).join("lib");
            fs::read_dir(prebuilt).is_ok_and(|entries| {
                entries
                    .flatten()
                    .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
            })
        }
        Way::Rustup => rustlib.join("src/rust/library/core/Cargo.toml").is_file(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Toolchain {
        Toolchain {
            way: Way::Packages,
            name: "guard-bpf".into(),
            rustc_bootstrap: "aya_ebpf".into(),
            linker_dir: "/opt/a b/bin".into(),
            rustc: "rustc 1.96.0 (ac68faa20 2026-05-25)".into(),
            llvm_major: 22,
        }
    }

    #[test]
    fn a_saved_record_loads_as_it_was() {
        let dir = env::temp_dir().join(format!("guard-xtask-record-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("temporary directory");
        let saved = example().save(&dir);
        let loaded = Toolchain::load(&dir);
        fs::remove_dir_all(&dir).expect("temporary directory");
        saved.expect("save");
        assert_eq!(loaded.expect("load"), Some(example()));
    }

    #[test]
    fn a_record_with_a_key_missing_says_which_and_what_to_do() {
        let error = Toolchain::parse("way=packages\ntoolchain=guard-bpf\n").expect_err("parsed");
        let message = format!("{error:#}");
        assert!(message.contains("rustc_bootstrap"), "{message}");
        assert!(message.contains("cargo xtask setup"), "{message}");
    }

    #[test]
    fn the_llvm_major_is_read_from_rustc_version() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nLLVM version: 22.1.8";
        let version = parse_version(text).expect("version");
        assert_eq!(version.llvm_major, 22);
        assert_eq!(version.line, "rustc 1.96.0 (ac68faa20 2026-05-25)");
    }
}
