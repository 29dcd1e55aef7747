//! Where a node keeps shards, leases and heads: append-only volumes on several disks, an index over them, and the
//! rule that nothing is acknowledged before it is on disk.
//!
//! Decides what is durable, what is damaged, where a record lies and when its space comes back. Never decides who
//! may put, renew or delete: that is the service's. Never starts a clock; `now` is passed in. Calls block on
//! the disk, so an asynchronous caller runs them on threads of its own.

mod error;
mod options;

use std::io;

use bytes::Bytes;
use dolmen_proto::ids::{AccountId, NodeId, Point, ShardRoot, Timestamp};

pub use self::error::StoreError;
pub use self::options::*;
use crate::disk::Disk;

/// Longest signed terms that a lease keeps, in bytes.
pub const LEASE_TERMS_MAX_BYTES: usize = 4096;
/// Longest signed delete that a tombstone keeps, in bytes.
pub const EVIDENCE_MAX_BYTES: usize = 4096;

/// Marks an empty folder as a data folder of `node`. `secret` is 32 fresh random bytes: the folder's identifier and
/// its checksum keys derive from it.
///
/// # Errors
/// `AlreadyExists` when there is a valid marker or any volume; else whatever the disk reports.
pub fn initialise<D: Disk>(disk: &D, node: NodeId, secret: [u8; 32]) -> io::Result<DiskId> {
    let _ = (disk, node, secret);
    todo!()
}

/// The store. Cheap to clone; all clones are one store.
pub struct Store<D: Disk> {
    disk: std::sync::Arc<D>,
}

impl<D: Disk> Clone for Store<D> {
    fn clone(&self) -> Self {
        Self { disk: self.disk.clone() }
    }
}

/// What [`Store::commit`] waits for: written, not yet durable, and visible to readers only once it is.
/// Dropping it commits to nothing; the next commit on the same volume makes it durable all the same.
#[must_use = "nothing is durable before its ticket is committed"]
#[derive(Debug, Default)]
pub struct Ticket {}

impl Ticket {
    /// Makes this ticket also wait for what `other` waits for.
    pub fn merge(&mut self, other: Self) {
        let _ = other;
    }
}

/// A shard being written. Dropped unfinished, its space is given back.
pub struct ShardWriter<D: Disk> {
    disk: std::sync::Arc<D>,
}

impl<D: Disk> ShardWriter<D> {
    /// Appends bytes of the shard.
    ///
    /// # Errors
    /// `WrongLength` past the named length, `DiskFull`, `Io`.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let _ = (bytes, &self.disk);
        todo!()
    }

    /// Checks length and root and writes the lease; the shard is there once the ticket is committed.
    ///
    /// # Errors
    /// `WrongLength`, `WrongRoot`, `TooLarge` (terms), `DiskFull`, `Io`.
    pub fn finish(self, lease: LeaseRecord) -> Result<Ticket, StoreError> {
        let _ = lease;
        todo!()
    }
}

impl<D: Disk> Store<D> {
    /// Opens the folders that can be used and reports on all. Damaged or stale indexes are rebuilt here.
    ///
    /// # Errors
    /// `NoFolder` when none can be used.
    pub fn open(
        folders: Vec<DataFolder<D>>,
        options: StoreOptions,
        now: Timestamp,
    ) -> Result<(Self, OpenReport), StoreError> {
        let _ = (folders, options, now);
        todo!()
    }

    /// Starts a put. When the shard is already held, its bytes are checked and not stored again.
    ///
    /// # Errors
    /// `TooLarge`, `DiskFull`, `Io`.
    pub fn begin_put(&self, root: ShardRoot, length_bytes: u32) -> Result<ShardWriter<D>, StoreError> {
        let _ = (root, length_bytes);
        todo!()
    }

    /// Returns once everything the ticket stands for is on disk. Many callers share one fsync.
    ///
    /// # Errors
    /// `SyncFailed`: nothing the ticket stands for may be acknowledged.
    pub fn commit(&self, ticket: Ticket) -> Result<(), StoreError> {
        let _ = ticket;
        todo!()
    }

    /// As [`Store::commit`], without waiting: `done` runs on the folder's sync thread and must not block.
    pub fn commit_then(&self, ticket: Ticket, done: Box<dyn FnOnce(Result<(), StoreError>) + Send>) {
        let _ = (ticket, done);
        todo!()
    }

    /// What is durably known of a shard, or `None` where no lease on it is. While a folder is absent
    /// ([`Store::folders`]) `None` does not mean that the node never held it.
    ///
    /// # Errors
    /// `Io`, `Index`.
    pub fn lookup(&self, root: &ShardRoot) -> Result<Option<ShardInfo>, StoreError> {
        let _ = root;
        todo!()
    }

    /// Adds or replaces the lease of one account on a shard that is held.
    ///
    /// # Errors
    /// `NotHeld`, `Damaged`, `TooLarge`, `DiskFull`, `Io`.
    pub fn put_lease(&self, root: ShardRoot, lease: LeaseRecord) -> Result<Ticket, StoreError> {
        let _ = (root, lease);
        todo!()
    }

    /// Ends the lease of one account; without any lease the shard is gone. `evidence` (the signed delete; may be empty) is
    /// kept until the lease would have ended.
    ///
    /// # Errors
    /// `NotHeld`, `TooLarge`, `DiskFull`, `Io`.
    pub fn remove_lease(&self, root: ShardRoot, account: AccountId, evidence: &[u8]) -> Result<Ticket, StoreError> {
        let _ = (root, account, evidence);
        todo!()
    }

    /// The signed delete that ended a lease, while it is kept.
    ///
    /// # Errors
    /// `Io`, `Index`.
    pub fn evidence(&self, root: &ShardRoot, account: AccountId) -> Result<Option<Bytes>, StoreError> {
        let _ = (root, account);
        todo!()
    }

    /// Leases of one account in order of their roots, from the first after `after`, at most `max`.
    ///
    /// # Errors
    /// `Index`.
    pub fn leases_of(
        &self,
        account: AccountId,
        after: Option<ShardRoot>,
        max: usize,
    ) -> Result<Vec<LeaseSummary>, StoreError> {
        let _ = (account, after, max);
        todo!()
    }

    /// All leases in order of (root, account), from the first after `after`, at most `max`: for quotas at start.
    ///
    /// # Errors
    /// `Index`.
    pub fn leases(&self, after: Option<(ShardRoot, AccountId)>, max: usize) -> Result<Vec<LeaseSummary>, StoreError> {
        let _ = (after, max);
        todo!()
    }

    /// Reads exactly `buffer.len()` bytes of a shard. The bytes are not hashed here: readers have the root.
    ///
    /// # Errors
    /// `NotHeld`, `Damaged`, `OutOfRange`, `Io`.
    pub fn read(&self, root: &ShardRoot, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let _ = (root, offset, buffer);
        todo!()
    }

    /// The shard's outboard: pre-order hash pairs over 16 KiB groups, empty for shards of one group.
    ///
    /// # Errors
    /// `NotHeld`, `Damaged`, `Io`.
    pub fn outboard(&self, root: &ShardRoot) -> Result<Vec<u8>, StoreError> {
        let _ = root;
        todo!()
    }

    /// Puts a head, replacing the one of the same point and key. Which of two is newer is the caller's to decide, and
    /// the caller must hold its decision for a point until the commit: heads are visible only then.
    ///
    /// # Errors
    /// `TooLarge`, `DiskFull`, `Io`.
    pub fn put_head(&self, point: Point, key: [u8; 32], bytes: &[u8], until: Timestamp) -> Result<Ticket, StoreError> {
        let _ = (point, key, bytes, until);
        todo!()
    }

    /// The heads by all keys at one point.
    ///
    /// # Errors
    /// `Io`, `Index`.
    pub fn heads(&self, point: &Point) -> Result<Vec<StoredHead>, StoreError> {
        let _ = point;
        todo!()
    }

    /// All heads in order of (point, key), from the first after `after`, at most `max`: for putting them again.
    ///
    /// # Errors
    /// `Io`, `Index`.
    pub fn all_heads(&self, after: Option<(Point, [u8; 32])>, max: usize) -> Result<Vec<StoredHead>, StoreError> {
        let _ = (after, max);
        todo!()
    }

    /// Ends at most `max` leases and heads that are over: after the grace, or at once when `short_of_space`; durable on return.
    ///
    /// # Errors
    /// `DiskFull`, `Io`, `SyncFailed`.
    pub fn expire(&self, now: Timestamp, short_of_space: bool, max: usize) -> Result<ExpireReport, StoreError> {
        let _ = (now, short_of_space, max);
        todo!()
    }

    /// Rewrites volumes that are mostly dead (under a quarter live; under three quarters when `short_of_space`), until
    /// about `budget_bytes` are copied.
    ///
    /// # Errors
    /// `DiskFull`, `Io`, `SyncFailed`.
    pub fn compact(
        &self,
        now: Timestamp,
        short_of_space: bool,
        budget_bytes: u64,
    ) -> Result<CompactReport, StoreError> {
        let _ = (now, short_of_space, budget_bytes);
        todo!()
    }

    /// Re-reads about `budget_bytes` on each folder and checks them against roots and checksums, going on where the last
    /// call stopped. The caller paces it.
    ///
    /// # Errors
    /// `Io`, `Index`.
    pub fn scrub(&self, budget_bytes: u64) -> Result<ScrubReport, StoreError> {
        let _ = budget_bytes;
        todo!()
    }

    /// Space and counts over all folders.
    #[must_use]
    pub fn usage(&self) -> FolderUsage {
        todo!()
    }

    /// Every folder as given to [`Store::open`], those that cannot be used included. Does not touch the disks.
    #[must_use]
    pub fn folders(&self) -> Vec<FolderStatus> {
        todo!()
    }

    /// Takes a folder (by its place in [`Store::folders`]) out of use, because it hangs. Until the next opening.
    pub fn fail_folder(&self, folder: usize, reason: &str) {
        let _ = (folder, reason);
        todo!()
    }

    /// Closes every volume with a table of contents, so that the next opening need not verify. Puts still running fail.
    ///
    /// # Errors
    /// The first failure; the store is closed in any case, and reopening recovers.
    pub fn close(&self) -> Result<(), StoreError> {
        todo!()
    }
}
