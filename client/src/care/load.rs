//! A steward's database filled as a large dataset would fill it: for benches, which measure memory and time.
//!
//! Decides nothing: it only calls what rounds call, with shards that nobody holds.

use std::collections::HashSet;
use std::path::Path;

use dolmen_proto::audit::{Draw, DrawKind, DrawSeed, SetShard};
use dolmen_proto::ids::{AccountId, NodeId, SegmentId, ShardIndex, ShardRoot, Timestamp};
use dolmen_proto::limits::ROOTS_PER_CALL_MAX;
use dolmen_proto::wire::{RenewReceipt, Signed};
use ed25519_dalek::SigningKey;

use super::dataset::LEARNED_AT_ONCE;
use super::set::DiskSet;
use super::state::{CareState, KnownShard, Tag};
use crate::audit::{prune, top_of};
use crate::error::ClientError;

const TAG: Tag = [7; 16];
const LENGTH_BYTES: u32 = 2 * 1024 * 1024;
const UNTIL: Timestamp = Timestamp::from_unix_ms(2_000_000_000_000);

/// A steward's database under load.
#[derive(Debug)]
pub struct CareLoad {
    state: CareState,
}

fn key(node: u64) -> SigningKey {
    SigningKey::from_bytes(blake3::hash(&node.to_le_bytes()).as_bytes())
}

fn node_id(node: u64) -> NodeId {
    NodeId::new(key(node).verifying_key().to_bytes())
}

/// Shard `number` of a dataset in segments of one shard a node, at node `number` mod `nodes`.
fn known(number: u64, nodes: u64, generation: u32) -> KnownShard {
    let segment = number / nodes;
    let index = u8::try_from(number % nodes).unwrap_or(u8::MAX);
    let root = *blake3::hash(&number.to_le_bytes()).as_bytes();
    KnownShard {
        shard: SetShard { root: ShardRoot::new(root), length_bytes: LENGTH_BYTES },
        index: ShardIndex::new(index),
        documents: segment.is_multiple_of(100),
        segment: SegmentId::new(*blake3::hash(&segment.to_be_bytes()).as_bytes()),
        generation,
        until_ms: UNTIL.as_unix_ms(),
        receipt: 0,
    }
}

impl CareLoad {
    /// Opens the database in a folder.
    ///
    /// # Errors
    /// `Local`.
    pub fn open(folder: &Path) -> Result<Self, ClientError> {
        Ok(Self { state: CareState::open(folder)? })
    }

    /// What a look at the table of a dataset of so many shards at so many nodes (at most 256) writes down; gives how many
    /// rows that are.
    ///
    /// # Errors
    /// `Local`.
    pub fn survey(&self, shards: u64, nodes: u64, generation: u32) -> Result<u64, ClientError> {
        let ids: Vec<NodeId> = (0..nodes).map(node_id).collect();
        let mut learned = Vec::new();
        for number in 0..shards {
            let node = ids[usize::try_from(number % nodes).unwrap_or(0)];
            learned.push((node, known(number, nodes, generation)));
            if learned.len() >= LEARNED_AT_ONCE {
                self.state.learn(&TAG, &std::mem::take(&mut learned))?;
            }
        }
        self.state.learn(&TAG, &learned)?;
        self.state.forget_older(&TAG, generation, &HashSet::new())?;
        Ok(shards)
    }

    /// Keeps receipts of renewals for all of them; gives how many.
    ///
    /// # Errors
    /// `Local`.
    pub fn receipts(&self, shards: u64, nodes: u64) -> Result<u64, ClientError> {
        let mut kept = 0;
        for node in 0..nodes {
            let (id, key) = (node_id(node), key(node));
            let (mut roots, issued_at) = (Vec::with_capacity(ROOTS_PER_CALL_MAX), Timestamp::from_unix_ms(1));
            let (mut left, mut held) = (shards / nodes, self.state.shards_of(&TAG, &id)?);
            while left > 0 {
                roots.clear();
                for shard in held.by_ref().take(ROOTS_PER_CALL_MAX) {
                    roots.push((shard?.shard.root, u64::from(LENGTH_BYTES)));
                }
                if roots.is_empty() {
                    break;
                }
                left = left.saturating_sub(roots.len() as u64);
                let account = AccountId::new([1; 32]);
                let receipt = RenewReceipt { node: id, account, until: UNTIL, issued_at, shards: roots.clone() };
                self.state.keep_renewals(&TAG, &id, vec![Signed::sign(receipt, &key)])?;
                kept += 1;
            }
        }
        Ok(kept)
    }

    /// What one challenge of 64 samples to a node takes on the steward's side: the set's top, and what is shown of it; gives
    /// the bytes of that.
    ///
    /// # Errors
    /// `Local`.
    pub fn challenge(&self, node: u64) -> Result<u64, ClientError> {
        let node = node_id(node);
        let set = DiskSet { state: self.state.clone(), tag: TAG, node };
        let Some(top) = top_of(&set)? else { return Ok(0) };
        let seed = DrawSeed { node: &node, auditor: &[1; 32], nonce: &[2; 32], beacon_value: &[] };
        let draw = Draw::new(DrawKind::Mixed, 64, &top, &seed)?;
        Ok(prune(&set, &top, &draw)?.0.len() as u64)
    }
}
