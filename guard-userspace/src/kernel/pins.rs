//! What outlives guardd: its attachments, and the tables that say who is in which session, under names in a
//! BPF file system. A guardd that was killed, or that makes way for another one, leaves them; the programs go
//! on judging, and the next guardd takes them away when its own are in place.
//!
//! The names lie in a directory for each state directory, and there in one for each guardd, `v<layout>-<n>`.
//! Where the machine has a BPF file system it is used; otherwise one is mounted inside the state directory.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
};

use aya::maps::{Array, HashMap, Map, MapData};
use guard_common::state::{Held, LAYOUT, Lease, LeaseKey, Session, Task};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use sha2::{Digest as _, Sha256};

use super::sys;

/// Where systemd and bpftool mount it.
const USUAL: &str = "/sys/fs/bpf";
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/magic.h#L83>
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Tables whose content the next guardd takes over, in the order of `Tables::stopped_tables`.
const TABLES: [&str; 4] = ["held", "waiting", "tasks", "sessions"];
/// The table of leases, whose uses are counted while no guardd runs.
const LEASES: &str = "leases";

/// The table that says when something was last kept from leaving.
pub(super) const DROPPED: &str = "DROPPED";

/// The names of this guardd and of those before it.
#[derive(Debug)]
pub struct Pins {
    /// Of this state directory.
    root: PathBuf,
    own: PathBuf,
    old: Vec<PathBuf>,
    /// It was mounted by a guardd, in this mount namespace.
    mounted: Option<OwnedFd>,
    /// They are for the next guardd.
    kept: bool,
}

impl Drop for Pins {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        remove(&self.own);
        // What an earlier guardd has left stays, when this one has not come as far as to take over.
        if let Some(namespace) = &self.mounted
            && self.old.is_empty()
        {
            unmount_in(namespace, &self.root);
        }
    }
}

/// What earlier guardds have left in the kernel.
#[derive(Debug, Default)]
pub struct Left {
    /// Processes in sessions.
    pub tasks: Vec<(u32, Task)>,
    /// What the kernel knows of these.
    pub sessions: Vec<(u32, Session)>,
    /// Processes that are held.
    pub held: Vec<(u32, Held)>,
    /// What is left of leases.
    pub leases: Vec<(LeaseKey, Lease)>,
}

fn is_bpf_fs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u64 == BPF_FS_MAGIC)
}

fn private(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

impl Pins {
    /// Makes room for this guardd's names. `state_dir` exists, and belongs to this guardd alone. To be called
    /// before guardd moves to a mount namespace of its own.
    ///
    /// # Errors
    /// Why nothing can outlive guardd here.
    pub fn open(state_dir: &Path) -> Result<Self, String> {
        let failed = |what: &Path, error: io::Error| format!("{}: {error}", what.display());
        let (root, mounted) = if is_bpf_fs(Path::new(USUAL)) {
            let whose = fs::canonicalize(state_dir).map_err(|error| failed(state_dir, error))?;
            let hash = Sha256::digest(whose.as_os_str().as_encoded_bytes());
            let name: String = hash
                .iter()
                .take(8)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            (Path::new(USUAL).join(format!("guard-{name}")), None)
        } else {
            let at = state_dir.join("bpf");
            private(&at).map_err(|error| failed(&at, error))?;
            if !is_bpf_fs(&at) {
                let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
                mount("bpf", &at, "bpf", flags, Some(c"mode=0700")).map_err(|error| {
                    format!("{}: mounting a BPF file system: {error}", at.display())
                })?;
            }
            let namespace = File::open("/proc/self/ns/mnt");
            (
                at,
                Some(namespace.map_err(|error| failed(state_dir, error))?.into()),
            )
        };
        private(&root).map_err(|error| failed(&root, error))?;
        let old: Vec<PathBuf> = fs::read_dir(&root)
            .map_err(|error| failed(&root, error))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            // A new file system has entries of the kernel's own in it.
            .filter(|path| number(path).is_some())
            .collect();
        let next = old
            .iter()
            .filter_map(|path| number(path))
            .max()
            .unwrap_or(0)
            + 1;
        let own = root.join(format!("v{LAYOUT}-{next}"));
        private(&own).map_err(|error| failed(&own, error))?;
        Ok(Self {
            root,
            own,
            old,
            mounted,
            kept: false,
        })
    }

    /// This guardd's own directory.
    pub fn own(&self) -> &Path {
        &self.own
    }

    /// Gives the tables their names.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn pin_tables(&self, tables: &[OwnedFd], leases: &OwnedFd) -> io::Result<()> {
        for (name, table) in TABLES.iter().zip(tables) {
            sys::pin(table.as_fd(), &self.own.join(name))?;
        }
        sys::pin(leases.as_fd(), &self.own.join(LEASES))
    }

    /// The name that a table of this guardd is to have which is the same as its predecessor's: what it holds is bound
    /// to something else's life, and cannot be copied. The latest guardd's with the same layout counts.
    pub(super) fn shared(&self, table: &str) -> PathBuf {
        let path = self.own.join(table);
        let same = format!("v{LAYOUT}-");
        let latest = self
            .old
            .iter()
            .filter(|old| {
                let name = old.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&same) && old.join(table).exists()
            })
            .max_by_key(|old| number(old));
        if let Some(old) = latest
            && let Err(error) = sys::get(&old.join(table)).and_then(|fd| sys::pin(&fd, &path))
        {
            tracing::warn!(
                "{}: connections that were being looked at are looked at no more: {error}",
                old.display()
            );
        }
        path
    }

    /// What earlier guardds know. Of one with another layout nothing is taken: what its state file says must
    /// do.
    pub fn left(&self) -> Left {
        let mut left = Left::default();
        let same = format!("v{LAYOUT}-");
        for old in &self.old {
            let name = old.file_name().unwrap_or_default().to_string_lossy();
            if !name.starts_with(&same) {
                continue;
            }
            left.tasks
                .extend(entries::<u32, Task>(&old.join(TABLES[2])));
            left.sessions
                .extend(entries::<u32, Session>(&old.join(TABLES[3])));
            left.held.extend(entries::<u32, Held>(&old.join(TABLES[0])));
            left.leases.extend(entries(&old.join(LEASES)));
        }
        left
    }

    /// Ends what earlier guardds have left in force.
    pub(super) fn drop_predecessors(&mut self) {
        for old in self.old.drain(..) {
            if let Err(error) = fs::remove_dir_all(&old) {
                tracing::warn!(%error, "what an earlier guardd left could not be taken away: {}", old.display());
            }
        }
    }

    /// Leaves the names for the next guardd.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }
}

/// Takes one guardd's names away, and the directory above when it was the last. What was attached by them
/// ends. Says on stderr when that failed: a sentinel has nobody else to tell.
pub fn remove(own: &Path) {
    if let Err(error) = fs::remove_dir_all(own)
        && error.kind() != io::ErrorKind::NotFound
    {
        eprintln!("{}: its programs stay in force: {error}", own.display());
    }
    if let Some(root) = own.parent()
        && root.starts_with(USUAL)
    {
        // Not when there is another guardd's in it.
        let _ = fs::remove_dir(root);
    }
}

/// Whether the kernel may still try to send what the programs of the guardd with these names have kept from leaving.
pub fn may_leave_later(own: &Path) -> bool {
    let read = || -> Result<u64, String> {
        let fd = sys::get(&own.join(DROPPED)).map_err(|error| error.to_string())?;
        let data = MapData::from_fd(fd).map_err(|error| error.to_string())?;
        let table: Array<MapData, u64> = Map::Array(data)
            .try_into()
            .map_err(|error: aya::maps::MapError| error.to_string())?;
        table.get(&0, 0).map_err(|error| error.to_string())
    };
    // Of a table that is not there nothing was kept.
    read().is_ok_and(super::tried_again)
}

fn number(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?.strip_prefix('v')?;
    name.split_once('-')?.1.parse().ok()
}

fn entries<K: aya::Pod, V: aya::Pod>(path: &Path) -> Vec<(K, V)> {
    let read = || -> Result<Vec<(K, V)>, String> {
        let fd = sys::get(path).map_err(|error| error.to_string())?;
        let data = MapData::from_fd(fd).map_err(|error| error.to_string())?;
        let table: HashMap<MapData, K, V> = Map::HashMap(data)
            .try_into()
            .map_err(|error: aya::maps::MapError| error.to_string())?;
        Ok(table.iter().filter_map(Result::ok).collect())
    };
    read().unwrap_or_else(|error| {
        tracing::warn!(
            "{}: what an earlier guardd knew could not be read: {error}",
            path.display()
        );
        Vec::new()
    })
}

/// Unmounts in the mount namespace where it was mounted: guardd may have moved to another one since, and with
/// more than one thread it cannot go back.
fn unmount_in(namespace: &OwnedFd, at: &Path) {
    use std::os::unix::ffi::OsStrExt as _;
    let Ok(path) = std::ffi::CString::new(at.as_os_str().as_bytes()) else {
        return;
    };
    let fd = namespace.as_raw_fd();
    // SAFETY: the child makes three system calls, on memory that it has a copy of, and ends.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let moved = libc::setns(fd, libc::CLONE_NEWNS) == 0;
            let done = moved && libc::umount2(path.as_ptr(), libc::MNT_DETACH) == 0;
            libc::_exit(i32::from(!done));
        }
        if child > 0 {
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
    // In guardd's own as well, if it has one.
    let _ = unmount(at, UnmountFlags::DETACH);
    let _ = fs::remove_dir(at);
}
