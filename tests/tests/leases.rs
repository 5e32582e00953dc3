//! Standing privileges replaced by leases: what is sealed, what a lease allows and when it ends, and how one is asked for.

use std::time::Duration;

use guard_tests::{Guard, Place, Policy, Tool, eventually, let_pass, server::Tcp};

/// Two servers under one sealed label.
struct Scene {
    place: Place,
    server: Tcp,
    other: Tcp,
    guard: Guard,
    tool: Tool,
}

impl Scene {
    fn new() -> Self {
        let (place, server, other) = (Place::new(), Tcp::v4(), Tcp::v4());
        let addresses = [server.addr().to_string(), other.addr().to_string()];
        let label = format!(
            "[[label]]\nname = \"infra\"\nsealed = true\naddresses = {addresses:?}\n\
             [[label]]\nname = \"other\"\naddresses = [\"192.0.2.1\"]"
        );
        let guard = Guard::new(&place, &Policy::new().and(&label));
        let tool = guard.tool();
        Self {
            place,
            server,
            other,
            guard,
            tool,
        }
    }

    fn session(&self) -> String {
        self.guard.session_of(self.tool.pid()).unwrap()
    }

    fn grant(&self, more: &[&str]) -> String {
        let session = self.session();
        let all = [&["grant", &session, "--label", "infra"], more].concat();
        let given = self.guard.json(&all);
        given["grant"]["id"].as_str().unwrap().to_owned()
    }

    /// Whether the session reaches a server.
    fn reaches(&mut self, server: &str) -> bool {
        let answer = self.tool.ask(&format!("tcp {server} hello"));
        answer["echo"] == "hello"
    }

    fn reaches_it(&mut self) -> bool {
        let addr = self.server.addr().to_string();
        self.reaches(&addr)
    }

    fn state(&self, id: &str) -> String {
        let grants = self.guard.json(&["grants"]);
        let all = grants["grants"].as_array().unwrap();
        let grant = all.iter().find(|grant| grant["id"] == id).unwrap();
        grant["state"].as_str().unwrap().to_owned()
    }
}

#[test]
fn what_is_sealed_is_reached_under_a_lease_alone() {
    let mut s = Scene::new();
    assert!(!s.reaches_it());
    let rules = s.guard.json(&["policy", "explain", &s.session()]);
    assert!(rules.to_string().contains("sealed:infra"), "{rules}");
    let id = s.grant(&["--reason", "because"]);
    assert!(s.reaches_it());
    s.guard.must(&["revoke", &id]);
    assert!(!s.reaches_it());
    assert_eq!(s.state(&id), "revoked");
    // Another session's lease is another's.
    let neighbour = s.guard.tool();
    let session = s.guard.session_of(neighbour.pid()).unwrap();
    s.guard.must(&["grant", &session, "--label", "infra"]);
    assert!(!s.reaches_it());
    assert_eq!(s.server.reached().connections, 1);
}

#[test]
fn a_counted_lease_is_used_up() {
    let mut s = Scene::new();
    let id = s.grant(&["--uses", "2"]);
    assert!(s.reaches_it());
    assert_eq!(s.guard.json(&["grants"])["grants"][0]["uses"], 1);
    // The same terms twice would be one entry in the kernel.
    let session = s.session();
    let said = s.guard.ctl(&["grant", &session, "--label", "infra"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("revoke it first"), "{said:?}");
    assert!(s.reaches_it());
    assert!(!s.reaches_it());
    assert_eq!(s.state(&id), "used up");
    // What is used up is in nobody's way.
    s.grant(&[]);
    assert!(s.reaches_it());
}

#[test]
fn the_kernel_counts_and_ends_leases_while_guardd_is_down() {
    let mut s = Scene::new();
    let id = s.grant(&["--uses", "3"]);
    for make_way in [false, true] {
        if make_way {
            s.guard.make_way();
        } else {
            s.guard.kill();
        }
        assert!(s.reaches_it());
        s.guard.start();
        assert_eq!(s.state(&id), "active");
    }
    assert_eq!(s.guard.json(&["grants"])["grants"][0]["uses"], 1);
    assert!(s.reaches_it());
    assert!(!s.reaches_it());
    let id = s.grant(&["--for", "2s"]);
    s.guard.kill();
    assert!(s.reaches_it());
    let_pass(Duration::from_millis(2_100));
    assert!(!s.reaches_it());
    s.guard.start();
    assert!(!s.reaches_it());
    assert_eq!(s.state(&id), "expired");
}

#[test]
fn a_lease_may_be_for_one_address_and_for_one_operation() {
    let mut s = Scene::new();
    let (addr, other) = (s.server.addr().to_string(), s.other.addr().to_string());
    s.grant(&["--address", &addr, "--uses", "1", "--operation", "connect"]);
    assert!(!s.reaches(&other));
    assert!(s.reaches(&addr));
    assert!(!s.reaches(&addr));
    s.grant(&["--operation", "open,exec"]);
    assert!(!s.reaches(&addr));
    let session = s.session();
    for (args, why) in [
        (&["--address", "192.0.2.7"][..], "with a port"),
        (&["--path", "/nonexistent/file"], "/nonexistent/file"),
    ] {
        let said = s
            .guard
            .ctl(&[&["grant", &session, "--label", "infra"], args].concat());
        assert!(said.status != 0 && said.err.contains(why), "{said:?}");
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
    }
}

#[test]
fn a_sealed_file_is_opened_under_a_lease_alone_also_for_itself() {
    let place = Place::new();
    let one = place.file("one.secret", "1").display().to_string();
    let two = place.file("two.secret", "2").display().to_string();
    let label =
        format!("[[label]]\nname = \"credential\"\nsealed = true\nfiles = [{one:?}, {two:?}]");
    let guard = Guard::new(&place, &Policy::new().and(&label));
    let mut tool = guard.tool();
    let session = guard.session_of(tool.pid()).unwrap();
    if guard.hook("open")["tier"] == "tracepoint" {
        // It has happened when it is judged: then the process ends, and single files cannot be told.
        let terms = ["grant", &session, "--label", "credential"];
        let said = guard.ctl(&[&terms[..], &["--path", &one]].concat());
        assert_eq!(said.status, 1, "{said:?}");
        assert!(said.err.contains("leave --path out"), "{said:?}");
        guard.must(&terms);
        tool.must(&format!("open openat {one}"));
        let mut without = guard.tool();
        without.tell(&format!("open openat {one}"));
        without.was_killed();
        return;
    }
    let opens = |tool: &mut Tool, path: &str| {
        let answer = tool.ask(&format!("open openat {path}"));
        answer.get("error").is_none()
    };
    assert!(!opens(&mut tool, &one));
    guard.must(&["grant", &session, "--label", "credential", "--path", &one]);
    assert!(opens(&mut tool, &one));
    assert!(!opens(&mut tool, &two));
    guard.must(&["grant", &session, "--label", "credential"]);
    assert!(opens(&mut tool, &two));
}

#[test]
fn a_session_asks_and_a_person_answers() {
    let mut s = Scene::new();
    let guardctl = s.guard.guardctl().get_program().to_owned();
    let guardctl = s.place.program(guardctl.as_ref(), "guardctl");
    let (guardctl, socket) = (guardctl.display(), s.guard.socket().display().to_string());
    let ask = format!("run {guardctl} --socket {socket} --json request --label infra");
    // It may ask, and that gives it nothing.
    let answer = s.tool.must(&format!("{ask} --reason fix-staging --uses 2"));
    assert_eq!(answer["status"], 0, "{answer}");
    assert!(!s.reaches_it());
    let pending = s.guard.json(&["pending"]);
    let asked = &pending["asked"][0];
    assert_eq!(asked["state"], "asked", "{pending}");
    assert_eq!(asked["reason"], "fix-staging");
    let text = s.guard.must(&["pending"]).out;
    let id = asked["id"].as_str().unwrap();
    assert!(text.contains(&format!("approve {id}")), "{text}");
    // Nor may it answer.
    let answer = s
        .tool
        .must(&format!("run {guardctl} --socket {socket} approve {id}"));
    assert_eq!(answer["status"], 4, "{answer}");
    assert!(!s.reaches_it());
    s.guard.must(&["approve", id, "--for", "1h"]);
    assert!(s.reaches_it());
    assert!(s.reaches_it());
    assert!(!s.reaches_it());
    // One that is refused, and waits for it.
    s.tool.tell(&format!("{ask} --wait"));
    let id = eventually("it asks", || {
        let pending = s.guard.json(&["pending"]);
        pending["asked"][0]["id"].as_str().map(str::to_owned)
    });
    s.guard.must(&["deny", &id]);
    assert_eq!(s.tool.answer()["status"], 1);
    assert_eq!(s.state(&id), "refused");
    let said = s.guard.ctl(&["approve", &id]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(!s.reaches_it());
    // One that is given, and waits for it.
    s.tool.tell(&format!("{ask} --wait"));
    let id = eventually("it asks", || {
        let pending = s.guard.json(&["pending"]);
        pending["asked"][0]["id"].as_str().map(str::to_owned)
    });
    s.guard.must(&["approve", &id]);
    assert_eq!(s.tool.answer()["status"], 0);
    assert!(s.reaches_it());
    // Not for ever more.
    for asked in 0..9 {
        let answer = s.tool.must(&ask);
        assert_eq!(answer["status"], i32::from(asked == 8), "{answer}");
    }
    // Nobody outside asks.
    let said = s.guard.ctl(&["request", "--label", "infra"]);
    assert_eq!(said.status, 2, "{said:?}");
}

#[test]
fn what_was_asked_and_given_ends_with_its_session() {
    let s = Scene::new();
    let id = s.grant(&["--for", "1h"]);
    let session = s.session();
    drop(s.tool);
    eventually("the session ends", || {
        let sessions = s.guard.sessions();
        sessions.iter().all(|it| it["id"] != session).then_some(())
    });
    let grants = s.guard.json(&["grants"]);
    assert_eq!(grants["grants"][0]["id"], id.as_str());
    assert_eq!(grants["grants"][0]["state"], "expired");
}

#[test]
fn observing_a_seal_touches_nothing_and_tells() {
    let (place, server) = (Place::new(), Tcp::v4());
    let label = format!(
        "[[label]]\nname = \"infra\"\nsealed = true\naddresses = [\"{}\"]",
        server.addr()
    );
    let guard = Guard::new(&place, &Policy::new().observing().and(&label));
    let mut events = guard.events();
    let mut tool = guard.tool();
    assert_eq!(
        tool.must(&format!("tcp {} hello", server.addr()))["echo"],
        "hello"
    );
    let event = events.wait("the connect", |event| {
        event.is("connect") && event.has("infra")
    });
    assert_eq!(event["would"], "deny", "{event:?}");
    assert_eq!(event["rule"], "sealed:infra");
}
