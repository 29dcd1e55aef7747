//! Where a blob or a chunk lies, and the key that opens it.

use crate::codec::{DocumentError, Reader, Writer};
use crate::ids::SegmentId;
use crate::limits::{CHUNK_MAX_BYTES, SEGMENT_MAX_BYTES};
use crate::seal::{ChunkKey, sealed_len};

/// The segment of a self pointer: the one by whose id the blob holding the pointer was reached.
///
/// A segment's id covers its content, so no blob can name the segment that it lies in; see
/// `docs/decisions/0002-self-pointers.md`.
pub const SELF_SEGMENT: SegmentId = SegmentId::new([0; 32]);

pub(crate) const ENCODED_BYTES: usize = 72;

/// A sealed blob or chunk: the key that opens it and where it lies. Whoever has it can read what it points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobPointer {
    /// Opens the blob; its chunk id follows from it.
    pub key: ChunkKey,
    /// The segment, or [`SELF_SEGMENT`].
    pub segment: SegmentId,
    /// Offset of the sealed bytes in the segment.
    pub offset: u32,
    /// Length in bytes before sealing, at least 1 and at most [`CHUNK_MAX_BYTES`].
    pub length: u32,
}

impl BlobPointer {
    /// The same blob, with [`SELF_SEGMENT`] replaced by `nominal`, the segment by whose id (before any forwarding) the
    /// blob that holds this pointer was reached.
    #[must_use]
    pub fn resolve(mut self, nominal: SegmentId) -> Self {
        resolve(&mut self.segment, nominal);
        self
    }

    /// Whether the segment has still to be put in by [`BlobPointer::resolve`].
    #[must_use]
    pub fn is_self(&self) -> bool {
        self.segment == SELF_SEGMENT
    }

    /// How many bytes of the segment the sealed blob takes, from `offset` on.
    #[must_use]
    pub fn sealed_bytes(&self) -> usize {
        sealed_len(to_usize(self.length))
    }

    pub(crate) fn check(&self) -> Result<(), DocumentError> {
        let error = DocumentError::Pointer { length: self.length, offset: self.offset };
        let length = to_usize(self.length);
        if length == 0 || length > CHUNK_MAX_BYTES {
            return Err(error);
        }
        match to_usize(self.offset).checked_add(self.sealed_bytes()) {
            Some(end) if end <= SEGMENT_MAX_BYTES => Ok(()),
            _ => Err(error),
        }
    }

    /// Refuses a self pointer, where there is no blob that it could be relative to.
    pub(crate) fn check_absolute(&self, what: &'static str) -> Result<(), DocumentError> {
        if self.is_self() { Err(DocumentError::SelfPointer { what }) } else { Ok(()) }
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.raw(self.key.expose());
        writer.raw(self.segment.as_bytes());
        writer.u32(self.offset);
        writer.u32(self.length);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let pointer = Self {
            key: ChunkKey::new(reader.array("a pointer's key")?),
            segment: SegmentId::new(reader.array("a pointer's segment")?),
            offset: reader.u32("a pointer's offset")?,
            length: reader.u32("a pointer's length")?,
        };
        pointer.check()?;
        Ok(pointer)
    }
}

pub(crate) fn resolve(segment: &mut SegmentId, nominal: SegmentId) {
    if *segment == SELF_SEGMENT {
        *segment = nominal;
    }
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).expect("this runs on machines with at least 32 bits")
}
