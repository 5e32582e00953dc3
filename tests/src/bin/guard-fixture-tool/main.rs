//! The program that the tests put under guard. It does what it is told, one command a line on stdin,
//! and answers each with one line of JSON; or, with a command on its own command line, it does that
//! one and exits.
//!
//! A command that guard holds has no answer until the hold ends, which is what tests look at.

mod calls;
mod forks;
mod net;
mod sieges;
mod storms;

use std::{
    env, fs,
    io::{self, Write as _},
    os::{
        fd::BorrowedFd,
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Command, Stdio},
    thread,
};

use serde_json::{Value, json};

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    if words.is_empty() {
        serve();
        std::process::exit(0);
    }
    let answer = obey(&words.iter().map(String::as_str).collect::<Vec<_>>());
    say(&answer);
}

/// Answers commands until stdin ends.
fn serve() {
    while let Some(line) = next_line() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words == ["leader-exit"] {
            leave_to_another_thread();
        }
        say(&obey(&words));
    }
}

/// Byte by byte: what is behind the line belongs to the program that this one may become.
fn next_line() -> Option<String> {
    // SAFETY: nothing closes stdin while this program runs.
    let stdin = unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) };
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        match rustix::io::read(stdin, &mut byte) {
            Ok(0) => return None,
            Ok(_) if byte == *b"\n" => return String::from_utf8(line).ok(),
            Ok(_) => line.push(byte[0]),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

fn say(answer: &Value) {
    let mut out = io::stdout().lock();
    // Nobody listens any more: then there is nobody to tell.
    if writeln!(out, "{answer}")
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(1);
    }
}

fn obey(words: &[&str]) -> Value {
    let result = match words {
        ["open", how, path] => calls::open(how, path),
        ["reopen", path] => calls::reopen(path),
        ["tcp", to, text] => net::tcp(to, text),
        ["segments", to, hex @ ..] => net::segments(to, hex, None),
        ["segments-of", most, to, hex @ ..] => net::segments(to, hex, most.parse().ok()),
        ["quic", to, host, ca] => net::quic(to, host, ca),
        ["https", to, host, ca, method] => net::https(to, host, ca, method),
        ["mptcp", to, hex] => net::mptcp(to, hex),
        ["tcp-nonblocking", to, text] => net::tcp_nonblocking(to, text),
        ["udp-connected", to, text] => net::udp_connected(to, text),
        ["udp-sendto", to, text] => net::udp_sendto(to, text),
        ["unix", path, text] => net::unix(path, text),
        ["serve", path] => net::serve(path),
        ["ask", path, words @ ..] => net::ask(path, &words.join(" ")),
        ["fork", how, path] => forks::one(how, path),
        ["fork-as", pid, path] => forks::with_pid(pid, path),
        ["storm", count, threads, path] => forks::storm(count, threads, path),
        ["idle"] => forks::idle(),
        ["signal", pid] => signal(pid),
        ["signal-children"] => forks::signal_children(),
        ["time-opens", path] => storms::time_opens(path),
        ["crowd", count] => storms::crowd(count),
        ["gale", seconds, noted, secret, allowed, denied] => {
            storms::gale(seconds, noted, secret, allowed, denied)
        }
        ["idle-tree"] => forks::idle_tree(),
        ["siege-open", path, enough, pause_us] => sieges::open(path, enough, pause_us),
        ["siege-tcp", to, enough, pause_us] => sieges::tcp(to, enough, pause_us),
        ["run", program, args @ ..] => run(program, args),
        ["spawn", program, args @ ..] => spawn(program, args),
        ["exec", program, args @ ..] => Err(Command::new(program).args(args).exec()),
        ["thread-exec", program, args @ ..] => thread_exec(program, args),
        ["destroy" | "plan", path, ..] | ["write", path, ..] => {
            fs::write(path, words.join(" ")).map(|()| json!({}))
        }
        ["copy", from, to] => fs::copy(from, to).map(|_| json!({})),
        ["rename", from, to] => fs::rename(from, to).map(|()| json!({})),
        ["cd", dir] => env::set_current_dir(dir).map(|()| json!({})),
        ["env", name] => Ok(json!({ "value": env::var(name).ok() })),
        ["who"] => who(),
        ["exit", status] => std::process::exit(status.parse().unwrap_or(70)),
        _ => Ok(json!({ "error": format!("no such command: {words:?}") })),
    };
    result.unwrap_or_else(
        |error| json!({ "errno": error.raw_os_error().unwrap_or(-1), "error": error.to_string() }),
    )
}

/// SIGWINCH, which does nothing to most.
fn signal(pid: &str) -> io::Result<Value> {
    let pid = pid.parse().map_err(io::Error::other)?;
    // SAFETY: takes numbers.
    match unsafe { libc::kill(pid, libc::SIGWINCH) } {
        0 => Ok(json!({})),
        _ => Err(io::Error::last_os_error()),
    }
}

fn who() -> io::Result<Value> {
    Ok(json!({
        "pid": std::process::id(),
        "ppid": std::os::unix::process::parent_id(),
        "uid": rustix::process::getuid().as_raw(),
        "cwd": env::current_dir()?,
    }))
}

/// Runs a program to its end. stdin is empty, or it would read our commands.
fn run(program: &str, args: &[&str]) -> io::Result<Value> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    Ok(json!({
        "status": output.status.code(),
        "signal": output.status.signal(),
        "stdout": String::from_utf8_lossy(&output.stdout),
        "stderr": String::from_utf8_lossy(&output.stderr),
    }))
}

/// Starts a program and does not wait for it.
fn spawn(program: &str, args: &[&str]) -> io::Result<Value> {
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(json!({ "pid": child.id() }))
}

/// Executes a program from a thread that does not lead its group: the kernel gives that thread the
/// leader's pid.
fn thread_exec(program: &str, args: &[&str]) -> io::Result<Value> {
    thread::scope(|scope| {
        scope
            .spawn(|| Err(Command::new(program).args(args).exec()))
            .join()
    })
    .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// Ends the thread that leads the group and goes on in another.
fn leave_to_another_thread() {
    thread::spawn(|| {
        say(&json!({}));
        serve();
        std::process::exit(0);
    });
    // SAFETY: ends this thread alone; it holds no lock.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}
