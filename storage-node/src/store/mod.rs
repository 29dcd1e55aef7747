//! Where a node keeps shards, leases and heads: append-only volumes on several disks, an index over them, and the
//! rule that nothing is acknowledged before it is on disk.
//!
//! Decides what is durable, what is damaged, where a record lies and when its space comes back. Never decides who
//! may put, renew or delete: that is the service's. Never reads a clock for what it writes; `now` is passed in. Calls block
//! on the disk, so an asynchronous caller runs them on threads of its own.
//!
//! ```text
//! writer  a shard streams in ----+        +-- read     header borne out, bytes as they are
//! append  records in order ------+--> volumes (the truth)
//! commit  one sync for many -----+        +-- open     an index that agrees with them, or
//!            |                            +-- rebuild  one from tables, the unfinished walked; then settle
//!            |                            +-- compact  scrub  expire
//!            +--> catalogue over an index (disposable): what counts, only once it is durable
//! ```

mod append;
mod catalogue;
mod commit;
mod compact;
mod error;
mod expire;
mod folder;
mod index;
mod marker;
mod open;
mod options;
mod pages;
mod read;
mod rebuild;
mod record;
mod scrub;
mod settle;
mod sync;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
mod volume;
mod walk;
mod watch;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dolmen_proto::ids::{AccountId, Point, ShardRoot, Timestamp};
use dolmen_proto::limits;

use self::append::Draft;
use self::catalogue::Entry;
pub use self::commit::Ticket;
pub use self::error::StoreError;
use self::folder::{Folder, Room};
pub(crate) use self::marker::MARKER_FILE;
pub use self::marker::initialise;
pub use self::options::*;
use self::record::{Class, Kind, Record};
use self::sync::lock;
use self::volume::Mode;
pub use self::writer::ShardWriter;
use crate::disk::Disk;

/// Longest signed terms that a lease keeps, in bytes.
pub const LEASE_TERMS_MAX_BYTES: usize = 4096;
/// Longest evidence (a signed delete) that an ended lease keeps, in bytes.
pub const EVIDENCE_MAX_BYTES: usize = limits::WIRE_HEADER_MAX_BYTES;
/// Records that rebuilds of all folders together gather before they go to the indexes: some 40 MB.
const STAGED_MAX: usize = 131_072;

/// The store. Cheap to clone; all clones are one store.
pub struct Store<D: Disk> {
    inner: Arc<Inner<D>>,
}

struct Inner<D: Disk> {
    options: Arc<StoreOptions>,
    slots: Vec<Slot<D>>,
    choosing: Mutex<()>,
}

/// A folder as it was given: usable or only reported.
struct Slot<D: Disk> {
    report: Mutex<FolderReport>,
    folder: Option<Arc<Folder<D>>>,
}

impl<D: Disk> Clone for Store<D> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<D: Disk> std::fmt::Debug for Store<D> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Store").field("folders", &self.inner.slots.len()).finish_non_exhaustive()
    }
}

fn too_large(what: &'static str, actual: usize, limit: usize) -> Result<(), StoreError> {
    if actual > limit {
        return Err(StoreError::TooLarge { what, actual: actual as u64, limit: limit as u64 });
    }
    Ok(())
}

impl<D: Disk> Store<D> {
    /// Opens the folders that can be used and reports on all. Reads no volume: where an index is missing, damaged or stale,
    /// the folder waits for [`Store::rebuild`], and until all are whole the store answers with
    /// [`StoreError::Rebuilding`] wherever a record that is not found yet could change the answer. Shards that were
    /// found are read.
    ///
    /// # Errors
    /// `NoFolder` when none can be used.
    pub fn open(folders: Vec<DataFolder<D>>, options: StoreOptions) -> Result<(Self, OpenReport), StoreError> {
        let staged_max = STAGED_MAX / folders.len().max(1);
        let options = Arc::new(options);
        let generations = Arc::new(AtomicU64::new(1));
        let slots: Vec<_> = folders
            .into_iter()
            .map(|spec| {
                let (folder, report) = open::open_folder(spec, &options, &generations, staged_max);
                Slot { report: Mutex::new(report), folder }
            })
            .collect();
        let store = Self { inner: Arc::new(Inner { options, slots, choosing: Mutex::new(()) }) };
        let report = store.usable_report()?;
        Ok((store, report))
    }

    /// Starts a put. When the shard is already held, its bytes are checked and not stored again.
    ///
    /// # Errors
    /// `TooLarge`, `DiskFull`, `Io`, `Rebuilding`.
    pub fn begin_put(&self, root: ShardRoot, length_bytes: u32) -> Result<ShardWriter<D>, StoreError> {
        if length_bytes == 0 || length_bytes > self.inner.options.shard_max_bytes {
            let limit = u64::from(self.inner.options.shard_max_bytes);
            return Err(StoreError::TooLarge { what: "shard", actual: u64::from(length_bytes), limit });
        }
        self.check_whole()?;
        let mut known_in = None;
        // One put of a root at a time chooses a folder, so that two at once choose the same.
        let choosing = lock(&self.inner.choosing);
        for (place, folder) in self.readable().enumerate() {
            match folder.pin_known(&root)? {
                Some(entry) if entry.kind == Kind::Shard && folder.check_writable().is_ok() => {
                    if entry.body_bytes != length_bytes {
                        folder.unpin_failed(root.as_bytes());
                        let named = u64::from(length_bytes);
                        return Err(StoreError::WrongLength { named, actual: u64::from(entry.body_bytes) });
                    }
                    return Ok(ShardWriter::checking(folder.clone(), root, length_bytes));
                }
                Some(_) => {
                    folder.unpin_failed(root.as_bytes());
                    known_in = Some(place);
                }
                None if folder.is_pinned(root.as_bytes()) => known_in = Some(place),
                None => {}
            }
        }
        let mut folders: Vec<_> = self.readable().enumerate().collect();
        // Beside another put of it or the leases of a damaged one, else where there is most room.
        folders.sort_by_key(|(place, folder)| {
            (Some(*place) != known_in, std::cmp::Reverse(folder.known_room(Room::Shard)))
        });
        let mut result = Err(StoreError::DiskFull { wanted: u64::from(length_bytes) });
        for (_, folder) in folders {
            folder.pin(root.as_bytes());
            result = ShardWriter::storing(folder.clone(), root, length_bytes);
            if result.is_ok() {
                break;
            }
            folder.unpin_failed(root.as_bytes());
        }
        drop(choosing);
        result
    }

    /// Returns once everything the ticket stands for is on disk. Many callers share one fsync.
    ///
    /// # Errors
    /// `SyncFailed`: nothing the ticket stands for may be acknowledged.
    pub fn commit(&self, ticket: Ticket) -> Result<(), StoreError> {
        ticket.wait()
    }

    /// As [`Store::commit`], without waiting: `done` runs on the folder's sync thread and must not block.
    pub fn commit_then(&self, ticket: Ticket, done: Box<dyn FnOnce(Result<(), StoreError>) + Send>) {
        ticket.wait_then(done);
    }

    /// What is durably known of a shard, or `None` where no lease on it is. While a folder is absent
    /// ([`Store::folders`]) `None` does not mean that the node never held it.
    ///
    /// # Errors
    /// `Io`, `Index`, `Rebuilding`.
    pub fn lookup(&self, root: &ShardRoot) -> Result<Option<ShardInfo>, StoreError> {
        self.check_whole()?;
        let mut length_bytes = 0;
        let mut state = None;
        let mut leases: BTreeMap<AccountId, (u64, LeaseRecord)> = BTreeMap::new();
        for folder in self.readable() {
            let Some(entry) = known(folder, root)? else { continue };
            length_bytes = length_bytes.max(entry.shard_bytes());
            if entry.kind == Kind::Shard {
                state = Some(ShardState::Held);
            } else if state.is_none() {
                state = Some(ShardState::Damaged);
            }
            for (generation, lease) in folder.read_leases(root)? {
                if leases.get(&lease.account).is_none_or(|(other, _)| *other < generation) {
                    leases.insert(lease.account, (generation, lease));
                }
            }
        }
        let mut counting = Vec::with_capacity(leases.len());
        for (account, (generation, lease)) in leases {
            if self.newer_kind(root, &account, generation)?.is_none() {
                counting.push(lease);
            }
        }
        let leases = counting;
        Ok(state.filter(|_| !leases.is_empty()).map(|state| ShardInfo { length_bytes, state, leases }))
    }

    /// As [`Store::lookup`] without the leases' terms: from the index alone, for inventories.
    ///
    /// # Errors
    /// `Index`, `Rebuilding`.
    pub fn summary(&self, root: &ShardRoot) -> Result<Option<ShardSummary>, StoreError> {
        self.check_whole()?;
        self.summary_of_whole(root)
    }

    /// The same from those folders that are whole.
    fn summary_of_whole(&self, root: &ShardRoot) -> Result<Option<ShardSummary>, StoreError> {
        let (mut length_bytes, mut state, mut until) = (0, None, None);
        for folder in self.readable() {
            let Some(entry) = known(folder, root)? else { continue };
            length_bytes = length_bytes.max(entry.shard_bytes());
            if entry.kind == Kind::Shard {
                state = Some(ShardState::Held);
            } else if state.is_none() {
                state = Some(ShardState::Damaged);
            }
            for (_, account, lease) in folder.catalogue.leases(root).map_err(|reason| folder.index_error(reason))? {
                if self.newer_kind(root, &AccountId::new(account), lease.generation)?.is_none() {
                    until = until.max(Some(Timestamp::from_unix_ms(lease.value)));
                }
            }
        }
        Ok(state.zip(until).map(|(state, until)| ShardSummary { length_bytes, state, until }))
    }

    /// Adds or replaces the lease of one account on a shard that is held.
    ///
    /// # Errors
    /// `NotHeld`, `Damaged`, `TooLarge`, `DiskFull`, `Io`, `Rebuilding`.
    pub fn put_lease(&self, root: ShardRoot, lease: LeaseRecord) -> Result<Ticket, StoreError> {
        self.check_whole()?;
        writer::check_terms(&lease)?;
        let mut result = Err(StoreError::NotHeld);
        for folder in self.readable() {
            match folder.pin_known(&root)? {
                Some(entry) if entry.kind == Kind::Shard => {
                    return match writer::append_lease(folder, &root, &lease, entry.body_bytes, None) {
                        Ok((hold, record)) => Ok(folder.register_pinned(hold, record)),
                        Err(error) => {
                            folder.unpin_failed(root.as_bytes());
                            Err(error)
                        }
                    };
                }
                Some(_) => {
                    folder.unpin_failed(root.as_bytes());
                    result = Err(StoreError::Damaged(root));
                }
                None => {}
            }
        }
        result
    }

    /// Ends the lease of one account; without any lease the shard is gone. `evidence` (the signed delete; may be empty) is
    /// kept until the lease would have ended.
    ///
    /// # Errors
    /// `NotHeld`, `TooLarge`, `DiskFull`, `Io`, `Rebuilding`.
    pub fn remove_lease(&self, root: ShardRoot, account: AccountId, evidence: &[u8]) -> Result<Ticket, StoreError> {
        self.check_whole()?;
        too_large("evidence", evidence.len(), EVIDENCE_MAX_BYTES)?;
        let Some(newest) = self.newest_lease(&root, &account)? else { return Err(StoreError::NotHeld) };
        let mut ticket = Ticket::default();
        for folder in self.readable() {
            if folder.catalogue.lease(&root, &account).map_err(|reason| folder.index_error(reason))?.is_none() {
                continue;
            }
            let draft = Draft {
                kind: Kind::LeaseEnd,
                a: *root.as_bytes(),
                b: *account.as_bytes(),
                value: newest.until.as_unix_ms(),
                mark: [0; 16],
                tail: evidence,
                generation: None,
                after: None,
            };
            let (hold, record) = folder.append_small(draft, Room::Ending)?;
            ticket.merge(folder.register_one(hold, record));
        }
        Ok(ticket)
    }

    /// The signed delete that ended a lease, while it is kept.
    ///
    /// # Errors
    /// `Io`, `Index`, `Rebuilding`.
    pub fn evidence(&self, root: &ShardRoot, account: AccountId) -> Result<Option<Bytes>, StoreError> {
        self.check_whole()?;
        for folder in self.readable() {
            if let Some(evidence) = folder.read_evidence(root, &account)? {
                return Ok(Some(evidence));
            }
        }
        Ok(None)
    }

    /// Leases of one account in order of their roots, from the first after `after`, at most `max`.
    ///
    /// # Errors
    /// `Index`, `Rebuilding`.
    pub fn leases_of(
        &self,
        account: AccountId,
        after: Option<ShardRoot>,
        max: usize,
    ) -> Result<Vec<LeaseSummary>, StoreError> {
        self.check_whole()?;
        let mut roots = BTreeSet::new();
        for folder in self.readable() {
            let found = folder.catalogue.roots_of(&account, after.as_ref(), max);
            roots.extend(found.map_err(|reason| folder.index_error(reason))?);
        }
        self.summaries(roots.into_iter().take(max).map(|root| (root, account)))
    }

    /// All leases in order of (root, account), from the first after `after`, at most `max`: for quotas at start.
    ///
    /// # Errors
    /// `Index`, `Rebuilding`.
    pub fn leases(&self, after: Option<(ShardRoot, AccountId)>, max: usize) -> Result<Vec<LeaseSummary>, StoreError> {
        self.check_whole()?;
        let mut keys = BTreeSet::new();
        let after = after.as_ref().map(|(root, account)| (root.as_bytes(), account.as_bytes()));
        for folder in self.readable() {
            let pairs = folder.catalogue.all_leases(after, max).map_err(|reason| folder.index_error(reason))?;
            keys.extend(pairs.into_iter().map(|(a, b, _)| (ShardRoot::new(a), AccountId::new(b))));
        }
        self.summaries(keys.into_iter().take(max))
    }

    /// Puts a head, replacing the one of the same point and key. Which of two is newer is the caller's to decide, and
    /// the caller must hold its decision for a point until the commit: heads are visible only then.
    ///
    /// # Errors
    /// `TooLarge`, `DiskFull`, `Io`, `Rebuilding`.
    pub fn put_head(&self, point: Point, key: [u8; 32], bytes: &[u8], until: Timestamp) -> Result<Ticket, StoreError> {
        too_large("head", bytes.len(), limits::HEAD_MAX_BYTES)?;
        if bytes.is_empty() {
            return Err(StoreError::TooLarge { what: "empty head", actual: 0, limit: 0 });
        }
        self.check_whole()?;
        let mut folders = Vec::new();
        for folder in self.readable().filter(|folder| folder.check_writable().is_ok()) {
            let known = folder.catalogue.entry(Class::Head, point.as_bytes(), &key);
            let known = known.map_err(|reason| folder.index_error(reason))?.is_some();
            folders.push((!known, std::cmp::Reverse(folder.known_room(Room::Small)), folder));
        }
        folders.sort_by_key(|(unknown, room, _)| (*unknown, *room));
        let draft = Draft {
            kind: Kind::Head,
            a: *point.as_bytes(),
            b: key,
            value: until.as_unix_ms(),
            mark: [0; 16],
            tail: bytes,
            generation: None,
            after: None,
        };
        let mut result = Err(StoreError::DiskFull { wanted: bytes.len() as u64 });
        for (_, _, folder) in folders {
            folder.pin(point.as_bytes());
            match folder.append_small(draft, Room::Small) {
                Ok((hold, record)) => return Ok(folder.register_pinned(hold, record)),
                Err(error) => {
                    folder.unpin_failed(point.as_bytes());
                    result = Err(error);
                }
            }
        }
        result
    }

    /// The heads by all keys at one point.
    ///
    /// # Errors
    /// `Io`, `Index`, `Rebuilding`.
    pub fn heads(&self, point: &Point) -> Result<Vec<StoredHead>, StoreError> {
        self.check_whole()?;
        let mut found = BTreeMap::new();
        for folder in self.readable() {
            let pairs = folder.catalogue.heads(point).map_err(|reason| folder.index_error(reason))?;
            newest_heads(&mut found, folder.read_heads(pairs)?);
        }
        Ok(found.into_values().map(|(_, head)| head).collect())
    }

    /// All heads in order of (point, key), from the first after `after`, at most `max`: for putting them again.
    ///
    /// # Errors
    /// `Io`, `Index`, `Rebuilding`.
    pub fn all_heads(&self, after: Option<(Point, [u8; 32])>, max: usize) -> Result<Vec<StoredHead>, StoreError> {
        self.check_whole()?;
        let mut found = BTreeMap::new();
        let after = after.as_ref().map(|(point, key)| (point.as_bytes(), key));
        for folder in self.readable() {
            let pairs = folder.catalogue.all_heads(after, max).map_err(|reason| folder.index_error(reason))?;
            newest_heads(&mut found, folder.read_heads(pairs)?);
        }
        Ok(found.into_values().map(|(_, head)| head).take(max).collect())
    }

    /// Ends at most `max` leases and heads that are over: after the grace, or at once when `short_of_space`; durable on return.
    /// None while a folder is being rebuilt: it may have a newer lease.
    ///
    /// # Errors
    /// `DiskFull`, `Io`, `SyncFailed`.
    pub fn expire(&self, now: Timestamp, short_of_space: bool, max: usize) -> Result<ExpireReport, StoreError> {
        let mut report = ExpireReport::default();
        if self.check_whole().is_err() {
            return Ok(report);
        }
        let mut ticket = Ticket::default();
        let mut result = Ok(());
        let newer = |root: &ShardRoot, account: &AccountId, generation| self.newer_kind(root, account, generation);
        for folder in self.writable() {
            let left =
                max.saturating_sub(report.leases.len()).saturating_sub(usize::try_from(report.heads).unwrap_or(max));
            if left == 0 {
                report.more = true;
                break;
            }
            let expired = folder.expire(now, short_of_space, left, &mut report, &mut ticket, &newer);
            result = result.and(expired);
        }
        ticket.wait()?;
        result.map(|()| report)
    }

    /// Rewrites volumes that are mostly dead (under a quarter live; under three quarters when `short_of_space`), until
    /// about `budget_bytes` are copied. Leaves folders alone that are being rebuilt.
    ///
    /// # Errors
    /// `DiskFull`, `Io`, `SyncFailed`.
    pub fn compact(
        &self,
        now: Timestamp,
        short_of_space: bool,
        budget_bytes: u64,
    ) -> Result<CompactReport, StoreError> {
        let mut report = CompactReport::default();
        let mut result = Ok(());
        for folder in self.writable() {
            let left = budget_bytes.saturating_sub(report.copied_bytes);
            let compacted = folder.compact(now, short_of_space, left, &|ending| self.is_needed(ending), &mut report);
            result = result.and(compacted);
        }
        result.map(|()| report)
    }

    /// Re-reads about `budget_bytes` on each folder and checks them against roots and checksums, going on where the last
    /// call stopped. The caller paces it. Leaves folders alone that are being rebuilt.
    ///
    /// # Errors
    /// `Io`, `Index`.
    pub fn scrub(&self, budget_bytes: u64) -> Result<ScrubReport, StoreError> {
        let mut report = ScrubReport::default();
        let mut result = Ok(());
        for folder in self.readable() {
            let scrubbed = folder.scrub(budget_bytes, &mut report);
            result = result.and(scrubbed);
        }
        result.map(|()| report)
    }

    /// Space and counts over all folders; of those that are being rebuilt, what was found so far.
    #[must_use]
    pub fn usage(&self) -> FolderUsage {
        let mut sum = FolderUsage::default();
        for folder in self.in_use() {
            let usage = folder.usage();
            sum.shards += usage.shards;
            sum.shard_bytes += usage.shard_bytes;
            sum.damaged += usage.damaged;
            sum.leases += usage.leases;
            sum.heads += usage.heads;
            sum.live_bytes += usage.live_bytes;
            sum.dead_bytes += usage.dead_bytes;
            sum.total_bytes += usage.total_bytes;
            sum.free_bytes = sum.free_bytes.saturating_add(usage.free_bytes);
            sum.volumes += usage.volumes;
        }
        sum
    }

    /// Every folder as given to [`Store::open`], those that cannot be used included. Does not touch the disks.
    #[must_use]
    pub fn folders(&self) -> Vec<FolderStatus> {
        let status = |slot: &Slot<D>| {
            let opened = lock(&slot.report).clone();
            let folder = slot.folder.as_ref();
            FolderStatus {
                name: opened.name,
                disk: opened.disk,
                state: folder.map_or(opened.state, |folder| folder.state()),
                usage: folder.map(|folder| folder.usage()).unwrap_or_default(),
                oldest_operation: folder.and_then(|folder| folder.disk.health().oldest_operation()),
                operations: folder.map_or(0, |folder| folder.disk.health().finished()),
                errors: folder.map_or(0, |folder| folder.disk.health().failed()),
            }
        };
        self.inner.slots.iter().map(status).collect()
    }

    /// Takes a folder (by its place in [`Store::folders`]) out of use, because it hangs. Until the next opening.
    pub fn fail_folder(&self, folder: usize, reason: &str) {
        if let Some(folder) = self.inner.slots.get(folder).and_then(|slot| slot.folder.as_ref()) {
            folder.degrade(FolderState::Failed(reason.to_owned()));
        }
    }

    /// Closes every volume with a table of contents, so that the next opening need not verify. Puts still running fail, and
    /// a rebuild that runs ends; its folder is rebuilt at the next opening.
    ///
    /// # Errors
    /// The first failure; the store is closed in any case, and reopening recovers.
    pub fn close(&self) -> Result<(), StoreError> {
        let mut result = Ok(());
        for folder in self.inner.slots.iter().filter_map(|slot| slot.folder.as_ref()) {
            let closed = folder.close();
            result = result.and(closed);
        }
        result
    }

    /// The lease that counts over all folders. One key is on several of them only where one could not be written for a while;
    /// generations are the store's, so the newest record decides, ending or not.
    fn newest_lease(&self, root: &ShardRoot, account: &AccountId) -> Result<Option<LeaseSummary>, StoreError> {
        let mut newest: Option<Entry> = None;
        let mut length_bytes = 0;
        for folder in self.readable() {
            let entry = folder.catalogue.entry(Class::Lease, root.as_bytes(), account.as_bytes());
            let Some(entry) = entry.map_err(|reason| folder.index_error(reason))? else { continue };
            length_bytes = known(folder, root)?.map_or(length_bytes, |shard| shard.shard_bytes());
            if newest.is_none_or(|newest| newest.generation < entry.generation) {
                newest = Some(entry);
            }
        }
        let lease = newest.filter(|newest| newest.kind == Kind::Lease);
        Ok(lease.map(|lease| LeaseSummary {
            root: *root,
            account: *account,
            length_bytes,
            until: Timestamp::from_unix_ms(lease.value),
            mark: lease.mark,
        }))
    }

    /// What the newest record of a lease says, if it is newer than this one.
    fn newer_kind(&self, root: &ShardRoot, account: &AccountId, generation: u64) -> Result<Option<Kind>, StoreError> {
        let mut newest = (generation, None);
        for folder in self.readable() {
            let entry = folder.catalogue.entry(Class::Lease, root.as_bytes(), account.as_bytes());
            if let Some(entry) = entry.map_err(|reason| folder.index_error(reason))?
                && entry.generation > newest.0
            {
                newest = (entry.generation, Some(entry.kind));
            }
        }
        Ok(newest.1)
    }

    /// Whether an ending may still be what keeps an older record on another folder from counting.
    fn is_needed(&self, ending: &Record) -> bool {
        let Some(class) = ending.kind.class() else { return true };
        self.inner.slots.iter().any(|slot| match &slot.folder {
            Some(folder) if folder.check_readable().is_ok() && folder.is_whole() && !folder.has_suspects() => {
                let entry = folder.catalogue.entry(class, &ending.a, &ending.b);
                entry.map_or(true, |entry| entry.is_some_and(|entry| entry.generation < ending.generation))
            }
            // Nobody knows what is on it.
            Some(_) | None => true,
        })
    }

    fn summaries(&self, keys: impl Iterator<Item = (ShardRoot, AccountId)>) -> Result<Vec<LeaseSummary>, StoreError> {
        let mut found = Vec::new();
        for (root, account) in keys {
            found.extend(self.newest_lease(&root, &account)?);
        }
        Ok(found)
    }

    /// Refuses what half an index could get wrong.
    fn check_whole(&self) -> Result<(), StoreError> {
        if self.is_whole() { Ok(()) } else { Err(StoreError::Rebuilding) }
    }

    /// Folders that can be read, being rebuilt or not.
    fn in_use(&self) -> impl Iterator<Item = &Arc<Folder<D>>> {
        let folders = self.inner.slots.iter().filter_map(|slot| slot.folder.as_ref());
        folders.filter(|folder| folder.check_readable().is_ok())
    }

    /// Those that are being rebuilt.
    fn partial(&self) -> impl Iterator<Item = &Arc<Folder<D>>> {
        self.in_use().filter(|folder| !folder.is_whole())
    }

    /// Those that are not.
    fn readable(&self) -> impl Iterator<Item = &Arc<Folder<D>>> {
        self.in_use().filter(|folder| folder.is_whole())
    }

    fn writable(&self) -> impl Iterator<Item = &Arc<Folder<D>>> {
        self.readable().filter(|folder| folder.check_writable().is_ok())
    }
}

fn known<D: Disk>(folder: &Folder<D>, root: &ShardRoot) -> Result<Option<Entry>, StoreError> {
    folder.catalogue.shard(root).map_err(|reason| folder.index_error(reason))
}

/// Of heads by one key on different folders, the one written last.
fn newest_heads(found: &mut BTreeMap<(Point, [u8; 32]), (u64, StoredHead)>, heads: Vec<(u64, StoredHead)>) {
    for (generation, head) in heads {
        let key = (head.point, head.key);
        if found.get(&key).is_none_or(|(other, _)| *other < generation) {
            found.insert(key, (generation, head));
        }
    }
}

impl<D: Disk> Folder<D> {
    /// Closes every volume with its table and makes the index durable; writes nothing after that.
    fn close(&self) -> Result<(), StoreError> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.rebuild.stop();
        self.check_readable()?;
        // Whoever rebuilds is through with it, and nobody begins.
        let _rebuild = lock(&self.rebuild.work);
        // Whoever was writing a header is through with it now, and nobody begins.
        lock(&self.append).active = None;
        if !self.is_whole() {
            // What was found so far is no index to believe.
            return Ok(());
        }
        let mut result = Ok(());
        for volume in self.all_volumes() {
            let mode = lock(&volume.tail).mode;
            match mode {
                Mode::Sealed => {}
                Mode::Suspect => result = result.and(Err(self.volume_closed())),
                Mode::Open | Mode::Full | Mode::Closing => result = result.and(self.seal(&volume)),
            }
        }
        result?;
        self.close_index().map_err(|reason| self.index_error(reason))
    }
}
