//! The figures: medians, ratios, targets; for people, for machines, and for docs/performance.md.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    CALLS, Call,
    rounds::{CONDITIONS, Condition, Idle, Results},
};

/// What every call is to cost at most under a condition, as a ratio to another; issue 2.
const TARGETS: [(Condition, Condition, f64); 3] = [
    (Condition::NoSession, Condition::Nothing, 1.02),
    (Condition::Elsewhere, Condition::Empty, 1.15),
    (Condition::Inside, Condition::Empty, 1.35),
];
/// Resident memory of an idle guardd, bytes.
const MAX_RSS: u64 = 25 << 20;
/// CPU time of an idle guardd that still counts as none, in milliseconds a second: the smallest share
/// that top(1) shows.
const MAX_IDLE_CPU: f64 = 1.0;

const BEGIN: &str = "<!-- bench: begin; written by `cargo xtask bench --write` -->";
const END: &str = "<!-- bench: end -->";

/// Smallest, middle and greatest of several.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { min, median, max })
    }

    fn json(self) -> Value {
        let Self { min, median, max } = self;
        json!({ "min": min, "median": median, "max": max })
    }
}

/// Results, ready to be shown.
pub(crate) struct Report {
    results: Results,
    kernel: String,
    machine: String,
    date: String,
}

impl Report {
    pub(crate) fn new(results: Results) -> Self {
        let uname = rustix::system::uname();
        Self {
            results,
            kernel: format!(
                "{} {}",
                uname.release().to_string_lossy(),
                uname.machine().to_string_lossy()
            ),
            machine: machine(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string(),
        }
    }

    /// Whether every condition was measured at least once.
    pub(crate) fn is_complete(&self) -> bool {
        self.results.idle.is_some()
            && CONDITIONS.into_iter().all(|condition| {
                (0..CALLS.len()).all(|call| {
                    !condition.has(CALLS[call])
                        || !self.results.calls.contains(&CALLS[call])
                        || self.spread(call, condition).is_some()
                })
            })
    }

    fn spread(&self, call: usize, condition: Condition) -> Option<Spread> {
        Spread::of(self.results.of(call, condition).into_iter().flatten())
    }

    /// Of the ratios within each round; where no round has both samples, that of the medians.
    fn ratio(&self, call: usize, of: Condition, to: Condition) -> Option<Spread> {
        let (above, below) = (self.results.of(call, of), self.results.of(call, to));
        let pairs = above.into_iter().zip(below);
        Spread::of(pairs.filter_map(|(above, below)| Some(above? / below?))).or_else(|| {
            let ratio = self.spread(call, of)?.median / self.spread(call, to)?.median;
            Spread::of(std::iter::once(ratio))
        })
    }

    fn target(condition: Condition) -> Option<(Condition, f64)> {
        TARGETS
            .into_iter()
            .find(|(of, _, _)| *of == condition)
            .map(|(_, to, target)| (to, target))
    }

    /// The command that takes the same figures.
    fn command(&self) -> String {
        let quick = if self.results.quick { " --quick" } else { "" };
        let mut command = format!("cargo xtask bench{quick} --rounds {}", self.results.rounds);
        if self.results.calls.len() < CALLS.len() {
            for call in &self.results.calls {
                command.push_str(" --only ");
                command.push_str(call.word());
            }
        }
        command
    }

    pub(crate) fn json(&self) -> Value {
        let calls: Vec<_> = CALLS
            .into_iter()
            .enumerate()
            .map(|(index, call)| self.json_of(index, call))
            .collect();
        let idle = self.results.idle.as_ref().map(|idle| {
            json!({
                "rss_bytes": idle.rss,
                "rss_target_bytes": MAX_RSS,
                "cpu_ns": u64::try_from(idle.cpu.as_nanos()).unwrap_or(u64::MAX),
                "during_s": idle.during.as_secs(),
                "ok": rss_ok(idle) && cpu_ok(idle),
            })
        });
        json!({
            "v": 1,
            "date": self.date,
            "machine": self.machine,
            "kernel": self.kernel,
            "command": self.command(),
            "rounds": self.results.rounds,
            "cpus": self.results.cpus.map(|(measured, guardd)| json!({ "measured": measured, "guardd": guardd })),
            "calls": calls,
            "idle": idle,
            "lost": self.results.lost,
            "disturbed": self.results.disturbed,
            "complete": self.is_complete(),
            "problems": self.results.problems,
            "notes": self.results.notes,
        })
    }

    fn json_of(&self, index: usize, call: Call) -> Value {
        let conditions: Vec<_> = CONDITIONS
            .into_iter()
            .filter_map(|condition| {
                let ns = self.spread(index, condition)?;
                let ratio = |to| self.ratio(index, condition, to).map(Spread::json);
                let target = Self::target(condition).map(|(to, target)| {
                    let reached = self.ratio(index, condition, to);
                    json!({
                        "to": to.word(),
                        "ratio": target,
                        "ok": reached.map(|ratio| ratio.median <= target),
                    })
                });
                Some(json!({
                    "condition": condition.word(),
                    "ns": ns.json(),
                    "samples_ns": self.results.of(index, condition),
                    "to_nothing": ratio(Condition::Nothing),
                    "to_empty": ratio(Condition::Empty),
                    "target": target,
                }))
            })
            .collect();
        json!({ "call": call.word(), "conditions": conditions })
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "{}, {}", self.machine, self.kernel)?;
        writeln!(
            text,
            "ns per call over {} rounds, clock scaled to its fastest; ratios within rounds",
            self.results.rounds
        )?;
        for (index, call) in CALLS.into_iter().enumerate() {
            if !self.results.calls.contains(&call) {
                continue;
            }
            writeln!(text)?;
            writeln!(
                text,
                "{:<28}{:>9}{:>9}{:>9}  {:>8}{:>8}",
                call.title(),
                "min",
                "median",
                "max",
                "/nothing",
                "/empty",
            )?;
            for condition in CONDITIONS {
                if !condition.has(call) {
                    continue;
                }
                write!(text, "  {:<26}", condition.title())?;
                let Some(spread) = self.spread(index, condition) else {
                    writeln!(text, "not measured")?;
                    continue;
                };
                let figures = [spread.min, spread.median, spread.max].map(ns);
                write!(
                    text,
                    "{:>9}{:>9}{:>9}  ",
                    figures[0], figures[1], figures[2]
                )?;
                for to in [Condition::Nothing, Condition::Empty] {
                    write!(text, "{:>8}", self.shown_ratio(index, condition, to))?;
                }
                if let Some((mark, target)) = self.mark(index, condition) {
                    write!(text, "  {mark} {target}")?;
                }
                writeln!(text)?;
            }
        }
        writeln!(text)?;
        if let Some(idle) = &self.results.idle {
            writeln!(text, "guardd idle, no session")?;
            for (what, figure, ok) in idle_lines(idle) {
                writeln!(text, "  {what:<26}{figure:<45}  {}", word(ok))?;
            }
        }
        writeln!(text, "records lost: {}", self.results.lost)?;
        for note in &self.results.notes {
            writeln!(text, "note: {note}")?;
        }
        for problem in &self.results.problems {
            writeln!(text, "NOT MEASURED: {problem}")?;
        }
        Ok(())
    }

    fn shown_ratio(&self, call: usize, of: Condition, to: Condition) -> String {
        match self.ratio(call, of, to) {
            Some(ratio) if of > to => format!("{:.3}", ratio.median),
            _ => String::new(),
        }
    }

    /// Whether a condition with a target reaches it, and the target.
    fn mark(&self, call: usize, condition: Condition) -> Option<(&'static str, String)> {
        let (to, target) = Self::target(condition)?;
        let ratio = self.ratio(call, condition, to)?;
        let name = if to == Condition::Nothing {
            "nothing"
        } else {
            "empty"
        };
        Some((
            word(ratio.median <= target),
            format!("(<= {target:.2} {name})"),
        ))
    }

    fn markdown(&self) -> String {
        let mut text = String::new();
        let _ = self.write_markdown(&mut text);
        text
    }

    fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "`{}`, {}  ", self.command(), self.date)?;
        writeln!(text, "{}, Linux {}", self.machine, self.kernel)?;
        writeln!(text)?;
        write!(text, "| median ns per call |")?;
        for call in CALLS {
            write!(text, " {} |", call.title())?;
        }
        writeln!(text)?;
        writeln!(text, "| --- |{}", " ---: |".repeat(CALLS.len()))?;
        for condition in CONDITIONS {
            write!(text, "| {} |", condition.title())?;
            for call in 0..CALLS.len() {
                match self.spread(call, condition) {
                    Some(spread) => write!(text, " {} |", ns(spread.median))?,
                    None => write!(text, " |")?,
                }
            }
            writeln!(text)?;
        }
        writeln!(text)?;
        write!(text, "| ratio | target |")?;
        for call in CALLS {
            write!(text, " {} |", call.title())?;
        }
        writeln!(text)?;
        writeln!(text, "| --- | ---: |{}", " ---: |".repeat(CALLS.len()))?;
        for (of, to, target) in TARGETS {
            write!(text, "| {} / {} | {target:.2} |", of.title(), to.title())?;
            for call in 0..CALLS.len() {
                match self.ratio(call, of, to) {
                    Some(ratio) => {
                        let mark = if ratio.median <= target { "" } else { " over" };
                        write!(text, " {:.3}{mark} |", ratio.median)?;
                    }
                    None => write!(text, " |")?,
                }
            }
            writeln!(text)?;
        }
        let (of, to) = (Condition::Labelled, Condition::Empty);
        write!(text, "| {} / {} | |", of.title(), to.title())?;
        for call in 0..CALLS.len() {
            write!(text, " {} |", self.shown_ratio(call, of, to))?;
        }
        writeln!(text)?;
        if let Some(idle) = &self.results.idle {
            writeln!(text)?;
            writeln!(text, "| guardd idle | | |")?;
            writeln!(text, "| --- | --- | --- |")?;
            for (what, figure, ok) in idle_lines(idle) {
                writeln!(text, "| {what} | {figure} | {} |", word(ok))?;
            }
        }
        writeln!(text)?;
        writeln!(
            text,
            "Times are scaled to the fastest clock that the core reached; ratios are medians of those \
             within a round. Records lost: {}.",
            self.results.lost
        )?;
        for line in self.results.notes.iter().chain(&self.results.problems) {
            writeln!(text, "Note: {line}.")?;
        }
        Ok(())
    }

    /// Puts the table between the markers of `file`, or at its end where it has none. The file is
    /// written in place: it belongs to whoever called, and we are root.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        let old = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error.into()),
        };
        let new = replaced(&old, &self.markdown())?;
        let mut file = fs::File::create(file)?;
        file.write_all(new.as_bytes())?;
        Ok(())
    }
}

/// `text` with `table` between its markers.
fn replaced(text: &str, table: &str) -> Result<String> {
    let Some((before, rest)) = text.split_once(BEGIN) else {
        let gap = if text.is_empty() { "" } else { "\n" };
        return Ok(format!("{text}{gap}{BEGIN}\n{table}{END}\n"));
    };
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("has `{BEGIN}` and no `{END}` behind it"))?;
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

fn rss_ok(idle: &Idle) -> bool {
    idle.rss <= MAX_RSS
}

fn cpu_ok(idle: &Idle) -> bool {
    cpu_share(idle) <= MAX_IDLE_CPU
}

/// Milliseconds of CPU a second.
fn cpu_share(idle: &Idle) -> f64 {
    idle.cpu.as_secs_f64() * 1e3 / idle.during.as_secs_f64()
}

fn idle_lines(idle: &Idle) -> [(&'static str, String, bool); 2] {
    let mib = idle.rss as f64 / f64::from(1 << 20);
    [
        (
            "resident memory",
            format!("{mib:.1} MiB (<= {} MiB)", MAX_RSS >> 20),
            rss_ok(idle),
        ),
        (
            "CPU time",
            format!(
                "{:.2} ms in {} s (<= {MAX_IDLE_CPU} ms a second)",
                idle.cpu.as_secs_f64() * 1e3,
                idle.during.as_secs(),
            ),
            cpu_ok(idle),
        ),
    ]
}

fn word(ok: bool) -> &'static str {
    if ok { "ok" } else { "OVER" }
}

/// Nanoseconds, with as many digits as mean something.
fn ns(ns: f64) -> String {
    if ns < 1000.0 {
        format!("{ns:.1}")
    } else {
        format!("{ns:.0}")
    }
}

/// Processor and how many of them.
fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix(key)?.trim().strip_prefix(':'))
            .map_or("unknown processor", str::trim)
    };
    let count = cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let virtual_machine = cpuinfo
        .lines()
        .any(|line| line.starts_with("flags") && line.split(' ').any(|flag| flag == "hypervisor"));
    let kind = if virtual_machine {
        ", virtual machine"
    } else {
        ""
    };
    format!("{}, {count} CPUs{kind}", value("model name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0].into_iter()).expect("values");
        assert_eq!(
            spread,
            Spread {
                min: 1.0,
                median: 2.5,
                max: 4.0
            }
        );
        assert_eq!(Spread::of(std::iter::empty()), None);
    }

    #[test]
    fn a_table_is_replaced_between_its_markers_and_added_where_there_are_none() {
        let first = replaced("# Title\n", "one\n").expect("no markers");
        assert_eq!(first, format!("# Title\n\n{BEGIN}\none\n{END}\n"));
        let again = replaced(&format!("{first}\nmore\n"), "two\n").expect("markers");
        assert_eq!(again, format!("# Title\n\n{BEGIN}\ntwo\n{END}\n\nmore\n"));
        assert!(replaced(BEGIN, "x").is_err());
    }
}
