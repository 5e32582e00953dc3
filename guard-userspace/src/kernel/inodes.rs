//! The filter before the table of known files, in guardd's memory: the kernel sets single bytes of it at any time, so that
//! guardd must not write it as a whole while it is in force.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicU8, Ordering},
};

use aya::{Ebpf, maps::Map};
use guard_common::matching::{INODE_SLOTS, inode_slot};

use super::KernelError;

const NAME: &str = "INODES";
/// Both halves.
const BYTES: usize = 2 * INODE_SLOTS;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Inodes(NonNull<AtomicU8>);

// SAFETY: it is memory that belongs to this value alone on this side, of which every byte is atomic.
unsafe impl Send for Inodes {}

impl Inodes {
    pub(super) fn of(ebpf: &Ebpf) -> Result<Self, KernelError> {
        let Some(Map::Array(data)) = ebpf.map(NAME) else {
            return Err(KernelError::Absent(NAME));
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                data.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        match NonNull::new(start.cast::<AtomicU8>()) {
            Some(mapped) if start != libc::MAP_FAILED => Ok(Self(mapped)),
            _ => Err(KernelError::System {
                what: "mapping the filter of known files",
                source: io::Error::last_os_error(),
            }),
        }
    }

    /// Has the kernel look this inode number up, in one half of the policy.
    pub(super) fn set(&self, generation: u32, ino: u64) {
        let at = (generation as usize & 1) * INODE_SLOTS + inode_slot(ino);
        // SAFETY: `at` is below `BYTES`, which are mapped as long as this value lives.
        unsafe { self.0.add(at).as_ref() }.store(1, Ordering::Release);
    }
}

impl Drop for Inodes {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and nobody has a reference into it.
        unsafe { libc::munmap(self.0.as_ptr().cast(), BYTES) };
    }
}
