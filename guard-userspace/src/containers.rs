//! What programs that run containers are and say, as /proc shows it: the daemons that are asked, the programs that
//! they work through, and who is connected to whom.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsStr,
    fs,
    io::{self, Read as _},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
};

use procfs::{
    net::UnixState,
    process::{FDTarget, Process},
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::process;

/// Descriptors of one process that are looked through.
const MAX_DESCRIPTORS: usize = 65_536;

/// The namespace in containerd that dockerd keeps its containers in, unless it is told another.
/// <https://docs.docker.com/reference/cli/dockerd/> (`--containerd-namespace`)
const DOCKERS_NAMESPACE: &str = "moby";

/// A server that starts containers for whoever asks it by a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// dockerd: has containerd start them, in this namespace, or runs a runtime itself (a build).
    Docker(Vec<u8>),
    /// containerd: starts a shim for each.
    Containerd,
    /// One whose own descendants they are (Podman, CRI-O, BuildKit).
    Alone,
}

impl Daemon {
    /// What a process is by its program's name; `None` for any other.
    pub fn of(pid: u32) -> Option<Self> {
        match program(pid)?.as_bytes() {
            b"dockerd" => {
                let argv = process::argv(pid);
                let namespace = value(&argv, "containerd-namespace");
                Some(Self::Docker(
                    namespace.unwrap_or(DOCKERS_NAMESPACE.as_bytes()).to_vec(),
                ))
            }
            b"containerd" => Some(Self::Containerd),
            b"podman" | b"crio" | b"buildkitd" => Some(Self::Alone),
            _ => None,
        }
    }
}

/// A container as its shim names it.
/// <https://github.com/containerd/containerd/blob/v1.6.20/runtime/v2/README.md#flags>
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Container {
    /// Socket of the containerd that it belongs to.
    pub address: Vec<u8>,
    /// Whose it is in there: `moby`, `default`, `k8s.io`.
    pub namespace: Vec<u8>,
    /// Its name, or the pod's.
    pub id: Vec<u8>,
}

impl Container {
    /// What a shim's command line says; `None` when it is none.
    pub fn of(argv: &[Vec<u8>]) -> Option<Self> {
        Some(Self {
            address: value(argv, "address")?.to_vec(),
            namespace: value(argv, "namespace")?.to_vec(),
            id: value(argv, "id")?.to_vec(),
        })
    }

    /// Whether a dockerd that keeps its containers in `namespace` has asked for it: as they are, remapped to other users
    /// (`moby-1000.1000`), or a plug-in (`plugins.moby`).
    pub fn is_in(&self, namespace: &[u8]) -> bool {
        let own = self
            .namespace
            .strip_prefix(b"plugins.")
            .unwrap_or(&self.namespace);
        own.strip_prefix(namespace)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"-"))
    }
}

/// The value of `-name VALUE`, `--name VALUE` or `--name=VALUE`.
fn value<'a>(argv: &'a [Vec<u8>], name: &str) -> Option<&'a [u8]> {
    let mut words = argv.iter().skip(1);
    while let Some(word) = words.next() {
        let Some(rest) = word
            .strip_prefix(b"--")
            .or_else(|| word.strip_prefix(b"-"))
            .and_then(|word| word.strip_prefix(name.as_bytes()))
        else {
            continue;
        };
        if rest.is_empty() {
            return words.next().map(Vec::as_slice);
        }
        if let Some(value) = rest.strip_prefix(b"=") {
            return Some(value);
        }
    }
    None
}

/// The program's name, as it was when the file was there.
fn program(pid: u32) -> Option<std::ffi::OsString> {
    let path = process::exe(pid)?;
    let name = path.file_name()?.as_bytes();
    let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
    Some(OsStr::from_bytes(name).to_owned())
}

/// Whether a process is a containerd shim, by its program's name.
pub fn is_shim(pid: u32) -> bool {
    program(pid).is_some_and(|name| is_shims(&name))
}

fn is_shims(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"containerd-shim")
}

/// Whether the programs that run containers for these daemons are called so.
fn is_machinerys(name: &OsStr) -> bool {
    is_shims(name)
        || matches!(
            name.as_bytes(),
            b"dockerd"
                | b"containerd"
                | b"docker-proxy"
                | b"runc"
                | b"docker-runc"
                | b"buildkit-runc"
                | b"crun"
                | b"youki"
        )
}

/// Whether daemons themselves run programs of this name to get ready what containers need: rules of packet filters, kernel
/// modules, profiles, unpacked images. Nobody chooses what these do by asking for a container.
fn is_helpers(name: &OsStr) -> bool {
    matches!(
        name.as_bytes(),
        b"iptables"
            | b"ip6tables"
            | b"xtables-nft-multi"
            | b"xtables-legacy-multi"
            | b"kmod"
            | b"modprobe"
            | b"apparmor_parser"
            | b"pigz"
            | b"unpigz"
            | b"igzip"
    )
}

/// Where a process is: its mount namespace and its root directory. What runs a container is where its daemon is, and what
/// runs in one is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    namespace: (u64, u64),
    root: (u64, u64),
}

impl Whereabouts {
    /// Of a process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of(pid: u32) -> io::Result<Self> {
        let of = |what: &str| {
            let meta = fs::metadata(format!("/proc/{pid}/{what}"))?;
            Ok::<_, io::Error>((meta.dev(), meta.ino()))
        };
        Ok(Self {
            namespace: of("ns/mnt")?,
            root: of("root")?,
        })
    }
}

/// Whether a process that a daemon, a shim or a runtime (`parent`) has started is a part of what runs containers, and not
/// what somebody wants to have run. `of_daemon`: the parent is the daemon itself. `before` (`CLOCK_REALTIME`, seconds): it must have been there as it is by then;
/// `None` where nobody would gain by another program under that name.
pub fn is_machinery(
    pid: u32,
    parent: u32,
    of_daemon: bool,
    place: Whereabouts,
    before: Option<u64>,
) -> bool {
    if !Whereabouts::of(pid).is_ok_and(|its| its == place) {
        return false;
    }
    let named =
        program(pid).is_some_and(|name| is_machinerys(&name) || (of_daemon && is_helpers(&name)));
    let Some(before) = before else {
        return named || is_copy(pid, parent);
    };
    let meta = fs::metadata(format!("/proc/{pid}/exe"));
    let older = meta.is_ok_and(|meta| u64::try_from(meta.ctime()).unwrap_or(0) < before);
    (named && older) || is_copy(pid, parent)
}

/// Whether two processes run the same bytes: runc runs itself from a copy in memory, so that a container cannot write to
/// the file. <https://github.com/opencontainers/runc/blob/v1.1.5/libcontainer/nsenter/cloned_binary.c>
fn is_copy(pid: u32, parent: u32) -> bool {
    let same = || -> io::Result<bool> {
        let mut files = [
            fs::File::open(format!("/proc/{pid}/exe"))?,
            fs::File::open(format!("/proc/{parent}/exe"))?,
        ];
        let [its, parents] = [files[0].metadata()?, files[1].metadata()?];
        if its.len() != parents.len() || its.len() == 0 {
            return Ok(false);
        }
        let mut blocks = [vec![0; 1 << 18], vec![0; 1 << 18]];
        let mut left = its.len();
        while left > 0 {
            let len = left.min(1 << 18) as usize;
            for (file, block) in files.iter_mut().zip(&mut blocks) {
                file.read_exact(&mut block[..len])?;
            }
            if blocks[0][..len] != blocks[1][..len] {
                return Ok(false);
            }
            left -= len as u64;
        }
        Ok(true)
    };
    program(parent).is_some_and(|name| is_machinerys(&name)) && same().unwrap_or(false)
}

/// Whether a process has been started with sockets that systemd listens on for it.
/// <https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html>
pub fn is_activated(pid: u32) -> bool {
    let environ = process::environ(pid);
    environ
        .split(|&byte| byte == 0)
        .any(|entry| entry.starts_with(b"LISTEN_FDS="))
}

/// The socket files that a process listens on.
pub fn listens_on(pid: u32) -> BTreeSet<PathBuf> {
    let listened = || -> procfs::ProcResult<BTreeSet<PathBuf>> {
        let process = Process::new(i32::try_from(pid).unwrap_or_default())?;
        let own: HashSet<u64> = process
            .fd()?
            .flatten()
            .filter_map(|fd| match fd.target {
                FDTarget::Socket(inode) => Some(inode),
                _ => None,
            })
            .collect();
        // Of its own network namespace.
        let all = process.unix()?;
        Ok(all
            .into_iter()
            .filter(|entry| entry.state == UnixState::UNCONNECTED && own.contains(&entry.inode))
            .filter_map(|entry| entry.path)
            .filter(|path| path.is_absolute())
            .collect())
    };
    listened().unwrap_or_default()
}

/// Those of these socket files that a process has a connection to.
pub fn connections(pid: u32, sockets: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return BTreeSet::new();
    };
    let (Ok(entries), Ok(pidfd)) = (
        fs::read_dir(format!("/proc/{pid}/fd")),
        pidfd_open(target, PidfdFlags::empty()),
    ) else {
        return BTreeSet::new();
    };
    let is_socket = |entry: &fs::DirEntry| {
        fs::read_link(entry.path())
            .is_ok_and(|target| target.as_os_str().as_bytes().starts_with(b"socket:"))
    };
    entries
        .take(MAX_DESCRIPTORS)
        .flatten()
        .filter(is_socket)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|number| pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).ok())
        .filter_map(peer)
        .filter(|path| sockets.contains(path))
        .collect()
}

/// The file of the socket at the other end, as whoever listens there has named it.
fn peer(socket: OwnedFd) -> Option<PathBuf> {
    // What is no AF_UNIX socket has no such address.
    let address = UnixStream::from(socket).peer_addr().ok()?;
    address.as_pathname().map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(line: &str) -> Vec<Vec<u8>> {
        line.split(' ')
            .map(|word| word.as_bytes().to_vec())
            .collect()
    }

    #[test]
    fn a_shim_says_which_container_it_is_for() {
        for line in [
            "/usr/bin/containerd-shim-runc-v2 -namespace moby -id 7924 -address /run/c.sock",
            "shim -namespace moby -address /run/c.sock -publish-binary /usr/bin/containerd -id 7924 start",
            "shim --namespace=moby --address=/run/c.sock --id=7924",
        ] {
            let container = Container::of(&argv(line)).unwrap();
            assert_eq!(container.namespace, b"moby");
            assert_eq!(container.id, b"7924");
            assert_eq!(container.address, b"/run/c.sock");
        }
        assert_eq!(Container::of(&argv("shim -namespace moby -id")), None);
        // Another option that only begins so.
        assert_eq!(
            Container::of(&argv("shim -namespace moby -idle 3 -address /run/c.sock")),
            None
        );
    }

    #[test]
    fn a_containers_namespace_says_whether_it_is_dockers() {
        let is_in = |its: &str, dockers: &str| {
            Container {
                address: Vec::new(),
                namespace: its.into(),
                id: Vec::new(),
            }
            .is_in(dockers.as_bytes())
        };
        assert!(is_in("moby", "moby"));
        assert!(is_in("moby-1000.1000", "moby"));
        assert!(is_in("plugins.moby", "moby"));
        assert!(!is_in("mobydick", "moby"));
        assert!(!is_in("k8s.io", "moby"));
        assert!(!is_in("default", "moby"));
    }

    #[test]
    fn a_connection_is_found_by_the_name_that_its_listener_gave() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let own = std::process::id();
        assert!(listens_on(own).contains(&path));
        let sockets = BTreeSet::from([path.clone()]);
        assert!(connections(own, &sockets).is_empty());
        let client = UnixStream::connect(&path).unwrap();
        assert_eq!(connections(own, &sockets), sockets);
        let other = BTreeSet::from([dir.path().join("other.sock")]);
        assert!(connections(own, &other).is_empty());
        drop(client);
        assert!(connections(own, &sockets).is_empty());
        drop(listener);
        assert!(!listens_on(own).contains(&path));
    }

    #[test]
    fn only_the_same_bytes_in_the_same_place_are_a_runtimes_copy() {
        let own = std::process::id();
        let place = Whereabouts::of(own).unwrap();
        // This test is no runtime by its name, so nothing is a copy of it.
        assert!(!is_copy(own, own));
        assert!(!is_machinery(own, own, true, place, None));
    }
}
