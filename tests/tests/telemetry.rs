//! What other programs are told: figures for Prometheus, events and holds for a collector of OpenTelemetry, entries for
//! systemd's journal. Each with a real counterpart on this machine, and each listener under attack.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use guard_tests::{Guard, Place, Policy, api::ApiServer, eventually, has_program, proc, told};
use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{KeyValue, any_value::Value as Any},
};
use prost::Message as _;

/// A label whose files are denied and one whose files are held.
fn policy(place: &Place, more: &str) -> Policy {
    let file = |name: &str| place.path(name).display().to_string();
    Policy::new()
        .files("secret", &[file("secret")])
        .files("asked", &[file("asked")])
        .rule("no-secret", &["secret"], "deny", "")
        .rule("ask", &["asked"], "hold", "timeout = \"5m\"")
        .and(more)
}

/// What the label is touched by.
fn touch(guard: &Guard, place: &Place, name: &str) {
    fs::write(place.path(name), "made up").unwrap();
    let _ = guard
        .run(&[], "cat")
        .arg(place.path(name))
        .output()
        .unwrap();
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Sends bytes and reads all that comes until the other side ends, or `patience` is over.
fn exchange(stream: &mut (impl std::io::Read + std::io::Write), sent: &[u8]) -> Vec<u8> {
    // The other side may have hung up in the middle, which is an answer.
    let _ = stream.write_all(sent);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn get(port: u16, head: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let answer = exchange(&mut stream, head.as_bytes());
    String::from_utf8_lossy(&answer).into_owned()
}

const SCRAPE: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// A page's figures, by name with labels. It must be what Prometheus reads: every line a comment or a figure.
fn figures(answer: &str) -> BTreeMap<String, f64> {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(
        head.to_lowercase()
            .contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let scrape =
        prometheus_parse::Scrape::parse(body.lines().map(|line| Ok(line.to_owned()))).unwrap();
    for name in scrape.samples.iter().map(|sample| &sample.metric) {
        let plain = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(name);
        assert!(
            body.contains(&format!("# HELP {plain} ")),
            "{name} has no help text"
        );
        assert!(name.starts_with("guard_"), "{name}");
    }
    body.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a figure");
            (name.to_owned(), value.parse().expect("a number"))
        })
        .collect()
}

#[test]
fn prometheus_reads_what_happened() {
    let place = Place::new();
    let port = free_port();
    let guard = Guard::new(
        &place,
        &policy(&place, &format!("[metrics]\nlisten = \"127.0.0.1:{port}\"")),
    );
    let scrape = || figures(&get(port, SCRAPE));
    eventually("the listener is there", || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    touch(&guard, &place, "secret");
    fs::write(place.path("asked"), "made up").unwrap();
    let mut child = guard
        .run(&[], "cat")
        .arg(place.path("asked"))
        .spawn()
        .unwrap();
    let hold = guard.hold();
    proc::wait_stopped(hold["pid"].as_u64().unwrap() as u32);
    let figures = scrape();
    assert_eq!(
        figures.get("guard_holds_waiting"),
        Some(&1.0),
        "{figures:?}"
    );
    guard.deny(&[]);
    eventually("cat ends", || child.try_wait().unwrap());
    let figures = eventually("the answer is counted", || {
        let figures = scrape();
        figures
            .contains_key("guard_answers_total{answer=\"denied\",via=\"guardctl\"}")
            .then_some(figures)
    });
    let verdict = |verdict: &str, rule: &str| {
        figures
            .get(&format!(
                "guard_verdicts_total{{rule=\"{rule}\",verdict=\"{verdict}\"}}"
            ))
            .copied()
    };
    assert!(verdict("hold", "ask") >= Some(1.0), "{figures:?}");
    // Where the kernel cannot deny an open, the rule's fallback is what was done.
    assert!(
        verdict("deny", "no-secret").or(verdict("kill", "no-secret")) >= Some(1.0),
        "{figures:?}"
    );
    assert_eq!(figures["guard_holds_total{rule=\"ask\"}"], 1.0);
    assert_eq!(figures["guard_holds_waiting"], 0.0);
    assert!(
        figures
            .keys()
            .any(|name| name.starts_with("guard_hook_attached{")),
        "{figures:?}"
    );
    assert!(figures["guard_journal_events_total"] >= 5.0);
}

#[test]
fn a_socket_in_the_file_system_is_for_the_group_alone() {
    let place = Place::new();
    let socket = place.path("metrics.sock");
    let more = format!("[metrics]\nlisten = \"unix:{}\"", socket.display());
    let mut guard = Guard::new(&place, &policy(&place, &more));
    eventually("the listener is there", || {
        UnixStream::connect(&socket).ok()
    });
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o007, 0, "{mode:o}");
    let mut stream = UnixStream::connect(&socket).unwrap();
    let answer = exchange(&mut stream, SCRAPE.as_bytes());
    assert!(figures(&String::from_utf8_lossy(&answer)).contains_key("guard_sessions"));
    // Another user.
    if ["setpriv", "curl"].into_iter().all(has_program) {
        let as_user = |uid: &str| {
            let drop = [format!("--reuid={uid}"), format!("--regid={uid}")];
            let fetch = [
                "--clear-groups",
                "--",
                "curl",
                "-s",
                "-m",
                "20",
                "--unix-socket",
            ];
            let mut command = place.command("setpriv");
            command
                .args(drop)
                .args(fetch)
                .arg(&socket)
                .arg("http://localhost/metrics");
            command.output().unwrap()
        };
        assert!(as_user("0").status.success());
        let said = as_user("65534");
        // CURLE_COULDNT_CONNECT
        assert_eq!(said.status.code(), Some(7), "{said:?}");
    }
    guard.stop();
    eventually("its name goes", || (!socket.exists()).then_some(()));
}

#[test]
fn the_listener_bears_what_others_do_to_it() {
    let place = Place::new();
    let port = free_port();
    let guard = Guard::new(
        &place,
        &policy(&place, &format!("[metrics]\nlisten = \"127.0.0.1:{port}\"")),
    );
    eventually("the listener is there", || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let status = |head: &str| {
        get(port, head)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    // A page of another origin, by its own name and by ours.
    for head in [
        "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(),
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n\r\n"
            .to_owned(),
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n\r\n".to_owned(),
        "GET /metrics HTTP/1.1\r\n\r\n".to_owned(),
    ] {
        assert!(
            status(&head).starts_with("HTTP/1.1 403"),
            "{head}: {}",
            status(&head)
        );
    }
    assert!(status("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").starts_with("HTTP/1.1 404"));
    let post = "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nhi";
    assert!(status(post).starts_with("HTTP/1.1 405"));
    // A head without end, and a body of 100 MB.
    let mut endless = String::from("GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: ");
    endless.push_str(&"x".repeat(1 << 20));
    assert!(!get(port, &endless).contains(" 200 "));
    let herald = eventually("a herald", || {
        proc::children(guard.pid())
            .into_iter()
            .find(|pid| proc::describe(*pid).contains("herald"))
    });
    let before = resident(herald);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let head = "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n\r\n";
    let _ = stream.write_all(head.as_bytes());
    let block = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        if stream.write_all(&block).is_err() {
            break;
        }
    }
    // Who never reads, and who never speaks: a thousand of them.
    let began = Instant::now();
    let mut silent = Vec::new();
    for number in 0..1000 {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
            continue;
        };
        if number % 2 == 0 {
            let _ = stream.write_all(SCRAPE.as_bytes());
        }
        silent.push(stream);
    }
    // They are let go of in bounded time, and who asks properly is answered.
    eventually("a scrape gets through", || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let answer = exchange(&mut stream, SCRAPE.as_bytes());
        String::from_utf8_lossy(&answer)
            .starts_with("HTTP/1.1 200")
            .then_some(())
    });
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
    drop(silent);
    let after = resident(herald);
    assert!(
        after < before + 16 * 1024,
        "the herald grew from {before} to {after} KiB"
    );
    // guardd did not notice.
    guard.must(&["status"]);
}

/// KiB.
fn resident(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("RssAnon:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_listener_for_others_is_refused() {
    let place = Place::new();
    for listen in [
        "0.0.0.0:9464",
        "[::]:9464",
        "192.0.2.1:9464",
        "127.0.0.1:0",
        "unix:metrics.sock",
        "9464",
    ] {
        let text = policy(&place, &format!("[metrics]\nlisten = \"{listen}\""));
        let said = Guard::of(&place).named("refused").refused(&text);
        assert!(
            said.contains("listen") && said.contains("expected unix:PATH")
                || said.contains("whole path"),
            "{said}"
        );
    }
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Any> {
    attributes
        .iter()
        .find(|pair| pair.key == key)?
        .value
        .as_ref()?
        .value
        .as_ref()
}

fn is(attributes: &[KeyValue], key: &str, text: &str) -> bool {
    matches!(attribute(attributes, key), Some(Any::StringValue(found)) if found == text)
}

#[test]
fn a_collector_gets_events_as_records_and_holds_as_spans() {
    let place = Place::new();
    let collector = ApiServer::plain();
    let more = format!(
        "[otlp]\nendpoint = \"http://127.0.0.1:{}\"",
        collector.port()
    );
    let guard = Guard::new(&place, &policy(&place, &more));
    touch(&guard, &place, "secret");
    fs::write(place.path("asked"), "made up").unwrap();
    let mut child = guard
        .run(&[], "cat")
        .arg(place.path("asked"))
        .spawn()
        .unwrap();
    guard.hold();
    guard.approve(&[]);
    eventually("cat ends", || child.try_wait().unwrap());
    let span = eventually("the span arrives", || {
        let requests = collector.requests();
        let traces = requests
            .iter()
            .filter(|request| request.target == "/v1/traces");
        traces
            .flat_map(|request| {
                assert_eq!(request.method, "POST");
                ExportTraceServiceRequest::decode(&*request.body)
                    .unwrap()
                    .resource_spans
            })
            .flat_map(|resource| {
                assert!(is(
                    &resource.resource.unwrap().attributes,
                    "service.name",
                    "guard"
                ));
                resource.scope_spans
            })
            .flat_map(|scope| scope.spans)
            .next()
    });
    assert_eq!(span.name, "hold ask");
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0);
    let records: Vec<_> = collector
        .requests()
        .iter()
        .filter(|request| request.target == "/v1/logs")
        .flat_map(|request| {
            ExportLogsServiceRequest::decode(&*request.body)
                .unwrap()
                .resource_logs
        })
        .flat_map(|resource| resource.scope_logs)
        .flat_map(|scope| scope.log_records)
        .collect();
    let secret = place.path("secret").display().to_string();
    let denied = records
        .iter()
        .find(|record| {
            record.event_name == "guard.open" && is(&record.attributes, "file.path", &secret)
        })
        .expect("the denied open");
    assert!(
        is(&denied.attributes, "guard.rule", "no-secret"),
        "{denied:?}"
    );
    assert_eq!(denied.severity_text, "ERROR");
    // The answer and what was held are of one trace.
    let held = records
        .iter()
        .find(|record| {
            is(&record.attributes, "guard.verdict", "hold") && record.event_name == "guard.open"
        })
        .expect("the held open");
    assert_eq!(held.trace_id, span.trace_id);
    let info = channel(&guard, "otlp");
    assert_eq!(info["dropped"], 0, "{info}");
}

fn channel(guard: &Guard, name: &str) -> serde_json::Value {
    let status = guard.json(&["status"]);
    let channels = status["herald"]["parts"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    channels
        .into_iter()
        .find(|channel| channel["name"] == name)
        .unwrap_or_default()
}

#[test]
fn a_collector_that_is_away_is_told_and_gets_everything_when_it_is_back() {
    let place = Place::new();
    let port = free_port();
    let more = format!("[otlp]\nendpoint = \"http://127.0.0.1:{port}\"\nevents = \"all\"");
    let guard = Guard::new(&place, &policy(&place, &more));
    touch(&guard, &place, "secret");
    let info = eventually("the failure is told", || {
        let info = channel(&guard, "otlp");
        (info["state"] == "failing").then_some(info)
    });
    assert!(
        info["error"]
            .as_str()
            .unwrap()
            .contains(&format!("127.0.0.1:{port}")),
        "{info}"
    );
    let degraded = guard.json(&["status"])["degraded"].to_string();
    assert!(degraded.contains("otlp"), "{degraded}");
    // It is back: a bare server that takes one message, unanswered in two pieces first.
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let body = eventually("the message comes", || {
        let (mut stream, _) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("{error}"),
        };
        stream.set_nonblocking(false).unwrap();
        Some(take_post(&mut stream, "200 OK"))
    });
    let request = ExportLogsServiceRequest::decode(&*body).unwrap();
    let records: usize = request
        .resource_logs
        .iter()
        .flat_map(|resource| &resource.scope_logs)
        .map(|scope| scope.log_records.len())
        .sum();
    assert!(records > 0);
    eventually("it is well again", || {
        (channel(&guard, "otlp")["state"] == "ok").then_some(())
    });
}

/// Reads one POST and answers it.
fn take_post(stream: &mut TcpStream, status: &str) -> Vec<u8> {
    let mut read = Vec::new();
    let mut buffer = [0; 4096];
    let (head, length) = loop {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "it hung up");
        read.extend_from_slice(&buffer[..count]);
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .unwrap();
            break (end + 4, length.trim().parse::<usize>().unwrap());
        }
    };
    while read.len() < head + length {
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "it hung up");
        read.extend_from_slice(&buffer[..count]);
    }
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(answer.as_bytes()).unwrap();
    read[head..].to_vec()
}

/// An entry in journald's own protocol. <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>
fn entry(mut bytes: &[u8]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes = &bytes[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            fields.insert(name.to_owned(), value.to_owned());
            continue;
        }
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        fields.insert(
            line,
            String::from_utf8_lossy(&bytes[8..8 + length]).into_owned(),
        );
        bytes = &bytes[8 + length + 1..];
    }
    fields
}

/// A guard that tells systemd's journal, and a socket that takes its place in a mount namespace of guardd's own; `None`
/// where that cannot be had.
fn with_journald(place: &Place) -> Option<(Guard, UnixDatagram, PathBuf)> {
    if !["unshare", "mount"].into_iter().all(has_program) {
        return None;
    }
    let run = place.path("run");
    fs::create_dir_all(run.join("systemd/journal")).unwrap();
    let socket = run.join("systemd/journal/socket");
    let journald = listen_as_journald(&socket);
    let script = format!("mount --bind {} /run && exec \"$@\"", run.display());
    let guard = Guard::of(place)
        .through(&["unshare", "-m", "sh", "-c", &script, "sh"])
        .start(&policy(place, "[journald]"));
    Some((guard, journald, socket))
}

fn listen_as_journald(socket: &Path) -> UnixDatagram {
    let journald = UnixDatagram::bind(socket).unwrap();
    journald.set_nonblocking(true).unwrap();
    journald
}

/// Waits for an entry of the rule `no-secret`.
fn entry_of_rule(journald: &UnixDatagram) -> BTreeMap<String, String> {
    let mut buffer = vec![0; 1 << 20];
    eventually("the entry comes", || match journald.recv(&mut buffer) {
        Ok(count) => {
            let entry = entry(&buffer[..count]);
            (entry.get("GUARD_RULE").map(String::as_str) == Some("no-secret")).then_some(entry)
        }
        Err(_) => None,
    })
}

#[test]
fn systemds_journal_gets_entries_with_fields() {
    let place = Place::new();
    let Some((guard, journald, _)) = with_journald(&place) else {
        return;
    };
    touch(&guard, &place, "secret");
    let found = entry_of_rule(&journald);
    assert_eq!(found["GUARD_KIND"], "open", "{found:?}");
    assert_eq!(found["SYSLOG_IDENTIFIER"], "guardd", "{found:?}");
    assert_eq!(found["PRIORITY"], "3", "{found:?}");
    assert!(
        found["GUARD_OBJECT"].contains(Path::new("secret").to_str().unwrap()),
        "{found:?}"
    );
    assert!(found["MESSAGE"].contains("open"), "{found:?}");
    assert!(!found.contains_key("GUARD_WOULD"), "{found:?}");
}

#[test]
fn what_systemds_journal_does_not_take_is_counted() {
    let place = Place::new();
    let Some((guard, journald, socket)) = with_journald(&place) else {
        return;
    };
    touch(&guard, &place, "secret");
    entry_of_rule(&journald);
    drop(journald);
    touch(&guard, &place, "secret");
    let info = eventually("the failure is told", || {
        let info = channel(&guard, "journald");
        (info["state"] == "failing" && info["dropped"].as_u64() >= Some(1)).then_some(info)
    });
    let error = info["error"].as_str().unwrap();
    assert!(error.contains("/run/systemd/journal/socket: "), "{info}");
    let degraded = guard.json(&["status"])["degraded"].to_string();
    assert!(degraded.contains("journald"), "{degraded}");
    // It is started again.
    fs::remove_file(&socket).unwrap();
    let journald = listen_as_journald(&socket);
    touch(&guard, &place, "secret");
    entry_of_rule(&journald);
    eventually("it is well again", || {
        (channel(&guard, "journald")["state"] == "ok").then_some(())
    });
}

#[test]
fn events_that_waited_in_a_herald_that_dies_are_counted() {
    let place = Place::new();
    let (away, port) = (free_port(), free_port());
    let more = format!(
        "[otlp]\nendpoint = \"http://127.0.0.1:{away}\"\n[metrics]\nlisten = \"127.0.0.1:{port}\""
    );
    let guard = Guard::new(&place, &policy(&place, &more));
    touch(&guard, &place, "secret");
    eventually("events wait", || {
        (channel(&guard, "otlp")["waiting"].as_u64() >= Some(1)).then_some(())
    });
    let first = eventually("a herald", || told::herald(&guard));
    proc::signal(first, rustix::process::Signal::KILL);
    let event = eventually("its death is recorded", || {
        let mut events = guard.events_now().into_iter();
        events.find(|event| event["object"]["what"] == "herald died")
    });
    let lost = event["object"]["lost"]["otlp"].clone();
    assert!(lost.as_u64() >= Some(1), "{lost}");
    eventually("another herald runs", || {
        told::herald(&guard).filter(|pid| *pid != first)
    });
    let info = eventually("what was lost is told", || {
        let info = channel(&guard, "otlp");
        (info["lost"] == lost).then_some(info)
    });
    let said = guard.must(&["status"]).out;
    let words = format!("{lost} lost with a herald that died");
    assert!(said.contains(&words), "{info}: {said}");
    eventually("the listener shows it", || {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        drop(stream);
        let figures = figures(&get(port, SCRAPE));
        let shown = figures.get("guard_channel_lost_total{channel=\"otlp\"}")?;
        (Some(*shown) == lost.as_f64()).then_some(())
    });
    // What has happened since is not lost.
    let listener = TcpListener::bind(("127.0.0.1", away)).unwrap();
    listener.set_nonblocking(true).unwrap();
    eventually("the death itself arrives", || {
        let (mut stream, _) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("{error}"),
        };
        stream.set_nonblocking(false).unwrap();
        let body = take_post(&mut stream, "200 OK");
        let text = String::from_utf8_lossy(&body).into_owned();
        text.contains("herald died").then_some(())
    });
    eventually("nothing waits", || {
        (channel(&guard, "otlp")["waiting"] == 0).then_some(())
    });
}

/// The figure of docs/performance.md: everything on, 200 sessions.
#[test]
#[ignore = "measures"]
fn how_much_memory_everything_takes() {
    let place = Place::new();
    let server = ApiServer::plain();
    let key = place.file("key", "made-up-key-of-a-test");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let webhook = |name: &str| {
        format!(
            "[[notify.webhook]]\nname = \"{name}\"\nurl = \"http://127.0.0.1:{}/{name}\"\nkey_file = \"{}\"\n",
            server.port(),
            key.display()
        )
    };
    let more = format!(
        "[metrics]\nlisten = \"127.0.0.1:{}\"\n[otlp]\nendpoint = \"http://127.0.0.1:{}\"\nevents = \"all\"\n\
         [notify.terminal]\n[notify.desktop]\n{}{}",
        free_port(),
        server.port(),
        webhook("one"),
        webhook("two"),
    );
    let guard = Guard::new(&place, &policy(&place, &more));
    let mut children: Vec<_> = (0..200)
        .map(|_| guard.run(&[], "sleep").arg("600").spawn().unwrap())
        .collect();
    eventually("200 sessions", || {
        (guard.sessions().len() == 200).then_some(())
    });
    let of = |pid: u32, field: &str| -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    for pid in std::iter::once(guard.pid()).chain(proc::children(guard.pid())) {
        println!(
            "{}: RSS {} KiB, of which anonymous {}",
            proc::describe(pid),
            of(pid, "VmRSS:"),
            of(pid, "RssAnon:")
        );
    }
    let rss = of(guard.pid(), "VmRSS:");
    for child in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
    assert!(rss <= 50 << 10, "guardd takes {rss} KiB");
}
