//! A job of an interactive shell that waits for guardd waits on its processor: the shell takes every stop for Ctrl-Z.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use guard_tests::{
    Guard, Place, Policy, api::ApiServer, eventually, has_program, patience, pty::Pty, skipped,
};

const API: &str = "api.guard-shells.test";

/// Calls in a row that the shell must not have noticed.
const ROW: usize = 5;
/// What bash says of a job that was stopped, between its number and its command line.
const NOTICED: &str = "+  Stopped ";

#[test]
fn a_shells_job_is_looked_at_without_the_shells_noticing() {
    calls_that_a_shell_makes(false);
}

/// The other guard looks at nothing, but each that lets a process go on first sees whether the other keeps it.
#[test]
fn neither_does_it_where_there_is_another_guard() {
    calls_that_a_shell_makes(true);
}

/// A call is noticed where guardd, on another processor, does not get to look at it within a millisecond: on a busy machine that
/// happens to some. If jobs were stopped, it would happen to each. So this proves that they are not, whatever the load.
fn calls_that_a_shell_makes(beside_another: bool) {
    if !["bash", "curl"].into_iter().all(has_program) {
        return;
    }
    if std::env::var_os("GUARD_LABORATORY").is_some() {
        skipped("a look takes longer than a job waits where the processor is emulated");
        return;
    }
    if std::thread::available_parallelism().is_ok_and(|count| count.get() < 2) {
        skipped("with one processor guardd cannot look while a job waits on it");
        return;
    }
    // Two jobs at once would wait on two processors, and leave guardd none.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let place = Place::new();
    let ca = place.path("ca.pem");
    let server = ApiServer::tls(&[API], &ca);
    let policy = Policy::new()
        .and(&format!(
            "[[label]]\nname = \"destructive\"\nrequests = [{{ host = {API:?}, method = \"DELETE\" }}]"
        ))
        .rule("r", &["destructive"], "deny", "");
    let other = Place::new();
    let _other = beside_another.then(|| Guard::new(&other, &Policy::new()));
    let guard = Guard::new(&place, &policy);
    let mut pty = Pty::of(0);
    let mut command = guard.run(&["--agent", "x"], "bash");
    command.args(["--norc", "--noprofile", "-i"]);
    command.env("HISTFILE", "/dev/null").env("TERM", "dumb");
    pty.seat(&mut command);
    let mut shell = command.spawn().expect("a shell");
    // The words are put together by the shell, so that what is echoed of the line does not have them.
    pty.types("PS1=; echo re''ady\n");
    pty.wait("ready\r\n");
    let url = format!("https://{API}:{0}/v1/volumes", server.port());
    let line = format!(
        "curl -sS -m 60 --http1.1 --cacert {} --resolve {API}:{}:127.0.0.1 {url} -o /dev/null; echo re''turned-",
        ca.display(),
        server.port()
    );
    let deadline = Instant::now() + patience().max(Duration::from_secs(60));
    let (mut calls, mut noticed, mut row) = (0, 0, 0);
    while row < ROW {
        assert!(
            Instant::now() < deadline,
            "of {calls} calls the shell noticed {noticed}: {}",
            pty.seen()
        );
        let before = pty.seen().len();
        calls += 1;
        pty.types(&format!("{line}{calls}\n"));
        // One that was stopped is let go on in the background: the shell waits for it here.
        pty.types(&format!("wait; echo re''st-{calls}\n"));
        let seen = pty.wait(&format!("rest-{calls}\r\n"));
        if seen[before..].contains(NOTICED) {
            noticed += 1;
            row = 0;
        } else {
            row += 1;
        }
    }
    // Each was looked at, and had its answer.
    let heard = || {
        let events = guard.events_now();
        let heard = events.iter().filter(|event| {
            event.is("request") && event["object"]["host"] == API && event["tier"] == "uprobe"
        });
        (heard.count() == calls && server.requests().len() == calls).then_some(())
    };
    eventually("every call has been looked at, and answered", heard);
    pty.types("exit\n");
    let status = eventually("the shell ends", || shell.try_wait().expect("a child"));
    assert!(status.success(), "{status}: {}", pty.seen());
}
