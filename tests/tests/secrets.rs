//! `guardctl scan` on made-up secrets: every kind, a corpus with look-alikes, what a call gives back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Command, Output},
    time::Instant,
};

use guard_tests::{
    secrets::{
        chance::Chance,
        corpus::{self, Planted},
        kinds::RECIPES,
        made::value,
    },
    tested,
};
use serde_json::Value;
use tempfile::TempDir;

fn scan(dir: &Path, args: &[&str]) -> Output {
    Command::new(tested("guardctl"))
        .current_dir(dir)
        // Whatever runs here: a key of this run.
        .args(["scan", "--state-dir", "/nonexistent"])
        .args(args)
        .output()
        .unwrap()
}

fn json(dir: &Path, args: &[&str]) -> (Value, i32) {
    let output = scan(dir, &[&["--json"], args].concat());
    let told = String::from_utf8(output.stdout).unwrap();
    let value = serde_json::from_str(&told).unwrap_or_else(|error| {
        panic!("{error}: {told}{}", String::from_utf8_lossy(&output.stderr))
    });
    (value, output.status.code().unwrap())
}

/// Path, line, provider, kind of each.
fn places(report: &Value) -> Vec<(String, usize, String, String)> {
    let text = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                text(one, "path"),
                one["line"].as_u64().unwrap() as usize,
                text(one, "provider"),
                text(one, "kind"),
            )
        })
        .collect()
}

#[derive(serde::Deserialize)]
struct Table {
    kinds: Vec<Row>,
}

#[derive(serde::Deserialize)]
struct Row {
    provider: String,
    name: String,
}

#[test]
fn each_kind_is_known_by_its_form_and_not_without_it() {
    let table: Table = toml::from_str(include_str!("../../policy/secrets.toml")).unwrap();
    let recipes: BTreeSet<(&str, &str)> =
        RECIPES.iter().map(|one| (one.provider, one.kind)).collect();
    for Row { provider, name } in &table.kinds {
        assert!(
            recipes.contains(&(provider, name)),
            "{provider} {name} has no recipe in tests/src/secrets/kinds.rs"
        );
    }
    let dir = TempDir::new().unwrap();
    let mut chance = Chance::new(20_261_126);
    for (nth, recipe) in RECIPES.iter().enumerate() {
        // Chance writes words, too: three of each, of which two must be known.
        for copy in 0..3 {
            let made = value(recipe.recipe, &mut chance);
            fs::write(
                dir.path().join(format!("{nth}-{copy}.conf")),
                format!("# settings\n{} = \"{made}\"\n", recipe.name),
            )
            .unwrap();
            // Cut in the middle, or without the name, it is another thing.
            let missing = if recipe.needs_name {
                format!("value \"{made}\"\n")
            } else {
                let half: String = made.chars().take(made.chars().count() / 4).collect();
                format!("value \"{half}\"\n")
            };
            // Without the name these are keys of Stripe, which are of the same form.
            if !(recipe.needs_name && recipe.recipe.starts_with("'sk_live_")) {
                fs::write(dir.path().join(format!("{nth}-{copy}.miss")), missing).unwrap();
            }
        }
    }
    let (report, status) = json(dir.path(), &["."]);
    assert_eq!(status, 1);
    let mut known = vec![0; RECIPES.len()];
    for (path, line, provider, kind) in places(&report) {
        let name = path.trim_start_matches("./");
        let nth: usize = name.split('-').next().unwrap().parse().unwrap();
        let recipe = &RECIPES[nth];
        assert!(
            name.ends_with(".conf"),
            "{recipe:?}: found in what is only like it: {provider} {kind}"
        );
        assert_eq!(
            (line, &*provider, &*kind),
            (2, recipe.provider, recipe.kind),
            "{recipe:?}"
        );
        known[nth] += 1;
    }
    for (nth, count) in known.iter().enumerate() {
        assert!(*count >= 2, "{:?}: {count} of 3 known", RECIPES[nth]);
    }
}

/// Recall and precision over a corpus of 5,000 files with 1,000 secrets, by place, provider and kind.
fn measure(seed: u64) -> (f64, f64) {
    let dir = TempDir::new().unwrap();
    let corpus = corpus::write(dir.path(), seed, 5000, 1000).unwrap();
    assert_eq!((corpus.files, corpus.planted.len()), (5000, 1000));
    let kinds: BTreeSet<_> = corpus
        .planted
        .iter()
        .map(|one| (one.provider, one.kind))
        .collect();
    assert!(kinds.len() >= 120, "{}", kinds.len());
    let begin = Instant::now();
    let (report, status) = json(dir.path(), &["."]);
    let took = begin.elapsed();
    assert_eq!(status, 1);
    let wanted: BTreeMap<_, _> = corpus
        .planted
        .iter()
        .map(|one: &Planted| {
            (
                (one.path.to_str().unwrap().to_owned(), one.line),
                (one.provider, one.kind),
            )
        })
        .collect();
    let found = places(&report);
    let mut right = BTreeSet::new();
    for (path, line, provider, kind) in &found {
        let place = (path.trim_start_matches("./").to_owned(), *line);
        if wanted.get(&place) == Some(&(provider, kind)) {
            right.insert(place);
        } else {
            println!("seed {seed}: wrong: {path}:{line} {provider} {kind}");
        }
    }
    for (place, kind) in wanted.iter().filter(|(place, _)| !right.contains(*place)) {
        println!("seed {seed}: missed: {place:?} {kind:?}");
    }
    let recall = right.len() as f64 / wanted.len() as f64;
    let precision = right.len() as f64 / found.len() as f64;
    println!("seed {seed}: recall {recall:.4}, precision {precision:.4}, {took:?}");
    // What tests hold is numbered, not shown; it is made of the same recipes.
    let in_fixtures = report["in_fixtures"].as_u64().unwrap() as f64;
    assert!(
        in_fixtures >= corpus.in_fixtures as f64 * 0.95,
        "{in_fixtures} of {}",
        corpus.in_fixtures
    );
    (recall, precision)
}

#[test]
fn of_a_thousand_secrets_among_look_alikes_hardly_one_is_missed_or_made_up() {
    for seed in [1, 2, 3] {
        let (recall, precision) = measure(seed);
        assert!(recall >= 0.98, "seed {seed}: recall {recall}");
        assert!(precision >= 0.98, "seed {seed}: precision {precision}");
    }
}

#[test]
fn no_value_is_told_whatever_the_shape_of_the_report() {
    let dir = TempDir::new().unwrap();
    let corpus = corpus::write(dir.path(), 7, 600, 300).unwrap();
    let outputs = [
        scan(dir.path(), &["."]),
        scan(dir.path(), &["--sarif", "."]),
        scan(dir.path(), &["--json", "--all", "."]),
    ];
    for output in outputs {
        let told =
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        for value in &corpus.values {
            let end: String = value
                .chars()
                .skip(value.chars().count().saturating_sub(12))
                .collect();
            assert!(end.len() < 12 || !told.contains(&end), "a value is told");
        }
    }
}

#[test]
fn a_call_says_by_its_status_what_came_of_it() {
    let dir = TempDir::new().unwrap();
    let token = value("'glpat- w20", &mut Chance::new(4));
    fs::create_dir_all(dir.path().join("tests")).unwrap();
    fs::write(dir.path().join("clean.txt"), "nothing here\n").unwrap();
    fs::write(
        dir.path().join("notes.txt"),
        format!("the token:\n  {token}\n"),
    )
    .unwrap();
    fs::write(dir.path().join("tests/a.txt"), format!("{token}\n")).unwrap();
    let said = |args: &[&str]| {
        let output = scan(dir.path(), args);
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (status, out, err) = said(&["clean.txt"]);
    assert_eq!((status, &*err), (0, ""));
    assert!(out.starts_with("no secrets; searched 1 file"), "{out}");
    let (status, out, _) = said(&["."]);
    assert_eq!(status, 1);
    assert!(
        out.contains("gitlab") && out.contains("./notes.txt:2:3") && out.contains("glpat-…"),
        "{out}"
    );
    assert!(out.contains("1 in tests and examples not counted"), "{out}");
    let (status, out, _) = said(&["tests"]);
    assert_eq!(
        (status, out.contains("tests/a.txt:1:1")),
        (1, true),
        "{out}"
    );
    let (status, out, _) = said(&["--all", "."]);
    assert_eq!(
        (status, out.contains("2 secrets in 2 files")),
        (1, true),
        "{out}"
    );
    for wrong in [
        &["none.txt"][..],
        &[],
        &["--max-size", "0", "."],
        &["--sarif", "--json", "."],
    ] {
        let (status, _, err) = said(wrong);
        assert_eq!(status, 2, "{wrong:?}: {err}");
    }
    let (_, _, err) = said(&["none.txt"]);
    assert!(
        err.starts_with("guardctl: none.txt: No such file or directory: "),
        "{err}"
    );
}

#[test]
fn json_says_which_file_it_was_and_hashes_compare_within_a_run() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = TempDir::new().unwrap();
    let mut chance = Chance::new(5);
    let (one, other) = (
        value("'glpat- w20", &mut chance),
        value("'glpat- w20", &mut chance),
    );
    fs::write(dir.path().join("a.txt"), format!("{one}\n{other}\n")).unwrap();
    fs::write(dir.path().join("b.txt"), format!("x {one}\n")).unwrap();
    let (report, _) = json(dir.path(), &["."]);
    assert_eq!(report["key"], "run");
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 3);
    assert_eq!(findings[0]["hash"], findings[2]["hash"]);
    assert_ne!(findings[0]["hash"], findings[1]["hash"]);
    assert_eq!(findings[0]["hash"].as_str().unwrap().len(), 32);
    let file = fs::metadata(dir.path().join("b.txt")).unwrap();
    assert_eq!(
        (findings[2]["dev"].as_u64(), findings[2]["ino"].as_u64()),
        (Some(file.dev()), Some(file.ino()))
    );
    assert_eq!(
        (findings[2]["start"].as_u64(), findings[2]["end"].as_u64()),
        (Some(2), Some(2 + one.len() as u64))
    );
    let (again, _) = json(dir.path(), &["."]);
    assert_ne!(
        again["findings"][0]["hash"], findings[0]["hash"],
        "the key is this run's own"
    );
    assert_eq!(report["summary"]["files"], 2);
}

#[test]
fn sarif_is_what_code_scanning_takes_and_the_same_in_every_run() {
    let dir = TempDir::new().unwrap();
    let token = value("'glpat- w20", &mut Chance::new(6));
    let name = "a b<é>.txt";
    fs::write(dir.path().join(name), format!("{token}\n{token}\n")).unwrap();
    let log = || {
        let output = scan(dir.path(), &["--sarif", "."]);
        assert_eq!(output.status.code(), Some(1));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let first = log();
    assert_eq!(first, log());
    assert_eq!(first["version"], "2.1.0");
    let run = &first["runs"][0];
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    assert_ne!(
        results[0]["partialFingerprints"],
        results[1]["partialFingerprints"]
    );
    for (line, result) in (1..).zip(results) {
        let rule = result["ruleIndex"].as_u64().unwrap() as usize;
        assert_eq!(run["tool"]["driver"]["rules"][rule]["id"], result["ruleId"]);
        assert_eq!(result["ruleId"], "secret/gitlab/personal-access-token");
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "a%20b%3C%C3%A9%3E.txt");
        assert_eq!(place["artifactLocation"]["uriBaseId"], "%SRCROOT%");
        assert_eq!(place["region"]["startLine"], line);
    }
}

/// `GUARD_BIN_DIR` names optimised programs, or the figure means nothing.
#[test]
#[ignore = "a measurement: half a gigabyte of files"]
fn speed() {
    let dir = TempDir::new().unwrap();
    let mut bytes = 0;
    for part in 0..24 {
        let root = dir.path().join(part.to_string());
        corpus::write(&root, 100 + part, 5000, 20).unwrap();
    }
    let mut dirs = vec![dir.path().to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false => bytes += entry.metadata().unwrap().len(),
            }
        }
    }
    assert!(bytes >= 256 << 20, "{bytes}");
    for _ in 0..3 {
        let begin = Instant::now();
        json(dir.path(), &["--threads", "2", "--all", "."]);
        let took = begin.elapsed().as_secs_f64();
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        println!(
            "{mebibytes:.0} MiB in {took:.1} s with two threads: {:.0} MiB/s",
            mebibytes / took
        );
    }
}
