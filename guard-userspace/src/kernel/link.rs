//! Attachments, and how they outlive guardd.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aya::programs::{
    TracePoint,
    links::{FdLink, PinnedLink},
    trace_point::TracePointLink,
};

use super::{hooks::brief, sys, watched::Hook};

/// An attachment. Dropped, it ends, unless it is pinned.
#[derive(Debug)]
#[expect(dead_code, reason = "an attachment need only be kept to stay")]
pub(super) enum Link {
    Aya(FdLink),
    Pinned(PinnedLink),
    /// Before Linux 5.15 a system call tracepoint is attached by an ioctl.
    Event(TracePointLink),
    Raw(OwnedFd, Option<PathBuf>),
}

impl Link {
    /// Takes its name away and lets it go.
    pub(super) fn end(self) {
        let result = match self {
            Self::Aya(_) | Self::Event(_) | Self::Raw(_, None) => return,
            Self::Pinned(link) => link.unpin().map(drop).map_err(|error| error.to_string()),
            Self::Raw(_, Some(pin)) => std::fs::remove_file(pin).map_err(|error| error.to_string()),
        };
        if let Err(error) = result {
            tracing::warn!(%error, "a hook's pin could not be removed");
        }
    }

    /// Gives it a name, so that it outlives guardd.
    fn pin(self, path: &Path) -> Result<Self, String> {
        match self {
            Self::Aya(link) => link
                .pin(path)
                .map(Self::Pinned)
                .map_err(|error| error.to_string()),
            Self::Raw(fd, None) => match sys::pin(&fd, path) {
                Ok(()) => Ok(Self::Raw(fd, Some(path.to_owned()))),
                Err(error) => Err(error.to_string()),
            },
            other => Ok(other),
        }
    }
}

pub(super) fn attach_tracepoint(program: &mut TracePoint, name: &str) -> Result<Link, String> {
    let link = program
        .attach("syscalls", name)
        .and_then(|id| program.take_link(id))
        .map_err(|error| brief(&error))?;
    if aya::features().bpf_perf_link() {
        FdLink::try_from(link)
            .map(Link::Aya)
            .map_err(|error| error.to_string())
    } else {
        Ok(Link::Event(link))
    }
}

/// Pins an attachment, of several that of the program numbered `copy`. Where that fails the problem is told, and the attachment has gone with the attempt.
pub(super) fn pinned(
    link: Link,
    pins: Option<&Path>,
    hook: &Hook,
    copy: usize,
    problem: &mut Option<String>,
) -> Option<Link> {
    let Some(pins) = pins else { return Some(link) };
    let mut name = format!("{}-{}", hook.program, hook.name());
    if copy > 1 {
        name.push_str(&format!("-{copy}"));
    }
    let path = pins.join(name);
    match link.pin(&path) {
        Ok(link) => Some(link),
        Err(error) => {
            *problem = Some(format!(
                "it ends with guardd, since it could not be pinned: {error}"
            ));
            None
        }
    }
}
