//! A look at every node: whether it is there, stays, and says that it holds what it should.
//!
//! Decides nothing by what nodes say in their favour: that is what audits are for. What they say against themselves is believed.

use std::time::Duration;

use dolmen_proto::attempt::Fault;
use dolmen_proto::ids::{NodeId, ShardRoot, Timestamp};
use dolmen_proto::limits::ROOTS_PER_CALL_MAX;
use dolmen_proto::standing::Observation;
use futures::StreamExt;
use tokio::time::timeout;

use super::dataset::Cared;
use crate::error::ClientError;

/// Nodes that are looked at at a time.
const NODES_AT_ONCE: usize = 8;
/// How long a node may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(20);
/// Shards that one look asks a node about; of more the next look asks about the following.
const SHARDS_A_LOOK: usize = 4 * ROOTS_PER_CALL_MAX;

/// What a look came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Looked {
    pub(super) nodes: u64,
    pub(super) absent: u64,
    pub(super) leaving: u64,
    /// Shards that nodes say they do not hold.
    pub(super) missing: u64,
}

/// Looks at all nodes of a dataset.
///
/// # Errors
/// `Local`: the database.
pub(super) async fn look(cared: &Cared) -> Result<Looked, ClientError> {
    let nodes = cared.state.nodes_of(&cared.tag)?;
    let mut sum = Looked { nodes: nodes.len() as u64, ..Looked::default() };
    let mut looks =
        futures::stream::iter(nodes.into_iter().map(|node| look_at(cared, node))).buffer_unordered(NODES_AT_ONCE);
    while let Some(one) = looks.next().await {
        let one = one?;
        sum.absent += one.absent;
        sum.leaving += one.leaving;
        sum.missing += one.missing;
    }
    Ok(sum)
}

async fn look_at(cared: &Cared, node: NodeId) -> Result<Looked, ClientError> {
    let nodes = cared.steward.nodes();
    let described = match timeout(PATIENCE, nodes.describe(node)).await {
        Ok(answer) => answer.map_err(|fault| fault.fault),
        Err(_) => Err(Fault::Unreachable),
    };
    let now = nodes.now();
    let mut contact = cared.state.contact(&node)?;
    let mut standing = cared.state.standing(&node, now)?;
    let mut looked = Looked::default();
    let description = match described {
        Ok(description) => description,
        Err(_) => {
            if contact.absent_since_ms == 0 {
                contact.absent_since_ms = now.as_unix_ms();
            }
            record(&mut standing, Observation::Offline, now);
            cared.state.keep_node(&node, &standing, contact)?;
            return Ok(Looked { absent: 1, ..looked });
        }
    };
    contact.absent_since_ms = 0;
    contact.leaving_until_ms = description.leaving_until.map_or(0, Timestamp::as_unix_ms);
    looked.leaving = u64::from(description.leaving_until.is_some());
    cared.state.keep_node(&node, &standing, contact)?;
    looked.missing = stat(cared, node, now).await?;
    Ok(looked)
}

/// Asks a node what it holds, as far as one look goes; gives how many shards it says it does not.
async fn stat(cared: &Cared, node: NodeId, now: Timestamp) -> Result<u64, ClientError> {
    let name = format!("stat {}", node.short());
    let skip = usize::try_from(cared.state.mark(&cared.tag, &name)?).unwrap_or(0);
    let mut asked: Vec<(ShardRoot, u32)> = Vec::new();
    for known in cared.state.shards_of(&cared.tag, &node)?.skip(skip).take(SHARDS_A_LOOK) {
        let known = known?;
        asked.push((known.shard.root, known.shard.length_bytes));
    }
    let next = if asked.len() < SHARDS_A_LOOK { 0 } else { skip + asked.len() };
    let roots: Vec<ShardRoot> = asked.iter().map(|(root, _)| *root).collect();
    let found = match cared.steward.nodes().stat(node, &roots).await {
        Ok(found) => found,
        Err(fault) => {
            // It is there and does not say: silence about what it holds is what audits are for.
            tracing::debug!(node = %node.short(), %fault, "a node does not say what it holds");
            return Ok(0);
        }
    };
    let (mut lost, mut leased) = (Vec::new(), Vec::new());
    for ((root, length), status) in asked.iter().zip(found) {
        match status {
            Some(status) if status.length_bytes == u64::from(*length) => leased.push((*root, status.until)),
            _ => lost.push(*root),
        }
    }
    cared.state.leased(&cared.tag, &node, &leased)?;
    cared.state.set_lost(&cared.tag, &node, &lost, &[], now)?;
    cared.state.set_marks(&cared.tag, &[(name.as_str(), next as u64)])?;
    Ok(lost.len() as u64)
}

/// Takes in an observation. One that the rules refuse is our own mistake, and changes nothing.
pub(super) fn record(standing: &mut dolmen_proto::standing::Standing, observation: Observation, now: Timestamp) {
    if let Err(error) = standing.record(observation, now) {
        tracing::debug!(%error, "an observation does not count");
    }
}
