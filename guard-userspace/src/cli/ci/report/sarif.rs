//! The report as SARIF 2.1.0, which code scanning takes.
//! <https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html>

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Finding, Report};
use crate::cli::{escape, sarif};

/// Results in one run: what code scanning takes of one file.
const MAX_RESULTS: usize = 5000;

/// `location` is the file that findings without one of their own are shown at: code scanning wants one of the
/// repository.
pub fn sarif(report: &Report, location: &str) -> Value {
    let mut results = Vec::new();
    let mut rules: Vec<String> = Vec::new();
    let mut add = |rule: &str, level: &str, message: String, file: &str| {
        let index = rules
            .iter()
            .position(|known| known == rule)
            .unwrap_or_else(|| {
                rules.push(rule.to_owned());
                rules.len() - 1
            });
        let message = escape::text(&message);
        let mut hash = Sha256::new();
        for part in [rule, file, &message] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        let print: String = hash
            .finalize()
            .iter()
            .take(16)
            .map(|b| format!("{b:02x}"))
            .collect();
        results.push(json!({
            "ruleId": rule,
            "ruleIndex": index,
            "level": level,
            "message": { "text": message },
            "locations": [{
                "physicalLocation": {
                    "artifactLocation": { "uri": uri(file), "uriBaseId": "%SRCROOT%" },
                    "region": { "startLine": 1 },
                },
            }],
            "partialFingerprints": { "guard/v1": print },
        }));
    };
    let message = |finding: &Finding| {
        format!(
            "{} {} by {}{}",
            finding.done(),
            finding.target,
            finding.who(),
            finding
                .step
                .map(|step| format!(" in {}", report.step(step)))
                .unwrap_or_default()
        )
    };
    for finding in &report.stopped {
        let level = if finding.would.is_some() {
            "warning"
        } else {
            "error"
        };
        add(&finding.rule, level, message(finding), location);
    }
    for finding in &report.flagged {
        add(&finding.rule, "note", message(finding), location);
    }
    for change in &report.sources {
        let text = format!(
            "{} was {} during the job{}",
            change.file,
            change.word(),
            super::by(&change.by)
        );
        add("source-change", "warning", text, &change.file);
    }
    let left_out = results.len().saturating_sub(MAX_RESULTS);
    results.truncate(MAX_RESULTS);
    let rules: Vec<Value> = rules
        .iter()
        .map(|rule| {
            json!({
                "id": rule,
                "name": rule,
                "shortDescription": { "text": format!("guard: {rule}") },
                "fullDescription": { "text": format!("The rule \"{rule}\" of the policy that the job ran under.") },
                "defaultConfiguration": { "level": "warning" },
            })
        })
        .collect();
    let mut notes: Vec<Value> = report
        .problems
        .iter()
        .map(|text| json!({ "level": "warning", "message": { "text": escape::text(text) } }))
        .collect();
    if left_out > 0 {
        let text = format!("{left_out} results are left out");
        notes.push(json!({ "level": "warning", "message": { "text": text } }));
    }
    sarif::log("guard", &json!(rules), &json!(notes), &json!(results))
}

/// A relative reference (RFC 3986, 4.2) to a file of the repository.
fn uri(file: &str) -> String {
    sarif::encoded(file.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ci::report::tests::hostile;

    #[test]
    fn every_result_has_what_the_format_and_code_scanning_want() {
        let log = sarif(&hostile(), ".github/workflows/ci.yml");
        assert_eq!(log["version"], "2.1.0");
        let run = &log["runs"][0];
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        let results = run["results"].as_array().unwrap();
        assert_eq!(results.len(), 3);
        for result in results {
            let index = result["ruleIndex"].as_u64().unwrap() as usize;
            assert_eq!(rules[index]["id"], result["ruleId"]);
            assert!(["error", "warning", "note"].contains(&result["level"].as_str().unwrap()));
            assert!(!result["message"]["text"].as_str().unwrap().is_empty());
            let at = &result["locations"][0]["physicalLocation"];
            let uri = at["artifactLocation"]["uri"].as_str().unwrap();
            assert!(!uri.contains([' ', '<', ':', '\n']), "{uri}");
            assert!(at["region"]["startLine"].as_u64().unwrap() >= 1);
            assert_eq!(
                result["partialFingerprints"]["guard/v1"]
                    .as_str()
                    .unwrap()
                    .len(),
                32
            );
        }
        assert_eq!(results[0]["level"], "error");
        assert!(
            results[2]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
                .as_str()
                .unwrap()
                .starts_with("src/")
        );
    }
}
