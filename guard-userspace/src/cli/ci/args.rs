//! What `guardctl ci` takes.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

/// Where the directories of watched jobs are made. Not in the runner's own directory for temporary files: who owns that
/// can rename what lies in it, whoever owns what lies there.
pub const DEFAULT_BASE: &str = "/run/guard-ci";

/// `guardctl ci …`
#[derive(Debug, Subcommand)]
pub enum CiCommand {
    /// Watch this job from here on: everything that its runner's worker process runs is one session
    Start(StartArgs),
    /// Say what the job did, and end the watch
    Stop(StopArgs),
    /// Say what the job did so far
    Report(ReportArgs),
    /// What stays while the job runs; started by `start`
    #[command(hide = true)]
    Keep,
}

/// What happens to a connection to a host that is not allowed, and with other verdicts of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is told
    Audit,
    /// It is refused
    Block,
}

impl Mode {
    /// The word on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Block => "block",
        }
    }

    /// The word for guardd.
    pub const fn of_guardd(self) -> &'static str {
        match self {
            Self::Audit => "observe",
            Self::Block => "enforce",
        }
    }
}

/// What `start` takes.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Whether what is not allowed is told or refused
    #[arg(long, value_enum, default_value = "audit")]
    pub mode: Mode,
    /// Hosts and addresses that the job may reach: github.com, *.crates.io:443, 10.0.0.0/8. A list with commas, blanks or
    /// line breaks; may be repeated
    #[arg(long, value_name = "HOSTS")]
    pub allow: Vec<String>,
    /// Policy file [default: .guard/policy.toml of the checkout, else the one for CI inside this program]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// The runner's worker process [default: looked for among the processes above this one]
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(2..))]
    pub pid: Option<u32>,
    /// The checkout [default: GITHUB_WORKSPACE, CI_PROJECT_DIR or the working directory]
    #[arg(long, value_name = "DIR")]
    pub workspace: Option<PathBuf>,
    /// Refuse to run sudo, su and their like (in block mode)
    #[arg(long)]
    pub no_sudo: bool,
    /// Refuse connections to Docker, containerd, Podman and their like (in block mode)
    #[arg(long)]
    pub no_docker: bool,
    /// Name servers that are believed [default: those of /etc/resolv.conf]
    #[arg(long = "resolver", value_name = "ADDR", value_delimiter = ',')]
    pub resolvers: Vec<IpAddr>,
    /// Where to make the directory of this job's socket and state, which only root may write
    #[arg(long, value_name = "DIR", default_value = DEFAULT_BASE)]
    pub base: PathBuf,
    /// The daemon [default: guardd beside this program, else on PATH]
    #[arg(long, value_name = "FILE")]
    pub guardd: Option<PathBuf>,
    /// Where to write what `stop` needs to be believed [default: to GITHUB_STATE, else to a file that only root can read]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Fail in audit mode too when the job cannot be watched
    #[arg(long)]
    pub require: bool,
}

/// What `report` takes.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The directory that `start` has made
    #[arg(long, value_name = "DIR", env = "GUARD_CI_DIR", hide_env_values = true)]
    pub dir: Option<PathBuf>,
    /// Append a summary in Markdown to this file [default: GITHUB_STEP_SUMMARY]
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// Write a SARIF 2.1.0 file
    #[arg(long, value_name = "FILE")]
    pub sarif: Option<PathBuf>,
    /// Exit with 1 when something was stopped (or would have been), or flagged
    #[arg(long, value_enum, value_name = "WHAT")]
    pub fail_on: Option<FailOn>,
    /// Print no annotations (`::error::…`), which are printed where GITHUB_ACTIONS is set
    #[arg(long)]
    pub no_annotations: bool,
}

/// What `stop` takes.
#[derive(Debug, Args)]
pub struct StopArgs {
    /// As for `report`.
    #[command(flatten)]
    pub report: ReportArgs,
    /// What `start --token-file` has written [default: STATE_guard_token or GUARD_CI_TOKEN, else the file that only root can
    /// read]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// What makes the exit status 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Something was stopped, or would have been in block mode
    Stopped,
    /// That, or something was flagged
    Flagged,
}
