//! The two clocks: wall time for people, monotonic nanoseconds for windows and deadlines (the same
//! clock as `bpf_ktime_get_ns`).

use std::time::Duration;

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds, comparable with the kernel programs' times.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// `CLOCK_REALTIME`, whole seconds.
pub fn realtime_s() -> u64 {
    clock_gettime(ClockId::Realtime).tv_sec as u64
}

/// Now, as events carry it.
pub fn rfc3339_now() -> String {
    rfc3339(Timestamp::now())
}

/// A monotonic time, past or to come, as wall time, by the present difference of the two clocks.
pub fn rfc3339_at(mono_ns: u64) -> String {
    let (now, mono_now) = (Timestamp::now(), monotonic_ns());
    let then = if mono_ns <= mono_now {
        now.checked_sub(Duration::from_nanos(mono_now - mono_ns))
    } else {
        now.checked_add(Duration::from_nanos(mono_ns - mono_now))
    };
    rfc3339(then.unwrap_or(now))
}

/// A time so long ago, as events carry it; the beginning of time for what lies before it.
pub fn rfc3339_ago(span: Duration) -> String {
    rfc3339(
        Timestamp::now()
            .checked_sub(span)
            .unwrap_or(Timestamp::UNIX_EPOCH),
    )
}

fn rfc3339(at: Timestamp) -> String {
    DateTimePrinter::new()
        .precision(Some(6))
        .timestamp_to_string(&at)
}

/// A duration as policies and people write it: `90s`, `10m`, `1h 30m`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("a duration must be more than zero".into()),
        Ok(duration) if duration > Duration::from_secs(366 * 86_400) => {
            Err("a duration may not be more than a year".into())
        }
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write it like 90s, 10m or 1h30m")),
    }
}

/// A duration for people, in at most two units.
pub fn human(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let s = duration.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}
