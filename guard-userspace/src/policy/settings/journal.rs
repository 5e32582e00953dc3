//! `[journal]`: how much of it is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::policy::{
    PolicyError,
    error::Mistake,
    read::{Entry, Table, table},
};

pub(super) const KEYS: &[&str] = &["keep", "size"];
/// In place of a limit.
const UNLIMITED: &str = "unlimited";
const SIZES: &[(&str, u64)] = &[
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];
/// Less is not a journal but a window.
const SMALLEST: u64 = 1 << 20;
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Limits of the journal on disk. Whole files go, the oldest first, and the chain says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// How long events stay at least; `None` for good.
    pub keep: Option<Duration>,
    /// Bytes that it takes at most, to within an eighth; `None` for no limit.
    pub size: Option<u64>,
}

impl Default for Journal {
    /// 90 days, 2 GiB.
    fn default() -> Self {
        Self {
            keep: Some(Duration::from_secs(90 * 86_400)),
            size: Some(2 << 30),
        }
    }
}

pub(super) fn read(top: &Table<'_>) -> Result<Journal, PolicyError> {
    let mut journal = Journal::default();
    let Some(value) = top.value("journal") else {
        return Ok(journal);
    };
    let expected = "a table: begin it with [journal]";
    let table = table(top.document, "journal", "[journal]", value, expected)?;
    table.only(KEYS)?;
    if let Some(entry) = table.string("keep")? {
        journal.keep = age(&table, entry)?;
    }
    if let Some(entry) = table.string("size")? {
        journal.size = size(&table, entry)?;
    }
    Ok(journal)
}

fn age(table: &Table<'_>, entry: Entry) -> Result<Option<Duration>, PolicyError> {
    if entry.text == UNLIMITED {
        return Ok(None);
    }
    let reason = match humantime::parse_duration(&entry.text) {
        Ok(age) if age.is_zero() => "it must be more than zero".into(),
        Ok(age) if age > LONGEST => "it may not be more than a hundred years".into(),
        Ok(age) => return Ok(Some(age)),
        Err(error) => error.to_string(),
    };
    let mistake = Mistake::BadDuration {
        key: "keep",
        text: entry.text,
        reason,
    };
    Err(table.document.error(entry.span, mistake))
}

pub(super) fn size(table: &Table<'_>, entry: Entry) -> Result<Option<u64>, PolicyError> {
    if entry.text == UNLIMITED {
        return Ok(None);
    }
    let digits = entry.text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = entry.text.split_at(digits);
    let unit = SIZES.iter().find(|(name, _)| *name == unit.trim());
    let bytes = number
        .parse::<u64>()
        .ok()
        .zip(unit)
        .and_then(|(number, (_, unit))| number.checked_mul(*unit));
    match bytes {
        Some(bytes) if bytes >= SMALLEST => Ok(Some(bytes)),
        _ => Err(table.document.error(
            entry.span,
            Mistake::BadWord {
                key: "size",
                word: entry.text,
                expected: "at least 1MiB, like \"512MiB\" or \"2GiB\", or \"unlimited\"".into(),
                near: None,
            },
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, Source};

    fn settings(text: &str) -> Result<Journal, String> {
        let text = format!("version = 1\n{text}");
        Policy::parse(&text, Source::BuiltIn)
            .map(|policy| policy.settings.journal)
            .map_err(|error| error.one_line())
    }

    #[test]
    fn what_is_not_said_is_ninety_days_and_two_gibibytes() {
        let usual = Journal {
            keep: Some(Duration::from_secs(90 * 86_400)),
            size: Some(2 << 30),
        };
        assert_eq!(settings(""), Ok(usual.clone()));
        assert_eq!(settings("[journal]"), Ok(usual.clone()));
        let other = settings("[journal]\nkeep = \"2years\"\nsize = \"500 MB\"").unwrap();
        assert!(other.keep > usual.keep);
        assert_eq!(other.size, Some(500_000_000));
        assert_eq!(
            settings("journal = { keep = \"unlimited\", size = \"unlimited\" }"),
            Ok(Journal {
                keep: None,
                size: None
            })
        );
    }

    #[test]
    fn a_mistake_is_shown_where_it_is() {
        for (text, says) in [
            ("[journal]\nkeep = \"0s\"", ":3:8: "),
            ("[journal]\nkeep = \"soon\"", ":3:8: "),
            ("[journal]\nkeep = \"200years\"", "a hundred years"),
            ("[journal]\nkeep = 3", "keep is a number"),
            ("[journal]\nsize = \"1\"", "at least 1MiB"),
            ("[journal]\nsize = \"4KiB\"", "at least 1MiB"),
            ("[journal]\nsize = \"99999999999TiB\"", "at least 1MiB"),
            ("[journal]\nsizes = \"1GiB\"", "did you mean \"size\"?"),
            ("journal = 1", "journal is a number"),
        ] {
            let said = settings(text).unwrap_err();
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
