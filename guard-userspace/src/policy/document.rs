//! From TOML to a [`Policy`]: which keys there are, what they mean by default, and what is refused.

use std::{collections::HashMap, ops::Range, time::Duration};

use guard_common::{MAX_GROUPS, MAX_LABELS, MAX_RULES, MAX_STEPS, MAX_UNLESS, Verdict, state::act};
use toml::de::{DeTable, DeValue};

use super::{
    Agent, LabelGroup, Mode, Part, Persona, Policy, RequestPattern, Rule, Scope, Severity, Unless,
    address,
    agent::{EnvMarker, ExePattern},
    command::CommandPattern,
    error::{Mistake, PolicyError, nearest},
    glob, host,
    labels::BY_GUARD,
    persona::Directory,
    read::{Document, Entry, Table, array, string, table},
    settings,
    spared::{self, SparedHost},
};
use crate::secrets;

/// How long a hold waits when the rule does not say.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// Keys at the top of a file.
pub(super) const TOP: &[&str] = &[
    "version", "mode", "agent", "persona", "label", "template", "rule",
];
/// Keys of `[[persona]]`.
pub(super) const PERSONA: &[&str] = &["name", "description", "agents", "directories", "allows"];
/// Keys of `[[agent]]`.
pub(super) const AGENT: &[&str] = &["name", "exe", "env"];
/// Keys of `[[label]]`.
pub(super) const LABEL: &[&str] = &[
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
    "sealed",
];
/// Keys of `except`.
pub(super) const EXCEPT: &[&str] = &["exe", "files", "hosts", "addresses", "resolvers"];
/// Keys of one of `requests`.
pub(super) const REQUEST: &[&str] = &[
    "host", "method", "path", "query", "graphql", "grpc", "mcp", "aws", "kube",
];
/// Keys of `[[rule]]`.
pub(super) const RULE: &[&str] = &[
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
    "replace",
    "severity",
    "template",
];
/// Keys of `[[template]]`: what rules that name it have where they do not say it themselves.
pub(super) const TEMPLATE: &[&str] = &[
    "name",
    "description",
    "within",
    "then",
    "timeout",
    "on_timeout",
    "scope",
    "fallback",
    "mode",
    "severity",
];
/// Keys of a step of `when` that is a table.
pub(super) const STEP: &[&str] = &["label", "count", "not", "within"];

/// Reads a policy from its files, the first of which is the main one, without the checks that need its tables to be
/// compiled.
pub(super) fn read(parts: &[Part]) -> Result<Policy, PolicyError> {
    let parsed = parts
        .iter()
        .map(parse)
        .collect::<Result<Vec<_>, PolicyError>>()?;
    let tops: Vec<Table<'_>> = parts
        .iter()
        .zip(&parsed)
        .enumerate()
        .map(|(file, (part, parsed))| top(part, file, parsed))
        .collect();
    let mut mode = None;
    for (index, top) in tops.iter().enumerate() {
        top.only(&[TOP, settings::KEYS].concat())?;
        version(top, index == 0)?;
        // The last file that says so decides.
        mode = top
            .word(
                "mode",
                &[("enforce", Mode::Enforce), ("observe", Mode::Observe)],
            )?
            .or(mode);
    }
    let agents = agents(&tops)?;
    let (groups, mut labels) = labels(&tops, LABEL)?;
    let by_guard: Vec<String> = BY_GUARD
        .iter()
        .map(|name| (*name).to_owned())
        .chain(secrets::all_labels())
        .collect();
    let known = [labels.clone(), by_guard.clone()].concat();
    let mut rules = rules(&tops, RULE, &known)?;
    for name in by_guard {
        let named = rules.iter().any(|rule| rule.names(&name));
        if named && !labels.contains(&name) {
            labels.push(name);
        }
    }
    seal(&tops, &groups, &mut rules)?;
    Ok(Policy {
        parts: parts.to_vec(),
        mode: mode.unwrap_or(Mode::Enforce),
        agents,
        personas: personas(&tops, &labels)?,
        groups,
        labels,
        rules,
        clusters: super::Clusters::default(),
        settings: settings::read(&tops)?,
    })
}

/// One file as TOML.
pub(super) fn parse(part: &Part) -> Result<toml::Spanned<DeTable<'_>>, PolicyError> {
    DeTable::parse(&part.text).map_err(|error| {
        let end = part.text.len();
        PolicyError::at(
            &part.source,
            &part.text,
            error.span().unwrap_or(end..end),
            Mistake::syntax(&error),
        )
    })
}

/// Its outermost table.
pub(super) fn top<'a>(
    part: &'a Part,
    file: usize,
    parsed: &'a toml::Spanned<DeTable<'a>>,
) -> Table<'a> {
    Table {
        document: Document {
            text: &part.text,
            source: &part.source,
            file,
        },
        table: parsed.get_ref(),
        title: "the policy",
        span: 0..0,
    }
}

/// Only the first file of several must say it.
pub(super) fn version(top: &Table<'_>, required: bool) -> Result<(), PolicyError> {
    let Some(value) = top.value("version") else {
        if !required {
            return Ok(());
        }
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
    hint: &'static str,
    first: HashMap<String, (Document<'a>, Range<usize>)>,
}

impl<'a> Names<'a> {
    fn new(kind: &'static str, hint: &'static str) -> Self {
        Self {
            kind,
            hint,
            first: HashMap::new(),
        }
    }

    /// Adds one that must be new.
    fn add(&mut self, document: Document<'a>, name: &Entry) -> Result<(), PolicyError> {
        let new = (document, name.span.clone());
        let Some((other, span)) = self.first.insert(name.text.clone(), new) else {
            return Ok(());
        };
        let (first, hint) = if other.file == document.file {
            (format!("line {}", document.line(span.start)), "")
        } else {
            let place = super::Place::new(other.source, other.text, span);
            (place.to_string(), self.hint)
        };
        Err(document.error(
            name.span.clone(),
            Mistake::Duplicate {
                kind: self.kind,
                name: name.text.clone(),
                first,
                hint,
            },
        ))
    }

    /// Adds one that takes the place of an earlier file's.
    fn replace(&mut self, document: Document<'a>, name: &Entry) -> Result<(), PolicyError> {
        match self.first.get(&name.text) {
            Some((other, _)) if other.file < document.file => {
                let new = (document, name.span.clone());
                self.first.insert(name.text.clone(), new);
                Ok(())
            }
            Some(_) => self.add(document, name),
            None => {
                let known = self.first.keys().map(String::as_str);
                let mistake = Mistake::ReplacesNothing {
                    near: nearest(&name.text, known),
                    name: name.text.clone(),
                };
                Err(document.error(name.span.clone(), mistake))
            }
        }
    }
}

pub(super) fn name(table: &Table<'_>, spaces: bool) -> Result<Entry, PolicyError> {
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

/// The tables of this name in every file, in order.
pub(super) fn tables_of<'a>(
    tops: &[Table<'a>],
    key: &'static str,
    title: &'static str,
) -> Result<Vec<Table<'a>>, PolicyError> {
    let mut all = Vec::new();
    for top in tops {
        all.extend(top.tables(key, title)?);
    }
    Ok(all)
}

fn agents(tops: &[Table<'_>]) -> Result<Vec<Agent>, PolicyError> {
    let mut names = Names::new("agent", "");
    let mut agents = Vec::new();
    for table in tables_of(tops, "agent", "[[agent]]")? {
        table.only(AGENT)?;
        let name = name(&table, true)?;
        names.add(table.document, &name)?;
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

/// The personas of all files.
fn personas(tops: &[Table<'_>], labels: &[String]) -> Result<Vec<Persona>, PolicyError> {
    let mut names = Names::new("persona", "");
    let mut personas = Vec::new();
    for table in tables_of(tops, "persona", "[[persona]]")? {
        table.only(PERSONA)?;
        let name = name(&table, false)?;
        names.add(table.document, &name)?;
        if table.value("allows").is_none() {
            return Err(table.missing("allows", "allows = [\"label\", …]; [] for none"));
        }
        let mut allows = Vec::new();
        for entry in table.strings("allows")? {
            if !labels.contains(&entry.text) {
                let mistake = Mistake::UnknownLabel {
                    label: entry.text.clone(),
                    rule: name.text.clone(),
                    near: nearest(&entry.text, labels.iter().map(String::as_str)),
                };
                return Err(table.document.error(entry.span, mistake));
            }
            allows.push(entry.text);
        }
        let mut directories = Vec::new();
        for entry in table.strings("directories")? {
            let directory = Directory::parse(&entry.text);
            directories
                .push(directory.map_err(|mistake| table.document.error(entry.span, mistake))?);
        }
        personas.push(Persona {
            name: name.text,
            description: table.string("description")?.map(|entry| entry.text),
            agents: table
                .strings("agents")?
                .into_iter()
                .map(|entry| entry.text)
                .collect(),
            directories,
            allows,
        });
    }
    Ok(personas)
}

/// The labels of all files, of which a table may have the keys `known`.
pub(super) fn labels(
    tops: &[Table<'_>],
    known: &[&'static str],
) -> Result<(Vec<LabelGroup>, Vec<String>), PolicyError> {
    let mut names: Vec<String> = Vec::new();
    let mut groups: Vec<LabelGroup> = Vec::new();
    let tables = tables_of(tops, "label", "[[label]]")?;
    let mut excepting = 0;
    for table in &tables {
        table.only(known)?;
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
        let group = if except.exe.is_empty() {
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
            except_exe: except.exe,
            except_files: except.files,
            except_addresses: except.addresses,
            except_hosts: except.hosts,
            resolvers: except.resolvers,
            group,
            user: None,
            sealed: table.boolean("sealed")?.is_some_and(|flag| flag.is),
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
            if entry.text == spared::ANY {
                group.hosts.push(super::HostPattern::Any);
                continue;
            }
            let host = host::parse(&entry.text);
            group
                .hosts
                .push(host.map_err(|mistake| table.document.error(entry.span, mistake))?);
        }
        if let Err((key, mistake)) = spared::check(&group) {
            let at = |table: &Table<'_>, key| Some(table.value(key)?.span());
            let span = at(table, key).unwrap_or_else(|| name.span.clone());
            return Err(table.document.error(span, mistake));
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
                file: table.document.file,
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
                    file: table.document.file,
                    paths,
                });
            }
            Err(mistake) => mistake,
        }
    };
    Err(table.document.error(entry.span.clone(), mistake))
}

/// What an `except` says.
#[derive(Default)]
struct Except {
    exe: Vec<super::Glob>,
    files: Vec<super::Glob>,
    hosts: Vec<SparedHost>,
    addresses: Vec<super::Address>,
    resolvers: Vec<std::net::IpAddr>,
}

fn except(label: &Table<'_>) -> Result<Except, PolicyError> {
    let Some(value) = label.value("except") else {
        return Ok(Except::default());
    };
    let expected = "a table like { exe = [\"ssh\"], files = [\"**/.env.example\"] }";
    let except = table(label.document, "except", "except", value, expected)?;
    except.only(EXCEPT)?;
    let mut read = Except {
        exe: globs(&except, "exe")?,
        files: globs(&except, "files")?,
        ..Except::default()
    };
    let error = |entry: &Entry, mistake| Err(except.document.error(entry.span.clone(), mistake));
    for entry in except.strings("hosts")? {
        match spared::host(&entry.text) {
            Ok(host) => read.hosts.push(host),
            Err(mistake) => return error(&entry, mistake),
        }
    }
    for entry in except.strings("addresses")? {
        match address::parse(&entry.text) {
            Ok(address) => read.addresses.push(address),
            Err(mistake) => return error(&entry, mistake),
        }
    }
    for entry in except.strings("resolvers")? {
        match spared::resolver(&entry.text) {
            Ok(addr) => read.resolvers.push(addr),
            Err(mistake) => return error(&entry, mistake),
        }
    }
    let nothing = read.exe.is_empty()
        && read.files.is_empty()
        && read.hosts.is_empty()
        && read.addresses.is_empty();
    if nothing {
        return Err(empty(
            label,
            value.span(),
            "except".into(),
            "exe = […], files = […], hosts = […] or addresses = […]",
        ));
    }
    Ok(read)
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

/// The rules of all files, of which a table may have the keys `known`, over these labels.
pub(super) fn rules(
    tops: &[Table<'_>],
    known: &[&'static str],
    labels: &[String],
) -> Result<Vec<Rule>, PolicyError> {
    let hint = "; or replace = true, to take its place";
    let mut names = Names::new("rule", hint);
    let mut rules: Vec<Rule> = Vec::new();
    let templates = templates(tops)?;
    let tables = tables_of(tops, "rule", "[[rule]]")?;
    for table in &tables {
        table.only(known)?;
        let name = name(table, true)?;
        let replaces = table.boolean("replace")?.is_some_and(|flag| flag.is);
        if replaces {
            names.replace(table.document, &name)?;
        } else {
            names.add(table.document, &name)?;
        }
        if rules.len() == MAX_RULES && !replaces {
            let mistake = Mistake::TooMany {
                what: "rules".into(),
                count: tables.len(),
                most: MAX_RULES,
                hint: "",
            };
            return Err(table.document.error(name.span, mistake));
        }
        let template = match table.string("template")? {
            Some(entry) => Some(template(table, &entry, &templates)?),
            None => None,
        };
        let or = Or {
            own: table,
            template,
        };
        let Steps { when, unless } = steps(table, &name.text, labels)?;
        let then = or.word("then", THEN)?.ok_or_else(|| no_verdict(table))?;
        let rule = Rule {
            description: table.string("description")?.map(|entry| entry.text),
            when,
            unless,
            within: or.duration("within")?,
            then,
            timeout: or.duration("timeout")?.unwrap_or(DEFAULT_TIMEOUT),
            on_timeout: or.word("on_timeout", ON_TIMEOUT)?.unwrap_or(Verdict::Deny),
            scope: or.word("scope", SCOPE)?.unwrap_or(Scope::Process),
            fallback: or.word("fallback", FALLBACK)?.unwrap_or(Verdict::Kill),
            observe: or.word("mode", OBSERVE)?.is_some(),
            severity: or.word("severity", Severity::WORDS)?,
            name: name.text,
            user: None,
        };
        match rules.iter_mut().find(|other| other.name == rule.name) {
            Some(other) => *other = rule,
            None => rules.push(rule),
        }
    }
    Ok(rules)
}

/// A label that is sealed has a rule of its own, which a lease alone lifts: rules are what leases are about, and what the
/// kernel enforces by itself.
fn seal(
    tops: &[Table<'_>],
    groups: &[LabelGroup],
    rules: &mut Vec<Rule>,
) -> Result<(), PolicyError> {
    for group in groups.iter().filter(|group| group.sealed) {
        let name = format!("sealed:{}", group.name);
        if rules.iter().any(|rule| rule.name == name) {
            continue;
        }
        rules.push(Rule {
            description: Some("a sealed label, for which the session has no lease".into()),
            when: vec![group.name.clone()],
            within: None,
            then: Verdict::Deny,
            timeout: DEFAULT_TIMEOUT,
            on_timeout: Verdict::Deny,
            scope: Scope::Process,
            fallback: Verdict::Kill,
            observe: false,
            unless: Vec::new(),
            severity: None,
            name,
            user: None,
        });
    }
    if rules.len() > MAX_RULES
        && let Some(top) = tops.first()
    {
        let mistake = Mistake::TooMany {
            what: "rules, with one for each sealed label,".into(),
            count: rules.len(),
            most: MAX_RULES,
            hint: "",
        };
        return Err(top.document.error(0..0, mistake));
    }
    Ok(())
}

/// What may stand for `on_timeout`.
pub(super) const ON_TIMEOUT: &[(&str, Verdict)] = &[
    ("deny", Verdict::Deny),
    ("kill", Verdict::Kill),
    ("resume", Verdict::Allow),
];

/// What may stand for `then`.
pub(super) const THEN: &[(&str, Verdict)] = &[
    ("flag", Verdict::Flag),
    ("hold", Verdict::Hold),
    ("deny", Verdict::Deny),
    ("kill", Verdict::Kill),
];

/// What may stand for `scope`.
const SCOPE: &[(&str, Scope)] = &[("process", Scope::Process), ("session", Scope::Session)];
/// What may stand for `fallback`.
const FALLBACK: &[(&str, Verdict)] = &[
    ("kill", Verdict::Kill),
    ("hold", Verdict::Hold),
    ("flag", Verdict::Flag),
];
/// What may stand for `mode` of a rule.
const OBSERVE: &[(&str, ())] = &[("observe", ())];

/// A rule's table, and that of its template for what it does not say.
struct Or<'a> {
    own: &'a Table<'a>,
    template: Option<&'a Table<'a>>,
}

impl Or<'_> {
    fn word<T: Copy>(
        &self,
        key: &'static str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, PolicyError> {
        match (self.own.word(key, words)?, self.template) {
            (None, Some(template)) => template.word(key, words),
            (own, _) => Ok(own),
        }
    }

    fn duration(&self, key: &'static str) -> Result<Option<Duration>, PolicyError> {
        match (self.own.duration(key)?, self.template) {
            (None, Some(template)) => template.duration(key),
            (own, _) => Ok(own),
        }
    }
}

/// The templates of all files, by name. What is in one is read where it is used, and here once, so that a mistake in one that nobody
/// uses is found too.
fn templates<'a>(tops: &[Table<'a>]) -> Result<Vec<(Entry, Table<'a>)>, PolicyError> {
    let mut names = Names::new("template", "");
    let mut templates = Vec::new();
    for table in tables_of(tops, "template", "[[template]]")? {
        table.only(TEMPLATE)?;
        let name = name(&table, true)?;
        names.add(table.document, &name)?;
        let or = Or {
            own: &table,
            template: None,
        };
        or.word("then", THEN)?;
        or.word("on_timeout", ON_TIMEOUT)?;
        or.word("scope", SCOPE)?;
        or.word("fallback", FALLBACK)?;
        or.word("mode", OBSERVE)?;
        or.word("severity", Severity::WORDS)?;
        or.duration("within")?;
        or.duration("timeout")?;
        templates.push((name, table));
    }
    Ok(templates)
}

fn template<'a>(
    rule: &Table<'_>,
    name: &Entry,
    templates: &'a [(Entry, Table<'a>)],
) -> Result<&'a Table<'a>, PolicyError> {
    let known = || templates.iter().map(|(known, _)| known.text.as_str());
    let found = templates.iter().find(|(known, _)| known.text == name.text);
    found.map(|(_, table)| table).ok_or_else(|| {
        let mistake = Mistake::UnknownTemplate {
            near: nearest(&name.text, known()),
            name: name.text.clone(),
        };
        rule.document.error(name.span.clone(), mistake)
    })
}

fn no_verdict(table: &Table<'_>) -> PolicyError {
    table.missing("then", "then = \"flag\", \"hold\", \"deny\" or \"kill\"")
}

/// The verdict of a rule, which must be there.
pub(super) fn then(table: &Table<'_>) -> Result<Verdict, PolicyError> {
    table.word("then", THEN)?.ok_or_else(|| no_verdict(table))
}

/// What `when` says.
struct Steps {
    when: Vec<String>,
    unless: Vec<Unless>,
}

fn steps(table: &Table<'_>, rule: &str, labels: &[String]) -> Result<Steps, PolicyError> {
    let expected = "when = [\"label\", …], the labels in order";
    let value = table
        .value("when")
        .ok_or_else(|| table.missing("when", expected))?;
    let list = "a list of labels, like [\"credential\", \"infra\"]";
    let items = array(&table.document, "when", value, list)?;
    let error = |span: Range<usize>, mistake| Err(table.document.error(span, mistake));
    let mut steps: Vec<Entry> = Vec::new();
    let mut unless: Vec<(Entry, Unless)> = Vec::new();
    let mut last_is_not = None;
    for item in items {
        last_is_not = None;
        let DeValue::Table(_) = item.get_ref() else {
            let step = string(&table.document, "when", item)?;
            steps.push(step);
            continue;
        };
        let expected = "a label, { label = \"…\", count = 3 } or { not = \"…\", within = \"1h\" }";
        let step = super::read::table(table.document, "when", "a step of when", item, expected)?;
        step.only(STEP)?;
        match (step.string("label")?, step.string("not")?) {
            (Some(label), None) => {
                if let Some(within) = step.value("within") {
                    let mistake = Mistake::BadStep("within stands with not, or for the whole rule");
                    return error(within.span(), mistake);
                }
                let count = step.number("count", 1, MAX_STEPS as u64)?.unwrap_or(1);
                for _ in 0..count {
                    steps.push(label.clone());
                }
            }
            (None, Some(not)) => {
                if let Some(count) = step.value("count") {
                    return error(count.span(), Mistake::BadStep("count stands with label"));
                }
                let entry = Unless {
                    label: not.text.clone(),
                    within: step.duration("within")?,
                };
                last_is_not = Some(not.span.clone());
                unless.push((not, entry));
            }
            _ => {
                let mistake = Mistake::BadStep("it has either label or not");
                return error(item.span(), mistake);
            }
        }
    }
    if steps.is_empty() {
        let what = format!("when of rule \"{rule}\"");
        return Err(empty(
            table,
            value.span(),
            what,
            "at least one label; the last is the trigger",
        ));
    }
    if let Some(span) = last_is_not {
        let mistake = Mistake::BadStep("the last is the trigger, which is a label that is touched");
        return error(span, mistake);
    }
    let too_many = |what: String, count, most, hint| Mistake::TooMany {
        what,
        count,
        most,
        hint,
    };
    if steps.len() > MAX_STEPS {
        let mistake = too_many(
            format!("steps in rule \"{rule}\""),
            steps.len(),
            MAX_STEPS,
            "; one with a count is so many",
        );
        return error(steps[MAX_STEPS].span.clone(), mistake);
    }
    if let Some((entry, _)) = unless.get(MAX_UNLESS) {
        let what = format!("labels with not in rule \"{rule}\"");
        return error(
            entry.span.clone(),
            too_many(what, unless.len(), MAX_UNLESS, ""),
        );
    }
    for step in steps.iter().chain(unless.iter().map(|(entry, _)| entry)) {
        if !labels.contains(&step.text) {
            let mistake = Mistake::UnknownLabel {
                label: step.text.clone(),
                rule: rule.to_owned(),
                near: nearest(&step.text, labels.iter().map(String::as_str)),
            };
            return error(step.span.clone(), mistake);
        }
    }
    Ok(Steps {
        when: steps.into_iter().map(|step| step.text).collect(),
        unless: unless.into_iter().map(|(_, unless)| unless).collect(),
    })
}
