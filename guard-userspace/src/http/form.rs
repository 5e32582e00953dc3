//! Forms: `application/x-www-form-urlencoded` and `multipart/form-data`.

/// Fields of a form that are read.
const MAX_FIELDS: usize = 4096;

/// Names and values of a query or of a form in its form.
pub(super) fn urlencoded(text: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(text)
        .take(MAX_FIELDS)
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect()
}

/// The boundary that a `Content-Type` names (RFC 2046, 5.1.1).
pub(super) fn boundary(content_type: &str) -> Option<String> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("boundary")
            .then(|| value.trim().trim_matches('"').to_owned())
            .filter(|value| !value.is_empty())
    })
}

/// Names and values of the fields between boundaries (RFC 7578); files are fields as well.
pub(super) fn multipart(body: &[u8], boundary: &str) -> Vec<(String, Vec<u8>)> {
    let mut fields = Vec::new();
    let mark = [b"--", boundary.as_bytes()].concat();
    let mut parts = split(body, &mark).into_iter().skip(1);
    while let Some(part) = parts.next().filter(|_| fields.len() < MAX_FIELDS) {
        if part.starts_with(b"--") {
            break;
        }
        let part = part.strip_prefix(b"\r").unwrap_or(part);
        let part = part.strip_prefix(b"\n").unwrap_or(part);
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let Ok(httparse::Status::Complete((at, headers))) =
            httparse::parse_headers(part, &mut headers)
        else {
            continue;
        };
        let value = &part[at..];
        let value = value.strip_suffix(b"\n").unwrap_or(value);
        let value = value.strip_suffix(b"\r").unwrap_or(value);
        let name = headers
            .iter()
            .filter(|header| header.name.eq_ignore_ascii_case("content-disposition"))
            .find_map(|header| name_of(std::str::from_utf8(header.value).ok()?));
        fields.extend(name.map(|name| (name, value.to_vec())));
    }
    fields
}

fn name_of(disposition: &str) -> Option<String> {
    disposition.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("name")
            .then(|| value.trim().trim_matches('"').to_owned())
    })
}

/// The pieces between the places of `mark`.
fn split<'a>(mut body: &'a [u8], mark: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    while let Some(at) = find(body, mark) {
        pieces.push(&body[..at]);
        body = &body[at + mark.len()..];
    }
    pieces.push(body);
    pieces
}

fn find(body: &[u8], mark: &[u8]) -> Option<usize> {
    let first = *mark.first()?;
    let mut from = 0;
    while let Some(at) = body.get(from..)?.iter().position(|byte| *byte == first) {
        if body[from + at..].starts_with(mark) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}
