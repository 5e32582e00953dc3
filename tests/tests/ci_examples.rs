//! The examples for CI, run as the runner of each runs them: their own lines, with `cargo` and the hosts of the test.

use std::{fs, net::Ipv4Addr, path::Path};

use guard_tests::{
    Place,
    ci::{Machine, Step, Web, ctl, own_network},
    dns::{NameServer, Stands},
    has_program,
};
use serde_json::{Map, Value};
use yaml_rust2::{Yaml, YamlLoader};

/// What a job of an example has around it.
struct Setting {
    place: Place,
    machine: Machine,
    /// Stands for what the examples allow.
    registry: Web,
    elsewhere: Web,
    _names: NameServer,
}

/// The job's `cargo`: one call needs what is allowed, the other one reaches for more.
const CARGO: &str = "#!/bin/sh
case $1 in
build) curl -sS -m 10 -o /dev/null http://index.crates.io:443/ && echo built ;;
test) curl -sS -m 10 -o /dev/null http://elsewhere.guard-ci.test:443/ || echo curl $? ;;
esac
";

impl Setting {
    /// `None` where this machine lacks what runners have.
    fn new(needed: &[&str]) -> Option<Self> {
        let all = ["unshare", "curl", "ip", "bash"];
        if !all.iter().chain(needed).all(|name| has_program(name)) {
            return None;
        }
        if std::env::var_os("GUARD_LABORATORY").is_some() {
            guard_tests::skipped("a virtual machine has not the sources, so no examples");
            return None;
        }
        own_network();
        let place = Place::new();
        let registry = Web::at("10.77.0.10:443");
        let elsewhere = Web::at("10.77.0.20:443");
        let server = NameServer::new(
            &[
                ("index.crates.io", Stands::For(Ipv4Addr::new(10, 77, 0, 10))),
                (
                    "elsewhere.guard-ci.test",
                    Stands::For(Ipv4Addr::new(10, 77, 0, 20)),
                ),
            ],
            false,
        );
        let machine = Machine::new(&place, "m", Some(&server));
        place.script("m/bin/cargo", CARGO);
        // The examples call it by its name, and leave the directory of jobs to it.
        let base = machine.base();
        place.script(
            "m/bin/guardctl",
            &format!(
                "#!/bin/sh\nverb=$2; shift 2\ncase $verb in\nstart) exec {0} ci start --base {1} \"$@\" ;;\n\
                 *) exec {0} ci $verb --dir {1}/* \"$@\" ;;\nesac\n",
                ctl(),
                base.display()
            ),
        );
        Some(Self {
            place,
            machine,
            registry,
            elsewhere,
            _names: server,
        })
    }

    /// What comes before each script of a runner.
    fn path(&self) -> String {
        format!("export PATH={}:$PATH\n", self.place.path("m/bin").display())
    }

    /// Only what is allowed was reached, and nothing of the watch is left.
    #[track_caller]
    fn was_kept(&self) {
        assert_eq!(self.registry.reached(), 1);
        assert_eq!(self.elsewhere.reached(), 0);
        self.machine.is_clean();
    }
}

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/ci")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn yaml(name: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(&example(name)).expect("YAML");
    assert_eq!(documents.len(), 1, "{name}");
    documents.remove(0)
}

fn lines(of: &Yaml) -> String {
    let lines: Vec<&str> = of
        .as_vec()
        .expect("a list")
        .iter()
        .map(|line| line.as_str().expect("a line"))
        .collect();
    assert!(!lines.is_empty());
    lines.join("\n") + "\n"
}

/// What the runner gives an action: words, whatever YAML takes them for.
fn with(of: &Yaml) -> Map<String, Value> {
    let said = of.as_hash().expect("a table");
    let word = |value: &Yaml| match value {
        Yaml::String(text) => text.clone(),
        Yaml::Boolean(is) => is.to_string(),
        Yaml::Integer(number) => number.to_string(),
        other => panic!("no word: {other:?}"),
    };
    said.iter()
        .map(|(key, value)| (word(key), word(value).into()))
        .collect()
}

/// A workflow as GitHub's runner and those of its kind run it. What fetches the sources and the package is left out.
fn workflow(name: &str, setting: &Setting) -> Vec<Step> {
    let document = yaml(name);
    let mut steps = Vec::new();
    for step in document["jobs"]["build"]["steps"].as_vec().expect("steps") {
        match (step["uses"].as_str(), step["run"].as_str()) {
            (Some(action), None) if action.contains("guard@") => {
                let mut with = with(&step["with"]);
                with.insert("guardctl".into(), ctl().into());
                with.insert(
                    "base".into(),
                    setting.machine.base().display().to_string().into(),
                );
                steps.push(Step::action(with.into()));
            }
            (Some(action), None) => assert!(action.contains("checkout@"), "{action}"),
            (None, Some(line)) if line.contains("dpkg -i") => {}
            (None, Some(line)) => {
                let id = line.split(' ').take(2).collect::<Vec<_>>().join(" ");
                steps.push(Step::run(&id, &(setting.path() + line)));
            }
            other => panic!("what is this step? {other:?}"),
        }
    }
    steps
}

#[test]
fn the_workflow_for_github_reaches_what_it_allows_and_fails_for_the_rest() {
    let Some(setting) = Setting::new(&["node"]) else {
        return;
    };
    let done = setting.machine.job(workflow("github.yml", &setting));
    assert_eq!(done.out("cargo build"), "built\n", "{done:#?}");
    assert_eq!(done.out("cargo test"), "curl 7\n", "{done:#?}");
    assert_eq!(done.step("post guard")["code"], 1, "{done:#?}");
    assert!(
        done.summary().contains("elsewhere.guard-ci.test"),
        "{done:#?}"
    );
    let sarif = fs::read_to_string(setting.machine.workspace().join("guard.sarif")).unwrap();
    assert!(sarif.contains("elsewhere.guard-ci.test"), "{sarif}");
    setting.was_kept();
}

#[test]
fn the_workflow_for_forgejo_passes_when_nothing_else_is_reached() {
    let Some(setting) = Setting::new(&["node"]) else {
        return;
    };
    let done = setting.machine.job(workflow("forgejo.yml", &setting));
    assert_eq!(done.conclusion(), "success", "{done:#?}");
    assert_eq!(done.out("cargo build"), "built\n", "{done:#?}");
    setting.was_kept();
}

/// The shell executor gives all lines of `before_script` and `script` to one login shell, by standard input and through
/// an `eval` in a pipe.
/// <https://gitlab.com/gitlab-org/gitlab-runner/-/blob/v18.0.0/shells/bash.go>
#[test]
fn the_job_for_gitlab_reaches_what_it_allows_and_fails_for_the_rest() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    let job = &yaml("gitlab.yml")["build"];
    let (machine, place) = (&setting.machine, &setting.place);
    let script = lines(&job["before_script"]) + &lines(&job["script"]);
    let script = place.file("m/script", &script);
    let shell = format!(
        "{}export GITLAB_CI=true CI_PROJECT_DIR={dir}\nset -eo pipefail\ncd {dir}\n: | eval \"$(cat {script})\"\nexit 0\n",
        setting.path(),
        dir = machine.workspace().display(),
        script = script.display(),
    );
    let shell = place.file("m/stdin", &shell);
    let runner = place.script(
        "m/run",
        &format!("bash --login <{}\necho status $?\n", shell.display()),
    );
    let named = place.program(Path::new("/bin/bash"), "m/gitlab-runner");
    let output = machine.command(&named).arg(runner).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("built\n") && said.contains("curl 7\n"),
        "{output:?}"
    );
    assert!(said.ends_with("status 1\n"), "{output:?}");
    for path in job["artifacts"]["paths"].as_vec().unwrap() {
        let path = machine.workspace().join(path.as_str().unwrap());
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("elsewhere.guard-ci.test"),
            "{}: {text}",
            path.display()
        );
    }
    setting.was_kept();
}

#[test]
fn the_lines_for_any_runner_watch_what_is_between_them() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    let text = example("any-runner.sh");
    let (first, last) = text
        .split_once("# … the job's steps …\n")
        .expect("the place of the steps");
    let place = &setting.place;
    let around = |line: &str| {
        format!(
            "{}export RUNNER_PID=$PPID STATE_DIR={}\n{line}",
            setting.path(),
            place.path("m/state").display()
        )
    };
    fs::create_dir_all(place.path("m/state")).unwrap();
    let done = setting.machine.job(vec![
        Step::run("start", &around(first)),
        Step::run("cargo build", &around("cargo build")),
        Step::run("cargo test", &around("cargo test")),
        Step::run("stop", &around(last)),
    ]);
    assert_eq!(done.out("cargo build"), "built\n", "{done:#?}");
    assert_eq!(done.out("cargo test"), "curl 7\n", "{done:#?}");
    assert_eq!(done.step("stop")["code"], 1, "{done:#?}");
    let summary = fs::read_to_string(setting.machine.workspace().join("guard.md")).unwrap();
    assert!(summary.contains("elsewhere.guard-ci.test"), "{summary}");
    setting.was_kept();
}
