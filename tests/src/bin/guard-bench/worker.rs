//! The measured process: reads what to do from its standard input, a line each, and answers with
//! nanoseconds per call. It makes plain calls of the C library, as a program would; everything that
//! is not the call is kept outside the time taken.

use std::{
    ffi::CString,
    io::{self, BufRead as _, Write as _},
    mem::{size_of, zeroed},
    path::{Path, PathBuf},
    ptr,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    process::Pid,
    thread::{CpuSet, sched_setaffinity},
};

use crate::{CALLS, Call, LABELLED_NAME};

/// The program that is run.
pub(crate) const PROGRAM: &str = "/bin/true";
/// Base names of the two files.
pub(crate) const PLAIN_FILE: &str = "bench.plain-file0";
pub(crate) const LABELLED_FILE: &str = "bench.guard-label";

/// Connections that are made before the server's side of them is cleared away.
const BATCH: usize = 64;

/// Arguments of the worker, which only the bench itself starts.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    cpu: Option<usize>,
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    plain_port: u16,
    #[arg(long)]
    labelled_port: u16,
}

/// One sample that is asked for: `runs` short runs of `iterations` calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) call: Call,
    pub(crate) labelled: bool,
    pub(crate) runs: usize,
    pub(crate) iterations: usize,
    /// The smallest [`Answer::spin`] so far.
    pub(crate) spin: f64,
}

/// One sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    /// Nanoseconds per call.
    pub(crate) ns: f64,
    /// Enough of the runs had the core for themselves.
    pub(crate) quiet: bool,
    /// What the shorter ones of the [`spin`]s meanwhile took, ns: how fast the core was.
    pub(crate) spin: f64,
}

impl Answer {
    fn line(self) -> String {
        let Self { ns, quiet, spin } = self;
        format!("{ns} {quiet} {spin}")
    }

    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        Some(Self {
            ns: words.next()?.parse().ok()?,
            quiet: words.next()?.parse().ok()?,
            spin: words.next()?.parse().ok()?,
        })
    }
}

/// How much longer than the shortest of all a spin may take for the core to count as quiet: clocks
/// change by less, a neighbour by more.
const QUIET: f64 = 1.22;
/// How much the spins before and after a run may differ.
const STEADY: f64 = 1.1;

impl Order {
    pub(crate) fn line(self) -> String {
        let Self {
            call,
            labelled,
            runs,
            iterations,
            spin,
        } = self;
        format!("{} {labelled} {runs} {iterations} {spin}\n", call.word())
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let call = words.next()?;
        Some(Self {
            call: CALLS.into_iter().find(|known| known.word() == call)?,
            labelled: words.next()?.parse().ok()?,
            runs: words.next()?.parse().ok()?,
            iterations: words.next()?.parse().ok()?,
            spin: words.next()?.parse().ok()?,
        })
    }
}

/// Pins a process, or with `None` this one, to one CPU.
pub(crate) fn pin(pid: Option<Pid>, cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(pid, &set)?)
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(cpu) = args.cpu {
        pin(None, cpu).context("sched_setaffinity")?;
    }
    let mut stdout = io::stdout();
    writeln!(stdout, "ready {}", std::process::id())?;
    for line in io::stdin().lock().lines() {
        let order = Order::parse(&line?).context("not an order")?;
        let answer = match order.measure(args) {
            Ok(answer) => answer.line(),
            Err(error) => format!("error {error:#}"),
        };
        writeln!(stdout, "{answer}")?;
    }
    Ok(())
}

impl Order {
    /// The lower quartile of the runs in which the core was quiet before and after, or, if there are
    /// too few of them, of all: what disturbs only ever adds.
    fn measure(self, args: &Args) -> Result<Answer> {
        let mut subject = Subject::new(self, args)?;
        for _ in 0..self.runs / 8 + 1 {
            subject.run(self.iterations)?;
        }
        let mut before = spin();
        let mut spins = Vec::with_capacity(self.runs + 1);
        spins.push(before);
        let mut runs = Vec::with_capacity(self.runs);
        for _ in 0..self.runs {
            let ns = subject.run(self.iterations)?;
            let after = spin();
            spins.push(after);
            runs.push((ns, before, after));
            before = after;
        }
        let spins = sorted(spins.into_iter());
        // Not the very shortest: one spin may fall into a moment when the clock changes.
        let shortest = spins[spins.len() / 10];
        let limit = shortest.min(self.spin) * QUIET;
        let all = sorted(runs.iter().map(|(ns, _, _)| *ns));
        let alone = sorted(
            runs.iter()
                .filter(|(_, before, after)| {
                    let (fast, slow) = (before.min(*after), before.max(*after));
                    slow <= limit && slow <= fast * STEADY
                })
                .map(|(ns, before, after)| ns * shortest / f64::midpoint(*before, *after)),
        );
        let quiet = alone.len() * 4 >= all.len();
        let of = if quiet { alone } else { all };
        Ok(Answer {
            ns: of[of.len() / 4],
            quiet,
            spin: shortest,
        })
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Time, in ns, of a fixed piece of work that fills the core's units from registers alone. It takes
/// up to a tenth longer when the core is clocked down, as calls then do in proportion; and half as
/// long again or more when the other hardware thread of the core works, be it for another virtual
/// machine.
fn spin() -> f64 {
    let mut lanes = std::hint::black_box([1_u64, 2, 3, 4, 5, 6]);
    let start = Instant::now();
    for _ in 0..2_000 {
        for lane in &mut lanes {
            *lane ^= *lane << 13;
            *lane ^= *lane >> 7;
            *lane ^= *lane << 17;
        }
    }
    std::hint::black_box(lanes);
    ns_since(start)
}

enum Subject {
    Getppid,
    Open(CString),
    Connect(Listener),
    Exec { argv0: CString },
}

impl Subject {
    fn new(order: Order, args: &Args) -> Result<Self> {
        let pick = |labelled, plain| if order.labelled { labelled } else { plain };
        Ok(match order.call {
            Call::Getppid => Self::Getppid,
            Call::Open => Self::Open(path(&args.dir.join(pick(LABELLED_FILE, PLAIN_FILE)))?),
            Call::Connect => {
                let port = if order.labelled {
                    args.labelled_port
                } else {
                    args.plain_port
                };
                Self::Connect(Listener::new(port).context("listening on loopback")?)
            }
            Call::Exec => Self::Exec {
                argv0: CString::new(pick(LABELLED_NAME, PROGRAM))?,
            },
        })
    }

    /// Nanoseconds per call.
    fn run(&mut self, iterations: usize) -> Result<f64> {
        let ns = match self {
            Self::Getppid => getppid(iterations),
            Self::Open(path) => open(path, iterations)?,
            Self::Connect(listener) => listener.connect(iterations)?,
            Self::Exec { argv0 } => exec(argv0, iterations)?,
        };
        Ok(ns / iterations as f64)
    }
}

fn path(path: &Path) -> Result<CString> {
    Ok(CString::new(path.as_os_str().as_encoded_bytes())?)
}

fn ns_since(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64
}

fn getppid(iterations: usize) -> f64 {
    let start = Instant::now();
    for _ in 0..iterations {
        // SAFETY: takes nothing and cannot fail.
        unsafe { libc::syscall(libc::SYS_getppid) };
    }
    ns_since(start)
}

fn open(path: &CString, iterations: usize) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..iterations {
        // SAFETY: the path is a string that outlives the call; the descriptor is closed once.
        unsafe {
            let fd = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
            if fd < 0 {
                bail!("open: {}", io::Error::last_os_error());
            }
            libc::close(fd);
        }
    }
    Ok(ns_since(start))
}

/// A socket that listens, in the measured process itself: so no other CPU takes part.
struct Listener {
    fd: libc::c_int,
    address: libc::sockaddr_in,
}

impl Listener {
    fn new(port: u16) -> io::Result<Self> {
        let check = |result: libc::c_int| match result {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(fd),
        };
        // SAFETY: an address of all zeros is one.
        let mut address: libc::sockaddr_in = unsafe { zeroed() };
        address.sin_family = libc::AF_INET as u16;
        address.sin_port = port.to_be();
        address.sin_addr.s_addr = libc::INADDR_LOOPBACK.to_be();
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes numbers.
        let fd = check(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
        let listener = Self { fd, address };
        // The bench holds the port with a socket of its own; see `Ports`.
        set_option(fd, libc::SO_REUSEPORT, 1_i32)?;
        // SAFETY: the address is as long as is said.
        check(unsafe { libc::bind(fd, (&raw const address).cast(), listener.address_len()) })?;
        // SAFETY: takes numbers.
        check(unsafe { libc::listen(fd, 2 * BATCH as libc::c_int) })?;
        Ok(listener)
    }

    fn address_len(&self) -> libc::socklen_t {
        size_of::<libc::sockaddr_in>() as libc::socklen_t
    }

    /// Only connect and close are timed: the sockets are made before, the server's side is accepted
    /// and closed after. A close resets the connection, so that no port is left waiting.
    fn connect(&self, iterations: usize) -> Result<f64> {
        let mut ns = 0.0;
        let mut left = iterations;
        while left > 0 {
            let batch = left.min(BATCH);
            left -= batch;
            let mut sockets = [-1; BATCH];
            for socket in &mut sockets[..batch] {
                // SAFETY: takes numbers.
                *socket = unsafe {
                    libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)
                };
                let reset = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                set_option(*socket, libc::SO_LINGER, reset).context("socket")?;
            }
            let start = Instant::now();
            for socket in &sockets[..batch] {
                // SAFETY: the address is as long as is said; the descriptor is closed once.
                unsafe {
                    let address = (&raw const self.address).cast();
                    if libc::connect(*socket, address, self.address_len()) != 0 {
                        bail!("connect: {}", io::Error::last_os_error());
                    }
                    libc::close(*socket);
                }
            }
            ns += ns_since(start);
            self.clear();
        }
        Ok(ns)
    }

    fn clear(&self) {
        loop {
            // SAFETY: no address is asked for; the descriptor is closed once.
            unsafe {
                let fd = libc::accept4(self.fd, ptr::null_mut(), ptr::null_mut(), 0);
                if fd < 0 {
                    break;
                }
                libc::close(fd);
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // SAFETY: it is ours and closed once.
        unsafe { libc::close(self.fd) };
    }
}

fn set_option<T>(fd: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    // SAFETY: the value is as long as is said.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            name,
            (&raw const value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn exec(argv0: &CString, iterations: usize) -> Result<f64> {
    let program = CString::new(PROGRAM)?;
    let argv = [argv0.as_ptr().cast_mut(), ptr::null_mut()];
    let start = Instant::now();
    for _ in 0..iterations {
        let mut pid = 0;
        let mut status = 0;
        // SAFETY: the arrays end with a null pointer and outlive the call; this process has one
        // thread, so nobody changes the environment meanwhile.
        let failed = unsafe {
            libc::posix_spawn(
                &raw mut pid,
                program.as_ptr(),
                ptr::null(),
                ptr::null(),
                argv.as_ptr(),
                libc::environ,
            )
        };
        if failed != 0 {
            bail!("{PROGRAM}: {}", io::Error::from_raw_os_error(failed));
        }
        // SAFETY: `pid` is our child, and `status` outlives the call.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid || status != 0 {
            bail!("{PROGRAM}: ended with {status:#x}");
        }
    }
    Ok(ns_since(start))
}
