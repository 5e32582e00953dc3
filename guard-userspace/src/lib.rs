//! guard's library: everything that guardd and guardctl are made of, one folder or file a duty.
//!
//! A record enters through [`kernel`], is made into a fact and an event by [`engine`], is kept by
//! [`journal`] and shown by [`cli`]; [`policy`] says what counts, [`server`] lets people answer.

pub mod approval;
pub mod cli;
pub mod clock;
pub mod conduct;
pub mod containers;
pub mod daemon;
pub mod digest;
pub mod doctor;
pub mod engine;
pub mod event;
pub mod herald;
pub mod http;
pub mod init;
pub mod intent;
pub mod journal;
pub mod kernel;
pub mod mask;
pub mod names;
pub mod policy;
pub mod process;
pub mod replay;
pub mod report;
pub mod secrets;
pub mod sentinel;
pub mod server;
pub mod service;
pub mod suggest;
pub mod tls;
pub mod units;
pub mod wire;

/// Where guardd looks for its policy; without a file there the built-in one is in force.
pub const DEFAULT_POLICY: &str = "/etc/guard/policy.toml";
/// The control socket.
pub const DEFAULT_SOCKET: &str = "/run/guard/guard.sock";
/// Journal and state.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/guard";
