//! A guest that is a whole Debian with a systemd: the package is installed, upgraded and removed in it, and it is booted
//! again with an agent that starts at login.
//!
//! The root is made on the spot by mmdebstrap, which is unpacked into the cache and not installed, and kept as an ext4
//! image until what goes into it changes. Each run works on a copy. What happens in the guest is told by
//! `systemd/run.sh`, in the words of a Rust test program.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{Lsm, archive, qemu};
use crate::{
    dist::Built,
    shell::{self, say},
    sudo,
};

/// The oldest Debian whose systemd (252) the unit is written for, and its kernel.
const SUITE: &str = "bookworm";
/// See [`SUITE`].
const KERNEL: &str = "6.1";
/// What the tests use beside the essential packages: sessions with a manager of their own, and what reads man pages and
/// completions, and containers.
const PACKAGES: &str = "usr-is-merged,systemd-sysv,passwd,procps,dbus,dbus-user-session,libpam-systemd,containerd,mandoc,bash-completion,zsh,fish";
/// Prepares the root; the directory is `$1`.
const CUSTOMIZE: &str = include_str!("systemd/customize.sh");
/// The tests.
const RUN: &str = include_str!("systemd/run.sh");
/// The image, sparse.
const IMAGE_SIZE: &str = "1200M";
/// Boots of one run at most; more would go on for ever.
const BOOTS: u32 = 4;
/// The version of the package that the first one is upgraded to.
const UPGRADE: &str = concat!(env!("CARGO_PKG_VERSION"), "+upgrade");

/// What this needs is not to be had on this machine, which says nothing about guard.
#[derive(Debug)]
pub(crate) struct NotHere(&'static str);

impl fmt::Display for NotHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot be had here", self.0)
    }
}

/// A guest that can be booted.
pub(crate) struct Ready {
    kernel: archive::Kernel,
    disk: PathBuf,
    dir: PathBuf,
}

impl Ready {
    /// Makes what is missing of it.
    ///
    /// # Errors
    /// With [`NotHere`] in the chain where the machine lacks something; otherwise something is wrong.
    pub(super) fn prepare(
        cache: &Path,
        archive: &archive::Archive,
        only: &[String],
    ) -> Result<Self> {
        let release = archive::RELEASES
            .iter()
            .find(|release| release.name == KERNEL)
            .context("vm: no such kernel")?;
        let kernel = archive
            .kernel(release)
            .context(NotHere("the guest's kernel"))?;
        for program in ["mke2fs", "debugfs", "perl"] {
            if shell::which(program).is_none() && !Path::new("/usr/sbin").join(program).is_file() {
                return Err(anyhow::anyhow!("{program}: not there")
                    .context(NotHere("what makes the guest's image")));
            }
        }
        Built::have_tools().context(NotHere("what makes the package"))?;
        let base = image(cache).context(NotHere("the guest's root"))?;
        let built = Built::build()?;
        let dir = cache.join("run-systemd");
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
        }
        fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
        let first = built.package(None, false, &dir)?;
        let second = built.package(Some(UPGRADE), false, &dir)?;
        let disk = dir.join("disk");
        shell::run(
            Command::new("cp")
                .args(["--sparse=always", "--reflink=auto", "--no-preserve=mode"])
                .arg(&base)
                .arg(&disk),
        )?;
        let put = [
            (dir.join("run.sh"), "run.sh", RUN.to_owned()),
            (dir.join("only"), "only", only.join("\n")),
        ];
        let mut orders = String::new();
        for (path, name, text) in &put {
            fs::write(path, text)?;
            orders.push_str(&format!("write {} /lab/{name}\n", path.display()));
        }
        for (package, name) in [(&first, "first.deb"), (&second, "second.deb")] {
            orders.push_str(&format!("write {} /lab/{name}\n", package.display()));
        }
        let script = dir.join("debugfs");
        fs::write(&script, orders)?;
        let said = shell::output(tool("debugfs").args(["-w", "-f"]).arg(&script).arg(&disk))?;
        // It ends well whatever happens.
        if let Some(line) = said.lines().find(|line| {
            !line.starts_with("debugfs") && !line.starts_with("Allocated inode") && !line.is_empty()
        }) {
            bail!("vm: debugfs: {line}");
        }
        Ok(Self { kernel, disk, dir })
    }

    /// Boots it as often as it asks for.
    pub(super) fn run(&self, qemu: &qemu::Qemu, mut on_line: impl FnMut(&str)) -> Result<()> {
        let machine = qemu::Machine {
            kernel: &self.kernel.image,
            root: qemu::Root::Disk(&self.disk),
            processors: "1",
            memory: "768",
            lsm: Lsm::On.list(),
            counted: false,
        };
        for _ in 0..BOOTS {
            let ended = qemu.run(&machine, " systemd.show_status=0", &self.dir, &mut on_line)?;
            if ended == qemu::Ended::Over {
                fs::remove_file(&self.disk)?;
                return Ok(());
            }
        }
        bail!("it has been booted {BOOTS} times and wants more")
    }
}

/// A program that ordinary users do not have in their path.
fn tool(name: &str) -> Command {
    let program = Path::new("/usr/sbin").join(name);
    if program.is_file() {
        Command::new(program)
    } else {
        Command::new(name)
    }
}

/// The guest's root as it is before anything happens in it.
fn image(cache: &Path) -> Result<PathBuf> {
    let (main, _) = archive::repositories()?;
    let source = archive::source(&main, SUITE);
    let image = cache.join("systemd.ext4");
    let key_file = cache.join("systemd.key");
    let date = date(cache, &source);
    let key = format!("{source}{date}\n{PACKAGES}\n{IMAGE_SIZE}\n{CUSTOMIZE}");
    if image.is_file() && fs::read_to_string(&key_file).is_ok_and(|text| text == key) {
        return Ok(image);
    }
    say("vm", format!("making a Debian ({SUITE}) with a systemd"));
    let program = cache.join("mmdebstrap");
    let script = program.join("usr/bin/mmdebstrap");
    if !script.is_file() {
        archive::unpack_for_host(cache, "mmdebstrap", &program)?;
    }
    let (root, customize, new) = (
        cache.join("systemd-root"),
        cache.join("systemd-customize.sh"),
        cache.join("systemd.ext4.new"),
    );
    fs::write(&customize, CUSTOMIZE)?;
    // Files of several users, and a chroot: one step as root, which leaves nothing but the image.
    let make = r#"set -e
trap 'rm -rf "$2"' EXIT
rm -rf "$2" "$6"
perl "$1/usr/bin/mmdebstrap" --quiet --mode=root --variant=essential \
    --hook-dir="$1/usr/share/mmdebstrap/hooks/merged-usr" \
    --include="$3" --customize-hook="sh '$5' \"\$1\"" "$7" "$2" "$4"
PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -L guard -d "$2" "$6" "$8"
chmod 0644 "$6""#;
    let mut command = sudo::command("mmdebstrap", Path::new("/bin/sh"), [])?;
    command
        .args(["-c", make, "mmdebstrap"])
        .args([&program, &root])
        .arg(PACKAGES)
        .arg(source.trim_end())
        .args([&customize, &new])
        .args([SUITE, IMAGE_SIZE]);
    shell::run(&mut command)?;
    fs::rename(&new, &image)?;
    fs::write(&key_file, key)?;
    Ok(image)
}

/// When the archive was last changed, as it says itself; nothing where that cannot be learnt now.
fn date(cache: &Path, source: &str) -> String {
    let root = cache.join("apt-systemd");
    let dated = || -> Result<String> {
        let config = archive::apt_root(&root, source, None)?;
        let updated = shell::output(
            Command::new("apt-get")
                .args(["--quiet", "update"])
                .env("APT_CONFIG", &config),
        );
        if let Err(error) = updated {
            say("vm", format!("{SUITE}'s lists are the old ones: {error:#}"));
        }
        for entry in fs::read_dir(root.join("lists"))? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with("InRelease") {
                let text = fs::read_to_string(&path)?;
                if let Some(date) = text.lines().find_map(|line| line.strip_prefix("Date: ")) {
                    return Ok(date.to_owned());
                }
            }
        }
        bail!("no list")
    };
    dated().unwrap_or_default()
}
