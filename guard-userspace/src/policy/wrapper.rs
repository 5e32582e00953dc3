//! Command lines inside command lines: `sudo X`, `sh -c 'X'`, `ssh host X`.
//!
//! What is looked for is bounded whatever stands there: levels, lines, and bytes that are copied. The kernel hands over
//! 4 KiB of a command line, which ordinary ones do not come near; past a bound the rest is not looked at.

mod table;

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::LazyLock,
};

use self::table::{Rest, WRAPPERS, Wrapper};
use super::{interpreter, script};

/// Wrappers inside one another at most.
const MAX_DEPTH: usize = 8;
/// Command lines that come of one at most: more than 4 KiB of text hold.
const MAX_LINES: usize = 4096;
/// Bytes in all of them together at most.
const MAX_BYTES: usize = 64 << 10;

static BY_NAME: LazyLock<HashMap<&'static str, Vec<&'static Wrapper>>> = LazyLock::new(|| {
    let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
    for wrapper in WRAPPERS {
        for name in wrapper.names {
            by_name.entry(*name).or_default().push(wrapper);
        }
    }
    by_name
});

/// The wrappers that must be judged by their own command lines: what is in there is executed where guard does not see
/// it, or not executed at all.
pub(super) fn gated() -> impl Iterator<Item = &'static str> {
    WRAPPERS
        .iter()
        .filter(|wrapper| !wrapper.executed_here)
        .flat_map(|wrapper| wrapper.names.iter().copied())
}

/// A command line, on its own or inside another.
pub(super) struct Line {
    pub words: Vec<String>,
    /// What its program is called, and where its arguments begin: by `argv[0]`, by the file that is executed, and for
    /// an interpreter by the script.
    pub programs: Vec<(String, usize)>,
    depth: usize,
}

/// The name of the program in a word that names a package: `@scope/name@1.2`, `npm:name@1`, `registry/name:tag`.
fn package(word: &str) -> &str {
    let word = word
        .strip_prefix("npm:")
        .or_else(|| word.strip_prefix("jsr:"))
        .unwrap_or(word);
    let base = word.rsplit('/').next().unwrap_or(word);
    // The first byte may be the `@` of a scope.
    match base
        .char_indices()
        .skip(1)
        .find(|(_, c)| matches!(c, '@' | ':'))
    {
        Some((at, _)) => &base[..at],
        None => base,
    }
}

impl Line {
    fn new(words: Vec<String>, exe: Option<&Path>, depth: usize) -> Self {
        let called = words.first().map(|word| interpreter::base(word.as_bytes()));
        let executed = exe
            .and_then(Path::file_name)
            .map(std::os::unix::ffi::OsStrExt::as_bytes);
        let mut programs: Vec<(String, usize)> = Vec::new();
        let mut add = |name: &[u8], from| {
            let program = (String::from_utf8_lossy(name).into_owned(), from);
            if !programs.contains(&program) {
                programs.push(program);
            }
        };
        for name in [called, executed].into_iter().flatten() {
            add(name, 1);
            if interpreter::is_interpreter(name)
                && let Some(at) = interpreter::script(name, &words)
            {
                add(interpreter::base(words[at].as_bytes()), at + 1);
            }
        }
        Self {
            words,
            programs,
            depth,
        }
    }

    fn of_package(words: Vec<String>, depth: usize) -> Self {
        let name = words.first().map(|word| package(word).to_owned());
        let mut line = Self::new(words, None, depth);
        if let Some(name) = name
            && line.programs.iter().all(|(known, _)| *known != name)
        {
            line.programs.push((name, 1));
        }
        line
    }
}

/// This command line and those inside it.
pub(super) fn lines(exe: Option<&Path>, argv: &[String]) -> Vec<Line> {
    let mut found = Vec::new();
    let mut open = VecDeque::from([Line::new(argv.to_vec(), exe, 0)]);
    let mut left = MAX_BYTES;
    while let Some(line) = open.pop_front() {
        if line.depth < MAX_DEPTH {
            for (name, from) in &line.programs {
                let arguments = line.words.get(*from..).unwrap_or_default();
                for wrapper in BY_NAME.get(&**name).into_iter().flatten() {
                    for inner in wrapper.inner(arguments, line.depth + 1) {
                        let bytes: usize = inner.words.iter().map(|word| word.len() + 1).sum();
                        let room = found.len() + open.len() < MAX_LINES;
                        if room && let Some(rest) = left.checked_sub(bytes) {
                            left = rest;
                            open.push_back(inner);
                        }
                    }
                }
            }
        }
        found.push(line);
    }
    found
}

/// What a walk over a wrapper's arguments has found.
#[derive(Default)]
struct Walk {
    /// Where the rest begins.
    rest: usize,
    /// Values of the options that have a text for a shell.
    scripts: Vec<String>,
    /// Letters of the short options.
    letters: String,
}

fn listed(options: &str, option: &str) -> bool {
    options
        .split_ascii_whitespace()
        .any(|known| known == option)
}

impl Wrapper {
    /// The command lines inside this one.
    fn inner(&self, arguments: &[String], depth: usize) -> Vec<Line> {
        let subcommands = if self.subcommands.is_empty() {
            &[""]
        } else {
            self.subcommands
        };
        let mut lines = Vec::new();
        for subcommand in subcommands {
            if let Some(walk) = self.walk(subcommand, arguments) {
                self.follow(walk, arguments, depth, &mut lines);
            }
        }
        lines
    }

    /// Goes past options, the subcommand and the operands. None where the subcommand is another one.
    fn walk(&self, subcommand: &str, arguments: &[String]) -> Option<Walk> {
        let mut expected = subcommand.split_ascii_whitespace();
        let mut operands = self.operands;
        let mut walk = Walk::default();
        let mut ended = false;
        let mut next = expected.next();
        while let Some(word) = arguments.get(walk.rest) {
            let assignment = self.rest == Rest::Environment && script::is_assignment(word);
            if !ended && word == "--" {
                ended = true;
                walk.rest += 1;
            } else if !ended && word.starts_with('-') {
                let taken = self.option(word, arguments.get(walk.rest + 1), &mut walk);
                walk.rest += taken;
            } else if assignment {
                walk.rest += 1;
            } else if let Some(subcommand) = next {
                if word != subcommand {
                    return None;
                }
                next = expected.next();
                walk.rest += 1;
            } else if operands > 0 {
                operands -= 1;
                walk.rest += 1;
            } else {
                break;
            }
        }
        next.is_none().then_some(walk)
    }

    /// How many words an option takes.
    fn option(&self, word: &str, next: Option<&String>, walk: &mut Walk) -> usize {
        let text = |joined: Option<&str>, walk: &mut Walk| {
            let taken = if joined.is_some() { 1 } else { 2 };
            walk.scripts
                .extend(joined.or(next.map(String::as_str)).map(str::to_owned));
            taken
        };
        let (name, joined) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        // Also names after one dash, as Go's and Java's programs have them.
        if name.starts_with("--") || (name.len() > 2 && listed(self.takes, name)) {
            return if listed(self.scripts, name) {
                text(joined, walk)
            } else if joined.is_none() && listed(self.takes, name) {
                2
            } else {
                1
            };
        }
        for (at, letter) in word.char_indices().skip(1) {
            let joined = &word[at + letter.len_utf8()..];
            let joined = (!joined.is_empty()).then_some(joined);
            let mut buffer = [b'-', 0, 0, 0, 0];
            let len = letter.encode_utf8(&mut buffer[1..]).len();
            let Ok(option) = std::str::from_utf8(&buffer[..=len]) else {
                break;
            };
            walk.letters.push(letter);
            if listed(self.scripts, option) {
                return text(joined, walk);
            }
            let known = self
                .takes
                .split_ascii_whitespace()
                .find(|known| known.trim_end_matches('?') == option);
            match known {
                Some(known) if joined.is_some() || known.ends_with('?') => return 1,
                Some(_) => return 2,
                None => {}
            }
        }
        1
    }

    /// The command lines in what a walk has found.
    fn follow(&self, walk: Walk, arguments: &[String], depth: usize, lines: &mut Vec<Line>) {
        let rest = arguments.get(walk.rest..).unwrap_or_default();
        let mut scripts = walk.scripts;
        match self.rest {
            Rest::Nothing => {}
            Rest::Environment if !scripts.is_empty() => {
                let quoted = rest.iter().map(|word| shell_words::quote(word));
                for script in &mut scripts {
                    for word in quoted.clone() {
                        script.push(' ');
                        script.push_str(&word);
                    }
                }
            }
            Rest::Command | Rest::Environment => add(rest, depth, lines),
            Rest::Package => {
                if !rest.is_empty() {
                    lines.push(Line::of_package(rest.to_vec(), depth));
                }
            }
            Rest::Image => {
                let arguments = rest.get(1..).unwrap_or_default();
                if let Some(program) = scripts.pop() {
                    let mut words = vec![program];
                    words.extend_from_slice(arguments);
                    lines.push(Line::new(words, None, depth));
                    return;
                }
                add(arguments, depth, lines);
                if !rest.is_empty() {
                    lines.push(Line::of_package(rest.to_vec(), depth));
                }
            }
            Rest::Text => scripts.push(rest.join(" ")),
            Rest::Texts => scripts.extend_from_slice(rest),
            Rest::AfterC => {
                if walk.letters.contains('c') {
                    scripts.extend(rest.first().cloned());
                }
            }
            Rest::Parallel => scripts.extend(parallel(rest)),
            Rest::Find => {
                for command in executed_by_find(arguments) {
                    add(command, depth, lines);
                }
            }
            Rest::BehindDashes => {
                let dashes = arguments.iter().position(|word| word == "--");
                let command = dashes.and_then(|at| arguments.get(at + 1..));
                add(command.unwrap_or_default(), depth, lines);
            }
        }
        for script in scripts {
            let commands = script::commands(&script).into_iter();
            lines.extend(commands.map(|words| Line::new(words, None, depth)));
        }
    }
}

fn add(command: &[String], depth: usize, lines: &mut Vec<Line>) {
    if !command.is_empty() {
        lines.push(Line::new(command.to_vec(), None, depth));
    }
}

/// What GNU parallel runs: the command with its inputs behind it, or each input where there is no command.
fn parallel(rest: &[String]) -> Vec<String> {
    let is_mark = |word: &String| matches!(&**word, ":::" | ":::+" | "::::" | "::::+");
    let mark = rest.iter().position(is_mark).unwrap_or(rest.len());
    let (command, inputs) = rest.split_at(mark);
    let inputs = inputs.iter().filter(|word| !is_mark(word));
    if command.is_empty() {
        return inputs.cloned().collect();
    }
    let quoted = inputs.map(|word| shell_words::quote(word).into_owned());
    let words: Vec<String> = command.iter().cloned().chain(quoted).collect();
    vec![words.join(" ")]
}

/// The commands between find's `-exec` (`-execdir`, `-ok`, `-okdir`) and `;` or `+`.
fn executed_by_find(arguments: &[String]) -> impl Iterator<Item = &[String]> {
    arguments
        .split(|word| matches!(&**word, ";" | "+"))
        .filter_map(|part| {
            let exec = part
                .iter()
                .position(|word| matches!(&**word, "-exec" | "-execdir" | "-ok" | "-okdir"))?;
            part.get(exec + 1..)
        })
}
