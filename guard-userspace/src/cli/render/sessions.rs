//! `guardctl sessions` and `guardctl show`

use std::collections::{HashMap, HashSet};

use super::{Table, ago, count, event_line, span, wrap};
use crate::{
    cli::{account, baseline, escape, screen::Screen},
    wire::{ProcessInfo, SessionDetail, SessionInfo},
};

/// Levels of the tree that are drawn; deeper processes stand at the last. A chain of forks can be
/// thousands deep, and its drawing would grow with the square of that.
const DRAWN_DEPTH: usize = 24;
/// Categories of conduct that are shown; `guardctl baseline diff` shows all.
const SHOWN_CATEGORIES: usize = 5;

/// One line a session.
pub fn sessions(screen: &Screen, sessions: &[SessionInfo]) -> String {
    if sessions.is_empty() {
        return "no sessions\n".into();
    }
    let mut table = Table::new(&[
        "ID", "AGENT", "PID", "AGE", "PROCS", "FACTS", "SCORE", "STATE",
    ]);
    for session in sessions {
        let facts = if session.facts.is_empty() {
            "-".into()
        } else {
            escape::text(&session.facts.join(","))
        };
        let inside = session
            .parent
            .as_deref()
            .map_or_else(String::new, |parent| format!(" in {parent}"));
        table.row([
            escape::text(&session.id),
            escape::text(&session.agent),
            session.root_pid.to_string(),
            span(session.age_s),
            session.processes.to_string(),
            facts,
            session
                .score
                .map_or_else(|| "-".into(), |score| score.to_string()),
            escape::text(&format!("{}{inside}", session.state)),
        ]);
    }
    table.render(screen, |screen, line, cells| {
        let state = cells[7].split(' ').next().unwrap_or_default();
        screen.by_meaning(state, line)
    })
}

/// One session: what it is, its processes, what it touched, what it did last.
pub fn show(screen: &Screen, detail: &SessionDetail) -> String {
    let info = &detail.info;
    let state = escape::text(&info.state);
    let mut out = format!(
        "{}  {}  {}\n",
        screen.bold(&escape::text(&info.id)),
        screen.bold(&escape::text(&info.agent)),
        screen.by_meaning(&info.state, &state)
    );
    let mut row = |name: &str, value: String| {
        out.push_str(&format!(
            "  {name:8} {}\n",
            wrap(&value, screen.text_width(), 11)
        ));
    };
    row(
        "root",
        format!(
            "pid {}, user {}, found by {}",
            info.root_pid,
            account::user_name(info.uid),
            escape::text(&info.origin)
        ),
    );
    row(
        "age",
        format!(
            "{}, {}",
            span(info.age_s),
            count(info.processes, "process", "processes")
        ),
    );
    if let Some(parent) = &info.parent {
        row("inside", escape::text(parent));
    }
    if let Some(intent) = &info.intent {
        row("it says", format!("\"{}\"", escape::text(intent)));
    }
    if let Some(understood) = &detail.understood {
        row("taken as", escape::text(understood));
    }
    if let Some(problem) = &detail.intent_problem {
        row("intent", escape::text(problem));
    }
    if let Some(persona) = &detail.persona {
        row("persona", escape::text(persona));
    }
    if let Some(score) = info.score {
        row("score", format!("{score} of 100"));
    }

    out.push_str(&format!("\n{}\n", screen.bold("Processes")));
    out.push_str(&tree(screen, &detail.tree));
    let more = info.processes.saturating_sub(detail.tree.len() as u64);
    if more > 0 && !detail.tree.is_empty() {
        out.push_str(&format!("  and {more} more\n"));
    }
    out.push_str(&format!("\n{}\n", screen.bold("Facts")));
    out.push_str(&facts(screen, detail));
    if let Some(conduct) = &detail.conduct {
        out.push_str(&format!("\n{}\n", screen.bold("Conduct")));
        out.push_str(&baseline::conduct(screen, conduct, SHOWN_CATEGORIES));
    }
    if !detail.untapped.is_empty() {
        out.push_str(&format!("\n{}\n", screen.bold("Requests not seen")));
        for line in &detail.untapped {
            out.push_str(&format!("  {}\n", escape::text(line)));
        }
    }
    if !detail.environment.is_empty() {
        out.push_str(&format!(
            "\n{}\n",
            screen.bold("Secrets in its environment")
        ));
        for one in &detail.environment {
            out.push_str(&format!(
                "  {}  {} {}\n",
                escape::text(&one.name),
                escape::text(&one.provider),
                escape::text(&one.kind)
            ));
        }
    }
    out.push_str(&format!("\n{}\n", screen.bold("Timeline (UTC)")));
    if detail.timeline.is_empty() {
        out.push_str("  nothing yet\n");
    }
    // Two columns of indent, so two fewer for the line.
    let narrower = Screen {
        width: screen.width.map(|width| width.saturating_sub(2)),
        ..*screen
    };
    for event in &detail.timeline {
        out.push_str(&format!("  {}\n", event_line(&narrower, event, true)));
    }
    out
}

fn facts(screen: &Screen, detail: &SessionDetail) -> String {
    if detail.facts.is_empty() {
        return "  none\n".into();
    }
    let ages: Vec<String> = detail.facts.iter().map(|fact| ago(fact.age_s)).collect();
    let label_width = detail
        .facts
        .iter()
        .map(|fact| fact.label.chars().count())
        .max()
        .unwrap_or(0);
    let age_width = ages
        .iter()
        .map(|age| age.chars().count())
        .max()
        .unwrap_or(0);
    let mut out = String::new();
    for (fact, age) in detail.facts.iter().zip(&ages) {
        let object = fact
            .object
            .as_deref()
            .map_or_else(String::new, escape::text);
        let line = format!(
            "  {:label_width$}  {age:age_width$}  {object}",
            escape::text(&fact.label)
        );
        out.push_str(&format!("{}\n", screen.clip(line.trim_end())));
    }
    out
}

/// Processes under their parents. What guardd sends should be a forest; whatever it is, each process
/// is printed once.
fn tree(screen: &Screen, processes: &[ProcessInfo]) -> String {
    if processes.is_empty() {
        return "  none alive\n".into();
    }
    let known: HashSet<u32> = processes.iter().map(|process| process.pid).collect();
    let mut children: HashMap<u32, Vec<usize>> = HashMap::new();
    let mut roots = Vec::new();
    for (n, process) in processes.iter().enumerate() {
        if known.contains(&process.ppid) && process.ppid != process.pid {
            children.entry(process.ppid).or_default().push(n);
        } else {
            roots.push(n);
        }
    }
    let mut out = String::new();
    let mut printed = vec![false; processes.len()];
    // Processes that are their own ancestors hang below no root: they come last, as roots.
    let starts = roots.into_iter().chain(0..processes.len());
    for start in starts {
        // Of each: the process, the prefix of its line, the prefix of its children's lines.
        let mut stack = vec![(start, String::new(), String::new())];
        while let Some((n, own, below)) = stack.pop() {
            if std::mem::replace(&mut printed[n], true) {
                continue;
            }
            let process = &processes[n];
            out.push_str(&process_line(screen, process, &own));
            let mut of_this: Vec<usize> = children
                .get(&process.pid)
                .into_iter()
                .flatten()
                .copied()
                .collect();
            of_this.retain(|&child| !printed[child]);
            let deep = below.chars().count() >= DRAWN_DEPTH * 3;
            for (place, &child) in of_this.iter().enumerate().rev() {
                let last = place + 1 == of_this.len();
                let (elbow, line) = match (deep, last) {
                    (true, _) => ("", ""),
                    (false, true) => ("└─ ", "   "),
                    (false, false) => ("├─ ", "│  "),
                };
                stack.push((child, format!("{below}{elbow}"), format!("{below}{line}")));
            }
        }
    }
    out
}

fn process_line(screen: &Screen, process: &ProcessInfo, prefix: &str) -> String {
    let command = match (&process.argv, &process.exe) {
        (Some(argv), _) if !argv.is_empty() => escape::command(argv),
        (_, Some(exe)) => escape::text(exe),
        _ => "?".into(),
    };
    let state = if process.state == "running" {
        String::new()
    } else {
        format!(" [{}]", escape::text(&process.state))
    };
    let line = screen.clip(&format!("  {prefix}{}{state} {command}", process.pid));
    format!("{}\n", screen.by_meaning(&process.state, &line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{EnvironmentInfo, FactInfo};

    fn process(pid: u32, ppid: u32, argv: &[&str]) -> ProcessInfo {
        let argv = argv.iter().map(|&arg| arg.into()).collect();
        ProcessInfo {
            pid,
            ppid,
            exe: None,
            argv: Some(argv),
            state: "running".into(),
        }
    }

    fn a_session() -> SessionInfo {
        SessionInfo {
            id: "s-3".into(),
            agent: "claude-code".into(),
            root_pid: 412,
            uid: 0,
            age_s: 75,
            processes: 4,
            facts: vec!["credential".into(), "infra".into()],
            state: "held".into(),
            parent: Some("s-1".into()),
            origin: "exec".into(),
            intent: None,
            score: None,
        }
    }

    #[test]
    fn sessions_are_aligned() {
        let mut other = a_session();
        other.id = "s-10".into();
        other.parent = None;
        other.facts.clear();
        let text = sessions(&Screen::default(), &[a_session(), other]);
        assert_eq!(
            text,
            "ID    AGENT        PID  AGE    PROCS  FACTS             SCORE  STATE\n\
             s-3   claude-code  412  1m15s  4      credential,infra  -      held in s-1\n\
             s-10  claude-code  412  1m15s  4      -                 -      held\n"
        );
        assert_eq!(sessions(&Screen::default(), &[]), "no sessions\n");
    }

    #[test]
    fn the_tree_shows_who_started_whom() {
        let mut held = process(6, 5, &["curl", "a b"]);
        held.state = "held".into();
        let processes = [
            process(4, 1, &["claude"]),
            process(5, 4, &["bash"]),
            held,
            process(7, 4, &["node"]),
            process(9, 1, &["left behind"]),
        ];
        assert_eq!(
            tree(&Screen::default(), &processes),
            "  4 claude\n  ├─ 5 bash\n  │  └─ 6 [held] curl 'a b'\n  └─ 7 node\n  9 'left behind'\n"
        );
    }

    #[test]
    fn a_tree_that_is_none_and_a_very_deep_one_are_printed_all_the_same() {
        let circle = [
            process(4, 5, &["a"]),
            process(5, 4, &["b"]),
            process(6, 6, &["c"]),
        ];
        assert_eq!(tree(&Screen::default(), &circle).lines().count(), 3);
        let deep: Vec<ProcessInfo> = (1..5000)
            .map(|pid| process(pid, pid - 1, &["sh"]))
            .collect();
        let text = tree(&Screen::default(), &deep);
        assert_eq!(text.lines().count(), 4999);
        assert!(text.len() < 2_000_000, "{}", text.len());
    }

    #[test]
    fn one_session_shows_processes_facts_and_timeline() {
        let fact = |label: &str, age_s, object: Option<&str>| FactInfo {
            label: label.into(),
            last: "2026-11-21T20:40:00.000000Z".into(),
            age_s,
            object: object.map(Into::into),
        };
        let detail = SessionDetail {
            info: a_session(),
            tree: vec![process(412, 1, &["claude"])],
            facts: vec![
                fact("credential", 72, Some("/home/a/\x1b.env")),
                fact("infra", 0, None),
            ],
            timeline: vec![],
            untapped: vec!["pid 412 (/x) to h.test: none".into()],
            environment: vec![EnvironmentInfo {
                name: "NPM_TOKEN".into(),
                provider: "npm".into(),
                kind: "access-token".into(),
            }],
            understood: None,
            intent_problem: None,
            persona: None,
            conduct: None,
        };
        assert_eq!(
            show(&Screen::default(), &detail),
            "s-3  claude-code  held\n  root     pid 412, user root, found by exec\n  age      1m15s, 4 processes\n  inside   s-1\n\
             \nProcesses\n  412 claude\n  and 3 more\n\
             \nFacts\n  credential  1m12s ago  /home/a/\\x1b.env\n  infra       just now\n\
             \nRequests not seen\n  pid 412 (/x) to h.test: none\n\
             \nSecrets in its environment\n  NPM_TOKEN  npm access-token\n\
             \nTimeline (UTC)\n  nothing yet\n"
        );
    }
}
