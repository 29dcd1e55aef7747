//! Parts of chunks: which of a file's stored bytes a range of its plain bytes needs.
//!
//! Decides which frames are fetched for a range, and gathers those of one segment. Never fetches: see
//! [`super::range`].

use std::ops::Range;

use dolmen_proto::limits::{FRAME_PLAIN_BYTES, FRAME_STORED_BYTES, TAG_BYTES};
use dolmen_proto::manifest::{Extent, PlacedExtent};
use dolmen_proto::seal::frames_covering;
use dolmen_proto::tree::BlobPointer;

use crate::error::ClientError;

/// Parts of chunks that one run has at most.
const RUN_PARTS_MAX: usize = 256;

/// A chunk of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Where its sealed bytes lie, and how many bytes they open to.
    pub(crate) pointer: BlobPointer,
    /// The bytes that these are unpacked to; `None` when they were not compressed.
    pub(crate) unpacked_bytes: Option<u32>,
}

impl Chunk {
    /// The chunk of an extent; `None` for a hole.
    pub(crate) fn of(extent: Extent) -> Option<Self> {
        match extent {
            Extent::Chunk(pointer) => Some(Self { pointer, unpacked_bytes: None }),
            Extent::Compressed { pointer, plain_bytes } => Some(Self { pointer, unpacked_bytes: Some(plain_bytes) }),
            Extent::Hole { .. } => None,
        }
    }

    /// Plain bytes.
    pub(crate) fn plain_bytes(&self) -> usize {
        self.unpacked_bytes.unwrap_or(self.pointer.length) as usize
    }

    /// What has to be opened for a part of the plain bytes: all of a compressed chunk.
    pub(crate) fn opened_part(&self, part: &Range<usize>) -> Range<usize> {
        match self.unpacked_bytes {
            Some(_) => 0..self.pointer.length as usize,
            None => part.clone(),
        }
    }

    /// The sealed bytes that have to be fetched for a part of the plain ones: where they begin in the sealed chunk, and
    /// how many they are.
    ///
    /// # Errors
    /// `Bug` when the part is empty or does not lie in the chunk.
    pub(crate) fn sealed_part(&self, part: &Range<usize>) -> Result<(u32, u32), ClientError> {
        let outside = || ClientError::bug("a range is not in its chunk", format!("{part:?}"));
        let opened = self.opened_part(part);
        let length = self.pointer.length as usize;
        let span = frames_covering(length, opened.start, opened.len()).ok_or_else(outside)?;
        let narrow = |bytes: usize| u32::try_from(bytes).map_err(|_| outside());
        Ok((narrow(span.sealed_offset)?, narrow(span.sealed_bytes)?))
    }

    /// The part made longer by the whole frames that lie in the next `more` sealed bytes.
    pub(crate) fn extended(&self, part: &Range<usize>, more: usize) -> Range<usize> {
        if self.unpacked_bytes.is_some() {
            return part.start..self.plain_bytes();
        }
        let frames = part.end.div_ceil(FRAME_PLAIN_BYTES);
        let begun = frames * FRAME_PLAIN_BYTES;
        let rest = self.plain_bytes().saturating_sub(begun);
        let whole = more / FRAME_STORED_BYTES * FRAME_PLAIN_BYTES;
        let last = (more % FRAME_STORED_BYTES).saturating_sub(TAG_BYTES);
        let gained = if rest <= whole + last { rest } else { whole };
        part.start..(begun + gained).min(self.plain_bytes())
    }
}

/// A part of a chunk that is wanted; not empty.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) chunk: Chunk,
    pub(crate) plain: Range<usize>,
}

/// Bytes of a file that are fetched at once.
#[derive(Debug)]
pub(crate) enum Run {
    /// Parts of chunks of one segment, in the order of the file.
    Parts(Vec<Part>),
    /// So many zeros.
    Zeros(u64),
}

/// What is wanted of some extents.
pub(crate) fn runs(extents: impl IntoIterator<Item = PlacedExtent>, wanted: &Range<u64>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for PlacedExtent { offset_bytes, extent } in extents {
        let start = wanted.start.max(offset_bytes);
        let end = wanted.end.min(offset_bytes.saturating_add(extent.length_bytes()));
        if start >= end {
            continue;
        }
        let Some(chunk) = Chunk::of(extent) else {
            runs.push(Run::Zeros(end - start));
            continue;
        };
        // A chunk's length fits a machine word, and so do positions within it.
        let inside = |position: u64| usize::try_from(position - offset_bytes).unwrap_or(usize::MAX);
        let part = Part { plain: inside(start)..inside(end), chunk };
        match runs.last_mut() {
            Some(Run::Parts(parts))
                if parts.len() < RUN_PARTS_MAX
                    && parts.last().is_some_and(|last| last.chunk.pointer.segment == part.chunk.pointer.segment) =>
            {
                parts.push(part);
            }
            _ => runs.push(Run::Parts(vec![part])),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_proto::ids::SegmentId;
    use dolmen_proto::seal::{ChunkKey, sealed_len};

    fn chunk(segment: u8, length: u32) -> Chunk {
        let segment = SegmentId::new([segment; 32]);
        Chunk { pointer: BlobPointer { key: ChunkKey::new([1; 32]), segment, offset: 0, length }, unpacked_bytes: None }
    }

    fn extents(list: &[(u8, u32)]) -> Vec<PlacedExtent> {
        let mut offset_bytes = 0;
        let placed = list.iter().map(|(segment, length)| {
            let extent = match segment {
                0 => Extent::Hole { length_bytes: (*length).into() },
                _ => Extent::Chunk(chunk(*segment, *length).pointer),
            };
            let placed = PlacedExtent { offset_bytes, extent };
            offset_bytes += u64::from(*length);
            placed
        });
        placed.collect()
    }

    #[test]
    fn parts_of_one_segment_run_together_and_nothing_else_is_in_them() {
        let list = extents(&[(1, 100), (1, 50), (0, 30), (2, 70), (1, 10)]);
        let runs = runs(list, &(90..255));
        let shape: Vec<(u64, usize)> = runs
            .iter()
            .map(|run| match run {
                Run::Parts(parts) => (parts.iter().map(|part| part.plain.len() as u64).sum(), parts.len()),
                Run::Zeros(count) => (*count, 0),
            })
            .collect();
        assert_eq!(shape, [(60, 2), (30, 0), (70, 1), (5, 1)]);
        let Run::Parts(first) = &runs[0] else { panic!("holes come later") };
        assert_eq!((first[0].plain.clone(), first[1].plain.clone()), (90..100, 0..50));
    }

    #[test]
    fn a_part_needs_its_frames_only_and_grows_by_whole_ones() {
        let long = chunk(1, 1_000_000);
        assert_eq!(long.sealed_part(&(0..1)).unwrap(), (0, 16_384));
        assert_eq!(long.sealed_part(&(16_368..16_369)).unwrap(), (16_384, 16_384));
        assert_eq!(long.sealed_part(&(16_367..16_369)).unwrap(), (0, 32_768));
        assert!(long.sealed_part(&(5..5)).is_err() && long.sealed_part(&(0..1_000_001)).is_err());
        assert_eq!(long.extended(&(5..6), 16_383), 5..16_368);
        assert_eq!(long.extended(&(5..6), 2 * 16_384 + 9), 5..3 * 16_368);
        let short = chunk(1, 20_000);
        let rest = sealed_len(20_000) - 16_384;
        assert_eq!(short.extended(&(0..1), rest), 0..20_000);
        assert_eq!(short.extended(&(0..1), rest - 1), 0..16_368);
        assert_eq!(short.extended(&(0..20_000), 70_000), 0..20_000);
        let packed = Chunk { unpacked_bytes: Some(500_000), ..chunk(1, 20_000) };
        assert_eq!(packed.sealed_part(&(400_000..400_001)).unwrap(), (0, sealed_len(20_000) as u32));
        assert_eq!(packed.extended(&(4..5), 0), 4..500_000);
    }
}
