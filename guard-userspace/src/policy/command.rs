//! What a command line means: the `argv` patterns of labels.

use std::path::Path;

use super::{
    Mistake, Policy,
    glob::{Last, final_name},
    interpreter,
};

/// One `argv` pattern, such as `terraform destroy` or `kubectl delete **`.
///
/// Its first word is the base name of the program (or of the script that an interpreter runs), and may
/// hold one `*` (`mkfs*`). The other words are compared so:
///
/// - A word matches itself; `*` inside it matches any characters. `*` alone is one word, `**` any
///   number of words, none included.
/// - Options of the command line (words that begin with `-`) are passed over, and so may be the one
///   word after each, which may be its value. All else must be matched from the first word to the
///   last: words at the end that the pattern does not have are only allowed with a `**` there. So
///   `terraform destroy` matches `terraform -chdir=x destroy -auto-approve`, and neither
///   `terraform destroyer` nor `terraform plan destroy`.
/// - A word of the pattern that begins with `-` must be there, wherever (`git push ** --force`);
///   `--force` also matches `--force=…`. Up to three letters after one `-` are a set of letters:
///   `-rf` matches `-fr`, `-rfv` and `-r -f`.
/// - After `--` nothing is an option any more.
#[derive(Clone, Debug)]
pub struct CommandPattern {
    /// As written.
    pub text: String,
    pub(super) program: Last,
    words: Vec<String>,
    options: Vec<String>,
}

impl CommandPattern {
    pub(super) fn parse(text: &str) -> Result<Self, Mistake> {
        let bad = |reason: String| Mistake::BadCommand {
            text: text.into(),
            reason,
        };
        let mut words = text.split_whitespace();
        let first = words.next().unwrap_or_default();
        if first.is_empty() || matches!(first, "*" | "**") {
            return Err(bad(
                "it names no program: expected a program's name first, like \"terraform destroy\""
                    .into(),
            ));
        }
        if first.contains('/') {
            return Err(bad(format!(
                "\"{first}\" is a path: expected the program's base name first"
            )));
        }
        let program = final_name(first).map_err(&bad)?;
        let (options, words) = words
            .map(str::to_owned)
            .partition(|word| word.starts_with('-'));
        Ok(Self {
            text: text.into(),
            program,
            words,
            options,
        })
    }

    /// Whether the words after the program are what the pattern describes.
    fn matches(&self, arguments: &[&str]) -> bool {
        let end = arguments
            .iter()
            .position(|word| *word == "--")
            .unwrap_or(arguments.len());
        let options = || {
            arguments[..end]
                .iter()
                .copied()
                .filter(|word| word.starts_with('-'))
        };
        if !self
            .options
            .iter()
            .all(|pattern| has_option(pattern, options()))
        {
            return false;
        }
        // Each word that counts, and whether it may be an option's value.
        let mut words = Vec::new();
        let mut after_option = false;
        for (at, word) in arguments.iter().enumerate() {
            if at == end {
                after_option = false;
            } else if at < end && word.starts_with('-') {
                after_option = !word.contains('=');
            } else {
                words.push((*word, after_option));
                after_option = false;
            }
        }
        in_order(&self.words, &words)
    }
}

fn has_option<'a>(pattern: &str, mut options: impl Iterator<Item = &'a str> + Clone) -> bool {
    let letters = |word: &str, most: usize| {
        let letters = word.strip_prefix('-')?;
        let plain = !letters.is_empty()
            && letters.len() <= most
            && letters.bytes().all(|b| b.is_ascii_alphabetic());
        plain.then(|| letters.to_owned())
    };
    let found = options.clone().any(|option| {
        wild(pattern.as_bytes(), option.as_bytes())
            || (pattern.starts_with("--")
                && option
                    .split_once('=')
                    .is_some_and(|(name, _)| wild(pattern.as_bytes(), name.as_bytes())))
    });
    let Some(wanted) = letters(pattern, 3).filter(|_| !found) else {
        return found;
    };
    wanted.chars().all(|letter| {
        options
            .clone()
            .any(|option| letters(option, 4).is_some_and(|set| set.contains(letter)))
    }) && options.next().is_some()
}

/// Dynamic programming over the words: `reached[p]` says whether the pattern's first `p` words can
/// stand for the words so far. Linear in both, whatever an agent puts on its command line.
fn in_order(pattern: &[String], words: &[(&str, bool)]) -> bool {
    let mut reached = vec![false; pattern.len() + 1];
    reached[0] = true;
    let close = |reached: &mut Vec<bool>| {
        for (p, word) in pattern.iter().enumerate() {
            reached[p + 1] |= reached[p] && word == "**";
        }
    };
    close(&mut reached);
    for (word, may_skip) in words {
        let mut next = vec![false; pattern.len() + 1];
        for (p, expected) in pattern.iter().enumerate() {
            if expected == "**" {
                next[p + 1] |= reached[p + 1];
            } else if reached[p] && wild(expected.as_bytes(), word.as_bytes()) {
                next[p + 1] = true;
            }
        }
        if *may_skip {
            for (now, before) in next.iter_mut().zip(&reached) {
                *now |= *before;
            }
        }
        close(&mut next);
        reached = next;
    }
    reached[pattern.len()]
}

/// Whether `text` is `pattern`, where each `*` is any bytes, none included.
pub(super) fn wild(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            p = at + 1;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Whether a final component is of this form.
pub(super) fn fits(last: &Last, name: &[u8]) -> bool {
    match last {
        Last::Exact(exact) => exact.as_bytes() == name,
        Last::Affix(prefix, suffix) => {
            name.len() >= prefix.len() + suffix.len()
                && name.starts_with(prefix.as_bytes())
                && name.ends_with(suffix.as_bytes())
        }
        Last::Any | Last::Under => true,
    }
}

/// Judges command lines.
#[derive(Clone, Debug)]
pub struct CommandMatcher {
    patterns: Vec<(usize, CommandPattern)>,
}

impl CommandMatcher {
    /// The `argv` patterns of a policy.
    pub fn new(policy: &Policy) -> Self {
        let patterns = policy
            .groups
            .iter()
            .enumerate()
            .flat_map(|(index, group)| {
                group
                    .argv
                    .iter()
                    .map(move |pattern| (index, pattern.clone()))
            })
            .collect();
        Self { patterns }
    }

    /// The label tables (indices into [`Policy::groups`], rising) that this command line carries, by
    /// the program that `argv[0]` names.
    pub fn labels(&self, argv: &[String]) -> Vec<usize> {
        self.labels_of(None, argv)
    }

    /// The same, also by the program that was really executed: `argv[0]` is whatever the caller wrote.
    pub fn labels_of(&self, exe: Option<&Path>, argv: &[String]) -> Vec<usize> {
        let bytes: Vec<&[u8]> = argv.iter().map(String::as_bytes).collect();
        let called = argv.first().map(|word| interpreter::base(word.as_bytes()));
        let executed = exe
            .and_then(Path::file_name)
            .map(std::os::unix::ffi::OsStrExt::as_bytes);
        // Name of a program, and where its arguments begin.
        let mut programs: Vec<(&[u8], usize)> = Vec::new();
        for name in [called, executed].into_iter().flatten() {
            programs.push((name, 1));
            if interpreter::is_interpreter(name)
                && let Some(at) = interpreter::script(name, &bytes)
            {
                programs.push((interpreter::base(bytes[at]), at + 1));
            }
        }
        let mut groups = Vec::new();
        for (group, pattern) in &self.patterns {
            let matches = |(name, from): &(&[u8], usize)| {
                let words: Vec<&str> = argv.iter().skip(*from).map(String::as_str).collect();
                fits(&pattern.program, name) && pattern.matches(&words)
            };
            if groups.last() != Some(group) && programs.iter().any(matches) {
                groups.push(*group);
            }
        }
        groups
    }
}
