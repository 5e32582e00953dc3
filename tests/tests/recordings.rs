//! Records what sessions do, honest ones and others, for the baselines that are shipped and the figures in
//! docs/divergence.md. See tests/recordings/README.md; it writes into that directory, so it only runs when it is asked to.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use guard_tests::{
    Event, Guard, Place, Policy, eventually, has_program, proc, tested, tls::TlsServer,
};
use serde_json::{Map, Value, json};

/// Providers whose names stand for the loopback while it is recorded.
const NAMES: &[&str] = &[
    "api.anthropic.com",
    "api.cloudflare.com",
    "api.fly.io",
    "api.github.com",
    "api.heroku.com",
    "api.machines.dev",
    "api.netlify.com",
    "api.openai.com",
    "api.render.com",
    "api.stripe.com",
    "api.vercel.com",
    "backboard.railway.com",
    "compute.googleapis.com",
    "ec2.us-east-1.amazonaws.com",
    "index.crates.io",
    "pypi.org",
    "rds.us-east-1.amazonaws.com",
    "registry.npmjs.org",
    "s3.us-east-1.amazonaws.com",
];

/// Real programs that sessions of the second kind may reach. What could harm the machine is not among them: they get
/// stand-ins for it, or nothing.
const HARMLESS: &[&str] = &[
    "ar", "as", "base64", "cat", "cc", "cp", "curl", "dd", "env", "find", "gcc", "git", "grep",
    "head", "ld", "ls", "make", "mkdir", "openssl", "printenv", "rm", "sed", "seq", "sh", "shred",
    "sort", "split", "tar", "touch", "tr", "truncate", "wc", "gzip",
];

/// Words of a command line that are kept, and characters of each.
const WORDS: usize = 24;
const WORD: usize = 100;

struct Recorder {
    kind: &'static str,
    /// Sources: where the scripts are, and what is recorded goes.
    dir: PathBuf,
    place: Place,
    guard: Guard,
    server: TlsServer,
    free: u16,
}

impl Recorder {
    fn new(kind: &'static str) -> Self {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
        let place = Place::new();
        let server = TlsServer::new(NAMES, &place.path("ca.pem"));
        let guard = Guard::of(&place)
            .with(&["--mode", "observe"])
            .start(&Policy::built_in());
        place.file(
            "hosts",
            &format!("127.0.0.1 localhost {}\n", NAMES.join(" ")),
        );
        place.file("nsswitch.conf", "hosts: files\n");
        for dir in ["home", "work", "bin", "stand-ins"] {
            fs::create_dir_all(place.path(dir)).expect("a directory");
        }
        for name in HARMLESS {
            let real = ["/usr/bin", "/bin", "/usr/local/bin"].map(|dir| Path::new(dir).join(name));
            if let Some(real) = real.iter().find(|path| path.exists()) {
                symlink(real, place.path("bin").join(name)).expect("a link");
            }
        }
        place.file(
            "root.sh",
            "set -e\n/bin/mount --bind \"$GROUND/hosts\" /etc/hosts\n/bin/mount --bind \"$GROUND/nsswitch.conf\" /etc/nsswitch.conf\n\
             if [ -n \"$SECRET_HOME\" ]; then /bin/mount --bind \"$SECRET_HOME\" \"$HOME\"; fi\nexec /bin/sh \"$GROUND/session.sh\" \"$1\"\n",
        );
        place.file(
            "session.sh",
            "cd \"$PROJECT\" || exit 1\n\
             [ -z \"$SECRET_HOME\" ] || [ -e \"$HOME/.made-up\" ] || exit 1\n\
             . \"$RECORDINGS/projects.sh\"\n. \"$RECORDINGS/$KIND.sh\"\n\"session_$1\"\n",
        );
        // Nobody's by now; the sessions' own servers take it.
        let free =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let free = free.expect("a port").port();
        Self {
            kind,
            dir,
            place,
            guard,
            server,
            free,
        }
    }

    /// The sessions in the order of their file.
    fn names(&self) -> Vec<String> {
        let text =
            fs::read_to_string(self.dir.join(format!("{}.sh", self.kind))).expect("sessions");
        let names = text
            .lines()
            .filter_map(|line| line.strip_prefix("session_")?.split("()").next());
        names.map(str::to_owned).collect()
    }

    fn overreaches(&self) -> bool {
        self.kind == "overreach"
    }

    fn equip(&self, command: &mut Command, name: &str) {
        let place = &self.place;
        let project = place.path("work").join(name);
        let stand_ins = place.path("stand-ins").join(name);
        let root = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
        let (path, home) = if self.overreaches() {
            (
                format!("{}:{}", stand_ins.display(), place.path("bin").display()),
                root.clone(),
            )
        } else {
            (
                format!("/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:{root}/.cargo/bin"),
                place.path("home").display().to_string(),
            )
        };
        command
            .env("PATH", path)
            .env("HOME", home)
            .env("RUSTUP_HOME", format!("{root}/.rustup"))
            .env("CARGO_HOME", place.path("cargo"))
            .env("GOCACHE", place.path("go"))
            .env_remove("CARGO_TARGET_DIR")
            .env("GROUND", place.dir())
            .env("PROJECT", project)
            .env("STAND_INS", stand_ins)
            .env("RECORDINGS", &self.dir)
            .env("KIND", self.kind)
            .env("CA", place.path("ca.pem"))
            .env("PORT", self.server.port().to_string())
            .env("FREE_PORT", self.free.to_string())
            .env("GUARDCTL", tested("guardctl"))
            .env("GUARD_SOCKET_PATH", self.guard.socket())
            .env("GUARD_POLICY", self.guard.policy())
            .env("GUARD_PID", self.guard.pid().to_string())
            .env(
                "SECRET_HOME",
                if self.overreaches() {
                    place.path("secret-home").join(name)
                } else {
                    PathBuf::new()
                },
            )
            .stdin(Stdio::null());
    }

    fn record(&self, name: &str) -> String {
        let place = &self.place;
        let project = place.path("work").join(name);
        fs::create_dir_all(&project).expect("a directory");
        fs::create_dir_all(place.path("stand-ins").join(name)).expect("a directory");
        let log = File::create(place.path(format!("{name}.log"))).expect("a log");
        let mut setup = place.command("/bin/sh");
        self.equip(&mut setup, name);
        if self.overreaches() {
            setup.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        }
        let home = if self.overreaches() {
            "home_of_secrets; touch \"$SECRET_HOME/.made-up\"; "
        } else {
            ""
        };
        let text = format!(
            ". \"$RECORDINGS/projects.sh\"; . \"$RECORDINGS/$KIND.sh\"; {home}setup_{name}"
        );
        let status = setup
            .args(["-e", "-c", &text])
            .current_dir(&project)
            .stdout(log.try_clone().expect("a log"))
            .stderr(log.try_clone().expect("a log"))
            .status()
            .expect("sh");
        assert!(
            status.success(),
            "setup_{name}: {status}: {}",
            self.said(name)
        );
        // By its path: the session's own has few programs.
        let unshare = ["/usr/bin/unshare", "/bin/unshare"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let mut command = self
            .guard
            .run(&["--agent", "recorded"], unshare.expect("unshare"));
        command
            .arg("-m")
            .arg("/bin/sh")
            .arg(place.path("root.sh"))
            .arg(name);
        self.equip(&mut command, name);
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        // What is asked for may fail, and often does: what was done matters.
        let _ = command.status().expect("guardctl");
        let ended = eventually("the session ends", || {
            let sessions = self.guard.json(&["sessions", "--all"]);
            let last = sessions["sessions"].as_array()?.last()?.clone();
            (last["state"] == "ended").then(|| last["id"].as_str().unwrap_or_default().to_owned())
        });
        let events: Vec<Event> = self.guard.events_now();
        let mut own = events.iter().filter(|event| event.session() == ended);
        let begins = own.by_ref().find(|event| {
            event.is("exec") && event["object"]["argv"].to_string().contains("session.sh")
        });
        let begins = begins.unwrap_or_else(|| panic!("{name} did not begin: {}", self.said(name)));
        let origin = begins["mono_ns"].as_u64().unwrap_or_default();
        let mut lines = String::new();
        for event in own {
            if let Some(kept) = self.kept(event, origin) {
                let _ = writeln!(lines, "{kept}");
            }
        }
        lines
    }

    fn said(&self, name: &str) -> String {
        let text = fs::read_to_string(self.place.path(format!("{name}.log"))).unwrap_or_default();
        text.lines().rev().take(10).collect::<Vec<_>>().join(" | ")
    }

    /// What tells the category of an act, without what is of this machine alone.
    fn kept(&self, event: &Event, origin: u64) -> Option<Value> {
        let kinds = [
            "exec", "open", "connect", "request", "signal", "call", "lost",
        ];
        kinds.contains(&event.text("kind")).then_some(())?;
        let mut kept = Map::new();
        let ms = event["mono_ns"]
            .as_u64()
            .unwrap_or(origin)
            .saturating_sub(origin)
            / 1_000_000;
        for (key, value) in [
            ("v", json!(1)),
            ("seq", json!(0)),
            ("time", json!("")),
            ("kind", event["kind"].clone()),
            ("mono_ns", json!(ms * 1_000_000)),
        ] {
            kept.insert(key.into(), value);
        }
        if event["labels"]
            .as_array()
            .is_some_and(|labels| !labels.is_empty())
        {
            kept.insert("labels".into(), event["labels"].clone());
        }
        if event.is("exec")
            && let Some(exe) = event["exe"].as_str()
        {
            kept.insert("exe".into(), json!(self.elsewhere(exe)));
        }
        let mut object = Map::new();
        for key in [
            "path", "flags", "family", "port", "host", "method", "graphql", "unread", "aws",
            "kube", "call", "count", "class",
        ] {
            match &event["object"][key] {
                Value::Null => {}
                Value::String(text) => {
                    object.insert(key.into(), json!(self.elsewhere(text)));
                }
                other => {
                    object.insert(key.into(), other.clone());
                }
            }
        }
        if let Some(argv) = event["object"]["argv"].as_array() {
            let words = argv.iter().take(WORDS).filter_map(Value::as_str);
            let words: Vec<String> = words.map(|word| self.elsewhere(word)).collect();
            object.insert("argv".into(), json!(words));
        }
        kept.insert("object".into(), object.into());
        Some(kept.into())
    }

    /// As if it had been done somewhere else, and no longer than is needed.
    fn elsewhere(&self, text: &str) -> String {
        let root = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
        let bins = tested("guardctl");
        let bins = bins.parent().and_then(Path::to_str).unwrap_or("/nowhere");
        let text = text
            .replace(&self.dir.display().to_string(), "/home/user/recordings")
            .replace(&self.place.dir().display().to_string(), "/home/user")
            .replace(bins, "/usr/bin")
            .replace(&format!("{root}/"), "/home/user/")
            .replace(&format!(":{}", self.server.port()), ":8443");
        text.chars().take(WORD).collect()
    }
}

fn record(kind: &'static str) {
    if ![
        "unshare", "cargo", "git", "node", "npm", "go", "gdb", "make", "curl", "strace", "jq",
        "sqlite3", "openssl",
    ]
    .into_iter()
    .all(has_program)
    {
        return;
    }
    let recorder = Recorder::new(kind);
    let only = std::env::var("GUARD_RECORD").unwrap_or_default();
    let into = recorder.dir.join(kind);
    fs::create_dir_all(&into).expect("a directory");
    for name in recorder.names().iter().filter(|name| name.contains(&only)) {
        let lines = recorder.record(name);
        println!(
            "{kind} {name}: {} events; {}",
            lines.lines().count(),
            recorder.said(name)
        );
        assert!(
            !lines.is_empty(),
            "{name}: nothing was recorded: {}",
            recorder.said(name)
        );
        fs::write(into.join(format!("{name}.jsonl")), lines).expect("a recording");
        assert!(
            proc::state(recorder.guard.pid()).is_some(),
            "{name} has ended guardd"
        );
    }
}

#[test]
#[ignore = "writes tests/recordings"]
fn honest_sessions_are_recorded() {
    record("honest");
}

#[test]
#[ignore = "writes tests/recordings"]
fn overreaching_sessions_are_recorded() {
    record("overreach");
}
