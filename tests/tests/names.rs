//! Whom a connection is for: names that name servers give, and names that ClientHellos say.

use std::{fs, net::Ipv4Addr, process::Stdio, time::Duration};

use guard_tests::{
    Guard, Place, Policy,
    dns::{NameServer, Stands},
    eventually, has_program,
    hello::{hello, in_records, in_segments, spelled, with_ech, without_name},
    let_pass, proc,
    quic::QuicServer,
    resolving::Resolving,
    server::Tcp,
    tls::TlsServer,
};
use rustix::process::Signal;

const API: &str = "api.guard-names.test";
/// As long, and nobody's.
const OTHER: &str = "www.guard-names.test";
/// What name servers say here: guard hears every answer on the machine, also while another test runs, so a name that one
/// of these resolves is no other test's, and the address of one that shares its address neither.
const SERVED: &str = "api.guard-served.test";
const SHARED: [&str; 2] = ["api.guard-shared.test", "www.guard-shared.test"];

fn policy(then: &str, hosts: &[&str]) -> Policy {
    Policy::new()
        .and(&format!("[[label]]\nname = \"infra\"\nhosts = {hosts:?}"))
        .rule("r", &["infra"], then, "timeout = \"5m\"")
}

/// A guard that names connections here; where it cannot, it says why.
fn guarding(place: &Place, policy: &Policy) -> Guard {
    let guard = Guard::new(place, policy);
    serves(&guard);
    guard
}

fn serves(guard: &Guard) {
    for watched in ["names", "dns"] {
        let hook = guard.hook(watched);
        assert_eq!(hook["tier"], "cgroup", "{hook}");
    }
}

fn send(server: &Tcp, bytes: &[u8]) -> String {
    format!("segments {} {}", server.addr(), in_segments(bytes, 65_536))
}

/// Whether the connection was ended under the tool: while it read, or before it wrote.
fn is_broken(answer: &serde_json::Value) -> bool {
    let at_its_end = answer["error"]
        .as_str()
        .is_some_and(|error| error.contains("whole buffer"));
    at_its_end
        || [libc::ECONNRESET, libc::EPIPE, libc::ENOTCONN]
            .iter()
            .any(|errno| answer["errno"] == *errno)
}

#[test]
fn what_was_refused_does_not_leave_when_its_session_is_over_either() {
    if !has_program("python3") {
        return;
    }
    // Each is gone with its last word, as soon as that is in its socket.
    const PYTHON: &str = "import os,socket,sys\n\
        for n in range(20):\n\
        \x20 if os.fork()==0:\n\
        \x20  s=socket.create_connection((sys.argv[1],int(sys.argv[2])));s.sendall(bytes.fromhex(sys.argv[3]));os._exit(0)\n\
        \x20 os.wait()";
    let place = Place::new();
    let server = Tcp::v4();
    let mut guard = guarding(&place, &policy("deny", &[API]));
    let said: String = hello(API, 0)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    for meanwhile in ["guardd goes on", "guardd is restarted", "guardd is killed"] {
        let mut command = guard.run(&["--agent", "x"], "python3");
        command.args(["-c", PYTHON, "127.0.0.1", &server.port().to_string(), &said]);
        assert!(command.status().unwrap().success());
        if meanwhile != "guardd goes on" {
            guard.kill();
        }
        if meanwhile == "guardd is restarted" {
            guard.start();
        }
        // With no session alive hooks are taken off after a second, or by the sentinel after two; TCP tries again after 0.2, 0.6,
        // 1.4 and 3 s.
        let_pass(Duration::from_secs(4));
        assert_eq!(server.reached().bytes, 0, "{meanwhile}");
        if meanwhile == "guardd is killed" {
            guard.start();
        }
        assert!(guard.sessions().is_empty());
        // What others would pay for is off meanwhile.
        eventually("the other hooks are off", || {
            (guard.hook("connect")["attached"] == false).then_some(())
        });
        assert_eq!(guard.hook("names")["attached"], true);
    }
    let refused = guard.events_now();
    let refused = refused
        .iter()
        .filter(|event| event.is_connect("infra", "deny"));
    // Nobody records what happens without a guardd.
    assert!(refused.count() >= 40);
}

#[test]
fn what_nobody_has_approved_does_not_leave_when_its_process_is_killed() {
    let place = Place::new();
    let server = Tcp::v4();
    let guard = guarding(&place, &policy("hold", &[API]));
    let mut tool = guard.tool();
    tool.tell(&send(&server, &hello(API, 0)));
    guard.hold();
    proc::wait_stopped(tool.pid());
    proc::signal(tool.pid(), Signal::KILL);
    tool.was_killed();
    let_pass(Duration::from_secs(4));
    assert_eq!(server.reached().bytes, 0);
}

#[test]
fn a_denied_name_ends_the_connection_and_not_a_byte_leaves() {
    let place = Place::new();
    let server = Tcp::v4();
    let guard = guarding(&place, &policy("deny", &[API]));
    let mut events = guard.events();
    let mut tool = guard.tool();
    let answer = tool.ask(&send(&server, &hello(API, 0)));
    assert!(is_broken(&answer), "{answer}");
    assert_eq!(server.reached().bytes, 0);
    let event = events.wait("the refusal", |e| {
        e.is_connect("infra", "deny") && e["object"]["host"] == API
    });
    assert_eq!(event["object"]["host_from"], "sni");
    assert_eq!(event["object"]["port"], server.port());
    assert_eq!(event["rule"], "r");
    // Everybody else's, and the same program's to somebody else.
    let length = hello(OTHER, 0).len();
    let answer = tool.must(&send(&server, &hello(OTHER, 0)));
    assert_eq!(answer["echoed"], length, "{answer}");
    guard.stranger().must(&send(&server, &hello(API, 0)));
}

#[test]
fn a_held_name_leaves_whole_when_it_is_approved_and_not_at_all_when_it_is_denied() {
    let place = Place::new();
    let server = Tcp::v6();
    let guard = guarding(&place, &policy("hold", &["*.guard-names.test"]));
    let mut tool = guard.tool();
    let bytes = hello(API, 0);
    let send = send(&server, &bytes);
    tool.tell(&send);
    let hold = guard.hold();
    assert!(hold["target"].as_str().unwrap().contains(API), "{hold}");
    proc::wait_stopped(tool.pid());
    tool.is_silent();
    assert_eq!(server.reached().bytes, 0);
    guard.approve(&[]);
    assert_eq!(tool.answer()["echoed"], bytes.len());
    assert_eq!(server.reached().bytes, bytes.len() as u64);
    // An approval is for one connection.
    tool.tell(&send);
    guard.deny(&[]);
    let answer = tool.answer();
    assert!(is_broken(&answer), "{answer}");
    assert_eq!(server.reached().bytes, bytes.len() as u64);
    // But for one that is for a while. (A refusal stands for some seconds, for the same place.)
    let server = Tcp::v6();
    let send = self::send(&server, &bytes);
    tool.tell(&send);
    guard.approve(&["--for", "1h"]);
    assert_eq!(tool.answer()["echoed"], bytes.len());
    assert_eq!(tool.must(&send)["echoed"], bytes.len());
}

#[test]
fn a_held_name_does_not_leave_in_smaller_pieces() {
    let place = Place::new();
    let server = Tcp::v4();
    let guard = guarding(&place, &policy("hold", &[API]));
    let mut tool = guard.tool();
    let bytes = hello(API, 1500);
    let what = in_segments(&bytes, 65_536);
    for approved in [false, true] {
        let at_first = server.reached().bytes;
        // TCP tries again by segments of this size. Some kernels send them so at first: then those leave that are not yet
        // a whole ClientHello.
        tool.tell(&format!("segments-of 600 {} {what}", server.addr()));
        guard.hold();
        let before = server.reached().bytes;
        assert!(before < at_first + bytes.len() as u64);
        let peer = format!(":{:04X} ", server.port());
        eventually("TCP has tried again", || {
            // Local and remote address, state, queues, timer, retransmissions, uid, probes that were sent.
            let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
            let line = sockets.lines().find(|line| {
                line.split_whitespace()
                    .nth(2)
                    .is_some_and(|at| format!("{at} ").ends_with(&peer))
                    && line.split_whitespace().nth(3) == Some("01")
            })?;
            let probes: u32 = line.split_whitespace().nth(8)?.parse().ok()?;
            (probes > 1).then_some(())
        });
        assert_eq!(server.reached().bytes, before);
        if approved {
            guard.approve(&[]);
            assert_eq!(tool.answer()["echoed"], bytes.len());
        } else {
            guard.deny(&[]);
            let answer = tool.answer();
            assert!(is_broken(&answer), "{answer}");
            assert_eq!(server.reached().bytes, before);
            // A refusal stands for some seconds, for the same process.
            tool = guard.tool();
        }
    }
}

#[test]
fn a_kill_for_a_name_kills_before_a_byte_leaves() {
    let place = Place::new();
    let server = Tcp::v4();
    let guard = guarding(&place, &policy("kill", &[API]));
    let mut tool = guard.tool();
    tool.tell(&send(&server, &hello(API, 0)));
    tool.was_killed();
    assert_eq!(server.reached().bytes, 0);
}

#[test]
fn however_a_client_hello_is_sent_its_name_is_found() {
    let place = Place::new();
    let guard = guarding(&place, &policy("deny", &[API]));
    let mut tool = guard.tool();
    let behind = |first: &str, then: Vec<u8>| [first.as_bytes(), &then].concat();
    let order = "CONNECT 203.0.113.7:443 HTTP/1.1\r\nHost: 203.0.113.7:443\r\n\r\n";
    type Way<'a> = (&'a str, Box<dyn Fn(&str) -> Vec<u8> + 'a>, usize);
    // What is sent, and in segments of how many bytes.
    let ways: Vec<Way<'_>> = vec![
        ("as it is", Box::new(|host| hello(host, 0)), 65_536),
        ("a byte at a time", Box::new(|host| hello(host, 0)), 1),
        ("in small segments", Box::new(|host| hello(host, 0)), 50),
        (
            "in capitals",
            Box::new(|host| spelled(hello(host, 0), host, &host.to_ascii_uppercase())),
            65_536,
        ),
        (
            "long, as with a post-quantum key",
            Box::new(|host| hello(host, 1500)),
            65_536,
        ),
        ("long, in segments", Box::new(|host| hello(host, 1500)), 700),
        (
            "in records of 40 bytes",
            Box::new(|host| in_records(&hello(host, 0), 40)),
            65_536,
        ),
        (
            "in records of 7 bytes, in odd segments",
            Box::new(|host| in_records(&hello(host, 0), 7)),
            33,
        ),
        (
            "behind an order to a proxy",
            Box::new(|host| behind(order, hello(host, 0))),
            65_536,
        ),
        (
            "behind it, in segments",
            Box::new(|host| behind(order, hello(host, 0))),
            order.len(),
        ),
        (
            "behind a question whether there is TLS (PostgreSQL)",
            Box::new(|host| behind("\0\0\0\u{8}\u{4}\u{d2}\u{16}\u{2f}", hello(host, 0))),
            8,
        ),
        (
            "behind a greeting, in odd segments",
            Box::new(|host| behind("EHLO x\r\nSTARTTLS\r\n", in_records(&hello(host, 0), 100))),
            7,
        ),
        (
            "behind a hundred segments of something else",
            Box::new(|host| behind(&"x".repeat(700), hello(host, 0))),
            7,
        ),
    ];
    for (how, make, size) in ways {
        let server = Tcp::v4();
        let bytes = make(API);
        let what = in_segments(&bytes, size);
        let answer = tool.ask(&format!("segments {} {what}", server.addr()));
        assert!(is_broken(&answer), "{how}: {answer}");
        assert!(server.reached().bytes < bytes.len() as u64, "{how}");
        // The same for a name that differs in a letter passes.
        let near = make("apj.guard-names.test");
        let what = in_segments(&near, size);
        let answer = tool.ask(&format!("segments {} {what}", server.addr()));
        assert_eq!(answer["echoed"], near.len(), "{how}: {answer}");
    }
}

#[test]
fn names_are_matched_by_their_parts() {
    let place = Place::new();
    let hosts = [
        "*.sub.guard-names.test",
        "ec2.*.guard-names.test",
        "exact.test",
    ];
    let guard = guarding(&place, &policy("deny", &hosts));
    let mut tool = guard.tool();
    for (host, denied) in [
        ("a.sub.guard-names.test", true),
        ("a.b.sub.guard-names.test", true),
        ("sub.guard-names.test", false),
        ("xsub.guard-names.test", false),
        ("ec2.us-east-1.guard-names.test", true),
        ("ec2.a.b.guard-names.test", false),
        ("ec2.guard-names.test", false),
        ("x.ec2.a.guard-names.test", false),
        ("exact.test", true),
        ("an.exact.test", false),
        ("exact.test.org", false),
    ] {
        let server = Tcp::v4();
        let answer = tool.ask(&send(&server, &hello(host, 0)));
        assert_eq!(is_broken(&answer), denied, "{host}: {answer}");
    }
}

#[test]
fn a_connection_that_hides_its_name_is_unknown() {
    let place = Place::new();
    let guard = guarding(&place, &policy("flag", &["unknown"]));
    let mut events = guard.events();
    let server = Tcp::v4();
    let mut tool = guard.tool();
    // A name, and this host without one, are no secret.
    tool.must(&send(&server, &hello(API, 0)));
    tool.must(&send(&server, &without_name(API)));
    tool.must(&format!("tcp {} x", server.addr()));
    tool.must(&send(&server, &with_ech(API)));
    let event = events.wait("the encrypted one", |e| e.is_connect("infra", "flag"));
    assert_eq!(event["object"]["ech"], true, "{event:?}");
    // Longer than what is read.
    let server = Tcp::v4();
    tool.must(&send(&server, &hello(API, 6000)));
    let event = events.wait("the long one", |e| {
        e.is_connect("infra", "flag") && e["object"]["port"] == server.port()
    });
    assert_eq!(event["object"]["cut"], true, "{event:?}");
}

#[test]
fn mptcp_says_its_name_too() {
    let place = Place::new();
    let server = Tcp::v4();
    let guard = guarding(&place, &policy("deny", &[API]));
    let mut tool = guard.tool();
    let what = in_segments(&hello(OTHER, 0), 65_536);
    let answer = tool.ask(&format!("mptcp {} {what}", server.addr()));
    if answer["errno"] == libc::EPROTONOSUPPORT || answer["errno"] == libc::ENOPROTOOPT {
        guard_tests::skipped("this kernel has no MPTCP");
        return;
    }
    assert!(answer.get("errno").is_none(), "{answer}");
    let before = server.reached().bytes;
    let what = in_segments(&hello(API, 0), 65_536);
    let answer = tool.ask(&format!("mptcp {} {what}", server.addr()));
    assert!(answer["errno"].is_i64(), "{answer}");
    assert_eq!(server.reached().bytes, before);
}

#[test]
fn a_held_name_stays_held_over_a_restart_of_guardd() {
    let place = Place::new();
    let server = Tcp::v4();
    let mut guard = guarding(&place, &policy("hold", &[API]));
    let mut tool = guard.tool();
    let bytes = hello(API, 0);
    tool.tell(&send(&server, &bytes));
    guard.hold();
    for make_way in [false, true] {
        if make_way {
            guard.make_way();
        } else {
            guard.kill();
        }
        assert_eq!(server.reached().bytes, 0);
        guard.start();
        guard.hold();
        proc::wait_stopped(tool.pid());
        assert_eq!(server.reached().bytes, 0);
    }
    guard.approve(&[]);
    assert_eq!(tool.answer()["echoed"], bytes.len());
}

#[test]
fn a_denied_name_does_not_leave_while_guardd_is_down() {
    let place = Place::new();
    let server = Tcp::v4();
    let mut guard = guarding(&place, &policy("deny", &[API]));
    let mut tool = guard.tool();
    guard.kill();
    // Nobody ends the connection now: the tool gives up by itself.
    let answer = tool.ask(&send(&server, &hello(API, 0)));
    assert!(answer.get("echoed").is_none(), "{answer}");
    assert_eq!(server.reached().bytes, 0);
    tool.must(&send(&server, &hello(OTHER, 0)));
    guard.start();
}

fn cannot_resolve() -> bool {
    !["unshare", "curl"].into_iter().all(has_program)
}

#[test]
fn a_name_from_a_name_server_is_judged_before_a_byte_of_plain_text_leaves() {
    if cannot_resolve() {
        return;
    }
    let place = Place::new();
    let here = Stands::For(Ipv4Addr::LOCALHOST);
    let alias = || Stands::Alias(SERVED.into());
    for truncating in [false, true] {
        let names = [
            (SERVED, here.clone()),
            ("alias.guard-served.test", alias()),
            (
                "free.guard-served-other.test",
                Stands::For(Ipv4Addr::new(127, 0, 0, 2)),
            ),
        ];
        let server = NameServer::new(&names, truncating);
        let resolving = Resolving::by(&place, &server);
        let (http, free) = (Tcp::v4(), Tcp::at("127.0.0.2:0"));
        let guard = Guard::of(&place)
            .named(if truncating { "by-tcp" } else { "by-udp" })
            .start(&policy("deny", &[SERVED]));
        serves(&guard);
        let mut events = guard.events();
        for host in [SERVED, "alias.guard-served.test"] {
            let url = format!("http://{host}:{}/", http.port());
            let status = resolving
                .run(&guard, &["curl", "-sS", "-m", "20", &url])
                .status()
                .unwrap();
            assert!(!status.success(), "{host}");
            assert_eq!(http.reached().bytes, 0, "{host}");
            let event = events.wait("the refusal", |e| e.is_connect("infra", "deny"));
            assert_eq!(event["object"]["host_from"], "dns", "{event:?}");
        }
        // guardd knows the name by now: it falls at the connect itself.
        let before = http.reached().connections;
        let url = format!("http://{SERVED}:{}/", http.port());
        let status = resolving
            .run(&guard, &["curl", "-sS", "-m", "20", &url])
            .status()
            .unwrap();
        assert!(!status.success());
        assert_eq!(http.reached().connections, before);
        // Somebody else's name, at another address.
        let url = format!("http://free.guard-served-other.test:{}/", free.port());
        let _ = resolving
            .run(&guard, &["curl", "-sS", "-m", "2", &url])
            .status()
            .unwrap();
        assert!(free.reached().bytes > 0);
        assert_eq!(guard.lost("name"), 0);
    }
}

#[test]
fn of_an_address_with_two_names_the_client_hello_says_which() {
    if cannot_resolve() {
        return;
    }
    let place = Place::new();
    let [api, other] = SHARED;
    let here = Stands::For(Ipv4Addr::new(127, 0, 0, 3));
    let server = NameServer::new(&[(api, here.clone()), (other, here)], false);
    let resolving = Resolving::by(&place, &server);
    let guard = guarding(&place, &policy("deny", &[api]));
    let mut events = guard.events();
    let https = Tcp::at("127.0.0.3:0");
    let curl = |host: &str| {
        let url = format!("https://{host}:{}/", https.port());
        let _ = resolving
            .run(&guard, &["curl", "-skS", "-m", "2", &url])
            .status()
            .unwrap();
    };
    curl(api);
    assert_eq!(https.reached().bytes, 0);
    // An echo is no TLS server, so curl fails; its ClientHello has left.
    curl(other);
    let after = https.reached().bytes;
    // At first the address is the denied one's alone as far as anybody knows; afterwards it is both's.
    curl(other);
    assert!(https.reached().bytes > after.min(1), "{after}");
    curl(api);
    let event = events.wait("the refusal by its name", |e| {
        e.is_connect("infra", "deny") && e["object"]["host_from"] == "sni"
    });
    assert_eq!(event["object"]["sni"], "agrees with dns", "{event:?}");
}

/// Programs that people really use, and how they are told to fetch `url`, trusting `ca`.
fn clients(url: &str, ca: &str) -> Vec<(&'static str, Vec<String>)> {
    const URLLIB: &str = "import ssl,sys,urllib.request as r\n\
        r.urlopen(sys.argv[1], context=ssl.create_default_context(cafile=sys.argv[2])).read()";
    const REQUESTS: &str = "import sys,requests\nrequests.get(sys.argv[1], verify=sys.argv[2])";
    const HTTPS: &str = "require('https').get(process.argv[1], {ca: require('fs').readFileSync(process.argv[2])}, \
        r => { r.resume(); r.on('end', () => process.exit(0)) }).on('error', () => process.exit(1))";
    const FETCH: &str = "fetch(process.argv[1]).then(r => r.text()).then(() => process.exit(0), () => process.exit(1))";
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let authority = url.trim_start_matches("https://").trim_end_matches('/');
    let extra = format!("NODE_EXTRA_CA_CERTS={ca}");
    vec![
        (
            "curl",
            words(&["curl", "-sS", "-m", "100", "--cacert", ca, url]),
        ),
        (
            "wget",
            words(&[
                // Not what busybox's shell takes for it.
                "/usr/bin/env",
                "wget",
                "-q",
                "-O",
                "/dev/null",
                "--tries=1",
                "--ca-certificate",
                ca,
                url,
            ]),
        ),
        (
            "openssl",
            words(&["openssl", "s_client", "-connect", authority]),
        ),
        (
            "git",
            words(&[
                "env",
                &format!("GIT_SSL_CAINFO={ca}"),
                "git",
                "ls-remote",
                url,
            ]),
        ),
        ("python3 urllib", words(&["python3", "-c", URLLIB, url, ca])),
        (
            "python3 requests",
            words(&["python3", "-c", REQUESTS, url, ca]),
        ),
        ("node https", words(&["node", "-e", HTTPS, url, ca])),
        (
            "node fetch",
            words(&["env", &extra, "node", "-e", FETCH, url]),
        ),
        (
            "kubectl",
            words(&[
                "kubectl",
                "--server",
                url,
                "--certificate-authority",
                ca,
                "get",
                "--raw",
                "/",
            ]),
        ),
        (
            "aws",
            words(&[
                "env",
                "AWS_ACCESS_KEY_ID=made-up",
                "AWS_SECRET_ACCESS_KEY=made-up",
                "AWS_MAX_ATTEMPTS=1",
                "AWS_DEFAULT_REGION=us-east-1",
                "aws",
                "--endpoint-url",
                url,
                "--ca-bundle",
                ca,
                "sts",
                "get-caller-identity",
            ]),
        ),
    ]
}

#[test]
fn real_clients_are_stopped_before_their_client_hello_leaves_and_others_pass() {
    if !has_program("unshare") {
        return;
    }
    let place = Place::new();
    let ca = place.path("ca.pem");
    let server = TlsServer::new(&[API, OTHER], &ca);
    let resolving = Resolving::here(&place, &[API, OTHER]);
    let guard = guarding(&place, &policy("hold", &[API]));
    let urls = [API, OTHER].map(|host| format!("https://{host}:{}/", server.port()));
    let of = |url: &str| clients(url, ca.to_str().unwrap());
    let mut tried = 0;
    for ((client, held), (_, free)) in of(&urls[0]).into_iter().zip(of(&urls[1])) {
        let mut parts = client.split(' ');
        let program = parts.next().unwrap();
        let module = parts.next().filter(|_| program == "python3");
        let can = place
            .command("sh")
            .args([
                "-c",
                &match module {
                    Some(module) => format!(
                        "python3 -c 'import {}'",
                        module.replace("urllib", "urllib.request")
                    ),
                    None => format!(
                        "for words in --version 'version --client' version; do /usr/bin/env {program} $words && exit; done; exit 1"
                    ),
                },
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        if !can.success() {
            guard_tests::skipped_in_part(&format!("{client} is not installed here"));
            continue;
        }
        tried += 1;
        let start = |words: &[String]| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            resolving
                .run(&guard, &words)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        // Another name passes unharmed.
        let before = server.reached();
        start(&free).wait().unwrap();
        let after = server.reached();
        assert_eq!(after.handshakes, before.handshakes + 1, "{client}");
        // A held one: nothing reaches the server, however often the client tries.
        let mut child = start(&held);
        let mut refused = 0;
        eventually(&format!("{client} gives up"), || {
            if let Some(hold) = guard.holds().first() {
                assert!(hold["target"].to_string().contains(API), "{client}: {hold}");
                guard.must(&["deny", hold["id"].as_str().unwrap()]);
                refused += 1;
            }
            child.try_wait().unwrap()
        });
        assert!(refused > 0, "{client} was not held");
        assert_eq!(server.reached(), after, "{client}");
        // And an approved one arrives whole.
        let mut child = start(&held);
        guard.approve(&[]);
        eventually(&format!("{client} is through"), || {
            child.try_wait().unwrap()
        });
        let approved = server.reached();
        assert_eq!(approved.handshakes, after.handshakes + 1, "{client}");
        let more = approved.application > after.application;
        assert_eq!(
            more,
            client != "openssl",
            "{client}: {after:?} {approved:?}"
        );
    }
    assert!(tried > 0, "no client is installed here");
}

#[test]
fn quic_says_its_name_too() {
    let place = Place::new();
    let ca = place.path("ca.pem");
    let server = QuicServer::new(&[API, OTHER], &ca);
    let guard = guarding(&place, &policy("hold", &[API]));
    let mut events = guard.events();
    let connect = |host: &str| format!("quic {} {host} {}", server.addr(), ca.display());
    let mut tool = guard.tool();
    tool.must(&connect(OTHER));
    assert_eq!(server.handshakes(), 1);
    tool.tell(&connect(API));
    let hold = guard.hold();
    assert!(hold["target"].as_str().unwrap().contains(API), "{hold}");
    proc::wait_stopped(tool.pid());
    assert_eq!(server.handshakes(), 1);
    guard.approve(&[]);
    assert_eq!(tool.answer()["connected"], true);
    assert_eq!(server.handshakes(), 2);
    tool.tell(&connect(API));
    guard.deny(&[]);
    let answer = tool.answer();
    assert!(answer.get("connected").is_none(), "{answer}");
    assert_eq!(server.handshakes(), 2);
    let event = events.wait("the hold", |e| e.is_connect("infra", "hold"));
    assert_eq!(event["object"]["protocol"], "quic");
    assert_eq!(event["object"]["host_from"], "sni");
    assert_eq!(event["object"]["host"], API);
    guard.stranger().must(&connect(API));
}
