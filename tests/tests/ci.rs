//! A CI job as one session, as a runner runs it.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
};

use guard_tests::{
    Place,
    ci::{Done, Machine, Step, Web, ctl, own_network},
    dns::{NameServer, Stands},
    eventually, has_program, proc,
};
use serde_json::{Value, json};

const ALLOWED: &str = "allowed.guard-ci.test";
const WILD: &str = "a.wild.guard-ci.test";
const OTHER: &str = "other.guard-ci.test";

/// What these tests need of a machine.
fn cannot() -> bool {
    !["unshare", "curl", "ip", "bash", "git"]
        .into_iter()
        .all(has_program)
}

/// What runs this repository's action; in a guest there is no repository.
fn has_action() -> bool {
    let action = guard_tests::ci::action();
    let there = action.is_dir();
    if !there {
        guard_tests::skipped(&format!("{}: not there", action.display()));
    }
    there && has_program("node")
}

fn names() -> Vec<(&'static str, Stands)> {
    vec![
        (ALLOWED, Stands::For(Ipv4Addr::new(10, 77, 0, 10))),
        (WILD, Stands::Alias("front.guard-cdn.test".into())),
        (
            "front.guard-cdn.test",
            Stands::For(Ipv4Addr::new(10, 77, 0, 11)),
        ),
        (OTHER, Stands::For(Ipv4Addr::new(10, 77, 0, 20))),
    ]
}

/// A script that tells how curl has ended, and does not end for it.
fn curl(url: &str) -> String {
    format!("s=0; curl -sS -m 10 -o /dev/null {url} || s=$?; echo curl $s")
}

fn repository(at: &Path) {
    for (file, text) in [
        ("src/main.c", "int main;\n"),
        ("src/other.c", "1\n"),
        ("README", "x\n"),
        (".gitignore", "out/\n"),
    ] {
        let path = at.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    for words in [
        "init -q",
        "add -A",
        "-c user.name=x -c user.email=x@example.test commit -qm x",
    ] {
        let status = Command::new("git")
            .arg("-C")
            .arg(at)
            .args(words.split(' '))
            .status();
        assert!(status.unwrap().success(), "git {words}");
    }
}

fn stopped<'a>(report: &'a Value, target: &str) -> &'a Value {
    let all = report["stopped"].as_array().unwrap();
    all.iter()
        .find(|finding| finding["target"].as_str().unwrap().contains(target))
        .unwrap_or_else(|| panic!("{target} was not stopped: {report:#}"))
}

#[track_caller]
fn succeeded(done: &Done) {
    assert_eq!(done.conclusion(), "success", "{done:#?}");
}

#[test]
fn in_block_mode_nobody_but_the_allowed_hosts_sees_a_packet_and_two_jobs_leave_nothing() {
    if cannot() {
        return;
    }
    own_network();
    let place = Place::new();
    let server = NameServer::new(&names(), false);
    let (allowed, wild) = (Web::at("10.77.0.10:8080"), Web::at("10.77.0.11:8080"));
    let (other, six) = (Web::at("10.77.0.20:8080"), Web::at("[fd77::1]:8080"));
    let wrong_port = Web::at("10.77.0.11:9090");
    let literal = Web::at("10.77.0.30:8080");
    let here = Web::at("127.0.0.1:0");
    let datagrams = UdpSocket::bind("10.77.0.20:8080").unwrap();
    datagrams.set_nonblocking(true).unwrap();
    let machine = Machine::new(&place, "m", Some(&server));
    repository(&machine.workspace());
    let start = machine.start(&format!(
        "--mode block --allow {ALLOWED},*.wild.guard-ci.test:8080,10.77.0.30:8080"
    ));
    for round in 1..=2 {
        let done = machine.job(vec![
            Step::run("start", &format!("{} --json {}", ctl(), start.split_once(' ').unwrap().1)),
            Step::run("allowed", &curl(&format!("http://{ALLOWED}:8080/"))),
            Step::run("wild", &curl(&format!("http://{WILD}:8080/"))),
            Step::run("literal", &curl("http://10.77.0.30:8080/")),
            Step::run("here", &curl(&format!("http://127.0.0.1:{}/", here.port()))),
            Step::run("other", &curl(&format!("http://{OTHER}:8080/"))),
            Step::run("port", &curl(&format!("http://{WILD}:9090/"))),
            Step::run("address", &curl("http://10.77.0.20:8080/")),
            Step::run("six", &curl("http://[fd77::1]:8080/")),
            Step::run("udp", "echo x > /dev/udp/10.77.0.20/8080 && echo sent || echo refused"),
            Step::run("late", &format!("setsid bash -c '{}' & wait", curl(&format!("http://{OTHER}:8080/")))),
            Step::run("report", &format!("{} --json ci report", ctl())),
            Step::run(
                "stop",
                &format!("{} ci stop --sarif $RUNNER_TEMP/x.sarif --token-file /dev/null || echo refused; \
                          GUARD_CI_TOKEN=$(cat $GUARD_CI_DIR/token 2>/dev/null) {} ci stop || echo refused", ctl(), ctl()),
            ),
        ]);
        // The token went to the first step's state alone.
        succeeded(&done);
        let started = done.json("start");
        assert_eq!(started["worker"]["how"], "known", "{started}");
        assert_eq!(started["mode"], "block");
        for step in ["allowed", "wild", "literal", "here"] {
            assert_eq!(done.out(step), "curl 0\n", "{:#}", done.step(step));
        }
        for step in ["other", "port", "address", "six", "late"] {
            assert_eq!(done.out(step), "curl 7\n", "{:#}", done.step(step));
        }
        assert_eq!(done.out("udp"), "refused\n");
        assert!(done.out("stop").contains("refused"), "{}", done.out("stop"));
        let report = done.json("report");
        for target in [OTHER, "10.77.0.20", "fd77::1", ":9090"] {
            let finding = stopped(&report, target);
            assert_eq!(finding["verdict"], "deny");
            assert_eq!(finding["rule"], "elsewhere-reached");
        }
        let step = stopped(&report, "fd77::1")["step"].as_u64().unwrap() as usize;
        // The name is read from the step's environment, and a short step may have gone by then; its script is told.
        let step = &report["steps"][step - 1];
        assert!(step["name"].is_null() || step["name"] == "six", "{step}");
        assert!(
            step["command"].as_str().unwrap().ends_with("/9.sh"),
            "{step}"
        );
        assert_eq!(allowed.reached(), round, "{report:#}");
        assert_eq!(wild.reached(), round);
        assert_eq!(literal.reached(), round);
        for (name, server) in [("other", &other), ("six", &six), ("port", &wrong_port)] {
            assert_eq!(server.reached(), 0, "{name}");
        }
        assert!(datagrams.recv(&mut [0; 16]).is_err());
        // The worker has ended, and with it the watch.
        machine.is_clean();
    }
}

#[test]
fn the_action_watches_a_job_and_tells_what_it_did() {
    if cannot() || !has_action() {
        return;
    }
    own_network();
    let place = Place::new();
    let server = NameServer::new(&names(), false);
    let (allowed, other) = (Web::at("10.77.0.10:8080"), Web::at("10.77.0.20:8080"));
    let machine = Machine::new(&place, "m", Some(&server));
    repository(&machine.workspace());
    let sarif = place.path("guard.sarif");
    let action = |fail_on: &str| {
        Step::action(json!({
            "mode": "block",
            "allow": format!("{ALLOWED}:8080 # ours\n"),
            "guardctl": ctl(),
            "base": machine.base(),
            "sarif": sarif,
            "fail-on": fail_on,
        }))
    };
    let steps = |first| {
        vec![
            first,
            Step::run("allowed", &curl(&format!("http://{ALLOWED}:8080/"))),
            Step::run("other", &curl(&format!("http://{OTHER}:8080/"))),
            Step::run(
                "change",
                "sed -i s/main/evil/ src/main.c; mkdir out; echo x > out/y; echo y > src/new.c",
            ),
            Step::run("fails", "exit 3"),
            Step::run("skipped", "echo no"),
        ]
    };
    let done = machine.job(steps(action("stopped")));
    assert_eq!(done.conclusion(), "failure");
    assert_eq!(
        done.step("guard")["outputs"]["watched"],
        "true",
        "{:#}",
        done.step("guard")
    );
    assert_eq!(
        done.out("allowed"),
        "curl 0\n",
        "{:#}",
        done.step("allowed")
    );
    assert_eq!(done.out("other"), "curl 7\n");
    assert_eq!((allowed.reached(), other.reached()), (1, 0));
    let post = done.step("post guard");
    assert_eq!(post["code"], 1, "{post:#}");
    let log = done.out("post guard");
    let annotation = format!("::error title=guard%3A deny {OTHER}%3A8080 (10.77.0.20)::");
    for said in [
        annotation.as_str(),
        "::warning file=src/main.c,title=guard%3A source changed during the job::src/main.c: replaced by ",
        "1 stopped",
        "elsewhere-reached",
        "other.guard-ci.test:8080    # not allowed so far",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
    // What git does not track is no source.
    assert!(!log.contains("out/y") && !log.contains("new.c"), "{log}");
    for said in [
        "What was stopped, and why",
        OTHER,
        "What ran",
        "What it talked to",
        "src/main.c",
    ] {
        assert!(done.summary().contains(said), "{said}: {}", done.summary());
    }
    let log: Value = serde_json::from_slice(&fs::read(&sarif).unwrap()).unwrap();
    assert_eq!(log["version"], "2.1.0");
    assert!(log["runs"][0]["results"].to_string().contains(OTHER));
    machine.is_clean();
    // Without that wish the job's own steps alone decide.
    Command::new("git")
        .arg("-C")
        .arg(machine.workspace())
        .args(["checkout", "-q", "."])
        .status()
        .unwrap();
    let _ = fs::remove_dir_all(machine.workspace().join("out"));
    let done = machine.job(vec![
        action(""),
        Step::run("other", &curl(&format!("http://{OTHER}:8080/"))),
    ]);
    succeeded(&done);
    assert!(done.summary().contains("1 stopped"), "{}", done.summary());
    machine.is_clean();
    assert_eq!(done.0["orphans"], json!([]));
}

#[test]
fn the_post_step_runs_after_a_cancellation_and_leaves_nothing() {
    if cannot() || !has_action() {
        return;
    }
    own_network();
    let place = Place::new();
    let server = NameServer::new(&names(), false);
    let machine = Machine::new(&place, "m", Some(&server));
    let begun = place.path("begun");
    let job = machine.begin(vec![
        Step::action(json!({ "mode": "block", "guardctl": ctl(), "base": machine.base() })),
        Step::run(
            "stubborn",
            &format!(
                "trap '' INT TERM; (trap '' INT TERM; sleep 1000) & touch {}; wait; sleep 1000",
                begun.display()
            ),
        ),
        Step::run("never", "echo no"),
    ]);
    eventually("the step runs", || begun.exists().then_some(()));
    job.cancel();
    let done = job.end();
    assert_eq!(done.conclusion(), "cancelled", "{done:#?}");
    assert_eq!(done.step("post guard")["code"], 0, "{done:#?}");
    assert!(done.summary().contains("## guard"), "{done:#?}");
    machine.is_clean();
}

#[test]
fn a_runner_that_is_not_root_starts_the_watch_by_sudo_and_ends_it_without() {
    const NOBODY: u32 = 65534;
    if cannot() || !["node", "sudo", "setpriv"].into_iter().all(has_program) {
        return;
    }
    own_network();
    let place = Place::new();
    let other = Web::at("10.77.0.20:8080");
    let machine = Machine::of_user(&place, "m", NOBODY);
    // Where that user can execute them.
    let ctl = place.program(Path::new(&ctl()), "m/guardctl");
    place.program(&guard_tests::tested("guardd"), "m/guardd");
    for file in ["main.js", "post.js", "guardctl.js"] {
        place.file(
            &format!("action/{file}"),
            &fs::read_to_string(guard_tests::ci::action().join(file)).unwrap(),
        );
    }
    let action = Step::action_at(
        &place.path("action"),
        json!({ "mode": "block", "guardctl": ctl, "base": machine.base(), "no-sudo": "true" }),
    );
    let done = machine.job(vec![
        action,
        Step::run("who", "id -u; ls $GUARD_CI_DIR/token || echo none"),
        Step::run("other", &curl("http://10.77.0.20:8080/")),
        Step::run("sudo", "sudo -n id -u || echo ended"),
    ]);
    succeeded(&done);
    assert_eq!(
        done.step("guard")["outputs"]["watched"],
        "true",
        "{done:#?}"
    );
    assert_eq!(done.out("who"), format!("{NOBODY}\nnone\n"));
    assert_eq!(done.out("other"), "curl 7\n");
    assert_eq!(done.out("sudo"), "ended\n", "{done:#?}");
    assert_eq!(other.reached(), 0);
    assert_eq!(done.step("post guard")["code"], 0, "{done:#?}");
    assert!(done.summary().contains("no-sudo"), "{}", done.summary());
    machine.is_clean();
}

#[test]
fn an_audit_suggests_the_list_with_which_the_job_passes_in_block_mode() {
    if cannot() {
        return;
    }
    own_network();
    let place = Place::new();
    let server = NameServer::new(&names(), false);
    let webs = [10, 11, 20].map(|n| Web::at(&format!("10.77.0.{n}:8080")));
    let literal = Web::at("10.77.0.30:8080");
    let machine = Machine::new(&place, "m", Some(&server));
    let urls = [
        format!("http://{ALLOWED}:8080/"),
        format!("http://{WILD}:8080/"),
        format!("http://{OTHER}:8080/"),
        "http://10.77.0.30:8080/".into(),
    ];
    let work: Vec<String> = urls.iter().map(|url| curl(url)).collect();
    let token = place.path("token");
    let job = |options: &str| {
        let _ = fs::remove_file(&token);
        let done = machine.job(vec![
            Step::run(
                "start",
                &machine.start(&format!("{options} --token-file {}", token.display())),
            ),
            Step::run("work", &work.join("\n")),
            Step::run(
                "stop",
                &format!("{} --json ci stop --token-file {}", ctl(), token.display()),
            ),
        ]);
        succeeded(&done);
        assert_eq!(done.out("work"), "curl 0\n".repeat(4), "{done:#?}");
        machine.is_clean();
        done.json("stop")
    };
    let report = job("--mode audit --allow '*.wild.guard-ci.test,unused.guard-ci.test'");
    let finding = stopped(&report, OTHER);
    assert_eq!(
        (&finding["verdict"], &finding["would"]),
        (&json!("allow"), &json!("deny"))
    );
    assert_eq!(
        report["suggestion"]["unused"],
        json!(["unused.guard-ci.test"])
    );
    let entries: Vec<&str> = report["suggestion"]["allow"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["entry"].as_str().unwrap())
        .collect();
    assert_eq!(
        entries,
        [
            "10.77.0.30:8080",
            "*.wild.guard-ci.test",
            "allowed.guard-ci.test:8080",
            "other.guard-ci.test:8080"
        ]
    );
    let report = job(&format!("--mode block --allow '{}'", entries.join(",")));
    assert_eq!(report["stopped"], json!([]), "{report:#}");
    assert_eq!(report["left"], Value::Null);
    for web in webs.iter().chain([&literal]) {
        assert_eq!(web.reached(), 2);
    }
}

#[test]
fn who_says_another_name_at_an_allowed_address_is_cut_off() {
    if cannot() {
        return;
    }
    own_network();
    let place = Place::new();
    let server = NameServer::new(&names(), false);
    let web = guard_tests::server::Tcp::at("10.77.0.10:8443");
    let machine = Machine::new(&place, "m", Some(&server));
    let hello = |name: &str| {
        format!(
            "curl -skS -m 3 -o /dev/null --connect-to {name}:443:{ALLOWED}:8443 https://{name}/ || true"
        )
    };
    let done = machine.job(vec![
        Step::run(
            "start",
            &machine.start(&format!("--mode block --allow {ALLOWED}")),
        ),
        Step::run("lie", &hello("front.guard-evil.test")),
        Step::run("report", &format!("{} --json ci report", ctl())),
    ]);
    succeeded(&done);
    let before = web.reached();
    assert_eq!((before.connections, before.bytes), (1, 0), "{done:#?}");
    let finding = stopped(&done.json("report"), "front.guard-evil.test").clone();
    assert_eq!(finding["rule"], "elsewhere-reached");
    // Its own name passes. (An echo is no TLS server, so that curl fails later.)
    let done = machine.job(vec![
        Step::run(
            "start",
            &machine.start(&format!("--mode block --allow {ALLOWED}")),
        ),
        Step::run("truth", &hello(ALLOWED)),
    ]);
    succeeded(&done);
    assert!(web.reached().bytes > 0, "{done:#?}");
}

#[test]
fn a_name_server_in_a_network_of_the_jobs_own_is_not_believed() {
    if cannot() {
        return;
    }
    own_network();
    let place = Place::new();
    let server = NameServer::new(&names(), false);
    let evil = Web::at("10.77.0.66:8080");
    let machine = Machine::new(&place, "m", Some(&server));
    let done = machine.job(vec![
        Step::run(
            "start",
            &machine.start(&format!("--mode block --allow {ALLOWED}")),
        ),
        Step::run(
            "forge",
            &format!(
                "unshare -n {} forge {} {ALLOWED} 10.77.0.66",
                machine.helper().display(),
                server.addr()
            ),
        ),
        Step::run("connect", &curl("http://10.77.0.66:8080/")),
    ]);
    succeeded(&done);
    assert_eq!(done.out("forge"), "forged\n");
    assert_eq!(done.out("connect"), "curl 7\n");
    assert_eq!(evil.reached(), 0);
}

#[test]
fn whoever_connects_as_soon_as_a_name_is_known_is_not_refused_by_mistake() {
    if cannot() {
        return;
    }
    own_network();
    let place = Place::new();
    let names: Vec<(String, Stands)> = (1..=200)
        .map(|n| {
            (
                format!("n{n}.burst.guard-ci.test"),
                Stands::For(Ipv4Addr::new(10, 77, 1, n)),
            )
        })
        .collect();
    let of: Vec<(&str, Stands)> = names
        .iter()
        .map(|(name, stands)| (&**name, stands.clone()))
        .collect();
    let server = NameServer::new(&of, false);
    let web = Web::at("0.0.0.0:8080");
    let machine = Machine::new(&place, "m", Some(&server));
    let all: Vec<&str> = names.iter().map(|(name, _)| &**name).collect();
    let done = machine.job(vec![
        Step::run(
            "start",
            &machine.start("--mode block --allow '*.burst.guard-ci.test:8080'"),
        ),
        Step::run(
            "burst",
            &format!(
                "{} burst 8080 {}",
                machine.helper().display(),
                all.join(" ")
            ),
        ),
    ]);
    succeeded(&done);
    assert_eq!(done.out("burst"), "0 of 200 refused: []\n");
    assert_eq!(web.reached(), 200);
}

#[test]
fn who_connects_while_guardd_is_slow_waits_for_it() {
    if cannot() {
        return;
    }
    own_network();
    let place = Place::new();
    let server = NameServer::new(&names(), false);
    let web = Web::at("10.77.0.10:8080");
    let machine = Machine::new(&place, "m", Some(&server));
    let (begun, go) = (place.path("begun"), place.path("go"));
    let job = machine.begin(vec![
        Step::run(
            "start",
            &machine.start(&format!("--mode block --allow '*.guard-ci.test' --allow {WILD}")),
        ),
        Step::run(
            "connect",
            &format!(
                "touch {}; for i in $(seq 3000); do [ -e {} ] && break; sleep 0.01; done; exec {} burst 8080 {ALLOWED}",
                begun.display(),
                go.display(),
                machine.helper().display()
            ),
        ),
        Step::run("status", &format!("{} --json --socket $GUARD_CI_DIR/guard.sock status", ctl())),
    ]);
    eventually("the step runs", || begun.exists().then_some(()));
    let guardd = job_of(&machine)["guardd"][0].as_u64().unwrap() as u32;
    proc::signal(guardd, rustix::process::Signal::STOP);
    fs::write(&go, "").unwrap();
    let burst = format!("burst 8080 {ALLOWED}");
    let stopped = eventually("the connect waits", || {
        let all = place.processes().into_iter();
        all.filter(|pid| proc::state(*pid) == Some('T') && *pid != guardd)
            .find(|pid| command_line(*pid).contains(&burst))
    });
    assert_eq!(web.reached(), 0, "{}", proc::describe(stopped));
    proc::signal(guardd, rustix::process::Signal::CONT);
    let done = job.end();
    succeeded(&done);
    let status = done.json("status");
    if !status["not_enforced"]
        .to_string()
        .contains("bpf_set_retval")
    {
        assert_eq!(done.out("connect"), "0 of 1 refused: []\n");
        assert_eq!(web.reached(), 1);
    }
    machine.is_clean();
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// What the one job's directory says of it.
fn job_of(machine: &Machine) -> Value {
    let dir = fs::read_dir(machine.base()).unwrap().flatten().next();
    let file = dir.unwrap().path().join("job.json");
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

#[test]
fn jobs_of_two_runners_at_once_do_not_meet() {
    if cannot() {
        return;
    }
    own_network();
    let place = Place::new();
    let server = NameServer::new(&names(), false);
    let (one, two) = (Web::at("10.77.0.10:8080"), Web::at("10.77.0.20:8080"));
    let machines = ["a", "b"].map(|name| Machine::new(&place, name, Some(&server)));
    let both = |n: usize| place.path(format!("ready-{n}"));
    let jobs: Vec<_> = machines
        .iter()
        .zip([ALLOWED, OTHER])
        .enumerate()
        .map(|(n, (machine, allow))| {
            let waits = format!(
                "touch {}; for i in $(seq 2000); do [ -e {} ] && break; sleep 0.01; done",
                both(n).display(),
                both(1 - n).display()
            );
            machine.begin(vec![
                Step::run(
                    "start",
                    &machine.start(&format!("--mode block --allow {allow}")),
                ),
                Step::run("meet", &waits),
                Step::run("allowed", &curl(&format!("http://{ALLOWED}:8080/"))),
                Step::run("other", &curl(&format!("http://{OTHER}:8080/"))),
                Step::run("report", &format!("{} --json ci report", ctl())),
            ])
        })
        .collect();
    let done: Vec<Done> = jobs.into_iter().map(|job| job.end()).collect();
    for (n, done) in done.iter().enumerate() {
        succeeded(done);
        let mine = ["curl 0\n", "curl 7\n"];
        assert_eq!(done.out("allowed"), mine[n], "{done:#?}");
        assert_eq!(done.out("other"), mine[1 - n], "{done:#?}");
        let report = done.json("report");
        assert_eq!(report["stopped"].as_array().unwrap().len(), 1, "{report:#}");
        machines[n].is_clean();
    }
    assert_eq!((one.reached(), two.reached()), (1, 1));
}

#[test]
fn a_job_that_cannot_be_watched_fails_in_block_mode_and_warns_in_audit_mode() {
    if cannot() {
        return;
    }
    let place = Place::new();
    let machine = Machine::new(&place, "m", None);
    let policy = place.file("bad.toml", "version = 1\nnonsense = 1\n");
    let agents = place.file(
        "agents.toml",
        "version = 1\n[[agent]]\nname = \"x\"\nexe = [\"guard-fixture-x\"]\n",
    );
    let run = |options: &str| {
        let done = machine.job(vec![Step::run(
            "x",
            &format!("set +e; {}; echo status $?", machine.start(options)),
        )]);
        let step = done.step("x").clone();
        let text = |key: &str| step[key].as_str().unwrap().to_owned();
        (text("out"), text("err"))
    };
    let (out, err) = run("--mode block --guardd /bin/false");
    assert!(out.contains("status 1"), "{out}{err}");
    assert!(err.contains("guardd ended before it was ready"), "{err}");
    let (out, err) = run("--mode audit --guardd /bin/false");
    assert!(
        out.contains("status 0") && out.contains("::warning title=guard does not watch this job::"),
        "{out}"
    );
    assert!(err.contains("this job is not watched"), "{err}");
    let (out, _) = run("--mode audit --require --guardd /bin/false");
    assert!(out.contains("status 1"), "{out}");
    for (options, says) in [
        ("--allow https://x.y".to_owned(), "--allow"),
        (format!("--policy {}", policy.display()), "nonsense"),
        (format!("--policy {}", agents.display()), "[[agent]]"),
        ("--pid 4194303".to_owned(), "no such process"),
    ] {
        let (out, err) = run(&format!("--mode audit {options}"));
        assert!(out.contains("status 2"), "{options}: {out}{err}");
        assert!(
            err.contains(says) && err.lines().count() >= 1,
            "{options}: {err}"
        );
    }
    machine.is_clean();
    let nobody = place.path("open");
    fs::create_dir(&nobody).unwrap();
    fs::set_permissions(&nobody, fs::Permissions::from_mode(0o777)).unwrap();
    let (out, err) = run(&format!(
        "--mode block; {} ci start --base {}",
        ctl(),
        nobody.display()
    ));
    assert!(
        out.contains("status 2") && err.contains("others than root"),
        "{out}{err}"
    );
}

#[test]
fn the_watch_ends_with_the_worker() {
    if cannot() {
        return;
    }
    let place = Place::new();
    let machine = Machine::new(&place, "m", None);
    let said = place.path("said");
    let job = machine.begin(vec![
        Step::run("start", &machine.start("--mode block")),
        Step::run("wait", &format!("touch {}; sleep 1000", said.display())),
    ]);
    eventually("the steps are through", || said.exists().then_some(()));
    let about = job_of(&machine);
    let pids = ["keeper", "guardd"].map(|who| about[who][0].as_u64().unwrap() as u32);
    for pid in pids {
        assert!(!proc::has_ended(pid), "{about}");
    }
    job.kill();
    for pid in pids {
        proc::wait_ended(pid);
    }
    machine.is_clean();
}

#[test]
fn what_a_step_tries_against_its_watch_is_refused() {
    if cannot() {
        return;
    }
    let place = Place::new();
    let machine = Machine::new(&place, "m", None);
    let attempt = |what: &str| format!("set +e; {} {what}; echo status $?", ctl());
    let done = machine.job(vec![
        Step::run("start", &machine.start("--mode block")),
        Step::run("stop", &attempt("ci stop")),
        Step::run(
            "guess",
            &format!("export GUARD_CI_TOKEN=0123; {}", attempt("ci stop")),
        ),
        Step::run(
            "kill",
            &attempt("--socket $GUARD_CI_DIR/guard.sock kill s-1"),
        ),
        Step::run(
            "again",
            &format!("set +e; {}; echo status $?", machine.start("--mode audit")),
        ),
        Step::run("report", &attempt("--json ci report > /dev/null")),
    ]);
    succeeded(&done);
    for (step, status) in [
        ("stop", 4),
        ("guess", 4),
        ("kill", 4),
        ("again", 2),
        ("report", 0),
    ] {
        assert_eq!(
            done.out(step),
            format!("status {status}\n"),
            "{:#}",
            done.step(step)
        );
    }
    machine.is_clean();
}

#[test]
fn container_services_and_sudo_can_be_refused() {
    if cannot() {
        return;
    }
    let place = Place::new();
    let machine = Machine::new(&place, "m", None);
    let socket = place.path("docker.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let done = machine.job(vec![
        Step::run(
            "start",
            &machine.start("--mode block --no-sudo --no-docker"),
        ),
        Step::run(
            "docker",
            &format!(
                "curl -sS -m 5 --unix-socket {} http://x/ || echo ended $?",
                socket.display()
            ),
        ),
        Step::run("su", "su -c true || echo ended $?"),
        Step::run("report", &format!("{} --json ci report", ctl())),
    ]);
    succeeded(&done);
    let report = done.json("report");
    // Refused, or killed where this kernel cannot refuse.
    assert!(
        done.out("docker").contains("ended"),
        "{:#}",
        done.step("docker")
    );
    assert_eq!(stopped(&report, "docker.sock")["rule"], "no-docker");
    assert!(done.out("su").contains("ended"), "{:#}", done.step("su"));
    let rules: Vec<&str> = report["stopped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["rule"].as_str().unwrap())
        .collect();
    assert!(rules.contains(&"no-sudo"), "{report:#}");
    machine.is_clean();
}

#[test]
fn a_guardd_that_is_killed_is_started_again_and_the_job_stays_watched() {
    if cannot() {
        return;
    }
    own_network();
    let place = Place::new();
    let other = Web::at("10.77.0.20:8080");
    let machine = Machine::new(&place, "m", None);
    let (begun, go) = (place.path("begun"), place.path("go"));
    let job = machine.begin(vec![
        Step::run("start", &machine.start("--mode block")),
        Step::run(
            "wait",
            &format!(
                "touch {}; for i in $(seq 3000); do [ -e {} ] && break; sleep 0.01; done",
                begun.display(),
                go.display()
            ),
        ),
        Step::run("other", &curl("http://10.77.0.20:8080/")),
        Step::run("report", &format!("{} --json ci report", ctl())),
    ]);
    eventually("the job runs", || begun.exists().then_some(()));
    let guardd = || job_of(&machine)["guardd"][0].as_u64().unwrap();
    let first = guardd();
    proc::signal(first as u32, rustix::process::Signal::KILL);
    eventually("there is another", || (guardd() != first).then_some(()));
    fs::write(&go, "").unwrap();
    let done = job.end();
    succeeded(&done);
    assert_eq!(done.out("other"), "curl 7\n", "{done:#?}");
    assert_eq!(other.reached(), 0);
    let report = done.json("report");
    assert!(
        report["problems"].to_string().contains("started again"),
        "{report:#}"
    );
    machine.is_clean();
}

#[test]
fn a_worker_without_a_known_name_is_guessed_and_that_is_said() {
    if cannot() {
        return;
    }
    let place = Place::new();
    let machine = Machine::new(&place, "m", None);
    let named = place.program(machine.runner(), &place.name("worker"));
    let job = json!({
        "temp": place.path("m/temp"),
        "workspace": machine.workspace(),
        "steps": [{ "id": "start", "run": machine.start("--mode audit") }],
    });
    let file = place.file("job.json", &job.to_string());
    let output = place.command(&named).arg(file).output().unwrap();
    let done = Done(serde_json::from_slice(&output.stdout).unwrap());
    let base = named.file_name().unwrap().to_string_lossy();
    assert!(
        done.out("start")
            .contains(&format!("note: the worker was guessed to be {base}")),
        "{done:#?}"
    );
    machine.is_clean();
}
