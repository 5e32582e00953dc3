//! The evasion suite: every technique of the table, on every tier that this kernel offers.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    process::{Command, Stdio},
};

use guard_tests::{
    Events, Guard, Guards, Place, Policy, Tool,
    evasion::{self, Needs, Outcome, Technique},
    fixture, proc, skipped,
};

/// Made up, and like no token.
const SECRET: &str = "hunter2-of-the-evasions";

struct Stage {
    place: Place,
    tier: &'static str,
    guard: Guard,
    events: Events,
    secret: std::path::PathBuf,
    opened: File,
    memory: &'static str,
    /// Outside the session, with the secret in its environment.
    stranger: Tool,
    /// Held for as long as the stage stands.
    held: Tool,
}

impl Stage {
    /// `None` where the kernel does not offer the tier.
    fn set(tier: &'static str) -> Option<Self> {
        let place = Place::new();
        let secret = place.file("secret", SECRET);
        let held = place.file("held", "x");
        let program = place.path("labelled-program");
        fs::copy(fixture("guard-fixture-evader"), &program).unwrap();
        let at = place.dir().display().to_string();
        let calls =
            |name: &str, calls: &str| format!("[[label]]\nname = \"{name}\"\ncalls = [{calls}]\n");
        let policy = Policy::new()
            .files(
                "secret",
                &[secret.display().to_string(), format!("{at}/**/*.pem")],
            )
            .files("held", &[held.display()])
            .files("program", &[program.display()])
            .files("process", &["/proc/*/environ", "/proc/*/mem"])
            .and(&calls(
                "tamper",
                r#""signal-guard", "resume-held", "ptrace-guard""#,
            ))
            .and(&calls("outside", r#""ptrace-outside""#))
            .and(&calls("bpf", r#""bpf""#))
            .and(&calls("ring", r#""io-uring""#))
            .rule("r-secret", &["secret"], "deny", "")
            .rule("r-held", &["held"], "hold", "timeout = \"1h\"")
            .rule("r-program", &["program"], "deny", "")
            .rule("r-process", &["process"], "deny", "")
            .rule("r-tamper", &["tamper"], "deny", "")
            .rule("r-outside", &["outside"], "deny", "")
            .rule("r-bpf", &["bpf"], "deny", "")
            .rule("r-ring", &["ring"], "deny", "");
        let guards: Guards = Guard::of(&place).with(&["--tier", tier]);
        let guard = match guards.try_start(&policy) {
            Ok(guard) => guard,
            Err(said) => {
                assert!(said.contains(&format!("tier {tier}:")), "{said}");
                skipped(&format!("{tier}: {said}"));
                return None;
            }
        };
        assert_eq!(guard.hook("open")["tier"], tier);
        let mut holds = guard.tool();
        holds.tell(&format!("open openat {}", held.display()));
        guard.hold();
        proc::wait_stopped(holds.pid());
        let mut stranger = place.command(fixture("guard-fixture-tool"));
        stranger.env("A_SECRET", SECRET);
        Some(Self {
            tier,
            events: guard.events(),
            guard,
            opened: File::open(&secret).unwrap(),
            memory: Box::leak(SECRET.to_owned().repeat(4).into_boxed_str()),
            stranger: Tool::start(stranger),
            held: holds,
            secret,
            place,
        })
    }

    fn command(&self, technique: &Technique) -> Command {
        let mut command = self
            .guard
            .run(&["--agent", technique.id], fixture("guard-fixture-evader"));
        command.arg(technique.id).arg(&self.secret);
        let me = std::process::id();
        let more = match technique.needs {
            Needs::Nothing => SECRET.to_owned(),
            Needs::File(stem) => {
                let name = [stem, b".pem"].concat();
                let name: OsString = OsStr::from_bytes(&name).to_owned();
                fs::write(self.place.path("").join(name), SECRET).unwrap();
                String::new()
            }
            Needs::Stdin => String::new(),
            Needs::Memory => format!("{me}:{}", self.memory.as_ptr() as usize),
            Needs::Descriptor => format!("{me}:{}", self.opened.as_raw_fd()),
            Needs::Environment => format!("{}:0", self.stranger.pid()),
            Needs::Guardd => format!("{}:0", self.guard.pid()),
            Needs::Held => format!("{}:0", self.held.pid()),
        };
        command.arg(more);
        match technique.needs {
            Needs::Stdin => command.stdin(File::open(&self.secret).unwrap()),
            _ => command.stdin(Stdio::null()),
        };
        command
    }

    /// Tries one technique; what is wrong with its outcome.
    fn tries(&mut self, technique: &Technique, expected: Outcome) -> Result<(), String> {
        let output = self
            .command(technique)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .map_err(|error| error.to_string())?;
        // One technique renames it, and may have been killed before it could rename it back.
        let moved = self.place.path(format!("{}-moved", technique.id));
        if moved.exists() {
            fs::rename(moved, &self.secret).unwrap();
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.code() == Some(77) {
            skipped(&format!("{}: {}: {}", self.tier, technique.id, said.trim()));
            return Ok(());
        }
        let has = said.contains(SECRET) || (said.starts_with("got ") && said.len() > 4);
        if let Outcome::Beyond(_) = expected {
            return if has {
                Ok(())
            } else {
                Err(format!(
                    "it gave nothing, so the table says too little: {said}"
                ))
            };
        }
        if expected == Outcome::Stopped && has {
            return Err(format!("it got: {said}"));
        }
        let told = self.events.before_end(technique.id, |event| {
            event["agent"] == technique.id
                && event["rule"].is_string()
                && matches!(event["verdict"].as_str(), Some("deny" | "kill"))
        });
        match told {
            Some(_) => Ok(()),
            None => Err(format!(
                "nothing was told of it: {said} {}",
                String::from_utf8_lossy(&output.stderr)
            )),
        }
    }
}

fn all_on(tier: &'static str) {
    let class = evasion::class_of(tier).expect("a class");
    let Some(mut stage) = Stage::set(tier) else {
        return;
    };
    let mut wrong = Vec::new();
    for technique in evasion::all() {
        let expected = technique.expected[class];
        if let Err(why) = stage.tries(technique, expected) {
            wrong.push(format!("{}: expected {expected:?}: {why}", technique.id));
        }
    }
    assert!(wrong.is_empty(), "{tier}:\n{}", wrong.join("\n"));
    // Whoever let it go on, guardd stops it again.
    proc::wait_stopped(stage.held.pid());
}

#[test]
fn by_security_module_every_technique_ends_as_the_table_says() {
    all_on("lsm");
}

#[test]
fn by_modify_return_every_technique_ends_as_the_table_says() {
    all_on("modify-return");
}

#[test]
fn by_fentry_every_technique_ends_as_the_table_says() {
    all_on("fentry");
}

#[test]
fn by_tracepoint_every_technique_ends_as_the_table_says() {
    all_on("tracepoint");
}

#[test]
fn the_document_says_what_the_table_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/evasions.md");
    if std::env::var_os("GUARD_WRITE_DOCS").is_some() {
        fs::write(path, evasion::document()).unwrap();
        return;
    }
    assert_eq!(
        include_str!("../../docs/evasions.md"),
        evasion::document(),
        "write it anew: GUARD_WRITE_DOCS=1 cargo xtask test --e2e the_document"
    );
}
