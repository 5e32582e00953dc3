//! `guardctl policy suggest`: TOML for a person to read, take over or leave.

use crate::{cli::escape, suggest::Suggested};

/// What is suggested, as parts of a policy with the reason above each.
pub fn suggested(found: &Suggested) -> String {
    let sessions = super::count(found.sessions, "session", "sessions");
    let mut out =
        format!("# From {sessions} of the journal. Read it before you take any of it over.\n");
    for one in &found.except {
        let holds = super::count(one.approved, "hold", "holds");
        let of = super::count(one.sessions, "session", "sessions");
        out.push_str(&format!(
            "\n# Approved each time: {holds} in {of}. In each [[label]] table of this name:\n# name = {:?}\n# except = {{ exe = [{:?}] }}\n",
            escape::text(&one.label),
            escape::text(&one.exe),
        ));
    }
    for one in &found.seal {
        out.push_str(&format!(
            "\n# Touched by none of them. In one [[label]] table of this name; then sessions need a lease ('guardctl grant'):\n# name = {:?}\n# sealed = true\n",
            escape::text(&one.label),
        ));
    }
    if found.except.is_empty() && found.seal.is_empty() {
        out.push_str("\n# Nothing to suggest: no program was let through three times without a refusal, and there are\n# fewer than five sessions, or they have touched every label.\n");
    }
    out
}
