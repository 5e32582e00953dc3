//! What a person is told of a hold, the same by every channel and in `guardctl pending` ([`text()`]), and what is
//! looked up for it when it is told: the held process stands still meanwhile.

#[cfg(test)]
mod example;
mod shorten;
mod text;

use std::{
    ffi::CStr,
    fs::{self, File},
    io::Read as _,
    path::Path,
};

#[cfg(test)]
pub(crate) use self::example::a_hold;
pub use self::{
    shorten::middle,
    text::{Frame, Paint, Plain, facts, headline, text},
};
use crate::{
    DEFAULT_SOCKET,
    cli::escape,
    mask,
    process::{self, Id},
};

/// Variables that say what a command acts on, or that it is not what it seems. The first that are set are told.
const TELLING: &[&str] = &[
    "LD_PRELOAD",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "KUBECONFIG",
    "CLOUDSDK_ACTIVE_CONFIG_NAME",
    "CLOUDSDK_CORE_PROJECT",
    "GOOGLE_CLOUD_PROJECT",
    "ARM_SUBSCRIPTION_ID",
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "VAULT_ADDR",
    "CONSUL_HTTP_ADDR",
    "NOMAD_ADDR",
    "TF_WORKSPACE",
    "PULUMI_STACK",
    "RAILWAY_ENVIRONMENT",
    "RAILWAY_PROJECT_ID",
    "FLY_APP",
    "HEROKU_APP",
    "PGHOST",
    "PGDATABASE",
    "DATABASE_URL",
    "REDIS_URL",
    "RAILS_ENV",
    "NODE_ENV",
    "APP_ENV",
    "ENVIRONMENT",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
];
/// How many of them are told.
const MAX_VARIABLES: usize = 6;
/// Characters of a value.
const MAX_VALUE: usize = 120;
/// How much of an environment is looked through.
const MAX_ENVIRONMENT: u64 = 128 * 1024;

/// How to call guardctl so that it reaches the daemon behind `socket`, for commands to copy.
pub fn guardctl(socket: &Path) -> String {
    if socket == Path::new(DEFAULT_SOCKET) {
        return "guardctl".into();
    }
    escape::command(&["guardctl", "--socket", &socket.to_string_lossy()])
}

/// What an answer by a channel must carry: 128 bits that nobody can guess. Empty, which nothing answers to, where the
/// kernel has none to give.
pub fn token() -> String {
    let mut bytes = [0u8; 16];
    // SAFETY: the buffer and its length.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != bytes.len() as isize {
        tracing::error!("no random bytes: {}", std::io::Error::last_os_error());
        return String::new();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_still(id: Id) -> bool {
    process::stat(id.pid).is_some_and(|stat| stat.id == id)
}

/// A held process's working directory.
pub(crate) fn cwd(id: Id) -> Option<String> {
    let cwd = process::cwd(id.pid).filter(|_| is_still(id))?;
    Some(mask::mask_text(&cwd.to_string_lossy()).into_owned())
}

/// A user's name by the machine's own list. Not by the C library: guardd must not wait for a directory server.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    let list = fs::read_to_string("/etc/passwd").ok()?;
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Who logged in, by the kernel's audit: it stays through `su` and `sudo`. `None` for what no login has started.
pub(crate) fn login_uid(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    text.trim().parse().ok().filter(|uid| *uid != u32::MAX)
}

/// Variables of a held process that say what it acts on, secrets masked.
pub(crate) fn environment(id: Id) -> Vec<String> {
    let mut bytes = Vec::new();
    let read = File::open(format!("/proc/{}/environ", id.pid))
        .and_then(|file| file.take(MAX_ENVIRONMENT).read_to_end(&mut bytes));
    if read.is_err() || !is_still(id) {
        return Vec::new();
    }
    telling(&bytes)
}

fn telling(environ: &[u8]) -> Vec<String> {
    let value = |name: &&str| {
        let entry = environ.split(|byte| *byte == 0).find(|entry| {
            entry
                .strip_prefix(name.as_bytes())
                .is_some_and(|rest| rest.len() > 1 && rest[0] == b'=')
        })?;
        let masked = mask::mask_text(&String::from_utf8_lossy(entry)).into_owned();
        Some(middle(&masked, MAX_VALUE))
    };
    TELLING
        .iter()
        .filter_map(value)
        .take(MAX_VARIABLES)
        .collect()
}

/// The number of a user by login name; asks the C library, and so whatever the machine is told to ask.
pub(crate) fn uid_of(name: &str) -> Option<u32> {
    let account = crate::cli::account::Account::by_name(name).ok()??;
    Some(account.uid)
}

/// A user's name for people, by whatever the machine is told to ask.
pub(crate) fn name_of(uid: u32) -> String {
    match crate::cli::account::Account::by_uid(uid) {
        Ok(Some(account)) => {
            let name: &CStr = &account.name;
            escape::text(&name.to_string_lossy())
        }
        _ => format!("uid {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_and_differ() {
        let (a, b) = (token(), token());
        assert_eq!((a.len(), b.len()), (32, 32));
        assert_ne!(a, b);
    }

    #[test]
    fn what_a_command_acts_on_is_told_without_its_secrets() {
        let url = format!("DATABASE_URL=postgres://app:{}@db/prod", "pass-of-a-test");
        let environ = format!("HOME=/root\0{url}\0AWS_PROFILE=production\0EDITOR=vi\0PGHOST=\0");
        assert_eq!(
            telling(environ.as_bytes()),
            [
                "AWS_PROFILE=production",
                "DATABASE_URL=postgres://app:***@db/prod"
            ]
        );
    }

    #[test]
    fn a_long_value_keeps_its_end() {
        let environ = format!("KUBECONFIG=/{}/production.yaml", "x".repeat(500));
        let told = telling(environ.as_bytes());
        assert!(told[0].ends_with("/production.yaml"), "{told:?}");
        assert_eq!(told[0].chars().count(), MAX_VALUE);
    }

    #[test]
    fn root_has_a_name() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_name(3_999_999_999), None);
    }
}
