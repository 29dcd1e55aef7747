//! Repair: what is to be done for each segment, given what is known of its shards, and in which order.
//!
//! Decides trigger, hard floor and target from the policy; what is copied, what is rebuilt and from where; who of several stewards
//! begins; what waits ([`RepairQueue`]). Never fetches, decodes or places a byte, and never decides whether a node is to be believed.
//!
//! For `k` data shards of `n = k + m`:
//! - *target* `n`: who has fetched `k` shards to rebuild one rebuilds all that are missing;
//! - *trigger* `ceil(m/3)` shards lost: a rebuild then costs about three times what it brings back, and together with a whole domain
//!   ([`Policy::domain_cap`], `m/2`) that fails before it is done, a sixth of `m` is still left;
//! - *hard floor* `k + floor(m/4)` shards that are certain: from there on silence counts as loss at once, and the segment goes first.

mod plan;
mod queue;
mod turn;

use core::time::Duration;

pub use plan::{Plan, Rebuild, ShardCopy, place, plan, plan_all, still_wanted};
pub use queue::{Budget, QueueError, REPAIR_QUEUE_MAX, RepairQueue};
pub use turn::turn_delay;

use crate::ids::{NodeId, SegmentId, ShardIndex, Timestamp};
use crate::policy::Policy;
use crate::standing::SILENCE_GRACE;

/// Most nodes that may be named for one shard: the base table's and one for every steward.
pub const HOLDERS_PER_SHARD_MAX: usize = 1 + crate::limits::TABLE_STEWARDS_MAX;
/// A lease that ends sooner than this although it was to be renewed is one that its node wants to be rid of.
pub const LEASE_ENDING: Duration = Duration::from_secs(30 * 86_400);

/// What is known of a shard at one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// The node answered lately and has not failed for this shard.
    Alive,
    /// The node is suspect for something else than silence.
    Suspect,
    /// The node has not answered since then.
    Silent {
        /// The first time that it did not.
        since: Timestamp,
    },
    /// The node says that it leaves; it still serves.
    Leaving,
    /// The node's standing is bad; it may still serve.
    BadStanding,
    /// The node does not hold the shard: it said so, proved wrong bytes for it, or its receipt has expired.
    Lost,
}

/// A shard at a node, as a base table or an overlay names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The node.
    pub node: NodeId,
    /// What is known of it.
    pub condition: Condition,
    /// Until when its newest receipt promises to keep the shard, after renewal was tried.
    pub lease_until: Timestamp,
}

/// A segment with all that is known of where its shards are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentState {
    /// Its id.
    pub segment: SegmentId,
    /// Its code.
    pub policy: Policy,
    /// Bytes of one of its shards.
    pub shard_bytes: u32,
    /// Whether it holds documents: of segments in equal danger they go first.
    pub documents: bool,
    /// The nodes of each shard, in the order of the shards; for a shard that was never placed none. The base table's comes first, then
    /// those of overlays in the order in which the base names their stewards: of nodes equally good the first counts, for everybody.
    pub shards: Vec<Vec<Holder>>,
}

/// Why nothing can be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepairError {
    /// The shards are not as many as the code has: the caller's mistake.
    #[error("{found} shards are described and the code has {n}")]
    ShardCount {
        /// Shards described.
        found: usize,
        /// Shards of the code.
        n: usize,
    },
    /// More nodes are named for a shard than documents can name.
    #[error("{found} nodes are named for shard {index}, at most {HOLDERS_PER_SHARD_MAX} can be")]
    Holders {
        /// The shard.
        index: ShardIndex,
        /// Nodes named.
        found: usize,
    },
    /// Fewer than k shards can be read at present. If silent nodes come back the segment can be repaired, else it is gone.
    #[error("{reachable} shards can be read and {k} are needed, {silent} nodes are silent")]
    TooFewSources {
        /// Shards that can be read.
        reachable: usize,
        /// Shards that are needed.
        k: usize,
        /// Shards at nodes that do not answer.
        silent: usize,
    },
    /// No node may be given a shard: all candidates hold one already or are excluded.
    #[error("no node is left to place a shard on")]
    NoNode,
    /// The placement of what is left was refused.
    #[error(transparent)]
    Placement(#[from] crate::placement::PlacementError),
}

/// Shards lost at which a segment is rebuilt: a third of what may be lost, rounded up. At least one.
#[must_use]
pub const fn trigger(policy: Policy) -> u8 {
    let third = policy.m().div_ceil(3);
    if third == 0 { 1 } else { third }
}

/// Shards that are certain at which silence counts as loss: `k` and a quarter of what may be lost.
#[must_use]
pub const fn hard_floor(policy: Policy) -> u8 {
    policy.k() + policy.m() / 4
}

/// Shards that a repair aims at: all.
#[must_use]
pub const fn target(policy: Policy) -> u8 {
    policy.n()
}

/// How urgent a repair is. The order is that in which repairs are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// At or below the hard floor.
    Floor {
        /// How many more shards may be lost.
        margin: u8,
        /// `u8::MAX` less the shards that are left: of two with one margin the wider loses its next shard sooner.
        narrowness: u8,
    },
    /// At or beyond the trigger.
    Triggered {
        /// How many more shards may be lost.
        margin: u8,
        /// As above.
        narrowness: u8,
    },
    /// Nothing is lost, but shards lie on nodes of bad standing.
    Move,
    /// Nothing is lost, but nodes leave or leases end.
    Leave,
}

/// How a shard counts, by the best of its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Count {
    Sound,
    Suspect,
    /// Leaving, bad standing, lease ending, or on a node that holds another shard of the segment.
    Going {
        bad: bool,
    },
    /// Silent within the grace.
    Waiting,
    Lost,
}

fn count(holder: &Holder, now: Timestamp) -> Count {
    if holder.lease_until <= now {
        return Count::Lost;
    }
    match holder.condition {
        Condition::Lost => Count::Lost,
        Condition::Silent { since } if now >= since.after(SILENCE_GRACE) => Count::Lost,
        Condition::Silent { .. } => Count::Waiting,
        Condition::BadStanding => Count::Going { bad: true },
        Condition::Leaving => Count::Going { bad: false },
        condition if holder.lease_until <= now.after(LEASE_ENDING) => {
            Count::Going { bad: condition == Condition::Suspect }
        }
        Condition::Suspect => Count::Suspect,
        Condition::Alive => Count::Sound,
    }
}

#[cfg(test)]
mod tests;
