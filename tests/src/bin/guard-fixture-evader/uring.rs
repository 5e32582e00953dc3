//! What is asked of a ring: no system call that would show it is made.

use std::{io, path::Path, ptr};

use super::{Failed, Gives, c, check, read_all};

/// One request, by the fields of `struct io_uring_sqe` that are used here.
/// <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/io_uring.h#L30>
pub(super) struct Request {
    pub(super) op: u8,
    pub(super) fd: i32,
    pub(super) off: u64,
    pub(super) addr: u64,
    pub(super) len: u32,
}

/// Opens by a ring.
pub(super) fn uring_open(secret: &Path) -> Gives {
    const OP_OPENAT: u8 = 18;
    let path = c(secret);
    read_all(
        submit(&Request {
            op: OP_OPENAT,
            fd: libc::AT_FDCWD,
            off: 0,
            addr: path.as_ptr() as u64,
            len: 0,
        })?
        .into(),
    )
}

/// Opens by a ring as openat2 does.
pub(super) fn uring_openat2(secret: &Path) -> Gives {
    const OP_OPENAT2: u8 = 28;
    let path = c(secret);
    // `struct open_how`: flags, mode, resolve.
    let how = [0u64; 3];
    read_all(
        submit(&Request {
            op: OP_OPENAT2,
            fd: libc::AT_FDCWD,
            off: how.as_ptr() as u64,
            addr: path.as_ptr() as u64,
            len: size_of_val(&how) as u32,
        })?
        .into(),
    )
}

/// Makes a ring, has it do one thing, and gives its result.
pub(super) fn submit(request: &Request) -> Result<i32, Failed> {
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
    // Offsets in `sq`: head, tail, mask, entries, flags, dropped, array. In `cq`: head, tail, mask,
    // entries, overflow, cqes.
    // SAFETY: the kernel gives these offsets inside the mappings; one entry is written and one read. What the
    // request points to outlives the call, which waits for the result.
    let result = unsafe {
        let entry = entries;
        ptr::write_bytes(entry, 0, 64);
        *entry = request.op;
        *entry.add(4).cast::<i32>() = request.fd;
        *entry.add(8).cast::<u64>() = request.off;
        *entry.add(16).cast::<u64>() = request.addr;
        *entry.add(24).cast::<u32>() = request.len;
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
    Ok(result)
}
