//! From an event of the journal to what is judged.

use std::path::PathBuf;

use guard_common::state::act;
use serde_json::Value;

use crate::{
    event::{Event, Kind},
    http::{Operation, Request, Unread},
    policy::{DIVERGENT, Policy, judge::Act},
};

/// What an event was, for people and for the judge; `None` for one that nothing is said of.
pub(super) fn of(event: &Event, policy: &Policy) -> Option<(String, Act)> {
    let object = event.object.as_ref();
    let get = |key: &str| object.and_then(|object| object.get(key));
    let text = |key: &str| get(key).and_then(Value::as_str);
    // What the journal does not say cannot be judged anew: then by the labels that it had, as far as there still are such.
    let as_before = || {
        let known = event
            .labels
            .iter()
            .filter(|label| policy.labels.contains(label));
        Act::Touch(known.cloned().collect())
    };
    let file = |write: bool| match text("path") {
        Some(path) => (
            path.to_owned(),
            Act::Open {
                path: PathBuf::from(path),
                write,
            },
        ),
        None => ("a file without a name".to_owned(), as_before()),
    };
    match event.kind {
        Kind::Open => {
            let write = text("flags")
                .is_some_and(|flags| flags.starts_with("O_WRONLY") || flags.starts_with("O_RDWR"));
            let (path, act) = file(write);
            Some((format!("open {path}"), act))
        }
        Kind::Connect if text("family") == Some("unix") => {
            let (path, act) = file(true);
            Some((format!("connect unix:{path}"), act))
        }
        Kind::Connect => {
            let port = get("port")
                .and_then(Value::as_u64)
                .and_then(|port| u16::try_from(port).ok());
            let addr = text("addr").and_then(|addr| addr.parse().ok());
            let name = text("host").map(str::to_owned);
            let (Some(addr), Some(port)) = (addr, port) else {
                return Some(("connect somewhere".into(), as_before()));
            };
            let shown = name.clone().unwrap_or_else(|| format!("{addr}"));
            Some((
                format!("connect {shown}:{port}"),
                Act::Connect { addr, name, port },
            ))
        }
        Kind::Exec => {
            let argv = event.argv.clone()?;
            Some((format!("exec {}", argv.join(" ")), Act::Exec { argv }))
        }
        Kind::Signal | Kind::Call => {
            let name = text("call")?;
            let number = act::NAMES.iter().position(|known| *known == name)?;
            Some((format!("call {name}"), Act::Call(number as u32)))
        }
        Kind::Request => {
            let method = text("method").unwrap_or("?");
            let (host, path) = (
                text("host").unwrap_or_default(),
                text("path").unwrap_or("/"),
            );
            let what = format!("request {method} {host}{path}");
            Some((what, Act::Request(Box::new(request(object?)))))
        }
        // The score was what it was; whether a rule cares is the policy's.
        Kind::Session if event.is_divergence() => {
            let label = policy.labels.iter().find(|label| *label == DIVERGENT)?;
            Some(("divergence".into(), Act::Touch(vec![label.clone()])))
        }
        _ => None,
    }
}

/// A request as far as its event tells it.
fn request(object: &Value) -> Request {
    let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let list = |key: &str| text(key).into_iter().collect::<Vec<_>>();
    let path = text("path").unwrap_or_default();
    let mut methods = list("method");
    methods.extend(text("method_override"));
    let operations = match object.get("operations") {
        Some(Value::Array(operations)) => operations.clone(),
        _ => object.get("graphql").cloned().into_iter().collect(),
    };
    let operation = |value: &Value| Operation {
        kind: match value.get("type").and_then(Value::as_str) {
            Some("query") => "query",
            Some("subscription") => "subscription",
            // One that was not known may be any.
            _ => "mutation",
        },
        field: value
            .get("field")
            .and_then(Value::as_str)
            .map(str::to_owned),
    };
    let kube = text("kube").and_then(|kube| {
        let (verb, resource) = kube.split_once(' ')?;
        Some((verb.to_owned(), resource.to_owned()))
    });
    Request {
        hosts: list("host"),
        methods,
        paths: vec![path.to_ascii_lowercase().trim_end_matches('/').to_owned()],
        path,
        graphql: operations.iter().map(operation).collect(),
        tools: list("mcp"),
        calls: list("rpc"),
        actions: list("aws"),
        grpc: text("grpc"),
        kube: kube.into_iter().collect(),
        complete: true,
        unread: text("unread").map(|_| Unread::Body("it could not be read when it was made")),
        ..Request::default()
    }
}
