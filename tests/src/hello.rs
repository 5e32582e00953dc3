//! ClientHellos as a real library makes them, and what can be done to them on their way.

use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};

/// The first record of a connection for `host`. `more` makes it longer by about so many bytes.
///
/// # Panics
/// When `host` is no name.
pub fn hello(host: &str, more: usize) -> Vec<u8> {
    let mut config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = (0..more / 101)
        .map(|n| format!("{n:0100}").into_bytes())
        .collect();
    let host = ServerName::try_from(host.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), host).expect("a client");
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("room");
    }
    bytes
}

/// The same without the extension that names the host: it gets a number that nobody knows.
pub fn without_name(host: &str) -> Vec<u8> {
    renumbered(hello(host, 0), 0, 0x4a4a)
}

/// The same, and an encrypted ClientHello beside the name: extended_master_secret, which may be missed, becomes one.
pub fn with_ech(host: &str) -> Vec<u8> {
    renumbered(hello(host, 0), 23, 0xfe0d)
}

/// With another number for one of its extensions (RFC 8446, 4.1.2 and 4.2).
fn renumbered(mut bytes: Vec<u8>, from: u16, to: u16) -> Vec<u8> {
    let word = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    // Headers of record and handshake, version, random; session, cipher suites, compression; their length.
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(bytes[at]);
    at += 2 + usize::from(word(at));
    at += 1 + usize::from(bytes[at]);
    at += 2;
    while word(at) != from {
        at += 4 + usize::from(word(at + 2));
    }
    bytes[at..at + 2].copy_from_slice(&to.to_be_bytes());
    bytes
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    let found = bytes.windows(what.len()).position(|window| window == what);
    found.expect("it is in there")
}

/// With another spelling of the name, of the same length.
pub fn spelled(mut bytes: Vec<u8>, host: &str, as_: &str) -> Vec<u8> {
    assert_eq!(host.len(), as_.len());
    let at = find(&bytes, host.as_bytes());
    bytes[at..at + host.len()].copy_from_slice(as_.as_bytes());
    bytes
}

/// One record as several, of so many bytes each.
pub fn in_records(bytes: &[u8], size: usize) -> Vec<u8> {
    let (head, body) = bytes.split_at(5);
    body.chunks(size)
        .flat_map(|chunk| {
            let mut record = head[..3].to_vec();
            record.extend((chunk.len() as u16).to_be_bytes());
            record.extend(chunk);
            record
        })
        .collect()
}

/// As words for the tool: segments of so many bytes.
pub fn in_segments(bytes: &[u8], size: usize) -> String {
    let hex = |chunk: &[u8]| -> String { chunk.iter().map(|byte| format!("{byte:02x}")).collect() };
    bytes.chunks(size).map(hex).collect::<Vec<_>>().join(" ")
}
