//! Every bound of the system in one file, with the relations between them checked when this crate is compiled.
//!
//! Decides maxima that peers, disks and files are held to. Never holds a taste of one node or client: those are
//! configuration and may only be stricter.

use core::time::Duration;

/// One kibibyte.
pub const KIB: u64 = 1024;
/// One mebibyte.
pub const MIB: u64 = 1024 * KIB;
/// One gibibyte.
pub const GIB: u64 = 1024 * MIB;

/// Stored bytes of one full frame, tag included: one BLAKE3 hash group of a shard.
pub const FRAME_STORED_BYTES: usize = 16 * 1024;
/// Bytes of a ChaCha20-Poly1305 tag.
pub const TAG_BYTES: usize = 16;
/// Plaintext bytes of one full frame.
pub const FRAME_PLAIN_BYTES: usize = FRAME_STORED_BYTES - TAG_BYTES;
/// Bytes of one hash group: the unit of a shard's outboard.
pub const HASH_GROUP_BYTES: usize = 16 * 1024;
/// Base-2 logarithm of the 1 KiB BLAKE3 chunks in one hash group, as bao-tree counts.
pub const HASH_GROUP_LOG2_CHUNKS: u8 = 4;

/// Smallest chunk that the chunker cuts, but for the end of a file.
pub const CHUNK_MIN_BYTES: usize = 256 * 1024;
/// Mean chunk that the chunker aims at.
pub const CHUNK_MEAN_BYTES: usize = 1024 * 1024;
/// Largest chunk, before sealing.
pub const CHUNK_MAX_BYTES: usize = 4 * 1024 * 1024;
/// Largest chunk after sealing: one tag for each frame more.
pub const SEALED_CHUNK_MAX_BYTES: usize = CHUNK_MAX_BYTES + CHUNK_MAX_BYTES.div_ceil(FRAME_PLAIN_BYTES) * TAG_BYTES;
/// Sealed chunks of this many bytes and more start on a frame border of the segment; smaller ones are packed tight.
pub const ALIGNED_CHUNK_MIN_BYTES: usize = 64 * 1024;

/// Largest sum of the data shards of one segment.
pub const SEGMENT_MAX_BYTES: usize = 32 * 1024 * 1024;
/// Largest shard: a segment with one data shard.
pub const SHARD_MAX_BYTES: usize = SEGMENT_MAX_BYTES;
/// Shards of segments under [`SEGMENT_FINE_BELOW_BYTES`] have lengths in multiples of this.
pub const SHARD_FINE_STEP_BYTES: usize = 1024;
/// Shards of all other segments have lengths in multiples of this.
pub const SHARD_STEP_BYTES: usize = FRAME_STORED_BYTES;
/// Segments with less sealed payload than this round shard lengths finely.
pub const SEGMENT_FINE_BELOW_BYTES: usize = 1024 * 1024;
/// Most shards of one segment.
pub const SHARDS_MAX: usize = 64;
/// Most shards of one segment that holds documents, so that a head can name all of them inline.
pub const DOCUMENT_SHARDS_MAX: usize = 20;
/// Most chunks in one segment.
pub const SEGMENT_CHUNKS_MAX: usize = 65_536;

/// Largest encoded blob of a document before sealing; a document's tree splits above its target, far below this.
pub const BLOB_MAX_BYTES: usize = CHUNK_MAX_BYTES;
/// Size at which a document tree's leaf is split, in encoded bytes.
pub const BLOB_TARGET_BYTES: usize = 64 * 1024;
/// Largest encoded node of a document tree; a node ends before an item that would bring it over.
pub const TREE_BLOB_MAX_BYTES: usize = 4 * BLOB_TARGET_BYTES;
/// Smallest encoded node that a writer ends by content.
pub const TREE_SPLIT_MIN_BYTES: usize = BLOB_TARGET_BYTES / 4;
/// Deepest tree of blobs that a reader follows, in blobs.
pub const TREE_DEPTH_MAX: usize = 16;
/// Longest name of one path component, in bytes.
pub const NAME_MAX_BYTES: usize = 1024;
/// Deepest folder that a reader follows.
pub const FOLDER_DEPTH_MAX: usize = 256;
/// Longest symbolic link target, in bytes.
pub const SYMLINK_MAX_BYTES: usize = 4096;
/// Largest sum of extended attributes of one entry.
pub const XATTRS_MAX_BYTES: usize = 64 * 1024;
/// Most extended attributes of one entry.
pub const XATTRS_MAX: usize = 1024;
/// Longest name of an extended attribute, in bytes.
pub const XATTR_NAME_MAX_BYTES: usize = 255;
/// Most extents that stand in the entry itself; a file with more has an extent tree.
pub const EXTENTS_INLINE_MAX: usize = 1000;
/// Largest root blob of a snapshot.
pub const SNAPSHOT_ROOT_MAX_BYTES: usize = 128 * 1024;
/// Most extension fields of one document or entry.
pub const EXTENSIONS_MAX: usize = 256;
/// Largest sum of the extension values of one document or entry.
pub const EXTENSIONS_MAX_BYTES: usize = 64 * 1024;
/// Longest name of a release in a document's needs, in bytes.
pub const NEEDS_RELEASE_MAX_BYTES: usize = 32;
/// Most nodes that a base table names.
pub const TABLE_NODES_MAX: usize = 16_384;
/// Most stewards that a base table names.
pub const TABLE_STEWARDS_MAX: usize = 64;
/// Most segment rows that stand in the table's root itself; a table with more has a row tree.
pub const TABLE_ROWS_INLINE_MAX: usize = 64;
/// Most segments, beside the one of its root, that blobs of a base table lie in.
pub const TABLE_FURTHER_SEGMENTS_MAX: usize = 2048;
/// Most addresses of a node in a document.
pub const DOCUMENT_ADDRESSES_MAX: usize = 8;
/// Largest signed receipt as a document keeps it.
pub const RECEIPT_MAX_BYTES: usize = 1024;
/// Longest message of a snapshot, in bytes.
pub const MESSAGE_MAX_BYTES: usize = 4096;
/// As much of a snapshot's message as its row in the history keeps.
pub const HISTORY_MESSAGE_MAX_BYTES: usize = 256;
/// Most names that people gave to one snapshot.
pub const TAGS_MAX: usize = 16;
/// Longest such name, in bytes.
pub const TAG_MAX_BYTES: usize = 64;
/// Bytes of an owner's note before sealing, however little it says.
pub const OWNER_NOTE_BYTES: usize = 512;
/// Longest name of a dataset, in bytes.
pub const DATASET_NAME_MAX_BYTES: usize = 200;
/// Most shares that one dataset's ledger keeps, ended ones included.
pub const SHARES_MAX: usize = 1000;
/// Most stewards that one dataset's ledger keeps, ended ones included; of those that have not ended the table names
/// [`TABLE_STEWARDS_MAX`] at most.
pub const LEDGER_STEWARDS_MAX: usize = 128;
/// Bytes that a steward takes in a ledger at most.
pub const LEDGER_STEWARD_BYTES: usize = 130;
/// Most nodes that one steward has grants for.
pub const GRANTS_MAX: usize = 4096;
/// Largest signed grant as a document keeps it.
pub const GRANT_MAX_BYTES: usize = 1024;
/// Most segments, beside the one of its root, that blobs of an overlay lie in.
pub const OVERLAY_FURTHER_SEGMENTS_MAX: usize = 512;
/// Most stewards that a head names.
pub const HEAD_STEWARDS_MAX: usize = 8;
/// Most heads before it that a read head says to have in it.
pub const LINEAGE_MAX: usize = 48;
/// Most shards of one renewal whose receipt is to stand in an overlay's rows.
pub const OVERLAY_RENEWAL_SHARDS_MAX: usize = 16;
/// Longest shared path, in bytes.
pub const PATH_MAX_BYTES: usize = 4096;

/// Largest head, signature included.
pub const HEAD_MAX_BYTES: usize = 8 * 1024;
/// Places at which every head lies.
pub const HEAD_POINTS: usize = 8;
/// Points that a write of a head must reach.
pub const HEAD_WRITE_QUORUM: usize = 5;
/// Nodes, of distinct operators where there are, that hold a head at each point.
pub const HEAD_NODES_PER_POINT: usize = 3;
/// Nodes that are named for a point at most: those that are to hold the head, and their stand-ins. Of so many,
/// [`HEAD_NODES_PER_POINT`] are the least majority, so any two sets of that size have a node in common.
pub const HEAD_NAMED_PER_POINT: usize = 2 * HEAD_NODES_PER_POINT - 1;
/// Heads by different keys that a node keeps at one point.
pub const HEADS_PER_POINT_MAX: usize = 4;
/// How far ahead of the one it has a head's sequence may be for a node to accept it.
pub const HEAD_SEQUENCE_LEAP_MAX: u64 = 1000;

/// Largest protobuf header of a request or a reply.
pub const WIRE_HEADER_MAX_BYTES: usize = 64 * 1024;
/// Most roots in one `Stat`, `Renew` or `Delete`.
pub const ROOTS_PER_CALL_MAX: usize = 1024;
/// Most receipts in one `Moved`.
pub const MOVED_RECEIPTS_MAX: usize = 128;
/// Most bytes that a writer puts into one `Moved`; the rest of the header is for what protobuf adds.
pub const MOVED_BYTES_MAX: usize = 60 * 1024;
/// How long after a node is gone what it held has to be held elsewhere, for it to count as moved.
pub const MOVED_LEASE_MIN: Duration = Duration::from_secs(7 * 86_400);
/// Most leases that one `List` answers with.
pub const LEASES_PER_LIST_MAX: usize = 256;
/// Longest message of an error on the wire.
pub const ERROR_MESSAGE_MAX_BYTES: usize = 256;
/// Longest `retry_after` that is believed.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Largest signed node record.
pub const NODE_RECORD_MAX_BYTES: usize = 4 * 1024;
/// Most addresses of one plane in a node record.
pub const NODE_ADDRESSES_MAX: usize = 8;
/// Longest text (region, version, address) in a node record.
pub const NODE_TEXT_MAX_BYTES: usize = 256;
/// Most bootstrap addresses in a link.
pub const LINK_BOOTSTRAP_MAX: usize = 8;
/// Longest bootstrap address in a link, in bytes.
pub const LINK_ADDRESS_MAX_BYTES: usize = 200;
/// Longest link text.
pub const LINK_MAX_CHARS: usize = 2048;

/// A stream on which no byte moves for this long is given up; there is no limit on a whole transfer.
pub const PROGRESS_DEADLINE: Duration = Duration::from_secs(30);
/// After twice [`PROGRESS_DEADLINE`] a transfer slower than this on average is given up: a peer cannot hold one by trickling.
pub const PACE_MIN_BYTES_PER_SECOND: u64 = 128;
/// Transfers in one direction that a client always allows itself: with fewer, a node that does not answer would stop all.
pub const TRANSFERS_AT_ONCE_LEAST: u32 = 2;
/// Transfers in one direction at a time that a client allows itself at most.
pub const TRANSFERS_AT_ONCE_MAX: u32 = 256;
const _: () = assert!(TRANSFERS_AT_ONCE_LEAST < TRANSFERS_AT_ONCE_MAX);
/// Nodes whose pace a client remembers.
pub const PACE_NODES_MAX: usize = 4096;
/// A client refuses a node whose clock is further off than this.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(10 * 60);
/// Expiry tolerates this much disagreement between clocks.
pub const EXPIRY_SKEW: Duration = Duration::from_secs(3600);
/// A node whose clock jumps by more than this expires nothing until it is told that the time is right.
pub const CLOCK_JUMP_MAX: Duration = Duration::from_secs(86_400);
/// Lease that a shard is first put with.
pub const LEASE_INITIAL: Duration = Duration::from_secs(7 * 86_400);
/// Lease of a dataset unless the owner says otherwise; also of heads.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(400 * 86_400);
/// Longest lease that a node grants.
pub const LEASE_MAX: Duration = Duration::from_secs(800 * 86_400);
/// A node keeps an expired shard this much longer when space allows.
pub const LEASE_GRACE: Duration = Duration::from_secs(30 * 86_400);
/// A segment that left the base table is deleted no sooner than this.
pub const LEAVING_MIN: Duration = Duration::from_secs(7 * 86_400);
/// `info` warns when a lease ends sooner than this.
pub const LEASE_WARNING: Duration = Duration::from_secs(60 * 86_400);
/// Longest life of a node record in the directory.
pub const NODE_RECORD_LIFE_MAX: Duration = Duration::from_secs(3600);
/// A signed request is accepted this long before and after the time that it names.
pub const REQUEST_LIFE: Duration = Duration::from_secs(15 * 60);

/// Bytes of one block, the unit that a challenge draws: one BLAKE3 chunk.
pub const AUDIT_BLOCK_BYTES: usize = 1024;
/// Most samples of one challenge.
pub const AUDIT_SAMPLES_MAX: usize = 1024;
/// Most shards of one challenge's set.
pub const AUDIT_SET_MAX: u64 = 1 << 32;
/// Largest pruned set of a challenge, encoded.
pub const AUDIT_TREE_MAX_BYTES: usize = 2 * 1024 * 1024;
/// Largest payload of one proof: every sample a block with its path in the largest shard.
pub const AUDIT_PAYLOAD_MAX_BYTES: usize = AUDIT_SAMPLES_MAX * (AUDIT_BLOCK_BYTES + 15 * 32);
/// Longest value of a beacon.
pub const AUDIT_BEACON_MAX_BYTES: usize = 96;
/// How often a reveal may be asked: once, and three times more.
pub const AUDIT_ATTEMPTS_MAX: u32 = 4;
/// How long a node answers a reveal of a slot that it granted, at least.
pub const AUDIT_SLOT_LIFE: Duration = Duration::from_secs(24 * 3600 + 900);
/// Samples an hour for each 10^12 bytes that an auditor knows a node to hold.
pub const AUDIT_SAMPLES_PER_HOUR_PER_TB: u64 = 64;
/// Fewest samples a day of a node, however little it holds.
pub const AUDIT_SAMPLES_PER_DAY_MIN: u64 = 8;
/// Most receipts that a transcript carries.
pub const TRANSCRIPT_RECEIPTS_MAX: usize = AUDIT_SAMPLES_MAX;
/// Largest transcript.
pub const TRANSCRIPT_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Largest volume file of a node.
pub const VOLUME_MAX_BYTES: u64 = GIB;

const _: () = {
    assert!(FRAME_STORED_BYTES == HASH_GROUP_BYTES, "a frame is one hash group");
    assert!(HASH_GROUP_BYTES == 1024 << HASH_GROUP_LOG2_CHUNKS);
    assert!(CHUNK_MIN_BYTES < CHUNK_MEAN_BYTES && CHUNK_MEAN_BYTES < CHUNK_MAX_BYTES);
    assert!(SEALED_CHUNK_MAX_BYTES <= SEGMENT_MAX_BYTES, "every chunk fits a segment");
    assert!(ALIGNED_CHUNK_MIN_BYTES.is_multiple_of(FRAME_STORED_BYTES));
    assert!(SHARD_STEP_BYTES.is_multiple_of(SHARD_FINE_STEP_BYTES));
    assert!(SHARDS_MAX <= 255, "a shard index is a byte and GF(2^8) has 255 places");
    assert!(DOCUMENT_SHARDS_MAX <= SHARDS_MAX);
    assert!(DOCUMENT_SHARDS_MAX * 64 < HEAD_MAX_BYTES, "roots and nodes of a document segment fit a head");
    assert!(TREE_SPLIT_MIN_BYTES < BLOB_TARGET_BYTES && BLOB_TARGET_BYTES < TREE_BLOB_MAX_BYTES);
    assert!(TREE_BLOB_MAX_BYTES <= BLOB_MAX_BYTES && SNAPSHOT_ROOT_MAX_BYTES <= BLOB_MAX_BYTES);
    assert!(
        EXTENTS_INLINE_MAX * 77 + XATTRS_MAX_BYTES + XATTRS_MAX * 6 + EXTENSIONS_MAX_BYTES + EXTENSIONS_MAX * 6 + 8192
            <= TREE_BLOB_MAX_BYTES,
        "the largest entry fits a blob"
    );
    assert!(DATASET_NAME_MAX_BYTES + 81 <= OWNER_NOTE_BYTES, "the longest name fits a note");
    assert!(
        SHARES_MAX * (PATH_MAX_BYTES + 64) + LEDGER_STEWARDS_MAX * LEDGER_STEWARD_BYTES + 1024 <= BLOB_MAX_BYTES,
        "the longest ledger fits a blob"
    );
    assert!(
        LEDGER_STEWARDS_MAX * LEDGER_STEWARD_BYTES + 2 <= EXTENSIONS_MAX_BYTES,
        "stewards fit a ledger's extension"
    );
    assert!(TABLE_STEWARDS_MAX <= LEDGER_STEWARDS_MAX && HEAD_STEWARDS_MAX <= TABLE_STEWARDS_MAX);
    assert!(
        OVERLAY_FURTHER_SEGMENTS_MAX * (DOCUMENT_SHARDS_MAX * (32 + 1 + 32 + 1 + DOCUMENT_ADDRESSES_MAX * 19) + 64)
            + EXTENSIONS_MAX_BYTES
            + EXTENSIONS_MAX * 6
            + 1024
            <= BLOB_MAX_BYTES,
        "the largest overlay root fits a blob"
    );
    // A root and a length take 39 bytes of protobuf at most, all else of a signed renewal's receipt under 200.
    assert!(OVERLAY_RENEWAL_SHARDS_MAX * 40 + 256 <= RECEIPT_MAX_BYTES, "a renewal's receipt fits a row");
    assert!(MESSAGE_MAX_BYTES + EXTENSIONS_MAX_BYTES + EXTENSIONS_MAX * 6 + 1024 <= SNAPSHOT_ROOT_MAX_BYTES);
    assert!(
        DOCUMENT_SHARDS_MAX * (32 + 1 + 32 + 1 + DOCUMENT_ADDRESSES_MAX * 19)
            + OWNER_NOTE_BYTES
            + HEAD_STEWARDS_MAX * 32
            + LINEAGE_MAX * 20
            + 1024
            <= HEAD_MAX_BYTES,
        "a head can name every shard of a document segment with all its addresses, hold a note, name stewards and its lineage"
    );
    assert!(HEAD_WRITE_QUORUM * 2 > HEAD_POINTS, "two writes of a head meet");
    assert!(HEAD_NODES_PER_POINT == HEAD_NAMED_PER_POINT / 2 + 1, "those that hold a head are most of those named");
    assert!(HEADS_PER_POINT_MAX * HEAD_MAX_BYTES < WIRE_HEADER_MAX_BYTES, "all heads of a point fit a reply");
    assert!(ROOTS_PER_CALL_MAX * 56 < WIRE_HEADER_MAX_BYTES, "a full call fits a header");
    assert!(MOVED_BYTES_MAX + MOVED_RECEIPTS_MAX * 4 + 64 < WIRE_HEADER_MAX_BYTES, "what was moved fits a header");
    assert!(RECEIPT_MAX_BYTES < MOVED_BYTES_MAX, "every receipt of a document can be shown");
    assert!(CLOCK_SKEW_MAX.as_secs() < EXPIRY_SKEW.as_secs());
    assert!(CLOCK_SKEW_MAX.as_secs() < REQUEST_LIFE.as_secs());
    assert!(AUDIT_BLOCK_BYTES << HASH_GROUP_LOG2_CHUNKS == HASH_GROUP_BYTES);
    assert!(SHARD_MAX_BYTES == AUDIT_BLOCK_BYTES << 15, "a path in the largest shard has fifteen hashes");
    assert!(AUDIT_SET_MAX <= 1 << 32, "a pruned set is at most 32 deep");
    assert!(AUDIT_SLOT_LIFE.as_secs() >= 24 * 3600 + REQUEST_LIFE.as_secs());
    assert!(LEASE_INITIAL.as_secs() < LEASE_DEFAULT.as_secs() && LEASE_DEFAULT.as_secs() < LEASE_MAX.as_secs());
    assert!(SHARD_MAX_BYTES as u64 * 2 < VOLUME_MAX_BYTES, "a volume holds several of the largest shards");
};
