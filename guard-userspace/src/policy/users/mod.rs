//! A user's own policy file, `~/.config/guard/policy.toml`, which can only tighten.
//!
//! Whatever runs as the user can write that file, an agent too. So it may add labels and rules, and raise the verdict
//! of one of the machine's rules, all for the sessions of that user alone; it can except, lower, rename and turn off
//! nothing. What it adds is laid out behind what the machine's policy has, in what room is left, and a mistake in it
//! leaves it out and changes nothing else.

mod document;
mod find;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use self::{
    document::{LABEL, RAISE, RULE, TOP},
    find::{Account, FILE, Found, MAX_BYTES, Stamp, accounts, look},
};
use super::{
    Part, Policy, PolicyError,
    files::{self, Trust},
};

/// How long all homes together may take to answer, and one when a session begins. guardd does nothing else meanwhile;
/// the kernel does.
const PATIENCE: Duration = Duration::from_secs(2);
/// See [`PATIENCE`].
const GLANCE: Duration = Duration::from_millis(200);

/// Labels that one user may add. There is room for 64 of all.
pub const MAX_LABELS: usize = 4;
/// Patterns of files and of command lines that one user may add.
pub const MAX_PATTERNS: usize = 32;

/// What has become of one user's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserFile {
    /// Whose.
    pub uid: u32,
    /// The user's name.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// How it lay there.
    pub stamp: Option<Stamp>,
    /// Rules that it adds, or why it is left out, in one line.
    pub outcome: Result<usize, String>,
}

/// The files of all users, as they were when they were last read.
#[derive(Clone, Debug, Default)]
pub struct UserFiles {
    files: Vec<UserFile>,
    stamps: HashMap<u32, Option<Stamp>>,
}

impl UserFiles {
    /// Those that there are, in the order in which they were given room.
    pub fn iter(&self) -> impl Iterator<Item = &UserFile> {
        self.files.iter()
    }

    /// Whether a user's file is another one than was read.
    pub fn differs(&self, account: &Account) -> bool {
        let now = look(account, GLANCE).stamp();
        self.stamps.get(&account.uid).cloned().flatten() != now
    }
}

/// Checks what lies at the place of a user's file, or is to lie there, against the policy of this machine. `None` where
/// the path is not that of such a file.
///
/// # Errors
/// A mistake in it, or in the machine's policy.
pub fn check(path: &Path) -> Option<Result<usize, PolicyError>> {
    let path = std::path::absolute(path).ok()?;
    let home = path.ancestors().nth(FILE.split('/').count())?;
    if home.join(FILE) != path {
        return None;
    }
    let check = || {
        let mut policy = files::load(None, Trust::Anybodys)?;
        let part = files::read(&path, Trust::Anybodys)?;
        let account = Account {
            name: home
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            uid: 0,
            gid: 0,
            home: home.to_owned(),
        };
        policy.add_user(&account, part)
    };
    Some(check())
}

impl Policy {
    /// Adds the files of these users, who come first while there is room.
    pub fn add_users(&mut self, accounts: &[Account]) -> UserFiles {
        let mut users = UserFiles::default();
        let begun = Instant::now();
        for account in accounts {
            let left = PATIENCE.saturating_sub(begun.elapsed()).max(GLANCE / 10);
            let found = look(account, left);
            let stamp = found.stamp();
            users.stamps.insert(account.uid, stamp.clone());
            let part = match found {
                Found::Nothing => continue,
                Found::File(part, _) => Ok(part),
                Found::Refused(why, _) => Err(why),
            };
            let outcome = part.and_then(|part| {
                self.add_user(account, part)
                    .map_err(|error| error.one_line())
            });
            users.files.push(UserFile {
                uid: account.uid,
                name: account.name.clone(),
                path: account.file(),
                stamp,
                outcome,
            });
        }
        users
    }

    /// Adds what a user's file says. Gives the number of rules.
    ///
    /// # Errors
    /// A mistake in it, or tables that have no room for it; then nothing is changed.
    pub fn add_user(&mut self, account: &Account, part: Part) -> Result<usize, PolicyError> {
        let added = document::read(self, account, &part)?;
        let rules = added.rules.len();
        let mut more = self.clone();
        more.parts.push(part);
        more.labels.extend(added.labels);
        more.groups.extend(added.groups);
        more.rules.extend(added.rules);
        more.fits()?;
        *self = more;
        Ok(rules)
    }
}
