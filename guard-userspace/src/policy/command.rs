//! What a command line means: the `argv` patterns of labels.

use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};

use super::{
    Mistake, Policy, glob,
    glob::{Last, final_name},
    root,
    statement::Statement,
    wrapper,
};

/// One `argv` pattern, such as `terraform destroy` or `kubectl delete **`.
///
/// Its first word is the base name of the program (or of the script that an interpreter runs), and may
/// hold one `*` (`mkfs*`). The other words are compared so:
///
/// - A word matches itself; `*` inside it matches any characters. `*` alone is one word, `**` any
///   number of words, none included. `i:WORD` matches in small and capital letters. `@root` is a path
///   whose loss is the loss of the system or of a home (`policy/root.rs`).
/// - Options of the command line (words that begin with `-`) are passed over, and so may be the one
///   word after each, which may be its value. All else must be matched from the first word to the
///   last: words at the end that the pattern does not have are only allowed with a `**` there. So
///   `terraform destroy` matches `terraform -chdir=x destroy -auto-approve`, and neither
///   `terraform destroyer` nor `terraform plan destroy`.
/// - A word of the pattern that begins with `-` must be there, wherever (`git push ** --force`);
///   `--force` also matches `--force=…`. Up to three letters after one `-` are a set of letters:
///   `-rf` matches `-fr`, `-rfv` and `-r -f`. `--eval=X` also matches `--eval X`, and `-e=X` both
///   `-e X` and `-eX`.
/// - A word that begins with `!-` is an option that must not be there (`npm publish ** !--dry-run`).
/// - `says:drop+*` must be there, wherever: a word, or the value of an option, is a text in which a
///   statement begins with the word `drop` and another one (`policy/statement.rs`).
/// - After `--` nothing is an option any more.
///
/// Command lines inside the command line (`policy/wrapper.rs`) are compared each by itself.
#[derive(Clone, Debug)]
pub struct CommandPattern {
    /// As written.
    pub text: String,
    pub(super) program: Last,
    words: Vec<Word>,
    options: Vec<String>,
    without: Vec<String>,
    says: Vec<Statement>,
}

/// A word of a pattern that has its place among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    /// `**`.
    Many,
    /// `@root`.
    Root,
    /// A word with `*` in it, or none.
    Like(String),
    /// The same for small and capital letters; in small ones.
    AnyCase(String),
}

impl CommandPattern {
    /// The patterns that one text stands for: `{a,b}` is either.
    pub(super) fn parse(text: &str) -> Result<Vec<Self>, Mistake> {
        let alternatives = glob::expand(text).map_err(|mistake| match mistake {
            Mistake::BadGlob { text, reason } => Mistake::BadCommand { text, reason },
            other => other,
        })?;
        alternatives
            .iter()
            .map(|alternative| Self::one(text, alternative))
            .collect()
    }

    fn one(text: &str, alternative: &str) -> Result<Self, Mistake> {
        let bad = |reason: String| Mistake::BadCommand {
            text: text.into(),
            reason,
        };
        let mut words = alternative.split_whitespace();
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
        let mut pattern = Self {
            text: text.into(),
            program: final_name(first).map_err(&bad)?,
            words: Vec::new(),
            options: Vec::new(),
            without: Vec::new(),
            says: Vec::new(),
        };
        for word in words {
            if let Some(option) = word.strip_prefix('!') {
                if !option.starts_with('-') {
                    return Err(bad(format!(
                        "\"{word}\": expected an option behind \"!\", like !--dry-run"
                    )));
                }
                pattern.without.push(option.into());
            } else if let Some(words) = word.strip_prefix("says:") {
                let statement = Statement::parse(words).ok_or_else(|| {
                    bad(format!(
                        "\"{word}\": expected the first words of a statement with \"+\" between them, like says:drop+*"
                    ))
                })?;
                pattern.says.push(statement);
            } else if word.starts_with('-') {
                pattern.options.push(word.into());
            } else {
                pattern.words.push(match word.strip_prefix("i:") {
                    Some(word) => Word::AnyCase(word.to_ascii_lowercase()),
                    None if word == "**" => Word::Many,
                    None if word == "@root" => Word::Root,
                    None => Word::Like(word.into()),
                });
            }
        }
        Ok(pattern)
    }

    /// Whether the words after the program are what the pattern describes.
    fn matches(&self, arguments: &[&str]) -> bool {
        let end = arguments
            .iter()
            .position(|word| *word == "--")
            .unwrap_or(arguments.len());
        let has = |option: &String| has_option(option, &arguments[..end]);
        let said = |statement: &Statement| texts(arguments).any(|text| statement.is_in(text));
        if !self.options.iter().all(has)
            || self.without.iter().any(has)
            || !self.says.iter().all(said)
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

/// What may be a text on a command line: its words, and values that are joined to their options. A word that begins
/// with `-` may be a text that begins with a comment.
fn texts<'a>(arguments: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    arguments.iter().flat_map(|word| {
        let value = if word.starts_with("--") {
            word.split_once('=').map(|(_, value)| value)
        } else if word.starts_with('-') {
            word.char_indices().nth(2).map(|(at, _)| &word[at..])
        } else {
            None
        };
        [Some(*word), value].into_iter().flatten()
    })
}

/// Whether these words, which end before a `--`, have an option.
fn has_option(pattern: &str, words: &[&str]) -> bool {
    let options = || words.iter().copied().filter(|word| word.starts_with('-'));
    let letters = |word: &str, most: usize| {
        let letters = word.strip_prefix('-')?;
        let plain = !letters.is_empty()
            && letters.len() <= most
            && letters.bytes().all(|b| b.is_ascii_alphabetic());
        plain.then(|| letters.to_owned())
    };
    let found = options().any(|option| {
        let named = || {
            let (name, _) = option.split_once('=')?;
            (pattern.len() > 2 && wild(pattern.as_bytes(), name.as_bytes())).then_some(())
        };
        wild(pattern.as_bytes(), option.as_bytes()) || named().is_some()
    });
    if found {
        return true;
    }
    if let Some((name, value)) = pattern.split_once('=') {
        let like = |text: &&str| wild(value.as_bytes(), text.as_bytes());
        return words.iter().enumerate().any(|(at, word)| {
            let joined = word
                .strip_prefix(name)
                .filter(|joined| name.len() == 2 && !joined.is_empty());
            joined.is_some_and(|text| like(&text))
                || (*word == name && words.get(at + 1).is_some_and(like))
        });
    }
    let Some(wanted) = letters(pattern, 3) else {
        return false;
    };
    wanted.chars().all(|letter| {
        options().any(|option| letters(option, 4).is_some_and(|set| set.contains(letter)))
    })
}

/// Dynamic programming over the words: `reached[p]` says whether the pattern's first `p` words can
/// stand for the words so far. Linear in both, whatever an agent puts on its command line.
fn in_order(pattern: &[Word], words: &[(&str, bool)]) -> bool {
    let mut reached = vec![false; pattern.len() + 1];
    reached[0] = true;
    let close = |reached: &mut Vec<bool>| {
        for (p, word) in pattern.iter().enumerate() {
            reached[p + 1] |= reached[p] && *word == Word::Many;
        }
    };
    let roots = if pattern.contains(&Word::Root) {
        root::roots(&words.iter().map(|(word, _)| *word).collect::<Vec<_>>())
    } else {
        Vec::new()
    };
    close(&mut reached);
    for (at, (word, may_skip)) in words.iter().enumerate() {
        let mut next = vec![false; pattern.len() + 1];
        for (p, expected) in pattern.iter().enumerate() {
            let fits = || match expected {
                Word::Many => false,
                Word::Root => roots.get(at) == Some(&true),
                Word::Like(like) => wild(like.as_bytes(), word.as_bytes()),
                Word::AnyCase(like) => wild(like.as_bytes(), word.to_ascii_lowercase().as_bytes()),
            };
            if *expected == Word::Many {
                next[p + 1] |= reached[p + 1];
            } else if reached[p] && fits() {
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
    /// Index of the label table, and one of its patterns.
    patterns: Vec<(usize, CommandPattern)>,
    /// Of these, the ones for a program of exactly this name.
    exact: HashMap<String, Vec<usize>>,
    /// The others.
    affixes: Vec<usize>,
}

impl CommandMatcher {
    /// The `argv` patterns of a policy.
    pub fn new(policy: &Policy) -> Self {
        let patterns: Vec<(usize, CommandPattern)> = policy
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
        let mut exact: HashMap<String, Vec<usize>> = HashMap::new();
        let mut affixes = Vec::new();
        for (at, (_, pattern)) in patterns.iter().enumerate() {
            match &pattern.program {
                Last::Exact(name) => exact.entry(name.clone()).or_default().push(at),
                _ => affixes.push(at),
            }
        }
        Self {
            patterns,
            exact,
            affixes,
        }
    }

    /// The label tables (indices into [`Policy::groups`], rising) that this command line carries, by
    /// the program that `argv[0]` names.
    pub fn labels(&self, argv: &[String]) -> Vec<usize> {
        self.labels_of(None, argv)
    }

    /// The same, also by the program that was really executed: `argv[0]` is whatever the caller wrote.
    pub fn labels_of(&self, exe: Option<&Path>, argv: &[String]) -> Vec<usize> {
        let mut groups = BTreeSet::new();
        if self.patterns.is_empty() {
            return Vec::new();
        }
        for line in wrapper::lines(exe, argv) {
            for (name, from) in &line.programs {
                let words: Vec<&str> = line.words.iter().skip(*from).map(String::as_str).collect();
                for (group, pattern) in self.for_program(name) {
                    if !groups.contains(group) && pattern.matches(&words) {
                        groups.insert(*group);
                    }
                }
            }
        }
        groups.into_iter().collect()
    }

    /// The patterns for a program of this name.
    fn for_program(&self, name: &str) -> impl Iterator<Item = &(usize, CommandPattern)> {
        let affixes = self.affixes.iter().filter(move |at| {
            let pattern = self.patterns.get(**at);
            pattern.is_some_and(|(_, pattern)| fits(&pattern.program, name.as_bytes()))
        });
        self.exact
            .get(name)
            .into_iter()
            .flatten()
            .chain(affixes)
            .filter_map(|at| self.patterns.get(*at))
    }
}
