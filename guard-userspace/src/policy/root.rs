//! Which paths on a command line are a *root* (`@root` in a pattern): a directory whose loss is the loss of the system
//! or of somebody's home.

use std::collections::HashMap;

/// Directories directly below `/`. Filesystem Hierarchy Standard 3.0, chapter 3
/// (<https://refspecs.linuxfoundation.org/FHS_3.0/fhs/ch03.html>), without /tmp, which is there to be emptied.
const TOP: [&str; 24] = [
    "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt", "nix",
    "opt", "proc", "root", "run", "sbin", "srv", "sys", "sysroot", "usr", "var", "Users",
    "private",
];
/// Directories below those.
const SECOND: [(&str, &str); 8] = [
    ("usr", "bin"),
    ("usr", "sbin"),
    ("usr", "lib"),
    ("usr", "lib64"),
    ("usr", "share"),
    ("usr", "local"),
    ("var", "lib"),
    ("boot", "efi"),
];
/// In a home. XDG user directories, <https://www.freedesktop.org/wiki/Software/xdg-user-dirs/>; ssh(1), FILES; XDG Base
/// Directory Specification, <https://specifications.freedesktop.org/basedir-spec/latest/>.
const IN_HOME: [&str; 8] = [
    "Desktop",
    "Documents",
    "Downloads",
    "Music",
    "Pictures",
    "Videos",
    ".ssh",
    ".config",
];
/// As many entries of one root stand for all of it: so `~/*` looks when a shell has expanded it.
const MANY: usize = 4;

/// For each word, whether it is a root.
pub(super) fn roots(words: &[&str]) -> Vec<bool> {
    let paths: Vec<Option<Path<'_>>> = words.iter().map(|word| Path::parse(word)).collect();
    let mut entries: HashMap<Path<'_>, usize> = HashMap::new();
    for path in paths.iter().flatten().filter_map(Path::counted_root) {
        *entries.entry(path).or_default() += 1;
    }
    paths
        .iter()
        .map(|path| {
            let many = |path: &Path<'_>| {
                path.counted_root()
                    .is_some_and(|root| entries.get(&root) >= Some(&MANY))
            };
            path.as_ref()
                .is_some_and(|path| path.is_root() || many(path))
        })
        .collect()
}

/// A path that begins at the root or in a home, without `.` and `..`.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Path<'a> {
    /// The home, as written (`~`, `~ann`, `$HOME`); none for `/`.
    home: Option<&'a str>,
    below: Vec<&'a str>,
}

impl<'a> Path<'a> {
    const TOP: Self = Self {
        home: None,
        below: Vec::new(),
    };

    fn parse(word: &'a str) -> Option<Self> {
        let (first, rest) = word.split_once('/').unwrap_or((word, ""));
        let home = match first {
            "" if word.is_empty() => return None,
            "" => None,
            "$HOME" | "${HOME}" => Some("~"),
            _ if first.starts_with('~') => Some(first),
            _ => return None,
        };
        let mut below = Vec::new();
        for part in rest.split('/') {
            match part {
                "" | "." => {}
                // Above a home lies /home, as good as always; above `/` nothing.
                ".." if below.pop().is_none() && home.is_some() => return Some(Self::TOP),
                ".." => {}
                _ => below.push(part),
            }
        }
        // All that lies in a directory is as much as the directory: `/*`, `/{*,.*}`, `/.[!.]*`.
        let all =
            |part: &&str| part.contains('*') && part.bytes().all(|b| b"*?.[]{}!^,".contains(&b));
        while below.last().is_some_and(all) {
            below.pop();
        }
        Some(Self { home, below })
    }

    /// The root that this is an entry of, where entries count for it: `*` leaves hidden ones out, and what lies in `/`
    /// itself is known by name.
    fn counted_root(&self) -> Option<Self> {
        let mut above = self.clone();
        let name = above.below.pop().filter(|name| !name.starts_with('.'))?;
        (!name.is_empty() && above != Self::TOP && above.is_root()).then_some(above)
    }

    fn is_root(&self) -> bool {
        match (self.home, &*self.below) {
            (_, []) => true,
            (Some(_), [name]) => IN_HOME.contains(name),
            (None, [name]) => TOP.contains(name),
            // Somebody's home.
            (None, ["home" | "Users", _]) => true,
            (None, ["home" | "Users", _, name]) | (None, ["root", name]) => IN_HOME.contains(name),
            (None, [first, second]) => SECOND.contains(&(first, second)),
            _ => false,
        }
    }
}
