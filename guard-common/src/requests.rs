//! What programs say over their connections: copied where a TLS library is asked to encrypt it, or where it would leave
//! without TLS.

/// Bytes of one write that are copied at most.
pub const MAX_WRITE: usize = 64 << 10;

/// A TLS connection inside a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct StreamKey {
    /// The library's own object for it, by its address.
    pub conn: u64,
    /// The process.
    pub tgid: u32,
    /// Unused.
    pub pad: u32,
}

/// What is known of such a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct StreamState {
    /// Bytes that the library has taken so far.
    pub taken: u64,
    /// Not 0: nobody asks what it says.
    pub passes: u64,
}

/// A write that a thread is in. Key: pid_tgid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Writing {
    /// [`StreamKey::conn`].
    pub conn: u64,
    /// Where the library leaves how much it took, of functions that return only whether they did; else 0.
    pub count_at: u64,
}

/// A process whose TLS library guardd has looked for. Key: its tgid; taken out at its exec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tapped {
    /// Start time of the process, as in [`crate::state::Task::start_ns`].
    pub start_ns: u64,
    /// Writes that were handed to guardd: it lets the process go on when it has seen so many.
    pub writes: u64,
    /// tgid of the tapped process that it was forked from, whose connections it may have; 0: none.
    pub parent: u32,
    /// Unused.
    pub pad: u32,
}

/// How a write was seen.
pub mod via {
    /// OpenSSL, or a library with its functions.
    pub const OPENSSL: u32 = 0;
    /// GnuTLS.
    pub const GNUTLS: u32 = 1;
    /// NSS, by NSPR.
    pub const NSS: u32 = 2;
    /// Go's crypto/tls.
    pub const GO: u32 = 3;
    /// Without TLS, where it would leave.
    pub const PLAIN: u32 = 4;
    /// A datagram of QUIC's handshake, where it would leave.
    pub const QUIC: u32 = 5;
    /// Their names in events, by number.
    pub const NAMES: [&str; 6] = ["openssl", "gnutls", "nss", "go", "plain", "quic"];
}

/// A write; what was copied of it follows.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WriteHeader {
    /// What every record has.
    pub header: crate::event::Header,
    /// [`StreamKey::conn`], or the socket's cookie.
    pub conn: u64,
    /// Where in the stream it begins: bytes that the library had taken before, or TCP's sequence number; of QUIC how long each
    /// of the datagrams is that the packet is to be cut into, or 0.
    pub at: u64,
    /// Where it is in the process's memory; 0 for what is no write of a library.
    pub from: u64,
    /// Bytes of it.
    pub len: u64,
    /// Bytes that follow.
    pub copied: u32,
    /// One of [`via`].
    pub via: u32,
    /// The peer, of what is sent without TLS: IPv6 or v4-mapped.
    pub peer: [u8; 16],
    /// Its port, host order.
    pub port: u16,
    /// `AF_INET` or `AF_INET6`.
    pub family: u16,
    /// 1: the connection has ended, and there is no write.
    pub ends: u32,
}

/// Second word of what guardd says of a socket.
pub mod clears {
    /// Up to the first word.
    pub const SOME: u32 = 0;
    /// Everything.
    pub const ALL: u32 = 1;
    /// Nothing, ever.
    pub const NOTHING: u32 = 2;
}
