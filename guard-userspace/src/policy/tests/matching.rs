//! The compiled tables against globset, an independent reading of the same globs.

use std::path::{Path, PathBuf};

use globset::GlobBuilder;
use proptest::prelude::*;

use super::{
    super::{Homes, LabelBits, Policy, Source},
    policy,
};

const HOMES: [&str; 3] = ["/root", "/home/ann", "/srv/b/home/c"];

fn homes() -> Homes {
    Homes::of(HOMES)
}

/// What a glob means, by globset. `~` is the deepest home that the path lies in.
fn by_globset(glob: &str, path: &str) -> bool {
    let matches = |glob: &str, text: &str| {
        let glob = GlobBuilder::new(glob)
            .literal_separator(true)
            .empty_alternates(true)
            .build()
            .unwrap();
        glob.compile_matcher().is_match(text)
    };
    if let Some(rest) = glob.strip_prefix("~/") {
        let home = HOMES
            .iter()
            .filter(|home| Path::new(path).starts_with(home))
            .max_by_key(|home| home.len());
        return home
            .and_then(|home| path.strip_prefix(&format!("{home}/")))
            .is_some_and(|path| matches(rest, path));
    }
    // Without the first slash: globset would let a `*` stand for the nothing before it.
    let path = path.trim_start_matches('/');
    if let Some(rest) = glob.strip_prefix('/') {
        return matches(rest, path);
    }
    let glob = glob.strip_prefix("**/").unwrap_or(glob);
    matches(&format!("**/{glob}"), path)
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("a"),
        Just("b"),
        Just("ab"),
        Just("home"),
        Just(".env"),
        Just("c")
    ]
    .prop_map(str::to_owned)
}

fn directories() -> impl Strategy<Value = String> {
    let component = prop_oneof![4 => name(), 1 => Just("*".to_owned())];
    prop::collection::vec(component, 0..4)
        .prop_map(|parts| parts.into_iter().map(|part| part + "/").collect())
}

fn glob() -> impl Strategy<Value = String> {
    let head = prop_oneof![
        Just(""),
        Just("**/"),
        Just("/"),
        Just("~/"),
        Just("/**/"),
        Just("~/**/")
    ];
    let last = prop_oneof![
        4 => name(),
        1 => Just("*".to_owned()),
        2 => Just("**".to_owned()),
        1 => Just("a*".to_owned()),
        1 => Just("*b".to_owned()),
        1 => Just("a*b".to_owned()),
        1 => Just("ab*b".to_owned()),
        1 => Just("{a,.env,{b,c}*}".to_owned()),
    ];
    (
        head,
        directories(),
        prop_oneof![4 => Just(""), 1 => Just("**/")],
        directories(),
        last,
    )
        .prop_map(|(head, above, gap, below, last)| format!("{head}{above}{gap}{below}{last}"))
}

fn path() -> impl Strategy<Value = String> {
    let base = prop_oneof![3 => Just(""), 1 => Just("/root"), 2 => Just("/home/ann"), 1 => Just("/srv/b/home/c")];
    let part = prop_oneof![6 => name(), 1 => "[ab]{1,2}[ab.]{0,2}"];
    (base, prop::collection::vec(part, 1..7))
        .prop_map(|(base, parts)| format!("{base}/{}", parts.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn compiled_patterns_match_what_the_globs_say(
        globs in prop::collection::vec(glob(), 1..5),
        paths in prop::collection::vec(path(), 1..12),
    ) {
        // One label for each glob that is accepted.
        let mut text = String::from("version = 1\n");
        let mut kept = Vec::new();
        for glob in globs {
            let table = format!("[[label]]\nname = \"l{}\"\nfiles = ['{glob}']\n", kept.len());
            if Policy::parse(&format!("version = 1\n{table}"), Source::BuiltIn).is_ok() {
                text.push_str(&table);
                kept.push(glob);
            }
        }
        let policy = Policy::parse(&text, Source::BuiltIn).unwrap();
        let bits = LabelBits::assign(None, &policy).unwrap();
        let tables = policy.lay_out(1, &bits, &homes()).unwrap();
        for path in &paths {
            let labels = tables.classify_path(Path::new(path)).labels;
            for (bit, glob) in kept.iter().enumerate() {
                prop_assert_eq!(labels & (1 << bit) != 0, by_globset(glob, path), "{} on {}", glob, path);
            }
        }
    }
}

#[track_caller]
fn check(glob: &str, yes: &[&str], no: &[&str]) {
    let policy = policy(&format!("[[label]]\nname = \"l\"\nfiles = ['{glob}']\n"));
    let bits = LabelBits::assign(None, &policy).unwrap();
    let tables = policy.lay_out(0, &bits, &homes()).unwrap();
    for (paths, expected) in [(yes, 1), (no, 0)] {
        for path in paths {
            assert_eq!(
                tables.classify_path(Path::new(path)).labels,
                expected,
                "{glob} on {path}"
            );
        }
    }
}

#[test]
fn patterns_mean_what_the_documentation_says() {
    check(
        "~/.aws/credentials",
        &["/root/.aws/credentials", "/home/ann/.aws/credentials"],
        &[
            "/.aws/credentials",
            "/home/ann/x/.aws/credentials",
            "/home/bob/.aws/credentials",
        ],
    );
    check(
        "**/.env",
        &["/.env", "/a/b/.env"],
        &["/a/.env.local", "/.env/x"],
    );
    check(".env.*", &["/a/.env.local", "/.env."], &["/.env"]);
    check(
        "id_*_key",
        &["/x/id_a_key", "/id__key"],
        &["/id_key", "/id_a_key.pub"],
    );
    check(
        "~/.ssh/**",
        &["/root/.ssh/a", "/root/.ssh/a/b/c"],
        &["/root/.ssh", "/x/.ssh/a"],
    );
    check(
        "/a/**/b/c",
        &["/a/b/c", "/a/x/y/b/c"],
        &["/a/c", "/a/b/x/c", "/x/a/b/c"],
    );
    check(
        "/srv/*/keys/*.pem",
        &["/srv/one/keys/a.pem", "/srv/one/keys/.pem"],
        &["/srv/keys/a.pem"],
    );
    check(
        "**/x/**",
        &["/x/1/2/3/4/5/6/7/f"],
        &["/x/1/2/3/4/5/6/7/8/f"],
    );
    let deep = "/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/f";
    check(
        deep,
        &[deep],
        &["/0/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/f"],
    );
}

#[test]
fn exceptions_take_files_out_and_spare_programs() {
    let policy = policy(
        "[[label]]\nname = \"c\"\nfiles = [\"**/.env\", \"**/.env.*\"]\n\
         except = { files = [\"**/.env.example\"], exe = [\"direnv\", \"/usr/lib/git-core/*\", \"git-credential-*\"] }\n\
         [[label]]\nname = \"c\"\nfiles = [\"~/.token\"]\n[[label]]\nname = \"d\"\nfiles = [\"**/.env\"]\n",
    );
    let bits = LabelBits::assign(None, &policy).unwrap();
    let tables = policy.lay_out(0, &bits, &homes()).unwrap();
    let file = |path: &str| tables.classify_path(Path::new(path));
    assert_eq!(bits.names(file("/p/.env").labels), ["c", "d"]);
    assert_eq!(file("/p/.env.example").labels, 0);
    assert_eq!(bits.names(file("/p/.env.local").labels), ["c"]);
    assert_eq!(policy.groups[0].mask(), 1);
    assert_eq!(policy.groups[1].mask(), 0);
    let program = |path: &str| tables.classify_program(Path::new(path));
    assert_eq!(program("/usr/bin/direnv"), 1);
    assert_eq!(program("/usr/lib/git-core/git"), 1);
    assert_eq!(program("/opt/git-credential-x"), 1);
    assert_eq!(program("/usr/bin/git"), 0);
    assert_eq!(bits.names(file("/p/.env").labels_for(1)), ["d"]);
    assert_eq!(bits.names(file("/root/.token").labels_for(1)), ["c"]);
}

#[test]
fn known_files_are_found_through_links_and_exceptions_hold_for_them() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    let home = root.join("h");
    for directory in ["h/.aws", "h/.ssh", "h/p1/keys", "h/p2/keys"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for file in [
        "elsewhere",
        "h/.ssh/id_a",
        "h/.ssh/id_a.pub",
        "h/p1/keys/x",
        "h/p2/keys/x",
    ] {
        std::fs::write(root.join(file), "").unwrap();
    }
    std::os::unix::fs::symlink(root.join("elsewhere"), home.join(".aws/credentials")).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(home.join("s.sock")).unwrap();
    let policy = policy(&format!(
        "[[label]]\nname = \"c\"\naddresses = [\"unix:~/s.sock\", \"10.0.0.1\"]\nfiles = [\"~/.aws/credentials\", \"~/.ssh/id_*\", \"{}/*/keys/x\", \"**/x\", \"~/missing\"]\n\
         except.files = [\"~/.ssh/*.pub\"]\n",
        home.display()
    ));
    let bits = LabelBits::assign(None, &policy).unwrap();
    let tables = policy
        .compile(0, &bits, &Homes::of([home.clone()]))
        .unwrap();
    let found: Vec<PathBuf> = tables
        .known_files
        .iter()
        .map(|(path, ..)| path.clone())
        .collect();
    let expected: Vec<PathBuf> = [
        ".aws/credentials",
        ".ssh/id_a",
        "p1/keys/x",
        "p2/keys/x",
        "s.sock",
    ]
    .iter()
    .map(|file| home.join(file))
    .collect();
    assert_eq!(found, expected);
    assert!(
        tables
            .known_files
            .iter()
            .all(|(_, labels, groups)| (*labels, *groups) == (1, 0))
    );
}
