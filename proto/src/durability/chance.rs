//! The model played out: shards by name, events in continuous time, chance from a seed.

use blake3::OutputReader;

use super::Model;

/// What came of playing the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MonteCarlo {
    /// How often it was played.
    pub trials: u64,
    /// How often the segment was lost.
    pub losses: u64,
    /// Repairs done.
    pub repairs: u64,
    /// Shards brought back by them.
    pub rebuilt_shards: u64,
    /// Shards fetched for them.
    pub fetched_shards: u64,
}

impl MonteCarlo {
    /// The share of losses.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts below 2^53")]
    pub fn loss_probability(&self) -> f64 {
        self.losses as f64 / (self.trials as f64).max(1.0)
    }

    /// The interval that holds the true probability in 95 of 100 runs (Wilson's).
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts below 2^53")]
    pub fn interval_95(&self) -> (f64, f64) {
        let (z, trials, share) = (1.96, (self.trials as f64).max(1.0), self.loss_probability());
        let middle = share + z * z / (2.0 * trials);
        let half = z * (share * (1.0 - share) / trials + z * z / (4.0 * trials * trials)).sqrt();
        let scale = 1.0 + z * z / trials;
        let low = if self.losses == 0 { 0.0 } else { (middle - half) / scale };
        (low.max(0.0), ((middle + half) / scale).min(1.0))
    }

    /// Bytes moved for every byte brought back; `None` when nothing was.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts below 2^53")]
    pub fn traffic_per_rebuilt_byte(&self) -> Option<f64> {
        (self.rebuilt_shards > 0)
            .then(|| (self.fetched_shards + self.rebuilt_shards) as f64 / self.rebuilt_shards as f64)
    }
}

/// Chance from a seed: the same on every machine.
struct Dice(OutputReader);

impl Dice {
    fn new(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"dolmen durability v1\0").update(&seed.to_le_bytes());
        Self(hasher.finalize_xof())
    }

    fn bits(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// More than 0 and at most 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit exactly")]
    fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Below a bound of at most 64; the bias is under one part in 2^58.
    fn below(&mut self, bound: u32) -> u32 {
        let wide = u128::from(self.bits()) * u128::from(bound);
        u32::try_from(wide >> 64).unwrap_or(0)
    }
}

/// One that is set in `set`, chosen at random.
fn any_of(set: u64, dice: &mut Dice) -> u64 {
    let mut rest = set;
    for _ in 0..dice.below(set.count_ones()) {
        rest &= rest - 1;
    }
    rest & rest.wrapping_neg()
}

pub(super) fn play(model: &Model, years: f64, trials: u64, seed: u64) -> MonteCarlo {
    let mut dice = Dice::new(seed);
    let mut result = MonteCarlo { trials, ..MonteCarlo::default() };
    (0..trials).for_each(|_| play_once(model, years, &mut dice, &mut result));
    result
}

fn play_once(model: &Model, years: f64, dice: &mut Dice, result: &mut MonteCarlo) {
    let n = u32::from(model.policy.n());
    let all = u64::MAX >> (64 - n);
    let strikes_rate: f64 = model.strikes().map(|(_, rate)| rate).sum();
    let (mut living, mut time) = (all, 0.0);
    loop {
        let left = living.count_ones();
        let lost = n - left;
        let fails = f64::from(left) * model.node_failures_per_year;
        let due = usize::try_from(lost).unwrap_or(0) >= model.trigger();
        let repairs = if due { model.repairs_per_year } else { 0.0 };
        let rate = fails + strikes_rate + repairs;
        if rate <= 0.0 {
            return;
        }
        time -= dice.unit().ln() / rate;
        if time > years {
            return;
        }
        let mut which = dice.unit() * rate;
        if which <= repairs {
            result.repairs += 1;
            result.rebuilt_shards += u64::from(lost);
            result.fetched_shards += u64::from(model.policy.k());
            living = all;
            continue;
        }
        which -= repairs;
        if which <= fails {
            living &= !any_of(living, dice);
        } else {
            which -= fails;
            let mut load = 0;
            for (this, rate) in model.strikes() {
                load = this;
                if which <= rate {
                    break;
                }
                which -= rate;
            }
            let mut open = all;
            for _ in 0..load {
                open &= !any_of(open, dice);
            }
            living &= open;
        }
        if living.count_ones() < u32::from(model.policy.k()) {
            result.losses += 1;
            return;
        }
    }
}
