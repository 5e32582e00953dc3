//! Records from the ring buffers, decoded. Bytes from the kernel are still bytes from outside: a
//! record that is too short or of an unknown kind is `None`, never a panic.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv6Addr},
    os::unix::ffi::OsStringExt as _,
    path::PathBuf,
};

use guard_common::{
    event::{CallRecord, ConnectRecord, FLAG_TRUNCATED, Header, PathHeader, kind},
    names::{AnswerHeader, NameRecord},
    requests::WriteHeader,
};

/// See socket(2).
const SOCK_STREAM: u32 = libc::SOCK_STREAM as u32;

/// What every record has; see [`Header`].
pub type Fields = Header;

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Destination; v4-mapped addresses are IPv4 here.
    pub addr: IpAddr,
    /// Destination port.
    pub port: u16,
    /// `AF_INET` or `AF_INET6`, as the program asked.
    pub family: u16,
    /// `SOCK_STREAM`, `SOCK_DGRAM` …
    pub socket_type: u32,
}

/// What a connection has said of whom it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The socket's cookie.
    pub cookie: u64,
    /// Set of [`guard_common::names::seen`].
    pub seen: u32,
    /// The name as it was sent.
    pub host: Option<Vec<u8>>,
}

/// What a name server has said, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServerBytes<'a> {
    /// Where from.
    pub from: IpAddr,
    /// Port on this side.
    pub port: u16,
    /// `IPPROTO_UDP` or `IPPROTO_TCP`.
    pub protocol: u16,
    /// Of TCP, the sequence number of the first byte.
    pub seq: u32,
    /// What was handed on.
    pub bytes: &'a [u8],
    /// How much there was.
    pub whole: u32,
    /// Inode number of the network namespace that it arrived in, or 0.
    pub netns: u32,
}

/// What a process is about to say over one connection.
#[derive(Clone, Debug)]
pub struct Write {
    /// Common fields.
    pub fields: Fields,
    /// The library's object for the connection, or the socket's cookie.
    pub conn: u64,
    /// Where in the stream it begins: bytes, or TCP's sequence number.
    pub at: u64,
    /// Where it is in the process's memory, or 0.
    pub from: u64,
    /// How long it is.
    pub len: u64,
    /// One of [`guard_common::requests::via`].
    pub via: u32,
    /// The peer, where it is known.
    pub peer: IpAddr,
    /// Its port.
    pub port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// The connection has ended, and nothing is said.
    pub ends: bool,
    /// What was copied of it.
    pub bytes: Vec<u8>,
}

impl Write {
    /// Decodes one entry of the ring of what is said.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let head: WriteHeader = read(data)?;
        let bytes = data[size_of::<WriteHeader>()..].get(..head.copied as usize)?;
        (head.header.kind == kind::REQUEST).then(|| Self {
            fields: head.header,
            conn: head.conn,
            at: head.at,
            from: head.from,
            len: head.len,
            via: head.via,
            peer: unmapped(head.peer),
            port: head.port,
            family: head.family,
            ends: head.ends != 0,
            bytes: bytes.to_vec(),
        })
    }
}

impl<'a> NameServerBytes<'a> {
    /// Decodes one entry of the ring of name servers' answers.
    pub fn decode(data: &'a [u8]) -> Option<Self> {
        let head: AnswerHeader = read(data)?;
        Some(Self {
            from: unmapped(head.from),
            port: head.port,
            protocol: head.protocol,
            seq: head.seq,
            bytes: data[size_of::<AnswerHeader>()..].get(..head.len as usize)?,
            whole: head.whole,
            netns: head.netns,
        })
    }
}

fn unmapped(addr: [u8; 16]) -> IpAddr {
    let addr = Ipv6Addr::from(addr);
    addr.to_ipv4_mapped().map_or(IpAddr::V6(addr), IpAddr::V4)
}

/// One record.
#[derive(Clone, Debug)]
pub enum Record {
    /// A program was executed.
    Exec {
        /// Common fields.
        fields: Fields,
        /// Path of the program; `None` if it was too long or not reachable.
        exe: Option<PathBuf>,
        /// Command line.
        argv: Vec<Vec<u8>>,
    },
    /// A file was opened, or a socket file connected to.
    Path {
        /// Common fields; `kind` says which.
        fields: Fields,
        /// Its path; `None` if it was too long or not reachable.
        path: Option<PathBuf>,
        /// Inode number.
        ino: u64,
        /// Device, major << 20 | minor.
        dev: u32,
        /// `O_*`.
        flags: u32,
    },
    /// A connection or datagram.
    Connect {
        /// Common fields.
        fields: Fields,
        /// Where to.
        to: Connection,
    },
    /// A guarded system call.
    Call {
        /// Common fields.
        fields: Fields,
        /// One of [`guard_common::state::act`].
        act: u32,
        /// Process that it is about, or 0.
        target: u32,
        /// Signal, mode, or command.
        number: u64,
    },
    /// Whom a connection is for.
    Name {
        /// Common fields.
        fields: Fields,
        /// Where to.
        to: Connection,
        /// What it said.
        said: Said,
    },
    /// A connection that waits for its process's TLS library to be tapped.
    Tap {
        /// Common fields.
        fields: Fields,
        /// Where to.
        to: Connection,
        /// What it said.
        said: Said,
    },
    /// What a process is about to say, and no room was for a copy of it.
    Write(Box<Write>),
    /// Agent, empty session, fork: nothing but the common fields.
    Bare(Fields),
}

impl Record {
    /// Decodes one ring-buffer entry.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let fields: Header = read(data)?;
        match fields.kind {
            kind::AGENT | kind::EMPTY | kind::FORK | kind::AWAIT => Some(Self::Bare(fields)),
            kind::SIGNAL | kind::CALL => {
                let record: CallRecord = read(data)?;
                Some(Self::Call {
                    fields,
                    act: record.act,
                    target: record.target,
                    number: record.number,
                })
            }
            // A unix connect comes as a path record, which is longer or shorter but never the same
            // size; the family of an internet record is never 0.
            kind::CONNECT
                if data.len() == size_of::<ConnectRecord>()
                    && fields.tier != guard_common::event::tier::TRACEPOINT =>
            {
                let record: ConnectRecord = read(data)?;
                Some(Self::Connect {
                    fields,
                    to: Connection {
                        addr: unmapped(record.addr),
                        port: record.port,
                        family: record.family,
                        socket_type: record.socket_type,
                    },
                })
            }
            kind::NAME | kind::TAP => {
                let record: NameRecord = read(data)?;
                let host = record.host.get(..record.host_len as usize)?;
                let to = Connection {
                    addr: unmapped(record.addr),
                    port: record.port,
                    family: record.family,
                    socket_type: SOCK_STREAM,
                };
                let said = Said {
                    cookie: record.cookie,
                    seen: record.seen,
                    host: (!host.is_empty()).then(|| host.to_vec()),
                };
                Some(if fields.kind == kind::TAP {
                    Self::Tap { fields, to, said }
                } else {
                    Self::Name { fields, to, said }
                })
            }
            kind::REQUEST => Write::decode(data).map(|write| Self::Write(Box::new(write))),
            kind::EXEC | kind::OPEN | kind::CONNECT => {
                let head: PathHeader = read(data)?;
                let tail = &data[size_of::<PathHeader>()..];
                let path_bytes = tail.get(..head.path_len as usize)?;
                let args = tail
                    .get(head.path_len as usize..)?
                    .get(..head.arg_len as usize)?;
                let path = path_of(path_bytes);
                if fields.kind == kind::EXEC {
                    return Some(Self::Exec {
                        fields,
                        exe: path,
                        argv: split(args),
                    });
                }
                let path = path.filter(|_| fields.flags & FLAG_TRUNCATED == 0);
                Some(Self::Path {
                    fields,
                    path,
                    ino: head.ino,
                    dev: head.dev,
                    flags: head.open_flags,
                })
            }
            _ => None,
        }
    }

    /// What every record has.
    pub fn fields(&self) -> &Fields {
        match self {
            Self::Exec { fields, .. }
            | Self::Path { fields, .. }
            | Self::Connect { fields, .. }
            | Self::Call { fields, .. }
            | Self::Name { fields, .. }
            | Self::Tap { fields, .. }
            | Self::Bare(fields) => fields,
            Self::Write(write) => &write.fields,
        }
    }
}

fn read<T: Copy>(data: &[u8]) -> Option<T> {
    if data.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: there are enough bytes, `T` is one of guard-common's records (any bits are valid), and
    // the read needs no alignment.
    Some(unsafe { std::ptr::read_unaligned(data.as_ptr().cast::<T>()) })
}

/// Components come leaf first, each with a NUL.
fn path_of(bytes: &[u8]) -> Option<PathBuf> {
    if bytes.is_empty() {
        return None;
    }
    let mut path = Vec::with_capacity(bytes.len() + 1);
    for component in split(bytes).iter().rev() {
        path.push(b'/');
        path.extend_from_slice(component);
    }
    Some(OsString::from_vec(path).into())
}

/// NUL-terminated strings; the last may lack its NUL.
fn split(bytes: &[u8]) -> Vec<Vec<u8>> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    bytes.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(data in prop::collection::vec(any::<u8>(), 0..1024), kind in 0u8..11) {
            let mut data = data;
            if data.len() > std::mem::offset_of!(Header, kind) {
                data[std::mem::offset_of!(Header, kind)] = kind;
            }
            let _ = Record::decode(&data);
            let _ = NameServerBytes::decode(&data);
        }
    }

    #[test]
    fn a_path_is_put_together_from_its_leaf() {
        assert_eq!(
            path_of(b"credentials\0.aws\0root\0"),
            Some("/root/.aws/credentials".into())
        );
    }

    #[test]
    fn an_empty_argument_in_the_middle_is_kept() {
        assert_eq!(
            split(b"a\0\0b\0"),
            vec![b"a".to_vec(), Vec::new(), b"b".to_vec()]
        );
    }
}
