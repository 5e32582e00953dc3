//! More than an honest agent would do: processes by the ten thousand, and forks, opens and connects for as long as
//! one likes.

use std::{
    ffi::CString,
    io,
    net::SocketAddrV4,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// One child in so many tries what is forbidden instead.
const SAMPLE: u64 = 64;

/// What a child of a gale has done, as bits of its exit status.
const OPENED: i32 = 1;
const CONNECTED: i32 = 2;
const REFUSED: i32 = 4;
const MISSED: i32 = 8;

/// Children that wait until this process ends; how many there are. It stops at the machine's limit.
pub(crate) fn crowd(count: &str) -> io::Result<Value> {
    let wanted: u64 = count.parse().map_err(io::Error::other)?;
    let parent = std::process::id();
    let mut made = 0u64;
    let mut limit = None;
    while made < wanted {
        // SAFETY: the child makes system calls only.
        match unsafe { libc::fork() } {
            -1 => {
                limit = Some(io::Error::last_os_error().to_string());
                break;
            }
            0 => {
                // SAFETY: takes numbers, and waits for the end.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    // It may have ended before.
                    while libc::getppid() as u32 == parent {
                        libc::pause();
                    }
                    libc::_exit(0);
                }
            }
            _ => made += 1,
        }
    }
    Ok(json!({ "made": made, "limit": limit }))
}

/// Nanoseconds for an open and a close of a file: the median of many batches.
pub(crate) fn time_opens(path: &str) -> io::Result<Value> {
    const BATCHES: usize = 41;
    const OPENS: u32 = 200;
    let path = CString::new(path)?;
    let mut batches: Vec<u64> = (0..BATCHES)
        .map(|_| {
            let begun = Instant::now();
            for _ in 0..OPENS {
                // SAFETY: a string that ends, and what it gives.
                unsafe { libc::close(libc::open(path.as_ptr(), libc::O_RDONLY)) };
            }
            begun.elapsed().as_nanos() as u64 / u64::from(OPENS)
        })
        .collect();
    batches.sort_unstable();
    Ok(json!({ "ns": batches[BATCHES / 2] }))
}

#[derive(Default)]
struct Done {
    forks: AtomicU64,
    opened: AtomicU64,
    connected: AtomicU64,
    sampled: AtomicU64,
    missed: AtomicU64,
}

/// For `seconds`, on two threads: child after child opens `noted` and connects a datagram socket to `allowed`; one in
/// [`SAMPLE`] opens `secret` and connects to `denied` instead.
pub(crate) fn gale(
    seconds: &str,
    noted: &str,
    secret: &str,
    allowed: &str,
    denied: &str,
) -> io::Result<Value> {
    let length = Duration::from_secs(seconds.parse().map_err(io::Error::other)?);
    let (noted, secret) = (CString::new(noted)?, CString::new(secret)?);
    let (allowed, denied) = (address(allowed)?, address(denied)?);
    let done = Done::default();
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while begun.elapsed() < length {
                    let round = done.forks.fetch_add(1, Ordering::Relaxed);
                    let sample = round.is_multiple_of(SAMPLE);
                    // SAFETY: the child makes system calls only.
                    let child = unsafe { libc::fork() };
                    if child == 0 {
                        let status = if sample {
                            forbidden(&secret, &denied, (round / SAMPLE).is_multiple_of(2))
                        } else {
                            honest(&noted, &allowed)
                        };
                        // SAFETY: ends the child.
                        unsafe { libc::_exit(status) };
                    }
                    if child < 0 {
                        thread::yield_now();
                        continue;
                    }
                    let mut status = 0;
                    // SAFETY: a child of this process.
                    unsafe { libc::waitpid(child, &mut status, 0) };
                    let bits = if libc::WIFEXITED(status) {
                        libc::WEXITSTATUS(status)
                    } else {
                        // Where a call cannot be refused, the process is killed.
                        REFUSED
                    };
                    for (bit, count) in [
                        (OPENED, &done.opened),
                        (CONNECTED, &done.connected),
                        (REFUSED, &done.sampled),
                        (MISSED, &done.missed),
                    ] {
                        if bits & bit != 0 {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    Ok(json!({
        "forks": get(&done.forks),
        "opened": get(&done.opened),
        "connected": get(&done.connected),
        "refused": get(&done.sampled),
        "missed": get(&done.missed),
    }))
}

fn address(text: &str) -> io::Result<libc::sockaddr_in> {
    let address: SocketAddrV4 = text.parse().map_err(io::Error::other)?;
    Ok(libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(*address.ip()).to_be(),
        },
        sin_zero: [0; 8],
    })
}

fn opens(path: &CString) -> bool {
    // SAFETY: a string that ends.
    unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) >= 0 }
}

fn connects(to: &libc::sockaddr_in) -> bool {
    // SAFETY: takes numbers, and an address of the length that is given.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        libc::connect(fd, std::ptr::from_ref(to).cast(), size_of_val(to) as u32) == 0
    }
}

fn honest(noted: &CString, allowed: &libc::sockaddr_in) -> i32 {
    (if opens(noted) { OPENED } else { 0 }) | (if connects(allowed) { CONNECTED } else { 0 })
}

fn forbidden(secret: &CString, denied: &libc::sockaddr_in, a_file: bool) -> i32 {
    let got = if a_file {
        opens(secret)
    } else {
        connects(denied)
    };
    if got { MISSED } else { REFUSED }
}
