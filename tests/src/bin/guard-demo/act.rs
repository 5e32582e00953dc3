//! One act: the same incident against another policy, or with another answer.

use std::{
    ffi::OsStr,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::ExitStatus,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::{
    Programs,
    api::{self, Api, Facts},
    event::Event,
    guard::{self, Guard, RULE},
    interrupt,
    process::{self, LOOK, Process, send_lines},
    project,
    report::Narrator,
};

/// How long the agent may take, the person's answer included. Four acts of it are the 60 s that the
/// demo promises; they take about a second each.
const AGENT: Duration = Duration::from_secs(12);

/// How long an event may take from the kernel to whoever follows.
const DELIVERY: Duration = Duration::from_secs(3);

/// How long a process may take to be seen stopped after its hold was told.
const STOP: Duration = Duration::from_secs(1);

/// What a person says to a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    Approve,
    Deny,
}

/// What makes one act differ from the others.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Lines of at most 76 columns.
    pub(crate) told: &'static [&'static str],
    pub(crate) mode: &'static str,
    pub(crate) then: &'static str,
    pub(crate) answer: Option<Answer>,
    /// What is true at the end, in one line.
    pub(crate) moral: &'static str,
}

/// The four acts.
pub(crate) const ACTS: [Plan; 4] = [
    Plan {
        name: "observe",
        title: "observe: guard only watches",
        told: &[
            "The policy's mode is \"observe\": nothing is touched, and every verdict that",
            "would have been given is recorded. This is what happened at PocketOS.",
        ],
        mode: "observe",
        then: "hold",
        answer: None,
        moral: "The production volume is gone, as guard was told to let it.",
    },
    Plan {
        name: "hold-deny",
        title: "hold, and a person says no",
        told: &[
            "Now the rule is enforced: whoever reads a credential and then connects to",
            "the infrastructure is stopped inside that call, and a person is asked.",
        ],
        mode: "enforce",
        then: "hold",
        answer: Some(Answer::Deny),
        moral: "Not one byte of the request left; the production volume is alive.",
    },
    Plan {
        name: "hold-approve",
        title: "hold, and a person says yes",
        told: &[
            "The same stop, the other answer. The call goes on where it was stopped: the",
            "request arrives whole, and does what the person allowed.",
        ],
        mode: "enforce",
        then: "hold",
        answer: Some(Answer::Approve),
        moral: "The request arrived whole, after it had been approved.",
    },
    Plan {
        name: "kill",
        title: "kill: nobody is asked",
        told: &[
            "Where nobody can be asked, the rule kills: the process ends inside the call",
            "that completes the sequence.",
        ],
        mode: "enforce",
        then: "kill",
        answer: None,
        moral: "Not one byte of the request left; the production volume is alive.",
    },
];

/// What one act came to.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) act: &'static str,
    pub(crate) mode: &'static str,
    pub(crate) then: &'static str,
    pub(crate) answer: Option<Answer>,
    /// It ended as it should.
    pub(crate) ok: bool,
    /// What did not, one line each.
    pub(crate) problems: Vec<String>,
    /// What the server had seen while the call was held.
    pub(crate) server_while_held: Option<Facts>,
    /// What the server had seen at the end.
    pub(crate) server: Option<Facts>,
    /// What `guardctl pending` printed.
    pub(crate) pending: Option<String>,
    /// The hold, as `guardctl --json pending` has it.
    pub(crate) hold: Option<Value>,
    pub(crate) stop: Option<Stop>,
    pub(crate) agent: Option<AgentEnd>,
    /// What the agent said.
    pub(crate) said: Vec<String>,
    /// Everything that guard recorded.
    pub(crate) events: Vec<Event>,
    pub(crate) duration_ms: u64,
}

/// When the triggering call was stopped, or could have been.
#[derive(Debug, Serialize)]
pub(crate) struct Stop {
    pub(crate) verdict: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) would: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) tier: String,
    /// From the triggering call's entry into its hook to the act.
    pub(crate) latency_ns: Option<u64>,
    /// From the first read of the credential to the triggering call.
    pub(crate) since_credential_ns: Option<u64>,
}

/// How the agent ended, which is how its curl did.
#[derive(Debug, Serialize)]
pub(crate) struct AgentEnd {
    /// Status of `guardctl run`; 128+N when signal N ended curl.
    pub(crate) status: Option<i32>,
    /// Signal that ended curl.
    pub(crate) signal: Option<i32>,
}

impl AgentEnd {
    fn of(status: ExitStatus) -> Self {
        let code = status.code();
        Self {
            status: code,
            signal: code
                .filter(|code| *code > 128)
                .map(|code| code - 128)
                .or(status.signal()),
        }
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.status == Some(0)
    }
}

/// What happens while the agent runs.
enum News {
    Said(String),
    Complained(String),
    Saw(Event),
}

/// Plays `plan` in `dir`, an empty directory. An error says why it could not be played to its end;
/// an act that ended wrong is no error but a report with problems.
pub(crate) fn play(
    plan: &Plan,
    programs: &Programs,
    dir: &Path,
    narrator: &mut Narrator,
) -> Result<Report> {
    let started = Instant::now();
    let project = dir.join("project");
    fs::create_dir(&project).with_context(|| format!("{}", project.display()))?;
    project::write(&project)?;

    let api = Api::start(&programs.api, dir)?;
    let policy = guard::policy(plan.mode, plan.then, api.port);
    let mut guard = Guard::start(programs, dir, &policy)?;
    let mut report = Report {
        act: plan.name,
        mode: plan.mode,
        then: plan.then,
        answer: plan.answer,
        ..Report::default()
    };
    // From here on guardd's own words may explain what went wrong.
    let played = Scene {
        plan,
        api: &api,
        guard: &guard,
        narrator,
        report: &mut report,
    }
    .play(&programs.agent, &project);
    // First whatever the agent left, so that nothing held is let go on to the server.
    let strays = process::kill_strays(&[api.pid(), guard.pid()]);
    let stopped = guard.stop();
    played
        .and(strays)
        .and_then(|strays| {
            if !strays.is_empty() {
                report
                    .problems
                    .push(format!("left behind: {}", strays.join(", ")));
            }
            let status = stopped?;
            if !status.success() {
                report
                    .problems
                    .push(format!("guardd ended with {status} after SIGTERM"));
            }
            api.stop()
        })
        .map_err(|error| guard.explain(error))?;

    report.check(plan);
    report.ok = report.problems.is_empty();
    report.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    narrator.findings(&report, plan, &project);
    if !report.ok {
        narrator.log(&guard.log_tail());
    }
    Ok(report)
}

/// An act that is being played.
struct Scene<'a> {
    plan: &'a Plan,
    api: &'a Api,
    guard: &'a Guard,
    narrator: &'a mut Narrator,
    report: &'a mut Report,
}

impl Scene<'_> {
    fn play(&mut self, agent: &Path, project: &Path) -> Result<()> {
        let (sender, news) = mpsc::channel();
        let _follower = self.guard.follow(sender.clone(), News::Saw)?;
        let endpoint = format!("{}:{}", api::HOST, self.api.port);
        let args: [&OsStr; 5] = [
            project.as_os_str(),
            "--endpoint".as_ref(),
            endpoint.as_ref(),
            "--ca".as_ref(),
            self.api.ca.as_os_str(),
        ];
        let mut run = self.guard.run_agent(agent, &args)?;
        let stdout = run.child().stdout.take().context("no pipe")?;
        let stderr = run.child().stderr.take().context("no pipe")?;
        send_lines(stdout, sender.clone(), News::Said);
        send_lines(stderr, sender, News::Complained);

        let status = self.attend(&mut run, &news)?;
        self.report.agent = Some(AgentEnd::of(status));
        self.report.server = Some(self.api.final_facts()?);
        self.collect(&news)?;
        self.measure();
        Ok(())
    }

    /// Listens until the agent has ended, and answers its hold where the plan has an answer.
    fn attend(&mut self, run: &mut Process, news: &Receiver<News>) -> Result<ExitStatus> {
        let deadline = Instant::now() + AGENT;
        let mut answer = self.plan.answer;
        loop {
            self.take(news, Duration::from_millis(10));
            if self.trigger().is_some()
                && let Some(answer) = answer.take()
            {
                // What the agent said before its call is on its way through the pipe.
                self.take_all(news);
                self.answer(answer)?;
            }
            if let Some(status) = run.wait(Duration::ZERO)? {
                self.take_all(news);
                return Ok(status);
            }
            interrupt::check()?;
            if Instant::now() >= deadline {
                bail!("the agent still runs after {} s", AGENT.as_secs());
            }
        }
    }

    /// Shows the hold, proves that it holds, and answers it.
    fn answer(&mut self, answer: Answer) -> Result<()> {
        let deadline = Instant::now() + DELIVERY;
        let hold = loop {
            if let Some(hold) = self.guard.pending()?.into_iter().next() {
                break hold;
            }
            interrupt::check()?;
            if Instant::now() >= deadline {
                self.problem("an event says hold, but `guardctl pending` shows none");
                return Ok(());
            }
        };
        let id = hold["id"]
            .as_str()
            .context("guardctl --json pending: a hold without id")?;
        let pending = self.guard.call(&["pending"])?;
        self.narrator.pending(&pending);

        match hold["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()) {
            Some(pid) if process::is_stopped_within(pid, STOP)? => {}
            Some(pid) => self.problem(&format!("process {pid} is held but not stopped")),
            None => self.problem("guardctl --json pending: a hold without pid"),
        }
        let facts = self.api.facts()?;
        self.narrator.while_held(&facts);
        if !facts.is_untouched() {
            self.problem("the server was reached while the call was held");
        }
        self.report.server_while_held = Some(facts);

        let args: &[&str] = match answer {
            Answer::Approve => &["approve", id],
            Answer::Deny => &["deny", id, "--reason", "not part of the staging task"],
        };
        self.narrator.person(args);
        self.guard.call(args)?;
        self.report.pending = Some(pending);
        self.report.hold = Some(hold);
        Ok(())
    }

    /// Waits for the events that the act must have brought: they are told a little later.
    fn collect(&mut self, news: &Receiver<News>) -> Result<()> {
        let deadline = Instant::now() + DELIVERY;
        while !self.has_all_events() && Instant::now() < deadline {
            interrupt::check()?;
            self.take(news, LOOK);
        }
        self.take_all(news);
        Ok(())
    }

    fn has_all_events(&self) -> bool {
        let answered = |answer: Answer| {
            self.report
                .events
                .iter()
                .any(|e| e.is_answer(answer.word()))
        };
        self.trigger().is_some() && self.plan.answer.is_none_or(answered)
    }

    fn trigger(&self) -> Option<&Event> {
        self.report.trigger()
    }

    fn measure(&mut self) {
        let Some(trigger) = self.report.trigger() else {
            return;
        };
        let credential = self.report.first_credential();
        self.report.stop = Some(Stop {
            verdict: trigger.verdict().to_owned(),
            would: trigger.would().to_owned(),
            tier: trigger.tier().to_owned(),
            latency_ns: trigger.latency_ns(),
            since_credential_ns: credential.and_then(|event| trigger.ns_since(event)),
        });
    }

    /// Takes what comes within `timeout`; whether something did.
    fn take(&mut self, news: &Receiver<News>, timeout: Duration) -> bool {
        match news.recv_timeout(timeout) {
            Ok(News::Said(line)) => {
                self.narrator.agent(&line);
                self.report.said.push(line);
            }
            Ok(News::Complained(line)) => self.narrator.complaint(&line),
            Ok(News::Saw(event)) => self.report.events.push(event),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
        }
        true
    }

    /// Takes what is there, and what comes until nothing has for a moment.
    fn take_all(&mut self, news: &Receiver<News>) {
        while self.take(news, Duration::from_millis(20)) {}
    }

    fn problem(&mut self, text: &str) {
        self.report.problems.push(text.to_owned());
    }
}

impl Answer {
    /// How the record of it begins: approve, approved; deny, denied.
    const fn word(self) -> &'static str {
        match self {
            Self::Approve => "approv",
            Self::Deny => "den",
        }
    }
}

impl Report {
    /// The event of the call that completed the sequence.
    pub(crate) fn trigger(&self) -> Option<&Event> {
        self.events.iter().find(|event| event.is_trigger_of(RULE))
    }

    /// The event of the first read of the credential.
    pub(crate) fn first_credential(&self) -> Option<&Event> {
        self.events
            .iter()
            .find(|event| event.has_label("credential"))
    }

    /// Compares what was with what should have been.
    fn check(&mut self, plan: &Plan) {
        let mut problems = Vec::new();
        let mut expect = |met: bool, otherwise: &str| {
            if !met {
                problems.push(otherwise.to_owned());
            }
        };
        let verdict = self.stop.as_ref().map_or("", |stop| &stop.verdict);
        let would = self.stop.as_ref().map_or("", |stop| &stop.would);
        let end = self.agent.as_ref();
        let succeeded = end.is_some_and(AgentEnd::succeeded);

        expect(
            self.first_credential().is_some(),
            "no event tells of the credential being read",
        );
        expect(
            self.stop.is_some(),
            "no event tells that the rule acted on the connection",
        );
        expect(
            !self
                .events
                .iter()
                .any(|event| event.contains(project::TOKEN))
                && !self
                    .pending
                    .as_ref()
                    .is_some_and(|text| text.contains(project::TOKEN)),
            "the token stands unmasked in what guard recorded or showed",
        );
        if let Some(server) = &self.server {
            let arrived = server.requests == 1
                && server.malformed == 0
                && server.refused == 0
                && server.mutations == 1
                && server.last_request.as_ref().is_some_and(|request| {
                    request.bytes == server.application_bytes
                        && request.operation.as_deref() == Some("mutation volumeDelete")
                        && request.status == 200
                });
            if plan.mode == "observe" || plan.answer == Some(Answer::Approve) {
                expect(arrived, "the request did not arrive whole, once");
                expect(
                    !server.production_is_alive(),
                    "the production volume is still alive",
                );
                expect(succeeded, "curl did not succeed");
            } else {
                expect(
                    server.is_untouched(),
                    "the server was reached, or lost something",
                );
                expect(!succeeded, "curl succeeded");
            }
        }
        match (plan.mode, plan.answer) {
            ("observe", _) => {
                expect(verdict == "allow", "the verdict was not allow");
                expect(
                    would == "hold",
                    "what would have been is not recorded as hold",
                );
            }
            (_, Some(answer)) => {
                expect(verdict == "hold", "the verdict was not hold");
                expect(
                    self.events
                        .iter()
                        .any(|event| event.is_answer(answer.word())),
                    "no event records the answer",
                );
                expect(
                    self.pending.is_some(),
                    "the hold was never shown as pending",
                );
            }
            (_, None) => {
                expect(verdict == "kill", "the verdict was not kill");
                let signal = end.and_then(|end| end.signal);
                expect(signal == Some(9), "curl did not end by SIGKILL");
            }
        }
        self.problems.append(&mut problems);
    }
}
