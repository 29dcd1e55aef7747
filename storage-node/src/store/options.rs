//! The store's parameters and what it reports about itself.
//!
//! Decides defaults only. Sizes are parameters so that the simulator runs the real store with 4 KiB shards.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::ids::{AccountId, NodeId, Point, ShardRoot, Timestamp};
use dolmen_proto::limits;

/// A data folder's own identifier, drawn when it is initialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub [u8; 16]);

/// Where a data folder's index lies. It is disposable either way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexPlace {
    /// In memory, rebuilt after every opening: for simulated disks and tests.
    Memory,
    /// A sled database in this folder of its own, which is removed and rebuilt when it is of no use.
    Sled(PathBuf),
}

/// One disk as the store is given it.
#[derive(Debug)]
pub struct DataFolder<D> {
    /// The folder; a real one is locked already ([`crate::disk::FileDisk::open`]).
    pub disk: D,
    /// How errors and reports name it: its path.
    pub name: String,
    /// Where its index lies.
    pub index: IndexPlace,
    /// Most bytes that volumes may take here; the device's free space is a bound in any case.
    pub capacity_bytes: Option<u64>,
}

/// Parameters of a [`super::Store`].
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The node whose store this is; folders marked for another one are not touched.
    pub node: NodeId,
    /// Size at which a volume is closed, in bytes.
    pub volume_max_bytes: u64,
    /// Records at which a volume is closed: bounds its table of contents in memory (about 110 bytes each).
    pub volume_max_records: usize,
    /// Longest shard that is taken, in bytes.
    pub shard_max_bytes: u32,
    /// Bytes of every device that are kept free of shards. Leases may use half of it, tombstones all.
    pub reserve_bytes: u64,
    /// Cache of each folder's index, in bytes.
    pub index_cache_bytes: u64,
    /// Volume files held open in each folder while nobody reads them.
    pub open_files_max: usize,
    /// Memory in which each running put gathers what it writes at a time, in bytes.
    pub write_buffer_bytes: usize,
    /// An expired lease is kept this much longer while space allows.
    pub grace: Duration,
}

impl StoreOptions {
    /// The defaults for a node.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            volume_max_bytes: limits::VOLUME_MAX_BYTES,
            volume_max_records: 65_536,
            shard_max_bytes: u32::try_from(limits::SHARD_MAX_BYTES).expect("32 MiB fit 32 bits"),
            reserve_bytes: limits::GIB,
            index_cache_bytes: 16 * limits::MIB,
            open_files_max: 128,
            write_buffer_bytes: 256 * 1024,
            grace: limits::LEASE_GRACE,
        }
    }
}

/// A node's duty to hold a shard for one account. One per (root, account); a newer one replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRecord {
    /// Who pays.
    pub account: AccountId,
    /// Ed25519 public key that may delete.
    pub delete_key: [u8; 32],
    /// Ed25519 public key that may renew.
    pub renew_key: [u8; 32],
    /// When the lease ends.
    pub until: Timestamp,
    /// When the terms were signed.
    pub issued_at: Timestamp,
    /// The service's own mark, such as whom the bytes are charged to: the store never reads it, keeps it in the index
    /// and hands it back in every summary, so that balances are rebuilt and settled without reading terms from disk.
    pub mark: [u8; 16],
    /// The signed terms as they were received; at most [`super::LEASE_TERMS_MAX_BYTES`].
    pub terms: Bytes,
}

/// Whether a shard that is leased here can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardState {
    /// It can.
    Held,
    /// Its bytes are damaged or lost; the leases are kept so that this is said and not hidden.
    Damaged,
}

/// What the store knows of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardInfo {
    /// Length in bytes.
    pub length_bytes: u32,
    /// Whether it can be read.
    pub state: ShardState,
    /// All leases, by account; never empty.
    pub leases: Vec<LeaseRecord>,
}

/// A shard as those see it who care for no lease in particular.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardSummary {
    /// Length in bytes.
    pub length_bytes: u32,
    /// Whether it can be read.
    pub state: ShardState,
    /// When the last lease on it ends.
    pub until: Timestamp,
}

/// A lease as a listing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseSummary {
    /// The shard.
    pub root: ShardRoot,
    /// The account.
    pub account: AccountId,
    /// The shard's length in bytes.
    pub length_bytes: u32,
    /// When the lease ends.
    pub until: Timestamp,
    /// The mark that it was put with: [`LeaseRecord::mark`].
    pub mark: [u8; 16],
}

/// A head as it was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredHead {
    /// Where it lies.
    pub point: Point,
    /// The head's public key.
    pub key: [u8; 32],
    /// Its signed bytes.
    pub bytes: Bytes,
    /// When its lease ends.
    pub until: Timestamp,
}

/// What a data folder can be used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FolderState {
    /// Everything.
    Ready,
    /// Reads of the shards that were found so far: its index is being rebuilt.
    Rebuilding {
        /// Volumes read so far.
        volumes_read: u64,
        /// Volumes to read.
        volumes: u64,
    },
    /// Reads only: writing failed, for this reason.
    ReadOnly(String),
    /// Nothing: there is no marker file, so the disk is not mounted, or was never initialised.
    Unmounted,
    /// Nothing: the marker file names another node.
    Foreign(NodeId),
    /// Nothing, for this reason.
    Failed(String),
}

/// How a folder's index was found at opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexState {
    /// It matched the volumes.
    Clean,
    /// It is to be rebuilt from the volumes, for this reason: [`super::Store::rebuild`].
    Rebuilding(String),
    /// It was rebuilt from the volumes, for this reason.
    Rebuilt(String),
    /// The folder cannot be used.
    None,
}

/// What opening one folder found, and rebuilding its index, where that was needed and is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderReport {
    /// The folder's name.
    pub name: String,
    /// Its identifier, where its marker could be read.
    pub disk: Option<DiskId>,
    /// What it can be used for.
    pub state: FolderState,
    /// How its index was found.
    pub index: IndexState,
    /// Volumes found.
    pub volumes: usize,
    /// Volumes without a valid table of contents at their end, which were walked and re-hashed.
    pub walked: usize,
    /// Shards whose bytes were never acknowledged and are not whole: left out.
    pub torn: usize,
    /// Shards under a durable lease whose bytes are not there or not right.
    pub damaged: usize,
    /// Volume files that could not be understood at all and are left alone.
    pub unreadable: Vec<String>,
}

/// What opening a store found, one entry a folder in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OpenReport {
    /// The folders.
    pub folders: Vec<FolderReport>,
}

/// Space and counts of one folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FolderUsage {
    /// Shards that can be read.
    pub shards: u64,
    /// Sum of their lengths, in bytes.
    pub shard_bytes: u64,
    /// Leased shards whose bytes are damaged or lost.
    pub damaged: u64,
    /// Leases.
    pub leases: u64,
    /// Heads.
    pub heads: u64,
    /// Bytes of records that count, headers and outboards included.
    pub live_bytes: u64,
    /// Bytes that compaction can give back: replaced, deleted and abandoned records, tables of contents.
    pub dead_bytes: u64,
    /// Bytes of all volume files.
    pub total_bytes: u64,
    /// Bytes that shards may still take here, the reserve taken off.
    pub free_bytes: u64,
    /// Volume files.
    pub volumes: u64,
}

/// One folder as [`super::Store::folders`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderStatus {
    /// The folder's name.
    pub name: String,
    /// Its identifier, where its marker could be read.
    pub disk: Option<DiskId>,
    /// What it can be used for.
    pub state: FolderState,
    /// Space and counts; all zero where the folder cannot be used, and what was found so far where it is being rebuilt.
    pub usage: FolderUsage,
    /// For how long the oldest operation that has not come back from the disk has been waiting.
    pub oldest_operation: Option<Duration>,
    /// Operations that came back from the disk so far.
    pub operations: u64,
    /// Operations that failed so far.
    pub errors: u64,
}

/// What one step of expiry did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExpireReport {
    /// Leases ended.
    pub leases: Vec<LeaseSummary>,
    /// Heads dropped.
    pub heads: u64,
    /// Whether more is due: call again.
    pub more: bool,
}

/// What one step of compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompactReport {
    /// Volumes removed.
    pub volumes: u64,
    /// Bytes of live records copied.
    pub copied_bytes: u64,
    /// Bytes of the removed volumes.
    pub freed_bytes: u64,
    /// Whether more volumes qualify: call again.
    pub more: bool,
}

/// What one step of scrubbing did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScrubReport {
    /// Bytes read; over the budget by at most one record for each folder.
    pub read_bytes: u64,
    /// Records found whole.
    pub records: u64,
    /// Shards found damaged in this step, now marked.
    pub damaged: Vec<ShardRoot>,
    /// Folders that reached their end in this step and start over.
    pub rounds: u64,
}
