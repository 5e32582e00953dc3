//! What a server outside the session starts because the session asked for it.

use std::fs;

use guard_tests::{Guard, Place, Policy, eventually, has_program};

const SECRET: &str = "hunter2-behind-a-server";

/// `follow` of the label `broker` as it is, and nobody may open the secret.
fn policy(place: &Place, socket: &str, follow: &str) -> (Policy, String) {
    let secret = place.file("secret", SECRET);
    let socket = place.path(socket);
    let broker = format!(
        "[[label]]\nname = \"broker\"\naddresses = [\"unix:{}\"]\n{follow}\n",
        socket.display()
    );
    let policy = Policy::new()
        .files("secret", &[secret.display()])
        .and(&broker)
        .rule("r-secret", &["secret"], "deny", "");
    (policy, format!("/bin/cat {}", secret.display()))
}

#[test]
fn what_a_followed_server_starts_for_a_session_belongs_to_it() {
    let place = Place::new();
    let (policy, show) = policy(&place, "*.sock", "follow = true");
    let guard = Guard::new(&place, &policy);
    let mut events = guard.events();
    let (mut server, mut other, mut user) = (guard.stranger(), guard.stranger(), guard.stranger());
    let (at, at_other) = (place.path("server.sock"), place.path("other.sock"));
    server.must(&format!("serve {}", at.display()));
    other.must(&format!("serve {}", at_other.display()));
    let reads = |answer: serde_json::Value| answer["said"].as_str().unwrap().contains(SECRET);

    // Nobody's business.
    assert!(reads(user.must(&format!("ask {} {show}", at.display()))));
    let mut agent = guard.tool();
    let session = guard.session_of(agent.pid()).unwrap();
    assert!(reads(user.must(&format!("ask {} {show}", at.display()))));

    assert!(!reads(agent.must(&format!("ask {} {show}", at.display()))));
    let followed = events.wait("it is followed", |event| {
        event["object"]["what"] == "followed"
    });
    assert_eq!(followed.session(), session);
    assert_eq!(followed["object"]["server_pid"], server.pid());
    let refused = events.wait("it is refused", |event| event["rule"] == "r-secret");
    assert_eq!(refused.session(), session);
    assert_eq!(refused["tgid"], followed["tgid"]);
    // The server itself stays who it is, and one that no session has reached starts what it likes.
    assert_eq!(guard.session_of(server.pid()), None);
    assert!(reads(
        user.must(&format!("ask {} {show}", at_other.display()))
    ));

    // Not for ever: when the session's process has gone, what the server starts is its own again.
    agent.finish();
    eventually("nothing is followed", || {
        reads(user.must(&format!("ask {} {show}", at.display()))).then_some(())
    });
}

#[test]
fn every_descendant_of_what_a_followed_server_starts_belongs_to_the_session() {
    let place = Place::new();
    let (policy, show) = policy(&place, "server.sock", "follow = true");
    let guard = Guard::new(&place, &policy);
    let mut server = guard.stranger();
    let at = place.path("server.sock");
    server.must(&format!("serve {}", at.display()));
    // As a build server does: many jobs at once, some of them by a process between.
    let script = place.script(
        "jobs",
        &format!(
            "#!/bin/sh\ni=0\nwhile [ $i -lt 50 ]; do\n{show} &\n({show} &)\ni=$((i+1))\ndone\nwait\necho over\n"
        ),
    );
    let mut agent = guard.tool();
    let answer = agent.must(&format!("ask {} {}", at.display(), script.display()));
    let said = answer["said"].as_str().unwrap();
    assert!(!said.contains(SECRET) && said.contains("over"), "{said}");
    // Asked again, and again followed.
    let answer = agent.must(&format!("ask {} {show}", at.display()));
    assert!(
        !answer["said"].as_str().unwrap().contains(SECRET),
        "{answer}"
    );
}

#[test]
fn a_server_is_followed_again_once_it_is_reached_after_a_restart_of_guardd() {
    let place = Place::new();
    let (policy, show) = policy(&place, "server.sock", "follow = true");
    let mut guard = Guard::new(&place, &policy);
    let mut server = guard.stranger();
    let at = place.path("server.sock");
    server.must(&format!("serve {}", at.display()));
    let mut agent = guard.tool();
    let ask = format!("ask {} {show}", at.display());
    for round in 0..3 {
        let answer = agent.must(&ask);
        assert!(
            !answer["said"].as_str().unwrap().contains(SECRET),
            "round {round}: {answer}"
        );
        guard.kill();
        guard.start();
    }
}

#[test]
fn a_server_that_is_not_followed_stays_a_way_out_and_the_connection_is_told() {
    let place = Place::new();
    let (policy, show) = policy(&place, "server.sock", "");
    let policy = policy.rule("r-broker", &["broker"], "flag", "");
    let guard = Guard::new(&place, &policy);
    let mut events = guard.events();
    let mut server = guard.stranger();
    let at = place.path("server.sock");
    server.must(&format!("serve {}", at.display()));
    let mut agent = guard.tool();
    let answer = agent.must(&format!("ask {} {show}", at.display()));
    assert!(
        answer["said"].as_str().unwrap().contains(SECRET),
        "{answer}"
    );
    events.wait("the flag", |event| event.is_connect("broker", "flag"));
    events.none("following", |event| event["object"]["what"] == "followed");
}

#[test]
fn a_window_that_a_session_opens_in_a_running_tmux_belongs_to_it() {
    if !has_program("tmux") {
        return;
    }
    let place = Place::new();
    let (policy, show) = policy(&place, "tmux.sock", "follow = true");
    let guard = Guard::new(&place, &policy);
    let mut events = guard.events();
    let (at, out) = (place.path("tmux.sock"), place.path("out"));
    let started = place
        .command("tmux")
        .args(["-f", "/dev/null", "-S"])
        .arg(&at)
        .args(["new-session", "-d", "-s", "theirs", "exec sleep 600"])
        .status()
        .unwrap();
    assert!(started.success());
    // It has begun before the session comes; what the server still starts then would be taken for the session's.
    let theirs = eventually("the first window", || {
        place.processes().into_iter().find(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with(b"sleep\x00600\0")
        })
    });
    let script = place.script(
        "window",
        &format!("#!/bin/sh\n{show} > {}\necho over >> {0}\n", out.display()),
    );
    let mut agent = guard.tool();
    let session = guard.session_of(agent.pid()).unwrap();
    let answer = agent.must(&format!(
        "run tmux -S {} new-window -d {}",
        at.display(),
        script.display()
    ));
    assert_eq!(answer["status"], 0, "{answer}");
    let followed = events.wait("it is followed", |event| {
        event["object"]["what"] == "followed"
    });
    assert_eq!(followed.session(), session);
    events.wait("it is refused", |event| event["rule"] == "r-secret");
    eventually("the window's script is over", || {
        let text = fs::read_to_string(&out).unwrap_or_default();
        assert!(!text.contains(SECRET), "{text}");
        text.contains("over").then_some(())
    });
    // What was there before is nobody's.
    assert_eq!(guard.session_of(theirs), None);
}
