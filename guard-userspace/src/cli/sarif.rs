//! What every SARIF 2.1.0 log of guardctl has in common.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde_json::{Value, json};

/// A log of one run of the tool `name`.
pub(super) fn log(name: &str, rules: &Value, notes: &Value, results: &Value) -> Value {
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {
                "driver": {
                    "name": name,
                    "version": env!("CARGO_PKG_VERSION"),
                    "semanticVersion": env!("CARGO_PKG_VERSION"),
                    "rules": rules,
                },
            },
            "invocations": [{
                "executionSuccessful": true,
                "toolExecutionNotifications": notes,
            }],
            "results": results,
            "columnKind": "unicodeCodePoints",
        }],
    })
}

/// A path as a part of a URI (RFC 3986, 3.3).
pub(super) fn encoded(path: &[u8]) -> String {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'/')
        .remove(b'.')
        .remove(b'-')
        .remove(b'_')
        .remove(b'~');
    percent_encode(path, KEPT).to_string()
}
