//! What a node shows for a reveal.
//!
//! Decides which blocks are read and with what a shard that cannot be shown is answered. Never touches a disk: the store is
//! handed in. A node checks what it read before it signs: blocks that are not of the shard are damage that it owns up to,
//! and signing them would be evidence against it.

use super::blocks::{encode_blocks, verify_blocks};
use super::draw::{Draw, Drawn};
use super::set::{SetShard, SetTop, open_set};
use super::{AuditError, exchange};
use crate::ids::Timestamp;
use crate::wire::{ErrorCode, Proof, RevealStep, WireError};

/// Where a node reads what it holds.
pub trait HeldShards {
    /// The shard's outboard.
    ///
    /// # Errors
    /// [`ErrorCode::NotHeld`], [`ErrorCode::Damaged`], [`ErrorCode::DiskFailed`].
    fn outboard(&mut self, shard: &SetShard) -> Result<Vec<u8>, ErrorCode>;

    /// Fills a buffer with the shard's bytes from an offset.
    ///
    /// # Errors
    /// As [`HeldShards::outboard`].
    fn read(&mut self, shard: &SetShard, offset: u32, buffer: &mut [u8]) -> Result<(), ErrorCode>;
}

/// What a node has to sign, and the blocks that go with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// For each drawn shard in the order of the set.
    pub codes: Vec<Result<(), ErrorCode>>,
    /// The blocks.
    pub payload: Vec<u8>,
}

impl Shown {
    /// The statement to sign.
    #[must_use]
    pub fn statement(&self, step: &RevealStep, answered_at: Timestamp) -> Proof {
        Proof {
            node: step.reveal.claimed().node,
            reveal_hash: step.reveal.body_hash(),
            answered_at,
            payload_hash: *blake3::hash(&self.payload).as_bytes(),
            payload_bytes: self.payload.len() as u64,
            codes: self.codes.clone(),
        }
    }
}

/// Reads what a reveal draws, which [`RevealStep::verify`] gave: of every drawn shard its outboard once and each hash group
/// with a drawn block once.
///
/// # Errors
/// [`WireError`]: the set is not the challenge's.
pub fn show(top: &SetTop, draw: &Draw, set: &[u8], store: &mut dyn HeldShards) -> Result<Shown, WireError> {
    let drawn = open_set(top, draw, set).map_err(|error| WireError::malformed(error.to_string()))?;
    let most = exchange::payload_len(&drawn, &vec![Ok(()); drawn.len()]);
    let mut payload = Vec::with_capacity(most.map_err(|error| WireError::malformed(error.to_string()))?);
    let codes = drawn.iter().map(|drawn| {
        let start = payload.len();
        let shown = show_one(drawn, store, &mut payload);
        if shown.is_err() {
            payload.truncate(start);
        }
        shown
    });
    let codes = codes.collect();
    Ok(Shown { codes, payload })
}

/// Why one shard is not shown.
struct Unshown(ErrorCode);

impl From<AuditError> for Unshown {
    fn from(_: AuditError) -> Self {
        Self(ErrorCode::Damaged)
    }
}

fn show_one(drawn: &Drawn, store: &mut dyn HeldShards, payload: &mut Vec<u8>) -> Result<(), ErrorCode> {
    let (shard, start) = (&drawn.shard, payload.len());
    let outboard = store.outboard(shard)?;
    let read = |offset: u32, buffer: &mut [u8]| store.read(shard, offset, buffer).map_err(Unshown);
    encode_blocks(shard.length_bytes, &drawn.blocks, &outboard, read, payload).map_err(|Unshown(code)| code)?;
    verify_blocks(&shard.root, shard.length_bytes, &drawn.blocks, &payload[start..]).map_err(|_| ErrorCode::Damaged)
}
