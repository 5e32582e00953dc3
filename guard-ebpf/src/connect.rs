//! Connections and datagrams. The decision falls in the root cgroup's socket-address programs, on the
//! kernel's own copy of the address: a denial means that no SYN leaves.
//!
//! Those programs cannot send signals. For a hold or a kill they make the call fail on the spot and
//! leave word in [`CONNECTING`] for the `sys_exit_connect` tracepoint of the same thread, which sends the
//! signal. A held call fails with `ERESTARTNOINTR`: the thread stops on its way out of the kernel, and
//! when it is resumed the kernel itself repeats the call, which is then judged anew. So nothing has
//! left the machine while a person thinks, and "approve" and "deny" are both exact.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock_addr,
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_current_uid_gid, bpf_ktime_get_ns,
        generated::bpf_set_retval,
    },
    macros::{cgroup_sock_addr, tracepoint},
    maps::lpm_trie::Key,
    programs::{LsmContext, SockAddrContext, TracePointContext},
};
use guard_common::{
    Verdict,
    event::{ConnectRecord, FLAG_DATAGRAM, FLAG_SIGNAL_NEEDED, FLAG_STOPPED, kind, tier},
    matching::{ADDRESS_FIXED_BITS, AddressKey, KnownAddress},
    names::{asked, connection},
    state::{AWAITS, Connecting, Task, address_object, class, fate, watched},
};

use crate::{
    copies, emit, exec,
    judge::{self, Done, ERESTARTNOINTR, Judgement},
    kernel::{
        self, Address, CAN_SET_RETVAL, DENTRY_INODE, FILE_PRIVATE, PID_NUMBERS, SOCK_FAMILY,
        SOCK_PEER_PID, SOCKET_SK, TASK_PID, TASK_TGID, UNIX_DENTRY, UNIX_MNT, UNIX_PEER, Words,
    },
    lineage,
    maps::{ADDRESSES, CONNECTING},
    names,
    open::{self, SYS_EXIT_RET},
    path::Place,
};

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
/// What a cgroup program returns.
const LET_PASS: i32 = 1;
const REFUSE: i32 = 0;

/// `connect(2)` to IPv4.
#[cgroup_sock_addr(connect4)]
pub fn guard_connect4(ctx: SockAddrContext) -> i32 {
    let answer = judge_address(ctx.sock_addr, AF_INET, false);
    #[cfg(feature = "log")]
    aya_log_ebpf::debug!(&ctx, "connect4: {}", answer);
    answer
}
/// `connect(2)` to IPv6.
#[cgroup_sock_addr(connect6)]
pub fn guard_connect6(ctx: SockAddrContext) -> i32 {
    judge_address(ctx.sock_addr, AF_INET6, false)
}
/// A datagram to IPv4 on a socket that is not connected.
#[cgroup_sock_addr(sendmsg4)]
pub fn guard_sendmsg4(ctx: SockAddrContext) -> i32 {
    judge_address(ctx.sock_addr, AF_INET, true)
}
/// A datagram to IPv6 on a socket that is not connected.
#[cgroup_sock_addr(sendmsg6)]
pub fn guard_sendmsg6(ctx: SockAddrContext) -> i32 {
    judge_address(ctx.sock_addr, AF_INET6, true)
}

#[inline(always)]
fn judge_address(ctx: *mut bpf_sock_addr, family: u16, datagram: bool) -> i32 {
    // Not bpf_get_current_pid_tgid: older kernels do not offer it to this program type.
    // SAFETY: the helper has no precondition.
    let task = unsafe { bpf_get_current_task() };
    let mut words = Words::<2>::new();
    let Some(ids) = words.read(task, [&TASK_PID, &TASK_TGID]) else {
        return LET_PASS;
    };
    let (Some(pid), Some(tgid)) = (ids.get::<u32>(&TASK_PID), ids.get::<u32>(&TASK_TGID)) else {
        return LET_PASS;
    };
    let Some((tgid, entry)) = lineage::find(tgid, pid, task) else {
        return LET_PASS;
    };
    judge_tagged(ctx, family, datagram, tgid, pid, entry).unwrap_or(LET_PASS)
}

/// The destination as IPv6, IPv4 mapped; and what the kernel makes of the unspecified address, which
/// is this host.
#[inline(always)]
fn destination(ctx: *mut bpf_sock_addr, family: u16) -> [u32; 4] {
    const MAPPED: u32 = 0xffff_u32.to_be();
    const ONE: u32 = 1_u32.to_be();
    const LOOPBACK4: u32 = 0x7f00_0001_u32.to_be();
    // SAFETY: these fields of the context are readable by these program types.
    let mut addr = unsafe {
        if family == AF_INET {
            [0, 0, MAPPED, (*ctx).user_ip4]
        } else {
            [
                core::ptr::read_volatile(&raw const (*ctx).user_ip6[0]),
                core::ptr::read_volatile(&raw const (*ctx).user_ip6[1]),
                core::ptr::read_volatile(&raw const (*ctx).user_ip6[2]),
                core::ptr::read_volatile(&raw const (*ctx).user_ip6[3]),
            ]
        }
    };
    // Without a branch: the verifier would follow all that comes after once for each way it can go.
    let [a, b, c, d] = addr;
    addr[3] |= LOOPBACK4 * if_zero(a | b | (c ^ MAPPED) | d) | ONE * if_zero(a | b | c | d);
    addr
}

/// 1 for 0, and 0 for anything else; the compiler sees neither.
#[inline(always)]
fn if_zero(word: u32) -> u32 {
    kernel::opaque(kernel::opaque(word as u64).wrapping_sub(1) >> 63) as u32
}

#[inline(always)]
fn known(addr: &[u8; 16], port: u16, generation: u16) -> KnownAddress {
    let mut key = Key::new(
        ADDRESS_FIXED_BITS + 128,
        AddressKey {
            generation,
            port,
            addr: *addr,
        },
    );
    let with_port = ADDRESSES.get(&key).copied();
    key.data.port = 0;
    let any_port = ADDRESSES.get(&key).copied();
    match (with_port, any_port) {
        (Some(with), Some(any)) => {
            if with.prefix >= any.prefix {
                with
            } else {
                any
            }
        }
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => KnownAddress::default(),
    }
}

#[inline(always)]
fn judge_tagged(
    ctx: *mut bpf_sock_addr,
    family: u16,
    datagram: bool,
    tgid: u32,
    pid: u32,
    task: &mut Task,
) -> Option<i32> {
    let generation = judge::config()?.generation();
    let words = destination(ctx, family);
    // SAFETY: four words are sixteen bytes; both in network order.
    let addr: [u8; 16] = unsafe { core::mem::transmute(words) };
    // SAFETY: the field is readable by these program types. Network order in the low half.
    let port_be = unsafe { (*ctx).user_port } as u16;
    // What a name server has just said may spare this address: whoever asked is as quick as guardd.
    let unread =
        judge::config()?.half(generation).names & asked::SPARES != 0 && names::await_answers();
    let known = known(&addr, port_be, generation as u16);
    let mut labels = if known.groups & task.excepted != 0 {
        0
    } else {
        known.labels
    };
    let stream = !datagram && is_tcp(ctx);
    // Of TCP the first bytes will say which of the address's names it is for; of anything else nothing will.
    if judge::config()?.half(generation).names != 0
        && let Some(names) = names::resolved(&addr, generation)
        && names.groups & task.excepted == 0
    {
        labels |= if stream { names.sure } else { names.labels };
    }
    labels &= !known.spared;
    if unread && labels != 0 && !datagram && put_off(tgid, pid, task) {
        return Some(REFUSE);
    }
    let config = judge::config()?;
    // QUIC says its name in its first datagrams.
    if !stream && config.half(generation).names != 0 && is_udp(ctx) {
        watch(
            ctx,
            &addr,
            u16::from_be(port_be),
            family,
            task,
            tgid,
            pid,
            labels | known.spared,
            0,
        );
    }
    // Every connection of a session is told; of datagrams only the labelled ones, or a name server's
    // client would fill the ring.
    if labels == 0 && datagram {
        return None;
    }
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let mut judgement = Judgement::new(
        true,
        address_object(&words, port_be),
        kind::CONNECT,
        generation,
    );
    if labels != 0 {
        judge::judge(task.session, labels, now_ns, tgid, &mut judgement);
    }
    judge::refused(tgid, now_ns, &mut judgement);
    let verdict = judgement.verdict;
    let pid_tgid = (tgid as u64) << 32 | pid as u64;
    let mut flags = if datagram { FLAG_DATAGRAM } else { 0 };
    let mut answer = LET_PASS;
    let mut fate = fate::HAPPENED;
    if verdict >= Verdict::Hold as u8 {
        answer = REFUSE;
    }
    if verdict == Verdict::Hold as u8 || verdict == Verdict::Kill as u8 {
        // Only connect(2) itself ends at our tracepoint; a fast-open sendto or an io_uring connect comes
        // by here too, and would leave the word behind for an innocent call.
        let left_word = match CONNECTING.get_ptr_mut(pid_tgid) {
            // SAFETY: the pointer was checked, and only this very thread uses its entry.
            Some(call) if unsafe { (*call).inside } != 0 => {
                // SAFETY: as above.
                unsafe { (*call).verdict = verdict as u32 };
                true
            }
            _ => false,
        };
        if !left_word {
            // No hook of ours sees this call end, so guardd sends the signal. The call itself fails
            // here and now: nothing leaves.
            flags |= FLAG_SIGNAL_NEEDED;
            fate = fate::FAILED;
        } else if verdict == Verdict::Hold as u8 {
            if CAN_SET_RETVAL.load() != 0 {
                // SAFETY: the helper takes any errno. The signal that CONNECTING promises makes the
                // kernel repeat the call instead of showing this number to the program.
                unsafe { bpf_set_retval(ERESTARTNOINTR) };
                fate = fate::REPEATS;
            } else {
                // Without it a failed call would not be repeated: let the handshake begin and stop
                // the process before it can send anything.
                answer = LET_PASS;
            }
        }
    }
    if verdict == Verdict::Hold as u8 {
        // Not in the scratch memory: these programs can be preempted by each other.
        let mut held = MaybeUninit::uninit();
        judge::enter_hold(
            // SAFETY: written before it is read.
            unsafe { &mut *held.as_mut_ptr() },
            tgid,
            task.start_ns,
            now_ns,
            labels,
            task.session,
            kind::CONNECT,
            fate,
            &judgement,
        );
        flags |= FLAG_STOPPED;
    }
    if answer == LET_PASS && stream {
        watch(
            ctx,
            &addr,
            u16::from_be(port_be),
            family,
            task,
            tgid,
            pid,
            labels | known.spared,
            known.asked,
        );
    }
    tell(
        &addr,
        u16::from_be(port_be),
        family,
        ctx,
        task,
        tgid,
        pid,
        now_ns,
        flags,
        labels,
        &judgement,
    );
    Some(answer)
}

/// Has a connect be repeated when guardd has read what name servers have said: the thread is stopped on its way out, as
/// for a hold. Only connect(2) itself can be, and only where its result can be set.
#[inline(always)]
fn put_off(tgid: u32, pid: u32, task: &Task) -> bool {
    let Some(config) = judge::config() else {
        return false;
    };
    if CAN_SET_RETVAL.load() == 0 {
        return false;
    }
    let pid_tgid = (tgid as u64) << 32 | pid as u64;
    let Some(call) = CONNECTING.get_ptr_mut(pid_tgid) else {
        return false;
    };
    // SAFETY: the helper has no precondition.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the pointer was checked, and only this very thread uses its entry.
    if unsafe { (*call).inside } == 0 || !exec::enter_waiting(config, tgid, task.start_ns, now_ns) {
        return false;
    }
    // SAFETY: as above; and the helper takes any errno: the stop that AWAITS stands for makes the kernel repeat the
    // call instead of showing this number to the program.
    unsafe {
        (*call).verdict = AWAITS;
        bpf_set_retval(ERESTARTNOINTR);
    }
    true
}

#[inline(always)]
fn is_tcp(ctx: *mut bpf_sock_addr) -> bool {
    const SOCK_STREAM: u32 = 1;
    const IPPROTO_TCP: u32 = 6;
    const IPPROTO_MPTCP: u32 = 262;
    // SAFETY: these fields are readable by these program types.
    let (kind, protocol) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*ctx).type_),
            core::ptr::read_volatile(&raw const (*ctx).protocol),
        )
    };
    kind == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)
}

#[inline(always)]
fn is_udp(ctx: *mut bpf_sock_addr) -> bool {
    const SOCK_DGRAM: u32 = 2;
    const IPPROTO_UDP: u32 = 17;
    // SAFETY: these fields are readable by these program types.
    let (kind, protocol) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*ctx).type_),
            core::ptr::read_volatile(&raw const (*ctx).protocol),
        )
    };
    kind == SOCK_DGRAM && protocol == IPPROTO_UDP
}

/// Has what the socket sends looked at until it has said whom it is for.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "inlined: these are registers, not a design"
)]
fn watch(
    ctx: *mut bpf_sock_addr,
    addr: &[u8; 16],
    port: u16,
    family: u16,
    task: &Task,
    tgid: u32,
    pid: u32,
    judged: u64,
    asked: u32,
) {
    if judge::config().is_none_or(|config| config.in_force().names == 0) {
        return;
    }
    // SAFETY: the field is readable by these program types.
    let sk = unsafe { (*ctx).__bindgen_anon_1.sk };
    let Some(socket) = names::watch(sk) else {
        emit::count(class::VERDICT, false);
        return;
    };
    // SAFETY: the helper has no precondition.
    let thread = unsafe { bpf_get_current_task() };
    // SAFETY: sixteen bytes are four words.
    let words: [u32; 4] = unsafe { core::mem::transmute(*addr) };
    socket.start_ns = task.start_ns;
    socket.excepted = task.excepted;
    socket.judged = judged;
    socket.object = address_object(&words, port.to_be());
    socket.addr = *addr;
    socket.session = task.session;
    socket.tgid = tgid;
    socket.pid = pid;
    socket.ppid = kernel::parent_of(thread).unwrap_or(0);
    socket.uid = bpf_get_current_uid_gid() as u32;
    socket.held = 0;
    socket.kept = 0;
    socket.port = port;
    socket.family = family;
    socket.looked = 0;
    socket.state = connection::OPEN;
    socket.plain = 0;
    socket.waits = 0;
    socket.sent = 0;
    socket.taps = 0;
    socket.told = 0;
    socket.asked = asked;
    socket.handed = names::handed();
    kernel::read_comm(thread, &mut socket.comm);
}

#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "inlined: these are registers, not a design"
)]
fn tell(
    addr: &[u8; 16],
    port: u16,
    family: u16,
    ctx: *mut bpf_sock_addr,
    task: &Task,
    tgid: u32,
    pid: u32,
    now_ns: u64,
    flags: u32,
    labels: u64,
    judgement: &Judgement,
) {
    let Some(mut entry) = emit::reserve::<ConnectRecord>(judgement) else {
        return;
    };
    // SAFETY: every field is written before the record is submitted.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    emit::fill_for(
        &mut record.header,
        kind::CONNECT,
        tier::CGROUP,
        task,
        tgid,
        pid,
        now_ns,
    );
    emit::fill_judgement(&mut record.header, labels, judgement);
    record.header.flags |= flags;
    record.header.latency_ns = emit::since(now_ns);
    record.addr = *addr;
    record.family = family;
    record.port = port;
    // SAFETY: the field is readable by these program types.
    record.socket_type = unsafe { (*ctx).type_ };
    emit::submit(entry, judgement, now_ns);
}

/// `sys_enter_connect`: remembers the descriptor, which the exit does not show, and that this thread is
/// inside connect(2).
#[tracepoint]
pub fn guard_connect_enter(ctx: TracePointContext) -> u32 {
    // SAFETY: the helper has no precondition.
    if lineage::current(unsafe { bpf_get_current_task() }).is_none() {
        return 0;
    }
    // SAFETY: the first argument of a syscall is at offset 16 of every sys_enter_* format.
    let fd = unsafe { *ctx.as_ptr().cast::<u8>().add(16).cast::<u64>() };
    let call = Connecting {
        fd,
        inside: 1,
        verdict: 0,
    };
    let pid_tgid = bpf_get_current_pid_tgid();
    match CONNECTING.get_ptr_mut(pid_tgid) {
        // SAFETY: the pointer was checked, and only this very thread uses its entry.
        Some(old) => unsafe { *old = call },
        None => {
            let _ = CONNECTING.insert(pid_tgid, call, 0);
        }
    }
    0
}

/// `sys_exit_connect`: sends the signal that the cgroup program decided on, and judges AF_UNIX where no better tier
/// does.
#[tracepoint]
pub fn guard_connect_exit(ctx: TracePointContext) -> u32 {
    // SAFETY: the helper has no precondition.
    let thread = unsafe { bpf_get_current_task() };
    let Some((tgid, task)) = lineage::current(thread) else {
        return 0;
    };
    let Some(call) = CONNECTING.get_ptr_mut(bpf_get_current_pid_tgid()) else {
        return 0;
    };
    // SAFETY: the pointer was checked, and only this very thread uses its entry.
    let call = unsafe {
        let done = *call;
        *call = Connecting {
            fd: 0,
            inside: 0,
            verdict: 0,
        };
        done
    };
    if call.verdict == AWAITS {
        exec::stop_and_tell(tgid, task.session, task.start_ns);
        return 0;
    }
    if call.verdict != 0 {
        judge::signal(call.verdict as u8);
        return 0;
    }
    // SAFETY: as for opens.
    let ret = unsafe { *ctx.as_ptr().cast::<u8>().add(SYS_EXIT_RET).cast::<i64>() };
    let by_hook = match judge::config() {
        Some(config) => config.tiers[watched::UNIX] != tier::TRACEPOINT,
        None => return 0,
    };
    if ret == 0 && call.inside != 0 && !by_hook {
        let _ = connected_peer(thread, tgid, task, call.fd);
    }
    0
}

/// `security_unix_stream_connect(struct sock *sock, struct sock *other, struct sock *newsk)`, whatever way the
/// connect came, before anything of either socket is changed. The same code serves as a security module's hook and
/// as a modify-return program on that function.
/// <https://github.com/torvalds/linux/blob/v6.12/security/security.c#L4533>
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/unix_stream_connect")]
pub fn guard_unix_connect(ctx: *mut c_void) -> i32 {
    let other: *const c_void = LsmContext::new(ctx).arg(1);
    at_hook(other as Address)
}

/// `security_unix_may_send(struct socket *sock, struct socket *other)`: a datagram, or the connect of a socket for
/// datagrams.
/// <https://github.com/torvalds/linux/blob/v6.12/security/security.c#L4558>
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/unix_may_send")]
pub fn guard_unix_send(ctx: *mut c_void) -> i32 {
    let other: *const c_void = LsmContext::new(ctx).arg(1);
    match kernel::pointer(other as Address, &SOCKET_SK) {
        Some(other) => at_hook(other),
        None => 0,
    }
}

/// Judges what is about to reach the socket `other`.
#[inline(always)]
fn at_hook(other: Address) -> i32 {
    // SAFETY: the helper has no precondition.
    let Some((tgid, task)) = lineage::current(unsafe { bpf_get_current_task() }) else {
        return 0;
    };
    let Some(config) = judge::config() else {
        return 0;
    };
    let tier = config.tiers[watched::UNIX];
    if copies::is_judged(watched::UNIX, other) {
        return 0;
    }
    let answer = judge_peer(other, other, tgid, task, tier, true)
        .unwrap_or(Done::Goes)
        .answer();
    if answer != 0 {
        copies::is_over();
    }
    answer
}

#[inline(always)]
fn connected_peer(thread: Address, tgid: u32, task: &mut Task, fd: u64) -> Option<()> {
    let file = open::file_of(thread, fd)?;
    let sk = kernel::pointer(kernel::pointer(file, &FILE_PRIVATE)?, &SOCKET_SK)?;
    if kernel::read::<u16>(sk, &SOCK_FAMILY)? != AF_UNIX {
        return None;
    }
    // struct unix_sock begins with its struct sock.
    let peer = kernel::pointer(sk, &UNIX_PEER)?;
    judge_peer(peer, sk, tgid, task, tier::TRACEPOINT, false)?;
    Some(())
}

/// By the file that the socket is bound to. One without (abstract, or nameless) is nobody's to label. Who listens
/// there the listening socket `told` remembers, as does a socket that has been connected to it.
#[inline(always)]
fn judge_peer(
    peer: Address,
    told: Address,
    tgid: u32,
    task: &mut Task,
    tier: u8,
    can_deny: bool,
) -> Option<Done> {
    let dentry = kernel::pointer(peer, &UNIX_DENTRY)?;
    let mnt = kernel::pointer(peer, &UNIX_MNT)?;
    let inode = kernel::pointer(dentry, &DENTRY_INODE)?;
    Some(open::judge_inode(
        inode,
        Place { dentry, mnt },
        None,
        0,
        listener(told).unwrap_or(0),
        kind::CONNECT,
        tgid,
        task,
        tier,
        can_deny,
    ))
}

/// tgid of the process that listens.
#[inline(always)]
fn listener(told: Address) -> Option<u32> {
    let pid = kernel::pointer(told, &SOCK_PEER_PID)?;
    kernel::read(pid, &PID_NUMBERS)
}
