//! `guardctl doctor`

use super::wrap;
use crate::cli::{escape, offline::DoctorReport, screen::Screen};

/// Each check with what it found and how to mend it, then the summary.
pub fn doctor(screen: &Screen, report: &DoctorReport) -> String {
    let width = report
        .checks
        .iter()
        .map(|check| check.name.chars().count())
        .max()
        .unwrap_or(0);
    let indent = 6 + width + 2;
    let mut out = String::new();
    for check in &report.checks {
        let mark = match (check.ok, check.required) {
            (true, _) => screen.green("ok  "),
            (false, true) => screen.red("FAIL"),
            (false, false) => screen.yellow("no  "),
        };
        let detail = wrap(&escape::text(&check.detail), screen.text_width(), indent);
        out.push_str(&format!(
            "{mark}  {:width$}  {detail}\n",
            escape::text(&check.name)
        ));
        if let Some(mend) = check.mend.as_deref().filter(|_| !check.ok) {
            let mend = wrap(
                &format!("to mend: {}", escape::text(mend)),
                screen.text_width(),
                indent,
            );
            out.push_str(&format!("{:indent$}{mend}\n", ""));
        }
    }
    out.push_str(&format!("\n{}\n", escape::lines(report.summary.trim_end())));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::offline::DoctorCheck;

    #[test]
    fn what_fails_comes_with_how_to_mend_it() {
        let check = |name: &str, ok, required| DoctorCheck {
            name: name.into(),
            ok,
            required,
            detail: "found".into(),
            mend: Some("do this".into()),
        };
        let report = DoctorReport {
            checks: vec![
                check("btf", true, true),
                check("lsm", false, false),
                check("tracefs", false, true),
            ],
            summary: "guard cannot run here".into(),
        };
        assert_eq!(
            doctor(&Screen::default(), &report),
            "ok    btf      found\n\
             no    lsm      found\n               to mend: do this\n\
             FAIL  tracefs  found\n               to mend: do this\n\
             \nguard cannot run here\n"
        );
        assert!(!report.ok());
    }
}
