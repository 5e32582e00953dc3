//! Long text made short where it tells least.

/// At most `most` characters, with an ellipsis in the middle where something was cut: a path's file, a request's
/// object and a command's last words stand at the end.
pub fn middle(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let room = most.saturating_sub(1);
    let (head, tail) = (room - room / 2, room / 2);
    let mut out: String = text.chars().take(head).collect();
    out.push('…');
    out.extend(text.chars().skip(count - tail));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_ends_stay() {
        assert_eq!(middle("abcdef", 6), "abcdef");
        assert_eq!(middle("abcdefgh", 5), "ab…gh");
        assert_eq!(middle("abc", 0), "…");
    }

    proptest! {
        #[test]
        fn it_is_never_longer_than_asked(s in any::<String>(), most in 1usize..50) {
            let short = middle(&s, most);
            prop_assert!(short.chars().count() <= most);
            if most > 2 && s.chars().count() > most {
                prop_assert_eq!(short.chars().last(), s.chars().last());
                prop_assert_eq!(short.chars().next(), s.chars().next());
            }
        }
    }
}
