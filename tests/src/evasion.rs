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
    /// Neither, for this reason.
    Beyond(&'static str),
}

use Outcome::{Beyond, Seen, Stopped};

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
    }
}

const OUTSIDE: Outcome = Beyond(
    "the file was opened outside the session, by whoever hands the descriptor over: only that open is judged",
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
                expected: [
                    Stopped,
                    Stopped,
                    Beyond(
                        "a tracepoint sees the overlay's own file, which has another inode and another path; a \
                         pattern that is not anchored, such as `**/.env`, knows it by its name",
                    ),
                ],
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
            Technique {
                id: "inherited-descriptor",
                what: "a descriptor inherited from outside the session",
                needs: Needs::Stdin,
                expected: [OUTSIDE, OUTSIDE, OUTSIDE],
            },
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
                "`ptrace` of a process outside",
                Needs::Memory,
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
            stopped("many-processes", "500 short processes before"),
            stopped("execute-labelled", "a program that carries a label"),
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
         effect, it is told,\nand what the rule says is done to the process afterwards. The rules deny; where \
         a tier cannot deny, they kill.\n",
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
                    Beyond(reason) => {
                        let at = reasons.iter().position(|known| *known == reason);
                        let at = at.unwrap_or_else(|| {
                            reasons.push(reason);
                            reasons.len() - 1
                        });
                        format!("not possible ({})", at + 1)
                    }
                });
            }
            let _ = writeln!(text, "| {} | {} |", technique.what, cells.join(" | "));
        }
    }
    text.push_str("\n## Why not\n\n");
    for (at, reason) in reasons.iter().enumerate() {
        let _ = writeln!(text, "{}. {reason}.", at + 1);
    }
    text
}
