//! Functions of an ELF file and their places in it.

use std::fs::File;

use object::{
    Object as _, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _,
    read::{ReadCache, ReadRef},
};

use super::{FUNCTIONS, GO_FUNCTIONS, Kind, Tap, Taps, go};

/// Symbols of one table that are gone through. Programs have some hundred thousand.
const MAX_SYMBOLS: usize = 4_000_000;
/// The largest table of Go functions that is read.
const MAX_TABLE: u64 = 256 << 20;

/// What is of interest in a file; `None` where it is no ELF file.
pub(super) fn taps(file: File) -> Option<Taps> {
    // Read and not mapped: a file that somebody cuts off while it is mapped ends the reader.
    let cache = ReadCache::new(file);
    let file = object::File::parse(&cache).ok()?;
    let mut found = Taps::default();
    let mut symbols = exported(&file);
    if symbols.is_empty() && file.is_64() && file.is_little_endian() {
        symbols = named(&file);
    }
    for function in FUNCTIONS {
        let at = |wanted: &str| symbols.iter().find(|(name, _)| *name == wanted);
        if function.unless.is_some_and(|other| at(other).is_some()) {
            continue;
        }
        if let Some((_, address)) = at(function.symbol)
            && let Some(offset) = offset_of(&file, *address)
        {
            found.kinds.insert(function.kind);
            found.taps.push(Tap {
                entry: function.entry,
                returns: function.returns,
                offset,
            });
        }
    }
    go_taps(&file, &mut found);
    // Without a function that writes there is nothing to see.
    if !found
        .taps
        .iter()
        .any(|tap| tap.entry.ends_with("_write") || tap.entry.ends_with("_ex"))
    {
        return Some(Taps::default());
    }
    Some(found)
}

/// The exported symbols of interest with their addresses.
fn exported<'data, R: ReadRef<'data>>(file: &object::File<'data, R>) -> Vec<(&'static str, u64)> {
    let mut found: Vec<(&'static str, u64)> = Vec::new();
    for symbol in file.dynamic_symbols().take(MAX_SYMBOLS) {
        if symbol.is_undefined() || symbol.address() == 0 {
            continue;
        }
        let Ok(name) = symbol.name() else { continue };
        let known = FUNCTIONS.iter().find(|function| function.symbol == name);
        if let Some(function) = known
            && !found.iter().any(|(other, _)| *other == name)
        {
            found.push((function.symbol, symbol.address()));
        }
    }
    found
}

/// The same of a file that has a library in it and exports nothing of it, where its own table of symbols has not been
/// stripped. That table may be large, so it is not gone through name by name.
fn named<'data, R: ReadRef<'data>>(file: &object::File<'data, R>) -> Vec<(&'static str, u64)> {
    let section = |name: &str| {
        let section = file.section_by_name(name)?;
        section.data().ok().filter(|_| section.size() <= MAX_TABLE)
    };
    let (Some(symbols), Some(names)) = (section(".symtab"), section(".strtab")) else {
        return Vec::new();
    };
    let places = places_of(names);
    let mut found: Vec<(&'static str, u64)> = Vec::new();
    // Elf64_Sym: name (4), information, other, section (2), address (8), size (8).
    for symbol in symbols.chunks_exact(24).take(MAX_SYMBOLS) {
        let (Ok(name), Ok(address)) = (symbol[..4].try_into(), symbol[8..16].try_into()) else {
            continue;
        };
        let (name, address) = (u32::from_le_bytes(name), u64::from_le_bytes(address));
        if let Some((_, symbol)) = places.iter().find(|(place, _)| *place == name)
            && address != 0
            && !found.iter().any(|(other, _)| other == symbol)
        {
            found.push((symbol, address));
        }
    }
    found
}

/// Where the functions' names begin in a table of names. One may be the end of another.
fn places_of(names: &[u8]) -> Vec<(u32, &'static str)> {
    let mut found = Vec::new();
    let mut from = 0;
    for name in names.split_inclusive(|byte| *byte == 0) {
        for function in FUNCTIONS {
            let symbol = function.symbol.as_bytes();
            if let Some(before) = name
                .strip_suffix(b"\0")
                .and_then(|name| name.strip_suffix(symbol))
                && let Ok(place) = u32::try_from(from + before.len())
            {
                found.push((place, function.symbol));
            }
        }
        from += name.len();
    }
    found
}

/// Where in the file an address is.
fn offset_of<'data, R: ReadRef<'data>>(file: &object::File<'data, R>, address: u64) -> Option<u64> {
    file.segments().find_map(|segment| {
        let (from, len) = segment.file_range();
        let into = address.checked_sub(segment.address())?;
        (into < len).then_some(from + into)
    })
}

fn go_taps<'data, R: ReadRef<'data>>(file: &object::File<'data, R>, found: &mut Taps) {
    let table = ["", ".data.rel.ro"].iter().find_map(|prefix| {
        file.section_by_name(&format!("{prefix}.gopclntab"))
            .filter(|section| section.size() <= MAX_TABLE)
    });
    let Some(table) = table else { return };
    let Ok(bytes) = table.data() else { return };
    let text = file
        .section_by_name(".text")
        .map_or(0, |section| section.address());
    let names: Vec<&str> = GO_FUNCTIONS.iter().map(|(name, _)| *name).collect();
    for (at, address) in go::functions(bytes, text, &names) {
        if let Some(offset) = offset_of(
            file,
            address.saturating_add(behind_stack_check(file, address)),
        ) {
            found.kinds.insert(Kind::Go);
            found.taps.push(Tap {
                entry: GO_FUNCTIONS[at].1,
                returns: false,
                offset,
            });
        }
    }
}

fn behind_stack_check<'data, R: ReadRef<'data>>(
    file: &object::File<'data, R>,
    address: u64,
) -> u64 {
    let code = file.segments().find_map(|segment| {
        let data = segment.data_range(address, go::LONGEST_CHECK);
        data.ok().flatten()
    });
    go::behind_stack_check(code.unwrap_or_default(), file.architecture())
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    /// As in a program that is linked with a library: it is there by its name and nobody else can call it.
    #[unsafe(no_mangle)]
    extern "C" fn SSL_write(_: usize, _: usize, len: i32) -> i32 {
        black_box(len)
    }

    #[test]
    fn a_function_that_is_not_exported_is_found_where_symbols_were_not_stripped() {
        assert_eq!(black_box(SSL_write)(0, 0, 7), 7);
        let own = std::env::current_exe().unwrap();
        let found = taps(File::open(&own).unwrap()).unwrap();
        assert_eq!(found.kinds.len(), 1);
        let tap = found.taps.first().unwrap();
        assert_eq!(tap.entry, "guard_openssl_write");
        // Where it is in the file, by its place in memory and the list of what is mapped.
        let at = SSL_write as *const () as u64;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mapped = maps.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            let (from, to) = words.next()?.split_once('-')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            let (from, to) = (number(from)?, number(to)?);
            let offset = number(words.nth(1)?)?;
            (from..to).contains(&at).then_some(at - from + offset)
        });
        assert_eq!(mapped, Some(tap.offset));
    }

    #[test]
    fn a_name_is_found_at_the_end_of_another() {
        let names = b"\0SSL_write\0mySSL_write\0SSL_writer\0SSL_free\0";
        assert_eq!(
            places_of(names),
            [(1, "SSL_write"), (13, "SSL_write"), (34, "SSL_free")]
        );
    }
}
