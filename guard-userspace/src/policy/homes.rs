//! Users' home directories, which `~/` stands for, and the files that lie in them now.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::{Component as PathComponent, Path, PathBuf},
};

use guard_common::matching::{component, join};

use super::{
    command::fits,
    glob::{Anchor, Component, Last, PathGlob},
};

/// Components of a home that the kernel looks up.
pub(super) const MAX_HOME_COMPONENTS: usize = 4;
/// Directories that a search for known files reads at most, so that `/*/*/…` ends.
const MAX_DIRECTORIES: usize = 20_000;

/// Absolute paths of home directories, each once, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Homes(Vec<PathBuf>);

impl Homes {
    /// The homes in /etc/passwd and the directories in /home, both as written and with links
    /// resolved. What cannot be read is left out.
    pub fn from_system() -> Self {
        let passwd = fs::read("/etc/passwd").unwrap_or_default();
        let mut homes = passwd_homes(&passwd);
        if let Ok(entries) = fs::read_dir("/home") {
            homes.extend(
                entries
                    .flatten()
                    .map(|entry| entry.path())
                    .filter(|path| path.is_dir()),
            );
        }
        // The kernel compares with the path that a file really has.
        let real: Vec<_> = homes
            .iter()
            .filter_map(|home| fs::canonicalize(home).ok())
            .collect();
        homes.extend(real);
        Self::of(homes)
    }

    /// These homes; what is not an absolute path below the root is left out.
    pub fn of<P: Into<PathBuf>>(homes: impl IntoIterator<Item = P>) -> Self {
        let homes: BTreeSet<PathBuf> = homes
            .into_iter()
            .map(|home| home.into().components().collect::<PathBuf>())
            .filter(|home| {
                home.is_absolute() && home != Path::new("/") && home != Path::new("/nonexistent")
            })
            .filter(|home| {
                !home
                    .components()
                    .any(|part| part == PathComponent::ParentDir)
            })
            .collect();
        Self(homes.into_iter().collect())
    }

    /// The homes.
    pub fn iter(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(PathBuf::as_path)
    }

    /// Homes with more components than the kernel looks up: there `~/` patterns only hold for files
    /// that exist when the policy is compiled.
    pub fn too_deep(&self) -> Vec<&Path> {
        self.iter()
            .filter(|home| names(home).len() > MAX_HOME_COMPONENTS)
            .collect()
    }

    /// [`super::Tables::homes`].
    pub(super) fn hashes(&self) -> Vec<(u64, u32)> {
        let mut hashes: Vec<(u64, u32)> = self
            .iter()
            .map(names)
            .filter(|names| names.len() <= MAX_HOME_COMPONENTS)
            .map(|names| {
                (
                    names
                        .iter()
                        .fold(0, |above, name| join(above, component(name.as_bytes()))),
                    names.len() as u32,
                )
            })
            .collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }

    /// The files and sockets that an anchored pattern without a gap matches now, links to files included, until
    /// there are `most`, or `budget` is used up.
    pub(super) fn existing(
        &self,
        path: &PathGlob,
        most: usize,
        budget: &mut Search,
    ) -> Vec<PathBuf> {
        let bases: Vec<PathBuf> = match path.anchor {
            Anchor::Nowhere => return Vec::new(),
            Anchor::Root => vec!["/".into()],
            Anchor::Home => self.0.clone(),
        };
        if path.gap || path.last == Last::Under {
            return Vec::new();
        }
        let mut found = Vec::new();
        for base in bases {
            let mut directories = vec![base];
            for component in &path.root {
                directories = match component {
                    Component::Name(name) => directories
                        .into_iter()
                        .map(|above| above.join(name))
                        .filter(|path| path.is_dir())
                        .collect(),
                    Component::Any => directories
                        .iter()
                        .flat_map(|above| budget.list(above))
                        .map(|(path, _)| path)
                        .filter(|path| path.is_dir())
                        .collect(),
                };
            }
            for directory in directories {
                let candidates = match &path.last {
                    Last::Exact(name) => vec![directory.join(name)],
                    last => {
                        let mut listed = budget.list(&directory);
                        listed.retain(|(_, name)| fits(last, name.as_bytes()));
                        listed.into_iter().map(|(path, _)| path).collect()
                    }
                };
                let room = most.saturating_sub(found.len());
                found.extend(
                    candidates
                        .into_iter()
                        .filter(|path| is_file(path))
                        .take(room),
                );
            }
        }
        found
    }
}

/// What a search for files may still read.
#[derive(Debug)]
pub(super) struct Search {
    directories: usize,
}

impl Search {
    pub(super) fn new() -> Self {
        Self {
            directories: MAX_DIRECTORIES,
        }
    }

    fn list(&mut self, directory: &Path) -> Vec<(PathBuf, std::ffi::OsString)> {
        if self.directories == 0 {
            return Vec::new();
        }
        self.directories -= 1;
        let Ok(entries) = fs::read_dir(directory) else {
            return Vec::new();
        };
        let mut listed: Vec<_> = entries
            .flatten()
            .map(|entry| (entry.path(), entry.file_name()))
            .collect();
        listed.sort();
        listed
    }
}

/// Whether there is a file or a socket, perhaps behind links.
fn is_file(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() || metadata.file_type().is_socket())
}

/// The sixth field of each line, <https://man7.org/linux/man-pages/man5/passwd.5.html>.
fn passwd_homes(passwd: &[u8]) -> Vec<PathBuf> {
    passwd
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b':').nth(5))
        .map(|home| PathBuf::from(OsStr::from_bytes(home)))
        .collect()
}

/// The names in an absolute path, root first.
pub(super) fn names(path: &Path) -> Vec<&OsStr> {
    path.components()
        .filter_map(|part| match part {
            PathComponent::Normal(name) => Some(name),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes_come_from_the_sixth_field_and_useless_ones_are_left_out() {
        let passwd = b"root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/nonexistent:/x\n\
                       daemon:x:1:1::/:/x\nbroken\nann:x:1000:1000:Ann,,,:/home/ann/:/bin/sh\n\
                       ann2:x:1001:1000::/home/ann:/bin/sh\nrel:x:9:9::home/rel:/x\n";
        let homes = Homes::of(passwd_homes(passwd));
        assert_eq!(
            homes.iter().collect::<Vec<_>>(),
            [Path::new("/home/ann"), Path::new("/root")]
        );
    }
}
