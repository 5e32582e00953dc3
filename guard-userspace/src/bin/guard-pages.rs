//! Writes the man pages and the shells' completions of guardd and guardctl to a directory, for packages. Both come from
//! the definitions that the programs parse their command lines with.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use guard::{cli, daemon};

/// What each page says at its end; clap knows nothing of it. Roff.
const GUARDCTL: &str = r".SH FILES
.TP
/run/guard/guard.sock
where guardd listens
.TP
/etc/guard/policy.toml
the policy; the one inside guardd is in force where this is not there
.SH SEE ALSO
.BR guardd (8)
";
/// See [`GUARDCTL`].
const GUARDD: &str = r".SH SIGNALS
.TP
SIGTERM, SIGINT
settle what is held, take everything off, end
.TP
SIGHUP
read the policy again; a mistake in it changes nothing
.TP
SIGUSR2
end and leave everything in force for the next guardd
.SH ENVIRONMENT
.TP
GUARD_SOCKET
stands in for \-\-socket
.TP
GUARD_LOG
what is logged: error, warn, info, debug, trace
.SH EXIT STATUS
0 when it was told to end; 1 when it cannot work; 2 when the policy or the command line is wrong
.SH FILES
.TP
/etc/guard/policy.toml
the policy; the one inside guardd is in force where this is not there
.TP
/var/lib/guard
journal and state
.TP
/run/guard/guard.sock
control socket
.SH SEE ALSO
.BR guardctl (1)
";

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let (Some(dir), None) = (words.next(), words.next()) else {
        eprintln!("guard-pages: usage: guard-pages DIRECTORY");
        return ExitCode::from(2);
    };
    match write(Path::new(&dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guard-pages: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn write(dir: &Path) -> anyhow::Result<()> {
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    for dir in [&man, &completions] {
        fs::create_dir_all(dir).with_context(|| format!("{}", dir.display()))?;
    }
    let programs = [
        (cli::command(), "1", GUARDCTL),
        (daemon::Arguments::command(), "8", GUARDD),
    ];
    for (mut program, section, end) in programs {
        let name = program.get_name().to_owned();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut program, &name, &completions)
                .with_context(|| format!("{shell} completions of {name}"))?;
        }
        program.build();
        pages(&man, &program, &name, section, end)?;
    }
    Ok(())
}

/// The page of a command and, below, of each of its own: `guardctl-policy-check.1`.
fn pages(
    dir: &Path,
    command: &Command,
    name: &str,
    section: &str,
    end: &str,
) -> anyhow::Result<()> {
    if name.contains('/') {
        bail!("{name}: not a file's name");
    }
    let mut page = Vec::new();
    // clap_mangen takes the title from the name; a command below another has only its last word for one.
    // Its names are of the program's own life, and so are these few.
    let title: &'static str = name.to_owned().leak();
    let titled = command.clone().name(title).display_name(title);
    clap_mangen::Man::new(titled)
        .section(section)
        .source(format!("guard {}", env!("CARGO_PKG_VERSION")))
        .render(&mut page)?;
    page.extend_from_slice(end.as_bytes());
    let path: PathBuf = dir.join(format!("{name}.{section}"));
    fs::write(&path, page).with_context(|| format!("{}", path.display()))?;
    for below in command.get_subcommands() {
        if below.is_hide_set() || below.get_name() == "help" {
            continue;
        }
        let name = format!("{name}-{}", below.get_name());
        pages(dir, below, &name, section, end)?;
    }
    Ok(())
}
