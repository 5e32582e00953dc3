//! Which exceptions a process that guardd itself tags falls under. The kernel settles them at an exec
//! inside a session; the program that a session begins with, or that is adopted, has had its exec.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use super::Engine;
use crate::{
    policy,
    process::{self, Id},
};

impl Engine {
    /// The groups whose exception covers the program of this process, which is about to be tagged as one
    /// of `session`. As in the kernel, only a file that was there as it is before the outermost session
    /// began counts.
    pub(super) fn exceptions_of(&self, id: Id, session: u32) -> u64 {
        let Some(own) = self.sessions.get(&session) else {
            return 0;
        };
        let mut outermost = own;
        while let Some(outer) = outermost.parent.and_then(|id| self.sessions.get(&id)) {
            outermost = outer;
        }
        let nested = own.parent.is_some();
        let began_s = outermost.began_s;
        let is_older = |path: &Path| {
            fs::metadata(path).is_ok_and(|meta| u64::try_from(meta.ctime()).unwrap_or(0) < began_s)
        };
        let link = PathBuf::from(format!("/proc/{}/exe", id.pid));
        let Some(exe) = process::exe(id.pid).filter(|_| is_older(&link)) else {
            return 0;
        };
        let mut groups = self.tables.classify_program(&exe);
        let argv = process::argv(id.pid);
        let absolute = |path: &[u8]| {
            let path = Path::new(OsStr::from_bytes(path));
            Some(process::cwd(id.pid)?.join(path))
        };
        // Some agents are a link to a file that is named after a version. Inside a session a link is
        // anybody's to make.
        if !nested && let Some(executed) = process::executed_path(id.pid) {
            groups |= absolute(&executed).map_or(0, |path| self.tables.classify_program(&path));
        }
        let script = policy::script(&exe, &argv)
            .and_then(absolute)
            .and_then(|path| fs::canonicalize(path).ok());
        if let Some(script) = script.filter(|path| is_older(path)) {
            groups |= self.tables.classify_program(&script);
        }
        groups
    }
}
