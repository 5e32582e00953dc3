//! The scanner at work, without a kernel side.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use tokio::sync::mpsc;

use super::{super::Scanner, look::variables, *};

/// A token of npm's form that nobody has, put together here.
fn token(of: u8) -> String {
    let body: String = (0..36u8)
        .map(|at| char::from(b"Qz7Lk2Vw9XtRb4Nc8MpYd5Hs1Jf6Gq3Za0Ue"[usize::from((at + of) % 36)]))
        .collect();
    // Its check is over the first thirty.
    let mut crc = crc32fast::hash(&body.as_bytes()[..30]);
    let mut sum = [b'0'; 6];
    for at in sum.iter_mut().rev() {
        *at =
            b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[(crc % 62) as usize];
        crc /= 62;
    }
    format!(
        "npm_{}{}",
        &body[..30],
        String::from_utf8(sum.to_vec()).unwrap()
    )
}

struct Scene {
    watch: Watch,
    reports: mpsc::Receiver<Report>,
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(limits: WatchLimits) -> Self {
        let (sender, reports) = mpsc::channel(REPORTS);
        let watch = Watch::start(
            Keyed::random().unwrap(),
            limits,
            "/nonexistent/state".into(),
            sender,
        )
        .unwrap();
        Self {
            watch,
            reports,
            // Not under a directory whose name says test.
            dir: tempfile::Builder::new().prefix("shop").tempdir().unwrap(),
        }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The next report that this takes.
    fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(Report) -> Option<T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            loop {
                let next = tokio::time::timeout(Duration::from_secs(60), self.reports.recv());
                let report = next.await.unwrap_or_else(|_| panic!("in time: {what}"));
                if let Some(found) = wanted(report.unwrap_or_else(|| panic!("an end: {what}"))) {
                    return found;
                }
            }
        })
    }

    fn file(&mut self, name: &str) -> Box<ScannedFile> {
        let path = self.dir.path().join(name);
        self.wait(name, |report| match report {
            Report::File(file) if file.path == path => Some(file),
            _ => None,
        })
    }
}

#[test]
fn a_tree_is_gone_through_and_what_changes_in_it_is_told() {
    let mut scene = Scene::new(WatchLimits::default());
    scene.write("notes.txt", &format!("take {} for it\n", token(1)));
    scene.write("src/main.rs", "fn main() {}\n");
    scene.write("node_modules/x/.npmrc", &token(2));
    scene.write("tests/data.txt", &token(3));
    assert!(scene.watch.add_tree(scene.dir.path()));
    let notes = scene.file("notes.txt");
    let found = fs::metadata(scene.dir.path().join("notes.txt")).unwrap();
    assert_eq!((notes.dev, notes.ino), (found.dev(), found.ino()));
    assert_eq!(notes.secrets.len(), 1);
    assert_eq!(
        (&*notes.secrets[0].provider, notes.secrets[0].line),
        ("npm", 1)
    );
    let walked = scene.wait("the end of the walk", |report| match report {
        Report::Walked(walked) => Some(walked),
        Report::File(file) => panic!("{file:?}"),
        _ => None,
    });
    assert_eq!(
        (walked.files, walked.directories, walked.unwatched),
        (3, 3, 0)
    );
    // A new file, one in a new directory, one that loses its secret, and one that goes.
    scene.write("later.txt", &token(4));
    assert_eq!(scene.file("later.txt").secrets.len(), 1);
    scene.write("new/deep/.env", &format!("NPM={}\n", token(5)));
    assert_eq!(scene.file("new/deep/.env").secrets.len(), 1);
    scene.write("notes.txt", "nothing here any more\n");
    assert_eq!(scene.file("notes.txt").secrets, []);
    fs::remove_file(scene.dir.path().join("later.txt")).unwrap();
    let later = scene.dir.path().join("later.txt");
    scene.wait("it has gone", |report| {
        matches!(report, Report::Gone(path, false) if path == later).then_some(())
    });
}

#[test]
fn a_file_that_is_opened_is_looked_at_though_it_is_not_watched_yet() {
    let limits = WatchLimits {
        // Of the tree itself only.
        directories: 1,
        ..WatchLimits::default()
    };
    let mut scene = Scene::new(limits);
    scene.write("deep/notes.txt", &token(1));
    scene.write("deep/clean.txt", "nothing\n");
    scene.watch.add_tree(scene.dir.path());
    let walked = scene.wait("the end of the walk", |report| match report {
        Report::Walked(walked) => Some(walked),
        other => panic!("{other:?}"),
    });
    assert_eq!((walked.files, walked.beyond), (0, 1));
    let opened = |name: &str, flags: i32| {
        let path = scene.dir.path().join(name);
        Opened {
            // SAFETY: a header is plain numbers.
            fields: unsafe { std::mem::zeroed() },
            dev: 0,
            ino: fs::metadata(&path).unwrap().ino(),
            path,
            flags: flags as u32,
        }
    };
    let (clean, notes, written) = (
        opened("deep/clean.txt", libc::O_RDONLY),
        opened("deep/notes.txt", libc::O_RDONLY),
        opened("deep/clean.txt", libc::O_WRONLY),
    );
    scene.watch.opened(clean);
    assert_eq!(scene.file("deep/clean.txt").secrets, []);
    scene.watch.opened(notes.clone());
    let file = scene.file("deep/notes.txt");
    assert_eq!(file.secrets.len(), 1);
    assert_eq!(file.opened.unwrap().ino, notes.ino);
    // Written without a notice.
    scene.watch.opened(written);
    scene.write("deep/clean.txt", &token(2));
    assert_eq!(scene.file("deep/clean.txt").secrets.len(), 1);
}

#[test]
fn variables_with_secrets_are_told_by_name() {
    let scanner = Scanner::built_in(Keyed::random().unwrap()).unwrap();
    let environment = format!("HOME=/home/ada\0NPM_TOKEN={}\0LANG=C\0", token(7));
    let found = variables(&scanner, environment.as_bytes());
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&*found[0].name, &*found[0].secret.provider),
        ("NPM_TOKEN", "npm")
    );
    assert_eq!(
        found[0].secret.hash,
        scanner.keyed().hash(token(7).as_bytes())
    );
}

#[test]
fn a_directory_that_is_none_is_told() {
    let mut scene = Scene::new(WatchLimits::default());
    scene.watch.add_tree(Path::new("/nonexistent/guard"));
    let why = scene.wait("a refusal", |report| match report {
        Report::Broken(why) => Some(why),
        _ => None,
    });
    assert!(why.contains("/nonexistent/guard"), "{why}");
}
