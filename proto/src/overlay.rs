//! Overlays: what a steward adds to the base table, places where shards lie beside those that the owner knows.
//!
//! Decides how an overlay is written, and when a row of one counts. Never decides whose overlays are asked: the base table
//! names the stewards. A row counts for the receipt of its node alone, so whoever wrote it need not be believed.

use bytes::Bytes;

use crate::codec::{
    CodecError, DocumentError, Extensions, Needs, Reader, Writer, check_ascending, check_limit, read_version,
    write_header,
};
use crate::head::PlacedSegment;
use crate::ids::{SegmentId, ShardIndex, Timestamp};
use crate::limits::{BLOB_MAX_BYTES, OVERLAY_FURTHER_SEGMENTS_MAX, RECEIPT_MAX_BYTES, SHARDS_MAX};
use crate::table::NodeEntry;
use crate::tree::{
    BlobKind, BlobPointer, BlobSink, BuildError, CountedTree, Node, TreeItem, TreeLabel, put_blob, resolve_segment,
};
use crate::wire::KeptReceipt;

/// One blob of an overlay's tree of rows.
pub type OverlayBlob = Node<OverlayRow>;

/// The least that a placed segment takes when encoded.
const PLACED_SEGMENT_MIN_BYTES: usize = 76;

/// A further place of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayRow {
    /// The segment.
    pub segment: SegmentId,
    /// Which of its shards, below [`SHARDS_MAX`].
    pub shard: ShardIndex,
    /// Who holds it.
    pub node: NodeEntry,
    /// What the node has signed.
    pub receipt: KeptReceipt,
}

/// What the rows of an overlay are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OverlayKey {
    /// The segment.
    pub segment: SegmentId,
    /// Which of its shards.
    pub shard: ShardIndex,
}

impl TreeLabel for OverlayKey {
    const MIN_BYTES: usize = 33;

    fn write(&self, writer: &mut Writer) {
        writer.raw(self.segment.as_bytes());
        writer.u8(self.shard.to_byte());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let segment = SegmentId::new(reader.array("a segment's id")?);
        let shard = reader.u8("a shard's index")?;
        if usize::from(shard) >= SHARDS_MAX {
            return Err(CodecError::Unknown { what: "a shard's index", found: shard }.into());
        }
        Ok(Self { segment, shard: ShardIndex::new(shard) })
    }

    fn join(self, _next: &Self) -> Option<Self> {
        Some(self)
    }

    fn precedes(&self, next: &Self) -> bool {
        self < next
    }
}

const RECEIPT_PUT: u8 = 1;
const RECEIPT_RENEWAL: u8 = 2;

impl TreeItem for OverlayRow {
    type Label = OverlayKey;
    const LEAF: BlobKind = BlobKind::OverlayLeaf;
    const INNER: BlobKind = BlobKind::OverlayInner;
    const PLURAL: &'static str = "overlay rows";
    const MIN_BYTES: usize = 70;

    fn label(&self) -> OverlayKey {
        OverlayKey { segment: self.segment, shard: self.shard }
    }

    fn boundary(&self) -> blake3::Hash {
        let mut writer = Writer::new();
        self.label().write(&mut writer);
        blake3::hash(&writer.into_bytes())
    }

    fn check(&self) -> Result<(), DocumentError> {
        if self.receipt.bytes().is_empty() {
            return Err(DocumentError::Empty { what: "a receipt" });
        }
        check_limit(self.shard.get(), SHARDS_MAX - 1, "a shard's index")?;
        Ok(check_limit(self.receipt.bytes().len(), RECEIPT_MAX_BYTES, "a receipt")?)
    }

    fn write(&self, writer: &mut Writer) {
        self.label().write(writer);
        self.node.write(writer);
        writer.u8(match self.receipt {
            KeptReceipt::Put(_) => RECEIPT_PUT,
            KeptReceipt::Renewal(_) => RECEIPT_RENEWAL,
        });
        writer.bytes16(self.receipt.bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let OverlayKey { segment, shard } = OverlayKey::read(reader)?;
        let node = NodeEntry::read(reader)?;
        let kind = reader.u8("the kind of a receipt")?;
        let bytes = Bytes::copy_from_slice(reader.bytes16(RECEIPT_MAX_BYTES, "a receipt")?);
        let receipt = match kind {
            RECEIPT_PUT => KeptReceipt::Put(bytes),
            RECEIPT_RENEWAL => KeptReceipt::Renewal(bytes),
            found => return Err(CodecError::Unknown { what: "the kind of a receipt", found }.into()),
        };
        Ok(Self { segment, shard, node, receipt })
    }

    fn visit_segments(&mut self, _visit: &mut dyn FnMut(&mut SegmentId)) {}
}

/// The root of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverlayRoot {
    /// When it was published, by the steward's clock.
    pub published: Timestamp,
    /// The tree of [rows](OverlayRow); `None` when there is none.
    pub rows: Option<CountedTree>,
    /// Segments, ascending by id, in which blobs of the rows' tree lie beside the one that the root lies in. At most
    /// [`OVERLAY_FURTHER_SEGMENTS_MAX`].
    pub further: Vec<PlacedSegment>,
    /// Fields of later releases.
    pub extensions: Extensions,
}

impl OverlayRoot {
    /// Reads a root blob; self pointers in it are replaced by `nominal`, the segment by whose id it was reached.
    ///
    /// # Errors
    /// [`DocumentError`]: the bytes are no such blob, or one that needs a newer release.
    pub fn parse(blob: &[u8], nominal: SegmentId) -> Result<Self, DocumentError> {
        check_limit(blob.len(), BLOB_MAX_BYTES, "an overlay's root")?;
        let mut reader = Reader::new(blob);
        read_version(&mut reader)?;
        let kind = reader.u8("the kind")?;
        if kind != BlobKind::Overlay.byte() {
            return Err(DocumentError::Kind { expected: "the root of an overlay", found: kind });
        }
        Needs::read(&mut reader, Needs::NONE)?;
        let published = Timestamp::from_unix_ms(reader.u64("the time of publishing")?);
        let rows = reader.option("the rows", CountedTree::read)?;
        let count =
            reader.count32(OVERLAY_FURTHER_SEGMENTS_MAX, PLACED_SEGMENT_MIN_BYTES, "further overlay segments")?;
        let further = (0..count).map(|_| PlacedSegment::read(&mut reader)).collect::<Result<_, _>>()?;
        let mut root = Self { published, rows, further, extensions: Extensions::read(&mut reader)? };
        reader.finish()?;
        root.check()?;
        root.visit_segments(&mut |segment| resolve_segment(segment, nominal));
        Ok(root)
    }

    fn check(&self) -> Result<(), DocumentError> {
        check_limit(self.further.len(), OVERLAY_FURTHER_SEGMENTS_MAX, "further overlay segments")?;
        check_ascending(self.further.iter().map(PlacedSegment::id), "further overlay segments")?;
        self.rows.as_ref().map_or(Ok(()), CountedTree::check)
    }

    fn visit_segments(&mut self, visit: &mut dyn FnMut(&mut SegmentId)) {
        if let Some(rows) = &mut self.rows {
            visit(&mut rows.root.segment);
        }
    }

    /// The encoding: the bytes that [`OverlayRoot::parse`] read, when `nominal` was
    /// [`SELF_SEGMENT`](crate::tree::SELF_SEGMENT).
    ///
    /// # Errors
    /// [`DocumentError`] when a list is too long or out of order.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        self.check()?;
        let bytes = self.encode();
        check_limit(bytes.len(), BLOB_MAX_BYTES, "an overlay's root")?;
        Ok(bytes)
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        write_header(&mut writer, BlobKind::Overlay.byte());
        Needs::NONE.write(&mut writer);
        writer.u64(self.published.as_unix_ms());
        writer.option(self.rows.as_ref(), |writer, rows| writer.raw(&rows.to_bytes()));
        writer.count32(self.further.len());
        self.further.iter().for_each(|segment| segment.write(&mut writer));
        self.extensions.write(&mut writer);
        writer.into_bytes()
    }

    /// Puts the root blob, last of all of an overlay's blobs; gives where it lies, with the sink's provisional id.
    ///
    /// # Errors
    /// [`BuildError`]: a rule of the format, or the sink.
    pub fn put<S: BlobSink>(mut self, sink: &mut S) -> Result<BlobPointer, BuildError<S::Error>> {
        self.to_bytes()?;
        put_blob(&mut self, |root, visit| root.visit_segments(visit), Self::check, Self::encode, sink)
    }

    /// Where a segment lies in which blobs of the tree are, unless it is the root's own.
    #[must_use]
    pub fn further_segment(&self, id: SegmentId) -> Option<&PlacedSegment> {
        self.further.get(self.further.binary_search_by_key(&id, PlacedSegment::id).ok()?)
    }
}

#[cfg(test)]
mod tests;
