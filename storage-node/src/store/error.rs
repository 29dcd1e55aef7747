//! Why the store could not do what it was asked, and whose fault that is.
//!
//! Decides nothing; errors are values that many waiting committers can share, so they carry no live sources.

use std::io;

use dolmen_proto::ids::ShardRoot;

/// Why the store could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The peer's fault: the bytes that were streamed in hash to another root than was named.
    #[error("the bytes hash to {actual:?}, not to {named:?}")]
    WrongRoot {
        /// What the put named.
        named: ShardRoot,
        /// What the bytes hash to.
        actual: ShardRoot,
    },
    /// The peer's fault: more or fewer bytes than were named.
    #[error("{actual} bytes were sent of a shard of {named}")]
    WrongLength {
        /// What the put named, in bytes.
        named: u64,
        /// What came, in bytes; counting stops at the first byte too many.
        actual: u64,
    },
    /// The peer's fault: something is larger than the store takes.
    #[error("{what} of {actual} bytes: at most {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        actual: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The peer's fault: a read past the end of the shard.
    #[error("bytes {offset} to {end} of a shard of {length}")]
    OutOfRange {
        /// Where the read begins.
        offset: u64,
        /// Where it would end.
        end: u64,
        /// The shard's length in bytes.
        length: u64,
    },
    /// Nobody's fault: no lease is known for this here.
    #[error("not held")]
    NotHeld,
    /// This node's fault: it has a lease on the shard, but its bytes are damaged or lost. A new put heals it.
    #[error("shard {0:?} is damaged on this node's disk")]
    Damaged(ShardRoot),
    /// This node's state: the index of a data folder is being rebuilt, and what was not found yet may be in it.
    #[error("the index of a data folder is being rebuilt")]
    Rebuilding,
    /// This node's state: no data folder has room. Deletes still work.
    #[error("no data folder has {wanted} bytes of room")]
    DiskFull {
        /// Bytes that were asked for.
        wanted: u64,
    },
    /// This node's state: the data folder that holds it cannot be used now; see [`super::FolderState`].
    #[error("data folder {folder}: {reason}")]
    Folder {
        /// The folder's name.
        folder: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// This node's disk: an fsync failed, and what was waiting for it is not durable.
    #[error("data folder {folder}: volume {volume} could not be synced: {reason}")]
    SyncFailed {
        /// The folder's name.
        folder: String,
        /// The volume, now closed for writing.
        volume: u64,
        /// What the operating system said.
        reason: String,
    },
    /// This node's disk: an operation failed.
    #[error("data folder {folder}: {action}: {reason}")]
    Io {
        /// The folder's name.
        folder: String,
        /// What was being done.
        action: &'static str,
        /// What the operating system said.
        reason: String,
        /// The operating system's kind of failure.
        kind: io::ErrorKind,
    },
    /// This node's disk: the index failed. It is disposable: a restart without its folder rebuilds it.
    #[error("data folder {folder}: index: {reason}")]
    Index {
        /// The folder's name.
        folder: String,
        /// What the index said.
        reason: String,
    },
    /// The operator's task: no data folder can be used at all.
    #[error("no data folder can be used: {0}")]
    NoFolder(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
