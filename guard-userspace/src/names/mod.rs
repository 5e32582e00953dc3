//! Names of hosts, as name servers and connections say them.

mod cache;
mod dns;
pub mod quic;
mod socket;
mod stream;

pub use self::{
    cache::{Changed, Names},
    dns::{Answer, parse, question},
    socket::Taken,
    stream::Streams,
};

/// A name in small letters and without its last dot, as everything here compares it; what is not ASCII is shown
/// escaped.
pub fn normal(name: &[u8]) -> String {
    let name = name.strip_suffix(b".").unwrap_or(name);
    name.to_ascii_lowercase().escape_ascii().to_string()
}
