//! A segment as a reader has it: where its shards are, and those of its bytes that were fetched.
//!
//! Decides how a chunk that spans shards is opened without copying it together first, where its frames allow that.

use bytes::Bytes;
use dolmen_proto::head::PlacedSegment;
use dolmen_proto::ids::{NodeId, SegmentId, ShardRoot};
use dolmen_proto::limits::FRAME_STORED_BYTES;
use dolmen_proto::limits::TAG_BYTES;
use dolmen_proto::policy::Policy;
use dolmen_proto::seal::open_frames;
use dolmen_proto::segment::{Geometry, SegmentNonce};
use dolmen_proto::table::{NodeEntry, SegmentRow};
use dolmen_proto::tree::BlobPointer;

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
}

impl Place {
    /// As a head says.
    pub(crate) fn of_head(segment: &PlacedSegment, nodes: &Nodes) -> Self {
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

    /// Opens a chunk or blob into the front of `out`, which is made longer when need be but never cleared; gives its
    /// length.
    ///
    /// # Errors
    /// `Damaged` when the sealed bytes are not the ones of the pointer: whoever wrote the documents is at fault, since
    /// the bytes match their roots.
    pub(crate) fn open(&self, pointer: &BlobPointer, out: &mut Vec<u8>) -> Result<usize, ClientError> {
        let wrong = |why: &dyn std::fmt::Display| {
            ClientError::new(
                ErrorKind::Damaged,
                "a chunk cannot be opened",
                why,
                "what was uploaded is damaged in itself: ask the dataset's owner",
            )
        };
        let sealed_bytes = pointer.sealed_bytes();
        let length = pointer.length as usize;
        if out.len() < length {
            out.resize(length, 0);
        }
        let out = &mut out[..length];
        let sealed = u32::try_from(sealed_bytes).map_err(|error| wrong(&error))?;
        let pieces = self.geometry.pieces(pointer.offset, sealed).map_err(|error| wrong(&error))?;
        let missing = || ClientError::bug("a chunk was not fetched", "its range was planned otherwise");
        let pieces: Vec<&[u8]> = pieces
            .map(|piece| self.piece(piece.shard.get(), piece.offset, piece.length).ok_or_else(missing))
            .collect::<Result<_, _>>()?;
        let (last, front) = pieces.split_last().ok_or_else(missing)?;
        if front.iter().all(|piece| piece.len().is_multiple_of(FRAME_STORED_BYTES)) {
            let (mut frame, mut done) = (0, 0);
            for piece in front.iter().chain([last]) {
                let frames = piece.len().div_ceil(FRAME_STORED_BYTES);
                let plain = piece.len().saturating_sub(frames * TAG_BYTES);
                let to = out.get_mut(done..done + plain).ok_or_else(missing)?;
                open_frames(&pointer.key, sealed_bytes, frame, piece, to).map_err(|error| wrong(&error))?;
                frame += frames;
                done += plain;
            }
        } else {
            open_frames(&pointer.key, sealed_bytes, 0, &pieces.concat(), out).map_err(|error| wrong(&error))?;
        }
        Ok(length)
    }
}
