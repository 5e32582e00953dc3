//! What connections say: whom they are for, and what is asked of them. Where the servers are comes as `MORE`:
//! `hellos=…;own=…;shared=…;connects=…;quic=…;api=…;plain=…;dns=…;ca=…;quic_ca=…`.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
};

use guard_tests::{
    evasion::{ASKED_HOST, NAMED_HOST, OTHER_HOST, SHARED_HOST},
    hello::{hello, in_records, spelled, with_ech, without_name},
    quic,
};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};

use super::{
    Failed, Gives,
    library::{Connection, Library},
    network::{LONGEST, address, server},
    processes::{child_that, wait},
};

pub(super) fn attempt(technique: &str, dir: &Path, more: &str) -> Option<Gives> {
    let bytes = || hello(NAMED_HOST, 0);
    let copy = || Library::copy_at(&dir.join(format!("{technique}-innocent.so")));
    Some(match technique {
        "hello" => greets(more, &bytes(), 65_536),
        "hello-bytes" => greets(more, &bytes(), 1),
        "hello-records" => greets(more, &in_records(&bytes(), 7), 65_536),
        "hello-capitals" => {
            let capitals = NAMED_HOST.to_ascii_uppercase();
            greets(more, &spelled(bytes(), NAMED_HOST, &capitals), 65_536)
        }
        "hello-long" => greets(more, &hello(NAMED_HOST, 1500), 65_536),
        "hello-too-long" => greets(more, &hello(NAMED_HOST, 6000), 65_536),
        "hello-ech" => greets(more, &with_ech(NAMED_HOST), 65_536),
        "hello-proxy" => by_proxy(more, &bytes()),
        "hello-address" => at_known(more, "own", NAMED_HOST, &without_name(NAMED_HOST)),
        "hello-contradicts" => at_known(more, "own", NAMED_HOST, &hello(OTHER_HOST, 0)),
        // In this order, so that the address is never known as the other's alone.
        "hello-shared" => resolved(more, OTHER_HOST)
            .and_then(|_| at_known(more, "shared", SHARED_HOST, &hello(OTHER_HOST, 0))),
        "quic" => by_quic(more),
        "request" => asks(Library::usual(), more, DELETES, 65_536),
        "request-bytes" => asks(Library::usual(), more, DELETES, 1),
        "request-second" => second(Library::usual(), more),
        "request-pipelined" => asks(Library::usual(), more, &[READS, DELETES].concat(), 65_536),
        "request-override" => asks(Library::usual(), more, OVERRIDES, 65_536),
        "request-fork" => by_child(Library::usual(), more),
        "request-handed" => handed(Library::usual(), more),
        "request-fronted" => resolved(more, ASKED_HOST)
            .and_then(|_| connected(Library::usual(), more, OTHER_HOST))
            .and_then(|connection| Ok(connection.ask(DELETES, 65_536)?)),
        "library-copy" => asks(copy(), more, DELETES, 65_536),
        "library-memory" => asks(Library::in_memory(), more, DELETES, 65_536),
        "library-late" => asks(Library::usual(), more, READS, 65_536)
            .and_then(|_| asks(copy(), more, DELETES, 65_536)),
        "own-tls" => own_tls(more),
        "own-tls-late" => asks(Library::usual(), more, READS, 65_536).and_then(|_| own_tls(more)),
        "plain" => plainly(more, DELETES, 65_536),
        "plain-bytes" => plainly(more, DELETES, 1),
        "plain-second" => plain_second(more, false),
        "plain-fork" => plain_second(more, true),
        _ => return None,
    })
}

const DELETES: &[u8] = b"DELETE /v1/volumes/1 HTTP/1.1\r\nHost: req.guard-evasions.test\r\n\r\n";
const READS: &[u8] = b"GET /v1/volumes/1 HTTP/1.1\r\nHost: req.guard-evasions.test\r\n\r\n";
const OVERRIDES: &[u8] = b"POST /v1/volumes/1 HTTP/1.1\r\nHost: req.guard-evasions.test\r\n\
    X-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n\r\n";

fn to(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LONGEST))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends it in pieces; the first byte that a server answers with.
fn says(mut stream: &TcpStream, bytes: &[u8], at_once: usize) -> Gives {
    for piece in bytes.chunks(at_once) {
        stream.write_all(piece)?;
    }
    let mut answer = vec![0; 1];
    stream.read_exact(&mut answer)?;
    Ok(b"an answer".to_vec())
}

fn greets(more: &str, bytes: &[u8], at_once: usize) -> Gives {
    says(&to(address(more, "hellos")?)?, bytes, at_once)
}

fn by_proxy(more: &str, bytes: &[u8]) -> Gives {
    let stream = to(address(more, "connects")?)?;
    let order = "CONNECT 203.0.113.7:443 HTTP/1.1\r\nHost: 203.0.113.7:443\r\n\r\n";
    says(&stream, order.as_bytes(), 65_536)?;
    // The rest of its answer comes with the first byte.
    let _ = (&stream).read(&mut [0; 256])?;
    says(&stream, bytes, 65_536)
}

/// What a name server says that a name stands for.
fn resolved(more: &str, name: &str) -> Result<Ipv4Addr, Failed> {
    let mut question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for part in name.split('.') {
        question.push(part.len() as u8);
        question.extend(part.as_bytes());
    }
    question.extend(b"\0\0\x01\0\x01");
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(LONGEST))?;
    socket.send_to(&question, address(more, "dns")?)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    // The address is the end of what is said.
    let ip: [u8; 4] = answer[..length]
        .last_chunk()
        .copied()
        .ok_or_else(|| io::Error::other("no answer"))?;
    Ok(ip.into())
}

/// To a server by the address that a name server gives for a name.
fn at_known(more: &str, server: &str, name: &str, bytes: &[u8]) -> Gives {
    let at = SocketAddr::from((resolved(more, name)?, address(more, server)?.port()));
    says(&to(at)?, bytes, 65_536)
}

/// The file with the certificate that a server's clients must trust.
fn authority(more: &str, name: &str) -> Result<PathBuf, Failed> {
    Ok(server(more, name)?.into())
}

fn by_quic(more: &str) -> Gives {
    quic::connect(
        address(more, "quic")?,
        NAMED_HOST,
        &authority(more, "quic_ca")?,
        LONGEST,
    )?;
    Ok(b"a handshake".to_vec())
}

fn connected(
    library: Result<Library, Failed>,
    more: &str,
    name: &str,
) -> Result<Connection, Failed> {
    Ok(library?.connect(to(address(more, "api")?)?, name)?)
}

fn asks(library: Result<Library, Failed>, more: &str, bytes: &[u8], at_once: usize) -> Gives {
    Ok(connected(library, more, ASKED_HOST)?.ask(bytes, at_once)?)
}

/// On a connection that something harmless was asked on before.
fn second(library: Result<Library, Failed>, more: &str) -> Gives {
    let connection = connected(library, more, ASKED_HOST)?;
    connection.ask(READS, 65_536)?;
    Ok(connection.ask(DELETES, 65_536)?)
}

/// The same by a child that has the connection from this process.
fn by_child(library: Result<Library, Failed>, more: &str) -> Gives {
    let connection = connected(library, more, ASKED_HOST)?;
    connection.ask(READS, 65_536)?;
    let child = child_that(|| i32::from(connection.ask(DELETES, 65_536).is_err()))?;
    match wait(child)? {
        0 => Ok(b"an answer".to_vec()),
        _ => Err(io::Error::other("the child got none").into()),
    }
}

/// On a connection that this process has made, by a child that was there already.
fn handed(library: Result<Library, Failed>, more: &str) -> Gives {
    let (library, stream) = (library?, to(address(more, "api")?)?);
    let child = child_that(|| {
        let asked = library
            .connect(stream, ASKED_HOST)
            .and_then(|connection| connection.ask(DELETES, 65_536));
        i32::from(asked.is_err())
    })?;
    match wait(child)? {
        0 => Ok(b"an answer".to_vec()),
        _ => Err(io::Error::other("the child got none").into()),
    }
}

/// By a library that is part of this program and has no function with a name.
fn own_tls(more: &str) -> Gives {
    let mut roots = rustls::RootCertStore::empty();
    let authority =
        CertificateDer::from_pem_file(authority(more, "ca")?).map_err(io::Error::other)?;
    roots.add(authority).map_err(io::Error::other)?;
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(ASKED_HOST).map_err(io::Error::other)?;
    let mut connection =
        rustls::ClientConnection::new(config.into(), name).map_err(io::Error::other)?;
    let mut stream = to(address(more, "api")?)?;
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    tls.write_all(DELETES)?;
    let mut answer = vec![0; 4096];
    let length = tls.read(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn plainly(more: &str, bytes: &[u8], at_once: usize) -> Gives {
    says(&to(address(more, "plain")?)?, bytes, at_once)
}

/// On a connection that something harmless was asked on before; by a child if `forks`.
fn plain_second(more: &str, forks: bool) -> Gives {
    let stream = to(address(more, "plain")?)?;
    says(&stream, READS, 65_536)?;
    let _ = (&stream).read(&mut [0; 4096])?;
    if !forks {
        return says(&stream, DELETES, 65_536);
    }
    let child = child_that(|| i32::from(says(&stream, DELETES, 65_536).is_err()))?;
    match wait(child)? {
        0 => Ok(b"an answer".to_vec()),
        _ => Err(io::Error::other("the child got none").into()),
    }
}
