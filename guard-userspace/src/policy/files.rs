//! The files of the machine's policy: `policy.toml`, and beside it `policy.d/*.toml` in byte order of their names.
//!
//! guardd runs as root and does what these files say, so as root it only takes files that nobody else can change.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use super::{BUILT_IN, Mistake, Part, Policy, PolicyError, Source};
use crate::DEFAULT_POLICY;

/// Name of the directory beside a policy file that holds its fragments.
pub const FRAGMENTS: &str = "policy.d";
/// Name of the main file in a directory.
pub const MAIN: &str = "policy.toml";
/// A policy file that is longer is none.
const MAX_BYTES: u64 = 4 << 20;

/// Whether a file must be one that nobody but root could have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It must: what it says is going to be done.
    RootsOwn,
    /// It is only looked at.
    Anybodys,
}

impl Trust {
    /// What this process must ask for: root decides for the whole machine, anybody else only looks.
    pub fn of_this_process() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::RootsOwn
        } else {
            Self::Anybodys
        }
    }
}

/// Reads the policy of this main file and of the fragments beside it. Without a name it is [`DEFAULT_POLICY`], and
/// where that is not there, the built-in policy stands in its place.
///
/// # Errors
/// A file that cannot be read or trusted, or a mistake in one.
pub fn load(path: Option<&Path>, trust: Trust) -> Result<Policy, PolicyError> {
    Policy::of(&parts(path, trust)?)
}

/// The files that [`load`] reads.
///
/// # Errors
/// A file that cannot be read or trusted.
pub fn parts(path: Option<&Path>, trust: Trust) -> Result<Vec<Part>, PolicyError> {
    match path {
        Some(path) => with_fragments(read(path, trust)?, &fragments_of(path), trust),
        None => directory_parts(directory_of(Path::new(DEFAULT_POLICY)), trust),
    }
}

/// The same for a directory that has a [`MAIN`], or none: then the built-in policy is the main one.
///
/// # Errors
/// As [`parts`].
pub fn directory_parts(directory: &Path, trust: Trust) -> Result<Vec<Part>, PolicyError> {
    let main = directory.join(MAIN);
    let main = match main.try_exists() {
        Ok(false) => built_in(),
        _ => read(&main, trust)?,
    };
    with_fragments(main, &directory.join(FRAGMENTS), trust)
}

/// Reads what `guardctl policy check` is given: a directory, a main file, or one of the fragments in a `policy.d`;
/// always with the files that it goes with.
///
/// # Errors
/// A file that cannot be read, or a mistake in one.
pub fn check(path: &Path) -> Result<Policy, PolicyError> {
    let path = &std::path::absolute(path).unwrap_or_else(|_| path.into());
    // Where guardd would ask for it.
    let installed = directory_of(Path::new(DEFAULT_POLICY));
    let trust = if path.starts_with(installed) {
        Trust::RootsOwn
    } else {
        Trust::Anybodys
    };
    if path.is_dir() {
        return Policy::of(&directory_parts(path, trust)?);
    }
    let above = directory_of(path);
    if above.file_name().is_some_and(|name| name == FRAGMENTS) {
        let parts = directory_parts(directory_of(above), trust)?;
        let read = |part: &Part| matches!(&part.source, Source::File(file) if file == path);
        if path.exists() && !parts.iter().any(read) {
            let why = "it would be left out: only files whose names end in .toml and begin with no dot are read";
            return Err(PolicyError::Untrusted {
                path: path.clone(),
                why: why.into(),
            });
        }
        return Policy::of(&parts);
    }
    load(Some(path), trust)
}

/// The directory of a policy file's fragments.
pub fn fragments_of(main: &Path) -> PathBuf {
    directory_of(main).join(FRAGMENTS)
}

fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    }
}

/// The policy that is compiled in.
pub fn built_in() -> Part {
    Part {
        source: Source::BuiltIn,
        text: BUILT_IN.into(),
    }
}

fn with_fragments(main: Part, directory: &Path, trust: Trust) -> Result<Vec<Part>, PolicyError> {
    let mut parts = vec![main];
    for path in fragments(directory, trust)? {
        parts.push(read(&path, trust)?);
    }
    Ok(parts)
}

/// The fragments in a directory in byte order of their names. What an editor leaves behind (`.x.toml.swp`, `x.toml~`,
/// `#x.toml#`, `x.toml.bak`) is none.
///
/// # Errors
/// A directory that cannot be read or trusted. One that is not there is empty.
pub fn fragments(directory: &Path, trust: Trust) -> Result<Vec<PathBuf>, PolicyError> {
    let failed = |error| PolicyError::Read {
        path: directory.into(),
        error,
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    trusted(directory, &fs::metadata(directory).map_err(failed)?, trust)?;
    let mut names: Vec<OsString> = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if is_fragment(name.as_bytes()) {
            names.push(name);
        }
    }
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names.into_iter().map(|name| directory.join(name)).collect())
}

fn is_fragment(name: &[u8]) -> bool {
    name.ends_with(b".toml") && name.len() > 5 && !matches!(name[0], b'.' | b'#')
}

/// Reads one file.
///
/// # Errors
/// One that cannot be read, is no file, is not UTF-8, or could have been changed by somebody else than root.
pub fn read(path: &Path, trust: Trust) -> Result<Part, PolicyError> {
    let failed = |error| PolicyError::Read {
        path: path.into(),
        error,
    };
    // A fifo in its place must not keep guardd waiting.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let refused = |why: &str| PolicyError::Untrusted {
        path: path.into(),
        why: why.into(),
    };
    if meta.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    if !meta.is_file() {
        return Err(refused("not a regular file: put the policy's text there"));
    }
    if meta.len() > MAX_BYTES {
        return Err(refused("longer than 4 MiB: expected a policy"));
    }
    trusted(path, &meta, trust)?;
    let mut bytes = Vec::new();
    take(&file, &mut bytes).map_err(failed)?;
    let source = Source::File(path.into());
    text(source, bytes)
}

fn take(file: &File, bytes: &mut Vec<u8>) -> io::Result<()> {
    file.take(MAX_BYTES).read_to_end(bytes).map(drop)
}

/// What was read as a part of a policy.
pub(super) fn text(source: Source, bytes: Vec<u8>) -> Result<Part, PolicyError> {
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Part { source, text }),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes());
            let span = good..good + 1;
            Err(PolicyError::at(&source, &text, span, Mistake::NotUtf8))
        }
    }
}

/// Refuses what others than root could change.
fn trusted(path: &Path, meta: &fs::Metadata, trust: Trust) -> Result<(), PolicyError> {
    if trust == Trust::Anybodys {
        return Ok(());
    }
    let shown = path.display();
    let why = if meta.uid() != 0 {
        format!(
            "it belongs to uid {}, who could change what guard does: chown root {shown}",
            meta.uid()
        )
    } else if meta.mode() & 0o022 != 0 {
        format!(
            "others than root may write to it (mode {:o}) and so change what guard does: chmod go-w {shown}",
            meta.mode() & 0o7777
        )
    } else {
        return Ok(());
    };
    Err(PolicyError::Untrusted {
        path: path.into(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const MAIN_TEXT: &str = "version = 1\nmode = \"observe\"\n\
        [[label]]\nname = \"secret\"\nfiles = [\"/x/secret\"]\n\
        [[rule]]\nname = \"r\"\nwhen = [\"secret\"]\nthen = \"flag\"\n";

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(FRAGMENTS)).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn refused(dir: &Path) -> String {
        check(dir).unwrap_err().one_line()
    }

    #[test]
    fn fragments_are_read_in_byte_order_and_what_editors_leave_is_not() {
        let dir = directory(&[
            ("policy.toml", MAIN_TEXT),
            ("policy.d/10-b.toml", "mode = \"enforce\""),
            ("policy.d/9-a.toml", "mode = \"observe\""),
            ("policy.d/A.toml", ""),
            ("policy.d/.hidden.toml", "nonsense"),
            ("policy.d/#x.toml#", "nonsense"),
            ("policy.d/x.toml~", "nonsense"),
            ("policy.d/x.toml.bak", "nonsense"),
            ("policy.d/.toml", "nonsense"),
            ("policy.d/README", "nonsense"),
        ]);
        let policy = check(dir.path()).unwrap();
        let names: Vec<_> = policy
            .parts
            .iter()
            .map(|part| {
                part.source
                    .to_string()
                    .rsplit('/')
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(names, ["policy.toml", "10-b.toml", "9-a.toml", "A.toml"]);
        // The last one that says so decides.
        assert_eq!(policy.mode, super::super::Mode::Observe);
    }

    #[test]
    fn a_rule_may_use_labels_of_the_other_files_and_a_label_may_lie_in_several() {
        let dir = directory(&[
            ("policy.toml", MAIN_TEXT),
            (
                "policy.d/a.toml",
                "[[rule]]\nname = \"both\"\nwhen = [\"secret\", \"later\"]\nthen = \"deny\"\n\
                 [[label]]\nname = \"secret\"\nfiles = [\"/y\"]",
            ),
            (
                "policy.d/b.toml",
                "[[label]]\nname = \"later\"\nfiles = [\"/z\"]\n[[agent]]\nname = \"own\"\nexe = [\"own-agent\"]",
            ),
        ]);
        let policy = check(dir.path()).unwrap();
        assert_eq!(policy.labels, ["secret", "later"]);
        assert_eq!(policy.rules.len(), 2);
        assert_eq!(policy.agents[0].name, "own");
        let text = policy.text(|_| true);
        let path = dir.path().display();
        assert!(text.starts_with(&format!("# from {path}/policy.toml\nversion = 1")));
        assert!(
            text.contains(&format!("\n# from {path}/policy.d/b.toml\n[[label]]")),
            "{text}"
        );
    }

    #[test]
    fn a_second_rule_of_a_name_is_refused_with_both_places_unless_it_says_that_it_replaces() {
        let rule = "\n\n[[rule]]\nname = \"r\"\nwhen = [\"secret\"]\nthen = \"kill\"\n";
        let dir = directory(&[("policy.toml", MAIN_TEXT), ("policy.d/a.toml", rule)]);
        let path = dir.path().display();
        assert_eq!(
            refused(dir.path()),
            format!(
                "{path}/policy.d/a.toml:4:8: duplicate rule name \"r\": expected a name of its own \
                 ({path}/policy.toml:7:8 has this one); or replace = true, to take its place"
            )
        );
        fs::write(
            dir.path().join("policy.d/a.toml"),
            format!("{rule}replace = true\n"),
        )
        .unwrap();
        let policy = check(dir.path()).unwrap();
        assert_eq!(policy.rules.len(), 1);
        assert_eq!(policy.rules[0].then, guard_common::Verdict::Kill);
        // What replaces nothing is a misspelling.
        fs::write(
            dir.path().join("policy.d/a.toml"),
            format!("{}replace = true\n", rule.replace("\"r\"", "\"s\"")),
        )
        .unwrap();
        assert!(refused(dir.path()).contains("a.toml:4:8: rule \"s\" replaces nothing"));
        // Nor does a rule replace one of its own file.
        fs::write(
            dir.path().join("policy.d/a.toml"),
            format!("{rule}replace = true\n{rule}replace = true\n"),
        )
        .unwrap();
        assert!(refused(dir.path()).contains("(line 4 has this one)"));
    }

    #[test]
    fn without_a_main_file_fragments_extend_the_built_in_policy() {
        let dir = directory(&[(
            "policy.d/a.toml",
            "mode = \"observe\"\n[[rule]]\nname = \"mine\"\nwhen = [\"infra\"]\nthen = \"hold\"\n",
        )]);
        let policy = check(dir.path()).unwrap();
        let built_in = Policy::built_in();
        assert_eq!(policy.source(), &Source::BuiltIn);
        assert_eq!(policy.rules.len(), built_in.rules.len() + 1);
        assert_eq!(policy.mode, super::super::Mode::Observe);
        assert!(policy.text(|_| true).starts_with("# from built-in\n"));
    }

    #[test]
    fn a_mistake_names_the_file_that_it_is_in() {
        let dir = directory(&[
            ("policy.toml", MAIN_TEXT),
            ("policy.d/a.toml", "# fine\n"),
            (
                "policy.d/b.toml",
                "[[rule]]\nname = \"x\"\nwhen = [\"secert\"]\nthen = \"flag\"",
            ),
        ]);
        let path = dir.path().join("policy.d/b.toml");
        let said = refused(dir.path());
        assert!(
            said.starts_with(&format!("{}:3:9: unknown label", path.display())),
            "{said}"
        );
        // The same when the fragment alone is named, or the main file.
        assert_eq!(refused(&path), said);
        assert_eq!(refused(&dir.path().join("policy.toml")), said);
        // Tables that overflow are a mistake of the file that they overflow in.
        let many: Vec<String> = (0..20).map(|n| format!("\"/d{n}/same\"")).collect();
        let label = format!("[[label]]\nname = \"m\"\nfiles = [{}]\n", many.join(", "));
        fs::write(&path, label).unwrap();
        assert!(refused(dir.path()).starts_with(&format!("{}:3:", path.display())));
        let left_out = dir.path().join("policy.d/x.toml~");
        fs::write(&path, "").unwrap();
        fs::write(&left_out, "").unwrap();
        assert!(refused(&left_out).contains("it would be left out"));
    }

    #[test]
    fn what_others_could_change_is_refused_and_said_how_to_mend() {
        let dir = directory(&[("policy.toml", MAIN_TEXT), ("policy.d/a.toml", "")]);
        let main = dir.path().join("policy.toml");
        let load = || load(Some(&main), Trust::RootsOwn).map_err(|error| error.one_line());
        if !rustix::process::geteuid().is_root() {
            assert!(load().unwrap_err().contains("belongs to uid"));
            return;
        }
        load().unwrap();
        for changed in ["policy.toml", "policy.d/a.toml", "policy.d"] {
            let path = dir.path().join(changed);
            let mode = fs::metadata(&path).unwrap().permissions();
            for bit in [0o020, 0o002] {
                fs::set_permissions(&path, fs::Permissions::from_mode(mode.mode() | bit)).unwrap();
                let said = load().unwrap_err();
                assert!(
                    said.contains("chmod go-w") && said.contains(changed),
                    "{said}"
                );
            }
            fs::set_permissions(&path, mode).unwrap();
            std::os::unix::fs::chown(&path, Some(61_234), None).unwrap();
            let said = load().unwrap_err();
            assert!(said.contains("belongs to uid 61234"), "{said}");
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        }
        load().unwrap();
    }

    #[test]
    fn a_fifo_a_directory_and_a_missing_file_are_told_and_keep_nobody_waiting() {
        let dir = directory(&[("policy.toml", MAIN_TEXT)]);
        let fifo = dir.path().join("policy.d/a.toml");
        let name = std::ffi::CString::new(fifo.as_os_str().as_bytes()).unwrap();
        // SAFETY: a path that ends with a NUL.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert!(refused(dir.path()).contains("a.toml: not a regular file"));
        fs::remove_file(&fifo).unwrap();
        fs::create_dir(&fifo).unwrap();
        assert!(refused(dir.path()).contains("a.toml: cannot be read"));
        assert!(refused(&dir.path().join("none.toml")).contains("none.toml: cannot be read"));
    }
}
