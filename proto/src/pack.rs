//! Which chunks share a segment, and where each lies in it.
//!
//! Decides offsets: sealed chunks of 64 KiB and more start on a frame border, smaller ones follow tightly, in the
//! order in which they come. Never sees a chunk's bytes and never decides when an upload ends.

use core::ops::Range;

use crate::limits::{
    ALIGNED_CHUNK_MIN_BYTES, FRAME_STORED_BYTES, SEALED_CHUNK_MAX_BYTES, SEGMENT_CHUNKS_MAX, SEGMENT_MAX_BYTES,
};
use crate::policy::Policy;
use crate::segment::{Geometry, SegmentError};

/// Lays sealed chunks into one segment.
#[derive(Debug, Clone)]
pub struct Packer {
    policy: Policy,
    capacity: usize,
    end: usize,
    chunks: usize,
    gaps: Vec<Range<u32>>,
}

impl Packer {
    /// An empty segment of full size.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self::with_segment_bytes(policy, SEGMENT_MAX_BYTES)
    }

    /// An empty segment whose data shards together have at most `segment_bytes`, for simulations.
    #[must_use]
    pub fn with_segment_bytes(policy: Policy, segment_bytes: usize) -> Self {
        let capacity = Geometry::capacity_within(policy, segment_bytes);
        Self { policy, capacity, end: 0, chunks: 0, gaps: Vec::new() }
    }

    /// The offset of the next sealed chunk, or `None` when it does not fit: close the segment and begin another. Every
    /// chunk fits an empty segment of full size; a `sealed_bytes` that no chunk has never fits.
    pub fn push(&mut self, sealed_bytes: usize) -> Option<u32> {
        if sealed_bytes == 0 || sealed_bytes > SEALED_CHUNK_MAX_BYTES || self.chunks == SEGMENT_CHUNKS_MAX {
            return None;
        }
        let aligned = sealed_bytes >= ALIGNED_CHUNK_MIN_BYTES;
        let offset = if aligned { self.end.next_multiple_of(FRAME_STORED_BYTES) } else { self.end };
        if offset + sealed_bytes > self.capacity {
            return None;
        }
        if offset > self.end {
            self.gaps.push(narrow(self.end)..narrow(offset));
        }
        self.end = offset + sealed_bytes;
        self.chunks += 1;
        Some(narrow(offset))
    }

    /// Bytes up to the end of the last chunk, gaps included.
    #[must_use]
    pub const fn payload_bytes(&self) -> usize {
        self.end
    }

    /// Most bytes that the segment can have.
    #[must_use]
    pub const fn capacity_bytes(&self) -> usize {
        self.capacity
    }

    /// Chunks in the segment.
    #[must_use]
    pub const fn chunks(&self) -> usize {
        self.chunks
    }

    /// The gaps between chunks, in order: to be filled by [`crate::segment::Padding`], like the tail after the payload.
    #[must_use]
    pub fn gaps(&self) -> &[Range<u32>] {
        &self.gaps
    }

    /// The geometry of the segment as it is.
    ///
    /// # Errors
    /// When nothing was pushed.
    pub fn geometry(&self) -> Result<Geometry, SegmentError> {
        Geometry::for_payload(self.policy, self.end)
    }
}

fn narrow(offset: usize) -> u32 {
    u32::try_from(offset).expect("offsets lie in a segment, which is far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunks_never_overlap_and_large_ones_are_aligned(
            k in 1u8..=32,
            lengths in prop::collection::vec(prop_oneof![1usize..40_000, 60_000usize..70_000, 1usize..=SEALED_CHUNK_MAX_BYTES], 1..200),
        ) {
            let policy = Policy::new(k, 2 * k).expect("legal");
            let mut packer = Packer::new(policy);
            let mut end = 0;
            let mut gaps = Vec::new();
            for length in lengths {
                let before = packer.payload_bytes();
                let Some(offset) = packer.push(length) else {
                    prop_assert!(before + FRAME_STORED_BYTES + length > packer.capacity_bytes());
                    prop_assert_eq!(packer.payload_bytes(), before, "a refused chunk changes nothing");
                    continue;
                };
                let offset = offset as usize;
                if length >= ALIGNED_CHUNK_MIN_BYTES {
                    prop_assert!(offset.is_multiple_of(FRAME_STORED_BYTES) && offset - end < FRAME_STORED_BYTES);
                } else {
                    prop_assert_eq!(offset, end);
                }
                if offset > end {
                    gaps.push(end..offset);
                }
                end = offset + length;
                prop_assert_eq!(end, packer.payload_bytes());
                prop_assert!(end <= packer.capacity_bytes());
            }
            let found: Vec<_> = packer.gaps().iter().map(|gap| gap.start as usize..gap.end as usize).collect();
            prop_assert_eq!(found, gaps);
            prop_assert!(packer.geometry().is_ok());
        }
    }

    #[test]
    fn every_chunk_fits_an_empty_segment() {
        for k in 1..=64 {
            let mut packer = Packer::new(Policy::new(k, k).expect("legal"));
            assert_eq!(packer.push(SEALED_CHUNK_MAX_BYTES), Some(0));
        }
    }

    #[test]
    fn impossible_chunks_and_too_many_chunks_are_refused() {
        let mut packer = Packer::new(Policy::new(1, 1).expect("legal"));
        assert!(packer.geometry().is_err());
        assert_eq!(packer.push(0), None);
        assert_eq!(packer.push(SEALED_CHUNK_MAX_BYTES + 1), None);
        for _ in 0..SEGMENT_CHUNKS_MAX {
            assert!(packer.push(17).is_some());
        }
        assert_eq!(packer.push(17), None);
    }
}
