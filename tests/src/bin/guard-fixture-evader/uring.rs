//! An open that is no system call that opens.

use std::{io, path::Path, ptr};

use super::{Failed, Gives, c, check, read_all};

/// Opens by a ring: no system call that opens is made.
pub(super) fn uring_open(secret: &Path) -> Gives {
    #[repr(C)]
    #[derive(Default)]
    struct Params {
        sq_entries: u32,
        cq_entries: u32,
        flags: u32,
        sq_thread_cpu: u32,
        sq_thread_idle: u32,
        features: u32,
        wq_fd: u32,
        resv: [u32; 3],
        sq: [u32; 10],
        cq: [u32; 10],
    }
    const ENTER_GETEVENTS: u32 = 1;
    const OP_OPENAT: u8 = 18;
    const MAP: [libc::off_t; 3] = [0, 0x800_0000, 0x1000_0000];
    const SIZE: usize = 4096;
    let mut params = Params::default();
    // SAFETY: the structure is laid out as io_uring_setup(2) has it.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, &raw mut params) };
    if ring < 0 {
        let why = io::Error::last_os_error();
        // Refused by guard it would be EPERM; where the machine forbids it, likewise: the test tells them
        // apart by the event.
        return if why.raw_os_error() == Some(libc::ENOSYS) {
            Err(Failed::Cannot("no io_uring".into()))
        } else {
            Err(why.into())
        };
    }
    let map = |offset| {
        // SAFETY: new mappings of the ring.
        unsafe {
            libc::mmap(
                ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                ring as i32,
                offset,
            )
        }
        .cast::<u8>()
    };
    let [sq, cq, entries] = MAP.map(map);
    let path = c(secret);
    // Offsets in `sq`: head, tail, mask, entries, flags, dropped, array. In `cq`: head, tail, mask,
    // entries, overflow, cqes.
    // SAFETY: the kernel gives these offsets inside the mappings; one entry is written and one read.
    let result = unsafe {
        let entry = entries;
        ptr::write_bytes(entry, 0, 64);
        *entry = OP_OPENAT;
        *entry.add(4).cast::<i32>() = libc::AT_FDCWD;
        *entry.add(16).cast::<u64>() = path.as_ptr() as u64;
        *sq.add(params.sq[6] as usize).cast::<u32>() = 0;
        *sq.add(params.sq[1] as usize).cast::<u32>() = 1;
        check(libc::syscall(
            libc::SYS_io_uring_enter,
            ring,
            1,
            1,
            ENTER_GETEVENTS,
            ptr::null::<u8>(),
            0,
        ))?;
        *cq.add(params.cq[5] as usize + 8).cast::<i32>()
    };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result).into());
    }
    read_all(result.into())
}
