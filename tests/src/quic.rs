//! A QUIC server on the loopback that counts who reaches it.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use quinn::{Endpoint, ServerConfig, crypto::rustls::QuicServerConfig};

/// Protocol name of both ends.
pub const ALPN: &[u8] = b"guard-test";

/// It ends with the test's process.
pub struct QuicServer {
    addr: SocketAddr,
    handshakes: Arc<AtomicU64>,
}

impl QuicServer {
    /// For these names. The certificate that clients must trust goes to `ca`.
    pub fn new(names: &[&str], ca: &Path) -> Self {
        let mut config = crate::tls::configuration(names, ca);
        config.alpn_protocols = vec![ALPN.to_vec()];
        let config = QuicServerConfig::try_from(config).expect("a configuration for QUIC");
        let config = ServerConfig::with_crypto(Arc::new(config));
        let handshakes = Arc::new(AtomicU64::new(0));
        let shared = handshakes.clone();
        let (sender, addr) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let any = "127.0.0.1:0".parse().expect("an address");
                let endpoint = Endpoint::server(config, any).expect("an endpoint");
                let _ = sender.send(endpoint.local_addr().expect("an address"));
                while let Some(incoming) = endpoint.accept().await {
                    let shared = shared.clone();
                    tokio::spawn(async move {
                        if let Ok(connection) = incoming.await {
                            shared.fetch_add(1, Ordering::SeqCst);
                            connection.closed().await;
                        }
                    });
                }
            });
        });
        let addr = addr.recv().expect("an address");
        Self { addr, handshakes }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Handshakes that were completed.
    pub fn handshakes(&self) -> u64 {
        self.handshakes.load(Ordering::SeqCst)
    }
}

/// Connects once, within a time. For the tool.
///
/// # Errors
/// When it does not come about.
pub fn connect(
    to: SocketAddr,
    host: &str,
    ca: &Path,
    limit: std::time::Duration,
) -> std::io::Result<()> {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(ca).map_err(std::io::Error::other)?;
    roots.add(authority).map_err(std::io::Error::other)?;
    let mut config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let config =
        quinn::crypto::rustls::QuicClientConfig::try_from(config).map_err(std::io::Error::other)?;
    let config = quinn::ClientConfig::new(Arc::new(config));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().map_err(std::io::Error::other)?)?;
        let connecting = endpoint
            .connect_with(config, to, host)
            .map_err(std::io::Error::other)?;
        let connection = tokio::time::timeout(limit, connecting)
            .await
            .map_err(std::io::Error::other)?
            .map_err(std::io::Error::other)?;
        connection.close(0u32.into(), b"");
        endpoint.wait_idle().await;
        Ok(())
    })
}
