//! What the body of a request means, by its type and by what it looks like: servers do not all ask for the type.

use super::{
    KnownQueries, MAX_BODY, Request, Unread, decode::decode, form, graphql, head::Head, json::Json,
    rpc,
};

/// Whether a server might act on what is in the body, and not only keep it: not so for archives, images and the like.
pub(super) fn may_mean_something(head: &Head) -> bool {
    let kind = head.kind();
    let kept = [
        "image/",
        "audio/",
        "video/",
        "font/",
        "application/octet-stream",
        "application/zip",
        "application/gzip",
        "application/x-gzip",
        "application/x-tar",
        "application/x-git-",
        "application/pdf",
        "application/wasm",
        "application/vnd.docker.",
        "application/vnd.oci.",
        "application/grpc",
        "binary/octet-stream",
    ];
    !kept.iter().any(|beginning| kind.starts_with(beginning))
}

/// Whether the body comes by itself, and a server might act on it.
pub(super) fn is_awaited(head: &Head) -> bool {
    !head.expects && head.methods[0] != "CONNECT" && may_mean_something(head)
}

/// Reads a whole body into the request.
pub(super) fn read(head: &Head, body: Vec<u8>, request: &mut Request, known: &mut KnownQueries) {
    if let Err(why) =
        read_query(head, request, known).and_then(|()| read_body(head, body, request, known))
        && may_mean_something(head)
    {
        request.unread = Some(Unread::Body(why));
    }
}

/// GraphQL in the query of a URL.
fn read_query(
    head: &Head,
    request: &mut Request,
    known: &mut KnownQueries,
) -> Result<(), &'static str> {
    fields(&head.query, request, known)
}

/// What the fields of a form or of a query mean.
fn fields(
    fields: &[(String, String)],
    request: &mut Request,
    known: &mut KnownQueries,
) -> Result<(), &'static str> {
    let mut graphql = Vec::new();
    for (name, value) in fields {
        match &**name {
            "query" | "operationName" => {
                graphql.push((name.clone(), Json::Text(value.clone())));
            }
            "variables" | "extensions" => {
                if let Some(value) = Json::read(value.as_bytes()) {
                    graphql.push((name.clone(), value));
                }
            }
            _ => {}
        }
    }
    graphql::read(&Json::Object(graphql), request, known)
}

fn read_body(
    head: &Head,
    body: Vec<u8>,
    request: &mut Request,
    known: &mut KnownQueries,
) -> Result<(), &'static str> {
    let mut look = |text: &[u8]| {
        if let Some(secrets) = &known.secrets {
            secrets.look(text, &mut request.secrets);
        }
    };
    if body.is_empty() || head.kind().starts_with("application/grpc") {
        look(&body);
        return Ok(());
    }
    let body = decode(body, &head.encodings)?;
    look(&body);
    let kind = head.kind();
    if kind == "multipart/form-data" || kind == "multipart/mixed" {
        let boundary = form::boundary(&head.content_type).ok_or("its boundary is not said")?;
        return parts(&form::multipart(&body, &boundary), request, known);
    }
    if kind == "application/x-www-form-urlencoded" {
        let named = form::urlencoded(&body);
        for (name, value) in &named {
            match &**name {
                "_method" => request.methods.push(value.trim().to_ascii_uppercase()),
                "Action" => request.actions.push(value.clone()),
                name if names_something(name) => {
                    graphql::note(name, value, &mut request.objects);
                }
                _ => {}
            }
        }
        fields(&named, request, known)?;
        // Some clients send this type by default, whatever they send (curl -d).
    }
    let first = body
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(&body)
        .iter()
        .find(|byte| !byte.is_ascii_whitespace());
    let says_json = kind.ends_with("json") || kind == "text/json";
    if says_json || matches!(first, Some(b'{' | b'[')) {
        return match Json::read(&body) {
            Some(json) => read_json(&json, request, known),
            // A query sent as it is begins with a brace as well.
            None if !says_json && graphql::document(&body, request).is_ok() => Ok(()),
            None if says_json || kind.is_empty() || kind.starts_with("text/") => {
                Err("it is no JSON that could be read")
            }
            None => Ok(()),
        };
    }
    if kind.ends_with("graphql") {
        return graphql::document(&body, request);
    }
    Ok(())
}

fn read_json(
    json: &Json,
    request: &mut Request,
    known: &mut KnownQueries,
) -> Result<(), &'static str> {
    let overrides = json.all("_method").filter_map(Json::as_text);
    request
        .methods
        .extend(overrides.map(str::to_ascii_uppercase));
    rpc::read(json, request)?;
    graphql::read(json, request, known)?;
    if request.objects.is_empty() && request.calls.is_empty() {
        graphql::note_objects(json, 0, &mut request.objects);
    }
    Ok(())
}

/// GraphQL with files (<https://github.com/jaydenseric/graphql-multipart-request-spec>), and forms.
fn parts(
    parts: &[(String, Vec<u8>)],
    request: &mut Request,
    known: &mut KnownQueries,
) -> Result<(), &'static str> {
    let mut named = Vec::new();
    for (name, value) in parts {
        if name == "operations" {
            let json = Json::read(value).ok_or("it is no JSON that could be read")?;
            graphql::read(&json, request, known)?;
        }
        if value.len() <= MAX_BODY
            && let Ok(text) = std::str::from_utf8(value)
        {
            named.push((name.clone(), text.to_owned()));
            match &**name {
                "_method" => request.methods.push(text.trim().to_ascii_uppercase()),
                "Action" => request.actions.push(text.to_owned()),
                _ => {}
            }
        }
    }
    fields(&named, request, known)
}

/// Whether a field of this name names what an action is about.
fn names_something(name: &str) -> bool {
    graphql::names_something(name)
}
