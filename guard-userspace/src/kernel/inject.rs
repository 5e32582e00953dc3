//! Running the two kernel programs that are attached to nothing (`BPF_PROG_TEST_RUN`), so that what
//! userspace finds is judged and counted by the same code as what the kernel finds. aya 0.14 has no
//! call for it.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::RawTracePoint,
};
use guard_common::{NS_PER_TICK, Verdict};

use super::KernelError;

/// What the kernel's rules say of an injected fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What to do.
    pub verdict: Verdict,
    /// What would be done outside observe mode.
    pub would: Verdict,
    /// The rule, unless none fired.
    pub rule: Option<u16>,
    /// The session whose rule it was.
    pub judged_in: u32,
}

pub(super) struct Injector {
    judged_in: Array<MapData, u32>,
    inject: OwnedFd,
    tag: OwnedFd,
    posture: OwnedFd,
}

/// `BPF_PROG_TEST_RUN` of <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/bpf.h#L914>
const BPF_PROG_TEST_RUN: libc::c_long = 10;

/// The `test` member of `union bpf_attr`, same source.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

impl Injector {
    pub(super) fn load(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        let judged_in = ebpf
            .take_map("JUDGED_IN")
            .ok_or(KernelError::Absent("JUDGED_IN"))?
            .try_into()
            .map_err(|source| KernelError::Table {
                table: "JUDGED_IN",
                source,
            })?;
        Ok(Self {
            judged_in,
            inject: load(ebpf, "guard_inject")?,
            tag: load(ebpf, "guard_tag")?,
            posture: load(ebpf, "guard_posture")?,
        })
    }

    pub(super) fn inject(
        &self,
        session: u32,
        labels: u64,
        tgid: u32,
        can_deny: bool,
        kind: u8,
    ) -> Result<Judged, KernelError> {
        let result = run(
            &self.inject,
            &[
                session.into(),
                labels,
                tgid.into(),
                can_deny.into(),
                kind.into(),
            ],
        )?;
        let rule = (result >> 16) as u16;
        Ok(Judged {
            verdict: Verdict::from_u8(result as u8),
            would: Verdict::from_u8((result >> 8) as u8),
            rule: (rule != guard_common::event::NO_RULE).then_some(rule),
            judged_in: self.judged_in.get(&0, 0).unwrap_or(0),
        })
    }

    pub(super) fn tag(
        &self,
        tgid: u32,
        session: u32,
        start_ticks: u64,
        parent: u32,
        excepted: u64,
    ) -> Result<bool, KernelError> {
        match run(
            &self.tag,
            &[
                tgid.into(),
                session.into(),
                start_ticks * NS_PER_TICK,
                parent.into(),
                excepted,
            ],
        )? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(KernelError::System {
                what: "the lineage table is full (raise --lineage-size)",
                source: io::Error::from_raw_os_error(libc::E2BIG),
            }),
        }
    }
}

impl Injector {
    pub(super) fn set_posture(&self, session: u32, posture: u32) -> Result<bool, KernelError> {
        Ok(run(&self.posture, &[session.into(), posture.into(), 0, 0, 0])? != 0)
    }

    pub(super) fn set_parent(&self, session: u32, parent: u32) -> Result<bool, KernelError> {
        Ok(run(&self.posture, &[session.into(), parent.into(), 1, 0, 0])? != 0)
    }
}

fn load(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, KernelError> {
    let failed = |source| KernelError::Program {
        program: name,
        source,
    };
    let program: &mut RawTracePoint = ebpf
        .program_mut(name)
        .ok_or(KernelError::Absent(name))?
        .try_into()
        .map_err(failed)?;
    program.load().map_err(failed)?;
    let fd = program.fd().map_err(failed)?;
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(|source| KernelError::System {
            what: "duplicating a program",
            source,
        })
}

fn run(program: &OwnedFd, args: &[u64; 5]) -> Result<u32, KernelError> {
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        ctx_size_in: size_of_val(args) as u32,
        ctx_in: args.as_ptr() as u64,
        ..TestRun::default()
    };
    // SAFETY: `attr` is laid out as the kernel expects and outlives the call, and so does `args`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            &raw mut attr,
            size_of::<TestRun>(),
        )
    };
    if result < 0 {
        return Err(KernelError::System {
            what: "running a kernel program",
            source: io::Error::last_os_error(),
        });
    }
    Ok(attr.retval)
}
