//! One score: a beta model with forgetting, in whole numbers.
//!
//! Decides how observations are weighed and forgotten. Never decides what is observed or what follows from it.

/// Millionths in one observation.
pub(super) const MICRO: u64 = 1_000_000;

/// The constants of one score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScoreRule {
    /// How many observations are remembered: each forgets one part in so many of all before (lambda is `1 - 1/memory`).
    pub memory: u64,
    /// Above this remembered weight of bad observations, in millionths of one, a node is suspect.
    pub suspect_above_micro: u64,
    /// Above this remembered weight of bad observations, in millionths of one, a node is bad.
    pub bad_above_micro: u64,
}

impl ScoreRule {
    /// The largest weight that a score can have.
    pub(super) const fn most_micro(self) -> u64 {
        self.memory * MICRO
    }
}

/// The remembered weight of bad observations.
///
/// In the words of the beta model this is beta; alpha is what is left of `memory`, since a new node starts with alpha = memory (it is
/// believed until there is a reason not to) and every observation forgets as much as it adds. So one number is the whole score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Score {
    bad_micro: u64,
}

impl Score {
    pub(super) const fn from_bad_micro(bad_micro: u64) -> Self {
        Self { bad_micro }
    }

    /// The remembered weight of bad observations in millionths of one.
    #[must_use]
    pub const fn bad_micro(self) -> u64 {
        self.bad_micro
    }

    /// The mean of the beta distribution, alpha / (alpha + beta), in thousandths, rounded down.
    #[must_use]
    pub fn per_mille(self, rule: ScoreRule) -> u16 {
        let good = rule.most_micro().saturating_sub(self.bad_micro);
        u16::try_from(good * 1000 / rule.most_micro().max(1)).unwrap_or(1000)
    }

    /// Adds observations, the good ones first, so that what an audit found counts in full.
    pub(super) fn observe(&mut self, rule: ScoreRule, good: u32, bad: u32) {
        (0..good).for_each(|_| self.forget(rule));
        for _ in 0..bad {
            self.forget(rule);
            self.bad_micro = (self.bad_micro + MICRO).min(rule.most_micro());
        }
    }

    /// Rounded up, so that everything is forgotten in the end.
    fn forget(&mut self, rule: ScoreRule) {
        self.bad_micro -= self.bad_micro.div_ceil(rule.memory.max(1)).min(self.bad_micro);
    }

    pub(super) const fn is_suspect(self, rule: ScoreRule) -> bool {
        self.bad_micro > rule.suspect_above_micro
    }

    pub(super) const fn is_bad(self, rule: ScoreRule) -> bool {
        self.bad_micro > rule.bad_above_micro
    }
}
