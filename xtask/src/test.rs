//! `cargo xtask test`: unit tests as the caller, then the end-to-end tests as
//! root on the live kernel.
//!
//! Everything is compiled as the caller and only the finished test programs run
//! as root, so `target/` stays the caller's.

use std::{
    ffi::OsString,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, WORKSPACE},
    setup,
    shell::{self, say},
    sudo, vm, workspace,
};

/// How long output may still come after its program has ended. A daemon that a
/// failed test left behind keeps the pipe open for ever.
const AFTER_EXIT: Duration = Duration::from_secs(2);

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this.
    filter: Option<String>,
    /// Leave out the end-to-end tests; needs neither root nor BPF at run time.
    #[arg(long, conflicts_with = "e2e")]
    unit: bool,
    /// Run only the end-to-end tests.
    #[arg(long)]
    e2e: bool,
    /// End-to-end tests that run at once in one test program.
    #[arg(long, default_value_t = 2, value_name = "N")]
    test_threads: usize,
    /// Minutes after which a test program is killed and counts as failed.
    #[arg(long, default_value_t = 30, value_name = "MINUTES")]
    timeout: u64,
    /// On this kernel alone, without the virtual machines.
    #[arg(long)]
    no_vm: bool,
    /// Passed on to the end-to-end test programs.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// What the closing lines of the test programs add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    /// Parts of tests that could not be tried.
    pub(crate) parts: u64,
    /// Tests of the program that runs that the harness will count as passed, though they were not tried.
    passed_untried: u64,
}

impl Tally {
    /// The closing line.
    pub(crate) fn line(&self) -> String {
        let Self {
            passed,
            failed,
            ignored,
            parts,
            ..
        } = self;
        let parts = match parts {
            0 => String::new(),
            parts => format!(", and parts of tests {parts} times"),
        };
        format!("{passed} passed, {failed} failed, {ignored} skipped{parts}")
    }

    /// Adds what other test programs have come to.
    pub(crate) fn join(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.parts += other.parts;
    }

    /// Adds a line like
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; …`;
    /// any other line adds nothing.
    pub(crate) fn add(&mut self, line: &str) {
        // A test that found that it cannot be tried here, or a part of one: the harness begins the line, and counts
        // it as passed.
        if line.starts_with("skipped: ") || line.contains(" ... skipped: ") {
            self.ignored += 1;
            self.passed_untried += 1;
        }
        if line.starts_with("skipped in part: ") || line.contains(" ... skipped in part: ") {
            self.parts += 1;
        }
        let Some(result) = line.trim_start().strip_prefix("test result: ") else {
            return;
        };
        let counts = result.split_once(". ").map_or("", |(_, counts)| counts);
        for count in counts.split("; ") {
            let Some((number, what)) = count.trim().split_once(' ') else {
                continue;
            };
            let number: u64 = number.parse().unwrap_or(0);
            match what {
                "passed" => {
                    let untried = std::mem::take(&mut self.passed_untried);
                    self.passed += number.saturating_sub(untried);
                }
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let started = Instant::now();
    // Release for what is tested: it is what users run, `demo` shares it, and
    // timing belongs to the behaviour. The tests themselves compile faster as
    // they are.
    let bin_dir = match args.unit {
        true => {
            setup::ensure()?;
            None
        }
        false => Some(build::given()?),
    };

    let timeout = Duration::from_secs(args.timeout * 60);
    let mut tally = Tally::default();
    let mut failures = Vec::new();

    if !args.e2e {
        let mut cargo = build::cargo("test")?;
        cargo
            .args(WORKSPACE)
            .args(["--lib", "--bins", "--no-fail-fast"])
            .args(&args.filter);
        say("test", "unit tests");
        if let Err(error) = run_tests(&mut cargo, timeout, &mut tally) {
            failures.push(format!("unit tests: {error:#}"));
        }
    }
    if let Some(bin_dir) = &bin_dir {
        let programs = test_programs()?;
        let with_guests = !args.no_vm && args.filter.is_none() && args.rest.is_empty();
        let clients = clients();
        let room = vm::Room::default();
        // The tests on this kernel wait more than they compute, and an emulated processor computes all the time.
        thread::scope(|scope| {
            let room = &room;
            let guests = with_guests.then(|| scope.spawn(|| in_guests(room)));
            // However this ends, nobody waits for it.
            let _over = Over(room);
            for program in programs {
                let name = program.name;
                let mut command = sudo::command(
                    &program.executable.to_string_lossy(),
                    &program.executable,
                    [(workspace::BIN_DIR_VAR, bin_dir.as_os_str())]
                        .into_iter()
                        .chain(
                            clients
                                .iter()
                                .map(|(name, value)| (*name, value.as_os_str())),
                        ),
                )?;
                command
                    // As cargo does it, so that a test finds its fixtures either way.
                    .current_dir(workspace::root().join("tests"))
                    .args(["--test-threads", &args.test_threads.to_string()])
                    .args(&args.filter)
                    .args(&args.rest);
                say("test", format!("end-to-end: {name}"));
                if let Err(error) = run_tests(&mut command, timeout, &mut tally) {
                    failures.push(format!("{name}: {error:#}"));
                }
            }
            room.make();
            if let Some(guests) = guests {
                let (of_guests, failed) = guests
                    .join()
                    .unwrap_or_else(|_| bail!("the virtual machines' thread has panicked"))?;
                tally.join(&of_guests);
                failures.extend(failed);
            }
            anyhow::Ok(())
        })?;
    }

    for failure in &failures {
        say("test", format!("failed: {failure}"));
    }
    say("test", format!("{:.0} s", started.elapsed().as_secs_f32()));
    println!("{}", tally.line());
    if !failures.is_empty() {
        bail!(
            "test: {} of the test runs failed, see above",
            failures.len()
        );
    }
    if tally.passed == 0 && args.filter.is_none() {
        bail!("test: no test ran: are there any in the workspace?");
    }
    Ok(())
}

/// Says where libssl of OpenSSL 1.1 is; the test program `requests` has the same name.
const LIBSSL_1_1_VAR: &str = "GUARD_TEST_LIBSSL_1_1";

/// Variables by which the tests find programs that this machine may lack. Without one a test says what it lacks.
fn clients() -> Vec<(&'static str, OsString)> {
    let given = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let mut found = Vec::new();
    match vm::clients::python_packages() {
        Ok(path) => {
            let mut path = path.into_os_string();
            if let Some(given) = given("PYTHONPATH") {
                path.push(":");
                path.push(given);
            }
            found.push(("PYTHONPATH", path));
        }
        Err(error) => say(
            "test",
            format!("without python's requests and httpx: {error:#}"),
        ),
    }
    match given(LIBSSL_1_1_VAR).map_or_else(vm::clients::openssl_1_1, |path| Ok(path.into())) {
        Ok(path) => found.push((LIBSSL_1_1_VAR, path.into_os_string())),
        Err(error) => say("test", format!("without OpenSSL 1.1: {error:#}")),
    }
    found
}

/// Makes room for a second virtual machine when it goes out of scope.
struct Over<'a>(&'a vm::Room);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.make();
    }
}

/// What came of the sample of other kernels.
fn in_guests(room: &vm::Room) -> Result<(Tally, Vec<String>)> {
    let mut tally = Tally::default();
    let guests = vm::sample();
    let failures = match vm::Laboratory::prepare(&guests, &[]) {
        Ok(lab) => {
            let systemd = vm::Systemd {
                only: &[],
                must: false,
            };
            lab.run_all(&guests, Some(systemd), &mut tally, room)?
        }
        // Without the archive's kernels nothing can be said of other kernels than this one; everything
        // else has been tried.
        Err(error) => {
            say("test", format!("virtual machines: skipped: {error:#}"));
            tally.ignored += guests.len() as u64;
            Vec::new()
        }
    };
    Ok((tally, failures))
}

/// A compiled end-to-end test program.
pub(crate) struct TestProgram {
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
}

/// Compiles the end-to-end tests and says where they are.
pub(crate) fn test_programs() -> Result<Vec<TestProgram>> {
    let mut cargo = build::cargo("test")?;
    // Of all packages, as for the unit tests: for one alone, what it depends on would have other features, and be
    // compiled again.
    cargo
        .args(WORKSPACE)
        .args(["--test", "*", "--no-run"])
        .args(["--message-format", "json-render-diagnostics"])
        .stdout(Stdio::piped());
    let output = cargo
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .with_context(|| format!("test: cannot run `{}`", shell::shown(&cargo)))?;
    if !output.status.success() {
        bail!("test: the end-to-end tests do not compile: see above");
    }
    let mut programs: Vec<_> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(test_program)
        .collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

/// The test program that one line of cargo's messages announces, if it does.
fn test_program(message: &str) -> Option<TestProgram> {
    // A JSON parser would more than double what xtask compiles. Cargo writes
    // one object on a line; the two fields looked at are strings of its own
    // making: `"executable":null` for what is not a program, and a profile
    // with `"test":true` for what has a test harness.
    if !message.contains(r#""reason":"compiler-artifact""#) {
        return None;
    }
    let (_, profile) = message.split_once(r#""profile":{"#)?;
    if !profile.split('}').next()?.contains(r#""test":true"#) {
        return None;
    }
    let (_, executable) = message.split_once(r#""executable":""#)?;
    let executable = PathBuf::from(executable.split('"').next()?);
    // `lineage-0123456789abcdef`: the test's name and cargo's hash.
    let stem = executable.file_name()?.to_string_lossy().into_owned();
    let name = stem.rsplit_once('-').map_or(&*stem, |(name, _)| name);
    Some(TestProgram {
        name: name.to_owned(),
        executable,
    })
}

/// Runs a test program, passes its output on and counts its results.
fn run_tests(command: &mut Command, timeout: Duration, tally: &mut Tally) -> Result<()> {
    let status = follow(command, timeout, |line| {
        println!("{line}");
        tally.add(line);
    })?;
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}

/// Runs `command`, gives each line that it prints to `on_line`, and returns how
/// it ended; it is killed after `timeout`.
fn follow(
    command: &mut Command,
    timeout: Duration,
    mut on_line: impl FnMut(&str),
) -> Result<ExitStatus> {
    /// How often the child is looked at while it prints nothing.
    const LOOK: Duration = Duration::from_millis(50);

    let deadline = Instant::now() + timeout;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`", shell::shown(command)))?;
    let stdout = child.stdout.take().context("no pipe")?;
    let (lines, received) = mpsc::sync_channel(64);
    thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut line = Vec::new();
        while stdout.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line);
            if lines.send(text.trim_end_matches('\n').to_owned()).is_err() {
                break;
            }
            line.clear();
        }
    });

    let mut ended: Option<(ExitStatus, Instant)> = None;
    loop {
        match received.recv_timeout(LOOK) {
            Ok(line) => on_line(&line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        match ended {
            Some((_, at)) if at.elapsed() > AFTER_EXIT => break,
            Some(_) => {}
            None => ended = child.try_wait()?.map(|status| (status, Instant::now())),
        }
        if ended.is_none() && Instant::now() >= deadline {
            kill(&mut child)?;
            bail!("no end after {} min: killed", timeout.as_secs() / 60);
        }
    }
    match ended {
        Some((status, _)) => Ok(status),
        None => Ok(child.wait()?),
    }
}

/// Ends `child`. What runs behind sudo is root's, and so is its end: sudo passes
/// a SIGTERM on, a SIGKILL it cannot.
fn kill(child: &mut std::process::Child) -> Result<()> {
    if !sudo::is_root()? {
        let pid = child.id().to_string();
        let _ = Command::new("sudo").args(["kill", &pid]).status();
        thread::sleep(AFTER_EXIT);
    }
    let _ = child.kill();
    child.wait()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A message as cargo writes it, for an artifact of the given kind.
    fn artifact(name: &str, test: bool, executable: Option<&Path>) -> String {
        let executable =
            executable.map_or("null".to_owned(), |path| format!("\"{}\"", path.display()));
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"x","target":{{"kind":["test"],"name":"{name}","test":true}},"profile":{{"opt_level":"0","debuginfo":2,"test":{test}}},"features":[],"filenames":[],"executable":{executable},"fresh":true}}"#
        )
    }

    #[test]
    fn closing_lines_add_up_and_other_lines_do_not_count() {
        let mut tally = Tally::default();
        tally.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s");
        tally.add("test lineage ... ok");
        tally.add("skipped: a_test: no such tier here");
        tally.add("test a_test ... skipped: a_test: no such tier here");
        tally.add("test another ... skipped in part: another: no such socket here");
        tally.add("test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(
            tally,
            Tally {
                passed: 5,
                failed: 2,
                ignored: 3,
                parts: 1,
                passed_untried: 0,
            }
        );
    }

    #[test]
    fn a_test_program_is_told_from_other_artifacts() {
        let path = Path::new("/t/debug/deps/lineage-0123456789abcdef");
        let program = test_program(&artifact("lineage", true, Some(path))).expect("program");
        assert_eq!(
            (program.name.as_str(), program.executable.as_path()),
            ("lineage", path)
        );
        assert!(test_program(&artifact("fixture", false, Some(path))).is_none());
        assert!(test_program(&artifact("lib", true, None)).is_none());
        assert!(test_program(r#"{"reason":"build-finished","success":true}"#).is_none());
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let error = follow(
            Command::new("sleep").arg("60"),
            Duration::from_millis(100),
            |_| {},
        )
        .expect_err("ended by itself");
        assert!(format!("{error}").contains("killed"));
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipe_open_does_not_keep_us() {
        let started = Instant::now();
        let mut lines = Vec::new();
        let status = follow(
            Command::new("sh").args(["-c", "sleep 30 & echo out"]),
            Duration::from_secs(20),
            |line| lines.push(line.to_owned()),
        )
        .expect("status");
        assert!(status.success());
        assert_eq!(lines, ["out"]);
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
