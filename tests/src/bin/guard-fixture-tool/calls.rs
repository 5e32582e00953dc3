//! Every system call that opens a file, called as itself.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, FromRawFd as _},
    path::Path,
};

use serde_json::{Value, json};

/// Gives the descriptor, or `errno`.
fn descriptor(result: libc::c_long) -> io::Result<File> {
    let fd = i32::try_from(result).map_err(|_| io::Error::other("no descriptor"))?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Opens `path` by the system call `how` and reads it, where it can be read.
pub(crate) fn open(how: &str, path: &str) -> io::Result<Value> {
    let mut file = open_file(how, path)?;
    if matches!(how, "creat" | "path") {
        return Ok(json!({}));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(json!({ "text": text }))
}

fn open_file(how: &str, path: &str) -> io::Result<File> {
    let name = CString::new(path)?;
    let name = name.as_ptr();
    let at = libc::AT_FDCWD;
    // SAFETY (all arms): `name` is a string that outlives the call, the other arguments are numbers
    // or point to values that outlive it.
    match how {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: see above.
        "open" => descriptor(unsafe { libc::syscall(libc::SYS_open, name, libc::O_RDONLY) }),
        "openat" => {
            // SAFETY: see above.
            descriptor(unsafe { libc::syscall(libc::SYS_openat, at, name, libc::O_RDONLY) })
        }
        "path" => {
            let flags = libc::O_PATH;
            // SAFETY: see above.
            descriptor(unsafe { libc::syscall(libc::SYS_openat, at, name, flags) })
        }
        "openat2" => {
            // struct open_how: flags, mode, resolve.
            let how = [0u64; 3];
            let size = size_of_val(&how);
            // SAFETY: see above.
            descriptor(unsafe { libc::syscall(libc::SYS_openat2, at, name, how.as_ptr(), size) })
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: see above.
        "creat" => descriptor(unsafe { libc::syscall(libc::SYS_creat, name, 0o600) }),
        "handle" => open_by_handle(path, name),
        _ => Err(io::Error::other(format!("no such call: {how}"))),
    }
}

/// struct file_handle with room for the largest handle (MAX_HANDLE_SZ).
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}

fn open_by_handle(path: &str, name: *const libc::c_char) -> io::Result<File> {
    let mut handle = Handle {
        bytes: 128,
        kind: 0,
        handle: [0; 128],
    };
    let mut mount: i32 = 0;
    // SAFETY: `name` is a string, `handle` and `mount` are valid for writing; all outlive the call.
    let result = unsafe {
        let (handle, mount) = (&raw mut handle, &raw mut mount);
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            name,
            handle,
            mount,
            0,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let directory = File::open(Path::new(path).parent().unwrap_or(Path::new("/")))?;
    // SAFETY: `handle` was filled in by the kernel and outlives the call.
    descriptor(unsafe {
        let flags = libc::O_RDONLY;
        libc::syscall(
            libc::SYS_open_by_handle_at,
            directory.as_raw_fd(),
            &raw mut handle,
            flags,
        )
    })
}

/// Opens `path` so that it cannot be read, and then that descriptor, for reading.
pub(crate) fn reopen(path: &str) -> io::Result<Value> {
    let unreadable = open_file("path", path)?;
    open(
        "openat",
        &format!("/proc/self/fd/{}", unreadable.as_raw_fd()),
    )
}

/// For a child after a fork: opens `path` and says whether it could. Allocates nothing.
pub(crate) fn open_only(path: &CString) -> bool {
    // SAFETY: `path` is a string that outlives the call.
    unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) >= 0 }
}
