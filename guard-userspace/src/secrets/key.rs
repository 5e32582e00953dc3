//! What is kept of a value: a keyed hash, so that who reads it cannot try guesses without the key.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use hmac::{Hmac, Mac as _};
use rustix::{
    fs::OFlags,
    rand::{GetRandomFlags, getrandom},
};
use serde::{Serialize, Serializer};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::hex;

/// The key's name in the state directory: 64 hexadecimal digits, mode 0600.
pub const KEY_FILE: &str = "secrets.key";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file cannot be read or made.
    #[error("{}: {cause}: make it readable for guard, or remove it to have a new one", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it gave.
        cause: io::Error,
    },
    /// Others may read or change it.
    #[error("{}: others than its owner may read it: remove it to have a new one", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// It is no key.
    #[error("{}: not 64 hexadecimal digits: remove it to have a new one", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
}

/// The first 128 bits of the HMAC-SHA256 of a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 16]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A key of 256 bits, ready to hash.
#[derive(Clone)]
pub struct Keyed(Hmac<Sha256>);

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyed(..)")
    }
}

impl Keyed {
    /// A key that nobody else has, and that is gone with this value.
    pub fn random() -> io::Result<Self> {
        Ok(Self::new(&*seed()?))
    }

    fn new(key: &[u8; 32]) -> Self {
        // HMAC takes keys of any length; one of the block's length at most is used as it is (RFC 2104, 2).
        let mut block = Zeroizing::new([0; 64]);
        block[..32].copy_from_slice(key);
        Self(Hmac::<Sha256>::new((&*block).into()))
    }

    /// The key of a state directory; `None` where there is none.
    pub fn load(dir: &Path) -> Result<Option<Self>, KeyError> {
        let path = dir.join(KEY_FILE);
        let failed = |cause| KeyError::File {
            path: path.clone(),
            cause,
        };
        let mut file = match fs::OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(&path)
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
            return Err(KeyError::Open { path });
        }
        let mut text = Zeroizing::new(String::with_capacity(80));
        (&mut file)
            .take(80)
            .read_to_string(&mut text)
            .map_err(failed)?;
        let key = hex::decode::<32>(text.trim())
            .map(Zeroizing::new)
            .ok_or_else(|| KeyError::Content { path: path.clone() })?;
        Ok(Some(Self::new(&key)))
    }

    /// The key of a state directory, made where there is none. Of two that make one at once, both get the same.
    pub fn load_or_make(dir: &Path) -> Result<Self, KeyError> {
        if let Some(key) = Self::load(dir)? {
            return Ok(key);
        }
        let path = dir.join(KEY_FILE);
        let make = || -> io::Result<()> {
            let text = Zeroizing::new(hex::encode(&*seed()?));
            let mut file = tempfile_in(dir)?;
            file.1.write_all(text.as_bytes())?;
            file.1.write_all(b"\n")?;
            file.1.sync_all()?;
            // A link does not replace: whoever comes second uses what is there.
            let linked = fs::hard_link(&file.0, &path);
            fs::remove_file(&file.0)?;
            match linked {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => fs::File::open(dir)?.sync_all(),
            }
        };
        make().map_err(|cause| KeyError::File {
            path: path.clone(),
            cause,
        })?;
        Self::load(dir)?.ok_or_else(|| KeyError::File {
            path,
            cause: io::ErrorKind::NotFound.into(),
        })
    }

    /// The hash of a value.
    pub fn hash(&self, value: &[u8]) -> Hash {
        let mut mac = self.0.clone();
        mac.update(value);
        let whole = mac.finalize().into_bytes();
        let mut hash = [0; 16];
        hash.copy_from_slice(&whole[..16]);
        Hash(hash)
    }
}

fn seed() -> io::Result<Zeroizing<[u8; 32]>> {
    let mut seed = Zeroizing::new([0; 32]);
    let mut have = 0;
    while have < seed.len() {
        have += getrandom(&mut seed[have..], GetRandomFlags::empty())?;
    }
    Ok(seed)
}

/// A new file of our own beside the key.
fn tempfile_in(dir: &Path) -> io::Result<(PathBuf, fs::File)> {
    let mut name = [0; 8];
    getrandom(&mut name, GetRandomFlags::empty())?;
    let path = dir.join(format!("{KEY_FILE}.{}", hex::encode(&name)));
    let file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    Ok((path, file))
}
