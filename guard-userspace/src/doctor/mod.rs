//! `guardctl doctor`: what will work on this machine. Nothing is believed that was not tried: the very
//! programs that guardd uses are loaded and attached here, and taken off again.

mod distribution;

use std::{fs, io::Read as _, path::Path};

pub use self::distribution::{Distribution, Family};
use crate::{
    DEFAULT_POLICY,
    cli::{DoctorCheck, DoctorReport},
    kernel::{Kernel, Settings, btf, mount_point},
    policy::files::{self, Trust},
    process,
    wire::HookInfo,
};

/// The first kernel that has all that guard cannot do without.
const OLDEST: (u32, u32) = (5, 10);

/// What was loaded, and what it can do.
#[derive(Debug, Default)]
struct Loaded {
    hooks: Vec<HookInfo>,
    not_enforced: Vec<String>,
}

impl Loaded {
    fn served(&self, watched: &str) -> bool {
        let mut hooks = self.hooks.iter();
        hooks.any(|hook| hook.watched == watched && hook.tier != "none")
    }

    fn denies(&self, watched: &str) -> bool {
        let mut hooks = self.hooks.iter();
        hooks.any(|hook| hook.watched == watched && hook.can.iter().any(|word| word == "deny"))
    }
}

/// Tries everything.
pub fn examine() -> DoctorReport {
    let here = Distribution::here();
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let modules = security_file("lsm").unwrap_or_default();
    let mut checks = vec![
        root(),
        kernel_release(&here, &release),
        pid_namespace(),
        container(),
        kernel_btf(&here),
        tracefs(),
        cgroup2(&here),
        lockdown(&here, &security_file("lockdown").unwrap_or_default()),
    ];
    let ready = checks.iter().all(|check| check.ok || !check.required);
    let loaded = if ready {
        programs(&mut checks, &here, &modules)
    } else {
        Loaded::default()
    };
    checks.extend([bpf_lsm(&here, &modules, &loaded), policy()]);
    let summary = paragraph(&here, &release, &checks, &loaded);
    DoctorReport { checks, summary }
}

/// What guard can and cannot do here, in plain words.
fn paragraph(
    here: &Distribution,
    release: &str,
    checks: &[DoctorCheck],
    loaded: &Loaded,
) -> String {
    let place = format!("{} with Linux {release}", here.name);
    let failing: Vec<&str> = checks
        .iter()
        .filter(|check| check.required && !check.ok)
        .map(|check| check.name.as_str())
        .collect();
    if !failing.is_empty() {
        return format!(
            "On {place} guard cannot run before this is mended: {}. Until then nothing is watched and nothing is \
             stopped.",
            failing.join(", ")
        );
    }
    let mut can = vec![
        "guard can run. It sees every process of an agent's session, whatever forks, and the files it opens and the \
         connections it makes; it can hold or kill it at the start of a program, at the opening of a file and at a \
         connection, and an internet connection that is denied fails before its first packet leaves."
            .to_owned(),
    ];
    let mut cannot = Vec::new();
    if loaded.denies("open") {
        can.push(
            "A denied file is not opened, whatever way the open comes, and a denied program does not start.".into(),
        );
    } else {
        cannot.push(
            "make the opening of a file or the start of a program fail: where a rule says deny, the process is \
             killed instead, unless the rule's fallback says otherwise"
                .to_owned(),
        );
        cannot.push("see opens by io_uring or by 32-bit programs".into());
    }
    if loaded.served("names") && loaded.served("dns") {
        can.push(
            "It knows connections by the names of hosts, also where an address has several.".into(),
        );
    } else {
        cannot.push("tell connections by names of hosts: only by addresses".into());
    }
    if loaded.served("requests") {
        can.push(
            "It reads requests to the hosts that the policy asks about, of programs whose TLS library it knows; of \
             others it knows the host and no more."
                .into(),
        );
    } else {
        cannot.push("read requests inside TLS: hosts decide".into());
    }
    if loaded.served("guard-files") {
        can.push("A session cannot change guard's own files.".into());
    } else {
        cannot.push("keep an agent that runs as root from changing guard's own files".into());
    }
    if loaded
        .not_enforced
        .iter()
        .any(|line| line.starts_with("anything while guardd is down"))
    {
        cannot.push("go on while guardd is down".into());
    } else {
        can.push("Rules stay in force while guardd is restarted or down.".into());
    }
    let cannot = match cannot.as_slice() {
        [] => String::new(),
        list => format!(" It cannot {}.", list.join("; it cannot ")),
    };
    format!(
        "On {place} {}{cannot} It does not watch what runs outside sessions, and a command that is denied by its \
         words is killed before its first instruction instead of failing. 'guardctl status' lists every exception \
         while guardd runs.",
        can.join(" ")
    )
}

fn check(
    name: &str,
    required: bool,
    result: Result<String, (String, impl Into<String>)>,
) -> DoctorCheck {
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

fn kernel_release(here: &Distribution, release: &str) -> DoctorCheck {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|number| number.parse().ok());
    let version: Option<(u32, u32)> = numbers.next().zip(numbers.next());
    let result = match version {
        Some(version) if version < OLDEST => Err((
            format!("{release} is older than {}.{}", OLDEST.0, OLDEST.1),
            here.kernel(),
        )),
        // What cannot be read is tried all the same.
        _ => Ok(release.to_owned()),
    };
    check("kernel", true, result)
}

fn container() -> DoctorCheck {
    let seen = [
        "/.dockerenv",
        "/run/.containerenv",
        "/run/systemd/container",
    ]
    .into_iter()
    .find(|path| Path::new(path).exists());
    let result = match seen {
        None => Ok("none seen".into()),
        Some(path) => Err((
            format!("{path} says that this is one: what is found here may not be the machine's"),
            "run guardd on the host; in a container it needs --privileged, --pid=host, --cgroupns=host and \
             /sys/kernel",
        )),
    };
    check("container", false, result)
}

fn kernel_btf(here: &Distribution) -> DoctorCheck {
    let result = match btf::Offsets::from_file(Path::new(btf::VMLINUX)) {
        Ok(_) => Ok(format!(
            "{} describes every field that lineage needs",
            btf::VMLINUX
        )),
        Err(error) => Err((
            error.to_string(),
            format!(
                "this kernel does not describe its types (CONFIG_DEBUG_INFO_BTF): {}",
                here.kernel()
            ),
        )),
    };
    check("btf", true, result)
}

fn tracefs() -> DoctorCheck {
    let known = fs::read_to_string("/proc/filesystems")
        .is_ok_and(|list| list.split_whitespace().any(|name| name == "tracefs"));
    let result = match mount_point("tracefs") {
        Some(at) => Ok(format!("mounted at {}", at.display())),
        // Whether that can be done shows when tracepoints are attached.
        None if known => Ok("not mounted; guardd mounts it for itself alone".into()),
        None => Err((
            "this kernel has none (CONFIG_FTRACE)".into(),
            "use a kernel of the distribution's own: a tailored one leaves it out",
        )),
    };
    check("tracefs", true, result)
}

fn cgroup2(here: &Distribution) -> DoctorCheck {
    let result = match mount_point("cgroup2") {
        Some(at) => Ok(format!("unified hierarchy at {}", at.display())),
        None => Err(("no unified hierarchy is mounted".into(), here.cgroup2())),
    };
    check("cgroup2", true, result)
}

fn lockdown(here: &Distribution, modes: &str) -> DoctorCheck {
    let mode = modes
        .split_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    let result = match mode {
        None => Ok("none, as far as can be seen".into()),
        Some("confidentiality") => Err((
            "confidentiality: the kernel lets nobody read its memory, not even by tracing".into(),
            here.lockdown(),
        )),
        Some(mode) => Ok(format!("{mode}: guard works under it")),
    };
    check("lockdown", true, result)
}

/// A file of securityfs, mounted or not.
fn security_file(name: &str) -> Option<String> {
    if let Ok(text) = fs::read_to_string(Path::new("/sys/kernel/security").join(name)) {
        return Some(text);
    }
    use rustix::{
        fs::{Mode, OFlags, openat},
        mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
    };
    // In no place, for nobody but this process.
    let context = fsopen("securityfs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    fsconfig_create(&context).ok()?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let mount = fsmount(&context, flags, MountAttrFlags::MOUNT_ATTR_RDONLY).ok()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = openat(&mount, name, flags, Mode::empty()).ok()?;
    let mut text = String::new();
    fs::File::from(file).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Loads and attaches guardd's own programs.
fn programs(checks: &mut Vec<DoctorCheck>, here: &Distribution, modules: &str) -> Loaded {
    let mut kernel = match Kernel::load(&Settings::default(), None) {
        Ok((kernel, _rings)) => kernel,
        Err(error) => {
            let mend = format!(
                "see the message; if it is the kernel's age: {}",
                here.kernel()
            );
            checks.push(check("load", true, Err((error.to_string(), mend))));
            return Loaded::default();
        }
    };
    let attached = kernel.attach_lineage().and_then(|()| kernel.attach_calls());
    if let Err(error) = &attached {
        let mend =
            "see the message; another program may be in the way, or this runs in a container";
        checks.push(check("attach", true, Err((error.to_string(), mend))));
    }
    let loaded = Loaded {
        hooks: kernel.hooks.info(),
        not_enforced: kernel.hooks.not_enforced(),
    };
    checks.extend(loaded.hooks.iter().map(|info| hook(info, here, modules)));
    kernel.detach_calls();
    loaded
}

/// One thing that is watched, by what was loaded for it.
fn hook(info: &HookInfo, here: &Distribution, modules: &str) -> DoctorCheck {
    let required = matches!(
        info.watched.as_str(),
        "lineage" | "exec" | "open" | "connect"
    );
    let can = if info.can.is_empty() {
        "see".to_owned()
    } else {
        info.can.join(", ")
    };
    // What only a policy turns on is loaded here and not attached.
    let by_policy = !required && !matches!(info.watched.as_str(), "program" | "unix-connect");
    let result = if info.tier != "none" && (info.attached || by_policy) {
        let note = info
            .note
            .as_ref()
            .map(|note| format!("; {note}"))
            .unwrap_or_default();
        let how = if info.attached {
            "loaded and attached"
        } else {
            "loaded, to be attached when a policy asks for it,"
        };
        Ok(format!("{how} by {}: {can}{note}", info.tier))
    } else {
        let by_module = matches!(info.watched.as_str(), "socket" | "guard-files");
        let mend = if by_module && !has_bpf(modules) {
            format!("a security module can serve it: {}", here.bpf_lsm(modules))
        } else {
            format!(
                "see the message; a newer kernel usually helps: {}",
                here.kernel()
            )
        };
        let why = info.note.clone().unwrap_or_else(|| "did not attach".into());
        Err((why, mend))
    };
    check(&info.watched, required, result)
}

fn has_bpf(modules: &str) -> bool {
    modules.split(',').any(|name| name.trim() == "bpf")
}

fn bpf_lsm(here: &Distribution, modules: &str, loaded: &Loaded) -> DoctorCheck {
    let serves = loaded.hooks.iter().any(|hook| hook.tier == "lsm");
    let result = if serves {
        Ok("in the active list: the best tier serves".into())
    } else if has_bpf(modules) {
        let mend = "nothing on guard's side: the messages above say why; what serves instead is listed there";
        Err((
            "in the active list, but no program of this kind serves here".to_owned(),
            mend.to_owned(),
        ))
    } else {
        let found = match modules.trim() {
            "" => "the active list cannot be read".to_owned(),
            list => format!("not in the active list ({list})"),
        };
        let mend = format!(
            "not needed where modify-return serves, see above; to have it, {}",
            here.bpf_lsm(modules)
        );
        Err((found, mend))
    };
    check("bpf-lsm", false, result)
}

fn policy() -> DoctorCheck {
    let result = match files::load(None, Trust::of_this_process()) {
        Ok(policy) => {
            let files = match policy.parts.len() {
                1 => String::new(),
                more => format!(" in {more} files"),
            };
            let none = if Path::new(DEFAULT_POLICY).exists() {
                String::new()
            } else {
                format!("{DEFAULT_POLICY}: none; ")
            };
            Ok(format!(
                "{none}{}: {} rules{files}, {}",
                policy.source(),
                policy.rules.len(),
                policy.mode.name()
            ))
        }
        Err(error) => Err((error.one_line(), "mend it; see 'guardctl policy check'")),
    };
    check("policy", true, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian() -> Distribution {
        Distribution::of("ID=debian\nPRETTY_NAME=\"Debian 12\"\n", false)
    }

    fn info(watched: &str, tier: &str, can: &[&str]) -> HookInfo {
        HookInfo {
            watched: watched.into(),
            tier: tier.into(),
            can: can.iter().map(|word| (*word).to_owned()).collect(),
            attached: tier != "none",
            note: None,
        }
    }

    #[test]
    fn a_kernel_is_compared_by_number_and_an_unknown_form_is_tried() {
        for (release, ok) in [
            ("5.9.16-1-generic", false),
            ("4.19.0", false),
            ("5.10.0-8-amd64", true),
            ("6.1", true),
            ("10.0.1", true),
            ("custom", true),
        ] {
            let check = kernel_release(&debian(), release);
            assert_eq!(check.ok, ok, "{release}");
            assert_eq!(check.mend.is_some(), !ok);
        }
    }

    #[test]
    fn only_confidentiality_keeps_guard_out() {
        for (modes, ok) in [
            ("[none] integrity confidentiality\n", true),
            ("none [integrity] confidentiality\n", true),
            ("none integrity [confidentiality]\n", false),
            ("", true),
        ] {
            let check = lockdown(&debian(), modes);
            assert_eq!(check.ok, ok, "{modes}");
            assert!(ok || check.mend.unwrap().contains("lockdown=integrity"));
        }
    }

    #[test]
    fn what_is_missing_is_mended_by_this_distributions_means() {
        let check = bpf_lsm(
            &debian(),
            "capability,landlock,apparmor",
            &Loaded::default(),
        );
        assert!(!check.ok && !check.required);
        let mend = check.mend.unwrap();
        assert!(
            mend.contains("lsm=landlock,apparmor,bpf") && mend.contains("update-grub"),
            "{mend}"
        );
        // Being in the list is not serving.
        let listed = "capability,landlock,bpf";
        assert!(!bpf_lsm(&debian(), listed, &Loaded::default()).ok);
        let serves = Loaded {
            hooks: vec![info("open", "lsm", &["deny"])],
            not_enforced: Vec::new(),
        };
        assert!(bpf_lsm(&debian(), listed, &serves).ok);
        let files = hook(
            &info("guard-files", "none", &[]),
            &debian(),
            "capability,yama",
        );
        assert!(files.mend.unwrap().contains("lsm=yama,bpf"));
        let names = hook(&info("names", "none", &[]), &debian(), "capability,bpf");
        assert!(names.mend.unwrap().contains("linux-image-amd64"));
        let mut later = info("names", "cgroup", &["hold"]);
        later.attached = false;
        assert!(hook(&later, &debian(), "").ok);
        let mut open = info("open", "tracepoint", &["hold"]);
        open.attached = false;
        let open = hook(&open, &debian(), "");
        assert!(!open.ok && open.required);
    }

    #[test]
    fn the_paragraph_says_what_is_so_here() {
        let passed = [check(
            "root",
            true,
            Ok::<_, (String, String)>("fine".into()),
        )];
        let best = Loaded {
            hooks: ["open", "names", "dns", "requests", "guard-files"]
                .map(|watched| info(watched, "lsm", &["hold", "deny", "kill"]))
                .to_vec(),
            not_enforced: Vec::new(),
        };
        let text = paragraph(&debian(), "6.12", &passed, &best);
        assert!(
            text.starts_with("On Debian 12 with Linux 6.12 guard can run."),
            "{text}"
        );
        assert!(text.contains("A denied file is not opened"), "{text}");
        assert!(!text.contains("It cannot"), "{text}");
        let worst = Loaded {
            hooks: vec![info("open", "tracepoint", &["hold", "kill"])],
            not_enforced: vec!["anything while guardd is down: no bpffs".into()],
        };
        let text = paragraph(&debian(), "6.12", &passed, &worst);
        for says in [
            "It cannot make the opening of a file or the start of a program fail",
            "it cannot see opens by io_uring",
            "it cannot tell connections by names",
            "it cannot read requests inside TLS",
            "it cannot keep an agent that runs as root",
            "it cannot go on while guardd is down",
        ] {
            assert!(text.contains(says), "{says}: {text}");
        }
        let failed = [check("btf", true, Err(("none".into(), "mend")))];
        let text = paragraph(&debian(), "6.12", &failed, &Loaded::default());
        assert!(
            text.contains("cannot run before this is mended: btf."),
            "{text}"
        );
        assert!(!text.contains('\n'));
    }
}
