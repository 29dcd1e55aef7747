//! How a segment is spread: `k` data shards of `n` shards in all.
//!
//! Decides which codes are legal. Never decides which nodes hold the shards: see [`crate::placement`](crate).

use core::fmt;
use core::str::FromStr;

use crate::limits::SHARDS_MAX;

/// Why two numbers are not a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// `k` is zero, `n` is less than `k`, or `n` is over the limit.
    #[error("a policy k/n needs 1 <= k <= n <= {SHARDS_MAX}, this one is {k}/{n}")]
    Numbers {
        /// Data shards asked for.
        k: u8,
        /// Shards in all asked for.
        n: u8,
    },
    /// The text is not two numbers with a slash between.
    #[error("a policy is written k/n, such as 7/16")]
    Text,
}

/// `k` data shards of `n` in all: any `k` rebuild a segment, `n - k` may be lost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Policy {
    k: u8,
    n: u8,
}

impl Policy {
    /// A policy of `k` data shards and `n` shards in all.
    ///
    /// # Errors
    /// When not `1 <= k <= n <= SHARDS_MAX`.
    pub fn new(k: u8, n: u8) -> Result<Self, PolicyError> {
        if k == 0 || n < k || usize::from(n) > SHARDS_MAX {
            return Err(PolicyError::Numbers { k, n });
        }
        Ok(Self { k, n })
    }

    /// Data shards.
    #[must_use]
    pub const fn k(self) -> u8 {
        self.k
    }

    /// Shards in all.
    #[must_use]
    pub const fn n(self) -> u8 {
        self.n
    }

    /// Parity shards.
    #[must_use]
    pub const fn m(self) -> u8 {
        self.n - self.k
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.k, self.n)
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let (k, n) = text.split_once('/').ok_or(PolicyError::Text)?;
        let number = |part: &str| part.parse().map_err(|_| PolicyError::Text);
        Self::new(number(k)?, number(n)?)
    }
}
