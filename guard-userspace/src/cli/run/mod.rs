//! `guardctl run`: a command as the root of a new session.
//!
//! The child is forked first and waits, having run nothing of the command; guardd makes it a
//! session; only then is it let go and becomes the command. So there is no moment at which the
//! command runs unwatched, and where guardd refuses, or guardctl dies, nothing has run at all.
//! guardctl itself stays outside the session.

mod child;
mod signals;
#[cfg(test)]
mod tests;

use std::{
    ffi::{CString, OsString},
    fs::File,
    io::{self, IsTerminal as _, Read as _, Write as _},
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    path::Path,
};

use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, WaitId, WaitIdOptions, WaitOptions, WaitStatus},
};

use self::child::{Report, Waiting};
use crate::{
    cli::{account::Account, args::RunArgs, client, escape, failure::Failure},
    intent::Intent,
    wire::{Reply, Request},
};

/// Runs the command and gives the status to exit with: the command's own, or 128 and the number of
/// the signal that ended it. Must be called while the process has one thread, since it forks.
pub fn run(socket: &Path, args: &RunArgs) -> Result<u8, Failure> {
    let account = args.user.as_deref().map(become_user).transpose()?;
    let argv: Vec<CString> = args
        .command
        .iter()
        .map(|arg| CString::new(arg.clone().into_vec()))
        .collect::<Result<_, _>>()
        .map_err(|_| Failure::Invalid("an argument holds a NUL byte: leave it out".into()))?;
    let Some(program) = args.command.first() else {
        return Err(Failure::Invalid(
            "no command given: guardctl run -- CMD…".into(),
        ));
    };

    if let Some(text) = &args.intent
        && !args.yes
        && !is_understood(text)?
    {
        return Err(Failure::No(
            "not begun: say it otherwise, or in .guard/intent.toml".into(),
        ));
    }
    let (go_read, go_write) = pipe()?;
    let (report_read, report_write) = pipe()?;
    let waiting = Waiting {
        go: go_read,
        report: report_write,
        argv: &argv,
        account: account.as_ref(),
    };
    // The child closes these two; were its copy of `go_write` left open, it would never see that
    // guardctl is gone.
    let child =
        child::fork(waiting, [&go_write, &report_read]).map_err(|source| Failure::System {
            what: "cannot fork",
            source,
        })?;

    let session = match begin_session(socket, args, program, child) {
        Ok(session) => session,
        Err(failure) => {
            drop(go_write);
            // It ends by itself, having run nothing; when this returns it is gone for certain.
            let _ = reap(child);
            return Err(failure);
        }
    };

    // Until here a signal to guardctl ends guardctl, and with it the child. From here on guardctl
    // stands between its caller and the command.
    signals::forward_to(child);
    let released = File::from(go_write).write_all(format!("{session}\n").as_bytes());
    let report = if released.is_ok() {
        Report::read(File::from(report_read))
    } else {
        None
    };
    let status = reap(child).map_err(|source| Failure::System {
        what: "cannot wait for the command",
        source,
    })?;
    match report {
        Some(report) => Err(report.failure(&program.to_string_lossy())),
        None => Ok(exit_status(status)),
    }
}

/// Says what is made of an intent, and on a terminal asks whether that is meant.
fn is_understood(text: &str) -> Result<bool, Failure> {
    let says = escape::text(&Intent::understand(text).says());
    let (stdin, mut stderr) = (io::stdin(), io::stderr());
    if !stdin.is_terminal() || !stderr.is_terminal() {
        return Ok(true);
    }
    let failed = |source| Failure::System {
        what: "cannot ask on the terminal",
        source,
    };
    write!(stderr, "guardctl: understood: {says}\nGo on? [Y/n] ").map_err(failed)?;
    stderr.flush().map_err(failed)?;
    // Byte by byte: what is typed behind the answer is the command's.
    let mut answer = Vec::new();
    let mut byte = [0];
    while rustix::io::read(&stdin, &mut byte).map_err(|error| failed(error.into()))? == 1
        && byte[0] != b'\n'
    {
        answer.push(byte[0]);
    }
    let answer = String::from_utf8_lossy(&answer).trim().to_lowercase();
    Ok(matches!(answer.as_str(), "" | "y" | "yes"))
}

/// Asks guardd to make the waiting child a session.
fn begin_session(
    socket: &Path,
    args: &RunArgs,
    program: &OsString,
    child: Pid,
) -> Result<String, Failure> {
    let base = Path::new(program).file_name().unwrap_or(program);
    let agent = args
        .agent
        .clone()
        .unwrap_or_else(|| base.to_string_lossy().into_owned());
    let request = Request::Adopt {
        pid: child.as_raw_pid().unsigned_abs(),
        agent: Some(agent),
        intent: args.intent.clone(),
        persona: args.persona.clone(),
        run: true,
    };
    let mut conversation = client::Conversation::open(socket, &request)?;
    match conversation.next()? {
        Reply::Adopted { session, note, .. } if is_session_id(&session) => {
            if let Some(note) = note {
                // Nobody is left to tell where this fails.
                let _ = writeln!(io::stderr(), "guardctl: {}", escape::text(&note));
            }
            Ok(session)
        }
        _ => Err(conversation.unexpected("with something else than a session".into())),
    }
}

/// The id goes into the command's environment, and over a pipe where a line break ends it.
fn is_session_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && text.chars().all(|c| c.is_ascii_graphic())
}

fn become_user(name: &str) -> Result<Account, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Forbidden(format!(
            "--user {name}: only root may run as another user: use sudo, or leave --user out"
        )));
    }
    match Account::by_name(name) {
        Ok(Some(account)) => Ok(account),
        Ok(None) => Err(Failure::Invalid(format!(
            "--user {name}: no such user: give a login name"
        ))),
        Err(source) => Err(Failure::System {
            what: "cannot look up the user",
            source,
        }),
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|error| Failure::System {
        what: "cannot make a pipe",
        source: error.into(),
    })
}

/// Waits for the child's end. Signals stop being forwarded before its pid can become another's.
fn reap(child: Pid) -> io::Result<WaitStatus> {
    // The first wait leaves it a zombie, which keeps the pid.
    rustix::io::retry_on_intr(|| {
        rustix::process::waitid(
            WaitId::Pid(child),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )
    })?;
    signals::forward_no_more();
    let status =
        rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()))?;
    status
        .map(|(_, status)| status)
        .ok_or_else(|| io::Error::other("it is no child of this process"))
}

/// As a shell tells it.
fn exit_status(status: WaitStatus) -> u8 {
    let code = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

impl Report {
    /// The child's last words, or `None` where there were none because it became the command.
    fn read(mut pipe: File) -> Option<Self> {
        let mut bytes = Vec::new();
        match pipe.read_to_end(&mut bytes) {
            Ok(_) => Self::from_bytes(&bytes),
            Err(_) => None,
        }
    }

    fn failure(self, program: &str) -> Failure {
        let (Self::User(errno) | Self::Exec(errno)) = self;
        let source = io::Error::from_raw_os_error(errno);
        match self {
            Self::User(_) => Failure::System {
                what: "cannot become the user",
                source,
            },
            Self::Exec(_) => Failure::NotRun {
                program: program.to_owned(),
                hint: match errno {
                    libc::ENOENT => {
                        "give its path, or put it (or what its first line names) on PATH"
                    }
                    libc::EACCES => "make it executable, and its directories passable",
                    libc::E2BIG => "shorten its arguments or its environment",
                    _ => "it is not a program for this machine",
                },
                source,
            },
        }
    }
}
