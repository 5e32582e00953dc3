//! A TLS server on the loopback for names that nobody has, which counts what reaches it and answers every request.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ServerConfig, ServerConnection,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};

/// What has reached the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Bytes of TCP, the handshake's too.
    pub wire: u64,
    /// ClientHellos that were read whole.
    pub hellos: u64,
    /// Handshakes that were completed.
    pub handshakes: u64,
    /// Bytes after decryption.
    pub application: u64,
}

#[derive(Default)]
struct Counts {
    wire: AtomicU64,
    hellos: AtomicU64,
    handshakes: AtomicU64,
    application: AtomicU64,
}

/// It ends with the test's process.
pub struct TlsServer {
    addr: SocketAddr,
    counts: Arc<Counts>,
}

impl TlsServer {
    /// For these names. The certificate that clients must trust goes to `ca`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(names: &[&str], ca: &Path) -> Self {
        Self::at(Ipv4Addr::LOCALHOST, names, ca)
    }

    /// The same on an address of the loopback.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn at(addr: Ipv4Addr, names: &[&str], ca: &Path) -> Self {
        let config = Arc::new(configuration(names, ca));
        let listener = TcpListener::bind((addr, 0)).expect("a listener");
        let addr = listener.local_addr().expect("an address");
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (config, counts) = (config.clone(), shared.clone());
                thread::spawn(move || serve(stream, config, &counts));
            }
        });
        Self { addr, counts }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// What has reached it so far.
    pub fn reached(&self) -> Reached {
        Reached {
            wire: self.counts.wire.load(Ordering::SeqCst),
            hellos: self.counts.hellos.load(Ordering::SeqCst),
            handshakes: self.counts.handshakes.load(Ordering::SeqCst),
            application: self.counts.application.load(Ordering::SeqCst),
        }
    }
}

/// A server's configuration with a certificate for these names; that which clients must trust goes to `ca`.
pub(crate) fn configuration(names: &[&str], ca: &Path) -> ServerConfig {
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority
        .distinguished_name
        .push(DnType::CommonName, "guard test authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = authority
        .self_signed(&authority_key)
        .expect("a certificate");
    fs::write(ca, certificate.pem()).expect("the authority's certificate");
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names)
        .and_then(|params| params.signed_by(&key, &issuer))
        .expect("a certificate");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .expect("a configuration")
}

/// Counts what is read.
struct Counted<'a>(&'a TcpStream, &'a Counts);

impl std::io::Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(buffer)?;
        self.1.wire.fetch_add(n as u64, Ordering::SeqCst);
        Ok(n)
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, counts: &Counts) {
    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n";
    let _ = stream.set_read_timeout(Some(Duration::from_secs(300)));
    let Ok(mut connection) = ServerConnection::new(config) else {
        return;
    };
    let mut request: Vec<u8> = Vec::new();
    let (mut answered, mut greeted) = (false, false);
    loop {
        while connection.wants_write() {
            if connection.write_tls(&mut &stream).is_err() {
                return;
            }
        }
        if answered {
            return;
        }
        match connection.read_tls(&mut Counted(&stream, counts)) {
            Ok(1..) => {}
            _ => return,
        }
        let handshaking = connection.is_handshaking();
        let state = match connection.process_new_packets() {
            Ok(state) => state,
            Err(_) => return,
        };
        // It has something to say only when it has understood whom to.
        if !greeted && connection.wants_write() {
            greeted = true;
            counts.hellos.fetch_add(1, Ordering::SeqCst);
        }
        if handshaking && !connection.is_handshaking() {
            counts.handshakes.fetch_add(1, Ordering::SeqCst);
        }
        let mut plain = vec![0; state.plaintext_bytes_to_read()];
        match connection.reader().read_exact(&mut plain) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        counts
            .application
            .fetch_add(plain.len() as u64, Ordering::SeqCst);
        request.extend(plain);
        if request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            let _ = connection.writer().write_all(ANSWER);
            connection.send_close_notify();
            answered = true;
        }
    }
}
