//! The table of the evasion suite: what an agent may try to get round guard, and what comes of it on each
//! tier. The tests hold it against live kernels; docs/evasions.md is written from it.

use std::fmt::Write as _;

/// What must come of a technique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stopped before it has an effect, and told.
    Stopped,
    /// It has its effect; guard tells it, and what the rule says is done to the process afterwards.
    Seen,
    /// It is done, it is not told, and it gains nothing, for this reason.
    Vain(&'static str),
    /// Neither, for this reason.
    Beyond(&'static str),
}

use Outcome::{Beyond, Seen, Stopped, Vain};

/// A host that a label names.
pub const NAMED_HOST: &str = "api.guard-evasions.test";
/// Another, at an address that it shares with [`OTHER_HOST`].
pub const SHARED_HOST: &str = "shared.guard-evasions.test";
/// A host that no label names.
pub const OTHER_HOST: &str = "www.guard-evasions.test";
/// A host of which a label names requests.
pub const ASKED_HOST: &str = "req.guard-evasions.test";

/// Classes of tiers that differ in what they can do.
pub const CLASSES: [(&str, &[&str]); 3] = [
    ("LSM, modify-return", &["lsm", "modify-return"]),
    ("fentry", &["fentry"]),
    ("tracepoint", &["tracepoint"]),
];

/// What a technique is given besides the secret's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// A file that matches a pattern of the policy and was made after it, by this name.
    File(&'static [u8]),
    /// The secret as its standard input, opened outside the session.
    Stdin,
    /// Pid of a process outside, and where in its memory the secret lies.
    Memory,
    /// Pid of a process outside, and its descriptor of the secret.
    Descriptor,
    /// Pid of a process outside with the secret in its environment.
    Environment,
    /// guardd's pid.
    Guardd,
    /// Pid of a process that is held.
    Held,
    /// Addresses of the servers.
    Servers,
    /// Addresses of the servers that read what is said to them.
    Readers,
    /// A connection that was made outside the session as its standard input.
    Connection,
    /// A socket as its standard input, over which somebody outside sends a descriptor of the secret.
    Sent,
    /// How many processes are many on this machine.
    Many,
    /// Few pids; what is given is the largest.
    FewPids,
    /// Where guard's own files are.
    OwnFiles,
    /// guardctl, its socket, and a hold.
    Guardctl,
}

/// Where a technique is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// Everywhere.
    Anywhere,
    /// Where it is stopped: elsewhere it would end what the other techniques are tried against.
    WhereStopped,
    /// In a virtual machine alone, since it would harm the machine.
    Laboratory,
}

/// One technique.
#[derive(Clone, Copy, Debug)]
pub struct Technique {
    /// Its name for the fixture.
    pub id: &'static str,
    /// What it does, for people.
    pub what: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// By [`CLASSES`].
    pub expected: [Outcome; 3],
    /// Where it is tried.
    pub tried: Where,
    /// It floods, fills or exhausts something, which takes long.
    pub storm: bool,
}

impl Technique {
    const fn only(self, tried: Where) -> Self {
        Self { tried, ..self }
    }

    const fn storm(self) -> Self {
        Self {
            storm: true,
            ..self
        }
    }
}

const fn stopped(id: &'static str, what: &'static str) -> Technique {
    with(id, what, Needs::Nothing)
}

const fn with(id: &'static str, what: &'static str, needs: Needs) -> Technique {
    Technique {
        id,
        what,
        needs,
        expected: [Stopped; 3],
        tried: Where::Anywhere,
        storm: false,
    }
}

const fn acts(
    id: &'static str,
    what: &'static str,
    needs: Needs,
    tracepoint: Outcome,
) -> Technique {
    Technique {
        id,
        what,
        needs,
        expected: [Stopped, Stopped, tracepoint],
        tried: Where::Anywhere,
        storm: false,
    }
}

/// What no tier can do anything about.
const fn beyond(
    id: &'static str,
    what: &'static str,
    needs: Needs,
    why: &'static str,
) -> Technique {
    Technique {
        expected: [Beyond(why); 3],
        ..with(id, what, needs)
    }
}

/// What gains nothing.
const fn vain(id: &'static str, what: &'static str, needs: Needs, why: &'static str) -> Technique {
    Technique {
        expected: [Vain(why); 3],
        ..with(id, what, needs)
    }
}

/// What is said to a server.
const fn reads(id: &'static str, what: &'static str) -> Technique {
    with(id, what, Needs::Readers)
}

/// What only a security hook sees.
const fn at_hooks(id: &'static str, what: &'static str) -> Technique {
    like_tracepoint(acts(id, what, Needs::OwnFiles, NO_HOOK))
}

const NO_HOOK: Outcome = Beyond(
    "no tracepoint shows which file a call is about before it is done; give guard's files a label by their \
     paths there, and opens of them are judged",
);

const ENDED: Outcome = Beyond(
    "guardd is gone when the tracepoint's verdict falls on the caller. What is in the kernel goes on judging and \
     killing without it, and the sentinel, for as long as sessions live; systemd starts guardd again",
);

const OWN_TLS: &str = "what is encrypted by it is not seen; `status` and `show` say of whom and to which host, and a label with \
                       `hosts` judges by the name";

const OUTSIDE: &str = "the file was opened outside the session, by whoever hands the descriptor over: only that open \
                       is judged";

const OVERLAY: Outcome = Beyond(
    "a tracepoint sees the overlay's own file, which has another inode and another path; a pattern that is not \
     anchored, such as `**/.env`, knows it by its name",
);

/// Where a class has no fentry programs of its own (signals, ptrace, bpf), the modify-return tier is forced
/// off with it, and its tracepoints serve.
const fn like_tracepoint(technique: Technique) -> Technique {
    let [best, _, last] = technique.expected;
    Technique {
        expected: [best, last, last],
        ..technique
    }
}

/// Every technique, by area.
pub const AREAS: &[(&str, &[Technique])] = &[
    (
        "Paths",
        &[
            stopped("plain", "the path as it stands in the policy"),
            stopped("relative", "a relative path"),
            stopped("dot-dot", "a path with `..` and `.`"),
            stopped("symlink", "a symbolic link"),
            stopped(
                "symlink-race",
                "a symbolic link that is swapped while it is opened, 1,000 rounds",
            ),
            stopped("hard-link", "a hard link"),
            stopped("rename-before-open", "a rename before the open"),
            stopped("bind-mount", "a bind mount in a mount namespace of its own"),
            stopped(
                "mount-namespace",
                "another root directory in another mount namespace",
            ),
            stopped("proc-self-root", "`/proc/self/root/…`"),
            stopped("o-path-then-proc-fd", "`O_PATH`, then `/proc/self/fd/N`"),
            stopped("o-path-then-dev-fd", "`O_PATH`, then `/dev/fd/N`"),
            stopped("openat2-resolve", "`openat2` with `RESOLVE_*` flags"),
            stopped("open-by-handle", "`open_by_handle_at`"),
            Technique {
                id: "overlay-lower",
                what: "an overlay that has the file in its lower layer",
                needs: Needs::Nothing,
                expected: [Stopped, Stopped, OVERLAY],
                tried: Where::Anywhere,
                storm: false,
            },
            Technique {
                id: "overlay-upper",
                what: "an overlay that has been made to copy the file to its upper layer",
                needs: Needs::Nothing,
                expected: [Stopped, Stopped, OVERLAY],
                tried: Where::Anywhere,
                storm: false,
            },
            with(
                "path-of-255-bytes",
                "a name of 255 bytes",
                Needs::File(&[b'n'; 251]),
            ),
            stopped(
                "path-over-4096-bytes",
                "a path of more than 4,096 bytes, one directory at a time",
            ),
            with(
                "name-not-utf8",
                "a name that is not UTF-8",
                Needs::File(b"\xff\xfe"),
            ),
            with(
                "file-made-after-the-policy",
                "a file made after the policy was loaded",
                Needs::File(b"late"),
            ),
            stopped(
                "name-at-the-end-of-a-page",
                "a name in memory in front of a page that cannot be read",
            ),
        ],
    ),
    (
        "Other ways to the bytes",
        &[
            stopped("sendfile", "`sendfile`"),
            stopped("splice", "`splice`"),
            stopped("copy-file-range", "`copy_file_range`"),
            stopped("mmap", "`mmap`"),
            stopped("io-uring-open", "an open by io_uring"),
            stopped("io-uring-openat2", "`openat2` by io_uring"),
            beyond(
                "inherited-descriptor",
                "a descriptor inherited from outside the session",
                Needs::Stdin,
                OUTSIDE,
            ),
            beyond(
                "descriptor-by-socket",
                "a descriptor that a process outside sends over a socket",
                Needs::Sent,
                OUTSIDE,
            ),
            with(
                "proc-fd-outside",
                "`/proc/PID/fd/N` of a process outside",
                Needs::Descriptor,
            ),
            like_tracepoint(acts(
                "pidfd-getfd",
                "`pidfd_getfd` of a descriptor of a process outside",
                Needs::Descriptor,
                Beyond("no tracepoint shows whose descriptor is taken"),
            )),
            with(
                "process-vm-readv",
                "`process_vm_readv` of a process outside",
                Needs::Memory,
            ),
            with(
                "proc-mem",
                "`/proc/PID/mem` of a process outside",
                Needs::Memory,
            ),
            with(
                "proc-environ",
                "`/proc/PID/environ` of a process outside",
                Needs::Environment,
            ),
            like_tracepoint(acts(
                "ptrace-attach",
                "`ptrace` of a process outside (gdb, injected code)",
                Needs::Memory,
                Seen,
            )),
            like_tracepoint(acts(
                "signal-outside",
                "a signal to a process outside (to have it dump its core)",
                Needs::Environment,
                Seen,
            )),
        ],
    ),
    (
        "Lineage",
        &[
            stopped("double-fork", "a double fork"),
            stopped("setsid", "sessions of their own (`setsid`), twice"),
            stopped("prctl-rename", "another name by `prctl`"),
            stopped("thread-exec", "an exec by a thread that is not the first"),
            stopped("vfork", "`CLONE_VFORK`"),
            stopped("clone-parent", "`CLONE_PARENT`"),
            stopped("clone3", "`clone3`"),
            stopped("subreaper", "a subreaper"),
            stopped("nohup", "a process that ignores SIGHUP"),
            stopped("pid-namespace", "a pid namespace"),
            stopped("user-namespace", "a user namespace"),
            stopped("memfd-exec", "a program that lies in memory alone"),
            stopped("ld-so", "`ld.so PROGRAM`"),
            stopped("script", "a script by its interpreter"),
            stopped("copied-binary", "a program copied under another name"),
            stopped("thread", "a thread"),
            stopped(
                "setuid-program",
                "a setuid program, started by an unprivileged user",
            ),
            with(
                "many-processes",
                "50,000 short processes before (500 where the processor is emulated)",
                Needs::Many,
            )
            .storm(),
            with(
                "pid-wrap",
                "pids that have come round: a pid that was another's",
                Needs::FewPids,
            )
            .only(Where::Laboratory)
            .storm(),
            stopped("execute-labelled", "a program that carries a label"),
        ],
    ),
    (
        "Asking others",
        &[
            with(
                "broker-unix",
                "a broker's socket file (systemd's and D-Bus's, docker, containerd, podman, tmux). The default policy flags \
                 it and follows what docker, containerd and podman run (`docker run`, `docker exec`); units asked for over \
                 D-Bus, commands typed into a running screen or tmux, and what a language server or build daemon does \
                 are not followed",
                Needs::Servers,
            ),
            like_tracepoint(acts(
                "broker-datagram",
                "a datagram to a broker's socket file, without a connect",
                Needs::Servers,
                Beyond("no tracepoint of connect sees a datagram that is sent without one"),
            )),
            with(
                "broker-tcp",
                "a broker's port (`ssh localhost`, a build daemon); the same is true of it",
                Needs::Servers,
            ),
            with(
                "followed-server",
                "a server outside that runs what it is asked to (a tmux window, a unit of `systemd-run`), where its \
                 label says `follow`",
                Needs::Servers,
            ),
            stopped(
                "startup-file",
                "a line in a shell's start-up file (`~/.bashrc`)",
            ),
            stopped("git-hook", "a hook of a repository (`.git/hooks`)"),
            stopped("crontab", "a line in a crontab (`/etc/crontab`)"),
            stopped(
                "spool",
                "a file in a spool directory of cron or at (labelled as `dir/*`; for what that costs, the default \
                 policy does not)",
            ),
        ],
    ),
    (
        "Network",
        &[
            with("tcp", "TCP over IPv4", Needs::Servers),
            with("tcp6", "TCP over IPv6", Needs::Servers),
            with("v4-mapped", "an IPv4 address in IPv6", Needs::Servers),
            with("udp-connected", "connected UDP", Needs::Servers),
            with("udp-sendto", "UDP by `sendto`", Needs::Servers),
            with("udp6-sendto", "UDP over IPv6 by `sendto`", Needs::Servers),
            with("udp-sendmmsg", "UDP by `sendmmsg`", Needs::Servers),
            with(
                "fastopen-connect",
                "TCP fast open by `connect`",
                Needs::Servers,
            ),
            with(
                "fastopen-sendto",
                "TCP fast open by `sendto` with `MSG_FASTOPEN`",
                Needs::Servers,
            ),
            with("io-uring-connect", "a connect by io_uring", Needs::Servers),
            with("io-uring-sendmsg", "a datagram by io_uring", Needs::Servers),
            with("raw-socket", "a raw socket", Needs::Servers),
            with("packet-socket", "a packet socket", Needs::Servers),
            with("vsock", "AF_VSOCK", Needs::Servers),
            with("sctp", "SCTP", Needs::Servers),
            with("mptcp", "MPTCP", Needs::Servers),
            with(
                "network-namespace",
                "a network namespace of its own",
                Needs::Servers,
            ),
            beyond(
                "proxy",
                "a proxy, or an ssh tunnel that is there already, on the loopback",
                Needs::Servers,
                "the proxy makes the connection, and it is outside the session: give its own address a label",
            ),
            beyond(
                "inherited-socket",
                "a connected socket inherited from outside the session",
                Needs::Connection,
                "the connection was made outside the session: only that call is judged",
            ),
        ],
    ),
    (
        "Names",
        &[
            reads("hello", "a ClientHello that says the name (SNI)"),
            reads("hello-bytes", "a ClientHello in segments of one byte"),
            reads(
                "hello-records",
                "a ClientHello in TLS records of seven bytes",
            ),
            reads("hello-capitals", "a ClientHello with the name in capitals"),
            reads(
                "hello-long",
                "a ClientHello of 1,700 bytes, as with a post-quantum key",
            ),
            reads(
                "hello-too-long",
                "a ClientHello longer than what is read of it, where a label has `hosts = [\"unknown\"]`",
            ),
            reads(
                "hello-ech",
                "an encrypted ClientHello (ECH), where a label has `hosts = [\"unknown\"]`",
            ),
            reads(
                "hello-proxy",
                "a ClientHello behind a proxy's CONNECT, on the loopback",
            ),
            reads(
                "hello-address",
                "an address that a name server gave for the name, and a ClientHello without one",
            ),
            reads(
                "hello-contradicts",
                "an address that a name server gave for the name, and another name in the ClientHello",
            ),
            beyond(
                "hello-shared",
                "domain fronting: an address of several hosts, and the name of a harmless one of them in the ClientHello",
                Needs::Readers,
                "the name that counts is said inside TLS, after the ClientHello: requests are known by their `Host` (see \
                 Requests below), connections are not",
            ),
            reads("quic", "QUIC"),
        ],
    ),
    (
        "Requests",
        &[
            reads(
                "request",
                "a request over TLS, by OpenSSL (what requests.md calls disguises are forms of it)",
            ),
            reads("request-bytes", "a request in writes of one byte"),
            reads(
                "request-second",
                "a second request on a connection, behind a harmless one",
            ),
            reads(
                "request-pipelined",
                "a request in the same write as a harmless one before it",
            ),
            reads(
                "request-override",
                "another method in the request line (`X-HTTP-Method-Override`)",
            ),
            reads(
                "request-fronted",
                "another name in the ClientHello than in the request, at an address that a name server gave for the latter",
            ),
            reads(
                "request-handed",
                "a child that speaks over a connection that its parent has made",
            ),
            reads(
                "request-fork",
                "a child that speaks over its parent's TLS connection",
            ),
            reads(
                "library-copy",
                "a copy of the TLS library under another name",
            ),
            reads(
                "library-memory",
                "a copy of the TLS library that lies in memory alone",
            ),
            reads(
                "library-late",
                "a copy of the TLS library that is loaded after the process has spoken by the first",
            ),
            beyond(
                "own-tls",
                "a TLS library without a function to be found (rustls, stripped)",
                Needs::Readers,
                OWN_TLS,
            ),
            beyond(
                "own-tls-late",
                "the same in a process that has spoken by OpenSSL before",
                Needs::Readers,
                OWN_TLS,
            ),
            reads("plain", "a request without TLS, on any port"),
            reads(
                "plain-bytes",
                "a request without TLS in segments of one byte",
            ),
            reads(
                "plain-second",
                "a second request without TLS, behind a harmless one",
            ),
            reads(
                "plain-fork",
                "a child that speaks over its parent's connection without TLS",
            ),
        ],
    ),
    (
        "guard itself",
        &[
            like_tracepoint(acts(
                "signal-guardd",
                "a signal to guardd",
                Needs::Guardd,
                Seen,
            )),
            like_tracepoint(acts(
                "kill-guardd",
                "SIGKILL to guardd",
                Needs::Guardd,
                ENDED,
            ))
            .only(Where::WhereStopped),
            like_tracepoint(acts(
                "stop-guardd",
                "SIGSTOP to guardd",
                Needs::Guardd,
                ENDED,
            ))
            .only(Where::WhereStopped),
            like_tracepoint(acts(
                "ptrace-guardd",
                "`ptrace` of guardd",
                Needs::Guardd,
                Seen,
            )),
            like_tracepoint(acts(
                "resume-held",
                "SIGCONT to a held process",
                Needs::Held,
                Seen,
            )),
            like_tracepoint(acts("bpf", "`bpf()`", Needs::Nothing, Seen)),
            like_tracepoint(acts(
                "bpf-open-pin",
                "`bpf()` to get hold of what is pinned, to detach it or to edit a table",
                Needs::OwnFiles,
                Seen,
            )),
            at_hooks("remove-pins", "removing a pin"),
            at_hooks("unmount-pins", "unmounting the file system of the pins")
                .only(Where::WhereStopped),
            at_hooks("cover-state", "mounting something over the state directory"),
            at_hooks(
                "write-policy",
                "writing the policy (the programs, the unit)",
            ),
            at_hooks("replace-policy", "renaming another policy into its place"),
            at_hooks("write-state", "writing to a file of the journal's"),
            at_hooks("truncate-state", "cutting a file of the journal's short"),
            at_hooks("remove-state", "removing a file of the journal's"),
            at_hooks("create-state", "a new file among the journal's"),
            stopped(
                "flood",
                "filling the ring buffers with 20,000 opens, then the file",
            )
            .storm(),
            with(
                "flood-socket",
                "hundreds of connections to guardd, with nonsense on each, then the file",
                Needs::Guardctl,
            )
            .storm(),
            stopped(
                "fill-disk",
                "filling the disk that the journal is on, then the file",
            )
            .only(Where::Laboratory)
            .storm(),
            vain(
                "answer-hold",
                "`guardctl approve` from inside a session",
                Needs::Guardctl,
                "guardd refuses answers from inside a session",
            ),
            vain(
                "set-clock",
                "changing the clock",
                Needs::Nothing,
                "deadlines and leases are kept by the monotonic clock",
            )
            .only(Where::Laboratory),
            with(
                "exhaust-pids",
                "making processes until there are no pids left, then the file",
                Needs::FewPids,
            )
            .only(Where::Laboratory)
            .storm(),
            stopped(
                "exhaust-memory",
                "taking memory until the kernel kills, then the file",
            )
            .only(Where::Laboratory)
            .storm(),
        ],
    ),
];

/// Every technique.
pub fn all() -> impl Iterator<Item = &'static Technique> {
    AREAS.iter().flat_map(|(_, techniques)| techniques.iter())
}

/// The place of a tier in [`CLASSES`].
pub fn class_of(tier: &str) -> Option<usize> {
    CLASSES.iter().position(|(_, tiers)| tiers.contains(&tier))
}

/// docs/evasions.md.
pub fn document() -> String {
    let mut text = String::from(
        "# Evasions\n\n\
         What an agent may try to get round guard, and what comes of it. This page is written from the table \
         in `tests/src/evasion.rs`\n(`GUARD_WRITE_DOCS=1 cargo xtask test --e2e the_document`), and the test \
         program `evasions` holds each line against live\nkernels: on the machine it runs on, and in the \
         laboratory on every kernel with every tier that this kernel offers. A\nline that is not so fails the \
         suite.\n\n\
         *Stopped*: before it has an effect, proved by the effect's absence, and told. *Seen*: it has its \
         effect, it is told,\nand what the rule says is done to the process afterwards. *In vain*: nobody hinders it, \
         and it gains nothing. The\nrules deny; where a tier cannot deny, they kill. What would harm the machine is \
         tried in the laboratory alone, and what would end guardd only where it is stopped. On kernels\nthat preempt, a program of a tier below the first can be left out by the \
         kernel; that is counted and shown by `guardctl\nstatus` (threat-model.md).\n",
    );
    let mut reasons: Vec<&str> = Vec::new();
    for (area, techniques) in AREAS {
        let _ = writeln!(text, "\n## {area}\n");
        let names: Vec<&str> = CLASSES.iter().map(|(name, _)| *name).collect();
        let _ = writeln!(text, "| technique | {} |", names.join(" | "));
        let _ = writeln!(text, "| --- |{}", " --- |".repeat(names.len()));
        for technique in *techniques {
            let mut cells = Vec::new();
            for outcome in technique.expected {
                cells.push(match outcome {
                    Stopped => "stopped".to_owned(),
                    Seen => "seen".to_owned(),
                    Vain(reason) | Beyond(reason) => {
                        let at = reasons.iter().position(|known| *known == reason);
                        let at = at.unwrap_or_else(|| {
                            reasons.push(reason);
                            reasons.len() - 1
                        });
                        let word = match outcome {
                            Vain(_) => "in vain",
                            _ => "not possible",
                        };
                        format!("{word} ({})", at + 1)
                    }
                });
            }
            let _ = writeln!(text, "| {} | {} |", technique.what, cells.join(" | "));
        }
    }
    text.push_str("\n## Why\n\n");
    for (at, reason) in reasons.iter().enumerate() {
        let _ = writeln!(text, "{}. {reason}.", at + 1);
    }
    text
}
