//! What a user's file may say. The same tables as in the machine's policy, with fewer keys, and `[[raise]]`.

use guard_common::{MAX_USER_RULES, Verdict};

use super::{
    super::{
        LabelGroup, Mistake, Part, Policy, PolicyError, Rule,
        document::{
            self, DEFAULT_TIMEOUT, ON_TIMEOUT, labels, name, rules, tables_of, then, top, version,
        },
        error::nearest,
        glob::{self, Anchor, Last},
        read::{Entry, Table},
    },
    Account, MAX_LABELS, MAX_PATTERNS,
};

/// Keys at its top.
pub const TOP: &[&str] = &["version", "label", "rule", "raise"];
/// Keys of its `[[label]]`.
pub const LABEL: &[&str] = &["name", "description", "files", "opens", "argv"];
/// Keys of its `[[rule]]`.
pub const RULE: &[&str] = &[
    "name",
    "description",
    "when",
    "within",
    "then",
    "timeout",
    "on_timeout",
    "scope",
    "fallback",
];
/// Keys of its `[[raise]]`.
pub const RAISE: &[&str] = &["rule", "then", "timeout", "on_timeout"];

/// What it adds to a policy.
pub(super) struct Added {
    pub(super) labels: Vec<String>,
    pub(super) groups: Vec<LabelGroup>,
    pub(super) rules: Vec<Rule>,
}

/// Reads it, over the labels and rules of the machine's policy.
pub(super) fn read(policy: &Policy, account: &Account, part: &Part) -> Result<Added, PolicyError> {
    let parsed = document::parse(part)?;
    let top = top(part, policy.parts.len(), &parsed);
    top.only(TOP)?;
    version(&top, true)?;
    let top = std::slice::from_ref(&top);
    let reader = Reader {
        policy,
        account,
        prefix: prefix(account),
    };
    let (groups, own) = reader.labels(top)?;
    let rules = reader.rules(top, &own)?;
    Ok(Added {
        labels: own.iter().map(|label| reader.named(label)).collect(),
        groups,
        rules,
    })
}

/// What stands before the names of all that a user adds. No name of the machine's policy has a `/`.
fn prefix(account: &Account) -> String {
    let good = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !account.name.is_empty() && account.name.chars().all(good) {
        account.name.clone()
    } else {
        account.uid.to_string()
    }
}

struct Reader<'a> {
    policy: &'a Policy,
    account: &'a Account,
    prefix: String,
}

fn refuse(table: &Table<'_>, entry: &Entry, what: String, why: &str) -> PolicyError {
    let why = why.into();
    let mistake = Mistake::OfUser { what, why };
    table.document.error(entry.span.clone(), mistake)
}

impl Reader<'_> {
    fn named(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// The machine's labels and rules, without those of other users.
    fn machine(&self) -> impl Iterator<Item = &Rule> {
        self.policy.rules.iter().filter(|rule| rule.user.is_none())
    }

    fn machine_labels(&self) -> impl Iterator<Item = &String> {
        // A user's have a prefix.
        self.policy.labels.iter().filter(|name| !name.contains('/'))
    }

    /// Its groups, and the labels by the names that it gives them.
    fn labels(&self, top: &[Table<'_>]) -> Result<(Vec<LabelGroup>, Vec<String>), PolicyError> {
        let tables = tables_of(top, "label", "[[label]]")?;
        let (mut groups, own) = labels(top, LABEL)?;
        let mut patterns = 0;
        for (group, table) in groups.iter_mut().zip(&tables) {
            let label = name(table, false)?;
            if self.machine_labels().any(|other| *other == label.text) {
                let what = format!("label \"{}\"", label.text);
                let why = "the machine's policy has a label of that name: expected one of its own";
                return Err(refuse(table, &label, what, why));
            }
            self.own_files(table, group)?;
            for (entry, command) in table.strings("argv")?.iter().zip(&group.argv) {
                if !matches!(command.program, Last::Exact(_)) {
                    let what = format!("command line \"{}\"", entry.text);
                    let why = "its program is not one name: expected one, without a *";
                    return Err(refuse(table, entry, what, why));
                }
            }
            patterns += group.argv.len();
            patterns += group
                .files
                .iter()
                .map(|glob| glob.paths.len())
                .sum::<usize>();
            if patterns > MAX_PATTERNS {
                return Err(too_many(table, &label, "patterns", patterns, MAX_PATTERNS));
            }
            if own.len() > MAX_LABELS {
                return Err(too_many(table, &label, "labels", own.len(), MAX_LABELS));
            }
            group.name = self.named(&group.name);
            group.user = Some(self.account.uid);
        }
        Ok((groups, own))
    }

    /// Only files of the user's own home, each by its whole name: others' sessions then hardly ever meet them, and
    /// they cost the machine's patterns no place in the kernel's search.
    fn own_files(&self, table: &Table<'_>, group: &mut LabelGroup) -> Result<(), PolicyError> {
        let home = std::fs::canonicalize(&self.account.home);
        let home = home.unwrap_or_else(|_| self.account.home.clone());
        for (glob, entry) in group.files.iter_mut().zip(table.strings("files")?) {
            let what = || format!("file \"{}\"", entry.text);
            let fits = |path: &glob::PathGlob| {
                path.anchor == Anchor::Home && matches!(path.last, Last::Exact(_))
            };
            if !glob.paths.iter().all(fits) {
                let why = "a user's file may only name files of their own home, by their whole name: expected \
                           something like ~/notes/secret.txt or ~/**/secret.txt";
                return Err(refuse(table, &entry, what(), why));
            }
            let home = home.to_str().filter(|home| {
                !home.contains(['*', '?', '[', ']', '{', '}', '\\']) && home.starts_with('/')
            });
            let Some(home) = home else {
                let why = "the home's own path has characters that patterns use";
                return Err(refuse(table, &entry, what(), why));
            };
            let mut paths = Vec::new();
            for alternative in glob::expand(&entry.text)
                .map_err(|mistake| table.document.error(entry.span.clone(), mistake))?
            {
                let whole = format!("{home}{}", alternative.trim_start_matches('~'));
                paths.extend(
                    glob::parse(&whole)
                        .map_err(|mistake| table.document.error(entry.span.clone(), mistake))?,
                );
            }
            glob.paths = paths;
        }
        Ok(())
    }

    fn rules(&self, top: &[Table<'_>], own: &[String]) -> Result<Vec<Rule>, PolicyError> {
        let known: Vec<String> = own.iter().chain(self.machine_labels()).cloned().collect();
        let mut all = rules(top, RULE, &known)?;
        for rule in &mut all {
            let unless = rule.unless.iter_mut().map(|unless| &mut unless.label);
            for label in rule.when.iter_mut().chain(unless) {
                if own.contains(label) {
                    *label = self.named(label);
                }
            }
            rule.name = self.named(&rule.name);
            rule.user = Some(self.account.uid);
        }
        for table in tables_of(top, "raise", "[[raise]]")? {
            let rule = self.raised(&table, &all)?;
            all.push(rule);
        }
        if all.len() > MAX_USER_RULES {
            let mut tables = tables_of(top, "rule", "[[rule]]")?;
            tables.extend(tables_of(top, "raise", "[[raise]]")?);
            // There are as many tables as rules.
            if let Some(table) = tables.get(MAX_USER_RULES) {
                let key = if table.value("name").is_some() {
                    "name"
                } else {
                    "rule"
                };
                let entry = table.required(key, "a name")?;
                return Err(too_many(table, &entry, "rules", all.len(), MAX_USER_RULES));
            }
        }
        Ok(all)
    }

    /// One of the machine's rules with a stricter verdict, beside the one that stays.
    fn raised(&self, table: &Table<'_>, others: &[Rule]) -> Result<Rule, PolicyError> {
        table.only(RAISE)?;
        let entry = table.required("rule", "rule = \"…\", one of the machine's rules")?;
        let Some(rule) = self.machine().find(|rule| rule.name == entry.text) else {
            let names = self.machine().map(|rule| rule.name.as_str());
            let near = nearest(&entry.text, names)
                .map(|near| format!("; did you mean \"{near}\"?"))
                .unwrap_or_default();
            let why =
                format!("the machine's policy has no such rule: expected one of its rules{near}");
            let what = format!("rule \"{}\"", entry.text);
            return Err(refuse(table, &entry, what, &why));
        };
        let then = then(table)?;
        if then <= rule.then {
            let word = table.required("then", "a verdict")?;
            let what = format!("then = \"{}\"", word.text);
            let why = format!(
                "rule \"{}\" has {} already: expected a stricter verdict, a user's file can only tighten",
                rule.name,
                rule.then.name()
            );
            return Err(refuse(table, &word, what, &why));
        }
        let name = self.named(&rule.name);
        if others.iter().any(|other| other.name == name) {
            let what = format!("rule \"{}\"", entry.text);
            let why = "there is a rule of that name in this file: expected another name for that";
            return Err(refuse(table, &entry, what, why));
        }
        Ok(Rule {
            name,
            description: None,
            when: rule.when.clone(),
            unless: rule.unless.clone(),
            severity: rule.severity,
            within: rule.within,
            then,
            timeout: table.duration("timeout")?.unwrap_or(DEFAULT_TIMEOUT),
            on_timeout: table
                .word("on_timeout", ON_TIMEOUT)?
                .unwrap_or(Verdict::Deny),
            scope: rule.scope,
            fallback: rule.fallback,
            observe: false,
            user: Some(self.account.uid),
        })
    }
}

fn too_many(
    table: &Table<'_>,
    entry: &Entry,
    what: &str,
    count: usize,
    most: usize,
) -> PolicyError {
    let mistake = Mistake::TooMany {
        what: format!("{what} in a user's file"),
        count,
        most,
        hint: "",
    };
    table.document.error(entry.span.clone(), mistake)
}
