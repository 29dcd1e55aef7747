//! Leases of many shards on many nodes, extended or given up.
//!
//! Decides how many nodes are asked at a time and that each is asked again when it is busy. Never decides how long a lease should be.

use std::collections::{BTreeMap, BTreeSet};

use dolmen_proto::attempt::Fault;
use dolmen_proto::ids::{NodeId, ShardRoot, Timestamp};
use futures::StreamExt;

use crate::network::{Account, Nodes};

/// Nodes asked at a time.
pub(crate) const NODES_AT_ONCE: usize = 16;

/// Shards by the node that holds them.
pub(crate) type ByNode = BTreeMap<NodeId, BTreeSet<ShardRoot>>;

/// Renews all of these leases; gives how many nodes say that they did.
pub(crate) async fn renew(nodes: &Nodes, account: &Account, shards: &ByNode, until: Timestamp) -> usize {
    let calls = shards.iter().map(|(node, roots)| async move {
        let roots: Vec<ShardRoot> = roots.iter().copied().collect();
        let first = nodes.renew(account, *node, &roots, until).await;
        let second = match first {
            Err(fault) if matches!(fault.fault, Fault::Busy { .. }) => nodes.renew(account, *node, &roots, until).await,
            result => result,
        };
        count(*node, second)
    });
    futures::stream::iter(calls).buffer_unordered(NODES_AT_ONCE).fold(0, |sum, done| async move { sum + done }).await
}

/// Gives up all of these leases; gives how many nodes say that they have none any more.
pub(crate) async fn delete(nodes: &Nodes, account: &Account, shards: &ByNode) -> usize {
    let calls = shards.iter().map(|(node, roots)| async move {
        let roots: Vec<ShardRoot> = roots.iter().copied().collect();
        count(*node, nodes.delete(account, *node, &roots).await)
    });
    futures::stream::iter(calls).buffer_unordered(NODES_AT_ONCE).fold(0, |sum, done| async move { sum + done }).await
}

fn count(node: NodeId, result: Result<Vec<bool>, crate::network::CallFault>) -> usize {
    match result {
        Ok(done) => done.into_iter().filter(|done| *done).count(),
        Err(fault) => {
            tracing::debug!(node = %node.short(), %fault, "leases were not changed");
            0
        }
    }
}
