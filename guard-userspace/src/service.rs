//! What the service manager is told (sd_notify(3)): that guardd is ready, that it lives, what it is doing. Without a
//! manager that asks (`NOTIFY_SOCKET`) nothing is said, to nobody.

use std::{
    env,
    ffi::OsString,
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use crate::clock;

/// Where the manager listens.
const SOCKET_VAR: &str = "NOTIFY_SOCKET";
/// After how many microseconds of silence it takes guardd for stuck.
const WATCHDOG_VAR: &str = "WATCHDOG_USEC";
/// For which process that holds.
const WATCHDOG_PID_VAR: &str = "WATCHDOG_PID";
/// How often the line for `systemctl status` may change.
const STATUS_EVERY_NS: u64 = 1_000_000_000;

/// guardd's line to its service manager.
#[derive(Debug, Default)]
pub struct Service {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often a sign of life is sent: twice as often as it is asked for, ns.
    beat_every_ns: Option<u64>,
    beat_ns: u64,
    status: String,
    status_ns: u64,
}

impl Service {
    /// As the environment says.
    pub fn from_environment() -> Self {
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        // A variable that a parent left behind is for the parent.
        let for_us =
            number(WATCHDOG_PID_VAR).is_none_or(|pid| pid == u64::from(std::process::id()));
        let patience = number(WATCHDOG_VAR)
            .filter(|&usec| usec > 0 && for_us)
            .map(Duration::from_micros);
        Self::new(env::var_os(SOCKET_VAR), patience)
    }

    /// To a socket: a path, or an abstract name with `@` before it. `patience`: how long the manager waits for a sign
    /// of life.
    pub fn new(socket: Option<OsString>, patience: Option<Duration>) -> Self {
        let socket = socket.filter(|name| !name.is_empty()).and_then(|name| {
            connected(&name)
                .inspect_err(|error| {
                    tracing::warn!(%error, "the service manager cannot be told anything");
                })
                .ok()
        });
        Self {
            beat_every_ns: patience
                .filter(|_| socket.is_some())
                .map(|patience| u64::try_from(patience.as_nanos() / 2).unwrap_or(u64::MAX)),
            socket,
            ..Self::default()
        }
    }

    /// The sockets of connections are served.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// A policy is being read again; [`Self::ready`] says that this is over.
    pub fn reloading(&self) {
        // systemd 253 wants the time, to tell this reload from one that it has asked for since.
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}",
            clock::monotonic_ns() / 1000
        ));
    }

    /// guardd ends, for good or to make way.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// A sign of life, where one is asked for and due. Only the loop that does guardd's work may call this: a thread of
    /// its own would go on beating for a loop that is stuck.
    pub fn beat(&mut self) {
        let now = clock::monotonic_ns();
        if self
            .beat_every_ns
            .is_some_and(|every| self.beat_ns == 0 || now - self.beat_ns >= every)
        {
            self.beat_ns = now;
            self.tell("WATCHDOG=1");
        }
    }

    /// One line for `systemctl status`, when it has changed. `line` is only asked for when it can be sent.
    pub fn status(&mut self, line: impl FnOnce() -> String) {
        let now = clock::monotonic_ns();
        if self.socket.is_none() || (self.status_ns != 0 && now - self.status_ns < STATUS_EVERY_NS)
        {
            return;
        }
        self.status_ns = now;
        let line = line().replace(char::is_control, " ");
        if line != self.status {
            self.tell(&format!("STATUS={line}"));
            self.status = line;
        }
    }

    /// One datagram.
    fn tell(&self, state: &str) {
        let Some((socket, address)) = &self.socket else {
            return;
        };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::warn!(%error, "telling the service manager");
        }
    }
}

fn connected(name: &OsString) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold guardd up.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager() -> (tempfile::TempDir, UnixDatagram, OsString) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_nonblocking(true).expect("nonblocking");
        (dir, socket, path.into_os_string())
    }

    fn heard(socket: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 4096];
        std::iter::from_fn(|| {
            let length = socket.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
        .collect()
    }

    #[test]
    fn a_sign_of_life_is_sent_when_due_and_only_where_asked_for() {
        let (_dir, socket, name) = manager();
        let mut service = Service::new(Some(name.clone()), Some(Duration::from_secs(3600)));
        service.beat();
        service.beat();
        assert_eq!(heard(&socket), ["WATCHDOG=1"]);
        let mut service = Service::new(Some(name.clone()), Some(Duration::from_nanos(2)));
        service.beat();
        service.beat();
        assert_eq!(heard(&socket).len(), 2);
        let mut service = Service::new(Some(name), None);
        service.beat();
        assert!(heard(&socket).is_empty());
    }

    #[test]
    fn the_status_is_one_line_and_told_when_it_changes() {
        let (_dir, socket, name) = manager();
        let mut service = Service::new(Some(name), None);
        service.status(|| "a\nREADY=1".into());
        assert_eq!(heard(&socket), ["STATUS=a READY=1"]);
        service.status(|| unreachable!("within the second"));
        service.status_ns = 1;
        service.status(|| "a\nREADY=1".into());
        assert!(heard(&socket).is_empty());
    }

    #[test]
    fn without_a_manager_nothing_is_made_up() {
        let mut service = Service::new(None, Some(Duration::from_nanos(1)));
        service.ready();
        service.beat();
        service.status(|| unreachable!("for nobody"));
    }

    #[test]
    fn an_abstract_name_is_understood() {
        let name = format!("@guard-service-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name.as_bytes()[1..]).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        socket.set_nonblocking(true).expect("nonblocking");
        Service::new(Some(name.into()), None).reloading();
        let said = heard(&socket);
        assert!(
            said[0].starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{said:?}"
        );
    }
}
