//! Roots of shards, their outboards, and slices: ranges of a shard with the hashes that prove them.
//!
//! Decides how stored bytes are named and proven. Never decides who may read them. A root is plain BLAKE3; an
//! outboard is bao's in pre-order with groups of 16 KiB and no length prefix: for every pair of subtrees their two hashes,
//! 64 bytes for each group but the first. A slice is the hash pairs and groups of a range in the order in
//! which they are checked, so that no byte is believed before its hash is.

use bao_tree::iter::BaoChunk;
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::ids::ShardRoot;
use crate::limits::{HASH_GROUP_BYTES, HASH_GROUP_LOG2_CHUNKS, SHARD_MAX_BYTES};

/// Bytes of the two hashes of a pair of subtrees.
pub const PAIR_BYTES: usize = 64;

/// Bytes of one BLAKE3 chunk, the unit in which bao counts.
const BLAKE3_CHUNK_BYTES: u64 = 1024;

/// Why a slice was not made or not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SliceError {
    /// The range is empty or does not lie in a shard of this length: the asker's fault.
    #[error("the range {offset}+{count} does not lie in a shard of {length} bytes")]
    Range {
        /// Length of the shard.
        length: u32,
        /// First byte asked for.
        offset: u32,
        /// Bytes asked for.
        count: u32,
    },
    /// The shard is longer than any.
    #[error("no shard has {0} bytes")]
    ShardLength(u32),
    /// The outboard is not one of a shard of this length: local damage.
    #[error("the outboard of this shard has {expected} bytes, not {found}")]
    OutboardLength {
        /// What follows from the length.
        expected: usize,
        /// What there was.
        found: usize,
    },
    /// The slice does not have the length that this range has: the sender's fault.
    #[error("the slice of this range has {expected} bytes, not {found}")]
    SliceLength {
        /// What follows from the range.
        expected: usize,
        /// What was sent.
        found: usize,
    },
    /// The output does not have the length of the range: the caller's mistake.
    #[error("the output has {found} bytes, the range {expected}")]
    OutputLength {
        /// Bytes asked for.
        expected: usize,
        /// What the caller brought.
        found: usize,
    },
    /// A hash does not match the root: the sender lies, or its disk does.
    #[error("the slice does not belong to this root: a hash does not match at byte {0} of the shard")]
    Mismatch(u32),
}

/// The root of a shard with these stored bytes.
#[must_use]
pub fn root_of(stored: &[u8]) -> ShardRoot {
    ShardRoot::new(*blake3::hash(stored).as_bytes())
}

/// Bytes of the outboard of a shard: 64 for each 16 KiB group but the first.
#[must_use]
pub const fn outboard_len(shard_bytes: u32) -> usize {
    (shard_bytes as usize).div_ceil(HASH_GROUP_BYTES).saturating_sub(1) * PAIR_BYTES
}

/// Hashes a shard as it streams by: its root and its outboard from one pass. Keeps 32 bytes for each 16 KiB and one such
/// group; whoever feeds it bounds the length.
///
/// Groups are hashed whole, however small the pieces are that they come in: BLAKE3 takes in 16 KiB at once several times as
/// fast as in datagrams.
#[derive(Debug, Clone, Default)]
pub struct RootHasher {
    /// Hashes of all groups before the current one.
    groups: Vec<ChainingValue>,
    /// The current group: not hashed before a byte follows it, because a lone group is hashed differently.
    current: Vec<u8>,
}

impl RootHasher {
    /// Nothing hashed yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next bytes, in pieces of any length; what begins at a multiple of 16 KiB is not copied but for its end.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.current.len() == HASH_GROUP_BYTES {
                let hash = self.group(&self.current);
                self.groups.push(hash);
                self.current.clear();
            }
            if self.current.is_empty() && bytes.len() > HASH_GROUP_BYTES {
                let (group, later) = bytes.split_at(HASH_GROUP_BYTES);
                let hash = self.group(group);
                self.groups.push(hash);
                bytes = later;
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(HASH_GROUP_BYTES - self.current.len()));
            self.current.extend_from_slice(now);
            bytes = later;
        }
    }

    /// The hash of the next group as a part of the tree.
    fn group(&self, bytes: &[u8]) -> ChainingValue {
        let offset = (self.groups.len() * HASH_GROUP_BYTES) as u64;
        blake3::Hasher::new().set_input_offset(offset).update(bytes).finalize_non_root()
    }

    /// Bytes taken in so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.groups.len() * HASH_GROUP_BYTES + self.current.len()) as u64
    }

    /// The root and the outboard of all bytes taken in.
    #[must_use]
    pub fn finish(mut self) -> (ShardRoot, Vec<u8>) {
        if self.groups.is_empty() {
            return (ShardRoot::new(*blake3::hash(&self.current).as_bytes()), Vec::new());
        }
        let last = self.group(&self.current);
        self.groups.push(last);
        let mut outboard = Vec::with_capacity((self.groups.len() - 1) * PAIR_BYTES);
        let (left, right) = merge_halves(&self.groups, &mut outboard);
        let root = merge_subtrees_root(&left, &right, Mode::Hash);
        (ShardRoot::new(*root.as_bytes()), outboard)
    }
}

/// The hashes of the two halves of a subtree of at least two groups, after its pairs were appended in pre-order.
/// Recursion ends after as many steps as the group count has bits.
fn merge_halves(groups: &[ChainingValue], outboard: &mut Vec<u8>) -> (ChainingValue, ChainingValue) {
    let here = outboard.len();
    outboard.resize(here + PAIR_BYTES, 0);
    let middle = (groups.len() - 1).ilog2();
    let (left, right) = groups.split_at(1 << middle);
    let mut hash = |half: &[ChainingValue]| match half {
        [single] => *single,
        several => {
            let (left, right) = merge_halves(several, outboard);
            merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    };
    let (left, right) = (hash(left), hash(right));
    outboard[here..here + 32].copy_from_slice(&left);
    outboard[here + 32..here + PAIR_BYTES].copy_from_slice(&right);
    (left, right)
}

/// One part of a slice, in the order in which parts stand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlicePart {
    /// The 64 bytes at this place of the outboard.
    Pair {
        /// Where the pair starts in the outboard, in bytes.
        outboard_offset: u32,
    },
    /// Stored bytes: one group.
    Group {
        /// Where the group starts in the shard, in bytes.
        offset: u32,
        /// Bytes of the group: 16 KiB but at the end of the shard.
        length: u32,
    },
}

/// What a walk through the tree passes, with what checking it needs.
enum Step {
    Pair { outboard_offset: usize, is_root: bool, left: bool, right: bool },
    Group { offset: usize, length: usize, is_root: bool },
}

/// Visits what a slice of the range consists of, in order.
fn walk<E: From<SliceError>>(
    length: u32,
    offset: u32,
    count: u32,
    mut visit: impl FnMut(Step) -> Result<(), E>,
) -> Result<(), E> {
    if length as usize > SHARD_MAX_BYTES {
        return Err(SliceError::ShardLength(length).into());
    }
    let end = u64::from(offset) + u64::from(count);
    if count == 0 || end > u64::from(length) {
        return Err(SliceError::Range { length, offset, count }.into());
    }
    let group = HASH_GROUP_BYTES as u64;
    let first = u64::from(offset) / group * group / BLAKE3_CHUNK_BYTES;
    let last = (end.next_multiple_of(group).min(u64::from(length))).div_ceil(BLAKE3_CHUNK_BYTES);
    let ranges = ChunkRanges::from(ChunkNum(first)..ChunkNum(last));
    let tree = BaoTree::new(u64::from(length), BlockSize::from_chunk_log(HASH_GROUP_LOG2_CHUNKS));
    for part in tree.ranges_pre_order_chunks_iter_ref(&ranges, 0) {
        visit(match part {
            BaoChunk::Parent { node, is_root, left, right, .. } => {
                let number = tree.pre_order_offset(node).expect("every node above the groups is in the outboard");
                let outboard_offset = usize::try_from(number).expect("a shard has few groups") * PAIR_BYTES;
                Step::Pair { outboard_offset, is_root, left, right }
            }
            BaoChunk::Leaf { start_chunk, size, is_root, .. } => {
                let offset = usize::try_from(start_chunk.to_bytes()).expect("a shard is far below 4 GiB");
                Step::Group { offset, length: size, is_root }
            }
        })?;
    }
    Ok(())
}

fn narrow(place: usize) -> u32 {
    u32::try_from(place).expect("places in a shard are far below 4 GiB")
}

/// What the slice of `count` bytes from `offset` of a shard consists of, range rounded out to groups: for a node that
/// streams it straight from disk. At most two parts for each 16 KiB and a few dozen.
///
/// # Errors
/// When the range is empty or not in the shard, or no shard is so long.
pub fn slice_parts(length: u32, offset: u32, count: u32) -> Result<Vec<SlicePart>, SliceError> {
    let mut parts = Vec::new();
    walk::<SliceError>(length, offset, count, |step| {
        parts.push(match step {
            Step::Pair { outboard_offset, .. } => SlicePart::Pair { outboard_offset: narrow(outboard_offset) },
            Step::Group { offset, length, .. } => SlicePart::Group { offset: narrow(offset), length: narrow(length) },
        });
        Ok(())
    })?;
    Ok(parts)
}

/// Bytes of the slice of `count` bytes from `offset` of a shard: the only length that is believed.
///
/// # Errors
/// As [`slice_parts`].
pub fn slice_len(length: u32, offset: u32, count: u32) -> Result<usize, SliceError> {
    let mut bytes = 0;
    walk::<SliceError>(length, offset, count, |step| {
        bytes += match step {
            Step::Pair { .. } => PAIR_BYTES,
            Step::Group { length, .. } => length,
        };
        Ok(())
    })?;
    Ok(bytes)
}

/// Makes a slice. `read` fills a buffer with stored bytes from an offset. Nothing is checked here: the reader of the slice
/// checks everything, and a node checks its disk by scrubbing.
///
/// # Errors
/// What `read` answers, or a [`SliceError`] when range or outboard do not fit the length.
pub fn encode_slice<E: From<SliceError>>(
    length: u32,
    offset: u32,
    count: u32,
    outboard: &[u8],
    mut read: impl FnMut(u32, &mut [u8]) -> Result<(), E>,
) -> Result<Vec<u8>, E> {
    let expected = outboard_len(length);
    if outboard.len() != expected {
        return Err(SliceError::OutboardLength { expected, found: outboard.len() }.into());
    }
    let mut slice = Vec::with_capacity(slice_len(length, offset, count)?);
    walk::<E>(length, offset, count, |step| {
        match step {
            Step::Pair { outboard_offset, .. } => slice.extend_from_slice(&outboard[outboard_offset..][..PAIR_BYTES]),
            Step::Group { offset, length, .. } => {
                let start = slice.len();
                slice.resize(start + length, 0);
                read(narrow(offset), &mut slice[start..])?;
            }
        }
        Ok(())
    })?;
    Ok(slice)
}

/// Checks a slice against the root and writes exactly the bytes `offset..offset + count` of the shard into `out`. On an
/// error `out` is all zero: no byte that fails its hash is handed on.
///
/// # Errors
/// When range, slice or output have the wrong length, or any hash does not match.
pub fn verify_slice_into(
    root: &ShardRoot,
    length: u32,
    offset: u32,
    count: u32,
    slice: &[u8],
    out: &mut [u8],
) -> Result<(), SliceError> {
    let expected = slice_len(length, offset, count)?;
    if slice.len() != expected {
        return Err(SliceError::SliceLength { expected, found: slice.len() });
    }
    if out.len() != count as usize {
        return Err(SliceError::OutputLength { expected: count as usize, found: out.len() });
    }
    let (first, end) = (offset as usize, offset as usize + count as usize);
    let mut rest = slice;
    // Hashes that what follows must have, nearest on top. A shard's tree is at most twelve pairs high.
    let mut awaited = Vec::with_capacity(16);
    awaited.push(*root.as_bytes());
    let checked = walk::<SliceError>(length, offset, count, |step| {
        let hash: ChainingValue = awaited.pop().expect("the walk asks for as many hashes as its pairs promise");
        match step {
            Step::Pair { is_root, left, right, .. } => {
                let pair: &[u8; PAIR_BYTES] = take(&mut rest, PAIR_BYTES).try_into().expect("64 bytes were taken");
                let (left_hash, right_hash) = pair.split_at(32);
                let left_hash: ChainingValue = left_hash.try_into().expect("half of 64 bytes");
                let right_hash: ChainingValue = right_hash.try_into().expect("half of 64 bytes");
                let found = if is_root {
                    *merge_subtrees_root(&left_hash, &right_hash, Mode::Hash).as_bytes()
                } else {
                    merge_subtrees_non_root(&left_hash, &right_hash, Mode::Hash)
                };
                if found != hash {
                    return Err(SliceError::Mismatch(offset));
                }
                awaited.extend(right.then_some(right_hash));
                awaited.extend(left.then_some(left_hash));
            }
            Step::Group { offset: start, length, is_root } => {
                let group = take(&mut rest, length);
                let found = if is_root {
                    *blake3::hash(group).as_bytes()
                } else {
                    blake3::Hasher::new().set_input_offset(start as u64).update(group).finalize_non_root()
                };
                if found != hash {
                    return Err(SliceError::Mismatch(narrow(start)));
                }
                let (from, to) = (start.max(first), (start + length).min(end));
                out[from - first..to - first].copy_from_slice(&group[from - start..to - start]);
            }
        }
        Ok(())
    });
    checked.inspect_err(|_| out.fill(0))
}

/// [`verify_slice_into`] a new buffer of `count` bytes, allocated only once the slice has the right length.
///
/// # Errors
/// As [`verify_slice_into`].
pub fn verify_slice(
    root: &ShardRoot,
    length: u32,
    offset: u32,
    count: u32,
    slice: &[u8],
) -> Result<Vec<u8>, SliceError> {
    let expected = slice_len(length, offset, count)?;
    if slice.len() != expected {
        return Err(SliceError::SliceLength { expected, found: slice.len() });
    }
    let mut out = vec![0; count as usize];
    verify_slice_into(root, length, offset, count, slice, &mut out)?;
    Ok(out)
}

/// Splits the next `length` bytes off; the slice's whole length was checked before.
fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(length);
    *rest = left;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use bao_tree::io::outboard::PreOrderMemOutboard;
    use proptest::prelude::*;

    const BLOCK: BlockSize = BlockSize::from_chunk_log(HASH_GROUP_LOG2_CHUNKS);

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn hashed(bytes: &[u8]) -> (ShardRoot, Vec<u8>) {
        let mut hasher = RootHasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    fn slice_of(bytes: &[u8], outboard: &[u8], offset: u32, count: u32) -> Result<Vec<u8>, SliceError> {
        encode_slice(narrow(bytes.len()), offset, count, outboard, |start, buffer| {
            buffer.copy_from_slice(&bytes[start as usize..][..buffer.len()]);
            Ok::<(), SliceError>(())
        })
    }

    fn length() -> impl Strategy<Value = usize> {
        prop_oneof![1usize..600_000, (1usize..40).prop_map(|groups| groups * HASH_GROUP_BYTES), 1usize..20_000]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn root_and_outboard_are_those_of_bao(seed: u64, length in length(), piece in 1usize..70_000) {
            let bytes = noise(seed, length);
            let mut hasher = RootHasher::new();
            for piece in bytes.chunks(piece) {
                hasher.update(piece);
            }
            prop_assert_eq!(hasher.bytes(), length as u64);
            let (root, outboard) = hasher.finish();
            let expected = PreOrderMemOutboard::create(&bytes, BLOCK);
            prop_assert_eq!(root.as_bytes(), expected.root.as_bytes());
            prop_assert_eq!(root, root_of(&bytes));
            prop_assert_eq!(outboard.len(), outboard_len(narrow(length)));
            prop_assert_eq!(outboard, expected.data);
        }

        #[test]
        fn slices_are_those_of_bao_and_open_to_the_bytes_asked_for(
            seed: u64, length in length(), from in 0.0f64..1.0, share in 0.0f64..1.0,
        ) {
            let bytes = noise(seed, length);
            let (offset, count) = range(length, from, share);
            let (root, outboard) = hashed(&bytes);
            let slice = slice_of(&bytes, &outboard, offset, count).expect("the range is inside");
            prop_assert_eq!(slice.len(), slice_len(narrow(length), offset, count).expect("the range is inside"));

            let theirs = PreOrderMemOutboard::create(&bytes, BLOCK);
            let first = u64::from(offset) / HASH_GROUP_BYTES as u64 * 16;
            let last = u64::from(offset + count).div_ceil(HASH_GROUP_BYTES as u64) * 16;
            let mut expected = Vec::new();
            let ranges = ChunkRanges::from(ChunkNum(first)..ChunkNum(last));
            bao_tree::io::sync::encode_ranges_validated(&bytes[..], &theirs, &ranges, &mut expected).expect("in memory");
            prop_assert_eq!(&slice, &expected);

            let out = verify_slice(&root, narrow(length), offset, count, &slice).expect("an honest slice");
            prop_assert_eq!(&out, &bytes[offset as usize..][..count as usize]);
        }

        #[test]
        fn a_slice_with_any_flipped_bit_or_other_length_is_refused(
            seed: u64, length in length(), from in 0.0f64..1.0, share in 0.0f64..0.2, bit: prop::sample::Index,
        ) {
            let bytes = noise(seed, length);
            let (offset, count) = range(length, from, share);
            let (root, outboard) = hashed(&bytes);
            let mut slice = slice_of(&bytes, &outboard, offset, count).expect("the range is inside");
            let bit = bit.index(slice.len() * 8);
            slice[bit / 8] ^= 1 << (bit % 8);
            let mut out = vec![0xff; count as usize];
            let verdict = verify_slice_into(&root, narrow(length), offset, count, &slice, &mut out);
            prop_assert!(matches!(verdict, Err(SliceError::Mismatch(_))));
            prop_assert!(out.iter().all(|byte| *byte == 0));
            slice.pop();
            let verdict = verify_slice(&root, narrow(length), offset, count, &slice);
            let refused = matches!(verdict, Err(SliceError::SliceLength { .. }));
            prop_assert!(refused);
        }

        #[test]
        fn arbitrary_claims_never_panic_and_never_verify(
            length: u32, offset: u32, count: u32, slice in prop::collection::vec(any::<u8>(), 0..2000),
        ) {
            // A buffer of `count` bytes comes only after the slice was found to have its length, which is at least `count`.
            let verdict = verify_slice(&ShardRoot::new([1; 32]), length, offset, count, &slice);
            prop_assert!(verdict.is_err());
            if slice.len() < count as usize {
                prop_assert!(!matches!(verdict, Err(SliceError::Mismatch(_))));
            }
        }
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    fn range(length: usize, from: f64, share: f64) -> (u32, u32) {
        let offset = (length as f64 * from) as usize;
        let count = 1 + ((length - offset - 1) as f64 * share) as usize;
        (narrow(offset), narrow(count))
    }

    #[test]
    fn ranges_outside_and_shards_too_long_are_refused() {
        let too_long = narrow(SHARD_MAX_BYTES + 1);
        for (length, offset, count) in [(100, 0, 0), (100, 100, 1), (100, 0, 101), (100, u32::MAX, u32::MAX), (0, 0, 1)]
        {
            assert_eq!(slice_len(length, offset, count), Err(SliceError::Range { length, offset, count }));
            assert_eq!(slice_parts(length, offset, count), Err(SliceError::Range { length, offset, count }));
        }
        assert_eq!(slice_len(too_long, 0, 1), Err(SliceError::ShardLength(too_long)));
        assert!(slice_len(too_long - 1, 0, too_long - 1).is_ok());
        let outboard = SliceError::OutboardLength { expected: 64, found: 0 };
        assert_eq!(slice_of(&[0; 17_000], &[], 0, 1), Err(outboard));
    }

    #[test]
    fn the_parts_of_a_slice_are_what_is_encoded() {
        let bytes = noise(4, 700_001);
        let (_, outboard) = hashed(&bytes);
        let mut slice = Vec::new();
        for part in slice_parts(700_001, 100_000, 300_000).expect("inside") {
            match part {
                SlicePart::Pair { outboard_offset } => {
                    slice.extend_from_slice(&outboard[outboard_offset as usize..][..PAIR_BYTES]);
                }
                SlicePart::Group { offset, length } => {
                    slice.extend_from_slice(&bytes[offset as usize..][..length as usize]);
                }
            }
        }
        assert_eq!(Ok(slice), slice_of(&bytes, &outboard, 100_000, 300_000));
    }

    #[test]
    fn an_empty_input_has_the_empty_hash() {
        assert_eq!(hashed(&[]), (root_of(&[]), Vec::new()));
        assert_eq!(outboard_len(0), 0);
    }
}
