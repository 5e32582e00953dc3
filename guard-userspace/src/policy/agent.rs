//! Which agent a program is.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use globset::{GlobBuilder, GlobMatcher};

use super::{
    Homes, Mistake, Policy,
    command::{fits, wild},
    glob::{Last, expand, final_name},
    interpreter,
};

/// One entry of an agent's `exe`: a base name, or a glob of the whole path (`~/` is any user's home).
#[derive(Clone, Debug)]
pub struct ExePattern {
    /// As written.
    pub text: String,
    alternatives: Vec<Alternative>,
}

#[derive(Clone, Debug)]
struct Alternative {
    /// What the kernel looks up.
    last: Last,
    /// For an entry with a slash: whether it begins in a home, and the glob of what comes after.
    path: Option<(bool, GlobMatcher)>,
}

impl ExePattern {
    pub(super) fn parse(text: &str) -> Result<Self, Mistake> {
        let bad = |reason: String| Mistake::BadGlob {
            text: text.into(),
            reason,
        };
        let mut alternatives = Vec::new();
        for pattern in expand(text)? {
            let name = pattern.rsplit('/').next().unwrap_or_default();
            if matches!(name, "" | "*" | "**") {
                return Err(bad("it does not say which program: expected a name at its end, like \"**/bin/claude\"".into()));
            }
            if let Some(c) = name
                .chars()
                .find(|c| matches!(c, '?' | '[' | ']' | '\\' | '\0'))
            {
                return Err(bad(format!(
                    "{c:?} in the program's name: expected a name, with one * at most"
                )));
            }
            let last = final_name(name).map_err(&bad)?;
            let path = if pattern.contains('/') {
                Some(path_glob(&pattern).map_err(&bad)?)
            } else {
                None
            };
            alternatives.push(Alternative { last, path });
        }
        Ok(Self {
            text: text.into(),
            alternatives,
        })
    }

    /// The forms of base name that the kernel looks for.
    pub(super) fn names(&self) -> impl Iterator<Item = &Last> {
        self.alternatives
            .iter()
            .map(|alternative| &alternative.last)
    }

    fn matches(&self, path: &[u8], homes: &Homes) -> bool {
        let name = interpreter::base(path);
        self.alternatives.iter().any(|alternative| {
            fits(&alternative.last, name)
                && match &alternative.path {
                    None => true,
                    Some((false, glob)) => glob.is_match(Path::new(OsStr::from_bytes(path))),
                    Some((true, glob)) => {
                        let path = Path::new(OsStr::from_bytes(path));
                        homes.iter().any(|home| {
                            path.strip_prefix(home)
                                .is_ok_and(|rest| glob.is_match(rest))
                        })
                    }
                }
        })
    }
}

pub(super) fn path_glob(pattern: &str) -> Result<(bool, GlobMatcher), String> {
    let (home, glob) = match pattern.strip_prefix("~/") {
        Some(rest) => (true, rest),
        None if pattern.starts_with('/') || pattern.starts_with("**/") => (false, pattern),
        None => {
            return Err(format!(
                "a path that begins nowhere: expected \"**/{pattern}\" (anywhere), \"~/…\" or \"/…\""
            ));
        }
    };
    let compiled = GlobBuilder::new(glob)
        .literal_separator(true)
        .build()
        .map_err(|error| format!("{}: expected a glob of a path", error.kind()))?;
    Ok((home, compiled.compile_matcher()))
}

/// One entry of an agent's `env`: `NAME` (whatever its value), or `NAME=VALUE`, where `*` in the value
/// is any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvMarker {
    /// Name of the variable.
    pub name: String,
    /// Its value; none for any.
    pub value: Option<String>,
}

impl EnvMarker {
    pub(super) fn parse(text: &str) -> Result<Self, Mistake> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let bad = |reason: &str| {
            Err(Mistake::BadEnv {
                text: text.into(),
                reason: reason.into(),
            })
        };
        if !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            return bad("a name holds letters, digits and _: expected NAME or NAME=VALUE");
        }
        if name.len() < 3 {
            return bad(
                "its name is too short to tell anything: expected a name of three characters or more",
            );
        }
        Ok(Self {
            name: name.into(),
            value,
        })
    }

    fn matches(&self, entry: &[u8]) -> bool {
        let Some(rest) = entry.strip_prefix(self.name.as_bytes()) else {
            return false;
        };
        let Some(value) = rest.strip_prefix(b"=") else {
            return false;
        };
        self.value
            .as_ref()
            .is_none_or(|wanted| wild(wanted.as_bytes(), value))
    }
}

/// What is known of a program that was executed, or runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Program<'a> {
    /// Its path, as given to exec.
    pub executed: &'a [u8],
    /// The file that this led to.
    pub resolved: Option<&'a Path>,
    /// Its command line.
    pub argv: &'a [Vec<u8>],
    /// Its environment: `NAME=VALUE` entries, each followed by a NUL, as in `/proc/PID/environ`.
    pub env: &'a [u8],
}

/// By what an agent was recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The program.
    Exe,
    /// The script that an interpreter runs.
    Script,
    /// A variable that the agent sets for what it runs: the program itself is not the agent.
    Env,
}

/// Recognises agents.
#[derive(Clone, Debug)]
pub struct AgentMatcher {
    agents: Vec<super::Agent>,
    homes: Homes,
}

impl AgentMatcher {
    /// The agents of a policy. `homes` is what `~/` in an `exe` stands for.
    pub fn new(policy: &Policy, homes: &Homes) -> Self {
        Self {
            agents: policy.agents.clone(),
            homes: homes.clone(),
        }
    }

    /// The agent that a program is (or whose mark it carries). The program counts before the script,
    /// and both before the environment, which every descendant of an agent inherits; within each, the
    /// policy's order decides.
    pub fn recognise(&self, program: &Program<'_>) -> Option<(&str, Found)> {
        let resolved = program.resolved.map(|path| path.as_os_str().as_bytes());
        let called = program.argv.first().map(Vec::as_slice);
        let names: Vec<&[u8]> = [Some(program.executed), resolved, called]
            .into_iter()
            .flatten()
            .filter(|name| !name.is_empty())
            .collect();
        let by_exe = |paths: &[&[u8]]| {
            self.agents.iter().find(|agent| {
                agent
                    .exe
                    .iter()
                    .any(|exe| paths.iter().any(|path| exe.matches(path, &self.homes)))
            })
        };
        if let Some(agent) = by_exe(&names) {
            return Some((&agent.name, Found::Exe));
        }
        let script = names
            .iter()
            .map(|name| interpreter::base(name))
            .find(|base| interpreter::is_interpreter(base))
            .and_then(|base| interpreter::script(base, program.argv));
        if let Some(agent) = script.and_then(|at| by_exe(&[&program.argv[at]])) {
            return Some((&agent.name, Found::Script));
        }
        let marked = |agent: &&super::Agent| {
            agent.env.iter().any(|marker| {
                program
                    .env
                    .split(|byte| *byte == 0)
                    .any(|entry| marker.matches(entry))
            })
        };
        self.agents
            .iter()
            .find(marked)
            .map(|agent| (agent.name.as_str(), Found::Env))
    }
}
