//! Programs that speak TLS in their own ways, for guests whose tests put them under guard: those that this machine has, each with
//! what it needs, and packages of python from the archive, which the tests on this machine have as well. Without them a test says
//! what it lacks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{archive, initramfs::Tree};
use crate::{
    shell::{self, say},
    workspace,
};

/// Parts of python's library that no program of the tests uses, and that are a third of it.
const UNUSED: [&str; 6] = [
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "test",
    "tkinter",
];
/// Packages of python that speak HTTP.
const PACKAGES: [&str; 2] = ["python3-requests", "python3-httpx"];
/// Where Debian has python's packages.
const PYTHON_LIBRARY: &str = "usr/lib/python3/dist-packages";
/// Where the package of OpenSSL 1.1 has its libssl.
const LIBSSL_1_1: &str = "usr/lib/x86_64-linux-gnu/libssl.so.1.1";
/// Where it is in a guest; `/init` looks there.
const OPENSSL_1_1_INSIDE: &str = "guard/openssl-1.1";
/// Where Debian has libraries that a program opens by name.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// A directory for `PYTHONPATH` with `requests` and `httpx` and what they need, of this machine's release of Debian; fetched once.
///
/// # Errors
/// When there is no python, or this machine's apt knows no Debian archive.
pub(crate) fn python_packages() -> Result<PathBuf> {
    once("python", PYTHON_LIBRARY, |work, to| {
        // What they need besides is python's own and there already, or not wanted.
        let installed = believe(work, &["python3", "ca-certificates", "libc6"])?;
        archive::Fetch {
            root: &work.join("apt"),
            sources: &archive::own_sources()?,
            installed: &installed,
            prefers: None,
        }
        .unpack(&PACKAGES, to)
    })
}

/// libssl of OpenSSL 1.1, beside its libcrypto; fetched once.
///
/// # Errors
/// When this machine's apt knows no Debian archive.
pub(crate) fn openssl_1_1() -> Result<PathBuf> {
    once("openssl-1.1", LIBSSL_1_1, |work, to| {
        let installed = believe(work, &["libc6", "debconf"])?;
        archive::Fetch {
            root: &work.join("apt"),
            sources: &archive::sources_with_openssl_1_1()?,
            installed: &installed,
            prefers: None,
        }
        .unpack(&["libssl1.1"], to)
    })
}

/// `wanted` in the tools' directory `name`, where `fetch` puts it with a directory to work in.
fn once(
    name: &str,
    wanted: &str,
    fetch: impl FnOnce(&Path, &Path) -> Result<()>,
) -> Result<PathBuf> {
    let tools = workspace::tools_dir()?;
    let found = tools.join(name).join(wanted);
    if found.exists() {
        return Ok(found);
    }
    say("setup", format!("fetching {name} for the tests"));
    let work = tools.join(format!("{name}.new-{}", std::process::id()));
    let root = work.join("root");
    fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
    let fetched = fetch(&work, &root).and_then(|()| match fs::rename(&root, tools.join(name)) {
        // Another run was faster.
        Err(_) if found.exists() => Ok(()),
        done => done.with_context(|| root.display().to_string()),
    });
    let _ = fs::remove_dir_all(&work);
    fetched?;
    if !found.exists() {
        bail!("{}: not in what was fetched", found.display());
    }
    Ok(found)
}

/// A status file by which apt believes that nothing but these packages is installed, in this machine's versions.
fn believe(work: &Path, packages: &[&str]) -> Result<PathBuf> {
    let mut installed = String::new();
    for package in packages {
        let query = ["--show", "--showformat", "${Version}", package];
        let version = shell::output(Command::new("dpkg-query").args(query))?;
        installed.push_str(&format!(
            "Package: {package}\nStatus: install ok installed\nArchitecture: amd64\nMulti-Arch: allowed\nVersion: {}\n\
             Maintainer: none\nDescription: none\n\n",
            version.trim()
        ));
    }
    let status = work.join("status");
    fs::write(&status, installed).with_context(|| status.display().to_string())?;
    Ok(status)
}

/// Adds all of them.
pub(super) fn add(tree: &mut Tree) -> Result<()> {
    add_python(tree)?;
    match python_packages() {
        Ok(library) => add_directory(tree, &library, PYTHON_LIBRARY)?,
        Err(error) => say(
            "vm",
            format!("without python's requests and httpx: {error:#}"),
        ),
    }
    match openssl_1_1() {
        Ok(libssl) => {
            let from = libssl.parent().context("a library is in a directory")?;
            for name in ["libssl.so.1.1", "libcrypto.so.1.1"] {
                tree.file(
                    &format!("{OPENSSL_1_1_INSIDE}/{name}"),
                    fs::read(from.join(name))?,
                );
            }
        }
        Err(error) => say("vm", format!("without OpenSSL 1.1: {error:#}")),
    }
    add_git(tree)?;
    // As they are: of a Go program guard reads tables that a stripped one lacks.
    for name in ["node", "kubectl", "openssl"] {
        if let Some(program) = find(name) {
            add_as_it_is(tree, &format!("usr/bin/{name}"), &program)?;
        }
    }
    // For python's ctypes, and what NSS opens by its name.
    for name in [
        "libcurl-gnutls.so.4",
        "libcurl-nss.so.4",
        "libsoftokn3.so",
        "libfreebl3.so",
        "libfreeblpriv3.so",
        "libnssdbm3.so",
        "nss/libnsspem.so",
    ] {
        let library = Path::new(LIBRARIES).join(name);
        if library.exists() {
            add_as_it_is(tree, inside(&library), &library)?;
        }
    }
    add_action(tree)
}

/// What node runs of this project, where the tests look for it: beside their own sources.
fn add_action(tree: &mut Tree) -> Result<()> {
    let root = workspace::root();
    tree.dir(inside(&root.join("tests")));
    let action = root.join("packaging/action");
    for entry in fs::read_dir(&action).with_context(|| action.display().to_string())? {
        let path = entry?.path();
        tree.file(inside(&path), fs::read(&path)?);
    }
    Ok(())
}

/// All that is in a directory, under another name.
fn add_directory(tree: &mut Tree, from: &Path, to: &str) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        let to = format!(
            "{to}/{}",
            path.file_name().unwrap_or_default().to_string_lossy()
        );
        if path.is_dir() {
            add_directory(tree, &path, &to)?;
        } else if path.is_file() {
            tree.file(&to, fs::read(&path)?);
        }
    }
    Ok(())
}

/// Debian's own, whose library is where its name says.
fn add_python(tree: &mut Tree) -> Result<()> {
    let Ok(python) = fs::canonicalize("/usr/bin/python3") else {
        return Ok(());
    };
    let library = Path::new("/usr/lib").join(python.file_name().context("a program has a name")?);
    if !library.is_dir() {
        return Ok(());
    }
    add_as_it_is(tree, "usr/bin/python3", &python)?;
    let mut directories = vec![library];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if !UNUSED.contains(&&*name) && !name.starts_with("config-") {
                    directories.push(path);
                }
            } else if name.ends_with(".so") {
                add_as_it_is(tree, inside(&path), &path)?;
            } else if path.is_file() {
                tree.file(inside(&path), fs::read(&path)?);
            }
        }
    }
    Ok(())
}

/// git, and what it starts to speak to a server.
fn add_git(tree: &mut Tree) -> Result<()> {
    let Some(git) = find("git") else {
        return Ok(());
    };
    add_as_it_is(tree, "usr/bin/git", &git)?;
    let helpers = shell::output(Command::new(&git).arg("--exec-path"))?;
    let helpers = Path::new(helpers.trim());
    let https = helpers.join("git-remote-https");
    if https.exists() {
        add_as_it_is(tree, inside(&https), &https)?;
    }
    tree.link(inside(&helpers.join("git")), "/usr/bin/git");
    Ok(())
}

/// A program or library, and the libraries that it is linked with.
fn add_as_it_is(tree: &mut Tree, path: &str, from: &Path) -> Result<()> {
    tree.file(
        path,
        fs::read(from).with_context(|| from.display().to_string())?,
    );
    tree.libraries_of(from)
}

/// Where it stands in the guest, without the leading slash: as here.
fn inside(path: &Path) -> &str {
    path.to_str().unwrap_or_default().trim_start_matches('/')
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}
