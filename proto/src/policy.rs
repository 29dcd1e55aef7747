//! How a segment is spread: `k` data shards of `n` shards in all.
//!
//! Decides which codes are legal, which one a network of some size gets, and how many shards must be held before an
//! upload counts. Never decides which nodes hold the shards: see [`crate::placement`].

use core::fmt;
use core::str::FromStr;

use crate::limits::{DOCUMENT_SHARDS_MAX, SHARDS_MAX};

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
    /// `auto` does not choose for a network of a single node, let alone none.
    #[error("{eligible} eligible nodes are too few to keep anything safe: two are the least, or say --policy 1/1")]
    TooFewNodes {
        /// Nodes that may be given shards.
        eligible: usize,
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

    /// Parity shards: how many may be lost.
    #[must_use]
    pub const fn m(self) -> u8 {
        self.n - self.k
    }

    /// The policy of a new dataset on a network in which `eligible_nodes` may be given shards.
    ///
    /// Called once a dataset, after sampling has stopped finding new nodes; what was chosen stays with the dataset,
    /// so that a later upload which sees fewer nodes fails instead of weakening it.
    ///
    /// # Errors
    /// [`PolicyError::TooFewNodes`] below two.
    pub fn auto(eligible_nodes: usize) -> Result<Self, PolicyError> {
        let (k, n) = match eligible_nodes {
            0 | 1 => return Err(PolicyError::TooFewNodes { eligible: eligible_nodes }),
            2..=3 => (1, 2),
            4 => (2, 3),
            5..=6 => (2, 4),
            7 => (2, 5),
            8..=9 => (3, 6),
            10..=12 => (4, 8),
            13..=15 => (4, 10),
            16..=19 => (5, 12),
            20..=29 => (7, 16),
            30..=35 => (8, 20),
            36..=47 => (10, 24),
            48..=59 => (13, 32),
            _ => (16, 40),
        };
        Self::new(k, n)
    }

    /// The policy of a dataset's documents: heads, tables and manifests.
    ///
    /// Documents are small and everything hangs on them, so a third of the data shards carries them where that is
    /// possible. `n` is at most [`DOCUMENT_SHARDS_MAX`], because a head names all nodes of a document segment
    /// inline. Cutting `n` alone could leave a smaller share of shards that may be lost than the content has
    /// (60/64 would become 20/20), so `k` is lowered until `n/k` is no less than the content's; only below 1/20
    /// there is nothing left to lower.
    #[must_use]
    pub fn document_policy(self) -> Self {
        let most = u8::try_from(DOCUMENT_SHARDS_MAX).unwrap_or(u8::MAX);
        let n = self.n.min(most);
        let no_less_redundant = u16::from(n) * u16::from(self.k) / u16::from(self.n);
        let k = u16::from(self.k.div_ceil(3)).min(no_less_redundant).max(1);
        Self { k: u8::try_from(k).unwrap_or(1), n }
    }

    /// How many shards must be held durably before an upload may be reported as done, though degraded.
    #[must_use]
    pub const fn degraded_floor(self) -> u8 {
        self.k + self.m().div_ceil(2)
    }

    /// The most shards of one segment that one operator, subnet or region should hold: half of what may be lost.
    #[must_use]
    pub const fn domain_cap(self) -> u8 {
        if self.m() < 2 { 1 } else { self.m() / 2 }
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
        let number = |part: &str| {
            // `parse` alone would take "+7".
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse().ok().filter(|_| digits).ok_or(PolicyError::Text)
        };
        Self::new(number(k)?, number(n)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies() -> impl Iterator<Item = Policy> {
        (1..=64).flat_map(|n| (1..=n).filter_map(move |k| Policy::new(k, n).ok()))
    }

    #[test]
    fn text_round_trips_and_other_text_is_refused() {
        for policy in policies() {
            assert_eq!(policy.to_string().parse(), Ok(policy));
        }
        for text in ["", "/", "7", "7/", "/16", "7/16/2", "+7/16", " 7/16", "7-16", "300/400"] {
            assert_eq!(text.parse::<Policy>(), Err(PolicyError::Text), "{text:?}");
        }
        assert_eq!("0/3".parse::<Policy>(), Err(PolicyError::Numbers { k: 0, n: 3 }));
        assert_eq!("4/3".parse::<Policy>(), Err(PolicyError::Numbers { k: 4, n: 3 }));
        assert_eq!("4/65".parse::<Policy>(), Err(PolicyError::Numbers { k: 4, n: 65 }));
    }

    #[test]
    fn auto_fits_the_network_and_spreads_wider_in_a_larger_one() {
        assert_eq!(Policy::auto(1), Err(PolicyError::TooFewNodes { eligible: 1 }));
        let mut before = 0;
        for nodes in 2..200 {
            let policy = Policy::auto(nodes).expect("two nodes are enough");
            assert!(usize::from(policy.n()) <= nodes, "{policy} for {nodes} nodes");
            assert!(policy.n() >= before, "{policy} spreads wider than with fewer nodes");
            before = policy.n();
        }
        assert_eq!(Policy::auto(20).map(|policy| policy.to_string()).as_deref(), Ok("7/16"));
        assert_eq!(Policy::auto(60).map(|policy| policy.to_string()).as_deref(), Ok("16/40"));
    }

    #[test]
    fn documents_are_never_less_redundant_than_content_and_fit_a_head() {
        for policy in policies() {
            let documents = policy.document_policy();
            assert!(usize::from(documents.n()) <= DOCUMENT_SHARDS_MAX);
            let (k, n) = (u32::from(policy.k()), u32::from(policy.n()));
            let (document_k, document_n) = (u32::from(documents.k()), u32::from(documents.n()));
            assert!(document_n * k >= n * document_k || document_k == 1, "{policy} has documents {documents}");
        }
        let of = |text: &str| text.parse::<Policy>().map(|policy| policy.document_policy().to_string());
        assert_eq!(of("7/16").as_deref(), Ok("3/16"));
        assert_eq!(of("16/40").as_deref(), Ok("6/20"));
        assert_eq!(of("60/64").as_deref(), Ok("18/20"));
        assert_eq!(of("1/1").as_deref(), Ok("1/1"));
    }

    #[test]
    fn the_floor_of_a_degraded_upload_lies_between_k_and_n() {
        for policy in policies() {
            assert!(policy.degraded_floor() >= policy.k() && policy.degraded_floor() <= policy.n());
            assert!(policy.m() == 0 || policy.degraded_floor() > policy.k(), "{policy} may lose one even degraded");
        }
    }
}
