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

/// Reads them.
pub(super) fn read(top: &Table<'_>) -> Result<Settings, PolicyError> {
    Ok(Settings {
        journal: journal::read(top)?,
    })
}
