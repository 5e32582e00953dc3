//! Which files are guard's own: what a session must not write, replace or remove for guard to go on as it does.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use guard_common::state::own;

use super::{Engine, Options};
use crate::{
    DEFAULT_POLICY,
    policy::files::{self, Trust},
};

/// Where a unit of guard's may lie; where packages and people put it.
const UNITS: [&str; 6] = [
    "/etc/systemd/system/guard.service",
    "/etc/systemd/system/guard.service.d",
    "/run/systemd/system/guard.service.d",
    "/usr/local/lib/systemd/system/guard.service",
    "/usr/lib/systemd/system/guard.service",
    "/lib/systemd/system/guard.service",
];

/// Those that exist, directories among them: what lies directly in such a directory is guard's as well.
fn paths(options: &Options) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = UNITS.iter().map(PathBuf::from).collect();
    // The directory that is guard's alone; one that a person has named has other files in it too.
    let directory = Path::new(DEFAULT_POLICY).parent();
    paths.extend(directory.map(Path::to_owned));
    paths.extend(directory.map(|directory| directory.join("policy.d")));
    paths.extend(options.policy.clone());
    // Beside a policy that lies elsewhere only these are guard's.
    let main = options
        .policy
        .as_deref()
        .unwrap_or(Path::new(DEFAULT_POLICY));
    let fragments = files::fragments_of(main);
    paths.extend(files::fragments(&fragments, Trust::Anybodys).unwrap_or_default());
    paths.push(fragments);
    paths.extend(options.own.iter().cloned());
    if let Ok(program) = std::env::current_exe() {
        paths.push(program.with_file_name("guardctl"));
        paths.push(program);
    }
    paths.push(options.state_dir.clone());
    let inside = fs::read_dir(&options.state_dir).into_iter().flatten();
    paths.extend(
        inside
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .filter(|path| path.is_dir()),
    );
    paths.retain(|path| path.exists());
    paths.sort();
    paths.dedup();
    paths
}

fn device(path: &Path) -> Option<u64> {
    Some(fs::metadata(path).ok()?.dev())
}

impl Engine {
    /// Tells the kernel which files are guard's own: at the start, and when a policy is loaded, which may have
    /// been replaced.
    pub(super) fn mark_own_files(&mut self) {
        let mut own: BTreeMap<u64, Vec<PathBuf>> = BTreeMap::new();
        let mut marked = Vec::new();
        self.problems.remove("own-files");
        for path in paths(&self.options) {
            // Of a file system's root only itself: others have their files in it too.
            let is_root = path
                .parent()
                .is_none_or(|above| device(above) != device(&path));
            let how = if is_root && !path.starts_with(&self.options.state_dir) {
                own::ITSELF
            } else {
                own::WITH_CONTENT
            };
            match self.kernel.tables.own_file(&path, how) {
                Ok(file) => {
                    marked.push(file);
                    own.entry(file.ino).or_default().push(path);
                }
                Err(error) => {
                    let problem = format!("{}: not protected: {error}", path.display());
                    self.problems.insert("own-files", problem);
                }
            }
        }
        // Users' own files, so that a session cannot loosen what its user has tightened. By what was read: what lies at
        // the path by now may be something else.
        for (path, stamp) in self.user_files() {
            match self.kernel.tables.own_inode(stamp.dev, stamp.ino) {
                Ok(file) => {
                    marked.push(file);
                    own.entry(file.ino).or_default().push(path);
                }
                Err(error) => {
                    let problem = format!("{}: not protected: {error}", path.display());
                    self.problems.insert("own-files", problem);
                }
            }
        }
        // What has been replaced since is guard's no more, and its inode may be another file's by now.
        self.kernel.tables.keep_own_files(&marked);
        self.own_files = own;
    }
}
