//! As much of HTTP/1.1 (RFC 9112) as a client of the API speaks.

/// Longest request that is taken, head and body, in bytes.
const MAX_REQUEST: usize = 64 * 1024;

/// A complete request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Without the port.
    pub(crate) host: Option<String>,
    /// The token of `Authorization: Bearer`.
    pub(crate) bearer: Option<String>,
    pub(crate) body: Vec<u8>,
    pub(crate) keep_alive: bool,
}

/// What the bytes received so far are.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// The beginning of a request.
    Partial,
    /// A request, and how many bytes it takes.
    Request { request: Request, length: usize },
    /// No request that is served here, and why.
    Malformed(&'static str),
}

pub(crate) fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Request::new(&mut headers);
    let head_length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if bytes.len() > MAX_REQUEST => {
            return Parsed::Malformed("head too long");
        }
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Malformed("not HTTP/1.1"),
    };
    let header = |name: &str| {
        head.headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .and_then(|header| std::str::from_utf8(header.value).ok())
            .map(str::trim)
    };
    if header("transfer-encoding").is_some() {
        return Parsed::Malformed("transfer-encoding is not served: send content-length");
    }
    let Ok(body_length) = header("content-length").unwrap_or("0").parse::<usize>() else {
        return Parsed::Malformed("content-length is no number");
    };
    let length = head_length.saturating_add(body_length);
    if length > MAX_REQUEST {
        return Parsed::Malformed("body too long");
    }
    let Some(body) = bytes.get(head_length..length) else {
        return Parsed::Partial;
    };
    let bearer = header("authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| token.trim().to_owned())
    });
    let host = header("host").map(|host| {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        name.to_ascii_lowercase()
    });
    let keep_alive = head.version == Some(1)
        && !header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    Parsed::Request {
        request: Request {
            method: head.method.unwrap_or_default().to_owned(),
            path: head.path.unwrap_or_default().to_owned(),
            host,
            bearer,
            body: body.to_vec(),
            keep_alive,
        },
        length,
    }
}

/// The reason phrase of a status that is used here.
pub(crate) const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        421 => "Misdirected Request",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_in_pieces_is_partial_until_its_last_byte() {
        let bytes = b"POST /graphql/v2 HTTP/1.1\r\nHost: a.test:1\r\nAuthorization: Bearer t\r\n\
                      Content-Length: 4\r\n\r\nbodynext";
        let whole = bytes.len() - 4;
        for end in 0..whole {
            assert!(matches!(parse(&bytes[..end]), Parsed::Partial), "{end}");
        }
        let Parsed::Request { request, length } = parse(bytes) else {
            panic!("no request");
        };
        assert_eq!(length, whole);
        assert_eq!(request.body, b"body");
        assert_eq!(request.host.as_deref(), Some("a.test"));
        assert_eq!(request.bearer.as_deref(), Some("t"));
        assert!(request.keep_alive);
    }

    #[test]
    fn an_endless_request_is_refused() {
        let mut head = b"GET / HTTP/1.1\r\nX: ".to_vec();
        head.resize(MAX_REQUEST + 1, b'x');
        assert!(matches!(parse(&head), Parsed::Malformed(_)));
        assert!(matches!(
            parse(b"GET / HTTP/1.1\r\ncontent-length: 18446744073709551615\r\n\r\n"),
            Parsed::Malformed(_)
        ));
        assert!(matches!(parse(b"\x16\x03\x01"), Parsed::Malformed(_)));
    }
}
