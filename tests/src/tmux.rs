//! A real terminal: tmux with a server of the test's own, that keys are sent to and whose screen is read.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::{Place, patience};

/// One window with a shell. Dropped, its server is ended, and with it whatever runs there.
pub struct Tmux {
    place: Place,
    socket: String,
}

impl Tmux {
    /// A window of this size, with further environment for its shell.
    ///
    /// # Panics
    /// When tmux does not start.
    #[track_caller]
    pub fn start(place: &Place, columns: u16, lines: u16, env: &[(&str, &str)]) -> Self {
        let tmux = Self {
            place: place.clone(),
            socket: place.name("tmux"),
        };
        let mut command = tmux.command();
        // No configuration of the user's; a shell that says nothing but its prompt.
        command.args(["-f", "/dev/null", "new-session", "-d"]);
        command.args(["-x", &columns.to_string(), "-y", &lines.to_string()]);
        for (name, value) in env {
            command.arg("-e").arg(format!("{name}={value}"));
        }
        command.args(["env", "-u", "ENV", "PS1=$ ", "sh", "-i"]);
        let output = command.output().expect("tmux");
        assert!(output.status.success(), "tmux: {output:?}");
        tmux.wait("a prompt", |screen| {
            screen.iter().any(|line| line.starts_with('$'))
        });
        tmux
    }

    fn command(&self) -> Command {
        let mut command = self.place.command("tmux");
        command
            .env("TMUX_TMPDIR", self.place.dir())
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX")
            .env_remove("NO_COLOR")
            .args(["-u", "-L", &self.socket]);
        command
    }

    #[track_caller]
    fn tmux(&self, args: &[&str]) -> String {
        let output = self.command().args(args).output().expect("tmux");
        assert!(output.status.success(), "tmux {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Presses keys by tmux's names: `a`, `Enter`, `C-z`, `Tab`.
    #[track_caller]
    pub fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys", "--"], keys].concat());
    }

    /// Types a line into the shell.
    #[track_caller]
    pub fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", "--", text]);
        self.press(&["Enter"]);
    }

    /// What stands on the screen, a text a line, without the spaces at their ends.
    #[track_caller]
    pub fn screen(&self) -> Vec<String> {
        let text = self.tmux(&["capture-pane", "-p"]);
        text.lines()
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    /// The same with escape sequences for what is not plain.
    #[track_caller]
    pub fn painted(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// A format of tmux's for the window: `#{alternate_on}`.
    #[track_caller]
    pub fn format(&self, format: &str) -> String {
        self.tmux(&["display-message", "-p", format])
            .trim()
            .to_owned()
    }

    /// Gives the window another size.
    #[track_caller]
    pub fn resize(&self, columns: u16, lines: u16) {
        let (x, y) = (columns.to_string(), lines.to_string());
        self.tmux(&["resize-window", "-x", &x, "-y", &y]);
    }

    /// Waits until the screen is as it should be; gives it.
    ///
    /// # Panics
    /// When it is not by the deadline.
    #[track_caller]
    pub fn wait(&self, what: &str, is: impl Fn(&[String]) -> bool) -> Vec<String> {
        let deadline = Instant::now() + patience();
        loop {
            let screen = self.screen();
            if is(&screen) {
                return screen;
            }
            assert!(
                Instant::now() < deadline,
                "not on the screen in time: {what}\n{}",
                screen.join("\n")
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Waits until some line contains the text; gives the screen.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> Vec<String> {
        self.wait(text, |screen| screen.iter().any(|line| line.contains(text)))
    }

    /// Waits until no line contains the text.
    #[track_caller]
    pub fn wait_gone(&self, text: &str) -> Vec<String> {
        self.wait(&format!("without {text}"), |screen| {
            !screen.iter().any(|line| line.contains(text))
        })
    }

    /// What a command says of the terminal's settings, by way of a file.
    #[track_caller]
    pub fn settings(&self, name: &str) -> String {
        let path = self.path(name);
        // Complete when it has its name.
        self.line(&format!(
            "stty -g > {0}.new; mv {0}.new {0}",
            path.display()
        ));
        crate::eventually("the terminal's settings", || {
            std::fs::read_to_string(&path).ok()
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.place.dir()).join(name)
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command().arg("kill-server").output();
    }
}
