//! The GraphQL side: this schema, served as the GraphQL specification says.
//!
//! ```graphql
//! type Query    { volumes: [Volume!]! }
//! type Mutation { volumeDelete(volumeId: String!): Boolean! }
//! type Volume   { id: ID!  name: String!  backups: [Backup!]! }
//! type Backup   { id: ID! }
//! ```

use graphql_parser::query::{
    self, Definition, Document, Field, OperationDefinition, Selection, SelectionSet,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{HOST, http, store::Store};

/// Where it is served, as at Railway.
const ENDPOINT: &str = "/graphql/v2";

/// What goes back to the client.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Response {
    /// An answer in GraphQL's form for what never came to be executed.
    pub(crate) fn refusal(status: u16, message: &str) -> Self {
        Self {
            status,
            body: json!({ "errors": [{ "message": message }] }),
        }
    }
}

/// What a request came to.
pub(crate) struct Outcome {
    pub(crate) response: Response,
    /// Such as `mutation volumeDelete`, if it was GraphQL.
    pub(crate) operation: Option<String>,
    pub(crate) mutations: u64,
    /// The token was missing or wrong.
    pub(crate) refused: bool,
}

impl From<Response> for Outcome {
    fn from(response: Response) -> Self {
        Self {
            response,
            operation: None,
            mutations: 0,
            refused: false,
        }
    }
}

/// A request's body, as GraphQL over HTTP has it.
#[derive(Deserialize)]
struct Call {
    query: String,
    #[serde(default)]
    variables: Option<Map<String, Value>>,
    #[serde(default, rename = "operationName")]
    operation_name: Option<String>,
}

/// Answers `request`, and does to `store` what it asks for.
pub(crate) fn serve(request: &http::Request, store: &mut Store) -> Outcome {
    if request.host.as_deref() != Some(HOST) {
        return Response::refusal(421, "this host is not served here").into();
    }
    if request.path != ENDPOINT {
        return Response::refusal(404, "not found").into();
    }
    if request.method != "POST" {
        return Response::refusal(405, "use POST").into();
    }
    let call: Call = match serde_json::from_slice(&request.body) {
        Ok(call) => call,
        Err(error) => return Response::refusal(400, &format!("body: {error}")).into(),
    };
    let document = match query::parse_query::<&str>(&call.query) {
        Ok(document) => document,
        Err(error) => {
            // The parser explains over several lines.
            let error = error.to_string();
            let line: Vec<_> = error.split_whitespace().collect();
            return Response::refusal(400, &line.join(" ")).into();
        }
    };
    let operation = match Operation::of(&document, call.operation_name.as_deref()) {
        Ok(operation) => operation,
        Err(message) => return Response::refusal(400, &message).into(),
    };
    let name = Some(operation.name());
    let variables = call.variables.unwrap_or_default();
    // Everything is resolved before anything is done.
    let (response, mutations, refused) = operation.check(&variables).map_or_else(
        |message| (Response::refusal(400, &message), 0, false),
        |()| {
            if store.lets_in(request.bearer.as_deref()) {
                let (response, mutations) = operation.execute(&variables, store);
                (response, mutations, false)
            } else {
                let body = json!({ "data": null, "errors": [{ "message": "Not Authorized" }] });
                (Response { status: 200, body }, 0, true)
            }
        },
    );
    Outcome {
        response,
        operation: name,
        mutations,
        refused,
    }
}

/// The operation of a document that is to be executed.
struct Operation<'a> {
    mutation: bool,
    fields: Vec<&'a Field<'a, &'a str>>,
}

impl<'a> Operation<'a> {
    fn of(document: &'a Document<'a, &'a str>, wanted: Option<&str>) -> Result<Self, String> {
        let mut found = None;
        for definition in &document.definitions {
            let Definition::Operation(operation) = definition else {
                return Err("fragments are not served here".to_owned());
            };
            let (mutation, name, set) = match operation {
                OperationDefinition::SelectionSet(set) => (false, None, set),
                OperationDefinition::Query(query) => (false, query.name, &query.selection_set),
                OperationDefinition::Mutation(query) => (true, query.name, &query.selection_set),
                OperationDefinition::Subscription(_) => {
                    return Err("subscriptions are not served here".to_owned());
                }
            };
            if wanted.is_some() && name != wanted {
                continue;
            }
            if found.is_some() {
                return Err("more than one operation: say which in operationName".to_owned());
            }
            found = Some(Self {
                mutation,
                fields: fields(set)?,
            });
        }
        found.ok_or_else(|| "no such operation".to_owned())
    }

    fn name(&self) -> String {
        let kind = if self.mutation { "mutation" } else { "query" };
        let fields: Vec<_> = self.fields.iter().map(|field| field.name).collect();
        format!("{kind} {}", fields.join(" "))
    }

    fn check(&self, variables: &Map<String, Value>) -> Result<(), String> {
        for field in &self.fields {
            match (self.mutation, field.name) {
                (true, "volumeDelete") => {
                    volume_id(field, variables)?;
                    if !field.selection_set.items.is_empty() {
                        return Err("volumeDelete is a Boolean: it has no fields".to_owned());
                    }
                }
                (false, "volumes") => {
                    for field in fields(&field.selection_set)? {
                        match field.name {
                            "backups" => {
                                for field in fields(&field.selection_set)? {
                                    if field.name != "id" {
                                        return Err(unknown(field, "Backup"));
                                    }
                                }
                            }
                            "id" | "name" => {}
                            _ => return Err(unknown(field, "Volume")),
                        }
                    }
                }
                (true, _) => return Err(unknown(field, "Mutation")),
                (false, _) => return Err(unknown(field, "Query")),
            }
        }
        Ok(())
    }

    /// Of an operation that was checked.
    fn execute(&self, variables: &Map<String, Value>, store: &mut Store) -> (Response, u64) {
        let mut data = Map::new();
        let mut mutations = 0;
        for field in &self.fields {
            let key = field.alias.unwrap_or(field.name);
            let value = if self.mutation {
                let id = volume_id(field, variables).unwrap_or_default();
                if !store.delete_volume(&id) {
                    let error = json!({ "message": "Volume not found", "path": [key] });
                    let body = json!({ "data": null, "errors": [error] });
                    return (Response { status: 200, body }, mutations);
                }
                mutations += 1;
                Value::Bool(true)
            } else {
                let volumes = store.volumes();
                volumes
                    .iter()
                    .map(|volume| select(volume, &field.selection_set))
                    .collect()
            };
            data.insert(key.to_owned(), value);
        }
        let body = json!({ "data": data });
        (Response { status: 200, body }, mutations)
    }
}

fn fields<'a>(set: &'a SelectionSet<'a, &'a str>) -> Result<Vec<&'a Field<'a, &'a str>>, String> {
    if set.items.is_empty() {
        return Err("a selection of fields is missing".to_owned());
    }
    set.items
        .iter()
        .map(|selection| match selection {
            Selection::Field(field) => Ok(field),
            _ => Err("fragments are not served here".to_owned()),
        })
        .collect()
}

/// The fields of `object` that `set` asks for, under the names it gives them.
fn select<'a>(object: &Value, set: &SelectionSet<'a, &'a str>) -> Value {
    let mut selected = Map::new();
    for selection in &set.items {
        let Selection::Field(field) = selection else {
            continue;
        };
        let value = match &object[field.name] {
            Value::Array(items) => items
                .iter()
                .map(|item| select(item, &field.selection_set))
                .collect(),
            value => value.clone(),
        };
        selected.insert(field.alias.unwrap_or(field.name).to_owned(), value);
    }
    Value::Object(selected)
}

fn volume_id<'a>(
    field: &Field<'a, &'a str>,
    variables: &Map<String, Value>,
) -> Result<String, String> {
    let value = field
        .arguments
        .iter()
        .find(|(name, _)| *name == "volumeId")
        .map(|(_, value)| value);
    match value {
        Some(query::Value::String(id)) => Ok(id.clone()),
        Some(query::Value::Variable(name)) => match variables.get(*name) {
            Some(Value::String(id)) => Ok(id.clone()),
            _ => Err(format!("variable ${name}: a String! was not provided")),
        },
        _ => Err("volumeDelete: argument volumeId: String! is required".to_owned()),
    }
}

fn unknown<'a>(field: &Field<'a, &'a str>, of: &str) -> String {
    format!(
        "{}: cannot query field \"{}\" on type \"{of}\"",
        field.position, field.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(store: &mut Store, token: &str, body: &Value) -> Outcome {
        let request = http::Request {
            method: "POST".to_owned(),
            path: ENDPOINT.to_owned(),
            host: Some(HOST.to_owned()),
            bearer: Some(token.to_owned()),
            body: body.to_string().into_bytes(),
            keep_alive: true,
        };
        serve(&request, store)
    }

    #[test]
    fn a_query_gives_the_fields_asked_for() {
        let mut store = Store::with_demo_volumes("t".to_owned());
        let query = json!({ "query": "{ v: volumes { id backups { id } } }" });
        let outcome = post(&mut store, "t", &query);
        assert_eq!(
            outcome.response.body["data"]["v"][1],
            json!({ "id": "vol-staging", "backups": [{ "id": "bak-staging" }] })
        );
        assert_eq!(outcome.operation.as_deref(), Some("query volumes"));
    }

    #[test]
    fn deleting_a_volume_destroys_its_backups() {
        for query in [
            json!({ "query": "mutation { volumeDelete(volumeId: \"vol-production\") }" }),
            json!({
                "query": "mutation d($id: String!) { volumeDelete(volumeId: $id) }",
                "variables": { "id": "vol-production" },
            }),
        ] {
            let mut store = Store::with_demo_volumes("t".to_owned());
            let outcome = post(&mut store, "t", &query);
            assert_eq!(
                outcome.response.body,
                json!({ "data": { "volumeDelete": true } })
            );
            assert_eq!(outcome.mutations, 1);
            assert_eq!(outcome.operation.as_deref(), Some("mutation volumeDelete"));
            assert_eq!((store.volumes_alive(), store.backups_alive()), (1, 1));
            // Gone is gone.
            assert_eq!(post(&mut store, "t", &query).mutations, 0);
        }
    }

    #[test]
    fn nothing_happens_without_the_token_or_with_a_mistake() {
        let mut store = Store::with_demo_volumes("t".to_owned());
        let delete = json!({ "query": "mutation { volumeDelete(volumeId: \"vol-staging\") }" });
        assert!(post(&mut store, "other", &delete).refused);
        for query in [
            "mutation { volumeDelete }",
            "mutation { volumeDelete(volumeId: 1) }",
            "mutation { volumeDelete(volumeId: \"vol-staging\") other }",
            "mutation { volumeDelete(volumeId: \"vol-staging\") { id } }",
            "mutation { volumeDelete(volumeId: $id) }",
            "{ volumeDelete(volumeId: \"vol-staging\") }",
            "{ volumes }",
            "{ volumes { secret } }",
            "{ ...F } fragment F on Query { volumes { id } }",
            "{",
            "",
        ] {
            let outcome = post(&mut store, "t", &json!({ "query": query }));
            assert_eq!(outcome.response.status, 400, "{query}");
            assert_eq!(outcome.mutations, 0, "{query}");
        }
        assert_eq!((store.volumes_alive(), store.backups_alive()), (2, 4));
    }
}
