//! A list of allowed hosts, ready to paste, from what was seen.

use serde::{Deserialize, Serialize};

use super::Report;
use crate::{cli::escape, policy::Allowed};

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Suggestion {
    /// What the job used.
    pub allow: Vec<Entry>,
    /// Entries of the list so far that it did not use.
    pub unused: Vec<String>,
}

/// One entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// For `--allow`.
    pub entry: String,
    /// It is in the list already.
    pub allowed: bool,
    /// Who needed it: steps and programs.
    pub needed_by: String,
}

impl Suggestion {
    /// From what a report has, and the list that the job ran with.
    pub fn of(report: &Report, allowed: &[String]) -> Self {
        let mut suggestion = Self::default();
        let mut used = vec![false; allowed.len()];
        for peer in &report.peers {
            let mut needed: Vec<String> = peer.steps.iter().map(|n| report.step(*n)).collect();
            needed.extend(peer.programs.iter().map(|exe| escape::text(exe)));
            let needed = needed.join(", ");
            let local = |addr: &String| {
                addr.parse::<std::net::IpAddr>()
                    .is_ok_and(|addr| addr.is_loopback())
            };
            let fits = |entry: &&String| {
                let (name, port) = match entry.rsplit_once(':') {
                    Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, port),
                    _ => (entry.as_str(), ""),
                };
                let port_fits = port.is_empty() || port.parse() == Ok(peer.port);
                let host = peer.host.as_deref().unwrap_or_default();
                let name_fits = match name.strip_prefix('*') {
                    Some(end) => host.ends_with(end) && host.len() > end.len(),
                    None => host.eq_ignore_ascii_case(name),
                };
                port_fits && (name_fits || peer.addrs.contains(name))
            };
            let entry = if peer.elsewhere {
                peer.place()
            } else if let Some(at) = allowed.iter().position(|entry| fits(&entry)) {
                used[at] = true;
                allowed[at].clone()
            } else if peer.addrs.iter().all(local) || peer.port == 53 {
                // This machine and its name servers are always allowed.
                continue;
            } else {
                // An address of a prefix, or the runner's own: allowed as it was.
                continue;
            };
            // What was said on the wire need not be a name.
            if Allowed::parse(&entry).is_err() {
                continue;
            }
            match suggestion.allow.iter_mut().find(|old| old.entry == entry) {
                Some(old) if old.needed_by.len() < 500 => {
                    old.needed_by = format!("{}, {needed}", old.needed_by);
                }
                Some(_) => {}
                None => suggestion.allow.push(Entry {
                    allowed: !peer.elsewhere,
                    entry,
                    needed_by: needed,
                }),
            }
        }
        let unused = allowed.iter().zip(used).filter(|(_, used)| !used);
        suggestion.unused = unused
            // Whether a prefix was used is not looked at.
            .filter(|(entry, _)| !entry.contains('/'))
            .map(|(entry, _)| entry.clone())
            .collect();
        suggestion
    }

    /// Lines for the option `allow` of the action, or a list with remarks for `--allow`.
    pub fn lines(&self) -> Vec<String> {
        let width = self.allow.iter().map(|entry| entry.entry.len()).max();
        self.allow
            .iter()
            .map(|entry| {
                let new = if entry.allowed {
                    ""
                } else {
                    "not allowed so far; "
                };
                // A `#` begins the remark, and one inside it would be no harm.
                format!(
                    "{:width$}  # {new}{}",
                    entry.entry,
                    entry.needed_by,
                    width = width.unwrap_or(0)
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ci::report::{Peer, Step};

    #[test]
    fn what_was_used_is_suggested_with_who_needed_it() {
        let peer = |host: &str, port, elsewhere| Peer {
            host: (!host.is_empty()).then(|| host.into()),
            addrs: ["203.0.113.9".to_owned()].into(),
            port,
            transport: "tcp".into(),
            elsewhere,
            programs: ["/usr/bin/curl".to_owned()].into(),
            steps: [1].into(),
            ..Peer::default()
        };
        let local = Peer {
            addrs: ["127.0.0.1".to_owned()].into(),
            ..peer("", 8080, false)
        };
        let report = Report {
            steps: vec![Step {
                number: 1,
                name: Some("__run".into()),
                ..Step::default()
            }],
            peers: vec![
                peer("static.crates.io", 443, false),
                peer("index.crates.io", 443, false),
                peer("evil.example", 80, true),
                peer("", 25, true),
                peer("not a name", 1, true),
                local,
            ],
            ..Report::default()
        };
        let allowed = ["*.crates.io:443", "github.com"].map(str::to_owned);
        let suggestion = Suggestion::of(&report, &allowed);
        let entries: Vec<(&str, bool)> = suggestion
            .allow
            .iter()
            .map(|entry| (&*entry.entry, entry.allowed))
            .collect();
        assert_eq!(
            entries,
            [
                ("*.crates.io:443", true),
                ("evil.example:80", false),
                ("203.0.113.9:25", false)
            ]
        );
        assert_eq!(suggestion.unused, ["github.com"]);
        assert!(
            suggestion.lines()[1].contains("# not allowed so far; step 1 (__run), /usr/bin/curl")
        );
        // Ready to paste: what was suggested reads as a list.
        let again = crate::cli::ci::compose::entries(&[suggestion.lines().join("\n")]);
        assert_eq!(again.len(), 3);
    }
}
