//! Speaks over TLS from many threads at once, by the machine's OpenSSL: some threads read from one host without a pause, others
//! try again and again to delete something at another. Both are at 127.0.0.1; the names are for SNI and requests. Says how many
//! deletions it has tried; ends with 77 where there is no OpenSSL.
//!
//! OpenSSL is loaded and not linked, so that the fixture builds without its headers.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_long, c_void},
    net::{Ipv4Addr, TcpStream},
    os::fd::AsRawFd as _,
    process::ExitCode,
    ptr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;

/// Of the tests' convention for what cannot be tried.
const CANNOT: u8 = 77;
/// `SSL_set_tlsext_host_name` is a macro for `SSL_ctrl` with these two (openssl/ssl.h, openssl/tls1.h).
const SSL_CTRL_SET_TLSEXT_HOSTNAME: c_int = 55;
const TLSEXT_NAMETYPE_HOST_NAME: c_long = 0;

/// Speaks over TLS from many threads at once.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The host that is read from.
    reads: String,
    /// The host of the deletions.
    deletes: String,
    /// Where both are, on 127.0.0.1.
    port: u16,
    /// Threads that read.
    #[arg(long, default_value_t = 6)]
    readers: usize,
    /// Threads that delete.
    #[arg(long, default_value_t = 2)]
    deleters: usize,
    /// Deletions that each of these tries.
    #[arg(long, default_value_t = 150)]
    tries: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let Some(openssl) = OpenSsl::load() else {
        eprintln!("guard-fixture-speaker: there is no OpenSSL here");
        return ExitCode::from(CANNOT);
    };
    match speak(&args, &openssl) {
        Ok(tried) => {
            println!("{tried}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("guard-fixture-speaker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn speak(args: &Args, openssl: &OpenSsl) -> Result<u64> {
    let (over, tried) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let (over, tried) = (&over, &tried);
        let readers: Vec<_> = (0..args.readers)
            .map(|_| {
                scope.spawn(move || -> Result<()> {
                    let connection = openssl.connect(&args.reads, args.port)?;
                    while !over.load(Ordering::SeqCst) {
                        connection
                            .ask(&format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", args.reads))?;
                    }
                    Ok(())
                })
            })
            .collect();
        let deleters: Vec<_> = (0..args.deleters)
            .map(|n| {
                scope.spawn(move || {
                    for i in 0..args.tries {
                        // Another's refusal may have ended this one's connection.
                        let Ok(connection) = openssl.connect(&args.deletes, args.port) else {
                            continue;
                        };
                        tried.fetch_add(1, Ordering::SeqCst);
                        let host = &args.deletes;
                        let request = format!("DELETE /{n}/{i} HTTP/1.1\r\nHost: {host}\r\n\r\n");
                        let _ = connection.ask(&request);
                    }
                })
            })
            .collect();
        let ended = deleters.into_iter().all(|thread| thread.join().is_ok());
        over.store(true, Ordering::SeqCst);
        for reader in readers {
            match reader.join() {
                Ok(result) => result.context("a reader")?,
                Err(_) => bail!("a reader has panicked"),
            }
        }
        if !ended {
            bail!("a thread that deletes has panicked");
        }
        Ok(tried.load(Ordering::SeqCst))
    })
}

/// What is used of the library.
struct OpenSsl {
    /// `SSL_CTX *`, for all connections.
    context: *mut c_void,
    new: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    set_fd: unsafe extern "C" fn(*mut c_void, c_int) -> c_int,
    ctrl: unsafe extern "C" fn(*mut c_void, c_int, c_long, *mut c_void) -> c_long,
    connect: unsafe extern "C" fn(*mut c_void) -> c_int,
    write: unsafe extern "C" fn(*mut c_void, *const c_void, c_int) -> c_int,
    read: unsafe extern "C" fn(*mut c_void, *mut c_void, c_int) -> c_int,
}

// SAFETY: an `SSL_CTX` may be used by many threads at once (openssl-threads(7)); the functions are functions.
unsafe impl Sync for OpenSsl {}

impl OpenSsl {
    /// Whichever version there is. It stays until the process ends.
    #[expect(
        clippy::missing_transmute_annotations,
        reason = "the type of each function stands at its field"
    )]
    fn load() -> Option<Self> {
        let library = [c"libssl.so.3", c"libssl.so.1.1"]
            .into_iter()
            // SAFETY: the name is a C string; the library's own initialisation is sound.
            .map(|name| unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) })
            .find(|library| !library.is_null())?;
        let find = |name: &CStr| {
            // SAFETY: the library is open; the name is a C string.
            let found = unsafe { libc::dlsym(library, name.as_ptr()) };
            (!found.is_null()).then_some(found)
        };
        /// A function of the library by its documented type.
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the type is the one that the field says, which is the manual's.
                unsafe { std::mem::transmute::<*mut c_void, _>(find($name)?) }
            };
        }
        let method: unsafe extern "C" fn() -> *const c_void = function!(c"TLS_client_method");
        let new: unsafe extern "C" fn(*const c_void) -> *mut c_void = function!(c"SSL_CTX_new");
        // SAFETY: both take what they are given here. Without more a client trusts whomever it speaks to.
        let context = unsafe { new(method()) };
        Some(Self {
            context: ptr::NonNull::new(context)?.as_ptr(),
            new: function!(c"SSL_new"),
            free: function!(c"SSL_free"),
            set_fd: function!(c"SSL_set_fd"),
            ctrl: function!(c"SSL_ctrl"),
            connect: function!(c"SSL_connect"),
            write: function!(c"SSL_write"),
            read: function!(c"SSL_read"),
        })
    }

    fn connect(&self, host: &str, port: u16) -> Result<Connection<'_>> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).context("connecting")?;
        // Without a timeout: a read with one fails with EINTR after each stop (signal(7)), which OpenSSL hands on.
        let name = CString::new(host)?;
        // SAFETY: the context lives as long as the library; the object is checked, and freed with the connection.
        let ssl = ptr::NonNull::new(unsafe { (self.new)(self.context) }).context("SSL_new")?;
        let connection = Connection {
            openssl: self,
            ssl: ssl.as_ptr(),
            stream,
        };
        // SAFETY: the object is valid; the name is copied.
        let named = unsafe {
            (self.ctrl)(
                connection.ssl,
                SSL_CTRL_SET_TLSEXT_HOSTNAME,
                TLSEXT_NAMETYPE_HOST_NAME,
                name.as_ptr().cast::<c_char>().cast_mut().cast(),
            )
        };
        // SAFETY: the object is valid, and the descriptor lives longer than it.
        let connected = unsafe {
            (self.set_fd)(connection.ssl, connection.stream.as_raw_fd()) == 1
                && (self.connect)(connection.ssl) == 1
        };
        if named != 1 || !connected {
            bail!("no handshake with {host}");
        }
        Ok(connection)
    }
}

/// One connection; of one thread.
struct Connection<'a> {
    openssl: &'a OpenSsl,
    /// `SSL *`.
    ssl: *mut c_void,
    stream: TcpStream,
}

impl Connection<'_> {
    /// Sends a request in one write and reads its answer, of HTTP/1.1 with a length.
    fn ask(&self, request: &str) -> Result<()> {
        let len = c_int::try_from(request.len())?;
        // SAFETY: the object is valid; the bytes are as many as is said.
        if unsafe { (self.openssl.write)(self.ssl, request.as_ptr().cast(), len) } != len {
            bail!("it could not be sent");
        }
        let mut answer = Vec::new();
        loop {
            let mut bytes = [0_u8; 4096];
            // SAFETY: as above, and there is room for as many bytes as is said.
            let count = unsafe {
                (self.openssl.read)(self.ssl, bytes.as_mut_ptr().cast(), bytes.len() as c_int)
            };
            let Ok(count @ 1..) = usize::try_from(count) else {
                bail!("no answer");
            };
            answer.extend_from_slice(&bytes[..count]);
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut response = httparse::Response::new(&mut headers);
            let httparse::Status::Complete(head) = response.parse(&answer)? else {
                continue;
            };
            let length = response
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case("content-length"))
                .and_then(|header| {
                    std::str::from_utf8(header.value)
                        .ok()?
                        .parse::<usize>()
                        .ok()
                })
                .context("an answer without a length")?;
            if answer.len() >= head + length {
                return Ok(());
            }
        }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        // SAFETY: it is not used any more; the socket is closed after it.
        unsafe { (self.openssl.free)(self.ssl) };
    }
}
