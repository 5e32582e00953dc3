//! The report as one HTML file: no script, nothing loaded from elsewhere, which its own policy also forbids.

use std::{fmt::Write as _, time::Duration};

use super::{
    Entry, Report, Verdict,
    walk::{self, List, Piece},
};
use crate::{cli::escape, clock};

/// Readable on screens, light and dark, and on paper.
const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--dim:#57606a;--line:#d0d7de;--box:#f6f8fa;--bad:#b42318;--warn:#9a6700;--good:#1a7f37}\
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--dim:#9198a1;--line:#3d444d;--box:#161b22;--bad:#ff7b72;--warn:#d29922;--good:#3fb950}}\
@media print{:root{--ink:#000;--paper:#fff;--dim:#333;--line:#999;--box:#fff;--bad:#000;--warn:#000;--good:#000}section{break-inside:auto}article,tr,li{break-inside:avoid}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:64rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.15rem;border-bottom:1px solid var(--line);padding-bottom:.2rem;margin-top:2rem}h3{font-size:1rem;margin:.2rem 0}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{color:var(--dim)}dd{margin:0}\
code{font:13px/1.4 ui-monospace,monospace;overflow-wrap:anywhere;unicode-bidi:isolate}\
article{border:1px solid var(--line);background:var(--box);padding:.7rem 1rem;margin:.8rem 0}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.15rem .6rem .15rem 0;border-bottom:1px solid var(--line)}th{color:var(--dim);font-weight:normal}\
.t{white-space:nowrap;color:var(--dim)}.l{color:var(--warn)}.v{font-weight:bold;color:var(--bad)}.o{font-weight:bold}ul{padding-left:1.2rem}";

/// The report, with what `who` says of its user.
pub fn html(report: &Report, who: &dyn Fn(u32) -> String) -> String {
    let mut out =
        String::from("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n");
    // Writing to a String does not fail.
    let _ = write!(
        out,
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>guard: session {}</title>\n<style>{STYLE}</style></head>\n<body>\n",
        text(&report.session)
    );
    let _ = writeln!(
        out,
        "<h1>Session {}: {}</h1>\n<dl>",
        text(&report.session),
        code(&report.agent)
    );
    for (name, pieces) in walk::head(report, who) {
        let _ = writeln!(out, "<dt>{name}</dt><dd>{}</dd>", marked(&pieces));
    }
    out.push_str("</dl>\n<section><h2>Verdicts</h2>\n");
    if report.verdicts.is_empty() {
        out.push_str("<p>No rule fired.</p>\n");
    }
    for (n, verdict) in report.verdicts.iter().enumerate() {
        push_verdict(&mut out, n + 1, verdict);
    }
    out.push_str("</section>\n");
    for list in walk::outcomes(report) {
        push_lines(&mut out, &list);
    }
    push_processes(&mut out, report);
    out.push_str("<section><h2>Timeline</h2>\n");
    push_entries(
        &mut out,
        report
            .timeline
            .iter()
            .map(|entry| (text(&entry.time), entry)),
    );
    if report.omitted > 0 {
        let _ = writeln!(
            out,
            "<p>And {} more that no label or rule is about.</p>",
            report.omitted
        );
    }
    out.push_str("</section>\n");
    push_lines(&mut out, &walk::losses(report));
    out.push_str("</body></html>\n");
    out
}

fn marked(pieces: &[Piece]) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Words(of) | Piece::Name(of) => text(of),
        Piece::Strong(of) => format!("<span class=\"o\">{}</span>", text(of)),
        Piece::Data(of) => code(of),
        Piece::When(of) => format!(" <span class=\"t\">{}</span>", text(of)),
    };
    pieces.iter().map(piece).collect()
}

fn push_verdict(out: &mut String, n: usize, verdict: &Verdict) {
    let _ = writeln!(
        out,
        "<article><h3>{n}. <span class=\"v\">{}</span> by {}: {}</h3>",
        text(&verdict.in_words()),
        code(verdict.by()),
        text(&verdict.outcome)
    );
    let facts = verdict.evidence.iter().map(|fact| {
        let age = clock::human(Duration::from_millis(fact.age_ms));
        (format!("{age} before"), &fact.event)
    });
    push_entries(out, facts.chain([("then".to_owned(), &verdict.call)]));
    if let Some(reason) = verdict.reason() {
        let _ = writeln!(out, "<p>Reason given: {}</p>", code(reason));
    }
    out.push_str("</article>\n");
}

fn push_lines(out: &mut String, list: &List<'_>) {
    let List { title, none, lines } = list;
    let _ = writeln!(out, "<section><h2>{title}</h2>");
    if lines.is_empty() {
        let _ = writeln!(out, "<p>{none}</p>");
    } else {
        out.push_str("<ul>\n");
    }
    for line in *lines {
        let _ = write!(
            out,
            "<li><span class=\"t\">{}</span> {}",
            text(&line.time),
            text(&line.what)
        );
        if let Some(target) = line.named_target() {
            let _ = write!(out, ": {}", code(target));
        }
        out.push_str("</li>\n");
    }
    if !lines.is_empty() {
        out.push_str("</ul>\n");
    }
    out.push_str("</section>\n");
}

fn push_processes(out: &mut String, report: &Report) {
    out.push_str("<section><h2>Processes</h2>\n<table><tr><th>pid</th><th>ran</th><th>labels</th><th>verdicts</th></tr>\n");
    for process in &report.processes {
        let commands: Vec<String> = process
            .commands
            .iter()
            .map(|command| code(command))
            .collect();
        let _ = writeln!(
            out,
            "<tr><td class=\"t\" style=\"padding-left:{}rem\">{}</td><td>{}</td><td class=\"l\">{}</td><td class=\"v\">{}</td></tr>",
            process.depth.min(32),
            process.pid,
            commands.join(" → "),
            text(&process.labels.join(" ")),
            text(&process.verdicts.join(", "))
        );
    }
    out.push_str("</table></section>\n");
}

fn push_entries<'a>(out: &mut String, entries: impl Iterator<Item = (String, &'a Entry)>) {
    out.push_str("<table>\n");
    for (when, entry) in entries {
        let pid = entry.pid.map(|pid| pid.to_string()).unwrap_or_default();
        let who = entry.who.as_deref().map(code).unwrap_or_default();
        let what = if entry.what.is_empty() {
            String::new()
        } else {
            format!(" → {}", code(&entry.what))
        };
        let _ = writeln!(
            out,
            "<tr><td class=\"t\">{when}</td><td>{}</td><td class=\"t\">{pid}</td><td>{who}{what}</td><td class=\"l\">{}</td><td class=\"v\">{}</td></tr>",
            entry.kind,
            text(&entry.labels.join(" ")),
            text(&entry.done().unwrap_or_default())
        );
    }
    out.push_str("</table>\n");
}

/// Text that no browser takes for anything else, and no terminal either.
fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in escape::text(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn code(of: &str) -> String {
    format!("<code>{}</code>", text(of))
}
