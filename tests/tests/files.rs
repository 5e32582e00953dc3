//! Which opens touch a labelled file.

use std::{fs, os::unix::fs::symlink, path::Path};

use guard_tests::{Events, Guard, Place, Policy, Tool};

/// A guard with files under a label, and a tool in a session.
struct Scene {
    place: Place,
    events: Events,
    tool: Tool,
    fence: String,
    guard: Guard,
}

impl Scene {
    /// `patterns` carry the label `secret`; `@` in them stands for the place's directory.
    fn new(place: &Place, patterns: &[&str]) -> Self {
        let at = place.dir().to_str().unwrap();
        let patterns: Vec<_> = patterns.iter().map(|p| p.replace('@', at)).collect();
        let fence = place.file("the-fence", "").display().to_string();
        let policy = Policy::new()
            .files("secret", &patterns)
            .files("fence", &[&fence]);
        let guard = Guard::new(place, &policy);
        Self {
            place: place.clone(),
            events: guard.events(),
            tool: guard.tool(),
            fence,
            guard,
        }
    }

    /// Opens `path` and asserts that it was, or was not, an open of the label.
    #[track_caller]
    fn opens(&mut self, how: &str, path: impl AsRef<Path>, is_fact: bool) {
        let path = path.as_ref().display();
        self.does(&format!("open {how} {path}"), is_fact);
    }

    /// Does `command`, and asserts that it was, or was not, an open of the label.
    #[track_caller]
    fn does(&mut self, command: &str, is_fact: bool) {
        let since = self
            .events
            .seen(|_| true)
            .last()
            .map_or(0, guard_tests::Event::seq);
        self.tool.must(command);
        // What is told of a session arrives in order.
        let fence = self.fence.clone();
        self.tool.must(&format!("open openat {fence}"));
        self.events.wait("the fence", |e| {
            e.seq() > since && e.is("open") && e.has("fence")
        });
        let opens = self
            .events
            .seen(|e| e.seq() > since && e.is("open") && e.has("secret"));
        let expected = usize::from(is_fact);
        assert_eq!(opens.len(), expected, "{command}: {opens:#?}");
    }
}

#[test]
fn every_system_call_that_opens_is_seen() {
    let place = Place::new();
    let secret = place.file("secret", "hunter2");
    let mut s = Scene::new(&place, &["@/secret"]);
    for how in ["openat", "openat2", "handle"] {
        s.opens(how, &secret, true);
    }
    if cfg!(target_arch = "x86_64") {
        s.opens("open", &secret, true);
        s.opens("creat", &secret, true);
    }
}

#[test]
fn a_file_is_known_by_its_inode_whatever_it_is_called() {
    let place = Place::new();
    let secret = place.file("secret", "hunter2");
    let linked = place.path("innocent");
    fs::hard_link(&secret, &linked).unwrap();
    let mut s = Scene::new(&place, &["@/secret"]);
    s.opens("openat", &linked, true);
    let renamed = place.path("renamed");
    fs::rename(&secret, &renamed).unwrap();
    s.opens("openat", &renamed, true);
}

#[test]
fn a_file_that_matched_a_pattern_once_keeps_the_label_when_renamed() {
    let place = Place::new();
    let mut s = Scene::new(&place, &["@/**/*.pem"]);
    let key = s.place.file("deep/down/key.pem", "x");
    s.opens("openat", &key, true);
    let renamed = s.place.path("notes.txt");
    fs::rename(&key, &renamed).unwrap();
    s.opens("openat", &renamed, true);
}

#[test]
fn links_relative_paths_and_reopened_descriptors_lead_to_the_file() {
    let place = Place::new();
    let secret = place.file("dir/secret", "hunter2");
    let link = place.path("link");
    symlink(&secret, &link).unwrap();
    symlink(place.path("dir"), place.path("way")).unwrap();
    let mut s = Scene::new(&place, &["@/dir/secret"]);
    s.opens("openat", &link, true);
    s.opens("openat", place.path("way/../dir/./secret"), true);
    s.tool.must(&format!("cd {}", place.path("dir").display()));
    s.opens("openat", "secret", true);
    s.opens("openat", "../dir/secret", true);
    s.does(&format!("reopen {}", secret.display()), true);
}

#[test]
fn a_descriptor_that_cannot_be_read_is_no_fact() {
    let place = Place::new();
    let secret = place.file("secret", "hunter2");
    let mut s = Scene::new(&place, &["@/secret"]);
    s.opens("path", &secret, false);
}

#[test]
fn an_open_that_fails_is_no_fact() {
    let place = Place::new();
    let mut s = Scene::new(&place, &["@/**/*.pem"]);
    let missing = place.path("missing.pem");
    assert_eq!(
        s.tool.ask(&format!("open openat {}", missing.display()))["errno"],
        libc::ENOENT
    );
    s.opens("openat", place.file("other", ""), false);
}

#[test]
fn a_file_without_a_label_is_no_event() {
    let place = Place::new();
    let other = place.file("secret2", "x");
    let mut s = Scene::new(&place, &["@/secret"]);
    s.opens("openat", &other, false);
    s.opens("openat", "/etc/passwd", false);
}

#[test]
fn a_file_that_appears_after_the_policy_is_known_by_its_name() {
    let place = Place::new();
    let mut s = Scene::new(
        &place,
        &["@/**/.env", "@/**/id_*", "@/**/*.key", "@/**/se*et.json"],
    );
    for (name, is_fact) in [
        ("a/.env", true),
        ("a/b/c/.env", true),
        (".env", true),
        ("a/.envrc", false),
        ("a/x.env", false),
        ("a/id_rsa", true),
        ("a/my-id_rsa", false),
        ("a/server.key", true),
        ("a/server.keys", false),
        ("a/secret.json", true),
        ("a/seet.json", true),
        ("a/set.json", false),
    ] {
        let path = s.place.file(name, "x");
        s.opens("openat", path, is_fact);
    }
}

#[test]
fn a_star_is_one_level_and_two_are_any() {
    let place = Place::new();
    let mut s = Scene::new(&place, &["@/one/*", "@/any/**", "**/.vault-x/config"]);
    for (name, is_fact) in [
        ("one/a", true),
        ("one/deep/a", false),
        ("any/a", true),
        ("any/b/c/d/e", true),
        ("other/a", false),
        ("home/.vault-x/config", true),
        ("home/.vault-y/config", false),
        ("home/.vault-x/deep/config", false),
    ] {
        let path = s.place.file(name, "x");
        s.opens("openat", path, is_fact);
    }
}

#[test]
fn two_labels_may_lie_on_one_file() {
    let place = Place::new();
    let secret = place.file("both", "x");
    let policy = Policy::new()
        .files("one", &[secret.display()])
        .files("two", &[format!("{}/b*", place.dir().display())]);
    let guard = Guard::new(&place, &policy);
    let mut events = guard.events();
    guard
        .tool()
        .must(&format!("open openat {}", secret.display()));
    let event = events.wait("the open", |e| e.is("open"));
    assert!(event.has("one") && event.has("two"), "{event:?}");
    assert_eq!(event["object"]["ino"], fs_ino(&secret));
}

fn fs_ino(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(path).unwrap().ino()
}

#[test]
fn a_file_is_known_through_a_bind_mount() {
    let place = Place::new();
    let secret = place.file("secret", "hunter2");
    place.file("elsewhere/innocent", "");
    let mut s = Scene::new(&place, &["@/secret"]);
    let at = place.path("elsewhere/innocent");
    let script = format!(
        "mount --bind {} {} && cat {}",
        secret.display(),
        at.display(),
        at.display()
    );
    let script = s.place.script("mounts", &format!("#!/bin/sh\n{script}\n"));
    s.does(&format!("run unshare -m sh {}", script.display()), true);
}

#[test]
fn what_runs_in_no_session_makes_no_event() {
    let place = Place::new();
    let secret = place.file("secret", "hunter2");
    let mut s = Scene::new(&place, &["@/secret"]);
    let mut stranger = s.guard.stranger();
    stranger.must(&format!("open openat {}", secret.display()));
    stranger.must(&format!("run cat {}", secret.display()));
    s.opens("openat", place.file("other", ""), false);
    s.events
        .none("no event of the stranger", |e| e.of(stranger.pid()));
}

#[test]
fn a_pattern_in_every_users_home_counts_in_roots_home_and_nowhere_else() {
    let place = Place::new();
    let name = place.name("home");
    let policy = Policy::new().files("secret", &[format!("~/.{name}")]);
    let guard = Guard::new(&place, &policy);
    let mut events = guard.events();
    let file = Path::new("/root").join(format!(".{name}"));
    fs::write(&file, "x").unwrap();
    let other = place.file(&format!(".{name}"), "x");
    let mut tool = guard.tool();
    tool.must(&format!("open openat {}", other.display()));
    let answer = tool.ask(&format!("open openat {}", file.display()));
    fs::remove_file(&file).unwrap();
    assert_eq!(answer["text"], "x");
    events.wait("the open", |e| {
        e.is("open") && e.path() == file.to_str().unwrap()
    });
    events.none("elsewhere it is nothing", |e| {
        e.path() == other.to_str().unwrap()
    });
}

#[test]
fn a_label_of_writing_is_touched_by_no_reading() {
    let place = Place::new();
    let hook = place.file("repo/.git/hooks/pre-commit", "true");
    let fence = place.file("the-fence", "");
    let policy = Policy::new()
        .and("[[label]]\nname = \"later\"\nopens = \"write\"\nfiles = [\"**/.git/hooks/*\"]")
        .files("hooks", &["**/.git/hooks/*"])
        .files("fence", &[fence.display()])
        .rule("r-later", &["later"], "kill", "");
    let guard = Guard::new(&place, &policy);
    let mut tool = guard.tool();
    let mut events = guard.events();
    // Read, it carries the other label alone, and the rule does not fire; nor when it is executed.
    tool.must(&format!("open openat {}", hook.display()));
    let read = events.wait("the reading", |e| e.is("open") && e.has("hooks"));
    assert!(!read.has("later"), "{read:?}");
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    tool.must(&format!("run sh {}", hook.display()));
    // Written, it is touched, whether it was there before or not.
    let mut other = guard.tool();
    other.tell(&format!(
        "write {} x",
        hook.with_file_name("post-commit").display()
    ));
    other.was_killed();
    tool.tell(&format!("write {} x", hook.display()));
    tool.was_killed();
    let killed = events.wait("the writing", |e| {
        e.is_open("later", "kill") && e.of(tool.pid())
    });
    assert_eq!(killed["rule"], "r-later");
}
