//! HTTP as the herald speaks it: one request to a connection, with an end to waiting and to reading. Redirects are not
//! followed: a signature or a token is for whom the policy names.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::OnceCell,
};
use tokio_rustls::TlsConnector;

use super::{proxy, tls};

/// How long connecting, sending and the whole answer may take, each request.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read, in bytes.
const LONGEST: usize = 256 * 1024;
/// The longest head of an answer.
pub(super) const LONGEST_HEAD: usize = 32 * 1024;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    secure: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Target {
    /// `https://…`, or `http://` to this machine itself; `wss` and `ws` are the same.
    ///
    /// # Errors
    /// What is wrong and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected https://HOST/…, or http:// to 127.0.0.1 or [::1]";
        let uri: Uri = text
            .parse()
            .map_err(|error| format!("{error}: {EXPECTED}"))?;
        let secure = match uri.scheme_str() {
            Some("https" | "wss") => true,
            Some("http" | "ws") => false,
            _ => return Err(format!("it does not begin with https://: {EXPECTED}")),
        };
        let authority = uri.authority().ok_or(EXPECTED)?;
        if authority.as_str().contains('@') {
            return Err(format!(
                "a user or password in an address is no secret: {EXPECTED}"
            ));
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let local = host.parse::<IpAddr>().is_ok_and(|addr| addr.is_loopback());
        if host.is_empty() || !(secure || local) {
            return Err(format!(
                "anybody on the way could read and answer: {EXPECTED}"
            ));
        }
        Ok(Self {
            secure,
            port: authority
                .port_u16()
                .unwrap_or(if secure { 443 } else { 80 }),
            authority: authority.to_string(),
            path: uri
                .path_and_query()
                .map_or_else(|| "/".into(), ToString::to_string),
            host,
        })
    }

    /// Host and port, whether it was in the address or not.
    fn whole_authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Whether the way there is encrypted.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Host and port as in the address.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its head.
    pub headers: hyper::HeaderMap,
    /// Its body, of at most 256 KiB.
    pub body: Bytes,
}

impl Answer {
    /// A header's value, where it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// A connection, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Whoever sends requests: what it trusts, loaded when it is first needed.
#[derive(Clone, Debug)]
pub struct Client {
    ca_file: Option<PathBuf>,
    config: Arc<OnceCell<Arc<ClientConfig>>>,
}

impl Client {
    /// Trusts the machine's authorities, or those of the file alone.
    pub fn new(ca_file: Option<PathBuf>) -> Self {
        Self {
            ca_file,
            config: Arc::default(),
        }
    }

    /// Loads what it trusts.
    ///
    /// # Errors
    /// In words.
    pub async fn prepare(&self) -> Result<Arc<ClientConfig>, String> {
        let load = || async {
            let ca_file = self.ca_file.clone();
            let loading =
                tokio::task::spawn_blocking(move || tls::configuration(ca_file.as_deref()));
            loading.await.map_err(|error| error.to_string())?
        };
        self.config.get_or_try_init(load).await.cloned()
    }

    /// Connects, within ten seconds.
    ///
    /// # Errors
    /// In words.
    pub async fn connect(&self, target: &Target) -> Result<Box<dyn Stream>, String> {
        let name = target.authority();
        tokio::time::timeout(PATIENCE, self.connect_slowly(target))
            .await
            .unwrap_or_else(|_| Err("no connection within 10 s".into()))
            .map_err(|error| format!("{name}: {error}"))
    }

    async fn connect_slowly(&self, target: &Target) -> Result<Box<dyn Stream>, String> {
        let whole = target.whole_authority();
        // What is not encrypted goes to this machine itself.
        let proxy = target.secure.then(|| proxy::of(&whole)).flatten();
        let stream: Box<dyn Stream> = match proxy {
            Some(proxy) => proxy.tunnel(&whole).await?,
            None => {
                let tcp = TcpStream::connect((target.host.as_str(), target.port))
                    .await
                    .map_err(|error| error.to_string())?;
                // A message is one write or two; it should not wait for the other side's acknowledgement.
                let _ = tcp.set_nodelay(true);
                Box::new(tcp)
            }
        };
        if !target.secure {
            return Ok(stream);
        }
        let config = self.prepare().await?;
        let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(config).connect(name, stream).await;
        Ok(Box::new(stream.map_err(|error| error.to_string())?))
    }

    /// Sends a POST and reads the answer, within ten seconds.
    ///
    /// # Errors
    /// In words, with the host: no connection, no answer, an answer that is too long.
    pub async fn post(
        &self,
        target: &Target,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Answer, String> {
        let name = target.authority();
        tokio::time::timeout(PATIENCE, self.post_slowly(target, headers, body))
            .await
            .unwrap_or_else(|_| Err("no answer within 10 s".into()))
            .map_err(|error| format!("{name}: {error}"))
    }

    async fn post_slowly(
        &self,
        target: &Target,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Answer, String> {
        let stream = self.connect_slowly(target).await?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(LONGEST_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        // It ends with this call, at its deadline too.
        let _driven = Driven(tokio::spawn(async move {
            let _ = connection.await;
        }));
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&target.path)
            .header(header::HOST, &target.authority)
            .header(
                header::USER_AGENT,
                concat!("guard/", env!("CARGO_PKG_VERSION")),
            )
            .header(header::CONNECTION, "close");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LONGEST)
            .collect()
            .await
            .map_err(|error| format!("its answer: {error}"))?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    }
}

/// A task that ends when this goes.
pub(super) struct Driven(pub(super) tokio::task::JoinHandle<()>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_encrypted_way_or_this_machine_itself() {
        for good in [
            "https://hooks.example.org/a?b=c",
            "http://127.0.0.1:8080/",
            "http://[::1]:8080",
            "wss://a.example:444/link",
        ] {
            assert!(Target::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "http://hooks.example.org/",
            "http://localhost/",
            "ftp://127.0.0.1/",
            "/a/path",
            "hooks.example.org",
            "https://user:pass@hooks.example.org/",
            "",
        ] {
            let said = Target::parse(bad).unwrap_err();
            assert!(said.contains("expected https://"), "{bad}: {said}");
        }
    }

    #[test]
    fn an_address_has_its_parts() {
        let target = Target::parse("https://a.example:8443/x/y?z=1").unwrap();
        assert_eq!((target.host.as_str(), target.port), ("a.example", 8443));
        assert_eq!(
            (target.path.as_str(), target.authority()),
            ("/x/y?z=1", "a.example:8443")
        );
        let target = Target::parse("http://[::1]").unwrap();
        assert_eq!(
            (target.host.as_str(), target.port, target.path.as_str()),
            ("::1", 80, "/")
        );
    }
}
