//! Text as cells of a terminal. What an agent controls must fill exactly the cells that are counted for it,
//! whatever the terminal thinks of joining characters: else it could push a line over its end and paint what stands
//! beside it.

use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthChar as _;

use crate::cli::escape;

/// A line that can be shown: [`escape::text`], and besides it what has no width of its own or would join the
/// character before (combining marks, variation selectors, flags, tones of skin) as its number.
pub fn safe(text: &str) -> String {
    let text = escape::text(text);
    if text.is_ascii() {
        return text;
    }
    let mut out = String::with_capacity(text.len());
    for cluster in text.graphemes(true) {
        for (at, c) in cluster.chars().enumerate() {
            if at == 0 && c.width().unwrap_or(0) > 0 {
                out.push(c);
            } else if (c as u32) < 0x1_0000 {
                out.push_str(&format!("\\u{:04x}", c as u32));
            } else {
                out.push_str(&format!("\\U{:08x}", c as u32));
            }
        }
    }
    out
}

fn wide(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// Columns of a [`safe`] line.
pub fn width(text: &str) -> usize {
    text.chars().map(wide).sum()
}

/// At most so many columns, the last an ellipsis where something was cut.
pub fn clip(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = head(text, columns.saturating_sub(1)).to_owned();
    if columns > 0 {
        out.push('…');
    }
    out
}

/// The longest beginning of at most so many columns.
fn head(text: &str, columns: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += wide(c);
        if used > columns {
            return &text[..at];
        }
    }
    text
}

/// A line over as many lines as it takes, the following ones indented. Nothing is left out.
pub fn wrap(text: &str, columns: usize, indent: usize) -> Vec<String> {
    let indent = indent.min(columns / 2);
    let mut lines = Vec::new();
    let mut rest = text;
    loop {
        let room = if lines.is_empty() {
            columns
        } else {
            columns - indent
        };
        let mut part = head(rest, room.max(2));
        if part.len() < rest.len() {
            // Between words where there is a place in the second half of the line.
            if let Some(at) = part.rfind(' ').filter(|at| *at > part.len() / 2) {
                part = &part[..at];
            }
        }
        let spaces = if lines.is_empty() { 0 } else { indent };
        lines.push(format!("{:spaces$}{part}", ""));
        rest = &rest[part.len()..];
        rest = rest.strip_prefix(' ').unwrap_or(rest);
        if rest.is_empty() {
            return lines;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_width::UnicodeWidthStr as _;

    use super::*;

    #[test]
    fn what_would_join_is_shown_as_its_number() {
        assert_eq!(safe("e\u{301}x"), r"e\u0301x");
        assert_eq!(safe("\u{1f1e9}\u{1f1ea}"), "\u{1f1e9}\\U0001f1ea");
        assert_eq!(safe("\u{202e}\x1b[2J"), r"\u202e\x1b[2J");

        assert_eq!(safe("日本"), "日本");
    }

    #[test]
    fn wide_characters_take_two_cells() {
        assert_eq!(width("日本x"), 5);
        assert_eq!(clip("日本語", 6), "日本語");
        assert_eq!(clip("日本語", 5), "日本…");
        assert_eq!(clip("日本語", 4), "日…");
        assert_eq!(wrap("日本語", 4, 0), ["日本", "語"]);
    }

    #[test]
    fn lines_break_between_words_and_lose_nothing() {
        assert_eq!(wrap("one two three", 8, 2), ["one two", "  three"]);
        assert_eq!(wrap("abcdefghij", 4, 1), ["abcd", " efg", " hij"]);
        assert_eq!(wrap("", 4, 1), [""]);
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_asked(s in any::<String>(), columns in 4usize..80) {
            let text = safe(&s);
            prop_assert!(width(&clip(&text, columns)) <= columns);
            for line in wrap(&text, columns, 3) {
                prop_assert!(width(&line) <= columns, "{line:?}");
            }
            // What the drawing library takes for one cell's content is one character.
            prop_assert!(text.graphemes(true).all(|cluster| cluster.chars().count() == 1));
            prop_assert_eq!(width(&text), text.graphemes(true).map(|c| c.width()).sum::<usize>());
        }
    }
}
