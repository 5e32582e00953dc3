use serde_json::json;

use super::*;
use crate::policy::Source;

const POLICY: &str = "version = 1\n\
    [[label]]\nname = \"infra\"\nhosts = [\"api.guard-suggest.test\"]\n\
    [[label]]\nname = \"credential\"\nfiles = [\"**/.env\"]\n\
    [[label]]\nname = \"vault\"\nfiles = [\"**/vault/*\"]\nsealed = true\n\
    [[label]]\nname = \"danger\"\nargv = [\"terraform destroy **\"]\n\
    [[rule]]\nname = \"r\"\nwhen = [\"credential\", \"infra\"]\nthen = \"hold\"\n";

fn event(kind: Kind, session: &str, tgid: u32) -> Event {
    let mut event = Event::new(kind);
    event.session = Some(session.into());
    event.tgid = Some(tgid);
    event
}

/// A hold of `exe`, and its answer.
fn held(suggest: &mut Suggest<'_>, session: &str, tgid: u32, exe: &str, answer: &str) {
    let mut call = event(Kind::Connect, session, tgid);
    call.labels = vec!["infra".into()];
    call.exe = Some(exe.into());
    (call.verdict, call.rule) = (Some("hold".into()), Some("r".into()));
    suggest.add(&call);
    let mut said = event(Kind::Answer, session, tgid);
    said.rule = Some("r".into());
    said.object = Some(json!({ "answer": answer }));
    suggest.add(&said);
}

#[test]
fn a_program_that_was_always_let_is_excepted_and_one_that_was_refused_once_is_not() {
    let policy = Policy::parse(POLICY, Source::BuiltIn).unwrap();
    let mut suggest = Suggest::new(&policy);
    for n in 0..4 {
        held(
            &mut suggest,
            &format!("s-{n}"),
            10 + n,
            "/usr/bin/deploy",
            "approved",
        );
        held(
            &mut suggest,
            "s-1",
            20 + n,
            "/usr/bin/curl",
            if n == 0 { "denied" } else { "approved" },
        );
    }
    held(&mut suggest, "s-1", 30, "/usr/bin/once", "approved");
    let found = suggest.finish();
    assert_eq!(
        found.except,
        [Except {
            label: "infra".into(),
            exe: "/usr/bin/deploy".into(),
            approved: 4,
            sessions: 4,
        }]
    );
}

#[test]
fn what_no_session_has_touched_is_sealed_once_there_are_enough() {
    let policy = Policy::parse(POLICY, Source::BuiltIn).unwrap();
    for (sessions, sealed) in [(4, &[][..]), (5, &["credential"])] {
        let mut suggest = Suggest::new(&policy);
        for n in 0..sessions {
            let mut call = event(Kind::Connect, &format!("s-{n}"), 7);
            call.labels = vec!["infra".into()];
            suggest.add(&call);
        }
        let found = suggest.finish();
        let labels: Vec<&str> = found.seal.iter().map(|seal| seal.label.as_str()).collect();
        assert_eq!(labels, sealed);
        assert_eq!(found.sessions, sessions);
    }
}
