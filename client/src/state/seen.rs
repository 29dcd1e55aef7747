//! The newest head of every document that this client has seen, so that nobody can show it an older one.
//!
//! Decides that memory only ever moves forward, whatever process writes it. Lost or damaged, it costs the protection, never
//! data: the next head that is read is the first one seen.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use dolmen_proto::heads::HeadVersion;
use dolmen_proto::ids::HeadHash;
use dolmen_proto::keys::LocatorSecret;

use super::{State, to_hex, write_durably};
use crate::error::ClientError;

const NAME_CONTEXT: &str = "dolmen 2026 client seen head v1";
const VERSION: u8 = 1;
/// Version, sequence, hash, the first bytes of their hash.
const FILE_BYTES: usize = 1 + 8 + 32 + 8;

/// The memory of heads: a file of a few bytes for each.
#[derive(Debug, Clone)]
pub(crate) struct SeenHeads {
    folder: PathBuf,
}

impl SeenHeads {
    pub(super) fn new(state: &State) -> Self {
        Self { folder: state.folder.join("seen") }
    }

    /// The newest head that was seen where `locator` leads; `None` also when the file is damaged.
    ///
    /// # Errors
    /// `Local` when it cannot be read.
    pub(crate) fn newest(&self, locator: &LocatorSecret) -> Result<Option<HeadVersion>, ClientError> {
        let path = self.path(locator);
        match fs::read(&path) {
            Ok(bytes) => {
                let version = decode(&bytes);
                if version.is_none() {
                    tracing::warn!(file = %path.display(), "the memory of a head is damaged and counts as none");
                }
                Ok(version)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ClientError::local("read the memory of a head in", &path, &error)),
        }
    }

    /// Remembers that this head was seen, unless a newer one was; durable when it returns.
    ///
    /// # Errors
    /// `Local` when it cannot be written.
    pub(crate) fn note(&self, locator: &LocatorSecret, version: HeadVersion) -> Result<(), ClientError> {
        if self.newest(locator)?.is_some_and(|seen| seen >= version) {
            return Ok(());
        }
        let path = self.path(locator);
        let failed = |error| ClientError::local("write the memory of a head in", &path, &error);
        let _lock = self.lock().map_err(failed)?;
        // Another process may have been here first.
        if self.newest(locator)?.is_some_and(|seen| seen >= version) {
            return Ok(());
        }
        write_durably(&path, &encode(version)).map_err(failed)
    }

    /// Held by whoever writes; let go with the file.
    fn lock(&self) -> std::io::Result<File> {
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.folder.join("lock"))?;
        lock.lock()?;
        Ok(lock)
    }

    fn path(&self, locator: &LocatorSecret) -> PathBuf {
        self.folder.join(to_hex(&blake3::derive_key(NAME_CONTEXT, locator.expose())[..16]))
    }
}

fn encode(version: HeadVersion) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend_from_slice(&version.sequence.to_le_bytes());
    bytes.extend_from_slice(version.hash.as_bytes());
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(&check.as_bytes()[..8]);
    bytes
}

fn decode(bytes: &[u8]) -> Option<HeadVersion> {
    if bytes.len() != FILE_BYTES {
        return None;
    }
    let (body, check) = bytes.split_at(FILE_BYTES - 8);
    if blake3::hash(body).as_bytes()[..8] != *check || body[0] != VERSION {
        return None;
    }
    let sequence = u64::from_le_bytes(body[1..9].try_into().ok()?);
    Some(HeadVersion { sequence, hash: HeadHash::new(body[9..].try_into().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(sequence: u64, hash: u8) -> HeadVersion {
        HeadVersion { sequence, hash: HeadHash::new([hash; 32]) }
    }

    #[test]
    fn memory_moves_forward_only_and_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (LocatorSecret::new([1; 32]), LocatorSecret::new([2; 32]));
        let seen = State::open(folder.path()).unwrap().seen_heads();
        assert_eq!(seen.newest(&one).unwrap(), None);
        seen.note(&one, version(5, 7)).unwrap();
        for older in [version(4, 1), version(5, 8), version(5, 7)] {
            seen.note(&one, older).unwrap();
            let again = State::open(folder.path()).unwrap().seen_heads();
            assert_eq!(again.newest(&one).unwrap(), Some(version(5, 7)), "{older:?}");
        }
        for newer in [version(5, 6), version(6, 9)] {
            seen.note(&one, newer).unwrap();
            assert_eq!(seen.newest(&one).unwrap(), Some(newer));
        }
        assert_eq!(seen.newest(&other).unwrap(), None);
        let name = seen.path(&one).display().to_string();
        assert!(!name.contains("0101"), "the name does not give the place away");
    }

    #[test]
    fn damaged_memory_counts_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let seen = State::open(folder.path()).unwrap().seen_heads();
        let locator = LocatorSecret::new([1; 32]);
        seen.note(&locator, version(5, 7)).unwrap();
        let good = fs::read(seen.path(&locator)).unwrap();
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            assert_eq!(decode(&bad), None);
            assert_eq!(decode(&good[..position]), None);
        }
        fs::write(seen.path(&locator), b"rubbish").unwrap();
        assert_eq!(seen.newest(&locator).unwrap(), None);
        seen.note(&locator, version(1, 1)).unwrap();
        assert_eq!(seen.newest(&locator).unwrap(), Some(version(1, 1)));
    }

    #[test]
    fn writers_at_once_leave_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let seen = State::open(folder.path()).unwrap().seen_heads();
        let locator = LocatorSecret::new([1; 32]);
        std::thread::scope(|scope| {
            for writer in 0..4u64 {
                let (seen, locator) = (seen.clone(), locator.clone());
                scope.spawn(move || {
                    for round in 0..10 {
                        seen.note(&locator, version(round * 4 + writer, 1)).unwrap();
                    }
                });
            }
        });
        assert_eq!(seen.newest(&locator).unwrap(), Some(version(39, 1)));
    }
}
