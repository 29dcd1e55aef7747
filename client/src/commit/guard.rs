//! The last head that this client wrote of a dataset, kept until another one is known to follow it.
//!
//! Decides how long a head is kept that may have been lost: the newest one does not say that this one is in it. A writer who was told that his head was written can still lose to one that was
//! written at the same time; whoever won is told and merges, and should he die first, this is how the loser finds out.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use dolmen_proto::head::Head;
use dolmen_proto::ids::{SnapshotId, Timestamp};
use dolmen_proto::limits::{HEAD_MAX_BYTES, LEASE_INITIAL};

use crate::error::ClientError;
use crate::state::{State, write_durably};

const VERSION: u8 = 1;
/// Version, epoch, time, snapshot.
const FRONT_BYTES: usize = 1 + 4 + 8 + 32;
/// What a lost head names is leased for a week when it was not renewed; a day of that is left for merging.
const KEPT_FOR: Duration = Duration::from_secs(LEASE_INITIAL.as_secs() - 86_400);

/// Where the head of one dataset is kept.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    path: PathBuf,
}

/// A head that this client wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guarded {
    pub(crate) epoch: u32,
    pub(crate) written: Timestamp,
    pub(crate) snapshot: SnapshotId,
    pub(crate) head: Head,
}

impl Guard {
    /// Of the dataset that this client calls `name`.
    pub(crate) fn new(state: &State, name: &str) -> Self {
        Self { path: state.vaults().join(format!("{name}.head")) }
    }

    /// Keeps a head that is about to be written; durable when it returns.
    ///
    /// # Errors
    /// `Local` when it cannot be written down.
    pub(crate) fn keep(&self, guarded: &Guarded) -> Result<(), ClientError> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&guarded.epoch.to_le_bytes());
        bytes.extend_from_slice(&guarded.written.as_unix_ms().to_le_bytes());
        bytes.extend_from_slice(guarded.snapshot.as_bytes());
        bytes.extend_from_slice(guarded.head.bytes());
        write_durably(&self.path, &bytes).map_err(|error| ClientError::local("keep a head in", &self.path, &error))
    }

    /// The head that was kept last, unless it was so long ago that what it names may be gone.
    ///
    /// # Errors
    /// `Local` when it cannot be read. A damaged file counts as none.
    pub(crate) fn kept(&self, now: Timestamp) -> Result<Option<Guarded>, ClientError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ClientError::local("read the head kept in", &self.path, &error)),
        };
        let guarded = decode(&bytes);
        if guarded.is_none() {
            tracing::warn!(file = %self.path.display(), "the head that was written last is damaged and counts as none");
        }
        Ok(guarded.filter(|guarded| now.since(guarded.written) < KEPT_FOR))
    }

    /// Forgets the head unless it is this one, the newest: who began with an earlier one may yet write another in its place.
    ///
    /// # Errors
    /// As [`Guard::clear`].
    pub(crate) fn release(&self, newest: &Head) -> Result<(), ClientError> {
        let kept = fs::read(&self.path).ok().and_then(|bytes| decode(&bytes));
        if kept.is_some_and(|kept| kept.head.hash() == newest.hash()) {
            return Ok(());
        }
        self.clear()
    }

    /// Forgets the head: another one is known to follow it, or it does not matter any more.
    ///
    /// # Errors
    /// `Local` when the file cannot be removed.
    pub(crate) fn clear(&self) -> Result<(), ClientError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(ClientError::local("remove", &self.path, &error))
            }
            _ => Ok(()),
        }
    }
}

fn decode(bytes: &[u8]) -> Option<Guarded> {
    if bytes.len() <= FRONT_BYTES || bytes.len() > FRONT_BYTES + HEAD_MAX_BYTES || bytes[0] != VERSION {
        return None;
    }
    let (front, head) = bytes.split_at(FRONT_BYTES);
    Some(Guarded {
        epoch: u32::from_le_bytes(front[1..5].try_into().ok()?),
        written: Timestamp::from_unix_ms(u64::from_le_bytes(front[5..13].try_into().ok()?)),
        snapshot: SnapshotId::new(front[13..].try_into().ok()?),
        head: Head::parse(head).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use dolmen_proto::head::HeadOrder;
    use dolmen_proto::keys::{DatasetKeys, VaultSecret};

    use super::*;

    #[test]
    fn a_head_is_kept_until_it_is_cleared_or_too_old_to_save() {
        let folder = tempfile::tempdir().unwrap();
        let guard = Guard::new(&State::open(folder.path()).unwrap(), "name");
        let keys = DatasetKeys::derive(&VaultSecret::new([1; 32]), 0);
        let written = Timestamp::from_unix_ms(1_790_000_000_000);
        let head = crate::heads::tests::read_head(&keys, HeadOrder::after(None));
        let guarded = Guarded { epoch: 3, written, snapshot: SnapshotId::new([4; 32]), head };
        assert_eq!(guard.kept(written).unwrap(), None);
        guard.keep(&guarded).unwrap();
        assert_eq!(guard.kept(written.after(Duration::from_secs(60))).unwrap(), Some(guarded));
        assert_eq!(guard.kept(written.after(LEASE_INITIAL)).unwrap(), None, "what it names may be gone");
        let bytes = fs::read(&guard.path).unwrap();
        for length in [0, 1, FRONT_BYTES, bytes.len() - 1] {
            assert_eq!(decode(&bytes[..length]), None);
        }
        fs::write(&guard.path, b"rubbish").unwrap();
        assert_eq!(guard.kept(written).unwrap(), None, "damaged, it counts as none");
        guard.clear().unwrap();
        guard.clear().unwrap();
    }
}
