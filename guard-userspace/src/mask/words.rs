//! Secrets that are announced by the words before them: `--flag value`, `token value`, and the short
//! flags of well-known programs.

use super::{
    names::{Name, path, plain, random},
    scan::{Form, Scan, Stop},
};

/// What the words so far say of the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Next {
    #[default]
    Nothing,
    /// The value of a flag whose name promises this.
    Value(Name),
    /// Beside a telling name: masked if it looks random.
    Beside,
    /// After a scheme, `Bearer`.
    Credential,
    /// After `Authorization:` as a word of its own.
    Authorization,
    /// Masked after the first such character: `user:pass`, `cookie=value`.
    After(u8),
}

/// What is remembered from word to word.
#[derive(Debug, Default)]
pub(super) struct Context {
    pub(super) next: Next,
    program: Option<&'static Program>,
    /// The word `login` has been there.
    login: bool,
    /// The command is ssh: its arguments become a script on the other side.
    remote: bool,
}

/// The short flags with which a program takes secrets.
#[derive(Debug)]
struct Program {
    names: &'static [&'static str],
    /// `(flag, splits at)`: the whole value, or what follows the first such character.
    flags: &'static [(u8, Option<u8>)],
    /// Only attached (`-pX`), since alone the flag asks for it.
    attached: bool,
    /// Only after the word `login`.
    login: bool,
}

const PROGRAMS: &[Program] = &[
    Program {
        names: &["curl"],
        flags: &[(b'u', Some(b':')), (b'U', Some(b':')), (b'b', Some(b'='))],
        attached: false,
        login: false,
    },
    Program {
        names: &["http", "https", "xh", "xhs"],
        flags: &[(b'a', Some(b':'))],
        attached: false,
        login: false,
    },
    Program {
        names: &[
            "mysql",
            "mysqldump",
            "mysqladmin",
            "mysqlimport",
            "mariadb",
            "mariadb-dump",
            "mariadb-admin",
        ],
        flags: &[(b'p', None)],
        attached: true,
        login: false,
    },
    Program {
        names: &["mongo", "mongosh", "mongodump", "mongorestore", "sshpass"],
        flags: &[(b'p', None)],
        attached: false,
        login: false,
    },
    Program {
        names: &["7z", "7za", "7zr", "7zz", "rar", "unrar"],
        flags: &[(b'p', None)],
        attached: true,
        login: false,
    },
    Program {
        names: &["zip", "unzip", "zipcloak"],
        flags: &[(b'P', None)],
        attached: false,
        login: false,
    },
    Program {
        names: &["redis-cli"],
        flags: &[(b'a', None)],
        attached: false,
        login: false,
    },
    Program {
        names: &[
            "ldapsearch",
            "ldapmodify",
            "ldapadd",
            "ldapdelete",
            "ldappasswd",
        ],
        flags: &[(b'w', None)],
        attached: false,
        login: false,
    },
    Program {
        names: &["smbclient"],
        flags: &[(b'U', Some(b'%'))],
        attached: false,
        login: false,
    },
    Program {
        names: &[
            "docker", "podman", "nerdctl", "buildah", "skopeo", "helm", "az", "oc",
        ],
        flags: &[(b'p', None)],
        attached: false,
        login: true,
    },
];

impl Context {
    /// Whether the word that comes is already spoken for.
    pub(super) fn waits(&self) -> bool {
        self.next != Next::Nothing
    }

    /// Whether the arguments of the command are scripts without more ado, as ssh's are.
    pub(super) fn runs_scripts(&self) -> bool {
        self.remote
    }
}

impl Scan<'_> {
    /// Masks the word that begins at `at` if the ones before announced it; returns its end.
    pub(super) fn awaited(&mut self, at: usize) -> Option<usize> {
        let next = std::mem::take(&mut self.context.next);
        let (inner, end) = match (next, self.form) {
            (Next::Nothing, _) => return None,
            (_, Form::Argument) if self.text[..at].trim().is_empty() => {
                (at..self.bytes.len(), self.bytes.len())
            }
            (Next::Authorization, _) => return self.credentials(at, Stop::Word(b"")),
            _ => self.value(at, Stop::Word(b""), true),
        };
        let value = &self.text[inner.clone()];
        let secret = match next {
            Next::Nothing => false,
            Next::Authorization => return self.credentials(at, Stop::Text),
            Next::Value(_) if value.starts_with('-') && !random(value.trim_start_matches('-')) => {
                return None;
            }
            Next::Value(Name::SecretOrPath) => !path(value),
            // docker's `--secret id=name,src=file`.
            Next::Value(_) => !value.starts_with("id="),
            Next::Beside => {
                if matches!(value, "is" | "=" | ":" | "->" | "=>" | "to") {
                    self.context.next = Next::Beside;
                }
                random(value)
            }
            Next::Credential => value.len() >= 8 && !plain(value),
            Next::After(byte) => {
                let start = inner.start + value.bytes().position(|found| found == byte)? + 1;
                self.mask(start..inner.end);
                return Some(end);
            }
        };
        if !secret || self.harmless(&inner) {
            return None;
        }
        self.mask(inner);
        Some(end)
    }

    /// Learns from the word that begins at `at` what the next one may be.
    pub(super) fn word(&mut self, at: usize) {
        let ends = |byte: &u8| byte.is_ascii_whitespace() || b"\"'\\;|&()<>`".contains(byte);
        let length = self.bytes[at..]
            .iter()
            .position(ends)
            .unwrap_or(self.bytes.len() - at);
        let word = &self.text[at..at + length];
        if word.is_empty() {
            return;
        }
        let base = word.rsplit('/').next().unwrap_or(word);
        if let Some(program) = PROGRAMS
            .iter()
            .find(|program| program.names.contains(&base))
        {
            *self.context = Context {
                program: Some(program),
                ..Context::default()
            };
            return;
        }
        self.context.login |= word == "login";
        self.context.remote |= base == "ssh";
        self.context.next = if let Some(flag) = word.strip_prefix('-') {
            self.flag(at, flag)
        } else if word.eq_ignore_ascii_case("bearer") {
            Next::Credential
        } else if word.eq_ignore_ascii_case("authorization:") {
            Next::Authorization
        } else {
            // A grep pattern is followed by a path or a revision, which do not look random.
            let name = word
                .trim_end_matches([':', ','])
                .rsplit([':', '/'])
                .next()
                .unwrap_or(word);
            match Name::of(name) {
                Name::Secret | Name::SecretOrPath if !word.contains(['=', '$']) => Next::Beside,
                _ => Next::Nothing,
            }
        };
    }

    /// A flag without its first dash.
    fn flag(&mut self, at: usize, flag: &str) -> Next {
        let long = flag.strip_prefix('-').unwrap_or(flag);
        if let Some(program) = self.context.program
            && (!program.login || self.context.login)
        {
            if !flag.starts_with('-')
                && let Some(next) = self.short(at, flag, program)
            {
                return next;
            }
            if program.flags.contains(&(b'u', Some(b':'))) {
                match long.split_once('=') {
                    None if long == "user" || long == "proxy-user" => return Next::After(b':'),
                    None if long == "cookie" => return Next::After(b'='),
                    Some(("user" | "proxy-user", value)) if let Some(colon) = value.find(':') => {
                        let end = at + 1 + flag.len();
                        self.mask(end - value.len() + colon + 1..end);
                    }
                    _ => {}
                }
            }
        }
        if long.len() < 2 || long.contains(['=', ':']) {
            return Next::Nothing;
        }
        match Name::flag(long) {
            name @ (Name::Secret | Name::SecretOrPath) => Next::Value(name),
            Name::Maybe => Next::Beside,
            Name::Authorization => Next::Authorization,
            Name::Cookie | Name::Plain => Next::Nothing,
        }
    }

    /// Short flags of a known program: `-u X`, `-uX`, `-sSu X`.
    fn short(&mut self, at: usize, flag: &str, program: &Program) -> Option<Next> {
        for (index, byte) in flag.bytes().enumerate() {
            let Some((_, split)) = program.flags.iter().find(|(known, _)| *known == byte) else {
                if byte.is_ascii_alphabetic() || byte == b'#' {
                    continue;
                }
                return None;
            };
            let rest = &flag[index + 1..];
            if rest.is_empty() {
                return match split {
                    Some(split) => Some(Next::After(*split)),
                    None => (!program.attached).then_some(Next::Value(Name::Secret)),
                };
            }
            // A cluster of more flags, or the value: `-bc` is not told from `-b c`, and short.
            let start = at + 2 + index;
            let from = match split {
                Some(split) => start + rest.bytes().position(|byte| byte == *split)? + 1,
                None if index == 0 => start,
                None => return None,
            };
            let end = match self.form {
                Form::Argument => self.bytes.len(),
                Form::Script => self.value(from, Stop::Word(b""), true).1,
            };
            self.mask(from..end);
            return Some(Next::Nothing);
        }
        None
    }
}
