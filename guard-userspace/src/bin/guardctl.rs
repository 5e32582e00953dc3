//! guardctl: the command-line client. All of it is in [`guard::cli`]; here it is only given what it
//! does without the daemon.

use std::{
    io,
    path::Path,
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use guard::{
    cli::{
        self, Events, Finding, InitArgs, Lacking, Offline, ScanArgs, ScanReport, TestCase,
        TestEvent, TestReport, Unreadable, VerifyReport,
    },
    doctor, init,
    journal::{Against, Journal},
    policy::{Homes, Policy, cases, files, judge::Ruling, schema, users},
    replay::{Replay, Replayed},
    secrets::{FileOutcome, FileReport, Keyed, Limits, Scanner, TreeOptions},
    suggest::{Suggest, Suggested},
};

fn main() -> ExitCode {
    cli::main(&Offline {
        policy_check,
        policy_test,
        schema: schema::text,
        init,
        doctor: doctor::examine,
        verify,
        replay,
        scan,
        suggest,
        journal,
    })
}

fn policy_check(path: &Path) -> Result<String, String> {
    if let Some(checked) = users::check(path) {
        let rules = checked.map_err(|error| error.to_string())?;
        let s = if rules == 1 { "" } else { "s" };
        return Ok(format!(
            "{}: ok: a user's own file that adds {rules} rule{s} to the machine's policy",
            path.display()
        ));
    }
    let policy = files::check(path).map_err(|error| error.to_string())?;
    let mut text = format!(
        "{}: ok: {} agents, {} labels, {} rules",
        path.display(),
        policy.agents.len(),
        policy.labels.len(),
        policy.rules.len()
    );
    if policy.parts.len() > 1 {
        text.push_str(&format!(" in {} files", policy.parts.len()));
        for part in &policy.parts {
            text.push_str(&format!("\n  {}", part.source));
        }
    }
    Ok(text)
}

fn policy_test(file: &Path, policy: Option<&Path>) -> Result<TestReport, String> {
    let outcomes = cases::test(file, policy).map_err(|error| error.to_string())?;
    let cases: Vec<TestCase> = outcomes.into_iter().map(tested).collect();
    let passed = cases.iter().filter(|case| case.passed).count();
    Ok(TestReport {
        passed,
        failed: cases.len() - passed,
        cases,
    })
}

fn tested(outcome: cases::Outcome) -> TestCase {
    let passed = outcome.passed();
    let event = |(step, ruling, wrong): (cases::Step, Ruling, Vec<String>)| TestEvent {
        line: step.line,
        what: step.what,
        labels: ruling.labels,
        verdict: ruling.verdict.name().into(),
        would: (ruling.would != ruling.verdict).then(|| ruling.would.name().into()),
        rule: ruling.rule,
        lacking: ruling
            .lacking
            .into_iter()
            .map(|(rule, label)| Lacking { rule, label })
            .collect(),
        wrong,
    };
    TestCase {
        name: outcome.name,
        passed,
        events: outcome.events.into_iter().map(event).collect(),
    }
}

fn init(args: &InitArgs) -> Result<String, String> {
    init::init(&init::Options {
        directory: args.directory.clone(),
        yes: args.yes,
        print: args.print,
        force: args.force,
        mode: args.mode,
        agents: args.agents.clone(),
        answer: args.answer.clone(),
        notify: args.notify.clone(),
        passwd: "/etc/passwd".into(),
        group: "/etc/group".into(),
        sessions: "/run/user".into(),
        drop_in: "/usr/share/doc/guard/desktop.conf".into(),
    })
}

fn verify(state_dir: &Path, against: &Against) -> Result<VerifyReport, String> {
    let found = Journal::verify(state_dir, against).map_err(|error| error.to_string())?;
    let mut message = format!(
        "{}: the chain of {} events in {} segments is whole, up to number {}",
        state_dir.display(),
        found.events,
        found.segments,
        found.last_seq
    );
    let mut line = |text: String| {
        message.push('\n');
        message.push_str(&text);
    };
    if let Some(removed) = &found.removed {
        let first = found.first_seq;
        line(format!(
            "begins at event {first}: what was before was removed by retention on {removed}"
        ));
    }
    let gone = against
        .expect
        .iter()
        .filter(|(seq, _)| *seq < found.first_seq);
    for (seq, _) in gone {
        line(format!(
            "event {seq} cannot be compared: it is among those that retention removed"
        ));
    }
    if found.signed_seq == 0 {
        line("not signed: whoever can write its files could have written it anew".into());
    } else {
        let after = found.last_seq.saturating_sub(found.signed_seq);
        let newer = match after {
            0 => String::new(),
            n => format!(", the {n} after it not yet"),
        };
        line(format!(
            "signed up to event {}{newer}, with {} checkpoints",
            found.signed_seq, found.checkpoints
        ));
    }
    if let Some(key) = &found.key {
        let whose = if found.key_unknown {
            " (by the journal itself: nobody here vouches for it; compare, or give --key)"
        } else {
            ""
        };
        line(format!("key {key}{whose}"));
    }
    line(format!("head {}:{}", found.last_seq, found.head));
    Ok(VerifyReport {
        message,
        events: found.events,
        segments: found.segments,
        first_seq: found.first_seq,
        removed: found.removed,
        last_seq: found.last_seq,
        head: found.head,
        checkpoints: found.checkpoints,
        signed_seq: found.signed_seq,
        key: found.key.map(|key| key.to_string()),
        key_unknown: found.key_unknown,
        partial_bytes: found.partial_bytes,
    })
}

fn replay(events: Events, policy: &Path, session: Option<&str>) -> Result<Replayed, String> {
    let policy = files::check(policy).map_err(|error| error.to_string())?;
    let mut replay =
        Replay::new(&policy, &Homes::from_system(), session).map_err(|error| error.to_string())?;
    for event in events {
        match event {
            Ok(event) => replay.add(&event),
            Err(_) => replay.unreadable(),
        }
    }
    Ok(replay.finish())
}

fn suggest(events: Events, policy: Option<&Path>) -> Result<Suggested, String> {
    let policy = match policy {
        Some(path) => files::check(path).map_err(|error| error.to_string())?,
        None => Policy::built_in(),
    };
    let mut suggest = Suggest::new(&policy);
    // A line that cannot be read is told by 'guardctl verify'.
    for event in events.flatten() {
        suggest.add(&event);
    }
    Ok(suggest.finish())
}

fn journal(state_dir: &Path) -> Result<Events, String> {
    let events = Journal::read(state_dir, 0).map_err(|error| error.to_string())?;
    Ok(Box::new(
        events.map(|event| event.map_err(|error| error.to_string())),
    ))
}

/// With guardd's key where that may be read, so that hashes compare with those of its events; else with one that is gone
/// afterwards. A scan makes none: it leaves nothing behind.
fn scan(args: &ScanArgs) -> Result<ScanReport, String> {
    let (keyed, key) = match Keyed::load(&args.state_dir) {
        Ok(Some(keyed)) => (keyed, "state"),
        // Not everybody may; that is no mistake.
        Ok(None) | Err(_) => {
            let random = Keyed::random().map_err(|error| {
                format!("the kernel gives no random numbers: {error}: nothing was searched")
            })?;
            (random, "run")
        }
    };
    let scanner = Scanner::built_in(keyed).map_err(|error| error.to_string())?;
    let options = TreeOptions {
        limits: Limits {
            bytes: args.max_size,
        },
        threads: args.threads,
        everything: args.all,
    };
    let reports = Mutex::new(Vec::new());
    let summary = scanner.scan_tree(&args.paths, &options, &|report: FileReport| {
        reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(report);
    });
    let mut reports = reports.into_inner().unwrap_or_else(PoisonError::into_inner);
    reports.sort_by(|one, other| one.path.cmp(&other.path));
    // What was named twice is told once.
    reports.dedup_by(|one, other| one.path == other.path);
    let (mut findings, mut unreadable, mut in_fixtures) = (Vec::new(), Vec::new(), 0);
    for FileReport {
        path,
        outcome,
        found,
    } in reports
    {
        match outcome {
            FileOutcome::Searched { seen, .. } => {
                for found in found {
                    if found.fixture && !args.all {
                        in_fixtures += 1;
                    } else {
                        let (path, dev, ino) = (path.clone(), seen.dev, seen.ino);
                        findings.push(Finding {
                            path,
                            dev,
                            ino,
                            found,
                        });
                    }
                }
            }
            FileOutcome::Failed(error) => unreadable.push(Unreadable {
                path,
                why: reason(&error),
            }),
            FileOutcome::Binary(_) | FileOutcome::Special | FileOutcome::Gone => {}
        }
    }
    Ok(ScanReport {
        findings,
        in_fixtures,
        unreadable,
        summary,
        key,
        max_size: args.max_size as u64,
    })
}

/// As other programs tell it.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ")
        .next()
        .unwrap_or_default()
        .to_owned()
}
