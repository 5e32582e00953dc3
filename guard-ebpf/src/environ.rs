//! The environment of a program, searched for what agents set for what they run. guardd compares whole
//! markers; here their first eight bytes are enough to ask it.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use guard_common::{
    ENV_SEARCHED,
    matching::{EnvKey, env_bit, marker_word, zero_bytes},
    plain,
    state::Config,
};

use crate::{
    judge,
    kernel::{self, Address, MM_ENV_END, MM_ENV_START},
    maps::{MARKERS, Scratch},
    path,
};

/// Bytes of the environment that are searched for markers in one go.
const MAX_ENV: usize = 8192;
/// How often, at most, one after another. Without `bpf_loop` once, and less.
const ENV_CHUNKS: u32 = (ENV_SEARCHED / MAX_ENV) as u32;
/// Bytes that one step goes through.
const BLOCK: usize = 64;

/// Whether the environment carries an agent's marker (its first eight bytes; guardd compares the
/// rest).
#[inline(never)]
pub fn marked(scratch: &mut Scratch, mm: Address, config: &Config, generation: u8) -> u32 {
    let bloom = config.env_bloom[generation as usize & 1];
    if bloom == 0 {
        return 0;
    }
    let (Some(start), Some(end)) = (
        kernel::read::<u64>(mm, &MM_ENV_START),
        kernel::read::<u64>(mm, &MM_ENV_END),
    ) else {
        return 0;
    };
    scratch.found_marker = 0;
    let mut search = Search {
        scratch,
        start,
        end,
        generation: generation as u64,
    };
    kernel::repeat::<1, _>(ENV_CHUNKS, search_chunk, &mut search);
    path::forget(&scratch.found_marker)
}

/// What [`search_chunk`] needs; on the stack.
#[repr(C)]
struct Search {
    scratch: *mut Scratch,
    start: u64,
    end: u64,
    generation: u64,
}

/// Searches one chunk. Returns 1 to stop.
extern "C" fn search_chunk(chunk: u32, search: &mut Search) -> i64 {
    // SAFETY: points to this CPU's scratch for as long as `search` lives.
    let scratch = unsafe { &mut *search.scratch };
    // Each begins with the last bytes of the one before: an entry may begin in one and end in the next.
    let from = search
        .start
        .wrapping_add(chunk as u64 * (MAX_ENV - 8) as u64);
    if from >= search.end {
        return 1;
    }
    let read = read_chunk(
        scratch,
        from,
        search.end,
        chunk == 0,
        search.generation as u32,
    );
    (!read || path::forget(&scratch.found_marker) != 0) as i64
}

/// Searches up to MAX_ENV bytes of the environment and leaves in `scratch.found_marker` whether there is
/// a marker. Says whether they could be read.
#[inline(always)]
fn read_chunk(
    scratch: &mut Scratch,
    start: u64,
    end: u64,
    first: bool,
    generation: u32,
) -> bool {
    let len = end.saturating_sub(start).min(MAX_ENV as u64);
    if read_environment(scratch, len, start) != 0 {
        return false;
    }
    let len = len as u32;
    let mut scan = Scan {
        scratch,
        len,
        generation,
    };
    // The first entry has no NUL before it.
    if first && word_at(scratch, 0).is_some_and(|entry| is_marker(entry, generation)) {
        scratch.found_marker = 1;
        return true;
    }
    let blocks = len / BLOCK as u32 + 1;
    kernel::repeat::<{ plain::ENV_BLOCKS }, _>(blocks, scan_block, &mut scan);
    true
}

/// Word `at / 8` of the environment in `scratch.tail`.
#[inline(always)]
fn word_at(scratch: &Scratch, at: usize) -> Option<u64> {
    const {
        assert!(core::mem::offset_of!(Scratch, tail).is_multiple_of(8));
        assert!(crate::maps::SLACK >= 16);
    }
    if at > MAX_ENV {
        return None;
    }
    // SAFETY: `tail` is longer than MAX_ENV by SLACK, and aligned, as is `at`.
    Some(unsafe { scratch.tail.as_ptr().add(at).cast::<u64>().read() })
}

/// Goes through one block of the environment, a word at a time: most have no NUL in them, and only
/// behind one an entry begins. Returns 1 to stop.
extern "C" fn scan_block(block: u32, scan: &mut Scan) -> i64 {
    // SAFETY: points to this CPU's scratch for as long as `scan` lives.
    let scratch = unsafe { &mut *scan.scratch };
    let base = block as usize * BLOCK;
    if base >= scan.len as usize || base > MAX_ENV - BLOCK {
        return 1;
    }
    for i in 0..BLOCK / 8 {
        let at = base + i * 8;
        let Some(word) = word_at(scratch, at) else {
            return 1;
        };
        if zero_bytes(word) == 0 {
            continue;
        }
        let Some(next) = word_at(scratch, at + 8) else {
            return 1;
        };
        if guard_env_entries(word, next, scan.generation) != 0 {
            scratch.found_marker = 1;
            return 1;
        }
    }
    0
}

/// Whether one of the entries that begin behind a NUL in `word` may be a marker; `next` is the word behind it.
/// Exported for the reason given at [`crate::judge::guard_touch`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_env_entries(word: u64, next: u64, generation: u32) -> u32 {
    let ends = zero_bytes(word);
    for byte in 0..8 {
        if ends >> (byte * 8 + 7) & 1 == 0 {
            continue;
        }
        let entry = if byte == 7 {
            next
        } else {
            word >> (byte * 8 + 8) | next << (56 - byte * 8)
        };
        if is_marker(entry, generation) {
            return 1;
        }
    }
    0
}

/// Whether an entry that begins with these eight bytes may be a marker.
#[inline(always)]
fn is_marker(entry: u64, generation: u32) -> bool {
    let Some(config) = judge::config() else {
        return false;
    };
    let word = marker_word(entry);
    if config.env_bloom[generation as usize & 1] >> env_bit(word) & 1 == 0 {
        return false;
    }
    let key = EnvKey {
        word,
        generation: generation as u64,
    };
    MARKERS.get_ptr(key).is_some()
}

/// What [`scan_block`] needs. On the stack, since that is what `bpf_loop` passes on.
#[repr(C)]
struct Scan {
    scratch: *mut Scratch,
    len: u32,
    generation: u32,
}

/// Copies `len` bytes of user memory to the beginning of `tail`, with zeros behind them: what lies there is
/// from an earlier program, and the last entry ends here. A function of its own for the reason given at
/// `exec::read_user`. Returns 0 when they could be read.
#[inline(never)]
fn read_environment(scratch: &mut Scratch, len: u64, from: u64) -> i64 {
    let len = kernel::opaque(len);
    if len > MAX_ENV as u64 {
        return -1;
    }
    // SAFETY: `tail` is longer than MAX_ENV by SLACK, and aligned to 8; the helper checks the source.
    unsafe {
        let end = scratch.tail.as_mut_ptr().add(len as usize);
        for i in 0..16 {
            end.add(i).write_volatile(0);
        }
        bpf_probe_read_user(
            scratch.tail.as_mut_ptr().cast(),
            len as u32,
            from as *const _,
        )
    }
}
