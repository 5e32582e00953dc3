//! A value that a telling name is given: in code, YAML, JSON, TOML, ini, `.env`, shell and XML.

use std::{ops::Range, sync::LazyLock};

use regex::bytes::{Regex, RegexBuilder};

use super::{place::Place, structured::window, value};
use crate::mask::names::{self, Name};

/// Text that makes a name worth a look. Case does not matter.
pub(super) const TELLING: &[&str] = &[
    "token",
    "secret",
    "pass",
    "pwd",
    "key",
    "credential",
    "jwt",
    "auth",
    "_pat",
    "-pat",
];

/// Bytes of a name, at most.
const NAME: usize = 80;
/// Bytes of a value, at most.
const VALUE: usize = 1024;

/// What stands between a name and its value.
static BETWEEN: LazyLock<Regex> = LazyLock::new(|| {
    let ways = [
        // `name: &str = "`, with a type.
        r#"(?:\\?["'`])?[ \t]{0,20}:[ \t]{0,4}(?:&(?:'static )?)?[A-Za-z_][A-Za-z_<>.?|]{0,30}[ \t]{0,20}=[ \t]{0,20}(?:[&a-zA-Z]{1,2}#{0,2})?\\?["'`]"#,
        // `"name", "value": "` of JSON's lists of names and values.
        r#"\\?["'],[ \t\r\n]{0,60}(?:\\?["'])?[Vv]alue(?:\\?["'])?[ \t]{0,4}[:=][ \t]{0,4}\\?["']"#,
        // `- name: X` and `value:` in the line below.
        r#"["']?[ \t]{0,8}\r?\n[ \t]{1,40}value:[ \t]{1,8}"#,
        // `key="name" value="`
        r#"["'][ \t]{1,8}value=["']"#,
        // `setenv("NAME", "`, `header("x-api-key", "`
        r#"\\?["'`][ \t]{0,4},[ \t\r\n]{0,40}(?:[bru]|rb|br)?\\?["'`]"#,
        // `.password("`
        r#"\([ \t]{0,4}[bru]?["'`]"#,
        // `name = `, `"name": `, `name := `, `["name"] = `, `name => `
        r#"(?:\\?["'`])?\]?[ \t]{0,40}(?::=|=>|={1,3}|:|\?=)[ \t]{0,40}"#,
    ];
    RegexBuilder::new(&format!(r"\A(?:{})", ways.join("|")))
        .unicode(false)
        .build()
        .expect("a regular expression written here")
});

/// A name and the value that it is given.
pub(super) struct Assignment {
    pub name: Range<usize>,
    pub value: Range<usize>,
    /// The value stands in quotes.
    pub quoted: bool,
    /// What stands right before the name.
    pub lead: Option<u8>,
}

/// The assignment whose name has the bytes at `hit` in it.
pub(super) fn at(bytes: &[u8], hit: Range<usize>, place: &Place) -> Option<Assignment> {
    let part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let left = bytes[..hit.start]
        .iter()
        .rev()
        .take(NAME)
        .take_while(|byte| part(**byte))
        .count();
    let right = window(bytes, hit.end, NAME)
        .iter()
        .take_while(|byte| part(**byte))
        .count();
    let name = hit.start - left..hit.end + right;
    if name.len() > NAME {
        return None;
    }
    let lead = name.start.checked_sub(1).map(|at| bytes[at]);
    // `$NAME` and `${NAME:-…}` use a variable, they do not set one.
    if lead == Some(b'$') || bytes[..name.start].ends_with(b"${") {
        return None;
    }
    let rest = window(bytes, name.end, 160);
    let line = line_start(bytes, name.start);
    let (from, must_quote) = if let Some(found) = BETWEEN.captures(rest) {
        let from = name.end + found.get(0)?.end();
        // Most ways end with the value's quote, which is read below.
        let inside = matches!(bytes[from - 1], b'"' | b'\'' | b'`');
        let slash = inside && bytes[from - 2] == b'\\';
        if inside {
            (from - 1 - usize::from(slash), true)
        } else {
            (from, false)
        }
    } else if lead == Some(b'<') && rest.first() == Some(&b'>') {
        let from = name.end + 1;
        let length = window(bytes, from, VALUE)
            .iter()
            .position(|byte| *byte == b'<')?;
        return Some(Assignment {
            name,
            value: trimmed(bytes, from..from + length),
            quoted: true,
            lead,
        });
    } else {
        // `--token VALUE`, `ENV TOKEN VALUE`, `password VALUE` in netrc's files.
        let words = bytes[name.clone()].starts_with(b"--")
            || bytes[line..name.start]
                .trim_ascii()
                .eq_ignore_ascii_case(b"env")
            || place.netrc;
        let blanks = rest
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'))
            .count();
        if !words || blanks == 0 {
            return None;
        }
        (name.end + blanks, false)
    };
    let prefix = window(bytes, from, 4);
    let skip = raw_prefix(prefix);
    let from = from + skip;
    let slashes = window(bytes, from, 3)
        .iter()
        .take_while(|byte| **byte == b'\\')
        .count();
    let quote = bytes
        .get(from + slashes)
        .copied()
        .filter(|byte| matches!(byte, b'"' | b'\'' | b'`'));
    let (value, quoted) = match quote {
        Some(quote) => {
            let start = from + slashes + 1;
            let text = window(bytes, start, VALUE);
            let length = text
                .iter()
                .position(|byte| *byte == quote || *byte == b'\n')?;
            if text[length] == b'\n' {
                return None;
            }
            // The quote may be an escaped one itself.
            let length = length
                - text[..length]
                    .iter()
                    .rev()
                    .take(slashes)
                    .take_while(|byte| **byte == b'\\')
                    .count();
            (start..start + length, true)
        }
        None if must_quote || skip > 0 => return None,
        None => {
            let text = window(bytes, from, VALUE);
            let ends: &[u8] = if place.source || matches!(lead, Some(b'?' | b'&' | b';')) {
                b"\"'`<>,;)}]&|\\"
            } else {
                b"\"'`<>,)}]|\\"
            };
            let length = text
                .iter()
                .position(|byte| byte.is_ascii_whitespace() || *byte == 0 || ends.contains(byte))
                .unwrap_or(text.len());
            // More than a line end behind it makes it the first word of several.
            (from..from + length, false)
        }
    };
    let value = trimmed(bytes, value);
    (value.len() >= 6).then_some(Assignment {
        name,
        value,
        quoted,
        lead,
    })
}

/// `r`, `b`, `f`, `@`, `r#` before a quote.
fn raw_prefix(text: &[u8]) -> usize {
    let length = text
        .iter()
        .take_while(|byte| matches!(byte, b'r' | b'b' | b'u' | b'f' | b'@' | b'#' | b'L'))
        .count();
    if length > 0 && matches!(text.get(length), Some(b'"' | b'\'')) {
        length
    } else {
        0
    }
}

fn trimmed(bytes: &[u8], range: Range<usize>) -> Range<usize> {
    let text = &bytes[range.clone()];
    let start = range.start + (text.len() - text.trim_ascii_start().len());
    start..start + text.trim_ascii().len()
}

pub(super) fn line_start(bytes: &[u8], at: usize) -> usize {
    let from = at.saturating_sub(200);
    bytes[from..at]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(from, |newline| from + newline + 1)
}

/// What a name says of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promise {
    /// A password, which people choose.
    Password,
    /// A token, key or secret, which machines make.
    Secret,
    /// Perhaps, beside a provider's word (`key`, `auth`).
    Perhaps,
    /// Something else.
    Nothing,
}

/// Parts of a name that make what it names no secret, though the last of them sounds so.
const OTHERWISE: &[&str] = &[
    "csrf",
    "xsrf",
    "page",
    "next",
    "prev",
    "previous",
    "continuation",
    "cursor",
    "cancel",
    "cancellation",
    "sync",
    "design",
    "pagination",
    "public",
    "publishable",
    "anon",
    "anonymous",
    "site",
    "sitekey",
    "resume",
    "nonce",
    "placeholder",
    "label",
    "hint",
    "error",
    "message",
    "msg",
    "title",
    "description",
    "hash",
    "hashed",
    "digest",
    "fingerprint",
    "checksum",
    "encrypted",
    "sealed",
    "idempotency",
    "cache",
    "dummy",
    "fake",
    "mock",
    "example",
    "invalid",
    "color",
    "colour",
    "syntax",
];

impl Promise {
    pub fn of(name: &[u8]) -> Self {
        let Ok(name) = std::str::from_utf8(name) else {
            return Self::Nothing;
        };
        let name = name.trim_matches(['-', '.', '_']);
        let kind = Name::of(name);
        if kind == Name::Plain {
            return Self::Nothing;
        }
        let parts = names::parts(name);
        if parts.iter().any(|part| OTHERWISE.contains(&part.as_str())) {
            return Self::Nothing;
        }
        match kind {
            Name::Secret | Name::SecretOrPath => {
                let last = parts.last().map_or("", String::as_str);
                if last.contains("pass") || last == "pwd" || last == "pw" {
                    Self::Password
                } else {
                    Self::Secret
                }
            }
            Name::Maybe | Name::Authorization | Name::Cookie => Self::Perhaps,
            Name::Plain => Self::Nothing,
        }
    }
}

/// Whether the value of an assignment counts by itself, in a file of this place.
pub(super) fn counts(bytes: &[u8], found: &Assignment, place: &Place) -> Option<Promise> {
    let promise = Promise::of(&bytes[found.name.clone()]);
    let loose = match promise {
        Promise::Password => true,
        Promise::Secret => false,
        Promise::Perhaps | Promise::Nothing => return None,
    };
    let in_query = matches!(found.lead, Some(b'?' | b'&' | b';'));
    if place.source && !found.quoted && !in_query && !bytes[found.name.clone()].starts_with(b"--") {
        return None;
    }
    let text = &bytes[found.value.clone()];
    // A password that is chosen needs quotes or a file for such things: prose has colons too.
    value::is_secret(text, loose).then_some(promise)
}
