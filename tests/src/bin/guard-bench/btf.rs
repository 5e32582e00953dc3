//! The one thing the bench asks of BTF: the type id of a tracepoint.
//! <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/btf.h>

use anyhow::{Context as _, Result, bail};

const MAGIC: u16 = 0xeb9f;
const KIND_TYPEDEF: u32 = 8;

/// The id of the typedef `name` in the kernel's BTF.
pub(crate) fn typedef(btf: &[u8], name: &str) -> Result<u32> {
    let header = |at: usize| word(btf, at).map(|word| word as usize);
    if word(btf, 0)? as u16 != MAGIC {
        bail!("no BTF of this machine's byte order");
    }
    let length = header(4)?;
    let (type_off, type_len, str_off) = (header(8)?, header(12)?, header(16)?);
    let types = length + type_off;
    let strings = btf.get(length + str_off..).context("cut off")?;
    let mut at = types;
    let mut id = 1;
    while at < types + type_len {
        let info = word(btf, at + 4)?;
        let kind = info >> 24 & 0x1f;
        if kind == KIND_TYPEDEF {
            let start = strings.get(word(btf, at)? as usize..).context("cut off")?;
            if start.starts_with(name.as_bytes()) && start.get(name.len()) == Some(&0) {
                return Ok(id);
            }
        }
        at += 12 + behind(kind, (info & 0xffff) as usize)?;
        id += 1;
    }
    bail!("this kernel has no {name}")
}

/// Bytes behind a type's three words.
fn behind(kind: u32, members: usize) -> Result<usize> {
    Ok(match kind {
        // pointer, forward, typedef, volatile, const, restrict, function, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        // integer, variable, declaration tag
        1 | 14 | 17 => 4,
        // array
        3 => 12,
        // structure, union, and enum of 64 bits
        4 | 5 | 19 => 12 * members,
        // enum, function prototype
        6 | 13 => 8 * members,
        // section
        15 => 12 * members,
        other => bail!("BTF kind {other} is not known"),
    })
}

fn word(btf: &[u8], at: usize) -> Result<u32> {
    let bytes = btf.get(at..at + 4).context("BTF is cut off")?;
    Ok(u32::from_ne_bytes(bytes.try_into()?))
}
