//! What of a session's doings is outside of what it is for, and what looks like a search for credentials: facts that guardd
//! finds by itself, in events that are told anyway.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Engine, Session, session::number};
use crate::{
    clock,
    event::{Event, Kind},
    intent::{FILE, Intent, MAX_FILE},
    policy::{BY_GUARD, HUNT, Homes, OUTSIDE_INTENT, OUTSIDE_PERSONA},
    process::{self, Id},
};

/// The variable by which whoever starts an agent says what it is for.
const VARIABLE: &[u8] = b"GUARD_INTENT=";
/// Bytes of such a text.
const MAX_TEXT: usize = 4096;
/// Things outside that one session is told of within [`AGAIN_NS`]: others are told when that is over.
const MAX_OUTSIDE: usize = 32;
/// The same thing outside is told again after this time.
const AGAIN_NS: u64 = 60_000_000_000;
/// Credential files that a session is remembered to have opened.
const MAX_HUNTED: usize = 64;

/// What a session is for, and what it has been found to do besides.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Purpose {
    /// What was made of its intent.
    pub intent: Option<Intent>,
    /// Why it has none though its directory says something.
    #[serde(default)]
    pub problem: Option<String>,
    /// Its kind of work.
    pub persona: Option<String>,
    /// What was told to be outside: what, and when.
    outside: VecDeque<(String, u64)>,
    /// Credential files that it has opened: which, and when last.
    hunted: VecDeque<(String, u64)>,
}

/// A fact that waits to be judged.
pub(super) struct Found {
    session: u32,
    label: &'static str,
    /// What the session did.
    cause: Event,
    object: Value,
}

impl Engine {
    /// What a session that begins is for: as it was said, else as its environment says, else as its directory does.
    pub(super) fn purpose_of(
        &self,
        root: Id,
        agent: &str,
        said: Option<String>,
        persona: Option<String>,
    ) -> Purpose {
        let directory = process::cwd(root.pid);
        let mut problem = None;
        let intent = match said.or_else(|| variable_of(root.pid)) {
            Some(text) => Some(Intent::understand(&text)),
            None => match directory.as_deref().map(|path| intent_in(path, root.pid)) {
                Some(Ok(intent)) => intent,
                Some(Err(why)) => {
                    problem = Some(why);
                    None
                }
                None => None,
            },
        };
        let homes = Homes::from_system();
        let persona = persona.or_else(|| {
            let mut all = self.policy.personas.iter();
            all.find(|persona| persona.is_for(agent, directory.as_deref(), &homes))
                .map(|persona| persona.name.clone())
        });
        Purpose {
            intent,
            problem,
            persona,
            ..Purpose::default()
        }
    }

    /// Takes an event into what is known of its session's purpose, and of those around it.
    pub(super) fn note_purpose(&mut self, event: &Event) {
        let acts = matches!(
            event.kind,
            Kind::Exec | Kind::Open | Kind::Connect | Kind::Request | Kind::Signal | Kind::Call
        );
        if !acts || event.labels.is_empty() {
            return;
        }
        let now = event.mono_ns.unwrap_or_else(clock::monotonic_ns);
        let target = super::target_of(event);
        let hunting = self.policy.settings.hunting.clone();
        let mut next = event.session.as_deref().and_then(|name| number("s", name));
        while let Some(id) = next {
            let Some(session) = self.sessions.get_mut(&id) else {
                break;
            };
            next = session.parent;
            let mut found = Vec::new();
            if let Some(object) = hunts(&mut session.purpose, event, &target, now, &hunting) {
                found.push((HUNT, object));
            }
            if let Some(object) = outside_intent(session, event, &target, now) {
                found.push((OUTSIDE_INTENT, object));
            }
            let persona = session.purpose.persona.clone();
            let persona = persona.and_then(|name| {
                let mut all = self.policy.personas.iter();
                all.find(|persona| persona.name == name)
            });
            if let Some(persona) = persona
                && let Some(object) = outside_persona(session, persona, event, &target, now)
            {
                found.push((OUTSIDE_PERSONA, object));
            }
            for (label, object) in found {
                self.found.push(Found {
                    session: id,
                    label,
                    cause: event.clone(),
                    object,
                });
            }
        }
    }

    /// Tells of what was found, once nothing else is being judged.
    pub(super) fn tell_found(&mut self) {
        for found in std::mem::take(&mut self.found) {
            let Found {
                session,
                label,
                cause,
                object,
            } = found;
            if !self.sessions.contains_key(&session) {
                continue;
            }
            let mut event = self.event_for(Kind::Session, Some(session));
            (event.pid, event.tgid, event.ppid) = (cause.pid, cause.tgid, cause.ppid);
            (event.uid, event.start) = (cause.uid, cause.start);
            (event.exe, event.comm, event.argv) = (cause.exe, cause.comm, cause.argv);
            event.object = Some(object);
            if self.policy.labels.iter().any(|known| known == label) {
                self.judge_found(session, label, event);
            } else {
                self.tell(event);
            }
        }
    }
}

/// Counts a credential file; what to tell when there are enough of them.
fn hunts(
    purpose: &mut Purpose,
    event: &Event,
    target: &str,
    now: u64,
    hunting: &crate::policy::Hunting,
) -> Option<Value> {
    let credential =
        event.kind == Kind::Open && event.labels.iter().any(|label| label == "credential");
    if !credential || hunting.files == 0 {
        return None;
    }
    let within = u64::try_from(hunting.within.as_nanos()).unwrap_or(u64::MAX);
    purpose
        .hunted
        .retain(|(path, at)| path != target && now.saturating_sub(*at) <= within);
    if purpose.hunted.len() >= MAX_HUNTED {
        purpose.hunted.pop_front();
    }
    purpose.hunted.push_back((target.to_owned(), now));
    if purpose.hunted.len() < hunting.files {
        return None;
    }
    let files: Vec<String> = std::mem::take(&mut purpose.hunted)
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    Some(json!({
        "what": "credential hunt",
        "files": files,
        "within_s": hunting.within.as_secs(),
    }))
}

/// Labels that are somebody's purpose, or not; those that guardd finds are about other labels.
fn governed(event: &Event) -> Vec<String> {
    let mut labels = event.labels.clone();
    labels.retain(|label| !BY_GUARD.contains(&label.as_str()));
    labels
}

fn outside_intent(session: &mut Session, event: &Event, target: &str, now: u64) -> Option<Value> {
    let intent = session.purpose.intent.clone()?;
    let words = match &event.argv {
        Some(argv) if event.kind == Kind::Exec => argv.join(" "),
        _ => target.to_owned(),
    };
    let outside = intent.excludes(&governed(event), &words)?;
    let why = outside.says();
    is_news(&mut session.purpose, format!("intent {why}"), now).then(|| {
        json!({
            "what": "outside intent",
            "intent": intent.text,
            "understood": intent.says(),
            "why": why,
            "did": target,
            "of": event.seq,
        })
    })
}

fn outside_persona(
    session: &mut Session,
    persona: &crate::policy::Persona,
    event: &Event,
    target: &str,
    now: u64,
) -> Option<Value> {
    let mut labels = governed(event);
    labels.retain(|label| !persona.allows.contains(label));
    if labels.is_empty() {
        return None;
    }
    let why = format!("it is about {}", labels.join(", "));
    is_news(&mut session.purpose, format!("persona {why}"), now).then(|| {
        json!({
            "what": "outside persona",
            "persona": persona.name,
            "why": why,
            "did": target,
            "of": event.seq,
        })
    })
}

/// Whether something outside has not been told for a while.
fn is_news(purpose: &mut Purpose, what: String, now: u64) -> bool {
    purpose
        .outside
        .retain(|(_, at)| now.saturating_sub(*at) < AGAIN_NS);
    if purpose.outside.iter().any(|(known, _)| *known == what)
        || purpose.outside.len() >= MAX_OUTSIDE
    {
        return false;
    }
    purpose.outside.push_back((what, now));
    true
}

/// What the environment of a process says that it is for.
fn variable_of(pid: u32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environment
        .split(|byte| *byte == 0)
        .find_map(|entry| entry.strip_prefix(VARIABLE))?;
    let text = String::from_utf8_lossy(&value[..value.len().min(MAX_TEXT)]).into_owned();
    (!text.trim().is_empty()).then_some(text)
}

/// What a directory says that work in it is for. It is its owner's file: no link is followed to it, and nothing waited for.
fn intent_in(directory: &Path, pid: u32) -> Result<Option<Intent>, String> {
    let path: PathBuf = directory.join(FILE);
    let said = |error: &dyn std::fmt::Display| {
        format!("{}: {error}: the session has no intent", path.display())
    };
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(&path);
    let file: File = match file {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ENOTDIR) => return Ok(None),
        Err(error) => return Err(said(&error)),
    };
    let meta = file.metadata().map_err(|error| said(&error))?;
    if !meta.is_file() || meta.len() > MAX_FILE as u64 {
        return Err(said(&format!(
            "expected a file of at most {MAX_FILE} bytes"
        )));
    }
    // Who may not write in the tree has no say in what is done there.
    if meta.uid() != 0 && process::uid(pid) != Some(meta.uid()) {
        return Err(said(&"it belongs to another user"));
    }
    let mut text = String::new();
    file.take(MAX_FILE as u64)
        .read_to_string(&mut text)
        .map_err(|error| said(&error))?;
    Intent::from_file(&path, &text).map(Some)
}
