//! Files and trees.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::Mutex,
};

use super::{BASE62, SCANNER, random};
use crate::secrets::{
    FileOutcome, FileReport, KEY_FILE, KeyError, Keyed, Limits, TreeOptions, TreeSummary,
};

fn token(seed: u64) -> String {
    format!("glpat-{}", random(BASE62, 20, seed))
}

fn tree(root: &Path, everything: bool) -> (Vec<(PathBuf, bool)>, TreeSummary) {
    let reports = Mutex::new(Vec::new());
    let options = TreeOptions {
        limits: Limits { bytes: 1 << 20 },
        threads: None,
        everything,
    };
    let summary = SCANNER.scan_tree(&[root.to_owned()], &options, &|report: FileReport| {
        let path = report.path.strip_prefix(root).unwrap().to_owned();
        reports.lock().unwrap().extend(
            report
                .found
                .iter()
                .map(|found| (path.clone(), found.fixture)),
        );
    });
    let mut found = reports.into_inner().unwrap();
    found.sort();
    (found, summary)
}

#[test]
fn a_tree_is_searched_for_what_git_ignores_and_not_where_packages_are() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let put = |path: &str, text: &[u8]| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let line = format!("key {}\n", token(1));
    put(".gitignore", b".env\n");
    put(".env", line.as_bytes());
    put(".git/config", line.as_bytes());
    put(".git/objects/ab/cd", line.as_bytes());
    put("node_modules/x/index.js", line.as_bytes());
    put(
        "build/CACHEDIR.TAG",
        b"Signature: 8a477f597d28d172789f06886806bc55\n",
    );
    put("build/out.txt", line.as_bytes());
    put("src/tests/a.rs", line.as_bytes());
    put("app/.env.example", line.as_bytes());
    put("bin", &[b"\x7fELF\0\0", line.as_bytes()].concat());
    put(
        "long.txt",
        &[vec![b'\n'; 2 << 20], line.clone().into_bytes()].concat(),
    );
    symlink(root.join(".env"), root.join("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let (found, summary) = tree(root, false);
    let names: Vec<(&str, bool)> = found
        .iter()
        .map(|(path, fixture)| (path.to_str().unwrap(), *fixture))
        .collect();
    assert_eq!(
        names,
        [
            (".env", false),
            (".git/config", false),
            ("app/.env.example", true),
            ("src/tests/a.rs", true)
        ]
    );
    assert_eq!(
        (
            summary.binary,
            summary.cut,
            summary.links,
            summary.special,
            summary.left_out
        ),
        (1, 1, 1, 1, 3)
    );
    let (found, summary) = tree(root, true);
    assert_eq!(found.len(), 7);
    assert_eq!(summary.left_out, 0);
    // Who names a directory of tests wants to know.
    assert!(
        tree(&root.join("src/tests"), false)
            .0
            .iter()
            .all(|(_, fixture)| !fixture)
    );
}

#[test]
fn a_file_that_is_mostly_a_hole_costs_no_more_than_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    let outcome = SCANNER.scan_file(&path, Limits::default(), &mut |_| {
        panic!("nothing is in it")
    });
    assert!(
        matches!(outcome, FileOutcome::Binary(seen) if seen.read <= 4 << 20),
        "{outcome:?}"
    );
}

#[test]
fn what_is_no_file_is_neither_waited_for_nor_followed() {
    let dir = tempfile::tempdir().unwrap();
    let scan = |path: &Path| {
        SCANNER.scan_file(path, Limits::default(), &mut |_| panic!("nothing is in it"))
    };
    let pipe = dir.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    assert!(matches!(scan(&pipe), FileOutcome::Special));
    assert!(matches!(scan(Path::new("/dev/zero")), FileOutcome::Special));
    let link = dir.path().join("link");
    symlink("/etc/passwd", &link).unwrap();
    assert!(matches!(scan(&link), FileOutcome::Gone));
    assert!(matches!(scan(&dir.path().join("none")), FileOutcome::Gone));
}

#[test]
fn a_file_that_grows_and_shrinks_meanwhile_is_read_to_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, "x\n").unwrap();
    let writer = path.clone();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let file = fs::OpenOptions::new().write(true).open(&writer).unwrap();
                file.set_len(3 << 20).unwrap();
                std::io::Write::write_all(&mut &file, b"text\n").unwrap();
                file.set_len(1).unwrap();
            }
        });
        for _ in 0..200 {
            let outcome = SCANNER.scan_file(&path, Limits::default(), &mut |_| {});
            assert!(
                matches!(
                    outcome,
                    FileOutcome::Searched { .. } | FileOutcome::Binary(_)
                ),
                "{outcome:?}"
            );
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn the_key_is_made_once_and_not_used_where_others_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Keyed::load(dir.path()).unwrap().is_none());
    let first = Keyed::load_or_make(dir.path()).unwrap();
    let again = Keyed::load_or_make(dir.path()).unwrap();
    let other = Keyed::random().unwrap();
    assert_eq!(first.hash(b"value"), again.hash(b"value"));
    assert_ne!(first.hash(b"value"), other.hash(b"value"));
    let path = dir.path().join(KEY_FILE);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(
        Keyed::load(dir.path()),
        Err(KeyError::Open { .. })
    ));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "short").unwrap();
    assert!(matches!(
        Keyed::load(dir.path()),
        Err(KeyError::Content { .. })
    ));
}

#[test]
fn the_hash_is_hmac_sha256() {
    use hmac::{Hmac, Mac as _};
    let dir = tempfile::tempdir().unwrap();
    let keyed = Keyed::load_or_make(dir.path()).unwrap();
    let text = fs::read_to_string(dir.path().join(KEY_FILE)).unwrap();
    let key: [u8; 32] = crate::secrets::hex::decode(text.trim()).unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(b"value");
    assert_eq!(keyed.hash(b"value").0, mac.finalize().into_bytes()[..16]);
}
