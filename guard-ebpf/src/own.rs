//! guard's own files and mounts: its policy, its programs, its state, the pins of what outlives it. Where a
//! security hook can refuse, a session's attempt to write, replace, remove or cover one of them is the call
//! `guard-files`.

use core::ffi::c_void;

use aya_ebpf::programs::LsmContext;
use guard_common::state::{OwnFile, act, own, watched};

use crate::{
    acts::at_hook,
    kernel::{
        self, Address, DENTRY_INODE, DENTRY_PARENT, FILE_DENTRY, FILE_FLAGS, INODE_INO, INODE_SB,
        PATH_DENTRY, SB_DEV, VFSMOUNT_ROOT,
    },
    maps::OWN_FILES,
    open::WRITES,
};

/// `security_file_open(struct file *file)`: opens that write.
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/file_open")]
pub fn guard_file_write(ctx: *mut c_void) -> i32 {
    let file: *const c_void = LsmContext::new(ctx).arg(0);
    if kernel::read::<u32>(file as Address, &FILE_FLAGS).unwrap_or(0) & WRITES == 0 {
        return 0;
    }
    refuse(own::WRITE, || {
        kernel::pointer(file as Address, &FILE_DENTRY)
    })
}

/// `security_inode_unlink(struct inode *dir, struct dentry *dentry)`, and of `rmdir`.
/// <https://github.com/torvalds/linux/blob/v6.12/security/security.c#L2140>
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/inode_unlink")]
pub fn guard_unlink(ctx: *mut c_void) -> i32 {
    let dentry: *const c_void = LsmContext::new(ctx).arg(1);
    refuse(own::REMOVE, || Some(dentry as Address))
}

/// `security_inode_create(struct inode *dir, struct dentry *dentry, umode_t mode)`.
/// <https://github.com/torvalds/linux/blob/v6.12/security/security.c#L2048>
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/inode_create")]
pub fn guard_create(ctx: *mut c_void) -> i32 {
    let dentry: *const c_void = LsmContext::new(ctx).arg(1);
    refuse(own::CREATE, || Some(dentry as Address))
}

/// `security_inode_rename(struct inode *old_dir, struct dentry *old_dentry, struct inode *new_dir, struct dentry
/// *new_dentry, …)`: away from its place, or into the place of one.
/// <https://github.com/torvalds/linux/blob/v6.12/security/security.c#L2268>
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/inode_rename")]
pub fn guard_rename(ctx: *mut c_void) -> i32 {
    let ctx = LsmContext::new(ctx);
    let (from, to): (*const c_void, *const c_void) = (ctx.arg(1), ctx.arg(3));
    at_hook(watched::OWN_FILES, |_, _| {
        let ino = match own_inode(from as Address) {
            Some(ino) => ino,
            None => own_inode(to as Address)?,
        };
        Some((act::GUARD_FILES, 0, own::RENAME | ino << own::SHIFT))
    })
}

/// `security_path_truncate(const struct path *path)`.
/// <https://github.com/torvalds/linux/blob/v6.12/security/security.c#L1972>
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/path_truncate")]
pub fn guard_truncate(ctx: *mut c_void) -> i32 {
    let path: *const c_void = LsmContext::new(ctx).arg(0);
    refuse(own::WRITE, || {
        kernel::pointer(path as Address, &PATH_DENTRY)
    })
}

/// `security_sb_umount(struct vfsmount *mnt, int flags)`.
/// <https://github.com/torvalds/linux/blob/v6.12/security/security.c#L1505>
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/sb_umount")]
pub fn guard_umount(ctx: *mut c_void) -> i32 {
    let mnt: *const c_void = LsmContext::new(ctx).arg(0);
    refuse(own::UNMOUNT, || {
        kernel::pointer(mnt as Address, &VFSMOUNT_ROOT)
    })
}

/// `security_sb_mount(const char *dev_name, const struct path *path, …)`, and `security_move_mount(const struct
/// path *from_path, const struct path *to_path)`: something else in the place of one.
/// <https://github.com/torvalds/linux/blob/v6.12/security/security.c#L1489>
#[unsafe(no_mangle)]
#[unsafe(link_section = "lsm/sb_mount")]
pub fn guard_mount(ctx: *mut c_void) -> i32 {
    let path: *const c_void = LsmContext::new(ctx).arg(1);
    refuse(own::MOUNT, || {
        kernel::pointer(path as Address, &PATH_DENTRY)
    })
}

#[inline(always)]
fn refuse(what: u64, dentry: impl FnOnce() -> Option<Address>) -> i32 {
    at_hook(watched::OWN_FILES, |_, _| {
        let ino = own_inode(dentry()?)?;
        Some((act::GUARD_FILES, 0, what | ino << own::SHIFT))
    })
}

/// The inode of guard's that this entry is or lies in.
#[inline(always)]
fn own_inode(dentry: Address) -> Option<u64> {
    if let Some(inode) = kernel::pointer(dentry, &DENTRY_INODE)
        && let Some((ino, _)) = known(inode)
    {
        return Some(ino);
    }
    let parent = kernel::pointer(dentry, &DENTRY_PARENT)?;
    let (ino, how) = known(kernel::pointer(parent, &DENTRY_INODE)?)?;
    (how == own::WITH_CONTENT).then_some(ino)
}

#[inline(always)]
fn known(inode: Address) -> Option<(u64, u32)> {
    let file = OwnFile {
        ino: kernel::read(inode, &INODE_INO)?,
        dev: kernel::read(kernel::pointer(inode, &INODE_SB)?, &SB_DEV)?,
        pad: 0,
    };
    // SAFETY: written by userspace only, whole.
    let how = unsafe { OWN_FILES.get(file) }?;
    Some((file.ino, *how))
}
