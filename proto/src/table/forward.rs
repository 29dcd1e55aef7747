//! Forwarding: where chunks lie now whose segment was repacked, so that manifests that name the old place stay true.
//!
//! Decides how a move is written and looked up. Never decides what is moved. A chunk is looked up here only when its segment has
//! no row; rows name where a chunk lies *now*, so one step always suffices: who moves a chunk again writes its rows anew.

use crate::codec::{DocumentError, Reader, Writer};
use crate::ids::SegmentId;
use crate::limits::SEGMENT_MAX_BYTES;
use crate::seal::plain_len;
use crate::tree::{BlobKind, SELF_SEGMENT, TreeItem, TreeLabel};

/// A sealed chunk or blob that was copied, verbatim, to another segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardRow {
    /// The segment that pointers name; self pointers in a moved blob still mean this one.
    pub segment: SegmentId,
    /// Where the sealed chunk started in it.
    pub offset: u32,
    /// Bytes of the sealed chunk.
    pub sealed_bytes: u32,
    /// The segment that it lies in now.
    pub to_segment: SegmentId,
    /// Where it starts in that.
    pub to_offset: u32,
}

/// The place that pointers name: what forwarding rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForwardKey {
    /// The segment.
    pub segment: SegmentId,
    /// The offset in it.
    pub offset: u32,
}

impl TreeLabel for ForwardKey {
    const MIN_BYTES: usize = 36;

    fn write(&self, writer: &mut Writer) {
        writer.raw(self.segment.as_bytes());
        writer.u32(self.offset);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let segment = SegmentId::new(reader.array("a segment's id")?);
        Ok(Self { segment, offset: reader.u32("a chunk's offset")? })
    }

    fn join(self, _next: &Self) -> Option<Self> {
        Some(self)
    }

    fn precedes(&self, next: &Self) -> bool {
        self < next
    }
}

impl TreeItem for ForwardRow {
    type Label = ForwardKey;
    const LEAF: BlobKind = BlobKind::ForwardLeaf;
    const INNER: BlobKind = BlobKind::ForwardInner;
    const PLURAL: &'static str = "forwarding rows";
    const MIN_BYTES: usize = 76;

    fn label(&self) -> ForwardKey {
        ForwardKey { segment: self.segment, offset: self.offset }
    }

    fn boundary(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.segment.as_bytes()).update(&self.offset.to_le_bytes());
        hasher.finalize()
    }

    fn check(&self) -> Result<(), DocumentError> {
        let named = self.segment != SELF_SEGMENT && self.to_segment != SELF_SEGMENT;
        if !named || self.segment == self.to_segment {
            return Err(DocumentError::Forward);
        }
        let sealed_bytes = usize::try_from(self.sealed_bytes).unwrap_or(usize::MAX);
        let fits = |offset: u32| {
            let end = usize::try_from(offset).ok().and_then(|offset| offset.checked_add(sealed_bytes));
            end.is_some_and(|end| end <= SEGMENT_MAX_BYTES)
        };
        let possible = plain_len(sealed_bytes).is_some() && fits(self.offset) && fits(self.to_offset);
        if possible { Ok(()) } else { Err(DocumentError::Forward) }
    }

    fn write(&self, writer: &mut Writer) {
        self.label().write(writer);
        writer.u32(self.sealed_bytes);
        writer.raw(self.to_segment.as_bytes());
        writer.u32(self.to_offset);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let ForwardKey { segment, offset } = ForwardKey::read(reader)?;
        Ok(Self {
            segment,
            offset,
            sealed_bytes: reader.u32("a sealed chunk's length")?,
            to_segment: SegmentId::new(reader.array("a segment's id")?),
            to_offset: reader.u32("a chunk's offset")?,
        })
    }

    /// Segments are named in full: none of them can be the one that this row is written to.
    fn visit_segments(&mut self, _visit: &mut dyn FnMut(&mut SegmentId)) {}
}
