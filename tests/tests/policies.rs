//! A policy of several files, reloads, the mode, and users' own files.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use guard_tests::{Guard, Place, Policy, Tool, eventually, proc, server::Tcp};
use rustix::process::Signal;

/// Two policies that deny the same and have nothing else in common.
fn denying(secret: &Path, server: &Tcp, which: usize) -> String {
    let policy = Policy::new();
    if which.is_multiple_of(2) {
        return policy
            .files("secret", &[secret.display()])
            .addresses("out", &[server.addr()])
            .rule("no-secret", &["secret"], "deny", "")
            .rule("no-out", &["out"], "deny", "")
            .to_string();
    }
    policy
        .files("first", &["**/*.pem", "/nowhere/**"])
        .addresses("second", &["192.0.2.0/24"])
        .addresses("elsewhere", &["127.0.0.0/8"])
        .files("another", &[secret.display()])
        .rule("first-then-second", &["first", "second"], "hold", "")
        .rule("not-there", &["elsewhere"], "deny", "")
        .rule("not-that", &["another"], "deny", "")
        .rule("told", &["first"], "flag", "")
        .to_string()
}

/// What `guardctl policy test` says of a sequence is what the kernel does.
#[test]
fn a_policys_cases_say_what_the_kernel_does() {
    let (place, server) = (Place::new(), Tcp::v4());
    let (secret, plain) = (place.file("a/.env", "hunter2"), place.file("a/notes", "x"));
    let policy = Policy::new()
        .files("secret", &["**/a/.env"])
        .addresses("out", &[server.addr()])
        .rule(
            "secret-then-out",
            &["secret", "out"],
            "deny",
            "within = \"1m\"",
        )
        .rule("told", &["out"], "flag", "");
    let guard = Guard::new(&place, &policy);
    let (mut tool, mut events) = (guard.tool(), guard.events());
    let calls = [
        (
            format!("tcp {} hello", server.addr()),
            format!("connect = \"{}\"", server.addr()),
        ),
        (
            format!("open openat {}", plain.display()),
            format!("open = \"{}\"", plain.display()),
        ),
        (
            format!("open openat {}", secret.display()),
            format!("open = \"{}\"", secret.display()),
        ),
        (
            format!("tcp {} hello", server.addr()),
            format!("connect = \"{}\"", server.addr()),
        ),
    ];
    let mut seen = Vec::new();
    let mut text =
        "policy = \"cases-policy.toml\"\n[[case]]\nname = \"c\"\nevents = [\n".to_owned();
    for (call, event) in &calls {
        let answer = tool.ask(call);
        let kind = event.split(' ').next().unwrap();
        let (verdict, rule) = if answer.to_string().contains("Operation not permitted") {
            ("deny", "secret-then-out")
        } else if kind == "connect" {
            ("flag", "told")
        } else {
            ("allow", "")
        };
        if kind == "connect" {
            let told = events.wait(verdict, |e| {
                e["kind"] == "connect" && e["verdict"] == verdict
            });
            assert_eq!(told["rule"], rule, "{told:?}");
        }
        seen.push(verdict);
        text.push_str(&format!(
            "{{ {event}, verdict = \"{verdict}\", rule = \"{rule}\" }},\n"
        ));
    }
    assert_eq!(seen, ["flag", "allow", "allow", "deny"]);
    place.file("cases-policy.toml", &policy);
    let cases = place.file("cases.toml", &format!("{text}]\n"));
    let cases = cases.to_str().unwrap();
    let said = guard.ctl(&["policy", "test", cases]);
    assert_eq!(said.status, 0, "{said:?}");
    // And it notices what is not so.
    let turned = text.replace("\"deny\"", "\"hold\"");
    fs::write(cases, format!("{turned}]\n")).unwrap();
    let said = guard.ctl(&["policy", "test", cases]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.out.contains("expected hold, got deny"), "{said:?}");
    let said = guard.ctl(&["policy", "test", "/nowhere/cases.toml"]);
    assert_eq!(said.status, 2, "{said:?}");

    // What the kernel did, judged again by the journal: the same policy says the same, another does not.
    let state = guard.state_dir();
    let replay = |policy: &str| {
        guard.ctl(&[
            "--json",
            "replay",
            state.to_str().unwrap(),
            "--policy",
            policy,
        ])
    };
    let same = place.path("cases-policy.toml");
    let said = replay(same.to_str().unwrap());
    assert_eq!(said.status, 0, "{said:?}");
    let found: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert!(found["judged"].as_u64().unwrap() >= 3, "{found}");
    let milder = policy.to_string().replace("\"deny\"", "\"hold\"");
    let milder = place.file("milder.toml", &milder);
    let said = replay(milder.to_str().unwrap());
    assert_eq!(said.status, 1, "{said:?}");
    let found: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let differences = found["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 1, "{found}");
    assert_eq!(differences[0]["was"]["verdict"], "deny", "{found}");
    assert_eq!(differences[0]["becomes"]["verdict"], "hold", "{found}");
}

#[test]
fn nothing_that_is_denied_succeeds_once_while_the_policy_is_loaded_again_and_again() {
    let (place, server) = (Place::new(), Tcp::v4());
    let secret = place.file("secret", "hunter2");
    let guard = Guard::new(&place, &denying(&secret, &server, 0));
    let enough = place.path("enough");
    let (mut opens, mut connects) = (guard.tool(), guard.tool());
    // An emulated processor is not to be kept from loading policies.
    let pause = match std::env::var_os("GUARD_LABORATORY") {
        Some(_) => [20_000, 20_000],
        None => [0, 50],
    };
    let enough_text = enough.display();
    opens.tell(&format!(
        "siege-open {} {enough_text} {}",
        secret.display(),
        pause[0]
    ));
    connects.tell(&format!(
        "siege-tcp {} {enough_text} {}",
        server.addr(),
        pause[1]
    ));
    for round in 1..=50 {
        fs::write(guard.policy(), denying(&secret, &server, round)).unwrap();
        guard.must(&["policy", "reload"]);
        if round % 10 == 0 {
            // A wrong one changes nothing, and is told with its place.
            fs::write(guard.policy(), "version = 1\n[[rule]]\nname = \"r\"\n").unwrap();
            let said = guard.ctl(&["policy", "reload"]);
            assert_eq!(said.status, 2, "{said:?}");
            assert!(said.err.contains("policy.toml:2:"), "{said:?}");
            let shown = guard.must(&["policy", "show"]).out;
            assert!(shown.contains("no-secret"), "{shown}");
        }
    }
    fs::write(&enough, "").unwrap();
    let opened = opens.answer();
    assert_eq!(opened["successes"], 0, "{opened}");
    assert!(opened["tries"].as_u64().unwrap() > 50, "{opened}");
    let connected = connects.answer();
    assert_eq!(connected["successes"], 0, "{connected}");
    assert_eq!(connected["others"], 0, "{connected}");
    assert!(connected["tries"].as_u64().unwrap() > 50, "{connected}");
    server.untouched();
    println!("50 reloads: opens {opened}, connects {connected}");
    // Both were judged by either policy, not by one of them all the time. From the file: it is long by now.
    let mut left = BTreeSet::from(["no-out", "no-secret", "not-that", "not-there"]);
    let mut files: Vec<PathBuf> = fs::read_dir(guard.state_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .collect();
    files.sort();
    for file in files {
        for line in BufReader::new(fs::File::open(file).unwrap()).lines() {
            let line = line.unwrap();
            left.retain(|rule| !line.contains(&format!("\"rule\":\"{rule}\"")));
            if left.is_empty() {
                return;
            }
        }
    }
    panic!("never judged by {left:?}");
}

/// A session touches the first of a rule's two labels while the rules are being written anew: the second is refused all the same.
#[test]
fn what_is_touched_while_the_policy_is_loaded_counts_for_the_new_one() {
    const ROUNDS: usize = 8;
    const AT_ONCE: usize = 16;
    let (place, server) = (Place::new(), Tcp::v4());
    let secret = place.file("secret", "hunter2");
    let policy = |round: usize| {
        Policy::new()
            .files("secret", &[secret.display()])
            .addresses("out", &[server.addr()])
            .rule(
                &format!("in-round-{round}"),
                &["secret", "out"],
                "deny",
                "within = \"10m\"",
            )
            .to_string()
    };
    let guard = Guard::new(&place, &policy(0));
    let mut during = 0;
    for round in 1..=ROUNDS {
        let mut fresh: Vec<Tool> = (0..AT_ONCE).map(|_| guard.tool()).collect();
        let mut touched = Vec::new();
        fs::write(guard.policy(), policy(round)).unwrap();
        let mut reload = guard
            .guardctl()
            .args(["policy", "reload"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while reload.try_wait().unwrap().is_none() {
            let Some(mut tool) = fresh.pop() else { break };
            tool.must(&format!("open openat {}", secret.display()));
            touched.push(tool);
        }
        assert!(reload.wait().unwrap().success());
        during += touched.len();
        for mut tool in touched {
            let said = tool.ask(&format!("tcp {} hello", server.addr()));
            assert_eq!(said["errno"], libc::EPERM, "round {round}: {said}");
        }
    }
    server.untouched();
    // Those of the first moments come before, and those of the last after it.
    assert!(during > 3 * ROUNDS, "only {during} opens met a reload");
}

/// A main file, and fragments beside it.
struct Files {
    place: Place,
    guard: Guard,
    server: Tcp,
}

impl Files {
    fn new(args: &[&str], main: &str) -> Self {
        let (place, server) = (Place::new(), Tcp::v4());
        fs::create_dir_all(place.path("guard/policy.d")).unwrap();
        let main = Policy::new().addresses("out", &[server.addr()]).and(main);
        let guard = Guard::of(&place).with(args).start(&main);
        Self {
            place,
            guard,
            server,
        }
    }

    fn fragment(&self, name: &str, text: &str) -> PathBuf {
        self.place.file(&format!("guard/policy.d/{name}"), text)
    }

    fn connects(&self, tool: &mut Tool) -> bool {
        let answer = tool.ask(&format!("tcp {} hello", self.server.addr()));
        answer["echo"] == "hello"
    }
}

const DENY: &str = "[[rule]]\nname = \"no-out\"\nwhen = [\"out\"]\nthen = \"deny\"\n";

#[test]
fn fragments_are_loaded_with_the_policy_and_a_wrong_one_changes_nothing() {
    let f = Files::new(&[], "");
    let mut tool = f.guard.tool();
    assert!(f.connects(&mut tool));
    let path = f.fragment("20-deny.toml", DENY);
    f.fragment(".hidden.toml", "nonsense");
    f.fragment("old.toml~", "nonsense");
    let said = f.guard.must(&["policy", "reload"]);
    assert!(said.out.contains("with 1 more files,"), "{said:?}");
    assert!(!f.connects(&mut tool));
    let shown = f.guard.must(&["policy", "show"]).out;
    let mark = format!("# from {}\n", path.display());
    assert!(
        shown.contains(&mark) && !shown.contains("nonsense"),
        "{shown}"
    );
    let status = f.guard.json(&["status"]);
    assert_eq!(status["policy_files"][1], path.display().to_string());

    // A second rule of that name, with both places; the one in force stays.
    let second = f.fragment("30-again.toml", &format!("\n{DENY}"));
    let said = f.guard.ctl(&["policy", "reload"]);
    assert_eq!(said.status, 2, "{said:?}");
    let first = format!("{}:2:8 has this one", path.display());
    assert!(
        said.err.contains(&format!("{}:3:8:", second.display())),
        "{said:?}"
    );
    assert!(said.err.contains(&first), "{said:?}");
    assert!(!f.connects(&mut tool));
    let flag = format!("{}replace = true\n", DENY.replace("deny", "flag"));
    fs::write(&second, flag).unwrap();
    f.guard.must(&["policy", "reload"]);
    assert!(f.connects(&mut tool));

    // By a signal nobody is answered: then status says what is wrong, until it is right.
    fs::write(&second, "mode = \"off\"\n").unwrap();
    proc::signal(f.guard.pid(), Signal::HUP);
    let degraded = || f.guard.json(&["status"])["degraded"].to_string();
    let told = eventually("it is told", || {
        Some(degraded()).filter(|text| text.contains("is not in force"))
    });
    assert!(
        told.contains(&format!("{}:1:8:", second.display())),
        "{told}"
    );
    assert!(f.connects(&mut tool));
    fs::write(&second, "").unwrap();
    proc::signal(f.guard.pid(), Signal::HUP);
    eventually("it is in force", || (degraded() == "[]").then_some(()));
    assert!(!f.connects(&mut tool));

    // What another user could change is refused, as is what is another's.
    fs::remove_file(&second).unwrap();
    f.guard.must(&["policy", "reload"]);
    for (mode, uid) in [(0o666, 0), (0o664, 0), (0o644, 65_534)] {
        let loose = f.fragment("40-loose.toml", "mode = \"observe\"\n");
        fs::set_permissions(&loose, fs::Permissions::from_mode(mode)).unwrap();
        chown(&loose, Some(uid), None).unwrap();
        let said = f.guard.ctl(&["policy", "reload"]);
        assert_eq!(said.status, 2, "{said:?}");
        assert!(said.err.contains("40-loose.toml: "), "{said:?}");
        assert!(!f.connects(&mut tool));
        fs::remove_file(&loose).unwrap();
    }
}

#[test]
fn enforce_and_observe_write_the_mode_and_say_what_changes() {
    let f = Files::new(&[], DENY);
    let mut tool = f.guard.tool();
    assert!(!f.connects(&mut tool));
    let said = f.guard.must(&["observe"]);
    let fragment = f.place.path("guard/policy.d/99-mode.toml");
    assert!(
        said.out.contains("observe (was enforce)") && said.out.contains("1 rule only record"),
        "{said:?}"
    );
    assert!(
        said.out.contains(&fragment.display().to_string()),
        "{said:?}"
    );
    assert_eq!(f.guard.json(&["status"])["mode"], "observe");
    assert!(f.connects(&mut tool));

    // What was let through is summed up.
    let digest = f.guard.json(&["digest", "--since", "1h"]);
    assert_eq!(digest["total"], 1, "{digest}");
    let entry = &digest["entries"][0];
    assert_eq!(
        (&entry["rule"], &entry["would"]),
        (&"no-out".into(), &"deny".into())
    );
    assert_eq!(entry["examples"][0]["object"], f.server.addr().to_string());
    let people = f.guard.must(&["digest"]).out;
    assert!(
        people.contains("no-out of ") && people.contains("would have failed"),
        "{people}"
    );
    assert!(people.contains(" enforce'"), "{people}");

    let said = f.guard.must(&["enforce"]);
    assert!(
        said.out.contains("enforce (was observe)") && said.out.contains("1 rule that hold"),
        "{said:?}"
    );
    assert!(!f.connects(&mut tool));
    assert!(
        fs::read_to_string(&fragment)
            .unwrap()
            .contains("mode = \"enforce\"")
    );
    let told = f.guard.events_now();
    let modes = told
        .iter()
        .filter(|e| e.is("guard") && e["object"]["what"] == "mode");
    assert_eq!(modes.count(), 2);

    // A file that comes later stands above it: then nothing is changed, and that is said.
    f.fragment("zz.toml", "mode = \"enforce\"\n");
    let said = f.guard.ctl(&["observe"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("comes after 99-mode.toml"), "{said:?}");
    assert!(
        fs::read_to_string(&fragment)
            .unwrap()
            .contains("mode = \"enforce\"")
    );
    assert!(!f.connects(&mut tool));
    // So does how guardd was started.
    let g = Files::new(&["--mode", "enforce"], DENY);
    let said = g.guard.ctl(&["observe"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("--mode enforce"), "{said:?}");
    assert!(!g.place.path("guard/policy.d/99-mode.toml").exists());
}

#[test]
fn what_would_have_been_stopped_is_told_when_it_is_time() {
    let f = Files::new(&["--digest-every", "1s", "--mode", "observe"], DENY);
    let mut events = f.guard.events();
    let mut tool = f.guard.tool();
    assert!(f.connects(&mut tool));
    let event = events.wait("the digest", |e| {
        e.is("guard") && e["object"]["what"] == "digest" && e["object"]["would_have_stopped"] == 1
    });
    let rules = &event["object"]["rules"];
    assert_eq!(rules[0]["rule"], "no-out", "{event:?}");
    assert!(
        event["object"]["text"]
            .as_str()
            .unwrap()
            .contains("1 call would have been stopped")
    );
    assert!(
        f.guard.log().contains("would have been stopped"),
        "{}",
        f.guard.log()
    );
    // The next one begins anew.
    events.wait("the next digest", |e| {
        e.is("guard") && e["object"]["what"] == "digest" && e["object"]["would_have_stopped"] == 0
    });
}

/// Two users with homes, and a guard that knows them.
struct Users {
    place: Place,
    guard: Guard,
    guardctl: PathBuf,
    tool: PathBuf,
    server: Tcp,
}

const ANN: u32 = 61_234;
const BOB: u32 = 61_235;

impl Users {
    fn new() -> Self {
        let (place, server) = (Place::new(), Tcp::v4());
        let mut passwd = String::new();
        for (name, uid) in [("ann", ANN), ("bob", BOB)] {
            let home = place.path(name);
            for directory in ["", ".config", ".config/guard"] {
                let directory = home.join(directory);
                fs::create_dir_all(&directory).unwrap();
                place.give(&directory, uid);
            }
            let diary = place.file(&format!("{name}/diary"), "dear diary");
            place.give(&diary, uid);
            passwd.push_str(&format!(
                "{name}:x:{uid}:{uid}::{}:/bin/sh\n",
                home.display()
            ));
        }
        let passwd = place.file("passwd", &passwd);
        let policy = Policy::new().addresses("out", &[server.addr()]).rule(
            "out-reached",
            &["out"],
            "flag",
            "",
        );
        let guard = Guard::of(&place)
            .with(&["--passwd", passwd.to_str().unwrap()])
            .start(&policy);
        let guardctl = guard.guardctl().get_program().to_owned();
        let guardctl = place.program(Path::new(&guardctl), "guardctl");
        let tool = place.tool("tool");
        Self {
            place,
            guard,
            guardctl,
            tool,
            server,
        }
    }

    /// Writes a user's own file.
    fn write(&self, name: &str, uid: u32, text: &str) -> PathBuf {
        let path = self
            .place
            .file(&format!("{name}/.config/guard/policy.toml"), text);
        self.place.give(&path, uid);
        path
    }

    fn as_user(&self, uid: u32) -> Command {
        let mut command = self.place.command("setpriv");
        command
            .arg(format!("--reuid={uid}"))
            .arg(format!("--regid={uid}"))
            .arg("--clear-groups")
            .arg(&self.guardctl)
            .arg("--socket")
            .arg(self.guard.socket());
        command
    }

    /// The fixture tool in a session of this user's.
    fn session(&self, uid: u32) -> Tool {
        let mut command = self.as_user(uid);
        command.args(["run", "--"]).arg(&self.tool);
        Tool::start(command)
    }

    fn connect(&self) -> String {
        format!("tcp {} hello", self.server.addr())
    }

    fn diary(&self, name: &str) -> String {
        format!(
            "open openat {}",
            self.place.path(format!("{name}/diary")).display()
        )
    }

    fn left_out(&self) -> Vec<String> {
        let status = self.guard.json(&["status"]);
        let users = status["user_policies"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        users
            .iter()
            .filter_map(|user| Some(user["left_out"].as_str()?.to_owned()))
            .collect()
    }
}

const TIGHTER: &str = "version = 1\n\
    [[label]]\nname = \"diary\"\nfiles = [\"~/diary\"]\n\
    [[rule]]\nname = \"hands-off\"\nwhen = [\"diary\"]\nthen = \"kill\"\n\
    [[raise]]\nrule = \"out-reached\"\nthen = \"deny\"\n";

#[test]
fn a_users_file_tightens_that_users_sessions_and_no_others() {
    let u = Users::new();
    u.write("ann", ANN, TIGHTER);
    u.guard.must(&["policy", "reload"]);
    assert_eq!(u.left_out(), [""; 0]);
    let (mut ann, mut bob, mut root) = (u.session(ANN), u.session(BOB), u.guard.tool());
    // The machine's rule only flags; ann has raised it.
    assert_eq!(ann.ask(&u.connect())["errno"], libc::EPERM);
    for tool in [&mut bob, &mut root] {
        assert_eq!(tool.must(&u.connect())["echo"], "hello");
    }
    // A file of ann's: her sessions must not touch it, root's may, and learn nothing of the label.
    assert_eq!(root.must(&u.diary("ann"))["text"], "dear diary");
    assert_eq!(bob.must(&u.diary("bob"))["text"], "dear diary");
    ann.tell(&u.diary("ann"));
    ann.was_killed();
    let mut events = u.guard.events();
    let event = events.wait("the kill", |e| e.is_open("ann/diary", "kill"));
    assert_eq!(event.text("rule"), "ann/hands-off");
    assert_eq!(event["uid"], ANN);
    events.wait("the denial", |e| {
        e.is_connect("out", "deny") && e.text("rule") == "ann/out-reached"
    });
    let labelled = |e: &guard_tests::Event| e.has("ann/diary") && e["uid"] != ANN;
    events.none("another user's label in a session", labelled);

    // Only root and she see what she has written.
    let shown = |mut command: Command| {
        let output = command.args(["policy", "show"]).output().unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("hands-off")
    };
    assert!(shown(u.guard.guardctl()) && shown(u.as_user(ANN)) && !shown(u.as_user(BOB)));
}

#[test]
fn a_session_cannot_loosen_what_its_user_has_tightened() {
    let u = Users::new();
    let path = u.write("ann", ANN, TIGHTER);
    let own = "[[label]]\nname = \"tamper\"\ncalls = [\"guard-files\"]\n\
        [[rule]]\nname = \"no-tampering\"\nwhen = [\"tamper\"]\nthen = \"deny\"\n";
    u.place.file("guard/policy.d/own.toml", own);
    u.guard.must(&["policy", "reload"]);
    if u.guard.hook("guard-files")["tier"] == "none" {
        return guard_tests::skipped("nothing can refuse writing to a file here");
    }
    let mut ann = u.session(ANN);
    assert_eq!(
        ann.ask(&format!("write {}", path.display()))["errno"],
        libc::EPERM
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), TIGHTER);
    // She herself may.
    u.write("ann", ANN, TIGHTER);
}

#[test]
fn a_users_rules_hold_while_guardd_is_down() {
    let mut u = Users::new();
    u.write("ann", ANN, TIGHTER);
    u.guard.must(&["policy", "reload"]);
    let (mut ann, mut bob) = (u.session(ANN), u.session(BOB));
    assert_eq!(ann.ask(&u.connect())["errno"], libc::EPERM);
    if u.guard.pins().is_none() {
        return guard_tests::skipped("nothing can be pinned here");
    }
    u.guard.kill();
    assert_eq!(ann.ask(&u.connect())["errno"], libc::EPERM);
    assert_eq!(bob.must(&u.connect())["echo"], "hello");
    // The next guardd knows whose session it is.
    u.guard.start();
    assert_eq!(ann.ask(&u.connect())["errno"], libc::EPERM);
    assert_eq!(bob.must(&u.connect())["echo"], "hello");
}

#[test]
fn a_changed_file_counts_from_the_next_session_on_and_a_wrong_one_is_left_out_and_told() {
    let u = Users::new();
    assert_eq!(u.session(ANN).must(&u.connect())["echo"], "hello");
    u.write("ann", ANN, TIGHTER);
    // No reload; guardd looks when a session begins, though not every time.
    eventually("her file is taken up", || {
        let answer = u.session(ANN).ask(&u.connect());
        (answer["errno"] == libc::EPERM).then_some(())
    });
    // What would loosen, or is nonsense, is left out; the machine's policy goes on, and bob's file with it.
    u.write("bob", BOB, TIGHTER);
    for text in [
        "version = 1\nmode = \"observe\"\n".to_owned(),
        "\u{0}".into(),
        format!("{TIGHTER}{}", "#".repeat(70_000)),
        "version = 1\n[[label]]\nname = \"x\"\nfiles = [\"/etc/**\"]\n".into(),
    ] {
        u.write("ann", ANN, &text);
        u.guard.must(&["policy", "reload"]);
        let left_out = u.left_out();
        assert_eq!(left_out.len(), 1, "{left_out:?}");
        assert!(
            left_out[0].contains("ann/.config/guard/policy.toml"),
            "{left_out:?}"
        );
        assert_eq!(u.session(ANN).must(&u.connect())["echo"], "hello");
        assert_eq!(u.session(BOB).ask(&u.connect())["errno"], libc::EPERM);
        let told = u.as_user(ANN).args(["run", "--", "true"]).output().unwrap();
        let told = String::from_utf8(told.stderr).unwrap();
        assert!(told.contains("your own policy file is left out"), "{told}");
        let people = u.as_user(ANN).arg("status").output().unwrap();
        let people = String::from_utf8(people.stdout).unwrap();
        assert!(people.contains("own file is left out"), "{people}");
    }
    // A link to what only root may read, and a file of root's.
    let path = u.place.path("ann/.config/guard/policy.toml");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", &path).unwrap();
    u.guard.must(&["policy", "reload"]);
    assert!(u.left_out()[0].contains("links are not followed"));
    let told = u.guard.events_now();
    assert!(
        told.iter()
            .any(|e| e.is("policy") && e["object"]["what"] == "user-file-left-out")
    );
}

#[test]
fn init_writes_a_policy_that_passes_the_check_and_observes() {
    let place = Place::new();
    let guardctl = Guard::of(&place).guardctl_alone();
    let directory = place.path("etc");
    let run = |args: &[&str]| {
        let mut command = place.command(&guardctl);
        command.args(args).stdin(Stdio::null());
        command.output().unwrap()
    };
    let directory_text = directory.to_str().unwrap();
    let name = place.name("agent");
    let init = ["init", "--directory", directory_text, "--agent", &name];
    // Nobody to ask, and no word that nothing is to be asked.
    let output = run(&init);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!directory.exists());
    let output = run(&[&init[..], &["--yes"]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = run(&["policy", "check", directory_text]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = run(&[&init[..], &["--yes"]].concat());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let fragment = fs::read_to_string(directory.join("policy.d/50-init.toml")).unwrap();
    assert!(fragment.contains("mode = \"observe\""), "{fragment}");

    // A guardd takes it up, and the agent that was named is one.
    let text = "version = 1\n";
    fs::create_dir_all(place.path("guard/policy.d")).unwrap();
    fs::copy(
        directory.join("policy.d/50-init.toml"),
        place.path("guard/policy.d/50-init.toml"),
    )
    .unwrap();
    let guard = Guard::new(&place, text);
    assert_eq!(guard.json(&["status"])["mode"], "observe");
    let tool = Tool::start(place.command(place.tool("agent")));
    assert!(guard.session_of(tool.pid()).is_some());
}

#[test]
fn the_schema_is_printed_as_one_document() {
    let place = Place::new();
    let output = place
        .command(Guard::of(&place).guardctl_alone())
        .args(["policy", "schema"])
        .output()
        .unwrap();
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema["properties"]["version"]["const"], 1);
}

/// Numbers that look random and are the same for one seed.
struct Chance(u64);

impl Chance {
    /// Below `n`, which is not 0. <https://en.wikipedia.org/wiki/Xorshift>
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A policy of five labels on ten files, with rules of any form, that touches nothing.
fn any_policy(chance: &mut Chance, files: &[String]) -> String {
    const LABELS: [&str; 5] = ["a", "b", "c", "d", "e"];
    let mut policy = Policy::new().observing();
    for label in LABELS {
        let some: Vec<&String> = files.iter().filter(|_| chance.below(3) == 0).collect();
        let some = if some.is_empty() {
            vec![&files[0]]
        } else {
            some
        };
        policy = policy.files(label, &some);
    }
    for rule in 0..=chance.below(6) {
        let mut when = Vec::new();
        let mut left = 15;
        for _ in 0..chance.below(4) {
            let label = chance.one(&LABELS);
            match chance.below(4) {
                0 => {
                    let within = *chance.one(&["", ", within = \"3ms\"", ", within = \"1h\""]);
                    when.push(format!("{{ not = \"{label}\"{within} }}"));
                }
                1 => {
                    let count = 1 + chance.below(6).min(left - 1);
                    left -= count;
                    when.push(format!("{{ label = \"{label}\", count = {count} }}"));
                }
                _ => {
                    left -= 1;
                    when.push(format!("\"{label}\""));
                }
            }
            if left <= 1 {
                break;
            }
        }
        when.push(format!("\"{}\"", chance.one(&LABELS)));
        let then = chance.one(&["flag", "hold", "deny", "kill"]);
        let within = *chance.one(&[
            "",
            "within = \"2ms\"",
            "within = \"20ms\"",
            "within = \"1h\"",
        ]);
        policy = policy.and(&format!(
            "[[rule]]\nname = \"r{rule}\"\nwhen = [{}]\nthen = \"{then}\"\n{within}",
            when.join(", ")
        ));
    }
    policy.to_string()
}

#[test]
fn the_kernel_and_the_judge_agree_on_any_policy_and_any_session() {
    const ROUNDS: usize = 8;
    const OPENS: usize = 120;
    /// The same each time, so that one that fails fails for whoever has changed something. Others: `GUARD_TEST_SEED=N`.
    const SEED: u64 = 1_795_712_190_552_799_297;
    let given = std::env::var("GUARD_TEST_SEED").ok();
    let seed: u64 = given.map_or(SEED, |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut chance = Chance(seed);
    let mut fired = 0;
    for round in 0..ROUNDS {
        let place = Place::new();
        let files: Vec<String> = (0..10)
            .map(|n| place.file(&format!("f{n}"), "x").display().to_string())
            .collect();
        let policy = any_policy(&mut chance, &files);
        let mut guard = Guard::new(&place, &policy);
        let mut tool = guard.tool();
        let session = guard.session_of(tool.pid()).unwrap();
        for _ in 0..OPENS {
            match chance.below(24) {
                0 => {
                    let label = *chance.one(&["a", "b", "c"]);
                    guard.ctl(&["grant", &session, "--label", label, "--for", "1h"]);
                }
                1 => {
                    let grant = format!("g-{}", 1 + chance.below(4));
                    guard.ctl(&["revoke", &grant]);
                }
                _ => {
                    tool.must(&format!("open openat {}", chance.one(&files)));
                }
            }
        }
        drop(tool);
        let told = guard.events_now();
        fired += told
            .iter()
            .filter(|event| event["rule"].is_string())
            .count();
        let journal = guard.state_dir();
        guard.stop();
        let file = place.file("same.toml", &policy);
        let output = place
            .command(guard.guardctl().get_program())
            .args(["--json", "replay"])
            .arg(&journal)
            .arg("--policy")
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert!(
            said["differences"].as_array().is_some_and(Vec::is_empty),
            "seed {seed}, round {round}: {said:#}\n{policy}\n{:#?}",
            told.iter()
                .map(|event| format!(
                    "{} {} {} {}",
                    event["seq"], event["kind"], event["labels"], event["object"]
                ))
                .collect::<Vec<_>>()
        );
        assert!(said["judged"].as_u64().unwrap() > 0, "{said}");
    }
    // A stream in which nothing ever fires would agree with anything.
    assert!(fired > ROUNDS * 10, "{fired}");
}
