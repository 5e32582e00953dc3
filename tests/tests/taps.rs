//! Where the TLS libraries are that a session's processes speak through: files that guardd itself cannot name.

use std::{fs, path::Path, process::Stdio};

use guard_tests::{Guard, Place, Policy, eventually, has_program, proc, tls::TlsServer};

const API: &str = "api.guard-taps.test";

/// Copies a program and all that it is linked with below `root`, under their own paths.
fn copy_with_libraries(place: &Place, program: &str, root: &Path) {
    fs::create_dir(root).unwrap();
    let script = format!(
        "p=$(command -v {program}) && l=$(ldd $p | grep -o '/[^ )]*') && cp -L --parents $p $l {0} && ln -sf $p {0}/client",
        root.display()
    );
    let done = place.command("sh").args(["-c", &script]).status().unwrap();
    assert!(done.success(), "{script}");
}

/// As in a container: another root, which is mounted where only the session sees it, with a library of its own.
#[test]
fn a_client_in_a_mount_namespace_with_its_own_library_is_heard() {
    if !["unshare", "curl", "ldd", "chroot"]
        .into_iter()
        .all(has_program)
    {
        return;
    }
    let place = Place::new();
    let ca = place.path("ca.pem");
    let server = TlsServer::new(&[API], &ca);
    let (image, root) = (place.path("image"), place.path("root"));
    copy_with_libraries(&place, "curl", &image);
    fs::copy(&ca, image.join("ca.pem")).unwrap();
    fs::create_dir(&root).unwrap();
    let policy = Policy::new()
        .and(&format!(
            "[[label]]\nname = \"destructive\"\nrequests = [{{ host = {API:?}, method = \"DELETE\" }}]"
        ))
        .rule("r", &["destructive"], "hold", "timeout = \"5m\"");
    let guard = Guard::new(&place, &policy);
    let start = |method: &str| {
        let script = format!(
            "mount -t tmpfs none {root} && cp -a {image}/. {root} && exec chroot {root} /client -sS -m 60 --cacert /ca.pem \
             --resolve {API}:{port}:127.0.0.1 -X {method} https://{API}:{port}/v1/volumes/1",
            root = root.display(),
            image = image.display(),
            port = server.port(),
        );
        guard
            .run(&[], "unshare")
            .args(["-m", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let read = start("GET").wait_with_output().unwrap();
    assert!(read.status.success(), "{read:?}");
    assert_eq!(
        fs::read_dir(&root).unwrap().count(),
        0,
        "it is not seen here"
    );
    let before = server.reached().application;
    let mut child = start("DELETE");
    let hold = guard.hold();
    let pid = hold["pid"].as_u64().unwrap() as u32;
    proc::wait_stopped(pid);
    assert_eq!(server.reached().application, before, "{hold}");
    guard.deny(&[]);
    let status = eventually("curl gives up", || child.try_wait().unwrap());
    assert!(!status.success());
    assert_eq!(server.reached().application, before);
    let all = guard.events_now();
    let event = all
        .iter()
        .find(|event| event.is("request") && event.verdict() == "hold")
        .expect("the held request");
    assert_eq!(event["object"]["via"], "openssl", "{event:?}");
    assert_eq!(event["object"]["method"], "DELETE", "{event:?}");
}
