//! What must hold whatever the network does: which bytes were put, and which nodes said that they hold what.
//!
//! Decides what a reader may be given. Knows nothing of segments' insides, sessions or time.

use std::collections::{BTreeMap, BTreeSet};

use dolmen_proto::heads::{HeadPlace, HeadVersion};
use dolmen_proto::ids::{NodeId, SegmentId, ShardRoot};

/// The files of one snapshot by name.
pub type Files = BTreeMap<Vec<u8>, Vec<u8>>;

/// A segment that an upload reported as stored.
#[derive(Debug, Clone)]
pub struct StoredSegment {
    /// The segment.
    pub id: SegmentId,
    /// Shards that rebuild it.
    pub k: usize,
    /// Its shards in order: root, and the node that acknowledged it, if any did.
    pub shards: Vec<(ShardRoot, Option<NodeId>)>,
}

impl StoredSegment {
    /// Shards whose node is not among the failed ones.
    #[must_use]
    pub fn left(&self, failed: &BTreeSet<NodeId>) -> usize {
        self.shards.iter().filter(|(_, node)| node.is_some_and(|node| !failed.contains(&node))).count()
    }
}

/// A head that a write reported as written.
#[derive(Debug, Clone)]
pub struct StoredHead {
    /// Which it is.
    pub version: HeadVersion,
    /// Where it lies.
    pub places: Vec<HeadPlace>,
}

impl StoredHead {
    /// Points at which at least two nodes that have not failed hold it.
    #[must_use]
    pub fn safe_points(&self, failed: &BTreeSet<NodeId>) -> usize {
        let mut points = BTreeMap::<u8, usize>::new();
        for (point, node) in &self.places {
            if !failed.contains(node) {
                *points.entry(*point).or_default() += 1;
            }
        }
        points.values().filter(|nodes| **nodes >= 2).count()
    }
}

/// One owner's dataset as it was acknowledged.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    /// Every snapshot that was ever tried, by the sequence of its head; a reader may be given any that was begun.
    pub tried: BTreeMap<u64, Files>,
    /// The newest snapshot whose put was reported as done.
    pub acknowledged: Option<u64>,
    /// Segments of the acknowledged snapshots.
    pub segments: Vec<StoredSegment>,
    /// The newest table head and the newest read head.
    pub heads: Vec<StoredHead>,
}

impl Dataset {
    /// Whether everything acknowledged must be readable although these nodes have failed.
    #[must_use]
    pub fn must_survive(&self, failed: &BTreeSet<NodeId>) -> bool {
        let segments = self.segments.iter().all(|segment| segment.left(failed) >= segment.k);
        segments && self.heads.iter().all(|head| head.safe_points(failed) >= SAFE_POINTS_MIN)
    }
}

/// So many points must keep two copies of a head for its readers to be sure of it: a write's quorum.
pub const SAFE_POINTS_MIN: usize = dolmen_proto::limits::HEAD_WRITE_QUORUM;
