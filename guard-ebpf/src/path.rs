//! Recognising a file by what it is: its inode, then its name and the names of the directories above
//! it, read from the dentries of the opened file and across mounts. The string in user memory is
//! never looked at.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use guard_common::{
    MAX_CANDIDATES, MAX_DEPTH, MAX_PATH, MAX_PATTERNS,
    matching::{
        ANY, Candidates, FNV_OFFSET, NAME_WORDS, NameKey, PATTERN_ANCHOR_HOME, PATTERN_ANCHOR_ROOT,
        PATTERN_EXCLUDE, PATTERN_GAP, PATTERN_PARTS, PATTERN_UNDER, Pattern, bloom_bit, fnv_step,
        fold, join, kind,
    },
    state::{BLOOM_WORDS, Names, class},
};

use crate::{
    emit,
    kernel::{
        self, Address, DENTRY_HASH_LEN, DENTRY_NAME, DENTRY_PARENT, MOUNT_MNT, MOUNT_PARENT,
        MOUNT_POINT, VFSMOUNT_ROOT, Words,
    },
    maps::{self, HOMES, KEYS, MAX_HITS, NAMES, PATTERNS, Scratch, Walk},
};

/// A place in the file system: what the kernel calls `struct path`.
#[derive(Clone, Copy)]
pub struct Place {
    /// `struct dentry *`
    pub dentry: Address,
    /// `struct vfsmount *`
    pub mnt: Address,
}

/// Reads the name of `dentry` into `scratch.name`, its length into `scratch.name_len`, and its hash
/// into `scratch.hash`.
#[inline(never)]
fn read_name(dentry: Address, scratch: &mut Scratch) -> u32 {
    let mut words = Words::<2>::new();
    let Some(name) = words.read(dentry, [&DENTRY_HASH_LEN, &DENTRY_NAME]) else {
        return 0;
    };
    let (Some(hash_len), Some(name)) = (
        name.get::<u64>(&DENTRY_HASH_LEN),
        name.pointer(&DENTRY_NAME),
    ) else {
        return 0;
    };
    let len = ((hash_len >> 32) as u32).min(255);
    // The last word's padding; what comes in front of it is overwritten.
    scratch.name[(len >> 3) as usize & (NAME_WORDS - 1)] = 0;
    // SAFETY: `name` has room for more than 255 bytes; the helper checks the source.
    let failed =
        unsafe { bpf_probe_read_kernel(scratch.name.as_mut_ptr().cast(), len, name as *const _) };
    if failed != 0 {
        return 0;
    }
    scratch.name_len = len;
    let words = (forget(&scratch.name_len) + 7) >> 3;
    let mut hash = FNV_OFFSET;
    for i in 0..NAME_WORDS {
        if i >= words as usize {
            break;
        }
        hash = fold(hash, scratch.name[i]);
    }
    scratch.hash = hash;
    1
}

/// Byte `at` of `scratch.name`.
#[inline(always)]
fn name_byte(scratch: &Scratch, at: usize) -> u8 {
    // SAFETY: the mask keeps it inside, and every byte of the array is initialised.
    unsafe { *scratch.name.as_ptr().cast::<u8>().add(at & 255) }
}

/// 1 where some key may have this hash, else 0.
#[inline(always)]
fn bloom(names: &Names, hash: u64) -> u32 {
    let bit = bloom_bit(hash) as usize;
    (names.bloom[(bit >> 6) & (BLOOM_WORDS - 1)] >> (bit & 63)) as u32 & 1
}

/// A domain as a bit of a set of domains.
#[inline(always)]
pub const fn bit(domain: u8) -> u32 {
    1 << domain
}

/// What [`guard_try_key`] looks up, packed: BPF functions take five words.
#[inline(always)]
const fn pack(kind: u8, level: u32, len: u32, generation: u8) -> u64 {
    kind as u64 | (generation as u64) << 8 | (level as u64) << 16 | (len as u64) << 32
}

/// Looks up one key in each of `domains`, remembers those with patterns behind them, and notes the
/// domains in `found` of the work memory `slot`. Exported for the reason given at
/// [`crate::kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_try_key(slot: u32, hash: u64, packed: u64, domains: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    for domain in 0..5u8 {
        if domains & bit(domain) == 0 {
            continue;
        }
        let key = NameKey {
            hash,
            len: (packed >> 32) as u32,
            kind: packed as u8,
            domain,
            generation: (packed >> 8) as u8,
            pad: 0,
        };
        if KEYS.get_ptr(key).is_none() {
            continue;
        }
        scratch.found = forget(&scratch.found) | bit(domain);
        let slot = forget(&scratch.hit_count) as usize;
        if slot < scratch.hits.len() {
            let hit = &mut scratch.hits[slot & 7];
            hit.hash = hash;
            hit.len = (packed >> 32) as u32;
            hit.kind = packed as u32 & 0xff;
            hit.level = (packed >> 16) as u32 & 0xffff;
            hit.domain = domain as u32;
            scratch.hit_count = slot as u32 + 1;
        } else {
            // More patterns than are verified name this file: what the last of them say is not known.
            emit::count(class::FACT, false);
        }
    }
    0
}

/// Reads a word of the scratch memory so that the verifier forgets what it knew of it. Leaving a loop
/// early teaches it the exact bound, once for every iteration, and it would follow all that comes
/// after once for each of them.
#[inline(always)]
pub fn forget(word: &u32) -> u32 {
    // SAFETY: a reference is valid for reads.
    unsafe { core::ptr::read_volatile(word) }
}

/// Looks the name in `scratch.name` up as a final component in `domains`: whole, by prefix, by suffix.
/// Hits are added to `scratch.hits`. Exported for the reason given at [`crate::kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_match_name(slot: u32, domains: u32, generation: u32) -> u32 {
    let generation = generation as u8;
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let Some(names) = NAMES.get(generation as u32 & 1) else {
        return 0;
    };
    let hash = scratch.hash;
    if bloom(names, hash) != 0 {
        let len = forget(&scratch.name_len);
        guard_try_key(
            scratch.slot,
            hash,
            pack(kind::EXACT, 0, len, generation),
            domains,
        );
    }
    // Every beginning and every ending of the lengths that some pattern fixes, and of those below.
    let mut prefix = FNV_OFFSET;
    let mut suffix = FNV_OFFSET;
    // Which of them some pattern may have. By the memory: of a number that it knows the verifier would follow all the ways
    // that there are to another.
    scratch.index = 0;
    let (mut begins, mut ends) = (forget(&scratch.index), forget(&scratch.index));
    for n in 1..32u32 {
        let len = forget(&scratch.name_len);
        if n > len || n > forget(&names.longest_end) {
            break;
        }
        prefix = fnv_step(prefix, name_byte(scratch, n as usize - 1));
        suffix = fnv_step(suffix, name_byte(scratch, len.wrapping_sub(n) as usize));
        scratch.suffix[n as usize] = suffix;
        let (begin, end) = (names.prefix_lens >> n & 1, names.suffix_lens >> n & 1);
        if begin | end != 0 {
            scratch.prefix[n as usize] = prefix;
            begins |= (bloom(names, prefix) & begin) << n;
            ends |= (bloom(names, suffix) & end) << n;
        }
    }
    if begins | ends != 0 {
        guard_try_ends(slot, domains, generation as u32, begins, ends);
    }
    0
}

/// Looks up those beginnings and endings of a name whose lengths these are, as bits; they are in `prefix` and `suffix` of the
/// work memory `slot`. Exported for the reason given at [`crate::kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_try_ends(
    slot: u32,
    domains: u32,
    generation: u32,
    begins: u32,
    ends: u32,
) -> u32 {
    let either = begins | ends;
    for n in 1..32u32 {
        if either >> n & 1 != 0 {
            guard_try_end(slot, domains, generation | n << 16, begins, ends);
        }
    }
    0
}

/// Looks up the beginning and the ending of so many bytes as the upper 16 bits of `which` say, where they are wanted. In the
/// lower ones is the half of the policy. Exported for the reason given at [`crate::kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_try_end(
    slot: u32,
    domains: u32,
    which: u32,
    begins: u32,
    ends: u32,
) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    // Read back, so that the compiler keeps the mask, which the verifier needs to see.
    let n = forget(&which) >> 16 & 31;
    let (at, generation) = (n as usize, which as u8);
    if begins >> n & 1 != 0 {
        let packed = pack(kind::PREFIX, 0, n, generation);
        guard_try_key(slot, scratch.prefix[at], packed, domains);
    }
    if ends >> n & 1 != 0 {
        let packed = pack(kind::SUFFIX, 0, n, generation);
        guard_try_key(slot, scratch.suffix[at], packed, domains);
    }
    0
}

/// Walks from a place to the root of its mount namespace. Leaves the hashes of the components in
/// `components` of the work memory `slot` (leaf first, `depth` of them) and their names in `tail`
/// (`head.path_len` bytes, each with a NUL). Returns whether it reached the root. Exported for the reason given
/// at [`crate::kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_walk(slot: u32, dentry: Address, mnt: Address) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    scratch.depth = 0;
    scratch.head.path_len = 0;
    scratch.walk = Walk {
        dentry,
        mnt,
        complete: 0,
        pad: 0,
    };
    // Every step takes a component or crosses a mount.
    for _ in 0..MAX_DEPTH + 8 {
        if guard_step_up(slot) != 0 {
            break;
        }
    }
    forget(&scratch.walk.complete)
}

/// One step towards the root. Returns 1 at the end. Exported for the reason given at [`crate::kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_step_up(slot: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 1;
    };
    let (dentry, mnt) = (scratch.walk.dentry, scratch.walk.mnt);
    let Some(parent) = kernel::pointer(dentry, &DENTRY_PARENT) else {
        return 1;
    };
    let root = kernel::pointer(mnt, &VFSMOUNT_ROOT).unwrap_or(0);
    if dentry == root || dentry == parent {
        // The root of a mount: go on at the place it is mounted on.
        if mnt == 0 {
            return 1;
        }
        let mount_mnt = MOUNT_MNT.load();
        let mount = mnt.wrapping_sub(mount_mnt as u64);
        let Some(above) = kernel::pointer(mount, &MOUNT_PARENT) else {
            return 1;
        };
        if above == mount || dentry != root {
            scratch.walk.complete = 1;
            return 1;
        }
        let Some(point) = kernel::pointer(mount, &MOUNT_POINT) else {
            return 1;
        };
        scratch.walk.dentry = point;
        scratch.walk.mnt = above.wrapping_add(mount_mnt as u64);
        return 0;
    }
    let at = forget(&scratch.head.path_len);
    let depth = forget(&scratch.depth);
    if depth >= MAX_DEPTH as u32 || at as usize > MAX_PATH - 256 {
        return 1;
    }
    let Some(len) = read_component(scratch, dentry, at) else {
        return 1;
    };
    scratch.head.path_len = at + len + 1;
    scratch.components[depth as usize & 63] = scratch.hash;
    scratch.depth = depth + 1;
    scratch.walk.dentry = parent;
    0
}

/// Copies the name of `dentry` to `tail[at..]`, ends it with a NUL and leaves its hash in
/// `scratch.hash`. Gives its length.
#[inline(always)]
fn read_component(scratch: &mut Scratch, dentry: Address, at: u32) -> Option<u32> {
    let at = at as usize;
    if at > MAX_PATH - 256 || read_name(dentry, scratch) == 0 {
        return None;
    }
    let len = forget(&scratch.name_len) & 255;
    if append(scratch, at as u64, len as u64) != 0 {
        return None;
    }
    Some(len)
}

/// Copies the first `len` bytes of `scratch.name` to `tail[at..]` and a NUL behind them. A function of its
/// own for the reason given at `exec::read_user`.
#[inline(never)]
fn append(scratch: &mut Scratch, at: u64, len: u64) -> i64 {
    let (at, len) = (kernel::opaque(at), kernel::opaque(len));
    if at > MAX_PATH as u64 - 256 || len > 255 {
        return -1;
    }
    // SAFETY: at <= MAX_PATH - 256 and len <= 255, and `tail` is longer than MAX_PATH; source and target
    // lie in the scratch memory.
    unsafe {
        let target = scratch.tail.as_mut_ptr().add(at as usize);
        target.add(len as usize).write(0);
        bpf_probe_read_kernel(target.cast(), len as u32, scratch.name.as_ptr().cast())
    }
}

/// After a walk: leaves the number of leading components (from the root) that make up a home directory
/// in `scratch.home`.
#[inline(always)]
fn find_home(scratch: &mut Scratch, generation: u8) {
    scratch.home = 0;
    let mut joined = 0u64;
    for j in 0..4usize {
        let depth = forget(&scratch.depth) as usize;
        if j >= depth {
            break;
        }
        joined = join(joined, scratch.components[depth.wrapping_sub(1 + j) & 63]);
        // SAFETY: a policy half is only written while it is not in force.
        if unsafe { HOMES.get(home_key(joined, generation)) }.is_some() {
            scratch.home = j as u32 + 1;
        }
    }
}

/// Key in [`HOMES`]: the generation takes the lowest bit's place.
#[inline(always)]
const fn home_key(joined: u64, generation: u8) -> u64 {
    joined & !1 | (generation as u64 & 1)
}

/// Adds what the hits in `domain` give for a file whose components have been walked. Exported for the reason
/// given at [`crate::kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_verify(slot: u32, complete: u32, domain: u32, generation: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    find_home(scratch, generation as u8);
    scratch.complete = complete;
    for step in 0..(MAX_HITS * MAX_CANDIDATES) as u32 {
        if step >= forget(&scratch.hit_count) * MAX_CANDIDATES as u32 {
            break;
        }
        guard_verify_candidate(slot, step, domain, generation);
    }
    0
}

/// Verifies one candidate of one hit. Exported for the reason given at [`crate::kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_verify_candidate(
    slot: u32,
    step: u32,
    domain: u32,
    generation: u32,
) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let (domain, generation) = (domain as u8, generation as u8);
    let hit = &scratch.hits[(step as usize / MAX_CANDIDATES) & 7];
    let index = step as usize % MAX_CANDIDATES;
    if hit.domain != domain as u32 {
        return 0;
    }
    let level = hit.level;
    let key = NameKey {
        hash: hit.hash,
        len: hit.len,
        kind: hit.kind as u8,
        domain,
        generation,
        pad: 0,
    };
    // SAFETY: a policy half is only written while it is not in force.
    let Some(candidates) = (unsafe { KEYS.get(key) }) else {
        return 0;
    };
    if index >= candidates.count as usize {
        return 0;
    }
    let Some(pattern) = pattern(candidates.index[index], generation) else {
        return 0;
    };
    if verify_one(scratch, pattern, level) == 0 {
        return 0;
    }
    if pattern.flags & PATTERN_EXCLUDE != 0 {
        scratch.excluded |= pattern.labels;
    } else {
        scratch.all |= pattern.labels;
        scratch.groups |= pattern.groups;
        if pattern.groups == 0 {
            scratch.plain |= pattern.labels;
        }
        if pattern.groups & scratch.excepted == 0 {
            scratch.labels |= pattern.labels;
        }
    }
    0
}

#[inline(never)]
fn verify_one(scratch: &Scratch, pattern: &Pattern, level: u32) -> u32 {
    let under = pattern.flags & PATTERN_UNDER != 0;
    // Where `above` begins: the directory of the final component, or for `dir/**` the one that hit.
    let first = if under { level } else { 1 };
    for i in 0..PATTERN_PARTS {
        if i < pattern.above_len as usize {
            let at = first.wrapping_add(i as u32);
            let wanted = pattern.above[i];
            if at >= forget(&scratch.depth)
                || (wanted != ANY && wanted != scratch.components[at as usize & 63])
            {
                return 0;
            }
        }
    }
    if pattern.flags & (PATTERN_ANCHOR_ROOT | PATTERN_ANCHOR_HOME) != 0 {
        // Deeper, or longer, than is walked: the root is not known. Where the pattern allows any depth, the
        // rest of it decides, or a deep directory would be a way round it.
        if forget(&scratch.complete) == 0 {
            return (under || pattern.flags & PATTERN_GAP != 0) as u32
                * ends_match(scratch, pattern);
        }
        let in_home = pattern.flags & PATTERN_ANCHOR_HOME != 0;
        if in_home && forget(&scratch.home) == 0 {
            return 0;
        }
        let base = forget(&scratch.home) * in_home as u32;
        let root_len = pattern.root_len as u32;
        for j in 0..PATTERN_PARTS {
            if (j as u32) < root_len {
                let from_root = base.wrapping_add(j as u32 + 1);
                let wanted = pattern.root[j];
                let depth = forget(&scratch.depth);
                let at = depth.wrapping_sub(from_root) as usize & 63;
                if from_root > depth || (wanted != ANY && wanted != scratch.components[at]) {
                    return 0;
                }
            }
        }
        let need = base
            + root_len
            + if under {
                1
            } else {
                1 + pattern.above_len as u32
            };
        let depth = forget(&scratch.depth);
        if depth < need || (depth != need && !under && pattern.flags & PATTERN_GAP == 0) {
            return 0;
        }
    }
    ends_match(scratch, pattern)
}

/// Whether the final component has the rest of a `PREFIX*SUFFIX`.
#[inline(always)]
fn ends_match(scratch: &Scratch, pattern: &Pattern) -> u32 {
    if forget(&scratch.name_len) < pattern.min_len as u32 {
        return 0;
    }
    if pattern.tail_len != 0 && scratch.suffix[pattern.tail_len as usize & 31] != pattern.tail_hash
    {
        return 0;
    }
    1
}

/// What names say of the file at `place`: leaves labels and groups in `scratch`. Returns whether any
/// pattern was verified (the path is then in `scratch.tail`), with bit 1 set if the walk reached the
/// root.
#[inline(always)]
pub fn matched(scratch: &mut Scratch, place: Place, domain: u8, generation: u8) -> u32 {
    look_up(scratch, place, bit(domain), generation);
    judge_names(scratch, place, domain, generation)
}

/// First half of [`matched`]: the final component, in several domains at once. The domains that have
/// it are in `scratch.found`.
#[inline(always)]
pub fn look_up(scratch: &mut Scratch, place: Place, domains: u32, generation: u8) {
    scratch.hit_count = 0;
    scratch.found = 0;
    if read_name(place.dentry, scratch) != 0 {
        guard_match_name(scratch.slot, domains, generation as u32);
    }
}

/// Second half of [`matched`]: the directories above.
#[inline(always)]
pub fn judge_names(scratch: &mut Scratch, place: Place, domain: u8, generation: u8) -> u32 {
    scratch.labels = 0;
    scratch.all = 0;
    scratch.plain = 0;
    scratch.groups = 0;
    scratch.excluded = 0;
    let levels = match NAMES.get(generation as u32 & 1) {
        Some(names) => names.dir_levels,
        None => return 0,
    };
    if forget(&scratch.found) & bit(domain) == 0 && levels == 0 {
        return 0;
    }
    let len = forget(&scratch.name_len);
    let complete = guard_walk(scratch.slot, place.dentry, place.mnt);
    scratch.name_len = len;
    if levels != 0 {
        guard_directories(scratch.slot, levels, domain as u32, generation as u32);
    }
    if forget(&scratch.hit_count) == 0 {
        return 0;
    }
    guard_verify(scratch.slot, complete, domain as u32, generation as u32);
    scratch.labels &= !scratch.excluded;
    scratch.all &= !scratch.excluded;
    scratch.plain &= !scratch.excluded;
    1 | complete << 1
}

/// Looks the directories above up, for `dir/*` and `dir/**`. Exported for the reason given at
/// [`crate::kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_directories(slot: u32, levels: u32, domain: u32, generation: u32) -> u32 {
    let (Some(names), Some(scratch)) = (NAMES.get(generation & 1), maps::memory(slot)) else {
        return 0;
    };
    let (domain, generation) = (domain as u8, generation as u8);
    for level in 1..9u32 {
        if level > levels || level >= forget(&scratch.depth) {
            break;
        }
        let hash = scratch.components[level as usize];
        if bloom(names, hash) == 0 {
            continue;
        }
        // The length is not part of a directory's key: the hash is of the whole name.
        guard_try_key(
            scratch.slot,
            hash,
            pack(kind::UNDER, level, 0, generation),
            bit(domain),
        );
        if level == 1 {
            guard_try_key(
                scratch.slot,
                hash,
                pack(kind::PARENT, 1, 0, generation),
                bit(domain),
            );
        }
    }
    0
}

/// One exact name by its hash; for names that come from strings.
#[inline(always)]
pub fn exact(hash: u64, len: u32, domain: u8, generation: u8) -> Option<&'static Candidates> {
    let names = NAMES.get(generation as u32 & 1)?;
    if bloom(names, hash) == 0 {
        return None;
    }
    // SAFETY: a policy half is only written while it is not in force.
    unsafe {
        KEYS.get(NameKey {
            hash,
            len,
            kind: kind::EXACT,
            domain,
            generation,
            pad: 0,
        })
    }
}

/// One pattern of a generation.
#[inline(always)]
pub fn pattern(index: u16, generation: u8) -> Option<&'static Pattern> {
    PATTERNS.get((generation as u32 & 1) * MAX_PATTERNS + index as u32)
}
