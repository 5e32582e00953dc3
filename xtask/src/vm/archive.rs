//! Kernels, busybox and QEMU from Debian's archive, into the project's cache: by an apt root of its own,
//! which checks the archive's signatures, and without installing anything.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::shell::{self, say};

/// One kernel of the laboratory.
#[derive(Debug)]
pub(crate) struct Release {
    /// For `--kernel`.
    pub(crate) name: &'static str,
    /// What its version begins with; the newest there is where it is empty.
    prefix: &'static str,
}

/// Oldest first. Exact versions leave the archive, so they are found through the metapackage.
pub(crate) const RELEASES: &[Release] = &[
    Release {
        name: "5.10",
        prefix: "5.10.",
    },
    Release {
        name: "6.1",
        prefix: "6.1.",
    },
    Release {
        name: "6.12",
        prefix: "6.12.",
    },
    Release {
        name: "newest",
        prefix: "",
    },
];

/// Where the kernels lie, oldest first: repository and suite.
const SUITES: &[(Repository, &str)] = &[
    (Repository::Security, "bullseye-security"),
    (Repository::Security, "bookworm-security"),
    (Repository::Main, "trixie"),
    (Repository::Main, "trixie-backports"),
];
/// A metapackage that depends on the newest kernel of its suite. Cloud kernels have what a virtual machine
/// needs built in.
const METAPACKAGE: &str = "linux-image-cloud-amd64";
/// What the archive is signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Says where Debian's archive is, on a machine whose own apt does not.
const MIRROR_VAR: &str = "GUARD_DEBIAN_MIRROR";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repository {
    Main,
    Security,
}

/// A kernel in the cache.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// As `uname -r` gives it.
    pub(crate) version: String,
    /// Its image.
    pub(crate) image: PathBuf,
}

/// The archive, seen through an apt root in the cache.
#[derive(Debug)]
pub(crate) struct Archive {
    cache: PathBuf,
    config: PathBuf,
}

impl Archive {
    /// Sets the apt root up and fetches its lists; without a network the old lists and what is in the
    /// cache have to do.
    pub(crate) fn open(cache: &Path) -> Result<Self> {
        for program in ["apt-get", "dpkg"] {
            if shell::which(program).is_none() {
                bail!("vm: {program}: not there: the kernels come from Debian's archive");
            }
        }
        let (main, security) = repositories()?;
        let sources: String = SUITES
            .iter()
            .map(|(repository, suite)| {
                let base = match repository {
                    Repository::Main => &main,
                    Repository::Security => &security,
                };
                source(base, suite)
            })
            .collect();
        let config = apt_root(&cache.join("apt"), &sources, None)?;
        let archive = Self {
            cache: cache.to_owned(),
            config,
        };
        if let Err(error) = archive.apt_get(["update"]) {
            say(
                "vm",
                format!("the archive's lists are the old ones: {error:#}"),
            );
        }
        Ok(archive)
    }

    fn apt_get<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Result<String> {
        let downloads = self.cache.join("download");
        fs::create_dir_all(&downloads)?;
        shell::output(
            Command::new("apt-get")
                .args(["--quiet", "--assume-yes"])
                .args(args)
                .env("APT_CONFIG", &self.config)
                .current_dir(downloads),
        )
    }

    /// The kernel of a release, fetched when it is not in the cache.
    pub(crate) fn kernel(&self, release: &Release) -> Result<Kernel> {
        let (version, package_version) = match self.newest(release) {
            Ok(found) => found,
            // The lists could not be had: the one that was used the last time.
            Err(error) => return self.cached(release).ok_or(error),
        };
        let dir = self.cache.join("kernels").join(&version);
        if let Some(image) = image_in(&dir) {
            return Ok(Kernel { version, image });
        }
        say("vm", format!("fetching Linux {version}"));
        let mut last = None;
        // From 7.2 the image is in a package of its own.
        for package in [
            format!("linux-binary-{version}"),
            format!("linux-image-{version}"),
        ] {
            match self.unpack(&package, Some(&package_version), &dir) {
                Ok(()) => {
                    if let Some(image) = image_in(&dir) {
                        return Ok(Kernel { version, image });
                    }
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| anyhow::anyhow!("no kernel image is in its package")))
            .with_context(|| format!("vm: Linux {version}"))
    }

    /// Version of the newest kernel of a release, as `uname -r` gives it, and that of its package.
    fn newest(&self, release: &Release) -> Result<(String, String)> {
        let shown = shell::output(
            Command::new("apt-cache")
                .args(["show", METAPACKAGE])
                .env("APT_CONFIG", &self.config),
        )?;
        let mut version = "";
        // Newest first.
        for line in shown.lines() {
            if let Some(value) = line.strip_prefix("Version: ") {
                version = value;
            } else if let Some(depends) = line.strip_prefix("Depends: ")
                && version.starts_with(release.prefix)
                && let Some(image) = depends
                    .split(", ")
                    .find_map(|word| word.strip_prefix("linux-image-"))
            {
                let name = image.split_whitespace().next().unwrap_or(image);
                return Ok((name.to_owned(), version.to_owned()));
            }
        }
        bail!(
            "vm: Linux {}: {METAPACKAGE} of no suite is of that version",
            release.name
        )
    }

    fn cached(&self, release: &Release) -> Option<Kernel> {
        let mut found: Vec<Kernel> = fs::read_dir(self.cache.join("kernels"))
            .ok()?
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let version = entry.file_name().into_string().ok()?;
                let image = image_in(&entry.path())?;
                version
                    .starts_with(release.prefix)
                    .then_some(Kernel { version, image })
            })
            .collect();
        found.sort_by(|a, b| a.version.cmp(&b.version));
        found.pop()
    }

    /// A static busybox for the guest.
    pub(crate) fn busybox(&self) -> Result<PathBuf> {
        let dir = self.cache.join("busybox");
        for path in ["usr/bin/busybox", "bin/busybox"] {
            if dir.join(path).is_file() {
                return Ok(dir.join(path));
            }
        }
        self.unpack("busybox-static", None, &dir)?;
        ["usr/bin/busybox", "bin/busybox"]
            .into_iter()
            .map(|path| dir.join(path))
            .find(|path| path.is_file())
            .context("vm: busybox-static: no busybox is in it")
    }

    /// Fetches a package and unpacks it to `dir`.
    fn unpack(&self, package: &str, version: Option<&str>, dir: &Path) -> Result<()> {
        let wanted = version.map_or_else(|| package.to_owned(), |v| format!("{package}={v}"));
        self.apt_get(["download", &wanted])?;
        let downloads = self.cache.join("download");
        let file = newest_deb(&downloads, package)
            .with_context(|| format!("vm: {package}: apt-get downloaded no such file"))?;
        extract(&file, dir)?;
        fs::remove_file(&file)?;
        Ok(())
    }
}

/// Fetches `package` and what it needs beside what is installed on this machine, for the machine's own
/// release and its backports, and unpacks all of it to `dir`.
pub(super) fn unpack_for_host(cache: &Path, package: &str, dir: &Path) -> Result<()> {
    let installed = Path::new("/var/lib/dpkg/status");
    let backports = format!("{}-backports", codename()?);
    Fetch {
        root: &cache.join("apt-host"),
        sources: &own_sources()?,
        installed,
        prefers: Some(&backports),
    }
    .unpack(&[package], dir)
}

/// This machine's own release of Debian.
pub(super) fn own_sources() -> Result<String> {
    let (main, security) = repositories()?;
    let codename = codename()?;
    Ok([
        source(&main, &codename),
        source(&main, &format!("{codename}-updates")),
        source(&security, &format!("{codename}-security")),
        source(&main, &format!("{codename}-backports")),
    ]
    .concat())
}

/// The last release of Debian that had OpenSSL 1.1: its security updates are what kernel 5.10 is from, too.
pub(super) fn sources_with_openssl_1_1() -> Result<String> {
    Ok(source(&repositories()?.1, "bullseye-security"))
}

/// What packages are fetched from, and what they need not bring.
pub(super) struct Fetch<'a> {
    /// Directory for apt's own files.
    pub(super) root: &'a Path,
    /// Lines as in `sources.list`.
    pub(super) sources: &'a str,
    /// What counts as installed, as in dpkg's status file.
    pub(super) installed: &'a Path,
    /// Suite that goes before the others.
    pub(super) prefers: Option<&'a str>,
}

impl Fetch<'_> {
    /// Fetches packages and what they need, and unpacks all of it to `dir`.
    pub(super) fn unpack(&self, packages: &[&str], dir: &Path) -> Result<()> {
        let config = apt_root(self.root, self.sources, Some(self.installed))?;
        let apt = |args: &[&str]| {
            shell::output(
                Command::new("apt-get")
                    .args(["--quiet", "--assume-yes"])
                    .args(args)
                    .env("APT_CONFIG", &config),
            )
        };
        apt(&["update"])?;
        let mut install = vec!["install", "--download-only", "--no-install-recommends"];
        if let Some(suite) = self.prefers {
            install.extend(["--target-release", suite]);
        }
        install.extend(packages);
        apt(&install)?;
        let archives = self.root.join("cache/archives");
        for entry in fs::read_dir(&archives)? {
            let path = entry?.path();
            if path.extension() == Some(OsStr::new("deb")) {
                extract(&path, dir)?;
            }
        }
        fs::remove_dir_all(&archives)?;
        Ok(())
    }
}

fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|value| value.trim_matches('"').to_owned())
        .context("/etc/os-release: no VERSION_CODENAME")
}

/// Where this machine's apt has Debian's archive from, and its security updates.
pub(super) fn repositories() -> Result<(String, String)> {
    if let Some(mirror) = std::env::var_os(MIRROR_VAR).filter(|value| !value.is_empty()) {
        let mirror = mirror.to_string_lossy().trim_end_matches('/').to_owned();
        return Ok((mirror.clone(), format!("{mirror}-security")));
    }
    let targets = shell::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN)|$(REPO_URI)|$(LABEL)",
        "Created-By: Packages",
    ]))?;
    let find = |label: &str| {
        targets.lines().find_map(|line| {
            let mut fields = line.split('|');
            let (origin, uri) = (fields.next()?, fields.next()?);
            (origin == "Debian" && fields.next()? == label)
                .then(|| uri.trim_end_matches('/').to_owned())
        })
    };
    find("Debian").zip(find("Debian-Security")).with_context(|| {
        format!(
            "vm: this machine's apt knows no Debian archive: set {MIRROR_VAR} to the address of one \
             (its security updates are expected at the same address with `-security`)"
        )
    })
}

pub(super) fn source(base: &str, suite: &str) -> String {
    format!("deb [signed-by={KEYRING}] {base} {suite} main\n")
}

/// Makes an apt root; its configuration file. `status`: what counts as installed; nothing otherwise.
pub(super) fn apt_root(root: &Path, sources: &str, status: Option<&Path>) -> Result<PathBuf> {
    if !Path::new(KEYRING).is_file() {
        bail!("vm: {KEYRING}: not there: apt-get install debian-archive-keyring");
    }
    for dir in [
        "etc/apt.conf.d",
        "etc/preferences.d",
        "lists/partial",
        "cache/archives/partial",
        "state",
    ] {
        let dir = root.join(dir);
        fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
    }
    let own = root.join("state/status");
    if !own.exists() {
        fs::write(&own, "")?;
    }
    fs::write(root.join("etc/sources.list"), sources)?;
    let config = root.join("apt.conf");
    let text = format!(
        "Dir \"{root}\";\nDir::Etc \"{root}/etc\";\nDir::State \"{root}/state\";\n\
         Dir::State::Lists \"{root}/lists\";\nDir::State::status \"{status}\";\n\
         Dir::Cache \"{root}/cache\";\nAPT::Architecture \"amd64\";\nAcquire::Languages \"none\";\n\
         APT::Sandbox::User \"\";\n",
        root = root.display(),
        status = status.unwrap_or(&own).display(),
    );
    fs::write(&config, text)?;
    Ok(config)
}

fn newest_deb(dir: &Path, package: &str) -> Option<PathBuf> {
    let prefix = format!("{package}_");
    let files = fs::read_dir(dir).ok()?;
    files
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
        })
        .max_by_key(|path| path.metadata().and_then(|meta| meta.modified()).ok())
}

fn extract(package: &Path, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir)?;
    shell::output(Command::new("dpkg").arg("-x").arg(package).arg(dir)).map(drop)
}

/// Modules of a kernel that the tests want, in the order of loading. From 7.2 on they are in a package of their own,
/// which is not fetched: then there are none.
pub(super) fn modules_of(kernel: &Kernel) -> Vec<PathBuf> {
    /// Compressed by Debian from 6.12 on.
    const WANTED: [&str; 2] = ["fs/overlayfs/overlay.ko", "fs/overlayfs/overlay.ko.xz"];
    let Some(root) = kernel.image.ancestors().nth(2) else {
        return Vec::new();
    };
    ["lib", "usr/lib"]
        .iter()
        .map(|lib| {
            root.join(lib)
                .join("modules")
                .join(&kernel.version)
                .join("kernel")
        })
        .flat_map(|dir| WANTED.map(|wanted| dir.join(wanted)))
        .filter(|path| path.is_file())
        .collect()
}

/// Up to 6.18 in `boot`, from 7.2 beside the modules.
fn image_in(dir: &Path) -> Option<PathBuf> {
    let boot = fs::read_dir(dir.join("boot")).ok();
    let in_boot = boot.into_iter().flatten().filter_map(|entry| {
        let path = entry.ok()?.path();
        path.file_name()?
            .to_string_lossy()
            .starts_with("vmlinuz-")
            .then_some(path)
    });
    let modules = fs::read_dir(dir.join("usr/lib/modules")).ok();
    let beside = modules
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("vmlinuz")))
        .filter(|path| path.is_file());
    in_boot.chain(beside).next()
}
