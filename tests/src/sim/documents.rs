//! The sink of documents: seals blobs and packs them into document segments.
//!
//! Decides when a document segment closes: as late as its size allows.

use std::convert::Infallible;

use dolmen_proto::ids::SegmentId;
use dolmen_proto::keys::DatasetKeys;
use dolmen_proto::policy::Policy;
use dolmen_proto::table::RowKind;
use dolmen_proto::tree::{BlobPointer, BlobSink, ProvisionalIds};

use super::segments::{SealedSegment, SegmentBuilder, key_of};

/// Takes the blobs of one document after another.
pub struct DocumentSink<'a> {
    keys: &'a DatasetKeys,
    policy: Policy,
    segment_bytes: usize,
    ids: ProvisionalIds,
    open: SegmentBuilder,
    /// Segments that are full.
    pub closed: Vec<SealedSegment>,
}

impl<'a> DocumentSink<'a> {
    /// A sink for the documents of this dataset.
    #[must_use]
    pub fn new(keys: &'a DatasetKeys, policy: Policy, segment_bytes: usize) -> Self {
        let open = SegmentBuilder::new(policy, RowKind::Documents, segment_bytes);
        Self { keys, policy, segment_bytes, ids: ProvisionalIds::new(), open, closed: Vec::new() }
    }

    /// Closes the open segment, if there is anything in it.
    pub fn close(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let fresh = SegmentBuilder::new(self.policy, RowKind::Documents, self.segment_bytes);
        let segment = std::mem::replace(&mut self.open, fresh).close(self.keys);
        self.ids.close(segment.id);
        self.closed.push(segment);
    }

    /// A pointer as it is used outside, once everything is closed.
    #[must_use]
    pub fn settled(&self, mut pointer: BlobPointer) -> BlobPointer {
        pointer.segment = self.ids.now(pointer.segment);
        pointer
    }
}

impl BlobSink for DocumentSink<'_> {
    type Error = Infallible;

    fn make_room(&mut self, length: usize) -> Result<(), Infallible> {
        if !self.open.fits(length) {
            self.close();
        }
        Ok(())
    }

    fn segment_now(&self, segment: SegmentId) -> SegmentId {
        self.ids.now(segment)
    }

    fn put(&mut self, blob: Vec<u8>) -> Result<BlobPointer, Infallible> {
        let key = key_of(self.keys, &blob);
        let offset = self.open.push(&key, &blob);
        let length = u32::try_from(blob.len()).expect("a blob is small");
        Ok(BlobPointer { key, segment: self.ids.open(), offset, length })
    }
}
