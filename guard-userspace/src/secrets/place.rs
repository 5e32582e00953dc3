//! What a file's path says about the secrets in it.

use std::path::{Component, Path};

/// Directories and stems whose content is made up, or stands for something else.
pub const FIXTURES: &[&str] = &[
    "test",
    "tests",
    "testing",
    "testdata",
    "test-data",
    "test_data",
    "__tests__",
    "__mocks__",
    "__fixtures__",
    "__snapshots__",
    "fixture",
    "fixtures",
    "spec",
    "specs",
    "mock",
    "mocks",
    "stub",
    "stubs",
    "example",
    "examples",
    "sample",
    "samples",
    "e2e",
    "cassettes",
    "golden",
    "snapshots",
];

/// Files that hold hashes of packages.
const LOCK_FILES: &[&str] = &[
    "package-lock.json",
    "npm-shrinkwrap.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "bun.lock",
    "bun.lockb",
    "deno.lock",
    "cargo.lock",
    "poetry.lock",
    "uv.lock",
    "pdm.lock",
    "pipfile.lock",
    "composer.lock",
    "gemfile.lock",
    "podfile.lock",
    "pubspec.lock",
    "mix.lock",
    "flake.lock",
    "go.sum",
    "go.work.sum",
    "packages.lock.json",
    "gradle.lockfile",
    "paket.lock",
    "conan.lock",
    "package.resolved",
    "checksums.txt",
    "sha256sums",
    "sha512sums",
    "md5sums",
];

/// Languages in which a value without quotes is an expression.
const SOURCES: &[&str] = &[
    "rs", "py", "pyi", "js", "mjs", "cjs", "jsx", "ts", "mts", "cts", "tsx", "vue", "svelte", "go",
    "rb", "java", "kt", "kts", "scala", "groovy", "gradle", "c", "h", "cc", "cpp", "cxx", "hpp",
    "hh", "m", "mm", "cs", "fs", "vb", "php", "swift", "dart", "lua", "pl", "pm", "r", "jl", "ex",
    "exs", "erl", "hs", "ml", "clj", "cljs", "elm", "nim", "zig", "sol", "sql", "tf", "hcl",
    "tfvars", "ipynb", "ps1", "proto", "graphql", "html", "htm", "css", "scss", "less", "nix",
    "cr", "v", "d",
];

/// What is known of a file before it is read.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// In lower case, as bytes.
    pub path: Vec<u8>,
    /// A value without quotes is an expression, not a value.
    pub source: bool,
    /// Only what has a form of its own counts: hashes, generated code.
    pub sure_only: bool,
    /// A file of passwords between colons.
    pub pgpass: bool,
    /// A file of words without separators (`machine x login y password z`).
    pub netrc: bool,
}

impl Place {
    pub fn of(path: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt as _;
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().to_ascii_lowercase())
            .unwrap_or_default();
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        let generated = [
            ".map",
            ".min.js",
            ".min.mjs",
            ".min.css",
            ".bundle.js",
            ".chunk.js",
            ".svg",
        ];
        Self {
            path: path.as_os_str().as_bytes().to_ascii_lowercase(),
            source: SOURCES.contains(&extension),
            sure_only: LOCK_FILES.contains(&name.as_str())
                || generated.iter().any(|end| name.ends_with(end)),
            pgpass: name == ".pgpass" || name == "pgpass.conf",
            netrc: [".netrc", "_netrc", ".authinfo", "netrc"].contains(&name.as_str()),
        }
    }
}

/// Whether what a file holds is made up, by its path: a component of it, or how the file's name begins or ends, says
/// test, fixture, mock or example.
pub fn is_fixture(path: &Path) -> bool {
    let mut components = path
        .components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_string_lossy().to_ascii_lowercase()),
            _ => None,
        });
    let Some(file) = components.next() else {
        return false;
    };
    let stem = file.split('.').next().unwrap_or_default();
    let middle = file.split('.').rev().skip(1);
    stem.starts_with("test_")
        || ["_test", "-test", "_spec", "-spec", "_mock", "_fixture"]
            .iter()
            .any(|end| stem.ends_with(end))
        || file.rsplit('.').next().is_some_and(|end| {
            ["example", "sample", "template", "dist"].contains(&end) && file != end
        })
        || middle.clone().any(|part| {
            ["test", "spec", "mock", "example", "sample", "fixture"].contains(&part) && part != stem
        })
        || components.any(|directory| FIXTURES.contains(&directory.as_str()))
}
