//! Text that a watched process chose (arguments, paths, names) made safe to print. An agent that
//! could put escape sequences or direction marks on the terminal of who judges it could show that
//! person something other than what it does.

use std::fmt::Write as _;

/// What a terminal, or the eye, would not take as itself: control characters, and Unicode's
/// invisible and direction-changing ones.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn push_escaped(out: &mut String, c: char) {
    // Writing to a String does not fail.
    let _ = match c {
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        c if (c as u32) < 0x80 => write!(out, "\\x{:02x}", c as u32),
        c if (c as u32) < 0x1_0000 => write!(out, "\\u{:04x}", c as u32),
        c => write!(out, "\\U{:08x}", c as u32),
    };
}

/// One line of text.
pub fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            push_escaped(&mut out, c)
        } else {
            out.push(c)
        }
    }
    out
}

/// Text of several lines: line breaks and tabs stay as they are.
pub fn lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) && c != '\n' && c != '\t' {
            push_escaped(&mut out, c)
        } else {
            out.push(c)
        }
    }
    out
}

/// A command line as it could be typed into a shell, so that where one argument ends is plain.
pub fn command<S: AsRef<str>>(argv: &[S]) -> String {
    let words: Vec<String> = argv.iter().map(|arg| word(arg.as_ref())).collect();
    words.join(" ")
}

fn word(arg: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "@%_+=:,./-^~".contains(c);
    if arg.chars().any(is_unsafe) {
        let mut out = String::from("$'");
        for c in arg.chars() {
            match c {
                '\\' | '\'' => out.extend(['\\', c]),
                c if is_unsafe(c) => push_escaped(&mut out, c),
                c => out.push(c),
            }
        }
        out.push('\'');
        out
    } else if !arg.is_empty() && arg.chars().all(plain) && !arg.starts_with('~') {
        arg.to_owned()
    } else {
        format!("'{}'", arg.replace('\'', r"'\''"))
    }
}

/// JSON text whose strings hold nothing a terminal would act on. In valid JSON such characters can
/// only stand inside strings, where `\u` means the same.
pub fn json(json: &str) -> String {
    if !json.chars().any(is_unsafe) {
        return json.to_owned();
    }
    let mut out = String::with_capacity(json.len() + 16);
    let mut units = [0; 2];
    for c in json.chars() {
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut units) {
                // Writing to a String does not fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// At most `width` characters, the last an ellipsis where something was cut.
pub fn clip(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escape_sequences_and_direction_marks_come_out_as_text() {
        assert_eq!(text("\x1b[2J\x07ok\u{9b}1m"), r"\x1b[2J\x07ok\u009b1m");
        assert_eq!(text("a\u{202e}b\nc"), r"a\u202eb\nc");
        assert_eq!(lines("a\n\tb\x1b"), "a\n\tb\\x1b");
    }

    #[test]
    fn a_command_shows_where_each_argument_ends() {
        assert_eq!(
            command(&["curl", "-d", "a b", "it's", ""]),
            r"curl -d 'a b' 'it'\''s' ''"
        );
        assert_eq!(
            command(&["printf", "\x1b]0;x\x07'"]),
            r"printf $'\x1b]0;x\x07\''"
        );
    }

    #[test]
    fn clipping_says_that_it_clipped() {
        assert_eq!(clip("abcdef", 6), "abcdef");
        assert_eq!(clip("abcdef", 4), "abc…");
    }

    proptest! {
        #[test]
        fn nothing_unsafe_gets_through(s in any::<String>()) {
            prop_assert!(!text(&s).chars().any(is_unsafe));
            prop_assert!(!command(&[&s]).chars().any(is_unsafe));
        }

        #[test]
        fn json_means_the_same_after_escaping(s in any::<String>()) {
            let escaped = json(&serde_json::to_string(&s).unwrap());
            prop_assert!(!escaped.chars().any(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), s);
        }
    }
}
