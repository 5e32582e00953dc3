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
    let symbols = exported(&file);
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
        if let Some(offset) = offset_of(file, address) {
            found.kinds.insert(Kind::Go);
            found.taps.push(Tap {
                entry: GO_FUNCTIONS[at].1,
                returns: false,
                offset,
            });
        }
    }
}
