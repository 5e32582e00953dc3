//! Tables of the kernel that guardd has in its memory, because the kernel writes single values of them at any time: written
//! as a whole they would lose what it wrote meanwhile.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
};

use aya::{Ebpf, maps::Map};
use guard_common::matching::{INODE_SLOTS, inode_slot};

use super::KernelError;

/// An array's values, each of which is atomic.
#[derive(Debug)]
struct Mapped<T> {
    start: NonNull<libc::c_void>,
    count: usize,
    values: PhantomData<T>,
}

// SAFETY: it is memory that belongs to this value alone on this side, and of which every part is atomic.
unsafe impl<T: Sync> Send for Mapped<T> {}

impl<T> Mapped<T> {
    /// # Safety
    /// `T` must be an atomic integer, and the array of that name have room for `count` of them.
    unsafe fn of(ebpf: &Ebpf, name: &'static str, count: usize) -> Result<Self, KernelError> {
        let Some(Map::Array(data)) = ebpf.map(name) else {
            return Err(KernelError::Absent(name));
        };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * size_of::<T>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                data.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self {
                start,
                count,
                values: PhantomData,
            }),
            _ => Err(KernelError::System {
                what: "mapping a table of the kernel",
                source: io::Error::last_os_error(),
            }),
        }
    }

    fn at(&self, index: usize) -> &T {
        assert!(index < self.count, "{index} of {}", self.count);
        // SAFETY: inside of what is mapped as long as this value lives, by `of`'s condition.
        unsafe { self.start.cast::<T>().add(index).as_ref() }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and nobody has a reference into it.
        unsafe { libc::munmap(self.start.as_ptr(), self.count * size_of::<T>()) };
    }
}

/// The filter before the table of known files.
#[derive(Debug)]
pub(super) struct Inodes(Mapped<AtomicU8>);

impl Inodes {
    pub(super) fn of(ebpf: &Ebpf) -> Result<Self, KernelError> {
        // SAFETY: bytes, for both halves of the policy.
        Ok(Self(unsafe {
            Mapped::of(ebpf, "INODES", 2 * INODE_SLOTS)
        }?))
    }

    /// Has the kernel look this inode number up, in one half of the policy.
    pub(super) fn set(&self, generation: u32, ino: u64) {
        let at = (generation as usize & 1) * INODE_SLOTS + inode_slot(ino);
        self.0.at(at).store(1, Ordering::Release);
    }
}

/// Until when opens without a label are told of any session, ns of `CLOCK_MONOTONIC`; 0 for not at all, so that the kernel need
/// not look at its clock.
#[derive(Debug)]
pub(super) struct Unscanned(Mapped<AtomicU64>);

impl Unscanned {
    pub(super) fn of(ebpf: &Ebpf) -> Result<Self, KernelError> {
        // SAFETY: one time.
        Ok(Self(unsafe { Mapped::of(ebpf, "UNSCANNED_UNTIL", 1) }?))
    }

    /// At least until then.
    pub(super) fn extend(&self, until_ns: u64) {
        self.0.at(0).fetch_max(until_ns, Ordering::AcqRel);
    }

    /// Not at all, if that time is over; a later one that the kernel writes at this moment stands.
    pub(super) fn end(&self, now_ns: u64) {
        let until = self.0.at(0).load(Ordering::Acquire);
        if until != 0 && until < now_ns {
            let _ = self
                .0
                .at(0)
                .compare_exchange(until, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}
