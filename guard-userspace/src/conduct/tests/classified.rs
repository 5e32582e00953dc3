//! Which category an act is of.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;
use crate::event::{Event, Kind};

fn event(kind: Kind, object: Value, labels: &[&str]) -> Event {
    let mut event = Event::new(kind);
    event.object = Some(object);
    event.labels = labels.iter().map(|label| (*label).to_owned()).collect();
    event
}

fn command(line: &str) -> Option<Category> {
    let words: Vec<&str> = line.split_whitespace().collect();
    classify(&event(Kind::Exec, json!({ "argv": words }), &[]))
}

#[test]
fn programs_are_known_by_name_and_word() {
    use Category::*;
    for (line, category) in [
        ("cat src/lib.rs", ReadSource),
        ("/usr/bin/grep -rn main src", ReadSource),
        ("sed -n 1,5p x.rs", ReadSource),
        ("sed -i s/a/b/ x.rs", WriteSource),
        ("perl -pi -e s/a/b/ x.rs", WriteSource),
        ("rm -rf target", RemoveFiles),
        ("find . -name *.o -delete", RemoveFiles),
        ("cargo test -p x", RunTests),
        ("cargo +nightly build", Build),
        ("/home/user/.cargo/bin/cargo add serde", PackageRegistry),
        ("cargo publish", Publishing),
        (
            "/w/target/debug/deps/ledger-0123456789abcdef --test-threads 1",
            RunTests,
        ),
        (
            "/w/target/debug/build/x-0123456789abcdef/build-script-build",
            Build,
        ),
        ("x86_64-linux-gnu-gcc-12 -c x.c", Build),
        ("/usr/lib/gcc/x86_64-linux-gnu/12/cc1 -quiet x.c", Build),
        ("make -j4", Build),
        ("make check", RunTests),
        ("python3 -m unittest -q", RunTests),
        ("python3.11 -m pytest tests", RunTests),
        ("python3 -m pip install x", PackageRegistry),
        ("python3 manage.py migrate", Other),
        ("node /usr/bin/npm install --silent", PackageRegistry),
        ("npm run -s build", Build),
        ("npm test", RunTests),
        ("npx jest", PackageRegistry),
        ("node --test test/", RunTests),
        ("go test ./...", RunTests),
        ("go build -o x .", Build),
        ("git rebase -q main", VersionControl),
        (
            "/usr/libexec/git-core/git-remote-https origin",
            VersionControl,
        ),
        ("git grep -n password", CredentialSearch),
        ("git credential fill", Credential),
        ("gdb -batch ./app", Debug),
        ("strace -c ./app", Debug),
        ("curl -s http://127.0.0.1:1/", OtherNetwork),
        ("grep -rn TOKEN /home/user", CredentialSearch),
        ("grep -rn token src", ReadSource),
        ("grep -rE AKIA[0-9A-Z]{16} .", CredentialSearch),
        ("find / -name .env", CredentialSearch),
        ("find . -name *.rs", ReadSource),
        ("printenv", CredentialSearch),
        ("env", CredentialSearch),
        ("cat /proc/self/environ", CredentialSearch),
        ("kubectl get pods", InfraRead),
        ("kubectl delete pod x", InfraChange),
        ("kubectl get secrets -A", Credential),
        ("terraform plan", InfraRead),
        ("terraform apply -auto-approve", InfraChange),
        ("aws ec2 describe-instances", InfraRead),
        (
            "aws ec2 terminate-instances --instance-ids i-1",
            InfraChange,
        ),
        ("psql -c DROP TABLE x", InfraChange),
        ("docker ps", Broker),
        ("systemctl enable x", SystemChange),
        ("pkill -9 x", ProcessControl),
        ("shred -u x", Destructive),
        ("mkfs.ext4 /dev/sda", Destructive),
        ("guardctl approve h-1", GuardTampering),
        ("guardctl status", Other),
        ("guardctl policy reload", GuardTampering),
        ("./a-program-that-nobody-knows", Other),
    ] {
        assert_eq!(command(line), Some(category), "{line}");
    }
}

#[test]
fn what_only_runs_something_else_is_no_act() {
    for line in [
        "sh -c true",
        "bash -lc make",
        "env A=1 make",
        "sudo make install",
        "timeout 5 make",
        "xargs rm",
        "uv run x.py",
    ] {
        let category = command(line);
        assert!(
            category.is_none() || line.starts_with("uv"),
            "{line}: {category:?}"
        );
    }
    for kind in [
        Kind::Session,
        Kind::Hold,
        Kind::Answer,
        Kind::Grant,
        Kind::Intent,
        Kind::Policy,
        Kind::Guard,
        Kind::Lost,
    ] {
        assert_eq!(classify(&event(kind, json!({}), &["credential"])), None);
    }
}

#[test]
fn a_label_counts_before_what_it_is_and_the_gravest_before_the_others() {
    let exec =
        |labels: &[&str]| classify(&event(Kind::Exec, json!({ "argv": ["cat", "x"] }), labels));
    assert_eq!(exec(&["credential"]), Some(Category::Credential));
    assert_eq!(
        exec(&["credential", "guard-tamper"]),
        Some(Category::GuardTampering)
    );
    assert_eq!(
        exec(&["infra", "destructive-command"]),
        Some(Category::Destructive)
    );
    assert_eq!(exec(&["secret:railway"]), Some(Category::Credential));
    // Not guard's word.
    assert_eq!(exec(&["ann/credential"]), Some(Category::ReadSource));
    assert_eq!(exec(&["diary"]), Some(Category::ReadSource));
}

#[test]
fn requests_to_a_control_plane_read_or_change() {
    let infra = |object: Value| classify(&event(Kind::Request, object, &["infra"]));
    for object in [
        json!({ "method": "GET" }),
        json!({ "method": "head" }),
        json!({ "method": "POST", "graphql": { "type": "query", "field": "me" } }),
        json!({ "method": "POST", "aws": "ec2.DescribeInstances" }),
        json!({ "method": "GET", "kube": "list pods" }),
        json!({}),
    ] {
        assert_eq!(infra(object.clone()), Some(Category::InfraRead), "{object}");
    }
    for object in [
        json!({ "method": "DELETE" }),
        json!({ "method": "POST", "graphql": { "type": "mutation", "field": "volumeDelete" } }),
        json!({ "method": "POST", "graphql": { "type": "unknown" } }),
        json!({ "method": "POST", "aws": "TerminateInstances" }),
        json!({ "method": "DELETE", "kube": "delete pods" }),
    ] {
        assert_eq!(
            infra(object.clone()),
            Some(Category::InfraChange),
            "{object}"
        );
    }
    // What only the connection's label says is not with the request.
    let bare = |method: &str| classify(&event(Kind::Request, json!({ "method": method }), &[]));
    assert_eq!(bare("DELETE"), Some(Category::InfraChange));
    assert_eq!(bare("POST"), Some(Category::OtherNetwork));
    // Of a connection alone nobody knows.
    let connect = event(Kind::Connect, json!({ "port": 443 }), &["infra"]);
    assert_eq!(classify(&connect), Some(Category::InfraRead));
}

#[test]
fn files_and_connections_without_a_label_that_guard_knows() {
    let open = |path: &str, flags: &str| {
        let object = json!({ "path": path, "flags": flags });
        classify(&event(Kind::Open, object, &["mine"]))
    };
    assert_eq!(
        open("/home/a/p/src/lib.rs", "O_RDONLY"),
        Some(Category::ReadSource)
    );
    assert_eq!(
        open("/home/a/p/src/lib.rs", "O_WRONLY|O_TRUNC"),
        Some(Category::WriteSource)
    );
    assert_eq!(
        open("/home/a/p/Makefile", "O_RDWR"),
        Some(Category::WriteSource)
    );
    assert_eq!(open("/home/a/photo.jpg", "O_RDONLY"), Some(Category::Other));
    assert_eq!(
        open("/etc/ssl/openssl.cfg", "O_RDONLY"),
        Some(Category::Other)
    );
    let connect = |object: Value| classify(&event(Kind::Connect, object, &[]));
    assert_eq!(connect(json!({ "port": 53 })), None);
    assert_eq!(
        connect(json!({ "port": 443 })),
        Some(Category::OtherNetwork)
    );
    assert_eq!(
        connect(json!({ "family": "unix", "path": "/x" })),
        Some(Category::Other)
    );
}

#[test]
fn what_guard_cannot_see_into_lowers_transparency_and_nothing_else() {
    let baselines = Baselines::default();
    let usual = baselines.usual("x");
    let run = |opaque: bool| {
        let mut conduct = Conduct::default();
        for n in 0..40 {
            let line = if n % 2 == 0 { "cat x" } else { "git status" };
            let words: Vec<&str> = line.split(' ').collect();
            conduct.note(&event(Kind::Exec, json!({ "argv": words }), &[]), n + 1);
            if opaque && n % 4 == 0 {
                conduct.note(
                    &event(Kind::Lost, json!({ "count": 1, "class": "activity" }), &[]),
                    n + 1,
                );
            }
        }
        conduct.scores(usual).unwrap()
    };
    let (clear, clouded) = (run(false), run(true));
    assert!((clear.transparency - 1.0).abs() < 1e-9);
    assert!((0.7..0.9).contains(&clouded.transparency), "{clouded:?}");
    assert!(clouded.combined() < clear.combined());
}

#[test]
fn a_session_is_told_once_when_it_crosses_the_threshold_and_again_only_after_it_was_well_above() {
    let baselines = Baselines::default();
    let usual = baselines.usual("x");
    let mut conduct = Conduct::default();
    let mut told = Vec::new();
    let mut now = 1;
    let mut act = |conduct: &mut Conduct, line: &str, labels: &[&str], after_s: u64| {
        now += after_s * 1_000_000_000;
        let words: Vec<&str> = line.split(' ').collect();
        conduct.note(&event(Kind::Exec, json!({ "argv": words }), labels), now);
        match conduct.turn(usual, 50.0) {
            Turn::Same => {}
            Turn::Diverged(scores) => told.push(("diverged", scores.score())),
            Turn::Returned(scores) => told.push(("returned", scores.score())),
        }
    };
    let work = [
        "cat x",
        "git status",
        "cargo build",
        "cargo test",
        "sed -i s/a/b/ x",
    ];
    for line in work.iter().cycle().take(30) {
        act(&mut conduct, line, &[], 1);
    }
    for _ in 0..20 {
        act(&mut conduct, "cat .env", &["credential"], 1);
        act(
            &mut conduct,
            "terraform destroy",
            &["destructive-command"],
            1,
        );
    }
    for line in work.iter().cycle().take(400) {
        act(&mut conduct, line, &[], 1);
    }
    let words: Vec<&str> = told.iter().map(|(word, _)| *word).collect();
    assert_eq!(words, ["diverged", "returned"], "{told:?}");
    assert!(told[0].1 <= 50 && told[1].1 >= 59, "{told:?}");
    // Nothing crosses a threshold of 0.
    let mut conduct = Conduct::default();
    for n in 1..50 {
        conduct.note(&event(Kind::Call, json!({}), &["guard-tamper"]), n);
        assert_eq!(conduct.turn(usual, 0.0), Turn::Same);
    }
}

#[test]
fn what_is_learned_makes_usual_what_a_person_has_accepted_and_is_forgotten_again() {
    let mut baselines = Baselines::default();
    let mut deploys = Baseline::new("deployer");
    let mut weights = Shares::default();
    weights.add(Category::InfraChange, 60.0);
    weights.add(Category::Build, 40.0);
    deploys.learn(&weights, 100);
    let mut window = Window::default();
    for n in 0..40 {
        let category = if n % 2 == 0 {
            Category::InfraChange
        } else {
            Category::Build
        };
        window.note(category, n + 1);
    }
    let score = |baselines: &Baselines| {
        assess(&window, baselines.usual("deployer"))
            .unwrap()
            .score()
    };
    let before = score(&baselines);
    baselines.learn(&deploys).unwrap();
    let after = score(&baselines);
    assert!(after > before + 15, "{before} {after}");
    assert_eq!(baselines.source("deployer"), "1 session learned");
    assert_eq!(
        assess(&window, baselines.usual("another")).unwrap().score(),
        before
    );
    // As it is written and read again.
    let text = Baseline::to_toml(&baselines.learned()).unwrap();
    let again = Baselines::with_learned(Baseline::from_toml(&text).unwrap());
    assert_eq!(score(&again), after);
    assert!(baselines.forget("deployer") && !baselines.forget("deployer"));
    assert_eq!(score(&baselines), before);
}

#[test]
fn a_mistake_in_a_file_of_baselines_is_told_with_its_line() {
    let good = "version = 1\n[[baseline]]\nagent = \"x\"\nsessions = 1\nacts = 1\n[baseline.weights]\nbuild = 1.0\n";
    assert_eq!(Baseline::from_toml(good).unwrap().len(), 1);
    for (text, says) in [
        (good.replace("version = 1", "version = 2"), "version 2"),
        (good.replace("sessions = 1", "sesions = 1"), "line 4"),
        (good.replace("\"x\"", "\"\""), "1 to 64 characters"),
        (good.replace("build = 1.0", "build = 0.0"), "no weights"),
        (good.replace("build = 1.0", "build = -4.0"), "no weights"),
        (good.replace("build = 1.0", "build = inf"), "no weights"),
        (good.replace("build = 1.0", "build = \"much\""), "line"),
        ("nonsense".into(), "line 1"),
    ] {
        let said = Baseline::from_toml(&text).unwrap_err().to_string();
        assert!(
            said.contains(says) && !said.contains('\n'),
            "{text}: {said}"
        );
    }
    // What a later version calls otherwise.
    let other = Baseline::from_toml(&good.replace("build", "dreaming")).unwrap();
    assert!((other[0].weights.of(Category::Other) - 1.0).abs() < 1e-12);
}

#[test]
fn the_same_credential_again_is_not_another_one() {
    let open = |path: String| {
        let object = json!({ "path": path, "flags": "O_RDONLY" });
        event(Kind::Open, object, &["credential"])
    };
    let weight = |paths: &dyn Fn(u64) -> u64| {
        let mut conduct = Conduct::default();
        for n in 0..12 {
            conduct.note(&open(format!("/home/a/{}/.env", paths(n))), n + 1);
            let work = json!({ "argv": ["make"] });
            conduct.note(&event(Kind::Exec, work, &[]), n + 1);
        }
        conduct.whole.of(Category::Credential)
    };
    assert!(weight(&|_| 1) < 3.2, "{}", weight(&|_| 1));
    assert!((weight(&|n| n) - 12.0).abs() < 1e-9);
}

#[test]
fn the_number_of_agents_with_a_learned_baseline_is_bounded() {
    let mut baselines = Baselines::default();
    let mut weights = Shares::default();
    weights.add(Category::Build, 1.0);
    for n in 0..MAX_LEARNED {
        let mut one = Baseline::new(&format!("agent-{n}"));
        one.learn(&weights, 1);
        baselines.learn(&one).unwrap();
    }
    let mut more = Baseline::new("one-more");
    more.learn(&weights, 1);
    assert_eq!(baselines.learn(&more).unwrap_err(), BaselineError::Full);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_an_event_says_it_has_an_answer(
        kind in 0..Kind::ALL.len(),
        argv in prop::collection::vec(".{0,20}", 0..6),
        exe in prop::option::of(".{0,30}"),
        path in ".{0,40}",
        labels in prop::collection::vec("[a-z:/-]{0,12}", 0..3),
        port in any::<u64>(),
    ) {
        let mut odd = event(Kind::ALL[kind], json!({ "argv": argv, "path": path, "port": port, "count": port, "aws": path, "graphql": path }), &[]);
        odd.labels = labels;
        odd.exe = exe;
        let mut conduct = Conduct::default();
        let counted = conduct.note(&odd, port);
        prop_assert_eq!(counted, odd.kind == Kind::Lost || classify(&odd).is_some());
        odd.object = None;
        odd.argv = None;
        let _ = classify(&odd);
    }
}
