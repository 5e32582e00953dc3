//! What `guardctl top` knows and what is chosen on its screen. Pure: nothing here reads a clock, a terminal or a
//! socket, so that every situation can be made in a test.

use std::{cell::Cell, collections::VecDeque};

use super::{confirm::Confirm, evidence};
use crate::{
    cli::{groups, render, screen::Screen},
    event::Event,
    wire::{HoldInfo, SessionDetail, SessionInfo, Status},
};

/// Events that are kept for scrolling back.
pub const EVENTS: usize = 1000;
/// Seconds without an answer from guardd after which that is said.
const SILENCE_S: u64 = 5;

/// One part of the screen that takes keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    /// Sessions.
    Sessions,
    /// Holds, folded by group.
    Holds,
    /// Events as they come.
    Events,
}

impl Pane {
    /// In the order of Tab.
    pub const ALL: [Self; 3] = [Self::Sessions, Self::Holds, Self::Events];

    /// The next one, or the one before.
    pub fn step(self, back: bool) -> Self {
        let at = Self::ALL.iter().position(|pane| *pane == self).unwrap_or(0);
        let by = if back { Self::ALL.len() - 1 } else { 1 };
        Self::ALL[(at + by) % Self::ALL.len()]
    }
}

/// What keys mean now.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of it, as long as the screen is up"
)]
pub enum Mode {
    /// Moving and acting.
    Normal,
    /// Typing into the filter.
    Filter,
    /// Reading the help.
    Help,
    /// Asked whether it shall be done.
    Confirm(Confirm),
}

/// guardd cannot be reached.
#[derive(Clone, Debug, PartialEq)]
pub struct Lost {
    /// Wall time in UTC, `20:40:22`.
    pub since: String,
    /// The same in seconds since 1970.
    pub since_s: u64,
    /// Why, in one line.
    pub why: String,
}

/// What was said last, on the bottom line.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// One line.
    pub text: String,
    /// It is an error or a refusal.
    pub bad: bool,
}

/// What guardd says at one moment.
#[derive(Clone, Debug)]
pub struct Look {
    /// The daemon.
    pub status: Status,
    /// Live sessions.
    pub sessions: Vec<SessionInfo>,
    /// Holds that wait.
    pub holds: Vec<HoldInfo>,
    /// More that wait, and that guardd's answer had no room for.
    pub left_out: u64,
    /// The chosen session, where it is looked at.
    pub detail: Option<SessionDetail>,
}

/// See the module's text.
pub struct State {
    /// What guardd said last.
    pub status: Option<Status>,
    /// Live sessions.
    pub sessions: Vec<SessionInfo>,
    /// Holds that wait.
    pub holds: Vec<HoldInfo>,
    /// More that wait, and that guardd's answer had no room for.
    pub left_out: u64,
    /// The chosen session.
    pub detail: Option<SessionDetail>,
    /// The newest last.
    pub events: VecDeque<Event>,
    /// Set while guardd cannot be reached.
    pub lost: Option<Lost>,
    /// Seconds since 1970 of this moment, and of guardd's last answer.
    pub now_s: u64,
    /// See `now_s`.
    pub seen_s: u64,
    /// Which pane has the keys.
    pub focus: Pane,
    /// Chosen session's id.
    pub session: Option<String>,
    /// Chosen hold's id, the first of its group.
    pub hold: Option<String>,
    /// Chosen event by its place in the filtered list; `None` for the newest, as they come.
    pub event: Option<usize>,
    /// Lines of the detail that are scrolled away.
    pub scroll: usize,
    /// The most that makes sense of it on this screen; the view says.
    pub scroll_end: Cell<usize>,
    /// Show the chosen session's processes.
    pub tree: bool,
    /// Show the chosen event whole.
    pub whole_event: bool,
    /// Only what contains it is listed.
    pub filter: String,
    /// What keys mean.
    pub mode: Mode,
    /// The bottom line.
    pub said: Option<Said>,
}

impl State {
    /// Before anything is known. `now_s`: seconds since 1970.
    pub fn new(now_s: u64) -> Self {
        Self {
            status: None,
            sessions: Vec::new(),
            holds: Vec::new(),
            left_out: 0,
            detail: None,
            events: VecDeque::new(),
            lost: None,
            now_s,
            seen_s: now_s,
            focus: Pane::Holds,
            session: None,
            hold: None,
            event: None,
            scroll: 0,
            scroll_end: Cell::new(0),
            tree: false,
            whole_event: false,
            filter: String::new(),
            mode: Mode::Normal,
            said: None,
        }
    }

    /// Takes what guardd said.
    pub fn looked(&mut self, look: Look, now_s: u64) {
        (self.now_s, self.seen_s) = (now_s, now_s);
        let pid = look.status.pid;
        if self.lost.take().is_some() {
            self.say(format!("guardd is back (pid {pid})"), false);
        } else if self.status.as_ref().is_some_and(|old| old.pid != pid) {
            self.say(format!("guardd was restarted (pid {pid})"), false);
        }
        self.status = Some(look.status);
        self.sessions = look.sessions;
        self.holds = look.holds;
        self.left_out = look.left_out;
        self.detail = look.detail;
        self.choose();
        // What was asked about may have been answered elsewhere, or have run out.
        if let Mode::Confirm(confirm) = &self.mode
            && let Some(gone) = confirm.gone(&self.holds)
        {
            self.mode = Mode::Normal;
            self.say(format!("{gone} does not wait any more"), true);
        }
    }

    /// guardd did not answer. `time`: as in [`Lost::since`].
    pub fn unreachable(&mut self, why: String, time: String, now_s: u64) {
        self.now_s = now_s;
        match &mut self.lost {
            Some(lost) => lost.why = why,
            None => {
                self.lost = Some(Lost {
                    since: time,
                    since_s: now_s,
                    why,
                });
                // What can be done to them now is nothing.
                if matches!(self.mode, Mode::Confirm(_)) {
                    self.mode = Mode::Normal;
                }
            }
        }
    }

    /// Takes an event.
    pub fn happened(&mut self, event: Event) {
        if self.events.len() == EVENTS
            && let Some(old) = self.events.pop_front()
            && self.matches(&event_text(&old))
        {
            self.event = self.event.map(|at| at.saturating_sub(1));
        }
        // Chosen by place from the oldest, so what comes below moves nothing.
        self.events.push_back(event);
    }

    /// The bottom line.
    pub fn say(&mut self, text: String, bad: bool) {
        self.said = Some(Said { text, bad });
    }

    /// Why what is shown may be old; `None` while guardd answers.
    pub fn silence(&self) -> Option<String> {
        if let Some(lost) = &self.lost {
            return Some(format!(
                "guardd cannot be reached since {} UTC ({}): {}",
                lost.since,
                span(self.now_s.saturating_sub(lost.since_s)),
                lost.why
            ));
        }
        let silent = self.now_s.saturating_sub(self.seen_s);
        (silent >= SILENCE_S).then(|| format!("guardd has not answered for {}", span(silent)))
    }

    fn matches(&self, text: &str) -> bool {
        self.filter.is_empty() || text.to_lowercase().contains(&self.filter.to_lowercase())
    }

    /// Sessions that pass the filter.
    pub fn listed_sessions(&self) -> Vec<&SessionInfo> {
        self.sessions
            .iter()
            .filter(|session| self.matches(&session_text(session)))
            .collect()
    }

    /// Groups of holds of which one passes the filter.
    pub fn listed_holds(&self) -> Vec<Vec<&HoldInfo>> {
        let mut groups = groups::fold(&self.holds);
        groups.retain(|group| group.iter().any(|hold| self.matches(&hold_text(hold))));
        groups
    }

    /// Events that pass the filter, oldest first.
    pub fn listed_events(&self) -> Vec<&Event> {
        self.events
            .iter()
            .filter(|event| self.filter.is_empty() || self.matches(&event_text(event)))
            .collect()
    }

    /// The chosen group of holds.
    pub fn chosen_holds(&self) -> Option<Vec<&HoldInfo>> {
        let groups = self.listed_holds();
        let at = groups
            .iter()
            .position(|group| Some(&group[0].id) == self.hold.as_ref());
        groups.into_iter().nth(at.unwrap_or(0))
    }

    /// The chosen event, the newest unless one was moved to.
    pub fn chosen_event(&self) -> Option<&Event> {
        let listed = self.listed_events();
        match self.event {
            Some(at) => listed.get(at).or(listed.last()).copied(),
            None => listed.last().copied(),
        }
    }

    /// The session that the chosen line is about.
    pub fn chosen_session(&self) -> Option<String> {
        match self.focus {
            Pane::Sessions => self.session.clone(),
            Pane::Holds => self.chosen_holds().map(|group| group[0].session.clone()),
            Pane::Events => self.chosen_event().and_then(|event| event.session.clone()),
        }
    }

    /// Which session guardd has to describe.
    pub fn wanted(&self) -> Option<String> {
        (self.focus == Pane::Sessions)
            .then(|| self.session.clone())
            .flatten()
    }

    /// Keeps a line chosen in each list as long as it has one: the same, or what stands in its place.
    pub fn choose(&mut self) {
        let sessions: Vec<String> = self
            .listed_sessions()
            .iter()
            .map(|s| s.id.clone())
            .collect();
        let holds: Vec<String> = self
            .listed_holds()
            .iter()
            .map(|group| group[0].id.clone())
            .collect();
        for (chosen, ids) in [(&mut self.session, sessions), (&mut self.hold, holds)] {
            if !chosen.as_ref().is_some_and(|id| ids.contains(id)) {
                *chosen = ids.first().cloned();
            }
        }
        if self.detail.as_ref().map(|detail| &detail.info.id) != self.session.as_ref() {
            self.detail = None;
        }
    }

    /// Moves the choice in the pane that has the keys; negative is up.
    pub fn step(&mut self, by: isize) {
        self.scroll = 0;
        match self.focus {
            Pane::Sessions => {
                let ids: Vec<String> = self
                    .listed_sessions()
                    .iter()
                    .map(|s| s.id.clone())
                    .collect();
                self.session = moved(&ids, self.session.as_ref(), by);
                self.choose();
            }
            Pane::Holds => {
                let ids: Vec<String> = self
                    .listed_holds()
                    .iter()
                    .map(|group| group[0].id.clone())
                    .collect();
                self.hold = moved(&ids, self.hold.as_ref(), by);
            }
            Pane::Events => {
                let len = self.listed_events().len();
                let at = self.event.unwrap_or(len.saturating_sub(1));
                let to = at.saturating_add_signed(by);
                self.event = (to + 1 < len).then_some(to);
            }
        }
    }

    /// Lines of the detail below the lists, as wide as given.
    pub fn detail_lines(&self, columns: usize) -> Vec<String> {
        match self.focus {
            Pane::Holds => self
                .chosen_holds()
                .map(|group| evidence::lines(&group, columns))
                .unwrap_or_default(),
            Pane::Sessions => self
                .detail
                .as_ref()
                .map(|detail| evidence::session(detail, self.tree, columns))
                .unwrap_or_default(),
            Pane::Events if self.whole_event => self
                .chosen_event()
                .map(|event| evidence::event(event, columns))
                .unwrap_or_default(),
            Pane::Events => Vec::new(),
        }
    }
}

/// Seconds as `2m05s`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0 => "0s".into(),
        seconds => render::span(seconds),
    }
}

fn moved(ids: &[String], chosen: Option<&String>, by: isize) -> Option<String> {
    let at = ids.iter().position(|id| Some(id) == chosen).unwrap_or(0);
    let last = ids.len().checked_sub(1)?;
    ids.get(at.saturating_add_signed(by).min(last)).cloned()
}

/// A session in one line.
pub fn session_text(session: &SessionInfo) -> String {
    let indent = if session.parent.is_some() { "└ " } else { "" };
    format!(
        "{:<5} {:<7} {indent}{} {}, {}{}{}",
        session.id,
        session.state,
        session.agent,
        if session.processes == 1 {
            "1 process".into()
        } else {
            format!("{} processes", session.processes)
        },
        span(session.age_s),
        session
            .score
            .map_or_else(String::new, |score| format!(", score {score}")),
        if session.facts.is_empty() {
            String::new()
        } else {
            format!("  [{}]", session.facts.join(" "))
        }
    )
}

/// A hold in one line, without how many are like it.
pub fn hold_text(hold: &HoldInfo) -> String {
    format!(
        "{:<5} {:<5} {}: {}",
        hold.id, hold.session, hold.agent, hold.target
    )
}

/// An event in one line.
pub fn event_text(event: &Event) -> String {
    format!(
        "{:<5} {}",
        event.session.as_deref().unwrap_or("-"),
        render::event_line(&Screen::default(), event, true)
    )
}
