//! What systemd has made of a process, told by its control group.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::process;

/// Whether a process is a service manager: systemd itself, the machine's or a user's.
pub fn is_manager(pid: u32) -> bool {
    let exe = process::exe(pid);
    let name = exe.as_deref().and_then(Path::file_name);
    // As the kernel names one that an upgrade has replaced.
    name == Some("systemd".as_ref()) || name == Some("systemd (deleted)".as_ref())
}

/// Whether a process runs in a unit that somebody has asked `manager` for and that is in no file (`systemd-run`).
pub fn is_transient(pid: u32, manager: u32) -> bool {
    let Ok(groups) = fs::read_to_string(format!("/proc/{pid}/cgroup")) else {
        return false;
    };
    let Some(unit) = unit(&groups) else {
        return false;
    };
    transient_units(manager).is_some_and(|directory| directory.join(unit).exists())
}

/// Where a manager keeps the units that are in no file.
/// <https://www.freedesktop.org/software/systemd/man/latest/systemd.unit.html>
fn transient_units(manager: u32) -> Option<PathBuf> {
    if manager == 1 {
        return Some("/run/systemd/transient".into());
    }
    let user = process::uid(manager)?;
    Some(format!("/run/user/{user}/systemd/transient").into())
}

/// The unit that `/proc/PID/cgroup` names: the innermost service or scope.
fn unit(groups: &str) -> Option<&str> {
    let path = groups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        matches!(controllers, "" | "name=systemd").then_some(path)
    })?;
    path.rsplit('/')
        .find(|part| part.ends_with(".service") || part.ends_with(".scope"))
}

#[cfg(test)]
mod tests {
    use super::unit;

    #[test]
    fn a_unit_is_the_innermost_service_or_scope() {
        for (groups, expected) in [
            ("0::/system.slice/run-u5.service\n", Some("run-u5.service")),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-p7-i8.service/inner\n",
                Some("run-p7-i8.service"),
            ),
            (
                "3:cpu:/\n1:name=systemd:/system.slice/cron.service\n0::/\n",
                Some("cron.service"),
            ),
            ("0::/init.scope\n", Some("init.scope")),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(unit(groups), expected, "{groups}");
        }
    }
}
