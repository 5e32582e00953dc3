//! Support for the end-to-end tests: a guardd of the test's own, programs to put under it, servers
//! that count what reaches them, and waiting with a deadline.
//!
//! Everything a test starts carries its [`Place`]'s mark in the environment. When the place goes, no
//! process with the mark may be left stopped, and none is left running.

pub mod api;
pub mod ci;
pub mod clients;
pub mod containers;
pub mod desktop;
pub mod dns;
pub mod evasion;
mod events;
mod guard;
pub mod hello;
pub mod hooks;
mod lines;
mod place;
mod policy;
pub mod proc;
pub mod pty;
pub mod quic;
pub mod resolving;
pub mod secrets;
pub mod server;
pub mod slack;
pub mod tls;
pub mod tmux;
pub mod told;
mod tool;

use std::{
    thread,
    time::{Duration, Instant},
};

pub use events::{Event, Events};
pub use guard::{Guard, Guards, Said};
pub use place::{MARK, Place, fixture, tested};
pub use policy::Policy;
pub use tool::Tool;

/// Names a number of seconds: see [`patience`].
pub const PATIENCE_VAR: &str = "GUARD_TEST_PATIENCE";

/// How long a test waits for what must come. Long, for a loaded machine: nobody waits it out unless
/// something is wrong. Where the processor is emulated the environment gives more.
pub fn patience() -> Duration {
    let given = std::env::var(PATIENCE_VAR).ok();
    Duration::from_secs(given.and_then(|text| text.parse().ok()).unwrap_or(20))
}

/// Says that a test cannot be tried here, and why: past the test harness, which shows nothing of tests that pass,
/// and counts this one among them. `cargo xtask` counts these lines.
pub fn skipped(why: &str) {
    skip("skipped", why);
}

/// Whether this machine has a program that a test needs; if not, the test says so and ends.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    if !found {
        skipped(&format!("{name} is not installed here"));
    }
    found
}

/// The same of a part of a test.
pub fn skipped_in_part(why: &str) {
    skip("skipped in part", why);
}

fn skip(what: &str, why: &str) {
    use std::io::Write as _;
    let name = thread::current().name().unwrap_or_default().to_owned();
    let why = why.trim().replace('\n', " ");
    let _ = writeln!(std::io::stdout().lock(), "{what}: {name}: {why}");
}

/// Waits until `found` gives something, for what no descriptor tells: the state of a process, or of
/// guardd as `status` shows it.
///
/// # Panics
/// When it has not come by the deadline.
#[track_caller]
pub fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "not within {} s: {what}",
            patience().as_secs()
        );
        thread::sleep(Duration::from_millis(2));
    }
}

/// Lets time pass on the clock that windows and leases are measured by. Only where time itself is what
/// the test is about.
pub fn let_pass(time: Duration) {
    let end = proc::monotonic() + time;
    while let Some(left) = end.checked_sub(proc::monotonic()) {
        if left.is_zero() {
            break;
        }
        thread::sleep(left);
    }
}
