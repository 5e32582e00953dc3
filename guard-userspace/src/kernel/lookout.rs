//! Gets guardd off a processor on which it cannot run.
//!
//! A job of an interactive shell waits on its processor for guardd (`guard_spin`). A thread of a realtime class is woken on the
//! processor that it ran on last, idle ones or not; where that is the one that waits, and the kernel does not preempt itself, guardd
//! would be let on only when the wait is over. Two threads, each bound to another processor, are told of every such wait: at
//! least one of them runs, and moves guardd to its own processor.
//! <https://github.com/torvalds/linux/blob/v6.12/kernel/sched/rt.c#L1535>

use std::{
    fs, io, mem,
    os::fd::AsRawFd as _,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use aya::maps::{MapData, RingBuf};

/// Processors that one thread each is bound to.
const THREADS: usize = 2;

/// Starts them, for the thread that calls. They end with the process.
///
/// # Errors
/// When they cannot be started, or not be bound. With one processor there is nothing to be done, and none is.
pub(super) fn start(spins: RingBuf<MapData>) -> io::Result<()> {
    // SAFETY: takes nothing.
    let guardd = unsafe { libc::gettid() };
    let all = allowed(0)?;
    let size = 8 * size_of::<libc::cpu_set_t>();
    // SAFETY: within the set's bounds.
    let mut processors = (0..size).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &all) });
    let own: Vec<usize> = processors.by_ref().take(THREADS).collect();
    if own.len() < THREADS {
        return Ok(());
    }
    let spins = Arc::new(Mutex::new(spins));
    for cpu in own {
        let spins = Arc::clone(&spins);
        let (told, hears) = std::sync::mpsc::sync_channel(1);
        thread::Builder::new()
            .name(format!("lookout-{cpu}"))
            .spawn(move || {
                let bound = bind(0, &only(cpu));
                let fine = bound.is_ok();
                let _ = told.send(bound);
                if fine {
                    look_out(&spins, cpu, guardd, &all);
                }
            })?;
        hears.recv().map_err(io::Error::other)??;
    }
    Ok(())
}

fn look_out(spins: &Mutex<RingBuf<MapData>>, own: usize, guardd: i32, all: &libc::cpu_set_t) {
    let ring = || spins.lock().unwrap_or_else(PoisonError::into_inner);
    let mut wait = libc::pollfd {
        fd: ring().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        // SAFETY: one descriptor, which the ring keeps open.
        if unsafe { libc::poll(&raw mut wait, 1, -1) } < 0 {
            continue;
        }
        let mut waits_on = None;
        let mut ring = ring();
        while let Some(word) = ring.next() {
            waits_on = word
                .first_chunk()
                .map(|cpu| u32::from_ne_bytes(*cpu) as usize);
        }
        drop(ring);
        let Some(busy) = waits_on.filter(|busy| *busy != own) else {
            continue;
        };
        if processor_of(guardd) == Some(busy) {
            // It need not stay here.
            let _ = bind(guardd, &only(own)).and_then(|()| bind(guardd, all));
        }
    }
}

/// The processor that a thread of this process runs on, or will.
fn processor_of(thread: i32) -> Option<usize> {
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?;
    // The 39th field; the second is in parentheses and may have blanks.
    let rest = &stat[stat.rfind(')')? + 2..];
    rest.split(' ').nth(36)?.parse().ok()
}

fn only(cpu: usize) -> libc::cpu_set_t {
    // SAFETY: all zeros are an empty set, and the number is within its bounds.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    }
}

fn allowed(thread: i32) -> io::Result<libc::cpu_set_t> {
    // SAFETY: all zeros are an empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the set is as long as is said.
    match unsafe { libc::sched_getaffinity(thread, size_of_val(&set), &raw mut set) } {
        0 => Ok(set),
        _ => Err(io::Error::last_os_error()),
    }
}

fn bind(thread: i32, to: &libc::cpu_set_t) -> io::Result<()> {
    // SAFETY: the set is as long as is said.
    match unsafe { libc::sched_setaffinity(thread, size_of_val(to), to) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_where_it_is_bound_to() {
        let all = allowed(0).unwrap();
        // SAFETY: takes nothing.
        let me = unsafe { libc::gettid() };
        // SAFETY: within the set's bounds.
        for cpu in (0..64).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &all) }) {
            bind(0, &only(cpu)).unwrap();
            assert_eq!(processor_of(me), Some(cpu));
        }
        bind(0, &all).unwrap();
    }
}
