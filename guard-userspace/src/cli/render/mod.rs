//! Replies as text for people. Each function returns whole lines; everything that a watched process
//! could have chosen goes through [`crate::cli::escape`] on its way.

mod doctor;
pub(crate) mod event;
mod pending;
mod replayed;
mod sessions;
mod status;
mod suggested;
pub(super) mod table;
mod tested;

use std::time::Duration;

pub use doctor::doctor;
pub use event::event_line;
pub use pending::{facts, pending};
pub use replayed::replayed;
pub use sessions::{sessions, show};
pub use status::status;
pub use suggested::suggested;
pub use tested::tested;

pub(super) use self::table::Table;
use crate::{
    cli::{account, escape, screen::Screen},
    clock,
    wire::{GrantInfo, RuleExplanation},
};

/// Seconds as `2m05s`.
pub(crate) fn span(seconds: u64) -> String {
    clock::human(Duration::from_secs(seconds))
}

/// Seconds as `2m05s`, where none at all is `now`.
pub(crate) fn ago(seconds: u64) -> String {
    if seconds == 0 {
        "just now".into()
    } else {
        format!("{} ago", span(seconds))
    }
}

/// `1 process`, `2 processes`.
pub(super) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Words filled into lines of at most `width` columns, every line after the first indented.
pub(crate) fn wrap(text: &str, width: usize, indent: usize) -> String {
    let mut out = String::new();
    let mut column = indent;
    for word in text.split_whitespace() {
        let len = word.chars().count();
        if column > indent && column + 1 + len > width {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += len;
    }
    out
}

/// `guardctl grants`
pub fn grants(screen: &Screen, grants: &[GrantInfo]) -> String {
    if grants.is_empty() {
        return "no leases\n".into();
    }
    let mut table = Table::new(&[
        "ID", "SESSION", "LABEL", "FOR", "LEFT", "STATE", "BY", "REASON",
    ]);
    for grant in grants {
        let left = match (grant.state.as_str(), grant.uses) {
            ("active" | "asked", None) => span(grant.expires_in_s),
            ("active" | "asked", Some(uses)) => {
                format!(
                    "{}, {}",
                    span(grant.expires_in_s),
                    count(uses.into(), "use", "uses")
                )
            }
            _ => "-".into(),
        };
        let reason = grant
            .reason
            .as_deref()
            .map_or_else(|| "-".into(), escape::text);
        let by = account::user_name(grant.by_uid);
        table.row(
            [
                &grant.id,
                &grant.session,
                &grant.label,
                &only(grant).unwrap_or_else(|| "everything".into()),
                &left,
                &grant.state,
                &by,
                &reason,
            ]
            .map(|cell| escape::text(cell)),
        );
    }
    table.render(screen, |screen, line, cells| {
        screen.by_meaning(&cells[5], line)
    })
}

/// What a lease is for, where not for everything that carries its label.
fn only(grant: &GrantInfo) -> Option<String> {
    let operations: Vec<&str> = grant.operations.iter().map(|it| it.name()).collect();
    let operations = (!operations.is_empty()).then(|| operations.join(","));
    let parts: Vec<String> = operations.into_iter().chain(grant.object.clone()).collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

/// A lease in one line: what was given, or asked for.
pub fn grant(grant: &GrantInfo) -> String {
    let [id, label, session] =
        [&grant.id, &grant.label, &grant.session].map(|text| escape::text(text));
    let mut terms = label;
    if let Some(only) = only(grant) {
        terms.push_str(&format!(" ({})", escape::text(&only)));
    }
    let left = clock::human(Duration::from_secs(grant.expires_in_s));
    terms.push_str(&format!(" for {left}"));
    if let Some(uses) = grant.uses {
        terms.push_str(&format!(", {}", count(uses.into(), "use", "uses")));
    }
    match grant.state.as_str() {
        "active" => format!("{id}: {session} may touch {terms}"),
        "asked" => format!("{id}: {session} asks for {terms}: a person answers"),
        state => format!("{id}: {session}: {terms}: {}", escape::text(state)),
    }
}

/// `guardctl policy explain SESSION`
pub fn explain(screen: &Screen, rules: &[RuleExplanation]) -> String {
    if rules.is_empty() {
        return "the policy has no rules\n".into();
    }
    let mut out = String::new();
    for rule in rules {
        let within = rule
            .within_s
            .map_or_else(String::new, |s| format!(" within {}", span(s)));
        out.push_str(&format!(
            "{}  {}{within}\n",
            screen.bold(&escape::text(&rule.rule)),
            escape::text(&rule.then)
        ));
        let width = rule
            .steps
            .iter()
            .map(|step| step.label.chars().count())
            .max()
            .unwrap_or(0);
        for step in &rule.steps {
            let label = format!("{:width$}", escape::text(&step.label));
            let line = match (step.fulfilled, step.age_s) {
                (true, Some(age)) => format!("  [x] {label}  {}", ago(age)),
                (true, None) => format!("  [x] {label}"),
                (false, _) => screen.dim(&format!("  [ ] {label}")),
            };
            out.push_str(&format!("{}\n", line.trim_end()));
        }
        match &rule.fires_on {
            Some(label) => {
                let line = format!(
                    "  the next {} makes it {}",
                    escape::text(label),
                    escape::text(&rule.then)
                );
                out.push_str(&format!("{}\n", screen.yellow(&line)));
            }
            None => out.push_str("  not near\n"),
        }
    }
    out
}

/// `guardctl policy show`: a policy again, with what is not enforced as comments, so that it can be
/// kept as a file.
pub fn policy(terminal: bool, source: &str, text: &str, not_enforced: &[String]) -> String {
    let mut out = format!("# policy in force: {}\n", escape::text(source));
    for line in not_enforced {
        out.push_str(&format!("# not enforced here: {}\n", escape::text(line)));
    }
    // A file gets the bytes that are in force; only a terminal could be harmed by them.
    out.push_str(&if terminal {
        escape::lines(text)
    } else {
        text.to_owned()
    });
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::StepExplanation;

    #[test]
    fn wrapped_text_keeps_to_its_columns() {
        let text = wrap("one two three four", 9, 2);
        assert_eq!(text, "one two\n  three\n  four");
        assert_eq!(wrap("unbreakable-word", 5, 2), "unbreakable-word");
    }

    #[test]
    fn explain_says_which_step_is_missing() {
        let step = |label: &str, age_s: Option<u64>| StepExplanation {
            label: label.into(),
            fulfilled: age_s.is_some(),
            age_s,
        };
        let rule = RuleExplanation {
            rule: "credential-then-infra".into(),
            then: "hold".into(),
            within_s: Some(600),
            steps: vec![step("credential", Some(72)), step("infra", None)],
            fires_on: Some("infra".into()),
        };
        assert_eq!(
            explain(&Screen::default(), &[rule]),
            "credential-then-infra  hold within 10m00s\n  [x] credential  1m12s ago\n  [ ] infra\n  the next infra makes it hold\n"
        );
    }

    #[test]
    fn a_shown_policy_is_still_the_policy() {
        let shown = policy(
            false,
            "/etc/guard/policy.toml",
            "version = 1 # \u{9b}",
            &["rule a: no hosts".into()],
        );
        assert_eq!(
            shown,
            "# policy in force: /etc/guard/policy.toml\n# not enforced here: rule a: no hosts\nversion = 1 # \u{9b}\n"
        );
        assert!(policy(true, "built-in", "# \u{9b}2J", &[]).contains(r"\u009b2J"));
    }
}
