//! Everything but: addresses and names that a label does not count (`except.addresses`, `except.hosts`), and the name
//! servers that are believed when they say where these names are.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use guard_common::matching::KnownAddress;

use super::{Address, HostPattern, LabelBits, LabelGroup, Mistake, Policy, Tables, address, host};

/// The word for every name, among `hosts`.
pub(super) const ANY: &str = "*";

/// A name of `except.hosts`, with a port where there is one: `github.com`, `*.crates.io:443`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SparedHost {
    /// Which names.
    pub pattern: HostPattern,
    /// Destination port; 0 for any.
    pub port: u16,
}

/// Reads one of `except.hosts`.
pub(super) fn host(text: &str) -> Result<SparedHost, Mistake> {
    let bad = |reason: &str| Mistake::BadHost {
        text: text.into(),
        reason: format!(
            "{reason}: expected a name, perhaps with a port, like github.com or *.crates.io:443"
        ),
    };
    let (name, port) = match text.rsplit_once(':') {
        // What is wrong with a URL is not its port.
        _ if text.contains("://") => (text, 0),
        None => (text, 0),
        Some((name, port)) => match port.parse::<u16>() {
            Ok(number) if number > 0 && !port.starts_with('+') => (name, number),
            _ => return Err(bad("a port from 1 to 65535 comes behind the \":\"")),
        },
    };
    match host::parse(name)? {
        HostPattern::Unknown => Err(bad("what is unknown cannot be an exception")),
        pattern => Ok(SparedHost { pattern, port }),
    }
}

/// What a list of allowed hosts may have, in the forms of `except.hosts` and `except.addresses`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// A name or an end of names; the name without its port.
    Host(String),
    /// An address or a prefix.
    Address,
}

impl Allowed {
    /// Reads one entry.
    ///
    /// # Errors
    /// What is wrong with it, and what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let first = text.split(['/', ':']).next().unwrap_or_default();
        let is_address = text.starts_with(['[', '*']) && !text.starts_with("*.")
            || first.parse::<IpAddr>().is_ok()
            || text.parse::<IpAddr>().is_ok();
        if is_address {
            return address::parse(text)
                .map(|_| Self::Address)
                .map_err(|mistake| mistake.to_string());
        }
        host(text).map_err(|mistake| mistake.to_string())?;
        let name = text.rsplit_once(':').map_or(text, |(name, _)| name);
        Ok(Self::Host(name.to_ascii_lowercase()))
    }
}

/// Reads one of `except.resolvers`.
pub(super) fn resolver(text: &str) -> Result<IpAddr, Mistake> {
    text.parse().map_err(|_| Mistake::BadAddress {
        text: text.into(),
        reason: "expected the address of a name server, like 127.0.0.53 or ::1".into(),
    })
}

/// What does not go together, with the key that is at fault.
pub(super) fn check(group: &LabelGroup) -> Result<(), (&'static str, Mistake)> {
    let says = |text: &str, reason: &str| Mistake::BadHost {
        text: text.into(),
        reason: reason.into(),
    };
    let everywhere = group
        .addresses
        .iter()
        .any(|address| address.prefix == 0 && address.port == 0);
    let any = group.hosts.contains(&HostPattern::Any);
    if any && (!everywhere || group.hosts.len() > 1) {
        let reason = "every name is for every address: expected addresses = [\"::/0\"] beside it, and no other hosts";
        return Err(("hosts", says(ANY, reason)));
    }
    if !group.except_hosts.is_empty() {
        if !any {
            let reason = "names are excepted from all others: expected hosts = [\"*\"] and addresses = [\"::/0\"]";
            return Err(("except", says("except.hosts", reason)));
        }
        if group.resolvers.is_empty() {
            let reason = "nobody is believed about where these names are: expected resolvers = [\"127.0.0.53\"] or the like beside it";
            return Err(("except", says("except.hosts", reason)));
        }
    }
    if !group.except_addresses.is_empty() && group.addresses.is_empty() {
        let reason = "expected addresses = […] that they are excepted from";
        return Err(("except", says("except.addresses", reason)));
    }
    Ok(())
}

impl LabelGroup {
    /// Whether a name, in small letters and without a last dot, is excepted at some port.
    pub fn spares(&self, name: &str) -> bool {
        self.except_hosts
            .iter()
            .any(|host| host.pattern.matches(name))
    }

    fn spares_at(&self, name: &str, port: u16) -> bool {
        self.except_hosts
            .iter()
            .any(|host| (host.port == 0 || host.port == port) && host.pattern.matches(name))
    }
}

impl Policy {
    /// Whether some label spares the addresses of names.
    pub fn spares(&self) -> bool {
        self.groups
            .iter()
            .any(|group| !group.except_hosts.is_empty())
    }

    /// Whether some label does so for this name.
    pub fn spares_name(&self, name: &str) -> bool {
        self.groups.iter().any(|group| group.spares(name))
    }

    /// Whether what a name server says is believed.
    pub fn believes(&self, from: IpAddr) -> bool {
        self.groups
            .iter()
            .any(|group| group.resolvers.contains(&from))
    }

    /// Labels that a connection to an address of these names does not carry, by port; 0 is every other port.
    pub fn spared_labels<'a>(
        &self,
        names: impl Iterator<Item = &'a str> + Clone,
        bits: &LabelBits,
    ) -> BTreeMap<u16, u64> {
        let mut labels: BTreeMap<u16, u64> = BTreeMap::new();
        for host in self.groups.iter().flat_map(|group| &group.except_hosts) {
            if names.clone().any(|name| host.pattern.matches(name)) {
                labels.insert(host.port, 0);
            }
        }
        for (port, labels) in &mut labels {
            // A label goes where each of its tables lets it go.
            let mut kept = 0;
            for group in self.groups.iter().filter(|g| !g.addresses.is_empty()) {
                let mask = bits.mask(&group.name);
                if names.clone().any(|name| group.spares_at(name, *port)) {
                    *labels |= mask;
                } else {
                    kept |= mask;
                }
            }
            *labels &= !kept;
        }
        labels
    }

    /// Gives the labels that have exceptions to every entry that they mean, for the longest prefix hides what a shorter
    /// one carries; and takes them from what is excepted.
    pub(super) fn spare(&self, known: &mut BTreeMap<Address, KnownAddress>, bits: &LabelBits) {
        let sparing = |group: &&LabelGroup| {
            !group.except_addresses.is_empty() || !group.except_hosts.is_empty()
        };
        for except in self.groups.iter().flat_map(|group| &group.except_addresses) {
            let above = known
                .iter()
                .filter(|(other, _)| other.covers(except))
                .max_by_key(|(other, _)| (other.prefix, other.port != 0))
                .map(|(_, value)| *value)
                .unwrap_or_default();
            let prefix = except.prefix;
            known
                .entry(*except)
                .or_insert(KnownAddress { prefix, ..above });
        }
        for group in self.groups.iter().filter(sparing) {
            let (label, mask) = (bits.mask(&group.name), group.mask());
            let covered = |among: &[Address], at: &Address| among.iter().any(|a| a.covers(at));
            for (at, value) in known.iter_mut() {
                if covered(&group.except_addresses, at) {
                    value.labels &= !label;
                    value.spared |= label;
                } else if covered(&group.addresses, at) && value.labels & label == 0 {
                    value.groups = if value.labels == 0 || value.groups == mask {
                        mask
                    } else {
                        0
                    };
                    value.labels |= label;
                }
            }
        }
    }
}

impl Tables {
    /// What an address carries, as the kernel looks it up.
    pub fn of_address(&self, addr: IpAddr, port: u16) -> KnownAddress {
        let addr = address::mapped(addr);
        let best = |of_port: u16| {
            self.addresses
                .iter()
                .filter(|(_, key, known)| {
                    let at = Address {
                        addr: Ipv6Addr::from(key.addr),
                        prefix: known.prefix,
                        port: 0,
                    };
                    u16::from_be(key.port) == of_port && at.contains(addr.into(), port)
                })
                .map(|(_, _, known)| *known)
                .max_by_key(|known| known.prefix)
        };
        match (if port == 0 { None } else { best(port) }, best(0)) {
            (Some(with), Some(any)) if any.prefix > with.prefix => any,
            (Some(known), _) | (None, Some(known)) => known,
            (None, None) => KnownAddress::default(),
        }
    }

    /// The entry for exactly this address and port.
    pub fn entry_of(&self, addr: IpAddr, port: u16) -> Option<KnownAddress> {
        let addr = address::mapped(addr).octets();
        self.addresses
            .iter()
            .find(|(_, key, known)| {
                known.prefix == 128 && key.addr == addr && u16::from_be(key.port) == port
            })
            .map(|(_, _, known)| *known)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, path::PathBuf};

    use super::*;
    use crate::policy::{Homes, Source};

    const LABEL: &str =
        "[[label]]\nname = \"elsewhere\"\naddresses = [\"::/0\"]\nhosts = [\"*\"]\n";

    fn read(text: &str) -> Result<Policy, String> {
        Policy::parse(
            &format!("version = 1\n{text}"),
            Source::File(PathBuf::from("p.toml")),
        )
        .map_err(|error| error.to_string())
    }

    fn compiled(text: &str) -> (Policy, Tables, LabelBits) {
        let policy = read(text).unwrap();
        let bits = LabelBits::assign(None, &policy).unwrap();
        let tables = policy
            .compile(0, &bits, &Homes::of(Vec::<PathBuf>::new()))
            .unwrap();
        (policy, tables, bits)
    }

    fn at(addr: &str) -> IpAddr {
        addr.parse().unwrap()
    }

    #[test]
    fn everything_but_the_excepted_addresses_carries_the_label() {
        let (_, tables, bits) = compiled(&format!(
            "{LABEL}except = {{ addresses = [\"127.0.0.0/8\", \"::1\", \"10.0.0.2:53\"] }}\n\
             [[label]]\nname = \"infra\"\naddresses = [\"203.0.113.0/24\", \"127.0.0.1:5432\", \"*:25\"]\n"
        ));
        let elsewhere = bits.mask("elsewhere");
        let infra = bits.mask("infra");
        for (addr, port, labels) in [
            ("8.8.8.8", 53, elsewhere),
            ("2001:db8::1", 443, elsewhere),
            ("127.3.2.1", 80, 0),
            ("::1", 80, 0),
            ("10.0.0.2", 53, 0),
            ("10.0.0.2", 54, elsewhere),
            // What another label names is elsewhere all the same, and what is excepted keeps the other label.
            ("203.0.113.9", 443, elsewhere | infra),
            ("8.8.8.8", 25, elsewhere | infra),
            ("127.0.0.1", 5432, infra),
        ] {
            assert_eq!(
                tables.of_address(at(addr), port).labels,
                labels,
                "{addr} {port}"
            );
        }
        assert_eq!(tables.of_address(at("10.0.0.2"), 53).spared, elsewhere);
        assert_eq!(tables.of_address(at("127.0.0.1"), 5432).spared, elsewhere);
        assert_eq!(tables.of_address(at("8.8.8.8"), 53).spared, 0);
    }

    #[test]
    fn a_name_is_excepted_at_its_port_and_no_other_name_is() {
        let (policy, _, bits) = compiled(&format!(
            "{LABEL}except = {{ hosts = [\"github.com\", \"*.crates.io:443\"], resolvers = [\"127.0.0.53\"] }}\n"
        ));
        let label = bits.mask("elsewhere");
        let of = |name: &str| policy.spared_labels([name].into_iter(), &bits);
        assert_eq!(of("github.com"), BTreeMap::from([(0, label)]));
        assert_eq!(of("static.crates.io"), BTreeMap::from([(443, label)]));
        assert_eq!(of("crates.io"), BTreeMap::new());
        assert_eq!(policy.of_host("static.crates.io", &bits).labels, 0);
        assert_eq!(policy.of_host("evil.example", &bits).labels, label);
        assert_eq!(policy.of_unknown(&bits).labels, label);
        assert!(policy.believes(Ipv4Addr::new(127, 0, 0, 53).into()));
        assert!(!policy.believes(Ipv4Addr::new(127, 0, 0, 54).into()));
    }

    #[test]
    fn a_second_table_of_the_label_must_spare_the_name_too() {
        let (policy, _, bits) = compiled(&format!(
            "{LABEL}except = {{ hosts = [\"github.com\"], resolvers = [\"127.0.0.53\"] }}\n\
             [[label]]\nname = \"elsewhere\"\naddresses = [\"203.0.113.0/24\"]\n"
        ));
        let of = policy.spared_labels(["github.com"].into_iter(), &bits);
        assert_eq!(of, BTreeMap::from([(0, 0)]));
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_what_is_missing() {
        let any = "[[label]]\nname = \"x\"\nhosts = [\"*\"]\n";
        let spares = "except = { hosts = [\"github.com\"], resolvers = [\"127.0.0.53\"] }";
        let files = "[[label]]\nname = \"x\"\nfiles = [\"**/.env\"]\n";
        for (text, says) in [
            (any.into(), "addresses = [\"::/0\"] beside it"),
            (format!("{files}{spares}"), "expected hosts = [\"*\"]"),
            (
                format!("{LABEL}except = {{ hosts = [\"github.com\"] }}"),
                "resolvers = [",
            ),
            (
                format!("{files}except = {{ addresses = [\"::1\"] }}"),
                "excepted from",
            ),
            (
                format!("{LABEL}except = {{ hosts = [\"unknown\"], resolvers = [\"::1\"] }}"),
                "cannot be an exception",
            ),
            (
                format!("{LABEL}except = {{ hosts = [\"a.b:0\"], resolvers = [\"::1\"] }}"),
                "a port from 1",
            ),
            (
                format!("{LABEL}except = {{ addresses = [\"::1\"], resolvers = [\"dns\"] }}"),
                "address of a name server",
            ),
        ] {
            let error = read(&text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
