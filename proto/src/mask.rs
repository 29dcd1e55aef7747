//! The keystream over parity shards, without which a node could rebuild a shard that it threw away from its neighbours.
//!
//! Decides the masks: deterministic, by segment and shard, never rotated, so that repair reproduces the old root.
//! Data shards are never masked. Knows nothing of coding ([`crate::erasure`]) or of who may hold the mask secret.

use core::fmt;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};

use crate::ids::ShardIndex;
use crate::keys::{MaskKey, MaskSecret};
use crate::policy::Policy;
use crate::segment::SegmentNonce;

/// The masks of one segment.
#[derive(Clone)]
pub struct Mask {
    key: MaskKey,
    policy: Policy,
}

impl Mask {
    /// The masks of the segment with this nonce and policy.
    #[must_use]
    pub fn new(secret: &MaskSecret, nonce: &SegmentNonce, policy: Policy) -> Self {
        Self::of_key(MaskKey::derive(secret, nonce), policy)
    }

    /// The masks of the segment that has this mask key and policy.
    #[must_use]
    pub const fn of_key(key: MaskKey, policy: Policy) -> Self {
        Self { key, policy }
    }

    /// Masks or unmasks `bytes`, which start at byte `offset` of `shard`; twice is nothing. Data shards stay as they are.
    pub fn apply(&self, shard: ShardIndex, offset: u32, bytes: &mut [u8]) {
        if shard.to_byte() < self.policy.k() {
            return;
        }
        let mut nonce = [0; 12];
        nonce[0] = shard.to_byte();
        let mut cipher = ChaCha20::new(self.key.expose().into(), &nonce.into());
        cipher.seek(offset);
        cipher.apply_keystream(bytes);
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Mask(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mask(secret: u8, nonce: u8) -> Mask {
        let policy = Policy::new(3, 8).expect("legal");
        Mask::new(&MaskSecret::new([secret; 32]), &SegmentNonce::new([nonce; 32]), policy)
    }

    #[test]
    fn data_shards_are_not_masked_and_every_parity_shard_differs() {
        let mut seen = std::collections::BTreeSet::new();
        for (secret, nonce) in [(1, 1), (1, 2), (2, 1)] {
            for index in 0..8 {
                let mut bytes = [0; 64];
                mask(secret, nonce).apply(ShardIndex::new(index), 0, &mut bytes);
                assert_eq!(bytes == [0; 64], index < 3);
                assert!(seen.insert(bytes) || index < 3, "two masks are equal");
            }
        }
    }

    proptest! {
        #[test]
        fn a_mask_is_its_own_inverse_and_can_start_anywhere(
            index in 3u8..8, offset in 0u32..1_000_000, bytes in prop::collection::vec(any::<u8>(), 1..3000), cut in 0usize..3000,
        ) {
            let mask = mask(1, 2);
            let index = ShardIndex::new(index);
            let mut whole = bytes.clone();
            mask.apply(index, offset, &mut whole);
            let cut = cut % bytes.len();
            let mut parts = bytes.clone();
            mask.apply(index, offset, &mut parts[..cut]);
            mask.apply(index, offset + u32::try_from(cut).expect("short"), &mut parts[cut..]);
            prop_assert_eq!(&whole, &parts);
            mask.apply(index, offset, &mut whole);
            prop_assert_eq!(whole, bytes);
        }
    }
}
