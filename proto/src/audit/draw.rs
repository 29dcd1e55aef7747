//! What a challenge asks for: which blocks of which shards of a set, from a seed that neither side chose alone.
//!
//! Decides the draw. Never draws a random number itself: the nonce is passed in. Source: `docs/wire.md`, Prove.

use core::ops::Range;

use super::AuditError;
use super::set::{SetShard, SetTop};
use crate::ids::NodeId;
use crate::keys::context;
use crate::limits::{AUDIT_BLOCK_BYTES, AUDIT_SAMPLES_MAX};

/// Bytes of the seed's stream that one sample takes.
const SAMPLE_BYTES: usize = 24;

/// How samples are spread over a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrawKind {
    /// Three quarters by bytes, one quarter uniform over shards.
    Mixed,
    /// One block of every shard.
    Each,
}

impl DrawKind {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Mixed => 1,
            Self::Each => 2,
        }
    }

    /// The kind with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Mixed),
            2 => Some(Self::Each),
            _ => None,
        }
    }
}

/// What the seed of a draw is bound to, beside the set.
#[derive(Debug, Clone, Copy)]
pub struct DrawSeed<'a> {
    /// Whose shards are drawn from.
    pub node: &'a NodeId,
    /// Who asks: an Ed25519 public key.
    pub auditor: &'a [u8; 32],
    /// Committed to before the node granted the slot.
    pub nonce: &'a [u8; 32],
    /// What a beacon said after that, or nothing.
    pub beacon_value: &'a [u8],
}

/// A shard with those of its blocks that were drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// The shard.
    pub shard: SetShard,
    /// Numbers of its blocks, ascending, none twice; at least one.
    pub blocks: Vec<u32>,
}

/// The places of all samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draw {
    /// Places in the concatenation of all shards, ascending.
    bytes: Vec<u64>,
    /// Numbers of shards, ascending, each with what says which block.
    shards: Vec<(u64, u64)>,
}

/// [`AUDIT_BLOCK_BYTES`] as lengths of shards are counted.
const BLOCK_BYTES: u32 = 1024;
const _: () = assert!(BLOCK_BYTES as usize == AUDIT_BLOCK_BYTES);

/// How many blocks a shard of this length has.
#[must_use]
pub const fn blocks_of_length(length_bytes: u32) -> u32 {
    length_bytes.div_ceil(BLOCK_BYTES)
}

impl Draw {
    /// The draw of `samples` samples over a set.
    ///
    /// # Errors
    /// [`AuditError::Samples`] for none or too many, or when [`DrawKind::Each`] has not as many as there are shards.
    pub fn new(kind: DrawKind, samples: u32, top: &SetTop, seed: &DrawSeed<'_>) -> Result<Self, AuditError> {
        let each = kind == DrawKind::Each;
        let count = usize::try_from(samples).ok().filter(|count| (1..=AUDIT_SAMPLES_MAX).contains(count));
        let count = count.ok_or(AuditError::Samples(samples))?;
        if top.count == 0 || top.bytes == 0 || (each && top.count != u64::from(samples)) {
            return Err(AuditError::Samples(samples));
        }
        let mut hasher = blake3::Hasher::new_derive_key(context::AUDIT_DRAW);
        hasher.update(&top.hash).update(&top.bytes.to_le_bytes()).update(&top.count.to_le_bytes());
        hasher.update(seed.node.as_bytes()).update(seed.auditor).update(seed.nonce).update(seed.beacon_value);
        let mut stream = hasher.finalize_xof();
        let mut draw = Self { bytes: Vec::new(), shards: Vec::new() };
        for number in 0..count as u64 {
            let mut sample = [0; SAMPLE_BYTES];
            stream.fill(&mut sample);
            let (place, block) = sample.split_at(16);
            // Of 128 bits the remainder by a number of at most 64 is even to one part in 2^64.
            let place = u128::from_le_bytes(place.try_into().expect("16 bytes"));
            let block = u64::from_le_bytes(block.try_into().expect("8 bytes"));
            let within = |most: u64| u64::try_from(place % u128::from(most)).expect("below a u64");
            if each {
                draw.shards.push((number, block));
            } else if number % 4 == 3 {
                draw.shards.push((within(top.count), block));
            } else {
                draw.bytes.push(within(top.bytes));
            }
        }
        draw.bytes.sort_unstable();
        draw.shards.sort_unstable();
        Ok(draw)
    }

    /// The drawn blocks of shard `index` of the set, which begins at byte `offset` of all shards and has `length` bytes.
    #[must_use]
    pub fn blocks_of(&self, index: u64, offset: u64, length: u32) -> Vec<u32> {
        let end = offset.saturating_add(length.into());
        let from = self.bytes.partition_point(|byte| *byte < offset);
        let by_bytes = self.bytes.iter().skip(from).take_while(|byte| **byte < end);
        let block_bytes = AUDIT_BLOCK_BYTES as u64;
        let mut blocks: Vec<u32> = by_bytes.map(|byte| narrow((byte - offset) / block_bytes)).collect();
        let from = self.shards.partition_point(|(shard, _)| *shard < index);
        let by_shard = self.shards.iter().skip(from).take_while(|(shard, _)| *shard == index);
        blocks.extend(by_shard.map(|(_, block)| narrow(block % u64::from(blocks_of_length(length).max(1)))));
        blocks.sort_unstable();
        blocks.dedup();
        blocks
    }

    /// Whether anything is drawn of these shards, which lie at these bytes.
    #[must_use]
    pub fn touches(&self, shards: Range<u64>, bytes: Range<u64>) -> bool {
        let byte = self.bytes.partition_point(|byte| *byte < bytes.start);
        let shard = self.shards.partition_point(|(shard, _)| *shard < shards.start);
        self.bytes.get(byte).is_some_and(|byte| *byte < bytes.end)
            || self.shards.get(shard).is_some_and(|(shard, _)| *shard < shards.end)
    }
}

fn narrow(block: u64) -> u32 {
    u32::try_from(block).expect("a shard has few blocks")
}
