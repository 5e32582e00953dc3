//! What programs say: read before it leaves, over TLS and without, and judged by its meaning.

use std::process::Stdio;

use guard_tests::{
    Guard, Place, Policy, eventually, has_program, resolving::Resolving, tls::TlsServer,
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
                    "curl", "-sS", "-m", "60", "--cacert", ca.to_str().unwrap(), "-X", method, &url,
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
        hold["target"].as_str().unwrap().contains("DELETE api.guard-requests.test/v1/volumes/vol-1"),
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
