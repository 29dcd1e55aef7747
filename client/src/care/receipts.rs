//! The receipts that nodes gave, on disk: evidence against a node that denies what it has signed, and what rows of an overlay
//! stand on when they have to be written again.
//!
//! Decides which receipts are kept and for how long: each while it is the newest that names some shard. So there are never more
//! than shards, and of renewals, which name up to 1,024 shards, far fewer. Never decides what a receipt proves.

use std::collections::{BTreeSet, HashSet};

use bytes::Bytes;
use dolmen_proto::audit::SetShard;
use dolmen_proto::ids::{NodeId, ShardRoot};
use dolmen_proto::limits::TRANSCRIPT_RECEIPTS_MAX;
use dolmen_proto::wire::{KeptReceipt, RenewReceipt, Signed};
use redb::{ReadableDatabase, ReadableTable, Table, TableDefinition};

use super::state::{CareState, KnownShard, SHARDS, Tag, failed, shard_key};
use crate::audit::ReceiptSource;
use crate::error::ClientError;

/// Names a receipt among those of its node: the beginning of its hash; never 0.
pub(super) type ReceiptNumber = u64;
pub(super) const RECEIPT_KEY_BYTES: usize = 56;
/// Bytes of receipts that one transcript takes along: what it proves against one shard, it proves.
const OF_TRANSCRIPT_MAX_BYTES: usize = 16 * 1024 * 1024;

/// (dataset, node, number) to [`KeptReceipt::encode`].
pub(super) const RECEIPTS: TableDefinition<'static, &'static [u8; RECEIPT_KEY_BYTES], &'static [u8]> =
    TableDefinition::new("receipts 1");

pub(super) fn receipt_key(tag: &Tag, node: &NodeId, number: ReceiptNumber) -> [u8; RECEIPT_KEY_BYTES] {
    let mut key = [0; RECEIPT_KEY_BYTES];
    key[..16].copy_from_slice(tag);
    key[16..48].copy_from_slice(node.as_bytes());
    key[48..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Forgets the receipts of a dataset that are not among those named; without the dataset's tag in their keys.
pub(super) fn sweep(
    table: &mut Table<'_, &'static [u8; RECEIPT_KEY_BYTES], &'static [u8]>,
    tag: &Tag,
    named: &HashSet<[u8; RECEIPT_KEY_BYTES - 16]>,
) -> Result<(), ClientError> {
    let first = receipt_key(tag, &NodeId::new([0; 32]), 0);
    let last = receipt_key(tag, &NodeId::new([0xff; 32]), u64::MAX);
    table
        .retain_in::<&[u8; RECEIPT_KEY_BYTES], _>(&first..=&last, |key, _| {
            let key: &[u8; RECEIPT_KEY_BYTES - 16] = key[16..].try_into().expect("a key is longer than a tag");
            named.contains(key)
        })
        .map_err(failed)
}

impl CareState {
    /// Keeps a receipt of a node for those of its shards that are known; checked against its signature by whoever received it.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn keep_receipt(&self, tag: &Tag, node: &NodeId, receipt: &KeptReceipt) -> Result<(), ClientError> {
        let encoded = receipt.encode();
        let number = number_of(&encoded);
        let write = self.database.begin_write().map_err(failed)?;
        let mut named = false;
        {
            let mut table = write.open_table(SHARDS).map_err(failed)?;
            for (root, length_bytes) in shards_of(receipt) {
                let key = shard_key(tag, node, &root);
                let known = table.get(&key).map_err(failed)?.map(|value| KnownShard::parse(&key, value.value()));
                let Some(known) = known.filter(|known| u64::from(known.shard.length_bytes) == length_bytes) else {
                    continue;
                };
                table.insert(&key, &KnownShard { receipt: number, ..known }.to_bytes()).map_err(failed)?;
                named = true;
            }
            if named {
                let mut receipts = write.open_table(RECEIPTS).map_err(failed)?;
                receipts.insert(&receipt_key(tag, node, number), encoded.as_slice()).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    /// Keeps receipts of renewals.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn keep_renewals(
        &self,
        tag: &Tag,
        node: &NodeId,
        receipts: Vec<Signed<RenewReceipt>>,
    ) -> Result<(), ClientError> {
        receipts.iter().try_for_each(|receipt| self.keep_receipt(tag, node, &KeptReceipt::of_renewal(receipt)))
    }

    /// A receipt of a node by its number; `None` where it is not kept or damaged.
    ///
    /// # Errors
    /// `Local`.
    pub(super) fn receipt(
        &self,
        tag: &Tag,
        node: &NodeId,
        number: ReceiptNumber,
    ) -> Result<Option<KeptReceipt>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(RECEIPTS).map_err(failed)?;
        let found = table.get(&receipt_key(tag, node, number)).map_err(failed)?;
        Ok(found.and_then(|bytes| KeptReceipt::decode(&Bytes::copy_from_slice(bytes.value())).ok()))
    }
}

/// The receipts of a dataset, as an audit wants them.
pub(super) struct DiskReceipts {
    pub(super) state: CareState,
    pub(super) tag: Tag,
}

impl ReceiptSource for DiskReceipts {
    fn receipts(&self, node: &NodeId, shards: &[SetShard]) -> Result<Vec<KeptReceipt>, ClientError> {
        let read = self.state.database.begin_read().map_err(failed)?;
        let (known, kept) = (read.open_table(SHARDS).map_err(failed)?, read.open_table(RECEIPTS).map_err(failed)?);
        let mut numbers = BTreeSet::new();
        for shard in shards {
            let key = shard_key(&self.tag, node, &shard.root);
            let row = known.get(&key).map_err(failed)?.map(|value| KnownShard::parse(&key, value.value()));
            numbers.extend(row.map(|row| row.receipt).filter(|number| *number != 0));
        }
        let (mut receipts, mut bytes) = (Vec::new(), 0);
        for number in numbers.into_iter().take(TRANSCRIPT_RECEIPTS_MAX) {
            let Some(found) = kept.get(&receipt_key(&self.tag, node, number)).map_err(failed)? else { continue };
            bytes += found.value().len();
            if bytes > OF_TRANSCRIPT_MAX_BYTES {
                break;
            }
            receipts.extend(KeptReceipt::decode(&Bytes::copy_from_slice(found.value())).ok());
        }
        Ok(receipts)
    }
}

fn number_of(encoded: &[u8]) -> ReceiptNumber {
    let hash = blake3::hash(encoded);
    let (number, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    u64::from_be_bytes(*number).max(1)
}

fn shards_of(receipt: &KeptReceipt) -> Vec<(ShardRoot, u64)> {
    receipt.claim().map(|claim| claim.shards).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use dolmen_proto::ids::{AccountId, SegmentId, ShardIndex, Timestamp};
    use ed25519_dalek::SigningKey;

    use super::*;

    #[test]
    fn a_receipt_is_kept_while_it_is_the_newest_of_some_shard_and_no_longer() {
        let state = CareState::in_memory().unwrap();
        let key = SigningKey::from_bytes(&[3; 32]);
        let (tag, node) = ([1; 16], NodeId::new(key.verifying_key().to_bytes()));
        let shard = |root: u8| SetShard { root: ShardRoot::new([root; 32]), length_bytes: 1000 };
        let known = |root: u8, generation| KnownShard {
            shard: shard(root),
            index: ShardIndex::new(root),
            documents: false,
            segment: SegmentId::new([root; 32]),
            generation,
            until_ms: 5,
            receipt: 0,
        };
        let renewal = |until_ms, roots: &[u8], length_bytes| {
            let receipt = RenewReceipt {
                node,
                account: AccountId::new([1; 32]),
                until: Timestamp::from_unix_ms(until_ms),
                issued_at: Timestamp::from_unix_ms(1),
                shards: roots.iter().map(|root| (ShardRoot::new([*root; 32]), length_bytes)).collect(),
            };
            Signed::sign(receipt, &key)
        };
        let learn = |generation| {
            let shards: Vec<_> = (1..=4).map(|root| (node, known(root, generation))).collect();
            state.learn(&tag, &shards).unwrap();
        };
        let of = |roots: &[u8]| {
            let shards: Vec<_> = roots.iter().map(|root| shard(*root)).collect();
            DiskReceipts { state: state.clone(), tag }.receipts(&node, &shards).unwrap()
        };
        learn(1);
        let (all, some) = (renewal(10, &[1, 2, 3], 1000), renewal(20, &[2, 3], 1000));
        state.keep_renewals(&tag, &node, vec![all.clone()]).unwrap();
        assert_eq!(of(&[1, 2, 3, 4]), [KeptReceipt::of_renewal(&all)], "one, once");
        assert!(of(&[4]).is_empty());
        state.keep_renewals(&tag, &node, vec![some.clone(), renewal(30, &[1], 999)]).unwrap();
        assert_eq!(of(&[3]), [KeptReceipt::of_renewal(&some)]);
        assert_eq!(of(&[1]), [KeptReceipt::of_renewal(&all)], "one of another length says nothing of this shard");
        state.keep_renewals(&tag, &node, vec![renewal(40, &[1], 1000)]).unwrap();
        learn(2);
        state.forget_older(&tag, 2, &HashSet::new()).unwrap();
        let read = state.database.begin_read().unwrap();
        assert_eq!(
            read.open_table(RECEIPTS).unwrap().iter().unwrap().count(),
            2,
            "the first names no shard as its newest"
        );
        drop(read);
        assert_eq!(of(&[2]), [KeptReceipt::of_renewal(&some)], "a look at the table keeps receipts");
    }
}
