//! Mistakes and poor surroundings: one clear error, and nothing half-running.

use std::{fs, process::Command};

use guard_tests::{Guard, Place, Policy, server::Tcp};

/// Each kind of mistake: what is wrong, the policy after its first line, and where (line:column).
fn mistakes() -> Vec<(&'static str, String, &'static str)> {
    const LABEL: &str = "[[label]]\nname = \"a\"\nfiles = [\"**/.x\"]\n";
    let rule = |rest: &str| format!("{LABEL}[[rule]]\nname = \"r\"\n{rest}\n");
    let labels: String = (0..65)
        .map(|n| format!("[[label]]\nname = \"l{n}\"\nfiles = [\"f{n}\"]\n"))
        .collect();
    let label = |rest: &str| format!("[[label]]\nname = \"a\"\n{rest}\n");
    vec![
        ("syntax", "mode = \"enforce\n".into(), "2:16"),
        ("unknown key", "mod = \"enforce\"\n".into(), "2:1"),
        ("unknown mode", "mode = \"loud\"\n".into(), "2:8"),
        (
            "unknown label",
            rule("when = [\"b\"]\nthen = \"flag\""),
            "7:9",
        ),
        ("too many labels", labels, "195:8"),
        ("empty rule", rule("when = []\nthen = \"flag\""), "7:8"),
        ("no verdict", rule("when = [\"a\"]"), "5:1"),
        (
            "unknown verdict",
            rule("when = [\"a\"]\nthen = \"stop\""),
            "8:8",
        ),
        (
            "bad duration",
            rule("when = [\"a\"]\nthen = \"flag\"\nwithin = \"soon\""),
            "9:10",
        ),
        ("bad glob", label("files = [\"a[\"]"), "4:10"),
        ("bad prefix", label("addresses = [\"10.0.0.0/40\"]"), "4:14"),
        ("bad address", label("addresses = [\"300.1.1.1\"]"), "4:14"),
        ("bad command", label("argv = [\"**\"]"), "4:9"),
        ("empty label", label(""), "3:8"),
        ("empty agent", "[[agent]]\nname = \"x\"\n".into(), "3:8"),
    ]
}

#[test]
fn each_mistake_in_a_policy_is_told_with_its_place_and_changes_nothing() {
    let (place, server) = (Place::new(), Tcp::v4());
    let good = Policy::new()
        .addresses("infra", &[server.addr()])
        .rule("r", &["infra"], "deny", "");
    let guard = Guard::new(&place, &good);
    let mut tool = guard.tool();
    let policy = guard.policy();
    for (what, text, at) in mistakes() {
        fs::write(&policy, format!("version = 1\n{text}")).unwrap();
        let file = policy.display();
        for args in [
            &["policy", "check", policy.to_str().unwrap()][..],
            &["policy", "reload"],
        ] {
            let said = guard.ctl(args);
            assert_eq!(said.status, 2, "{what}: {args:?}: {said:?}");
            assert!(
                said.err.contains(&format!("{file}:{at}: ")),
                "{what}: {args:?}: {said:?}"
            );
            assert!(said.err.contains("expected"), "{what}: {said:?}");
            assert!(said.out.is_empty(), "{what}: {said:?}");
        }
        let answer = tool.ask(&format!("tcp {} x", server.addr()));
        assert_eq!(answer["errno"], libc::EPERM, "{what}: {answer}");
        assert!(
            guard.must(&["policy", "show"]).out.contains("deny"),
            "{what}"
        );
    }
    fs::remove_file(&policy).unwrap();
    let said = guard.ctl(&["policy", "reload"]);
    assert_ne!(said.status, 0, "{said:?}");
    assert_eq!(
        tool.ask(&format!("tcp {} x", server.addr()))["errno"],
        libc::EPERM
    );
    server.untouched();
}

#[test]
fn a_mistake_keeps_guardd_from_starting_and_check_from_passing() {
    let place = Place::new();
    for (what, text, at) in mistakes() {
        let text = format!("version = 1\n{text}");
        let said = Guard::of(&place).refused(&text);
        assert!(
            said.contains(&format!("policy.toml:{at}: ")),
            "{what}: {said}"
        );
    }
    let guards = Guard::of(&place).with(&["--check"]);
    let said = guards.refused("version = 1\nmod = 1\n");
    assert!(said.contains("policy.toml:2:1: "), "{said}");
    let good = Policy::new().agent("x", &place.name("nobody"), "");
    let output = Guard::of(&place)
        .with(&["--check"])
        .command(&good)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        !place.path("guard/guard.sock").exists(),
        "--check starts nothing"
    );
}

#[test]
fn a_reload_puts_the_new_policy_in_force_at_once_for_sessions_that_run() {
    let (place, server) = (Place::new(), Tcp::v4());
    let policy = |then: &str| {
        Policy::new()
            .addresses("infra", &[server.addr()])
            .rule("r", &["infra"], then, "")
    };
    let guard = Guard::new(&place, &policy("deny"));
    let mut events = guard.events();
    let mut tool = guard.tool();
    let connect = format!("tcp {} x", server.addr());
    for _ in 0..2 {
        assert_eq!(tool.ask(&connect)["errno"], libc::EPERM);
        fs::write(guard.policy(), &*policy("flag")).unwrap();
        guard.must(&["policy", "reload"]);
        assert_eq!(tool.must(&connect)["echo"], "x");
        fs::write(guard.policy(), &*policy("deny")).unwrap();
        guard.must(&["policy", "reload"]);
    }
    events.wait("the policy", |e| e.is("policy"));
    let said = guard.must(&["policy", "show"]).out;
    assert!(said.contains("deny"), "{said}");
}

#[test]
fn progress_with_a_rule_outlives_a_reload() {
    let (place, server) = (Place::new(), Tcp::v4());
    let secret = place.file("secret", "hunter2");
    let policy = Policy::new()
        .files("secret", &[secret.display()])
        .addresses("infra", &[server.addr()])
        .rule("r", &["secret", "infra"], "deny", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    tool.must(&format!("open openat {}", secret.display()));
    guard.must(&["policy", "reload"]);
    assert_eq!(
        tool.ask(&format!("tcp {} x", server.addr()))["errno"],
        libc::EPERM
    );
}

fn nothing(place: &Place) -> Policy {
    Policy::new().agent("x", &place.name("nobody"), "")
}

/// One line that names the program, the thing, and holds each of `words`.
#[track_caller]
fn is_clear(said: &str, words: &[&str]) {
    assert_eq!(said.trim_end().lines().count(), 1, "not one line: {said}");
    let lower = said.to_lowercase();
    for word in words {
        assert!(
            lower.contains(&word.to_lowercase()),
            "{word} is not in: {said}"
        );
    }
    assert!(!lower.contains("panicked"), "{said}");
}

#[test]
fn without_type_information_of_the_kernel_guardd_says_so() {
    let place = Place::new();
    let said = Guard::of(&place)
        .with(&["--btf", "/nonexistent"])
        .refused(&nothing(&place));
    is_clear(&said, &["/nonexistent", "BTF"]);
    let text = place.file("no-btf", "something else").display().to_string();
    let said = Guard::of(&place)
        .with(&["--btf", &text])
        .refused(&nothing(&place));
    is_clear(&said, &["no-btf", "BTF"]);
}

#[test]
fn without_root_guardd_says_so() {
    let place = Place::new();
    // Its own directory is the user's, so that nothing else is wrong.
    let guards = Guard::of(&place);
    guards.command(&nothing(&place));
    place.give(&guards.dir(), 65534);
    let wrapper = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let program = place.program(guards.command("").get_program().as_ref(), "guardd-for-all");
    let mut command = place.command(wrapper[0]);
    command
        .args(&wrapper[1..])
        .arg(program)
        .arg("--policy")
        .arg(guards.dir().join("policy.toml"));
    command.arg("--socket").arg(guards.dir().join("guard.sock"));
    command.arg("--state-dir").arg(guards.dir().join("state"));
    guards.command(&nothing(&place));
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    is_clear(&String::from_utf8_lossy(&output.stderr), &["root"]);
    assert!(!guards.dir().join("guard.sock").exists());
}

/// The kernel's types, in which a member's name is another.
fn doctored_types(place: &Place, member: &str) -> String {
    let mut types = fs::read("/sys/kernel/btf/vmlinux").unwrap();
    let name = format!("\0{member}\0").into_bytes();
    let at = types
        .windows(name.len())
        .position(|window| window == name)
        .unwrap_or_else(|| panic!("{member}: no such name"));
    types[at + 1] = b'@';
    let doctored = place.path(format!("without-{member}"));
    fs::write(&doctored, types).unwrap();
    doctored.display().to_string()
}

#[test]
fn kernel_types_that_lack_a_field_turn_off_what_needs_it_and_nothing_else() {
    const ALL: [&str; 6] = [
        "lineage",
        "exec",
        "program",
        "open",
        "connect",
        "unix-connect",
    ];
    let place = Place::new();
    let secret = place.file("secret", "hunter2");
    let server = Tcp::v4();
    let policy = Policy::new()
        .files("secret", &[secret.display()])
        .addresses("denied", &[server.addr()])
        .rule("r", &["denied"], "deny", "");
    // Member, the name that is told, what is off without it, and what goes on with less.
    for (member, told, off, less) in [
        (
            "f_inode",
            "file.f_inode",
            &["open", "program", "unix-connect"][..],
            &[][..],
        ),
        ("d_parent", "dentry.d_parent", &[], &["open"]),
        ("exe_file", "mm_struct.exe_file", &[], &["exec"]),
        ("peer", "unix_sock.peer", &["unix-connect"], &[]),
        ("tty", "signal_struct.tty", &[], &["exec"]),
    ] {
        let guard = Guard::of(&place)
            .named(member)
            .with(&["--btf", &doctored_types(&place, member)])
            .start(&policy);
        for watched in ALL {
            let hook = guard.hook(watched);
            let is_told = hook["note"].to_string().contains(told);
            assert_eq!(
                hook["tier"] == "none",
                off.contains(&watched),
                "{member}: {hook}"
            );
            assert_eq!(
                is_told,
                off.contains(&watched) || less.contains(&watched),
                "{member}: {hook}"
            );
        }
        let status = guard.json(&["status"]);
        let degraded = status["degraded"].to_string();
        for watched in off {
            assert!(
                degraded.contains(&format!("{watched} is not watched")),
                "{member}: {status}"
            );
        }
        assert_eq!(status["state"] == "degraded", !off.is_empty(), "{status}");
        // What needs nothing of it goes on.
        let mut tool = guard.tool();
        assert_eq!(
            tool.ask(&format!("tcp {} hello", server.addr()))["errno"],
            libc::EPERM,
            "{member}"
        );
    }
    server.untouched();
}

#[test]
fn kernel_types_without_what_lineage_needs_are_one_clear_error() {
    let place = Place::new();
    let said = Guard::of(&place)
        .with(&["--btf", &doctored_types(&place, "start_boottime")])
        .refused(&nothing(&place));
    is_clear(&said, &["start_boottime"]);
}

#[test]
fn without_tracefs_guardd_says_so() {
    let place = Place::new();
    // In a mount namespace without tracefs, and without the right to mount it.
    let script = "umount -a -t tracefs 2>/dev/null; umount /sys/kernel/tracing 2>/dev/null; \
                  umount /sys/kernel/debug 2>/dev/null; \
                  mount -t tmpfs none /sys/kernel/tracing && mount -o remount,ro /sys/kernel/tracing; \
                  exec /usr/bin/setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin \"$@\"";
    let wrapper = ["unshare", "-m", "sh", "-c", script, "sh"];
    let said = Guard::of(&place)
        .through(&wrapper)
        .refused(&nothing(&place));
    // Which of the two it finds first, it may choose.
    is_clear(&said, &[]);
    let lower = said.to_lowercase();
    assert!(lower.contains("tracefs") || lower.contains("cap"), "{said}");
}

#[test]
fn a_socket_in_use_is_left_alone() {
    let place = Place::new();
    let first = Guard::new(&place, &nothing(&place));
    let other = place.path("other-state").display().to_string();
    let mut command = Guard::of(&place).command(&nothing(&place));
    command.args(["--state-dir", &other]);
    // The later --state-dir may be refused as given twice, so it is given once.
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut second = place.command(command.get_program());
    let at = args.iter().position(|arg| arg == "--state-dir").unwrap();
    second.args(&args[..at]).args(&args[at + 2..]);
    let output = second.output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    is_clear(&said, &[first.socket().to_str().unwrap()]);
    first.must(&["status"]);
}

#[test]
fn a_state_directory_in_use_is_left_alone() {
    let place = Place::new();
    let first = Guard::new(&place, &nothing(&place));
    let command = Guard::of(&place).command(&nothing(&place));
    let socket = place.path("other.sock");
    let args: Vec<_> = command
        .get_args()
        .map(|arg| {
            if arg == first.socket() {
                socket.clone().into()
            } else {
                arg.to_owned()
            }
        })
        .collect();
    let output = place
        .command(command.get_program())
        .args(&args)
        .output()
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    is_clear(&said, &[first.state_dir().to_str().unwrap()]);
    assert!(!socket.exists());
    first.must(&["status"]);
}

#[test]
fn a_socket_that_nobody_listens_on_is_replaced() {
    let place = Place::new();
    let mut guard = Guard::new(&place, &nothing(&place));
    guard.kill();
    assert!(guard.socket().exists(), "a stale socket is left");
    guard.start();
    guard.must(&["status"]);
    assert!(guard.stop().success());
    assert!(
        !guard.socket().exists(),
        "an end by SIGTERM takes the socket away"
    );
}

#[test]
fn a_file_that_is_no_socket_is_not_replaced() {
    let place = Place::new();
    let precious = place.file("guard/guard.sock", "precious");
    let output = Guard::of(&place)
        .command(&nothing(&place))
        .output()
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    is_clear(&String::from_utf8_lossy(&output.stderr), &["guard.sock"]);
    assert_eq!(fs::read_to_string(precious).unwrap(), "precious");
}

#[test]
fn a_state_directory_that_cannot_be_written_is_told() {
    let place = Place::new();
    place.file("guard/state", "a file in its place");
    let said = Guard::of(&place).refused(&nothing(&place));
    is_clear(&said, &["guard/state"]);
}

#[test]
fn a_missing_policy_file_that_was_named_is_told() {
    let place = Place::new();
    let guards = Guard::of(&place);
    let mut command = guards.command("");
    fs::remove_file(guards.dir().join("policy.toml")).unwrap();
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    is_clear(&String::from_utf8_lossy(&output.stderr), &["policy.toml"]);
}

#[test]
fn a_full_disk_is_told() {
    let place = Place::new();
    fs::create_dir_all(place.path("guard/state")).unwrap();
    // A file system with no room at all, seen by this guardd alone.
    let script = format!(
        "mount -t tmpfs -o size=16k,nr_inodes=64 none {0} && \
         dd if=/dev/zero of={0}/filler bs=4k count=64 2>/dev/null; exec \"$@\"",
        place.path("guard/state").display()
    );
    let wrapper = [
        "unshare",
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        &script,
        "sh",
    ];
    let said = Guard::of(&place)
        .through(&wrapper)
        .refused(&nothing(&place));
    is_clear(&said, &["state", "no space left"]);
}

#[test]
fn a_disk_that_fills_up_degrades_and_enforcement_goes_on() {
    let (place, server) = (Place::new(), Tcp::v4());
    fs::create_dir_all(place.path("guard/state")).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=256k none {} && exec \"$@\"",
        place.path("guard/state").display()
    );
    let wrapper = [
        "unshare",
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        &script,
        "sh",
    ];
    let policy =
        Policy::new()
            .addresses("infra", &[server.addr()])
            .rule("r", &["infra"], "deny", "");
    let guard = Guard::of(&place).through(&wrapper).start(&policy);
    let mut tool = guard.tool();
    for _ in 0..200 {
        tool.must(&format!("run echo {}", "x".repeat(3000)));
    }
    let status = guard_tests::eventually("status is degraded", || {
        let status = guard.json(&["status"]);
        (status["state"] == "degraded").then_some(status)
    });
    assert!(
        status["degraded"]
            .to_string()
            .to_lowercase()
            .contains("journal"),
        "{status}"
    );
    assert_eq!(
        tool.ask(&format!("tcp {} x", server.addr()))["errno"],
        libc::EPERM
    );
}

#[test]
fn wrong_usage_is_told_in_one_line() {
    let place = Place::new();
    let guards = Guard::of(&place);
    let program = guards.command("").get_program().to_owned();
    for args in [&["--nonsense"][..], &["--mode", "loud"], &["extra"]] {
        let output = Command::new(&program).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(
            !String::from_utf8_lossy(&output.stderr).contains("panicked"),
            "{output:?}"
        );
    }
}
