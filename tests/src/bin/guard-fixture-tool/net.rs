//! Connections and datagrams to a server that sends back what it gets.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd as _, FromRawFd as _},
        unix::net::{UnixListener, UnixStream},
    },
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// How long an echo may take. A server that never got the text never answers. Longer where the processor is emulated.
fn limit() -> Duration {
    let patience = std::env::var(guard_tests::PATIENCE_VAR).ok();
    let seconds = patience.and_then(|text| text.parse().ok()).unwrap_or(20);
    Duration::from_secs(seconds / 2)
}

fn address(text: &str) -> io::Result<SocketAddr> {
    text.parse()
        .map_err(|_| io::Error::other(format!("no address: {text}")))
}

fn exchange(mut stream: impl Read + Write, text: &str) -> io::Result<Value> {
    stream.write_all(text.as_bytes())?;
    let mut echo = vec![0; text.len()];
    stream.read_exact(&mut echo)?;
    Ok(json!({ "echo": String::from_utf8_lossy(&echo) }))
}

/// A blocking `connect`, one call: an interrupted one is not repeated here.
pub(crate) fn tcp(to: &str, text: &str) -> io::Result<Value> {
    let stream = socket(address(to)?, libc::SOCK_STREAM, true)?;
    stream.set_read_timeout(Some(limit()))?;
    exchange(stream, text)
}

/// A request by rustls, whose functions no probe finds.
pub(crate) fn https(to: &str, host: &str, ca: &str, method: &str) -> io::Result<Value> {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(ca).map_err(io::Error::other)?;
    roots.add(authority).map_err(io::Error::other)?;
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut connection =
        rustls::ClientConnection::new(config.into(), name).map_err(io::Error::other)?;
    let mut stream = socket(address(to)?, libc::SOCK_STREAM, true)?;
    stream.set_read_timeout(Some(limit()))?;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    write!(
        tls,
        "{method} /v1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = [0; 4096];
    let len = tls.read(&mut answer)?;
    Ok(json!({ "echo": String::from_utf8_lossy(&answer[..len]) }))
}

/// A QUIC handshake.
pub(crate) fn quic(to: &str, host: &str, ca: &str) -> io::Result<Value> {
    guard_tests::quic::connect(address(to)?, host, ca.as_ref(), limit())?;
    Ok(json!({ "connected": true }))
}

fn bytes(hex: &str) -> io::Result<Vec<u8>> {
    (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16))
        .collect::<Result<_, _>>()
        .map_err(io::Error::other)
}

fn each(mut stream: TcpStream, hex: &[&str]) -> io::Result<Value> {
    stream.set_read_timeout(Some(limit()))?;
    stream.set_nodelay(true)?;
    let mut echoed = 0;
    for hex in hex {
        let sent = bytes(hex)?;
        stream.write_all(&sent)?;
        let mut echo = vec![0; sent.len()];
        stream.read_exact(&mut echo)?;
        if echo != sent {
            return Err(io::Error::other("another echo"));
        }
        echoed += sent.len();
    }
    Ok(json!({ "echoed": echoed }))
}

/// Bytes in segments: each is sent when the one before has come back. `most`: TCP_MAXSEG.
pub(crate) fn segments(to: &str, hex: &[&str], most: Option<libc::c_int>) -> io::Result<Value> {
    let to = address(to)?;
    let Some(most) = most else {
        return each(socket(to, libc::SOCK_STREAM, true)?, hex);
    };
    let stream = socket(to, libc::SOCK_STREAM, false)?;
    // SAFETY: the option is an int.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MAXSEG,
            (&raw const most).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    connect(&stream, to)?;
    each(stream, hex)
}

/// Bytes over MPTCP.
pub(crate) fn mptcp(to: &str, hex: &str) -> io::Result<Value> {
    let stream = of_kind(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    connect(&stream, address(to)?)?;
    each(stream, &[hex])
}

/// A `connect` that is waited for with `poll`.
pub(crate) fn tcp_nonblocking(to: &str, text: &str) -> io::Result<Value> {
    let to = address(to)?;
    let stream = socket(to, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, true)?;
    let mut fds = libc::pollfd {
        fd: stream.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    if unsafe { libc::poll(&raw mut fds, 1, 10_000) } != 1 {
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(limit()))?;
    exchange(stream, text)
}

/// A socket, connected if `connect`. `std` would hide whether `connect` was interrupted.
fn socket(to: SocketAddr, kind: libc::c_int, connected: bool) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let stream = of_kind(family, kind, 0)?;
    if connected {
        connect(&stream, to)?;
    }
    Ok(stream)
}

fn of_kind(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<TcpStream> {
    // SAFETY: takes numbers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { TcpStream::from_raw_fd(fd) })
}

/// One call; of a socket that does not wait, success means that it has begun.
fn connect(stream: &TcpStream, to: SocketAddr) -> io::Result<()> {
    let fd = stream.as_raw_fd();
    let result = match to {
        SocketAddr::V4(to) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: to.port().to_be(),
                sin_addr: libc::in_addr {
                    s_addr: u32::from(*to.ip()).to_be(),
                },
                sin_zero: [0; 8],
            };
            let len = size_of_val(&raw) as libc::socklen_t;
            // SAFETY: a valid address of that length.
            unsafe { libc::connect(fd, (&raw const raw).cast(), len) }
        }
        SocketAddr::V6(to) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: to.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr {
                    s6_addr: to.ip().octets(),
                },
                sin6_scope_id: to.scope_id(),
            };
            let len = size_of_val(&raw) as libc::socklen_t;
            // SAFETY: a valid address of that length.
            unsafe { libc::connect(fd, (&raw const raw).cast(), len) }
        }
    };
    let error = io::Error::last_os_error();
    if result < 0 && error.raw_os_error() != Some(libc::EINPROGRESS) {
        return Err(error);
    }
    Ok(())
}

fn local(to: SocketAddr) -> &'static str {
    if to.is_ipv4() {
        "127.0.0.1:0"
    } else {
        "[::]:0"
    }
}

/// `connect` and `send`.
pub(crate) fn udp_connected(to: &str, text: &str) -> io::Result<Value> {
    let to = address(to)?;
    let socket = UdpSocket::bind(local(to))?;
    socket.connect(to)?;
    socket.send(text.as_bytes())?;
    datagram_echo(&socket, text)
}

/// `sendto` on a socket that is not connected.
pub(crate) fn udp_sendto(to: &str, text: &str) -> io::Result<Value> {
    let to = address(to)?;
    let socket = UdpSocket::bind(local(to))?;
    socket.send_to(text.as_bytes(), to)?;
    datagram_echo(&socket, text)
}

fn datagram_echo(socket: &UdpSocket, text: &str) -> io::Result<Value> {
    socket.set_read_timeout(Some(limit()))?;
    let mut echo = vec![0; text.len()];
    let (n, _) = socket.recv_from(&mut echo)?;
    Ok(json!({ "echo": String::from_utf8_lossy(&echo[..n]) }))
}

/// A stream to a socket file.
pub(crate) fn unix(path: &str, text: &str) -> io::Result<Value> {
    exchange(UnixStream::connect(path)?, text)
}

/// Becomes a server that runs what its clients ask for, as its own children, and sends back what they write.
pub(crate) fn serve(path: &str) -> io::Result<Value> {
    let listener = UnixListener::bind(path)?;
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            thread::spawn(move || serve_one(stream));
        }
    });
    Ok(json!({}))
}

fn serve_one(mut stream: UnixStream) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let program = words.next().unwrap_or_default();
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()?;
    stream.write_all(&output.stdout)
}

/// Asks such a server to run something.
pub(crate) fn ask(path: &str, what: &str) -> io::Result<Value> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(format!("{what}\n").as_bytes())?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(json!({ "said": said }))
}
