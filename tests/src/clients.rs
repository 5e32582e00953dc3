//! What is seen of which program's requests. The test program `requests` holds it against the programs themselves;
//! docs/requests.md is written from it.

/// A program, and what is seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its name.
    pub name: &'static str,
    /// The library that encrypts, as events name it; `None` where none can be tapped.
    pub via: Option<&'static str>,
    /// The version of HTTP that it speaks here.
    pub version: &'static str,
}

const fn client(name: &'static str, via: &'static str, version: &'static str) -> Client {
    Client {
        name,
        via: Some(via),
        version,
    }
}

/// Every program that is tried.
pub const CLIENTS: &[Client] = &[
    client("curl, HTTP/1.1", "openssl", "HTTP/1.1"),
    client("curl, HTTP/2", "openssl", "HTTP/2.0"),
    client("libcurl with GnuTLS", "gnutls", "HTTP/2.0"),
    client("libcurl with NSS", "nss", "HTTP/2.0"),
    client("OpenSSL 1.1 by itself", "openssl", "HTTP/1.1"),
    client("wget", "gnutls", "HTTP/1.1"),
    client("python urllib", "openssl", "HTTP/1.1"),
    client("python requests", "openssl", "HTTP/1.1"),
    client("python httpx", "openssl", "HTTP/1.1"),
    client("node https", "openssl", "HTTP/1.1"),
    client("node http2", "openssl", "HTTP/2.0"),
    client("node fetch", "openssl", "HTTP/1.1"),
    client("git", "gnutls", "HTTP/2.0"),
    client("kubectl", "go", "HTTP/2.0"),
    client("terraform", "go", "HTTP/2.0"),
    client("a Go program (net/http)", "go", "HTTP/2.0"),
    client("aws", "openssl", "HTTP/1.1"),
    Client {
        name: "a rustls client",
        via: None,
        version: "HTTP/1.1",
    },
];

/// The table of docs/requests.md.
pub fn table() -> String {
    let mut text = String::from(
        "| program | library | speaks | a destructive request that is denied |\n| --- | --- | --- | --- |\n",
    );
    for client in CLIENTS {
        let (library, seen) = match client.via {
            None => (
                "cannot be tapped",
                "is not seen; the host's name is judged, and `status` tells",
            ),
            Some(library) => (library, "does not leave, not a byte of it"),
        };
        text.push_str(&format!(
            "| {} | {library} | {} | {seen} |\n",
            client.name, client.version
        ));
    }
    text
}
