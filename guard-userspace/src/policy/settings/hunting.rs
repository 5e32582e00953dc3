//! `[hunting]`: how many credential files a session may open before that is called a hunt.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::{
    PolicyError,
    read::{Table, table},
};

pub(super) const KEYS: &[&str] = &["files", "within"];
/// The most that are counted.
const MOST: u64 = 64;

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hunting {
    /// So many different ones; 0 for never.
    pub files: usize,
    /// In so long a time.
    pub within: Duration,
}

impl Default for Hunting {
    /// Six in ten minutes: an honest deployment reads its own two or three.
    fn default() -> Self {
        Self {
            files: 6,
            within: Duration::from_secs(600),
        }
    }
}

pub(super) fn read(top: &Table<'_>) -> Result<Hunting, PolicyError> {
    let mut hunting = Hunting::default();
    let Some(value) = top.value("hunting") else {
        return Ok(hunting);
    };
    let expected = "a table: begin it with [hunting]";
    let table = table(top.document, "hunting", "[hunting]", value, expected)?;
    table.only(KEYS)?;
    if let Some(files) = table.number("files", 0, MOST)? {
        hunting.files = usize::try_from(files).unwrap_or(hunting.files);
    }
    hunting.within = table.duration("within")?.unwrap_or(hunting.within);
    Ok(hunting)
}

#[cfg(test)]
mod tests {
    use super::Hunting;
    use crate::policy::{Policy, Source};

    fn hunting(text: &str) -> Result<Hunting, String> {
        Policy::parse(&format!("version = 1\n{text}"), Source::BuiltIn)
            .map(|policy| policy.settings.hunting)
            .map_err(|error| error.one_line())
    }

    #[test]
    fn how_many_in_how_long_a_time() {
        assert_eq!(hunting(""), Ok(Hunting::default()));
        let found = hunting("[hunting]\nfiles = 3\nwithin = \"1m\"\n").unwrap();
        assert_eq!((found.files, found.within.as_secs()), (3, 60));
        assert_eq!(hunting("[hunting]\nfiles = 0\n").unwrap().files, 0);
        assert!(
            hunting("[hunting]\nfiles = 65\n")
                .unwrap_err()
                .contains("0 to 64")
        );
        assert!(
            hunting("[hunting]\nwithin = 3\n")
                .unwrap_err()
                .contains("duration")
        );
    }
}
