//! The plan of one segment: which shards are copied, which are rebuilt from which, and where they may go.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Condition, Count, HOLDERS_PER_SHARD_MAX, Holder, RepairError, SegmentState, Urgency, count, hard_floor, target,
    trigger,
};
use crate::ids::{NodeId, SegmentId, ShardIndex, Timestamp};
use crate::placement::{Candidate, Constraints, PlacementError, choose};
use crate::policy::Policy;
use crate::region::Region;

/// A shard to be copied as it is from a node that still has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardCopy {
    /// The shard.
    pub index: ShardIndex,
    /// Where it still lies. If it cannot be read there, it is lost and the segment is planned again.
    pub from: NodeId,
}

/// Shards to be rebuilt from `k` others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuild {
    /// The shards to rebuild and place.
    pub wanted: Vec<ShardIndex>,
    /// Where shards can be read, the best first; at least `k`. What cannot be read or has not its root is passed over.
    pub sources: Vec<(ShardIndex, NodeId)>,
}

/// What to do for one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The segment.
    pub segment: SegmentId,
    /// Its code.
    pub policy: Policy,
    /// Bytes of one of its shards.
    pub shard_bytes: u32,
    /// When it is its turn.
    pub urgency: Urgency,
    /// Whether it holds documents.
    pub documents: bool,
    /// Shards to copy.
    pub copies: Vec<ShardCopy>,
    /// Shards to rebuild.
    pub rebuild: Option<Rebuild>,
    /// The node that each other shard counts for and stays at.
    pub kept: BTreeMap<ShardIndex, NodeId>,
    /// All nodes that were ever given a shard of the segment: none of them is given another.
    pub holders: BTreeSet<NodeId>,
    /// Nodes beyond the one that a shard counts for. Their leases are not renewed once that one has proven the shard: so an overlay that
    /// names nodes which hold nothing makes nobody let go of a good copy.
    pub surplus: Vec<(ShardIndex, NodeId)>,
}

impl Plan {
    /// The shards that need a new node, ascending.
    #[must_use]
    pub fn wanted(&self) -> Vec<ShardIndex> {
        let rebuilt = self.rebuild.iter().flat_map(|rebuild| rebuild.wanted.iter().copied());
        let mut wanted: Vec<_> = self.copies.iter().map(|copy| copy.index).chain(rebuilt).collect();
        wanted.sort_unstable();
        wanted
    }

    /// Bytes that carrying it out moves, to and from.
    #[must_use]
    pub fn traffic_bytes(&self) -> u64 {
        let rebuilt = self.rebuild.as_ref().map_or(0, |rebuild| usize::from(self.policy.k()) + rebuild.wanted.len());
        let shards = u64::try_from(rebuilt + 2 * self.copies.len()).unwrap_or(u64::MAX);
        shards.saturating_mul(self.shard_bytes.into())
    }
}

/// Each shard's best node and how it counts; a node counts for one shard of a segment.
struct Survey<'a> {
    counts: Vec<(Count, Option<&'a Holder>)>,
    surplus: Vec<(ShardIndex, NodeId)>,
    holders: BTreeSet<NodeId>,
}

fn survey(state: &SegmentState, now: Timestamp) -> Result<Survey<'_>, RepairError> {
    let n = usize::from(state.policy.n());
    if state.shards.len() != n {
        return Err(RepairError::ShardCount { found: state.shards.len(), n });
    }
    let mut survey = Survey { counts: Vec::with_capacity(n), surplus: Vec::new(), holders: BTreeSet::new() };
    let mut taken = BTreeSet::new();
    for (index, holders) in (0..state.policy.n()).map(ShardIndex::new).zip(&state.shards) {
        if holders.len() > HOLDERS_PER_SHARD_MAX {
            return Err(RepairError::Holders { index, found: holders.len() });
        }
        survey.holders.extend(holders.iter().map(|holder| holder.node));
        let counted = |holder: &Holder| match count(holder, now) {
            alive @ (Count::Sound | Count::Suspect | Count::Waiting) if taken.contains(&holder.node) => {
                match alive {
                    Count::Waiting => alive,
                    // Nothing to count on, here no more than at its other shard.
                    Count::Suspect => Count::Going { bad: true },
                    _ => Count::Going { bad: false },
                }
            }
            other => other,
        };
        let best = holders.iter().min_by_key(|holder| counted(holder));
        let counted = best.map_or(Count::Lost, counted);
        if let Some(best) = best.filter(|_| counted != Count::Lost) {
            taken.insert(best.node);
            let others = holders.iter().map(|holder| holder.node).filter(|node| *node != best.node);
            survey.surplus.extend(others.map(|node| (index, node)));
        }
        survey.counts.push((counted, best));
    }
    Ok(survey)
}

/// Plans a segment; `None` when nothing is to be done.
///
/// # Errors
/// [`RepairError::TooFewSources`] when fewer than `k` shards can be read and something would have to be rebuilt: to be looked at again, not
/// tried. Otherwise a mistake in what was passed in.
pub fn plan(state: &SegmentState, now: Timestamp) -> Result<Option<Plan>, RepairError> {
    plan_from(state, now, trigger(state.policy))
}

/// Plans a segment as if a single lost shard were reason enough: for whoever asks for it by hand.
///
/// # Errors
/// As [`plan`].
pub fn plan_all(state: &SegmentState, now: Timestamp) -> Result<Option<Plan>, RepairError> {
    plan_from(state, now, 1)
}

fn plan_from(state: &SegmentState, now: Timestamp, trigger: u8) -> Result<Option<Plan>, RepairError> {
    let survey = survey(state, now)?;
    let indices = || (0..state.policy.n()).map(ShardIndex::new).zip(&survey.counts);
    let number = |wanted: fn(Count) -> bool| survey.counts.iter().filter(|(count, _)| wanted(*count)).count();
    let (k, n) = (usize::from(state.policy.k()), usize::from(target(state.policy)));
    // A bad node's word is nothing to count on when it matters.
    let certain = number(|count| matches!(count, Count::Sound | Count::Going { bad: false }));
    let waiting = number(|count| count == Count::Waiting);
    let mut lost = number(|count| count == Count::Lost);
    let doubtful = n - certain - lost;
    let at_floor = certain <= usize::from(hard_floor(state.policy)) && certain < n && state.policy.m() > 0;
    if at_floor {
        lost += waiting;
    }
    let triggered = lost > 0 && (at_floor || lost >= usize::from(trigger));

    let gone = |count: Count| count == Count::Lost || (at_floor && count == Count::Waiting);
    let going: Vec<ShardCopy> = indices()
        .filter(|(_, (count, _))| matches!(count, Count::Going { .. }))
        .filter_map(|(index, (_, best))| best.map(|best| ShardCopy { index, from: best.node }))
        .collect();
    // Whoever has k shards in hand makes the others for nothing: then what would be copied is rebuilt as well. Beyond k copies
    // fetching k costs less than fetching all of them.
    let rebuild_all = triggered || going.len() > k;
    let mut wanted: Vec<ShardIndex> = Vec::new();
    if triggered {
        wanted.extend(indices().filter(|(_, (count, _))| gone(*count)).map(|(index, _)| index));
    }
    let mut sources: Vec<(Count, ShardIndex, NodeId)> = indices()
        .filter(|(_, (count, _))| !gone(*count) && *count != Count::Waiting)
        .filter_map(|(index, (count, best))| best.map(|best| (*count, index, best.node)))
        .collect();
    sources.sort_unstable();
    let enough = sources.len() >= k;
    if triggered && !enough {
        return Err(RepairError::TooFewSources { reachable: sources.len(), k, silent: waiting });
    }
    let copies = if rebuild_all && enough {
        wanted.extend(going.iter().map(|copy| copy.index));
        Vec::new()
    } else {
        going
    };
    if wanted.is_empty() && copies.is_empty() {
        return Ok(None);
    }
    wanted.sort_unstable();
    let left = if at_floor { certain } else { certain + doubtful };
    let margin = u8::try_from(left.saturating_sub(k)).unwrap_or(u8::MAX);
    let narrowness = u8::MAX - u8::try_from(left).unwrap_or(u8::MAX);
    let urgency = match (at_floor, triggered) {
        (true, _) => Urgency::Floor { margin, narrowness },
        (_, true) => Urgency::Triggered { margin, narrowness },
        _ if number(|count| count == Count::Going { bad: true }) > 0 => Urgency::Move,
        _ => Urgency::Leave,
    };
    let rebuild = (!wanted.is_empty())
        .then(|| Rebuild { wanted, sources: sources.into_iter().map(|(_, index, node)| (index, node)).collect() });
    let mut plan = Plan {
        segment: state.segment,
        policy: state.policy,
        shard_bytes: state.shard_bytes,
        urgency,
        documents: state.documents,
        copies,
        rebuild,
        kept: BTreeMap::new(),
        holders: survey.holders,
        surplus: survey.surplus,
    };
    let moved: BTreeSet<ShardIndex> = plan.wanted().into_iter().collect();
    for (index, (_, best)) in (0..state.policy.n()).map(ShardIndex::new).zip(&survey.counts) {
        if let Some(best) = best.filter(|_| !moved.contains(&index)) {
            plan.kept.insert(index, best.node);
        }
    }
    Ok(Some(plan))
}

/// Chooses nodes for the shards of a plan, as many as the candidates allow: the lowest indices when not all.
///
/// No node that was ever given a shard of the segment is chosen. `failed` names nodes that refused or failed since the plan was made.
///
/// # Errors
/// [`RepairError::NoNode`] when there is none for a single shard.
pub fn place(
    plan: &Plan,
    candidates: &[Candidate],
    regions: &[Region],
    failed: &BTreeSet<NodeId>,
    seed: &[u8; 32],
) -> Result<Vec<(ShardIndex, NodeId)>, RepairError> {
    let mut wanted = plan.wanted();
    let excluded: BTreeSet<NodeId> = plan.holders.union(failed).copied().collect();
    let number = u64::from_le_bytes(plan.segment.as_bytes()[..8].try_into().unwrap_or_default());
    while !wanted.is_empty() {
        let mut fixed = BTreeMap::new();
        let mut used = BTreeSet::new();
        let open = |index: &ShardIndex| !wanted.contains(index);
        for index in (0..plan.policy.n()).map(ShardIndex::new).filter(open) {
            // Shards that stay where they are, or nowhere, take no node; placement wants a name for each.
            let kept = plan.kept.get(&index).copied().filter(|node| used.insert(*node));
            fixed.insert(index, kept.unwrap_or_else(|| nobody(plan.segment, index)));
        }
        let constraints = Constraints { regions: regions.to_vec(), excluded: excluded.clone(), fixed, spares_max: 0 };
        match choose(candidates, plan.policy, &constraints, seed, number) {
            Ok(chosen) => {
                return Ok(wanted
                    .into_iter()
                    .filter_map(|index| Some((index, *chosen.assigned.get(index.get())?)))
                    .collect());
            }
            Err(PlacementError::TooFewNodes { eligible, needed }) => {
                let left = wanted.len().saturating_sub(needed.saturating_sub(eligible).max(1));
                wanted.truncate(left);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(RepairError::NoNode)
}

/// A node id that no node has a key for.
fn nobody(segment: SegmentId, index: ShardIndex) -> NodeId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"dolmen repair nobody v1\0").update(segment.as_bytes()).update(&[index.to_byte()]);
    NodeId::new(*hasher.finalize().as_bytes())
}

/// The look before publishing: which of the shards that were `made` and placed are still wanted, given what the overlays say now. For the
/// others somebody else was faster, or the node came back: their new leases are left to expire.
///
/// # Errors
/// As [`plan`], but for too few sources: what is made is published then all the more.
pub fn still_wanted(
    state: &SegmentState,
    made: &[(ShardIndex, NodeId)],
    now: Timestamp,
) -> Result<Vec<(ShardIndex, NodeId)>, RepairError> {
    let survey = survey(state, now)?;
    let sound = |index: ShardIndex| matches!(survey.counts.get(index.get()), Some((Count::Sound, _)));
    Ok(made.iter().copied().filter(|(index, node)| !sound(*index) && !survey.holders.contains(node)).collect())
}

impl Holder {
    /// A holder of whom nothing bad is known.
    #[must_use]
    pub const fn alive(node: NodeId, lease_until: Timestamp) -> Self {
        Self { node, condition: Condition::Alive, lease_until }
    }
}
