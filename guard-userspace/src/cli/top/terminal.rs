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
        cursor::{Hide, Show},
        execute,
        terminal::{
            Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
            enable_raw_mode,
        },
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
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            give_back(io::stdout().as_fd());
            hook(info);
            // Whatever thread it was: half a program that looks alive is worse than none.
            std::process::exit(101);
        }));
        let mut tty = Self {
            terminal: blank()?,
            ours: false,
        };
        tty.take()?;
        Ok(tty)
    }

    fn take(&mut self) -> io::Result<()> {
        enable_raw_mode()?;
        self.ours = true;
        execute!(self.terminal.backend_mut(), EnterAlternateScreen, Hide)?;
        self.redraw()
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

    /// Sets a terminal up again that somebody may have changed while this was stopped, and draws everything anew.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn take_again(&mut self) -> io::Result<()> {
        // Else it believes that nothing was changed. The other screen is ours still: to enter it twice would make it
        // the one that is gone back to.
        disable_raw_mode()?;
        enable_raw_mode()?;
        execute!(self.terminal.backend_mut(), Hide)?;
        self.redraw()
    }

    /// Draws everything anew the next time. Not by the library's own means, which ask the terminal where the cursor
    /// is, and the answer comes among the keys, which another thread is waiting for.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn redraw(&mut self) -> io::Result<()> {
        self.terminal = blank()?;
        execute!(self.terminal.backend_mut(), Clear(ClearType::All))
    }
}

/// A terminal of which nothing is known to stand on it.
fn blank() -> io::Result<Terminal<CrosstermBackend<BufWriter<File>>>> {
    // A descriptor of its own: guardctl holds the lock of std's stdout.
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    Terminal::new(CrosstermBackend::new(BufWriter::new(out)))
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

#[cfg(test)]
mod tests {
    use std::{
        ffi::CStr,
        io::Read as _,
        os::fd::{FromRawFd as _, OwnedFd},
        process::Command,
    };

    use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

    use super::*;

    /// Says to the test below that it is run by the one after it, and how it shall end.
    const CHILD: &str = "GUARD_TEST_TERMINAL";

    /// A terminal: our end and the program's.
    fn pty() -> (File, File) {
        // SAFETY: the calls take numbers and a buffer of the given length; the descriptor is new and ours.
        let (master, name) = unsafe {
            let master = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
            assert!(master >= 0, "{}", io::Error::last_os_error());
            assert_eq!(libc::grantpt(master), 0);
            assert_eq!(libc::unlockpt(master), 0);
            let mut name = [0; 128];
            assert_eq!(libc::ptsname_r(master, name.as_mut_ptr(), name.len()), 0);
            let path = CStr::from_ptr(name.as_ptr()).to_str().unwrap().to_owned();
            (File::from(OwnedFd::from_raw_fd(master)), path)
        };
        let slave = File::options().read(true).write(true).open(name).unwrap();
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&slave, size).unwrap();
        (master, slave)
    }

    #[test]
    #[ignore = "run by the test below, on a terminal"]
    fn a_program_that_panics() {
        let Ok(how) = std::env::var(CHILD) else {
            return;
        };
        let mut tty = Tty::enter().unwrap();
        tty.draw(|frame| frame.render_widget("a picture", frame.area()))
            .unwrap();
        if how == "thread" {
            let _ = thread::spawn(|| panic!("out of order")).join();
            unreachable!("the panic has ended the program");
        }
        panic!("out of order");
    }

    #[test]
    fn a_panic_in_any_thread_gives_the_terminal_back_and_is_read_after_it() {
        for how in ["main", "thread"] {
            let (mut master, slave) = pty();
            let before = tcgetattr(&slave).unwrap();
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "--nocapture", "--test-threads=1"])
                .arg("cli::top::terminal::tests::a_program_that_panics")
                .env(CHILD, how)
                .env("TERM", "xterm")
                .stdin(slave.try_clone().unwrap())
                .stdout(slave.try_clone().unwrap())
                .stderr(slave.try_clone().unwrap())
                .spawn()
                .unwrap();
            let reader = thread::spawn(move || {
                let mut said = Vec::new();
                // Ends with an error when the last descriptor of the other end is closed.
                let _ = master.read_to_end(&mut said);
                String::from_utf8_lossy(&said).into_owned()
            });
            assert_eq!(child.wait().unwrap().code(), Some(101));
            let after = tcgetattr(&slave).unwrap();
            assert_eq!(
                (after.local_modes, after.input_modes, after.output_modes),
                (before.local_modes, before.input_modes, before.output_modes),
                "{how}"
            );
            drop(slave);
            let said = reader.join().unwrap();
            let (_, drawn) = said.split_once("\x1b[?1049h").expect("it was entered");
            let (drawn, rest) = drawn.split_once("\x1b[?1049l").expect("and left");
            assert!(drawn.contains("picture"), "{said:?}");
            assert!(
                rest.contains("\x1b[?25h") && rest.contains("out of order"),
                "{said:?}"
            );
        }
    }
}
