//! What a segment is: its geometry, its nonce, its id and its padding.
//!
//! Decides how long shards are, which byte lies in which shard, and what a segment is called. Never touches
//! shards' contents (see [`crate::erasure`] and [`crate::mask`]) and never chooses which chunks go in
//! ([`crate::pack`]).

use core::fmt;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};

use crate::ids::{ChunkId, SegmentId, ShardIndex, ShardRoot};
use crate::keys::{DedupKey, context, derive};
use crate::limits::{
    SEGMENT_CHUNKS_MAX, SEGMENT_FINE_BELOW_BYTES, SEGMENT_MAX_BYTES, SHARD_FINE_STEP_BYTES, SHARD_STEP_BYTES,
};
use crate::policy::Policy;
use crate::seal::SUITE;

/// Why numbers are not the geometry of a segment. In a parsed document: the writer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// There is no segment without payload.
    #[error("a segment holds at least one byte")]
    Empty,
    /// The payload does not fit a segment of this policy.
    #[error("{payload_bytes} bytes do not fit a segment of policy {policy}, which holds {capacity}")]
    TooLarge {
        /// Bytes wanted.
        payload_bytes: usize,
        /// The policy asked for.
        policy: Policy,
        /// Bytes that fit.
        capacity: usize,
    },
    /// The shard length is not the one that follows from policy and payload.
    #[error("shards of this segment have {expected} bytes, not {found}")]
    ShardLength {
        /// What follows from policy and payload.
        expected: u32,
        /// What was stated.
        found: u32,
    },
    /// A segment has as many roots as its policy says shards.
    #[error("this segment has {expected} shards, not {found}")]
    RootCount {
        /// Shards of the policy.
        expected: usize,
        /// Roots given.
        found: usize,
    },
    /// A segment holds between one chunk and the limit.
    #[error("a segment holds 1 to {SEGMENT_CHUNKS_MAX} chunks, not {0}")]
    ChunkCount(usize),
    /// The range does not lie in the segment's data shards.
    #[error("the range {offset}+{length} does not lie in the segment")]
    Range {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
    },
}

/// The shape of a segment: its code and its two lengths. Shard `i < k` is bytes `i * shard_bytes ..` of the segment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Geometry {
    policy: Policy,
    payload_bytes: u32,
    shard_bytes: u32,
}

/// A part of a segment that lies in one data shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The data shard.
    pub shard: ShardIndex,
    /// Where the part starts in the shard, in bytes.
    pub offset: u32,
    /// Bytes of the part.
    pub length: u32,
}

impl Geometry {
    /// The one geometry of a segment with this policy and this many bytes of payload.
    ///
    /// # Errors
    /// When the payload is empty or over [`Geometry::capacity`].
    pub fn for_payload(policy: Policy, payload_bytes: usize) -> Result<Self, SegmentError> {
        if payload_bytes == 0 {
            return Err(SegmentError::Empty);
        }
        let capacity = Self::capacity(policy);
        let too_large = SegmentError::TooLarge { payload_bytes, policy, capacity };
        if payload_bytes > capacity {
            return Err(too_large);
        }
        let shard_bytes =
            padme_up(payload_bytes.div_ceil(usize::from(policy.k()))).next_multiple_of(step(payload_bytes));
        Ok(Self {
            policy,
            payload_bytes: u32::try_from(payload_bytes).map_err(|_| too_large)?,
            shard_bytes: u32::try_from(shard_bytes).map_err(|_| too_large)?,
        })
    }

    /// The geometry that a document states, refused unless it is the one that [`Geometry::for_payload`] gives.
    ///
    /// # Errors
    /// As [`Geometry::for_payload`], or when the shard length is another.
    pub fn from_parts(policy: Policy, payload_bytes: u32, shard_bytes: u32) -> Result<Self, SegmentError> {
        let payload_bytes = usize::try_from(payload_bytes).unwrap_or(usize::MAX);
        let geometry = Self::for_payload(policy, payload_bytes)?;
        if geometry.shard_bytes == shard_bytes {
            Ok(geometry)
        } else {
            Err(SegmentError::ShardLength { expected: geometry.shard_bytes, found: shard_bytes })
        }
    }

    /// Most payload of a segment of this policy: full segments waste nothing.
    #[must_use]
    pub fn capacity(policy: Policy) -> usize {
        Self::capacity_within(policy, SEGMENT_MAX_BYTES)
    }

    /// Most payload of a segment whose data shards together have at most `segment_bytes`; a multiple of `k` whose
    /// quotient is a legal shard length. For simulations with small segments; zero when not even 1 KiB a shard fits.
    #[must_use]
    pub fn capacity_within(policy: Policy, segment_bytes: usize) -> usize {
        let k = usize::from(policy.k());
        let shard = padme_down(segment_bytes.min(SEGMENT_MAX_BYTES) / k);
        let step = step(shard * k);
        k * (shard / step * step)
    }

    /// The code.
    #[must_use]
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// Bytes up to the end of the last sealed chunk, gaps before it included.
    #[must_use]
    pub const fn payload_bytes(&self) -> u32 {
        self.payload_bytes
    }

    /// Bytes of every shard.
    #[must_use]
    pub const fn shard_bytes(&self) -> u32 {
        self.shard_bytes
    }

    /// Bytes of all data shards together: payload and padding.
    #[must_use]
    pub fn data_bytes(&self) -> u32 {
        self.shard_bytes * u32::from(self.policy.k())
    }

    /// The parts of data shards that bytes `offset..offset + length` of the segment lie in, in order.
    ///
    /// # Errors
    /// When the range reaches beyond the data shards.
    pub fn pieces(&self, offset: u32, length: u32) -> Result<impl Iterator<Item = Piece> + use<>, SegmentError> {
        let end = u64::from(offset) + u64::from(length);
        if end > u64::from(self.data_bytes()) {
            return Err(SegmentError::Range { offset: offset.into(), length: length.into() });
        }
        let shard_bytes = self.shard_bytes;
        let mut offset = offset;
        let mut left = length;
        Ok(core::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let shard = u8::try_from(offset / shard_bytes).expect("the range lies in at most 64 data shards");
            let inside = offset % shard_bytes;
            let length = left.min(shard_bytes - inside);
            offset += length;
            left -= length;
            Some(Piece { shard: ShardIndex::new(shard), offset: inside, length })
        }))
    }

    /// The id of the segment with this geometry, nonce and ordered shard roots.
    ///
    /// # Errors
    /// When there are not `n` roots.
    pub fn segment_id(&self, nonce: &SegmentNonce, roots: &[ShardRoot]) -> Result<SegmentId, SegmentError> {
        let expected = usize::from(self.policy.n());
        if roots.len() != expected {
            return Err(SegmentError::RootCount { expected, found: roots.len() });
        }
        let mut hasher = blake3::Hasher::new_derive_key(context::SEGMENT_ID);
        hasher.update(&self.header()).update(nonce.as_bytes());
        for root in roots {
            hasher.update(root.as_bytes());
        }
        Ok(SegmentId::new(*hasher.finalize().as_bytes()))
    }

    /// Suite, k, n, payload and shard length as ids and nonces hash them.
    fn header(&self) -> [u8; 11] {
        let mut header = [0; 11];
        header[..3].copy_from_slice(&[SUITE, self.policy.k(), self.policy.n()]);
        header[3..7].copy_from_slice(&self.payload_bytes.to_le_bytes());
        header[7..].copy_from_slice(&self.shard_bytes.to_le_bytes());
        header
    }
}

/// What makes the masks and the padding of one segment its own. Not secret by itself: it stands in the base table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNonce([u8; 32]);

impl SegmentNonce {
    /// Wraps a nonce as a document states it.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The nonce of the segment with this geometry that holds these chunks at these offsets, in order of offset.
    /// Nothing in it is drawn: the same chunks in the same places are the same segment.
    ///
    /// # Errors
    /// When there are no chunks or more than the limit.
    pub fn derive(dedup: &DedupKey, geometry: &Geometry, chunks: &[(ChunkId, u32)]) -> Result<Self, SegmentError> {
        let count = u32::try_from(chunks.len()).map_err(|_| SegmentError::ChunkCount(chunks.len()))?;
        if chunks.is_empty() || chunks.len() > SEGMENT_CHUNKS_MAX {
            return Err(SegmentError::ChunkCount(chunks.len()));
        }
        let mut hasher = blake3::Hasher::new_keyed(dedup.expose());
        hasher.update(context::SEGMENT_NONCE.as_bytes()).update(&geometry.header()).update(&count.to_le_bytes());
        for (id, offset) in chunks {
            hasher.update(id.as_bytes()).update(&offset.to_le_bytes());
        }
        Ok(Self(*hasher.finalize().as_bytes()))
    }
}

impl fmt::Debug for SegmentNonce {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SegmentNonce({})", data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

/// The keystream that fills a segment's gaps and its tail, so that padding looks like everything else.
pub struct Padding {
    cipher: ChaCha20,
}

impl Padding {
    /// The padding of the segment with this nonce.
    #[must_use]
    pub fn new(dedup: &DedupKey, nonce: &SegmentNonce) -> Self {
        let key = zeroize::Zeroizing::new(derive(context::PADDING, &[dedup.expose(), nonce.as_bytes()]));
        Self { cipher: ChaCha20::new((&*key).into(), &[0; 12].into()) }
    }

    /// Overwrites `gap`, which starts at byte `offset` of the segment.
    pub fn fill(&mut self, offset: u32, gap: &mut [u8]) {
        gap.fill(0);
        self.cipher.seek(offset);
        self.cipher.apply_keystream(gap);
    }
}

impl fmt::Debug for Padding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Padding(..)")
    }
}

/// What shard lengths are multiples of.
const fn step(payload_bytes: usize) -> usize {
    if payload_bytes < SEGMENT_FINE_BELOW_BYTES { SHARD_FINE_STEP_BYTES } else { SHARD_STEP_BYTES }
}

/// Low bits that Padmé clears of a length: of its `E = floor(log2)` bits below the highest, all but `floor(log2 E) + 1`.
/// Source: Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", 2019.
const fn padme_mask(length: usize) -> usize {
    if length < 4 {
        return 0;
    }
    let exponent = length.ilog2();
    let kept = exponent.ilog2() + 1;
    (1 << (exponent - kept)) - 1
}

/// The next Padmé length: at most 12 % longer, and few of them exist.
const fn padme_up(length: usize) -> usize {
    let mask = padme_mask(length);
    (length + mask) & !mask
}

/// The largest Padmé length that is not longer.
const fn padme_down(length: usize) -> usize {
    length & !padme_mask(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policies() -> impl Strategy<Value = Policy> {
        (1u8..=64, 0u8..=63).prop_map(|(k, m)| Policy::new(k, k.saturating_add(m).min(64)).expect("legal"))
    }

    #[test]
    fn a_full_segment_wastes_nothing() {
        for k in 1..=64 {
            let policy = Policy::new(k, k).expect("legal");
            let capacity = Geometry::capacity(policy);
            let geometry = Geometry::for_payload(policy, capacity).expect("full");
            assert_eq!(geometry.data_bytes() as usize, capacity);
            assert!(capacity > SEGMENT_MAX_BYTES / 16 * 15, "{policy} holds only {capacity}");
            let over = Geometry::for_payload(policy, capacity + 1);
            assert!(matches!(over, Err(SegmentError::TooLarge { .. })));
        }
    }

    #[test]
    fn padme_lengths_are_few_and_cost_little() {
        let lengths: std::collections::BTreeSet<usize> = (1..=SEGMENT_MAX_BYTES).step_by(97).map(padme_up).collect();
        assert!(lengths.len() < 400, "{} lengths", lengths.len());
        assert_eq!(padme_up(9), 10);
        assert_eq!(padme_up(1_000_001), 1_015_808);
        for length in 1..100_000 {
            let rounded = padme_up(length);
            assert!(rounded >= length && (rounded - length) * 100 <= length * 12, "{length} became {rounded}");
            assert_eq!(padme_up(rounded), rounded);
            let down = padme_down(length);
            assert!(down <= length && padme_up(down) == down);
        }
    }

    #[test]
    fn an_empty_segment_and_foreign_roots_are_refused() {
        let policy = Policy::new(2, 4).expect("legal");
        assert_eq!(Geometry::for_payload(policy, 0), Err(SegmentError::Empty));
        let geometry = Geometry::for_payload(policy, 5000).expect("fits");
        let nonce = SegmentNonce::new([1; 32]);
        let roots = [ShardRoot::new([2; 32]); 5];
        assert!(geometry.segment_id(&nonce, &roots[..4]).is_ok());
        assert_eq!(geometry.segment_id(&nonce, &roots), Err(SegmentError::RootCount { expected: 4, found: 5 }));
        let dedup = DedupKey::new([3; 32]);
        assert_eq!(SegmentNonce::derive(&dedup, &geometry, &[]), Err(SegmentError::ChunkCount(0)));
    }

    #[test]
    fn everything_that_makes_a_segment_changes_its_nonce_and_id() {
        let dedup = DedupKey::new([3; 32]);
        let (first, second) = (ChunkId::new([1; 32]), ChunkId::new([2; 32]));
        let geometry = |k, n, payload| Geometry::for_payload(Policy::new(k, n).expect("legal"), payload).expect("fits");
        let nonce = |dedup: &DedupKey, geometry, chunks: &[(ChunkId, u32)]| {
            SegmentNonce::derive(dedup, &geometry, chunks).expect("chunks")
        };
        let one = geometry(2, 4, 5000);
        let nonces = [
            nonce(&dedup, one, &[(first, 0), (second, 9)]),
            nonce(&dedup, one, &[(second, 0), (first, 9)]),
            nonce(&dedup, one, &[(first, 0), (second, 10)]),
            nonce(&dedup, one, &[(first, 0)]),
            nonce(&dedup, geometry(2, 4, 5001), &[(first, 0), (second, 9)]),
            nonce(&dedup, geometry(2, 5, 5000), &[(first, 0), (second, 9)]),
            nonce(&dedup, geometry(1, 4, 5000), &[(first, 0), (second, 9)]),
            nonce(&DedupKey::new([4; 32]), one, &[(first, 0), (second, 9)]),
        ];
        let distinct: std::collections::BTreeSet<_> = nonces.iter().collect();
        assert_eq!(distinct.len(), nonces.len());
        let (a, b) = (ShardRoot::new([5; 32]), ShardRoot::new([6; 32]));
        let ids = [
            one.segment_id(&nonces[0], &[a, a, a, b]),
            one.segment_id(&nonces[0], &[b, a, a, a]),
            one.segment_id(&nonces[1], &[a, a, a, b]),
            geometry(2, 4, 5001).segment_id(&nonces[0], &[a, a, a, b]),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().map(|id| id.expect("four roots")).collect();
        assert_eq!(distinct.len(), ids.len());
    }

    #[test]
    fn padding_depends_on_its_place_only() {
        let mut padding = Padding::new(&DedupKey::new([1; 32]), &SegmentNonce::new([2; 32]));
        let mut whole = [0xee; 500];
        padding.fill(70, &mut whole);
        let mut part = [0xdd; 100];
        padding.fill(300, &mut part);
        assert_eq!(part, whole[230..330]);
        let mut other = [0; 500];
        Padding::new(&DedupKey::new([1; 32]), &SegmentNonce::new([3; 32])).fill(70, &mut other);
        assert_ne!(other, whole);
    }

    proptest! {
        #[test]
        fn a_geometry_holds_its_payload_and_is_the_only_one(policy in policies(), share in 0.0f64..1.0) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let payload = 1 + ((Geometry::capacity(policy) - 1) as f64 * share * share) as usize;
            let geometry = Geometry::for_payload(policy, payload).expect("fits");
            let (k, shard) = (usize::from(policy.k()), geometry.shard_bytes() as usize);
            let step = step(payload);
            prop_assert!(shard.is_multiple_of(step));
            prop_assert!(geometry.data_bytes() as usize >= payload);
            prop_assert!(geometry.data_bytes() as usize <= SEGMENT_MAX_BYTES);
            prop_assert_eq!(geometry.payload_bytes() as usize, payload);
            // Padmé costs 12 % at most, the step less than itself for every shard.
            let ceiling = payload.div_ceil(k) * 112 / 100 + step;
            prop_assert!(shard <= ceiling, "{shard} for {payload} over {k}");
            if payload >= k * 512 * 1024 {
                prop_assert!((shard * k - payload) * 100 <= payload * 13);
            }
            prop_assert_eq!(Geometry::from_parts(policy, geometry.payload_bytes(), geometry.shard_bytes()), Ok(geometry));
            for wrong in [0, geometry.shard_bytes() - 1, geometry.shard_bytes() + 1024, u32::MAX] {
                prop_assert!(Geometry::from_parts(policy, geometry.payload_bytes(), wrong).is_err());
            }
        }

        #[test]
        fn any_parts_parse_without_panic(policy in policies(), payload: u32, shard: u32) {
            if let Ok(geometry) = Geometry::from_parts(policy, payload, shard) {
                prop_assert_eq!((geometry.payload_bytes(), geometry.shard_bytes()), (payload, shard));
            }
        }

        #[test]
        fn small_segments_fill_up_too(policy in policies(), segment in 0usize..3_000_000) {
            let capacity = Geometry::capacity_within(policy, segment);
            prop_assert!(capacity <= segment);
            prop_assert_eq!(capacity == 0, segment < usize::from(policy.k()) * 1024);
            if capacity > 0 {
                prop_assert_eq!(Geometry::for_payload(policy, capacity).expect("fits").data_bytes() as usize, capacity);
            }
        }

        #[test]
        fn pieces_cover_a_range_once_and_in_order(
            policy in policies(), payload in 1usize..2_000_000, from: prop::sample::Index, share: prop::sample::Index,
        ) {
            let geometry = Geometry::for_payload(policy, payload).expect("fits");
            let offset = from.index(geometry.data_bytes() as usize);
            let length = share.index(geometry.data_bytes() as usize - offset + 1);
            let narrow = |value: usize| u32::try_from(value).expect("small");
            let mut at = offset;
            for piece in geometry.pieces(narrow(offset), narrow(length)).expect("inside") {
                prop_assert!(piece.length > 0 && piece.offset + piece.length <= geometry.shard_bytes());
                prop_assert!(piece.shard.to_byte() < policy.k());
                prop_assert_eq!(piece.shard.get() * geometry.shard_bytes() as usize + piece.offset as usize, at);
                at += piece.length as usize;
            }
            prop_assert_eq!(at, offset + length);
            prop_assert!(geometry.pieces(geometry.data_bytes(), 1).is_err());
            prop_assert!(geometry.pieces(u32::MAX, u32::MAX).is_err());
        }
    }
}
