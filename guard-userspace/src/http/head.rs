//! What the head of a request says, whichever version of HTTP it is written in.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::{Hash, KnownQueries, Request, aws, form, kube};

/// Longest path of which forms are made.
const MAX_PATH: usize = 16 << 10;

/// A head that has been read.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    pub(super) number: u64,
    pub(super) methods: Vec<String>,
    pub(super) hosts: Vec<String>,
    pub(super) path: String,
    pub(super) paths: Vec<String>,
    pub(super) query: Vec<(String, String)>,
    /// `Content-Type` in small letters but for its parameters.
    pub(super) content_type: String,
    /// `Content-Encoding`, in the order in which they were applied.
    pub(super) encodings: Vec<String>,
    /// Actions that `X-Amz-Target` names.
    pub(super) actions: Vec<String>,
    /// Service that it is signed for.
    pub(super) service: Option<String>,
    /// The protocol that it asks to go on with.
    pub(super) upgrade: Option<String>,
    /// `Transfer-Encoding`, all codings.
    pub(super) codings: Vec<String>,
    /// `Content-Length`, every one.
    pub(super) lengths: Vec<String>,
    /// Hashes of known secrets in target and fields, whose values are kept nowhere.
    pub(super) secrets: Vec<Hash>,
    /// `Expect: 100-continue`: the body comes when the server has said so.
    pub(super) expects: bool,
}

impl Head {
    pub(super) fn new(number: u64, method: &str, target: &str) -> Self {
        let mut head = Self {
            number,
            methods: vec![method.to_ascii_uppercase()],
            ..Self::default()
        };
        head.read_target(target);
        head
    }

    /// RFC 9112, 3.2: a path, a whole URL (as proxies get it), a name with a port (CONNECT), or `*`.
    fn read_target(&mut self, target: &str) {
        let mut rest = target.split('#').next().unwrap_or_default();
        if let Some((_, behind)) = rest.split_once("://")
            && !rest.starts_with('/')
        {
            let end = behind.find(['/', '?']).unwrap_or(behind.len());
            let authority = &behind[..end];
            self.add_host(authority);
            rest = &behind[end..];
        } else if self.methods[0] == "CONNECT" {
            self.add_host(rest);
            rest = "";
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        self.path = if path.is_empty() { "/" } else { path }.to_owned();
        self.query = form::urlencoded(query.as_bytes());
        self.paths = forms_of(&self.path);
    }

    /// A host with or without a port.
    pub(super) fn add_host(&mut self, authority: &str) {
        let host = authority.rsplit('@').next().unwrap_or(authority).trim();
        let host = match host.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or(v6),
            None => host.split(':').next().unwrap_or(host),
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if !host.is_empty() && !self.hosts.contains(&host) {
            self.hosts.push(host);
        }
    }

    /// One header field.
    pub(super) fn header(&mut self, name: &[u8], value: &[u8]) {
        let value = String::from_utf8_lossy(value);
        let value = value.trim();
        let list = || {
            value
                .split(',')
                .map(|part| part.trim().to_ascii_lowercase())
                .filter(|part| !part.is_empty())
        };
        let is = |of: &str| name.eq_ignore_ascii_case(of.as_bytes());
        if is("host") {
            self.add_host(value);
        } else if is("content-type") {
            let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
            self.content_type = format!("{};{parameters}", kind.trim().to_ascii_lowercase());
        } else if is("content-encoding") {
            self.encodings.extend(list());
        } else if is("transfer-encoding") {
            self.codings.extend(list());
        } else if is("content-length") {
            self.lengths.extend(list());
        } else if is("expect") {
            self.expects |= value.eq_ignore_ascii_case("100-continue");
        } else if is("upgrade") {
            self.upgrade = Some(value.to_ascii_lowercase());
        } else if is("x-amz-target") {
            self.actions.push(aws::target(value));
        } else if is("authorization") {
            self.service = aws::signed_for(value).or(self.service.take());
        } else if is("x-http-method-override")
            || is("x-http-method")
            || is("x-method-override")
            || is("x-original-method")
        {
            self.overrides(value);
        } else if is("x-original-url") || is("x-rewrite-url") {
            // Servers behind some front ends go by these.
            let path = value.split('?').next().unwrap_or_default();
            self.paths.extend(forms_of(path));
        }
    }

    /// Looks for known secrets in a target or in a field's value.
    pub(super) fn look(&mut self, text: &[u8], known: &KnownQueries) {
        if let Some(secrets) = &known.secrets {
            secrets.look(text, &mut self.secrets);
        }
    }

    /// Asks to be taken for another method.
    pub(super) fn overrides(&mut self, method: &str) {
        let method = method.trim().to_ascii_uppercase();
        if !method.is_empty() && !self.methods.contains(&method) {
            self.methods.push(method);
        }
    }

    /// The type of the body, without parameters.
    pub(super) fn kind(&self) -> &str {
        self.content_type.split(';').next().unwrap_or_default()
    }

    /// The request as its head alone tells it.
    pub(super) fn request(&self) -> Request {
        let mut methods = self.methods.clone();
        let mut actions = self.actions.clone();
        for (name, value) in &self.query {
            match &**name {
                "_method" => methods.push(value.trim().to_ascii_uppercase()),
                "Action" => actions.push(value.clone()),
                _ => {}
            }
        }
        actions.extend(aws::of_path(&self.path));
        let mut kube: Vec<(String, String)> = Vec::new();
        for path in &self.paths {
            for method in &methods {
                kube.extend(kube::verb(method, path));
            }
        }
        kube.dedup();
        Request {
            number: self.number,
            hosts: self.hosts.clone(),
            methods,
            path: self.path.clone(),
            paths: self.paths.clone(),
            query: self.query.clone(),
            services: aws::services(self),
            grpc: self.grpc(),
            actions,
            kube,
            secrets: self.secrets.clone(),
            ..Request::default()
        }
    }

    /// `/package.Service/Method` (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>). Other protocols over
    /// the same paths (gRPC-Web, Connect) call the same methods, so the type of the body is not asked.
    fn grpc(&self) -> Option<String> {
        let (service, method) = self.path.strip_prefix('/')?.rsplit_once('/')?;
        let is_name = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.')
        };
        (self.methods[0] == "POST" && is_name(service) && is_name(method))
            .then(|| format!("{service}/{method}"))
    }
}

/// The forms of a path; see [`Request::paths`].
fn forms_of(path: &str) -> Vec<String> {
    let mut forms = Vec::new();
    let mut add = |form: String| {
        if !forms.contains(&form) {
            forms.push(form);
        }
    };
    if path.len() > MAX_PATH {
        return Vec::new();
    }
    // A slash that is encoded belongs to the part that it is in, for those that go by parts.
    if path.to_ascii_lowercase().contains("%2f") {
        let parts = path
            .split('/')
            .map(|part| decoded(part).replace('/', "%2f"));
        add(resolve(&parts.collect::<Vec<_>>().join("/").to_lowercase()));
    }
    let once = decoded(path);
    let twice = decoded(&once);
    for text in [&once, &twice] {
        let small = text.to_lowercase().replace('\\', "/");
        let resolved = resolve(&small);
        add(match small.trim_end_matches('/') {
            "" => "/".into(),
            rest => rest.to_owned(),
        });
        if small.contains(';') {
            let bare: Vec<&str> = resolved
                .split('/')
                .map(|part| part.split(';').next().unwrap_or_default())
                .collect();
            add(bare.join("/"));
        }
        add(resolved);
    }
    forms
}

fn decoded(path: &str) -> String {
    match percent_decode_str(path).decode_utf8_lossy() {
        Cow::Borrowed(text) => text.to_owned(),
        Cow::Owned(text) => text,
    }
}

/// Without empty parts, `.` and `..` (RFC 3986, 5.2.4).
fn resolve(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_compared_in_the_forms_that_servers_make_of_it() {
        for path in [
            "/v1/volumes/1",
            "/V1/Volumes/1/",
            "//v1//volumes/1",
            "/v1/x/../volumes/1",
            "/v1/./volumes/1",
            "/%76%31/volumes/1",
            "/%2576%2531/volumes/1",
            "/v1/volumes;a=b/1",
            "https://api.example.com/v1/volumes/1?x=y",
            "/v1\\volumes\\1",
        ] {
            let head = Head::new(0, "delete", path);
            assert!(
                head.paths.iter().any(|form| form == "/v1/volumes/1"),
                "{path}: {:?}",
                head.paths
            );
            assert_eq!(head.methods, ["DELETE"]);
        }
    }

    #[test]
    fn hosts_are_names_without_ports() {
        let mut head = Head::new(0, "GET", "http://User@A.Example.com:8080/x");
        head.header(b"Host", b"b.example.com.:443");
        head.header(b"HOST", b"[::1]:80");
        assert_eq!(head.hosts, ["a.example.com", "b.example.com", "::1"]);
    }
}
