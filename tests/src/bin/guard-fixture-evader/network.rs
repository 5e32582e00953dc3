//! Ways to a server. Each sends a word and gives back what the server answers, so that what it gives has been on
//! the wire. Where the address is comes as `MORE`: `tcp4=…;tcp6=…;udp4=…;proxy=…;unix=…`.

use std::{
    io::{self, Read as _, Write as _},
    mem,
    net::{IpAddr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::{
            ffi::OsStrExt as _,
            net::{UnixDatagram, UnixStream},
        },
    },
    ptr,
    time::Duration,
};

use super::{Failed, Gives, check, uring};

/// What is sent.
pub(super) const WORD: &[u8] = b"carried off";
/// No technique waits longer for an answer.
pub(super) const LONGEST: Duration = Duration::from_secs(3);

/// One of the servers in `MORE`.
pub(super) fn server(more: &str, name: &str) -> Result<String, Failed> {
    more.split(';')
        .find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
        .map(str::to_owned)
        .ok_or_else(|| Failed::Cannot(format!("no server {name}")))
}

pub(super) fn address(more: &str, name: &str) -> Result<SocketAddr, Failed> {
    let text = server(more, name)?;
    text.parse()
        .map_err(|_| Failed::Cannot(format!("{text}: no address")))
}

pub(super) fn attempt(technique: &str, more: &str) -> Option<Gives> {
    Some(match technique {
        "tcp" => over_tcp(address(more, "tcp4")),
        "tcp6" => over_tcp(address(more, "tcp6")),
        "v4-mapped" => over_tcp(address(more, "tcp4").map(mapped)),
        "udp-connected" => connected(more),
        "udp-sendto" => datagram(more, "udp4"),
        "udp6-sendto" => datagram(more, "udp6"),
        "udp-sendmmsg" => sendmmsg(more),
        "fastopen-connect" => fastopen(more, true),
        "fastopen-sendto" => fastopen(more, false),
        "io-uring-connect" => ring_connect(more),
        "io-uring-sendmsg" => ring_sendmsg(more),
        "raw-socket" => raw(more),
        "packet-socket" => packet(more),
        "vsock" => other_socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0),
        "sctp" => other_socket(libc::AF_INET, libc::SOCK_STREAM, 132),
        "mptcp" => mptcp(more),
        "network-namespace" => in_namespace(more),
        "proxy" => over_tcp(address(more, "proxy")),
        "inherited-socket" => inherited(),
        "broker-unix" => over_unix(more),
        "followed-server" => ask(more),
        "broker-datagram" => unix_datagram(more),
        "broker-tcp" => over_tcp(address(more, "broker")),
        _ => return None,
    })
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::from((ip.to_ipv6_mapped(), address.port())),
        IpAddr::V6(_) => address,
    }
}

fn exchange(mut stream: TcpStream) -> Gives {
    stream.set_read_timeout(Some(LONGEST))?;
    stream.write_all(WORD)?;
    let mut got = vec![0; WORD.len()];
    stream.read_exact(&mut got)?;
    Ok(got)
}

fn over_tcp(address: Result<SocketAddr, Failed>) -> Gives {
    exchange(TcpStream::connect(address?)?)
}

fn answer(socket: &UdpSocket) -> Gives {
    socket.set_read_timeout(Some(LONGEST))?;
    let mut got = vec![0; 64];
    let length = socket.recv(&mut got)?;
    got.truncate(length);
    Ok(got)
}

fn connected(more: &str) -> Gives {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(address(more, "udp4")?)?;
    socket.send(WORD)?;
    answer(&socket)
}

fn datagram(more: &str, to: &str) -> Gives {
    let to = address(more, to)?;
    let from = if to.is_ipv4() {
        "127.0.0.1:0"
    } else {
        "[::1]:0"
    };
    let socket = UdpSocket::bind(from)?;
    socket.send_to(WORD, to)?;
    answer(&socket)
}

fn v4(more: &str, name: &str) -> Result<SocketAddrV4, Failed> {
    match address(more, name)? {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => Err(Failed::Cannot(format!("{name} is no IPv4 address"))),
    }
}

fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*address.ip()).to_be(),
        },
        sin_zero: [0; 8],
    }
}

/// A message of [`WORD`] to an address; both must outlive it.
fn message(to: &mut libc::sockaddr_in, word: &mut libc::iovec) -> libc::msghdr {
    word.iov_base = WORD.as_ptr().cast_mut().cast();
    word.iov_len = WORD.len();
    // SAFETY: all zeros are a message without anything.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_name = ptr::from_mut(to).cast();
    header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
    header.msg_iov = word;
    header.msg_iovlen = 1;
    header
}

fn nothing() -> libc::iovec {
    libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }
}

fn sendmmsg(more: &str) -> Gives {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let (mut to, mut word) = (sockaddr(v4(more, "udp4")?), nothing());
    let mut many = libc::mmsghdr {
        msg_hdr: message(&mut to, &mut word),
        msg_len: 0,
    };
    // SAFETY: one message, and what it points to lives.
    check(unsafe { libc::sendmmsg(socket.as_raw_fd(), &mut many, 1, 0) }.into())?;
    answer(&socket)
}

fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd, Failed> {
    // SAFETY: takes numbers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        let why = io::Error::last_os_error();
        return Err(match why.raw_os_error() {
            Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT) => {
                Failed::Cannot(format!("no such socket here: {why}"))
            }
            _ => why.into(),
        });
    }
    // SAFETY: the kernel has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Data that goes with the first packet, by `connect` and `write` or by `sendto`.
fn fastopen(more: &str, by_connect: bool) -> Gives {
    /// `TCP_FASTOPEN_CONNECT`: <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/tcp.h#L123>
    const TCP_FASTOPEN_CONNECT: i32 = 30;
    let to = v4(more, "tcp4")?;
    let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let on: i32 = 1;
    let to = sockaddr(to);
    let (at, length) = (ptr::from_ref(&to).cast(), size_of_val(&to) as u32);
    // SAFETY: an open socket, and structures of the lengths that are given.
    unsafe {
        if by_connect {
            check(
                libc::setsockopt(
                    fd.as_raw_fd(),
                    libc::IPPROTO_TCP,
                    TCP_FASTOPEN_CONNECT,
                    ptr::from_ref(&on).cast(),
                    4,
                )
                .into(),
            )?;
            check(libc::connect(fd.as_raw_fd(), at, length).into())?;
            return exchange(TcpStream::from(fd));
        }
        check(libc::sendto(
            fd.as_raw_fd(),
            WORD.as_ptr().cast(),
            WORD.len(),
            libc::MSG_FASTOPEN,
            at,
            length,
        ) as libc::c_long)?;
    }
    let mut stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(LONGEST))?;
    let mut got = vec![0; WORD.len()];
    stream.read_exact(&mut got)?;
    Ok(got)
}

fn ring_connect(more: &str) -> Gives {
    const OP_CONNECT: u8 = 16;
    let to = sockaddr(v4(more, "tcp4")?);
    let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let request = uring::Request {
        op: OP_CONNECT,
        fd: fd.as_raw_fd(),
        addr: ptr::from_ref(&to) as u64,
        // The length of the address has the place of an offset.
        off: size_of_val(&to) as u64,
        len: 0,
    };
    uring::submit(&request)?;
    exchange(TcpStream::from(fd))
}

fn ring_sendmsg(more: &str) -> Gives {
    const OP_SENDMSG: u8 = 9;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let (mut to, mut word) = (sockaddr(v4(more, "udp4")?), nothing());
    let header = message(&mut to, &mut word);
    uring::submit(&uring::Request {
        op: OP_SENDMSG,
        fd: socket.as_raw_fd(),
        addr: ptr::from_ref(&header) as u64,
        off: 0,
        len: 1,
    })?;
    answer(&socket)
}

/// An IPv4 packet with a UDP datagram of [`WORD`].
fn udp_packet(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let udp_length = (8 + WORD.len()) as u16;
    let length = 20 + udp_length;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    // No fragments, 64 hops, UDP.
    packet.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    // <https://www.rfc-editor.org/rfc/rfc1071>
    let mut sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    // No checksum, as IPv4 allows.
    packet.extend([0, 0]);
    packet.extend(WORD);
    packet
}

fn local(socket: &UdpSocket) -> Result<SocketAddrV4, Failed> {
    match socket.local_addr()? {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => Err(Failed::Cannot("no IPv4".into())),
    }
}

fn raw(more: &str) -> Gives {
    let to = v4(more, "udp4")?;
    let receiver = UdpSocket::bind("127.0.0.1:0")?;
    let packet = udp_packet(local(&receiver)?, to);
    let fd = socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    let to = sockaddr(to);
    // SAFETY: an open socket, and structures of the lengths that are given.
    check(unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            ptr::from_ref(&to).cast(),
            size_of_val(&to) as u32,
        )
    } as libc::c_long)?;
    answer(&receiver)
}

fn packet(more: &str) -> Gives {
    const ETH_P_IP: u16 = 0x0800;
    let to = v4(more, "udp4")?;
    let receiver = UdpSocket::bind("127.0.0.1:0")?;
    let packet = udp_packet(local(&receiver)?, to);
    let fd = socket(
        libc::AF_PACKET,
        libc::SOCK_DGRAM,
        i32::from(ETH_P_IP.to_be()),
    )?;
    // SAFETY: all zeros are an address of nothing; `lo` has an index, or 0 says that there is none.
    let mut link: libc::sockaddr_ll = unsafe { mem::zeroed() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = ETH_P_IP.to_be();
    // SAFETY: a constant string.
    link.sll_ifindex = unsafe { libc::if_nametoindex(c"lo".as_ptr()) } as i32;
    link.sll_halen = 6;
    // SAFETY: an open socket, and structures of the lengths that are given.
    check(unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            ptr::from_ref(&link).cast(),
            size_of_val(&link) as u32,
        )
    } as libc::c_long)?;
    answer(&receiver)
}

/// To have such a socket is enough: what it connects to would not be judged.
fn other_socket(family: i32, kind: i32, protocol: i32) -> Gives {
    socket(family, kind, protocol)?;
    Ok(b"such a socket".to_vec())
}

fn mptcp(more: &str) -> Gives {
    const IPPROTO_MPTCP: i32 = 262;
    let to = sockaddr(v4(more, "tcp4")?);
    let fd = socket(libc::AF_INET, libc::SOCK_STREAM, IPPROTO_MPTCP)?;
    let (at, length) = (ptr::from_ref(&to).cast(), size_of_val(&to) as u32);
    // SAFETY: an open socket, and a structure of the length that is given.
    let connected = unsafe { libc::connect(fd.as_raw_fd(), at, length) };
    check(connected.into())?;
    exchange(TcpStream::from(fd))
}

/// The address is nobody's there; what counts is whether the connection is tried.
fn in_namespace(more: &str) -> Gives {
    let to = address(more, "tcp4")?;
    // SAFETY: this process has one thread.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }.into())?;
    let refused = match TcpStream::connect(to) {
        Ok(stream) => return exchange(stream),
        Err(error) => error,
    };
    match refused.raw_os_error() {
        // The network's own answers: the call was let through to it.
        Some(libc::ENETUNREACH | libc::ECONNREFUSED) => Ok(b"an attempt".to_vec()),
        _ => Err(refused.into()),
    }
}

fn inherited() -> Gives {
    // SAFETY: the test has put a connected socket there.
    exchange(unsafe { TcpStream::from_raw_fd(0 as RawFd) })
}

/// Has a server read the secret.
fn ask(more: &str) -> Gives {
    let mut stream = UnixStream::connect(server(more, "follow")?)?;
    let secret = std::env::args_os().nth(2).unwrap_or_default();
    stream.write_all(b"/bin/cat ")?;
    stream.write_all(secret.as_bytes())?;
    stream.write_all(b"\n")?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said)?;
    if said.is_empty() {
        return Err(io::Error::other("the server gave nothing").into());
    }
    Ok(said)
}

fn unix_datagram(more: &str) -> Gives {
    let socket = UnixDatagram::unbound()?;
    socket.send_to(WORD, server(more, "datagrams")?)?;
    Ok(WORD.to_vec())
}

fn over_unix(more: &str) -> Gives {
    let mut stream = UnixStream::connect(server(more, "unix")?)?;
    stream.set_read_timeout(Some(LONGEST))?;
    stream.write_all(WORD)?;
    let mut got = vec![0; WORD.len()];
    stream.read_exact(&mut got)?;
    Ok(got)
}
