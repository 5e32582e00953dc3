//! The journal's key: made at the first start, kept in the state directory for root alone.

use std::{
    fmt,
    fs::{self, Permissions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use rustix::rand::{GetRandomFlags, getrandom};

use super::{JournalError, hex, segment::private};

/// Name of the secret half in the state directory: 64 hexadecimal digits, mode 0600.
const FILE: &str = "journal.key";

/// Who can sign: the secret half.
pub(super) struct Key(SigningKey);

/// The public half, as 64 hexadecimal digits (RFC 8032, 5.1.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl Key {
    /// A new one, of the kernel's randomness; kept by [`Self::keep`].
    pub(super) fn new() -> io::Result<Self> {
        let mut seed = [0; 32];
        let mut have = 0;
        while have < seed.len() {
            have += getrandom(&mut seed[have..], GetRandomFlags::empty())?;
        }
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Writes it down, whole or not at all.
    pub(super) fn keep(&self, dir: &Path) -> io::Result<()> {
        let (path, new) = (path(dir), dir.join("journal.key.new"));
        let mut file = private().write(true).truncate(true).open(&new)?;
        writeln!(file, "{}", hex::encode(&self.0.to_bytes()))?;
        file.sync_all()?;
        fs::rename(new, path)
    }

    /// The one of this directory; `None` where there is none yet. The flag says that others could have read it,
    /// which is ended.
    pub(super) fn load(dir: &Path) -> Result<Option<(Self, bool)>, JournalError> {
        let path = path(dir);
        let failed = |cause| JournalError::Key {
            path: path.clone(),
            cause,
        };
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(failed)?,
        };
        let seed = hex::decode::<32>(text.trim().as_bytes()).ok_or_else(|| {
            failed(io::Error::new(
                io::ErrorKind::InvalidData,
                "not 64 hexadecimal digits",
            ))
        })?;
        let open = fs::metadata(&path).map_err(failed)?.mode() & 0o077 != 0;
        if open {
            fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
        }
        Ok(Some((Self(SigningKey::from_bytes(&seed)), open)))
    }

    pub(super) fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// 128 hexadecimal digits.
    pub(super) fn sign(&self, message: &[u8]) -> String {
        hex::encode(&self.0.sign(message).to_bytes())
    }
}

impl PublicKey {
    /// The public half of the key in a state directory, where it is there and may be read.
    pub(super) fn of(dir: &Path) -> Option<Self> {
        let (key, _) = Key::load(dir).ok()??;
        Some(key.public())
    }

    /// Whether `signature` (128 hexadecimal digits) is this key's under `message`.
    pub(super) fn signed(&self, message: &[u8], signature: &str) -> bool {
        hex::decode::<64>(signature.as_bytes()).is_some_and(|bytes| {
            self.0
                .verify_strict(message, &Signature::from_bytes(&bytes))
                .is_ok()
        })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.as_bytes()))
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        hex::decode::<32>(text.trim().to_ascii_lowercase().as_bytes())
            .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
            .map(Self)
            .ok_or_else(|| {
                "not a public key: 64 hexadecimal digits, as `guardctl status --json` and `guardctl verify` print it"
                    .into()
            })
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}
