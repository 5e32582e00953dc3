//! The commands in a shell's text, as far as they can be told without running it.
//!
//! The text is split where a POSIX shell ends a command (`;`, `&`, `|`, a new line, parentheses), outside quotes;
//! what stands in `$( … )`, in backticks and in parentheses counts as commands too. Of each command the keywords
//! (`if`, `do`, `{`), the assignments in front (`VAR=x`) and the redirections are left out; the words are told apart by
//! the crate `shell-words`. The text of a here-document is data and passed over, if it has an end. Nothing is expanded: `$X` stays
//! `$X`.
//!
//! Where quotes or parentheses do not balance (the kernel cuts long command lines, and not every text is for a POSIX
//! shell), the text is split at every such sign and every blank, quoted or not, and quotes are taken off. That finds
//! rather too much than too little.
//!
//! <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html>

use std::mem;

/// Commands of one text at most; what comes behind is not looked at.
const MAX_COMMANDS: usize = 4096;
/// Substitutions inside one another at most; a deeper text is split as if it did not balance.
const MAX_NESTED: usize = 64;
/// Here-documents without an end at most; behind them no end is looked for. It is searched for in the rest of the text.
const MAX_ENDLESS: usize = 16;
/// Stands in a command where a redirection was: no text from a command line holds it.
const REDIRECTION: &str = "\0";

/// Words that may stand in front of a command. `time` and `command` are programs too: see the table of wrappers.
const KEYWORDS: [&str; 11] = [
    "if", "then", "elif", "else", "while", "until", "do", "{", "}", "!", "coproc",
];

/// The words of each command in a shell's text.
pub(super) fn commands(text: &str) -> Vec<Vec<String>> {
    let mut scan = Scan::default();
    let pieces = match scan.read(text) {
        Some(()) => scan.done,
        None => return roughly(text),
    };
    let mut commands = Vec::new();
    for piece in pieces {
        match shell_words::split(&piece) {
            Ok(words) => commands.extend(command(words)),
            Err(_) => commands.extend(roughly(&piece)),
        }
    }
    commands.truncate(MAX_COMMANDS);
    commands
}

/// Whether a word is an assignment, as it may stand in front of a command.
pub(super) fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        let name = name.strip_suffix('+').unwrap_or(name);
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

/// The command in these words: without redirections, keywords and assignments.
fn command(words: Vec<String>) -> Option<Vec<String>> {
    let mut kept = Vec::with_capacity(words.len());
    let mut target = false;
    for word in words {
        if word == REDIRECTION {
            target = true;
        } else if mem::take(&mut target)
            || (kept.is_empty() && (KEYWORDS.contains(&&*word) || is_assignment(&word)))
        {
            // Not a part of the command.
        } else {
            kept.push(word);
        }
    }
    (!kept.is_empty()).then_some(kept)
}

/// For a text that does not balance.
fn roughly(text: &str) -> Vec<Vec<String>> {
    text.split([';', '&', '|', '\n', '(', ')', '`'])
        .filter_map(|piece| {
            let words = piece
                .split_whitespace()
                .map(|word| word.replace(['\'', '"'], ""))
                .filter(|word| !word.is_empty());
            command(words.collect())
        })
        .take(MAX_COMMANDS)
        .collect()
}

/// What the scan is inside of.
enum Inside {
    /// `"…"`.
    Quotes,
    /// `( … )`, `$( … )`: the command around it, which goes on behind.
    Parentheses(String),
    /// `` `…` ``: the same.
    Backticks(String),
    /// `${…}`, where signs end no command.
    Braces,
}

/// One pass over a text.
#[derive(Default)]
struct Scan {
    done: Vec<String>,
    /// The command that is being read.
    now: String,
    inside: Vec<Inside>,
    /// Delimiters of here-documents that begin after this line, and whether tabs in front of them count.
    here: Vec<(String, bool)>,
    /// Of the ones so far, how many had no end.
    endless: usize,
}

impl Scan {
    fn end_command(&mut self) {
        let command = mem::take(&mut self.now);
        if !command.trim().is_empty() && self.done.len() < MAX_COMMANDS {
            self.done.push(command);
        }
    }

    /// Goes into a substitution; the command around it keeps a word in its place.
    fn enter(&mut self, into: impl FnOnce(String) -> Inside) -> Option<()> {
        let around = mem::take(&mut self.now);
        self.inside.push(into(around));
        (self.inside.len() <= MAX_NESTED).then_some(())
    }

    fn quoted(&self) -> bool {
        matches!(self.inside.last(), Some(Inside::Quotes))
    }

    /// Fills `done`. None where quotes or parentheses do not balance.
    fn read(&mut self, text: &str) -> Option<()> {
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            let after = &rest[next.len_utf8()..];
            rest = match next {
                '\\' => {
                    let escaped = after.chars().next()?;
                    self.now.push('\\');
                    self.now.push(escaped);
                    &after[escaped.len_utf8()..]
                }
                '"' => {
                    self.now.push('"');
                    if self.quoted() {
                        self.inside.pop();
                    } else {
                        self.inside.push(Inside::Quotes);
                    }
                    after
                }
                '\'' if !self.quoted() => {
                    let end = after.find('\'')?;
                    self.now.push_str(&rest[..end + 2]);
                    &after[end + 1..]
                }
                '$' => self.dollar(after)?,
                '`' => self.backtick(after)?,
                '}' if matches!(self.inside.last(), Some(Inside::Braces)) => {
                    self.inside.pop();
                    self.now.push('}');
                    after
                }
                _ if matches!(self.inside.last(), Some(Inside::Quotes | Inside::Braces)) => {
                    self.now.push(next);
                    after
                }
                '(' => {
                    self.enter(Inside::Parentheses)?;
                    after
                }
                ')' => {
                    self.close_parenthesis();
                    after
                }
                '\n' => {
                    self.end_command();
                    self.pass_documents(after)
                }
                ';' | '|' => {
                    self.end_command();
                    after
                }
                // `&>` and `>&` belong to a redirection, which is met at its `>`.
                '&' if after.starts_with('>') => after,
                '&' => {
                    self.end_command();
                    after
                }
                '<' | '>' => self.redirection(rest)?,
                '#' if self.now.is_empty() || self.now.ends_with(char::is_whitespace) => {
                    after.find('\n').map_or("", |end| &after[end..])
                }
                _ => {
                    self.now.push(next);
                    after
                }
            };
        }
        self.end_command();
        self.inside.is_empty().then_some(())
    }

    /// After a `$`.
    fn dollar<'a>(&mut self, after: &'a str) -> Option<&'a str> {
        if let Some(after) = after.strip_prefix('(') {
            self.enter(Inside::Parentheses)?;
            return Some(after);
        }
        if let Some(after) = after.strip_prefix('{') {
            self.now.push_str("${");
            self.inside.push(Inside::Braces);
            return (self.inside.len() <= MAX_NESTED).then_some(after);
        }
        if !self.quoted() && after.starts_with('"') {
            return Some(after);
        }
        if !self.quoted() && after.starts_with('\'') {
            return self.escaped(&after[1..]);
        }
        self.now.push('$');
        Some(after)
    }

    /// `$'…'`, of bash: the escapes that matter are undone.
    fn escaped<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        let mut value = String::new();
        let mut letters = text.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\'' => {
                    self.now.push_str(&shell_words::quote(&value));
                    return Some(&text[at + 1..]);
                }
                '\\' => match letters.next()?.1 {
                    'n' => value.push('\n'),
                    't' => value.push('\t'),
                    other => value.push(other),
                },
                _ => value.push(letter),
            }
        }
        None
    }

    /// After a backtick, which begins a substitution or ends the one that is open.
    fn backtick<'a>(&mut self, after: &'a str) -> Option<&'a str> {
        if matches!(self.inside.last(), Some(Inside::Backticks(_))) {
            self.end_command();
            if let Some(Inside::Backticks(around)) = self.inside.pop() {
                self.now = around + "$()";
            }
        } else {
            self.enter(Inside::Backticks)?;
        }
        Some(after)
    }

    fn close_parenthesis(&mut self) {
        self.end_command();
        // One that closes nothing is a pattern of `case`.
        if matches!(self.inside.last(), Some(Inside::Parentheses(_)))
            && let Some(Inside::Parentheses(around)) = self.inside.pop()
        {
            self.now = around + "$()";
        }
    }

    /// At a `<` or `>`: leaves a mark, which takes the word behind it out of the command.
    fn redirection<'a>(&mut self, text: &'a str) -> Option<&'a str> {
        // `<( … )` is a word of the command.
        if text[1..].starts_with('(') {
            self.enter(Inside::Parentheses)?;
            return Some(&text[2..]);
        }
        // The number of a descriptor in front of it: `2>`.
        let without = self.now.trim_end_matches(|c: char| c.is_ascii_digit());
        if without.is_empty() || without.ends_with(char::is_whitespace) {
            self.now.truncate(without.len());
        }
        let after = text.trim_start_matches(['<', '>']);
        let signs = &text[..text.len() - after.len()];
        let after = after.trim_start_matches(['&', '|']);
        self.now.push(' ');
        self.now.push_str(REDIRECTION);
        self.now.push(' ');
        if signs != "<<" {
            return Some(after);
        }
        let (tabs, after) = match after.strip_prefix('-') {
            Some(after) => (true, after),
            None => (false, after),
        };
        let after = after.trim_start_matches([' ', '\t']);
        let end = after
            .find(|c: char| c.is_whitespace() || ";&|<>()".contains(c))
            .unwrap_or(after.len());
        let delimiter = after[..end].replace(['\'', '"', '\\'], "");
        self.here.push((delimiter, tabs));
        // The delimiter itself is the word behind the mark.
        self.now.push_str("EOF ");
        Some(&after[end..])
    }

    /// Passes over the here-documents that begin at a new line. One without an end is none (`$((1 << 2))`), or is cut
    /// off: its lines are taken for commands.
    fn pass_documents<'a>(&mut self, mut text: &'a str) -> &'a str {
        for (delimiter, tabs) in mem::take(&mut self.here) {
            if self.endless == MAX_ENDLESS {
                break;
            }
            let mut rest = text;
            let end = loop {
                if rest.is_empty() {
                    break None;
                }
                let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
                rest = after;
                let line = if tabs {
                    line.trim_start_matches('\t')
                } else {
                    line
                };
                if line == delimiter {
                    break Some(rest);
                }
            };
            match end {
                Some(after) => text = after,
                None => self.endless += 1,
            }
        }
        text
    }
}
