//! Rules that count, that want something not to have been, and that have much in common.

use std::time::Duration;

use super::{
    super::{
        judge::{Act, Judge},
        *,
    },
    policy,
};

const LABELS: &str = "[[label]]\nname = \"a\"\nfiles = [\"**/a\"]\n[[label]]\nname = \"b\"\nfiles = [\"**/b\"]\n\
                      [[label]]\nname = \"c\"\nfiles = [\"**/c\"]\n";

/// At which of the touches (a label and the time, s) the only rule fires.
fn fires(when: &str, more: &str, touches: &[(&str, u64)]) -> Vec<u64> {
    let policy = policy(&format!(
        "{LABELS}[[rule]]\nname = \"r\"\nwhen = {when}\nthen = \"deny\"\n{more}"
    ));
    let judge = Judge::new(&policy, &Homes::of(["/home/ada"])).unwrap();
    let mut session = judge.session(0);
    let mut fired = Vec::new();
    for (label, at) in touches {
        let act = Act::Touch(vec![(*label).to_owned()]);
        let ruling = judge.judge(&mut session, None, &act, at * 1_000_000_000);
        if ruling.verdict == Verdict::Deny {
            fired.push(*at);
        }
    }
    fired
}

#[test]
fn a_count_wants_so_many_touches() {
    let when = r#"[{ label = "a", count = 3 }, "b"]"#;
    assert_eq!(
        fires(
            when,
            "",
            &[("a", 1), ("b", 2), ("a", 3), ("b", 4), ("a", 5), ("b", 6)]
        ),
        [6]
    );
    assert_eq!(
        fires(
            when,
            "within = \"10s\"",
            &[
                ("a", 1),
                ("a", 2),
                ("a", 20),
                ("b", 21),
                ("a", 22),
                ("a", 23),
                ("b", 24)
            ]
        ),
        [24]
    );
    assert_eq!(
        fires(
            r#"[{ label = "a", count = 2 }]"#,
            "",
            &[("a", 1), ("a", 2), ("a", 3)]
        ),
        [2, 3]
    );
}

#[test]
fn what_a_rule_wants_not_to_have_been_keeps_it_from_firing() {
    // A publication without tests since the source was changed.
    let when = r#"["a", { not = "c" }, "b"]"#;
    assert_eq!(fires(when, "", &[("a", 1), ("b", 2)]), [2]);
    assert_eq!(
        fires(
            when,
            "",
            &[("a", 1), ("c", 2), ("b", 3), ("a", 4), ("b", 5)]
        ),
        [5]
    );
    assert_eq!(fires(when, "", &[("c", 1), ("a", 2), ("b", 3)]), [3]);
    // Nor in the last minute, whatever came first.
    let when = r#"[{ not = "c", within = "1m" }, "b"]"#;
    assert_eq!(
        fires(when, "", &[("b", 1), ("c", 100), ("b", 150), ("b", 200)]),
        [1, 200]
    );
}

#[test]
fn a_template_says_what_its_rules_do_not() {
    let policy = policy(&format!(
        "{LABELS}[[template]]\nname = \"strict\"\nthen = \"deny\"\nwithin = \"5m\"\nscope = \"session\"\nseverity = \"critical\"\n\
         mode = \"observe\"\nfallback = \"hold\"\ntimeout = \"7s\"\non_timeout = \"kill\"\n\
         [[rule]]\nname = \"one\"\ntemplate = \"strict\"\nwhen = [\"a\"]\n\
         [[rule]]\nname = \"two\"\ntemplate = \"strict\"\nwhen = [\"b\"]\nthen = \"flag\"\nwithin = \"1m\"\nseverity = \"low\"\n"
    ));
    let [one, two] = &policy.rules[..] else {
        panic!("{:?}", policy.rules);
    };
    assert_eq!(one.then, Verdict::Deny);
    assert_eq!(one.within, Some(Duration::from_secs(300)));
    assert_eq!(one.timeout, Duration::from_secs(7));
    assert_eq!(one.on_timeout, Verdict::Kill);
    assert_eq!(one.fallback, Verdict::Hold);
    assert_eq!((one.scope, one.observe), (Scope::Session, true));
    assert_eq!(one.severity, Some(Severity::Critical));
    assert_eq!(two.then, Verdict::Flag);
    assert_eq!(two.within, Some(Duration::from_secs(60)));
    assert_eq!(two.severity, Some(Severity::Low));
}
