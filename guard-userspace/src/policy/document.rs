//! From TOML to a [`Policy`]: which keys there are, what they mean by default, and what is refused.

use std::{collections::HashMap, ops::Range, time::Duration};

use guard_common::{MAX_GROUPS, MAX_LABELS, MAX_RULES, MAX_STEPS, Verdict, state::act};
use toml::de::{DeTable, DeValue};

use super::{
    Agent, LabelGroup, Mode, Policy, RequestPattern, Rule, Scope, Source, address,
    agent::{EnvMarker, ExePattern},
    command::CommandPattern,
    error::{Mistake, PolicyError, nearest},
    glob, host,
    read::{Document, Entry, Table, array, table},
    settings,
};

/// How long a hold waits when the rule does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

const TOP: &[&str] = &["version", "mode", "agent", "label", "rule"];
const AGENT: &[&str] = &["name", "exe", "env"];
const LABEL: &[&str] = &[
    "name",
    "description",
    "files",
    "opens",
    "addresses",
    "follow",
    "hosts",
    "argv",
    "calls",
    "requests",
    "except",
];
const EXCEPT: &[&str] = &["exe", "files"];
const REQUEST: &[&str] = &[
    "host", "method", "path", "query", "graphql", "grpc", "mcp", "aws", "kube",
];
const RULE: &[&str] = &[
    "name",
    "description",
    "when",
    "within",
    "then",
    "timeout",
    "on_timeout",
    "scope",
    "fallback",
    "mode",
];

/// Reads a policy, without the checks that need its tables to be compiled.
pub(super) fn read(text: &str, source: Source) -> Result<Policy, PolicyError> {
    let parsed = DeTable::parse(text).map_err(|error| {
        PolicyError::at(
            &source,
            text,
            error.span().unwrap_or(text.len()..text.len()),
            Mistake::syntax(&error),
        )
    })?;
    let document = Document {
        text,
        source: &source,
    };
    let top = Table {
        document,
        table: parsed.get_ref(),
        title: "the policy",
        span: 0..0,
    };
    top.only(&[TOP, settings::KEYS].concat())?;
    version(&top)?;
    let mode = top.word(
        "mode",
        &[("enforce", Mode::Enforce), ("observe", Mode::Observe)],
    )?;
    let agents = agents(&top)?;
    let (groups, labels) = labels(&top)?;
    let rules = rules(&top, &labels)?;
    Ok(Policy {
        text: text.to_owned(),
        mode: mode.unwrap_or(Mode::Enforce),
        agents,
        groups,
        labels,
        rules,
        clusters: super::Clusters::default(),
        settings: settings::read(&top)?,
        source,
    })
}

fn version(top: &Table<'_>) -> Result<(), PolicyError> {
    let Some(value) = top.value("version") else {
        return Err(top.missing("version", "version = 1 at its top"));
    };
    match value.get_ref() {
        DeValue::Integer(number) if number.to_string() == "1" => Ok(()),
        DeValue::Integer(number) => Err(top
            .document
            .error(value.span(), Mistake::Version(number.to_string()))),
        _ => Err(super::read::wrong_type(
            &top.document,
            "version",
            value,
            "version = 1",
        )),
    }
}

/// Names seen so far, for the error about a second one.
struct Names<'a> {
    kind: &'static str,
    document: Document<'a>,
    first: HashMap<String, usize>,
}

impl<'a> Names<'a> {
    fn new(kind: &'static str, document: Document<'a>) -> Self {
        Self {
            kind,
            document,
            first: HashMap::new(),
        }
    }

    fn add(&mut self, name: &Entry) -> Result<(), PolicyError> {
        let line = self.document.line(name.span.start);
        match self.first.insert(name.text.clone(), line) {
            None => Ok(()),
            Some(first) => Err(self.document.error(
                name.span.clone(),
                Mistake::Duplicate {
                    kind: self.kind,
                    name: name.text.clone(),
                    first,
                },
            )),
        }
    }
}

fn name(table: &Table<'_>, spaces: bool) -> Result<Entry, PolicyError> {
    let name = table.required("name", "name = \"…\"")?;
    let good =
        |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.') || (spaces && c == ' ');
    if name.text.is_empty() || !name.text.chars().all(good) || name.text.trim() != name.text {
        return Err(table.document.error(name.span, Mistake::BadName(name.text)));
    }
    Ok(name)
}

fn empty(
    table: &Table<'_>,
    span: Range<usize>,
    what: String,
    expected: &'static str,
) -> PolicyError {
    table
        .document
        .error(span, Mistake::Empty { what, expected })
}

fn agents(top: &Table<'_>) -> Result<Vec<Agent>, PolicyError> {
    let mut names = Names::new("agent", top.document);
    let mut agents = Vec::new();
    for table in top.tables("agent", "[[agent]]")? {
        table.only(AGENT)?;
        let name = name(&table, true)?;
        names.add(&name)?;
        let at = |entry: &Entry, mistake| table.document.error(entry.span.clone(), mistake);
        let mut exe = Vec::new();
        for entry in table.strings("exe")? {
            exe.push(ExePattern::parse(&entry.text).map_err(|mistake| at(&entry, mistake))?);
        }
        let mut env = Vec::new();
        for entry in table.strings("env")? {
            env.push(EnvMarker::parse(&entry.text).map_err(|mistake| at(&entry, mistake))?);
        }
        if exe.is_empty() && env.is_empty() {
            let what = format!("agent \"{}\"", name.text);
            return Err(empty(
                &table,
                name.span,
                what,
                "exe = […] or env = […], by which it is recognised",
            ));
        }
        agents.push(Agent {
            name: name.text,
            exe,
            env,
        });
    }
    Ok(agents)
}

fn labels(top: &Table<'_>) -> Result<(Vec<LabelGroup>, Vec<String>), PolicyError> {
    let mut names: Vec<String> = Vec::new();
    let mut groups: Vec<LabelGroup> = Vec::new();
    let tables = top.tables("label", "[[label]]")?;
    let mut excepting = 0;
    for table in &tables {
        table.only(LABEL)?;
        let name = name(table, false)?;
        let too_many = |what: &str, count, most, hint| {
            let mistake = Mistake::TooMany {
                what: what.into(),
                count,
                most,
                hint,
            };
            Err(table.document.error(name.span.clone(), mistake))
        };
        if !names.contains(&name.text) {
            names.push(name.text.clone());
            if names.len() > MAX_LABELS {
                let all: std::collections::HashSet<_> = tables
                    .iter()
                    .filter_map(|t| t.string("name").ok().flatten())
                    .map(|n| n.text)
                    .collect();
                return too_many(
                    "labels",
                    all.len(),
                    MAX_LABELS,
                    "; several [[label]] tables may share a name",
                );
            }
        }
        let except = except(table)?;
        let group = if except.0.is_empty() {
            None
        } else {
            excepting += 1;
            if excepting > MAX_GROUPS {
                return too_many(
                    "labels with except.exe",
                    excepting,
                    MAX_GROUPS,
                    "; join some of them",
                );
            }
            Some(excepting as u8 - 1)
        };
        let mut group = LabelGroup {
            name: name.text,
            description: table.string("description")?.map(|entry| entry.text),
            files: globs(table, "files")?,
            written: written(table)?,
            addresses: Vec::new(),
            sockets: Vec::new(),
            follow: false,
            hosts: Vec::new(),
            argv: Vec::new(),
            calls: Vec::new(),
            requests: requests(table)?,
            except_exe: except.0,
            except_files: except.1,
            group,
        };
        for entry in table.strings("addresses")? {
            if let Some(path) = entry.text.strip_prefix("unix:") {
                group.sockets.push(socket(table, &entry, path)?);
                continue;
            }
            let address = address::parse(&entry.text);
            group
                .addresses
                .push(address.map_err(|mistake| table.document.error(entry.span, mistake))?);
        }
        for entry in table.strings("hosts")? {
            let host = host::parse(&entry.text);
            group
                .hosts
                .push(host.map_err(|mistake| table.document.error(entry.span, mistake))?);
        }
        if let Some(follow) = table.boolean("follow")? {
            if follow.is && group.sockets.is_empty() {
                let mistake = Mistake::FollowsNobody(group.name);
                return Err(table.document.error(follow.span, mistake));
            }
            group.follow = follow.is;
        }
        for entry in table.strings("argv")? {
            let patterns = CommandPattern::parse(&entry.text);
            group
                .argv
                .extend(patterns.map_err(|mistake| table.document.error(entry.span, mistake))?);
        }
        for entry in table.strings("calls")? {
            let Some(act) = act::NAMES.iter().position(|name| *name == entry.text) else {
                let mistake = Mistake::UnknownCall {
                    near: nearest(&entry.text, act::NAMES),
                    text: entry.text,
                };
                return Err(table.document.error(entry.span, mistake));
            };
            group.calls.push(act as u32);
        }
        let nothing = group.files.is_empty()
            && group.addresses.is_empty()
            && group.sockets.is_empty()
            && group.hosts.is_empty()
            && group.argv.is_empty()
            && group.calls.is_empty()
            && group.requests.is_empty();
        if nothing {
            let what = format!("label \"{}\"", group.name);
            let expected = "at least one of files, addresses, hosts, argv, calls, requests";
            return Err(empty(table, name.span, what, expected));
        }
        let differs =
            |other: &LabelGroup| other.name == group.name && other.written != group.written;
        if groups.iter().any(differs) {
            let mistake = Mistake::OpensDiffer(group.name);
            return Err(table.document.error(name.span, mistake));
        }
        groups.push(group);
    }
    Ok((groups, names))
}

/// Whether only opens that write count.
fn written(table: &Table<'_>) -> Result<bool, PolicyError> {
    let Some(entry) = table.string("opens")? else {
        return Ok(false);
    };
    match &*entry.text {
        "any" => Ok(false),
        "write" => Ok(true),
        _ => Err(table.document.error(entry.span, Mistake::Opens(entry.text))),
    }
}

/// A file or program pattern that has been read, with where it stands.
fn globs(table: &Table<'_>, key: &'static str) -> Result<Vec<super::Glob>, PolicyError> {
    let mut globs = Vec::new();
    for entry in table.strings(key)? {
        match glob::parse(&entry.text) {
            Ok(paths) => globs.push(super::Glob {
                text: entry.text,
                span: entry.span,
                paths,
            }),
            Err(mistake) => return Err(table.document.error(entry.span, mistake)),
        }
    }
    Ok(globs)
}

/// A socket in the file system; abstract ones have no file that the kernel could recognise.
fn socket(table: &Table<'_>, entry: &Entry, path: &str) -> Result<super::Glob, PolicyError> {
    let mistake = if path.starts_with('@') {
        let reason =
            "an abstract socket has no file: expected a path, like unix:/run/docker.sock".into();
        Mistake::BadAddress {
            text: entry.text.clone(),
            reason,
        }
    } else {
        match glob::parse(path) {
            Ok(paths) => {
                return Ok(super::Glob {
                    text: path.into(),
                    span: entry.span.clone(),
                    paths,
                });
            }
            Err(mistake) => mistake,
        }
    };
    Err(table.document.error(entry.span.clone(), mistake))
}

fn except(label: &Table<'_>) -> Result<(Vec<super::Glob>, Vec<super::Glob>), PolicyError> {
    let Some(value) = label.value("except") else {
        return Ok(Default::default());
    };
    let expected = "a table like { exe = [\"ssh\"], files = [\"**/.env.example\"] }";
    let except = table(label.document, "except", "except", value, expected)?;
    except.only(EXCEPT)?;
    let (exe, files) = (globs(&except, "exe")?, globs(&except, "files")?);
    if exe.is_empty() && files.is_empty() {
        return Err(empty(
            label,
            value.span(),
            "except".into(),
            "exe = […] or files = […]",
        ));
    }
    Ok((exe, files))
}

fn requests(label: &Table<'_>) -> Result<Vec<RequestPattern>, PolicyError> {
    let mut requests = Vec::new();
    for table in label.tables("requests", "a request")? {
        table.only(REQUEST)?;
        let mut request = RequestPattern::default();
        for key in REQUEST {
            let list = matches!(*key, "host" | "method" | "mcp")
                && matches!(
                    table.value(key).map(|value| value.get_ref()),
                    Some(DeValue::Array(_))
                );
            let entries: Vec<Entry> = if list {
                table.strings(key)?
            } else {
                table.string(key)?.into_iter().collect()
            };
            let Some(first) = entries.first() else {
                continue;
            };
            let span = first.span.clone();
            let values: Vec<String> = entries.into_iter().map(|entry| entry.text).collect();
            request
                .set(key, &values)
                .map_err(|mistake| table.document.error(span, mistake))?;
        }
        if request == RequestPattern::default() {
            let expected =
                "at least one of host, method, path, query, graphql, grpc, mcp, aws, kube";
            return Err(empty(
                label,
                table.span.clone(),
                "a request".into(),
                expected,
            ));
        }
        requests.push(request);
    }
    Ok(requests)
}

fn rules(top: &Table<'_>, labels: &[String]) -> Result<Vec<Rule>, PolicyError> {
    let mut names = Names::new("rule", top.document);
    let mut rules = Vec::new();
    let tables = top.tables("rule", "[[rule]]")?;
    for table in &tables {
        table.only(RULE)?;
        let name = name(table, true)?;
        names.add(&name)?;
        if rules.len() == MAX_RULES {
            let mistake = Mistake::TooMany {
                what: "rules".into(),
                count: tables.len(),
                most: MAX_RULES,
                hint: "",
            };
            return Err(table.document.error(name.span, mistake));
        }
        let when = steps(table, &name.text, labels)?;
        let then = table.word(
            "then",
            &[
                ("flag", Verdict::Flag),
                ("hold", Verdict::Hold),
                ("deny", Verdict::Deny),
                ("kill", Verdict::Kill),
            ],
        )?;
        let then = then.ok_or_else(|| {
            table.missing("then", "then = \"flag\", \"hold\", \"deny\" or \"kill\"")
        })?;
        let on_timeout = table.word(
            "on_timeout",
            &[
                ("deny", Verdict::Deny),
                ("kill", Verdict::Kill),
                ("resume", Verdict::Allow),
            ],
        )?;
        let scope = table.word(
            "scope",
            &[("process", Scope::Process), ("session", Scope::Session)],
        )?;
        let fallback = table.word(
            "fallback",
            &[
                ("kill", Verdict::Kill),
                ("hold", Verdict::Hold),
                ("flag", Verdict::Flag),
            ],
        )?;
        rules.push(Rule {
            description: table.string("description")?.map(|entry| entry.text),
            when,
            within: table.duration("within")?,
            then,
            timeout: table.duration("timeout")?.unwrap_or(DEFAULT_TIMEOUT),
            on_timeout: on_timeout.unwrap_or(Verdict::Deny),
            scope: scope.unwrap_or(Scope::Process),
            fallback: fallback.unwrap_or(Verdict::Kill),
            observe: table.word("mode", &[("observe", ())])?.is_some(),
            name: name.text,
        });
    }
    Ok(rules)
}

fn steps(table: &Table<'_>, rule: &str, labels: &[String]) -> Result<Vec<String>, PolicyError> {
    let expected = "when = [\"label\", …], the labels in order";
    let value = table
        .value("when")
        .ok_or_else(|| table.missing("when", expected))?;
    array(
        &table.document,
        "when",
        value,
        "a list of labels, like [\"credential\", \"infra\"]",
    )?;
    let steps = table.strings("when")?;
    if steps.is_empty() {
        let what = format!("when of rule \"{rule}\"");
        return Err(empty(
            table,
            value.span(),
            what,
            "at least one label; the last is the trigger",
        ));
    }
    if steps.len() > MAX_STEPS {
        let what = format!("steps in rule \"{rule}\"");
        let mistake = Mistake::TooMany {
            what,
            count: steps.len(),
            most: MAX_STEPS,
            hint: "",
        };
        return Err(table.document.error(steps[MAX_STEPS].span.clone(), mistake));
    }
    for step in &steps {
        if !labels.contains(&step.text) {
            let mistake = Mistake::UnknownLabel {
                label: step.text.clone(),
                rule: rule.to_owned(),
                near: nearest(&step.text, labels.iter().map(String::as_str)),
            };
            return Err(table.document.error(step.span.clone(), mistake));
        }
    }
    Ok(steps.into_iter().map(|step| step.text).collect())
}
