//! Whether a value may be a secret: not a placeholder, not a reference to one, not a word.

use crate::mask::names;

/// Text in a value that says that it stands for another. In lower case; long enough that chance does not write it.
const PLACEHOLDERS: &[&str] = &[
    "example",
    "sample",
    "placeholder",
    "change-me",
    "change_me",
    "changeme",
    "changethis",
    "change-this",
    "change_this",
    "replace",
    "your-",
    "your_",
    "yourkey",
    "yourtoken",
    "yoursecret",
    "yourpass",
    "yourapi",
    "-here",
    "_here",
    "insert",
    "redacted",
    "removed",
    "dummy",
    "fake",
    "foobar",
    "xxxx",
    "zzzz",
    "todo",
    "fixme",
    "lorem",
    "notreal",
    "not-real",
    "not_real",
    "not-a-real",
    "made-up",
    "made_up",
    "invalid",
    "testkey",
    "test-key",
    "test_key",
    "testtoken",
    "test-token",
    "test_token",
    "testsecret",
    "test-secret",
    "test_secret",
    "secretkey",
    "secret-key",
    "secret_key",
    "mysecret",
    "my-secret",
    "my_secret",
    "mytoken",
    "my-token",
    "my_token",
    "mypassword",
    "my-password",
    "my_password",
    "password",
    "passw0rd",
    "p@ssw0rd",
    "p@ssword",
    "qwerty",
    "letmein",
    "hunter2",
    "deadbeef",
    "cafebabe",
    "1234567",
    "abcdefg",
    "supersecret",
    "super-secret",
    "super_secret",
    "top-secret",
    "topsecret",
    "unchanged",
    "undefined",
    "localhost",
    "********",
    "......",
    "<",
    ">",
    "${",
    "{{",
    "}}",
    "$(",
    "#{",
    "%(",
    "<%",
    "`",
    "…",
    "•••",
];

/// How a value begins that says where another is, or is not to be undone.
const REFERENCES: &[&str] = &[
    "$",
    "op://",
    "vault:",
    "!vault",
    "secret://",
    "secrets.",
    "ssm:",
    "arn:",
    "projects/",
    "ref+",
    "{{resolve",
    "@microsoft.keyvault",
    "aws-sm:",
    "gcp-sm:",
    "sm://",
    "keyring:",
    "keychain:",
    "file:",
    "file://",
    "env:",
    "env.",
    "env(",
    "pass:",
    "bw:",
    "doppler:",
    "process.env",
    "os.environ",
    "os.getenv",
    "config.",
    "settings.",
    "var.",
    "local.",
    "data.",
    "module.",
    "self.",
    "this.",
    "http://",
    "https://",
    "enc[",
    "enc(",
    "{cipher}",
    "{ssha",
    "{sha",
    "{crypt",
    "{bcrypt",
    "{pbkdf2",
    "pbkdf2",
    "argon2",
    "bcrypt",
    "scrypt",
    "sha1-",
    "sha256-",
    "sha384-",
    "sha512-",
    "sha256:",
    "sha512:",
    "md5:",
    "sha1$",
    "sha256$",
    "data:",
    "ssh-rsa ",
    "ssh-ed25519 ",
    "ecdsa-",
    "gaaaaa",
    "age-encryption.org",
    "%",
];

/// A value that stands for another, wherever it stands: a documented placeholder, a reference, repeated or sequential
/// characters. `value` is without the part that is the same in all of its kind.
pub(super) fn stands_for_another(value: &[u8]) -> bool {
    value.is_empty() || repeated(value) || sequential(value) || says_so(value)
}

fn says_so(value: &[u8]) -> bool {
    let lower = value.to_ascii_lowercase();
    // Long ones are random beyond doubt: a word in them is chance.
    let words = if lower.len() > 100 {
        &PLACEHOLDERS[..2]
    } else {
        PLACEHOLDERS
    };
    words
        .iter()
        .any(|word| memchr::memmem::find(&lower, word.as_bytes()).is_some())
}

/// Six of one character in a row, or half of all the same one.
fn repeated(value: &[u8]) -> bool {
    let mut counts = [0usize; 256];
    let (mut run, mut last) = (0, None);
    for byte in value {
        counts[usize::from(*byte)] += 1;
        run = if last == Some(byte) { run + 1 } else { 1 };
        // Padding and the high bytes of a number are often this long in base64.
        if run >= 6 && !matches!(byte, b'A' | b'=') || run >= 24 {
            return true;
        }
        last = Some(byte);
    }
    value.len() >= 8 && counts.iter().any(|count| count * 2 > value.len())
}

/// Six in a row that follow each other, up or down, or one piece over and over.
fn sequential(value: &[u8]) -> bool {
    for step in [1i16, -1] {
        let mut run = 1;
        for pair in value.windows(2) {
            let follows = i16::from(pair[1]) - i16::from(pair[0]) == step
                && pair.iter().all(u8::is_ascii_alphanumeric);
            run = if follows { run + 1 } else { 1 };
            if run >= 6 {
                return true;
            }
        }
    }
    value.len() >= 12
        && (1..=8).any(|period| {
            value
                .iter()
                .zip(&value[period..])
                .all(|(one, other)| one == other)
        })
}

/// A value beside a telling name that nobody would call a word, a reference or a path. `loose` for names of passwords,
/// which people choose.
pub(super) fn is_secret(value: &[u8], loose: bool) -> bool {
    // What costs least first: most values that come here are words.
    let digits = value.iter().filter(|byte| byte.is_ascii_digit()).count();
    if !(8..=1024).contains(&value.len())
        || digits == value.len()
        || digits == 0 && value.len() < 32
        || !value.iter().all(u8::is_ascii_graphic)
    {
        return false;
    }
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    if names::harmless(text)
        || names::path(text)
        || refers(text)
        || stands_for_another(value)
        || value
            .windows(2)
            .any(|pair| pair == b"((" || pair == b"()" || pair == b"::" || pair == b"://")
        || value[0] == b'{'
        || value[0] == b'['
        || value[0] == b'('
    {
        return false;
    }
    if digits == 0 && (names::entropy(value) < 4.3 || wordy(value)) {
        return false;
    }
    if names::uuid(text) {
        return true;
    }
    let mixed = transitions(value);
    if value.len() >= 16 && names::entropy(value) >= 3.0 && !file_name(text) {
        let plain = value
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/=_-".contains(byte));
        return mixed + humps(value) / 2 >= 3.max(value.len() / 9) && !wordy(value)
            || !plain && loose && symbols_within(value);
    }
    loose && symbols_within(value)
}

fn refers(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    REFERENCES.iter().any(|start| lower.starts_with(start)) || lower.ends_with("()")
}

/// `a.b.json`, `v1.2.3`.
fn file_name(text: &str) -> bool {
    let version = text.strip_prefix('v').unwrap_or(text);
    version
        .chars()
        .all(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | ':' | 'T' | 'Z' | '+'))
        || text.rsplit_once('.').is_some_and(|(_, end)| {
            (2..=5).contains(&end.len()) && end.bytes().all(|byte| byte.is_ascii_lowercase())
        })
}

/// Between letters and digits, either way. Words with a number at their end have few.
fn transitions(value: &[u8]) -> usize {
    value
        .windows(2)
        .filter(|pair| {
            pair[0].is_ascii_alphabetic() && pair[1].is_ascii_digit()
                || pair[0].is_ascii_digit() && pair[1].is_ascii_alphabetic()
        })
        .count()
}

/// Changes of case within words. Names in code have them too; see [`wordy`].
fn humps(value: &[u8]) -> usize {
    value
        .windows(2)
        .filter(|pair| {
            pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase()
                || pair[0].is_ascii_uppercase() && pair[1].is_ascii_lowercase()
        })
        .count()
}

/// Mostly made of what reads as words (`getOAuth2TokenV1`, `user-service-v2`): runs of at least four letters with a
/// vowel and a consonant, of one case but for the first.
fn wordy(value: &[u8]) -> bool {
    let mut wordlike = 0;
    let mut at = 0;
    while at < value.len() {
        let start = at;
        at += 1;
        if !value[start].is_ascii_alphabetic() {
            continue;
        }
        let upper =
            value.get(at).is_some_and(u8::is_ascii_uppercase) && value[start].is_ascii_uppercase();
        while value.get(at).is_some_and(|byte| {
            if upper {
                byte.is_ascii_uppercase()
            } else {
                byte.is_ascii_lowercase()
            }
        }) {
            at += 1;
        }
        let run = &value[start..at];
        let vowels = run
            .iter()
            .filter(|byte| b"aeiouyAEIOUY".contains(byte))
            .count();
        let share = vowels * 100 / run.len();
        if run.len() >= 4 && (20..=67).contains(&share) {
            wordlike += run.len();
        }
    }
    let letters = value
        .iter()
        .filter(|byte| byte.is_ascii_alphabetic())
        .count();
    let digits = value.iter().filter(|byte| byte.is_ascii_digit()).count();
    // Where digits abound, letters between them spell words by chance.
    wordlike * 10 > letters * 6 && digits * 7 < value.len()
}

/// What people choose when they are asked for a good password: three of four classes, mixed within and not only a word
/// with a number behind it.
fn symbols_within(value: &[u8]) -> bool {
    let has = |kind: fn(&u8) -> bool| usize::from(value.iter().any(kind));
    let classes = has(u8::is_ascii_lowercase)
        + has(u8::is_ascii_uppercase)
        + has(u8::is_ascii_digit)
        + has(u8::is_ascii_punctuation);
    // What stands before the number and the sign at the end.
    let core = value
        .iter()
        .rposition(u8::is_ascii_alphabetic)
        .map_or(&value[..0], |last| &value[..=last]);
    let inner = core
        .iter()
        .filter(|byte| !byte.is_ascii_alphabetic())
        .count();
    classes >= 3 && inner >= 2 && transitions(core) + punctuated(core) >= 3 && !wordy(value)
}

fn punctuated(value: &[u8]) -> usize {
    value
        .windows(2)
        .filter(|pair| pair[0].is_ascii_alphanumeric() != pair[1].is_ascii_alphanumeric())
        .count()
}

/// A password in a URL or a file made for passwords: weak ones count, but not the ones everybody has.
pub(super) fn is_password(value: &[u8], user: &[u8]) -> bool {
    const COMMON: &[&str] = &[
        "pass",
        "passwd",
        "pwd",
        "secret",
        "admin",
        "root",
        "user",
        "username",
        "guest",
        "test",
        "tester",
        "testing",
        "postgres",
        "mysql",
        "mongo",
        "mongodb",
        "redis",
        "rabbitmq",
        "amqp",
        "anonymous",
        "none",
        "null",
        "default",
        "token",
        "key",
        "apikey",
        "api_key",
        "db",
        "database",
        "demo",
        "dev",
        "development",
        "prod",
        "local",
        "docker",
        "hostname",
        "host",
        "port",
        "x-oauth-basic",
        "x-access-token",
        "github_token",
        "access_token",
        "app",
        "sa",
        "abc123",
        "git",
        "oauth2",
    ];
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    let word = text.trim_end_matches(|c: char| c.is_ascii_digit() || c == '!');
    (6..=300).contains(&value.len())
        && value.iter().all(|byte| byte.is_ascii_graphic())
        && !COMMON
            .iter()
            .any(|common| word.eq_ignore_ascii_case(common))
        && !value.eq_ignore_ascii_case(user)
        && !names::harmless(text)
        && !value.starts_with(b"$")
        && !value.starts_with(b"%")
        && !value.starts_with(b":")
        && !value.iter().any(|byte| b"{}[]<>()\\*".contains(byte))
        && !stands_for_another(value)
        && (value.iter().any(u8::is_ascii_digit)
            || value
                .iter()
                .any(|byte| byte.is_ascii_punctuation() && !b"_-.".contains(byte)))
        && !word.is_empty()
        && !(word.len() != value.len() && word.bytes().all(|byte| byte.is_ascii_lowercase()))
        && (value.len() >= 10 || names::entropy(value) >= 2.5)
}
