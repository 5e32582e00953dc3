//! Who may do what, and `guardctl run` as a stand-in for its command.

use std::{io::Write as _, process::Stdio};

use guard_tests::{Guard, Place, Policy, Tool, fixture, has_program, proc, server::Tcp};

/// A guard that holds connections to a server.
fn holding(place: &Place, server: &Tcp) -> Guard {
    let policy =
        Policy::new()
            .addresses("infra", &[server.addr()])
            .rule("r", &["infra"], "hold", "");
    Guard::new(place, &policy)
}

/// A copy of guardctl that everybody can run.
fn public_guardctl(place: &Place, guard: &Guard) -> String {
    let program = guard.guardctl().get_program().to_owned();
    place
        .program(program.as_ref(), "guardctl")
        .display()
        .to_string()
}

#[test]
fn a_process_inside_a_session_may_not_answer_for_itself_even_as_root() {
    let (place, server) = (Place::new(), Tcp::v4());
    let guard = holding(&place, &server);
    let guardctl = public_guardctl(&place, &guard);
    let mut held = guard.tool();
    let mut inside = guard.tool();
    held.tell(&format!("tcp {} hello", server.addr()));
    let hold = guard.hold();
    let (id, session) = (
        hold["id"].as_str().unwrap(),
        hold["session"].as_str().unwrap(),
    );
    let own = guard.session_of(inside.pid()).unwrap();
    let socket = guard.socket().display().to_string();
    for command in [
        format!("approve {id}"),
        format!("approve {id} --for 1h"),
        format!("deny {id}"),
        format!("grant {session} --label infra"),
        format!("grant {own} --label infra"),
        "revoke g-1".into(),
        format!("pause {session}"),
        format!("resume {session}"),
        format!("kill {session}"),
        "policy reload".into(),
        "enforce".into(),
        "observe".into(),
        format!("adopt {}", held.pid()),
    ] {
        let answer = inside.must(&format!("run {guardctl} --socket {socket} {command}"));
        assert_eq!(answer["status"], 4, "{command}: {answer}");
        assert_eq!(
            answer["stderr"].as_str().unwrap().lines().count(),
            1,
            "{answer}"
        );
        // Nor by way of a child that has left its parents.
        let orphan = format!("setsid {guardctl} --socket {socket} {command}");
        let answer = inside.must(&format!("run {orphan}"));
        assert_eq!(answer["status"], 4, "{command}: {answer}");
    }
    // To look is allowed.
    let answer = inside.must(&format!("run {guardctl} --socket {socket} status"));
    assert_eq!(answer["status"], 0, "{answer}");
    assert_eq!(guard.holds().len(), 1);
    proc::wait_stopped(held.pid());
    server.untouched_while_held(&guard);
    guard.deny(&[]);
    held.was_refused(&guard);
}

#[test]
fn another_user_may_not_answer() {
    let (place, server) = (Place::new(), Tcp::v4());
    let guard = holding(&place, &server);
    let guardctl = public_guardctl(&place, &guard);
    let mut held = guard.tool();
    held.tell(&format!("tcp {} hello", server.addr()));
    let hold = guard.hold();
    let session = hold["session"].as_str().unwrap();
    for args in [
        &["approve", hold["id"].as_str().unwrap()][..],
        &["grant", session, "--label", "infra"],
        &["resume", session],
        &["kill", session],
        &["policy", "reload"],
        &["enforce"],
        &["observe"],
    ] {
        let output = place
            .command("setpriv")
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                &guardctl,
                "--socket",
            ])
            .arg(guard.socket())
            .args(args)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(4), "{args:?}: {output:?}");
    }
    assert_eq!(guard.holds().len(), 1);
    server.untouched_while_held(&guard);
    guard.deny(&[]);
    held.was_refused(&guard);
}

#[test]
fn an_error_for_programs_is_json_and_has_a_code() {
    let place = Place::new();
    let guard = Guard::new(&place, &Policy::new().agent("x", &place.name("nobody"), ""));
    let said = guard.ctl(&["--json", "show", "s-99"]);
    assert_eq!(said.status, 1);
    assert_eq!(said.json()["error"]["code"], "not-found");
    let said = guard.ctl(&["--json", "show"]);
    assert_eq!(said.status, 2);
    assert_eq!(said.json()["error"]["code"], "invalid");
    let mut nobody = place.command(guard.guardctl().get_program());
    nobody
        .arg("--socket")
        .arg(place.path("nothing.sock"))
        .args(["--json", "status"]);
    let output = nobody.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("\"unreachable\""),
        "{output:?}"
    );
}

#[test]
fn events_can_be_chosen_by_session_and_kind() {
    let place = Place::new();
    let secret = place.file("secret", "x");
    let guard = Guard::new(&place, &Policy::new().files("secret", &[secret.display()]));
    let (mut one, mut other) = (guard.tool(), guard.tool());
    let mut events = guard.events();
    for tool in [&mut one, &mut other] {
        tool.must(&format!("open openat {}", secret.display()));
        let pid = tool.pid();
        events.wait("the open", |e| e.is("open") && e.of(pid));
    }
    let session = guard.session_of(other.pid()).unwrap();
    let said = guard.must(&["--json", "events", "--session", &session, "--kind", "open"]);
    assert_eq!(said.out.lines().count(), 1, "{said:?}");
    assert!(
        said.out.contains(&format!("\"tgid\":{}", other.pid())),
        "{said:?}"
    );
    let said = guard.must(&["events", "--kind", "open"]);
    assert_eq!(said.out.lines().count(), 2, "{said:?}");
}

#[test]
fn run_exits_as_its_command_does() {
    let place = Place::new();
    let guard = Guard::new(&place, &Policy::new().agent("x", &place.name("nobody"), ""));
    for (script, status) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("kill -TERM $$", 143),
        ("kill -9 $$", 137),
    ] {
        let output = guard
            .run(&[], "/bin/sh")
            .args(["-c", script])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(status), "{script}: {output:?}");
    }
    let output = guard
        .run(&[], place.path("no-such-program"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(127), "{output:?}");
    let output = guard
        .run(&[], place.file("not-executable", "x"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(126), "{output:?}");
}

#[test]
fn run_gives_its_command_the_callers_surroundings() {
    let place = Place::new();
    let guard = Guard::new(&place, &Policy::new().agent("x", &place.name("nobody"), ""));
    std::fs::create_dir(place.path("work")).unwrap();
    let mut child = guard
        .run(&[], "/bin/sh")
        .args(["-c", "echo $FIXTURE_WORD; pwd; cat; echo err >&2"])
        .env("FIXTURE_WORD", "kept")
        .current_dir(place.path("work"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"through stdin\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let work = place.path("work").canonicalize().unwrap();
    let expected = format!("kept\n{}\nthrough stdin\n", work.display());
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
    assert!(output.status.success());
}

#[test]
fn run_hands_signals_on() {
    let place = Place::new();
    let guard = Guard::new(&place, &Policy::new().agent("x", &place.name("nobody"), ""));
    let script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do read x || :; done";
    let mut child = guard
        .run(&[], "/bin/sh")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    proc::signal(child.id(), rustix::process::Signal::TERM);
    line.clear();
    // dash looks at its traps when a command has ended.
    drop(child.stdin.take());
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "caught\n");
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn run_as_another_user_is_watched_as_well() {
    let (place, server) = (Place::new(), Tcp::v4());
    let policy =
        Policy::new()
            .addresses("infra", &[server.addr()])
            .rule("r", &["infra"], "deny", "");
    let guard = Guard::new(&place, &policy);
    let mut events = guard.events();
    let program = place.tool("body");
    let mut tool = Tool::start(guard.run(&["--user", "nobody"], program));
    assert_eq!(tool.must("who")["uid"], 65534);
    assert_eq!(
        tool.ask(&format!("tcp {} x", server.addr()))["errno"],
        libc::EPERM
    );
    let event = events.wait("the denial", |e| e.is_connect("infra", "deny"));
    assert_eq!(event["uid"], 65534);
    let said = guard.ctl(&["run", "--user", "no-such-user-here", "--", "true"]);
    assert_eq!(said.status, 2, "{said:?}");
}

#[test]
fn run_without_guardd_runs_nothing() {
    let place = Place::new();
    let mut guard = Guard::new(&place, &Policy::new().agent("x", &place.name("nobody"), ""));
    assert!(guard.stop().success());
    let proof = place.path("proof");
    let output = guard
        .run(&[], "/usr/bin/touch")
        .arg(&proof)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(!proof.exists());
}

/// Connects, leaves the socket to a child and ends; the child asks. Its parent does not wait for it, so
/// that the process the kernel knows as the peer is a zombie by then.
const THROUGH_A_ZOMBIE: &str = r#"
import os, socket, sys
read, write = os.pipe()
if os.fork() == 0:
    os.close(read)
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(sys.argv[1])
    owner = os.getpid()
    if os.fork() != 0:
        os._exit(0)
    while open(f"/proc/{owner}/stat").read().rsplit(") ", 1)[1][0] != "Z":
        pass
    peer.sendall(b'{"cmd":"policy-reload"}\n')
    os.write(write, peer.recv(65536))
    os._exit(0)
os.close(write)
print(os.read(read, 65536).decode(), end="")
"#;

#[test]
fn a_process_that_has_left_its_socket_to_a_child_may_not_decide() {
    if !has_program("python3") {
        return;
    }
    let (place, server) = (Place::new(), Tcp::v4());
    let guard = holding(&place, &server);
    let script = place.file("ask.py", THROUGH_A_ZOMBIE);
    let socket = guard.socket().display().to_string();
    let ask = format!("run python3 -I {} {socket}", script.display());
    let mut inside = guard.tool();
    // Outside a session too: who cannot be told may not.
    for tool in [&mut inside, &mut guard.stranger()] {
        let answer = tool.must(&ask);
        let said = answer["stdout"].as_str().unwrap();
        assert!(said.contains("forbidden"), "{answer}");
    }
    assert!(!guard.events_now().iter().any(|e| e.is("policy")));
}

/// As many connections as the system lets it have, which it keeps until its stdin ends.
const CROWD: &str = r#"
import os, socket, sys
os.setuid(65534)
peers = []
for _ in range(400):
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(sys.argv[1])
    peers.append(peer)
print("ready", flush=True)
sys.stdin.read()
"#;

#[test]
fn a_crowd_of_one_user_keeps_nobody_else_out() {
    if !has_program("python3") {
        return;
    }
    let (place, server) = (Place::new(), Tcp::v4());
    let guard = holding(&place, &server);
    let script = place.file("crowd.py", CROWD);
    let mut crowd = place
        .command("python3")
        .arg("-I")
        .arg(script)
        .arg(guard.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(crowd.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    assert_eq!(line, "ready\n");
    guard.must(&["status"]);
    let mut tool = guard.tool();
    tool.tell(&format!("tcp {} hello", server.addr()));
    guard.deny(&[]);
    assert_eq!(tool.answer()["errno"], libc::EPERM);
    drop(crowd.stdin.take());
    crowd.wait().unwrap();
}

#[test]
fn events_of_a_session_that_never_was_are_not_found() {
    let (place, server) = (Place::new(), Tcp::v4());
    let guard = holding(&place, &server);
    for name in ["s-7", "nonsense"] {
        let said = guard.ctl(&["events", "--session", name]);
        assert_eq!(said.status, 1, "{said:?}");
        assert!(said.err.contains(name), "{said:?}");
    }
}

#[test]
fn a_session_that_takes_every_connection_it_gets_keeps_nobody_out() {
    let place = Place::new();
    let secret = place.file("secret", "hunter2");
    let policy =
        Policy::new()
            .files("secret", &[secret.display()])
            .rule("r", &["secret"], "hold", "");
    let guard = Guard::new(&place, &policy);
    let mut command = guard.run(&[], fixture("guard-fixture-evader"));
    command
        .arg("flood-socket")
        .arg(&secret)
        .arg(format!("x;{};x", guard.socket().display()))
        .stdout(Stdio::piped());
    let agent = command.spawn().unwrap();
    // Held with all its connections open, and somebody asks, and answers.
    guard.hold();
    guard.deny(&[]);
    let said = agent.wait_with_output().unwrap().stdout;
    assert!(!String::from_utf8_lossy(&said).contains("hunter2"));
}
