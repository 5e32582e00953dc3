//! Names of hosts: how they are looked up, and what the kernel keeps for each connection whose first bytes it has not
//! seen yet.

use crate::matching::{FNV_OFFSET, fnv_step};

/// Bytes of the longest name of a host without its last dot: RFC 1035, 2.3.4, less the length octets.
pub const MAX_HOST: usize = 253;

/// How much of a name a [`HostKey`] fixes.
pub mod kind {
    /// All of it.
    pub const EXACT: u16 = 0;
    /// Its end behind a dot: `*.example.com`.
    pub const SUFFIX: u16 = 1;
    /// All of it but one part, `ec2.*.example.com`: [`super::around`] of what is before and behind.
    pub const MIDDLE: u16 = 3;
    /// That there is none, or none that could be relied on (`unknown`); hash and length are 0.
    pub const UNKNOWN: u16 = 2;
}

/// Key of the table of names. Value: [`KnownHost`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct HostKey {
    /// [`hash`] of the bytes that are fixed.
    pub hash: u64,
    /// How many they are.
    pub len: u32,
    /// One of [`kind`].
    pub kind: u16,
    /// Half of the policy.
    pub generation: u16,
}

/// What a name carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KnownHost {
    /// Labels.
    pub labels: u64,
    /// Groups whose exception spares a program these labels.
    pub groups: u64,
    /// Not 0: some label asks what a request to it says.
    pub asked: u64,
}

impl KnownHost {
    /// What another group gives it too. A program that is excepted from one of two groups is not excepted from the
    /// other, and there is one word for both: then nobody is.
    pub fn join(&mut self, labels: u64, groups: u64) {
        if self.labels == 0 {
            self.groups = groups;
        } else if labels != 0 && self.groups != groups {
            self.groups = 0;
        }
        self.labels |= labels;
    }
}

/// Hash of a name or of its end: from the last byte to the first, so that every end of a name is hashed on the way;
/// ASCII letters count as small ones (RFC 4343).
pub fn hash(name: &[u8]) -> u64 {
    name.iter().rev().fold(FNV_OFFSET, |hash, byte| {
        fnv_step(hash, byte.to_ascii_lowercase())
    })
}

/// Hash of what is before one part of a name and of what is behind it, both without the dots beside it: [`hash`] of
/// what is behind, and the same from the first byte to the last of what is before.
#[inline(always)]
pub const fn around(before: u64, behind: u64) -> u64 {
    crate::matching::fold(behind, before)
}

/// The beginning of a name, hashed from its first byte on, for [`around`].
pub fn beginning(name: &[u8]) -> u64 {
    name.iter().fold(FNV_OFFSET, |hash, byte| {
        fnv_step(hash, byte.to_ascii_lowercase())
    })
}

/// Bits of [`crate::state::Config::names`].
pub mod asked {
    /// Some label has names.
    pub const NAMES: u32 = 1;
    /// Some of them leave a part open ([`super::kind::MIDDLE`]).
    pub const MIDDLE: u32 = 2;
    /// Some label asks what requests say.
    pub const REQUESTS: u32 = 4;
    /// Of any host.
    pub const ANY_HOST: u32 = 8;
    /// Some label spares addresses by what name servers say (`except.hosts`): a connect waits until guardd has read it.
    pub const SPARES: u32 = 16;
}

/// An address that a name was resolved to, with the [`hash`] of the name (the value is a [`KnownHost`]); or with 0 for
/// all names of the address together, which is the entry with a [`Resolved`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct ResolvedKey {
    /// IPv6 or v4-mapped address.
    pub addr: [u8; 16],
    /// See above.
    pub hash: u64,
    /// Half of the policy.
    pub generation: u32,
    /// Unused.
    pub pad: u32,
}

/// Labels of an address by its names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Resolved {
    /// Labels that any of its names carries.
    pub labels: u64,
    /// Labels that every one of them carries: whatever the connection is for, it is for one of these.
    pub sure: u64,
    /// Groups whose exception spares a program these labels.
    pub groups: u64,
    /// Not 0: some label asks what a request to one of its names says.
    pub asked: u64,
}

/// What is kept with a socket of a session until it is known whom it talks to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Socket {
    /// Start time of the process that has connected it, as in [`crate::state::Task::start_ns`].
    pub start_ns: u64,
    /// Groups that this process is excepted in.
    pub excepted: u64,
    /// Labels that have been judged.
    pub judged: u64,
    /// Hash of address and port.
    pub object: u64,
    /// What a person is asked about, as in [`crate::state::Held::object`]; in state [`connection::WITHHELD`] until when
    /// nothing leaves, ns of `CLOCK_MONOTONIC`.
    pub held: u64,
    /// IPv6 or v4-mapped address of the peer.
    pub addr: [u8; 16],
    /// The session.
    pub session: u32,
    /// The process that has connected it.
    pub tgid: u32,
    /// The thread.
    pub pid: u32,
    /// Its parent process.
    pub ppid: u32,
    /// Its real uid.
    pub uid: u32,
    /// Sequence number of the first byte that has not been looked at; counts once `looked` is not 0.
    pub next: u32,
    /// Bytes kept, which may be the beginning of a ClientHello.
    pub kept: u32,
    /// Port of the peer, host order.
    pub port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// Segments that have been looked at.
    pub looked: u16,
    /// One of [`connection`].
    pub state: u8,
    /// 1: it has begun with something else than TLS, and has been judged for that.
    pub plain: u8,
    /// How often a segment has waited for guardd to read what name servers have said.
    pub waits: u32,
    /// Bytes that have been looked at.
    pub sent: u32,
    /// How many answers of name servers had been handed to guardd when it was connected, the lowest 32 bits: the name that
    /// it was connected for is in one of these.
    pub handed: u32,
    /// How often a segment has waited for guardd to tap the process's TLS library.
    pub taps: u32,
    /// Not 0: some label asks what is said to its address.
    pub asked: u32,
    /// Unused.
    pub pad: u32,
    /// Sequence number up to which what it says was handed to guardd; counts in state [`connection::READ`].
    pub told: u32,
    /// `task->comm`.
    pub comm: [u8; 16],
}

/// [`Socket::state`].
pub mod connection {
    /// Not known yet.
    pub const OPEN: u8 = 0;
    /// A person is asked.
    pub const HELD: u8 = 1;
    /// Nothing leaves any more.
    pub const REFUSED: u8 = 2;
    /// It speaks HTTP without TLS: guardd reads what it says before it leaves.
    pub const READ: u8 = 3;
    /// A request over TLS has begun whose rest will tell what it is: written by guardd, into the storage of a socket that was
    /// of no more interest.
    pub const WITHHELD: u8 = 4;
}

/// Bytes of a connection that are looked through for a ClientHello at once. Those of browsers, with a post-quantum key
/// share, are some 1,800 long. Of a longer one the first part is read.
pub const MAX_HELLO: usize = 4096;
/// Segments with data, and bytes in them, after which a connection that has not begun a ClientHello is taken to send
/// none.
pub const MAX_LOOKED: u16 = 64;
/// See [`MAX_LOOKED`].
pub const MAX_SENT: u32 = 16 << 10;
/// A ClientHello is recognised by so many of its first bytes: record header (5), handshake header (4), version (2).
pub const HELLO_BEGINS: usize = 11;
/// How often a segment waits for guardd to read what name servers have said.
pub const MAX_WAITS: u32 = 4;
/// How often one waits for guardd to tap the process's TLS library: a retry comes after 200 ms and more, and guardd
/// needs some milliseconds.
pub const MAX_TAPS: u32 = 6;

/// What was seen of a name; flags of a [`NameRecord`].
pub mod seen {
    /// A ClientHello.
    pub const HELLO: u32 = 1;
    /// It names the host.
    pub const SNI: u32 = 2;
    /// It has an extension for an encrypted ClientHello (RFC 9849), so that the name may be that of a front only.
    pub const ECH: u32 = 4;
    /// Name servers have given this address for this name.
    pub const AGREES: u32 = 8;
    /// Name servers have given this address, and not for this name.
    pub const CONTRADICTS: u32 = 16;
    /// It could not be read to its end.
    pub const CUT: u32 = 32;
}

/// Record of a connection that has said whom it is for, or could have and has not.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct NameRecord {
    /// What every record has.
    pub header: crate::event::Header,
    /// IPv6 or v4-mapped address of the peer.
    pub addr: [u8; 16],
    /// The socket's cookie (`SO_COOKIE`).
    pub cookie: u64,
    /// Set of [`seen`].
    pub seen: u32,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// Port of the peer, host order.
    pub port: u16,
    /// Bytes of `host`.
    pub host_len: u32,
    /// Unused.
    pub pad: u32,
    /// The name as it was sent.
    pub host: [u8; 256],
}

/// What arrived from a name server; the bytes follow.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct AnswerHeader {
    /// `CLOCK_MONOTONIC`, ns.
    pub time_ns: u64,
    /// The name server, IPv6 or v4-mapped.
    pub from: [u8; 16],
    /// Port on this side, host order.
    pub port: u16,
    /// `IPPROTO_UDP` or `IPPROTO_TCP`.
    pub protocol: u16,
    /// Of TCP, the sequence number of the first byte.
    pub seq: u32,
    /// Bytes that follow.
    pub len: u32,
    /// Bytes that there were.
    pub whole: u32,
    /// Inode number of the network namespace that it arrived in; 0 where that is not known.
    pub netns: u32,
    /// Unused.
    pub pad: u32,
}

/// Bytes of what a name server says that are handed on at once.
pub const MAX_ANSWER: usize = 4095;

/// Places in the table of how many answers of name servers there were: handed to guardd (the kernel counts), and read
/// by it (it writes).
pub mod answers {
    /// See above.
    pub const HANDED: u32 = 0;
    /// See above.
    pub const READ: u32 = 1;
    /// How many places.
    pub const COUNT: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_name_is_hashed_on_the_way() {
        let whole = hash(b"api.Example.com");
        assert_eq!(whole, hash(b"API.example.COM"));
        let end = hash(b"example.com");
        let rest = b"api."
            .iter()
            .rev()
            .fold(end, |hash, &byte| fnv_step(hash, byte));
        assert_eq!(rest, whole);
    }
}
