//! `guardctl run` as a process, against a listener that adopts or refuses.

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{
    cli::tests::{StandIn, as_a_program},
    wire::{Code, Failure, Reply, Request},
};

/// Arguments for [`entry_for_a_process_of_its_own`], a line each.
const ARGS: &str = "GUARDCTL_TEST_ARGS";
/// What stands on stdout before the program's own output: the test harness speaks first.
const BEGIN: &str = "--begin--";

/// No test by itself. `run` forks, which a test harness with its threads must not; so the tests here
/// start this very binary again, with one thread, and have it call guardctl.
#[test]
fn entry_for_a_process_of_its_own() {
    let Ok(args) = env::var(ARGS) else { return };
    let args: Vec<&str> = args.split('\n').collect();
    println!("{BEGIN}");
    std::process::exit(as_a_program(&args).into());
}

fn adopting() -> StandIn {
    StandIn::replying(&[Reply::Adopted {
        session: "s-7".into(),
        processes: 1,
        note: None,
    }])
}

fn start(socket: &Path, args: &[&str]) -> Child {
    command(socket, args).spawn().unwrap()
}

fn command(socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    let args = [&["--socket", socket.to_str().unwrap(), "run"], args]
        .concat()
        .join("\n");
    command
        .args(["--exact", "--nocapture", "--test-threads=1", "--quiet"])
        .arg(
            concat!(module_path!(), "::entry_for_a_process_of_its_own")
                .split_once("::")
                .unwrap()
                .1,
        )
        .env(ARGS, args)
        .env_remove("GUARD_INTENT")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Status, stdout and stderr of `guardctl run …`.
fn guardctl_run(daemon: &StandIn, args: &[&str]) -> (i32, String, String) {
    let output = start(&daemon.socket(), args).wait_with_output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let own = out
        .split_once(&format!("{BEGIN}\n"))
        .unwrap_or_else(|| panic!("never began: {out}"))
        .1;
    let status = output
        .status
        .code()
        .unwrap_or_else(|| -output.status.signal().unwrap());
    (
        status,
        own.into(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// A child that has printed `ready`, and the rest of what it prints.
fn started_and_ready(child: &mut Child) -> (ChildStdin, BufReader<ChildStdout>) {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line != "ready\n" {
        line.clear();
        assert_ne!(
            out.read_line(&mut line).unwrap(),
            0,
            "ended before it was ready"
        );
    }
    (child.stdin.take().unwrap(), out)
}

fn send(child: &Child, signal: libc::c_int) {
    // SAFETY: takes numbers; the process is our child and not waited for yet.
    let result = unsafe { libc::kill(child.id() as libc::pid_t, signal) };
    assert_eq!(result, 0);
}

/// Whether this process ignores a signal, and so what it starts.
fn ignored(signal: libc::c_int) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 1 << (signal - 1) != 0
}

#[test]
fn the_commands_status_is_passed_on() {
    for status in [0, 1, 7, 255] {
        let (got, out, err) =
            guardctl_run(&adopting(), &["--", "sh", "-c", &format!("exit {status}")]);
        assert_eq!((got, out.as_str(), err.as_str()), (status, "", ""));
    }
}

#[test]
fn a_signals_number_is_added_to_128() {
    assert_eq!(
        guardctl_run(&adopting(), &["--", "sh", "-c", "kill -KILL $$"]).0,
        128 + 9
    );
    assert_eq!(
        guardctl_run(&adopting(), &["--", "sh", "-c", "kill -TERM $$"]).0,
        128 + 15
    );
}

#[test]
fn what_cannot_be_executed_is_127_or_126_as_in_a_shell() {
    let (status, out, err) = guardctl_run(&adopting(), &["--", "no-such-program-here"]);
    assert_eq!((status, out.as_str()), (127, ""));
    assert!(
        err.starts_with("guardctl: no-such-program-here: No such file or directory"),
        "{err}"
    );
    let (status, _, err) = guardctl_run(&adopting(), &["--", "/etc/passwd"]);
    assert_eq!(status, 126, "{err}");
    assert!(
        err.starts_with("guardctl: /etc/passwd: Permission denied"),
        "{err}"
    );
}

#[test]
fn a_directory_on_path_that_may_not_be_searched_hides_nothing_and_is_no_finding() {
    let dir = tempfile::tempdir().unwrap();
    // Root may search it all the same: this shows something when the tests run as somebody else.
    let closed = dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o000)).unwrap();
    let path = format!("{}:{}", closed.display(), env::var("PATH").unwrap());
    let daemon = adopting();
    let output = command(&daemon.socket(), &["--", "no-such-program-here"])
        .env("PATH", path)
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_eq!(output.status.code(), Some(127));
}

#[test]
fn the_command_gets_its_session_and_its_callers_surroundings() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().canonicalize().unwrap();
    let daemon = adopting();
    let script = "echo $GUARD_SESSION $OF_THE_CALLER; pwd; cat";
    let mut child = command(
        &daemon.socket(),
        &["--intent", "why", "--", "sh", "-c", script],
    )
    .env("OF_THE_CALLER", "x")
    .current_dir(&here)
    .spawn()
    .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"from stdin\n")
        .unwrap();
    let out = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(
        out.ends_with(&format!("s-7 x\n{}\nfrom stdin\n", here.display())),
        "{out}"
    );
    let Request::Adopt {
        agent,
        intent,
        run: true,
        ..
    } = daemon.request()
    else {
        panic!("asked for something else")
    };
    assert_eq!(
        (agent.as_deref(), intent.as_deref()),
        (Some("sh"), Some("why"))
    );
}

#[test]
fn signals_and_descriptors_are_as_the_caller_left_them() {
    // Signals 1 to 28: the C library sets some of its own real-time ones on one way and not on the
    // other.
    let script = r"sed -En 's/^(Sig(Blk|Ign|Cgt):).{10}/\1/p' /proc/self/status; ls /proc/self/fd";
    let direct = Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .output()
        .unwrap();
    let (_, out, _) = guardctl_run(&adopting(), &["--", "sh", "-c", script]);
    assert_eq!(out, String::from_utf8(direct.stdout).unwrap());
}

#[test]
fn a_refusal_leaves_nothing_running_and_nothing_done() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("ran");
    let refusal = Reply::Error(Failure {
        code: Code::Forbidden,
        message: "run: inside a session: ask a person".into(),
    });
    let daemon = StandIn::replying(&[refusal]);
    let (status, out, err) = guardctl_run(
        &daemon,
        &["--agent", "x", "--", "touch", mark.to_str().unwrap()],
    );
    assert_eq!((status, out.as_str()), (4, ""));
    assert_eq!(err, "guardctl: run: inside a session: ask a person\n");
    let Request::Adopt { pid, agent, .. } = daemon.request() else {
        panic!("asked for something else")
    };
    assert_eq!(agent.as_deref(), Some("x"));
    assert!(
        !Path::new(&format!("/proc/{pid}")).exists(),
        "{pid} is still there"
    );
    assert!(!mark.exists());
}

#[test]
fn without_a_daemon_nothing_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, mark) = (dir.path().join("none.sock"), dir.path().join("ran"));
    let output = start(&socket, &["--", "touch", mark.to_str().unwrap()])
        .wait_with_output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(!mark.exists());
}

#[test]
fn when_guardctl_is_killed_before_the_answer_nothing_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("ran");
    let (asked, was_asked) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let daemon = StandIn::behaving(move |stream, _| {
        asked.send(()).unwrap();
        // Keeps the connection open and says nothing.
        let _ = ended.recv();
        drop(stream);
    });
    let mut child = start(&daemon.socket(), &["--", "touch", mark.to_str().unwrap()]);
    was_asked.recv_timeout(Duration::from_secs(20)).unwrap();
    child.kill().unwrap();
    // The waiting child holds stdout as well: its end of file says that both are gone.
    let mut stdout = child.stdout.take().unwrap();
    let (gone, both_gone) = mpsc::channel();
    thread::spawn(move || {
        let _ = stdout.read_to_end(&mut Vec::new());
        let _ = gone.send(());
    });
    both_gone
        .recv_timeout(Duration::from_secs(20))
        .expect("the waiting child outlived guardctl");
    child.wait().unwrap();
    drop(end);
    assert!(!mark.exists());
}

#[test]
fn what_a_process_sends_to_guardctl_reaches_the_command() {
    for (signal, name) in [
        (libc::SIGTERM, "TERM"),
        (libc::SIGHUP, "HUP"),
        (libc::SIGINT, "INT"),
        (libc::SIGUSR1, "USR1"),
        (libc::SIGUSR2, "USR2"),
    ] {
        if ignored(signal) {
            continue; // As under nohup: then the command ignores it as well.
        }
        let daemon = adopting();
        // `wait` is what a trap interrupts at once; a background job has to be given stdin by name.
        let script =
            format!("trap 'echo caught; exit 9' {name}; exec 3<&0; cat <&3 & echo ready; wait");
        let mut child = start(&daemon.socket(), &["--", "sh", "-c", &script]);
        let (stdin, mut out) = started_and_ready(&mut child);
        send(&child, signal);
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(
            (line.as_str(), child.wait().unwrap().code()),
            ("caught\n", Some(9)),
            "SIG{name}"
        );
        drop(stdin);
    }
}

#[test]
fn a_command_without_a_trap_ends_by_the_signal_that_guardctl_got() {
    let daemon = adopting();
    let mut child = start(
        &daemon.socket(),
        &["--", "sh", "-c", "echo ready; exec cat"],
    );
    let (_stdin, _out) = started_and_ready(&mut child);
    send(&child, libc::SIGTERM);
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
}

#[test]
fn a_user_that_does_not_exist_is_2() {
    // SAFETY: takes nothing.
    let root = unsafe { libc::geteuid() } == 0;
    let (status, _, err) =
        guardctl_run(&adopting(), &["--user", "no-such-user-here", "--", "true"]);
    assert_eq!(status, if root { 2 } else { 4 }, "{err}");
}

#[test]
fn another_user_gets_its_own_ids_and_home_and_keeps_the_rest() {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        return; // Only root may do it.
    }
    let script = "id -u; id -un; echo $HOME $USER $GUARD_SESSION; test -n \"$GUARDCTL_TEST_ARGS\" && echo kept";
    let (status, out, err) =
        guardctl_run(&adopting(), &["--user", "nobody", "--", "sh", "-c", script]);
    assert_eq!(status, 0, "{err}");
    let nobody = crate::cli::account::Account::by_name("nobody")
        .unwrap()
        .unwrap();
    let home = nobody.home.to_str().unwrap();
    assert_eq!(
        out,
        format!("{}\nnobody\n{home} nobody s-7\nkept\n", nobody.uid)
    );
}

#[test]
fn a_session_that_is_no_id_runs_nothing() {
    for session in ["", "s-1\nLD_PRELOAD=x", "s 1"] {
        let daemon = StandIn::replying(&[Reply::Adopted {
            session: session.into(),
            processes: 1,
            note: None,
        }]);
        let (status, out, err) = guardctl_run(&daemon, &["--", "echo", "ran"]);
        assert_eq!((status, out.as_str()), (1, ""), "{err}");
    }
}
