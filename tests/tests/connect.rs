//! Which connections and datagrams touch a labelled address.

use guard_tests::{
    Guard, Place, Policy,
    server::{Tcp, Udp, Unix},
};

fn denying<T: std::fmt::Display>(addresses: &[T]) -> Policy {
    Policy::new()
        .addresses("infra", addresses)
        .rule("r", &["infra"], "deny", "")
}

#[test]
fn ipv4_ipv6_and_mapped_addresses_are_told_apart_from_others_by_port() {
    let place = Place::new();
    let (four, six, free) = (Tcp::v4(), Tcp::v6(), Tcp::v4());
    let guard = Guard::new(&place, &denying(&[four.addr(), six.addr()]));
    let mut tool = guard.tool();
    let mapped = format!("[::ffff:127.0.0.1]:{}", four.port());
    for to in [four.addr().to_string(), six.addr().to_string(), mapped] {
        for how in ["tcp", "tcp-nonblocking"] {
            assert_eq!(
                tool.ask(&format!("{how} {to} x"))["errno"],
                libc::EPERM,
                "{how} {to}"
            );
        }
    }
    four.untouched();
    six.untouched();
    assert_eq!(tool.must(&format!("tcp {} x", free.addr()))["echo"], "x");
    assert_eq!(
        tool.must(&format!("tcp [::ffff:127.0.0.1]:{} x", free.port()))["echo"],
        "x"
    );
}

#[test]
fn the_unspecified_address_is_this_host() {
    let place = Place::new();
    let server = Tcp::v4();
    let guard = Guard::new(&place, &denying(&[server.addr()]));
    let mut tool = guard.tool();
    assert_eq!(
        tool.ask(&format!("tcp 0.0.0.0:{} x", server.port()))["errno"],
        libc::EPERM
    );
    server.untouched();
}

#[test]
fn the_longest_prefix_decides() {
    let place = Place::new();
    let (near, far) = (Tcp::at("127.77.1.1:0"), Tcp::at("127.77.2.1:0"));
    let policy = Policy::new()
        .addresses("wide", &["127.77.0.0/16"])
        .addresses("narrow", &["127.77.1.0/24"])
        .rule("w", &["wide"], "deny", "")
        .rule("n", &["narrow"], "flag", "");
    let guard = Guard::new(&place, &policy);
    let mut events = guard.events();
    let mut tool = guard.tool();
    assert_eq!(tool.must(&format!("tcp {} x", near.addr()))["echo"], "x");
    events.wait("the flag", |e| e.is_connect("narrow", "flag"));
    assert_eq!(
        tool.ask(&format!("tcp {} x", far.addr()))["errno"],
        libc::EPERM
    );
    events.wait("the denial", |e| e.is_connect("wide", "deny"));
    far.untouched();
}

#[test]
fn every_connection_of_a_session_is_told_and_none_of_others() {
    let place = Place::new();
    let (inside, outside) = (Tcp::v4(), Tcp::v4());
    let guard = Guard::new(&place, &denying(&["192.0.2.1:9"]));
    let mut events = guard.events();
    let (mut tool, mut stranger) = (guard.tool(), guard.stranger());
    stranger.must(&format!("tcp {} x", outside.addr()));
    tool.must(&format!("tcp {} x", inside.addr()));
    let event = events.wait("the connect", |e| {
        e.is("connect") && e["object"]["port"] == inside.port()
    });
    assert!(
        event.get("labels").is_none() && event.of(tool.pid()),
        "{event:?}"
    );
    events.none("the stranger's", |e| e["object"]["port"] == outside.port());
}

#[test]
fn denied_datagrams_fail_and_reach_nobody() {
    let place = Place::new();
    let server = Udp::v4();
    let guard = Guard::new(&place, &denying(&[server.addr()]));
    let mut tool = guard.tool();
    for how in ["udp-connected", "udp-sendto"] {
        let answer = tool.ask(&format!("{how} {} x", server.addr()));
        assert_eq!(answer["errno"], libc::EPERM, "{how}");
    }
    let mapped = format!("udp-sendto [::ffff:127.0.0.1]:{} x", server.port());
    assert_eq!(tool.ask(&mapped)["errno"], libc::EPERM);
    server.untouched();
}

#[test]
fn datagrams_that_are_flagged_arrive() {
    let place = Place::new();
    let server = Udp::v4();
    let policy =
        Policy::new()
            .addresses("infra", &[server.addr()])
            .rule("r", &["infra"], "flag", "");
    let guard = Guard::new(&place, &policy);
    let mut events = guard.events();
    let mut tool = guard.tool();
    for how in ["udp-connected", "udp-sendto"] {
        assert_eq!(
            tool.must(&format!("{how} {} x", server.addr()))["echo"],
            "x"
        );
    }
    events.wait("the flag", |e| e.is_connect("infra", "flag"));
    assert_eq!(server.reached().connections, 2);
}

#[test]
fn a_datagram_that_kills_reaches_nobody() {
    let place = Place::new();
    let server = Udp::v4();
    let policy =
        Policy::new()
            .addresses("infra", &[server.addr()])
            .rule("r", &["infra"], "kill", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    tool.tell(&format!("udp-sendto {} x", server.addr()));
    // The kernel cannot signal from here: the call fails, and guardd kills. What the tool says of it
    // may come first.
    tool.was_killed();
    server.untouched();
}

#[test]
fn a_socket_file_is_labelled_by_its_path() {
    let place = Place::new();
    let path = place.path("docker.sock");
    let _server = Unix::at(&path);
    let policy = Policy::new()
        .addresses("docker", &[format!("unix:{}", path.display())])
        .rule("r", &["docker"], "flag", "");
    let guard = Guard::new(&place, &policy);
    let mut events = guard.events();
    let mut tool = guard.tool();
    let free = place.path("free.sock");
    let _free = Unix::at(&free);
    assert_eq!(
        tool.must(&format!("unix {} x", free.display()))["echo"],
        "x"
    );
    assert_eq!(
        tool.must(&format!("unix {} x", path.display()))["echo"],
        "x"
    );
    let event = events.wait("the flag", |e| e.is_connect("docker", "flag"));
    assert!(
        event["object"].to_string().contains("docker.sock"),
        "{event:?}"
    );
    events.none("the free one", |e| e.to_string().contains("free.sock"));
}

#[test]
fn a_socket_file_that_is_held_gets_no_byte_until_it_is_approved() {
    let place = Place::new();
    let path = place.path("docker.sock");
    let server = Unix::at(&path);
    let policy = Policy::new()
        .addresses("docker", &[format!("unix:{}", path.display())])
        .rule("r", &["docker"], "hold", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    tool.tell(&format!("unix {} hello", path.display()));
    guard.hold();
    guard_tests::proc::wait_stopped(tool.pid());
    tool.is_silent();
    assert_eq!(server.bytes(), 0);
    guard.approve(&[]);
    let answer = tool.answer();
    if guard.repeats() {
        assert_eq!(answer["echo"], "hello", "{answer}");
    } else {
        assert_eq!(answer["errno"], libc::EPERM, "{answer}");
        assert_eq!(server.bytes(), 0);
    }
}

#[test]
fn a_socket_file_made_anew_after_the_policy_is_still_labelled() {
    let place = Place::new();
    let path = place.path("docker.sock");
    let policy = Policy::new()
        .addresses("docker", &[format!("unix:{}", path.display())])
        .rule("r", &["docker"], "kill", "");
    let guard = Guard::new(&place, &policy);
    let server = Unix::at(&path);
    let mut tool = guard.tool();
    tool.tell(&format!("unix {} hello", path.display()));
    tool.was_killed();
    assert_eq!(server.bytes(), 0);
}
