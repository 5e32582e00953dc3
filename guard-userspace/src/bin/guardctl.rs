//! guardctl: the command-line client. All of it is in [`guard::cli`]; here it is only given what it
//! does without the daemon.

use std::{path::Path, process::ExitCode};

use guard::{
    cli::{self, Offline},
    doctor,
    journal::Journal,
    policy::Policy,
};

fn main() -> ExitCode {
    cli::main(&Offline {
        policy_check,
        doctor: doctor::examine,
        verify,
    })
}

fn policy_check(path: &Path) -> Result<String, String> {
    let policy = Policy::load(path).map_err(|error| error.to_string())?;
    let text = format!(
        "{}: ok: {} agents, {} labels, {} rules",
        path.display(),
        policy.agents.len(),
        policy.labels.len(),
        policy.rules.len()
    );
    Ok(text)
}

fn verify(state_dir: &Path) -> Result<String, String> {
    let verified = Journal::verify(state_dir).map_err(|error| error.to_string())?;
    Ok(format!(
        "{}: the chain of {} events in {} segments is whole, up to number {}",
        state_dir.display(),
        verified.events,
        verified.segments,
        verified.last_seq
    ))
}
