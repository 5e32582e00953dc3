//! What a runner gives to a step and takes from it: variables, files with commands, annotations.
//! <https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands>

use std::{
    env,
    fs::OpenOptions,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use crate::cli::escape;

/// Variables that root needs of the runner's.
pub const PASSED: [&str; 16] = [
    "GITHUB_ACTIONS",
    "GITHUB_ENV",
    "GITHUB_OUTPUT",
    "GITHUB_STATE",
    "GITHUB_STEP_SUMMARY",
    "GITHUB_WORKSPACE",
    "GITHUB_JOB",
    "GITHUB_WORKFLOW_REF",
    "RUNNER_NAME",
    "GITLAB_CI",
    "CI_PROJECT_DIR",
    "CI_JOB_NAME",
    "CI_JOB_ID",
    "GUARD_CI_DIR",
    "GUARD_CI_TOKEN",
    "STATE_guard_token",
];
/// Annotations of one kind that GitHub shows of a step.
const MAX_ANNOTATIONS: usize = 10;

/// A variable with something in it.
pub fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The checkout.
pub fn workspace(given: Option<&Path>) -> PathBuf {
    given.map(Path::to_owned).unwrap_or_else(|| {
        ["GITHUB_WORKSPACE", "CI_PROJECT_DIR"]
            .into_iter()
            .find_map(variable)
            .map(PathBuf::from)
            .or_else(|| env::current_dir().ok())
            .unwrap_or_else(|| "/".into())
    })
}

/// Whether annotations are understood.
pub fn annotates() -> bool {
    variable("GITHUB_ACTIONS").is_some_and(|value| value == "true")
}

/// The job's name, where the runner says it.
pub fn job() -> Option<String> {
    ["GITHUB_JOB", "CI_JOB_NAME"].into_iter().find_map(variable)
}

/// The file of the workflow in the repository, which GitHub names as `owner/repo/PATH@REF`.
pub fn workflow_file() -> Option<String> {
    let reference = variable("GITHUB_WORKFLOW_REF")?;
    let path = reference.split('@').next()?.splitn(3, '/').nth(2)?;
    (!path.is_empty()).then(|| path.to_owned())
}

/// Appends to one of the runner's files (`GITHUB_ENV` and its like), if it is there.
///
/// # Errors
/// When it cannot be written.
pub fn hand_over(variable_name: &str, pairs: &[(&str, &str)]) -> io::Result<bool> {
    let Some(path) = variable(variable_name) else {
        return Ok(false);
    };
    let mut text = String::new();
    for (key, value) in pairs {
        text.push_str(&file_command(key, value));
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?
        .write_all(text.as_bytes())?;
    Ok(true)
}

/// One command of such a file. A value of several lines ends at a line that is none of its own.
fn file_command(key: &str, value: &str) -> String {
    if !value.contains(['\n', '\r']) {
        return format!("{key}={value}\n");
    }
    let mut end = String::from("GUARD_END");
    while value.contains(&end) {
        end.push('_');
    }
    format!("{key}<<{end}\n{value}\n{end}\n")
}

/// How grave an annotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gravity {
    /// `::error`
    Error,
    /// `::warning`
    Warning,
}

impl Gravity {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// An annotation.
#[derive(Clone, Debug)]
pub struct Annotation {
    /// How grave.
    pub gravity: Gravity,
    /// File in the repository that it is about.
    pub file: Option<String>,
    /// In a few words.
    pub title: String,
    /// The text.
    pub message: String,
}

impl Annotation {
    /// The workflow command, escaped as `@actions/core` does:
    /// <https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts>
    pub fn command(&self) -> String {
        let mut properties = Vec::new();
        if let Some(file) = &self.file {
            properties.push(format!("file={}", property(file)));
        }
        properties.push(format!("title={}", property(&self.title)));
        format!(
            "::{} {}::{}",
            self.gravity.name(),
            properties.join(","),
            data(&self.message)
        )
    }
}

/// As many of them as are shown, and how many are not.
pub fn annotations(all: &[Annotation]) -> Vec<String> {
    let mut lines = Vec::new();
    for gravity in [Gravity::Error, Gravity::Warning] {
        let of: Vec<&Annotation> = all.iter().filter(|a| a.gravity == gravity).collect();
        let shown = if of.len() > MAX_ANNOTATIONS {
            MAX_ANNOTATIONS - 1
        } else {
            of.len()
        };
        lines.extend(of.iter().take(shown).map(|a| a.command()));
        if shown < of.len() {
            let more = Annotation {
                gravity,
                file: None,
                title: "guard".into(),
                message: format!("{} more: see the job's summary", of.len() - shown),
            };
            lines.push(more.command());
        }
    }
    lines
}

fn data(text: &str) -> String {
    let text = text
        .replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A");
    escape::lines(&text)
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// A line for the job's log that is no command to the runner, whatever names are in it: `##[…]` is one anywhere in a
/// line, `::…::` at its beginning.
pub fn log_line(line: &str) -> String {
    let line = line.replace("##[", "##\\[");
    match line.trim_start().strip_prefix("::") {
        Some(rest) => format!(":\\:{rest}"),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_end_an_annotation_or_begin_another() {
        let annotation = Annotation {
            gravity: Gravity::Error,
            file: Some("a,b:c%\n::set-env name=X::y".into()),
            title: "x::y,z".into(),
            message: "100%\r\n::error::no \u{1b}[31m".into(),
        };
        assert_eq!(
            annotation.command(),
            "::error file=a%2Cb%3Ac%25%0A%3A%3Aset-env name=X%3A%3Ay,title=x%3A%3Ay%2Cz::100%25%0D%0A::error::no \\x1b[31m"
        );
        assert_eq!(log_line("  ::add-mask::x"), ":\\:add-mask::x");
        assert_eq!(log_line("a ##[error]b"), "a ##\\[error]b");
    }

    #[test]
    fn of_many_annotations_the_last_says_how_many_are_left_out() {
        let one = |n: usize| Annotation {
            gravity: Gravity::Warning,
            file: None,
            title: "t".into(),
            message: n.to_string(),
        };
        let all: Vec<Annotation> = (0..12).map(one).collect();
        let lines = annotations(&all);
        assert_eq!(lines.len(), 10);
        assert!(
            lines[9].ends_with("::3 more: see the job's summary"),
            "{lines:?}"
        );
        assert_eq!(annotations(&all[..10]).len(), 10);
    }

    #[test]
    fn a_value_of_several_lines_ends_where_it_ends() {
        assert_eq!(file_command("a", "b"), "a=b\n");
        assert_eq!(
            file_command("a", "x\nGUARD_END\ny"),
            "a<<GUARD_END_\nx\nGUARD_END\ny\nGUARD_END_\n"
        );
    }
}
