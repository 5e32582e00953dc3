//! User accounts by name and by number, through the C library so that LDAP and the like count too.

use std::{
    ffi::{CStr, CString},
    io, ptr,
};

/// A user account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name.
    pub name: CString,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: CString,
    /// Login shell.
    pub shell: CString,
}

impl Account {
    /// By login name; `None` where there is none.
    pub fn by_name(name: &str) -> io::Result<Option<Self>> {
        let Ok(name) = CString::new(name) else {
            return Ok(None);
        };
        // SAFETY: the pointers are what `look_up` promises, and `name` is a string that outlives
        // the call.
        look_up(|entry, buf, len, found| unsafe {
            libc::getpwnam_r(name.as_ptr(), entry, buf, len, found)
        })
    }

    /// By user id; `None` where there is none.
    pub fn by_uid(uid: u32) -> io::Result<Option<Self>> {
        // SAFETY: the pointers are what `look_up` promises.
        look_up(|entry, buf, len, found| unsafe { libc::getpwuid_r(uid, entry, buf, len, found) })
    }
}

/// The user's name for people, or the number where it has none.
pub fn user_name(uid: u32) -> String {
    match Account::by_uid(uid) {
        Ok(Some(account)) => super::escape::text(&account.name.to_string_lossy()),
        _ => format!("uid {uid}"),
    }
}

/// Calls `get` with an entry to fill, a buffer and its length, and where to put the answer, all
/// valid for the call; again with a larger buffer where it asks for one.
fn look_up(
    get: impl Fn(*mut libc::passwd, *mut libc::c_char, usize, *mut *mut libc::passwd) -> libc::c_int,
) -> io::Result<Option<Account>> {
    let mut buffer = vec![0; 1024];
    loop {
        // SAFETY: passwd is plain integers and pointers, for which zero is a value.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = ptr::null_mut();
        match get(&mut entry, buffer.as_mut_ptr(), buffer.len(), &mut found) {
            libc::ERANGE if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 2, 0),
            libc::EINTR => {}
            // "Not found" has many numbers; see NOTES in getpwnam(3).
            0 | libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM if found.is_null() => {
                return Ok(None);
            }
            0 => {
                let copy = |text: *const libc::c_char| {
                    if text.is_null() {
                        return CString::default();
                    }
                    // SAFETY: the fields of a found entry point at strings in `buffer`, which lives
                    // to the end of this iteration.
                    unsafe { CStr::from_ptr(text) }.to_owned()
                };
                return Ok(Some(Account {
                    name: copy(entry.pw_name),
                    uid: entry.pw_uid,
                    gid: entry.pw_gid,
                    home: copy(entry.pw_dir),
                    shell: copy(entry.pw_shell),
                }));
            }
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_by_name_and_by_number() {
        let root = Account::by_name("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(Account::by_uid(0).unwrap().unwrap(), root);
        assert_eq!(user_name(0), "root");
    }

    #[test]
    fn a_user_that_does_not_exist_is_none_and_has_a_number() {
        assert_eq!(Account::by_name("no-such-user-here").unwrap(), None);
        assert_eq!(Account::by_name("nul\0in-it").unwrap(), None);
        assert_eq!(user_name(3_999_999_999), "uid 3999999999");
    }
}
