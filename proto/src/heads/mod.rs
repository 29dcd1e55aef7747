//! Writing and reading a head at its eight points: which nodes are asked, when it is enough, what a fork means.
//!
//! Decides quorums, retries, stand-ins and patience. Never opens a head: an executor checks the bytes that nodes
//! answer with ([`crate::head`]) and reports their order alone, so a forged head is [`Fault::Misbehaved`], not news.
//!
//! A write wants [`HEAD_WRITE_QUORUM`] of [`HEAD_POINTS`] points, so any [`HEAD_READ_ENOUGH`] points have one in common
//! with it. A point counts as written with one durable copy, though all its nodes are written to; it counts as denying
//! a head when most of its nodes have answered and none has it.

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
/// nearest first. The first [`crate::limits::HEAD_NODES_PER_POINT`] are asked at once, the others stand in for those
/// that fail.
#[derive(Debug, Clone)]
pub struct HeadPlaces(pub Vec<Vec<NodeId>>);

/// A plan does not have [`HEAD_POINTS`] points: the caller's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a head lies at {HEAD_POINTS} points, not at {0}")]
pub struct HeadPlacesError(pub usize);

/// A node at a point, by the point's number.
pub type HeadPlace = (u8, NodeId);
