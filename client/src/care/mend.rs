//! Carrying out one plan: shards copied or rebuilt, put on new nodes, and published.
//!
//! Decides in which order nodes are tried. Whatever breaks off leaves leases on new nodes that nobody names, which end by
//! themselves, and nothing else: what readers see changes with the overlay's head, at once. A shard is only ever placed under the
//! root that the base table names, so a lie of a source is found before anything is put.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::audit::SetShard;
use dolmen_proto::erasure::Code;
use dolmen_proto::ids::{NodeId, ShardIndex, Timestamp};
use dolmen_proto::mask::Mask;
use dolmen_proto::placement::Candidate;
use dolmen_proto::repair::{Plan, place, still_wanted};
use dolmen_proto::root::root_of;
use futures::StreamExt;
use tokio::time::timeout;

use super::dataset::{Cared, NodesView};
use super::state::KnownShard;
use crate::cores::Cores;
use crate::error::{ClientError, ErrorKind};
use crate::read::Place;
use crate::steward::{OverlayUpdate, PutShard};

/// How long one shard may take, there or back: at the slowest pace that is taken the largest takes this.
const SHARD_PATIENCE: Duration = Duration::from_secs(600);
/// How often nodes are chosen anew because some refused.
const ROUNDS_MAX: usize = 4;

/// What one plan came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mended {
    /// Shards that lie on new nodes now, published.
    pub(super) placed: u64,
    /// Shards that could not be placed.
    pub(super) short: u64,
    /// Bytes fetched.
    pub(super) read_bytes: u64,
    /// Bytes put.
    pub(super) written_bytes: u64,
}

/// What mending needs beside the dataset.
pub(super) struct Bench<'a> {
    pub(super) cores: &'a Cores,
    pub(super) candidates: &'a [Candidate],
    pub(super) view: &'a NodesView,
    /// How long new leases last at most.
    pub(super) lease: Duration,
}

fn not_now(why: impl std::fmt::Display) -> ClientError {
    ClientError::new(ErrorKind::NotNow, "a segment could not be repaired now", why, "it is tried again later")
}

/// Carries out a plan.
///
/// # Errors
/// `NotNow` when too few shards can be read or no node takes one: nothing is worse than before.
pub(super) async fn mend(cared: &Cared, bench: &Bench<'_>, plan: &Plan) -> Result<Mended, ClientError> {
    let segment = cared.place(plan.segment).await?;
    let segment = segment.ok_or_else(|| not_now("the owner has taken it out of the dataset"))?;
    let mut mended = Mended::default();
    let shards = gather(cared, bench, plan, &segment, &mut mended).await?;
    let placed = put_all(cared, bench, plan, &segment, shards, &mut mended).await?;
    publish(cared, bench, plan, &segment, placed, &mut mended).await?;
    Ok(mended)
}

/// The shards that a plan wants, each with its old root.
async fn gather(
    cared: &Cared,
    bench: &Bench<'_>,
    plan: &Plan,
    segment: &Arc<Place>,
    mended: &mut Mended,
) -> Result<BTreeMap<ShardIndex, Bytes>, ClientError> {
    let mut shards = BTreeMap::new();
    for copy in &plan.copies {
        if let Some(bytes) = fetch(cared, segment, copy.index, copy.from).await {
            mended.read_bytes += bytes.len() as u64;
            shards.insert(copy.index, bytes);
        } else if let Some(root) = segment.roots.get(copy.index.get()) {
            // It is lost after all, and rebuilt the next time.
            let now = cared.steward.nodes().now();
            cared.state.set_lost(&cared.tag, &copy.from, &[*root], &[], now)?;
        }
    }
    let Some(rebuild) = &plan.rebuild else { return Ok(shards) };
    let k = usize::from(plan.policy.k());
    let fetches = rebuild
        .sources
        .iter()
        .map(|(index, node)| async move { (*index, *node, fetch(cared, segment, *index, *node).await) });
    // As many at a time as are needed: the next source is asked when one fails.
    let mut fetches = futures::stream::iter(fetches).buffer_unordered(k.min(8));
    let mut sources: Vec<(ShardIndex, Bytes)> = Vec::with_capacity(k);
    while sources.len() < k {
        match fetches.next().await {
            Some((index, _, Some(bytes))) => {
                mended.read_bytes += bytes.len() as u64;
                sources.push((index, bytes));
            }
            Some((_, node, None)) => tracing::debug!(node = %node.short(), "a source of a repair fails"),
            None => return Err(not_now(format!("{} of {k} shards could be read", sources.len()))),
        }
    }
    drop(fetches);
    let mask = Mask::new(cared.steward.mask_secret(), &segment.nonce, plan.policy);
    let (wanted, segment, policy) = (rebuild.wanted.clone(), Arc::clone(segment), plan.policy);
    let rebuilt = bench.cores.run(move || rebuild_shards(&mask, policy, &segment, &sources, &wanted)).await??;
    shards.extend(rebuilt);
    Ok(shards)
}

/// Unmasks, rebuilds, masks; computes on the calling thread.
fn rebuild_shards(
    mask: &Mask,
    policy: dolmen_proto::policy::Policy,
    segment: &Place,
    sources: &[(ShardIndex, Bytes)],
    wanted: &[ShardIndex],
) -> Result<Vec<(ShardIndex, Bytes)>, ClientError> {
    let bug = |error: &dyn std::fmt::Display| ClientError::bug("a segment could not be rebuilt", error);
    let mut present: Vec<(ShardIndex, Vec<u8>)> = Vec::with_capacity(sources.len());
    for (index, bytes) in sources {
        let mut plain = bytes.to_vec();
        mask.apply(*index, 0, &mut plain);
        present.push((*index, plain));
    }
    let length = segment.geometry.shard_bytes() as usize;
    let mut rebuilt: Vec<(ShardIndex, Vec<u8>)> = wanted.iter().map(|index| (*index, vec![0; length])).collect();
    let slices: Vec<(ShardIndex, &[u8])> = present.iter().map(|(index, bytes)| (*index, bytes.as_slice())).collect();
    let mut into: Vec<(ShardIndex, &mut [u8])> =
        rebuilt.iter_mut().map(|(index, bytes)| (*index, bytes.as_mut_slice())).collect();
    Code::new(policy).rebuild(&slices, &mut into).map_err(|error| bug(&error))?;
    let mut shards = Vec::with_capacity(rebuilt.len());
    for (index, mut bytes) in rebuilt {
        mask.apply(index, 0, &mut bytes);
        // Every source had its root, so another root here means that the table contradicts itself.
        if segment.roots.get(index.get()) != Some(&root_of(&bytes)) {
            return Err(ClientError::new(
                ErrorKind::Damaged,
                "a segment cannot be repaired",
                format!("segment {} rebuilds to other bytes than were stored", segment.id.short()),
                "its owner's table or mask is wrong: tell the owner",
            ));
        }
        shards.push((index, Bytes::from(bytes)));
    }
    Ok(shards)
}

async fn fetch(cared: &Cared, segment: &Place, index: ShardIndex, node: NodeId) -> Option<Bytes> {
    let (root, length) = (*segment.roots.get(index.get())?, segment.geometry.shard_bytes());
    let mut bytes = Vec::new();
    let received = AtomicU64::new(0);
    let call = cared.steward.nodes().get_shard(node, root, length, &mut bytes, &received);
    match timeout(SHARD_PATIENCE, call).await {
        Ok(Ok(())) => Some(Bytes::from(bytes)),
        Ok(Err(fault)) => {
            tracing::debug!(node = %node.short(), %fault, "a shard could not be read");
            None
        }
        Err(_) => None,
    }
}

/// A shard at its new node.
struct Placed {
    index: ShardIndex,
    node: NodeId,
    put: PutShard,
}

/// Puts shards on nodes that have none of the segment; those that refuse are not asked again.
async fn put_all(
    cared: &Cared,
    bench: &Bench<'_>,
    plan: &Plan,
    segment: &Place,
    mut shards: BTreeMap<ShardIndex, Bytes>,
    mended: &mut Mended,
) -> Result<Vec<Placed>, ClientError> {
    let seed = *blake3::hash(&cared.steward.public_key()).as_bytes();
    let until = cared.steward.nodes().now().after(bench.lease);
    let (mut failed, mut placed) = (BTreeSet::new(), Vec::<Placed>::new());
    for _ in 0..ROUNDS_MAX {
        if shards.is_empty() {
            break;
        }
        let mut excluded = failed.clone();
        excluded.extend(placed.iter().map(|placed| placed.node));
        let chosen = match place(plan, bench.candidates, &[], &excluded, &seed) {
            Ok(chosen) => chosen,
            Err(error) => {
                tracing::debug!(%error, "no node for a shard");
                break;
            }
        };
        let puts = chosen.into_iter().filter_map(|(index, node)| Some((index, node, shards.get(&index)?.clone())));
        let puts = puts.map(|(index, node, bytes)| async move {
            let node_until = until_allowed(cared, node, until);
            let root = segment.roots.get(index.get()).copied();
            let Some(root) = root else { return (index, node, None) };
            let put = cared.steward.put_shard(node, root, bytes, node_until, Arc::default());
            let put = match timeout(SHARD_PATIENCE, put).await {
                Ok(Ok(put)) => Some(put),
                Ok(Err(fault)) => {
                    tracing::debug!(node = %node.short(), %fault, "a node does not take a shard");
                    None
                }
                Err(_) => None,
            };
            (index, node, put)
        });
        let mut puts = futures::stream::iter(puts.collect::<Vec<_>>()).buffer_unordered(4);
        while let Some((index, node, put)) = puts.next().await {
            match put {
                Some(put) => {
                    if let Some(bytes) = shards.remove(&index) {
                        mended.written_bytes += bytes.len() as u64;
                    }
                    placed.push(Placed { index, node, put });
                }
                None => {
                    failed.insert(node);
                }
            }
        }
    }
    mended.short = shards.len() as u64;
    if placed.is_empty() {
        return Err(not_now("no node took any of its shards"));
    }
    Ok(placed)
}

/// A grant ends what is put by it.
fn until_allowed(cared: &Cared, node: NodeId, until: Timestamp) -> Timestamp {
    cared.steward.grant(node).map_or(until, |grant| until.min(grant.until))
}

/// Writes what was placed into the overlay, as far as it is still wanted.
async fn publish(
    cared: &Cared,
    bench: &Bench<'_>,
    plan: &Plan,
    segment: &Arc<Place>,
    placed: Vec<Placed>,
    mended: &mut Mended,
) -> Result<(), ClientError> {
    let now = cared.steward.nodes().now();
    let state = cared.segment_state(segment, plan.documents, bench.view, now).await;
    let made: Vec<(ShardIndex, NodeId)> = placed.iter().map(|placed| (placed.index, placed.node)).collect();
    let wanted = still_wanted(&state, &made, now).unwrap_or(made);
    // Copies are wanted although their old place is sound: it is the node that goes.
    let going: BTreeMap<ShardIndex, NodeId> = plan.copies.iter().map(|copy| (copy.index, copy.from)).collect();
    let mut update = OverlayUpdate::default();
    let (mut done, mut moved, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for placed in placed {
        if !wanted.contains(&(placed.index, placed.node)) && !going.contains_key(&placed.index) {
            continue;
        }
        let (from, root) = (going.get(&placed.index), segment.roots.get(placed.index.get()));
        moved.extend(from.zip(root).map(|(from, root)| (*from, *root, placed.put.receipt.encode())));
        let receipt = placed.put.receipt.clone();
        update.set(cared.steward.row(segment.id, placed.index, placed.node, placed.put.receipt));
        done.push((placed.index, placed.node));
        kept.push((placed.index, placed.node, receipt));
    }
    if update.is_empty() {
        return Ok(());
    }
    cared.steward.publish(&update, bench.lease).await?;
    mended.placed = done.len() as u64;
    for (index, node, receipt) in kept {
        let Some(root) = segment.roots.get(index.get()) else { continue };
        let known = KnownShard {
            shard: SetShard { root: *root, length_bytes: segment.geometry.shard_bytes() },
            index,
            documents: plan.documents,
            segment: segment.id,
            generation: 0,
            until_ms: 0,
            receipt: 0,
        };
        cared.placed(node, known, &receipt)?;
    }
    // Only now: until it was published, readers go to the node that goes.
    cared.state.add_untold(&cared.tag, &moved)
}
