//! Findings as SARIF 2.1.0, which code scanning takes.
//! <https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Finding, ScanReport};
use crate::cli::{escape, sarif};

/// Results in one run: what code scanning takes of one file.
const MAX_RESULTS: usize = 5000;

/// Nothing in it depends on a value or on the run's key, so that two runs over the same files give the same log and code
/// scanning knows a finding again.
pub(super) fn log(report: &ScanReport) -> Value {
    let mut rules: Vec<String> = Vec::new();
    let mut nth: BTreeMap<(String, &Path), u32> = BTreeMap::new();
    let mut results = Vec::new();
    for Finding { path, found, .. } in report.findings.iter().take(MAX_RESULTS) {
        let rule = format!("secret/{}/{}", found.provider, found.kind);
        let index = rules
            .iter()
            .position(|known| *known == rule)
            .unwrap_or_else(|| {
                rules.push(rule.clone());
                rules.len() - 1
            });
        let count = nth.entry((rule.clone(), path)).or_default();
        *count += 1;
        let uri = uri(path);
        let mut print = Sha256::new();
        for part in [rule.as_bytes(), uri.as_bytes(), &count.to_le_bytes()] {
            print.update((part.len() as u64).to_le_bytes());
            print.update(part);
        }
        let print: String = print
            .finalize()
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut what = format!("{} {} ({})", found.provider, found.kind, found.preview);
        if found.encrypted {
            what.push_str(", with a passphrase");
        }
        let mut artifact = json!({ "uri": uri });
        if path.is_relative() {
            artifact["uriBaseId"] = "%SRCROOT%".into();
        }
        results.push(json!({
            "ruleId": rule,
            "ruleIndex": index,
            "level": if found.fixture || found.encrypted { "note" } else { "error" },
            "message": { "text": escape::text(&what) },
            "locations": [{
                "physicalLocation": {
                    "artifactLocation": artifact,
                    "region": {
                        "startLine": found.line,
                        "startColumn": found.column,
                        "byteOffset": found.start,
                        "byteLength": found.end - found.start,
                    },
                },
            }],
            "partialFingerprints": { "guardSecret/v1": print },
        }));
    }
    let rules: Vec<Value> = rules
        .iter()
        .map(|rule| {
            json!({
                "id": rule,
                "name": rule,
                "shortDescription": { "text": format!("guard: {rule}") },
                "fullDescription": { "text": "A secret stands in this file. Take it out, revoke it at its provider, and keep the new one elsewhere." },
                "defaultConfiguration": { "level": "error" },
                "properties": { "security-severity": "8.0", "tags": ["security", "secret"] },
            })
        })
        .collect();
    let mut notes: Vec<Value> = report
        .unreadable
        .iter()
        .map(|one| {
            let text = format!("{}: {}", one.path.to_string_lossy(), one.why);
            json!({ "level": "warning", "message": { "text": escape::text(&text) } })
        })
        .collect();
    if report.findings.len() > MAX_RESULTS {
        let text = format!(
            "{} results are left out",
            report.findings.len() - MAX_RESULTS
        );
        notes.push(json!({ "level": "warning", "message": { "text": text } }));
    }
    sarif::log("guard scan", &json!(rules), &json!(notes), &json!(results))
}

/// A relative reference (RFC 3986, 4.2), or a `file` URI (RFC 8089).
fn uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;

    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_prefix(b"./").unwrap_or(bytes);
    let text = sarif::encoded(bytes);
    if path.is_absolute() {
        format!("file://{text}")
    } else {
        text
    }
}
