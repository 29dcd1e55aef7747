//! Telling nodes that go which of their shards lie elsewhere now, so that their operators know when they may stop them.
//!
//! Decides whom that concerns and for how long it is tried. Nothing else depends on it: readers follow the overlay.

use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::ids::{NodeId, ShardRoot};
use dolmen_proto::limits::{MOVED_BYTES_MAX, MOVED_RECEIPTS_MAX};
use dolmen_proto::wire::KeptReceipt;
use tokio::time::timeout;

use super::dataset::Cared;
use crate::error::ClientError;

/// Receipts that are shown in one round; the others wait for the next.
const SHOWN_A_ROUND: usize = 64 * MOVED_RECEIPTS_MAX;
/// How long a node may take to look at what it is shown.
const PATIENCE: Duration = Duration::from_secs(30);

/// What fits one call: all of one node.
#[derive(Debug, Default)]
struct Shown {
    roots: Vec<ShardRoot>,
    receipts: Vec<KeptReceipt>,
    bytes: usize,
}

/// Shows nodes that go the receipts that they were not shown yet; gives how many they took. What a node does not take, because
/// the receipt is not good enough for it, is not shown again; who is not reached is told in a later round, until it is gone.
///
/// # Errors
/// `Local`: the database.
pub(super) async fn tell_moved(cared: &Cared) -> Result<u64, ClientError> {
    let mut told = 0;
    let mut shown: Option<(NodeId, Shown)> = None;
    for (node, root, bytes) in cared.state.untold(&cared.tag, SHOWN_A_ROUND)? {
        let Ok(receipt) = KeptReceipt::decode(&Bytes::from(bytes.clone())) else {
            cared.state.forget_untold(&cared.tag, &node, &[root])?;
            continue;
        };
        let full = shown.as_ref().is_some_and(|(to, shown)| {
            *to != node || shown.roots.len() == MOVED_RECEIPTS_MAX || shown.bytes + bytes.len() > MOVED_BYTES_MAX
        });
        if full && let Some((to, full)) = shown.take() {
            told += show(cared, to, full).await?;
        }
        let (_, next) = shown.get_or_insert_with(|| (node, Shown::default()));
        next.bytes += bytes.len();
        next.roots.push(root);
        next.receipts.push(receipt);
    }
    if let Some((to, last)) = shown {
        told += show(cared, to, last).await?;
    }
    Ok(told)
}

async fn show(cared: &Cared, node: NodeId, shown: Shown) -> Result<u64, ClientError> {
    let nodes = cared.steward.nodes();
    let Shown { roots, receipts, .. } = shown;
    if cared.state.contact(&node)?.leaving_until_ms <= nodes.now().as_unix_ms() {
        // It stays after all, or should be gone.
        cared.state.forget_untold(&cared.tag, &node, &roots)?;
        return Ok(0);
    }
    match timeout(PATIENCE, nodes.show_moved(node, receipts)).await {
        Ok(Ok(codes)) => {
            for (root, code) in roots.iter().zip(&codes) {
                if let Err(code) = code {
                    tracing::debug!(node = %node.short(), root = %root.short(), ?code, "a node takes a shard for not moved");
                }
            }
            cared.state.forget_untold(&cared.tag, &node, &roots)?;
            Ok(codes.iter().filter(|code| code.is_ok()).count() as u64)
        }
        Ok(Err(fault)) => {
            tracing::debug!(node = %node.short(), %fault, "a node could not be told what was moved");
            Ok(0)
        }
        Err(_) => Ok(0),
    }
}
