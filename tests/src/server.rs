//! Servers on the loopback that send back what they get, and count it.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// What has reached a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Connections, or datagrams.
    pub connections: u64,
    /// Bytes of content.
    pub bytes: u64,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    fn get(&self) -> Reached {
        Reached {
            connections: self.connections.load(Ordering::SeqCst),
            bytes: self.bytes.load(Ordering::SeqCst),
        }
    }
}

/// Ends the thread that waits on a listening socket.
struct Ending(RawFd);

impl Drop for Ending {
    fn drop(&mut self) {
        // SAFETY: takes numbers. The thread that owns the socket only closes it after this.
        unsafe { libc::shutdown(self.0, libc::SHUT_RDWR) };
    }
}

/// What a fence says, so that it is not counted.
const FENCE: &[u8] = b"fence";

fn echo(mut stream: impl Read + Write, counts: &Counts) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        counts.bytes.fetch_add(n as u64, Ordering::SeqCst);
        if stream.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
}

/// TCP.
pub struct Tcp {
    addr: SocketAddr,
    counts: Arc<Counts>,
    _ending: Ending,
}

impl Tcp {
    /// On a free port of `127.0.0.1`.
    pub fn v4() -> Self {
        Self::at("127.0.0.1:0")
    }

    /// On a free port of `[::1]`.
    pub fn v6() -> Self {
        Self::at("[::1]:0")
    }

    /// On this address.
    pub fn at(addr: &str) -> Self {
        let listener = TcpListener::bind(addr).expect("a listener");
        let addr = listener.local_addr().expect("an address");
        let ending = Ending(listener.as_raw_fd());
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let shared = shared.clone();
                thread::spawn(move || echo(stream, &shared));
            }
        });
        Self {
            addr,
            counts,
            _ending: ending,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// What has reached it. Connections are accepted in order, so that once one of our own has been
    /// served, so has every earlier one.
    pub fn reached(&self) -> Reached {
        let mut fence = TcpStream::connect(self.addr).expect("the server accepts");
        fence.write_all(FENCE).expect("the server reads");
        let mut answer = [0; FENCE.len()];
        fence.read_exact(&mut answer).expect("the server answers");
        let _ = fence.shutdown(Shutdown::Both);
        self.counts.connections.fetch_sub(1, Ordering::SeqCst);
        self.counts
            .bytes
            .fetch_sub(FENCE.len() as u64, Ordering::SeqCst);
        self.counts.get()
    }

    /// Asserts that nothing has reached it.
    #[track_caller]
    pub fn untouched(&self) {
        assert_eq!(
            self.reached(),
            Reached::default(),
            "something reached {}",
            self.addr
        );
    }

    /// Asserts that nothing has reached it of what is held; where the kernel cannot hold a connect before its handshake,
    /// nothing but that.
    #[track_caller]
    pub fn untouched_while_held(&self, guard: &crate::Guard) {
        if guard.holds_exactly() {
            self.untouched();
        } else {
            assert_eq!(self.reached().bytes, 0, "something reached {}", self.addr);
        }
    }
}

/// UDP.
pub struct Udp {
    addr: SocketAddr,
    counts: Arc<Counts>,
    _ending: Ending,
}

impl Udp {
    /// On a free port of `127.0.0.1`.
    pub fn v4() -> Self {
        Self::at("127.0.0.1:0")
    }

    /// On a free port of `[::1]`.
    pub fn v6() -> Self {
        Self::at("[::1]:0")
    }

    fn at(addr: &str) -> Self {
        let socket = UdpSocket::bind(addr).expect("a socket");
        let addr = socket.local_addr().expect("an address");
        let ending = Ending(socket.as_raw_fd());
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A shut down socket gives empty datagrams for ever.
            while let Ok((n @ 1.., from)) = socket.recv_from(&mut buffer) {
                if &buffer[..n] != FENCE {
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    shared.bytes.fetch_add(n as u64, Ordering::SeqCst);
                }
                let _ = socket.send_to(&buffer[..n], from);
            }
        });
        Self {
            addr,
            counts,
            _ending: ending,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// What has reached it; the loopback keeps datagrams in order, so a fence works as with TCP.
    pub fn reached(&self) -> Reached {
        let from = if self.addr.is_ipv4() {
            "127.0.0.1:0"
        } else {
            "[::1]:0"
        };
        let socket = UdpSocket::bind(from).expect("a socket");
        socket.send_to(FENCE, self.addr).expect("a datagram");
        let mut answer = [0; FENCE.len()];
        socket.recv_from(&mut answer).expect("the server answers");
        self.counts.get()
    }

    /// Asserts that nothing has reached it.
    #[track_caller]
    pub fn untouched(&self) {
        assert_eq!(
            self.reached(),
            Reached::default(),
            "something reached {}",
            self.addr
        );
    }
}

/// Somebody who passes on to another server whatever comes, and back: a proxy, or the near end of a tunnel.
pub struct Relay {
    addr: SocketAddr,
    _ending: Ending,
}

impl Relay {
    /// On a free port of `127.0.0.1`, to another server.
    pub fn to(server: SocketAddr) -> Self {
        Self::after(server, |_| Ok(()))
    }

    /// The same, as a proxy does that is asked by CONNECT, whatever for.
    pub fn asked(server: SocketAddr) -> Self {
        Self::after(server, |mut near| {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                near.read_exact(&mut byte)?;
                head.push(byte[0]);
            }
            near.write_all(b"HTTP/1.1 200 OK\r\n\r\n")
        })
    }

    fn after(server: SocketAddr, first: fn(&TcpStream) -> std::io::Result<()>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let addr = listener.local_addr().expect("an address");
        let ending = Ending(listener.as_raw_fd());
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                if first(&near).is_err() {
                    continue;
                }
                let far = TcpStream::connect(server).expect("the server accepts");
                let copies = [
                    (
                        near.try_clone().expect("a socket"),
                        far.try_clone().expect("a socket"),
                    ),
                    (far, near),
                ];
                for (mut from, mut to) in copies {
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        Self {
            addr,
            _ending: ending,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// AF_UNIX, a socket file.
pub struct Unix {
    counts: Arc<Counts>,
    _ending: Ending,
}

impl Unix {
    /// At a path.
    pub fn at(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a listener");
        let ending = Ending(listener.as_raw_fd());
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                serve_unix(stream, &shared);
            }
        });
        Self {
            counts,
            _ending: ending,
        }
    }

    /// Bytes that have been read so far.
    pub fn bytes(&self) -> u64 {
        self.counts.get().bytes
    }
}

fn serve_unix(stream: UnixStream, counts: &Arc<Counts>) {
    counts.connections.fetch_add(1, Ordering::SeqCst);
    let counts = counts.clone();
    thread::spawn(move || echo(stream, &counts));
}
