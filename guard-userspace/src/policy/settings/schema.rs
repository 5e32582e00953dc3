//! The settings' part of the policy's JSON Schema ([`crate::policy::schema`]).

use serde_json::{Value, json};

use super::{divergence, hunting, journal, notify, secrets, telemetry};
use crate::policy::schema::{described, duration, flag, list, string, strings, table, words};

/// The table with this name; null for none.
pub(in crate::policy) fn table_of(key: &str) -> Value {
    match key {
        "divergence" => table(
            "How far a session may behave unlike its kind before that is told.",
            divergence::KEYS,
            &[],
            |_| {
                let what =
                    "A session whose score, of 0 to 100, falls below it is divergent; 0 for never.";
                described(
                    what,
                    json!({ "type": "integer", "minimum": 0, "maximum": 100 }),
                )
            },
        ),
        "hunting" => table(
            "What is called a hunt for credentials.",
            hunting::KEYS,
            &[],
            |key| match key {
                "files" => described(
                    "So many different credential files; 0 for never.",
                    json!({ "type": "integer", "minimum": 0, "maximum": 64 }),
                ),
                _ => duration("In so long a time."),
            },
        ),
        "journal" => journal_table(),
        "notify" => notify_table(),
        "metrics" => table(
            "Figures for Prometheus.",
            telemetry::METRICS,
            &["listen"],
            |_| {
                let mut listen = string("Where: unix:PATH, 127.0.0.1:PORT or [::1]:PORT.");
                listen["pattern"] = json!("^(unix:/.+|127\\.[0-9.]+:[0-9]+|\\[::1\\]:[0-9]+)$");
                listen
            },
        ),
        "otlp" => table(
            "Events and holds for a collector of OpenTelemetry, by OTLP over HTTP.",
            telemetry::OTLP,
            &["endpoint"],
            |key| match key {
                "endpoint" => address("The collector's base address, without the v1/…."),
                "headers_file" => file("A file with more headers, `name: value` a line."),
                "ca_file" => path("Authorities to trust instead of the machine's, in PEM."),
                _ => which(),
            },
        ),
        "journald" => table(
            "Events as entries with fields in systemd's journal.",
            telemetry::JOURNALD,
            &[],
            |_| which(),
        ),
        "secrets" => table(
            "Which files are searched for secrets.",
            secrets::KEYS,
            &[],
            |key| match key {
                "enabled" => flag(
                    "Whether they are; without it when a rule names a label like secret or uses:secret:PROVIDER.",
                ),
                "roots" => strings(
                    "Whole paths of directories that are searched beside those that sessions work in.",
                ),
                "size" => {
                    string("What is read of each file at most, from its beginning, like \"4MiB\".")
                }
                "files" => {
                    most("Files of one directory, with all below it, that are searched at most.")
                }
                _ => most(
                    "Directories of one directory, with all below it, that are searched at most.",
                ),
            },
        ),
        _ => Value::Null,
    }
}

fn most(what: &str) -> Value {
    json!({ "description": what, "type": "integer", "minimum": 1, "maximum": secrets::MOST })
}

fn which() -> Value {
    described(
        "verdicts: what a rule had something to say about, and everything about guardd itself; all: every event.",
        words(&["verdicts", "all"]),
    )
}

fn path(what: &str) -> Value {
    let mut path = string(what);
    path["pattern"] = json!("^/");
    path
}

/// A secret's.
fn file(what: &str) -> Value {
    let mut file = string(&format!(
        "{what} The whole path of a file that only root reads, or the name of a systemd credential."
    ));
    file["minLength"] = json!(1);
    file
}

fn address(what: &str) -> Value {
    let mut address = string(&format!("{what} https, or http to this machine itself."));
    address["pattern"] = json!("^(https|wss)://|^(http|ws)://(127\\.|\\[::1\\])");
    address
}

fn journal_table() -> Value {
    table(
        "How much of the journal is kept.",
        journal::KEYS,
        &[],
        |key| match key {
            "keep" => {
                let keep = "Events at least as young as this stay: a duration like \"90d\", or \"unlimited\".";
                let mut value = duration(keep);
                value["pattern"] = json!("^(unlimited|\\s*([0-9]+\\s*[A-Za-z]+\\s*)+)$");
                value["examples"] = json!(["90d", "2years", "unlimited"]);
                value
            }
            _ => {
                let mut size =
                    string("What its files take at most: like \"2GiB\", or \"unlimited\".");
                size["examples"] = json!(["512MiB", "2GiB", "unlimited"]);
                size
            }
        },
    )
}

fn notify_table() -> Value {
    table(
        "Who is told of a hold, and by which ways an answer may come.",
        notify::NOTIFY,
        &[],
        |key| match key {
            "terminal" => table(
                "The terminals of the session's user.",
                notify::TERMINAL,
                &[],
                |key| match key {
                    "users" => strings("Whose terminals instead, by login name."),
                    _ => flag("Whether the bell rings."),
                },
            ),
            "desktop" => table(
                "Notifications on the desktop of the session's user.",
                notify::DESKTOP,
                &[],
                |key| match key {
                    "users" => strings("Whose desktops instead, by login name."),
                    "bus" => path("Path of the session bus; {uid} stands for the user's number."),
                    key => answering(key),
                },
            ),
            "slack" => table("A Slack workspace.", notify::SLACK, &[], slack),
            _ => list(
                "Programs that take JSON by HTTP.",
                table(
                    "A program that takes JSON by HTTP.",
                    notify::WEBHOOK,
                    &["name", "url", "key_file"],
                    |key| match key {
                        "name" => string("What it is called in status and in events."),
                        "url" => address("Where it is."),
                        "key_file" => file("The file that holds the key of the signatures."),
                        "ca_file" => path("Authorities to trust instead of the machine's, in PEM."),
                        "poll" => duration("How often it is asked for an answer."),
                        key => answering(key),
                    },
                ),
            ),
        },
    )
}

fn answering(key: &str) -> Value {
    match key {
        "answer" => flag("Whether an answer may come by it."),
        _ => flag("Whether such an answer may be an approval."),
    }
}

fn slack(key: &str) -> Value {
    match key {
        "webhook_file" => file("The file that holds an incoming webhook's address."),
        "bot_token_file" => file("The file that holds the bot's token (xoxb-…)."),
        "channel" => string("The channel's id (C…), or its name."),
        "app_token_file" => {
            file("The file that holds the app-level token (xapp-…), by which answers come.")
        }
        "answer_users" => strings("Ids (U…) of those who may answer."),
        "api" => address("The API's base address, where it is not Slack's own."),
        "ca_file" => path("Authorities to trust instead of the machine's, in PEM."),
        _ => answering("approve"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::KEYS, *};

    #[test]
    fn every_setting_is_described() {
        fn described(name: &str, value: &Value) {
            let text = value["description"].as_str().unwrap_or_default();
            assert!(text.len() > 5, "{name} is not described");
            for inner in [&value["properties"], &value["items"]["properties"]] {
                for (key, value) in inner.as_object().into_iter().flatten() {
                    described(&format!("{name}.{key}"), value);
                }
            }
        }
        for key in KEYS {
            described(key, &table_of(key));
        }
    }
}
