//! An HTTPS server on the loopback that keeps what it is sent and answers as a test says.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use hmac::{Hmac, Mac as _};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use sha2::Sha256;

use crate::{eventually, proc, tls};

/// A request that came.
#[derive(Clone, Debug)]
pub struct Received {
    /// Path and query.
    pub path: String,
    /// Names in small letters.
    pub headers: Vec<(String, String)>,
    /// As it came.
    pub body: Vec<u8>,
    /// When all of it was there, on the clock of events' `mono_ns`.
    pub at: Duration,
}

impl Received {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find_map(|(other, value)| (other == name).then_some(value.as_str()))
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// This.
    With {
        /// Its status.
        status: u16,
        /// Beside what must be there.
        headers: Vec<(String, String)>,
        /// Its body.
        body: Vec<u8>,
    },
    /// A body of so many bytes, or as many as are taken.
    Flood(u64),
    /// Nothing, and the connection stays.
    Nothing,
}

impl Reply {
    /// Status and body.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::With {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// With a header more.
    pub fn and(mut self, name: &str, value: &str) -> Self {
        if let Self::With { headers, .. } = &mut self {
            headers.push((name.into(), value.into()));
        }
        self
    }
}

type Answer = dyn Fn(&Received) -> Reply + Send + Sync;

/// It ends with the test's process.
pub struct Hooks {
    port: u16,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Hooks {
    /// A server whose authority's certificate goes to `ca`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(ca: &Path, answer: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::named(&["127.0.0.1"], ca, answer)
    }

    /// The same for these names.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn named(
        names: &[&str],
        ca: &Path,
        answer: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::with(Arc::new(tls::configuration(names, ca)), answer)
    }

    /// The same with a configuration that is there.
    pub(crate) fn with(
        config: Arc<ServerConfig>,
        answer: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let (kept, answer): (_, Arc<Answer>) = (received.clone(), Arc::new(answer));
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (config, kept, answer) = (config.clone(), kept.clone(), answer.clone());
                thread::spawn(move || serve(stream, config, &kept, &*answer));
            }
        });
        Self { port, received }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What has come so far.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.received).clone()
    }

    /// Waits for a request that is so.
    #[track_caller]
    pub fn wait(&self, what: &str, good: impl Fn(&Received) -> bool) -> Received {
        eventually(what, || self.received().into_iter().find(&good))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    kept: &Mutex<Vec<Received>>,
    answer: &Answer,
) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(300)));
    // How soon a message comes is measured.
    let _ = stream.set_nodelay(true);
    let Ok(connection) = ServerConnection::new(config) else {
        return;
    };
    let mut stream = StreamOwned::new(connection, stream);
    let Some(received) = read(&mut stream) else {
        return;
    };
    lock(kept).push(received.clone());
    match answer(&received) {
        Reply::With {
            status,
            headers,
            body,
        } => {
            let more: String = headers
                .iter()
                .map(|(name, value)| format!("{name}: {value}\r\n"))
                .collect();
            let head = format!(
                "HTTP/1.1 {status} Status\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&body);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
        Reply::Flood(bytes) => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
            let piece = [b' '; 65536];
            for _ in 0..bytes / piece.len() as u64 {
                if stream.write_all(&piece).is_err() {
                    return;
                }
            }
        }
        // Until the other side goes.
        Reply::Nothing => {
            let _ = stream.read(&mut [0]);
        }
    }
}

/// One request.
fn read(stream: &mut impl Read) -> Option<Received> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16384];
    loop {
        let n = stream.read(&mut buffer).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..n]);
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(head)) = request.parse(&bytes) else {
            continue;
        };
        let headers: Vec<(String, String)> = request
            .headers
            .iter()
            .map(|header| {
                let value = String::from_utf8_lossy(header.value).into_owned();
                (header.name.to_lowercase(), value)
            })
            .collect();
        let length: usize = headers
            .iter()
            .find_map(|(name, value)| (name == "content-length").then(|| value.parse().ok())?)
            .unwrap_or(0);
        let path = request.path?.to_owned();
        if bytes.len() >= head + length {
            return Some(Received {
                path,
                headers,
                body: bytes[head..head + length].to_vec(),
                at: proc::monotonic(),
            });
        }
    }
}

/// A signature as guard's webhooks make and expect it, over a direction (`guard.request`, `guard.answer`), seconds since
/// 1970 and a body. Written here a second time, so that both must agree with the documents.
pub fn signature(key: &str, direction: &str, t: u64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("a key");
    mac.update(format!("{direction}.{t}.").as_bytes());
    mac.update(body);
    let digest = mac.finalize().into_bytes();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={t},v1={hex}")
}

/// Seconds since 1970.
pub fn now() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}
