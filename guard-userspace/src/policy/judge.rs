//! The judge in userspace: what a policy says of a call, without a kernel. It looks into the same [`Tables`] that the
//! kernel gets and takes the same steps ([`advance`]), so what it says is what would happen where the kernel can deny.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use guard_common::{
    MAX_LABELS, Verdict,
    matching::{ADDRESS_FIXED_BITS, KnownAddress},
    rule::{Progress, RULE_OBSERVE, Rule as KernelRule, advance, is_excepted},
};

use super::{
    CommandMatcher, Homes, HostPattern, LabelBits, LabelGroup, Policy, PolicyError, Tables,
    address::mapped,
};
use crate::http;

/// Something that a process of a session does.
#[derive(Clone, Debug)]
pub enum Act {
    /// Opens a file, or connects to a socket with this name.
    Open {
        /// Absolute, links resolved.
        path: PathBuf,
        /// It may write.
        write: bool,
    },
    /// Connects to an address.
    Connect {
        /// Where to.
        addr: IpAddr,
        /// The name that it is known to be for, in small letters.
        name: Option<String>,
        /// Destination port.
        port: u16,
    },
    /// Begins a program.
    Exec {
        /// Its command line.
        argv: Vec<String>,
    },
    /// Makes a system call, of [`guard_common::state::act`].
    Call(u32),
    /// Says something to a server.
    Request(Box<http::Request>),
    /// Touches labels, whatever it does.
    Touch(Vec<String>),
}

/// A session, as far as rules are concerned.
#[derive(Clone, Debug)]
pub struct Touched {
    uid: u32,
    /// By the rule's place in the kernel's table.
    progress: Vec<Progress>,
    /// When each label was touched last, by its bit; 0 for never.
    last_ns: [u64; MAX_LABELS],
    /// Leases: until when, by the label's bit.
    leases: BTreeMap<u8, u64>,
}

/// What is said of one [`Act`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Labels that it carries.
    pub labels: Vec<String>,
    /// What happens.
    pub verdict: Verdict,
    /// What would, if no rule only observed.
    pub would: Verdict,
    /// The rule that decides, where one fires.
    pub rule: Option<String>,
    /// Rules whose last label it carries and that do not fire, with the label that they still lack.
    pub lacking: Vec<(String, String)>,
}

impl Ruling {
    /// Of what carries no label.
    pub fn nothing() -> Self {
        Self {
            labels: Vec::new(),
            verdict: Verdict::Allow,
            would: Verdict::Allow,
            rule: None,
            lacking: Vec::new(),
        }
    }
}

/// A policy, ready to judge.
#[derive(Debug)]
pub struct Judge<'a> {
    policy: &'a Policy,
    bits: LabelBits,
    tables: Tables,
    commands: CommandMatcher,
    /// Places in [`Policy::rules`] in the order of the kernel's table.
    order: Vec<usize>,
}

impl<'a> Judge<'a> {
    /// For a machine with these homes. Nothing of the machine's own is looked at.
    ///
    /// # Errors
    /// Tables that overflow; [`Policy::parse`] has refused these already.
    pub fn new(policy: &'a Policy, homes: &Homes) -> Result<Self, PolicyError> {
        let bits = LabelBits::assign(None, policy)?;
        Ok(Self {
            tables: policy.lay_out(0, &bits, homes)?,
            bits,
            commands: CommandMatcher::new(policy),
            order: policy.rule_order(),
            policy,
        })
    }

    /// A session that has touched nothing yet.
    pub fn session(&self, uid: u32) -> Touched {
        Touched {
            uid,
            progress: vec![Progress::default(); self.order.len()],
            last_ns: [0; MAX_LABELS],
            leases: BTreeMap::new(),
        }
    }

    /// Which policy it is.
    pub fn policy(&self) -> &'a Policy {
        self.policy
    }

    /// Gives the session a lease for a label until then; 0 ends it. Of a label that the policy does not have, none.
    pub fn lease(&self, session: &mut Touched, label: &str, until_ns: u64) {
        if let Some(bit) = self.bits.bit(label) {
            session.leases.insert(bit, until_ns);
        }
    }

    /// Judges what a process of the session does at `now_ns`, which is not 0 and no earlier than what was judged before.
    /// `exe` is its program (of an [`Act::Exec`], the one that begins), where that is known: labels have exceptions for
    /// some.
    pub fn judge(
        &self,
        session: &mut Touched,
        exe: Option<&Path>,
        act: &Act,
        now_ns: u64,
    ) -> Ruling {
        let excepted = exe.map_or(0, |exe| self.tables.classify_program(exe));
        let labels = self.labels(exe, excepted, act);
        let mut ruling = Ruling {
            labels: self.bits.names(labels),
            ..Ruling::nothing()
        };
        if labels == 0 {
            return ruling;
        }
        for (bit, last) in session.last_ns.iter_mut().enumerate() {
            if labels >> bit & 1 != 0 {
                *last = now_ns;
            }
        }
        let rules = self.tables.rules.rules.iter().zip(&self.order);
        for ((rule, index), progress) in rules.zip(&mut session.progress) {
            if !rule.concerns(labels) || !rule.is_for(session.uid) {
                continue;
            }
            let name = &self.policy.rules[*index].name;
            if advance(rule, progress, labels, now_ns) {
                let last = usize::from(rule.len).saturating_sub(1);
                let begun = progress.start.get(last).copied().unwrap_or(now_ns);
                if is_excepted(rule, begun, now_ns, &session.last_ns) {
                    continue;
                }
                let trigger = usize::from(rule.len)
                    .checked_sub(1)
                    .and_then(|last| rule.steps.get(last));
                let until = trigger.and_then(|trigger| session.leases.get(trigger));
                let leased = until.is_some_and(|until| *until > now_ns);
                fire(&mut ruling, rule, name, leased);
            } else if let Some(label) = lacking(rule, progress, labels, now_ns) {
                let label = self.bits.name(label).unwrap_or_default().to_owned();
                ruling.lacking.push((name.clone(), label));
            }
        }
        ruling
    }

    fn labels(&self, exe: Option<&Path>, excepted: u64, act: &Act) -> u64 {
        // Not for these programs.
        let counts = |group: &&LabelGroup| group.mask() & excepted == 0;
        let of = |groups: &mut dyn Iterator<Item = &LabelGroup>| {
            groups.fold(0, |all, group| all | self.bits.mask(&group.name))
        };
        let groups = || self.policy.groups.iter().filter(counts);
        match act {
            Act::Open { path, write } => {
                let labels = self.tables.classify_path(path).labels_for(excepted);
                let unwritten = if *write { 0 } else { self.tables.written };
                labels & !unwritten
            }
            Act::Connect { addr, name, port } => {
                let known = self.known(*addr, *port);
                let by_address = if known.groups & excepted == 0 {
                    known.labels
                } else {
                    0
                };
                let Some(name) = name else {
                    return by_address & !known.spared;
                };
                let named = |pattern: &HostPattern| pattern.matches(name);
                let by_name = of(&mut groups().filter(|group| group.hosts.iter().any(named)));
                let spared = of(&mut self.policy.groups.iter().filter(|group| {
                    group.except_hosts.iter().any(|spared| {
                        spared.pattern.matches(name) && (spared.port == 0 || spared.port == *port)
                    })
                }));
                (by_address | by_name) & !known.spared & !spared
            }
            Act::Exec { argv } => {
                let found = self.commands.labels_of(exe, argv);
                let found = found.iter().filter_map(|at| self.policy.groups.get(*at));
                // The program's file may carry a label too.
                let file = exe.map(|exe| self.tables.classify_path(exe).labels_for(excepted));
                of(&mut found.filter(counts)) | (file.unwrap_or(0) & !self.tables.written)
            }
            Act::Call(call) => of(&mut groups().filter(|group| group.calls.contains(call))),
            Act::Request(request) => {
                // What cannot be read counts as the worst that it could be.
                let found = self.policy.of_request(request, &[]);
                let found = found
                    .iter()
                    .filter_map(|(at, _)| self.policy.groups.get(*at));
                of(&mut found.filter(counts))
            }
            Act::Touch(labels) => labels
                .iter()
                .fold(0, |all, label| all | self.bits.mask(label)),
        }
    }

    /// What the kernel's trie gives for an address: the longest prefix, and of two as long the one with a port.
    fn known(&self, addr: IpAddr, port: u16) -> KnownAddress {
        let addr = u128::from(mapped(addr));
        let covers = |bits: u32, prefix: [u8; 16]| {
            let len = bits.saturating_sub(ADDRESS_FIXED_BITS).min(128);
            let differs = addr ^ u128::from_be_bytes(prefix);
            differs.checked_shr(128 - len).unwrap_or(0) == 0
        };
        let port = port.to_be();
        let found = self
            .tables
            .addresses
            .iter()
            .filter(|(bits, key, _)| (key.port == 0 || key.port == port) && covers(*bits, key.addr))
            .max_by_key(|(_, key, known)| (known.prefix, key.port != 0));
        found.map_or_else(KnownAddress::default, |(_, _, known)| *known)
    }
}

/// As the kernel does it: the rule that is named is that of the strictest verdict; at the same verdict, of the strictest
/// that was only observed.
fn fire(ruling: &mut Ruling, rule: &KernelRule, name: &str, leased: bool) {
    let action = match Verdict::from_u8(rule.action) {
        action if action > Verdict::Flag && leased => Verdict::Allow,
        action => action,
    };
    let done = if rule.flags & RULE_OBSERVE != 0 && action > Verdict::Flag {
        Verdict::Allow
    } else {
        action
    };
    let stricter = done > ruling.verdict
        || (done == ruling.verdict && action > ruling.would)
        || ruling.rule.is_none();
    ruling.would = ruling.would.max(action);
    if stricter {
        ruling.verdict = done;
        ruling.rule = Some(name.to_owned());
    }
}

/// The first label that a rule still lacks, or whose touch is too long ago, where what was touched is its last.
fn lacking(rule: &KernelRule, progress: &Progress, touched: u64, now_ns: u64) -> Option<u8> {
    let steps = rule.steps.get(..usize::from(rule.len))?;
    let (last, before) = steps.split_last()?;
    if touched >> (last & 63) & 1 == 0 {
        return None;
    }
    let reached = |start: &u64| *start != 0 && now_ns.saturating_sub(*start) <= rule.within_ns;
    before
        .iter()
        .zip(&progress.start)
        .find(|(_, start)| !reached(start))
        .map(|(label, _)| *label)
}
