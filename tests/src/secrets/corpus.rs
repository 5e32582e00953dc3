//! A tree of files with secrets in some of them.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    chance::Chance,
    kinds::{RECIPES, Recipe},
    made::{self, value},
    wrap::{SORTS, wrap},
};

/// A secret that was put somewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Planted {
    /// Below the corpus.
    pub path: PathBuf,
    /// From 1.
    pub line: usize,
    /// Of the recipe.
    pub provider: &'static str,
    /// Of the recipe.
    pub kind: &'static str,
}

/// Secrets that the look-alikes are among.
#[derive(Debug)]
pub struct Corpus {
    /// Every secret that counts.
    pub planted: BTreeSet<Planted>,
    /// Secrets in the files of tests, which do not count.
    pub in_fixtures: usize,
    /// Files.
    pub files: usize,
    /// All values, which nobody may see again.
    pub values: Vec<String>,
}

/// Names that say nothing of whose a value is, for kinds that have a form of their own.
const NAMES: &[&str] = &["VALUE", "SETTING", "BACKEND", "REMOTE_ARG", "UPSTREAM"];

/// Private keys are more than a line.
const KEYS: &[(&str, &str)] = &[
    ("RSA PRIVATE KEY", "pem"),
    ("EC PRIVATE KEY", "pem"),
    ("PRIVATE KEY", "pem"),
    ("ENCRYPTED PRIVATE KEY", "encrypted"),
    ("OPENSSH PRIVATE KEY", "openssh"),
    ("PGP PRIVATE KEY BLOCK", "pgp"),
];

/// Writes `files` files with `secrets` secrets below `root`.
pub fn write(root: &Path, seed: u64, files: usize, secrets: usize) -> io::Result<Corpus> {
    let mut chance = Chance::new(seed);
    let mut corpus = Corpus {
        planted: BTreeSet::new(),
        in_fixtures: 0,
        files: 0,
        values: Vec::new(),
    };
    while corpus.planted.len() < secrets {
        let nth = corpus.planted.len();
        if nth % 25 == 24 {
            let (title, kind) = KEYS[nth / 25 % KEYS.len()];
            let path = format!("home/keys/id_{nth}.key");
            put(root, &path, &key(title, &mut chance))?;
            corpus.add(&path, 1, "private-key", kind);
            continue;
        }
        let recipe = &RECIPES[nth % RECIPES.len()];
        let made = value(recipe.recipe, &mut chance);
        let sort = chance.one(SORTS);
        let name = if recipe.needs_name || chance.below(2) == 0 {
            recipe.name
        } else {
            chance.one(NAMES)
        };
        let file = wrap(sort, Some((name, &made)), &mut chance);
        put(root, &file.path, &file.text)?;
        corpus.values.push(made);
        corpus.add(&file.path, file.line, recipe.provider, recipe.kind);
    }
    while corpus.files < files {
        let sort = chance.one(SORTS);
        // Some are tests', with values in the right form.
        if chance.below(40) == 0 {
            let recipe: &Recipe = &RECIPES[chance.below(RECIPES.len())];
            let made = value(recipe.recipe, &mut chance);
            let file = wrap(sort, Some((recipe.name, &made)), &mut chance);
            put(
                root,
                &format!(
                    "{}/{}",
                    chance.one(&["tests", "pkg/testdata", "web/__tests__", "examples"]),
                    file.path
                ),
                &file.text,
            )?;
            corpus.values.push(made);
            corpus.in_fixtures += 1;
        } else {
            let file = wrap(sort, None, &mut chance);
            put(root, &file.path, &file.text)?;
        }
        corpus.files += 1;
    }
    Ok(corpus)
}

impl Corpus {
    fn add(&mut self, path: &str, line: usize, provider: &'static str, kind: &'static str) {
        self.files += 1;
        self.planted.insert(Planted {
            path: path.into(),
            line,
            provider,
            kind,
        });
    }
}

/// A file of a private key.
pub fn key(title: &str, chance: &mut Chance) -> String {
    let bytes = if title.starts_with("OPENSSH") {
        // openssh-portable, PROTOCOL.key: no cipher.
        let mut bytes = b"openssh-key-v1\0\0\0\0\x04none\0\0\0\x04none".to_vec();
        bytes.extend(chance.bytes(260));
        bytes
    } else {
        chance.bytes(300)
    };
    made::pem(title, &bytes, "\n") + "\n"
}

fn put(root: &Path, path: &str, text: &str) -> io::Result<()> {
    let path = root.join(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // Paths have a number in them; where chance gives one twice, that is a mistake of this generator.
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()))
}
