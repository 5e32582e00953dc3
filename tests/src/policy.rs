//! Policies, put together from what a test is about.

use std::{fmt::Display, ops::Deref};

/// A policy's text.
#[derive(Clone, Debug)]
pub struct Policy(String);

impl Deref for Policy {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

fn list<T: Display>(entries: &[T]) -> String {
    let quoted: Vec<String> = entries.iter().map(|entry| format!("\"{entry}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

impl Policy {
    /// One that says nothing yet.
    #[expect(
        clippy::new_without_default,
        reason = "a policy without a version is none"
    )]
    pub fn new() -> Self {
        Self("version = 1\n".into())
    }

    /// The one that is built in, but for its agents: none of this machine is to be watched for a test.
    pub fn built_in() -> Self {
        const TEXT: &str = include_str!("../../policy/default.toml");
        let table = |name: &str| {
            let at = TEXT.find(name);
            at.unwrap_or_else(|| panic!("the built-in policy has no {name}"))
        };
        let policy = Self(TEXT[..table("[[agent]]")].into());
        policy.and(&TEXT[table("[[label]]")..])
    }

    /// Adds anything.
    pub fn and(mut self, text: &str) -> Self {
        self.0.push_str(text);
        self.0.push('\n');
        self
    }

    /// Records verdicts and touches nothing. Must come first.
    pub fn observing(self) -> Self {
        self.and("mode = \"observe\"")
    }

    /// An agent by program, and by environment marker unless that is empty.
    pub fn agent(self, name: &str, exe: &str, env: &str) -> Self {
        let mut text = format!("[[agent]]\nname = \"{name}\"\n");
        for (key, value) in [("exe", exe), ("env", env)] {
            if !value.is_empty() {
                text.push_str(&format!("{key} = [\"{value}\"]\n"));
            }
        }
        self.and(&text)
    }

    /// A label by files.
    pub fn files<T: Display>(self, label: &str, files: &[T]) -> Self {
        self.and(&format!(
            "[[label]]\nname = \"{label}\"\nfiles = {}",
            list(files)
        ))
    }

    /// A label by addresses.
    pub fn addresses<T: Display>(self, label: &str, addresses: &[T]) -> Self {
        self.and(&format!(
            "[[label]]\nname = \"{label}\"\naddresses = {}",
            list(addresses)
        ))
    }

    /// A label by command lines.
    pub fn argv<T: Display>(self, label: &str, patterns: &[T]) -> Self {
        self.and(&format!(
            "[[label]]\nname = \"{label}\"\nargv = {}",
            list(patterns)
        ))
    }

    /// A rule; `more` are further lines.
    pub fn rule(self, name: &str, when: &[&str], then: &str, more: &str) -> Self {
        let when = list(when);
        self.and(&format!(
            "[[rule]]\nname = \"{name}\"\nwhen = {when}\nthen = \"{then}\"\n{more}"
        ))
    }
}
