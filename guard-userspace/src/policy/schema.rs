//! The policy as a JSON Schema, for editors: which keys there are, of which type, and what they mean. What only shows
//! when a policy is read as a whole (labels that rules use, tables that overflow) is beyond it; `policy check` says that.

use guard_common::{MAX_RULES, MAX_STEPS, MAX_UNLESS, state::act};
use serde_json::{Map, Value, json};

use super::{Severity, document, settings};

/// The dialect: what editors' TOML plugins know.
const DIALECT: &str = "http://json-schema.org/draft-07/schema#";

/// As it lies in `docs/policy.schema.json`.
pub fn text() -> String {
    // A value made of strings, numbers and lists has no way to fail.
    let text = serde_json::to_string_pretty(&schema()).unwrap_or_default();
    text + "\n"
}

/// The schema.
pub fn schema() -> Value {
    let mut schema = table(
        "A policy of guard, or a fragment of one in policy.d.",
        &[document::TOP, settings::KEYS].concat(),
        &[],
        |key| match key {
            "version" => {
                json!({ "description": "Must be 1. Fragments may leave it out.", "const": 1 })
            }
            "mode" => described(
                "enforce: verdicts are carried out; observe: they are recorded and nothing is touched. Of several files \
                 the last that says so decides.",
                words(&["enforce", "observe"]),
            ),
            "agent" => list("Programs whose processes make a session.", agent()),
            "persona" => list("What a kind of work may touch at all.", persona()),
            "label" => list("What a fact is; several tables may share a name.", label()),
            "template" => list("What several rules have in common.", template()),
            "rule" => {
                let mut rules = list("What is done when facts arrive in this order.", rule());
                rules["maxItems"] = json!(MAX_RULES);
                rules
            }
            key => settings::schema::table_of(key),
        },
    );
    schema["$schema"] = json!(DIALECT);
    schema["title"] = json!("guard policy");
    schema
}

/// A table with these keys, of which some must be there.
pub(super) fn table(
    what: &str,
    keys: &[&str],
    required: &[&str],
    of: impl Fn(&str) -> Value,
) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .map(|key| ((*key).to_owned(), of(key)))
        .collect();
    let mut table = json!({
        "description": what,
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        table["required"] = json!(required);
    }
    table
}

pub(super) fn described(what: &str, mut value: Value) -> Value {
    value["description"] = json!(what);
    value
}

pub(super) fn words(words: &[&str]) -> Value {
    json!({ "enum": words })
}

pub(super) fn list(what: &str, items: Value) -> Value {
    json!({ "description": what, "type": "array", "items": items })
}

pub(super) fn string(what: &str) -> Value {
    json!({ "description": what, "type": "string" })
}

pub(super) fn strings(what: &str) -> Value {
    list(what, json!({ "type": "string", "minLength": 1 }))
}

/// One string, or a list of them.
fn one_or_more(what: &str) -> Value {
    json!({
        "description": what,
        "anyOf": [
            { "type": "string", "minLength": 1 },
            { "type": "array", "items": { "type": "string", "minLength": 1 }, "minItems": 1 },
        ],
    })
}

pub(super) fn flag(what: &str) -> Value {
    json!({ "description": what, "type": "boolean" })
}

pub(super) fn duration(what: &str) -> Value {
    json!({ "description": what, "type": "string", "pattern": "^\\s*([0-9]+\\s*[A-Za-z]+\\s*)+$", "examples": ["90s", "10m", "1h 30m"] })
}

fn name(what: &str, spaces: bool) -> Value {
    let pattern = if spaces {
        "^[^\\s\"'/\\\\]([^\"'/\\\\]*[^\\s\"'/\\\\])?$"
    } else {
        "^[^\\s\"'/\\\\]+$"
    };
    json!({ "description": what, "type": "string", "pattern": pattern })
}

/// At least one of these must be there.
fn one_of(mut table: Value, keys: &[&str]) -> Value {
    let any: Vec<Value> = keys
        .iter()
        .map(|key| json!({ "required": [key] }))
        .collect();
    table["anyOf"] = any.into();
    table
}

fn agent() -> Value {
    let agent = table(
        "A program whose processes make a session.",
        document::AGENT,
        &["name"],
        |key| match key {
            "name" => name("Its name; each once.", true),
            "exe" => strings(
                "Base names, or globs of paths, of the program or of the script that an interpreter runs.",
            ),
            "env" => {
                strings("NAME or NAME=VALUE: a variable that the agent sets for what it runs.")
            }
            _ => Value::Null,
        },
    );
    one_of(agent, &["exe", "env"])
}

fn label() -> Value {
    let carries = ["files", "addresses", "hosts", "argv", "calls", "requests"];
    let label = table(
        "What carries a label.",
        document::LABEL,
        &["name"],
        |key| match key {
            "name" => name("The label.", false),
            "description" => string("For people."),
            "files" => strings("Patterns of files; opening one is the touch."),
            "opens" => described(
                "write: files only count when they are opened for writing. The same in every table of a label.",
                words(&["any", "write"]),
            ),
            "addresses" => strings(
                "Addresses, networks and ports (203.0.113.0/24, [2001:db8::1]:443, *:5432), and sockets as unix:PATH.",
            ),
            "follow" => flag(
                "What the server behind a unix:PATH starts for a session belongs to the session.",
            ),
            "sealed" => {
                flag("Sessions do not touch what carries the label at all, but under a lease.")
            }
            "hosts" => strings(
                "Names of hosts: api.example.com, *.example.com, api.*.example.com, *, or unknown.",
            ),
            "argv" => strings("Command lines, like terraform destroy."),
            "calls" => list("System calls.", words(&act::NAMES)),
            "requests" => list("Requests; all keys of one table must hold.", request()),
            "except" => one_of(
                table(
                    "What does not count.",
                    document::EXCEPT,
                    &[],
                    |key| match key {
                        "exe" => strings("Programs for which nothing of this table is a fact."),
                        "files" => strings("Files that do not carry this label."),
                        "hosts" => strings(
                            "Names, each with :PORT if wanted, whose addresses do not carry this label as long as a \
                             connection says no other name.",
                        ),
                        "addresses" => strings("Addresses that do not carry this label."),
                        "resolvers" => strings(
                            "Name servers that are believed when they say which addresses these hosts have.",
                        ),
                        _ => Value::Null,
                    },
                ),
                document::EXCEPT,
            ),
            _ => Value::Null,
        },
    );
    one_of(label, &carries)
}

fn request() -> Value {
    let mut request = table("A request.", document::REQUEST, &[], |key| match key {
        "host" => one_or_more("Names of hosts."),
        "method" => one_or_more("Methods."),
        "path" => string("The path: * inside a part, ** for any number of parts."),
        "query" => string("name=value behind the ?, or a name."),
        "graphql" => string("A type (mutation, query, subscription, *) and a field of the root."),
        "grpc" => string("package.Service/Method."),
        "mcp" => one_or_more("Tools of MCP that are called."),
        "aws" => string("service:Action."),
        "kube" => string("A verb and a resource."),
        _ => Value::Null,
    });
    request["minProperties"] = json!(1);
    request
}

fn persona() -> Value {
    table(
        "A kind of work.",
        document::PERSONA,
        &["name", "allows"],
        |key| match key {
            "name" => name("Its name.", false),
            "description" => string("For people."),
            "agents" => strings("Agents whose sessions have it."),
            "directories" => strings("Patterns of directories: sessions that begin there have it."),
            "allows" => strings("Labels that it may touch."),
            _ => Value::Null,
        },
    )
}

fn severity() -> Value {
    let known: Vec<&str> = Severity::WORDS.iter().map(|(word, _)| *word).collect();
    words(&known)
}

/// A step of `when`.
fn step() -> Value {
    let table = table("A step.", document::STEP, &[], |key| match key {
        "label" => string("A label that is touched."),
        "count" => described(
            "So many times.",
            json!({ "type": "integer", "minimum": 1, "maximum": MAX_STEPS }),
        ),
        "not" => string("A label that is not touched meanwhile."),
        "within" => duration("Nor in this time before; without it, since the sequence began."),
        _ => Value::Null,
    });
    json!({ "anyOf": [{ "type": "string", "minLength": 1 }, table] })
}

/// What of a rule its template may say.
fn template() -> Value {
    let rule = rule();
    table(
        "What rules that name it have where they do not say it themselves.",
        document::TEMPLATE,
        &["name"],
        |key| match key {
            "name" => name("Its name.", true),
            key => rule["properties"][key].clone(),
        },
    )
}

fn rule() -> Value {
    let word = |what: &str, known: &[(&str, guard_common::Verdict)]| {
        let known: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
        described(what, words(&known))
    };
    let rule = table(
        "A sequence of labels and what is done about it.",
        document::RULE,
        &["name", "when"],
        |key| match key {
            "name" => name("Its name; each once, or with replace = true.", true),
            "description" => string("For people."),
            "when" => {
                let mut steps = list("Labels in order; the last is the trigger.", step());
                steps["minItems"] = json!(1);
                steps["maxItems"] = json!(MAX_STEPS + MAX_UNLESS);
                steps
            }
            "within" => duration("The whole sequence must fit in this; without it, any time."),
            "then" => word("The verdict.", document::THEN),
            "timeout" => duration("How long a hold waits for an answer; 2m without it."),
            "on_timeout" => word("What silence means; deny without it.", document::ON_TIMEOUT),
            "scope" => described(
                "What a hold stops; process without it.",
                words(&["process", "session"]),
            ),
            "fallback" => described(
                "What is done where the kernel cannot deny; kill without it.",
                words(&["kill", "hold", "flag"]),
            ),
            "mode" => described("observe: this rule only records.", words(&["observe"])),
            "severity" => described("How bad it is.", severity()),
            "template" => string("The [[template]] that says what this rule does not."),
            "replace" => flag("It takes the place of the rule of this name in an earlier file."),
            _ => Value::Null,
        },
    );
    one_of(rule, &["then", "template"])
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use jsonschema::Validator;

    use super::{
        super::{Policy, Source},
        *,
    };

    fn validator() -> Validator {
        jsonschema::draft7::new(&schema()).unwrap()
    }

    /// TOML as JSON, as an editor's plugin sees it.
    fn json_of(text: &str) -> Value {
        let value: toml::Value = toml::from_str(text).unwrap_or_else(|error| panic!("{error}"));
        serde_json::to_value(value).unwrap()
    }

    /// Every policy in the documents: a block of TOML that is one.
    fn examples() -> Vec<(String, String)> {
        let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(docs).unwrap().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "md") {
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for block in text.split("```toml\n").skip(1) {
                let block = block.split("\n```").next().unwrap();
                found.push((path.display().to_string(), block.to_owned()));
            }
        }
        found
    }

    #[test]
    fn every_key_that_the_reader_knows_is_described_and_no_other() {
        let schema = schema();
        let items = |key: &str| schema["properties"][key]["items"].clone();
        let label = items("label");
        for (table, known) in [
            (
                schema.clone(),
                &[document::TOP, settings::KEYS].concat()[..],
            ),
            (items("agent"), document::AGENT),
            (items("rule"), document::RULE),
            (items("template"), document::TEMPLATE),
            (items("persona"), document::PERSONA),
            (
                items("rule")["properties"]["when"]["items"]["anyOf"][1].clone(),
                document::STEP,
            ),
            (label["properties"]["except"].clone(), document::EXCEPT),
            (
                label["properties"]["requests"]["items"].clone(),
                document::REQUEST,
            ),
            (label, document::LABEL),
        ] {
            let properties = table["properties"].as_object().unwrap();
            assert_eq!(properties.len(), known.len(), "{known:?}");
            for key in known {
                let described = properties[*key]["description"].as_str().unwrap_or_default();
                assert!(
                    described.len() > 5,
                    "{key} is not described in policy/schema.rs"
                );
            }
            assert_eq!(table["additionalProperties"], false);
        }
    }

    #[test]
    fn the_schema_is_the_one_in_docs() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.schema.json");
        if std::env::var_os("GUARD_WRITE_DOCS").is_some() {
            std::fs::write(&path, text()).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).unwrap_or_default() == text(),
            "docs/policy.schema.json is not what policy/schema.rs says; write it anew: GUARD_WRITE_DOCS=1 cargo xtask \
             test --unit the_schema_is"
        );
    }

    #[test]
    fn the_built_in_policy_and_every_example_are_right_by_it() {
        let validator = validator();
        let mut checked = 0;
        let built_in = super::super::BUILT_IN.to_owned();
        for (whence, text) in [("built-in".into(), built_in)]
            .into_iter()
            .chain(examples())
        {
            // Parts of tables, and users' own files, which are others.
            let whole = format!("version = 1\n{}", text.replacen("version = 1\n", "", 1));
            let Ok(_) = toml::from_str::<toml::Value>(&whole) else {
                continue;
            };
            if Policy::parse(&whole, Source::BuiltIn).is_err() && text.contains("[[raise]]") {
                continue;
            }
            let value = json_of(&whole);
            let known = value
                .as_object()
                .unwrap()
                .keys()
                .all(|key| document::TOP.contains(&key.as_str()));
            if !known {
                continue;
            }
            let errors: Vec<String> = validator
                .iter_errors(&value)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{whence}: {errors:#?}\n{text}");
            checked += 1;
        }
        assert!(checked > 5, "only {checked} examples were found");
    }

    #[test]
    fn what_the_reader_refuses_for_its_form_the_schema_refuses_too() {
        let validator = validator();
        let label = "[[label]]\nname = \"l\"\nfiles = [\"/x\"]\n";
        for text in [
            "version = 2".to_owned(),
            "mode = \"off\"".into(),
            "rules = []".into(),
            "[metrics]".into(),
            "[metrics]\nlisten = \"0.0.0.0:9464\"".into(),
            "[otlp]\nendpoint = \"http://collector.example\"".into(),
            "[journald]\nevents = \"some\"".into(),
            "[journal]\nkeep = 5".into(),
            "[notify.slack]\nbot = \"x\"".into(),
            "[[notify.webhook]]\nname = \"a\"".into(),
            "[[agent]]\nname = \"a\"".into(),
            "[[agent]]\nexe = [\"a\"]".into(),
            "[[agent]]\nname = \"a\"\nexe = \"a\"".into(),
            "[[label]]\nname = \"l\"".into(),
            "[[label]]\nname = \"a b\"\nfiles = [\"/x\"]".into(),
            "[[label]]\nname = \"l\"\nfiles = [\"\"]".into(),
            "[[label]]\nname = \"l\"\ncalls = [\"fork\"]".into(),
            "[[label]]\nname = \"l\"\nfiles = [\"/x\"]\nopens = \"read\"".into(),
            "[[label]]\nname = \"l\"\nfiles = [\"/x\"]\nexcept = {}".into(),
            "[[label]]\nname = \"l\"\nrequests = [{}]".into(),
            "[[label]]\nname = \"l\"\nrequests = [{ hosts = \"x\" }]".into(),
            "[[label]]\nname = \"l\"\nfiles = [\"/x\"]\nfollow = 1".into(),
            format!("{label}[[rule]]\nname = \"r\"\nwhen = []\nthen = \"flag\""),
            format!("{label}[[rule]]\nname = \"r\"\nwhen = [\"l\"]"),
            format!("{label}[[rule]]\nname = \"r\"\nwhen = [\"l\"]\nthen = \"allow\""),
            format!("{label}[[rule]]\nname = \"r\"\nwhen = [\"l\"]\nthen = \"hold\"\ntimeout = 5"),
            format!(
                "{label}[[rule]]\nname = \"r\"\nwhen = [\"l\"]\nthen = \"hold\"\ntimeout = \"soon\""
            ),
            format!(
                "{label}[[rule]]\nname = \"r\"\nwhen = [\"l\"]\nthen = \"flag\"\nmode = \"enforce\""
            ),
            format!(
                "{label}[[rule]]\nname = \"r\"\nwhen = [\"l\"]\nthen = \"flag\"\nreplace = \"yes\""
            ),
        ] {
            let whole = if text.starts_with("version") {
                text
            } else {
                format!("version = 1\n{text}")
            };
            assert!(Policy::parse(&whole, Source::BuiltIn).is_err(), "{whole}");
            assert!(!validator.is_valid(&json_of(&whole)), "{whole}");
        }
        assert!(validator.is_valid(&json_of(&format!("version = 1\n{label}"))));
    }
}
