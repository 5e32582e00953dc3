//! Secrets that are known by their place: `name=value`, `name: value`, headers, URLs.
//!
//! One pass from left to right. It keeps the quotes that are open, since a script in an argument is
//! quoted twice and more, and only they tell where a value ends.

use std::ops::Range;

use super::{
    names::{Name, harmless, path, plain, random},
    words::{Context, Next},
};

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One argument as the program gets it: its quotes and blanks are its own.
    Argument,
    /// Text that a shell (or a person) reads: words, quotes, `;` and `|`.
    Script,
}

/// An opening or closing quote with the backslashes before it: `"`, `\"`, `\\\"` are three kinds.
type Quote = (usize, u8);

/// Where a value may end.
#[derive(Clone, Copy)]
pub(super) enum Stop {
    /// With the text.
    Text,
    /// With the line, or the quotes around it.
    Line,
    /// With the word, or before one of these.
    Word(&'static [u8]),
}

/// The pass over one text.
pub(super) struct Scan<'a> {
    pub(super) text: &'a str,
    pub(super) bytes: &'a [u8],
    pub(super) form: Form,
    pub(super) context: &'a mut Context,
    quotes: Vec<Quote>,
    spans: Vec<Range<usize>>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a str, form: Form, context: &'a mut Context) -> Self {
        Self {
            text,
            bytes: text.as_bytes(),
            form,
            context,
            quotes: Vec::new(),
            spans: Vec::new(),
        }
    }

    pub(super) fn find(mut self) -> Vec<Range<usize>> {
        let mut at = 0;
        let mut blank = true;
        if self.text.trim().is_empty() {
            self.context.next = Next::Nothing;
        }
        while at < self.bytes.len() {
            let byte = self.bytes[at];
            if byte.is_ascii_whitespace() {
                blank = true;
                if byte == b'\n' {
                    self.context.next = Next::Nothing;
                }
                at += 1;
                continue;
            }
            if blank && let Some(end) = self.awaited(at) {
                (at, blank) = (end.max(at + 1), false);
                continue;
            }
            if let Some((quote, after)) = self.quote(at) {
                match self.quotes.iter().rposition(|open| *open == quote) {
                    Some(depth) => self.quotes.truncate(depth),
                    None => self.quotes.push(quote),
                }
                // A quote begins a word, but not one that was waited for at the quote itself.
                (at, blank) = (after, false);
                self.word(at);
                continue;
            }
            if blank || at == 0 || b";|&(".contains(&self.bytes[at - 1]) {
                self.word(at);
            }
            blank = false;
            at = match byte {
                b'=' | b':' => {
                    // A value that stands here is not one that is still to come.
                    let next = std::mem::take(&mut self.context.next);
                    self.assignment(at).unwrap_or_else(|| {
                        self.context.next = next;
                        at + 1
                    })
                }
                b';' | b'|' => {
                    *self.context = Context::default();
                    at + 1
                }
                _ => at + 1,
            };
        }
        self.spans
    }

    /// The quote that begins at `at`, backslashes included, and where it ends.
    fn quote(&self, at: usize) -> Option<(Quote, usize)> {
        let slashes = self.bytes[at..]
            .iter()
            .take_while(|byte| **byte == b'\\')
            .count();
        let quote = *self.bytes.get(at + slashes)?;
        matches!(quote, b'"' | b'\'').then_some(((slashes, quote), at + slashes + 1))
    }

    /// Looks at `=` or `:` as what stands between a name and its value; returns where to go on.
    fn assignment(&mut self, at: usize) -> Option<usize> {
        let next = |offset: usize| self.bytes.get(at + offset).copied();
        let before = at.checked_sub(1).map(|before| self.bytes[before]);
        let colon = self.bytes[at] == b':';
        if colon && self.bytes[at..].starts_with(b"://") {
            return self.url(at + 3);
        }
        if colon && (next(1) == Some(b':') || before == Some(b':'))
            || !colon
                && (matches!(before, Some(b'!' | b'<' | b'>' | b'~' | b'=' | b':'))
                    || next(1) == Some(b'~')
                        && before.is_some_and(|byte| byte.is_ascii_whitespace()))
        {
            return None;
        }
        // `:=`, `=>`, `==`, `===`.
        let mut value = at
            + 1
            + self.bytes[at + 1..]
                .iter()
                .take(2)
                .take_while(|byte| matches!(byte, b'=' | b'>'))
                .count();
        if !colon
            && value == at + 2
            && next(1) == Some(b'=')
            && next(2)
                .is_some_and(|byte| !byte.is_ascii_whitespace() && byte != b'"' && byte != b'\'')
        {
            // `name==value` may be `name=` and a value that begins with `=`.
            value = at + 1;
        }
        let (name, quoted, spaced) = self.name_before(at)?;
        let kind = Name::of(&self.text[name.clone()]);
        if kind == Name::Plain || spaced && colon && !quoted {
            return None;
        }
        let blanks = self.bytes[value..]
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'))
            .count();
        if colon || spaced {
            value += blanks;
        }
        if value >= self.bytes.len() {
            return None;
        }
        let lead = name.start.checked_sub(1).map(|lead| self.bytes[lead]);
        let heads_line = matches!(lead, None | Some(b'"' | b'\'' | b'\n' | b'{' | b','));
        let stop = match (kind, lead) {
            (Name::Authorization, _) => return self.credentials(value, self.line()),
            (_, Some(b'?' | b'&')) => Stop::Word(b"&#"),
            (Name::Cookie, _) => self.line(),
            (_, Some(b';')) => Stop::Word(b";"),
            _ if quoted => Stop::Word(b",}]"),
            // A header.
            _ if colon && heads_line && blanks > 0 && self.text[name.clone()].contains('-') => {
                self.line()
            }
            _ if !colon
                && self.form == Form::Argument
                && self.quotes.is_empty()
                && !self.bytes[..name.start]
                    .iter()
                    .any(|byte| byte.is_ascii_whitespace() || *byte == b'?') =>
            {
                Stop::Text
            }
            _ => Stop::Word(b""),
        };
        let shell = !colon && !spaced && !quoted;
        let (inner, end) = self.value(value, stop, shell);
        let content = &self.text[inner.clone()];
        let in_quotes = inner.end < end;
        let sure = match kind {
            Name::Maybe => random(content),
            Name::SecretOrPath if path(content) => false,
            _ if quoted || in_quotes || shell => true,
            _ if colon && heads_line && blanks > 0 => true,
            _ => !plain(content),
        };
        if !sure || self.harmless(&inner) {
            return None;
        }
        self.mask(inner);
        Some(end)
    }

    /// The name that ends before the separator at `at`; whether it is quoted; whether blanks follow it.
    fn name_before(&self, at: usize) -> Option<(Range<usize>, bool, bool)> {
        let back = |end: usize, holds: fn(u8) -> bool| {
            end - self.bytes[..end]
                .iter()
                .rev()
                .take_while(|byte| holds(**byte))
                .count()
        };
        let unspaced = back(at, |byte| matches!(byte, b' ' | b'\t'));
        let unindexed = back(unspaced, |byte| byte == b']');
        let mut end = back(unindexed, |byte| matches!(byte, b'"' | b'\''));
        let quoted = end < unindexed;
        if quoted {
            end = back(end, |byte| byte == b'\\');
        }
        let start = back(end, |byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
        });
        // `$NAME =` and `${NAME:-…}` use a variable, they do not set one.
        let used = self.bytes[..start].ends_with(b"$") || self.bytes[..start].ends_with(b"${");
        (start < end && !used).then_some((start..end, quoted, unspaced < at))
    }

    fn line(&self) -> Stop {
        match self.form {
            Form::Script if self.quotes.is_empty() => Stop::Word(b""),
            Form::Script | Form::Argument => Stop::Line,
        }
    }

    /// The value that begins at `start`: what of it to mask (without quotes around it), and its end.
    /// `shell`: after a closing quote more of it may follow.
    pub(super) fn value(&self, start: usize, stop: Stop, shell: bool) -> (Range<usize>, usize) {
        if matches!(stop, Stop::Text) {
            return (start..self.bytes.len(), self.bytes.len());
        }
        let mut open = None;
        let mut at = start;
        while at < self.bytes.len() {
            if let Some((quote, after)) = self.quote(at) {
                match open {
                    Some(opened) if opened == quote => {
                        open = None;
                        let (first, inside) = self.quote(start).unwrap_or((quote, start));
                        let more = self.bytes.get(after).is_some_and(|byte| {
                            shell
                                && (byte.is_ascii_alphanumeric() || b"\"'$\\_-+/".contains(byte))
                                && !self
                                    .quote(after)
                                    .is_some_and(|(next, _)| self.quotes.contains(&next))
                        });
                        if !more
                            && inside > start
                            && first == quote
                            && self.opens_once(inside, at, quote)
                        {
                            return (inside..at, after);
                        }
                        if !more && !matches!(stop, Stop::Line) {
                            return (start..after, after);
                        }
                    }
                    Some(_) => {}
                    None if self.quotes.contains(&quote) => return (start..at, at),
                    None if matches!(stop, Stop::Line) && at > start => {}
                    None => open = Some(quote),
                }
                at = after;
                continue;
            }
            let byte = self.bytes[at];
            if open.is_none() {
                let ends = match stop {
                    Stop::Text => false,
                    Stop::Line => byte == b'\n' || byte == b'\r',
                    Stop::Word(more) => {
                        byte.is_ascii_whitespace()
                            || more.contains(&byte)
                            || self.form == Form::Script
                                && self.quotes.is_empty()
                                && b";|&()<>`".contains(&byte)
                    }
                };
                if ends {
                    return (start..at, at);
                }
            }
            // What a backslash stands before belongs to the word.
            at += if byte == b'\\' && self.bytes.get(at + 1).is_some_and(u8::is_ascii) {
                2
            } else {
                1
            };
        }
        let at = at.min(self.bytes.len());
        (start..at, at)
    }

    /// Whether no quote of this kind stands between the first one and the one at `end`.
    fn opens_once(&self, start: usize, end: usize, quote: Quote) -> bool {
        let mut at = start;
        while at < end {
            match self.quote(at) {
                Some((found, _)) if found == quote => return false,
                Some((_, after)) => at = after,
                None => at += 1,
            }
        }
        true
    }

    /// The value of an `Authorization` header: the scheme stays, what follows goes.
    pub(super) fn credentials(&mut self, at: usize, stop: Stop) -> Option<usize> {
        const SCHEMES: &[&str] = &[
            "bearer",
            "basic",
            "token",
            "digest",
            "negotiate",
            "apikey",
            "api-key",
            "bot",
            "key",
            "flyv1",
            "aws4-hmac-sha256",
            "ntlm",
        ];
        let (whole, end) = self.value(at, stop, true);
        let length = |range: &Range<usize>| {
            self.text[range.clone()]
                .bytes()
                .take_while(|byte| !byte.is_ascii_whitespace() && *byte != b'\\')
                .count()
        };
        let scheme = whole.start..whole.start + length(&whole);
        let blanks = |from: usize| {
            self.bytes[from..]
                .iter()
                .take_while(|byte| b" \t\\".contains(byte))
                .count()
        };
        let (secret, end) = if SCHEMES
            .iter()
            .any(|known| self.text[scheme.clone()].eq_ignore_ascii_case(known))
        {
            let start = scheme.end + blanks(scheme.end);
            if scheme.end == whole.end {
                // The stop was the blank: the secret is the next word, here or in the next argument.
                let (next, end) = self.value(start.min(self.bytes.len()), stop, true);
                if next.is_empty() {
                    self.context.next = Next::Value(Name::Secret);
                    return Some(whole.end);
                }
                (next, end)
            } else {
                (start.min(whole.end)..whole.end, end)
            }
        } else {
            (whole, end)
        };
        if self.harmless(&secret) {
            return None;
        }
        self.mask(secret);
        Some(end)
    }

    /// `user:password@` after `scheme://`.
    fn url(&mut self, start: usize) -> Option<usize> {
        let within = |ends: &'static [u8]| {
            let ends = move |byte: &u8| {
                byte.is_ascii_whitespace() || b"\"'<>`".contains(byte) || ends.contains(byte)
            };
            self.bytes[start..]
                .iter()
                .position(ends)
                .map_or(self.bytes.len(), |length| start + length)
        };
        let authority = within(b"/?#");
        let colon = self.bytes[start..authority]
            .iter()
            .position(|byte| *byte == b':')
            .map(|colon| start + colon);
        let port = colon.is_some_and(|colon| {
            self.bytes[colon + 1..authority]
                .iter()
                .all(u8::is_ascii_digit)
        });
        // A password with a bare `/` in it is no URL, but it is written.
        let end = if colon.is_some() && !port {
            within(b"")
        } else {
            authority
        };
        let at = start
            + self.bytes[start..end]
                .iter()
                .rposition(|byte| *byte == b'@')?;
        let secret = match colon {
            Some(colon) if colon < at => colon + 1..at,
            _ if random(&self.text[start..at]) => start..at,
            _ => return None,
        };
        if self.harmless(&secret) {
            return None;
        }
        self.mask(secret);
        Some(at)
    }

    /// No secret whatever its name. In a script that includes the output of a command.
    pub(super) fn harmless(&self, value: &Range<usize>) -> bool {
        let rest = &self.text[value.start..];
        harmless(&self.text[value.clone()])
            || self.form == Form::Script && (rest.starts_with("$(") || rest.starts_with('`'))
    }

    pub(super) fn mask(&mut self, span: Range<usize>) {
        self.spans.push(span);
    }
}
