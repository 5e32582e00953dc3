//! What cases say, against policies as people write them.

use super::*;
use crate::policy::Source;

const POLICY: &str = r#"
version = 1
[[label]]
name  = "credential"
files = ["~/.aws/credentials", "**/.env"]
except = { exe = ["git"], files = ["**/sample/.env"] }
[[label]]
name  = "written"
files = ["~/.bashrc"]
opens = "write"
[[label]]
name = "infra"
hosts = ["api.guard-cases.test", "*.guard-cloud.test"]
addresses = ["203.0.113.0/24", "192.0.2.1:8443", "unix:/run/broker.sock"]
[[label]]
name = "inner"
addresses = ["203.0.113.7"]
[[label]]
name = "destroy"
argv = ["terraform destroy"]
[[label]]
name = "delete"
requests = [{ host = "api.guard-cases.test", method = "DELETE" }, { host = "api.guard-cases.test", graphql = "mutation *Delete" }]
[[label]]
name = "traced"
calls = ["ptrace-guard"]
[[rule]]
name = "credential-then-infra"
when = ["credential", "infra"]
within = "10m"
then = "hold"
[[rule]]
name = "told"
when = ["infra"]
then = "flag"
[[rule]]
name = "no-destroy"
when = ["destroy"]
then = "kill"
[[rule]]
name = "tried"
when = ["delete"]
then = "deny"
mode = "observe"
[[rule]]
name = "no-traces"
when = ["traced"]
then = "deny"
"#;

fn policy() -> Policy {
    Policy::parse(POLICY, Source::BuiltIn).expect("a policy")
}

/// Reads a file of cases and runs them; what is wrong in each case's events, or the mistake.
fn wrong(text: &str) -> Result<Vec<Vec<String>>, String> {
    let part = Part {
        source: Source::File("cases.toml".into()),
        text: text.into(),
    };
    let policy = policy();
    let read = document::read(&part).and_then(|cases| {
        cases.check(&part, &policy)?;
        cases
            .cases
            .iter()
            .map(|case| run(case, &policy))
            .collect::<Result<Vec<_>, _>>()
    });
    let outcomes = read.map_err(|error| error.one_line())?;
    let of_case = |outcome: &Outcome| {
        outcome
            .events
            .iter()
            .flat_map(|(_, _, wrong)| wrong.clone())
            .collect()
    };
    Ok(outcomes.iter().map(of_case).collect())
}

/// One case with these events.
fn case(events: &str) -> Vec<String> {
    let text = format!("[[case]]\nname = \"c\"\nhome = \"/home/ada\"\nevents = [\n{events}\n]\n");
    wrong(&text).expect("no mistake").remove(0)
}

#[test]
fn a_sequence_within_its_window_is_held_and_what_it_lacks_is_told() {
    assert_eq!(
        case(
            r#"{ open = "~/.aws/credentials", verdict = "allow", labels = ["credential"], rule = "" },
               { after = "9m", connect = "api.guard-cases.test:443", verdict = "hold", rule = "credential-then-infra", labels = ["infra"] },
               { after = "2m", connect = "x.guard-cloud.test:443", verdict = "flag", rule = "told" }"#
        ),
        Vec::<String>::new()
    );
    assert_eq!(
        case(
            r#"{ connect = "api.guard-cases.test:443", verdict = "hold", rule = "credential-then-infra", labels = [] }"#
        ),
        [
            "verdict: expected hold, got flag",
            "rule: expected \"credential-then-infra\", got \"told\"",
            "labels: expected [], got [infra]"
        ]
    );
    let text = "[[case]]\nname = \"c\"\nevents = [{ connect = \"api.guard-cases.test:443\", verdict = \"hold\" }]";
    let part = Part {
        source: Source::BuiltIn,
        text: text.into(),
    };
    let cases = document::read(&part).expect("cases");
    let outcome = run(&cases.cases[0], &policy()).expect("an outcome");
    assert_eq!(
        outcome.events[0].1.lacking,
        [("credential-then-infra".to_owned(), "credential".to_owned())]
    );
}

#[test]
fn every_kind_of_event_carries_what_the_kernel_would_find() {
    assert_eq!(
        case(
            r#"{ open = "/srv/shop/.env", labels = ["credential"] },
               { open = "/srv/shop/.env", exe = "/usr/bin/git", labels = [] },
               { open = "/srv/sample/.env", labels = [] },
               { open = "~/.bashrc", labels = [] },
               { open = "~/.bashrc", write = true, labels = ["written"] },
               { connect = "unix:/run/broker.sock", labels = ["infra"] },
               { connect = "203.0.113.9:22", labels = ["infra"] },
               { connect = "203.0.113.7:22", labels = ["inner"] },
               { connect = "192.0.2.1:8443", labels = ["infra"] },
               { connect = "192.0.2.1:8444", labels = [] },
               { connect = "API.guard-cases.test.:443", addr = "203.0.113.7", labels = ["infra", "inner"] },
               { connect = "apj.guard-cases.test:443", labels = [] },
               { exec = ["sh", "-c", "cd infra && terraform destroy -auto-approve"], verdict = "kill", labels = ["destroy"] },
               { exec = ["terraform", "plan"], labels = [] },
               { call = "ptrace-guard", verdict = "deny" },
               { touch = ["delete"], verdict = "allow", would = "deny", rule = "tried" },
               { request = { host = "api.guard-cases.test", method = "DELETE", path = "/v1/a" }, would = "deny", labels = ["delete"] },
               { request = { host = "api.guard-cases.test", graphql = "mutation { volumeDelete(id: 1) }" }, labels = ["delete"] },
               { request = { host = "api.guard-cases.test", graphql = "{ volumes { id } }" }, labels = [] },
               { request = { host = "api.guard-cases.test", body = '{"query":"mutation {' }, labels = ["delete"] }"#
        ),
        Vec::<String>::new()
    );
}

#[test]
fn a_mistake_is_told_with_its_place() {
    let mut others = Vec::new();
    let whole = |events: &str| format!("[[case]]\nname = \"c\"\nevents = [{events}]\n");
    for (text, expected) in [
        (
            String::new(),
            "cases.toml:1:1: the file has no case: expected a [[case]]",
        ),
        (
            "[[case]]\nname = \"c\"".into(),
            "cases.toml:1:1: [[case]] has no events: expected",
        ),
        (
            whole(r#"{ open = "/a" }"#),
            "cases.toml:1:1: nothing is expected of this case: expected a verdict",
        ),
        (
            whole(r#"{ verdict = "hold" }"#),
            "cases.toml:3:11: an event has no open: expected one of",
        ),
        (
            whole(r#"{ open = "/a", exec = ["b"], verdict = "hold" }"#),
            "an event with open and exec: expected one",
        ),
        (
            whole(r#"{ open = "a", verdict = "hold" }"#),
            "cases.toml:3:20: path \"a\": expected one from the root",
        ),
        (
            whole(r#"{ open = "/a/../b", verdict = "hold" }"#),
            "path \"/a/../b\": expected",
        ),
        (
            whole(r#"{ open = "/a", verdict = "stop" }"#),
            "bad verdict \"stop\": expected allow, flag, hold, deny or kill",
        ),
        (
            whole(r#"{ open = "/a", rule = "tolt" }"#),
            "unknown rule \"tolt\": expected one of the rules of built-in: did you mean \"told\"?",
        ),
        (
            whole(r#"{ open = "/a", labels = ["infr"] }"#),
            "unknown label \"infr\": expected one of the labels of built-in: did you mean \"infra\"?",
        ),
        (
            whole(r#"{ connect = "a", verdict = "hold" }"#),
            "connect \"a\": expected NAME:PORT",
        ),
        (
            whole(r#"{ connect = "1.2.3.4:99999", verdict = "hold" }"#),
            "connect \"1.2.3.4:99999\": expected",
        ),
        (
            whole(r#"{ exec = [], verdict = "hold" }"#),
            "an event has no exec: expected a command line",
        ),
        (
            whole(r#"{ exec = ["a"], write = true, verdict = "hold" }"#),
            "write: expected only beside open",
        ),
        (
            whole(r#"{ call = "ptrace-gard", verdict = "hold" }"#),
            "unknown call \"ptrace-gard\"",
        ),
        (
            whole(r#"{ request = { method = "GET" }, verdict = "hold" }"#),
            "a request has no host",
        ),
        (
            whole(r#"{ request = { host = "a", path = "/a b" }, verdict = "hold" }"#),
            "a request that cannot be written",
        ),
        (
            whole(r#"{ open = "/a", after = "soon", verdict = "hold" }"#),
            "bad duration \"soon\" for after",
        ),
        (
            "[[case]]\nname = \"c\"\nuser = \"root\"\nevents = []".into(),
            "cases.toml:3:8: user: expected a user's number",
        ),
        ("[[case]\n".into(), "cases.toml:1:8: not TOML"),
    ] {
        let said = wrong(&text).expect_err(&text);
        if !said.contains(expected) {
            others.push((text, said));
        }
    }
    assert_eq!(others, []);
}

#[test]
fn the_built_in_policy_says_what_its_cases_say() {
    let text = include_str!("../../../../policy/default.cases.toml");
    let part = Part {
        source: Source::File("policy/default.cases.toml".into()),
        text: text.into(),
    };
    let policy = Policy::built_in();
    let cases = document::read(&part).expect("cases");
    cases.check(&part, &policy).expect("what the policy has");
    for case in &cases.cases {
        let outcome = run(case, &policy).expect("tables");
        for (step, ruling, wrong) in &outcome.events {
            assert!(
                wrong.is_empty(),
                "{}:{}: {wrong:#?} {ruling:?}",
                case.name,
                step.line
            );
        }
    }
}
