//! Another process's socket, to have it sent what waits or to end it.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use rustix::{
    net::sockopt,
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use crate::process::{self, Id};

/// Descriptors of one process that are looked through.
const MAX_DESCRIPTORS: usize = 65_536;

/// A descriptor of somebody's socket.
#[derive(Debug)]
pub struct Taken(OwnedFd);

impl Taken {
    /// Hands out each socket of a process with its cookie, until the caller says `false`.
    ///
    /// # Errors
    /// When the process cannot be looked at.
    pub fn each(id: Id, mut take: impl FnMut(Self, u64) -> bool) -> io::Result<()> {
        let Some(pid) = i32::try_from(id.pid).ok().and_then(Pid::from_raw) else {
            return Ok(());
        };
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        // The pid may have gone to another since.
        if process::stat(id.pid).is_none_or(|stat| stat.id != id) {
            return Ok(());
        }
        for entry in fs::read_dir(format!("/proc/{}/fd", id.pid))?.take(MAX_DESCRIPTORS) {
            let Ok(entry) = entry else { continue };
            let is_socket = fs::read_link(entry.path()).is_ok_and(|target| {
                target
                    .as_os_str()
                    .as_encoded_bytes()
                    .starts_with(b"socket:")
            });
            let number = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let (true, Some(number)) = (is_socket, number) else {
                continue;
            };
            let Ok(fd) = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()) else {
                continue;
            };
            if let Ok(cookie) = sockopt::socket_cookie(&fd)
                && !take(Self(fd), cookie)
            {
                break;
            }
        }
        Ok(())
    }

    /// The descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Has it sent what waits. Turning the delay of small segments off pushes what is pending; the program finds it as
    /// it was. <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp.c#L3437>
    ///
    /// # Errors
    /// When it is no TCP socket any more.
    pub fn push(&self) -> io::Result<()> {
        let nodelay = sockopt::tcp_nodelay(&self.0)?;
        sockopt::set_tcp_nodelay(&self.0, true)?;
        sockopt::set_tcp_nodelay(&self.0, nodelay)?;
        Ok(())
    }

    /// Ends the connection, and what has not been sent never is. A call that waits for it, and each that comes, fails
    /// with ECONNRESET; or finds its end, on kernels that do not take a connection from somebody who waits for it
    /// (5.10 among them).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn end(&self) -> io::Result<()> {
        match self.disconnect() {
            // <https://github.com/torvalds/linux/commit/4faeee0cf8a5d88d63cdbc3bab124fb0e6aed08c>
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                // Whoever waits is woken, and finds the end.
                rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both)?;
                // Whether it has gone by now or not: nothing is sent.
                let _ = self.disconnect();
                Ok(())
            }
            other => other,
        }
    }

    fn disconnect(&self) -> io::Result<()> {
        // As in connect(2): an address of this family dissolves the association.
        let nowhere = libc::sockaddr {
            sa_family: libc::AF_UNSPEC as libc::sa_family_t,
            sa_data: [0; 14],
        };
        // SAFETY: the address is as long as is said.
        let result = unsafe {
            libc::connect(
                self.0.as_raw_fd(),
                &raw const nowhere,
                size_of::<libc::sockaddr>() as libc::socklen_t,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}
