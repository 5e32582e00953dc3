//! The listener of the figures: `GET /metrics`, and nothing else. Only this machine reaches it; who asks for more, sends
//! much or reads nothing loses the connection.

use std::{
    convert::Infallible,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HOST, HeaderMap, ORIGIN},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};

use super::Shown;
use crate::{herald::part::Part, policy::Listen, server};

/// Connections at once; more are refused, so that nobody can make the herald keep them.
const CONNECTIONS: usize = 64;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(2);
/// How long a connection may last in all.
const WHOLE: Duration = Duration::from_secs(10);
/// How large a head may be, bytes; hyper takes no less.
const HEAD_BYTES: usize = 8 << 10;
/// How often taking the address is tried again.
const AGAIN: Duration = Duration::from_secs(5);

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Serves for as long as it is polled.
pub(super) async fn serve(listen: Listen, shown: Shown, part: Part, bound: Arc<AtomicBool>) {
    let listener = loop {
        match bind(&listen).await {
            Ok(listener) => break listener,
            Err(why) => part.failing(why),
        }
        tokio::time::sleep(AGAIN).await;
    };
    bound.store(true, Ordering::Relaxed);
    part.ok();
    let seats = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = match &listener {
            Listener::Unix(listener) => listener
                .accept()
                .await
                .map(|(stream, _)| Either::Unix(stream)),
            Listener::Tcp(listener) => listener
                .accept()
                .await
                .map(|(stream, _)| Either::Tcp(stream)),
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors, say: it passes.
                part.failing(format!("{}: {error}", shown_address(&listen)));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(seat) = Arc::clone(&seats).try_acquire_owned() else {
            part.dropped(format!(
                "{CONNECTIONS} connections are open: another was refused"
            ));
            continue;
        };
        let (shown, part) = (shown.clone(), part.clone());
        let tcp = matches!(stream, Either::Tcp(_));
        tokio::spawn(async move {
            let _seat = seat;
            let serving = async {
                match stream {
                    Either::Unix(stream) => connection(stream, tcp, shown, part).await,
                    Either::Tcp(stream) => connection(stream, tcp, shown, part).await,
                }
            };
            let _ = tokio::time::timeout(WHOLE, serving).await;
        });
    }
}

enum Either {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream),
}

fn shown_address(listen: &Listen) -> String {
    match listen {
        Listen::Unix(path) => path.display().to_string(),
        Listen::Loopback(addr) => addr.to_string(),
    }
}

async fn bind(listen: &Listen) -> Result<Listener, String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!(
            "{}: {error}: choose another with listen",
            shown_address(listen)
        )
    };
    match listen {
        Listen::Loopback(addr) => TcpListener::bind(addr)
            .await
            .map(Listener::Tcp)
            .map_err(|error| failed(&error)),
        Listen::Unix(path) => {
            server::check(path).map_err(|error| error.to_string())?;
            let listener = UnixListener::bind(path).map_err(|error| failed(&error))?;
            restrict(path).map_err(|error| failed(&error))?;
            Ok(Listener::Unix(listener))
        }
    }
}

/// For root and group guard.
fn restrict(path: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    if let Some(group) = server::group_id(server::GROUP) {
        std::os::unix::fs::chown(path, None, Some(group))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    }
    Ok(())
}

/// Takes the socket's name away.
pub(super) fn clean_up(listen: &Listen) {
    if let Listen::Unix(path) = listen {
        let _ = std::fs::remove_file(path);
    }
}

async fn connection<S>(stream: S, tcp: bool, shown: Shown, part: Part)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request| {
        let (shown, part) = (shown.clone(), part.clone());
        async move { Ok::<_, Infallible>(answer(request, tcp, &shown, &part).await) }
    });
    // What goes wrong here is the other side's.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    tcp: bool,
    shown: &Shown,
    part: &Part,
) -> Response<Full<Bytes>> {
    // A page in a browser that has its own name point here, or posts here, is no reader of figures.
    if tcp && !is_local(request.headers()) {
        part.refused();
        return plain(
            StatusCode::FORBIDDEN,
            "only for this machine's own programs\n",
        );
    }
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "the figures are at /metrics\n");
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET /metrics\n");
        let allowed = hyper::header::HeaderValue::from_static("GET, HEAD");
        response.headers_mut().insert(ALLOW, allowed);
        return response;
    }
    match shown.page().await {
        Ok(text) => {
            part.sent();
            let mut response = Response::new(Full::new(Bytes::from(text)));
            let kind = hyper::header::HeaderValue::from_static(prometheus::TEXT_FORMAT);
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => {
            part.failing(error.to_string());
            plain(StatusCode::SERVICE_UNAVAILABLE, "guardd does not answer\n")
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// Whether a request names this machine, and does not come from a page of another origin.
fn is_local(headers: &HeaderMap) -> bool {
    if headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site") {
        return false;
    }
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .unwrap_or(name);
    bare == "localhost" || bare.parse::<IpAddr>().is_ok_and(|addr| addr.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_own_programs_are_answered() {
        let of = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, hyper::header::HeaderValue::from_static(value));
            }
            headers
        };
        for host in [
            "localhost",
            "localhost:9464",
            "127.0.0.1:9464",
            "[::1]:9464",
            "[::1]",
            "127.8.0.1",
        ] {
            assert!(is_local(&of(&[("host", host)])), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9464",
            "10.0.0.1:9464",
            "localhost.evil.example",
            "",
            "[::2]:1",
        ] {
            assert!(!is_local(&of(&[("host", host)])), "{host}");
        }
        assert!(!is_local(&of(&[])));
        assert!(!is_local(&of(&[
            ("host", "localhost"),
            ("origin", "http://localhost:9464")
        ])));
        assert!(!is_local(&of(&[
            ("host", "localhost"),
            ("sec-fetch-site", "cross-site")
        ])));
    }
}
