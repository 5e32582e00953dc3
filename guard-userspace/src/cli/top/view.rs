//! The state as a picture. Pure: it only looks, and everything that comes from outside goes through [`safe`].

use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph},
};

use super::{
    cells::{clip, safe, width},
    confirm,
    state::{Mode, Pane, State, event_text, hold_text, session_text, span},
};
use crate::{event::Kind, wire::Status};

/// The smallest screen that it can be used on.
pub const SMALLEST: (u16, u16) = (60, 15);
/// From so many columns and lines on, the detail stands beside the lists.
const BESIDE: (u16, u16) = (140, 30);
/// Lines at the top for what is wrong.
const BANNERS: usize = 3;

/// How to show that something is of weight.
#[derive(Clone, Copy, Debug, Default)]
pub struct Theme {
    /// Colours besides words and boldness. Nothing is told by colour alone.
    pub color: bool,
}

impl Theme {
    fn paint(self, color: Color, style: Style) -> Style {
        if self.color { style.fg(color) } else { style }
    }

    fn bad(self) -> Style {
        self.paint(Color::Red, Style::new().add_modifier(Modifier::BOLD))
    }

    fn look(self) -> Style {
        self.paint(Color::Yellow, Style::new().add_modifier(Modifier::BOLD))
    }

    fn by_meaning(self, word: &str) -> Style {
        let plain = Style::new();
        match word {
            "kill" | "deny" | "degraded" => self.paint(Color::Red, plain),
            "hold" | "held" | "flag" | "paused" => self.paint(Color::Yellow, plain),
            _ => plain,
        }
    }
}

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, state: &State, theme: Theme) {
    let area = frame.area();
    let (w, h) = SMALLEST;
    if area.width < w || area.height < h {
        let text = format!(
            "guardctl top needs {w} columns and {h} lines; here are {} and {}.\nMake the window larger, or press q to quit.",
            area.width, area.height
        );
        let paragraph = Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: true });
        frame.render_widget(paragraph, area);
        return;
    }
    let columns = usize::from(area.width);
    let mut top = vec![header(state, columns, theme)];
    top.extend(banners(state, columns, theme));
    let above = top.len() as u16;
    frame.render_widget(
        Paragraph::new(top),
        Rect::new(area.x, area.y, area.width, above),
    );
    let body = Rect::new(area.x, area.y + above, area.width, area.height - above - 1);
    if area.width >= BESIDE.0 && area.height >= BESIDE.1 {
        let half = area.width / 2;
        let left = Rect::new(body.x, body.y, half, body.height);
        let right = Rect::new(
            body.x + half + 1,
            body.y,
            body.width - half - 1,
            body.height,
        );
        let third = body.height / 4;
        lists(
            frame,
            left,
            state,
            theme,
            [third, third, body.height - 2 * third],
        );
        detail(frame, right, state, theme);
    } else {
        narrow(frame, body, state, theme);
    }
    let last = Rect::new(area.x, area.y + area.height - 1, area.width, 1);
    frame.render_widget(Paragraph::new(footer(state, columns, theme)), last);
    match &state.mode {
        Mode::Help => help(frame, area),
        Mode::Confirm(asked) => question(frame, area, asked, theme),
        Mode::Normal | Mode::Filter => {}
    }
}

/// One below the other: of the lists that have not the keys two lines each, the rest for the one that has, and for
/// the detail of what is chosen in it.
fn narrow(frame: &mut Frame<'_>, body: Rect, state: &State, theme: Theme) {
    let count = |pane: Pane| match pane {
        Pane::Sessions => state.listed_sessions().len(),
        Pane::Holds => state.listed_holds().len(),
        Pane::Events => state.listed_events().len(),
    };
    let mut heights = Pane::ALL.map(|pane| {
        let most = match (pane == state.focus, pane) {
            (true, Pane::Events) => usize::from(u16::MAX),
            (true, _) => usize::from(body.height / 4).max(2),
            (false, Pane::Events) => 3,
            (false, _) => 2,
        };
        let least = if pane == Pane::Events { 3 } else { 1 };
        1 + count(pane).clamp(least, most) as u16
    });
    let wanted = match state.focus {
        Pane::Events if state.whole_event => body.height / 3,
        Pane::Events => 0,
        _ => 1,
    };
    let others = |heights: &[u16; 3]| heights[0] + heights[1];
    if state.focus == Pane::Events {
        heights[2] = body.height - others(&heights) - wanted;
    }
    let used: u16 = heights.iter().sum();
    let rest = body.height.saturating_sub(used);
    // The lists stand at the top and the events at the bottom, the detail between them.
    let below = heights[2];
    let above = others(&heights);
    lists(
        frame,
        Rect::new(body.x, body.y, body.width, above),
        state,
        theme,
        [heights[0], heights[1], 0],
    );
    let at = if state.focus == Pane::Events {
        let events = Rect::new(body.x, body.y + above, body.width, below);
        list(frame, events, state, theme, Pane::Events);
        body.y + above + below
    } else {
        let events = Rect::new(body.x, body.y + above + rest, body.width, below);
        list(frame, events, state, theme, Pane::Events);
        body.y + above
    };
    if rest > 0 {
        detail(frame, Rect::new(body.x, at, body.width, rest), state, theme);
    }
}

fn lists(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme, heights: [u16; 3]) {
    let mut y = area.y;
    for (pane, height) in Pane::ALL.into_iter().zip(heights) {
        if height > 0 {
            list(
                frame,
                Rect::new(area.x, y, area.width, height),
                state,
                theme,
                pane,
            );
        }
        y += height;
    }
}

/// `guard ok (enforce)  2 sessions, 5 processes  1 HELD  none lost`
fn header(state: &State, columns: usize, theme: Theme) -> Line<'static> {
    let Some(status) = &state.status else {
        return Line::styled("guardctl top: asking guardd …", Modifier::BOLD);
    };
    let mut spans = vec![Span::styled(
        format!("guard {} ({})", safe(&status.state), safe(&status.mode)),
        if status.state == "ok" {
            theme.paint(Color::Green, Style::new().add_modifier(Modifier::BOLD))
        } else {
            theme.bad()
        },
    )];
    let plural = |n: u64, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    spans.push(Span::raw(format!(
        "  {}, {}  ",
        plural(status.sessions, "session", "sessions"),
        plural(status.processes, "process", "processes")
    )));
    spans.push(match state.holds.len() as u64 + state.left_out {
        0 => Span::raw("none held"),
        n => Span::styled(format!("{n} HELD"), theme.look()),
    });
    spans.push(Span::raw("  "));
    let lost = lost(status);
    spans.push(if lost.is_empty() {
        Span::raw("none lost")
    } else {
        Span::styled(format!("LOST {lost}"), theme.bad())
    });
    let used: usize = spans.iter().map(|span| width(&span.content)).sum();
    let right = format!("up {}", span(status.uptime_s));
    if used + 2 + right.len() <= columns {
        spans.push(Span::raw(format!("{right:>at$}", at = columns - used)));
    }
    Line::from(spans)
}

fn lost(status: &Status) -> String {
    let lost: Vec<String> = status
        .counters
        .iter()
        .filter(|counter| counter.lost > 0)
        .map(|counter| format!("{} {}", counter.lost, safe(&counter.class)))
        .collect();
    lost.join(", ")
}

/// What is wrong, a line each; where there is more than room, that is said.
fn banners(state: &State, columns: usize, theme: Theme) -> Vec<Line<'static>> {
    let mut texts: Vec<(String, Style)> = Vec::new();
    if let Some(silence) = state.silence() {
        texts.push((silence, theme.bad().add_modifier(Modifier::REVERSED)));
    }
    if let Some(status) = &state.status {
        let degraded = status.degraded.iter();
        texts.extend(degraded.map(|why| (format!("degraded: {why}"), theme.bad())));
        if let Some(why) = &status.may_not_answer {
            texts.push((format!("only to look at: {why}"), theme.look()));
        }
        let advice = status.hold_counts.advice.iter();
        texts.extend(advice.map(|advice| (advice.clone(), theme.look())));
    }
    let more = texts.len().saturating_sub(BANNERS);
    texts.truncate(BANNERS);
    let last = texts.len();
    texts
        .into_iter()
        .enumerate()
        .map(|(n, (text, style))| {
            let more = if more > 0 && n + 1 == last {
                format!(" (and {more} more: guardctl status)")
            } else {
                String::new()
            };
            let text = clip(&safe(&text), columns.saturating_sub(more.len()));
            Line::styled(format!("{text}{more}"), style)
        })
        .collect()
}

/// A heading to the end of its line.
fn heading(text: &str, columns: usize, focus: bool) -> Line<'static> {
    let mark = if focus { "▶ " } else { "─ " };
    let text = clip(text, columns.saturating_sub(4));
    let fill = columns.saturating_sub(width(&text) + 3);
    let line = format!("{mark}{text} {}", "─".repeat(fill));
    Line::styled(
        line,
        if focus {
            Style::new().add_modifier(Modifier::BOLD)
        } else {
            Style::new()
        },
    )
}

/// One line of a list: its text, and the word that says of what weight it is.
type Row = (String, String);

fn list(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme, pane: Pane) {
    let columns = usize::from(area.width);
    let room = usize::from(area.height.saturating_sub(1));
    let (name, rows, chosen, empty) = match pane {
        Pane::Sessions => sessions(state),
        Pane::Holds => holds(state),
        Pane::Events => events(state),
    };
    let focus = state.focus == pane;
    let chosen = chosen.unwrap_or(0).min(rows.len().saturating_sub(1));
    // The chosen one is always to be seen; of events the newest are.
    let first = match pane {
        Pane::Events if state.event.is_none() => rows.len().saturating_sub(room),
        _ => chosen.saturating_sub(room.saturating_sub(1)),
    };
    let after = rows.len().saturating_sub(first + room);
    let mut title = format!("{name} {}", rows.len());
    if first > 0 || after > 0 {
        title.push_str(&format!(" (↑{first} ↓{after})"));
    }
    let mut lines = vec![heading(&title, columns, focus)];
    if rows.is_empty() {
        lines.push(Line::raw(format!("  {empty}")));
    }
    for (at, (text, word)) in rows.iter().enumerate().skip(first).take(room) {
        let here = focus && at == chosen;
        let mut style = theme.by_meaning(word);
        if here {
            style = style.add_modifier(Modifier::REVERSED);
        }
        let mark = if here { "> " } else { "  " };
        let text = clip(&safe(text), columns.saturating_sub(2));
        lines.push(Line::styled(format!("{mark}{text}"), style));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

type List = (&'static str, Vec<Row>, Option<usize>, &'static str);

fn none(state: &State, none: &'static str) -> &'static str {
    if state.filter.is_empty() {
        none
    } else {
        "none with the filter's text (Esc shows all)"
    }
}

fn sessions(state: &State) -> List {
    let listed = state.listed_sessions();
    let chosen = listed
        .iter()
        .position(|session| Some(&session.id) == state.session.as_ref());
    let rows = listed
        .iter()
        .map(|session| (session_text(session), session.state.clone()))
        .collect();
    ("SESSIONS", rows, chosen, none(state, "no session runs"))
}

fn holds(state: &State) -> List {
    let listed = state.listed_holds();
    let chosen = listed
        .iter()
        .position(|group| Some(&group[0].id) == state.hold.as_ref());
    let rows = listed
        .iter()
        .map(|group| {
            let like = match group.len() {
                1 => String::new(),
                n => format!(" ×{n}"),
            };
            let left = span(group[0].expires_in_s);
            let text = hold_text(group[0]);
            // What is left of the time comes before what may be long.
            let (id, rest) = text.split_once(' ').unwrap_or((&text, ""));
            (
                format!("{id}{like} {left:>6} {}", rest.trim_start()),
                "held".into(),
            )
        })
        .collect();
    ("HOLDS", rows, chosen, none(state, "nothing is held"))
}

fn events(state: &State) -> List {
    let listed = state.listed_events();
    let rows = listed
        .iter()
        .map(|event| {
            let word = match (event.kind, &event.would, &event.verdict) {
                (Kind::Lost, ..) => "kill",
                (_, Some(word), _) | (_, None, Some(word)) => word,
                _ => "",
            };
            (event_text(event), word.to_owned())
        })
        .collect();
    let chosen = state.event.or(listed.len().checked_sub(1));
    ("EVENTS", rows, chosen, none(state, "none yet"))
}

fn detail(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let columns = usize::from(area.width);
    let room = usize::from(area.height.saturating_sub(1));
    let lines = state.detail_lines(columns);
    let end = lines.len().saturating_sub(room);
    state.scroll_end.set(end);
    let scroll = state.scroll.min(end);
    let after = lines.len().saturating_sub(scroll + room);
    let mut title = match state.focus {
        Pane::Holds => "WHY".to_owned(),
        Pane::Sessions => "SESSION".to_owned(),
        Pane::Events => "EVENT".to_owned(),
    };
    if scroll > 0 || after > 0 {
        title.push_str(&format!(" (PgUp ↑{scroll} PgDn ↓{after})"));
    }
    let mut shown = vec![heading(&title, columns, false)];
    shown.extend(lines.into_iter().skip(scroll).take(room).map(|line| {
        let silence = line.trim_start().starts_with("Without an answer");
        let style = if silence { theme.look() } else { Style::new() };
        Line::styled(line, style)
    }));
    frame.render_widget(Paragraph::new(shown), area);
}

fn footer(state: &State, columns: usize, theme: Theme) -> Line<'static> {
    if state.mode == Mode::Filter {
        let text = safe(&format!(
            "filter: {}▏ (Enter keeps it, Esc shows all)",
            state.filter
        ));
        return Line::raw(clip(&text, columns));
    }
    if let Some(said) = &state.said {
        let style = if said.bad {
            theme.bad()
        } else {
            Style::new().add_modifier(Modifier::BOLD)
        };
        return Line::styled(clip(&safe(&said.text), columns), style);
    }
    let filter = if state.filter.is_empty() {
        String::new()
    } else {
        format!("[{}] ", safe(&state.filter))
    };
    let keys = "a approve  d deny  A/D all like it  p pause  K kill  / filter  ? help  q quit";
    Line::raw(clip(&format!("{filter}{keys}"), columns))
}

const HELP: &str = "\
Tab          next pane: sessions, holds, events
↑↓ j k       choose a line; Home g, End G to the ends
PgUp PgDn    scroll what is shown of it
Enter        processes of a session; an event whole
a  d         approve, deny the chosen hold; y confirms
A  D         all that are like it and are shown
p            pause the session; again: let it go on
K            kill the session; y confirms
/  Esc       list only what contains a text; all again
Ctrl-L       draw anew        Ctrl-Z  to the shell
q  Ctrl-C    quit             any key closes this";

/// A frame in the middle, with nothing shining through.
fn overlay(frame: &mut Frame<'_>, area: Rect, title: String, lines: Vec<Line<'_>>) {
    let (w, h) = (confirm::COLUMNS as u16 + 4, lines.len() as u16 + 2);
    let h = h.min(area.height);
    let at = Rect::new(
        area.x + (area.width - w) / 2,
        area.y + (area.height - h) / 2,
        w,
        h,
    );
    frame.render_widget(Clear, at);
    let block = Block::bordered()
        .title(format!(" {title} "))
        .padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Paragraph::new(lines).block(block), at);
}

fn help(frame: &mut Frame<'_>, area: Rect) {
    let lines = HELP.lines().map(Line::raw).collect();
    overlay(frame, area, "Keys".into(), lines);
}

fn question(frame: &mut Frame<'_>, area: Rect, asked: &confirm::Confirm, theme: Theme) {
    let mut lines: Vec<Line<'_>> = asked
        .lines
        .iter()
        .map(|line| Line::raw(line.clone()))
        .collect();
    lines.push(Line::styled("y yes      any other key: no", theme.look()));
    overlay(frame, area, asked.title.clone(), lines);
}
