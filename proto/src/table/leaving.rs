//! Segments that nothing needs any more but that are not deleted yet: the first of the two steps of freeing.
//!
//! Decides how they are listed. Never decides when they are deleted: no sooner than [`LEAVING_MIN`](crate::limits::LEAVING_MIN)
//! after they left, by the owner. They are not live: nobody renews, repairs or reads them for a snapshot, and a writer that finds
//! a chunk only here stores it again.

use super::SegmentRow;
use crate::codec::{DocumentError, Reader, Writer};
use crate::ids::{SegmentId, Timestamp};
use crate::tree::{BlobKind, TreeItem};

/// A segment that left the table, with the row that it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeavingRow {
    /// When it left, by its writer's clock.
    pub left: Timestamp,
    /// Its row: what to delete, and where.
    pub row: SegmentRow,
}

impl TreeItem for LeavingRow {
    type Label = SegmentId;
    const LEAF: BlobKind = BlobKind::LeavingLeaf;
    const INNER: BlobKind = BlobKind::LeavingInner;
    const PLURAL: &'static str = "leaving segments";
    const MIN_BYTES: usize = 8 + SegmentRow::MIN_BYTES;

    fn label(&self) -> SegmentId {
        self.row.id()
    }

    fn boundary(&self) -> blake3::Hash {
        self.row.boundary()
    }

    fn check(&self) -> Result<(), DocumentError> {
        self.row.check()
    }

    fn write(&self, writer: &mut Writer) {
        writer.u64(self.left.as_unix_ms());
        self.row.write(writer);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let left = Timestamp::from_unix_ms(reader.u64("the time when a segment left")?);
        Ok(Self { left, row: SegmentRow::read(reader)? })
    }

    fn visit_segments(&mut self, visit: &mut dyn FnMut(&mut SegmentId)) {
        self.row.visit_segments(visit);
    }
}
