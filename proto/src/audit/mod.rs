//! Proof of storage: what an auditor asks, what a node shows, and what both signed.
//!
//! Decides what is drawn, how it is proven, what counts as proven and what a transcript proves to whom. Never decides what
//! follows for a node: that is its standing's business. The scheme and its limits: `docs/proofs.md`; the bytes: `docs/wire.md`.

mod answer;
mod blocks;
mod draw;
mod exchange;
mod set;
#[cfg(test)]
mod tests;
mod transcript;

pub use answer::{HeldShards, Shown, show};
pub use blocks::{blocks_len, encode_blocks, groups_of, verify_blocks};
pub use draw::{Draw, DrawKind, DrawSeed, Drawn, blocks_of_length};
pub use exchange::{
    Answer, AuditClass, Auditor, Findings, NotHeld, Outcome, judge, nonce_hash, payload_len, times_fit,
};
pub use set::{SetBuilder, SetShard, SetTop, open_set, prune_set};
pub use transcript::{Confidence, DrawTrust, Transcript, TranscriptError, TranscriptReport, byte_samples};

use crate::ids::ShardRoot;

/// The scheme that this release speaks: blocks with hash paths, drawn from a committed set.
pub const SCHEME: u32 = 1;

/// Why a challenge or a proof is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The set of shards, or what is shown of it.
    #[error("the set of a challenge is wrong: {0}")]
    Set(&'static str),
    /// The number of samples.
    #[error("a challenge cannot have {0} samples")]
    Samples(u32),
    /// Blocks that are not in the shard, or an outboard that is not the shard's.
    #[error("blocks of a challenge do not lie in the shard")]
    Blocks,
    /// The proof is too long or too short.
    #[error("the proof has {found} bytes, it should have {expected}")]
    ProofLength {
        /// What follows from lengths and draw.
        expected: usize,
        /// What there was.
        found: usize,
    },
    /// A hash does not match: these are not bytes of that shard.
    #[error("the blocks shown for shard {} are not of that shard", .0.short())]
    Mismatch(ShardRoot),
}
