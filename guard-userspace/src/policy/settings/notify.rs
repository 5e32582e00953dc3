//! `[notify]`: the channels that tell people of holds. Secrets are never here, only the files that hold them.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::policy::{
    error::{Mistake, PolicyError},
    read::{Entry, Table, table},
};

pub(super) const NOTIFY: &[&str] = &["terminal", "desktop", "slack", "webhook"];
pub(super) const TERMINAL: &[&str] = &["users", "bell"];
pub(super) const DESKTOP: &[&str] = &["users", "answer", "approve", "bus"];
pub(super) const SLACK: &[&str] = &[
    "webhook_file",
    "bot_token_file",
    "channel",
    "app_token_file",
    "answer_users",
    "approve",
    "api",
    "ca_file",
];
pub(super) const WEBHOOK: &[&str] = &[
    "name", "url", "key_file", "ca_file", "answer", "approve", "poll",
];

/// How often a webhook is asked for an answer when it does not say.
const POLL: Duration = Duration::from_secs(2);
/// The API that a Slack app calls. <https://api.slack.com/web>
const SLACK_API: &str = "https://slack.com/api/";

/// The channels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Notify {
    /// `[notify.terminal]`
    #[serde(default)]
    pub terminal: Option<Terminal>,
    /// `[notify.desktop]`
    #[serde(default)]
    pub desktop: Option<Desktop>,
    /// `[notify.slack]`
    #[serde(default)]
    pub slack: Option<Slack>,
    /// `[[notify.webhook]]`
    #[serde(default)]
    pub webhooks: Vec<Webhook>,
}

/// The terminals of the session's user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terminal {
    /// Whose terminals instead, by login name.
    pub users: Vec<String>,
    /// Ring the bell.
    pub bell: bool,
}

/// Notifications on the desktop of the session's user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Desktop {
    /// Whose desktops instead, by login name.
    pub users: Vec<String>,
    /// Whether a click answers.
    pub answer: bool,
    /// Whether such an answer may be an approval.
    pub approve: bool,
    /// Path of the session bus; `{uid}` stands for the user's number.
    pub bus: String,
}

/// A Slack workspace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slack {
    /// How messages get there.
    pub to: SlackTo,
    /// Who may answer, and how answers get here.
    pub answers: Option<SlackAnswers>,
    /// The API's base address.
    pub api: String,
    /// Authorities to trust instead of the machine's.
    pub ca_file: Option<PathBuf>,
}

/// Where Slack's messages go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlackTo {
    /// An incoming webhook, whose address is a secret.
    Webhook {
        /// The file that holds the address.
        file: PathBuf,
    },
    /// `chat.postMessage`.
    Channel {
        /// The file that holds the bot's token (`xoxb-…`).
        token_file: PathBuf,
        /// `C…`, or a name.
        channel: String,
    },
}

/// Buttons in Slack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlackAnswers {
    /// The file that holds the app-level token (`xapp-…`) for Socket Mode.
    pub token_file: PathBuf,
    /// Ids (`U…`) of who may press; never empty.
    pub users: Vec<String>,
    /// Whether an answer may be an approval.
    pub approve: bool,
}

/// Any program that takes JSON by HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    /// What it is called in `status` and in events.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// The file that holds the key of the signatures.
    pub key_file: PathBuf,
    /// Authorities to trust instead of the machine's.
    pub ca_file: Option<PathBuf>,
    /// Whether it is asked for an answer.
    pub answer: bool,
    /// Whether an answer may be an approval.
    pub approve: bool,
    /// How often it is asked.
    pub poll: Duration,
}

impl Notify {
    /// Whether nobody is told.
    pub fn is_empty(&self) -> bool {
        self.terminal.is_none()
            && self.desktop.is_none()
            && self.slack.is_none()
            && self.webhooks.is_empty()
    }

    /// Whether an answer may come by a channel (by its name in [`Via`](crate::wire::Via)), and whether it may be an
    /// approval.
    pub fn may_answer(&self, channel: &str) -> (bool, bool) {
        let desktop = self.desktop.as_ref();
        let slack = self.slack.as_ref().and_then(|slack| slack.answers.as_ref());
        match channel.split_once(' ') {
            None if channel == "desktop" => {
                desktop.map_or((false, false), |it| (it.answer, it.answer && it.approve))
            }
            None if channel == "slack" => slack.map_or((false, false), |it| (true, it.approve)),
            Some(("webhook", name)) => self
                .webhooks
                .iter()
                .find(|webhook| webhook.name == name)
                .map_or((false, false), |it| (it.answer, it.answer && it.approve)),
            _ => (false, false),
        }
    }
}

/// `[notify]` and what is in it.
pub(super) fn read(top: &Table<'_>) -> Result<Notify, PolicyError> {
    let Some(notify) = inner(top, "notify", "[notify]")? else {
        return Ok(Notify::default());
    };
    notify.only(NOTIFY)?;
    let terminal = inner(&notify, "terminal", "[notify.terminal]")?;
    let desktop = inner(&notify, "desktop", "[notify.desktop]")?;
    let slack = inner(&notify, "slack", "[notify.slack]")?;
    Ok(Notify {
        terminal: terminal.as_ref().map(read_terminal).transpose()?,
        desktop: desktop.as_ref().map(read_desktop).transpose()?,
        slack: slack.as_ref().map(read_slack).transpose()?,
        webhooks: read_webhooks(&notify)?,
    })
}

pub(super) fn inner<'a>(
    outer: &Table<'a>,
    key: &'static str,
    title: &'static str,
) -> Result<Option<Table<'a>>, PolicyError> {
    let Some(value) = outer.value(key) else {
        return Ok(None);
    };
    let expected = format!("a table: begin it with {title}");
    table(outer.document, key, title, value, &expected).map(Some)
}

fn flag(table: &Table<'_>, key: &'static str, otherwise: bool) -> Result<bool, PolicyError> {
    Ok(table.boolean(key)?.map_or(otherwise, |flag| flag.is))
}

fn names(table: &Table<'_>, key: &'static str) -> Result<Vec<String>, PolicyError> {
    let entries = table.strings(key)?;
    Ok(entries.into_iter().map(|entry| entry.text).collect())
}

pub(super) fn bad(
    table: &Table<'_>,
    key: &'static str,
    entry: &Entry,
    reason: &str,
) -> PolicyError {
    let mistake = Mistake::BadSetting {
        key,
        text: entry.text.clone(),
        reason: reason.into(),
    };
    table.document.error(entry.span.clone(), mistake)
}

/// A file by its whole path, or a systemd credential by its name.
pub(super) fn secret(table: &Table<'_>, key: &'static str) -> Result<Option<PathBuf>, PolicyError> {
    let Some(entry) = table.string(key)? else {
        return Ok(None);
    };
    let good = entry.text.starts_with('/') || !(entry.text.contains('/') || entry.text.is_empty());
    if !good {
        let reason = "expected the whole path of a file, or the name of a systemd credential";
        return Err(bad(table, key, &entry, reason));
    }
    // Long random words without a dot are what people paste here by mistake.
    if entry.text.starts_with("xox") || entry.text.starts_with("xapp-") {
        let shown = Entry {
            text: "***".into(),
            span: entry.span.clone(),
        };
        let reason = "this is the secret itself: expected the path of a file that holds it";
        return Err(bad(table, key, &shown, reason));
    }
    Ok(Some(entry.text.into()))
}

pub(super) fn path(table: &Table<'_>, key: &'static str) -> Result<Option<PathBuf>, PolicyError> {
    match table.string(key)? {
        Some(entry) if !entry.text.starts_with('/') => {
            Err(bad(table, key, &entry, "expected the whole path of a file"))
        }
        entry => Ok(entry.map(|entry| entry.text.into())),
    }
}

/// https, or http to this machine itself.
pub(super) fn address(table: &Table<'_>, key: &'static str) -> Result<Option<String>, PolicyError> {
    let Some(entry) = table.string(key)? else {
        return Ok(None);
    };
    match crate::herald::http::Target::parse(&entry.text) {
        Ok(_) => Ok(Some(entry.text)),
        Err(reason) => Err(bad(table, key, &entry, &reason)),
    }
}

fn read_terminal(table: &Table<'_>) -> Result<Terminal, PolicyError> {
    table.only(TERMINAL)?;
    Ok(Terminal {
        users: names(table, "users")?,
        bell: flag(table, "bell", true)?,
    })
}

fn read_desktop(table: &Table<'_>) -> Result<Desktop, PolicyError> {
    table.only(DESKTOP)?;
    let bus = table.string("bus")?;
    if let Some(entry) = bus.as_ref().filter(|entry| !entry.text.starts_with('/')) {
        return Err(bad(
            table,
            "bus",
            entry,
            "expected the whole path of a socket",
        ));
    }
    Ok(Desktop {
        users: names(table, "users")?,
        answer: flag(table, "answer", false)?,
        approve: flag(table, "approve", true)?,
        bus: bus.map_or_else(|| "/run/user/{uid}/bus".into(), |entry| entry.text),
    })
}

fn read_slack(table: &Table<'_>) -> Result<Slack, PolicyError> {
    table.only(SLACK)?;
    let (webhook, bot) = (
        secret(table, "webhook_file")?,
        secret(table, "bot_token_file")?,
    );
    let to = match (webhook, bot) {
        (None, None) => {
            let expected = "bot_token_file and channel, or webhook_file for an incoming webhook";
            return Err(table.missing("bot_token_file", expected));
        }
        (Some(_), Some(_)) => {
            let entry = table.required("webhook_file", "")?;
            let reason = "there is a bot_token_file as well: expected one of the two";
            return Err(bad(table, "webhook_file", &entry, reason));
        }
        (Some(file), None) => SlackTo::Webhook { file },
        (None, Some(token_file)) => SlackTo::Channel {
            token_file,
            channel: table
                .required("channel", "channel = \"C…\", the channel's id")?
                .text,
        },
    };
    let users = names(table, "answer_users")?;
    let app = secret(table, "app_token_file")?;
    let answers = match (app, &to) {
        (None, _) if users.is_empty() => None,
        (None, _) => {
            let expected = "the file with the app-level token, by which answers come (Socket Mode)";
            return Err(table.missing("app_token_file", expected));
        }
        (Some(_), SlackTo::Webhook { .. }) => {
            let expected = "a bot's token: an incoming webhook has no buttons";
            return Err(table.missing("bot_token_file", expected));
        }
        (Some(_), _) if users.is_empty() => {
            let expected = "the ids of those who may answer, like [\"U012ABCDE\"]";
            return Err(table.missing("answer_users", expected));
        }
        (Some(token_file), _) => Some(SlackAnswers {
            token_file,
            users,
            approve: flag(table, "approve", true)?,
        }),
    };
    let mut api = address(table, "api")?.unwrap_or_else(|| SLACK_API.into());
    if !api.ends_with('/') {
        api.push('/');
    }
    Ok(Slack {
        to,
        answers,
        api,
        ca_file: path(table, "ca_file")?,
    })
}

fn read_webhooks(notify: &Table<'_>) -> Result<Vec<Webhook>, PolicyError> {
    let mut webhooks: Vec<Webhook> = Vec::new();
    for table in notify.tables("webhook", "[[notify.webhook]]")? {
        table.only(WEBHOOK)?;
        let name = table.required("name", "name = \"…\"")?;
        let good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.text.is_empty() || !name.text.chars().all(good) {
            let reason = "expected letters, digits, and any of - _ .";
            return Err(bad(&table, "name", &name, reason));
        }
        if webhooks.iter().any(|other| other.name == name.text) {
            let reason = "another [[notify.webhook]] has this name: expected a name of its own";
            return Err(bad(&table, "name", &name, reason));
        }
        let url = address(&table, "url")?;
        let key = secret(&table, "key_file")?;
        webhooks.push(Webhook {
            name: name.text,
            url: url.ok_or_else(|| table.missing("url", "url = \"https://…\""))?,
            key_file: key.ok_or_else(|| {
                table.missing("key_file", "the file with the key of the signatures")
            })?,
            ca_file: path(&table, "ca_file")?,
            answer: flag(&table, "answer", false)?,
            approve: flag(&table, "approve", true)?,
            poll: table.duration("poll")?.unwrap_or(POLL),
        });
    }
    Ok(webhooks)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::{Policy, Source};

    fn read(text: &str) -> Result<Notify, String> {
        Policy::parse(&format!("version = 1\n{text}"), Source::BuiltIn)
            .map(|policy| policy.settings.notify)
            .map_err(|error| error.one_line())
    }

    const WEBHOOK: &str =
        "[[notify.webhook]]\nname = \"ops\"\nurl = \"https://h.example/x\"\nkey_file = \"/k\"\n";

    #[test]
    fn nothing_is_told_unless_the_policy_says_so() {
        let notify = read("").unwrap();
        assert!(notify.is_empty());
        assert_eq!(notify.may_answer("slack"), (false, false));
        assert!(Policy::built_in().settings.notify.is_empty());
    }

    #[test]
    fn a_table_by_itself_has_defaults_that_only_tell() {
        let notify = read(&format!("[notify.terminal]\n[notify.desktop]\n{WEBHOOK}")).unwrap();
        assert!(notify.terminal.as_ref().is_some_and(|it| it.bell));
        assert_eq!(notify.desktop.as_ref().unwrap().bus, "/run/user/{uid}/bus");
        assert_eq!(notify.webhooks[0].poll, Duration::from_secs(2));
        for channel in [
            "terminal",
            "desktop",
            "webhook ops",
            "webhook other",
            "guardctl",
        ] {
            assert_eq!(notify.may_answer(channel), (false, false), "{channel}");
        }
    }

    #[test]
    fn answering_and_approving_are_two_things() {
        let slack = "[notify.slack]\nbot_token_file = \"/b\"\nchannel = \"C1\"\napp_token_file = \"app\"\n\
                     answer_users = [\"U1\"]\n";
        let notify = read(&format!(
            "[notify.desktop]\nanswer = true\napprove = false\n{slack}{WEBHOOK}answer = true\n"
        ))
        .unwrap();
        assert_eq!(notify.may_answer("desktop"), (true, false));
        assert_eq!(notify.may_answer("slack"), (true, true));
        assert_eq!(notify.may_answer("webhook ops"), (true, true));
        let approving = read("[notify.desktop]\napprove = true\n").unwrap();
        assert_eq!(approving.may_answer("desktop"), (false, false));
    }

    #[test]
    fn a_mistake_says_where_it_is_and_what_was_expected() {
        for (text, said) in [
            ("[notify]\nslak = 1\n", "did you mean \"slack\"?"),
            ("notify = 1\n", "expected a table: begin it with [notify]"),
            (
                "[notify.terminal]\nusers = \"alice\"\n",
                "expected a list of strings",
            ),
            (
                "[notify.desktop]\nbus = \"bus\"\n",
                "whole path of a socket",
            ),
            (
                "[notify.slack]\n",
                "bot_token_file and channel, or webhook_file",
            ),
            (
                "[notify.slack]\nbot_token_file = \"/b\"\n",
                "[notify.slack] has no channel",
            ),
            (
                "[notify.slack]\nwebhook_file = \"/w\"\nbot_token_file = \"/b\"\nchannel = \"C\"\n",
                "expected one of the two",
            ),
            (
                "[notify.slack]\nwebhook_file = \"/w\"\napp_token_file = \"/a\"\nanswer_users = [\"U1\"]\n",
                "an incoming webhook has no buttons",
            ),
            (
                "[notify.slack]\nbot_token_file = \"/b\"\nchannel = \"C\"\napp_token_file = \"/a\"\n",
                "has no answer_users",
            ),
            (
                "[notify.slack]\nbot_token_file = \"/b\"\nchannel = \"C\"\nanswer_users = [\"U1\"]\n",
                "has no app_token_file",
            ),
            (
                "[[notify.webhook]]\nname = \"a b\"\n",
                "expected letters, digits",
            ),
            ("[[notify.webhook]]\nname = \"a\"\n", "has no url"),
            (
                "[[notify.webhook]]\nname = \"a\"\nurl = \"http://h.example/\"\nkey_file = \"/k\"\n",
                "expected https://",
            ),
            (
                "[[notify.webhook]]\nname = \"a\"\nurl = \"https://h.example/\"\nkey_file = \"k/x\"\n",
                "whole path of a file, or the name of a systemd credential",
            ),
            (&format!("{WEBHOOK}{WEBHOOK}"), "a name of its own"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
            assert!(error.starts_with("built-in:"), "{error}");
        }
    }

    #[test]
    fn a_secret_in_the_policy_is_refused_and_not_repeated() {
        let pasted = format!("{}-{}", "xoxb", "made-up");
        let error = read(&format!(
            "[notify.slack]\nbot_token_file = \"{pasted}\"\nchannel = \"C\"\n"
        ))
        .unwrap_err();
        assert!(error.contains("this is the secret itself"), "{error}");
        assert!(!error.contains("made-up"), "{error}");
    }
}
