//! Commands for which a test says what names stand for.

use std::{path::PathBuf, process::Command};

use crate::{Guard, Place, dns::NameServer};

/// A command whose names are resolved by `server` alone.
pub struct Resolving {
    script: PathBuf,
}

impl Resolving {
    /// The names are this host's, by `/etc/hosts`: no name server is asked.
    pub fn here(place: &Place, names: &[&str]) -> Self {
        let hosts = place.file("hosts", &format!("127.0.0.1 {}\n", names.join(" ")));
        let nsswitch = place.file("nsswitch.conf", "hosts: files\n");
        let script = place.script(
            "resolving",
            &format!(
                "#!/bin/sh\nmount --bind {} /etc/hosts && mount --bind {} /etc/nsswitch.conf && exec \"$@\"\n",
                hosts.display(),
                nsswitch.display()
            ),
        );
        Self { script }
    }

    /// By this name server.
    pub fn by(place: &Place, server: &NameServer) -> Self {
        let resolv = place.file(
            "resolv.conf",
            &format!("nameserver {}\noptions timeout:5\n", server.addr()),
        );
        let nsswitch = place.file("nsswitch.conf", "hosts: dns\n");
        let script = place.script(
            "resolving",
            &format!(
                "#!/bin/sh\nmount --bind {} /etc/resolv.conf && mount --bind {} /etc/nsswitch.conf && exec \"$@\"\n",
                resolv.display(),
                nsswitch.display()
            ),
        );
        Self { script }
    }

    /// Such a command, as the root of a session.
    pub fn run(&self, guard: &Guard, words: &[&str]) -> Command {
        let mut command = guard.run(&["--agent", "x"], "unshare");
        command.arg("-m").arg(&self.script).args(words);
        command
    }
}
