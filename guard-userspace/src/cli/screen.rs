//! What stdout is: how wide, and whether it takes colour.

use std::{
    env,
    io::{self, IsTerminal as _},
};

/// How to print for people.
#[derive(Clone, Copy, Debug, Default)]
pub struct Screen {
    /// Escape sequences for colour are welcome.
    pub color: bool,
    /// Columns of the terminal; `None` for a file or a pipe, where nothing is cut.
    pub width: Option<usize>,
}

impl Screen {
    /// Of this process's stdout. Colour only on a terminal, and not where `NO_COLOR` says no
    /// (<https://no-color.org>).
    pub fn of_stdout() -> Self {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return Self::default();
        }
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let color = !set("NO_COLOR") && env::var_os("TERM").is_none_or(|term| term != "dumb");
        let width =
            rustix::termios::tcgetwinsize(&stdout).map_or(80, |size| usize::from(size.ws_col));
        Self {
            color,
            width: Some(if width < 20 { 80 } else { width }),
        }
    }

    /// Columns to fill with running text.
    pub fn text_width(&self) -> usize {
        self.width.unwrap_or(80).min(100)
    }

    /// Cuts a line that would not fit.
    pub fn clip(&self, line: &str) -> String {
        match self.width {
            Some(width) => super::escape::clip(line, width),
            None => line.to_owned(),
        }
    }

    /// Emphasis.
    pub fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    /// Of less weight than what stands around it.
    pub fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    /// Something is wrong, lost or killed.
    pub fn red(&self, text: &str) -> String {
        self.paint("31", text)
    }

    /// As it should be.
    pub fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Waits for a person, or is worth a look.
    pub fn yellow(&self, text: &str) -> String {
        self.paint("33", text)
    }

    /// In the colour of a verdict or of a session's state.
    pub fn by_meaning(&self, word: &str, text: &str) -> String {
        match word {
            "kill" | "deny" | "degraded" => self.red(text),
            "hold" | "held" | "flag" | "paused" | "stopped" => self.yellow(text),
            "ended" | "expired" | "revoked" => self.dim(text),
            _ => text.to_owned(),
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
