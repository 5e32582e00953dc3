//! Pseudo-terminals of a test's own, which some user seems to sit at.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _},
        unix::{fs::chown, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
};

use crate::eventually;

/// A terminal. Its other end is the test's.
pub struct Pty {
    master: File,
    slave: File,
    path: PathBuf,
    seen: Vec<u8>,
}

impl Pty {
    /// A new one that belongs to this user.
    ///
    /// # Panics
    /// When there is none.
    pub fn of(uid: u32) -> Self {
        // SAFETY: plain calls; each descriptor is checked and owned once.
        let (master, number) = unsafe {
            let fd = libc::posix_openpt(
                libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK,
            );
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            assert_eq!(libc::grantpt(fd), 0);
            assert_eq!(libc::unlockpt(fd), 0);
            let mut number: libc::c_int = 0;
            assert_eq!(libc::ioctl(fd, libc::TIOCGPTN, &mut number), 0);
            (File::from_raw_fd(fd), number)
        };
        let path = PathBuf::from(format!("/dev/pts/{number}"));
        // Kept open, or the terminal would count as hung up.
        let slave = {
            use std::os::unix::fs::OpenOptionsExt as _;
            File::options()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NOCTTY)
                .open(&path)
                .expect("its other end")
        };
        chown(&path, Some(uid), None).expect("chown");
        Self {
            master,
            slave,
            path,
            seen: Vec::new(),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stops its output, as Ctrl-S does.
    pub fn stop(&self) {
        // SAFETY: an open terminal.
        let done = unsafe { libc::tcflow(self.slave.as_raw_fd(), libc::TCOOFF) };
        assert_eq!(done, 0);
    }

    /// Types something, as whoever sits at it does.
    pub fn types(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("a terminal");
    }

    /// Makes it the controlling terminal of what `command` starts, with its input and output.
    pub fn seat(&self, command: &mut Command) {
        let end = || self.slave.try_clone().expect("a descriptor");
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: two system calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                if libc::ioctl(libc::STDIN_FILENO, libc::TIOCSCTTY, 0) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
    }

    /// What has been written to it so far.
    pub fn seen(&mut self) -> String {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = self.master.read(&mut buffer) {
            self.seen.extend_from_slice(&buffer[..n]);
        }
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Waits until this was written to it; all that was.
    #[track_caller]
    pub fn wait(&mut self, text: &str) -> String {
        eventually(&format!("{text:?} on the terminal"), || {
            Some(self.seen()).filter(|seen| seen.contains(text))
        })
    }

    /// Whether something waits to be read from it as if it had been typed.
    pub fn has_input(&self) -> bool {
        let mut waiting: libc::c_int = 0;
        // SAFETY: an open terminal, and room for a number.
        let done = unsafe { libc::ioctl(self.slave.as_raw_fd(), libc::FIONREAD, &mut waiting) };
        assert_eq!(done, 0);
        waiting > 0
    }
}
