//! The kernel's verification of a path, done in userspace over the same tables: for `policy explain`,
//! and to test the tables against an independent reading of the globs.

use std::{os::unix::ffi::OsStrExt, path::Path};

use guard_common::matching::{
    ANY, NameKey, PATTERN_ANCHOR_HOME, PATTERN_ANCHOR_ROOT, PATTERN_ANY_FINAL, PATTERN_EXCLUDE,
    PATTERN_GAP, PATTERN_UNDER, Pattern, bloom_bit, component, domain, fnv, fnv_reversed, join,
    kind,
};

use super::{
    Tables,
    homes::{MAX_HOME_COMPONENTS, names},
};

/// What the name of a file gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classified {
    /// Labels for a program that no exception covers.
    pub labels: u64,
    /// Labels that some `except.files` took out.
    pub excluded: u64,
    /// Labels and groups of each pattern that matched, the excluding ones left out.
    pub matched: Vec<(u64, u64)>,
}

impl Classified {
    /// Labels for a program that is excepted from these groups.
    pub fn labels_for(&self, excepted: u64) -> u64 {
        let counts = self
            .matched
            .iter()
            .filter(|(_, groups)| groups & excepted == 0);
        counts.fold(0, |all, (labels, _)| all | labels) & !self.excluded
    }
}

impl Tables {
    /// What the kernel makes of an opened file with this absolute path, links resolved.
    pub fn classify_path(&self, path: &Path) -> Classified {
        let mut result = Classified::default();
        for pattern in self.matching(domain::FILE, path) {
            if pattern.flags & PATTERN_EXCLUDE != 0 {
                result.excluded |= pattern.labels;
            } else {
                result.matched.push((pattern.labels, pattern.groups));
            }
        }
        result.labels = result.labels_for(0);
        result
    }

    /// The groups whose exception a program with this absolute path, links resolved, falls under.
    pub fn classify_program(&self, path: &Path) -> u64 {
        self.matching(domain::PROGRAM, path)
            .iter()
            .fold(0, |groups, pattern| groups | pattern.groups)
    }

    fn matching(&self, domain: u8, path: &Path) -> Vec<&Pattern> {
        let mut components = names(path);
        components.reverse();
        let Some(name) = components.first().map(|name| name.as_bytes()) else {
            return Vec::new();
        };
        let hashes: Vec<u64> = components
            .iter()
            .map(|name| component(name.as_bytes()))
            .collect();
        let home = self.home(&hashes);
        let mut found: Vec<u16> = Vec::new();
        let mut look = |kind: u8, hash: u64, len: usize, level: usize| {
            for index in self.candidates(domain, kind, hash, len) {
                // A directory's name may occur twice on one path.
                if !found.contains(index)
                    && fits(
                        &self.patterns[usize::from(*index)],
                        name,
                        level,
                        &hashes,
                        home,
                    )
                {
                    found.push(*index);
                }
            }
        };
        look(kind::EXACT, hashes[0], name.len(), 0);
        for len in (1..32usize).filter(|len| *len <= name.len()) {
            if self.names.prefix_lens & (1 << len) != 0 {
                look(kind::PREFIX, fnv(&name[..len]), len, 0);
            }
            if self.names.suffix_lens & (1 << len) != 0 {
                look(
                    kind::SUFFIX,
                    fnv_reversed(&name[name.len() - len..]),
                    len,
                    0,
                );
            }
        }
        let levels = (self.names.dir_levels as usize).min(components.len() - 1);
        for level in 1..=levels {
            if level == 1 {
                look(kind::PARENT, hashes[1], 0, 1);
            }
            look(kind::UNDER, hashes[level], 0, level);
        }
        found
            .into_iter()
            .map(|index| &self.patterns[usize::from(index)])
            .collect()
    }

    fn candidates(&self, domain: u8, kind: u8, hash: u64, len: usize) -> &[u16] {
        let bit = bloom_bit(hash);
        let possible = self.names.bloom[bit as usize / 64] & (1 << (bit % 64)) != 0;
        let wanted = move |key: &NameKey| {
            key.domain == domain && key.kind == kind && key.hash == hash && key.len as usize == len
        };
        self.keys
            .iter()
            .find(|(key, _)| possible && wanted(key))
            .map_or(&[], |(_, candidates)| {
                &candidates.index[..candidates.count as usize]
            })
    }

    /// Components of the deepest home that the path lies in.
    fn home(&self, hashes: &[u64]) -> Option<usize> {
        let mut deepest = None;
        let mut joined = 0;
        for (count, hash) in (1u32..).zip(hashes.iter().rev().take(MAX_HOME_COMPONENTS)) {
            joined = join(joined, *hash);
            if self.homes.binary_search(&(joined, count)).is_ok() {
                deepest = Some(count as usize);
            }
        }
        deepest
    }
}

/// Whether a candidate that was found at `level` holds. `hashes` are the components, leaf first.
fn fits(pattern: &Pattern, name: &[u8], level: usize, hashes: &[u64], home: Option<usize>) -> bool {
    let (n, above_len, root_len) = (
        hashes.len(),
        usize::from(pattern.above_len),
        usize::from(pattern.root_len),
    );
    let has = |flag| pattern.flags & flag != 0;
    if !has(PATTERN_UNDER) && !has(PATTERN_ANY_FINAL) {
        if name.len() < usize::from(pattern.min_len) {
            return false;
        }
        let tail_len = usize::from(pattern.tail_len);
        if tail_len > 0 && fnv_reversed(&name[name.len() - tail_len..]) != pattern.tail_hash {
            return false;
        }
    }
    let same = |expected: u64, at: usize| expected == ANY || hashes.get(at) == Some(&expected);
    // For a file the directories begin above it; for `dir/**` with `dir` itself.
    let first = if has(PATTERN_UNDER) { level } else { 1 };
    if first + above_len > n || !(0..above_len).all(|i| same(pattern.above[i], first + i)) {
        return false;
    }
    let base = match (has(PATTERN_ANCHOR_ROOT), has(PATTERN_ANCHOR_HOME), home) {
        (true, ..) => 0,
        (_, true, Some(components)) => components,
        (_, true, None) => return false,
        _ => return true,
    };
    let rest = n.saturating_sub(base);
    let long_enough = if has(PATTERN_UNDER) {
        rest > root_len
    } else if has(PATTERN_GAP) {
        rest > above_len + root_len
    } else {
        rest == 1 + above_len + root_len
    };
    long_enough && (0..root_len).all(|j| same(pattern.root[j], n - 1 - base - j))
}
