//! `cargo xtask dist`: what is given to others. Static binaries (musl), man pages and completions from the definitions of
//! the command lines, the Debian package, an archive for everybody else, and checksums.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build, setup,
    shell::{self, say},
    workspace,
};

/// The release of cargo-deb that makes the package. Without its XZ, which is a C library: the program xz serves.
const CARGO_DEB_VERSION: &str = "3.8.0";

/// Arguments of `cargo xtask dist`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// The binaries and what goes with them.
pub(crate) struct Built {
    target: String,
    /// Holds `guardd` and `guardctl`, and in `dist` the man pages and completions.
    dir: PathBuf,
    tools: PathBuf,
}

pub(crate) fn run(_: &Args) -> Result<()> {
    let started = Instant::now();
    let out = workspace::target_dir().join("dist");
    if out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("{}", out.display()))?;
    }
    let built = Built::build()?;
    let package = built.package(None, true, &out)?;
    let archive = built.archive(&out)?;
    let sums = checksums(&out, &[&package, &archive])?;
    for path in [&package, &archive, &sums] {
        println!("{}", path.display());
    }
    say("dist", format!("{:.0} s", started.elapsed().as_secs_f32()));
    Ok(())
}

impl Built {
    /// Finds or fetches what this takes beside the toolchain.
    pub(crate) fn have_tools() -> Result<()> {
        have_compiler()?;
        cargo_deb(&workspace::tools_dir()?).map(drop)
    }

    /// Builds them.
    pub(crate) fn build() -> Result<Self> {
        setup::ensure()?;
        Self::have_tools()?;
        let target = target();
        let dir = binaries()?;
        let pages = dir.join("dist");
        if pages.exists() {
            fs::remove_dir_all(&pages).with_context(|| format!("{}", pages.display()))?;
        }
        shell::run(Command::new(dir.join("guard-pages")).arg(&pages)).context("dist")?;
        let mut gzip = Command::new("gzip");
        gzip.arg("-n9");
        for entry in fs::read_dir(pages.join("man"))? {
            gzip.arg(entry?.path());
        }
        shell::run(&mut gzip).context("dist: man pages")?;
        Ok(Self {
            target,
            dir,
            tools: workspace::tools_dir()?,
        })
    }

    /// The Debian package in `out`; of another version than the workspace's where one is given. `small` takes a minute.
    pub(crate) fn package(
        &self,
        version: Option<&str>,
        small: bool,
        out: &Path,
    ) -> Result<PathBuf> {
        let bin = cargo_deb(&self.tools)?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&path)))?;
        fs::create_dir_all(out).with_context(|| format!("{}", out.display()))?;
        let mut cargo = build::cargo("deb")?;
        cargo
            .env("PATH", path)
            .args(["--no-build", "--quiet", "--strip", "--no-dbgsym"])
            .args(if small {
                ["--compress-type=xz", "--compress-system"]
            } else {
                ["--compress-type=gz", "--fast"]
            })
            .args(["--package", "guard-userspace", "--target", &self.target])
            .args(version.map(|version| format!("--deb-version={version}")))
            .arg("--output")
            .arg(out);
        let package = shell::output(&mut cargo).context("dist: the Debian package")?;
        let package = PathBuf::from(package.lines().last().unwrap_or_default());
        if !package.is_file() {
            bail!(
                "dist: cargo-deb names {:?}, which is no file",
                package.display()
            );
        }
        Ok(package)
    }

    /// The archive with everything that the package has, and the files in `packaging`.
    fn archive(&self, out: &Path) -> Result<PathBuf> {
        let name = format!("guard-{}-{}", env!("CARGO_PKG_VERSION"), self.target);
        let root = out.join(&name);
        let copy = |from: &Path, to: &str| -> Result<()> {
            let to = root.join(to);
            if let Some(dir) = to.parent() {
                fs::create_dir_all(dir)?;
            }
            fs::copy(from, &to).with_context(|| format!("{}", from.display()))?;
            Ok(())
        };
        for name in ["guardd", "guardctl"] {
            copy(&self.dir.join(name), &format!("sbin/{name}"))?;
            shell::run(Command::new("strip").arg(root.join("sbin").join(name)))?;
        }
        let source = workspace::root();
        for name in ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"] {
            copy(&source.join(name), name)?;
        }
        copy(&source.join("policy/default.toml"), "policy.toml")?;
        for (from, to) in [
            (source.join("docs"), "docs"),
            (source.join("packaging"), "packaging"),
            (self.dir.join("dist/man"), "man"),
            (self.dir.join("dist/completions"), "completions"),
        ] {
            for entry in fs::read_dir(&from).with_context(|| format!("{}", from.display()))? {
                let path = entry?.path();
                if let Some(name) = path.file_name().filter(|_| path.is_file()) {
                    copy(&path, &format!("{to}/{}", name.to_string_lossy()))?;
                }
            }
        }
        let archive = out.join(format!("{name}.tar.gz"));
        // Nothing in it of the machine where it was made.
        shell::run(
            Command::new("tar")
                .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
                .args(["--mtime", &modified()?, "--use-compress-program=gzip -n9"])
                .arg("-cf")
                .arg(&archive)
                .arg("-C")
                .arg(out)
                .arg(&name),
        )
        .context("dist: the archive")?;
        fs::remove_dir_all(&root)?;
        Ok(archive)
    }
}

/// What is given to others.
pub(crate) const BINARIES: [&str; 2] = ["guardd", "guardctl"];

/// Finds or fetches what static binaries take beside the toolchain.
pub(crate) fn have_compiler() -> Result<()> {
    have_target(&target())?;
    // For what is C in dependencies: glibc's headers would ask for functions that musl has not.
    setup::have_program("musl-gcc", "musl-tools").context("dist")
}

/// Builds the static [`BINARIES`]; the directory that holds them.
pub(crate) fn binaries() -> Result<PathBuf> {
    let target = target();
    let mut cargo = build::cargo("build")?;
    cargo.args(["--release", "--package", "guard-userspace", "--bins"]);
    cargo.args(["--features", "pages", "--target", &target]);
    shell::run(&mut cargo).context("dist")?;
    let dir = workspace::target_dir().join(&target).join("release");
    for name in BINARIES {
        check_static(&dir.join(name))?;
    }
    Ok(dir)
}

/// This machine's, with musl.
fn target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// When the sources were last changed, for tar.
fn modified() -> Result<String> {
    let time = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(time) => time,
        Err(_) => shell::output(
            Command::new("git")
                .args(["log", "-1", "--format=%ct"])
                .current_dir(workspace::root()),
        )
        .context("dist: SOURCE_DATE_EPOCH is not set and git does not say when this was changed")?,
    };
    Ok(format!("@{time}"))
}

fn checksums(out: &Path, files: &[&Path]) -> Result<PathBuf> {
    let mut command = Command::new("sha256sum");
    command.current_dir(out);
    command.args(files.iter().filter_map(|file| file.file_name()));
    let text = shell::output(&mut command).context("dist: checksums")?;
    let path = out.join("SHA256SUMS");
    fs::write(&path, text + "\n").with_context(|| format!("{}", path.display()))?;
    Ok(path)
}

/// The standard library for `target`, by rustup where it is not there.
fn have_target(target: &str) -> Result<()> {
    let there = || -> Result<bool> {
        let sysroot = shell::output(Command::new("rustc").args(["--print", "sysroot"]))?;
        let libraries = Path::new(&sysroot)
            .join("lib/rustlib")
            .join(target)
            .join("lib");
        Ok(libraries.is_dir())
    };
    if there()? {
        return Ok(());
    }
    say(
        "dist",
        format!("fetching the standard library for {target}"),
    );
    if shell::which("rustup").is_none() {
        bail!(
            "dist: no standard library for {target}, and no rustup to fetch it: install it by the means of this system"
        );
    }
    shell::run(Command::new("rustup").args(["target", "add", target])).context("dist")?;
    if !there()? {
        bail!("dist: rustup has added {target} to another toolchain than this cargo's");
    }
    Ok(())
}

/// A binary that would look for libraries is not what users are promised.
fn check_static(program: &Path) -> Result<()> {
    let text = shell::output(Command::new("readelf").args(["-ld"]).arg(program))?;
    if text.contains("INTERP") || text.contains("(NEEDED)") {
        bail!("dist: {}: is not static", program.display());
    }
    Ok(())
}

/// The directory of cargo-deb, which is built when it is not there.
fn cargo_deb(tools: &Path) -> Result<PathBuf> {
    let root = tools.join(format!("cargo-deb-{CARGO_DEB_VERSION}"));
    let bin = root.join("bin");
    if bin.join("cargo-deb").is_file() {
        return Ok(bin);
    }
    say(
        "dist",
        format!("building cargo-deb {CARGO_DEB_VERSION} (about a minute)"),
    );
    let mut install = shell::cargo();
    install
        .args(["install", "cargo-deb", "--version", CARGO_DEB_VERSION])
        .args(["--locked", "--quiet", "--no-default-features"])
        .args(["--features", "gzip", "--root"])
        .arg(&root)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    shell::run(&mut install).context("dist: building cargo-deb")?;
    Ok(bin)
}
