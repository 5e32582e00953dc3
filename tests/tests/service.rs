//! What the service manager hears of guardd (sd_notify(3)).

use std::{fs, os::unix::net::UnixDatagram};

use guard_tests::{Guard, Place, Policy, eventually};

/// The manager's side.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(place: &Place) -> (Self, Vec<String>) {
        let path = place.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let env = [
            "env".to_owned(),
            format!("NOTIFY_SOCKET={}", path.display()),
        ];
        let heard = Vec::new();
        (Self { socket, heard }, env.into())
    }

    fn listen(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let said = String::from_utf8_lossy(&buffer[..length]);
            self.heard.extend(said.lines().map(str::to_owned));
        }
    }

    /// Waits for a line that begins so, and forgets what came up to it.
    #[track_caller]
    fn hears(&mut self, beginning: &str) -> String {
        eventually(&format!("{beginning:?} is said"), || {
            self.listen();
            let at = self
                .heard
                .iter()
                .position(|line| line.starts_with(beginning))?;
            self.heard.drain(..=at).next_back()
        })
    }
}

fn start(place: &Place, env: &[String], policy: &str) -> Guard {
    let env: Vec<&str> = env.iter().map(String::as_str).collect();
    Guard::of(place).through(&env).start(policy)
}

#[test]
fn a_service_manager_is_told_of_start_reload_sessions_and_end() {
    let place = Place::new();
    let (mut manager, env) = Manager::new(&place);
    let policy = Policy::new();
    let mut guard = start(&place, &env, &policy);
    manager.hears("READY=1");
    manager.hears("STATUS=enforce: 0 sessions");
    let tool = guard.tool();
    manager.hears("STATUS=enforce: 1 session");
    tool.finish();
    manager.hears("STATUS=enforce: 0 sessions");

    guard.must(&["policy", "reload"]);
    manager.hears("RELOADING=1");
    let time = manager.hears("MONOTONIC_USEC=");
    let usec: u64 = time["MONOTONIC_USEC=".len()..].parse().unwrap();
    assert!(usec > 0);
    manager.hears("READY=1");
    // One that fails is over as well.
    fs::write(guard.policy(), "nonsense").unwrap();
    assert_eq!(guard.ctl(&["policy", "reload"]).status, 2);
    manager.hears("RELOADING=1");
    manager.hears("READY=1");

    assert!(guard.stop().success());
    manager.hears("STOPPING=1");
    assert!(
        !manager.heard.iter().any(|line| line == "WATCHDOG=1"),
        "nobody has asked for signs of life"
    );
}

#[test]
fn signs_of_life_come_from_the_loop_that_does_the_work() {
    let place = Place::new();
    let (mut manager, mut env) = Manager::new(&place);
    env.push("WATCHDOG_USEC=3000000".into());
    let guard = start(&place, &env, &Policy::new());
    // With nothing to do, and with a session.
    for _ in 0..2 {
        manager.hears("WATCHDOG=1");
    }
    let _tool = guard.tool();
    manager.hears("WATCHDOG=1");
    // A variable that is meant for another process asks for nothing.
    let other = Place::new();
    let (mut manager, mut env) = Manager::new(&other);
    env.extend(["WATCHDOG_USEC=1".into(), "WATCHDOG_PID=1".into()]);
    let guard = start(&other, &env, &Policy::new());
    manager.hears("READY=1");
    let _tool = guard.tool();
    manager.hears("STATUS=enforce: 1 session");
    assert!(!manager.heard.iter().any(|line| line == "WATCHDOG=1"));
}
