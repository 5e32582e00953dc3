//! Programs at the security modules' hooks, at their entry functions and at the scheduler's tracepoints. aya 0.14
//! loads no modify-return programs, a program of ours serves as that and as a security module's hook alike, and
//! some are loaded more than once; so all of these are loaded here: parsed and relocated by aya-obj, against the
//! tables that aya has made.

use std::{
    collections::HashSet,
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
};

use aya::{
    Btf, Ebpf, EbpfError,
    maps::{Map, MapData},
};
use aya_obj::btf::BtfKind;

use super::{
    KernelError,
    sys::{self, Kind, Load, Refused},
};

/// The parsed object, ready to be loaded from.
pub(super) struct Loader {
    object: aya_obj::Object,
    types: Option<OwnedFd>,
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data) => Some(data),
        _ => None,
    }
}

impl Loader {
    /// Parses `bytes` and points its programs to the tables of `ebpf`, which was loaded from the same.
    ///
    /// # Errors
    /// When it is not what aya has loaded.
    pub(super) fn new(bytes: &[u8], ebpf: &Ebpf) -> Result<Self, KernelError> {
        let mut object = aya_obj::Object::parse(bytes).map_err(EbpfError::ParseError)?;
        let features = aya::features();
        let types = match features.btf() {
            Some(known) => object
                .fixup_and_sanitize_btf(known)
                .map_err(EbpfError::BtfError)?
                .and_then(|btf| sys::btf_load(&btf.to_bytes()).ok()),
            None => None,
        };
        let text: HashSet<usize> = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        let maps = std::mem::take(&mut object.maps);
        let mut known: Vec<(&str, RawFd, &aya_obj::Map)> = Vec::new();
        for (name, map) in &maps {
            let made = ebpf.map(name).and_then(data);
            let made = made.ok_or(KernelError::Absent("table that its programs use"))?;
            known.push((name, made.fd().as_fd().as_raw_fd(), map));
        }
        object
            .relocate_maps(known.into_iter(), &text)
            .map_err(EbpfError::RelocationError)?;
        object
            .relocate_calls(&text)
            .map_err(EbpfError::RelocationError)?;
        object.sanitize_functions(features);
        Ok(Self { object, types })
    }

    /// Loads one program for `target`, a function of the kernel's type information. `copy` says which one it is
    /// of several, from 1, or with 0 that it is the only one.
    ///
    /// # Errors
    /// What the kernel says of it.
    pub(super) fn load(
        &self,
        program: &str,
        kind: Kind,
        target: &str,
        copy: usize,
        btf: &Btf,
    ) -> Result<OwnedFd, Refused> {
        let absent = |what: String| Refused {
            error: io::Error::new(io::ErrorKind::NotFound, what),
            log: String::new(),
        };
        let target = function(kind, target, btf).map_err(absent)?;
        let parsed = self.object.programs.get(program);
        let function = parsed.and_then(|it| self.object.functions.get(&it.function_key()));
        let function =
            function.ok_or_else(|| absent("guardd and its kernel object do not match".into()))?;
        // SAFETY: an instruction is eight bytes without padding.
        let instructions = unsafe {
            std::slice::from_raw_parts(
                function.instructions.as_ptr().cast::<u8>(),
                size_of_val(function.instructions.as_slice()),
            )
        };
        let instructions = numbered(instructions, copy);
        let functions = function.func_info.func_info_bytes();
        sys::prog_load(&Load {
            name: program,
            kind,
            instructions: &instructions,
            types: self
                .types
                .as_ref()
                .map(|fd| (fd.as_fd(), &*functions, function.func_info_rec_size)),
            target,
        })
    }
}

/// The number of a hook or function in the kernel's type information.
fn function(kind: Kind, name: &str, btf: &Btf) -> Result<u32, String> {
    let name = match kind {
        Kind::Lsm => format!("bpf_lsm_{name}"),
        Kind::ModifyReturn | Kind::Fentry => name.to_owned(),
        Kind::TpBtf => {
            let name = format!("btf_trace_{name}");
            return btf
                .id_by_type_name_kind(&name, BtfKind::Typedef)
                .map_err(|_| format!("this kernel's BTF has no {name}"));
        }
    };
    btf.id_by_type_name_kind(&name, BtfKind::Func)
        .map_err(|_| format!("this kernel's BTF has no function {name}"))
}

/// The instructions with `copy` in the place that was left for it.
fn numbered(instructions: &[u8], copy: usize) -> Vec<u8> {
    /// `BPF_ALU64 | BPF_MOV | BPF_K`.
    const MOVE: u8 = 0xb7;
    let mut instructions = instructions.to_vec();
    for instruction in instructions.chunks_exact_mut(8) {
        if instruction[0] == MOVE && instruction[4..] == guard_common::COPY.to_le_bytes() {
            instruction[4..].copy_from_slice(&(copy as i32).to_le_bytes());
        }
    }
    instructions
}

/// In which order the kernel runs the programs that are attached to one function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The one that was attached last runs first.
    NewestFirst,
    /// As they were attached.
    OldestFirst,
}

/// Whether programs of a kind do what they are for, and in which order. Not believed before it was seen: the
/// kernel takes a security module's program and never runs it where `bpf` is not among the active modules.
///
/// # Errors
/// Why not.
pub(super) fn prove(kind: Kind, btf: &Btf) -> Result<Order, String> {
    const SOMETHING: &str = "/dev/null";
    let attach = |error: i32| {
        let loaded = refusing(kind, error, btf)?;
        sys::attach(&loaded).map_err(|error| format!("attaching: {error}"))
    };
    let older = attach(libc::EPERM)?;
    // Not of this kind's nature, but of its neighbour's.
    if matches!(kind, Kind::Fentry | Kind::TpBtf) {
        return Ok(Order::NewestFirst);
    }
    let newer = attach(libc::EACCES)?;
    let opened = fs::File::open(SOMETHING);
    drop((older, newer));
    match opened.map_err(|error| error.raw_os_error()) {
        Err(Some(libc::EACCES)) => Ok(Order::NewestFirst),
        Err(Some(libc::EPERM)) => Ok(Order::OldestFirst),
        _ if kind == Kind::Lsm => {
            Err("bpf is not among this kernel's active security modules (lsm=…,bpf)".into())
        }
        _ => Err("the kernel takes such a program and does not run it".into()),
    }
}

/// Whether a program of a kind can be attached again once it was taken off. Before Linux 5.13 it cannot.
/// <https://github.com/torvalds/linux/commit/f3a95075549e0e5c36db922caf86847db7a35403>
pub(super) fn attaches_again(kind: Kind, btf: &Btf) -> bool {
    let Ok(program) = refusing(kind, libc::EPERM, btf) else {
        return false;
    };
    sys::attach(&program).is_ok_and(|link| {
        drop(link);
        sys::attach(&program).is_ok()
    })
}

/// A program that refuses this thread's opens, and nobody else's.
fn refusing(kind: Kind, error: i32, btf: &Btf) -> Result<OwnedFd, String> {
    // SAFETY: neither call has a precondition.
    let me = unsafe {
        u64::from(libc::getpid() as u32) << 32 | u64::from(libc::syscall(libc::SYS_gettid) as u32)
    };
    let hook = match kind {
        Kind::Lsm => "file_open",
        _ => "security_file_open",
    };
    let mut program = Vec::new();
    let mut op = |code: u8, registers: u8, offset: i16, value: i32| {
        program.extend([code, registers]);
        program.extend(offset.to_le_bytes());
        program.extend(value.to_le_bytes());
    };
    /// `bpf_get_current_pid_tgid`.
    const CURRENT: i32 = 14;
    op(0x85, 0, 0, CURRENT);
    op(0x18, 1, 0, me as u32 as i32); // r1 = me, in two halves
    op(0, 0, 0, (me >> 32) as i32);
    op(0x1d, 0x10, 2, 0); // if r0 == r1 goto +2
    op(0xb7, 0, 0, 0); // r0 = 0
    op(0x95, 0, 0, 0); // exit
    op(0xb7, 0, 0, if kind == Kind::Fentry { 0 } else { -error });
    op(0x95, 0, 0, 0);
    let load = Load {
        name: "guard_prove",
        kind,
        instructions: &program,
        types: None,
        target: function(kind, hook, btf)?,
    };
    sys::prog_load(&load)
        .map_err(|refused| format!("this kernel does not take such programs: {refused}"))
}
