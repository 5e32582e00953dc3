//! Secrets that are known by their own form, wherever they stand.

use std::ops::Range;

/// A provider's token: a prefix that stays, then at least `least` characters that do not.
struct Token {
    prefix: &'static str,
    least: usize,
    body: Body,
    /// Whether a letter or digit may stand right before it. Not for prefixes that end words.
    glued: bool,
}

#[derive(Clone, Copy)]
enum Body {
    /// Letters and digits.
    Alnum,
    /// And `_`, `-`.
    Word,
    /// And `.`.
    Dotted,
    /// As `Word`, but no words joined by hyphens: a capital and a digit, or 20 characters in a row.
    Mixed,
    /// Capitals and digits, of just this length.
    Capitals,
    /// Base64, dots and commas.
    Macaroon,
}

const fn token(prefix: &'static str, least: usize, body: Body, glued: bool) -> Token {
    Token {
        prefix,
        least,
        body,
        glued,
    }
}

/// From the providers' own pages and from the public rules of secret scanners
/// (docs.github.com/code-security/secret-scanning, github.com/gitleaks/gitleaks).
const TOKENS: &[Token] = &[
    token("ghp_", 20, Body::Alnum, true),
    token("gho_", 20, Body::Alnum, true),
    token("ghu_", 20, Body::Alnum, true),
    token("ghs_", 20, Body::Dotted, true),
    token("ghr_", 20, Body::Alnum, true),
    token("github_pat_", 20, Body::Word, true),
    token("glpat-", 16, Body::Dotted, true),
    token("gldt-", 16, Body::Word, false),
    token("glrt-", 16, Body::Dotted, false),
    token("glptt-", 16, Body::Word, false),
    token("glcbt-", 16, Body::Word, false),
    token("sk-ant-", 16, Body::Word, false),
    token("sk-proj-", 16, Body::Word, false),
    token("sk-or-", 16, Body::Word, false),
    token("sk-svcacct-", 16, Body::Word, false),
    token("sk-", 20, Body::Mixed, false),
    token("sk_live_", 10, Body::Alnum, true),
    token("sk_test_", 10, Body::Alnum, true),
    token("rk_live_", 10, Body::Alnum, true),
    token("rk_test_", 10, Body::Alnum, true),
    token("whsec_", 20, Body::Alnum, true),
    token("xoxa-", 10, Body::Word, true),
    token("xoxb-", 10, Body::Word, true),
    token("xoxe-", 10, Body::Word, true),
    token("xoxe.", 10, Body::Dotted, true),
    token("xoxo-", 10, Body::Word, true),
    token("xoxp-", 10, Body::Word, true),
    token("xoxr-", 10, Body::Word, true),
    token("xoxs-", 10, Body::Word, true),
    token("xapp-", 10, Body::Word, true),
    token("AKIA", 16, Body::Capitals, false),
    token("ASIA", 16, Body::Capitals, false),
    token("AIza", 30, Body::Word, false),
    token("ya29.", 20, Body::Dotted, false),
    token("GOCSPX-", 20, Body::Word, true),
    token("npm_", 30, Body::Alnum, false),
    token("pypi-", 32, Body::Mixed, false),
    token("rubygems_", 30, Body::Alnum, true),
    token("hf_", 30, Body::Alnum, false),
    token("dop_v1_", 30, Body::Alnum, true),
    token("doo_v1_", 30, Body::Alnum, true),
    token("dor_v1_", 30, Body::Alnum, true),
    token("dckr_pat_", 16, Body::Word, true),
    token("eyJ", 20, Body::Dotted, false),
    token("SG.", 30, Body::Dotted, false),
    token("fo1_", 20, Body::Word, false),
    token("fm1r_", 20, Body::Macaroon, false),
    token("fm1a_", 20, Body::Macaroon, false),
    token("fm2_", 20, Body::Macaroon, false),
    token("sbp_", 30, Body::Alnum, false),
    token("sb_secret_", 16, Body::Word, true),
    token("pul-", 30, Body::Alnum, false),
    token("HRKU-", 20, Body::Word, true),
    token("nfp_", 30, Body::Alnum, false),
    token("rnd_", 24, Body::Alnum, false),
    token("tskey-", 16, Body::Word, true),
    token("shpat_", 24, Body::Alnum, true),
    token("lin_api_", 24, Body::Alnum, true),
    token("ntn_", 30, Body::Alnum, false),
    token("gsk_", 30, Body::Alnum, false),
    token("xai-", 40, Body::Alnum, false),
    token("r8_", 30, Body::Alnum, false),
    token("pplx-", 30, Body::Alnum, false),
    token("hvs.", 20, Body::Word, false),
    token("hvb.", 20, Body::Word, false),
    token("glsa_", 20, Body::Word, false),
    token("ATATT3", 30, Body::Dotted, false),
    token("CFPAT-", 20, Body::Word, true),
    token("PMAK-", 20, Body::Word, true),
    token("AGE-SECRET-KEY-1", 20, Body::Alnum, true),
];

#[cfg(test)]
pub(super) fn prefixes() -> impl Iterator<Item = &'static str> {
    TOKENS.iter().map(|token| token.prefix)
}

/// The bytes that a token may begin with.
const BEGINNINGS: [bool; 256] = {
    let mut beginnings = [false; 256];
    let mut at = 0;
    while at < TOKENS.len() {
        beginnings[TOKENS[at].prefix.as_bytes()[0] as usize] = true;
        at += 1;
    }
    beginnings
};

impl Body {
    fn takes(self, byte: u8) -> bool {
        match self {
            Self::Alnum => byte.is_ascii_alphanumeric(),
            Self::Word | Self::Mixed => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'),
            Self::Dotted => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'),
            Self::Capitals => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Self::Macaroon => {
                byte.is_ascii_alphanumeric()
                    || matches!(byte, b'_' | b'-' | b'+' | b'/' | b'=' | b',')
            }
        }
    }

    fn fits(self, body: &[u8], least: usize) -> bool {
        body.len() >= least
            && match self {
                Self::Capitals => body.len() == least,
                Self::Mixed => {
                    let digit = body.iter().any(u8::is_ascii_digit);
                    let capital = body.iter().any(u8::is_ascii_uppercase);
                    let mut runs = body.split(|byte| matches!(byte, b'-' | b'_'));
                    digit && (capital || runs.any(|run| run.len() >= 20))
                }
                Self::Alnum | Self::Word | Self::Dotted | Self::Macaroon => true,
            }
    }
}

/// Where in `text` such secrets stand, without what may stay of them.
pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    private_keys(text, &mut spans);
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if let Some(span) = token_at(bytes, at) {
            at = span.end;
            spans.push(span);
        } else {
            at += 1;
        }
    }
    spans
}

fn token_at(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let first = bytes[at];
    if !BEGINNINGS[usize::from(first)] {
        return None;
    }
    let before = at.checked_sub(1).map(|before| bytes[before]);
    TOKENS
        .iter()
        .filter(|token| token.prefix.as_bytes()[0] == first)
        .find_map(|token| {
            let start = at + token.prefix.len();
            if !bytes[at..].starts_with(token.prefix.as_bytes())
                || !token.glued
                    && before.is_some_and(|byte| byte.is_ascii_alphanumeric())
                    && !escaped(bytes, at)
            {
                return None;
            }
            let length = bytes[start..]
                .iter()
                .take_while(|byte| token.body.takes(**byte))
                .count();
            let span = start..start + length;
            token
                .body
                .fits(&bytes[span.clone()], token.least)
                .then_some(span)
        })
}

/// Whether what stands right before is a character of a URL (`%3D`) or the letter of an escape (`\n`).
fn escaped(bytes: &[u8], at: usize) -> bool {
    at >= 3 && bytes[at - 3] == b'%' || at >= 2 && bytes[at - 2] == b'\\'
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// Between `-----BEGIN … PRIVATE KEY-----` and its end line; to the end of the text where there is no
/// end line but something that looks like key material follows.
fn private_keys(text: &str, spans: &mut Vec<Range<usize>>) {
    let mut from = 0;
    while let Some(begin) = text[from..].find(BEGIN).map(|at| from + at + BEGIN.len()) {
        from = begin;
        let Some(title) = text[begin..].find(DASHES) else {
            return;
        };
        if !text[begin..begin + title].contains("PRIVATE KEY") {
            continue;
        }
        let body = begin + title + DASHES.len();
        let rest = &text[body..];
        if let Some(length) = rest.find(END) {
            spans.push(body..body + length);
            from = body + length;
        } else {
            // Line ends may be written out: `\n`, `\\n`.
            let material = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\\');
            let material = material.strip_prefix(['n', 'r']).unwrap_or(material);
            let length = material
                .bytes()
                .take_while(|byte| {
                    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
                })
                .count();
            if length >= 16 || material.starts_with("Proc-Type") {
                spans.push(body..text.len());
                return;
            }
        }
    }
}
