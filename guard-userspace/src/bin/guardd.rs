//! guardd: the daemon. Reads its options, takes what it needs in the order in which a failure leaves
//! nothing behind, and hands over to [`guard::engine`].

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::Parser as _;
use guard::{
    daemon::{Arguments, ModeName},
    engine::{End, Engine, Options, load_policy},
    herald,
    journal::Journal,
    kernel::{Kernel, Settings, Tier, forget_start, pins::Pins},
    policy::{Mode, Policy},
    process,
    sentinel::{self, Sentinel},
    server,
    service::Service,
};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let first = words.next();
    if first.as_ref().is_some_and(|word| word == herald::ARGUMENT) {
        log_to_stderr();
        let socket = words.next().unwrap_or_default();
        return exit(herald::run(&socket.to_string_lossy()), "guardd-herald");
    }
    if first.is_some_and(|word| word == sentinel::ARGUMENT) {
        let dir = words.next().unwrap_or_default();
        let pins = words.next().unwrap_or_default();
        let guardd = words
            .next()
            .and_then(|word| word.to_str()?.parse().ok())
            .unwrap_or_default();
        return exit(
            sentinel::run(Path::new(&dir), Path::new(&pins), guardd),
            "guardd-sentinel",
        );
    }
    let arguments = Arguments::parse();
    log_to_stderr();
    exit(start(arguments), "guardd")
}

fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("GUARD_LOG")
                .unwrap_or_else(|_| "info".into()),
        )
        .init();
}

fn exit(result: anyhow::Result<()>, name: &str) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {}", one_line(&error));
            // A wrong policy is a wrong call.
            if error.downcast_ref::<guard::policy::PolicyError>().is_some() {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// The error and its causes, but those that it names itself already.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = text.lines().next().unwrap_or_default();
        // A verifier's log is not for here: what matters of it is in the error around it.
        if line.is_empty() {
            line.push_str(text);
        } else if !line.contains(text)
            && cause
                .downcast_ref::<aya::programs::ProgramError>()
                .is_none()
        {
            line.push_str(": ");
            line.push_str(text);
        }
    }
    line
}

fn start(arguments: Arguments) -> anyhow::Result<()> {
    let mut options = Options {
        policy: arguments.policy,
        mode: arguments.mode.map(|mode| match mode {
            ModeName::Observe => Mode::Observe,
            ModeName::Enforce => Mode::Enforce,
        }),
        state_dir: arguments.state_dir,
        own: vec![arguments.socket.clone()],
        passwd: arguments.passwd,
        digest_every: arguments.digest_every,
    };
    let policy = load_policy(&options)?;
    if arguments.check {
        return check(&policy);
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "not root: loading kernel programs needs root: run it with sudo, or start it with 'systemctl start guard'"
        );
    }
    if !process::in_initial_pid_namespace() {
        bail!(
            "pid namespace: guardd runs in a container's, where the kernel's pids mean other processes: run it on the host"
        );
    }
    // A file-size limit must come back as an error, not end the watch.
    // SAFETY: ignoring a signal has no precondition.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    server::check(&arguments.socket)?;
    let opened = Journal::open(&options.state_dir)?;
    if let Some(torn) = opened.torn {
        tracing::warn!("{torn}");
    }
    let settings = Settings {
        btf: arguments.btf,
        lineage_size: arguments.lineage_size,
        tier: arguments.tier.map(Tier::from),
    };
    let (pins, not_pinned) = match Pins::open(&options.state_dir) {
        Ok(pins) => (Some(pins), None),
        Err(why) => (None, Some(why)),
    };
    let pinned = pins.as_ref().map(|pins| pins.own().to_owned());
    // Their directory, that of all guardds with this state, and the file system.
    for own in pinned.iter().flat_map(|own| own.ancestors().take(3)) {
        options.own.push(own.to_owned());
    }
    // Before any thread: it may move guardd to a mount namespace of its own.
    let (mut kernel, rings) = Kernel::load(&settings, pins)?;
    if let Some(why) = not_pinned {
        tracing::warn!("nothing is enforced while guardd is down: {why}");
        kernel.hooks.cannot_pin(why);
    }
    if let Err(error) = spare_from_oom() {
        kernel.hooks.also_not(format!(
            "anything once memory has run out: the kernel may kill guardd for it ({error})"
        ));
    }
    if let Err(error) = go_before_agents() {
        kernel.hooks.also_not(format!(
            "tracepoints while guardd is at its tables and has lost its CPU, on a kernel that preempts: it may not run \
             before others ({error})"
        ));
    }
    let tables = kernel.tables.stopped_tables();
    let sentinel = Sentinel::start(&options.state_dir, pinned.as_deref(), tables)
        .context("starting the sentinel process")?;
    kernel.look_out();
    for pid in [std::process::id(), sentinel.pid()] {
        let start = process::stat(pid).map_or(0, |stat| stat.id.start);
        kernel.tables.guard_process(pid, start)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .context("starting the event loop")?;
    let ended = runtime.block_on(run(
        &arguments.socket,
        options,
        policy,
        opened.journal,
        kernel,
        rings,
    ));
    if let Ok(End::MakesWay) = ended {
        // It looks after who is held until the next one does.
        sentinel.leave();
        return Ok(());
    }
    sentinel.dismiss();
    ended.map(drop)
}

/// When memory runs out, others go first: an agent that takes all of it must not end the watch. The sentinel, a
/// child, inherits it.
fn spare_from_oom() -> std::io::Result<()> {
    const PATH: &str = "/proc/self/oom_score_adj";
    /// Next to never; a guardd that has gone mad can still be killed.
    const SPARED: i32 = -900;
    let now = std::fs::read_to_string(PATH)?;
    if now.trim().parse().is_ok_and(|now: i32| now <= SPARED) {
        return Ok(());
    }
    std::fs::write(PATH, SPARED.to_string())
}

/// Runs before every ordinary process; the sentinel, a child, inherits it. While a thread is in a call of bpf(2) on a
/// table, the kernel runs no tracepoint's program on its CPU; were it preempted there, by agents that keep the
/// machine busy, their calls would pass by.
/// <https://github.com/torvalds/linux/blob/v6.12/include/linux/bpf.h#L1996>
fn go_before_agents() -> std::io::Result<()> {
    // By the calls themselves: musl's functions of these names only say that they are not there.
    // The service manager may have seen to it already, and taken the right to do it here.
    // SAFETY: it asks for this thread's own policy.
    let now = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
    if [libc::SCHED_RR, libc::SCHED_FIFO]
        .map(i64::from)
        .contains(&now)
    {
        return Ok(());
    }
    // The kernel's `struct sched_param` is the priority alone.
    let lowest: libc::c_int = 1;
    // SAFETY: a parameter of the kernel's own shape, for this thread, which is the only one.
    match unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_RR,
            &raw const lowest,
        )
    } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn check(policy: &Policy) -> anyhow::Result<()> {
    println!(
        "{}: ok: {} agents, {} labels, {} rules",
        policy.source(),
        policy.agents.len(),
        policy.labels.len(),
        policy.rules.len()
    );
    Ok(())
}

async fn run(
    socket: &Path,
    options: Options,
    policy: Policy,
    journal: Journal,
    kernel: Kernel,
    rings: guard::kernel::Rings,
) -> anyhow::Result<End> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut make_way = signal(SignalKind::user_defined2())?;
    // Before anything is watched or recorded; nobody can connect yet.
    let bound = server::bind(socket)?;
    let lineage = kernel.tables.lineage()?;
    let service = Service::from_environment();
    let started = Engine::start(options, policy, journal, kernel, rings, service);
    let (engine, handle) = match started {
        Ok(started) => started,
        Err(error) => {
            let _ = std::fs::remove_file(socket);
            return Err(error.into());
        }
    };
    let listener = bound.listen()?;
    let heralding = tokio::spawn(herald::supervise(handle.clone(), socket.into()));
    let events = handle.clone();
    let serving = tokio::spawn(server::serve(listener, handle, lineage));
    tracing::info!(socket = %socket.display(), "ready");
    forget_start();
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => End::Stops,
            _ = interrupt.recv() => End::Stops,
            _ = make_way.recv() => End::MakesWay,
        }
    };
    let ended = engine
        .run(stop, async || {
            hangup.recv().await;
        })
        .await;
    serving.abort();
    herald::farewell(&events).await;
    // Its connections are closed with this, and so it ends.
    heralding.abort();
    // Another daemon may have been told to use it meanwhile; removing our own name is what matters.
    let _ = std::fs::remove_file(socket);
    Ok(ended)
}
