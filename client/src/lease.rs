//! Leases of many shards on many nodes, extended or given up.
//!
//! Decides how many nodes are asked at a time and that each is asked again when it is busy. Never decides how long a lease should be.

mod due;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dolmen_proto::attempt::Fault;
use dolmen_proto::ids::{NodeId, ShardRoot, Timestamp};
use futures::StreamExt;

pub(crate) use self::due::renew_due;
use crate::network::{Account, CallFault, Nodes};

/// How long a busy node is left alone where it does not say, and at most.
const BUSY_RETRY: Duration = Duration::from_secs(1);
const BUSY_RETRY_MAX: Duration = Duration::from_secs(10);
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
            Err(CallFault { fault: Fault::Busy { retry_after }, .. }) => {
                tokio::time::sleep(retry_after.unwrap_or(BUSY_RETRY).min(BUSY_RETRY_MAX)).await;
                nodes.renew(account, *node, &roots, until).await
            }
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

/// Gives up all of these leases; gives those that nodes do not say to be gone.
pub(crate) async fn delete_all(nodes: &Nodes, account: &Account, shards: &ByNode) -> ByNode {
    let calls = shards.iter().map(|(node, roots)| async move {
        let asked: Vec<ShardRoot> = roots.iter().copied().collect();
        let kept = match nodes.delete(account, *node, &asked).await {
            Ok(done) => asked.into_iter().zip(done).filter(|(_, gone)| !gone).map(|(root, _)| root).collect(),
            Err(fault) => {
                tracing::debug!(node = %node.short(), %fault, "leases were not given up");
                roots.clone()
            }
        };
        (*node, kept)
    });
    futures::stream::iter(calls).buffer_unordered(NODES_AT_ONCE).collect().await
}

fn count(node: NodeId, result: Result<Vec<bool>, CallFault>) -> usize {
    match result {
        Ok(done) => done.into_iter().filter(|done| *done).count(),
        Err(fault) => {
            tracing::debug!(node = %node.short(), %fault, "leases were not changed");
            0
        }
    }
}
