//! Durability: how likely a segment is lost, from a stated model, by arithmetic and by chance.
//!
//! Decides the model and its two answers. Never says what a real network's rates are: they are passed in.
//!
//! The model, for one segment of `n` shards of which any `k` rebuild it:
//! - a shard is lost for good when its node fails, and nodes fail independently at a constant rate;
//! - shards are spread over operators, and over regions, as evenly as can be; each operator and each region fails as a whole at a constant
//!   rate, and strikes as many shards of the segment, chosen at random, as its share is (which shards it had depends on repairs before);
//! - once [`repair::trigger`] shards are lost, a repair brings all back after a time that is exponentially distributed with the given mean,
//!   the time until the loss is noticed included;
//! - the segment is lost when more than `n - k` shards are.

mod chain;
mod chance;
#[cfg(test)]
mod tests;

pub use chance::MonteCarlo;

use crate::policy::Policy;
use crate::repair;

/// Hours in a year.
const HOURS_PER_YEAR: f64 = 8766.0;
/// Highest rate of failures of one thing a year, and highest number of years.
const RATE_MAX: f64 = 1000.0;
/// Shortest and longest mean repair, in hours.
const REPAIR_HOURS: (f64, f64) = (0.01, 1_000_000.0);
/// Most trials of one run.
pub const TRIALS_MAX: u64 = 100_000_000;
/// Most operators or regions.
pub const DOMAINS_MAX: u32 = 100_000;

/// Things that fail as a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shocks {
    /// How many operators or regions the shards are spread over, at most [`DOMAINS_MAX`]; 0 for none.
    pub domains: u32,
    /// How often each fails as a whole, a year.
    pub failures_per_year: f64,
}

impl Shocks {
    /// None ever.
    pub const NONE: Self = Self { domains: 0, failures_per_year: 0.0 };

    /// The shards that each domain with any has: loads, with how many domains have each.
    fn loads(self, shards: u8) -> [(u32, u32); 2] {
        let shards = u32::from(shards);
        match self.domains {
            0 => [(0, 0); 2],
            domains => [(shards / domains + 1, shards % domains), (shards / domains, domains - shards % domains)],
        }
    }

    /// Those loads that do harm, each with the rate of all its domains together.
    fn strikes(self, shards: u8) -> impl Iterator<Item = (u32, f64)> {
        let rate = self.failures_per_year;
        self.loads(shards)
            .into_iter()
            .filter(|(load, domains)| *load > 0 && *domains > 0)
            .map(move |(load, domains)| (load, f64::from(domains) * rate))
    }
}

/// Why numbers are no model.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum DurabilityError {
    /// A rate is negative, not a number, or over the limit.
    #[error("{what} must be from 0 to {RATE_MAX} a year, not {found}")]
    Rate {
        /// Which rate.
        what: &'static str,
        /// What was given.
        found: f64,
    },
    /// The time of repair is out of range.
    #[error("repairs take from {low} to {high} hours, not {0}", low = REPAIR_HOURS.0, high = REPAIR_HOURS.1)]
    RepairHours(f64),
    /// Too many operators or regions.
    #[error("{0} operators or regions are more than {DOMAINS_MAX}")]
    Domains(u32),
    /// The time is nothing, not a number, or over the limit.
    #[error("the time must be more than 0 and at most {RATE_MAX} years, not {0}")]
    Years(f64),
    /// No trials, or more than the limit.
    #[error("the number of trials must be from 1 to {TRIALS_MAX}, not {0}")]
    Trials(u64),
}

/// The model with its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Model {
    policy: Policy,
    node_failures_per_year: f64,
    repairs_per_year: f64,
    operators: Shocks,
    regions: Shocks,
}

impl Model {
    /// A model; `repair_hours` is the mean from the loss that makes a repair due to its end.
    ///
    /// # Errors
    /// [`DurabilityError`] when a number is out of range.
    pub fn new(
        policy: Policy,
        node_failures_per_year: f64,
        repair_hours: f64,
        operators: Shocks,
        regions: Shocks,
    ) -> Result<Self, DurabilityError> {
        let rates = [
            ("node failures", node_failures_per_year),
            ("operator failures", operators.failures_per_year),
            ("region failures", regions.failures_per_year),
        ];
        for (what, found) in rates {
            if !(0.0..=RATE_MAX).contains(&found) {
                return Err(DurabilityError::Rate { what, found });
            }
        }
        if !(REPAIR_HOURS.0..=REPAIR_HOURS.1).contains(&repair_hours) {
            return Err(DurabilityError::RepairHours(repair_hours));
        }
        for shocks in [operators, regions] {
            if shocks.domains > DOMAINS_MAX {
                return Err(DurabilityError::Domains(shocks.domains));
            }
        }
        let repairs_per_year = HOURS_PER_YEAR / repair_hours;
        Ok(Self { policy, node_failures_per_year, repairs_per_year, operators, regions })
    }

    /// The same without operators and regions that fail as a whole.
    #[must_use]
    pub const fn independent(self) -> Self {
        Self { operators: Shocks::NONE, regions: Shocks::NONE, ..self }
    }

    /// The same without regions that fail as a whole.
    #[must_use]
    pub const fn without_regions(self) -> Self {
        Self { regions: Shocks::NONE, ..self }
    }

    fn strikes(&self) -> impl Iterator<Item = (u32, f64)> {
        self.operators.strikes(self.policy.n()).chain(self.regions.strikes(self.policy.n()))
    }

    fn trigger(&self) -> usize {
        usize::from(repair::trigger(self.policy))
    }

    fn check_years(years: f64) -> Result<(), DurabilityError> {
        if years > 0.0 && years <= RATE_MAX { Ok(()) } else { Err(DurabilityError::Years(years)) }
    }

    /// The probability that a segment, whole at first, is lost within so many years. Exact for the model, up to rounding in the last digits.
    ///
    /// # Errors
    /// [`DurabilityError::Years`].
    pub fn loss_probability(&self, years: f64) -> Result<f64, DurabilityError> {
        Self::check_years(years)?;
        Ok(chain::loss_probability(self, years))
    }

    /// Plays the model so many times for so many years, with chance from a seed.
    ///
    /// # Errors
    /// [`DurabilityError::Years`], [`DurabilityError::Trials`].
    pub fn play(&self, years: f64, trials: u64, seed: u64) -> Result<MonteCarlo, DurabilityError> {
        Self::check_years(years)?;
        if trials == 0 || trials > TRIALS_MAX {
            return Err(DurabilityError::Trials(trials));
        }
        Ok(chance::play(self, years, trials, seed))
    }
}

/// The nines of a probability of loss: 0.001 has three; infinite when nothing can be lost.
#[must_use]
pub fn nines(loss_probability: f64) -> f64 {
    if loss_probability >= 1.0 { 0.0 } else { -loss_probability.log10() }
}

/// The probability that any of so many segments is lost, at most: what strikes one segment may strike others with it.
#[must_use]
pub fn of_many(loss_probability: f64, segments: f64) -> f64 {
    // Without ln_1p and exp_m1 all that is below 1e-16 would be 0.
    -(segments * (-loss_probability).ln_1p()).exp_m1()
}
