//! What a node does between calls: ending what is over, giving space back, re-reading what it holds.

use std::sync::TryLockError;

use dolmen_proto::ids::Timestamp;

use super::Service;
use crate::accounts::charged_bytes;
use crate::disk::Disk;
use crate::lease::payer_of;
use crate::store::{CompactReport, StoreError};

/// Space is short when less than one part in this many of all is left.
const SHORT_PART: u64 = 10;

/// What one step of expiry did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExpiryReport {
    /// Leases ended.
    pub leases: u64,
    /// Heads dropped.
    pub heads: u64,
    /// More is due, or nothing was done because calls were under way: call again soon.
    pub more: bool,
}

impl<D: Disk> Service<D> {
    /// Ends at most `max` leases and heads that are over, and gives back what they were charged. Does nothing while the
    /// clock is in doubt or the books are not open.
    ///
    /// # Errors
    /// What the store says; a retry is safe.
    pub fn expire_step(&self, now: Timestamp, max: usize) -> Result<ExpiryReport, StoreError> {
        let Some(books) = self.ledger.get().filter(|_| self.clock.may_expire()) else {
            return Ok(ExpiryReport::default());
        };
        let _alone = match self.expiry.try_write() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(ExpiryReport { more: true, ..ExpiryReport::default() }),
        };
        let report = self.store.expire(now, self.is_short_of_space(), max)?;
        for lease in &report.leases {
            books.release(&payer_of(lease.account, &lease.mark), charged_bytes(lease.length_bytes.into()));
        }
        if report.heads > 0 {
            self.count_heads()?;
        }
        let leases = u64::try_from(report.leases.len()).unwrap_or(u64::MAX);
        Ok(ExpiryReport { leases, heads: report.heads, more: report.more })
    }

    /// One step of compaction, of about `budget_bytes`.
    ///
    /// # Errors
    /// What the store says; a retry is safe.
    pub fn compact_step(&self, now: Timestamp, budget_bytes: u64) -> Result<CompactReport, StoreError> {
        self.store.compact(now, self.is_short_of_space(), budget_bytes)
    }

    /// Whether so little room is left that expired shards go at once and volumes are compacted early. Not before it is known.
    #[must_use]
    pub fn is_short_of_space(&self) -> bool {
        if !self.has_books() {
            return false;
        }
        let usage = self.store.usage();
        let capacity = usage.total_bytes.saturating_add(usage.free_bytes);
        let capacity = self.options.quota_bytes.map_or(capacity, |quota| quota.min(capacity));
        self.room_bytes() < capacity / SHORT_PART
    }
}
