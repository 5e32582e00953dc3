//! `guardctl ci`: a CI job as one session. `start` finds the runner's worker process, starts a guardd of the job's own and
//! a keeper that stays while the job runs, outside of the session; `stop` and `report` ask the keeper, since nobody inside
//! a session may decide anything about it.

mod args;
mod ask;
mod compose;
mod guardd;
mod keep;
mod report;
mod runner;
mod sources;
mod start;
mod tally;
mod worker;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

pub use self::args::CiCommand;
use self::{
    args::{DEFAULT_BASE, ReportArgs, StopArgs},
    ask::Question,
    report::Report,
};
use super::{Guardctl, escape, failure::Failure};

impl Guardctl<'_> {
    /// Does what `guardctl ci …` says.
    pub(super) fn ci(&mut self, command: &CiCommand) -> Result<u8, Failure> {
        match command {
            CiCommand::Start(args) => {
                let started = start::start(args, self.cli.json)?;
                self.print(&started)
            }
            CiCommand::Report(args) => {
                let dir = ask::directory(args.dir.as_deref(), Path::new(DEFAULT_BASE))?;
                let report = ask::ask(&dir, &Question::Report)?;
                self.tell(args, &report)
            }
            CiCommand::Stop(args) => {
                let dir = ask::directory(args.report.dir.as_deref(), Path::new(DEFAULT_BASE))?;
                let token = token(args, &dir)?;
                let report = ask::ask(&dir, &Question::Stop { token })?;
                self.tell(&args.report, &report)
            }
            CiCommand::Keep => keep::keep(),
        }
    }

    fn print(
        &mut self,
        (text, json, status): &(String, serde_json::Value, u8),
    ) -> Result<u8, Failure> {
        if self.cli.json {
            writeln!(self.out, "{}", escape::json(&json.to_string()))?;
        } else {
            self.out.write_all(text.as_bytes())?;
        }
        Ok(*status)
    }

    fn tell(&mut self, args: &ReportArgs, report: &Report) -> Result<u8, Failure> {
        if self.cli.json {
            let text =
                serde_json::to_string(report).map_err(|error| Failure::No(error.to_string()))?;
            writeln!(self.out, "{}", escape::json(&text))?;
        } else {
            self.out.write_all(report::for_people(report).as_bytes())?;
            if runner::annotates() && !args.no_annotations {
                for line in runner::annotations(&report.annotations()) {
                    writeln!(self.out, "{line}")?;
                }
            }
        }
        let given = args.summary.clone();
        let of_runner = || runner::variable("GITHUB_STEP_SUMMARY").map(PathBuf::from);
        if let Some(path) = given.or_else(of_runner) {
            let written = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .and_then(|mut file| file.write_all(report::summary(report).as_bytes()));
            written.map_err(|error| cannot_write(&path, &error))?;
        }
        if let Some(path) = &args.sarif {
            let location = runner::workflow_file().unwrap_or_else(|| ".guard/policy.toml".into());
            let log = report::sarif(report, &location);
            let mut text =
                serde_json::to_vec_pretty(&log).map_err(|error| Failure::No(error.to_string()))?;
            text.push(b'\n');
            fs::write(path, text).map_err(|error| cannot_write(path, &error))?;
        }
        Ok(u8::from(report.fails(args.fail_on)))
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Failure {
    Failure::No(format!(
        "{}: {error}: the report was not written there: give a file that can be written",
        path.display()
    ))
}

/// What shows that who asks for the end is who has begun it.
fn token(args: &StopArgs, dir: &Path) -> Result<String, Failure> {
    let read = |path: &Path| {
        fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .map_err(|error| {
                Failure::Forbidden(format!(
                    "{}: {error}: the watch ends with the job, or by who has the token that 'guardctl ci start' gave: call \
                     this as root, or from the action's own post step",
                    path.display()
                ))
            })
    };
    if let Some(path) = &args.token_file {
        return read(path);
    }
    match ["STATE_guard_token", "GUARD_CI_TOKEN"]
        .into_iter()
        .find_map(runner::variable)
    {
        Some(token) => Ok(token),
        None => read(&dir.join(ask::TOKEN)),
    }
}
