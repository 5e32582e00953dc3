//! From a [`Policy`] to what the kernel looks up.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use guard_common::{
    MAX_CANDIDATES, MAX_PATTERNS, MAX_RULES, MAX_STEPS, MAX_UNLESS,
    matching::{
        ANY, AddressKey, Candidates, EnvKey, KnownAddress, NameKey, PATTERN_ANCHOR_HOME,
        PATTERN_ANCHOR_ROOT, PATTERN_ANY_FINAL, PATTERN_EXCLUDE, PATTERN_GAP, PATTERN_PARTS,
        PATTERN_UNDER, Pattern, bloom_bit, component, domain, env_word, fnv, fnv_reversed, kind,
    },
    names::{HostKey, KnownHost, asked},
    rule::{
        ANY_USER, NO_LIMIT, RULE_OBSERVE, RULE_SCOPE_SESSION, Rule as KernelRule,
        Unless as KernelUnless,
    },
    state::{Acts, BLOOM_WORDS, Names, RuleTable},
};

use super::{
    Glob, Homes, LabelBits, Mistake, Policy, PolicyError, RequestPattern, Rule, Scope,
    address::Address,
    glob::{Anchor, Component, Last, PathGlob},
    homes::Search,
    host::HostPattern,
    interpreter, wrapper,
};

/// Levels of directories above a file that `dir/**` is looked for in.
pub(super) const UNDER_LEVELS: u32 = 8;
/// Known files at most.
const MAX_KNOWN_FILES: usize = 20_000;

/// One generation of the kernel's policy tables.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Which look-ups are worth making.
    pub names: Names,
    /// The name table. For agents, interpreters and commands the key alone says it.
    pub keys: Vec<(NameKey, Candidates)>,
    /// The pattern table; [`Candidates::index`] counts here.
    pub patterns: Vec<Pattern>,
    /// The trie of addresses: prefix length ([`guard_common::matching::ADDRESS_FIXED_BITS`] included),
    /// key, value.
    pub addresses: Vec<(u32, AddressKey, KnownAddress)>,
    /// Names of hosts.
    pub hosts: Vec<(HostKey, KnownHost)>,
    /// Of these, [`guard_common::names::asked`].
    pub asked: u32,
    /// The rules.
    pub rules: RuleTable,
    /// System calls.
    pub acts: Acts,
    /// Labels that only opens that write touch.
    pub written: u64,
    /// Labels of servers whose children are followed.
    pub followed: u64,
    /// Environment markers.
    pub env: Vec<EnvKey>,
    /// Homes: [`guard_common::matching::join`] over the hashes of the components from 0, root first,
    /// and how many components. Sorted.
    pub homes: Vec<(u64, u32)>,
    /// Existing files and sockets (or links to them) that an anchored pattern names, with labels and groups. For
    /// hard links and for links that lead elsewhere: by inode they are known under every name.
    pub known_files: Vec<(PathBuf, u64, u64)>,
}

impl Policy {
    /// Lays out the kernel's tables, and looks for the files that are known by inode.
    ///
    /// # Errors
    /// Tables that overflow; [`Policy::parse`] has refused these already.
    pub fn compile(
        &self,
        generation: u8,
        bits: &LabelBits,
        homes: &Homes,
    ) -> Result<Tables, PolicyError> {
        let shell = fs::canonicalize("/bin/sh").unwrap_or_default();
        let mut tables = self.lay_out_beside(&shell, generation, bits, homes)?;
        tables.known_files = self.known_files(&tables, bits, homes);
        Ok(tables)
    }

    /// [`Policy::compile`] without a look at the file system.
    pub(super) fn lay_out(
        &self,
        generation: u8,
        bits: &LabelBits,
        homes: &Homes,
    ) -> Result<Tables, PolicyError> {
        self.lay_out_beside(Path::new(""), generation, bits, homes)
    }

    /// The same on a system whose `/bin/sh` is this file.
    pub(super) fn lay_out_beside(
        &self,
        shell: &Path,
        generation: u8,
        bits: &LabelBits,
        homes: &Homes,
    ) -> Result<Tables, PolicyError> {
        let mut layout = Layout::new(self, generation);
        for group in &self.groups {
            let labels = bits.mask(&group.name);
            for glob in group.files.iter().chain(&group.sockets) {
                layout.glob(domain::FILE, glob, labels, group.mask(), 0)?;
            }
            for glob in &group.except_files {
                layout.glob(domain::FILE, glob, labels, 0, PATTERN_EXCLUDE)?;
            }
            for glob in &group.except_exe {
                layout.glob(domain::PROGRAM, glob, 0, group.mask(), 0)?;
            }
            for command in &group.argv {
                layout.name(domain::COMMAND, &command.program);
            }
        }
        // What these run is seen nowhere else, so they are gated as the programs that labels name are.
        if self.groups.iter().any(|group| !group.argv.is_empty()) {
            // But where busybox is the system's shell and tools, each command of a session would be stopped for it.
            let shell = shell.file_name().unwrap_or_default();
            for name in wrapper::gated().filter(|name| shell != *name) {
                layout.name(domain::COMMAND, &Last::Exact(name.into()));
            }
        }
        for last in self
            .agents
            .iter()
            .flat_map(|agent| &agent.exe)
            .flat_map(|exe| exe.names())
        {
            layout.name(domain::AGENT, last);
        }
        for name in interpreter::INTERPRETERS {
            layout.name(domain::INTERPRETER, &Last::Exact(name.into()));
        }
        layout.name(
            domain::INTERPRETER,
            &Last::Affix(interpreter::VERSIONED.into(), String::new()),
        );
        Ok(Tables {
            names: layout.names,
            keys: layout.keys,
            patterns: layout.patterns,
            addresses: self.addresses(generation, bits),
            hosts: self.hosts(generation, bits),
            asked: self.asked(),
            rules: self.rule_table(bits),
            acts: self.acts(bits),
            written: self
                .groups
                .iter()
                .filter(|group| group.written)
                .fold(0, |mask, group| mask | bits.mask(&group.name)),
            followed: self
                .groups
                .iter()
                .filter(|group| group.follow)
                .fold(0, |mask, group| mask | bits.mask(&group.name)),
            env: self.env_keys(generation),
            homes: homes.hashes(),
            known_files: Vec::new(),
        })
    }

    fn addresses(&self, generation: u8, bits: &LabelBits) -> Vec<(u32, AddressKey, KnownAddress)> {
        let mut known: BTreeMap<Address, KnownAddress> = BTreeMap::new();
        for group in &self.groups {
            for address in &group.addresses {
                let (labels, groups) = (bits.mask(&group.name), group.mask());
                known
                    .entry(*address)
                    .and_modify(|value| {
                        value.labels |= labels;
                        // A program excepted from one of two groups is not excepted from the other,
                        // and the kernel has one word for both: then nobody is.
                        if value.groups != groups {
                            value.groups = 0;
                        }
                    })
                    .or_insert(KnownAddress {
                        labels,
                        groups,
                        prefix: address.prefix,
                        asked: 0,
                        spared: 0,
                    });
            }
        }
        let mut requests = self.groups.iter().flat_map(|group| &group.requests);
        if requests.any(RequestPattern::is_for_clusters) {
            for address in self.clusters.addresses() {
                // A longer prefix hides the labels of a shorter one.
                let above = known
                    .iter()
                    .filter(|(other, _)| other.contains(address.addr.into(), address.port))
                    .max_by_key(|(other, _)| (other.prefix, other.port != 0))
                    .map(|(_, value)| *value)
                    .unwrap_or_default();
                let prefix = address.prefix;
                known
                    .entry(address)
                    .or_insert(KnownAddress { prefix, ..above })
                    .asked = 1;
            }
        }
        self.spare(&mut known, bits);
        known
            .into_iter()
            .map(|(address, value)| {
                let (prefix_len, key) = address.key(generation);
                (prefix_len, key, value)
            })
            .collect()
    }

    fn hosts(&self, generation: u8, bits: &LabelBits) -> Vec<(HostKey, KnownHost)> {
        let mut known: BTreeMap<HostKey, KnownHost> = BTreeMap::new();
        for group in &self.groups {
            for host in &group.hosts {
                let (labels, groups) = (bits.mask(&group.name), group.mask());
                known
                    .entry(host.key(generation))
                    .and_modify(|value| value.join(labels, groups))
                    .or_insert(KnownHost {
                        labels,
                        groups,
                        asked: 0,
                    });
            }
        }
        let requests = self.groups.iter().flat_map(|group| &group.requests);
        for host in requests.clone().flat_map(RequestPattern::hosts) {
            known.entry(host.key(generation)).or_default().asked = 1;
        }
        if requests.clone().any(RequestPattern::is_for_clusters) {
            for name in self.clusters.names() {
                let exact = HostPattern::Exact(name.clone());
                known.entry(exact.key(generation)).or_default().asked = 1;
            }
        }
        known.into_iter().collect()
    }

    /// What a name carries, which is in small letters and without a last dot.
    pub fn of_host(&self, name: &str, bits: &LabelBits) -> KnownHost {
        let mut known: Option<KnownHost> = None;
        for group in &self.groups {
            if group.hosts.iter().any(|host| host.matches(name)) && !group.spares(name) {
                let (labels, groups) = (bits.mask(&group.name), group.mask());
                match &mut known {
                    Some(value) => value.join(labels, groups),
                    None => {
                        known = Some(KnownHost {
                            labels,
                            groups,
                            asked: 0,
                        });
                    }
                }
            }
        }
        let mut known = known.unwrap_or_default();
        known.asked = self.asks_about(name).into();
        known
    }

    /// What a connection carries whose name cannot be relied on (`unknown`).
    pub fn of_unknown(&self, bits: &LabelBits) -> KnownHost {
        let mut known = KnownHost::default();
        for group in &self.groups {
            let meant = |host| matches!(host, &HostPattern::Unknown | &HostPattern::Any);
            if group.hosts.iter().any(meant) {
                known.join(bits.mask(&group.name), group.mask());
            }
        }
        known
    }

    fn asked(&self) -> u32 {
        let hosts = self.groups.iter().flat_map(|group| &group.hosts);
        let requests = self.groups.iter().flat_map(|group| &group.requests);
        let hosts = hosts.chain(requests.flat_map(RequestPattern::hosts));
        let mut asked = hosts.fold(0, |asked, host| {
            asked
                | match host {
                    HostPattern::Middle(..) => asked::NAMES | asked::MIDDLE,
                    _ => asked::NAMES,
                }
        });
        if self.asks_about_requests() {
            asked |= asked::NAMES | asked::REQUESTS;
        }
        if self.asks_about_any() {
            asked |= asked::ANY_HOST;
        }
        if self
            .groups
            .iter()
            .any(|group| !group.except_hosts.is_empty())
        {
            asked |= asked::NAMES | asked::SPARES;
        }
        asked
    }

    fn acts(&self, bits: &LabelBits) -> Acts {
        let mut acts = Acts::default();
        for group in &self.groups {
            for &act in &group.calls {
                let at = act as usize;
                // As for addresses: one word for the exceptions of both.
                acts.groups[at] = if acts.labels[at] == 0 || acts.groups[at] == group.mask() {
                    group.mask()
                } else {
                    0
                };
                acts.labels[at] |= bits.mask(&group.name);
            }
        }
        acts
    }

    fn rule_table(&self, bits: &LabelBits) -> RuleTable {
        let none = KernelRule {
            labels: 0,
            within_ns: 0,
            timeout_ns: 0,
            steps: [0; MAX_STEPS],
            len: 0,
            action: 0,
            on_timeout: 0,
            fallback: 0,
            flags: 0,
            uid: ANY_USER,
            exceptions: 0,
            unless: [KernelUnless::default(); MAX_UNLESS],
        };
        let mut table = RuleTable {
            count: 0,
            pad: 0,
            rules: [none; MAX_RULES],
        };
        for (slot, index) in table.rules.iter_mut().zip(self.rule_order()) {
            *slot = kernel_rule(&self.rules[index], bits, none);
            table.count += 1;
        }
        table
    }

    /// Places in [`Policy::rules`] in the order of the kernel's table: the strictest first, so that
    /// the first rule in the table that fires is the one that counts.
    pub fn rule_order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.rules.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse(self.rules[index].then as u8));
        order
    }

    fn env_keys(&self, generation: u8) -> Vec<EnvKey> {
        let mut keys = Vec::new();
        for marker in self.agents.iter().flat_map(|agent| &agent.env) {
            // Only the name: eight bytes that reached into a value with a `*` would never be met.
            let word = env_word(format!("{}=", marker.name).as_bytes());
            let key = EnvKey {
                word,
                generation: u64::from(generation),
            };
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    fn known_files(
        &self,
        tables: &Tables,
        bits: &LabelBits,
        homes: &Homes,
    ) -> Vec<(PathBuf, u64, u64)> {
        let mut known: BTreeMap<PathBuf, (u64, u64)> = BTreeMap::new();
        let mut search = Search::new();
        for group in &self.groups {
            for path in group
                .files
                .iter()
                .chain(&group.sockets)
                .flat_map(|glob| &glob.paths)
            {
                let room = MAX_KNOWN_FILES.saturating_sub(known.len());
                for file in homes.existing(path, room, &mut search) {
                    let entry = known.entry(file).or_default();
                    entry.0 |= bits.mask(&group.name);
                    entry.1 |= group.mask();
                }
            }
        }
        known
            .into_iter()
            .filter_map(|(path, (labels, groups))| {
                let labels = labels & !tables.classify_path(&path).excluded;
                (labels != 0).then_some((path, labels, groups))
            })
            .collect()
    }
}

fn kernel_rule(rule: &Rule, bits: &LabelBits, none: KernelRule) -> KernelRule {
    let ns = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let mut kernel = none;
    for (slot, label) in kernel.steps.iter_mut().zip(&rule.when) {
        *slot = bits.bit(label).unwrap_or_default();
        kernel.labels |= bits.mask(label);
        kernel.len += 1;
    }
    for (slot, unless) in kernel.unless.iter_mut().zip(&rule.unless) {
        slot.label = bits.bit(&unless.label).unwrap_or_default().into();
        slot.within_ns = unless.within.map_or(0, ns);
        kernel.exceptions += 1;
    }
    kernel.within_ns = rule.within.map_or(NO_LIMIT, ns);
    kernel.timeout_ns = ns(rule.timeout);
    kernel.action = rule.then as u8;
    kernel.on_timeout = rule.on_timeout as u8;
    kernel.fallback = rule.fallback as u8;
    kernel.uid = rule.user.unwrap_or(ANY_USER);
    if rule.scope == Scope::Session {
        kernel.flags |= RULE_SCOPE_SESSION;
    }
    if rule.observe {
        kernel.flags |= RULE_OBSERVE;
    }
    kernel
}

/// The name and pattern tables while they are filled.
struct Layout<'a> {
    policy: &'a Policy,
    generation: u8,
    names: Names,
    keys: Vec<(NameKey, Candidates)>,
    at: HashMap<NameKey, usize>,
    patterns: Vec<Pattern>,
}

impl<'a> Layout<'a> {
    fn new(policy: &'a Policy, generation: u8) -> Self {
        let names = Names {
            prefix_lens: 0,
            suffix_lens: 0,
            dir_levels: 0,
            longest_end: 0,
            bloom: [0; BLOOM_WORDS],
        };
        Self {
            policy,
            generation,
            names,
            keys: Vec::new(),
            at: HashMap::new(),
            patterns: Vec::new(),
        }
    }

    /// The index of a key in `keys`, added where it is new.
    fn key(&mut self, domain: u8, kind: u8, hash: u64, len: usize) -> usize {
        let key = NameKey {
            hash,
            len: len as u32,
            kind,
            domain,
            generation: self.generation,
            pad: 0,
        };
        let next = self.keys.len();
        let at = *self.at.entry(key).or_insert(next);
        if at == next {
            self.keys.push((
                key,
                Candidates {
                    count: 0,
                    index: [0; MAX_CANDIDATES],
                },
            ));
            let bit = bloom_bit(hash);
            self.names.bloom[bit as usize / 64] |= 1 << (bit % 64);
            match kind {
                kind::PREFIX => {
                    self.names.prefix_lens |= 1 << len;
                    self.compares_end(len);
                }
                kind::SUFFIX => {
                    self.names.suffix_lens |= 1 << len;
                    self.compares_end(len);
                }
                kind::PARENT => self.names.dir_levels = self.names.dir_levels.max(1),
                kind::UNDER => self.names.dir_levels = UNDER_LEVELS,
                _ => {}
            }
        }
        at
    }

    fn compares_end(&mut self, len: usize) {
        self.names.longest_end = self.names.longest_end.max(len as u32);
    }

    /// The key of a final component that is neither `*` nor `**`.
    fn name(&mut self, domain: u8, last: &Last) -> Option<usize> {
        match last {
            Last::Exact(name) => {
                Some(self.key(domain, kind::EXACT, component(name.as_bytes()), name.len()))
            }
            Last::Affix(prefix, suffix) if prefix.is_empty() => Some(self.key(
                domain,
                kind::SUFFIX,
                fnv_reversed(suffix.as_bytes()),
                suffix.len(),
            )),
            Last::Affix(prefix, _) => {
                Some(self.key(domain, kind::PREFIX, fnv(prefix.as_bytes()), prefix.len()))
            }
            Last::Any | Last::Under => None,
        }
    }

    fn glob(
        &mut self,
        domain: u8,
        glob: &Glob,
        labels: u64,
        groups: u64,
        flags: u32,
    ) -> Result<(), PolicyError> {
        for path in &glob.paths {
            let (mut pattern, directory) = pattern(path);
            (pattern.labels, pattern.groups) = (labels, groups);
            pattern.flags |= flags;
            let directory = directory.unwrap_or_default();
            let key = match &path.last {
                Last::Any => Some(self.key(
                    domain,
                    kind::PARENT,
                    component(directory.as_bytes()),
                    // A directory's key has no length: the kernel has only its hash at hand.
                    0,
                )),
                Last::Under => Some(self.key(
                    domain,
                    kind::UNDER,
                    component(directory.as_bytes()),
                    // A directory's key has no length: the kernel has only its hash at hand.
                    0,
                )),
                last => self.name(domain, last),
            };
            if let Some(key) = key {
                self.add(key, pattern, glob)?;
            }
        }
        Ok(())
    }

    /// Adds a pattern under a key, or its labels to one that is the same in all else.
    fn add(&mut self, key: usize, pattern: Pattern, glob: &Glob) -> Result<(), PolicyError> {
        let (_, candidates) = &mut self.keys[key];
        let used = candidates.count as usize;
        for index in &candidates.index[..used] {
            let other = &mut self.patterns[usize::from(*index)];
            if (Pattern {
                labels: pattern.labels,
                ..*other
            }) == pattern
            {
                other.labels |= pattern.labels;
                return Ok(());
            }
        }
        let too_many = |what: String, count, most, hint| {
            let Range { start, end } = glob.span;
            let mistake = Mistake::TooMany {
                what,
                count,
                most,
                hint,
            };
            let part = self.policy.part(glob.file);
            Err(PolicyError::at(
                &part.source,
                &part.text,
                start..end,
                mistake,
            ))
        };
        if used == MAX_CANDIDATES {
            let name = glob
                .text
                .trim_end_matches(['*', '/'])
                .rsplit('/')
                .next()
                .unwrap_or_default();
            return too_many(
                format!("patterns that are looked up by the name \"{name}\""),
                used + 1,
                MAX_CANDIDATES,
                "; one \"**/NAME\" can stand for several of them",
            );
        }
        let next = self.patterns.len();
        if next >= MAX_PATTERNS as usize {
            return too_many("patterns".into(), next + 1, MAX_PATTERNS as usize, "");
        }
        candidates.index[used] = next as u16;
        candidates.count += 1;
        // The rest of a `PREFIX*SUFFIX` is compared with an ending too, though it is no key.
        self.compares_end(pattern.tail_len.into());
        self.patterns.push(pattern);
        Ok(())
    }
}

/// The pattern of a glob, without labels, and the directory that `*` and `**` are looked up by.
fn pattern(path: &PathGlob) -> (Pattern, Option<&str>) {
    let mut pattern = Pattern {
        labels: 0,
        groups: 0,
        tail_hash: 0,
        flags: 0,
        above_len: 0,
        root_len: 0,
        tail_len: 0,
        min_len: 0,
        above: [ANY; PATTERN_PARTS],
        root: [ANY; PATTERN_PARTS],
    };
    pattern.flags |= match path.anchor {
        Anchor::Nowhere => 0,
        Anchor::Root => PATTERN_ANCHOR_ROOT,
        Anchor::Home => PATTERN_ANCHOR_HOME,
    };
    if path.gap {
        pattern.flags |= PATTERN_GAP;
    }
    let mut root = path.root.as_slice();
    let mut above = path.above.as_slice();
    let last_name = |components: &'_ [Component]| {
        components
            .iter()
            .rposition(|c| matches!(c, Component::Name(_)))
    };
    match &path.last {
        Last::Under => pattern.flags |= PATTERN_UNDER,
        last => {
            // Without a gap the directories nearest to the file are compared first: they tell most.
            if !path.gap && path.anchor != Anchor::Nowhere {
                (root, above) = path
                    .root
                    .split_at(path.root.len().saturating_sub(PATTERN_PARTS));
            }
            match last {
                Last::Any => pattern.flags |= PATTERN_ANY_FINAL,
                Last::Affix(prefix, suffix) => {
                    pattern.min_len = (prefix.len() + suffix.len()) as u8;
                    if !prefix.is_empty() && !suffix.is_empty() {
                        pattern.tail_hash = fnv_reversed(suffix.as_bytes());
                        pattern.tail_len = suffix.len() as u8;
                    }
                }
                _ => {}
            }
        }
    }
    for (slot, component) in pattern.root.iter_mut().zip(root) {
        *slot = component_hash(component);
        pattern.root_len += 1;
    }
    for (slot, component) in pattern.above.iter_mut().zip(above.iter().rev()) {
        *slot = component_hash(component);
        pattern.above_len += 1;
    }
    let directory = [above, root]
        .into_iter()
        .find_map(|part| match &part[last_name(part)?] {
            Component::Name(name) => Some(name.as_str()),
            Component::Any => None,
        });
    (pattern, directory)
}

fn component_hash(part: &Component) -> u64 {
    match part {
        Component::Name(name) => component(name.as_bytes()),
        Component::Any => ANY,
    }
}
