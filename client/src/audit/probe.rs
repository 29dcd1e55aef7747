//! Retrieval probes: ordinary reads at random places, so that a node that proves and does not serve is found.
//!
//! Decides what is read. A node cannot tell a probe from a reader: it is a reader, on a connection of its own.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use dolmen_proto::audit::SetShard;
use dolmen_proto::ids::NodeId;

use crate::network::{CallFault, Nodes};

/// Bytes of a probe: what a reader asks for when it reads a little.
const PROBE_BYTES: u32 = 64 * 1024;

/// Reads a window of a shard with its proof; gives how long that took and how many bytes there were.
///
/// # Errors
/// [`CallFault`]: what a reader would have met.
pub(crate) async fn probe(
    readers: &Nodes,
    node: NodeId,
    shard: &SetShard,
    place: u32,
) -> Result<(Duration, u32), CallFault> {
    let windows = shard.length_bytes.div_ceil(PROBE_BYTES).max(1);
    let offset = place % windows * PROBE_BYTES;
    let count = PROBE_BYTES.min(shard.length_bytes - offset);
    let begun = Instant::now();
    readers.get_range(node, shard.root, shard.length_bytes, offset, count, &AtomicU64::new(0)).await?;
    Ok((begun.elapsed(), count))
}
