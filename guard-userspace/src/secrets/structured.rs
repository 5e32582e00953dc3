//! Secrets that are known by what is around them: keys in their armour, passwords in URLs, in files made for them, and in
//! headers.

use std::{ops::Range, sync::LazyLock};

use memchr::memmem;
use regex::bytes::{Regex, RegexBuilder};
use zeroize::Zeroizing;

use super::{check::decode, value};
use crate::mask::names;

/// A kind that code recognises.
pub(super) struct Structured {
    pub provider: &'static str,
    pub name: &'static str,
    pub known_by: &'static str,
}

macro_rules! kinds {
    ($($id:ident: $provider:literal $name:literal $known_by:literal;)*) => {
        /// One of [`KINDS`], in its order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Id { $($id),* }
        /// The kinds that code recognises.
        pub(super) const KINDS: &[Structured] = &[
            $(Structured { provider: $provider, name: $name, known_by: $known_by }),*
        ];
    };
}

kinds! {
    GcpKey: "gcp" "service-account-key" "a private key in a file that says `service_account`";
    Pem: "private-key" "pem" "`BEGIN … PRIVATE KEY` and key material";
    OpenSsh: "private-key" "openssh" "`BEGIN OPENSSH PRIVATE KEY` and key material";
    Pgp: "private-key" "pgp" "`BEGIN PGP PRIVATE KEY BLOCK` and key material";
    Putty: "private-key" "putty" "`PuTTY-User-Key-File` with private lines";
    Encrypted: "private-key" "encrypted" "any of these, with a passphrase; told as such";
    Base64Pem: "private-key" "base64" "base64 of a PEM (kubeconfig's `client-key-data`)";
    Postgres: "postgres" "connection-string" "`postgres://user:password@`, jdbc too";
    Mysql: "mysql" "connection-string" "`mysql://user:password@`, `mariadb://`, jdbc too";
    Mongodb: "mongodb" "connection-string" "`mongodb://user:password@`, `mongodb+srv://`";
    Redis: "redis" "connection-string" "`redis://:password@`, `rediss://`, `valkey://`";
    Amqp: "amqp" "connection-string" "`amqp://user:password@`, `amqps://`";
    Mssql: "mssql" "connection-string" "`Server=…;Password=…`, jdbc too";
    Ftp: "ftp" "connection-string" "`ftp://user:password@`, `sftp://`, `ftps://`";
    Smtp: "smtp" "connection-string" "`smtp://user:password@`, `imap://`, `pop3://`, with `s` too";
    Ldap: "ldap" "connection-string" "`ldap://user:password@`, `ldaps://`";
    Url: "url" "password" "any other URL with `user:password@`, or with a token before the `@`";
    Netrc: "netrc" "password" "`machine … login … password …`";
    Pgpass: "postgres" "pgpass" "a line of `.pgpass`";
    Npmrc: "npm" "registry-auth" "`_auth=` and base64 of `user:password`";
    Docker: "docker" "registry-auth" "`\"auth\":` and base64 of `user:password`";
    Bearer: "authorization" "bearer" "`Bearer` and a random value";
    Basic: "authorization" "basic" "`Basic` and base64 of `user:password`";
    Password: "generic" "password" "a random value given to the name of a password";
    Entropy: "generic" "secret" "a random value given to the name of a token, key or secret";
}

/// What is around a secret says what it is.
pub(super) struct Hit {
    pub id: Id,
    pub range: Range<usize>,
    /// What the same secret is in another wrapping; the range's bytes where that is `None`.
    pub essence: Option<Zeroizing<Vec<u8>>>,
    pub encrypted: bool,
}

impl Hit {
    pub fn plain(id: Id, range: Range<usize>) -> Self {
        Self {
            id,
            range,
            essence: None,
            encrypted: false,
        }
    }
}

/// Where to look, and how. Case does not matter for these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Armour,
    Putty,
    Base64Pem,
    Url,
    Machine,
    Auth,
    Bearer,
    Basic,
}

pub(super) const MARKS: &[(&str, Mark)] = &[
    ("-----BEGIN ", Mark::Armour),
    ("PuTTY-User-Key-File-", Mark::Putty),
    ("LS0tLS1CRUdJTi", Mark::Base64Pem),
    ("://", Mark::Url),
    ("machine ", Mark::Machine),
    ("_auth", Mark::Auth),
    ("\"auth\"", Mark::Auth),
    ("bearer ", Mark::Bearer),
    ("basic ", Mark::Basic),
];

fn regex(pattern: &str) -> Regex {
    RegexBuilder::new(pattern)
        .unicode(false)
        .build()
        .expect("a regular expression written here")
}

/// What the mark at `at` in `bytes` turns out to be.
pub(super) fn look(mark: Mark, bytes: &[u8], at: usize) -> Option<Hit> {
    match mark {
        Mark::Armour => armour(bytes, at),
        Mark::Putty => putty(bytes, at),
        Mark::Base64Pem => base64_pem(bytes, at),
        Mark::Url => url(bytes, at),
        Mark::Machine => machine(bytes, at),
        Mark::Auth => auth(bytes, at),
        Mark::Bearer => bearer(bytes, at),
        Mark::Basic => basic(bytes, at),
    }
}

/// At most `length` bytes from `at` on.
pub(super) fn window(bytes: &[u8], at: usize, length: usize) -> &[u8] {
    &bytes[at.min(bytes.len())..(at + length).min(bytes.len())]
}

fn before(bytes: &[u8], at: usize, length: usize) -> &[u8] {
    &bytes[at.saturating_sub(length)..at]
}

fn contains(bytes: &[u8], lower: &[u8]) -> bool {
    memmem::find(&bytes.to_ascii_lowercase(), lower).is_some()
}

fn base64ish(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

/// RFC 7468; also written on one line with `\n`.
fn armour(bytes: &[u8], at: usize) -> Option<Hit> {
    const BEGIN: usize = "-----BEGIN ".len();
    let title = window(bytes, at + BEGIN, 60);
    let title = &title[..memmem::find(title, b"-----")?];
    memmem::find(title, b"PRIVATE KEY")?;
    let body = at + BEGIN + title.len() + 5;
    // The next dashes are those of the end; where they are of another beginning, or where there are none, the armour is
    // broken, and what looks like key material counts all the same.
    let rest = window(bytes, body, 64 << 10);
    let end = memmem::find(rest, b"-----").unwrap_or(rest.len());
    let inside = &rest[..end];
    let essence = material(inside);
    if essence.len() < 64
        || value::stands_for_another(&essence[..essence.len().min(200)])
        || !mixed(&essence)
    {
        return None;
    }
    let close = window(bytes, body + end, 80);
    let length = if close.starts_with(b"-----END") {
        memmem::find(&close[5..], b"-----").map_or(close.len().min(5), |dashes| dashes + 10)
    } else {
        0
    };
    let openssh = memmem::find(title, b"OPENSSH").is_some();
    let encrypted = memmem::find(title, b"ENCRYPTED").is_some()
        || memmem::find(&inside[..inside.len().min(200)], b"ENCRYPTED").is_some()
        || openssh && openssh_encrypted(&essence);
    let id = if encrypted {
        Id::Encrypted
    } else if openssh {
        Id::OpenSsh
    } else if memmem::find(title, b"PGP").is_some() {
        Id::Pgp
    } else if contains(before(bytes, at, 1024), b"\"service_account\"") {
        Id::GcpKey
    } else {
        Id::Pem
    };
    Some(Hit {
        id,
        range: at..body + end + length,
        essence: Some(essence),
        encrypted,
    })
}

/// The base64 of an armour without line ends, escapes, quotes and headers.
fn material(inside: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut material = Zeroizing::new(Vec::with_capacity(inside.len()));
    let lines = inside.split(|byte| matches!(byte, b'\n' | b'\r'));
    for line in lines.filter(|line| !line.contains(&b':')) {
        let mut at = 0;
        while at < line.len() {
            match line[at] {
                // `\n`, `\\n`, `\r\n`
                b'\\' => {
                    at += if line.get(at + 1) == Some(&b'\\') {
                        1
                    } else {
                        2
                    }
                }
                byte => {
                    if base64ish(byte) {
                        material.push(byte);
                    }
                    at += 1;
                }
            }
        }
    }
    material
}

/// Key material has letters of both cases and digits; prose has words.
fn mixed(essence: &[u8]) -> bool {
    let head = &essence[..essence.len().min(400)];
    let digits = head.iter().filter(|byte| byte.is_ascii_digit()).count();
    let capitals = head.iter().filter(|byte| byte.is_ascii_uppercase()).count();
    digits * 50 > head.len() && capitals * 8 > head.len() && names::entropy(head) >= 4.0
}

/// The cipher's name in OpenSSH's format (openssh-portable: PROTOCOL.key): a string of length 4, `none`, or another.
fn openssh_encrypted(essence: &[u8]) -> bool {
    const MAGIC: &[u8] = b"openssh-key-v1\0";
    // 32 characters of base64 are 24 bytes: the magic and the string.
    let Some(head) = essence.get(..32).and_then(decode) else {
        return false;
    };
    head.strip_prefix(MAGIC)
        .is_some_and(|rest| !rest.starts_with(b"\0\0\0\x04none"))
}

/// PuTTY's own format, versions 2 and 3 (PuTTY manual, appendix C).
fn putty(bytes: &[u8], at: usize) -> Option<Hit> {
    let text = window(bytes, at, 8 << 10);
    let lines = memmem::find(text, b"Private-Lines:")?;
    if memmem::find(&text[1..lines], b"PuTTY-User-Key-File-").is_some() {
        return None;
    }
    let body = &text[lines + "Private-Lines:".len()..];
    let length = memmem::find(body, b"Private-MAC").unwrap_or(body.len());
    let essence = material(&body[..length]);
    if essence.len() < 32 {
        return None;
    }
    let encrypted = memmem::find(&text[..lines], b"Encryption: none").is_none();
    Some(Hit {
        id: if encrypted { Id::Encrypted } else { Id::Putty },
        range: at..at + lines + "Private-Lines:".len() + length,
        essence: Some(essence),
        encrypted,
    })
}

fn base64_pem(bytes: &[u8], at: usize) -> Option<Hit> {
    // Not in the midst of other base64, where this would begin anew at each of many.
    if at
        .checked_sub(1)
        .is_some_and(|before| base64ish(bytes[before]))
        && bytes[at - 1] != b'='
    {
        return None;
    }
    // The title is in the first of it.
    let head = decode(window(bytes, at, 80).get(..60)?)?;
    memmem::find(&head, b"PRIVATE KEY-----")?;
    let rest = window(bytes, at, 64 << 10);
    let length = rest.iter().take_while(|byte| base64ish(**byte)).count();
    let pem = decode(&rest[..length])?;
    let inner = armour(&pem, 0)?;
    Some(Hit {
        id: if inner.encrypted {
            Id::Encrypted
        } else {
            Id::Base64Pem
        },
        range: at..at + length,
        essence: inner.essence,
        encrypted: inner.encrypted,
    })
}

/// `scheme://user:password@host` (RFC 3986, 3.2.1), and a token in place of `user:password`.
fn url(bytes: &[u8], at: usize) -> Option<Hit> {
    let scheme = before(bytes, at, 24);
    let start = scheme
        .iter()
        .rposition(|byte| !(byte.is_ascii_alphanumeric() || b"+.-".contains(byte)))
        .map_or(0, |other| other + 1);
    let scheme = scheme[start..].to_ascii_lowercase();
    let from = at + 3;
    let authority = window(bytes, from, 400);
    let end = authority
        .iter()
        .position(|byte| {
            byte.is_ascii_whitespace() || b"\"'<>`/?#\\,|^".contains(byte) || *byte == 0
        })
        .unwrap_or(authority.len());
    let authority = &authority[..end];
    let sign = memchr::memrchr(b'@', authority)?;
    let (user_info, host) = (&authority[..sign], &authority[sign + 1..]);
    if host.is_empty() || !(host[0].is_ascii_alphanumeric() || host[0] == b'[') || made_up(host) {
        return None;
    }
    let Some(colon) = memchr::memchr(b':', user_info) else {
        let text = std::str::from_utf8(user_info).ok()?;
        // A client's key of Sentry is public: docs.sentry.io/concepts/key-terms/dsn-explainer
        let token = names::random(text)
            && !names::uuid(text)
            && !value::stands_for_another(user_info)
            && !contains(host, b"sentry");
        return token.then(|| Hit::plain(Id::Url, from..from + sign));
    };
    let (user, password) = (&user_info[..colon], &user_info[colon + 1..]);
    if !value::is_password(password, user)
        || value::stands_for_another(user) && !user.is_empty() && user.len() > 3
    {
        return None;
    }
    let scheme = scheme.strip_prefix(b"jdbc:").unwrap_or(&scheme);
    let scheme = scheme
        .split(|byte| *byte == b'+')
        .next()
        .unwrap_or_default();
    let id = match scheme {
        b"postgres" | b"postgresql" | b"cockroachdb" | b"redshift" => Id::Postgres,
        b"mysql" | b"mysql2" | b"mariadb" => Id::Mysql,
        b"mongodb" => Id::Mongodb,
        b"redis" | b"rediss" | b"valkey" | b"valkeys" => Id::Redis,
        b"amqp" | b"amqps" => Id::Amqp,
        b"mssql" | b"sqlserver" => Id::Mssql,
        b"ftp" | b"ftps" | b"sftp" => Id::Ftp,
        b"smtp" | b"smtps" | b"imap" | b"imaps" | b"pop3" | b"pop3s" | b"submission" => Id::Smtp,
        b"ldap" | b"ldaps" => Id::Ldap,
        _ => Id::Url,
    };
    let password = from + colon + 1;
    Some(Hit::plain(id, password..from + sign))
}

/// Hosts that documentation uses (RFC 2606, RFC 6761).
fn made_up(host: &[u8]) -> bool {
    let host = host.to_ascii_lowercase();
    let name = host.split(|byte| *byte == b':').next().unwrap_or_default();
    [
        ".example",
        ".invalid",
        ".test",
        "example.com",
        "example.org",
        "example.net",
        "example.io",
    ]
    .iter()
    .any(|end| name.ends_with(end.as_bytes()))
        || [
            &b"host"[..],
            b"hostname",
            b"server",
            b"domain",
            b"domain.com",
            b"your-host",
            b"yourhost",
            b"host.com",
            b"myhost",
        ]
        .contains(&name)
}

/// `machine … login … password …` (ftp's netrc(5)).
fn machine(bytes: &[u8], at: usize) -> Option<Hit> {
    static ENTRY: LazyLock<Regex> = LazyLock::new(|| {
        regex(
            r"\A(?i:machine)[ \t]{1,8}(\S{1,120})\s{1,20}(?i:login)\s{1,20}(\S{1,120})\s{1,20}(?:(?i:account)\s{1,20}\S{1,80}\s{1,20})?(?i:password)\s{1,20}(\S{1,300})",
        )
    });
    let found = ENTRY.captures(window(bytes, at, 700))?;
    let (host, user, password) = (found.get(1)?, found.get(2)?, found.get(3)?);
    if made_up(host.as_bytes()) || !value::is_password(password.as_bytes(), user.as_bytes()) {
        return None;
    }
    Some(Hit::plain(
        Id::Netrc,
        at + password.start()..at + password.end(),
    ))
}

/// Lines of `.pgpass`: `host:port:database:user:password` (PostgreSQL's documentation, "The Password File").
pub(super) fn pgpass(bytes: &[u8], sink: &mut impl FnMut(Hit)) {
    let mut from = 0;
    for line in bytes.split(|byte| *byte == b'\n') {
        let start = from;
        from += line.len() + 1;
        if line.len() > 1000 || line.starts_with(b"#") {
            continue;
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mut fields = line.splitn(5, |byte| *byte == b':');
        let (Some(user), Some(password)) = (fields.nth(3), fields.next()) else {
            continue;
        };
        if value::is_password(password, user) {
            let end = start + line.len();
            sink(Hit::plain(Id::Pgpass, end - password.len()..end));
        }
    }
}

/// Base64 of `user:password`.
fn pair(text: &[u8]) -> bool {
    decode(text).is_some_and(|pair| {
        let printable = pair.iter().all(|byte| (0x20..0x7f).contains(byte));
        let colon = memchr::memchr(b':', &pair);
        printable && colon.is_some_and(|at| value::is_password(&pair[at + 1..], &pair[..at]))
    })
}

/// `"auth": "…"` of Docker's config.json, `_auth=…` of npm's .npmrc.
fn auth(bytes: &[u8], at: usize) -> Option<Hit> {
    static VALUE: LazyLock<Regex> = LazyLock::new(|| {
        regex(r#"\A(?i:"auth"|_auth"?)[ \t]{0,8}[:=]\s{0,8}"?([A-Za-z0-9+/_-]{8,2000}={0,2})"#)
    });
    let found = VALUE.captures(window(bytes, at, 2100))?.get(1)?;
    let id = if bytes[at] == b'"' {
        Id::Docker
    } else {
        Id::Npmrc
    };
    pair(found.as_bytes()).then(|| Hit::plain(id, at + found.start()..at + found.end()))
}

fn header_value(bytes: &[u8], from: usize) -> Range<usize> {
    let length = window(bytes, from, 2100)
        .iter()
        .take_while(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte))
        .count();
    from..from + length
}

/// RFC 6750, 2.1.
fn bearer(bytes: &[u8], at: usize) -> Option<Hit> {
    let range = header_value(bytes, at + "bearer ".len());
    let found = &bytes[range.clone()];
    (found.len() >= 16 && found.len() < 2100 && value::is_secret(found, false))
        .then(|| Hit::plain(Id::Bearer, range))
}

/// RFC 7617, 2. Only after the header's name: the word is common.
fn basic(bytes: &[u8], at: usize) -> Option<Hit> {
    if !contains(before(bytes, at, 40), b"authorization") {
        return None;
    }
    let range = header_value(bytes, at + "basic ".len());
    pair(&bytes[range.clone()]).then(|| Hit::plain(Id::Basic, range))
}
