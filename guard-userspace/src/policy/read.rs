//! Typed access to a parsed TOML document that keeps every position, so that a mistake can be shown
//! where it is.

use std::{ops::Range, time::Duration};

use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use super::{
    Source,
    error::{Mistake, PolicyError, nearest},
};
use crate::clock;

/// A string of the policy and the bytes of the text it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The string.
    pub text: String,
    /// Where it stands.
    pub span: Range<usize>,
}

/// The text that is read.
#[derive(Clone, Copy)]
pub(super) struct Document<'a> {
    pub text: &'a str,
    pub source: &'a Source,
    /// Which file of the policy it is, from 0.
    pub file: usize,
}

impl Document<'_> {
    pub(super) fn error(&self, span: Range<usize>, mistake: Mistake) -> PolicyError {
        PolicyError::at(self.source, self.text, span, mistake)
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text
            .bytes()
            .take(at)
            .filter(|byte| *byte == b'\n')
            .count()
            + 1
    }
}

/// One table, and how to call it in an error.
pub(super) struct Table<'a> {
    pub document: Document<'a>,
    pub table: &'a DeTable<'a>,
    /// `[[label]]`, `except` …
    pub title: &'static str,
    pub span: Range<usize>,
}

/// A value that is true or false.
pub(super) struct Flag {
    pub(super) is: bool,
    pub(super) span: Range<usize>,
}

impl<'a> Table<'a> {
    /// Refuses every key that is not one of `known`; the first in the text is named.
    pub(super) fn only(&self, known: &[&'static str]) -> Result<(), PolicyError> {
        let unknown = self
            .table
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()));
        match unknown.min_by_key(|key| key.span().start) {
            None => Ok(()),
            Some(key) => Err(self.document.error(
                key.span(),
                Mistake::UnknownKey {
                    key: key.get_ref().to_string(),
                    table: self.title.into(),
                    known: known.to_vec(),
                    near: nearest(key.get_ref(), known.iter().copied()),
                },
            )),
        }
    }

    pub(super) fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(key)
    }

    pub(super) fn string(&self, key: &'static str) -> Result<Option<Entry>, PolicyError> {
        self.value(key)
            .map(|value| string(&self.document, key, value))
            .transpose()
    }

    /// True or false, with where it stands.
    pub(super) fn boolean(&self, key: &'static str) -> Result<Option<Flag>, PolicyError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        match value.get_ref() {
            DeValue::Boolean(is) => Ok(Some(Flag {
                is: *is,
                span: value.span(),
            })),
            _ => Err(wrong_type(&self.document, key, value, "true or false")),
        }
    }

    pub(super) fn required(&self, key: &'static str, expected: &str) -> Result<Entry, PolicyError> {
        self.string(key)?.ok_or_else(|| self.missing(key, expected))
    }

    pub(super) fn missing(&self, key: &'static str, expected: &str) -> PolicyError {
        let mistake = Mistake::Missing {
            table: self.title.into(),
            key,
            expected: expected.into(),
        };
        self.document.error(self.span.clone(), mistake)
    }

    /// A list of non-empty strings; none when the key is absent.
    pub(super) fn strings(&self, key: &'static str) -> Result<Vec<Entry>, PolicyError> {
        let Some(value) = self.value(key) else {
            return Ok(Vec::new());
        };
        let expected = "a list of strings, like [\"a\", \"b\"]";
        let mut entries = Vec::new();
        for item in array(&self.document, key, value, expected)? {
            let entry = string(&self.document, key, item)?;
            if entry.text.is_empty() {
                let what = format!("an entry of {key}");
                return Err(self.document.error(
                    entry.span,
                    Mistake::Empty {
                        what,
                        expected: "a string",
                    },
                ));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// The tables under `key`, written as `[[key]]` or as a list of inline tables.
    pub(super) fn tables(
        &self,
        key: &'static str,
        title: &'static str,
    ) -> Result<Vec<Table<'a>>, PolicyError> {
        let Some(value) = self.value(key) else {
            return Ok(Vec::new());
        };
        let expected =
            format!("a list of tables: begin each with [[{key}]], or write {key} = [{{ … }}]");
        array(&self.document, key, value, &expected)?
            .iter()
            .map(|item| table(self.document, key, title, item, &expected))
            .collect()
    }

    /// A whole number within bounds.
    pub(super) fn number(
        &self,
        key: &'static str,
        least: u64,
        most: u64,
    ) -> Result<Option<u64>, PolicyError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let number = match value.get_ref() {
            DeValue::Integer(number) => number.to_string().parse::<u64>().ok(),
            _ => None,
        };
        match number.filter(|number| (least..=most).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let expected = format!("a number from {least} to {most}");
                Err(wrong_type(&self.document, key, value, &expected))
            }
        }
    }

    pub(super) fn duration(&self, key: &'static str) -> Result<Option<Duration>, PolicyError> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let DeValue::String(text) = value.get_ref() else {
            return Err(wrong_type(
                &self.document,
                key,
                value,
                "a duration in quotes, like \"10m\"",
            ));
        };
        clock::parse_duration(text).map(Some).map_err(|reason| {
            let reason = reason.split(';').next().unwrap_or_default().into();
            self.document.error(
                value.span(),
                Mistake::BadDuration {
                    key,
                    text: text.to_string(),
                    reason,
                },
            )
        })
    }

    /// One of a fixed set of words.
    pub(super) fn word<T: Copy>(
        &self,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, PolicyError> {
        let Some(entry) = self.string(key)? else {
            return Ok(None);
        };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == entry.text) {
            return Ok(Some(*meaning));
        }
        let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let near = nearest(&entry.text, names.iter().copied());
        let expected = match names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => names.join(""),
        };
        Err(self.document.error(
            entry.span,
            Mistake::BadWord {
                key,
                word: entry.text,
                expected,
                near,
            },
        ))
    }
}

pub(super) fn array<'a>(
    document: &Document<'_>,
    key: &str,
    value: &'a Spanned<DeValue<'a>>,
    expected: &str,
) -> Result<&'a DeArray<'a>, PolicyError> {
    match value.get_ref() {
        DeValue::Array(array) => Ok(array),
        _ => Err(wrong_type(document, key, value, expected)),
    }
}

pub(super) fn table<'a>(
    document: Document<'a>,
    key: &str,
    title: &'static str,
    value: &'a Spanned<DeValue<'a>>,
    expected: &str,
) -> Result<Table<'a>, PolicyError> {
    match value.get_ref() {
        DeValue::Table(table) => Ok(Table {
            document,
            table,
            title,
            span: value.span(),
        }),
        _ => Err(wrong_type(&document, key, value, expected)),
    }
}

pub(super) fn string(
    document: &Document<'_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
) -> Result<Entry, PolicyError> {
    match value.get_ref() {
        DeValue::String(text) => Ok(Entry {
            text: text.to_string(),
            span: value.span(),
        }),
        _ => Err(wrong_type(document, key, value, "a string")),
    }
}

pub(super) fn wrong_type(
    document: &Document<'_>,
    key: &str,
    value: &Spanned<DeValue<'_>>,
    expected: &str,
) -> PolicyError {
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a decimal number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    };
    document.error(
        value.span(),
        Mistake::WrongType {
            key: key.into(),
            found,
            expected: expected.into(),
        },
    )
}
