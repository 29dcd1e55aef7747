//! Which node holds which shard, by the table, and what is known of each: its lease, its receipt, that it is lost.
//!
//! Decides that hearsay of a loss is kept apart from what a node has signed.

use std::collections::HashSet;

use dolmen_proto::audit::SetShard;
use dolmen_proto::ids::{NodeId, SegmentId, ShardIndex, ShardRoot, Timestamp};
use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use super::{CareState, Tag, failed, number};
use crate::care::receipts::{RECEIPT_KEY_BYTES, RECEIPTS, ReceiptNumber, receipt_key, sweep};
use crate::error::ClientError;

/// Lost shards that are looked at at a time; others wait until these are repaired.
const LOST_MAX: usize = 500_000;
pub(in crate::care) const SHARD_KEY_BYTES: usize = 80;

pub(in crate::care) const SHARD_BYTES: usize = 58;

/// (dataset, node, root) to length, index, kind, segment, generation, end of the lease and receipt.
pub(in crate::care) const SHARDS: TableDefinition<'static, &'static [u8; SHARD_KEY_BYTES], &'static [u8; SHARD_BYTES]> =
    TableDefinition::new("shards 2");
/// (dataset, node, root) to when the node was found not to hold what it should, with [`SIGNED`] where it has signed that.
pub(super) const LOST: TableDefinition<'static, &'static [u8; SHARD_KEY_BYTES], u64> = TableDefinition::new("lost 1");
/// In a value of [`LOST`]: the node's own signature says so, not only a look.
const SIGNED: u64 = 1 << 63;

/// A shard as a steward knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::care) struct KnownShard {
    pub(in crate::care) shard: SetShard,
    pub(in crate::care) index: ShardIndex,
    pub(in crate::care) documents: bool,
    pub(in crate::care) segment: SegmentId,
    /// The look at the table in which it was seen last.
    pub(in crate::care) generation: u32,
    /// The end of its lease as its node says; 0: not known.
    pub(in crate::care) until_ms: u64,
    /// Which of the node's receipts names it; 0: none is kept.
    pub(in crate::care) receipt: ReceiptNumber,
}

pub(in crate::care) fn shard_key(tag: &Tag, node: &NodeId, root: &ShardRoot) -> [u8; SHARD_KEY_BYTES] {
    let mut key = [0; SHARD_KEY_BYTES];
    key[..16].copy_from_slice(tag);
    key[16..48].copy_from_slice(node.as_bytes());
    key[48..].copy_from_slice(root.as_bytes());
    key
}

impl KnownShard {
    pub(in crate::care) fn to_bytes(self) -> [u8; SHARD_BYTES] {
        let mut bytes = [0; SHARD_BYTES];
        bytes[..4].copy_from_slice(&self.shard.length_bytes.to_le_bytes());
        bytes[4] = self.index.to_byte();
        bytes[5] = u8::from(self.documents);
        bytes[6..38].copy_from_slice(self.segment.as_bytes());
        bytes[38..42].copy_from_slice(&self.generation.to_le_bytes());
        bytes[42..50].copy_from_slice(&self.until_ms.to_le_bytes());
        bytes[50..].copy_from_slice(&self.receipt.to_le_bytes());
        bytes
    }

    pub(in crate::care) fn parse(key: &[u8; SHARD_KEY_BYTES], bytes: &[u8; SHARD_BYTES]) -> Self {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut segment = [0; 32];
        segment.copy_from_slice(&bytes[6..38]);
        let mut root = [0; 32];
        root.copy_from_slice(&key[48..]);
        Self {
            shard: SetShard { root: ShardRoot::new(root), length_bytes: word(0) },
            index: ShardIndex::new(bytes[4]),
            documents: bytes[5] != 0,
            segment: SegmentId::new(segment),
            generation: word(38),
            until_ms: number(&bytes[42..50]),
            receipt: number(&bytes[50..]),
        }
    }
}

impl CareState {
    /// Writes down shards of nodes; what is known of the end of a lease and of a receipt stays.
    ///
    /// # Errors
    /// `Local`.
    pub(in crate::care) fn learn(&self, tag: &Tag, shards: &[(NodeId, KnownShard)]) -> Result<(), ClientError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(SHARDS).map_err(failed)?;
            for (node, shard) in shards {
                let key = shard_key(tag, node, &shard.shard.root);
                let before = table.get(&key).map_err(failed)?.map(|value| KnownShard::parse(&key, value.value()));
                let until_ms = shard.until_ms.max(before.map_or(0, |before| before.until_ms));
                let receipt = before.map_or(0, |before| before.receipt);
                table.insert(&key, &KnownShard { until_ms, receipt, ..*shard }.to_bytes()).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    /// Forgets shards that were not seen in this look at the table, and receipts that name none any more; gives how many shards.
    /// Those of `kept` stay, whatever their look.
    ///
    /// # Errors
    /// `Local`.
    pub(in crate::care) fn forget_older(
        &self,
        tag: &Tag,
        generation: u32,
        kept: &HashSet<(NodeId, ShardRoot)>,
    ) -> Result<u64, ClientError> {
        let write = self.database.begin_write().map_err(failed)?;
        let mut forgotten = 0;
        let mut named: HashSet<[u8; RECEIPT_KEY_BYTES - 16]> = HashSet::new();
        {
            let mut table = write.open_table(SHARDS).map_err(failed)?;
            let mut lost = write.open_table(LOST).map_err(failed)?;
            let (first, last) = bounds(tag);
            let stale = table
                .extract_from_if::<&[u8; SHARD_KEY_BYTES], _>(&first..=&last, |key, value| {
                    let known = KnownShard::parse(key, value);
                    let node = node_of(key);
                    let stays = known.generation == generation
                        || (!kept.is_empty() && kept.contains(&(node, known.shard.root)));
                    if stays && known.receipt != 0 {
                        let key = receipt_key(tag, &node, known.receipt);
                        named.insert(key[16..].try_into().expect("a key is longer than a tag"));
                    }
                    !stays
                })
                .map_err(failed)?;
            for entry in stale {
                let (key, _) = entry.map_err(failed)?;
                lost.remove(key.value()).map_err(failed)?;
                forgotten += 1;
            }
            sweep(&mut write.open_table(RECEIPTS).map_err(failed)?, tag, &named)?;
        }
        write.commit().map_err(failed)?;
        Ok(forgotten)
    }

    /// Shards that were not seen in this look at the table although a receipt of a node's is kept: at most `most`.
    ///
    /// # Errors
    /// `Local`.
    pub(in crate::care) fn unseen(
        &self,
        tag: &Tag,
        generation: u32,
        most: usize,
    ) -> Result<Vec<(NodeId, KnownShard)>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(SHARDS).map_err(failed)?;
        let (first, last) = bounds(tag);
        let mut unseen = Vec::new();
        for entry in table.range::<&[u8; SHARD_KEY_BYTES]>(&first..=&last).map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            let known = KnownShard::parse(key.value(), value.value());
            if known.generation != generation && known.receipt != 0 {
                unseen.push((node_of(key.value()), known));
                if unseen.len() == most {
                    break;
                }
            }
        }
        Ok(unseen)
    }

    /// As [`CareState::shards_of`], without those that the node has signed not to hold: they were counted, and are lost.
    ///
    /// # Errors
    /// As [`CareState::shards_of`].
    pub(in crate::care) fn held_of(
        &self,
        tag: &Tag,
        node: &NodeId,
    ) -> Result<impl Iterator<Item = Result<KnownShard, ClientError>> + use<>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(LOST).map_err(failed)?;
        let first = shard_key(tag, node, &ShardRoot::new([0; 32]));
        let last = shard_key(tag, node, &ShardRoot::new([0xff; 32]));
        let mut lost = table.range::<&[u8; SHARD_KEY_BYTES]>(&first..=&last).map_err(failed)?;
        let mut next_lost = move || -> Result<Option<ShardRoot>, ClientError> {
            for entry in lost.by_ref() {
                let (key, value) = entry.map_err(failed)?;
                if value.value() & SIGNED != 0 {
                    return Ok(Some(root_of_key(key.value())));
                }
            }
            Ok(None)
        };
        // Both ascend by root, so one pass over both is enough.
        let mut gone = next_lost()?;
        Ok(self.shards_of(tag, node)?.filter_map(move |known| {
            let root = match &known {
                Ok(known) => known.shard.root,
                Err(_) => return Some(known),
            };
            while gone.is_some_and(|gone| gone < root) {
                match next_lost() {
                    Ok(next) => gone = next,
                    Err(error) => return Some(Err(error)),
                }
            }
            (gone != Some(root)).then_some(known)
        }))
    }

    /// Visits the shards of one node, ascending by root.
    ///
    /// # Errors
    /// `Local`, and what `visit` says.
    pub(in crate::care) fn shards_of(
        &self,
        tag: &Tag,
        node: &NodeId,
    ) -> Result<impl Iterator<Item = Result<KnownShard, ClientError>> + use<>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(SHARDS).map_err(failed)?;
        let first = shard_key(tag, node, &ShardRoot::new([0; 32]));
        let last = shard_key(tag, node, &ShardRoot::new([0xff; 32]));
        let range = table.range::<&[u8; SHARD_KEY_BYTES]>(&first..=&last).map_err(failed)?;
        Ok(range.map(|entry| {
            let (key, value) = entry.map_err(failed)?;
            Ok(KnownShard::parse(key.value(), value.value()))
        }))
    }

    /// The nodes that should hold something of a dataset, ascending.
    ///
    /// # Errors
    /// `Local`.
    pub(in crate::care) fn nodes_of(&self, tag: &Tag) -> Result<Vec<NodeId>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(SHARDS).map_err(failed)?;
        let (mut first, last) = bounds(tag);
        let mut nodes = Vec::new();
        loop {
            let next = table.range::<&[u8; SHARD_KEY_BYTES]>(&first..=&last).map_err(failed)?.next();
            let Some(entry) = next else { return Ok(nodes) };
            let (key, _) = entry.map_err(failed)?;
            let mut node = [0; 32];
            node.copy_from_slice(&key.value()[16..48]);
            nodes.push(NodeId::new(node));
            // On to the next node: behind the last root that this one can have.
            first = shard_key(tag, &NodeId::new(node), &ShardRoot::new([0xff; 32]));
        }
    }

    /// Writes down until when leases are, as nodes say.
    ///
    /// # Errors
    /// `Local`.
    pub(in crate::care) fn leased(
        &self,
        tag: &Tag,
        node: &NodeId,
        until: &[(ShardRoot, Timestamp)],
    ) -> Result<(), ClientError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(SHARDS).map_err(failed)?;
            for (root, until) in until {
                let key = shard_key(tag, node, root);
                let known = table.get(&key).map_err(failed)?.map(|value| KnownShard::parse(&key, value.value()));
                if let Some(known) = known
                    && known.until_ms != until.as_unix_ms()
                {
                    let known = KnownShard { until_ms: until.as_unix_ms(), ..known };
                    table.insert(&key, &known.to_bytes()).map_err(failed)?;
                }
            }
        }
        write.commit().map_err(failed)
    }

    /// Notes that a node does not hold these shards by what it has signed: they are not asked for again.
    ///
    /// # Errors
    /// `Local`.
    pub(in crate::care) fn set_lost_signed(
        &self,
        tag: &Tag,
        node: &NodeId,
        lost: &[ShardRoot],
        now: Timestamp,
    ) -> Result<(), ClientError> {
        if lost.is_empty() {
            return Ok(());
        }
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(LOST).map_err(failed)?;
            for root in lost {
                table.insert(&shard_key(tag, node, root), now.as_unix_ms() | SIGNED).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    /// Notes that a node does not hold these shards, or that it does after all, by what a look or a read shows. That proves
    /// nothing to others, so they stay in what it is asked to prove.
    ///
    /// # Errors
    /// `Local`.
    pub(in crate::care) fn set_lost(
        &self,
        tag: &Tag,
        node: &NodeId,
        lost: &[ShardRoot],
        held: &[ShardRoot],
        now: Timestamp,
    ) -> Result<(), ClientError> {
        if lost.is_empty() && held.is_empty() {
            return Ok(());
        }
        let write = self.database.begin_write().map_err(failed)?;
        {
            let mut table = write.open_table(LOST).map_err(failed)?;
            for root in lost {
                let key = shard_key(tag, node, root);
                if table.get(&key).map_err(failed)?.is_none() {
                    table.insert(&key, now.as_unix_ms()).map_err(failed)?;
                }
            }
            for root in held {
                table.remove(&shard_key(tag, node, root)).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    /// All shards of a dataset that nodes were found not to hold.
    ///
    /// # Errors
    /// `Local`.
    pub(in crate::care) fn all_lost(&self, tag: &Tag) -> Result<HashSet<(NodeId, ShardRoot)>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(LOST).map_err(failed)?;
        let (first, last) = bounds(tag);
        let range = table.range::<&[u8; SHARD_KEY_BYTES]>(&first..=&last).map_err(failed)?;
        range.take(LOST_MAX).map(|entry| Ok(place_of(entry.map_err(failed)?.0.value()))).collect()
    }
}

/// The node and the shard that a key names.
pub(super) fn place_of(key: &[u8; SHARD_KEY_BYTES]) -> (NodeId, ShardRoot) {
    let (mut node, mut root) = ([0; 32], [0; 32]);
    node.copy_from_slice(&key[16..48]);
    root.copy_from_slice(&key[48..]);
    (NodeId::new(node), ShardRoot::new(root))
}

fn node_of(key: &[u8; SHARD_KEY_BYTES]) -> NodeId {
    let mut node = [0; 32];
    node.copy_from_slice(&key[16..48]);
    NodeId::new(node)
}

fn root_of_key(key: &[u8; SHARD_KEY_BYTES]) -> ShardRoot {
    let mut root = [0; 32];
    root.copy_from_slice(&key[48..]);
    ShardRoot::new(root)
}

pub(super) fn bounds(tag: &Tag) -> ([u8; SHARD_KEY_BYTES], [u8; SHARD_KEY_BYTES]) {
    let (lowest, highest) = (NodeId::new([0; 32]), NodeId::new([0xff; 32]));
    (shard_key(tag, &lowest, &ShardRoot::new([0; 32])), shard_key(tag, &highest, &ShardRoot::new([0xff; 32])))
}
