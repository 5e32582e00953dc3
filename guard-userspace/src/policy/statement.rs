//! How a statement begins in a text such as SQL (`says:drop+*` in a pattern).
//!
//! A statement begins where the text does, and behind each `;` and each end of a line; blanks, `(` and comments are
//! passed over. So `SELECT … FROM backdrop` does not say `drop`, and neither does a string in the middle of a line. Small
//! and capital letters are the same.

/// The first words of a statement, in small letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Statement(Vec<String>);

impl Statement {
    /// `drop+*`: the word `drop`, and another one behind it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let words: Vec<String> = text.split('+').map(str::to_ascii_lowercase).collect();
        let good = |word: &String| !word.is_empty() && word.bytes().all(is_part);
        let (first, others) = words.split_first()?;
        // With a fixed word first a text is read once, whatever it is.
        let all_good = good(first) && others.iter().all(|word| word == "*" || good(word));
        all_good.then_some(Self(words))
    }

    /// Whether a statement of this text begins so.
    pub(super) fn is_in(&self, text: &str) -> bool {
        let text = without_comments(text);
        let ends = text.char_indices().filter(|(_, c)| matches!(c, ';' | '\n'));
        std::iter::once(0)
            .chain(ends.map(|(at, _)| at + 1))
            .any(|from| self.begins(&text[from..]))
    }

    fn begins(&self, text: &str) -> bool {
        let mut rest = text.trim_start_matches([' ', '\t', '\r', '(']);
        for (count, word) in self.0.iter().enumerate() {
            if count > 0 {
                let next = rest.trim_start();
                if next.len() == rest.len() {
                    return false;
                }
                rest = next;
            }
            let end = if word == "*" {
                rest.find(|c: char| c.is_whitespace() || c == ';')
            } else {
                match rest.strip_prefix(&**word) {
                    Some(after) if !after.bytes().next().is_some_and(is_part) => Some(word.len()),
                    _ => return false,
                }
            };
            let end = end.unwrap_or(rest.len());
            if end == 0 {
                return false;
            }
            rest = &rest[end..];
        }
        true
    }
}

fn is_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The text in small letters, each comment a blank.
fn without_comments(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['-', '/']) {
        clean.push_str(&rest[..at]);
        rest = &rest[at..];
        rest = if rest.starts_with("--") {
            rest.find('\n').map_or("", |end| &rest[end..])
        } else if let Some(comment) = rest.strip_prefix("/*") {
            clean.push(' ');
            comment.find("*/").map_or("", |end| &comment[end + 2..])
        } else {
            clean.push_str(&rest[..1]);
            &rest[1..]
        };
    }
    clean.push_str(rest);
    clean.make_ascii_lowercase();
    clean
}
