//! What a test has for itself: a directory, names that nobody else has, and a mark on all it starts.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::proc;

/// The variable that marks what a test has started; its value is the place's.
pub const MARK: &str = "GUARD_FIXTURE_PLACE";

/// A test's own ground. Cloned freely; it is cleared when the last clone goes.
#[derive(Clone)]
pub struct Place(Arc<Ground>);

struct Ground {
    dir: TempDir,
    id: String,
    mark: String,
}

impl Place {
    /// A new one.
    ///
    /// # Panics
    /// When the tests do not run as root: they load kernel programs.
    #[expect(
        clippy::new_without_default,
        reason = "it makes a directory and may fail"
    )]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "the end-to-end tests load kernel programs and need root: run 'cargo xtask test'"
        );
        let id = format!(
            "{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = tempfile::Builder::new()
            .prefix("guard-test-")
            .tempdir()
            .expect("a directory");
        // Programs of other users run in here too.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        let mark = format!("{MARK}={id}");
        Self(Arc::new(Ground { dir, id, mark }))
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.0.dir.path()
    }

    /// What [`MARK`] is set to.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// A path in its directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir().join(name)
    }

    /// Writes a file, and the directories above it; gives its path.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(&path, text).expect("a file");
        path
    }

    /// A program's or variable's name that no other test, nor this one's second run, has.
    pub fn name(&self, what: &str) -> String {
        format!("guard-fixture-{what}-{}", self.0.id)
    }

    /// A copy of the fixture tool under its own [`name`](Self::name).
    pub fn tool(&self, what: &str) -> PathBuf {
        self.program(&fixture("guard-fixture-tool"), &self.name(what))
    }

    /// A copy of a program, for everybody to run.
    pub fn program(&self, of: &Path, name: &str) -> PathBuf {
        let path = self.path(name);
        // By cp: a descriptor open for writing here, inherited by another test's child just being
        // forked, would make executing the copy fail with ETXTBSY.
        let status = Command::new("cp").arg(of).arg(&path).status().expect("cp");
        assert!(
            status.success(),
            "cp {} {}: {status}",
            of.display(),
            path.display()
        );
        path
    }

    /// A script, for everybody to run.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let source = self.file(&format!("{name}.source"), text);
        let path = self.program(&source, name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions");
        path
    }

    /// Gives a file to another user.
    pub fn give(&self, path: &Path, uid: u32) {
        chown(path, Some(uid), None).expect("chown");
    }

    /// A command that carries the mark and nothing of the caller's that guard looks at.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env(MARK, &self.0.id)
            .current_dir(self.dir())
            .env_remove("GUARD_SOCKET")
            .env_remove("GUARD_INTENT")
            .env_remove("NOTIFY_SOCKET");
        command
    }

    /// What it started and still lives.
    pub fn processes(&self) -> Vec<u32> {
        proc::marked(&self.0.mark)
    }

    /// Those of them that are stopped.
    pub fn stopped(&self) -> Vec<u32> {
        let all = self.processes();
        all.into_iter()
            .filter(|pid| proc::state(*pid) == Some('T'))
            .collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let mut killed = HashSet::new();
        // What is being killed may just have forked.
        for _ in 0..50 {
            let left = proc::marked(&self.mark);
            if left.iter().all(|pid| proc::has_ended(*pid)) {
                break;
            }
            for pid in left {
                killed.insert(pid);
                proc::signal(pid, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(1));
        }
        // A guardd that was killed leaves its file system mounted.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for at in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
            if Path::new(at).starts_with(self.dir.path()) {
                let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}

/// A fixture program of this package, which cargo puts beside the tests.
pub fn fixture(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let dir = test
        .parent()
        .and_then(Path::parent)
        .expect("target directory");
    dir.join(name)
}

/// A program that is tested.
pub fn tested(name: &str) -> PathBuf {
    let dir = match std::env::var_os("GUARD_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release"),
    };
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{}: there is no such program: run 'cargo xtask test', or set GUARD_BIN_DIR",
        path.display()
    );
    path
}
