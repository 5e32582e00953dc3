//! Where kernel fields lie, from the running kernel's BTF.
//! Format: <https://docs.kernel.org/bpf/btf.html>
//!
//! aya parses BTF too but does not give members out, and the other crate that does is LGPL. Only
//! struct members are needed, so this reads the type section in place and keeps nothing of it.

use std::{fs, path::Path};

use guard_common::offsets::{FIELDS, Field, MISSING, Need};

use super::KernelError;

/// The kernel's own BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// Every field of [`FIELDS`], in the same order: its offset in bytes, or [`MISSING`].
#[derive(Clone, Debug)]
pub struct Offsets {
    values: Vec<u32>,
}

impl Offsets {
    /// Reads them from `path`.
    ///
    /// # Errors
    /// When there is no BTF, or it is not BTF, or a field without which there is no lineage is absent.
    pub fn from_file(path: &Path) -> Result<Self, KernelError> {
        let data = fs::read(path).map_err(|source| KernelError::NoBtf {
            path: path.into(),
            reason: source.to_string(),
        })?;
        let offsets = Self::from_bytes(&data).ok_or_else(|| KernelError::NoBtf {
            path: path.into(),
            reason: "it is not valid BTF".into(),
        })?;
        let absent = offsets.missing(Need::Lineage);
        if absent.is_empty() {
            Ok(offsets)
        } else {
            Err(KernelError::NoBtf {
                path: path.into(),
                reason: format!("it does not describe {}", absent.join(", ")),
            })
        }
    }

    /// The same from bytes; `None` when they are not BTF.
    pub fn from_bytes(data: &[u8]) -> Option<Self> {
        let btf = Btf::parse(data)?;
        Some(Self {
            values: FIELDS
                .iter()
                .map(|field| btf.resolve(field).unwrap_or(MISSING))
                .collect(),
        })
    }

    /// Global names with their values.
    pub fn globals(&self) -> impl Iterator<Item = (&'static str, &u32)> {
        FIELDS.iter().map(|field| field.global).zip(&self.values)
    }

    /// `struct.member` of every absent field that `need` needs.
    pub fn missing(&self, need: Need) -> Vec<String> {
        FIELDS
            .iter()
            .zip(&self.values)
            .filter(|(field, value)| field.needed_for == need && **value == MISSING)
            .map(|(field, _)| format!("{}.{}", field.strukt, field.members[0]))
            .collect()
    }
}

struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Position of each type in `types`; type ids start at 1.
    at: Vec<u32>,
}

fn word(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

impl<'a> Btf<'a> {
    fn parse(data: &'a [u8]) -> Option<Self> {
        if u16::from_le_bytes(data.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let header = word(data, 4)? as usize;
        let section = |at: usize| -> Option<&'a [u8]> {
            let from = header.checked_add(word(data, at)? as usize)?;
            data.get(from..from.checked_add(word(data, at + 4)? as usize)?)
        };
        let types = section(8)?;
        let strings = section(16)?;
        let mut at = vec![0];
        let mut position = 0;
        while position < types.len() {
            at.push(position as u32);
            let info = word(types, position + 4)?;
            let count = (info & 0xffff) as usize;
            position += 12
                + match info >> 24 & 0x1f {
                    1 | 14 | 17 => 4,
                    3 => 12,
                    KIND_STRUCT | KIND_UNION | 15 | 19 => count * 12,
                    6 | 13 => count * 8,
                    2 | 7..=12 | 16 | 18 => 0,
                    _ => return None,
                };
        }
        Some(Self { types, strings, at })
    }

    fn name(&self, offset: u32) -> Option<&'a [u8]> {
        let rest = self.strings.get(offset as usize..)?;
        Some(&rest[..rest.iter().position(|&byte| byte == 0)?])
    }

    fn resolve(&self, field: &Field) -> Option<u32> {
        let ids: Vec<u32> = (1..self.at.len() as u32)
            .filter(|&id| {
                self.header(id).is_some_and(|(name, info, _)| {
                    info >> 24 & 0x1f == KIND_STRUCT
                        && info & 0xffff != 0
                        && self.name(name) == Some(field.strukt.as_bytes())
                })
            })
            .collect();
        field
            .members
            .iter()
            .find_map(|path| ids.iter().find_map(|&id| self.member_path(id, path)))
    }

    fn header(&self, id: u32) -> Option<(u32, u32, u32)> {
        let at = *self.at.get(id as usize)? as usize;
        Some((
            word(self.types, at)?,
            word(self.types, at + 4)?,
            word(self.types, at + 8)?,
        ))
    }

    fn member_path(&self, id: u32, path: &str) -> Option<u32> {
        let mut id = id;
        let mut offset = 0;
        for name in path.split('.') {
            let (bits, next) = self.member(self.through(id)?, name.as_bytes(), 0)?;
            if bits % 8 != 0 {
                return None;
            }
            offset += bits / 8;
            id = next;
        }
        Some(offset)
    }

    /// Through typedefs and qualifiers to the type itself.
    fn through(&self, mut id: u32) -> Option<u32> {
        for _ in 0..16 {
            let (_, info, target) = self.header(id)?;
            match info >> 24 & 0x1f {
                8..=11 | 18 => id = target,
                _ => return Some(id),
            }
        }
        None
    }

    /// Offset in bits and type of a member, also of one inside unnamed members.
    fn member(&self, id: u32, wanted: &[u8], depth: u32) -> Option<(u32, u32)> {
        let (_, info, _) = self.header(id)?;
        if !matches!(info >> 24 & 0x1f, KIND_STRUCT | KIND_UNION) || depth > 8 {
            return None;
        }
        let bitfields = info >> 31 != 0;
        let first = self.at[id as usize] as usize + 12;
        (0..(info & 0xffff) as usize).find_map(|i| {
            let name = self.name(word(self.types, first + i * 12)?)?;
            let target = word(self.types, first + i * 12 + 4)?;
            let raw = word(self.types, first + i * 12 + 8)?;
            let bits = if bitfields { raw & 0x00ff_ffff } else { raw };
            if name == wanted {
                Some((bits, target))
            } else if name.is_empty() {
                let (inner, target) = self.member(self.through(target)?, wanted, depth + 1)?;
                Some((bits + inner, target))
            } else {
                None
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_running_kernel_has_every_field_or_says_which_not() {
        let Ok(data) = fs::read(VMLINUX) else { return };
        let offsets = Offsets::from_bytes(&data).expect("the kernel's BTF parses");
        assert_eq!(offsets.missing(Need::Lineage), Vec::<String>::new());
        assert_eq!(offsets.missing(Need::Open), Vec::<String>::new());
        assert_eq!(offsets.missing(Need::Paths), Vec::<String>::new());
    }

    #[test]
    fn something_else_is_not_btf() {
        assert!(Offsets::from_bytes(b"\x7fELF and more").is_none());
        assert!(Offsets::from_bytes(b"").is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_behind_a_good_magic_do_not_panic(data in prop::collection::vec(any::<u8>(), 0..512)) {
            let mut bytes = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
            bytes.extend(data);
            let _ = Offsets::from_bytes(&bytes);
        }
    }
}
