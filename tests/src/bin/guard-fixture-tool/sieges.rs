//! The same call again and again, until a file says that it is enough: for what must not succeed once.

use std::{
    fs::File,
    io::{self, Read as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// Between two tries. Each is an event: without a pause there are more than any disk or reader of them takes.
fn pause(us: &str) -> io::Result<Duration> {
    us.parse()
        .map(Duration::from_micros)
        .map_err(io::Error::other)
}

/// Opens and reads a file in one child after another, since a denied one may be killed. Counts those that got a
/// byte, those that were refused or killed, and nothing else.
pub fn open(path: &str, enough: &str, pause_us: &str) -> io::Result<Value> {
    let pause = pause(pause_us)?;
    let (mut tries, mut successes) = (0u64, 0u64);
    while !Path::new(enough).exists() {
        tries += 1;
        // SAFETY: this program has one thread here; the child makes system calls and leaves.
        let child = unsafe { libc::fork() };
        if child < 0 {
            return Err(io::Error::last_os_error());
        }
        if child == 0 {
            let mut byte = [0];
            let got = File::open(path).and_then(|mut file| file.read(&mut byte));
            // SAFETY: ends the child at once, without what the parent has left to do.
            unsafe { libc::_exit(if got.is_ok_and(|len| len > 0) { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: a child of this process, and a place for its status.
        if unsafe { libc::waitpid(child, &raw mut status, 0) } != child {
            return Err(io::Error::last_os_error());
        }
        successes += u64::from(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
        thread::sleep(pause);
    }
    Ok(json!({ "tries": tries, "successes": successes }))
}

/// The same for connections: every one must be refused by guard, not by the server.
pub fn tcp(to: &str, enough: &str, pause_us: &str) -> io::Result<Value> {
    let pause = pause(pause_us)?;
    let to: SocketAddr = to.parse().map_err(io::Error::other)?;
    let (mut tries, mut successes, mut others) = (0u64, 0u64, 0u64);
    while !Path::new(enough).exists() {
        tries += 1;
        match TcpStream::connect(to) {
            Ok(_) => successes += 1,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            Err(_) => others += 1,
        }
        thread::sleep(pause);
    }
    Ok(json!({ "tries": tries, "successes": successes, "others": others }))
}
