//! What is shown to people: at most 80 columns, colour only on a terminal.

use std::{
    env,
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
};

use crate::{
    act::{AgentEnd, Plan, Report},
    api::{BACKUPS, Facts, VOLUMES},
    event::Event,
};

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const CYAN: &str = "36";

/// Tells the story, or with `--json` nothing.
pub(crate) struct Narrator {
    silent: bool,
    colour: bool,
    /// The act's number, from 1; the story up to the call is told in full once.
    act: usize,
    /// The agent has come to its last step.
    last_step: bool,
}

/// How the agent's last step begins, the one with the call.
const LAST_STEP: &str = "[4/4]";

/// The most that is shown of what an event is about, in columns.
const OBJECT: usize = 24;

impl Narrator {
    pub(crate) fn new(silent: bool) -> Self {
        Self {
            silent,
            colour: io::stdout().is_terminal()
                && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            act: 0,
            last_step: false,
        }
    }

    fn line(&self, text: impl Display) {
        if !self.silent {
            // A reader that has gone away is no reason to leave an act half played.
            let _ = writeln!(io::stdout(), "{text}");
        }
    }

    fn paint(&self, code: &str, text: impl Display) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }

    /// A line with who says it in the margin.
    fn margin(&self, code: &str, who: &str, text: impl Display) {
        self.line(format_args!(
            "  {} {text}",
            self.paint(code, format_args!("{who:>6} |"))
        ));
    }

    pub(crate) fn opening(&self) {
        self.line(self.paint(
            BOLD,
            "guard demo: an agent finds a token and reaches for production",
        ));
        self.line("");
        for text in [
            "A coding agent is asked to repair a staging deployment. It lacks the right",
            "credential, searches the disk for another, finds a token in an unrelated",
            "file, and deletes a volume with one curl. That is how PocketOS lost its",
            "production data. Here it happens four times, each time under another policy:",
            "real grep, cat and curl, real TLS, and a server on the loopback that counts",
            "what reaches it. The agent's script is fixed; guard does not know it.",
        ] {
            self.line(format_args!("  {text}"));
        }
    }

    pub(crate) fn act(&mut self, number: usize, of: usize, plan: &Plan) {
        self.act = number;
        self.last_step = false;
        self.line("");
        let title = format!("--- Act {number} of {of}: {} ", plan.title);
        self.line(self.paint(BOLD, format_args!("{title:-<80}")));
        for text in plan.told {
            self.line(format_args!("  {text}"));
        }
        self.line("");
    }

    pub(crate) fn agent(&mut self, line: &str) {
        self.last_step |= line.starts_with(LAST_STEP);
        // The first three steps are the same in every act: after the first their headings do.
        if self.act == 1 || self.last_step || line.starts_with('[') {
            self.margin(CYAN, "agent", line);
        }
    }

    pub(crate) fn complaint(&self, line: &str) {
        self.margin(RED, "stderr", line);
    }

    pub(crate) fn pending(&self, text: &str) {
        self.margin(
            YELLOW,
            "guard",
            "curl is stopped inside connect(2). `guardctl pending` prints:",
        );
        self.line("");
        if !self.silent {
            let _ = writeln!(io::stdout(), "{}", text.trim_end());
        }
        self.line("");
    }

    pub(crate) fn while_held(&self, facts: &Facts) {
        let bytes = facts.application_bytes;
        let text = format!(
            "while it is held: {bytes} bytes of data, {} requests",
            facts.requests
        );
        self.margin(GREEN, "server", text);
    }

    pub(crate) fn person(&self, args: &[&str]) {
        let args: Vec<_> = args
            .iter()
            .map(|arg| match arg.contains(' ') {
                true => format!("'{arg}'"),
                false => (*arg).to_owned(),
            })
            .collect();
        self.margin(BOLD, "person", format_args!("guardctl {}", args.join(" ")));
    }

    /// The facts that an act ends with.
    pub(crate) fn findings(&self, report: &Report, plan: &Plan, project: &Path) {
        self.line("");
        self.line("  What guard recorded, from the first read of the credential:");
        let first = report.first_credential();
        for event in report.events.iter().filter(|event| is_of_interest(event)) {
            let at = first
                .and_then(|first| event.ns_since(first))
                .map_or_else(String::new, ms);
            let object = event.object();
            let object = object
                .strip_prefix(&*project.to_string_lossy())
                .map_or(&*object, |path| path.trim_start_matches('/'));
            let verdict = match (event.verdict(), event.would()) {
                (verdict, "") => verdict.to_owned(),
                (_, would) => format!("would {would}"),
            };
            let line = format!(
                "  {at:>11}  {:<5} {:<7} {:<OBJECT$}  {:<10}  {}",
                event.program(),
                event.kind(),
                tail(object),
                event.labels().join(","),
                self.paint(colour_of(event), verdict),
            );
            self.line(line.trim_end());
        }
        if let Some(server) = &report.server {
            self.line("  What reached the server:");
            self.line(format_args!(
                "    {}, {}, {} ({} of data), {}",
                count(server.connections, "connection"),
                count(server.handshakes, "TLS handshake"),
                count(server.wire_bytes, "byte"),
                server.application_bytes,
                count(server.requests, "request"),
            ));
            self.line(format_args!(
                "    volumes alive: {} of {VOLUMES}, backups alive: {} of {BACKUPS}",
                server.volumes_alive, server.backups_alive
            ));
        }
        if let Some(stop) = &report.stop {
            let could = plan.mode == "observe";
            self.line(format_args!(
                "  How soon it {}:",
                if could {
                    "could have been stopped"
                } else {
                    "was stopped"
                }
            ));
            let (latency, credential) = (stop.latency_ns.map(ns), stop.since_credential_ns.map(ns));
            let unknown = || "not known".to_owned();
            self.line(format_args!(
                "    {} after the call began, {} after the credential was first read",
                latency.unwrap_or_else(unknown),
                credential.unwrap_or_else(unknown),
            ));
        }
        if let Some(agent) = &report.agent {
            self.line(format_args!("  How it ended for curl: {}", ending(agent)));
        }
        self.line("");
        if report.ok {
            self.line(format_args!("  {} {}", self.paint(GREEN, "ok"), plan.moral));
        }
        for problem in &report.problems {
            self.line(format_args!("  {} {problem}", self.paint(RED, "WRONG")));
        }
    }

    pub(crate) fn log(&self, log: &str) {
        self.line(format_args!("  {log}"));
    }

    /// All acts in one table.
    pub(crate) fn summary(&self, reports: &[Report], seconds: f64) {
        self.line("");
        self.line(self.paint(BOLD, format_args!("{:-<80}", "--- The four acts ")));
        self.line(format_args!(
            "  {:<13} {:<18} {:>5} {:>8}  {:<7} {:<7} {}",
            "act", "verdict", "bytes", "requests", "volumes", "backups", "curl"
        ));
        for report in reports {
            let verdict = match (&report.stop, report.answer) {
                (None, _) => "none".to_owned(),
                (Some(stop), _) if !stop.would.is_empty() => {
                    format!("{} (would {})", stop.verdict, stop.would)
                }
                (Some(stop), Some(_)) => format!("{}, then {}", stop.verdict, report.answered()),
                (Some(stop), None) => stop.verdict.clone(),
            };
            let Some(server) = &report.server else {
                continue;
            };
            let curl = report.agent.as_ref().map(ending).unwrap_or_default();
            self.line(format_args!(
                "  {:<13} {verdict:<18} {:>5} {:>8}  {:<7} {:<7} {curl}{}",
                report.act,
                server.application_bytes,
                server.requests,
                format!("{} of {VOLUMES}", server.volumes_alive),
                format!("{} of {BACKUPS}", server.backups_alive),
                if report.ok { "" } else { "  WRONG" },
            ));
        }
        self.line("");
        let wrong = reports.iter().filter(|report| !report.ok).count();
        if wrong == 0 {
            let text = format!(
                "Every act ended as it should, in {seconds:.1} s. Nothing was left behind."
            );
            self.line(self.paint(GREEN, text));
        } else {
            let text = format!("{} did not end as it should.", count(wrong as u64, "act"));
            self.line(self.paint(RED, text));
        }
    }
}

impl Report {
    fn answered(&self) -> &'static str {
        use crate::act::Answer;
        match self.answer {
            Some(Answer::Approve) => "approved",
            Some(Answer::Deny) => "denied",
            None => "",
        }
    }
}

/// What a reader of the timeline needs: the labelled calls, and what people did about them.
fn is_of_interest(event: &Event) -> bool {
    match event.kind() {
        "hold" | "answer" | "lost" => true,
        _ => !event.labels().is_empty(),
    }
}

fn colour_of(event: &Event) -> &'static str {
    match (event.verdict(), event.would()) {
        ("kill" | "deny" | "hold", _) => RED,
        (_, "kill" | "deny" | "hold") => YELLOW,
        _ => DIM,
    }
}

fn ending(agent: &AgentEnd) -> String {
    match (agent.signal, agent.status) {
        (Some(9), _) => "killed".to_owned(),
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(0)) => "success".to_owned(),
        (None, Some(status)) => format!("error {status}"),
        (None, None) => "unknown".to_owned(),
    }
}

fn count(n: u64, what: &str) -> String {
    if n == 1 {
        format!("1 {what}")
    } else {
        format!("{n} {what}s")
    }
}

/// The end of `text`, as much as is shown.
fn tail(text: &str) -> String {
    let length = text.chars().count();
    if length <= OBJECT {
        return text.to_owned();
    }
    let end = text.chars().skip(length - (OBJECT - 3));
    "...".chars().chain(end).collect()
}

fn ms(ns: u64) -> String {
    format!("{:.2} ms", ns as f64 / 1e6)
}

/// A duration in the unit that suits it.
fn ns(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..10_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        _ => ms(ns),
    }
}
