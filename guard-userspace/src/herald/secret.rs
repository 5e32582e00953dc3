//! Secrets, from the files that the policy names: never from the policy, which everybody may read.

use std::{
    fmt,
    fs::File,
    io::Read as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// The longest one, in bytes.
const LONGEST: u64 = 16 * 1024;

/// A secret, without the line break that editors put behind it. It prints itself as `***`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Secret {
    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// For a test.
    #[cfg(test)]
    pub(crate) fn of_test(text: &str) -> Self {
        Self(text.into())
    }

    /// As text, for a header.
    pub(crate) fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

/// Reads a file by its whole path, or a systemd credential by its name.
///
/// # Errors
/// In words, when it cannot be read, or others than root can.
pub(crate) fn read(named: &Path) -> Result<Secret, String> {
    let path = place(named)?;
    read_owned(&path, 0)
}

/// <https://systemd.io/CREDENTIALS/>
fn place(named: &Path) -> Result<PathBuf, String> {
    if named.is_absolute() {
        return Ok(named.to_owned());
    }
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(dir) => Ok(Path::new(&dir).join(named)),
        None => Err(format!(
            "credential {}: guardd was given none: write LoadCredential= into its unit, or name a file by its whole path",
            named.display()
        )),
    }
}

fn read_owned(path: &Path, owner: u32) -> Result<Secret, String> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| {
        format!("secret {shown}: {error}: write the secret there, for root alone (mode 0600)")
    };
    // A FIFO in its place must not keep the herald waiting.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(format!("secret {shown}: it is no file: put a file there"));
    }
    if meta.uid() != owner {
        return Err(format!(
            "secret {shown}: it belongs to uid {}, who can read it: run 'chown root {shown}'",
            meta.uid()
        ));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(format!(
            "secret {shown}: its mode is {:04o}, so others than root can read it: run 'chmod 0600 {shown}'",
            meta.mode() & 0o7777
        ));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    bytes.truncate(bytes.trim_ascii_end().len());
    if bytes.is_empty() || bytes.len() as u64 > LONGEST {
        return Err(format!(
            "secret {shown}: it is {}: expected 1 to {LONGEST} bytes",
            if bytes.is_empty() {
                "empty"
            } else {
                "too long"
            }
        ));
    }
    Ok(Secret(bytes))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_secret_is_read_only_where_nobody_else_can() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "a-token-of-a-test\n").unwrap();
        let own = fs::metadata(&path).unwrap().uid();
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o600);
        let secret = read_owned(&path, own).unwrap();
        assert_eq!(secret.bytes(), b"a-token-of-a-test");
        assert_eq!(format!("{secret:?}"), "***");
        for wide in [0o640, 0o604, 0o620, 0o666] {
            mode(wide);
            let said = read_owned(&path, own).unwrap_err();
            assert!(said.contains("chmod 0600"), "{said}");
            assert!(!said.contains("a-token"), "{said}");
        }
        mode(0o400);
        assert!(read_owned(&path, own).is_ok());
        let said = read_owned(&path, own.wrapping_add(1)).unwrap_err();
        assert!(said.contains("belongs to uid"), "{said}");
    }

    #[test]
    fn what_is_no_secret_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        let own = fs::metadata(dir.path()).unwrap().uid();
        let empty = dir.path().join("empty");
        fs::write(&empty, "\n").unwrap();
        fs::set_permissions(&empty, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_owned(&empty, own).unwrap_err().contains("empty"));
        assert!(read_owned(dir.path(), own).unwrap_err().contains("no file"));
        let gone = read_owned(&dir.path().join("gone"), own).unwrap_err();
        assert!(gone.contains("No such file"), "{gone}");
        let said = place(Path::new("slack-token"));
        assert!(said.is_err() || std::env::var_os("CREDENTIALS_DIRECTORY").is_some());
    }
}
