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
use dolmen_proto::table::{NodeEntry, SegmentRow};
use dolmen_proto::tree::BlobPointer;

use super::part::Chunk;
use crate::error::{ClientError, ErrorKind};
use crate::network::Nodes;

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
