//! `Get`: what a reply's payload consists of, read from the disk in bounded pieces.

use bytes::Bytes;
use dolmen_proto::limits::HASH_GROUP_BYTES;
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
            |offset: u64, buffer: &mut [u8]| self.store.read(&root, offset, buffer).map_err(|error| wire_error(&error));
        match &mut plan.rest {
            Rest::Bytes { offset, end } => {
                let count = usize::try_from(*end - *offset).unwrap_or(usize::MAX).min(PIECE_MAX_BYTES);
                if count == 0 {
                    return Ok(None);
                }
                let mut piece = vec![0; count];
                read(*offset, &mut piece)?;
                *offset += count as u64;
                Ok(Some(Bytes::from(piece)))
            }
            Rest::Slice { parts, outboard } => {
                let mut piece = Vec::new();
                while piece.len() + HASH_GROUP_BYTES <= PIECE_MAX_BYTES {
                    match parts.pop() {
                        Some(SlicePart::Pair { outboard_offset }) => {
                            let start = outboard_offset as usize;
                            let pair = outboard.get(start..start + PAIR_BYTES).ok_or_else(|| {
                                WireError::new(ErrorCode::Damaged, "the shard's hashes are damaged on this node's disk")
                            })?;
                            piece.extend_from_slice(pair);
                        }
                        Some(SlicePart::Group { offset, length }) => {
                            let start = piece.len();
                            piece.resize(start + length as usize, 0);
                            read(offset.into(), &mut piece[start..])?;
                        }
                        None => break,
                    }
                }
                Ok((!piece.is_empty()).then(|| Bytes::from(piece)))
            }
        }
    }
}
