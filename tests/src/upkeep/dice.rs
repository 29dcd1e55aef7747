//! Chance from a seed, fast enough for millions of draws: splitmix64.

/// A stream of numbers.
#[derive(Debug, Clone)]
pub struct Dice(u64);

/// Scatters the bits of a number.
#[must_use]
pub const fn scatter(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Whether what is named by these numbers is among a share of all such things.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "a share of 2^64")]
pub fn is_among(share: f64, names: [u64; 3]) -> bool {
    let mixed = names.iter().fold(0, |mixed, name| scatter(mixed ^ name));
    (mixed as f64) < share * 18_446_744_073_709_551_616.0
}

impl Dice {
    /// The stream of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scatter(self.0)
    }

    /// Below a bound; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.bits()) * (bound as u128);
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// At least 0 and below 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit exactly")]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Whether something of this probability happens.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }
}
