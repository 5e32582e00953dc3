//! What a program asks of a server: requests read from the bytes of one direction of a connection, as they would leave.
//!
//! [`Stream`] takes the bytes in whatever pieces they come and gives each [`Request`] as soon as it means something:
//! when its head is complete, and again when its body is. HTTP/1.0, 1.1 and 2 with prior knowledge or after ALPN;
//! inside them GraphQL, gRPC, JSON-RPC (MCP among it), AWS's query and JSON protocols, Kubernetes, and forms that override
//! the method.
//!
//! What cannot be read is no reason to let it pass: such a request is told with [`Request::unread`], and whoever judges takes
//! it for the worst that it could be. Nothing here keeps more than its bounds, whatever is sent.

mod aws;
mod body;
mod decode;
mod form;
mod graphql;
mod h1;
mod h2;
mod head;
mod json;
mod kube;
mod rpc;
mod stream;
mod websocket;
mod words;

use std::fmt;

pub use self::{
    graphql::{KnownQueries, Operation},
    stream::{Stream, Unfinished},
    words::{WordPattern, words},
};
use crate::secrets::Hash;

/// Bytes of a request's head that are kept: servers take 8 to 64 KiB.
const MAX_HEAD: usize = 128 << 10;
/// Bytes of a body that are kept to be read, compressed and not.
const MAX_BODY: usize = 1 << 20;
/// Bytes of a request, as far as its length is known, up to which it is worth waiting for its rest: what a sending
/// socket takes at once, whatever it was set to.
const MAX_AWAITED: usize = 32 << 10;

/// Values that nobody here knows but by their hashes.
pub trait KnownSecrets: fmt::Debug + Send + Sync {
    /// Adds the hashes of those that stand in a text, which is a header's value, a target or a body.
    fn look(&self, text: &[u8], found: &mut Vec<Hash>);
}

/// Which part of a request could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// All of it, its head included.
    Head(&'static str),
    /// Its body.
    Body(&'static str),
}

impl Unread {
    /// Why.
    pub const fn why(&self) -> &'static str {
        match self {
            Self::Head(why) | Self::Body(why) => why,
        }
    }
}

/// One request, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Which of its connection it is, from 0.
    pub number: u64,
    /// Names that it is for (the authority of its target, its `Host`), in small letters, without ports. They differ only
    /// when somebody means them to.
    pub hosts: Vec<String>,
    /// Methods in capitals: that of its first line, then those that it asks to be taken for instead.
    pub methods: Vec<String>,
    /// Path of its target as sent, without what is behind `?`.
    pub path: String,
    /// Forms of the path that a server may make of it: decoded, and with `.` and `..` resolved. In small letters, without
    /// a last `/`.
    pub paths: Vec<String>,
    /// Names and values behind `?`, decoded.
    pub query: Vec<(String, String)>,
    /// GraphQL operations that it executes.
    pub graphql: Vec<Operation>,
    /// Tools of MCP that it calls.
    pub tools: Vec<String>,
    /// Methods of JSON-RPC that it calls.
    pub calls: Vec<String>,
    /// AWS actions.
    pub actions: Vec<String>,
    /// AWS services: what it is signed for, and the first part of its host's name.
    pub services: Vec<String>,
    /// gRPC method, `package.Service/Method`.
    pub grpc: Option<String>,
    /// Verbs and resources of Kubernetes' API.
    pub kube: Vec<(String, String)>,
    /// What its operation is about, as `name=value`, as far as names like `id` tell.
    pub objects: Vec<String>,
    /// Hashes of known secrets that it carries.
    pub secrets: Vec<Hash>,
    /// Its body has ended.
    pub complete: bool,
    /// What could not be read.
    pub unread: Option<Unread>,
}

impl Request {
    /// One of which nothing could be read.
    fn unreadable(number: u64, why: &'static str) -> Self {
        Self {
            number,
            unread: Some(Unread::Head(why)),
            complete: true,
            ..Self::default()
        }
    }
}
