//! `Get`: what a reply's payload consists of, read from the disk in bounded pieces.

use bytes::Bytes;
use dolmen_proto::root::{PAIR_BYTES, SlicePart, slice_len, slice_parts};
use dolmen_proto::wire::{ErrorCode, GetReply, GetRequest, Reply, WireError};

use super::{Service, wire_error};
use crate::disk::Disk;
use crate::store::ShardState;

/// Most bytes that [`Service::read_piece`] reads at a time: what a reading peer costs in memory, twice.
pub const PIECE_MAX_BYTES: usize = 512 * 1024;

/// The payload of one `Get`, as far as it is not yet read.
#[derive(Debug)]
pub struct GetPlan {
    request: GetRequest,
    payload_bytes: u64,
    rest: Rest,
}

#[derive(Debug)]
enum Rest {
    /// Plain bytes of the shard from here on.
    Bytes { offset: u64, end: u64 },
    /// Parts of a slice, the next one last, and the outboard that their hashes lie in.
    Slice { parts: Vec<SlicePart>, outboard: Vec<u8> },
}

impl GetPlan {
    /// The header that comes before the payload.
    #[must_use]
    pub fn reply(&self) -> Reply {
        Reply::Get(GetReply { length_bytes: self.request.length_bytes, payload_bytes: self.payload_bytes })
    }

    /// Whether the whole payload was read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match &self.rest {
            Rest::Bytes { offset, end } => offset == end,
            Rest::Slice { parts, .. } => parts.is_empty(),
        }
    }
}

impl<D: Disk> Service<D> {
    /// Checks a `Get` and plans its payload. Anybody who knows a root may read the shard.
    ///
    /// # Errors
    /// What the peer is told: not held, not found yet, damaged, another length, a disk that failed.
    pub fn begin_get(&self, request: &GetRequest) -> Result<GetPlan, WireError> {
        let Some((length_bytes, state)) = self.store.find(&request.root).map_err(|error| wire_error(&error))? else {
            return Err(WireError::new(self.miss(), "the shard is not on the disks in use"));
        };
        if state == ShardState::Damaged {
            return Err(WireError::new(ErrorCode::Damaged, "the shard is damaged on this node's disk"));
        }
        if u64::from(length_bytes) != request.length_bytes {
            let text = format!("the shard of this root has {length_bytes} bytes");
            return Err(WireError::new(ErrorCode::LengthMismatch, text));
        }
        if !request.proof {
            let end = request.offset_bytes.saturating_add(request.count_bytes);
            let rest = Rest::Bytes { offset: request.offset_bytes, end };
            return Ok(GetPlan { request: *request, payload_bytes: request.count_bytes, rest });
        }
        let out_of_range = || WireError::malformed("the range does not lie in the shard");
        let offset = u32::try_from(request.offset_bytes).map_err(|_| out_of_range())?;
        let count = u32::try_from(request.count_bytes).map_err(|_| out_of_range())?;
        let payload = slice_len(length_bytes, offset, count).map_err(|_| out_of_range())?;
        let mut parts = slice_parts(length_bytes, offset, count).map_err(|_| out_of_range())?;
        parts.reverse();
        let outboard = self.store.outboard(&request.root).map_err(|error| wire_error(&error))?;
        let payload_bytes = u64::try_from(payload).map_err(|_| out_of_range())?;
        Ok(GetPlan { request: *request, payload_bytes, rest: Rest::Slice { parts, outboard } })
    }

    /// The next piece of the payload, at most [`PIECE_MAX_BYTES`]; `None` after the last. Blocks on the disk.
    ///
    /// # Errors
    /// The shard went away or its disk failed since the plan was made; the stream is then broken off.
    pub fn read_piece(&self, plan: &mut GetPlan) -> Result<Option<Bytes>, WireError> {
        let root = plan.request.root;
        let read =
            |offset: u64, count: usize| self.store.read_piece(&root, offset, count).map_err(|error| wire_error(&error));
        match &mut plan.rest {
            Rest::Bytes { offset, end } => {
                let count = usize::try_from(*end - *offset).unwrap_or(usize::MAX).min(PIECE_MAX_BYTES);
                if count == 0 {
                    return Ok(None);
                }
                let piece = read(*offset, count)?;
                *offset += count as u64;
                Ok(Some(Bytes::from_owner(piece)))
            }
            Rest::Slice { parts, outboard } => {
                let now = parts.split_off(parts.len() - leading(parts));
                let groups = || now.iter().rev().filter_map(group);
                // Groups of a slice follow each other in the shard: they are read at once.
                let (from, end) = (groups().next(), groups().next_back());
                let stored = match (from, end) {
                    (Some((from, _)), Some((last, length))) => read(from.into(), (last - from + length) as usize)?,
                    _ => return Ok(None),
                };
                let mut stored = stored.bytes();
                let mut piece = Vec::with_capacity(stored.len() + now.len() * PAIR_BYTES);
                for part in now.iter().rev() {
                    match *part {
                        SlicePart::Pair { outboard_offset } => {
                            let start = outboard_offset as usize;
                            let pair = outboard.get(start..start + PAIR_BYTES).ok_or_else(|| {
                                WireError::new(ErrorCode::Damaged, "the shard's hashes are damaged on this node's disk")
                            })?;
                            piece.extend_from_slice(pair);
                        }
                        SlicePart::Group { length, .. } => {
                            let (group, later) = stored.split_at((length as usize).min(stored.len()));
                            piece.extend_from_slice(group);
                            stored = later;
                        }
                    }
                }
                Ok(Some(Bytes::from(piece)))
            }
        }
    }
}

fn group(part: &SlicePart) -> Option<(u32, u32)> {
    match part {
        SlicePart::Group { offset, length } => Some((*offset, *length)),
        SlicePart::Pair { .. } => None,
    }
}

/// How many of the parts, of which the next one is the last, make up the next piece: it ends with a group.
fn leading(parts: &[SlicePart]) -> usize {
    let (mut bytes, mut count) = (0, 0);
    for (passed, part) in parts.iter().rev().enumerate() {
        bytes += match part {
            SlicePart::Pair { .. } => PAIR_BYTES,
            SlicePart::Group { length, .. } => *length as usize,
        };
        if bytes > PIECE_MAX_BYTES {
            break;
        }
        if group(part).is_some() {
            count = passed + 1;
        }
    }
    count
}
