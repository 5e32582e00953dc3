//! `.guard/intent.toml`: an intent in so many words, with the work that it is for.

use std::path::Path;

use serde::Deserialize;

use super::Intent;

/// Where it is, below the directory that a session begins in.
pub const FILE: &str = ".guard/intent.toml";
/// Bytes that it may have.
pub const MAX_FILE: usize = 16 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    text: String,
    #[serde(default)]
    environments: Vec<String>,
    #[serde(default)]
    allows: Option<Vec<String>>,
    #[serde(default)]
    refuses: Vec<String>,
}

impl Intent {
    /// What such a file says. Where it has no `allows` its text is understood like any other.
    ///
    /// # Errors
    /// One line that says what is wrong in `path`.
    pub fn from_file(path: &Path, text: &str) -> Result<Self, String> {
        let written: Written = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            format!(
                "{}:{line}: {}: expected text = \"…\", and environments, allows and refuses as lists of words",
                path.display(),
                error.message()
            )
        })?;
        let mut intent = Self::understand(&written.text);
        if !written.environments.is_empty() {
            intent.environments = written.environments.into_iter().collect();
        }
        if let Some(allows) = written.allows {
            intent.allows = allows.into_iter().collect();
        }
        intent.refuses.extend(written.refuses);
        let refused = intent.refuses.clone();
        intent.allows.retain(|label| !refused.contains(label));
        Ok(intent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_it_in_so_many_words_or_leaves_it_to_its_text() {
        let read = |text: &str| Intent::from_file(Path::new("p/.guard/intent.toml"), text);
        let intent = read("text = \"fix the login\"\nenvironments = [\"staging\"]\nallows = [\"infra\", \"credential\"]\nrefuses = [\"infra\"]\n").unwrap();
        assert_eq!(
            intent.says(),
            "environment staging; may touch credential; not infra"
        );
        assert_eq!(intent.text, "fix the login");
        assert_eq!(
            read("text = \"rotate tokens in prod\"").unwrap().says(),
            "environment production; may touch credential, secret, secret-store"
        );
        for (text, line) in [
            ("", 1),
            ("text = \"x\"\nallow = []\n", 2),
            ("text = 3", 1),
            ("x", 1),
        ] {
            let said = read(text).unwrap_err();
            assert!(
                said.starts_with(&format!("p/.guard/intent.toml:{line}: ")),
                "{said}"
            );
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}
