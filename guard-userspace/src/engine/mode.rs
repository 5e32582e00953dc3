//! `guardctl enforce` and `guardctl observe`: the mode, written into a fragment of the policy, and loaded.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use serde_json::json;

use super::{By, Engine, Refusal};
use crate::{
    DEFAULT_POLICY,
    event::{Event, Kind},
    policy::{Mode, files},
};

/// The fragment's name: behind whatever people write, since the last file that says so decides.
pub const FRAGMENT: &str = "99-mode.toml";

/// What the fragment says.
fn text(mode: Mode) -> String {
    format!(
        "# Written by 'guardctl {0}'. Remove this file to let the mode of the other files stand.\n\
         version = 1\nmode = \"{0}\"\n",
        match mode {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
        }
    )
}

/// Makes a directory, and those above it, that others cannot write to whatever the umask: guardd would refuse it.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
}

/// Writes a file whole or not at all.
pub(crate) fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Hidden, so that nobody takes it for a fragment.
    let new = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || {
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    let done = write();
    if done.is_err() {
        let _ = fs::remove_file(&new);
    }
    done
}

impl Engine {
    /// Sets the mode for good. What cannot be put in force is taken back.
    pub(super) fn set_mode(&mut self, mode: Mode, by: By) -> Result<String, Refusal> {
        let word = mode.name();
        if let Some(forced) = self.options.mode.filter(|forced| *forced != mode) {
            return Err(Refusal::failed(format!(
                "{word}: guardd was started with --mode {}, which stands above the policy: start it without",
                forced.name()
            )));
        }
        let before = self.mode();
        let main = self
            .options
            .policy
            .clone()
            .unwrap_or_else(|| DEFAULT_POLICY.into());
        let directory = files::fragments_of(&main);
        let path = directory.join(FRAGMENT);
        let old = fs::read_to_string(&path).ok();
        let failed = |error: io::Error| {
            Refusal::failed(format!(
                "{word}: {}: {error}: write mode = \"{word}\" into the policy yourself, then 'guardctl policy reload'",
                path.display()
            ))
        };
        make_directory(&directory).map_err(failed)?;
        write_whole(&path, &text(mode)).map_err(failed)?;
        let reloaded = self.reload().and_then(|said| {
            if self.mode() == mode {
                return Ok(said);
            }
            Err(Refusal::failed(format!(
                "{word}: a file in {} that comes after {FRAGMENT} says otherwise: remove mode from it",
                directory.display()
            )))
        });
        if let Err(error) = reloaded {
            let restored = match &old {
                Some(old) => write_whole(&path, old),
                None => fs::remove_file(&path),
            };
            if let Err(error) = restored {
                tracing::error!("{}: {error}", path.display());
            }
            return Err(error);
        }
        let mut event = Event::new(Kind::Guard);
        event.object = Some(json!({
            "what": "mode", "mode": word, "before": before.name(), "by_uid": by.uid, "by_pid": by.pid,
        }));
        self.tell(event);
        Ok(self.mode_in_words(before, mode, &path))
    }

    fn mode_in_words(&self, before: Mode, mode: Mode, path: &Path) -> String {
        let rules = |observe: bool| {
            let rules = self.policy.rules.iter();
            let counts = |rule: &&crate::policy::Rule| {
                rule.then > guard_common::Verdict::Flag && rule.observe == observe
            };
            rules.filter(counts).count()
        };
        let s = |count: usize| if count == 1 { "" } else { "s" };
        let (acting, observing) = (rules(false), rules(true));
        let what = match mode {
            Mode::Enforce => format!(
                "{acting} rule{} that hold, deny or kill are carried out from now on",
                s(acting)
            ),
            Mode::Observe => format!(
                "nothing is held, denied or killed any more; {acting} rule{} only record what they would have done",
                s(acting)
            ),
        };
        let own = match observing {
            0 => String::new(),
            _ if mode == Mode::Observe => String::new(),
            some => format!("; {some} more stay in observe by their own mode"),
        };
        let change = if before == mode {
            format!("{} (as before)", mode.name())
        } else {
            format!("{} (was {})", mode.name(), before.name())
        };
        format!("{change}: {what}{own}; written to {}", path.display())
    }
}
