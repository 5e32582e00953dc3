//! A desktop of a test's own: a real session bus, and a notification service on it.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::{Guard, Place, Tool, eventually, fixture};

/// A session bus of some user's.
pub struct Bus {
    child: Child,
    path: PathBuf,
    uid: u32,
}

impl Bus {
    /// Starts one at `bus-UID` in the place, as that user.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn start(place: &Place, uid: u32) -> Self {
        let dir = place.path(format!("run-{uid}"));
        fs::create_dir_all(&dir).expect("a directory");
        place.give(&dir, uid);
        let path = dir.join("bus");
        let mut command = as_user(place, uid, "dbus-daemon");
        let child = command
            .args(["--session", "--nofork", "--nopidfile", "--nosyslog"])
            .arg(format!("--address=unix:path={}", path.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("dbus-daemon");
        eventually("a session bus", || UnixStream::connect(&path).ok());
        Self { child, path, uid }
    }

    /// Its socket.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// The command of a notification service on it, or of a bystander, as its user.
    pub fn notifier(&self, place: &Place, bystander: bool) -> Command {
        // Where its user may go.
        let program = fixture("guard-fixture-notifier");
        let name = format!("notifier-{}-{bystander}", self.uid);
        let program = place.program(&program, &name);
        let mut command = as_user(place, self.uid, &program.to_string_lossy());
        command.arg(&self.path);
        if bystander {
            command.arg("--bystander");
        }
        command
    }

    /// The same inside a session.
    pub fn notifier_in_session(&self, guard: &Guard, bystander: bool) -> Tool {
        let mut command = guard.run(&[], fixture("guard-fixture-notifier"));
        command.arg(&self.path);
        if bystander {
            command.arg("--bystander");
        }
        Tool::start(command)
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn as_user(place: &Place, uid: u32, program: &str) -> Command {
    if uid == 0 {
        return place.command(program);
    }
    let mut command = place.command("setpriv");
    command
        .arg(format!("--reuid={uid}"))
        .arg(format!("--regid={uid}"))
        .args(["--clear-groups", "--"])
        .arg(program);
    command
}
