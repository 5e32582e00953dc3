//! `[[persona]]`: what a kind of work may touch at all.

use std::path::Path;

use globset::GlobMatcher;

use super::{Homes, Mistake, agent::path_glob};

/// A kind of work.
#[derive(Clone, Debug)]
pub struct Persona {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Agents whose sessions have it.
    pub agents: Vec<String>,
    /// Directories in which sessions have it that begin there, or below.
    pub directories: Vec<Directory>,
    /// Labels that it may touch.
    pub allows: Vec<String>,
}

/// Directories, by a pattern.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Whether it begins in a home.
    home: bool,
    glob: GlobMatcher,
}

impl Directory {
    pub(super) fn parse(text: &str) -> Result<Self, Mistake> {
        let (home, glob) =
            path_glob(text.trim_end_matches('/')).map_err(|reason| Mistake::BadGlob {
                text: text.into(),
                reason,
            })?;
        Ok(Self { home, glob })
    }

    fn matches(&self, path: &Path, homes: &Homes) -> bool {
        path.ancestors().any(|path| {
            if self.home {
                homes.iter().any(|home| {
                    path.strip_prefix(home)
                        .is_ok_and(|rest| self.glob.is_match(rest))
                })
            } else {
                self.glob.is_match(path)
            }
        })
    }
}

impl Persona {
    /// Whether sessions of an agent that begin in a directory have it: of the agents and the directories that it names each must fit.
    pub fn is_for(&self, agent: &str, directory: Option<&Path>, homes: &Homes) -> bool {
        let named = !self.agents.is_empty() || !self.directories.is_empty();
        named
            && (self.agents.is_empty() || self.agents.iter().any(|name| name == agent))
            && (self.directories.is_empty()
                || directory.is_some_and(|path| {
                    self.directories
                        .iter()
                        .any(|known| known.matches(path, homes))
                }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, Source};

    #[test]
    fn a_persona_is_for_agents_and_for_directories_and_what_is_below() {
        let text = "version = 1\n[[label]]\nname = \"infra\"\nfiles = [\"/x\"]\n\
            [[persona]]\nname = \"infra\"\ndirectories = [\"~/infra\", \"/srv/*/deploy\"]\nallows = [\"infra\"]\n\
            [[persona]]\nname = \"coding\"\nagents = [\"claude-code\"]\nallows = []\n\
            [[persona]]\nname = \"both\"\nagents = [\"codex\"]\ndirectories = [\"~/src\"]\nallows = []\n\
            [[persona]]\nname = \"by-hand\"\nallows = []\n";
        let policy = Policy::parse(text, Source::BuiltIn).unwrap();
        let homes = Homes::of(["/home/ada"]);
        let of = |agent: &str, path: &str| {
            let mut all = policy.personas.iter();
            all.find(|persona| persona.is_for(agent, Some(Path::new(path)), &homes))
                .map(|persona| persona.name.as_str())
        };
        assert_eq!(of("claude-code", "/home/ada/infra/eu"), Some("infra"));
        assert_eq!(of("x", "/srv/a/deploy"), Some("infra"));
        assert_eq!(of("x", "/home/ada/infrastructure"), None);
        assert_eq!(of("claude-code", "/home/ada/shop"), Some("coding"));
        assert_eq!(of("codex", "/home/ada/shop"), None);
        assert_eq!(of("codex", "/home/ada/src/shop"), Some("both"));
        for (text, says) in [
            ("[[persona]]\nname = \"p\"\n", "allows"),
            (
                "[[persona]]\nname = \"p\"\nallows = [\"infa\"]\n",
                "unknown label \"infa\"",
            ),
            (
                "[[persona]]\nname = \"p\"\nallows = []\ndirectories = [\"work\"]\n",
                "begins nowhere",
            ),
        ] {
            let error =
                Policy::parse(&format!("version = 1\n{text}"), Source::BuiltIn).unwrap_err();
            assert!(error.one_line().contains(says), "{error}");
        }
    }
}
