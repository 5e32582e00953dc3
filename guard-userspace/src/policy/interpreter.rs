//! Which word of an interpreter's command line names the program that it runs.

/// Programs that run other programs' text.
pub(super) const INTERPRETERS: [&str; 15] = [
    "node", "nodejs", "bun", "deno", "python", "python3", "ruby", "perl", "sh", "bash", "dash",
    "zsh", "uv", "tsx", "ts-node",
];
/// `python3.11` and its like.
pub(super) const VERSIONED: &str = "python3.";

/// What comes after the last slash.
pub(super) fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Whether a program of this base name is one of them.
pub(super) fn is_interpreter(base: &[u8]) -> bool {
    INTERPRETERS.iter().any(|name| name.as_bytes() == base)
        || base.starts_with(VERSIONED.as_bytes())
}

/// The index of the word that names the script (or, after Python's `-m`, the module); none where the
/// program's text is on the command line or comes from stdin.
pub(super) fn script<W: AsRef<[u8]>>(interpreter: &[u8], argv: &[W]) -> Option<usize> {
    let family = Family::of(interpreter);
    let mut at = 1;
    while let Some(word) = argv.get(at).map(AsRef::as_ref) {
        if word == b"--" {
            return (at + 1 < argv.len()).then_some(at + 1);
        }
        if word == b"-" {
            return None;
        }
        if word.first() != Some(&b'-') {
            if family.subcommands().contains(&word) && at + 1 < argv.len() {
                at += 1;
                continue;
            }
            return Some(at);
        }
        match family.option(word) {
            Meaning::Text => return None,
            Meaning::Module => return (at + 1 < argv.len()).then_some(at + 1),
            Meaning::WithValue => at += 2,
            Meaning::Alone => at += 1,
        }
    }
    None
}

#[derive(Clone, Copy, PartialEq)]
enum Family {
    Shell,
    Python,
    Perl,
    Ruby,
    Script,
    Uv,
}

enum Meaning {
    /// The program's text follows.
    Text,
    /// A module's name follows.
    Module,
    /// The next word is its value.
    WithValue,
    /// An option by itself.
    Alone,
}

impl Family {
    fn of(interpreter: &[u8]) -> Self {
        match interpreter {
            b"sh" | b"bash" | b"dash" | b"zsh" => Self::Shell,
            b"perl" => Self::Perl,
            b"ruby" => Self::Ruby,
            b"uv" => Self::Uv,
            _ if interpreter.starts_with(b"python") => Self::Python,
            _ => Self::Script,
        }
    }

    /// Words before the script that are not it (`bun run SCRIPT`, `uv tool run NAME`).
    fn subcommands(self) -> &'static [&'static [u8]] {
        match self {
            Self::Script => &[b"run", b"x", b"watch", b"exec"],
            Self::Uv => &[b"run", b"tool"],
            _ => &[],
        }
    }

    /// What an option means for the words after it, by each program's manual.
    fn option(self, word: &[u8]) -> Meaning {
        let long = word.starts_with(b"--");
        let cluster = if long { &[][..] } else { &word[1..] };
        let is = |names: &[&str]| names.iter().any(|name| name.as_bytes() == word);
        match self {
            Self::Shell => match () {
                () if is(&["--rcfile", "--init-file"]) => Meaning::WithValue,
                () if cluster.contains(&b'c') || cluster.contains(&b's') => Meaning::Text,
                () if cluster
                    .last()
                    .is_some_and(|byte| matches!(byte, b'o' | b'O')) =>
                {
                    Meaning::WithValue
                }
                () => Meaning::Alone,
            },
            // Short options may be joined; the first that takes a value takes the rest of the word.
            Self::Python => match cluster
                .iter()
                .position(|byte| matches!(byte, b'c' | b'm' | b'W' | b'X'))
            {
                None if is(&["--check-hash-based-pycs"]) => Meaning::WithValue,
                None => Meaning::Alone,
                Some(at) => match cluster[at] {
                    b'c' => Meaning::Text,
                    // `-mNAME` in one word is rare enough to be left to the program's own name.
                    b'm' if at + 1 < cluster.len() => Meaning::Text,
                    b'm' => Meaning::Module,
                    _ if at + 1 < cluster.len() => Meaning::Alone,
                    _ => Meaning::WithValue,
                },
            },
            Self::Perl | Self::Ruby => match cluster {
                [b'I' | b'M' | b'm' | b'r' | b'C' | b'x', ..] => {
                    let takes_next = cluster.len() == 1
                        && (cluster[0] == b'I'
                            || (self == Self::Ruby && matches!(cluster[0], b'r' | b'C')));
                    if takes_next {
                        Meaning::WithValue
                    } else {
                        Meaning::Alone
                    }
                }
                _ if cluster.contains(&b'e') || cluster.contains(&b'E') => Meaning::Text,
                _ => Meaning::Alone,
            },
            Self::Script => match () {
                () if is(&["-e", "-p", "-pe", "--eval", "--print"]) => Meaning::Text,
                () if is(&[
                    "-r",
                    "--require",
                    "--import",
                    "--loader",
                    "--experimental-loader",
                    "-C",
                    "--conditions",
                    "--config",
                    "--tsconfig",
                    "--cwd",
                    "--preload",
                    "--package",
                ]) =>
                {
                    Meaning::WithValue
                }
                () => Meaning::Alone,
            },
            Self::Uv => match () {
                () if is(&[
                    "--with",
                    "--from",
                    "--python",
                    "-p",
                    "--directory",
                    "--project",
                    "--extra",
                    "--group",
                    "--env-file",
                    "--index",
                    "--with-requirements",
                    "--with-editable",
                ]) =>
                {
                    Meaning::WithValue
                }
                () if is(&["-m", "--module"]) => Meaning::Module,
                () => Meaning::Alone,
            },
        }
    }
}
