//! Takes values that look like secrets out of command lines before they are stored or shown.
//!
//! What tells a person which secret it was stays: the name of the flag or variable, the scheme of a
//! header, the prefix of a provider's token. The value becomes `***`. Where it is not certain where a
//! value ends, more is masked rather than less.
//!
//! Three things give a secret away: its own form (`forms`), the name it is given to (`names`), and its
//! place in a URL, a header or the arguments of a known program (`scan`, `words`).

mod forms;
pub(crate) mod names;
mod scan;
#[cfg(test)]
mod tests;
mod words;

use std::{borrow::Cow, ops::Range};

use self::{
    scan::{Form, Scan},
    words::Context,
};

/// What stands in place of a secret.
pub const MASK: &str = "***";

/// Passes after which a text that still changes is given up and masked as a whole.
const PASSES: usize = 32;

/// The arguments as text (bytes that are no UTF-8 become U+FFFD) with secrets masked. Masking again
/// changes nothing.
pub fn mask_argv(argv: &[impl AsRef<[u8]>]) -> Vec<String> {
    let mut words: Vec<String> = argv
        .iter()
        .map(|word| String::from_utf8_lossy(word.as_ref()).into_owned())
        .collect();
    // A mask can change how the rest is read (a quote is gone with the value), so passes are made
    // until one finds nothing. Each takes away characters that are no `*`, so that comes to pass.
    for _ in 0..PASSES {
        if !mask_words(&mut words) {
            return words;
        }
    }
    words.iter().map(|_| MASK.to_owned()).collect()
}

/// The text with secrets masked: a shell script, a log line, a message. Masking again changes nothing.
pub fn mask_text(text: &str) -> Cow<'_, str> {
    let mut masked = Cow::Borrowed(text);
    for _ in 0..PASSES {
        match mask_once(&masked, Form::Script, &mut Context::default()) {
            Some(changed) => masked = Cow::Owned(changed),
            None => return masked,
        }
    }
    Cow::Borrowed(MASK)
}

fn mask_words(words: &mut [String]) -> bool {
    let mut context = Context::default();
    let (mut changed, mut script) = (false, false);
    for word in words {
        let form = if script || context.runs_scripts() && word.contains(' ') {
            Form::Script
        } else {
            Form::Argument
        };
        // `-c`, `-lc`, `-ec`: what follows is a script, for every shell and for python.
        script = word.len() < 6
            && word.starts_with('-')
            && word.ends_with('c')
            && word[1..].bytes().all(|byte| byte.is_ascii_alphabetic());
        // The words of a script are not the words of the command that it is an argument of.
        let masked = match form {
            Form::Script if !context.waits() => mask_once(word, form, &mut Context::default()),
            Form::Script | Form::Argument => mask_once(word, form, &mut context),
        };
        if let Some(masked) = masked {
            *word = masked;
            changed = true;
        }
    }
    changed
}

/// `None` where there is nothing to mask.
fn mask_once(text: &str, form: Form, context: &mut Context) -> Option<String> {
    let mut spans = forms::find(text);
    spans.extend(Scan::new(text, form, context).find());
    spans.retain(|span| !span.is_empty());
    spans.sort_by_key(|span| span.start);
    let mut masked = String::new();
    let mut from = 0;
    let mut spans = spans.into_iter().peekable();
    while let Some(Range { start, mut end }) = spans.next() {
        while let Some(next) = spans.next_if(|next| next.start < end) {
            end = end.max(next.end);
        }
        masked.push_str(&text[from..start]);
        masked.push_str(MASK);
        from = end;
    }
    masked.push_str(&text[from..]);
    (masked != text).then_some(masked)
}

/// The prefixes of providers' tokens that are masked.
#[cfg(test)]
pub(crate) fn prefixes() -> impl Iterator<Item = &'static str> {
    forms::prefixes()
}
