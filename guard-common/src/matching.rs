//! How a file, program or address is recognised. The policy compiler (userspace) and the kernel
//! programs must agree on every hash and key here, bit for bit.
//!
//! A path pattern is looked up by its final component, through one hash map ([`NameKey`]), and then
//! verified component by component ([`Pattern`]). Only the opened file's own dentries are read, never
//! the string that the program passed.

/// FNV-1a, 64 bit: <http://www.isthe.com/chongo/tech/comp/fnv/> (offset basis and prime).
pub const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
/// See [`FNV_OFFSET`].
pub const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// One byte more.
#[inline(always)]
pub const fn fnv_step(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(FNV_PRIME)
}

/// Words of eight bytes in the longest file name (255 bytes, `NAME_MAX`).
pub const NAME_WORDS: usize = 32;

/// One word more of a whole component's hash. Whole components are hashed by words of eight bytes
/// (little endian, the last padded with zeros): an eighth of the steps, for the processor and for the
/// verifier, who follows every one of them.
#[inline(always)]
pub const fn fold(hash: u64, word: u64) -> u64 {
    let hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 32)
}

/// Hash of a whole component.
pub fn component(name: &[u8]) -> u64 {
    name.chunks(8).fold(FNV_OFFSET, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        fold(hash, u64::from_le_bytes(word))
    })
}

/// [`component`] of `-c`, after which an interpreter's next argument is a program's text.
pub const DASH_C: u64 = fold(FNV_OFFSET, b'-' as u64 | (b'c' as u64) << 8);

/// Hash of a prefix, byte by byte, so that every prefix of a name is hashed on the way.
pub fn fnv(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(FNV_OFFSET, |hash, &byte| fnv_step(hash, byte))
}

/// Hash of a suffix: its bytes from the last to the first.
pub fn fnv_reversed(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(FNV_OFFSET, |hash, &byte| fnv_step(hash, byte))
}

/// Combines the hashes of the first components of a path (root first), for the table of homes.
#[inline(always)]
pub const fn join(above: u64, component: u64) -> u64 {
    (above.rotate_left(5) ^ component).wrapping_mul(FNV_PRIME)
}

/// Which bit of the bloom filter stands for a hash, in `0..BLOOM_WORDS * 64`.
#[inline(always)]
pub const fn bloom_bit(hash: u64) -> u32 {
    ((hash ^ (hash >> 29)) & (crate::state::BLOOM_WORDS as u64 * 64 - 1)) as u32
}

/// How the final component is fixed.
pub mod kind {
    /// The whole component.
    pub const EXACT: u8 = 0;
    /// Its first `len` bytes.
    pub const PREFIX: u8 = 1;
    /// Its last `len` bytes (hashed in reverse).
    pub const SUFFIX: u8 = 2;
    /// Any final component; `hash` is that of the directory it lies in (`dir/*`).
    pub const PARENT: u8 = 3;
    /// Anything at any depth below a directory of this name (`dir/**`).
    pub const UNDER: u8 = 4;
}

/// What a name is looked up for.
pub mod domain {
    /// Files: patterns give labels.
    pub const FILE: u8 = 0;
    /// Programs that are excepted: patterns give groups.
    pub const PROGRAM: u8 = 1;
    /// Agents: a hit only means that guardd must look closer.
    pub const AGENT: u8 = 2;
    /// Interpreters, whose first arguments are looked up too.
    pub const INTERPRETER: u8 = 3;
    /// Programs whose command lines some label names: guardd must look closer.
    pub const COMMAND: u8 = 4;
}

/// Key of the name table. Value: [`Candidates`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct NameKey {
    /// [`component`] of a whole name, [`fnv`] of a prefix, [`fnv_reversed`] of a suffix.
    pub hash: u64,
    /// Bytes in the fixed part.
    pub len: u32,
    /// One of [`kind`].
    pub kind: u8,
    /// One of [`domain`].
    pub domain: u8,
    /// Half of the policy.
    pub generation: u8,
    /// Always 0.
    pub pad: u8,
}

/// Patterns that share a final component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Candidates {
    /// How many of `index` count.
    pub count: u32,
    /// Indices into the pattern table of the same generation.
    pub index: [u16; crate::MAX_CANDIDATES],
}

/// Components in each part of a [`Pattern`].
pub const PATTERN_PARTS: usize = 8;
/// A component that matches any name.
pub const ANY: u64 = 0;

/// A compiled pattern: `ROOT/…gap…/ABOVE/final`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Pattern {
    /// Labels that a match gives.
    pub labels: u64,
    /// The group of the label table it came from, as a bit; 0 for none.
    pub groups: u64,
    /// [`fnv_reversed`] of the bytes after the `*` of a `PREFIX*SUFFIX`; counts if `tail_len > 0`.
    pub tail_hash: u64,
    /// Set of `PATTERN_*`.
    pub flags: u32,
    /// Components in `above`.
    pub above_len: u8,
    /// Components in `root`.
    pub root_len: u8,
    /// Bytes in the required tail of a `PREFIX*SUFFIX`.
    pub tail_len: u8,
    /// Shortest final component that can match (prefix and tail may not overlap).
    pub min_len: u8,
    /// [`component`] hashes of those directly above the final one, nearest first.
    pub above: [u64; PATTERN_PARTS],
    /// Hashes of the first components, from the root (or home) downwards.
    pub root: [u64; PATTERN_PARTS],
}

/// `root` begins at the root of the mount namespace.
pub const PATTERN_ANCHOR_ROOT: u32 = 1;
/// `root` begins in some user's home directory.
pub const PATTERN_ANCHOR_HOME: u32 = 2;
/// Any number of components may lie between `root` and `above`.
pub const PATTERN_GAP: u32 = 4;
/// A match takes the file out of `labels` instead of giving them (`except = { files = … }`).
pub const PATTERN_EXCLUDE: u32 = 8;
/// The final component is any (`dir/*`): `above` begins with the directory it lies in.
pub const PATTERN_ANY_FINAL: u32 = 16;
/// The final component is part of the gap (`dir/**`): `above` is empty.
pub const PATTERN_UNDER: u32 = 32;

/// A known file. Key of the inode table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FileKey {
    /// `inode->i_ino`.
    pub ino: u64,
    /// `inode->i_sb->s_dev`, in the kernel's form (major << 20 | minor).
    pub dev: u32,
    /// Half of the policy.
    pub generation: u32,
}

/// Slots of the filter that says which inode numbers a half of the inode table may have: a byte each, so
/// that one can be set without reading it first; 0 where no known file has such a number.
pub const INODE_SLOTS: usize = 1 << 16;

/// The filter's slot for an inode number. Multiplied by 2^64 divided by the golden ratio, which spreads numbers
/// that follow each other; see Knuth, The Art of Computer Programming, 6.4.
#[inline(always)]
pub const fn inode_slot(ino: u64) -> usize {
    (ino.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize
}

/// What a known file carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KnownFile {
    /// Its labels.
    pub labels: u64,
    /// Groups of the patterns that gave them.
    pub groups: u64,
    /// Those of the labels that came from a pattern without a group: no exception takes them away.
    pub plain: u64,
    /// `inode->i_generation`: an inode number that was freed and used again is another file.
    pub inode_generation: u32,
    /// 0: `inode_generation` is not known (the file system does not tell userspace) and is not
    /// compared.
    pub has_generation: u32,
}

/// Data of the longest-prefix-match trie of addresses. The prefix length is
/// [`ADDRESS_FIXED_BITS`] plus the address's own, IPv4 being v4-mapped (so 96 more).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct AddressKey {
    /// Half of the policy.
    pub generation: u16,
    /// Destination port, big endian; 0 for any.
    pub port: u16,
    /// IPv6 or v4-mapped address.
    pub addr: [u8; 16],
}

/// Bits before the address in an [`AddressKey`].
pub const ADDRESS_FIXED_BITS: u32 = 32;

/// What an address prefix carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KnownAddress {
    /// Its labels.
    pub labels: u64,
    /// Groups of the label tables that gave them.
    pub groups: u64,
    /// Bits of address that were compared, 0 to 128: of two matches (with and without port) the
    /// longer wins, and at the same length the one with a port.
    pub prefix: u32,
    /// Not 0: some label asks what a request there says.
    pub asked: u32,
    /// Labels that it does not carry whatever names it has, and whatever a connection to it says (`except.addresses`).
    pub spared: u64,
}

/// Key of the table of environment markers: the first eight bytes of `NAME=VALUE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct EnvKey {
    /// Little endian, as eight bytes lie in memory; cut after the `=`.
    pub word: u64,
    /// Half of the policy.
    pub generation: u64,
}

/// The [`EnvKey::word`] of an environment entry: its first eight bytes, up to and with the `=`,
/// zero-padded.
pub fn env_word(entry: &[u8]) -> u64 {
    let mut word = 0u64;
    for (i, &byte) in entry.iter().take(8).enumerate() {
        word |= (byte as u64) << (8 * i);
        if byte == b'=' {
            break;
        }
    }
    word
}

/// The highest bit of each byte of `word` that is 0. Without borrows between bytes, so that all of them
/// are exact; see Warren, Hacker's Delight, 6-1.
#[inline(always)]
pub const fn zero_bytes(word: u64) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    !(((word & LOW) + LOW) | word | LOW)
}

/// [`env_word`] of an entry whose first eight bytes (or more than there are of it) lie in `word`, little
/// endian.
#[inline(always)]
pub const fn marker_word(word: u64) -> u64 {
    const EQUALS: u64 = 0x3d3d_3d3d_3d3d_3d3d;
    let equals = zero_bytes(word ^ EQUALS);
    let first = equals & equals.wrapping_neg();
    // Up to and with the first `=`; everything if there is none.
    word & (first << 1).wrapping_sub(1)
}

/// Which bit of [`crate::state::Config::env_bloom`] stands for a marker's word.
#[inline(always)]
pub const fn env_bit(word: u64) -> u32 {
    (word
        .wrapping_mul(FNV_PRIME | 1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        >> 58) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_word_of_the_environment_is_cut_as_its_entry_is(entry in prop::collection::vec(prop_oneof![Just(b'='), Just(b'A'), any::<u8>()], 8)) {
            let word = u64::from_le_bytes(entry[..8].try_into().unwrap());
            prop_assert_eq!(marker_word(word), env_word(&entry));
        }

        #[test]
        fn each_byte_that_is_zero_is_found_and_no_other(bytes in prop::array::uniform8(prop_oneof![Just(0u8), Just(1u8), Just(0x80u8), any::<u8>()])) {
            let found = zero_bytes(u64::from_le_bytes(bytes));
            for (i, byte) in bytes.into_iter().enumerate() {
                prop_assert_eq!(found >> (8 * i) & 0xff, u64::from(byte == 0) << 7);
            }
        }
    }
}
