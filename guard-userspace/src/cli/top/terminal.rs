//! The terminal: taken over, and given back as it was in every way that this program can end.
//!
//! Signals that would end or stop it are blocked in every thread and taken by one that waits for them, so that the
//! terminal is given back first. SIGKILL and SIGSTOP cannot be: `reset` helps after those.

use std::{
    fs::File,
    io::{self, BufWriter},
    mem,
    os::fd::{AsFd as _, BorrowedFd},
    ptr, thread,
};

use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use rustix::process::{Signal, getpid, kill_process};

/// Taken by [`signals`].
const SIGNALS: [libc::c_int; 6] = [
    libc::SIGTERM,
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTSTP,
    libc::SIGCONT,
];

/// The screen while it is ours. Dropped, it is as it was.
pub struct Tty {
    terminal: Terminal<CrosstermBackend<BufWriter<File>>>,
    ours: bool,
}

impl Tty {
    /// Takes the terminal at stdout over.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn enter() -> io::Result<Self> {
        // A descriptor of its own: guardctl holds the lock of std's stdout.
        let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            give_back(io::stdout().as_fd());
            hook(info);
            // Whatever thread it was: half a program that looks alive is worse than none.
            std::process::exit(101);
        }));
        let terminal = Terminal::new(CrosstermBackend::new(BufWriter::new(out)))?;
        let mut tty = Self {
            terminal,
            ours: false,
        };
        tty.take()?;
        Ok(tty)
    }

    fn take(&mut self) -> io::Result<()> {
        enable_raw_mode()?;
        self.ours = true;
        execute!(self.terminal.backend_mut(), EnterAlternateScreen)?;
        self.terminal.hide_cursor()?;
        self.terminal.clear()
    }

    fn leave(&mut self) {
        if mem::take(&mut self.ours) {
            give_back(io::stdout().as_fd());
        }
    }

    /// Draws what has changed.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(picture).map(drop)
    }

    /// Gives the terminal back, stops as Ctrl-Z does, and takes it again when somebody lets this go on.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn suspend(&mut self) -> io::Result<()> {
        self.leave();
        kill_process(getpid(), Signal::STOP)?;
        self.take()
    }

    /// Takes a terminal that somebody may have changed meanwhile, and draws everything anew.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn take_again(&mut self) -> io::Result<()> {
        // Else it believes that nothing was changed.
        disable_raw_mode()?;
        self.take()
    }

    /// Draws everything anew the next time.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn redraw(&mut self) -> io::Result<()> {
        self.terminal.clear()
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Past every lock and buffer: it may be called when something has gone wrong.
fn give_back(out: BorrowedFd<'_>) {
    let mut said = Vec::new();
    // Neither fails on a Vec; and there is nobody to tell when the terminal is gone.
    let _ = execute!(said, LeaveAlternateScreen, Show);
    let mut rest = said.as_slice();
    while let Ok(written @ 1..) = rustix::io::write(out, rest) {
        rest = rest.get(written..).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
    }
    let _ = disable_raw_mode();
}

/// Has the signals that end or stop a program told to `tell` until that says no. Must be called before any other
/// thread is started: theirs are blocked by what they inherit.
pub fn signals(mut tell: impl FnMut(libc::c_int) -> bool + Send + 'static) {
    // SAFETY: sigset_t is plain data, and sigemptyset makes it valid; the others work on a valid set.
    let set = unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in SIGNALS {
            libc::sigaddset(&mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut());
        set
    };
    thread::spawn(move || {
        let mut signal = 0;
        loop {
            // SAFETY: both are valid for the call.
            if unsafe { libc::sigwait(&set, &mut signal) } == 0 && !tell(signal) {
                return;
            }
        }
    });
}
