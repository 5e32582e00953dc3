//! Whole trees, with several threads.

use std::{
    fs, io,
    num::NonZero,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use ignore::{DirEntry, WalkBuilder, WalkState};
use serde::Serialize;

use super::{FileOutcome, Found, Limits, Scanner, is_fixture};

/// Directories that are left out: what package managers, compilers and caches write, and git's objects, which are
/// compressed. `parent/name` is a directory in a directory.
pub const LEFT_OUT: &[&str] = &[
    ".git/objects",
    ".git/lfs",
    ".hg/store",
    ".svn/pristine",
    "node_modules",
    "bower_components",
    ".pnpm-store",
    ".yarn/cache",
    "site-packages",
    "dist-packages",
    ".venv",
    "venv",
    "__pycache__",
    ".tox",
    ".nox",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".gradle/caches",
    ".m2/repository",
    ".cargo/registry",
    ".cargo/git",
    ".rustup/toolchains",
    "go/pkg",
    ".terraform/providers",
    ".next/cache",
    ".nuxt",
    ".turbo",
    ".parcel-cache",
    ".angular/cache",
    ".cache",
    ".npm/_cacache",
    ".bundle/cache",
    ".stack-work",
    ".dart_tool",
    "Pods",
    "DerivedData",
];

/// What a directory begins with that may be thrown away (bford.info/cachedir).
const CACHE_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// How a tree is walked.
#[derive(Clone, Copy, Debug)]
pub struct TreeOptions {
    /// For each file.
    pub limits: Limits,
    /// At most so many; `None` is one for each processor.
    pub threads: Option<NonZero<usize>>,
    /// Leave no directory out.
    pub everything: bool,
}

/// One file of a tree.
#[derive(Debug)]
pub struct FileReport {
    /// With the root's path before it.
    pub path: PathBuf,
    /// What came of it.
    pub outcome: FileOutcome,
    /// In the order in which they stand. Whether they are a fixture's is judged by the path below the root.
    pub found: Vec<Found>,
}

/// Numbers of a walk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TreeSummary {
    /// Files that were searched.
    pub files: u64,
    /// Bytes in them that were searched.
    pub bytes: u64,
    /// Files that are no text.
    pub binary: u64,
    /// Files of which only the beginning was searched.
    pub cut: u64,
    /// Links, which are not followed.
    pub links: u64,
    /// Devices, FIFOs, sockets.
    pub special: u64,
    /// Gone while the walk went on.
    pub gone: u64,
    /// Files and directories that could not be read.
    pub unreadable: u64,
    /// Directories that were left out.
    pub left_out: u64,
    /// Mounts that were not entered.
    pub mounts: u64,
    /// Secrets beyond the most that are told of one file.
    pub more: u64,
}

#[derive(Default)]
struct Counts {
    files: AtomicU64,
    bytes: AtomicU64,
    binary: AtomicU64,
    cut: AtomicU64,
    links: AtomicU64,
    special: AtomicU64,
    gone: AtomicU64,
    unreadable: AtomicU64,
    left_out: AtomicU64,
    mounts: AtomicU64,
    more: AtomicU64,
}

fn add(count: &AtomicU64, by: u64) {
    count.fetch_add(by, Ordering::Relaxed);
}

impl Counts {
    fn file(&self, outcome: &FileOutcome) {
        match outcome {
            FileOutcome::Searched { seen, cut, more } => {
                add(&self.files, 1);
                add(&self.bytes, seen.read);
                add(&self.cut, u64::from(*cut));
                add(&self.more, *more as u64);
            }
            FileOutcome::Binary(_) => add(&self.binary, 1),
            FileOutcome::Special => add(&self.special, 1),
            FileOutcome::Gone => add(&self.gone, 1),
            FileOutcome::Failed(_) => add(&self.unreadable, 1),
        }
    }

    fn summary(&self) -> TreeSummary {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TreeSummary {
            files: of(&self.files),
            bytes: of(&self.bytes),
            binary: of(&self.binary),
            cut: of(&self.cut),
            links: of(&self.links),
            special: of(&self.special),
            gone: of(&self.gone),
            unreadable: of(&self.unreadable),
            left_out: of(&self.left_out),
            mounts: of(&self.mounts),
            more: of(&self.more),
        }
    }
}

impl Scanner {
    /// Every file at and below `roots`, each root on one file system; `.gitignore` hides nothing, for what is ignored
    /// is often the `.env`. `on_file` is called by several threads, in no order, for files that have secrets or could not
    /// be read.
    pub fn scan_tree(
        &self,
        roots: &[PathBuf],
        options: &TreeOptions,
        on_file: &(impl Fn(FileReport) + Sync),
    ) -> TreeSummary {
        let counts = Arc::new(Counts::default());
        for root in roots {
            self.walk(root, options, &counts, on_file);
        }
        counts.summary()
    }

    fn walk(
        &self,
        root: &Path,
        options: &TreeOptions,
        counts: &Arc<Counts>,
        on_file: &(impl Fn(FileReport) + Sync),
    ) {
        let threads = options
            .threads
            .or_else(|| thread::available_parallelism().ok())
            .map_or(1, NonZero::get);
        let everything = options.everything;
        let filter_counts = Arc::clone(counts);
        let device = fs::metadata(root)
            .ok()
            .map(|found| std::os::unix::fs::MetadataExt::dev(&found));
        let walker = WalkBuilder::new(root)
            .standard_filters(false)
            .follow_links(false)
            .threads(threads)
            .filter_entry(move |entry| {
                // The root was named: what is left out elsewhere is wanted there.
                if entry.depth() == 0 || !entry.file_type().is_some_and(|kind| kind.is_dir()) {
                    return true;
                }
                if device.is_some()
                    && entry
                        .metadata()
                        .ok()
                        .map(|found| std::os::unix::fs::MetadataExt::dev(&found))
                        != device
                {
                    add(&filter_counts.mounts, 1);
                    return false;
                }
                if !everything && left_out(entry) {
                    add(&filter_counts.left_out, 1);
                    return false;
                }
                true
            })
            .build_parallel();
        walker.run(|| {
            Box::new(|entry| {
                match entry {
                    Ok(entry) => self.entry(root, &entry, options.limits, counts, on_file),
                    Err(error) => {
                        add(&counts.unreadable, 1);
                        on_file(FileReport {
                            path: path_of(&error).unwrap_or_else(|| root.to_owned()),
                            outcome: FileOutcome::Failed(
                                error
                                    .into_io_error()
                                    .unwrap_or_else(|| io::ErrorKind::Other.into()),
                            ),
                            found: Vec::new(),
                        });
                    }
                }
                WalkState::Continue
            })
        });
    }

    fn entry(
        &self,
        root: &Path,
        entry: &DirEntry,
        limits: Limits,
        counts: &Counts,
        on_file: &(impl Fn(FileReport) + Sync),
    ) {
        let path = entry.path();
        let kind = entry.file_type();
        if kind.is_some_and(|kind| kind.is_dir()) {
            return;
        }
        let mut found = Vec::new();
        let outcome = if kind.is_some_and(|kind| kind.is_symlink()) && entry.depth() > 0 {
            add(&counts.links, 1);
            return;
        } else if entry.depth() == 0 {
            // Who names a link means what it points to.
            match fs::canonicalize(path) {
                Ok(real) => self.scan_file(&real, limits, &mut |one| found.push(one)),
                Err(error) => FileOutcome::Failed(error),
            }
        } else {
            self.scan_file(path, limits, &mut |one| found.push(one))
        };
        counts.file(&outcome);
        if found.is_empty() && !matches!(outcome, FileOutcome::Failed(_)) {
            return;
        }
        // Who names a directory of tests, or a file in one, wants to know what is in it.
        let fixture = path.strip_prefix(root).is_ok_and(is_fixture);
        for one in &mut found {
            one.fixture = fixture;
        }
        on_file(FileReport {
            path: path.to_owned(),
            outcome,
            found,
        });
    }
}

fn left_out(entry: &DirEntry) -> bool {
    is_left_out(entry.path())
}

/// Whether a directory is one that packages, compilers or caches fill.
pub(super) fn is_left_out(path: &Path) -> bool {
    LEFT_OUT.iter().any(|name| path.ends_with(name)) || is_cache(path)
}

fn is_cache(directory: &Path) -> bool {
    use std::io::Read as _;
    let tag = directory.join("CACHEDIR.TAG");
    if !fs::symlink_metadata(&tag).is_ok_and(|found| found.is_file()) {
        return false;
    }
    let mut head = [0; CACHE_TAG.len()];
    fs::File::open(tag).is_ok_and(|mut file| file.read_exact(&mut head).is_ok())
        && head == CACHE_TAG
}

fn path_of(error: &ignore::Error) -> Option<PathBuf> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path.clone()),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => {
            path_of(err)
        }
        _ => None,
    }
}
