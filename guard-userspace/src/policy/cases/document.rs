//! From TOML to [`Cases`].

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use guard_common::{Verdict, rule::ANY_USER, state::act};
use serde_json::json;
use toml::de::DeTable;

use super::{Case, Cases, Expected, HOME, NOWHERE, Step};
use crate::{
    http::{self, KnownQueries},
    policy::{
        Part, Policy, PolicyError,
        document::{parse, top},
        error::{Mistake, nearest},
        judge::Act,
        read::{Entry, Table},
    },
};

const TOP: &[&str] = &["policy", "case"];
const CASE: &[&str] = &["name", "user", "home", "exe", "events"];
const EVENT: &[&str] = &[
    "open", "connect", "exec", "call", "request", "touch", "write", "addr", "exe", "after",
    "verdict", "would", "rule", "labels",
];
/// Of these an event has one.
const ACTS: &[&str] = &["open", "connect", "exec", "call", "request", "touch"];
const REQUEST: &[&str] = &["host", "method", "path", "headers", "body", "graphql"];

const VERDICTS: &[(&str, Verdict)] = &[
    ("allow", Verdict::Allow),
    ("flag", Verdict::Flag),
    ("hold", Verdict::Hold),
    ("deny", Verdict::Deny),
    ("kill", Verdict::Kill),
];

/// Reads a file of cases.
pub(super) fn read(part: &Part) -> Result<Cases, PolicyError> {
    let parsed = parse(part)?;
    let top = Table {
        title: "the file",
        ..top(part, 0, &parsed)
    };
    top.only(TOP)?;
    let policy = top.string("policy")?.map(|entry| entry.text.into());
    let cases = top
        .tables("case", "[[case]]")?
        .iter()
        .map(case)
        .collect::<Result<Vec<_>, PolicyError>>()?;
    if cases.is_empty() {
        return Err(top.missing("case", "a [[case]] with a name and events"));
    }
    Ok(Cases { policy, cases })
}

fn case(table: &Table<'_>) -> Result<Case, PolicyError> {
    table.only(CASE)?;
    let name = table.required("name", "a name for people")?.text;
    let uid = match table.value("user").map(|user| (user, user.get_ref())) {
        None => ANY_USER,
        Some((user, toml::de::DeValue::Integer(number))) => {
            let number = u32::from_str_radix(number.as_str(), number.radix());
            number.map_err(|_| {
                bad(
                    table,
                    user.span(),
                    "user",
                    "expected a user's number, like 1000",
                )
            })?
        }
        Some((user, _)) => {
            return Err(bad(
                table,
                user.span(),
                "user",
                "expected a user's number, like 1000",
            ));
        }
    };
    let home = match table.string("home")? {
        None => HOME.into(),
        Some(entry) if entry.text.starts_with('/') => PathBuf::from(entry.text),
        Some(entry) => {
            return Err(bad(
                table,
                entry.span,
                "home",
                "expected an absolute path, like /home/ada",
            ));
        }
    };
    let exe = table.string("exe")?.map(|entry| PathBuf::from(entry.text));
    let events = table
        .tables("events", "an event")?
        .iter()
        .map(|event| step(event, &home, exe.as_deref()))
        .collect::<Result<Vec<_>, PolicyError>>()?;
    if events.is_empty() {
        return Err(table.missing(
            "events",
            "a list of what happens, like [{ open = \"~/.aws/credentials\" }]",
        ));
    }
    // A test that cannot fail says nothing.
    if events
        .iter()
        .all(|event| event.expected == Expected::default())
    {
        return Err(bad(
            table,
            table.span.clone(),
            "nothing is expected of this case",
            "expected a verdict, would, rule or labels in one of its events",
        ));
    }
    Ok(Case {
        name,
        uid,
        home,
        events,
    })
}

fn step(table: &Table<'_>, home: &Path, exe: Option<&Path>) -> Result<Step, PolicyError> {
    table.only(EVENT)?;
    let mut acts = ACTS.iter().filter(|key| table.value(key).is_some());
    let key = match (acts.next(), acts.next()) {
        (Some(key), None) => *key,
        (None, _) => {
            return Err(table.missing(
                "open",
                "one of open, connect, exec, call, request and touch",
            ));
        }
        (Some(one), Some(other)) => {
            return Err(bad(
                table,
                table.span.clone(),
                &format!("an event with {one} and {other}"),
                "expected one of them, and another event for the other",
            ));
        }
    };
    for (of, only) in [("write", "open"), ("addr", "connect")] {
        if let Some(value) = table.value(of)
            && key != only
        {
            return Err(bad(
                table,
                value.span(),
                of,
                &format!("expected only beside {only}"),
            ));
        }
    }
    let (what, act) = match key {
        "open" => open(table, home)?,
        "connect" => connect(table, home)?,
        "exec" => {
            let argv: Vec<String> = table
                .strings("exec")?
                .into_iter()
                .map(|entry| entry.text)
                .collect();
            if argv.is_empty() {
                return Err(
                    table.missing("exec", "a command line, like [\"terraform\", \"destroy\"]")
                );
            }
            (format!("exec {}", argv.join(" ")), Act::Exec { argv })
        }
        "call" => call(table)?,
        "request" => request(table)?,
        _ => {
            let labels: Vec<String> = table
                .strings("touch")?
                .into_iter()
                .map(|entry| entry.text)
                .collect();
            (format!("touch {}", labels.join(", ")), Act::Touch(labels))
        }
    };
    let own = table.string("exe")?.map(|entry| PathBuf::from(entry.text));
    let labels = match table.value("labels") {
        None => None,
        Some(_) => Some(
            table
                .strings("labels")?
                .into_iter()
                .map(|entry| entry.text)
                .collect(),
        ),
    };
    Ok(Step {
        line: table.document.line(table.span.start),
        span: table.span.clone(),
        what,
        act,
        // What is started is another program.
        exe: own.or_else(|| exe.filter(|_| key != "exec").map(Path::to_owned)),
        after: table.duration("after")?.unwrap_or(Duration::from_millis(1)),
        expected: Expected {
            verdict: table.word("verdict", VERDICTS)?,
            would: table.word("would", VERDICTS)?,
            rule: table.string("rule")?.map(|entry| entry.text),
            labels,
        },
    })
}

fn open(table: &Table<'_>, home: &Path) -> Result<(String, Act), PolicyError> {
    let entry = table.required("open", "a path")?;
    let path = absolute(table, &entry, &entry.text, home)?;
    let write = table.boolean("write")?.is_some_and(|flag| flag.is);
    let what = format!(
        "open {}{}",
        path.display(),
        if write { " to write" } else { "" }
    );
    Ok((what, Act::Open { path, write }))
}

/// `~/x` in the case's home, or an absolute path.
fn absolute(
    table: &Table<'_>,
    entry: &Entry,
    text: &str,
    home: &Path,
) -> Result<PathBuf, PolicyError> {
    let path = match text.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => PathBuf::from(text),
    };
    let plain = path.is_absolute()
        && !path
            .components()
            .any(|part| matches!(part, std::path::Component::ParentDir));
    if plain {
        return Ok(path);
    }
    Err(bad(
        table,
        entry.span.clone(),
        &format!("path \"{text}\""),
        "expected one from the root or from ~/, without ..: rules see a file where it is, not how it was called",
    ))
}

/// `NAME:PORT`, `ADDRESS:PORT` or `unix:PATH`.
fn connect(table: &Table<'_>, home: &Path) -> Result<(String, Act), PolicyError> {
    let entry = table.required("connect", "where to, like api.example.com:443")?;
    let what = format!("connect {}", entry.text);
    if let Some(path) = entry.text.strip_prefix("unix:") {
        let path = absolute(table, &entry, path, home)?;
        return Ok((what, Act::Open { path, write: true }));
    }
    let wrong = || {
        bad(
            table,
            entry.span.clone(),
            &format!("connect \"{}\"", entry.text),
            "expected NAME:PORT, ADDRESS:PORT, [IPV6]:PORT or unix:PATH",
        )
    };
    let given = match table.string("addr")? {
        None => None,
        Some(addr) => Some(addr.text.parse::<IpAddr>().map_err(|_| {
            bad(
                table,
                addr.span.clone(),
                &format!("addr \"{}\"", addr.text),
                "expected an IP address",
            )
        })?),
    };
    if let Ok(socket) = entry.text.parse::<SocketAddr>() {
        if given.is_some() {
            return Err(bad(
                table,
                entry.span.clone(),
                "addr beside an address",
                "expected a name in connect",
            ));
        }
        let (addr, port) = (socket.ip(), socket.port());
        let name = None;
        return Ok((what, Act::Connect { addr, name, port }));
    }
    let (name, port) = entry.text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name.is_empty() || name.contains([':', '/', '[', ' ']) {
        return Err(wrong());
    }
    let (addr, name) = (given.unwrap_or(NOWHERE), Some(name));
    Ok((what, Act::Connect { addr, name, port }))
}

fn call(table: &Table<'_>) -> Result<(String, Act), PolicyError> {
    let entry = table.required("call", "a call that labels can name")?;
    match act::NAMES.iter().position(|name| *name == entry.text) {
        Some(number) => Ok((format!("call {}", entry.text), Act::Call(number as u32))),
        None => {
            let near = nearest(&entry.text, act::NAMES.iter().copied());
            let mistake = Mistake::UnknownCall {
                text: entry.text,
                near,
            };
            Err(table.document.error(entry.span, mistake))
        }
    }
}

/// A request as its client would write it, read by what reads real ones.
fn request(table: &Table<'_>) -> Result<(String, Act), PolicyError> {
    let expected =
        "request = { host = \"api.example.com\", method = \"DELETE\", path = \"/v1/apps/a\" }";
    let value = table.value("request");
    let inner: Option<&DeTable<'_>> = value.and_then(|value| match value.get_ref() {
        toml::de::DeValue::Table(inner) => Some(inner),
        _ => None,
    });
    let (Some(value), Some(inner)) = (value, inner) else {
        return Err(table.missing("request", expected));
    };
    let inner = Table {
        document: table.document,
        table: inner,
        title: "a request",
        span: value.span(),
    };
    inner.only(REQUEST)?;
    let text = |key: &'static str| inner.string(key).map(|entry| entry.map(|entry| entry.text));
    let host = inner.required("host", "the server's name")?.text;
    let graphql = text("graphql")?;
    let body = match (text("body")?, &graphql) {
        (Some(_), Some(_)) => {
            let why = "expected one of them";
            return Err(bad(
                &inner,
                inner.span.clone(),
                "a request with body and graphql",
                why,
            ));
        }
        (body, None) => body.unwrap_or_default(),
        (None, Some(query)) => json!({ "query": query }).to_string(),
    };
    let method =
        text("method")?.unwrap_or_else(|| if body.is_empty() { "GET" } else { "POST" }.to_owned());
    let path = text("path")?
        .unwrap_or_else(|| if graphql.is_some() { "/graphql" } else { "/" }.to_owned());
    let mut headers: Vec<String> = inner
        .strings("headers")?
        .into_iter()
        .map(|entry| entry.text)
        .collect();
    let says_type = headers
        .iter()
        .any(|header| header.to_ascii_lowercase().starts_with("content-type:"));
    if !says_type && body.starts_with(['{', '[']) {
        headers.push("Content-Type: application/json".into());
    }
    if !body.is_empty() {
        headers.push(format!("Content-Length: {}", body.len()));
    }
    let unwritable = [&host, &method, &path]
        .into_iter()
        .chain(&headers)
        .any(|text| text.contains(['\r', '\n']));
    if unwritable || method.contains(' ') || path.contains(' ') {
        let why = "expected no blanks in method and path, and no line's end but in its body";
        return Err(bad(
            &inner,
            inner.span.clone(),
            "a request that cannot be written",
            why,
        ));
    }
    let lines: String = headers
        .iter()
        .map(|header| format!("{header}\r\n"))
        .collect();
    let bytes = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{lines}\r\n{body}");
    let found = http::Stream::new().take(bytes.as_bytes(), 0, &mut KnownQueries::default());
    // The last is the whole one.
    match found.into_iter().next_back() {
        Some(request) => Ok((
            format!("request {method} {host}{path}"),
            Act::Request(Box::new(request)),
        )),
        None => Err(bad(
            &inner,
            inner.span.clone(),
            "a request that is none",
            "expected one of HTTP/1.1",
        )),
    }
}

impl Cases {
    /// Whether every rule and label that they name is in the policy: of one that is not, nothing would ever be said.
    pub(super) fn check(&self, part: &Part, policy: &Policy) -> Result<(), PolicyError> {
        let rules: Vec<&str> = policy.rules.iter().map(|rule| rule.name.as_str()).collect();
        let labels: Vec<&str> = policy.labels.iter().map(String::as_str).collect();
        for step in self.cases.iter().flat_map(|case| &case.events) {
            let touched = match &step.act {
                Act::Touch(labels) => labels.as_slice(),
                _ => &[],
            };
            let named = step.expected.labels.iter().flatten().chain(touched);
            let rule = step.expected.rule.iter().filter(|rule| !rule.is_empty());
            let unknown = named
                .map(|label| ("label", label, &labels))
                .chain(rule.map(|rule| ("rule", rule, &rules)))
                .find(|(_, name, known)| !known.contains(&name.as_str()));
            if let Some((kind, name, known)) = unknown {
                let near = nearest(name, known.iter().copied());
                let near =
                    near.map_or_else(String::new, |near| format!(": did you mean \"{near}\"?"));
                let mistake = Mistake::Case {
                    what: format!("unknown {kind} \"{name}\""),
                    why: format!("expected one of the {kind}s of {}{near}", policy.source()),
                };
                return Err(PolicyError::at(
                    &part.source,
                    &part.text,
                    step.span.clone(),
                    mistake,
                ));
            }
        }
        Ok(())
    }
}

fn bad(table: &Table<'_>, span: std::ops::Range<usize>, what: &str, why: &str) -> PolicyError {
    let mistake = Mistake::Case {
        what: what.into(),
        why: why.into(),
    };
    table.document.error(span, mistake)
}
