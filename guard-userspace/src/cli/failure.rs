//! Why guardctl did not do what it was asked, with the exit status and the code that go with it.

use std::{io, path::PathBuf};

use crate::{cli::escape, wire};

/// Why a command ended otherwise than well.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// guardd refused.
    #[error("{}", .0.message)]
    Refused(wire::Failure),
    /// Nobody answers on the socket.
    #[error("cannot reach guardd at {}: {}: start it with 'systemctl start guard' or pass --socket", .socket.display(), reason(source))]
    Unreachable {
        /// Where guardd was looked for.
        socket: PathBuf,
        /// What connecting gave.
        source: io::Error,
    },
    /// The socket is there, but not for this user.
    #[error("cannot use guardd's socket {}: {}: become root or a member of group guard", .socket.display(), reason(source))]
    SocketForbidden {
        /// The socket.
        socket: PathBuf,
        /// What connecting gave.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("lost guardd at {}: {}: see 'journalctl -u guard'", .socket.display(), reason(source))]
    Lost {
        /// The socket.
        socket: PathBuf,
        /// What reading or writing gave.
        source: io::Error,
    },
    /// guardd said something that is not the protocol.
    #[error("guardd at {} answered {what}: guardd and guardctl must be of one version", .socket.display())]
    Protocol {
        /// The socket.
        socket: PathBuf,
        /// What it said.
        what: String,
    },
    /// The call is wrong.
    #[error("{0}")]
    Invalid(String),
    /// It ran, and the answer is no.
    #[error("{0}")]
    No(String),
    /// Only root may.
    #[error("{0}")]
    Forbidden(String),
    /// `run` could not execute its command: what a shell says with 127 and 126.
    #[error("{program}: {}: {hint}", reason(source))]
    NotRun {
        /// As on the command line.
        program: String,
        /// What `execvp` gave.
        source: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// A system call that `run` needs failed.
    #[error("{what}: {}: nothing was run", reason(source))]
    System {
        /// What was tried.
        what: &'static str,
        /// What it gave.
        source: io::Error,
    },
    /// Writing to stdout failed.
    #[error("cannot write to stdout: {}: what was printed is not complete", reason(.0))]
    Output(io::Error),
}

/// An I/O error as other programs tell it, without Rust's `(os error N)`.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

impl Failure {
    /// The kind, as in the JSON error.
    pub fn code(&self) -> wire::Code {
        use wire::Code;
        match self {
            Self::Refused(failure) => failure.code,
            Self::Unreachable { .. } | Self::Lost { .. } => Code::Unreachable,
            Self::SocketForbidden { .. } | Self::Forbidden(_) => Code::Forbidden,
            Self::Invalid(_) => Code::Invalid,
            Self::NotRun { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Code::NotFound
            }
            Self::Protocol { .. }
            | Self::No(_)
            | Self::NotRun { .. }
            | Self::System { .. }
            | Self::Output(_) => Code::Failed,
        }
    }

    /// The exit status.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::NotRun { .. } if self.code() == wire::Code::NotFound => 127,
            Self::NotRun { .. } => 126,
            _ => self.code().exit_status(),
        }
    }

    /// stdout was closed by who read it (`guardctl events | head`): nothing to complain about.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The line for stderr. The message may quote what a process chose, so it is escaped; line
    /// breaks stay, for a policy error shows the line it is about.
    pub fn for_people(&self) -> String {
        format!("guardctl: {}\n", escape::lines(self.to_string().trim_end()))
    }

    /// `{"error":{"code":"…","message":"…"}}`
    pub fn json(&self) -> String {
        escape::json(&serde_json::json!({ "error": { "code": self.code().name(), "message": self.to_string() } }).to_string())
    }
}

impl From<io::Error> for Failure {
    /// In this program a bare I/O error is one of writing to stdout; all else says what it is of.
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}
