//! The environment of a program, searched for what agents set for what they run. guardd compares whole
//! markers; here their first eight bytes are enough to ask it.

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use guard_common::{
    ENV_SEARCHED,
    matching::{EnvKey, env_bit, marker_word, zero_bytes},
    state::Config,
};

use crate::{
    judge,
    kernel::{self, Address, MM_ENV_END, MM_ENV_START},
    maps::{self, MARKERS, Scratch},
    path,
};

/// Bytes of the environment that are searched for markers in one go.
const MAX_ENV: usize = 8192;
/// How often, at most, one after another.
const ENV_CHUNKS: u32 = (ENV_SEARCHED / MAX_ENV) as u32;
/// Bytes that one step goes through.
const BLOCK: usize = 64;

/// Whether the environment carries an agent's marker (its first eight bytes; guardd compares the
/// rest).
#[inline(always)]
pub fn marked(scratch: &Scratch, mm: Address, config: &Config, generation: u8) -> bool {
    if config.half(generation as u32).env_bloom == 0 {
        return false;
    }
    let (Some(start), Some(end)) = (
        kernel::read::<u64>(mm, &MM_ENV_START),
        kernel::read::<u64>(mm, &MM_ENV_END),
    ) else {
        return false;
    };
    guard_search_environment(scratch.slot, start, end, generation as u32) == MARKED
}

/// There is a marker.
const MARKED: u32 = 2;
/// There is nothing more to be searched.
const OVER: u32 = 1;

/// Searches an environment from `start` to `end`. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_search_environment(
    slot: u32,
    start: u64,
    end: u64,
    generation: u32,
) -> u32 {
    for chunk in 0..ENV_CHUNKS {
        // Each begins with the last bytes of the one before: an entry may begin in one and end in the next.
        let from = start.wrapping_add(chunk as u64 * (MAX_ENV - 8) as u64);
        if from >= end {
            break;
        }
        // The first entry has no NUL before it.
        let first = (chunk == 0) as u32;
        let found = guard_search_chunk(slot, from, end, generation & 1 | first << 1);
        if found != 0 {
            return found;
        }
    }
    OVER
}

/// Searches up to MAX_ENV bytes of it; `how` is the half of the policy, and whether it begins with an entry in the
/// second bit. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_search_chunk(slot: u32, from: u64, end: u64, how: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return OVER;
    };
    let len = end.saturating_sub(from).min(MAX_ENV as u64);
    if read_environment(scratch, len, from) != 0 {
        return OVER;
    }
    if how & 2 != 0
        && let Some(entry) = word_at(scratch, 0)
        && is_marker(entry, how & 1)
    {
        return MARKED;
    }
    for block in 0..(MAX_ENV / BLOCK) as u32 {
        if block as u64 * BLOCK as u64 >= kernel::opaque(len) {
            break;
        }
        if guard_search_block(slot, block, how & 1) != 0 {
            return MARKED;
        }
    }
    0
}

/// Word `at / 8` of the environment in `scratch.tail`.
#[inline(always)]
fn word_at(scratch: &Scratch, at: usize) -> Option<u64> {
    const {
        assert!(core::mem::offset_of!(Scratch, tail).is_multiple_of(8));
        assert!(maps::SLACK >= BLOCK + 8);
    }
    if at > MAX_ENV {
        return None;
    }
    // SAFETY: `tail` is longer than MAX_ENV by SLACK, and aligned, as is `at`.
    Some(unsafe { scratch.tail.as_ptr().add(at).cast::<u64>().read() })
}

/// Goes through one block of the environment, a word at a time: most have no NUL in them, and only
/// behind one an entry begins. What lies behind the environment's end is zeros up to the block's. Exported for the
/// reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_search_block(slot: u32, block: u32, generation: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let base = path::forget(&block) as usize * BLOCK;
    if base > MAX_ENV - BLOCK {
        return 0;
    }
    for i in 0..BLOCK / 8 {
        let at = base + i * 8;
        let (Some(word), Some(next)) = (word_at(scratch, at), word_at(scratch, at + 8)) else {
            return 0;
        };
        if zero_bytes(word) != 0 && guard_env_entries(word, next, generation) != 0 {
            return 1;
        }
    }
    0
}

/// Whether one of the entries that begin behind a NUL in `word` may be a marker; `next` is the word behind it.
/// Exported for the reason given at [`kernel`].
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
    if config.half(generation as u32).env_bloom >> env_bit(word) & 1 == 0 {
        return false;
    }
    let key = EnvKey {
        word,
        generation: generation as u64,
    };
    MARKERS.get_ptr(key).is_some()
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
        for i in 0..BLOCK + 8 {
            end.add(i).write_volatile(0);
        }
        bpf_probe_read_user(
            scratch.tail.as_mut_ptr().cast(),
            len as u32,
            from as *const _,
        )
    }
}
