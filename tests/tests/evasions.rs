//! The evasion suite: every technique of the table, on every tier that this kernel offers.

use std::{
    cell::Cell,
    ffi::{OsStr, OsString},
    fs::{self, File},
    net::{Ipv4Addr, TcpStream},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            net::{UnixDatagram, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use guard_tests::{
    Event, Events, Guard, Guards, Place, Policy, Tool,
    api::ApiServer,
    dns::{NameServer, Stands},
    evasion::{
        self, ASKED_HOST, NAMED_HOST, Needs, OTHER_HOST, Outcome, SHARED_HOST, Technique, Where,
    },
    fixture, proc,
    quic::QuicServer,
    server::{Relay, Tcp, Udp, Unix},
    skipped, skipped_in_part,
    tls::TlsServer,
};

/// Made up, and like no token.
const SECRET: &str = "hunter2-of-the-evasions";

/// Servers that read what is said to them.
struct Readers {
    hellos: TlsServer,
    own: TlsServer,
    shared: TlsServer,
    connects: Relay,
    quic: QuicServer,
    api: ApiServer,
    plain: ApiServer,
    names: NameServer,
    ca: PathBuf,
    quic_ca: PathBuf,
}

impl Readers {
    fn new(place: &Place) -> Self {
        let own = Ipv4Addr::new(127, 77, 0, 1);
        let shared = Ipv4Addr::new(127, 77, 0, 2);
        let asked = Ipv4Addr::new(127, 77, 0, 3);
        let hosts = [NAMED_HOST, SHARED_HOST, OTHER_HOST];
        let at = |addr| TlsServer::at(addr, &hosts, &place.path("unused.crt"));
        let hellos = at(Ipv4Addr::LOCALHOST);
        // No .pem: files of that name are secrets here.
        let quic_ca = place.path("quic.crt");
        let quic = QuicServer::new(&[NAMED_HOST], &quic_ca);
        let ca = place.path("ca.crt");
        let api = ApiServer::tls_at(asked, &[ASKED_HOST, OTHER_HOST], &ca);
        let names = [
            (NAMED_HOST, Stands::For(own)),
            (SHARED_HOST, Stands::For(shared)),
            (OTHER_HOST, Stands::For(shared)),
            (ASKED_HOST, Stands::For(asked)),
        ];
        Self {
            connects: Relay::asked(hellos.addr()),
            hellos,
            own: at(own),
            shared: at(shared),
            quic,
            api,
            plain: ApiServer::plain(),
            names: NameServer::new(&names, false),
            ca,
            quic_ca,
        }
    }

    /// What has come to them that may not: whole ClientHellos, handshakes of QUIC, requests that are no reads.
    fn reached(&self) -> u64 {
        let hellos = [&self.hellos, &self.own, &self.shared];
        let hellos: u64 = hellos.iter().map(|server| server.reached().hellos).sum();
        let apis = [&self.api, &self.plain];
        let requests = apis.iter().flat_map(|server| server.requests());
        let requests = requests.filter(|request| request.method != "GET");
        hellos + self.quic.handshakes() + requests.count() as u64
    }

    /// For the fixture.
    fn named(&self) -> String {
        format!(
            "hellos={};own={};shared={};connects={};quic={};api={};plain=127.0.0.1:{};dns={}:53;ca={};quic_ca={}",
            self.hellos.addr(),
            self.own.addr(),
            self.shared.addr(),
            self.connects.addr(),
            self.quic.addr(),
            self.api.addr(),
            self.plain.port(),
            self.names.addr(),
            self.ca.display(),
            self.quic_ca.display()
        )
    }
}

struct Stage {
    place: Place,
    tier: &'static str,
    guard: Guard,
    events: Events,
    secret: PathBuf,
    opened: File,
    memory: &'static str,
    /// Outside the session, with the secret in its environment.
    stranger: Tool,
    /// Held for as long as the stage stands.
    held: Tool,
    hold: String,
    servers: Servers,
    readers: Readers,
}

/// Everything that a session may not reach, and a way round.
struct Servers {
    tcp4: Tcp,
    tcp6: Tcp,
    udp4: Udp,
    udp6: Udp,
    broker: Tcp,
    unix: Unix,
    unix_path: PathBuf,
    /// Outside, and runs what it is asked to; what it runs for a session is followed.
    _serves: Tool,
    serves_path: PathBuf,
    datagrams: UnixDatagram,
    datagrams_path: PathBuf,
    in_datagrams: Cell<u64>,
    proxy: Relay,
}

impl Servers {
    fn new(place: &Place) -> Self {
        let tcp4 = Tcp::v4();
        let unix_path = place.path("broker.sock");
        let datagrams_path = place.path("broker-datagrams.sock");
        let datagrams = UnixDatagram::bind(&datagrams_path).unwrap();
        datagrams.set_nonblocking(true).unwrap();
        let serves_path = place.path("follow.sock");
        let mut serves = Tool::start(place.command(fixture("guard-fixture-tool")));
        serves.must(&format!("serve {}", serves_path.display()));
        Self {
            proxy: Relay::to(tcp4.addr()),
            tcp4,
            tcp6: Tcp::v6(),
            udp4: Udp::v4(),
            udp6: Udp::v6(),
            broker: Tcp::v4(),
            unix: Unix::at(&unix_path),
            unix_path,
            _serves: serves,
            serves_path,
            datagrams,
            datagrams_path,
            in_datagrams: Cell::new(0),
        }
    }

    /// Bytes that have come to any of them.
    fn bytes(&self) -> u64 {
        let tcp = [&self.tcp4, &self.tcp6, &self.broker];
        let udp = [&self.udp4, &self.udp6];
        let tcp: u64 = tcp.iter().map(|server| server.reached().bytes).sum();
        let udp: u64 = udp.iter().map(|server| server.reached().bytes).sum();
        let mut into = [0; 64];
        while let Ok(length) = self.datagrams.recv(&mut into) {
            self.in_datagrams
                .set(self.in_datagrams.get() + length as u64);
        }
        tcp + udp + self.unix.bytes() + self.in_datagrams.get()
    }

    /// For the fixture.
    fn named(&self) -> String {
        format!(
            "tcp4={};tcp6={};udp4={};udp6={};broker={};proxy={};unix={};datagrams={};follow={}",
            self.tcp4.addr(),
            self.tcp6.addr(),
            self.udp4.addr(),
            self.udp6.addr(),
            self.broker.addr(),
            self.proxy.addr(),
            self.unix_path.display(),
            self.datagrams_path.display(),
            self.serves_path.display()
        )
    }
}

/// In a virtual machine, where nothing else can be harmed.
fn in_laboratory() -> bool {
    std::env::var_os("GUARD_LABORATORY").is_some()
}

impl Stage {
    /// `None` where the kernel does not offer the tier.
    fn set(tier: &'static str) -> Option<Self> {
        let place = Place::new();
        let secret = place.file("secret", SECRET);
        let held = place.file("held", "x");
        let noted = place.file("noted", "x");
        let program = place.path("labelled-program");
        fs::copy(fixture("guard-fixture-evader"), &program).unwrap();
        for directory in [".git/hooks", "spool"] {
            fs::create_dir_all(place.path(directory)).unwrap();
        }
        let servers = Servers::new(&place);
        let readers = Readers::new(&place);
        let at = place.dir().display().to_string();
        let calls =
            |name: &str, calls: &str| format!("[[label]]\nname = \"{name}\"\ncalls = [{calls}]\n");
        let policy = Policy::new()
            .files(
                "secret",
                &[secret.display().to_string(), format!("{at}/**/*.pem")],
            )
            .files("held", &[held.display()])
            .files("noted", &[noted.display()])
            .files("program", &[program.display()])
            .files("process", &["/proc/*/environ", "/proc/*/mem"])
            .addresses(
                "net",
                &[
                    servers.tcp4.addr(),
                    servers.tcp6.addr(),
                    servers.udp4.addr(),
                    servers.udp6.addr(),
                ],
            )
            .addresses(
                "broker",
                &[
                    servers.broker.addr().to_string(),
                    format!("unix:{}", servers.unix_path.display()),
                    format!("unix:{}", servers.datagrams_path.display()),
                ],
            )
            .and(&format!(
                "[[label]]\nname = \"server\"\naddresses = [\"unix:{}\"]\nfollow = true\n",
                servers.serves_path.display()
            ))
            .and(&format!(
                "[[label]]\nname = \"deferred\"\nopens = \"write\"\n\
                 files = [\"{at}/**/.bashrc\", \"{at}/**/.git/hooks/pre-commit\", \"{at}/crontab\", \"{at}/spool/*\"]\n"
            ))
            .and(&calls(
                "tamper",
                r#""signal-guard", "resume-held", "ptrace-guard", "guard-files""#,
            ))
            .and(&calls("outside", r#""ptrace-outside", "signal-outside""#))
            .and(&calls("bpf", r#""bpf""#))
            .and(&calls("ring", r#""io-uring""#))
            .and(&calls("socket", r#""other-socket""#))
            .and(&format!(
                "[[label]]\nname = \"named\"\nhosts = [{NAMED_HOST:?}, {SHARED_HOST:?}]\n\
                 [[label]]\nname = \"hidden\"\nhosts = [\"unknown\"]\n\
                 [[label]]\nname = \"asked\"\nrequests = [{{ host = {ASKED_HOST:?}, method = \"DELETE\" }}]\n"
            ))
            .rule("r-secret", &["secret"], "deny", "")
            .rule("r-held", &["held"], "hold", "timeout = \"1h\"")
            .rule("r-program", &["program"], "deny", "")
            .rule("r-process", &["process"], "deny", "")
            .rule("r-net", &["net"], "deny", "")
            .rule("r-broker", &["broker"], "deny", "")
            .rule("r-deferred", &["deferred"], "deny", "")
            .rule("r-tamper", &["tamper"], "deny", "")
            .rule("r-outside", &["outside"], "deny", "")
            .rule("r-bpf", &["bpf"], "deny", "")
            .rule("r-ring", &["ring"], "deny", "")
            .rule("r-socket", &["socket"], "deny", "")
            .rule("r-named", &["named"], "deny", "")
            .rule("r-hidden", &["hidden"], "deny", "")
            .rule("r-asked", &["asked"], "deny", "");
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
        if matches!(tier, "lsm" | "modify-return") {
            for watched in [
                "program",
                "signal",
                "ptrace",
                "bpf",
                "socket",
                "guard-files",
            ] {
                let hook = guard.hook(watched);
                assert_eq!(hook["tier"], tier, "{hook}");
            }
        }
        let mut holds = guard.tool();
        holds.tell(&format!("open openat {}", held.display()));
        let hold = guard.hold();
        proc::wait_stopped(holds.pid());
        let mut stranger = place.command(fixture("guard-fixture-tool"));
        stranger.env("A_SECRET", SECRET);
        fs::write(guard.state_dir().join("bait"), "of guard's own").unwrap();
        Some(Self {
            tier,
            events: guard.events(),
            guard,
            opened: File::open(&secret).unwrap(),
            memory: Box::leak(SECRET.to_owned().repeat(4).into_boxed_str()),
            stranger: Tool::start(stranger),
            held: holds,
            hold: hold["id"].as_str().unwrap().to_owned(),
            servers,
            readers,
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
            Needs::Stdin | Needs::Connection | Needs::Sent => String::new(),
            Needs::Memory => format!("{me}:{}", self.memory.as_ptr() as usize),
            Needs::Descriptor => format!("{me}:{}", self.opened.as_raw_fd()),
            Needs::Environment => format!("{}:0", self.stranger.pid()),
            Needs::Guardd => format!("{}:0", self.guard.pid()),
            Needs::Held => format!("{}:0", self.held.pid()),
            Needs::Servers => self.servers.named(),
            Needs::Readers => self.readers.named(),
            Needs::Many => if in_laboratory() { "500" } else { "50000" }.to_owned(),
            Needs::FewPids => FEW_PIDS.to_string(),
            Needs::OwnFiles => {
                let pins = self.guard.pins();
                format!(
                    "policy={};file={};state={};pins={}",
                    self.guard.policy().display(),
                    self.guard.state_dir().join("bait").display(),
                    self.guard.state_dir().display(),
                    pins.unwrap_or_default().display()
                )
            }
            Needs::Guardctl => format!(
                "{};{};{}",
                Path::new(self.guard.guardctl().get_program()).display(),
                self.guard.socket().display(),
                self.hold
            ),
        };
        command.arg(more);
        match technique.needs {
            Needs::Stdin => command.stdin(File::open(&self.secret).unwrap()),
            Needs::Connection => {
                let connection = TcpStream::connect(self.servers.tcp4.addr()).unwrap();
                command.stdin(OwnedFd::from(connection))
            }
            Needs::Sent => {
                let (near, far) = UnixStream::pair().unwrap();
                send(&near, &self.opened);
                command.stdin(OwnedFd::from(far))
            }
            _ => command.stdin(Stdio::null()),
        };
        command
    }

    /// Whether it is to be tried here.
    fn applies(&self, technique: &Technique, expected: Outcome) -> bool {
        // What is said is seen by hooks of its own, whatever tier serves the others; where time is dear, once will do.
        if technique.needs == Needs::Readers && in_laboratory() && self.tier != "tracepoint" {
            return false;
        }
        // In the laboratory's whole run they are tried once by each tier.
        let storms = std::env::var("GUARD_TEST_STORMS").unwrap_or_default();
        if technique.storm && !storms.is_empty() && storms.split(',').all(|tier| tier != self.tier)
        {
            return false;
        }
        match technique.tried {
            Where::Anywhere => true,
            Where::WhereStopped => expected == Outcome::Stopped,
            Where::Laboratory => in_laboratory(),
        }
    }

    /// Tries one technique; what is wrong with its outcome.
    fn tries(&mut self, technique: &Technique, expected: Outcome) -> Result<(), String> {
        // Each is an agent of its own.
        self.events.forget();
        let before = (self.servers.bytes(), self.readers.reached());
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
        let _ = fs::remove_file(self.place.path("filler"));
        if output.status.code() == Some(77) {
            skipped_in_part(&format!("{}: {}: {}", self.tier, technique.id, said.trim()));
            return Ok(());
        }
        let got = said.contains(SECRET) || (said.starts_with("got ") && said.len() > 4);
        let has = got || (self.servers.bytes(), self.readers.reached()) != before;
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        match expected {
            Outcome::Beyond(_) if has && technique.id.starts_with("own-tls") => {
                let ended = |event: &Event| {
                    event["agent"] == technique.id && event["object"]["what"] == "ended"
                };
                self.events.wait("the end of its session", ended);
                return self.says_unseen(technique);
            }
            Outcome::Beyond(_) if has => return Ok(()),
            Outcome::Beyond(_) => {
                return Err(format!(
                    "it gave nothing, so the table says too little: {said} {err}"
                ));
            }
            Outcome::Stopped if has => {
                if self.left_out(technique) {
                    return Ok(());
                }
                let status = self.guard.json(&["status"]);
                return Err(format!(
                    "it got: {said} ({}) {} {}",
                    output.status, status["degraded"], status["counters"]
                ));
            }
            // What it was to gain, the hold, is looked at by the caller.
            Outcome::Vain(_) => return Ok(()),
            Outcome::Stopped | Outcome::Seen => {}
        }
        let told = self.events.before_end(technique.id, |event| {
            event["agent"] == technique.id
                && event["rule"].is_string()
                && matches!(event["verdict"].as_str(), Some("deny" | "kill"))
        });
        match told {
            Some(_) => Ok(()),
            None if self.left_out(technique) => Ok(()),
            None => {
                let counters = &self.guard.json(&["status"])["counters"];
                let told = self.events.seen(|event| event["agent"] == technique.id);
                Err(format!(
                    "nothing was told of it: {said} {err} ({}) {counters} {told:?}",
                    output.status
                ))
            }
        }
    }

    /// Whose requests were not seen, guard must say.
    fn says_unseen(&self, technique: &Technique) -> Result<(), String> {
        let sessions = self.guard.json(&["sessions", "--all"]);
        let all = sessions["sessions"].as_array().into_iter().flatten();
        let mut of_it = all.filter(|session| session["agent"] == technique.id);
        let Some(id) = of_it.next_back().and_then(|session| session["id"].as_str()) else {
            return Err(format!("no session of it: {sessions}"));
        };
        // The session has ended when its last process has, and what is told of that comes first.
        let untapped = self.guard.json(&["show", id])["untapped"].to_string();
        if untapped.contains(ASKED_HOST) {
            Ok(())
        } else {
            Err(format!("guard does not say whom it was to: {untapped}"))
        }
    }

    /// On a kernel that preempts, programs of the tiers below the first can be left out by the kernel; then guard must
    /// say so.
    fn left_out(&self, technique: &Technique) -> bool {
        let status = self.guard.json(&["status"]);
        let left_out = self.tier != "lsm" && status["degraded"].to_string().contains("not judged");
        if left_out {
            let what = format!("{}: {}: the kernel left it out", self.tier, technique.id);
            skipped_in_part(&format!("{what}: {}", status["degraded"]));
        }
        left_out
    }

    /// Nothing that a technique has done may have let the held process go, or guardd end.
    fn stands(&mut self) -> Result<(), String> {
        let holds = self.guard.holds();
        if holds.iter().any(|hold| hold["id"] == self.hold.as_str()) {
            Ok(())
        } else {
            Err(format!("the hold is over: {holds:?}"))
        }
    }
}

/// Sends a descriptor with one byte.
fn send(socket: &UnixStream, file: &File) {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    let byte = [std::io::IoSlice::new(b"x")];
    sendmsg(socket, &byte, &mut control, SendFlags::empty()).expect("a message");
}

/// Few enough that all of them can be in use, or come round, in a second.
const FEW_PIDS: u32 = 1_200;

/// The machine's largest pid as it was, however the test ends.
struct Pids(String);

impl Pids {
    const PATH: &str = "/proc/sys/kernel/pid_max";

    fn few() -> Self {
        let before = fs::read_to_string(Self::PATH).unwrap();
        fs::write(Self::PATH, FEW_PIDS.to_string()).unwrap();
        Self(before)
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        let _ = fs::write(Self::PATH, &self.0);
    }
}

/// The clock as it was, however the test ends.
struct Clock(SystemTime, Instant);

impl Drop for Clock {
    fn drop(&mut self) {
        let now = self.0 + self.1.elapsed();
        if let Ok(since) = now.duration_since(UNIX_EPOCH) {
            let time = libc::timespec {
                tv_sec: since.as_secs() as libc::time_t,
                tv_nsec: since.subsec_nanos().into(),
            };
            // SAFETY: a time.
            unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &time) };
        }
    }
}

fn all_on(tier: &'static str) {
    let class = evasion::class_of(tier).expect("a class");
    // In the laboratory's whole run each tier is tried on some kernels.
    let wanted = std::env::var("GUARD_TEST_TIERS").unwrap_or_default();
    if !wanted.is_empty() && wanted.split(',').all(|wanted| wanted != tier) {
        skipped(&format!("{tier}: not asked for on this kernel"));
        return;
    }
    if in_laboratory() {
        // The technique that takes all memory is not to end the test instead.
        fs::write("/proc/self/oom_score_adj", "-900").unwrap();
    }
    let Some(mut stage) = Stage::set(tier) else {
        return;
    };
    let mut wrong = Vec::new();
    for technique in evasion::all() {
        let expected = technique.expected[class];
        if !stage.applies(technique, expected) {
            continue;
        }
        if in_laboratory() {
            // On the console, whose end is shown when the guest hangs.
            let _ = fs::write(
                "/dev/kmsg",
                format!("<2>evasions: {tier}: {}", technique.id),
            );
        }
        let clock = (technique.id == "set-clock").then(|| Clock(SystemTime::now(), Instant::now()));
        let pids = (technique.needs == Needs::FewPids && in_laboratory()).then(Pids::few);
        let result = stage
            .tries(technique, expected)
            .and_then(|()| stage.stands());
        drop((clock, pids));
        if let Err(why) = result {
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
