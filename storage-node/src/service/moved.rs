//! What is known of a node that goes: which of its shards others hold now, and how much is left.
//!
//! Decides which receipts count. Never decides what is done by them: nothing is deleted or refused because it was moved.

use dolmen_proto::ids::{ShardRoot, Timestamp};
use dolmen_proto::limits::MOVED_LEASE_MIN;
use dolmen_proto::wire::{ErrorCode, KeptReceipt, Reply, WireError};

use super::{Service, code_of};
use crate::disk::Disk;
use crate::leaving::Leaving;
use crate::store::StoreError;

/// Leases read from the store at a time.
const COUNT_BATCH: usize = 1024;

/// How far a node that goes has come: shards under a lease, each counted once, with their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeavingCount {
    /// Shards that nobody else is known to hold.
    pub shards_here: u64,
    /// Their bytes.
    pub bytes_here: u64,
    /// Shards that somebody else holds too.
    pub shards_moved: u64,
    /// Their bytes.
    pub bytes_moved: u64,
}

impl<D: Disk> Service<D> {
    /// Notes which shards others hold now.
    pub(super) fn note_moved(&self, receipts: &[KeptReceipt], now: Timestamp) -> Result<Reply, WireError> {
        let leaving = self.leaving().ok_or_else(|| WireError::new(ErrorCode::NotAccepting, "this node stays"))?;
        let mut moved = Vec::new();
        let codes = receipts.iter().map(|receipt| self.covered(receipt, leaving, now).map(|roots| moved.extend(roots)));
        let codes = codes.collect();
        self.moved.add(moved).map_err(|error| {
            tracing::error!(%error, "what was moved cannot be noted");
            WireError::new(ErrorCode::DiskFailed, "what was moved cannot be noted")
        })?;
        Ok(Reply::Moved(codes))
    }

    /// The shards held here that a receipt covers well enough.
    fn covered(&self, receipt: &KeptReceipt, leaving: Leaving, now: Timestamp) -> Result<Vec<ShardRoot>, ErrorCode> {
        let claim = receipt.claim().map_err(|error| error.code())?;
        if claim.node == self.node {
            return Err(ErrorCode::Unauthorised);
        }
        let mut covered = Vec::new();
        for (root, length_bytes) in &claim.shards {
            let held = self.store.summary(root).map_err(|error| code_of(&error))?;
            let Some(held) = held.filter(|held| u64::from(held.length_bytes) == *length_bytes) else { continue };
            let least = held.until.min(leaving.until.after(MOVED_LEASE_MIN));
            if claim.until < least || claim.until <= now {
                return Err(ErrorCode::Expired);
            }
            covered.push(*root);
        }
        if covered.is_empty() {
            return Err(self.miss());
        }
        // Last, for it costs the most: only who knows what lies here gets so far.
        receipt.verify().map_err(|error| error.code())?;
        Ok(covered)
    }

    /// Counts what is under a lease, here alone and elsewhere too. Reads the whole index, a batch at a time, and blocks on it.
    ///
    /// # Errors
    /// What the store says, and that the note of what was moved cannot be read.
    pub fn count_leaving(&self, now: Timestamp) -> Result<LeavingCount, StoreError> {
        let mut count = LeavingCount::default();
        let (mut after, mut last) = (None, None);
        loop {
            let batch = self.store.leases(after, COUNT_BATCH)?;
            let Some(end) = batch.last() else { return Ok(count) };
            after = Some((end.root, end.account));
            for lease in batch.iter().filter(|lease| lease.until > now) {
                if last.replace(lease.root) == Some(lease.root) {
                    continue;
                }
                let bytes = u64::from(lease.length_bytes);
                if self.moved.contains(&lease.root).map_err(unreadable)? {
                    count.shards_moved += 1;
                    count.bytes_moved += bytes;
                } else {
                    count.shards_here += 1;
                    count.bytes_here += bytes;
                }
            }
        }
    }
}

fn unreadable(error: std::io::Error) -> StoreError {
    let (reason, kind) = (error.to_string(), error.kind());
    StoreError::Io { folder: "of the node's state".to_owned(), action: "reading what was moved", reason, kind }
}
