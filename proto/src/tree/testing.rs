//! A sink and a source of blobs for tests: segments of a chosen size, blobs unsealed.

use std::collections::BTreeMap;
use std::convert::Infallible;

use super::{BlobPointer, BlobSink, ProvisionalIds, TreeItem, TreeWalk};
use crate::codec::DocumentError;
use crate::ids::SegmentId;
use crate::seal::ChunkKey;

/// Keeps blobs in segments that close when `segment_bytes` would be exceeded.
#[derive(Debug)]
pub(crate) struct MemorySink {
    ids: ProvisionalIds,
    segment_bytes: usize,
    open: Vec<Vec<u8>>,
    closed: BTreeMap<SegmentId, Vec<Vec<u8>>>,
}

impl MemorySink {
    pub(crate) fn new(segment_bytes: usize) -> Self {
        Self { ids: ProvisionalIds::new(), segment_bytes, open: Vec::new(), closed: BTreeMap::new() }
    }

    /// Closes the open segment; its id depends on its content, as that of a real one.
    pub(crate) fn close(&mut self) {
        let blobs = core::mem::take(&mut self.open);
        let id = SegmentId::new(*blake3::hash(&blobs.concat()).as_bytes());
        self.ids.close(id);
        self.closed.insert(id, blobs);
    }

    /// A pointer to be used outside, after everything was closed.
    pub(crate) fn settled(&self, mut pointer: BlobPointer) -> BlobPointer {
        pointer.segment = self.segment_now(pointer.segment);
        assert!(!pointer.is_self(), "the last segment has been closed");
        pointer
    }

    pub(crate) fn fetch(&self, pointer: &BlobPointer) -> &[u8] {
        let index = usize::try_from(pointer.offset).expect("fits");
        let blob = &self.closed[&pointer.segment][index];
        assert_eq!(blob.len(), usize::try_from(pointer.length).expect("fits"));
        assert_eq!(ChunkKey::new(*blake3::hash(blob).as_bytes()), pointer.key);
        blob
    }

    pub(crate) fn segments(&self) -> usize {
        self.closed.len()
    }

    pub(crate) fn blobs(&self) -> impl Iterator<Item = &[u8]> {
        self.closed.values().flatten().map(Vec::as_slice)
    }

    pub(crate) fn walk<T: TreeItem>(&self, root: BlobPointer) -> Result<Vec<T>, DocumentError> {
        let mut walk = TreeWalk::new(root);
        let mut items = Vec::new();
        while let Some(pointer) = walk.wanted().cloned() {
            items.extend(walk.supply(self.fetch(&pointer))?);
        }
        Ok(items)
    }
}

impl BlobSink for MemorySink {
    type Error = Infallible;

    fn make_room(&mut self, length: usize) -> Result<(), Infallible> {
        let used: usize = self.open.iter().map(Vec::len).sum();
        if used > 0 && used + length > self.segment_bytes {
            self.close();
        }
        Ok(())
    }

    fn segment_now(&self, segment: SegmentId) -> SegmentId {
        self.ids.now(segment)
    }

    /// The offset is the index of the blob in its segment: enough to find it again.
    fn put(&mut self, blob: Vec<u8>) -> Result<BlobPointer, Infallible> {
        let pointer = BlobPointer {
            key: ChunkKey::new(*blake3::hash(&blob).as_bytes()),
            segment: self.ids.open(),
            offset: u32::try_from(self.open.len()).expect("fits"),
            length: u32::try_from(blob.len()).expect("fits"),
        };
        self.open.push(blob);
        Ok(pointer)
    }
}
