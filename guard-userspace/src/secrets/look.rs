//! From hits of the search to secrets.

use std::{ops::Range, path::Path};

use memchr::memmem;
use sha2::{Digest as _, Sha256};

use super::{
    Find, MAX_FOUND, Scanner, Trigger,
    assign::{self, Assignment, Promise},
    place::Place,
    structured::{self, Hit, Id, window},
    table::Form,
    text::Text,
    value,
};
use crate::mask::names;

/// How far behind a word the form it is about may stand, in bytes, and over how many line ends.
const REACH: usize = 200;
const LINES: usize = 3;
/// How long a line may be that is about those below it.
const HEAD: usize = 60;
/// How far before a token a word that it needs may stand.
const BEFORE: usize = 250;
/// How far around a token a word may stand that makes it public.
const AROUND: usize = 600;
/// A line of code of such a length was not written by a person.
const LONG_LINE: usize = 1000;

/// Classes of a find: what is surer is lower.
const FORM: u8 = 0;
const STRUCTURED: u8 = 1;
const NEAR: u8 = 2;
const GUESS: u8 = 4;

/// Words of which one makes a value near a provider's name that provider's secret.
const TELLING: &[&str] = &[
    "token",
    "key",
    "secret",
    "pass",
    "pwd",
    "credential",
    "auth",
    "api",
    "pat",
    "login",
    "bearer",
    "license",
];

pub(super) struct Looker<'s> {
    scanner: &'s Scanner,
    bytes: &'s [u8],
    place: Place,
    /// Kinds with one of whose words the path has.
    of_path: Vec<u16>,
    /// Values here are encrypted (Kubernetes' sealed secrets).
    sealed: bool,
    finds: Vec<Find>,
    more: usize,
    /// Up to here names have been read.
    read: usize,
    /// For each kind, up to here its form has matched: what begins within is part of that.
    matched: Vec<usize>,
}

impl<'s> Looker<'s> {
    pub fn new(scanner: &'s Scanner, path: &Path, text: &'s Text<'_>) -> Self {
        let place = Place::of(path);
        let bytes = text.bytes();
        let mut of_path = Vec::new();
        for hit in scanner.search.find_overlapping_iter(&place.path) {
            for trigger in &scanner.triggers[hit.pattern().as_usize()] {
                if let Trigger::Near(kind) = trigger {
                    of_path.push(*kind);
                }
            }
        }
        of_path.sort_unstable();
        of_path.dedup();
        Self {
            scanner,
            bytes,
            place,
            of_path,
            sealed: memmem::find(bytes, b"SealedSecret").is_some(),
            finds: Vec::new(),
            more: 0,
            read: 0,
            matched: vec![0; scanner.table.structured],
        }
    }

    /// Everything, in the order in which it stands, and how many more there were.
    pub fn run(mut self) -> (Vec<Find>, usize) {
        let scanner = self.scanner;
        if self.place.pgpass {
            structured::pgpass(self.bytes, &mut |hit| self.structured(hit));
        }
        for hit in scanner.search.find_overlapping_iter(self.bytes) {
            for trigger in &scanner.triggers[hit.pattern().as_usize()] {
                match trigger {
                    Trigger::Literal(kind) => self.literal(*kind, hit.range()),
                    Trigger::Near(kind) => self.near(*kind, hit.range()),
                    Trigger::Mark(mark) => {
                        if let Some(hit) = structured::look(*mark, self.bytes, hit.start()) {
                            self.structured(hit);
                        }
                    }
                    Trigger::Telling => self.telling(hit.range()),
                }
            }
        }
        (settled(self.finds), self.more)
    }

    fn add(&mut self, find: Find) {
        // The same value is often found by several ways, so there may be more finds than secrets.
        if self.finds.len() >= 4 * MAX_FOUND {
            self.finds = settled(std::mem::take(&mut self.finds));
        }
        if self.finds.len() >= 2 * MAX_FOUND {
            self.more += 1;
        } else {
            self.finds.push(find);
        }
    }

    fn structured(&mut self, hit: Hit) {
        if self.public(&self.bytes[hit.range.clone()]) {
            return;
        }
        let class = match hit.id {
            // Armour is surer than what its base64 happens to look like.
            Id::GcpKey
            | Id::Pem
            | Id::OpenSsh
            | Id::Pgp
            | Id::Putty
            | Id::Encrypted
            | Id::Base64Pem => FORM,
            _ => STRUCTURED,
        };
        let find = Find {
            range: hit.range,
            kind: self.number(hit.id),
            rank: (class, 0),
            essence: hit.essence,
            encrypted: hit.encrypted,
        };
        self.add(find);
    }

    fn number(&self, id: Id) -> u16 {
        (self.scanner.table.structured + id as usize) as u16
    }

    fn form(&self, kind: u16) -> &'s Form {
        let scanner = self.scanner;
        scanner.table.kinds[usize::from(kind)]
            .form
            .as_ref()
            .expect("only kinds with a form have literals and words")
    }

    /// A literal of a form: the form begins here, or so many bytes before.
    fn literal(&mut self, kind: u16, hit: Range<usize>) {
        let form = self.form(kind);
        let text = &self.bytes[hit.clone()];
        if !form
            .literals
            .iter()
            .any(|literal| literal.as_bytes() == text)
        {
            return;
        }
        let (least, most) = form.back;
        for back in least..=most {
            let Some(start) = hit.start.checked_sub(back) else {
                return;
            };
            if start < self.matched[usize::from(kind)] || !form.glued && !self.begins(start) {
                continue;
            }
            let text = window(self.bytes, start, form.longest);
            let Some(regex) = form.regex.get() else {
                return;
            };
            let (whole, inner) = if regex.captures_len() > 1 {
                let Some(found) = regex.captures(text) else {
                    continue;
                };
                let Some(whole) = found.get(0) else { continue };
                (whole.range(), found.get(1).unwrap_or(whole).range())
            } else {
                let Some(found) = regex.find(text) else {
                    continue;
                };
                (found.range(), found.range())
            };
            self.matched[usize::from(kind)] = start + whole.end;
            let after = self.bytes.get(start + whole.end);
            if after.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
                continue;
            }
            let range = start + inner.start..start + inner.end;
            let stays = if range.start == hit.start {
                hit.len()
            } else {
                0
            };
            if self.fits(form, range.clone(), stays) && self.has_words(form, start) {
                self.add(Find {
                    range,
                    kind,
                    rank: (FORM, kind + 1),
                    essence: None,
                    encrypted: false,
                });
                return;
            }
        }
    }

    /// Whether a token may begin at `at`: not within a word, not within base64.
    fn begins(&self, at: usize) -> bool {
        let Some(before) = at.checked_sub(1).map(|before| self.bytes[before]) else {
            return true;
        };
        if before.is_ascii_alphanumeric() {
            // The letter of an escape (`\n`), the digits of `%3D`.
            return at >= 2 && self.bytes[at - 2] == b'\\' || at >= 3 && self.bytes[at - 3] == b'%';
        }
        let blob = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
        !(matches!(before, b'+' | b'/') && at >= 48 && self.bytes[at - 48..at].iter().all(blob))
    }

    /// What a form alone does not say of its value. The first `stays` bytes are the same in all of its kind.
    fn fits(&self, form: &Form, range: Range<usize>, stays: usize) -> bool {
        let value = &self.bytes[range.clone()];
        let body = value.get(stays..).unwrap_or(value);
        names::entropy(body) >= form.entropy
            && !value::stands_for_another(body)
            && form.check.is_none_or(|check| check.holds(value))
            && !self.public(value)
            && !self.is_declared_public(form, range)
    }

    fn is_declared_public(&self, form: &Form, range: Range<usize>) -> bool {
        if form.unless.is_empty() {
            return false;
        }
        let from = range.start.saturating_sub(AROUND);
        let around = window(self.bytes, from, range.end + AROUND - from).to_ascii_lowercase();
        form.unless.iter().any(|word| {
            memmem::find(&around, word.as_bytes()).is_some()
                || memmem::find(&self.place.path, word.as_bytes()).is_some()
        })
    }

    /// A value that its provider publishes or calls public.
    fn public(&self, value: &[u8]) -> bool {
        let table = &self.scanner.table;
        table.public.iter().any(|form| form.is_match(value))
            || (20..=300).contains(&value.len())
                && table.documented.contains(&Sha256::digest(value).into())
    }

    fn has_words(&self, form: &Form, at: usize) -> bool {
        if form.near.is_empty() || in_path(form, &self.place) {
            return true;
        }
        let before = self.bytes[at.saturating_sub(BEFORE)..at].to_ascii_lowercase();
        form.near
            .iter()
            .any(|word| memmem::find(&before, word.as_bytes()).is_some())
    }

    /// A word near which a form means something: the form is within reach behind it.
    fn near(&mut self, kind: u16, hit: Range<usize>) {
        if self.place.sure_only {
            return;
        }
        let form = self.form(kind);
        let mut text = window(self.bytes, hit.end, REACH + form.longest);
        if let Some((end, _)) = text
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .nth(LINES)
        {
            text = &text[..end];
        }
        let Some(regex) = form.regex.get() else {
            return;
        };
        for found in regex.find_iter(text) {
            let range = hit.end + found.start()..hit.end + found.end();
            if found.start() > REACH {
                return;
            }
            if !self.stands_alone(range.clone()) || !self.fits(form, range.clone(), 0) {
                continue;
            }
            let value = &self.bytes[range.clone()];
            let between = &self.bytes[hit.end..range.start];
            let same_line = !between.contains(&b'\n');
            let name = name_before(self.bytes, range.start);
            let sound = match &name {
                _ if !form.names => {
                    same_line && between.len() < 40
                        || name
                            .as_ref()
                            .is_some_and(|name| name.start <= hit.start && hit.end <= name.end)
                }
                // In between may be other names; the value's own says what it is.
                Some(name) => self.promises(name.clone()) && (same_line || self.heads(hit.clone())),
                // In a sentence: soon, and not something else of theirs.
                None => {
                    same_line
                        && between.len() < 60
                        && telling(&self.bytes[hit.start..range.start])
                        && !other(between)
                }
            };
            let sound = sound
                && !self.is_name(range.end)
                && !is_public_key(between)
                && (value.iter().any(u8::is_ascii_digit)
                    || value.iter().any(u8::is_ascii_lowercase)
                        && value.iter().any(u8::is_ascii_uppercase));
            if sound && !self.minified(range.start) {
                let distance = found.start().min(usize::from(u16::MAX)) as u16;
                self.add(Find {
                    range,
                    kind,
                    rank: (NEAR, distance),
                    essence: None,
                    encrypted: false,
                });
                return;
            }
        }
    }

    /// A comment or the head of a section, short enough to be about the lines below it alone.
    fn heads(&self, word: Range<usize>) -> bool {
        let start = assign::line_start(self.bytes, word.start);
        let length = window(self.bytes, start, HEAD)
            .iter()
            .position(|byte| *byte == b'\n');
        length.is_some_and(|length| {
            let line = self.bytes[start..start + length].trim_ascii();
            let starts = [&b"#"[..], b"//", b";", b"[", b"--", b"/*", b"*", b"<!--"];
            starts.iter().any(|sign| line.starts_with(sign)) || line.ends_with(b":") || line.ends_with(b"{")
                // A list of one thing: `provider "hcloud"` in its own line, `Railway` in notes.
                || !line.iter().any(|byte| matches!(byte, b'=' | b':'))
        })
    }

    /// What stands before `end` is a name itself: a value comes behind it.
    fn is_name(&self, end: usize) -> bool {
        let rest = window(self.bytes, end, 8);
        let rest = rest
            .iter()
            .find(|byte| !matches!(byte, b' ' | b'\t' | b'"' | b'\'' | b'\\'));
        matches!(rest, Some(b'=' | b':'))
    }

    fn promises(&self, name: Range<usize>) -> bool {
        let name = &self.bytes[name];
        match Promise::of(name) {
            Promise::Password | Promise::Secret | Promise::Perhaps => true,
            // `api: …`
            Promise::Nothing => name.eq_ignore_ascii_case(b"api"),
        }
    }

    /// Not a part of a longer word, path or number.
    fn stands_alone(&self, range: Range<usize>) -> bool {
        let before = range.start.checked_sub(1).map(|at| self.bytes[at]);
        let after = self.bytes.get(range.end);
        before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && !b"_-+/.%@#".contains(&byte))
            && after.is_none_or(|byte| !byte.is_ascii_alphanumeric() && !b"_-+/=@".contains(byte))
    }

    /// A part of a telling name.
    fn telling(&mut self, hit: Range<usize>) {
        if hit.start < self.read {
            return;
        }
        let Some(found) = assign::at(self.bytes, hit.clone(), &self.place) else {
            return;
        };
        self.read = found.name.end;
        if self.place.sure_only || self.sealed || self.minified(hit.start) {
            return;
        }
        let promise = Promise::of(&self.bytes[found.name.clone()]);
        if promise == Promise::Nothing {
            return;
        }
        if promise != Promise::Perhaps && !found.quoted {
            // No name begins within a value; else a run of them would be read from each anew.
            self.read = found.value.end;
        }
        let value = &self.bytes[found.value.clone()];
        let of_path = self.of_path.iter().copied().find(|kind| {
            let form = self.form(*kind);
            form.whole.get().is_some_and(|whole| whole.is_match(value))
                && self.fits(form, found.value.clone(), 0)
        });
        if let Some(kind) = of_path {
            self.read = found.value.end;
            self.guess(found, kind, (NEAR, REACH as u16));
            return;
        }
        if let Some(id) = self.in_connection_string(&found, promise) {
            self.read = found.value.end;
            let kind = self.number(id);
            self.guess(found, kind, (STRUCTURED, 0));
            return;
        }
        let id = match assign::counts(self.bytes, &found, &self.place) {
            Some(Promise::Password) => Id::Password,
            Some(_) => Id::Entropy,
            None => return,
        };
        self.read = found.value.end;
        let kind = self.number(id);
        self.guess(found, kind, (GUESS, 0));
    }

    fn guess(&mut self, found: Assignment, kind: u16, rank: (u8, u16)) {
        if self.public(&self.bytes[found.value.clone()]) {
            return;
        }
        self.add(Find {
            range: found.value,
            kind,
            rank,
            essence: None,
            encrypted: false,
        });
    }

    /// `…;Password=…` and `…&password=…` of ADO.NET's and JDBC's strings.
    fn in_connection_string(&self, found: &Assignment, promise: Promise) -> Option<Id> {
        if promise != Promise::Password || !matches!(found.lead, Some(b';' | b'?' | b'&')) {
            return None;
        }
        if !value::is_password(&self.bytes[found.value.clone()], b"") {
            return None;
        }
        let start = assign::line_start(self.bytes, found.name.start);
        let line = self.bytes[start..found.name.start].to_ascii_lowercase();
        let has = |text: &str| memmem::find(&line, text.as_bytes()).is_some();
        if has("jdbc:postgresql") {
            Some(Id::Postgres)
        } else if has("jdbc:mysql") || has("jdbc:mariadb") {
            Some(Id::Mysql)
        } else if has("server=") || has("data source=") || has("jdbc:sqlserver") {
            Some(Id::Mssql)
        } else if has("host=") || has("://") || has("jdbc:") {
            Some(Id::Url)
        } else {
            None
        }
    }

    /// Code on a line of a length that no person writes.
    fn minified(&self, at: usize) -> bool {
        self.place.source
            && self.bytes.len() > 2 * LONG_LINE
            && !window(self.bytes, at, LONG_LINE).contains(&b'\n')
            && !self.bytes[at.saturating_sub(LONG_LINE)..at].contains(&b'\n')
    }
}

fn in_path(form: &Form, place: &Place) -> bool {
    form.near
        .iter()
        .any(|word| memmem::find(&place.path, word.as_bytes()).is_some())
}

fn telling(text: &[u8]) -> bool {
    let lower = text.to_ascii_lowercase();
    TELLING
        .iter()
        .any(|word| memmem::find(&lower, word.as_bytes()).is_some())
}

/// Words that make what a provider's word is about something else than a secret.
fn other(text: &[u8]) -> bool {
    const OTHER: &[&str] = &[
        "project",
        "account",
        "request",
        "commit",
        "deploy",
        "version",
        "build",
        "release",
        "zone",
        "service id",
        "user",
        "org",
        "team",
        "http",
    ];
    let lower = text.to_ascii_lowercase();
    OTHER
        .iter()
        .any(|word| memmem::find(&lower, word.as_bytes()).is_some())
}

/// `ssh-ed25519 AAAA…`
fn is_public_key(before: &[u8]) -> bool {
    let word = before.trim_ascii_end();
    before.len() > word.len()
        && [
            &b"ssh-rsa"[..],
            b"ssh-ed25519",
            b"-nistp256",
            b"-nistp384",
            b"-nistp521",
        ]
        .iter()
        .any(|kind| word.ends_with(kind))
}

/// The name that the value at `at` is given, where it is given one.
fn name_before(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let back = |from: usize, most: usize, holds: &dyn Fn(u8) -> bool| {
        from - bytes[..from]
            .iter()
            .rev()
            .take(most)
            .take_while(|byte| holds(**byte))
            .count()
    };
    let value = back(at, 8, &|byte| {
        matches!(byte, b' ' | b'\t' | b'"' | b'\'' | b'\\' | b'`')
    });
    let separator = back(value, 3, &|byte| matches!(byte, b'=' | b':' | b'>'));
    if separator == value {
        return None;
    }
    let end = back(separator, 24, &|byte| {
        matches!(byte, b' ' | b'\t' | b'"' | b'\'' | b'\\' | b'`' | b']')
    });
    let start = back(end, 80, &|byte| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
    });
    // `name: &str = "…"`: before the type stands the name.
    let colon = back(start, 12, &|byte| matches!(byte, b' ' | b'&' | b'\''));
    if bytes[..colon].ends_with(b":")
        && !bytes[..colon].ends_with(b"::")
        && bytes[separator..value].contains(&b'=')
    {
        let end = colon - 1;
        let start = back(end, 80, &|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
        });
        if start < end {
            return Some(start..end);
        }
    }
    // `"value": "…"` and `value: …` say nothing.
    let plain = bytes[start..end].eq_ignore_ascii_case(b"value");
    (start < end && !plain).then_some(start..end)
}

/// Of those that overlap the surest, in the order in which they stand.
fn settled(mut finds: Vec<Find>) -> Vec<Find> {
    finds.sort_by_key(|find| (find.range.start, find.rank, find.kind));
    let mut kept: Vec<Find> = Vec::with_capacity(finds.len());
    for find in finds {
        match kept.last_mut() {
            Some(last) if find.range.start < last.range.end => {
                if (find.rank, find.kind) < (last.rank, last.kind) {
                    *last = find;
                }
            }
            _ => kept.push(find),
        }
    }
    kept
}
