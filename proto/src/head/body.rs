//! What a head says to those who can open it.

use zeroize::Zeroizing;

use super::{HeadError, SealedNote};
use crate::codec::{DocumentError, Extensions, Needs, Reader, Writer, check_limit};
use crate::ids::{SegmentId, ShardRoot, SnapshotId, Timestamp};
use crate::keys::{MaskSecret, ReadOpening, TableSecret};
use crate::limits::DOCUMENT_SHARDS_MAX;
use crate::seal::ChunkKey;
use crate::segment::{Geometry, SegmentNonce};
use crate::table::{NodeEntry, SegmentRow, TableRoot, read_geometry, write_geometry};
use crate::tree::{BlobPointer, CountedTree};

const KIND_TABLE: u8 = 1;
const KIND_READ: u8 = 2;

/// One shard of a segment that a head names inline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The shard.
    pub root: ShardRoot,
    /// Who holds it.
    pub node: Option<NodeEntry>,
}

/// A document segment with all that is needed to fetch it, without any table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedSegment {
    id: SegmentId,
    geometry: Geometry,
    nonce: SegmentNonce,
    holders: Vec<Holder>,
}

impl PlacedSegment {
    /// A segment and its holders in shard order.
    ///
    /// # Errors
    /// [`DocumentError::ShardCount`] unless there are `n` holders, [`DocumentError::Codec`] when there are more than a head takes.
    pub fn new(geometry: Geometry, nonce: SegmentNonce, holders: Vec<Holder>) -> Result<Self, DocumentError> {
        check_limit(holders.len(), DOCUMENT_SHARDS_MAX, "the shards of a segment in a head")?;
        let expected = usize::from(geometry.policy().n());
        if holders.len() != expected {
            return Err(DocumentError::ShardCount { expected, found: holders.len() });
        }
        let roots: Vec<ShardRoot> = holders.iter().map(|holder| holder.root).collect();
        let id = geometry.segment_id(&nonce, &roots).map_err(|_| DocumentError::Geometry)?;
        Ok(Self { id, geometry, nonce, holders })
    }

    /// The segment of a row, with its nodes out of the table that the row stands in.
    ///
    /// # Errors
    /// As [`PlacedSegment::new`] and [`TableRoot::holders`].
    pub fn of_row(row: &SegmentRow, table: &TableRoot) -> Result<Self, DocumentError> {
        let nodes = table.holders(row)?;
        let holder = |(root, node): (&ShardRoot, Option<&NodeEntry>)| Holder { root: *root, node: node.cloned() };
        Self::new(row.geometry(), row.nonce(), row.roots().iter().zip(nodes).map(holder).collect())
    }

    /// The segment's id.
    #[must_use]
    pub const fn id(&self) -> SegmentId {
        self.id
    }

    /// Its code and lengths.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Its nonce.
    #[must_use]
    pub const fn nonce(&self) -> SegmentNonce {
        self.nonce
    }

    /// Its shards in order, with who holds them.
    #[must_use]
    pub fn holders(&self) -> &[Holder] {
        &self.holders
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        write_geometry(writer, &self.geometry, &self.nonce);
        for holder in &self.holders {
            writer.raw(holder.root.as_bytes());
            writer.option(holder.node.as_ref(), |writer, node| node.write(writer));
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let (geometry, nonce) = read_geometry(reader)?;
        let holders = (0..geometry.policy().n())
            .map(|_| {
                let root = ShardRoot::new(reader.array("a root")?);
                Ok(Holder { root, node: reader.option("a node", NodeEntry::read)? })
            })
            .collect::<Result<_, DocumentError>>()?;
        Self::new(geometry, nonce, holders)
    }
}

/// Where the root of a base table lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableLocation {
    /// The segment that holds the root blob.
    pub segment: PlacedSegment,
    /// Opens the root blob.
    pub key: ChunkKey,
    /// Where the sealed root blob starts in the segment, in bytes.
    pub offset: u32,
    /// Bytes of the root blob before sealing.
    pub length: u32,
}

/// What a table head says: where the newest base table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableBody {
    /// Where its root lies.
    pub location: TableLocation,
    /// Fields of later releases.
    pub extensions: Extensions,
}

impl TableLocation {
    /// The root blob of the table.
    #[must_use]
    pub fn root(&self) -> BlobPointer {
        BlobPointer { key: self.key.clone(), segment: self.segment.id, offset: self.offset, length: self.length }
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        self.segment.write(writer);
        writer.raw(self.key.expose());
        writer.u32(self.offset);
        writer.u32(self.length);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let location = Self {
            segment: PlacedSegment::read(reader)?,
            key: ChunkKey::new(reader.array("the key of the table's root")?),
            offset: reader.u32("the offset of the table's root")?,
            length: reader.u32("the length of the table's root")?,
        };
        location.root().check()?;
        Ok(location)
    }
}

/// What a read head says: where the newest snapshot is, and everything needed to read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBody {
    /// Opens the commitment that the read link's secret is.
    pub read_opening: ReadOpening,
    /// Finds and opens the table head.
    pub table_secret: TableSecret,
    /// Unmasks parity shards.
    pub mask_secret: MaskSecret,
    /// The Ed25519 key that signs table heads.
    pub table_head_key: [u8; 32],
    /// Where the table was when this was written; saves a reader a round trip while it is still there.
    pub table: TableLocation,
    /// The root blob of the snapshot; never a self pointer.
    pub snapshot: BlobPointer,
    /// The snapshot's id.
    pub snapshot_id: SnapshotId,
    /// When the snapshot was made, by its writer's clock.
    pub created: Timestamp,
    /// The tree of [kept snapshots](crate::history::HistoryRow), never a self pointer; `None` for a dataset without a history.
    pub history: Option<CountedTree>,
    /// What the owner noted for himself; sealed from readers.
    pub owner_note: Option<SealedNote>,
    /// Fields of later releases.
    pub extensions: Extensions,
}

/// Among the extensions of a read head.
const EXTENSION_HISTORY: u16 = 2;
/// Among the extensions of a read head.
const EXTENSION_OWNER_NOTE: u16 = 4;

pub(super) fn begin(kind: u8) -> Writer {
    let mut writer = Writer::new();
    writer.u8(kind);
    Needs::NONE.write(&mut writer);
    writer
}

pub(super) fn expect_kind(reader: &mut Reader<'_>, expected: u8) -> Result<(), HeadError> {
    let found = reader.u8("the kind of a head")?;
    if found != expected {
        return Err(HeadError::Kind { expected, found });
    }
    Needs::read(reader, Needs::NONE)?;
    Ok(())
}

pub(super) fn encode_table(body: &TableBody) -> Result<Zeroizing<Vec<u8>>, HeadError> {
    body.location.root().check()?;
    let mut writer = begin(KIND_TABLE);
    body.location.write(&mut writer);
    body.extensions.write(&mut writer);
    Ok(Zeroizing::new(writer.into_bytes()))
}

pub(super) fn decode_table(plain: &[u8]) -> Result<TableBody, HeadError> {
    let mut reader = Reader::new(plain);
    expect_kind(&mut reader, KIND_TABLE)?;
    let body = TableBody { location: TableLocation::read(&mut reader)?, extensions: Extensions::read(&mut reader)? };
    reader.finish()?;
    Ok(body)
}

pub(super) fn encode_read(body: &ReadBody) -> Result<Zeroizing<Vec<u8>>, HeadError> {
    body.table.root().check()?;
    body.snapshot.check()?;
    body.snapshot.check_absolute("the snapshot in a head")?;
    if let Some(history) = &body.history {
        history.check()?;
        history.root.check_absolute("the history in a head")?;
    }
    let mut writer = begin(KIND_READ);
    writer.raw(body.read_opening.expose());
    writer.raw(body.table_secret.expose());
    writer.raw(body.mask_secret.expose());
    writer.raw(&body.table_head_key);
    body.table.write(&mut writer);
    body.snapshot.write(&mut writer);
    writer.raw(body.snapshot_id.as_bytes());
    writer.u64(body.created.as_unix_ms());
    let history = body.history.as_ref().map(CountedTree::to_bytes);
    let note = body.owner_note.as_ref().map(|note| note.as_bytes().to_vec());
    let extensions = body.extensions.clone().with_typed(EXTENSION_HISTORY, history)?;
    extensions.with_typed(EXTENSION_OWNER_NOTE, note)?.write(&mut writer);
    Ok(Zeroizing::new(writer.into_bytes()))
}

pub(super) fn decode_read(plain: &[u8]) -> Result<ReadBody, HeadError> {
    let mut reader = Reader::new(plain);
    expect_kind(&mut reader, KIND_READ)?;
    let mut body = ReadBody {
        read_opening: ReadOpening::new(reader.array("the read opening")?),
        table_secret: TableSecret::new(reader.array("the table secret")?),
        mask_secret: MaskSecret::new(reader.array("the mask secret")?),
        table_head_key: reader.array("the table head's key")?,
        table: TableLocation::read(&mut reader)?,
        snapshot: BlobPointer::read(&mut reader)?,
        snapshot_id: SnapshotId::new(reader.array("the snapshot's id")?),
        created: Timestamp::from_unix_ms(reader.u64("the time of creation")?),
        history: None,
        owner_note: None,
        extensions: Extensions::read(&mut reader)?,
    };
    reader.finish()?;
    body.snapshot.check_absolute("the snapshot in a head")?;
    body.history = body.extensions.take(EXTENSION_HISTORY).map(|value| CountedTree::parse(&value)).transpose()?;
    if let Some(history) = &body.history {
        history.root.check_absolute("the history in a head")?;
    }
    body.owner_note = body.extensions.take(EXTENSION_OWNER_NOTE).map(|value| SealedNote::parse(&value)).transpose()?;
    Ok(body)
}
