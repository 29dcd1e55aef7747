//! Blocks of a shard with the hashes that prove them, every hash and block once.
//!
//! Decides how drawn blocks are shown and checked against the root. Never reads a disk: the groups are handed in. Of
//! BLAKE3's tree over the shard, in pre-order, stand the chaining values of parts in which nothing was drawn and the
//! bytes of drawn blocks; so the length follows from the shard's length and the blocks. Source: `docs/wire.md`, Prove.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::AuditError;
use super::draw::blocks_of_length;
use crate::ids::ShardRoot;
use crate::limits::{AUDIT_BLOCK_BYTES, HASH_GROUP_LOG2_CHUNKS, SHARD_MAX_BYTES};
use crate::root::{PAIR_BYTES, outboard_len};

const HASH_BYTES: usize = 32;
/// Blocks of a hash group.
const GROUP_BLOCKS: u32 = 1 << HASH_GROUP_LOG2_CHUNKS;

/// A part of the tree: `count` blocks from `first`.
#[derive(Clone, Copy)]
struct Part {
    first: u32,
    count: u32,
}

impl Part {
    const fn halves(self) -> (Self, Self) {
        let left = 1 << (self.count - 1).ilog2();
        (Self { count: left, ..self }, Self { first: self.first + left, count: self.count - left })
    }

    /// Those of `blocks` that lie in this part.
    fn of(self, blocks: &[u32]) -> &[u32] {
        let from = blocks.partition_point(|block| *block < self.first);
        let to = blocks.partition_point(|block| *block < self.first + self.count);
        &blocks[from..to]
    }

    fn bytes(self, length: u32) -> core::ops::Range<usize> {
        let start = self.first as usize * AUDIT_BLOCK_BYTES;
        start..(start + self.count as usize * AUDIT_BLOCK_BYTES).min(length as usize)
    }
}

fn whole(length: u32, blocks: &[u32]) -> Result<Part, AuditError> {
    let count = blocks_of_length(length);
    let ascending = blocks.windows(2).all(|pair| pair[0] < pair[1]);
    let last = blocks.last().ok_or(AuditError::Blocks)?;
    if length as usize > SHARD_MAX_BYTES || !ascending || *last >= count {
        return Err(AuditError::Blocks);
    }
    Ok(Part { first: 0, count })
}

/// Bytes that prove these blocks of a shard of this length.
///
/// # Errors
/// [`AuditError::Blocks`] when the blocks are not ascending, none, or not in the shard.
pub fn blocks_len(length: u32, blocks: &[u32]) -> Result<usize, AuditError> {
    fn count(part: Part, length: u32, blocks: &[u32]) -> usize {
        let blocks = part.of(blocks);
        if blocks.is_empty() {
            return HASH_BYTES;
        }
        if part.count == 1 {
            return part.bytes(length).len();
        }
        let (left, right) = part.halves();
        count(left, length, blocks) + count(right, length, blocks)
    }
    Ok(count(whole(length, blocks)?, length, blocks))
}

/// The hash groups, by their numbers, that [`encode_blocks`] reads: one for each drawn block at most.
#[must_use]
pub fn groups_of(blocks: &[u32]) -> Vec<u32> {
    let mut groups: Vec<u32> = blocks.iter().map(|block| block / GROUP_BLOCKS).collect();
    groups.dedup();
    groups
}

/// Appends the proof of these blocks. `read` fills a buffer with stored bytes from an offset, once for each hash group
/// in which a block was drawn. Nothing is checked here.
///
/// # Errors
/// What `read` answers; [`AuditError::Blocks`] when blocks or outboard do not fit the length.
pub fn encode_blocks<E: From<AuditError>>(
    length: u32,
    blocks: &[u32],
    outboard: &[u8],
    read: impl FnMut(u32, &mut [u8]) -> Result<(), E>,
    out: &mut Vec<u8>,
) -> Result<(), E> {
    let part = whole(length, blocks)?;
    if outboard.len() != outboard_len(length) {
        return Err(AuditError::Blocks.into());
    }
    let mut encoder = Encoder { length, outboard, read, out };
    encoder.part(part, blocks, 0)
}

struct Encoder<'a, R> {
    length: u32,
    outboard: &'a [u8],
    read: R,
    out: &'a mut Vec<u8>,
}

impl<R> Encoder<'_, R> {
    /// A part in which something was drawn; `pair` is the number of its pair in the outboard. Depth is that of the tree.
    fn part<E>(&mut self, part: Part, blocks: &[u32], pair: usize) -> Result<(), E>
    where
        R: FnMut(u32, &mut [u8]) -> Result<(), E>,
    {
        if part.count <= GROUP_BLOCKS {
            let range = part.bytes(self.length);
            let mut group = vec![0; range.len()];
            (self.read)(u32::try_from(range.start).expect("places in a shard are far below 4 GiB"), &mut group)?;
            in_group(part, part.first, self.length, blocks, &group, self.out);
            return Ok(());
        }
        let (left, right) = part.halves();
        let hashes = &self.outboard[pair * PAIR_BYTES..][..PAIR_BYTES];
        let left_groups = left.count.div_ceil(GROUP_BLOCKS) as usize;
        for (half, hash, pair) in [(left, &hashes[..32], pair + 1), (right, &hashes[32..], pair + left_groups)] {
            match half.of(blocks) {
                [] => self.out.extend_from_slice(hash),
                some => self.part(half, some, pair)?,
            }
        }
        Ok(())
    }
}

/// What is below a group's hash, from the group's bytes, which begin at block `base`.
fn in_group(part: Part, base: u32, length: u32, blocks: &[u32], group: &[u8], out: &mut Vec<u8>) {
    let start = base as usize * AUDIT_BLOCK_BYTES;
    let range = part.bytes(length);
    let bytes = &group[range.start - start..range.end - start];
    if part.of(blocks).is_empty() {
        let hash = blake3::Hasher::new().set_input_offset(range.start as u64).update(bytes).finalize_non_root();
        out.extend_from_slice(&hash);
    } else if part.count == 1 {
        out.extend_from_slice(bytes);
    } else {
        let (left, right) = part.halves();
        in_group(left, base, length, blocks, group, out);
        in_group(right, base, length, blocks, group, out);
    }
}

/// Checks the proof of these blocks, which is all of `proof`, against the root.
///
/// # Errors
/// [`AuditError::Blocks`] when the blocks do not fit the length, [`AuditError::ProofLength`] when the proof has another length
/// than it must have, [`AuditError::Mismatch`] when a hash does not match: the node's fault.
pub fn verify_blocks(root: &ShardRoot, length: u32, blocks: &[u32], proof: &[u8]) -> Result<(), AuditError> {
    let part = whole(length, blocks)?;
    let expected = blocks_len(length, blocks)?;
    if proof.len() != expected {
        return Err(AuditError::ProofLength { expected, found: proof.len() });
    }
    let mut rest = proof;
    let found = if part.count == 1 {
        *blake3::hash(rest).as_bytes()
    } else {
        let (left, right) = part.halves();
        let (left, right) = (hash_of(left, length, blocks, &mut rest), hash_of(right, length, blocks, &mut rest));
        *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
    };
    if found == *root.as_bytes() { Ok(()) } else { Err(AuditError::Mismatch(*root)) }
}

/// The chaining value of a part that is not the whole; the proof's length was checked before.
fn hash_of(part: Part, length: u32, blocks: &[u32], rest: &mut &[u8]) -> ChainingValue {
    let blocks = part.of(blocks);
    if blocks.is_empty() {
        let (hash, left) = rest.split_first_chunk::<HASH_BYTES>().expect("the length was checked");
        *rest = left;
        return *hash;
    }
    if part.count == 1 {
        let range = part.bytes(length);
        let (block, left) = rest.split_at(range.len());
        *rest = left;
        return blake3::Hasher::new().set_input_offset(range.start as u64).update(block).finalize_non_root();
    }
    let (left, right) = part.halves();
    let (left, right) = (hash_of(left, length, blocks, rest), hash_of(right, length, blocks, rest));
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}
