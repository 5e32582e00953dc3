//! What programs say: read before it leaves, over TLS and without, and judged by its meaning.

use std::process::Stdio;

use guard_tests::{
    Guard, Place, Policy,
    api::ApiServer,
    clients, eventually, fixture, has_program,
    hello::{hello, in_segments},
    proc,
    resolving::Resolving,
    server::Tcp,
    skipped, skipped_in_part,
    tls::TlsServer,
};

const API: &str = "api.guard-requests.test";
/// Nobody asks about it.
const OTHER: &str = "www.guard-requests.test";

fn policy(then: &str, requests: &str) -> Policy {
    Policy::new()
        .and(&format!(
            "[[label]]\nname = \"destructive\"\nrequests = {requests}"
        ))
        .rule("r", &["destructive"], then, "timeout = \"5m\"")
}

#[test]
fn a_read_passes_and_a_deletion_is_stopped_before_a_byte_of_it_leaves() {
    if !["unshare", "curl"].into_iter().all(has_program) {
        return;
    }
    let place = Place::new();
    let ca = place.path("ca.pem");
    let server = TlsServer::new(&[API, OTHER], &ca);
    let resolving = Resolving::here(&place, &[API, OTHER]);
    let requests = format!("[{{ host = {API:?}, method = \"DELETE\", path = \"/v1/volumes/*\" }}]");
    let guard = Guard::new(&place, &policy("hold", &requests));
    let mut events = guard.events();
    let run = |host: &str, method: &str| {
        let url = format!("https://{host}:{}/v1/volumes/vol-1", server.port());
        resolving
            .run(
                &guard,
                &[
                    "curl",
                    "-sS",
                    "-m",
                    "60",
                    "--cacert",
                    ca.to_str().unwrap(),
                    "-X",
                    method,
                    &url,
                ],
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    // A read, and the same deletion elsewhere.
    for (host, method) in [(API, "GET"), (OTHER, "DELETE")] {
        let output = run(host, method).wait_with_output().unwrap();
        assert!(output.status.success(), "{host} {method}: {output:?}");
    }
    let before = server.reached();
    let mut child = run(API, "DELETE");
    let hold = guard.hold();
    assert!(
        hold["target"]
            .as_str()
            .unwrap()
            .contains("DELETE api.guard-requests.test/v1/volumes/vol-1"),
        "{hold}"
    );
    assert_eq!(server.reached().application, before.application);
    guard.deny(&[]);
    let status = eventually("curl gives up", || child.try_wait().unwrap());
    assert!(!status.success());
    assert_eq!(server.reached().application, before.application);
    let mut child = run(API, "DELETE");
    guard.approve(&[]);
    let status = eventually("curl is through", || child.try_wait().unwrap());
    assert!(status.success());
    assert!(server.reached().application > before.application);
    let event = events.wait("the request", |event| {
        event["kind"] == "request" && event["verdict"] == "hold"
    });
    assert_eq!(event["object"]["via"], "openssl", "{event:?}");
    assert_eq!(event["tier"], "uprobe");
}

/// A program that people really use: how it reads, how it destroys something, and what the server gets of the latter.
struct Client {
    name: &'static str,
    /// What must be there, as a shell sees it.
    needs: &'static str,
    reads: Vec<String>,
    destroys: Vec<String>,
    /// Of the request that destroys: method, beginning of the target, body.
    arrives: (&'static str, &'static str, Option<&'static str>),
}

const MUTATION: &str = r#"{"query":"mutation($id: String!) { volumeDelete(volumeId: $id) }","variables":{"id":"vol-1"}}"#;

/// libcurl of another TLS library than the program's, by python's ctypes.
const LIBCURL: &str = r#"
import ctypes, sys
library, url, ca, body = sys.argv[1:]
c = ctypes.CDLL(library)
c.curl_easy_init.restype = ctypes.c_void_p
c.curl_easy_setopt.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
c.curl_easy_perform.argtypes = [ctypes.c_void_p]
h = c.curl_easy_init()
keep = [s.encode() for s in (url, ca, body)]
c.curl_easy_setopt(h, 10002, keep[0])
c.curl_easy_setopt(h, 10065, keep[1])
if body:
    c.curl_easy_setopt(h, 10165, keep[2])
sys.exit(c.curl_easy_perform(h))
"#;
/// Where a libssl of OpenSSL 1.1 is: no distribution that still gets updates has one. Wheels that bring their own do.
const LIBSSL_1_1_VAR: &str = "GUARD_TEST_LIBSSL_1_1";
/// libssl by itself, by python's ctypes.
const LIBSSL: &str = r#"
import ctypes, glob, os, socket, sys, urllib.parse
library, url, ca, body = sys.argv[1:]
url = urllib.parse.urlsplit(url)
# What libssl needs of it is found because it is there already.
for crypto in glob.glob(os.path.dirname(library) + "/libcrypto*"):
    ctypes.CDLL(crypto)
s = ctypes.CDLL(library)
for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
    getattr(s, name).restype = ctypes.c_void_p
p, i, t = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
s.SSL_CTX_new.argtypes = [p]
s.SSL_CTX_load_verify_locations.argtypes = [p, t, t]
s.SSL_CTX_set_verify.argtypes = [p, i, p]
s.SSL_new.argtypes = s.SSL_connect.argtypes = [p]
s.SSL_ctrl.argtypes = [p, i, ctypes.c_long, t]
s.SSL_set_fd.argtypes = [p, i]
s.SSL_write.argtypes = s.SSL_read.argtypes = [p, t, i]
context = s.SSL_CTX_new(s.TLS_client_method())
assert s.SSL_CTX_load_verify_locations(context, ca.encode(), None) == 1
s.SSL_CTX_set_verify(context, 1, None)
ssl = s.SSL_new(context)
s.SSL_ctrl(ssl, 55, 0, url.hostname.encode())
connection = socket.create_connection((url.hostname, url.port))
s.SSL_set_fd(ssl, connection.fileno())
assert s.SSL_connect(ssl) == 1
request = (
    f"{'POST' if body else 'GET'} {url.path or '/'} HTTP/1.1\r\nHost: {url.hostname}\r\n"
    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
).encode()
assert s.SSL_write(ssl, request, len(request)) == len(request)
answer = ctypes.create_string_buffer(4096)
sys.exit(0 if s.SSL_read(ssl, answer, 4096) > 0 and b" 200 " in answer.raw else 1)
"#;
const URLLIB: &str = "import ssl,sys,urllib.request as r\n\
    d=sys.argv[3].encode() or None\n\
    q=r.Request(sys.argv[1], data=d, headers={'Content-Type':'application/json'})\n\
    r.urlopen(q, context=ssl.create_default_context(cafile=sys.argv[2])).read()";
const REQUESTS: &str = "import sys,requests\n\
    u,ca,d=sys.argv[1:]\n\
    r=requests.post(u,data=d,headers={'Content-Type':'application/json'},verify=ca) if d else requests.get(u,verify=ca)\n\
    r.raise_for_status()";
const HTTPX: &str = "import sys,httpx,ssl\n\
    u,ca,d=sys.argv[1:]\n\
    c=httpx.Client(verify=ssl.create_default_context(cafile=ca))\n\
    (c.post(u,content=d,headers={'Content-Type':'application/json'}) if d else c.get(u)).raise_for_status()";
const HTTPS: &str = "const [u,ca,d]=process.argv.slice(1);\n\
    const q=require('https').request(u,{ca:require('fs').readFileSync(ca),method:d?'POST':'GET',headers:{'Content-Type':'application/json'}},\
    r=>{r.resume();r.on('end',()=>process.exit(0))});q.on('error',()=>process.exit(1));q.end(d||undefined)";
const FETCH: &str = "const [u,d]=process.argv.slice(1);\n\
    fetch(u,d?{method:'POST',body:d,headers:{'Content-Type':'application/json'}}:{}).then(r=>r.text()).then(()=>process.exit(0),()=>process.exit(1))";
const HTTP2: &str = "const [u,ca,d]=process.argv.slice(1);\n\
    const c=require('http2').connect(u,{ca:require('fs').readFileSync(ca)});c.on('error',()=>process.exit(1));\n\
    const q=c.request({':path':'/graphql',':method':d?'POST':'GET','content-type':'application/json'});\n\
    q.on('error',()=>process.exit(1));q.resume();q.on('end',()=>process.exit(0));q.end(d||undefined)";

const GO: &str = r#"
package main

import (
	"net/http"
	"os"
	"strings"
)

func main() {
	var answer *http.Response
	var err error
	if body := os.Args[2]; body == "" {
		answer, err = http.Get(os.Args[1])
	} else {
		answer, err = http.Post(os.Args[1], "application/json", strings.NewReader(body))
	}
	if err != nil || answer.StatusCode != 200 {
		os.Exit(1)
	}
}
"#;
/// terraform with its state at a server, which it is told of first.
const TERRAFORM: &str = "set -e; export CHECKPOINT_DISABLE=1 SSL_CERT_FILE=$1 HOME=$PWD; base=$2; shift 2\n\
    mkdir -p terraform; cd terraform; echo '{\"terraform\":{\"backend\":{\"http\":{}}}}' >main.tf.json\n\
    echo '{\"version\":4,\"serial\":2,\"lineage\":\"x\",\"outputs\":{},\"resources\":[]}' >state.json\n\
    [ -d .terraform ] || terraform init -backend-config=address=$base/state -backend-config=retry_max=0\n\
    exec terraform state \"$@\"";

/// Writes a request over one connection by each of many functions that have called themselves, one deeper than the other, so
/// that in some of them the stack has to grow where the library's function begins.
const GO_DEEP: &str = r#"
package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
)

var kept byte

func deep(n int, last func()) {
	var room [8]byte
	room[n%8] = byte(n)
	if n == 0 {
		last()
	} else {
		deep(n-1, last)
	}
	kept = room[n%7]
}

func main() {
	name, port := os.Args[1], os.Args[2]
	count, err := strconv.Atoi(os.Args[3])
	if err != nil {
		panic(err)
	}
	conn, err := tls.Dial("tcp", name+":"+port, nil)
	if err != nil {
		panic(err)
	}
	answers := bufio.NewReader(conn)
	for n := 0; n < count; n++ {
		said := []byte(fmt.Sprintf("POST /deep/%d HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\n\r\n", n, name))
		done := make(chan error)
		go deep(n, func() {
			_, err := conn.Write(said)
			done <- err
		})
		if err := <-done; err != nil {
			panic(err)
		}
		answer, err := http.ReadResponse(answers, nil)
		if err != nil {
			panic(err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			panic(err)
		}
	}
}
"#;

/// A Go program's path, where there is a compiler.
fn go_program(place: &Place, source: &str) -> Option<String> {
    let source = place.file("go/main.go", source);
    let program = place.path("go-client");
    let built = place
        .command("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(source)
        .env("GO111MODULE", "off")
        .env("GOTOOLCHAIN", "local")
        .output();
    match built {
        Ok(output) if output.status.success() => Some(program.to_str()?.into()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            skipped_in_part(&format!("go does not compile here: {said}"));
            None
        }
        Err(_) => None,
    }
}

fn clients(place: &Place, base: &str, ca: &str) -> Vec<Client> {
    let words =
        |words: &[&str]| -> Vec<String> { words.iter().map(|word| (*word).into()).collect() };
    let url = format!("{base}/graphql");
    let posted = ("POST", "/graphql", Some(MUTATION));
    let json = "Content-Type: application/json";
    let curl = |version: &str, more: &[&str]| {
        let mut all = words(&["curl", "-sSf", version, "-m", "60", "--cacert", ca, &url]);
        all.extend(words(more));
        all
    };
    let with = |before: &[&str], body: &str| {
        let mut all = words(before);
        all.push(body.into());
        all
    };
    let extra = format!("NODE_EXTRA_CA_CERTS={ca}");
    let both = |before: &[&str]| (with(before, ""), with(before, MUTATION));
    let mut all = Vec::new();
    for (name, version) in [("curl, HTTP/1.1", "--http1.1"), ("curl, HTTP/2", "--http2")] {
        all.push(Client {
            name,
            needs: "curl --version",
            reads: curl(version, &[]),
            destroys: curl(version, &["-H", json, "--data-binary", MUTATION]),
            arrives: posted,
        });
    }
    for (name, library, via) in [
        ("libcurl with GnuTLS", "libcurl-gnutls.so.4", "gnutls"),
        ("libcurl with NSS", "libcurl-nss.so.4", "nss"),
    ] {
        let (reads, destroys) = both(&["python3", "-c", LIBCURL, library, &url, ca]);
        all.push(Client {
            name,
            needs: if via == "nss" {
                "python3 -c 'import ctypes; ctypes.CDLL(\"libcurl-nss.so.4\")'"
            } else {
                "python3 -c 'import ctypes; ctypes.CDLL(\"libcurl-gnutls.so.4\")'"
            },
            reads,
            destroys,
            arrives: posted,
        });
    }
    let libssl = std::env::var(LIBSSL_1_1_VAR).unwrap_or_default();
    let (reads, destroys) = both(&["python3", "-c", LIBSSL, &libssl, &url, ca]);
    all.push(Client {
        name: "OpenSSL 1.1 by itself",
        needs: if libssl.is_empty() { "false" } else { "true" },
        reads,
        destroys,
        arrives: posted,
    });
    let wget = |more: &[&str]| {
        let mut all = words(&[
            // Not what busybox's shell takes for it.
            "/usr/bin/env",
            "wget",
            "-q",
            "-O",
            "/dev/null",
            "--tries=1",
            "--ca-certificate",
            ca,
        ]);
        all.extend(words(more));
        all.push(url.clone());
        all
    };
    all.push(Client {
        name: "wget",
        needs: "/usr/bin/env wget --version",
        reads: wget(&[]),
        destroys: wget(&["--header", json, "--post-data", MUTATION]),
        arrives: posted,
    });
    for (name, needs, program) in [
        ("python urllib", "python3 -c 'import ssl'", URLLIB),
        ("python requests", "python3 -c 'import requests'", REQUESTS),
        ("python httpx", "python3 -c 'import httpx'", HTTPX),
    ] {
        let (reads, destroys) = both(&["python3", "-c", program, &url, ca]);
        all.push(Client {
            name,
            needs,
            reads,
            destroys,
            arrives: posted,
        });
    }
    for (name, program, before) in [
        ("node https", HTTPS, vec!["node", "-e", HTTPS, &url, ca]),
        ("node http2", HTTP2, vec!["node", "-e", HTTP2, base, ca]),
        (
            "node fetch",
            FETCH,
            vec!["env", &extra, "node", "-e", FETCH, &url],
        ),
    ] {
        let _ = program;
        let (reads, destroys) = both(&before);
        all.push(Client {
            name,
            needs: "node --version",
            reads,
            destroys,
            arrives: posted,
        });
    }
    let git = |more: &[&str]| {
        let mut all = words(&[
            "env",
            &format!("GIT_SSL_CAINFO={ca}"),
            "GIT_TERMINAL_PROMPT=0",
            "git",
        ]);
        all.extend(words(more));
        all
    };
    let repository = format!("{base}/o/r.git");
    all.push(Client {
        name: "git",
        needs: "git --version",
        reads: git(&["ls-remote", &repository]),
        destroys: git(&["push", &repository, "HEAD"]),
        arrives: ("GET", "/o/r.git/info/refs?service=git-receive-pack", None),
    });
    let kubectl = |more: &[&str]| {
        let mut all = words(&[
            "kubectl",
            "--token",
            "made-up",
            "--server",
            base,
            "--certificate-authority",
            ca,
        ]);
        all.extend(words(more));
        all
    };
    all.push(Client {
        name: "kubectl",
        needs: "kubectl version --client",
        reads: kubectl(&["get", "--raw", "/api/v1/namespaces/prod"]),
        destroys: kubectl(&["delete", "--raw", "/api/v1/namespaces/prod"]),
        arrives: ("DELETE", "/api/v1/namespaces/prod", None),
    });
    let terraform = |more: &[&str]| {
        let mut all = words(&["sh", "-c", TERRAFORM, "sh", ca, base]);
        all.extend(words(more));
        all
    };
    all.push(Client {
        name: "terraform",
        needs: "terraform version",
        reads: terraform(&["pull"]),
        destroys: terraform(&["push", "-force", "state.json"]),
        arrives: ("POST", "/state", None),
    });
    let go = go_program(place, GO);
    let trusts = format!("SSL_CERT_FILE={ca}");
    let (reads, destroys) = both(&["env", &trusts, go.as_deref().unwrap_or_default(), &url]);
    all.push(Client {
        name: "a Go program (net/http)",
        needs: if go.is_some() { "true" } else { "false" },
        reads,
        destroys,
        arrives: posted,
    });
    let aws = |more: &[&str]| {
        let mut all = words(&[
            "env",
            "AWS_ACCESS_KEY_ID=made-up",
            "AWS_SECRET_ACCESS_KEY=made-up",
            "AWS_MAX_ATTEMPTS=1",
            "AWS_DEFAULT_REGION=us-east-1",
            "aws",
            "--endpoint-url",
            base,
            "--ca-bundle",
            ca,
            "ec2",
        ]);
        all.extend(words(more));
        all
    };
    all.push(Client {
        name: "aws",
        needs: "aws --version",
        reads: aws(&["describe-instances"]),
        destroys: aws(&["terminate-instances", "--instance-ids", "i-0123"]),
        arrives: ("POST", "/", None),
    });
    all
}

#[test]
fn real_clients_read_unharmed_and_destroy_only_what_was_approved() {
    if !has_program("unshare") {
        return;
    }
    let place = Place::new();
    let ca = place.path("ca.pem");
    let server = ApiServer::tls(&[API, OTHER], &ca);
    let resolving = Resolving::here(&place, &[API, OTHER]);
    let requests = format!(
        "[{{ host = {API:?}, graphql = \"mutation *Delete*\" }}, \
          {{ host = {API:?}, query = \"service=git-receive-pack\" }}, \
          {{ host = {API:?}, kube = \"delete namespaces\" }}, \
          {{ host = {API:?}, aws = \"ec2:Terminate*\" }}, \
          {{ host = {API:?}, method = \"POST\", path = \"/state\" }}]"
    );
    let guard = Guard::new(&place, &policy("hold", &requests));
    let base = format!("https://{API}:{}", server.port());
    let mut tried = 0;
    for client in clients(&place, &base, ca.to_str().unwrap()) {
        let can = place
            .command("sh")
            .args(["-c", client.needs])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        if !can.success() {
            skipped_in_part(&format!("{} is not installed here", client.name));
            continue;
        }
        tried += 1;
        let name = client.name;
        let start = |words: &[String]| {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            resolving
                .run(&guard, &words)
                .current_dir(repository(&place))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        };
        let before = server.begun();
        let mut child = start(&client.reads);
        eventually(&format!("{name} reads"), || {
            assert!(
                guard.holds().is_empty(),
                "{name}: a read is held: {:?}",
                guard.holds()
            );
            child.try_wait().unwrap()
        });
        assert!(server.begun() > before, "{name} did not read");
        let (read, whole) = (server.begun(), server.requests().len());
        // Some read before they destroy.
        let head_alone = || server.begun() - read > (server.requests().len() - whole) as u64;
        let (method, target, body) = client.arrives;
        let destroys = |request: &&guard_tests::api::Reached| {
            request.method == method
                && request.target.starts_with(target)
                && body.is_none_or(|body| request.body == body.as_bytes())
        };
        let mut child = start(&client.destroys);
        let mut refused = 0;
        eventually(&format!("{name} gives up"), || {
            if let Some(hold) = guard.holds().first() {
                guard.must(&["deny", hold["id"].as_str().unwrap()]);
                refused += 1;
            }
            child.try_wait().unwrap()
        });
        assert!(
            refused > 0,
            "{name} was not held: {:?}",
            server.requests().last()
        );
        // Nor has the head of a body that comes in a write of its own.
        assert!(!head_alone(), "{name}: a head has left without its body");
        let reached = server.requests();
        let destroyed = reached.iter().skip(whole).find(destroys);
        assert_eq!(destroyed, None, "{name}");
        let mut child = start(&client.destroys);
        guard.approve(&[]);
        eventually(&format!("{name} is through"), || {
            if let Some(hold) = guard.holds().first() {
                guard.must(&["approve", hold["id"].as_str().unwrap()]);
            }
            child.try_wait().unwrap()
        });
        let requests = server.requests();
        let arrived = requests.iter().skip(whole).find(destroys);
        assert!(arrived.is_some(), "{name}: {:?}", &requests[whole..]);
        let all = guard.events_now();
        let event = all
            .iter()
            .rev()
            .find(|event| event.is("request") && event.verdict() == "hold");
        let event = event.expect("the held request");
        let seen = clients::Client {
            name,
            via: Some(event["object"]["via"].as_str().unwrap().to_owned().leak()),
            version: arrived.unwrap().version.clone().leak(),
        };
        assert!(
            clients::CLIENTS.contains(&seen),
            "the table says something else than {seen:?}"
        );
    }
    assert!(tried > 0, "no client is installed here");
}

/// A repository with a commit.
fn repository(place: &Place) -> std::path::PathBuf {
    let at = place.path("repository");
    if !at.exists() {
        std::fs::create_dir(&at).unwrap();
        let script = "git init -q . && git -c user.name=x -c user.email=x@localhost commit -q --allow-empty -m x";
        let _ = place
            .command("sh")
            .args(["-c", script])
            .current_dir(&at)
            .stderr(Stdio::null())
            .status();
    }
    at
}

#[test]
fn plain_http_is_read_before_it_leaves() {
    if !["unshare", "curl"].into_iter().all(has_program) {
        return;
    }
    let place = Place::new();
    let server = ApiServer::plain();
    let resolving = Resolving::here(&place, &[API, OTHER]);
    let requests = format!("[{{ host = {API:?}, method = \"DELETE\" }}]");
    let guard = Guard::new(&place, &policy("hold", &requests));
    let curl = |host: &str, method: &str| {
        let url = format!("http://{host}:{}/v1/volumes/vol-1", server.port());
        resolving
            .run(&guard, &["curl", "-sSf", "-m", "60", "-X", method, &url])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    for (host, method) in [(API, "GET"), (OTHER, "DELETE")] {
        let output = curl(host, method).wait_with_output().unwrap();
        assert!(output.status.success(), "{host} {method}: {output:?}");
    }
    let before = server.bytes();
    let mut child = curl(API, "DELETE");
    let hold = guard.hold();
    assert!(
        hold["target"].as_str().unwrap().contains("DELETE"),
        "{hold}"
    );
    proc::wait_stopped(hold["pid"].as_u64().unwrap() as u32);
    assert_eq!(server.bytes(), before);
    guard.deny(&[]);
    let status = eventually("curl gives up", || child.try_wait().unwrap());
    assert!(!status.success());
    assert_eq!(server.bytes(), before);
    let mut child = curl(API, "DELETE");
    guard.approve(&[]);
    let status = eventually("curl is through", || child.try_wait().unwrap());
    assert!(status.success());
    assert_eq!(server.requests().last().unwrap().method, "DELETE");
}

#[test]
fn a_request_is_found_on_a_connection_that_has_read_before_and_in_pieces() {
    if !["unshare", "python3"].into_iter().all(has_program) {
        return;
    }
    let place = Place::new();
    let server = ApiServer::plain();
    let resolving = Resolving::here(&place, &[API, OTHER]);
    let requests = format!("[{{ host = {API:?}, method = \"DELETE\" }}]");
    let guard = Guard::new(&place, &policy("hold", &requests));
    const PYTHON: &str = "import socket,sys,time\n\
        s=socket.create_connection((sys.argv[1],int(sys.argv[2])));s.setsockopt(6,1,1)\n\
        h=('Host: %s\\r\\n\\r\\n'%sys.argv[1]).encode()\n\
        s.sendall(b'GET / HTTP/1.1\\r\\n'+h);s.recv(4096)\n\
        s.sendall(b'DEL');s.sendall(b'ETE /v1 HTTP/1.1\\r\\n'+h);s.recv(4096)";
    let reached = 0;
    let mut child = resolving
        .run(
            &guard,
            &["python3", "-c", PYTHON, API, &server.port().to_string()],
        )
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    guard.hold();
    assert_eq!(server.requests().len(), reached + 1);
    guard.deny(&[]);
    let status = eventually("python gives up", || child.try_wait().unwrap());
    assert!(!status.success());
    assert_eq!(server.requests().len(), reached + 1);
}

#[test]
fn what_is_no_http_goes_its_way_and_a_client_hello_behind_it_is_still_found() {
    let place = Place::new();
    let server = Tcp::v4();
    let guard = Guard::new(
        &place,
        &policy(
            "deny",
            &format!("[{{ host = {API:?}, method = \"DELETE\" }}]"),
        )
        .and(&format!("[[label]]\nname = \"named\"\nhosts = [{OTHER:?}]"))
        .rule("n", &["named"], "deny", ""),
    );
    let mut tool = guard.tool();
    let send = |pieces: &[&[u8]]| {
        let pieces: Vec<String> = pieces
            .iter()
            .map(|piece| in_segments(piece, 65_536))
            .collect();
        format!("segments {} {}", server.addr(), pieces.join(" "))
    };
    for pieces in [
        &[b"EHLO x.test\r\n".as_slice(), b"STARTTLS\r\n", b"more"][..],
        &[b"SSH-2.0-x y\r\n", b"\0\0\x01binary"],
        &[b"get key\r\n", b"quit\r\n"],
        &[b"\0\0\0\x08\x04\xd2\x16\x2f"],
    ] {
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        assert_eq!(tool.must(&send(pieces))["echoed"], length, "{pieces:?}");
    }
    let connect = format!("CONNECT {OTHER}:443 HTTP/1.1\r\nHost: {OTHER}\r\n\r\n");
    let before = server.reached().bytes;
    let answer = tool.ask(&send(&[connect.as_bytes(), &hello(OTHER, 0)]));
    assert!(answer.get("echoed").is_none(), "{answer}");
    assert_eq!(server.reached().bytes, before + connect.len() as u64);
}

#[test]
fn threads_that_speak_at_once_are_all_heard_and_none_is_left_stopped() {
    if !["unshare", "python3"].into_iter().all(has_program) {
        return;
    }
    let place = Place::new();
    let ca = place.path("ca.pem");
    let server = ApiServer::tls(&[API, OTHER], &ca);
    let resolving = Resolving::here(&place, &[API, OTHER]);
    let requests = format!("[{{ host = {API:?}, method = \"DELETE\" }}]");
    let guard = Guard::new(&place, &policy("kill", &requests));
    const PYTHON: &str = "import ssl,sys,threading,http.client as h\n\
        host,port,ca,last=sys.argv[1:]\n\
        def speak(n):\n\
        \x20 c=h.HTTPSConnection(host,int(port),context=ssl.create_default_context(cafile=ca))\n\
        \x20 for i in range(40):\n\
        \x20  c.request('GET','/%d/%d'%(n,i));c.getresponse().read()\n\
        \x20 if n==0 and last: c.request(last,'/last');c.getresponse().read()\n\
        t=[threading.Thread(target=speak,args=(n,)) for n in range(8)]\n\
        [x.start() for x in t];[x.join() for x in t]";
    let run = |last: &str| {
        let port = server.port().to_string();
        let mut child = resolving
            .run(
                &guard,
                &[
                    "python3",
                    "-c",
                    PYTHON,
                    API,
                    &port,
                    ca.to_str().unwrap(),
                    last,
                ],
            )
            .spawn()
            .unwrap();
        eventually("the threads are through", || child.try_wait().unwrap())
    };
    assert!(run("").success());
    assert_eq!(server.requests().len(), 320);
    assert!(!run("DELETE").success());
    assert!(
        server
            .requests()
            .iter()
            .all(|request| request.method == "GET")
    );
    assert_eq!(guard.lost("request"), 0);
}

/// A function of Go's begins anew when its stack had to grow, or when its thread was wanted for something else: what it writes then
/// came twice, and made no sense.
#[test]
fn what_go_writes_while_its_stack_grows_is_read_once() {
    if !has_program("unshare") {
        return;
    }
    let place = Place::new();
    let Some(program) = go_program(&place, GO_DEEP) else {
        return skipped("no Go compiler is installed here");
    };
    let ca = place.path("ca.pem");
    let server = ApiServer::tls(&[API, OTHER], &ca);
    let resolving = Resolving::here(&place, &[API, OTHER]);
    let requests = format!("[{{ host = {API:?}, method = \"POST\" }}]");
    let guard = Guard::new(&place, &policy("flag", &requests));
    // A level takes some 50 bytes, the first stacks are 2 to 8 KiB.
    const LEVELS: usize = 300;
    let port = server.port().to_string();
    let levels = LEVELS.to_string();
    let mut child = resolving
        .run(&guard, &[&program, API, &port, &levels])
        .env("SSL_CERT_FILE", &ca)
        .spawn()
        .unwrap();
    let status = eventually("the program is through", || child.try_wait().unwrap());
    assert!(status.success());
    let reached = server.requests();
    let reached: Vec<&str> = reached.iter().map(|request| &*request.target).collect();
    let said = guard.events_now();
    let said: Vec<&str> = said
        .iter()
        .filter(|event| event.is("request"))
        .map(|event| event["object"]["path"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(reached.len(), LEVELS);
    let wrong: Vec<_> = reached
        .into_iter()
        .map(|path| (path, said.iter().filter(|said| **said == path).count()))
        .filter(|(_, times)| *times != 1)
        .collect();
    assert_eq!(wrong, [], "requests that were not read once");
}

/// How long one look takes a program: `cargo test … -- --ignored --nocapture look`.
#[test]
#[ignore = "measures"]
fn how_long_a_look_takes() {
    let place = Place::new();
    let ca = place.path("ca.pem");
    let server = ApiServer::tls(&[API, OTHER], &ca);
    let resolving = Resolving::here(&place, &[API, OTHER]);
    let requests = format!("[{{ host = {API:?}, method = \"DELETE\" }}]");
    let guard = Guard::new(&place, &policy("kill", &requests));
    const PYTHON: &str = "import ssl,sys,time,socket\n\
        host,port,ca=sys.argv[1:]\n\
        c=ssl.create_default_context(cafile=ca)\n\
        s=c.wrap_socket(socket.create_connection((host,int(port))),server_hostname=host)\n\
        d=[]\n\
        for i in range(2000):\n\
        \x20 m=('GET /%d HTTP/1.1\\r\\nHost: %s\\r\\n\\r\\n'%(i,host)).encode()\n\
        \x20 t=time.perf_counter_ns();s.send(m);d.append(time.perf_counter_ns()-t)\n\
        \x20 s.recv(4096)\n\
        d=sorted(d[20:])\n\
        print('p50 %.0f us, p90 %.0f us, p99 %.0f us, max %.0f us'%tuple(d[int(len(d)*q)]/1000 for q in (.5,.9,.99,.9999)))";
    for (what, host) in [("read", API), ("nobody's", OTHER)] {
        let port = server.port().to_string();
        let output = resolving
            .run(
                &guard,
                &["python3", "-c", PYTHON, host, &port, ca.to_str().unwrap()],
            )
            .output()
            .unwrap();
        println!("{what}: {}", String::from_utf8_lossy(&output.stdout).trim());
    }
}

#[test]
fn the_page_has_the_table_of_clients() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/requests.md");
    let page = include_str!("../../docs/requests.md");
    let (before, rest) = page.split_once("<!-- clients -->\n").unwrap();
    let (_, behind) = rest.split_once("<!-- end -->").unwrap();
    let whole = format!(
        "{before}<!-- clients -->\n{}<!-- end -->{behind}",
        clients::table()
    );
    if std::env::var_os("GUARD_WRITE_DOCS").is_some() {
        std::fs::write(path, whole).unwrap();
        return;
    }
    assert_eq!(
        page, whole,
        "write it anew: GUARD_WRITE_DOCS=1 cargo xtask test --e2e the_page"
    );
}

#[test]
fn a_client_that_cannot_be_tapped_is_told_and_judged_by_its_names() {
    let place = Place::new();
    let ca = place.path("ca.pem");
    let server = ApiServer::tls(&[API, OTHER], &ca);
    let requests = format!("[{{ host = {API:?}, method = \"DELETE\" }}]");
    let guard = Guard::new(
        &place,
        &policy("deny", &requests)
            .and(&format!("[[label]]\nname = \"named\"\nhosts = [{API:?}]"))
            .rule("n", &["named"], "flag", ""),
    );
    let mut events = guard.events();
    let mut tool = guard.tool();
    let session = guard.session_of(tool.pid()).unwrap();
    let answer = tool.must(&format!(
        "https 127.0.0.1:{} {API} {} DELETE",
        server.port(),
        ca.display()
    ));
    assert!(answer["echo"].to_string().contains("200 OK"), "{answer}");
    events.wait("its name", |event| event.is_connect("named", "flag"));
    let told = |lines: &serde_json::Value| lines.to_string().contains(API);
    assert!(told(&guard.json(&["status"])["not_enforced"]));
    assert!(told(&guard.json(&["show", &session])["untapped"]));
}

/// Resident memory of a process, KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// `cargo test … -- --ignored --nocapture ten_thousand`.
#[test]
#[ignore = "measures"]
fn ten_thousand_connections_leave_nothing() {
    let place = Place::new();
    let ca = place.path("ca.pem");
    let server = ApiServer::tls(&[API, OTHER], &ca);
    let resolving = Resolving::here(&place, &[API, OTHER]);
    let requests = format!("[{{ host = {API:?}, method = \"DELETE\" }}]");
    let guard = Guard::new(&place, &policy("kill", &requests));
    const PYTHON: &str = "import ssl,sys,socket\n\
        host,port,ca,n=sys.argv[1:]\n\
        c=ssl.create_default_context(cafile=ca)\n\
        for i in range(int(n)):\n\
        \x20 s=c.wrap_socket(socket.create_connection((host,int(port))),server_hostname=host)\n\
        \x20 s.send(('GET /%d HTTP/1.1\\r\\nHost: %s\\r\\n\\r\\n'%(i,host)).encode());s.recv(4096);s.close()";
    let port = server.port().to_string();
    let many = |count: u32| {
        let status = resolving
            .run(
                &guard,
                &[
                    "python3",
                    "-c",
                    PYTHON,
                    API,
                    &port,
                    ca.to_str().unwrap(),
                    &count.to_string(),
                ],
            )
            .status()
            .unwrap();
        assert!(status.success());
    };
    many(2000);
    let before = resident(guard.pid());
    let started = std::time::Instant::now();
    many(10_000);
    let took = started.elapsed();
    let after = resident(guard.pid());
    println!("one process: 10000 connections in {took:?}, {before} KiB, then {after} KiB");
    let each = |count: u32| {
        for _ in 0..count {
            many(1);
        }
    };
    each(20);
    let before = resident(guard.pid());
    let started = std::time::Instant::now();
    each(300);
    let took = started.elapsed();
    let after = resident(guard.pid());
    println!("300 processes in {took:?}, {before} KiB, then {after} KiB");
    assert_eq!(guard.lost("request"), 0);
}

/// `cargo test … -- --ignored --nocapture others_pay`.
#[test]
#[ignore = "measures"]
fn others_pay_nothing_for_a_tapped_library() {
    const PYTHON: &str = "import ssl,sys,socket,time,threading\n\
        cert,key=sys.argv[1:]\n\
        a=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER);a.load_cert_chain(cert,key)\n\
        c=ssl._create_unverified_context()\n\
        l=socket.create_server(('127.0.0.1',0))\n\
        def serve():\n\
        \x20 s=a.wrap_socket(l.accept()[0],server_side=True)\n\
        \x20 while s.recv(65536): pass\n\
        threading.Thread(target=serve,daemon=True).start()\n\
        s=c.wrap_socket(socket.create_connection(l.getsockname()))\n\
        b=b'x'*16384\n\
        for i in range(2000): s.send(b)\n\
        t=time.perf_counter()\n\
        for i in range(20000): s.send(b)\n\
        print(time.perf_counter()-t)";
    let place = Place::new();
    let ca = place.path("ca.pem");
    let (cert, key) = (place.path("cert.pem"), place.path("key.pem"));
    let made = place
        .command("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=x",
        ])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let time = || -> f64 {
        let output = place
            .command("python3")
            .args(["-c", PYTHON])
            .arg(&cert)
            .arg(&key)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .unwrap()
    };
    let server = ApiServer::tls(&[API, OTHER], &ca);
    let resolving = Resolving::here(&place, &[API, OTHER]);
    let requests = format!("[{{ host = {API:?}, method = \"DELETE\" }}]");
    let guard = Guard::new(&place, &policy("kill", &requests));
    const TAPPED: &str = "import ssl,sys,socket,time\n\
        host,port,ca=sys.argv[1:]\n\
        c=ssl.create_default_context(cafile=ca)\n\
        s=c.wrap_socket(socket.create_connection((host,int(port))),server_hostname=host)\n\
        time.sleep(600)";
    let port = server.port().to_string();
    let mut ratios = Vec::new();
    for _ in 0..7 {
        let without = time();
        let mut tapped = resolving
            .run(
                &guard,
                &["python3", "-c", TAPPED, API, &port, ca.to_str().unwrap()],
            )
            .spawn()
            .unwrap();
        eventually("it is tapped", || {
            (guard.hook("requests")["attached"] == true).then_some(())
        });
        ratios.push(time() / without);
        // The session's own, below guardctl.
        for session in guard.sessions() {
            guard.ctl(&["kill", session["id"].as_str().unwrap()]);
        }
        let _ = tapped.wait();
        eventually("nobody is", || {
            (guard.hook("requests")["attached"] == false).then_some(())
        });
    }
    ratios.sort_by(f64::total_cmp);
    println!("with a tapped process / without: {ratios:.3?}");
}

/// Sends each of the given bytes over a TLS connection of its own, and says which got an answer.
const SENDS: &str = "import json,socket,ssl,sys\n\
    port=int(sys.argv[1])\n\
    c=ssl._create_unverified_context()\n\
    for sample in json.load(open(sys.argv[2])):\n\
    \x20 try:\n\
    \x20  s=c.wrap_socket(socket.create_connection(('127.0.0.1',port)),server_hostname=sample['host'])\n\
    \x20  s.settimeout(60);s.send(bytes.fromhex(sample['bytes']));print('yes' if s.recv(4096) else 'no')\n\
    \x20 except OSError: print('no')\n\
    \x20 s.close()";

/// What of `samples` (host and bytes) a program of a session gets an answer to, and how many requests reach the server.
fn sent(policy: &str, samples: &[(String, Vec<u8>)]) -> (Vec<bool>, usize) {
    let place = Place::new();
    let server = ApiServer::tls(&[API], &place.path("ca.pem"));
    let guard = Guard::new(&place, policy);
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    let lines: Vec<_> = samples
        .iter()
        .map(|(host, bytes)| serde_json::json!({ "host": host, "bytes": hex(bytes) }))
        .collect();
    let file = place.file("samples.json", &serde_json::to_string(&lines).unwrap());
    let output = guard
        .run(&["--agent", "x"], "python3")
        .args(["-c", SENDS, &server.port().to_string()])
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(guard.lost("request"), 0);
    let said = String::from_utf8(output.stdout).unwrap();
    let answered: Vec<bool> = said.lines().map(|line| line == "yes").collect();
    assert_eq!(answered.len(), samples.len());
    (answered, server.requests().len())
}

#[test]
fn a_deletion_reaches_nobody_in_any_disguise() {
    if !has_program("python3") {
        return;
    }
    const HOST: &str = "api.test";
    let all: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../../policy/disguises.json")).unwrap();
    assert!(all.len() >= 30);
    let samples: Vec<(String, Vec<u8>)> = all
        .iter()
        .map(|one| {
            let hex = one["bytes"].as_str().unwrap();
            let bytes = (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            (HOST.to_owned(), bytes)
        })
        .collect();
    let requests = format!("[{{ host = {HOST:?}, graphql = \"mutation *Delete*\" }}]");
    let (answered, reached) = sent(&policy("deny", &requests), &samples);
    for (one, answered) in all.iter().zip(answered) {
        assert!(!answered, "{} got an answer", one["name"]);
    }
    assert_eq!(reached, 0);
}

#[test]
fn the_built_in_policys_requests_are_told_apart_on_their_way() {
    if !has_program("python3") {
        return;
    }
    // Its labels for requests alone: no agent, no other rule.
    let built_in: toml::Table = toml::from_str(include_str!("../../policy/default.toml")).unwrap();
    let labels: Vec<toml::Value> = built_in["label"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|label| label["name"].as_str() == Some("destructive-request"))
        .cloned()
        .collect();
    let mut table = toml::Table::new();
    table.insert("label".into(), labels.into());
    let policy = Policy::new().and(&toml::to_string(&table).unwrap()).rule(
        "r",
        &["destructive-request"],
        "deny",
        "",
    );
    let all: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../../policy/requests.json")).unwrap();
    // Those over TLS to a name; this server is at none of the addresses.
    let all: Vec<&serde_json::Value> = all
        .iter()
        .filter(|one| {
            let host = one["url"].as_str().unwrap().strip_prefix("https://");
            host.is_some_and(|host| !host.starts_with(|first: char| first.is_ascii_digit()))
        })
        .collect();
    let samples: Vec<(String, Vec<u8>)> = all
        .iter()
        .map(|one| {
            let rest = one["url"]
                .as_str()
                .unwrap()
                .strip_prefix("https://")
                .unwrap();
            let at = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, target) = rest.split_at(at);
            let slash = if target.starts_with('/') { "" } else { "/" };
            let body = one["body"].as_str().unwrap_or_default();
            let mut head = format!(
                "{} {slash}{target} HTTP/1.1\r\nHost: {authority}\r\n",
                one["method"].as_str().unwrap()
            );
            for (name, value) in one["headers"].as_object().unwrap() {
                head.push_str(&format!("{name}: {}\r\n", value.as_str().unwrap()));
            }
            if !body.is_empty() {
                head.push_str(&format!("Content-Length: {}\r\n", body.len()));
            }
            let host = authority.split(':').next().unwrap().to_owned();
            (host, format!("{head}\r\n{body}").into_bytes())
        })
        .collect();
    let (answered, reached) = sent(&policy, &samples);
    let mut wrong = Vec::new();
    for (one, answered) in all.iter().zip(&answered) {
        if *answered == (one["is"] == "destroys") {
            wrong.push(one.to_string());
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        all.len(),
        wrong.join("\n")
    );
    assert_eq!(
        reached,
        answered.iter().filter(|answered| **answered).count()
    );
}

/// Four threads, each with a connection of its own, read and then delete something at the same time.
const AT_ONCE: &str = "import ssl,sys,threading,http.client as h\n\
    host,port,ca=sys.argv[1:]\n\
    b=threading.Barrier(4)\n\
    def speak():\n\
    \x20 c=h.HTTPSConnection(host,int(port),context=ssl.create_default_context(cafile=ca))\n\
    \x20 c.request('GET','/');c.getresponse().read();b.wait()\n\
    \x20 try: c.request('DELETE','/x');c.getresponse().read()\n\
    \x20 except OSError: pass\n\
    t=[threading.Thread(target=speak) for n in range(4)]\n\
    [x.start() for x in t];[x.join() for x in t]";

/// Runs these threads where deletions are held, and gives each hold that there is to `answer`. What has reached the server;
/// `None` where they cannot be run.
fn spoken_at_once(mut answer: impl FnMut(&Guard, &str)) -> Option<Vec<guard_tests::api::Reached>> {
    if !["unshare", "python3"].into_iter().all(has_program) {
        return None;
    }
    let place = Place::new();
    let ca = place.path("ca.pem");
    let server = ApiServer::tls(&[API, OTHER], &ca);
    let resolving = Resolving::here(&place, &[API, OTHER]);
    let requests = format!("[{{ host = {API:?}, method = \"DELETE\" }}]");
    let guard = Guard::new(&place, &policy("hold", &requests));
    let port = server.port().to_string();
    let mut child = resolving
        .run(
            &guard,
            &["python3", "-c", AT_ONCE, API, &port, ca.to_str().unwrap()],
        )
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the threads are through", || {
        if let Some(hold) = guard.holds().first() {
            answer(&guard, hold["id"].as_str().unwrap());
        }
        child.try_wait().unwrap()
    });
    Some(server.requests())
}

#[test]
fn one_answer_lets_one_request_through_and_not_that_of_another_thread() {
    let mut approved = 0;
    let Some(requests) = spoken_at_once(|guard, hold| {
        guard.must(&["approve", hold]);
        approved += 1;
    }) else {
        return;
    };
    let deletions = requests.iter().filter(|one| one.method == "DELETE");
    let deleted = deletions.count();
    // Each of the four was asked about, the other three behind the first, and each arrived.
    assert_eq!(
        (deleted, approved),
        (4, 4),
        "{deleted} deletions by {approved} answers"
    );
}

#[test]
fn a_refusal_to_one_thread_is_one_to_those_behind_it() {
    // The process may come to the call of another thread only after the answer.
    let mut denied = 0;
    let Some(requests) = spoken_at_once(|guard, hold| {
        guard.must(&["deny", hold]);
        denied += 1;
    }) else {
        return;
    };
    assert!(denied > 0);
    assert!(requests.iter().all(|request| request.method == "GET"));
    assert_eq!(requests.len(), 4);
}

#[test]
fn what_lets_one_thread_go_on_lets_no_other_go_unread() {
    const SECOND: &str = "second.guard-requests.test";
    // With one, a thread that waits for guardd keeps it from running: it stops waiting, and that is counted as lost.
    if std::thread::available_parallelism().is_ok_and(|count| count.get() < 2) {
        skipped("threads that speak at once need two processors");
        return;
    }
    let place = Place::new();
    let server = ApiServer::tls(&[API, SECOND], &place.path("ca.pem"));
    let requests = format!(
        "[{{ host = {API:?}, method = \"DELETE\" }}, {{ host = {SECOND:?}, method = \"DELETE\" }}]"
    );
    let guard = Guard::new(&place, &policy("deny", &requests));
    // Each read of the six stops the process and lets it go on, and would so undo whatever stop of the other two came just before.
    let output = guard
        .run(
            &["--agent", "x"],
            fixture("guard-fixture-speaker").display().to_string(),
        )
        .args([SECOND, API, &server.port().to_string()])
        .output()
        .unwrap();
    if output.status.code() == Some(77) {
        skipped("there is no OpenSSL here");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    let tried: usize = String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let requests = server.requests();
    let (reads, deletions): (Vec<_>, Vec<_>) =
        requests.iter().partition(|request| request.method == "GET");
    assert!(
        tried > 100 && reads.len() > 100,
        "{tried} deletions tried, {} reads",
        reads.len()
    );
    assert!(
        deletions.is_empty(),
        "{} of {tried} have arrived",
        deletions.len()
    );
    assert_eq!(guard.lost("request"), 0);
}

#[test]
fn sigcont_from_outside_does_not_let_a_held_request_leave() {
    if !["unshare", "curl"].into_iter().all(has_program) {
        return;
    }
    let place = Place::new();
    let ca = place.path("ca.pem");
    let server = ApiServer::tls(&[API], &ca);
    let resolving = Resolving::here(&place, &[API]);
    let requests = format!("[{{ host = {API:?}, method = \"DELETE\" }}]");
    let guard = Guard::new(&place, &policy("hold", &requests));
    let url = format!("https://{API}:{}/x", server.port());
    let ca = ca.to_str().unwrap();
    let delete = ["curl", "-sS", "--cacert", ca, "-X", "DELETE", &url];
    let mut child = resolving
        .run(&guard, &delete)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let hold = guard.hold();
    let pid = u32::try_from(hold["pid"].as_u64().unwrap()).unwrap();
    for _ in 0..20 {
        proc::signal(pid, rustix::process::Signal::CONT);
        // It has left the library's call by now, or is about to.
        eventually("it is stopped again", || {
            (proc::state(pid) == Some('T')).then_some(())
        });
    }
    assert!(server.requests().is_empty());
    guard.must(&["approve", hold["id"].as_str().unwrap()]);
    let status = eventually("curl is through", || child.try_wait().unwrap());
    assert!(status.success());
    assert_eq!(server.requests().len(), 1);
}
