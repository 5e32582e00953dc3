//! File and program patterns: the subset of globs that the kernel can verify on an opened file.
//!
//! | pattern | matches |
//! | --- | --- |
//! | `~/DIRS/NAME` | in every user's home |
//! | `/DIRS/NAME` | from the root |
//! | `**/DIRS/NAME`, `NAME` | anywhere |
//! | `…/DIRS/**` | everything below, to eight levels |
//! | `~/DIRS/**/DIRS/NAME` | any number of directories (none included) in between |
//!
//! A component of DIRS is a name or `*` (any one directory). NAME may hold one `*`, which matches any
//! bytes, none included, and a leading dot too. `{a,b}` stands for either.

use super::error::Mistake;
use guard_common::matching::PATTERN_PARTS;

/// The longest fixed part beside a `*`: the kernel keeps one bit per length in a 32-bit word.
const MAX_AFFIX: usize = 31;
/// The longest name of a file: NAME_MAX,
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/limits.h#L12>
const MAX_NAME: usize = 255;
/// What one pattern may expand to.
const MAX_EXPANSIONS: usize = 64;

/// Where a pattern begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    /// Anywhere.
    Nowhere,
    /// At the root.
    Root,
    /// In any user's home.
    Home,
}

/// A directory of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Component {
    /// This name.
    Name(String),
    /// Any name.
    Any,
}

/// The last component of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// This name.
    Exact(String),
    /// `PREFIX*SUFFIX`; one of the two may be empty.
    Affix(String, String),
    /// `*`.
    Any,
    /// `**`: at least one component, of any name.
    Under,
}

/// One alternative of a [`super::Glob`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathGlob {
    pub anchor: Anchor,
    /// Directories from the anchor down. Without a gap, all of them (none when unanchored).
    pub root: Vec<Component>,
    /// `**` between `root` and `above`.
    pub gap: bool,
    /// Directories directly above the last component, farthest first.
    pub above: Vec<Component>,
    pub last: Last,
}

/// Expands braces and reads each alternative.
pub(super) fn parse(text: &str) -> Result<Vec<PathGlob>, Mistake> {
    expand(text)?
        .iter()
        .map(|alternative| path(alternative).map_err(|reason| bad(text, reason)))
        .collect()
}

fn bad(text: &str, reason: impl Into<String>) -> Mistake {
    Mistake::BadGlob {
        text: text.into(),
        reason: reason.into(),
    }
}

/// The alternatives that `{a,b}` stand for, in order.
pub(super) fn expand(text: &str) -> Result<Vec<String>, Mistake> {
    let mut done = Vec::new();
    let mut open = vec![text.to_owned()];
    while let Some(next) = open.pop() {
        let Some(start) = next.find(['{', '}']) else {
            done.push(next);
            if done.len() + open.len() > MAX_EXPANSIONS {
                return Err(bad(
                    text,
                    format!(
                        "its braces stand for more than {MAX_EXPANSIONS} patterns: expected fewer; write several patterns"
                    ),
                ));
            }
            continue;
        };
        if next.as_bytes()[start] == b'}' {
            return Err(bad(text, "a \"}\" without its \"{\": expected {a,b}"));
        }
        let (end, commas) = braces(&next[start..])
            .ok_or_else(|| bad(text, "a \"{\" without its \"}\": expected {a,b}"))?;
        let (head, tail) = (&next[..start], &next[start + end + 1..]);
        let mut from = start + 1;
        let mut alternatives = Vec::new();
        for comma in commas.into_iter().map(|at| at + start).chain([start + end]) {
            alternatives.push(format!("{head}{}{tail}", &next[from..comma]));
            from = comma + 1;
        }
        // Bounded here as well: many small braces would otherwise pile up before one is done.
        if open.len() + alternatives.len() > MAX_EXPANSIONS {
            return Err(bad(
                text,
                format!(
                    "its braces stand for more than {MAX_EXPANSIONS} patterns: expected fewer; write several patterns"
                ),
            ));
        }
        open.extend(alternatives.into_iter().rev());
    }
    Ok(done)
}

/// For a text that begins with `{`: where its `}` is, and the commas between that are its own.
fn braces(text: &str) -> Option<(usize, Vec<usize>)> {
    let (mut depth, mut commas) = (0usize, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some((at, commas));
                }
            }
            b',' if depth == 1 => commas.push(at),
            _ => {}
        }
    }
    None
}

fn path(text: &str) -> Result<PathGlob, String> {
    if text.is_empty() {
        return Err("it is empty: expected a file name or a path".into());
    }
    if let Some(c) = text
        .chars()
        .find(|c| matches!(c, '?' | '[' | ']' | '\\' | '\0'))
    {
        return Err(format!(
            "{c:?} cannot be matched in the kernel: expected names, *, ** and {{a,b}}"
        ));
    }
    let (anchor, rest) = if let Some(rest) = text.strip_prefix("~/") {
        (Anchor::Home, rest)
    } else if text.starts_with('~') {
        return Err("\"~\" stands for every user's home: expected \"~/\" and a path in it".into());
    } else if let Some(rest) = text.strip_prefix('/') {
        (Anchor::Root, rest)
    } else if let Some(rest) = text.strip_prefix("**/") {
        (Anchor::Nowhere, rest)
    } else if text.contains('/') {
        return Err(format!(
            "a path that begins nowhere: expected \"**/{text}\" (anywhere), \"~/{text}\" or \"/{text}\""
        ));
    } else {
        (Anchor::Nowhere, text)
    };
    let mut words: Vec<&str> = rest.split('/').collect();
    let last = last(words.pop().unwrap_or_default())?;
    let (mut root, mut above, mut gap) = (Vec::new(), Vec::new(), false);
    for word in words {
        if word == "**" {
            if gap || anchor == Anchor::Nowhere || last == Last::Under {
                return Err("a second \"**\": expected at most one, which may lie in the middle only after \
                            / or ~/, and not together with a \"**\" at the end"
                    .into());
            }
            gap = true;
            root = std::mem::take(&mut above);
            continue;
        }
        above.push(directory(word)?);
    }
    if !gap && (anchor != Anchor::Nowhere) {
        root = std::mem::take(&mut above);
    }
    // Without a gap the kernel can take some of an anchored pattern's directories from below.
    let most = if !gap && anchor != Anchor::Nowhere && last != Last::Under {
        2 * PATTERN_PARTS
    } else {
        PATTERN_PARTS
    };
    if root.len().max(above.len()) > most {
        return Err(format!(
            "more than {most} directories in a row: expected at most {most}"
        ));
    }
    let directories = if root.is_empty() || gap {
        &above
    } else {
        &root
    };
    let literal = |component: &Component| matches!(component, Component::Name(_));
    match last {
        Last::Any if !directories.last().is_some_and(literal) => {
            return Err(
                "it would match nearly every file: expected a directory's name before \"/*\""
                    .into(),
            );
        }
        Last::Under if !directories.iter().any(literal) => {
            return Err(
                "it would match nearly every file: expected a directory's name before \"/**\""
                    .into(),
            );
        }
        Last::Under if anchor == Anchor::Nowhere && !directories.last().is_some_and(literal) => {
            return Err("\"*/**\": expected a directory's name before \"/**\"".into());
        }
        _ => {}
    }
    Ok(PathGlob {
        anchor,
        root,
        gap,
        above,
        last,
    })
}

fn directory(word: &str) -> Result<Component, String> {
    match word {
        "*" => Ok(Component::Any),
        _ if word.contains('*') => Err(format!(
            "\"{word}\" in the middle of a path: expected a directory's whole name, * or **; only the last \
             component may hold a * beside other characters"
        )),
        _ => name(word).map(Component::Name),
    }
}

fn last(word: &str) -> Result<Last, String> {
    match word {
        "" => Err("it ends in \"/\": expected \"/*\" for the files in a directory, \"/**\" for all below it".into()),
        "*" => Ok(Last::Any),
        "**" => Ok(Last::Under),
        _ => final_name(word),
    }
}

/// The final component, when it is neither `*` nor `**`.
pub(super) fn final_name(word: &str) -> Result<Last, String> {
    let Some((prefix, suffix)) = word.split_once('*') else {
        return name(word).map(Last::Exact);
    };
    if suffix.contains('*') {
        return Err(format!(
            "\"{word}\": expected at most one \"*\" in a name, and \"**\" only alone between slashes"
        ));
    }
    if let Some(long) = [prefix, suffix]
        .into_iter()
        .find(|part| part.len() > MAX_AFFIX)
    {
        return Err(format!(
            "{} bytes beside a \"*\": expected at most {MAX_AFFIX}",
            long.len()
        ));
    }
    Ok(Last::Affix(prefix.into(), suffix.into()))
}

fn name(word: &str) -> Result<String, String> {
    match word {
        "" => Err("an empty component: expected one \"/\" between names".into()),
        "." | ".." => Err(format!("\"{word}\": expected a path without . and ..")),
        _ if word.len() > MAX_NAME => Err(format!(
            "a name of {} bytes: expected at most {MAX_NAME}",
            word.len()
        )),
        _ => Ok(word.into()),
    }
}
