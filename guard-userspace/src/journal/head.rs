//! The head: a small file beside the segments that says, signed, how far the journal goes and where it begins. It
//! is what shows that a tail was cut off cleanly, which the chain alone cannot.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    JournalError, checkpoint,
    key::{Key, PublicKey},
    line::Chain,
    segment::private,
};

const FILE: &str = "head";
/// Before the signed bytes, so that no signature of guard's means two things.
const PREFIX: &[u8] = b"guard journal head 1\n";
const SIGNATURE: &[u8] = b",\"signature\":\"";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    v: u32,
    /// Number of the newest event.
    pub(super) seq: u64,
    /// Its link.
    pub(super) head: String,
    /// When this was signed.
    pub(super) time: String,
    /// guardd has ended in good order: nothing comes after `seq` before another one starts.
    pub(super) closed: bool,
    /// The newest checkpoint.
    pub(super) checkpoint: Mark,
    /// Where the journal begins.
    pub(super) begin: Begin,
    /// Public half of the key.
    pub(super) key: String,
}

/// The newest checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Number of its event, 0 before the first.
    pub(super) seq: u64,
    /// [`checkpoint::Checkpoint::hash`].
    pub(super) hash: String,
}

impl Default for Mark {
    fn default() -> Self {
        Self {
            seq: 0,
            hash: checkpoint::NONE.into(),
        }
    }
}

/// Where a journal begins: at event 1, or where retention has left it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begin {
    /// Number of the first event that there must be.
    pub(super) seq: u64,
    /// Link of the event before.
    pub(super) head: String,
    /// When retention removed what was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) removed: Option<String>,
}

impl Default for Begin {
    fn default() -> Self {
        Self {
            seq: 1,
            head: Chain::START.hex(),
            removed: None,
        }
    }
}

/// The file as found.
pub(super) struct Found {
    pub(super) head: Head,
    body: Vec<u8>,
    signature: String,
}

impl Found {
    pub(super) fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.signed(&[PREFIX, &self.body].concat(), &self.signature)
    }
}

impl Head {
    pub(super) fn new(seq: u64, chain: &Chain, mark: &Mark, begin: &Begin, key: &Key) -> Self {
        Self {
            v: 1,
            seq,
            head: chain.hex(),
            time: crate::clock::rfc3339_now(),
            closed: false,
            checkpoint: mark.clone(),
            begin: begin.clone(),
            key: key.public().to_string(),
        }
    }

    /// Signs it and puts it in the place of the one before. What it speaks of must be on the disk itself.
    pub(super) fn write(&self, dir: &Path, key: &Key) -> Result<(), JournalError> {
        let path = path(dir);
        self.put(dir, key)
            .map_err(|cause| JournalError::write(&path, cause))
    }

    fn put(&self, dir: &Path, key: &Key) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        let signature = key.sign(&[PREFIX, &text].concat());
        text.pop();
        text.extend_from_slice(SIGNATURE);
        text.extend_from_slice(signature.as_bytes());
        text.extend_from_slice(b"\"}\n");
        let new = dir.join("head.new");
        let mut file = private().write(true).truncate(true).open(&new)?;
        let written = file.write_all(&text).and_then(|()| file.sync_data());
        if let Err(error) = written {
            // On a full disk what was begun would only take room.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        fs::rename(new, path(dir))
    }

    /// The one in a directory: `None` where there is none, an inner error where it is not one.
    pub(super) fn read(dir: &Path) -> Result<Option<Result<Found, ()>>, JournalError> {
        let path = path(dir);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(Self::parse(&bytes).ok_or(()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(JournalError::read(&path, error)),
        }
    }

    fn parse(bytes: &[u8]) -> Option<Found> {
        let rest = bytes.strip_suffix(b"\"}\n")?;
        let (rest, signature) = rest.split_at_checked(rest.len().checked_sub(128)?)?;
        let mut body = rest.strip_suffix(SIGNATURE)?.to_vec();
        body.push(b'}');
        Some(Found {
            head: serde_json::from_slice(&body).ok()?,
            body,
            signature: str::from_utf8(signature).ok()?.into(),
        })
    }
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}
