//! Secrets by content: what in a file is a provider's token, a private key or a password.
//!
//! One search (Aho–Corasick) finds literals of tokens, words near which a form means something, telling names and
//! armour; at each hit an anchored expression or a piece of code looks at a bounded window. So the time is linear in
//! the bytes, whatever they are. What is found is told by provider, kind and place, with a keyed hash and the part of
//! the value that all of its kind share; the value itself goes nowhere, and buffers are wiped.
//!
//! `policy/secrets.toml` is the table of forms, `structured` what needs code, `value` what does not count. The daemon
//! uses [`Watch`] and, for requests, [`Scanner::tokens_in`] with [`Keyed::hash`]; guardctl
//! [`Scanner::scan_tree`].

mod assign;
mod check;
mod file;
mod hex;
mod key;
mod labels;
mod look;
mod place;
mod structured;
mod table;
#[cfg(test)]
mod tests;
mod text;
mod tokens;
mod tree;
mod value;
mod watch;

use std::{fmt, ops::Range, path::Path, sync::Arc};

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use serde::Serialize;

pub use self::{
    file::{FileOutcome, Limits, Seen},
    key::{Hash, KEY_FILE, KeyError, Keyed},
    labels::{FOREIGN, Meaning, SECRET, USES, all_labels, labels_of, meaning, providers},
    place::{FIXTURES, is_fixture},
    table::{Kind, TableError},
    tokens::{Token, tokens_of},
    tree::{FileReport, LEFT_OUT, TreeOptions, TreeSummary},
    watch::{
        Beginner, Brief, Opened, REPORTS, Report, ScannedFile, Variable, Walked, Watch, WatchLimits,
    },
};
use self::{
    look::Looker,
    structured::{MARKS, Mark},
    table::Table,
    text::Text,
};

/// Found in one file, at most; more are counted.
pub const MAX_FOUND: usize = 1000;

/// A secret in a file, without its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Whose: `github`; `private-key`, `generic` and the like where no provider is known.
    #[serde(serialize_with = "text")]
    pub provider: Arc<str>,
    /// Which of theirs: `personal-access-token`.
    #[serde(serialize_with = "text")]
    pub kind: Arc<str>,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// Where the value begins in the file, in bytes.
    pub start: u64,
    /// Where it ends.
    pub end: u64,
    /// Keyed hash of the value.
    pub hash: Hash,
    /// What every token of the kind begins with, and `…`.
    pub preview: String,
    /// A private key that needs a passphrase.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub encrypted: bool,
    /// The file is a test's or an example: does not count.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub fixture: bool,
}

fn text<S: serde::Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

/// What a hit of the search leads to.
#[derive(Clone, Copy, Debug)]
enum Trigger {
    /// The literal of a form; the number is its kind's.
    Literal(u16),
    /// A word near which a form means something.
    Near(u16),
    /// The beginning of something that code recognises.
    Mark(Mark),
    /// A part of a telling name.
    Telling,
}

/// Finds secrets. Made once: it holds some hundreds of compiled expressions.
pub struct Scanner {
    table: Table,
    search: AhoCorasick,
    /// For each pattern of the search.
    triggers: Vec<Vec<Trigger>>,
    keyed: Keyed,
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scanner({} kinds)", self.table.kinds.len())
    }
}

impl Scanner {
    /// With the built-in table of kinds.
    pub fn built_in(keyed: Keyed) -> Result<Self, TableError> {
        Self::of(Table::parse(table::BUILT_IN)?, keyed)
    }

    /// With a table in the form of `policy/secrets.toml`.
    pub fn new(table: &str, keyed: Keyed) -> Result<Self, TableError> {
        let table = Table::parse(table)?;
        table.check()?;
        Self::of(table, keyed)
    }

    fn of(table: Table, keyed: Keyed) -> Result<Self, TableError> {
        let mut patterns: Vec<String> = Vec::new();
        let mut triggers: Vec<Vec<Trigger>> = Vec::new();
        let mut add = |text: &str, trigger: Trigger| {
            let text = text.to_ascii_lowercase();
            match patterns.iter().position(|known| *known == text) {
                Some(known) => triggers[known].push(trigger),
                None => {
                    patterns.push(text);
                    triggers.push(vec![trigger]);
                }
            }
        };
        for (number, kind) in (0u16..).zip(&table.kinds) {
            let Some(form) = &kind.form else { continue };
            for literal in &form.literals {
                add(literal, Trigger::Literal(number));
            }
            if form.literals.is_empty() {
                for word in &form.near {
                    add(word, Trigger::Near(number));
                }
            }
        }
        for (text, mark) in MARKS {
            add(text, Trigger::Mark(*mark));
        }
        for word in assign::TELLING {
            add(word, Trigger::Telling);
        }
        let search = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .kind(Some(AhoCorasickKind::DFA))
            .build(&patterns)?;
        Ok(Self {
            table,
            search,
            triggers,
            keyed,
        })
    }

    /// All kinds, in order of precedence.
    pub fn kinds(&self) -> &[Kind] {
        &self.table.kinds
    }

    /// What makes hashes that compare with those of [`Found`].
    pub fn keyed(&self) -> &Keyed {
        &self.keyed
    }

    /// Every secret in `bytes`, which are what the file at `path` holds, in the order in which they stand. UTF-16 with
    /// a byte order mark is read as such. Returns how many there were beyond [`MAX_FOUND`]. Whether bytes are text is
    /// for the caller to say; a NUL is a separator here, so that a process's environment can be scanned.
    pub fn scan_bytes(&self, path: &Path, bytes: &[u8], sink: &mut impl FnMut(Found)) -> usize {
        let text = Text::of(bytes);
        let (mut finds, mut more) = Looker::new(self, path, &text).run();
        more += finds.len().saturating_sub(MAX_FOUND);
        finds.truncate(MAX_FOUND);
        let fixture = is_fixture(path);
        let mut places = text.places();
        for find in finds {
            let kind = &self.table.kinds[usize::from(find.kind)];
            let value = &text.bytes()[find.range.clone()];
            let (line, column, start) = places.of(find.range.start);
            let (.., end) = places.of(find.range.end);
            sink(Found {
                provider: Arc::clone(&kind.provider),
                kind: Arc::clone(&kind.name),
                line,
                column,
                start,
                end,
                hash: self.keyed.hash(
                    find.essence
                        .as_ref()
                        .map_or(value, |essence| essence.as_slice()),
                ),
                preview: preview(kind, value),
                encrypted: find.encrypted,
                fixture,
            });
        }
        more
    }
}

/// The literal that the value begins with, which is the same in all of its kind.
fn preview(kind: &Kind, value: &[u8]) -> String {
    let literals = kind.form.iter().flat_map(|form| &form.literals);
    let public = literals
        .filter(|literal| value.starts_with(literal.as_bytes()))
        .max_by_key(|literal| literal.len());
    match public {
        Some(literal) => format!("{literal}…"),
        None if value.starts_with(b"-----BEGIN ") => "-----BEGIN …".into(),
        None => "…".into(),
    }
}

/// One secret, before it is told.
struct Find {
    range: Range<usize>,
    kind: u16,
    /// What is surer is lower: class, then distance from the word that led there.
    rank: (u8, u16),
    /// What is hashed, where that is not what stands there.
    essence: Option<zeroize::Zeroizing<Vec<u8>>>,
    encrypted: bool,
}
