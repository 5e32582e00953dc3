//! Requests whose head and body are written apart: of one that is refused not even the head leaves, and one that is not goes
//! its way, however long its program takes.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Stdio},
};

use guard_tests::{
    Guard, Place, Policy, api::ApiServer, eventually, has_program, let_pass, proc,
    resolving::Resolving,
};
use rustix::process::Signal;

const API: &str = "api.guard-halves.test";
const DELETION: &str = r#"{"query":"mutation { volumeDelete(volumeId: \"vol-1\") }"}"#;
const QUESTION: &str = r#"{"query":"query { volumes { id } }"}"#;

/// Writes each line that it reads, with `\r\n` as such, to a connection; `.` ends that: then it reads the answer.
const WRITES: &str = "import socket,ssl,sys\n\
    host,port,ca=sys.argv[1:]\n\
    s=socket.create_connection((host,int(port)));s.setsockopt(6,1,1)\n\
    if ca: s=ssl.create_default_context(cafile=ca).wrap_socket(s,server_hostname=host)\n\
    print('connected',flush=True)\n\
    try:\n\
    \x20 for line in sys.stdin:\n\
    \x20  if line=='.\\n': print('answered' if s.recv(65536) else 'ended',flush=True)\n\
    \x20  else: s.sendall(line[:-1].encode().decode('unicode_escape').encode());print('written',flush=True)\n\
    except OSError as e: print('failed',flush=True)";

fn policy(then: &str) -> Policy {
    Policy::new()
        .and(&format!(
            "[[label]]\nname = \"destructive\"\nrequests = [{{ host = {API:?}, graphql = \"mutation *Delete*\" }}]"
        ))
        .rule("r", &["destructive"], then, "timeout = \"5m\"")
}

/// A program of a session that writes what it is told.
struct Writer {
    child: Child,
    says: std::io::Lines<BufReader<std::process::ChildStdout>>,
    told: ChildStdin,
}

impl Writer {
    fn new(guard: &Guard, resolving: &Resolving, server: &ApiServer, ca: &str) -> Self {
        let port = server.port().to_string();
        let mut child = resolving
            .run(guard, &["python3", "-c", WRITES, API, &port, ca])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let says = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = child.stdin.take().unwrap();
        let mut writer = Self { child, says, told };
        assert_eq!(writer.says(), "connected");
        writer
    }

    fn says(&mut self) -> String {
        self.says.next().map_or_else(String::new, Result::unwrap)
    }

    fn tell(&mut self, what: &str) {
        let line = what.replace('\\', "\\\\").replace("\r\n", "\\r\\n");
        writeln!(self.told, "{line}").unwrap();
    }

    fn write(&mut self, what: &str) {
        self.tell(what);
        assert_eq!(self.says(), "written");
    }

    fn answer(&mut self) -> String {
        writeln!(self.told, ".").unwrap();
        self.says()
    }

    fn end(mut self) {
        drop(self.told);
        eventually("the program ends", || self.child.try_wait().unwrap());
    }
}

fn head(body: &str) -> String {
    format!(
        "POST /graphql HTTP/1.1\r\nHost: {API}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
}

/// Runs the same over TLS and without.
fn both(then: &str, run: impl Fn(&mut Guard, &dyn Fn(&Guard) -> Writer, &ApiServer)) {
    if !["unshare", "python3"].into_iter().all(has_program) {
        return;
    }
    for tls in [true, false] {
        let place = Place::new();
        let ca = place.path("ca.pem");
        let server = match tls {
            true => ApiServer::tls(&[API], &ca),
            false => ApiServer::plain(),
        };
        let resolving = Resolving::here(&place, &[API]);
        let mut guard = Guard::new(&place, &policy(then));
        let ca = if tls { ca.to_str().unwrap() } else { "" };
        let writer = |guard: &Guard| Writer::new(guard, &resolving, &server, ca);
        run(&mut guard, &writer, &server);
        assert_eq!(guard.lost("request"), 0);
    }
}

#[test]
fn of_a_request_that_is_denied_not_even_its_head_has_left() {
    both("hold", |guard, writer, server| {
        let mut program = writer(guard);
        // In pieces, and behind another request of the same connection.
        for body in [QUESTION, DELETION] {
            let (one, two) = body.split_at(20);
            let head = head(body);
            let (first, second) = head.split_at(30);
            let before = server.bytes();
            program.write(first);
            program.write(second);
            program.write(one);
            program.tell(two);
            if body == QUESTION {
                assert_eq!(program.says(), "written");
                assert_eq!(program.answer(), "answered");
                assert!(server.bytes() >= before + (head.len() + body.len()) as u64);
                continue;
            }
            let hold = guard.hold();
            proc::wait_stopped(hold["pid"].as_u64().unwrap() as u32);
            assert_eq!(server.bytes(), before);
            guard.deny(&[]);
            // Without TLS the call is over, and its bytes are in the socket.
            if program.says() == "written" {
                assert_ne!(program.answer(), "answered");
            }
            assert_eq!(server.bytes(), before);
        }
        program.end();
        assert_eq!(server.requests().len(), 1);
    });
}

#[test]
fn what_is_approved_leaves_whole_also_after_a_restart_of_guardd() {
    both("hold", |guard, writer, server| {
        for ends in [0, 1, 2] {
            let mut program = writer(guard);
            let before = server.bytes();
            program.write(&head(DELETION));
            program.tell(DELETION);
            guard.hold();
            match ends {
                1 => guard.kill(),
                2 => guard.make_way(),
                _ => {}
            }
            assert_eq!(server.bytes(), before);
            if ends > 0 {
                guard.start();
                guard.hold();
                assert_eq!(server.bytes(), before);
            }
            guard.approve(&[]);
            assert_eq!(program.says(), "written");
            assert_eq!(program.answer(), "answered");
            assert_eq!(server.requests().len(), ends + 1);
            assert_eq!(server.requests()[ends].body, DELETION.as_bytes());
            program.end();
        }
    });
}

#[test]
fn a_program_that_pauses_is_not_kept_waiting_and_its_body_is_judged_all_the_same() {
    both("hold", |guard, writer, server| {
        let mut program = writer(guard);
        for body in [QUESTION, DELETION] {
            let before = server.begun();
            program.write(&head(body));
            eventually("its head has left", || {
                (server.begun() > before).then_some(())
            });
            program.tell(body);
            if body == DELETION {
                guard.hold();
                guard.deny(&[]);
            }
            // Without TLS a refused call is over as well.
            let said = program.says();
            assert!(body == DELETION || said == "written");
            if said == "written" {
                let answer = program.answer();
                assert_eq!(answer == "answered", body == QUESTION, "{answer}");
            }
        }
        program.end();
        assert_eq!(server.requests().len(), 1);
    });
}

#[test]
fn of_a_request_that_its_program_is_killed_for_nothing_leaves_afterwards() {
    both("kill", |guard, writer, server| {
        let mut program = writer(guard);
        program.write(&head(QUESTION));
        program.write(QUESTION);
        assert_eq!(program.answer(), "answered");
        let before = server.bytes();
        program.write(&head(DELETION));
        program.tell(DELETION);
        eventually("it is killed", || program.child.try_wait().unwrap());
        // The kernel tries again what waits in a socket, also of a process that has gone, and it was the last of its session:
        // after 0.2, 0.6, 1.4 and 3 s.
        let at_its_end = server.bytes();
        let_pass(std::time::Duration::from_secs(4));
        assert_eq!(server.bytes(), before, "{at_its_end} at its end");
    });
}

#[test]
fn of_a_request_that_nobody_has_approved_nothing_leaves_when_its_program_is_killed() {
    both("hold", |guard, writer, server| {
        let mut program = writer(guard);
        program.write(&head(DELETION));
        program.tell(DELETION);
        let hold = guard.hold();
        proc::signal(hold["pid"].as_u64().unwrap() as u32, Signal::KILL);
        eventually("it is killed", || program.child.try_wait().unwrap());
        let_pass(std::time::Duration::from_secs(4));
        assert_eq!(server.bytes(), 0);
        assert!(guard.holds().is_empty());
    });
}

#[test]
fn what_was_refused_does_not_leave_before_what_an_heir_of_its_connection_says() {
    if !["unshare", "python3"].into_iter().all(has_program) {
        return;
    }
    // Of a hundred children the last has the connection: guardd does not look through so many for it.
    const PYTHON: &str = "import os,socket,sys,time\n\
        s=socket.create_connection((sys.argv[1],int(sys.argv[2])))\n\
        me=os.getpid();r,w=os.pipe()\n\
        for n in range(100):\n\
        \x20 if os.fork()==0:\n\
        \x20  os.close(w)\n\
        \x20  if n<99: s.close();os.close(r);time.sleep(20);os._exit(0)\n\
        \x20  os.read(r,1)\n\
        \x20  try: s.sendall(sys.argv[4].encode())\n\
        \x20  except OSError: pass\n\
        \x20  time.sleep(20);os._exit(0)\n\
        os.close(r)\n\
        s.sendall(sys.argv[3].encode())\n\
        time.sleep(20)";
    let place = Place::new();
    let server = ApiServer::plain();
    let resolving = Resolving::here(&place, &[API]);
    let guard = Guard::new(&place, &policy("kill"));
    let port = server.port().to_string();
    let said = |body| format!("{}{body}", head(body));
    let (deletion, question) = (said(DELETION), said(QUESTION));
    let mut child = resolving
        .run(
            &guard,
            &["python3", "-c", PYTHON, API, &port, &deletion, &question],
        )
        .spawn()
        .unwrap();
    eventually("it is killed", || child.try_wait().unwrap());
    let_pass(std::time::Duration::from_secs(4));
    assert_eq!(server.bytes(), 0);
}

#[test]
fn what_a_program_says_last_is_sent_without_it() {
    if !["unshare", "python3"].into_iter().all(has_program) {
        return;
    }
    const PYTHON: &str = "import os,socket,sys\n\
        for n in range(20):\n\
        \x20 if os.fork()==0:\n\
        \x20  s=socket.create_connection((sys.argv[1],int(sys.argv[2])));s.sendall(sys.argv[3].encode());os._exit(0)\n\
        \x20 os.wait()\n\
        sys.stdin.read()";
    let place = Place::new();
    let server = ApiServer::plain();
    let resolving = Resolving::here(&place, &[API]);
    let guard = Guard::new(&place, &policy("hold"));
    let (port, question) = (
        server.port().to_string(),
        format!("{}{QUESTION}", head(QUESTION)),
    );
    let mut child = resolving
        .run(&guard, &["python3", "-c", PYTHON, API, &port, &question])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let bytes = 20 * question.len() as u64;
    eventually("all has arrived", || {
        (server.bytes() == bytes).then_some(())
    });
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_head_waits_for_as_long_as_a_person_is_asked_about_another_request_of_its_program() {
    if !["unshare", "python3"].into_iter().all(has_program) {
        return;
    }
    const PYTHON: &str = "import socket,ssl,sys\n\
        host,port,ca,head,body,deletion=sys.argv[1:]\n\
        x=ssl.create_default_context(cafile=ca)\n\
        a,b=[x.wrap_socket(socket.create_connection((host,int(port))),server_hostname=host) for n in range(2)]\n\
        a.sendall(head.encode());b.sendall(deletion.encode());b.recv(65536)\n\
        a.sendall(body.encode());a.recv(65536)";
    let place = Place::new();
    let ca = place.path("ca.pem");
    let server = ApiServer::tls(&[API], &ca);
    let resolving = Resolving::here(&place, &[API]);
    let guard = Guard::new(&place, &policy("hold"));
    let (port, first) = (server.port().to_string(), head(QUESTION));
    let deletion = format!("{}{DELETION}", head(DELETION));
    let ca = ca.to_str().unwrap();
    let arguments = [API, &port, ca, &first, QUESTION, &deletion];
    let mut child = resolving
        .run(
            &guard,
            &[&["python3", "-c", PYTHON], &arguments[..]].concat(),
        )
        .spawn()
        .unwrap();
    guard.hold();
    // Past the two seconds after which a head leaves without its body, and the third after which the kernel lets it go.
    let_pass(std::time::Duration::from_secs(5));
    assert_eq!(server.bytes(), 0);
    guard.approve(&[]);
    assert!(eventually("it is through", || child.try_wait().unwrap()).success());
    let bodies: Vec<Vec<u8>> = server.requests().into_iter().map(|one| one.body).collect();
    assert_eq!(bodies, [DELETION.as_bytes(), QUESTION.as_bytes()]);
    assert_eq!(guard.lost("request"), 0);
}
