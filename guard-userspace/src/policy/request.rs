//! Requests as a policy describes them: `{ host = "backboard.railway.com", graphql = "mutation *Delete*" }`.

use super::{
    Mistake,
    command::wild,
    host::{self, HostPattern},
};
use crate::http::{self, Unread, WordPattern};

/// A kind of request. What is absent may be anything; all that is there must be so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestPattern {
    /// As written, key by key, for people.
    pub text: String,
    hosts: Vec<HostPattern>,
    methods: Vec<String>,
    path: Option<Vec<String>>,
    query: Option<(String, Option<String>)>,
    graphql: Option<(Option<String>, WordPattern)>,
    grpc: Option<String>,
    mcp: Vec<WordPattern>,
    aws: Option<(Option<String>, WordPattern)>,
    kube: Option<(String, String)>,
}

/// Whether a request is of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fits {
    /// It is not.
    No,
    /// It could be: this part of it cannot be read.
    Perhaps(&'static str),
    /// It is.
    Yes,
}

impl Fits {
    const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Perhaps(why), _) | (_, Self::Perhaps(why)) => Self::Perhaps(why),
            (Self::Yes, Self::Yes) => Self::Yes,
        }
    }
}

/// GraphQL's types of operations.
const TYPES: [&str; 3] = ["mutation", "query", "subscription"];

impl RequestPattern {
    /// Reads one key of the table, but for `host`.
    pub(super) fn set(&mut self, key: &'static str, values: &[String]) -> Result<(), Mistake> {
        let Some(value) = values.first() else {
            return Ok(());
        };
        let bad = |expected: &'static str| Mistake::BadRequest {
            key,
            text: value.clone(),
            expected,
        };
        if !self.text.is_empty() {
            self.text.push_str(", ");
        }
        self.text.push_str(key);
        self.text.push(' ');
        self.text.push_str(&values.join("|"));
        match key {
            "host" => {
                for value in values {
                    self.hosts.push(host(value)?);
                }
            }
            "method" => {
                if !values.iter().all(|method| {
                    !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_alphabetic())
                }) {
                    return Err(bad(
                        "a method like \"DELETE\", or a list like [\"PUT\", \"DELETE\"]",
                    ));
                }
                self.methods = values
                    .iter()
                    .map(|method| method.to_ascii_uppercase())
                    .collect();
            }
            "path" => {
                if !value.starts_with('/') || value.contains(['?', '#']) {
                    return Err(bad(
                        "a path from its first \"/\" on, without what is behind \"?\" (that goes under query), like \"/v1/volumes/*\"",
                    ));
                }
                let parts = value.to_lowercase();
                self.path = Some(
                    parts
                        .split('/')
                        .filter(|part| !part.is_empty())
                        .map(str::to_owned)
                        .collect(),
                );
            }
            "query" => {
                let (name, wanted) = match value.split_once('=') {
                    Some((name, wanted)) => (name, Some(wanted.to_owned())),
                    None => (&**value, None),
                };
                if name.is_empty() {
                    return Err(bad("name=value or a name, as behind \"?\""));
                }
                self.query = Some((name.to_owned(), wanted));
            }
            "graphql" => {
                let form = "a type and a field, like \"mutation *Delete*\"";
                let (kind, field) = value.split_once(' ').ok_or_else(|| bad(form))?;
                let kind = match kind {
                    "*" => None,
                    kind if TYPES.contains(&kind) => Some(kind.to_owned()),
                    _ => return Err(bad(form)),
                };
                let field = WordPattern::new(field.trim());
                if field.is_empty() {
                    return Err(bad(form));
                }
                self.graphql = Some((kind, field));
            }
            "grpc" => {
                let value = value.strip_prefix('/').unwrap_or(value);
                if !value.contains('/') && !value.ends_with('*') {
                    return Err(bad(
                        "a service and a method, like \"package.Service/Delete*\"",
                    ));
                }
                self.grpc = Some(value.to_owned());
            }
            "mcp" => {
                self.mcp = values.iter().map(|tool| WordPattern::new(tool)).collect();
                if self.mcp.iter().any(WordPattern::is_empty) {
                    return Err(bad(
                        "the name of a tool, like \"*delete*\", or a list of them",
                    ));
                }
            }
            "aws" => {
                let (service, action) = match value.split_once(':') {
                    Some(("*", action)) => (None, action),
                    Some((service, action)) => (Some(service.to_ascii_lowercase()), action),
                    None => (None, &**value),
                };
                let action = WordPattern::new(action);
                if action.is_empty() {
                    return Err(bad("a service and an action, like \"ec2:Terminate*\""));
                }
                self.aws = Some((service, action));
            }
            "kube" => {
                let (verb, resource) = value.split_once(' ').unwrap_or((value, "*"));
                let known = [
                    "get",
                    "list",
                    "create",
                    "update",
                    "patch",
                    "delete",
                    "deletecollection",
                    "*",
                ];
                if !known.contains(&verb) || resource.trim().is_empty() {
                    return Err(bad(
                        "a verb and a resource, like \"delete namespaces\" or \"deletecollection *\"",
                    ));
                }
                self.kube = Some((verb.to_owned(), resource.trim().to_lowercase()));
            }
            _ => {}
        }
        Ok(())
    }

    /// The hosts that it is for, of which one is enough.
    pub fn hosts(&self) -> impl Iterator<Item = &HostPattern> {
        let implied = if self.hosts.is_empty() && self.aws.is_some() {
            aws_hosts()
        } else {
            &[]
        };
        self.hosts.iter().chain(implied)
    }

    /// Whether it is for any host. A pattern for AWS's actions is for AWS's hosts, and one for Kubernetes' verbs for the API
    /// servers that kubeconfigs name, and one for MCP's tools for servers on this machine, unless they say otherwise.
    pub fn is_for_any(&self) -> bool {
        self.hosts.is_empty() && self.aws.is_none() && self.kube.is_none() && self.mcp.is_empty()
    }

    /// Whether it is for servers on this machine: a pattern for MCP's tools that names no host.
    pub fn is_for_local(&self) -> bool {
        self.hosts.is_empty() && !self.mcp.is_empty()
    }

    /// Whether it is for the API servers that kubeconfigs name.
    pub fn is_for_clusters(&self) -> bool {
        self.hosts.is_empty() && self.kube.is_some()
    }

    /// Whether a request is of this kind. `others` are the names that its connection is known to be for, where the request
    /// itself could not be read.
    pub fn fits(&self, request: &http::Request, others: &[String]) -> Fits {
        let unread_head = match &request.unread {
            Some(Unread::Head(why)) => Some(*why),
            _ => None,
        };
        let mut fits = self.host_fits(request, others, unread_head);
        if fits == Fits::No {
            return fits;
        }
        let known = |is: bool| match unread_head {
            _ if is => Fits::Yes,
            // Of a request that is known in part, what is known counts; and what may be anything, at any host, is most
            // likely something else.
            Some(why) if request.methods.is_empty() && !self.hosts.is_empty() => Fits::Perhaps(why),
            _ => Fits::No,
        };
        if !self.methods.is_empty() {
            fits = fits.and(known(
                request
                    .methods
                    .iter()
                    .any(|method| self.methods.contains(method)),
            ));
        }
        if let Some(path) = &self.path {
            fits = fits.and(known(
                request.paths.iter().any(|form| path_fits(path, form)),
            ));
        }
        if let Some((name, value)) = &self.query {
            fits = fits.and(known(request.query.iter().any(|(other, is)| {
                other == name
                    && value
                        .as_ref()
                        .is_none_or(|value| wild(value.as_bytes(), is.as_bytes()))
            })));
        }
        if let Some(grpc) = &self.grpc {
            fits = fits.and(known(
                request
                    .grpc
                    .as_ref()
                    .is_some_and(|method| wild(grpc.as_bytes(), method.as_bytes())),
            ));
        }
        if let Some((verb, resource)) = &self.kube {
            fits = fits.and(known(request.kube.iter().any(|(is, of)| {
                (verb == "*" || verb == is) && wild(resource.as_bytes(), of.as_bytes())
            })));
        }
        if fits == Fits::No {
            return fits;
        }
        // What the body alone tells.
        let body = |is: bool| match &request.unread {
            _ if is => Fits::Yes,
            Some(unread) => Fits::Perhaps(unread.why()),
            None => Fits::No,
        };
        if let Some((kind, field)) = &self.graphql {
            let mut found = body(request.graphql.iter().any(|operation| {
                kind.as_ref().is_none_or(|kind| kind == operation.kind)
                    && operation
                        .field
                        .as_ref()
                        .is_some_and(|name| field.matches(name))
            }));
            let stored = request
                .graphql
                .iter()
                .any(|operation| operation.field.is_none());
            if found == Fits::No && stored && kind.as_deref() != Some("query") {
                found = Fits::Perhaps("its query is stored at the server under a hash or an id");
            }
            fits = fits.and(found);
        }
        if !self.mcp.is_empty() {
            let called = |tool: &WordPattern| request.tools.iter().any(|name| tool.matches(name));
            let is = self.mcp.iter().any(called);
            // What cannot be read at a server of which nothing says that it speaks MCP is most likely something else.
            let speaks = !self.hosts.is_empty()
                || request
                    .paths
                    .iter()
                    .any(|path| path.split('/').any(|part| part == "mcp"));
            fits = fits.and(if is || speaks { body(is) } else { Fits::No });
        }
        if let Some((service, action)) = &self.aws {
            let for_it = service
                .as_ref()
                .is_none_or(|service| request.services.contains(service));
            // An action in the head is the one; a body that cannot be read may have another.
            let found = if request.actions.iter().any(|name| action.matches(name)) {
                Fits::Yes
            } else if request.actions.is_empty() && !request.services.is_empty() {
                body(false)
            } else {
                Fits::No
            };
            fits = fits.and(if for_it { found } else { Fits::No });
        }
        fits
    }

    /// Whether the body that is still to come could make it of this kind, where its head alone does not.
    pub fn waits_for_body(&self, head: &http::Request, others: &[String]) -> bool {
        if self.host_fits(head, others, None) == Fits::No || self.fits(head, others) == Fits::Yes {
            return false;
        }
        let mut whole = head.clone();
        // A body may ask to be taken for another method.
        whole.methods.extend(self.methods.iter().cloned());
        whole.unread = Some(Unread::Body("it has not come yet"));
        self.fits(&whole, others) != Fits::No
    }

    fn host_fits(
        &self,
        request: &http::Request,
        others: &[String],
        unread: Option<&'static str>,
    ) -> Fits {
        // The form of an AWS action or of a path of Kubernetes is telling by itself.
        if self.hosts.is_empty() {
            return Fits::Yes;
        }
        let is_for = |name: &String| self.hosts.iter().any(|host| host.matches(name));
        if request.hosts.iter().any(is_for) {
            return Fits::Yes;
        }
        match unread {
            Some(why) if request.hosts.is_empty() => {
                if others.is_empty() || others.iter().any(is_for) {
                    Fits::Perhaps(why)
                } else {
                    Fits::No
                }
            }
            // A request without a host (HTTP/1.0) is for whom its connection is for.
            None if request.hosts.is_empty() && others.iter().any(is_for) => Fits::Yes,
            _ => Fits::No,
        }
    }
}

/// Where AWS's APIs are.
/// <https://docs.aws.amazon.com/general/latest/gr/rande.html>
fn aws_hosts() -> &'static [HostPattern] {
    static HOSTS: std::sync::LazyLock<Vec<HostPattern>> = std::sync::LazyLock::new(|| {
        ["amazonaws.com", "amazonaws.com.cn", "api.aws"]
            .map(|suffix| HostPattern::Suffix(suffix.into()))
            .into()
    });
    &HOSTS
}

fn host(text: &str) -> Result<HostPattern, Mistake> {
    match host::parse(text)? {
        HostPattern::Unknown => Err(Mistake::BadRequest {
            key: "host",
            text: text.into(),
            expected: "a name like api.example.com or *.example.com; leave host out for any",
        }),
        host => Ok(host),
    }
}

/// Whether a path in small letters has these parts: `*` inside a part is any letters, `**` alone any parts.
fn path_fits(pattern: &[String], path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < parts.len() {
        match pattern.get(p) {
            Some(part) if part == "**" => {
                star = Some((p, t));
                p += 1;
            }
            Some(part) if wild(part.as_bytes(), parts[t].as_bytes()) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|part| part == "**")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_compared_part_by_part() {
        for (pattern, path, is) in [
            ("/v1/volumes/*", "/v1/volumes/1", true),
            ("/v1/volumes/*", "/v1/volumes", false),
            ("/v1/volumes/*", "/v1/volumes/1/attach", false),
            ("/v1/**/volumes/*", "/v1/volumes/1", true),
            ("/v1/**/volumes/*", "/v1/a/b/volumes/1", true),
            ("/**", "/", true),
            (
                "/repos/*/*/git/refs/**",
                "/repos/o/r/git/refs/heads/main",
                true,
            ),
            ("/x/v*", "/x/v12", true),
        ] {
            let mut request = RequestPattern::default();
            request.set("path", &[pattern.into()]).unwrap();
            assert_eq!(
                path_fits(&request.path.unwrap(), path),
                is,
                "{pattern} {path}"
            );
        }
    }
}
