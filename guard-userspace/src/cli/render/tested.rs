//! `policy test`.

use std::{fmt::Write as _, path::Path};

use crate::cli::{
    escape,
    offline::{TestCase, TestReport},
};

/// Each case in a line; of one that failed, what was said of each of its events that was not as expected.
pub fn tested(file: &Path, report: &TestReport) -> String {
    let mut out = String::new();
    for case in &report.cases {
        let mark = if case.passed { "ok  " } else { "FAIL" };
        let _ = writeln!(out, "{mark}  {}", escape::text(&case.name));
        wrong(&mut out, file, case);
    }
    let count = report.cases.len();
    let s = if count == 1 { "" } else { "s" };
    let (passed, failed) = (report.passed, report.failed);
    let _ = writeln!(out, "{count} case{s}: {passed} passed, {failed} failed");
    out
}

fn wrong(out: &mut String, file: &Path, case: &TestCase) {
    for event in case.events.iter().filter(|event| !event.wrong.is_empty()) {
        let place = format!("{}:{}", file.display(), event.line);
        let _ = writeln!(
            out,
            "      {}: {}",
            escape::text(&place),
            escape::text(&event.what)
        );
        for wrong in &event.wrong {
            let _ = writeln!(out, "        {}", escape::text(wrong));
        }
        if event.labels.is_empty() {
            out.push_str("        it carries no label\n");
        } else {
            let _ = writeln!(
                out,
                "        it carries {}",
                escape::text(&event.labels.join(", "))
            );
        }
        for lacking in &event.lacking {
            let [rule, label] = [&lacking.rule, &lacking.label].map(|text| escape::text(text));
            let _ = writeln!(
                out,
                "        rule \"{rule}\" does not fire: before it, {label} was not touched in time"
            );
        }
    }
}
