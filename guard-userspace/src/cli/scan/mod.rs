//! `guardctl scan`: secrets in files, for people, as JSON and as SARIF.

mod sarif;

use std::{num::NonZero, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{Guardctl, escape, failure::Failure, render::table::Table, screen::Screen};
use crate::secrets::{Found, TreeSummary};

/// Files that could not be read are named up to this number.
const NAMED: usize = 10;

/// What `scan` takes.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 nothing found; 1 something found; 2 the call is wrong.")]
pub struct ScanArgs {
    /// Files and directories
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Count what test fixtures and examples hold too, and leave no directory out
    #[arg(long)]
    pub all: bool,
    /// Print a SARIF 2.1.0 log, for code scanning
    #[arg(long, conflicts_with = "json")]
    pub sarif: bool,
    /// Search so much of each file, like 512K or 16M
    #[arg(long, value_name = "SIZE", default_value = "4M", value_parser = parse_size)]
    pub max_size: usize,
    /// Work with at most so many threads [default: one for each processor]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZero<usize>>,
    /// State directory of guardd: where its key may be read, hashes compare with those of events
    #[arg(long, value_name = "DIR", default_value = super::args::DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
}

/// `512K`, `4M`, `1G`, or bytes. At least one, at most 4 GiB.
fn parse_size(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1u64 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit))
        .filter(|size| (1..=4 << 30).contains(size))
        .and_then(|size| usize::try_from(size).ok())
        .ok_or_else(|| "write it like 512K, 4M or 1G, up to 4G".into())
}

/// One secret in one file.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The file, as it was come to from what was named.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// Its device.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// What and where in it.
    #[serde(flatten)]
    pub found: Found,
}

/// A file or directory that could not be read.
#[derive(Clone, Debug, Serialize)]
pub struct Unreadable {
    /// Which.
    #[serde(serialize_with = "lossy")]
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

fn lossy<S: serde::Serializer>(path: &std::path::Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// What `scan` found.
#[derive(Clone, Debug, Serialize)]
pub struct ScanReport {
    /// By path and place. Without what fixtures hold, unless that was asked for.
    pub findings: Vec<Finding>,
    /// Secrets in test fixtures and examples that do not count.
    pub in_fixtures: u64,
    /// What could not be read.
    pub unreadable: Vec<Unreadable>,
    /// What was gone through.
    pub summary: TreeSummary,
    /// Whose key the hashes are made with: `state` is guardd's, `run` one of this run alone.
    pub key: &'static str,
    /// Bytes of each file that were searched, at most.
    pub max_size: u64,
}

impl Guardctl<'_> {
    pub(super) fn scan(&mut self, args: &ScanArgs) -> Result<u8, Failure> {
        for path in &args.paths {
            if let Err(error) = path.symlink_metadata() {
                return Err(Failure::Invalid(format!(
                    "{}: {}: nothing was searched; name files and directories that are there",
                    path.display(),
                    reason(&error)
                )));
            }
        }
        let report = (self.offline.scan)(args).map_err(Failure::No)?;
        let text = if args.sarif {
            let log = serde_json::to_string_pretty(&sarif::log(&report));
            format!("{}\n", log.map_err(|error| Failure::No(error.to_string()))?)
        } else if self.cli.json {
            let json =
                serde_json::to_string(&report).map_err(|error| Failure::No(error.to_string()))?;
            format!("{}\n", escape::json(&json))
        } else {
            for_people(&self.screen, &report)
        };
        self.out.write_all(text.as_bytes())?;
        Ok(u8::from(!report.findings.is_empty()))
    }
}

/// As other programs tell it.
pub(super) fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ")
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn for_people(screen: &Screen, report: &ScanReport) -> String {
    let mut out = String::new();
    if !report.findings.is_empty() {
        let mut table = Table::new(&["PROVIDER", "KIND", "VALUE", "PLACE"]);
        for Finding { path, found, .. } in &report.findings {
            let place = format!("{}:{}:{}", path.to_string_lossy(), found.line, found.column);
            let kind = if found.fixture {
                format!("{} (fixture)", found.kind)
            } else {
                found.kind.to_string()
            };
            table.row([
                found.provider.to_string(),
                kind,
                found.preview.clone(),
                escape::text(&place),
            ]);
        }
        out.push_str(&table.render(screen, |_, line, _| line.to_owned()));
        out.push('\n');
    }
    let mut files: Vec<_> = report
        .findings
        .iter()
        .map(|finding| &finding.path)
        .collect();
    files.dedup();
    let summary = &report.summary;
    let found = match report.findings.len() {
        0 => "no secrets".to_owned(),
        1 => "1 secret".to_owned(),
        n => format!(
            "{n} secrets in {}",
            super::render::count(files.len() as u64, "file", "files")
        ),
    };
    out.push_str(&format!(
        "{found}; searched {}, {}\n",
        super::render::count(summary.files, "file", "files"),
        size(summary.bytes)
    ));
    if report.in_fixtures > 0 {
        let n = report.in_fixtures;
        out.push_str(&format!(
            "{n} in tests and examples not counted: --all shows them\n"
        ));
    }
    if summary.more > 0 {
        out.push_str(&format!("{} more in files with very many\n", summary.more));
    }
    let rest = [
        (summary.binary, "binary".to_owned()),
        (summary.cut, format!("beyond {}", size(report.max_size))),
        (
            summary.left_out,
            "directories of packages and caches (--all searches them)".into(),
        ),
        (summary.mounts, "other file systems".into()),
        (summary.links, "links".into()),
        (summary.special, "devices, pipes and sockets".into()),
        (summary.gone, "gone meanwhile".into()),
        (summary.unreadable, "unreadable".into()),
    ];
    let rest: Vec<String> = rest
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if !rest.is_empty() {
        out.push_str(&format!("not searched: {}\n", rest.join(", ")));
    }
    for Unreadable { path, why } in report.unreadable.iter().take(NAMED) {
        let line = format!("  {}: {why}", path.to_string_lossy());
        out.push_str(&escape::text(&line));
        out.push('\n');
    }
    if report.unreadable.len() > NAMED {
        out.push_str(&format!("  and {} more\n", report.unreadable.len() - NAMED));
    }
    out
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(parse_size("512K"), Ok(512 << 10));
        assert_eq!(parse_size("4M"), Ok(4 << 20));
        assert_eq!(parse_size("77"), Ok(77));
        for wrong in ["", "0", "M", "5G", "-1", "1T", "99999999999999999999G"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
