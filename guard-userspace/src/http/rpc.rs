//! JSON-RPC 2.0, and MCP over it: <https://www.jsonrpc.org/specification>,
//! <https://modelcontextprotocol.io/specification/2025-06-18/server/tools#calling-tools>.

use super::{Request, graphql::note_objects, json::Json};

/// Calls of one batch that are looked at.
const MAX_BATCH: usize = 1024;

/// Adds the methods and tools that a body calls.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn read(body: &Json, request: &mut Request) -> Result<(), &'static str> {
    match body {
        Json::Array(calls) if calls.len() > MAX_BATCH => Err("it has too many calls"),
        Json::Array(calls) => {
            for call in calls {
                one(call, request);
            }
            Ok(())
        }
        call => {
            one(call, request);
            Ok(())
        }
    }
}

fn one(call: &Json, request: &mut Request) {
    let is_call = call.has("jsonrpc") || call.has("params") || call.has("id");
    for method in call.all("method").filter_map(Json::as_text) {
        if !is_call {
            continue;
        }
        request.calls.push(method.to_owned());
        if method != "tools/call" {
            continue;
        }
        for params in call.all("params") {
            let names = params.all("name").filter_map(Json::as_text);
            request.tools.extend(names.map(str::to_owned));
            for arguments in params.all("arguments") {
                note_objects(arguments, 0, &mut request.objects);
            }
        }
    }
}
