//! A hold in words, for somebody with ten seconds: who, what, why, what silence means and when, how to answer.

use std::time::Duration;

use super::middle;
use crate::{
    cli::{
        account, escape,
        render::{self, event, span, wrap},
    },
    event::Event,
    wire::HoldInfo,
};

/// Emphasis, where the reader's screen has any.
pub trait Paint {
    /// What is decided about.
    fn bold(&self, text: &str) -> String;
    /// Of less weight.
    fn dim(&self, text: &str) -> String;
    /// What presses.
    fn yellow(&self, text: &str) -> String;
}

/// None.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Paint for Plain {
    fn bold(&self, text: &str) -> String {
        text.to_owned()
    }

    fn dim(&self, text: &str) -> String {
        text.to_owned()
    }

    fn yellow(&self, text: &str) -> String {
        text.to_owned()
    }
}

/// Where the text is to stand.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// Emphasis.
    pub paint: &'a dyn Paint,
    /// Columns; long things are cut to three lines of them. `None` where nothing is cut.
    pub width: Option<usize>,
    /// Columns to fill with running text.
    pub text_width: usize,
    /// How guardctl is called, with what it takes to reach the same daemon.
    pub guardctl: &'a str,
}

impl<'a> Frame<'a> {
    /// For a message: no emphasis, lines of ordinary length.
    pub fn message(guardctl: &'a str) -> Self {
        Self {
            paint: &Plain,
            width: Some(100),
            text_width: 80,
            guardctl,
        }
    }

    fn short(&self, text: &str) -> String {
        self.width
            .map_or(text.to_owned(), |width| middle(text, width * 3))
    }
}

/// In one line: who wants to do what. At most 150 characters.
pub fn headline(hold: &HoldInfo) -> String {
    let who = format!("{}: {} wants to ", hold.id, hold.agent);
    let room = 150usize.saturating_sub(who.chars().count()).max(40);
    middle(
        &escape::text(&format!("{who}{}", middle(&hold.target, room))),
        150,
    )
}

/// The whole text, of whole lines.
pub fn text(hold: &HoldInfo, frame: &Frame<'_>) -> String {
    let (guardctl, id) = (frame.guardctl, escape::text(&hold.id));
    facts(hold, frame)
        + &format!("    {guardctl} deny {id}       to refuse it\n")
        + &format!(
            "    {guardctl} approve {id}    to {}\n",
            if hold.is_ask() {
                "give it"
            } else {
                "let it go on"
            }
        )
}

/// The same without the commands that answer.
pub fn facts(hold: &HoldInfo, frame: &Frame<'_>) -> String {
    let paint = frame.paint;
    let id = escape::text(&hold.id);
    let mut out = format!(
        "{}  {} ({}, user {}) {}, {}\n",
        paint.bold(&id),
        paint.bold(&frame.short(&escape::text(&hold.agent))),
        escape::text(&hold.session),
        user(hold),
        if hold.is_ask() { "asks" } else { "is held" },
        paint.yellow(&render::ago(hold.age_s)),
    );
    let command = match (&hold.argv, &hold.exe) {
        (Some(argv), _) if !argv.is_empty() => escape::command(argv),
        (_, Some(exe)) => escape::text(exe),
        _ => "a program that is not known".into(),
    };
    // None of these is wrapped: spaces may be inside a path or a quoted argument.
    let mut line = |name: &str, value: String| {
        out.push_str(&format!("  {name:9} {value}\n"));
    };
    line(
        "wants to",
        paint.bold(&frame.short(&escape::text(&hold.target))),
    );
    let pid = paint.dim(&format!("(pid {})", hold.pid));
    line("by", format!("{}  {pid}", frame.short(&command)));
    if let Some(cwd) = &hold.cwd {
        line("in", frame.short(&escape::text(cwd)));
    }
    if !hold.environment.is_empty() {
        line("with", frame.short(&escape::command(&hold.environment)));
    }
    if let Some(intent) = &hold.intent {
        let said = format!("\"{}\"", frame.short(&escape::text(intent)));
        line("it says", wrap(&said, frame.text_width, 12));
    }
    let steps: Vec<String> = hold.when.iter().map(|label| escape::text(label)).collect();
    match (hold.is_ask(), hold.rule.as_str()) {
        (true, "") => line("because", "it gives no reason".into()),
        (true, reason) => {
            let said = format!("\"{}\"", frame.short(&escape::text(reason)));
            line("because", wrap(&said, frame.text_width, 12));
        }
        (false, rule) => line(
            "because",
            format!("{}: {}", escape::text(rule), steps.join(" → ")),
        ),
    }
    for (n, event) in hold.evidence.iter().enumerate() {
        out.push_str(&evidence(frame, hold, event, n));
    }
    out.push_str(&format!("\n  {}\n", paint.yellow(&silence(hold))));
    out
}

fn user(hold: &HoldInfo) -> String {
    let name = match &hold.user {
        Some(name) => escape::text(name),
        None => account::user_name(hold.uid),
    };
    match hold.login_uid {
        Some(login) => format!("{name}, logged in as {}", account::user_name(login)),
        None => name,
    }
}

/// What silence means, and when: in so long for who reads it now, at a time for who reads it later.
fn silence(hold: &HoldInfo) -> String {
    let at = deadline(hold).map_or_else(String::new, |at| {
        format!(", at {} UTC", event::time_of_day(&at))
    });
    let left = if hold.expires_in_s == 0 {
        "any moment now".into()
    } else {
        format!("in {}{at}", span(hold.expires_in_s))
    };
    match hold.on_timeout.as_str() {
        "kill" => format!("Without an answer it is killed {left}."),
        "deny" => format!("Without an answer it is denied {left}."),
        "refuse" => format!("Without an answer it is refused {left}."),
        "resume" => format!("Without an answer it goes on {left}."),
        other => format!("Without an answer: {} {left}.", escape::text(other)),
    }
}

fn deadline(hold: &HoldInfo) -> Option<String> {
    let since: jiff::Timestamp = hold.since.parse().ok()?;
    let all = Duration::from_secs(hold.age_s.checked_add(hold.expires_in_s)?);
    Some(since.checked_add(all).ok()?.to_string())
}

/// One step of the chain: when, what was touched, which label that is, who did it.
fn evidence(frame: &Frame<'_>, hold: &HoldInfo, event: &Event, n: usize) -> String {
    let paint = frame.paint;
    let arrow = if n == 0 { " " } else { "→" };
    let object = event::object(event).unwrap_or_else(|| "something not known".into());
    let labels = if event.labels.is_empty() {
        String::new()
    } else {
        format!("  [{}]", escape::text(&event.labels.join(" ")))
    };
    let mut out = format!(
        "    {arrow} {}  {:<12} {} {}{}\n",
        event::time_of_day(&event.time),
        age(hold, event),
        event.kind.name(),
        paint.bold(&frame.short(&object)),
        paint.yellow(&labels),
    );
    if let Some(actor) = event::actor(event) {
        let by = format!("by {actor}");
        // 28 columns stand before it: the arrow, the time and the age.
        let by = frame
            .width
            .map_or(by.clone(), |width| middle(&by, width.saturating_sub(29)));
        out.push_str(&format!("{:29}{}\n", "", paint.dim(&by)));
    }
    out
}

/// How long ago the event was. guardd measured the hold's age; the difference of two of its own
/// times adds to that, so that a clock of another machine does not come in.
fn age(hold: &HoldInfo, event: &Event) -> String {
    let parse = |time: &str| time.parse::<jiff::Timestamp>().ok();
    match (parse(&hold.since), parse(&event.time)) {
        (Some(since), Some(time)) => {
            let before = since.as_second().saturating_sub(time.as_second()).max(0);
            render::ago(hold.age_s + before as u64)
        }
        _ => String::new(),
    }
}
