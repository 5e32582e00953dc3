//! Where things are.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Names the tool directory in the environment; read here and by the build
/// script of `guard-userspace`.
pub(crate) const TOOLS_VAR: &str = "GUARD_TOOLS";

/// Names the directory of the binaries under test, for the end-to-end tests.
pub(crate) const BIN_DIR_VAR: &str = "GUARD_BIN_DIR";

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    // `cargo run` compiles this from the checkout it is run in, so the path is
    // known at compile time.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// The project's own tool directory: `$GUARD_TOOLS`, else `.tools` in the
/// workspace. Not under `target/`, so that `cargo clean` keeps it.
pub(crate) fn tools_dir() -> Result<PathBuf> {
    match env::var_os(TOOLS_VAR).filter(|dir| !dir.is_empty()) {
        Some(dir) => std::path::absolute(&dir)
            .with_context(|| format!("{TOOLS_VAR}={}", Path::new(&dir).display())),
        None => Ok(root().join(".tools")),
    }
}

/// Cargo's target directory.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        // Cargo takes a relative one from where it runs, which for everything
        // started here is the root.
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}
