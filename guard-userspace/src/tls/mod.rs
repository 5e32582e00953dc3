//! TLS libraries: where in a process's files the functions are that get what is to be encrypted.
//!
//! A library is known by its functions and not by its name, so it may be a shared one of any name, part of a program
//! (node has OpenSSL inside and exports its functions), or Go's own. What has no such function (rustls, a stripped
//! program with its own copy) cannot be tapped.

mod elf;
mod go;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    sync::Arc,
};

/// Files whose functions are remembered. A machine has some hundred programs and libraries.
const MAX_KNOWN: usize = 4096;
/// Mapped files of one process that are looked through.
const MAX_FILES: usize = 4096;
/// Larger files are not looked through: no library is a tenth of that.
const MAX_FILE: u64 = 2 << 30;

/// A kind of library, as events name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// OpenSSL, BoringSSL, and others with their functions.
    OpenSsl,
    /// GnuTLS.
    GnuTls,
    /// NSS, by NSPR's functions.
    Nss,
    /// Go's crypto/tls.
    Go,
}

impl Kind {
    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenSsl => "openssl",
            Self::GnuTls => "gnutls",
            Self::Nss => "nss",
            Self::Go => "go",
        }
    }
}

/// What is done at a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap {
    /// The kernel program for its entry.
    pub entry: &'static str,
    /// Whether its return tells how much it took.
    pub returns: bool,
    /// Its place in the file, in bytes.
    pub offset: u64,
}

/// A function of a library, by the name that it exports.
struct Function {
    symbol: &'static str,
    kind: Kind,
    entry: &'static str,
    returns: bool,
    /// Not where this one is: then the function only calls it.
    unless: Option<&'static str>,
}

const fn function(
    symbol: &'static str,
    kind: Kind,
    entry: &'static str,
    returns: bool,
) -> Function {
    Function {
        symbol,
        kind,
        entry,
        returns,
        unless: None,
    }
}

/// Every function that gets what is to be encrypted, or ends a connection. Of those that call another of them only the
/// other one is needed; where a library does so by itself, the second sees what the first has shown already.
const FUNCTIONS: &[Function] = &[
    // https://docs.openssl.org/3.0/man3/SSL_write/, .../SSL_read_early_data/
    function("SSL_write", Kind::OpenSsl, "guard_openssl_write", true),
    function(
        "SSL_write_ex",
        Kind::OpenSsl,
        "guard_openssl_write_ex",
        true,
    ),
    function(
        "SSL_write_early_data",
        Kind::OpenSsl,
        "guard_openssl_write_ex",
        true,
    ),
    function("SSL_free", Kind::OpenSsl, "guard_tls_end", false),
    function("SSL_clear", Kind::OpenSsl, "guard_tls_end", false),
    // https://www.gnutls.org/manual/html_node/Core-TLS-API.html
    Function {
        unless: Some("gnutls_record_send2"),
        ..function(
            "gnutls_record_send",
            Kind::GnuTls,
            "guard_gnutls_write",
            true,
        )
    },
    function(
        "gnutls_record_send2",
        Kind::GnuTls,
        "guard_gnutls_write",
        true,
    ),
    function(
        "gnutls_record_send_early_data",
        Kind::GnuTls,
        "guard_gnutls_write",
        false,
    ),
    function("gnutls_deinit", Kind::GnuTls, "guard_tls_end", false),
    // https://firefox-source-docs.mozilla.org/nspr/reference/pr_write.html: what NSS is written to with.
    function("PR_Write", Kind::Nss, "guard_nss_write", true),
    function("PR_Send", Kind::Nss, "guard_nss_write", true),
    function("PR_Close", Kind::Nss, "guard_tls_end", false),
];

/// Go's, which no program exports.
const GO_FUNCTIONS: &[(&str, &str)] = &[
    ("crypto/tls.(*Conn).Write", "guard_go_write"),
    ("crypto/tls.(*Conn).Close", "guard_go_end"),
    ("crypto/tls.(*Conn).clientHandshake", "guard_go_end"),
];

/// What of a file is of interest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taps {
    /// Functions and what is done there.
    pub taps: Vec<Tap>,
    /// Whose they are.
    pub kinds: BTreeSet<Kind>,
}

/// A file of a process with such functions.
#[derive(Clone, Debug)]
pub struct Library {
    /// Where the file can be opened, whatever mount namespace the process is in and whether its name is still there.
    pub path: PathBuf,
    /// Device and inode.
    pub file: (u64, u64),
    /// What the process calls it.
    pub name: String,
    /// Its functions.
    pub found: Arc<Taps>,
}

/// A file, and which state of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FileId {
    dev: u64,
    ino: u64,
    size: u64,
    changed: (i64, i64),
}

/// Files that were looked through, so that each is only once.
#[derive(Debug, Default)]
pub struct Libraries {
    known: HashMap<FileId, Arc<Taps>>,
    order: VecDeque<FileId>,
}

impl Libraries {
    /// The libraries that a process has mapped to run.
    ///
    /// # Errors
    /// When the process cannot be looked at.
    pub fn of(&mut self, pid: u32) -> io::Result<Vec<Library>> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        for line in maps.lines() {
            let Some(map) = Map::read(line) else { continue };
            if seen.len() >= MAX_FILES || !seen.insert((map.dev, map.ino)) {
                continue;
            }
            let path = PathBuf::from(format!("/proc/{pid}/map_files/{}", map.link()));
            // It may have been unmapped since, or be no file.
            let Ok((file, taps)) = self.look(&path) else {
                continue;
            };
            if !taps.taps.is_empty() {
                found.push(Library {
                    path,
                    file,
                    name: map.name.to_owned(),
                    found: taps,
                });
            }
        }
        // NSPR alone writes to whatever there is.
        let nss = maps.contains("libssl3.so");
        found.retain(|library| nss || !library.found.kinds.contains(&Kind::Nss));
        Ok(found)
    }

    fn look(&mut self, path: &PathBuf) -> io::Result<((u64, u64), Arc<Taps>)> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > MAX_FILE {
            return Ok(((0, 0), Arc::default()));
        }
        let at = (metadata.dev(), metadata.ino());
        let id = FileId {
            dev: metadata.dev(),
            ino: metadata.ino(),
            size: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        if let Some(known) = self.known.get(&id) {
            return Ok((at, Arc::clone(known)));
        }
        // What is no ELF has none.
        let found = Arc::new(elf::taps(file).unwrap_or_default());
        if self.order.len() >= MAX_KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(id);
        self.known.insert(id, Arc::clone(&found));
        Ok((at, found))
    }
}

/// A line of /proc/PID/maps that is a file mapped to run.
struct Map<'a> {
    range: &'a str,
    dev: &'a str,
    ino: &'a str,
    name: &'a str,
}

impl<'a> Map<'a> {
    /// The range as the links to the files have it: without the zeros that the list begins low addresses with.
    fn link(&self) -> String {
        let short = |address: &str| {
            let rest = address.trim_start_matches('0');
            if rest.is_empty() {
                "0".to_owned()
            } else {
                rest.to_owned()
            }
        };
        let (from, to) = self.range.split_once('-').unwrap_or((self.range, ""));
        format!("{}-{}", short(from), short(to))
    }

    fn read(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (range, rights) = (fields.next()?, fields.next()?);
        let (_, dev, ino) = (fields.next()?, fields.next()?, fields.next()?);
        let name = fields.next().unwrap_or_default().trim_start();
        (rights.contains('x') && ino != "0").then_some(Self {
            range,
            dev,
            ino,
            name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_that_runs_is_told_from_others() {
        let line = "7f00a000-7f00b000 r-xp 00001000 fd:00 1234                       /usr/lib/lib x.so (deleted)";
        let map = Map::read(line).unwrap();
        assert_eq!(
            (map.range, map.dev, map.ino, map.name),
            (
                "7f00a000-7f00b000",
                "fd:00",
                "1234",
                "/usr/lib/lib x.so (deleted)"
            )
        );
        let low = "00b6f000-00b71000 r-xp 0076f000 fe:00 1 /usr/bin/node";
        assert_eq!(Map::read(low).unwrap().link(), "b6f000-b71000");
        for line in [
            "7f00a000-7f00b000 r--p 00001000 fd:00 1234 /usr/lib/x.so",
            "7ffc0000-7ffc1000 r-xp 00000000 00:00 0    [vdso]",
            "",
        ] {
            assert!(Map::read(line).is_none(), "{line}");
        }
    }

    #[test]
    fn this_machines_own_program_is_looked_through_once() {
        let mut libraries = Libraries::default();
        let first = libraries.of(std::process::id()).unwrap();
        let files = libraries.known.len();
        assert!(files > 0);
        assert_eq!(first.len(), libraries.of(std::process::id()).unwrap().len());
        assert_eq!(libraries.known.len(), files);
    }
}
