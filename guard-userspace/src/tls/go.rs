//! Go's own table of functions, which is there in stripped programs too: the runtime needs it.
//! <https://github.com/golang/go/blob/go1.23.0/src/debug/gosym/pclntab.go>

use object::Architecture;

/// Magic numbers of the table since Go 1.18 and since 1.20, which have one form. Before 1.17 arguments were passed on
/// the stack, so that older programs cannot be tapped anyway.
const MAGIC: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
/// Functions of one program that are gone through; large ones have 200,000.
const MAX_FUNCTIONS: usize = 4_000_000;

/// Addresses of the functions with these names, each with the place of its name in `wanted`. `text` is where the program's
/// code begins.
pub(super) fn functions(table: &[u8], text: u64, wanted: &[&str]) -> Vec<(usize, u64)> {
    read(table, text, wanted).unwrap_or_default()
}

fn read(table: &[u8], text: u64, wanted: &[&str]) -> Option<Vec<(usize, u64)>> {
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(table.get(at..at + 4)?.try_into().ok()?))
    };
    let long = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(table.get(at..at + 8)?.try_into().ok()?))
    };
    if !MAGIC.contains(&word(0)?) || *table.get(7)? != 8 {
        return None;
    }
    // Behind magic, padding, quantum and pointer size: number of functions, of files, start of the code, and the places
    // of names, compilation units, files, line tables, functions.
    let count = usize::try_from(long(8)?).ok()?.min(MAX_FUNCTIONS);
    let start = match long(24)? {
        // Since Go 1.26 it is left to the linker.
        0 => text,
        start => start,
    };
    let names = table.get(usize::try_from(long(32)?).ok()?..)?;
    let functions = usize::try_from(long(64)?).ok()?;
    // Where the name of each is: a function names it by that.
    let places: Vec<(usize, u32)> = wanted
        .iter()
        .enumerate()
        .filter_map(|(at, name)| Some((at, place_of(names, name)?)))
        .collect();
    let mut found = Vec::new();
    for function in 0..count {
        if found.len() == places.len() {
            break;
        }
        let entry = functions + function * 8;
        let (offset, at) = (word(entry)?, word(entry + 4)?);
        let name = word(functions.checked_add(at as usize)?.checked_add(4)?)?;
        if let Some((at, _)) = places.iter().find(|(_, place)| *place == name) {
            found.push((*at, start.checked_add(offset.into())?));
        }
    }
    Some(found)
}

/// Where a name with zeros around it begins.
fn place_of(names: &[u8], name: &str) -> Option<u32> {
    let mut from = 0;
    while let Some(at) = names.get(from..)?.iter().position(|byte| *byte == 0) {
        let begins = from + at + 1;
        let rest = names.get(begins..)?;
        if rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&0) {
            return u32::try_from(begins).ok();
        }
        from = begins;
    }
    None
}

/// The most bytes that [`behind_stack_check`] wants to see.
pub(super) const LONGEST_CHECK: u64 = 32;

/// How many bytes of a function look whether its stack has room for it. Where there is none, or where the runtime wants the
/// thread for something else, the function begins anew, from its first byte: a breakpoint there would see one call
/// twice. Behind the check the arguments are still in their registers, and the runtime neither moves the stack nor takes the
/// thread away. 0 for a function without a check, or with one that the compiler is not known to write.
/// <https://github.com/golang/go/blob/go1.23.0/src/cmd/internal/obj/x86/obj6.go> and `arm64/obj7.go`, `stacksplit`.
pub(super) fn behind_stack_check(code: &[u8], architecture: Architecture) -> u64 {
    let behind = match architecture {
        Architecture::X86_64 => check_x86_64(code),
        Architecture::Aarch64 => check_aarch64(code),
        _ => None,
    };
    behind.map_or(0, |rest| (code.len() - rest.len()) as u64)
}

/// What is behind the check. R14 has the goroutine, in which the stack's limit is the third word.
fn check_x86_64(code: &[u8]) -> Option<&[u8]> {
    /// `cmp rsp, [r14 + 16]` and `cmp r12, [r14 + 16]`.
    const CMP_SP: &[u8] = &[0x49, 0x3b, 0x66, 0x10];
    const CMP_R12: &[u8] = &[0x4d, 0x3b, 0x66, 0x10];
    /// `lea r12, [rsp + disp]` with a displacement of 8 and of 32 bits.
    const LEA_8: &[u8] = &[0x4c, 0x8d, 0x64, 0x24];
    const LEA_32: &[u8] = &[0x4c, 0x8d, 0xa4, 0x24];
    /// `mov r12, rsp; sub r12, imm32`, and a jump where that is below nothing: a frame as large as that.
    const HUGE: &[u8] = &[0x49, 0x89, 0xe4, 0x49, 0x81, 0xec];
    /// Condition codes of jumps: below, and below or equal.
    const BELOW: u8 = 2;
    const BELOW_OR_EQUAL: u8 = 6;
    let jump = |code: &'_ [u8], condition: u8| -> Option<usize> {
        match code {
            [short, _, ..] if *short == 0x70 | condition => Some(2),
            [0x0f, near, _, _, _, _, ..] if *near == 0x80 | condition => Some(6),
            _ => None,
        }
    };
    let compared = if let Some(rest) = code.strip_prefix(CMP_SP) {
        rest
    } else if let Some(rest) = code.strip_prefix(LEA_8) {
        rest.get(1..)?.strip_prefix(CMP_R12)?
    } else if let Some(rest) = code.strip_prefix(LEA_32) {
        rest.get(4..)?.strip_prefix(CMP_R12)?
    } else {
        let rest = code.strip_prefix(HUGE)?.get(4..)?;
        rest.get(jump(rest, BELOW)?..)?.strip_prefix(CMP_R12)?
    };
    compared.get(jump(compared, BELOW_OR_EQUAL)?..)
}

/// The same. R28 has the goroutine.
fn check_aarch64(code: &[u8]) -> Option<&[u8]> {
    /// `ldr x16, [x28, #16]`.
    const LIMIT: u32 = 0xf940_0b90;
    /// `cmp sp, x16` and `cmp x17, x16`.
    const CMP_SP: u32 = 0xeb30_63ff;
    const CMP_X17: u32 = 0xeb10_023f;
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(code.get(at..at + 4)?.try_into().ok()?))
    };
    if word(0)? != LIMIT {
        return None;
    }
    let jumps = if word(4)? == CMP_SP {
        8
    } else {
        // `sub x17, sp, #imm`, also of so many times 4,096.
        (word(4)? & 0xff80_03ff == 0xd100_03f1 && word(8)? == CMP_X17).then_some(12)?
    };
    // `b.ls`.
    (word(jumps)? & 0xff00_001f == 0x5400_0009).then(|| code.get(jumps + 4..))?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with two functions.
    fn table() -> Vec<u8> {
        let names = b"\0main.main\0crypto/tls.(*Conn).Write\0";
        let head = 72;
        let functions = head + names.len().next_multiple_of(8);
        let mut table = Vec::new();
        table.extend(MAGIC[1].to_le_bytes());
        table.extend([0, 0, 1, 8]);
        for word in [2, 0, 0x40_1000, head, 0, 0, 0, functions] {
            table.extend((word as u64).to_le_bytes());
        }
        table.extend(names);
        table.resize(functions, 0);
        for (offset, at) in [(0x10u32, 24u32), (0x200, 32)] {
            table.extend(offset.to_le_bytes());
            table.extend(at.to_le_bytes());
        }
        table.extend([0; 8]);
        for (offset, name) in [(0x10u32, 1u32), (0x200, 11)] {
            table.extend(offset.to_le_bytes());
            table.extend(name.to_le_bytes());
        }
        table
    }

    #[test]
    fn a_function_is_found_by_its_name() {
        let wanted = ["crypto/tls.(*Conn).Write", "not.there"];
        assert_eq!(functions(&table(), 0, &wanted), [(0, 0x40_1200)]);
    }

    /// Beginnings of functions as Go 1.19.8 writes them, and how many of their bytes are the check.
    const BEGINNINGS: &[(Architecture, &[u8], u64)] = &[
        // crypto/tls.(*Conn).Write, Close and clientHandshake.
        (
            Architecture::X86_64,
            b"\x4c\x8d\x64\x24\x98\x4d\x3b\x66\x10\x0f\x86\x64\x07\x00\x00\x48\x81\xec\xe8\x00\x00\x00",
            15,
        ),
        (
            Architecture::X86_64,
            b"\x49\x3b\x66\x10\x0f\x86\x15\x01\x00\x00\x48\x83\xec\x58",
            10,
        ),
        (
            Architecture::X86_64,
            b"\x4c\x8d\xa4\x24\xa8\xfe\xff\xff\x4d\x3b\x66\x10\x0f\x86\xed\x08\x00\x00\x48\x81\xec",
            18,
        ),
        // A main.main with a short jump, and a function with 9,000 bytes of its own.
        (
            Architecture::X86_64,
            b"\x49\x3b\x66\x10\x76\x4b\x48\x83\xec\x20",
            6,
        ),
        (
            Architecture::X86_64,
            b"\x49\x89\xe4\x49\x81\xec\xc0\x22\x00\x00\x0f\x82\xa8\x00\x00\x00\x4d\x3b\x66\x10\x0f\x86\x9e\x00\x00\x00\x48\x81",
            26,
        ),
        (
            Architecture::Aarch64,
            b"\x90\x0b\x40\xf9\xf1\xc3\x01\xd1\x3f\x02\x10\xeb\x69\x30\x00\x54\xfe\x0f\x11\xf8",
            16,
        ),
        (
            Architecture::Aarch64,
            b"\x90\x0b\x40\xf9\xff\x63\x30\xeb\xa9\x0a\x00\x54\xfe\x0f\x1a\xf8",
            12,
        ),
    ];

    #[test]
    fn the_check_of_the_stack_is_passed_over_and_nothing_else() {
        for (architecture, code, check) in BEGINNINGS {
            assert_eq!(behind_stack_check(code, *architecture), *check, "{code:x?}");
            assert!(*check <= LONGEST_CHECK);
            for len in 0..*check as usize {
                assert_eq!(behind_stack_check(&code[..len], *architecture), 0, "{len}");
            }
            // What is behind it does not begin with another.
            assert_eq!(
                behind_stack_check(&code[*check as usize..], *architecture),
                0
            );
        }
        // `push rbp; mov rbp, rsp`, as C begins.
        assert_eq!(
            behind_stack_check(b"\x55\x48\x89\xe5", Architecture::X86_64),
            0
        );
    }

    #[test]
    fn a_table_that_is_cut_off_or_nonsense_has_none() {
        let whole = table();
        for len in 0..whole.len() {
            functions(&whole[..len], 0, &["main.main"]);
        }
        let mut nonsense = whole;
        for at in 8..72 {
            let kept = nonsense[at];
            nonsense[at] = 0xff;
            functions(&nonsense, 0, &["main.main"]);
            nonsense[at] = kept;
        }
    }
}
