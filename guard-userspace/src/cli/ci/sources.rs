//! The checkout's sources: which files git tracks, patterns that a policy can watch them by, and which of them are not
//! what they were.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

/// Directories with one name that get a pattern each: the policy has room for sixteen of a name.
const SAME_NAME: usize = 8;
/// Patterns at most, well below what a policy may have; beyond, the whole checkout is one.
const MAX_PATTERNS: usize = 1500;
/// Directories above a file that a pattern can have.
const MAX_DEPTH: usize = 16;

/// What of a checkout is watched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sources {
    /// The checkout, without links.
    pub root: PathBuf,
    /// Files that git tracks, from there.
    pub files: Vec<String>,
    /// File patterns of a policy.
    pub patterns: Vec<String>,
    /// Directories that no pattern can name.
    pub unnamed: usize,
}

/// What tells whether a file is the same, and was not written to since.
type Stamp = (u64, u64, i64, i64, i64, i64);

/// The state of every tracked file.
#[derive(Clone, Debug, Default)]
pub struct Stamps(BTreeMap<String, Option<Stamp>>);

/// How a file is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The same file was written to, or its attributes were changed.
    Written,
    /// Another file has its name.
    Replaced,
    /// It is gone.
    Removed,
}

/// Asks git, as the user whose checkout it is: a repository's own settings may have git run programs.
///
/// # Errors
/// Why there is nothing to watch, in a few words.
pub fn tracked(workspace: &Path) -> Result<Sources, String> {
    let root =
        fs::canonicalize(workspace).map_err(|error| format!("{}: {error}", workspace.display()))?;
    let owner = fs::metadata(&root).map_err(|error| format!("{}: {error}", root.display()))?;
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-C"])
        .arg(&root)
        .args(["ls-files", "-z", "--full-name"])
        .stdin(Stdio::null());
    if rustix::process::geteuid().is_root() && owner.uid() != 0 {
        git.uid(owner.uid()).gid(owner.gid());
        git.env("HOME", "/nonexistent");
    }
    let output = git.output().map_err(|error| format!("git: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().next().unwrap_or("it failed").to_owned();
        return Err(format!("git ls-files: {first}"));
    }
    let files: Vec<String> = output
        .stdout
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .filter_map(|name| String::from_utf8(name.to_vec()).ok())
        .collect();
    if files.is_empty() {
        return Err("git tracks no file there".into());
    }
    let (patterns, unnamed) = patterns(&root, &files);
    Ok(Sources {
        root,
        files,
        patterns,
        unnamed,
    })
}

fn patterns(root: &Path, files: &[String]) -> (Vec<String>, usize) {
    let root = root.to_string_lossy();
    let directories: BTreeSet<String> = files
        .iter()
        .map(|file| match file.rsplit_once('/') {
            Some((directory, _)) => format!("{root}/{directory}"),
            None => root.to_string(),
        })
        .collect();
    // What means something in a pattern.
    let plain = |path: &str| {
        !path.contains(['*', '?', '[', ']', '{', '}', ',', '\\'])
            && path.split('/').count() <= MAX_DEPTH
            && path.len() > 1
    };
    let named: Vec<&String> = directories.iter().filter(|path| plain(path)).collect();
    let unnamed = directories.len() - named.len();
    if !plain(&root) {
        return (Vec::new(), directories.len());
    }
    let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for path in named {
        let name = path.rsplit('/').next().unwrap_or_default();
        by_name.entry(name).or_default().push(path);
    }
    let mut patterns = Vec::new();
    for (name, paths) in by_name {
        if paths.len() > SAME_NAME {
            patterns.push(format!("{root}/**/{name}/*"));
        } else {
            patterns.extend(paths.into_iter().map(|path| format!("{path}/*")));
        }
    }
    if patterns.len() > MAX_PATTERNS {
        patterns = vec![format!("{root}/**")];
    }
    (patterns, unnamed)
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some((
        meta.dev(),
        meta.ino(),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ))
}

impl Sources {
    /// As the files are now.
    pub fn stamps(&self) -> Stamps {
        let of = |file: &String| (file.clone(), stamp(&self.root.join(file)));
        Stamps(self.files.iter().map(of).collect())
    }

    /// The tracked file that a path means.
    pub fn file<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(&*self.root.to_string_lossy())?;
        rest.strip_prefix('/')
    }
}

impl Stamps {
    /// Whether git tracked it at the start.
    pub fn has(&self, file: &str) -> bool {
        self.0.contains_key(file)
    }

    /// What is not as it was, in order.
    pub fn changes(&self, sources: &Sources) -> Vec<(String, Change)> {
        let mut changes = Vec::new();
        for (file, before) in &self.0 {
            let now = stamp(&sources.root.join(file));
            let change = match (before, now) {
                // Deleted before guard came, and still.
                (None, None) => continue,
                (Some(_), None) => Change::Removed,
                (None, Some(_)) => Change::Replaced,
                (Some(before), Some(now)) if *before == now => continue,
                (Some(before), Some(now)) if (before.0, before.1) == (now.0, now.1) => {
                    Change::Written
                }
                _ => Change::Replaced,
            };
            changes.push((file.clone(), change));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(root: &str, files: &[&str]) -> (Vec<String>, usize) {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        patterns(Path::new(root), &files)
    }

    #[test]
    fn each_directory_with_a_tracked_file_has_a_pattern() {
        let (patterns, unnamed) = of(
            "/w/repo",
            &["README.md", "src/a.rs", "src/b.rs", "src/in/c.rs", "x[1]/d"],
        );
        assert_eq!(patterns, ["/w/repo/src/in/*", "/w/repo/*", "/w/repo/src/*"]);
        assert_eq!(unnamed, 1);
    }

    #[test]
    fn many_directories_of_one_name_share_a_pattern() {
        let files: Vec<String> = (0..20).map(|n| format!("p{n}/src/a.rs")).collect();
        let (shared, _) = patterns(Path::new("/w/repo"), &files);
        assert_eq!(shared, ["/w/repo/**/src/*"]);
        let files: Vec<String> = (0..2000).map(|n| format!("p{n}/a.rs")).collect();
        let (whole, _) = patterns(Path::new("/w/repo"), &files);
        assert_eq!(whole, ["/w/repo/**"]);
    }

    #[test]
    fn a_file_that_is_written_replaced_or_removed_is_not_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["same", "written", "replaced", "removed"];
        for name in names {
            fs::write(dir.path().join(name), "1").unwrap();
        }
        let sources = Sources {
            root: dir.path().into(),
            files: names.map(str::to_owned).to_vec(),
            patterns: Vec::new(),
            unnamed: 0,
        };
        let before = sources.stamps();
        assert!(before.changes(&sources).is_empty());
        // The clock of a file's times is coarse: written until it has moved on.
        while before.changes(&sources).is_empty() {
            fs::write(dir.path().join("written"), "2").unwrap();
        }
        fs::write(dir.path().join("new"), "2").unwrap();
        fs::rename(dir.path().join("new"), dir.path().join("replaced")).unwrap();
        fs::remove_file(dir.path().join("removed")).unwrap();
        let changes = before.changes(&sources);
        let expected = [
            ("removed", Change::Removed),
            ("replaced", Change::Replaced),
            ("written", Change::Written),
        ];
        assert_eq!(
            changes,
            expected.map(|(name, change)| (name.to_owned(), change))
        );
    }
}
