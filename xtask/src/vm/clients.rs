//! Programs that speak TLS in their own ways, for guests whose tests put them under guard: those that this machine has, each with
//! what it needs. Without them a test says what it lacks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::initramfs::Tree;
use crate::{shell, workspace};

/// Parts of python's library that no program of the tests uses, and that are a third of it.
const UNUSED: [&str; 6] = [
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "test",
    "tkinter",
];
/// Where Debian has libraries that a program opens by name.
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";

/// Adds all of them.
pub(super) fn add(tree: &mut Tree) -> Result<()> {
    add_python(tree)?;
    add_git(tree)?;
    // As they are: of a Go program guard reads tables that a stripped one lacks.
    for name in ["node", "kubectl", "openssl"] {
        if let Some(program) = find(name) {
            add_as_it_is(tree, &format!("usr/bin/{name}"), &program)?;
        }
    }
    // For python's ctypes.
    let gnutls = Path::new(LIBRARIES).join("libcurl-gnutls.so.4");
    if gnutls.exists() {
        add_as_it_is(tree, inside(&gnutls), &gnutls)?;
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
