//! What a session says it is for, what its kind of work may touch, and what looks like a hunt for credentials: facts that guard finds by itself.

use std::fs;

use guard_tests::{Guard, Place, Policy, Tool, server::Tcp};
use serde_json::Value;

/// Labels on files and on a server, and rules about what guard finds.
fn policy(place: &Place, server: &Tcp, then: &str) -> Policy {
    let at = place.dir().display();
    Policy::new()
        .files("credential", &[format!("{at}/**/*.credential")])
        .files("secret-store", &[format!("{at}/**/*.store")])
        .addresses("infra", &[server.addr()])
        .and("[[persona]]\nname = \"coding\"\nallows = []\n[[persona]]\nname = \"infra\"\nallows = [\"infra\", \"credential\"]")
        .and("[hunting]\nfiles = 3\nwithin = \"1h\"")
        .rule("told", &["credential"], "flag", "")
        .rule("intent", &["outside-intent"], then, "")
        .rule("persona", &["outside-persona"], then, "")
        .rule("hunt", &["credential-hunt"], then, "")
}

/// A tool in a session that is begun with these options.
fn begun(guard: &Guard, options: &[&str]) -> Tool {
    let tool = guard_tests::fixture("guard-fixture-tool");
    Tool::start(guard.run(options, tool))
}

fn found<'a>(what: &'a str) -> impl Fn(&guard_tests::Event) -> bool + 'a {
    move |event| event.is("session") && event["object"]["what"] == what
}

#[test]
fn what_is_outside_an_intent_is_a_fact_with_both_texts() {
    let (place, server) = (Place::new(), Tcp::v4());
    let guard = Guard::new(&place, &policy(&place, &server, "flag"));
    let mut events = guard.events();
    let staging = place.file("shop/staging.credential", "x");
    let production = place.file("shop/prod.credential", "x");
    let mut tool = begun(&guard, &["--intent", "fix the staging credential mismatch"]);
    let session = guard.session_of(tool.pid()).unwrap();
    let detail = guard.json(&["show", &session]);
    let understood = detail["understood"].as_str().unwrap();
    assert!(understood.contains("environment staging"), "{detail}");
    assert!(understood.contains("credential"), "{detail}");
    tool.must(&format!("open openat {}", staging.display()));
    tool.must(&format!("tcp {} hello", server.addr()));
    let event = events.wait("what is outside", found("outside intent"));
    assert_eq!(
        event["object"]["intent"],
        "fix the staging credential mismatch"
    );
    assert_eq!(event["object"]["why"], "it is about infra");
    assert!(
        event["object"]["did"]
            .as_str()
            .unwrap()
            .contains(&server.addr().to_string()),
        "{event:?}"
    );
    assert_eq!(event["rule"], "intent");
    assert_eq!(event["verdict"], "flag");
    // The other environment, though the label is allowed.
    tool.must(&format!("open openat {}", production.display()));
    let event = events.wait("the other environment", |event| {
        found("outside intent")(event)
            && event["object"]["why"].as_str().unwrap().contains("(prod)")
    });
    assert_eq!(event["labels"][0], "outside-intent");
    // A person says otherwise, and that counts from then on.
    let said = guard.must(&[
        "intent",
        &session,
        "operate the infrastructure with its credentials",
    ]);
    assert!(said.out.contains("may touch credential, infra"), "{said:?}");
    let before = events.seen(found("outside intent")).len();
    tool.must(&format!("tcp {} hello", server.addr()));
    tool.must(&format!("open openat {}", production.display()));
    drop(tool);
    events.wait("its end", |event| {
        event.is("session") && event["object"]["what"] == "ended"
    });
    assert_eq!(events.seen(found("outside intent")).len(), before);
}

#[test]
fn an_intent_comes_from_the_tree_or_the_environment_as_well() {
    let (place, server) = (Place::new(), Tcp::v4());
    let guard = Guard::new(&place, &policy(&place, &server, "flag"));
    let tree = place.path("tree");
    fs::create_dir_all(tree.join(".guard")).unwrap();
    let file = tree.join(".guard/intent.toml");
    let tool = guard_tests::fixture("guard-fixture-tool");
    let begin = |variable: Option<&str>| {
        let mut command = guard.run(&["--agent", "x"], &tool);
        command.current_dir(&tree).env_remove("GUARD_INTENT");
        if let Some(text) = variable {
            command.env("GUARD_INTENT", text);
        }
        let tool = Tool::start(command);
        let session = guard.session_of(tool.pid()).unwrap();
        guard.json(&["show", &session])
    };
    assert_eq!(begin(None)["understood"], Value::Null);
    fs::write(
        &file,
        "text = \"rotate what is old\"\nallows = [\"credential\"]\n",
    )
    .unwrap();
    let detail = begin(None);
    assert_eq!(detail["info"]["intent"], "rotate what is old", "{detail}");
    assert_eq!(
        detail["understood"],
        "any environment; may touch credential"
    );
    assert_eq!(
        begin(Some("tidy the docs"))["info"]["intent"],
        "tidy the docs"
    );
    // A mistake, or somebody else's file, is told, and the session is there all the same.
    fs::write(&file, "text = 3\n").unwrap();
    let detail = begin(None);
    assert_eq!(detail["understood"], Value::Null);
    assert!(
        detail["intent_problem"]
            .as_str()
            .unwrap()
            .contains("intent.toml:1"),
        "{detail}"
    );
    let all = guard.events_now();
    let began = all
        .iter()
        .rev()
        .find(|event| event["object"]["what"] == "began")
        .unwrap();
    assert!(
        began["object"]["intent_problem"]
            .as_str()
            .unwrap()
            .contains("intent.toml:1"),
        "{began:?}"
    );
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &file).unwrap();
    assert_eq!(begin(None)["understood"], Value::Null);
}

#[test]
fn what_is_outside_a_persona_can_be_held() {
    let (place, server) = (Place::new(), Tcp::v4());
    let guard = Guard::new(&place, &policy(&place, &server, "hold"));
    let secret = place.file("shop/x.store", "x");
    let mut tool = begun(&guard, &["--persona", "coding"]);
    let session = guard.session_of(tool.pid()).unwrap();
    assert_eq!(guard.json(&["show", &session])["persona"], "coding");
    // It has happened by then: the process is stopped behind it.
    tool.tell(&format!("open openat {}", secret.display()));
    let hold = guard.hold();
    assert_eq!(hold["rule"], "persona", "{hold}");
    guard.approve(&[]);
    tool.answer();
    let mut tool = begun(&guard, &["--persona", "infra"]);
    tool.must(&format!("tcp {} hello", server.addr()));
    assert!(guard.holds().is_empty());
    let said = guard.ctl(&["run", "--persona", "codng", "--", "true"]);
    assert_eq!(said.status, 2, "{said:?}");
    assert!(
        said.err.contains("the policy has coding, infra"),
        "{said:?}"
    );
}

#[test]
fn many_credential_files_are_a_hunt_and_one_opened_often_is_none() {
    let (place, server) = (Place::new(), Tcp::v4());
    let guard = Guard::new(&place, &policy(&place, &server, "flag"));
    let mut events = guard.events();
    let files: Vec<String> = (0..4)
        .map(|n| {
            place
                .file(&format!("{n}.credential"), "x")
                .display()
                .to_string()
        })
        .collect();
    let mut tool = guard.tool();
    for _ in 0..5 {
        tool.must(&format!("open openat {}", files[0]));
    }
    tool.must(&format!("open openat {}", files[1]));
    assert!(events.seen(found("credential hunt")).is_empty());
    tool.must(&format!("open openat {}", files[2]));
    let event = events.wait("the hunt", found("credential hunt"));
    assert_eq!(event["rule"], "hunt", "{event:?}");
    let named = event["object"]["files"].to_string();
    assert!(
        files[..3].iter().all(|file| named.contains(file)),
        "{named}"
    );
    assert!(!named.contains(&files[3]));
}
