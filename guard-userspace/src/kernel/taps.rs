//! Probes in the TLS libraries of single processes: a breakpoint costs a microsecond or two each time, and processes
//! outside sessions have nothing to do with it.
//!
//! One *site* for each place in a file: a trace event (`uprobe_events`) with the program on it, kept enabled for guardd
//! itself, so that it stands in nobody's way. For each process that is tapped one perf event more makes the kernel put the
//! breakpoint into that process's memory too, and its end takes it out: both are cheap. (A probe of its own for
//! each process is not: its end waits for a grace period under a lock that every other probe waits for.)
//! <https://docs.kernel.org/trace/uprobetracer.html>

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use aya::{Ebpf, programs::UProbe};

use crate::{process, tls::Library};

/// The program for returns.
const RETURNS: &str = "guard_tls_wrote";
/// Trace events of guardds are in groups of this name with their pid behind it.
const GROUP: &str = "guard_";
/// How long a site that no process uses is kept: putting it back costs a millisecond.
const UNUSED: Duration = Duration::from_secs(10);

/// A place in a file, and what is done there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    file: (u64, u64),
    offset: u64,
    program: &'static str,
}

/// A trace event with a program on it.
struct Site {
    /// Number of the event, for perf.
    id: u64,
    event: Event,
    users: usize,
    unused_since: Option<Instant>,
}

/// The trace event itself; it goes with this.
struct Event {
    name: String,
    tracing: PathBuf,
    /// guardd's own perf event, which carries the program.
    keeper: Option<OwnedFd>,
}

impl Drop for Event {
    fn drop(&mut self) {
        self.keeper = None;
        // A name that stays is removed by the next guardd.
        let _ = write(&self.tracing, &format!("-:{}", self.name));
    }
}

/// What is attached to processes.
pub(super) struct Attached {
    tracing: Option<PathBuf>,
    sites: BTreeMap<Place, Site>,
    by_process: HashMap<u32, Vec<(Place, OwnedFd)>>,
    next: u64,
}

impl Attached {
    pub(super) fn new() -> Self {
        let tracing = super::hooks::tracing();
        if let Some(tracing) = &tracing {
            remove_left(tracing);
        }
        Self {
            tracing,
            sites: BTreeMap::new(),
            by_process: HashMap::new(),
            next: 0,
        }
    }

    /// Puts probes into every library of a process; says how many.
    ///
    /// # Errors
    /// Why one could not be put; the others stay.
    pub(super) fn tap(
        &mut self,
        ebpf: &mut Ebpf,
        pid: u32,
        libraries: &[Library],
    ) -> Result<usize, String> {
        let mut events: Vec<(Place, OwnedFd)> = Vec::new();
        let mut problem = None;
        for library in libraries {
            for tap in &library.found.taps {
                let programs = [Some(tap.entry), tap.returns.then_some(RETURNS)];
                for program in programs.into_iter().flatten() {
                    let place = Place {
                        file: library.file,
                        offset: tap.offset,
                        program,
                    };
                    let opened = self
                        .site(ebpf, place, &library.path)
                        .and_then(|id| open_event(id, pid as i32, INHERIT));
                    match opened {
                        Ok(event) => events.push((place, event)),
                        Err(error) => problem = Some(format!("{}: {error}", library.name)),
                    }
                }
            }
        }
        for (place, _) in &events {
            if let Some(site) = self.sites.get_mut(place) {
                site.users += 1;
                site.unused_since = None;
            }
        }
        let count = events.len();
        self.untap(pid);
        self.by_process.insert(pid, events);
        problem.map_or(Ok(count), Err)
    }

    /// Takes them off a process.
    pub(super) fn untap(&mut self, pid: u32) {
        for (place, event) in self.by_process.remove(&pid).into_iter().flatten() {
            drop(event);
            if let Some(site) = self.sites.get_mut(&place) {
                site.users = site.users.saturating_sub(1);
                if site.users == 0 {
                    site.unused_since = Some(Instant::now());
                }
            }
        }
    }

    /// Removes sites that nobody has used for a while.
    pub(super) fn sweep(&mut self) {
        let old = |site: &Site| {
            site.unused_since
                .is_some_and(|since| since.elapsed() > UNUSED)
        };
        let unused: Vec<Place> = self
            .sites
            .iter()
            .filter(|(_, site)| old(site))
            .map(|(place, _)| *place)
            .collect();
        let events: Vec<Site> = unused
            .iter()
            .filter_map(|place| self.sites.remove(place))
            .collect();
        if !events.is_empty() {
            // Each waits until no CPU runs the program any more, and nobody waits for that.
            thread::spawn(move || drop(events));
        }
    }

    /// Processes with probes.
    pub(super) fn count(&self) -> usize {
        self.by_process
            .values()
            .filter(|events| !events.is_empty())
            .count()
    }

    /// The number of the trace event at a place, which is made if it is not there.
    fn site(&mut self, ebpf: &mut Ebpf, place: Place, path: &Path) -> io::Result<u64> {
        if let Some(site) = self.sites.get(&place) {
            return Ok(site.id);
        }
        let tracing = self
            .tracing
            .clone()
            .ok_or_else(|| io::Error::other("no uprobe_events in tracefs"))?;
        let program: &mut UProbe = ebpf
            .program_mut(place.program)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| io::Error::other("its program is not loaded"))?;
        let program = program.fd().map_err(io::Error::other)?;
        self.next += 1;
        let name = format!("{GROUP}{}/p{}", std::process::id(), self.next);
        let kind = if place.program == RETURNS { 'r' } else { 'p' };
        write(
            &tracing,
            &format!("{kind}:{name} {}:{:#x}", path.display(), place.offset),
        )?;
        let mut event = Event {
            name,
            tracing,
            keeper: None,
        };
        let id = fs::read_to_string(event.tracing.join("events").join(&event.name).join("id"))?;
        let id = id.trim().parse().map_err(io::Error::other)?;
        let keeper = open_event(id, std::process::id() as i32, 0)?;
        set_program(&keeper, program.as_fd().as_raw_fd())?;
        event.keeper = Some(keeper);
        self.sites.insert(
            place,
            Site {
                id,
                event,
                users: 0,
                unused_since: Some(Instant::now()),
            },
        );
        Ok(id)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.by_process.clear();
        // All at once: each waits for a grace period, and those of one moment share it.
        let events: Vec<Event> = std::mem::take(&mut self.sites)
            .into_values()
            .map(|site| site.event)
            .collect();
        thread::scope(|scope| {
            for event in events {
                scope.spawn(move || drop(event));
            }
        });
    }
}

fn write(tracing: &Path, line: &str) -> io::Result<()> {
    // To append: otherwise everybody's events go.
    let mut file = OpenOptions::new()
        .append(true)
        .open(tracing.join("uprobe_events"))?;
    file.write_all(line.as_bytes())
}

/// Removes the trace events of guardds that were killed.
fn remove_left(tracing: &Path) {
    let Ok(events) = fs::read_to_string(tracing.join("uprobe_events")) else {
        return;
    };
    for line in events.lines() {
        let name = line.split(' ').next().and_then(|word| word.split_once(':'));
        let Some((_, name)) = name else { continue };
        let pid = name
            .strip_prefix(GROUP)
            .and_then(|rest| rest.split('/').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if let Some(pid) = pid
            && (pid == std::process::id() || process::stat(pid).is_none())
        {
            let _ = write(tracing, &format!("-:{name}"));
        }
    }
}

/// The part of `perf_event_attr` that is needed here, in its first published size.
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/perf_event.h#L390>
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}

/// Of `perf_event_attr`: for what the process forks as well. A child has its parent's connections, and its breakpoints
/// would go at its first write without an event that wants them.
const INHERIT: u64 = 1 << 1;

/// A perf event on a trace event, for one process; it is on at once.
fn open_event(id: u64, pid: i32, flags: u64) -> io::Result<OwnedFd> {
    const PERF_TYPE_TRACEPOINT: u32 = 2;
    const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
    let attributes = Attributes {
        kind: PERF_TYPE_TRACEPOINT,
        size: size_of::<Attributes>() as u32,
        config: id,
        sample_period: 1,
        flags,
        ..Attributes::default()
    };
    // SAFETY: the attributes are as long as they say and outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            pid,
            -1,
            -1,
            PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn set_program(event: &OwnedFd, program: i32) -> io::Result<()> {
    const PERF_EVENT_IOC_SET_BPF: libc::c_ulong = 0x4004_2408;
    // SAFETY: takes numbers.
    let result = unsafe { libc::ioctl(event.as_raw_fd(), PERF_EVENT_IOC_SET_BPF as _, program) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
