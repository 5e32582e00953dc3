//! Probes in the TLS libraries of single processes. Per process and not for all that use a library: a breakpoint costs a
//! microsecond or two each time, and others have nothing to do with it.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::mpsc::{SyncSender, TrySendError, sync_channel},
    thread,
};

use aya::{
    Ebpf,
    programs::{
        ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeLink, UProbeScope},
    },
};

use crate::tls::Library;

/// Processes whose probes wait to be taken off.
const ROOM: usize = 256;

/// The program for returns.
const RETURNS: &str = "guard_tls_wrote";

/// What is attached to processes.
pub(super) struct Attached {
    by_process: HashMap<u32, Vec<UProbeLink>>,
    /// Taking one off waits until no CPU runs it any more, and nobody waits for that.
    off: Option<SyncSender<Vec<UProbeLink>>>,
}

impl Attached {
    pub(super) fn new() -> Self {
        let (sender, links) = sync_channel::<Vec<UProbeLink>>(ROOM);
        let thread = thread::Builder::new()
            .name("taps".into())
            .spawn(move || links.into_iter().for_each(drop));
        Self {
            by_process: HashMap::new(),
            off: thread.is_ok().then_some(sender),
        }
    }

    /// Puts probes into every library of a process; says how many.
    ///
    /// # Errors
    /// Why none could be put into one; the others stay.
    pub(super) fn tap(
        &mut self,
        ebpf: &mut Ebpf,
        pid: u32,
        libraries: &[Library],
    ) -> Result<usize, String> {
        let Some(process) = NonZeroU32::new(pid) else {
            return Ok(0);
        };
        let mut links = Vec::new();
        let mut problem = None;
        for library in libraries {
            for tap in &library.found.taps {
                let programs = [Some(tap.entry), tap.returns.then_some(RETURNS)];
                for name in programs.into_iter().flatten() {
                    match attach(ebpf, name, &library.path, tap.offset, process) {
                        Ok(link) => links.push(link),
                        Err(error) => {
                            problem = Some(format!(
                                "{}: {}",
                                library.name,
                                super::hooks::brief(&error)
                            ));
                        }
                    }
                }
            }
        }
        let count = links.len();
        self.untap(pid);
        self.by_process.insert(pid, links);
        match problem {
            Some(problem) => Err(problem),
            None => Ok(count),
        }
    }

    /// Takes them off a process.
    pub(super) fn untap(&mut self, pid: u32) {
        let Some(links) = self.by_process.remove(&pid) else {
            return;
        };
        if let Some(off) = &self.off
            && let Err(TrySendError::Full(links) | TrySendError::Disconnected(links)) =
                off.try_send(links)
        {
            drop(links);
        }
    }

    /// Processes with probes.
    pub(super) fn count(&self) -> usize {
        self.by_process.values().filter(|links| !links.is_empty()).count()
    }
}

fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    path: &std::path::Path,
    offset: u64,
    process: NonZeroU32,
) -> Result<UProbeLink, ProgramError> {
    let program: &mut UProbe = ebpf
        .program_mut(name)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()?;
    let id = program.attach(
        UProbeAttachLocation::AbsoluteOffset(offset),
        path,
        UProbeScope::OneProcess(process),
    )?;
    program.take_link(id)
}
