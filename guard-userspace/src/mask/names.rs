//! What a name says of the value it is given, and what a value says of itself.

/// What a name promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// A secret.
    Secret,
    /// A secret, unless the value is a path (`--private-key ~/.ssh/id`, `PWD=/`).
    SecretOrPath,
    /// A secret if the value looks like one (`key=`, `auth=`, `sig=`).
    Maybe,
    /// A header whose value is a scheme and a secret.
    Authorization,
    /// A header whose values are all taken for secrets.
    Cookie,
    /// Nothing.
    Plain,
}

/// Words that make a name a secret's when they end it, even run together with others (`PGPASSWORD`).
const ENDINGS: &[&str] = &[
    "password",
    "passwd",
    "token",
    "secret",
    "apikey",
    "passphrase",
];
const WORDS: &[&str] = &[
    "pass",
    "passcode",
    "jwt",
    "otp",
    "secretkey",
    "accesskey",
    "authkey",
    "masterkey",
    "storepass",
    "keypass",
    "userpass",
];
/// Only with something before it.
const LAST: &[&str] = &["pat", "pwd", "pw"];
/// `… key`
const KEYS: &[&str] = &[
    "api",
    "access",
    "secret",
    "signing",
    "encryption",
    "master",
    "account",
    "shared",
    "auth",
    "admin",
    "role",
    "service",
    "storage",
    "session",
    "license",
    "app",
];
/// `… key`, but as often a file.
const KEY_FILES: &[&str] = &[
    "private", "ssh", "deploy", "client", "server", "gpg", "host", "identity",
];
const MAYBE: &[&str] = &[
    "key",
    "auth",
    "session",
    "sid",
    "sessionid",
    "cookie",
    "sig",
    "signature",
    "credential",
    "credentials",
    "cred",
    "creds",
    "code",
    "bearer",
    "pin",
    "pat",
    "pw",
];
/// Endings that say which of several, or in what form, not what.
const QUALIFIERS: &[&str] = &[
    "base",
    "prod",
    "production",
    "staging",
    "dev",
    "live",
    "test",
    "old",
    "new",
    "default",
    "value",
    "b64",
    "base64",
    "hex",
    "plain",
    "text",
    "string",
];

impl Name {
    pub(crate) fn of(name: &str) -> Self {
        let name =
            name.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '_' | '-' | '.'));
        let parts = parts(name);
        let mut parts = parts.as_slice();
        while let [rest @ .., last] = parts
            && !rest.is_empty()
            && QUALIFIERS.contains(&last.as_str())
        {
            parts = rest;
        }
        let Some((last, before)) = parts.split_last() else {
            return Self::Plain;
        };
        let (last, before) = (last.as_str(), before.last().map(String::as_str));
        match before {
            _ if last == "authorization" => Self::Authorization,
            None | Some("set") if last == "cookie" => Self::Cookie,
            Some(before) if last == "key" && KEYS.contains(&before) => Self::Secret,
            Some(before) if last == "key" && KEY_FILES.contains(&before) => Self::SecretOrPath,
            _ if ENDINGS.iter().any(|ending| last.ends_with(ending)) => Self::Secret,
            _ if WORDS.contains(&last) => Self::Secret,
            Some(before) if last == "pwd" && before != "old" => Self::Secret,
            // `PWD` is the shell's, `pwd=` a connection string's.
            None if name == "pwd" || name == "Pwd" => Self::SecretOrPath,
            Some(_) if LAST.contains(&last) && last != "pwd" => Self::Secret,
            _ if MAYBE.contains(&last) => Self::Maybe,
            _ => Self::Plain,
        }
    }

    /// Whether a flag of this name takes a value that follows as the next word (`--no-password` does not).
    pub(super) fn flag(name: &str) -> Self {
        const SWITCHES: &[&str] = &[
            "no", "with", "without", "ask", "prompt", "show", "require", "reset", "use", "print",
            "is", "has", "skip",
        ];
        match parts(name).first() {
            Some(first) if SWITCHES.contains(&first.as_str()) => Self::Plain,
            _ => Self::of(name),
        }
    }
}

/// `AWS_SECRET_ACCESS_KEY`, `apiKey`, `x-api-key`, `APIKey` as lower-case words.
pub(crate) fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let chars: Vec<char> = name.chars().collect();
    for (at, c) in chars.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| chars[before]);
        let hump = c.is_ascii_uppercase()
            && before.is_some_and(|before| {
                before.is_ascii_lowercase()
                    || before.is_ascii_uppercase()
                        && chars.get(at + 1).is_some_and(char::is_ascii_lowercase)
            });
        if matches!(c, '_' | '-' | '.') || hump {
            parts.push(String::new());
        }
        if c.is_ascii_alphanumeric()
            && let Some(part) = parts.last_mut()
        {
            part.push(c.to_ascii_lowercase());
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

/// A value that is no secret whatever its name: none at all, a switch, a variable, the mask.
pub(crate) fn harmless(value: &str) -> bool {
    const SWITCHES: &[&str] = &[
        "",
        "***",
        "true",
        "false",
        "null",
        "none",
        "nil",
        "undefined",
        "yes",
        "no",
        "on",
        "off",
        "0",
        "1",
        "{}",
        "[]",
    ];
    SWITCHES
        .iter()
        .any(|switch| value.eq_ignore_ascii_case(switch))
        || variable(value)
}

/// `$NAME`, `${NAME}`: the text of a script, not yet the value.
fn variable(value: &str) -> bool {
    let Some(rest) = value.strip_prefix('$') else {
        return false;
    };
    let name = rest
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap_or(rest);
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// A word of prose or a version, as stands after a colon in a sentence or an image's name.
pub(super) fn plain(value: &str) -> bool {
    let value = value.trim_end_matches([',', '.', ';', ')', '!', '?']);
    let version = value.strip_prefix('v').unwrap_or(value);
    value
        .chars()
        .all(|c| c.is_alphabetic() || matches!(c, '-' | '_'))
        || version.starts_with(|c: char| c.is_ascii_digit())
            && version.len() < 16
            && version
                .chars()
                .all(|c| c.is_ascii_digit() || matches!(c, '.' | '-'))
}

pub(crate) fn path(value: &str) -> bool {
    ["/", "./", "../", "~/", "~"]
        .iter()
        .any(|start| value.starts_with(start))
        && !value.contains(['+', '='])
}

/// Long and random, or a UUID: a secret when it stands beside a telling name. A git SHA is not, since
/// `git grep token <sha>` is an everyday command.
pub(crate) fn random(value: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=_.~%-".contains(&byte);
    if !value.bytes().all(allowed) || path(value) {
        return false;
    }
    if uuid(value) {
        return true;
    }
    let sha = [40, 64].contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    let file = value.rsplit_once('.').is_some_and(|(_, extension)| {
        (1..=5).contains(&extension.len())
            && extension.bytes().all(|byte| byte.is_ascii_lowercase())
    });
    let has = |kind: fn(&u8) -> bool| value.as_bytes().iter().any(kind);
    let (upper, lower, digit) = (
        has(u8::is_ascii_uppercase),
        has(u8::is_ascii_lowercase),
        has(u8::is_ascii_digit),
    );
    !sha && !file
        && digit
        && (value.len() >= 32 && (upper || lower) && entropy(value.as_bytes()) >= 3.3
            || value.len() >= 20 && upper && lower && entropy(value.as_bytes()) >= 3.5)
}

pub(crate) fn uuid(value: &str) -> bool {
    value.len() == 36
        && value.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Shannon entropy in bits a byte.
pub(crate) fn entropy(value: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    for byte in value {
        counts[usize::from(*byte)] += 1;
    }
    let total = value.len() as f64;
    let share = |count: u32| f64::from(count) / total;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| -share(*count) * share(*count).log2())
        .sum()
}
