//! Which nodes hold the shards of a segment: a pure choice from candidates, a policy, constraints and a seed.
//!
//! Decides who gets which shard, who stands by, and says what could not be kept to. Never looks for candidates,
//! measures them or talks to them, and never weakens a policy: too few nodes is an error.
//!
//! Hard rules: one shard of a segment a node, allowed regions only. Soft rules, in this order: no operator, no
//! subnet (/24 or /48) and no region holds more than [`crate::policy::Policy::domain_cap`] shards; where that cannot be met the
//! spread is as even as can be and the plan carries a [`Warning`]. Otherwise nodes are drawn at random by weight.

mod choose;
mod domain;
mod draw;
mod keyspace;

use std::collections::{BTreeMap, BTreeSet};

pub use choose::choose;
pub use domain::{Domain, LargestDomains, largest_domains};
pub use keyspace::{head_holders, kad_distance, lookup_key, ranked_head_holders};

use core::net::{IpAddr, SocketAddr};

use crate::ids::{NodeId, OperatorId, ShardIndex};
use crate::region::Region;
use crate::wire::{Accepting, NodeRecord};

/// Standing of a node of which nothing is known.
pub const STANDING_UNKNOWN: u16 = 500;
/// Standing of a node that has always done its duty.
pub const STANDING_FULL: u16 = 1000;

/// Bytes that the claim of free space is believed up to before a node has proven to hold anything.
pub const UNPROVEN_FREE_BYTES: u64 = 64 * crate::limits::GIB;
/// How many times the bytes that a node has proven to hold its claim of free space is believed up to in addition.
pub const PROVEN_FREE_FACTOR: u64 = 4;

/// A node that might be given shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// Who runs it; nodes without one count as run by somebody each.
    pub operator: Option<OperatorId>,
    /// Its addresses of the data plane.
    pub addresses: Vec<IpAddr>,
    /// Where it says that it stands.
    pub region: Option<Region>,
    /// What an auditor believes of it, 0 (never choose it) to [`STANDING_FULL`].
    pub standing: u16,
    /// Free bytes that it claims; with none it is never chosen.
    pub free_bytes: u64,
    /// Bytes that it has proven to hold.
    pub proven_bytes: u64,
}

impl Candidate {
    /// The candidate that a verified record describes; `None` when the node takes no new shards, has no address or
    /// speaks no protocol version of ours.
    #[must_use]
    pub fn from_record(record: &NodeRecord, standing: u16, proven_bytes: u64) -> Option<Self> {
        let fit =
            record.accepting == Accepting::All && record.speaks_our_protocol() && !record.data_addresses.is_empty();
        fit.then(|| Self {
            node: record.node,
            operator: record.operator_id(),
            addresses: record.data_addresses.iter().map(SocketAddr::ip).collect(),
            region: record.region.clone(),
            standing,
            free_bytes: 1u64.checked_shl(record.free_class.into()).unwrap_or(u64::MAX),
            proven_bytes,
        })
    }

    /// Standing times the part of the claimed free space that is believed; not yet capped by the median.
    fn weight(&self) -> u128 {
        let believed = UNPROVEN_FREE_BYTES.saturating_add(self.proven_bytes.saturating_mul(PROVEN_FREE_FACTOR));
        u128::from(self.standing.min(STANDING_FULL)) * u128::from(self.free_bytes.min(believed))
    }
}

/// What a plan has to keep to besides the policy.
#[derive(Debug, Clone, Default)]
pub struct Constraints {
    /// Regions that shards may lie in; none: anywhere, also on nodes that do not say where they stand.
    pub regions: Vec<Region>,
    /// Nodes that are not to be used.
    pub excluded: BTreeSet<NodeId>,
    /// Shards that already lie somewhere and stay there (an upload resumed, a repair); they count in every rule.
    pub fixed: BTreeMap<ShardIndex, NodeId>,
    /// The most nodes to name as standing by.
    pub spares_max: usize,
}

/// Who holds what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The node of each shard, in the order of the shards; no node twice.
    pub assigned: Vec<NodeId>,
    /// Nodes that may take the place of any that fail, best first; none of them is assigned.
    pub spares: Vec<NodeId>,
    /// Soft rules that the candidates do not allow to keep.
    pub warnings: Vec<Warning>,
}

/// A soft rule that could not be kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{domain} holds {shards} shards of a segment, {cap} would be safe")]
pub struct Warning {
    /// The operator, subnet or region.
    pub domain: Domain,
    /// How many shards of the segment it holds.
    pub shards: usize,
    /// How many it should hold at most.
    pub cap: usize,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// Fewer nodes may be used than the policy has shards. The policy stays as it is.
    #[error("{eligible} nodes may be used and the policy spreads over {needed}")]
    TooFewNodes {
        /// Nodes that may be used, fixed ones included.
        eligible: usize,
        /// Shards of the policy.
        needed: usize,
    },
    /// The caller's fixed shards are not of this policy or put two shards on one node.
    #[error("shard {shard} cannot be fixed where the constraints fix it")]
    Fixed {
        /// The shard at fault.
        shard: ShardIndex,
    },
}
