//! Users' files: what they may say, and how they are read.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use guard_common::{Verdict, rule::ANY_USER};

use super::*;
use crate::policy::{Homes, LabelBits, Source};

const MACHINE: &str = "version = 1\n\
    [[label]]\nname = \"credential\"\nfiles = [\"**/.env\"]\nexcept = { exe = [\"ssh\"] }\n\
    [[label]]\nname = \"infra\"\naddresses = [\"192.0.2.0/24\"]\n\
    [[rule]]\nname = \"touched\"\nwhen = [\"credential\"]\nthen = \"flag\"\n\
    [[rule]]\nname = \"then\"\nwhen = [\"credential\", \"infra\"]\nwithin = \"10m\"\nthen = \"hold\"\n";

fn machine() -> Policy {
    Policy::parse(MACHINE, Source::BuiltIn).unwrap()
}

fn ann() -> Account {
    Account {
        name: "ann".into(),
        uid: 1000,
        gid: 1000,
        home: "/home/ann".into(),
    }
}

fn part(text: &str) -> Part {
    Part {
        source: Source::File("/home/ann/.config/guard/policy.toml".into()),
        text: format!("version = 1\n{text}"),
    }
}

fn with(text: &str) -> Policy {
    let mut policy = machine();
    policy
        .add_user(&ann(), part(text))
        .unwrap_or_else(|error| panic!("{error}"));
    policy
}

#[track_caller]
fn refused(text: &str, says: &str) {
    let mut policy = machine();
    let error = policy.add_user(&ann(), part(text)).unwrap_err().one_line();
    assert!(error.contains(says), "expected {says}\nfound: {error}");
    assert!(
        error.starts_with("/home/ann/.config/guard/policy.toml:"),
        "{error}"
    );
    assert_eq!(policy.parts.len(), 1);
    assert_eq!(policy.rules.len(), 2);
}

#[test]
fn what_a_user_adds_has_names_of_its_own_and_is_for_that_user_alone() {
    let policy = with(
        "[[label]]\nname = \"diary\"\nfiles = [\"~/notes/{diary,plans}.txt\", \"~/**/secret\"]\nargv = [\"mail **\"]\n\
         [[rule]]\nname = \"diary\"\nwhen = [\"diary\", \"infra\"]\nthen = \"deny\"\n\
         [[raise]]\nrule = \"touched\"\nthen = \"hold\"\n",
    );
    assert_eq!(policy.labels, ["credential", "infra", "ann/diary"]);
    let rules: Vec<_> = policy
        .rules
        .iter()
        .map(|rule| {
            (
                rule.name.as_str(),
                rule.when.join(" "),
                rule.then,
                rule.user,
            )
        })
        .collect();
    assert_eq!(
        rules[2..],
        [
            (
                "ann/diary",
                "ann/diary infra".into(),
                Verdict::Deny,
                Some(1000)
            ),
            (
                "ann/touched",
                "credential".into(),
                Verdict::Hold,
                Some(1000)
            ),
        ]
    );
    let bits = LabelBits::assign(None, &policy).unwrap();
    let tables = policy
        .lay_out(0, &bits, &Homes::of(["/home/ann", "/home/bob"]))
        .unwrap();
    let uids: Vec<u32> = tables.rules.rules[..4]
        .iter()
        .map(|rule| rule.uid)
        .collect();
    // The strictest first; at the same verdict the machine's.
    assert_eq!(uids, [1000, ANY_USER, 1000, ANY_USER]);
    let labels = |path: &str| {
        let found = tables.classify_path(Path::new(path));
        bits.names(found.labels)
    };
    assert_eq!(labels("/home/ann/notes/diary.txt"), ["ann/diary"]);
    assert_eq!(labels("/home/ann/a/b/secret"), ["ann/diary"]);
    assert_eq!(labels("/home/bob/notes/diary.txt"), [""; 0]);
    assert_eq!(labels("/home/bob/.env"), ["credential"]);
}

#[test]
fn nothing_can_be_loosened() {
    for (text, says) in [
        ("mode = \"observe\"", "unknown key \"mode\""),
        (
            "[[agent]]\nname = \"a\"\nexe = [\"a\"]",
            "unknown key \"agent\"",
        ),
        (
            "[[label]]\nname = \"x\"\nfiles = [\"~/x\"]\nexcept = { files = [\"**/.env\"] }",
            "unknown key \"except\"",
        ),
        (
            "[[label]]\nname = \"x\"\naddresses = [\"192.0.2.1\"]",
            "unknown key \"addresses\"",
        ),
        (
            "[[label]]\nname = \"x\"\nhosts = [\"a.example\"]",
            "unknown key \"hosts\"",
        ),
        (
            "[[label]]\nname = \"credential\"\nfiles = [\"~/x\"]",
            "expected one of its own",
        ),
        ("[[label]]\nname = \"ann/x\"\nfiles = [\"~/x\"]", "bad name"),
        (
            "[[label]]\nname = \"x\"\nfiles = [\"/etc/passwd\"]",
            "files of their own home",
        ),
        (
            "[[label]]\nname = \"x\"\nfiles = [\"**/.env\"]",
            "files of their own home",
        ),
        (
            "[[label]]\nname = \"x\"\nfiles = [\"~/{a,b*}\"]",
            "files of their own home",
        ),
        (
            "[[label]]\nname = \"x\"\nfiles = [\"~/dir/**\"]",
            "files of their own home",
        ),
        (
            "[[label]]\nname = \"x\"\nargv = [\"g* push\"]",
            "expected one, without a *",
        ),
        (
            "[[rule]]\nname = \"touched\"\nwhen = [\"credential\"]\nthen = \"flag\"\nreplace = true",
            "unknown key \"replace\"",
        ),
        (
            "[[rule]]\nname = \"x\"\nwhen = [\"credential\"]\nthen = \"flag\"\nmode = \"observe\"",
            "unknown key \"mode\"",
        ),
        (
            "[[raise]]\nrule = \"then\"\nthen = \"flag\"",
            "can only tighten",
        ),
        (
            "[[raise]]\nrule = \"then\"\nthen = \"hold\"",
            "can only tighten",
        ),
        (
            "[[raise]]\nrule = \"thne\"\nthen = \"kill\"",
            "did you mean \"then\"?",
        ),
        (
            "[[raise]]\nrule = \"then\"\nthen = \"kill\"\nwithin = \"1s\"",
            "unknown key \"within\"",
        ),
        (
            "[[rule]]\nname = \"x\"\nwhen = [\"bob/x\"]\nthen = \"flag\"",
            "unknown label",
        ),
        ("version = 1", "not TOML"),
    ] {
        refused(text, says);
    }
}

#[test]
fn what_one_user_may_add_is_bounded() {
    let rules = |count: usize| -> String {
        (0..count)
            .map(|n| format!("[[rule]]\nname = \"r{n}\"\nwhen = [\"infra\"]\nthen = \"kill\"\n"))
            .collect()
    };
    with(&rules(8));
    refused(
        &rules(9),
        "too many rules in a user's file: 9: expected at most 8",
    );
    let raise = "[[raise]]\nrule = \"touched\"\nthen = \"kill\"\n";
    refused(&(rules(8) + raise), "too many rules");
    let labels: String = (0..5)
        .map(|n| format!("[[label]]\nname = \"l{n}\"\nfiles = [\"~/l{n}\"]\n"))
        .collect();
    refused(
        &labels,
        "too many labels in a user's file: 5: expected at most 4",
    );
    let files: Vec<String> = (0..33).map(|n| format!("\"~/f{n}\"")).collect();
    refused(
        &format!("[[label]]\nname = \"l\"\nfiles = [{}]", files.join(", ")),
        "too many patterns in a user's file: 33: expected at most 32",
    );
}

#[test]
fn a_file_that_finds_no_room_is_left_out_and_the_others_stay() {
    let mut policy = machine();
    let account = |n: u32| Account {
        name: format!("u{n}"),
        uid: 2000 + n,
        ..ann()
    };
    let text: String = (0..4)
        .map(|n| format!("[[label]]\nname = \"l{n}\"\nfiles = [\"~/l{n}\"]\n"))
        .collect();
    let mut left_out = 0;
    for n in 0..20 {
        if let Err(error) = policy.add_user(&account(n), part(&text)) {
            assert!(error.one_line().contains("too many labels"), "{error}");
            left_out += 1;
        }
    }
    // Of 64 labels the machine has two, and each user four.
    assert_eq!(left_out, 5);
    assert_eq!(policy.labels.len(), 62);
    LabelBits::assign(None, &policy).unwrap();
}

#[test]
fn accounts_have_a_home_and_a_uid_that_is_not_everybodys() {
    let dir = tempfile::tempdir().unwrap();
    let passwd = dir.path().join("passwd");
    fs::write(
        &passwd,
        "root:x:0:0::/root:/bin/sh\nall:x:4294967295:1::/home/all:/x\nno:x:-1:1::/home/no:/x\nd:x:5:5::/:/x\n\
         ann:x:1000:1001:Ann:/home/ann:/bin/sh\nann2:x:1000:1::/home/ann2:/x\nshort:x:7\nrel:x:8:8::home:/x\n",
    )
    .unwrap();
    let found = accounts(&passwd);
    let names: Vec<_> = found.iter().map(|account| account.name.as_str()).collect();
    assert_eq!(names, ["root", "ann"]);
    assert_eq!(found[1].gid, 1001);
    assert!(accounts(&dir.path().join("none")).is_empty());
}

/// A home of this test's own user.
struct Home {
    dir: tempfile::TempDir,
    account: Account,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("home");
        fs::create_dir_all(home.join(".config/guard")).unwrap();
        let meta = fs::metadata(&home).unwrap();
        let account = Account {
            name: "me".into(),
            uid: meta.uid(),
            gid: meta.gid(),
            home,
        };
        Self { dir, account }
    }

    fn write(&self, text: &str) -> PathBuf {
        let path = self.account.file();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn refused(&self) -> String {
        match look(&self.account, GLANCE) {
            Found::Refused(why, _) => why,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn only_the_users_own_file_in_their_own_home_is_read() {
    let home = Home::new();
    assert_eq!(look(&home.account, GLANCE), Found::Nothing);
    let path = home.write("version = 1\n");
    let Found::File(part, stamp) = look(&home.account, GLANCE) else {
        panic!("not read");
    };
    assert_eq!(part.text, "version = 1\n");
    assert_eq!(part.source, Source::File(path.clone()));
    home.write("version = 1\n# more\n");
    assert_ne!(look(&home.account, GLANCE).stamp(), Some(stamp));

    fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
    assert!(home.refused().contains("others may write to it"));
    home.write(&"#".repeat(MAX_BYTES as usize + 1));
    assert!(home.refused().contains("longer than 64 KiB"));
    fs::write(&path, b"# \xff").unwrap();
    assert!(home.refused().contains("not UTF-8"));

    // Whatever a link leads to, be it root's.
    let secret = home.dir.path().join("secret");
    fs::write(&secret, "shadow = 1\n").unwrap();
    fs::remove_file(&path).unwrap();
    symlink(&secret, &path).unwrap();
    assert!(home.refused().contains("links are not followed"));
    // Nor by a directory above it.
    let config = home.account.home.join(".config");
    fs::remove_dir_all(&config).unwrap();
    let elsewhere = home.dir.path().join("elsewhere");
    fs::create_dir_all(elsewhere.join("guard")).unwrap();
    fs::write(elsewhere.join("guard/policy.toml"), "version = 1").unwrap();
    symlink(&elsewhere, &config).unwrap();
    assert!(home.refused().contains("links are not followed"));
    // A fifo keeps nobody waiting, and a directory is no file.
    fs::remove_file(&config).unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a path that ends with a NUL.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    assert!(home.refused().contains("not a regular file"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(home.refused().contains("not a regular file"));
    // A home that is somebody else's has no file of this user's.
    let stranger = Account {
        uid: home.account.uid + 1,
        ..home.account.clone()
    };
    fs::remove_dir(&path).unwrap();
    home.write("version = 1\n");
    assert_eq!(look(&stranger, GLANCE), Found::Nothing);
}

#[test]
fn a_file_of_another_is_not_read_even_if_it_lies_there() {
    let home = Home::new();
    if home.account.uid != 0 {
        return;
    }
    let path = home.write("version = 1\n");
    std::os::unix::fs::chown(&path, Some(61_234), None).unwrap();
    // Root's rights are root's; a user's would not do to read it.
    assert!(home.refused().contains("belongs to uid 61234"));
    let other = Account {
        uid: 61_235,
        gid: 61_235,
        ..home.account.clone()
    };
    std::os::unix::fs::chown(&other.home, Some(61_235), None).unwrap();
    fs::set_permissions(home.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let Found::Refused(why, _) = look(&other, GLANCE) else {
        panic!("read");
    };
    assert!(why.contains("cannot be read"), "{why}");
}

#[test]
fn a_users_file_is_checked_by_its_place() {
    let home = Home::new();
    let path = home.write("version = 1\n[[raise]]\nrule = \"infra-reached\"\nthen = \"hold\"\n");
    assert_eq!(check(&path).unwrap().unwrap(), 1);
    home.write("version = 1\n[[raise]]\nrule = \"infra-reached\"\nthen = \"flag\"\n");
    let error = check(&path).unwrap().unwrap_err();
    assert!(error.one_line().contains("can only tighten"), "{error}");
    assert!(check(Path::new("/etc/guard/policy.toml")).is_none());
    assert!(check(Path::new("policy.toml")).is_none());
}

#[test]
fn a_mistake_leaves_one_file_out_and_is_told_and_a_change_is_seen() {
    let (good, bad) = (Home::new(), Home::new());
    good.write("version = 1\n[[raise]]\nrule = \"touched\"\nthen = \"deny\"\n");
    bad.write("version = 1\nmode = \"observe\"\n");
    let accounts = [
        Account {
            name: "bad".into(),
            ..bad.account.clone()
        },
        good.account.clone(),
    ];
    let mut policy = machine();
    let users = policy.add_users(&accounts);
    let outcomes: Vec<_> = users.iter().map(|file| file.outcome.clone()).collect();
    assert!(
        outcomes[0]
            .as_ref()
            .unwrap_err()
            .contains(":2:1: unknown key \"mode\"")
    );
    assert_eq!(outcomes[1], Ok(1));
    assert_eq!(policy.rules.len(), 3);
    // The uid is the same for both here: the later one was noted last.
    assert!(!users.differs(&good.account));
    good.write("version = 1\n");
    assert!(users.differs(&good.account));
}
