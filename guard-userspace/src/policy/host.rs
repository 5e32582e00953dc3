//! Names of hosts as a policy writes them: `api.example.com`, `*.example.com`, `unknown`.

use std::net::IpAddr;

use guard_common::names::{self, HostKey, MAX_HOST, kind};

use super::error::Mistake;

/// The word for connections that say no name, or none that could be relied on.
const UNKNOWN: &str = "unknown";

/// A host name, or the end of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// This name.
    Exact(String),
    /// Every name that ends in a dot and this.
    Suffix(String),
    /// Every name that begins with the one and a dot, ends in a dot and the other, and has one part between.
    Middle(String, String),
    /// None, or none that could be relied on.
    Unknown,
    /// Every name, and none as well.
    Any,
}

impl HostPattern {
    /// Whether a name in small letters and without a last dot is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => name == exact,
            Self::Suffix(suffix) => name
                .strip_suffix(suffix.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            Self::Middle(before, behind) => name
                .strip_prefix(before.as_str())
                .and_then(|rest| rest.strip_prefix('.'))
                .and_then(|rest| rest.strip_suffix(behind.as_str()))
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|part| !part.is_empty() && !part.contains('.')),
            Self::Unknown => false,
            Self::Any => true,
        }
    }

    /// Its key in the kernel's table.
    pub(super) fn key(&self, generation: u8) -> HostKey {
        let whole = |text: &str| (names::hash(text.as_bytes()), text.len() as u32);
        let (kind, (hash, len)) = match self {
            Self::Exact(text) => (kind::EXACT, whole(text)),
            Self::Suffix(text) => (kind::SUFFIX, whole(text)),
            Self::Middle(before, behind) => {
                let (behind, len) = whole(behind);
                let hash = names::around(names::beginning(before.as_bytes()), behind);
                (kind::MIDDLE, (hash, len + before.len() as u32))
            }
            // Names that are known come from name servers, and guardd says what each carries.
            Self::Unknown | Self::Any => (kind::UNKNOWN, (0, 0)),
        };
        HostKey {
            hash,
            len,
            kind,
            generation: generation.into(),
        }
    }
}

/// Reads one name of a policy.
pub(super) fn parse(text: &str) -> Result<HostPattern, Mistake> {
    let bad = |reason: String| Mistake::BadHost {
        text: text.into(),
        reason,
    };
    let form =
        "expected a name like api.example.com, *.example.com or api.*.example.com, or \"unknown\"";
    if text == UNKNOWN {
        return Ok(HostPattern::Unknown);
    }
    if text.contains("://") || text.contains('/') {
        return Err(bad(format!(
            "a URL: {form}; what is behind the name goes under requests"
        )));
    }
    if text.parse::<IpAddr>().is_ok() || text.starts_with('[') {
        return Err(bad(format!(
            "an address: {form}; addresses go under addresses"
        )));
    }
    if text.contains(':') {
        return Err(bad(format!("a name with a port: {form}")));
    }
    let lower = text.to_ascii_lowercase();
    let (suffix, name) = match lower.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, lower.as_str()),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let middle = if suffix { None } else { name.split_once(".*.") };
    if name
        .replacen(".*.", "..", usize::from(middle.is_some()))
        .contains('*')
    {
        return Err(bad(format!(
            "\"*\" stands for whole parts: for any number of them at the beginning, or for one inside: {form}"
        )));
    }
    if !name.is_ascii() {
        return Err(bad(format!(
            "letters outside ASCII: {form}, in the form that is sent (xn--…)"
        )));
    }
    let part = |part: &str| {
        // RFC 1035, 2.3.1, and the underscore that real names have.
        (1..=63).contains(&part.len())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if let Some((before, behind)) = middle {
        if name.len() > MAX_HOST || !before.split('.').chain(behind.split('.')).all(part) {
            return Err(bad(form.into()));
        }
        return Ok(HostPattern::Middle(before.into(), behind.into()));
    }
    if name.len() > MAX_HOST || !name.split('.').all(part) {
        return Err(bad(form.into()));
    }
    let name = name.to_owned();
    Ok(if suffix {
        HostPattern::Suffix(name)
    } else {
        HostPattern::Exact(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_part_or_more() {
        let suffix = parse("*.Example.COM").unwrap();
        for (name, is) in [
            ("a.example.com", true),
            ("a.b.example.com", true),
            ("example.com", false),
            (".example.com", false),
            ("badexample.com", false),
            ("a.example.com.evil.org", false),
        ] {
            assert_eq!(suffix.matches(name), is, "{name}");
        }
        assert!(
            parse("api.example.com.")
                .unwrap()
                .matches("api.example.com")
        );
        assert!(
            !parse("api.example.com")
                .unwrap()
                .matches("x.api.example.com")
        );
        let middle = parse("ec2.*.Example.com").unwrap();
        for (name, is) in [
            ("ec2.us-east-1.example.com", true),
            ("ec2.a.b.example.com", false),
            ("ec2..example.com", false),
            ("ec2.example.com", false),
            ("xec2.a.example.com", false),
            ("ec2.a.xexample.com", false),
        ] {
            assert_eq!(middle.matches(name), is, "{name}");
        }
        assert_eq!(parse("unknown"), Ok(HostPattern::Unknown));
    }

    #[test]
    fn what_is_no_name_is_refused_with_what_it_is() {
        for (text, why) in [
            ("https://example.com", "a URL"),
            ("example.com/path", "a URL"),
            ("10.0.0.1", "an address"),
            ("[::1]", "an address"),
            ("example.com:443", "a port"),
            ("a*.example.com", "whole parts"),
            ("*", "whole parts"),
            ("a.*.*.example.com", "whole parts"),
            ("*.a.*.example.com", "whole parts"),
            ("a.*", "whole parts"),
            ("a.*x.example.com", "whole parts"),
            ("müller.de", "ASCII"),
            ("", "expected a name"),
            ("a..b", "expected a name"),
            ("a b", "expected a name"),
        ] {
            let Err(mistake) = parse(text) else {
                panic!("{text} was taken");
            };
            assert!(mistake.to_string().contains(why), "{text}: {mistake}");
        }
    }
}
