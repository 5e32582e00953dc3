//! An HTTP server on the loopback, with TLS (HTTP/1.1 and 2) or without, that keeps every request that reaches it. What it
//! answers is a version for kubectl and a state for terraform.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    thread,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, Version,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

/// A request that reached the server, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub version: String,
    /// Its method.
    pub method: String,
    /// Its path and query.
    pub target: String,
    /// Its body, as it was sent.
    pub body: Vec<u8>,
}

#[derive(Default)]
struct Kept {
    begun: AtomicU64,
    bytes: AtomicU64,
    requests: Mutex<Vec<Reached>>,
}

/// It ends with the test's process.
pub struct ApiServer {
    addr: SocketAddr,
    kept: Arc<Kept>,
}

impl ApiServer {
    /// With TLS for these names. The certificate that clients must trust goes to `ca`.
    pub fn tls(names: &[&str], ca: &Path) -> Self {
        Self::tls_at(Ipv4Addr::LOCALHOST, names, ca)
    }

    /// The same on an address of the loopback.
    pub fn tls_at(addr: Ipv4Addr, names: &[&str], ca: &Path) -> Self {
        let mut config = crate::tls::configuration(names, ca);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::start(addr, Some(TlsAcceptor::from(Arc::new(config))))
    }

    /// Without.
    pub fn plain() -> Self {
        Self::start(Ipv4Addr::LOCALHOST, None)
    }

    fn start(addr: Ipv4Addr, tls: Option<TlsAcceptor>) -> Self {
        let listener = std::net::TcpListener::bind((addr, 0)).expect("a listener");
        listener.set_nonblocking(true).expect("a listener");
        let addr = listener.local_addr().expect("an address");
        let kept = Arc::new(Kept::default());
        let shared = kept.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(accept(listener, tls, shared));
        });
        Self { addr, kept }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Requests of which at least the head has reached it.
    pub fn begun(&self) -> u64 {
        self.kept.begun.load(Ordering::SeqCst)
    }

    /// Bytes of requests that have reached it, without TLS's own; of HTTP/2 what opens a connection is among them.
    pub fn bytes(&self) -> u64 {
        self.kept.bytes.load(Ordering::SeqCst)
    }

    /// Requests that have reached it whole.
    pub fn requests(&self) -> Vec<Reached> {
        self.kept.requests.lock().expect("requests").clone()
    }
}

async fn accept(listener: std::net::TcpListener, tls: Option<TlsAcceptor>, kept: Arc<Kept>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, kept) = (tls.clone(), kept.clone());
        tokio::spawn(async move {
            match tls {
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, kept).await;
                    }
                }
                None => serve(stream, kept).await,
            }
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, kept: Arc<Kept>) {
    let counted = Counted(stream, kept.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let kept = kept.clone();
        async move {
            kept.begun.fetch_add(1, Ordering::SeqCst);
            let (head, body) = request.into_parts();
            let version = match head.version {
                Version::HTTP_2 => "HTTP/2.0",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            };
            if let Ok(body) = body.collect().await {
                kept.requests.lock().expect("requests").push(Reached {
                    version: version.into(),
                    method: head.method.to_string(),
                    target: head
                        .uri
                        .path_and_query()
                        .map_or_else(|| "/".into(), ToString::to_string),
                    body: body.to_bytes().to_vec(),
                });
            }
            let answer = Response::builder()
                .header("content-type", "application/json")
                .body(Full::new(Bytes::from_static(
                    br#"{"ok":true,"major":"1","minor":"30","gitVersion":"v1.30.0","version":4,"terraform_version":"1.0.0","serial":1,"lineage":"x","outputs":{},"resources":[]}"#,
                )));
            Ok::<_, Infallible>(answer.expect("an answer"))
        }
    });
    let _ = Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(counted), service)
        .await;
}

/// Counts what is read.
struct Counted<S>(S, Arc<Kept>);

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.0).poll_read(context, buffer));
        let count = buffer.filled().len() - before;
        self.1.bytes.fetch_add(count as u64, Ordering::SeqCst);
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
