//! Processes as /proc shows them.

use std::{fs, time::Duration};

use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};

use crate::eventually;

/// The clock of windows, leases and deadlines.
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// State letter of a process (`T` for stopped); `None` when there is no such process.
pub fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, brackets included.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether the process has gone, or has ended and only waits for its parent.
pub fn has_ended(pid: u32) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

/// Whether it is stopped.
pub fn is_stopped(pid: u32) -> bool {
    state(pid) == Some('T')
}

/// Waits until it is stopped.
#[track_caller]
pub fn wait_stopped(pid: u32) {
    eventually(
        &format!("process {pid} is stopped (it is {:?})", state(pid)),
        || (state(pid) == Some('T')).then_some(()),
    );
}

/// Waits until it runs, or sleeps as running processes do.
#[track_caller]
pub fn wait_running(pid: u32) {
    eventually(&format!("process {pid} runs again"), || {
        matches!(state(pid), Some('R' | 'S' | 'D')).then_some(())
    });
}

/// Waits until it has ended.
#[track_caller]
pub fn wait_ended(pid: u32) {
    eventually(&format!("process {pid} has ended"), || {
        has_ended(pid).then_some(())
    });
}

/// Sends a signal to a process that the test started.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        // It may have ended.
        let _ = kill_process(pid, signal);
    }
}

/// Every process that carries `mark` (`NAME=VALUE`) in its environment.
pub fn marked(mark: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = std::process::id();
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ")).is_ok_and(|text| {
                text.split(|byte| *byte == 0)
                    .any(|word| word == mark.as_bytes())
            })
        })
        .collect()
}

/// What a process is, for messages.
pub fn describe(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    format!("{pid} {:?} {line}", state(pid))
}

/// Pids of the processes that a process has started and that still are.
pub fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok())
        .flat_map(|text| {
            let pids = text.split_whitespace().map(str::parse);
            pids.filter_map(Result::ok).collect::<Vec<u32>>()
        })
        .collect()
}
