//! A loopback server that behaves like an infrastructure provider's GraphQL API, and counts what
//! reaches it.
//!
//! It speaks HTTP/1.1 over TLS for [`HOST`] on a port of 127.0.0.1 that the kernel chooses, with a
//! certificate made at start. When it is ready it prints one line:
//! `{"port":N,"ca":"/path/ca.pem"}`. What it counted is told on a Unix socket, one JSON line a
//! connection, so that asking disturbs no count. It ends when its standard input ends: no caller,
//! however it died, leaves one behind.
//!
//! One thread, everything non-blocking: before a question on the Unix socket is answered, every
//! connection and every byte that the kernel has already delivered has been counted.

mod graphql;
mod http;
mod peer;
mod store;

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    os::unix::net::UnixListener,
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use clap::Parser;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustix::event::{PollFd, PollFlags, poll};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde::Serialize;

use crate::{peer::Peer, store::Store};

/// The name the certificate is for. `.test` never resolves (RFC 6761).
const HOST: &str = "backboard.guard-demo.test";

/// A loopback GraphQL API that destroys volumes and counts what reaches it.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where to listen for questions about what was counted.
    #[arg(long, value_name = "SOCKET")]
    control: PathBuf,
    /// Where to write the certificate that clients must trust.
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The bearer token that is let in.
    #[arg(long)]
    token: String,
}

/// What reached the server.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Counts {
    /// TCP connections accepted.
    pub(crate) connections: u64,
    /// Of these, not closed yet.
    pub(crate) open: u64,
    /// TLS handshakes completed.
    pub(crate) handshakes: u64,
    /// Bytes received from TCP, the client's part of the handshakes included.
    pub(crate) wire_bytes: u64,
    /// Bytes received after decryption.
    pub(crate) application_bytes: u64,
    /// Complete HTTP requests.
    pub(crate) requests: u64,
    /// Requests that could not be parsed.
    pub(crate) malformed: u64,
    /// Requests without the right token.
    pub(crate) refused: u64,
    /// Mutations carried out.
    pub(crate) mutations: u64,
    /// The last complete request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_request: Option<LastRequest>,
}

/// What the last complete request was.
#[derive(Debug, Serialize)]
pub(crate) struct LastRequest {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Such as `mutation volumeDelete`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operation: Option<String>,
    /// Head and body, in bytes.
    pub(crate) bytes: u64,
    /// HTTP status of the response.
    pub(crate) status: u16,
}

fn main() -> Result<()> {
    let args = Args::parse();

    let tls = Arc::new(tls_config(&args.ca)?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("127.0.0.1")?;
    listener.set_nonblocking(true)?;
    let control = UnixListener::bind(&args.control)
        .with_context(|| format!("{}: cannot listen", args.control.display()))?;
    control.set_nonblocking(true)?;

    let mut stdout = io::stdout();
    let address = serde_json::json!({ "port": listener.local_addr()?.port(), "ca": args.ca });
    writeln!(stdout, "{address}").and_then(|()| stdout.flush())?;

    let mut store = Store::with_demo_volumes(args.token);
    let mut counts = Counts::default();
    let mut peers: Vec<Peer> = Vec::new();
    loop {
        if wait(&listener, &control, &peers)? {
            return Ok(());
        }
        // Until nothing moves any more: only then is it true what is told below.
        loop {
            let mut moved = false;
            while let Some((tcp, _)) = ready(listener.accept())? {
                counts.connections += 1;
                peers.push(Peer::new(tcp, Arc::clone(&tls))?);
                moved = true;
            }
            for peer in &mut peers {
                moved |= peer.advance(&mut counts, &mut store);
            }
            if !moved {
                break;
            }
        }
        peers.retain(|peer| !peer.is_closed());
        counts.open = peers.len() as u64;
        while let Some((mut asker, _)) = ready(control.accept())? {
            let facts = Facts {
                counts: &counts,
                volumes: store.volume_ids(),
                volumes_alive: store.volumes_alive(),
                backups_alive: store.backups_alive(),
            };
            // Whoever asks and does not wait for the answer misses it.
            let _ = writeln!(asker, "{}", serde_json::to_string(&facts)?);
        }
    }
}

/// The answer on the Unix socket.
#[derive(Serialize)]
struct Facts<'a> {
    #[serde(flatten)]
    counts: &'a Counts,
    /// Ids of those alive.
    volumes: Vec<&'a str>,
    volumes_alive: usize,
    backups_alive: usize,
}

/// Sleeps until something can be done; true when standard input has ended.
fn wait(listener: &TcpListener, control: &UnixListener, peers: &[Peer]) -> Result<bool> {
    let stdin = io::stdin();
    let mut fds = vec![
        PollFd::new(&stdin, PollFlags::IN),
        PollFd::new(listener, PollFlags::IN),
        PollFd::new(control, PollFlags::IN),
    ];
    fds.extend(peers.iter().map(Peer::poll_fd));
    loop {
        match poll(&mut fds, None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
    }
    let stdin_ready = !fds[0].revents().is_empty();
    drop(fds);
    Ok(stdin_ready && stdin.lock().read(&mut [0; 512])? == 0)
}

/// What a non-blocking call returned, `None` when it would have blocked.
fn ready<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        // ECONNABORTED: the client was gone before the connection was accepted.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock
                    | io::ErrorKind::Interrupted
                    | io::ErrorKind::ConnectionAborted
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A certificate for [`HOST`] from an authority that exists for this process alone; the authority's
/// certificate is written to `ca`, its key nowhere.
fn tls_config(ca: &std::path::Path) -> Result<ServerConfig> {
    let ca_key = KeyPair::generate()?;
    let mut ca_params = CertificateParams::new(Vec::new())?;
    ca_params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    ca_params
        .distinguished_name
        .push(DnType::CommonName, "guard demo authority");
    let ca_cert = ca_params.self_signed(&ca_key)?;
    fs::write(ca, ca_cert.pem()).with_context(|| format!("{}: cannot write", ca.display()))?;

    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![HOST.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, HOST);
    let cert = params.signed_by(&key, &Issuer::new(ca_params, ca_key))?;

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)?)
}
