//! Go's own table of functions, which is there in stripped programs too: the runtime needs it.
//! <https://github.com/golang/go/blob/go1.23.0/src/debug/gosym/pclntab.go>

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
