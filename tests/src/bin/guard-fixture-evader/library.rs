//! A TLS library that lies on this machine as a file: loaded by its name, as a copy of another name, or from memory.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_long, c_void},
    fs,
    io::{self, Write as _},
    mem,
    net::TcpStream,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use super::{Failed, processes::memory_file};

/// OpenSSL 3 and 1.1.
const NAMES: [&CStr; 2] = [c"libssl.so.3", c"libssl.so.1.1"];
/// `SSL_set_tlsext_host_name`: <https://github.com/openssl/openssl/blob/openssl-3.0.0/include/openssl/tls1.h#L247>
const SSL_CTRL_SET_TLSEXT_HOSTNAME: c_int = 55;

type Pointer = *mut c_void;

/// Its functions.
pub(super) struct Library {
    method: extern "C" fn() -> Pointer,
    new_context: extern "C" fn(Pointer) -> Pointer,
    new: extern "C" fn(Pointer) -> Pointer,
    control: extern "C" fn(Pointer, c_int, c_long, *const c_char) -> c_long,
    set_fd: extern "C" fn(Pointer, c_int) -> c_int,
    connect: extern "C" fn(Pointer) -> c_int,
    write: extern "C" fn(Pointer, *const u8, c_int) -> c_int,
    read: extern "C" fn(Pointer, *mut u8, c_int) -> c_int,
}

fn load(name: &CStr) -> Option<Pointer> {
    // SAFETY: a string; what the library does when it is loaded is its own affair.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    (!handle.is_null()).then_some(handle)
}

fn find(handle: Pointer, name: &CStr) -> Result<Pointer, Failed> {
    // SAFETY: an open library, and a string.
    let at = unsafe { libc::dlsym(handle, name.as_ptr()) };
    if at.is_null() {
        return Err(Failed::Cannot(format!("the library has no {name:?}")));
    }
    Ok(at)
}

impl Library {
    /// As every program gets it.
    pub(super) fn usual() -> Result<Self, Failed> {
        let handle = NAMES.into_iter().find_map(load);
        Self::of(handle.ok_or_else(|| Failed::Cannot("no libssl here".into()))?)
    }

    /// A copy of its file.
    pub(super) fn copy_at(path: &Path) -> Result<Self, Failed> {
        fs::copy(Self::file()?, path)?;
        Self::at(path)
    }

    /// A copy that lies in memory alone.
    pub(super) fn in_memory() -> Result<Self, Failed> {
        let mut file = memory_file()?;
        file.write_all(&fs::read(Self::file()?)?)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let library = Self::at(Path::new(&path));
        // It is mapped for as long as this process lives.
        mem::forget(file);
        library
    }

    fn at(path: &Path) -> Result<Self, Failed> {
        let name = CString::new(path.as_os_str().as_encoded_bytes()).unwrap_or_default();
        let handle = load(&name);
        Self::of(handle.ok_or_else(|| Failed::Cannot("the copy cannot be loaded".into()))?)
    }

    /// Where its file is. It is not loaded any more afterwards.
    fn file() -> Result<PathBuf, Failed> {
        let handle = NAMES.into_iter().find_map(load);
        let handle = handle.ok_or_else(|| Failed::Cannot("no libssl here".into()))?;
        let maps = fs::read_to_string("/proc/self/maps")?;
        // SAFETY: loaded just now; nothing of it is in use.
        unsafe { libc::dlclose(handle) };
        let line = maps.lines().find(|line| line.contains("/libssl.so"));
        line.and_then(|line| Some(line[line.find('/')?..].into()))
            .ok_or_else(|| Failed::Cannot("no libssl among what is mapped".into()))
    }

    fn of(handle: Pointer) -> Result<Self, Failed> {
        // SAFETY: the functions' types are those of the documentation:
        // https://docs.openssl.org/3.0/man7/ssl/
        unsafe {
            Ok(Self {
                method: mem::transmute::<Pointer, extern "C" fn() -> Pointer>(find(
                    handle,
                    c"TLS_client_method",
                )?),
                new_context: mem::transmute::<Pointer, extern "C" fn(Pointer) -> Pointer>(find(
                    handle,
                    c"SSL_CTX_new",
                )?),
                new: mem::transmute::<Pointer, extern "C" fn(Pointer) -> Pointer>(find(
                    handle, c"SSL_new",
                )?),
                control: mem::transmute::<
                    Pointer,
                    extern "C" fn(Pointer, c_int, c_long, *const c_char) -> c_long,
                >(find(handle, c"SSL_ctrl")?),
                set_fd: mem::transmute::<Pointer, extern "C" fn(Pointer, c_int) -> c_int>(find(
                    handle,
                    c"SSL_set_fd",
                )?),
                connect: mem::transmute::<Pointer, extern "C" fn(Pointer) -> c_int>(find(
                    handle,
                    c"SSL_connect",
                )?),
                write: mem::transmute::<Pointer, extern "C" fn(Pointer, *const u8, c_int) -> c_int>(
                    find(handle, c"SSL_write")?,
                ),
                read: mem::transmute::<Pointer, extern "C" fn(Pointer, *mut u8, c_int) -> c_int>(
                    find(handle, c"SSL_read")?,
                ),
            })
        }
    }

    /// A connection that says this name. Whose certificate it gets, it does not look at.
    pub(super) fn connect(self, stream: TcpStream, name: &str) -> io::Result<Connection> {
        let failed = |what: &str| io::Error::other(format!("{what} failed"));
        let context = (self.new_context)((self.method)());
        if context.is_null() {
            return Err(failed("SSL_CTX_new"));
        }
        let ssl = (self.new)(context);
        let name = CString::new(name)?;
        if ssl.is_null()
            || (self.set_fd)(ssl, stream.as_raw_fd()) != 1
            || (self.control)(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, 0, name.as_ptr()) != 1
        {
            return Err(failed("SSL_new"));
        }
        if (self.connect)(ssl) != 1 {
            return Err(failed("SSL_connect"));
        }
        Ok(Connection {
            tls: self,
            ssl,
            _stream: stream,
        })
    }
}

/// It is never freed: the process ends soon.
pub(super) struct Connection {
    tls: Library,
    ssl: Pointer,
    _stream: TcpStream,
}

impl Connection {
    /// Writes so many bytes a call, and gives what comes back first.
    pub(super) fn ask(&self, bytes: &[u8], at_once: usize) -> io::Result<Vec<u8>> {
        for piece in bytes.chunks(at_once) {
            let written = (self.tls.write)(self.ssl, piece.as_ptr(), piece.len() as c_int);
            if written != piece.len() as c_int {
                return Err(io::Error::other("SSL_write failed"));
            }
        }
        let mut answer = vec![0; 4096];
        let length = (self.tls.read)(self.ssl, answer.as_mut_ptr(), answer.len() as c_int);
        if length <= 0 {
            return Err(io::Error::other("SSL_read failed"));
        }
        answer.truncate(length as usize);
        Ok(answer)
    }
}
