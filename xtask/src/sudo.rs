//! Root, one command at a time.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Whether this process is root, by its effective uid.
pub(crate) fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    // `Uid:` real, effective, saved, filesystem; proc_pid_status(5).
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .and_then(|uids| uids.split_whitespace().nth(1))
        .context("/proc/self/status: no effective uid in it: is /proc mounted?")?;
    Ok(effective == "0")
}

/// Fails when there is no way to root for `what`, which is best shown as the
/// command that a person could run instead.
pub(crate) fn available(what: &str) -> Result<()> {
    if !is_root()? && shell::which("sudo").is_none() {
        bail!("`{what}` needs root and there is no sudo: run it as root");
    }
    Ok(())
}

/// A command that runs `program` as root: itself when we are root, else behind
/// `sudo`, which is said. `vars` are set for it either way; `sudo` would drop
/// them from the environment.
pub(crate) fn command<'a>(
    what: &str,
    program: &Path,
    vars: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
) -> Result<Command> {
    if is_root()? {
        let mut command = Command::new(program);
        command.envs(vars);
        return Ok(command);
    }
    available(what)?;
    shell::say(
        "xtask",
        format!("`{what}` needs root: using sudo for this step"),
    );
    Ok(behind_sudo(program, vars))
}

fn behind_sudo<'a>(
    program: &Path,
    vars: impl IntoIterator<Item = (&'a str, &'a OsStr)>,
) -> Command {
    let mut command = Command::new("sudo");
    command.args(["--", "env"]);
    for (name, value) in vars {
        let mut assignment = OsString::from(name);
        assignment.push("=");
        assignment.push(value);
        command.arg(assignment);
    }
    command.arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_reach_the_program_behind_sudo() {
        let command = behind_sudo(Path::new("/t/a b"), [("GUARD_BIN_DIR", OsStr::new("/x y"))]);
        assert_eq!(command.get_program(), "sudo");
        let args: Vec<_> = command.get_args().collect();
        assert_eq!(args, ["--", "env", "GUARD_BIN_DIR=/x y", "/t/a b"]);
    }
}
