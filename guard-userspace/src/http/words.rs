//! Names made of words: `volumeDelete`, `delete_volume`, `DeleteDBInstance`.

/// The words of a name in small letters: at capitals and at whatever is no letter or digit. A row of capitals is a word of
/// its own, but for its last letter when that begins another (`DBInstance`: db, instance).
pub fn words(name: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut word = String::new();
    let letters: Vec<char> = name.chars().collect();
    for (at, &letter) in letters.iter().enumerate() {
        if !letter.is_alphanumeric() {
            found.extend((!word.is_empty()).then(|| std::mem::take(&mut word)));
            continue;
        }
        let before = at.checked_sub(1).and_then(|at| letters.get(at)).copied();
        let after = letters.get(at + 1).copied();
        let begins = letter.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase()
                    || before.is_ascii_digit()
                    || (before.is_uppercase() && after.is_some_and(char::is_lowercase))
            });
        if begins && !word.is_empty() {
            found.push(std::mem::take(&mut word));
        }
        word.extend(letter.to_lowercase());
    }
    found.extend((!word.is_empty()).then_some(word));
    found
}

/// A pattern for names, compared word by word: `*` is any number of words, none included. `*Delete*` matches
/// `volumeDelete` and `delete_volume`, and not `undeleteVolume`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordPattern {
    /// `None` for a `*`.
    parts: Vec<Option<String>>,
}

impl WordPattern {
    /// Reads one; nothing in it is an error.
    pub fn new(text: &str) -> Self {
        let mut parts: Vec<Option<String>> = Vec::new();
        for (at, piece) in text.split('*').enumerate() {
            if at > 0 && parts.last() != Some(&None) {
                parts.push(None);
            }
            parts.extend(words(piece).into_iter().map(Some));
        }
        Self { parts }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether a name is of this form.
    pub fn matches(&self, name: &str) -> bool {
        let words = words(name);
        let (mut p, mut w) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while w < words.len() {
            match self.parts.get(p) {
                Some(None) => {
                    star = Some((p, w));
                    p += 1;
                }
                Some(Some(word)) if *word == words[w] => {
                    p += 1;
                    w += 1;
                }
                _ => match star {
                    Some((at, from)) => {
                        star = Some((at, from + 1));
                        p = at + 1;
                        w = from + 1;
                    }
                    None => return false,
                },
            }
        }
        self.parts[p..].iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_where_a_reader_would_cut_it() {
        for (name, expected) in [
            ("volumeDelete", "volume delete"),
            ("delete_volume", "delete volume"),
            ("delete-volume.now", "delete volume now"),
            ("DeleteDBInstance", "delete db instance"),
            ("deleteS3Bucket", "delete s3 bucket"),
            ("undeleteVolume", "undelete volume"),
            ("VOLUME_DELETE", "volume delete"),
            ("", ""),
        ] {
            assert_eq!(words(name).join(" "), expected, "{name}");
        }
    }

    #[test]
    fn a_star_is_any_number_of_words_and_no_part_of_one() {
        for (pattern, name, is) in [
            ("*Delete*", "volumeDelete", true),
            ("*Delete*", "deleteVolume", true),
            ("*Delete*", "volumeDeleteAll", true),
            ("*Delete*", "undeleteVolume", false),
            ("*Delete*", "volumeDeleted", false),
            ("*Delete", "volumeDelete", true),
            ("*Delete", "deleteVolume", false),
            ("Delete*", "deleteVolume", true),
            ("volumeDelete", "volume_delete", true),
            ("volumeDelete", "volumeDeleteAll", false),
            ("*", "anything", true),
        ] {
            assert_eq!(
                WordPattern::new(pattern).matches(name),
                is,
                "{pattern} {name}"
            );
        }
    }
}
