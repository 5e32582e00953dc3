//! The command line: one definition from which parsing, help and usage errors come.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    time::Duration,
};

use clap::{
    ArgGroup, Args, Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser as _},
    error::ErrorKind,
};

use crate::{clock, event::Kind, journal::PublicKey, policy::Mode, wire::Operation};

/// Where guardd listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/guard/guard.sock";
/// Where guardd keeps its journal unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/guard";

/// See what AI agents do on this machine, and answer when guard holds one of them.
#[derive(Debug, Parser)]
#[command(
    name = "guardctl",
    version,
    after_help = "Exit status: 0 done; 1 it ran and the answer is no; 2 the call or the policy is wrong;\n\
                  3 the daemon cannot be reached; 4 not allowed. `run` exits as its command does."
)]
pub struct Cli {
    /// Control socket of guardd
    #[arg(long, global = true, value_name = "PATH", env = "GUARD_SOCKET", hide_env_values = true, default_value = DEFAULT_SOCKET, value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub socket: PathBuf,
    /// Print JSON alone, errors included
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// One command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The daemon, its hooks, what cannot be enforced here, what was lost
    Status,
    /// One line a session
    Sessions {
        /// Ended sessions too
        #[arg(long)]
        all: bool,
    },
    /// One session: processes, facts, timeline
    Show {
        /// Session, as `guardctl sessions` shows it
        session: String,
    },
    /// Events, oldest first
    Events {
        /// Go on printing events as they happen
        #[arg(long, short)]
        follow: bool,
        /// Only of this session
        #[arg(long, value_name = "SESSION")]
        session: Option<String>,
        /// Only of these kinds; may be repeated, or be a list with commas
        #[arg(long = "kind", value_name = "KIND", value_delimiter = ',', value_parser = parse_kind)]
        kinds: Vec<Kind>,
        /// Shape of each event
        #[arg(long, value_name = "FORMAT", value_enum)]
        format: Option<EventFormat>,
    },
    /// What is held and waits for a person, with what led there
    Pending,
    /// Let a held process go on, or give a lease that was asked for
    Approve {
        /// Hold or lease, as `guardctl pending` shows it
        id: String,
        /// Do not ask again in this session for so long; of a lease, its length
        #[arg(long = "for", value_name = "DURATION", value_parser = clock::parse_duration)]
        duration: Option<Duration>,
        /// With it all that are like it, up to this one, the newest that you have seen
        #[arg(long, value_name = "ID")]
        all_like: Option<String>,
    },
    /// Refuse what a held process wants to do, or a lease that was asked for
    Deny {
        /// Hold or lease, as `guardctl pending` shows it
        id: String,
        /// Recorded with the answer
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// With it all that are like it, up to this one, the newest that you have seen
        #[arg(long, value_name = "ID")]
        all_like: Option<String>,
    },
    /// Watch sessions, holds and events on one screen, and answer there
    Top,
    /// Stop every process of a session
    Pause {
        /// Session
        session: String,
    },
    /// Let a paused session go on
    Resume {
        /// Session
        session: String,
    },
    /// Kill every process of a session
    Kill {
        /// Session
        session: String,
    },
    /// Run a command as the root of a new session and exit as it exits
    Run(RunArgs),
    /// Make a running process and all below it a session
    Adopt {
        /// Process id
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        pid: u32,
        /// Agent name to give the session
        #[arg(long, value_name = "NAME")]
        agent: Option<String>,
    },
    /// Give a lease: allow a session a label for a while
    Grant {
        /// Session
        session: String,
        #[command(flatten)]
        lease: LeaseArgs,
    },
    /// From inside a session: ask a person for a lease
    Request {
        #[command(flatten)]
        lease: LeaseArgs,
        /// Wait for the answer, and exit with 1 if it is no
        #[arg(long)]
        wait: bool,
    },
    /// End a lease
    Revoke {
        /// Lease, as `guardctl grants` shows it
        grant: String,
    },
    /// Leases
    Grants,
    /// Say what a session is for
    #[command(group(ArgGroup::new("what").required(true).args(["text", "clear"])))]
    Intent {
        /// Session
        session: String,
        /// What it is for
        text: Option<String>,
        /// Say nothing any more
        #[arg(long)]
        clear: bool,
    },
    /// Work on a policy without touching a process
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// What is usual for agents, and how far a session is from it
    #[command(subcommand)]
    Baseline(super::baseline::BaselineCommand),
    /// What would have been stopped, had it not only been observed
    Digest {
        /// How far back
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = clock::parse_duration)]
        since: Duration,
    },
    /// Carry verdicts out from now on: writes the mode into the policy and loads it
    Enforce,
    /// Only record verdicts from now on: writes the mode into the policy and loads it
    Observe,
    /// Write a first policy for this machine, by a few questions
    Init(InitArgs),
    /// A CI job as one session: allowed hosts, changed sources, a report
    #[command(subcommand)]
    Ci(super::ci::CiCommand),
    /// Try what will work on this machine, and say how to mend what will not
    Doctor,
    /// Find secrets in files: tokens, private keys, passwords
    Scan(super::scan::ScanArgs),
    /// Check the journal's chain and signatures
    Verify {
        /// State directory of guardd
        #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
        state_dir: PathBuf,
        /// Public key that must have signed it, kept elsewhere; may be repeated [default: of the state directory]
        #[arg(long = "key", value_name = "PUBKEY")]
        keys: Vec<PublicKey>,
        /// An event's number and hash, kept elsewhere, that must be in it; may be repeated
        #[arg(long, value_name = "SEQ:HASH", value_parser = parse_expected)]
        expect: Vec<(u64, String)>,
    },
    /// A session's story: timeline, evidence, what was stopped and what was not
    Report {
        /// Session, ended ones too
        session: String,
        /// Shape of the report [default: md, or json with --json]
        #[arg(long, value_name = "FORMAT", value_enum)]
        format: Option<ReportFormat>,
        /// Read the journal in this state directory, without guardd
        #[arg(long, value_name = "DIR")]
        state_dir: Option<PathBuf>,
    },
    /// What another policy would have said of what the journal has
    Replay {
        /// State directory of guardd, or a copy of one
        #[arg(value_name = "JOURNAL", default_value = DEFAULT_STATE_DIR)]
        journal: PathBuf,
        /// The policy: a file, or a directory with policy.toml and policy.d
        #[arg(long, value_name = "PATH")]
        policy: PathBuf,
        /// Of this session alone
        #[arg(long, value_name = "SESSION")]
        session: Option<String>,
    },
}

/// Shapes of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EventFormat {
    /// guard's own JSON, one object a line
    Jsonl,
    /// Open Cybersecurity Schema Framework
    Ocsf,
    /// Elastic Common Schema
    Ecs,
}

/// Shapes of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// Markdown
    Md,
    /// One HTML file
    Html,
    /// JSON
    Json,
}

/// What a lease allows.
#[derive(Args, Clone, Debug)]
pub struct LeaseArgs {
    /// Label of the policy
    #[arg(long, value_name = "LABEL")]
    pub label: String,
    /// This file alone
    #[arg(long, value_name = "FILE", conflicts_with = "address")]
    pub path: Option<PathBuf>,
    /// Connections to this address and port alone
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub address: Option<String>,
    /// This operation alone; may be repeated, or be a list with commas
    #[arg(
        long = "operation",
        value_name = "OPERATION",
        value_enum,
        value_delimiter = ','
    )]
    pub operations: Vec<Operation>,
    /// How long [default: 10m]
    #[arg(long = "for", value_name = "DURATION", value_parser = clock::parse_duration)]
    pub duration: Option<Duration>,
    /// So many calls, and no more
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub uses: Option<u32>,
    /// Recorded with it
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// What `run` takes.
#[derive(Debug, Args)]
#[command(override_usage = "guardctl run [OPTIONS] -- <CMD>...")]
pub struct RunArgs {
    /// Agent name to give the session [default: base name of CMD]
    #[arg(long, value_name = "NAME")]
    pub agent: Option<String>,
    /// What the session is for
    #[arg(
        long,
        value_name = "TEXT",
        env = "GUARD_INTENT",
        hide_env_values = true
    )]
    pub intent: Option<String>,
    /// Go on without asking whether the intent was understood
    #[arg(long, short)]
    pub yes: bool,
    /// What kind of work it is, one of the policy's personas
    #[arg(long, value_name = "NAME")]
    pub persona: Option<String>,
    /// Run as this user, with that user's HOME, SHELL, USER and LOGNAME (only root may)
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// What `init` takes.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Ask nothing; what is not said by options is as in the questions' defaults
    #[arg(long, short)]
    pub yes: bool,
    /// Only print what would be written
    #[arg(long)]
    pub print: bool,
    /// Replace what an earlier init has written
    #[arg(long)]
    pub force: bool,
    /// observe (first) or enforce
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    pub mode: Option<Mode>,
    /// Base name of a program that is an agent too; may be repeated, or be a list with commas
    #[arg(long = "agent", value_name = "NAME", value_delimiter = ',')]
    pub agents: Option<Vec<String>>,
    /// User who may answer, besides root; may be repeated, or be a list with commas
    #[arg(long, value_name = "USER", value_delimiter = ',')]
    pub answer: Option<Vec<String>>,
    /// How people are told of holds: terminal, desktop, or none; may be repeated, or be a list with commas
    #[arg(long, value_name = "CHANNEL", value_delimiter = ',')]
    pub notify: Option<Vec<String>>,
    /// Directory of the policy
    #[arg(long, value_name = "DIR", default_value = "/etc/guard")]
    pub directory: PathBuf,
}

fn parse_mode(word: &str) -> Result<Mode, String> {
    [Mode::Observe, Mode::Enforce]
        .into_iter()
        .find(|mode| mode.name() == word)
        .ok_or_else(|| "expected observe or enforce".into())
}

/// `guardctl policy …`
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Say whether a policy is right, and if not, where
    Check {
        /// Policy file, or a directory with policy.toml and policy.d
        file: PathBuf,
    },
    /// Run cases, events with what a policy must say of each, without touching a process
    Test {
        /// File of cases, in TOML
        file: PathBuf,
        /// Policy file or directory to test, instead of the one that the file names
        #[arg(long, value_name = "PATH")]
        policy: Option<PathBuf>,
    },
    /// What to except and what to seal, by what sessions were seen to do
    Suggest {
        /// State directory of guardd, or a copy of one
        #[arg(value_name = "JOURNAL", default_value = DEFAULT_STATE_DIR)]
        journal: PathBuf,
        /// Policy file or directory, instead of the built-in policy
        #[arg(long, value_name = "PATH")]
        policy: Option<PathBuf>,
    },
    /// The policy in force
    Show,
    /// Make guardd read its policy files again
    Reload,
    /// The policy's JSON Schema, for editors
    Schema,
    /// Each rule against one session: which steps are fulfilled, which is missing
    Explain {
        /// Session
        session: String,
    },
}

fn parse_expected(text: &str) -> Result<(u64, String), String> {
    let parsed = text.split_once(':').and_then(|(seq, hash)| {
        let hash = hash.to_ascii_lowercase();
        let sound = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        Some((seq.parse().ok()?, sound.then_some(hash)?))
    });
    parsed.ok_or_else(|| {
        "write it like 17:HASH, with 64 hexadecimal digits, as `guardctl verify` prints it".into()
    })
}

fn parse_kind(word: &str) -> Result<Kind, String> {
    Kind::ALL
        .into_iter()
        .find(|kind| kind.name() == word)
        .ok_or_else(|| {
            let known = Kind::ALL.map(Kind::name).join(", ");
            format!("no such kind: one of {known}")
        })
}

/// What came of a command line that is no command.
pub enum NotACommand {
    /// `--help` or `--version`: the text, for stdout.
    Answer(String),
    /// A usage error, in one line without the leading `guardctl: `.
    Usage(String),
}

impl Cli {
    /// Reads a command line, the program's name first.
    pub fn read(argv: &[OsString]) -> Result<Self, NotACommand> {
        let mut cli = Self::try_parse_from(argv).map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                NotACommand::Answer(error.render().to_string())
            }
            _ => NotACommand::Usage(one_line(&error)),
        })?;
        // An environment variable that is set but empty says nothing, as with most programs.
        if cli.socket.as_os_str().is_empty() {
            cli.socket = DEFAULT_SOCKET.into();
        }
        if let Command::Run(run) = &mut cli.command {
            run.intent.take_if(|text| text.is_empty());
        }
        Ok(cli)
    }
}

/// Whether a command line that could not be parsed asked for JSON. What follows `--` belongs to
/// another program.
pub fn asks_for_json(argv: &[OsString]) -> bool {
    argv.iter()
        .skip(1)
        .take_while(|arg| *arg != OsStr::new("--"))
        .any(|arg| arg == "--json")
}

/// clap explains a mistake over several lines; the contract wants `what: why: what to do` in one.
fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no command given: try 'guardctl --help'".into();
    }
    let text = error.render().to_string();
    let mut parts = Vec::new();
    let mut usage = None;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("Usage:") {
            usage = Some(rest.trim());
            break;
        }
        if line.starts_with("For more information") {
            break;
        }
        let line = line
            .strip_prefix("error:")
            .or(line.strip_prefix("tip:"))
            .unwrap_or(line);
        parts.push(line.trim().trim_end_matches(':'));
    }
    let what = parts.join(": ");
    match usage {
        Some(usage) => format!("{what}: usage: {usage}"),
        None => format!("{what}: try 'guardctl --help'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Cli, NotACommand> {
        let argv: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        Cli::read(&argv)
    }

    fn usage_error(line: &str) -> String {
        match read(line) {
            Err(NotACommand::Usage(text)) => text,
            Err(NotACommand::Answer(text)) => panic!("{line}: answered {text}"),
            Ok(cli) => panic!("{line}: understood as {cli:?}"),
        }
    }

    #[test]
    fn the_definition_holds_together() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn kinds_may_be_repeated_and_be_lists() {
        let Ok(Cli {
            command: Command::Events { kinds, .. },
            ..
        }) = read("guardctl events --kind open,exec --kind lost")
        else {
            panic!("not understood");
        };
        assert_eq!(kinds, [Kind::Open, Kind::Exec, Kind::Lost]);
        assert!(
            usage_error("guardctl events --kind opened")
                .contains("no such kind: one of session, exec, open")
        );
    }

    #[test]
    fn what_follows_the_command_of_run_is_not_ours() {
        for line in [
            "guardctl run -- claude --json --help",
            "guardctl run claude --json --help",
        ] {
            let Ok(Cli {
                command: Command::Run(run),
                json,
                ..
            }) = read(line)
            else {
                panic!("{line}: not understood")
            };
            assert_eq!(
                run.command,
                ["claude", "--json", "--help"].map(OsString::from),
                "{line}"
            );
            assert!(!json, "{line}");
        }
    }

    #[test]
    fn an_empty_socket_says_nothing() {
        let Ok(cli) = Cli::read(&["guardctl", "--socket", "", "status"].map(OsString::from)) else {
            panic!("not understood");
        };
        assert_eq!(cli.socket, PathBuf::from(DEFAULT_SOCKET));
    }

    #[test]
    fn intent_wants_a_text_or_clear_and_not_both() {
        assert!(read("guardctl intent s-1 text").is_ok());
        assert!(read("guardctl intent s-1 --clear").is_ok());
        usage_error("guardctl intent s-1");
        usage_error("guardctl intent s-1 text --clear");
    }

    #[test]
    fn a_usage_error_is_one_line_that_says_what_to_do() {
        for line in [
            "guardctl",
            "guardctl statsu",
            "guardctl show",
            "guardctl --nonsense",
            "guardctl approve h-1 --for soon",
            "guardctl adopt 0",
            "guardctl run",
        ] {
            let text = usage_error(line);
            assert!(!text.contains('\n'), "{line}: {text:?}");
            assert!(
                text.contains("usage: guardctl") || text.contains("try 'guardctl"),
                "{line}: {text}"
            );
        }
        assert!(usage_error("guardctl statsu").contains("'status'"));
        assert!(usage_error("guardctl approve h-1 --for soon").contains("write it like 90s"));
    }

    #[test]
    fn json_is_looked_for_only_before_the_double_dash() {
        let argv = |line: &str| {
            line.split_whitespace()
                .map(OsString::from)
                .collect::<Vec<_>>()
        };
        assert!(asks_for_json(&argv("guardctl --json nonsense")));
        assert!(!asks_for_json(&argv(
            "guardctl run --nonsense -- cmd --json"
        )));
    }
}
