//! A herald that dies in the middle: people are not told twice of what they have been told, and can still answer it; and
//! the way to the world outside by a proxy.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use guard_tests::{
    Guard, Place, Tool,
    desktop::Bus,
    eventually, has_program,
    hooks::{Hooks, Received, Reply, now, signature},
    proc,
    pty::Pty,
    server::Tcp,
    told::{self, Scene, herald},
};
use rustix::process::Signal;
use serde_json::{Value, json};

const KEY: &str = "key-of-a-test";

fn webhook(place: &Place, host: &str, hooks: &Hooks, ca: &Path, more: &str) -> String {
    let key = place.file("key", KEY);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("permissions");
    format!(
        "[[notify.webhook]]\nname = \"ops\"\nurl = \"https://{host}:{}/hook\"\nkey_file = \"{}\"\nca_file = \"{}\"\n\
         poll = \"100ms\"\n{more}",
        hooks.port(),
        key.display(),
        ca.display()
    )
}

fn kind(request: &Received) -> Value {
    request.json()["type"].clone()
}

/// Ends the herald, and waits for another.
#[track_caller]
fn another_herald(guard: &Guard) {
    let first = eventually("a herald", || herald(guard));
    proc::signal(first, Signal::KILL);
    eventually("another", || herald(guard).filter(|pid| *pid != first));
}

#[test]
fn what_stands_on_a_terminal_is_not_written_again() {
    let mut pty = Pty::of(1);
    let mut s = Scene::new("[notify.terminal]\nusers = [\"daemon\"]");
    s.be_held();
    s.wait_part("terminal", "one is sent", |part| part["sent"] == 1);
    another_herald(&s.guard);
    // What is told after it would come after it.
    let mut other = s.guard.tool();
    other.tell(&format!("tcp {} hello", s.server.addr()));
    let answer = |id: &str| format!("{} approve {id} ", s.guard.socket().display());
    let seen = pty.wait(&answer("h-2"));
    assert_eq!(seen.matches(&answer("h-1")).count(), 1, "{seen}");
    for id in ["h-1", "h-2"] {
        s.guard.must(&["deny", id]);
    }
    s.tool.was_refused(&s.guard);
    other.was_refused(&s.guard);
}

#[test]
fn a_webhook_is_asked_on_and_not_told_again() {
    let place = Place::new();
    let ca = place.path("ca.pem");
    let approves = Arc::new(AtomicBool::new(false));
    let may = approves.clone();
    let hooks = Hooks::new(&ca, move |request| {
        let body = request.json();
        if body["type"] != "poll" || !may.load(Ordering::SeqCst) {
            return Reply::new(200, "");
        }
        let answer = json!({
            "answer": "approve", "token": body["answer"]["token"], "delivery": body["delivery"], "by": "sam",
        });
        let (answer, t) = (answer.to_string(), now());
        let signature = signature(KEY, "guard.answer", t, answer.as_bytes());
        Reply::new(200, answer).and("Guard-Signature", &signature)
    });
    let notify = webhook(&place, "127.0.0.1", &hooks, &ca, "answer = true");
    let mut s = Scene::in_place(place, &notify);
    s.be_held();
    s.wait_part("webhook ops", "it is sent", |part| part["sent"] == 1);
    another_herald(&s.guard);
    // A question of the second one's.
    let before = hooks.received().len();
    eventually("it is asked on", || {
        (hooks.received().len() > before + 1).then_some(())
    });
    approves.store(true, Ordering::SeqCst);
    s.goes_on();
    hooks.wait("its end", |request| kind(request) == "ended");
    let told = hooks.received();
    let told = told.iter().filter(|request| kind(request) == "hold");
    assert_eq!(told.count(), 1);
}

#[test]
fn a_notification_is_shown_in_the_place_of_the_one_that_nobody_hears_any_more() {
    if !has_program("dbus-daemon") {
        return;
    }
    let place = Place::new();
    let bus = Bus::start(&place, 0);
    let notify = format!(
        "[notify.desktop]\nusers = [\"root\"]\nbus = \"{}\"\nanswer = true",
        place.path("run-{uid}/bus").display()
    );
    let mut s = Scene::in_place(place, &notify);
    let mut notifier = Tool::start(bus.notifier(&s.place, false));
    s.be_held();
    let first = notifier.ask("shown");
    s.wait_part("desktop", "it is shown", |part| part["sent"] == 1);
    another_herald(&s.guard);
    let second = notifier.ask("shown");
    assert_eq!(second["replaces"], first["id"], "{second}");
    assert_eq!(second["id"], first["id"], "{second}");
    // The service must have read who shows it now.
    s.wait_part("desktop", "it is shown again", |part| part["sent"] == 1);
    let actions = second["actions"].as_array().expect("actions");
    let mut actions = actions.iter().filter_map(Value::as_str);
    let deny = actions.find(|key| key.starts_with("deny:"));
    let click = format!("click {} {}", second["id"], deny.expect("a button"));
    notifier.must(&click);
    s.tool.was_refused(&s.guard);
}

#[test]
fn another_channel_under_the_same_name_is_told() {
    let place = Place::new();
    let (first_ca, second_ca) = (place.path("first.pem"), place.path("second.pem"));
    let first = Hooks::new(&first_ca, |_| Reply::new(200, ""));
    let second = Hooks::new(&second_ca, |_| Reply::new(200, ""));
    let notify = webhook(&place, "127.0.0.1", &first, &first_ca, "");
    let mut s = Scene::in_place(place, &notify);
    s.be_held();
    s.wait_part("webhook ops", "it is sent", |part| part["sent"] == 1);
    let notify = webhook(&s.place, "127.0.0.1", &second, &second_ca, "");
    fs::write(s.guard.policy(), &*told::policy(&s.server, &notify)).expect("a policy");
    s.guard.must(&["policy", "reload"]);
    second.wait("the hold", |request| kind(request) == "hold");
    s.guard.approve(&[]);
    s.goes_on();
}

/// A proxy that knows where one name is; the requests that it has got.
fn proxy(name: &'static str, port: u16) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let own = listener.local_addr().expect("an address").port();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = asked.clone();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let kept = kept.clone();
            thread::spawn(move || {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut byte)?;
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let known = head.starts_with(&format!("CONNECT {name}:{port} HTTP/1.1\r\n"));
                kept.lock().expect("a lock").push(head);
                if !known {
                    return stream
                        .write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n");
                }
                let mut far = TcpStream::connect(("127.0.0.1", port))?;
                stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
                let (mut from, mut to) = (stream.try_clone()?, far.try_clone()?);
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
                std::io::copy(&mut far, &mut stream)?;
                stream.shutdown(std::net::Shutdown::Both)
            });
        }
    });
    (own, asked)
}

/// A guard whose herald has this in its environment.
fn through(place: &Place, server: &Tcp, notify: &str, environment: &[&str]) -> Guard {
    Guard::of(place)
        .through(&[&["env"], environment].concat())
        .start(&told::policy(server, notify))
}

#[test]
fn messages_go_by_the_proxy_of_the_services_environment() {
    const NAME: &str = "ops.guard.test";
    let place = Place::new();
    let ca = place.path("ca.pem");
    let hooks = Hooks::named(&[NAME], &ca, |_| Reply::new(200, ""));
    let (port, asked) = proxy(NAME, hooks.port());
    let (server, notify) = (Tcp::v4(), webhook(&place, NAME, &hooks, &ca, ""));
    let proxy = format!("HTTPS_PROXY=http://made:up@127.0.0.1:{port}");
    let guard = through(&place, &server, &notify, &[&proxy]);
    let mut tool = guard.tool();
    tool.tell(&format!("tcp {} hello", server.addr()));
    hooks.wait("the hold", |request| kind(request) == "hold");
    let head = asked.lock().expect("a lock")[0].to_lowercase();
    // made:up
    assert!(
        head.contains("proxy-authorization: basic bwfkztp1ca=="),
        "{head}"
    );
    guard.deny(&[]);
    tool.was_refused(&guard);
}

#[test]
fn a_proxy_that_refuses_is_told_without_its_password() {
    let place = Place::new();
    let ca = place.path("ca.pem");
    let hooks = Hooks::named(&["ops.guard.test"], &ca, |_| Reply::new(200, ""));
    let (port, _) = proxy("other.guard.test", hooks.port());
    let server = Tcp::v4();
    let notify = webhook(&place, "ops.guard.test", &hooks, &ca, "");
    let proxy = format!("HTTPS_PROXY=http://made:up@127.0.0.1:{port}");
    let guard = through(&place, &server, &notify, &[&proxy]);
    let mut tool = guard.tool();
    tool.tell(&format!("tcp {} hello", server.addr()));
    let part = eventually("it fails", || {
        told::part(&guard, "webhook ops").filter(|part| part["state"] == "failing")
    });
    let error = part["error"].as_str().expect("an error");
    assert!(
        error.contains(&format!("the proxy 127.0.0.1:{port} answers 403"))
            && !error.contains("made"),
        "{error}"
    );
    assert!(hooks.received().is_empty());
    guard.deny(&[]);
    tool.was_refused(&guard);
}

#[test]
fn hosts_of_no_proxy_are_spoken_to_directly() {
    let place = Place::new();
    let ca = place.path("ca.pem");
    let hooks = Hooks::new(&ca, |_| Reply::new(200, ""));
    let (port, asked) = proxy("other.guard.test", hooks.port());
    let (server, notify) = (Tcp::v4(), webhook(&place, "127.0.0.1", &hooks, &ca, ""));
    let proxy = format!("HTTPS_PROXY=http://127.0.0.1:{port}");
    let guard = through(&place, &server, &notify, &[&proxy, "NO_PROXY=127.0.0.0/8"]);
    let mut tool = guard.tool();
    tool.tell(&format!("tcp {} hello", server.addr()));
    hooks.wait("the hold", |request| kind(request) == "hold");
    assert!(asked.lock().expect("a lock").is_empty());
    guard.deny(&[]);
    tool.was_refused(&guard);
}
