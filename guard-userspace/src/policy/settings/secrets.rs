//! `[secrets]`: which files are searched for secrets, and what that may cost.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{bad, journal};
use crate::{
    policy::{
        error::{Mistake, PolicyError},
        read::{Table, table},
    },
    secrets::WatchLimits,
};

pub(super) const KEYS: &[&str] = &["enabled", "roots", "size", "files", "directories"];
/// The most that `files` and `directories` may be.
pub(super) const MOST: u64 = 10_000_000;
/// The most that is read of one file, bytes: it is in memory whole.
const LARGEST: u64 = 64 << 20;

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Whether files are searched; `None`: where a rule names a label that comes of it.
    pub enabled: Option<bool>,
    /// Directories that are searched beside those of sessions.
    pub roots: Vec<PathBuf>,
    /// What it may cost.
    pub limits: WatchLimits,
}

pub(super) fn read(top: &Table<'_>) -> Result<Secrets, PolicyError> {
    let mut secrets = Secrets::default();
    let Some(value) = top.value("secrets") else {
        return Ok(secrets);
    };
    let expected = "a table: begin it with [secrets]";
    let table = table(top.document, "secrets", "[secrets]", value, expected)?;
    table.only(KEYS)?;
    secrets.enabled = table.boolean("enabled")?.map(|flag| flag.is);
    for entry in table.strings("roots")? {
        let path = Path::new(&entry.text);
        let reason = if !path.is_absolute() {
            "expected the whole path of a directory"
        } else if path.parent().is_none() {
            "all of the file system is no root: expected directories in it"
        } else {
            secrets.roots.push(path.into());
            continue;
        };
        return Err(bad(&table, "roots", &entry, reason));
    }
    if let Some(entry) = table.string("size")? {
        let span = entry.span.clone();
        let text = entry.text.clone();
        secrets.limits.bytes = match journal::size(&table, entry)? {
            Some(size) if size <= LARGEST => size as usize,
            _ => {
                let mistake = Mistake::BadWord {
                    key: "size",
                    word: text,
                    expected: "at most 64MiB".into(),
                    near: None,
                };
                return Err(table.document.error(span, mistake));
            }
        };
    }
    if let Some(files) = table.number("files", 1, MOST)? {
        secrets.limits.files = files;
    }
    if let Some(directories) = table.number("directories", 1, MOST)? {
        secrets.limits.directories = directories;
    }
    Ok(secrets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, Source};

    fn policy(text: &str) -> Result<Policy, String> {
        let text = format!("version = 1\n{text}");
        Policy::parse(&text, Source::BuiltIn).map_err(|error| error.one_line())
    }

    fn rule(labels: &str) -> String {
        format!("[[rule]]\nname = \"r\"\nwhen = [{labels}]\nthen = \"flag\"\n")
    }

    #[test]
    fn files_are_searched_when_a_rule_asks_for_it_or_the_policy_says_so() {
        let own = "[[label]]\nname = \"secret\"\nfiles = [\"**/x\"]\n";
        for (text, looks, asks) in [
            (String::new(), false, false),
            ("[secrets]\nenabled = true\n".into(), true, false),
            (rule("\"secret\""), true, false),
            (
                rule("\"secret:railway\", \"uses:secret:railway\""),
                true,
                true,
            ),
            (rule("\"foreign-secret\""), true, true),
            (
                format!("[secrets]\nenabled = false\n{}", rule("\"uses:secret\"")),
                false,
                false,
            ),
            // A label of that name that the policy has itself is first of all its own.
            (own.to_owned() + &rule("\"secret\""), false, false),
        ] {
            let policy = policy(&text).unwrap();
            assert_eq!(policy.looks_for_secrets(), looks, "{text}");
            assert_eq!(policy.asks_about_secrets(), asks, "{text}");
            assert_eq!(policy.asks_about_any(), asks, "{text}");
        }
        let policy = policy(&rule("\"secret:aws\", \"secret\"")).unwrap();
        assert_eq!(policy.labels, ["secret", "secret:aws"]);
    }

    #[test]
    fn what_is_said_is_read_and_a_mistake_is_shown_where_it_is() {
        let secrets = policy(
            "[secrets]\nroots = [\"/srv/shop\"]\nsize = \"1MiB\"\nfiles = 10\ndirectories = 5",
        )
        .unwrap()
        .settings
        .secrets;
        assert_eq!(secrets.roots, [Path::new("/srv/shop")]);
        let limits = WatchLimits {
            bytes: 1 << 20,
            files: 10,
            directories: 5,
        };
        assert_eq!(secrets.limits, limits);
        for (text, says) in [
            ("[secrets]\nroots = [\"src\"]", ":3:10: "),
            ("[secrets]\nroots = [\"/\"]", "no root"),
            ("[secrets]\nsize = \"1GiB\"", "at most 64MiB"),
            ("[secrets]\nfiles = 0", "a number from 1 to"),
            ("[secrets]\nfiles = \"all\"", "files is a string"),
            ("[secrets]\nroot = []", "did you mean \"roots\"?"),
            (
                &rule("\"secret:railwai\""),
                "did you mean \"secret:railway\"?",
            ),
            (
                &rule("\"uses:secret:awz\""),
                "did you mean \"uses:secret:aws\"?",
            ),
        ] {
            let said = policy(text).unwrap_err();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
