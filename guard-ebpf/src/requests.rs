//! What programs say. Where a TLS library is asked to encrypt it (uprobes, which guardd puts into the processes that are
//! about to speak to a host that some label asks about), and where it would leave without TLS. Either way guardd gets a
//! copy, and nothing leaves before it has looked: a process is stopped at the entry of the library's function, a
//! segment is dropped until its bytes are cleared.

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_task, bpf_ktime_get_ns,
        generated::{
            bpf_get_socket_cookie, bpf_probe_read_user, bpf_sk_storage_delete, bpf_sk_storage_get,
            bpf_skb_load_bytes,
        },
    },
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use guard_common::{
    event::{FLAG_SPINS, FLAG_TRUNCATED, NO_RULE, kind, tier},
    names::{Socket, connection},
    requests::{MAX_WRITE, StreamKey, StreamState, Tapped, WriteHeader, Writing, clears, via},
    state::{Config, HEARTBEAT_LIMIT_NS, Task, class},
};

use crate::{
    emit, exec, judge, kernel, lineage,
    maps::{CLEARED, CRITICAL, ORPHANS, REQUESTS, SOCKETS, STREAMS, TAPPED, WRITING},
    names::{self, Segment},
};

/// Wakes guardd whatever it has left unread: the ends of connections, which wake nobody.
const WAKE: u64 = aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP as u64;

/// `SSL_write(SSL *, const void *, int)`, also BoringSSL's.
/// <https://docs.openssl.org/3.0/man3/SSL_write/>
#[uprobe]
pub fn guard_openssl_write(ctx: ProbeContext) -> u32 {
    let len = ctx.arg::<u64>(2).unwrap_or(0) as i32;
    if len > 0 {
        let _ = of_library(&ctx, via::OPENSSL, len as u64, 0);
    }
    0
}

/// `SSL_write_ex(SSL *, const void *, size_t, size_t *written)`, and `SSL_write_early_data` alike.
#[uprobe]
pub fn guard_openssl_write_ex(ctx: ProbeContext) -> u32 {
    let (len, count_at) = (ctx.arg(2).unwrap_or(0), ctx.arg(3).unwrap_or(0));
    let _ = of_library(&ctx, via::OPENSSL, len, count_at);
    0
}

/// `gnutls_record_send(gnutls_session_t, const void *, size_t)`, and those that begin alike.
/// <https://www.gnutls.org/manual/html_node/Core-TLS-API.html>
#[uprobe]
pub fn guard_gnutls_write(ctx: ProbeContext) -> u32 {
    let _ = of_library(&ctx, via::GNUTLS, ctx.arg(2).unwrap_or(0), 0);
    0
}

/// `PR_Write(PRFileDesc *, const void *, PRInt32)` and `PR_Send`, which NSS's connections are written with.
#[uprobe]
pub fn guard_nss_write(ctx: ProbeContext) -> u32 {
    let len = ctx.arg::<u64>(2).unwrap_or(0) as i32;
    if len > 0 {
        let _ = of_library(&ctx, via::NSS, len as u64, 0);
    }
    0
}

#[inline(always)]
fn of_library(ctx: &ProbeContext, via: u32, len: u64, count_at: u64) -> Option<()> {
    write(ctx.arg(0)?, ctx.arg(1)?, len, via, count_at)
}

/// `crypto/tls.(*Conn).Write([]byte)` by Go's own convention: receiver, pointer and length in AX, BX, CX; on
/// other processors in the registers of C's arguments.
/// <https://github.com/golang/go/blob/go1.23.0/src/cmd/compile/abi-internal.md>
#[uprobe]
pub fn guard_go_write(ctx: ProbeContext) -> u32 {
    let [conn, from, len] = go_words(&ctx);
    let _ = write(conn, from, len, via::GO, 0);
    0
}

/// `crypto/tls.(*Conn).Close`, and the beginning of a handshake: of the connection that was at its address before
/// nothing holds any more.
#[uprobe]
pub fn guard_go_end(ctx: ProbeContext) -> u32 {
    let _ = end(go_words(&ctx)[0]);
    0
}

#[inline(always)]
fn go_words(ctx: &ProbeContext) -> [u64; 3] {
    #[cfg(bpf_target_arch = "x86_64")]
    {
        // SAFETY: the context's registers.
        let regs = unsafe { &*ctx.regs };
        [regs.rax, regs.rbx, regs.rcx]
    }
    #[cfg(not(bpf_target_arch = "x86_64"))]
    {
        [0, 1, 2].map(|n| ctx.arg(n).unwrap_or(0))
    }
}

/// The end of a write: how much of it the library took. What it did not take comes again.
#[uretprobe]
pub fn guard_tls_wrote(ctx: RetProbeContext) -> u32 {
    let _ = wrote(ctx.ret::<u64>() as i32);
    0
}

/// The end of a connection: `SSL_free`, `SSL_clear`, `gnutls_deinit`, `PR_Close`. Another may soon be at its address.
#[uprobe]
pub fn guard_tls_end(ctx: ProbeContext) -> u32 {
    let _ = ctx.arg(0).map(end);
    0
}

/// The current process, if it is tapped and still the program that was.
#[inline(always)]
fn tapped() -> Option<(u32, &'static mut Task, *mut Tapped)> {
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    let tapped = TAPPED.get_ptr_mut(tgid)?;
    // SAFETY: the helper has no precondition.
    let task = unsafe { bpf_get_current_task() };
    let (tgid, entry) = lineage::find(tgid, pid_tgid as u32, task)?;
    // SAFETY: the pointer was checked.
    (unsafe { (*tapped).start_ns } == entry.start_ns).then_some((tgid, entry, tapped))
}

/// Whether guardd has looked for the TLS library of a process.
#[inline(always)]
pub fn is_tapped(tgid: u32, start_ns: u64) -> bool {
    match TAPPED.get_ptr(tgid) {
        // SAFETY: the pointer was checked.
        Some(tapped) => unsafe { (*tapped).start_ns == start_ns },
        None => false,
    }
}

/// A child of a tapped process has its connections, and its breakpoints. Called at the fork, before the child runs.
#[inline(always)]
pub fn inherit(parent: u32, parent_start_ns: u64, tgid: u32, start_ns: u64) {
    if !is_tapped(parent, parent_start_ns) {
        return;
    }
    let tapped = Tapped {
        start_ns,
        writes: 0,
        parent,
        pad: 0,
    };
    if TAPPED.insert(tgid, tapped, 0).is_err() {
        // What it says over a connection of its parent's will not be seen.
        emit::count(class::REQUEST, false);
    }
}

/// A process has ended.
#[inline(always)]
pub fn forget(tgid: u32) {
    let _ = TAPPED.remove(&tgid);
}

/// What is known of a connection that a write is the first of in this process. One that was its parent's goes on where that
/// left it.
#[inline(always)]
fn first_state(conn: u64, tapped: *mut Tapped) -> StreamState {
    // SAFETY: a map value pointer that was checked.
    let parent = unsafe { (*tapped).parent };
    if parent == 0 {
        return StreamState::default();
    }
    let key = StreamKey {
        conn,
        tgid: parent,
        pad: 0,
    };
    match STREAMS.get_ptr(&key) {
        // SAFETY: the pointer was checked.
        Some(state) => unsafe { *state },
        None => StreamState::default(),
    }
}

/// A write on its way to guardd.
struct Write {
    conn: u64,
    at: u64,
    from: u64,
    len: u64,
    via: u32,
    tgid: u32,
    now_ns: u64,
}

#[inline(always)]
fn write(conn: u64, from: u64, len: u64, via: u32, count_at: u64) -> Option<()> {
    let (tgid, entry, tapped) = tapped()?;
    lineage::enforce_posture(entry.session);
    if len == 0 || conn == 0 {
        return None;
    }
    let key = StreamKey { conn, tgid, pad: 0 };
    let state = match STREAMS.get_ptr_mut(&key) {
        Some(state) => state,
        None => {
            let first = first_state(conn, tapped);
            let _ = STREAMS.insert(&key, &first, 0);
            STREAMS.get_ptr_mut(&key)?
        }
    };
    // SAFETY: the pointer was checked; one thread at a time writes to a connection.
    let at = unsafe {
        if (*state).passes != 0 {
            return None;
        }
        (*state).taken
    };
    if via == via::GO {
        // Its stacks move, so that its returns cannot be seen; but it only returns when all is written, or for good.
        // SAFETY: as above.
        unsafe { (*state).taken = at.wrapping_add(len) };
    } else {
        let writing = Writing { conn, count_at };
        let _ = WRITING.insert(&bpf_get_current_pid_tgid(), &writing, 0);
    }
    let config = judge::config()?;
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if now_ns.saturating_sub(config.heartbeat_ns) > HEARTBEAT_LIMIT_NS {
        return None;
    }
    let write = Write {
        conn,
        at,
        from,
        len,
        via,
        tgid,
        now_ns,
    };
    let handed = if len <= 1 << 10 {
        hand::<{ 1 << 10 }>(&write, config, entry, tapped)
    } else if len <= 4 << 10 {
        hand::<{ 4 << 10 }>(&write, config, entry, tapped)
    } else if len <= 16 << 10 {
        hand::<{ 16 << 10 }>(&write, config, entry, tapped)
    } else {
        hand::<MAX_WRITE>(&write, config, entry, tapped)
    };
    let handed = handed.or_else(|| without(&write, config, entry, tapped));
    emit::count(class::REQUEST, handed.is_some());
    handed
}

/// A header and room for what is copied.
#[repr(C)]
struct Copied<const N: usize> {
    head: WriteHeader,
    bytes: [u8; N],
}

#[inline(always)]
fn hand<const N: usize>(
    write: &Write,
    config: &Config,
    entry: &Task,
    tapped: *mut Tapped,
) -> Option<()> {
    let mut room = REQUESTS.reserve::<Copied<N>>(0)?;
    // SAFETY: the header is written before the record is submitted; the bytes behind what was copied are whatever was in
    // the ring, which nobody reads.
    let record = unsafe { &mut *room.as_mut_ptr() };
    let most = if write.len < N as u64 {
        write.len
    } else {
        N as u64
    };
    // Memory that is not there at the moment guardd reads itself: the process stands still.
    let copied = copy_user(record.bytes.as_mut_ptr(), write.from, most, N as u64 - 1) == 0;
    fill(&mut record.head, write, entry);
    record.head.copied = if copied { most as u32 } else { 0 };
    let spins = stop(&mut record.head, write, config, entry, tapped);
    room.submit(WAKE);
    if spins {
        exec::guard_spin(write.tgid, entry.start_ns);
    }
    Some(())
}

/// Without room for a copy guardd is told that there was something, and reads it itself.
#[inline(always)]
fn without(write: &Write, config: &Config, entry: &Task, tapped: *mut Tapped) -> Option<()> {
    let mut room = CRITICAL.reserve::<WriteHeader>(0)?;
    // SAFETY: every field is written before the record is submitted.
    let head = unsafe { &mut *room.as_mut_ptr() };
    fill(head, write, entry);
    let spins = stop(head, write, config, entry, tapped);
    room.submit(WAKE);
    if spins {
        exec::guard_spin(write.tgid, entry.start_ns);
    }
    Some(())
}

/// Counted before the signal is sent, and that before the record is there: guardd lets the process go when it has
/// seen every write that was counted. Says whether the process is to wait on its processor when the record is there.
#[inline(always)]
fn stop(
    head: &mut WriteHeader,
    write: &Write,
    config: &Config,
    entry: &Task,
    tapped: *mut Tapped,
) -> bool {
    // SAFETY: a map value pointer that was checked.
    unsafe { kernel::atomic_add((&raw mut (*tapped).writes).cast(), 1) };
    // guardd says that it lets the process go on, and then reads the count. So either it sees this write, or this sees that.
    if exec::is_resuming(write.tgid) && exec::guard_wait_out(write.tgid) == 0 {
        // It may leave unread.
        emit::count(class::REQUEST, false);
    }
    // SAFETY: the helper has no precondition.
    let task = unsafe { bpf_get_current_task() };
    let waits = exec::wait_for_guardd(config, task, write.tgid, entry.start_ns, write.now_ns);
    head.header.flags |= waits;
    waits & FLAG_SPINS != 0
}

#[inline(always)]
fn fill(head: &mut WriteHeader, write: &Write, entry: &Task) {
    emit::fill(
        &mut head.header,
        kind::REQUEST,
        tier::UPROBE,
        entry.session,
        entry.start_ns,
        write.now_ns,
    );
    head.conn = write.conn;
    head.at = write.at;
    head.from = write.from;
    head.len = write.len;
    head.copied = 0;
    head.via = write.via;
    kernel::zero_words(&mut head.peer);
    head.port = 0;
    head.family = 0;
    head.ends = 0;
}

/// Copies user memory, at most `mask` + 1 bytes. A function of its own for the reason given at
/// [`names`]: the bounds are checked right before the helper wants to see them.
#[inline(never)]
fn copy_user(to: *mut u8, from: u64, len: u64, mask: u64) -> i64 {
    if len == 0 {
        return -1;
    }
    let len = (kernel::opaque(len.wrapping_sub(1)) & mask) + 1;
    // SAFETY: there is room for `mask` + 1 bytes; the helper checks the source.
    unsafe { bpf_probe_read_user(to.cast(), len as u32, from as *const _) }
}

#[inline(always)]
fn wrote(result: i32) -> Option<()> {
    let pid_tgid = bpf_get_current_pid_tgid();
    let writing = *WRITING.get_ptr(&pid_tgid).map(|it| {
        // SAFETY: the pointer was checked; it is this thread's own.
        unsafe { &*it }
    })?;
    let _ = WRITING.remove(&pid_tgid);
    let (tgid, _, _) = tapped()?;
    let state = STREAMS.get_ptr_mut(&StreamKey {
        conn: writing.conn,
        tgid,
        pad: 0,
    })?;
    if result <= 0 {
        return None;
    }
    let mut taken = result as u64;
    if writing.count_at != 0 {
        let mut count = 0u64;
        // SAFETY: eight bytes of room; the helper checks the source.
        let done = unsafe {
            bpf_probe_read_user(
                (&raw mut count).cast(),
                8,
                writing.count_at as *const core::ffi::c_void,
            )
        };
        taken = if done == 0 { count } else { 0 };
    }
    // SAFETY: as in `write`.
    unsafe { (*state).taken = (*state).taken.wrapping_add(taken) };
    None
}

#[inline(always)]
fn end(conn: u64) -> Option<()> {
    let (tgid, entry, _) = tapped()?;
    let key = StreamKey { conn, tgid, pad: 0 };
    STREAMS.get_ptr(&key)?;
    let _ = STREAMS.remove(&key);
    let mut room = REQUESTS.reserve::<WriteHeader>(0)?;
    // SAFETY: every field is written before the record is submitted.
    let head = unsafe { &mut *room.as_mut_ptr() };
    let write = Write {
        conn,
        at: 0,
        from: 0,
        len: 0,
        via: 0,
        tgid,
        // SAFETY: the helper has no precondition.
        now_ns: unsafe { bpf_ktime_get_ns() },
    };
    fill(head, &write, entry);
    head.ends = 1;
    // It is read with the next write; nothing waits for it.
    room.submit(aya_ebpf::bindings::BPF_RB_NO_WAKEUP as u64);
    Some(())
}

/// Whether a connection over TLS still waits for the rest of a request. guardd ends that; where it is gone or late, time does.
#[inline(always)]
pub fn waits_for_rest(sk: *mut bpf_sock, socket: &Socket) -> bool {
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let alive = judge::config()
        .is_some_and(|config| now_ns.saturating_sub(config.heartbeat_ns) <= HEARTBEAT_LIMIT_NS);
    if alive && now_ns < socket.held {
        return true;
    }
    // SAFETY: the socket is the context's; nothing uses what is taken away any more.
    unsafe {
        bpf_sk_storage_delete(names::map_of(&SOCKETS), sk.cast());
    }
    false
}

/// What guardd has said of a segment.
#[derive(Clone, Copy)]
enum Word {
    None,
    Leaves,
    All,
    Never,
}

impl Word {
    #[inline(always)]
    fn done(self, socket: &mut Socket) -> Option<bool> {
        match self {
            // What it goes on with may be TLS.
            Self::All => {
                socket.state = connection::OPEN;
                None
            }
            Self::Never => {
                socket.state = connection::REFUSED;
                Some(false)
            }
            Self::Leaves | Self::None => Some(true),
        }
    }
}

/// What guardd's `word` on a connection, of [`clears`], says of a segment that ends at `end`.
#[inline(always)]
fn word_on([upto, what]: [u32; 2], end: u32) -> Word {
    match what {
        clears::ALL => Word::All,
        clears::NOTHING => Word::Never,
        _ if end.wrapping_sub(upto) as i32 <= 0 => Word::Leaves,
        _ => Word::None,
    }
}

/// What becomes of a segment of a connection that guardd reads.
#[inline(always)]
pub fn read_ahead(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    socket: &mut Socket,
    segment: &Segment,
) -> Option<bool> {
    let end = segment.seq.wrapping_add(segment.len);
    // SAFETY: the socket is the context's.
    let cleared = unsafe {
        bpf_sk_storage_get(names::map_of(&CLEARED), sk.cast(), core::ptr::null_mut(), 0)
            .cast::<[u32; 2]>()
            .as_ref()
    };
    match cleared.map_or(Word::None, |&word| word_on(word, end)) {
        Word::None => {}
        word => return word.done(socket),
    }
    // SAFETY: takes the context; the entry is read in place.
    let orphan = unsafe { ORPHANS.get(bpf_get_socket_cookie(skb.cast())) };
    match orphan.map_or(Word::None, |&word| word_on(word, end)) {
        Word::None => {}
        word => return word.done(socket),
    }
    let config = judge::config()?;
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if now_ns.saturating_sub(config.heartbeat_ns) > HEARTBEAT_LIMIT_NS {
        return Some(true);
    }
    if end.wrapping_sub(socket.told) as i32 > 0 {
        let ok = if segment.len <= 4 << 10 {
            hand_segment::<{ 4 << 10 }>(skb, socket, segment, via::PLAIN, now_ns)
        } else {
            hand_segment::<MAX_WRITE>(skb, socket, segment, via::PLAIN, now_ns)
        };
        // Without room it is tried again, as TCP tries.
        if ok.is_some() {
            emit::count(class::REQUEST, true);
            socket.told = end;
        }
    }
    Some(false)
}

#[inline(always)]
fn hand_segment<const N: usize>(
    skb: *mut __sk_buff,
    socket: &Socket,
    segment: &Segment,
    via: u32,
    now_ns: u64,
) -> Option<()> {
    let mut room = REQUESTS.reserve::<Copied<N>>(0)?;
    // SAFETY: as in `hand`.
    let record = unsafe { &mut *room.as_mut_ptr() };
    let most = if (segment.len as u64) < N as u64 {
        segment.len as u64
    } else {
        N as u64
    };
    let copied = copy_segment(
        skb,
        segment.at,
        record.bytes.as_mut_ptr(),
        most,
        N as u64 - 1,
    ) == 0;
    let head = &mut record.head;
    let header = &mut head.header;
    header.time_ns = now_ns;
    header.start_ns = socket.start_ns;
    header.session = socket.session;
    header.judged_in = 0;
    header.pid = socket.pid;
    header.tgid = socket.tgid;
    header.ppid = socket.ppid;
    header.uid = socket.uid;
    header.latency_ns = 0;
    header.labels = socket.judged;
    header.flags = if copied { 0 } else { FLAG_TRUNCATED };
    header.rule = NO_RULE;
    header.generation = 0;
    header.kind = kind::REQUEST;
    header.verdict = 0;
    header.would = 0;
    header.tier = tier::CGROUP;
    kernel::copy_words(&mut header.comm, &socket.comm);
    // SAFETY: takes the context.
    head.conn = unsafe { bpf_get_socket_cookie(skb.cast()) };
    head.at = segment.seq as u64;
    head.from = 0;
    head.len = segment.len as u64;
    head.copied = if copied { most as u32 } else { 0 };
    head.via = via;
    kernel::copy_words(&mut head.peer, &socket.addr);
    head.port = socket.port;
    head.family = socket.family;
    head.ends = 0;
    room.submit(WAKE);
    Some(())
}

/// What becomes of a datagram of a session: of QUIC the first ones say whom it is for (RFC 9001, 5.2), and wait until
/// guardd has read them. `Some(true)` for one that is to be lost, `Some(false)` for one that fails.
#[inline(always)]
pub fn datagram(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    socket: &mut Socket,
    at: u32,
) -> Option<bool> {
    /// Version numbers: RFC 9000, 15 and RFC 9369, 3.1.
    const V1: [u8; 4] = [0, 0, 0, 1];
    const V2: [u8; 4] = [0x6b, 0x33, 0x43, 0xcf];
    /// RFC 9000, 17.2.
    const LONG_HEADER: u8 = 0x80;
    let from = at + 8;
    let first: [u8; 5] = names::load(skb, from)?;
    let version = [first[1], first[2], first[3], first[4]];
    if first[0] & LONG_HEADER == 0 || (version != V1 && version != V2) {
        return None;
    }
    // SAFETY: the socket is the context's.
    let cleared = unsafe {
        bpf_sk_storage_get(names::map_of(&CLEARED), sk.cast(), core::ptr::null_mut(), 0)
            .cast::<[u32; 2]>()
            .as_ref()
    };
    match cleared {
        Some(&[_, clears::ALL]) => return None,
        Some(&[_, clears::NOTHING]) => return Some(false),
        _ => {}
    }
    let config = judge::config()?;
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if now_ns.saturating_sub(config.heartbeat_ns) > HEARTBEAT_LIMIT_NS {
        return None;
    }
    // SAFETY: readable in this program type.
    let (len, size) = unsafe { ((*skb).len, (*skb).gso_size) };
    let segment = Segment {
        seq: size,
        at: from,
        len: len.wrapping_sub(from),
    };
    let ok = if segment.len <= 4 << 10 {
        hand_segment::<{ 4 << 10 }>(skb, socket, &segment, via::QUIC, now_ns)
    } else {
        hand_segment::<MAX_WRITE>(skb, socket, &segment, via::QUIC, now_ns)
    };
    if ok.is_some() {
        emit::count(class::REQUEST, true);
    }
    Some(true)
}

#[inline(never)]
fn copy_segment(skb: *mut __sk_buff, from: u32, to: *mut u8, len: u64, mask: u64) -> i64 {
    if len == 0 {
        return -1;
    }
    let len = (kernel::opaque(len.wrapping_sub(1)) & mask) + 1;
    // SAFETY: there is room for `mask` + 1 bytes.
    unsafe { bpf_skb_load_bytes(skb.cast(), from, to.cast(), len as u32) }
}
