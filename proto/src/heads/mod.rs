//! Writing and reading a head at its eight points: which nodes are asked, when it is enough, what a fork means.
//!
//! Decides quorums, retries, stand-ins and patience. Never opens a head: an executor checks the bytes that nodes
//! answer with ([`crate::head`]) and reports their order alone, so a forged head is [`Fault::Misbehaved`], not news.
//!
//! **When a read is certain.** At most [`HEAD_NAMED_PER_POINT`] nodes are named for a point. A point is *taken* by a write
//! when most of the nodes named for it keep the head durably, and *heard* by a read when most of them have answered. A
//! write is certain at [`HEAD_WRITE_QUORUM`] taken points, a read at [`HEAD_READ_ENOUGH`] heard ones. So many points out
//! of [`HEAD_POINTS`] have one in common, and at that point the two majorities have a node in common. That node kept the
//! head before it was asked, and a node never goes back to an older one: it answered with this head or a newer. A certain
//! read can therefore miss a certain write only if that node lies or has lost what it had acknowledged, or if reader and
//! writer name different nodes, which the nodes' daily putting-again mends. Any number of nodes may be silent. Each heard
//! point more makes it take one more liar: none is outvoted, for the newest of *all* answers wins.
//!
//! A stand-in that never held a head is one answer among those named, so stand-ins alone are never most of them and
//! deny nothing. In a network of fewer nodes than are named for a point the same few stand at all points; the rule is the
//! same, and one liar is a liar at each of them.
//!
//! A head that lies at a quorum of points with at least one copy each, but not with most, is written too: readers find
//! it unless just those nodes fail. It is not certain, and the outcome says so.

mod calls;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::{HeadReadAction, HeadReadEvent, HeadReadOutcome, HeadReadSession};
pub use write::{HeadWriteAction, HeadWriteEvent, HeadWriteOutcome, HeadWriteSession};

#[cfg(doc)]
use crate::attempt::Fault;
use crate::head::Head;
use crate::ids::{HeadHash, NodeId};
#[cfg(doc)]
use crate::limits::{HEAD_NAMED_PER_POINT, HEAD_NODES_PER_POINT};
use crate::limits::{HEAD_POINTS, HEAD_WRITE_QUORUM};

/// So many points share one with every quorum of a write.
pub const HEAD_READ_ENOUGH: usize = HEAD_POINTS - HEAD_WRITE_QUORUM + 1;

/// The place of a head in the order of its document: greater supersedes, which is a higher sequence, or at the same
/// sequence a smaller hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadVersion {
    /// The head's sequence.
    pub sequence: u64,
    /// The hash of its signed bytes.
    pub hash: HeadHash,
}

impl Ord for HeadVersion {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.sequence.cmp(&other.sequence).then_with(|| other.hash.cmp(&self.hash))
    }
}

impl PartialOrd for HeadVersion {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl From<&Head> for HeadVersion {
    fn from(head: &Head) -> Self {
        Self { sequence: head.sequence(), hash: head.hash() }
    }
}

/// Where a head is to lie or to be looked for: for each of the [`HEAD_POINTS`] points the nodes that are to hold it,
/// nearest first. The first [`HEAD_NODES_PER_POINT`] are asked at once, the others stand in for those that fail or are
/// slow. No more than [`HEAD_NAMED_PER_POINT`] count; further ones are never asked, repeated ones count once.
#[derive(Debug, Clone)]
pub struct HeadPlaces(pub Vec<Vec<NodeId>>);

/// A plan does not have [`HEAD_POINTS`] points: the caller's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a head lies at {HEAD_POINTS} points, not at {0}")]
pub struct HeadPlacesError(pub usize);

/// A node at a point, by the point's number.
pub type HeadPlace = (u8, NodeId);
