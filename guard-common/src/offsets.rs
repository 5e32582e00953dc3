//! Kernel fields that the programs read, by name. Userspace resolves each from the running kernel's
//! BTF and sets the global of the same name before loading; [`MISSING`] turns off what needs it.

/// A field that the running kernel's BTF does not have.
pub const MISSING: u32 = u32::MAX;

/// One field: the global's name in the object, the struct, the path of members, and what is off
/// without it.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Symbol of the setting in the BPF object, a `u32`.
    pub global: &'static str,
    /// The structure, with the spellings it has had, newest last.
    pub strukt: &'static str,
    /// Member paths to try in order (a field that was renamed has several), dots between nested
    /// members.
    pub members: &'static [&'static str],
    /// What cannot work without it.
    pub needed_for: Need,
}

/// What a field is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Lineage: guard cannot run without it.
    Lineage,
    /// Opens by tracepoint.
    Open,
    /// Names and paths of files.
    Paths,
    /// Exec: argv, script, environment.
    Exec,
    /// Programs whose file carries a label.
    Program,
    /// AF_UNIX connects.
    Unix,
    /// What a server starts for a session.
    Follow,
    /// Sparing an interactive shell's job the stop.
    Jobs,
    /// Exceptions only for programs older than the session.
    ProgramAge,
    /// Repeating a held open, where it could be refused.
    Repeat,
    /// guard's own files.
    Own,
    /// Believing a name server that an address may be reached.
    Spares,
}

macro_rules! fields {
    ($($global:ident: $strukt:literal $([$member:literal])+ $need:ident;)*) => {
        /// Every field, in the order of the globals.
        pub const FIELDS: &[Field] = &[
            $(Field {
                global: stringify!($global),
                strukt: $strukt,
                members: &[$($member),+],
                needed_for: Need::$need,
            }),*
        ];
    };
}

fields! {
    TASK_TGID: "task_struct" ["tgid"] Lineage;
    TASK_PID: "task_struct" ["pid"] Lineage;
    TASK_GROUP_LEADER: "task_struct" ["group_leader"] Lineage;
    // start_boottime since 5.5 (real_start_time before).
    TASK_START: "task_struct" ["start_boottime"] ["real_start_time"] Lineage;
    TASK_REAL_PARENT: "task_struct" ["real_parent"] Lineage;
    TASK_COMM: "task_struct" ["comm"] Lineage;
    TASK_SIGNAL: "task_struct" ["signal"] Lineage;
    SIGNAL_LIVE: "signal_struct" ["live.counter"] Lineage;
    TASK_FILES: "task_struct" ["files"] Open;
    FILES_FDT: "files_struct" ["fdt"] Open;
    FDT_FD: "fdtable" ["fd"] Open;
    FDT_MAX: "fdtable" ["max_fds"] Open;
    FILE_INODE: "file" ["f_inode"] Open;
    FILE_DENTRY: "file" ["f_path.dentry"] Open;
    FILE_MNT: "file" ["f_path.mnt"] Open;
    FILE_FLAGS: "file" ["f_flags"] Open;
    INODE_INO: "inode" ["i_ino"] Open;
    INODE_SB: "inode" ["i_sb"] Open;
    INODE_MODE: "inode" ["i_mode"] Open;
    INODE_GENERATION: "inode" ["i_generation"] Open;
    SB_DEV: "super_block" ["s_dev"] Open;
    DENTRY_NAME: "dentry" ["d_name.name"] ["__d_name.name"] Paths;
    DENTRY_HASH_LEN: "dentry" ["d_name.hash_len"] ["__d_name.hash_len"] Paths;
    DENTRY_PARENT: "dentry" ["d_parent"] Paths;
    MOUNT_MNT: "mount" ["mnt"] Paths;
    MOUNT_PARENT: "mount" ["mnt_parent"] Paths;
    MOUNT_POINT: "mount" ["mnt_mountpoint"] Paths;
    VFSMOUNT_ROOT: "vfsmount" ["mnt_root"] Paths;
    TASK_MM: "task_struct" ["mm"] Exec;
    MM_ARG_START: "mm_struct" ["arg_start"] Exec;
    MM_ARG_END: "mm_struct" ["arg_end"] Exec;
    MM_ENV_START: "mm_struct" ["env_start"] Exec;
    MM_ENV_END: "mm_struct" ["env_end"] Exec;
    MM_EXE_FILE: "mm_struct" ["exe_file"] Exec;
    BPRM_FILENAME: "linux_binprm" ["filename"] Exec;
    BPRM_INTERP: "linux_binprm" ["interp"] Exec;
    FILE_PRIVATE: "file" ["private_data"] Unix;
    SOCKET_SK: "socket" ["sk"] Unix;
    SOCK_FAMILY: "sock" ["__sk_common.skc_family"] Unix;
    UNIX_PEER: "unix_sock" ["peer"] Unix;
    UNIX_DENTRY: "unix_sock" ["path.dentry"] Unix;
    UNIX_MNT: "unix_sock" ["path.mnt"] Unix;
    DENTRY_INODE: "dentry" ["d_inode"] Unix;
    SOCK_PEER_PID: "sock" ["sk_peer_pid"] Follow;
    // Of struct upid, which begins with the number.
    PID_NUMBERS: "pid" ["numbers"] Follow;
    SIGNAL_TTY: "signal_struct" ["tty"] Jobs;
    SIGNAL_PIDS: "signal_struct" ["pids"] Jobs;
    // __i_ctime (6.6), i_ctime_sec (6.11); struct timespec64 begins with tv_sec.
    FILE_MODE: "file" ["f_mode"] Repeat;
    // x86-64, arm64.
    REGS_NR: "pt_regs" ["orig_ax"] ["syscallno"] Repeat;
    BPRM_FILE: "linux_binprm" ["file"] Program;
    PATH_DENTRY: "path" ["dentry"] Own;
    SOCK_NET: "sock" ["__sk_common.skc_net.net"] Spares;
    NET_INUM: "net" ["ns.inum"] Spares;
    INODE_CTIME: "inode" ["i_ctime_sec"] ["__i_ctime"] ["i_ctime"] ProgramAge;
}
