//! guardd's command line: one definition from which parsing, help and the man page come.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};

use crate::{
    DEFAULT_SOCKET, DEFAULT_STATE_DIR, clock,
    kernel::{Settings, Tier, btf},
};

/// Watches AI agents from the kernel.
#[derive(Debug, Parser)]
#[command(name = "guardd", version)]
pub struct Arguments {
    /// Policy file; without it the default one, or the built-in policy where there is none.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Control socket.
    #[arg(long, value_name = "PATH", env = "GUARD_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Directory of the journal and of what survives a restart.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
    /// Overrides the policy's mode.
    #[arg(long)]
    pub mode: Option<ModeName>,
    /// Check the policy, say what is wrong with it, and exit.
    #[arg(long)]
    pub check: bool,
    /// Processes that can be in sessions at once.
    #[arg(long, value_name = "N", default_value_t = Settings::default().lineage_size,
          value_parser = clap::value_parser!(u32).range(16..=4_194_304))]
    pub lineage_size: u32,
    /// How often what would have been stopped is told.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = clock::parse_duration)]
    pub digest_every: Duration,
    /// Where the users are whose own files may tighten the policy.
    #[arg(long, value_name = "FILE", default_value = "/etc/passwd", hide = true)]
    pub passwd: PathBuf,
    /// No better mechanism than this one, to try what another kernel would do.
    #[arg(long, value_name = "TIER", hide = true)]
    pub tier: Option<TierName>,
    /// Where the kernel's type information is.
    #[arg(long, value_name = "FILE", default_value = btf::VMLINUX, hide = true)]
    pub btf: PathBuf,
}

/// `--mode`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ModeName {
    /// Verdicts are recorded, nothing is touched.
    Observe,
    /// Verdicts are carried out.
    Enforce,
}

/// `--tier`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TierName {
    /// BPF as a security module.
    Lsm,
    /// Modify-return on the security modules' functions.
    ModifyReturn,
    /// The entry of these functions.
    Fentry,
    /// System call tracepoints.
    Tracepoint,
}

impl From<TierName> for Tier {
    fn from(name: TierName) -> Self {
        match name {
            TierName::Lsm => Self::Lsm,
            TierName::ModifyReturn => Self::ModifyReturn,
            TierName::Fentry => Self::Fentry,
            TierName::Tracepoint => Self::Tracepoint,
        }
    }
}
