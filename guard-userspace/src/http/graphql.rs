//! GraphQL over HTTP: which fields of the root a request executes.
//! <https://graphql.github.io/graphql-over-http/draft/>, <https://spec.graphql.org/October2021/>

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use apollo_parser::{Parser, cst, cst::CstNode as _};
use sha2::{Digest as _, Sha256};

use super::{KnownSecrets, Request, json::Json, words::words};

/// Levels of selections and values that are read.
const MAX_DEPTH: usize = 64;
/// Tokens of one document.
const MAX_TOKENS: usize = 50_000;
/// Fields of the root that one request may execute, and fragments that are gone through for them.
const MAX_FIELDS: usize = 4096;
/// Requests in one batch.
const MAX_BATCH: usize = 1024;
/// Queries that are remembered by their hash.
const MAX_KNOWN: usize = 1024;
/// Bytes of the queries that are remembered.
const MAX_KNOWN_BYTES: usize = 4 << 20;
/// Names of objects that are told of one request.
const MAX_OBJECTS: usize = 8;
/// Bytes of one of them.
const MAX_OBJECT: usize = 128;

/// One field of the root that is executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// `query`, `mutation` or `subscription`.
    pub kind: &'static str,
    /// The field, whatever alias it has; `None` for an operation that the server knows by a name or hash which was
    /// not seen with its text: it may be any mutation.
    pub field: Option<String>,
}

/// What is known by its hash alone. Queries that were seen with theirs, since servers keep them so (automatic persisted
/// queries); and secrets.
#[derive(Debug, Default)]
pub struct KnownQueries {
    texts: HashMap<String, String>,
    order: VecDeque<String>,
    bytes: usize,
    /// Values that requests are searched for.
    pub secrets: Option<Arc<dyn KnownSecrets>>,
}

impl KnownQueries {
    fn learn(&mut self, hash: &str, text: &str) {
        // A hash that is not the text's would be a lie of the program, which the server does not believe either.
        let sum = Sha256::digest(text.as_bytes());
        let own: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        if !own.eq_ignore_ascii_case(hash) || self.texts.contains_key(&own) {
            return;
        }
        self.bytes += text.len();
        self.order.push_back(own.clone());
        self.texts.insert(own, text.to_owned());
        while self.texts.len() > MAX_KNOWN || self.bytes > MAX_KNOWN_BYTES {
            let Some(text) = self
                .order
                .pop_front()
                .and_then(|old| self.texts.remove(&old))
            else {
                break;
            };
            self.bytes -= text.len();
        }
    }

    fn get(&self, hash: &str) -> Option<String> {
        self.texts.get(&hash.to_ascii_lowercase()).cloned()
    }
}

/// Adds what a body (or the fields of a form) executes; nothing for one that is no GraphQL.
///
/// # Errors
/// Why it cannot be read, though it is GraphQL.
pub(super) fn read(
    json: &Json,
    request: &mut Request,
    known: &mut KnownQueries,
) -> Result<(), &'static str> {
    match json {
        Json::Array(batch) if batch.len() > MAX_BATCH => Err("it is too large a batch"),
        Json::Array(batch) => batch
            .iter()
            .try_for_each(|one| read_one(one, request, known)),
        one => read_one(one, request, known),
    }
}

fn read_one(
    json: &Json,
    request: &mut Request,
    known: &mut KnownQueries,
) -> Result<(), &'static str> {
    let hashes: Vec<&str> = json
        .all("extensions")
        .flat_map(|extensions| extensions.all("persistedQuery"))
        .flat_map(|query| query.all("sha256Hash"))
        .filter_map(Json::as_text)
        .collect();
    // Of two members of a name, any may be the one that counts: then so does every operation.
    let names: Vec<&str> = json
        .all("operationName")
        .filter_map(Json::as_text)
        .collect();
    let variables: Vec<&Json> = json.all("variables").collect();
    let mut texts: Vec<String> = Vec::new();
    for name in ["query", "mutation"] {
        for text in json.all(name).filter_map(Json::as_text) {
            // What has no selection is no document: a search's text, say.
            if text.contains('{') {
                texts.push(text.to_owned());
            }
        }
    }
    for hash in &hashes {
        for text in &texts {
            known.learn(hash, text);
        }
    }
    if texts.is_empty() {
        for hash in &hashes {
            match known.get(hash) {
                Some(text) => texts.push(text),
                None => request.graphql.push(unknown()),
            }
        }
        // Stored operations that a server knows by an id of its own.
        let by_id = ["documentId", "doc_id", "queryId"];
        let stored = by_id.iter().any(|name| json.has(name))
            || (json.has("id") && (json.has("operationName") || json.has("variables")));
        if hashes.is_empty() && stored {
            request.graphql.push(unknown());
        }
    }
    for text in &texts {
        let only = match names.as_slice() {
            [only] if !only.is_empty() => Some(*only),
            _ => None,
        };
        execute(text, only, &variables, request)?;
    }
    Ok(())
}

const fn unknown() -> Operation {
    Operation {
        kind: "mutation",
        field: None,
    }
}

/// Adds what a document sent as it is executes (`application/graphql`).
///
/// # Errors
/// Why it cannot be read.
pub(super) fn document(body: &[u8], request: &mut Request) -> Result<(), &'static str> {
    let text = std::str::from_utf8(body).map_err(|_| "it is no text")?;
    execute(text, None, &[], request)
}

fn execute(
    text: &str,
    only: Option<&str>,
    variables: &[&Json],
    request: &mut Request,
) -> Result<(), &'static str> {
    let tree = Parser::new(text)
        .recursion_limit(MAX_DEPTH)
        .token_limit(MAX_TOKENS)
        .parse();
    if tree.errors().len() > 0 {
        return Err("it is no GraphQL that could be read");
    }
    let mut fragments: HashMap<String, cst::SelectionSet> = HashMap::new();
    let mut operations = Vec::new();
    for definition in tree.document().definitions() {
        match definition {
            cst::Definition::OperationDefinition(operation) => operations.push(operation),
            cst::Definition::FragmentDefinition(fragment) => {
                let name = fragment.fragment_name().and_then(|name| name.name());
                if let (Some(name), Some(set)) = (name, fragment.selection_set()) {
                    fragments.insert(name.text().to_string(), set);
                }
            }
            _ => {}
        }
    }
    let name_of =
        |operation: &cst::OperationDefinition| operation.name().map(|name| name.text().to_string());
    // The one that is asked for; all, where none of them has that name.
    if let Some(only) = only
        && operations
            .iter()
            .any(|operation| name_of(operation).as_deref() == Some(only))
    {
        operations.retain(|operation| name_of(operation).as_deref() == Some(only));
    }
    for operation in operations {
        let kind = match operation.operation_type() {
            Some(kind) if kind.mutation_token().is_some() => "mutation",
            Some(kind) if kind.subscription_token().is_some() => "subscription",
            _ => "query",
        };
        let mut reading = Reading {
            kind,
            fragments: &fragments,
            gone_through: HashSet::new(),
            variables,
            request,
        };
        if let Some(set) = operation.selection_set() {
            reading.selections(&set, 0)?;
        }
    }
    Ok(())
}

/// Going through the root of one operation.
struct Reading<'a> {
    kind: &'static str,
    fragments: &'a HashMap<String, cst::SelectionSet>,
    gone_through: HashSet<String>,
    variables: &'a [&'a Json],
    request: &'a mut Request,
}

impl Reading<'_> {
    fn selections(&mut self, set: &cst::SelectionSet, depth: usize) -> Result<(), &'static str> {
        if depth > MAX_DEPTH {
            return Err("its fragments are nested too deep");
        }
        for selection in set.selections() {
            if self.request.graphql.len() >= MAX_FIELDS {
                return Err("it executes too many fields");
            }
            match selection {
                cst::Selection::Field(field) => {
                    let Some(name) = field.name() else { continue };
                    self.request.graphql.push(Operation {
                        kind: self.kind,
                        field: Some(name.text().to_string()),
                    });
                    for argument in field
                        .arguments()
                        .into_iter()
                        .flat_map(|all| all.arguments())
                    {
                        if let (Some(name), Some(value)) = (argument.name(), argument.value()) {
                            self.argument(&name.text(), &value, 0);
                        }
                    }
                }
                cst::Selection::InlineFragment(fragment) => {
                    if let Some(set) = fragment.selection_set() {
                        self.selections(&set, depth + 1)?;
                    }
                }
                cst::Selection::FragmentSpread(spread) => {
                    let name = spread.fragment_name().and_then(|name| name.name());
                    let Some(name) = name.map(|name| name.text().to_string()) else {
                        continue;
                    };
                    let fragments = self.fragments;
                    if let Some(set) = fragments.get(&name)
                        && self.gone_through.insert(name)
                    {
                        self.selections(set, depth + 1)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes what an argument names.
    fn argument(&mut self, name: &str, value: &cst::Value, depth: usize) {
        if depth > 4 {
            return;
        }
        match value {
            cst::Value::Variable(variable) => {
                let Some(variable) = variable.name() else {
                    return;
                };
                let variable = variable.text().to_string();
                for variables in self.variables {
                    for value in variables.all(&variable) {
                        match value.as_name() {
                            Some(value) if names_something(name) => {
                                note(name, value, &mut self.request.objects);
                            }
                            _ => note_objects(value, 0, &mut self.request.objects),
                        }
                    }
                }
            }
            cst::Value::ObjectValue(object) => {
                for field in object.object_fields() {
                    if let (Some(name), Some(value)) = (field.name(), field.value()) {
                        self.argument(&name.text(), &value, depth + 1);
                    }
                }
            }
            cst::Value::ListValue(list) => {
                for value in list.values() {
                    self.argument(name, &value, depth + 1);
                }
            }
            cst::Value::StringValue(text) if names_something(name) => {
                note(name, &String::from(text), &mut self.request.objects);
            }
            cst::Value::IntValue(_) | cst::Value::EnumValue(_) if names_something(name) => {
                note(
                    name,
                    value.syntax().text().to_string().trim(),
                    &mut self.request.objects,
                );
            }
            _ => {}
        }
    }
}

/// Whether something of this name tells what an action is about: `id`, `volumeId`, `name`, `project_name`.
pub(super) fn names_something(name: &str) -> bool {
    words(name).last().is_some_and(|last| {
        matches!(
            &**last,
            "id" | "ids" | "name" | "names" | "slug" | "arn" | "identifier" | "uuid" | "key"
        )
    }) && !words(name)
        .iter()
        .any(|word| matches!(&**word, "secret" | "token" | "password" | "api" | "access"))
}

/// Notes one thing that an action is about.
pub(super) fn note(name: &str, value: &str, objects: &mut Vec<String>) {
    let object = format!("{name}={value}");
    if objects.len() < MAX_OBJECTS
        && object.len() <= MAX_OBJECT
        && !value.is_empty()
        && !objects.contains(&object)
    {
        objects.push(object);
    }
}

/// Notes what the members of an object name.
pub(super) fn note_objects(json: &Json, depth: usize, objects: &mut Vec<String>) {
    if depth > 4 || objects.len() >= MAX_OBJECTS {
        return;
    }
    for (name, value) in json.members() {
        match value {
            Json::Text(_) | Json::Number(_) if names_something(name) => {
                note(name, value.as_name().unwrap_or_default(), objects);
            }
            Json::Array(values) if names_something(name) => {
                for value in values.iter().filter_map(Json::as_name) {
                    note(name, value, objects);
                }
            }
            Json::Object(_) => note_objects(value, depth + 1, objects),
            _ => {}
        }
    }
}
