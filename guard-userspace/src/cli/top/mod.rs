//! `guardctl top`: sessions, holds and events on one screen, with keys to answer.
//!
//! Only a client of the control socket: what may be answered, and by whom, guardd decides. [`feed`] brings news,
//! [`state`] holds what is known and chosen, [`input`] says what a key does, [`view`] draws, and this file has
//! them meet.

mod cells;
mod confirm;
mod evidence;
mod feed;
mod input;
mod state;
mod terminal;
#[cfg(test)]
mod tests;
mod view;

use std::{
    env,
    io::{self, IsTerminal as _},
    path::Path,
    sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    time::{Duration, Instant},
};

use self::{
    feed::{News, Order},
    input::Effect,
    state::State,
    terminal::Tty,
    view::Theme,
};
use super::{failure::Failure, screen::Screen};
use crate::clock;

/// At most four pictures a second: the line may be thin, and eyes are not faster.
const FRAME: Duration = Duration::from_millis(250);
/// How often guardd is asked while nothing happens: times run, and losses are told by no event.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// News that wait.
const ROOM: usize = 1024;

/// Runs until it is ended; gives the exit status.
///
/// # Errors
/// Where there is no terminal to draw on, and what that says.
pub fn run(socket: &Path, json: bool, screen: Screen) -> Result<u8, Failure> {
    let no = |why: &str| {
        Err(Failure::Invalid(format!(
            "top: {why}: use 'guardctl pending' and 'guardctl events --follow'"
        )))
    };
    if json {
        return no("it draws a screen and has no JSON");
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return no("it needs a terminal");
    }
    match env::var("TERM") {
        Ok(term) if term == "dumb" => {
            return no("the terminal (TERM=dumb) cannot place the cursor");
        }
        _ => {}
    }
    let (sender, news) = mpsc::sync_channel(ROOM);
    // One look is under way at most, and keys come one at a time.
    let (orders, ordered) = mpsc::sync_channel(16);
    feed::signals(sender.clone());
    let tty = Tty::enter()?;
    feed::keys(sender.clone());
    feed::asking(socket.to_owned(), ordered, sender.clone());
    feed::events(socket.to_owned(), sender);
    let theme = Theme {
        color: screen.color,
    };
    Loop {
        state: State::new(clock::realtime_s()),
        tty,
        orders,
        looking: false,
        look_at: Instant::now(),
        looked: None,
        changed: true,
        drawn: None,
        theme,
    }
    .run(&news)
}

struct Loop {
    state: State,
    tty: Tty,
    orders: SyncSender<Order>,
    /// A look is under way.
    looking: bool,
    /// When the next one is due.
    look_at: Instant,
    looked: Option<Instant>,
    /// What is on the screen is old.
    changed: bool,
    drawn: Option<Instant>,
    theme: Theme,
}

impl Loop {
    fn run(mut self, news: &Receiver<News>) -> Result<u8, Failure> {
        loop {
            let now = Instant::now();
            if !self.looking && now >= self.look_at {
                self.order(Order::Look(self.state.wanted()));
                self.looking = true;
            }
            let may_draw = self.drawn.map_or(now, |drawn| drawn + FRAME);
            if self.changed && now >= may_draw {
                let (state, theme) = (&self.state, self.theme);
                self.tty.draw(|frame| view::draw(frame, state, theme))?;
                (self.changed, self.drawn) = (false, Some(now));
            }
            let mut until = now + LOOK_EVERY;
            if self.changed {
                until = until.min(may_draw);
            }
            if !self.looking {
                until = until.min(self.look_at);
            }
            let first = match news.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(one) => one,
                Err(RecvTimeoutError::Timeout) => {
                    self.clock();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            };
            // All that has come, within bounds, so that a flood makes one picture and keys are still read.
            for one in std::iter::once(first).chain(news.try_iter().take(ROOM)) {
                if let Some(status) = self.take(one)? {
                    return Ok(status);
                }
            }
        }
    }

    /// What shows that time goes by: only while guardd is silent, for else it says the ages.
    fn clock(&mut self) {
        let before = self.state.silence();
        self.state.now_s = clock::realtime_s();
        self.changed |= before != self.state.silence();
    }

    fn order(&mut self, order: Order) {
        if self.orders.try_send(order).is_err() {
            self.state
                .say("guardd has not answered yet: wait, or quit".into(), true);
            self.changed = true;
        }
    }

    fn look_soon(&mut self) {
        let soon = self
            .looked
            .map_or_else(Instant::now, |looked| looked + FRAME);
        self.look_at = self.look_at.min(soon);
    }

    /// Takes one thing that is new; the exit status when it is the end.
    fn take(&mut self, news: News) -> Result<Option<u8>, Failure> {
        match news {
            News::Key(key) => {
                self.changed = true;
                return self.key(key);
            }
            News::Resized => self.changed = true,
            News::NoKeys(error) => {
                return Err(Failure::No(format!("top: the terminal: {error}")));
            }
            News::Signal(libc::SIGTSTP) => {
                self.tty.suspend()?;
                self.changed = true;
            }
            News::Signal(libc::SIGCONT) => {
                self.tty.take_again()?;
                self.changed = true;
            }
            // As a shell tells it of a program that a signal has ended.
            News::Signal(signal) => return Ok(Some(128_u8.wrapping_add(signal as u8))),
            News::Looked(look) => {
                self.looking = false;
                let now = Instant::now();
                (self.looked, self.look_at) = (Some(now), now + LOOK_EVERY);
                self.changed = true;
                match look {
                    Ok(look) => self.state.looked(*look, clock::realtime_s()),
                    Err(failure) => self.unreachable(&failure),
                }
                // The keys may have gone elsewhere while it was under way.
                let shown = self.state.detail.as_ref().map(|detail| &detail.info.id);
                if self.state.wanted().as_ref() != shown && self.state.wanted().is_some() {
                    self.look_soon();
                }
            }
            News::Done(done) => {
                self.changed = true;
                match done {
                    Ok(message) => self.state.say(message, false),
                    Err(failure) => self.state.say(failure.to_string(), true),
                }
                self.look_soon();
            }
            News::Event(event) => {
                self.state.happened(*event);
                self.changed = true;
                self.look_soon();
            }
        }
        Ok(None)
    }

    fn unreachable(&mut self, failure: &Failure) {
        let now = clock::rfc3339_now();
        let time = now.get(11..19).unwrap_or_default().to_owned();
        self.state
            .unreachable(failure.to_string(), time, clock::realtime_s());
    }

    fn key(&mut self, key: ratatui::crossterm::event::KeyEvent) -> Result<Option<u8>, Failure> {
        match input::key(&mut self.state, key) {
            Some(Effect::Quit) => return Ok(Some(0)),
            Some(Effect::Suspend) => self.tty.suspend()?,
            Some(Effect::Redraw) => self.tty.redraw()?,
            Some(Effect::Ask(request)) => self.order(Order::Ask(request)),
            Some(Effect::Look) => self.look_soon(),
            None => {}
        }
        Ok(None)
    }
}
