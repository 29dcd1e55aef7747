//! What a dataset's nodes say of its shards, and what can be done about their leases.
//!
//! Decides what counts as alive: a shard that its node says it holds, with the length that the table says. A node that
//! does not answer holds nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use dolmen_proto::ids::{NodeId, SegmentId, ShardRoot, Timestamp};
use dolmen_proto::placement::{Candidate, STANDING_UNKNOWN, largest_domains};
use dolmen_proto::wire::NodeRecord;
use futures::StreamExt;

use crate::error::ClientError;
use crate::lease::{ByNode, NODES_AT_ONCE};
use crate::network::Nodes;
use crate::read::{Dataset, Place, counts};
use crate::report::InfoReport;

/// All places of a dataset.
///
/// # Errors
/// `Damaged` or `NotNow` when the table cannot be read.
pub(crate) async fn places(dataset: &Dataset) -> Result<Vec<Arc<Place>>, ClientError> {
    let mut places = Vec::new();
    dataset.every_place(|place| places.push(place)).await?;
    Ok(places)
}

/// Shards by the node that should hold them.
pub(crate) fn by_node(places: &[Arc<Place>]) -> ByNode {
    let mut shards = ByNode::new();
    for place in places {
        for (root, node) in place.roots.iter().zip(&place.holders) {
            if let Some(node) = node {
                shards.entry(*node).or_default().insert(*root);
            }
        }
    }
    shards
}

/// Further places of shards that overlays name and that count.
pub(crate) async fn further(
    nodes: &Nodes,
    dataset: &Dataset,
    places: &[Arc<Place>],
) -> Vec<(Arc<Place>, usize, NodeId)> {
    let Some(overlays) = dataset.overlays() else { return Vec::new() };
    let of_segment: HashMap<SegmentId, &Arc<Place>> = places.iter().map(|place| (place.id, place)).collect();
    let mut found: BTreeMap<(SegmentId, usize, NodeId), Arc<Place>> = BTreeMap::new();
    overlays
        .rows_of(&of_segment.keys().copied().collect(), |row| {
            let Some(place) = of_segment.get(&row.segment) else { return };
            let (shard, node) = (row.shard.get(), row.node.id());
            if place.holders.get(shard).is_some_and(|base| *base != Some(node)) && counts(&row, place, nodes) {
                overlays.learn(&row.node);
                found.insert((row.segment, shard, node), Arc::clone(place));
            }
        })
        .await;
    found.into_iter().map(|((_, shard, node), place)| (place, shard, node)).collect()
}

/// Asks every node for all its shards and adds up.
///
/// # Errors
/// `Damaged` or `NotNow` when the table cannot be read.
pub(crate) async fn info(nodes: &Nodes, dataset: &Dataset) -> Result<InfoReport, ClientError> {
    let places = places(dataset).await?;
    let further = further(nodes, dataset, &places).await;
    let mut asked = by_node(&places);
    for (place, shard, node) in &further {
        asked.entry(*node).or_default().insert(place.roots[*shard]);
    }
    let alive = ask_all(nodes, &asked).await;
    let mut further_of: HashMap<(SegmentId, usize), Vec<NodeId>> = HashMap::new();
    for (place, shard, node) in &further {
        further_of.entry((place.id, *shard)).or_default().push(*node);
    }
    let records: HashMap<NodeId, NodeRecord> =
        nodes.sample(0).await.into_iter().map(|record| (record.node, record)).collect();
    let mut report = InfoReport {
        segments: places.len() as u64,
        shards: 0,
        alive_shards: 0,
        min_alive: 0,
        k: 0,
        n: 0,
        by_policy: BTreeMap::new(),
        largest_domain: 0,
        lease_until: Timestamp::default(),
        overlay_shards: further.len() as u64,
    };
    let (mut least_margin, mut lease_until) = (None, None::<Timestamp>);
    for place in &places {
        let policy = place.policy();
        *report.by_policy.entry(policy.to_string()).or_default() += 1;
        let length = u64::from(place.geometry.shard_bytes());
        let mut living = 0u64;
        for (shard, (root, node)) in place.roots.iter().zip(&place.holders).enumerate() {
            let further = further_of.get(&(place.id, shard)).map_or(&[][..], Vec::as_slice);
            if node.is_none() && further.is_empty() {
                continue;
            }
            report.shards += 1;
            // Of several places the one that lasts longest counts: a shard is as alive as its best copy.
            let held = |node: &NodeId| alive.get(&(*node, *root)).filter(|(held, _)| *held == length);
            let until = node.iter().chain(further).filter_map(held).map(|(_, until)| *until).max();
            if let Some(until) = until {
                living += 1;
                lease_until = Some(lease_until.map_or(until, |known| known.min(until)));
            }
        }
        report.alive_shards += living;
        let margin = i128::from(living) - i128::from(policy.k());
        if least_margin.is_none_or(|least| margin < least) {
            least_margin = Some(margin);
            (report.min_alive, report.k, report.n) = (living, policy.k().into(), policy.n().into());
        }
        report.largest_domain = report.largest_domain.max(largest_domain(place, nodes, &records));
    }
    report.lease_until = lease_until.unwrap_or_default();
    Ok(report)
}

/// The most shards of a segment that share an operator, a subnet or a region, as far as is known without looking nodes up.
fn largest_domain(place: &Place, nodes: &Nodes, records: &HashMap<NodeId, NodeRecord>) -> u64 {
    let candidates: Vec<Candidate> = place
        .holders
        .iter()
        .flatten()
        .map(|node| Candidate {
            node: *node,
            operator: records.get(node).and_then(NodeRecord::operator_id),
            addresses: nodes.addresses(*node).iter().map(std::net::SocketAddr::ip).collect(),
            region: records.get(node).and_then(|record| record.region.clone()),
            standing: STANDING_UNKNOWN,
            free_bytes: 0,
            proven_bytes: 0,
        })
        .collect();
    let largest = largest_domains(&candidates);
    let all = [largest.operator, largest.subnet, largest.region];
    all.into_iter().flatten().map(|(_, count)| count as u64).max().unwrap_or(u64::from(!candidates.is_empty()))
}

/// Shards that nodes say they hold: the length, and when the last lease ends.
pub(crate) type Alive = HashMap<(NodeId, ShardRoot), (u64, Timestamp)>;

/// Asks every node for these shards; who does not answer holds nothing.
pub(crate) async fn ask_all(nodes: &Nodes, shards: &ByNode) -> Alive {
    let calls = shards.iter().map(|(node, roots): (&NodeId, &BTreeSet<ShardRoot>)| async move {
        let roots: Vec<ShardRoot> = roots.iter().copied().collect();
        let found = nodes.stat(*node, &roots).await.unwrap_or_else(|fault| {
            tracing::debug!(node = %node.short(), %fault, "a node did not say what it holds");
            Vec::new()
        });
        let held = roots.into_iter().zip(found);
        held.filter_map(|(root, status)| {
            Some(((*node, root), status.map(|status| (status.length_bytes, status.until))?))
        })
        .collect::<Vec<_>>()
    });
    futures::stream::iter(calls).buffer_unordered(NODES_AT_ONCE).map(futures::stream::iter).flatten().collect().await
}
