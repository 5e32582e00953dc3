//! The incident of April 2026, step by step: what guard has to say at each of them, and that each alone would have been enough.
//! The agent is the demo's; its steps are a search for tokens, the reading of one in an unrelated file, and one `curl`.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use guard_tests::{
    Event, Guard, Place, Policy, Tool,
    api::ApiServer,
    eventually, fixture, has_program,
    secrets::{chance::Chance, kinds::RECIPES, made::value},
};
use serde_json::Value;

const API: &str = "api.guard-incident.test";
/// Where the agent looks; it is no file that any rule names.
const TOKEN_FILE: &str = "legacy/cli/.railway/config.json";
/// Nor any pattern of the built-in policy.
const UNRELATED_FILE: &str = "legacy/notes/old-project.json";
/// The API that the built-in policy knows.
const RAILWAY: &str = "backboard.railway.com";

struct Incident {
    api: &'static str,
    token_file: &'static str,
    place: Place,
    guard: Guard,
    server: ApiServer,
    ca: PathBuf,
}

/// The labels of the three steps, without rules.
fn steps() -> Policy {
    Policy::new()
        .argv("credential-hunt", &["grep ** TOKEN **"])
        .and(&format!(
            "[[label]]\nname = \"destructive\"\nrequests = [{{ host = {API:?}, graphql = \"mutation *Delete*\" }}]"
        ))
}

impl Incident {
    /// `None` where this machine lacks what the agent runs.
    fn new(policy: &str) -> Option<Self> {
        Self::of(policy, API, TOKEN_FILE)
    }

    fn of(policy: &str, api: &'static str, token_file: &'static str) -> Option<Self> {
        if !["grep", "curl"].into_iter().all(has_program) {
            return None;
        }
        let place = Place::new();
        let ca = place.path("ca.pem");
        let server = ApiServer::tls(&[api], &ca);
        let railway = RECIPES
            .iter()
            .find(|one| one.provider == "railway" && one.kind == "api-token")
            .unwrap();
        let token = value(railway.recipe, &mut Chance::new(40));
        place.file(
            "shop/scripts/check-staging.sh",
            "echo 'staging: 401: credential mismatch' >&2\nexit 1\n",
        );
        place.file(
            &format!("shop/{token_file}"),
            &format!(
                "{{\n  \"project\": \"volume-cleanup\",\n  \"RAILWAY_TOKEN\": \"{token}\"\n}}\n"
            ),
        );
        let guard = Guard::new(&place, policy);
        Some(Self {
            api,
            token_file,
            place,
            guard,
            server,
            ca,
        })
    }

    fn command(&self, program: PathBuf) -> Command {
        let mut command = self.guard.run(&["--agent", "x"], program);
        command.current_dir(self.place.path("shop"));
        command
    }

    /// The same where guard has found out what is in the file before the agent comes.
    fn with_the_file_known(policy: &Policy) -> Option<(Self, Tool)> {
        let known = steps().rule("known", &["secret:railway"], "flag", "");
        let incident = Self::new(&known)?;
        let tool = incident.have_the_file_looked_into();
        fs::write(incident.guard.policy(), policy.to_string()).unwrap();
        incident.guard.must(&["policy", "reload"]);
        Some((incident, tool))
    }

    /// A session that opens the file until guard knows what is in it.
    fn have_the_file_looked_into(&self) -> Tool {
        let (guard, file) = (&self.guard, self.place.path("shop").join(self.token_file));
        let mut tool = Tool::start(self.command(fixture("guard-fixture-tool")));
        // One open after the other: what came late of one would be judged by the policy that follows.
        let mut told = 0;
        loop {
            tool.must(&format!("open openat {}", file.display()));
            let event = eventually("the file is looked into", || {
                let events = guard.events_now();
                let found = |event: &&Event| event.has("secret") || event.has("secret:railway");
                events.iter().filter(found).nth(told).cloned()
            });
            told += 1;
            if event["object"]["late"] != true {
                return tool;
            }
        }
    }

    fn agent(&self) -> Child {
        let mut command = self.command(fixture("guard-fixture-agent"));
        command
            .arg(self.place.path("shop"))
            .args([
                "--endpoint",
                &format!("{}:{}", self.api, self.server.port()),
            ])
            .args(["--token-file", self.token_file])
            .arg("--ca")
            .arg(&self.ca)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// The agent's end: the volume is there, since nothing of any request has left. (What opens an HTTP/2 connection has.)
    #[track_caller]
    fn came_to_nothing(&self, agent: Child) {
        let output = agent.wait_with_output().unwrap();
        assert!(!output.status.success(), "{output:?}");
        assert_eq!(self.server.begun(), 0, "{output:?}");
        assert!(self.server.bytes() <= 64, "{output:?}");
    }
}

/// A hold whose evidence has an event of this label.
#[track_caller]
fn names(hold: &Value, label: &str, what: &str) {
    let evidence = hold["evidence"].as_array().unwrap();
    let event = evidence
        .iter()
        .find(|event| {
            event["labels"]
                .as_array()
                .is_some_and(|labels| labels.contains(&label.into()))
        })
        .unwrap_or_else(|| panic!("{label} is not in the evidence: {hold:#}"));
    assert!(event.to_string().contains(what), "{what}: {event:#}");
}

#[test]
fn the_search_alone_is_enough() {
    let policy = steps().rule("searched", &["credential-hunt"], "hold", "timeout = \"5m\"");
    let Some(incident) = Incident::new(&policy) else {
        return;
    };
    let agent = incident.agent();
    let hold = incident.guard.deny(&[]);
    assert_eq!(hold["rule"], "searched", "{hold}");
    names(&hold, "credential-hunt", "TOKEN");
    incident.came_to_nothing(agent);
}

#[test]
fn the_token_in_an_unrelated_file_alone_is_enough() {
    let policy = steps().rule("found", &["secret:railway"], "hold", "timeout = \"5m\"");
    let Some((incident, _other)) = Incident::with_the_file_known(&policy) else {
        return;
    };
    let agent = incident.agent();
    // The search reads the file too; somebody lets it, and is asked again when the agent takes the token.
    let hold = incident.guard.approve(&[]);
    assert_eq!(hold["rule"], "found", "{hold}");
    names(&hold, "secret:railway", TOKEN_FILE);
    let hold = eventually("the next hold", || {
        let holds = incident.guard.holds();
        holds.into_iter().find(|other| other["id"] != hold["id"])
    });
    assert!(hold["argv"].to_string().contains("cat"), "{hold}");
    names(&hold, "secret:railway", TOKEN_FILE);
    incident.guard.deny(&[]);
    incident.came_to_nothing(agent);
}

#[test]
fn the_request_alone_is_enough() {
    let policy = steps().rule("deletes", &["destructive"], "hold", "timeout = \"5m\"");
    let Some(incident) = Incident::new(&policy) else {
        return;
    };
    let agent = incident.agent();
    let hold = incident.guard.deny(&[]);
    assert_eq!(hold["rule"], "deletes", "{hold}");
    names(&hold, "destructive", "volumeDelete");
    incident.came_to_nothing(agent);
}

/// The policy that everybody has who writes none.
#[test]
fn the_built_in_policy_asks_about_an_agent_that_found_a_token_in_a_file_that_no_pattern_names() {
    let Some(incident) = Incident::of(&Policy::built_in(), RAILWAY, UNRELATED_FILE) else {
        return;
    };
    let _other = incident.have_the_file_looked_into();
    let agent = incident.agent();
    // Somebody lets it reach the provider, which it may have to, and is shown what it asks for there.
    let hold = incident.guard.approve(&[]);
    assert_eq!(hold["rule"], "secret-hunted-then-infra", "{hold}");
    names(&hold, "credential-hunt", "TOKEN");
    names(&hold, "secret", UNRELATED_FILE);
    let hold = eventually("the next hold", || {
        let holds = incident.guard.holds();
        holds.into_iter().find(|other| other["id"] != hold["id"])
    });
    assert_eq!(hold["rule"], "secret-then-destructive-request", "{hold}");
    names(&hold, "secret", UNRELATED_FILE);
    names(&hold, "destructive-request", "volumeDelete");
    incident.guard.deny(&[]);
    incident.came_to_nothing(agent);
}

/// And what it must not get in the way of: whoever has read a password of the tree reads on, and asks the provider for a list.
#[test]
fn the_built_in_policy_lets_a_session_work_whose_tree_has_a_secret_in_it() {
    let Some(incident) = Incident::of(&Policy::built_in(), RAILWAY, UNRELATED_FILE) else {
        return;
    };
    let mut tool = incident.have_the_file_looked_into();
    let mut read = incident.command("/bin/sh".into());
    let url = format!("https://{RAILWAY}:{}/graphql/v2", incident.server.port());
    read.arg("-c").arg(format!(
        "cat {UNRELATED_FILE} >/dev/null && exec curl -sS --max-time 60 --noproxy '*' --resolve {RAILWAY}:{}:127.0.0.1 \
         --cacert {} -H 'Content-Type: application/json' --data '{{\"query\": \"query {{ projects {{ id }} }}\"}}' {url}",
        incident.server.port(),
        incident.ca.display()
    ));
    let output = read.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(incident.server.begun(), 1);
    let guard = &incident.guard;
    assert!(guard.holds().is_empty(), "{:#?}", guard.holds());
    eventually("what it has done is told", || {
        let events = guard.events_now();
        let told = |rule: &str| events.iter().any(|event| event["rule"] == rule);
        (told("secret-opened") && told("secret-then-infra")).then_some(())
    });
    tool.must(&format!("open openat {}", incident.ca.display()));
}

#[test]
fn together_the_first_steps_are_told_and_the_last_is_held_with_all_of_them_as_its_reason() {
    let policy = steps()
        .rule("searched", &["credential-hunt"], "flag", "")
        .rule("found", &["secret:railway"], "flag", "")
        .rule(
            "incident",
            &["credential-hunt", "secret:railway", "destructive"],
            "hold",
            "within = \"10m\"\ntimeout = \"5m\"",
        );
    let Some((incident, _other)) = Incident::with_the_file_known(&policy) else {
        return;
    };
    let agent = incident.agent();
    let hold = incident.guard.deny(&[]);
    assert_eq!(hold["rule"], "incident", "{hold}");
    names(&hold, "credential-hunt", "TOKEN");
    names(&hold, "secret:railway", TOKEN_FILE);
    names(&hold, "destructive", "volumeDelete");
    let told = incident.guard.events_now();
    for (rule, kind) in [("searched", "exec"), ("found", "open")] {
        let is_told = |event: &Event| {
            event.is(kind) && event["rule"] == rule && event["session"] == hold["session"]
        };
        let event = told.iter().find(|event| is_told(event));
        let event = event.unwrap_or_else(|| panic!("{rule} was not told: {told:#?}"));
        assert_eq!(event["verdict"], "flag", "{event:?}");
    }
    incident.came_to_nothing(agent);
}
