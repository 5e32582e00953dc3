//! Which names each address was given for, for as long as somebody may still use the answer. Bounded, whatever name
//! servers say: an address that no label names goes before one that some label does.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use super::Answer;

/// Addresses that are remembered; half of what the kernel's table holds, which has two halves.
pub const MAX_ADDRESSES: usize = 16_384;
/// Names of all of them; half of what that table holds.
pub const MAX_NAMES: usize = 65_536;
/// Names of one address: shared front ends have many.
const MAX_NAMES_EACH: usize = 128;
/// Names that one stands for.
const MAX_VIA: usize = 16;
/// Programs use an answer for longer than its time: many keep it as long as they run.
const AT_LEAST: Duration = Duration::from_secs(3600);
/// And nobody needs it for longer than that.
const AT_MOST: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Debug)]
struct Name {
    /// Until when it counts, ns of `CLOCK_MONOTONIC`.
    until: u64,
    /// Names that it stands for.
    via: BTreeSet<String>,
}

impl Name {
    fn count(&self) -> usize {
        1 + self.via.len()
    }
}

#[derive(Clone, Debug)]
struct Address {
    names: BTreeMap<String, Name>,
    /// The name that was given last.
    latest: String,
    /// Some label has one of its names.
    labelled: bool,
}

impl Address {
    fn until(&self) -> u64 {
        self.names
            .values()
            .map(|name| name.until)
            .max()
            .unwrap_or_default()
    }

    fn count(&self) -> usize {
        self.names.values().map(Name::count).sum()
    }
}

/// What has become of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub addr: IpAddr,
    /// Names that it has no longer, and those that these stood for.
    pub gone: Vec<String>,
}

/// The names of addresses.
#[derive(Debug, Default)]
pub struct Names {
    addresses: HashMap<IpAddr, Address>,
    count: usize,
    /// Addresses that were forgotten before their time although some label has a name of them.
    pub forgotten: u64,
}

impl Names {
    /// Learns an answer at `now_ns`; `labelled` says whether some label has a name. What has changed is to be told to
    /// the kernel.
    pub fn learn(
        &mut self,
        answer: &Answer,
        now_ns: u64,
        labelled: impl Fn(&str) -> bool,
    ) -> Vec<Changed> {
        let mut changed = Vec::new();
        if !self.addresses.contains_key(&answer.addr) && self.addresses.len() >= MAX_ADDRESSES
            || self.count
                + answer
                    .names
                    .values()
                    .map(|via| 1 + via.len())
                    .sum::<usize>()
                > MAX_NAMES
        {
            changed = self.make_room(now_ns);
        }
        let until = now_ns + answer.ttl.clamp(AT_LEAST, AT_MOST).as_nanos() as u64;
        let address = self
            .addresses
            .entry(answer.addr)
            .or_insert_with(|| Address {
                names: BTreeMap::new(),
                latest: String::new(),
                labelled: false,
            });
        let mut new = false;
        for (name, via) in &answer.names {
            let counts = labelled(name) || via.iter().any(|name| labelled(name));
            if address.names.len() >= MAX_NAMES_EACH && !counts && !address.names.contains_key(name)
            {
                continue;
            }
            let known = address.names.entry(name.clone()).or_insert_with(|| {
                self.count += 1;
                new = true;
                Name {
                    until,
                    via: BTreeSet::new(),
                }
            });
            known.until = until.max(known.until);
            for of in via.iter().take(MAX_VIA) {
                if known.via.len() < MAX_VIA && known.via.insert(of.clone()) {
                    self.count += 1;
                    new = true;
                }
            }
            address.latest.clone_from(name);
            address.labelled |= counts;
        }
        if new {
            changed.push(Changed {
                addr: answer.addr,
                gone: Vec::new(),
            });
        }
        changed
    }

    /// Names of an address, each with those that it stands for.
    pub fn of(&self, addr: IpAddr) -> impl Iterator<Item = (&str, &BTreeSet<String>)> {
        let names = self.addresses.get(&addr).map(|address| &address.names);
        names
            .into_iter()
            .flatten()
            .map(|(name, known)| (name.as_str(), &known.via))
    }

    /// The name that was last given for an address.
    pub fn latest(&self, addr: IpAddr) -> Option<&str> {
        let address = self.addresses.get(&addr)?;
        Some(&address.latest)
    }

    /// Every address.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.addresses.keys().copied().collect()
    }

    /// Which addresses some label names, by another policy.
    pub fn relabel(&mut self, labelled: impl Fn(&str) -> bool) {
        for address in self.addresses.values_mut() {
            let via = address.names.values().flat_map(|known| &known.via);
            address.labelled = address.names.keys().chain(via).any(|name| labelled(name));
        }
    }

    /// Forgets what nobody uses any more.
    pub fn sweep(&mut self, now_ns: u64) -> Vec<Changed> {
        let mut changed = Vec::new();
        for (addr, address) in &mut self.addresses {
            let mut gone = Vec::new();
            address.names.retain(|name, known| {
                if known.until > now_ns {
                    return true;
                }
                gone.push(name.clone());
                gone.extend(known.via.iter().cloned());
                false
            });
            if gone.is_empty() {
                continue;
            }
            self.count -= gone.len();
            if !address.names.contains_key(&address.latest)
                && let Some(name) = address.names.keys().next()
            {
                address.latest.clone_from(name);
            }
            changed.push(Changed { addr: *addr, gone });
        }
        self.addresses
            .retain(|_, address| !address.names.is_empty());
        changed
    }

    /// An eighth of the room, of those that matter least.
    fn make_room(&mut self, now_ns: u64) -> Vec<Changed> {
        let mut changed = self.sweep(now_ns);
        let mut order: Vec<(bool, u64, IpAddr)> = self
            .addresses
            .iter()
            .map(|(addr, address)| (address.labelled, address.until(), *addr))
            .collect();
        order.sort_unstable();
        let (most, names) = (MAX_ADDRESSES / 8 * 7, MAX_NAMES / 8 * 7);
        for (labelled, _, addr) in order {
            if self.addresses.len() <= most && self.count <= names {
                break;
            }
            if let Some(address) = self.addresses.remove(&addr) {
                self.count -= address.count();
                self.forgotten += u64::from(labelled);
                let gone = address
                    .names
                    .into_iter()
                    .flat_map(|(name, known)| std::iter::once(name).chain(known.via))
                    .collect();
                changed.push(Changed { addr, gone });
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn answer(addr: u32, names: &[&str], ttl: u64) -> Answer {
        Answer {
            addr: Ipv4Addr::from(addr).into(),
            names: names
                .iter()
                .map(|name| ((*name).to_owned(), BTreeSet::new()))
                .collect(),
            ttl: Duration::from_secs(ttl),
        }
    }

    #[test]
    fn an_answer_counts_for_an_hour_at_least_and_a_day_at_most() {
        let mut names = Names::default();
        let is = |_: &str| false;
        assert_eq!(names.learn(&answer(1, &["a", "b"], 0), 0, is).len(), 1);
        assert!(names.learn(&answer(1, &["a"], 7200), 0, is).is_empty());
        names.learn(&answer(2, &["c"], u64::from(u32::MAX)), 0, is);
        assert!(names.sweep(3599 * SECOND).is_empty());
        let gone = names.sweep(3600 * SECOND);
        assert_eq!(gone[0].gone, ["b"]);
        assert_eq!(names.latest(Ipv4Addr::from(1).into()), Some("a"));
        names.sweep(24 * 3600 * SECOND);
        assert!(names.addresses().is_empty());
        assert_eq!(names.count, 0);
    }

    #[test]
    fn a_flood_of_names_pushes_none_out_that_a_label_has() {
        let mut names = Names::default();
        let labelled = |name: &str| name == "api.example.com";
        names.learn(&answer(1, &["api.example.com"], 60), 0, labelled);
        let mut gone = BTreeSet::new();
        for n in 2..100_000 {
            let of = format!("n{n}");
            for changed in names.learn(&answer(n, &[&of], 60), u64::from(n), labelled) {
                gone.extend(changed.gone);
            }
            assert!(names.addresses.len() <= MAX_ADDRESSES && names.count <= MAX_NAMES);
        }
        assert_eq!(
            names.latest(Ipv4Addr::from(1).into()),
            Some("api.example.com")
        );
        assert!(!gone.contains("api.example.com") && gone.contains("n2"));
        assert_eq!(names.forgotten, 0);
    }
}
