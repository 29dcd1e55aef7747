//! Distances in the directory's key space, computed as libp2p-kad does, so that both ends agree without asking it.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use crate::ids::{NodeId, OperatorId, Point};
use crate::keys::{self, context};
use crate::limits::HEAD_NODES_PER_POINT;

/// How an Ed25519 key becomes a peer id: an identity multihash (code 0, 36 bytes) of the key's protobuf (type 1:
/// Ed25519; field 2: the 32 bytes of the key).
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The distance of a key and a node: SHA-256 of the key XOR SHA-256 of the node's peer id, compared as a number,
/// most significant byte first.
#[must_use]
pub fn kad_distance(key: &[u8], node: &NodeId) -> [u8; 32] {
    let key = Sha256::digest(key);
    let peer = Sha256::new().chain_update(PEER_ID_PREFIX).chain_update(node.as_bytes()).finalize();
    core::array::from_fn(|index| key[index] ^ peer[index])
}

/// The key under which the directory is asked for the nodes nearest to a point.
///
/// Not the point itself: the nodes on a lookup's path see what is looked for, and whoever knows a point can ask its
/// holders for what lies there.
#[must_use]
pub fn lookup_key(point: &Point) -> [u8; 32] {
    keys::derive(context::POINT_LOOKUP, &[point.as_bytes()])
}

/// The nodes that are to hold a head at `point`: up to [`HEAD_NODES_PER_POINT`], nearest first, of distinct
/// operators where there are enough. A node without an operator counts as run by somebody of its own.
#[must_use]
pub fn head_holders(point: &Point, nodes: &[(NodeId, Option<OperatorId>)]) -> Vec<NodeId> {
    ranked_head_holders(point, nodes, HEAD_NODES_PER_POINT)
}

/// The same with those that stand in for holders that fail: up to `most` nodes, in the order in which to ask them.
#[must_use]
pub fn ranked_head_holders(point: &Point, nodes: &[(NodeId, Option<OperatorId>)], most: usize) -> Vec<NodeId> {
    let key = lookup_key(point);
    let mut nearest = nodes.to_vec();
    nearest.sort_by_cached_key(|(node, _)| (kad_distance(&key, node), *node));
    nearest.dedup_by_key(|(node, _)| *node);
    let mut operators = BTreeSet::new();
    let (distinct, others): (Vec<_>, Vec<_>) =
        nearest.into_iter().partition(|(_, operator)| operator.is_none_or(|operator| operators.insert(operator)));
    distinct.into_iter().chain(others).map(|(node, _)| node).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::new([number; 32])
    }

    #[test]
    fn holders_are_the_nearest_of_distinct_operators() {
        let point = Point::new([9; 32]);
        let by_distance = |nodes: &[(NodeId, Option<OperatorId>)]| {
            let mut nodes: Vec<_> = nodes.iter().map(|(node, _)| *node).collect();
            nodes.sort_by_key(|node| kad_distance(&lookup_key(&point), node));
            nodes
        };
        let alone: Vec<_> = (0..20).map(|number| (node(number), None)).collect();
        assert_eq!(head_holders(&point, &alone), by_distance(&alone)[..3]);

        let shared = Some(OperatorId::new([1; 32]));
        let mut crowd = by_distance(&alone).into_iter().map(|node| (node, shared)).collect::<Vec<_>>();
        crowd[10].1 = None;
        let holders = head_holders(&point, &crowd);
        assert_eq!(holders, [crowd[0].0, crowd[10].0, crowd[1].0], "one of the crowd, then the other operator");
    }

    #[test]
    fn a_small_network_holds_with_all_it_has() {
        let point = Point::new([9; 32]);
        assert_eq!(head_holders(&point, &[]), []);
        assert_eq!(head_holders(&point, &[(node(1), None), (node(1), None)]), [node(1)]);
    }

    #[test]
    fn the_distance_is_that_of_the_hashes() {
        // SHA-256 of no bytes at all, and of the peer id of the all-zero key, from another implementation.
        let distance = kad_distance(b"", &node(0));
        let text: String = distance.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "5aeced5bf94bbcf6e90eaa79eeb30e2aec3a9c2f3d6d52970f660411b9fcd219");
    }
}
