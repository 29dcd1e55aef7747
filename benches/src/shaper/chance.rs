//! Random numbers from a seed, so that a run can be repeated.
//!
//! Decides nothing; never used for anything secret.

/// A stream of even random numbers (splitmix64), the same for the same seed.
#[derive(Debug, Clone)]
pub struct Chance {
    state: u64,
}

impl Chance {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number, at least 0 and less than 1.
    pub fn fraction(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        // The 53 bits that a float holds exactly.
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with this probability; 0 and 1 draw no number.
    pub fn happens(&mut self, probability: f64) -> bool {
        probability >= 1.0 || (probability > 0.0 && self.fraction() < probability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_even_and_repeatable() {
        let mut chance = Chance::new(7);
        let drawn: Vec<f64> = (0..100_000).map(|_| chance.fraction()).collect();
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        // The mean's standard deviation is 0.29 / sqrt(100,000) = 0.0009.
        assert!((mean - 0.5).abs() < 0.005, "mean {mean}");
        assert!(drawn.iter().all(|fraction| (0.0..1.0).contains(fraction)));
        let mut again = Chance::new(7);
        assert!(drawn.iter().all(|fraction| *fraction == again.fraction()));
    }

    #[test]
    fn never_and_always_are_exact() {
        let mut chance = Chance::new(1);
        assert!((0..1000).all(|_| !chance.happens(0.0) && chance.happens(1.0)));
    }
}
