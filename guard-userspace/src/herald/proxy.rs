//! The way out by a proxy, where the environment of the service names one: `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, read
//! as curl reads them. Only what is encrypted end to end goes there; the proxy sees hosts, ports and sizes.

use std::sync::LazyLock;

use http_body_util::Full;
use hyper::{Method, Request, Uri, body::Bytes, client::conn::http1, header, upgrade};
use hyper_util::{
    client::proxy::matcher::{Intercept, Matcher},
    rt::TokioIo,
};
use tokio::net::TcpStream;

use super::http::{Driven, LONGEST_HEAD, Stream};

/// A proxy, and how to say there who asks.
pub(super) struct Proxy(Intercept);

/// The proxy for an authority (`HOST:PORT`), if there is to be one.
pub(super) fn of(authority: &str) -> Option<Proxy> {
    static RULES: LazyLock<Matcher> = LazyLock::new(Matcher::from_env);
    let uri = Uri::builder().scheme("https").authority(authority);
    RULES
        .intercept(&uri.path_and_query("/").build().ok()?)
        .map(Proxy)
}

impl Proxy {
    /// A connection to `authority` through it.
    ///
    /// # Errors
    /// In words, with the proxy's host and port.
    pub(super) async fn tunnel(&self, authority: &str) -> Result<Box<dyn Stream>, String> {
        let uri = self.0.uri();
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(80);
        if uri.scheme_str() != Some("http") || host.is_empty() {
            return Err(
                "HTTPS_PROXY in the environment of guardd: expected http://HOST:PORT".into(),
            );
        }
        let name = format!("the proxy {host}:{port}");
        let failed = |error: &dyn std::fmt::Display| format!("{name}: {error}");
        let tcp = TcpStream::connect((host.trim_matches(['[', ']']), port))
            .await
            .map_err(|error| failed(&error))?;
        let _ = tcp.set_nodelay(true);
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(LONGEST_HEAD)
            .handshake(TokioIo::new(tcp))
            .await
            .map_err(|error| failed(&error))?;
        // Until the connection is ours; it has ended then.
        let _driven = Driven(tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        }));
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(authority)
            .header(header::HOST, authority);
        if let Some(who) = self.0.basic_auth() {
            request = request.header(header::PROXY_AUTHORIZATION, who);
        }
        let request = request
            .body(Full::<Bytes>::default())
            .map_err(|error| failed(&error))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| failed(&error))?;
        if !answer.status().is_success() {
            return Err(format!("{name} answers {}", answer.status()));
        }
        let stream = upgrade::on(answer).await.map_err(|error| failed(&error))?;
        Ok(Box::new(TokioIo::new(stream)))
    }
}
