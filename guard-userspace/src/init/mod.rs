//! `guardctl init`: a first policy for this machine, from what is on it and a few questions.
//!
//! What it writes is a fragment, so that the policy it goes with, the built-in one where there is no other, still
//! comes with guard and is renewed with it.

mod agents;
#[cfg(test)]
mod tests;
mod words;

use std::{
    fs,
    io::{self, BufRead, IsTerminal as _, Write},
    path::{Path, PathBuf},
};

pub use self::agents::{FoundAgent, find as find_agents};
use crate::{
    engine::{make_directory, write_whole},
    policy::{
        Mode, Part, Policy, Source,
        files::{self, Trust},
        users::accounts,
    },
};

/// Name of the fragment that it writes.
pub const FRAGMENT: &str = "50-init.toml";

/// How it was called.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of the policy.
    pub directory: PathBuf,
    /// Ask nothing; what is not said is as in [`Choices::default`].
    pub yes: bool,
    /// Only print what would be written.
    pub print: bool,
    /// Write over a file that is there.
    pub force: bool,
    /// What has been decided on the command line.
    pub mode: Option<Mode>,
    /// Programs to watch beside those that the policy knows.
    pub agents: Option<Vec<String>>,
    /// Users who are to answer.
    pub answer: Option<Vec<String>>,
    /// How people are told of holds.
    pub notify: Option<Vec<String>>,
    /// Users of this machine.
    pub passwd: PathBuf,
    /// Groups of this machine.
    pub group: PathBuf,
    /// Where the directories of users who are logged in are, with their session buses.
    pub sessions: PathBuf,
    /// What the service needs beside its unit to reach these, where guard was installed as a package.
    pub drop_in: PathBuf,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choices {
    /// Whether verdicts are carried out.
    pub mode: Mode,
    /// Base names of programs that are agents too.
    pub agents: Vec<String>,
    /// Users who are to answer.
    pub answer: Vec<String>,
    /// How people are told of holds: of [`CHANNELS`].
    pub notify: Vec<String>,
}

/// Channels that need nothing but their name.
pub const CHANNELS: [&str; 2] = [TERMINAL, DESKTOP];
/// The user's terminals: told there by default, since whoever runs an agent usually has one.
const TERMINAL: &str = "terminal";
/// The user's desktop: only offered where somebody is at one.
const DESKTOP: &str = "desktop";

/// Whether somebody who is logged in has a session bus.
fn has_session_bus(sessions: &Path) -> bool {
    let users = fs::read_dir(sessions).into_iter().flatten().flatten();
    let mut buses = users.map(|user| user.path().join("bus"));
    buses.any(|bus| {
        use std::os::unix::fs::FileTypeExt as _;
        fs::symlink_metadata(bus).is_ok_and(|meta| meta.file_type().is_socket())
    })
}

impl Default for Choices {
    fn default() -> Self {
        Self {
            mode: Mode::Observe,
            agents: Vec::new(),
            answer: Vec::new(),
            notify: vec![TERMINAL.to_owned()],
        }
    }
}

/// Does it. Gives what to tell the person.
///
/// # Errors
/// In one line: nothing to ask on, a file that is there, a wrong name, a policy that would not be right.
pub fn init(options: &Options) -> Result<String, String> {
    let directory = &options.directory;
    let path = directory.join(files::FRAGMENTS).join(FRAGMENT);
    let mut before = Vec::new();
    let read = files::directory_parts(directory, Trust::Anybodys);
    for part in read.map_err(|error| format!("init: {}", error.one_line()))? {
        if part.source != Source::File(path.clone()) {
            before.push(part);
        }
    }
    if path.exists() && !options.force && !options.print {
        return Err(format!(
            "init: {} is there already: change it, or let it be replaced with --force",
            path.display()
        ));
    }
    let policy = Policy::of(&before).map_err(|error| format!("init: {}", error.one_line()))?;
    let mut options = options.clone();
    if !policy.settings.notify.is_empty() {
        if options.notify.iter().flatten().any(|name| name != "none") {
            return Err(
                "init: --notify: the policy has [notify] already, in whose place another would come: add the channel there"
                    .into(),
            );
        }
        // Nor is it asked for.
        options.notify = Some(Vec::new());
    }
    let options = &options;
    let accounts = accounts(&options.passwd);
    let found = find_agents(&policy, &accounts);
    let mut choices = if options.yes || options.print {
        decided(options, Choices::default())
    } else if io::stdin().is_terminal() {
        let (stdin, mut stderr) = (io::stdin(), io::stderr());
        ask(options, &found, &mut stdin.lock(), &mut stderr)
            .map_err(|error| format!("init: {error}"))?
    } else {
        return Err(
            "init: no terminal to ask on: give --yes, and what differs from its defaults as options"
                .into(),
        );
    };
    choices.notify.retain(|name| name != "none");
    check(&choices, &policy, &accounts)?;
    let text = words::fragment(&choices, &found, &before);
    // Nothing is written that guardd would not load.
    let mut parts = before;
    let at = parts
        .iter()
        .skip(1)
        .filter(|part| comes_before(part, &path))
        .count()
        + 1;
    let new = Part {
        source: Source::File(path.clone()),
        text: text.clone(),
    };
    parts.insert(at, new);
    let whole = Policy::of(&parts).map_err(|error| {
        format!(
            "init: what would be written does not go with the policy that is there: {}",
            error.one_line()
        )
    })?;
    if options.print {
        return Ok(text);
    }
    let write = || -> io::Result<()> {
        make_directory(&directory.join(files::FRAGMENTS))?;
        write_whole(&path, &text)
    };
    write().map_err(|error| format!("init: {}: {error}: run it as root", path.display()))?;
    Ok(words::next_steps(
        &choices,
        &whole,
        &path,
        &fs::read_to_string(&options.group).unwrap_or_default(),
        Some(options.drop_in.as_path()).filter(|file| file.is_file()),
    ))
}

fn comes_before(part: &Part, path: &Path) -> bool {
    matches!(&part.source, Source::File(other) if other.as_path() < path)
}

/// What the command line says, and the rest from `otherwise`.
fn decided(options: &Options, otherwise: Choices) -> Choices {
    Choices {
        mode: options.mode.unwrap_or(otherwise.mode),
        agents: options.agents.clone().unwrap_or(otherwise.agents),
        answer: options.answer.clone().unwrap_or(otherwise.answer),
        notify: options.notify.clone().unwrap_or(otherwise.notify),
    }
}

/// Asks what the command line does not say.
fn ask(
    options: &Options,
    found: &[FoundAgent],
    from: &mut dyn BufRead,
    to: &mut dyn Write,
) -> io::Result<Choices> {
    let mut choices = decided(options, Choices::default());
    write!(to, "{}", words::found(found, ""))?;
    if options.agents.is_none() {
        let answer = question(
            from,
            to,
            "Are there programs here that are agents too, and are not in this list? Names, or nothing",
        )?;
        choices.agents = names(&answer);
    }
    while options.mode.is_none() {
        let answer = question(
            from,
            to,
            "Only tell what would be stopped (observe), or stop it from the beginning (enforce)? [observe]",
        )?;
        choices.mode = match answer.as_str() {
            "" | "observe" => Mode::Observe,
            "enforce" => Mode::Enforce,
            _ => continue,
        };
        break;
    }
    if options.answer.is_none() {
        let answer = question(
            from,
            to,
            "Which users may answer when guard holds an agent, besides root? Names, or nothing",
        )?;
        choices.answer = names(&answer);
    }
    if options.notify.is_none() {
        let text = if has_session_bus(&options.sessions) {
            "How is the session's user told when something is held? Any of terminal (those they are logged in on), \
             desktop (a notification), or none [terminal]"
        } else {
            "How is the session's user told when something is held? On every terminal that they are logged in on \
             (terminal), or none [terminal]"
        };
        let answer = question(from, to, text)?;
        if !answer.is_empty() {
            choices.notify = names(&answer);
        }
    }
    choices.notify.retain(|name| name != "none");
    Ok(choices)
}

fn question(from: &mut dyn BufRead, to: &mut dyn Write, text: &str) -> io::Result<String> {
    write!(to, "{text}: ")?;
    to.flush()?;
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the answers ended before the questions: nothing is written",
        ));
    }
    Ok(line.trim().to_owned())
}

fn names(text: &str) -> Vec<String> {
    text.split([' ', ','])
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Names that mean what the person meant.
fn check(
    choices: &Choices,
    policy: &Policy,
    accounts: &[crate::policy::users::Account],
) -> Result<(), String> {
    for name in &choices.agents {
        let good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !name.chars().all(good) {
            return Err(format!(
                "init: agent \"{name}\": not a program's name: expected a base name, like my-agent"
            ));
        }
        if policy.agents.iter().any(|agent| agent.name == *name) {
            return Err(format!(
                "init: agent \"{name}\": the policy knows it already: leave it out"
            ));
        }
    }
    for name in &choices.notify {
        if !CHANNELS.contains(&name.as_str()) {
            let known = CHANNELS.join(", ");
            return Err(format!(
                "init: notification \"{name}\": expected {known}, or none"
            ));
        }
    }
    for name in &choices.answer {
        if !accounts.iter().any(|account| account.name == *name) {
            return Err(format!(
                "init: user \"{name}\": there is no such user here: expected names of users"
            ));
        }
    }
    Ok(())
}
