//! Whom a connection is for. `connect` leaves a [`Socket`] with each TCP socket of a session; what the socket then
//! sends goes through [`guard_egress`] until it has said a name in a ClientHello, or something else has made clear that
//! it will not. The bytes are those that would leave, not those that the program showed: nobody can change them any
//! more.
//!
//! These programs run for packets and not for calls: they cannot send signals, and who runs on the CPU has nothing to
//! do with the packet. What they drop, TCP sends again: at once when guardd gives it a push, and within half a second
//! by itself (a segment that the sending side's own kernel has dropped is tried again by the zero-window probe's
//! timer). <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp_output.c#L4396>

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::SkStorage,
    helpers::{
        bpf_ktime_get_ns,
        generated::{
            bpf_get_socket_cookie, bpf_probe_read_kernel, bpf_sk_fullsock, bpf_sk_storage_delete,
            bpf_sk_storage_get, bpf_skb_load_bytes,
        },
    },
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use guard_common::{
    NS_PER_TICK, Verdict,
    event::{FLAG_SIGNAL_NEEDED, FLAG_STOPPED, kind as record, tier},
    matching::{FNV_OFFSET, fnv_step, fold},
    names::{
        AnswerHeader, HELLO_BEGINS, HostKey, KnownHost, MAX_ANSWER, MAX_HELLO, MAX_LOOKED,
        MAX_SENT, MAX_TAPS, MAX_WAITS, NameRecord, Resolved, ResolvedKey, Socket, answers, around,
        asked, connection, kind, seen,
    },
    state::{Config, HEARTBEAT_LIMIT_NS, class, fate},
};

use crate::{
    emit,
    judge::{self, Done, Judgement},
    kernel::{self, Address, NET_INUM, SOCK_NET},
    maps::{
        self, ANSWERED, CRITICAL, DROPPED, HELD, HOSTS, KEPT, NAMED, RESOLVED, SOCKETS, Scratch,
        TASKS, with_memory,
    },
    path, requests,
};

/// What a cgroup program returns for a packet.
const PASS: i32 = 1;
const DROP: i32 = 0;
/// The same without an error for whoever sends: as if it were lost on its way.
/// <https://github.com/torvalds/linux/blob/v6.12/include/linux/bpf-cgroup.h#L206>
const DROP_QUIETLY: i32 = 2;

/// Bytes before those of a name server.
const ANSWER_HEAD: usize = size_of::<AnswerHeader>();
/// What becomes of a segment: it leaves, and the connection is of no more interest.
const DECIDED: u32 = 0;
/// It leaves, and some of it may be the beginning of a ClientHello.
const UNDECIDED: u32 = 1;
/// It does not leave.
const STAYS: u32 = 2;

/// `find_hello` has found none.
const NO_HELLO: u32 = u32::MAX;
/// Content type of the TLS record protocol: handshake (RFC 8446, B.1).
const HANDSHAKE: u32 = 22;
/// Handshake type (RFC 8446, B.3).
const CLIENT_HELLO: u32 = 1;
/// Extensions: RFC 6066, 3 and RFC 9849, 5.
const SERVER_NAME: u32 = 0;
/// See [`SERVER_NAME`].
const ENCRYPTED_CLIENT_HELLO: u32 = 0xfe0d;
/// Records that one ClientHello may be spread over.
const MAX_RECORDS: u32 = 64;
/// Extensions that are gone through: as many as fit.
const MAX_EXTENSIONS: u32 = 1024;
/// And how many of them by one call of a function: the verifier keeps no more than 8,192 branches in mind.
const EXTENSIONS: u32 = 32;
/// Places that one call looks for a ClientHello at, for the same reason.
const BLOCK: usize = 64;
/// Bytes of a name that one call goes through, likewise.
const HOST_PART: u32 = 16;
/// Bytes that bounded offsets are masked with; the largest power of two that `tail` has room for.
const MASK: u64 = 8191;
/// The same for lengths.
const LENGTH: u64 = MAX_HELLO as u64 - 1;

const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The port of name servers: RFC 1035, 4.2.
const DOMAIN: u16 = 53;

/// Makes a socket one that is looked at, in `connect`. Nothing where the kernel has no room for it: then the caller
/// must judge at once.
#[inline(always)]
pub fn watch(sk: *mut bpf_sock) -> Option<&'static mut Socket> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: `sk` is the context's socket.
    unsafe {
        let socket = bpf_sk_storage_get(
            map_of(&SOCKETS),
            sk.cast(),
            core::ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE as u64,
        )
        .cast::<Socket>();
        socket.as_mut()
    }
}

/// Labels of an address by the names that name servers have given it for.
#[inline(always)]
pub fn resolved(addr: &[u8; 16], generation: u32) -> Option<&'static Resolved> {
    let key = ResolvedKey {
        addr: *addr,
        hash: 0,
        generation,
        pad: 0,
    };
    // Not a copy: of a copy that is not there, the compiler keeps words that the verifier calls not readable.
    // SAFETY: written by userspace only, one value at a time; a stale one is one that was true.
    unsafe { RESOLVED.get(key) }
}

/// The map as helpers want it: the type's own methods serve `connect`'s context only.
#[inline(always)]
pub const fn map_of<T>(map: &'static SkStorage<T>) -> *mut c_void {
    core::ptr::from_ref(map).cast_mut().cast()
}

/// Where the bytes of the stream are in a packet.
pub struct Segment {
    /// Sequence number of the first.
    pub seq: u32,
    /// Their place.
    pub at: u32,
    /// How many.
    pub len: u32,
}

#[inline(always)]
pub fn load<T: Copy>(skb: *mut __sk_buff, at: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: there is room for as many bytes as are asked for, and any bytes are a `T` here.
    unsafe {
        let done = bpf_skb_load_bytes(
            skb.cast(),
            at,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
        );
        (done == 0).then(|| value.assume_init())
    }
}

/// Copies `len` bytes of a packet, from its byte `from` on, to `tail` behind its first `at` bytes. A function of its
/// own, as are the two below: kernels before 5.16 forget the bounds of a word that was kept on the stack meanwhile, so
/// bounds are checked right before the helper wants to see them. Returns 0 when they were copied.
#[inline(never)]
fn load_to_tail(skb: *mut __sk_buff, from: u32, tail: *mut u8, at: u64, len: u64) -> i64 {
    if len == 0 {
        return -1;
    }
    // Those kernels also learn nothing from the comparison above, and no helper loads 0 bytes.
    let len = (kernel::opaque(len.wrapping_sub(1)) & LENGTH) + 1;
    let at = kernel::opaque(at) & LENGTH;
    // SAFETY: `tail` is longer than twice LENGTH.
    unsafe { bpf_skb_load_bytes(skb.cast(), from, tail.add(at as usize).cast(), len as u32) }
}

/// Copies `len` bytes from elsewhere in kernel memory to `tail` behind its first `at` bytes.
#[inline(never)]
fn copy_to_tail(tail: *mut u8, at: u64, from: Address, len: u64) -> i64 {
    let (at, len) = (kernel::opaque(at) & LENGTH, kernel::opaque(len) & LENGTH);
    if len == 0 {
        return -1;
    }
    // SAFETY: as above; the helper checks the source, and copies from its beginning.
    unsafe {
        bpf_probe_read_kernel(
            tail.add(at as usize).cast(),
            len as u32,
            from as *const c_void,
        )
    }
}

/// Copies `len` bytes, no more than [`LENGTH`], to what is kept with a socket; or no more than 255 to a name.
#[inline(never)]
fn copy_to(to: *mut u8, from: Address, len: u64, most: u64) -> i64 {
    let len = kernel::opaque(len) & most;
    if len == 0 {
        return -1;
    }
    // SAFETY: there is room for `most` bytes; the helper checks the source.
    unsafe { bpf_probe_read_kernel(to.cast(), len as u32, from as *const c_void) }
}

/// Hands an answer's header and `len` bytes behind it to guardd, from the beginning of `tail`.
#[inline(never)]
fn hand_out(tail: *const u8, len: u64) -> i64 {
    let len = kernel::opaque(len) & LENGTH;
    // SAFETY: `tail` is longer than the header and LENGTH together.
    let bytes = unsafe { core::slice::from_raw_parts(tail, ANSWER_HEAD + len as usize) };
    match maps::DOMAINS.output::<[u8]>(bytes, 0) {
        Ok(()) => 0,
        Err(error) => error as i64,
    }
}

/// Protocol above IP, and where its header begins. Extension headers of IPv6 that a program may ask for are skipped.
#[inline(always)]
fn transport(skb: *mut __sk_buff) -> Option<(u8, u32)> {
    // SAFETY: readable in this program type.
    let protocol = unsafe { (*skb).protocol };
    if protocol == ETH_P_IP {
        let first: u8 = load(skb, 0)?;
        let protocol: u8 = load(skb, 9)?;
        return Some((protocol, (first & 15) as u32 * 4));
    }
    if protocol != ETH_P_IPV6 {
        return None;
    }
    let mut next: u8 = load(skb, 6)?;
    let mut at = 40;
    for _ in 0..6 {
        // Hop-by-hop, routing, fragment, destination: RFC 8200, 4.
        if next != 0 && next != 43 && next != 44 && next != 60 {
            break;
        }
        let header: [u8; 2] = load(skb, at)?;
        let len = if next == 44 {
            8
        } else {
            (header[1] as u32 + 1) * 8
        };
        next = header[0];
        at += len;
    }
    Some((next, at))
}

/// What a TCP packet carries.
#[inline(always)]
fn segment(skb: *mut __sk_buff, at: u32) -> Option<Segment> {
    const SYN: u8 = 2;
    let seq: [u8; 4] = load(skb, at + 4)?;
    let offset: [u8; 2] = load(skb, at + 12)?;
    let from = at + (offset[0] >> 4) as u32 * 4;
    // SAFETY: readable in this program type.
    let whole = unsafe { (*skb).len };
    if whole <= from {
        return None;
    }
    Some(Segment {
        // A SYN counts as a byte before those that it carries.
        seq: u32::from_be_bytes(seq).wrapping_add((offset[1] & SYN != 0) as u32),
        at: from,
        len: whole - from,
    })
}

/// What leaves the machine, or one socket for another on it.
#[cgroup_skb(egress)]
pub fn guard_egress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context's socket, checked for null before each use; the helpers check what it is.
    let (sk, socket) = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return PASS;
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() {
            return PASS;
        }
        let socket = bpf_sk_storage_get(map_of(&SOCKETS), sk.cast(), core::ptr::null_mut(), 0);
        (sk, socket.cast::<Socket>())
    };
    // SAFETY: as above. The kernel sends for one socket at a time.
    let Some(socket) = (unsafe { socket.as_mut() }) else {
        return PASS;
    };
    let (protocol, at) = match transport(skb) {
        Some(it) => it,
        None => return PASS,
    };
    if protocol == UDP {
        return match requests::datagram(skb, sk, socket, at) {
            None => PASS,
            Some(true) => DROP_QUIETLY,
            Some(false) => DROP,
        };
    }
    match leaves(skb, sk, socket, protocol, at) {
        Some(true) | None => PASS,
        Some(false) => {
            if let Some(dropped) = DROPPED.get_ptr_mut(0) {
                // SAFETY: the pointer was checked; whichever processor writes last, it is the time.
                unsafe { dropped.write_volatile(bpf_ktime_get_ns()) };
            }
            DROP
        }
    }
}

#[inline(always)]
fn leaves(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    socket: &mut Socket,
    protocol: u8,
    at: u32,
) -> Option<bool> {
    if protocol != TCP {
        return None;
    }
    let segment = segment(skb, at)?;
    if socket.state == connection::REFUSED {
        return Some(false);
    }
    if socket.state == connection::WITHHELD {
        return requests::waits_for_rest(sk, socket).then_some(false);
    }
    if socket.state == connection::READ {
        // A person is asked about what it has begun.
        if waits(socket) {
            return Some(false);
        }
        match requests::read_ahead(skb, sk, socket, &segment) {
            None if socket.state == connection::OPEN => {}
            done => return done,
        }
    }
    if socket.looked != 0 && (segment.seq.wrapping_sub(socket.next) as i32) < 0 {
        // It has been seen, and sent, before.
        return None;
    }
    // What is sent again may be cut into smaller segments than it was when it was judged, and the first would pass.
    if socket.state == connection::HELD && waits(socket) {
        return Some(false);
    }
    let config = judge::config()?;
    // Without memory to look at it with, it is tried again.
    let mut leaves = false;
    with_memory!(config, scratch => {
        leaves = look(skb, sk, socket, scratch, &segment).unwrap_or(true);
        None::<Done>
    });
    Some(leaves)
}

/// Whether a person has yet to answer for this connection.
#[inline(always)]
fn waits(socket: &Socket) -> bool {
    match HELD.get_ptr(socket.tgid) {
        // SAFETY: the pointer was checked.
        Some(held) => unsafe { (*held).object == socket.held },
        None => false,
    }
}

#[inline(always)]
fn look(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    socket: &mut Socket,
    scratch: &mut Scratch,
    segment: &Segment,
) -> Option<bool> {
    // What was kept, and behind it what comes.
    let kept = kernel::opaque(socket.kept as u64) & LENGTH;
    let tail = scratch.tail.as_mut_ptr();
    if kept != 0 {
        // SAFETY: the socket is the context's.
        let from = unsafe {
            bpf_sk_storage_get(map_of(&KEPT), sk.cast(), core::ptr::null_mut(), 0).cast::<u8>()
        };
        if !from.is_null() {
            copy_to_tail(tail, 0, from as Address, kept);
        }
    }
    let room = MAX_HELLO as u64 - 1 - kept;
    let fits = (segment.len as u64).min(room);
    if load_to_tail(skb, segment.at, tail, kept, fits) != 0 {
        return None;
    }
    kernel::copy(&mut scratch.socket, socket);
    // SAFETY: takes the context.
    scratch.cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    let becomes = guard_look(scratch.slot, (kept + fits) as u32);
    kernel::copy(socket, &scratch.socket);
    if socket.state == connection::READ {
        // From its first byte on, whatever of it was seen just now.
        socket.told = segment.seq;
        return requests::read_ahead(skb, sk, socket, segment);
    }
    if becomes == STAYS {
        return Some(false);
    }
    socket.next = segment.seq.wrapping_add(segment.len);
    socket.looked = socket.looked.saturating_add(1);
    socket.sent = socket.sent.saturating_add(segment.len);
    // What has begun as a ClientHello ends with it, or with the room for it.
    let enough = socket.looked >= MAX_LOOKED && socket.sent >= MAX_SENT;
    let begun = socket.kept >= HELLO_BEGINS as u32;
    if becomes == UNDECIDED && (begun || !enough) {
        if keep(sk, socket, scratch).is_some() {
            return Some(true);
        }
        // No room for it: what the rest would say is not going to be known.
        kernel::copy(&mut scratch.socket, socket);
        if guard_cut(scratch.slot) == STAYS {
            kernel::copy(socket, &scratch.socket);
            return Some(false);
        }
    }
    // SAFETY: the socket is the context's; nothing uses what is taken away any more.
    unsafe {
        bpf_sk_storage_delete(map_of(&KEPT), sk.cast());
        bpf_sk_storage_delete(map_of(&SOCKETS), sk.cast());
    }
    Some(true)
}

/// Keeps the bytes that may be the beginning of a ClientHello with the socket.
#[inline(always)]
fn keep(sk: *mut bpf_sock, socket: &mut Socket, scratch: &mut Scratch) -> Option<()> {
    let len = kernel::opaque(socket.kept as u64) & LENGTH;
    if len == 0 {
        return Some(());
    }
    let at = kernel::opaque(scratch.index as u64) & LENGTH;
    // SAFETY: the socket is the context's; `tail` is longer than twice LENGTH, and what is kept than LENGTH.
    unsafe {
        let to = bpf_sk_storage_get(
            map_of(&KEPT),
            sk.cast(),
            core::ptr::null_mut(),
            BPF_SK_STORAGE_GET_F_CREATE as u64,
        )
        .cast::<u8>();
        if to.is_null() {
            return None;
        }
        let from = scratch.tail.as_ptr().add(at as usize);
        copy_to(to, from as Address, len, LENGTH);
    }
    Some(())
}

/// Byte `at` of the stream.
#[inline(always)]
fn byte(scratch: &Scratch, at: u32) -> u32 {
    let at = kernel::opaque(at as u64) & MASK;
    // SAFETY: `tail` is longer than MASK.
    unsafe { scratch.tail.as_ptr().add(at as usize).read_volatile() as u32 }
}

/// Two bytes, the higher first.
#[inline(always)]
fn word(scratch: &Scratch, at: u32) -> u32 {
    byte(scratch, at) << 8 | byte(scratch, at.wrapping_add(1))
}

/// Where a ClientHello begins among the first `len` bytes, or [`NO_HELLO`]. Exported for the reason given at
/// [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_find_hello(slot: u32, len: u32) -> u32 {
    for block in 0..(MAX_HELLO / BLOCK) as u32 {
        let from = block * BLOCK as u32;
        if from >= kernel::opaque(len as u64) as u32 {
            break;
        }
        let found = guard_find_in_block(slot, from, len);
        if found != NO_HELLO {
            return found;
        }
    }
    NO_HELLO
}

/// The same among those places that begin in one block. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_find_in_block(slot: u32, from: u32, len: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return NO_HELLO;
    };
    for i in 0..BLOCK as u32 {
        let at = from.wrapping_add(i);
        if at.wrapping_add(HELLO_BEGINS as u32) > len {
            break;
        }
        if byte(scratch, at) == HANDSHAKE && guard_is_hello(slot, at) != 0 {
            return at;
        }
    }
    NO_HELLO
}

/// Whether what begins at `at` with the type of a handshake's record is the record of a ClientHello, as 0 or 1. Exported for the
/// reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_is_hello(slot: u32, at: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let is_hello = byte(scratch, at.wrapping_add(1)) == 3
        && byte(scratch, at.wrapping_add(2)) <= 4
        && byte(scratch, at.wrapping_add(3)) <= 0x40
        && byte(scratch, at.wrapping_add(5)) == CLIENT_HELLO;
    is_hello as u32
}

/// How many bytes of handshake the records have that begin at `from`; the handshake's own header goes to
/// `scratch.hash`. With `join` they are put together at the beginning of `tail`. Exported for the reason given at
/// [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_join_records(slot: u32, from: u32, len: u32, join: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    scratch.hash = 0;
    scratch.count = 0;
    scratch.index = from;
    scratch.depth = 0;
    for _ in 0..MAX_RECORDS {
        if guard_join_record(slot, len, join) == 0 {
            break;
        }
    }
    scratch.depth
}

/// One record more, from `scratch.index`; so many bytes were written before as `scratch.depth` says. Gives 0 when there
/// are no more. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_join_record(slot: u32, len: u32, join: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let at = path::forget(&scratch.index);
    let body = at.wrapping_add(5);
    if body >= len || at > MAX_HELLO as u32 || byte(scratch, at) != HANDSHAKE {
        return 0;
    }
    let size = word(scratch, at.wrapping_add(3));
    let there = size.min(len.wrapping_sub(body));
    // The handshake's header may itself be spread over records.
    for i in 0..4 {
        if i < there && scratch.count < 4 {
            scratch.hash = scratch.hash << 8 | byte(scratch, body.wrapping_add(i)) as u64;
            scratch.count += 1;
        }
    }
    let whole = there == size;
    let there = kernel::opaque(there as u64) & LENGTH;
    if there == 0 {
        return 0;
    }
    if join != 0 {
        let to = path::forget(&scratch.depth) as u64 & LENGTH;
        let source = kernel::opaque(body as u64) & LENGTH;
        let tail = scratch.tail.as_mut_ptr();
        // Bytes only move towards the beginning, and the helper copies from there.
        // SAFETY: `tail` is longer than LENGTH.
        let from = unsafe { tail.add(source as usize) };
        copy_to_tail(tail, to, from as Address, there);
    }
    scratch.depth = scratch.depth.wrapping_add(there as u32);
    scratch.index = body.wrapping_add(size);
    whole as u32
}

/// Reads a ClientHello whose first `len` bytes are at the beginning of `tail`: the name goes to `scratch.host`, what was
/// found to `scratch.seen`. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_read_hello(slot: u32, len: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let declared = 4 + (byte(scratch, 1) << 16 | word(scratch, 2));
    let mut found = seen::HELLO;
    let end = if declared > len {
        found |= seen::CUT;
        len
    } else {
        declared
    };
    // RFC 8446, 4.1.2: version, random, session, cipher suites, compression.
    let mut at = 4 + 2 + 32;
    at += 1 + byte(scratch, at);
    at += 2 + word(scratch, at);
    at += 1 + byte(scratch, at);
    at += 2;
    scratch.seen = found;
    scratch.index = at;
    for _ in 0..MAX_EXTENSIONS / EXTENSIONS {
        if guard_read_extensions(slot, end) == 0 {
            break;
        }
    }
    0
}

/// Reads some more extensions of a ClientHello that ends at `end`, from `scratch.index`. Gives 0 when there are no
/// more. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_read_extensions(slot: u32, end: u32) -> u32 {
    for _ in 0..EXTENSIONS {
        if guard_read_extension(slot, end) == 0 {
            return 0;
        }
    }
    1
}

/// Reads one. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_read_extension(slot: u32, end: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let mut at = path::forget(&scratch.index);
    if at.wrapping_add(4) > end {
        return 0;
    }
    let extension = word(scratch, at);
    let size = word(scratch, at.wrapping_add(2));
    at = at.wrapping_add(4);
    if extension == SERVER_NAME && scratch.host_len == 0 && byte(scratch, at.wrapping_add(2)) == 0 {
        let name = word(scratch, at.wrapping_add(3));
        if name != 0 && name < 256 && at.wrapping_add(5).wrapping_add(name) <= end {
            let from = kernel::opaque(at.wrapping_add(5) as u64) & MASK;
            let bytes = kernel::opaque(name as u64) & 255;
            let tail = scratch.tail.as_ptr();
            // SAFETY: `tail` is longer than MASK.
            let from = unsafe { tail.add(from as usize) };
            copy_to(scratch.host.as_mut_ptr(), from as Address, bytes, 255);
            scratch.host_len = bytes as u32;
            scratch.seen |= seen::SNI;
        }
    } else if extension == ENCRYPTED_CLIENT_HELLO {
        scratch.seen |= seen::ECH;
    }
    at = at.wrapping_add(size);
    scratch.index = at;
    (at <= MAX_HELLO as u32) as u32
}

/// Labels of the name in `scratch.host`, to `scratch.labels`; its hash to `scratch.hash`. Exported for the reason given
/// at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_host(slot: u32, generation: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    scratch.labels = 0;
    scratch.hash = FNV_OFFSET;
    scratch.count = 0;
    let mut len = scratch.host_len;
    // A last dot makes no other name of it.
    if len > 1 && name_byte(scratch, len - 1) == b'.' {
        len -= 1;
    }
    for part in 0..256 / HOST_PART {
        if part * HOST_PART >= kernel::opaque(len as u64) as u32 {
            break;
        }
        guard_host_bytes(slot, part * HOST_PART, len, generation);
    }
    add_labels(scratch, scratch.hash, len, kind::EXACT, generation);
    let open =
        judge::config().is_some_and(|config| config.half(generation).names & asked::MIDDLE != 0);
    if open {
        guard_host_around(slot, len, generation);
    }
    0
}

/// Some bytes of the name of `len` bytes, from that on which has `from` bytes behind it. Exported for the reason given at
/// [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_host_bytes(slot: u32, from: u32, len: u32, generation: u32) -> u32 {
    for i in 0..HOST_PART {
        let behind = from.wrapping_add(i);
        if behind >= kernel::opaque(len as u64) as u32 {
            break;
        }
        guard_host_byte(slot, len.wrapping_sub(behind + 1), behind, generation);
    }
    0
}

/// Byte `at` of the name, which has `behind` bytes behind it. Exported for the reason given at [`kernel`]: within the
/// loop, the verifier would follow each of its ways for every byte anew.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_host_byte(slot: u32, at: u32, behind: u32, generation: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let byte = name_byte(scratch, at);
    if byte == b'.' && behind != 0 {
        add_labels(scratch, scratch.hash, behind, kind::SUFFIX, generation);
        // What is behind each dot, from the last on.
        let dot = path::forget(&scratch.count);
        if dot < 32 {
            scratch.components[dot as usize & 31] = scratch.hash;
            scratch.prefix[dot as usize & 31] = behind as u64;
        }
        scratch.count = dot.wrapping_add(1);
    }
    scratch.hash = fnv_step(scratch.hash, byte.to_ascii_lowercase());
    0
}

/// Labels of names that leave one part open, for a name of `len` bytes of which [`guard_host`] has noted what is behind
/// each dot. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_host_around(slot: u32, len: u32, generation: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    scratch.word = FNV_OFFSET;
    // Dots that are still to come. Of more than there is room for, the first ones were not noted.
    scratch.index = scratch.count;
    for part in 0..256 / HOST_PART {
        if guard_host_parts(slot, part * HOST_PART, len, generation) == 0 {
            break;
        }
    }
    0
}

/// Some bytes of the name of `len` bytes, from byte `from` on; gives 0 when no other part can be left out. Exported for the reason
/// given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_host_parts(slot: u32, from: u32, len: u32, generation: u32) -> u32 {
    for i in 0..HOST_PART {
        let at = from.wrapping_add(i);
        if at >= kernel::opaque(len as u64) as u32 || guard_host_part(slot, at, generation) == 0 {
            return 0;
        }
    }
    1
}

/// Byte `at` of the name, from its beginning on; gives 0 when no other part can be left out. Exported like
/// [`guard_host_byte`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_host_part(slot: u32, at: u32, generation: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let byte = name_byte(scratch, at);
    if byte == b'.' {
        let left = path::forget(&scratch.index);
        if left < 2 {
            return 0;
        }
        // The part behind this dot is left out: what is behind the next one, which is two before the count.
        let next = left.wrapping_sub(2);
        scratch.index = left.wrapping_sub(1);
        if next < 32 {
            let behind = scratch.components[next as usize & 31];
            let size = scratch.prefix[next as usize & 31] as u32;
            let hash = around(scratch.word, behind);
            add_labels(
                scratch,
                hash,
                size.wrapping_add(at),
                kind::MIDDLE,
                generation,
            );
        }
    }
    scratch.word = fnv_step(scratch.word, byte.to_ascii_lowercase());
    1
}

#[inline(always)]
fn name_byte(scratch: &Scratch, at: u32) -> u8 {
    let at = kernel::opaque(at as u64) & 255;
    // SAFETY: `host` has 256 bytes.
    unsafe { scratch.host.as_ptr().add(at as usize).read_volatile() }
}

#[inline(always)]
fn add_labels(scratch: &mut Scratch, hash: u64, len: u32, kind: u16, generation: u32) {
    let key = HostKey {
        hash,
        len,
        kind,
        generation: generation as u16,
    };
    // SAFETY: written by userspace, in the half that is not in force.
    if let Some(known) = unsafe { HOSTS.get(key) } {
        scratch.labels |= spared(known, scratch.socket.excepted);
        scratch.asked |= known.asked;
    }
}

/// Labels of a name for a program.
#[inline(always)]
fn spared(known: &KnownHost, excepted: u64) -> u64 {
    if known.groups & excepted != 0 {
        0
    } else {
        known.labels
    }
}

/// Looks at the first `len` bytes of `tail`, for the socket in `scratch.socket`. Gives [`DECIDED`], [`UNDECIDED`] (then
/// `socket.kept` bytes from `scratch.index` are to be kept) or [`STAYS`]. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_look(slot: u32, len: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return DECIDED;
    };
    scratch.seen = 0;
    scratch.host_len = 0;
    if scratch.socket.state == connection::HELD && guard_refuse(slot) == STAYS {
        return STAYS;
    }
    let start = guard_find_hello(slot, len);
    if start == NO_HELLO {
        let begins =
            scratch.socket.plain == 0 && len < HELLO_BEGINS as u32 && byte(scratch, 0) == HANDSHAKE;
        if !begins {
            if scratch.socket.plain == 0 {
                if guard_named(slot) == STAYS {
                    return STAYS;
                }
                scratch.socket.plain = 1;
                // The first byte of a method, or a line's end that servers skip before one.
                let first = byte(scratch, 0) as u8;
                let asks = judge::config()
                    .is_some_and(|config| config.in_force().names & asked::REQUESTS != 0);
                if asks && (first.is_ascii_alphabetic() || first == b'\r' || first == b'\n') {
                    scratch.socket.state = connection::READ;
                    return STAYS;
                }
            }
            // A proxy may get its orders first, or a server be asked whether it speaks TLS at all.
            let kept = len.min(HELLO_BEGINS as u32 - 1);
            scratch.socket.kept = kept;
            scratch.index = len - kept;
            return UNDECIDED;
        }
        scratch.socket.kept = len;
        scratch.index = 0;
        return UNDECIDED;
    }
    let there = guard_join_records(slot, start, len, 0);
    let declared = 4 + (scratch.hash as u32 & 0xff_ffff);
    let full = len >= MAX_HELLO as u32 - 1;
    if (scratch.count < 4 || there < declared) && !full {
        scratch.socket.kept = len - start;
        scratch.index = start;
        return UNDECIDED;
    }
    guard_join_records(slot, start, len, 1);
    guard_read_hello(slot, there);
    if guard_named(slot) == STAYS {
        return STAYS;
    }
    DECIDED
}

/// Refuses a connection that was held, if a person has said so: whatever part of it comes first. And if nobody has said anything
/// and its process is gone: the kernel goes on trying to send, also when the session is over and nothing is judged any more.
/// Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_refuse(slot: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return DECIDED;
    };
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    scratch.judgement = Judgement::new(true, scratch.socket.held, record::CONNECT, 0);
    judge::refused(scratch.socket.tgid, now_ns, &mut scratch.judgement);
    if scratch.judgement.verdict == Verdict::Deny as u8 {
        guard_tell_name(slot, 0, now_ns);
    } else if is_somebodys(&scratch.socket) {
        return DECIDED;
    }
    scratch.socket.state = connection::REFUSED;
    STAYS
}

/// Whether the process that has connected it is alive. By the tick in which it began: of either, an earlier guardd may have
/// known more, or less ([`guard_common::state::TASK_COARSE`]).
#[inline(always)]
fn is_somebodys(socket: &Socket) -> bool {
    match TASKS.get_ptr(socket.tgid) {
        // SAFETY: the pointer was checked.
        Some(task) => unsafe { (*task).start_ns / NS_PER_TICK == socket.start_ns / NS_PER_TICK },
        None => false,
    }
}

/// The rest of a ClientHello cannot be kept: judged as one that names nobody. Exported for the reason given at
/// [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_cut(slot: u32) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return DECIDED;
    };
    scratch.seen = seen::HELLO | seen::CUT;
    scratch.host_len = 0;
    guard_named(slot)
}

/// Answers of name servers that were handed to guardd so far.
#[inline(always)]
pub fn handed() -> u32 {
    match ANSWERED.get(answers::HANDED) {
        // SAFETY: a reference is valid for reads; volatile, since others write.
        Some(handed) => unsafe { core::ptr::read_volatile(handed) as u32 },
        None => 0,
    }
}

/// How long a connect waits on its processor for guardd, on another, to read what name servers have said. guardd is
/// woken before whoever asked, and takes a tenth of that.
const AWAIT_NS: u64 = 2_000_000;
/// Looks in one call of [`guard_answers_read`], calls of it in one of [`guard_await_some`], and calls of that at most: the
/// verifier follows each loop once.
const LOOKS: u32 = 128;
/// See [`LOOKS`].
const LOOKOUTS: u32 = 64;
/// See [`LOOKS`].
const WATCHES: u32 = 64;

/// Waits a moment until guardd has read what name servers have said so far; whether it has yet to.
#[inline(always)]
pub fn await_answers() -> bool {
    let handed = handed();
    if guard_answers_read(handed) != 0 {
        return false;
    }
    let Some(config) = judge::config() else {
        return false;
    };
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if now_ns.wrapping_sub(config.heartbeat_ns) > HEARTBEAT_LIMIT_NS {
        return false;
    }
    guard_await_answers(handed) == 0
}

/// Gives 0 when guardd has not read so many answers in time. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_await_answers(handed: u32) -> u32 {
    // SAFETY: the helper has no precondition.
    let began = unsafe { bpf_ktime_get_ns() };
    for _ in 0..WATCHES {
        match guard_await_some(handed, began) {
            0 => {}
            1 => return 1,
            _ => break,
        }
    }
    0
}

/// Waits for a part of [`guard_await_answers`]'s time: gives 1 when they are read, 2 when the time is over. Exported for
/// the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_await_some(handed: u32, began: u64) -> u32 {
    for _ in 0..LOOKOUTS {
        if guard_answers_read(handed) != 0 {
            return 1;
        }
        // SAFETY: the helper has no precondition.
        if unsafe { bpf_ktime_get_ns() }.wrapping_sub(began) > AWAIT_NS {
            return 2;
        }
    }
    0
}

/// Whether guardd has read so many answers. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_answers_read(handed: u32) -> u32 {
    for _ in 0..LOOKS {
        let Some(read) = ANSWERED.get(answers::READ) else {
            return 1;
        };
        // SAFETY: a reference is valid for reads; volatile, since others write.
        let read = unsafe { core::ptr::read_volatile(read) as u32 };
        if handed.wrapping_sub(read) as i32 <= 0 {
            return 1;
        }
    }
    0
}

/// The network namespace of the socket that a packet is for, by the inode number of its file; 0 where that cannot be
/// told. The verifier lets nobody count on a socket's pointer, but what lies in a table is a mere number to it.
#[inline(always)]
fn netns(skb: *mut __sk_buff, scratch: &mut Scratch) -> u32 {
    // SAFETY: readable in this program type.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return 0;
    }
    scratch.word = sk as u64;
    // SAFETY: a reference is valid for reads; volatile, so that it is read from there.
    let sk = unsafe { core::ptr::read_volatile(&raw const scratch.word) };
    kernel::pointer(sk, &SOCK_NET)
        .and_then(|net| kernel::read::<u32>(net, &NET_INUM))
        .unwrap_or(0)
}

/// Whether guardd has yet to read what name servers had said when a socket was connected.
#[inline(always)]
fn answers_wait(socket: &Socket, config: &Config, now_ns: u64) -> bool {
    if now_ns.wrapping_sub(config.heartbeat_ns) > HEARTBEAT_LIMIT_NS {
        return false;
    }
    match ANSWERED.get(answers::READ) {
        // SAFETY: as above.
        Some(read) => unsafe {
            socket
                .handed
                .wrapping_sub(core::ptr::read_volatile(read) as u32) as i32
                > 0
        },
        None => false,
    }
}

/// Judges the connection in `scratch.socket` by what was seen of its name. Gives [`STAYS`] or [`DECIDED`]. Exported for
/// the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_named(slot: u32) -> u32 {
    let (Some(config), Some(scratch)) = (judge::config(), maps::memory(slot)) else {
        return DECIDED;
    };
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if scratch.socket.waits < MAX_WAITS && answers_wait(&scratch.socket, config, now_ns) {
        scratch.socket.waits += 1;
        return STAYS;
    }
    let generation = config.generation();
    let names = resolved(&scratch.socket.addr, generation);
    scratch.labels = 0;
    scratch.asked =
        (config.half(generation).names & asked::ANY_HOST) as u64 | scratch.socket.asked as u64;
    scratch.hash = 0;
    let mut found = scratch.seen;
    if found & seen::SNI != 0 {
        guard_host(slot, generation);
        let key = ResolvedKey {
            addr: scratch.socket.addr,
            hash: scratch.hash,
            generation,
            pad: 0,
        };
        // SAFETY: as for `resolved`.
        if let Some(known) = unsafe { NAMED.get(key) } {
            found |= seen::AGREES;
            // It may stand for another name that has labels.
            scratch.labels |= spared(known, scratch.socket.excepted);
            scratch.asked |= known.asked;
        } else if names.is_some() {
            found |= seen::CONTRADICTS;
        }
        scratch.seen = found;
    }
    if let Some(names) = names {
        // Whoever answers at an address for one name may do so for the others.
        scratch.asked |= names.asked;
    }
    let mut labels = scratch.labels;
    // Nobody has said which of the address's names it is.
    let hidden = found & (seen::SNI | seen::CUT) != seen::SNI
        || found & (seen::ECH | seen::AGREES) == seen::ECH;
    if hidden && let Some(names) = names {
        labels |= spared(
            &KnownHost {
                labels: names.labels,
                groups: names.groups,
                asked: 0,
            },
            scratch.socket.excepted,
        );
    }
    let unknown = found & (seen::CONTRADICTS | seen::CUT) != 0
        || found & (seen::ECH | seen::AGREES) == seen::ECH
        || (hidden && names.is_none() && !is_loopback(&scratch.socket.addr));
    if unknown {
        let key = HostKey {
            hash: 0,
            len: 0,
            kind: kind::UNKNOWN,
            generation: generation as u16,
        };
        // SAFETY: as for every name.
        if let Some(known) = unsafe { HOSTS.get(key) } {
            labels |= spared(known, scratch.socket.excepted);
        }
    }
    let labels = labels & !scratch.socket.judged;
    let object = fold(scratch.socket.object, scratch.hash) | 1;
    scratch.judgement = Judgement::new(true, object, record::CONNECT, generation);
    // A lease is for the address, whatever name is said there.
    scratch.place = scratch.socket.object;
    let tgid = scratch.socket.tgid;
    if labels != 0 {
        // A process waits for one answer at a time.
        if let Some(held) = HELD.get_ptr(tgid)
            // SAFETY: the pointer was checked.
            && unsafe { (*held).object } != object
        {
            return STAYS;
        }
        judge::guard_judge(slot, scratch.socket.session, labels, now_ns, tgid);
    }
    judge::refused(tgid, now_ns, &mut scratch.judgement);
    if scratch.judgement.verdict == Verdict::Hold as u8 {
        guard_hold_connection(slot, labels, now_ns);
    }
    let verdict = scratch.judgement.verdict;
    if scratch.socket.taps == 0 || labels != 0 || verdict != 0 {
        guard_tell_name(slot, labels, now_ns);
    }
    if verdict < Verdict::Hold as u8 {
        scratch.socket.judged |= labels;
        scratch.socket.state = connection::OPEN;
        return guard_wait_for_tap(slot, now_ns);
    }
    scratch.socket.state = if verdict == Verdict::Hold as u8 {
        scratch.socket.held = object;
        connection::HELD
    } else {
        connection::REFUSED
    };
    STAYS
}

/// Has a connection wait whose requests some label asks about, until guardd has looked for its process's TLS library:
/// each one once, since the process may have loaded another library after its last. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_wait_for_tap(slot: u32, now_ns: u64) -> u32 {
    let (Some(config), Some(scratch)) = (judge::config(), maps::memory(slot)) else {
        return DECIDED;
    };
    let socket = &mut scratch.socket;
    if scratch.asked == 0
        || scratch.seen & seen::HELLO == 0
        || (socket.taps != 0 && requests::is_tapped(socket.tgid, socket.start_ns))
    {
        return DECIDED;
    }
    if socket.taps >= MAX_TAPS || now_ns.wrapping_sub(config.heartbeat_ns) > HEARTBEAT_LIMIT_NS {
        // What it says will not be seen.
        emit::count(class::REQUEST, false);
        return DECIDED;
    }
    socket.taps += 1;
    let Some(mut entry) = CRITICAL.reserve::<NameRecord>(0) else {
        emit::count(class::REQUEST, false);
        return STAYS;
    };
    // SAFETY: every field is written before the record is submitted.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    scratch.judgement = Judgement::new(true, 0, record::CONNECT, 0);
    fill_name(record, scratch, record::TAP, 0, now_ns);
    entry.submit(0);
    emit::count(class::REQUEST, true);
    STAYS
}

/// This host, which needs no name to be known.
#[inline(always)]
fn is_loopback(addr: &[u8; 16]) -> bool {
    // SAFETY: sixteen bytes are four words.
    let words: [u32; 4] = unsafe { core::mem::transmute(*addr) };
    let v4 = words[0] == 0 && words[1] == 0 && words[2] == 0xffff_u32.to_be();
    (v4 && words[3].to_be() >> 24 == 127)
        || (words[0] == 0 && words[1] == 0 && words[2] == 0 && words[3] == 1_u32.to_be())
}

/// Enters a hold; a process that has ended waits for nobody. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_hold_connection(slot: u32, labels: u64, now_ns: u64) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let (session, tgid) = (scratch.socket.session, scratch.socket.tgid);
    if !is_somebodys(&scratch.socket) {
        scratch.judgement.verdict = Verdict::Deny as u8;
        return 0;
    }
    let judgement = scratch.judgement;
    judge::enter_hold(
        &mut scratch.held,
        tgid,
        scratch.socket.start_ns,
        now_ns,
        labels,
        session,
        record::CONNECT,
        fate::REPEATS,
        &judgement,
    );
    0
}

/// Tells what was seen and what was decided. Exported for the reason given at [`kernel`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn guard_tell_name(slot: u32, labels: u64, now_ns: u64) -> u32 {
    let Some(scratch) = maps::memory(slot) else {
        return 0;
    };
    let verdict = scratch.judgement.verdict;
    if labels == 0 && verdict == 0 && scratch.seen & seen::HELLO == 0 {
        return 0;
    }
    // A segment that is sent again while a person is asked is no news.
    if verdict == Verdict::Hold as u8 && scratch.socket.state == connection::HELD {
        return 0;
    }
    let Some(mut entry) = emit::reserve::<NameRecord>(&scratch.judgement) else {
        return 0;
    };
    // SAFETY: every field is written before the record is submitted.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    fill_name(record, scratch, record::NAME, labels, now_ns);
    record.header.flags |= match verdict {
        v if v == Verdict::Hold as u8 => FLAG_SIGNAL_NEEDED | FLAG_STOPPED,
        v if v == Verdict::Kill as u8 => FLAG_SIGNAL_NEEDED,
        _ => 0,
    };
    emit::submit(entry, &scratch.judgement, now_ns);
    0
}

#[inline(always)]
fn fill_name(record: &mut NameRecord, scratch: &Scratch, kind: u8, labels: u64, now_ns: u64) {
    let socket = &scratch.socket;
    let header = &mut record.header;
    header.time_ns = now_ns;
    header.start_ns = socket.start_ns;
    header.session = socket.session;
    header.pid = socket.pid;
    header.tgid = socket.tgid;
    header.ppid = socket.ppid;
    header.uid = socket.uid;
    header.flags = 0;
    header.kind = kind;
    header.tier = tier::CGROUP;
    kernel::copy_words(&mut header.comm, &socket.comm);
    emit::fill_judgement(header, labels, &scratch.judgement);
    header.latency_ns = emit::since(now_ns);
    kernel::copy_words(&mut record.addr, &socket.addr);
    record.cookie = scratch.cookie;
    record.seen = scratch.seen;
    record.family = socket.family;
    record.port = socket.port;
    record.host_len = scratch.host_len;
    record.pad = 0;
    // A name has no more bytes than that.
    let last = record.host.len() - 1;
    record.host[last] = 0;
    let from = scratch.host.as_ptr() as Address;
    copy_to(record.host.as_mut_ptr(), from, last as u64, last as u64);
}

/// What arrives: answers of name servers are handed to guardd, whoever asked.
#[cgroup_skb]
pub fn guard_ingress(ctx: SkBuffContext) -> i32 {
    let _ = answer(ctx.skb.skb);
    PASS
}

#[inline(always)]
fn answer(skb: *mut __sk_buff) -> Option<()> {
    // The peer of the socket that it is for, big endian; 0 where it has none, as a resolver's that asks several. That
    // alone tells nearly everything that arrives from what name servers say.
    // SAFETY: readable in this program type, for which there always is a socket.
    let peer = unsafe { core::ptr::read_volatile(&raw const (*skb).remote_port) };
    if peer != 0 && peer as u16 != DOMAIN.to_be() && (peer >> 16) as u16 != DOMAIN.to_be() {
        return None;
    }
    let (protocol, at) = transport(skb)?;
    if protocol != UDP && protocol != TCP {
        return None;
    }
    let ports: [u16; 2] = load(skb, at)?;
    if u16::from_be(ports[0]) != DOMAIN {
        return None;
    }
    let (seq, from) = if protocol == UDP {
        (0, at + 8)
    } else {
        let segment = segment(skb, at)?;
        (segment.seq, segment.at)
    };
    // SAFETY: readable in this program type.
    let len = unsafe { (*skb).len };
    if len <= from {
        return None;
    }
    let config = judge::config()?;
    with_memory!(config, scratch => {
        let _ = hand_on(skb, scratch, protocol, u16::from_be(ports[1]), seq, from, len - from);
        None::<Done>
    });
    Some(())
}

#[inline(always)]
fn hand_on(
    skb: *mut __sk_buff,
    scratch: &mut Scratch,
    protocol: u8,
    port: u16,
    seq: u32,
    from: u32,
    whole: u32,
) -> Option<()> {
    let len = kernel::opaque((whole as u64).min(MAX_ANSWER as u64)) & LENGTH;
    if len == 0 {
        return None;
    }
    let netns = netns(skb, scratch);
    let tail = scratch.tail.as_mut_ptr();
    if load_to_tail(skb, from, tail, ANSWER_HEAD as u64, len) != 0 {
        return None;
    }
    // SAFETY: `tail` is aligned to 8 and longer than the header and LENGTH together.
    unsafe {
        let header = &mut *tail.cast::<AnswerHeader>();
        header.time_ns = bpf_ktime_get_ns();
        header.port = port;
        header.protocol = protocol as u16;
        header.seq = seq;
        header.len = len as u32;
        header.whole = whole;
        header.netns = netns;
        header.pad = 0;
        // SAFETY: readable in this program type.
        if (*skb).protocol == ETH_P_IP {
            let addr: u32 = load(skb, 12)?;
            header.from =
                core::mem::transmute::<[u32; 4], [u8; 16]>([0, 0, 0xffff_u32.to_be(), addr]);
        } else {
            header.from = load(skb, 8)?;
        }
        // Counted before it is handed on: who reads it may already be done with it otherwise.
        let handed = ANSWERED.get_ptr_mut(answers::HANDED)?;
        kernel::atomic_add(handed.cast(), 1);
        let ok = hand_out(tail, len) == 0;
        if !ok {
            kernel::atomic_add(handed.cast(), -1);
        }
        emit::count(class::NAME, ok);
    }
    Some(())
}
