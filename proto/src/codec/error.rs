//! What can be wrong with a document: one enum for manifests, tables and heads' bodies.

use super::CodecError;

/// Why a document is refused. Every variant but [`DocumentError::Needs`] is the fault of the document's writer, whom the
/// seal or the signature proves: a carrier cannot cause them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// A field is cut off, over its limit or unknown.
    #[error("the document is malformed: {0}")]
    Codec(#[from] CodecError),
    /// The version byte is not one that this release reads.
    #[error("the document has format version {found}, this release reads version 1")]
    Version {
        /// The byte that was found.
        found: u8,
    },
    /// The blob is one of another kind.
    #[error("expected {expected}, found a blob of kind {found}")]
    Kind {
        /// What was looked for.
        expected: &'static str,
        /// The kind byte that was found.
        found: u8,
    },
    /// The document uses features that this release lacks; a newer release reads it.
    #[error("the document needs Dolmen {release} or later (feature bits {bits:#x})")]
    Needs {
        /// The bits that are not understood.
        bits: u32,
        /// The release that the writer named.
        release: String,
    },
    /// The release that needs name is missing, superfluous or not printable.
    #[error("the document's needs are malformed")]
    NeedsText,
    /// An extension with an odd key must be understood, and this one is not.
    #[error("extension {key} must be understood to read this, and this release does not know it")]
    UnknownExtension {
        /// The odd key.
        key: u16,
    },
    /// A document to be written has a typed field's key among its other extensions: the caller's mistake.
    #[error("extension {key} is a field of its own and cannot be given beside it")]
    ReservedExtension {
        /// The key.
        key: u16,
    },
    /// Two neighbours are not in the order of the format, or one stands twice.
    #[error("{what} are not in order")]
    Order {
        /// The list.
        what: &'static str,
    },
    /// A list that must not be empty is.
    #[error("{what} must not be empty")]
    Empty {
        /// The field.
        what: &'static str,
    },
    /// A name of an entry is not a single usable path component.
    #[error("an entry's name {0}")]
    Name(#[from] crate::manifest::NameError),
    /// A mode has bits other than the twelve permission bits.
    #[error("mode {found:#o} has more than permission bits")]
    Mode {
        /// The mode.
        found: u32,
    },
    /// A pointer's length is zero, over the limit, or reaches past the largest segment.
    #[error("a pointer to {length} bytes at offset {offset} lies outside of any segment")]
    Pointer {
        /// Bytes before sealing.
        length: u32,
        /// Offset in the segment.
        offset: u32,
    },
    /// A compressed chunk that is not shorter than what it decompresses to, or that comes to more than a chunk.
    #[error("a chunk of {compressed_bytes} compressed bytes cannot come to {plain_bytes}")]
    PlainLength {
        /// What it is said to decompress to.
        plain_bytes: u32,
        /// Its own length before sealing.
        compressed_bytes: u32,
    },
    /// A self pointer where the segment has to be named.
    #[error("{what} does not name its segment")]
    SelfPointer {
        /// Where it stands.
        what: &'static str,
    },
    /// A pointer to be written still has a stand-in for its segment: the sink does not know it.
    #[error("a pointer leads to a segment that the sink does not know")]
    Unsettled,
    /// Extents of a file do not add up to its size.
    #[error("the extents have {found} bytes, the file {expected}")]
    Size {
        /// The size that the entry states.
        expected: u64,
        /// The sum of the extents.
        found: u64,
    },
    /// A folder's entries do not come to the totals that its parent states.
    #[error("the entries of a folder do not come to its totals")]
    Totals,
    /// A sum is over 2^64.
    #[error("{what} overflow")]
    Overflow {
        /// What was summed.
        what: &'static str,
    },
    /// A forwarding row moves nothing, or bytes that no segment can hold.
    #[error("a forwarding row is impossible")]
    Forward,
    /// What a note says of the epoch whose dedup key is used cannot be.
    #[error("chunks are said to be sealed as in an epoch that has not begun, or as they always were")]
    Sealing,
    /// What fills a document up to its length is not all zero.
    #[error("the padding is not all zero")]
    Padding,
    /// A tree of blobs is deeper than a reader follows.
    #[error("a tree of blobs has level {level}, {} is the highest", crate::limits::TREE_DEPTH_MAX - 1)]
    TooDeep {
        /// The level that the blob states.
        level: u8,
    },
    /// A child's level is not the one below its parent's.
    #[error("a blob of level {found} stands where level {expected} belongs")]
    Level {
        /// One less than the parent's.
        expected: u8,
        /// What the child says.
        found: u8,
    },
    /// A child's content is not what its parent says.
    #[error("a blob's content does not match the label in its parent")]
    Label,
    /// A tree has more or fewer items than its root states.
    #[error("a tree has {found} items, its root states {expected}")]
    ItemCount {
        /// What the root states.
        expected: u64,
        /// What was found, so far.
        found: u64,
    },
    /// The code of a segment is not a possible one.
    #[error("a segment's code or lengths are impossible")]
    Geometry,
    /// A row's shards are not as many as its code has.
    #[error("a segment row has {found} shards, its code {expected}")]
    ShardCount {
        /// The code's n.
        expected: usize,
        /// What the row holds.
        found: usize,
    },
    /// A row names a node that is not in the node list.
    #[error("a segment row names node {index} of a list of {nodes}")]
    NodeIndex {
        /// The index.
        index: u32,
        /// How many nodes the list has.
        nodes: usize,
    },
    /// An address has port 0, or a node has one address or a list one node twice.
    #[error("a node's address or place in the list is malformed")]
    NodeEntry,
}
