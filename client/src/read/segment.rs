//! A segment as a reader has it: where its shards are, and those of its bytes that were fetched.
//!
//! Decides how a chunk that spans shards is opened without copying it together first, where its frames allow that.

use std::ops::Range;

use bytes::Bytes;
use dolmen_proto::head::PlacedSegment;
use dolmen_proto::ids::{NodeId, SegmentId, ShardRoot};
use dolmen_proto::keys::MaskKey;
use dolmen_proto::limits::{FRAME_STORED_BYTES, TAG_BYTES};
use dolmen_proto::policy::Policy;
use dolmen_proto::seal::{frames_covering, open_frames};
use dolmen_proto::segment::{Geometry, SegmentNonce};
use dolmen_proto::table::{NodeEntry, RowKind, SegmentRow};
use dolmen_proto::tree::BlobPointer;

use super::part::Chunk;
use crate::error::{ClientError, ErrorKind};
use crate::network::Nodes;
use crate::put::Stored;

/// Where a segment's shards are.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) id: SegmentId,
    pub(crate) geometry: Geometry,
    pub(crate) nonce: SegmentNonce,
    pub(crate) roots: Vec<ShardRoot>,
    pub(crate) holders: Vec<Option<NodeId>>,
    /// The segment's mask key, where a document says it.
    pub(crate) mask_key: Option<MaskKey>,
    /// Whether it holds documents, and not content.
    pub(crate) documents: bool,
}

impl Place {
    /// As a head says; `mask_key` where the head of a view says it.
    pub(crate) fn of_head(segment: &PlacedSegment, mask_key: Option<MaskKey>, nodes: &Nodes) -> Self {
        let learn = |node: &NodeEntry| {
            nodes.learn(node.id(), node.addresses());
            node.id()
        };
        Self {
            id: segment.id(),
            geometry: segment.geometry(),
            nonce: segment.nonce(),
            roots: segment.holders().iter().map(|holder| holder.root).collect(),
            holders: segment.holders().iter().map(|holder| holder.node.as_ref().map(learn)).collect(),
            mask_key,
            documents: true,
        }
    }

    /// As a row of a table says, whose holders are given.
    pub(crate) fn of_row(row: &SegmentRow, holders: &[Option<&NodeEntry>], nodes: &Nodes) -> Self {
        let learn = |node: &NodeEntry| {
            nodes.learn(node.id(), node.addresses());
            node.id()
        };
        Self {
            id: row.id(),
            geometry: row.geometry(),
            nonce: row.nonce(),
            roots: row.roots().to_vec(),
            holders: holders.iter().map(|holder| holder.map(learn)).collect(),
            mask_key: row.mask_key().cloned(),
            documents: row.kind() == RowKind::Documents,
        }
    }

    /// As a put stored it.
    pub(crate) fn of_stored(stored: &Stored) -> Self {
        Self {
            id: stored.id,
            geometry: stored.geometry,
            nonce: stored.nonce,
            roots: stored.roots.clone(),
            holders: stored.nodes.clone(),
            mask_key: None,
            documents: false,
        }
    }

    pub(crate) fn policy(&self) -> Policy {
        self.geometry.policy()
    }
}

/// Verified bytes of a segment: for every data shard the ranges that were fetched, in order.
#[derive(Debug)]
pub(crate) struct SegmentData {
    pub(crate) geometry: Geometry,
    pub(crate) ranges: Vec<Vec<(u32, Bytes)>>,
}

impl SegmentData {
    fn piece(&self, shard: usize, offset: u32, length: u32) -> Option<&[u8]> {
        let (start, bytes) = self.ranges.get(shard)?.iter().rev().find(|(start, _)| *start <= offset)?;
        let from = usize::try_from(offset - start).ok()?;
        bytes.get(from..from.checked_add(usize::try_from(length).ok()?)?)
    }

    /// The sealed bytes of a range, if all of it was fetched.
    pub(crate) fn sealed(&self, offset: u32, length: usize) -> Option<Vec<u8>> {
        let pieces = self.geometry.pieces(offset, u32::try_from(length).ok()?).ok()?;
        let mut sealed = Vec::with_capacity(length);
        for piece in pieces {
            sealed.extend_from_slice(self.piece(piece.shard.get(), piece.offset, piece.length)?);
        }
        Some(sealed)
    }

    /// Opens the frames that hold `part` of what a pointer opens to, from byte `offset` of the segment, into the front of
    /// `out`, which is made longer when need be but never cleared; gives where in `out` the part is.
    fn open_frames(
        &self,
        pointer: &BlobPointer,
        offset: u32,
        part: &Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<Range<usize>, ClientError> {
        let missing = || ClientError::bug("a chunk was not fetched", "its range was planned otherwise");
        let total = pointer.sealed_bytes();
        let span = frames_covering(pointer.length as usize, part.start, part.len()).ok_or_else(missing)?;
        let plain_bytes = span.sealed_bytes - span.sealed_bytes.div_ceil(FRAME_STORED_BYTES) * TAG_BYTES;
        if out.len() < plain_bytes {
            out.resize(plain_bytes, 0);
        }
        let inside = span.skip_bytes..span.skip_bytes + part.len();
        let out = &mut out[..plain_bytes];
        let start = u32::try_from(span.sealed_offset).ok().and_then(|start| start.checked_add(offset));
        let sealed = u32::try_from(span.sealed_bytes).map_err(|error| wrong(&error))?;
        let pieces = self.geometry.pieces(start.ok_or_else(missing)?, sealed).map_err(|error| wrong(&error))?;
        let pieces: Vec<&[u8]> = pieces
            .map(|piece| self.piece(piece.shard.get(), piece.offset, piece.length).ok_or_else(missing))
            .collect::<Result<_, _>>()?;
        let (last, front) = pieces.split_last().ok_or_else(missing)?;
        if front.iter().all(|piece| piece.len().is_multiple_of(FRAME_STORED_BYTES)) {
            let (mut frame, mut done) = (span.first_frame, 0);
            for piece in front.iter().chain([last]) {
                let frames = piece.len().div_ceil(FRAME_STORED_BYTES);
                let plain = piece.len().saturating_sub(frames * TAG_BYTES);
                let to = out.get_mut(done..done + plain).ok_or_else(missing)?;
                open_frames(&pointer.key, total, frame, piece, to).map_err(|error| wrong(&error))?;
                frame += frames;
                done += plain;
            }
        } else {
            open_frames(&pointer.key, total, span.first_frame, &pieces.concat(), out).map_err(|error| wrong(&error))?;
        }
        Ok(inside)
    }
}

fn wrong(why: &dyn std::fmt::Display) -> ClientError {
    ClientError::new(
        ErrorKind::Damaged,
        "a chunk cannot be opened",
        why,
        "what was uploaded is damaged in itself: ask the dataset's owner",
    )
}

/// Opens chunks, one after another, in memory that is used again.
#[derive(Debug, Default)]
pub(crate) struct Opener {
    opened: Vec<u8>,
    unpacked: Vec<u8>,
}

impl Opener {
    /// Opens a part of a chunk that starts at `offset` of the segment.
    ///
    /// # Errors
    /// `Damaged` when the sealed bytes are not the ones of the chunk or do not unpack to the bytes that its extent says:
    /// whoever wrote the documents is at fault, since the bytes match their roots.
    pub(crate) fn open(
        &mut self,
        data: &SegmentData,
        chunk: &Chunk,
        offset: u32,
        part: &Range<usize>,
    ) -> Result<&[u8], ClientError> {
        let opened = chunk.opened_part(part);
        let inside = data.open_frames(&chunk.pointer, offset, &opened, &mut self.opened)?;
        if chunk.unpacked_bytes.is_none() {
            return Ok(&self.opened[inside]);
        }
        let expected = chunk.plain_bytes();
        if self.unpacked.len() < expected {
            self.unpacked.resize(expected, 0);
        }
        // In one call, into a buffer of the stated length: neither more bytes nor a window of their own can be asked for.
        let length = zstd::bulk::decompress_to_buffer(&self.opened[inside], &mut self.unpacked[..expected])
            .map_err(|error| wrong(&format!("it does not unpack to {expected} bytes: {error}")))?;
        if length != expected {
            return Err(wrong(&format!("it unpacks to {length} bytes, not {expected}")));
        }
        self.unpacked
            .get(part.clone())
            .ok_or_else(|| ClientError::bug("a range is not in its chunk", format!("{part:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_proto::seal::{ChunkKey, seal_into, sealed_len};
    use proptest::prelude::*;

    /// A segment that holds only this, sealed, at `offset`, over four shards; the first of them comes in two parts.
    fn data(bytes: &[u8], offset: usize) -> SegmentData {
        let mut payload = vec![0; offset + sealed_len(bytes.len())];
        seal_into(&ChunkKey::new([1; 32]), bytes, &mut payload[offset..]).unwrap();
        let geometry = Geometry::for_payload("4/4".parse().unwrap(), payload.len()).unwrap();
        payload.resize(geometry.data_bytes() as usize, 0);
        let shards = payload.chunks(geometry.shard_bytes() as usize);
        SegmentData { geometry, ranges: shards.map(|shard| vec![(0, Bytes::copy_from_slice(shard))]).collect() }
    }

    fn chunk(bytes: &[u8], unpacked_bytes: Option<u32>) -> Chunk {
        let (key, segment) = (ChunkKey::new([1; 32]), SegmentId::new([0; 32]));
        Chunk { pointer: BlobPointer { key, segment, offset: 0, length: bytes.len() as u32 }, unpacked_bytes }
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn any_part_of_a_chunk_opens_wherever_the_chunk_lies() {
        let bytes = noise(300_000);
        let mut opener = Opener::default();
        for offset in [0, 16_384, 1_000] {
            let data = data(&bytes, offset);
            for part in [0..1, 0..300_000, 16_367..16_369, 70_000..80_000, 299_999..300_000, 16_368..32_736] {
                let opened = opener.open(&data, &chunk(&bytes, None), offset as u32, &part).unwrap();
                assert_eq!(opened, &bytes[part]);
            }
            let wrong = opener.open(&data, &chunk(&bytes, None), offset as u32 + 1, &(0..5)).unwrap_err();
            assert_eq!(wrong.kind(), ErrorKind::Damaged);
        }
    }

    #[test]
    fn a_compressed_chunk_opens_to_exactly_what_its_extent_says() {
        let plain: Vec<u8> = (0..500_000u32).flat_map(|number| (number / 50).to_le_bytes()).collect();
        let packed = zstd::bulk::compress(&plain, 3).unwrap();
        let length = plain.len() as u32;
        let mut opener = Opener::default();
        let mut open = |packed: &[u8], length: u32, part: Range<usize>| {
            opener.open(&data(packed, 64), &chunk(packed, Some(length)), 64, &part).map(<[u8]>::to_vec)
        };
        assert_eq!(open(&packed, length, 0..plain.len()).unwrap(), plain);
        assert_eq!(open(&packed, length, 1_234_567..1_234_600).unwrap(), &plain[1_234_567..1_234_600]);
        for wrong in [length - 1, length + 1, 1, 4 << 20] {
            assert_eq!(open(&packed, wrong, 0..1).unwrap_err().kind(), ErrorKind::Damaged, "{wrong}");
        }
        assert_eq!(open(&packed[..packed.len() - 1], length, 0..1).unwrap_err().kind(), ErrorKind::Damaged);
        // A frame that states 2^60 bytes and a window of 4 GiB.
        let bomb = [&[0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0xb0][..], &(1u64 << 60).to_le_bytes(), &[3, 0, 0]].concat();
        assert_eq!(open(&bomb, 1 << 20, 0..1).unwrap_err().kind(), ErrorKind::Damaged);
        let twice = [&packed[..], &packed].concat();
        assert_eq!(open(&twice, length, 0..1).unwrap_err().kind(), ErrorKind::Damaged);
    }

    proptest! {
        #[test]
        fn no_bytes_make_unpacking_panic(bytes in prop::collection::vec(any::<u8>(), 1..3000), length in 1u32..(4 << 20)) {
            let frame = [&[0x28, 0xb5, 0x2f, 0xfd][..], &bytes].concat();
            for packed in [&bytes, &frame] {
                let _ = Opener::default().open(&data(packed, 0), &chunk(packed, Some(length)), 0, &(0..1));
            }
        }
    }
}
