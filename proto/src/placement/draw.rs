//! Drawing at random from a seed: the same seed and label give the same draws on every machine.

use blake3::{Hasher, OutputReader};

/// A stream of draws.
pub(super) struct Draw(OutputReader);

impl Draw {
    /// The draws of one purpose, numbered.
    pub(super) fn new(seed: &[u8; 32], purpose: &str, number: u64) -> Self {
        let mut hasher = Hasher::new_keyed(seed);
        hasher.update(b"dolmen placement v1 ").update(purpose.as_bytes()).update(&[0]).update(&number.to_le_bytes());
        Self(hasher.finalize_xof())
    }

    /// A number below `bound`, every one equally likely; 0 for a bound of 0.
    fn below(&mut self, bound: u128) -> u128 {
        // Numbers at or above the largest multiple of the bound would make small results likelier. At least half
        // of all numbers lie below it, so this ends, and a stream that never does has probability zero.
        let Some(excess) = u128::MAX.checked_rem(bound) else { return 0 };
        let limit = u128::MAX - excess;
        loop {
            let mut bytes = [0; 16];
            self.0.fill(&mut bytes);
            let number = u128::from_le_bytes(bytes);
            if number < limit {
                return number % bound;
            }
        }
    }

    /// A position drawn by weight; `None` when there is nothing of any weight.
    pub(super) fn weighted(&mut self, weights: impl Iterator<Item = u128> + Clone) -> Option<usize> {
        let total = weights.clone().fold(0u128, u128::saturating_add);
        if total == 0 {
            return None;
        }
        let mut rest = self.below(total);
        weights.into_iter().position(|weight| {
            let found = rest < weight;
            rest = rest.saturating_sub(weight);
            found
        })
    }
}

/// A number for a node that orders nodes differently for every seed.
pub(super) fn rank(seed: &[u8; 32], bytes: &[u8; 32]) -> [u8; 32] {
    *Hasher::new_keyed(seed).update(b"dolmen placement order v1\0").update(bytes).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_weights_and_the_seed() {
        let weights = [0u128, 1, 3, 0];
        let mut counts = [0u32; 4];
        let mut draw = Draw::new(&[1; 32], "test", 0);
        for _ in 0..4000 {
            counts[draw.weighted(weights.iter().copied()).expect("there is weight")] += 1;
        }
        assert_eq!((counts[0], counts[3]), (0, 0));
        assert!((900..1100).contains(&counts[1]), "{counts:?}");
        let first = |number| Draw::new(&[1; 32], "test", number).below(1 << 100);
        assert_eq!(first(0), first(0));
        assert_ne!(first(0), first(1));
        assert_eq!(draw.weighted([0u128, 0].into_iter()), None);
    }
}
