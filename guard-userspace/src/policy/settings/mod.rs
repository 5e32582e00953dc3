//! What a policy says about guardd itself, a table for each part of it.

mod journal;

pub use self::journal::Journal;
use super::{PolicyError, read::Table};

/// The tables, all of which may be left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `[journal]`
    pub journal: Journal,
}

/// Reads them from every file of a policy. Of a table that several have, the last file's counts, as a whole.
pub(super) fn read(tops: &[Table<'_>]) -> Result<Settings, PolicyError> {
    Ok(Settings {
        journal: last(tops, "journal", journal::read)?,
    })
}

/// Reads a table wherever it is, so that no file has a mistake in it, and gives the last.
fn last<T: Default>(
    tops: &[Table<'_>],
    key: &str,
    read: impl Fn(&Table<'_>) -> Result<T, PolicyError>,
) -> Result<T, PolicyError> {
    let mut last = T::default();
    for top in tops.iter().filter(|top| top.value(key).is_some()) {
        last = read(top)?;
    }
    Ok(last)
}
