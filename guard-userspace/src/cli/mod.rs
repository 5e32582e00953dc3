//! guardctl: everything that a person or a script does with guard.
//!
//! A command line becomes one [`crate::wire::Request`], its reply becomes text for people or JSON
//! for programs, and what went wrong becomes one line and one exit status. Nothing is decided here:
//! that is guardd's part, which knows its peer from the kernel and not from what guardctl says.

pub(crate) mod account;
mod args;
mod baseline;
mod ci;
mod client;
mod digest;
pub(crate) mod escape;
mod failure;
mod groups;
mod journal;
mod offline;
pub(crate) mod render;
mod run;
mod sarif;
mod scan;
mod screen;
#[cfg(test)]
mod tests;
mod top;

use std::{
    env,
    ffi::OsString,
    io::{self, BufWriter, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

pub use self::{
    args::InitArgs,
    offline::{
        DoctorCheck, DoctorReport, Events, Lacking, Offline, TestCase, TestEvent, TestReport,
        VerifyReport,
    },
    scan::{Finding, ScanArgs, ScanReport, Unreadable},
};
use self::{
    args::{Cli, Command, LeaseArgs, NotACommand, PolicyCommand},
    client::Conversation,
    failure::Failure,
    screen::Screen,
};
use crate::{
    journal::Against,
    policy::Mode,
    wire::{Reply, Request, Terms},
};

/// The definition of the command line, for man pages and completions.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Does what this process's command line says. Must be called while the process has one thread:
/// `run` forks.
pub fn main(offline: &Offline) -> ExitCode {
    let argv: Vec<OsString> = env::args_os().collect();
    let screen = Screen::of_stdout();
    let mut out = BufWriter::new(io::stdout().lock());
    ExitCode::from(run_line(
        &argv,
        offline,
        screen,
        &mut out,
        &mut io::stderr(),
    ))
}

/// Does what a command line says and returns the exit status.
fn run_line(
    argv: &[OsString],
    offline: &Offline,
    screen: Screen,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let (json, done) = match Cli::read(argv) {
        Ok(cli) => (
            cli.json,
            Guardctl {
                cli: &cli,
                offline,
                screen,
                out: &mut *out,
            }
            .run(),
        ),
        Err(NotACommand::Answer(text)) => (
            false,
            out.write_all(text.as_bytes())
                .map(|()| 0)
                .map_err(Failure::from),
        ),
        Err(NotACommand::Usage(text)) => (args::asks_for_json(argv), Err(Failure::Invalid(text))),
    };
    // What is still in a buffer may fail to be written too, and must not be lost in silence.
    let done = done.and_then(|status| out.flush().map(|()| status).map_err(Failure::from));
    match done {
        Ok(status) => status,
        Err(failure) if failure.is_broken_pipe() => 0,
        Err(failure) => {
            // Nobody is left to tell if this fails as well; the status says it.
            let _ = match failure {
                Failure::Output(_) => err.write_all(failure.for_people().as_bytes()),
                _ if json => writeln!(out, "{}", failure.json()),
                _ => err.write_all(failure.for_people().as_bytes()),
            };
            let _ = out.flush();
            failure.exit_status()
        }
    }
}

/// One call of guardctl.
struct Guardctl<'a> {
    cli: &'a Cli,
    offline: &'a Offline,
    screen: Screen,
    out: &'a mut dyn Write,
}

impl Guardctl<'_> {
    fn run(mut self) -> Result<u8, Failure> {
        let request = match &self.cli.command {
            Command::Ci(command) => return self.ci(command),
            Command::Baseline(command) => return self.baseline(command),
            Command::Run(args) => return run::run(&self.cli.socket, args),
            Command::Events {
                follow,
                session,
                kinds,
                format,
            } => {
                let wanted = journal::Wanted {
                    follow: *follow,
                    session: session.clone(),
                    kinds: kinds.clone(),
                    format: *format,
                };
                return self.events(wanted);
            }
            Command::Top => return top::run(&self.cli.socket, self.cli.json, self.screen),
            Command::Doctor => return self.doctor(),
            Command::Scan(args) => return self.scan(args),
            Command::Digest { since } => return self.digest(*since),
            Command::Init(args) => {
                return self.said((self.offline.init)(args).map_err(Failure::No));
            }
            Command::Policy(PolicyCommand::Schema) => {
                // A document of its own, with --json as without.
                self.out.write_all((self.offline.schema)().as_bytes())?;
                return Ok(0);
            }
            Command::Verify {
                state_dir,
                keys,
                expect,
            } => {
                let against = Against {
                    keys: keys.clone(),
                    expect: expect.clone(),
                };
                return self.verify(state_dir, &against);
            }
            Command::Report {
                session,
                format,
                state_dir,
            } => return self.report(session, *format, state_dir.as_deref()),
            Command::Policy(PolicyCommand::Check { file }) => {
                return self.said((self.offline.policy_check)(file).map_err(Failure::Invalid));
            }
            Command::Replay {
                journal,
                policy,
                session,
            } => return self.replay(journal, policy, session.as_deref()),
            Command::Policy(PolicyCommand::Suggest { journal, policy }) => {
                return self.suggest(journal, policy.as_deref());
            }
            Command::Request { lease, wait: true } => return self.request_and_wait(lease),
            Command::Policy(PolicyCommand::Test { file, policy }) => {
                return self.policy_test(file, policy.as_deref());
            }
            command => request(command),
        };
        let Some(request) = request else { return Ok(0) };
        let mut conversation = Conversation::open(&self.cli.socket, &request)?;
        let reply = conversation.next()?;
        let text = if self.cli.json {
            format!("{}\n", payload(&reply)?)
        } else {
            self.for_people(&reply)
        };
        self.out.write_all(text.as_bytes())?;
        Ok(0)
    }

    /// A reply as text. Every reply has one, whatever was asked: guardd decides what it answers.
    fn for_people(&self, reply: &Reply) -> String {
        let screen = &self.screen;
        match reply {
            Reply::Done { message } => format!("{}\n", escape::text(message)),
            Reply::Error(failure) => format!("{}\n", escape::text(&failure.message)),
            Reply::Status(status) => render::status(screen, status),
            Reply::Sessions { sessions } => render::sessions(screen, sessions),
            Reply::Show(detail) => render::show(screen, detail),
            Reply::Event(event) => format!("{}\n", render::event_line(screen, event, false)),
            Reply::Pending {
                holds,
                left_out,
                asked,
            } => render::pending(screen, holds, *left_out, asked, &self.guardctl()),
            Reply::Adopted {
                session, processes, ..
            } => {
                let (session, s) = (
                    escape::text(session),
                    if *processes == 1 { "" } else { "es" },
                );
                format!("{session}: {processes} process{s}\n")
            }
            Reply::Granted { grant } => format!("{}\n", render::grant(grant)),
            Reply::Grants { grants } => render::grants(screen, grants),
            Reply::Policy {
                source,
                text,
                not_enforced,
            } => render::policy(screen.width.is_some(), source, text, not_enforced),
            Reply::Explain { rules } => render::explain(screen, rules),
            Reply::Baselines { baselines } => baseline::show(screen, baselines),
            // guardd says this to its own child alone.
            Reply::Herald(_) => String::new(),
        }
    }

    /// How to call this program so that it reaches the same daemon, for commands to copy.
    fn guardctl(&self) -> String {
        crate::approval::guardctl(&self.cli.socket)
    }

    fn doctor(&mut self) -> Result<u8, Failure> {
        let report = (self.offline.doctor)();
        let text = if self.cli.json {
            let report =
                serde_json::to_string(&report).map_err(|error| Failure::No(error.to_string()))?;
            format!("{}\n", escape::json(&report))
        } else {
            render::doctor(&self.screen, &report)
        };
        self.out.write_all(text.as_bytes())?;
        Ok(if report.ok() { 0 } else { 1 })
    }

    fn replay(
        &mut self,
        journal: &Path,
        policy: &Path,
        session: Option<&str>,
    ) -> Result<u8, Failure> {
        let events = (self.offline.journal)(journal).map_err(Failure::No)?;
        let found = (self.offline.replay)(events, policy, session).map_err(Failure::Invalid)?;
        let text = if self.cli.json {
            let found =
                serde_json::to_string(&found).map_err(|error| Failure::No(error.to_string()))?;
            format!("{}\n", escape::json(&found))
        } else {
            render::replayed(policy, &found)
        };
        self.out.write_all(text.as_bytes())?;
        Ok(u8::from(!found.differences.is_empty()))
    }

    fn policy_test(&mut self, file: &Path, policy: Option<&Path>) -> Result<u8, Failure> {
        let report = (self.offline.policy_test)(file, policy).map_err(Failure::Invalid)?;
        let text = if self.cli.json {
            let report =
                serde_json::to_string(&report).map_err(|error| Failure::No(error.to_string()))?;
            format!("{}\n", escape::json(&report))
        } else {
            render::tested(file, &report)
        };
        self.out.write_all(text.as_bytes())?;
        Ok(u8::from(report.failed > 0))
    }

    /// Prints what an offline command that went well has to say.
    fn suggest(&mut self, journal: &Path, policy: Option<&Path>) -> Result<u8, Failure> {
        let events = (self.offline.journal)(journal).map_err(Failure::No)?;
        let found = (self.offline.suggest)(events, policy).map_err(Failure::Invalid)?;
        let text = if self.cli.json {
            let found =
                serde_json::to_string(&found).map_err(|error| Failure::No(error.to_string()))?;
            format!("{}\n", escape::json(&found))
        } else {
            render::suggested(&found)
        };
        self.out.write_all(text.as_bytes())?;
        Ok(0)
    }

    /// Asks for a lease and waits for a person's answer, which is the exit status.
    fn request_and_wait(&mut self, lease: &LeaseArgs) -> Result<u8, Failure> {
        /// A person takes seconds.
        const LOOK_EVERY: Duration = Duration::from_millis(250);
        let socket = &self.cli.socket;
        let ask = Request::Ask {
            terms: terms(lease),
        };
        let mut reply = Conversation::open(socket, &ask)?.next()?;
        let Reply::Granted { grant } = &reply else {
            return Err(Failure::No("guardd answered something else".into()));
        };
        let id = grant.id.clone();
        if !self.cli.json {
            writeln!(self.out, "{}", render::grant(grant))?;
            self.out.flush()?;
        }
        while let Reply::Granted { grant } = &reply
            && grant.state == "asked"
        {
            std::thread::sleep(LOOK_EVERY);
            let all = Conversation::open(socket, &Request::Grants)?.next()?;
            let Reply::Grants { grants } = all else {
                return Err(Failure::No("guardd answered something else".into()));
            };
            let Some(grant) = grants.into_iter().find(|grant| grant.id == id) else {
                return Err(Failure::No(format!(
                    "{id}: guardd does not know it any more"
                )));
            };
            reply = Reply::Granted { grant };
        }
        let Reply::Granted { grant } = &reply else {
            return Ok(1);
        };
        if self.cli.json {
            writeln!(self.out, "{}", payload(&reply)?)?;
        } else {
            writeln!(self.out, "{}", render::grant(grant))?;
        }
        Ok(u8::from(grant.state != "active"))
    }

    fn said(&mut self, result: Result<String, Failure>) -> Result<u8, Failure> {
        let message = result?;
        let text = if self.cli.json {
            escape::json(&serde_json::json!({ "message": message.trim_end() }).to_string())
        } else {
            escape::lines(message.trim_end())
        };
        writeln!(self.out, "{text}")?;
        Ok(0)
    }
}

/// What a lease is to allow. A path is meant from where the command was called.
fn terms(lease: &LeaseArgs) -> Terms {
    Terms {
        label: lease.label.clone(),
        for_ms: milliseconds(lease.duration),
        reason: lease.reason.clone(),
        path: lease
            .path
            .as_ref()
            .map(|path| match std::path::absolute(path) {
                Ok(path) => path.display().to_string(),
                Err(_) => path.display().to_string(),
            }),
        address: lease.address.clone(),
        operations: lease.operations.clone(),
        uses: lease.uses,
    }
}

fn milliseconds(duration: Option<Duration>) -> Option<u64> {
    duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// What to ask guardd for; `None` for the commands that are more than one question.
fn request(command: &Command) -> Option<Request> {
    Some(match command {
        Command::Status => Request::Status,
        Command::Sessions { all } => Request::Sessions { all: *all },
        Command::Show { session } => Request::Show {
            session: session.clone(),
        },
        Command::Pending => Request::Pending,
        Command::Approve {
            id,
            duration,
            all_like: Some(upto),
        } => Request::AnswerAll {
            id: id.clone(),
            upto: upto.clone(),
            approve: true,
            for_ms: milliseconds(*duration),
            reason: None,
        },
        Command::Deny {
            id,
            reason,
            all_like: Some(upto),
        } => Request::AnswerAll {
            id: id.clone(),
            upto: upto.clone(),
            approve: false,
            for_ms: None,
            reason: reason.clone(),
        },
        Command::Approve { id, duration, .. } => Request::Approve {
            id: id.clone(),
            for_ms: milliseconds(*duration),
        },
        Command::Deny { id, reason, .. } => Request::Deny {
            id: id.clone(),
            reason: reason.clone(),
        },
        Command::Pause { session } => Request::Pause {
            session: session.clone(),
        },
        Command::Resume { session } => Request::Resume {
            session: session.clone(),
        },
        Command::Kill { session } => Request::Kill {
            session: session.clone(),
        },
        Command::Adopt { pid, agent } => Request::Adopt {
            pid: *pid,
            agent: agent.clone(),
            intent: None,
            persona: None,
            run: false,
        },
        Command::Grant { session, lease } => Request::Grant {
            session: session.clone(),
            terms: terms(lease),
        },
        Command::Request { lease, .. } => Request::Ask {
            terms: terms(lease),
        },
        Command::Revoke { grant } => Request::Revoke {
            grant: grant.clone(),
        },
        Command::Grants => Request::Grants,
        // clap has seen to it that there is a text exactly where there is no --clear.
        Command::Intent { session, text, .. } => Request::Intent {
            session: session.clone(),
            text: text.clone(),
        },
        Command::Policy(PolicyCommand::Show) => Request::PolicyShow,
        Command::Policy(PolicyCommand::Reload) => Request::PolicyReload,
        Command::Enforce => Request::Mode {
            mode: Mode::Enforce,
        },
        Command::Observe => Request::Mode {
            mode: Mode::Observe,
        },
        Command::Policy(PolicyCommand::Explain { session }) => Request::PolicyExplain {
            session: session.clone(),
        },
        Command::Policy(
            PolicyCommand::Check { .. }
            | PolicyCommand::Test { .. }
            | PolicyCommand::Suggest { .. }
            | PolicyCommand::Schema,
        )
        | Command::Digest { .. }
        | Command::Init(_)
        | Command::Events { .. }
        | Command::Run(_)
        | Command::Ci(_)
        | Command::Baseline(_)
        | Command::Top
        | Command::Doctor
        | Command::Scan(_)
        | Command::Verify { .. }
        | Command::Report { .. }
        | Command::Replay { .. } => return None,
    })
}

/// A reply as JSON without the word that says which reply it is: who asked knows.
fn payload(reply: &Reply) -> Result<String, Failure> {
    let tagged = serde_json::to_string(reply)
        .map_err(|error| Failure::No(format!("the reply as JSON: {error}")))?;
    // serde writes the tag of an internally tagged enum first, and no tag holds a comma. Cutting the
    // text keeps the members in their documented order, which a serde_json::Value would sort.
    let members = tagged.split_once(',').map_or("}", |(_, members)| members);
    Ok(escape::json(&format!("{{{members}")))
}
