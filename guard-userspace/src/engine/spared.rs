//! Addresses that a label does not count because a believed name server has given them for a name of `except.hosts`:
//! each becomes an entry of the kernel's trie, longer than whatever else means it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    time::Duration,
};

use super::Engine;
use crate::{
    clock,
    names::{Answer, Changed},
};

/// Addresses at most: with their ports, some part of what the kernel's trie holds for both halves of the policy.
const MAX_ADDRESSES: usize = 2048;
/// Names of one address at most.
const MAX_NAMES: usize = 64;
/// Programs use an answer for longer than its time, as for names.
const AT_LEAST: Duration = Duration::from_secs(3600);
/// See [`AT_LEAST`].
const AT_MOST: Duration = Duration::from_secs(24 * 3600);

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Spared {
    addresses: HashMap<IpAddr, Address>,
    /// guardd's own network namespace, by the inode number of its file; 0 when it cannot be told.
    netns: u32,
    /// Addresses that were forgotten before their time.
    forgotten: u64,
}

#[derive(Debug, Default)]
struct Address {
    /// Names with until when each counts, ns of `CLOCK_MONOTONIC`.
    names: BTreeMap<String, u64>,
    /// Ports that the kernel has an entry for.
    ports: BTreeSet<u16>,
    /// Labels that some port does not carry.
    labels: u64,
}

impl Spared {
    /// Nobody is spared yet; answers that arrive in this process's network namespace may change that.
    pub(super) fn here() -> Self {
        let netns = std::fs::metadata("/proc/self/ns/net").map_or(0, |meta| meta.ino() as u32);
        Self {
            netns,
            ..Self::default()
        }
    }

    /// Whether a packet that has arrived in a network namespace has arrived in guardd's own: in one of its own, anybody
    /// can be any name server.
    pub(super) fn is_here(&self, netns: u32) -> bool {
        netns != 0 && netns == self.netns
    }
}

impl Engine {
    /// A believed name server has answered a question about `asked`. Whether that changes what its address is spared.
    pub(super) fn spare(
        &mut self,
        generation: u32,
        asked: &str,
        answer: &Answer,
        now: u64,
    ) -> bool {
        if !answer.names.contains_key(asked) || !self.policy.spares_name(asked) {
            return false;
        }
        let until = now + answer.ttl.clamp(AT_LEAST, AT_MOST).as_nanos() as u64;
        if !self.spared.addresses.contains_key(&answer.addr)
            && self.spared.addresses.len() >= MAX_ADDRESSES
        {
            self.forget_spared(generation);
        }
        let address = self.spared.addresses.entry(answer.addr).or_default();
        if let Some(known) = address.names.get_mut(asked) {
            *known = until.max(*known);
            return false;
        }
        if address.names.len() >= MAX_NAMES {
            let first = address.names.iter().min_by_key(|(_, until)| **until);
            if let Some(first) = first.map(|(name, _)| name.clone()) {
                address.names.remove(&first);
            }
        }
        address.names.insert(asked.to_owned(), until);
        self.tell_spared(generation, answer.addr);
        true
    }

    /// Labels that an address is spared at some port.
    pub(super) fn spared_at(&self, addr: IpAddr) -> u64 {
        self.spared
            .addresses
            .get(&addr)
            .map_or(0, |address| address.labels)
    }

    /// Brings the kernel's entries for an address up to date; for one without names, takes them away.
    fn tell_spared(&mut self, generation: u32, addr: IpAddr) {
        let Some(address) = self.spared.addresses.get_mut(&addr) else {
            return;
        };
        let names = address.names.keys().map(String::as_str);
        let spared = self.policy.spared_labels(names, &self.bits);
        let bytes = match addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        for port in &address.ports {
            if spared.contains_key(port) {
                continue;
            }
            let tables = &mut self.kernel.tables;
            let put = match self.tables.entry_of(addr, *port) {
                Some(known) => tables.put_address(generation, bytes, *port, known),
                None => {
                    tables.drop_address(generation, bytes, *port);
                    Ok(())
                }
            };
            if let Err(error) = put {
                self.problems.insert("spared", error.to_string());
            }
        }
        address.ports = spared.keys().copied().collect();
        address.labels = 0;
        for (port, labels) in spared {
            let mut known = self.tables.of_address(addr, port);
            known.labels &= !labels;
            known.prefix = 128;
            address.labels |= labels;
            let put = self
                .kernel
                .tables
                .put_address(generation, bytes, port, known);
            if let Err(error) = put {
                self.problems.insert("spared", error.to_string());
            }
        }
    }

    /// Everything that is known, for the other half of the policy, of which the kernel has no entry yet.
    pub(super) fn tell_all_spared(&mut self, generation: u32) {
        let all: Vec<IpAddr> = self.spared.addresses.keys().copied().collect();
        for addr in all {
            if let Some(address) = self.spared.addresses.get_mut(&addr) {
                address.ports.clear();
                let policy = &self.policy;
                address.names.retain(|name, _| policy.spares_name(name));
            }
            self.tell_spared(generation, addr);
        }
        self.spared
            .addresses
            .retain(|_, address| !address.names.is_empty());
    }

    /// Forgets what nobody may use any more; whose names are to be told anew.
    pub(super) fn sweep_spared(&mut self, generation: u32, now: u64) -> Vec<Changed> {
        let mut changed = Vec::new();
        for (addr, address) in &mut self.spared.addresses {
            let before = address.names.len();
            address.names.retain(|_, until| *until > now);
            if address.names.len() < before {
                changed.push(Changed {
                    addr: *addr,
                    gone: Vec::new(),
                });
            }
        }
        for Changed { addr, .. } in &changed {
            self.tell_spared(generation, *addr);
        }
        self.spared
            .addresses
            .retain(|_, address| !address.names.is_empty());
        changed
    }

    /// Makes room: the eighth that would be forgotten first goes now, and carries the labels again.
    fn forget_spared(&mut self, generation: u32) {
        let _ = self.sweep_spared(generation, clock::monotonic_ns());
        let mut order: Vec<(u64, IpAddr)> = self
            .spared
            .addresses
            .iter()
            .map(|(addr, address)| (address.names.values().copied().max().unwrap_or(0), *addr))
            .collect();
        order.sort_unstable();
        let too_many = order.len().saturating_sub(MAX_ADDRESSES / 8 * 7);
        for (_, addr) in order.into_iter().take(too_many) {
            if let Some(address) = self.spared.addresses.get_mut(&addr) {
                address.names.clear();
            }
            self.tell_spared(generation, addr);
            self.spared.addresses.remove(&addr);
            self.spared.forgotten += 1;
        }
        if self.spared.forgotten > 0 {
            let text = format!(
                "{} addresses of names that the policy excepts were forgotten before their time: more than {MAX_ADDRESSES} at once",
                self.spared.forgotten
            );
            self.problems.insert("spared", text);
        }
    }

    /// What of the exceptions for names does not work here, one line each.
    pub(super) fn spared_notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.policy.spares() {
            if self.spared.netns == 0 {
                notes.push(
                    "except.hosts: this process's network namespace cannot be told, so no name server is believed"
                        .into(),
                );
            }
            if !self.kernel.hooks.repeats_connects() {
                notes.push(
                    "except.hosts, when guardd takes longer than 2 ms to read what a name server has said: the connect \
                     is judged without it (no bpf_set_retval here; kernel 6.1 has it)"
                        .into(),
                );
            }
        }
        notes
    }
}
