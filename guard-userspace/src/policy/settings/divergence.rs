//! `[divergence]`: how far a session may behave unlike its kind before that is told.

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use crate::policy::{
    PolicyError,
    error::Mistake,
    read::{Table, table},
};

pub(super) const KEYS: &[&str] = &["threshold"];

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// A score below it, of 0..=100, makes a session divergent; 0 for never.
    pub threshold: u8,
}

impl Default for Divergence {
    /// 60: docs/divergence.md says what that was measured to find, and to leave alone.
    fn default() -> Self {
        Self { threshold: 60 }
    }
}

pub(super) fn read(top: &Table<'_>) -> Result<Divergence, PolicyError> {
    let mut divergence = Divergence::default();
    let Some(value) = top.value("divergence") else {
        return Ok(divergence);
    };
    let expected = "a table: begin it with [divergence]";
    let table = table(top.document, "divergence", "[divergence]", value, expected)?;
    table.only(KEYS)?;
    let Some(value) = table.value("threshold") else {
        return Ok(divergence);
    };
    let expected = "a whole number from 0 (never) to 100, like threshold = 60";
    let DeValue::Integer(number) = value.get_ref() else {
        let wrong = crate::policy::read::wrong_type;
        return Err(wrong(&table.document, "threshold", value, expected));
    };
    match number.to_string().parse() {
        Ok(threshold @ 0..=100) => divergence.threshold = threshold,
        _ => {
            return Err(table.document.error(
                value.span(),
                Mistake::BadWord {
                    key: "threshold",
                    word: number.to_string(),
                    expected: expected.into(),
                    near: None,
                },
            ));
        }
    }
    Ok(divergence)
}

#[cfg(test)]
mod tests {
    use crate::policy::{Policy, Source};

    fn threshold(text: &str) -> Result<u8, String> {
        Policy::parse(&format!("version = 1\n{text}"), Source::BuiltIn)
            .map(|policy| policy.settings.divergence.threshold)
            .map_err(|error| error.one_line())
    }

    #[test]
    fn a_threshold_is_a_whole_number_of_a_hundred() {
        let usual = super::Divergence::default().threshold;
        assert_eq!(threshold(""), Ok(usual));
        assert_eq!(threshold("[divergence]"), Ok(usual));
        assert_eq!(threshold("divergence = { threshold = 0 }"), Ok(0));
        assert_eq!(threshold("[divergence]\nthreshold = 100"), Ok(100));
        for (text, says) in [
            ("[divergence]\nthreshold = 101", ":3:13: "),
            ("[divergence]\nthreshold = -1", "0 (never) to 100"),
            (
                "[divergence]\nthreshold = 0.5",
                "threshold is a decimal number",
            ),
            ("[divergence]\nthreshold = \"low\"", "threshold is a string"),
            ("[divergence]\nthresh = 3", "did you mean \"threshold\"?"),
            ("divergence = 40", "divergence is a number"),
        ] {
            let said = threshold(text).unwrap_err();
            assert!(said.contains(says), "{text}: {said}");
        }
    }

    #[test]
    fn a_rule_may_name_what_guard_finds_by_itself_and_the_label_is_there_only_then() {
        let parse = |text: &str| Policy::parse(&format!("version = 1\n{text}"), Source::BuiltIn);
        let rule = "[[rule]]\nname = \"r\"\nwhen = [\"divergent\"]\nthen = \"flag\"\n";
        assert_eq!(parse(rule).unwrap().labels, ["divergent"]);
        assert!(parse("").unwrap().labels.is_empty());
        let label = "[[label]]\nname = \"divergent\"\nfiles = [\"/x\"]\n";
        assert_eq!(
            parse(&format!("{label}{rule}")).unwrap().labels,
            ["divergent"]
        );
        let said = parse(&rule.replace("divergent", "divergnt"))
            .unwrap_err()
            .one_line();
        assert!(said.contains("did you mean \"divergent\"?"), "{said}");
    }
}
