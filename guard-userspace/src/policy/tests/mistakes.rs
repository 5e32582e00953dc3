use std::{fmt::Write, fs};

use proptest::prelude::ProptestConfig;

use super::super::*;

fn error(text: &str) -> PolicyError {
    match Policy::parse(text, Source::File(PathBuf::from("p.toml"))) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(error) => error,
    }
}

/// The first line of the error is `p.toml:LINE:COL: ` and then begins so; the caret stands under the
/// marked text.
#[track_caller]
fn refused(text: &str, line: usize, column: usize, says: &str) {
    let error = error(text);
    let shown = error.to_string();
    let first = format!("p.toml:{line}:{column}: {says}");
    assert!(
        shown.starts_with(&first),
        "expected {first}\nfound:\n{shown}"
    );
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "{shown}");
    assert_eq!(lines[0], error.one_line());
    assert!(lines[0].contains("expected "), "{shown}");
    let source_line = text.lines().nth(line - 1).unwrap_or_default();
    assert_eq!(lines[1], format!("{line} | {source_line}"));
    assert_eq!(
        lines[2].find('^'),
        Some(format!("{line} | ").len() + column - 1),
        "{shown}"
    );
    assert_eq!(error.position(), Some((line, column)));
}

#[test]
fn a_step_that_is_none_is_refused() {
    let when = |when: &str| {
        format!("version = 1\n{LABEL}[[rule]]\nname = \"x\"\nthen = \"flag\"\nwhen = {when}\n")
    };
    for (steps, marked, says) in [
        (
            r#"[{ label = "credential", count = 17 }]"#,
            "17",
            "count is a number: expected a number from 1 to 16",
        ),
        (
            r#"[{ label = "credential", count = 0 }]"#,
            "0",
            "count is a number: expected",
        ),
        (
            r#"[{ label = "credential", within = "1m" }]"#,
            "\"1m\"",
            "a step of when: within stands with not",
        ),
        (
            r#"[{ not = "credential", count = 2 }, "credential"]"#,
            "2",
            "a step of when: count stands with label",
        ),
        (
            r#"["credential", { not = "secret" }]"#,
            "\"secret\"",
            "a step of when: the last is the trigger",
        ),
        (
            r#"[{ label = "credential", not = "credential" }]"#,
            "{",
            "a step of when: it has either label or not",
        ),
        (
            r#"[{ not = "credental" }, "credential"]"#,
            "\"credental\"",
            "unknown label \"credental\" in rule \"x\"",
        ),
    ] {
        let text = when(steps);
        let line = text.lines().nth(7).unwrap();
        refused(&text, 8, line.find(marked).unwrap() + 1, says);
    }
    let one_more = r#"[{ label = "credential", count = 16 }, "credential"]"#;
    assert!(error(&when(one_more)).to_string().contains("so many"));
    let five = [r#"{ not = "credential" }"#; 5].join(", ");
    assert!(
        error(&when(&format!("[{five}, \"credential\"]")))
            .to_string()
            .contains("labels with not")
    );
}

#[test]
fn a_template_that_is_nowhere_or_wrong_is_refused() {
    let rule = "[[rule]]\nname = \"x\"\ntemplate = \"strickt\"\nwhen = [\"credential\"]\n";
    let text =
        format!("version = 1\n{LABEL}[[template]]\nname = \"strict\"\nthen = \"deny\"\n{rule}");
    refused(
        &text,
        10,
        12,
        "no template \"strickt\": expected the name of a [[template]]",
    );
    assert!(
        error(&text)
            .to_string()
            .contains("did you mean \"strict\"?")
    );
    // Also one that no rule uses.
    let text = format!("version = 1\n{LABEL}[[template]]\nname = \"strict\"\nthen = \"denyy\"\n");
    refused(&text, 7, 8, "bad then \"denyy\"");
}

const LABEL: &str = "[[label]]\nname = \"credential\"\nfiles = [\"**/.env\"]\n";

#[test]
fn an_unknown_label_is_shown_with_a_caret_and_the_one_that_was_meant() {
    let text = format!(
        "version = 1\n{LABEL}[[rule]]\nname = \"x\"\nwhen = [\"credentail\", \"infra\"]\nthen = \"flag\""
    );
    assert_eq!(
        error(&text).to_string(),
        "p.toml:7:9: unknown label \"credentail\" in rule \"x\": expected one of the labels of this policy; \
         did you mean \"credential\"?\n\
         7 | when = [\"credentail\", \"infra\"]\n  \
           |         ^^^^^^^^^^^^"
    );
}

#[test]
fn syntax_is_explained_where_it_breaks() {
    refused("version = 1\nmode = \"enforce\n", 2, 16, "not TOML: ");
    refused(
        "version = 1\nversion = 1\n",
        2,
        1,
        "not TOML: this key is there twice: expected",
    );
    refused("version = 1\n[[label]\n", 2, 9, "not TOML: ");
    refused("version = 1\nmode = [\"a\" \"b\"]\n", 2, 13, "not TOML: ");
    refused("version 1\n", 1, 9, "not TOML: ");
    refused("version =\n", 1, 10, "not TOML: ");
}

#[test]
fn the_version_must_be_one() {
    refused(
        "mode = \"enforce\"\n",
        1,
        1,
        "the policy has no version: expected version = 1",
    );
    refused(
        "version = 2\n",
        1,
        11,
        "policy version 2: expected version = 1",
    );
    refused(
        "version = \"1\"\n",
        1,
        11,
        "version is a string: expected version = 1",
    );
}

#[test]
fn unknown_keys_are_refused_in_every_table() {
    refused(
        "version = 1\nmod = \"x\"\n",
        2,
        1,
        "unknown key \"mod\" in the policy: expected one of version, mode,",
    );
    refused(
        "version = 1\n[[labels]]\n",
        2,
        3,
        "unknown key \"labels\" in the policy: expected one of",
    );
    assert!(
        error("version = 1\n[[labels]]\n")
            .one_line()
            .ends_with("did you mean \"label\"?")
    );
    refused(
        "version = 1\n[[label]]\nname = \"a\"\nseals = true\n",
        4,
        1,
        "unknown key \"seals\" in [[label]]: expected",
    );
    let text = "version = 1\n[[label]]\nname = \"a\"\nexcept = { exes = [\"x\"] }\n";
    refused(
        text,
        4,
        12,
        "unknown key \"exes\" in except: expected one of exe, files",
    );
    let text = "version = 1\n[[label]]\nname = \"a\"\nrequests = [{ verb = \"x\" }]\n";
    refused(text, 4, 15, "unknown key \"verb\" in a request: expected");
    refused(
        "version = 1\n[[agent]]\nbin = 1\n",
        3,
        1,
        "unknown key \"bin\" in [[agent]]: expected",
    );
    refused(
        "version = 1\n[[rule]]\nif = 1\n",
        3,
        1,
        "unknown key \"if\" in [[rule]]: expected",
    );
}

#[test]
fn wrong_types_are_told_with_the_type_that_was_expected() {
    refused(
        "version = 1\nmode = 3\n",
        2,
        8,
        "mode is a number: expected a string",
    );
    refused(
        "version = 1\nlabel = \"x\"\n",
        2,
        9,
        "label is a string: expected a list of tables: begin each with [[label]]",
    );
    refused(
        "version = 1\n[label]\nname = \"x\"\n",
        2,
        1,
        "label is a table: expected a list of tables",
    );
    refused(
        "version = 1\n[[label]]\nname = [\"x\"]\n",
        3,
        8,
        "name is a list: expected a string",
    );
    refused(
        "version = 1\n[[label]]\nname = \"x\"\nfiles = \".env\"\n",
        4,
        9,
        "files is a string: expected a list of strings",
    );
    refused(
        "version = 1\n[[label]]\nname = \"x\"\nfiles = [\"a\", 1]\n",
        4,
        15,
        "files is a number: expected a string",
    );
    refused(
        "version = 1\n[[label]]\nname = \"x\"\nexcept = [\"ssh\"]\n",
        4,
        10,
        "except is a list: expected a table",
    );
    let rule = format!("version = 1\n{LABEL}[[rule]]\nname = \"x\"\nwhen = \"credential\"\n");
    refused(&rule, 7, 8, "when is a string: expected a list of labels");
    let rule = format!(
        "version = 1\n{LABEL}[[rule]]\nname = \"x\"\nwhen = [\"credential\"]\nthen = \"flag\"\nwithin = 600\n"
    );
    refused(
        &rule,
        9,
        10,
        "within is a number: expected a duration in quotes",
    );
}

#[test]
fn labels_need_a_name_and_something_that_carries_them() {
    refused(
        "version = 1\n[[label]]\nfiles = [\"a\"]\n",
        2,
        1,
        "[[label]] has no name: expected name",
    );
    refused(
        "version = 1\n[[label]]\nname = \"a\"\n",
        3,
        8,
        "label \"a\" is empty: expected at least one of files",
    );
    refused(
        "version = 1\n[[label]]\nname = \"a\"\nfiles = []\n",
        3,
        8,
        "label \"a\" is empty: expected",
    );
    refused(
        "version = 1\n[[label]]\nname = \"a\"\nfiles = [\"\"]\n",
        4,
        10,
        "an entry of files is empty: expected",
    );
    refused(
        "version = 1\n[[label]]\nname = \"a b\"\nfiles = [\"x\"]\n",
        3,
        8,
        "bad name \"a b\": expected",
    );
    refused(
        "version = 1\n[[label]]\nname = \"a\"\nrequests = [{}]\n",
        4,
        13,
        "a request is empty: expected at least one",
    );
    refused(
        "version = 1\n[[label]]\nname = \"a\"\nfiles=[\"x\"]\nexcept = {}\n",
        5,
        10,
        "except is empty: expected",
    );
}

#[test]
fn more_than_there_is_room_for_is_refused() {
    let mut text = String::from("version = 1\n");
    for i in 1..=66 {
        let _ = writeln!(text, "[[label]]\nname = \"l{i}\"\nfiles = [\"f{i}\"]");
    }
    refused(&text, 3 * 65, 8, "too many labels: 66: expected at most 64");

    let mut text = format!("version = 1\n{LABEL}");
    for i in 1..=65 {
        let _ = writeln!(
            text,
            "[[rule]]\nname = \"r{i}\"\nwhen = [\"credential\"]\nthen = \"flag\""
        );
    }
    refused(
        &text,
        5 + 4 * 64 + 1,
        8,
        "too many rules: 65: expected at most 64",
    );

    let steps = ["\"credential\""; 17].join(",");
    let text =
        format!("version = 1\n{LABEL}[[rule]]\nname = \"r\"\nwhen = [{steps}]\nthen = \"flag\"");
    refused(
        &text,
        7,
        9 + 16 * 13,
        "too many steps in rule \"r\": 17: expected at most 16",
    );

    let mut text = String::from("version = 1\n");
    for i in 1..=65 {
        let _ = writeln!(
            text,
            "[[label]]\nname = \"l\"\nfiles = [\"f{i}\"]\nexcept.exe = [\"x\"]"
        );
    }
    refused(
        &text,
        4 * 65 - 1,
        8,
        "too many labels with except.exe: 65: expected at most 64",
    );

    let files: Vec<String> = (1..=17)
        .map(|i| format!("\"**/d{i}/config.json\""))
        .collect();
    let text = format!(
        "version = 1\n[[label]]\nname = \"l\"\nfiles = [\n{}\n]\n",
        files.join(",\n")
    );
    refused(
        &text,
        21,
        1,
        "too many patterns that are looked up by the name \"config.json\": 17: expected at most 16",
    );
}

#[test]
fn rules_and_agents_are_complete_and_named_once() {
    let rule = |rest: &str| format!("version = 1\n{LABEL}[[rule]]\nname = \"x\"\n{rest}");
    refused(
        &rule("then = \"flag\"\n"),
        5,
        1,
        "[[rule]] has no when: expected when = ",
    );
    refused(
        &rule("when = []\n"),
        7,
        8,
        "when of rule \"x\" is empty: expected at least one label",
    );
    refused(
        &rule("when = [\"credential\"]\n"),
        5,
        1,
        "[[rule]] has no then: expected then = ",
    );
    let good = "when = [\"credential\"]\nthen = \"flag\"\n";
    refused(
        &rule(&format!("{good}[[rule]]\nname = \"x\"\n{good}")),
        10,
        8,
        "duplicate rule name \"x\": expected a name of its own (line 6 has this one)",
    );
    refused(
        "version = 1\n[[agent]]\nname = \"a\"\n",
        3,
        8,
        "agent \"a\" is empty: expected exe",
    );
    refused(
        "version = 1\n[[agent]]\nexe = [\"a\"]\n",
        2,
        1,
        "[[agent]] has no name: expected",
    );
    let agent = "[[agent]]\nname = \"a\"\nexe = [\"x\"]\n";
    refused(
        &format!("version = 1\n{agent}{agent}"),
        6,
        8,
        "duplicate agent name \"a\": expected",
    );
}

#[test]
fn words_and_durations_are_checked() {
    let rule = |rest: &str| {
        format!("version = 1\n{LABEL}[[rule]]\nname = \"x\"\nwhen = [\"credential\"]\n{rest}")
    };
    refused(
        "version = 1\nmode = \"enforced\"\n",
        2,
        8,
        "bad mode \"enforced\": expected enforce or observe; did you mean \"enforce\"?",
    );
    refused(
        &rule("then = \"block\"\n"),
        8,
        8,
        "bad then \"block\": expected flag, hold, deny or kill",
    );
    refused(
        &rule("then = \"hold\"\non_timeout = \"allow\"\n"),
        9,
        14,
        "bad on_timeout \"allow\": expected deny, kill or resume",
    );
    refused(
        &rule("then = \"hold\"\nscope = \"tree\"\n"),
        9,
        9,
        "bad scope \"tree\": expected process or session",
    );
    refused(
        &rule("then = \"deny\"\nfallback = \"deny\"\n"),
        9,
        12,
        "bad fallback \"deny\": expected kill, hold or flag",
    );
    refused(
        &rule("then = \"deny\"\nmode = \"enforce\"\n"),
        9,
        8,
        "bad mode \"enforce\": expected observe",
    );
    refused(
        &rule("then = \"deny\"\nwithin = \"10 minits\"\n"),
        9,
        10,
        "bad duration \"10 minits\" for within: ",
    );
    refused(
        &rule("then = \"hold\"\ntimeout = \"0s\"\n"),
        9,
        11,
        "bad duration \"0s\" for timeout: ",
    );
}

#[test]
fn globs_that_the_kernel_cannot_verify_are_refused_with_a_reason() {
    let file = |glob: &str| format!("version = 1\n[[label]]\nname = \"a\"\nfiles = ['{glob}']\n");
    for (glob, says) in [
        ("a?b", "'?' cannot be matched"),
        ("[ab]", "'[' cannot be matched"),
        ("a\\b", "'\\\\' cannot be matched"),
        ("/a//b", "an empty component"),
        ("/a/./b", "\".\": expected a path without"),
        ("**/../b", "\"..\": expected a path without"),
        ("/a/**/b/**/c", "a second \"**\""),
        ("**/a/**/b", "a second \"**\""),
        ("/a/**/b/**", "a second \"**\""),
        ("a/b", "a path that begins nowhere: expected \"**/a/b\""),
        ("~", "\"~\" stands for every user's home"),
        ("~ann/x", "\"~\" stands for every user's home"),
        ("/a/", "it ends in \"/\""),
        ("/a*/b", "\"a*\" in the middle"),
        ("*", "it would match nearly every file"),
        ("~/*", "it would match nearly every file"),
        ("~/**", "it would match nearly every file"),
        ("**", "it would match nearly every file"),
        ("**/a/*/*", "it would match nearly every file"),
        ("**/a/*/**", "\"*/**\": expected a directory's name"),
        ("a*b*c", "\"a*b*c\": expected at most one"),
        ("a**", "\"a**\": expected at most one"),
        ("{a,b", "a \"{\" without its \"}\""),
        ("a}", "a \"}\" without its \"{\""),
        (
            "{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}{a,b}",
            "its braces stand for more than 64",
        ),
        ("**/1/2/3/4/5/6/7/8/9/x", "more than 8 directories in a row"),
    ] {
        refused(&file(glob), 4, 10, &format!("bad glob \"{glob}\": {says}"));
    }
    let long = format!("{}*", "x".repeat(32));
    refused(
        &file(&long),
        4,
        10,
        &format!("bad glob \"{long}\": 32 bytes beside"),
    );
    let exe = |exe: &str| format!("version = 1\n[[agent]]\nname = \"a\"\nexe = ['{exe}']\n");
    refused(
        &exe("**/bin/*"),
        4,
        8,
        "bad glob \"**/bin/*\": it does not say which program",
    );
    refused(
        &exe("bin/x"),
        4,
        8,
        "bad glob \"bin/x\": a path that begins nowhere",
    );
    refused(&exe("/[/x"), 4, 8, "bad glob \"/[/x\": ");
}

#[test]
fn addresses_commands_and_markers_are_checked() {
    let address =
        |text: &str| format!("version = 1\n[[label]]\nname = \"a\"\naddresses = [\"{text}\"]\n");
    for (text, says) in [
        ("10.0.0.0/33", "prefix length \"33\": expected 0 to 32"),
        (
            "10.0.0.1/8",
            "bits after the first 8 are set: expected 10.0.0.0/8",
        ),
        (
            "2001:db8::1/32",
            "bits after the first 32 are set: expected 2001:db8::/32",
        ),
        ("10.0.0.256", "expected an address like"),
        ("1.2.3.4:0", "port \"0\": expected a port"),
        ("1.2.3.4:70000", "port \"70000\": expected a port"),
        ("[::1:443", "a \"[\" without its \"]\""),
        (
            "api.example.com",
            "\"api.example.com\" is a name: expected an address",
        ),
        (
            "api.example.com:443",
            "\"api.example.com\" is a name: expected an address",
        ),
        ("*", "every address: expected a port"),
        ("unix:@x", "an abstract socket has no file: expected a path"),
    ] {
        refused(
            &address(text),
            4,
            14,
            &format!("bad address \"{text}\": {says}"),
        );
    }
    refused(
        &address("unix:run/x"),
        4,
        14,
        "bad glob \"run/x\": a path that begins nowhere",
    );
    let argv = |text: &str| format!("version = 1\n[[label]]\nname = \"a\"\nargv = [\"{text}\"]\n");
    refused(
        &argv("** delete"),
        4,
        9,
        "bad command line \"** delete\": it names no program: expected",
    );
    refused(
        &argv("/bin/rm x"),
        4,
        9,
        "bad command line \"/bin/rm x\": \"/bin/rm\" is a path: expected",
    );
    refused(&argv("a*b*c"), 4, 9, "bad command line \"a*b*c\": ");
    refused(
        &argv("npm publish !now"),
        4,
        9,
        "bad command line \"npm publish !now\": \"!now\": expected an option",
    );
    for words in ["", "*", "drop+", "*+drop", "a-b"] {
        refused(
            &argv(&format!("psql says:{words}")),
            4,
            9,
            &format!("bad command line \"psql says:{words}\": \"says:{words}\": expected"),
        );
    }
    refused(
        &argv("a {b,c"),
        4,
        9,
        "bad command line \"a {b,c\": a \"{\" without its",
    );
    let env = |text: &str| format!("version = 1\n[[agent]]\nname = \"a\"\nenv = [\"{text}\"]\n");
    refused(
        &env("AI=1"),
        4,
        8,
        "bad environment marker \"AI=1\": its name is too short",
    );
    refused(
        &env("A-B-C"),
        4,
        8,
        "bad environment marker \"A-B-C\": a name holds",
    );
}

#[test]
fn columns_count_characters_and_tabs_keep_the_caret_in_place() {
    let text = "version = 1\n[[agent]]\n\tname = \"é\" \nexe = []\n";
    let shown = error(text).to_string();
    assert!(
        shown.starts_with("p.toml:3:9: agent \"é\" is empty"),
        "{shown}"
    );
    assert!(
        shown.ends_with("\n3 | \tname = \"é\" \n  | \t       ^^^"),
        "{shown}"
    );
}

#[test]
fn a_file_that_cannot_be_read_or_is_not_text_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.toml");
    let missing = files::check(&path).unwrap_err();
    assert!(
        missing
            .to_string()
            .starts_with(&format!("{}: cannot be read: ", path.display()))
    );
    fs::write(&path, b"version = 1\n# \xff\n").unwrap();
    let broken = files::check(&path).unwrap_err();
    assert!(
        broken
            .one_line()
            .ends_with(":2:3: a byte that is not UTF-8: expected text in UTF-8"),
        "{broken}"
    );
}

proptest::proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_reader_panic(text in "(version = 1\n)?(\\[\\[(label|rule|agent)\\]\\]\n)?((name|files|exe|env|argv|addresses|when) = (\\[\"\\PC{0,12}\"\\]|\"\\PC{0,8}\")\n){0,3}\\PC{0,20}") {
        if let Err(error) = Policy::parse(&text, Source::BuiltIn) {
            proptest::prop_assert!(error.to_string().lines().count() >= 3);
        }
    }
}

#[test]
fn a_labels_opens_are_one_of_two_words_and_the_same_in_each_of_its_tables() {
    refused(
        &format!("version = 1\n{LABEL}opens = \"read\"\n"),
        5,
        9,
        "opens = \"read\": expected ",
    );
    refused(
        &format!("version = 1\n{LABEL}opens = \"write\"\n{LABEL}"),
        7,
        8,
        "label \"credential\": opens is not the same",
    );
}

#[test]
fn only_a_server_behind_a_socket_can_be_followed() {
    let label = "[[label]]\nname = \"b\"\naddresses = [\"127.0.0.1:22\"]\n";
    refused(
        &format!("version = 1\n{label}follow = true\n"),
        5,
        10,
        "label \"b\": follow = true without a socket: expected ",
    );
    refused(
        &format!("version = 1\n{label}follow = \"yes\"\n"),
        5,
        10,
        "follow",
    );
}
