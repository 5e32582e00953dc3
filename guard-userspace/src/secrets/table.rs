//! The kinds of secrets: those of `policy/secrets.toml`, and those that code recognises.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

use super::{check::Check, structured};

/// The built-in table.
pub(super) const BUILT_IN: &str = include_str!("../../../policy/secrets.toml");

/// Bytes that a form may take unless it says otherwise.
const LONGEST: usize = 300;
/// Least entropy unless a kind says otherwise, bits a byte.
const ENTROPY: f64 = 2.8;
/// Memory for one form's compiled program and for its cache, bytes.
const FORM_BYTES: usize = 8 << 20;

/// Why a table of kinds is no good.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// It is no such document.
    #[error("the table of secrets: {0}: correct it")]
    Document(#[from] toml::de::Error),
    /// One kind of it cannot be used.
    #[error("the table of secrets: {provider} {name}: {why}: correct it")]
    Kind {
        /// Its provider.
        provider: String,
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The literals do not go into one search.
    #[error("the table of secrets: the literals: {0}: have fewer or shorter ones")]
    Literals(#[from] aho_corasick::BuildError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    kinds: Vec<Row>,
    public: Vec<String>,
    documented: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    provider: String,
    name: String,
    form: String,
    #[serde(default)]
    literals: Vec<String>,
    #[serde(default)]
    back: Option<(usize, usize)>,
    #[serde(default)]
    near: Vec<String>,
    #[serde(default = "yes")]
    names: bool,
    #[serde(default)]
    longest: Option<usize>,
    #[serde(default)]
    entropy: Option<f64>,
    #[serde(default)]
    check: Option<Check>,
    #[serde(default)]
    unless: Vec<String>,
    #[serde(default)]
    glued: bool,
}

fn yes() -> bool {
    true
}

/// One kind of secret.
#[derive(Debug)]
pub struct Kind {
    /// Whose it is: `github`.
    pub provider: Arc<str>,
    /// Which of theirs: `personal-access-token`.
    pub name: Arc<str>,
    /// How it is known, for a table.
    pub known_by: String,
    /// `None` for what code recognises.
    pub(super) form: Option<Form>,
}

/// How a kind of the table is recognised.
#[derive(Debug)]
pub(super) struct Form {
    /// Begins at the beginning of what it is given where there are literals, else finds.
    pub regex: Expression,
    /// The whole text it is given.
    pub whole: Expression,
    pub literals: Vec<String>,
    pub back: (usize, usize),
    /// In lower case.
    pub near: Vec<String>,
    pub names: bool,
    pub longest: usize,
    pub entropy: f64,
    pub check: Option<Check>,
    /// In lower case.
    pub unless: Vec<String>,
    pub glued: bool,
}

/// A regular expression that is compiled when something has to be held against it: a tree has tokens of a few providers, and
/// all of them compiled are 30 MB.
#[derive(Debug)]
pub(super) struct Expression {
    text: String,
    compiled: OnceLock<Option<Regex>>,
}

impl Expression {
    fn new(text: String) -> Self {
        Self {
            text,
            compiled: OnceLock::new(),
        }
    }

    /// `None` for one that is no regular expression, which a test says that the built-in table has none of.
    pub fn get(&self) -> Option<&Regex> {
        let compiled = self.compiled.get_or_init(|| {
            compile(&self.text)
                .inspect_err(|error| tracing::error!(form = self.text, %error, "a form of secrets"))
                .ok()
        });
        compiled.as_ref()
    }
}

/// All kinds, in order of precedence.
#[derive(Debug)]
pub(super) struct Table {
    pub kinds: Vec<Kind>,
    /// Where the kinds of [`structured::KINDS`] begin.
    pub structured: usize,
    pub public: Vec<Regex>,
    /// SHA-256 of values that documentation publishes.
    pub documented: Vec<[u8; 32]>,
}

/// Names of all providers, without compiling anything.
pub(super) fn providers() -> BTreeSet<String> {
    #[derive(Deserialize)]
    struct Names {
        kinds: Vec<Name>,
    }
    #[derive(Deserialize)]
    struct Name {
        provider: String,
    }
    // A test reads the built-in table.
    let named = toml::from_str::<Names>(BUILT_IN).map_or_else(|_| Vec::new(), |table| table.kinds);
    named
        .into_iter()
        .map(|kind| kind.provider)
        .chain(
            structured::KINDS
                .iter()
                .map(|kind| kind.provider.to_owned()),
        )
        .collect()
}

fn compile(form: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(form)
        .unicode(false)
        .size_limit(FORM_BYTES)
        .dfa_size_limit(FORM_BYTES)
        .build()
}

impl Table {
    /// Reads a table; [`Table::check`] looks at its forms.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        let document: Document = toml::from_str(text)?;
        let wrong = |provider: &str, name: &str, why: String| TableError::Kind {
            provider: provider.to_owned(),
            name: name.to_owned(),
            why,
        };
        if document.version != 1 {
            let why = format!("version {} is not known", document.version);
            return Err(wrong("version", "", why));
        }
        let mut kinds = Vec::with_capacity(document.kinds.len());
        for row in document.kinds {
            let failed = |why: String| wrong(&row.provider, &row.name, why);
            if row.literals.is_empty() && row.near.is_empty() {
                return Err(failed("neither literals nor near".into()));
            }
            if row
                .literals
                .iter()
                .chain(&row.near)
                .any(|text| text.len() < 2)
            {
                return Err(failed("a literal or word of less than two bytes".into()));
            }
            let anchored = if row.literals.is_empty() {
                format!("(?:{})", row.form)
            } else {
                format!(r"\A(?:{})", row.form)
            };
            kinds.push(Kind {
                provider: row.provider.as_str().into(),
                name: row.name.as_str().into(),
                known_by: known_by(&row),
                form: Some(Form {
                    regex: Expression::new(anchored),
                    whole: Expression::new(format!(r"\A(?:{})\z", row.form)),
                    back: row.back.unwrap_or((0, 0)),
                    near: spelled(&row.near),
                    names: row.names,
                    longest: row.longest.unwrap_or(LONGEST),
                    entropy: row.entropy.unwrap_or(ENTROPY),
                    check: row.check,
                    unless: lower(&row.unless),
                    glued: row.glued,
                    literals: row.literals,
                }),
            });
        }
        let structured = kinds.len();
        kinds.extend(structured::KINDS.iter().map(|kind| Kind {
            provider: kind.provider.into(),
            name: kind.name.into(),
            known_by: kind.known_by.into(),
            form: None,
        }));
        let public = document
            .public
            .iter()
            .map(|form| {
                compile(&format!(r"\A(?:{form})\z"))
                    .map_err(|error| wrong("public", form, error.to_string()))
            })
            .collect::<Result<_, _>>()?;
        let documented = document
            .documented
            .iter()
            .map(|hex| {
                super::hex::decode(hex)
                    .ok_or_else(|| wrong("documented", hex, "not 64 hexadecimal digits".into()))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            kinds,
            structured,
            public,
            documented,
        })
    }
}

impl Table {
    /// Whether every form is a regular expression, within bounds.
    pub fn check(&self) -> Result<(), TableError> {
        for kind in &self.kinds {
            let Some(form) = &kind.form else { continue };
            for expression in [&form.regex, &form.whole] {
                compile(&expression.text).map_err(|error| TableError::Kind {
                    provider: kind.provider.to_string(),
                    name: kind.name.to_string(),
                    why: error.to_string(),
                })?;
            }
        }
        Ok(())
    }
}

fn lower(words: &[String]) -> Vec<String> {
    words.iter().map(|word| word.to_ascii_lowercase()).collect()
}

/// A word of several parts in the ways that names are written: `dd_api`, `dd-api`, `dd.api`, `dd api`, `ddApi`.
fn spelled(words: &[String]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for word in lower(words) {
        for between in ["_", "-", ".", " ", ""] {
            let spelling = word.replace('_', between);
            if !all.contains(&spelling) {
                all.push(spelling);
            }
        }
    }
    all
}

/// For the table in docs/secrets.md.
fn known_by(row: &Row) -> String {
    let list = |words: &[String]| {
        let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        words.join(", ")
    };
    let mut text = match (row.literals.is_empty(), row.back) {
        (false, None) => format!("begins with {}", list(&row.literals)),
        (false, Some((0, 0))) => format!("begins with {}", list(&row.literals)),
        (false, Some(_)) => format!("has {} in it", list(&row.literals)),
        (true, _) => String::new(),
    };
    if !row.near.is_empty() {
        let join = if text.is_empty() { "its form" } else { "," };
        text = format!("{text}{join} near {}", list(&row.near));
        if row.literals.is_empty() && row.names {
            text.push_str(" and a telling name");
        }
    }
    match row.check {
        Some(Check::Crc32Base62) => text.push_str("; its checksum is right"),
        Some(Check::Bech32) => text.push_str("; its checksum is right"),
        Some(Check::Jwt) => text.push_str("; its parts decode"),
        Some(Check::Base64Json) => text.push_str("; it decodes"),
        Some(Check::SupabaseServiceRole) => text.push_str("; its payload says so"),
        None => {}
    }
    if !row.unless.is_empty() {
        text.push_str(&format!("; not near {}", list(&row.unless)));
    }
    text
}
