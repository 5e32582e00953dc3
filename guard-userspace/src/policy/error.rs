//! What is wrong with a policy, and where: every mistake names the file, the line and the column, and
//! shows the line with a caret below it.

use std::{fmt, io, ops::Range, path::PathBuf};

use thiserror::Error;

use super::Source;

/// A policy that cannot be used. Nothing that is running changes because of one.
#[derive(Debug, Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {error}: expected a policy file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file could be changed by somebody who must not decide.
    #[error("{}: {why}", path.display())]
    Untrusted {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Something in the file is wrong.
    #[error("{place}: {mistake}\n{}", place.excerpt())]
    Mistake {
        /// Where.
        place: Box<Place>,
        /// What.
        mistake: Box<Mistake>,
    },
}

impl PolicyError {
    /// The mistake at the bytes `span` of `text`.
    pub(super) fn at(source: &Source, text: &str, span: Range<usize>, mistake: Mistake) -> Self {
        Self::Mistake {
            place: Box::new(Place::new(source, text, span)),
            mistake: Box::new(mistake),
        }
    }

    /// The error in one line, without the excerpt: `FILE:LINE:COL: what: expected …`.
    pub fn one_line(&self) -> String {
        match self {
            Self::Read { .. } | Self::Untrusted { .. } => self.to_string(),
            Self::Mistake { place, mistake } => format!("{place}: {mistake}"),
        }
    }

    /// Line and column, from 1, where the mistake is known to be at one.
    pub fn position(&self) -> Option<(usize, usize)> {
        match self {
            Self::Read { .. } | Self::Untrusted { .. } => None,
            Self::Mistake { place, .. } => Some((place.line, place.column)),
        }
    }

    /// What is wrong, for one that lies in the text.
    pub fn mistake(&self) -> Option<&Mistake> {
        match self {
            Self::Read { .. } | Self::Untrusted { .. } => None,
            Self::Mistake { mistake, .. } => Some(mistake),
        }
    }
}

/// A stretch of one line of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, or "built-in".
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Characters marked; at least 1.
    pub width: usize,
    /// The whole line.
    pub text: String,
}

impl Place {
    pub(super) fn new(source: &Source, text: &str, span: Range<usize>) -> Self {
        let floor = |mut at: usize| {
            at = at.min(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let (start, end) = (floor(span.start), floor(span.end));
        let begin = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let finish = text[start..]
            .find('\n')
            .map_or(text.len(), |newline| start + newline);
        let marked = &text[start..end.clamp(start, finish)];
        Self {
            file: source.to_string(),
            line: text[..start].matches('\n').count() + 1,
            column: text[begin..start].chars().count() + 1,
            width: marked.trim_end().chars().count().max(1),
            text: text[begin..finish].trim_end_matches('\r').to_owned(),
        }
    }

    /// The line with its number, and the carets below it.
    pub fn excerpt(&self) -> String {
        let number = self.line.to_string();
        // Tabs stay tabs, so that the caret stands where the terminal puts the character.
        let mut indent: String = self
            .text
            .chars()
            .take(self.column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        while indent.chars().count() < self.column - 1 {
            indent.push(' ');
        }
        format!(
            "{number} | {}\n{:pad$} | {indent}{}",
            self.text,
            "",
            "^".repeat(self.width),
            pad = number.len()
        )
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// The mistakes a policy can hold. Each says what is wrong and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Mistake {
    /// Not UTF-8.
    #[error("a byte that is not UTF-8: expected text in UTF-8")]
    NotUtf8,
    /// Not TOML.
    #[error("not TOML: {0}")]
    Syntax(String),
    /// A rule's template that is nowhere.
    #[error(
        "no template \"{name}\": expected the name of a [[template]]{}",
        did_you_mean(near)
    )]
    UnknownTemplate {
        /// The name.
        name: String,
        /// The one that was probably meant.
        near: Option<String>,
    },
    /// A step of `when` that is no step.
    #[error(
        "a step of when: {0}: expected \"label\", {{ label = \"label\", count = 3 }} or {{ not = \"label\" }}"
    )]
    BadStep(&'static str),
    /// A key that the table does not have.
    #[error("unknown key \"{key}\" in {table}: expected one of {}{}", known.join(", "), did_you_mean(near))]
    UnknownKey {
        /// The key.
        key: String,
        /// The table it is in.
        table: String,
        /// The keys that it may have.
        known: Vec<&'static str>,
        /// The one that may have been meant.
        near: Option<String>,
    },
    /// A value of the wrong type.
    #[error("{key} is {found}: expected {expected}")]
    WrongType {
        /// Whose value.
        key: String,
        /// The type it has, with its article.
        found: &'static str,
        /// The type it should have.
        expected: String,
    },
    /// A key that must be there.
    #[error("{table} has no {key}: expected {expected}")]
    Missing {
        /// The table.
        table: String,
        /// What it lacks.
        key: &'static str,
        /// What it should be.
        expected: String,
    },
    /// A version that this program does not know.
    #[error("policy version {0}: expected version = 1")]
    Version(String),
    /// A label that no `[[label]]` defines.
    #[error(
        "unknown label \"{label}\" in rule \"{rule}\": expected one of the labels of this policy{}",
        did_you_mean(near)
    )]
    UnknownLabel {
        /// The label.
        label: String,
        /// The rule that names it.
        rule: String,
        /// The one that may have been meant.
        near: Option<String>,
    },
    /// A name of a host that is none.
    #[error("host \"{text}\": {reason}")]
    BadHost {
        /// What stands there.
        text: String,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// A request that cannot be described so.
    #[error("bad {key} \"{text}\": expected {expected}")]
    BadRequest {
        /// The key.
        key: &'static str,
        /// What stands there.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A system call that a label cannot name.
    #[error(
        "unknown call \"{text}\": expected one of {}{}",
        guard_common::state::act::NAMES.join(", "),
        did_you_mean(near)
    )]
    UnknownCall {
        /// What stands there.
        text: String,
        /// The one that may have been meant.
        near: Option<String>,
    },
    /// Not one of the words for which opens a label is.
    #[error("opens = \"{0}\": expected \"any\" or \"write\"")]
    Opens(String),
    /// A label's tables say different things of its opens.
    #[error(
        "label \"{0}\": opens is not the same in each of its tables: expected \"any\" or \"write\" for all"
    )]
    OpensDiffer(String),
    /// There is no server to follow.
    #[error(
        "label \"{0}\": follow = true without a socket: expected \"unix:PATH\" among its addresses"
    )]
    FollowsNobody(String),
    /// Two of a kind with one name.
    #[error(
        "duplicate {kind} name \"{name}\": expected a name of its own ({first} has this one){hint}"
    )]
    Duplicate {
        /// "rule" or "agent".
        kind: &'static str,
        /// The name.
        name: String,
        /// Where the first is: a line of the same file, or a place in another.
        first: String,
        /// What can be done, or nothing.
        hint: &'static str,
    },
    /// A rule that is to take the place of one that there is not.
    #[error(
        "rule \"{name}\" replaces nothing: expected the name of a rule in an earlier file, or no replace = true{}",
        did_you_mean(near)
    )]
    ReplacesNothing {
        /// The name.
        name: String,
        /// The one that may have been meant.
        near: Option<String>,
    },
    /// Something that a user's own file may not say.
    #[error("{what}: {why}")]
    OfUser {
        /// What stands there.
        what: String,
        /// Why not, and what was expected.
        why: String,
    },
    /// Something in a file of cases.
    #[error("{what}: {why}")]
    Case {
        /// What stands there.
        what: String,
        /// Why it cannot be used, and what was expected.
        why: String,
    },
    /// A table or list with nothing in it.
    #[error("{what} is empty: expected {expected}")]
    Empty {
        /// What is empty.
        what: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// More than there is room for.
    #[error("too many {what}: {count}: expected at most {most}{hint}")]
    TooMany {
        /// Of what.
        what: String,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
        /// What can be done, or nothing.
        hint: &'static str,
    },
    /// A name that cannot be one.
    #[error(
        "bad name \"{0}\": expected letters, digits, and any of - _ . (for rules and agents, spaces)"
    )]
    BadName(String),
    /// A word out of a fixed set.
    #[error("bad {key} \"{word}\": expected {expected}{}", did_you_mean(near))]
    BadWord {
        /// Whose value.
        key: &'static str,
        /// The word.
        word: String,
        /// The words it may be.
        expected: String,
        /// The one that may have been meant.
        near: Option<String>,
    },
    /// A duration.
    #[error(
        "bad duration \"{text}\" for {key}: {reason}: expected a duration like 90s, 10m or 1h30m"
    )]
    BadDuration {
        /// Whose value.
        key: &'static str,
        /// As written.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// A file or program pattern.
    #[error("bad glob \"{text}\": {reason}")]
    BadGlob {
        /// As written.
        text: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// An address.
    #[error("bad address \"{text}\": {reason}")]
    BadAddress {
        /// As written.
        text: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A command-line pattern.
    #[error("bad command line \"{text}\": {reason}")]
    BadCommand {
        /// As written.
        text: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// A setting.
    #[error("bad {key} \"{text}\": {reason}")]
    BadSetting {
        /// Which.
        key: &'static str,
        /// As written.
        text: String,
        /// What is wrong and what was expected.
        reason: String,
    },
    /// An environment marker.
    #[error("bad environment marker \"{text}\": {reason}")]
    BadEnv {
        /// As written.
        text: String,
        /// What is wrong and what was expected.
        reason: String,
    },
}

impl Mistake {
    /// toml's own message in our form: "what: expected …" in one line.
    pub(super) fn syntax(error: &toml::de::Error) -> Self {
        let message = error.message().trim().replace('\n', ", ");
        Self::Syntax(match message.split_once(", expected ") {
            Some((what, expected)) => format!("{what}: expected {expected}"),
            None if message == "duplicate key" => {
                "this key is there twice: expected each key once in a table ([[label]], with two brackets, \
                 begins another table)"
                    .into()
            }
            None => format!("{message}: expected TOML 1.0"),
        })
    }
}

fn did_you_mean(near: &Option<String>) -> String {
    near.as_ref()
        .map(|word| format!("; did you mean \"{word}\"?"))
        .unwrap_or_default()
}

/// The candidate that `word` is most likely a misspelling of.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}

/// Edits (insert, remove, replace, swap neighbours) from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (
        a.to_lowercase().chars().collect(),
        b.to_lowercase().chars().collect(),
    );
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
