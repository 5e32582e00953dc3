//! `guardctl doctor`: what will work on this machine. Nothing is believed that was not tried: the very
//! programs that guardd uses are loaded and attached here, and taken off again.

use std::path::Path;

use crate::{
    cli::{DoctorCheck, DoctorReport},
    kernel::{Kernel, Settings, btf, mount_point},
    policy::Policy,
    process,
};

/// Tries everything.
pub fn examine() -> DoctorReport {
    let mut denies = Vec::new();
    let mut checks = vec![root(), pid_namespace(), kernel_btf(), tracefs(), cgroup2()];
    let ready = checks
        .iter()
        .all(|check| check.ok || !check.required || check.name == "tracefs");
    if ready {
        denies = programs(&mut checks);
    }
    checks.extend([bpf_lsm(), policy()]);
    let failing: Vec<&str> = checks
        .iter()
        .filter(|check| check.required && !check.ok)
        .map(|check| check.name.as_str())
        .collect();
    let summary = if failing.is_empty() {
        let opens = if denies.iter().any(|watched| watched == "open") {
            "It can make a file's opening and a labelled program's start fail, whatever way they come. A denied \
             command line is killed before its first instruction."
        } else {
            "It cannot make an open or an exec fail (their deny becomes a kill), and where opens are seen by \
             tracepoint it does not see those of io_uring and of 32-bit programs."
        };
        format!(
            "guard can run here. It sees every process of an agent's session, its opens and its connects; it can \
             hold or kill at a program's start, a file's opening and a connection, and make an internet \
             connection fail before its first packet. {opens}"
        )
    } else {
        format!(
            "guard cannot run here before this is mended: {}.",
            failing.join(", ")
        )
    };
    DoctorReport { checks, summary }
}

fn check(name: &str, required: bool, result: Result<String, (String, &str)>) -> DoctorCheck {
    match result {
        Ok(detail) => DoctorCheck {
            name: name.into(),
            ok: true,
            required,
            detail,
            mend: None,
        },
        Err((detail, mend)) => DoctorCheck {
            name: name.into(),
            ok: false,
            required,
            detail,
            mend: Some(mend.into()),
        },
    }
}

fn root() -> DoctorCheck {
    let result = if rustix::process::geteuid().is_root() {
        Ok("running as root".into())
    } else {
        Err((
            "not running as root; nothing can be tried".into(),
            "run it again as root: sudo guardctl doctor",
        ))
    };
    check("root", true, result)
}

fn pid_namespace() -> DoctorCheck {
    let result = if process::in_initial_pid_namespace() {
        Ok("the machine's own".into())
    } else {
        Err((
            "a container's: the kernel's pids mean other processes here".into(),
            "run guardd on the host, or with --pid=host",
        ))
    };
    check("pid-namespace", true, result)
}

fn kernel_btf() -> DoctorCheck {
    let result = match btf::Offsets::from_file(Path::new(btf::VMLINUX)) {
        Ok(_) => Ok(format!(
            "{} describes every field that lineage needs",
            btf::VMLINUX
        )),
        Err(error) => Err((
            error.to_string(),
            "use a kernel of 5.10 or later with CONFIG_DEBUG_INFO_BTF=y",
        )),
    };
    check("btf", true, result)
}

fn tracefs() -> DoctorCheck {
    let result = match mount_point("tracefs") {
        Some(at) => Ok(format!("mounted at {}", at.display())),
        None => Ok("not mounted; guardd mounts it for itself alone".into()),
    };
    check("tracefs", true, result)
}

fn cgroup2() -> DoctorCheck {
    let result = match mount_point("cgroup2") {
        Some(at) => Ok(format!("unified hierarchy at {}", at.display())),
        None => Err((
            "no unified hierarchy is mounted".into(),
            "mount -t cgroup2 none /sys/fs/cgroup",
        )),
    };
    check("cgroup2", true, result)
}

/// Loads and attaches guardd's own programs. Returns what can be denied.
fn programs(checks: &mut Vec<DoctorCheck>) -> Vec<String> {
    let mut kernel = match Kernel::load(&Settings::default(), None) {
        Ok((kernel, _rings)) => kernel,
        Err(error) => {
            checks.push(check(
                "load",
                true,
                Err((
                    error.to_string(),
                    "see the message; a newer kernel usually helps",
                )),
            ));
            return Vec::new();
        }
    };
    let attached = kernel.attach_lineage().and_then(|()| kernel.attach_calls());
    if let Err(error) = &attached {
        checks.push(check(
            "attach",
            true,
            Err((error.to_string(), "see the message")),
        ));
    }
    let mut denies = Vec::new();
    for info in kernel.hooks.info() {
        if info.can.iter().any(|word| word == "deny") {
            denies.push(info.watched.clone());
        }
        let required = matches!(
            info.watched.as_str(),
            "lineage" | "exec" | "open" | "connect"
        );
        let name = info.watched;
        let can = if info.can.is_empty() {
            "see".to_owned()
        } else {
            info.can.join(", ")
        };
        // What only a policy turns on is loaded here and not attached.
        let by_policy = matches!(name.as_str(), "signal" | "ptrace" | "bpf" | "io-uring");
        let result = if info.tier != "none" && (info.attached || by_policy) {
            let note = info
                .note
                .map(|note| format!("; {note}"))
                .unwrap_or_default();
            let how = if info.attached {
                "loaded and attached"
            } else {
                "loaded, to be attached when a policy names such calls,"
            };
            Ok(format!("{how} by {}: {can}{note}", info.tier))
        } else {
            Err((
                info.note.unwrap_or_else(|| "did not attach".into()),
                "see the message; a newer kernel usually helps",
            ))
        };
        checks.push(check(&name, required, result));
    }
    kernel.detach_calls();
    denies
}

fn bpf_lsm() -> DoctorCheck {
    let list = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    let result = if list.split(',').any(|name| name.trim() == "bpf") {
        Ok("in the active list: the best tier serves".into())
    } else {
        Err((
            "not in the active list (or securityfs is not mounted)".into(),
            "not needed where modify-return serves, see above; boot with lsm=…,bpf to have it",
        ))
    };
    check("bpf-lsm", false, result)
}

fn policy() -> DoctorCheck {
    let path = Path::new(crate::DEFAULT_POLICY);
    if !path.exists() {
        return check(
            "policy",
            true,
            Ok(format!(
                "{}: none; the built-in policy is used",
                path.display()
            )),
        );
    }
    let result = match Policy::load(path) {
        Ok(policy) => Ok(format!("{}: {} rules", path.display(), policy.rules.len())),
        Err(error) => Err((error.one_line(), "mend it; see 'guardctl policy check'")),
    };
    check("policy", true, result)
}
