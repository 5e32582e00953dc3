//! Where the news comes from: guardd by two connections (one that is asked, one that follows the events), the
//! keyboard, and signals. Each is a thread that waits; all tell one bounded channel, so that a flood makes its sender
//! wait and not this program grow.

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender},
    thread,
    time::Duration,
};

use ratatui::crossterm::event::{self, KeyEvent, KeyEventKind};

use super::{
    state::{EVENTS, Look},
    terminal,
};
use crate::{
    cli::{client::Conversation, failure::Failure},
    event::Event,
    wire::{Reply, Request, SessionDetail},
};

/// How long after a lost connection it is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Events of the past that are asked for at first.
const PAST: u64 = 200;

/// Something is new.
pub enum News {
    /// A key was pressed.
    Key(KeyEvent),
    /// The screen has another size.
    Resized,
    /// There will be no more keys.
    NoKeys(io::Error),
    /// A signal has come.
    Signal(libc::c_int),
    /// What guardd says, or why not.
    Looked(Result<Box<Look>, Failure>),
    /// What guardd did on request, or why not.
    Done(Result<String, Failure>),
    /// Something happened.
    Event(Box<Event>),
}

/// What the asking thread is to do.
pub enum Order {
    /// Look at everything, and at this session closely.
    Look(Option<String>),
    /// Ask guardd to do it.
    Ask(Request),
}

/// Tells of signals. Must be the first.
pub fn signals(news: SyncSender<News>) {
    terminal::signals(move |signal| news.send(News::Signal(signal)).is_ok());
}

/// Tells of keys.
pub fn keys(news: SyncSender<News>) {
    thread::spawn(move || {
        loop {
            let told = match event::read() {
                Ok(event::Event::Key(key)) if key.kind != KeyEventKind::Release => News::Key(key),
                Ok(event::Event::Resize(..)) => News::Resized,
                Ok(_) => continue,
                Err(error) => {
                    let _ = news.send(News::NoKeys(error));
                    return;
                }
            };
            if news.send(told).is_err() {
                return;
            }
        }
    });
}

/// Asks guardd what it is ordered to, over one connection as long as that holds.
pub fn asking(socket: PathBuf, orders: Receiver<Order>, news: SyncSender<News>) {
    thread::spawn(move || {
        let mut open = None;
        for order in orders {
            let told = match order {
                Order::Look(session) => {
                    News::Looked(look(&socket, &mut open, session).map(Box::new))
                }
                Order::Ask(request) => News::Done(ask(&socket, &mut open, &request).map(said)),
            };
            if news.send(told).is_err() {
                return;
            }
        }
    });
}

fn said(reply: Reply) -> String {
    match reply {
        Reply::Done { message } => message,
        _ => "done".into(),
    }
}

/// One question. A connection that has broken is made anew for the next one and not for this: what was asked may
/// have been done.
fn ask(
    socket: &Path,
    open: &mut Option<Conversation>,
    request: &Request,
) -> Result<Reply, Failure> {
    let reply = match open {
        Some(conversation) => conversation.ask(request),
        None => Conversation::open(socket, request)
            .and_then(|conversation| open.insert(conversation).next()),
    };
    if matches!(&reply, Err(failure) if !matches!(failure, Failure::Refused(_))) {
        *open = None;
    }
    reply
}

fn look(
    socket: &Path,
    open: &mut Option<Conversation>,
    session: Option<String>,
) -> Result<Look, Failure> {
    let strange = |open: &Option<Conversation>| match open {
        Some(conversation) => conversation.unexpected("something else than was asked".into()),
        None => Failure::No("guardd answered something else than was asked".into()),
    };
    let Reply::Status(status) = ask(socket, open, &Request::Status)? else {
        return Err(strange(open));
    };
    let Reply::Sessions { sessions } = ask(socket, open, &Request::Sessions { all: false })? else {
        return Err(strange(open));
    };
    let Reply::Pending {
        holds, left_out, ..
    } = ask(socket, open, &Request::Pending)?
    else {
        return Err(strange(open));
    };
    Ok(Look {
        status: *status,
        sessions,
        holds,
        left_out,
        detail: detail(socket, open, session)?,
    })
}

fn detail(
    socket: &Path,
    open: &mut Option<Conversation>,
    session: Option<String>,
) -> Result<Option<SessionDetail>, Failure> {
    let Some(session) = session else {
        return Ok(None);
    };
    match ask(socket, open, &Request::Show { session }) {
        Ok(Reply::Show(detail)) => Ok(Some(*detail)),
        // It has just ended.
        Ok(_) | Err(Failure::Refused(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Follows the events, over as many connections as it takes, without telling one twice. That guardd cannot be
/// reached is told by the other connection.
pub fn events(socket: PathBuf, news: SyncSender<News>) {
    thread::spawn(move || {
        let mut after = None;
        while follow(&socket, &mut after, &news) {
            // Nothing is waited for but another attempt's time.
            let (_never, wait) = std::sync::mpsc::channel::<()>();
            let _: Result<(), RecvTimeoutError> = wait.recv_timeout(AGAIN);
        }
    });
}

/// Until the connection breaks; whether somebody still listens.
fn follow(socket: &Path, after: &mut Option<u64>, news: &SyncSender<News>) -> bool {
    let mut open = None;
    let Ok(Reply::Status(status)) = ask(socket, &mut open, &Request::Status) else {
        return true;
    };
    let past = status.events.saturating_sub(PAST.min(EVENTS as u64));
    // A journal that was begun anew has smaller numbers.
    let from = match *after {
        Some(after) if after <= status.events => after,
        _ => past,
    };
    let request = Request::Events {
        follow: true,
        session: None,
        kinds: Vec::new(),
        after: from,
    };
    let Ok(mut conversation) = Conversation::open(socket, &request) else {
        return true;
    };
    *after = Some(from);
    if conversation.wait_for_ever().is_err() {
        return true;
    }
    while let Ok(Reply::Event(event)) = conversation.next() {
        *after = Some(event.seq.max(after.unwrap_or(0)));
        if news.send(News::Event(event)).is_err() {
            return false;
        }
    }
    true
}
