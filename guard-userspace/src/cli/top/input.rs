//! What a key does.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    confirm::Confirm,
    state::{Mode, Pane, State},
};
use crate::wire::Request;

/// What has to happen outside of the state.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// End.
    Quit,
    /// Stop, as Ctrl-Z does in a shell.
    Suspend,
    /// Draw everything anew.
    Redraw,
    /// Ask guardd to do it.
    Ask(Request),
    /// Look again now.
    Look,
}

/// Lines that PgUp and PgDn move by.
const PAGE: usize = 8;

/// Takes a key.
pub fn key(state: &mut State, key: KeyEvent) -> Option<Effect> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Effect::Quit),
            KeyCode::Char('z') => Some(Effect::Suspend),
            KeyCode::Char('l') => Some(Effect::Redraw),
            _ => None,
        };
    }
    match &state.mode {
        Mode::Normal => normal(state, key.code),
        Mode::Filter => filter(state, key.code),
        Mode::Help => {
            state.mode = Mode::Normal;
            None
        }
        Mode::Confirm(_) => confirm(state, key.code),
    }
}

fn confirm(state: &mut State, code: KeyCode) -> Option<Effect> {
    let Mode::Confirm(confirm) = std::mem::replace(&mut state.mode, Mode::Normal) else {
        return None;
    };
    if code == KeyCode::Char('y') {
        state.say("asking guardd …".into(), false);
        return Some(Effect::Ask(confirm.request));
    }
    state.say("nothing was done".into(), false);
    None
}

fn filter(state: &mut State, code: KeyCode) -> Option<Effect> {
    match code {
        KeyCode::Enter => state.mode = Mode::Normal,
        KeyCode::Esc => {
            state.filter.clear();
            state.mode = Mode::Normal;
        }
        KeyCode::Backspace => {
            state.filter.pop();
        }
        KeyCode::Char(c) if state.filter.chars().count() < 60 => state.filter.push(c),
        _ => return None,
    }
    state.event = None;
    state.scroll = 0;
    state.choose();
    Some(Effect::Look)
}

fn normal(state: &mut State, code: KeyCode) -> Option<Effect> {
    state.said = None;
    match code {
        KeyCode::Char('q') => return Some(Effect::Quit),
        KeyCode::Char('?') | KeyCode::F(1) => state.mode = Mode::Help,
        KeyCode::Char('/') => state.mode = Mode::Filter,
        KeyCode::Esc => {
            state.filter.clear();
            state.event = None;
            state.choose();
        }
        KeyCode::Tab | KeyCode::BackTab => {
            state.focus = state.focus.step(code == KeyCode::BackTab);
            state.scroll = 0;
            return Some(Effect::Look);
        }
        KeyCode::Up | KeyCode::Char('k') => return moved(state, -1),
        KeyCode::Down | KeyCode::Char('j') => return moved(state, 1),
        KeyCode::Home | KeyCode::Char('g') => return moved(state, isize::MIN),
        KeyCode::End | KeyCode::Char('G') => return moved(state, isize::MAX),
        KeyCode::PageUp => page(state, true),
        KeyCode::PageDown | KeyCode::Char(' ') => page(state, false),
        KeyCode::Enter => match state.focus {
            Pane::Sessions => {
                state.tree = !state.tree;
                state.scroll = 0;
            }
            Pane::Events => state.whole_event = !state.whole_event,
            Pane::Holds => {}
        },
        KeyCode::Char(c @ ('a' | 'A' | 'd' | 'D')) => answer(state, c),
        KeyCode::Char('p') => return pause(state),
        KeyCode::Char('K') => kill(state),
        _ => {}
    }
    None
}

fn moved(state: &mut State, by: isize) -> Option<Effect> {
    let before = state.session.clone();
    state.step(by);
    (state.session != before).then_some(Effect::Look)
}

fn page(state: &mut State, up: bool) {
    if state.focus == Pane::Events && !state.whole_event {
        state.step(if up { -(PAGE as isize) } else { PAGE as isize });
    } else {
        let (at, end) = (state.scroll, state.scroll_end.get());
        state.scroll = if up {
            at.saturating_sub(PAGE)
        } else {
            at.saturating_add(PAGE).min(end)
        };
    }
}

/// Whether something may be asked of guardd; says why not.
fn may_act(state: &mut State) -> bool {
    let why = match (&state.lost, &state.status) {
        (Some(_), _) | (_, None) => Some("guardd cannot be reached".to_owned()),
        (None, Some(status)) => status.may_not_answer.clone(),
    };
    match why {
        Some(why) => {
            state.say(why, true);
            false
        }
        None => true,
    }
}

fn answer(state: &mut State, c: char) {
    if !may_act(state) {
        return;
    }
    let approve = c.eq_ignore_ascii_case(&'a');
    let asked = state.chosen_holds().and_then(|group| {
        if c.is_ascii_uppercase() {
            Confirm::all(&group, approve)
        } else {
            Some(Confirm::one(group[0], approve))
        }
    });
    match asked {
        Some(asked) => {
            state.focus = Pane::Holds;
            state.mode = Mode::Confirm(asked);
        }
        None => state.say("nothing is held".into(), true),
    }
}

/// The chosen session's id, and what it is for a question.
fn chosen(state: &mut State) -> Option<(String, String, bool)> {
    if !may_act(state) {
        return None;
    }
    let found = state.chosen_session().and_then(|id| {
        let session = state.sessions.iter().find(|session| session.id == id)?;
        let what = format!(
            "{} {}: {} of {}",
            session.id, session.agent, "every process", session.processes
        );
        Some((id, what, session.state == "paused"))
    });
    if found.is_none() {
        state.say("choose a live session first".into(), true);
    }
    found
}

/// Stopping is done at once, since it may be urgent and can be undone; letting go on is asked.
fn pause(state: &mut State) -> Option<Effect> {
    let (session, what, paused) = chosen(state)?;
    if !paused {
        state.say(format!("pausing {session} …"), false);
        return Some(Effect::Ask(Request::Pause { session }));
    }
    state.mode = Mode::Confirm(Confirm::session(
        &format!("Resume {session}?"),
        &what,
        Request::Resume { session },
    ));
    None
}

fn kill(state: &mut State) {
    if let Some((session, what, _)) = chosen(state) {
        state.mode = Mode::Confirm(Confirm::session(
            &format!("Kill {session}?"),
            &what,
            Request::Kill { session },
        ));
    }
}
