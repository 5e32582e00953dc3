//! guardctl: the command-line client. All of it is in [`guard::cli`]; here it is only given what it
//! does without the daemon.

use std::{path::Path, process::ExitCode};

use guard::{
    cli::{self, InitArgs, Offline},
    doctor, init,
    journal::Journal,
    policy::{files, schema, users},
};

fn main() -> ExitCode {
    cli::main(&Offline {
        policy_check,
        schema: schema::text,
        init,
        doctor: doctor::examine,
        verify,
    })
}

fn policy_check(path: &Path) -> Result<String, String> {
    if let Some(checked) = users::check(path) {
        let rules = checked.map_err(|error| error.to_string())?;
        let s = if rules == 1 { "" } else { "s" };
        return Ok(format!(
            "{}: ok: a user's own file that adds {rules} rule{s} to the machine's policy",
            path.display()
        ));
    }
    let policy = files::check(path).map_err(|error| error.to_string())?;
    let mut text = format!(
        "{}: ok: {} agents, {} labels, {} rules",
        path.display(),
        policy.agents.len(),
        policy.labels.len(),
        policy.rules.len()
    );
    if policy.parts.len() > 1 {
        text.push_str(&format!(" in {} files", policy.parts.len()));
        for part in &policy.parts {
            text.push_str(&format!("\n  {}", part.source));
        }
    }
    Ok(text)
}

fn init(args: &InitArgs) -> Result<String, String> {
    init::init(&init::Options {
        directory: args.directory.clone(),
        yes: args.yes,
        print: args.print,
        force: args.force,
        mode: args.mode,
        agents: args.agents.clone(),
        answer: args.answer.clone(),
        notify: args.notify.clone(),
        passwd: "/etc/passwd".into(),
        group: "/etc/group".into(),
    })
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
