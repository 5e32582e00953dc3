//! Which agents are on this machine: their programs, where users' shells would find them.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::policy::{AgentMatcher, Homes, Policy, Program, users::Account};

/// Where programs for everybody are.
const SYSTEM: [&str; 6] = [
    "/usr/local/bin",
    "/usr/bin",
    "/bin",
    "/opt/homebrew/bin",
    "/home/linuxbrew/.linuxbrew/bin",
    "/snap/bin",
];
/// Where programs of one user are, from the home; a `*` is any one directory.
const OF_A_HOME: [&str; 13] = [
    ".local/bin",
    "bin",
    ".npm-global/bin",
    ".npm/bin",
    ".bun/bin",
    ".cargo/bin",
    "go/bin",
    ".volta/bin",
    ".local/share/pnpm",
    ".amp/bin",
    ".opencode/bin",
    ".nvm/versions/node/*/bin",
    ".local/share/uv/tools/*/bin",
];
/// Files that are looked at in one directory.
const MAX_FILES: usize = 20_000;

/// An agent's program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundAgent {
    /// The agent, as the policy calls it.
    pub agent: String,
    /// The program.
    pub program: PathBuf,
    /// In whose home it lies; `None` for everybody's.
    pub user: Option<String>,
}

/// Looks for the policy's agents.
pub fn find(policy: &Policy, accounts: &[Account]) -> Vec<FoundAgent> {
    let homes = Homes::of(accounts.iter().map(|account| account.home.clone()));
    let matcher = AgentMatcher::new(policy, &homes);
    let mut places: Vec<(PathBuf, Option<String>)> = SYSTEM
        .iter()
        .map(|directory| (PathBuf::from(directory), None))
        .collect();
    for account in accounts {
        for directory in OF_A_HOME {
            for place in expand(&account.home, directory) {
                places.push((place, Some(account.name.clone())));
            }
        }
    }
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for (directory, user) in places {
        // /bin is often /usr/bin, and homes may be shared.
        let Ok(real) = fs::canonicalize(&directory) else {
            continue;
        };
        if !seen.insert(real) {
            continue;
        }
        let entries = fs::read_dir(&directory).into_iter().flatten();
        for entry in entries.flatten().take(MAX_FILES) {
            let program = entry.path();
            if let Some(agent) = agent_of(&matcher, &program) {
                found.insert(FoundAgent {
                    agent,
                    program,
                    user: user.clone(),
                });
            }
        }
    }
    found.into_iter().collect()
}

fn expand(home: &Path, directory: &str) -> Vec<PathBuf> {
    match directory.split_once("/*/") {
        None => vec![home.join(directory)],
        Some((above, below)) => fs::read_dir(home.join(above))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().join(below))
            .collect(),
    }
}

/// Whose program it is: as guardd would recognise it when it is executed.
fn agent_of(matcher: &AgentMatcher, program: &Path) -> Option<String> {
    let meta = fs::metadata(program).ok()?;
    if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
        return None;
    }
    let resolved = fs::canonicalize(program).ok();
    let executed = program.as_os_str().as_bytes();
    let argv = [executed.to_vec()];
    let seen = Program {
        executed,
        resolved: resolved.as_deref(),
        argv: &argv,
        env: &[],
    };
    let by_name = matcher.recognise(&seen).map(|(agent, _)| agent.to_owned());
    // A script is executed by its interpreter.
    by_name.or_else(|| {
        let resolved = resolved.as_deref()?;
        let argv = [b"node".to_vec(), resolved.as_os_str().as_bytes().to_vec()];
        let seen = Program {
            executed: b"/usr/bin/node",
            resolved: None,
            argv: &argv,
            env: &[],
        };
        Some(matcher.recognise(&seen)?.0.to_owned())
    })
}
